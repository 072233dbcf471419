"""What a module returned, compared with what the witness of one case says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..language.dtypes import FLOAT64, DType
from .arithmetic import Array
from .evaluation import Entity
from .report import DIRECT, Finding, broken
from .tolerances import Tolerance
from .witnesses import Pushed, Witness

_EXACT, _DIFFERENCE, _DOT_PRODUCT = "complex step", "central difference", "⟨Jv, w⟩ = ⟨v, Jᵀw⟩"
_USELESS = 1e-4  # where an entry's difference is off by more, it is left to the complex step


class Comparison:
    """One case: the witness, and how far a module may be from it."""

    def __init__(self, witness: Witness, tolerance: Tolerance) -> None:
        self.witness, self.tolerance = witness, tolerance
        self.case, self.dtype = witness.case, witness.dtype

    def forward(self, y: Any, final: Mapping[str, Any]) -> Iterator[Finding]:
        """Outputs (T, B, size), of which several are a dict, and final states (B, size)."""
        base, names = self.witness.base, [v.name for v in self.witness.cell.outputs]
        several = len(names) > 1
        if several and not isinstance(y, Mapping):
            yield broken(f"y is a {type(y).__name__}, not a dict of {', '.join(names)}")
            return
        for name in names:
            want = np.stack([self.whole(outputs[name]) for outputs in base.outputs])
            got, what = (y.get(name), f"y[{name}]") if several else (y, "y")
            yield self._values(want, got, what)
        for name, a in base.states[-1].items():
            yield self._values(self.whole(a), final.get(name), f"final {name}")

    def step(self, t: int, new: Mapping[str, Any]) -> Iterator[Finding]:
        """What the streaming step makes of the states before step ``t``."""
        base = self.witness.base
        wanted = {n: self.whole(a) for n, a in base.states[t + 1].items()}
        for output in self.witness.cell.outputs:
            if output.category != "state":
                wanted[output.name] = self.whole(base.outputs[t][output.name])
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

    def tangents(self, pushed: Pushed) -> Iterator[Finding]:
        """Jv by forward mode, of outputs and of final states, against dual numbers."""
        wanted = self.witness.tangents
        several = len(wanted.outputs) > 1
        pairs = {
            f"y[{n}]" if several else "y": (a, pushed.outputs[n]) for n, a in wanted.outputs.items()
        }
        pairs |= {f"final {n}": (a, pushed.final[n]) for n, a in wanted.final.items()}
        for what, (want, got) in pairs.items():
            scale = self.tolerance.tangent_scale(want)
            yield self._with_condition(
                self.witness.entities,
                _EXACT,
                want,
                got,
                scale,
                self.tolerance.tangents,
                what,
                FLOAT64,
            )

    def dot_product(
        self, pushed: Pushed, full: Mapping[Entity, Any], partial: Mapping[Entity, Any]
    ) -> Iterator[Finding]:
        """⟨Jv, w⟩ by forward mode against ⟨v, Jᵀw⟩, where w are the cotangents of the case, with
        those of the final states and without, and Jᵀw the gradients that the module returned.

        v and w are normal, and the rounding of Jᵀw does not depend on v, nor that of Jv on w. So an
        error e of Jᵀw brings a ⟨v, e⟩ that is normal, of standard deviation ‖e‖, however the
        entries of e depend on each other; and as much holds of Jv. Four deviations are allowed.
        """
        case, tolerance = self.case, self.tolerance
        through_outputs = _dot(case.dy, pushed.outputs)
        through_states = _dot(case.dstate, pushed.final)
        share = tolerance.tangent_length / tolerance.length
        allowed = 4 * (tolerance.gradients + tolerance.tangents * share)
        wanted = {"": through_outputs + through_states, "dstate=None": through_outputs}
        for (note, want), gradients in zip(wanted.items(), (full, partial), strict=True):
            yield self._with_condition(
                self.witness.entities, _DOT_PRODUCT, np.asarray(want), self._along(gradients),
                tolerance.length, allowed, note, FLOAT64,
            )  # fmt: skip

    def whole(self, a: Array) -> Array:
        """The one copy of an unperturbed value, for all rows."""
        return np.broadcast_to(a[0], (self.case.batch, *a.shape[2:]))

    def _along(self, gradients: Mapping[Entity, Any]) -> Array | None:
        """⟨v, Jᵀw⟩; None if a gradient is missing, or has another shape than what it is of."""
        entities = self.witness.entities
        found = {e: np.asarray(gradients.get(e), dtype=float) for e in entities}  # NaN of None
        if any(found[e].shape != self.case.values[e].shape for e in entities):
            return None
        return np.asarray(_dot({e: self.witness.direction[e] for e in entities}, found))

    def _exactly(self, entity: Entity, want: Array, got: Any, note: str) -> Finding:
        scale, allowed = self.tolerance.scale(entity), self.tolerance.gradients
        return self._with_condition([entity], _EXACT, want, got, scale, allowed, note)

    def _values(self, want: Array, got: Any, what: str) -> Finding:
        # Relative to the array's largest entry, but a state that a step takes away is relative to
        # the others: it is a difference of theirs.
        scale = max(float(np.max(np.abs(want), initial=0.0)), self.tolerance.largest / 20)
        allowed = self.tolerance.results
        return self._with_condition([None], DIRECT, want, got, scale, allowed, what)

    def _with_condition(
        self,
        keys: Iterable[Entity | None],
        witness: str,
        want: Array,
        got: Any,
        scale: float,
        tolerance: float,
        note: str,
        dtype: DType | None = None,
    ) -> Finding:
        """Compare; if rounding does not explain the error, allow for how the case amplifies it:
        that of ``keys`` which it amplifies most.
        """
        note = ", ".join(filter(None, [note, self.case.name]))
        finding = self._compare(witness, want, got, scale, tolerance, note, dtype)
        if finding.passed or not math.isfinite(finding.error):
            return finding
        factor = max(self.tolerance.condition(key) for key in keys)
        allowed = max(tolerance, min(tolerance * factor, self.tolerance.ceiling))
        return self._compare(witness, want, got, scale, allowed, note, dtype)

    def _compare(
        self,
        witness: str,
        want: Array,
        got: Any,
        scale: float,
        tolerance: Any,
        note: str = "",
        dtype: DType | None = None,
    ) -> Finding:
        """The entry with the largest error over its tolerance; NaN in ``want`` is left out.

        ``got`` is to be of the module's type, if not of ``dtype``.
        """
        if got is None:
            return broken("is missing")
        got, dtype = np.asarray(got), dtype or self.dtype
        if got.shape != want.shape:
            return broken(f"has shape {got.shape} where {want.shape} is expected")
        if got.dtype != dtype.storage.name:
            return broken(f"is {got.dtype} where {dtype} is expected")
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


def _dot(one: Mapping[Any, Array], other: Mapping[Any, Array]) -> float:
    """The sum of all products of entries."""
    with np.errstate(all="ignore"):  # what is not finite is looked for in the result
        return sum(float(np.vdot(a, other[key])) for key, a in one.items())
