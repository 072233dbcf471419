"""The C target: one header and one source, C99, no allocation, no globals.

The source follows the plan: stages, packed weights, a tape, and tiles of steps that are worked on
together, so that the workspace does not grow with the sequence. This module puts the files
together; the statements of passes are made in ``lowering``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Integer

from ...errors import GenerateError
from ...language import dtypes
from ...language.cell import Cell
from ...language.symbols import Matrix, Size, Vector
from ...planning.operations import ZERO, B, K, T
from ...printing.orders import one_line
from ..comments import header
from ..identity import fingerprint, maker
from ..rendering import environment
from ..sealing import PLACEHOLDER
from .copies import Copies
from .entries import Entry, packing, stage, summing
from .functions import needs
from .lines import WIDTH, broken, comment, joined, paragraph, top_comment
from .lowering import Direction, lower
from .packs import brought_home
from .places import Row
from .sizes import monomials, plus, times
from .source import Source
from .tree import (
    NIL,
    Address,
    Call,
    Count,
    Expression,
    Member,
    calls_in,
    names_in,
    rows_of_width,
    sizes_in,
)
from .vocabulary import STEPS, USED, N

PLAN: dict[str, bool] = {}  # as it is without options
OPTIONS = frozenset({"dtype"})
TAKES_SIZES = True

# A file of one of these names would stand in the way of #include <math.h>.
_STANDARD_HEADERS = frozenset(
    """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal
    stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads
    time uchar wchar wctype""".split()
)
_STEPS_ROWS = times(STEPS, Count(B))  # how many rows there are of what a tile keeps
_GENERATION = "\0generation\0"  # what a header and a source have in common; no text of a user
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
# Macros of the headers that we or our callers include: no variable can have one of these names.
_MACRO = re.compile(
    r"LSTMGEN_\w+|(M|FP)_[A-Z0-9_]+|HUGE(_VAL\w*)?|SNAN\w*|MAXFLOAT|DOMAIN|SING|OVERFLOW|UNDERFLOW|PLOSS|TLOSS"
    r"|MATH_ERR\w+|math_errhandling|U?INT\w*_(MAX|MIN|WIDTH)|(SIZE|PTRDIFF|WCHAR|WINT)_\w+|I"
)


def files(cell: Cell, *, dtype: str = "float64", source: str = "", **sizes: int) -> dict[str, str]:
    """The header and the source of ``cell``: ``{"lstm.h": text, "lstm.c": text}``.

    ``sizes`` become compile-time constants; the sizes that callers pass have to agree with them.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise GenerateError(f"the size {name} is a positive whole number, not {value!r}")
    _refuse_macros(cell)
    _refuse_members(cell)
    options = f" --dtype {dtype}" + "".join(f" --size {k}={v}" for k, v in sizes.items())
    about = [
        line if PLACEHOLDER in line else line[: _indent(line)] + one_line(line)
        for line in header(cell, "c", source, options)
    ]
    stem = f"{cell.name}_cell" if cell.name in _STANDARD_HEADERS else cell.name
    context = _Files(cell, dtype, sizes).context()
    context |= {"stem": stem, "about": top_comment(about), "generation": _GENERATION}
    templates = environment("c")
    templates.filters["paragraph"] = paragraph
    made = {
        f"{stem}.h": templates.get_template("header.h.j2").render(context),
        f"{stem}.c": templates.get_template("source.c.j2").render(context),
    }
    # a header and a source fit whatever their comments say
    generation = fingerprint(*(_COMMENT.sub("", text) for text in made.values()))
    return {name: text.replace(_GENERATION, generation) for name, text in made.items()}


def _refuse_macros(cell: Cell) -> None:
    symbols = {s for e in cell.equations for s in e.atoms(Vector, Matrix)} | set(cell.sizes)
    for name in sorted(s.name for s in symbols):
        if _MACRO.fullmatch(name):
            raise GenerateError(
                f"{name} is a macro of C's standard headers: nothing else can have that name in C\n"
                "  hint: rename it in the equations"
            )


