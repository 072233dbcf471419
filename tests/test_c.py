"""The C target: clean under every compiler, safe under every sanitizer, right for every cell."""

from __future__ import annotations

import itertools
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
from conftest import need
from driver import Case, compare, emitted, write
from hypothesis import HealthCheck, given, settings
from strategies import cells as made_up_cells
from sympy import Abs, Eq, Max, Min, Ne, Piecewise, Rational

import lstmgen
from lstmgen import (
    Cell,
    GenerateError,
    biases,
    cells,
    constants,
    cumsum,
    elu,
    gelu,
    inputs,
    layer_norm,
    leaky_relu,
    log_sigmoid,
    masks,
    matrix,
    max_,
    mean,
    relu,
    rsqrt,
    sigmoid,
    silu,
    softmax,
    softplus,
    states,
    step,
    stop_gradient,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.native import declarations

WARNINGS = (
    "-Wall -Wextra -Wpedantic -Wconversion -Wdouble-promotion -Wshadow -Wstrict-prototypes "
    "-Wmissing-prototypes -Wcast-qual -Werror"
).split()
REFERENCE = [cells.get(name) for name in cells.names()]

x, u = inputs("x"), inputs("u", size="E")
h, c = states("h c")
W, U, b = weights("W"), weights("U"), biases("b")


def case(cell: Cell, T: int = 5, B: int = 2, dtype: str = "float64", **sizes: int) -> Case:
    """Sizes that differ from each other, unless they are given."""
    default = {str(n): k + 3 for k, n in enumerate(cell.sizes)}
    return Case(cell, {"T": T, "B": B, **default, **sizes}, dtype)


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# --------------------------------------------------------------------------- cells

FUNCTIONS: list[Any] = [
    sigmoid, tanh, relu, step, softplus, sympy.exp, sympy.sin, sympy.cos, sympy.tan, sympy.atan,
    sympy.sinh, sympy.cosh, sympy.asinh, sympy.erf, Abs, sympy.sign, sympy.Heaviside, sympy.floor,
    sympy.ceiling, stop_gradient, softmax, layer_norm, cumsum, silu, gelu, elu, leaky_relu,
    log_sigmoid, mean, sum_, max_,
    lambda a: rsqrt(1 + a**2),
    lambda a: sympy.log(2 + tanh(a)),
    lambda a: sympy.asin(tanh(a) / 2),
    lambda a: sympy.acos(tanh(a) / 2),
    lambda a: sympy.acosh(2 + tanh(a)),
    lambda a: sympy.atanh(tanh(a) / 2),
    lambda a: sympy.Mod(a, 2),
    lambda a: Max(a, Rational(1, 10), tanh(a)) + Min(a, Rational(1, 5)),
    lambda a: Piecewise((a, a > 0), (a**3, True)),
    lambda a: Piecewise((a, (a > 0) & (a < 1) | (a < -1)), (2 * a, Ne(a, 3)), (3 * a, True)),
    lambda a: Piecewise((a, sympy.Xor(a > 0, a < 1)), (a**2, True)),
    lambda a: a / (a**2 + 1) ** 2 - a**2 / 3,
    lambda a: (a - 1) ** 2 * (a + 1) ** 3,
    lambda a: 1 / (1 + a**2) / (2 + a**4),
    lambda a: 2 ** tanh(a) + Abs(a) ** Rational(3, 2) + sympy.sqrt(Abs(a) + 1) * a,
    lambda a: sympy.pi * a + sympy.E * a**2,
]  # fmt: skip

NAMES = """r j p row rows grads exp y0 T_ work x_stride tape kept tile scratch real o n k t t0 steps
    size_t memory sigmoid cH dh h_prev times main in_tape final used total fill
    expf""".split()
SIZE_NAMES = "r j p row rows exp y0 work n k t steps memory tile take a w out count real".split()
CELL_NAMES = "main_ math string forward tape LSTM check".split()


@cache
def odd_cells() -> dict[str, Cell]:
    """What the reference cells have not: a cell by what is odd about it."""
    made: dict[str, Cell] = {}

    def add(name: str, *equations: Eq, output: Any = h, **about: Any) -> None:
        made[name] = Cell(name, equations, output, **about)

    g, o, a = vectors("g o a")
    small, s = vectors("small", size=1), states("s", size=1)
    od, hd = vectors("od", size="D"), states("hd", size="D")
    k = states("k", size=4)
    m, one = masks("m"), masks("one", size=1)
    dt, tau = constants("dt", 0.1), constants("tau")
    V, L, R = matrix("V"), matrix("L"), matrix("R", rows="Q")
    gate = sigmoid(W.g @ x + U.g @ h + b.g)

    add("no_parameters", Eq(hd.next, tanh(x + hd / 2)), output=hd)
    add("no_matrix", Eq(hd.next, tanh(vector("v") * x + hd / 2)), output=hd)
    add("no_state", Eq(o, tanh(W.o @ x + b.o)), output=o)
    add("nothing_at_all", Eq(od, tanh(x)), output=od)
    add("no_recurrence", Eq(c.next, W.c @ x), Eq(h.next, sigmoid(c.next + W.h @ x)))
    add("no_path", Eq(c.next, tanh(W.c @ x)), Eq(h.next, tanh(c + U.h @ h)))
    add("all_cut", Eq(h.next, stop_gradient(tanh(W.c @ x + U.h @ h))))
    add("cut", Eq(h.next, stop_gradient(tanh(W.c @ x + U.h @ h)) + b.a))
    add("leaky", Eq(hd.next, hd + dt * (x - hd) / tau), output=hd)
    add("zoneout", Eq(h.next, m * tanh(W.c @ x + U.h @ h) + (1 - m) * h))
    add("mask_of_one", Eq(h.next, one * tanh(W.c @ x + U.h @ h) + (1 - one) * h))
    add("behind_a_mask", Eq(g, sigmoid(m)), Eq(h.next, tanh(U.h @ g + W.h @ x + h)))
    add("two_inputs", Eq(h.next, tanh(W.c @ x + W.u @ u + U.h @ h)))
    add("input_unread", Eq(h.next, tanh(W.c @ x + stop_gradient(W.u @ u) + U.h @ h)))
    add("scalars", Eq(s.next, tanh(mean(W.c @ x * h) + s)),
        Eq(h.next, tanh(s * h + W.h @ x + vector("q", size=1))))  # fmt: skip
    add("all_scalars", Eq(s.next, tanh(mean(x) * s + vector("q", size=1) + max_(s) + sum_(s))),
        output=s)  # fmt: skip
    add("size_of_four", Eq(k.next, tanh(W.k @ x + U.k @ k)), output=k)
    add("tied", Eq(od, V.T @ h), Eq(h.next, tanh(V @ od + V @ x + U.h @ h)))
    add("low_rank", Eq(h.next, tanh(L @ R @ h + W.a @ x)))
    add("used_twice", Eq(c.next, tanh(U.a @ h + U.a @ c + W.a @ x)),
        Eq(h.next, tanh(U.a @ c.next + U.b @ h)))  # fmt: skip
    add("output_kept", Eq(o, gate), Eq(h.next, o * tanh(h + W.h @ x)), output=o)
    add("output_in_a_stack", Eq(g, gate), Eq(o, sigmoid(W.o @ x + U.o @ h)),
        Eq(h.next, g * o * tanh(h + W.h @ x)), output=o)  # fmt: skip
    add("output_not_kept", Eq(c.next, tanh(W.a @ x + U.a @ c)),
        Eq(o, sigmoid(W.b @ x + U.b @ c.next) * c.next), output=o)  # fmt: skip
    add("output_of_one", Eq(h.next, tanh(W.a @ x + U.a @ h)),
        Eq(small, max_(h.next) + sum_(h.next**2)), output=small)  # fmt: skip
    add("gaps_in_a_stack", Eq(g, sigmoid(W.p @ (h**2) + W.q @ h)),
        Eq(a, tanh(W.r @ tanh(matrix("M", rows="H") @ g) + W.s @ c)), Eq(c.next, tanh(W.c @ h)),
        Eq(h.next, tanh(W.t @ (a + W.v @ h)) + tanh(W.x @ x)))  # fmt: skip
    add("a_" * 20, Eq(h.next, tanh(W.a @ x + U.a @ h)))
    add("hostile_text", Eq(h.next, tanh(W.a @ x + U.a @ h)), title="a */ b /* c \\",
        source="??/ x\n#endif", notes="*/")  # fmt: skip
    return made


@cache
def functions() -> list[Cell]:
    """A few functions a cell: each of something of its own, so that all have gradients."""
    A, B, bias = weights("A", rows="H"), weights("B", rows="H"), biases("c", size="H")
    made = []
    for k in range(0, len(FUNCTIONS), 6):
        gates = [
            Eq(vectors(f"f{n}"), f(A[f"{n}"] @ x + bias[f"{n}"]) + f(B[f"{n}"] @ h))
            for n, f in enumerate(FUNCTIONS[k : k + 6])
        ]
        total = sum((tanh(e.lhs) for e in gates), sympy.S.Zero)
        made.append(Cell(f"functions_{k}", [*gates, Eq(h.next, tanh(total / 3))], output=h))
    return made


@cache
def hostile() -> list[Cell]:
    """Legal names that are also words of C, of its library, or of our own text."""
    made = []
    for k in range(0, len(NAMES), 8):
        some, s = NAMES[k : k + 8], states("ss")
        gates = [
            Eq(vectors(v), sigmoid(W[v] @ u + U[v] @ s + b[v]) * stop_gradient(mean(s)))
            for v in some
        ]
        total = sum((e.lhs for e in gates), sympy.S.Zero)
        made.append(Cell(f"vectors_{k}", [*gates, Eq(s.next, tanh(total * s + W.b @ u))], s))
        held = [states(v) for v in some]
        lines = [Eq(s.next, tanh(W[s.name] @ u + U[s.name] @ s) + cumsum(s) / 9) for s in held]
        made.append(Cell(f"states_{k}", lines, held[0]))
    for k in range(0, len(SIZE_NAMES), 5):
        held = [states(f"s_{name}", size=name) for name in SIZE_NAMES[k : k + 5]]
        lines = [
            Eq(s.next, tanh(W[s.name] @ u + U[s.name] @ s + b[s.name]) * mean(s)) for s in held
        ]
        made.append(Cell(f"sizes_{k}", lines, held[0]))
    for name in CELL_NAMES:
        made.append(Cell(name, [Eq(h.next, tanh(W.a @ x + U.a @ h + b.a))], h))
    return made


# --------------------------------------------------------------------------- it is clean


def lay_down(
    folder: Path, some: list[Cell], dtype: str = "float64", fixed: bool = False
) -> list[str]:
    """Write the files of cells into a folder; the names of the sources come back."""
    sources = []
    for cell in some:
        sizes = tuple((str(n), k + 24) for k, n in enumerate(cell.sizes)) if fixed else ()
        for name, text in emitted(cell, dtype, sizes).items():
            (folder / name).write_text(text, encoding="utf-8")
            sources += [name] if name.endswith(".c") else []
    return sources


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    ("standard", "dtype", "fixed"),
    [("c99", "float64", False), ("gnu17", "float32", False), ("c11", "float32", True)],
)
def test_compiles_without_a_warning(tmp_path, compiler, standard, dtype, fixed):
    need(compiler)
    sources = lay_down(tmp_path, REFERENCE, dtype, fixed)
    run(tmp_path, compiler, f"-std={standard}", "-O0", *WARNINGS, "-c", *sources)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3"])
