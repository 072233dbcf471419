"""A network: its description, with all that can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import GenerateError, LstmgenError, ToolchainError
from ..network.structure import Structure
from ..runtime.toolchain import compile
from ..targets import generate
from ..verification.checking import check
from ..verification.report import Report
from .fitting import Fit
from .state import Training, load

Arrays = Mapping[str, Any]


class Network(Structure):
    """Layers of any cells, with the functions of a generated module.

    Parameters are dicts from name to array, which every function takes and none keeps. Arguments
    are those of ``Structure``: layers; ``name``, ``inputs``, ``title``; ``loss``, ``optimizer``,
    ``rate``, ``clip_norm``, ``clip_value``. It runs in C where there is a compiler, else in NumPy;
    ``target`` chooses one of them.
    """

    target: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: not what was compiled in this one."""
        return {name: value for name, value in self.__dict__.items() if name != "_modules"}

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
            except (GenerateError, ToolchainError):
                if self.target == "c":
                    raise
        return compile(self, "numpy")

    # ------------------------------------------------------------------ what a module does

    def init(self, input_size: int | None = None, seed: int = 0, dtype: Any = np.float32) -> Any:
        """Fresh parameters: a dict from name to array."""
        size = self.graph.input.size
        if input_size is None and size.is_Integer:
            input_size = int(size)
        return self.module(dtype).init(input_size, seed=seed, dtype=dtype)

    def forward(self, params: Arrays, x: Any, state: Arrays | None = None, **options: Any) -> Any:
        """Run over a batch of sequences: (y, final state, tape). See the module's ``forward``."""
        return self._of(params).forward(params, x, state, **options)

    def backward(self, params: Arrays, tape: Any, dy: Any, dstate: Arrays | None = None) -> Any:
        """Backpropagate through time: (grads, dx, dstate)."""
        return self._of(params).backward(params, tape, dy, dstate)

    def step(self, params: Arrays, x_t: Any, state: Arrays | None = None) -> Any:
        """One step, for streaming: the new state, with the output under the name ``output``."""
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

    def fit(self, x: Any, target: Any, **options: Any) -> Training:
        """Train on sequences, and return what came out. See ``Fit`` for all options."""
        if self.loss is None:
            self._trainer({})
        return Fit(self, x, target, **options).run()

    def load(self, path: Any) -> Training:
        """What ``Training.save`` wrote, of this network."""
        return load(self, path)
