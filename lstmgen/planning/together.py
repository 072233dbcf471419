"""What is computed together: equations, and sums over all rows, whose values lie side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sympy import Eq, Expr

from ..derivation.reverse import adjoint
from ..language.cell import Cell
from ..language.symbols import Vector
from .assignment import Assignment
from .lanes import Group, groups
from .operations import Fused, Operation, Sums

Pair = tuple[Vector, Expr]  # a parameter, and what it gains from a row


def with_callers(cell: Cell) -> set[Vector]:
    """What has a place of its own, with the caller, and cannot be in lanes."""
    return {*cell.outputs, *(adjoint(v) for v in cell.inputs)}


def all_lanes(
    operations: Iterable[Operation], assignment: Assignment
) -> dict[Operation, tuple[Group, ...]]:
    """The lanes of each operation that has some."""
    found: dict[Operation, tuple[Group, ...]] = {}
    for op in operations:
        lanes: tuple[Group, ...] = ()
        if isinstance(op, Fused):
            lanes = _of_equations(op, assignment)
        elif isinstance(op, Sums):
            lanes = _of_sums(op, assignment)
        if lanes:
            found[op] = lanes
    return found


def _of_equations(op: Fused, assignment: Assignment) -> tuple[Group, ...]:
    """Equations that say the same of values side by side."""
    cell = assignment.cell
    alike = groups(op.equations, cell, with_callers(cell))
    return tuple(run for group in alike for run in assignment.runs(group, group.tuples))


def _of_sums(op: Sums, assignment: Assignment) -> tuple[Group, ...]:
    """Terms that say the same of values side by side. On the left of each stands the parameter, as
    a vector of one equation's own.
    """
    cell, pairs = assignment.cell, op.pairs
    alike = [
        Eq(Vector(p.name, "coefficient", p.axes), term, evaluate=False)
        for p, term in pairs
        if cell.size(p) == cell.shapes.of(term) and len(beside(pairs, (p, term), assignment)) == 1
    ]
    return tuple(
        run for group in groups(alike, cell) for run in assignment.runs(group, group.tuples[1:])
    )


def beside(pairs: Sequence[Pair], pair: Pair, assignment: Assignment) -> Sequence[Pair]:
    """``pair``, and those of ``pairs`` whose terms lie beside its term in rows: one sum for all."""
    first = pair[1]
    buffer = assignment.home(first) if isinstance(first, Vector) else None
    if buffer is None or len(buffer.blocks) == 1 or buffer.apart:
        return [pair]
    found: dict[int, Pair] = {}
    for p, term in pairs:
        inside = isinstance(term, Vector) and assignment.home(term) == buffer
        if inside and assignment.cell.size(p) == assignment.cell.size(term):
            found.setdefault(assignment.index(term), (p, term))
    here = assignment.index(first)
    lower = upper = here
    while lower - 1 in found:
        lower -= 1
    while upper + 1 in found:
        upper += 1
    if found.get(here) != pair:
        return [pair]
    return [found[k] for k in range(lower, upper + 1)]
