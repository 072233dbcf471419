"""Equations as text: the order of terms and factors, numbers, ``lstmgen show``."""

from __future__ import annotations

import re

import pytest
import reference
import sympy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from strategies import cells as made_up_cells
from sympy import Add, Eq, Float, Mul, Piecewise, Rational, exp, sqrt

import lstmgen
from lstmgen import (
    Cell,
    biases,
    constants,
    derive,
    expm1,
    inputs,
    layer_norm,
    masks,
    matrix,
    max_,
    mean,
    named,
    relu,
    rsqrt,
    sigmoid,
    softmax,
    softplus,
    states,
    stop_gradient,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.derivation.reverse import adjoint, carry, cotangent
from lstmgen.language.ranges import value_range
from lstmgen.language.sizes import Size
from lstmgen.language.symbols import Outer, Total
from lstmgen.printing.orders import Order, exact, literal, number, one_line
from lstmgen.printing.text import show, text, wrap

CELLS = reference.NAMES

x, y = inputs("x y")
h, c = states("h c")
i, f, g, o, z, n = vectors("i f g o z n")
s = vectors("s", size=1)
W, U, b, p = weights("W"), weights("U"), biases("b"), biases("p")
V, m, dt = matrix("V"), masks("m", size="H"), constants("dt", value=0.1)

PLAYGROUND = Cell(
    "playground",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + p.i * c + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(g, tanh(W.g @ y + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(z, sigmoid(W.z @ x)),
        Eq(n, tanh(W.n @ x + z * (U.n @ h))),
        Eq(s, mean(h * n)),
        Eq(c.next, m * f * c + i * g * s * dt),
        Eq(h.next, o * tanh(c.next) + V @ n),
    ],
    output=h,
)


def told(e, style="show"):
    return text(e, Order(PLAYGROUND), style)


# --------------------------------------------------------------------------- order


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (b.i + U.i @ h + W.i @ x, "W_i x + U_i h + b_i"),
        (b.i + c * p.i + U.i @ h + W.i @ x, "W_i x + U_i h + p_i c + b_i"),
        (V @ n + W.g @ y + U.g @ h + 1, "W_g y + U_g h + V n + 1"),
        (W.n @ x + z * (U.n @ h) + b.n, "W_n x + z (U_n h) + b_n"),
        (i * g + c * f, "f c + i g"),
        ((1 - z) * n + z * h, "z h + (1 - z) n"),
        (z * h + (1 - z) * tanh(W.n @ x), "z h + (1 - z) tanh(W_n x)"),
        (g - c, "g - c"),
        (h - n, "h - n"),
        (-c - g, "-c - g"),
        (1 - z, "1 - z"),
        (1 - tanh(c) ** 2, "1 - tanh²(c)"),
        (softplus(z) + 1, "1 + softplus(z)"),
        (expm1(z) ** 2, "expm1(z)²"),
        (mean(h) + Float(1e-5), "mean(h) + 1e-05"),
        (b.i + p.i - 1, "b_i + p_i - 1"),
        (h**3 + h**10 + h, "h + h³ + h¹⁰"),
    ],
)
def test_order_of_terms(expression, expected):
    assert told(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (g * i * adjoint(c.next) * (1 - i), "δc g i (1 - i)"),
        (adjoint(c.next) * f * c * (1 - f), "δc c f (1 - f)"),
        (adjoint(h.next) * o * (1 - o) * tanh(c.next), "δh tanh(c′) o (1 - o)"),
        (adjoint(h.next) * (1 - z) * (1 - n**2), "δh (1 - z) (1 - n²)"),
        (adjoint(h.next) * (h - n) * z * (1 - z), "δh (h - n) z (1 - z)"),
        (adjoint(h.next) * o * (1 - tanh(c.next) ** 2), "δh o (1 - tanh²(c′))"),
        (m * p.i * adjoint(i) * c, "p_i m δi c"),
        (2 * Size("H") * z * s, "2 H s z"),
        (z * c * x, "z c x"),
        ((1 - z) * n, "(1 - z) n"),
        (c * n / Size("H"), "n c/H"),
        (c / (1 + softplus(g)), "c / (1 + softplus(g))"),
        (Rational(3, 2) * c, "3 c/2"),
        (-c / 2, "-c/2"),
        (1 / c, "1/c"),
        (z * rsqrt(mean(c)), "z / sqrt(mean(c))"),
        (z**-2, "1/z²"),
    ],
)
def test_order_of_factors(expression, expected):
    assert told(expression) == expected


