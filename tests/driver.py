"""Two ways to run generated C on the numbers of a case, and to compare with the NumPy module.

A C program reads the numbers from a file, has buffers of exactly their size, and runs under
whatever watches it; it is valid C99 and C++. A shared library serves many cases, once compiled.

One program takes any number of cells and cases::

    sources = write(cases, folder)  # the cells, main.c and in.bin
    build(folder, sources, "clang", "-O1", *UNINITIALISED)
    execute(folder)  # fails with what a sanitizer says
    compare(cases, folder, 1e-12)

How it gets its memory is for flags to say, of which these are the usual ones:

``POISONED``
    AddressSanitizer and UBSan; every buffer is full of NaN before anything is written to it.
``UNINITIALISED``
    MemorySanitizer (clang alone): every buffer is as ``malloc`` leaves it, and nothing may be
    decided by, or come out as, what nobody has written.
``AT_THE_END``, ``AT_THE_START``
    Every buffer ends where a page begins that cannot be touched, or begins where one ends, to the
    byte (POSIX): what a sanitizer cannot see, such as what ``memcpy`` does in a library, crashes.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sympy import sympify

import lstmgen
from lstmgen import Cell
from lstmgen.language.symbols import Vector
from lstmgen.runtime.native import declarations
from lstmgen.targets.c import runtime
from lstmgen.verification.evaluation import number

_WATCHED = ("-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
POISONED = ("-DPOISON", "-fsanitize=address,undefined", *_WATCHED)
UNINITIALISED = ("-fsanitize=memory", *_WATCHED)
AT_THE_END = ("-DPOISON", "-DGUARD_END")
AT_THE_START = ("-DPOISON", "-DGUARD_START")
WARNINGS = (
    "-Wall -Wextra -Wpedantic -Wconversion -Wdouble-promotion -Wshadow -Wstrict-prototypes "
    "-Wmissing-prototypes -Wcast-qual -Werror"
).split()

_TOP = """\
#if defined(GUARD_END) || defined(GUARD_START)
#define _DEFAULT_SOURCE
#define _DARWIN_C_SOURCE
#include <sys/mman.h>
#include <unistd.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
{includes}
static void *owned[65536];
static size_t count = 0;

#if defined(GUARD_END) || defined(GUARD_START)
/* Pages between two that nobody can touch. They are never given back. */
static void *fresh(size_t bytes)
{{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
    char *const made = (char *)mmap(NULL, size + 2 * page, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANON, -1, 0);
    if (made == (char *)MAP_FAILED || mprotect(made, page, PROT_NONE) != 0
        || mprotect(made + page + size, page, PROT_NONE) != 0) {{
        abort();
    }}
#ifdef POISON
    memset(made + page, 0xff, size);
#endif
#ifdef GUARD_END
    return made + page + (size - bytes);
#else
    return made + page;
#endif
}}
#else
/* What malloc gives begins at a multiple of 16; callers need not be so kind. */
static void *fresh(size_t bytes)
{{
    char *const made = (char *)malloc(bytes + sizeof(double));
    if (made == NULL) {{
        abort();
    }}
#ifdef POISON
    memset(made, 0xff, bytes + sizeof(double)); /* NaN: to compute with it would be seen */
#endif
    owned[count++] = made;
    return made + sizeof(double);
}}
#endif

static void *given(FILE *in, size_t bytes)
{{
    void *const made = fresh(bytes);
    if (fread(made, 1, bytes, in) != bytes) {{
        abort();
    }}
    return made;
}}

static void *copy(const void *from, size_t bytes)
{{
    void *const made = fresh(bytes);
    memcpy(made, from, bytes);
    return made;
}}

static void put(FILE *out, const void *from, size_t bytes)
{{
    if (fwrite(from, 1, bytes, out) != bytes) {{
        abort();
    }}
}}

