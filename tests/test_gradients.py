"""Every cell through every target: held against the equations, PyTorch, and each other."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import reference
import strategies
import sympy
from conftest import need
from hypothesis import HealthCheck, assume, given, settings
from sympy import Eq, Piecewise

from lstmgen import (
    Cell,
    biases,
    cells,
    check,
    compile,
    constants,
    inputs,
    masks,
    mean,
    relu,
    sigmoid,
    states,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.verification.examination import Examination

NAMES = reference.NAMES
TARGETS = ["numpy", "c"]


@pytest.fixture(scope="session")
def compiled():
    """Modules, each made once."""

    @cache
    def make(name: str, target: str, dtype: str = "float64"):
        if target == "c":
            need("cffi")
            need("cc")
        return compile(cells.get(name), target, dtype=dtype)

    return make


@cache
def examination(name: str, dtype: str = "float64", **about) -> Examination:
    """What the witnesses say of a cell, which takes longer than to judge a module by it, and is the
    same for all targets.
    """
    return Examination(cells.get(name), dtype, **about)


@pytest.fixture(scope="session")
def autograd():
    """PyTorch's opinion of a case."""
    need("torch")
    from witness import differentiate_case

    return differentiate_case


def arguments(cell: Cell, case, dtype: str = "float64"):
    """What forward takes for a case, by name, and what backward takes beside it."""
    arrays = {e: np.ascontiguousarray(a, dtype) for e, a in case.values.items()}
    params = {n: a for (kind, n), a in arrays.items() if kind == "parameter"}
    params |= {c.name: case.given[c.name] for c in cell.constants}
    xs = {v.name: arrays["input", v.name] for v in cell.inputs}
    x = xs if len(xs) > 1 else next(iter(xs.values()))
    state = {s.name: arrays["state", s.name] for s in cell.states}
    given_ = {m.name: np.ascontiguousarray(case.given[m.name], dtype) for m in cell.masks}
    extra = {"masks": given_} if given_ else {}
    dy, dstate = ({n: a.astype(dtype) for n, a in d.items()} for d in (case.dy, case.dstate))
    dy = dy if len(dy) > 1 else next(iter(dy.values()))
    return {"params": params, "x": x, "state": state, **extra}, (dy, dstate)


def run(cell: Cell, module, case, dtype: str = "float64"):
    """A module's outputs and gradients for a case, by kind and name as autograd has them."""
    given, cotangents = arguments(cell, case, dtype)
    y, final, tape = module.forward(**given)
    grads, dx, initial = module.backward(given["params"], tape, *cotangents)
    by_input = dx if len(cell.inputs) > 1 else {cell.inputs[0].name: dx}
    gradients = {("parameter", n): g for n, g in grads.items()}
    gradients |= {("input", n): g for n, g in by_input.items()}
    gradients |= {("state", n): g for n, g in initial.items()}
    return y, final, gradients


def assert_gradients_equal(ours, theirs, tolerance: float) -> None:
    """Relative to each gradient's largest entry; a thousandth of the largest of all counts as 0."""
    floor = 1e-3 * max(np.abs(g).max() for g in theirs.values())
    assert set(ours) == set(theirs)
    for entity, expected in theirs.items():
        error = np.abs(ours[entity] - expected).max() / max(np.abs(expected).max(), floor)
        assert error < tolerance, (entity, error)


# --------------------------------------------------------------------------- the reference cells


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_check_passes(name: str, target: str, dtype: str, compiled) -> None:
    report = examination(name, dtype).judge(compiled(name, target, dtype))
    assert report.passed, f"\n{report}"
    if dtype == "float64":
        for row in report.rows:
            if row.is_gradient:
                assert row.error("complex step") < 1e-12
                assert row.error("central difference") < 1e-8


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gru_reset_before", "float32"), ("lstm_layernorm", "float64"), ("mlstm", "float32")],
)
def test_check_passes_as_shipped(name: str, dtype: str, as_shipped) -> None:
    """Optimised as users have it: products that depend on each other, reductions, several axes."""
    need("cffi")
    need("cc")
    report = check(cells.get(name), "c", dtype)
    assert report.passed, f"\n{report}"


