"""Training: batches and windows, early stopping, progress, and runs that can be resumed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..errors import LstmgenError
from .state import Training, load

if TYPE_CHECKING:
    from .network import Network


class Fit:
    """One call of ``Network.fit``.

    Parameters
    ----------
    network : Network
    x : array (T, N, D), or of symbols (T, N)
        N sequences of T steps, time first.
    target : array
        For each step and sequence, (T, N, …), or for each sequence, (N, …), as y is.
    epochs : int
        How often all sequences are learned from.
    batch : int
        How many sequences there are to an update.
    window : int or (int, int), optional
        Truncated BPTT: an update after every k₁ steps, through which gradients flow back, with the
        state carried on; (k₁, k₂) lets them flow back through the k₂ steps before, a multiple of
        k₁, while the loss is that of the last k₁ (Williams & Peng 1990).
    lengths : array (N,), optional
        Of sequences that are shorter than T.
    weights : array, optional
        How much each step counts, (T, N), or each sequence, (N,).
    validation : tuple or float, optional
        (x, target) or (x, target, lengths) that are not learned from; or the part of the sequences
        that is kept back.
    patience : int, optional
        Stop when the loss, that of validation if there is one, has not been lower for so many
        epochs.
    params : dict, optional
        Parameters to start from; they are copied.
    seed : int
        Of first parameters, of the order of sequences, and of dropout.
    shuffle : bool
        Whether sequences come in another order in every epoch.
    checkpoint_every, snapshots, memory : optional
        As ``forward`` has them: less memory, for more work.
    save : path, optional
        After every epoch, everything is saved there. If the file is there at the beginning,
        training goes on from it, and comes to the same bits as if it had not been interrupted.
    progress : bool, optional
        Whether to draw a bar; by default on a terminal.
    dtype : optional
        float32 or float64.

    Raises
    ------
    LstmgenError
        If what is given does not fit together. The message says what to do.
    """

    def __init__(
        self, network: Network, x: Any, target: Any, *, epochs: int = 10, batch: int = 32,
        window: int | tuple[int, int] | None = None, lengths: Any = None, weights: Any = None,
        validation: Any = None, patience: int | None = None, params: Any = None, seed: int = 0,
        shuffle: bool = True, checkpoint_every: int | str | None = None,
        snapshots: int | None = None,
        memory: float | None = None, save: str | Path | None = None, progress: bool | None = None,
        dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        self._network = network
        self._module = network.module(dtype)
        self._per_step = not network.graph.output.of_rows
        self._data = _Data(x, target, lengths, weights, self._per_step)
        self._epochs, self._batch = _whole("epochs", epochs), _whole("batch", batch)
        self._window = _windows(window, self._per_step)
        self._patience = None if patience is None else _whole("patience", patience)
        self._seed, self._shuffle = seed, shuffle
        self._options = {
            "checkpoint_every": checkpoint_every, "snapshots": snapshots, "memory": memory,
        }  # fmt: skip
        self._save = None if save is None else Path(save)
        self._progress = sys.stderr.isatty() and not _plain() if progress is None else progress
        self._data, self._held = self._data.parted(validation, seed)
        self._training = self._begun(params, dtype)

    def run(self) -> Training:
        """All epochs that are left."""
        training = self._training
        done = len(training.history)
        with _bar(self._epochs - done, self._progress) as advance:
            for epoch in range(done, self._epochs):
                if training.stopped:
                    break
                self._epoch(epoch)
                if self._save is not None:
                    training.save(self._save)
                history = training.history
                text = f"loss {history.loss[-1]:.4g}"
                text += f", validation {history.validation[-1]:.4g}" if history.validation else ""
                advance(text)
        return training

    def _begun(self, params: Any, dtype: Any) -> Training:
        """Where training starts: anew, or from a file."""
        if self._save is not None and self._save.exists():
            return load(self._network, self._save)
        if params is None:
            size = None if self._network.symbols else self._data.x.shape[-1]
            params = self._module.init(size, seed=self._seed, dtype=dtype)
        latest = _copied(params)
        return Training(self._network, latest, latest, self._module.start(latest))

    def _epoch(self, epoch: int) -> None:
        """One epoch, and what is measured after it."""
        training, data = self._training, self._data
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(data.count) if self._shuffle else np.arange(data.count)
        total = rows = 0.0
        for start in range(0, data.count, self._batch):
            part = data.of(order[start : start + self._batch])
            for value, count in self._updates(part):
                total, rows = total + value * count, rows + count
        history = training.history
        history.loss.append(total / max(rows, 1))
        history.rate.append(float(self._module.rate(training.moments["updates"] - 1)))
        if self._held is not None:
            history.validation.append(self._validated())
        judged = history.validation if self._held is not None else history.loss
        best = int(np.nanargmin(judged)) if not np.all(np.isnan(judged)) else epoch
        if best == epoch:
            # copies, since training goes on in place
            training.params = _copied(training.latest)
        training.best_epoch = best + 1
        if self._patience is not None and epoch - best >= self._patience:
            what = "validation loss" if self._held is not None else "loss"
            training.stopped = (
                f"stopped after epoch {epoch + 1}: the {what} was lowest after epoch {best + 1}"
            )

    def _updates(self, part: _Data) -> Iterator[tuple[float, float]]:
        """The updates of a batch: the loss of each, and how many steps it was of."""
        training, module = self._training, self._module
        if self._window is None:
            seed = training.moments["updates"]
            value, _ = module.train(
                training.latest, training.moments, part.x, part.target, lengths=part.lengths,
                weights=part.weights, seed=self._noise(seed), **self._options,
            )  # fmt: skip
            yield value, part.size
            return
        short, long = self._window
        states: dict[int, Any] = {0: None}
        for start in range(0, part.steps, short):
            first = max(0, start + short - long)
            piece = part.window(first, start + short, start)
            if piece is None:  # all sequences have ended
                return
            seed = training.moments["updates"]
            value, state = module.train(
                training.latest, training.moments, piece.x, piece.target, states[first],
                lengths=piece.lengths, weights=piece.weights, seed=self._noise(seed),
                **self._options,
            )  # fmt: skip
            states[start + short] = state
            states = {k: v for k, v in states.items() if k >= start + 2 * short - long or k == 0}
            yield value, piece.size

    def _noise(self, update: int) -> int:
        """The seed of an update's dropout."""
        return int(np.random.default_rng((self._seed, 1, update)).integers(0, 2**63))

    def _validated(self) -> float:
        """The loss of what is held back, in batches."""
        assert self._held is not None
        total = rows = 0.0
        for start in range(0, self._held.count, self._batch):
            part = self._held.of(np.arange(start, min(start + self._batch, self._held.count)))
            y, _, _ = self._module.forward(
                self._training.latest, part.x, lengths=part.lengths, tape=False
            )
            value, _ = self._module.loss(y, part.target, lengths=part.lengths, weights=part.weights)
            total, rows = total + value * part.size, rows + part.size
        return total / max(rows, 1)


