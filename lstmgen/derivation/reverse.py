"""Backpropagation through time, derived: one reverse sweep over a cell's equations in normal form.

For v = e(u, …), elementwise, the adjoint of u gains ∂e/∂u · δv. For a = W @ u, δu gains Wᵀ δa and
∂L/∂W gains Σ_t δa uᵀ. A reduction's adjoint is a broadcast, a broadcast's a reduction. What reaches
a state as it came into the step is carried to the step before: there it is the part of the adjoint
that arrives from t+1.

Nothing here knows any cell. Derivatives come out in terms of what the equations already name,
i (1 - i) and not σ(a)(1 - σ(a)), because known right-hand sides are folded back to their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import sympy
from sympy import Eq, Expr

from ..errors import require_cell
from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.shapes import SCALAR, units
from ..language.symbols import (
    STATIC,
    Concat,
    Contract,
    Expand,
    Gradient,
    Outer,
    Part,
    Product,
    Reduction,
    Reshape,
    Scan,
    Total,
    Transpose,
    Vector,
    View,
    cumsum,
    rcumsum,
    shift,
    sum_,
)
from .linear import Broadcast, Chain, Linearised, Scale, summed
from .names import namer_for
from .normalform import MIXING, names_its_side, normalise

ZERO = sympy.S.Zero


@dataclass(frozen=True)
class Derivation:
    """A cell's forward pass in normal form, and the backward pass that follows from it.

    Attributes
    ----------
    cell : Cell
    forward : tuple of Eq
        The step, in normal form.
    adjoints : tuple of Eq
        The backward step as it is run, latest first. What arrives from step t+1 is a symbol of its
        own, ``carry(h)``; last come the lines that define those symbols for step t-1,
        ``carry(h, -1)``.
    totals : tuple of Eq
        ``Gradient(p) = Σ_t …`` for every parameter, and for matrices that are made of some.
    fixed : tuple of Eq
        What is made of parameters alone, in normal form: it holds for the whole sequence.
    fixed_adjoints : tuple of Eq
        Its adjoints, to be run after the last step: from ``gathered(S)``, which is what
        ``Gradient(S)`` has become, to what the gradients of parameters gain, ``adjoint(p)``.
    """

    cell: Cell
    forward: tuple[Eq, ...]
    adjoints: tuple[Eq, ...]
    totals: tuple[Eq, ...]
    fixed: tuple[Eq, ...] = ()
    fixed_adjoints: tuple[Eq, ...] = ()

    @cached_property
    def carried(self) -> dict[Vector, Expr]:
        """For each carry symbol at t-1, what step t passes to it."""
        return {e.lhs: e.rhs for e in self.adjoints if e.lhs.category == "carry"}

    @cached_property
    def equations(self) -> list[Eq]:
        """The backward step as a textbook writes it: the terms from step t+1 are spelled out.

        ``δc = δh ⊙ o ⊙ (1 - tanh² c) + δc[t+1] ⊙ f[t+1]``; ``Vector.at`` and ``shift`` tell time.
        """
        later = {symbol.at(0): shift(rhs, 1) for symbol, rhs in self.carried.items()}
        return [
            Eq(e.lhs, e.rhs.xreplace(later), evaluate=False)
            for e in self.adjoints
            if e.lhs.category != "carry" and not _is_input_adjoint(e.lhs, self.cell)
        ]

    @cached_property
    def gradients(self) -> list[Eq]:
        """∂L/∂p of every parameter as a sum over steps, of the inputs, of the initial states.

        A step's right-hand side is taken at each t for an input, and at t = 1 for an initial
        state, where t-1 is the initial state itself.
        """
        inputs = [(v, self._adjoint_of(v)) for v in self.cell.inputs]
        initial = [(s, self.carried[carry(s, -1)]) for s in self.cell.states]
        return [
            *self._of_parameters(),
            *(Eq(Gradient(v), rhs, evaluate=False) for v, rhs in (*inputs, *initial)),
        ]

    def _of_parameters(self) -> list[Eq]:
        """The sums over steps, first of what is made of parameters: theirs are in terms of it."""
        known: dict[Expr, Expr] = {
            gathered(e.lhs): Gradient(total.lhs.args[0])
            for e in self.fixed
            for total in self.totals
            if total.lhs.args[0].name == e.lhs.name
        }
        for e in self.fixed_adjoints:
            known[e.lhs] = e.rhs.xreplace(known)
        through = {v.name: rhs for v, rhs in known.items() if v.category == "adjoint"}
        made = {e.lhs.name for e in self.fixed}
        lines = sorted(self.totals, key=lambda e: e.lhs.args[0].name not in made)
        return [
            Eq(e.lhs, e.rhs + through[e.lhs.args[0].name], evaluate=False)
            if e.lhs.args[0].name in through and e.lhs.args[0].name not in made
            else e
            for e in lines
        ]

    def _adjoint_of(self, v: Vector) -> Expr:
        symbol = adjoint(v)
        return next((e.rhs for e in self.adjoints if e.lhs == symbol), ZERO)


def reverse(cell: Cell, *, once: bool = False) -> Derivation:
    """Derive backpropagation through time for ``cell``; ``derive`` is the way in.

    ``once`` is for code: expressions of parameters alone are taken out of the step.
    """
    require_cell(cell)
    namer = namer_for(cell, cell.equations)
    fixed, step = normalise(cell.equations, cell.shapes, namer, set(cell.outputs), once=once)
    made = _Sweep(cell, step, (*fixed, *step)).run()
    if not fixed:
        return made
    # What the steps read in stop_gradient(…) alone brings nothing, and no sum of it is kept.
    used = {e.lhs.args[0].name for e in made.totals if e.rhs != 0}
    sweep = _Sweep(cell, fixed, (*fixed, *step, *made.adjoints))
    return replace(made, fixed=fixed, fixed_adjoints=sweep.of_fixed(used))


def adjoint(v: Vector) -> Vector:
    """δv = ∂L/∂v, at the time of v."""
    return Vector(v.name, "adjoint", v.axes, v.time)


def gathered(v: Vector) -> Vector:
    """∂L/∂v of what is made of parameters, as the steps have summed it up."""
    return Vector(v.name, "gathered", v.axes)


def carry(state: Vector, time: int = 0) -> Vector:
    """The part of a state's adjoint that arrives from one step later: at t from t+1."""
    return Vector(state.name, "carry", state.axes, time)


