"""A pass of a plan as a tree: its statements by section, and its stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby

from sympy import Expr

from ...derivation.reverse import adjoint
from ...language.symbols import Vector
from ...planning.operations import (
    ZERO,
    Fill,
    Fused,
    Multiply,
    Operation,
    Outers,
    Pass,
    Sums,
    is_loop,
)
from ...planning.served import End, Total, serves_only, wanted_for
from . import stages
from .arrays import any_is_there
from .fixed import Fixed, fixed_stages
from .packs import Packed, Packs, Summed, SummedMatrices, SummedVector, packs_in, sums_in
from .places import Places
from .pointers import Pointers
from .products import Products, without_repeated_copies
from .source import Source
from .stages import Stage
from .tree import If, Statement


def lower(source: Source) -> tuple[Direction, Direction]:
    """Forward and backward."""
    plan = source.plan
    passes = {"forward": plan.forward, "backward": plan.backward}
    # all rows of memory come first: the sizes of their blocks have the plainest names
    places = {name: Places(source.memory, part) for name, part in passes.items()}
    once = fixed_stages(source)
    forward, backward = (
        Direction(source, name, part, places[name], once) for name, part in passes.items()
    )
    return forward, backward


class Direction:
    """One direction of a plan, "forward" or "backward": what it does, and what it needs for that.

    What it needs is found in its statements.
    """

    def __init__(
        self, source: Source, name: str, part: Pass, places: Places, once: Sequence[Stage]
    ) -> None:
        self.source, self.name, self.part, self.places = source, name, part, places
        self._last = len(part.sections) - 1
        self.once = once
        self._packs = Packs(source, places, name)
        self.fixed = Fixed(source, once, self._packs, back=name == "backward")
        ends: list[End] = [adjoint(v) for v in source.cell.inputs]
        if not source.is_embedded:  # whose drivers want all gradients of parameters
            ends.append(Total.GRADIENTS)
        self._serves = serves_only(part, ends)
        self.stages = self._stages()
        self.sections = self.lowered()

    def lowered(self) -> list[tuple[Statement, ...]]:
        """The statements over tiles of steps. They call the stages."""
        return [self._section(n) for n in range(self._last + 1)]

    def _section(self, n: int) -> tuple[Statement, ...]:
        """What only serves derivatives that callers may not want is done if one of them does."""
        held = self.source.plan.held if self.name == "forward" else ()
        at = Pointers(self.source, self.places, self._packs, is_loop(n), held)
        products = Products(self.source, self._packs, at)
        made: list[Statement] = []
        places = [(n, k) for k in range(len(self.part.sections[n]))]
        for ends, alike in groupby(places, lambda place: self._serves.get(place, ())):
            found = [s for place in alike for s in self._statements(place, products, at)]
            made += [If(any_is_there(self.source.cell, ends), tuple(found))] if ends else found
        return tuple(without_repeated_copies(made))

    def _statements(
        self, place: tuple[int, int], products: Products, at: Pointers
    ) -> Sequence[Statement]:
        op = self.part.sections[place[0]][place[1]]
        if isinstance(op, Multiply):
            return products.multiply(op)
        if isinstance(op, Fill):
            return products.fill(op)
        if isinstance(op, Outers):
            return products.outers(op)
        return [self.stages[place].call(at, self._sum_of)]

    def readers_serve(self, v: Vector) -> tuple[End, ...]:
        """What callers may not want, for which alone ``v`` is read; none if it always is."""
        return wanted_for(v, self.part, self._serves)

    @property
    def statements(self) -> list[Statement]:
        """Those of all sections."""
        return [s for section in self.sections for s in section]

    # ------------------------------------------------------------------ what it needs

    @cached_property
    def packs(self) -> list[Packed]:
        """The parameters that have to be packed, those first of which others are made."""
        of_fixed = self.fixed.packs
        known = {pack.name for pack in of_fixed}
        found = packs_in(self.statements)
        return [*of_fixed, *(pack for pack in found if pack.name not in known)]

    @cached_property
    def sums(self) -> list[Summed]:
        """The gradients of parameters that are summed."""
        return sums_in(self.statements)

    @property
    def packed(self) -> Expr:
        """The numbers of all packed parameters."""
        return sum((pack.count for pack in self.packs), ZERO)

    @property
    def summed(self) -> Expr:
        """The numbers of all sums."""
        return sum((made.count for made in self.sums), ZERO)

    @property
    def heights(self) -> set[Expr]:
        """The room for the units of rows that gradients of matrices turn."""
        return {self.source.sizes.padded(made.height) for made in self._matrices}

    @property
    def widths(self) -> set[Expr]:
        """The columns of rows that they cut into panels."""
        return {made.width for made in self._matrices}

    @property
    def _matrices(self) -> list[SummedMatrices]:
        return [made for made in self.sums if isinstance(made, SummedMatrices)]

    # ------------------------------------------------------------------ lowering

    def _sum_of(self, v: Vector) -> SummedVector:
        """Where the gradient of a learned vector is summed."""
        return SummedVector(
            self.source.names(("gradient", v.name), f"d{v.name}"),
            about=f"∂L/∂{v.name}",
            count=self.source.sizes.room_of(v),
            parameter=v,
            units=self.source.sizes.of(v),
        )

    # ------------------------------------------------------------------ stages

    def _stages(self) -> dict[tuple[int, int], Stage]:
        """The stages, by section and the number of the operation in it."""
        return {
            (n, k): self._stage(n, op, operations[k - 1] if k else None)
            for n, operations in enumerate(self.part.sections)
            for k, op in enumerate(operations)
            if isinstance(op, (Fused, Sums))
        }

    def _stage(self, section: int, op: Fused | Sums, before: Operation | None) -> Stage:
        if isinstance(op, Sums):
            return stages.sums(self.source, self.places, self._named("sums"), op)
        name = self._stage_name(section, op)
        about = self._about(section, op, before)
        return stages.fused(self.source, self.places, name, about, op)

    def _where(self, section: int) -> str:
        if is_loop(section):
            return "stage"
        return "before" if section == 0 else "after" if section == self._last else "between"

    def _stage_name(self, section: int, op: Fused) -> str:
        where = self._where(section)
        alike = [
            other
            for n, operations in enumerate(self.part.sections)
            for other in operations
            if isinstance(other, Fused) and self._where(n) == where
        ]
        number = next(k for k, other in enumerate(alike, 1) if other is op)
        return self._named(f"{where}_{number}" if len(alike) > 1 else where)

    def _named(self, stage: str) -> str:
        """The name of a stage: names of a cell's functions begin with the cell's."""
        wish = f"{self.source.name}_{self.name}_{stage}"
        return self.source.file(("stage", wish), wish)

    def _about(self, section: int, op: Fused, before: Operation | None) -> str:
        text = self.source.text
        if not is_loop(section):
            when = f"{self.part.title(section).capitalize()} over steps"
        else:
            when = f"One step {self.name}"
            when += f" in loop {section // 2 + 1}" if self._last > 2 else ""
        if isinstance(before, Multiply):
            operands = list(dict.fromkeys(text(v) for v in before.operands))
            when += f", after the product with {' '.join(operands)}"
        made = [text(e.lhs) for e in op.equations if self.places.is_stored(e.lhs)]
        return f"{when}: {' '.join(made)}."
