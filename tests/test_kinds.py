"""Kinds of cells that are easily compiled wrong, each made up in many ways, for NumPy and C.

They run as those of ``fuzz`` do: at random points and where kinks are hit and values tie, in memory
that is NaN, held against a direct evaluation of the equations.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import driver
import fuzz
import numpy as np
import pytest
import sympy
from conftest import need
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Abs, Eq, Max, Min, Piecewise, Rational, exp, log, sqrt

from lstmgen import (
    Cell,
    LstmgenError,
    biases,
    check,
    compile,
    constants,
    derive,
    generate,
    inputs,
    matrix,
    max_,
    mean,
    named,
    online,
    plan,
    relu,
    sigmoid,
    states,
    stop_gradient,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.planning.invariants import require_sound
from lstmgen.planning.operations import Fused, Loop, Multiply, Pass

x, u, v = inputs("x"), inputs("u", size="E"), inputs("v", size="H")
h, c = states("h c")
s = states("s", size=1)
a, b, e, g = vectors("a b e g")
one = vectors("one", size=1)
W, U, B = weights("W"), weights("U"), biases("b")
n, dt = constants("n", 2.0), constants("dt", 0.4)
leak = vector("leak", size=1, init=0.3)
leaky, S = vector("leaky"), matrix("S", "H", "H")
row = matrix("M", rows=1)
drive = tanh(W.a @ x + U.a @ h)

_count = 0


def cell(*equations: Eq, output: Any = h) -> Cell:
    global _count
    _count += 1
    return Cell(f"kind_{_count}", equations, output=output)


def assert_right(made: Cell, seeds: range = range(4), dtype: str = "float64") -> None:
    """In both targets, at several points of several sizes."""
    need("cc")
    need("cffi")
    numpy = compile(made, "numpy")
    vars(numpy)["np"] = fuzz._Poisoned()
    modules = [numpy, compile(made, "c", dtype=dtype)]
    for seed in seeds:
        for module in modules:
            said = fuzz.judge_module(module, fuzz.points(made, seed, dtype))
            assert said == "right"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time for the optimiser: what is wrong is wrong without it."""
    monkeypatch.setenv("CFLAGS", "-O0")


# --------------------------------------------------------------------------- one number for all

WIDE_FROM_ONE: dict[str, Callable[[], list[Eq]]] = {
    "a product": lambda: [Eq(b, row @ h), Eq(h.next, drive * b + b)],
    "a sum of two": lambda: [Eq(b, row @ h + matrix("N", rows=1) @ x), Eq(h.next, drive - b)],
    "one and many": lambda: [Eq(b, row @ h + W.b @ x), Eq(h.next, drive + b / 3)],
    "with a bias": lambda: [Eq(b, row @ h + B.b), Eq(h.next, drive * b)],
    "a negative one": lambda: [Eq(b, -(row @ h) / 2), Eq(h.next, drive + b)],
    "a state": lambda: [Eq(c.next, row @ h), Eq(h.next, drive * sigmoid(c))],
    "a mean": lambda: [Eq(a, W.c @ x + U.c @ h), Eq(b, mean(a)), Eq(h.next, tanh(a - b))],
    "a sum over units": lambda: [Eq(a, W.c @ x), Eq(b, sum_(a * h) / 4), Eq(h.next, drive - b)],
    "a maximum": lambda: [Eq(a, W.c @ x), Eq(b, max_(a * h)), Eq(h.next, tanh(a - b) + h / 2)],
    "an operand": lambda: [Eq(b, row @ h), Eq(h.next, drive + U.b @ b + U.c @ (b * h))],
    "a gate of it": lambda: [Eq(b, sigmoid(row @ h)), Eq(h.next, b * h + (1 - b) * drive)],
    "a function twice": lambda: [
        Eq(b, tanh(s)), Eq(h.next, drive * b), Eq(s.next, tanh(s) + mean(h.next) / 2)],
    "a square twice": lambda: [
        Eq(b, s**2 / 3), Eq(one, tanh(s**2 / 3)), Eq(h.next, drive * b + one), Eq(s.next, one)],
    "the state itself": lambda: [Eq(b, s), Eq(s.next, mean(drive)), Eq(h.next, drive * b)],
    "a learned one": lambda: [Eq(b, leak), Eq(c.next, b * h), Eq(h.next, drive * leak + c / 2)],
}  # fmt: skip


