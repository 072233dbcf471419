"""The evaluation that ``check`` judges by: values, slopes, and every condition of SymPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Abs, Max, Min, Piecewise, Symbol
from sympy.logic.boolalg import BooleanFunction, Xnor

from lstmgen import LstmgenError, max_, relu, sigmoid, step, sum_
from lstmgen.language.symbols import Vector
from lstmgen.verification.arithmetic import Dual, value_of
from lstmgen.verification.evaluation import Walk

A, B, C = (Vector(n, "vector", "3") for n in "abc")
EPS = float(np.finfo(float).eps)


def walk(**values) -> Walk:
    """A step in which a, b and c have the given values; a pair is a value and its slope."""
    memo = {}
    for name, given_ in values.items():
        pair = given_ if isinstance(given_, tuple) else (given_,)
        arrays = [np.reshape(np.asarray(v, dtype=float), (1, 1, -1)) for v in pair]
        memo[Vector(name, "vector", "3")] = Dual(*arrays) if len(arrays) > 1 else arrays[0]
    return Walk(memo, 0, None, {}, None, {})


def slope(e, **values) -> list[float]:
    found = walk(**values)(e)
    return found.slope.ravel().tolist() if isinstance(found, Dual) else [0.0]


# --------------------------------------------------------------------------- compositions


@pytest.mark.parametrize("x", [-700.0, -300.0, -40.0, -1.0, 3.0])
def test_compositions_lose_nothing(x: float) -> None:
    found = walk(a=([x], [1.0]))(sympy.log(sigmoid(A)))
    # log's argument is right to two ulps, which its value is off by
    assert found.value.item() == pytest.approx(-math.log1p(math.exp(-x)), rel=4 * EPS, abs=4 * EPS)
    assert found.slope.item() == pytest.approx(1 / (1 + math.exp(x)), rel=8 * EPS)


# --------------------------------------------------------------------------- kinks and ties


@pytest.mark.parametrize(
    ("e", "wanted"),
    [
        (relu(A), 0),
        (Abs(A), 0),
        (step(A), 0),
        (sympy.sign(A), 0),
        (sympy.floor(A), 0),
        (sympy.Heaviside(A), 0),
        (Max(A, 0), 1 / 2),
        (Min(A, B), 1 / 2),
        (Max(A, B, C), 1 / 3),
        (Min(A, B, C), 1 / 3),
        (Max(A, B, C - 1), 1 / 2),
        (Max(A, B - 1, C - 1), 1),
        (Piecewise((2 * A, A > 0), (3 * A, True)), 3),
        (Piecewise((2 * A, A >= 0), (3 * A, True)), 2),
        (A**2, 0),
        (A ** sympy.Rational(3, 2), 0),
    ],
)
def test_slopes_at_kinks(e, wanted: float) -> None:
    with np.errstate(all="ignore"):
        assert slope(e, a=([0.0], [1.0]), b=[0.0], c=[0.0]) == [wanted]


@given(st.integers(2, 6), st.integers(1, 6), st.booleans())
def test_shares_add_up(count: int, ties: int, largest: bool) -> None:
    """Whatever ties, moving all arguments alike moves the result as much."""
    ties = min(ties, count)
    names = [f"v{k}" for k in range(count)]
    values = [1.0] * ties + [0.0 if largest else 2.0] * (count - ties)
    e = (Max if largest else Min)(*(Vector(n, "vector", "3") for n in names))
    together = {n: ([v], [1.0]) for n, v in zip(names, values, strict=True)}
    assert slope(e, **together) == [pytest.approx(1)]
    for k, n in enumerate(names):
        alone = {m: ([v], [float(m == n)]) for m, v in zip(names, values, strict=True)}
        assert slope(e, **alone) == [pytest.approx(1 / ties if k < ties else 0)]


def test_the_largest_unit_shares() -> None:
    assert slope(max_(A), a=([2.0, 1.0, 2.0], [1.0, 0.0, 0.0])) == [1 / 2]
    assert slope(max_(A), a=([2.0, 3.0, 2.0], [1.0, 0.0, 0.0])) == [0]


@pytest.mark.parametrize(
    ("x", "p", "by_base", "by_exponent"),
    [
        (0.0, 1.5, 0.0, 0.0),
        (0.0, 2.0, 0.0, 0.0),
        (0.0, 1.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 0.0),
        (2.0, 0.0, 0.0, math.log(2)),
        (2.0, 3.0, 12.0, 8 * math.log(2)),
        (0.0, 0.5, math.inf, 0.0),
    ],
)
def test_slopes_of_a_power(x: float, p: float, by_base: float, by_exponent: float) -> None:
    with np.errstate(all="ignore"):
        assert slope(A**B, a=([x], [1.0]), b=[p]) == [by_base]
        assert slope(A**B, a=[x], b=([p], [1.0])) == [pytest.approx(by_exponent)]


def test_a_scalar_counts_for_every_unit() -> None:
    """A reduction over units of which each reads the same scalar."""
    wide, scalar = [1.0, 2.0, 3.0], ([0.5], [1.0])
    assert slope(sum_(A * B), a=wide, b=scalar) == [6]
    assert slope(sum_(A + B), a=wide, b=scalar) == [3]
    assert slope(sum_(sympy.Mod(B, A)), a=wide, b=scalar) == [3]
    assert slope(sum_(Max(A, 2 * B + 1)), a=wide, b=scalar) == [3]  # a tie, and one that is less


# --------------------------------------------------------------------------- conditions

COMPARED = [A > 0, A >= B, B < C, C <= 1, sympy.Eq(A, B), sympy.Ne(B, C)]


def kept(connective):
    return lambda *args: connective(*args, evaluate=False)


CONNECTIVES = {
    sympy.Not: 1, sympy.Implies: 2, sympy.ITE: 3, sympy.And: None, sympy.Or: None, sympy.Xor: None,
    sympy.Nand: None, sympy.Nor: None, Xnor: None, sympy.Equivalent: None,
}  # fmt: skip


@st.composite
def conditions(draw, depth: int = 3):
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(COMPARED))
    connective = draw(st.sampled_from(list(CONNECTIVES)))
    count = CONNECTIVES[connective] or draw(st.integers(2, 3))
    parts = [draw(conditions(depth=depth - 1)) for _ in range(count)]
    # As SymPy keeps it in a Piecewise, where it simplifies, and as it was written.
    return connective(*parts, evaluate=False) if draw(st.booleans()) else connective(*parts)


def truth(condition, values) -> bool:
    """By Python's own logic."""
    if condition in (sympy.true, sympy.false):
        return bool(condition)
    if not isinstance(condition, BooleanFunction):
        return bool(condition.subs(values))
    parts = [truth(arg, values) for arg in condition.args]
    return {
        "Not": lambda: not parts[0],
        "And": lambda: all(parts),
        "Or": lambda: any(parts),
        "Xor": lambda: sum(parts) % 2 == 1,
        "Nand": lambda: not all(parts),
        "Nor": lambda: not any(parts),
        "Xnor": lambda: sum(parts) % 2 == 0,
        "Implies": lambda: not parts[0] or parts[1],
        "Equivalent": lambda: len(set(parts)) == 1,
        "ITE": lambda: parts[1] if parts[0] else parts[2],
    }[type(condition).__name__]()


