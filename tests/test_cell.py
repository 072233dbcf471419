"""A cell is checked when it is built: every mistake has its message, and says what to do."""

from __future__ import annotations

import copy
import pickle

import pytest
import sympy
from sympy import Eq, Function, Symbol

from lstmgen import (
    Cell,
    CellError,
    biases,
    constants,
    inputs,
    layer_norm,
    masks,
    matrix,
    mean,
    relu,
    sigmoid,
    states,
    tanh,
    vector,
    vectors,
    weights,
)

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, b, p = weights("W"), weights("U"), biases("b"), biases("p")


def cell(*equations, output=h, **options):
    return Cell("mine", equations, output, **options)


def complaint(*equations, output=h, **options):
    with pytest.raises(CellError) as caught:
        cell(*equations, output=output, **options)
    return str(caught.value)


PLAIN = Eq(h.next, tanh(W.h @ x + U.h @ h + b.h))


# --------------------------------------------------------------------------- what is right


def test_a_cell_knows_its_parts():
    made = cell(Eq(i, sigmoid(W.i @ x + U.i @ h + p.i * c + b.i)),
                Eq(c.next, (1 - i) * c + i * tanh(W.g @ x)),
                Eq(h.next, tanh(c.next)))  # fmt: skip
    assert [s.name for s in made.states] == ["h", "c"]
    assert [q.name for q in made.parameters] == ["W_i", "W_g", "U_i", "b_i", "p_i"]
    assert [str(n) for n in made.sizes] == ["D", "H"]
    assert made.shape(W.i) == made.shape(W.g)
    assert [str(n) for n in made.shape(W.i)] == ["H", "D"]
    assert [str(n) for n in made.shape(p.i)] == ["H"]
    assert made.output == h.next
    assert made.is_analytic


def test_sizes_are_inferred_by_unification():
    small = states("s", size="P")
    n = vectors("n", size="N")
    made = Cell("mine", [Eq(n, U.s @ x + b.s), Eq(small.next, W.s @ n + W.t @ small)], output=small)
    assert tuple(map(str, made.shape(W.s))) == ("P", "N")
    assert tuple(map(str, made.shape(b.s))) == ("N",)


def test_symbols_are_equal_by_what_they_are_and_survive_copying():
    assert inputs("x") == x
    assert states("h") == h
    assert h.next == states("h").next != h
    assert W.i == weights("W").i == W["i"]
    for symbol in (x, h, h.next, W.i, W.i.T, b.i):
        assert copy.deepcopy(symbol) == symbol
        assert pickle.loads(pickle.dumps(symbol)) == symbol
    assert sympy.diff(i * tanh(c), c) == i * (1 - tanh(c) ** 2)


def test_one_name_gives_a_symbol_and_several_a_tuple():
    assert isinstance(inputs("x y"), tuple)
    assert isinstance(states("h, c"), tuple)
    assert isinstance(weights("W U"), tuple)


def test_factors_before_a_matrix_go_to_its_product():
    assert i * U.i @ h == i * (U.i @ h)
    assert 2 * U.i @ (i * h) == 2 * (U.i @ (i * h))
    assert -U.i @ h == -(U.i @ h)
    assert i * W.a @ W.b @ x == i * (W.a @ (W.b @ x))
    assert "U_i is used without @" in complaint(Eq(h.next, i_of_x() * U.i + W.h @ x))


def i_of_x():
    return sigmoid(W.i @ x)


def test_a_chain_of_matrices_is_a_product_of_low_rank():
    V, Q = matrix("V Q")
    assert V @ Q @ x == V @ (Q @ x)


# --------------------------------------------------------------------------- what is wrong


def test_used_before_it_is_defined():
    text = complaint(Eq(h.next, o * tanh(c)), Eq(o, sigmoid(W.o @ x)), Eq(c.next, c))
    assert "equation 1" in text and "o is used before it is defined" in text and "above" in text


def test_the_new_state_used_before_it_is_defined():
    text = complaint(Eq(o, sigmoid(p.o * c.next)), Eq(c.next, c + x_to_h()), Eq(h.next, o * c))
    assert "c.next is used before" in text and "read c, the value before the step" in text


def x_to_h():
    return W.c @ x


def test_never_defined_names_the_nearest():
    j = vectors("j")
    text = complaint(Eq(i, sigmoid(W.i @ x)), Eq(h.next, i * j))
    assert "j is never defined" in text


def test_defined_twice():
    text = complaint(PLAIN, Eq(h.next, W.h @ x))
    assert "equation 2" in text and "already defined by equation 1" in text


def test_a_state_without_next():
    text = complaint(Eq(h.next, tanh(W.h @ x + c)))
    assert "state c has no equation for c.next" in text


def test_a_state_on_the_left():
    assert "Eq(h.next, …)" in complaint(Eq(h, tanh(W.h @ x)))


def test_an_input_on_the_left():
    assert "declared as an input" in complaint(Eq(x, tanh(W.h @ x)))


def test_a_weight_without_product():
    text = complaint(Eq(h.next, tanh(W.h * x + U.h @ h)))
    assert "W_h is used without @" in text and "W_h @ x" in text


