"""The memory that a cell in C works with: what lies where, told once.

A region is what lies side by side in one piece of memory: its parts, each with the count of its
numbers. From that follow the struct that says where they begin, and the function that fills it. A
buffer is what a caller provides, of regions: from it follow the function that says how large it has
to be, and the constant expression of the header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Integer

from ...language.symbols import Size, Vector
from ...planning.operations import ZERO, B, K, T
from .expressions import WIDTH, comment, joined, mentions, monomials
from .runtime import typed
from .statements import ONE, Direction, Row, Source

_MOST = ("TILE", "CHUNK")  # macros for the steps that a pass works on at a time


@dataclass(frozen=True)
class Part:
    """So many rows (1, B, K B or (K + 1) B, for K steps) of so many numbers."""

    name: str
    about: str
    rows: Expr
    width: Expr


@dataclass(frozen=True)
class Region:
    """Parts side by side, from the end of the region ``after`` on."""

    name: str
    about: str
    parts: tuple[Part, ...]
    after: Region | None = None
    has_rows: bool = True

    @property
    def count(self) -> Expr:
        """All its numbers, with those of the region before it."""
        before = self.after.count if self.after else ZERO
        return sum((part.rows * part.width for part in self.parts), before)


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

    def __init__(self, source: Source, kept: Row, forward: Direction, backward: Direction) -> None:
        self.source, self.cell = source, source.cell
        self.upper = self.cell.name.upper()
        self.tape = self._tape(kept)
        packs = [self._packs(d) for d in (forward, backward)]
        self.forward = self._forward(forward)
        self.backward = self._backward(backward)
        self.regions = (self.tape, packs[0], self.forward, packs[1], self.backward)
        line = source.pad  # to begin with a whole line of the cache
        self.buffers = (
            Buffer("tape", self.label, None, self.tape, "T"),
            Buffer("packed", 0, packs[0], None, "", ("T", "B")),
            Buffer("forward_work", line, packs[0], self.forward, "TILE"),
            Buffer("backward_work", line, packs[1], self.backward, "CHUNK"),
            Buffer("step_work", line, None, self.forward, "1", ("T",)),
        )

    @property
    def label(self) -> int:
        """The numbers that a tape begins with: whole lines of the cache, for vectors to be aligned.

        Backward knows a tape again by them: who made it, for what sizes and slices.
        """
        words = 4 + len(self.cell.sizes)
        return -(-words // 8) * self.source.pad

    def carry(self, s: Vector, way: str) -> str:
        """The derivative by a state that comes from the step after (``next``), or leaves."""
        return self.source.names((way, s.name), f"d{s.name}_{way}")

    # ------------------------------------------------------------------ regions

    def _tape(self, kept: Row) -> Region:
        parts = []
        for s in self.cell.states:
            about = f"{self.source.text(s.at(0))} from {s.name}[-1] on"
            width = self.source.padded(s)
            parts.append(Part(self.source.pointer_to(s), about, (K + 1) * B, width))
        about = "Where the parts of a tape begin. Without a tape, the workspace has that of a tile."
        return Region("tape", about, (*parts, *self._rows(kept, K * B)))

    def _packs(self, direction: Direction) -> Region:
        about = f"Where the parts of packed parameters begin, which {direction.name} reads."
        parts = (Part(p["name"], p["about"], ONE, p["count"]) for p in direction.packs.values())
        return Region(f"{direction.name}_packed", about, tuple(parts), has_rows=False)

    def _forward(self, direction: Direction) -> Region:
        about = "Where the parts of the workspace of forward begin, after those of a tape."
        return Region("forward", about, self._common(direction), self.tape)

    def _backward(self, direction: Direction) -> Region:
        source = self.source
        parts = [*self._common(direction)]
        for s in self.cell.states:
            for way, what in (
                ("next", f"δ{s.name}⁺, which comes from step t+1"),
                ("prev", f"δ{s.name}⁺[t-1], which goes to step t-1"),
            ):
                parts.append(Part(self.carry(s, way), what, B, source.padded(s)))
        if direction.tallest:
            # sums, since nobody knows which size is the largest
            for name, about, widths in (
                ("columns", "rows, turned", direction.tallest),
                ("panels", "rows, cut into panels", direction.widest),
            ):
                parts.append(Part(name, about, K * B, sum(widths, ZERO)))
        gradients = list(direction.gradients.values())
        sums: dict[bool, list[Part]] = {False: [], True: []}
        for g in gradients:
            sums[g["zeroed"]].append(Part(g["name"], g["about"], ONE, g["count"]))
        start = [Part("sums", "sums that begin with zeros, from here to the end", ZERO, ZERO)]
        parts += sums[False] + (start + sums[True] if sums[True] else [])
        return Region(
            "backward", "Where the parts of the workspace of backward begin.", tuple(parts)
        )

    def _common(self, direction: Direction) -> tuple[Part, ...]:
        """What both passes have: callers' rows, and rows for steps."""
        source = self.source
        parts = []
        for v in direction.given:
            about = f"{source.text(v)}, unless the caller's will do"
            parts.append(Part(direction.rows_name(v), about, K * B, source.padded(v)))
        return (*parts, *self._rows(direction.tile, K * B), *self._rows(direction.scratch, B))

    def _rows(self, row: Row, rows: Expr) -> list[Part]:
        """The rows of a kind, if the cell has a use for it."""
        if not row.blocks:
            return []
        about = " ".join(self.source.text(v) for v in row.blocks)
        return [Part(row.name, about, rows, row.width)]

    # ------------------------------------------------------------------ structs and functions

    def layout(self, region: Region) -> dict[str, Any]:
        """The struct of a region, and the function that fills it."""
        source, name = self.source, f"{self.cell.name}_{region.name}"
        values = [self._place(part) for part in region.parts]
        start = f"{self.cell.name}_tape_parts(n, B, steps).total" if region.after else "0"
        sizes = source.declared_sizes(values, ["B"])
        if mentions("rows", "\n".join(values)):
            own = "rows = size_times(steps, B);"
            sizes = [*sizes[:-1], f"{sizes[-1][:-1]}, {own}"] if sizes else [f"const size_t {own}"]
        code = "\n".join([*sizes, *values, start])
        given = ["n", "B", "steps"] if region.has_rows else ["n"]
        rows = ", size_t B, size_t steps" if region.has_rows else ""
        body = [
            *sizes,
            f"{name}_layout at = {{.total = {start}}};",
            *(f"(void){a};" for a in given if not mentions(a, code)),
        ]
        for part, value in zip(region.parts, values, strict=True):
            body += self._explained(f"at.{part.name} = {value};", part.about)
        return {
            "about": comment(region.about, WIDTH),
            "type": f"{name}_layout",
            "members": ", ".join([*(part.name for part in region.parts), "total"]),
            "head": f"static {name}_layout {name}_parts(const {self.cell.name}_sizes *n{rows})",
            "body": [*body, "return at;"],
        }  # fmt: skip

    def _place(self, part: Part) -> str:
        """Where a part begins."""
        if part.rows == 0:
            return "at.total"
        width = self.source.checked(part.width)
        rows = {K * B: "rows", (K + 1) * B: "size_plus(rows, B)", B: "B"}.get(part.rows)
        return f"size_take(&at.total, {f'size_times({rows}, {width})' if rows else width})"

    def _explained(self, line: str, about: str) -> list[str]:
        """A line with a comment after it, or before it where both are too long for a line."""
        both = f"{line} /* {about} */"
        return (
            [both] if len(typed(both, self.source.dtype)) <= WIDTH - 4 else [*comment(about), line]
        )

    def size_of(self, buffer: Buffer) -> dict[str, Any]:
        """The function that says how many numbers a buffer holds: 0 for sizes that are wrong."""
        name, lines, n, member = self.cell.name, [], "n", "n->"
        if buffer.ignored:
            const = "" if "B" in buffer.ignored else "const "
            lines, n, member = [f"{const}{name}_sizes one = {name}_one_step(n);"], "&one", "one."
            lines += ["one.B = one.T;"] if "B" in buffer.ignored else []
        total = str(buffer.extra)
        if buffer.once:
            total = _plus(total, f"{name}_{buffer.once.name}_parts({n}).total")
        if buffer.each and buffer.steps in _MOST:
            steps = f"{self.upper}_{buffer.steps}(n->T, B)"
            lines += [
                f"if ({name}_check(n) != {self.upper}_OK) {{", "    return 0;", "}",
                "const size_t B = slice_most(n->B, n->threads);",
                f"const size_t each = {name}_{buffer.each.name}_parts(n, B, {steps}).total;",
            ]  # fmt: skip
            all_slices = "size_times(slice_count(n->B, n->threads), each)"
            return {
                "name": buffer.name,
                "body": [*lines, f"return fitting({_plus(total, all_slices)});"],
            }
        if buffer.each:
            steps = "n->T" if buffer.steps == "T" else buffer.steps
            parts = f"{name}_{buffer.each.name}_parts"
            total = _plus(total, f"{parts}({n}, {member}B, {steps}).total")
        if not buffer.extra:
            total = f"size_at_least(1, {total})"
        lines.append(f"return {name}_check({n}) == {self.upper}_OK ? fitting({total}) : 0;")
        return {"name": buffer.name, "body": lines}

    # ------------------------------------------------------------------ constant expressions

    def macros(self) -> list[str]:
        """The sizes of buffers as constant expressions, for one thread."""
        names = [n.name for n in self.cell.sizes if n.name not in self.source.fixed]
        pad, first = self.source.pad, self.upper
        lines = [
            f"#define {first}_PADDED(n) (((n) + {pad - 1}) / {pad} * {pad})",
            f"#define {first}_TILE(T, B) ((B) >= 48 ? 1 : 48 / (B) < (T) ? 48 / (B) : (T))",
            f"#define {first}_CHUNK(T, B) ((B) >= 256 ? 1 : 256 / (B) < (T) ? 256 / (B) : (T))",
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

    def _macro(self, head: str, count: Expr, known: Mapping[Expr, str]) -> list[str]:
        terms = [f"(size_t){_product(m, known)}" for m in monomials(count.subs(self._fixed()))]
        one_line = f"#define {head} ({' + '.join(terms)})"
        if len(one_line) <= WIDTH:
            return [one_line]
        lines = [f"#define {head}", *(f"    {line}" for line in joined("+", "(", terms, ")"))]
        return [f"{line} \\" for line in lines[:-1]] + lines[-1:]

    def _fixed(self) -> dict[Expr, int]:
        """The values of the sizes that are constants, and of what follows from them."""
        every = (*self.cell.sizes, *self.source.wide.values())
        return {n: value for n in every if (value := self.source.value(n)) is not None}

    def _rooms(self) -> list[str]:
        """Macros for the rooms of several blocks."""
        fixed, known = self._fixed(), self._known_rooms()
        lines = []
        for padded, wide in self.source.wide.items():
            if not padded.is_Symbol and wide not in fixed:
                terms = [_product(m, known) for m in monomials(padded.subs(fixed))]
                lines.append(f"#define {known[wide]} {self.upper}_PADDED({' + '.join(terms)})")
        return lines

    def _known_rooms(self) -> dict[Expr, str]:
        """How the macros are called for the room of one block, or of several."""
        return {wide: self._room(wide, padded) for padded, wide in self.source.wide.items()}

    def _room(self, wide: Size, padded: Expr) -> str:
        if padded.is_Symbol:
            return f"{self.upper}_PADDED({padded})"
        plain = [n.name for n in self.cell.sizes if self._holds(padded, n)]
        return f"{self.upper}_{self.source.size(wide)}({', '.join(plain)})"

    def _holds(self, padded: Expr, n: Size) -> bool:
        """Whether a count depends on a size that is not a constant."""
        fixed = n.name in self.source.fixed
        return not fixed and bool({n, self.source.wide[n]} & padded.atoms(Size))


def _plus(total: str, more: str) -> str:
    return more if total == "0" else f"size_plus({total}, {more})"


def _product(factors: Sequence[Expr], known: Mapping[Expr, str]) -> str:
    """A product in a macro, whose arguments may be anything."""
    return " * ".join(known.get(f, str(f) if f.is_number else f"({f})") for f in factors)
