"""The functions of a cell in C that run a pass: over a slice of the batch, before it and after it.

What a function declares follows from what is mentioned in it: each has all that it could declare,
in order, and keeps what is ``live``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import sympy

from ...derivation.reverse import carry
from ...language.matrices import Matrix
from ...language.symbols import Vector
from ...planning.operations import B, T, is_loop
from ...planning.served import Total
from .arrays import is_there
from .copies import Copies
from .lowering import Direction
from .memory import Memory, Region
from .packs import brought_home
from .places import Places, Row
from .source import Source
from .tree import (
    COUNT,
    NIL,
    NULL,
    NUMBERS,
    READ_NUMBERS,
    Address,
    Call,
    Choice,
    Comment,
    Conditions,
    Count,
    Declare,
    Expression,
    If,
    Kind,
    Literal,
    Loop,
    Member,
    Node,
    Product,
    Relation,
    SizeOf,
    Statement,
    Sum,
    Variable,
    do,
    live,
    names_in,
    product,
    rows_of_width,
    shifted,
    together,
)
from .vocabulary import (
    AMONG,
    AROUND,
    AT,
    BATCH,
    BEGUN,
    CALL,
    COLUMNS,
    EACH,
    END,
    FROM,
    IN_PACKED,
    IN_SUMS,
    IN_TAPE,
    IN_WORK,
    LARGEST,
    LAST,
    LATER,
    MEMORY,
    MOST,
    NUMBER,
    PACKED,
    PANELS,
    SLICE,
    SLICES,
    START,
    STEPS,
    SUMS,
    T0,
    TAPE,
    TEAM,
    THREADS,
    WORK,
    G,
    N,
    P,
)

_B = Variable(B.name, "size")
_BYTES = SizeOf(Kind("real"))
_IS_KEPT = Relation(TAPE, "!=", NULL, "size")
_STEPS_OF_ALL = Member(N, "T", "size")
_BATCH, _THREADS = Member(N, "B", "size"), Member(N, "threads", "size")
_WORKERS = Call("thread_workers", (_THREADS, Member(N, "serial", "size")), "size")


class Passes:
    """What the templates place of both passes."""

    def __init__(
        self, source: Source, forward: Direction, backward: Direction, memory: Memory
    ) -> None:
        self.source, self.cell, self.memory = source, source.cell, memory
        self.sizes, self.name = source.sizes, source.name
        self.directions = {"forward": forward, "backward": backward}
        self._lines = source.printer.lines

    def context(self) -> dict[str, Any]:
        """The variables of the templates: lines that are ready."""
        unreached = self._unreached(replace(CALL, type="struct"))
        return {
            "arranging": {what: self._arranging(d) for what, d in self.directions.items()},
            "passes": {"forward": self._forward(), "backward": self._backward()},
            "summing": self._summing() if self.cell.learned else [],
            "unreached": self._lines([*together(self.sizes.declared(unreached)), *unreached]),
        }

    # ------------------------------------------------------------------ what functions declare

    def _declared(
        self, variables: Sequence[Declare], body: Iterable[Node], given: Sequence[Any] = (B,)
    ) -> list[Statement]:
        """Those of the variables, and the sizes, that a body needs; sizes are after ``n``."""
        body = [*body]
        needed = live(variables, body)
        sizes = self.sizes.declared([*needed, *body], given)
        needed = live(variables, [*body, *sizes])
        first = [d for d in needed[:1] if d.variable == N]
        return together([*first, *sizes, *needed[len(first) :]])

    def _n(self) -> Declare:
        return Declare(self._struct("sizes"), N, Member(CALL, "n"))

    def _struct(self, what: str) -> Kind:
        return Kind(f"{self.name}_{what}", True, "*const ")

    def _layout(self, at: Variable, region: Region, *given: Expression) -> Declare:
        """The struct that says where the parts of a region begin."""
        kind = Kind(f"{self.name}_{region.name}_layout", is_const=True)
        return Declare(kind, at, self.memory.parts(region, *given))

    def _region(self, what: str) -> Region:
        return self.memory.forward if what == "forward" else self.memory.backward

    def _packed(self, direction: Direction) -> Region:
        return self.memory.regions[1 if direction.name == "forward" else 3]

    # ------------------------------------------------------------------ packed parameters

    def _arranging(self, direction: Direction) -> list[str]:
        """The body of the function that packs what a pass reads of the parameters."""
        if not direction.packs:
            return ["(void)n, (void)p, (void)packed;"]
        of_fixed = len(direction.fixed.packs)
        first, others = direction.packs[:of_fixed], direction.packs[of_fixed:]
        fill: list[Statement] = [s for pack in first for s in pack.fill]
        fill += direction.fixed.calls
        fill += [s for pack in others for s in pack.fill]
        names = [pack.name for pack in direction.packs]
        variables = [
            Declare(COUNT, THREADS, _WORKERS),
            self._layout(AT, self._packed(direction), N),
            *_parts(NUMBERS, PACKED, AT, names),
        ]
        return self._lines([*self._declared(variables, fill), *fill])

    # ------------------------------------------------------------------ a slice of the batch

    def _forward(self) -> dict[str, list[str]]:
        """The body of the function that runs forward over a slice."""
        direction, copies = self.directions["forward"], self._copies("forward")
        loaded: list[Statement] = []
        for s in self.cell.states:
            loaded.append(self._load(s, "initial", self._in_memory(s)))
            if value := self.cell.starts_at(s):
                loaded.append(self._start(s, value))
        carried, saved = list[Statement](), list[Statement]()
        held = list[Statement]()
        for s in self.cell.states:
            rows = (Count(B), Count(self.sizes.room_of(s)))
            state = self.source.state(s)
            is_held = s in self.source.plan.held
            last = shifted(state, product(*(() if is_held else (STEPS,)), *rows))
            moved = do("memcpy", state, last, product(*rows, _BYTES))
            (held if is_held else carried).append(moved)
            step = Product((LAST, AROUND), "*%") if is_held else LAST
            saved.append(self._save(s, shifted(self._in_memory(s), product(step, *rows)), "final"))
        if held:
            odd = Product((STEPS, Literal("2")), "*%")
            carried.append(If(Relation(odd, "!=", NIL, "size"), tuple(held)))
        steps = [*_over_steps(direction.sections), *copies.outputs(), *copies.written()]
        kept = [_IS_KEPT] if self.cell.states else []  # the template asks for a tape
        return self._function(direction, loaded, copies.read(), steps, saved, carried, kept)

    def _backward(self) -> dict[str, list[str]]:
        """The body of the function that runs backward over a slice."""
        direction, copies = self.directions["backward"], self._copies("backward")
        start: list[Statement] = []
        carries: list[Declare] = []
        for s in self.cell.states:
            for way in ("next", "all" if self._is_shifted(s) else "prev"):
                carried = self.source.carry(s, way)
                at = shifted(WORK, Member(IN_WORK, carried.name, "size"))
                carries.append(Declare(Kind("real", pointer="*"), carried, at))
        start += together(carries)
        if any(made.is_zeroed for made in direction.sums):
            where, at = self.source.sums
            sums = Member(at, "sums", "size")
            count = Sum((Member(at, "total", "size"), sums), "+-")
            zeros = do("memset", shifted(where, sums), NIL, product(count, _BYTES))
            begins = Relation(Member(CALL, "begun"), "==", NIL, "size")
            wanted = is_there(self.cell, Total.GRADIENTS)
            start.append(If(begins if self.source.is_embedded else wanted, (zeros,)))
        if self.source.is_embedded:  # else that is done once for all slices
            start += self._unreached(CALL)
        first, last, saved = list[Statement](), list[Statement](), list[Statement]()
        sections = [list(section) for section in direction.sections]
        for s in self.cell.states:
            arriving = self.source.carry(s, "next")
            start.append(self._load(s, "dfinal", arriving))
            if self._is_shifted(s):
                every = self.source.carry(s, "all")
                rows = (Count(B), Count(self.sizes.room_of(s)))
                end = shifted(every, product(STEPS, *rows))
                first.append(do("memcpy", end, arriving, product(*rows, _BYTES)))
                last.append(do("memcpy", arriving, every, product(*rows, _BYTES)))
            else:
                leaving = self.source.carry(s, "prev")
                loop = sections[direction.part.section_of(carry(s, -1))]
                loop.append(do("swap", Address(arriving), Address(leaving)))
            saved.append(self._save(s, arriving, "dinitial"))
        for n, section in enumerate(sections):
            if is_loop(n):
                section[:0] = self._fetched(direction.places, section)
        steps = [*_over_steps(sections, backwards=True), *last, *copies.written()]
        return self._function(direction, start, [*copies.read(), *first], steps, saved)

    def _fetched(self, places: Places, section: Sequence[Statement]) -> list[Statement]:
        """What asks early for those rows of a tape that a section reads. Processors see by
        themselves what comes next in memory, but not rows that are read from the last to the first.
        """
        read = names_in(section)
        fetched: list[Statement] = []
        rows: list[Vector | Row] = [*self.cell.states, places.kept]
        for row in rows:
            pointer, width = self.source.pointer(row), places.width(row)
            if pointer.name in read:
                at = shifted(pointer, rows_of_width((AMONG, Count(B)), width))
                count = rows_of_width((Count(B),), width)
                fetched.append(do("fetch", at, Sum((T0, AMONG), "++"), count))
        return fetched

    def _is_shifted(self, s: Vector) -> bool:
        """Whether what flows back into a state is there for all steps of a tile."""
        return self.source.plan.is_shifted(carry(s))

    def _function(
        self,
        direction: Direction,
        start: Sequence[Statement],
        first: Sequence[Statement],
        steps: Sequence[Statement],
        saved: Sequence[Statement],
        moved: Sequence[Statement] = (),
        mentioned: Sequence[Node] = (),
    ) -> dict[str, list[str]]:
        """The lines of the function, by their places in its template.

        ``first`` is what begins a tile, ``steps`` what is done for its steps, ``moved`` what the
        template does after it, and ``mentioned`` what else it has.
        """
        inside = [*first, *steps, *moved]
        pointers = live(self._pointers(direction.name), inside)
        every = [*start, *pointers, *inside, *saved, *mentioned, N, MOST]
        variables = self._variables(direction)
        top = self._declared(variables, every, (T, B))
        lines = self._lines
        return {
            "start": lines([*top, *start]),
            "tile": lines([*together(pointers), *first], 8),
            "steps": lines(steps, 8),
            "moved": lines(moved, 12),
            "saved": lines(saved, 8),
        }

    def _variables(self, direction: Direction) -> list[Declare]:
        """All that such a function can declare."""
        what, memory = direction.name, self.memory
        packed, region = self._packed(direction), self._region(what)
        most = memory.most("TILE" if what == "forward" else "CHUNK", Member(SLICE, "most", "size"))
        start = Member(SLICE, "start", "size")
        before = memory.total(memory.tape, N, start, _STEPS_OF_ALL)  # what earlier slices have
        if what == "forward":
            given = Member(CALL, "tape")
            there = Relation(given, "!=", NULL, "size")
            tape = Declare(NUMBERS, TAPE, Choice(there, shifted(given, before), NULL))
            steps: Expression = Choice(_IS_KEPT, _STEPS_OF_ALL, MOST)
            in_tape: Expression = memory.parts(memory.tape, N, _B, steps)
            if memory.tile is not memory.tape:
                in_tape = Choice(
                    _IS_KEPT,
                    memory.parts(memory.tape, N, _B, _STEPS_OF_ALL),
                    memory.parts(memory.tile, N, _B, MOST),
                )
        else:
            tape = Declare(READ_NUMBERS, TAPE, shifted(Member(CALL, "kept"), before))
            in_tape = memory.parts(memory.tape, N, _B, _STEPS_OF_ALL)
        each = memory.total(region, N, Member(SLICE, "most", "size"), MOST)
        work = shifted(Member(CALL, "work"), product(Member(SLICE, "s", "size"), each))
        places = direction.places
        parts = [row.name for row in (places.tile, places.scratch)]
        parts += [COLUMNS.name, PANELS.name]
        sums = [made.name for made in direction.sums]
        return [
            self._n(),
            Declare(COUNT, BATCH, _BATCH),
            Declare(COUNT, START, start),
            Declare(COUNT, _B, Member(SLICE, "rows", "size")),
            Declare(COUNT, TEAM, Member(SLICE, "team", "size")),
            Declare(COUNT, MOST, most),
            Declare(self._struct("params"), P, Member(CALL, "p")),
            tape,
            Declare(COUNT, AROUND, Choice(_IS_KEPT, Literal("SIZE_MAX"), Literal("2"))),
            Declare(Kind(f"{self.name}_tape_layout", is_const=True), IN_TAPE, in_tape),
            self._layout(IN_WORK, region, N, _B, MOST),
            self._layout(IN_PACKED, packed, N),
            Declare(NUMBERS, WORK, work),
            Declare(NUMBERS, MEMORY, Choice(_IS_KEPT, TAPE, WORK)),
            *_parts(NUMBERS, WORK, IN_WORK, parts),
            *([self._layout(IN_SUMS, memory.sums, N)] if memory.sums else []),
            *([Declare(NUMBERS, SUMS, Member(CALL, "sums"))] if memory.sums else []),
            *_parts(NUMBERS, *self.source.sums, sums),
            *_parts(
                READ_NUMBERS, Member(CALL, "packed"), IN_PACKED, [p.name for p in direction.packs]
            ),
        ]

    def _pointers(self, what: str) -> list[Declare]:
        """Pointers to states and to what is kept, where a tile begins."""
        first, memory, kind = FROM, MEMORY, NUMBERS
        start: Expression = Choice(_IS_KEPT, T0, NIL)
        if what == "backward":
            first, memory, kind = T0, TAPE, READ_NUMBERS
            start = Sum((END, STEPS), "+-")
        found = [Declare(COUNT, first, start)]
        places = self.directions[what].places
        rows: list[Vector | Row] = [*self.cell.states, places.kept]
        for row in rows:
            pointer = self.source.pointer(row)
            before = rows_of_width((first, Count(B)), places.width(row))
            at = shifted(memory, Member(IN_TAPE, pointer.name, "size"), before)
            found.append(Declare(kind, pointer, at))
        return found

    def _copies(self, what: str) -> Copies:
        return Copies(self.source, self.directions[what])

    def _in_memory(self, s: Vector) -> Expression:
        """Where the rows of a state begin, with the initial ones."""
        return shifted(MEMORY, Member(IN_TAPE, self.source.state(s).name, "size"))

    def _load(self, s: Vector, struct: str, to: Expression) -> Statement:
        """A state that callers may have given."""
        return do("load", Count(B), Count(self.sizes.of(s)), _given(s, struct), START, to)

    def _start(self, s: Vector, value: float) -> Statement:
        """What a state starts from if callers have not given it."""
        number = self.source.expressions.number(sympy.Float(value))
        items = [Count(self.sizes.of(s)), _given(s, "initial"), number, self._in_memory(s)]
        return do("begin_with", Count(B), *items)

    def _save(self, s: Vector, rows: Expression, struct: str) -> Statement:
        """A state that callers receive."""
        array = Member(Member(CALL, struct), s.name)
        return do("save", Count(B), Count(self.sizes.of(s)), rows, array, START)

    # ------------------------------------------------------------------ gradients

    def _summing(self) -> list[str]:
        """The body of the function that adds up what backward has summed for each slice."""
        region, backward = self.memory.sums or self.memory.backward, self.directions["backward"]
        fixed = backward.fixed

        def home_of(p: Matrix | Vector) -> tuple[Expression, Expression]:
            inside = fixed.gradient(p)
            return (Member(G, p.name), BEGUN) if inside is None else (inside, LATER)

        home, begun = brought_home(backward.sums, home_of)
        gains, gaining = fixed.gains(begun)
        accumulates = self.source.accumulates
        body: list[Statement] = []
        zeroed = [
            do("memset", Member(G, p.name), NIL, product(*map(Count, self.cell.shape(p)), _BYTES))
            for p in self.cell.learned
            if p not in begun | gaining
        ]
        if zeroed:  # nothing flows into these
            body.append(If(Relation(accumulates, "==", NIL, "size"), tuple(zeroed)))
        if home:
            later = Relation(NUMBER, ">", NIL, "size")
            memory, at = self.source.sums
            of_slice = shifted(Member(CALL, memory.name), product(NUMBER, EACH))
            parts = (N,) if region is self.memory.sums else (N, _B, MOST)
            variables = [
                Declare(Kind("int", True), LATER, later),
                Declare(Kind("int", True), BEGUN, Conditions((later, accumulates), "||")),
                Declare(COUNT, _B, Call("slice_rows", (_BATCH, SLICES, NUMBER), "size")),
                self._layout(at, region, *parts),
                Declare(READ_NUMBERS, memory, of_slice),
                *_parts(READ_NUMBERS, memory, at, [made.name for made in backward.sums]),
            ]
            inside = [*together(live(variables, home)), *home]
            body.append(Loop(NUMBER, SLICES, tuple(inside)))
        if fixed.back:
            body += [*fixed.zeroed(begun), *fixed.back, *gains]
        chunk = self.memory.most("CHUNK", LARGEST)
        parts_of_largest = (N,) if region is self.memory.sums else (N, LARGEST, MOST)
        variables = [
            self._n(),
            Declare(COUNT, THREADS, _WORKERS),
            Declare(COUNT, SLICES, Call("slice_count", (_BATCH, _THREADS), "size")),
            Declare(COUNT, LARGEST, Call("slice_most", (_BATCH, _THREADS), "size")),
            Declare(COUNT, MOST, chunk),
            Declare(COUNT, EACH, self.memory.total(region, *parts_of_largest)),
            Declare(self._struct("params"), P, Member(CALL, "p")),
            Declare(self._struct("grads"), G, Member(CALL, "g")),
            self._layout(IN_PACKED, self._packed(backward), N),
            *_parts(NUMBERS, Member(CALL, "once"), IN_PACKED, [p.name for p in fixed.packs]),
        ]
        return self._lines([*self._declared(variables, body), *body])

    def _unreached(self, call: Variable) -> list[Statement]:
        """What sets the derivatives by inputs that no gradient flows into: to zero."""
        written = {
            (v.name, v.time)
            for op in self.source.plan.backward.operations
            for v in op.writes
            if v.category == "adjoint"
        }
        several = len(self.cell.inputs) > 1
        zeroed: list[Statement] = []
        dx = Member(call, "dx")
        for v in self.cell.inputs:
            if (v.name, v.time) not in written:
                to = Member(dx, v.name) if several else dx
                rows = (_STEPS_OF_ALL, _BATCH, Count(self.sizes.of(v)))
                zeros = do("memset", to, NIL, product(*rows, _BYTES))
                zeroed.append(Comment(f"no gradient reaches {v.name}"))
                zeroed.append(If(Relation(to, "!=", NULL, "size"), (zeros,)))
        return zeroed


def _over_steps(
    sections: Sequence[Sequence[Statement]], backwards: bool = False
) -> list[Statement]:
    """What is done for a tile of steps: every other section in a loop over them."""
    made: list[Statement] = []
    for n, section in enumerate(sections):
        if not is_loop(n):
            made += section
        elif section:
            made.append(Loop(AMONG, STEPS, tuple(section), backwards))
    return made


def _given(s: Vector, struct: str) -> Expression:
    """A state that callers may have given, or NULL."""
    given = Member(CALL, struct)
    return Choice(Relation(given, "!=", NULL, "size"), Member(given, s.name), NULL)


def _parts(kind: Kind, memory: Expression, at: Variable, names: Iterable[str]) -> list[Declare]:
    """Pointers to the parts of a piece of memory, of which a struct says where they begin."""
    return [
        Declare(kind, Variable(name), shifted(memory, Member(at, name, "size"))) for name in names
    ]
