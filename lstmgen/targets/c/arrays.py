"""The arrays that callers own, as members of what a call was given."""

from __future__ import annotations

from collections.abc import Sequence

from ...language.cell import Cell
from ...language.symbols import Vector
from ...planning.served import End, Total
from .tree import NULL, Conditions, Expression, Member, Relation
from .vocabulary import CALL


def array(cell: Cell, v: Vector) -> Expression:
    """The array of a caller that holds ``v``: of several inputs or outputs, a member of theirs."""
    if v.category in ("cotangent", "vector", "state"):
        whole = Member(CALL, "dy" if v.category == "cotangent" else "y")
        return Member(whole, v.name) if len(cell.outputs) > 1 else whole
    whole = Member(CALL, {"adjoint": "dx", "input": "x", "mask": "m"}[v.category])
    several = len(cell.inputs) > 1 or v.category == "mask"
    return Member(whole, v.name) if several else whole


def is_there(cell: Cell, end: End) -> Relation:
    """Whether a caller has given the array, or those for the gradients of parameters."""
    given = Member(CALL, "g") if isinstance(end, Total) else array(cell, end)
    return Relation(given, "!=", NULL, "size")


def any_is_there(cell: Cell, some: Sequence[End]) -> Expression:
    """Whether a caller has given one of these."""
    found = tuple(is_there(cell, v) for v in some)
    return Conditions(found, "||") if len(found) > 1 else found[0]
