"""Networks in C: against the NumPy modules, in buffers of exactly their sizes, and in training."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import need
from driver import POISONED, build, execute
from network_driver import Batch, Program
from networks import RESERVOIR

from lstmgen import (
    SGD,
    AdamW,
    Dropout,
    Embedding,
    Layer,
    Network,
    Readout,
    schedules,
)

NETWORKS = {
    network.name: network
    for network in (
        Network(
            [
                Layer("lstm", 5),
                Dropout(0.2),
                Layer("gru", 5, skip="residual", learn_state=True, zoneout=0.1),
                Readout(2),
            ],
            name="deep",
            loss="mean_squared",
            rate=schedules.cosine(0.05, 10, warmup=1),
            clip_norm=0.5,
        ),
        Network(
            [
                Layer("lstm", 3, bidirectional=True, recurrent_dropout=0.3),
                Dropout(0.4),
                Layer("gru", 6, skip="highway", zoneout=0.2, learn_state=True),
                Layer("rnn", 2, go_backwards=True, last=True),
                Dropout(0.3),
                Readout(3),
            ],
            name="noisy",
            loss="cross_entropy",
            optimizer=AdamW(),
            clip_value=0.1,
        ),
        Network(
            [
                Embedding(5, 3),
                Layer("mlstm", N=2, K=3, P=2, bidirectional="sum", learn_state=True),
                Layer("lstmp", 3, P=4, skip="residual"),
                Layer(RESERVOIR, 5, bidirectional=True, leak=0.7),
                Readout(4),
            ],
            name="symbols",
            loss="cross_entropy",
            optimizer=SGD(momentum=0.9),
            rate=0.05,
        ),
    )
}


def batches() -> list[Batch]:
    """All that a batch may have, with threads and checkpoints or without."""
    rng = np.random.default_rng(5)
    made = []
    for k, (T, B) in enumerate([(1, 1), (7, 3), (12, 5), (6, 2), (40, 1), (300, 2), (9, 4)]):
        for kind in range(5):
            made.append(
                Batch(
                    T, B, D=1 + k % 4, seed=10 * k + kind,
                    threads=[0, 2, 1, 3, 4][(kind + k) % 5],
                    every=[0, 2, 5, 1, T + 1][(kind + 2 * k) % 5],
                    snapshots=[0, 2, 0, 3][(kind + k) % 4],
                    drop=None if (kind + k) % 3 == 0 else 2**63 + k,
                    lengths=[None, rng.integers(0, T + 1, B), np.zeros(B), np.full(B, T)][kind % 4],
                    resets=None
                    if kind in (0, 2)
                    else rng.random((T, B)) < {1: 0.3, 3: 1.0, 4: 0.1}[kind],
                    has_state=k % 2 == 0, has_dstate=kind % 2 == 0, weighted=kind == 1,
                )
            )  # fmt: skip
    return made


@cache
def program(name: str, dtype: str = "float64") -> Program:
    return Program(NETWORKS[name], dtype)


def some_row_counts(made: Program, batch: Batch) -> bool:
    """Whether there is anything to learn from."""
    given = made.arrays(batch)
    counts = given["target"] >= 0 if made.classes else np.ones(made.y_shape(batch)[:-1], bool)
    if batch.lengths is not None and not made.of_rows:
        counts = counts & (np.arange(batch.T)[:, np.newaxis] < np.asarray(batch.lengths))
    return bool(counts.any())


# --------------------------------------------------------------------------- as a program


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("compiler", "dtype", "tolerance"),
    [
        ("gcc -O1 -march=native", "float64", 1e-11),
        ("gcc -O1 -fopenmp -DLSTMGEN_SCALAR", "float32", 3e-4),
        ("clang -O1", "float32", 3e-4),
    ],
)
def test_buffers_suffice(tmp_path: Path, name: str, compiler: str, dtype: str, tolerance: float):
    """Exactly as many numbers as the functions say, full of NaN before they are written."""
    need(f"{compiler.split()[0]} -fsanitize=address,undefined")
    made = program(name, dtype)
    some = [b for b in batches() if some_row_counts(made, b)]
    sources = made.write(some, tmp_path)
    build(tmp_path, sources, *compiler.split(), "-std=c99", *POISONED)
    execute(tmp_path)
    made.compare(some, tmp_path, tolerance)
