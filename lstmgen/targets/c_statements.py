"""The operations of a plan as C: products as calls of kernels, fused stages as functions.

Memory is laid out in rows. All that the tape keeps of one step and one row of the batch lies side
by side (``kept``), and so does what a tile of steps needs (``tile``), or a single step
(``scratch``). A stage takes one pointer for each, and steps from row to row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import sympy
from sympy import Eq, Expr

from .. import schedule
from ..cell import Cell
from ..operations import (
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
from ..printing import Order, is_negative
from ..symbols import Reduction, Scan, Vector, max_, mean, sum_
from ..text import text as mathematics
from .c_expressions import (
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
from .naming import Names, identifier


@dataclass(frozen=True)
class Row:
    """Blocks side by side in one row of memory: for one row of the batch, at one step."""

    name: str
    blocks: tuple[Vector, ...]
    cell: Cell

    def offset(self, v: Vector) -> Expr:
        """Where ``v`` begins."""
        before = self.blocks[: self.blocks.index(v)]
        return sum((self.cell.size(u) for u in before), ZERO)

    @property
    def width(self) -> Expr:
        """The numbers in a row."""
        return sum((self.cell.size(v) for v in self.blocks), ZERO)


class Source:
    """What all parts of one source share: the plan, names, and how sizes are written.

    ``stages`` collects the functions that are made for fused stages, in the order of their use.
    """

    def __init__(self, cell: Cell, dtype: str, fixed: dict[str, int]) -> None:
        self.cell, self.dtype, self.fixed = cell, dtype, fixed
        self.plan = schedule.plan(cell, dtype=dtype)
        self.order = Order(cell, self.plan.derivation.forward)
        self.names = Names(WORDS)
        for n in cell.sizes:
            self.names(n, n.name)
        self.expressions = ExpressionPrinter(self.order, self.names, dtype)
        self.stages: list[Stage] = []
        made = [
            v
            for op in (*self.plan.forward.operations, *self.plan.backward.operations)
            for v in op.writes
        ]
        self.rank = {v: k for k, v in reversed(list(enumerate(made)))}

    def row(self, name: str, scope: str, used: Iterable[Vector]) -> Row:
        """The blocks of all buffers of a scope that hold what is ``used``.

        They are in the order in which they come about; scalars are last, so that they do not shift
        the others about.
        """
        used = set(used)
        buffers = [b for b in self.plan.buffers if b.scope == scope and used & set(b.blocks)]

        def key(blocks: tuple[Vector, ...]) -> tuple[bool, int]:
            scalar = all(self.cell.size(v) == 1 for v in blocks)
            return scalar, min(self.rank[v] for v in blocks if v in self.rank)

        ordered = sorted((b.blocks for b in buffers), key=key)
        return Row(name, tuple(v for blocks in ordered for v in blocks), self.cell)

    def width(self, what: Vector | Row) -> Expr:
        """The numbers in a row of a vector, or of all blocks of a kind."""
        return what.width if isinstance(what, Row) else self.cell.size(what)

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
        sums = [reduce("times({}, {})".format, map(self._name, m)) for m in monomials(e)]
        return reduce("plus({}, {})".format, sums)

    def _name(self, n: Expr) -> str:
        return str(n) if n in (T, B) or n.is_number else self.names(n, n.name)

    def sizes_in(self, lines: Iterable[str]) -> list[tuple[str, int | None]]:
        """The cell's sizes that occur in code, each with its value if that is fixed."""
        code = without_comments(lines)
        names = [(self.names(n, n.name), self.fixed.get(n.name)) for n in self.cell.sizes]
        return [(name, value) for name, value in names if mentions(name, code)]

    def declared_sizes(self, lines: Iterable[str], always: Sequence[str] = ()) -> list[str]:
        """The declaration of all sizes that occur in code."""
        lines = list(lines)
        code = without_comments(lines)
        items = [f"{n} = n->{n}" for n in ("T", "B") if n in always or mentions(n, code)]
        member = {self.names(n, n.name): n.name for n in self.cell.sizes}
        for name, value in self.sizes_in(lines):
            items.append(f"{name} = {value or f'n->{member[name]}'}")
        return broken("const size_t ", items, ";") if items else []