def test_adjoints_stand_in_the_order_of_the_literature():
    derivation = derive(lstmgen.cells.get("lstm_peephole"))
    order = Order(derivation.cell, derivation.forward)
    lines = [text(e, order) for e in derivation.equations]
    assert lines == [
        "δh = Δh + U_iᵀ δa_i[t+1] + U_fᵀ δa_f[t+1] + U_gᵀ δa_g[t+1] + U_oᵀ δa_o[t+1]",
        "δa_o = δh ∘ tanh(c) ∘ o ∘ (1 - o)",
        "δc = δh ∘ o ∘ (1 - tanh²(c)) + p_o ∘ δa_o"
        " + p_i ∘ δa_i[t+1] + p_f ∘ δa_f[t+1] + δc[t+1] ∘ f[t+1]",
        "δa_g = δc ∘ i ∘ (1 - g²)",
        "δa_f = δc ∘ c[t-1] ∘ f ∘ (1 - f)",
        "δa_i = δc ∘ g ∘ i ∘ (1 - i)",
    ]


@hypothesis_settings(max_examples=15)
@given(made_up_cells())
def test_order_only_orders(cell):
    derivation = derive(cell)
    order = Order(cell, derivation.forward)
    for e in (*derivation.forward, *derivation.equations, *derivation.gradients):
        for node in sympy.preorder_traversal(e.rhs):
            if isinstance(node, Add):
                terms = order.terms(node)
                assert sorted(terms, key=str) == sorted(node.args, key=str)
            if isinstance(node, Mul):
                factors = order.factors(node)
                assert sorted(factors, key=str) == sorted(node.args, key=str)


@hypothesis_settings(max_examples=15)
@given(made_up_cells())
def test_a_line_stays_one_line_and_closes_no_comment(cell):
    derivation = derive(cell)
    order = Order(cell, derivation.forward)
    equations = (*cell.equations, *derivation.forward, *derivation.adjoints)
    for e in (*equations, *derivation.equations, *derivation.gradients):
        for style in ("show", "code"):
            line = text(e, order, style)
            assert line.isprintable()
            assert "*" not in line
            assert not re.search(r"\d\.0\b|Derivative|named", line)


# --------------------------------------------------------------------------- styles


@pytest.mark.parametrize(
    ("equation", "shown", "commented"),
    [
        (Eq(c.next, f * c + i * g), "c′ = f c + i g", "c[t] = f ∘ c[t-1] + i ∘ g"),
        (Eq(h.next, o * tanh(c.next)), "h′ = o tanh(c′)", "h[t] = o ∘ tanh(c[t])"),
        (Eq(n, V.T @ (z * h)), "n = Vᵀ (z h)", "n = Vᵀ (z ∘ h[t-1])"),
        (Eq(n, 2 * s * h * z), "n = 2 s z h", "n = 2 s z ∘ h[t-1]"),
        (Eq(adjoint(n), adjoint(c.next) * c), "δn = δc c", "δn = δc ∘ c[t-1]"),
        (Eq(adjoint(h), carry(h) + cotangent(h)), "δh[t-1] = Δh + δh⁺", "δh[t-1] = Δh + δh⁺"),
        (Eq(n, h.at(1)), "n = h[t+1]", "n = h[t+1]"),
    ],
)
def test_styles(equation, shown, commented):
    assert told(equation, "show") == shown
    assert told(equation, "code") == commented


