"""Forecast the temperature of the sea with a cell of your own in PyTorch, 1 to 12 months ahead.

The series is the monthly sea surface temperature of the region Niño 1+2, off Peru, 1950 to 2010,
that statsmodels ships. A network reads it month by month and says, after each month, the twelve to
come. It is `lstmgen.torch.Recurrent`, a layer of any cell, below `torch.nn.Linear`, in an ordinary
training loop of PyTorch.

It is trained on the months up to 1985 and judged on those from 1994 on; training stops by the error
in the years between. Means and deviations are those of the training years. It is compared with
forecasts that take no training, with two classical models of statsmodels, fitted on the same years,
and with torch.nn.LSTM of as many units. The exit status is 1 if the network does not beat each
forecast that takes no training; whether a classical model is better is said, and changes nothing.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# The products of one step are too small to share among threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import figures
import numpy as np
from common import find_cell, positive, shown

import lstmgen

try:
    import torch
    from torch import nn

    from lstmgen.torch import Recurrent
except (ImportError, lstmgen.LstmgenError):
    raise SystemExit("error: it needs PyTorch: pip install 'lstmgen[c,examples,torch]'") from None

VALIDATION, TEST = 1986, 1994  # the years in which these parts begin
AHEAD = 12  # months
TOLD = (1, 3, 6, 12)  # months ahead that the table has
WINDOW, WARM = 60, 12  # months of a sequence in training, and those at its start without a loss
INPUTS = 3  # of a step
BATCH, RATE, DECAY, CLIP = 32, 1e-3, 1e-2, 1.0
DROPOUT, NOISE = 0.3, 0.3
PATIENCE = 25  # epochs without a better error in the validation years
ORDER = (3, 0, 2)  # of the ARMA model: the least AIC in the training years, of up to 4 and 2
OWN = Path(__file__).parent / "mgu.py"


class Series(NamedTuple):
    years: np.ndarray  # of each month, 1950.0 is January
    degrees: np.ndarray
    usual: np.ndarray  # for each month, the mean of its calendar month in the training years
    deviation: float  # of what differs from that, in the training years

    def index(self, year: int) -> int:
        return int(np.searchsorted(self.years, year))

    def scaled(self) -> np.ndarray:
        return (self.degrees - self.usual) / self.deviation

    def inputs(self) -> torch.Tensor:
        """x of shape (T, 1, 3): what is unusual about the month, and where in the year it is."""
        angle = 2 * np.pi * self.years
        x = np.stack([self.scaled(), np.sin(angle), np.cos(angle)], axis=-1)
        return torch.tensor(x[:, np.newaxis], dtype=torch.float32)

    def targets(self) -> torch.Tensor:
        """(T, 1, AHEAD): the months after each; NaN where the series has ended."""
        padded = np.append(self.scaled(), np.full(AHEAD, np.nan))
        rows = np.arange(len(self.years))[:, np.newaxis] + np.arange(1, AHEAD + 1)
        return torch.tensor(padded[rows][:, np.newaxis], dtype=torch.float32)


def load() -> Series:
    try:
        from statsmodels.datasets import elnino
    except ImportError:
        raise SystemExit(
            "error: the data come with statsmodels: pip install 'lstmgen[examples]'"
        ) from None
    table = elnino.load_pandas().data.to_numpy(float)
    years = (table[:, :1] + np.arange(12) / 12).ravel()
    degrees = table[:, 1:].ravel()
    known = years < VALIDATION
    usual = np.tile(degrees[known].reshape(-1, 12).mean(axis=0), len(table))
    return Series(years, degrees, usual, float((degrees - usual)[known].std()))


# ---------------------------------------------------------------------- networks


class Forecaster(nn.Module):
    """A linear forecast from the month alone, and what a recurrent module has to add to it.

    It starts as the linear forecast, which ``start`` (AHEAD, INPUTS) is. Noise on what is read and
    dropout keep the few hundred months from being learnt by heart.
    """

    def __init__(self, recurrent: nn.Module, units: int, start: torch.Tensor) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.dropout = nn.Dropout(DROPOUT)
        self.readout = nn.Linear(units, AHEAD)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        self.direct = nn.Linear(INPUTS, AHEAD, bias=False)
        self.direct.weight.data.copy_(start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = x + NOISE * torch.randn_like(x) if self.training else x
        y, _ = self.recurrent(read)
        return self.direct(x) + self.readout(self.dropout(y))


def linear(series: Series) -> torch.Tensor:
    """(AHEAD, INPUTS): the forecast from one month, by least squares in the training years."""
    known = series.index(VALIDATION) - AHEAD
    x, target = series.inputs()[:known, 0], series.targets()[:known, 0]
    return torch.linalg.lstsq(x.double(), target.double()).solution.T.float()


def ours(series: Series, cell: lstmgen.Cell, hidden: int) -> Forecaster:
    recurrent = Recurrent(cell, INPUTS, hidden)
    return Forecaster(recurrent, recurrent.output_size, linear(series))


def theirs(series: Series, hidden: int) -> Forecaster:
    return Forecaster(nn.LSTM(INPUTS, hidden), hidden, linear(series))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lessons(x: torch.Tensor, target: torch.Tensor, end: int) -> Iterator[tuple[Any, Any]]:
    """Batches of sequences that begin in any month; none has a target from ``end`` on."""
    starts = torch.randperm(end - AHEAD - WINDOW + 1)
    for chosen in starts.split(BATCH):
        steps = torch.arange(WINDOW)[:, None] + chosen
        yield x[steps, 0], target[steps, 0]


def missed(series: Series, model: Forecaster) -> float:
    """The mean squared error in the validation years, standardised."""
    start, end = series.index(VALIDATION), series.index(TEST)
    e = errors(series, said(series, model), start, end) / series.deviation
    return float(np.mean(e**2))


class Run(NamedTuple):
    model: Forecaster
    training: list[float]  # the loss of each epoch
    validation: list[float]
    seconds: float


def train(series: Series, make: Callable[[], Forecaster], seed: int, epochs: int) -> Run:
    """The model as it was after the epoch with the least error in the validation years."""
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    x, target = series.inputs(), series.targets()
    start = series.index(VALIDATION)
    training: list[float] = []
    validation: list[float] = []
    best: dict[str, Any] = {}
    begun = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        losses = []
        for some, wanted in lessons(x, target, start):
            loss = nn.functional.mse_loss(model(some)[WARM:], wanted[WARM:])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
        training.append(float(np.mean(losses)))
        validation.append(missed(series, model))
        if validation[-1] == min(validation):
            best = copy.deepcopy(model.state_dict())
        elif epoch - int(np.argmin(validation)) >= PATIENCE:
            break
    seconds = time.perf_counter() - begun
    model.load_state_dict(best)
    return Run(model, training, validation, seconds)


@torch.no_grad()
def said(series: Series, model: Forecaster) -> np.ndarray:
    """(T, AHEAD), degrees: what the model says after each month, having read all before it."""
    model.eval()
    return degrees(series, model(series.inputs())[:, 0].double().numpy())


def degrees(series: Series, scaled: np.ndarray) -> np.ndarray:
    """Forecasts as temperatures, from how far they are from the usual ones."""
    rows = np.arange(len(series.years))[:, np.newaxis] + np.arange(1, AHEAD + 1)
    return scaled * series.deviation + series.usual[rows % 12]


# ---------------------------------------------------------------------- what it is compared with


def untrained(series: Series) -> dict[str, np.ndarray]:
    """Forecasts after each month that take no training, (T, AHEAD) each."""
    months = np.arange(len(series.years))[:, np.newaxis]
    ahead = np.arange(1, AHEAD + 1)
    before = months + ahead - 12  # negative in the first year, which nothing is judged on
    return {
        "last month's temperature": np.repeat(series.degrees[months], AHEAD, axis=1),
        "the same month a year before": series.degrees[before],
        "the usual temperature of the month": series.usual[(months + ahead) % 12],
    }


def classical(series: Series) -> dict[str, np.ndarray]:
    """A line, and models of statsmodels. Parameters are fitted on the training years alone; then
    they read all years, as the network does.
    """
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    end = series.index(VALIDATION)
    scaled = series.scaled()
    smooth = ExponentialSmoothing(series.degrees[:end], trend=True, damped_trend=True, seasonal=12)
    arma = SARIMAX(scaled[:end], order=ORDER)
    line = series.inputs()[:, 0] @ linear(series).T
    return {
        "least squares on the last month": degrees(series, line.double().numpy()),
        "Holt-Winters": continued(smooth, series.degrees),
        f"ARMA{ORDER[::2]} of what is unusual": degrees(series, continued(arma, scaled)),
    }


def continued(model: Any, values: np.ndarray) -> np.ndarray:
    """Fit a state space model, and forecast after each of ``values``, (T, AHEAD).

    That is Z Tʲ a, where a is the state that the Kalman filter predicts for the next month.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of starting values that the optimiser then leaves
        fitted = model.fit(disp=False)
    read = fitted.apply(values)
    space = read.filter_results
    state = space.predicted_state[:, 1:]
    made = []
    for _ in range(AHEAD):
        made.append(space.design[0, :, 0] @ state + space.obs_intercept[0, 0])
        state = space.transition[:, :, 0] @ state + space.state_intercept[:, :1]
    return np.stack(made, axis=-1)


