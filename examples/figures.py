"""Drawing what the units of a cell do over time, from the tape of its NumPy module."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import lstmgen


class Panel(NamedTuple):
    title: str
    values: np.ndarray  # (time, units)
    low: float
    high: float
    colours: str


def pyplot() -> Any:
    """matplotlib.pyplot, set to draw to files without a display; None if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("No plot: it needs matplotlib, pip install 'lstmgen[examples]'")
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    return plt


def panels(cell: lstmgen.Cell, tape: dict[str, np.ndarray], when: slice) -> list[Panel]:
    """The gates and the states of the first sequence in the batch, during ``when``."""
    found = []
    for vector in cell.vectors:
        values = tape.get(vector.name)
        # what the tape keeps of it, and is never outside 0…1, opens and shuts: a gate
        if values is not None and values.min() >= 0 and values.max() <= 1:
            title = f"{cell.roles.get(vector.name, 'gate')} {vector.name}: 0 shut, 1 open"
            found.append(Panel(title, values[when, 0], 0.0, 1.0, "viridis"))
    for state in cell.states:
        values = tape[state.name][1:][when, 0]  # the tape has the initial state first
        bound = float(np.abs(values).max())
        title = f"{cell.roles.get(state.name, 'state')} {state.name}"
        found.append(Panel(title, values, -bound, bound, "RdBu_r"))
    return found


def draw(
    figure: Any, axis: Any, panel: Panel, order: np.ndarray, extent: tuple[float, float]
) -> None:
    """One panel: a row for each unit, in the given order, and time to the right."""
    image = axis.imshow(
        panel.values[:, order].T,
        aspect="auto",
        interpolation="nearest",
        cmap=panel.colours,
        vmin=panel.low,
        vmax=panel.high,
        extent=(*extent, 0, len(order)),
    )
    axis.set_title(panel.title, loc="left")
    axis.set_ylabel(f"{len(order)} units")
    axis.set_yticks([])
    figure.colorbar(image, ax=axis, pad=0.01, aspect=8)


def by_correlation(panel: Panel, signal: np.ndarray) -> np.ndarray:
    """The units in the order in which they go with ``signal``: those that rise with it on top."""
    values = panel.values - panel.values.mean(axis=0)
    spread = np.linalg.norm(values, axis=0)
    together = (signal - signal.mean()) @ values / np.where(spread > 0, spread, 1.0)
    return np.argsort(-together)
