"""The C target: one header and one source, C99, no allocation, no globals.

The source follows the plan: stages, packed weights, a tape, and tiles of steps that are worked on
together, so that the workspace does not grow with the sequence. This module puts the files
together; what they say about the cell's mathematics is made in ``c_statements``.
"""

from __future__ import annotations

import re
from typing import Any

import sympy
from sympy import Expr, Integer

from ..cell import Cell
from ..errors import GenerateError
from ..operations import STEP, ZERO, B, K, T
from ..printing import one_line
from ..symbols import Matrix, Size, Vector
from .c_expressions import (
    HELPERS,
    LIBM,
    POWERS,
    WIDTH,
    broken,
    comment,
    joined,
    mentions,
    monomials,
    paragraph,
    plus,
    times,
    top_comment,
    without_comments,
)
from .c_statements import Direction, Row, Source
from .comments import header
from .rendering import environment

OPTIONS = frozenset({"dtype"})
TAKES_SIZES = True

# A file of one of these names would stand in the way of #include <math.h>.
_STANDARD_HEADERS = frozenset(
    """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal
    stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads
    time uchar wchar wctype""".split()
)
# Macros of the headers that we or our callers include: no variable can have one of these names.
_MACRO = re.compile(
    r"(M|FP)_[A-Z0-9_]+|HUGE(_VAL\w*)?|SNAN\w*|MAXFLOAT|DOMAIN|SING|OVERFLOW|UNDERFLOW|PLOSS|TLOSS"
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
    options = f" --dtype {dtype}" + "".join(f" --size {k}={v}" for k, v in sizes.items())
    about = [
        line if line.startswith("Checksum") else line[: _indent(line)] + one_line(line)
        for line in header(cell, "c", source, options)
    ]
    stem = f"{cell.name}_cell" if cell.name in _STANDARD_HEADERS else cell.name
    context = _Files(cell, dtype, sizes).context() | {"stem": stem, "about": top_comment(about)}
    templates = environment("c")
    templates.filters["paragraph"] = paragraph
    return {
        f"{stem}.h": templates.get_template("header.h.j2").render(context),
        f"{stem}.c": templates.get_template("source.c.j2").render(context),
    }


def _refuse_macros(cell: Cell) -> None:
    symbols = {s for e in cell.equations for s in e.atoms(Vector, Matrix)} | set(cell.sizes)
    for name in sorted(s.name for s in symbols):
        if _MACRO.fullmatch(name):
            raise GenerateError(
                f"{name} is a macro of C's standard headers: nothing else can have that name in C\n"
                "  hint: rename it in the equations"
            )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Files:
    """What the templates place: names, and lines that are ready."""

    def __init__(self, cell: Cell, dtype: str, fixed: dict[str, int]) -> None:
        self.cell, self.fixed, self.dtype = cell, fixed, dtype
        self.source = Source(cell, dtype, fixed)
        plan = self.source.plan
        self.kept = self.source.row("kept", "tape", self.source.rank)
        self.forward = Direction(self.source, "forward", plan.forward, self.kept)
        self.backward = Direction(self.source, "backward", plan.backward, self.kept)
        self.several = len(cell.inputs) > 1

    def context(self) -> dict[str, Any]:
        """The variables of the templates."""
        cell, source = self.cell, self.source
        lines = {"forward": self.forward.lines(), "backward": self.backward.lines()}
        lines["step"] = self.forward.one_step().lines()
        output = self._output()
        return {
            "name": cell.name,
            "NAME": cell.name.upper(),
            "real": {"float32": "float", "float64": "double"}[self.dtype],
            "suffix": source.expressions.suffix,
            "sizes": [self._about_size(n) for n in cell.sizes],
            "parameters": [self._parameter(p) for p in cell.parameters],
            "constants": [v.name for v in cell.constants],
            "inputs": [self._given(v) for v in cell.inputs],
            "x": self._about_x(),
            "masks": [self._given(v) for v in cell.masks],
            "states": [self._state(s) for s in cell.states],
            "output": output,
            "several": self.several,
            "heads": self._heads(),
            "example": self._example(),
            "macros": self._macros(),
            "wrong_sizes": self._wrong_sizes(),
            "arrays": self._arrays(),
            "required": self._required(),
            "memory": [tape := self._tape(), self._work(self.forward), self._work(self.backward)],
            "tape": tape,
            "pack": {d.name: d.pack_calls for d in (self.forward, self.backward)},
            "lines": lines,
            "locals": {what: self._locals(what, lines[what], output) for what in lines},
            "check_sizes": self.source.declared_sizes(a["count"] for a in self._arrays()),
            "unreached": self._unreached(),
            "stages": [stage.context() for stage in source.stages],
            **self._needs(lines, output),
        }

    def _needs(
        self, lines: dict[str, dict[str, list[str]]], output: dict[str, Any]
    ) -> dict[str, Any]:
        """Which helpers, kernels and headers the text turns out to need: there are no others."""
        stages = without_comments(line for stage in self.source.stages for line in stage.body)
        calls = [line for part in lines.values() for region in part.values() for line in region]
        calls += output["copied"]["forward"]
        called = set(re.findall(r"\b(\w+)\(", stages))
        helpers = called & {*HELPERS.values(), *POWERS.values()}
        suffix = self.source.expressions.suffix
        libm = called & {f"{f}{suffix}" for f in (*LIBM.values(), "sqrt", "pow")}
        limits = re.search(r"\b(INFINITY|NAN)\b", stages)
        return {
            "helpers": helpers,
            "kernels": set(re.findall(r"\b(\w+)\(", without_comments(calls))),
            "packs": bool(self.forward.packs or self.backward.packs),
            "uses_math": bool(libm or limits or helpers & {"sigmoid", "softplus"}),
        }

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
        count = " * ".join(self.source.size(n) for n in shape)
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
            "pointer": self.source.pointer_to(s),
            "count": times("B", self.source.size(size)),
            "next": self._carry(s, "next"),
            "prev": self._carry(s, "prev"),
        }

    def _carry(self, s: Vector, way: str) -> str:
        return self.source.names((way, s.name), f"d{s.name}_{way}")

    def _output(self) -> dict[str, Any]:
        """The output, and how y is copied where no stage writes it."""
        v, size = self.cell.output, self.cell.size(self.cell.output)
        width = self.source.size(size)
        to = f"y + {times('t0 * B', width)}"
        forward: list[str] = []
        single: list[str] = []
        if v.category == "state":
            start = f"{self.source.pointer_to(v)} + {times('B', width)}"
            count = f"{times('B', width)} * sizeof(real)"
            forward = broken("memcpy(", [to, start, f"steps * {count}"], ");")
            single = ["if (y != NULL) {", f"    memcpy(y, {start}, {count});", "}"]
        elif v in self.kept.blocks:
            start = plus("kept", self.source.size(self.kept.offset(v)))
            stride = self.source.size(self.kept.width)
            forward = broken("copy_rows(", ["steps * B", width, start, stride, to], ");")
            single = broken("copy_rows(", ["B", width, start, stride, "y"], ");")
        return {
            "name": v.name, "is_state": v.category == "state", "row": _shape(B, size),
            "shape": _shape(T, B, size), "copied": {"forward": forward, "step": single},
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
        return {
            what: broken(f"{n}_status {n}_{what}(", items, ")", WIDTH - 1)
            for what, items in arguments.items()
        }

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
        cell, kept = self.cell, self.kept.width
        states = sum((cell.size(s) for s in cell.states), ZERO)
        tape = (T + 1) * B * states + T * B * kept
        rows = {d.name: K * B * d.tile.width + B * d.scratch.width
                for d in (self.forward, self.backward)}  # fmt: skip
        forward = tape.subs(T, K) + rows["forward"]
        backward = rows["backward"] + self.backward.packed + 2 * B * states
        needs = [
            ("TAPE_SIZE(T, B", tape),
            ("FORWARD_WORK_SIZE(T, B", forward + self.forward.packed),
            ("STEP_WORK_SIZE(B", forward.subs(K, 1)),
            ("BACKWARD_WORK_SIZE(T, B", backward),
        ]
        sizes = "".join(f", {n}" for n in cell.sizes if n.name not in self.fixed)
        return [
            line
            for head, count in needs
            for line in self._macro(f"{cell.name.upper()}_{head}{sizes})", count or Integer(1))
        ]

    def _macro(self, head: str, count: Expr) -> list[str]:
        known = {K: f"{self.cell.name.upper()}_TILE(T, B)"}
        fixed = {n: self.fixed[n.name] for n in self.cell.sizes if n.name in self.fixed}
        terms = [
            "(size_t)" + " * ".join(known.get(f, str(f) if f.is_number else f"({f})") for f in m)
            for m in monomials(count.subs(fixed))
        ]
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

    def _arrays(self) -> list[dict[str, Any]]:
        """The sizes of the arrays that callers hand over, but for those that others include."""
        cell = self.cell
        named: dict[Expr, list[str]] = {}
        for v in (*cell.inputs, *cell.masks):
            named.setdefault(T * B * cell.size(v), []).append(v.name)
        named.setdefault(T * B * cell.size(cell.output), []).append("y")
        for p in cell.parameters:
            named.setdefault(sympy.Mul(*cell.shape(p)), []).append(p.name)
        largest = [n for n in named if not any(m != n and sympy.denom(m / n) == 1 for m in named)]
        return [{"count": self.source.checked(n), "names": _few(named[n])} for n in largest]

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
        missing = {a: f"{a} == NULL" for a in ("y", "tape", "dy", "work")}
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
        }
        stateless = {
            "forward": ["initial", "final"], "step": ["state", "next"],
            "backward": ["dfinal", "dinitial"],
        }  # fmt: skip
        checks, unused = {}, {}
        for what, names in wanted.items():
            items = [missing[a] for a in names if a in missing]
            checks[what] = joined("||", "if (", items, ") {")
            unused[what] = [a for a in names if a in ("p", "g") and a not in missing]
            unused[what] += [] if cell.states else stateless[what]
        return {"functions": functions, "checks": checks, "unused": unused}

    # ------------------------------------------------------------------ memory

    def _tape(self) -> dict[str, Any]:
        about = (
            "Where the parts of a tape for some steps begin. Without a tape, that of one tile is "
            "the first part of the workspace of forward."
        )
        members = []
        for s in self.cell.states:
            size, pointer = self.cell.size(s), self.source.pointer_to(s)
            shape = f"(steps + 1, B, {size}): {self.source.text(s.at(0))}, the initial state first"
            count = f"times(plus(times(steps, B), B), {self.source.checked(size)})"
            members.append(_member(pointer, shape, count))
        members += self._rows(self.kept, "times(steps, B)", "steps, B")
        return self._memory("tape", about, members)

    def _work(self, direction: Direction) -> dict[str, Any]:
        source, name = self.source, direction.name
        about = f"Where the parts of the workspace of {name} begin"
        rows = self._rows(direction.tile, "times(steps, B)", "steps, B")
        rows += self._rows(direction.scratch, "B", "B")
        packs = [
            _member(p["name"], f"{p['shape']}: {p['holds']}", p["count"])
            for p in direction.packs.values()
        ]
        if direction is self.forward:
            single = {
                "name": "one_step", "value": "used",
                "comment": comment("what a single step needs: all but packed weights", WIDTH - 4),
            }  # fmt: skip
            about += ", after those of a tape."
            start = "tape_parts(n, steps).total"
            return self._memory(name, about, [*rows, single, *packs], start)
        carries = []
        for s in self.cell.states:
            size = self.cell.size(s)
            for way, what in (
                ("next", f"δ{s.name}⁺, which comes from step t+1"),
                ("prev", f"δ{s.name}⁺[t-1], which goes to step t-1"),
            ):
                count = f"times(B, {source.checked(size)})"
                carries.append(_member(self._carry(s, way), f"(B, {size}): {what}", count))
        return self._memory(name, f"{about}.", [*rows, *carries, *packs])

    def _memory(
        self, name: str, about: str, members: list[dict[str, Any]], start: str = ""
    ) -> dict[str, Any]:
        """One piece of memory. None is empty, so that a size of 0 can mean that there is none."""
        values = [m["value"] for m in members]
        start = start or ("0" if members else "1")
        code = "\n".join([*values, start])
        sizes = self.source.declared_sizes(values)
        unused = [] if sizes or mentions("n", code) else ["n"]
        unused += [] if mentions("steps", code) else ["steps"]
        return {
            "name": name, "about": comment(about, WIDTH), "members": members, "sizes": sizes,
            "start": start, "unused": unused,
        }  # fmt: skip

    def _rows(self, row: Row, rows: str, shape: str) -> list[dict[str, Any]]:
        """The rows of a kind, if the cell has a use for it."""
        if not row.blocks:
            return []
        blocks = " ".join(self.source.text(v) for v in row.blocks)
        about = f"({shape}, {self.source.size(row.width)}): {blocks}"
        return [_member(row.name, about, f"times({rows}, {self.source.checked(row.width)})")]

    # ------------------------------------------------------------------ functions

    def _locals(
        self, what: str, lines: dict[str, list[str]], output: dict[str, Any]
    ) -> dict[str, Any]:
        """What a function declares: sizes, and pointers into memory, as far as they are used."""
        direction = self.backward if what == "backward" else self.forward
        body = [line for region in lines.values() for line in region]
        body += output["copied"].get(what, [])
        pointers = self._pointers(what, without_comments(body))
        packs = [] if what == "step" else list(direction.packs.values())
        parts = [row.name for row in (direction.tile, direction.scratch) if row.blocks]
        counted = [*body, *pointers, *(direction.pack_calls if packs else [])]
        counted += [self.source.size(self.cell.size(s)) for s in self.cell.states]
        if what == "backward":
            counted += [self._parameter(p)["count"] for p in self.cell.parameters]
            counted += [v["count"] for v in self._unreached()]
        uses_t = mentions("t", without_comments(lines[STEP]))
        return {
            "sizes": self.source.declared_sizes(counted, ["B"] if what == "step" else ["T", "B"]),
            "pointers": pointers,
            "work": [
                f"real *const {name} = work + in_work.{name};"
                for name in (*parts, *(p["name"] for p in packs))
            ],
            "uses_t": uses_t,
            "uses_t0": uses_t or mentions("t0", without_comments([*body, *pointers])),
        }

    def _pointers(self, what: str, code: str) -> list[str]:
        """Pointers to states and to what is kept, in the tape or in the workspace."""
        memory, const, start = {
            "forward": ("memory", "", "first * B"),
            "step": ("work", "", ""),
            "backward": ("tape", "const ", "t0 * B"),
        }[what]
        pointers = []
        rows: list[Vector | Row] = [*self.cell.states, self.kept]
        for row in rows:
            name, width = self.source.pointer_to(row), self.source.size(self.source.width(row))
            loaded = row is not self.kept and what != "backward"
            if loaded or mentions(name, code):
                shift = f" + {times(start, width)}" if start else ""
                pointers.append(f"{const}real *const {name} = {memory} + in_tape.{name}{shift};")
        return pointers

    def _unreached(self) -> list[dict[str, str]]:
        """Inputs that no gradient flows into: their derivative is zero."""
        written = {
            (v.name, v.time)
            for op in self.source.plan.backward.operations
            for v in op.writes
            if v.category == "adjoint"
        }
        return [
            {
                "pointer": f"dx->{v.name}" if self.several else "dx",
                "count": times("T * B", self.source.size(self.cell.size(v))),
            }
            for v in self.cell.inputs
            if (v.name, v.time) not in written
        ]


def _shape(*sizes: Expr) -> str:
    return f"({', '.join(str(n) for n in sizes)})"


def _members(values: list[str], names: list[str] | None = None) -> list[str]:
    """Initialisers of the members of a struct."""
    pairs = zip(names or values, values, strict=True)
    return [f".{name} = {value}" for name, value in pairs]


def _member(name: str, about: str, count: str) -> dict[str, Any]:
    """A part of a piece of memory: the member of a struct that says where it begins."""
    return {"name": name, "comment": comment(about, WIDTH - 4), "value": f"take(&used, {count})"}


def _few(names: list[str], most: int = 8) -> str:
    return " ".join([*names[:most], "…"] if len(names) > most else names)
