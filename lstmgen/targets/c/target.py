"""The C target: C99, no allocation, no globals.

A header and a source for each cell, beside a runtime that all cells share. The source follows the
plan: stages, packed weights, a tape, and tiles of steps that are worked on together, so that the
workspace does not grow with the sequence. This module puts the files together:

=============== ==================================================================
``lowering``    the plan as a tree of statements, and its functions for stages
``memory``      what lies where
``passes``      the functions that run a pass over a slice of the batch
``checks``      what is refused
``interface``   what callers see
``runtime``     what all cells share
=============== ==================================================================
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import GenerateError
from ...language.cell import Cell
from ...language.matrices import Matrix
from ...language.symbols import Vector
from ...printing.orders import one_line
from ..comments import header
from ..identity import fingerprint
from ..rendering import environment
from ..sealing import PLACEHOLDER
from . import runtime
from .checks import Checks
from .interface import Interface, calls, heads, messages, own_heads, running
from .lines import WIDTH, comment, paragraph, top_comment
from .lowering import lower
from .memory import Memory
from .passes import Passes
from .source import Source
from .tree import Function, together
from .vocabulary import texts

PLAN: dict[str, bool] = {}  # as it is without options
OPTIONS = frozenset({"dtype", "single_file"})
OF_COMPILE = frozenset({"threads"})
TAKES_SIZES = True

# A file of one of these names would stand in the way of #include <math.h>.
_STANDARD_HEADERS = frozenset(
    """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal
    stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads
    time uchar wchar wctype""".split()
)
_INCLUDE = f'#include "{runtime.FILE}"'
# Macros of the headers that we or our callers include: no variable can have one of these names.
_MACRO = re.compile(
    r"LSTMGEN_\w+|(M|FP)_[A-Z0-9_]+|HUGE(_VAL\w*)?|SNAN\w*|MAXFLOAT|DOMAIN|SING|OVERFLOW|UNDERFLOW|PLOSS|TLOSS"
    r"|MATH_ERR\w+|math_errhandling|U?INT\w*_(MAX|MIN|WIDTH)|(SIZE|PTRDIFF|WCHAR|WINT)_\w+|I"
)


def files(
    cell: Cell, *, dtype: str = "float64", source: str = "", single_file: bool = False, **sizes: int
) -> dict[str, str]:
    """The header, the source and the runtime: ``{"lstm.h": text, "lstm.c": text, …}``.

    With ``single_file``, the runtime stands in the source. ``sizes`` become compile-time constants;
    the sizes that callers pass have to agree with them.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise GenerateError(f"the size {name} is a positive whole number, not {value!r}")
    if dtype not in runtime.BITS:
        raise GenerateError(f"the C target has {' and '.join(runtime.BITS)}, not {dtype}")
    if not isinstance(single_file, bool):
        raise GenerateError(f"single_file is True or False, not {single_file!r}")
    _refuse_macros(cell)
    _refuse_members(cell)
    options = f" --dtype {dtype}" + "".join(f" --size {k}={v}" for k, v in sizes.items())
    options += " --single-file" if single_file else ""
    about = tidy(header(cell, "c", source, options))
    taken = {*_STANDARD_HEADERS, runtime.FILE.removesuffix(".h")}
    stem = f"{cell.name}_cell" if cell.name in taken else cell.name
    templates = environment("c")
    templates.filters["paragraph"] = paragraph
    parts = Parts(cell, dtype, sizes)
    shared = {"stem": stem, "about": top_comment(about), "generation": parts.generation()}
    shared["runtime"] = runtime.body().rstrip() if single_file else _INCLUDE
    made = {
        f"{stem}.h": templates.get_template("header.h.j2").render(parts.header() | shared),
        f"{stem}.c": templates.get_template("source.c.j2").render(parts.source() | shared),
    }
    return made if single_file else made | {runtime.FILE: runtime.text()}


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
    learned = {v.name for v in cell.learned}
    params = {v.name for v in (*cell.parameters, *cell.constants)}
    sizes = {n.name for n in cell.sizes}
    for name, taken, struct in (
        ("packed", params, "params"), ("accumulate", learned, "grads"), ("threads", sizes, "sizes"),
        ("serial", sizes, "sizes"),
    ):  # fmt: skip
        if name in taken:
            raise GenerateError(
                f"{name} is a member that lstmgen adds to {cell.name}_{struct}\n"
                "  hint: rename it in the equations"
            )


