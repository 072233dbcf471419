"""Which blocks of a row may touch, though stages write whole vectors.

The last vector of a block reaches into the block after it. That does no harm where the block after
it is written later, as the second of two is in a loop that runs from the last vector to the first.
Blocks that touch are one matrix product's columns without a gap: a gate of 24 units is one and a
half vectors of 16, but four of them are six.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, starmap

from sympy import Eq

from ...language.symbols import Scan, Vector
from ...planning.lifetimes import Moment, lifetimes
from ...planning.operations import (
    Fill,
    Fused,
    Loop,
    Multiply,
    Operation,
    Outers,
    Pass,
)


class Writes:
    """When each vector is written, in one pass."""

    def __init__(self, part: Pass) -> None:
        self._moments = {v: list(found) for v, found in lifetimes(part).writes.items()}
        self._loops: dict[tuple[int, int, int], Loop] = {}
        self._products: list[frozenset[Vector]] = []
        self._fused: set[Vector] = set()
        for section, operations in enumerate(part.sections):
            for k, op in enumerate(operations):
                self._visit(section, k, op)
        self._equations = {id(loop): loop.equations for loop in self._loops.values()}

    def _visit(self, section: int, k: int, op: Operation) -> None:
        if isinstance(op, Fused):
            for n, loop in enumerate(op.loops):
                self._loops[section, k, n] = loop
            self._fused.update(op.writes)
        self._products += [frozenset(blocks) for blocks in sides(op)]

    def equations(self, loop: Loop) -> tuple[Eq, ...]:
        """What a loop computes, in the order in which it is written."""
        return self._equations[id(loop)]

    def settle(self, layouts: Iterable[Sequence[Vector]]) -> None:
        """Within each loop, write blocks in the order of memory where that is possible."""
        pairs = [pair for blocks in layouts for pair in pairwise(blocks)]
        for place, loop in self._loops.items():
            ordered = _ordered(loop.equations, pairs)
            self._equations[id(loop)] = ordered
            for m, e in enumerate(ordered):
                self._moments[e.lhs] = [Moment(*place, m)] + [
                    x for x in self._moments[e.lhs] if x[:3] != place
                ]

    def may_touch(self, v: Vector, after: Vector) -> bool:
        """Whether ``after`` may begin where ``v`` ends: it is written later, or together with it
        by a product, which writes a row of columns at once.
        """
        first, second = (self._moments.get(w, []) for w in (v, after))
        return bool(first and second) and all(self._is_mended(a, second) for a in first)

    def _is_mended(self, a: Moment, second: Sequence[Moment]) -> bool:
        """Whether what a write destroys of the block after it is written afterwards."""
        together = [b for b in second if a[:3] == b[:3]]
        if not together:
            return a < min(second)
        loop = self._loops.get(a[:3])
        return loop is None or (a < together[0] and (loop.backwards or not _scans(loop)))

    def arranged(self, blocks: Sequence[Vector]) -> tuple[Vector, ...]:
        """Blocks that the same products use, in the order in which stages write them; all the
        other way round if more of them may touch then.
        """
        groups: list[list[Vector]] = []
        for v in blocks:
            if groups and self._users(groups[-1][0]) == self._users(v):
                groups[-1].append(v)
            else:
                groups.append([v])
        for group in groups:
            if self._fused.issuperset(group):
                group.sort(key=lambda v: self._moments[v])
        orders = [[v for group in way for v in group] for way in (groups, groups[::-1])]
        return tuple(max(orders, key=lambda order: sum(starmap(self.may_touch, pairwise(order)))))

    def _users(self, v: Vector) -> list[bool]:
        return [v in used for used in self._products]


def sides(op: Operation) -> Iterator[tuple[Vector, ...]]:
    """What a product reads or writes by whole blocks, side by side."""
    if isinstance(op, Multiply):
        yield op.outs
        yield op.operands
    elif isinstance(op, Outers):
        yield op.lefts
    elif isinstance(op, Fill):
        yield op.outs


def _ordered(equations: Sequence[Eq], pairs: Iterable[tuple[Vector, Vector]]) -> tuple[Eq, ...]:
    """The equations, the first of a pair before the second unless it needs the second."""
    made = {e.lhs: k for k, e in enumerate(equations)}
    needs = [{made[v] for v in e.rhs.atoms(Vector) if v in made} for e in equations]

    def depends(k: int, on: int) -> bool:
        return k == on or any(depends(n, on) for n in needs[k])

    for v, after in pairs:
        if v in made and after in made and not depends(made[v], made[after]):
            needs[made[after]].add(made[v])
    done: list[int] = []
    while len(done) < len(equations):
        ready = (k for k in range(len(equations)) if k not in done and needs[k] <= set(done))
        done.append(next(ready))
    return tuple(equations[k] for k in done)


def _scans(loop: Loop) -> bool:
    return any(isinstance(e.rhs, Scan) for e in loop.equations)
