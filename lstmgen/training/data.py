"""Sequences to learn from: cut to batches and windows, parted for validation."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..errors import LstmgenError
from ..network.structure import Structure


class Data:
    """Sequences, and what is wanted of them.

    Parameters
    ----------
    network : Structure
        Whether it puts out a row for each step, and whether it tells classes apart.
    x, target, lengths, weights
        As ``Network.fit`` has them.

    Raises
    ------
    LstmgenError
        If they do not fit together; the message says what shape is expected.
    """

    def __init__(
        self, network: Structure, x: Any, target: Any, lengths: Any = None, weights: Any = None
    ) -> None:
        self._network = network
        self.x, self.target = np.asarray(x), np.asarray(target)
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.weights = None if weights is None else np.asarray(weights)
        if self.x.ndim < 2:
            raise LstmgenError(f"x is (T, N, …), time first, not of shape {self.x.shape}")
        self.steps, self.count = map(int, self.x.shape[:2])
        lead = (self.steps, self.count) if self.per_step else (self.count,)
        what = f"one for each {'step and sequence' if self.per_step else 'sequence'}, {lead}"
        if self.target.shape[: len(lead)] != lead:
            raise LstmgenError(
                f"target has shape {self.target.shape}, but x has {self.steps} steps of "
                f"{self.count} sequences\n  hint: it is {what}, then what is wanted of it"
            )
        if self.weights is not None and self.weights.shape != lead:
            raise LstmgenError(f"weights have shape {self.weights.shape}\n  hint: {what}")
        if self.lengths is not None and self.lengths.shape != (self.count,):
            raise LstmgenError(
                f"lengths have shape {self.lengths.shape}; there are {self.count} sequences"
            )
        if not self.count or not self.steps:
            raise LstmgenError("there is nothing to learn from: x has no sequences, or no steps")

    @property
    def per_step(self) -> bool:
        """Whether something is wanted at each step, and not only of each sequence."""
        return not self._network.graph.output.of_rows

    @cached_property
    def size(self) -> float:
        """How many rows the mean loss is of, by their weights; as the module's ``loss`` counts."""
        shape = (self.steps, self.count) if self.per_step else (self.count,)
        counts = np.ones(shape) if self.weights is None else self.weights.astype(float)
        if self.lengths is not None and self.per_step:
            counts = counts * (np.arange(self.steps)[:, np.newaxis] < self.lengths)
        loss = self._network.loss
        if loss is not None and loss.of_classes and self.target.shape == shape:
            counts = counts * (self.target >= 0)
        return float(counts.sum())

    def changed(self, augment: Any, rng: np.random.Generator) -> Data:
        """What ``augment`` makes of the sequences."""
        made = augment(rng, self.x, self.target)
        if not isinstance(made, tuple) or len(made) != 2:
            raise LstmgenError("augment(rng, x, target) returns x and target, as a tuple")
        return Data(self._network, *made, self.lengths, self.weights)

    def of(self, rows: Any) -> Data:
        """Some of the sequences."""
        along = (slice(None), rows) if self.per_step else (rows,)
        return Data(
            self._network, np.ascontiguousarray(self.x[:, rows]),
            np.ascontiguousarray(self.target[along]),
            None if self.lengths is None else self.lengths[rows],
            None if self.weights is None else self.weights[along],
        )  # fmt: skip

    def batches(self, size: int, order: Any = None) -> list[Data]:
        """All sequences, so many at once."""
        order = np.arange(self.count) if order is None else order
        return [self.of(order[k : k + size]) for k in range(0, self.count, size)]

    def window(self, first: int, stop: int, start: int) -> Data | None:
        """Steps from ``first`` to ``stop``, of which those from ``start`` on count.

        None if all sequences have ended before.
        """
        stop = min(stop, self.steps)
        lengths = None if self.lengths is None else np.clip(self.lengths - first, 0, stop - first)
        if lengths is not None and not (lengths > start - first).any():
            return None
        weights = None if self.weights is None else self.weights[first:stop]
        if start > first:
            counting = np.arange(first, stop)[:, np.newaxis] >= start
            shape = stop - first, self.count
            weights = counting * (np.ones(shape) if weights is None else weights)
        x, target = self.x[first:stop], self.target[first:stop]
        return Data(self._network, x, target, lengths, weights)

    def parted(self, validation: Any, seed: int) -> tuple[Data, Data | None]:
        """What is learned from, and what is held back."""
        if validation is None:
            return self, None
        if isinstance(validation, (tuple, list)):
            if not 2 <= len(validation) <= 3:
                raise LstmgenError("validation is (x, target) or (x, target, lengths)")
            return self, Data(self._network, *validation)
        if not isinstance(validation, float) or not 0 < validation < 1:
            raise LstmgenError(
                f"validation is (x, target), or a part of the sequences such as 0.2, not "
                f"{validation!r}"
            )
        kept = round(self.count * validation)
        if not 0 < kept < self.count:
            raise LstmgenError(f"{validation} of {self.count} sequences is {kept} of them")
        order = np.random.default_rng((seed, 2)).permutation(self.count)
        return self.of(np.sort(order[kept:])), self.of(np.sort(order[:kept]))
