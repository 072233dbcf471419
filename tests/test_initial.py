"""How parameters and states start."""

import numpy as np
import pytest
from sympy import Eq

import lstmgen
from lstmgen import Cell, biases, inputs, matrix, states, tanh, vector, weights
from lstmgen.language.initial import KNOWN, Initial
from lstmgen.printing.text import show

x, h = inputs("x"), states("h")


def module(**parts):
    """A cell with a matrix A, a vector v, and what else is given."""
    A, v = matrix("A", "H", "H", init=parts.get("A")), vector("v", "H", init=parts.get("v", 0.0))
    W = matrix("W", "H", "D", init=parts.get("W"))
    return lstmgen.compile(Cell("mine", [Eq(h.next, tanh(A @ h + W @ x + v))], h), "numpy")


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (3, 5), (4, 4)])
def test_orthogonal_rows_or_columns_are_orthonormal(rows, columns):
    made = module(W=("orthogonal", 2.0))
    w = made.init(columns, rows, seed=3, dtype=np.float64)["W"]
    product = w @ w.T if rows <= columns else w.T @ w
    assert np.allclose(product, 4 * np.eye(min(rows, columns)))


def test_orthogonal_matrices_are_not_all_of_one_sign():
    """Without its signs set right, QR gives matrices with a diagonal of one sign."""
    made = module(A="orthogonal")
    signs = [np.sign(made.init(2, 3, seed=k)["A"][0, 0]) for k in range(20)]
    assert {-1.0, 1.0} == set(signs)


def test_hippo_is_the_published_matrix():
    made = module(A="hippo", v="hippo_input")
    params = made.init(2, 3, dtype=np.float64)
    r = np.sqrt
    wanted = [[-1, 0, 0], [-r(3), -2, 0], [-r(5), -r(15), -3]]  # HiPPO-LegS, Gu et al. 2020
    assert np.allclose(params["A"], wanted)
    assert np.allclose(params["v"], r([1, 3, 5]))


def test_the_other_starts():
    params = module(A=("identity", 0.5), v=("linspace", 3, 6), W=("uniform", 2, 3)).init(40, 30)
    assert np.allclose(params["A"], 0.5 * np.eye(30))
    assert np.allclose(params["v"], np.linspace(3, 6, 30))
    assert 2 <= params["W"].min() < 2.1 and 2.9 < params["W"].max() <= 3
    params = module(A=("normal", 0.1), v="ones", W=1.5).init(40, 30)
    assert 0.08 < params["A"].std() < 0.12 and (params["v"] == 1).all()
    assert (params["W"] == 1.5).all()
    assert (module(A="zeros").init(2, 3)["A"] == 0).all()
    glorot, plain = module(A="glorot").init(2, 3), module().init(2, 3)
    assert (glorot["A"] == plain["A"]).all()


def test_matrices_of_heads_start_one_by_one():
    n = states("n", shape=("N", "P"))
    R = weights("R", shape=("N", "P", "P"), init="orthogonal")
    V = weights("V", shape=("N", "P", "D"))
    cell = Cell("heads", [Eq(n.next, tanh(R.i @ n + V.i @ x))], n)
    r = lstmgen.compile(cell, "numpy").init(3, 4, N=2, dtype=np.float64)["R_i"]
    assert np.allclose(r @ r.swapaxes(1, 2), np.eye(4))


def test_a_cell_may_say_how_its_parameters_start():
    U, W, b = weights("U"), weights("W"), biases("b")
    equation = Eq(h.next, tanh(U.h @ h + W.h @ x + b.h))
    cell = Cell("mine", [equation], h, init={U.h: "orthogonal", b.h: 1.0})
    assert cell.initial(U.h) == Initial("orthogonal", (1.0,))
    assert "U_h    H × H    starts orthogonal(1)" in show(cell)
    assert "b_h    H    starts at 1" in show(cell)


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_states_start_where_they_are_declared_to(target):
    s = states("s", init=0.25)
    W, U = weights("W"), weights("U")
    cell = Cell("mine", [Eq(s.next, tanh(W.s @ x + U.s @ s))], s)
    made = lstmgen.compile(cell, target)
    params = made.init(2, 3, dtype=np.float64)
    data = np.ones((4, 5, 2))
    given, *_ = made.forward(params, data, {"s": np.full((5, 3), 0.25)})
    assert (made.forward(params, data)[0] == given).all()
    assert not (made.forward(params, data, {"s": np.zeros((5, 3))})[0] == given).all()
    assert lstmgen.check(cell, target=target).passed
    _, _, tape = made.forward(params, data)
    grads, *_ = made.backward(params, tape, np.ones((4, 5, 3)))  # a cotangent starts at 0
    again, *_ = made.backward(params, tape, np.ones((4, 5, 3)), {"s": np.zeros((5, 3))})
    assert all((grads[k] == again[k]).all() for k in grads)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: matrix("A", init="orthogonl"), 'did you mean "orthogonal"'),
        (lambda: vector("v", init="identity"), "which starts a matrix, not a vector"),
        (lambda: matrix("A", init="uniform"), 'write ("uniform", low, high)'),
        (lambda: matrix("A", init=("zeros", 1)), 'write "zeros"'),
        (lambda: matrix("A", init=("normal", "x")), "std, is one finite number"),
        (lambda: matrix("A", init=float("nan")), "one finite number"),
        (lambda: states("s", init="ones"), "one finite number"),
    ],
)
def test_what_is_no_start_is_said(declare, message):
    with pytest.raises(ValueError, match=r"init of|init is") as caught:
        declare()
    assert message in str(caught.value)


def test_every_name_is_known_to_the_module():
    for name, numbers in KNOWN.items():
        given = (name, *range(1, 1 + len(numbers)))
        params = module(A=given).init(2, 3, seed=1)
        assert params["A"].shape == (3, 3) and np.isfinite(params["A"]).all()
