"""A pass of a plan as a tree: its statements by region, and its stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from sympy import Expr

from ...language.symbols import Vector
from ...planning.operations import (
    AFTER,
    BEFORE,
    STEP,
    ZERO,
    Fill,
    Fused,
    Multiply,
    Operation,
    Outers,
    Pass,
    Sums,
)
from . import stages
from .fixed import Fixed, fixed_stages
from .packs import Packed, Packs, Summed, SummedMatrices, SummedVector, packs_in, sums_in
from .places import Places
from .pointers import Pointers
from .products import Products, without_repeated_copies
from .source import Source
from .stages import Stage
from .tree import Statement

REGIONS = (BEFORE, STEP, AFTER)
Regions = dict[str, tuple[Statement, ...]]


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
        self.once = once
        self._packs = Packs(source, places, name)
        self.fixed = Fixed(source, once, self._packs, back=name == "backward")
        self.stages = self._stages()
        self.regions = self.lowered()

    def lowered(self) -> Regions:
        """The statements over tiles of steps. They call the stages."""
        made: Regions = {}
        for region in REGIONS:
            at = Pointers(self.source, self.places, self._packs, region)
            products = Products(self.source, self._packs, at)
            statements: list[Statement] = []
            for k, op in enumerate(self._operations(region)):
                if isinstance(op, Multiply):
                    statements += products.multiply(op)
                elif isinstance(op, Fill):
                    statements += products.fill(op)
                elif isinstance(op, Outers):
                    statements += products.outers(op)
                else:
                    statements.append(self.stages[region, k].call(at, self._sum_of))
            made[region] = tuple(without_repeated_copies(statements))
        return made

    # ------------------------------------------------------------------ what it needs

    @cached_property
    def packs(self) -> list[Packed]:
        """The parameters that have to be packed, those first of which others are made."""
        of_fixed = self.fixed.packs
        known = {pack.name for pack in of_fixed}
        found = packs_in(s for region in REGIONS for s in self.regions[region])
        return [*of_fixed, *(pack for pack in found if pack.name not in known)]

    @cached_property
    def sums(self) -> list[Summed]:
        """The gradients of parameters that are summed."""
        return sums_in(s for region in REGIONS for s in self.regions[region])

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

    def _operations(self, region: str) -> Sequence[Operation]:
        operations: Sequence[Operation] = getattr(self.part, region)
        return operations

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

    def _stages(self) -> dict[tuple[str, int], Stage]:
        """The stages, by region and the number of the operation in it."""
        return {
            (region, k): self._stage(region, op, ops[k - 1] if k else None)
            for region in REGIONS
            for ops in [self._operations(region)]
            for k, op in enumerate(ops)
            if isinstance(op, (Fused, Sums))
        }

    def _stage(self, region: str, op: Fused | Sums, before: Operation | None) -> Stage:
        if isinstance(op, Sums):
            return stages.sums(self.source, self.places, self._named("sums"), op)
        name = self._stage_name(region, op)
        about = self._about(region, op, before)
        return stages.fused(self.source, self.places, name, about, op)

    def _stage_name(self, region: str, op: Fused) -> str:
        where = {BEFORE: "before", STEP: "stage", AFTER: "after"}[region]
        those = [other for other in self._operations(region) if isinstance(other, Fused)]
        number = next(k for k, other in enumerate(those, 1) if other is op)
        return self._named(f"{where}_{number}" if len(those) > 1 else where)

    def _named(self, stage: str) -> str:
        """The name of a stage: names of a cell's functions begin with the cell's."""
        wish = f"{self.source.cell.name}_{self.name}_{stage}"
        return self.source.file(("stage", wish), wish)

    def _about(self, region: str, op: Fused, before: Operation | None) -> str:
        text = self.source.text
        when = {
            BEFORE: "Before the loop over steps",
            STEP: f"One step {self.name}",
            AFTER: "After the loop over steps",
        }[region]
        if isinstance(before, Multiply):
            operands = list(dict.fromkeys(text(v) for v in before.operands))
            when += f", after the product with {' '.join(operands)}"
        made = [text(e.lhs) for e in op.equations if self.places.is_stored(e.lhs)]
        return f"{when}: {' '.join(made)}."
