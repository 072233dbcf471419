"""A cell that learns while it runs: real-time recurrent learning, without a tape.

The influence P = ∂s/∂θ of each parameter on each state is carried from step to step, P[t] =
∂s[t]/∂s[t-1] P[t-1] + ∂s[t]/∂θ, and what a step's own loss says of the state that came into it, λ
= ∂L[t]/∂s[t-1], adds λ P[t-1] to the gradient, beside what one step of backpropagation gives
(Williams & Zipser, "A learning algorithm for continually running fully recurrent neural networks",
1989). It is exact, its memory does not grow with time, and where the state Jacobian is diagonal it
costs no more than backpropagation (Zucchet et al., "Online learning of long-range dependencies",
2023); otherwise an influence has as many numbers as states times parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import sympy
from sympy import Eq, Expr, Tuple

from ..errors import CellError, require_cell
from ..language.cell import Cell
from ..language.functions import equal, stop_gradient
from ..language.matrices import Matrix
from ..language.shapes import SCALAR, Shape
from ..language.symbols import (
    ADJOINT,
    OF_PARAMETERS,
    Contract,
    Expand,
    Outer,
    Reduction,
    Total,
    Transpose,
    Vector,
    cumsum,
)
from .forward import along
from .influence import Influence, expand, together
from .linear import Chain, Linearised, Symbol, Weighing, summed
from .names import namer_for
from .normalform import names_its_side
from .plain import of_cell, plain
from .reverse import adjoint, carry, cotangent, gathered, reverse
from .turned import Turned


def online(cell: Cell) -> Cell:
    """The cell that learns online beside ``cell``.

    A step of it takes x, and y_bar = ∂L/∂y of this step's output, a mask. Its states are those of
    ``cell``, the influences, such as ``h_by_W_i``, and for each learned parameter the gradient so
    far, ``W_i_grad``, of the parameter's shape and for each row of the batch. Over a sequence that
    starts from zeros it comes to the gradient of backpropagation through time, of a loss that is a
    sum over steps.

    To learn while a sequence comes in: y by a step of ``cell`` itself, y_bar from it, and then a
    step of this cell, which computes the new states once more.

    Raises
    ------
    CellError
        If influences of one of its equations cannot be written in the language: products of heads
        with matrices of their own, and matrices that are made of others entry by entry.
    """
    require_cell(cell)
    return _Online(cell).run()


_NOTES = (
    "Real-time recurrent learning: *_bar is the derivative of a step's loss by its output, *_by_* "
    "the influence of a parameter on a state, *_grad the gradient so far, in each row of the batch."
)


class _Online:
    def __init__(self, cell: Cell) -> None:
        self.cell, self.derivation = cell, reverse(cell)
        d = self.derivation
        lines = (*d.fixed, *d.forward, *d.adjoints, *d.fixed_adjoints)
        self.namer = namer_for(cell, lines)
        self.shapes = cell.shapes
        self.identities: dict[Expr, Vector] = {}
        self.ones: list[Eq] = []
        self.chains: dict[Expr, list[tuple[Symbol, Chain]]] = {}
        self.ties: list[Eq] = []  # the numbers of units that share a maximum
        self.influence_names: dict[tuple[str, str], str] = {}
        self.names = {e.rhs: e.lhs for e in d.forward if names_its_side(e, self.shapes)}

    def run(self) -> Cell:
        cell, d = self.cell, self.derivation
        backward, back = self._backward()
        sources = [e.lhs.args[0] for e in d.totals]
        step = [*d.fixed, *d.forward]
        influences: list[Eq] = []
        sums: dict[str, Expr] = {e.lhs.args[0].name: self._of_a_step(e) for e in d.totals}
        for source in sources:
            found, states, made = self._influences(source)
            turned = Turned(made, found, self.shapes.axes)
            influences += map(turned.line, made) if turned.is_needed else made
            for s, influence in states.items():
                if s in back:
                    gain = _brought(influence, back[s], self.shapes.axes(s))
                    sums[source.name] += turned.gradient(gain) if turned.is_needed else gain
        gradients = self._gradients(sums)
        lines = [*step, *self.ties, *backward, *self.ones, *influences, *gradients]
        totals = [e.lhs for e in gradients if e.lhs.category == "state"]
        matrices = [p for p in cell.parameters if isinstance(p, Matrix)]
        kept = [*cell.outputs, *cell.states, *totals]
        made = plain(lines, kept, matrices, self.shapes)
        return Cell(
            f"{cell.name}_online", made, cell.outputs,
            title=f"{cell.title or cell.name}, learning online", notes=_NOTES,
            **of_cell(cell, made),
        )  # fmt: skip

    # ------------------------------------------------------------------ within a step

    def _backward(self) -> tuple[list[Eq], dict[Vector, Vector]]:
        """The backward pass of one step, from its own loss alone; and of each state that comes into
        it what that loss says of it.
        """
        d, cell = self.derivation, self.cell
        errors = {
            cotangent(v): Vector(self.namer(f"{v.name}_bar"), "mask", self.shapes.declared(v))
            for v in cell.outputs
        }
        lines = along(d.adjoints, errors, lambda v: v.category in ADJOINT)
        self.swap: dict[Expr, Expr] = dict(errors)
        for e in lines:
            v = e.lhs
            name = f"{v.name}_back" if v.category == "carry" else f"{v.name}_adj"
            self.swap[v] = Vector(self.namer(name), "vector", self.shapes.declared(v))
        self.moves = {*errors, *(e.lhs for e in lines)}
        back = {s: self.swap[v] for s in cell.states if (v := carry(s, -1)) in self.swap}
        return [self._renamed(e) for e in lines], back

    def _renamed(self, e: Eq) -> Eq:
        lhs = self.swap.get(e.lhs, e.lhs)
        return Eq(lhs, e.rhs.xreplace(self.swap), evaluate=False)

    def _of_a_step(self, e: Eq) -> Expr:
        """What one step of one row adds to a gradient."""
        terms = (self._term(t, e.lhs.args[0]) for t in sympy.Add.make_args(e.rhs) if t != 0)
        return sympy.Add(*terms).xreplace(self.swap)

    def _term(self, term: Expr, source: Symbol) -> Expr:
        (total,) = term.atoms(Total)
        inner, factor = total.args[0], term / total
        # what the loss of this step says nothing of
        still = {v for v in inner.atoms(Vector) if v.category in ADJOINT and v not in self.moves}
        zeros = dict.fromkeys(still, sympy.S.Zero)
        if not isinstance(inner, Outer):
            summed = isinstance(inner, Reduction)
            left = (inner.args[0] if summed else inner).xreplace(zeros)
            if left == 0:
                return left
            return factor * (inner.func(left, *inner.args[1:]) if summed else left)
        if still:
            return sympy.S.Zero
        left, right = inner.args
        heads = "nmlk"[: max(len(self.shapes.axes(v)) for v in (left, right)) - 1]
        of = [heads[: len(self.shapes.axes(v)) - 1] for v in (left, right)]
        own = heads[: len(self.shapes.axes(source)) - 2]
        return factor * Contract(left, right, f"{of[0]}i,{of[1]}j->{own}ij")

    # ------------------------------------------------------------------ influences

    def _influences(
        self, source: Symbol
    ) -> tuple[list[Influence], dict[Vector, Influence], list[Eq]]:
        """The influences of one parameter that a step computes, those on the states that come in,
        and the equations.
        """
        before: dict[Vector, Influence | None] = dict.fromkeys(self.cell.states)
        while True:
            found, lines = self._sweep(source, before)
            after = {s: _joined(before[s], found.get(s.at(0))) for s in self.cell.states}
            if all(_alike(before[s], after[s]) for s in self.cell.states):
                break
            before = after
        into = {s: i for s, i in before.items() if i is not None}
        lines = _read([i.value for i in into.values()], lines)
        made = {e.lhs for e in lines}
        return [i for i in found.values() if i.value in made], into, lines

    def _sweep(
        self, source: Symbol, before: dict[Vector, Influence | None]
    ) -> tuple[dict[Expr, Influence], list[Eq]]:
        """Forward mode over one step, from the parameter and from the states that come in."""
        known: dict[Expr, Influence] = {s: i for s, i in before.items() if i is not None}
        if isinstance(source, Vector):
            of = () if self.shapes.axes(source) == SCALAR else self.shapes.axes(source)
            shared = tuple((k, k) for k in range(len(of)))
            known[source] = Influence(sympy.S.One, of, self.shapes.axes(source), shared)
        lines: list[Eq] = []
        for e in self.derivation.forward:
            found = list(self._terms(e, source, known))
            if not found:
                continue
            made = together(found, self._identity)
            after = before.get(e.lhs.at(-1)) if e.lhs.category == "state" else None
            if after is not None:
                apart = [
                    place for pair in made.shared if pair not in after.shared for place in pair[1:]
                ]
                made = made.apart(apart, self._identity)
            symbol = self._symbol(e.lhs, source, made)
            value = stop_gradient(made.value) if symbol.category == "state" else made.value
            lines.append(Eq(symbol, value, evaluate=False))
            known[e.lhs] = Influence(symbol, made.of, self.shapes.axes(e.lhs), made.shared)
        return known, lines

    def _terms(self, e: Eq, source: Symbol, known: dict[Expr, Influence]) -> Iterator[Influence]:
        """What each operand of an equation brings of the influence on its left-hand side."""
        for symbol, chain in self._chains(e):
            if symbol == source and isinstance(source, Matrix):
                (link,) = chain.links
                assert isinstance(link, Weighing)
                yield self._seed(source, link, e.lhs)
            elif symbol in known:
                made = known[symbol].through(chain, self._identity, self.shapes.axes)
                yield Influence(made.value, made.of, self.shapes.axes(e.lhs), made.shared)

    def _chains(self, e: Eq) -> list[tuple[Symbol, Chain]]:
        """The linear maps of an equation, which are the same for all parameters."""
        if e.lhs not in self.chains:
            derivative = Linearised(self.shapes, lambda x: x.xreplace(self.names))
            self.chains[e.lhs] = list(derivative(e, self.namer))
            self.ties += derivative.extra
        return self.chains[e.lhs]

    def _seed(self, source: Matrix, link: Weighing, lhs: Vector) -> Influence:
        """The influence of a matrix on its product with u, which is u, in each row."""
        matrix, operand = link.matrix, link.operand
        of, shape = self.shapes.axes(source), self.shapes.axes(lhs)
        own = len(of) - 2
        row, column = (own + 1, own) if matrix.transposed else (own, own + 1)
        heads = len(self.shapes.axes(operand)) - 1
        if (matrix.merged and matrix.transposed) or heads > 1:
            raise CellError(
                f"the influence of {source} is not learned online: it has heads", where=str(lhs)
            )
        if shape == SCALAR:  # of one row
            full = tuple(of)
            return Influence(expand(operand, full, (column,)), of, shape, ())
        shared = (*((k, k) for k in range(own)), (row, len(shape) - 1))
        u = Transpose(operand) if heads else operand
        value = expand(u, (of[column], *shape), tuple(range(heads + 1)))
        return Influence(value, of, shape, tuple(sorted(shared)))

    def _symbol(self, v: Vector, source: Symbol, made: Influence) -> Vector:
        axes = tuple(map(str, made.axes))
        key = (v.name, source.name)
        if key not in self.influence_names:
            self.influence_names[key] = self.namer(f"{v.name}_by_{source.name}")
        category = "state" if v.category == "state" else "vector"
        return Vector(self.influence_names[key], category, axes)

    def _identity(self, size: Expr) -> Expr:
        """The identity matrix of a size, made of a count of its units."""
        if size not in self.identities:
            count = Vector(self.namer(f"count_{len(self.identities)}"), "vector", str(size))
            unit = Vector(
                self.namer(f"identity_{len(self.identities)}"), "vector", (str(size), str(size))
            )
            full = Tuple(size, size)
            down, right = (Expand(count, full, Tuple(sympy.Integer(k))) for k in (0, 1))
            self.ones.append(
                Eq(count, cumsum(Expand(sympy.S.One, Tuple(size), Tuple())), evaluate=False)
            )
            self.ones.append(Eq(unit, equal(down, right), evaluate=False))
            self.identities[size] = unit
        return self.identities[size]

    # ------------------------------------------------------------------ gradients

    def _gradients(self, sums: dict[str, Expr]) -> list[Eq]:
        """The states that sum up gradients, of what is made of parameters by its adjoints."""
        d, lines = self.derivation, []
        names: dict[Expr, Expr] = {}
        for e in d.fixed:
            if e.lhs.name in sums:
                made = Vector(self.namer(f"{e.lhs.name}_sum"), "vector", e.lhs.axes)
                lines.append(Eq(made, sums.pop(e.lhs.name), evaluate=False))
                names[gathered(e.lhs)] = made
        of_matrices = self._of_matrices()
        for e in d.fixed_adjoints:
            read = {v for v in e.rhs.atoms(Vector) if v.category in OF_PARAMETERS}
            wrong = sorted(v.name for v in read if v.name in of_matrices)
            if wrong:
                raise CellError(
                    f"{self.cell.name} cannot learn online: the gradient of {e.lhs.name} has the "
                    f"entries of {wrong[0]} as factors, and a matrix is only multiplied in a step",
                    hint="learn with backpropagation through time",
                )
            made = Vector(self.namer(f"{e.lhs.name}_adj"), "vector", self.shapes.declared(e.lhs))
            lines.append(Eq(made, e.rhs.xreplace(names), evaluate=False))
            names[e.lhs] = made
        for p in self.cell.learned:
            v = adjoint(self.shapes.quantity(p))
            gain = sums.get(p.name, sympy.S.Zero) + names.get(v, sympy.S.Zero)
            if gain == 0:
                continue
            total = Vector(self.namer(f"{p.name}_grad"), "state", self.shapes.declared(p), -1)
            lines.append(Eq(total.at(0), stop_gradient(total + gain), evaluate=False))
        return lines

    def _of_matrices(self) -> set[str]:
        """What is a matrix, or made of one."""
        found = {p.name for p in self.cell.parameters if isinstance(p, Matrix)}
        for e in self.derivation.fixed:
            if any(v.name in found for v in e.rhs.atoms(Vector)):
                found.add(e.lhs.name)
        return found


def _read(states: list[Expr], lines: list[Eq]) -> list[Eq]:
    """The lines that influences on states are computed by: not those on outputs alone."""
    needed = {s.at(0) for s in states}
    kept: list[Eq] = []
    for e in reversed(lines):
        if e.lhs in needed:
            needed |= e.rhs.atoms(Vector)
            kept.append(e)
    return kept[::-1]


def _alike(a: Influence | None, b: Influence | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or a.shared == b.shared)


def _joined(before: Influence | None, found: Influence | None) -> Influence | None:
    """What a state's influence has to be, for it to hold both."""
    if found is None:
        return before
    shared = (
        found.shared if before is None else tuple(p for p in before.shared if p in found.shared)
    )
    if before is not None and before.shared == shared:
        return before
    made = replace(found, shared=shared)
    symbol = Vector(found.value.name, "state", tuple(map(str, made.axes)), -1)
    return replace(made, value=symbol)


def _brought(influence: Influence, back: Vector, shape: Shape) -> Expr:
    """What the influence on a state adds to a gradient, where the loss says ``back`` of it."""
    if shape == SCALAR:
        return influence.value * back
    front, axes = len(influence.free), influence.axes
    order = (*influence.free, *(k for k, _ in sorted(influence.shared, key=lambda pair: pair[1])))
    in_order = tuple(range(len(order)))
    over = [k for k in range(len(shape)) if influence.at(k) is None]
    if order[:-2] != in_order[:-2] or (len(over) == 1 and order):
        letters = "abcdefgh"[: len(shape)]
        lead = dict(zip(influence.free, "ijkl", strict=False))
        place = {**lead, **{k: letters[at] for k, at in influence.shared}}
        mine = "".join(lead.values()) + letters
        out = "".join(place[k] for k in in_order)
        return Contract(influence.value, back, f"{mine},{letters}->{out}")
    e = influence.value * (expand(back, axes, tuple(range(front, len(axes)))) if front else back)
    e = summed(e, axes, [k for k in range(len(axes)) if k - front not in over])
    return Transpose(e) if order != in_order else e
