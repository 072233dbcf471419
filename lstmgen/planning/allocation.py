"""All memory of a plan, each piece once: the tape's, and what each pass works in.

It is counted as it is allocated. Of memory of their own, targets add what calls are made with
(copies of a caller's rows, packed matrices, terms of a sum), and room up to whole vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sympy import Expr

from ..derivation.reverse import carry
from ..language.symbols import Vector
from .assignment import Assignment
from .lifetimes import Lifetimes, Moment, lifetimes
from .operations import B, K, Pass, T

_TAPE = {"tape": T * B, "state": (T + 1) * B}  # a state is there as it comes into the first step
_WORK = {"tile": K * B, "step": B}


@dataclass(frozen=True)
class Allocation:
    """So many ``rows`` of ``width`` numbers, for ``blocks``.

    In its pass, they are accessed from ``first`` to ``last``, by all values that have this place;
    None on the tape, which both passes access.
    """

    blocks: tuple[Vector, ...]
    rows: Expr
    width: Expr
    first: Moment | None = None
    last: Moment | None = None

    @property
    def numbers(self) -> Expr:
        return self.rows * self.width


def tape(assignment: Assignment) -> tuple[Allocation, ...]:
    """What forward keeps for backward."""
    return tuple(
        Allocation(b.blocks, _TAPE[b.scope], assignment.width(b.blocks))
        for b in assignment.real
        if b.scope in _TAPE
    )


def workspace(assignment: Assignment, part: Pass, *, arrays: bool) -> tuple[Allocation, ...]:
    """What the values of one pass take beside the tape and callers' arrays.

    With ``arrays``, what has no buffer is an array, too.
    """
    used = lifetimes(part)
    made = {assignment.of(v): m[0] for v, m in used.writes.items() if assignment.home(v) is None}
    values = {*used.reads, *used.writes}
    taken = {b for v in values if (b := assignment.home(v)) is not None}
    pieces = [
        (b.blocks, _WORK["tile" if b.is_copied else b.scope])
        for b in assignment.real
        if b in taken and (b.scope in _WORK or b.is_copied)
    ]
    if arrays:
        loose = (v for v in made if v.category != "carry")
        pieces += [((v,), B if made[v].in_loop else K * B) for v in loose]
    found = []
    for blocks, rows in pieces:
        first, last = _span(assignment, used, blocks)
        found.append(Allocation(blocks, rows, assignment.width(blocks), first, last))
    return tuple(found)


def carried(assignment: Assignment, part: Pass) -> tuple[Allocation, ...]:
    """What the backward pass hands on from step to step: what arrives from t+1, and what leaves for
    t-1 unless it is in the same place; of all steps, where it is made outside the loop.
    """
    used = lifetimes(part)
    return tuple(
        Allocation((v,), rows, assignment.cell.size(v), *_span(assignment, used, (v,)))
        for s in assignment.cell.states
        for v, rows in _of_state(assignment, s)
    )


def _of_state(assignment: Assignment, s: Vector) -> Iterator[tuple[Vector, Expr]]:
    arriving, leaving = carry(s), carry(s, -1)
    yield arriving, B
    home = assignment.homes.get(leaving)
    if home is not None and home.scope == "carries":
        yield leaving, (K + 1) * B
    elif assignment.of(leaving) == leaving:
        yield leaving, B


def _span(
    assignment: Assignment, used: Lifetimes, blocks: Iterable[Vector]
) -> tuple[Moment | None, Moment | None]:
    """The first and the last access to all that is in this place."""
    here = set(blocks)
    values = {*used.reads, *used.writes}
    spans = [used.span(v) for v in values if assignment.of(v) in here]
    if not spans:
        return None, None
    return min(first for first, _ in spans), max(last for _, last in spans)
