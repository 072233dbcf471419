"""The operations of a plan as C: products as calls of one kernel, fused stages as functions.

Memory is laid out in rows. All that the tape keeps of one step and one row of the batch lies side
by side (``kept``), and so does what a tile of steps needs (``tile``), or a single step
(``scratch``). Loops over units run over whole vectors and have no tail: there is room after every
block, or a block that is written later (``c_rows``). What callers own is copied to rows of that
kind, and back, unless it lies like that already. A stage takes one pointer for each kind, and steps
from row to row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import sympy
from sympy import Eq, Expr

from ...language.cell import Cell
from ...language.symbols import Matrix, Reduction, Scan, Size, Vector, max_, mean, rcumsum, sum_
from ...planning import schedule
from ...planning.operations import (
    AFTER,
    BEFORE,
    STEP,
    ZERO,
    B,
    Fill,
    Fused,
    Loop,
    Multiply,
    Operation,
    Outers,
    Pass,
    Sums,
    T,
)
from ...printing.orders import Order, is_negative
from ...printing.text import text as mathematics
from ..naming import Names, identifier
from .expressions import (
    CELL_WORDS,
    STAGE_WORDS,
    WIDTH,
    WORDS,
    ExpressionPrinter,
    broken,
    comment,
    enclosed,
    mentions,
    monomials,
    plus,
    statement,
    times,
    without_comments,
)
from .layout import beside
from .rows import Writes, sides

ONE = sympy.S.One
_PAD_BYTES = 64  # the widest vector, and a line of the cache


@dataclass(frozen=True)
class Row:
    """Blocks side by side in one row of memory: for one row of the batch, at one step.

    ``runs`` of blocks touch, and are padded to whole vectors at their end; ``thin`` blocks at the
    end of the row are single numbers that no product takes for a block.
    """

    name: str
    runs: tuple[tuple[Vector, ...], ...]
    thin: tuple[Vector, ...]
    source: Source

    @property
    def blocks(self) -> tuple[Vector, ...]:
        return tuple(v for run in self.runs for v in run) + self.thin

    def offset(self, v: Vector) -> Expr:
        """Where ``v`` begins."""
        start = ZERO
        for run in self.runs:
            if v in run:
                return start + sum(map(self.source.cell.size, run[: run.index(v)]), ZERO)
            start += self.source.room(run)
        return start + self.thin.index(v)

    @property
    def width(self) -> Expr:
        """The numbers in a row."""
        return sum(map(self.source.room, self.runs), self.source.rounded(len(self.thin)))

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


class Source:
    """What all parts of one source share: the plan, names, and how sizes are written.

    ``stages`` collects the functions that are made for fused stages, in the order of their use.
    """

    def __init__(self, cell: Cell, dtype: str, fixed: dict[str, int]) -> None:
        self.cell, self.dtype, self.fixed = cell, dtype, fixed
        self.pad = _PAD_BYTES // {"float32": 4, "float64": 8}[dtype]
        self.plan = schedule.plan(cell, dtype=dtype)
        self.order = Order(cell, self.plan.derivation.forward)
        self.names = Names(WORDS | {f"{cell.name}_{word}" for word in CELL_WORDS})
        self.wide = {n: Size(f"padded {n}") for n in cell.sizes}
        for n in cell.sizes:
            self.names(n, n.name)
        for n, wide in self.wide.items():
            self.names(wide, f"{self.names(n, n.name)}p")
        self.expressions = ExpressionPrinter(self.order, self.names, dtype)
        self.stages: list[Stage] = []
        operations = (*self.plan.forward.operations, *self.plan.backward.operations)
        made = [v for op in operations for v in op.writes]
        self.rank = {v: k for k, v in reversed(list(enumerate(made)))}
        self.blocks = {v for op in operations for side in sides(op) for v in side}

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
            return self._is_thin(blocks), min(self.rank[v] for v in blocks if v in self.rank)

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
            self.room(run)  # which gives it a name, before stages give any
        return Row(name, tuple(map(tuple, runs)), tuple(thin), self)

    def _is_thin(self, blocks: tuple[Vector, ...]) -> bool:
        return all(self.cell.size(v) == 1 and v not in self.blocks for v in blocks)

    def width(self, what: Vector | Row) -> Expr:
        """The numbers in a row of a vector, or of all blocks of a kind."""
        return what.width if isinstance(what, Row) else self.padded(what)

    def padded(self, v: Vector) -> Expr:
        """The numbers that a vector takes in memory of our own: whole vectors of the machine."""
        return self.padded_size(self.cell.size(v))

    def padded_size(self, n: Expr) -> Expr:
        """A number of units, padded to whole vectors."""
        return self.rounded(int(n)) if n.is_number else self.wide[n]

    def room(self, blocks: Sequence[Vector]) -> Expr:
        """The numbers that blocks take which touch. The last one is written by whole vectors."""
        sizes = [self.cell.size(v) for v in blocks]
        if len(sizes) == 1:
            return self.padded_size(sizes[0])
        count = sum(sizes[:-1], self.padded_size(sizes[-1]))
        if count.is_number:
            return self.rounded(int(count))
        if count not in self.wide:
            many = Counter(map(str, sizes))
            parts = (("n" if n.isdigit() else "") + n + (str(k) if k > 1 else "")
                     for n, k in many.items())  # fmt: skip
            self.wide[count] = wide = Size(f"padded {count}")
            self.names(wide, f"{''.join(parts)}p")
        return self.wide[count]

    def rounded(self, n: int) -> Expr:
        """``n``, padded to whole vectors."""
        return sympy.Integer(-(-n // self.pad) * self.pad)

    def pointer_to(self, what: Vector | Row) -> str:
        """The pointer to the rows of a state, or of a kind."""
        return what.name if isinstance(what, Row) else self.names(("state", what.name), what.name)

    def text(self, e: Expr) -> str:
        """An expression as people write it, for comments."""
        return mathematics(e, self.order)

    # ------------------------------------------------------------------ sizes

    def size(self, e: Expr) -> str:
        """A size as a C expression of type size_t."""
        return " + ".join(" * ".join(map(self._name, m)) for m in monomials(e))

    def checked(self, e: Expr) -> str:
        """A size in arithmetic that does not wrap around."""
        sums = []
        for m in monomials(e):
            factors = list(map(self._name, m))
            if len(m) > 1 and m[0].is_number:  # some blocks of a row, which has fewer than 4096
                factors[:2] = [f"{m[0]} * {factors[1]}"]
            sums.append(reduce("times({}, {})".format, factors))
        return reduce("plus({}, {})".format, sums)

    def _name(self, n: Expr) -> str:
        return str(n) if n in (T, B) or n.is_number else self.names(n, n.name)

    def value(self, n: Size) -> int | None:
        """A size of the cell, or one that is padded, if it is fixed."""
        count = next((count for count, wide in self.wide.items() if wide == n), None)
        if count is None:
            return self.fixed.get(n.name)
        parts = {s: self.value(s) for s in count.atoms(Size)}
        return None if None in parts.values() else int(self.rounded(int(count.subs(parts))))

    def sizes_in(self, lines: Iterable[str]) -> list[tuple[str, int | None]]:
        """The sizes that occur in code, each with its value if that is fixed."""
        code = without_comments(lines)
        every = (*self.cell.sizes, *self.wide.values())
        names = [(self._name(n), self.value(n)) for n in every]
        return [(name, value) for name, value in names if mentions(name, code)]

    def declared_sizes(self, lines: Iterable[str], given: Sequence[str] = ()) -> list[str]:
        """The declaration of all sizes that occur in code, but for those that are there already."""
        lines = list(lines)
        code = without_comments(lines)
        items = [f"{n} = n->{n}" for n in ("T", "B") if n not in given and mentions(n, code)]
        occurring = dict(self.sizes_in(lines))
        member = {n: f"n->{n.name}" for n in self.cell.sizes}
        for count, wide in self.wide.items():
            member[wide] = f"padded({self._written(count, occurring, member)})"
        texts = {self._name(n): text for n, text in member.items()}
        items += [f"{name} = {value or texts[name]}" for name, value in occurring.items()]
        return broken("const size_t ", items, ";") if items else []

    def _written(self, count: Expr, occurring: Iterable[str], member: dict[Size, str]) -> str:
        """A size from those that occur; others are replaced by what they are made of."""
        terms = []
        for m in monomials(count):
            factors = [n if (n := self._name(f)) in occurring else member.get(f, n) for f in m]
            terms.append(" * ".join(factors))
        return " + ".join(terms)


# --------------------------------------------------------------------------- one direction


class Direction:
    """One pass: its rows of memory, its packed weights, and its statements."""

    def __init__(self, source: Source, name: str, part: Pass, kept: Row) -> None:
        self.source, self.name, self.part, self.kept = source, name, part, kept
        self.cell = source.cell
        self.used = {v for op in part.operations for v in (*op.reads, *op.writes)}
        self.writes = Writes(part)
        self.writes.settle(self.writes.arranged(b.blocks) for b in source.plan.buffers)
        self.tile = source.row("tile", "tile", self.used, self.writes)
        self.scratch = source.row("scratch", "step", self.used, self.writes)
        self.row_of = {v: row for row in (kept, self.tile, self.scratch) for v in row.blocks}
        by_unit = {v for op in part.operations if isinstance(op, (Fused, Sums)) for v in op.reads}
        # panels are copied by whole vecs, as where a matrix is used transposed
        by_unit |= {v for op in part.operations if isinstance(op, Outers) for v in op.lefts}
        self.only_factors = {v for v in self.given if not self.is_written(v)} - by_unit
        self.packs: dict[tuple[str, ...], dict[str, Any]] = {}
        self.gradients: dict[tuple[str, ...], dict[str, Any]] = {}
        self.begun: set[Matrix | Vector] = set()  # whose gradient is not zeroed before it is summed
        self.in_panels: Sequence[Vector] = ()  # what has been copied last
        self.tallest: set[Expr] = set()
        self.widest: set[Expr] = set()
        self.stages: dict[tuple[str, int], Stage] = {}
        self.region = STEP

    def lines(self) -> dict[str, list[str]]:
        """The statements of each region."""
        out: dict[str, list[str]] = {}
        for region in (BEFORE, STEP, AFTER):
            self.region = region
            ops = getattr(self.part, region)
            out[region] = [line for k in range(len(ops)) for line in self._operation(ops, k)]
        return out

    # ------------------------------------------------------------------ where a value is

    def width(self, what: Vector | Row) -> Expr:
        """The numbers in a row; what only products read, one by one, needs no padding."""
        if isinstance(what, Vector) and what in self.only_factors:
            return self.cell.size(what)
        return self.source.width(what)

    @property
    def given(self) -> list[Vector]:
        """What this pass reads or writes of the arrays that callers own, states aside."""
        kinds = {"input": 0, "mask": 1, "cotangent": 2, "adjoint": 3}
        ends = {v.name for v in self.cell.inputs}
        arrays = [v for v in self.used if v.category in kinds and v not in self.row_of
                  and (v.category != "adjoint" or v.name in ends)]  # fmt: skip
        y = [v for v in self.used if self._is_y(v)]
        return sorted([*arrays, *y], key=lambda v: (kinds.get(v.category, 4), v.name))

    def _is_y(self, v: Vector) -> bool:
        return v == self.cell.output and v.category == "vector" and v not in self.row_of

    def is_written(self, v: Vector) -> bool:
        """Whether a given array is one that callers receive."""
        return v.category in ("adjoint", "vector")

    def rows_name(self, v: Vector) -> str:
        """The pointer to the rows of a given array."""
        wish = "y" if self._is_y(v) else identifier(v)
        return self.source.names(("rows", v), f"{wish}_rows")

    def argument(self, v: Vector) -> str:
        """The array of a caller that holds ``v``."""
        several = len(self.cell.inputs) > 1
        if v.category == "adjoint":
            return f"dx->{v.name}" if several else "dx"
        if v.category == "input":
            return f"x->{v.name}" if several else "x"
        return {"cotangent": "dy", "mask": f"m->{v.name}"}.get(v.category, "y")

    def pointer(self, what: Vector | Row) -> str:
        """What points to the first row of a vector, or of all blocks of a kind, where we are."""
        if isinstance(what, Vector) and what in self.row_of:
            row = self.row_of[what]
            return plus(self.pointer(row), self.source.size(row.offset(what)))
        looping = self.region == STEP
        width = self.source.size(self.width(what))
        if isinstance(what, Row):
            start = "k * B" if looping and what is not self.scratch else ""
            base = what.name
        elif what.category == "state":
            start = {(-1, True): "k * B", (0, True): "(k + 1) * B", (0, False): "B"}.get(
                (what.time, looping), ""
            )
            base = self.source.pointer_to(what)
        elif what.category == "carry":
            way = "next" if what.time == 0 else "prev"
            return self.source.names((way, what.name), identifier(what))
        elif what.category == "parameter":
            return self.packed_vector(what)
        else:
            start = "k * B" if looping else ""
            base = self.rows_name(what)
        return f"{base} + {times(start, width)}" if start else base

    def stride(self, v: Vector) -> str:
        """How far apart the rows of ``v`` are."""
        return self.source.size(self.width(self.row_of.get(v, v)))

    @property
    def rows(self) -> str:
        """How many rows are worked on here."""
        return "B" if self.region == STEP else "steps * B"

    # ------------------------------------------------------------------ products

    def _operation(self, ops: Sequence[Operation], k: int) -> list[str]:
        op = ops[k]
        if isinstance(op, Multiply):
            return self._multiply(op)
        if isinstance(op, Fill):
            return self._fill(op)
        if isinstance(op, Outers):
            return self._outers(op)
        key = (self.region, k)
        if key not in self.stages:
            self.stages[key] = self._stage(op, ops[k - 1] if k else None)
        return self.stages[key].call(self)

    def _fill(self, op: Fill) -> list[str]:
        starts = [
            f"{self._text(out)} = {self._text(bias) if bias is not None else '0'}"
            for out, bias in zip(op.outs, op.biases, strict=True)
        ]
        lines = comment(f"{', '.join(starts)}: to these, products are added")
        bias_of = dict(zip(op.outs, op.biases, strict=True))
        for out in (v for part in self._touching(op.outs) for v in part):
            bias = bias_of[out]  # each may write into the next one
            start = "NULL" if bias is None else self.packed_vector(bias)
            items = [self.rows, self.source.size(self.source.padded(out)), start,
                     self.pointer(out), self.stride(out)]  # fmt: skip
            lines += broken("fill(", items, ");")
        return lines

    def _adjacent(self, v: Vector, after: Vector) -> bool:
        """Whether no other block lies between two."""
        row = self.row_of.get(v)
        if row is None or row is not self.row_of.get(after):
            return False
        return bool(row.blocks.index(after) == row.blocks.index(v) + 1)

    def _together(self, blocks: Sequence[Vector]) -> bool:
        return all(self._adjacent(v, after) for v, after in pairwise(blocks))

    def _row(self, blocks: Sequence[Vector]) -> Row | None:
        """The row that holds all of these blocks."""
        rows = {self.row_of.get(v) for v in blocks}
        return rows.pop() if len(rows) == 1 else None

    def _touching(self, blocks: Sequence[Vector]) -> list[list[Vector]]:
        """Blocks in the order of memory, cut where they do not touch."""
        row = self._row(blocks)
        return row.touching(blocks) if row else [[v] for v in blocks]

    def _stacks(self, blocks: Sequence[Vector]) -> list[list[int]]:
        """The numbers of blocks in the order of memory, cut where one product cannot have them:
        after the end of a run of which not all blocks are used.
        """
        parts = self._touching(blocks)
        assert len(blocks) == 1 or self._together([v for p in parts for v in p]), (
            "blocks of a stack lie together"
        )
        row = self._row(blocks)
        stacks: list[list[int]] = []
        whole = False
        for part in parts:
            stacks = stacks if whole else [*stacks, []]
            stacks[-1] += [blocks.index(v) for v in part]
            whole = row is not None and tuple(part) in row.runs
        return stacks

    def _columns(self, blocks: Sequence[Vector]) -> tuple[list[Expr], Expr, Expr]:
        """Where the blocks of a stack begin, how many columns they are, and with the room after
        them.
        """
        starts, start, width = [], ZERO, ZERO
        for part in self._touching(blocks):
            width = start
            for v in part:
                starts.append(width)
                width += self.cell.size(v)
            start += self.source.room(part)
        return starts, width, start

    def _multiply(self, op: Multiply) -> list[str]:
        lines = comment(self._product_text(op))
        if op.matrices[0].transposed:
            return lines + self._add_up(op)
        x = op.operands[0]
        rows = f"rows_of({self.pointer(x)}, {self.stride(x)}, {self._units(x)})"
        for stack in self._stacks(op.outs):
            outs, biases = [op.outs[k] for k in stack], [op.biases[k] for k in stack]
            start = (self.pointer(outs[0]), self.stride(outs[0]))
            if not op.accumulate:
                start = (self._start(outs, biases), "0")
            weights = self._pack_columns(outs, [op.matrices[k] for k in stack])
            lines += self._product(self._columns(outs)[1], rows, weights, start, outs[0])
        return lines

    def _add_up(self, op: Multiply) -> list[str]:
        """One sum of products with matrices as they are: blocks of one size need one call only."""
        lines: list[str] = []
        out, bias = op.outs[0], op.biases[0]
        factor = dict(zip(op.operands, op.matrices, strict=True))
        parts = self._touching(op.operands)
        order = [v for part in parts for v in part]
        sizes = {self.cell.size(v) for v in order}
        row = self._row(order)
        # the next one begins a padded block further on: none of them touches what is before it
        apart = row is not None and all((v,) in row.runs for v in order[:-1])
        evenly = len(sizes) == 1 < len(order) and apart and self._together(order)
        adding = op.accumulate
        for part in [order] if evenly else parts:
            x, matrices = part[0], [factor[v] for v in part]
            inner = self.source.size(sum(map(self.cell.size, part), ZERO))
            rows = f"rows_of({self.pointer(x)}, {self.stride(x)}, {inner})"
            if evenly:
                block = self.source.size(self.source.padded(x))
                items = [self.pointer(x), self.stride(x), str(len(part)), self._units(x), block]
                rows = f"blocks_of({', '.join(items)})"
            start = (self.pointer(out), self.stride(out))
            if not adding:
                start = ("NULL" if bias is None else self.packed_vector(bias), "0")
            width = self.source.padded(out)
            lines += self._product(width, rows, self._pack_rows(matrices), start, out)
            adding = True
        return lines

    def _product(
        self, width: Expr, rows: str, weights: str, start: tuple[str, str], out: Vector
    ) -> list[str]:
        items = ["team", self.rows, self.source.size(width), rows, weights, *start,
                 self.pointer(out), self.stride(out)]  # fmt: skip
        return broken("multiply(", items, ");")

    def _units(self, v: Vector) -> str:
        return self.source.size(self.cell.size(v))

    def _product_text(self, op: Multiply) -> str:
        sign = "+=" if op.accumulate else "="
        biases = [b for b in op.biases if b is not None]
        if len(op.outs) == 1:
            products = [m @ op.operands[k % len(op.operands)] for k, m in enumerate(op.matrices)]
            total = sympy.Add(*products, *biases)
            return f"{self._text(op.outs[0])} {sign} {self._text(total)}"
        total = sympy.Add(op.matrices[0] @ op.operands[0], *biases[:1])
        others = " ".join(self._text(v) for v in op.outs[1:])
        return f"{self._text(op.outs[0])} {sign} {self._text(total)}; likewise {others}"

    def _text(self, e: Expr) -> str:
        return self.source.text(e)

    # ------------------------------------------------------------------ packed parameters

    def _packed(self, key: tuple[str, ...], wish: str, about: str, count: Expr) -> dict[str, Any]:
        """A piece of packed parameters; whoever makes it adds the calls that fill it."""
        name = self.source.names((self.name, *key), wish)
        self.packs[key] = {
            "name": name, "calls": [], "about": about, "count": count,
        }  # fmt: skip
        return self.packs[key]

    def _pack_columns(self, outs: Sequence[Vector], matrices: Sequence[Matrix]) -> str:
        """Stacked matrices, transposed: a row of memory for each unit of the operand."""
        source, names = self.source, [m.name for m in matrices]
        starts, width, room = self._columns(outs)
        key = ("columns", *names, str(starts))
        if key not in self.packs:
            inner = self.cell.shape(matrices[0])[1]
            about = f"{' '.join(names)}, transposed"
            pack = self._packed(key, f"{_families(names)}_packed", about, inner * room)
            for m, start, end in zip(matrices, starts, [*starts[1:], width], strict=True):
                rows, columns = self.cell.shape(m)
                items = ["threads", source.size(rows), source.size(columns), f"p->{m.name}",
                         pack["name"], source.size(start), source.size(end),
                         source.size(width)]  # fmt: skip
                pack["calls"] += broken("pack_transposed(", items, ");")
        return str(self.packs[key]["name"])

    def _pack_rows(self, matrices: Sequence[Matrix]) -> str:
        """Matrices as they are, stacked."""
        source, names = self.source, [m.name for m in matrices]
        key = ("rows", *names)
        if key not in self.packs:
            shapes = [self.cell.shape(m) for m in matrices]
            inner = sum((rows for rows, _ in shapes), ZERO)
            count = inner * source.padded_size(shapes[0][1])
            about = f"{' '.join(names)}, stacked"
            pack = self._packed(key, f"{_families(names)}_rows", about, count)
            start = ZERO
            for m, (rows, columns) in zip(matrices, shapes, strict=True):
                items = ["threads", source.size(rows), source.size(columns), f"p->{m.name}",
                         pack["name"], source.size(start), source.size(inner)]  # fmt: skip
                pack["calls"] += broken("pack_rows(", items, ");")
                start += rows
        return str(self.packs[key]["name"])

    def _start(self, outs: Sequence[Vector], biases: Sequence[Vector | None]) -> str:
        """What stacked sums begin with: their biases side by side, NULL if there are none."""
        first = biases[0]
        if not any(biases):
            return "NULL"
        if len(biases) == 1 and first is not None:
            return self.packed_vector(first)
        names = ["0" if b is None else b.name for b in biases]
        starts, _, room = self._columns(outs)
        key = ("start", *names, str(starts))
        if key not in self.packs:
            learned = [n for n in names if n != "0"]
            about = f"{' '.join(names)}, side by side"
            wish = f"{_families(learned)}_packed"
            pack = self._packed(key, wish, about, room)
            for out, bias, start, end in zip(
                outs, biases, starts, [*starts[1:], room], strict=True
            ):
                value = "NULL" if bias is None else f"p->{bias.name}"
                items = [self._units(out), value, pack["name"], self.source.size(start),
                         self.source.size(end)]  # fmt: skip
                pack["calls"] += broken("pad(", items, ");")
        return str(self.packs[key]["name"])

    def packed_vector(self, v: Vector) -> str:
        """A learned vector, padded."""
        key = ("vector", v.name)
        if key not in self.packs:
            pack = self._packed(key, f"{v.name}_packed", f"{v.name}", self.source.padded(v))
            width = self.source.size(self.source.padded(v))
            items = [self._units(v), f"p->{v.name}", pack["name"], "0", width]
            pack["calls"] = broken("pad(", items, ");")
        return str(self.packs[key]["name"])

    # ------------------------------------------------------------------ gradients

    def _gradient(self, key: tuple[str, ...], wish: str, about: str, count: Expr) -> dict[str, Any]:
        """Where a gradient is summed; whoever makes it adds the calls that bring it home."""
        name = self.source.names(("gradient", *key), wish)
        self.gradients[key] = {
            "name": name, "calls": [], "about": about, "count": count,
            "zeroed": True,
        }  # fmt: skip
        return self.gradients[key]

    def gradient_of(self, v: Vector) -> str:
        """Where the gradient of a learned vector is summed."""
        key = (v.name,)
        if key not in self.gradients:
            made = self._gradient(key, f"d{v.name}", f"∂L/∂{v.name}", self.source.padded(v))
            self.begun.add(v)
            items = [self._units(v), made["name"], "begun", f"g->{v.name}"]
            made["calls"] = broken("add(", items, ");")
        return str(self.gradients[key]["name"])

    def _outers(self, op: Outers) -> list[str]:
        lines: list[str] = []
        for stack in self._stacks(op.lefts):
            parameters, lefts = [op.parameters[k] for k in stack], [op.lefts[k] for k in stack]
            lines += self._outer(parameters, lefts, op.right)
        return lines

    def _outer(
        self, parameters: Sequence[Matrix], lefts: Sequence[Vector], right: Vector
    ) -> list[str]:
        source = self.source
        names = [p.name for p in parameters]
        starts, width, room = self._columns(lefts)
        height = self.cell.size(right)
        self.tallest.add(source.padded_size(height))
        self.widest.add(room)
        about = f"∂L/∂ of {' '.join(names)}, transposed"
        key = (*names, str(right), *map(str, lefts))
        made = self._gradient(key, f"d{_families(names)}", about, height * room)
        made["zeroed"] = False
        others = "".join(f" ∂L/∂{name}" for name in names[1:])
        product = f"∂L/∂{names[0]} += Σ {self._text(lefts[0])} {self._text(right)}ᵀ"
        lines = comment(f"{product}; likewise{others}" if others else product)
        for p, left, start in zip(parameters, lefts, starts, strict=True):
            begun = "1" if p in self.begun else "begun"
            self.begun.add(p)
            items = ["threads", self._units(left), self._units(right), made["name"],
                     source.size(start), source.size(room), begun, f"g->{p.name}"]  # fmt: skip
            made["calls"] += broken("unpack_transposed(", items, ");")
        items = ["team", self.rows, source.size(width)]
        if self.in_panels != lefts:  # several matrices may have the same adjoints
            self.in_panels = lefts
            at = [self.pointer(lefts[0]), self.stride(lefts[0])]
            lines = broken("copy_panels(", [*items, *at, "panels"], ");") + lines
        items += [source.size(height), self.pointer(right), self.stride(right), "panels",
                  "end < n->T", made["name"], source.size(room), "columns"]  # fmt: skip
        return lines + broken("outer_add(", items, ");")

    # ------------------------------------------------------------------ stages

    def _stage(self, op: Operation, before: Operation | None) -> Stage:
        if isinstance(op, Sums):
            stage = Stage(self, f"{self.cell.name}_{self.name}_sums")
            names = " ".join(p.name for p in op.parameters)
            stage.about = f"After the loop over steps: gradients of {names}, sums over all rows."
            stage.add_sums(op)
        else:
            assert isinstance(op, Fused)
            name = self._stage_name()
            stage = Stage(self, self.source.names(("stage", name), name))
            stage.about = self._about(op, before)
            for loop in op.loops:
                stage.add_loop(loop)
        self.source.stages.append(stage)
        return stage

    def _stage_name(self) -> str:
        where = {BEFORE: "before", STEP: "stage", AFTER: "after"}[self.region]
        stem = f"{self.cell.name}_{self.name}_{where}"
        earlier = [s for s in self.source.stages if re.fullmatch(rf"{stem}(_\d+)?_*", s.name)]
        several = sum(isinstance(op, Fused) for op in getattr(self.part, self.region)) > 1
        return f"{stem}_{len(earlier) + 1}" if several else stem

    def _about(self, op: Fused, before: Operation | None) -> str:
        when = {
            BEFORE: "Before the loop over steps",
            STEP: f"One step {self.name}",
            AFTER: "After the loop over steps",
        }[self.region]
        if isinstance(before, Multiply):
            operands = list(dict.fromkeys(self._text(v) for v in before.operands))
            when += f", after the product with {' '.join(operands)}"
        made = [self._text(e.lhs) for e in op.equations if self.is_stored(e.lhs)]
        return f"{when}: {' '.join(made)}."

    def is_stored(self, v: Vector) -> bool:
        """Whether ``v`` lives in memory; else it is a local variable of a stage."""
        return v in self.source.plan.home or v.category in ("state", "carry")


# --------------------------------------------------------------------------- one stage


class Stage:
    """A static function for one fused stage: for each row of the batch, loops over units.

    A loop works on a whole vector of units at a time; a single number is a vector whose lanes are
    all the same.
    """

    def __init__(self, direction: Direction, name: str) -> None:
        self.direction, self.source, self.name = direction, direction.source, name
        self.cell, self.prefix = direction.cell, direction.cell.name
        every = (*self.cell.sizes, *self.source.wide.values())
        sizes = {self.source.names(n, n.name) for n in every}
        self.names = Names(STAGE_WORDS | sizes | {f"{self.prefix}_params"})
        self.arguments: dict[Vector | Row, str] = {}
        self.sums: dict[Vector, str] = {}
        self.blocks: dict[Vector, str] = {}
        self.local: dict[Vector, str] = {}
        self.written: set[Vector] = set()
        self.body: list[str] = []
        self.about = ""

    # ------------------------------------------------------------------ names

    def reference(self, v: Vector) -> str:
        """``v`` of the current units."""
        if v.category == "constant":
            return f"p->{v.name}"
        if v in self.local:
            return self.local[v]
        block = self._block(v)
        return f"splat({block}[0])" if self.cell.size(v) == 1 else f"{block}[j]"

    def _block(self, v: Vector) -> str:
        """The pointer to the units of ``v`` in the current row."""
        if v not in self.blocks:
            row = self.direction.row_of.get(v)
            wish = identifier(v)
            scalar = self.cell.size(v) == 1
            name = self.blocks[v] = self.names(v, f"{wish}_at" if scalar else wish)
            if row is None:
                self.arguments[v] = self.names(("rows", v), f"{name}_rows")
            elif row not in self.arguments:
                self.arguments[row] = self.names(row, row.name)
        return self.blocks[v]

    def _value(self, e: Expr) -> str:
        """An expression as a vec."""
        single = self.cell.shapes.of(e) == 1
        return self.source.expressions.vector(e, self.reference, single)

    # ------------------------------------------------------------------ statements

    def add_loop(self, loop: Loop) -> None:
        """What a loop over units computes; a single unit needs no loop."""
        before: list[str] = []
        inside: list[str] = []
        after: list[str] = []
        for e in self.direction.writes.equations(loop):
            inside += comment(mathematics(self.source.plan.origin.get(e.lhs, e), self.source.order))
            if not isinstance(e.rhs, Reduction):
                inside += self._assign(e.lhs, self._value(e.rhs))
            elif loop.size == 1:  # a reduction of a single unit is the unit itself
                inside += self._assign(e.lhs, self._value(e.rhs.args[0]))
            elif isinstance(e.rhs, Scan):
                self._scan(e, loop.size, before, inside)
            else:
                self._reduce(e, loop.size, before, inside, after)
        backwards = loop.backwards or self._overlaps(loop)
        looped = inside if loop.size == 1 else self._units(loop.size, inside, backwards)
        self.body += [*before, *looped, *after]

    def _overlaps(self, loop: Loop) -> bool:
        """Whether the loop writes blocks that touch: then it runs from the last vec to the first,
        so that what is too much of a vec is written over.
        """
        order = [e.lhs for e in loop.equations]
        return any(
            v in order and after in order
            for row in (self.direction.tile, self.direction.scratch)
            for run in row.runs
            for v, after in pairwise(run)
        )

    def _units(self, size: Expr, inside: list[str], backwards: bool = False) -> list[str]:
        n = f"vecs({self.source.size(size)})"
        inside = beside(inside, WIDTH - 20)  # of which types take some at the end of names
        head = f"size_t j = {n}; j-- > 0;" if backwards else f"size_t j = 0; j < {n}; ++j"
        return [f"for ({head}) {{", *(f"    {line}" for line in inside), "}"]

    def _assign(self, v: Vector, value: str) -> list[str]:
        stored = self.direction.is_stored(v)
        if stored:
            self.written.add(v)
            block = self._block(v)
            if self.cell.size(v) != 1:
                return statement(f"{block}[j] = {value};")
        name = self.local[v] = self.names(("local", v), identifier(v))
        lines = statement(f"const vec {name} = {value};")
        return [*lines, f"{block}[0] = LSTMGEN_LANE({name}, 0);"] if stored else lines

    def _scan(self, e: Eq, size: Expr, before: list[str], inside: list[str]) -> None:
        total = self.names(("total", e.lhs), f"{identifier(e.lhs)}_total")
        before.append(f"real {total} = 0;")
        value, scan = self._value(e.rhs.args[0]), "running"
        if isinstance(e.rhs, rcumsum):  # begins past the end
            value, scan = f"within({value}, j, {self.source.size(size)}, 0)", "running_back"
        inside += self._assign(e.lhs, f"{scan}({value}, &{total})")

    def _reduce(
        self, e: Eq, size: Expr, before: list[str], inside: list[str], after: list[str]
    ) -> None:
        units = self.source.size(size)
        total = self.names(("total", e.lhs), f"{identifier(e.lhs)}_lanes")
        if isinstance(e.rhs, max_):
            before.append(f"vec {total} = splat(-(real)INFINITY);")
            value = f"within({self._value(e.rhs.args[0])}, j, {units}, -(real)INFINITY)"
            inside += statement(f"{total} = larger({total}, {value});")
            whole = f"across_max({total})"
        else:
            before.append(f"vec {total} = splat(0);")
            inside += self._add(total, e.rhs.args[0], units)
            whole = f"across({total})"
        if isinstance(e.rhs, mean):
            whole += f" * (1 / (real){enclosed(units)})"
        after += self._assign(e.lhs, whole)

    def _add(self, target: str, e: Expr, within: str = "") -> list[str]:
        sign, value = ("-", -e) if is_negative(e) else ("+", e)
        text = self._value(value)
        text = f"within({text}, j, {within}, 0)" if within else text
        return statement(f"{target} {sign}= {text};")

    def add_sums(self, op: Sums) -> None:
        """What the gradients of learned vectors gain from a row, in a loop for each size."""
        loops: dict[Expr, tuple[list[str], list[str], list[str]]] = {}
        for p, term in zip(op.parameters, op.terms, strict=True):
            target = self.sums[p] = self.names(("sum", p), f"d{p.name}")
            for piece in _pieces(term):
                size = self.cell.shapes.of(piece)
                before, inside, after = loops.setdefault(size, ([], [], []))
                inside += comment(f"∂L/∂{p.name} += {self.source.text(piece)}")
                if self.cell.size(p) != 1:
                    inside += self._add(f"{target}[j]", piece)
                    continue
                total = self.names(("total", p, size), f"{target}_lanes")
                units = "" if size == 1 else self.source.size(size)
                inside += self._add(total, piece, units)
                start = f"vec {total} = splat(0);"
                if start not in before:  # several pieces may have one sum
                    whole = total if size == 1 else f"across({total})"
                    before.append(start)
                    after.append(f"{target}[0] += {whole};")
        for size, (before, inside, after) in loops.items():
            looped = inside if size == 1 else self._units(size, inside)
            self.body += [*before, *looped, *after]

    # ------------------------------------------------------------------ the function and its call

    def _sorted(self) -> list[tuple[Vector | Row, str]]:
        """What callers own first, then states, then rows of memory, the tape before others."""
        places = ["input", "mask", "cotangent", "state", "kept", "tile", "scratch", "carry"]

        def key(item: tuple[Vector | Row, str]) -> tuple[int, str, int]:
            what = item[0]
            if isinstance(what, Row):
                return places.index(what.name), "", 0
            place = places.index(what.category) if what.category in places else len(places)
            return place, what.name, -what.time if what.category == "carry" else what.time

        return sorted(self.arguments.items(), key=key)

    def _views(self) -> list[str]:
        """Pointers to the blocks of a row, in the order of memory."""
        views: list[tuple[str, str]] = []
        for what, name in self._sorted():
            blocks = what.blocks if isinstance(what, Row) else (what,)
            row = times("row", self.source.size(self.source.width(what)))
            start = name if isinstance(what, Vector) and _is_learned(what) else f"{name} + {row}"
            for v in (v for v in blocks if v in self.blocks):
                const = "" if v in self.written else "const "
                offset = what.offset(v) if isinstance(what, Row) else ZERO
                at = plus(start, self.source.size(offset))
                if self.cell.size(v) == 1:
                    views.append((f"{const}real", f"{self.blocks[v]} = {at}"))
                else:
                    at = f"({at})" if " " in at else at
                    views.append((f"{const}vec", f"{self.blocks[v]} = ({const}vec *){at}"))
        lines = []
        for kind, group in groupby(views, key=itemgetter(0)):
            first, *others = (text for _, text in group)
            others = [f"*const {text}" for text in others]
            lines += broken(f"{kind} *const ", [first, *others], ";", WIDTH - 8)
        return lines

    def _const(self, what: Vector | Row) -> str:
        blocks = what.blocks if isinstance(what, Row) else (what,)
        return "" if self.written & set(blocks) else "const "

    def _sizes(self) -> list[tuple[str, int | None]]:
        return self.source.sizes_in([*self.body, *self._views()])

    def _reads_constants(self) -> bool:
        return "p->" in "\n".join(self.body)

    def context(self) -> dict[str, Any]:
        """The function, for the template."""
        arguments, sizes = self._sorted(), self._sizes()
        parameters = [
            "size_t rows",
            *(f"size_t {n}" for n, value in sizes if value is None),
            *([f"const {self.prefix}_params *p"] if self._reads_constants() else []),
            *(f"{self._const(what)}real *restrict {name}" for what, name in arguments),
            *(f"real *restrict {name}_sum" for name in self.sums.values()),
        ]
        fixed = [f"{n} = {value}" for n, value in sizes if value is not None]
        sums = [f"*const {name} = (vec *){name}_sum" for name in self.sums.values()]
        return {
            "about": comment(self.about, WIDTH),
            "head": broken(f"static void {self.name}(", parameters, ")", WIDTH),
            "sizes": (broken("const size_t ", fixed, ";") if fixed else [])
            + (broken("vec ", sums, ";", WIDTH - 4) if sums else []),
            "views": self._views(),
            "body": self.body,
        }

    def call(self, direction: Direction) -> list[str]:
        """The call, from where ``direction`` is."""
        items = [
            direction.rows,
            *(n for n, value in self._sizes() if value is None),
            *(["p"] if self._reads_constants() else []),
            *(direction.pointer(what) for what, _ in self._sorted()),
            *(direction.gradient_of(p) for p in self.sums),
        ]
        return broken(f"{self.name}(", items, ");")


def _is_learned(v: Vector) -> bool:
    return bool(v.category == "parameter")


def _families(names: Sequence[str]) -> str:
    """``W`` for W_i W_f …, ``Wb`` for W_i b_i; a name alone stays what it is."""
    if len(names) == 1:
        return names[0]
    return "".join(dict.fromkeys(name.partition("_")[0] for name in names))


def _pieces(term: Expr) -> list[Expr]:
    """What a parameter gains from a row, by the size that is summed over.

    First the terms that are summed over units as well, each by its operand, then the rest.
    """
    wide, rest = [], []
    for t in sympy.Add.make_args(term):
        sums = [f for f in sympy.Mul.make_args(t) if isinstance(f, sum_)]
        if sums:
            wide.append(t / sums[0] * sums[0].args[0])
        else:
            rest.append(t)
    return [*wide, *([sympy.Add(*rest)] if rest else [])]