static void expect(int status)
{{
    if (status != 0) {{
        abort();
    }}
}}
{cells}
int main(int argc, char **argv)
{{
    FILE *const in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    FILE *const out = in != NULL ? fopen(argv[2], "wb") : NULL;
    if (out == NULL) {{
        return 2;
    }}
{calls}
    fclose(in);
    fclose(out);
    while (count > 0) {{
        free(owned[--count]);
    }}
    return 0;
}}
"""


@dataclass
class Case:
    """A cell, its sizes by name with T and B, and numbers for all that goes in.

    ``same`` is the same cell for NumPy, where the names of sizes are none for NumPy.
    """

    cell: Cell
    sizes: dict[str, int]
    dtype: str = "float64"
    same: Cell | None = None

    def __post_init__(self) -> None:
        # every number of a case follows from its name and sizes
        seed = [*self.cell.name.encode(), *self.sizes.values()]
        rng = np.random.default_rng(seed)
        cell, lead = self.cell, ("T", "B")

        def numbers(*shape: object) -> Any:
            return rng.normal(size=tuple(map(self.number, shape))).astype(self.dtype) * 0.7

        self.params = {p.name: numbers(*cell.shape(p)) for p in cell.parameters}
        real = np.dtype(self.dtype).type
        self.constants = {c.name: float(real(cell.initial(c) or 0.75)) for c in cell.constants}
        self.x = {v.name: numbers(*lead, *cell.shape(v)) for v in cell.inputs}
        self.masks = {v.name: numbers(*lead, *cell.shape(v)) for v in cell.masks}
        self.state = {s.name: numbers("B", *cell.shape(s)) for s in cell.states}
        self.dy = {v.name: numbers(*lead, *cell.shape(v)) for v in cell.outputs}
        self.dstate = {s.name: numbers("B", *cell.shape(s)) for s in cell.states}

    def number(self, size: object) -> int:
        return self.sizes[size] if isinstance(size, str) else number(sympify(size), self.sizes)

    def bytes_in(self) -> bytes:
        arrays = [*self.params.values(), *self.constants.values(), *self.x.values()]
        arrays += [*self.masks.values(), *self.state.values()]
        arrays += [*self.dy.values(), *self.dstate.values()]
        return b"".join(np.asarray(a, self.dtype).tobytes() for a in arrays)

    # ------------------------------------------------------------------ what should come out

    @cached_property
    def expected(self) -> dict[str, Any]:
        """All that comes out, from the NumPy module: in double precision, whatever goes in."""
        return dict(self._expected())

    def _expected(self) -> Iterator[tuple[str, Any]]:
        module = reference(self.same or self.cell)
        xs, filled = _double(self.x), _double(self.masks)
        x = xs if len(xs) > 1 else next(iter(xs.values()))
        masks = {"masks": filled} if filled else {}
        params = {**_double(self.params), **self.constants}
        dys, initial, dstate = _double(self.dy), _double(self.state), _double(self.dstate)
        dy = dys if len(dys) > 1 else next(iter(dys.values()))
        y, state, tape = module.forward(params, x, initial or None, **masks)
        grads, dx, dinitial = module.backward(params, tape, dy, dstate or None)
        ys = self.by_output(y)
        for name, array in ys.items():
            yield f"y {name}", array
        for kind, arrays in (("state", state), ("grads", grads), ("dx", _dict(dx)),
                             ("dinitial", dinitial)):  # fmt: skip
            for name in self._names(kind):
                yield f"{kind} {name}", arrays[name]
        sized = all(map(self._told, self.cell.states))
        zeros = {k: np.zeros_like(s) for k, s in initial.items()} or None
        y0, _, tape = module.forward(params, x, None if sized else zeros, **masks)
        for name, array in self.by_output(y0).items():
            yield f"y {name} from zeros, no tape", array
        grads, dx, _ = module.backward(params, tape, dy, None)
        for kind, arrays in (("grads", grads), ("dx", _dict(dx))):
            for name in self._names(kind):
                yield f"{kind} {name}, from zeros", arrays[name]
        for name in self._names("grads"):
            yield f"grads {name}, added", 2 * grads[name]
        for left_out in dys if len(dys) > 1 else ():
            others = {k: a for k, a in dys.items() if k != left_out}
            grads, dx, _ = module.backward(params, tape, others, None)
            for kind, arrays in (("grads", grads), ("dx", _dict(dx))):
                for name in self._names(kind):
                    yield f"{kind} {name}, without dy {left_out}", arrays[name]
        for what in ("in place", "streamed"):
            for name in self._names("state"):
                yield f"state {name}, {what}", state[name]
        for name, array in ys.items():
            yield f"last y {name}, streamed", array[-1]

    def by_output(self, y: Any) -> dict[str, Any]:
        """What a module returned as y, by the names of outputs."""
        return y if len(self.dy) > 1 else {self.cell.output.name: y}

    def _told(self, s: Vector) -> bool:
        """Whether others than the state tell its sizes."""
        cell = self.cell
        others = (*cell.parameters, *cell.inputs, *cell.masks)
        told = {n for p in others for n in cell.shape(p)}
        return cell.size(s).free_symbols <= told

    def _names(self, kind: str) -> list[str]:
        cell = self.cell
        return {
            "state": [s.name for s in cell.states], "dinitial": [s.name for s in cell.states],
            "grads": [p.name for p in cell.learned], "dx": [v.name for v in cell.inputs],
        }[kind]  # fmt: skip

    # ------------------------------------------------------------------ the program

    def function(self, number: int) -> str:
        """The C function that runs the cell in all ways."""
        cell, n = self.cell, self.cell.name
        real, several = f"{n}_real", len(cell.inputs) > 1
        lines = [f"{n}_sizes n;"]
        lines += [f"n.{name} = {value};" for name, value in self.sizes.items()]
        lines.append("n.threads = n.serial = 0;")

        def count(*shape: object) -> str:
            return " * ".join(f"{self.number(size)}" for size in shape) + f" * sizeof({real})"

        def array(expression: str, *shape: object) -> str:
            return f"({real} *){expression}{count(*shape)})"

        def struct(kind: str, name: str, members: dict[str, str]) -> str:
            if not members:
                return "NULL"
            lines.append(f"{n}_{kind} {name};")
            lines.extend(f"{name}.{k} = {v};" for k, v in members.items())
            return f"&{name}"

        def put(struct: str, members: dict[str, str]) -> None:
            lines.extend(f"put(out, {struct}.{k}, {v});" for k, v in members.items())

        shape = {p.name: cell.shape(p) for p in cell.parameters}
        rows = {s.name: ("B", *cell.shape(s)) for s in cell.states}
        wide = {v.name: ("T", "B", *cell.shape(v)) for v in (*cell.inputs, *cell.masks)}
        out = {v.name: ("T", "B", *cell.shape(v)) for v in cell.outputs}
        several_outputs = len(out) > 1
        sized = {k: count(*v) for k, v in {**shape, **rows, **wide}.items()}
        inputs, masks = [v.name for v in cell.inputs], [v.name for v in cell.masks]

        values = {k: array("given(in, ", *s) for k, s in shape.items()}
        values |= {c.name: f"*{array('given(in, ', 1)}" for c in cell.constants}
        p = struct("params", "p", values | ({"packed": "NULL"} if shape else {}))
        x = {k: array("given(in, ", *wide[k]) for k in inputs}
        x_arg = struct("inputs", "x", x) if several else "x"
        if not several:
            lines.append(f"const {real} *x = {x[inputs[0]]};")
        m = struct("masks", "m", {k: array("given(in, ", *wide[k]) for k in masks})
        given = ["&n", p, x_arg, *([m] if masks else [])]
        initial = struct("state", "initial", {k: array("given(in, ", *s) for k, s in rows.items()})
        dy = {k: array("given(in, ", *s) for k, s in out.items()}
        dy_arg = struct("output_grads", "dy", dy) if several_outputs else "dy"
        if not several_outputs:
            lines.append(f"const {real} *dy = {next(iter(dy.values()))};")
        dfinal = struct("state", "dfinal", {k: array("given(in, ", *s) for k, s in rows.items()})
        fresh = {k: array("fresh(", *s) for k, s in rows.items()}
        final, dinitial = struct("new_state", "final", fresh), struct("new_state", "d0", fresh)
        learned = {p.name: shape[p.name] for p in cell.learned}
        own = {k: array("fresh(", *s) for k, s in learned.items()}
        g = struct("grads", "g", own | ({"accumulate": "0"} if learned else {}))
        dx = {k: array("fresh(", *wide[k]) for k in inputs}
        dx_arg = struct("input_grads", "dx", dx) if several else "dx"
        if not several:
            lines.append(f"{real} *dx = {dx[inputs[0]]};")
        y = {k: array("fresh(", *s) for k, s in out.items()}
        y_arg = struct("outputs", "y", y) if several_outputs else "y"
        if not several_outputs:
            lines.append(f"{real} *y = {next(iter(y.values()))};")
        for buffer in ("tape", "forward_work", "backward_work", "step_work", "packed"):
            lines.append(
                f"{real} *{buffer} = ({real} *)fresh({n}_{buffer}_size(&n) * sizeof({real}));"
            )

        def call(what: str, *arguments: str) -> None:
            lines.append(f"expect({n}_{what}({', '.join([*given, *arguments])}));")

        def put_outputs() -> None:
            if several_outputs:
                put("y", {k: count(*s) for k, s in out.items()})
            else:
                lines.extend(f"put(out, y, {count(*s)});" for s in out.values())

        def put_gradients() -> None:
            put("g", {k: sized[k] for k in learned})
            if several:
                put("dx", {k: sized[k] for k in inputs})
            else:
                lines.append(f"put(out, dx, {sized[inputs[0]]});")

        call("forward", initial, y_arg, final, "tape", "forward_work")
        call("backward", "tape", dy_arg, dfinal, g, dx_arg, dinitial, "backward_work")
        put_outputs()
        put("final", {k: sized[k] for k in rows})
        put_gradients()
        put("d0", {k: sized[k] for k in rows})

        call("forward", "NULL", y_arg, "NULL", "NULL", "forward_work")
        put_outputs()
        # in slices of the batch, as for several threads
        lines.append("n.threads = 3;")
        for buffer in ("forward_work", "backward_work"):
            lines.append(f"{buffer} = ({real} *)fresh({n}_{buffer}_size(&n) * sizeof({real}));")
        call("forward", "NULL", y_arg, "NULL", "tape", "forward_work")
        call("backward", "tape", dy_arg, "NULL", g, dx_arg, "NULL", "backward_work")
        put_gradients()
        # what is not asked for changes nothing of the rest, to the bit
        arrays = {f"g.{k}": sized[k] for k in learned}
        if several:
            arrays |= {f"dx.{k}": sized[k] for k in inputs}
        for left_out in ["dx", *(f"dx.{k}" for k in inputs if several)]:
            others = {k: v for k, v in arrays.items() if not k.startswith(left_out)}
            lines.append("{")
            for place, (k, size) in enumerate(others.items()):
                lines.append(f"const void *const kept_{place} = copy({k}, {size});")
                lines.append(f"memset({k}, 0xff, {size});")
            some = "NULL" if left_out == "dx" else dx_arg
            if left_out != "dx":
                lines.append(f"{real} *const kept = {left_out}; {left_out} = NULL;")
            call("backward", "tape", dy_arg, "NULL", g, some, "NULL", "backward_work")
            if left_out != "dx":
                lines.append(f"{left_out} = kept;")
            for place, (k, size) in enumerate(others.items()):
                lines.append(f"expect(memcmp(kept_{place}, {k}, {size}));")
            lines.append("}")
        if learned:  # once more, to what is there
            lines.append("g.accumulate = 1;")
            call("backward", "tape", dy_arg, "NULL", g, dx_arg, "NULL", "backward_work")
            put("g", {k: sized[k] for k in learned})
            lines.append("g.accumulate = 0;")
        for name in out if several_outputs else ():  # NULL stands for zeros
            lines.append(f"{{ const {real} *const kept = dy.{name}; dy.{name} = NULL;")
            call("backward", "tape", dy_arg, "NULL", g, dx_arg, "NULL", "backward_work")
            put_gradients()
            lines.append(f"dy.{name} = kept; }}")
        lines.append("n.threads = 0;")

        lines.append(f"expect({n}_pack(&n, {p}, packed));")
        if shape:
            lines.append("p.packed = packed;")

        current, following = "NULL", "NULL"
        for way in ("place", "stream"):  # the new state over the old one
            copies = {k: f"({real} *)copy(initial.{k}, {sized[k]})" for k in rows}
            following = struct("new_state", f"{way}_next", copies)
            current = struct("state", way, {k: f"{way}_next.{k}" for k in rows})
            if way == "place":
                call("forward", current, y_arg, following, "NULL", "forward_work")
                put("place", {k: sized[k] for k in rows})
        lines.append(f"for (size_t t = 0; t < {self.sizes['T']}; ++t) {{")
        here = []
        for kind, name, names in (("inputs", "x", inputs), ("masks", "m", masks)):
            if kind == "inputs" and not several:
                here.append(f"x + t * {self._row(cell.inputs[0])}")
            elif names:
                lines.append(f"{n}_{kind} {name}_t;")
                for v in (*cell.inputs, *cell.masks):
                    if v.name in names:
                        lines.append(f"{name}_t.{v.name} = {name}.{v.name} + t * {self._row(v)};")
                here.append(f"&{name}_t")
        states = [v.name for v in cell.outputs if v.category == "state"]
        if several_outputs:  # what is in the new state as well may be NULL
            lines.append(f"{n}_outputs y_t = y;")
            lines.extend(f"if (t % 2) y_t.{k} = NULL;" for k in states)
        one = "&y_t" if several_outputs else "y"
        one = f"t % 4 < 3 ? {one} : NULL" if len(states) == len(out) else one
        lines.append(
            f"expect({n}_step({', '.join(['&n', p, *here, current, one, following])}, step_work));"
        )
        lines.append("}")
        put("stream", {k: sized[k] for k in rows})
        for v in cell.outputs:
            last = count("B", *cell.shape(v))
            at = f"y.{v.name}" if several_outputs else "y"
            at = f"stream.{v.name}" if v.category == "state" else at
            lines.append(f"put(out, {at}, {last});")
        body = "\n    ".join(lines)
        return f"\nstatic void run_{number}(FILE *in, FILE *out)\n{{\n    {body}\n}}\n"

    def _row(self, v: Vector) -> int:
        return self.number("B") * self.number(self.cell.size(v))


def _dict(dx: Any) -> dict[str, Any]:
    return dx if isinstance(dx, dict) else _One(dx)


class _One(dict):  # type: ignore[type-arg]
    """The gradient of the only input, whatever its name."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def __missing__(self, key: str) -> Any:
        return self.value


