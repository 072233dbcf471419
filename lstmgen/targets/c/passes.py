"""The functions of a cell in C that run a pass: over a slice of the batch, before it and after it.

What a function declares follows from what its body mentions: ``Declarations`` has all that it could
declare, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ...language.symbols import Vector
from ...planning.operations import AFTER, BEFORE, STEP
from ..rendering import environment
from .expressions import (
    WIDTH,
    broken,
    enclosed,
    mentions,
    plus,
    statement,
    times,
    without_comments,
)
from .memory import Memory
from .statements import Direction, Row, Source

_COUNTS = "const size_t "


@dataclass(frozen=True)
class Variable:
    """A local variable that a function declares if its body mentions it."""

    name: str
    type: str  # with the space or star before the name
    value: str


def declared(variables: Sequence[Variable], body: str) -> list[str]:
    """The declarations of those that are mentioned in the body, or by others that are."""
    kept: list[Variable] = []
    body = without_comments([body])
    for v in reversed(variables):
        if mentions(v.name, body):
            kept.insert(0, v)
            body += f"\n{v.value}"
    lines: list[str] = []
    for kind, together in groupby(kept, key=lambda v: v.type):
        first, *others = (f"{v.name} = {v.value}" for v in together)
        star = kind[kind.index("*") :] if "*" in kind else ""
        lines += broken(kind, [first, *(star + other for other in others)], ";", WIDTH - 4)
    return lines


def merged(lines: Sequence[str]) -> list[str]:
    """Declarations of counts that follow one another, as one declaration."""
    statements = " ".join(line.strip() for line in lines).split(";")
    found: list[str] = []
    for text in filter(None, map(str.strip, statements)):
        if text.startswith(_COUNTS) and found and found[-1].startswith(_COUNTS):
            found[-1] += f", {text.removeprefix(_COUNTS)}"
        else:
            found.append(text)
    return [line for text in found for line in statement(f"{text};", WIDTH - 4)]


class Passes:
    """What the templates place of both passes, once all statements are there."""

    def __init__(
        self, source: Source, kept: Row, forward: Direction, backward: Direction, memory: Memory
    ) -> None:
        self.source, self.cell, self.kept, self.memory = source, source.cell, kept, memory
        self.name, self.upper = self.cell.name, self.cell.name.upper()
        self.directions = {"forward": forward, "backward": backward}

    def context(self, lines: dict[str, dict[str, list[str]]]) -> dict[str, Any]:
        """The functions, from the statements of each pass: ``lines[pass][region]``."""
        summing = self._summing() if self.cell.parameters else []
        return {
            "arranging": {what: self._arranging(d) for what, d in self.directions.items()},
            "rows": {what: self._rows(what, lines[what]) for what in self.directions},
            "summing": summing,
            "adding": [f"{self.name}_sum_gradients(&call);"] if summing else [],
            "unreached": self._unreached(),
        }

    # ------------------------------------------------------------------ packed parameters

    def _arranging(self, direction: Direction) -> list[str]:
        """The body of the function that packs what a pass reads of the parameters."""
        packs = list(direction.packs.values())
        if not packs:
            return ["(void)n, (void)p, (void)packed;"]
        calls = [line for pack in packs for line in pack["calls"]]
        region = f"{self.name}_{direction.name}_packed"
        variables = [
            self._threads(),
            Variable("at", f"const {region}_layout ", f"{region}_parts(n)"),
            *(Variable(p["name"], "real *const ", f"packed + at.{p['name']}") for p in packs),
        ]
        sizes = self.source.declared_sizes(calls)
        return [*merged([*sizes, *declared(variables, "\n".join(calls))]), *calls]

    def _threads(self) -> Variable:
        return Variable("threads", "const size_t ", "thread_workers(n->threads, n->serial)")

    # ------------------------------------------------------------------ a slice of the batch

    def _rows(self, what: str, lines: dict[str, list[str]]) -> list[str]:
        """The body of the function that runs a pass over a slice."""
        direction = self.directions[what]
        given = self._given_rows(direction)
        copied = self._copied() if what == "forward" else []
        tile = [*lines[BEFORE], *lines[STEP], *lines[AFTER], *copied, *given["written"]]
        code = without_comments(tile + given["read"])
        states = [self._state(s) for s in self.cell.states]
        if what == "forward" and states:
            code += "".join(f" {s['pointer']} " for s in states)  # which the next tile begins with
        template = environment("c").get_template(f"{what}.c.j2")
        body = template.render(
            states=states,
            pointers=declared(self._pointers(what), code),
            given=given["read"],
            lines=lines,
            written=copied + given["written"],
            has_sums=any(g["zeroed"] for g in direction.gradients.values()),
        ).splitlines()
        code = without_comments(body)
        variables = self._variables(what, direction)
        top = declared(variables, code)
        sizes = self.source.declared_sizes([*top, *body], ["T", "B"])
        return [*merged([*top[:1], *sizes, *top[1:]]), *body]

    def _variables(self, what: str, direction: Direction) -> list[Variable]:
        """All that such a function can declare."""
        name, size = self.name, "const size_t "
        own = f"{name}_{what}"
        macro = {"forward": "TILE", "backward": "CHUNK"}[what]
        before = f"{name}_tape_parts(n, slice.start, n->T).total"  # what earlier slices have
        const, length, tape = "const ", "n->T", f"call->kept + {before}"
        if what == "forward":
            const, length = "", "tape != NULL ? n->T : most"
            tape = f"call->tape != NULL ? call->tape + {before} : NULL"
        parts = [row.name for row in (direction.tile, direction.scratch) if row.blocks]
        parts += [*(["columns", "panels"] if direction.tallest else [])]
        parts += [g["name"] for g in direction.gradients.values()]
        packs = [p["name"] for p in direction.packs.values()]
        return [
            Variable("n", f"const {name}_sizes *const ", "call->n"),
            Variable("batch", size, "n->B"),
            Variable("start", size, "slice.start"),
            Variable("B", size, "slice.rows"),
            Variable("team", size, "slice.team"),
            Variable("most", size, f"{self.upper}_{macro}(n->T, slice.most)"),
            Variable("p", f"const {name}_params *const ", "call->p"),
            Variable("tape", f"{const}real *const ", tape),
            Variable("in_tape", f"const {name}_tape_layout ", f"{name}_tape_parts(n, B, {length})"),
            Variable("in_work", f"const {own}_layout ", f"{own}_parts(n, B, most)"),
            Variable("in_packed", f"const {own}_packed_layout ", f"{own}_packed_parts(n)"),
            Variable("work", "real *const ",
                     f"call->work + slice.s * {own}_parts(n, slice.most, most).total"),
            Variable("memory", "real *const ", "tape != NULL ? tape : work"),
            *(Variable(a, "real *const ", f"work + in_work.{a}") for a in parts),
            *(Variable(a, "const real *const ", f"call->packed + in_packed.{a}") for a in packs),
        ]  # fmt: skip

    def _state(self, s: Vector) -> dict[str, str]:
        size = self.cell.size(s)
        return {
            "name": s.name,
            "units": self.source.size(size),
            "pointer": self.source.pointer_to(s),
            "count": times("B", self.source.size(self.source.padded(s))),
            "next": self.memory.carry(s, "next"),
            "prev": self.memory.carry(s, "prev"),
        }

    def _pointers(self, what: str) -> list[Variable]:
        """Pointers to states and to what is kept, where a tile begins."""
        memory, const, start = ("memory", "", "from * B")
        if what == "backward":
            memory, const, start = ("tape", "const ", "t0 * B")
        rows: list[Vector | Row] = [*self.cell.states, self.kept]
        where = "tape != NULL ? t0 : 0"
        found = [
            Variable("t0", "const size_t ", "end - steps")
            if what == "backward"
            else Variable("from", "const size_t ", where)
        ]
        for row in rows:
            name, width = self.source.pointer_to(row), self.source.size(self.source.width(row))
            at = f"{memory} + in_tape.{name} + {times(start, width)}"
            found.append(Variable(name, f"{const}real *const ", at))
        return found

    def _given_rows(self, direction: Direction) -> dict[str, list[str]]:
        """What reads the rows of callers' arrays, and what writes them."""
        source = self.source
        read: list[str] = []
        written: list[str] = []
        for v in direction.given:
            units, name = source.size(self.cell.size(v)), direction.rows_name(v)
            array, width = f"call->{direction.argument(v)}", source.size(direction.width(v))
            at = f"{array} + (t0 * batch + start) * {enclosed(units)}"
            if direction.is_written(v):
                items = ["B", "batch", units, at, f"work + in_work.{name}"]
                read += broken(f"real *const {name} = place(", items, ");")
                items = ["steps", "B", "batch", units, name, width, at]
                written += broken("scatter(", items, ");")
            else:
                items = ["steps", "B", "batch", units, width, at, f"work + in_work.{name}"]
                read += broken(f"const real *const {name} = gather(", items, ");")
        return {"read": read, "written": written}

    def _copied(self) -> list[str]:
        """How y is copied where no stage writes it; callers may not want it if it is a state."""
        v, size = self.cell.output, self.cell.size(self.cell.output)
        units, stride = self.source.size(size), self.source.size(self.source.padded(v))
        to = f"call->y + (t0 * batch + start) * {enclosed(units)}"
        if v.category == "state":
            rows = f"{self.source.pointer_to(v)} + {times('B', stride)}"
            lines = broken("scatter(", ["steps", "B", "batch", units, rows, stride, to], ");")
            return ["if (call->y != NULL) {", *(f"    {line}" for line in lines), "}"]
        if v in self.kept.blocks:
            rows = plus("kept", self.source.size(self.kept.offset(v)))
            stride = self.source.size(self.kept.width)
            return broken("scatter(", ["steps", "B", "batch", units, rows, stride, to], ");")
        return []

    # ------------------------------------------------------------------ gradients

    def _summing(self) -> list[str]:
        """The body of the function that adds up what backward has summed for each slice."""
        name, backward = self.name, self.directions["backward"]
        gradients = list(backward.gradients.values())
        zeroed = [p for p in self.cell.parameters if p not in backward.begun]
        counts = {p.name: " * ".join(map(self.source.size, self.cell.shape(p))) for p in zeroed}
        lines = [f"memset(g->{p}, 0, {n} * sizeof(real));" for p, n in counts.items()]
        if lines:  # nothing flows into these
            lines = ["if (!g->accumulate) {", *(f"    {line}" for line in lines), "}"]
        calls = [line for made in gradients for line in made["calls"]]
        if calls:
            code = "\n".join(calls)
            variables = [
                Variable("begun", "const int ", "s > 0 || g->accumulate"),
                Variable("B", "const size_t ", "slice_rows(n->B, slices, s)"),
                Variable("in_work", f"const {name}_backward_layout ",
                         f"{name}_backward_parts(n, B, most)"),
                Variable("work", "const real *const ", "call->work + s * each"),
                *(Variable(g["name"], "const real *const ", f"work + in_work.{g['name']}")
                  for g in gradients),
            ]  # fmt: skip
            inside = [*declared(variables, code), *calls]
            lines += ["for (size_t s = 0; s < slices; ++s) { /* in this order for any threads */"]
            lines += [*(f"    {line}" for line in inside), "}"]
        code = "\n".join(lines)
        top = declared(
            [
                Variable("n", f"const {name}_sizes *const ", "call->n"),
                self._threads(),
                Variable("slices", "const size_t ", "slice_count(n->B, n->threads)"),
                Variable("largest", "const size_t ", "slice_most(n->B, n->threads)"),
                Variable("most", "const size_t ", f"{self.upper}_CHUNK(n->T, largest)"),
                Variable("each", "const size_t ",
                         f"{name}_backward_parts(n, largest, most).total"),
                Variable("g", f"const {name}_grads *const ", "call->g"),
            ],
            code + self._mention_of_n(code),
        )  # fmt: skip
        sizes = self.source.declared_sizes([*top, *lines], ["B"])
        return [*merged([*top[:1], *sizes, *top[1:]]), *lines]

    def _mention_of_n(self, code: str) -> str:
        """Sizes are read from ``n``, unless they are constants."""
        return " n " if self.source.declared_sizes([code], ["B"]) else ""

    def _unreached(self) -> list[str]:
        """What sets the derivatives by inputs that no gradient flows into: to zero."""
        written = {
            (v.name, v.time)
            for op in self.source.plan.backward.operations
            for v in op.writes
            if v.category == "adjoint"
        }
        several = len(self.cell.inputs) > 1
        lines: list[str] = []
        for v in self.cell.inputs:
            if (v.name, v.time) not in written:
                to = f"dx->{v.name}" if several else "dx"
                count = times("n->T * n->B", self.source.size(self.cell.size(v)))
                lines += [f"memset({to}, 0, {count} * sizeof(real)); /* no gradient reaches it */"]
        return [*self.source.declared_sizes(lines), *lines]
