"""From the operations of a pass to equations of the program tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from ...derivation.reverse import adjoint
from ...language.cell import Cell
from ...language.symbols import Vector
from ...planning.operations import Fill, Fused, Multiply, Operation, Outers, Pass, Sums, is_loop
from ...planning.served import Total, serves_only
from ...printing.orders import Order
from .fused import Equations
from .gradients import Gradients
from .operands import MASKS, Operands, X
from .products import Products
from .scratch import BLOCK, COUNT
from .tree import (
    PACKED,
    SIZES,
    Argument,
    Assign,
    Binary,
    Equation,
    Global,
    If,
    Literal,
    Lookup,
    Node,
    Quotient,
    Reshaped,
    Section,
    TimeLoop,
    amount,
    bind,
    call,
    item,
    number,
    size,
)

BY_INPUTS, BY_PARAMETERS = Argument("inputs"), Argument("parameters")  # whether these are wanted


class Lowering:
    """Lowers each kind of operation by who knows it."""

    def __init__(self, operands: Operands, order: Order, products: Products | None = None) -> None:
        self.cell = operands.cell
        self.products = products or Products(operands, order)
        self.fused = Equations(operands, order)
        self.gradients = Gradients(operands, order, self.fused)

    def sections(self, part: Pass) -> list[tuple[Equation, ...]]:
        """The equations of each section of a pass over a sequence."""
        return [self.equations(ops, is_loop(n)) for n, ops in enumerate(part.sections)]

    def wanted_sections(self, part: Pass) -> list[tuple[Node, ...]]:
        """The same, where what only serves derivatives that callers may not want is done if they
        want them.
        """
        by_inputs = [adjoint(v) for v in self.cell.inputs]
        served = serves_only(part, [*by_inputs, Total.GRADIENTS])

        def wanted(place: tuple[int, int]) -> Node | None:
            """On what condition an operation is done; None for always."""
            found = served.get(place, ())
            by = [BY_INPUTS] if any(v in found for v in by_inputs) else []
            by += [BY_PARAMETERS] if Total.GRADIENTS in found else []
            return Binary(by[0], "or", by[1]) if len(by) > 1 else by[0] if by else None

        made: list[tuple[Node, ...]] = []
        for n, operations in enumerate(part.sections):
            section: list[Node] = []
            for condition, alike in groupby(((n, k) for k in range(len(operations))), wanted):
                found = self.equations((operations[k] for _, k in alike), is_loop(n))
                section += found if condition is None else [If(condition, found)]
            made.append(tuple(section))
        return made

    def equations(self, operations: Iterable[Operation], inside: bool) -> tuple[Equation, ...]:
        """``operations`` in order, ``inside`` the loop over steps or for all steps of a block."""
        return tuple(e for op in operations for e in self._lower(op, inside))

    def _lower(self, op: Operation, inside: bool) -> list[Equation]:
        if isinstance(op, Multiply):
            return [self.products.multiply(op, inside)]
        if isinstance(op, Fill):
            return self.products.fill(op, inside)
        if isinstance(op, Fused):
            return self.fused.lower(op, inside)
        if isinstance(op, Outers):
            return [self.gradients.outers(op)]
        assert isinstance(op, Sums)
        return self.gradients.sums(op)


# --------------------------------------------------------------------------- what functions share


def block(
    part: Pass,
    sections: Sequence[tuple[Node, ...]],
    backwards: bool,
    ends: Sequence[Sequence[Node]],
) -> list[Node]:
    """What a pass does for a block of steps, with ``ends`` after each step of each loop."""
    made: list[Node] = []
    for n, section in enumerate(sections):
        if not is_loop(n):
            made.append(Section(part.title(n), section))
        elif section:
            made.append(TimeLoop(COUNT, backwards, (*section, *ends[n // 2])))
    return made


def check_parameters() -> Node:
    """packed = …, whatever ``params`` are."""
    return bind(PACKED, call(Global("_packed"), Argument("params")))


def all_sizes(cell: Cell) -> Node:
    """T, B, and the cell's sizes, from the table of sizes."""
    names = ("T", "B", *(str(n) for n in cell.sizes))
    return Assign(tuple(size(n) for n in names), (Lookup(SIZES, names),))


def if_empty(*body: Node) -> Node:
    """Without steps, or without rows."""
    conditions = (Binary(size(n), "==", number(0)) for n in ("T", "B"))
    return If(Binary(next(conditions), "or", next(conditions)), body)


def block_of_steps() -> Node:
    """block = …, so that rows times steps are about ROWS."""
    steps = call(Global("min"), size("T"), Quotient(Global("ROWS"), size("B")))
    return bind(BLOCK, steps, "steps that are worked on together")


def flat(cell: Cell, v: Vector, array: Node, *lead: Node) -> Node:
    """The caller's array of ``v`` with its units in one axis, as they lie in memory."""
    if len(cell.shape(v)) == 1:
        return array
    return Reshaped(array, (*lead, amount(cell.size(v))))


def flat_inputs(cell: Cell) -> list[Node]:
    """What the caller gave of several axes, in rows of units."""
    lines: list[Node] = []
    for given, whole in ((cell.inputs, X), (cell.masks, MASKS)):
        alone = whole is X and len(given) == 1
        for v in given:
            array = whole if alone else item(whole, Literal(v.name))
            rows = flat(cell, v, array, size("T"), size("B"))
            if rows is not array:
                lines.append(bind(array, rows))
    return lines


def shaped(cell: Cell, v: Vector, array: Node, *lead: Node) -> Node:
    """An array with the units of ``v`` in one axis, as the caller has it."""
    axes = cell.shape(v)
    return array if len(axes) == 1 else Reshaped(array, (*lead, *map(amount, axes)))


def strings(*values: object) -> tuple[Literal, ...]:
    """The names of sizes as strings."""
    return tuple(Literal(str(v)) for v in values)
