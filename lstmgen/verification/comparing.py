"""What a module returned, compared with what the witness of one case says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .arithmetic import Array
from .evaluation import Entity
from .report import Finding, broken
from .tolerances import Tolerance
from .witnesses import Witness

_EXACT, _DIFFERENCE, _DIRECT = "complex step", "central difference", "against the equations"
_USELESS = 1e-4  # where an entry's difference is off by more, it is left to the complex step


class Comparison:
    """One case: the witness, and how far a module may be from it."""

    def __init__(self, witness: Witness, tolerance: Tolerance) -> None:
        self.witness, self.tolerance = witness, tolerance
        self.case, self.dtype = witness.case, witness.dtype

    def forward(self, y: Any, final: Mapping[str, Any]) -> Iterator[Finding]:
        """Outputs (T, B, size), and final states (B, size)."""
        base = self.witness.base
        yield self._values(np.stack([self.whole(a) for a in base.outputs]), y, "y")
        for name, a in base.states[-1].items():
            yield self._values(self.whole(a), final.get(name), f"final {name}")

    def step(self, t: int, new: Mapping[str, Any]) -> Iterator[Finding]:
        """What the streaming step makes of the states before step ``t``."""
        base, output = self.witness.base, self.witness.cell.output
        wanted = {n: self.whole(a) for n, a in base.states[t + 1].items()}
        if output.category != "state":
            wanted[output.name] = self.whole(base.outputs[t])
        for name, want in wanted.items():
            yield self._values(want, new.get(name), f"{name}, step {t + 1}")

    def gradient(self, entity: Entity, full: Any, partial: Any) -> Iterator[Finding]:
        """∂L/∂entity with and without cotangents of the final states."""
        through_outputs, through_states = self.witness.complex_step(entity)
        yield self._exactly(entity, through_outputs + through_states, full, "")
        yield self._exactly(entity, through_outputs, partial, "dstate=None")

    def difference(self, entity: Entity, full: Any, exact: Finding) -> Finding:
        """∂L/∂entity against central differences, where ``exact`` is what the complex step found.

        The tolerance is the difference's own error, beside the module's. An entry that is known to
        straddle a kink at every h says nothing, and is left to the complex step.
        """
        scale = self.tolerance.scale(entity)
        value, bound = self.witness.central_difference(entity)
        allowed = max(self.tolerance.gradients, exact.tolerance if exact.passed else 0.0)
        value = np.where(bound / scale < _USELESS, value, np.nan)
        return self._compare(_DIFFERENCE, value, full, scale, allowed + bound / scale)

    def whole(self, a: Array) -> Array:
        """The one copy of an unperturbed value, for all rows."""
        return np.broadcast_to(a[0], (self.case.batch, *a.shape[2:]))

    def _exactly(self, entity: Entity, want: Array, got: Any, note: str) -> Finding:
        scale, allowed = self.tolerance.scale(entity), self.tolerance.gradients
        note = ", ".join(filter(None, [note, self.case.name]))
        return self._with_condition(
            entity,
            lambda factor: self._compare(_EXACT, want, got, scale, allowed * factor, note),
        )

    def _values(self, want: Array, got: Any, what: str) -> Finding:
        allowed = self.tolerance.results
        note = ", ".join(filter(None, [what, self.case.name]))
        # Relative to the array's largest entry, but a state that a step takes away is relative to
        # the others: it is a difference of theirs.
        scale = max(float(np.max(np.abs(want), initial=0.0)), self.tolerance.largest / 20)
        return self._with_condition(
            None,
            lambda factor: self._compare(_DIRECT, want, got, scale, allowed * factor, note),
        )

    def _with_condition(self, key: Entity | None, compare: Callable[[float], Finding]) -> Finding:
        """Compare; if rounding does not explain the error, allow for how the case amplifies it."""
        finding = compare(1.0)
        if finding.passed or not math.isfinite(finding.error):
            return finding
        ceiling = self.tolerance.ceiling / finding.tolerance
        return compare(max(1.0, min(self.tolerance.condition[key], ceiling)))

    def _compare(
        self, witness: str, want: Array, got: Any, scale: float, tolerance: Any, note: str = ""
    ) -> Finding:
        """The entry with the largest error over its tolerance; NaN in ``want`` is left out."""
        if got is None:
            return broken("is missing")
        got = np.asarray(got)
        if got.shape != want.shape:
            return broken(f"has shape {got.shape} where {want.shape} is expected")
        if got.dtype != self.dtype.storage.name:
            return broken(f"is {got.dtype} where {self.dtype} is expected")
        with np.errstate(all="ignore"):
            error = np.abs(got.astype(float) - want) / scale
        error = np.where(np.isfinite(got), error, np.inf)
        left_out = np.isnan(want)
        allowed = np.broadcast_to(tolerance, error.shape)
        ratio = np.where(left_out, -1.0, error / np.where(left_out, 1.0, allowed))
        index = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        if not got.size or left_out.all():
            return Finding(witness, 0.0, 1.0, note="left to the other witness")
        return Finding(
            witness, float(error[index]), float(allowed[index]), tuple(int(i) for i in index),
            float(want[index]), float(got[index]), note,
        )  # fmt: skip
