"""How statements of a pass point to what they work on, from where they stand."""

from __future__ import annotations

from collections.abc import Collection

from ...language.symbols import OF_PARAMETERS, Vector
from ...planning.operations import B
from .packs import Packs
from .places import Places, Row
from .source import Source
from .tree import ONE, Count, Expression, Product, Sum, Variable, product, rows_of_width, shifted
from .vocabulary import AMONG, AROUND, STEPS


class Pointers:
    """Pointers from within a section of a pass, which is a loop over steps or is not."""

    def __init__(
        self,
        source: Source,
        places: Places,
        packs: Packs,
        in_loop: bool,
        held: Collection[Vector] = (),
    ) -> None:
        self.places = places
        self._source, self._packs = source, packs
        self._in_loop, self._held = in_loop, held

    @property
    def rows(self) -> Expression:
        """How many rows are worked on here."""
        return Count(B) if self._in_loop else product(STEPS, Count(B))

    def first(self, v: Vector) -> tuple[Expression, Expression]:
        """What points to the first row of ``v``, and how far apart its rows are."""
        return self.to(v), Count(self.places.stride(v))

    def to(self, what: Vector | Row) -> Expression:
        """What points to the first row of a vector, or of all blocks of a kind."""
        if isinstance(what, Vector) and what in self.places.row_of:
            row = self.places.row_of[what]
            return shifted(self.to(row), Count(row.offset(what)))
        if isinstance(what, Vector) and what.category in OF_PARAMETERS:
            return self._packs.vector(what)
        if isinstance(what, Vector) and what.category == "carry" and not self._is_shifted(what):
            return self._source.carry(what, "next" if what.time == 0 else "prev")
        step = self._step(what)
        if not step:
            return self._base(what)
        return shifted(self._base(what), rows_of_width(step, self.places.width(what)))

    def _base(self, what: Vector | Row) -> Variable:
        if isinstance(what, Row) or what.category == "state":
            return self._source.pointer(what)
        if what.category == "carry":
            return self._source.carry(what, "all")
        return self._source.rows(what, "y" if self.places.is_y(what) else "")

    def _step(self, what: Vector | Row) -> tuple[Expression, ...]:
        """The rows before those of the step that this is about, as factors of a product."""
        if isinstance(what, Vector) and self._has_one_more(what) and what.time == 0:
            # what belongs to the step before the tile is first
            after = self._around(what, Sum((AMONG, ONE), "++"))
            return (after, Count(B)) if self._in_loop else (Count(B),)
        if isinstance(what, Vector) and self._in_loop:
            return (self._around(what, AMONG), Count(B))
        of_all = not isinstance(what, Row) or what is not self.places.scratch
        return (AMONG, Count(B)) if self._in_loop and of_all else ()

    def _around(self, v: Vector, step: Expression) -> Expression:
        """The row of a step, where there may be but two."""
        if any(v.name == s.name for s in self._held) and v.category == "state":
            return Product((step, AROUND), "*%")
        return step

    def _has_one_more(self, v: Vector) -> bool:
        """Whether there is a row more than there are steps."""
        return v.category == "state" or self._is_shifted(v)

    def _is_shifted(self, v: Vector) -> bool:
        return self._source.plan.is_shifted(v)
