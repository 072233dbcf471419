"""Where each equation runs: before the loop over steps, in it, or after it.

What steps hand on to each other is in pairs, what comes into a step and what leaves it: a state,
h[t-1] and h[t], or backward what flows into it, δh⁺ and δh⁺[t-1]. A pair whose ends depend on each
other is a recurrence, for which there is a loop. Of others all steps can be had at once: x_before
that only delays the input comes before the loop, and what flows back into it after the loop. There
what comes into a step is a view of what leaves the steps, shifted by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sympy import Eq

from ..language.symbols import Product, Vector
from .operations import AFTER, BEFORE, STEP


@dataclass(frozen=True)
class Regions:
    """The region of every equation, by its left-hand side.

    ``equations`` are in an order in which they can be run. ``shifted`` maps what comes into a step
    to what leaves it, for the pairs that are no recurrence: where the first is read outside the
    loop, the second has been computed for all steps.
    """

    equations: tuple[Eq, ...]
    of: Mapping[Vector, str]
    shifted: Mapping[Vector, Vector]


def regions(
    equations: Sequence[Eq], carried: Mapping[Vector, Vector], movable: Callable[[Eq], bool]
) -> Regions:
    """Put each equation as far out of the loop as it can go, and should.

    Parameters
    ----------
    equations : sequence of Eq
        In an order in which they can be run.
    carried : mapping
        From what comes into a step to what leaves it.
    movable : callable
        Whether an equation is better done for all steps at once. Others stay with who needs them.
    """
    shifted = _without_recurrence(equations, carried)
    while True:
        ordered = _in_order(equations, shifted)
        made = _Placement(ordered, carried, shifted, movable).region
        # of a carry that is computed in the loop, nothing outlasts the step
        short = {v for v, out in shifted.items() if v.category == "carry" and made[out] == STEP}
        if not short:
            return Regions(ordered, made, shifted)
        shifted = {v: out for v, out in shifted.items() if v not in short}


def _without_recurrence(
    equations: Sequence[Eq], carried: Mapping[Vector, Vector]
) -> dict[Vector, Vector]:
    """The pairs of which what leaves a step does not depend on what came into earlier ones."""
    reads: dict[Vector, set[Vector]] = {v: {v} for v in carried}  # of what came into this step
    for e in equations:
        reads[e.lhs] = set().union(*(reads.get(v, ()) for v in e.rhs.atoms(Vector)))

    def earlier(v: Vector) -> set[Vector]:
        found: set[Vector] = set()
        waiting = list(reads.get(carried[v], ()))
        while waiting:
            u = waiting.pop()
            if u not in found:
                found.add(u)
                waiting += reads.get(carried[u], ())
        return found

    return {v: out for v, out in carried.items() if v not in earlier(v)}


def _in_order(equations: Sequence[Eq], shifted: Mapping[Vector, Vector]) -> tuple[Eq, ...]:
    """The equations, what is shifted before who reads it of the step before."""
    waiting = {e.lhs for e in equations}
    left, done = list(equations), list[Eq]()
    while left:
        e = next(e for e in left if not _needs(e, shifted) & waiting)
        left.remove(e)
        waiting.discard(e.lhs)
        done.append(e)
    return tuple(done)


def _needs(e: Eq, shifted: Mapping[Vector, Vector]) -> set[Vector]:
    read: set[Vector] = e.rhs.atoms(Vector)
    return read | {shifted[v] for v in read if v in shifted}


class _Placement:
    """The region of each equation, if the pairs of ``shifted`` need no loop."""

    def __init__(
        self, equations: Sequence[Eq], carried: Mapping[Vector, Vector],
        shifted: Mapping[Vector, Vector], movable: Callable[[Eq], bool],
    ) -> None:  # fmt: skip
        self.equations, self.shifted, self.movable = equations, shifted, movable
        self.inside = {v: out for v, out in carried.items() if v not in shifted}
        self.reads = {e.lhs: _needs(e, shifted) for e in equations}
        self.depends = self._depends()
        self.feeds = self._feeds()
        self.region: dict[Vector, str] = {}
        for e in equations:
            self.region[e.lhs] = self._first(e)
        self._place_lazy()

    def _depends(self) -> set[Vector]:
        """What depends on a recurrence."""
        found = set(self.inside)
        for e in self.equations:
            if self.reads[e.lhs] & found:
                found.add(e.lhs)
        return found

    def _feeds(self) -> set[Vector]:
        """What the loop has to compute: what it carries on, and what reads a carry, which is gone
        after its step.
        """
        found = set(self.inside.values())
        found |= {e.lhs for e in self.equations if any(_is_carry(v) and v in self.inside
                                                       for v in e.rhs.atoms(Vector))}  # fmt: skip
        for e in reversed(self.equations):
            if e.lhs in found:
                found |= {v for v in self.reads[e.lhs] if v in self.reads}
        return found

    def _first(self, e: Eq) -> str:
        """The region of ``e``, "lazy" if that is where it is needed."""
        late = any(self.region.get(v) == AFTER for v in self.reads[e.lhs])
        if e.lhs in self.depends:
            stays = e.lhs in self.feeds or not (late or self.movable(e))
            return STEP if stays else AFTER
        if _is_carry(e.lhs) and e.lhs in self.inside.values():
            return STEP
        return BEFORE if self.movable(e) else "lazy"

    def _place_lazy(self) -> None:
        """Elementwise work that no recurrence needs goes to whoever needs it, the step first."""
        for e in reversed(self.equations):
            if self.region[e.lhs] != "lazy":
                continue
            names = {e.lhs, *(v for v, out in self.shifted.items() if out == e.lhs)}
            users = set()
            for u in self.equations:
                if not u.rhs.has(*names):
                    continue
                as_operand = any(p.operand in names for p in u.rhs.atoms(Product))
                region = self.region[u.lhs]
                users.add(BEFORE if as_operand and region == STEP else region)
            if e.lhs in self.inside.values():
                users.add(STEP)  # the next step reads it
            self.region[e.lhs] = next((r for r in (BEFORE, STEP, AFTER) if r in users), STEP)


def _is_carry(v: Vector) -> bool:
    return v.category == "carry"
