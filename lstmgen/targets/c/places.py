"""Where values live: which blocks lie side by side in a row of memory.

All that the tape keeps of one step and one row of the batch lies in one row (``kept``), and so does
what a tile of steps needs (``tile``), or a single step (``scratch``). Loops over units run over
whole vectors and have no tail: there is room after every block, or a block that is written later
(``rows``). What callers own is copied to rows of that kind, and back, unless it lies like that
already (``copies``).

What lowers a plan asks ``Places``, and decides nothing of this itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sympy import Eq, Expr

from ...language.symbols import Vector
from ...planning.operations import ZERO, Fused, Loop, Outers, Pass, Sums
from ...planning.plans import Plan
from .rows import Writes, sides
from .sizes import Sizes


@dataclass(frozen=True)
class Row:
    """Blocks side by side in one row of memory: for one row of the batch, at one step.

    ``runs`` of blocks touch, and are padded to whole vectors at their end; ``thin`` blocks at the
    end of the row are single numbers that no product takes for a block.
    """

    name: str
    runs: tuple[tuple[Vector, ...], ...]
    thin: tuple[Vector, ...]
    sizes: Sizes

    @property
    def blocks(self) -> tuple[Vector, ...]:
        return tuple(v for run in self.runs for v in run) + self.thin

    def offset(self, v: Vector) -> Expr:
        """Where ``v`` begins."""
        start = ZERO
        for run in self.runs:
            if v in run:
                return start + sum(map(self.sizes.of, run[: run.index(v)]), ZERO)
            start += self.sizes.room(run)
        return start + self.thin.index(v)

    @property
    def width(self) -> Expr:
        """The numbers in a row."""
        return sum(map(self.sizes.room, self.runs), self.sizes.rounded(len(self.thin)))

    def touching(self, blocks: Sequence[Vector]) -> list[list[Vector]]:
        """``blocks`` in the order of memory, cut where they do not touch."""
        order = self.blocks
        parts: list[list[Vector]] = []
        for v in sorted(blocks, key=order.index):
            run = next((run for run in self.runs if v in run), (v,))
            before = run[run.index(v) - 1] if run.index(v) else None
            if before is not None and parts and parts[-1][-1] == before:
                parts[-1].append(v)
            else:
                parts.append([v])
        return parts


class Memory:
    """The rows of memory of one plan."""

    def __init__(self, plan: Plan, sizes: Sizes) -> None:
        self.plan, self.sizes = plan, sizes
        operations = (*plan.forward.operations, *plan.backward.operations)
        made = [v for op in operations for v in op.writes]
        self._rank = {v: k for k, v in reversed(list(enumerate(made)))}
        self._blocks = {v for op in operations for side in sides(op) for v in side}
        self.kept = self.row("kept", "tape", self._rank)

    def row(
        self, name: str, scope: str, used: Iterable[Vector], writes: Writes | None = None
    ) -> Row:
        """The blocks of all buffers of a scope that hold what is ``used``.

        They are in the order in which they come about; scalars are last, so that they do not shift
        the others about. From when they are written follows which blocks may touch.
        """
        used = set(used)
        buffers = [b for b in self.plan.buffers if b.scope == scope and used & set(b.blocks)]

        def key(blocks: tuple[Vector, ...]) -> tuple[bool, int]:
            return self._is_thin(blocks), min(self._rank[v] for v in blocks if v in self._rank)

        runs: list[list[Vector]] = []
        thin: list[Vector] = []
        for blocks in sorted((b.blocks for b in buffers), key=key):
            if self._is_thin(blocks):
                thin += blocks
                continue
            for k, v in enumerate(writes.arranged(blocks) if writes else blocks):
                if k and writes and writes.may_touch(runs[-1][-1], v):
                    runs[-1].append(v)
                else:
                    runs.append([v])
        for run in runs:
            self.sizes.room(run)  # which gives it a name, in the order of memory
        return Row(name, tuple(map(tuple, runs)), tuple(thin), self.sizes)

    def _is_thin(self, blocks: tuple[Vector, ...]) -> bool:
        return all(self.sizes.of(v) == 1 and v not in self._blocks for v in blocks)


class Places:
    """Where one pass finds its values."""

    def __init__(self, memory: Memory, part: Pass) -> None:
        self.plan, self.sizes, self.kept = memory.plan, memory.sizes, memory.kept
        self.used = {v for op in part.operations for v in (*op.reads, *op.writes)}
        self._writes = writes = Writes(part)
        writes.settle(writes.arranged(b.blocks) for b in memory.plan.buffers)
        self.tile = memory.row("tile", "tile", self.used, writes)
        self.scratch = memory.row("scratch", "step", self.used, writes)
        rows = (self.kept, self.tile, self.scratch)
        self.row_of = {v: row for row in rows for v in row.blocks}
        by_unit = {v for op in part.operations if isinstance(op, (Fused, Sums)) for v in op.reads}
        # panels are copied by whole vecs, as where a matrix is used transposed
        by_unit |= {v for op in part.operations if isinstance(op, Outers) for v in op.lefts}
        self._only_factors = {v for v in self.given if not is_written(v)} - by_unit

    # ------------------------------------------------------------------ vectors

    def is_stored(self, v: Vector) -> bool:
        """Whether ``v`` lives in memory; else it is a local variable of a stage."""
        return v in self.plan.home or v.category in ("state", "carry")

    def is_y(self, v: Vector) -> bool:
        """Whether ``v`` is written to the caller's y, and nowhere else."""
        return v in self.plan.cell.outputs and v.category == "vector" and v not in self.row_of

    @property
    def given(self) -> list[Vector]:
        """What this pass reads or writes of the arrays that callers own, states aside."""
        kinds = {"input": 0, "mask": 1, "cotangent": 2, "adjoint": 3}
        ends = {v.name for v in self.plan.cell.inputs}
        arrays = [v for v in self.used if v.category in kinds and v not in self.row_of
                  and (v.category != "adjoint" or v.name in ends)]  # fmt: skip
        y = [v for v in self.used if self.is_y(v)]
        return sorted([*arrays, *y], key=lambda v: (kinds.get(v.category, 4), v.name))

    def width(self, what: Vector | Row) -> Expr:
        """The numbers in a row; what only products read, one by one, needs no padding."""
        if isinstance(what, Row):
            return what.width
        return self.sizes.of(what) if what in self._only_factors else self.sizes.room_of(what)

    def stride(self, v: Vector) -> Expr:
        """How far apart the rows of ``v`` are."""
        return self.width(self.row_of.get(v, v))

    # ------------------------------------------------------------------ blocks of a product

    def together(self, blocks: Sequence[Vector]) -> bool:
        """Whether blocks follow each other in memory, with no other between them."""
        return all(self._adjacent(v, after) for v, after in pairwise(blocks))

    def _adjacent(self, v: Vector, after: Vector) -> bool:
        row = self.row_of.get(v)
        if row is None or row is not self.row_of.get(after):
            return False
        return bool(row.blocks.index(after) == row.blocks.index(v) + 1)

    def row(self, blocks: Sequence[Vector]) -> Row | None:
        """The row that holds all of these blocks."""
        rows = {self.row_of.get(v) for v in blocks}
        return rows.pop() if len(rows) == 1 else None

    def touching(self, blocks: Sequence[Vector]) -> list[list[Vector]]:
        """Blocks in the order of memory, cut where they do not touch."""
        row = self.row(blocks)
        return row.touching(blocks) if row else [[v] for v in blocks]

    def stacks(self, blocks: Sequence[Vector]) -> list[list[int]]:
        """The numbers of blocks in the order of memory, cut where one product cannot have them:
        after the end of a run of which not all blocks are used.
        """
        parts = self.touching(blocks)
        assert len(blocks) == 1 or self.together([v for p in parts for v in p]), (
            "blocks of a stack lie together"
        )
        row = self.row(blocks)
        stacks: list[list[int]] = []
        whole = False
        for part in parts:
            stacks = stacks if whole else [*stacks, []]
            stacks[-1] += [blocks.index(v) for v in part]
            whole = row is not None and tuple(part) in row.runs
        return stacks

    def columns(self, blocks: Sequence[Vector]) -> tuple[list[Expr], Expr, Expr]:
        """Where the blocks of a stack begin, how many columns they are, and with the room after
        them.
        """
        starts, start, width = [], ZERO, ZERO
        for part in self.touching(blocks):
            width = start
            for v in part:
                starts.append(width)
                width += self.sizes.of(v)
            start += self.sizes.room(part)
        return starts, width, start

    def evenly(self, blocks: Sequence[Vector]) -> bool:
        """Whether each of several blocks of one size begins a padded block after the one before
        it: none of them touches that.
        """
        row = self.row(blocks)
        apart = row is not None and all((v,) in row.runs for v in blocks[:-1])
        one_size = len({self.sizes.of(v) for v in blocks}) == 1 < len(blocks)
        return one_size and apart and self.together(blocks)

    # ------------------------------------------------------------------ loops over units

    def equations(self, loop: Loop) -> tuple[Eq, ...]:
        """What a loop computes, in the order in which it is written."""
        return self._writes.equations(loop)

    def overlaps(self, loop: Loop) -> bool:
        """Whether a loop writes blocks that touch: then it runs from the last vec to the first,
        so that what is too much of a vec is written over.
        """
        order = [e.lhs for e in loop.equations]
        return any(
            v in order and after in order
            for row in (self.tile, self.scratch)
            for run in row.runs
            for v, after in pairwise(run)
        )


def is_written(v: Vector) -> bool:
    """Whether an array of a caller is one that is received."""
    return v.category in ("adjoint", "vector")