# ---------------------------------------------------------------------- judging


def errors(series: Series, made: np.ndarray, start: int, end: int) -> np.ndarray:
    """(end - start, AHEAD): of the forecasts of these months, whenever they were made."""
    months = np.arange(start, end)[:, np.newaxis]
    ahead = np.arange(1, AHEAD + 1)
    return made[months - ahead, ahead - 1] - series.degrees[months]


def rmse(series: Series, made: np.ndarray) -> np.ndarray:
    """In the test years, for each number of months ahead."""
    e = errors(series, made, series.index(TEST), len(series.years))
    return np.sqrt(np.mean(e**2, axis=0))


class Judged(NamedTuple):
    """A way to forecast: of a network, the mean of what it says when trained with each seed."""

    made: np.ndarray
    errors: np.ndarray  # by months ahead
    alone: np.ndarray  # of each seed, (seeds, months ahead)
    kind: str  # "ours", "theirs", "classical" or "untrained"


def judge(series: Series, runs: dict[str, list[Run]]) -> dict[str, Judged]:
    found = {}
    for kind, (label, some) in zip(("ours", "theirs"), runs.items(), strict=True):
        made = [said(series, run.model) for run in some]
        mean, alone = np.mean(made, axis=0), np.stack([rmse(series, m) for m in made])
        found[label] = Judged(mean, rmse(series, mean), alone, kind)
    for kind, ways in (("classical", classical(series)), ("untrained", untrained(series))):
        for label, m in ways.items():
            found[label] = Judged(m, rmse(series, m), np.empty((0, AHEAD)), kind)
    return found


