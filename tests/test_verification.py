"""``check`` itself: its witnesses are right, and it fails if, and only if, something is wrong."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
import reference
import strategies
import sympy
from conftest import need
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import Interpreter, Replayed, interpret, with_lines
from mutations import mutations
from sympy import Abs, Eq, Max, log, sqrt

from lstmgen import (
    Cell,
    LstmgenError,
    biases,
    cells,
    check,
    derive,
    inputs,
    matrix,
    max_,
    mean,
    relu,
    sigmoid,
    softplus,
    states,
    step,
    stop_gradient,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.derivation.reverse import carry
from lstmgen.language import dtypes
from lstmgen.language.matrices import Matrix
from lstmgen.language.symbols import Product, Vector
from lstmgen.verification.examination import Examination
from lstmgen.verification.report import Report
from lstmgen.verification.rounding import Rounding
from lstmgen.verification.running import Runner

NAMES = reference.NAMES


@pytest.fixture(scope="session")
def autograd():
    """PyTorch's opinion of a case."""
    need("torch")
    from witness import differentiate_case

    return differentiate_case


# --------------------------------------------------------------------------- the witnesses


def assert_witnesses_equal_autograd(cell: Cell, autograd) -> None:
    examination = Examination(cell, T=5, B=2)
    witness = examination.witnesses[0]
    theirs = autograd(cell, witness.case)
    ys = theirs.y if len(cell.outputs) > 1 else {cell.output.name: theirs.y}
    for name, y in ys.items():
        ours = [np.broadcast_to(a[name][0], y.shape[1:]) for a in witness.base.outputs]
        np.testing.assert_allclose(np.stack(ours), y, rtol=1e-12, atol=1e-12)
    for name, final in theirs.final.items():
        value = np.broadcast_to(witness.base.states[-1][name][0], final.shape)
        np.testing.assert_allclose(value, final, rtol=1e-12, atol=1e-12)
    for entity, expected in theirs.named().items():
        scale = examination.comparisons[0].tolerance.scale(entity)
        exact = sum(witness.complex_step(entity))
        np.testing.assert_allclose(exact / scale, expected / scale, rtol=0, atol=2e-12)
        value, bound = witness.central_difference(entity)
        known = bound / scale < 1e-4  # else it straddles a kink
        assert known.mean() > (1.0 if cell.is_analytic else 0.9) - 1e-9, entity
        error = np.abs(value - expected)[known]
        assert (error <= bound[known] + 2e-12 * scale).all(), entity


@pytest.mark.parametrize("name", NAMES)
def test_witnesses_equal_autograd(name: str, autograd) -> None:
    assert_witnesses_equal_autograd(cells.get(name), autograd)


@given(strategies.cells())
@settings(max_examples=15)
def test_witnesses_equal_autograd_for_made_up_cells(autograd, cell: Cell) -> None:
    assert_witnesses_equal_autograd(cell, autograd)


@pytest.mark.parametrize("function", [*strategies.SMOOTH, *strategies.KINKED])
def test_witnesses_know_every_function(function, autograd) -> None:
    x, h, W, U = inputs("x"), states("h"), matrix("W"), matrix("U")
    cell = Cell("one_function", [Eq(h.next, function(W @ x + U @ h))], output=h)
    assert_witnesses_equal_autograd(cell, autograd)


# --------------------------------------------------------------------------- what is right passes


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_derivations_pass(name: str, dtype: str) -> None:
    cell = cells.get(name)
    report = check(cell, dtype=dtype, module=interpret(cell, dtype))
    assert report.passed, f"\n{report}"


@given(strategies.cells())
@settings(max_examples=20)  # as modules they run in test_gradients.py, test_kinds.py and fuzz.py
def test_derivations_of_made_up_cells_pass(cell: Cell) -> None:
    report = check(cell, module=interpret(cell), T=4, B=2)
    assert report.passed, f"\n{report}"


# --------------------------------------------------------------------------- what is wrong fails


def wrong_rows(examination: Examination, module) -> set[str]:
    """What of the module is refused: all, if it does not even run, as with a product of the wrong
    shape.
    """
    try:
        with np.errstate(all="ignore"):
            report = examination.judge(module)
    except ValueError:
        return {"forward", "gradients", "dot product"}
    gradients = {"gradients"} if any(r.is_gradient and not r.passed for r in report.rows) else set()
    return gradients | {row.name for row in report.rows if not row.passed}


