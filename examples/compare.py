"""The tables of examples/README.md: what other cells, seeds and settings come to.

    python examples/compare.py forecast     # a minute
    python examples/compare.py horizons     # a minute
    python examples/compare.py charlm       # many minutes

Each row is a training run of its own, as `forecast.py` or `charlm.py` would make it; what they
print meanwhile is left out. It needs a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import charlm
import forecast
from common import find_cell

import lstmgen

SEEDS = (0, 1, 2)
CELLS = (
    "cifg", "gru", "gru_reset_before", "lstm_layernorm", "lstm_peephole", "lstmp", "rnn",
    "lem", "lstm_nig", "mgu", "mogrifier_lstm", "rhn", "star", "sru",
)  # fmt: skip


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    head = list(head)
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


def quietly(run: Callable[..., Any], *arguments: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return run(*arguments)


def sunspots(
    name: str, seed: int, horizon: int = 1, vary: float = 0.25, target: str = "c"
) -> tuple[float, float]:
    """The error in the held-out years, and the seconds that training took."""
    series = forecast.load_sunspots()
    args = argparse.Namespace(seed=seed, hidden=16, epochs=60, horizon=horizon, vary=vary)
    updates = args.epochs * forecast.lessons(series, horizon).updates
    network = forecast.make_network(find_cell(name), args.hidden, updates)
    ready(network, target)
    start = time.perf_counter()
    run = quietly(forecast.train, network, series, args)
    seconds = time.perf_counter() - start
    z, x = forecast.read(series, horizon)
    guess = forecast.forecast(network.predict(run.params, x), z, series, horizon)
    return forecast.rmse(guess, series.held_out()), seconds


def ready(network: lstmgen.Network, target: str) -> None:
    """Compiled, so that the time of training has no part of that."""
    network.target = target
    network.module()


def forecasts() -> None:
    """Cells and seeds, one year ahead."""
    rows = [
        *((name, name, "c", 0.25) for name in ("lstm", "gru", "lstm_layernorm", "rnn")),
        ("lstm, in NumPy", "lstm", "numpy", 0.25),
        ("lstm, `--vary 0`", "lstm", "c", 0.0),
    ]

    def lines() -> Iterable[list[str]]:
        for label, name, target, vary in rows:
            runs = [sunspots(name, seed, vary=vary, target=target) for seed in SEEDS]
            yield [label, *(f"{e:.1f}" for e, _ in runs), f"{min(s for _, s in runs):.2f} s"]

    table(["cell", *(f"seed {s}" for s in SEEDS), "training"], lines())


def horizons() -> None:
    """Several years ahead, beside what is not trained."""
    series = forecast.load_sunspots()
    truth = series.held_out()

    def lines() -> Iterable[list[str]]:
        for horizon in (1, 2, 3, 5, 8, 11):
            naive = [forecast.rmse(g, truth) for g in forecast.baselines(series, horizon).values()]
            regression = forecast.rmse(forecast.autoregression(series, horizon), truth)
            errors = (sunspots("lstm", 0, horizon)[0], regression, *reversed(naive))
            yield [str(horizon), *(f"{error:.1f}" for error in errors)]

    heads = "linear autoregression", "seasonal naive", "persistence"
    table(["years ahead", "lstm", *heads], lines())


def characters() -> None:
    """Some cells, and the seeds and targets of one of them."""
    runs = [("lstm", "c", seed) for seed in SEEDS] + [("lstm", "numpy", 0)]
    runs += [(name, "c", 0) for name in CELLS]
    training, held_out, _ = charlm.load_text(None)
    vocabulary = charlm.Vocabulary(training)
    ids, other = vocabulary.encode(training), vocabulary.encode(held_out)

    def lines() -> Iterable[list[str]]:
        for name, target, seed in runs:
            args = argparse.Namespace(seed=seed, hidden=128, epochs=5)
            updates = args.epochs * charlm.updates(ids)
            network = charlm.make_network(find_cell(name), args.hidden, len(vocabulary), updates)
            ready(network, target)
            start = time.perf_counter()
            run = quietly(charlm.train, network, ids, other, args)
            seconds = time.perf_counter() - start
            reached = charlm.bits(run.history)[run.best_epoch - 1, 1]
            label = {"c": "C", "numpy": "NumPy"}[target]
            yield [name, label, str(seed), f"{reached:.2f}", f"{seconds:.0f} s"]

    table(["cell", "target", "seed", "bits per character", "training"], lines())


TABLES = {"forecast": forecasts, "horizons": horizons, "charlm": characters}

if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in TABLES]:
        sys.exit(f"usage: python examples/compare.py {'|'.join(TABLES)}")
    TABLES[sys.argv[1]]()
