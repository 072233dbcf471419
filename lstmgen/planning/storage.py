"""Where values live: which blocks lie side by side, and who keeps a value for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from itertools import permutations

import sympy
from sympy import Eq, Expr, Function

from ..derivation.normalform import MIXING
from ..derivation.reverse import adjoint
from ..language.cell import Cell
from ..language.dtypes import DType
from ..language.functions import GATES
from ..language.symbols import Vector
from .lifetimes import Moment, by_loops
from .operations import Buffer, Fused, Multiply, Pass


def layout(
    sets: Sequence[tuple[Vector, ...]],
    rank: dict[str, int],
    forward: Sequence[Eq],
) -> list[tuple[Vector, ...]]:
    """Orders of blocks in which the sets that want to be side by side are, as far as possible.

    Blocks that are in the same sets stay together; of the orders of these groups, the one with
    the fewest gaps wins. Gates of the same activation are neighbours.
    """
    gate = {a.name: e.rhs.func.__name__ for e in forward if (a := pre_activation(e)) is not None}
    gate |= {e.lhs.name: e.rhs.func.__name__ for e in forward if isinstance(e.rhs, Function)}

    def key(v: Vector) -> tuple[str, int, str]:
        return (gate.get(v.name, "~"), rank.get(v.name, len(rank)), str(v))

    components: list[set[Vector]] = []
    for group in sets:
        merged = set(group)
        apart = [c for c in components if not c & merged]
        for c in components:
            if c & merged:
                merged |= c
        components = [*apart, merged]
    orders = []
    for component in components:
        relevant = [frozenset(s) for s in dict.fromkeys(frozenset(g) for g in sets)
                    if set(s) <= component]  # fmt: skip
        signatures: dict[tuple[bool, ...], list[Vector]] = {}
        for v in sorted(component, key=key):
            signatures.setdefault(tuple(v in s for s in relevant), []).append(v)
        groups = list(signatures.values())
        if len(groups) <= 6:  # 720 orders at the most; more would be a strange cell
            best = min(permutations(groups), key=lambda p: _gaps(_flat(p), relevant))
        else:
            best = tuple(groups)
        orders.append(tuple(_flat(best)))
    return sorted(orders, key=lambda o: key(o[0]))


def _flat(groups: Sequence[Sequence[Vector]]) -> list[Vector]:
    return [v for g in groups for v in g]


def _gaps(order: Sequence[Vector], sets: Sequence[frozenset[Vector]]) -> int:
    gaps = 0
    for s in sets:
        inside = [v in s for v in order]
        gaps += sum(1 for a, b in zip([False, *inside], inside, strict=False) if b and not a)
    return gaps


def pre_activation(e: Eq) -> Vector | None:
    """The argument of a gate, σ or tanh of a vector that has a name; None for other equations."""
    is_gate = isinstance(e.rhs, GATES) and isinstance(e.rhs.args[0], Vector)
    return e.rhs.args[0] if is_gate else None


def activation_sets(
    forward: Sequence[Eq], stacks: Sequence[Sequence[Vector]], tape: set[Vector]
) -> list[tuple[Vector, ...]]:
    """Gates on the tape, stacked like their pre-activations, so that one call can compute all."""
    sets = []
    for stack in stacks:
        names = {v.name for v in stack}
        gates = tuple(
            e.lhs
            for e in forward
            if (a := pre_activation(e)) is not None
            and a.name in names
            and e.lhs in tape
            and e.lhs.category == "vector"
        )
        if len(gates) > 1:
            sets.append(gates)
    return sets


def heirs(
    equations: Iterable[Eq], operands: Iterable[Vector], kept: Set[Vector],
    size: Callable[[Vector], Expr],
) -> dict[Vector, Vector]:  # fmt: skip
    """Who may be written over whom: v → w if only the equation of w reads v, to complete the sum
    that v began or to apply a function to it, and has as many units. ``operands`` are read by
    products as well, and what is ``kept`` stays.
    """
    equations = list(equations)
    readers = Counter(v for e in equations for v in e.rhs.atoms(Vector))
    readers.update(operands)
    found: dict[Vector, Vector] = {}
    for e in equations:
        v = _spent(e)
        if v is None or readers[v] != 1 or v in kept:
            continue
        if size(v) == size(e.lhs):  # of a single unit, all units of another may be a function
            found[v] = e.lhs
    return found


def _spent(e: Eq) -> Vector | None:
    """What ``e`` could be written over as it is computed, unit by unit."""
    rhs = e.rhs
    if isinstance(rhs, Function) and not isinstance(rhs, MIXING):
        found = rhs.args if len(rhs.args) == 1 else ()
        made = ("vector",)
    else:
        found, made = sympy.Add.make_args(rhs), ("partial",)
    own = (v for v in found if isinstance(v, Vector) and v.category.startswith(made))
    return next(own, None)


def succession(v: Vector, heir: dict[Vector, Vector]) -> list[Vector]:
    """All that hold the place of ``v``, itself first: the last one holds it in the end."""
    found = [v]
    while found[-1] in heir:
        found.append(heir[found[-1]])
    return found


class Housing:
    """Decides where every value lives, from who reads it."""

    def __init__(
        self, cell: Cell, forward: Pass, backward: Pass, tape: set[Vector],
        layouts: Sequence[tuple[Vector, ...]], grouped: Set[Vector] = frozenset(),
    ) -> None:  # fmt: skip
        self.cell, self.layouts = cell, layouts
        self.grouped = grouped  # what needs a home to lie beside others
        self.scope: dict[Vector, str] = {}
        self.outside: set[Vector] = set()  # what is made outside the loop over steps
        self._visit(forward)
        self._visit(backward)
        for v, scope in self.scope.items():
            if scope == "step" and v in self.outside:  # one pass makes it in the loop, one does not
                self.scope[v] = "tile"
        for s in cell.states:
            self.scope[s.at(0)] = "state"
        for v in sorted(tape, key=str):
            if v.category == "vector":
                self.scope[v] = "tape"

    def _visit(self, part: Pass) -> None:
        made: dict[Vector, Moment] = {}
        ends = {adjoint(v) for v in self.cell.inputs} | set(self.cell.outputs)
        products = {v for op in part.operations if not isinstance(op, Fused) for v in op.writes}
        for here, reads, writes in by_loops(part):
            for v in reads:
                if v in made:
                    self._read(v, made[v], here)
            for v in writes:
                made.setdefault(v, here)
                if not here.in_loop:
                    self.outside.add(v)
                if v.category == "carry":
                    self.scope[v] = "carry" if here.in_loop else "carries"
                elif v in ends and v.category != "state":
                    self.scope[v] = "given"
                elif v in products or v in self.grouped:
                    self._raise(v, "step" if here.in_loop else "tile")

    def _read(self, v: Vector, made: Moment, here: Moment) -> None:
        if self.scope.get(v) in ("given", "carry", "carries", "state"):
            return
        if made.section != here.section:
            self._raise(v, "tile")
        elif made.stage != here.stage or (made.loop != here.loop and self.cell.size(v) != 1):
            self._raise(v, "step" if here.in_loop else "tile")

    def _raise(self, v: Vector, scope: str) -> None:
        if scope == "tile" or v not in self.scope:
            self.scope[v] = scope

    def buffers(self, dtype: DType, compared: Set[Vector]) -> tuple[Buffer, ...]:
        """The buffers, of a module of that type. Values that the backward pass compares are kept as
        they were: the largest of some would be none of them, if it alone had fewer digits.
        """

        def buffer(name: str, blocks: tuple[Vector, ...], scope: str) -> Buffer:
            is_narrow = scope == "tape" and compared.isdisjoint(blocks)
            return Buffer(name, blocks, scope, dtype.of_tape if is_narrow else dtype)

        placed: set[Vector] = set()
        out: list[Buffer] = []
        for order in self.layouts:
            for scopes in (("tape",), ("tile", "step")):
                blocks = tuple(v for v in order if self.scope.get(v) in scopes)
                if len(blocks) > 1 and not placed & set(blocks):
                    scope = "tile" if any(self.scope[v] == "tile" for v in blocks) else "step"
                    scope = "tape" if scopes == ("tape",) else scope
                    out.append(buffer(_common_name(blocks), blocks, scope))
                    placed.update(blocks)
        for v, scope in self.scope.items():
            if v not in placed:
                out.append(buffer(v.name, (v,), scope))
        rank = {"given": 0, "state": 1, "tape": 2, "tile": 3, "step": 4, "carry": 5, "carries": 6}
        return tuple(sorted(out, key=lambda b: rank[b.scope]))


def _common_name(blocks: Sequence[Vector]) -> str:
    """``a`` for a_i a_f …, ``ifog`` for i f o g."""
    families = {v.name.partition("_")[0] for v in blocks if "_" in v.name}
    if len(families) == 1:
        return str(families.pop())
    return "".join(v.name for v in blocks) if len(blocks) < 6 else f"{blocks[0].name}_etc"


def contiguous(op: Multiply, layouts: Sequence[tuple[Vector, ...]]) -> list[Multiply]:
    """The parts of a stacked product whose blocks really lie side by side."""
    if len(op.matrices) == 1:
        return [op]
    by_operand = len(op.outs) > 1
    blocks = op.outs if by_operand else op.operands
    parts = []
    for run in runs(blocks, layouts):
        index = [blocks.index(v) for v in run]
        matrices = tuple(op.matrices[k] for k in index)
        if by_operand:
            biases = tuple(op.biases[k] for k in index)
            parts.append(Multiply(run, matrices, op.operands, biases, op.accumulate))
        else:
            parts.append(Multiply(op.outs, matrices, run, op.biases, op.accumulate))
    return parts


def runs(
    blocks: Sequence[Vector], layouts: Sequence[tuple[Vector, ...]]
) -> list[tuple[Vector, ...]]:
    """``blocks`` in the order of their buffer, cut where another block lies between them."""
    place = {v: (n, k) for n, order in enumerate(layouts) for k, v in enumerate(order)}
    ordered = sorted(blocks, key=lambda v: place.get(v, (len(layouts), blocks.index(v))))
    runs: list[list[Vector]] = []
    for v in ordered:
        here = place.get(v)
        last = place.get(runs[-1][-1]) if runs else None
        if here and last and (here[0], here[1] - 1) == last:
            runs[-1].append(v)
        else:
            runs.append([v])
    return [tuple(r) for r in runs]
