"""Cells with several outputs: each has a cotangent of its own, and y and dy are dicts."""

from functools import cache

import numpy as np
import pytest
from conftest import need
from sympy import Eq
from test_gradients import assert_gradients_equal, run

import lstmgen
from lstmgen import (
    Cell,
    CellError,
    biases,
    cells,
    derive,
    expand,
    inputs,
    masks,
    mean,
    outer,
    plan,
    sigmoid,
    softmax,
    states,
    stop_gradient,
    sum_,
    tanh,
    vectors,
    weights,
)
from lstmgen.benchmark.contenders import Generated
from lstmgen.benchmark.problem import STEP, TRAINING, Problem
from lstmgen.printing.text import show, text
from lstmgen.verification.examination import Examination

TARGETS = ["numpy", "c"]
T, B = 5, 3

x, (h, c) = inputs("x"), states("h c")
W, U, b = weights("W"), weights("U"), biases("b")
u, g, y, z = vectors("u g y z")


def lstm(output=(h, c)) -> Cell:
    return Cell("lstm_h_c", cells.get("lstm").equations, output=output)


def gated(name: str, output) -> Cell:
    """A state, and a gate whose activity is looked at; both read by other equations."""
    equations = [
        Eq(g, sigmoid(W.g @ x + U.g @ h + b.g)),
        Eq(h.next, (1 - g) * h + g * tanh(W.h @ x + b.h)),
    ]
    return Cell(name, equations, output=output)


def two_products() -> Cell:
    """Two vectors that one stacked product would make."""
    made = [Eq(h.next, tanh(W.h @ x + U.h @ h)), Eq(y, W.y @ h.next), Eq(z, W.z @ h.next + b.z)]
    return Cell("two_products", made, output=(z, y))


def two_shapes() -> Cell:
    """A matrix that other equations read, and a vector of another size."""
    S, A = states("S", shape=("H", "K")), vectors("A", shape=("H", "K"))
    (q, k), v, p = vectors("q k", "K"), vectors("v"), vectors("p", "P")
    equations = [
        Eq(q, W.q @ x),
        Eq(k, softmax(W.k @ x)),
        Eq(v, W.v @ x),
        Eq(A, outer(v, k) * expand(k, "H", "K")),
        Eq(S.next, 0.8 * S + A),
        Eq(h.next, tanh(S.next @ q)),
        Eq(p, W.p @ h.next + b.p),
    ]
    return Cell("two_shapes", equations, output=(A, p))


def cheap() -> Cell:
    """Outputs that would be cheaper to compute again than to keep for the backward pass."""
    w = inputs("w", size="H")
    equations = [
        Eq(u, w * h), Eq(g, 1 - u), Eq(h.next, tanh(U.h @ h + W.x @ x) + u * u * g * h),
    ]  # fmt: skip
    return Cell("cheap", equations, output=(u, g))


def masked() -> Cell:
    m, n = masks("m"), vectors("n", 1)
    equations = [
        Eq(u, m * (W.u @ x + U.u @ h)), Eq(h.next, tanh(u) + (1 - m) * h), Eq(n, mean(h.next * u)),
    ]  # fmt: skip
    return Cell("masked", equations, output=(n, h))


def cut() -> Cell:
    """An output through which no gradient flows to anything."""
    equations = [Eq(g, stop_gradient(h) * 2), Eq(h.next, tanh(W.h @ x + U.h @ h)),
                 Eq(y, W.y @ h.next)]  # fmt: skip
    return Cell("cut", equations, output=(g, y))


CELLS = {
    made.name: made
    for made in (
        lstm(), gated("gated", (g, h)), two_products(), two_shapes(), cheap(), masked(), cut(),
    )
}  # fmt: skip


@cache
def module(name: str, target: str, dtype: str = "float64"):
    if target == "c":
        need("cffi")
        need("cc")
    return lstmgen.compile(CELLS[name], target, dtype=dtype)


def case_of(cell: Cell, dtype: str = "float64"):
    return Examination(cell, dtype, T=T, B=B, seed=1, seeds=1, kinks=False).witnesses[0].case


# --------------------------------------------------------------------------- right


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CELLS)
def test_outputs_and_gradients_equal_autograd(name, target, dtype):
    need("torch")
    from witness import differentiate_case

    cell, case = CELLS[name], case_of(CELLS[name], dtype)
    ys, _, gradients = run(cell, module(name, target, dtype), case, dtype)
    theirs = differentiate_case(cell, case)
    # sums of a few dozen terms, there and back; the module's rounding is in float32
    tolerance = {"float64": 1e-11, "float32": 2e-4}[dtype]
    assert list(ys) == [v.name for v in cell.outputs]
    for output, array in theirs.y.items():
        assert ys[output].dtype == dtype
        np.testing.assert_allclose(ys[output], array, rtol=tolerance, atol=tolerance)
    assert_gradients_equal(gradients, theirs.named(), tolerance)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CELLS)
