"""Forecast the yearly sunspot number with a recurrent network of generated code.

The series is the yearly mean sunspot number, 1700 to 2008, that statsmodels ships. The network
reads it year by year and says, after each year, what the number will be --horizon years later
(1 by default). It is trained on the years before 1930 and judged on the 79 years, seven solar
cycles, from 1930 on; nothing of those years, not even their mean, is used in training. They were
seen, though, when settings were chosen: examples/README.md says which.

The network is a layer of any cell and a linear readout. Its forward and backward pass, the loss and
the optimiser are code that lstmgen generates. The exit status is 0 if the forecast beats every
naive baseline, 1 if it does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

# One thread, unless you say otherwise: the products of one step are too small to share, and where
# another program keeps a core busy, NumPy's threads wait for each other at every step.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import figures
import numpy as np
from common import (
    add_common_options,
    cell_module,
    count,
    find_cell,
    layer,
    of_layer,
    prepare,
    shown,
)

import lstmgen
from lstmgen import Network, Readout, schedules

SPLIT = 1930  # the first year held out
CYCLE = 11  # years: the solar cycle, the period of the seasonal baseline
WINDOW = 11  # years between truncations of the gradient; the state is carried on
STREAMS = 33  # sequences trained at once, three that begin in each of the first 11 years
INPUTS = 2  # the number of the year, and a constant
RATE, CLIP = 5e-3, 1.0


class Series(NamedTuple):
    years: np.ndarray
    numbers: np.ndarray
    mean: float  # of the square roots, over the training years
    deviation: float

    @property
    def split(self) -> int:
        """The index of the first held-out year."""
        return int(np.searchsorted(self.years, SPLIT))

    def held_out(self) -> np.ndarray:
        return self.numbers[self.split :]

    def scaled(self) -> Any:
        """What the network sees. The noise of a count grows with its square root, so that the root
        has the same noise in quiet and in active years.
        """
        return ((np.sqrt(self.numbers) - self.mean) / self.deviation).astype(np.float32)

    def unscaled(self, z: np.ndarray) -> np.ndarray:
        return np.maximum(z * self.deviation + self.mean, 0.0) ** 2


def load_sunspots() -> Series:
    try:
        from statsmodels.datasets import sunspots
    except ImportError:
        raise SystemExit(
            "error: the data come with statsmodels: pip install 'lstmgen[examples]'"
        ) from None
    data = sunspots.load_pandas().data
    years, numbers = data["YEAR"].to_numpy(int), data["SUNACTIVITY"].to_numpy(float)
    roots = np.sqrt(numbers[years < SPLIT])
    return Series(years, numbers, roots.mean(), roots.std())


# ---------------------------------------------------------------------- the model


def with_constant(z: np.ndarray) -> np.ndarray:
    """x of shape (T, B, 2): z and a 1. Cells that normalise W x (lstm_layernorm) would lose the
    size of a single number; with a constant beside it they do not.
    """
    return np.stack([z, np.ones_like(z)], axis=-1)


def make_network(cell: lstmgen.Cell, hidden: int, updates: int) -> Network:
    """The readout says how the number will have changed, as the hidden state tells."""
    return Network(
        [layer(cell, hidden), Readout(1, name="readout")],
        name="forecast",
        inputs=INPUTS,
        loss="mean_squared",
        optimizer="adam",
        rate=schedules.cosine(RATE, updates),
        clip_norm=CLIP,
    )


class Lessons(NamedTuple):
    """What is learned from: time first, a column for each sequence."""

    x: np.ndarray
    target: np.ndarray  # the change over the horizon
    weights: np.ndarray

    @property
    def updates(self) -> int:
        """In each epoch."""
        return len(self.x) // WINDOW - 1


def lessons(series: Series, horizon: int) -> Lessons:
    known = series.scaled()[: series.split]
    steps = (len(known) - horizon - WINDOW + 1) // WINDOW * WINDOW
    years = np.arange(STREAMS) % WINDOW + np.arange(steps)[:, np.newaxis]
    change = known[years + horizon] - known[years]
    weights = np.ones(years.shape)
    # The state begins as zeros, which no year ever left behind: the first window only warms up.
    weights[:WINDOW] = 0
    return Lessons(with_constant(known[years]), change[..., np.newaxis], weights)


def varied(series: Series, by: float) -> Any:
    """Each sequence is more or less active than the Sun was by a factor of its own, in each epoch
    another one: cycles to come may be higher than all before.
    """
    level = series.mean / series.deviation  # so that it is the root itself that is scaled

    def augment(rng: Any, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gain = np.exp(rng.uniform(-by, by, x.shape[1])).astype(np.float32)
        z = (x[..., 0] + level) * gain - level
        return with_constant(z), target * gain[:, np.newaxis]

    return augment


def train(network: Network, series: Series, args: argparse.Namespace) -> lstmgen.Training:
    """Truncated BPTT with the state carried from window to window."""
    given = lessons(series, args.horizon)
    params = network.init(seed=args.seed)
    # A readout of zeros forecasts "no change": training starts at the first baseline, and has to
    # leave it.
    params["readout.W"][:] = 0
    print(
        f"Training on {series.years[0]}–{SPLIT - 1}: {args.hidden} units, {count(params)} "
        f"parameters, {args.epochs} epochs of {given.updates} updates"
    )
    start = time.perf_counter()
    run = network.fit(
        given.x,
        given.target,
        weights=given.weights,
        window=WINDOW,
        epochs=args.epochs,
        batch=STREAMS,
        params=params,
        seed=args.seed,
        augment=varied(series, args.vary),
    )
    seconds = time.perf_counter() - start
    print(f"{textwrap.indent(str(run), '  ')}\n  trained in {seconds:.1f} s")
    return run


def forecast(y: np.ndarray, z: np.ndarray, series: Series, horizon: int) -> np.ndarray:
    """Forecasts of the held-out years, from the changes that were said after each year."""
    # what is said in year t is about year t + horizon
    return series.unscaled(z + y[:, 0, 0])[series.split - horizon :]


def read(series: Series, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """All years that have a target, as they are and as the network reads them."""
    z = series.scaled()[:-horizon]
    return z, with_constant(z[:, np.newaxis])


# ---------------------------------------------------------------------- what it is compared with


def baselines(series: Series, horizon: int) -> dict[str, np.ndarray]:
    held_out = np.arange(series.split, len(series.years))
    last = "last year's number" if horizon == 1 else f"the number {horizon} years before"
    return {
        f"{last} (persistence)": series.numbers[held_out - horizon],
        f"the number {CYCLE} years before (seasonal naive)": series.numbers[held_out - CYCLE],
    }


def autoregression(series: Series, horizon: int, order: int = 9) -> np.ndarray:
    """The classical forecast: least squares on the last ``order`` years (Yule 1927 had two)."""
    z = series.scaled().astype(float)
    targets = np.arange(order + horizon - 1, len(z))
    rows = np.stack(
        [z[targets - horizon - k] for k in range(order)] + [np.ones(len(targets))], axis=1
    )
    known = targets < series.split
    fit, *_ = np.linalg.lstsq(rows[known], z[targets[known]], rcond=None)
    return series.unscaled(rows[~known] @ fit)


def rmse(made: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((made - truth) ** 2)))


def ahead(horizon: int) -> str:
    return "one year" if horizon == 1 else f"{horizon} years"


def judge(name: str, made: np.ndarray, series: Series, horizon: int) -> bool:
    """Print the table of errors; True if the model beats every naive baseline."""
    truth = series.held_out()
    naive = {label: rmse(guess, truth) for label, guess in baselines(series, horizon).items()}
    strongest = min(naive.values())
    model = rmse(made, truth)
    rows = {
        name: model,
        **naive,
        "linear autoregression on 9 years (not naive)": rmse(
            autoregression(series, horizon), truth
        ),
    }
    print(
        f"\nHeld-out years {SPLIT}–{series.years[-1]}, forecast {ahead(horizon)} ahead: "
        "root mean square error, in sunspots"
    )
    for label, error in rows.items():
        print(f"  {label:52s} {error:5.1f}  {error / strongest - 1:+5.0%}")
    verdict = f"{1 - model / strongest:.0%} less than" if model < strongest else "NOT less than"
    print(f"The error is {verdict} that of the strongest naive baseline.")
    return model < strongest


def plot(
    path: Path,
    cell: lstmgen.Cell,
    series: Series,
    made: np.ndarray,
    tape: dict[str, Any],
    losses: list[float],
    horizon: int,
) -> None:
    plt = figures.pyplot()
    if plt is None:
        return
    years, truth = series.years[series.split :], series.held_out()
    panels = figures.panels(cell, tape, slice(series.split, None))
    figure = plt.figure(figsize=(11, 3.2 + 0.9 * len(panels)), layout="constrained")
    grid = figure.add_gridspec(
        1 + len(panels), 2, width_ratios=(2.5, 1), height_ratios=[2.8, *[1.0] * len(panels)]
    )
    top, corner = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    middle = [figure.add_subplot(grid[1 + k, 0]) for k in range(len(panels))]
    notes = [figure.add_subplot(grid[1 + k, 1]) for k in range(len(panels))]

    draw_forecast(top, cell.name, series, made, horizon)
    draw_loss(corner, cell.name, series, losses, horizon)

    # below: what the units did in those years, with those on top that rise with the year's number
    edges = years[0] - 0.5, years[-1] + 0.5
    known = truth[: len(panels[0].values)]
    for axis, note, panel in zip(middle, notes, panels, strict=True):
        order = figures.by_covariance(panels, panel, known)
        figures.draw(figure, axis, panel, order, (edges[0], edges[0] + len(known)))
        figures.explain(note, panel)
    lowest = [k for k in range(3, len(truth) - 3) if truth[k] == truth[k - 3 : k + 4].min()]
    for axis in (top, *middle):
        axis.set_xlim(*edges)
        axis.tick_params(labelbottom=axis is middle[-1])
        for year in years[lowest]:
            axis.axvline(year, ymax=0.8 if axis is top else 1.0, color="0.5", lw=0.8, ls=":")
    middle[-1].set_xlabel("year (dotted: solar minima); a row is the same unit in every panel")
    notes[-1].set_title(
        "δv = ∂L/∂v, derived; a_…: pre-activations",
        loc="left",
        y=-0.45,
        fontsize="small",
        color="0.35",
    )

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"Plot: {shown(path)}")


def draw_forecast(axis: Any, name: str, series: Series, made: np.ndarray, horizon: int) -> None:
    years, truth = series.years[series.split :], series.held_out()
    (label, naive), *_ = baselines(series, horizon).items()
    axis.fill_between(years, truth, color="0.88", label="observed")
    axis.plot(years, truth, color="0.4", lw=1)
    text = f"{label}: RMS error {rmse(naive, truth):.1f}"
    axis.plot(years, naive, color=figures.THEIRS, lw=1, ls="--", label=text)
    text = f"{name}: {rmse(made, truth):.1f}"
    axis.plot(years, made, color=figures.OURS, lw=1.8, label=text)
    axis.set_title(
        f"Sunspot number, forecast {ahead(horizon)} ahead; trained on the years before {SPLIT}",
        loc="left",
    )
    axis.set_ylabel("sunspot number, yearly mean")
    axis.set_ylim(0, 1.25 * max(truth.max(), made.max()))
    legend = axis.legend(ncols=3, frameon=False, loc="upper left", fontsize="small")
    legend.set_in_layout(False)  # so that a long name does not make the panels narrower


def draw_loss(axis: Any, name: str, series: Series, losses: list[float], horizon: int) -> None:
    z = series.scaled()[: series.split]
    still = float(np.mean((z[horizon:] - z[:-horizon]) ** 2))
    axis.axhline(still, color=figures.THEIRS, lw=1, ls="--", label="persistence, same years")
    axis.plot(range(1, len(losses) + 1), losses, color=figures.OURS, lw=1.8, label=name)
    axis.set_title("Training loss, standardised", loc="left")
    axis.set_ylabel("mean squared error")
    axis.set_xlabel("epoch")
    axis.set_xlim(0, len(losses) + 1)
    axis.set_ylim(0, 1.35 * max(still, *losses))
    axis.legend(frameon=False, loc="upper right", fontsize="small")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser, hidden=16, epochs=60)
    parser.add_argument(
        "--horizon",
        type=int,
        choices=range(1, CYCLE + 1),
        default=1,
        metavar="YEARS",
        help=f"how far ahead to forecast, 1 to {CYCLE} years (default: 1)",
    )
    parser.add_argument(
        "--vary",
        type=float,
        default=0.25,
        metavar="V",
        help="in training, make the Sun more or less active by a random factor, whose square root "
        "is within exp(-V) to exp(V); 0: leave it as it was (default: 0.25)",
    )
    args = parser.parse_args()

    series = load_sunspots()
    cell = find_cell(args.cell)
    updates = args.epochs * lessons(series, args.horizon).updates
    network = make_network(cell, args.hidden, updates)
    print(f"{cell.name}{f', {cell.title}' if cell.title else ''}: {len(cell.equations)} equations")
    prepare(network, args.target, args.out)
    run = train(network, series, args)

    z, x = read(series, args.horizon)
    made = forecast(network.predict(run.params, x), z, series, args.horizon)
    beaten = judge(f"{cell.name}, {args.hidden} units", made, series, args.horizon)
    if not args.no_plot:
        # the tape of the cell's own module has each gate and state by name
        _, _, tape = cell_module(cell).forward(of_layer(run.params), x)
        path = args.out / f"forecast_{cell.name}.png"
        plot(path, cell, series, made, tape, run.history.loss, args.horizon)
    return 0 if beaten else 1


if __name__ == "__main__":
    sys.exit(main())
