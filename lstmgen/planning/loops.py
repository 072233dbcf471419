"""Loops over units: which equations of a stage share one."""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Eq

from ..language.cell import Cell
from ..language.shapes import Shape
from ..language.symbols import Concat, Contract, Reduction, Scan, Transpose, Vector, rcumsum
from .operations import Loop, iteration, moved, needs_axes


def loops(equations: Sequence[Eq], cell: Cell) -> tuple[Loop, ...]:
    """Put equations into as few loops over units as their reductions allow.

    Each goes into the first loop of its shape that does not come before the values it reads; the
    value of a reduction is there only after its loop.
    """
    found: list[tuple[Shape, bool, list[Eq]]] = []
    ready: dict[Vector, int] = {}  # value -> the first loop that may read it
    made: dict[Vector, int] = {}
    for e in equations:
        shape, backwards = iteration(e, cell), isinstance(e.rhs, rcumsum)
        elsewhere = moved(e.rhs)
        first = max(
            (made[v] + 1 if v in elsewhere else ready[v] for v in e.rhs.atoms(Vector) if v in made),
            default=0,
        )
        # a running sum goes along one of the axes, the others in another order
        alone = isinstance(e.rhs, (Scan, Transpose, Concat)) and needs_axes(e.rhs)
        for k in range(len(found) if alone else first, len(found)):
            if found[k][:2] == (shape, backwards):
                break
        else:
            k = len(found)
            found.append((shape, backwards, []))
        found[k][2].append(e)
        # a loop that runs the other way cannot share a register with this one, nor can a sum
        is_sum = isinstance(e.rhs, Reduction) and not isinstance(e.rhs, Scan)
        summed = is_sum or (isinstance(e.rhs, Contract) and not e.rhs.is_outer)
        made[e.lhs] = k
        ready[e.lhs] = k + 1 if summed or alone or shape != cell.shape(e.lhs) else k
    _sink([lines for _, _, lines in found], [loop[:2] for loop in found])
    return tuple(Loop(shape, tuple(lines), back) for shape, back, lines in found if lines)


def _sink(every: Sequence[list[Eq]], kinds: Sequence[tuple[Shape, bool]]) -> None:
    """Make outer products where they are read, if that is one later loop over the same axes: they
    cost less than the memory that they would take until then.
    """
    for k, lines in enumerate(every):
        for e in [e for e in lines if isinstance(e.rhs, Contract) and e.rhs.is_outer]:
            readers = [j for j in range(k, len(every)) if any(r.rhs.has(e.lhs) for r in every[j])]
            if len(readers) == 1 and readers[0] > k and kinds[readers[0]] == kinds[k]:
                lines.remove(e)
                every[readers[0]].insert(0, e)
