"""The memory that a cell in C works with: what lies where, told once.

A region is what lies side by side in one piece of memory: its parts, each with the count of its
numbers. From that follow the struct that says where they begin, and the function that fills it. A
buffer is what a caller provides, of regions: from it follow the function that says how large it has
to be, and the constant expression of the header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from sympy import Expr, Integer

from ...derivation.reverse import carry
from ...language.sizes import Size
from ...planning.operations import ZERO, B, K, Multiply, Outers, T
from .copies import Copies
from .lines import INSIDE, WIDTH, broken, comment, joined
from .lowering import Direction
from .places import Row
from .sizes import monomials, plus, times
from .source import Source
from .tree import (
    COUNT,
    NIL,
    ONE,
    Address,
    Call,
    Choice,
    Count,
    Declare,
    Expression,
    If,
    Kind,
    Literal,
    Member,
    Members,
    Relation,
    Return,
    Statement,
    Store,
    Variable,
    names_in,
    sizes_in,
    together,
)
from .vocabulary import AT, BUFFERS, EACH, ONE_STEP, ROWS, STEPS, N

B_ROWS = Variable("B", "size")
_MOST = ("TILE", "CHUNK")  # macros for the steps that a pass works on at a time
# So many rows of them: of a product, as many as the kernel needs to be at its best; else what the
# steps of a pass have left in cache.
_FEW, _MANY = 48, 256


@dataclass(frozen=True)
class Part:
    """So many rows (1, B, 2 B, K B or (K + 1) B, for K steps) of so many numbers, and then so
    many more between it and the next one.
    """

    name: str
    about: str
    rows: Expr
    width: Expr
    apart: int = 0

    @property
    def count(self) -> Expr:
        """All its numbers."""
        return self.rows * self.width + self.apart


@dataclass(frozen=True)
class Region:
    """Parts side by side, from the end of the region ``after`` on. It may have the parts of the
    region ``like``, in other numbers.
    """

    name: str
    about: str
    parts: tuple[Part, ...]
    after: Region | None = None
    has_rows: bool = True
    like: Region | None = None

    @property
    def count(self) -> Expr:
        """All its numbers, with those of the region before it."""
        before = self.after.count if self.after else ZERO
        return sum((part.count for part in self.parts), before)


@dataclass(frozen=True)
class Buffer:
    """What callers provide: ``extra`` numbers, the region ``once``, and ``each`` for every slice of
    the batch, for all steps of a sequence (``T``), one, or as many as a pass works on at a time.
    Sizes that are ``ignored`` may be anything.
    """

    name: str
    extra: int
    once: Region | None
    each: Region | None
    steps: str
    ignored: tuple[str, ...] = ()


class Memory:
    """The regions and buffers of one cell, and how they are written in C."""

    def __init__(self, source: Source, forward: Direction, backward: Direction) -> None:
        self.source, self.cell, self.sizes = source, source.cell, source.sizes
        self.name, self.upper = source.name, source.name.upper()
        self.tape = self._tape(source.memory.kept)
        self.tile = self._tile() if source.plan.held else self.tape
        packs = [self._packs(d) for d in (forward, backward)]
        self.forward = self._forward(forward)
        sums = self._sums(backward)
        is_apart = source.is_embedded and bool(sums)
        self.backward = self._backward(backward, () if is_apart else sums)
        about = "Where the parts of the sums of gradients begin."
        self.sums = Region("sums", about, sums, has_rows=False) if is_apart else None
        regions = [self.tape, packs[0], self.forward, packs[1], self.backward]
        self.regions = (*regions, self.sums) if self.sums else tuple(regions)
        self.layouts = tuple(dict.fromkeys((self.tape, self.tile, *self.regions)))
        of_constants = not self.cell.parameters and bool(packs[0].parts)
        line = self.sizes.pad  # to begin with a whole line of the cache
        tape, packed, forward_work, backward_work, step_work = BUFFERS
        self.buffers = (
            Buffer(tape, self.label, None, self.tape, "T"),
            Buffer(packed, 0, packs[0], None, "", ("T", "B")),
            Buffer(forward_work, line, packs[0], self.forward, "TILE"),
            Buffer(backward_work, line, packs[1], self.backward, "CHUNK"),
            # a step is given what is packed; of constants alone, nobody packs anything
            Buffer(step_work, line, packs[0] if of_constants else None, self.forward, "1", ("T",)),
        )

    @property
    def label(self) -> int:
        """The numbers that a tape begins with: whole lines of the cache, for vectors to be aligned.

        Backward knows a tape again by them: who made it, for what sizes and slices.
        """
        words = 4 + len(self.cell.sizes)
        return -(-words // 8) * self.sizes.pad

    # ------------------------------------------------------------------ regions

    def _tape(self, kept: Row) -> Region:
        parts = []
        for s in self.cell.states:
            about = f"{self.source.text(s.at(0))} from {s.name}[-1] on"
            width = self.sizes.room_of(s)
            parts.append(Part(self.source.state(s).name, about, (K + 1) * B, width))
        about = "Where the parts of a tape begin."
        if not self.source.plan.held:
            about += " Without a tape, the workspace has that of a tile."
        return Region("tape", about, (*parts, *self._rows(kept, K * B)))

    def _tile(self) -> Region:
        """What stands for the tape where there is none."""
        held = {self.source.state(s).name for s in self.source.plan.held}
        about = "Where the same begins in the workspace, which has that of a tile without a tape."
        line = self.sizes.pad  # arrays a power of two apart would have few places in the caches
        parts = (
            replace(p, rows=2 * B, apart=line, about=f"{p.name}[t-1] and {p.name}[t], in turns")
            if p.name in held
            else p
            for p in self.tape.parts
        )
        return Region("tile", about, tuple(parts), like=self.tape)

    def _packs(self, direction: Direction) -> Region:
        about = f"Where the parts of packed parameters begin, which {direction.name} reads."
        parts = (Part(p.name, p.about, Integer(1), p.count) for p in direction.packs)
        return Region(f"{direction.name}_packed", about, tuple(parts), has_rows=False)

    def _forward(self, direction: Direction) -> Region:
        about = (
            f"Where the parts of the workspace of forward begin, after those of a {self.tile.name}."
        )
        return Region("forward", about, self._common(direction), self.tile)

    def _backward(self, direction: Direction, sums: Sequence[Part]) -> Region:
        source = self.source
        parts = [*self._common(direction)]
        for s in self.cell.states:
            carries: list[tuple[str, str, Expr]] = [
                ("next", f"δ{s.name}⁺, which comes from step t+1", B),
                ("all", f"δ{s.name}⁺[t-1] of a tile, and what comes from step t+1", (K + 1) * B)
                if source.plan.is_shifted(carry(s))
                else ("prev", f"δ{s.name}⁺[t-1], which goes to step t-1", B),
            ]
            for way, what, rows in carries:
                name, room = source.carry(s, way).name, self.sizes.room_of(s)
                parts.append(Part(name, what, rows, room))
        if direction.heights:
            # sums, since nobody knows which size is the largest
            for name, about, widths in (
                ("columns", "rows, turned", direction.heights),
                ("panels", "rows, cut into panels", direction.widths),
            ):
                parts.append(Part(name, about, K * B, sum(widths, ZERO)))
        about = "Where the parts of the workspace of backward begin."
        return Region("backward", about, (*parts, *sums))

    def _sums(self, direction: Direction) -> tuple[Part, ...]:
        """The gradients of parameters, which are summed."""
        sums: dict[bool, list[Part]] = {False: [], True: []}
        for made in direction.sums:
            sums[made.is_zeroed].append(Part(made.name, made.about, Integer(1), made.count))
        start = [Part("sums", "sums that begin with zeros, from here to the end", ZERO, ZERO)]
        return (*sums[False], *(start + sums[True] if sums[True] else []))

    def _common(self, direction: Direction) -> tuple[Part, ...]:
        """What both passes have: callers' rows, and rows for steps."""
        places, copies = direction.places, Copies(self.source, direction)
        parts = []
        for v in places.given:
            about = f"{self.source.text(v)}, unless the caller's will do"
            parts.append(Part(copies.rows(v).name, about, K * B, self.sizes.room_of(v)))
        return (*parts, *self._rows(places.tile, K * B), *self._rows(places.scratch, B))

    def _rows(self, row: Row, rows: Expr) -> list[Part]:
        """The rows of a kind, if the cell has a use for it."""
        if not row.blocks:
            return []
        about = " ".join(self.source.text(v) for v in row.blocks)
        return [Part(row.name, about, rows, row.width)]

    # ------------------------------------------------------------------ structs and functions

    def parts(self, region: Region, *given: Expression) -> Call:
        """The call that says where the parts of a region begin, for so many rows and steps."""
        return Call(f"{self.name}_{region.name}_parts", given, "struct")

    def total(self, region: Region, *given: Expression) -> Member:
        """How many numbers it has."""
        return Member(self.parts(region, *given), "total", "size")

    def layout(self, region: Region) -> dict[str, Any]:
        """The struct of a region, and the function that fills it."""
        name, lines = f"{self.name}_{region.name}", self.source.printer.lines
        struct = f"{self.name}_{(region.like or region).name}_layout"
        values = [self._place(part) for part in region.parts]
        start = self.total(region.after, N, Count(B), STEPS) if region.after else NIL
        declared = self.sizes.declared(values, [B])
        if ROWS.name in names_in(values):
            declared.append(Declare(COUNT, ROWS, times(STEPS, Count(B))))
        first = Declare(Kind(struct), AT, Members(("total",), (start,)))
        code = [*declared, *values, start]
        found = names_in(code) | {n.name for n in sizes_in(code)}
        given = [N.name, B.name, STEPS.name] if region.has_rows else [N.name]
        body = lines([*together(declared), first])
        body += [f"(void){a};" for a in given if a not in found]
        for part, value in zip(region.parts, values, strict=True):
            stored = lines([Store(Member(AT, part.name, "size"), value)])
            body += _explained(stored, part.about)
        counted = ["size_t B", "size_t steps"] if region.has_rows else []
        members = [*(part.name for part in region.parts), "total"]
        head = f"static {struct} {name}_parts("
        return {
            "about": comment(region.about, WIDTH),
            "struct": [] if region.like else broken(
                "typedef struct { size_t ", members, f"; }} {struct};", WIDTH
            ),
            "head": broken(head, [f"const {self.name}_sizes *n", *counted], ")", WIDTH),
            "body": [*body, "return at;"],
        }  # fmt: skip

    def _place(self, part: Part) -> Expression:
        """Where a part begins."""
        total = Member(AT, "total", "size")
        if part.rows == 0:
            return total
        count = self.sizes.checked(part.width)
        if part.rows != 1:
            rows = {K * B: ROWS, (K + 1) * B: plus(ROWS, Count(B)), B: Count(B)}
            rows[2 * B] = times(Count(Integer(2)), Count(B))
            count = times(rows[part.rows], count)
        if part.apart:
            count = plus(count, Count(Integer(part.apart)))
        return Call("size_take", (Address(total), count), "size")

    def size_of(self, buffer: Buffer) -> dict[str, Any]:
        """The function that says how many numbers a buffer holds: 0 for sizes that are wrong."""
        name, made, n = self.name, list[Statement](), N
        sizes: Expression = N
        if buffer.ignored:
            of_all = "B" in buffer.ignored
            one = Call(f"{name}_one_step", (N,), "struct")
            made.append(Declare(Kind(f"{name}_sizes", is_const=not of_all), ONE_STEP, one))
            if of_all:
                made.append(Store(Member(ONE_STEP, "B", "size"), Member(ONE_STEP, "T", "size")))
            sizes, n = Address(ONE_STEP), ONE_STEP
        extra = Count(Integer(buffer.extra))
        counts: list[Expression] = [extra] if buffer.extra else []
        if buffer.once:
            counts.append(self.total(buffer.once, sizes))
        checked = Call(f"{name}_check", (sizes,), "size")
        right = Literal(f"{self.upper}_OK")
        steps: Expression
        batch, threads = Member(N, "B", "size"), Member(N, "threads", "size")
        if buffer.each and buffer.steps in _MOST:
            steps = self.most(buffer.steps, Count(B))
            made += [
                If(Relation(checked, "!=", right, "size"), (Return(NIL),)),
                Declare(COUNT, B_ROWS, Call("slice_most", (batch, threads), "size")),
                Declare(COUNT, EACH, self.total(buffer.each, N, Count(B), steps)),
            ]
            counts.append(times(Call("slice_count", (batch, threads), "size"), EACH))
            made.append(Return(_fitting(counts)))
        else:
            if buffer.each:
                steps = Member(N, "T", "size") if buffer.steps == "T" else ONE
                counts.append(self.total(buffer.each, sizes, Member(n, "B", "size"), steps))
            if not buffer.extra:
                counts = [Call("size_at_least", (ONE, reduce(plus, counts)), "size")]
            fine = Relation(checked, "==", right, "size")
            made.append(Return(Choice(fine, _fitting(counts), NIL)))
        return {"name": buffer.name, "body": self.source.printer.lines(made)}

    def most(self, what: str, rows: Expression) -> Call:
        """The steps that a pass works on at a time: ``what`` is "TILE" or "CHUNK"."""
        return Call(f"{self.upper}_{what}", (Member(N, "T", "size"), rows), "size")

    # ------------------------------------------------------------------ constant expressions

    def macros(self) -> list[str]:
        """The sizes of buffers as constant expressions, for one thread."""
        names = [n.name for n in self.cell.sizes if n.name not in self.sizes.fixed]
        pad, first = self.sizes.pad, self.upper
        lines = [
            f"#define {first}_PADDED(n) (((n) + {pad - 1}) / {pad} * {pad})",
            *self.tiles(),
            *self._rooms(),
        ]
        for buffer in self.buffers:
            known = self._known_rooms()
            count = sum((r.count for r in (buffer.once, buffer.each) if r), Integer(buffer.extra))
            if buffer.steps in _MOST:
                known[K] = f"{self.upper}_{buffer.steps}(T, B)"
            else:
                count = count.subs(K, T if buffer.steps == "T" else 1)
            given = [n for n in ("T", "B") if n not in buffer.ignored]
            listed = ", ".join([*given, *names]) or "unused"
            head = f"{self.upper}_{buffer.name.upper()}_SIZE({listed})"
            lines += self._macro(head, count or Integer(1), known)
        return lines

    def tiles(self) -> list[str]:
        """The steps that a pass works on at a time, as constant expressions."""
        rows = (_FEW, _MANY if self._has_products else _FEW)
        return [
            f"#define {self.upper}_{what}(T, B) "
            f"((B) >= {n} ? 1 : {n} / (B) < (T) ? {n} / (B) : (T))"
            for what, n in zip(_MOST, rows, strict=True)
        ]

    @property
    def _has_products(self) -> bool:
        """Whether the backward pass has products of all steps at once."""
        at_once = self.source.plan.backward.at_once
        return any(isinstance(op, (Multiply, Outers)) for op in at_once)

    def _macro(self, head: str, count: Expr, known: Mapping[Expr, str]) -> list[str]:
        terms = [f"(size_t){_product(m, known)}" for m in monomials(count.subs(self._fixed()))]
        return _defined(head, "(", terms)

    def _fixed(self) -> dict[Expr, int]:
        """The values of the sizes that are constants, and of what follows from them."""
        return {n: value for n in self.sizes.every if (value := self.sizes.value(n)) is not None}

    def _rooms(self) -> list[str]:
        """Macros for the rooms of several blocks."""
        fixed, known = self._fixed(), self._known_rooms()
        lines = []
        for padded, wide in self.sizes.wide.items():
            if not padded.is_Symbol and wide not in fixed:
                terms = [_units(m, known) for m in monomials(padded.subs(fixed))]
                lines += _defined(known[wide], f"{self.upper}_PADDED(", terms)
        return lines

    def _known_rooms(self) -> dict[Expr, str]:
        """How the macros are called for the room of one block, or of several."""
        return {wide: self._room(wide, padded) for padded, wide in self.sizes.wide.items()}

    def _room(self, wide: Size, padded: Expr) -> str:
        if padded.is_Symbol:
            return f"{self.upper}_PADDED({padded})"
        open_sizes = [n for n in self.cell.sizes if n.name not in self.sizes.fixed]
        plain = [n.name for n in open_sizes if self._holds(padded, n)]
        return f"{self.upper}_{self.sizes.text(wide)}({', '.join(plain)})"

    def _holds(self, padded: Expr, n: Size) -> bool:
        """Whether a count depends on a size, or on one that is padded and does."""
        used = padded.atoms(Size)
        inner = [count for count, wide in self.sizes.wide.items() if wide in used]
        return n in used or any(self._holds(count, n) for count in inner)


