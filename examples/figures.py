"""Drawing what the units of a cell do over time, from the tape of its NumPy module."""

from __future__ import annotations

import re
import textwrap
from typing import Any, NamedTuple

import numpy as np

import lstmgen
from lstmgen.printing.orders import fold_helpers
from lstmgen.printing.text import text

# Okabe & Ito's colours, which those who cannot tell red from green can tell apart.
OURS, THEIRS = "#D55E00", "#0072B2"


class Panel(NamedTuple):
    title: str
    values: np.ndarray  # (time, units)
    gate: bool  # in 0…1, or else around 0
    equation: str
    gradient: str  # what was derived from it: of the pre-activation of a gate, of a state itself


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
    adjoints = {e.lhs.name: text(e, cell) for e in lstmgen.derive(cell).equations}
    found = []
    states = [state.name for state in cell.states]
    folded, _ = fold_helpers(cell.equations)  # LN(v) for what layer_norm stands for
    equations = {equation.lhs.name: text(equation, cell) for equation in folded}
    for name, equation in equations.items():
        if name in states:
            title = f"{cell.roles.get(name, 'state')} {name}"
            # the tape has the initial state first
            values = tape[name][1:][when, 0]
            found.append(Panel(title, values, False, equation, adjoints.get(name, "")))
        elif name in tape and tape[name].min() >= 0 and tape[name].max() <= 1:
            title = f"{cell.roles.get(name, 'gate')} {name}"
            gradient = adjoints.get(f"a_{name}", adjoints.get(name, ""))
            found.append(Panel(title, tape[name][when, 0], True, equation, gradient))
    return found


def draw(
    figure: Any, axis: Any, panel: Panel, order: np.ndarray, extent: tuple[float, float]
) -> None:
    """One panel: a row for each unit of ``order``, and time to the right."""
    values = panel.values[:, order]
    bound = float(np.percentile(np.abs(values), 97)) or 1.0  # a few extremes would pale the rest
    image = axis.imshow(
        values.T,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis" if panel.gate else "RdBu_r",
        vmin=0 if panel.gate else -bound,
        vmax=1 if panel.gate else bound,
        extent=(*extent, 0, len(order)),
    )
    axis.set_ylabel(f"{len(order)} units")
    axis.set_yticks([])
    extend = "neither" if panel.gate else "both"
    bar = figure.colorbar(image, ax=axis, pad=0.01, aspect=8, extend=extend)
    if panel.gate:
        bar.set_ticks([0, 0.5, 1], labels=["0 shut", "½", "1 open"])


def explain(axis: Any, panel: Panel, width: int = 50) -> None:
    """What a panel shows, in words and as equations, on an axis beside it."""
    axis.axis("off")
    # broken before an operator, and nowhere else
    firm = "\N{NO-BREAK SPACE}"
    lines = [
        textwrap.fill(
            re.sub(" (?![-+∘])", firm, equation),
            width,
            max_lines=2,
            subsequent_indent=6 * firm,
            placeholder=" …",
            break_on_hyphens=False,
        )
        for equation in (panel.equation, panel.gradient)
    ]
    axis.text(0, 1, panel.title, weight="bold", va="top", transform=axis.transAxes)
    style = {"fontsize": "small", "linespacing": 1.3, "transform": axis.transAxes}
    axis.text(0, 0.72, "\n".join(lines), va="top", **style)


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