@cache
def emitted(cell: Cell, dtype: str, sizes: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """The files of a cell, made once."""
    return lstmgen.generate(cell, "c", dtype=dtype, **dict(sizes))


@cache
def reference(cell: Cell) -> Any:
    """The NumPy module of a cell, made once."""
    return lstmgen.compile(cell, "numpy")


def write(cases: Sequence[Case], folder: Path, **sizes: int) -> list[str]:
    """Write the cells, the program and the numbers; the names of the C sources come back."""
    files: dict[str, str] = {}
    for case in cases:
        files |= emitted(case.cell, case.dtype, tuple(sizes.items()))
    program = _TOP.format(
        includes="".join(f'#include "{name}"\n' for name in files if _is_interface(name)),
        cells="".join(case.function(k) for k, case in enumerate(cases)),
        calls="\n".join(f"    run_{k}(in, out);" for k in range(len(cases))),
    )
    for name, text in {**files, "main.c": program}.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "in.bin").write_bytes(b"".join(case.bytes_in() for case in cases))
    return [name for name in files if name.endswith(".c")]


def _is_interface(name: str) -> bool:
    return name.endswith(".h") and name != runtime.FILE


def build(folder: Path, sources: Sequence[str], *command: str) -> None:
    """Compile what ``write`` wrote. Sources have the kernels of the runtime in common, of which
    each would compile its own.
    """
    shared: list[str] = []
    if len([name for name in sources if name.endswith(".c")]) > 1:
        shared = ["-DLSTMGEN_LINKED", *kernels(folder, *command)]
    run(folder, *command, *shared, *sources, "main.c", "-o", "run", "-lm")


