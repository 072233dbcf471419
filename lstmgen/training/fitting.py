"""Training: updates by batches and windows, early stopping, and runs that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LstmgenError
from ..monitor.training import Monitor
from .data import Data
from .progress import Progress
from .state import Training, load

if TYPE_CHECKING:
    from .network import Network

Augment = Callable[[np.random.Generator, Any, Any], tuple[Any, Any]]


class Fit:
    """One call of ``Network.fit``, which says what the arguments are."""

    def __init__(
        self, network: Network, x: Any, target: Any, *, epochs: int, batch: int,
        window: int | tuple[int, int] | None, lengths: Any, weights: Any, validation: Any,
        patience: int | None, params: Mapping[str, Any] | None, seed: int, shuffle: bool,
        augment: Augment | None, save: str | Path | None, progress: bool | None,
        monitor: Monitor | None, dtype: Any, memory: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._network, self._module = network, network.module(dtype)
        data = Data(network, x, target, lengths, weights)
        self._epochs, self._batch = _whole("epochs", epochs), _whole("batch", batch)
        self._window = _windows(window, data.per_step)
        self._patience = None if patience is None else _whole("patience", patience)
        self._seed, self._shuffle, self._augment = seed, shuffle, augment
        if monitor is not None and not isinstance(monitor, Monitor):
            raise LstmgenError(
                f"monitor is a lstmgen.monitor.Monitor, not a {type(monitor).__name__}\n"
                "  hint: monitor=Monitor(writer, every=100)"
            )
        self._monitor = monitor
        self._memory, self._save = memory, None if save is None else Path(save)
        self._data, self._held = data.parted(validation, seed)
        self._training = self._begun(params, dtype)
        done = len(self._training.history)
        self._progress = Progress(self._epochs, done, self._updates_in_epoch(), progress)

    def run(self) -> Training:
        """All epochs that are left."""
        training = self._training
        history = training.history
        with self._progress:
            for epoch in range(len(history), self._epochs):
                if training.stopped:
                    break
                self._epoch(epoch)
                if self._save is not None:
                    training.save(self._save)
                text = f"loss {history.loss[-1]:.4g}"
                text += f"  validation {history.validation[-1]:.4g}" if history.validation else ""
                self._progress.epoch(epoch + 1, text)
        return training

    def _begun(self, params: Any, dtype: Any) -> Training:
        """Where training starts: anew, or from a file."""
        if self._save is not None and self._save.exists():
            return self._resumed(self._save, np.dtype(dtype))
        if params is None:
            size = None if self._network.symbols else self._data.x.shape[-1]
            params = self._module.init(size, seed=self._seed, dtype=dtype)
        latest = self._arranged(params)
        return Training(self._network, latest, latest, self._module.start(latest))

    def _resumed(self, path: Path, dtype: np.dtype[Any]) -> Training:
        """What is in the file, where the module would have it."""
        training = load(self._network, path)
        found = {v.dtype for v in training.latest.values() if isinstance(v, np.ndarray)}
        if found - {dtype}:
            raise LstmgenError(
                f"{path}: it was trained in {min(map(str, found))}, and not in {dtype}\n"
                "  hint: fit(…, dtype=…) says in what"
            )
        training.latest = self._arranged(training.latest)
        moments = self._module.start(training.latest)
        for name, value in training.moments.items():
            if np.ndim(value):
                moments[name][...] = value
            else:
                moments[name] = value
        training.moments = moments
        return training

    def _arranged(self, params: Any) -> Any:
        """A copy of parameters, to be changed; in one piece of memory if C is to change them."""
        arrange = getattr(self._module, "arrange", _copied)
        return arrange(params)

    def _updates_in_epoch(self) -> int:
        """At most: sequences may end early."""
        steps, count = self._data.steps, self._data.count
        windows = 1 if self._window is None else ceil(steps / self._window[0])
        return windows * ceil(count / self._batch)

    def _epoch(self, epoch: int) -> None:
        """One epoch, and what is measured after it."""
        training, data = self._training, self._data
        # all that is random follows from the number of the epoch, so that a run can be resumed
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(data.count) if self._shuffle else None
        total = rows = 0.0
        for part in data.batches(self._batch, order):
            part = part if self._augment is None else part.changed(self._augment, rng)
            for value, count in self._updates(part):
                total, rows = total + value * count, rows + count
                self._progress.update()
        if not rows:
            raise LstmgenError("there is nothing to learn from: no row counts")
        history = training.history
        history.loss.append(total / rows)
        history.rate.append(float(self._module.rate(training.moments["updates"] - 1)))
        if self._held is not None:
            history.validation.append(self._validated(self._held))
        training.best_epoch = epoch + 1
        if self._held is None and self._patience is None:
            training.params = training.latest
            return
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

    def _updates(self, part: Data) -> Iterator[tuple[float, float]]:
        """The updates of a batch: the loss of each, and how many rows it was of."""
        if self._window is None:
            value, _ = self._update(part, None)
            yield value, part.size
            return
        short, long = self._window
        states: dict[int, Any] = {0: None}
        for start in range(0, part.steps, short):
            first = max(0, start + short - long)
            piece = part.window(first, start + short, start)
            if piece is None:
                return
            value, state = self._update(piece, states[first])
            states[start + short] = state
            states = {k: v for k, v in states.items() if k >= start + 2 * short - long or k == 0}
            yield value, piece.size

    def _update(self, part: Data, state: Any) -> tuple[float, Any]:
        """One update, and the state after it. If no row counts, the sequences are only read."""
        training, module = self._training, self._module
        params, moments = training.latest, training.moments
        random = np.random.default_rng((self._seed, 1, moments["updates"]))
        seed = int(random.integers(0, 2**63))  # of dropout
        if not part.size:
            _, state, _ = module.forward(
                params, part.x, state, lengths=part.lengths, seed=seed, tape=False
            )
            return 0.0, state
        if self._monitor is not None:
            self._monitor.update(self._network, params, part, state, moments["updates"], seed)
        value, state = module.train(
            params, moments, part.x, part.target, state, lengths=part.lengths,
            weights=part.weights, seed=seed, **self._memory,
        )  # fmt: skip
        return value, state

    def _validated(self, held: Data) -> float:
        """The loss of what is held back, in batches."""
        total = rows = 0.0
        for part in held.batches(self._batch):
            if not part.size:
                continue
            y, _, _ = self._module.forward(
                self._training.latest, part.x, lengths=part.lengths, tape=False
            )
            value, _ = self._module.loss(y, part.target, lengths=part.lengths, weights=part.weights)
            total, rows = total + value * part.size, rows + part.size
        return total / rows if rows else float("nan")


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
    pair = isinstance(window, (tuple, list)) and len(window) == 2
    short, long = window if pair else (window, window)
    short, long = _whole("window", short), _whole("window", long)
    if long % short:
        raise LstmgenError(f"of window=(k₁, k₂), k₂ is a multiple of k₁, not {long} of {short}")
    return short, long