def _refuse_members(cell: Cell) -> None:
    """Members of structs that are not from the equations: nothing of those can have their name."""
    params = {v.name for v in (*cell.parameters, *cell.constants)}
    for name, taken, struct in (
        ("packed", params, "params"), ("threads", {n.name for n in cell.sizes}, "sizes"),
        ("serial", {n.name for n in cell.sizes}, "sizes"),
    ):  # fmt: skip
        if name in taken:
            raise GenerateError(
                f"{name} is a member that lstmgen adds to {cell.name}_{struct}\n"
                "  hint: rename it in the equations"
            )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Files:
    """What the templates place: names, and lines that are ready."""

    def __init__(self, cell: Cell, dtype: str, fixed: dict[str, int]) -> None:
        self.cell, self.fixed, self.dtype = cell, fixed, dtype
        self.source = Source(cell, dtype, fixed)
        self.sizes = self.source.sizes
        self.kept = self.source.memory.kept
        self.forward, self.backward = lower(self.source)
        self.several = len(cell.inputs) > 1

    def context(self) -> dict[str, Any]:
        """The variables of the templates."""
        cell, source = self.cell, self.source
        directions = (self.forward, self.backward)
        entries = {what: Entry(source, self._direction(what), what)
                   for what in ("forward", "backward", "step")}  # fmt: skip
        stages = [made.function for d in directions for made in d.stages.values()]
        unreached = self._unreached()
        return {
            "name": cell.name,
            "NAME": cell.name.upper(),
            "real": dtypes.dtype(self.dtype).compute.c,
            "suffix": source.expressions.suffix,
            "integer": dtypes.dtype(self.dtype).compute.integer,
            "sizes": [self._about_size(n) for n in cell.sizes],
            "parameters": [self._parameter(p) for p in cell.parameters],
            "constants": [v.name for v in cell.constants],
            "inputs": [self._given(v) for v in cell.inputs],
            "x": self._about_x(),
            "masks": [self._given(v) for v in cell.masks],
            "states": [self._state(s) for s in cell.states],
            "output": self._output(entries),
            "several": self.several,
            "heads": self._heads(),
            "calls": self._calls(),
            "example": self._example(),
            "macros": self._macros(),
            "wrong_sizes": self._wrong_sizes(),
            "huge_sizes": self._huge_sizes(),
            "arrays": self._arrays(),
            "required": self._required(),
            "memory": [
                tape := self._tape(),
                self._packs(self.forward),
                self._work(self.forward),
                self._packs(self.backward),
                self._work(self.backward),
            ],
            "tape": tape,
            "label": self._label(tape),
            "pack": {d.name: packing(source, d.packs) for d in directions},
            "gradients": summing(source, self.backward.sums, [count for _, count in unreached]),
            "lines": {what: entry.lines() for what, entry in entries.items()},
            "locals": {what: entry.locals() for what, entry in entries.items()},
            "given": {what: entry.given() for what, entry in entries.items()},
            "pad": self.sizes.pad,
            "check_sizes": self.sizes.declared(count for count, _ in self._counted_arrays()),
            "unreached": [
                {"pointer": pointer, "count": self.sizes.text(count)}
                for pointer, count in unreached
            ],
            "stages": [stage(source, function) for function in stages],
            "kernels": self._kernels(entries),
            **needs(s for function in stages for s in function.body),
        }

    def _kernels(self, entries: dict[str, Entry]) -> set[str]:
        """The functions that passes call: no others are written."""
        called = [s for e in entries.values() for region in e.regions.values() for s in region]
        called += [s for d in (self.forward, self.backward) for pack in d.packs for s in pack.fill]
        return calls_in([*called, *brought_home(self.backward.sums)[0]])

    # ------------------------------------------------------------------ what callers see

    def _about_size(self, n: Size) -> dict[str, Any]:
        holders = [v.name for v in self.cell.inputs if n in self.cell.shape(v)] or [
            v.name for v in self.cell.states if n in self.cell.shape(v)
        ]
        about = f"units of {', '.join(holders)}" if holders else "units"
        fixed = self.fixed.get(n.name)
        if fixed:
            about += f"; has to be {fixed}, which this code was made for"
        return {"name": n.name, "about": about}

    def _parameter(self, p: Matrix | Vector) -> dict[str, str]:
        shape = self.cell.shape(p)
        count = " * ".join(self.sizes.text(n) for n in shape)
        return {"name": p.name, "shape": _shape(*shape), "count": count}

    def _given(self, v: Vector) -> dict[str, str]:
        size = self.cell.size(v)
        return {"name": v.name, "shape": _shape(T, B, size), "row": _shape(B, size)}

    def _about_x(self) -> dict[str, str]:
        first = self._given(self.cell.inputs[0])
        what = "the input" if first["name"] == "x" else f"the input {first['name']}"
        if self.several:
            return {"sequence": "the inputs", "row": "the inputs of the step", "grad": "the inputs"}
        return {
            "sequence": f"{first['shape']}: {what}",
            "row": f"{first['row']}: {what}",
            "grad": f"x; {first['shape']}",
        }

    def _state(self, s: Vector) -> dict[str, str]:
        size = self.cell.size(s)
        return {
            "name": s.name,
            "shape": _shape(B, size),
            "units": self.sizes.text(size),
            "pointer": self.source.state(s).name,
            "count": self._text(rows_of_width([Count(B)], self.sizes.room_of(s))),
            "next": self.source.carry(s, "next").name,
            "prev": self.source.carry(s, "prev").name,
        }

    def _output(self, entries: dict[str, Entry]) -> dict[str, Any]:
        """The output, and how y is copied where no stage writes it."""
        v, size = self.cell.output, self.cell.size(self.cell.output)
        copied = {what: self.source.printer.lines(entries[what].copied)
                  for what in ("forward", "step")}  # fmt: skip
        return {
            "name": v.name, "is_state": v.category == "state", "row": _shape(B, size),
            "shape": _shape(T, B, size), "copied": copied,
        }  # fmt: skip

    def _heads(self) -> dict[str, list[str]]:
        """The heads of the functions that callers see."""
        n = self.cell.name
        real = f"{n}_real"
        given = [
            f"const {n}_sizes *n", f"const {n}_params *p",
            f"const {n}_inputs *x" if self.several else f"const {real} *x",
            *([f"const {n}_masks *m"] if self.cell.masks else []),
        ]  # fmt: skip
        arguments = {
            "forward": [
                *given, f"const {n}_state *initial", f"{real} *y", f"const {n}_new_state *final",
                f"{real} *tape", f"{real} *work",
            ],
            "step": [
                *given, f"const {n}_state *state", f"{real} *y", f"const {n}_new_state *next",
                f"{real} *work",
            ],
            "backward": [
                *given, f"const {real} *tape", f"const {real} *dy", f"const {n}_state *dfinal",
                f"const {n}_grads *g",
                f"const {n}_input_grads *dx" if self.several else f"{real} *dx",
                f"const {n}_new_state *dinitial", f"{real} *work",
            ],
        }  # fmt: skip
        arguments["pack"] = [*given[:2], f"{real} *packed"]
        heads = {
            what: broken(f"{n}_status {n}_{what}(", items, ")", WIDTH - 1)
            for what, items in arguments.items()
        }
        for what in ("forward", "backward"):
            heads[f"pack_{what}"] = broken(
                f"static void arrange_{what}(", [*given[:2], "real *packed"], ")"
            )
        slice_ = [f"const {n}_sizes *n", "size_t start", "size_t B", *given[1:]]
        for what in ("forward", "backward"):
            rest = [a for a in arguments[what][len(given) : -1] if a != f"const {n}_grads *g"]
            own = [*slice_, *rest, "const real *packed", "real *work"]
            heads[f"{what}_rows"] = broken(f"static void {what}_rows(", own, ")")
        return heads

    def _calls(self) -> dict[str, list[str]]:
        """How the functions that callers see run slices of the batch."""
        given = ["p", "x", *(["m"] if self.cell.masks else [])]
        around = {
            "forward": (["initial", "y", "final"], []),
            "backward": ([], ["dy", "dfinal", "dx", "dinitial"]),
        }
        calls = {}
        for what, (before, after) in around.items():
            one = ["n", "0", "n->B", *given, *before, "tape", *after, "packed", "work"]
            several = ["n", "first_row(n, s)", "share(n, s)", *given, *before, "own", *after,
                       "packed", "work + s * each"]  # fmt: skip
            calls[f"{what}_all"] = broken(f"{what}_rows(", one, ");")
            calls[f"{what}_slice"] = broken(f"{what}_rows(", several, ");")
        return calls

    def _example(self) -> dict[str, Any]:
        """The lines of the example in the header."""
        cell, n = self.cell, self.cell.name
        sizes = {s.name: 8 * (k + 1) for k, s in enumerate(cell.sizes)} | self.fixed
        learned = [p.name for p in cell.parameters]
        inputs, masks = [v.name for v in cell.inputs], [v.name for v in cell.masks]
        states = [s.name for s in cell.states]
        structs = {
            "n": ("sizes", [".T = 100", ".B = 1", *(f".{k} = {v}" for k, v in sizes.items())]),
            "p": ("params", _members([*learned, *(c.name for c in cell.constants)])),
            "xs": ("inputs", _members(inputs) if self.several else []),
            "ms": ("masks", _members(masks)),
            "g": ("grads", _members([f"d{p}" for p in learned], learned)),
            "dxs": ("input_grads", _members([f"d{v}" for v in inputs], inputs)
                   if self.several else []),
            "state": ("state", _members(states)),
            "next": ("new_state", _members(states)),
        }  # fmt: skip
        line = {
            variable: broken(f"{n}_{kind} {variable} = {{", items, "};") if items else []
            for variable, (kind, items) in structs.items()
        }
        known = {name: f"&{name}" if lines else "NULL" for name, lines in line.items()}
        known |= {} if self.several else {"xs": "x", "dxs": "dx"}
        given = [known["n"], known["p"], known["xs"], *([known["ms"]] if masks else [])]
        y = "NULL" if cell.output.category == "state" else "y"
        calls = {
            "forward": [*given, "NULL", "y", "NULL", "tape", "work"],
            "backward": [*given, "tape", "dy", "NULL", known["g"], known["dxs"], "NULL", "more"],
            "step": [*given, known["state"], y, known["next"], "work"],
        }
        return {
            "before": line["n"] + line["p"] + line["xs"] + line["ms"],
            "forward": broken(f"{n}_status status = {n}_forward(", calls["forward"], ");"),
            "grads": line["g"] + line["dxs"],
            "backward": broken(f"status = {n}_backward(", calls["backward"], ");"),
            "states": line["state"] + line["next"],
            "step": broken(f"{n}_step(", calls["step"], ");"),
            "array": f"{n.upper()}_STEP_WORK_SIZE({self._step_sizes(sizes)})",
        }

    def _step_sizes(self, sizes: dict[str, int]) -> str:
        return ", ".join(["1", *(str(v) for k, v in sizes.items() if k not in self.fixed)])

    def _macros(self) -> list[str]:
        """The sizes of buffers as constant expressions."""
        needs = [
            ("TAPE_SIZE(T, B", self._tape_count(T) + self._label_count),
            ("PACKED_SIZE(", self.forward.packed),
            ("FORWARD_WORK_SIZE(T, B", self._work_count(self.forward, K) + self.forward.packed),
            ("STEP_WORK_SIZE(B", self._work_count(self.forward, Integer(1))),
            ("BACKWARD_WORK_SIZE(T, B", self._work_count(self.backward, K) + self.backward.packed),
        ]
        names = [n.name for n in self.cell.sizes if n.name not in self.fixed]
        lines = self._rooms()
        for head, count in needs:
            start, _, given = head.partition("(")
            listed = ", ".join([*([given] if given else []), *names])
            slack = 0 if start in ("TAPE_SIZE", "PACKED_SIZE") else self.sizes.pad
            lines += self._macro(
                f"{self.cell.name.upper()}_{start}({listed or 'unused'})",
                (count or Integer(1 if not slack else 0)) + slack, start == "BACKWARD_WORK_SIZE",
            )  # fmt: skip
        return lines

    def _fixed_sizes(self) -> dict[Expr, int]:
        """The values of the sizes that are constants, and of what follows from them."""
        return {n: value for n in self.sizes.every if (value := self.sizes.value(n)) is not None}

    def _rooms(self) -> list[str]:
        """Macros for the rooms of several blocks."""
        name, fixed, known = self.cell.name.upper(), self._fixed_sizes(), self._known_rooms()
        lines = []
        for padded, wide in self.sizes.wide.items():
            if not padded.is_Symbol and wide not in fixed:
                terms = [_product(m, known) for m in monomials(padded.subs(fixed))]
                lines.append(f"#define {known[wide]} {name}_PADDED({' + '.join(terms)})")
        return lines

    def _known_rooms(self) -> dict[Expr, str]:
        """How the macros are called for the room of one block, or of several."""
        return {wide: self._room(wide, padded) for padded, wide in self.sizes.wide.items()}

    def _room(self, wide: Size, padded: Expr) -> str:
        name = self.cell.name.upper()
        if padded.is_Symbol:
            return f"{name}_PADDED({padded})"
        plain = [n.name for n in self.cell.sizes if self._holds(padded, n)]
        return f"{name}_{self.sizes.text(wide)}({', '.join(plain)})"

    def _holds(self, padded: Expr, n: Size) -> bool:
        """Whether a count depends on a size that is not a constant."""
        return n.name not in self.fixed and bool({n, self.sizes.wide[n]} & padded.atoms(Size))

    def _tape_count(self, steps: Expr) -> Expr:
        states = sum((self.sizes.room_of(s) for s in self.cell.states), ZERO)
        return (steps + 1) * B * states + steps * B * self.kept.width

    def _work_count(self, direction: Direction, steps: Expr) -> Expr:
        """The numbers of a pass over rows that are worked on together, packed weights aside."""
        places = direction.places
        given = sum(map(self.sizes.room_of, places.given), ZERO)
        count = steps * B * (places.tile.width + given) + B * places.scratch.width
        if direction is self.forward:
            return count + self._tape_count(steps)
        states = sum((self.sizes.room_of(s) for s in self.cell.states), ZERO)
        count += 2 * B * states + direction.summed
        # sums, since nobody knows which size is the largest
        turned = sum(direction.heights, ZERO) + sum(direction.widths, ZERO)
        return count + steps * B * turned

    def _macro(self, head: str, count: Expr, chunk: bool = False) -> list[str]:
        name = self.cell.name.upper()
        known = self._known_rooms() | {K: f"{name}_{'CHUNK' if chunk else 'TILE'}(T, B)"}
        fixed = self._fixed_sizes()
        terms = ["(size_t)" + _product(m, known) for m in monomials(count.subs(fixed))]
        one_line = f"#define {head} ({' + '.join(terms)})"
        if len(one_line) <= WIDTH:
            return [one_line]
        lines = [f"#define {head}", *(f"    {line}" for line in joined("+", "(", terms, ")"))]
        return [f"{line} \\" for line in lines[:-1]] + lines[-1:]

    # ------------------------------------------------------------------ checks

    def _wrong_sizes(self) -> list[str]:
        items = [f"n->{n} == 0" for n in ("T", "B")]
        for n in self.cell.sizes:
            fixed = self.fixed.get(n.name)
            items.append(f"n->{n.name} {f'!= {fixed}' if fixed else '== 0'}")
        return joined("||", "if (", items, ") {")

    def _huge_sizes(self) -> list[str]:
        """Sizes with which the width of a row would wrap around: no memory is that large."""
        sizes = [n.name for n in self.cell.sizes if n.name not in self.fixed]
        most = "SIZE_MAX / 4096"  # a row has fewer blocks
        return joined("||", "if (", [f"n->{n} > {most}" for n in sizes], ") {") if sizes else []

    def _arrays(self) -> list[dict[str, str]]:
        """The sizes of the arrays that callers hand over, and whose they are."""
        counted = self._counted_arrays()
        return [{"count": self._text(count), "names": names} for count, names in counted]

    def _counted_arrays(self) -> list[tuple[Expression, str]]:
        """The same, but for those that others include."""
        cell = self.cell
        named: dict[Expr, list[str]] = {}
        for v in (*cell.inputs, *cell.masks):
            named.setdefault(T * B * cell.size(v), []).append(v.name)
        named.setdefault(T * B * cell.size(cell.output), []).append("y")
        for p in cell.parameters:
            named.setdefault(sympy.Mul(*cell.shape(p)), []).append(p.name)
        largest = [n for n in named if not any(m != n and sympy.denom(m / n) == 1 for m in named)]
        return [(self.sizes.checked(n), _few(named[n])) for n in largest]

    def _required(self) -> dict[str, Any]:
        """Functions that tell whether a struct is complete, and what each function requires."""
        cell, n = self.cell, self.cell.name
        learned = [p.name for p in cell.parameters]
        inputs = [v.name for v in cell.inputs] if self.several else []
        structs = {
            "p": ("params", learned), "x": ("inputs", inputs),
            "m": ("masks", [v.name for v in cell.masks]), "g": ("grads", learned),
            "dx": ("input_grads", inputs),
        }  # fmt: skip
        functions = []
        missing = {a: f"{a} == NULL" for a in ("y", "tape", "dy", "work", "packed")}
        if cell.states:
            missing["next"] = "next == NULL"
        for a, (kind, members) in structs.items():
            if members:
                parts = [f"{a} != NULL", *(f"{a}->{member} != NULL" for member in members)]
                functions.append({
                    "head": f"static int {kind}_given(const {n}_{kind} *{a})",
                    "body": joined("&&", "return ", parts, ";"),
                })  # fmt: skip
                missing[a] = f"!{kind}_given({a})"
            elif a in ("x", "dx") or (a == "p" and cell.constants):
                missing[a] = f"{a} == NULL"
        y = [] if cell.output.category == "state" else ["y"]
        wanted = {
            "forward": ["p", "x", "m", "y", "work"],
            "step": ["p", "x", "m", *y, "next", "work"],
            "backward": ["p", "x", "m", "tape", "dy", "g", "dx", "work"],
            "pack": ["p", "packed"],
        }
        if learned:  # a step reads packed parameters alone
            wanted["step"].remove("p")
        checks = {}
        for what, names in wanted.items():
            items = [missing[a] for a in names if a in missing]
            checks[what] = joined("||", "if (", items, ") {")
        unused = {
            "step": [] if cell.states else ["state", "next"],
            "backward": [] if "g" in missing else ["g"],
        }
        return {"functions": functions, "checks": checks, "unused": unused}

    # ------------------------------------------------------------------ memory

    def _tape(self) -> dict[str, Any]:
        about = (
            "Where the parts of a tape for some steps begin. Without a tape, that of one tile is "
            "the first part of the workspace of forward."
        )
        members = []
        for s in self.cell.states:
            width = self.sizes.room_of(s)
            shape = f"(steps + 1, B, {self.sizes.text(width)}): {self.source.text(s.at(0))}, the "
            rows = plus(times(STEPS, Count(B)), Count(B))
            count = times(rows, self.sizes.checked(width))
            members.append(Part(self.source.state(s).name, f"{shape}initial state first", count))
        members += self._rows(self.kept, _STEPS_ROWS, "steps, B")
        return self._memory("tape", about, members)

    def _label(self, tape: dict[str, Any]) -> dict[str, Any]:
        """What a tape begins with, for backward to know it again."""
        layout = [f"{m['name']} {m['value']}" for m in tape["members"]]
        made = fingerprint(*maker(self.cell).values(), self.dtype, str(self.fixed), *layout)
        values = [f"UINT64_C(0x{made})", "n->T", "n->B", "slices(n)"]
        values += [f"n->{n.name}" for n in self.cell.sizes]
        return {"count": self._label_count, "lines": broken("", values, ",", WIDTH - 8)}

    @property
    def _label_count(self) -> int:
        """The numbers that a label takes: whole lines of the cache, to leave vectors aligned."""
        words = 4 + len(self.cell.sizes)
        return -(-words // 8) * self.sizes.pad

    def _packs(self, direction: Direction) -> dict[str, Any]:
        """The layout of packed parameters."""
        about = f"Where the parts of packed parameters begin, which {direction.name} reads."
        members = [Part(p.name, p.about, self.sizes.checked(p.count)) for p in direction.packs]
        return self._memory(f"{direction.name}_packed", about, members)

    def _work(self, direction: Direction) -> dict[str, Any]:
        source, name = self.source, direction.name
        about = f"Where the parts of the workspace of {name} begin"
        places, copies = direction.places, Copies(source, direction, single=False)
        parts = []
        for v in places.given:
            shape = f"(steps, B, {self.sizes.text(places.width(v))}): {source.text(v)}"
            count = times(_STEPS_ROWS, self.sizes.checked(self.sizes.room_of(v)))
            about_it = f"{shape}, unless the caller's will do"
            parts.append(Part(copies.rows(v).name, about_it, count))
        parts += self._rows(places.tile, _STEPS_ROWS, "steps, B")
        parts += self._rows(places.scratch, Count(B), "B")
        if direction is self.forward:
            about += ", after those of a tape."
            tape = Call("tape_parts", (N, Count(B), STEPS), "struct")
            return self._memory(name, about, parts, Member(tape, "total", "size"))
        for s in self.cell.states:
            size = self.sizes.room_of(s)
            for way, what in (
                ("next", f"δ{s.name}⁺, which comes from step t+1"),
                ("prev", f"δ{s.name}⁺[t-1], which goes to step t-1"),
            ):
                about_it = f"(B, {self.sizes.text(size)}): {what}"
                count = times(Count(B), self.sizes.checked(size))
                parts.append(Part(source.carry(s, way).name, about_it, count))
        for member, about_it, widths in (
            ("columns", "rows turned, for the gradients of matrices", direction.heights),
            ("panels", "rows cut into panels, likewise", direction.widths),
        ):
            if widths:
                count = times(_STEPS_ROWS, self.sizes.checked(sum(widths, ZERO)))
                parts.append(Part(member, about_it, count))
        made: dict[bool, list[Part]] = {False: [], True: []}
        for g in direction.sums:
            made[g.is_zeroed].append(Part(g.name, g.about, self.sizes.checked(g.count)))
        if made[True]:
            made[False].append(Part("sums", "sums that begin with zeros, from here to the end"))
        return self._memory(name, f"{about}.", [*parts, *made[False], *made[True]])

    def _memory(
        self, name: str, about: str, parts: list[Part], start: Expression = NIL
    ) -> dict[str, Any]:
        """One piece of memory: where its parts begin, and how much it is."""
        values = [part.value for part in parts]
        mentioned = names_in([*values, start])
        unused = [] if N.name in mentioned or self.sizes.are_read(values) else ["n"]
        if has_rows := not name.endswith("packed"):
            unused += [] if B in sizes_in([*values, start]) else ["B"]
            unused += [] if STEPS.name in mentioned else ["steps"]
        members = [
            {"name": part.name, "comment": comment(part.about, WIDTH - 4),
             "value": self._text(part.value)}
            for part in parts
        ]  # fmt: skip
        return {
            "name": name, "rows": has_rows, "about": comment(about, WIDTH), "members": members,
            "sizes": self.sizes.declared(values, [B]), "start": self._text(start),
            "unused": unused,
        }  # fmt: skip

    def _rows(self, row: Row, rows: Expression, shape: str) -> list[Part]:
        """The rows of a kind, if the cell has a use for it."""
        if not row.blocks:
            return []
        blocks = " ".join(self.source.text(v) for v in row.blocks)
        about = f"({shape}, {self.sizes.text(row.width)}): {blocks}"
        return [Part(row.name, about, times(rows, self.sizes.checked(row.width)))]

    # ------------------------------------------------------------------ functions

    def _direction(self, what: str) -> Direction:
        return self.backward if what == "backward" else self.forward

    def _unreached(self) -> list[tuple[str, Expr]]:
        """Inputs that no gradient flows into, and their sizes: their derivative is zero."""
        written = {
            (v.name, v.time)
            for op in self.source.plan.backward.operations
            for v in op.writes
            if v.category == "adjoint"
        }
        return [
            (f"dx->{v.name}" if self.several else "dx", T * B * self.cell.size(v))
            for v in self.cell.inputs
            if (v.name, v.time) not in written
        ]

    def _text(self, e: Expression) -> str:
        return self.source.printer.text(e)


def _product(factors: Sequence[Expr], known: Mapping[Expr, str]) -> str:
    """A product in a macro, whose arguments may be anything."""
    return " * ".join(known.get(f, str(f) if f.is_number else f"({f})") for f in factors)


def _shape(*sizes: Expr) -> str:
    return f"({', '.join(str(n) for n in sizes)})"


def _members(values: list[str], names: list[str] | None = None) -> list[str]:
    """Initialisers of the members of a struct."""
    pairs = zip(names or values, values, strict=True)
    return [f".{name} = {value}" for name, value in pairs]


@dataclass(frozen=True)
class Part:
    """A part of a piece of memory: a member of a struct, which says where it begins. What has no
    ``count`` begins where the next part does.
    """

    name: str
    about: str
    count: Expression | None = None

    @property
    def value(self) -> Expression:
        return USED if self.count is None else Call("take", (Address(USED), self.count), "size")


def _few(names: list[str], most: int = 8) -> str:
    return " ".join([*names[:most], "…"] if len(names) > most else names)
