"""The C target: clean under every compiler, safe under every sanitizer, right for every cell."""

from __future__ import annotations

import itertools
import math
import os
import platform
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
import reference
import sympy
from conftest import need
from delays import CELLS as DELAYS
from driver import (
    POISONED,
    WARNINGS,
    Case,
    Library,
    build,
    check,
    compare,
    compile_quietly,
    emitted,
    execute,
    kernels,
    run,
    write,
)
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import sampled_from
from several_axes import CELLS as SEVERAL_AXES
from several_axes import FIXED
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
    expm1,
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
from lstmgen.planning.operations import Fused, Loop, Multiply, Pass
from lstmgen.runtime.native import declarations
from lstmgen.targets.c.rows import Writes
from lstmgen.targets.c.target import Parts
from lstmgen.verification.evaluation import number

REFERENCE = [cells.get(name) for name in reference.NAMES]

x, u = inputs("x"), inputs("u", size="E")
h, c = states("h c")
W, U, b = weights("W"), weights("U"), biases("b")


def case(cell: Cell, T: int = 5, B: int = 2, dtype: str = "float64", **sizes: int) -> Case:
    """Sizes that differ from each other, unless they are given."""
    default = {str(n): k + 3 for k, n in enumerate(cell.sizes)}
    return Case(cell, {"T": T, "B": B, **default, **sizes}, dtype)


def need_processor(flags: list[str]) -> None:
    """Skip where the processor lacks the instructions that are asked for."""
    wanted = {flag[2:] for flag in flags if re.fullmatch("-m(sse|avx|fma).*", flag)}
    if wanted or "-march=native" in flags:
        if platform.machine() not in ("x86_64", "AMD64"):
            pytest.skip("the flags are for x86")
        about = Path("/proc/cpuinfo")
        text = about.read_text(encoding="utf-8") if about.exists() else ""
        known = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
        if not wanted <= set(known):
            pytest.skip(f"the processor has no {' '.join(sorted(wanted - set(known)))}")


# --------------------------------------------------------------------------- cells

