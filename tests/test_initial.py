"""How parameters and states start."""

import numpy as np
import pytest
from conftest import need
from sympy import Eq

import lstmgen
from lstmgen import (
    Cell,
    CellError,
    Embedding,
    Layer,
    Network,
    Readout,
    biases,
    inputs,
    matrix,
    states,
    tanh,
    vector,
    weights,
)
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
        some = {"chrono": (9,), "ring": (0.1, 0.9), "decay": (0.1, 0.9, 2)}
        given = (name, *some.get(name, range(1, 1 + len(numbers))))
        params = module(A=given).init(2, 3, seed=1)
        assert params["A"].shape == (3, 3) and np.isfinite(params["A"]).all()


# --------------------------------------------------------------------------- NumPy and C alike

STARTS = {
    "W": [None, "glorot", "lecun", "he", "pytorch", ("orthogonal", 2.0), ("identity", 0.5), "hippo",
          ("uniform", -2, 3), ("normal", 0.3)],
    "v": [0.5, "ones", "pytorch", ("linspace", -1, 4), ("power_law", 5, -7, 0.3), "log_range",
          "hippo_input", ("log_uniform", 0.1, 9), ("log_of_uniform", 1, 3), ("chrono", 50),
          ("ring", 0.9, 0.999), ("step_size", 0.001, 0.1), ("decay", 0.9, 0.999, 8),
          ("opposite", "v_9"), ("uniform", 0, 1)],
}  # fmt: skip


def all_starts() -> Cell:
    """One matrix and one vector for each way to start."""
    W, v = weights("W"), biases("v")
    terms = [W[str(k)] @ x for k in range(len(STARTS["W"]))]
    terms += [v[str(k)] for k in range(len(STARTS["v"]))]
    init = {W[str(k)]: start for k, start in enumerate(STARTS["W"]) if start is not None}
    init |= {v[str(k)]: start for k, start in enumerate(STARTS["v"])}
    return Cell("starts", [Eq(h.next, tanh(sum(terms, h)))], h, init=init)


def of_heads() -> Cell:
    """Matrices that are wider than high, and higher than wide, for each of several heads."""
    n = states("n", shape=("N", "P"))
    R, V = weights("R", shape=("N", "P", "P")), weights("V", shape=("N", "P", "D"))
    b = biases("b", shape=("N", "P"))
    equation = Eq(n.next, tanh(R.i @ n + V.i @ x + b.i + b.f))
    init = {R.i: "orthogonal", V.i: "orthogonal", b.i: ("linspace", 0, 1), b.f: ("opposite", b.i)}
    return Cell("heads", [equation], n, init=init)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_c_start_alike(dtype):
    need("cffi")
    need("cc")
    layers = [
        Embedding(7, 6),
        Layer(all_starts(), 6, learn_state=True),
        Layer(of_heads(), N=3, P=4),
        Layer("lstm", 5, bidirectional=True),
        Readout(3),
    ]
    network = Network(layers, loss="cross_entropy", name="started")
    module = lstmgen.compile(network, "c", dtype=dtype)
    wanted = module.init(seed=11)
    flat = np.full(sum(a.size for a in wanted.values()), np.nan, dtype)
    sizes = module._ffi.new("started_sizes *", {"T": 1, "B": 1})
    module._function("init")(sizes, 11, module._memory.at(flat))
    at = 0
    for name in module._blocks:
        a = wanted[name]
        found = flat[at : at + a.size].reshape(a.shape)
        at += a.size
        # an orthogonal matrix is made by other steps, which round as the type does
        tolerance = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(found, a, rtol=tolerance, atol=tolerance, err_msg=name)
    plain = lstmgen.compile(network, "numpy").init(seed=11, dtype=dtype)
    assert all((plain[name] == a).all() for name, a in wanted.items())


def test_a_seed_gives_numbers_that_no_other_gives():
    made = lstmgen.compile(all_starts(), "numpy")
    one, same, other = (made.init(6, 6, seed=s, dtype=np.float64) for s in (1, 1, 2))
    assert all((one[name] == same[name]).all() for name in one)
    drawn = [name for name in one if not (one[name] == other[name]).any()]
    assert {"W_0", "W_8", "W_9", "v_9", "v_13", "v_14"} <= set(drawn)
    numbers = np.concatenate([one[n].ravel() for n in ("W_0", "W_2", "W_8", "W_9", "v_14")])
    assert len(set(numbers)) == len(numbers)


