"""Copies of what callers own, as rows of memory, and back."""

from __future__ import annotations

from ...language.symbols import Vector
from ...planning.operations import B
from .lowering import Direction
from .places import is_written
from .source import Source
from .tree import (
    NULL,
    ONE,
    Call,
    Count,
    Declare,
    Expression,
    If,
    Kind,
    Member,
    Relation,
    Statement,
    Sum,
    Variable,
    do,
    product,
    rows_of_width,
    shifted,
)
from .vocabulary import BATCH, DX, DY, IN_WORK, START, STEPS, T0, WORK, M, X, Y


class Copies:
    """The copies around one pass; those around a ``single`` step take all rows of the batch."""

    def __init__(self, source: Source, direction: Direction, single: bool) -> None:
        self._source, self._sizes, self._places = source, source.sizes, direction.places
        self._single = single
        rows, batch = Count(B), Count(B) if single else BATCH
        self._rows: tuple[Expression, ...] = (rows, batch)
        self._steps = ONE if single else STEPS

    def read(self) -> list[Statement]:
        """The rows of callers' arrays: where they are, or copies."""
        made: list[Statement] = []
        for v in self._places.given:
            rows, units = self.rows(v), Count(self._sizes.of(v))
            own = shifted(WORK, Member(IN_WORK, rows.name, "size"))
            if is_written(v):
                call = Call("place", (*self._rows, units, self._callers(v), own), "pointer")
                made.append(Declare(Kind("real", pointer="*const "), rows, call))
                continue
            width = Count(self._places.width(v))
            items = (self._steps, *self._rows, units, width, self._callers(v), own)
            call = Call("gather", items, "pointer")
            made.append(Declare(Kind("real", is_const=True, pointer="*const "), rows, call))
        return made

    def written(self) -> list[Statement]:
        """The rows that callers receive."""
        return [
            self._scatter(v, self.rows(v), Count(self._places.width(v)))
            for v in self._places.given
            if is_written(v)
        ]

    def output(self) -> list[Statement]:
        """The output, where no stage writes it to y: it is a state, or kept for backward."""
        v = self._source.cell.output
        kept = self._places.kept
        if v.category == "state":
            width = self._sizes.room_of(v)
            first = shifted(self._source.state(v), rows_of_width([Count(B)], width))
            copy = self._scatter(v, first, Count(width))
            if self._single:  # who knows the new state may do without
                return [If(Relation(Y, "!=", NULL, "size"), (copy,))]
            return [copy]
        if v in kept.blocks:
            first = shifted(Variable(kept.name), Count(kept.offset(v)))
            return [self._scatter(v, first, Count(kept.width))]
        return []

    def rows(self, v: Vector) -> Variable:
        """The pointer to the rows of an array that callers own."""
        return self._source.rows(v, "y" if self._places.is_y(v) else "")

    def _scatter(self, v: Vector, rows: Expression, stride: Expression) -> Statement:
        units = Count(self._sizes.of(v))
        to = self._callers(v)
        return do("scatter", self._steps, *self._rows, units, rows, stride, to)

    def _callers(self, v: Vector) -> Expression:
        """Where the rows that are worked on begin in the array of a caller."""
        array = self._array(v)
        if self._single:
            return array
        first = Sum((product(T0, BATCH), START), "++")
        return shifted(array, product(first, Count(self._sizes.of(v))))

    def _array(self, v: Vector) -> Expression:
        """The array of a caller that holds ``v``."""
        several = len(self._source.cell.inputs) > 1
        if v.category == "adjoint":
            return Member(DX, v.name) if several else DX
        if v.category == "input":
            return Member(X, v.name) if several else X
        if v.category == "mask":
            return Member(M, v.name)
        return DY if v.category == "cotangent" else Y