def kernels(folder: Path, *command: str) -> list[str]:
    """Compile the kernels of the runtime, in float32 and in float64; the objects come back."""
    made = []
    for bits in ("32", "64"):
        which = ("-DLSTMGEN_LINKED", "-DLSTMGEN_KERNELS", f"-DLSTMGEN_REAL={bits}")
        made.append(f"kernels_{bits}.o")
        run(folder, *command, *which, "-x", "c", "-c", runtime.FILE, "-o", made[-1])
    return made


def compile_quietly(folder: Path, sources: Sequence[str], *command: str) -> None:
    """Compile sources to objects, with all warnings; the kernels of the runtime, which all have
    alike, in the first alone.
    """
    run(folder, *command, *WARNINGS, "-c", sources[0])
    if len(sources) > 1:
        run(folder, *command, *WARNINGS, "-DLSTMGEN_LINKED", "-c", *sources[1:])


def execute(folder: Path) -> None:
    """Run what ``build`` built."""
    run(folder, "./run", "in.bin", "out.bin")


def compare(cases: Sequence[Case], folder: Path, tolerance: float) -> None:
    """Hold what the program wrote against the NumPy modules."""
    written = (folder / "out.bin").read_bytes()
    at = 0
    for case in cases:
        found = {}
        for what, expected in case.expected.items():
            size = np.dtype(case.dtype).itemsize * expected.size
            found[what] = np.frombuffer(written[at : at + size], case.dtype)
            at += size
        check(case, found, tolerance)
    assert at == len(written)