def test_the_check_passes(name, target):
    report = lstmgen.check(CELLS[name], target, module=module(name, target), T=4, seeds=1)
    assert report.passed, str(report)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["lstm_h_c", "two_shapes", "masked"])
def test_an_output_that_dy_lacks_is_not_in_the_loss(name, target):
    need("torch")
    from witness import differentiate_case

    cell, case = CELLS[name], case_of(CELLS[name])
    whole = dict(case.dy)
    for left_out in whole:
        case.dy.pop(left_out)
        theirs = differentiate_case(cell, case).named()
        for dy in (dict(case.dy), {**case.dy, left_out: None}):
            assert_gradients_equal(
                gradients_of(cell, module(name, target), case, dy), theirs, 1e-11
            )
        case.dy[left_out] = whole[left_out]
    case.dy.clear()
    theirs = differentiate_case(cell, case).named()
    assert_gradients_equal(gradients_of(cell, module(name, target), case, {}), theirs, 1e-11)


def gradients_of(cell, made, case, dy):
    params = {n: a for (kind, n), a in case.values.items() if kind == "parameter"}
    state = {s.name: case.values["state", s.name] for s in cell.states}
    given = {"masks": case.given} if cell.masks else {}
    _, _, tape = made.forward(params, case.values["input", "x"], state, **given)
    grads, dx, first = made.backward(params, tape, dy, case.dstate)
    return {
        **{("parameter", n): g for n, g in grads.items()}, ("input", "x"): dx,
        **{("state", n): g for n, g in first.items()},
    }  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_interface(target):
    made = module("two_products", target)
    assert made.OUTPUT == ("z", "y")
    params = made.init(3, 4, dtype="float64")
    xs = np.random.default_rng(0).normal(size=(T, B, 3))
    ys, final, _ = made.forward(params, xs)
    state = None
    for p in (params, made.pack(params)):
        state = None
        for t in range(T):
            state = made.step(p, xs[t], state)
            assert set(state) == {"h", "z", "y"}
            for name in ("z", "y"):
                np.testing.assert_allclose(state[name], ys[name][t], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(state["h"], final["h"], rtol=1e-12)
    assert set(module("lstm_h_c", target).step(*_lstm_step(module("lstm_h_c", target)))) == {
        "h",
        "c",
    }


def _lstm_step(made):
    return made.init(3, 4, dtype="float64"), np.ones((B, 3)), None


@pytest.mark.parametrize("target", TARGETS)
def test_no_steps_and_no_rows(target):
    made = module("two_shapes", target)
    params = made.init(3, 4, K=2, P=5, dtype="float64")
    for steps, rows in ((0, 2), (2, 0)):
        ys, _, tape = made.forward(params, np.ones((steps, rows, 3)))
        assert {n: a.shape for n, a in ys.items()} == {
            "A": (steps, rows, 4, 2), "p": (steps, rows, 5),
        }  # fmt: skip
        grads, _, _ = made.backward(params, tape, ys)
        assert not any(a.any() for a in grads.values())
    state = made.step(params, np.ones((0, 3)))
    assert state["A"].shape == (0, 4, 2) and state["p"].shape == (0, 5)


def test_the_structure_of_a_cell():
    made = lstm()
    assert made.outputs == (h.next, c.next) and made.output == h.next
    assert [s.name for s in lstm((c, h)).states] == ["c", "h"]
    assert repr(made).endswith("6 equations, outputs h.next c.next)")
    assert lstm(h).outputs == (h.next,) == lstm([h]).outputs
    lines = [text(e, made) for e in derive(made).adjoints]
    assert "δh = Δh + δh⁺" in lines and any(line.startswith("δc = Δc +") for line in lines)


def test_outputs_are_kept_and_not_computed_again():
    """Nothing in the backward pass may write to what is the caller's."""
    for made in (CELLS["cheap"], Cell("one", CELLS["cheap"].equations, output=u)):
        for options in ({}, {"hoist": True, "split": True, "lanes": True, "recompute": False}):
            planned = plan(made, **options)
            written = {v for op in planned.backward.operations for v in op.writes}
            assert not written & set(made.outputs)


@pytest.mark.parametrize("target", TARGETS)
def test_one_output_that_backward_reads(target):
    if target == "c":
        need("cffi")
        need("cc")
    w = inputs("w", size="H")
    cell = Cell("one", [Eq(y, w * h), Eq(h.next, tanh(U.h @ h) + y * y * h)], output=y)
    report = lstmgen.check(cell, target, T=4, seeds=1)
    assert report.passed, str(report)


# --------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((), "at least one output"),
        ((h, h), "the output h.next is given twice"),
        ((h, h.next), "the output h.next is given twice"),
        ((h, u), "the output u is defined by no equation"),
        ((h, "c"), "give the symbol itself, output=c"),
        ((h, (c,)), "is .*not a vector"),
        ({h: 1}, "as a tuple: output=.h, y."),
        (sum_(h), "by an equation of its own"),
    ],
)
def test_outputs_that_are_none(output, message):
    with pytest.raises(CellError, match=message):
        lstm(output)