def cotangent(output: Vector) -> Vector:
    """∂L/∂y[t] as the caller gives it: what the loss itself does to an output."""
    return Vector(output.name, "cotangent", output.axes)


def _is_input_adjoint(v: Vector, cell: Cell) -> bool:
    return v in {adjoint(i) for i in cell.inputs}


class _Sweep:
    """The reverse sweep: the linear maps of each equation, transposed, the last equation first.

    Contributions to an adjoint are kept as δ → coefficient where they are, so that equal adjoints
    are collected as a person would: δc ⊙ (g - c).
    """

    def __init__(self, cell: Cell, forward: tuple[Eq, ...], known: Sequence[Eq]) -> None:
        self.cell, self.forward, self.shapes = cell, forward, cell.shapes
        self.fixed = [e.lhs for e in known if e.lhs.category == "derived"]
        self.learned: set[str] = set()  # of these, what a parameter is part of
        for e in known:
            if e.lhs in self.fixed and any(map(self._is_learned, e.rhs.atoms(Vector))):
                self.learned.add(e.lhs.name)
        self.matrices = {m.base for e in forward for p in e.rhs.atoms(Product) for m in [p.matrix]}
        self.is_fixed = any(e.lhs in self.fixed for e in forward)
        self.names = {e.rhs: e.lhs for e in forward if names_its_side(e, self.shapes)}
        self.namer = namer_for(cell, known)
        self.linear: dict[Expr, dict[Expr, Expr]] = {}  # of what -> {δ: coefficient}
        self.plain: dict[Expr, list[Expr]] = {}  # of what -> products, carries, cotangents
        self.totals: dict[Expr, list[Expr]] = {}  # parameter -> what it sums over steps
        self.out: list[Eq] = []

    def run(self) -> Derivation:
        cell = self.cell
        for v in cell.outputs:
            self.plain[v] = [cotangent(v)]
        for state in cell.states:
            self.plain.setdefault(state.at(0), []).append(carry(state))
        for equation in reversed(self.forward):
            delta = self._close(equation.lhs, adjoint(equation.lhs))
            if delta is not None:
                self._spread(equation, delta)
        for v in cell.inputs:
            self._close(v, adjoint(v))
        for state in cell.states:
            if self._close(state, carry(state, -1)) is None:
                self.out.append(Eq(carry(state, -1), ZERO, evaluate=False))
        totals = tuple(
            Eq(Gradient(p), sum(self._together(p), ZERO), evaluate=False)
            for p in (*cell.learned, *self._made_of_parameters())
        )
        adjoints, totals = _inline(tuple(self.out), totals, self.cell)
        return Derivation(cell, self.forward, _live(adjoints, totals, cell), totals)

    def _together(self, parameter: Expr) -> list[Expr]:
        """What a parameter sums over steps, with one sum at most that is along an axis, too: of a
        parameter that is repeated along an axis in several equations there are several.
        """
        found = self.totals.get(parameter, [])
        along = [t for t in found if isinstance(t.args[0], sum_) and t.args[0].axis is not None]
        if not along or len(found) == 1:
            return found
        by_axis: dict[tuple[Expr, ...], Expr] = {}
        for t in along:
            operand, axis = t.args[0].args
            key = (axis, *self.shapes.axes(operand))
            by_axis[key] = by_axis.get(key, ZERO) + operand
        sums = [sum_(e, axis) for (axis, *_), e in by_axis.items()]
        others = [t for t in found if t not in along]
        if others or len(sums) > 1:
            sums = [self._name(e, self.shapes.quantity(parameter)) for e in sums]
        return [*others, *map(Total, sums)]

    def _made_of_parameters(self) -> list[Expr]:
        """What products and steps use of what is made of parameters, as a matrix or as it is."""
        names = {v.name: v for v in self.fixed}
        names = {n: v for n, v in names.items() if n in self.learned}
        used = {m for m in self.matrices if m.name in names}
        plain = {
            v
            for e in self.forward
            for v in e.rhs.atoms(Vector)
            if v.name in names and v.category == "derived"
        }
        return sorted({*used, *plain}, key=lambda s: list(names).index(s.name))

    def of_fixed(self, used: set[str]) -> tuple[Eq, ...]:
        """The adjoints of what is made of parameters, of which the steps use some."""
        for v in self.fixed:
            if v.name in used:
                self.plain[v] = [gathered(v)]
        for equation in reversed(self.forward):
            delta = self._close(equation.lhs, adjoint(equation.lhs))
            if delta is not None:
                self._spread(equation, delta)
        for p in self.cell.learned:
            v = self.shapes.quantity(p)
            self._close(v, adjoint(v))
        return tuple(self.out)

    # ------------------------------------------------------------------ collecting

    def _close(self, v: Vector, symbol: Vector) -> Vector | None:
        """All contributions to ``v`` are in: write its line. None if nothing flows into it."""
        scalar: list[Expr] = []
        wide: dict[Expr, Expr] = {}  # by shape: what a scalar was broadcast to has to be summed
        for delta, coefficient in self.linear.get(v, {}).items():
            if coefficient != 0:
                term = delta * coefficient
                if self._broadcast(v, term):
                    shape = self.shapes.axes(term)
                    wide[shape] = wide.get(shape, ZERO) + term
                else:
                    scalar.append(term)
        rest = [e for e in self.plain.get(v, []) if not isinstance(e, NAMED)]
        mixing = self._joined([e for e in self.plain.get(v, []) if isinstance(e, NAMED)])
        mixing += [summed(term, shape, ()) for shape, term in wide.items()]
        alone = not (scalar or rest) and len(mixing) == 1
        for e in mixing:
            made = self._flat(e, v)
            rest.append(made if alone else self._name(made, v))
        total = sum([*scalar, *rest], ZERO)
        if total == 0:
            return None
        self.out.append(Eq(symbol, total, evaluate=False))
        return symbol

    def _joined(self, found: list[Expr]) -> list[Expr]:
        """Parts of one whole together: what reaches each of them, in its place."""
        slots: dict[tuple[Expr, ...], list[Any]] = {}
        for e in found:
            if isinstance(e, Concat):
                sizes = tuple(self.shapes.axes(a)[-1] for a in e.args)
                known = slots.get(sizes, [None] * len(sizes))
                slots[sizes] = [_slot(a, b) for a, b in zip(known, e.args, strict=True)]
        return [
            *(e for e in found if not isinstance(e, Concat)),
            *(Concat(*terms) for terms in slots.values()),
        ]

    def _flat(self, e: Expr, v: Vector) -> Expr:
        """``e`` with its operands named: of a sum over several axes, the sums within."""
        if isinstance(e, Concat):
            return e.func(*(self._name(a, v) if a.is_Add else a for a in e.args))
        if isinstance(e, Reduction) and isinstance(e.args[0], Reduction):
            return e.func(self._name(self._flat(e.args[0], v), v), *e.args[1:])
        return e

    def _name(self, e: Expr, v: Vector) -> Vector:
        kind = next((n for k, n in _KINDS.items() if isinstance(e, k)), "sum")
        name = Vector(self.namer(f"{kind}_{v.name}"), "adjoint", self.shapes.declared(e))
        self.out.append(Eq(name, e, evaluate=False))
        return name

    def _broadcast(self, v: Vector, term: Expr) -> bool:
        """Whether the scalar ``v`` was broadcast to more units, which its adjoint must sum."""
        return bool(self.shapes.axes(v) == SCALAR != self.shapes.axes(term))

    def _gain(self, v: Vector, delta: Expr, coefficient: Expr) -> None:
        if not self.is_fixed and v.category in STATIC:
            term, shape = delta * coefficient, self.shapes.axes(v)
            if self.shapes.axes(term) == SCALAR != shape:  # one number that each unit gains
                term = Expand(delta, sympy.Tuple(*shape), sympy.Tuple()) * coefficient
            if self._broadcast(v, term):
                term = self._flat(summed(term, self.shapes.axes(term), ()), v)
            self._total(v, Total(term))
            return
        terms = self.linear.setdefault(v, {})
        terms[delta] = terms.get(delta, ZERO) + coefficient

    def _is_learned(self, symbol: Vector | Matrix) -> bool:
        """Whether it is a parameter, or made of some; with constants alone nothing is learned."""
        if symbol.name in {v.name for v in self.fixed}:
            return symbol.name in self.learned
        return symbol.learned and (isinstance(symbol, Matrix) or symbol.category == "parameter")

    def _total(self, parameter: Expr, term: Expr) -> None:
        self.totals.setdefault(parameter, []).append(term)

    # ------------------------------------------------------------------ spreading

    def _spread(self, equation: Eq, delta: Vector) -> None:
        """What ``delta``, the adjoint of the left-hand side, brings to all that it was made of."""
        derivative = Linearised(self.shapes, lambda e: e.xreplace(self.names))
        operands = list(derivative(equation, self.namer))
        self.out += derivative.extra
        for symbol, chain in operands:
            if isinstance(symbol, Matrix):
                if self._is_learned(symbol):
                    self._total(symbol, chain.transpose(delta))
            elif symbol.category not in STATIC | {"mask"} or self._is_learned(symbol):
                self._back(symbol, chain, delta)

    def _back(self, v: Vector, chain: Chain, delta: Vector) -> None:
        """Follow a chain back from ``delta`` to ``v``."""
        first, *links = chain.links
        coefficient, e = sympy.S.One, delta
        # of a single number, wide terms are summed when all are in
        number = first if isinstance(first, Broadcast) and not first.places else None
        for link in reversed(links if number else chain.links):
            if isinstance(link, Scale):
                coefficient *= link.factor
            else:
                e, coefficient = link.transpose(e * coefficient), sympy.S.One
        if number and self.shapes.axes(e * coefficient) == SCALAR:
            coefficient *= units(number.shape)  # all units alike: as often as there are
        if not isinstance(e, NAMED) and not isinstance(e, Product):
            self._gain(v, e, coefficient)
        elif self.is_fixed or v.category not in STATIC:
            self.plain.setdefault(v, []).append(e)
        else:
            made = self._flat(e, v)
            # a sum over steps is one over units as well, but rearranges nothing
            plain = isinstance(made, Reduction) and not isinstance(made, Scan)
            self._total(v, Total(made if plain else self._name(made, v)))