def errors(case: Case, found: Mapping[str, Any]) -> dict[str, float]:
    """How far each array is from what NumPy computes, as a part of its largest number.

    Infinities and NaN have to be in the same places: else it is NaN or infinitely far.
    """
    return {
        what: _distance(found[what].reshape(expected.shape), expected)
        for what, expected in case.expected.items()
    }


def _distance(found: Any, expected: Any) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = expected.astype(found.dtype)  # where it is infinite, single precision may be, too
        expected = np.where(np.isfinite(narrow), expected, narrow)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        apart = np.where(same, 0, np.abs(found - expected))
    largest = np.max(np.abs(expected), initial=0, where=np.isfinite(expected))
    return float(np.max(apart, initial=0) / (1 + largest))


def check(case: Case, found: Mapping[str, Any], tolerance: float) -> None:
    for what, error in errors(case, found).items():
        assert error < tolerance, f"{case.cell.name} {case.sizes}, {what}: {error:.1e}"


# --------------------------------------------------------------------------- a library

_GUARD = 17  # odd, so that arrays begin nowhere in particular


class Library:
    """A cell compiled to a shared library, and called with arrays that lie between guards."""

    def __init__(self, cell: Cell, dtype: str, folder: Path, *command: str) -> None:
        from cffi import FFI

        files = emitted(cell, dtype, ())
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        header, source = f"{cell.name}.h", f"{cell.name}.c"
        run(folder, *command, "-shared", "-fPIC", source, "-o", f"{cell.name}.so", "-lm")
        self.ffi, self.cell, self.dtype = FFI(), cell, np.dtype(dtype)
        self.ffi.cdef(declarations(files[header]))
        self.lib = self.ffi.dlopen(str(folder / f"{cell.name}.so"))

    def size(self, what: str, n: Any) -> int:
        return int(getattr(self.lib, f"{self.cell.name}_{what}_size")(n))

    def results(self, case: Case, threads: int = 0) -> dict[str, Any]:
        """All that comes out: what ``case.expected`` has, and more ways to come to the same."""
        return _Calls(self, case, threads).results()