@pytest.mark.parametrize("kind", WIDE_FROM_ONE)
def test_one_number_is_broadcast_to_all_units(kind: str) -> None:
    assert_right(cell(*WIDE_FROM_ONE[kind]()))


def test_the_slope_of_a_number_is_not_summed_over_units_that_share_its_formula() -> None:
    """s.next reads tanh(s), one number, though b, which has H units, is tanh(s) too."""
    made = derive(cell(*WIDE_FROM_ONE["a function twice"]()))
    for line in made.adjoints:
        if line.lhs.name == "s" and line.lhs.category == "carry":
            assert b not in line.rhs.atoms()


# --------------------------------------------------------------------------- products read twice


@pytest.mark.parametrize("factor", [1, -1, 2, Rational(1, 2), Rational(-2, 3)])
def test_a_product_read_twice(factor: Any) -> None:
    again = factor * (U.a @ h)
    assert_right(cell(Eq(a, U.a @ h), Eq(b, a + again), Eq(h.next, tanh(W.a @ x + b))))
    assert_right(
        cell(Eq(a, U.a @ h + B.a), Eq(b, again + B.b), Eq(h.next, tanh(W.a @ x + a + 3 * b)))
    )


def test_a_matrix_and_its_transpose_twice() -> None:
    assert_right(
        cell(Eq(a, U.a @ h + U.a.T @ c), Eq(b, U.a @ h + a), Eq(c.next, b / 4 + W.a @ x),
             Eq(h.next, tanh(a + b)))
    )  # fmt: skip


# --------------------------------------------------------------------------- learned scalars


MATRIX = matrix("V", "H", "H")
REDUCED: dict[str, Callable[[], list[Eq]]] = {
    "in a gate": lambda: [Eq(h.next, drive + h / sum_(MATRIX**2, 1) * (MATRIX @ h))],
    "under a name": lambda: [Eq(b, mean(MATRIX**2, 0)), Eq(h.next, drive * b)],
    "to one number": lambda: [
        Eq(s.next, s / 2 + max_(max_(abs(MATRIX), 1))), Eq(h.next, drive * s + MATRIX @ h)],
    "a product": lambda: [Eq(h.next, drive * mean(MATRIX @ B.b) + sum_((MATRIX @ MATRIX)**2, 0))],
}  # fmt: skip


@pytest.mark.parametrize("kind", REDUCED)
def test_a_step_reads_what_a_matrix_is_reduced_to(kind: str) -> None:
    made = cell(*REDUCED[kind]())
    assert_right(made)
    report = check(made)
    assert report.passed, f"forward mode, too:\n{report}"


@pytest.mark.parametrize("users", [2, 3])
def test_a_learned_scalar_in_several_equations(users: int) -> None:
    equations = [Eq(h.next, (1 - leak) * h + leak * drive)]
    if users == 3:
        equations.insert(0, Eq(one, sigmoid(leak + row @ x)))
        equations[-1] = Eq(h.next, (1 - leak) * h * one + leak * drive)
    equations.append(Eq(c.next, (1 - leak) * c + leak * h.next + mean(leak * h) / 3))
    assert_right(cell(*equations, output=c))


@pytest.mark.parametrize("sizes", [(1, "H"), ("H", 1), (1, "H", 1), (3, 1, "H"), (1, 1)])
def test_biases_of_gates_of_several_sizes(sizes: tuple[Any, ...]) -> None:
    gates = [vectors(f"g{k}", size=size) for k, size in enumerate(sizes)]
    equations = [Eq(z, tanh(W[z.name] @ x + B[z.name])) for z in gates]
    used = sum((z if z.axes[0] in ("1", "H") else mean(z)) * (k + 1) for k, z in enumerate(gates))
    assert_right(cell(*equations, Eq(h.next, h * used / 3 + drive)))


# --------------------------------------------------------------------------- powers, kinks, ties

BASES = [relu(h), Abs(h), Abs(h * v), relu(a) * sigmoid(h), 1 + sigmoid(h)]
EXPONENTS = [n, n / 2 + Rational(1, 2), 1 + sigmoid(a), vector("p", init=1.5), 1 + leak**2, dt + 1]