@pytest.mark.parametrize("target", TARGETS)
def test_a_dy_that_does_not_fit(target):
    made = module("two_shapes", target)
    params = made.init(3, 4, K=2, P=5, dtype="float64")
    ys, _, tape = made.forward(params, np.ones((T, B, 3)))
    for dy in (ys["p"], None, [ys["A"], ys["p"]]):
        with pytest.raises(TypeError, match=r'dy is a dict from name to array, \{"A": A, "p": p\}'):
            made.backward(params, tape, dy)
    with pytest.raises(KeyError, match="dy has 'q'; two_shapes has the outputs A, p"):
        made.backward(params, tape, {**ys, "q": ys["p"]})
    with pytest.raises(ValueError, match=r"dy\['A'\] has shape .*expected \(T=5, B=3, H=4, K=2\)"):
        made.backward(params, tape, {"A": ys["A"][..., :1]})
    with pytest.raises(ValueError, match=r"dy\['p'\] has shape"):
        made.backward(params, tape, {"p": ys["p"][1:]})


@pytest.mark.parametrize("name", ["lstm_h_c", "two_products", "gated"])
def test_null_in_c(name):
    """A step may do without states; members of dy may be NULL; all else has to be given."""
    made = module(name, "c")
    cell, ffi, null = CELLS[name], made._ffi, made._null
    n = ffi.new(f"{name}_sizes *", {"T": 2, "B": 1, "D": 3, "H": 4})
    params = made.init(3, 4)
    packed = made.pack(params)
    memory = ffi.new("double[]", 20000)
    ys = {v.name: ffi.new("double[]", 64) for v in cell.outputs}
    alive = [ffi.new("double[]", 64) for _ in cell.states]
    final = ffi.new(
        f"{name}_new_state *", dict(zip((s.name for s in cell.states), alive, strict=True))
    )
    xs, struct = ffi.new("double[]", 64), packed.bound.struct

    def forward(y):
        return made._c_forward(n, struct, xs, null, y, null, null, memory)

    def step(y):
        return made._c_step(n, struct, xs, null, y, final, memory)

    whole = ffi.new(f"{name}_outputs *", ys)
    assert forward(whole) == step(whole) == 0
    assert forward(null) == 1
    moving = [v.name for v in cell.outputs if v.category != "state"]
    assert step(null) == (1 if moving else 0)
    for v in cell.outputs:
        some = ffi.new(f"{name}_outputs *", {k: a for k, a in ys.items() if k != v.name})
        assert forward(some) == 1
        assert step(some) == (1 if v.name in moving else 0)


def test_the_check_finds_outputs_that_are_wrong():
    right = module("gated", "numpy")

    class Swapped:
        def __getattr__(self, name):
            return getattr(right, name)

        def forward(self, *args, **more):
            ys, final, tape = right.forward(*args, **more)
            return {"g": ys["h"], "h": ys["g"]}, final, tape

    class Alone(Swapped):
        def forward(self, *args, **more):
            ys, final, tape = right.forward(*args, **more)
            return ys["g"], final, tape

    class Deaf(Swapped):
        forward = staticmethod(right.forward)

        def backward(self, params, tape, dy, dstate=None):
            return right.backward(params, tape, {"h": dy.get("h")}, dstate)

    class Demanding(Swapped):
        """What is missing is not zeros."""

        forward = staticmethod(right.forward)

        def backward(self, params, tape, dy, dstate=None):
            dy = {**dy, "g": dy.get("g", np.ones_like(next(iter(dy.values()))))}
            return right.backward(params, tape, dy, dstate)

    for wrong in (Swapped(), Alone(), Deaf(), Demanding()):
        assert not lstmgen.check(CELLS["gated"], module=wrong, seeds=1).passed


# --------------------------------------------------------------------------- shown, and timed


def test_what_is_shown():
    made = CELLS["two_shapes"]
    shown = [" ".join(line.split()) for line in show(made).splitlines()]
    at = shown.index("output A H × K")
    assert shown[at + 1] == "p P"
    assert "output h′ c′ H" in " ".join(show(CELLS["lstm_h_c"]).split())
    tex = "".join(lstmgen.generate(CELLS["lstm_h_c"], "latex").values())
    assert r"\delta\mathbf{c}_t &= \Delta\mathbf{c}_t" in tex
    assert tex.count("an output") == 2
    header = lstmgen.generate(CELLS["lstm_h_c"], "c")["lstm_h_c.h"]
    assert "lstm_h_c_outputs ys = {.h = y_h, .c = y_c};" in header


@pytest.mark.parametrize("work", [TRAINING, STEP])
def test_timing_ours(work):
    need("cffi")
    need("cc")
    p = Problem(CELLS["gated"], {"T": 3, "B": 2, "D": 3, "H": 4}, work, "float64")
    assert "y[g]" in p.reference
    for target in TARGETS:
        prepared = Generated(target).prepare(p)
        p.check(target, prepared.values(prepared.call()))