FUNCTIONS: list[Any] = [
    sigmoid, tanh, relu, step, softplus, expm1, sympy.exp, sympy.sin, sympy.cos, sympy.tan,
    sympy.atan,
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
    size_t memory sigmoid cH dh h_prev times main in_tape final used total fill expf vec mask LANES
    PAD ROWS VECS PANEL padded vecs splat choose within across across_max running running_back
    factors rows_of blocks_of packed batch start slices share gather scatter place load save pad add
    columns panels sums multiply column bits power to_the_e threads team status own each s at swap
    vec_tanh r_coth memcpy memset tape_layout forward_layout backward_layout forward_packed_layout
    backward_packed_layout H2p H3p H4p D2p call slice given largest total sums accumulate LG lane
    vec_f64 multiply_f64 size_times slice_rows tanh_f64""".split()
# As members of structs and rows of callers' arrays, too
MEMBERS = """threads y dy work none n B_ bits power factors kept tile batch start status at
    label LABEL has_label serial
    vec memcpy tape_layout first_row x_rows dh_next h_rows W_packed call slice given vec_f64
    multiply_f64 real mask add load PAD LANES""".split()
SIZE_NAMES = """r j p row rows exp y0 work n k t steps memory tile take a w out count real vec mask
    label LABEL tape_need
    LANES PAD vecs padded batch start slices share packed bits power factors column pad add
    status at each s own team row_ memcpy memset forward_parts backward_sums tape_layout Hp
    forward_layout forward_stage Dp call slice given total sums vec_f64 padded_f64 size_take rows_
    multiply_f64""".split()
CELL_NAMES = """main_ math string forward tape LSTM check pack vec padded power threads slices
    size slice thread lstmgen_runtime lstmgen params forward_packed backward""".split()


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
    # products of single numbers, stacked: their adjoints are blocks of a product, too
    add("gated_scalar", Eq(s.next, sigmoid(matrix("w_f", 1, "D") @ x) * s
        + tanh(matrix("w_g", 1, "D") @ x + matrix("u_g", 1, 1) @ s)), output=s)  # fmt: skip
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
def everything() -> Cell:
    """All that a vector has to do with the lanes past the end of a row, in one cell."""
    q, g, a, o, z = vectors("q g a o z")
    s, m, dt = states("s", size=1), masks("m"), constants("dt", 0.1)
    L, R, V = matrix("L"), matrix("R", rows="Q"), matrix("V")
    return Cell(
        "everything",
        [
            Eq(q, softmax(U.q @ h + W.q @ x)),
            Eq(g, sigmoid(W.g @ x + U.g @ c / 4 + b.g)),
            Eq(a, layer_norm(W.a @ u + vector("v") * h)),
            Eq(z, V.T @ relu(tanh(h))),
            Eq(o, sigmoid(L @ R @ h + V @ z + q * max_(c) + s)),
            Eq(s.next, tanh(mean(W.s @ x * h) + s / 2)),
            Eq(c.next, tanh(m * (g * c + (1 - g) * tanh(a)) / 2 + dt * cumsum(q * c))),
            Eq(h.next, o * c.next / 2 + sympy.exp(-(c.next**2)) / 3),
        ],
        h,
    )


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
def hostile() -> list[Case]:
    """Legal names that are also words of C, of its library, or of our own text."""
    made = []
    for k in range(0, len(NAMES), 24):
        some, s = NAMES[k : k + 24], states("ss")
        gates = [
            Eq(vectors(v), sigmoid(W[v] @ u + U[v] @ s + b[v]) * stop_gradient(mean(s)))
            for v in some
        ]
        total = sum((e.lhs for e in gates), sympy.S.Zero)
        made.append(case(Cell(f"vectors_{k}", [*gates, Eq(s.next, tanh(total * s + W.b @ u))], s)))
        held = [states(v) for v in some]
        lines = [Eq(s.next, tanh(W[s.name] @ u + U[s.name] @ s) + cumsum(s) / 9) for s in held]
        made.append(case(Cell(f"states_{k}", lines, held[0])))
    for k in range(0, len(SIZE_NAMES), 8):
        some = SIZE_NAMES[k : k + 8]
        sizes = {name: n + 3 for n, name in enumerate(some)}
        plain = [f"S{n}" for n in range(len(some))]
        cell, same = (_sized(f"sizes_{k}", list(names)) for names in (sizes, plain))
        made.append(Case(cell, {"T": 5, "B": 2, "E": 4, **sizes}, same=same))
    made += [case(_mixed(f"members_{k}", k)) for k in range(5)]
    for name in CELL_NAMES:
        made.append(case(Cell(name, [Eq(h.next, tanh(W.a @ x + U.a @ h + b.a))], h)))
    return made


def _sized(name: str, sizes: list[str]) -> Cell:
    """States of these sizes."""
    held = [states(f"s_{k}", size=size) for k, size in enumerate(sizes)]
    lines = [Eq(s.next, tanh(W[s.name] @ u + U[s.name] @ s + b[s.name]) * mean(s)) for s in held]
    return Cell(name, lines, held[0])


def _mixed(name: str, shift: int) -> Cell:
    """Names as those of learned vectors, matrices, inputs, masks and constants, in turns."""
    s = states("ss")
    kinds: list[Callable[[str], Any]] = [
        lambda v: vector(v) * tanh(s),
        lambda v: matrix(v) @ s,
        lambda v: inputs(v, size="H") * s,
        lambda v: masks(v, size="H") * s,
        lambda v: constants(v) * s,
    ]
    terms = [kinds[(k + shift) % len(kinds)](v) for k, v in enumerate(MEMBERS)]
    return Cell(name, [Eq(s.next, tanh(sum(terms, W.b @ u) / 4))], s)


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
    more = [] if standard == "c99" else SEVERAL_AXES.values()
    sources = lay_down(tmp_path, [*REFERENCE, *more], dtype, fixed)
    compile_quietly(tmp_path, sources, compiler, f"-std={standard}", "-O0")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3"])
def test_optimisers_find_nothing_to_warn_about(tmp_path, compiler, level):
    need(compiler)
    sources = lay_down(tmp_path, [cells.get("gru_reset_before"), SEVERAL_AXES["heads"]])
    run(tmp_path, compiler, "-std=gnu99", level, *WARNINGS, "-c", *sources)


def test_odd_cells_compile_without_a_warning(tmp_path):
    need("gcc")
    sources = lay_down(tmp_path, [*odd_cells().values(), *SEVERAL_AXES.values()])
    for target in ("", "-DLSTMGEN_SCALAR"):
        compile_quietly(tmp_path, sources, "gcc", "-std=gnu99", "-O0", *target.split())


def test_text_is_tidy():
    picked = [*REFERENCE, SEVERAL_AXES["heads"], SEVERAL_AXES["matrix_memory"]]
    for cell, fixed in itertools.product(picked, (False, True)):
        sizes = tuple((str(n), 8 * k + 24) for k, n in enumerate(cell.sizes)) if fixed else ()
        for name, text in emitted(cell, "float64", sizes).items():
            lines = text.split("\n")
            assert max(map(len, lines)) <= 100, name
            assert not any(line != line.rstrip() or "\t" in line for line in lines), name
            assert "\n\n\n" not in text, name
            assert "{\n\n" not in text, name


def test_sources_are_about_their_cells():
    """What is the same for all is in the runtime: a source is short enough to be read."""
    for dtype in ("float32", "float64"):
        assert emitted(cells.get("lstm"), dtype, ())["lstm.c"].count("\n") <= 620
    runtimes = {emitted(cell, dtype, ())["lstmgen_runtime.h"]
                for cell in REFERENCE for dtype in ("float32", "float64")}  # fmt: skip
    assert len(runtimes) == 1


def test_no_allocation_and_no_globals(tmp_path):
    need("gcc")
    need("nm")
    run(tmp_path, "gcc", "-std=c99", "-O0", "-c", *lay_down(tmp_path, REFERENCE))
    for cell in REFERENCE:
        symbols = [line.split() for line in run(tmp_path, "nm", f"{cell.name}.o").splitlines()]
        kinds = {fields[-2] for fields in symbols}
        assert kinds <= {"T", "t", "U", "r"}, f"writable data in {cell.name}: {kinds}"
        imported = {fields[-1] for fields in symbols if fields[-2] == "U"}
        allowed = {"exp", "log1p", "tanh", "sqrt", "memcpy", "memset", "memcmp"}
        allowed.add("_GLOBAL_OFFSET_TABLE_")
        assert imported <= allowed, cell.name
        public = {fields[-1] for fields in symbols if fields[-2] == "T"}
        assert public == {f"{cell.name}_{what}" for what in PUBLIC}


PUBLIC = """message tape_size packed_size forward_work_size backward_work_size step_work_size pack
    forward backward step""".split()


def test_the_example_in_the_header_is_a_program(tmp_path):
    need("gcc -fsanitize=address")
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
    """The reference cells and the odd ones, in all the ways that the driver knows."""
    some = [case(cell) for cell in REFERENCE]
    some += [
        case(cell, T=1 + 6 * (k % 3 == 0), B=1 + k % 3)
        for k, cell in enumerate(odd_cells().values())
    ]
    return some


def several_axes() -> list[Case]:
    """Last axes of less than a vec, and of more that are no multiple of one."""
    made = []
    for T, B, sizes in ((3, 4, {"D": 5, "H": 4, "K": 9, "N": 2, "P": 3}),
                        (2, 1, {"D": 6, "H": 5, "K": 2, "N": 3, "P": 13})):  # fmt: skip
        for cell in (SEVERAL_AXES | FIXED).values():
            made.append(case(cell, T, B, **{str(n): sizes[str(n)] for n in cell.sizes}))
    return made


def around_tiles() -> list[Case]:
    """One step, whole tiles and chunks, and all but; more rows than a tile has, or a product."""
    sizes = [
        (1, 1, {"D": 1, "H": 1, "P": 1}), (48, 1, {}), (49, 1, {}), (25, 2, {}), (3, 47, {}),
        (3, 48, {}), (2, 97, {}), (11, 5, {"D": 17, "H": 2, "P": 9}), (257, 1, {}), (129, 2, {}),
        (2, 257, {}), (3, 13, {"D": 40, "H": 33, "P": 17}), (3, 3, {"D": 16, "H": 8, "P": 64}),
    ]  # fmt: skip
    return [
        case(cell, T, B, **{k: v for k, v in more.items() if k in map(str, cell.sizes)})
        for cell in (cells.get("gru_reset_before"), cells.get("lstmp"))
        for T, B, more in sizes
    ]


@pytest.mark.parametrize(
    ("compiler", "flags", "made"),
    [
        ("gcc", [], sanitized),
        ("gcc", ["-march=native"], around_tiles),
        ("gcc", ["-DLSTMGEN_SCALAR"], around_tiles),
        ("clang", [], lambda: [case(cell, T=3) for cell in REFERENCE]),
        ("clang", ["-march=native"], lambda: [case(everything(), T=9), *several_axes()]),
    ],
    ids=["gcc", "gcc-native", "gcc-scalar", "clang", "clang-native"],
)
def test_sanitizers_find_nothing(tmp_path, compiler, flags, made):
    need(f"{compiler} -fsanitize=address,undefined")
    need_processor(flags)
    some = made()
    sources = write(some, tmp_path)
    build(tmp_path, sources, compiler, "-std=c99", "-O0", "-Wall", "-Wextra", "-Werror", *flags,
          *POISONED)  # fmt: skip
    execute(tmp_path)
    compare(some, tmp_path, 1e-12)


def test_valgrind_finds_nothing(tmp_path):
    need("gcc")
    need("valgrind")
    names = ("lstm", "gru_reset_before", "lstm_layernorm", "lstmp")
    some = [case(cells.get(name), T=3) for name in names]
    sources = write(some, tmp_path)
    # not for this very processor: valgrind need not know all of its instructions
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
    need("gcc -fsanitize=address,undefined")
    for dtype, fixed, tolerance in (("float64", True, 1e-13), ("float32", False, 2e-5)):
        folder = tmp_path / dtype
        folder.mkdir()
        sizes = {"D": 5, "H": 4}
        some = [case(cells.get(n), dtype=dtype, **sizes) for n in ("lstm", "gru", "lstm_layernorm")]
        sources = write(some, folder, **(sizes if fixed else {}))
        run(folder, "gcc", "-std=c99", "-O0", "-DPOISON", "-fsanitize=address,undefined", *sources,
            "main.c", "-o", "run", "-lm")  # fmt: skip
        run(folder, "./run", "in.bin", "out.bin")
        compare(some, folder, tolerance)


def test_every_name_is_possible(tmp_path):
    need("gcc")
    some = hostile()
    sources = write(some, tmp_path)
    compile_quietly(tmp_path, sources, "gcc", "-std=gnu99", "-O0")
    objects = [name.replace(".c", ".o") for name in sources]
    objects += kernels(tmp_path, "gcc", "-std=gnu99", "-O0")
    run(tmp_path, "gcc", "-std=gnu99", "-O0", "main.c", *objects, "-o", "run", "-lm")
    run(tmp_path, "./run", "in.bin", "out.bin")
    compare(some, tmp_path, 1e-12)


def test_a_cell_may_be_called_as_shared_files_are(tmp_path):
    need("gcc")
    equations = lstmgen.cells.get("rnn").equations
    for name in ("runtime", "network"):
        files = lstmgen.generate(lstmgen.Cell(name, equations, lstmgen.states("h")), "c")
        for file, text in files.items():
            (tmp_path / file).write_text(text, encoding="utf-8")
        run(tmp_path, "gcc", "-std=c99", "-O0", *WARNINGS, "-c", f"{name}.c")


@pytest.mark.parametrize(
    ("dtype", "flags", "tolerance"),
    [
        ("float64", ["-O0"], 1e-13),
        ("float64", ["-O1", "-march=native"], 1e-13),
        ("float64", ["-O0", "-DLSTMGEN_SCALAR"], 1e-13),
        ("float32", ["-O0"], 1e-5),
        ("float32", ["-O1", "-march=native"], 1e-5),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_every_function_computes_the_right_thing(tmp_path, dtype, flags, tolerance):
    need("gcc")
    need_processor(flags)
    some = [case(cell, dtype=dtype, H=21 if dtype == "float64" else 5) for cell in functions()]
    sources = write(some, tmp_path)
    run(tmp_path, "gcc", "-std=gnu99", *flags, *WARNINGS, "-c", *sources)
    objects = [name.replace(".c", ".o") for name in sources]
    run(tmp_path, "gcc", "-std=gnu99", "-O0", "main.c", *objects, "-o", "run", "-lm")
    run(tmp_path, "./run", "in.bin", "out.bin")
    compare(some, tmp_path, tolerance)


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(cell=made_up_cells(), flags=sampled_from([[], ["-march=native"], ["-DLSTMGEN_SCALAR"]]))
def test_made_up_cells(tmp_path_factory, cell, flags):
    need("gcc -fsanitize=address,undefined")
    flags = [] if platform.machine() != "x86_64" else flags
    folder = tmp_path_factory.mktemp("made_up")
    some = [case(cell)]
    sources = write(some, folder)
    run(folder, "gcc", "-std=c99", "-O0", *WARNINGS, *sources, "-c")
    run(folder, "gcc", "-std=c99", "-O0", "-DPOISON", *flags, "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", *sources, "main.c", "-o", "run", "-lm")  # fmt: skip
    run(folder, "./run", "in.bin", "out.bin")
    with np.errstate(all="ignore"):
        compare(some, folder, 1e-9)


# --------------------------------------------------------------------------- every build of it

BUILDS = {
    "scalar": "gcc -std=c99 -O2 -DLSTMGEN_SCALAR",
    "sse2": "gcc -std=c99 -O3",
    "avx2": "gcc -std=gnu99 -O2 -mavx2 -mfma",
    "native": "gcc -std=c99 -O3 -march=native -ffp-contract=fast",
    "clang-scalar": "clang -std=c99 -O2 -DLSTMGEN_SCALAR",
    "clang-native": "clang -std=c99 -O2 -march=native",
}


@cache
def sizes_of_all_kinds(name: str, dtype: str) -> list[Case]:
    """Whole vectors and not, rows and columns of every remainder, tiles and chunks of steps."""
    cell = everything() if name == "everything" else cells.get(name)
    sizes = [
        (1, 1, 1, 1), (2, 2, 1, 16), (60, 1, 3, 5), (300, 1, 1, 17), (18, 3, 40, 33),
        (9, 7, 3, 33), (6, 13, 40, 17), (5, 50, 3, 5), (2, 97, 1, 8), (90, 3, 16, 16),
    ]  # fmt: skip
    return [
        case(cell, T, B, dtype, D=D, H=H, **({"E": 7, "Q": 9} if name == "everything" else {}))
        for T, B, D, H in sizes
    ]


def rounding(one: Case) -> float:
    """How far a result may be off, as a part of the largest of its kind.

    In units of rounding: one for each term of the longest sum of a step, over the units of all
    operands; for gradients, which are sums over all rows of all steps, what so many errors add up
    to when their signs are any; and a few for what is done between one sum and the next. Measured
    were two fifths of it at the most.
    """
    T, B, *units = one.sizes.values()
    return (16 + 3 * math.sqrt(T * B) + sum(units)) * float(np.finfo(one.dtype).eps) / 2


@pytest.mark.parametrize("build", BUILDS)
def test_every_build_computes_the_same(tmp_path, build):
    need("cffi")
    compiler, *flags = BUILDS[build].split()
    need(compiler)
    need_processor(flags)
    for name, dtype in itertools.product(("lstm", "everything"), ("float32", "float64")):
        folder = tmp_path / name / dtype
        folder.mkdir(parents=True)
        some = sizes_of_all_kinds(name, dtype)
        library = Library(some[0].cell, dtype, folder, compiler, *flags, *WARNINGS)
        for one in some:
            found = library.results(one)
            check(one, found, rounding(one))
            streamed = {f"y {n}": found[f"y {n}, streamed"] for n in one.dy}
            check(one, {**found, **streamed}, rounding(one))
            # packed once or at every call: the very same numbers
            for what in (*streamed, *(f"state {s.name}" for s in one.cell.states)):
                assert same(found[what], found[f"{what}, packed"]), (name, one.sizes, what)
            # kept on a tape or not
            for what in streamed:
                assert same(found[f"{what} from zeros"], found[f"{what} from zeros, no tape"])


def same(a: Any, b: Any) -> bool:
    """Whether two arrays are the same to the last bit."""
    return bool(a.tobytes() == b.tobytes())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("everything", "float32"), ("everything", "float64"), ("heads", "float64")],
)
def test_threads(tmp_path, name, dtype):
    """What several threads compute does not depend on who is first, nor on OpenMP being there."""
    need("gcc -fopenmp")
    need("cffi")
    libraries = []
    cell = everything() if name == "everything" else SEVERAL_AXES[name]
    for flags in ([], ["-fopenmp", "-DLSTMGEN_SHARED=4096"]):
        folder = tmp_path / "".join(flags)
        folder.mkdir(exist_ok=True)
        command = ["gcc", "-std=c99", "-O2", "-mtune=native", *flags, *WARNINGS]
        libraries.append(Library(cell, dtype, folder, *command))
    alone, threaded = libraries
    for T, B, threads, H in (
        (30, 7, 3, 17),  # slices of 3, 2, 2 rows
        (20, 2, 5, 5),  # more threads than rows
        (7, 50, 4, 9),  # 13, 13, 12, 12
        (5, 3, 3, 8),
        (60, 1, 3, 40),  # a single row: threads share products
        (3, 64, 2, 33),
    ):
        sizes = {"D": 40, "H": H, "E": 7, "Q": 9, "N": 3, "P": 5}
        one = case(cell, T, B, dtype, **{str(n): sizes[str(n)] for n in cell.sizes})
        single, sliced = alone.results(one), alone.results(one, threads)
        check(one, sliced, rounding(one))
        for _ in range(3):
            again = threaded.results(one, threads)
            assert [k for k, v in again.items() if not same(v, sliced[k])] == []
        if B == 1:  # there are no slices: threads share products, and add nothing up
            assert [k for k, v in single.items() if not same(v, sliced[k])] == []


# Flags that let a compiler compute something else than what is written.
FAST = [
    "-ffast-math -fno-finite-math-only", "-Ofast -fno-finite-math-only",
    "-funsafe-math-optimizations", "-fassociative-math -fno-signed-zeros -fno-trapping-math",
    "-freciprocal-math", "-fno-signed-zeros", "-ffp-contract=off", "-ffp-contract=fast",
]  # fmt: skip


# --------------------------------------------------------------------------- it refuses misuse


@pytest.fixture(scope="module", params=["lstm", "two_inputs", "fixed", "delta_rule"])
def library(request, tmp_path_factory):
    """(ffi, library, prefix) of a compiled cell."""
    need("gcc")
    need("cffi")
    from cffi import FFI

    folder = tmp_path_factory.mktemp(request.param)
    cell = (odd_cells() | SEVERAL_AXES).get(request.param) or cells.get("lstm")
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
        flat = {a: self.numbers() for a in ("x", "dx", "y", "dy", "tape", "work", "packed")}
        self.given = flat | self.structs
        assert self("pack") == OK
        self.structs["p"].packed = flat["packed"]

    def numbers(self) -> Any:
        self.alive.append(self.ffi.new("double[]", 30000))
        return self.alive[-1]

    def struct(self, kind: str, names: list[str]) -> Any:
        return self.ffi.new(f"{self.cell.name}_{kind} *", {k: self.numbers() for k in names})

    def __call__(self, what: str, n: Any = None, **changed: Any) -> int:
        given = self.given | changed
        arguments = {
            "forward": ["p", "x", "state", "y", "new", "tape", "work"],
            "step": ["p", "x", "state", "y", "new", "work"],
            "backward": ["p", "x", "tape", "dy", "state", "g", "dx", "new", "work"],
            "pack": ["p", "packed"],
        }[what]
        function = getattr(self.lib, f"{self.cell.name}_{what}")
        return int(function(self.n if n is None else n, *(given[a] for a in arguments)))

    def resized(self, **sizes: int) -> Any:
        return self.ffi.new(f"{self.cell.name}_sizes *", {**self.sizes, **sizes})


OK, NULL_ARGUMENT, BAD_SIZE, TOO_LARGE, NOT_PACKED, WRONG_TAPE = range(6)


def test_right_arguments_are_accepted(library):
    call = Call(library)
    null = call.ffi.NULL
    for what in ("forward", "step", "backward"):
        assert call(what) == OK
        assert call(what, state=null) == OK
    assert call("forward", tape=null, new=null) == OK
    assert call("backward", new=null) == OK
    assert call("backward", dx=null) == OK
    assert call("backward", g=null) == OK
    assert call("backward", dx=null, g=null) == OK
    assert call("step", y=null) == OK
    assert call("step", n=call.resized(T=0)) == OK
    assert call("pack", n=call.resized(T=0, B=0)) == OK
    for threads in (1, 2, 3, 2**64 - 1):
        for serial in (0, 1):
            n = call.resized(threads=threads, serial=serial)
            assert call("forward", n=n) == OK
            assert call("backward", n=n) == OK


def test_every_null_is_refused(library):
    call = Call(library)
    null = call.ffi.NULL
    for what, needed in (
        ("forward", ["p", "x", "y", "work"]),
        ("step", ["p", "x", "new", "work"]),
        ("backward", ["p", "x", "tape", "dy", "g", "work"]),
        ("pack", ["p", "packed"]),
    ):
        assert call(what, n=null) == NULL_ARGUMENT
        for argument in needed:
            if argument != "g":  # all of it may be NULL, but no part of it
                assert call(what, **{argument: null}) == NULL_ARGUMENT, (what, argument)
            if argument in call.structs and argument != "new":
                struct = call.structs[argument]
                for member, about in call.ffi.typeof(struct).item.fields:
                    if about.type.kind != "pointer":
                        continue
                    kept = getattr(struct, member)
                    setattr(struct, member, null)
                    wanted = NULL_ARGUMENT
                    if argument == "p" and what == "step":  # which reads what is packed alone
                        wanted = NOT_PACKED if member == "packed" else OK
                    elif member == "packed":
                        wanted = OK
                    assert call(what) == wanted, (what, argument, member)
                    setattr(struct, member, kept)


def test_nothing_is_summed_for_gradients_that_nobody_wants(library):
    call = Call(library)
    null, work = call.ffi.NULL, np.frombuffer(call.ffi.buffer(call.given["work"]))
    learned = [getattr(call.structs["g"], p.name) for p in call.cell.learned]
    gradients = [np.frombuffer(call.ffi.buffer(a)) for a in learned]

    def written(**changed: Any) -> int:
        """The numbers of the workspace that backward writes."""
        work[:] = 0.125
        assert call("backward", **changed) == OK
        return int((work != 0.125).sum())

    assert call("forward") == OK
    every = written()
    entries = [[number(n, call.sizes) for n in call.cell.shape(p)] for p in call.cell.learned]
    for a in gradients:
        a[:] = 0.5
    for dx in (call.given["dx"], null):
        fewer = written(g=null, dx=dx)
        assert fewer + sum(map(math.prod, entries)) <= every  # each entry has a sum of its own
        assert all((a == 0.5).all() for a in gradients)


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
        for what, unread in (("forward", ""), ("step", "T"), ("backward", ""), ("pack", "TB")):
            wanted = OK if name in unread else BAD_SIZE
            assert call(what, n=zero) == wanted, (what, name)
        for buffer in ("tape", "forward_work", "backward_work"):
            assert getattr(call.lib, f"{call.cell.name}_{buffer}_size")(zero) == 0
    for name in library[3]:
        other = call.resized(**{name: call.sizes[name] + 1})
        assert call("forward", n=other) == BAD_SIZE
        assert call("step", n=other) == BAD_SIZE
        assert call("backward", n=other) == BAD_SIZE
        assert call("pack", n=other) == BAD_SIZE
    for buffer in BUFFERS:
        assert getattr(call.lib, f"{call.cell.name}_{buffer}_size")(call.ffi.NULL) == 0


def test_messages(library):
    ffi, lib, cell, _ = library
    said = [ffi.string(getattr(lib, f"{cell.name}_message")(k)).decode() for k in range(7)]
    assert len(set(said)) == 7
    assert said[0] == "no error"
    assert f"{cell.name}_pack" in said[NOT_PACKED]
    assert f"{cell.name}_forward" in said[WRONG_TAPE]
    assert said[6] == "unknown status"


def test_a_tape_of_others_is_refused(library):
    """Backward reads nothing of a tape before it knows that it is for these sizes and slices."""
    call = Call(library)
    assert call("forward") == OK
    assert call("backward") == OK
    for name in call.sizes:
        if name not in library[3]:
            for n in (call.sizes[name] - 1, call.sizes[name] + 1):
                assert call("backward", n=call.resized(**{name: n})) == WRONG_TAPE, (name, n)
    assert call("backward", n=call.resized(threads=2)) == WRONG_TAPE
    assert call("backward", n=call.resized(serial=1)) == OK
    assert call("forward", n=call.resized(threads=3)) == OK
    assert call("backward") == WRONG_TAPE
    assert call("backward", n=call.resized(threads=2)) == OK, "there are two rows, so two slices"
    assert call("backward", tape=call.numbers()) == WRONG_TAPE
    (tape,) = call.alive[-1:]
    call.ffi.memmove(tape, call.given["tape"], 8 * 30000)
    n = call.resized(threads=2)
    assert call("backward", n=n, tape=tape) == OK
    for k in range(64):  # a byte of a label that is another
        as_bytes = call.ffi.cast("unsigned char *", tape)
        as_bytes[k] ^= 1
        assert call("backward", n=n, tape=tape) == WRONG_TAPE, k
        as_bytes[k] ^= 1
    assert call("forward", tape=call.ffi.NULL) == OK


def test_tapes_of_cells_whose_equations_differ(tmp_path):
    """The same name, sizes and layout: the equations tell."""
    need("gcc")
    need("cffi")
    from cffi import FFI

    made = []
    for k, value in enumerate((tanh, sigmoid)):
        folder = tmp_path / str(k)
        folder.mkdir()
        cell = Cell("twin", [Eq(h.next, value(W.h @ x + U.h @ h))], output=h)
        for name, text in lstmgen.generate(cell, "c").items():
            (folder / name).write_text(text, encoding="utf-8")
        run(folder, "gcc", "-std=c99", "-O0", "-fPIC", "-shared", "twin.c", "-o", "it.so", "-lm")
        ffi = FFI()
        ffi.cdef(declarations((folder / "twin.h").read_text(encoding="utf-8")))
        made.append(Call((ffi, ffi.dlopen(str(folder / "it.so")), cell, {})))
    one, other = made
    assert one("forward") == OK
    assert other("backward", tape=other.ffi.cast("double *", one.given["tape"])) == WRONG_TAPE
    assert one("backward") == OK


def test_huge_sizes_are_too_large_and_nothing_wraps(library):
    """Sizes whose products do not fit: never a small number by accident, never a touched array."""
    call = Call(library)
    free = [name for name in call.sizes if name not in library[3]]
    rng = random.Random(0)
    counts = exact(call.cell)
    for k in range(800):
        sizes = {**call.sizes, **{k: rng.getrandbits(rng.randint(1, 64)) or 1 for k in free}}
        sizes["threads"] = rng.getrandbits(rng.randint(1, 64)) if k % 2 else 0
        n = call.resized(**sizes)
        wanted = counts(sizes)
        units = [*call.cell.sizes, *(call.cell.size(s) for s in call.cell.states)]
        sane = all(number(n, sizes) <= (2**64 - 1) // 4096 for n in units)
        fits = {what: sane and count <= (2**64 - 1) // 8 for what, count in wanted.items()}
        arrays = {"step_work": "one", "packed": "parameters"}
        for buffer in BUFFERS:
            right = fits[arrays.get(buffer, "arrays")] and fits[buffer]
            got = getattr(call.lib, f"{call.cell.name}_{buffer}_size")(n)
            assert got == (wanted[buffer] if right else 0), (buffer, sizes)
        # whatever does not fit is refused before anything is touched
        for what, needed in (
            ("forward", ["arrays", "tape", "forward_work"]),
            ("backward", ["arrays", "tape", "backward_work"]),
            ("step", ["one", "step_work"]),
            ("pack", ["parameters", "packed"]),
        ):
            if not all(fits[a] for a in needed):
                assert call(what, n=n) == TOO_LARGE, (what, sizes)


BUFFERS = ("tape", "packed", "forward_work", "backward_work", "step_work")


def exact(cell: Cell) -> Callable[[dict[str, int]], dict[str, int]]:
    """What buffers need, and the largest array, in whole numbers of any size."""
    header = emitted(cell, "float64", ())[f"{cell.name}.h"].replace("\\\n", " ")
    macros = re.findall(rf"#define {cell.name.upper()}_(\w+)\(([^)]*)\) (.*)", header)
    functions: dict[str, Any] = {
        "padded": lambda n: -(-n // 8) * 8,
        "tile": lambda T, B: 1 if B >= 48 else min(48 // B, T),
        "chunk": lambda T, B: 1 if B >= 256 else min(256 // B, T),
    }
    needs = {}
    for name, arguments, body in macros:
        text = re.sub(rf"{cell.name.upper()}_(\w+)\(", lambda m: f"{m[1].lower()}(", body)
        text = text.replace("(size_t)", "").strip()
        if name.endswith("_SIZE"):
            needs[name.removesuffix("_SIZE").lower()] = (
                eval(f"lambda {arguments}: {text}", functions),
                [a.strip() for a in arguments.split(",")],
            )
        elif name.lower() not in functions:  # the room of several blocks
            functions[name.lower()] = eval(f"lambda {arguments}: {text}", functions)
    rows = [("T", "B", *cell.shape(v)) for v in (*cell.inputs, *cell.masks, *cell.outputs)]
    learned = [cell.shape(p) for p in cell.parameters]
    matrices = [(str(shape[0]), str(shape[1])) for shape in learned if len(shape) == 2]

    def counts(sizes: dict[str, int]) -> dict[str, int]:
        sizes = {"1": 1, **sizes}

        def need(what: str, **other: int) -> int:
            count, arguments = needs[what]
            return int(count(*({**sizes, **other}[a] for a in arguments)))

        def largest(shapes: list[Any]) -> int:
            return max(math.prod(sizes[str(n)] for n in shape) for shape in shapes)

        found = {what: need(what) for what in needs}
        slices = max(1, min(sizes.get("threads", 0), sizes["B"], 1024))
        # parameters are packed once, and each slice has a workspace for as many rows as the largest
        back = sum(sizes[m] * functions["padded"](sizes[n]) for m, n in matrices)
        for what, packed in (("forward_work", found["packed"]), ("backward_work", back)):
            one = need(what, B=-(-sizes["B"] // slices)) - packed - 8
            found[what] = 8 + packed + slices * one
        found["arrays"] = largest([*rows, *learned])
        found["parameters"] = largest(learned)
        found["one"] = largest([*(row[1:] for row in rows), *learned])
        # what has no steps or rows is checked with one of each
        found["parameters"] = max(found["parameters"], *(sizes[str(row[-1])] for row in rows))
        return found

    return counts


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("lstm", [["a_i", "a_f", "a_o", "a_g"]], [["a_o", "a_g", "a_f", "a_i"]]),
        # U_n (r ∘ h) is added to a_n after a_r and a_z have been written into it
        ("gru_reset_before", [["a_r", "a_z"], ["a_n"]], [["a_n", "a_z", "a_r"]]),
        ("gru", [["a_n", "a_r", "a_z", "m"]], [["a_n", "a_z", "a_r", "m"]]),
    ],
)
def test_gates_touch_where_what_is_written_over_comes_later(name, forward, backward):
    parts = Parts(cells.get(name), "float64", {})
    for direction, expected in ((parts.forward, forward), (parts.backward, backward)):
        assert [[v.name for v in run] for run in direction.places.tile.runs] == expected


def test_who_may_touch_whom():
    """``after`` has to be written later; a loop with a running sum cannot run backwards."""
    a, b, c = vectors("a"), vectors("b"), vectors("c")
    W, x = weights("W"), inputs("x")
    size = lstmgen.cells.get("lstm").sizes[1]

    def writes(*loops: Loop) -> Writes:
        first = Multiply((c,), (W.c,), (x,), (None,), False)
        return Writes(Pass(((), (first, Fused(loops)), ())))

    together = writes(Loop((size,), (Eq(a, tanh(c)), Eq(b, tanh(a)))))
    assert together.may_touch(a, b) and together.may_touch(c, a)
    assert not together.may_touch(b, a) and not together.may_touch(a, c)
    scanned = writes(Loop((size,), (Eq(a, tanh(c)), Eq(b, cumsum(a)))))
    assert not scanned.may_touch(a, b)
    apart = writes(Loop((size,), (Eq(a, cumsum(c)),)), Loop((size,), (Eq(b, tanh(a)),)))
    assert apart.may_touch(a, b) and not apart.may_touch(b, a)
    free = writes(loop := Loop((size,), (Eq(b, tanh(c)), Eq(a, sigmoid(c)))))
    free.settle([(a, b)])  # neither needs the other
    assert free.may_touch(a, b) and [e.lhs for e in free.equations(loop)] == [a, b]
    needed = writes(loop := Loop((size,), (Eq(b, tanh(c)), Eq(a, sigmoid(b)))))
    needed.settle([(a, b)])
    assert not needed.may_touch(a, b) and [e.lhs for e in needed.equations(loop)] == [b, a]


@pytest.mark.skipif(sys.maxsize < 2**63 - 1, reason="the numbers are for 64 bits")
def test_macros_are_the_functions(tmp_path):
    need("gcc")
    checks = []
    names = ("no_state", "nothing_at_all", "two_inputs", "scalars", "low_rank", "no_matrix")
    picked = [*REFERENCE, *(odd_cells()[name] for name in names), *SEVERAL_AXES.values()]
    picked += [DELAYS["window"], DELAYS["convolution"]]
    for cell in picked:
        fixed = {"H": 7} if "H" in map(str, cell.sizes) and cell.name != "lstm" else {}
        for name, text in lstmgen.generate(cell, "c", **fixed).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        NAME = cell.name.upper()
        for T, B in ((1, 1), (10, 3), (100, 1), (1, 50), (7, 48), (1000, 7), (2, 256), (300, 1)):
            sizes = {str(n): k + 3 for k, n in enumerate(cell.sizes)} | fixed
            members = ", ".join(f".{k} = {v}" for k, v in {"T": T, "B": B, **sizes}.items())
            open_sizes = "".join(f", {v}" for k, v in sizes.items() if k not in fixed)
            for what in BUFFERS:
                lead = {"step_work": f", {B}", "packed": ""}.get(what, f", {T}, {B}")
                arguments = (lead + open_sizes)[2:] or "0"
                checks.append(
                    f"{{ const {cell.name}_sizes n = {{{members}}}; enum {{ count = "
                    f"{NAME}_{what.upper()}_SIZE({arguments}) }};\n    "
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
        assert size(call.resized(T=1000)) == size(call.resized(T=10**9))


# --------------------------------------------------------------------------- the generator


@pytest.mark.parametrize("value", [0, -3, 2.5, True, "4"])
def test_constant_sizes_are_checked(value):
    with pytest.raises(GenerateError, match="the size H is a positive whole number"):
        lstmgen.generate(cells.get("lstm"), "c", H=value)


def test_names_of_macros_are_refused():
    for name in ("M_E", "SIZE_MAX", "LSTMGEN_E", "LSTMGEN_SCALAR", "LSTMGEN_x"):
        cell = Cell("macro", [Eq(h.next, tanh(matrix(name) @ x + U.h @ h))], output=h)
        with pytest.raises(GenerateError, match=f"{name} is a macro of"):
            lstmgen.generate(cell, "c")
    for made in (vectors("LSTMGEN_v"), states("LSTMGEN_v"), states("v", size="LSTMGEN_v")):
        lines = [Eq(made, tanh(W.a @ x))] if made.category == "vector" else []
        lines += [Eq(made.next, tanh(W.a @ x))] if made.category == "state" else []
        with pytest.raises(GenerateError, match="LSTMGEN_v is a macro of"):
            lstmgen.generate(Cell("macro", lines, lines[0].lhs), "c")


def test_names_of_members_are_refused():
    for made in (vector("packed"), matrix("packed") @ h, constants("packed") * h):
        cell = Cell("member", [Eq(h.next, tanh(W.a @ x + U.a @ h + made))], h)
        with pytest.raises(GenerateError, match="packed is a member"):
            lstmgen.generate(cell, "c")
    cell = Cell("member", [Eq(h.next, tanh(W.a @ x + h + vector("accumulate")))], h)
    with pytest.raises(
        GenerateError, match="accumulate is a member that lstmgen adds to member_gr"
    ):
        lstmgen.generate(cell, "c")
    lstmgen.generate(
        Cell("free", [Eq(h.next, tanh(W.a @ x) + constants("accumulate") * h)], h), "c"
    )
    for name in ("threads", "serial"):
        s = states("s", size=name)
        cell = Cell("member", [Eq(s.next, tanh(W.a @ x + U.a @ s))], s)
        with pytest.raises(GenerateError, match=f"{name} is a member"):
            lstmgen.generate(cell, "c")


def test_numbers_too_large_for_the_type_are_refused():
    cell = Cell("large", [Eq(h.next, tanh(1e39 * (W.a @ x) + h))], output=h)
    lstmgen.generate(cell, "c")
    with pytest.raises(GenerateError, match="too large for a float"):
        lstmgen.generate(cell, "c", dtype="float32")


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
    assert sorted(files) == ["lstmgen_runtime.h", "math_cell.c", "math_cell.h"]


@pytest.mark.parametrize("name", ["runtime", "network"])
def test_a_cell_may_be_called_as_what_all_share(name):
    """Headers are not taken for each other, by the words that guard them."""
    need("cffi")
    need("cc")
    cell = Cell(name, [Eq(h.next, tanh(W.a @ x + h))], output=h)
    assert name == lstmgen.compile(cell, "c").CELL


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