class _Calls:
    """The calls of one case."""

    def __init__(self, library: Library, case: Case, threads: int) -> None:
        self.library, self.case, self.cell, self.ffi = library, case, case.cell, library.ffi
        self.memory: list[tuple[Any, int]] = []
        self.alive: list[Any] = []
        self.sizes = self.ffi.new(
            f"{self.cell.name}_sizes *", {**case.sizes, "threads": threads}
        )  # fmt: skip
        self.params = {k: self.copy(v) for k, v in case.params.items()}
        self.shapes = {
            "state": {k: v.shape for k, v in case.state.items()},
            "grads": {p.name: case.params[p.name].shape for p in case.cell.learned},
            "inputs": {k: v.shape for k, v in case.x.items()},
            "outputs": {k: v.shape for k, v in case.dy.items()},
        }

    # ------------------------------------------------------------------ arguments

    def fresh(self, *shape: int) -> Any:
        """An array of NaN between guards."""
        count, size = math.prod(shape), self.library.dtype.itemsize
        whole = np.full((count + 2 * _GUARD) * size, 0xFF, np.uint8).view(self.library.dtype)
        self.memory.append((whole, count))
        return whole[_GUARD : _GUARD + count].reshape(shape)

    def copy(self, array: Any) -> Any:
        made = self.fresh(*array.shape)
        made[...] = array
        return made

    def check_guards(self) -> None:
        for whole, count in self.memory:
            for guard in (whole[:_GUARD], whole[_GUARD + count :]):
                assert (guard.view(np.uint8) == 0xFF).all(), "written past the end of an array"

    def many(self, kind: str) -> dict[str, Any]:
        return {k: self.fresh(*shape) for k, shape in self.shapes[kind].items()}

    def at(self, array: Any) -> Any:
        return self.ffi.NULL if array is None else self.ffi.from_buffer(f"{self.real}[]", array)

    @property
    def real(self) -> str:
        return {4: "float", 8: "double"}[self.library.dtype.itemsize]

    def struct(self, kind: str, members: Mapping[str, Any] | None, **more: Any) -> Any:
        if not members and not more:
            return self.ffi.NULL
        pointers = {k: self.at(v) for k, v in (members or {}).items()}
        made = self.ffi.new(f"{self.cell.name}_{kind} *", {**pointers, **more})
        self.alive.append((made, pointers))
        return made

    def given(self, t: int | None = None) -> list[Any]:
        """x and the masks of all steps, or of one."""
        x, masks = self.x, self.masks
        if t is not None:
            x = {k: self.copy(v[t]) for k, v in x.items()}
            masks = {k: self.copy(v[t]) for k, v in masks.items()}
        several = len(x) > 1
        only = next(iter(x.values()))
        return [self.struct("inputs", x) if several else self.at(only),
                *([self.struct("masks", masks)] if masks else [])]  # fmt: skip

    def outputs(self, kind: str, arrays: Mapping[str, Any]) -> Any:
        """y or dy: the array of the only output, a struct of several."""
        return self.struct(kind, arrays) if len(arrays) > 1 else self.at(*arrays.values())

    def call(self, what: str, *arguments: Any) -> None:
        function = getattr(self.library.lib, f"{self.cell.name}_{what}")
        status = function(self.sizes, *arguments)
        assert status == 0, (what, status)

    # ------------------------------------------------------------------ all ways

    def results(self) -> dict[str, Any]:
        case, library = self.case, self.library
        self.x = {k: self.copy(v) for k, v in case.x.items()}
        self.masks = {k: self.copy(v) for k, v in case.masks.items()}
        initial = {k: self.copy(v) for k, v in case.state.items()}
        dfinal = {k: self.copy(v) for k, v in case.dstate.items()}
        dys = {k: self.copy(v) for k, v in case.dy.items()}
        plain = self.struct("params", self.params, **case.constants)
        packed, memory = plain, self.fresh(library.size("packed", self.sizes))
        self.call("pack", plain, self.at(memory))
        if self.params:
            packed = self.struct("params", {**self.params, "packed": memory}, **case.constants)
        found: dict[str, Any] = {}

        def forward(p: Any, start: Any, final: Any, tape: Any) -> Any:
            y = self.many("outputs")
            work = self.fresh(library.size("forward_work", self.sizes))
            self.call("forward", p, *self.given(), start, self.outputs("outputs", y),
                      self.struct("new_state", final), self.at(tape), self.at(work))  # fmt: skip
            return y

        def backward(tape: Any, end: Any, more: str, p: Any = plain) -> None:
            grads, dx, first = self.many("grads"), self.many("inputs"), self.many("state")
            work = self.fresh(library.size("backward_work", self.sizes))
            only = self.at(next(iter(dx.values())))
            several = len(dx) > 1
            for accumulate in range(2 if more and grads else 1):
                if accumulate:
                    found.update({f"grads {k}{more}": v.copy() for k, v in grads.items()})
                held = (
                    self.struct("grads", grads, accumulate=accumulate) if grads else self.at(None)
                )
                dy = self.outputs("output_grads", dys)
                self.call("backward", p, *self.given(), self.at(tape), dy, end, held,
                          self.struct("input_grads", dx) if several else only,
                          self.struct("new_state", None if more else first),
                          self.at(work))  # fmt: skip
            if more:
                found.update({f"grads {k}, added": v for k, v in grads.items()})
            else:
                found.update({f"grads {k}": v for k, v in grads.items()})
            found.update({f"dx {k}{more}": v for k, v in dx.items()})
            if not more:
                found.update({f"dinitial {k}": v for k, v in first.items()})

        start = self.struct("state", initial)
        end = self.struct("state", dfinal)
        for p, more in ((packed, ", packed"), (plain, "")):
            tape, state = self.fresh(library.size("tape", self.sizes)), self.many("state")
            y = forward(p, start, state, tape)
            found.update({f"y {k}{more}": v for k, v in y.items()})
            found.update({f"state {k}{more}": v for k, v in state.items()})
        backward(tape, end, "")
        for p, kept, more in ((packed, None, ", no tape"), (plain, tape, "")):
            y = forward(p, self.ffi.NULL, None, kept)
            found.update({f"y {k} from zeros{more}": v for k, v in y.items()})
        whole = dys
        for left_out in whole if len(whole) > 1 else ():
            dys = {k: None if k == left_out else v for k, v in whole.items()}
            backward(tape, self.ffi.NULL, f", without dy {left_out}")
        dys = whole
        backward(tape, self.ffi.NULL, ", from zeros", packed)

        state = {k: self.copy(v) for k, v in case.state.items()}
        forward(plain, self.struct("state", state), state, None)
        found.update({f"state {k}, in place": v for k, v in state.items()})

        state = {k: self.copy(v) for k, v in case.state.items()}
        ys = self.many("outputs")
        work = self.fresh(library.size("step_work", self.sizes))
        for t in range(case.sizes["T"]):
            y_t = self.outputs("outputs", {k: y[t] for k, y in ys.items()})
            self.call("step", packed, *self.given(t), self.struct("state", state), y_t,
                      self.struct("new_state", state), self.at(work))  # fmt: skip
        found.update({f"y {k}, streamed": y for k, y in ys.items()})
        found.update({f"last y {k}, streamed": y[-1] for k, y in ys.items()})
        found.update({f"state {k}, streamed": v for k, v in state.items()})
        self.check_guards()
        return found


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _double(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.astype(float) for k, v in arrays.items()}