def test_gradients_name_the_first_step_by_its_number():
    derivation = derive(lstmgen.cells.get("lstm"))
    lines = [text(e, Order(derivation.cell, derivation.forward)) for e in derivation.gradients]
    assert "∂L/∂W_i = Σ_t δa_i xᵀ" in lines
    assert "∂L/∂U_o = Σ_t δa_o h[t-1]ᵀ" in lines
    assert "∂L/∂x = W_iᵀ δa_i + W_fᵀ δa_f + W_gᵀ δa_g + W_oᵀ δa_o" in lines
    assert "∂L/∂c[0] = δc[1] ∘ f[1]" in lines
    both = Total(Outer(adjoint(z), x) + Outer(adjoint(n), h))
    assert told(both, "code") == "Σ_t (δn h[t-1]ᵀ + δz xᵀ)"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (exp(-(h**2)), "exp(-h²)"),
        (relu(h) ** 2, "relu(h)²"),
        (sigmoid(h) ** 2, "σ²(h)"),
        (sqrt(1 + h**2), "sqrt(1 + h²)"),
        (h**z, "h^z"),
        (h ** (1 + z), "h^(1 + z)"),
        (h**1.5, "h^1.5"),
        ((h + z) ** 2, "(h + z)²"),
        (sympy.Max(h, 0), "max(h, 0)"),
        (sympy.Abs(h), "|h|"),
        (sympy.floor(h), "⌊h⌋"),
        (sympy.Heaviside(h), "Heaviside(h)"),
        (sympy.pi * h, "π h"),
        (max_(h) * sum_(z), "sum(z) max(h)"),
        (named(h + z) * 2, "2 (h + z)"),
        (h - named(h + z), "h - (h + z)"),
        (Piecewise((h, (h > 0) & (z <= 1)), (-z, True)), "h if h > 0 and z ≤ 1 else -z"),
        (2 * Piecewise((h, h > 0), (z, True)), "2 (h if h > 0 else z)"),
        (1.0 * h + 2.0 * z, "h + 2 z"),
        (0.1 * h, "0.1 h"),
    ],
)
def test_expressions(expression, expected):
    assert told(Eq(n, expression)) == f"n = {expected}"


@pytest.mark.parametrize(
    ("value", "people", "programs"),
    [
        (sympy.Integer(2), "2", "2.0"),
        (Rational(1, 2), "1/2", "0.5"),
        (Float(0.1), "0.1", "0.1"),
        (Float(1.0), "1", "1.0"),
        (Float("1.0e-5"), "1e-05", "1e-05"),
        (Float(-2.5), "-2.5", "-2.5"),
        (sympy.pi, "3.141592653589793", "3.141592653589793"),
    ],
)
def test_numbers_are_as_short_as_they_can_be(value, people, programs):
    assert number(value) == people
    assert literal(value) == programs


def test_exact():
    assert exact(1.0 * h + 2.0 * z**2.0) == h + 2 * z**2
    assert exact(0.5 * h) == 0.5 * h


def test_one_line():
    hostile = 'a */ b /* c\n# include <x>\r\u2028 \x00 */*/ ??/ """ \\'
    safe = one_line(hostile)
    assert safe.isprintable()
    assert not any(mark in safe for mark in ("*/", "/*", "??/", '"""'))
    assert not safe.endswith("\\")
    assert one_line("Koutník & Greff, 2017") == "Koutník & Greff, 2017"


def test_wrap():
    line = "W_a a + W_b b + σ(W_c c + W_d d) - W_e (e + f)"
    for width in (12, 20, 30):
        pieces = wrap(line, width)
        assert " ".join(pieces) == line
    assert wrap(line, 100) == [line]
    assert wrap(line, 34) == ["W_a a + W_b b + σ(W_c c + W_d d)", "- W_e (e + f)"]


# --------------------------------------------------------------------------- show


