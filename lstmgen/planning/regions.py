"""Which section of a pass each equation runs in: a loop over steps, or all steps at once.

What steps hand on to each other is in pairs, what comes into a step and what leaves it: a state,
h[t-1] and h[t], or backward what flows into it, δh⁺ and δh⁺[t-1]. A pair whose ends depend on each
other is a recurrence, for which there is a loop. Of others all steps can be had at once: x_before
that only delays the input comes before the loop, and what flows back into it after the loop. There
what comes into a step is a view of what leaves the steps, shifted by one.

A recurrence that feeds another one through a product, as the values observed last feed the hidden
state, has a loop of its own: between the two loops, the product is done for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sympy import Eq
from sympy.utilities.iterables import strongly_connected_components

from ..language.symbols import Contract, Product, Vector
from .operations import after_loop, is_loop, moved


@dataclass(frozen=True)
class Regions:
    """The section of every equation, by its left-hand side.

    ``equations`` are in an order in which they can be run. ``shifted`` maps what comes into a step
    to what leaves it, for the pairs that are no recurrence: where the first is read outside the
    loop, the second has been computed for all steps. ``recurrent`` are the other pairs.
    """

    equations: tuple[Eq, ...]
    of: Mapping[Vector, int]
    shifted: Mapping[Vector, Vector]
    recurrent: Mapping[Vector, Vector]

    @property
    def sections(self) -> range:
        """All sections. The first and the last are no loops."""
        return range(after_loop(max((1, *self.of.values()))) + 1)

    def at_once(self, v: Vector) -> int:
        """The first section that has ``v`` of all steps before it begins, or makes it."""
        v = self.shifted.get(v, self.recurrent.get(v, v))
        return after_loop(self.of.get(v, 0))


def regions(
    equations: Sequence[Eq], carried: Mapping[Vector, Vector], movable: Callable[[Eq], bool],
    large: Callable[[Vector], bool],
) -> Regions:  # fmt: skip
    """Put each equation as far out of the loops as it can go, and should.

    Parameters
    ----------
    equations : sequence of Eq
        In an order in which they can be run.
    carried : mapping
        From what comes into a step to what leaves it.
    movable : callable
        Whether an equation is better done for all steps at once. Others stay with who needs them.
    large : callable
        Whether a value has so many numbers that a step should go over them once.
    """
    shifted = _without_recurrence(equations, carried)
    while True:
        ordered = _in_order(equations, shifted)
        placed = _Placement(ordered, carried, shifted, movable, large)
        made = placed.section
        # of a carry that is computed in a loop, nothing outlasts the step
        short = {v for v, out in shifted.items() if _is_carry(v) and is_loop(made[out])}
        if not short:
            return Regions(ordered, made, shifted, placed.recurrent)
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


def _needs(e: Eq, handed_on: Mapping[Vector, Vector]) -> set[Vector]:
    """What ``e`` reads, and what leaves the step before where it reads what came of that."""
    read: set[Vector] = e.rhs.atoms(Vector)
    return read | {handed_on[v] for v in read if v in handed_on}


class _Placement:
    """The section of each equation, if the pairs of ``shifted`` need no loop."""

    def __init__(
        self, equations: Sequence[Eq], carried: Mapping[Vector, Vector],
        shifted: Mapping[Vector, Vector], movable: Callable[[Eq], bool],
        large: Callable[[Vector], bool],
    ) -> None:  # fmt: skip
        self.equations, self.handed_on, self.shifted = equations, carried, shifted
        self.movable = movable
        self.recurrent = {v: out for v, out in carried.items() if v not in shifted}
        self.equation = {e.lhs: e for e in equations}
        self.reads: dict[Vector, set[Vector]] = {e.lhs: e.rhs.atoms(Vector) for e in equations}
        self.needs = {e.lhs: _needs(e, carried) & self.equation.keys() for e in equations}
        self.section: dict[Vector, int] = {}
        self.lazy: set[Vector] = set()
        self.staying = self._staying(large)
        for component in self._components():
            self._place(component)
        self._place_lazy()

    def _components(self) -> list[list[Vector]]:
        """What depends on each other, through earlier steps, after all that it needs. What reads a
        carry is in its loop: the carry is gone after its step.
        """
        needs = {v: set(read) for v, read in self.needs.items()}
        for e in self.equations:
            for v in e.rhs.atoms(Vector):
                if _is_carry(v) and self.recurrent.get(v) in needs:
                    needs[self.recurrent[v]].add(e.lhs)
        order = {e.lhs: k for k, e in enumerate(self.equations)}
        edges = [(v, u) for v in needs for u in sorted(needs[v], key=order.__getitem__)]
        found: list[list[Vector]] = strongly_connected_components((list(needs), edges))
        return found

    def _place(self, component: Sequence[Vector]) -> None:
        """Give a component the first section that it can be in, and its products be before it."""
        own = set(component)
        first = max((n for v in component for n in self._ready(v, own)), default=0)
        if not own.isdisjoint(self.recurrent.values()):
            first = first if is_loop(first) else first + 1
        elif self.movable(self.equation[component[0]]) and own.isdisjoint(self.staying):
            first = after_loop(first)
        elif not is_loop(first):
            self.lazy.update(component)
        self.section.update(dict.fromkeys(component, first))

    def _staying(self, large: Callable[[Vector], bool]) -> set[Vector]:
        """What could come after a loop, but keeps a recurrence of large arrays from being in it
        that reads those of the loop. In a loop of its own, that would fetch all steps of them from
        memory again, which takes longer than a few vectors of each step, one step at a time.
        """
        arrays = {out for out in self.recurrent.values() if large(out)}
        before = {v: self._before(v) for v in arrays}
        found: set[Vector] = set()
        for v in arrays:
            for u in before[v] & arrays:
                between = before[v] - before[u] - {u, v} if v not in before[u] else set()
                if not any(self._waits(w) for w in between):
                    found |= between
        return found

    def _before(self, v: Vector) -> set[Vector]:
        """All that ``v`` depends on, in earlier steps too."""
        found, waiting = set[Vector](), [v]
        while waiting:
            read = self.needs[waiting.pop()] - found
            found |= read
            waiting += read
        return found

    def _waits(self, v: Vector) -> bool:
        """Whether it has a product of what a loop makes, which is done for all steps at once."""
        operands = {p.operand for p in self.equation[v].rhs.atoms(Product)}
        operands = {self.handed_on.get(u, u) for u in operands} & self.equation.keys()
        made = set(self.recurrent.values())
        return any(u in made or not made.isdisjoint(self._before(u)) for u in operands)

    def _ready(self, v: Vector, own: set[Vector]) -> Iterator[int]:
        """When each value is there that ``v`` needs, but for its ``own`` component: for a product,
        when it is there for all steps.
        """
        operands = {p.operand for p in self.equation[v].rhs.atoms(Product)}
        operands |= {self.handed_on[w] for w in operands if w in self.handed_on}
        for u in self.needs[v] - own:
            yield after_loop(self.section[u]) if u in operands else self.section[u]

    def _place_lazy(self) -> None:
        """Elementwise work that no loop has to do goes to whoever needs it, a step first."""
        for e in reversed(self.equations):
            if e.lhs not in self.lazy:
                continue
            first = self.section[e.lhs]
            names = {e.lhs, *(v for v, out in self.shifted.items() if out == e.lhs)}
            users = set()
            for u in self.equations:
                if not names.isdisjoint(self.reads[u.lhs]):
                    as_operand = any(p.operand in names for p in u.rhs.atoms(Product))
                    section = self.section[u.lhs]
                    users.add(first if as_operand and is_loop(section) else section)
            users |= {n for n in self._beside(e) if n > first}
            self.section[e.lhs] = min(users, default=first or 1)

    def _beside(self, e: Eq) -> set[int]:
        """The loops that read, of another step, the matrix that ``e`` contracts: in these it is in
        cache, and to go over those of all steps at once would fetch them from memory again.
        """
        if not isinstance(e.rhs, Contract) or e.rhs.is_outer:
            return set()
        matrices = {v.name for v in e.rhs.atoms(Vector) - moved(e.rhs) if v.category == "state"}
        return {
            self.section[u.lhs]
            for u in self.equations
            if is_loop(self.section[u.lhs]) and any(v.name in matrices for v in self.reads[u.lhs])
        }


def _is_carry(v: Vector) -> bool:
    return v.category == "carry"
