"""Products of a plan as calls of one kernel; the gradients of matrices are products, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import sympy
from sympy import Expr

from ...language.matrices import Matrix
from ...language.shapes import units
from ...language.symbols import Vector
from ...planning.operations import ZERO, Fill, Multiply, Outers, heads
from .packs import Packed, Packs, SummedMatrices, SummedVector, families
from .pointers import Pointers
from .source import Source
from .tree import (
    NIL,
    Call,
    Comment,
    Count,
    Do,
    Expression,
    If,
    Literal,
    Statement,
    do,
)
from .vocabulary import COLUMNS, PANELS, TEAM


class Products:
    """Lowers the products of one pass, from one of its regions."""

    def __init__(self, source: Source, packs: Packs, pointers: Pointers) -> None:
        self._source, self._sizes, self._packs, self._at = source, source.sizes, packs, pointers
        self._places = pointers.places

    # ------------------------------------------------------------------ products

    def fill(self, op: Fill) -> list[Statement]:
        """The start of sums to which products are added."""
        bias_of = dict(zip(op.outs, op.biases, strict=True))
        text = self._source.text
        starts = [f"{text(v)} = {text(b) if b is not None else '0'}" for v, b in bias_of.items()]
        made: list[Statement] = [Comment(f"{', '.join(starts)}: to these, products are added")]
        for out in (v for part in self._places.touching(op.outs) for v in part):
            start = self._packs.bias(bias_of[out])  # each may write into the next one
            room = Count(self._sizes.room_of(out))
            made.append(do("fill", self._at.rows, room, start, *self._at.first(out)))
        return made

    def multiply(self, op: Multiply) -> list[Statement]:
        """A stacked product: a call for each stack that memory allows."""
        made: list[Statement] = [Comment(self._about(op))]
        if heads(self._source.cell, op.matrices[0], op.operands[0]):
            return [*made, self._of_heads(op)]
        if op.matrices[0].transposed:
            return [*made, *self._add_up(op)]
        x = op.operands[0]
        rows = self._rows_of(x, self._sizes.of(x))
        for stack in self._places.stacks(op.outs):
            outs, biases = [op.outs[k] for k in stack], [op.biases[k] for k in stack]
            start = self._at.first(outs[0])
            if not op.accumulate:
                start = self._packs.start(outs, biases), NIL
            weights = self._packs.columns(outs, [op.matrices[k] for k in stack])
            width = self._places.columns(outs)[1]
            made.append(self._product(width, rows, weights, start, outs[0]))
        return made

    def _add_up(self, op: Multiply) -> list[Statement]:
        """One sum of products with matrices as they are: blocks of one size need one call only."""
        out = op.outs[0]
        factor = dict(zip(op.operands, op.matrices, strict=True))
        parts = self._places.touching(op.operands)
        order = [v for part in parts for v in part]
        evenly = self._places.evenly(order)
        start = self._at.first(out)
        if not op.accumulate:
            start = self._packs.bias(op.biases[0]), NIL
        made: list[Statement] = []
        for part in [order] if evenly else parts:
            x = part[0]
            rows = self._rows_of(x, sum(map(self._sizes.of, part), ZERO))
            if evenly:
                block = Count(self._sizes.room_of(x))
                many, units = Literal(str(len(part))), Count(self._sizes.of(x))
                rows = Call("blocks_of", (*self._at.first(x), many, units, block), "struct")
            weights = self._packs.rows([factor[v] for v in part])
            made.append(self._product(self._sizes.room_of(out), rows, weights, start, out))
            start = self._at.first(out)
        return made

    def _of_heads(self, op: Multiply) -> Do:
        """A product for each head, with a matrix of its own or with the one of all."""
        (m,), (x,), (out,) = op.matrices, op.operands, op.outs
        cell = self._source.cell
        many = units(cell.shape(x)[:-1])
        start = self._at.first(out)
        if not op.accumulate:
            start = self._packs.bias(op.biases[0]), NIL
        weights, room = self._packs.heads(m)
        step = Count(room) if len(cell.shape(m)) > 2 else NIL
        inner, width = cell.shape(x)[-1], cell.shape(out)[-1]
        rows = self._rows_of(x, inner)
        items = [self._at.rows, Count(many), Count(width), rows, Count(inner), weights, step]
        return do("multiply_heads", *items, *start, *self._at.first(out))

    def _rows_of(self, x: Vector, units: Expr) -> Call:
        return Call("rows_of", (*self._at.first(x), Count(units)), "struct")

    def _product(
        self,
        width: Expr,
        rows: Expression,
        weights: Packed,
        start: tuple[Expression, Expression],
        out: Vector,
    ) -> Do:
        items = [TEAM, self._at.rows, Count(width), rows, weights]
        return do("multiply", *items, *start, *self._at.first(out))

    def _about(self, op: Multiply) -> str:
        text = self._source.text
        sign = "+=" if op.accumulate else "="
        biases = [b for b in op.biases if b is not None]
        if len(op.outs) == 1:
            products = [m @ op.operands[k % len(op.operands)] for k, m in enumerate(op.matrices)]
            total = sympy.Add(*products, *biases)
            return f"{text(op.outs[0])} {sign} {text(total)}"
        total = sympy.Add(op.matrices[0] @ op.operands[0], *biases[:1])
        others = " ".join(text(v) for v in op.outs[1:])
        return f"{text(op.outs[0])} {sign} {text(total)}; likewise {others}"

    # ------------------------------------------------------------------ gradients of matrices

    def outers(self, op: Outers) -> list[Statement]:
        """Gradients of matrices: left sides side by side, in panels, times the right side."""
        made: list[Statement] = []
        if len(self._source.cell.shape(op.right)) > 1:
            return self._outer_of_heads(op)
        for stack in self._places.stacks(op.lefts):
            parameters, lefts = [op.parameters[k] for k in stack], [op.lefts[k] for k in stack]
            made += self._outer(parameters, lefts, op.right)
        return made

    def _outer_of_heads(self, op: Outers) -> list[Statement]:
        """The gradient of a matrix for each head, or of one for all."""
        (p,), (left,), cell = op.parameters, op.lefts, self._source.cell
        *front, height = cell.shape(left)
        entries = units(cell.shape(p))
        total = SummedVector(
            self._source.names(("gradient of heads", p.name), f"d{p.name}"),
            about=f"∂L/∂{p.name}",
            count=self._sizes.padded(entries),
            parameter=p,
            units=entries,
        )
        width = cell.shape(op.right)[-1]
        step = Count(height * width) if len(cell.shape(p)) > 2 else NIL
        text = self._source.text
        items = [self._at.rows, Count(units(tuple(front))), Count(height), Count(width)]
        sides = [*self._at.first(left), *self._at.first(op.right)]
        about = f"∂L/∂{p.name} += Σ {text(left)} {text(op.right)}ᵀ, for each head"
        return [Comment(about), do("outer_heads", *items, *sides, step, total)]

    def _outer(
        self, parameters: Sequence[Matrix], lefts: Sequence[Vector], right: Vector
    ) -> list[Statement]:
        width = self._places.columns(lefts)[1]
        rows, columns = (TEAM, self._at.rows), Count(width)
        made: list[Statement] = [
            do("copy_panels", *rows, columns, *self._at.first(lefts[0]), PANELS)
        ]
        text = self._source.text
        about = f"∂L/∂{parameters[0].name} += Σ {text(lefts[0])} {text(right)}ᵀ"
        if others := " ".join(f"∂L/∂{p.name}" for p in parameters[1:]):
            about += f"; likewise {others}"
        made.append(Comment(about))
        total = self._total(parameters, lefts, right)
        items = [*rows, columns, Count(total.height), *self._at.first(right), PANELS,
                 self._source.have_begun, total, Count(total.width),
                 COLUMNS]  # fmt: skip
        return [*made, do("outer_add", *items)]

    def _total(
        self, parameters: Sequence[Matrix], lefts: Sequence[Vector], right: Vector
    ) -> SummedMatrices:
        names = [p.name for p in parameters]
        starts, _, room = self._places.columns(lefts)
        height = self._sizes.of(right)
        units = map(self._sizes.of, lefts)
        key = ("gradient", *names, str(right), *map(str, lefts))
        return SummedMatrices(
            self._source.names(key, f"d{families(names)}"),
            about=f"∂L/∂ of {' '.join(names)}, transposed",
            count=height * room,
            pieces=tuple(zip(parameters, units, starts, strict=True)),
            height=height,
            width=room,
        )


def without_repeated_copies(statements: Iterable[Statement]) -> list[Statement]:
    """Panels hold what was copied last: several matrices may have the same adjoints. A copy that is
    made on a condition is there again on the same one only.
    """
    last: tuple[Expression | None, Statement] | None = None

    def kept(some: Iterable[Statement], condition: Expression | None) -> Iterator[Statement]:
        nonlocal last
        for s in some:
            if isinstance(s, If):
                yield replace(s, body=tuple(kept(s.body, s.condition)))
                continue
            if isinstance(s, Do) and s.call.function == "copy_panels":
                if (condition, s) == last:
                    continue
                last = condition, s
            yield s

    return [*kept(statements, None)]