def table(series: Series, judged: dict[str, Judged]) -> bool:
    """Print the errors; True if the network beats all that takes no training."""
    first, last = (int(series.years[k]) for k in (series.index(TEST), -1))
    print(f"\nTest years {first}–{last}: root mean square error in °C, by months ahead")
    print(f"  {'':42s}" + "".join(f"{h:>7d}" for h in TOLD) + f"   1–{AHEAD}  (a seed alone)")
    for label, way in judged.items():
        alone = way.alone.mean(axis=1)
        spread = f"  ({alone.min():.2f}–{alone.max():.2f})" if len(alone) > 1 else ""
        numbers = "".join(f"{way.errors[h - 1]:7.2f}" for h in TOLD)
        print(f"  {label:42s}{numbers}{way.errors.mean():7.2f}{spread}")
    mine = next(iter(judged.values())).errors
    for label, way in judged.items():
        if way.kind == "ours":
            continue
        better = [h + 1 for h in range(AHEAD) if way.errors[h] < mine[h]]
        if better:
            print(f"Better than the network, {listed(better)} ahead: {label}.")
    naive = [way.errors.mean() for way in judged.values() if way.kind == "untrained"]
    beaten = bool(mine.mean() < min(naive))
    verdict = f"{1 - mine.mean() / min(naive):.0%} less than" if beaten else "NOT less than"
    print(f"The network's error is {verdict} that of the best forecast that takes no training.")
    return beaten


def listed(months: list[int]) -> str:
    """1, 2, 3 and 7: "1–3, 7 months"."""
    runs: list[list[int]] = []
    for m in months:
        if runs and runs[-1][-1] == m - 1:
            runs[-1].append(m)
        else:
            runs.append([m])
    text = ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
    return f"{text} {'month' if text == '1' else 'months'}"


STYLES = {  # of what the lines of a kind look like: colour, width, and one dash for each
    "ours": (figures.OURS, 2.2, ["-"]),
    "theirs": (figures.THEIRS, 1.8, ["-"]),
    "classical": ("#009E73", 1.4, [":", "--", "-"]),
    "untrained": ("0.55", 1.2, [":", "--", "-"]),
}


def plot(path: Path, series: Series, judged: dict[str, Judged], runs: dict[str, list[Run]]) -> None:
    plt = figures.pyplot()
    if plt is None:
        return
    figure = plt.figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.1, 1), width_ratios=(1.7, 1))
    draw_years(figure.add_subplot(grid[0, :]), series, judged)
    draw_errors(figure.add_subplot(grid[1, 0]), judged)
    draw_training(figure.add_subplot(grid[1, 1]), runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=85, pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"Plot: {shown(path)}")


