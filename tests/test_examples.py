"""The examples run, learn, and keep what they promise: as a user starts them, in a process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need

import lstmgen

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "numpy": {"{}.py", "lstm.py", "readout.py", "adam.py"},
    "c": {"{}.h", "{}.c", "lstmgen_runtime.h"},
}


def need_networks_in_c() -> None:
    need("cffi")
    need("cc")
    try:
        lstmgen.generate(lstmgen.Network([lstmgen.Layer("rnn", 1)]), "c")
    except lstmgen.GenerateError as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.fixture(params=["numpy", "c"])
def target(request):
    if request.param == "c":
        need_networks_in_c()
    return request.param


def written(folder: Path, network: str, target: str) -> bool:
    """Whether the code of a network is there."""
    return {name.format(network) for name in FILES[target]} <= {p.name for p in folder.iterdir()}


def run(example: str, out: Path, *options: str, status: int = 0) -> str:
    command = [sys.executable, "-W", "error", ROOT / "examples" / example, "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_forecast(tmp_path, target):
    need("statsmodels")
    tiny = ("--epochs", "4", "--hidden", "4", "--no-plot")
    output = run("forecast.py", tmp_path, *tiny, "--target", target)
    fell = [float(n) for n in re.findall(r"loss ([0-9.]+)", output)]
    assert fell[-1] < 0.9 * fell[0]
    assert written(tmp_path, "forecast", target)


def test_forecast_is_the_same_by_seed_and_by_target(tmp_path):
    need("statsmodels")
    need_networks_in_c()
    tiny = ("--epochs", "2", "--hidden", "4", "--no-plot", "--seed")
    numbers = [
        [float(n) for n in re.findall(r"loss ([0-9.]+)", run("forecast.py", tmp_path, *options))]
        for options in (
            (*tiny, "3", "--target", "numpy"),
            (*tiny, "3", "--target", "c"),
            (*tiny, "4", "--target", "numpy"),
        )
    ]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-4)
    assert numbers[0] != pytest.approx(numbers[2], abs=2e-4)


@pytest.mark.slow
def test_demo_beats_every_naive_baseline(tmp_path):
    need("statsmodels")
    need("matplotlib")
    output = run("forecast.py", tmp_path)  # as `make demo` runs it
    (less,) = re.findall(r"^The error is (\d+)% less", output, re.MULTILINE)
    assert int(less) >= 40
    plot = (tmp_path / "forecast_lstm.png").read_bytes()
    assert plot.startswith(b"\x89PNG")
    assert len(plot) > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["rnn", "gru_reset_before", "lstmp", "examples/mgu.py"])
def test_forecast_with_other_cells(tmp_path, cell, monkeypatch):
    need("statsmodels")
    need("matplotlib")
    monkeypatch.chdir(ROOT)
    output = run("forecast.py", tmp_path, "--cell", cell, "--target", "numpy", "--epochs", "10")
    assert "less than that of the strongest naive baseline" in output
    assert list(tmp_path.glob("forecast_*.png"))


def test_forecast_without_a_compiler(tmp_path, monkeypatch):
    need("statsmodels")
    monkeypatch.setenv("CC", "no-such-compiler")
    output = run("forecast.py", tmp_path, "--epochs", "1", "--hidden", "4", "--no-plot")
    assert "NumPy instead of C" in output
    assert (tmp_path / "lstm.py").is_file()


def test_charlm(tmp_path, target):
    # text enough to learn from, and little enough to be quick
    text = tmp_path / "text"
    text.write_text(
        "".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("examples/*.py"))),
        encoding="utf-8",
    )
    out = tmp_path / "out"
    tiny = ("--epochs", "8", "--hidden", "8", "--length", "50", "--no-plot")
    # so small a network loses to the bigrams, and says so by its status
    output = run("charlm.py", out, *tiny, "--text", str(text), "--target", target, status=1)
    fell = [float(n) for n in re.findall(r"([0-9.]+) held out$", output, re.MULTILINE)]
    assert fell[-1] < 0.9 * fell[0]
    assert "What it writes" in output
    assert written(out, "charlm", target)


@pytest.mark.slow
def test_charlm_beats_the_trigrams(tmp_path):
    need("matplotlib")
    output = run("charlm.py", tmp_path, "--epochs", "2", "--hidden", "64", "--target", "numpy")
    assert re.search(r"trigram +[0-9.]+  beaten", output)
    assert (tmp_path / "charlm_lstm.png").is_file()


def test_gates(tmp_path, monkeypatch):
    need("tensorboard")
    need("cc")
    text = tmp_path / "text"
    text.write_text("".join(p.read_text("utf-8") for p in sorted(ROOT.glob("examples/*.py"))))
    out = tmp_path / "out"
    tiny = ("--updates", "30", "--hidden", "8", "--every", "10", "--text", str(text))
    output = run("gates.py", out, *tiny)
    fell = [float(n) for n in re.findall(r"loss ([0-9.]+)", output)]
    assert fell[-1] < 0.9 * fell[0]
    events = list((out / "lstm").glob("events.out.tfevents.*"))
    assert len(events) == 1 and b"saturated_high/rnn_l0.f" in events[0].read_bytes()
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no browser
    command = [sys.executable, ROOT / "examples" / "gates.py", "--updates", "0", "--out", out]
    command += ["--screenshot", tmp_path / "picture.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "apt-get install chromium" in done.stderr


@pytest.mark.parametrize("example", ["forecast.py", "charlm.py"])
def test_help_and_mistakes(tmp_path, example):
    assert "--target" in run(example, tmp_path, "--help")
    command = [sys.executable, ROOT / "examples" / example, "--cell", "gruu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == 'error: no cell is called "gruu"; did you mean "gru"?\n'