def _slot(known: Expr | None, more: Expr) -> Expr:
    """One part of several side by side: what is known of it, and what comes; zeros give way."""
    if known is None or isinstance(known, Expand):
        return more
    return known if isinstance(more, Expand) else known + more


# What is a line of its own, beside other contributions, and the beginning of its name.
NAMED = (Reduction, Contract, Part, Reshape, Transpose, Concat)
_KINDS: dict[Any, str] = {
    Scan: "scan", Reduction: "sum", Contract: "from", Concat: "parts", View: "view",
}  # fmt: skip


# --------------------------------------------------------------------------- tidying


def _inline(
    adjoints: tuple[Eq, ...], totals: tuple[Eq, ...], cell: Cell
) -> tuple[tuple[Eq, ...], tuple[Eq, ...]]:
    """Write an adjoint where it is used if that is one place, or if it only renames another.

    So δa_o = δh ⊙ tanh c ⊙ o ⊙ (1 - o), as the literature has it, without a line for δo.
    """
    lines = list(adjoints)
    changed = True
    reads: dict[Eq, set[Vector]] = {}  # of each equation once: there may be a thousand

    def read_by(e: Eq) -> set[Vector]:
        if e not in reads:
            reads[e] = e.rhs.atoms(Vector)
        return reads[e]

    while changed:
        changed = False
        for k, line in enumerate(lines):
            if line.lhs.category != "adjoint" or not _is_short(line.rhs):
                continue
            if cell.shapes.axes(line.rhs) != cell.shape(line.lhs):
                continue  # a broadcast: what is reduced or multiplied has to be as wide as it is
            users = [e for e in (*lines, *totals) if e is not line and line.lhs in read_by(e)]
            if any(v.category == "carry" for v in read_by(line)):
                continue  # it is there for one step only, and others may be read for all steps
            renames = isinstance(line.rhs, Vector)
            once = len(users) == 1 and _reads_elementwise(users[0].rhs, line.lhs)
            if not users or not (renames or once):
                continue
            swap = {line.lhs: line.rhs}
            lines = [_replaced(e, swap) for n, e in enumerate(lines) if n != k]
            totals = tuple(_replaced(e, swap) for e in totals)
            changed = True
            break
    return tuple(lines), totals


