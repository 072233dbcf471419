"""What is made of parameters alone: once before the first step, and its way back after the last.

Such values are rows like any others, of a batch with one row. They lie beside the packed
parameters, of which they are made and from which products read them. What the slices of the batch
sum up for them is brought home to rows beside these, and goes on from there to the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...derivation.reverse import gathered
from ...language.matrices import Matrix
from ...language.symbols import Vector
from ...planning.operations import Fused, Pass
from . import stages
from .packs import Packed, Packs, packs_in
from .places import Memory, Places, Row
from .source import Source
from .stages import Stage
from .tree import NIL, NULL, ONE, Count, Do, Expression, Member, Statement, Variable, do
from .vocabulary import G


class _Rows(Places):
    """All of them are in memory: each is an array of its own."""

    def __init__(self, memory: Memory, operations: tuple[Fused, ...]) -> None:
        super().__init__(memory, Pass((operations,)))

    def is_stored(self, v: Vector) -> bool:
        return True


class _Pointers:
    """Where they are, from a function that packs or sums up."""

    def __init__(self, packs: Packs) -> None:
        self._packs = packs

    @property
    def rows(self) -> Expression:
        return ONE

    def to(self, what: Vector | Row) -> Expression:
        assert isinstance(what, Vector)
        return self._packs.vector(what)


class Fixed:
    """The stages of a plan for what is made of parameters, and the calls of one pass.

    ``stages`` are the same for both passes; ``calls`` make the values, ``back`` their adjoints.
    """

    def __init__(self, source: Source, stages: Sequence[Stage], packs: Packs, back: bool) -> None:
        self._source, self._packs = source, packs
        at = _Pointers(packs)
        calls: list[Do] = [stage.call(at, _no_sum) for stage in stages]
        self.calls, self.back = calls[:1], calls[1:] if back else []

    @property
    def packs(self) -> list[Packed]:
        """What the calls work on, in the order in which it is first needed."""
        return packs_in([*self.calls, *self.back])

    def gradient(self, p: Matrix | Vector) -> Variable | None:
        """Where the sum of the gradient is brought home, of what is made of parameters."""
        made = self._source.plan.made.get(p.name)
        return self._packs.vector(gathered(made)) if made is not None else None

    def zeroed(self, begun: set[Matrix | Vector]) -> list[Statement]:
        """What starts the sums that nothing flows into, of those that the calls read."""
        names = {p.name for p in begun}
        read = [v for op in self._source.plan.fixed_adjoints for v in op.reads]
        return [
            do("pad", Count(room), NULL, self._packs.vector(v), NIL, Count(room))
            for v in read
            if v.category == "gathered" and v.name not in names
            for room in [self._source.sizes.room_of(v)]
        ]

    def gains(self, begun: set[Matrix | Vector]) -> tuple[list[Do], set[Matrix | Vector]]:
        """What adds to the gradients of parameters, and these."""
        gains = self._source.plan.gains
        added: list[Do] = []
        for p, v in gains.items():
            flag = ONE if p in begun else self._source.accumulates
            units = Count(self._source.sizes.of(v))
            added.append(do("add", units, self._packs.vector(v), flag, Member(G, p.name)))
        return added, set(gains)


def fixed_stages(source: Source) -> list[Stage]:
    """The functions that compute what is made of parameters, and what its adjoints bring."""
    plan, made = source.plan, []
    for what, operations, about in (
        ("fixed", plan.fixed, "Once for a sequence, before its first step"),
        ("fixed_gradients", plan.fixed_adjoints, "Once for a sequence, after its last step"),
    ):
        for op in operations:
            wish = f"{source.name}_{what}"
            name = source.file(("stage", wish), wish)
            shown = " ".join(source.text(v) for v in op.writes)
            rows = _Rows(source.memory, operations)
            made.append(stages.fused(source, rows, name, f"{about}: {shown}.", op))
    return made


def _no_sum(v: Vector) -> Variable:
    raise AssertionError(f"{v} is not summed here")