@pytest.mark.parametrize("exponent", range(len(EXPONENTS)))
@pytest.mark.parametrize("base", range(len(BASES)))
def test_powers_of_what_may_be_zero(base: int, exponent: int) -> None:
    power = BASES[base] ** EXPONENTS[exponent]
    assert_right(cell(Eq(a, W.a @ x + U.a @ h), Eq(h.next, power / (2 + power) + a / 4)), range(2))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_the_slope_of_a_power_at_zero(exponent: float) -> None:
    """As PyTorch has it: 0 where the exponent is 0, 1 for 1, infinite below 1, else 0."""
    made = cell(Eq(h.next, relu(h) ** n + W.a @ x))
    module = compile(made, "numpy")
    params = module.init(2, 3, dtype=np.float64, n=exponent)
    y, _, tape = module.forward(params, np.zeros((1, 1, 2)), {"h": np.zeros((1, 3))})
    with np.errstate(divide="ignore", invalid="ignore"):
        _, _, first = module.backward(params, tape, np.ones_like(y))
    assert np.all(y == 0.0**exponent)
    # relu has slope 0 at 0, and infinity times that is not a number in PyTorch either
    assert np.all(np.isnan(first["h"]) if 0 < exponent < 1 else first["h"] == 0)


TIES = {
    "three": Max(a, b, c), "least of three": Min(a, b, c), "four": Max(a, b, c, h),
    "with a number": Max(a, 0, b), "of expressions": Max(a * h, b - a, h / 2, c),
    "in a function": tanh(Min(a, b, h)) * Max(a, b, c), "two": Max(a, b) + Min(a, h),
    "nested": Max(a, Min(b, c, h), h), "the same to a sign": Max(tanh(a), tanh(-a), 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIES)
def test_arguments_that_tie_share_the_slope(kind: str) -> None:
    made = cell(Eq(a, W.a @ x), Eq(b, W.b @ x + h / 2), Eq(c.next, a / 2),
                Eq(h.next, TIES[kind] / 2 + W.c @ x + b / 7 + c / 3))  # fmt: skip
    assert_right(made)


@pytest.mark.parametrize("target", ["numpy", "c"])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("extreme", [Max, Min])
def test_shares_add_up_to_one(extreme: Any, count: int, target: str) -> None:
    need("cffi")
    xs = inputs(" ".join(f"x{k}" for k in range(count)), size="H")
    made = cell(Eq(h.next, extreme(*xs) + h / 2))
    module = compile(made, target, dtype="float64")
    same = np.random.default_rng(0).normal(size=(3, 2, 5))
    y, _, tape = module.forward({}, {v.name: same for v in xs})
    _, dx, _ = module.backward({}, tape, np.ones_like(y))
    shares = [dx[v.name] for v in xs]
    for share in shares:
        np.testing.assert_allclose(share, shares[0], rtol=1e-15)
        np.testing.assert_allclose(count * share, sum(shares), rtol=1e-15)
    np.testing.assert_allclose(sum(shares)[-1], np.ones((2, 5)), rtol=1e-15)


OPERANDS = [a * h * c + h, sigmoid(a) * tanh(h) * c + h, a - h / 3, exp(a) * h, a**3 * c, 3 * a,
            Abs(a) - c, a * leak]  # fmt: skip


@pytest.mark.parametrize("operand", OPERANDS, ids=str)
def test_the_largest_of_an_expression(operand: Any) -> None:
    """Its unit is found by its value, which has to be the same bits in both passes."""
    made = cell(Eq(a, W.a @ x), Eq(h.next, tanh(a - max_(operand)) + c / 5),
                Eq(c.next, h.next / 2))  # fmt: skip
    assert_right(made, range(6))


ABSOLUTE = [sqrt(sigmoid(a)) - Rational(1, 2), log(sigmoid(a)) + 1, a**3 - h, sigmoid(a) ** 1.5 - h,
            exp(-(a**2)) - sqrt(1 + h**2) / 2, sqrt(Abs(a)) - 1, Max(a, h) - 1,
            Piecewise((a, a > 0), (h, True))]  # fmt: skip


@pytest.mark.parametrize("inner", ABSOLUTE, ids=str)
def test_the_absolute_value_of_an_expression(inner: Any) -> None:
    assert_right(cell(Eq(a, W.a @ x + U.a @ h), Eq(h.next, tanh(Abs(inner)) + h / 3)))


# --------------------------------------------------------------------------- conditions

_RELATIONS = [a > 0, h > 0, a > h, a + h <= 1, sympy.Ne(h, 0), Eq(a * h, 0)]


@st.composite
def conditions(draw: Any, depth: int = 3) -> Any:
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(_RELATIONS))
    function = draw(
        st.sampled_from([sympy.And, sympy.Or, sympy.Xor, sympy.Implies, sympy.Equivalent,
                         sympy.Nand, sympy.Nor, sympy.Not, sympy.ITE])
    )  # fmt: skip
    arity = {sympy.Not: 1, sympy.ITE: 3}.get(function, 2)
    return function(*(draw(conditions(depth=depth - 1)) for _ in range(arity)))


