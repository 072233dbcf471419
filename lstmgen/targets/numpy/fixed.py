"""What is made of parameters alone, once for all steps, and its way back to their gradients.

Such values are rows like any others, of a batch with one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...language.symbols import Vector
from ...planning.operations import Fused
from ...planning.plans import Plan
from ...printing.orders import Order
from ..naming import identifier
from .lower import Lowering
from .operands import Operands
from .tree import (
    DTYPE,
    PACKED,
    SIZES,
    Argument,
    Assign,
    Attribute,
    Declare,
    Dict,
    Function,
    Kind,
    Literal,
    Local,
    Node,
    Reshaped,
    Return,
    amount,
    bind,
    empty,
    item,
    number,
    size,
)

_GATHERED = Argument("gathered")


class _Operands(Operands):
    """One row of each value. ``made`` are those that the function itself computes."""

    def __init__(self, plan: Plan, made: set[Vector]) -> None:
        super().__init__(plan)
        self.made = made

    def of(self, v: Vector, inside: bool) -> Node:
        if v in self.made:
            return Local((v, "step"), identifier(v), Kind.SCRATCH, empty(number(1), self.units(v)))
        if v.category not in ("derived", "gathered"):
            return self.parameters.vector(v)
        table = Attribute(PACKED, "fixed") if v.category == "derived" else _GATHERED
        row = Reshaped(item(table, Literal(v.name)), (number(1), self.units(v)))
        return Local((v, "step"), identifier(v), Kind.PARAMETER, row)

    def lasts(self, buffer: object) -> bool:
        return False


def fixed(plan: Plan, order: Order) -> Function:
    """The function that makes them, a dict from name to array."""
    return _function("_fixed", plan, order, {v: v for v in plan.made.values()}, plan.fixed)


def fixed_gradients(plan: Plan, order: Order) -> Function:
    """The function that says what the gradients of parameters gain from theirs."""
    return _function("_fixed_gradients", plan, order, plan.gains, plan.fixed_adjoints)


def _function(
    name: str, plan: Plan, order: Order,
    results: Mapping[Any, Vector], operations: tuple[Fused, ...],
) -> Function:  # fmt: skip
    cell = plan.cell
    made = {v for op in operations for v in op.writes}
    operands = _Operands(plan, made)
    body = Lowering(operands, order).equations(operations, True)
    shown = Dict(
        tuple(
            (p.name, Reshaped(operands.of(v, True), tuple(map(amount, cell.shape(p)))))
            for p, v in results.items()
        )
    )
    return Function(
        name,
        (
            Assign((DTYPE, SIZES), (Attribute(PACKED, "dtype"), Attribute(PACKED, "sizes"))),
            Declare((Kind.SIZE,), tuple(size(str(n)) for n in cell.sizes)),
            bind(size("B"), number(1)),
            Declare((Kind.PARAMETER,)),
            Declare((Kind.NUMBER,)),
            Declare((Kind.SCRATCH,)),
            Declare((Kind.VIEW,)),
            *body,
            Return((shown,)),
        ),
    )