def draw_years(axis: Any, series: Series, judged: dict[str, Judged], ahead: int = 3) -> None:
    """What differs from the usual temperature, and what was said of it some months before."""
    months = np.arange(series.index(TEST), len(series.years))
    years, usual = series.years[months], series.usual[months]
    truth = series.degrees[months] - usual
    axis.fill_between(years, truth, color="0.85", label="observed")
    axis.axhline(0, color="0.4", lw=0.8)
    rivals = (label for label, way in judged.items() if way.kind == "classical")
    best = min(rivals, key=lambda label: judged[label].errors[ahead - 1])
    for label in (best, next(iter(judged))):
        way = judged[label]
        colour, width, _ = STYLES[way.kind]
        made = way.made[months - ahead, ahead - 1] - usual
        said_so = f"{label}: {way.errors[ahead - 1]:.2f} °C RMS error"
        axis.plot(years, made, color=colour, lw=width * 0.8, label=said_so)
    axis.set_title(
        f"Sea surface temperature of Niño 1+2, less the usual one of the month; forecast {ahead} "
        f"months ahead; trained on 1950–{VALIDATION - 1}",
        loc="left",
    )
    axis.set_ylabel("°C")
    axis.set_xlim(years[0], years[-1])
    axis.set_ylim(top=1.25 * truth.max())
    axis.legend(frameon=False, ncols=3, loc="upper right", fontsize="small")


def draw_errors(axis: Any, judged: dict[str, Judged]) -> None:
    ahead = np.arange(1, AHEAD + 1)
    seen: dict[str, int] = {}
    for label, way in judged.items():
        colour, width, dashes = STYLES[way.kind]
        dash = dashes[seen.get(way.kind, 0)]
        seen[way.kind] = seen.get(way.kind, 0) + 1
        axis.plot(ahead, way.errors, color=colour, lw=width, ls=dash, label=label)
        if len(way.alone) > 1:
            low, high = way.alone.min(axis=0), way.alone.max(axis=0)
            axis.fill_between(ahead, low, high, color=colour, alpha=0.15, lw=0)
    naive = min(way.errors.mean() for way in judged.values() if way.kind == "untrained")
    axis.set_ylim(0, 1.8 * naive)
    axis.set_xlim(1, AHEAD)
    axis.set_xticks(ahead)
    axis.set_title("Error in the test years; shaded: a seed alone", loc="left")
    axis.set_xlabel("months ahead")
    axis.set_ylabel("RMS error, °C")
    axis.legend(frameon=False, fontsize="small", loc="lower right", ncols=2)


def draw_training(axis: Any, runs: dict[str, list[Run]]) -> None:
    for kind, (label, some) in zip(("ours", "theirs"), runs.items(), strict=True):
        run = some[0]
        colour = STYLES[kind][0]
        epochs = np.arange(1, len(run.training) + 1)
        axis.plot(epochs, np.sqrt(run.training), color=colour, lw=1, ls="--")
        axis.plot(epochs, np.sqrt(run.validation), color=colour, lw=1.8, label=label)
        best = int(np.argmin(run.validation))
        axis.plot(best + 1, np.sqrt(run.validation[best]), "o", color=colour)
    axis.set_title("RMS error, standardised; dashed: training", loc="left")
    axis.set_xlabel("epoch of the first seed (dot: the one that is kept)")
    axis.legend(frameon=False, fontsize="small")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cell",
        default=str(OWN),
        help="a name that `lstmgen cells` lists, or a file (default: examples/mgu.py)",
    )
    parser.add_argument("--hidden", type=positive, default=16, help="units (default: 16)")
    parser.add_argument(
        "--seeds", type=positive, default=5, help="how often to train each network (default: 5)"
    )
    parser.add_argument(
        "--epochs", type=positive, default=100, help="at most (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, and ten epochs: to see that it runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "output",
        help="where the plot goes (default: examples/output)",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw nothing")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, 10

    torch.set_num_threads(1)
    series = load()
    cell = find_cell(args.cell)
    makes = {
        f"{cell.name}, {args.hidden} units": lambda: ours(series, cell, args.hidden),
        f"nn.LSTM, {args.hidden} units": lambda: theirs(series, args.hidden),
    }
    print(f"Training on 1950–{VALIDATION - 1}, until {VALIDATION}–{TEST - 1} get no better")
    runs: dict[str, list[Run]] = {}
    for label, make in makes.items():
        some = [train(series, make, seed, args.epochs) for seed in range(args.seeds)]
        runs[label] = some
        least = np.sqrt(np.median([min(run.validation) for run in some]))
        kept = ", ".join(str(int(np.argmin(run.validation)) + 1) for run in some)
        seconds = np.median([run.seconds / len(run.training) for run in some])
        print(
            f"  {label}: {count(some[0].model)} parameters, {seconds:.2f} s an epoch; kept of each "
            f"seed: epoch {kept}\n    validation error {least:.3f}; of the linear forecast that it "
            f"starts from {np.sqrt(missed(series, make())):.3f}"
        )
    judged = judge(series, runs)
    beaten = table(series, judged)
    if not args.no_plot:
        plot(args.out / f"torch_forecast_{cell.name}.png", series, judged, runs)
    return 0 if beaten else 1


if __name__ == "__main__":
    sys.exit(main())
