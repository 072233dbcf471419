"""What the two examples share: an optimiser, clipping, progress, and a generated module to train.

Parameters and gradients are dicts from a name to an array, as generated modules take and return
them. Everything here is short enough to copy.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import lstmgen

Arrays = dict[str, Any]  # name -> np.ndarray


class Adam:
    """Adam (Kingma & Ba 2015). It changes the parameters in place, so that they stay where they
    are in memory: a compiled module keeps its pointers to them.
    """

    def __init__(self, params: Arrays, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.params, self.betas, self.steps = params, betas, 0
        self.mean: Arrays = {}  # running mean of each gradient
        self.square: Arrays = {}  # and of its square

    def step(self, grads: Arrays, rate: float) -> None:
        self.steps += 1
        b1, b2 = self.betas
        # both running means start at zero: without this the first steps would be too short
        rate *= math.sqrt(1 - b2**self.steps) / (1 - b1**self.steps)
        for name, g in grads.items():
            m = self.mean.setdefault(name, np.zeros_like(g))
            v = self.square.setdefault(name, np.zeros_like(g))
            m += (1 - b1) * (g - m)
            v += (1 - b2) * (g * g - v)
            self.params[name] -= rate * m / (np.sqrt(v) + 1e-8)


def clip_by_global_norm(grads: Arrays, limit: float) -> float:
    """Scale all gradients by one factor, so that their joint norm is at most ``limit``.

    One factor for all keeps the direction; it is what saves BPTT from a step off a cliff
    (Pascanu, Mikolov & Bengio 2013). Returns the norm before clipping.
    """
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
    if not math.isfinite(norm):
        raise FloatingPointError("a gradient is not finite: lower the learning rate")
    if norm > limit:
        for g in grads.values():
            g *= limit / norm
    return norm


def cosine(done: float, peak: float) -> float:
    """A learning rate that falls from ``peak`` to 0 along half a cosine; ``done`` is in 0…1."""
    return peak * 0.5 * (1 + math.cos(math.pi * done))


class Progress:
    """The loss as it falls: ten lines that stay and, on a terminal, a bar that moves under them."""

    def __init__(self, total: int, unit: str = "epoch") -> None:
        self.total, self.unit = total, unit
        self.start = time.perf_counter()
        # a bar moves the cursor, which dumb terminals and people with NO_COLOR do not want
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self.terminal = sys.stdout.isatty() and not plain

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def due(self, done: int) -> bool:
        """Whether a line that stays is due."""
        return done == 1 or done * 10 // self.total > (done - 1) * 10 // self.total

    def report(self, done: int, text: str) -> None:
        clear = "\r\x1b[2K" if self.terminal else ""
        if self.due(done):
            place = f"{self.unit} {done:{len(str(self.total))}d} of {self.total}"
            print(f"{clear}  {place}  {text}", flush=True)
        if self.terminal and done < self.total:
            part = done / self.total
            bar = ("█" * round(24 * part)).ljust(24, "░")
            left = self.seconds() * (1 / part - 1)
            print(f"{clear}  {bar}  {text}  {left:.0f} s left", end="", flush=True)


# ---------------------------------------------------------------------- the generated module


def add_common_options(parser: argparse.ArgumentParser, *, hidden: int, epochs: int) -> None:
    names = ", ".join(lstmgen.cells.names())
    parser.add_argument(
        "--cell", default="lstm", help=f"{names}; or your own, my_cell.py (default: lstm)"
    )
    parser.add_argument(
        "--target",
        choices=("numpy", "c"),
        help="the language of the generated module (default: c where there is a compiler)",
    )
    parser.add_argument(
        "--hidden", type=_positive, default=hidden, help="units of the cell (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=_positive,
        default=epochs,
        help="passes over the training part (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of everything random; the same seed gives the same run (default: 0)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "output",
        help="where generated files and plots go (default: examples/output)",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw nothing")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("has to be 1 or more")
    return value


def find_cell(name: str) -> lstmgen.Cell:
    """A reference cell, or the cell of a file; it has one input and no masks."""
    try:
        cell = lstmgen.load_cell(name) if name.endswith(".py") else lstmgen.cells.get(name)
    except lstmgen.LstmgenError as error:
        raise SystemExit(f"error: {error}") from None
    if len(cell.inputs) != 1 or cell.masks:
        raise SystemExit(f"error: {cell.name} needs more than one input x; this example gives one")
    return cell


def make_module(cell: lstmgen.Cell, target: str | None, folder: Path) -> tuple[Any, str]:
    """Generate ``cell``, write the files to ``folder`` for you to read, and load them.

    Without a target it is C, or NumPy where C cannot be compiled. Returns the module and its
    target; both kinds of module are used alike.
    """
    title = f", {cell.title}" if cell.title else ""
    print(f"{cell.name}{title}: {len(cell.equations)} equations")
    if target != "numpy":
        try:
            return make_c(cell, folder), "c"
        except lstmgen.ToolchainError as error:
            if target == "c":
                raise SystemExit(f"error: {error}") from None
            print(f"  NumPy instead of C: {str(error).splitlines()[0]}")
    return make_numpy(cell, folder), "numpy"


def make_c(cell: lstmgen.Cell, folder: Path) -> Any:
    start = time.perf_counter()
    module = lstmgen.compile(cell, "c", dtype="float32")
    seconds = time.perf_counter() - start
    write(lstmgen.generate(cell, "c", dtype="float32"), folder)  # the same text, to be read
    print(f"  derived, compiled and loaded in {seconds:.1f} s")
    return module


def make_numpy(cell: lstmgen.Cell, folder: Path) -> Any:
    (path,) = write(lstmgen.generate(cell, "numpy"), folder)
    # From here on lstmgen has no part in it: the file is imported as it is, and needs NumPy only.
    spec = importlib.util.spec_from_file_location(cell.name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(files: dict[str, str], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"  wrote {shown(folder / name)}, {len(text.splitlines())} lines")
    return [folder / name for name in files]


def shown(path: Path) -> str:
    """A path as a reader would type it."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here


def init_params(module: Any, inputs: int, hidden: int, seed: int) -> Arrays:
    """Fresh float32 parameters; sizes that only some cells have (lstmp: P) are half of hidden."""
    sizes = {n for shape in module.PARAMETERS.values() for n in shape if not n.isdigit()}
    others = sizes - {"H", *(n for axes in module.INPUTS.values() for n in axes)}
    params: Arrays = module.init(
        inputs, hidden, seed=seed, dtype=np.float32, **dict.fromkeys(others, max(1, hidden // 2))
    )
    return params


def output_size(module: Any, params: Arrays, inputs: int) -> int:
    """How many units y has."""
    y, _, _ = module.forward(params, np.zeros((1, 1, inputs), np.float32))
    return int(y.shape[-1])