def assert_equal_to_autograd(theirs, y, final, gradients) -> None:
    """Outputs, final states and gradients in double precision."""
    several = isinstance(y, dict)
    ours, outputs = (y, theirs.y) if several else ({"y": y}, {"y": theirs.y})
    assert ours.keys() == outputs.keys()
    for n, expected in outputs.items():
        np.testing.assert_allclose(ours[n], expected, rtol=1e-10, atol=1e-12)
    for n, expected in theirs.final.items():
        np.testing.assert_allclose(final[n], expected, rtol=1e-10, atol=1e-12)
    assert_gradients_equal(gradients, theirs.named(), 1e-10)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_autograd(name: str, target: str, compiled, autograd) -> None:
    cell = cells.get(name)
    case = examination(name, T=9, B=4, seed=1, seeds=1, kinks=False).witnesses[0].case
    y, final, gradients = run(cell, compiled(name, target), case)
    assert_equal_to_autograd(autograd(cell, case), y, final, gradients)


@pytest.mark.parametrize("name", NAMES)
def test_c_equals_numpy(name: str, compiled) -> None:
    cell = cells.get(name)
    case = Examination(cell, T=11, B=5, seed=2, seeds=1, kinks=False).witnesses[0].case
    y, final, gradients = run(cell, compiled(name, "numpy"), case)
    y_c, final_c, gradients_c = run(cell, compiled(name, "c"), case)
    np.testing.assert_allclose(y_c, y, rtol=1e-12, atol=1e-13)
    for n in final:
        np.testing.assert_allclose(final_c[n], final[n], rtol=1e-12, atol=1e-13)
    assert_gradients_equal(gradients_c, gradients, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_complex_numbers_pass_through_forward(name: str, compiled) -> None:
    """The complex step through the generated forward pass itself."""
    cell = cells.get(name)
    case = Examination(cell, T=4, B=2, seeds=1, kinks=False).witnesses[0].case
    module = compiled(name, "numpy")
    _, _, gradients = run(cell, module, case)
    rng = np.random.default_rng(0)
    directions = {e: rng.normal(size=a.shape) for e, a in case.values.items()}
    moved = {e: a + 1e-30j * directions[e] for e, a in case.values.items()}
    of = {k: {n: a for (kind, n), a in moved.items() if kind == k}
          for k in ("parameter", "input", "state")}  # fmt: skip
    arguments = of["parameter"], of["input"][cell.inputs[0].name], of["state"]
    if any(e.rhs.has(sympy.Abs, sympy.sign) for e in cell.equations):  # |z| has no complex step
        with pytest.raises(TypeError, match=f"{name} takes real numbers: Abs is not analytic"):
            module.forward(*arguments)
        return
    y, final, _ = module.forward(*arguments)
    loss = (case.dy[module.OUTPUT] * y).sum() + sum(
        (case.dstate[n] * final[n]).sum() for n in final
    )
    along = sum((gradients[e] * directions[e]).sum() for e in gradients)
    assert loss.imag / 1e-30 == pytest.approx(along, rel=1e-12)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 1), (33, 2), (6, 17)])
def test_lengths_and_batches(T: int, B: int, target: str, compiled, autograd) -> None:
    """Around the edges of tiles and vector registers."""
    for name in ("lstm_peephole", "gru_reset_before", "lstm_layernorm"):
        cell = cells.get(name)
        case = Examination(cell, T=T, B=B, seed=3, seeds=1, kinks=False).witnesses[0].case
        _, _, gradients = run(cell, compiled(name, target), case)
        assert_gradients_equal(gradients, autograd(cell, case).named(), 1e-10)


