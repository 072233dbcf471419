"""Copies of what callers own, as rows of memory, and back."""

from __future__ import annotations

from ...language.symbols import Vector
from ...planning.operations import B
from .arrays import any_is_there, array, is_there
from .lowering import Direction
from .places import is_written
from .source import Source
from .tree import (
    NIL,
    NULL,
    NUMBERS,
    READ_NUMBERS,
    Call,
    Choice,
    Conditions,
    Count,
    Declare,
    Expression,
    If,
    Kind,
    Member,
    Relation,
    SizeOf,
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
        self._readers_serve = direction.readers_serve
        self._rows: tuple[Expression, ...] = (Count(B), BATCH)
        self._several = len(source.cell.outputs) > 1

    def read(self) -> list[Statement]:
        """The rows of callers' arrays: where they are, or copies."""
        made: list[Statement] = []
        for v in self._places.given:
            rows, units = self.rows(v), Count(self._sizes.of(v))
            own = shifted(WORK, Member(IN_WORK, rows.name, "size"))
            if is_written(v):
                there: Expression = Call(
                    "place", (*self._rows, units, self._callers(v), own), "pointer"
                )
                if v.category == "adjoint":
                    there = Choice(is_there(self._source.cell, v), there, own)
                made.append(Declare(NUMBERS, rows, there))
                continue
            width = Count(self._places.width(v))
            items = (STEPS, *self._rows, units, width, self._callers(v), own)
            call = Call("gather", items, "pointer")
            if v.category == "cotangent" and self._several:
                made += self._gathered_if_given(v, rows, call, own)
                continue
            read: Expression = call
            if ends := self._readers_serve(v):
                read = Choice(any_is_there(self._source.cell, ends), call, own)
            made.append(Declare(READ_NUMBERS, rows, read))
        return made

    def _gathered_if_given(
        self, v: Vector, rows: Variable, gathered: Expression, own: Expression
    ) -> list[Statement]:
        """Rows of an array that callers may leave out, where zeros stand for it."""
        given = array(self._source.cell, v)
        there = Choice(is_there(self._source.cell, v), gathered, own)
        all_ = product(STEPS, Count(B), Count(self._sizes.room_of(v)), SizeOf(Kind("real")))
        zeros = do("memset", own, NIL, all_)
        return [
            If(Relation(given, "==", NULL, "size"), (zeros,)),
            Declare(READ_NUMBERS, rows, there),
        ]

    def written(self) -> list[Statement]:
        """The rows that callers receive. They may do without derivatives by inputs."""
        made: list[Statement] = []
        for v in self._places.given:
            if is_written(v):
                copy = self._scatter(v, self.rows(v), Count(self._places.width(v)))
                wanted = is_there(self._source.cell, v)
                made.append(If(wanted, (copy,)) if v.category == "adjoint" else copy)
        return made

    def outputs(self) -> list[Statement]:
        """The outputs, where no stage writes them to y: states, and what is kept for backward."""
        return [s for v in self._source.cell.outputs for s in self._output(v)]

    def _output(self, v: Vector) -> list[Statement]:
        """One of them. Callers of a step may do without a state, which they receive anyway."""
        kept = self._places.kept
        if v.category == "state":
            width = self._sizes.room_of(v)
            first = shifted(self._source.state(v), rows_of_width([Count(B)], width))
            return [If(self._is_wanted(v), (self._scatter(v, first, Count(width)),))]
        if v in kept.blocks:
            first = shifted(Variable(kept.name), Count(kept.offset(v)))
            return [self._scatter(v, first, Count(kept.width))]
        return []

    def _is_wanted(self, state: Vector) -> Expression:
        """Whether callers want a state as an output."""
        wanted = is_there(self._source.cell, state)
        if self._several and all(v.category == "state" for v in self._source.cell.outputs):
            there = Relation(Member(CALL, "y"), "!=", NULL, "size")
            return Conditions((there, wanted), "&&")
        return wanted

    def rows(self, v: Vector) -> Variable:
        """The pointer to the rows of an array that callers own."""
        y = f"y_{v.name}" if self._several else "y"
        return self._source.rows(v, y if self._places.is_y(v) else "")

    def _scatter(self, v: Vector, rows: Expression, stride: Expression) -> Statement:
        units = Count(self._sizes.of(v))
        to = self._callers(v)
        return do("scatter", STEPS, *self._rows, units, rows, stride, to)

    def _callers(self, v: Vector) -> Expression:
        """Where the rows that are worked on begin in the array of a caller."""
        first = Sum((product(T0, BATCH), START), "++")
        return shifted(array(self._source.cell, v), product(first, Count(self._sizes.of(v))))