class Once(Runner):
    """Runs a module on one case without what compares it with itself, which is twice the work."""

    def _judge_defaults(self, *args):
        return ()


class Quick(Examination):
    """One small case, in which a mistake in any line shows: more could only find more, and for
    hundreds of wrong modules would take long.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell, T=3, B=2, seeds=1, kinks=False)
        del self.witnesses[1:], self.comparisons[1:]

    def _runner(self, module) -> Once:
        return Once(self.cell, self.sizes, self.dtype, module)


EQUIVALENT = {
    # f = 1 - i, so that f (1 - f) is i (1 - i)
    "δa_i = δc*i*(1 - i)*(-c + g): f for i",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_equation_of_a_derivation_matters(name: str) -> None:
    """Each line is broken in every way of ``mutations``, and each time the check fails: entry by
    entry, and in the dot product with forward mode.
    """
    cell = cells.get(name)
    derivation = derive(cell)
    examination = Quick(cell)
    assert examination.judge(interpret(cell)).passed
    module = Replayed(Interpreter(derivation))
    others = [*cell.vectors, *cell.states]
    survivors, count = [], 0
    for k, line in enumerate([*derivation.adjoints, *derivation.totals]):
        for what, rhs in mutations(line.rhs, others):
            broken = with_lines(derivation, {k: Eq(line.lhs, rhs, evaluate=False)})
            count += 1
            wrong = wrong_rows(examination, module.with_backward(broken))
            if not wrong >= {"gradients", "dot product"}:
                survivors.append(f"{line.lhs} = {line.rhs}: {what}")
    survivors = [s for s in survivors if s not in EQUIVALENT]
    assert not survivors, "\n".join(survivors)
    assert count > 5 * len(derivation.adjoints)


def test_every_equation_of_a_forward_pass_matters() -> None:
    """A forward pass that is not the cell's is caught by the direct evaluation."""
    cell = cells.get("lstm_peephole")
    derivation = derive(cell)
    examination = Quick(cell)
    for k, line in enumerate(derivation.forward):
        for what, rhs in mutations(line.rhs, [*cell.vectors, *cell.states]):
            lines = list(derivation.forward)
            lines[k] = Eq(line.lhs, rhs, evaluate=False)
            module = Interpreter(replace(derivation, forward=tuple(lines)))
            with contextlib.suppress(LstmgenError):  # it may read what is not computed yet
                assert wrong_rows(examination, module), f"{line.lhs} = {line.rhs}: {what}"


# --------------------------------------------------------------------------- known errata


