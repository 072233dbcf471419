"""Equations that say the same of different values: i, f and o, each a σ of its own argument.

Where a call has a price, one call for all of them is better than one for each, if what they read
and write lies side by side. A group of such equations runs in lanes: its k-th equation, and what
this reads and writes, is in the k-th lane. Lanes go through all groups and stacked products, so
that all buffers have them in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product

import sympy
from sympy import Eq, Expr

from ..language.cell import Cell
from ..language.symbols import (
    STATIC,
    Concat,
    Contract,
    Product,
    Reduction,
    Scan,
    Vector,
    View,
)

_MIXING = (Product, Contract, View, Concat)  # reductions of a vector may be in lanes
_MADE = ("vector", "partial", "adjoint", "coefficient", "shared")


@dataclass(frozen=True)
class Group:
    """Equations in lanes, and what differs among them.

    ``varied`` maps each vector of the first equation that the others have another one for to the
    vectors of all lanes; what is not in it is the same for all.
    """

    equations: tuple[Eq, ...]
    varied: Mapping[Vector, tuple[Vector, ...]]

    @property
    def lhs(self) -> tuple[Vector, ...]:
        return tuple(e.lhs for e in self.equations)

    @property
    def tuples(self) -> list[tuple[Vector, ...]]:
        """What has to lie side by side."""
        read = [t for v, t in self.varied.items() if v.category not in STATIC]
        return [self.lhs, *sorted(read, key=str)]

    @property
    def families(self) -> list[Group]:
        """The lanes whose names differ in their last part only, as those of a_i and a_f do."""
        lanes: dict[str, list[int]] = {}
        for k, v in enumerate(self.lhs):
            lanes.setdefault(v.name.rpartition("_")[0], []).append(k)
        return [self.chosen(chosen) for chosen in lanes.values() if len(chosen) > 1]

    def chosen(self, lanes: Sequence[int]) -> Group:
        """Some of the lanes, in that order."""
        first = lanes[0]
        varied = {t[first]: tuple(t[k] for k in lanes) for t in self.varied.values()}
        return Group(tuple(self.equations[k] for k in lanes), varied)


def groups(equations: Sequence[Eq], cell: Cell, apart: Iterable[Vector] = ()) -> list[Group]:
    """The largest groups first; an equation is in one at the most.

    ``apart`` are vectors with a place of their own, which nothing can lie beside.
    """
    apart = set(apart)
    level = _levels(equations)
    alike: dict[tuple[object, ...], list[Eq]] = {}
    for e in equations:
        plain = not e.rhs.has(Scan, *_MIXING) and not any(
            r.axis is not None for r in e.rhs.atoms(Reduction)
        )
        if plain and _may_vary(e.lhs, apart) and e.rhs.atoms(Vector):
            alike.setdefault((level[e.lhs], *_outline(e, cell)), []).append(e)
    found = []
    for candidates in alike.values():
        left = candidates
        while best := _largest(left, cell, apart):
            found.append(best)
            left = [e for e in left if e not in best.equations]
    return sorted(found, key=lambda g: -len(g.equations))


def _levels(equations: Sequence[Eq]) -> dict[Vector, int]:
    """How many equations have to run before each: those of one level do not need each other."""
    level: dict[Vector, int] = {}
    for e in equations:
        level[e.lhs] = 1 + max((level.get(v, -1) for v in e.rhs.atoms(Vector)), default=-1)
    return level


def _may_vary(v: Vector, apart: set[Vector]) -> bool:
    return v.category.startswith(_MADE) and v not in apart


def _outline(e: Eq, cell: Cell) -> tuple[object, ...]:
    """What equations of one group have in common at the least."""
    kinds = sorted((v.category, v.time, str(cell.size(v))) for v in e.rhs.atoms(Vector))
    return (
        str(cell.size(e.lhs)), e.lhs.category, e.rhs.func.__name__, len(e.rhs.args),
        int(sympy.count_ops(e.rhs)), tuple(kinds),
    )  # fmt: skip


def _largest(equations: Sequence[Eq], cell: Cell, apart: set[Vector]) -> Group | None:
    best: Group | None = None
    for k, seed in enumerate(equations):
        partners: dict[frozenset[Vector], list[tuple[Eq, dict[Vector, Vector]]]] = {}
        for e in equations[k + 1 :]:
            matching = _match(seed.rhs, e.rhs, cell, apart)
            if matching is not None:
                same = frozenset(v for v, w in matching.items() if v == w)
                partners.setdefault(same, []).append((e, matching))
        for members in partners.values():
            group = _group(seed, members)
            if best is None or len(group.equations) > len(best.equations):
                best = group
    return best if best is not None and len(best.equations) > 1 else None


def _group(seed: Eq, members: Sequence[tuple[Eq, dict[Vector, Vector]]]) -> Group:
    """Those of ``members`` that differ from each other wherever they differ from ``seed``."""
    chosen = [seed]
    lanes: dict[Vector, list[Vector]] = {
        v: [v] for v, w in (members[0][1] if members else {}).items() if v != w
    }
    for e, matching in members:
        if all(matching[v] not in lane for v, lane in lanes.items()):
            chosen.append(e)
            for v, lane in lanes.items():
                lane.append(matching[v])
    return Group(tuple(chosen), {v: tuple(lane) for v, lane in lanes.items()})


def _match(one: Expr, other: Expr, cell: Cell, apart: set[Vector]) -> dict[Vector, Vector] | None:
    """Which vectors of ``one`` to replace, and by which, to get ``other``."""
    mine, yours = one.atoms(Vector), other.atoms(Vector)
    same = {v: v for v in mine & yours}
    mine, yours = mine - yours, yours - mine
    if len(mine) != len(yours) or not all(
        v.category in STATIC or _may_vary(v, apart) for v in mine | yours
    ):
        return None

    def kind(v: Vector) -> tuple[str, int, str]:
        return (v.category, v.time, str(cell.size(v)))

    kinds = sorted({kind(v) for v in mine})
    sides = [
        ([v for v in sorted(mine, key=str) if kind(v) == k],
         [v for v in sorted(yours, key=str) if kind(v) == k]) for k in kinds
    ]  # fmt: skip
    if any(len(a) != len(b) or len(a) > 4 for a, b in sides):
        return None
    for choice in product(*(permutations(b) for _, b in sides)):
        matching = dict(same)
        for (a, _), b in zip(sides, choice, strict=True):
            matching.update(zip(a, b, strict=True))
        if one.xreplace(matching) == other:
            return matching
    return None


class Lanes:
    """Which vectors are in the same lane: a union of sets that grows."""

    def __init__(self) -> None:
        self._parent: dict[Vector, Vector] = {}

    def of(self, v: Vector) -> Vector:
        """The vector that stands for the lane of ``v``."""
        while v in self._parent:
            v = self._parent[v]
        return v

    def join(self, pairs: Iterable[tuple[Vector, Vector]], apart: Sequence[set[Vector]]) -> bool:
        """Put the vectors of each pair into one lane, unless that would put two of a set that is
        ``apart`` into one.
        """
        before = dict(self._parent)
        for v, w in pairs:
            a, b = self.of(v), self.of(w)
            if a != b:
                self._parent[b] = a
        for s in apart:
            if len({self.of(v) for v in s}) < len(s):
                self._parent = before
                return False
        return True


def lane_order(
    sets: Sequence[tuple[Vector, ...]],
    order: Callable[[Sequence[tuple[Vector, ...]]], list[tuple[Vector, ...]]],
    lanes: Lanes,
) -> list[tuple[Vector, ...]]:
    """``sets``, merged where they overlap, each in the order of its lanes, by ``order``."""
    place: dict[Vector, int] = {}
    for component in order([tuple(dict.fromkeys(lanes.of(v) for v in s)) for s in sets]):
        for lane in component:
            place.setdefault(lane, len(place))
    merged: list[set[Vector]] = []
    for s in sets:
        group = set(s).union(*(m for m in merged if m & set(s)))
        merged = [*(m for m in merged if not m & group), group]
    return [tuple(sorted(m, key=lambda v: (place[lanes.of(v)], str(v)))) for m in merged]
