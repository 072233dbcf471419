"""Trains with one process, with two, and with two of which one is killed, and draws the curves.

    python figure.py --out loss.png

Options after -- go to train.py: figure.py -- --cell gru --steps 1000
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import figures

HERE = Path(__file__).resolve().parent
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3")
DATE = 400  # the update, about, in which the worker is killed


def run(out: Path, launcher: tuple[str, ...], options: list[str], kill: bool = False) -> None:
    """Train, and kill the second worker in the middle of it."""
    modules = ("-m", *launcher) if launcher else ()
    command = [sys.executable, *modules, str(HERE / "train.py"), "--out", str(out), *options]
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL if kill else None
    )
    try:
        while kill and process.poll() is None:
            told = events(out)
            if told and told[-1].get("step", 0) >= DATE:
                _, pid = told[0]["workers"][1]
                print(f"Killing {pid}, a worker, after update {told[-1]['step']}")
                os.kill(pid, signal.SIGKILL)
                kill = False
            time.sleep(0.02)
        if process.wait():
            raise SystemExit(f"error: {' '.join(command)} ended with status {process.returncode}")
    finally:
        process.terminate()


def events(out: Path) -> list[dict[str, Any]]:
    path = out / "log.jsonl"
    whole = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines(keepends=True) if line.endswith("\n")]


def curve(out: Path) -> np.ndarray:
    """The loss of each update, in bits per character."""
    with (out / "loss.csv").open(encoding="utf-8") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)]) / math.log(2)


def draw(path: Path, runs: dict[str, Path]) -> None:
    plt = figures.pyplot()
    if plt is None:
        return
    curves = [curve(out) for out in runs.values()]
    grid = {"height_ratios": [3, 1.2], "width_ratios": [1.5, 1]}
    figure, axes = plt.subplots(2, 2, figsize=(10, 4.6), gridspec_kw=grid, layout="constrained")
    (loss, progress), (difference, blank) = axes
    styles = (
        {"color": "0.78", "lw": 5},
        {"color": figures.THEIRS, "lw": 2},
        {"color": figures.OURS, "lw": 0.8},
    )
    for (name, _), values, style in zip(runs.items(), curves, styles, strict=True):
        loss.plot(values, label=name, **style)
    for values, style in zip(curves[1:], styles[1:], strict=True):
        # where two are equal, a logarithm has no place
        difference.semilogy(np.maximum(np.abs(values - curves[0]), 1e-8), **style)
    loss.set_title("bits per character of each batch", loc="left")
    loss.legend(frameon=False)
    loss.sharex(difference)
    loss.tick_params(labelbottom=False)
    difference.set_title("the difference to one process (float32)", loc="left")
    difference.set_xlabel("update")

    told = events(list(runs.values())[-1])
    starts = [k for k, event in enumerate(told) if "start" in event]
    begin = told[0]["time"]
    for first, last in zip(starts, [*starts[1:], len(told)], strict=True):
        part = [event for event in told[first:last] if "step" in event]
        seconds = [event["time"] - begin for event in part]
        progress.plot(seconds, [event["step"] for event in part], color=figures.OURS, lw=1.8)
    lost = told[starts[1] - 1]
    again = lost["step"] + 1 - told[starts[1]]["start"]
    killed = lost["time"] - begin, lost["step"]
    progress.plot(*killed, marker="X", color="black", ms=8, ls="")
    progress.axhline(told[starts[1]]["start"], color="0.6", lw=0.8, ls=":")
    where = {"xytext": (0, 14), "textcoords": "offset points", "ha": "center"}
    progress.annotate(f"a worker is killed;\n{again} updates are done again", killed, **where)
    progress.set_ylim(0, 1.18 * max(event.get("step", 0) for event in told))
    progress.set_title("the update in work, over seconds", loc="left")
    blank.axis("off")
    progress.set_xlabel("seconds since the first update; dotted: the last checkpoint")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    print(f"Plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE.parent / "output" / "distributed.png")
    parser.add_argument("options", nargs="*", help="of train.py, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = {
            "one process": Path(name) / "one",
            "two processes": Path(name) / "two",
            "two, one of which is killed": Path(name) / "killed",
        }
        for out, launcher in zip(runs.values(), ((), TORCHRUN, TORCHRUN), strict=True):
            run(out, launcher, args.options, kill=out.name == "killed")
        one, two, killed = (curve(out) for out in runs.values())
        print(f"Largest difference of two processes to one: {np.abs(two - one).max():.1e}")
        print(f"of two with one killed to two: {np.abs(killed - two).max():.1e}")
        draw(args.out, runs)


if __name__ == "__main__":
    main()
