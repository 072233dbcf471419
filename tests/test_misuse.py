"""What people try first: each has an answer in the language's own words, never one of Python's."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy import Eq, Function, Max, Piecewise, Rational, Symbol, Tuple, exp, oo

from lstmgen import (
    Cell,
    CellError,
    LstmgenError,
    biases,
    check,
    constants,
    elu,
    inputs,
    layer_norm,
    load_cell,
    log_sigmoid,
    masks,
    matrix,
    max_,
    mean,
    named,
    sigmoid,
    softmax,
    states,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.language.misuse import Explained

x, m = inputs("x"), masks("m")
h, c = states("h c")
g, o = vectors("g o")
W, U, b = weights("W"), weights("U"), biases("b")
V, dt = matrix("V"), constants("dt", 0.1)
PLAIN = Eq(h.next, tanh(W.h @ x + U.h @ h + b.h))

# What Python, NumPy, PyTorch and SymPy would say by themselves
FOREIGN = (
    "unsupported operand", "object is not", "has no attribute", "object has no", "cannot determine",
    "Cannot convert", "ufunc", "must be Tensor", "SympifyError", "positional",
)  # fmt: skip


def of_cell(*equations, output=h, **options):
    return lambda: Cell("mine", list(equations), output, **options)


def of_rhs(make):
    return lambda: Cell("mine", [Eq(h.next, make() + W.h @ x)], h)


# --------------------------------------------------------------------------- at once

AT_ONCE = [
    # matrices
    (lambda: W @ x, "name one member"),
    (lambda: W @ [x, h], "W.x @ x + W.h @ h"),
    (lambda: W.a @ [x, h], "W.x @ x + W.h @ h"),
    (lambda: W.a @ (x, h), "W.x @ x + W.h @ h"),
    (lambda: W.a @ np.ones(3), 'vector("v")'),
    (lambda: W.a @ sympy.Matrix([1, 2]), "an array holds data"),
    (lambda: W.a @ 2, "2 * W_a"),
    (lambda: W.a @ None, "NoneType is not an expression"),
    (lambda: W.a @ "x", "without quotes"),
    (lambda: W.a @ W, "name one member"),
    (lambda: W.a @ tanh, "tanh(…)"),
    (lambda: W.a @ (x > 0), "Piecewise((1, x > 0), (0, True))"),
    (lambda: x @ W.i, "the matrix comes first, W_i @ x"),
    (lambda: (x + h) @ W.i, "W_i @ (h + x)"),
    (lambda: x @ h, "x is a vector, not a matrix"),
    (lambda: tanh(x) @ h, "is a vector, not a matrix"),
    (lambda: (g * o) @ x, "(g*o) * x"),
    (lambda: b.i @ x, "is a vector, not a matrix"),
    (lambda: U.a * g @ h, "U @ (g*h)"),
    (lambda: U.a * g @ (o * h), "U @ (g*h)"),
    (lambda: (W.a + 1) @ x, "U @ h - h"),
    (lambda: (W.a + b.a) @ (2 * x), 'b = biases("b")'),
    (lambda: (U - U.T) @ h, "U.i.T is the transpose"),
    (lambda: W.T @ x, 'W["T"]'),
    (lambda: W.a > 0, "only stands on the left of @"),
    (lambda: W.a[0], "whole matrix"),
    (lambda: W.a[:, 1], "whole matrix"),
    (lambda: W.a(x), "W_a @ x"),
    (lambda: W.dot(x), "W_dot @ x"),
    (lambda: W.a.dot(x), "W.i @ x"),
    (lambda: W.a.shape, "cell.shape(W_a)"),
    (lambda: W.a.next, "it is not a state"),
    (lambda: W.a.t, ".T"),
    # families
    (lambda: W.i @ x + b, "name one member of it, such as b.i"),
    (lambda: x * b, "name one member"),
    (lambda: b / 2, "name one member"),
    (lambda: -b, "name one member"),
    (lambda: tanh(b), "name one member"),
    (lambda: sigmoid(b), "name one member"),
    (lambda: g > b, "name one member"),
    (lambda: [*W], "name one member"),
    (lambda: len(W), "name one member"),
    (lambda: bool(W), "name one member"),
    (lambda: W("i"), "name one member"),
    (lambda: np.tanh(b), "name one member"),
    (lambda: W[0, 1], 'W["i"]'),
    # Python's own
    (lambda: g[:4], "size=4"),
    (lambda: g[0], "cannot be indexed"),
    (lambda: h[-1], "keep a value of the past as a state"),
    (lambda: sigmoid(g)[0], "cannot be indexed"),
    (lambda: sum(g), "sum_(g)"),
    (lambda: tuple(g), "sum_(g)"),
    (lambda: list(g), "cannot be indexed, iterated"),
    (lambda: len(g), "known only when code is called"),
    (lambda: max(g, o), "Max(v, w)"),
    (lambda: min(g, o), "Min(v, w)"),
    (lambda: sorted([g, o]), "differs from unit to unit"),
    (lambda: g and o, "neither true nor false"),
    (lambda: g or o, "neither true nor false"),
    (lambda: not g, "neither true nor false"),
    (lambda: g if g > 0 else o, "Piecewise((u, v > 0), (w, True))"),
    (lambda: g > 0 and o > 0, "&, | and ~"),
    (lambda: 0 < g < 1, "&, | and ~"),
    (lambda: 0 < sigmoid(g) < 1, "&, | and ~"),
    (lambda: bool(g >= 0), "Piecewise"),
    (lambda: g < "o", "without quotes"),
    (lambda: float(g), "is a symbol, not a number"),
    (lambda: int(g), "is a symbol, not a number"),
    (lambda: complex(g), "is a symbol, not a number"),
    (lambda: round(g, 2), "is a symbol, not a number"),
    (lambda: math.tanh(g), "tanh(g)"),
    (lambda: math.floor(g), "is a symbol, not a number"),
    (lambda: h.next(), "without parentheses"),
    (lambda: states("h")(), "is a symbol, not a function"),
    (lambda: h(x), "is a symbol, not a function"),
    (lambda: h.nxt, 'did you mean "next"?'),
    (lambda: h.prev, "h is the value before the step"),
    (lambda: h.next.next, "it is the value after the step"),
    (lambda: g.next, 'states("g")'),
    (lambda: h.T, "vectors need no transpose"),
    (lambda: sigmoid(h).T, "vectors need no transpose"),
    (lambda: h.shape, "cell.shape(h)"),
    (lambda: g.tanh(), "write tanh(g)"),
    (lambda: g.sum(), "write sum_(g)"),
    (lambda: g.max(), "write max_(g)"),
    (lambda: h.at("t-1"), "whole number of steps"),
    # libraries of arrays
    (lambda: np.tanh(g), "Write tanh(g), with tanh from lstmgen or sympy"),
    (lambda: np.exp(g), "Write exp(g)"),
    (lambda: np.maximum(g, 0), "Write Max(g, 0)"),
    (lambda: np.mean(g), "Write mean(g)"),
    (lambda: np.sum(g), "Write sum_(g)"),
    (lambda: np.dot(W.a, x), "Write W.i @ x"),
    (lambda: np.matmul(W.a, x), "Write W.i @ x"),
    (lambda: np.where(g > 0, g, o), "Piecewise"),
    (lambda: np.concatenate([x, h]), "W.x @ x + W.h @ h"),
    (lambda: np.clip(g, 0, 1), "Min(Max("),
    (lambda: np.linalg.norm(g), "functions of lstmgen and SymPy"),
    (lambda: np.ones(3) * g, "an array holds data"),
    (lambda: g + np.ones(3), "an array holds data"),
    (lambda: np.ones((3, 3)) @ h, "Write W.i @ x"),
    (lambda: torch.tanh(g), "Write tanh(g)"),
    (lambda: torch.matmul(W.a, x), "Write W.i @ x"),
    (lambda: torch.nn.functional.softmax(g, -1), "Write softmax("),
    (lambda: torch.ones(3) * g, "an array holds data"),
    (lambda: g / torch.ones(3), "an array holds data"),
    (lambda: h - [1, 2], "W.x @ x + W.h @ h"),
    (lambda: (1, 2) * h, "W.x @ x + W.h @ h"),
    (lambda: g + "o", "without quotes"),
    (lambda: 2 - None * g, "NoneType is not an expression"),
    (lambda: sigmoid(g) ** None, "NoneType is not an expression"),
    (lambda: g * tanh, "tanh(…)"),
    (lambda: g * (o > 0), "Piecewise((1, o > 0), (0, True))"),
    (lambda: g - Eq(g, o), "is an equation"),
    # arguments of functions
    (lambda: sigmoid([g, o]), "W.x @ x + W.h @ h"),
    (lambda: sigmoid("g"), "without quotes"),
    (lambda: mean(None), "NoneType is not an expression"),
    (lambda: softmax([g]), "W.x @ x + W.h @ h"),
    (lambda: layer_norm("g"), "without quotes"),
    (lambda: elu([g]), "W.x @ x + W.h @ h"),
    (lambda: log_sigmoid(np.ones(3)), "an array holds data"),
    (lambda: named(g > 0), "is a condition"),
    # declarations
    (lambda: states("h", size="P", shape=("P",)), "not both"),
    (lambda: states("h", shape=()), '("H", "K")'),
    (lambda: weights("W", "H", shape=("H", "D")), "not both"),
    (lambda: weights("W", shape=("H",)), "two axes or more"),
    (lambda: states("h", dim=3), 'size="P"'),
    (lambda: matrix("A", trainable=False), "learned=False"),
    (lambda: states("h", learned=False), "learned=False"),
    (lambda: vector("g", learned="no"), "learned is True or False"),
    (lambda: states("h", sise=3), 'did you mean "size"?'),
    (lambda: vectors("h", init=0), "states start at init="),
    (lambda: states("h", flavour=0), "it takes names and size"),
    (lambda: weights("W", size="H"), 'rows="H", columns="D"'),
    (lambda: biases("b", value=1), "what is learned and states start at init="),
    (lambda: constants("dt", init=1), "constants have value="),
    (lambda: constants("dt", size=3), "they are scalars"),
    (lambda: states(["h", "c"]), '"h c"'),
    (lambda: states(3), "in one string"),
    (lambda: states(""), "at least one name"),
    (lambda: states("h", size=None), "a name or a positive number"),
    (lambda: states("h", size=0), "a name or a positive number"),
    (lambda: states("h", size=1.5), "a name or a positive number"),
    (lambda: states("h", size=("H", 3)), "a name or a positive number"),
    (lambda: states("h", size="2H"), "a name or a positive number"),
    (lambda: states("h", size=True), "a name or a positive number"),
    (lambda: weights("W", ("H", "D")), "a name or a positive number"),
    (lambda: biases("b", init="zeroes"), 'did you mean "zeros"'),
    (lambda: biases("b", init=math.nan), "one finite number"),
    (lambda: vector("v", init=np.ones(3)), "one finite number"),
    (lambda: vector("v", init=1j), "one finite number"),
    (lambda: constants("dt", "0.1"), "one finite number"),
    (lambda: constants("dt", math.inf), "one finite number"),
]


@pytest.mark.parametrize(("attempt", "answer"), AT_ONCE)
def test_what_is_wrong_says_at_once_what_to_write(attempt, answer):
    with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
        attempt()
    text = str(caught.value)
    assert answer in text
    assert len(text) < 300 and "\n" not in text
    assert not any(phrase in text for phrase in FOREIGN)


# --------------------------------------------------------------------------- with the equation

BIG = 10**400
IN_A_CELL = [
    # matrices
    (of_rhs(lambda: W.h * x), "W_h @ x"),
    (of_rhs(lambda: x * W.h), "W_h @ x"),
    (of_rhs(lambda: W.h), "W_h @ x"),
    (of_rhs(lambda: W.h + b.h), "W_h @ x"),
    (of_rhs(lambda: tanh(W.h)), "W_h is used without @"),
    (of_rhs(lambda: W.h**2), "W_h is used without @"),
    (of_rhs(lambda: 2 / W.h), "W_h is used without @"),
    (of_rhs(lambda: W.h / U.h), "is used without @"),
    (of_rhs(lambda: W.h * U.h), "is used without @"),
    (of_rhs(lambda: abs(W.h)), "W_h is used without @"),
    (of_rhs(lambda: Max(W.h, 0)), "W_h is used without @"),
    (of_rhs(lambda: W.a @ U.a), "W_a is used without @"),
    (of_cell(Eq(h.next, W.a @ U.a)), "W_a is used without @"),
    # numbers
    (of_rhs(lambda: BIG * h), "1.000e+400 is too large for a double"),
    (of_rhs(lambda: 10**5000 * h), "1.000e+5000 is too large for a double"),
    (of_rhs(lambda: tanh(h / BIG)), "1.000e-400 is too small for a double"),
    (of_rhs(lambda: sympy.Integer(10) ** 400), "too large for a double"),
    (of_rhs(lambda: sympy.Float("1e400") * h), "too large for a double"),
    (of_rhs(lambda: sympy.Float("1e-400") * h), "too small for a double"),
    (of_rhs(lambda: sympy.Pow(10, 400, evaluate=False) * h), "too large for a double"),
    (of_rhs(lambda: exp(1000) * h), "too large for a double"),
    (of_rhs(lambda: Piecewise((h, h > BIG), (c, True))), "too large for a double"),
    (of_rhs(lambda: h**BIG), "too large for a double"),
    (of_rhs(lambda: h ** (2**30)), "the exponent 1.074e+9 is too large"),
    (of_rhs(lambda: 1e400 * h), "infinite, complex or undefined"),
    (of_rhs(lambda: tanh(-oo * h)), "infinite, complex or undefined"),
    (of_rhs(lambda: Piecewise((sympy.nan, h > 0), (h, True))), "infinite, complex or undefined"),
    (of_rhs(lambda: sigmoid(1j * h)), "infinite, complex or undefined"),
    (of_rhs(lambda: sympy.sqrt(-2) * h), "infinite, complex or undefined"),
    (of_rhs(lambda: (-8) ** Rational(1, 3) * h), "infinite, complex or undefined"),
    (of_rhs(lambda: sympy.acos(2) * h), "infinite, complex or undefined"),
    # other steps
    (of_rhs(lambda: x.at(-1)), 'states("x_before", size="D"), add Eq(x_before.next, x)'),
    (of_rhs(lambda: h.at(-2)), 'states("h_before", size="H"), add Eq(h_before.next, h)'),
    (of_rhs(lambda: W.a @ x.at(-3)), "one step back"),
    (of_rhs(lambda: x.at(1)), "a step cannot know"),
    (of_rhs(lambda: h.at(1)), "a step cannot know"),
    (of_cell(Eq(g.at(-1), W.g @ x), PLAIN), "earlier step"),
    (of_cell(Eq(g, W.g @ x), Eq(h.next, g.at(-1))), "Eq(g_before.next, g)"),
    # names
    (of_rhs(lambda: named(h * c, "x = print(1); y")), "not an identifier"),
    (of_rhs(lambda: named(h * c, "class")), "a keyword"),
    (of_rhs(lambda: tanh(named(h * c, "a" * 41))), "not an identifier"),
    (of_rhs(lambda: named(h * c, "é")), "not an identifier"),
    (of_rhs(lambda: named(h * c, "*/")), "not an identifier"),
    # conditions
    (of_rhs(lambda: Piecewise((h, m), (c, True))), "write m > 0"),
    (of_rhs(lambda: Piecewise((h, (h > 0) & c), (c, True))), "write c > 0"),
    (of_rhs(lambda: Piecewise((h, ~c), (c, True))), "write c > 0"),
    (of_rhs(lambda: Piecewise((h, h > 0))), "end it with (…, True)"),
    (of_rhs(lambda: Piecewise((h, sympy.Contains(h, sympy.Interval(0, 1))), (c, True))),
     "conditions are comparisons"),
    (of_cell(Eq(h.next, h > 0)), "is not an expression"),
    (of_cell(Eq(h.next, sympy.ITE(h > 0, h, c))), "Piecewise((u, v > 0), (w, True))"),
    # SymPy's
    (of_rhs(lambda: Symbol("z") * h), 'z = inputs("z")'),
    (of_rhs(lambda: Function("F")(h)), "F has no definition"),
    (of_rhs(lambda: sympy.gamma(h)), "gamma is not known"),
    (of_rhs(lambda: sympy.Derivative(tanh(h), h)), "Derivative is not in the language"),
    (of_rhs(lambda: sympy.Integral(h, h)), "Integral is not in the language"),
    (of_rhs(lambda: sympy.Sum(h, (Symbol("k"), 0, 3))), "Sum is not in the language"),
    (of_rhs(lambda: sympy.IndexedBase("q")[0]), "Indexed is not in the language"),
    (of_rhs(lambda: abs(exp(sympy.sqrt(h)))), "an equation of its own"),
    # left-hand sides
    (of_cell(Eq(W.i, h * x)), "h is different at every step"),
    (of_cell(Eq(g + o, W.i @ x), PLAIN), "define one vector"),
    (of_cell(Eq(Symbol("q"), W.i @ x), PLAIN), 'q = vectors("q")'),
    (of_cell(Eq(h, W.i @ x)), "Eq(h.next, …)"),
    (of_cell(Eq(x, W.i @ x)), "declared as an input"),
    (of_cell(Eq(h.next, Tuple(g, o))), "one equation for each"),
    # what a cell is given
    (lambda: Cell("mine", {h.next: tanh(W.h @ x)}, h), "equations.items()"),
    (lambda: Cell("mine", PLAIN, h), "[Eq(left, right), …]"),
    (lambda: Cell("mine", "h = x", h), "[Eq(left, right), …]"),
    (lambda: Cell("mine", None, h), "[Eq(left, right), …]"),
    (lambda: Cell("mine", h, [PLAIN]), "[Eq(left, right), …]"),
    (of_cell(), "at least one equation"),
    (of_cell(PLAIN, None), "equation 2"),
    (of_cell((h.next, tanh(W.h @ x))), "write Eq(left, right)"),
    (of_cell(h.next == tanh(W.h @ x)), "as Python's == gives"),
    (of_cell(h.next >= tanh(W.h @ x)), "write Eq(left, right)"),
    (of_cell([PLAIN]), "one list of all equations"),
    (of_cell("h = x"), "write Eq(left, right)"),
    (of_cell(tanh(W.h @ x)), "what it defines on the left"),
    (of_cell(PLAIN, output="h"), "output=h"),
    (of_cell(PLAIN, output={h}), "as a tuple: output=(h, y)"),
    (of_cell(PLAIN, output=()), "at least one output"),
    (of_cell(PLAIN, output=(h, h)), "give each output once"),
    (of_cell(PLAIN, output=(h, c)), "choose one of: h"),
    (of_cell(PLAIN, output=tanh(h)), "Eq(y, …)"),
    (of_cell(PLAIN, output=W), "a state or a vector"),
    (of_cell(PLAIN, output=None), "a state or a vector"),
    (of_cell(PLAIN, output=c), "choose one of: h"),
    (lambda: Cell(3, [PLAIN], h), "not a string"),
    (lambda: Cell("my cell", [PLAIN], h), "not an identifier"),
    (of_cell(PLAIN, title=3), "title is 3, not a string"),
    (of_cell(PLAIN, notes=["a"]), "not a string"),
    (of_cell(PLAIN, init={U.h: "orthogonl"}), "did you mean"),
    (of_cell(PLAIN, init={U: 1.0}), "name one member"),
    (of_cell(PLAIN, init={b: 1.0}), "such as b.f"),
    (of_cell(PLAIN, init={"b_h": 1.0}), "the symbol itself"),
    (of_cell(PLAIN, init={b.h: math.nan}), "one finite number"),
    (of_cell(PLAIN, init={b.h: math.inf}), "one finite number"),
    (of_cell(PLAIN, init={b.h: "one"}), "one finite number"),
    (of_cell(PLAIN, init={b.h: np.ones(3)}), "one finite number"),
    (of_cell(PLAIN, init={b.g: 1.0}), 'did you mean "b_h"?'),
    (of_cell(PLAIN, init={h: 1.0}), "which is not a parameter"),
    (of_cell(PLAIN, init=[1.0]), "not a dict"),
    (of_cell(PLAIN, roles={"h": "state"}), "the symbol itself"),
    (of_cell(PLAIN, roles={vectors("hh"): "state"}), 'did you mean "h"?'),
    (of_cell(PLAIN, roles={g: "gate"}), "which no equation holds"),
    (of_cell(PLAIN, roles={h: 3}), "not a string"),
    (of_cell(PLAIN, roles=["h"]), "not a dict"),
]  # fmt: skip


@pytest.mark.parametrize(("attempt", "answer"), IN_A_CELL)
def test_what_is_wrong_in_a_cell_names_the_equation(attempt, answer):
    with pytest.raises(CellError) as caught:
        attempt()
    text = str(caught.value)
    assert answer in text
    assert len(text) < 700 and max(map(len, text.splitlines())) < 330


@given(st.integers(310, 6000), st.sampled_from([-1, 1]))
def test_numbers_beyond_doubles_are_refused_in_a_few_words(digits, sign):
    for number in (sign * sympy.Integer(10) ** digits, sign / sympy.Integer(10) ** (digits + 20)):
        for place in (number * h, tanh(h + number), Max(h, number)):
            with pytest.raises(CellError, match="for a double") as caught:
                Cell("mine", [Eq(h.next, place + W.h @ x, evaluate=False)], h)
            assert len(str(caught.value)) < 250


@given(st.floats(5e-324, 1.7e308))
def test_doubles_are_numbers(number):
    for value in (number, sympy.Float(number), sympy.Rational(number)):
        Cell("mine", [Eq(h.next, tanh(value * h) + W.h @ x)], h)


# --------------------------------------------------------------------------- what is meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (lambda: W.a / 2 @ x, (W.a @ x) / 2),
        (lambda: W.a * 2 @ x, 2 * (W.a @ x)),
        (lambda: W.a * dt @ x, dt * (W.a @ x)),
        (lambda: W.a * mean(h) @ x, mean(h) * (W.a @ x)),
        (lambda: g * U.a @ h, g * (U.a @ h)),
        (lambda: np.float64(2) * U.a @ h, 2.0 * (U.a @ h)),
        (lambda: np.float32(2) * g, 2.0 * g),
        (lambda: g**2 > np.float64(1), g**2 > 1.0),
        (lambda: (U.a - U.a.T) @ h, U.a @ h - U.a.T @ h),
        (lambda: (W.a + W.b) @ x, W.a @ x + W.b @ x),
        (lambda: (2 * U.a + U.b / 3 - U.c) @ h, 2 * (U.a @ h) + (U.b @ h) / 3 - U.c @ h),
        (lambda: sum([U.a, U.b]) @ h, U.a @ h + U.b @ h),
        (lambda: -(U.a + U.b) @ h, -(U.a @ h) - U.b @ h),
        (lambda: (U.a @ U.b).T @ h, U.b.T @ (U.a.T @ h)),
        (lambda: (2 * U.a + U.b @ U.c).T @ h, 2 * (U.a.T @ h) + U.c.T @ (U.b.T @ h)),
        (lambda: (U.a + U.b) @ U.c @ h, U.a @ (U.c @ h) + U.b @ (U.c @ h)),
        (lambda: U.a.T.T @ h, U.a @ h),
        (lambda: U.a.transpose() @ h, U.a.T @ h),
        (lambda: sympy.transpose(U.a) @ h, U.a.T @ h),
    ],
)
def test_what_has_one_meaning_has_that(written, meant):
    assert written() == meant


def test_an_antisymmetric_cell_is_right():
    cell = Cell("antisymmetric", [Eq(h.next, tanh((U.h - U.h.T) @ h - h / 9 + W.h / 2 @ x))], h)
    assert check(cell).passed


def test_sympy_takes_symbols_as_its_own():
    e = tanh(g) * sigmoid(o) + max_(g) * sum_(o)
    assert sympy.simplify(e - e) == 0
    assert sympy.expand((g + o) ** 2).subs(o, 0) == g**2
    assert sympy.factor(g**2 - o**2) == (g - o) * (g + o)
    assert sympy.gcd(g * o, g) == g
    assert sympy.Mod(g, o).args == (g, o)
    assert (g % o, g // 2) == (sympy.Mod(g, o), sympy.floor(g / 2))
    assert sympy.solve(2 * g - o, g) == [o / 2]
    assert sympy.lambdify((g, o), g + o)(1, 2) == 3
    assert sympy.Poly(g**2 + o, g).degree() == 2
    assert sympy.series(exp(g), g, 0, 2).removeO() == 1 + g
    assert not hasattr(g, "__iter__") and not hasattr(g, "shape") and not hasattr(g, "tanh")
    assert np.array([g, o]).shape == (2,)
    assert isinstance(g, Explained)


def test_quantities_are_real_though_sympy_cannot_tell():
    for made, meant in [
        (abs(exp(sympy.acos(h))), exp(sympy.acos(h))),
        (sympy.conjugate(sympy.sqrt(h)), sympy.sqrt(h)),
        (sympy.re(sympy.acos(h)) + sympy.im(sympy.acos(h)), sympy.acos(h)),
    ]:
        cell = Cell("mine", [Eq(h.next, made + W.h @ x)], h)
        assert cell.equations[0].rhs == meant + W.h @ x


def test_functions_of_numbers_are_numbers():
    from lstmgen import expm1, relu, rsqrt, softplus, step, stop_gradient

    total = (
        sigmoid(sympy.Integer(0)) + relu(sympy.Integer(-2)) + step(sympy.Integer(3)) + mean(4)
        + rsqrt(sympy.Integer(4)) + stop_gradient(sympy.Integer(1)) + expm1(sympy.Integer(0))
    )  # fmt: skip
    made = Cell("mine", [Eq(h.next, h * total + W.h @ x)], h)
    assert made.equations[0].rhs == 7 * h + W.h @ x
    made = Cell("mine", [Eq(h.next, h * softplus(sympy.Integer(1)) + W.h @ x)], h)
    assert check(made).passed


def test_a_comparison_is_sympys_own_in_a_cell():
    choice = Piecewise((h, (g > 0) & (g <= 1) | (g < -1) | (g >= 2)), (c, True))
    made = Cell("mine", [Eq(g, W.g @ x), Eq(c.next, c / 2 + g), Eq(h.next, choice)], h)
    found = made.equations[2].rhs.atoms(sympy.core.relational.Relational)
    assert len(found) == 4 and all(type(e) is e.func for e in found)


# --------------------------------------------------------------------------- in a file


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("np.tanh(W.g @ x + b.g)", "write tanh(…)"),
        ("np.maximum(W.g @ x + b.g, 0)", "Max(v, w)"),
        ("math.tanh(W.g @ x + b.g)", "write tanh(…)"),
        ("max(W.g @ x + b.g, 0)", "Max(v, w)"),
        ("torch.tanh(W.g @ x + b.g)", "write tanh(…)"),
        ("torch.relu(W.g @ x + b.g)", "write relu(…)"),
        ("(W.g @ x + b.g)[0]", "declare each part"),
        ("sum(W.g @ x + b.g)", "sum_(…)"),
        ("(h * h) @ (x * x)", "a matrix stands on the left of @"),
        ("h**2 * Eq(h, x)", "use the symbol on its left"),
        ("[x, h]", "one expression on each side"),
        ("tanh(W.g @ x if h * 2 > 0 else x)", "Piecewise"),
    ],
)
def test_of_sums_and_products_which_are_sympys_a_file_says_more(tmp_path, line, answer):
    """Where SymPy's or NumPy's own errors cannot be had in our words, loading adds a hint."""
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent(f"""\
        import math
        import numpy as np
        import torch
        from sympy import Eq
        from lstmgen import Cell, biases, inputs, states, tanh, weights
        x, h, W, b = inputs("x"), states("h"), weights("W"), biases("b")
        cell = Cell("mine", [Eq(h.next, {line})], h)
        """),
        encoding="utf-8",
    )
    with pytest.raises(LstmgenError) as caught:
        load_cell(path)
    text = str(caught.value)
    assert "mine.py: line 7: " in text
    assert answer in text.partition("hint: ")[2]
