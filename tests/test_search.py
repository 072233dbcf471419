"""The search: workers share a database, die, and are replaced; a study goes on where it was."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import need

ROOT = Path(__file__).resolve().parents[1]
CELLS = ("rnn", str(ROOT / "examples" / "ligru.cell"))
TINY = ("--cells", *CELLS, "--updates", "20")

# Workers that wait in their first trial until another worker is in one, or that are killed in it.
BEGIN = """\
import os, signal, sys, time

sys.path.insert(0, {folder!r})
import search

train, waited = search.train, []

def together(choice, cells, series, until, args, trial=None):
    while trial and not waited:
        workers = {{t.user_attrs.get("worker") for t in trial.study.trials}} - {{None}}
        if len(workers) > 1:
            waited.append(True)
        time.sleep(0.1)
    return train(choice, cells, series, until, args, trial)

def killed(*given):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    search.train = {what}
    search.ALIVE, search.DEAD = {times}
    search.main()
"""


@pytest.fixture(scope="module", autouse=True)
def needs():
    for what in ("torch", "optuna", "statsmodels", "lark", "cffi", "cc"):
        need(what)


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import search

    return search


def start(script: Path, storage: str, *options: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "error", script, *TINY, "--storage", storage, *options]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def end(*processes: subprocess.Popen[str], status: int = 0) -> list[str]:
    """What commands printed; they and their workers are killed if one takes too long or fails."""
    outputs = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == status, out + err
            outputs.append(out)
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    return outputs


def trials_of(storage: str) -> list:
    import optuna

    return optuna.load_study(study_name="sunspots", storage=storage).trials


def script(tmp_path: Path, what: str, times: str = "search.ALIVE, search.DEAD") -> Path:
    path = tmp_path / f"{what}.py"
    path.write_text(
        BEGIN.format(folder=str(ROOT / "examples"), what=what, times=times), encoding="utf-8"
    )
    return path


@pytest.mark.slow
def test_workers_share_a_database_and_a_study_goes_on(tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    both = [start(script(tmp_path, "together"), storage, "--trials", "6") for _ in range(2)]
    outputs = end(*both)
    trials = trials_of(storage)
    # a worker that is in a trial when there are enough ends it
    assert 6 <= len(trials) <= 7
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2
    first, second = sorted(trials, key=lambda trial: trial.datetime_start)[:2]
    assert second.datetime_start < first.datetime_complete  # at once
    best = min(trial.value for trial in trials if trial.state.name == "COMPLETE")
    for output in outputs:
        assert "last year's number           31.8" in output
    assert f"{best:.2f}\n" in outputs[0] or f"{best:.2f}\n" in outputs[1]

    plot = tmp_path / "plot.png"
    need("matplotlib")
    path = ROOT / "examples" / "search.py"
    more = start(path, storage, "--trials", "9", "--workers", "2", "--plot", str(plot))
    (output,) = end(more)
    assert 9 <= len(trials_of(storage)) <= 10
    assert trials_of(storage)[0].params == trials[0].params
    listed = [float(n) for n in re.findall(r"^ +\d+  (?:rnn|ligru) .* ([0-9.]+)$", output, re.M)]
    assert len(listed) >= 2
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_taken_up_again(tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    end(start(script(tmp_path, "killed", "1, 4"), storage, "--trials", "1"), status=-signal.SIGKILL)
    (lost,) = trials_of(storage)
    assert lost.state.name == "RUNNING"
    time.sleep(6)  # more than the grace period
    end(start(script(tmp_path, "train", "1, 4"), storage, "--trials", "2"))
    lost, *others = trials_of(storage)
    assert lost.state.name == "FAIL"
    assert lost.params in [trial.params for trial in others]
    assert all(trial.state.name == "COMPLETE" for trial in others)


def arguments(storage: str, **others) -> argparse.Namespace:
    return argparse.Namespace(
        **{"storage": storage, "study": "s", "updates": 20, "seed": 0, **others}
    )


def test_what_cannot_be_compared_is_refused(search, tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    cells = search.load_cells(list(CELLS))
    search.open_study(cells, arguments(storage))
    search.open_study(cells, arguments(storage))
    with pytest.raises(SystemExit, match=r'the study "s" in .* has other updates\n'):
        search.open_study(cells, arguments(storage, updates=30))
    with pytest.raises(SystemExit, match="has other cells"):
        search.open_study(search.load_cells(["rnn"]), arguments(storage))
    with pytest.raises(SystemExit, match="has other cells"):  # of the same name
        search.open_study({**cells, "rnn": cells["ligru"]}, arguments(storage))
    search.open_study(search.load_cells(["rnn"]), arguments(storage, study="other"))


def test_trials_tell_how_they_get_on_and_are_pruned(search):
    import optuna

    cells, series = search.load_cells(["rnn"]), search.load_sunspots()
    choice = search.Choice("rnn", 4, 1e-2, 0.1)
    told = []

    class Trial:
        def report(self, error, update):
            told.append((update, error))

        def should_prune(self):
            return len(told) == 3

    with pytest.raises(optuna.TrialPruned):
        search.train(choice, cells, series, search.JUDGED, arguments(""), Trial())
    assert [update for update, _ in told] == [2, 4, 6]
    # the same seed is the same training
    models = [search.train(choice, cells, series, 1880, arguments("")) for _ in range(2)]
    one, two = (search.judge(model, series, 1880, 1930) for model in models)
    assert one == two
