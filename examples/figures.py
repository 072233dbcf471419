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
    """The gates and states of the first sequence in the batch during ``when``, as in the paper."""
    found = []
    states = [state.name for state in cell.states]
    for name in dict.fromkeys(equation.lhs.name for equation in cell.equations):
        if name not in tape:
            continue
        if name in states:
            values = tape[name][1:][when, 0]  # the tape has the initial state first
            bound = float(np.abs(values).max())
            role = cell.roles.get(name, "state")
            found.append(Panel(f"{role} {name}", values, -bound, bound, "RdBu_r"))
        elif tape[name].min() >= 0 and tape[name].max() <= 1:  # it opens and shuts: a gate
            role = cell.roles.get(name, "gate")
            title = f"{role} {name}: 0 shut, 1 open"
            found.append(Panel(title, tape[name][when, 0], 0.0, 1.0, "viridis"))
    return found


def draw(
    figure: Any, axis: Any, panel: Panel, order: np.ndarray, extent: tuple[float, float]
) -> None:
    """One panel: a row for each unit of ``order``, and time to the right."""
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


def by_covariance(shown: list[Panel], panel: Panel, signal: np.ndarray) -> np.ndarray:
    """An order of the units of ``panel``: on top, those that rise most with ``signal``.

    The last panel of that many units decides, so that a row is the same unit in all of them.
    """
    like = [other for other in shown if other.values.shape == panel.values.shape]
    return np.argsort(-(signal - signal.mean()) @ like[-1].values)


def most_active(shown: list[Panel], panel: Panel, count: int) -> np.ndarray:
    """The units of ``panel`` that vary most over time in the last panel of that many units."""
    like = [other for other in shown if other.values.shape == panel.values.shape]
    return np.argsort(-like[-1].values.std(axis=0))[:count]