def test_optimisers_find_nothing_to_warn_about(tmp_path, compiler, level):
    need(compiler)
    sources = lay_down(tmp_path, [cells.get("gru_reset_before")])
    run(tmp_path, compiler, "-std=gnu99", level, *WARNINGS, "-c", *sources)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_odd_cells_and_names_compile_without_a_warning(tmp_path, dtype):
    need("gcc")
    some = functions() if dtype == "float32" else [*odd_cells().values(), *functions(), *hostile()]
    sources = lay_down(tmp_path, some, dtype)
    run(tmp_path, "gcc", "-std=gnu99", "-O0", *WARNINGS, "-c", *sources)


def test_text_is_tidy():
    for cell, fixed in itertools.product(REFERENCE, (False, True)):
        for name, text in emitted(cell, "float64", (("D", 24), ("H", 32)) if fixed else ()).items():
            lines = text.split("\n")
            assert max(map(len, lines)) <= 100, name
            assert not any(line != line.rstrip() or "\t" in line for line in lines), name
            assert "\n\n\n" not in text, name
            assert "{\n\n" not in text, name


def test_no_allocation_and_no_globals(tmp_path):
    need("gcc")
    need("nm")
    run(tmp_path, "gcc", "-std=c99", "-O0", "-c", *lay_down(tmp_path, REFERENCE))
    for cell in REFERENCE:
        symbols = [line.split() for line in run(tmp_path, "nm", f"{cell.name}.o").splitlines()]
        kinds = {fields[-2] for fields in symbols}
        assert kinds <= {"T", "t", "U", "r"}, f"writable data in {cell.name}: {kinds}"
        imported = {fields[-1] for fields in symbols if fields[-2] == "U"}
        allowed = {"exp", "tanh", "sqrt", "memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}
        assert imported <= allowed, cell.name
        public = {fields[-1] for fields in symbols if fields[-2] == "T"}
        assert public == {f"{cell.name}_{what}" for what in PUBLIC}


PUBLIC = """message tape_size packed_size forward_work_size backward_work_size step_work_size pack forward backward
    step""".split()


def test_the_example_in_the_header_is_a_program(tmp_path):
    need("gcc")
    names = ("two_inputs", "zoneout", "leaky", "no_parameters", "no_state")
    picked = [cells.get("lstm"), *(odd_cells()[name] for name in names)]
    for cell in picked:
        files = emitted(cell, "float64", ())
        header = files[f"{cell.name}.h"]
        lines = re.findall(r"^ \*     (.*)$", header[header.index("How to use it") :], re.MULTILINE)
        code = [line for line in lines if not line.startswith("static")]
        real = f"{cell.name}_real"
        arrays = {p.name for p in (*cell.parameters, *cell.inputs, *cell.masks, *cell.states)}
        arrays |= {f"d{p.name}" for p in (*cell.parameters, *cell.inputs)} | {"x", "dx", "y", "dy"}
        for constant in cell.constants:
            code.insert(0, f"const {real} {constant.name} = 1;")
        text = "\n    ".join(
            ["#include <stdio.h>\n#include <stdlib.h>", f'#include "{cell.name}.h"']
            + [f"static {real} {name}_[100 * 1000], *{name} = {name}_;" for name in sorted(arrays)]
            + ["int main(void)\n{", *code, "free(tape); free(work); free(more);"]
            + ["free(packed);"] * bool(cell.parameters)
            + ["return (int)status;\n}\n"]
        )
        text = "\n".join(line.lstrip() if "static" in line else line for line in text.split("\n"))
        for name, content in {**files, "example.c": text}.items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        run(tmp_path, "gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsanitize=address",
            "-Wno-unused-variable", "example.c", f"{cell.name}.c", "-o", "example",
            "-lm")  # fmt: skip
        run(tmp_path, "./example")


# --------------------------------------------------------------------------- it is right and safe


def sanitized() -> list[Case]:
    """The reference cells, and the odd ones, in all the ways that the driver knows."""
    some = [case(cell) for cell in REFERENCE]
    some += [
        case(cell, T=1 + 6 * (k % 3 == 0), B=1 + k % 3)
        for k, cell in enumerate(odd_cells().values())
    ]
    return some


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_sanitizers_find_nothing(tmp_path, compiler):
    need(compiler)
    some = sanitized() if compiler == "gcc" else [case(cell, T=3) for cell in REFERENCE]
    sources = write(some, tmp_path)
    flags = ["-std=c99", "-O0", "-DPOISON", "-fsanitize=address,undefined",
             "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]  # fmt: skip
    run(tmp_path, compiler, *flags, "-Wall", "-Wextra", "-Werror", *sources, "main.c", "-o", "run",
        "-lm")  # fmt: skip
    run(tmp_path, "./run", "in.bin", "out.bin")
    compare(some, tmp_path, 1e-12)


@pytest.mark.parametrize(
    ("T", "B", "sizes"),
    [
        (1, 1, {"D": 1, "H": 1, "P": 1}),
        (48, 1, {}),
        (49, 1, {}),
        (25, 2, {}),
        (3, 47, {}),
        (3, 48, {}),
        (2, 97, {}),
        (11, 5, {"D": 17, "H": 2, "P": 9}),
    ],
)
def test_tiles_and_sizes(tmp_path, T, B, sizes):
    """One step, whole tiles, and all but; more rows than a tile has."""
    need("gcc")
    some = [
        case(cell, T, B, **{k: v for k, v in sizes.items() if k in map(str, cell.sizes)})
        for cell in (cells.get("gru_reset_before"), cells.get("lstmp"))
    ]
    sources = write(some, tmp_path)
    run(tmp_path, "gcc", "-std=c99", "-O0", "-DPOISON", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", *sources, "main.c", "-o", "run", "-lm")  # fmt: skip
    run(tmp_path, "./run", "in.bin", "out.bin")
    compare(some, tmp_path, 1e-12)


def test_valgrind_finds_nothing(tmp_path):
    need("gcc")
    need("valgrind")
    names = ("lstm", "gru_reset_before", "lstm_layernorm", "lstmp")
    some = [case(cells.get(name), T=3) for name in names]
    sources = write(some, tmp_path)
    run(tmp_path, "gcc", "-std=c99", "-g", "-O1", *sources, "main.c", "-o", "run", "-lm")
    run(tmp_path, "valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "./run", "in.bin",
        "out.bin")  # fmt: skip
    compare(some, tmp_path, 1e-12)


@pytest.mark.parametrize(("c", "cpp"), [("gcc", "g++"), ("clang", "clang++")])
def test_header_is_cpp(tmp_path, c, cpp):
    need(c)
    need(cpp)
    some = [case(cell) for cell in REFERENCE] + [case(odd_cells()["two_inputs"])]
    sources = write(some, tmp_path)
    (tmp_path / "main.c").rename(tmp_path / "main.cpp")
    run(tmp_path, c, "-std=c99", "-O1", "-c", *sources)
    objects = [name.replace(".c", ".o") for name in sources]
    run(tmp_path, cpp, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "main.cpp", *objects, "-o",
        "run", "-lm")  # fmt: skip
    run(tmp_path, "./run", "in.bin", "out.bin")
    compare(some, tmp_path, 1e-12)


def test_constant_sizes_and_single_precision(tmp_path):
    need("gcc")
    for dtype, fixed, tolerance in (("float64", True, 1e-12), ("float32", False, 5e-5)):
        folder = tmp_path / dtype
        folder.mkdir()
        sizes = {"D": 5, "H": 4}
        some = [case(cells.get(n), dtype=dtype, **sizes) for n in ("lstm", "gru", "lstm_layernorm")]
        sources = write(some, folder, **(sizes if fixed else {}))
        run(folder, "gcc", "-std=c99", "-O1", "-DPOISON", "-fsanitize=address,undefined", *sources,
            "main.c", "-o", "run", "-lm")  # fmt: skip
        run(folder, "./run", "in.bin", "out.bin")
        compare(some, folder, tolerance)


def test_every_function_and_every_name_computes_the_right_thing(tmp_path):
    need("gcc")
    # NumPy's own names for sizes are not at stake here
    some = [case(cell) for cell in [*functions(), *hostile()]]
    sources = write(some, tmp_path)
    run(tmp_path, "gcc", "-std=gnu99", "-O0", *sources, "main.c", "-o", "run", "-lm")
    run(tmp_path, "./run", "in.bin", "out.bin")
    compare(some, tmp_path, 1e-12)


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(cell=made_up_cells())
def test_made_up_cells(tmp_path_factory, cell):
    need("gcc")
    folder = tmp_path_factory.mktemp("made_up")
    some = [case(cell)]
    sources = write(some, folder)
    run(folder, "gcc", "-std=c99", "-O0", "-DPOISON", *WARNINGS, *sources, "-c")
    run(folder, "gcc", "-std=c99", "-O0", "-DPOISON", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", *sources, "main.c", "-o", "run", "-lm")  # fmt: skip
    run(folder, "./run", "in.bin", "out.bin")
    with np.errstate(all="ignore"):
        compare(some, folder, 1e-9)


# --------------------------------------------------------------------------- it refuses misuse


@pytest.fixture(scope="module", params=["lstm", "two_inputs", "fixed"])
def library(request, tmp_path_factory):
    """(ffi, library, prefix) of a compiled cell."""
    need("gcc")
    need("cffi")
    from cffi import FFI

    folder = tmp_path_factory.mktemp(request.param)
    cell = odd_cells()["two_inputs"] if request.param == "two_inputs" else cells.get("lstm")
    sizes = {"D": 3, "H": 4} if request.param == "fixed" else {}
    files = lstmgen.generate(cell, "c", **sizes)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    run(
        folder, "gcc", "-std=c99", "-O0", "-fPIC", "-shared", f"{cell.name}.c", "-o", "it.so", "-lm"
    )
    ffi = FFI()
    ffi.cdef(declarations(files[f"{cell.name}.h"]))
    return ffi, ffi.dlopen(str(folder / "it.so")), cell, sizes


class Call:
    """The arguments of the functions of a cell, all of them right; then some are made wrong."""

    def __init__(self, library: Any) -> None:
        self.ffi, self.lib, self.cell, _ = library
        ffi, name = self.ffi, self.cell.name
        self.sizes = {"T": 5, "B": 2, **{str(n): k + 3 for k, n in enumerate(self.cell.sizes)}}
        self.n = ffi.new(f"{name}_sizes *", self.sizes)
        self.alive: list[Any] = []
        learned = [p.name for p in self.cell.parameters]
        held = [s.name for s in self.cell.states]
        fed = [v.name for v in self.cell.inputs]
        self.structs = {
            "p": self.struct("params", learned), "g": self.struct("grads", learned),
            "state": self.struct("state", held), "new": self.struct("new_state", held),
        }  # fmt: skip
        if len(fed) > 1:
            self.structs |= {"x": self.struct("inputs", fed), "dx": self.struct("input_grads", fed)}
        flat = {a: self.numbers() for a in ("x", "dx", "y", "dy", "tape", "work")}
        self.given = flat | self.structs

    def numbers(self) -> Any:
        self.alive.append(self.ffi.new("double[]", 4000))
        return self.alive[-1]

    def struct(self, kind: str, names: list[str]) -> Any:
        return self.ffi.new(f"{self.cell.name}_{kind} *", {k: self.numbers() for k in names})

    def __call__(self, what: str, n: Any = None, **changed: Any) -> int:
        given = self.given | changed
        arguments = {
            "forward": ["p", "x", "state", "y", "new", "tape", "work"],
            "step": ["p", "x", "state", "y", "new", "work"],
            "backward": ["p", "x", "tape", "dy", "state", "g", "dx", "new", "work"],
        }[what]
        function = getattr(self.lib, f"{self.cell.name}_{what}")
        return int(function(self.n if n is None else n, *(given[a] for a in arguments)))

    def resized(self, **sizes: int) -> Any:
        return self.ffi.new(f"{self.cell.name}_sizes *", {**self.sizes, **sizes})


OK, NULL_ARGUMENT, BAD_SIZE, TOO_LARGE = range(4)


def test_right_arguments_are_accepted(library):
    call = Call(library)
    null = call.ffi.NULL
    for what in ("forward", "step", "backward"):
        assert call(what) == OK
        assert call(what, state=null) == OK
    assert call("forward", tape=null, new=null) == OK
    assert call("backward", new=null) == OK
    assert call("step", y=null) == OK
    assert call("step", n=call.resized(T=0)) == OK


def test_every_null_is_refused(library):
    call = Call(library)
    null = call.ffi.NULL
    for what, needed in (
        ("forward", ["p", "x", "y", "work"]),
        ("step", ["p", "x", "new", "work"]),
        ("backward", ["p", "x", "tape", "dy", "g", "dx", "work"]),
    ):
        assert call(what, n=null) == NULL_ARGUMENT
        for argument in needed:
            assert call(what, **{argument: null}) == NULL_ARGUMENT, (what, argument)
            if argument in call.structs and argument != "new":
                struct = call.structs[argument]
                for member, _ in call.ffi.typeof(struct).item.fields:
                    kept = getattr(struct, member)
                    setattr(struct, member, null)
                    assert call(what) == NULL_ARGUMENT, (what, argument, member)
                    setattr(struct, member, kept)


def test_members_of_states_may_be_null(library):
    call = Call(library)
    for kind, what in itertools.product(("state", "new"), ("forward", "step", "backward")):
        struct = call.structs[kind]
        for member, _ in call.ffi.typeof(struct).item.fields:
            kept = getattr(struct, member)
            setattr(struct, member, call.ffi.NULL)
            assert call(what) == OK
            setattr(struct, member, kept)


def test_wrong_sizes_are_refused(library):
    call = Call(library)
    for name in call.sizes:
        zero = call.resized(**{name: 0})
        for what in ("forward", "step", "backward"):
            if (what, name) != ("step", "T"):
                assert call(what, n=zero) == BAD_SIZE, (what, name)
        for buffer in ("tape", "forward_work", "backward_work"):
            assert getattr(call.lib, f"{call.cell.name}_{buffer}_size")(zero) == 0
    for name in library[3]:
        other = call.resized(**{name: call.sizes[name] + 1})
        assert call("forward", n=other) == BAD_SIZE
        assert call("step", n=other) == BAD_SIZE
        assert call("backward", n=other) == BAD_SIZE
    for buffer in ("tape", "forward_work", "backward_work", "step_work"):
        assert getattr(call.lib, f"{call.cell.name}_{buffer}_size")(call.ffi.NULL) == 0


def test_messages(library):
    ffi, lib, cell, _ = library
    said = [ffi.string(getattr(lib, f"{cell.name}_message")(k)).decode() for k in range(5)]
    assert len(set(said)) == 5
    assert said[0] == "no error"
    assert said[4] == "unknown status"


def test_huge_sizes_are_too_large_and_nothing_wraps(library):
    """Sizes whose products do not fit: never a small number by accident, never a touched array."""
    call = Call(library)
    free = [name for name in call.sizes if name not in library[3]]
    rng = random.Random(0)
    counts = exact(call.cell)
    for _ in range(500):
        sizes = {**call.sizes, **{k: rng.getrandbits(rng.randint(1, 64)) or 1 for k in free}}
        n = call.resized(**sizes)
        wanted, single = counts(sizes), counts({**sizes, "T": 1})
        wanted["step_work"] = single["step_work"]
        fits = {what: count <= (2**64 - 1) // 8 for what, count in wanted.items()}
        fits["one"] = single["arrays"] <= (2**64 - 1) // 8
        for buffer in ("tape", "forward_work", "backward_work", "step_work"):
            arrays_fit = fits["one" if buffer == "step_work" else "arrays"]
            got = getattr(call.lib, f"{call.cell.name}_{buffer}_size")(n)
            assert got == (wanted[buffer] if arrays_fit and fits[buffer] else 0), (buffer, sizes)
        # whatever does not fit is refused before anything is touched
        if not (fits["arrays"] and fits["tape"] and fits["forward_work"]):
            assert call("forward", n=n) == TOO_LARGE
        if not (fits["arrays"] and fits["tape"] and fits["backward_work"]):
            assert call("backward", n=n) == TOO_LARGE
        if not (fits["one"] and fits["step_work"]):
            assert call("step", n=n) == TOO_LARGE


def exact(cell: Cell) -> Callable[[dict[str, int]], dict[str, int]]:
    """What buffers need, and the largest array, in whole numbers of any size."""
    header = emitted(cell, "float64", ())[f"{cell.name}.h"].replace("\\\n", " ")
    macros = re.findall(r"#define \w+?_(TAPE|\w+_WORK)_SIZE\([^)]*\) (.*)", header)
    needs = {}
    for what, body in macros:
        text = re.sub(r"\w+_TILE\(T, B\)", "K", body.replace("(size_t)", "").strip())
        needs[re.sub(r"^(INPUTS|LAYERNORM)_", "", what).lower()] = compile(text, what, "eval")
    rows = [("T", "B", cell.size(v)) for v in (*cell.inputs, *cell.masks, cell.output)]
    shapes = [*rows, *(cell.shape(p) for p in cell.parameters)]

    def counts(sizes: dict[str, int]) -> dict[str, int]:
        T, B = sizes["T"], sizes["B"]
        known = {**sizes, "K": 1 if B >= 48 else min(48 // B, T)}
        found = {what: eval(code, {}, known) for what, code in needs.items()}
        found["arrays"] = max(math.prod(sizes[str(n)] for n in shape) for shape in shapes)
        return found

    return counts


@pytest.mark.skipif(sys.maxsize < 2**63 - 1, reason="the numbers are for 64 bits")
def test_macros_are_the_functions(tmp_path):
    need("gcc")
    checks = []
    names = ("no_state", "nothing_at_all", "two_inputs", "scalars", "low_rank", "no_matrix")
    picked = [*REFERENCE, *(odd_cells()[name] for name in names)]
    for cell in picked:
        fixed = {"H": 7} if "H" in map(str, cell.sizes) and cell.name != "lstm" else {}
        for name, text in lstmgen.generate(cell, "c", **fixed).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        NAME = cell.name.upper()
        for T, B in ((1, 1), (10, 3), (100, 1), (1, 50), (7, 48), (1000, 7)):
            sizes = {str(n): k + 3 for k, n in enumerate(cell.sizes)} | fixed
            members = ", ".join(f".{k} = {v}" for k, v in {"T": T, "B": B, **sizes}.items())
            open_sizes = "".join(f", {v}" for k, v in sizes.items() if k not in fixed)
            for what in ("tape", "forward_work", "backward_work", "step_work"):
                lead = f"{B}" if what == "step_work" else f"{T}, {B}"
                checks.append(
                    f"{{ const {cell.name}_sizes n = {{{members}}}; enum {{ count = "
                    f"{NAME}_{what.upper()}_SIZE({lead}{open_sizes}) }};\n    "
                    f"if ({cell.name}_{what}_size(&n) != count || count == 0) return __LINE__; }}"
                )
    includes = "".join(f'#include "{cell.name}.h"\n' for cell in picked)
    text = f"{includes}int main(void)\n{{\n{chr(10).join(checks)}\nreturn 0;\n}}\n"
    (tmp_path / "main.c").write_text(text, encoding="utf-8")
    sources = [f"{cell.name}.c" for cell in picked]
    run(tmp_path, "gcc", "-std=c99", "-O0", "main.c", *sources, "-o", "run", "-lm")
    run(tmp_path, "./run")


def test_memory_does_not_grow_with_the_sequence(library):
    call = Call(library)
    for buffer in ("forward_work", "backward_work", "step_work"):
        size = getattr(call.lib, f"{call.cell.name}_{buffer}_size")
        assert size(call.resized(T=100)) == size(call.resized(T=10**9))


# --------------------------------------------------------------------------- the generator


@pytest.mark.parametrize("value", [0, -3, 2.5, True, "4"])
def test_constant_sizes_are_checked(value):
    with pytest.raises(GenerateError, match="the size H is a positive whole number"):
        lstmgen.generate(cells.get("lstm"), "c", H=value)


def test_names_of_macros_are_refused():
    M = weights("M")
    cell = Cell("macro", [Eq(h.next, tanh(M.E @ x + U.h @ h))], output=h)
    with pytest.raises(GenerateError, match="M_E is a macro of C's standard headers"):
        lstmgen.generate(cell, "c")


@pytest.mark.parametrize(
    ("dtype", "number"), [("float32", 1e39), ("float64", sympy.Float("1e400"))]
)
def test_numbers_too_large_for_the_type_are_refused(dtype, number):
    cell = Cell("large", [Eq(h.next, tanh(number * (W.a @ x) + h))], output=h)
    with pytest.raises(GenerateError, match="too large for a"):
        lstmgen.generate(cell, "c", dtype=dtype)


def test_numbers_are_as_short_as_they_can_be():
    third = Cell("third", [Eq(h.next, tanh(W.a @ x / 3 + 0.1 * h + 1e-60))], output=h)
    single = lstmgen.generate(third, "c", dtype="float32")["third.c"]
    double = lstmgen.generate(third, "c")["third.c"]
    assert "0.1f * h_prev[j]" in single
    assert "0.0f" in single  # 1e-60 is none, and a compiler would say so
    assert "0.1 * h_prev[j]" in double
    assert "1e-60" in double


def test_a_name_that_would_hide_a_standard_header_gets_another_file():
    files = lstmgen.generate(Cell("math", [Eq(h.next, tanh(W.a @ x + h))], output=h), "c")
    assert sorted(files) == ["math_cell.c", "math_cell.h"]


def test_text_does_not_depend_on_the_hash_seed():
    names = ("gaps_in_a_stack", "scalars", "two_inputs", "output_in_a_stack")
    script = (
        "import sys; sys.path.insert(0, 'tests'); import lstmgen, test_c;"
        f"print([lstmgen.generate(test_c.odd_cells()[name], 'c') for name in {names}])"
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == f"{[emitted(odd_cells()[name], 'float64', ()) for name in names]}\n"
