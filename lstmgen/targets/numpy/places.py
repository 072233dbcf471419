"""Where values live in NumPy code: which share memory, and in what order their units lie.

A plan says which blocks lie side by side. NumPy adds two things. A value may be written over the
one that it comes from: gates over their pre-activations. And where elementwise work is all that
touches a buffer in the loop, its blocks lie one after another, each with all rows of the batch, so
that each is contiguous and so are neighbours taken together: NumPy is two to four times as fast on
these as on slices of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Expr

from ...language.symbols import Vector
from ...planning.operations import ZERO, Buffer, Fused, Multiply, Operation, Outers, Pass
from ...planning.plans import Plan
from ...planning.storage import heirs, succession

_LASTING = ("tape", "state", "given", "carry")


class Places:
    """The places of all values of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._moved: dict[Vector, Vector] = {}
        self._side_by_side = {b for part in (plan.forward, plan.backward) for b in self._rows(part)}
        for part in (plan.forward, plan.backward):
            self._settle(part)

    def of(self, v: Vector) -> Vector:
        """The value whose place ``v`` has: itself, or the one that is written over it."""
        return self._moved.get(v, v)

    def home(self, v: Vector) -> Buffer | None:
        return self.plan.home.get(self.of(v))

    def is_stack(self, buffer: Buffer) -> bool:
        """Whether the blocks lie one after another, (blocks, B, size), not side by side in rows."""
        sizes = {self.plan.size(v) for v in buffer.blocks}
        return len(buffer.blocks) > 1 and len(sizes) == 1 and buffer not in self._side_by_side

    def start(self, v: Vector) -> Expr:
        """The unit at which ``v`` begins where blocks lie side by side."""
        return self.plan.offset(self.of(v))

    def index(self, v: Vector) -> int:
        buffer = self.home(v)
        assert buffer is not None
        return buffer.blocks.index(self.of(v))

    def width(self, blocks: Sequence[Vector]) -> Expr:
        return sum((self.plan.size(v) for v in blocks), ZERO)

    # ------------------------------------------------------------------ deciding

    def _rows(self, part: Pass) -> set[Buffer]:
        """Buffers that products read side by side."""
        found: set[Buffer] = set()
        for op in part.operations:
            together: Sequence[Vector] = ()
            if isinstance(op, Multiply):
                together = op.operands
            elif isinstance(op, Outers):
                together = op.lefts
            if len(together) > 1:
                found.update(self.plan.home[v] for v in together)
        return found

    def _settle(self, part: Pass) -> None:
        home = self.plan.home
        lines = [e for op in part.operations if isinstance(op, Fused) for e in op.equations]
        operands = [v for op in part.operations for v in _operands(op)]
        lasting = {v for v, b in home.items() if b.scope in _LASTING}
        spent = heirs(lines, operands, lasting, self.plan.size)
        starts = [v for v in spent if v not in set(spent.values())]
        chains = {v: succession(v, spent) for v in starts}
        for buffer in self.plan.buffers:
            if len(buffer.blocks) > 1 and buffer.scope in ("tile", "step"):
                finals = tuple(succession(v, spent)[-1] for v in buffer.blocks)
                over = home.get(finals[0])
                if over is not None and over.blocks == finals and over.scope == "tape":
                    if self._side_by_side & {buffer, over}:
                        self._side_by_side |= {buffer, over}
                    for v, final in zip(buffer.blocks, finals, strict=True):
                        self._moved.update(dict.fromkeys(succession(v, spent), final))
        for chain in chains.values():
            if not any(v in self._moved for v in chain):
                self._share(chain)

    def _share(self, chain: Sequence[Vector]) -> None:
        """One place for the values of ``chain``, if those that have a home have it alone."""
        home = self.plan.home
        single = [v not in home or len(home[v].blocks) == 1 for v in chain]
        last = chain[-1]
        if all(single) and last in home and home[last].scope in ("tape", "state", "given"):
            holder = last
        else:
            stop = next((k for k, v in enumerate(chain) if k and v in home), len(chain))
            chain = chain[:stop]
            holder = chain[0] if chain[0] in home else chain[-1]
        self._moved.update(dict.fromkeys(chain, holder))


def _operands(op: Operation) -> tuple[Vector, ...]:
    if isinstance(op, Fused):
        return ()
    return op.operands if isinstance(op, Multiply) else op.reads
