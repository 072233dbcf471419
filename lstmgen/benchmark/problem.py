"""What is to be computed: arrays of one shape, the right results, and whether others match them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LstmgenError
from ..language import dtypes
from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.sizes import Size
from ..planning.plans import Plan
from ..planning.schedule import plan
from ..runtime.toolchain import compile
from ..verification.evaluation import number

Array = NDArray[Any]
Values = dict[str, Array]

INFERENCE, TRAINING, STEP = "inference", "training", "step"
WORKS = {
    INFERENCE: "forward over a sequence, nothing kept",
    TRAINING: "forward and backward, with all gradients",
    STEP: "one streaming step",
}


class MismatchError(LstmgenError):
    """A contender computes something else than the cell's equations."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A cell, its sizes (T and B among them), and one of ``WORKS``; the arrays follow from them.

    Weights are uniform in ±1/√columns, as PyTorch's; no array is zero, so that nothing that a
    contender mixes up can go unseen. Learned vectors lie around half of where they start: with
    gains of 1, a random layer-normalised cell is chaotic, and rounding errors grow from step to
    step until no two programs agree.
    """

    cell: Cell
    sizes: Mapping[str, int]
    work: str
    dtype: str = "float32"
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        needed = {"T", "B", *(str(n) for n in self.cell.sizes)}
        unknown = sorted(set(self.sizes) - needed)
        if unknown:
            known = ", ".join(("T", "B", *map(str, self.cell.sizes)))
            raise LstmgenError(f"{self.cell.name} has no size {unknown[0]}; it has {known}")
        missing = sorted(needed - set(self.sizes))
        if missing:
            raise LstmgenError(f"{self.cell.name} needs the size {missing[0]}")

    def __str__(self) -> str:
        sizes = self.sizes if self.work != STEP else {k: n for k, n in self.sizes.items()
                                                      if k != "T"}  # fmt: skip
        shape = " ".join(f"{name}={n}" for name, n in sizes.items())
        return f"{self.cell.name} {self.work} {shape}"

    @property
    def steps(self) -> int:
        return 1 if self.work == STEP else self.sizes["T"]

    @property
    def flops(self) -> float:
        """The arithmetic of the equations and of the derived gradients, by the plan."""
        made = _plan(self.cell)
        cost = made.flops if self.work == TRAINING else made.flops_of(made.forward)
        numbers = {**self.sizes, "T": self.steps}
        return float(cost.subs({Size(name): n for name, n in numbers.items()}))

    # ------------------------------------------------------------------ arrays

    def _shape(self, *sizes: Any) -> tuple[int, ...]:
        return tuple(number(n, self.sizes) for n in sizes)

    @cached_property
    def _arrays(self) -> dict[str, dict[str, Any]]:
        rng, cell = np.random.default_rng(self.seed), self.cell
        lead = (self.steps, self.sizes["B"])

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(self.dtype)

        params: dict[str, Any] = {}
        for p in cell.parameters:
            shape = self._shape(*cell.shape(p))
            if isinstance(p, Matrix):
                limit = 1 / np.sqrt(shape[-1])
                params[p.name] = rng.uniform(-limit, limit, shape).astype(self.dtype)
            else:
                middle = np.asarray(cell.starts_at(p) / 2, self.dtype)
                params[p.name] = middle + np.asarray(0.1, self.dtype) * normal(*shape)
        for c in cell.constants:
            value = cell.initial(c)
            params[c.name] = 0.1 if value is None else value
        half = np.asarray(0.5, self.dtype)
        return {
            "params": params,
            "inputs": {v.name: normal(*lead, *self._shape(*cell.shape(v))) for v in cell.inputs},
            "masks": {v.name: normal(*lead, *self._shape(*cell.shape(v))) for v in cell.masks},
            # above 0, as a state that others are divided by has to be
            "state": {s.name: half * np.abs(normal(lead[1], *self._shape(*cell.shape(s))))
                      for s in cell.states},
            "dy": {v.name: normal(*lead, *self._shape(*cell.shape(v))) for v in cell.outputs},
        }  # fmt: skip

    @property
    def params(self) -> dict[str, Any]:
        """Learned arrays and constants, by name."""
        return self._arrays["params"]

    @property
    def inputs(self) -> dict[str, Array]:
        """(T, B, size) each; T is 1 for a single step."""
        return self._arrays["inputs"]

    @property
    def masks(self) -> dict[str, Array]:
        return self._arrays["masks"]

    @property
    def state(self) -> dict[str, Array]:
        """What comes into the first step."""
        return self._arrays["state"]

    @property
    def dy(self) -> Any:
        """The derivative of the loss by the output of every step; of several, a dict."""
        return self.joined(self._arrays["dy"])

    @property
    def dys(self) -> list[Array]:
        """The same, of each output in order."""
        return list(self._arrays["dy"].values())

    def joined(self, by_output: Mapping[str, Array]) -> Any:
        """One output is an array, several are a dict."""
        return by_output if len(by_output) > 1 else by_output[self.cell.output.name]

    def values(self) -> dict[str, Any]:
        """All that goes in, by name."""
        return {**self.params, **self.inputs, **self.masks, **self.state}

    # ------------------------------------------------------------------ results

    def results(
        self,
        y: Any,
        final: Mapping[str, Any],
        gradients: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> Values:
        """Results by the names that messages use. What the work does not ask for is left out."""
        found = {f"final {name}": a for name, a in final.items()}
        several = len(self.cell.outputs) > 1
        for v in self.cell.outputs:
            if self.work != STEP or v.name not in final:
                found[f"y[{v.name}]" if several else "y"] = y[v.name] if several else y
        if self.work == TRAINING:
            found |= {f"∂L/∂{name}": a for name, a in (gradients or {}).items()}
            found |= {f"∂L/∂{name}": a for name, a in (inputs or {}).items()}
            found |= {f"∂L/∂{name}[0]": a for name, a in (initial or {}).items()}
        return {name: np.asarray(a) for name, a in found.items()}

    @cached_property
    def reference(self) -> Values:
        """The right results: our NumPy code in float64, on the same numbers."""
        module = compile(self.cell, "numpy")

        def wide(arrays: Mapping[str, Any]) -> dict[str, Any]:
            return {name: np.asarray(a, dtype=float)[()] for name, a in arrays.items()}

        x = wide(self.inputs)
        several = len(x) > 1
        masks = {"masks": wide(self.masks)} if self.masks else {}
        params = {n: float(a) if np.ndim(a) == 0 else a for n, a in wide(self.params).items()}
        given = x if several else next(iter(x.values()))
        y, final, tape = module.forward(params, given, wide(self.state), **masks)
        if self.work != TRAINING:
            return self.results(y, final)
        dy = self.joined(wide(self._arrays["dy"]))
        gradients, dx, initial = module.backward(params, tape, dy)
        dx = dx if several else {next(iter(x)): dx}
        return self.results(y, final, gradients, dx, initial)

    def check(self, who: str, values: Mapping[str, Array]) -> None:
        """Compare what ``who`` computed.

        Raises
        ------
        MismatchError
            If a result is missing or differs by more than rounding can; it names the tensor.
        """
        # Of a tensor's largest entry: half of all digits. Sums over all steps and rows are added up
        # in another order.
        tolerance = 0.3 * math.sqrt(dtypes.dtype(self.dtype).eps)
        for name, right in self.reference.items():
            if name not in values:
                raise MismatchError(f"{who} does not compute {name} ({self})")
            found = values[name]
            if found.shape != right.shape:
                raise MismatchError(
                    f"{who} gives {name} the shape {found.shape}, not {right.shape} ({self})"
                )
            largest = float(np.abs(right).max()) or 1.0
            off = float(np.abs(found - right).max()) / largest
            if not off <= tolerance:  # also if it is not a number
                raise MismatchError(
                    f"{who} disagrees in {name}: off by {off:.2g} of its largest entry, where "
                    f"{tolerance:.0e} is allowed ({self})"
                )


@lru_cache(maxsize=32)
def _plan(cell: Cell) -> Plan:
    return plan(cell)
