"""What examples share: their options, and a network around any cell."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import lstmgen

LAYER = "layer"  # what parameters of the recurrent layer are called after: layer.W_i


def add_common_options(parser: argparse.ArgumentParser, *, hidden: int, epochs: int) -> None:
    parser.add_argument(
        "--cell",
        default="lstm",
        help="a name that `lstmgen cells` lists, or your own, my_cell.py (default: lstm)",
    )
    parser.add_argument(
        "--target",
        choices=("numpy", "c"),
        help="the language of the generated code (default: c where there is a compiler)",
    )
    parser.add_argument(
        "--hidden", type=positive, default=hidden, help="units of the cell (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=positive,
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


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("has to be 1 or more")
    return value


def find_cell(name: str) -> lstmgen.Cell:
    """A reference cell, or the cell of a file."""
    try:
        is_file = name.endswith((".py", ".cell"))
        return lstmgen.load_cell(name) if is_file else lstmgen.cells.get(name)
    except lstmgen.LstmgenError as error:
        raise SystemExit(f"error: {error}") from None


def other_sizes(cell: lstmgen.Cell, hidden: int) -> dict[str, int]:
    """The sizes that only some cells have (lstmp: P): half of ``hidden``."""
    told = {"H", *(str(n) for v in cell.inputs for n in cell.shape(v))}
    return {str(n): max(1, hidden // 2) for n in cell.sizes if str(n) not in told}


def layer(cell: lstmgen.Cell, hidden: int) -> lstmgen.Layer:
    """A layer of ``hidden`` units."""
    try:
        return lstmgen.Layer(cell, hidden, name=LAYER, **other_sizes(cell, hidden))
    except lstmgen.LstmgenError as error:
        raise SystemExit(f"error: {error}") from None


def of_layer(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the recurrent layer, as the module of its cell has them."""
    start = f"{LAYER}."
    return {n.removeprefix(start): value for n, value in params.items() if n.startswith(start)}


def prepare(network: lstmgen.Network, target: str | None, folder: Path) -> str:
    """Generate the code of ``network``, write it to ``folder`` for you to read, and load it.

    Without a target it is C, or NumPy where C cannot be compiled. Returns the target.
    """
    start = time.perf_counter()
    for choice in ("c", "numpy") if target is None else (target,):
        network.target = choice
        try:
            network.module()
        except lstmgen.LstmgenError as error:
            if choice == target or choice == "numpy":
                raise SystemExit(f"error: {error}") from None
            print(f"  NumPy instead of C: {str(error).splitlines()[0]}")
            continue
        seconds = time.perf_counter() - start
        write(network.generate(choice, dtype="float32"), folder)
        print(f"  derived, generated and loaded in {seconds:.1f} s")
        return choice
    raise AssertionError("NumPy code can always be loaded")


def cell_module(cell: lstmgen.Cell) -> Any:
    """The NumPy module of a cell: its tape has each gate and state by name."""
    return lstmgen.compile(cell, "numpy")


def write(files: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"  wrote {shown(folder / name)}, {len(text.splitlines())} lines")


def shown(path: Path) -> str:
    """A path as a reader would type it."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here


def count(params: dict[str, Any]) -> int:
    """How many numbers are learned."""
    return sum(value.size for value in params.values())
