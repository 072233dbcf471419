"""What is timed is right, and what is said of it follows from the times. No test looks at a clock.

The contenders of ``lstmgen bench`` and of ``benchmarks/`` are held against our NumPy code in
float64, which the tests of gradients hold against differences.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from click.testing import CliRunner
from conftest import need
from hypothesis import given, settings
from strategies import cells as made_up_cells

from lstmgen import cells
from lstmgen.benchmark import contenders, timing
from lstmgen.benchmark.contenders import Generated, JaxScan, Prepared, TorchKernel, TorchLoop
from lstmgen.benchmark.problem import INFERENCE, STEP, TRAINING, WORKS, MismatchError, Problem
from lstmgen.benchmark.race import Entry, race
from lstmgen.benchmark.timing import Track, quartiles, ratios, take_turns, visit
from lstmgen.cli import main
from lstmgen.errors import LstmgenError
from lstmgen.transcripts.dialects import Jax, Torch
from lstmgen.transcripts.transcript import transcribe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SIZES = {"T": 5, "B": 3, "D": 4, "H": 6, "P": 2, "N": 3, "K": 5}


@pytest.fixture(autouse=True)
def _environment():
    """``limit`` sets variables for libraries that are loaded later."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def problem(name, work=TRAINING, dtype="float32", **sizes):
    cell = cells.get(name)
    known = {"T", "B", *map(str, cell.sizes)}
    return Problem(cell, {k: n for k, n in (SIZES | sizes).items() if k in known}, work, dtype)


def hold(contender, problem):
    prepared = contender.prepare(problem)
    problem.check(contender.name, prepared.values(prepared.call()))


# --------------------------------------------------------------------------- time


