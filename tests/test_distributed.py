"""The distributed example: any number of processes, killed in any place, have one loss curve."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "distributed"
# an odd batch, which two processes cannot share evenly, and masks of dropout
TINY = (
    *("--cell", "rnn", "--hidden", "8", "--batch", "5", "--window", "16", "--every", "10"),
    *("--dropout", "0.2", "--dtype", "float64"),
)

# Workers that kill themselves with SIGKILL: one in the middle of an update, and after the restart
# the one that writes checkpoints, with half of a checkpoint on the disk.
DYING = """\
import os, signal, sys

sys.path.insert(0, {folder!r})
import torch
import train

when = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
batch_at, save = train.batch_at, torch.save

def dies_in_update(step, *rest):
    if (*when, step) == ("0", "1", 33):
        os.kill(os.getpid(), signal.SIGKILL)
    return batch_at(step, *rest)

def dies_in_checkpoint(state, file, **rest):
    if when == ("1", "0") and isinstance(state, dict) and state["step"] == 50:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file, **rest)

train.batch_at, torch.save = dies_in_update, dies_in_checkpoint
train.main()
"""


@pytest.fixture(scope="module", autouse=True)
def needs():
    need("torch")
    need("cffi")
    need("cc")
    import torch.distributed

    if not torch.distributed.is_available() or sys.platform == "win32":
        pytest.skip("this PyTorch has no gloo")


def run(*command: object, share_store: str = "1") -> subprocess.CompletedProcess[str]:
    """A command; whatever it started is ended if it takes too long, or fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": share_store,
    }
    # torchrun gives each worker a session of its own, and ends them all when it is told to end
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=240)
    except BaseException:
        process.terminate()
        try:
            process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def torchrun(script: Path, out: Path, *options: str) -> str:
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = run(*launch, "--max-restarts=3", script, *TINY, "--out", out, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curve(out: Path) -> list[float]:
    with (out / "loss.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    return [float(row["loss"]) for row in rows]


def events(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process does, without torchrun."""
    out = tmp_path_factory.mktemp("alone")
    done = run("-W", "error", FOLDER / "train.py", *TINY, "--steps", "80", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_killed_workers_leave_no_trace_in_the_curve(alone, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(DYING.format(folder=str(FOLDER)), encoding="utf-8")
    torchrun(script, tmp_path / "out", "--steps", "60")
    told = events(tmp_path / "out")
    starts = [event for event in told if "start" in event]
    # all updates were done; twice, those between a checkpoint and a kill
    assert [(e["start"], e["restart"], e["processes"]) for e in starts] == [
        (0, 0, 2), (30, 1, 2), (40, 2, 2),
    ]  # fmt: skip
    steps = [event["step"] for event in told if "step" in event]
    assert steps == [*range(33), *range(30, 50), *range(40, 60)]
    pids = {pid for event in starts for _, pid in event["workers"]}
    assert len(pids) == 6  # each start was of processes of its own
    # in float64 sums over rows are the same up to rounding, which 60 updates enlarge a little
    assert curve(tmp_path / "out") == pytest.approx(curve(alone)[:60], rel=0, abs=1e-10)
    # a step that was done again came to the same bits
    losses: dict[int, set[float]] = {}
    for event in told:
        if "step" in event:
            losses.setdefault(event["step"], set()).add(event["loss"])
    assert all(len(values) == 1 for values in losses.values())

    # another number of processes goes on from the same checkpoint
    done = run(FOLDER / "train.py", *TINY, "--steps", "80", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(tmp_path / "out")[-22]["start"] == 60
    assert curve(tmp_path / "out") == pytest.approx(curve(alone), rel=0, abs=1e-10)


@pytest.mark.slow
def test_two_processes_are_one(alone, tmp_path):
    output = torchrun(FOLDER / "train.py", tmp_path, "--steps", "30")
    assert "2 processes, from update 0 on" in output
    assert curve(tmp_path) == pytest.approx(curve(alone)[:30], rel=0, abs=1e-10)
    assert curve(tmp_path)[-1] < 0.95 * curve(tmp_path)[0]
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", "loss.csv", "log.jsonl"}


def test_what_would_be_another_curve_is_refused(alone):
    done = run(FOLDER / "train.py", *TINY, "--rate", "0.1", "--out", alone)
    assert done.returncode == 1
    assert done.stderr == f"error: rate is 0.1, and in the checkpoint in {alone} 0.005\n"


@pytest.mark.slow
def test_a_launch_that_could_not_restart_is_refused(tmp_path):
    """New workers would wait for those that died, without a word."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")
    done = run(*launch, "--max-restarts=1", FOLDER / "train.py", *TINY, "--out", tmp_path,
               share_store="0")  # fmt: skip
    assert done.returncode == 1
    assert "hint: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in done.stderr
