"""C that means the same everywhere: whatever the flags, the processor, the expressions.

Which compiler, which flags and which memory are the subject here; what cells compute in an ordinary
build is tested in ``test_c``.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import sympy
from conftest import need
from driver import (
    AT_THE_END,
    AT_THE_START,
    UNINITIALISED,
    WARNINGS,
    Case,
    build,
    compare,
    compile_quietly,
    execute,
    run,
    write,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sympy import Eq, Max, Min, Ne, Piecewise, Rational
from test_c import (
    FAST,
    FUNCTIONS,
    REFERENCE,
    case,
    everything,
    lay_down,
    need_processor,
    odd_cells,
    several_axes,
)

import lstmgen
from lstmgen import (
    Cell,
    GenerateError,
    cells,
    constants,
    cumsum,
    inputs,
    leaky_relu,
    masks,
    max_,
    mean,
    relu,
    sigmoid,
    silu,
    softplus,
    states,
    step,
    stop_gradient,
    sum_,
    tanh,
    vectors,
    weights,
)
from lstmgen.language import functions as registry

x, h, hd = inputs("x"), states("h"), states("hd", size="D")
W, U = weights("W"), weights("U")


def side_by_side(name: str, expressions: list[Any]) -> Cell:
    """Functions of inputs, each of one of its own: what one makes of NaN is not seen by others."""
    lines = []
    for k, expression in enumerate(expressions):
        given_, state = inputs(f"x{k}", size="H"), states(f"s{k}")
        lines.append(Eq(state.next, expression(given_) + state / 2))
    return Cell(name, lines, lines[0].lhs.at(-1))


# --------------------------------------------------------------------------- flags

# Nothing that overflows in single precision alone.
STEADY: list[Any] = [
    sigmoid, tanh, relu, step, softplus, sympy.exp, sympy.Abs, sympy.sign, sympy.Heaviside, silu,
    leaky_relu, sympy.floor,
    lambda a: Max(a, tanh(a)) + Min(a, Rational(1, 2)),
    lambda a: Piecewise((a, a > 0), (sympy.exp(a), True)),
    lambda a: Piecewise((1 - a, (a < -2) | (a > 2)), (sigmoid(a), Ne(a, 1)), (a, True)),
    lambda a: stop_gradient(max_(a)) + a,
    lambda a: stop_gradient(cumsum(a)) + a / 3,
]  # fmt: skip
SPECIAL = [
    np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-8, -1e-8, 0.5, -0.5, 1, -1, 2, -2, 3, -3, 17.25, -17.25,
    30, -30, 60, -60, 1e30, -1e30,
]  # fmt: skip


@cache
def special(dtype: str) -> Case:
    """NaN and infinity among other numbers, and rows of them alone."""
    made = case(side_by_side("special", STEADY), T=1, B=4, dtype=dtype, H=len(SPECIAL))
    for number, given_ in enumerate(made.x.values()):
        given_[0, 1] = np.roll(SPECIAL, number)
        given_[0, 2] = -np.inf
        given_[0, 3] = [*SPECIAL[3:], 1, 2, 3]
    with np.errstate(all="ignore"):
        assert np.isnan(made.expected[f"y {made.cell.output.name}"]).any()
        assert np.isposinf(made.expected["state s2"]).any()
    return made


@pytest.mark.parametrize(
    ("flags", "compiler", "dtype"),
    [
        (flags, compiler, ("float32", "float64")[(number + turn) % 2])
        for number, flags in enumerate(FAST)
        for turn, compiler in enumerate(("gcc", "clang"))
    ],
)
def test_flags_for_floating_point_change_nothing(tmp_path, compiler, flags, dtype):
    """Neither numbers nor what becomes of NaN and infinity."""
    need(compiler)
    some = [special(dtype)]
    sources = write(some, tmp_path)
    for target in ("-march=native", "-DLSTMGEN_SCALAR"):
        need_processor([target])
        run(tmp_path, compiler, "-std=c99", "-O2", *flags.split(), target, *WARNINGS, "-c",
            *sources)  # fmt: skip
        objects = [name.replace(".c", ".o") for name in sources]
        build(tmp_path, objects, compiler)  # -Ofast would make denormals zeros
        execute(tmp_path)
        compare(some, tmp_path, {"float32": 1e-6, "float64": 1e-15}[dtype])  # of one function


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "command",
    [
        "gcc -Ofast -fno-finite-math-only -march=native",
        "gcc -O2 -ffast-math -fno-finite-math-only -DLSTMGEN_SCALAR",
        "clang -Ofast -fno-finite-math-only",
    ],
)
def test_cells_compute_the_same_with_fast_math(tmp_path, command, dtype):
    compiler, *flags = command.split()
    need(compiler)
    need_processor(flags)
    some = [case(cells.get(name), dtype=dtype) for name in ("lstm_layernorm", "gru")]
    some.append(case(everything(), T=9, dtype=dtype))
    sources = write(some, tmp_path)
    run(tmp_path, compiler, "-std=c99", *flags, *WARNINGS, "-c", *sources)
    build(tmp_path, [name.replace(".c", ".o") for name in sources], compiler)
    execute(tmp_path)
    compare(some, tmp_path, {"float32": 2e-5, "float64": 1e-12}[dtype])  # as without the flags


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_compilers_may_not_give_nan_away(tmp_path, compiler, flags):
    """They do it at every call, and after everything that a pragma could say: they are refused."""
    need(compiler)
    sources = lay_down(tmp_path, [cells.get("rnn")])
    with pytest.raises(AssertionError, match="add -fno-finite-math-only after -ffast-math"):
        run(tmp_path, compiler, flags, "-fsyntax-only", *sources)
    run(tmp_path, compiler, flags, "-fno-finite-math-only", "-fsyntax-only", *sources)


# --------------------------------------------------------------------------- processors

# x87 computes with more digits than a number has; without SSE it is all there is.
NARROW = ["-m32", "-m32 -msse2", "-m32 -msse2 -mfpmath=sse", "-m32 -std=gnu99"]


@pytest.mark.parametrize(
    ("compiler", "target"),
    [*(("gcc", target) for target in NARROW), ("clang", "-m32"), ("clang", "-m32 -msse2")],
)
def test_thirty_two_bits(tmp_path, compiler, target):
    flags = target.split()
    need(" ".join([compiler, *flags]))
    need_processor(flags)
    for dtype, tolerance in (("float32", 2e-5), ("float64", 1e-12)):
        some = [case(cells.get(name), dtype=dtype) for name in ("lstm", "gru_reset_before")]
        some.append(case(everything(), dtype=dtype))
        some.append(case(side_by_side("each", FUNCTIONS), T=1, dtype=dtype))
        folder = tmp_path / dtype
        folder.mkdir()
        sources = write(some, folder)
        build(folder, sources, compiler, "-std=c99", *flags, "-O0", *AT_THE_END)
        execute(folder)
        compare(some, folder, tolerance)  # as with 64 bits


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os", "-Oz"])
@pytest.mark.parametrize("target", ["", "-DLSTMGEN_SCALAR", "-m32", "-m32 -msse2"])
def test_no_level_finds_anything_to_warn_about(tmp_path, compiler, level, target):
    flags = target.split()
    need(" ".join([compiler, level, *flags]))
    sources = lay_down(tmp_path, [everything()], "float32" if "Os" in level else "float64")
    compile_quietly(tmp_path, sources, compiler, "-std=gnu99", level, *flags)


# --------------------------------------------------------------------------- what is not used


@cache
def single_functions() -> list[Cell]:
    """One function of the language a cell, and next to nothing else."""
    uses: list[Any] = [*FUNCTIONS, lambda a: a**2, lambda a: a**3, lambda a: 1 / a]
    for function in (*registry.FUNCTIONS, Piecewise, mean, sum_, max_, cumsum):
        if function is Piecewise:
            uses.append(lambda a: Piecewise((a, a > 0), (-a, True)))
        elif 1 in function.nargs and function not in (Max, Min):
            uses.append(function)
        else:
            uses.append(lambda a, function=function: function(a, 2))
    od = vectors("od", size="D")
    made = []
    for number, function in enumerate(uses):
        made.append(Cell(f"alone_{number}", [Eq(od, function(x) + x)], od))
    for number, function in enumerate(uses[len(FUNCTIONS) :]):
        made.append(Cell(f"fed_{number}", [Eq(h.next, function(W.a @ x + h) * h)], h))
    return made


@pytest.mark.parametrize(("compiler", "target"), [("gcc", ""), ("clang", "-DLSTMGEN_SCALAR")])
def test_there_is_no_function_that_nothing_calls(tmp_path, compiler, target):
    need(compiler)
    sources = lay_down(tmp_path, [*single_functions(), *odd_cells().values()])
    compile_quietly(tmp_path, sources, compiler, "-std=c99", "-O0", *target.split())


# --------------------------------------------------------------------------- expressions

CONSTANTS = [constants("dt", 0.43), constants("tau", 1.7), constants("kappa", 2.3)]
_EXPONENTS = [2, 3, -1, -2, Rational(1, 2), Rational(-1, 2), Rational(-3, 2), 0.7, CONSTANTS[0]]


# What is positive stays positive: of that there are powers, roots and logarithms.
ONE = masks("one", size=1)
KEEPERS: list[Any] = [
    lambda p, q, c: p + q,
    lambda p, q, c: p * q,
    lambda p, q, c: p / q,
    lambda p, q, c: p ** (q / (1 + q)),
    lambda p, q, c: sympy.exp(-p),
    lambda p, q, c: sympy.log(1 + p),
    lambda p, q, c: sympy.sqrt(p),
    lambda p, q, c: stop_gradient(p * CONSTANTS[0]),
    lambda p, q, c: Max(p, q),
    lambda p, q, c: Min(p, q),
    lambda p, q, c: Piecewise((p, c), (q, True)),
    *(lambda p, q, c, e=e: p**e for e in _EXPONENTS),
]
SIGNED: list[Any] = [
    lambda p, q, s: p,
    lambda p, q, s: p - q,
    lambda p, q, s: p * s,
    lambda p, q, s: s / p,
    lambda p, q, s: -s * tanh(p),
    lambda p, q, s: relu(s + p) - q,
]


@st.composite
def positive(draw: Any, v: Any, depth: int) -> Any:
    """An expression of numbers, constants, single numbers and a vector, all positive."""
    if depth == 0 or draw(st.booleans()):
        numbers = [sympy.Integer(2), Rational(1, 3), sympy.pi, sympy.sqrt(2), sympy.cos(2) + 1]
        others = [sigmoid(v), sympy.exp(ONE / 3), 1 + mean(v**2)]
        return draw(st.sampled_from([*CONSTANTS, *numbers, *others]))
    p, q = draw(positive(v, depth - 1)), draw(positive(v, depth - 1))
    return draw(st.sampled_from(KEEPERS))(p, q, draw(conditions(v, depth - 1)))


@st.composite
def conditions(draw: Any, v: Any, depth: int) -> Any:
    p, q = draw(positive(v, depth)), draw(positive(v, depth))
    one, other = draw(st.sampled_from([p < q, p >= q])), v < draw(st.sampled_from(CONSTANTS))
    return draw(st.sampled_from([one, ~one, one & other, one | other, ~(one & ~other)]))


@st.composite
def terms(draw: Any, v: Any) -> Any:
    """Such an expression, or what can have either sign."""
    p, q = draw(positive(v, 2)), draw(positive(v, 2))
    sign = draw(st.sampled_from([v, ONE, mean(v), sympy.cos(2), -CONSTANTS[0]]))
    return draw(st.sampled_from(SIGNED))(p, q, sign)


@st.composite
def cells_of_terms(draw: Any) -> Cell:
    """Some expressions, each of a vector of its own, on their own or within others."""
    lines = []
    for number in range(draw(st.integers(1, 6))):
        given_, state = inputs(f"x{number}", size="H"), states(f"s{number}")
        term = draw(terms(given_).filter(_moderate))
        if draw(st.booleans()):
            whole = vectors(f"u{number}")
            lines.append(Eq(whole, term))
            term = whole
        lines.append(Eq(state.next, tanh(term) * state + state / 3 + given_))
    return Cell("terms", lines, state)


def _moderate(e: Any) -> bool:
    """Whether all that is computed on the way is of a size that both precisions can do with."""
    plain = e.replace(mean, lambda a: a).replace(stop_gradient, lambda a: a)
    usual = {"mask": 0.6, "input": -0.8}
    values = {v: usual.get(v.category, v.value) for v in plain.free_symbols}
    for part in sympy.preorder_traversal(plain):
        if isinstance(part, sympy.Expr) and part.args:
            value = part.replace(sigmoid, lambda a: 1 / (1 + sympy.exp(-a))).xreplace(values)
            value = value.replace(relu, lambda a: Max(a, 0)).evalf()
            if not (value.is_real and abs(value) < 300):
                return False
    return True


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(cell=cells_of_terms(), dtype=st.sampled_from(["float64", "float32"]))
def test_expressions_of_numbers_and_vectors(tmp_path_factory, cell, dtype):
    """Numbers of C beside vecs of C, in any mixture, in every build."""
    need("gcc")
    need("clang")
    folder = tmp_path_factory.mktemp("terms")
    some = [case(cell, T=2, dtype=dtype)]
    sources = write(some, folder)
    for compiler, target in itertools.product(("gcc", "clang"), ("-O0", "-DLSTMGEN_SCALAR")):
        run(folder, compiler, "-std=c99", target, *WARNINGS, "-c", *sources)
        build(folder, [name.replace(".c", ".o") for name in sources], compiler)
        execute(folder)
        # powers of what is near zero make much of a rounding: a part in ten thousand is left of it
        compare(some, folder, {"float64": 1e-10, "float32": 1e-3}[dtype])


def printed(right: Any) -> str:
    """How an expression of h is written in the step."""
    text = lstmgen.generate(Cell("one", [Eq(h.next, right), Eq(hd.next, x + hd)], h), "c")["one.c"]
    return re.findall(r"\bh\[j\] = ((?:.|\n)*?);", text)[0]


def test_a_number_is_a_vec_where_a_function_wants_one():
    dt, tau = CONSTANTS[:2]
    assert printed(sympy.exp(-1 / dt**2) * h) == "splat_f64(p_h_at[0]) * h_prev[j]"
    cell = Cell("one", [Eq(h.next, sympy.exp(-1 / dt**2) * h), Eq(hd.next, x + hd)], h)
    assert (
        "p_h = exp_f64(splat_f64(-1.0 / (p->dt * p->dt)))" in lstmgen.generate(cell, "c")["one.c"]
    )
    assert printed(h * dt * tau) == "p->dt * p->tau * h_prev[j]"
    assert printed(stop_gradient(dt) + h**3) == "cube_f64(h_prev[j]) + p->dt"
    assert re.fullmatch(
        r"larger_f64\((splat_f64\(p->dt\)|, |h_prev\[j\]){3}\)", printed(Max(dt, h))
    )


def test_no_sign_follows_a_sign():
    """Two would be a decrement."""
    dt = CONSTANTS[0]
    for right in (-sympy.cos(2) * h, -sympy.cos(2) * dt + h, -sympy.log(2, evaluate=False) * h):
        assert "--" not in printed(right)


@pytest.mark.parametrize("number", [sympy.oo, sympy.nan, sympy.I, sympy.zoo, sympy.sqrt(-2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_real_number_is_refused(number, dtype):
    with pytest.raises((GenerateError, lstmgen.CellError)):
        lstmgen.generate(Cell("odd", [Eq(h.next, h * number + tanh(h))], h), "c", dtype=dtype)


# --------------------------------------------------------------------------- memory


def watched(turn: int, turns: int) -> list[Case]:
    """Of all cells those whose turn it is, and one that has everything."""
    some = [case(cell) for cell in (*REFERENCE, *odd_cells().values())] + several_axes()
    some = some[turn::turns]
    some += [case(everything(), T=T, B=B, D=D, H=H) for T, B, D, H in
             ((9, 2, 3, 5), (3, 1, 16, 8), (2, 7, 5, 33))]  # fmt: skip
    return some


def memory_builds() -> list[Any]:
    """Each cell under MemorySanitizer once, and once beside pages that cannot be touched."""
    return [
        ("clang", ["-O0", *UNINITIALISED], 0, 2),
        ("clang", ["-O0", "-march=native", *UNINITIALISED], 1, 2),
        ("gcc", ["-O1", *AT_THE_END], 0, 4),
        ("gcc", ["-O0", "-march=native", *AT_THE_START], 1, 4),
        ("clang", ["-O0", "-march=native", *AT_THE_END], 2, 4),
        ("gcc", ["-O0", "-DLSTMGEN_SCALAR", *AT_THE_END], 3, 4),
    ]


@pytest.mark.parametrize(
    ("compiler", "flags", "turn", "turns"),
    memory_builds(),
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_memory_is_written_first_and_within_bounds(tmp_path, compiler, flags, turn, turns):
    need(" ".join([compiler, *flags]))
    need_processor(flags)
    some = watched(turn, turns)
    build(tmp_path, write(some, tmp_path), compiler, "-std=c99", *flags)
    execute(tmp_path)
    compare(some, tmp_path, 1e-12)


@pytest.mark.parametrize(
    ("compiler", "flags", "right", "wrong"),
    [
        ("clang", UNINITIALISED, r"expect\(rnn_forward\(&n, &p, x, &initial.*\n", ""),
        ("gcc", AT_THE_END, r"rnn_tape_size\(&n\)", "(rnn_tape_size(&n) - 1)"),
        ("gcc", AT_THE_START, r"put\(out, y,", "y[-1] = 0;\n    put(out, y,"),
    ],
)
def test_the_watch_is_awake(tmp_path, compiler, flags, right, wrong):
    """A tape that is read before it is written, or is short of a number: the program ends there."""
    need(" ".join([compiler, *flags]))
    some = [case(cells.get("rnn"), H=8)]
    sources = write(some, tmp_path)
    main = tmp_path / "main.c"
    text = main.read_text(encoding="utf-8")
    assert re.search(right, text)
    main.write_text(re.sub(right, wrong, text, count=1), encoding="utf-8")
    build(tmp_path, sources, compiler, "-std=c99", "-O0", *flags)
    with pytest.raises(AssertionError):
        execute(tmp_path)
