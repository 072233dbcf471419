"""Equations over several axes: contractions, views, and elementwise work that broadcasts.

A value is a row of memory for each row of the batch, whatever its axes. Here its rows are taken in
the shape of those axes, (…, B, *axes), which costs nothing; what is expanded has axes of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy
from sympy import Eq, Expr

from ...language.shapes import SCALAR, Shape, units
from ...language.symbols import (
    STATIC,
    Concat,
    Contract,
    Expand,
    Part,
    Reduction,
    Reshape,
    Scan,
    Transpose,
    Vector,
    View,
    max_,
    mean,
    rcumsum,
    sum_,
)
from ...printing.orders import Order
from .elementwise import Elementwise
from .operands import Operands
from .scratch import array
from .tree import (
    ELLIPSIS,
    TURNED,
    Call,
    Equation,
    Into,
    Literal,
    Node,
    Span,
    Swapped,
    amount,
    item,
    np,
    store,
)

ONE = sympy.S.One


class Shaped(Elementwise):
    """Lowers one equation over several axes."""

    def __init__(self, operands: Operands, order: Order, inside: bool) -> None:
        super().__init__(operands, order, inside)
        self.shape: Shape = SCALAR  # in which elementwise work is done

    def line(self, e: Eq, about: tuple[str, ...]) -> Equation:
        """What computes the left-hand side of ``e``."""
        rhs, axes = e.rhs, self.cell.shape(e.lhs)
        if isinstance(rhs, Contract):
            self._contract(rhs, e.lhs)
        elif isinstance(rhs, Concat):
            self._side_by_side(rhs, e.lhs)
        elif isinstance(rhs, Reshape):  # the same row of units
            self.made.append(store(self._flat(e.lhs), self._flat(rhs.operand)))
        elif isinstance(rhs, (Part, Transpose)):
            self._copy(self._viewed(rhs), self._whole(e.lhs))
        elif isinstance(rhs, Reduction):
            self.shape = self.cell.shapes.axes(rhs.args[0])
            self._along(rhs, self._reduced_to(rhs, e.lhs))
        else:
            self.shape = axes
            self._write(rhs, self._whole(e.lhs))
        out, reads = self._flat(e.lhs), map(self._flat, self._vectors(rhs))
        return Equation(about, (out, *reads, *self.taken), tuple(self.made))

    def value(self, e: Expr) -> tuple[Equation, Node]:
        """What computes ``e``, elementwise work or its sum along an axis, and what holds it."""
        self.shape = self.cell.shapes.axes(e.args[0] if isinstance(e, Reduction) else e)
        value: Node
        if isinstance(e, Reduction):
            self.busy += 1
            value = array(self.busy, self._axes_of(e), self.inside)
            self.taken.append(value)
            self._along(e, value)
        else:
            value = self._with_all_units(e)
        return Equation((), tuple(self.taken), tuple(self.made)), value

    # ------------------------------------------------------------------ operands

    def of(self, v: Expr) -> Node:
        """The operand for a vector, or for one that is expanded, beside others of this shape."""
        if isinstance(v, Expand):
            inner = self.cell.shapes.axes(v.operand)
            kept = v.places if inner != SCALAR else ()
            axes = tuple(n if k in kept else ONE for k, n in enumerate(self.shape))
            return self.operands.shaped(v.operand, axes, self.inside)
        alone = self.cell.shape(v) == SCALAR
        return self.operands.shaped(v, (ONE,) * len(self.shape) if alone else self.shape,
                                    self.inside)  # fmt: skip

    def _whole(self, v: Vector) -> Node:
        """``v`` in its own shape."""
        return self.operands.shaped(v, self.cell.shape(v), self.inside)

    def _flat(self, v: Vector) -> Node:
        return self.operands.of(v, self.inside)

    @staticmethod
    def _vectors(e: Expr) -> list[Vector]:
        return sorted(e.atoms(Vector), key=lambda v: (v.name, v.category, v.time))

    def _is_leaf(self, e: Expr) -> bool:
        return isinstance(e, (Vector, Expand))

    def _scratch(self, e: Expr) -> Node:
        full = self._extent(e) != 1
        axes = self.shape if full else (ONE,) * len(self.shape)
        return array(self.busy, axes, self.inside)

    def _value(self, e: Expr) -> Node:
        if isinstance(e, Expand) and self._is_plain(e.operand):
            return self._number(e.operand)
        return self.of(e) if isinstance(e, Expand) else super()._value(e)

    def _with_all_units(self, e: Expr) -> Node:
        """What holds ``e`` where units are counted, and an axis of 1 will not do."""
        if not isinstance(e, Expand):
            return self._value(e)
        self.busy += 1
        scratch = self._scratch(e)
        self.taken.append(scratch)
        self._copy(self._value(e), scratch)
        return scratch

    # ------------------------------------------------------------------ views

    def _viewed(self, e: View) -> Node:
        base = self._whole(e.operand)
        if isinstance(e, Transpose):
            return Swapped(base, -2, -1)
        start = sympy.Add(*e.sizes[: e.number])
        return item(base, ELLIPSIS, _span(start, start + e.sizes[e.number]))

    def _side_by_side(self, e: Concat, lhs: Vector) -> None:
        out, start = self._whole(lhs), sympy.S.Zero
        for part in e.args:
            size = self.cell.shapes.axes(part)[-1]
            here = item(out, ELLIPSIS, _span(start, start + size))
            value = Literal(0.0) if self._is_plain(part) else self._whole(part)
            self.made.append(store(here, value))
            start += size

    # ------------------------------------------------------------------ sums over an axis

    def _reduced_to(self, e: Reduction, lhs: Vector) -> Node:
        """The left-hand side, with an axis of 1 in the place of the one that is summed over."""
        return self.operands.shaped(lhs, self._axes_of(e), self.inside)

    def _axes_of(self, e: Reduction) -> Shape:
        """The axes of the result, and one of 1 that is summed over."""
        axis = self.cell.shapes.axis(e)
        alone = () if isinstance(e, Scan) else (axis,)
        return tuple(ONE if k in alone else n for k, n in enumerate(self.shape))

    def _along(self, e: Reduction, out: Node) -> None:
        axis = Literal(self.cell.shapes.axis(e) - len(self.shape))
        operand = self._with_all_units(e.args[0])
        if all(v.category in STATIC for v in e.atoms(Vector)):
            self._along_static(e, operand, axis, out)
            return
        if isinstance(e, Scan):
            turned = isinstance(e, rcumsum)
            places = -axis.value - 1  # type: ignore[operator]
            source, target = (_turned(a, places) if turned else a for a in (operand, out))
            self._emit("cumsum", source, axis=axis, out=target)
            return
        function = "maximum.reduce" if isinstance(e, max_) else "add.reduce"
        self._emit(function, operand, axis=axis, keepdims=Literal(True), out=out)
        if isinstance(e, mean):
            size = self.shape[self.cell.shapes.axis(e)]
            self._emit("multiply", out, self._number(1 / size), out=out)

    def _along_static(self, e: Reduction, operand: Node, axis: Literal, out: Node) -> None:
        """Of what is the same for every row, so that the result is broadcast to ``out``."""
        if isinstance(e, Scan):
            places = -axis.value - 1  # type: ignore[operator]
            turned = isinstance(e, rcumsum)
            source = _turned(operand, places) if turned else operand
            total: Node = Call(np("cumsum"), (source,), (("axis", axis),))
            self.made.append(store(out, _turned(total, places) if turned else total))
            return
        function = {mean: "mean", sum_: "sum", max_: "max"}[type(e)]
        options = (("axis", axis), ("keepdims", Literal(True)))
        self.made.append(store(out, Call(np(function), (operand,), options)))

    # ------------------------------------------------------------------ contractions

    def _contract(self, e: Contract, lhs: Vector) -> None:
        """By np.matmul, matrix by matrix, or as a product that broadcasts; by np.einsum where the
        axes are in other orders than these have.
        """
        left, right, out = e.spec
        heads = [x for x in left if x in right and x in out]
        summed = [x for x in left if x in right and x not in out]
        rows = [x for x in left if x not in right]
        columns = [x for x in right if x not in left]
        if out != "".join([*heads, *rows, *columns]):  # the result is transposed
            rows, columns, left, right, e = columns, rows, right, left, _exchanged(e)
        if (
            out != "".join([*heads, *rows, *columns])
            or not _is_matrix(left, heads, rows, summed)
            or not _is_matrix(right, heads, summed, columns)
        ):
            spec = Literal(f"...{left},...{right}->...{out}")
            operands = [
                self.operands.shaped(v, self.cell.shape(v), self.inside) for v in e.args[:2]
            ]
            target = self.operands.shaped(lhs, self.cell.shape(lhs), self.inside)
            self.made.append(Into(np("einsum"), (spec, *operands), target))
            return
        first = self._matrix(e.args[0], left, heads, rows, summed)
        second = self._matrix(e.args[1], right, heads, summed, columns)
        sizes = dict(zip(out, self.cell.shape(lhs), strict=True))
        target = self.operands.shaped(lhs, _axes(sizes, heads, rows, columns), self.inside)
        self.made.append(Into(np("matmul" if summed else "multiply"), (first, second), target))

    def _matrix(
        self, v: Vector, letters: str, heads: list[str], rows: list[str], columns: list[str]
    ) -> Node:
        """An operand as matrices of these rows and columns, each of several axes, one, or none."""
        sizes = dict(zip(letters, self.cell.shape(v), strict=True))
        if "".join([*heads, *rows, *columns]) != letters:
            axes = _axes(sizes, heads, columns, rows)
            return Swapped(self.operands.shaped(v, axes, self.inside), -2, -1)
        return self.operands.shaped(v, _axes(sizes, heads, rows, columns), self.inside)


def _is_matrix(letters: str, heads: list[str], rows: list[str], columns: list[str]) -> bool:
    """Whether axes are those of heads, rows and columns, or with the last two exchanged."""
    orders = ([*heads, *rows, *columns], [*heads, *columns, *rows])
    return letters in map("".join, orders)


def _axes(
    sizes: Mapping[str, Expr], heads: list[str], rows: list[str], columns: list[str]
) -> tuple[Expr, ...]:
    """The axes of matrices: those of heads, rows, and columns."""
    return (
        *(sizes[x] for x in heads),
        *(units(tuple(sizes[x] for x in g)) for g in (rows, columns)),
    )


def _exchanged(e: Contract) -> Any:
    left, right, out = e.spec
    return Contract(e.args[1], e.args[0], f"{right},{left}->{out}")


def _span(start: Expr, stop: Expr) -> Span:
    return Span(amount(start) if start != 0 else None, amount(stop))


def _turned(a: Node, behind: int) -> Node:
    """An axis turned round, which has so many behind it."""
    return item(a, ELLIPSIS, TURNED, *([Span()] * behind))