def test_random_starts_are_of_their_distribution():
    made = lstmgen.compile(all_starts(), "numpy")
    p = made.init(500, 500, seed=4, dtype=np.float64)
    for name, least, most in (
        ("W_0", -((6 / 1000) ** 0.5), (6 / 1000) ** 0.5),
        ("W_2", -((3 / 500) ** 0.5), (3 / 500) ** 0.5),
        ("W_3", -((6 / 500) ** 0.5), (6 / 500) ** 0.5), ("W_4", -(500**-0.5), 500**-0.5),
        ("v_2", -(500**-0.5), 500**-0.5), ("W_8", -2, 3), ("v_7", 0.1, 9), ("v_8", 0, np.log(3)),
        ("v_9", 0, np.log(49)), ("v_14", 0, 1),
    ):  # fmt: skip
        a, span = p[name], most - least
        assert least <= a.min() < least + 0.02 * span, name
        assert most - 0.02 * span < a.max() <= most, name
    assert abs(p["W_9"].std() / 0.3 - 1) < 0.01 and abs(p["W_9"].mean()) < 0.002
    assert np.exp(p["v_9"]).mean() == pytest.approx(25, abs=2)  # uniform from 1 to 49
    assert (p["v_13"] == -p["v_9"]).all()
    modulus = np.exp(-np.exp(p["v_10"]))
    assert modulus.min() >= 0.9 and modulus.max() <= 0.999
    assert (modulus**2).mean() == pytest.approx((0.81 + 0.998) / 2, abs=0.01)
    size = np.log1p(np.exp(p["v_11"]))
    assert size.min() >= 0.001 and size.max() <= 0.1
    assert np.log(size).mean() == pytest.approx(np.log(0.01), abs=0.2)
    decay = (1 / (1 + np.exp(-p["v_12"]))) ** 8
    assert decay.min() >= 0.9 and decay.max() <= 0.999


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (("chrono", 2), "more than 2 steps"),
        (("uniform", 3, 2), "low first"),
        (("log_uniform", 0, 2), "two numbers between 0 and inf, low first"),
        (("ring", 0.5, 1), "between 0 and 1"),
        (("power_law", 0, 1, -1), "the power is more than 0"),
        (("opposite",), 'write ("opposite", b.f)'),
    ],
)
def test_numbers_that_make_no_start_are_refused(start, message):
    with pytest.raises(ValueError, match="init of") as caught:
        vector("v", init=start)
    assert message in str(caught.value)


def test_the_opposite_is_of_a_parameter_of_the_same_shape():
    b, W = biases("b"), weights("W")

    def made(**starts):
        init = {b[k]: v for k, v in starts.items()}
        return Cell("mine", [Eq(h.next, tanh(W.h @ x + b.i + b.f))], h, init=init)

    params = lstmgen.compile(made(f=("chrono", 30), i=("opposite", b.f)), "numpy").init(2, 3)
    assert (params["b_i"] == -params["b_f"]).all() and params["b_f"].all()
    assert "b_i starts opposite(b_f)" in show(made(i=("opposite", b.f)))
    for start, message in (
        ("b_g", "not a parameter"), ("W_h", "another shape"), ("b_i", "itself an opposite"),
    ):  # fmt: skip
        with pytest.raises(CellError, match=message):
            made(i=("opposite", start))


def test_noise_around_a_cell_leaves_its_starts():
    cell = all_starts()
    structure = Network([Layer(cell, 4, zoneout=0.1), Readout(2)], inputs=4)
    (changed,) = (c for c in structure.cells if "starts" in c.name)
    assert changed.initial(biases("v")["9"]) == Initial("chrono", (50.0,))


def test_a_matrix_that_starts_at_zero_does():
    made = module(W=0.0)
    assert not made.init(2, 3)["W"].any()
    assert "starts at 0" in show(Cell("mine", [Eq(h.next, tanh(matrix("W", init=0.0) @ x))], h))