def test_quartiles_and_ratios():
    q = quartiles([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (q.low, q.median, q.high) == (2, 3, 4)
    assert q.spread == pytest.approx(1 / 3)
    assert quartiles([7.0]).spread == 0
    found = ratios({1: 2.0, 2: 6.0, 3: 9.0}, {1: 1.0, 2: 2.0, 4: 5.0})  # of rounds 1 and 2
    assert found is not None and found.median == 2.5
    assert ratios({1: 2.0}, {2: 1.0}) is None


def test_a_visit_counts_what_one_call_does(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: 2 * now[0])

    def call():
        now[0] += 1e-3

    found = visit(call, duration=0.02, count=10)
    assert found.median == pytest.approx(1e-4)
    assert found.cores == pytest.approx(2)
    slow = visit(call, duration=1e-4)  # once is enough
    assert slow.median == pytest.approx(1e-3)


def test_turns_rotate_and_slow_ones_rest(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "visit", lambda call, duration, count: call())
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)

    def contender(name, seconds):
        return Track(lambda: order.append(name) or timing.Visit(seconds, seconds, 1.0))

    tracks = {"a": contender("a", 1.0), "b": contender("b", timing.SLOW + 1)}
    take_turns(tracks, 5)
    assert order == ["a", "b", "b", "a", "a", "b", "a", "a"]
    assert len(tracks["b"].visits) == timing.SLOW_ROUNDS


def test_the_first_round_is_not_counted():
    entry = Entry(Generated("numpy"), problem("rnn"))
    entry.get_ready()
    race([entry], 2, duration=0)
    assert sorted(entry.seconds) == [1, 2]


# --------------------------------------------------------------------------- transcripts


def test_a_transcript_is_what_a_person_would_write():
    made = transcribe(cells.get("lstm"), SIZES, Torch())
    assert "torch.addmm(x_ifog_t, h, U_ifog_T)" in made.source
    assert "x_ifog = torch.nn.functional.linear(x, W_ifog, b_ifog)" in made.source
    assert "i, f, o = torch.chunk(torch.sigmoid(a), 3, dim=-1)" in made.source
    layered = transcribe(cells.get("lstm_layernorm"), SIZES, Torch()).source
    step = layered[: layered.index("def sequence")]
    assert step.count("layer_norm(") == 2, "one for all gates, one for the cell state"
    scan = transcribe(cells.get("gru"), SIZES, Jax()).source
    assert scan.count(" @ ") == 2 and "jax.lax.scan(step, (h,), (x_rz, x_n))" in scan


def test_stacks_come_apart_as_they_were_put_together():
    for dialect in (Torch(), Jax()):
        for name in reference.NAMES:
            p = problem(name)
            values = p.values()
            for argument in transcribe(p.cell, p.sizes, dialect).arguments:
                parts = argument.split(argument.join(values))
                assert set(parts) == set(argument.parts)
                for part, array in parts.items():
                    np.testing.assert_array_equal(array, values[part])


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("name", reference.NAMES)
def test_transcripts_are_right(name, work):
    need("torch")
    need("jax")
    p = problem(name, work, "float64")
    for contender in (TorchLoop("eager"), TorchLoop("script"), JaxScan()):
        hold(contender, p)


@settings(max_examples=15)
@given(made_up_cells())
def test_any_cell_can_be_transcribed(cell):
    need("torch")
    sizes = {"T": 3, "B": 2, **{str(n): 3 + k for k, n in enumerate(cell.sizes)}}
    p = Problem(cell, sizes, INFERENCE, "float64")
    with np.errstate(all="ignore"):
        hold(TorchLoop("eager"), p)


# --------------------------------------------------------------------------- contenders


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("name", ["lstm", "gru", "lstmp"])
def test_kernels_and_ours_are_right(name, work):
    for what in ("torch", "cffi", "cc"):
        need(what)
    p = problem(name, work)
    for contender in (Generated("numpy"), Generated("c"), TorchKernel(), TorchKernel(single=True)):
        if contender.fits(p):
            hold(contender, p)


def test_a_kernel_is_known_by_its_equations():
    assert TorchKernel().fits(problem("gru"))
    assert not TorchKernel().fits(problem("gru_reset_before"))
    assert TorchKernel(single=True).fits(problem("lstm", STEP))
    assert not TorchKernel(single=True).fits(problem("lstm"))
    assert TorchKernel().name_for(cells.get("lstmp")) == "PyTorch nn.LSTM"


@pytest.mark.parametrize(
    ("work", "tensor"), [(INFERENCE, "y"), (TRAINING, "∂L/∂U_f"), (TRAINING, "∂L/∂h[0]")]
)
def test_a_wrong_result_names_tensor_and_contender(work, tensor):
    class Wrong(Generated):
        name = "someone"

        def __init__(self):
            super().__init__("numpy")
            self.name = "someone"

        def prepare(self, problem):
            right = super().prepare(problem)

            def values(result):
                found = right.values(result)
                return found | {tensor: found[tensor] + 1e-3 * np.abs(found[tensor]).max()}

            return Prepared(right.call, values)

    entry = Entry(Wrong(), problem("lstm", work))
    with pytest.raises(MismatchError) as caught:
        entry.get_ready()
    assert f"someone disagrees in {tensor}:" in str(caught.value)
    with pytest.raises(MismatchError, match="does not compute"):
        problem("lstm").check("someone", {})
    p = problem("lstm")
    nowhere = {name: a * np.nan for name, a in p.reference.items()}
    with pytest.raises(MismatchError, match="disagrees in"):  # no number is no excuse
        p.check("someone", nowhere)


def test_nothing_that_goes_in_is_zero():
    p = problem("lstm_layernorm")
    for name, value in p.values().items():
        assert np.all(np.asarray(value) != 0), name


def test_sizes_are_checked():
    with pytest.raises(LstmgenError, match="has no size Q"):
        Problem(cells.get("lstm"), {"T": 1, "B": 1, "D": 1, "H": 1, "Q": 1}, STEP)
    with pytest.raises(LstmgenError, match="needs the size H"):
        Problem(cells.get("lstm"), {"T": 1, "B": 1, "D": 1}, STEP)


def test_the_work_counts():
    """A step is one of T; training is more than inference. Products dominate as sizes grow."""
    step, inference, training = (
        problem("lstm", work).flops for work in (STEP, INFERENCE, TRAINING)
    )
    assert inference == SIZES["T"] * step and training > 2 * inference
    big = problem("lstm", INFERENCE, T=2, B=3, D=1000, H=500)
    assert big.flops == pytest.approx(2 * 4 * 500 * 1500 * 2 * 3, rel=0.01)


# --------------------------------------------------------------------------- lstmgen bench

TINY = ["--size", "T=3", "--size", "B=2", "--size", "D=3", "--size", "H=4", "--rounds", "2"]


def bench(*arguments, code=0):
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_bench_shows_both_targets():
    need("cffi")
    need("cc")
    text = bench("lstm", *TINY)
    assert "T=3 B=2 D=3 H=4 · 1 thread · medians of 2 rounds" in text
    for row in ("lstmgen C", "lstmgen NumPy", "matrix product", "of peak"):
        assert row in text


def test_bench_against_others(tmp_path):
    need("torch")
    need("jax")
    path = tmp_path / "new" / "times.json"
    text = bench("lstm", *TINY, "--target", "numpy", "--against", "torch", "--against", "jax",
                 "--json", path)  # fmt: skip
    for row in ("PyTorch nn.LSTM", "PyTorch eager", "TorchScript", "JAX scan"):
        assert row in text
    found = json.loads(path.read_text())
    assert found["sizes"] == {"T": 3, "B": 2, "D": 3, "H": 4}
    assert [len(row["seconds"][TRAINING]) for row in found["rows"]] == [2] * 5
    assert found["machine"]["versions"]["numpy"] == np.__version__
    assert os.uname().nodename not in path.read_text()


def test_bench_of_ones_own_cell(tmp_path):
    need("torch")
    path = tmp_path / "mine.py"
    path.write_text(
        "from sympy import Eq\n"
        "from lstmgen import Cell, inputs, states, tanh, weights\n"
        'x, h, W, U = inputs("x"), states("h"), weights("W"), weights("U")\n'
        'cell = Cell("mine", [Eq(h.next, tanh(W.h @ x + U.h @ h))], output=h)\n'
    )
    text = bench(path, *TINY, "--target", "numpy", "--against", "torch")
    assert "PyTorch eager" in text and "nn." not in text


def test_bench_says_what_is_missing(monkeypatch):
    real = importlib.import_module

    def without(name, *rest):
        if name == "jax":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(contenders.importlib, "import_module", without)
    text = bench("lstm", *TINY, "--target", "numpy", "--against", "jax", code=1)
    assert "pip install 'lstmgen[bench]'" in text and "Traceback" not in text


def test_bench_leaves_out_a_target_that_cannot_be_built(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    text = bench("lstm", *TINY)
    assert "lstmgen NumPy" in text and "not timed: lstmgen C: CC is no-such-compiler" in text
    assert "error:" in bench("lstm", *TINY, "--target", "c", code=1)


def test_bench_refuses_unknown_sizes():
    assert "has no size Q" in bench("lstm", *TINY, "--size", "Q=3", code=1)
