"""The witnesses: what the gradients of a case are, by evaluation of the equations alone.

The complex step knows of calculus no more than the slope of each function, and the central
difference knows nothing. At a kink or a tie the complex step judges alone, by the slopes that
``arithmetic`` promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from sympy import Eq

from ..language.cell import Cell
from ..language.dtypes import DType
from .arithmetic import Array, Dual, Number
from .cases import Case
from .evaluation import Entity, Evaluator, Shake, Trace, Walk
from .rounding import Rounding, decisions, is_settled

_COPIES = 384  # perturbed copies evaluated at once: enough to amortise Python, and small in memory
_NUMBERS = 2**22  # that all copies of a value may have

# For smooth cells h balances truncation, h⁶ f⁽⁷⁾ / 3e5, and rounding, 1e-15 / h. For cells with
# kinks a small h makes it unlikely to straddle one: with some hundred relu in a case, ±1e-4 meets a
# kink for about 1 entry in 100.
_STEPS_SMOOTH = (2.0**-6, 2.0**-9, 2.0**-12, 2.0**-15, 2.0**-18, 2.0**-21, 2.0**-24)
_STEPS_KINKED = (2.0**-13, 2.0**-17, 2.0**-21)


@dataclass(frozen=True)
class Pushed:
    """Jv: the tangents of a sequence's outputs (T, B, *shape), and of its final states
    (B, *shape), by name.
    """

    outputs: dict[str, Array]
    final: dict[str, Array]

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All of them."""
        return (*self.outputs.values(), *self.final.values())


