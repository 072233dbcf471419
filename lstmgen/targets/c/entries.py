"""What the templates place of passes: statements, and what functions declare for these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sympy import Expr

from ...language.symbols import Vector
from ...planning.operations import B, T
from .copies import Copies
from .lines import WIDTH, comment
from .lowering import Direction
from .packs import Packed, Summed, brought_home
from .places import Row
from .source import Source
from .tree import (
    Count,
    Declare,
    Expression,
    Function,
    Kind,
    Member,
    Node,
    Statement,
    Variable,
    live,
    names_in,
    rows_of_width,
    shifted,
)
from .vocabulary import (
    AT,
    COLUMNS,
    FROM,
    IN_PACKED,
    IN_TAPE,
    IN_WORK,
    MEMORY,
    PACKED,
    PANELS,
    T0,
    TAPE,
    THREADS,
    WORK,
)


class Entry:
    """One of the functions that run a pass: "forward", "backward", or "step", forward over one."""

    def __init__(self, source: Source, direction: Direction, what: str) -> None:
        self._source, self._direction, self._what = source, direction, what
        single = what == "step"
        self.regions = direction.lowered(single) if single else direction.regions
        copies = Copies(source, direction, single)
        self.read, self.written = copies.read(), copies.written()
        self.copied = copies.output() if what != "backward" else []

    @property
    def body(self) -> list[Statement]:
        """What is done between the copies from callers and those to them."""
        return [*(s for region in self.regions.values() for s in region), *self.copied]

    def lines(self) -> dict[str, list[str]]:
        """The statements of each region."""
        lines = self._source.printer.lines
        return {region: lines(statements) for region, statements in self.regions.items()}

    def given(self) -> dict[str, list[str]]:
        """What reads the rows of callers' arrays, and what writes them."""
        lines = self._source.printer.lines
        return {"read": lines(self.read), "written": lines(self.written)}

    def locals(self) -> dict[str, list[str]]:
        """What the function declares, as far as it is used; and what it has no use for."""
        source, body = self._source, self.body
        lines = source.printer.lines
        pointers, work, packed = self._pointers(), self._work(), self._packed()
        declared: list[Node] = [*body, *pointers, *self.read, *self.written]
        of_states = [n for s in source.cell.states for n in self._sizes_of(s)]
        return {
            "sizes": source.sizes.declared([*declared, *of_states], (T, B)),
            "pointers": lines(pointers), "work": lines(work), "packs": lines(packed),
            "unused": self._unused(names_in([*declared, *work, *packed])),
        }  # fmt: skip

    def _sizes_of(self, s: Vector) -> list[Node]:
        """What loading and saving a state mentions."""
        return [Count(self._source.sizes.of(s)), Count(self._source.sizes.room_of(s))]

    def _pointers(self) -> list[Declare]:
        """Pointers to states and to what is kept, in the tape or in the workspace."""
        memory, is_const, start = {
            "forward": (MEMORY, False, (FROM, Count(B))),
            "step": (WORK, False, ()),
            "backward": (TAPE, True, (T0, Count(B))),
        }[self._what]
        places = self._direction.places
        pointers = []
        rows: list[Vector | Row] = [*self._source.cell.states, places.kept]
        for row in rows:
            pointer = self._source.pointer(row)
            shift = [rows_of_width(start, places.width(row))] if start else []
            at = shifted(memory, Member(IN_TAPE, pointer.name, "size"), *shift)
            pointers.append(Declare(Kind("real", is_const, "*const "), pointer, at))
        is_loaded = self._what != "backward"  # states are what the template begins and ends with
        loaded = [self._source.state(s) for s in self._source.cell.states if is_loaded]
        return live(pointers, [*self.body, *loaded])

    def _work(self) -> list[Declare]:
        """Pointers into the workspace."""
        places = self._direction.places
        names = [row.name for row in (places.tile, places.scratch)]
        names += [COLUMNS.name, PANELS.name, *(made.name for made in self._direction.sums)]
        return live(_parts(False, WORK, IN_WORK, names), self.body)

    def _packed(self) -> list[Declare]:
        """Pointers to packed parameters."""
        names = [pack.name for pack in self._direction.packs]
        return live(_parts(True, PACKED, IN_PACKED, names), self.body)

    def _unused(self, used: set[str]) -> list[str]:
        """Arguments and variables of the function that it does not mention."""
        cell = self._source.cell
        masks = ["m"] if cell.masks else []
        names = {
            "forward": ["p", "x", *masks, "start", "initial", "y", "final", "packed", "in_packed",
                        "in_work", "in_tape", "batch", "team", "memory"],
            "backward": ["p", "x", *masks, "start", "tape", "dy", "dfinal", "dx", "dinitial",
                         "packed", "in_packed", "in_tape", "batch", "team", "t0"],
            "step": ["p", *masks, "in_packed", "in_work", "in_tape", "packed", "work"],
        }[self._what]  # fmt: skip
        handled = {"initial", "final", "dfinal", "dinitial", "start"} if cell.states else set()
        if cell.states and self._what != "backward":  # states are loaded into a tape
            handled |= {"in_tape", "memory"}
        return [a for a in names if a not in handled and a not in used]


def stage(source: Source, function: Function) -> dict[str, list[str]]:
    """The function of a stage: its head, and what it does to a row."""
    printer, fixed = source.printer, source.sizes.fixed_in(function.statements)
    return {
        "about": comment(function.about, WIDTH),
        "head": printer.head(function),
        "sizes": fixed + printer.lines(function.around),
        "views": printer.lines(function.views),
        "body": printer.lines(function.body),
        "advance": printer.lines(function.advance),
    }


# --------------------------------------------------------------------------- parameters


def packing(source: Source, packs: Sequence[Packed]) -> dict[str, list[str]]:
    """The function that packs what a pass reads of the parameters."""
    fill = [do for pack in packs for do in pack.fill]
    pointers = _parts(False, PACKED, AT, [pack.name for pack in packs])
    lines = source.printer.lines
    return {"calls": lines(fill), "pointers": lines(pointers), "sizes": _declared(source, fill)}


def summing(source: Source, sums: Sequence[Summed], unreached: Sequence[Expr]) -> dict[str, Any]:
    """What becomes of the sums of backward. ``unreached`` are the sizes of the arrays of callers
    that are zero.
    """
    home, begun = brought_home(sums)
    zeroed = [p for p in source.cell.parameters if p not in begun]
    counts = [Count(source.count(p)) for p in zeroed] + [Count(n) for n in unreached]
    pointers = _parts(True, WORK, IN_WORK, [made.name for made in sums])
    lines = source.printer.lines
    return {
        "names": [made.name for made in sums],
        "calls": lines(home),
        "zeroed": any(made.is_zeroed for made in sums),
        "begun": {p.name for p in begun},
        "pointers": lines(pointers),
        "sizes": _declared(source, home, counts),
    }


def _declared(
    source: Source, calls: Sequence[Statement], counts: Sequence[Expression] = ()
) -> list[str]:
    """The sizes that are mentioned, and the threads if calls share their work."""
    shares = THREADS.name in names_in(calls)
    own = ["const size_t threads = workers_of(n);"] if shares else []
    return source.sizes.declared([*calls, *counts]) + own


def _parts(is_const: bool, memory: Variable, at: Variable, names: Iterable[str]) -> list[Declare]:
    """Pointers to the parts of a piece of memory, of which a struct says where they begin."""
    kind = Kind("real", is_const, "*const ")
    return [
        Declare(kind, Variable(name), shifted(memory, Member(at, name, "size"))) for name in names
    ]