class _Data:
    """Sequences, and what is wanted of them."""

    def __init__(self, x: Any, target: Any, lengths: Any, weights: Any, per_step: bool) -> None:
        self.x, self.target, self._per_step = np.asarray(x), np.asarray(target), per_step
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.weights = None if weights is None else np.asarray(weights)
        if self.x.ndim < 2:
            raise LstmgenError(f"x is (T, N, …), time first, not of shape {self.x.shape}")
        self.steps, self.count = self.x.shape[:2]
        lead = (self.steps, self.count) if per_step else (self.count,)
        what = f"one for each {'step and sequence' if per_step else 'sequence'}, {lead}"
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
    def size(self) -> float:
        """How many rows the mean loss is of."""
        if self.weights is not None:
            return float(self.weights.sum())
        if not self._per_step:
            return float(self.count)
        return float(self.steps * self.count if self.lengths is None else self.lengths.sum())

    def of(self, rows: Any) -> _Data:
        """Some of the sequences."""
        along = (slice(None), rows) if self._per_step else (rows,)
        return _Data(
            np.ascontiguousarray(self.x[:, rows]), np.ascontiguousarray(self.target[along]),
            None if self.lengths is None else self.lengths[rows],
            None if self.weights is None else self.weights[along], self._per_step,
        )  # fmt: skip

    def window(self, first: int, stop: int, start: int) -> _Data | None:
        """Steps from ``first`` to ``stop``, of which those from ``start`` on count."""
        stop = min(stop, self.steps)
        lengths = None if self.lengths is None else np.clip(self.lengths - first, 0, stop - first)
        weights = None if self.weights is None else self.weights[first:stop]
        if start > first:
            counting = np.arange(first, stop)[:, np.newaxis] >= start
            weights = counting * (
                np.ones((stop - first, self.count)) if weights is None else weights
            )
        if lengths is not None and not (lengths > start - first).any():
            return None
        return _Data(self.x[first:stop], self.target[first:stop], lengths, weights, True)

    def parted(self, validation: Any, seed: int) -> tuple[_Data, _Data | None]:
        """What is learned from, and what is held back."""
        if validation is None:
            return self, None
        if isinstance(validation, (tuple, list)):
            if not 2 <= len(validation) <= 3:
                raise LstmgenError("validation is (x, target) or (x, target, lengths)")
            x, target, *lengths = validation
            return self, _Data(x, target, lengths[0] if lengths else None, None, self._per_step)
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


def _copied(params: Any) -> dict[str, Any]:
    """Arrays of their own; numbers as they are."""
    return {name: np.array(v) if np.ndim(v) else v for name, v in params.items()}


def _whole(what: str, value: object) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise LstmgenError(f"{what} is a positive whole number, not {value!r}")
    return int(value)


def _windows(window: Any, per_step: bool) -> tuple[int, int] | None:
    """k₁ and k₂ of truncated BPTT."""
    if window is None:
        return None
    if not per_step:
        raise LstmgenError(
            "a network that puts out one row a sequence learns from whole sequences\n"
            "  hint: leave out window=, or the last=True of its layer"
        )
    short, long = (
        window if isinstance(window, (tuple, list)) and len(window) == 2 else (window,) * 2
    )
    short, long = _whole("window", short), _whole("window", long)
    if long % short:
        raise LstmgenError(f"of window=(k₁, k₂), k₂ is a multiple of k₁, not {long} of {short}")
    return short, long


def _plain() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


@contextmanager
def _bar(epochs: int, shown: bool) -> Iterator[Any]:
    """A bar that moves on with each epoch and says how it went; nothing if it is not shown."""
    if not shown or epochs < 1:
        yield lambda text: None
        return
    said = [""]
    bar: Any = click.progressbar(
        length=epochs, label="training", item_show_func=lambda _: said[0], file=sys.stderr
    )

    def advance(text: str) -> None:
        said[0] = text
        bar.update(1)

    with bar:
        yield advance