@pytest.mark.parametrize("sizes", [{"D": 1, "H": 1}, {"D": 16, "H": 8}, {"D": 2, "H": 33}])
@pytest.mark.parametrize("target", TARGETS)
def test_sizes(sizes, target: str, compiled) -> None:
    for name in ("lstm", "gru", "lstm_layernorm"):
        module = compiled(name, target)
        report = check(cells.get(name), target, module=module, sizes=sizes, T=3, B=2)
        assert report.passed, f"\n{report}"


@pytest.mark.parametrize("name", ["lstm_peephole", "lstmp"])
def test_sizes_that_are_compile_time_constants(name: str, compiled) -> None:
    compiled(name, "c")  # skips without a compiler
    cell = cells.get(name)
    sizes = {str(n): k for n, k in zip(cell.sizes, (6, 9, 4), strict=False)}
    report = check(cell, "c", **sizes)
    assert report.passed, f"\n{report}"
    assert all(f"{n}={k}" in report.title for n, k in sizes.items())


@pytest.mark.parametrize("target", TARGETS)
def test_calls_do_not_disturb_each_other(target: str, compiled) -> None:
    """What a call returned stays as it was: results and tapes do not share buffers."""
    cell = cells.get("lstm")
    module = compiled("lstm", target)
    one, two = (
        Examination(cell, T=5, B=2, seed=s, seeds=1, kinks=False).witnesses[0].case for s in (0, 1)
    )

    def forward(case):
        params = {n: a for (k, n), a in case.values.items() if k == "parameter"}
        state = {n: a for (k, n), a in case.values.items() if k == "state"}
        return params, module.forward(params, case.values["input", "x"], state)

    params_one, (y, final, tape) = forward(one)
    kept = y.copy(), {n: a.copy() for n, a in final.items()}
    first = module.backward(params_one, tape, one.dy["h"], one.dstate)
    first = ({n: g.copy() for n, g in first[0].items()}, first[1].copy(), first[2])
    params_two, (_, _, other) = forward(two)
    module.backward(params_two, other, two.dy["h"], two.dstate)
    np.testing.assert_array_equal(y, kept[0])
    for n, a in final.items():
        np.testing.assert_array_equal(a, kept[1][n])
    again = module.backward(params_one, tape, one.dy["h"], one.dstate)
    np.testing.assert_array_equal(again[1], first[1])
    for n, g in again[0].items():
        np.testing.assert_array_equal(g, first[0][n])


# --------------------------------------------------------------------------- other faces


def unusual() -> Cell:
    """Two inputs, masks of two kinds, constants, a scalar gate; its output is not a state."""
    x, u = inputs("x"), inputs("u", size="E")
    h, c = states("h"), states("c", size="P")
    keep, drop = masks("keep"), masks("drop", size=1)
    dt, rate = constants("dt", 0.25), constants("rate")
    s = vectors("s", size=1)
    r, y = vectors("r", size="P"), vectors("y", size="Q")
    W, V, U, b = weights("W"), weights("V"), weights("U"), biases("b")
    equations = [
        Eq(s, sigmoid(W.s @ x + V.s @ u + b.s)),
        Eq(r, tanh(V.r @ u + U.r @ h + b.r)),
        Eq(c.next, c + dt * (s * r - rate * c)),
        Eq(h.next, keep * h + (1 - keep) * tanh(W.h @ x + U.h @ (r * c.next) * drop)),
        Eq(y, relu(U.y @ h.next + b.y)),
    ]
    return Cell("unusual", equations, output=y)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("target", TARGETS)
def test_unusual_interface(target: str, dtype: str, autograd) -> None:
    if target == "c":
        need("cffi")
        need("cc")
    cell = unusual()
    module = compile(cell, target, dtype=dtype)
    report = check(cell, target, dtype, module=module)
    assert report.passed, f"\n{report}"
    case = Examination(cell, dtype, seeds=1, kinks=False).witnesses[0].case
    _, _, gradients = run(cell, module, case, dtype)
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    assert_gradients_equal(gradients, autograd(cell, case).named(), tolerance)
    assert set(module.INPUTS) == {"x", "u"}
    assert set(module.MASKS) == {"keep", "drop"}
    assert set(module.CONSTANTS) == {"dt", "rate"}
    assert module.OUTPUT == "y"
    assert module.CELL == "unusual"