def _fitting(counts: Sequence[Expression]) -> Call:
    return Call("fitting", (reduce(plus, counts),), "size")


def _explained(lines: list[str], about: str) -> list[str]:
    """A statement with a comment after it, or before it where both are too long for a line."""
    both = " ".join([*lines, f"/* {about} */"])
    return [both] if len(lines) == 1 and len(both) <= INSIDE else [*comment(about), *lines]


def _defined(head: str, start: str, terms: Sequence[str]) -> list[str]:
    """A macro that is a sum of ``terms``, on more lines where one is too long."""
    one_line = f"#define {head} {start}{' + '.join(terms)})"
    if len(one_line) <= WIDTH:
        return [one_line]
    lines = [f"#define {head}", *(f"    {line}" for line in joined("+", start, terms, ")"))]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _units(factors: Sequence[Expr], known: Mapping[Expr, str]) -> str:
    """A number of units in a macro. What may be many is not an int, even where its factors are."""
    several = sum(not f.is_number for f in factors) > 1
    return f"{'(size_t)' if several else ''}{_product(factors, known)}"


def _product(factors: Sequence[Expr], known: Mapping[Expr, str]) -> str:
    """A product in a macro, whose arguments may be anything."""
    return " * ".join(known.get(f, str(f) if f.is_number else f"({f})") for f in factors)