@given(conditions(), conditions())
@settings(max_examples=12)
def test_conditions(first: Any, second: Any) -> None:
    chosen = Piecewise((tanh(a), first), (h / 2, second), (sigmoid(a * h), True))
    assert_right(cell(Eq(a, W.a @ x), Eq(h.next, chosen + W.b @ x)), range(2))


def test_a_power_of_pieces() -> None:
    """Whose slope by the exponent asks whether the base is zero."""
    for piece in (
        Piecewise((dt, dt > Rational(1, 2)), (dt**2, True)),
        Piecewise((a, h > 0), (h, True)),
    ):
        power = (1 + sigmoid(h - piece)) ** tanh(h - piece)
        assert_right(cell(Eq(a, W.a @ x), Eq(h.next, a * power / 3 + h / 2)), range(2))


def test_a_function_of_pieces_in_pieces() -> None:
    def leaky(z: Any) -> Any:
        return Piecewise((z, z > 0), (z / 5, True))

    assert_right(cell(Eq(h.next, leaky(leaky(leaky(h) - 0.3) + Rational(1, 4)) + tanh(W.a @ x))))


# --------------------------------------------------------------------------- tails

_TAILS = np.array([-700.0, -300.0, -100.0, -85.0, -60.0, -38.0, -17.5, -3.0, 0.0, 3.0, 30.0, 80.0])


