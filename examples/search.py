"""Which cell forecasts the sunspots best, of what size, learnt how fast: a search with Optuna.

Each trial trains a small network of PyTorch around a layer of generated code on the years before
1880, and is judged by its forecasts of 1880 to 1929, one year ahead; trials that fall behind are
pruned. The best one is trained once more with these years, and forecasts 1930 to 2008, which
nobody has seen so far.

Trials are in a database. The search goes on where it was if it is started again, and as many
workers as one likes take part, on one machine or on many:

    python search.py --trials 100 --workers 2
    python search.py --trials 1000 --storage postgresql://user@host/search   # on each machine
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import socket
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import figures
import numpy as np
import torch
from common import find_cell, other_sizes, positive, shown
from forecast import SPLIT, Series, load_sunspots
from torch import Tensor, nn

import lstmgen
from lstmgen.torch import Recurrent, register

try:
    import optuna
    import sqlalchemy
    from optuna.trial import TrialState
except ImportError:
    raise SystemExit("error: this needs Optuna: pip install 'lstmgen[search]'") from None

HERE = Path(__file__).parent
CELLS = ("lstm", "gru", "indrnn", "min_gru", str(HERE / "mgu.py"), str(HERE / "ligru.cell"))
JUDGED = 1880  # the first year of those that a trial is judged by
WINDOW, WARM = 44, 11  # years in a sequence; after as many the state is one that years left behind
STREAMS, REPORTS = 16, 10
ALIVE, DEAD = 30, 120  # seconds: how often a worker says that it is, and when others take over
VARY, CLIP = 0.4, 1.0


class Model(nn.Module):
    """Says after each year how the number will have changed in the next."""

    def __init__(self, cell: lstmgen.Cell, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layer = Recurrent(cell, 2, hidden, **other_sizes(cell, hidden))
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(self.layer.output_size, 1)
        nn.init.zeros_(self.readout.weight)  # no change, the forecast that has to be beaten
        nn.init.zeros_(self.readout.bias)

    def forward(self, z: Tensor) -> Tensor:
        """(T, B) of (T, B)."""
        x = torch.stack([z, torch.ones_like(z)], -1)
        return self.readout(self.dropout(self.layer(x)[0].flatten(2))).squeeze(-1)


class Choice(NamedTuple):
    """What a trial tries."""

    cell: str
    hidden: int
    rate: float
    dropout: float

    @classmethod
    def of(cls, trial: Any, cells: dict[str, lstmgen.Cell]) -> Choice:
        return cls(
            trial.suggest_categorical("cell", sorted(cells)),
            trial.suggest_int("hidden", 4, 64, log=True),
            trial.suggest_float("rate", 1e-3, 5e-2, log=True),
            trial.suggest_float("dropout", 0.0, 0.5),
        )


def train(
    choice: Choice, cells: dict[str, lstmgen.Cell], series: Series, until: int,
    args: argparse.Namespace, trial: Any = None,
) -> Model:  # fmt: skip
    """A model that has learned from the years before ``until``; tells a trial how it gets on.

    Raises
    ------
    optuna.TrialPruned
        If the trial falls behind others.
    """
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = Model(cells[choice.cell], choice.hidden, choice.dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=choice.rate)
    known = series.scaled()[series.years < until]
    level = float(series.mean / series.deviation)  # so that it is the root itself that is varied
    for update in range(1, args.updates + 1):
        starts = rng.integers(0, len(known) - WINDOW, STREAMS)
        z = known[starts + np.arange(WINDOW + 1)[:, np.newaxis]]
        # each sequence is more or less active than the Sun was; see forecast.py
        gain = np.exp(rng.uniform(-VARY, VARY, STREAMS)).astype(np.float32)
        sequence = torch.from_numpy((z + level) * gain - level)
        change = sequence[1:] - sequence[:-1]
        model.train()
        loss = nn.functional.mse_loss(model(sequence[:-1])[WARM:], change[WARM:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if trial and update % max(1, args.updates // REPORTS) == 0:
            error = judge(model, series, until, SPLIT)
            trial.report(error, update)
            if trial.should_prune() or not math.isfinite(error):
                raise optuna.TrialPruned
    return model


@torch.no_grad()
def judge(model: Model, series: Series, first: int, end: int) -> float:
    """The root mean square error, in sunspots, of forecasts of the years from first to end - 1."""
    model.eval()
    z = series.scaled()
    said = model(torch.from_numpy(z[:-1, np.newaxis]))[:, 0].numpy()
    asked = (series.years[1:] >= first) & (series.years[1:] < end)
    return rms((series.unscaled(z[:-1] + said) - series.numbers[1:])[asked])


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


# ---------------------------------------------------------------------- the study


def open_study(cells: dict[str, lstmgen.Cell], args: argparse.Namespace) -> Any:
    """The study of the database, begun if there is none.

    A worker that is killed leaves a trial behind that seems to run: it is taken up again by another
    worker once it has not been heard of for a while.
    """
    # heartbeats are old, and still called experimental
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    url = args.storage
    # SQLite lets one worker write at a time, and the others wait
    sqlite = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(5):
        try:
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs=options, heartbeat_interval=ALIVE, grace_period=DEAD,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(
                    max_retry=3
                ),
            )  # fmt: skip
            break
        except sqlalchemy.exc.DatabaseError:
            # two workers that find an empty database make the same tables; one of them fails
            if attempt == 4:
                raise
            time.sleep(1)
    study = optuna.create_study(
        study_name=args.study, storage=storage, load_if_exists=True, direction="minimize",
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=args.updates // 4),
    )  # fmt: skip
    # errors of other equations, or after more updates, are not to be compared with those here
    settings = {"cells": {name: register(cell) for name, cell in sorted(cells.items())}}
    settings |= {"updates": args.updates, "seed": args.seed}
    held = study.user_attrs.get("settings")
    if held is None:
        study.set_user_attr("settings", settings)
    elif differing := [name for name in settings if held.get(name) != settings[name]]:
        raise SystemExit(
            f'error: the study "{args.study}" in {url} has other {" and ".join(differing)}\n'
            "  hint: --study NAME begins another one in the same database"
        )
    return study


def finished(study: Any) -> list[Any]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def work(args: argparse.Namespace) -> None:
    """Run trials until the study has enough of them."""
    # the kernels of one small layer are no work for several threads; workers are
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cells, series = load_cells(args.cells), load_sunspots()
    study = open_study(cells, args)

    def objective(trial: Any) -> float:
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        model = train(Choice.of(trial, cells), cells, series, JUDGED, args, trial)
        return judge(model, series, JUDGED, SPLIT)

    def enough(study: Any, trial: Any) -> None:
        if len(finished(study)) >= args.trials:
            study.stop()

    if len(finished(study)) < args.trials:
        study.optimize(objective, callbacks=[enough])


def load_cells(names: list[str]) -> dict[str, lstmgen.Cell]:
    found = [find_cell(name) for name in names]
    return {cell.name: cell for cell in found}


def in_processes(args: argparse.Namespace) -> None:
    """Several workers, each a process that knows the others by the database alone."""
    begin = multiprocessing.get_context("spawn").Process
    workers = [begin(target=work, args=(args,)) for _ in range(args.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("error: a worker has failed; what it said is above")


# ---------------------------------------------------------------------- what came out


def report(study: Any, cells: dict[str, lstmgen.Cell], args: argparse.Namespace) -> Any:
    """Print the best trials, and the best one of each cell; returns the best."""
    counts = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
    print(f'Study "{args.study}": {", ".join(f"{n} {s}" for s, n in sorted(counts.items()))}\n')
    ranked = sorted(
        study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=lambda t: t.value
    )
    if not ranked:
        raise SystemExit("error: no trial is complete so far")
    first: dict[str, Any] = {}
    for trial in ranked:
        first.setdefault(trial.params["cell"], trial)
    listed = ranked[: args.best]
    print(" trial  cell              hidden  rate     dropout  error in sunspots")
    print(*map(row, listed), sep="\n")
    if others := [trial for trial in first.values() if trial not in listed]:
        print("       the best of other cells\n" + "\n".join(map(row, others)))
    if never := sorted(set(cells) - set(first)):
        print(f"       no trial of {', '.join(never)} is complete")
    return ranked[0]


def row(trial: Any) -> str:
    choice = Choice(**trial.params)
    return (
        f"{trial.number:6d}  {choice.cell:16s}  {choice.hidden:6d}  {choice.rate:.1e}  "
        f"{choice.dropout:7.2f}  {trial.value:17.2f}"
    )


def conclude(best: Any, cells: dict[str, lstmgen.Cell], args: argparse.Namespace) -> None:
    """Train the best once more, with the years that it was chosen by, and forecast the others."""
    series = load_sunspots()
    choice = Choice(**best.params)
    error = judge(train(choice, cells, series, SPLIT, args), series, SPLIT, series.years[-1] + 1)
    same = rms(np.diff(series.numbers)[series.years[1:] >= SPLIT])
    print(f"\nYears {SPLIT}–{series.years[-1]}, error in sunspots")
    print(f"  the best, {choice.cell} with {choice.hidden} units   {error:.1f}")
    print(f"  last year's number           {same:.1f}")


def plot(study: Any, path: Path) -> None:
    """Each trial by its cell, size and error."""
    plt = figures.pyplot()
    if plt is None:
        return
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({trial.params["cell"] for trial in trials})
    figure, axes = plt.subplots(
        1, len(names), figsize=(2 * len(names) + 1, 3), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    best = min(trial.value for trial in trials)
    for axis, name in zip(axes[0], names, strict=True):
        own = [trial for trial in trials if trial.params["cell"] == name]
        sizes, errors = [t.params["hidden"] for t in own], [t.value for t in own]
        axis.scatter(sizes, errors, s=16, color=figures.OURS, alpha=0.7, linewidths=0)
        axis.axhline(best, color=figures.THEIRS, lw=1, ls="--")
        axis.set_xscale("log", base=2)
        axis.set_xlim(3, 80)
        axis.set_title(name, loc="left")
        axis.set_xlabel("units")
    axes[0, 0].set_ylabel("error, in sunspots")
    # the best of each cell is in sight; what went wrong need not be
    tops = [min(t.value for t in trials if t.params["cell"] == name) for name in names]
    axes[0, 0].set_ylim(best - 1, max(*tops, np.quantile([t.value for t in trials], 0.95)) + 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f"Plot: {shown(path)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    output = HERE / "output"
    parser.add_argument(
        "--cells", nargs="+", default=list(CELLS), metavar="CELL",
        help="names that `lstmgen cells` lists, or files (default: "
        f"{' '.join(Path(cell).name for cell in CELLS)})",
    )  # fmt: skip
    for name, default, told in (
        ("trials", 60, "trials in all, of all workers and of earlier runs"),
        ("workers", 1, "processes to start here"),
        ("updates", 400, "of the parameters in a trial"),
        ("best", 8, "trials to list"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, default=default, help=f"{told} (default: %(default)s)"
        )
    parser.add_argument(
        "--storage", default=f"sqlite:///{output / 'search.db'}",
        help="the database, as SQLAlchemy writes it (default: SQLite in examples/output)",
    )  # fmt: skip
    parser.add_argument("--study", default="sunspots", help="its name in the database")
    parser.add_argument("--seed", type=int, default=0, help="of each training (default: 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw trials by cell and size")
    args = parser.parse_args()
    output.mkdir(exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cells = load_cells(args.cells)
    study = open_study(cells, args)  # first, so that workers find it
    if args.workers > 1:
        in_processes(args)
    else:
        work(args)
    best = report(study, cells, args)
    conclude(best, cells, args)
    if args.plot:
        plot(study, args.plot)


if __name__ == "__main__":
    sys.exit(main())
