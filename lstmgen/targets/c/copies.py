"""Copies of what callers own, as rows of memory, and back."""

from __future__ import annotations

from ...language.symbols import Vector
from ...planning.operations import B
from .lowering import Direction
from .places import is_written
from .source import Source
from .tree import (
    NULL,
    NUMBERS,
    READ_NUMBERS,
    Call,
    Count,
    Declare,
    Expression,
    If,
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
from .vocabulary import BATCH, CALL, IN_WORK, START, STEPS, T0, WORK


class Copies:
    """The copies around one pass."""

    def __init__(self, source: Source, direction: Direction) -> None:
        self._source, self._sizes, self._places = source, source.sizes, direction.places
        self._rows: tuple[Expression, ...] = (Count(B), BATCH)

    def read(self) -> list[Statement]:
        """The rows of callers' arrays: where they are, or copies."""
        made: list[Statement] = []
        for v in self._places.given:
            rows, units = self.rows(v), Count(self._sizes.of(v))
            own = shifted(WORK, Member(IN_WORK, rows.name, "size"))
            if is_written(v):
                call = Call("place", (*self._rows, units, self._callers(v), own), "pointer")
                made.append(Declare(NUMBERS, rows, call))
                continue
            width = Count(self._places.width(v))
            items = (STEPS, *self._rows, units, width, self._callers(v), own)
            call = Call("gather", items, "pointer")
            made.append(Declare(READ_NUMBERS, rows, call))
        return made

    def written(self) -> list[Statement]:
        """The rows that callers receive."""
        return [
            self._scatter(v, self.rows(v), Count(self._places.width(v)))
            for v in self._places.given
            if is_written(v)
        ]

    def output(self) -> list[Statement]:
        """The output, where no stage writes it to y: it is a state, or kept for backward.

        Callers of a step may do without a state, which they receive anyway.
        """
        v = self._source.cell.output
        kept = self._places.kept
        if v.category == "state":
            width = self._sizes.room_of(v)
            first = shifted(self._source.state(v), rows_of_width([Count(B)], width))
            copy = self._scatter(v, first, Count(width))
            return [If(Relation(self._array(v), "!=", NULL, "size"), (copy,))]
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
        return do("scatter", STEPS, *self._rows, units, rows, stride, to)

    def _callers(self, v: Vector) -> Expression:
        """Where the rows that are worked on begin in the array of a caller."""
        first = Sum((product(T0, BATCH), START), "++")
        return shifted(self._array(v), product(first, Count(self._sizes.of(v))))

    def _array(self, v: Vector) -> Expression:
        """The array of a caller that holds ``v``."""
        if v.category in ("cotangent", "vector", "state"):
            return Member(CALL, "dy" if v.category == "cotangent" else "y")
        array = Member(CALL, {"adjoint": "dx", "input": "x", "mask": "m"}[v.category])
        several = len(self._source.cell.inputs) > 1 or v.category == "mask"
        return Member(array, v.name) if several else array
