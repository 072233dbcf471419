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
EVERY = "100"  # updates from one checkpoint to the next
DATE = 450  # the update, about, in which the worker is killed
STYLES = (
    {"color": "0.75", "lw": 4},
    {"color": figures.THEIRS, "lw": 1.6},
    {"color": figures.OURS, "lw": 0.7},
)


def run(out: Path, launcher: tuple[str, ...], options: list[str], kill: bool = False) -> None:
    """Train, and kill the second worker in the middle of it."""
    modules = ("-m", *launcher) if launcher else ()
    command = [sys.executable, *modules, str(HERE / "train.py"), "--out", str(out)]
    command += ["--every", EVERY, *options]
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
    from PIL import Image  # matplotlib needs it, too

    curves = [curve(out) for out in runs.values()]
    told = events(list(runs.values())[-1])
    starts = [k for k, event in enumerate(told) if "start" in event]
    lost, again = told[starts[1] - 1], told[starts[1]]["start"]  # the last update, and the next

    figure, axes = plt.subplot_mosaic(
        [["loss", "progress"], ["difference", "progress"]], figsize=(10, 4.8),
        height_ratios=[3, 1], width_ratios=[1.6, 1], layout="constrained",
    )  # fmt: skip
    loss, difference, progress = axes["loss"], axes["difference"], axes["progress"]
    near = loss.inset_axes([0.42, 0.4, 0.56, 0.58])
    for axis, scale in ((loss, 1.0), (near, 1.4)):
        for (name, _), values, style in zip(runs.items(), curves, STYLES, strict=True):
            axis.plot(values, label=name, **{**style, "lw": scale * style["lw"]})
    shown = slice(max(0, again - 10), lost["step"] + 12)
    part = np.concatenate([values[shown] for values in curves])
    near.set_xlim(shown.start, shown.stop - 1)
    near.set_ylim(part.min() - 0.05, part.max() + 0.05)
    near.axvspan(again, lost["step"], color="0.94", lw=0)
    near.set_title("grey: done again", fontsize="small", loc="right", pad=3)
    near.tick_params(labelsize="small")
    near.spines[["top", "right"]].set_visible(True)
    loss.indicate_inset_zoom(near, edgecolor="0.4")
    loss.set_title("bits per character in each batch", loc="left")
    loss.sharex(difference)
    loss.tick_params(labelbottom=False)
    loss.set_ylim(curves[0].min() - 0.2, curves[0].max() + 0.2)

    for values, style in zip(curves[1:], STYLES[1:], strict=True):
        # where two are equal, a logarithm has no place
        difference.semilogy(np.maximum(np.abs(values - curves[0]), 1e-8), **style)
    difference.set_title(
        "difference to one process: rounding in float32, which training enlarges", loc="left"
    )
    difference.set_xlabel("update")

    for first, last in zip(starts, [*starts[1:], len(told)], strict=True):
        steps = [event for event in told[first:last] if "step" in event]
        seconds = [event["time"] - told[0]["time"] for event in steps]
        progress.plot(seconds, [event["step"] for event in steps], **{**STYLES[2], "lw": 2})
    killed = lost["time"] - told[0]["time"], lost["step"]
    progress.plot(*killed, marker="X", color="black", ms=8, ls="")
    progress.axhline(again, color="0.6", lw=0.8, ls=":")
    words = f"a worker is killed:\n{lost['step'] + 1 - again} updates are done again"
    where = {"xytext": (0, 14), "textcoords": "offset points", "ha": "center"}
    progress.annotate(words, killed, **where)
    progress.text(0, again, "last checkpoint", va="bottom", color="0.4", fontsize="small")
    progress.set_ylim(0, 1.05 * max(event.get("step", 0) for event in told))
    progress.set_title("update in work, over seconds", loc="left")
    figure.legend(
        *loss.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    with Image.open(path) as image:  # few colours make a small file
        few = image.convert("RGB").quantize(64)
    few.save(path, optimize=True)
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
