"""Which memory each value has: what lies beside what, and what is computed in place of what.

``storage`` says which values have a buffer, and for how long. Where every value is an array that a
call writes (``Options.arrays``), two things are added here. A value may be written over the one
that it comes from: gates over their pre-activations, what flows back to step t-1 over what came
from step t+1. And where elementwise work is all that touches a buffer in the loop, its blocks lie
apart, one after another, each with all rows of the batch: each is contiguous then, and so are
neighbours taken together, which makes NumPy two to four times as fast as on slices of rows.

Targets read this, and decide nothing of it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sympy import Expr

from ..derivation.reverse import carry
from ..language.cell import Cell
from ..language.symbols import Vector
from .lanes import Group
from .lifetimes import lifetimes
from .operations import ZERO, Buffer, Fused, Multiply, Operation, Outers, Pass
from .options import Options
from .storage import heirs, succession

_LASTING = ("tape", "state", "given", "carry", "carries")


@dataclass(frozen=True)
class Assignment:
    """The memory of all values of a plan.

    Attributes
    ----------
    cell : Cell
    buffers : tuple of Buffer
        Blocks that lie side by side. A value that is in none is needed in its own loop only.
    in_place : dict
        From a value to the one in whose memory it is written, where that is another one.
    """

    cell: Cell
    buffers: tuple[Buffer, ...]
    in_place: Mapping[Vector, Vector]

    def of(self, v: Vector) -> Vector:
        """The value whose memory ``v`` has: itself, or the one that is in the same place."""
        return self.in_place.get(v, v)

    @cached_property
    def homes(self) -> dict[Vector, Buffer]:
        """The buffer of every value that is a block of one, whether it is written there or not."""
        return {v: buffer for buffer in self.buffers for v in buffer.blocks}

    def home(self, v: Vector) -> Buffer | None:
        """The buffer in which ``v`` is written."""
        return self.homes.get(self.of(v))

    @cached_property
    def real(self) -> tuple[Buffer, ...]:
        """The buffers that take memory: not those whose blocks are all written elsewhere."""
        return tuple(b for b in self.buffers if any(self.of(v) == v for v in b.blocks))

    def in_stack(self, v: Vector) -> bool:
        """Whether ``v`` is one of several blocks that lie one after another."""
        buffer = self.home(v)
        return buffer is not None and buffer.apart

    def alone(self, v: Vector) -> bool:
        """Whether ``v`` has memory of its own, which is contiguous."""
        buffer = self.home(v)
        return buffer is None or len(buffer.blocks) == 1

    def fill(self, blocks: Sequence[Vector]) -> bool:
        """Whether ``blocks`` are all blocks of their buffer."""
        buffer = self.home(blocks[0])
        return buffer is not None and tuple(self.of(v) for v in blocks) == buffer.blocks

    def position(self, v: Vector) -> tuple[int, int]:
        """The number of the buffer that holds ``v``, and that of the block in it."""
        home = self.home(v)
        return (-1, 0) if home is None else (self.buffers.index(home), self.index(v))

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

    def start(self, v: Vector) -> Expr:
        """The unit at which ``v`` begins where blocks lie side by side."""
        buffer = self.home(v)
        assert buffer is not None
        return self.width(buffer.blocks[: self.index(v)])

    def index(self, v: Vector) -> int:
        """The number of the block that ``v`` is in its buffer."""
        buffer = self.home(v)
        assert buffer is not None
        return buffer.blocks.index(self.of(v))

    def width(self, blocks: Sequence[Vector]) -> Expr:
        """The units of all ``blocks``."""
        return sum((self.cell.size(v) for v in blocks), ZERO)


def assign(
    cell: Cell, forward: Pass, backward: Pass, buffers: tuple[Buffer, ...], options: Options
) -> Assignment:
    """Decide which values of ``buffers``, and of loops, share memory."""
    if not options.arrays:
        return Assignment(cell, buffers, {})
    written = ({v for op in part.operations for v in op.writes} for part in (forward, backward))
    made = _Arrays(cell, buffers, set.intersection(*written))
    for part in (forward, backward):
        made.keep_rows(part)
    for part in (forward, backward):
        made.settle(part)
    in_place = {v: w for v, w in made.moved.items() if v != w}
    apart = tuple(replace(b, apart=made.is_apart(b)) for b in buffers)
    return Assignment(cell, apart, {**in_place, **_carried(cell, backward)})


def _carried(cell: Cell, backward: Pass) -> dict[Vector, Vector]:
    """What leaves a step for t-1, over what arrives from t+1: where this has been read by then."""
    used = lifetimes(backward)
    pairs = ((carry(s, -1), carry(s)) for s in cell.states)
    return {out: come for out, come in pairs if used.is_read_before_written(come, out)}


class _Arrays:
    """Decides what is written over what, where every value is an array."""

    def __init__(self, cell: Cell, buffers: tuple[Buffer, ...], again: set[Vector]) -> None:
        self.cell, self.buffers = cell, buffers
        self.again = again  # what backward computes again, and must not write over what is kept
        self.home = {v: b for b in buffers for v in b.blocks}
        self.moved: dict[Vector, Vector] = {}
        self._side_by_side: set[Buffer] = set()

    def is_apart(self, buffer: Buffer) -> bool:
        """Whether the blocks may lie one after another."""
        sizes = {self.cell.size(v) for v in buffer.blocks}
        return len(buffer.blocks) > 1 and len(sizes) == 1 and buffer not in self._side_by_side

    def keep_rows(self, part: Pass) -> None:
        """Leave blocks that a product reads as one operand side by side."""
        for op in part.operations:
            together: Sequence[Vector] = ()
            if isinstance(op, Multiply):
                together = op.operands
            elif isinstance(op, Outers):
                together = op.lefts
            if len(together) > 1:
                self._side_by_side.update(self.home[v] for v in together)

    def settle(self, part: Pass) -> None:
        """Give the values of one pass their places."""
        lines = [e for op in part.operations if isinstance(op, Fused) for e in op.equations]
        operands = [v for op in part.operations for v in _operands(op)]
        lasting = {v for v, b in self.home.items() if b.scope in _LASTING}
        spent = heirs(lines, operands, lasting, self.cell.size)
        for buffer in self.buffers:
            if len(buffer.blocks) > 1 and buffer.scope in ("tile", "step"):
                self._over_tape(buffer, spent)
        for v in spent:
            if v not in set(spent.values()):
                chain = succession(v, spent)
                if not any(u in self.moved for u in chain):
                    self._share(chain)

    def _over_tape(self, buffer: Buffer, spent: dict[Vector, Vector]) -> None:
        """All blocks of ``buffer`` over those of a buffer of the tape, if these become of them."""
        finals = tuple(succession(v, spent)[-1] for v in buffer.blocks)
        over = self.home.get(finals[0])
        if over is None or over.blocks != finals or over.scope != "tape":
            return
        if self._side_by_side & {buffer, over}:
            self._side_by_side |= {buffer, over}
        for v, final in zip(buffer.blocks, finals, strict=True):
            self.moved.update(dict.fromkeys(succession(v, spent), final))

    def _share(self, chain: Sequence[Vector]) -> None:
        """One place for the values of ``chain``, if those that have a home have it alone."""
        home = self.home
        single = [v not in home or len(home[v].blocks) == 1 for v in chain]
        last = chain[-1]
        if all(single) and last in home and home[last].scope in ("tape", "state", "given"):
            holder = last
            chain = [v for v in chain if v not in self.again]
        else:
            stop = next((k for k, v in enumerate(chain) if k and v in home), len(chain))
            chain = chain[:stop]
            holder = chain[0] if chain[0] in home else chain[-1]
        self.moved.update(dict.fromkeys(chain, holder))


def _operands(op: Operation) -> tuple[Vector, ...]:
    """What an operation reads that nothing may be written over before it."""
    if isinstance(op, Fused):
        return ()
    return op.operands if isinstance(op, Multiply) else op.reads
