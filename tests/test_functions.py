"""The registry of functions: each entry is right, and each printer can spell each function, or is
listed here with what it lacks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import sympy
from conftest import need
from sympy import Eq, Expr, Rational, Symbol

from lstmgen import Cell, LstmgenError, generate, inputs, matrix, states, vectors
from lstmgen.derivation.differentiation import slope
from lstmgen.language.functions import FUNCTIONS, GATES, Elementwise, functions_with, stop_gradient
from lstmgen.language.symbols import Function, Vector, cumsum, max_, mean, rcumsum, sum_
from lstmgen.printing.text import _NAMES, text
from lstmgen.targets.latex.typesetting import _COMMANDS
from lstmgen.transcripts.dialects import Jax, Torch
from lstmgen.transcripts.transcript import transcribe
from lstmgen.verification.evaluation import Walk

U, V, Z = Vector("u", "vector", "1"), Vector("v", "vector", "1"), Symbol("z", real=True)
EPS = float(np.finfo(float).eps)

OF_TWO = ("equal", "Max", "Min", "Mod")  # arguments, that is; all others have one
SMOOTH = [f for f in FUNCTIONS.values() if f.kind == "smooth"]
BROKEN = [f for f in FUNCTIONS.values() if f.kind in ("kink", "jump")]


def named(functions: list[Elementwise]):
    return pytest.mark.parametrize("f", functions, ids=[f.name for f in functions])


# --------------------------------------------------------------------------- smooth functions

# Tiny ones, those where rounding shows, moderate ones, and those of which many functions overflow
SIGNED = [s * x for s in (-1, 1) for x in (1e-300, 1e-30, 1e-9, 1e-4, 0.3, 0.999, 1.0, 1.001, 19.0)]
SIGNED += [s * x for s in (-1, 1) for x in (36.5, 700.0, 1e4, 1e9, 1e200)] + [0.0, 1 - 1e-13]
DIGITS = 1500
NORMAL = 1e-300, 1e300  # beyond, numbers have fewer digits, or none


@functools.cache
def exact(f: Elementwise) -> Callable:
    """What f is by definition, in any precision."""
    expression = f.exactly(Z) if f.exactly else f.symbol(Z)
    return sympy.lambdify(Z, expression, "mpmath")


def known(f: Elementwise, x: float):
    """Value and slope at x as exact numbers, or None where there are none."""
    at, h = mpmath.mpf(x), mpmath.mpf(10) ** -350  # beside which the smallest double is large
    if abs(x) > 1e4 and f.name in ("exp", "expm1", "sigmoid", "softplus", "sinh", "cosh", "tanh"):
        return None  # e^x has more digits than we compute with
    try:
        value, ahead, behind = (exact(f)(p) for p in (at, at + h, at - h))
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    if any(isinstance(v, mpmath.mpc) or not mpmath.isfinite(v) for v in (value, ahead, behind)):
        return None
    return value, (ahead - behind) / (2 * h)


@named(SMOOTH)
def test_values_and_slopes_are_exact_to_rounding(f: Elementwise) -> None:
    checked = 0
    with mpmath.workdps(DIGITS), np.errstate(all="ignore"):
        for x in SIGNED:
            found = known(f, x)
            if found is None:
                continue
            checked += 1
            z = np.array([x])
            # A few operations follow each other, of an ulp or two each; exp(-x²) loses as x² does.
            allowed = EPS * (8 + (2 * x * x if f.name == "erf" and abs(x) < 100 else 0))
            pairs = zip((f.value(z), *f.slopes(z)), found, strict=True)
            for ours, wanted in pairs:
                if wanted == 0 or NORMAL[0] < abs(wanted) < NORMAL[1]:
                    assert abs(mpmath.mpf(float(ours.item())) - wanted) <= allowed * abs(wanted), x
    assert checked >= 7  # of atanh and acosh, whose domains are narrow; of others, all


@named(SMOOTH)
def test_slopes_as_expressions_are_those_of_the_values(f: Elementwise) -> None:
    """The derivation's, which generated code is made of: with enough digits nothing rounds."""
    expression = slope(f.symbol(V), V)
    plain = expression.replace(
        lambda e: e.func in FUNCTIONS and FUNCTIONS[e.func].exactly is not None,
        lambda e: FUNCTIONS[e.func].exactly(*e.args),
    )
    derived = sympy.lambdify(V, plain, "mpmath")
    with mpmath.workdps(DIGITS):
        for x in SIGNED:
            found = known(f, x)
            if found is not None:
                off = abs(derived(mpmath.mpf(x)) - found[1])
                assert off <= abs(found[1]) * 1e-30 + mpmath.mpf(10) ** -400, x