@given(conditions(), st.tuples(*[st.sampled_from([-1, 0, 1])] * 3))
@settings(max_examples=300)
def test_every_connective(condition, values: tuple[int, ...]) -> None:
    by_name = dict(zip("abc", values, strict=True))
    found = walk(**{n: [v] for n, v in by_name.items()}).holds(condition)
    assert bool(found.item()) == truth(condition, dict(zip((A, B, C), values, strict=True)))


def test_an_unknown_condition_is_named() -> None:
    class Sometimes(BooleanFunction):
        pass

    e = Piecewise((A, Sometimes(A > 0)), (B, True))
    with pytest.raises(LstmgenError, match="condition Sometimes"):
        walk(a=[1.0], b=[2.0])(e)
    with pytest.raises(LstmgenError, match="does not know gamma"):
        walk(a=[1.0])(sympy.gamma(A))


def test_nested_conditions_choose_values_and_slopes() -> None:
    def leaky(a):
        return Piecewise((a, a > 0), (a / 5, True))

    e = leaky(leaky(A) - sympy.Rational(3, 10))
    for x, value, rise in [(1.0, 0.7, 1.0), (0.2, -0.02, 0.2), (-1.0, -0.1, 0.04)]:
        found = walk(a=([x], [1.0]))(e)
        assert value_of(found).item() == pytest.approx(value)
        assert found.slope.item() == pytest.approx(rise)


def test_plain_symbols_are_none_of_ours() -> None:
    with pytest.raises(LstmgenError, match="does not know"):
        walk(a=[1.0])(A + Symbol("q"))
