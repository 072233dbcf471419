"""Statistics as scalars and histograms, on a writer of event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.gates import Array, Statistics
from ..errors import LstmgenError

STEPS_BACK = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

_METHODS = ("add_scalar", "add_histogram_raw")


def open_writer(folder: str | Path) -> Any:
    """A new ``torch.utils.tensorboard.SummaryWriter`` for a folder.

    Raises
    ------
    LstmgenError
        If TensorBoard or PyTorch is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise LstmgenError(
            "writing for TensorBoard needs tensorboard and PyTorch, which are not installed: "
            f"{error}\n  hint: pip install 'lstmgen[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder))


def require_writer(writer: Any) -> None:
    """Refuse what has not the methods of a ``SummaryWriter``.

    Raises
    ------
    TypeError
        That says what would do.
    """
    missing = [name for name in _METHODS if not callable(getattr(writer, name, None))]
    if missing:
        raise TypeError(
            f"a {type(writer).__name__} has no {missing[0]}: the writer is a "
            "torch.utils.tensorboard.SummaryWriter, or a SummaryWriter of tensorboardX\n"
            '  hint: lstmgen.monitor.open_writer("runs/first")'
        )


def write(writer: Any, statistics: Statistics, step: int, name: str) -> None:
    """Write the statistics of one cell.

    Parameters
    ----------
    writer : SummaryWriter
        Of ``torch.utils.tensorboard``, or what has its ``add_scalar`` and ``add_histogram_raw``.
    statistics : Statistics
    step : int
        The number of the update.
    name : str
        What the cell is called in the tags, ``saturated_low/NAME.f``.
    """
    require_writer(writer)
    write_gates(writer, statistics, step, name)
    write_adjoints(writer, statistics, step, name)
    for parameter, value in statistics.gradients.items():
        write_gradient(writer, f"{name}.{parameter}", value, step)


def write_gates(writer: Any, statistics: Statistics, step: int, name: str) -> None:
    """The part of ``write`` that is known after the forward pass."""
    for gate, found in statistics.gates.items():
        tag = f"{name}.{gate}"
        low, high = found.low, found.high
        writer.add_scalar(f"saturated_low/{tag}", float(low.mean()), step)
        writer.add_scalar(f"saturated_high/{tag}", float(high.mean()), step)
        counts, edges = found.histogram()
        _write_bars(writer, f"gates/{tag}", counts, edges, step, found.rows)
        units = np.arange(len(low) + 1.0)
        _write_bars(writer, f"saturated_low_by_unit/{tag}", low, units, step)
        _write_bars(writer, f"saturated_high_by_unit/{tag}", high, units, step)


def write_adjoints(writer: Any, statistics: Statistics, step: int, name: str) -> None:
    """How much of the gradient arrives at the states: at some steps back as scalars, at all of
    them as a histogram, whose parts are steps and not values.
    """
    for state, norms in statistics.adjoints.items():
        tag = f"{name}.{state}"
        for k in STEPS_BACK:
            if k < len(norms):
                writer.add_scalar(f"adjoint/{tag}/{k}_back", float(norms[k]), step)
        edges = np.arange(len(norms) + 1.0)
        _write_bars(writer, f"adjoint_by_steps_back/{tag}", norms, edges, step)


def write_gradient(writer: Any, parameter: str, value: float, step: int) -> None:
    """The norm of the gradient of one parameter."""
    writer.add_scalar(f"gradient/{parameter}", value, step)


def _write_bars(
    writer: Any, tag: str, heights: Array, edges: Array, step: int, values: Array | None = None
) -> None:
    """Bars between edges. None at all if there is NaN, which TensorBoard cannot show."""
    if not np.isfinite(heights).all():
        return
    heights = np.asarray(heights, np.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    total, squares = float(heights @ middle), float(heights @ middle**2)
    if values is not None and np.isfinite(values).all():
        total = float(values.sum(dtype=np.float64))
        squares = float(np.square(values, dtype=np.float64).sum())
    # TensorBoard takes min and max for the outer edges of the outermost bars that are not empty
    there = np.flatnonzero(heights)
    low, high = (edges[there[0]], edges[there[-1] + 1]) if len(there) else (edges[0], edges[-1])
    writer.add_histogram_raw(
        tag, min=float(low), max=float(high), num=float(heights.sum()), sum=total,
        sum_squares=squares, bucket_limits=edges[1:].tolist(), bucket_counts=heights.tolist(),
        global_step=step,
    )  # fmt: skip