def tidy(about: list[str]) -> list[str]:
    """Lines of a comment, in which nothing of what users wrote ends it."""
    return [
        line if PLACEHOLDER in line else line[: _indent(line)] + one_line(line) for line in about
    ]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class Parts:
    """What the templates place: the parts of one cell's code, in the order in which they arise.

    With an ``owner``, the code is a part of that one's source (``embedded``).
    """

    def __init__(self, cell: Cell, dtype: str, fixed: dict[str, int], owner: str = "") -> None:
        self.cell = cell
        self._source = Source(cell, dtype, fixed, owner)
        self.forward, self.backward = lower(self._source)
        # statements say which parameters are packed, and so what there is in memory
        self.memory = Memory(self._source, self.forward, self.backward)
        self._checks = Checks(self._source, self.memory)

    def generation(self) -> str:
        """What a header and a source have in common that fit, whatever their comments say: the
        tape, whose layout and maker are the cell's, and the templates of both.
        """
        return fingerprint(self._checks.fingerprint(), *self.memory.macros(), *texts())

    def header(self) -> dict[str, Any]:
        """The variables of the header."""
        return Interface(self._source, self.memory).context()

    def source(self) -> dict[str, Any]:
        """The variables of the source."""
        cell, code = self.cell, self.code()
        return {
            **code,
            "bits": runtime.BITS[self._source.dtype],
            "runtime_generation": runtime.generation(),
            "heads": code["heads"] | heads(cell),
            "parameters": bool(cell.parameters),
            "several": len(cell.inputs) > 1,
            "messages": messages(cell),
            "calls": calls(cell),
            "running": running(cell),
            "buffers": [self.memory.size_of(buffer) for buffer in self.memory.buffers],
            **self._checks.context(),
            "has_once": bool(self.backward.fixed.back),
        }

    def code(self, backward: bool = True) -> dict[str, Any]:
        """The variables of the static functions that do the work; or of those for forward alone."""
        source, memory = self._source, self.memory
        directions = (self.forward, self.backward)[: 1 + backward]
        real = source.printer.name("real")
        passes = Passes(source, self.forward, self.backward, memory).context()
        arranging = {d.name: passes["arranging"][d.name] for d in directions}
        ours = memory.regions[: None if backward else 3]
        layouts = [r for r in memory.layouts if r in (*ours, memory.tile)]
        once = self.forward.once if backward else self.forward.once[:1]
        return {
            **passes,
            "name": source.name,
            "NAME": source.name.upper(),
            "real": real,
            "direct": _about_direct(self.cell),
            "heads": own_heads(source.name, real),
            "call": self._arrays(real),
            "regions": [memory.layout(r) for r in layouts],
            "arranging": arranging,
            "stages": [
                *(self._stage(s.function) for s in once),
                *(self._stage(s.function) for d in directions for s in d.stages.values()),
            ],
        }

    def _stage(self, function: Function) -> dict[str, list[str]]:
        """The function of a stage: its head, and what it does to a row."""
        printer, sizes = self._source.printer, self._source.sizes
        fixed = together(sizes.fixed_in(function.statements))
        return {
            "about": comment(function.about, WIDTH),
            "head": printer.head(function),
            "around": printer.lines([*fixed, *function.around]),
            "body": printer.lines([*function.views, *function.body], 8),
        }

    def _arrays(self, real: str) -> list[str]:
        """The arrays of a call, as members of its struct."""
        n = self._source.name
        read, written = ["*kept", "*packed"], ["*tape", "*work"]
        structs: list[str] = []
        if self.backward.fixed.back:  # what backward packed, and what it makes of that
            structs.append(f"{real} *once;")
        if len(self.cell.outputs) > 1:
            structs += [f"const {n}_outputs *y;", f"const {n}_output_grads *dy;"]
        else:
            read, written = ["*dy", *read], ["*y", *written]
        if len(self.cell.inputs) > 1:
            structs += [f"const {n}_inputs *x;", f"const {n}_input_grads *dx;"]
        else:
            read = ["*x", *read]
            written.insert(len(written) - 2, "*dx")
        structs += [f"const {n}_masks *m;"] if self.cell.masks else []
        if self._source.is_embedded:
            written += ["*sums"] if self.memory.sums else []
            structs.append("int begun, accumulate;")
        return [f"const {real} {', '.join(read)};", f"{real} {', '.join(written)};", *structs]


def _about_direct(cell: Cell) -> str:
    """What Δ means in comments: what the loss does to an output itself."""
    if len(cell.outputs) > 1:
        return "Δv that by the output v alone"
    return f"Δ{cell.output.name} that by the output alone"