@named([f for f in SMOOTH if f.name not in ("sinh", "cosh", "exp", "expm1", "tan")])
def test_nothing_overflows_on_the_way(f: Elementwise) -> None:
    """Where a value is a number, no exp inside is infinite."""
    with np.errstate(over="raise", invalid="ignore", divide="ignore"):
        for x in (-1e4, -800.0, 800.0, 1e4):
            f.value(np.array([x]))


@pytest.mark.parametrize("symbol", GATES)
def test_gates_have_their_slope_from_their_value(symbol) -> None:
    gate = symbol(V)
    assert slope(gate, V).xreplace({gate: U}).free_symbols == {U}
    assert all(map(math.isfinite, FUNCTIONS[symbol].bounds((-math.inf, math.inf))))


# --------------------------------------------------------------------------- kinks, jumps and ties

LEVELS = [Rational(k, 4) for k in range(-10, 11)]


def arguments(f: Elementwise) -> list[tuple[Rational, ...]]:
    """Points on kinks and off, and ties."""
    if f.name in OF_TWO:
        return [(x, y) for x in LEVELS for y in LEVELS if y or f.name != "Mod"]
    return [(x,) for x in LEVELS]


def whole(f: Elementwise, args: tuple[Expr, ...]) -> list[np.ndarray]:
    """As numbers. SymPy's Heaviside has a second argument, its value at 0."""
    args = (*args, Rational(1, 2)) if f.name == "Heaviside" else args
    return [np.array([float(a)]) for a in args]


@named(BROKEN)
def test_values_are_exact_at_kinks_too(f: Elementwise) -> None:
    for args in arguments(f):
        wanted = (f.exactly or f.symbol)(*args)
        assert float(f.value(*whole(f, args)).item()) == float(wanted), args


def by_walk(e: Expr, values: dict[Vector, Expr]) -> float:
    memo = {v: np.full((1, 1, 1), float(x)) for v, x in values.items()}
    return float(np.asarray(Walk(memo, 0, None, {}, None, {})(e)).item())


@named(BROKEN)
def test_both_statements_of_a_slope_agree_everywhere(f: Elementwise) -> None:
    """That by which code is judged and that from which it is made, on kinks and off."""
    variables = (U, V)[: len(arguments(f)[0])]
    # Mod is differentiated as the normal form writes it.
    e = U - V * sympy.floor(U / V) if f.name == "Mod" else f.symbol(*variables)
    slopes = [slope(e, v) for v in variables]
    for args in arguments(f):
        judged = [float(np.asarray(s).item()) for s in f.slopes(*whole(f, args))]
        values = dict(zip(variables, args, strict=True))
        made = [by_walk(s, values) for s in slopes]
        assert made == judged[: len(made)], args


@named(BROKEN)
def test_slopes_are_those_of_the_values_beside_kinks(f: Elementwise) -> None:
    """Central differences over what nothing decides on, which are exact on straight pieces."""
    h, checked = 2.0**-10, 0
    for args in arguments(f):
        at = whole(f, args)
        for k in range(len(args)):
            ahead, behind = list(at), list(at)
            ahead[k], behind[k] = at[k] + h, at[k] - h
            decided = [np.asarray(f.decides(*p)).item() for p in (at, ahead, behind)]
            if len(set(decided)) > 1 or (f.name == "Mod" and k == 1):
                continue  # a / b is not straight in b
            checked += 1
            difference = (f.value(*ahead) - f.value(*behind)) / (2 * h)
            assert np.asarray(f.slopes(*at)[k]).item() == difference.item(), args
    assert checked > 5


@named(BROKEN)
def test_what_decides_differs_on_both_sides(f: Elementwise) -> None:
    """Each has a kink or a jump where its arguments are 0, or a whole number and that again."""
    at = Rational(0) if f.name != "Mod" else Rational(2)
    sides = []
    for beside in (-1, 0, 1):
        args = (at + Rational(beside, 4), *([at] if f.name in OF_TWO else []))
        sides.append(np.asarray(f.decides(*whole(f, args))).item())
    assert len(set(sides)) > 1


def test_kinds_are_told_by_what_decides() -> None:
    for f in FUNCTIONS.values():
        assert (f.decides is not None) == (f.kind in ("kink", "jump")), f.name
    assert functions_with(lambda f: f.kind == "cut") == (stop_gradient,)


