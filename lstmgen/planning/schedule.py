"""The plan: what runs in loops over steps, what before and after them, and where values live.

A plan is made from equations alone, in five short steps, each a function from equations or
operations to operations:

1. repeated function values get a name (``tanh_c``), cheap forward values are computed again;
2. each equation goes into a loop over steps, or is done for all steps at once (``regions``);
3. products that share an operand (or, in the backward pass, a sum) become one stacked product;
4. elementwise work between two products is fused: loops over units, with reductions between them;
5. every value gets a home: on the tape, for a tile of time, for one step, or in a register.

Nothing here knows a language; a target prints the operations in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import sympy
from sympy import Eq, Expr

from ..derivation.names import namer_for
from ..derivation.normalform import products, remainder
from ..derivation.reverse import Derivation, adjoint, carry, reverse
from ..errors import LstmgenError, did_you_mean
from ..language import dtypes
from ..language.cell import Cell
from ..language.dtypes import DType
from ..language.functions import equal, sigmoid
from ..language.symbols import (
    OF_PARAMETERS,
    Gradient,
    Product,
    Vector,
)
from .assignment import assign
from .gradients import gradient_operations, split_gradients
from .invariants import require_sound
from .lanes import Lanes, lane_order
from .lanes import groups as alike
from .loops import loops
from .operations import (
    Fill,
    Fused,
    Multiply,
    Operation,
    Outers,
    Pass,
    atoms,
    heads,
    is_large,
    is_loop,
    matrix_shapes,
)
from .options import Options
from .passes import recompute, share, split_coefficients, unscaled
from .plans import Plan
from .regions import regions
from .storage import (
    Housing,
    activation_sets,
    contiguous,
    heirs,
    layout,
    pre_activation,
    succession,
)
from .together import all_lanes, with_callers


def plan(
    cell: Cell | Derivation, *, dtype: str = "float64", tape: str | None = None, **options: bool
) -> Plan:
    """Plan the forward and the backward pass of ``cell``.

    Parameters
    ----------
    cell : Cell or Derivation
    dtype : str
        "float32" or "float64", for the count of bytes.
    tape : str, optional
        "float16": what values are stored in that are kept for the backward pass, states aside. They
        are computed with in ``dtype``.
    **options : bool
        ``hoist``, ``split``, ``lanes``, ``recompute``, ``arrays``: see ``Options``. Without any, it
        is the plan of the C target.

    Returns
    -------
    Plan
        ``print`` shows it; ``flops``, ``bytes`` and ``tape`` are polynomials in T, B and the
        cell's sizes.
    """
    number_type = dtypes.dtype(dtype, tape)
    derivation = cell if isinstance(cell, Derivation) else reverse(cell, once=True)
    made = _Planner(derivation, _options(options), number_type).run()
    require_sound(made)
    return made


def _options(given: dict[str, bool]) -> Options:
    known = [f.name for f in fields(Options)]
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}, dtype and tape"
            raise LstmgenError(
                f"a plan has no option {name!r}\n"
                f"  hint: {f'{did_you_mean(name, known)} {takes}'.strip()}"
            )
    return Options(**given)


class _Planner:
    def __init__(self, derivation: Derivation, options: Options, dtype: DType) -> None:
        self.derivation, self.cell = derivation, derivation.cell
        self.options, self.dtype = options, dtype
        self.namer = namer_for(self.cell, (*derivation.forward, *derivation.adjoints))

    def run(self) -> Plan:
        d, cell = self.derivation, self.cell
        forward = share(d.forward, self.namer, cell)
        adjoints, totals = unscaled(d.adjoints, d.totals, self.namer)
        lines = share((*adjoints, *totals), self.namer, cell)
        adjoints = tuple(e for e in lines if not isinstance(e.lhs, Gradient))
        totals = tuple(e for e in lines if isinstance(e.lhs, Gradient))

        again = recompute(
            forward, adjoints, totals, cell.outputs, outers_only=not self.options.recompute
        )
        if self.options.split:
            adjoints = split_coefficients(adjoints, self.namer, cell)
        adjoints = again + adjoints
        defined = {e.lhs for e in adjoints}
        tape = {
            v
            for v in atoms((*adjoints, *totals))
            if v.category in ("vector", "state") and v not in defined
        }
        kept = tape | set(cell.outputs)  # a stacked sum is not a place for what must stay
        options = self.options
        ahead = _Direction(forward, cell, {s: s.at(0) for s in cell.states}, options, kept)
        ends = {adjoint(v) for v in cell.inputs}
        carried = {carry(s): carry(s, -1) for s in cell.states}
        back = _Direction(adjoints, cell, carried, options, ends)
        gradients = gradient_operations(totals, cell)
        stacks = (
            ahead.stacks
            + back.stacks
            + [op.lefts for op in gradients if isinstance(op, Outers) and len(op.lefts) > 1]
        )
        rank = {v.name: k for k, v in enumerate(e.lhs for e in forward)}
        grouped: set[Vector] = set()
        if self.options.lanes:
            layouts = _in_lanes(ahead, back, stacks, tape - set(cell.outputs), rank, forward)
            grouped = {v for order in layouts for v in order}
        else:
            gates = activation_sets(forward, ahead.stacks, tape - set(cell.outputs))
            layouts = layout([*stacks, *gates], rank, forward)
        compared = {v for e in adjoints for n in e.rhs.atoms(equal) for v in n.atoms(Vector)}
        # who lives where decides which blocks really are neighbours, and that how products split
        for _ in range(2):
            forward_pass = ahead.finish(layouts)
            backward_pass = back.finish(layouts, split_gradients(gradients, layouts))
            buffers = Housing(
                self.cell, forward_pass, backward_pass, tape, layouts, grouped
            ).buffers(self.dtype, compared)
            layouts = [b.blocks for b in buffers]
        memory = assign(cell, forward_pass, backward_pass, buffers, self.options)
        once, back_once = (
            (Fused(loops(lines, cell)),) if lines else () for lines in (d.fixed, d.fixed_adjoints)
        )
        operations = (*forward_pass.operations, *backward_pass.operations, *once, *back_once)
        return Plan(
            self.derivation, forward_pass, backward_pass, memory.buffers, self.options, self.dtype,
            {**ahead.origin, **back.origin}, once, back_once, memory.in_place,
            all_lanes(operations, memory) if self.options.lanes else {},
        )  # fmt: skip


# --------------------------------------------------------------------------- one direction


@dataclass
class _Term:
    """One product of an affine equation, and the sum it adds to."""

    out: Vector
    product: Product
    section: int

    @property
    def by_operand(self) -> bool:
        return not self.product.matrix.transposed


class _Direction:
    """One pass over the sequence: its equations cut into sections, and these into operations.

    ``carried`` maps what comes into a step to what leaves it for the next one in this direction.
    """

    def __init__(
        self, equations: Sequence[Eq], cell: Cell, carried: dict[Vector, Vector],
        options: Options, kept: set[Vector],
    ) -> None:  # fmt: skip
        self.cell, self.hoist, self.carried = cell, options.hoist, carried
        self.fused = not options.arrays
        self.kept = kept | set(carried.values())
        self.matrices = matrix_shapes(equations, cell)
        self.regions = regions(equations, carried, self._movable, self._is_large)
        self.equations, self.section = self.regions.equations, self.regions.of
        self.origin: dict[Vector, Eq] = {}
        self.bias: dict[Vector, Vector | None] = {}
        self.terms: list[_Term] = []
        self.elementwise: list[list[Eq]] = [[] for _ in self.regions.sections]
        self._lower()
        self.logical = [self._operations(n) for n in self.regions.sections]

    def _movable(self, e: Eq) -> bool:
        """Whether ``e`` is better done for all steps at once: products are, and what has a price
        of its own; but of a matrix, all steps are too many to be kept, unless it is a state.
        """
        if e.rhs.has(Product):
            return True
        read = {v for v in e.rhs.atoms(Vector) if v.category not in ("state", *OF_PARAMETERS)}
        return self.hoist and not any(self.cell.shape(v) in self.matrices for v in {e.lhs, *read})

    def _is_large(self, v: Vector) -> bool:
        """Whether a step should go over ``v`` once: where each operation goes over whole arrays,
        that gains nothing.
        """
        return self.fused and is_large(v, self.cell)

    # -- sums of products

    def _lower(self) -> None:
        """Affine equations become products that add to a sum, and what is left beside them."""
        stacked, already = self._stacked(), self._multiplied_at_once()
        for e in self.equations:
            where = self.section[e.lhs]
            terms = products(e.rhs)
            if not terms:
                self.elementwise[where].append(e)
                continue
            bias, rest = self._split_bias(e)
            sections = [self._section_of(p, where, already) for p in terms]
            # what must stay needs a place of its own, and a carry of a loop lasts for one step
            apart = e.lhs in self.kept and e.lhs in stacked
            apart |= e.lhs.category == "carry" and is_loop(where) and min(sections) < where
            out = e.lhs if rest == 0 and not apart else _partial(e.lhs)
            self.bias[out], self.origin[e.lhs] = bias, e
            self.terms += [_Term(out, p, n) for p, n in zip(terms, sections, strict=True)]
            if out is not e.lhs:
                self.elementwise[where].append(Eq(e.lhs, out + rest, evaluate=False))

    def _stacked(self) -> set[Vector]:
        """What shares a stacked product with another sum."""
        by_operand: dict[Vector, set[Vector]] = {}
        for e in self.equations:
            for p in products(e.rhs):
                if not p.matrix.transposed:
                    by_operand.setdefault(p.operand, set()).add(e.lhs)
        return {v for group in by_operand.values() if len(group) > 1 for v in group}

    def _multiplied_at_once(self) -> set[tuple[Vector, int]]:
        """Operands of products that come as early as they can, with the section of these."""
        found = set()
        for e in self.equations:
            where = self.section[e.lhs]
            for p in products(e.rhs):
                first = self.regions.at_once(p.operand)
                if first == where or (first < where and is_loop(where)):
                    found.add((p.operand, first))
        return found

    def _section_of(self, p: Product, where: int, already: set[tuple[Vector, int]]) -> int:
        """The section of a product whose sum is in ``where``: all that a step needs comes before
        its loop if it can, and what is needed later does if it is stacked with such products.
        """
        first = self.regions.at_once(p.operand)
        stacked = (p.operand, first) in already and not p.matrix.transposed
        return first if first < where and (is_loop(where) or stacked) else where

    def _split_bias(self, e: Eq) -> tuple[Vector | None, Expr]:
        rest = remainder(e.rhs)
        shape = self.cell.shape(e.lhs)
        for t in sorted(sympy.Add.make_args(rest), key=str):
            if (
                isinstance(t, Vector)
                and t.category in OF_PARAMETERS
                and self.cell.shape(t) == shape
            ):
                return t, rest - t
        return None, rest

    # -- list scheduling

    def _operations(self, section: int) -> list[Operation]:
        lines = list(self.elementwise[section])
        terms = [t for t in self.terms if t.section == section]
        pending = {e.lhs for e in lines} | {t.out for t in terms}
        ops: list[Operation] = []
        while lines or terms:
            ready = self._take_equations(lines, section, pending)
            if ready:
                ops.append(Fused(loops(ready, self.cell)))
            groups = self._take_products(terms, section, pending)
            ops.extend(groups)
            if not ready and not groups:
                raise AssertionError(f"{self.cell.name}: the equations of {section} form a cycle")
        return ops

    def _earlier(self, read: Iterable[Vector], section: int) -> set[Vector]:
        """What has to be there for all steps before ``read`` is, of the steps before: in a loop,
        that is there already.
        """
        shifted = self.regions.shifted
        return {shifted[v] for v in read if v in shifted} if not is_loop(section) else set()

    def _take_equations(self, lines: list[Eq], section: int, pending: set[Vector]) -> list[Eq]:
        taken: list[Eq] = []
        moved = True
        while moved:
            moved = False
            for e in list(lines):
                read = e.rhs.atoms(Vector)
                # one stage cannot write a value and read that of the step before
                earlier = self._earlier(read, section)
                if not (read | earlier) & pending and not any(x.lhs in earlier for x in taken):
                    taken.append(e)
                    lines.remove(e)
                    pending.discard(e.lhs)
                    moved = True
        return taken

    def _take_products(
        self, terms: list[_Term], section: int, pending: set[Vector]
    ) -> list[Multiply]:
        def needs(v: Vector) -> set[Vector]:
            return {v, *self._earlier([v], section)}

        ready = [t for t in terms if not needs(t.product.operand) & pending]
        waiting = {t.out for t in terms if t not in ready}
        groups: dict[tuple[str, Vector, int], list[_Term]] = {}
        for t in ready:
            if heads(self.cell, t.product.matrix, t.product.operand):
                if t.out not in waiting:  # as many products as heads, which nothing is stacked with
                    groups["head", t.out, len(groups)] = [t]
            elif t.by_operand:
                _join(groups, "operand", t.product.operand, t, lambda u: u.out)
            elif t.out not in waiting:
                _join(groups, "sum", t.out, t, lambda u: u.product.operand)
        for group in groups.values():
            for t in group:
                terms.remove(t)
        open_sums = {t.out for t in terms}
        for group in groups.values():
            pending.difference_update(t.out for t in group if t.out not in open_sums)
        return [self._multiply(kind, group) for (kind, _, _), group in groups.items()]

    def _multiply(self, kind: str, group: list[_Term]) -> Multiply:
        matrices = tuple(t.product.matrix for t in group)
        if kind == "operand":
            outs = tuple(t.out for t in group)
            operands: tuple[Vector, ...] = (group[0].product.operand,)
        else:
            outs = (group[0].out,)
            operands = tuple(t.product.operand for t in group)
        return Multiply(outs, matrices, operands, tuple(self.bias[o] for o in outs), True)

    # -- stacks, and what becomes of them once the layout is known

    @property
    def stacks(self) -> list[tuple[Vector, ...]]:
        """Sets of values that a stacked product wants side by side."""
        return [
            op.outs if len(op.outs) > 1 else op.operands
            for ops in self.logical
            for op in ops
            if isinstance(op, Multiply) and len(op.matrices) > 1
        ]

    @property
    def heirs(self) -> dict[Vector, Vector]:
        """Who may be written over whom."""
        lines = [e for section in self.elementwise for e in section]
        operands = [t.product.operand for t in self.terms]
        return heirs(lines, operands, self.kept, self.cell.size)

    def finish(
        self, layouts: Sequence[tuple[Vector, ...]], gradients: tuple[Operation, ...] = ()
    ) -> Pass:
        started: set[Vector] = set()
        sections: list[list[Operation]] = []
        for section, logical in enumerate(self.logical):
            ops: list[Operation] = []
            for op in logical:
                if isinstance(op, Multiply):
                    for part in contiguous(op, layouts):
                        fresh = [o for o in part.outs if o not in started]
                        mixed = bool(fresh) and len(fresh) < len(part.outs)
                        if mixed:
                            fill = Fill(tuple(fresh), tuple(self.bias[o] for o in fresh))
                            (sections[-1] if is_loop(section) else ops).append(fill)
                        add = mixed or not fresh
                        biases = tuple(None if add else self.bias[o] for o in part.outs)
                        ops.append(Multiply(part.outs, part.matrices, part.operands, biases, add))
                        started.update(part.outs)
                else:
                    ops.append(op)
            sections.append(ops)
        sections[-1] += gradients
        return Pass(tuple(map(tuple, sections)))


def _in_lanes(
    ahead: _Direction, back: _Direction, stacks: Sequence[tuple[Vector, ...]],
    tape: set[Vector], rank: dict[str, int], forward: Sequence[Eq],
) -> list[tuple[Vector, ...]]:  # fmt: skip
    """Orders of blocks for which equations that say the same can be computed together."""
    cell = ahead.cell
    found = [
        group
        for direction in (ahead, back)
        for ops in direction.logical
        for op in ops
        if isinstance(op, Fused)
        for group in alike(op.equations, cell, with_callers(cell))
    ]
    sets = list(stacks)
    lanes = Lanes()
    every = dict.fromkeys(v for s in (*stacks, *(t for g in found for t in g.tuples)) for v in s)
    named: dict[str, Vector] = {}
    for v in every:  # a value and its adjoint
        lanes.join([(named.setdefault(v.name, v), v)], [set(s) for s in sets])
    heir = ahead.heirs
    for v, w in heir.items():
        lanes.join([(named.get(v.name, v), w)], [set(s) for s in sets])
    for group in found:
        for part in (group, *group.families):  # all of it, or what has a name in common
            pairs = [(v, w) for t in part.tuples[1:] for v, w in zip(part.lhs, t, strict=True)]
            if lanes.join(pairs, [set(s) for s in (*sets, *part.tuples)]):
                sets += part.tuples
                if part is group:
                    break
    kinds = {a: e.rhs.func for e in forward if (a := pre_activation(e)) is not None}
    for stack in stacks:  # gates of one kind are neighbours
        sigmoids = tuple(v for v in stack if kinds.get(_whole(v)) is sigmoid)
        if len(sigmoids) > 1:
            sets.append(sigmoids)
    for s in list(sets):  # what is written over its pre-activations lies in the same order
        left = tuple(v for u in s if (v := succession(u, heir)[-1]) != u and v in tape)
        if len(left) > 1 and all(v.category == "vector" for v in left):
            sets.append(left)
    return lane_order(sets, lambda s: layout(s, rank, forward), lanes)


def _whole(v: Vector) -> Vector:
    """The value that a partial sum is the beginning of."""
    return Vector(v.name, "vector", v.axes, v.time) if v.category == "partial" else v


def _join(
    groups: dict[tuple[str, Vector, int], list[_Term]],
    kind: str,
    shared: Vector,
    term: _Term,
    other: Callable[[_Term], Vector],
) -> None:
    """Add ``term`` to the first stack of its kind that does not hold its other end already."""
    number = 0
    while any(other(u) == other(term) for u in groups.get((kind, shared, number), [])):
        number += 1
    groups.setdefault((kind, shared, number), []).append(term)


def _partial(v: Vector) -> Vector:
    """The sum of products that ``v`` begins with, where more is to come."""
    flowing = f"partial {v.category}" if v.category in ("adjoint", "carry") else "partial"
    return Vector(v.name, flowing, v.axes, v.time)
