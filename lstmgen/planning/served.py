"""What operations are for: some serve nothing but values that a caller may not want."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum

from ..language.symbols import Vector
from .operations import Operation, Pass


class Total(Enum):
    """What is wanted of a pass as a whole, or not at all."""

    GRADIENTS = "the gradients of parameters"


End = Vector | Total
Place = tuple[int, int]  # of an operation: the section, and the number in it

# What is not one of the ends that are asked about, such as what goes on to another step.
_OTHER = None


def serves_only(part: Pass, ends: Collection[End]) -> dict[Place, tuple[End, ...]]:
    """The operations that serve some of ``ends`` and nothing else.

    Such an operation has to be done if one of its ends is wanted. Others have no entry: what goes
    on to another step, what is no end here, and all that is needed for either.
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


def wanted_for(v: Vector, part: Pass, served: Mapping[Place, tuple[End, ...]]) -> tuple[End, ...]:
    """The ends of the operations that read ``v``; none if one of these has to be done anyway."""
    found: list[End] = []
    for n, section in enumerate(part.sections):
        for k, op in enumerate(section):
            if v in op.reads:
                if (n, k) not in served:
                    return ()
                found += served[n, k]
    return tuple(dict.fromkeys(found))


def _own(op: Operation, ends: Collection[End]) -> set[End | None]:
    """What an operation serves by itself, not through others. Gradients are summed by those that
    write no value.
    """
    if not op.writes:
        return {Total.GRADIENTS if Total.GRADIENTS in ends else _OTHER}
    is_other = any(v.category == "carry" for v in op.writes)
    return {*(v for v in op.writes if v in ends), *([_OTHER] if is_other else [])}
