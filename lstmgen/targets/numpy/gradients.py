"""Gradients of parameters, lowered to sums over all rows of a block, which add up over blocks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from sympy import Expr

from ...language.matrices import Matrix
from ...language.shapes import units as units_of
from ...language.symbols import Vector
from ...planning.operations import ZERO, Outers, Sums
from ...planning.together import beside
from ...printing.orders import Order
from ...printing.text import text
from .elementwise import Lanes
from .fused import Equations
from .operands import Operands, span
from .scratch import COUNT, ROWS, ones
from .tree import (
    AddRows,
    Equation,
    Global,
    Kind,
    Literal,
    Local,
    Node,
    Reshaped,
    Span,
    amount,
    empty,
    item,
    method,
    number,
    product,
    size,
)

FIRST = Local("first", "first")  # whether this is the first block

Pairs = Sequence[tuple[Vector, Expr]]  # parameters, and what each gains from a row


class Gradients:
    """Lowers the gradients of parameters."""

    def __init__(self, operands: Operands, order: Order, equations: Equations) -> None:
        self.operands, self.order, self.equations = operands, order, equations
        self.cell, self.places = operands.cell, operands.places
        self.parameters = operands.parameters

    # ------------------------------------------------------------------ matrices

    def outers(self, op: Outers) -> Equation:
        """Products of all rows at once."""
        if len(self.cell.shape(op.right)) > 1 and not op.parameters[0].merged:
            return self._of_heads(op)
        rows, columns = self.places.width(op.lefts), self.cell.size(op.right)
        key = ("outer", op.parameters, op.lefts, op.right)
        total = self._total(key, op.parameters, amount(rows), amount(columns))
        lefts = " ".join(text(v, self.order) for v in op.lefts)
        what = f"{lefts} times {text(op.right, self.order)}ᵀ"
        left, right = self.operands.rows(op.lefts), self.operands.rows([op.right])
        shares = self._shares(total, op.parameters, op.lefts)
        added = AddRows(total, left, right, FIRST, shares)
        return Equation(self._about(op.parameters, what), (), (added,))

    def _of_heads(self, op: Outers) -> Equation:
        """Of one matrix, with rows for each head: for its own matrix, or for the one of all."""
        (p,), (v,) = op.parameters, op.lefts
        key = ("outer", op.parameters, op.lefts, op.right)
        total = self._total(key, op.parameters, *map(amount, self.cell.shape(p)))
        sides = []
        alike = len(self.cell.shape(p)) == 2
        for side in (v, op.right):
            *front, units = self.cell.shape(side)
            count = units_of(tuple(front))
            rows: Node = self.operands.rows([side])
            if alike:
                sides.append(Reshaped(rows, (product(ROWS, amount(count)), amount(units))))
            else:
                sides.append(Reshaped(rows, (ROWS, amount(count), amount(units))))
        about = self._about(
            op.parameters, f"{text(v, self.order)} times {text(op.right, self.order)}ᵀ"
        )
        shares = ((p.name, total),)
        if alike:
            return Equation(about, (), (AddRows(total, sides[0], sides[1], FIRST, shares),))
        flat = Reshaped(total, (amount(count), *map(amount, self.cell.shape(p)[-2:])))
        added = AddRows(flat, sides[0], sides[1], FIRST, shares, Global("_add_rows_of_heads"))
        return Equation(about, (), (added,))

    def _total(
        self, key: object, parameters: Sequence[Matrix | Vector], *shape: Node, rows: bool = False
    ) -> Local:
        """What is summed over the sequence."""
        name = f"d{self.parameters.name(parameters)}{'_rows' if rows else ''}"
        return Local(key, name, Kind.TOTAL, empty(*shape))

    def _shares(
        self, total: Node, parameters: Sequence[Matrix | Vector], lefts: Sequence[Vector]
    ) -> tuple[tuple[str, Node], ...]:
        """What belongs to each parameter in a stacked sum."""
        if len(parameters) == 1:
            return ((parameters[0].name, total),)
        shares: list[tuple[str, Node]] = []
        start: Expr = ZERO
        for p, left in zip(parameters, lefts, strict=True):
            stop = start + self.cell.size(left)
            shares.append((p.name, item(total, span(start, stop))))
            start = stop
        return tuple(shares)

    def _about(self, parameters: Sequence[Matrix | Vector], what: str) -> tuple[str, ...]:
        names = " ".join(f"∂L/∂{p.name}" for p in parameters)
        about = f"{names} = the sum over t of {what}"
        return tuple(textwrap.wrap(about, 86, subsequent_indent="    ", break_long_words=False))

    # ------------------------------------------------------------------ vectors

    def sums(self, op: Sums) -> list[Equation]:
        """Sums of expressions, those of terms that lie side by side as one."""
        pairs: Pairs = op.pairs
        lowered: list[Equation] = []
        for together, lanes in self._in_lanes(op):
            lowered.append(self._sum_of_lanes(together, lanes))
            pairs = [pair for pair in pairs if pair not in together]
        while pairs:
            together = beside(pairs, pairs[0], self.places)
            lowered.append(self._sum(together))
            pairs = [pair for pair in pairs if pair not in together]
        return lowered

    def _sum(self, pairs: Pairs) -> Equation:
        """The sums of terms side by side, or of one."""
        parameters, terms = [p for p, _ in pairs], [t for _, t in pairs]
        first = terms[0]
        made: tuple[Node, ...] = ()  # what computes it
        if isinstance(first, Vector) and (len(terms) > 1 or first.category == "adjoint"):
            rows, width = self.operands.rows(terms), self.places.width(terms)
        else:
            equation, value = self.equations.value(first, False)
            made = (equation,)
            width = self.cell.shapes.of(first)
            rows = Reshaped(value, (ROWS, amount(width)))
        total = self._total(("sum", *parameters, *terms), parameters, amount(width))
        shares = self._shares(total, parameters, parameters)
        if len(parameters) == 1 and self.cell.size(parameters[0]) == 1 != width:
            # it gains from every unit
            shares = ((parameters[0].name, method(total, "sum", keepdims=Literal(True))),)
        factor = item(ones(), Span(stop=ROWS))
        added = AddRows(total, rows, factor, FIRST, shares)
        what = " ".join(text(t, self.order) for t in terms)
        return Equation(self._about(parameters, what), (), (*made, added))

    def _sum_of_lanes(self, pairs: Pairs, lanes: Lanes) -> Equation:
        """Sums of the same over lanes: first over steps, and in the end over rows."""
        parameters, terms = [p for p, _ in pairs], [t for _, t in pairs]
        equation, value = self.equations.value(terms[0], False, lanes)
        many, units = number(lanes.many), self.operands.units(parameters[0])
        key = ("sum", *parameters, *terms)
        width = product(many, size("B"), units)
        total = self._total(key, parameters, width, rows=True)
        whole = method(Reshaped(total, (many, size("B"), units)), "sum", axis=number(1))
        name = self.parameters.name(parameters)
        result = Local((*key, "done"), f"d{name}", Kind.RESULT, whole)
        shares = tuple((p.name, item(result, number(k))) for k, p in enumerate(parameters))
        factor = item(ones(), Span(stop=COUNT))
        added = AddRows(total, Reshaped(value, (COUNT, width)), factor, FIRST, shares)
        what = " ".join(text(t, self.order) for t in terms)
        return Equation(self._about(parameters, what), tuple(lanes.of.values()), (equation, added))

    def _in_lanes(self, op: Sums) -> list[tuple[Pairs, Lanes]]:
        """Parameters whose sums say the same of values side by side, and these."""
        named = {p.name: (p, term) for p, term in op.pairs}
        found: list[tuple[Pairs, Lanes]] = []
        for run in self.operands.plan.lanes.get(op, ()):
            of = {v: self.operands.lane(t, False) for v, t in run.varied.items()}
            found.append(([named[v.name] for v in run.lhs], Lanes(len(run.lhs), of)))
        return found