class Broken:
    """The derivation of a cell, to be broken as somebody once did."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.derivation = cell, derive(cell)
        self.lines = [*self.derivation.adjoints, *self.derivation.totals]
        self.vectors = {v.name: v for v in (*cell.vectors, *cell.inputs)}
        self.states = {s.name: s for s in cell.states}

    def at(self, left: str) -> int:
        return next(k for k, line in enumerate(self.lines) if str(line.lhs) == left)

    def rewrite(self, left: str, change) -> dict[int, Eq]:
        k = self.at(left)
        return {k: Eq(self.lines[k].lhs, change(self.lines[k].rhs), evaluate=False)}

    def delta(self, name: str) -> Vector:
        return next(line.lhs for line in self.lines if str(line.lhs) == f"δ{name}")

    @cached_property
    def examination(self) -> Examination:
        return Examination(self.cell)

    def parameter(self, name: str) -> Vector:
        return next(p for p in self.cell.parameters if p.name == name)

    def module(self, *changes: dict[int, Eq], kind: type[Interpreter] = Interpreter):
        merged = {k: line for change in changes for k, line in change.items()}
        return kind(with_lines(self.derivation, merged))


LSTM = Broken(cells.get("lstm"))
PEEPHOLE = Broken(cells.get("lstm_peephole"))
i, f, g, o = (LSTM.vectors[n] for n in "ifgo")
h, c = LSTM.states["h"], LSTM.states["c"]
delta_h, delta_c, later_c = LSTM.delta("h"), LSTM.delta("c"), carry(c)


def feeding_gates() -> Cell:
    """Full gate recurrence (Greff et al. 2017): gates that are states."""
    x, h, c = inputs("x"), states("h"), states("c")
    i, f, o = states("i f o")
    g = vectors("g")
    W, U, R, b = weights("W"), weights("U"), weights("R"), biases("b")

    def gate(n: str) -> sympy.Expr:
        fed = R[f"i{n}"] @ i + R[f"f{n}"] @ f + R[f"o{n}"] @ o
        return sigmoid(W[n] @ x + U[n] @ h + fed + b[n])

    equations = [
        Eq(i.next, gate("i")),
        Eq(f.next, gate("f")),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o.next, gate("o")),
        Eq(c.next, f.next * c + i.next * g),
        Eq(h.next, o.next * tanh(c.next)),
    ]
    return Cell("lstm_fgr", equations, output=h)


FGR = Broken(feeding_gates())


def without_transposed(name: str, rhs: sympy.Expr) -> sympy.Expr:
    """``rhs`` without the product with the transpose of the named matrix."""
    return sum(t for t in rhs.args if not (isinstance(t, Product) and t.matrix.name == name))


class FromTheSecondStep(Interpreter):
    """Sums for what acts on a previous state that leave out the first step."""

    def counts(self, parameter: str, t: int) -> bool:
        return t > 0 or parameter[0] not in "Up" or parameter == "p_o"


class WithoutFinalCell(Interpreter):
    """∂L/∂c[T] is not looked at."""

    def backward(self, params, tape, dy, dstate=None):
        if dstate is not None:
            dstate = {**dstate, "c": np.zeros_like(dstate["c"])}
        return super().backward(params, tape, dy, dstate)


class FirstStepMixedUp(Interpreter):
    """At t = 0 the forget gate's peephole is given the input gate's adjoint."""

    def backward(self, params, tape, dy, dstate=None):
        grads, dx, initial = super().backward(params, tape, dy, dstate)
        steps, sizes = tape
        first = Interpreter(self.derivation).backward(params, ([steps[0]], sizes), dy[:1])[0]
        grads["p_f"] += first["p_i"] - first["p_f"]
        return grads, dx, initial


class TotalsWithoutRecurrence(Interpreter):
    """∂L/∂U is lost altogether, as with an initial output of zeros that is read in its place."""

    def counts(self, parameter: str, t: int) -> bool:
        return parameter[0] != "U"


slope = 1 - tanh(c.next) ** 2
ERRATA = {
    "tanh' multiplies dc_next too (Kristiadi 2016)": (
        LSTM, [LSTM.rewrite("δc", lambda _: (delta_h * o + later_c) * slope)]),
    "dc assigned, not accumulated (mxnet#4057)": (
        LSTM, [LSTM.rewrite("δc", lambda _: delta_h * o * slope)]),
    "σ(f) in place of σ' in df (nicklashansen/rnn_lstm_from_scratch#1)": (
        LSTM, [LSTM.rewrite("δa_f", lambda _: delta_c * c * sigmoid(f))]),
    "σ' of a value that is already σ": (
        LSTM, [LSTM.rewrite("δa_f", lambda _: delta_c * c * sigmoid(f) * (1 - sigmoid(f)))]),
    "tanh' of tanh(c) (CaptainE/RNN-LSTM-in-numpy#1)": (
        LSTM, [LSTM.rewrite("δc", lambda _: later_c + delta_h * o * (1 - tanh(tanh(c.next))**2))]),
    "dh_next and dc_next are never updated": (
        LSTM, [LSTM.rewrite(f"later δ{n}[t-1]", lambda _: sympy.S.Zero) for n in "hc"]),
    "δi with i in place of g (wvabrinskas/Neuron#181)": (
        LSTM, [LSTM.rewrite("δa_i", lambda _: delta_c * i * i * (1 - i))]),
    "tanh' of g, which is activated already": (
        LSTM, [LSTM.rewrite("δa_g", lambda _: delta_c * i * (1 - tanh(g) ** 2))]),
    "dU with h[t] in place of h[t-1]": (
        LSTM, [LSTM.rewrite(f"Gradient(U_{n})", lambda e: e.xreplace({h: h.next}))
               for n in "ifgo"]),
    "a product of two adjoints for their sum (CRAN rnn, δ8)": (
        LSTM, [LSTM.rewrite("δc", lambda _: later_c * delta_h * o * slope)]),
    "the tanh at the output forgotten (nicodjimenez/lstm#47)": (
        LSTM, [LSTM.rewrite("δc", lambda _: later_c + delta_h * o)]),
    "the output gate's adjoint in the wrong place (cuTAGI#77)": (
        LSTM, [LSTM.rewrite("Gradient(W_i)", lambda e: e.xreplace(
            {LSTM.delta("a_i"): LSTM.delta("a_o")}))]),
    "every path counted twice (H&S 1997, A.12)": (
        LSTM, [LSTM.rewrite("later δc[t-1]", lambda e: 2 * e)]),
    "∂L/∂c[T] ignored (DL4J#8838)": (LSTM, [], WithoutFinalCell),
    "sums for U from the second step (Greff et al. 2017)": (LSTM, [], FromTheSecondStep),
    "sums for U and p from the second step (Greff et al. 2017)": (PEEPHOLE, [], FromTheSecondStep),
    "p_f given the adjoint of i at t = 0 (brainstorm)": (PEEPHOLE, [], FirstStepMixedUp),
    "dU from outputs of zeros": (PEEPHOLE, [], TotalsWithoutRecurrence),
    "no p_o in δc (Gers 2000, truncated)": (
        PEEPHOLE, [PEEPHOLE.rewrite("δc", lambda e: e.xreplace(
            {PEEPHOLE.parameter("p_o"): sympy.S.Zero}))]),
    "no p_i, p_f in δc (Gers 2000, truncated)": (
        PEEPHOLE, [PEEPHOLE.rewrite("later δc[t-1]", lambda _: PEEPHOLE.delta("c") * f)]),
    "p_o reads c[t-1]": (
        PEEPHOLE, [PEEPHOLE.rewrite("Gradient(p_o)", lambda e: e.xreplace({c.next: c}))]),
    "p_i reads c[t]": (
        PEEPHOLE, [PEEPHOLE.rewrite("Gradient(p_i)", lambda e: e.xreplace({c: c.next}))]),
    "matrices between gates the wrong way round (pylstm)": (
        FGR, [FGR.rewrite("later δo[t-1]", lambda e: e.xreplace(
            {Matrix("R_oi").T: Matrix("R_io").T, Matrix("R_of").T: Matrix("R_fo").T}))]),
    "no recurrence between gates in the last line (pylstm)": (
        FGR, [FGR.rewrite(f"later δ{n}[t-1]", lambda _: sympy.S.Zero) for n in "if"]),
    "one gate's recurrence dropped": (
        FGR, [FGR.rewrite("later δf[t-1]", lambda e: without_transposed("R_fo", e))]),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRATA)
def test_known_errata_are_caught(what: str) -> None:
    broken, changes, *kind = ERRATA[what]
    right = broken.examination.judge(broken.module())
    assert right.passed
    module = broken.module(*changes, kind=(kind or [Interpreter])[0])
    wrong = broken.examination.judge(module)
    assert not wrong.passed
    assert "DISAGREE" in str(wrong)


# --------------------------------------------------------------------------- the report


class Spoiled(Interpreter):
    """A right module but for what ``spoil`` does to its gradients."""

    spoil = staticmethod(lambda grads, dx, initial: None)

    def backward(self, params, tape, dy, dstate=None):
        grads, dx, initial = super().backward(params, tape, dy, dstate)
        return type(self).spoil(grads, dx, initial) or (grads, dx, initial)


def judged(spoil) -> tuple[bool, str]:
    kind = type("Spoiled", (Spoiled,), {"spoil": staticmethod(spoil)})
    report = check(LSTM.cell, module=LSTM.module(kind=kind), T=3, B=2)
    return report.passed, str(report)


def test_report_shows_what_is_right() -> None:
    report = check(LSTM.cell, target="numpy", module=LSTM.module())
    text = str(report)
    lines = text.splitlines()
    assert lines[0] == "lstm · NumPy · float64 · T=7 B=3 D=5 H=11"
    assert lines[1].startswith("forward ")
    assert lines[2].startswith("step ")
    assert "∂L/∂W_i" in text
    assert "∂L/∂c[0]" in text
    assert lines[-3].startswith("forward mode   complex step ")
    assert lines[-2].startswith("dot product    ⟨Jv, w⟩ = ⟨v, Jᵀw⟩ ")
    assert "complex step" in text
    assert "central difference" in text
    assert lines[-1] == "all 15 gradients agree"
    assert report
    assert report.worst.worst.ratio < 0.5
    assert "\x1b" not in text


def test_report_names_the_entry() -> None:
    def spoil(grads, dx, initial):
        grads["W_i"][3, 1] = 1234.5

    passed, text = judged(spoil)
    assert not passed
    assert "1 of 15 gradients DISAGREE" in text
    assert "∂L/∂W_i[3, 1] is 1234.5, expected " in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g, dx, s: (g | {"b_i": g["b_i"][:-1]}, dx, s), "shape (10,) where (11,)"),
        (lambda g, dx, s: ({n: a for n, a in g.items() if n != "b_i"}, dx, s), "is missing"),
        (lambda g, dx, s: (g, dx.astype("f4"), s), "float32 where float64"),
        (lambda g, dx, s: (g, dx * np.nan, s), "∂L/∂x[0, 0, 0] is nan"),
        (lambda g, dx, s: (g, np.full_like(dx, np.inf), s), "∂L/∂x[0, 0, 0] is inf"),
    ],
)  # fmt: skip
def test_report_says_what_is_wrong(spoil, message: str) -> None:
    passed, text = judged(spoil)
    assert not passed
    assert message in text


def test_a_small_error_in_one_entry_is_seen() -> None:
    def spoil(grads, dx, initial):
        initial["c"][-1, 2] *= 1 + 1e-10

    assert not judged(spoil)[0]


def test_arguments_are_not_to_be_changed() -> None:
    def spoil(grads, dx, initial):
        kept["dy"] *= 1.5

    kept = {}

    class Keeping(Spoiled):
        def backward(self, params, tape, dy, dstate=None):
            kept["dy"] = dy
            return super().backward(params, tape, dy, dstate)

    Keeping.spoil = staticmethod(spoil)
    report = check(LSTM.cell, module=LSTM.module(kind=Keeping), T=3, B=2)
    assert not report.passed
    assert "forward DISAGREES" in str(report)


def test_defaults_are_zeros() -> None:
    class Wrong(Interpreter):
        def forward(self, params, x, state=None, masks=None):
            if state is None:
                rows = x.shape[1]
                state = {n: np.ones((rows, 11)) for n in "hc"}
            return super().forward(params, x, state, masks)

    report = check(LSTM.cell, module=LSTM.module(kind=Wrong), T=3, B=2, sizes={"H": 11})
    assert not report.passed
    assert "differs between state=None" in str(report)


def test_sizes_that_only_a_state_has() -> None:
    x, h = inputs("x"), states("h")
    cell = Cell("untold", [Eq(h.next, h / 2 + mean(x))], output=h)
    assert check(cell, module=interpret(cell)).passed


def test_step_is_checked() -> None:
    class Wrong(Interpreter):
        def step(self, params, x_t, state, masks=None):
            new = super().step(params, x_t, state, masks)
            return {**new, "c": new["c"] + 1e-9}

    report = check(LSTM.cell, module=LSTM.module(kind=Wrong), T=3, B=2)
    assert [row.name for row in report.rows if not row.passed] == ["step"]


def test_progress_is_told() -> None:
    told = []
    check(LSTM.cell, module=LSTM.module(), T=3, B=2, progress=lambda *a: told.append(a))
    assert [done for done, _, _ in told] == list(range(18))
    assert {total for _, total, _ in told} == {17}


def test_sizes_are_chosen_or_given() -> None:
    report = check(LSTM.cell, module=LSTM.module(), sizes={"H": 3}, T=3, B=2)
    assert "H=3" in report.title
    with pytest.raises(LstmgenError, match="Q is not a size of lstm"):
        check(LSTM.cell, module=LSTM.module(), sizes={"Q": 3})


def test_a_module_that_raises_is_wrong() -> None:
    """An error in the module is a verdict on it, whichever of its functions raises."""
    for method in ("forward", "backward", "step"):

        def fails(*args, **kwargs):
            raise IndexError("index 7 is out of bounds")

        module = LSTM.module()
        setattr(module, method, fails)
        report = check(LSTM.cell, module=module, T=3, B=2)
        assert not report.passed
        assert f"{method} raised IndexError: index 7 is out of bounds" in str(report)


def test_a_report_survives_json() -> None:
    def spoil(grads, dx, initial):
        grads["W_i"][0, 0] = np.nan
        grads["b_i"][0] = np.inf

    kind = type("Spoiled", (Spoiled,), {"spoil": staticmethod(spoil)})
    report = check(LSTM.cell, module=LSTM.module(kind=kind), T=3, B=2)
    assert not report.passed
    again = Report.from_json(json.loads(json.dumps(report.as_json())))
    assert str(again) == str(report)
    assert [row.passed for row in again.rows] == [row.passed for row in report.rows]


IDENTIFIERS = ["y", "step", "forward", "dy", "dx", "state", "params", "grads", "tape", "x", "h",
               "final", "masks", "seed", "cell", "loss", "i", "L", "W", "d_h", "final_y", "sizes",
               "init", "backward", "numpy_", "error", "rows", "worst", "passed"]  # fmt: skip


@given(st.permutations(IDENTIFIERS), st.booleans())
@settings(max_examples=25)
def test_no_name_of_a_user_collides_with_ours(names: list[str], state_is_output: bool) -> None:
    """Names of the report's rows and of the module's results mean nothing in a cell."""
    x, h, c, g, w, v, p, r = names[:8]
    xs, hs, cs, gs = inputs(x), states(h), states(c), vectors(g)
    W, V, b, R = matrix(w), matrix(v), vector(p), matrix(r)
    equations = [
        Eq(gs, sigmoid(W @ xs + R @ hs + b)),
        Eq(cs.next, gs * cs + tanh(V @ xs)),
        Eq(hs.next, gs * tanh(cs.next)),
    ]
    cell = Cell("named", equations, output=hs if state_is_output else gs)
    report = check(cell, module=interpret(cell), T=3, B=2)
    assert report.passed, f"\n{report}"
    assert len({row.name for row in report.rows}) == len(report.rows) == 2 + 7 + 2

    class Wrong(Interpreter):
        """Another final state, under whatever name."""

        def forward(self, params, x, state=None, masks=None):
            outputs, final, tape = super().forward(params, x, state, masks)
            return outputs, {**final, c: final[c] + 1e-6}, tape

    wrong = check(cell, module=Wrong(derive(cell)), T=3, B=2)
    assert [row.name for row in wrong.rows if not row.passed] == ["forward"]


# --------------------------------------------------------------------------- hard equations


def one_line(make) -> Cell:
    x, h = inputs("x"), states("h")
    W, U, b = matrix("W"), matrix("U", rows="H"), vector("b", size="H")
    return Cell("one_line", [Eq(h.next, make(W @ x, U @ h, b, h))], output=h)


@pytest.mark.parametrize(
    "make",
    [
        lambda a, u, b, h: log(a + u) + tanh(b),  # finite for positive values only
        lambda a, u, b, h: sqrt(a) * tanh(u + b),
        lambda a, u, b, h: (h / 9) ** sympy.Rational(1, 3) + sigmoid(a + u + b),
    ],
)
def test_domains_are_respected(make) -> None:
    cell = one_line(make)
    report = check(cell, module=interpret(cell), T=3, B=2)
    assert report.passed, f"\n{report}"


def test_equations_without_values_are_refused() -> None:
    cell = one_line(lambda a, u, b, h: log(-softplus(a)) + u + b + h)
    with pytest.raises(LstmgenError, match=r"equation 1, h\.next = .*not a\s+number"):
        check(cell, module=interpret(cell))


@pytest.mark.parametrize(
    "make",
    [
        lambda a, u, b, h: relu(a + u + b) / 4,
        lambda a, u, b, h: Max(tanh(a), tanh(u), b) + h / 2,
        lambda a, u, b, h: Abs(tanh(a + u)) * b,
        lambda a, u, b, h: tanh(a) * max_(tanh(u + b)),
        lambda a, u, b, h: tanh(a + stop_gradient(u) * b),
        lambda a, u, b, h: stop_gradient(tanh(a + b)) * h + u / 4,
        lambda a, u, b, h: sum_(relu(u + b)) * tanh(a) / 9,
    ],
)
def test_kinks_and_cuts_do_not_confuse_the_witnesses(make) -> None:
    cell = one_line(make)
    report = check(cell, module=interpret(cell))
    assert report.passed, f"\n{report}"
    for row in report.rows:
        if row.is_gradient:
            assert row.error("central difference") < 1e-8, row


def test_a_gradient_through_a_cut_is_caught() -> None:
    """The derivation of the same cell without stop_gradient has the same forward pass."""
    cell = one_line(lambda a, u, b, h: tanh(a + stop_gradient(u) * b))
    uncut = one_line(lambda a, u, b, h: tanh(a + u * b))
    report = check(cell, module=interpret(uncut))
    rows = {row.name: row.passed for row in report.rows}
    assert rows["forward"]
    assert not rows["∂L/∂U"]
    assert not rows["∂L/∂h[0]"]


# --------------------------------------------------------------------------- ill-conditioned cells

# Each grows, or bends so much within a step of a difference, that differences lose their digits.
GROWING = {
    "exp": lambda a, u, b, h: sympy.exp(3 * a + u) + b,
    "exp of exp": lambda a, u, b, h: sympy.exp(sympy.exp(a / 2 + u / 4)) + b,
    "state times exp": lambda a, u, b, h: 9 * h * sympy.exp(a) + u + b,
    "linear": lambda a, u, b, h: 100 * (a + u + b),
    "fifth power": lambda a, u, b, h: (u / 2 + a + b) ** 5,
    "power of a power": lambda a, u, b, h: (1 + a**2) ** (5 * tanh(u)) + b,
    "sinh": lambda a, u, b, h: sympy.sinh(2 * a + u + b),
    "saturated": lambda a, u, b, h: 30 * tanh(20 * (a + u + b)),
    "large weights": lambda a, u, b, h: sigmoid(30 * a) * h + tanh(50 * u + b),
    "poles": lambda a, u, b, h: sympy.tan(a + u + b),
    "quotient": lambda a, u, b, h: 1 / (a + u + b),
    "cancelling": lambda a, u, b, h: sympy.exp(10 * a) - sympy.exp(10 * a + u / 1000) + b,
    "logistic map": lambda a, u, b, h: 3.9 * h * (1 - h) + (a + u + b) / 100,
    "kinks": lambda a, u, b, h: sympy.exp(a + u) * relu(u + b) + 2 * h,
    "ties": lambda a, u, b, h: Max(sympy.exp(a + u), 5 * h) + b,
}


class OffByALittle:
    """A module with one entry of one gradient off by 1e-6 of itself: the largest one."""

    def __init__(self, module: Interpreter, place: int) -> None:
        self.module, self.place = module, place
        self.forward, self.step = module.forward, module.step

    def backward(self, *args):
        grads, dx, initial = self.module.backward(*args)
        array = [*grads.values(), dx, *initial.values()][self.place]
        array[np.unravel_index(np.argmax(np.abs(array)), array.shape)] *= 1 + 1e-6
        return grads, dx, initial


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("name", GROWING)
def test_right_code_passes_and_wrong_code_fails(name: str, seed: int) -> None:
    cell = one_line(GROWING[name])
    for dtype in ("float64", "float32"):
        examination = Examination(cell, dtype, seed=seed)
        report = examination.judge(interpret(cell, dtype))
        assert report.passed, f"\n{report}"
        if dtype == "float32":
            continue  # where 1e-6 is rounding
        for place, row in enumerate(row for row in report.rows if row.is_gradient):
            wrong = examination.judge(OffByALittle(interpret(cell), place))
            assert [r.name for r in wrong.rows if r.is_gradient and not r.passed] == [row.name]


def test_more_than_the_precision_holds_is_not_asked_for() -> None:
    """exp(40 a) has values in double precision that single precision has not."""
    cell = one_line(lambda a, u, b, h: sympy.exp(40 * a) * tanh(u) + b)
    report = check(cell, dtype="float32", module=interpret(cell, "float32"), T=2)
    assert report.passed, f"\n{report}"


def test_what_outgrows_all_numbers_is_checked_over_fewer_steps() -> None:
    cell = one_line(lambda a, u, b, h: sympy.exp(5 * h + a + u + b))
    report = check(cell, module=interpret(cell), T=30)
    assert report.passed, f"\n{report}"
    assert " T=3 " in report.title or " T=2 " in report.title


def test_what_rounding_decides_is_refused() -> None:
    """There is no right result to compare with, and so no verdict."""
    x, h = inputs("x"), states("h")
    line = Eq(h.next, sympy.sin(1e12 * h) + matrix("W") @ x)
    cell = Cell("lost", [line], output=h)
    with pytest.raises(LstmgenError, match="rounding errors grow"):
        check(cell, module=interpret(cell))


# --------------------------------------------------------------------------- kinks and ties


def names_of_cases(examination: Examination) -> list[str]:
    return [witness.case.name for witness in examination.witnesses]


def test_cases_are_random_and_at_kinks() -> None:
    cell = cells.get("lstm")
    assert names_of_cases(Examination(cell, seed=5)) == [
        "", "T=1 B=1", "seed 6", "seed 7", "zeros, T=2 B=2", "grid, T=2 B=2", "ties, T=2 B=2",
        "large, T=2 B=2",
    ]  # fmt: skip
    assert names_of_cases(Examination(cell, seeds=1, kinks=False)) == ["", "T=1 B=1"]


class Truncated(Interpreter):
    """Its σ has lost its negative tail, as (1 + tanh(a/2))/2 does."""

    def _step(self, params, x_t, *rest):
        memo = super()._step(params, x_t, *rest)
        half = np.asarray(0.5, self.dtype)
        for e in self.derivation.forward:
            if isinstance(e.rhs, sigmoid):
                memo[e.lhs] = half + half * np.tanh(
                    half * self._walk(memo, rest[-1])(e.rhs.args[0])
                )
            elif isinstance(e.rhs, sympy.Pow):
                memo[e.lhs] = memo[e.rhs.base] ** float(e.rhs.exp)
        return memo


def test_tails_are_checked() -> None:
    x, h, g, k = inputs("x"), states("h"), *vectors("g k")
    line = [
        Eq(g, sigmoid(matrix("W") @ x)),
        Eq(k, g ** sympy.Rational(1, 8)),
        Eq(h.next, k + h / 2),
    ]
    cell = Cell("tail", line, output=k)
    for dtype in ("float64", "float32"):
        assert check(cell, dtype=dtype, module=interpret(cell, dtype)).passed
        with np.errstate(all="ignore"):
            report = check(cell, dtype=dtype, module=Truncated(derive(cell), dtype))
        assert not report.passed
        assert "large" in str(report)


class Bent(Interpreter):
    """A derivation in which the slope at a kink is another one than is promised."""

    bend: tuple = ()

    def __init__(self, derivation, dtype="float64"):
        old, new = self.bend
        lines = [*derivation.adjoints, *derivation.totals]
        bent = [Eq(e.lhs, e.rhs.replace(old, new), evaluate=False) for e in lines]
        assert bent != lines, "this kink is not in the derivation"
        super().__init__(with_lines(derivation, dict(enumerate(bent))), dtype)


@pytest.mark.parametrize(
    ("make", "bend"),
    [
        (lambda a, u, b, h: relu(h) + tanh(a + u) + b, (step, lambda z: sympy.Heaviside(z, 1))),
        (lambda a, u, b, h: Abs(h) + tanh(a + u) + b, (sympy.sign, lambda z: 2 * step(z) - 1)),
        (
            lambda a, u, b, h: Max(h, b) + tanh(a + u),
            (sympy.Heaviside, lambda z, _: sympy.Heaviside(z, 1)),
        ),
        (
            lambda a, u, b, h: sympy.Piecewise((h, h > 1), (h / 2, True)) + tanh(a + u) + b,
            (lambda e: isinstance(e, sympy.StrictGreaterThan), lambda e: e.lhs >= e.rhs),
        ),
    ],
    ids=["relu", "Abs", "Max", "Piecewise"],
)
def test_another_slope_at_a_kink_is_caught(make, bend) -> None:
    cell = one_line(make)
    assert check(cell, module=interpret(cell)).passed
    kind = type("Kind", (Bent,), {"bend": bend})
    report = check(cell, module=kind(derive(cell)))
    assert not report.passed
    assert "zeros" in str(report) or "grid" in str(report) or "ties" in str(report)
    randomly = Examination(cell, kinks=False).judge(kind(derive(cell)))
    assert randomly.passed, "random values never meet a kink"


class Reordered(Interpreter):
    """As right as another, but sums are added up in another order, and functions end an ulp off."""

    def _step(self, *args):
        made_in = dtypes.dtype(self.dtype.name)
        self.rounding = Rounding(made_in.eps / 2, made_in, seed=3)
        try:
            return super()._step(*args)
        finally:
            self.rounding = None

    def _walk(self, params, memo):
        walk = super()._walk(params, memo)
        walk.shake = getattr(self, "rounding", None)
        return walk


@given(strategies.cells())
@settings(max_examples=25)
def test_rounding_is_never_wrong(cell: Cell) -> None:
    """At kinks and ties, too: those that rounding decides are no cases."""
    report = check(cell, module=Reordered(derive(cell)), T=3, B=2)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize(
    "make",
    [
        lambda a, u, b, h: Max(tanh(a), tanh(a + u - u / 3)) + b + h / 2,
        lambda a, u, b, h: relu(sigmoid(a + b) - sigmoid(u)) + h,
        lambda a, u, b, h: sympy.floor(2 * sigmoid(40 * a)) + tanh(u) + b + h / 3,
        lambda a, u, b, h: Abs(sympy.exp(h) - 1) * tanh(a + u) + b,
    ],
)
def test_ties_of_what_is_rounded_are_no_cases(make) -> None:
    cell = one_line(make)
    for dtype in ("float64", "float32"):
        report = check(cell, dtype=dtype, module=Reordered(derive(cell), dtype))
        assert report.passed, f"\n{report}"