@pytest.mark.parametrize("target", TARGETS)
def test_all_units_may_be_a_function_of_one(target: str, autograd) -> None:
    """Of a mean, which is one number: nothing with H units can be written over that."""
    x, h, g = inputs("x"), states("h"), vectors("g")
    W, U = weights("W"), weights("U")
    equations = [Eq(g, tanh(mean(h))), Eq(h.next, tanh(U.h @ g + W.x @ x))]
    if target == "c":
        need("cffi")
        need("cc")
    assert_made_up_cell_is_right(Cell("from_a_mean", equations, output=h), target, autograd)


@pytest.mark.parametrize("H", [1, 7, 8, 9, 24, 31])
@pytest.mark.parametrize("name", ["gru_reset_before", "lstm_layernorm", "lstmp"])
def test_gates_that_touch(name: str, H: int, compiled, autograd) -> None:
    """Stages write whole vectors of 2, 4 or 8 doubles; what is next to a gate must survive that."""
    cell = cells.get(name)
    sizes = {"D": 5, "H": H} | ({"P": 3} if name == "lstmp" else {})
    case = Examination(cell, sizes=sizes, T=3, B=5, seeds=1, kinks=False).witnesses[0].case
    _, _, gradients = run(cell, compiled(name, "c"), case)
    assert_gradients_equal(gradients, autograd(cell, case).named(), 1e-10)


# --------------------------------------------------------------------------- cells made up


def assert_made_up_cell_is_right(cell: Cell, target: str, autograd) -> None:
    examination = Examination(cell, T=4, B=2)
    case = examination.witnesses[0].case
    module = compile(cell, target, dtype="float64")
    report = examination.judge(module, target)
    assert report.passed, f"\n{report}"
    _, _, gradients = run(cell, module, case)
    theirs = autograd(cell, case).named()
    assert_gradients_equal(gradients, theirs, 1e-10)


@given(strategies.cells())
@settings(max_examples=25)  # test_kinds.py has as many again without PyTorch, and fuzz.py more
def test_made_up_cells_in_numpy(autograd, cell: Cell) -> None:
    assert_made_up_cell_is_right(cell, "numpy", autograd)


@given(strategies.cells())
@settings(max_examples=8)
def test_made_up_cells_in_c(autograd, cell: Cell) -> None:
    need("cffi")
    need("cc")
    assert_made_up_cell_is_right(cell, "c", autograd)


@given(strategies.cells(kinks=False, cuts=False))
@settings(max_examples=20, suppress_health_check=[*HealthCheck])
def test_made_up_cells_in_single_precision(cell: Cell) -> None:
    """Without kinks, which rounding to single precision can cross."""
    assume(cell.is_analytic)
    report = check(cell, "numpy", "float32", T=4, B=2)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("target", TARGETS)
def test_a_case_that_is_not_taken_has_no_part(target: str) -> None:
    """The slope of 1/r is infinite at r = 0, where the case is not taken."""
    if target == "c":
        need("cffi")
        need("cc")
    h, x, r, k, W = states("h"), inputs("x"), vector("r"), vectors("k"), weights("W")
    taken = Piecewise((h / r, r > 0), (0, True))
    cell = Cell("guarded", [Eq(k, taken), Eq(h.next, k + W.h @ x)], h)
    assert check(cell, target, T=4, B=2).passed
    module = compile(cell, target, dtype="float64")
    params = module.init(2, 3, dtype=np.float64) | {"r": np.array([0.0, 2.0, 0.0])}
    with np.errstate(all="ignore"):  # NumPy computes both cases
        y, _, tape = module.forward(params, np.ones((4, 5, 2)))
        grads, dx, _ = module.backward(params, tape, np.ones_like(y))
    assert np.isfinite(dx).all()
    assert (grads["r"][[0, 2]] == 0).all() and np.isfinite(grads["r"]).all()
