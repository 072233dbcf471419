"""One step, for streaming: straight on, with as few calls as it takes."""

from __future__ import annotations

from dataclasses import replace

from ...language.symbols import Vector
from ...planning.operations import Buffer, Multiply
from ...planning.plans import Plan
from ...printing.orders import Order
from .lower import Lowering, check_parameters, flat, shaped, strings
from .operands import MASKS, Operands
from .places import Places
from .products import Products
from .scratch import for_product
from .tree import (
    DTYPE,
    PACKED,
    SIZES,
    Argument,
    Assign,
    Binary,
    Declare,
    Dict,
    Do,
    Equation,
    Function,
    Global,
    If,
    Kind,
    Literal,
    Local,
    Merged,
    Node,
    Reshaped,
    Return,
    Swapped,
    Tuple,
    amount,
    call,
    item,
    method,
    number,
    size,
)

_X, _STATE = Argument("x_t"), Argument("state")


class _Operands(Operands):
    """Every array is one of (B, size)."""

    def here(self, v: Vector) -> Node:
        view: Node | None = None
        if v.category == "input":
            alone = len(self.cell.inputs) == 1
            if alone and len(self.cell.shape(v)) == 1:
                return _X
            view = _X if alone else item(_X, Literal(v.name))
        elif v.category == "mask":
            view = item(MASKS, Literal(v.name))
        elif v.category == "state" and v.time == -1:
            view = item(_STATE, Literal(v.name))
        if view is None:
            return super().here(v)
        return self.named(v, Kind.VIEW, flat(self.cell, v, view, size("B")))

    def has_steps(self, v: Vector) -> bool:
        return False

    def lasts(self, buffer: Buffer) -> bool:
        return False


class _Products(Products):
    """Products with stacks as they are there: to transpose them would not pay for a single step."""

    def times(self, op: Multiply, operand: Node, out: Node, inside: bool) -> Node:
        if op.matrices[0].transposed:
            return super().times(op, operand, out, inside)
        stack = self.operands.parameters.stack([m.base for m in op.matrices])
        return Do(method(PACKED, "product", operand, stack, out))

    def multiply(self, op: Multiply, inside: bool) -> Equation:
        made = super().multiply(op, inside)
        if len(op.outs) == 1 or not self.places.in_stack(op.outs[0]):
            return made
        out, operand = made.operands
        return replace(made, operands=(self._blocks(op), operand, out))

    def to_stack(self, op: Multiply, operand: Node, out: Node) -> tuple[Node, Node | None]:
        return self.times(op, operand, self._flat(op), True), self._blocks(op)

    def _flat(self, op: Multiply) -> Local:
        width = self.places.width(op.outs)
        return for_product(size("B"), amount(width))

    def _blocks(self, op: Multiply) -> Local:
        """A product with its blocks one after another."""
        flat = self._flat(op)
        shape = (size("B"), number(len(op.outs)), self.operands.units(op.outs[0]))
        turned = Swapped(Reshaped(flat, shape), 0, 1)
        return Local(("blocks", flat), "{}_blocks", Kind.VIEW, turned, beside=flat)


def step(plan: Plan, places: Places, order: Order) -> Function:
    """The function ``step`` of the module."""
    cell = plan.cell
    operands = _Operands(plan, places)
    lowering = Lowering(operands, order, _Products(operands, order))
    body = lowering.equations(plan.forward.operations, True)
    more = [v for v in cell.outputs if v.category != "state"]
    results = (*(s.at(0) for s in cell.states), *more)
    new = Dict(tuple((v.name, shaped(cell, v, operands.of(v, True), size("B"))) for v in results))

    arguments = [_X, _STATE, *([MASKS] if cell.masks else [])]
    prepare = call(Global("_prepare"), PACKED, *arguments, Tuple((Literal("B"),)))
    no_rows: Node = call(Global("_copies"), _STATE)
    for v in more:
        name = Literal(v.name) if len(cell.outputs) > 1 else Global("OUTPUT")
        shape = Tuple((Literal("B"), *strings(*cell.shape(v))))
        no_rows = Merged(no_rows, name, call(Global("_zeros"), shape, SIZES, DTYPE))
    return Function(
        "step",
        (
            check_parameters(),
            Assign((*arguments, DTYPE, SIZES), (prepare,)),
            If(Binary(item(SIZES, Literal("B")), "==", number(0)), (Return((no_rows,)),)),
            Declare((Kind.SIZE,), (size("B"), *(size(str(n)) for n in cell.sizes))),
            Declare((Kind.PARAMETER,)),
            Declare((Kind.NUMBER,)),
            Declare((Kind.SCRATCH,)),
            Declare((Kind.VIEW,)),
            *body,
            Return((new,)),
        ),
    )
