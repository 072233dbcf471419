"""Products with matrices, lowered to NumPy calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import sympy

from ...language.symbols import Vector
from ...planning.operations import Fill, Multiply, heads
from ...printing.orders import Order
from ...printing.text import text
from .operands import Operands
from .scratch import COUNT, for_product, for_product_of_rows
from .tree import (
    ALL,
    ELLIPSIS,
    NEWAXIS,
    Binary,
    Choice,
    Equation,
    Global,
    Into,
    Kind,
    Literal,
    Local,
    Node,
    Reshaped,
    Swapped,
    add,
    amount,
    call,
    item,
    method,
    np,
    number,
    size,
    store,
)

_ONE_ROW = Binary(size("B"), "==", number(1))
# np.dot takes less time to start than np.matmul, which multiplies matrix by matrix
_TIMES = Local("times", "times", Kind.CHOICE, Choice(_ONE_ROW, np("dot"), np("matmul")))


class Products:
    """Lowers stacked products."""

    def __init__(self, operands: Operands, order: Order) -> None:
        self.operands, self.order = operands, order
        self.cell, self.places = operands.cell, operands.places

    def multiply(self, op: Multiply, inside: bool) -> Equation:
        """A product of all rows of the block or, ``inside`` the loop, of those of a step."""
        if heads(self.cell, op.matrices[0], op.operands[0]):
            return self._of_heads(op, inside)
        out = self.operands.run(op.outs, inside)
        rows = self.operands.run if inside else lambda blocks, _: self.operands.rows(blocks)
        operand = rows(op.operands, inside)
        if self.places.in_stack(op.outs[0]) and (len(op.outs) > 1 or not inside):
            lower = self.to_stack if inside else self._to_stack_of_block
            made, value = lower(op, operand, out)
        elif self._is_direct(op, inside):
            target = rows(op.outs, inside)
            made, value = self.times(op, operand, target, inside), None
        else:
            made, value = self._apart(op, operand, inside)
        body = (made, *self.added(op, out, value, inside))
        return Equation((self._about(op),), (out, operand), body)

    def _of_heads(self, op: Multiply, inside: bool) -> Equation:
        """A product for each head: np.matmul takes one after another, rows side by side."""
        (matrix,), (v,), (lhs,) = op.matrices, op.operands, op.outs
        factor: Node
        operand, out = self.operands.of(v, inside), self.operands.of(lhs, inside)
        given = self.operands.shaped(v, self.cell.shape(v), inside)
        target = self.operands.shaped(lhs, self.cell.shape(lhs), inside)
        if len(self.cell.shape(matrix)) == 2:
            factor = self.operands.parameters.factor(op.matrices, False)
        else:
            factor = self.operands.parameters.heads(matrix)
            if not inside:  # the same for all steps
                factor = item(factor, *([ALL] * (len(self.cell.shape(v)) - 1)), NEWAXIS)
            given, target = self._by_head(given, v, inside), self._by_head(target, lhs, inside)
        value = call(np("matmul"), given, factor)
        whole = item(target, ELLIPSIS)
        lines: list[Node] = [add(whole, value) if op.accumulate else store(target, value)]
        lines += [add(out, self.operands.of(b, inside)) for b in op.biases if b is not None]
        return Equation((self._about(op),), (out, operand), tuple(lines))

    def _by_head(self, value: Node, v: Vector, inside: bool) -> Node:
        """With the heads in front of rows, and of steps."""
        rank = len(self.cell.shape(v)) - 1  # axes of heads
        lead = 1 if inside else 2
        axes = (*range(lead, lead + rank), *range(lead), lead + rank)
        return method(value, "transpose", *map(number, axes))

    def times(self, op: Multiply, operand: Node, out: Node, inside: bool) -> Node:
        """The statement that multiplies."""
        factor = self.operands.parameters.factor(op.matrices, inside)
        return Into(np("dot" if inside else "matmul"), (operand, factor), out)

    def _is_direct(self, op: Multiply, inside: bool) -> bool:
        """Whether a product can be written to where it belongs, which is contiguous."""
        alone = len(op.outs) == 1 and self.places.alone(op.outs[0])
        one_of_stack = inside and self.places.in_stack(op.outs[0])
        return (alone or one_of_stack or self.places.fill(op.outs)) and not op.accumulate

    def _apart(self, op: Multiply, operand: Node, inside: bool) -> tuple[Node, Node]:
        """A product in scratch of its own, and that scratch in the shape of the result."""
        width = self.places.width(op.outs)
        if inside:
            scratch = for_product(size("B"), amount(width))
            return self.times(op, operand, scratch, inside), scratch
        flat = for_product_of_rows(width)
        shape = (COUNT, size("B"), amount(width))
        return self.times(op, operand, flat, inside), Reshaped(flat, shape)

    def _to_stack_of_block(
        self, op: Multiply, operand: Node, out: Node
    ) -> tuple[Node, Node | None]:
        """A product whose blocks go one after another, for all steps of the block."""
        many, units = len(op.outs), self.operands.units(op.outs[0])
        flat = for_product_of_rows(self.places.width(op.outs))
        made = self.times(op, operand, flat, False)
        if many == 1:
            return made, Reshaped(flat, (COUNT, size("B"), units))
        return made, Swapped(Reshaped(flat, (COUNT, size("B"), number(many), units)), 1, 2)

    def to_stack(self, op: Multiply, operand: Node, out: Node) -> tuple[Node, Node | None]:
        """A product in the loop whose blocks go one after another: the weight has its columns in
        blocks. For a single row, blocks one after another are blocks side by side.
        """
        many, units = len(op.outs), self.operands.units(op.outs[0])
        width = amount(self.places.width(op.outs))
        buffer = self.places.home(op.outs[0])
        assert buffer is not None
        is_direct = buffer.scope == "step" and self.places.fill(op.outs) and not op.accumulate
        value = out
        if not is_direct:
            value = for_product(number(many), size("B"), units)
        assert isinstance(value, Local)
        factor = self.operands.parameters.factor(op.matrices, True)
        blocks = Choice(_ONE_ROW, factor, call(Global("_blocks"), factor, number(many)))
        in_blocks = Local(("blocks", factor), "{}_blocks", Kind.CHOICE, blocks, beside=factor)
        flat = Choice(_ONE_ROW, Reshaped(value, (number(1), width)), value)
        target = Local(("flat", value), "{}_out", Kind.CHOICE, flat, beside=value)
        made = Into(_TIMES, (operand, in_blocks), target)
        return made, None if is_direct else value

    def added(self, op: Multiply, out: Node, value: Node | None, inside: bool) -> tuple[Node, ...]:
        """Statements that put a product, and biases, where they belong; without ``value``, the
        product is there.
        """
        if op.accumulate:
            assert value is not None
            return (add(out, value),)
        with_bias = [b is not None for b in op.biases]
        if all(with_bias) and value is not None:
            return (Into(np("add"), (value, self._bias(op.biases, op.outs)), out),)
        lines: list[Node] = [] if value is None else [store(out, value)]
        for start, stop in true_runs(with_bias):
            part = self.operands.run(op.outs[start:stop], inside)
            lines.append(add(part, self._bias(op.biases[start:stop], op.outs[start:stop])))
        return tuple(lines)

    def _bias(self, biases: Sequence[Vector | None], outs: Sequence[Vector]) -> Node:
        found = [b for b in biases if b is not None]
        return self.operands.parameters.vectors(found, self.places.in_stack(outs[0]))

    def fill(self, op: Fill, inside: bool) -> list[Equation]:
        """Sums before products are added to them."""
        equations = []
        for out, bias in zip(op.outs, op.biases, strict=True):
            start = text(bias, self.order) if bias is not None else "0"
            about = f"{text(out, self.order)} = {start}; products are added in the loop"
            target = self.operands.of(out, inside)
            value = Literal(0.0) if bias is None else self.operands.of(bias, inside)
            equations.append(Equation((about,), (target,), (store(target, value),)))
        return equations

    def _about(self, op: Multiply) -> str:
        """The equations of a stacked product on one line."""

        def show(e: sympy.Expr) -> str:
            return text(e, self.order)

        sign = "+=" if op.accumulate else "="
        if len(op.outs) == 1:
            operands = op.operands * len(op.matrices) if len(op.operands) == 1 else op.operands
            pairs = zip(op.matrices, operands, strict=True)
            total = sympy.Add(*(m @ v for m, v in pairs), *(b for b in op.biases if b is not None))
            return f"{show(op.outs[0])} {sign} {show(total)}"
        outs = " ".join(show(o) for o in op.outs)
        names = " ".join(m.name for m in op.matrices)
        plus = f", plus {' '.join(b.name for b in op.biases if b)}" if any(op.biases) else ""
        return f"{outs} {sign} {names} times {show(op.operands[0])}{plus}"


def true_runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Where flags are true, as (start, stop)."""
    edges = [k for k, (a, b) in enumerate(pairwise([False, *flags, False])) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))
