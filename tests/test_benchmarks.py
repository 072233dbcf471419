"""benchmarks/: its own contenders are right, its suites well formed, and it keeps what it found."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import need

from lstmgen import cells
from lstmgen.benchmark.contenders import Generated
from lstmgen.benchmark.problem import INFERENCE, STEP, WORKS, MismatchError, Problem

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import markdown, plots, report, runner, suites
from benchmarks.__main__ import main
from benchmarks.c_steps import GeneratedFromC, PlainC
from benchmarks.naive_numpy import MatmulsAlone, NaiveNumpy
from benchmarks.onnx_runtime import OnnxEmpty, OnnxRuntime


@pytest.fixture(autouse=True)
def _environment():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def problem(name, work, B=2):
    return Problem(cells.get(name), {"T": 4, "B": B, "D": 3, "H": 5}, work)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_contenders_are_right(name, work, B):
    for what in ("onnx", "onnxruntime", "cffi", "cc"):
        need(what)
    p = problem(name, work, B)
    yardsticks = (OnnxEmpty(), MatmulsAlone())
    ours = (OnnxRuntime(), NaiveNumpy(), PlainC(), PlainC(looped=True), GeneratedFromC(),
            GeneratedFromC(fixed=True))  # fmt: skip
    for contender in (*ours, *yardsticks):
        if contender.fits(p):
            prepared = contender.prepare(p)
            result = prepared.call()
            if contender.checked:
                p.check(contender.name, prepared.values(result))


def test_every_suite_is_well_formed():
    for name, (_, make) in suites.SUITES.items():
        for quick in (False, True):
            cases = list(make(suites.Options(quick=quick)))
            assert cases, name
            for case in cases:
                assert len(case.base) == len(case.entries)
                assert case.entries[-1].contender.key == "gemm"
                assert case.base[0] is None
                for entry, base in zip(case.entries, case.base, strict=True):
                    assert base is None or case.base[base] is None
                    if base is not None:
                        ours = case.entries[base]
                        assert ours.name.startswith("lstmgen")
                        assert ours.problem.sizes == entry.problem.sizes


def test_the_contenders_can_be_chosen():
    options = suites.Options(only=("jax",))
    (case,) = suites.simple(options, "lstm", [(2, 1, 3, 4)], [INFERENCE])
    assert [e.contender.key for e in case.entries] == ["c", "jax", "gemm"]


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_from_the_command_to_tables_and_figures(tmp_path):
    for what in ("torch", "cffi", "cc", "matplotlib"):
        need(what)
    path, figures = tmp_path / "results.json", tmp_path / "figures"
    text = run("run", "--cell", "lstm", "--shape", "3,2,3,4", "--contender", "torch-kernel",
               "--rounds", 2, "--json", path, "--plot", figures)  # fmt: skip
    assert "PyTorch nn.LSTM" in text and "geometric mean" in text and "GFLOP/s" in text
    found = json.loads(path.read_text())
    assert os.uname().nodename not in path.read_text()
    assert str(Path.home()) not in path.read_text()
    (suite,) = found["suites"]
    assert [case["title"] for case in suite["cases"]] == [
        "lstm inference T=3 B=2 D=3 H=4", "lstm training T=3 B=2 D=3 H=4",
    ]  # fmt: skip
    assert run("table", path) in text
    drawn = run("plot", path, tmp_path / "again")
    assert "chosen-training.svg" in drawn
    for figure in (tmp_path / "again").iterdir():
        again = (figures / figure.name).read_text()
        assert figure.read_text() == again, "the same figure from the same numbers"
    path.write_text("{}")
    assert "was not written by" in run("table", path, code=1)


def test_usage():
    assert "torch-script" in run("suites")
    assert "there is no suite" in run("run", "--suite", "lst", code=2)
    assert "there is no contender" in run("run", "--contender", "me", code=2)
    assert "write it as" in run("run", "--shape", "3,4", code=2)
    assert "give --suite, or" in run("run", "--suite", "lstm", "--cell", "gru", code=2)


def test_stages_of_compiling_add_up():
    for what in ("cc", "cffi"):
        need(what)
    os.environ["CFLAGS"] = "-O0"
    head, _, *rows, _, foot = (
        run("compile", "rnn", "gru", "--slowest", 1, "--rounds", 1).strip().splitlines()
    )
    assert "2 cells" in foot
    columns = [c.strip() for c in head.strip("|").split("|")]
    assert [r.split("|")[1].strip() for r in rows[1:]] == ["median", "largest", "sum"]
    seconds = [float(c) for c in rows[0].strip("|").split("|")[1:]]
    *stages, whole, clock = seconds
    assert columns[-2:] == ["in all", "by the clock, empty cache"]
    assert sum(stages) == pytest.approx(whole, abs=0.04), "each is rounded to hundredths"
    assert min(whole, clock, *stages[2:4]) > 0


def entry(key, seconds, base=None, flops=1e6, **more):
    return {"key": key, "name": key, "base": base, "cell": "lstm", "work": "inference",
            "sizes": {"T": 1, "B": 1, "D": 1, "H": 1}, "flops": flops, "cores": 1.0,
            "seconds": {str(k + 1): s for k, s in enumerate(seconds)}, "reason": None,
            "wrong": False, **more}  # fmt: skip


def case(*entries, pair=None):
    gemm = entry("gemm", [1e-3] * 3, flops=2e6)
    return {"title": "a case", "entries": [*entries, gemm], "pair": pair}


def test_numbers_follow_from_the_times():
    c = case(entry("c", [1e-3, 2e-3, 1e-3]), entry("jax", [2e-3, 6e-3, 2e-3], 0))
    ratio = report.ratio_of(c, c["entries"][1])
    assert ratio.median == pytest.approx(2) and ratio.high == pytest.approx(2.5)
    assert report.peak_fraction(c, c["entries"][0]).median == pytest.approx(0.5)
    shown = "\n".join(report.case_lines(c, 1))
    assert "1.00 GFLOP/s" in shown and "50% of peak" in shown and "2.00×" in shown
    pair = case(entry("c", [2e-3] * 3, flops=1e6), entry("c", [4e-3] * 3, flops=4e6), pair=[0, 1])
    assert report.per_flop(pair).median == pytest.approx(2)
    cases = [case(entry("c", [1.0]), entry("jax", [r], 0)) for r in (2.0, 8.0)]
    (lines,) = report.summaries({"name": "x", "cases": cases})
    assert lines[-1].split() == ["geometric", "mean", "4.00×"]


def test_what_was_not_measured_is_said():
    missing = entry("jax", [], 0, reason="not finished within 60 s")
    c = case(entry("c", [1.0]), missing)
    assert "  jax: not finished within 60 s" in report.case_lines(c, 1)
    assert report.case_lines(case(entry("c", [], reason="no compiler")), 1)
    busy = case(entry("c", [1.0], cores=1.9))
    assert any("1.9 cores" in line for line in report.case_lines(busy, 1))


def a_run(path=None, **options):
    return runner.Run(suites.Options(**options), rounds=1, visit=0.0, budget=30, path=path)


def a_case():
    made = suites.Case("a case")
    made.add(suites.Options(), ["numpy"], problem("lstm", STEP))
    return made.finish()


def test_a_wrong_contender_is_an_error_and_the_rest_goes_on(monkeypatch, tmp_path):
    class Wrong(Generated):
        def prepare(self, problem):
            raise MismatchError("someone disagrees in y")

    monkeypatch.setitem(suites.CONTENDERS, "torch-kernel", Wrong("numpy"))
    measuring = a_run(tmp_path / "r.json")
    made = a_case()
    made.add(suites.Options(), ["torch-kernel"], problem("lstm", STEP))
    measuring.run({"x": ("about", [made])})
    assert measuring.failures == ["someone disagrees in y"]
    (found,) = json.loads((tmp_path / "r.json").read_text())["suites"][0]["cases"]
    assert [bool(e["seconds"]) for e in found["entries"]] == [True, True, False]
    assert found["entries"][2]["wrong"]


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs alarms")
def test_who_takes_too_long_is_left_out():
    class Slow(Generated):
        def prepare(self, problem):
            try:
                time.sleep(30)
            except Exception:  # as libraries do, to try another way
                time.sleep(30)

    measuring = a_run()
    measuring.budget = 0.05
    entry = suites.Entry(Slow("numpy"), problem("lstm", STEP))
    measuring.get_ready(entry)
    assert entry.reason == "not finished within 0.05 s" and entry.track is None


def test_another_librarys_failure_ends_nothing():
    class Broken(Generated):
        def prepare(self, problem):
            raise RuntimeError("out of luck\nand more")

    measuring = a_run()
    entry = suites.Entry(Broken("numpy"), problem("lstm", STEP))
    measuring.get_ready(entry)
    assert entry.reason == "RuntimeError: out of luck" and not measuring.failures


def test_an_interruption_keeps_what_there_is(monkeypatch, tmp_path):
    measuring = a_run(tmp_path / "r.json")
    real, calls = measuring.case, []

    def interrupted(made):
        calls.append(made)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(made)

    monkeypatch.setattr(measuring, "case", interrupted)
    measuring.run({"x": ("about", [a_case(), a_case(), a_case()])})
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["interrupted"] and len(calls) == 2
    first, second = found["suites"][0]["cases"]
    assert first["entries"][0]["seconds"] and second["entries"][0]["reason"] == "not reached"
    assert "interrupted" in report.text(found)


def test_ticks():
    assert plots._ticks(0.4, 6) == pytest.approx([0.5, 1, 2, 5])


def results(*found, name="a suite", threads=1, load=0.0):
    return {"machine": MACHINE, "load": load, "suites": [{"name": name, "cases": list(found)}],
            "settings": {"threads": threads, "dtype": "float32", "rounds": 3}}  # fmt: skip


MACHINE = runner.machine.describe()


def test_results_become_tables_of_a_document():
    sizes = {"T": 9, "B": 1, "D": 2, "H": 3}
    found = [
        case(
            entry("c", [1e-3] * 3, work=work, sizes=sizes),
            entry("onnx", [3e-3] * 3, 0, work=work, sizes=sizes),
            entry("jax", [] if work == "training" else [2e-3] * 3, 0, work=work, sizes=sizes),
        )
        for work in ("inference", "training")
    ]
    text = markdown.text(results(*found))
    assert text.splitlines()[:4] == [
        "| T, B, D, H | inference | GFLOP/s | of peak | of onnx | of jax | training | GFLOP/s "
        "| of peak | of onnx | of jax |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 9, 1, 2, 3 | 1.00 ms | 1.00 | 50% | 3.00× | 2.00× | 1.00 ms | 1.00 | 50% | 3.00× | – |",
        "| geometric mean |  |  |  | 3.00× | 2.00× |  |  |  | 3.00× |  |",
    ]
    assert "1 thread, medians of 3 rounds" in text and "busy" not in text
    assert "do not trust" in markdown.text(results(*found, load=3.0))
    # who is compared with nobody is left out; rows say whose they are
    of_c = case(entry("c", [4e-3] * 3), entry("c-loop", [1e-3] * 3),
                entry("onnx", [5e-3] * 3, 0), entry("plain", [2e-3] * 3, 1),
                entry("onnx-empty", [3e-3] * 3))  # fmt: skip
    text = markdown.text(results(of_c))
    assert "| ours | T, B, D, H | inference | GFLOP/s | of peak | of onnx | of plain |" in text
    assert "| c-loop | 1, 1, 1, 1 | 1.00 ms | 1.00 | 50% | – | 2.00× | 2.00× |" in text
    odd = case(entry("c", [2e-3] * 3), entry("c", [4e-3] * 3, flops=4e6), pair=[0, 1])
    assert "| a case | 2.00× |" in markdown.text(results(odd))


def test_a_document_is_summed_up():
    document = """
# Title
## One
| T | inference | of X | training | of X | of Y |
| --- | --- | --- | --- | --- | --- |
| 1 | 1 s | 1.00× | 1 s | 2.00× | 7.00× |
| 2 | 1 s | 4.00× | 1 s | – | 8.00× |
| 3 | 1 s | 2.00× | 1 s | 8.00× | 9.00× |
| geometric mean | | 9.99× | | 9.99× | 9.99× |
"""
    assert markdown.summary(document).splitlines()[2:] == [
        "| One: X | 2.00× (1.00 to 4.00) | 4.00× (2.00 to 8.00) |"
    ]