def test_a_family_is_no_parameter():
    with pytest.raises(TypeError, match="name one member"):
        W @ x
    with pytest.raises(TypeError, match="name one member"):
        W.i @ x + b
    with pytest.raises(TypeError, match="the matrix comes first"):
        x @ W.i
    with pytest.raises(TypeError, match="is a vector"):
        b.i @ x


def test_next_of_what_is_no_state():
    with pytest.raises(AttributeError, match=r"i has no \.next"):
        i.next  # noqa: B018
    with pytest.raises(AttributeError, match="value after the step"):
        h.next.next  # noqa: B018


def test_sizes_that_do_not_fit_name_both():
    small = states("h", size="P")
    text = complaint(Eq(g, tanh(W.g @ x + U.g @ small)), Eq(small.next, g * small), output=small)
    assert "size P" in text and "size H" in text and "equation 2" in text and "hint" in text


def test_elementwise_product_of_different_sizes():
    text = complaint(Eq(h.next, x * h))
    assert "size D" in text and "size H" in text and "W @ x" in text


def test_one_matrix_cannot_fit_two_sizes():
    text = complaint(Eq(h.next, tanh(W.h @ x + W.h @ h)))
    assert "W_h" in text and "columns" in text


def test_an_equation_that_nothing_reads():
    text = complaint(PLAIN, Eq(i, sigmoid(W.i @ x)))
    assert "nothing reads i" in text and "equation 2" in text


def test_a_state_that_nothing_reads():
    text = complaint(PLAIN, Eq(c.next, W.c @ x))
    assert "nothing reads the state c" in text


def test_an_output_that_is_not_defined():
    assert "output c is defined by no equation" in complaint(PLAIN, output=c)


def test_a_plain_symbol():
    text = complaint(Eq(h.next, Symbol("z") * h + W.h @ x))
    assert "z is a plain SymPy symbol" in text and 'inputs("z")' in text


def test_unknown_functions():
    text = complaint(Eq(h.next, Function("squash")(W.h @ x)))
    assert "squash has no definition" in text and "sigmoid" in text
    assert "gamma is not known" in complaint(Eq(h.next, sympy.gamma(W.h @ x)))


def test_trivial_equations():
    assert "always True" in complaint(Eq(h.next, h.next))


def test_things_that_are_no_equations():
    assert "not a sympy.Eq" in complaint(tanh(W.h @ x))


def test_infinite_and_complex_numbers():
    for number in (sympy.oo, sympy.I, sympy.nan, sympy.zoo):
        rhs = W.h @ x + number
        assert "infinite, complex" in complaint(Eq(h.next, rhs, evaluate=False))


@pytest.mark.parametrize("name", ["class", "lambda", "double", "register", "new", "NULL"])
def test_keywords_are_no_names(name):
    v = vectors(name)
    assert "a keyword" in complaint(Eq(v, W.i @ x), Eq(h.next, v))
    with pytest.raises(CellError, match="keyword"):
        Cell(name, [PLAIN], h)


@pytest.mark.parametrize(
    "name", ["1st", "a-b", "a;b", "_x", "δ", "a*/", "x" * 41, "a\nb", "%s", "a.b", ""]
)
def test_what_is_no_identifier_is_refused(name):
    with pytest.raises(CellError, match="not an identifier"):
        Cell(name, [PLAIN], h)


def test_one_name_means_one_thing():
    text = complaint(Eq(h.next, tanh(W.h @ x + vector("W_h"))))
    assert "two different symbols are called W_h" in text


def test_reserved_sizes():
    s = states("s", size="T")
    assert "T cannot name a size" in complaint(Eq(s.next, W.s @ x), output=s)
    B = matrix("B", "H", "D")
    text = complaint(Eq(h.next, tanh(B @ x + h)))
    assert "B cannot name a symbol: T is the number of steps, B of rows in a batch" in text
    assert "B_x" in text
    Cell("renamed", [Eq(h.next, tanh(weights("B").x @ x + h))], h)
    v = vectors("H")
    assert "both a symbol and a size" in complaint(Eq(v, W.v @ x), Eq(h.next, v + h))


def test_a_size_that_nothing_tells():
    text = complaint(Eq(h.next, h * mean(W.m @ x)))
    assert "cannot be inferred" in text and "rows" in text


def test_no_input():
    assert "no equation reads an input" in complaint(Eq(h.next, tanh(U.h @ h)))


def test_init_of_what_is_no_parameter():
    assert "which is not a parameter" in complaint(PLAIN, init={b.f: 1.0})


def test_a_size_is_a_name_or_positive():
    with pytest.raises(ValueError, match="positive"):
        states("h", size=0)


def test_kinks_are_known():
    assert not cell(Eq(h.next, relu(W.h @ x + U.h @ h))).is_analytic
    assert cell(Eq(h.next, layer_norm(W.h @ x + U.h @ h))).is_analytic


def test_masks_and_constants_are_found():
    m, dt = masks("m"), constants("dt", 0.1)
    made = cell(Eq(h.next, m * h + dt * tanh(W.h @ x)))
    assert made.masks == (m,)
    assert made.constants == (dt,)
    assert made.initial(dt) == 0.1
