"""Where values live in NumPy code: which share memory, and in what order their units lie.

A plan says which blocks lie side by side. NumPy adds two things. A value may be written over the
one that it comes from: gates over their pre-activations. And where elementwise work is all that
touches a buffer in the loop, its blocks lie one after another, each with all rows of the batch, so
that each is contiguous and so are neighbours taken together: NumPy is two to four times as fast on
these as on slices of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from sympy import Expr

from ...derivation.reverse import carry
from ...language.symbols import Vector
from ...planning.lanes import Group
from ...planning.operations import ZERO, Buffer, Fused, Multiply, Operation, Outers, Pass
from ...planning.plans import Plan
from ...planning.storage import heirs, succession

_LASTING = ("tape", "state", "given", "carry", "carries")


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

    def in_stack(self, v: Vector) -> bool:
        """Whether ``v`` is one of several blocks that lie one after another."""
        buffer = self.home(v)
        return buffer is not None and self.is_stack(buffer)

    def alone(self, v: Vector) -> bool:
        """Whether ``v`` has an array of its own, which is contiguous."""
        buffer = self.home(v)
        return buffer is None or len(buffer.blocks) == 1

    def fill(self, blocks: Sequence[Vector]) -> bool:
        """Whether ``blocks`` are all blocks of their buffer."""
        buffer = self.home(blocks[0])
        return buffer is not None and tuple(self.of(v) for v in blocks) == buffer.blocks

    def position(self, v: Vector) -> tuple[int, int]:
        """The number of the buffer that holds ``v``, and that of the block in it."""
        home = self.home(v)
        return (-1, 0) if home is None else (self.plan.buffers.index(home), self.index(v))

    def are_neighbours(self, v: Vector, w: Vector) -> bool:
        """Whether ``w`` is the block that follows ``v``."""
        here, there = self.home(v), self.home(w)
        if here is None or here != there or len(here.blocks) == 1:
            return False
        return self.index(w) == self.index(v) + 1

    def runs(self, group: Group, tuples: Sequence[tuple[Vector, ...]]) -> list[Group]:
        """The parts of ``group`` in whose lanes each of ``tuples`` lies side by side."""
        if not tuples:
            return []
        order = sorted(range(len(group.lhs)), key=lambda k: self.position(tuples[0][k]))
        runs: list[list[int]] = []
        for k in order:
            if runs and all(self.are_neighbours(t[runs[-1][-1]], t[k]) for t in tuples):
                runs[-1].append(k)
            else:
                runs.append([k])
        return [group.chosen(run) for run in runs if len(run) > 1]

    def is_carried_in_place(self, state: Vector) -> bool:
        """Whether one array serves for what arrives from t+1 and for what leaves for t-1: the one
        is read for the last time before the other is written.
        """
        return state in self._carried_in_place

    @cached_property
    def _carried_in_place(self) -> set[Vector]:
        accesses: list[tuple[set[Vector], set[Vector]]] = []
        for op in self.plan.backward.step:
            if isinstance(op, Fused):
                accesses += [(e.rhs.atoms(Vector), {e.lhs}) for e in op.equations]
            else:
                accesses.append((set(op.reads), set(op.writes)))
        last = {v: k for k, (read, _) in enumerate(accesses) for v in read}
        first = {v: k for k, (_, written) in reversed(list(enumerate(accesses))) for v in written}
        leaving = {s: carry(s, -1) for s in self.plan.cell.states}
        return {s for s, v in leaving.items() if v in first and last.get(carry(s), -1) < first[v]}

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