@pytest.mark.parametrize("target", ["numpy", "c"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_sigmoid_has_a_tail(dtype: str, target: str) -> None:
    """To a few units in the last place, wherever it is a normal number."""
    need("cffi")
    module = compile(cell(Eq(h.next, sigmoid(v) + 0 * h)), target, dtype=dtype)
    at = _TAILS[np.log(np.finfo(dtype).tiny) < _TAILS].astype(dtype)
    with np.errstate(all="raise"):
        y, _, _ = module.forward({}, at.reshape(1, 1, -1))
        module.forward({}, np.full((1, 1, 3), -1e4, dtype))
    exact = at.astype(np.longdouble)
    exact = np.where(exact < 0, np.exp(exact), 1) / (1 + np.exp(-abs(exact)))
    error = np.abs(y[0, 0] / exact - 1)
    assert error.max() < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("target", ["numpy", "c"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("named_gate", [False, True])
def test_the_logarithm_of_a_gate(named_gate: bool, dtype: str, target: str) -> None:
    """Where the gate itself is too small for any number."""
    need("cffi")
    equations = [Eq(h.next, log(sigmoid(v)) + h)]
    if named_gate:
        equations = [Eq(g, sigmoid(v)), Eq(h.next, log(g) + h * g)]
    module = compile(cell(*equations), target, dtype=dtype)
    at = np.array([-1e4, -800.0, -90.0, -18.0, -1.0, 0.0, 5.0], dtype)
    y, _, tape = module.forward({}, at.reshape(1, 1, -1))
    exact = -np.logaddexp(0.0, -at.astype(float))
    np.testing.assert_allclose(y[0, 0], exact, rtol=1e-6 if dtype == "float32" else 1e-14)
    _, dx, _ = module.backward({}, tape, np.ones_like(y))
    assert np.isfinite(dx).all()
    np.testing.assert_allclose(dx[0, 0], -np.expm1(exact), rtol=1e-6, atol=1e-30)


# --------------------------------------------------------------------------- what lies side by side


def assert_fuzz_finds_nothing(*arguments: str) -> None:
    """In a process that may fork: this one has the threads of other libraries."""
    need("gcc")
    need("clang")
    done = subprocess.run(
        [sys.executable, fuzz.__file__, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@given(st.integers(0, 2**30))
@settings(max_examples=6)
def test_blocks_that_touch(seed: int) -> None:
    """Gates of many products, at sizes that are no multiple of a vector, in every build of C."""
    assert_fuzz_finds_nothing("--target", "c", "--seed", str(seed), "--cells", "3")


@pytest.mark.parametrize("H", [1, 5, 9, 16, 17])
def test_a_block_after_blocks_that_touch(H: int) -> None:
    """δa_g and δa_z make δx together, but δa_g touches what is before it, and δa_z nothing."""
    z = vectors("z")
    made = cell(Eq(g, tanh(W.g @ x + W.u @ u)), Eq(z, tanh(W.z @ x + W.q @ (g * h))),
                Eq(h.next, g * z + tanh(W.u @ u)))  # fmt: skip
    module = compile(made, "c")
    for seed in range(3):
        assert fuzz.judge_module(module, fuzz.points(made, seed, H=H)) == "right"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_single_numbers_beside_blocks_of_any_width(dtype: str) -> None:
    """They lie a row apart in memory, which NumPy's functions have to get right in place."""
    two = vectors("two", size=1)
    made = cell(Eq(one, sigmoid(W.a @ x + B.a)), Eq(two, sigmoid(-tanh(W.b @ x))),
                Eq(g, tanh(W.g @ x)), Eq(h.next, one * h - two * g))  # fmt: skip
    module = compile(made, "numpy")
    for H in range(1, 20):
        found = fuzz.points(made, H, dtype, H=H)
        assert fuzz.judge_module(module, found) == "right"


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_what_one_pass_makes_in_the_loop_and_the_other_before_it(target: str) -> None:
    """Backward computes p + r again, in the loop, where forward has it before the loop."""
    p, r = vector("p", size=3), vector("r", size=1)
    q = vectors("q", size=3)
    whole = named(p + r)
    made = cell(
        Eq(q, log(tanh(leak + whole / (whole**2 + 1)) + 2)),
        Eq(h.next, sigmoid(sum_(q**2 * p) / 4)),
        Eq(c.next, tanh(c * mean(q**2) + W.c @ h.next)),
        Eq(one, row @ h.next + mean(tanh(W.x @ x) * c.next)),
        output=one,
    )
    module = compile(made, target)
    for seed in range(4):
        assert fuzz.judge_module(module, fuzz.points(made, seed)) == "right"


# Of what is made of parameters alone, what the steps read in stop_gradient(…) only.
CUT: dict[str, Callable[[], list[Eq]]] = {
    "beside one that is not": lambda: [
        Eq(a, exp(-exp(-leaky))), Eq(b, a * exp(-leaky)), Eq(e, W.e @ x),
        Eq(h.next, a * h + e + stop_gradient(b * e))],
    "and a matrix": lambda: [
        Eq(a, exp(-exp(-leaky))), Eq(S, U.s - U.s.T), Eq(e, W.e @ x),
        Eq(h.next, a * h + e + stop_gradient(S @ h))],
    "alone": lambda: [
        Eq(a, exp(-leaky)), Eq(S, U.s - U.s.T), Eq(e, W.e @ x),
        Eq(h.next, h / 2 + e + stop_gradient(a * e + S @ h))],
}  # fmt: skip


@pytest.mark.parametrize("kind", CUT)
def test_what_is_made_of_parameters_and_has_no_gradient(kind: str) -> None:
    assert_right(cell(*CUT[kind]()), range(2))


def test_a_learned_rate_of_a_leak_learns_online() -> None:
    """Its gradient has a factor that is made of parameters, too, and is read by no other line."""
    made = online(cell(Eq(a, exp(-exp(-leaky))), Eq(h.next, a * h + (1 - a) * (W.e @ x))))
    assert_right(made, range(2))


@pytest.mark.parametrize("H", [3, 7, 11])
def test_an_input_of_a_transposed_matrix_is_read_within_its_bounds(H: int, tmp_path: Path) -> None:
    """Its gradient has x on the left, of which panels are made by whole vectors."""
    need("gcc -fsanitize=address,undefined")
    made = cell(Eq(a, W.a.T @ x), Eq(h.next, tanh(a + U.a @ h)))
    cases = [driver.Case(made, {"T": 3, "B": 2, "D": 5, "H": H}, dtype) for dtype in ("float64",)]
    driver.build(tmp_path, driver.write(cases, tmp_path), "gcc", "-O0", *driver.POISONED)
    driver.execute(tmp_path)
    driver.compare(cases, tmp_path, 1e-12)


# --------------------------------------------------------------------------- fuzzing, for a minute


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_made_up_cells_in_numpy(first: int) -> None:
    for seed, said in fuzz.fuzz_numpy(range(first, first + 40)):
        assert said in ("right", "refused", "not finite"), seed


@pytest.mark.parametrize("first", range(0, 18, 6))
def test_made_up_cells_in_c(first: int) -> None:
    assert_fuzz_finds_nothing("--target", "c", "--seed", str(first), "--cells", "6")


@pytest.mark.parametrize("first", range(-80, 0, 40))
def test_made_up_cells_of_several_axes_in_numpy(first: int) -> None:
    for seed, said in fuzz.fuzz_numpy(range(first, first + 40)):
        assert said in ("right", "refused", "not finite"), seed


@pytest.mark.parametrize("first", range(0, 12, 6))
def test_made_up_cells_of_several_axes_in_c(first: int) -> None:
    assert_fuzz_finds_nothing("--axes", "--target", "c", "--seed", str(first), "--cells", "6")


def _off(y: Any) -> Any:
    return {n: a + 1e-8 for n, a in y.items()} if isinstance(y, dict) else y + 1e-8


def test_the_fuzzer_finds_what_is_wrong() -> None:
    """A module that is broken on purpose, in its values, its gradients and its memory."""
    made = fuzz.cell_of(0)
    point = next(fuzz.points(made, 0))
    module = compile(made, "numpy")
    y, finals, gradients = fuzz.run(module, point)
    fuzz.judge(point, y, finals, gradients)
    with pytest.raises(fuzz.Wrong, match=r"y.* is off"):
        fuzz.judge(point, _off(y), finals, gradients)
    for entity, found in gradients.items():
        with pytest.raises(fuzz.Wrong, match=f"the gradient of {entity[1]} gives"):
            fuzz.judge(
                point,
                y,
                finals,
                gradients | {entity: found + 1e-4 * np.abs(gradients[entity]).max() + 1e-4},
            )
        with pytest.raises(fuzz.Wrong, match=f"the gradient of {entity[1]} is nan"):
            fuzz.judge(point, y, finals, gradients | {entity: found * np.nan})


# --------------------------------------------------------------------------- the plan's invariants


def _in_step(made: Any) -> Any:
    return next(v for v, home in made.home.items() if home.scope == "step")


def _with_step(made: Any, *operations: Any) -> Any:
    before, _, after = made.forward.sections
    return replace(made, forward=Pass((before, operations, after)))


def test_a_plan_that_is_not_sound_is_refused() -> None:
    made = plan(cell(Eq(one, row @ h), Eq(a, W.a @ x), Eq(h.next, tanh(a) * one)))
    require_sound(made)
    h1 = h.at(0)
    narrow = Multiply((a,), (row,), (h,), (None,), False)
    broken = {
        "has another size than a": _with_step(made, narrow),
        "is read before it is written": _with_step(
            made, *(Fused((Loop((made.size(h),), (e,)),)) for e in (Eq(h1, tanh(b)), Eq(b, h)))
        ),
        "and not stored": _with_step(
            made, *(Fused((Loop((made.size(h),), (e,)),)) for e in (Eq(b, h), Eq(h1, tanh(b))))
        ),
        "in a loop over (1,)": _with_step(made, Fused((Loop((sympy.S.One,), (Eq(h1, h),)),))),
        "for many steps where there is room for one": replace(
            kept := plan(cell(Eq(a, U.a @ h), Eq(h.next, tanh(a)), Eq(c.next, c + W.a @ x + a))),
            forward=Pass(((Fused((Loop((made.size(h),), (Eq(_in_step(kept), h),)),)),),)),
        ),
        "h.next has another size": _with_step(
            made, Fused((Loop((made.size(h),), (Eq(h1, mean(h)),)),))
        ),
    }  # fmt: skip
    for said, other in broken.items():
        with pytest.raises(LstmgenError, match=re.escape(said)):
            require_sound(other)


def test_generated_code_says_so_in_one_place() -> None:
    """A sigmoid may overflow inside, and only functions that have one say that it may."""
    text = generate(cell(Eq(h.next, sigmoid(W.a @ x + h))), "numpy")
    (module,) = text.values()
    assert module.count('np.errstate(over="ignore")') == 2  # forward and step