# --------------------------------------------------------------------------- one direction


class Direction:
    """One pass: its rows of memory, its packed weights, and its statements.

    ``single`` is the forward pass over one step, for streaming. It calls the same stages, but
    reads the weights where they are: to pack them for a few rows would cost more than it saves.
    """

    def __init__(
        self, source: Source, name: str, part: Pass, kept: Row, single: bool = False
    ) -> None:
        self.source, self.name, self.part, self.kept = source, name, part, kept
        self.single = single
        self.cell = source.cell
        used = {v for op in part.operations for v in (*op.reads, *op.writes)}
        self.tile = source.row("tile", "tile", used)
        self.scratch = source.row("scratch", "step", used)
        self.row_of = {v: row for row in (kept, self.tile, self.scratch) for v in row.blocks}
        self.packs: dict[tuple[str, ...], dict[str, Any]] = {}
        self.packed: Expr = ZERO
        self.stages: dict[tuple[str, int], Stage] = {}
        self.region = STEP

    def one_step(self) -> Direction:
        """The same pass over a single step."""
        other = Direction(self.source, self.name, self.part, self.kept, single=True)
        other.stages = self.stages
        return other

    def lines(self) -> dict[str, list[str]]:
        """The statements of each region."""
        out: dict[str, list[str]] = {}
        for region in (BEFORE, STEP, AFTER):
            self.region = region
            ops = getattr(self.part, region)
            out[region] = [line for k in range(len(ops)) for line in self._operation(ops, k)]
        return out

    @property
    def pack_calls(self) -> list[str]:
        """The statements that pack the weights."""
        return [line for pack in self.packs.values() for line in pack["calls"]]

    # ------------------------------------------------------------------ where a value is

    def pointer(self, what: Vector | Row) -> str:
        """What points to the first row of a vector, or of all blocks of a kind, where we are."""
        if isinstance(what, Vector) and what in self.row_of:
            row = self.row_of[what]
            return plus(self.pointer(row), self.source.size(row.offset(what)))
        looping = self.region == STEP and not self.single
        width = self.source.size(self.source.width(what))
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
        else:
            start = "" if self.single else "t * B" if looping else "t0 * B"
            base = self._argument(what)
        return f"{base} + {times(start, width)}" if start else base

    def stride(self, v: Vector) -> str:
        """How far apart the rows of ``v`` are."""
        return self.source.size(self.source.width(self.row_of.get(v, v)))

    def _argument(self, v: Vector) -> str:
        """The array of a caller that holds ``v``."""
        several = len(self.cell.inputs) > 1
        if v.category == "adjoint":
            return f"dx->{v.name}" if several else "dx"
        if v.category == "input":
            return f"x->{v.name}" if several else "x"
        return {"cotangent": "dy", "mask": f"m->{v.name}"}.get(v.category, "y")

    @property
    def rows(self) -> str:
        """How many rows are worked on here."""
        return "B" if self.single or self.region == STEP else "steps * B"

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
        text = f"{', '.join(starts)}: to these, products are added"
        return [*comment(text), *self._start(op.outs, op.biases)]

    def _start(self, outs: Sequence[Vector], biases: Sequence[Vector | None]) -> list[str]:
        """Give sums their first value; neighbours that start at zero need one call only."""
        runs: list[tuple[list[Vector], Vector | None]] = []
        for out, bias in zip(outs, biases, strict=True):
            zero = bias is None and runs and runs[-1][1] is None
            if zero and self._adjacent(runs[-1][0][-1], out):
                runs[-1][0].append(out)
            else:
                runs.append(([out], bias))
        lines = []
        for blocks, bias in runs:
            width = self.source.size(sum((self.cell.size(v) for v in blocks), ZERO))
            value = "NULL" if bias is None else f"p->{bias.name}"
            items = [self.rows, width, value, self.pointer(blocks[0]), self.stride(blocks[0])]
            lines += broken("fill(", items, ");")
        return lines

    def _adjacent(self, v: Vector, after: Vector) -> bool:
        """Whether a block begins where another ends."""
        row = self.row_of.get(v)
        if row is None or row is not self.row_of.get(after):
            return False
        return bool(row.blocks.index(after) == row.blocks.index(v) + 1)

    def _multiply(self, op: Multiply) -> list[str]:
        lines = comment(self._product_text(op))
        if not op.accumulate:
            lines += self._start(op.outs, op.biases[: len(op.outs)])
        transposed = op.matrices[0].transposed
        if not (transposed or self.single):
            neighbours = zip(op.outs, op.outs[1:], strict=False)
            assert all(self._adjacent(v, w) for v, w in neighbours), (
                "blocks of a stack lie together"
            )
            width = sum((self.cell.size(v) for v in op.outs), ZERO)
            return lines + self._product(
                "multiply_add", op.outs[0], op.operands[0], width, self._pack(op)
            )
        kernel = "multiply_add" if transposed else "multiply_add_transposed"
        for k, m in enumerate(op.matrices):
            out, x = op.outs[k % len(op.outs)], op.operands[k % len(op.operands)]
            lines += self._product(kernel, out, x, self.cell.size(out), f"p->{m.name}")
        return lines

    def _product(self, kernel: str, out: Vector, x: Vector, width: Expr, matrix: str) -> list[str]:
        inner = self.source.size(self.cell.size(x))
        items = [
            self.rows, self.source.size(width), inner, self.pointer(x), self.stride(x), matrix,
            self.pointer(out), self.stride(out),
        ]  # fmt: skip
        return broken(f"{kernel}(", items, ");")

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

    def _pack(self, op: Multiply) -> str:
        """The stacked matrices, transposed: a row for each unit of the operand."""
        source, key = self.source, tuple(m.name for m in op.matrices)
        if key not in self.packs:
            families = "".join(dict.fromkeys(m.name.partition("_")[0] for m in op.matrices))
            wish = key[0] if len(key) == 1 else families
            name = source.names(("pack", key), f"{wish}_packed")
            shapes = [self.cell.shape(m) for m in op.matrices]
            width, inner = sum((rows for rows, _ in shapes), ZERO), shapes[0][1]
            start, calls = ZERO, []
            for m, (rows, columns) in zip(op.matrices, shapes, strict=True):
                items = [source.size(rows), source.size(columns), f"p->{m.name}",
                         plus(name, source.size(start)), source.size(width)]  # fmt: skip
                calls += broken("pack(", items, ");")
                start += rows
            self.packs[key] = {
                "name": name, "calls": calls, "count": source.checked(inner * width),
                "shape": f"({source.size(inner)}, {source.size(width)})",
                "holds": f"{' '.join(key)}, transposed and side by side",
            }  # fmt: skip
            self.packed += inner * width
        return str(self.packs[key]["name"])

    def _outers(self, op: Outers) -> list[str]:
        source, lines = self.source, []
        right, columns = op.right, source.size(self.cell.size(op.right))
        for p, left in zip(op.parameters, op.lefts, strict=True):
            items = [
                self.rows, source.size(self.cell.size(left)), columns, self.pointer(left),
                self.stride(left), self.pointer(right), self.stride(right), f"g->{p.name}",
            ]  # fmt: skip
            lines += comment(f"∂L/∂{p.name} += Σ {self._text(left)} {self._text(right)}ᵀ")
            lines += broken("outer_add(", items, ");")
        return lines

    # ------------------------------------------------------------------ stages

    def _stage(self, op: Operation, before: Operation | None) -> Stage:
        if isinstance(op, Sums):
            stage = Stage(self, f"{self.name}_sums")
            names = " ".join(p.name for p in op.parameters)
            stage.about = f"After the loop over steps: gradients of {names}, sums over all rows."
            stage.add_sums(op)
        else:
            assert isinstance(op, Fused)
            stage = Stage(self, self._stage_name())
            stage.about = self._about(op, before)
            for loop in op.loops:
                stage.add_loop(loop)
        self.source.stages.append(stage)
        return stage

    def _stage_name(self) -> str:
        where = {BEFORE: "before", STEP: "stage", AFTER: "after"}[self.region]
        stem = f"{self.name}_{where}"
        earlier = [s for s in self.source.stages if re.fullmatch(rf"{stem}(_\d+)?", s.name)]
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
    """A static function for one fused stage: for each row of the batch, loops over units."""

    def __init__(self, direction: Direction, name: str) -> None:
        self.direction, self.source, self.name = direction, direction.source, name
        self.cell, self.prefix = direction.cell, direction.cell.name
        sizes = {self.source.names(n, n.name) for n in self.cell.sizes}
        self.names = Names(STAGE_WORDS | sizes | {f"{self.prefix}_params", f"{self.prefix}_grads"})
        self.arguments: dict[Vector | Row, str] = {}
        self.blocks: dict[Vector, str] = {}
        self.local: dict[Vector, str] = {}
        self.written: set[Vector] = set()
        self.body: list[str] = []
        self.about = ""

    # ------------------------------------------------------------------ names

    def reference(self, v: Vector) -> str:
        """``v`` of the current unit."""
        if v.category == "constant":
            return f"p->{v.name}"
        if v in self.local:
            return self.local[v]
        base = f"p->{v.name}" if v.category == "parameter" else self._block(v)
        return f"{base}[{'0' if self.cell.size(v) == 1 else 'j'}]"

    def _block(self, v: Vector) -> str:
        """The pointer to the units of ``v`` in the current row."""
        if v not in self.blocks:
            row = self.direction.row_of.get(v)
            name = self.blocks[v] = self.names(v, identifier(v))
            if row is None:
                self.arguments[v] = name
            elif len(row.blocks) == 1:
                self.arguments[row] = name
            elif row not in self.arguments:
                self.arguments[row] = self.names(row, row.name)
        return self.blocks[v]

    def _value(self, e: Expr) -> str:
        return self.source.expressions.text(e, self.reference)

    # ------------------------------------------------------------------ statements

    def add_loop(self, loop: Loop) -> None:
        """What a loop over units computes; a single unit needs no loop."""
        before: list[str] = []
        inside: list[str] = []
        after: list[str] = []
        for e in loop.equations:
            inside += comment(mathematics(self.source.plan.origin.get(e.lhs, e), self.source.order))
            if not isinstance(e.rhs, Reduction):
                inside += self._assign(e.lhs, self._value(e.rhs))
            elif loop.size == 1:  # a reduction of a single unit is the unit itself
                inside += self._assign(e.lhs, self._value(e.rhs.args[0]))
            elif isinstance(e.rhs, Scan):
                self._scan(e, before, inside)
            else:
                self._reduce(e, loop.size, before, inside, after)
        looped = inside if loop.size == 1 else self._units(loop.size, inside, loop.backwards)
        self.body += [*before, *looped, *after]

    def _units(self, size: Expr, inside: list[str], backwards: bool = False) -> list[str]:
        n = self.source.size(size)
        head = f"size_t j = {n}; j-- > 0;" if backwards else f"size_t j = 0; j < {n}; ++j"
        return [f"for ({head}) {{", *(f"    {line}" for line in inside), "}"]

    def _assign(self, v: Vector, value: str) -> list[str]:
        if self.direction.is_stored(v):
            self.written.add(v)
            return statement(f"{self.reference(v)} = {value};")
        self.local[v] = self.names(v, identifier(v))
        return statement(f"const real {self.local[v]} = {value};")

    def _scan(self, e: Eq, before: list[str], inside: list[str]) -> None:
        total = self.names(("total", e.lhs), f"{identifier(e.lhs)}_total")
        before.append(f"real {total} = 0;")
        inside += self._add(total, e.rhs.args[0]) + self._assign(e.lhs, total)

    def _reduce(
        self, e: Eq, size: Expr, before: list[str], inside: list[str], after: list[str]
    ) -> None:
        operand = e.rhs.args[0]
        target, kind = self.names(e.lhs, identifier(e.lhs)), "real "
        if self.direction.is_stored(e.lhs):
            self.written.add(e.lhs)
            target, kind = self.reference(e.lhs), ""
        if isinstance(e.rhs, max_):
            before.append(f"{kind}{target} = -(real)INFINITY;")
            inside += statement(f"{target} = larger({target}, {self._value(operand)});")
        else:
            before.append(f"{kind}{target} = 0;")
            inside += self._add(target, operand)
        if isinstance(e.rhs, mean):
            after.append(f"{target} /= (real){enclosed(self.source.size(size))};")
        self.local[e.lhs] = target

    def _add(self, target: str, e: Expr) -> list[str]:
        sign, value = ("-", -e) if is_negative(e) else ("+", e)
        return statement(f"{target} {sign}= {self._value(value)};")

    def add_sums(self, op: Sums) -> None:
        """What learned vectors gain from a row, in a loop for each size."""
        loops: dict[Expr, list[str]] = {}
        for p, term in zip(op.parameters, op.terms, strict=True):
            index = "0" if self.cell.size(p) == 1 else "j"
            for piece in _pieces(term):
                inside = loops.setdefault(self.cell.shapes.of(piece), [])
                inside += comment(f"∂L/∂{p.name} += {self.source.text(piece)}")
                inside += self._add(f"grads->{p.name}[{index}]", piece)
        for size, inside in loops.items():
            self.body += inside if size == 1 else self._units(size, inside)

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
        """Pointers to the blocks of rows, in the order of memory."""
        views = []
        for row, name in self._sorted():
            if isinstance(row, Row) and len(row.blocks) > 1:
                for v in (v for v in row.blocks if v in self.blocks):
                    const = "" if v in self.written else "const "
                    at = plus(name, self.source.size(row.offset(v)))
                    views.append(f"{const}real *const {self.blocks[v]} = {at};")
        return views

    def _const(self, what: Vector | Row) -> str:
        blocks = what.blocks if isinstance(what, Row) else (what,)
        return "" if self.written & set(blocks) else "const "

    def _width(self, what: Vector | Row) -> str:
        return self.source.size(self.source.width(what))

    def _sizes(self) -> list[tuple[str, int | None]]:
        return self.source.sizes_in([*self.body, *self._views(), *map(self._width, self.arguments)])

    def _reads(self, struct: str) -> bool:
        return f"{struct}->" in "\n".join(self.body)

    def context(self) -> dict[str, Any]:
        """The function, for the template."""
        arguments, sizes = self._sorted(), self._sizes()
        parameters = [
            "size_t rows",
            *(f"size_t {n}" for n, value in sizes if value is None),
            *([f"const {self.prefix}_params *p"] if self._reads("p") else []),
            *(f"{self._const(what)}real *restrict {name}" for what, name in arguments),
            *([f"const {self.prefix}_grads *grads"] if self._reads("grads") else []),
        ]
        fixed = [f"{n} = {value}" for n, value in sizes if value is not None]
        return {
            "about": comment(self.about, WIDTH),
            "head": broken(f"static void {self.name}(", parameters, ")", WIDTH),
            "sizes": broken("const size_t ", fixed, ";") if fixed else [],
            "views": self._views(),
            "body": self.body,
            "advance": [f"{name} += {self._width(what)};" for what, name in arguments],
        }

    def call(self, direction: Direction) -> list[str]:
        """The call, from where ``direction`` is."""
        items = [
            direction.rows,
            *(n for n, value in self._sizes() if value is None),
            *(["p"] if self._reads("p") else []),
            *(direction.pointer(what) for what, _ in self._sorted()),
            *(["g"] if self._reads("grads") else []),
        ]
        return broken(f"{self.name}(", items, ");")


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
