"""A network: its description, with all that can be done with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GenerateError, LstmgenError, ToolchainError
from ..monitor.training import Monitor
from ..network.description import show
from ..network.structure import Structure
from ..runtime.toolchain import compile
from ..targets import generate
from ..verification.checking import check
from ..verification.report import Report
from .fitting import Augment, Fit
from .state import Training, load

Arrays = Mapping[str, Any]


class Network(Structure):
    """Layers of any cells, with the functions of a generated module.

    Parameters are dicts from name to array, which every function takes and none keeps. Arguments
    are those of ``Structure``: layers; ``name``, ``inputs``, ``title``; ``loss``, ``optimizer``,
    ``rate``, ``clip_norm``, ``clip_value``. ``print`` shows the layers and their parameters.

    It runs in C where there is a compiler, else in NumPy; ``network.target = "numpy"``, or "c",
    chooses one of them.
    """

    target: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: not what was compiled in this one."""
        return {name: value for name, value in self.__dict__.items() if name != "_modules"}

    def __str__(self) -> str:
        return show(self)

    # ------------------------------------------------------------------ code

    def generate(self, target: str, **options: Any) -> dict[str, str]:
        """Code for the network, as ``lstmgen.generate``."""
        return generate(self, target, **options)

    def compile(self, target: str = "numpy", **options: Any) -> Any:
        """A module of the network, as ``lstmgen.compile``."""
        return compile(self, target, **options)

    def check(self, target: str = "numpy", **options: Any) -> Report:
        """Hold generated code against the equations, as ``lstmgen.check``."""
        return check(self, target, **options)

    def module(self, dtype: Any = np.float32) -> Any:
        """The module that runs the network in numbers of ``dtype``; compiled once."""
        name = np.dtype(dtype).name
        modules: dict[str, Any] = self.__dict__.setdefault("_modules", {})
        if name not in modules:
            modules[name] = self._compiled(name)
        return modules[name]

    def _compiled(self, dtype: str) -> Any:
        if self.target != "numpy":
            try:
                return compile(self, "c", dtype=dtype)
            except (GenerateError, ToolchainError) as error:
                if self.target == "c":
                    raise
                why, *_ = str(error).splitlines()
                warnings.warn(
                    f"{self.name} runs in NumPy, not in C: {why}; to be content with that, say "
                    'network.target = "numpy"',
                    stacklevel=4,
                )
        return compile(self, "numpy")

    # ------------------------------------------------------------------ what a module does

    def init(self, input_size: int | None = None, seed: int = 0, dtype: Any = np.float32) -> Any:
        """Fresh parameters: a dict from name to array."""
        size = self.graph.input.size
        if input_size is None and size.is_Integer:
            input_size = int(size)
        return self.module(dtype).init(input_size, seed=seed, dtype=dtype)

    def pack(self, params: Arrays) -> Any:
        """``params`` arranged once, for many calls of ``step``, or of ``predict``: a snapshot."""
        return self._of(params).pack(params)

    def forward(self, params: Arrays, x: Any, state: Arrays | None = None, **options: Any) -> Any:
        """Run over a batch of sequences: (y, final state, tape).

        Options are ``lengths``, ``resets``, ``seed`` (of dropout), ``tape=False``, and for less
        memory ``checkpoint_every``, ``snapshots``, ``memory``; ``forward`` of a generated module
        says what they do.
        """
        return self._of(params).forward(params, x, state, **options)

    def backward(self, params: Arrays, tape: Any, dy: Any, dstate: Arrays | None = None) -> Any:
        """Backpropagate through time: (grads, dx, dstate)."""
        return self._of(params).backward(params, tape, dy, dstate)

    def step(self, params: Arrays, x_t: Any, state: Arrays | None = None) -> Any:
        """One step, for streaming: the new state, with y under the name ``network.output``."""
        return self._of(params).step(params, x_t, state)

    @property
    def output(self) -> str:
        """The name of what the network puts out."""
        return self.graph.output.name

    def predict(self, params: Arrays, x: Any, *, lengths: Any = None, resets: Any = None) -> Any:
        """What the network puts out, with nothing kept for a backward pass."""
        y, _, _ = self.forward(params, x, lengths=lengths, resets=resets, tape=False)
        return y

    def evaluate(
        self, params: Arrays, x: Any, target: Any, *, lengths: Any = None, weights: Any = None
    ) -> float:
        """The mean loss."""
        y = self.predict(params, x, lengths=lengths)
        value, _ = self._trainer(params).loss(y, target, lengths=lengths, weights=weights)
        return float(value)

    def _of(self, params: Arrays) -> Any:
        """The module for parameters of their kind."""
        if not hasattr(params, "values"):
            raise LstmgenError(f"params is a dict from name to array, not {type(params).__name__}")
        kinds = {value.dtype for value in params.values() if isinstance(value, np.ndarray)}
        return self.module(np.float64 if np.dtype(np.float64) in kinds else np.float32)

    def _trainer(self, params: Arrays) -> Any:
        if self.loss is None:
            raise LstmgenError(
                "the network has no loss\n"
                '  hint: Network(layers, loss="cross_entropy"), or "mean_squared"'
            )
        return self._of(params)

    # ------------------------------------------------------------------ training

    def fit(
        self, x: Any, target: Any, *, epochs: int = 10, batch: int = 32,
        window: int | tuple[int, int] | None = None, lengths: Any = None, weights: Any = None,
        validation: Any = None, patience: int | None = None, params: Arrays | None = None,
        seed: int = 0, shuffle: bool = True, augment: Augment | None = None,
        checkpoint_every: int | str | None = None, snapshots: int | None = None,
        memory: float | None = None, save: str | Path | None = None, progress: bool | None = None,
        monitor: Monitor | None = None, dtype: Any = np.float32,
    ) -> Training:  # fmt: skip
        """Train on sequences.

        Parameters
        ----------
        x : array (T, N, D), or of symbols (T, N)
            N sequences of T steps, time first.
        target : array
            For each step and sequence, (T, N, …), or for each sequence, (N, …), as y is; numbers of
            classes have one axis less. Classes below 0 do not count.
        epochs : int
            How often all sequences are learned from.
        batch : int
            How many sequences there are to an update.
        window : int or (int, int), optional
            Truncated BPTT: an update after every k₁ steps, through which gradients flow back, with
            the state carried on; (k₁, k₂) lets them flow back through the last k₂ steps, a multiple
            of k₁, while the loss is that of the last k₁ (Williams & Peng 1990).
        lengths : array (N,), optional
            Of sequences that are shorter than T.
        weights : array, optional
            How much each step counts, (T, N), or each sequence, (N,). Windows in which nothing does
            are read only, and warm the state up.
        validation : tuple or float, optional
            (x, target) or (x, target, lengths) that are not learned from; or the part of the
            sequences that is kept back.
        patience : int, optional
            Stop when the loss, that of validation if there is one, has not been lower for so many
            epochs.
        params : dict, optional
            Parameters to start from; they are copied.
        seed : int
            Of first parameters, of the order of sequences, of dropout, and of ``augment``.
        shuffle : bool
            Whether sequences come in another order in every epoch.
        augment : function, optional
            ``augment(rng, x, target) -> (x, target)`` changes each batch before it is learned from,
            by random numbers from ``rng``, which is NumPy's.
        checkpoint_every, snapshots, memory : optional
            As ``forward`` has them: less memory, for more work.
        save : path, optional
            After every epoch, everything is saved there. If the file is there at the beginning,
            training goes on from it, and comes to the same bits as if it had not been interrupted.
        progress : bool, optional
            By default, a bar on a terminal, and nothing elsewhere; with True, lines elsewhere.
        monitor : lstmgen.monitor.Monitor, optional
            Writes what gates and gradients do, for TensorBoard. Training is the same to the bit.
        dtype : optional
            float32 or float64.

        Returns
        -------
        Training
            Its ``params`` are those of the best epoch, ``history`` has the losses.

        Raises
        ------
        LstmgenError
            If what is given does not fit together. The message says what to do.
        """
        if self.loss is None:
            self._trainer({})
        return Fit(
            self, x, target, epochs=epochs, batch=batch, window=window, lengths=lengths,
            weights=weights, validation=validation, patience=patience, params=params, seed=seed,
            shuffle=shuffle, augment=augment, save=save, progress=progress, monitor=monitor,
            dtype=dtype,
            memory={"checkpoint_every": checkpoint_every, "snapshots": snapshots, "memory": memory},
        ).run()  # fmt: skip

    def load(self, path: str | Path) -> Training:
        """What ``Training.save`` wrote, of this network."""
        return load(self, path)