class Witness:
    """The gradients of one case, by evaluation alone.

    L = <dy, y> + <dstate, final states>, and the two parts are kept apart: the first alone is what
    a module gives for ``dstate=None``.

    Parameters
    ----------
    cell : Cell
    case : Case
    sizes : mapping of str to int
    dtype : DType
        Of the module to be judged. The witness itself computes in float64.
    shake : Shake, optional
        The rounding of another program, imitated.
    """

    def __init__(
        self,
        cell: Any,
        case: Case,
        sizes: Mapping[str, int],
        dtype: DType,
        shake: Shake | None = None,
    ) -> None:
        self.cell, self.case, self.sizes, self.dtype, self.shake = cell, case, sizes, dtype, shake
        self.evaluator = self._evaluator()
        self.given = self._given()
        self.start = {e: lift(e, v[None]) for e, v in case.values.items()}
        fixed = {("parameter", p.name) for p in cell.parameters if not p.learned}
        self.entities = [e for e in case.values if e not in fixed]  # those that have a gradient
        self._infinite: set[Eq] = set()  # equations that have no finite value
        self.extent = 0.0  # the largest finite value of any equation
        self.base = self._run(self.start, shake, after=self._look)
        self._exact: dict[Entity, tuple[Array, Array]] = {}
        self._differences: dict[Entity, tuple[Array, Array]] = {}

    def _evaluator(self) -> Any:
        return Evaluator(self.cell)

    def _given(self) -> dict[str, Any]:
        """Masks and constants, as the evaluator has them."""
        return {
            n: v[:, None] if isinstance(v, np.ndarray) else np.full((1, 1, 1), float(v))
            for n, v in self.case.given.items()
        }

    def _look(self, walk: Walk, cell: Cell) -> None:
        values = {e: walk(e.lhs) for e in cell.equations}
        self._infinite |= {e for e, value in values.items() if not np.isfinite(value).all()}
        self.extent = max(self.extent, *map(_extent, values.values()))

    @property
    def is_finite(self) -> bool:
        """Whether all equations have finite values."""
        return not self._infinite

    def _run(
        self,
        values: Mapping[Entity, Number],
        shake: Shake | None = None,
        frozen: bool = False,
        after: Callable[[Walk, Cell], None] | None = None,
    ) -> Trace:
        kept = self.base.frozen if frozen else None
        with np.errstate(all="ignore"):  # NaN and overflow are looked for, in the results
            made: Trace = self.evaluator.run(
                values, self.given, self.sizes, kept, shake=shake, after=after
            )
            return made

    @cached_property
    def largest(self) -> float:
        """The largest output or state; NaN if the equations have no value, or the precision of the
        module has none.
        """
        found = results_of(self.base)
        if self.extent > min(1e-6 * self.dtype.largest, self.dtype.of_tape.largest):
            return math.nan
        return float(np.max([np.max(np.abs(a)) if np.isfinite(a).all() else np.nan for a in found]))

    @cached_property
    def argument(self) -> float:
        """The largest argument."""
        return max(float(np.max(np.abs(v), initial=0.0)) for v in self.case.values.values())

    @cached_property
    def has_derivative(self) -> bool:
        """Whether the derivative in a random direction is finite."""
        limit = 1e-6 * self.dtype.largest
        return all((np.abs(_slope(a)) < limit).all() for a in results_of(self.along))

    @cached_property
    def direction(self) -> dict[Entity, Array]:
        """A random change v of all arguments that have a gradient, in the evaluator's layout."""
        rng = np.random.default_rng(0)
        found = {e: rng.normal(size=v.shape) for e, v in self.start.items()}
        return {e: v if e in self.entities else np.zeros_like(v) for e, v in found.items()}

    @cached_property
    def along(self) -> Trace:
        """The evaluation with derivatives in ``direction``."""
        return self._along(None)

    def _along(self, shake: Shake | None) -> Trace:
        return self._run({e: Dual(v, self.direction[e]) for e, v in self.start.items()}, shake)

    @cached_property
    def tangents(self) -> Pushed:
        """Jv, where v is ``direction``."""
        trace, case = self.along, self.case
        outputs = {
            n: np.stack([_of_one(_slope(ys[n]), dy[0]) for ys in trace.outputs])
            for n, dy in case.dy.items()
        }
        final = {n: _of_one(_slope(a), case.dstate[n]) for n, a in trace.states[-1].items()}
        return Pushed(outputs, final)

    def troubled(self) -> str:
        """The first equation that has no finite value, as text."""
        for k, equation in enumerate(self.cell.equations):
            if equation in self._infinite:
                return f"equation {k + 1}, {equation.lhs} = {equation.rhs}"
        return "the equations' derivatives"

    # ------------------------------------------------------------------ rounding

    @cached_property
    def _rounded(self) -> tuple[bool, float, float]:
        """What rounding does: whether all decisions stand, and how much more than the error of a
        single operation the results and L are off, both as numbers.
        """
        # beyond what a module's functions are off, and what values on a tape are
        amount = max(32 * self.dtype.eps, self.dtype.of_tape.eps)
        settled: list[bool] = []
        moved = self._run(
            self.start,
            Rounding(amount, self.dtype, copies=5),
            after=lambda walk, cell: settled.append(is_settled(walk, decisions(cell))),
        )
        pairs = zip(results_of(moved), results_of(self.base), strict=True)
        with np.errstate(all="ignore"):
            results = max(float(np.max(np.abs(a - b))) for a, b in pairs)
            loss = float(np.max(np.abs(self._losses(moved).sum(axis=0))))
        return all(settled), results / amount, loss / amount

    @property
    def settled(self) -> bool:
        """Whether another program that is as right decides alike at all kinks and ties."""
        return self._rounded[0]

    @property
    def spread(self) -> float:
        """How far the results are off, for operations that are off by 1."""
        return self._rounded[1]

    @property
    def noise(self) -> float:
        """The rounding error of L, in the evaluation itself.

        Operations are off by eps/2 at most. The largest of four samples may be a third of what
        rounding does in the worst of some thousand evaluations.
        """
        return 4 * self._rounded[2] * float(np.finfo(float).eps) / 2

    @cached_property
    def amplified(self) -> float:
        """How much more than one the relative error of results and derivatives is."""
        amount = 32 * self.dtype.eps
        moved = self._along(Rounding(amount, self.dtype))
        one, other = results_of(self.along), results_of(moved)
        slopes = max(float(np.max(np.abs(_slope(a)))) for a in one)
        with np.errstate(all="ignore"):
            distance = max(
                float(np.max(np.abs(_slope(a) - _slope(b))))
                for a, b in zip(one, other, strict=True)
            )
            derivatives = distance / slopes / amount if slopes else 0.0
            found = max(derivatives, self.spread / max(self.largest, 1e-30))
        return found if math.isfinite(found) else math.inf

    # ------------------------------------------------------------------ witnesses

    def again(self, values: dict[Entity, Array], shake: Shake) -> Witness:
        """The witness of the same case with other values, and with rounding."""
        case = replace(self.case, values=values)
        return type(self)(self.cell, case, self.sizes, self.dtype, shake)

    def _losses(self, trace: Trace) -> Array:
        """How far both parts of L are from their unperturbed values, (2, K).

        The unperturbed outputs are subtracted first: the large part of L, and with it most of the
        rounding of its sum, cancels exactly.
        """
        with np.errstate(all="ignore"):
            outputs = [
                {n: y[n] - y0[n] for n in y}
                for y, y0 in zip(trace.outputs, self.base.outputs, strict=True)
            ]
            final = {n: a - self.base.states[-1][n] for n, a in trace.states[-1].items()}
            return self._weighted(outputs, final)

    def _weighted(
        self, outputs: Sequence[Mapping[str, Array]], final: Mapping[str, Array]
    ) -> Array:
        """<dy, outputs> and <dstate, final>, (2, K)."""
        dy = self.case.dy
        through_outputs = sum(
            _of_each_copy(dy[n][t] * y) for t, ys in enumerate(outputs) for n, y in ys.items()
        )
        through_states = sum(
            (_of_each_copy(d * final[n]) for n, d in self.case.dstate.items()), np.zeros(1)
        )
        return np.stack(np.broadcast_arrays(through_outputs, through_states))

    def _slopes(self, trace: Trace) -> Array:
        """The derivatives of both parts of L, (2, K)."""
        with np.errstate(all="ignore"):
            final = {n: _slope(a) for n, a in trace.states[-1].items()}
            outputs = [{n: _slope(y) for n, y in ys.items()} for ys in trace.outputs]
            return self._weighted(outputs, final)

    def _chunks(self, entries: Array, copies: int, size: int) -> Iterator[Array]:
        """``entries`` in pieces, where each takes so many copies of a value of ``size`` numbers."""
        chunk = max(1, min(_COPIES, _NUMBERS // max(1, size)) // copies)
        for start in range(0, len(entries), chunk):
            yield entries[start : start + chunk]

    def _perturbed(self, entity: Entity, entries: Array, offsets: Array) -> Array:
        """Losses for each of ``entries``, flat indices, moved by each offset:
        (2, entries, offsets).
        """
        value = self.case.values[entity]
        found = []
        for some in self._chunks(entries, len(offsets), value.size):
            copies = np.repeat(value.reshape(1, -1), len(some) * len(offsets), axis=0)
            rows = np.arange(len(copies))
            copies[rows, np.repeat(some, len(offsets))] += np.tile(offsets, len(some))
            moved = lift(entity, copies.reshape(-1, *value.shape))
            losses = self._losses(self._run({**self.start, entity: moved}, frozen=True))
            losses = np.broadcast_to(losses, (2, len(copies)))  # what nothing reads moves nothing
            found.append(losses.reshape(2, len(some), len(offsets)))
        return np.concatenate(found, axis=1) if found else np.zeros((2, 0, len(offsets)))

    def complex_step(self, entity: Entity) -> tuple[Array, Array]:
        """∂L/∂entity through the outputs, and through the final states.

        Nothing is subtracted, so it is exact to rounding. At a kink or a tie it is the slope that
        ``arithmetic`` promises.
        """
        if entity not in self._exact:
            value = self.case.values[entity]
            found = [np.zeros((2, 0))]
            for some in self._chunks(np.arange(value.size), 1, value.size):
                directions = np.zeros((len(some), value.size))
                directions[np.arange(len(some)), some] = 1
                slope = lift(entity, directions.reshape(-1, *value.shape))
                trace = self._run(
                    {**self.start, entity: Dual(self.start[entity], slope)}, self.shake
                )
                through = self._slopes(trace)
                found.append(np.broadcast_to(through, (2, len(some))))
            a, b = np.concatenate(found, axis=1)
            self._exact[entity] = (a.reshape(value.shape), b.reshape(value.shape))
        return self._exact[entity]

    def central_difference(self, entity: Entity) -> tuple[Array, Array]:
        """∂L/∂entity, and a bound on the error of each entry.

        Differences over ±h, ±h/2 and ±h/4 are extrapolated (Romberg), which leaves an error of
        order h⁶, and one of order h⁴ to judge it by. An entry is settled at the first h at which
        the orders agree to within rounding; smaller h follow for the others, at the price of more
        rounding, and the best is taken.

        A kink within ±h shows in two ways that smooth functions do not have: the slopes on both
        sides differ by more than h f″ explains, or the extrapolations disagree. For a jump J of
        the slope at s in [0, h] the error is at most J/2, and those doubts are at least J/6.
        """
        if entity not in self._differences:
            self._differences[entity] = self._differentiate(entity)
        return self._differences[entity]

    def _differentiate(self, entity: Entity) -> tuple[Array, Array]:
        shape = self.case.values[entity].shape
        value, bound = self._extrapolated(
            int(np.prod(shape)), lambda some, offsets: self._perturbed(entity, some, offsets)
        )
        return value.reshape(shape), bound.reshape(shape)

    def _extrapolated(
        self, size: int, perturbed: Callable[[Array, Array], Array]
    ) -> tuple[Array, Array]:
        """The slopes of L by ``size`` numbers, and bounds on their errors, from what L is where
        some of the numbers are moved by each of some offsets: (2, numbers, offsets).
        """
        value, bound, doubts = np.zeros(size), np.full(size, np.inf), np.full(size, np.inf)
        open_ = np.arange(size)
        for h in _STEPS_SMOOTH if self.cell.is_analytic else _STEPS_KINKED:
            if not len(open_):
                break
            offsets = np.array([h, -h, h / 2, -h / 2, h / 4, -h / 4])
            losses = perturbed(open_, offsets).sum(axis=0)
            forward, backward = losses[:, 0::2].T, losses[:, 1::2].T
            steps = np.array([[h], [h / 2], [h / 4]])
            slopes = (forward - backward) / (2 * steps)
            fourth = (4 * slopes[1:] - slopes[:-1]) / 3
            sixth = (16 * fourth[1] - fourth[0]) / 15
            doubt = np.abs(fourth[1] - fourth[0])
            if not self.cell.is_analytic:
                curving = (forward + backward) / steps  # h f″, halved with h
                doubt = doubt + np.abs(curving[:-1] - 2 * curving[1:]).sum(axis=0)
            # The weights of the six values in the extrapolation add up to less than 14 / h.
            rounding = 14 * self.noise / h
            new = rounding + 4 * doubt
            # Where a smaller h is no better, the larger one was not small enough for the orders to
            # say anything, whatever they agreed on: L has poles in between, or is chaotic.
            denied = ~(doubt <= np.maximum(doubts[open_] / 4, rounding))
            better = (new < bound[open_]) | denied
            value[open_[better]] = sixth[better]
            bound[open_[better]] = new[better]
            doubts[open_] = doubt
            open_ = open_[~(doubt <= rounding)]
        return value, bound


def lift(entity: Entity, copies: Array) -> Array:
    """An array with a leading axis of copies, in the evaluator's layout."""
    kind, _ = entity
    if kind == "input":
        return np.moveaxis(copies, 0, 1)  # (T, K, B, *shape)
    return copies[:, None] if kind == "parameter" else copies  # the same for all rows


def _of_each_copy(a: Array) -> Array:
    """The sum over rows and units, (K,)."""
    return np.asarray(a.sum(axis=tuple(range(1, a.ndim))))


def _of_one(a: Array, like: Array) -> Array:
    """The one copy of a quantity, for all rows and units that ``like`` has."""
    return np.broadcast_to(a[0], like.shape)


def results_of(trace: Trace) -> list[Any]:
    """All outputs and states of a sequence."""
    return [a for found in (*trace.outputs, *trace.states) for a in found.values()]


def _extent(a: Array) -> float:
    return float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))


def _slope(a: Number) -> Array:
    return a.slope if isinstance(a, Dual) else np.zeros((1,) * a.ndim)