# --------------------------------------------------------------------------- bounds

SPANS = [(-math.inf, math.inf), (-3.0, -1.0), (-2.0, 0.0), (-1.0, 0.5), (0.0, 2.0), (1.0, 4.0)]


@named(list(FUNCTIONS.values()))
def test_values_lie_within_their_bounds(f: Elementwise) -> None:
    count = 2 if f.name in OF_TWO else 1
    rng, checked = np.random.default_rng(0), 0
    for span in SPANS:
        low, high = (max(-50.0, span[0]), min(50.0, span[1]))
        args = [np.append(rng.uniform(low, high, 200), [low, high]) for _ in range(count)]
        extra = [np.full(1, 0.5)] if f.name == "Heaviside" else []
        with np.errstate(all="ignore"):
            values = np.asarray(f.value(*args, *extra), dtype=float)
        values = values[np.isfinite(values)]
        checked += values.size
        least, most = f.bounds(*[span] * count, *[(0.5, 0.5)] * len(extra))
        assert ((least <= values) & (values <= most)).all(), span
    assert checked > 200


# --------------------------------------------------------------------------- printers

x, h = inputs("x"), states("h")
W, R = matrix("W"), matrix("R")
a, b = vectors("a b")


def cell(function: type) -> Cell:
    """A function of sums, of which all gradients are wanted."""
    some = (a, b) if function.__name__ in OF_TWO else (a,)
    return Cell(
        "one",
        [Eq(a, W @ x + R @ h), Eq(b, 2 * a + h), Eq(h.next, function(*some) + b)],
        output=h,
    )


def transcript(dialect: type) -> Callable[[type], str]:
    return lambda function: (
        transcribe(cell(function), {"T": 4, "B": 2, "D": 5, "H": 3}, dialect()).source
    )


PRINTERS: dict[str, Callable[[type], str]] = {
    "text": lambda function: text(cell(function).equations[-1], cell(function)),
    **{
        target: lambda function, target=target: "".join(generate(cell(function), target).values())
        for target in ("latex", "numpy", "c")
    },
    "PyTorch": transcript(Torch),
    "JAX": transcript(Jax),
}
LACKS: dict[str, set[str]] = {name: set() for name in PRINTERS}


@pytest.mark.parametrize("printer", PRINTERS)
@named(list(FUNCTIONS.values()))
def test_every_printer_spells_every_function(printer: str, f: Elementwise) -> None:
    if f.name in LACKS[printer]:
        with pytest.raises(LstmgenError, match=f.name):
            PRINTERS[printer](f.symbol)
    else:
        assert PRINTERS[printer](f.symbol)


class strange(Function):
    """Of the language, but no printer has heard of it."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return self


@pytest.mark.parametrize("printer", PRINTERS)
def test_what_no_printer_knows_is_an_error_or_has_its_own_name(printer: str, monkeypatch) -> None:
    """So the test above fails for a function that a printer lacks."""
    monkeypatch.setitem(FUNCTIONS, strange, Elementwise(strange, np.exp, lambda z: (np.exp(z),)))
    if printer in ("text", "latex"):  # for people, who read a name as it is
        assert "strange" in PRINTERS[printer](strange)
        return
    with pytest.raises(LstmgenError, match="strange"):
        PRINTERS[printer](strange)


@pytest.mark.parametrize(
    "table",
    [Torch.functions, Jax.functions, _COMMANDS, _NAMES],
    ids=["torch", "jax", "latex", "text"],
)
def test_tables_hold_nothing_that_the_language_lacks(table) -> None:
    """A line under a name that is misspelt, or gone, would never be read."""
    reductions = {kind.__name__ for kind in (mean, sum_, max_, cumsum, rcumsum)}
    assert set(table) <= {f.name for f in FUNCTIONS.values()} | reductions


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")
@pytest.mark.parametrize("name", Torch.functions)
def test_pytorch_functions_hold_in_float32_far_out(name: str) -> None:
    """A transcript runs in float32 and below, where exp(89) is not a number any more."""
    need("torch")
    import torch

    points = np.array([0.3, 2, 17, 30, 50, 89, 200, 600], dtype="float32")
    points = np.concatenate([points, -points])
    (f,) = (f for f in FUNCTIONS.values() if f.name == name)
    right = f.value(points.astype(float)).astype("float32")
    found = eval(Torch().apply(name, "a"), {"torch": torch, "a": torch.from_numpy(points)})
    np.testing.assert_allclose(found.numpy(), right, rtol=1e-5, atol=1e-37)
