"""What operations are for: some serve nothing but values that a caller may not want."""

from __future__ import annotations

from collections.abc import Collection

from ..language.symbols import Vector
from .operations import Operation, Pass

# What is not one of the values that are asked about, such as the gradient of a parameter.
_OTHER = None


def serves_only(part: Pass, ends: Collection[Vector]) -> dict[tuple[int, int], tuple[Vector, ...]]:
    """The operations that serve some of ``ends`` and nothing else, by section and number in it.

    Such an operation has to be done if one of its ends is wanted. Others have no entry: gradients
    of parameters, what goes on to another step, and all that is needed for either.
    """
    operations = {
        (n, k): op for n, section in enumerate(part.sections) for k, op in enumerate(section)
    }
    readers: dict[Vector, list[tuple[int, int]]] = {}
    for place, op in operations.items():
        for v in op.reads:
            readers.setdefault(v, []).append(place)
    served = {place: _own(op, ends) for place, op in operations.items()}
    changed = True
    while changed:  # what an operation in a loop reads may be written by a later one
        changed = False
        for place, op in operations.items():
            more = {end for v in op.writes for at in readers.get(v, ()) for end in served[at]}
            if not more <= served[place]:
                served[place] |= more
                changed = True
    return {
        place: tuple(v for v in ends if v in found)
        for place, found in served.items()
        if found and _OTHER not in found
    }


def _own(op: Operation, ends: Collection[Vector]) -> set[Vector | None]:
    """What an operation serves by itself, not through others. Gradients are summed by those that
    write no value.
    """
    is_other = not op.writes or any(v.category == "carry" for v in op.writes)
    return {*(v for v in op.writes if v in ends), *([_OTHER] if is_other else [])}
