"""How statements of a pass point to what they work on, from where they stand."""

from __future__ import annotations

from ...language.symbols import Vector
from ...planning.operations import STEP, B
from .packs import Packs
from .places import Places, Row
from .source import Source
from .tree import ONE, Count, Expression, Sum, Variable, product, rows_of_width, shifted
from .vocabulary import AMONG, STEPS, TEAM


class Pointers:
    """Pointers from within a region of a pass.

    ``single`` is a pass over one step alone, for streaming, which has no loop over steps.
    """

    def __init__(
        self, source: Source, places: Places, packs: Packs, region: str, single: bool = False
    ) -> None:
        self.places = places
        self._source, self._packs, self._single = source, packs, single
        self._in_loop = region == STEP and not single
        self._is_one = region == STEP or single

    @property
    def rows(self) -> Expression:
        """How many rows are worked on here."""
        return Count(B) if self._is_one else product(STEPS, Count(B))

    @property
    def team(self) -> Expression:
        """How many threads may share a product."""
        return ONE if self._single else TEAM

    def first(self, v: Vector) -> tuple[Expression, Expression]:
        """What points to the first row of ``v``, and how far apart its rows are."""
        return self.to(v), Count(self.places.stride(v))

    def to(self, what: Vector | Row) -> Expression:
        """What points to the first row of a vector, or of all blocks of a kind."""
        if isinstance(what, Vector) and what in self.places.row_of:
            row = self.places.row_of[what]
            return shifted(self.to(row), Count(row.offset(what)))
        if isinstance(what, Vector) and what.category == "parameter":
            return self._packs.vector(what)
        if isinstance(what, Vector) and what.category == "carry":
            return self._source.carry(what, "next" if what.time == 0 else "prev")
        step = self._step(what)
        if not step:
            return self._base(what)
        return shifted(self._base(what), rows_of_width(step, self.places.width(what)))

    def _base(self, what: Vector | Row) -> Variable:
        if isinstance(what, Row) or what.category == "state":
            return self._source.pointer(what)
        return self._source.rows(what, "y" if self.places.is_y(what) else "")

    def _step(self, what: Vector | Row) -> tuple[Expression, ...]:
        """The rows before those of the step that this is about, as factors of a product."""
        if isinstance(what, Vector) and what.category == "state" and what.time == 0:
            after = Sum((AMONG, ONE), "++")  # the state that comes in is first
            return (after, Count(B)) if self._in_loop else (Count(B),)
        of_all = not isinstance(what, Row) or what is not self.places.scratch
        return (AMONG, Count(B)) if self._in_loop and of_all else ()