def test_show_lstm():
    assert show(lstmgen.cells.get("lstm")).splitlines() == [
        "lstm: long short-term memory with a forget gate",
        "      Gers et al. 2000",
        "",
        "i  = σ(W_i x + U_i h + b_i)       input gate      0…1",
        "f  = σ(W_f x + U_f h + b_f)       forget gate     0…1",
        "g  = tanh(W_g x + U_g h + b_g)    candidate      −1…1",
        "o  = σ(W_o x + U_o h + b_o)       output gate     0…1",
        "c′ = f c + i g                    cell state",
        "h′ = o tanh(c′)                   hidden state   −1…1",
        "",
        "input       x                  D",
        "state       h c                H    h′ c′ after the step",
        "output      h′                 H",
        "parameters  W_i W_f W_g W_o    H × D",
        "            U_i U_f U_g U_o    H × H",
        "            b_i b_f b_g b_o    H    b_f starts at 1",
        "in all      4 (H D + H² + H) numbers",
    ]


@pytest.mark.parametrize("name", CELLS)
def test_show_fits_a_terminal(name):
    for line in show(lstmgen.cells.get(name)).splitlines():
        assert len(line) <= 100
        assert line == line.rstrip()


def test_show_puts_helpers_back():
    shown = show(lstmgen.cells.get("lstm_layernorm"))
    assert "i  = σ(k_i LN(W_i x) + s_i LN(U_i h) + b_i) " in shown
    assert "where LN(v) = (v - mean(v)) / sqrt(mean((v - mean(v))²) + 1e-05)" in shown


def test_show_tells_helpers_apart():
    first, second = layer_norm(W.a @ x), layer_norm(U.a @ h, eps=0.1)
    shown = show(Cell("two", [Eq(z, tanh(first)), Eq(h.next, z * second + softmax(h) ** 2)], h))
    assert "z  = tanh(LN(W_a x)) " in shown
    assert "h′ = z LN_2(U_a h) + softmax(h)²" in shown
    assert "where LN(v) = (v - mean(v)) / sqrt(mean((v - mean(v))²) + 1e-05)" in shown
    assert "and LN_2(v) = (v - mean(v)) / sqrt(mean((v - mean(v))²) + 0.1)" in shown
    assert "and softmax(v) = exp(v) / sum(exp(v))" in shown


def test_show_of_a_hostile_cell():
    cell = Cell(
        "hostile",
        [Eq(h.next, tanh(W.h @ x + h))],
        h,
        title="a title\nwith \x1b[31m lines",
        source="*/ \n",
        roles={h: "one\ntwo"},
    )
    assert "\x1b" not in show(cell)
    assert "one two" in show(cell)
    assert "*/" not in show(cell)


ANY = (-sympy.oo, sympy.oo)


@pytest.mark.parametrize(
    ("expression", "low", "high"),
    [
        (sigmoid(h), 0, 1),
        (tanh(h), -1, 1),
        (1 - sigmoid(h), 0, 1),
        (2 * sigmoid(h) - 1, -1, 1),
        (sigmoid(h) * tanh(c), -1, 1),
        (relu(h), 0, sympy.oo),
        (relu(tanh(h)), 0, 1),
        (tanh(relu(h)), 0, 1),
        (exp(h), 0, sympy.oo),
        (h**2, 0, sympy.oo),
        (tanh(h) ** 2, 0, 1),
        (sympy.Abs(h), 0, sympy.oo),
        (sympy.Min(relu(h), 3), 0, 3),
        (Piecewise((sigmoid(h), h > 0), (tanh(c), True)), -1, 1),
        (softmax(h), 0, 1),
        (mean(sigmoid(h)), 0, 1),
        (stop_gradient(named(sigmoid(h) + 1)), 1, 2),
        (f * c, *ANY),
        (layer_norm(h), *ANY),
    ],
)
def test_ranges(expression, low, high):
    assert value_range(expression, {f: (0, 1)}) == (float(low), float(high))


def test_learned_scalars_stand_before_vectors():
    mu = vector("mu", size=1)
    cell = Cell("leaky", [Eq(h.next, (1 - mu) * h + mu * tanh(W.h @ x))], h)
    assert text(cell.equations[0], cell, "show") == "h′ = (1 - mu) h + mu tanh(W_h x)"