def _live(adjoints: tuple[Eq, ...], totals: tuple[Eq, ...], cell: Cell) -> tuple[Eq, ...]:
    """The lines that some gradient needs; behind a mask or ``stop_gradient`` there may be none."""
    wanted = {v for e in totals for v in e.rhs.atoms(Vector)}
    wanted |= {adjoint(v) for v in cell.inputs}
    kept: list[Eq] = []
    for e in reversed(adjoints):
        if e.lhs in wanted or e.lhs.category == "carry":
            kept.insert(0, e)
            wanted |= e.rhs.atoms(Vector)
    return tuple(kept)


def _replaced(e: Eq, swap: dict[Vector, Expr]) -> Eq:
    if not e.rhs.has(*swap):
        return e
    return Eq(e.lhs, _collected(e.rhs.xreplace(swap)), evaluate=False)


def _collected(rhs: Expr) -> Expr:
    """Terms with the same adjoint together: δc ⊙ g - δc ⊙ c is δc ⊙ (g - c)."""
    if not rhs.is_Add or rhs.has(*NAMED):
        return rhs
    by_adjoint: dict[Expr, Expr] = {}
    for term in rhs.args:
        factors = [f for f in sympy.Mul.make_args(term) if isinstance(f, Vector)]
        delta = next((f for f in factors if f.category == "adjoint"), sympy.S.One)
        by_adjoint[delta] = by_adjoint.get(delta, ZERO) + term / delta
    return sum((delta * factor for delta, factor in by_adjoint.items()), ZERO)


def _is_short(rhs: Expr) -> bool:
    return not (rhs.is_Add or rhs.has(*MIXING))


def _reads_elementwise(e: Expr, symbol: Vector) -> bool:
    """Whether ``symbol`` occurs, once, and not as the operand of a product or a scan."""
    mixing: Iterable[Expr] = e.atoms(Product, Outer, cumsum, rcumsum, Contract, View, Concat)
    if any(m.has(symbol) for m in mixing):
        return False
    return bool(sum(1 for n in sympy.preorder_traversal(e) if n == symbol) == 1)
