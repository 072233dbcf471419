"""Verification: a generated module held against the cell's own equations.

The forward pass is compared with a direct evaluation of the equations as their author wrote them:
a walk over the SymPy trees, without normal form, plan, templates or generated text. The gradients
are compared with two witnesses made of that evaluation alone: the complex step, which knows of
calculus no more than the slope of each function, and the central difference, which knows nothing.
So nothing that leads from the equations to the module under test is used to judge it.

The cases are those in which a wrong backward pass shows: more than two steps, initial states that
are not zero, cotangents on every output and on every final state, all sizes different, several
rows, weights of order 1; the same from other seeds; and beside them a single step of a single row.

Random values never meet a kink. So there are cases that do: states and inputs of zero, as at the
start of a padded sequence, units and inputs that are equal, and values where the equations' own
conditions change; and one with inputs so large that gates saturate. There the complex step judges
alone, by the slopes that ``evaluation`` promises, and only where arithmetic is exact: whether
tanh(a) = tanh(b) may be different in another program that is as right (``rounding``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from sympy import Expr

from ..errors import LstmgenError, require_cell
from ..language.cell import Cell
from ..language.symbols import Matrix, Product, Reduction, Vector
from .evaluation import Array, Dual, Entity, Evaluator, Number, Shake, Trace, Walk, number
from .report import Finding, Report, Row, broken, worst_of_each
from .rounding import Rounding, decisions, is_settled
from .supervision import TIMEOUT, Progress, Task, supervise

__all__ = ["Case", "Examination", "Finding", "Report", "Row", "check"]

# --------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A sequence to judge a module by: its arrays in the layout of the module's face.

    ``values`` holds the parameters, inputs and initial states; ``given`` the masks and constants;
    ``dy`` and ``dstate`` the cotangents. All are float64, and already rounded to the precision of
    the module, so that rounding its arguments is no part of its error.
    """

    name: str
    steps: int
    batch: int
    values: dict[Entity, Array]
    given: dict[str, Any]
    dy: Array
    dstate: dict[str, Array]


# How cases are tried until the equations have a finite value and derivative: the scale of the
# values, and whether all are made positive (for a logarithm or a root).
_ATTEMPTS = (
    (1.0, False), (1.0, False), (0.5, False), (0.25, False), (1.0, True), (0.5, True), (0.25, True),
    (0.1, False), (0.1, True),
)  # fmt: skip
_TAME = 1e4  # values beyond this are taken only if no attempt stays below


class _Maker:
    """Draws the values of a case: random ones."""

    def __init__(
        self,
        cell: Cell,
        sizes: Mapping[str, int],
        dtype: np.dtype[Any],
        seed: Sequence[int],
        scale: float = 1.0,
        positive: bool = False,
    ) -> None:
        self.cell, self.sizes, self.dtype = cell, sizes, dtype
        self.scale, self.positive = scale, positive
        self.rng = np.random.default_rng(seed)

    def make(self, name: str, steps: int, batch: int) -> Case:
        cell, shape = self.cell, self._shape
        values: dict[Entity, Array] = {}
        for p in cell.parameters:
            values["parameter", p.name] = self._rounded(self.parameter(p, shape(p)))
        for x in cell.inputs:
            values["input", x.name] = self._rounded(self.input((steps, batch, *shape(x))))
        for s in cell.states:
            values["state", s.name] = self._rounded(self.state((batch, *shape(s))))
        given: dict[str, Any] = {}
        for m in cell.masks:
            given[m.name] = self.rng.integers(0, 2, (steps, batch, *shape(m))).astype(float)
        for c in cell.constants:
            default = cell.initial(c)
            given[c.name] = self.rng.uniform(0.3, 0.9) if default is None else default
        dy = self._rounded(self.rng.normal(size=(steps, batch, *shape(cell.output))))
        dstate = {
            s.name: self._rounded(self.rng.normal(size=(batch, *shape(s)))) for s in cell.states
        }
        return Case(name, steps, batch, values, given, dy, dstate)

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        drawn = self._drawn(shape)
        if isinstance(p, Matrix):
            # Of order 1 for the handful of columns of a case; their sum does not saturate.
            return drawn * 1.2 / math.sqrt(shape[-1])
        start = self.cell.initial(p) or 0.0
        return np.asarray(start * (1 + 0.3 * drawn) if start else 0.5 * drawn)

    def input(self, shape: tuple[int, ...]) -> Array:
        return self._drawn(shape)

    def state(self, shape: tuple[int, ...]) -> Array:
        return 0.7 * self._drawn(shape)

    def _shape(self, symbol: Vector | Matrix) -> tuple[int, ...]:
        return tuple(number(n, self.sizes) for n in self.cell.shape(symbol))

    def _drawn(self, shape: tuple[int, ...]) -> Array:
        drawn = self.rng.normal(0.0, self.scale, shape)
        return np.abs(drawn) + 0.1 * self.scale if self.positive else drawn

    def _rounded(self, drawn: Array) -> Array:
        return drawn.astype(self.dtype).astype(float)


class _Zeros(_Maker):
    """What a sequence begins with: states of zero, learned vectors as ``init`` gives them, and
    inputs that are padded with zeros.
    """

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        if isinstance(p, Matrix):
            return super().parameter(p, shape)
        return np.full(shape, self.cell.initial(p) or 0.0)

    def input(self, shape: tuple[int, ...]) -> Array:
        kept = self.rng.integers(0, 2, (*shape[:-1], 1))
        kept[0, 0] = 0
        return np.asarray(self._drawn(shape) * kept)

    def state(self, shape: tuple[int, ...]) -> Array:
        return np.zeros(shape)


class _Grid(_Maker):
    """A handful of values: whole numbers, halves, and where the equations' conditions change."""

    def _drawn(self, shape: tuple[int, ...]) -> Array:
        return np.asarray(self.rng.choice(self._levels(), shape))

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        # mostly 0, so that sums stay on the grid, and are 0 as well
        return np.asarray(self._drawn(shape) * (self.rng.integers(0, 3, shape) == 0))

    def state(self, shape: tuple[int, ...]) -> Array:
        return self._drawn(shape)

    def _levels(self) -> Array:
        named = [
            float(n)
            for e in decisions(self.cell)
            for n in e.atoms(Expr)
            if n.is_number and n.is_finite and n.is_real
        ]
        levels = np.unique([-1.0, -0.5, 0.0, 0.5, 1.0, *named])
        # what the module cannot hold exactly is no boundary to it
        held = levels[levels.astype(self.dtype).astype(float) == levels]
        return np.asarray(np.abs(held) if self.positive else held)


class _Ties(_Grid):
    """All units of a vector are equal, and all inputs and states of one shape are."""

    def make(self, name: str, steps: int, batch: int) -> Case:
        self.known: dict[tuple[int, ...], Array] = {}
        return super().make(name, steps, batch)

    def input(self, shape: tuple[int, ...]) -> Array:
        return self._equal(shape)

    def state(self, shape: tuple[int, ...]) -> Array:
        return self._equal(shape)

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to(super().parameter(p, (1, *shape[1:])), shape)

    def _equal(self, shape: tuple[int, ...]) -> Array:
        if shape not in self.known:
            self.known[shape] = np.broadcast_to(self._drawn((*shape[:-1], 1)), shape)
        return self.known[shape]


class _Large(_Maker):
    """Inputs that drive gates deep into saturation: the tails of functions."""

    def input(self, shape: tuple[int, ...]) -> Array:
        # σ(-40) is beside 1 what rounding is, and σ(-17) in single precision
        return np.asarray((40 if self.dtype.itemsize > 4 else 15) * self._drawn(shape))


# Cases at kinks and ties, and in the tails. Sums of sums leave the grid soon, and exactness with
# it: few steps.
_SPECIAL: dict[str, type[_Maker]] = {
    "zeros": _Zeros, "grid": _Grid, "ties": _Ties, "large": _Large,
}  # fmt: skip
_SPECIAL_ATTEMPTS = (
    (2, 1.0, False), (2, 1.0, False), (1, 1.0, False), (1, 1.0, False), (1, 1.0, True),
)  # fmt: skip


# All different, different from T = 7 and B = 3, and mostly odd, so that nothing fits by accident
# and the vector loops of a compiled target have remainders.
_SIZES = (5, 11, 4, 6, 13, 9, 8, 10, 14, 15, 16, 17)


def _choose_sizes(cell: Cell, sizes: Mapping[str, int] | None, taken: set[int]) -> dict[str, int]:
    free = (n for n in _SIZES if n not in taken | set((sizes or {}).values()))
    unknown = sorted(set(sizes or {}) - {n.name for n in cell.sizes})
    if unknown:
        raise LstmgenError(
            f"{unknown[0]} is no size of {cell.name}; it has "
            f"{', '.join(n.name for n in cell.sizes) or 'none'}"
        )
    return {n.name: (sizes or {}).get(n.name) or next(free) for n in cell.sizes}


# --------------------------------------------------------------------------- witnesses

_COPIES = 384  # perturbed copies evaluated at once: enough to amortise Python, and small in memory
_NUMBERS = 2**22  # that all copies of a value may have


class _Witness:
    """The gradients of one case, by evaluation alone.

    L = <dy, y> + <dstate, final states>, and the two parts are kept apart: the first alone is what
    a module gives for ``dstate=None``.
    """

    def __init__(
        self,
        cell: Cell,
        case: Case,
        sizes: Mapping[str, int],
        dtype: np.dtype[Any],
        shake: Shake | None = None,
    ) -> None:
        self.cell, self.case, self.sizes, self.dtype, self.shake = cell, case, sizes, dtype, shake
        self.evaluator = Evaluator(cell)
        self.given = {
            n: v[:, None] if isinstance(v, np.ndarray) else np.full((1, 1, 1), float(v))
            for n, v in case.given.items()
        }
        self.start = {e: _lift(e, v[None]) for e, v in case.values.items()}
        self.finite = np.full(len(cell.equations), True)  # whether each equation has values
        self.extent = 0.0  # the largest finite value of any equation
        self.base = self._run(self.start, shake, after=self._look)
        self.exact: dict[Entity, tuple[Array, Array]] = {}

    def _look(self, walk: Walk) -> None:
        values = [walk(e.lhs) for e in self.cell.equations]
        self.finite &= [bool(np.isfinite(value).all()) for value in values]
        self.extent = max(self.extent, *(_extent(value) for value in values))

    def _run(
        self,
        values: Mapping[Entity, Number],
        shake: Shake | None = None,
        frozen: bool = False,
        after: Callable[[Walk], None] | None = None,
    ) -> Trace:
        kept = self.base.frozen if frozen else None
        with np.errstate(all="ignore"):  # NaN and overflow are looked for, in the results
            return self.evaluator.run(
                values, self.given, self.sizes, kept, shake=shake, after=after
            )

    @cached_property
    def largest(self) -> float:
        """The largest output or state; NaN if the equations have no value, or the precision of the
        module has none.
        """
        found = _results(self.base)
        if self.extent > 1e-6 * float(np.finfo(self.dtype).max):
            return math.nan
        return float(np.max([np.max(np.abs(a)) if np.isfinite(a).all() else np.nan for a in found]))

    @cached_property
    def argument(self) -> float:
        """The largest argument."""
        return max(float(np.max(np.abs(v), initial=0.0)) for v in self.case.values.values())

    @cached_property
    def has_derivative(self) -> bool:
        """Whether the derivative in a random direction is finite."""
        limit = 1e-6 * float(np.finfo(self.dtype).max)
        return all((np.abs(_slope(a)) < limit).all() for a in _results(self._along(None)))

    def _along(self, shake: Shake | None) -> Trace:
        rng = np.random.default_rng(0)
        return self._run(
            {e: Dual(v, rng.normal(size=v.shape)) for e, v in self.start.items()}, shake
        )

    def troubled(self) -> str:
        """The first equation that has no finite value, as text."""
        for k, equation in enumerate(self.cell.equations):
            if not self.finite[k]:
                return f"equation {k + 1}, {equation.lhs} = {equation.rhs}"
        return "the equations' derivatives"

    # ------------------------------------------------------------------ rounding

    @cached_property
    def _rounded(self) -> tuple[bool, float, float]:
        """What rounding does: whether all decisions stand, and how much more than the error of a
        single operation the results and L are off, both as numbers.
        """
        amount = 32 * float(np.finfo(self.dtype).eps)  # beyond what a module's functions are off
        nodes, settled = decisions(self.cell), []
        moved = self._run(
            self.start,
            Rounding(amount, self.dtype, copies=5),
            after=lambda walk: settled.append(is_settled(walk, nodes)),
        )
        pairs = zip(_results(moved), _results(self.base), strict=True)
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
        amount = 32 * float(np.finfo(self.dtype).eps)
        one, other = (_results(self._along(s)) for s in (None, Rounding(amount, self.dtype)))
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

    def _losses(self, trace: Trace) -> Array:
        """How far both parts of L are from their unperturbed values, (2, K).

        The unperturbed outputs are subtracted first: the large part of L, and with it most of the
        rounding of its sum, cancels exactly.
        """
        with np.errstate(all="ignore"):
            outputs = [y - y0 for y, y0 in zip(trace.outputs, self.base.outputs, strict=True)]
            final = {n: a - self.base.states[-1][n] for n, a in trace.states[-1].items()}
            return self._weighted(outputs, final)

    def _weighted(self, outputs: Sequence[Array], final: Mapping[str, Array]) -> Array:
        """<dy, outputs> and <dstate, final>, (2, K)."""
        pairs = zip(self.case.dy, outputs, strict=True)
        through_outputs = sum((dy * y).sum(axis=(-2, -1)) for dy, y in pairs)
        through_states = sum(
            ((d * final[n]).sum(axis=(-2, -1)) for n, d in self.case.dstate.items()), np.zeros(1)
        )
        return np.stack(np.broadcast_arrays(through_outputs, through_states))

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
            moved = _lift(entity, copies.reshape(-1, *value.shape))
            losses = self._losses(self._run({**self.start, entity: moved}, frozen=True))
            losses = np.broadcast_to(losses, (2, len(copies)))  # what nothing reads moves nothing
            found.append(losses.reshape(2, len(some), len(offsets)))
        return np.concatenate(found, axis=1) if found else np.zeros((2, 0, len(offsets)))

    def complex_step(self, entity: Entity) -> tuple[Array, Array]:
        """∂L/∂entity through the outputs, and through the final states.

        Nothing is subtracted, so it is exact to rounding. At a kink or a tie it is the slope that
        ``evaluation`` promises.
        """
        if entity not in self.exact:
            value = self.case.values[entity]
            found = [np.zeros((2, 0))]
            for some in self._chunks(np.arange(value.size), 1, value.size):
                directions = np.zeros((len(some), value.size))
                directions[np.arange(len(some)), some] = 1
                slope = _lift(entity, directions.reshape(-1, *value.shape))
                trace = self._run(
                    {**self.start, entity: Dual(self.start[entity], slope)}, self.shake
                )
                with np.errstate(all="ignore"):
                    final = {n: _slope(a) for n, a in trace.states[-1].items()}
                    through = self._weighted([_slope(y) for y in trace.outputs], final)
                found.append(np.broadcast_to(through, (2, len(some))))
            a, b = np.concatenate(found, axis=1)
            self.exact[entity] = (a.reshape(value.shape), b.reshape(value.shape))
        return self.exact[entity]

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
        shape = self.case.values[entity].shape
        size = int(np.prod(shape))
        value, bound, doubts = np.zeros(size), np.full(size, np.inf), np.full(size, np.inf)
        open_ = np.arange(size)
        for h in _STEPS_SMOOTH if self.cell.is_analytic else _STEPS_KINKED:
            if not len(open_):
                break
            offsets = np.array([h, -h, h / 2, -h / 2, h / 4, -h / 4])
            losses = self._perturbed(entity, open_, offsets).sum(axis=0)
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
        return value.reshape(shape), bound.reshape(shape)


# For smooth cells h balances truncation, h⁶ f⁽⁷⁾ / 3e5, and rounding, 1e-15 / h. For cells with
# kinks a small h makes it unlikely to straddle one: with some hundred relu in a case, ±1e-4 meets a
# kink for about 1 entry in 100.
_STEPS_SMOOTH = (2.0**-6, 2.0**-9, 2.0**-12, 2.0**-15, 2.0**-18, 2.0**-21, 2.0**-24)
_STEPS_KINKED = (2.0**-13, 2.0**-17, 2.0**-21)
_USELESS = 1e-4


def _lift(entity: Entity, copies: Array) -> Array:
    """An array with a leading axis of copies, in the evaluator's layout."""
    kind, _ = entity
    if kind == "input":
        return np.moveaxis(copies, 0, 1)  # (T, K, B, size)
    return copies[:, None, :] if copies.ndim == 2 else copies  # a learned vector is (K, 1, size)


def _results(trace: Trace) -> list[Any]:
    return [*trace.outputs, *(a for states in trace.states for a in states.values())]


def _extent(a: Array) -> float:
    return float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))


def _slope(a: Number) -> Array:
    return a.slope if isinstance(a, Dual) else np.zeros((1, 1, 1))


# --------------------------------------------------------------------------- judging

_TARGET_NAMES = {"numpy": "NumPy", "c": "C"}
EXACT, DIFFERENCE, DIRECT = "complex step", "central difference", "against the equations"


class Examination:
    """The cases for one cell and precision, and what the witnesses say of them.

    Made once, it can judge any number of modules: the witnesses do not depend on the module.

    Parameters
    ----------
    cell, dtype, sizes, T, B, seed
        As for ``check``.
    seeds : int
        How many random cases of T steps and B rows there are, from ``seed`` on.
    kinks : bool
        Whether there are cases at kinks and ties, and in the tails, as well.

    Raises
    ------
    LstmgenError
        If no random case is found that can be judged by.
    """

    def __init__(
        self,
        cell: Cell,
        dtype: str = "float64",
        *,
        sizes: Mapping[str, int] | None = None,
        T: int = 7,
        B: int = 3,
        seed: int = 0,
        seeds: int = 3,
        kinks: bool = True,
    ) -> None:
        self.cell, self.dtype = cell, np.dtype(dtype)
        self.sizes = _choose_sizes(cell, sizes, {T, B})
        self.batch = B
        # The first is the one that central differences are taken of.
        self.witnesses = [self._find_longest(T, B, seed), self._find("T=1 B=1", 1, 1, seed)]
        self.steps = self.witnesses[0].case.steps
        for other in range(seed + 1, seed + seeds):
            with suppress(LstmgenError):  # there is a case already
                self.witnesses.append(self._find(f"seed {other}", self.steps, B, other))
        if kinks:
            found = [self._find_special(name, seed) for name in _SPECIAL]
            self.witnesses += [witness for witness in found if witness]
        self.entities: list[Entity] = [
            *(("parameter", p.name) for p in cell.parameters),
            *(("input", x.name) for x in cell.inputs),
            *(("state", s.name) for s in cell.states),
        ]
        self._differences: dict[Entity, tuple[Array, Array]] = {}
        self._scales: dict[int, float] = {}
        self._conditions: dict[int, dict[Entity | None, float]] = {}

    def _find_longest(self, steps: int, batch: int, seed: int) -> _Witness:
        """The main case: of fewer steps, if all that are longer outgrow the numbers there are."""
        shorter = [n for n in (3, 2) if n < steps]
        try:
            return self._find("", steps, batch, seed)
        except LstmgenError as error:
            for n in shorter:
                with suppress(LstmgenError):
                    return self._find("", n, batch, seed)
            raise error

    def _find(self, name: str, steps: int, batch: int, seed: int) -> _Witness:
        """A case in which the equations have finite values and derivatives.

        If there is one, rounding decides nothing in it, and grows no more than can be told from an
        error.
        """
        wild: list[tuple[bool, _Witness]] = []
        for attempt, (scale, positive) in enumerate(_ATTEMPTS):
            draw = (seed, steps, attempt)
            maker = _Maker(self.cell, self.sizes, self.dtype, draw, scale, positive)
            witness = _Witness(self.cell, maker.make(name, steps, batch), self.sizes, self.dtype)
            if math.isfinite(witness.largest) and witness.has_derivative:
                calm = witness.amplified < self._bearable
                if witness.largest < _TAME and calm and witness.settled:
                    return witness
                wild.append((calm, witness))
        if not wild:
            raise LstmgenError(
                f"{self.cell.name} cannot be checked: in {len(_ATTEMPTS)} random cases, also with "
                f"small and with positive values, {witness.troubled()} was infinite or not a "
                "number\n  hint: look for a logarithm, a root or a quotient whose argument leaves "
                "its domain, and for a state that grows from step to step"
            )
        if not any(calm for calm, _ in wild):
            least = min(witness.amplified for _, witness in wild)
            raise LstmgenError(
                f"{self.cell.name} cannot be checked: in {len(wild)} random cases of {steps} steps "
                f"rounding errors grow by a factor of {least:.0e} or more, so that the equations "
                f"do not determine a result in {self.dtype}\n  hint: a sequence of fewer steps may "
                "do (--steps 2, or T=2)" + (", or float64" if self.dtype.itemsize < 8 else "")
            )
        return max(wild, key=lambda found: (found[0], found[1].settled))[1]

    def _find_special(self, name: str, seed: int) -> _Witness | None:
        """A case of ``_SPECIAL``; none where any program is free to decide kinks otherwise."""
        for attempt, (steps, scale, positive) in enumerate(_SPECIAL_ATTEMPTS):
            draw = (seed, steps, attempt)
            maker = _SPECIAL[name](self.cell, self.sizes, self.dtype, draw, scale, positive)
            case = maker.make(f"{name}, T={steps} B=2", steps, 2)
            witness = _Witness(self.cell, case, self.sizes, self.dtype)
            if (
                witness.finite.all()
                and witness.has_derivative
                and witness.settled
                and witness.amplified < self._bearable
            ):
                return witness
        return None

    @property
    def _bearable(self) -> float:
        """How much rounding may grow: with half of all digits lost, there is little to verify."""
        return 0.25 / math.sqrt(float(np.finfo(self.dtype).eps))

    # ------------------------------------------------------------------ tolerances

    @cached_property
    def chain(self) -> int:
        """Roundings that follow each other in one step: along the longest path of equations, the
        terms that are summed and the functions that are applied.
        """
        longest: dict[Vector, int] = {}
        for e in self.cell.equations:
            before = [longest.get(v, 0) for v in e.rhs.atoms(Vector)]
            longest[e.lhs] = self._roundings(e.rhs) + max(before, default=0)
        return max(longest.values())

    def _roundings(self, e: Expr) -> int:
        if e.is_Atom:
            return 0
        inner = max((self._roundings(a) for a in e.args), default=0)
        if isinstance(e, Product):
            return inner + number(self.cell.shapes.of(e.operand), self.sizes)
        if isinstance(e, Reduction):
            return inner + number(self.cell.shapes.of(e.args[0]), self.sizes)
        return inner + max(1, len(e.args) - 1)

    def _tolerance(self, gradient: bool, steps: int, batch: int) -> float:
        """How far rounding alone can lead, relative to the largest entry.

        Each of ``chain`` roundings in each of T steps is of eps/2, relative to terms that are no
        larger than what they sum to, give or take: T · chain · eps leaves a factor 2 for that, and
        for functions that are right to an ulp or two. A gradient goes through all steps twice,
        there and back; its factors subtract, as 1 - i where i is near 1, which costs two bits more;
        and it is a sum over T · B rows.
        """
        eps = float(np.finfo(self.dtype).eps)
        forward = steps * self.chain * eps
        return 8 * forward + steps * batch * eps if gradient else forward

    def _condition(self, k: int) -> dict[Entity | None, float]:
        """How much more than one relative perturbations of arguments and operations move each
        gradient, and (None) the results.

        Gates do not amplify, but a quotient or a root near 0 does, and rounding with it. Measured
        with the witness, and only when an error is larger than what rounding explains without it.
        """
        if k not in self._conditions:
            witness, relative = self.witnesses[k], 1e-8
            worst: dict[Entity | None, float] = dict.fromkeys([*self.entities, None], 1.0)
            rng = np.random.default_rng(0)
            for draw in range(2):
                # A case that hits kinks has to stay on them.
                leaves = 0.0 if k in self._special else relative
                moved = {
                    e: v * (1 + leaves * rng.choice([-1.0, 1.0], v.shape))
                    for e, v in witness.case.values.items()
                }
                shake = Rounding(relative, self.dtype, seed=draw)
                case = replace(witness.case, values=moved)
                other = _Witness(self.cell, case, self.sizes, self.dtype, shake)
                for e in self.entities:
                    distance = sum(other.complex_step(e)) - sum(witness.complex_step(e))
                    amplified = np.max(np.abs(distance)) / (relative * self._scale(k, e))
                    worst[e] = float(max(worst[e], amplified))
                pairs = zip(_results(other.base), _results(witness.base), strict=True)
                distance = max(float(np.max(np.abs(a - b))) for a, b in pairs)
                worst[None] = max(worst[None], distance / (relative * self._largest(k)))
            self._conditions[k] = worst
        return self._conditions[k]

    def _scale(self, k: int, entity: Entity) -> float:
        """What an error of a gradient is relative to: its largest entry.

        But not less than 1/20 of the largest of all gradients and cotangents: where a gradient is
        the small difference of large terms (0, as that of a bias that layer normalisation removes;
        or the factor 1 - i of a gate that is nearly open), rounding is relative to the terms.
        """
        witness = self.witnesses[k]
        if k not in self._scales:
            arrays = [sum(witness.complex_step(e)) for e in self.entities]
            arrays += [witness.case.dy, *witness.case.dstate.values()]
            self._scales[k] = max(float(np.max(np.abs(a))) for a in arrays)
        own = float(np.max(np.abs(sum(witness.complex_step(entity)))))
        return max(own, self._scales[k] / 20)

    def _largest(self, k: int) -> float:
        """What results are compared with where they themselves are small.

        At a kink all may be 0: their terms are as large as the arguments.
        """
        witness = self.witnesses[k]
        at_kinks = k in self._special
        return max(witness.largest, witness.argument if at_kinks else 0.0, 1e-29)

    @cached_property
    def _special(self) -> frozenset[int]:
        """The cases of ``_SPECIAL``."""
        return frozenset(
            k for k, w in enumerate(self.witnesses) if w.case.name.split(",")[0] in _SPECIAL
        )

    # ------------------------------------------------------------------ judging

    def judge(self, module: Any, title: str = "", progress: Progress | None = None) -> Report:
        """Hold a module of the generated kind against the witnesses."""
        report = progress or (lambda done, total, what: None)
        total = 1 + len(self.entities)
        report(0, total, "forward")
        found: dict[str, list[Finding]] = {"forward": [], "step": []}
        sizes = {"forward": self.witnesses[0].case.dy.size, "step": self.witnesses[0].case.dy.size}
        runs, failure = [], ""
        for k, witness in enumerate(self.witnesses):
            try:
                # At a pole or far out, NumPy warns of what it is that we look for.
                with np.errstate(all="ignore") if k in self._special else nullcontext():
                    runs.append(self._run_module(k, _Guarded(module), found))
            except _FailedError as error:
                failure = ", ".join(filter(None, [str(error), witness.case.name]))
                break
        for done, entity in enumerate(self.entities, 1):
            name = _gradient_name(entity)
            report(done, total, name)
            sizes[name] = self.witnesses[0].case.values[entity].size
            found[name] = [
                f for k, run in enumerate(runs) for f in self._judge_gradient(k, entity, *run)
            ]
        report(total, total, "")
        if failure:  # then nothing that it computes can be relied on
            for findings in found.values():
                findings.append(broken(f"cannot be had: {failure}"))
        rows = tuple(Row(n, sizes[n], worst_of_each(f)) for n, f in found.items())
        numbers = " ".join(
            f"{n}={v}" for n, v in {"T": self.steps, "B": self.batch, **self.sizes}.items()
        )
        return Report(
            " · ".join([self.cell.name, *filter(None, [title]), str(self.dtype), numbers]), rows
        )

    def _run_module(
        self, k: int, module: Any, found: dict[str, list[Finding]]
    ) -> tuple[dict[Entity, Any], dict[Entity, Any]]:
        """Run all that the module offers; the gradients with and without ``dstate`` come back."""
        case = self.witnesses[k].case
        cast = self._cast
        params = {n: cast(v) for (kind, n), v in case.values.items() if kind == "parameter"}
        params.update({c.name: float(case.given[c.name]) for c in self.cell.constants})
        x = self._join({v.name: cast(case.values["input", v.name]) for v in self.cell.inputs})
        state = {s.name: cast(case.values["state", s.name]) for s in self.cell.states}
        masks = {m.name: cast(case.given[m.name]) for m in self.cell.masks}
        extra = {"masks": masks} if masks else {}
        dy, dstate = cast(case.dy), {n: cast(v) for n, v in case.dstate.items()}
        before = snapshot((params, x, state, masks, dy, dstate))

        y, final, tape = module.forward(params, x, state, **extra)
        found["forward"] += self._judge_forward(k, y, final)
        full = self._gradients(*module.backward(params, tape, dy, dstate))
        partial = self._gradients(*module.backward(params, tape, dy))
        found["forward"] += self._judge_defaults(module, params, x, extra, dy)
        found["step"] += self._judge_steps(k, module, params, x, masks)
        if snapshot((params, x, state, masks, dy, dstate)) != before:
            found["forward"].append(broken("an argument was changed in place"))
        return full, partial

    def _cast(self, value: Array) -> Array:
        return np.ascontiguousarray(value, dtype=self.dtype)

    def _join(self, by_name: dict[str, Array]) -> Any:
        """One input is an array, several are a dict."""
        return by_name if len(by_name) > 1 else next(iter(by_name.values()))

    def _split(self, joined: Any) -> dict[str, Any]:
        names = [v.name for v in self.cell.inputs]
        return dict(joined) if len(names) > 1 else {names[0]: joined}

    def _gradients(self, grads: Any, dx: Any, dstate: Any) -> dict[Entity, Any]:
        found: dict[Entity, Any] = {}
        for kind, arrays in (("parameter", grads), ("input", self._split(dx)), ("state", dstate)):
            found.update({(kind, name): array for name, array in arrays.items()})
        return found

    def _compare(
        self, witness: str, want: Array, got: Any, scale: float, tolerance: Any, note: str = ""
    ) -> Finding:
        """The entry with the largest error over its tolerance; NaN in ``want`` is left out."""
        if got is None:
            return broken("is missing")
        got = np.asarray(got)
        if got.shape != want.shape:
            return broken(f"has shape {got.shape} where {want.shape} is expected")
        if got.dtype != self.dtype:
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

    def _judge_forward(self, k: int, y: Any, final: Any) -> Iterator[Finding]:
        witness = self.witnesses[k]
        outputs = np.stack([self._whole(a, k) for a in witness.base.outputs])
        yield self._compare_values(k, outputs, y, "y")
        for name, a in witness.base.states[-1].items():
            yield self._compare_values(k, self._whole(a, k), final.get(name), f"final {name}")

    def _whole(self, a: Array, k: int) -> Array:
        """The one copy of an unperturbed value, for all rows."""
        return np.broadcast_to(a[0], (self.witnesses[k].case.batch, a.shape[-1]))

    def _compare_values(self, k: int, want: Array, got: Any, what: str) -> Finding:
        case = self.witnesses[k].case
        tolerance = self._tolerance(False, case.steps, case.batch)
        note = ", ".join(filter(None, [what, case.name]))
        # Relative to the array's largest entry, but a state that a step takes away is relative to
        # the others: it is a difference of theirs.
        scale = max(float(np.max(np.abs(want), initial=0.0)), self._largest(k) / 20)
        return self._with_condition(
            k,
            None,
            lambda factor: self._compare(DIRECT, want, got, scale, tolerance * factor, note),
        )

    def _with_condition(
        self, k: int, key: Entity | None, compare: Callable[[float], Finding]
    ) -> Finding:
        """Compare; if rounding does not explain the error, allow for how the case amplifies it."""
        finding = compare(1.0)
        if finding.passed or not math.isfinite(finding.error):
            return finding
        # Where less than half of the digits can be right, nothing would be verified.
        ceiling = math.sqrt(float(np.finfo(self.dtype).eps)) / finding.tolerance
        return compare(max(1.0, min(self._condition(k)[key], ceiling)))

    def _judge_defaults(
        self, module: Any, params: Any, x: Any, extra: Any, dy: Array
    ) -> Iterator[Finding]:
        """``state=None`` is a state of zeros, and ``dstate=None`` a cotangent of zeros.

        The module is compared with itself, to the last bit: zeros are where kinks are, and no
        place to ask a witness.
        """
        batch = dy.shape[1]
        shapes = {s.name: (batch, number(self.cell.size(s), self.sizes)) for s in self.cell.states}
        zeros = {n: np.zeros(shape, self.dtype) for n, shape in shapes.items()}
        shaped = (*self.cell.parameters, *self.cell.inputs)
        known = {n for symbol in shaped for n in self.cell.shape(symbol)}
        # A size that only states have has to be told by them.
        tells = all(
            n.is_Integer or n in known for s in self.cell.states for n in self.cell.shape(s)
        )
        results = []
        with np.errstate(all="ignore"):
            for state, dstate in ((None if tells else zeros, None), (zeros, zeros)):
                y, final, tape = module.forward(params, x, state, **extra)
                found = self._gradients(*module.backward(params, tape, dy, dstate))
                results.append({
                    "y": y,
                    **{f"final {name}": a for name, a in final.items()},
                    **{_gradient_name(e): g for e, g in found.items()},
                })  # fmt: skip
        for name, one in results[0].items():
            if not np.array_equal(one, results[1][name], equal_nan=True):
                yield broken(f"{name} differs between state=None, dstate=None and zeros")

    def _judge_steps(
        self, k: int, module: Any, params: Any, x: Any, masks: Mapping[str, Array]
    ) -> Iterator[Finding]:
        """The streaming step, each time from the states that the equations give."""
        base = self.witnesses[k].base
        output = self.cell.output
        for t, y in enumerate(base.outputs):
            x_t = self._join({n: a[t] for n, a in self._split(x).items()})
            state = {n: self._cast(self._whole(a, k)) for n, a in base.states[t].items()}
            extra = {"masks": {n: a[t] for n, a in masks.items()}} if masks else {}
            new = module.step(params, x_t, state, **extra)
            wanted = {n: self._whole(a, k) for n, a in base.states[t + 1].items()}
            if output.category != "state":
                wanted[output.name] = self._whole(y, k)
            for name, want in wanted.items():
                yield self._compare_values(k, want, new.get(name), f"{name}, step {t + 1}")

    def _judge_gradient(
        self, k: int, entity: Entity, full: dict[Entity, Any], partial: dict[Entity, Any]
    ) -> Iterator[Finding]:
        witness, case = self.witnesses[k], self.witnesses[k].case
        through_outputs, through_states = witness.complex_step(entity)
        scale = self._scale(k, entity)
        allowed = self._tolerance(True, case.steps, case.batch)

        def against(want: Array, got: Any, note: str) -> Finding:
            note = ", ".join(filter(None, [note, case.name]))
            return self._with_condition(
                k,
                entity,
                lambda factor: self._compare(EXACT, want, got, scale, allowed * factor, note),
            )

        exact = against(through_outputs + through_states, full.get(entity), "")
        yield exact
        yield against(through_outputs, partial.get(entity), "dstate=None")
        if k == 0:
            if entity not in self._differences:
                self._differences[entity] = witness.central_difference(entity)
            value, bound = self._differences[entity]
            # The difference's own error, beside the module's. An entry that is known to straddle a
            # kink at every h says nothing, and is left to the complex step.
            tolerance = max(allowed, exact.tolerance if exact.passed else 0.0) + bound / scale
            value = np.where(bound / scale < _USELESS, value, np.nan)
            yield self._compare(DIFFERENCE, value, full.get(entity), scale, tolerance)


class _FailedError(Exception):
    """A function of the module under test raised an error."""


class _Guarded:
    """The module under test, whose errors are findings and not ours."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return getattr(self._module, name)(*args, **kwargs)
            except Exception as error:
                what = (str(error) or "no message").splitlines()[0]
                raise _FailedError(f"{name} raised {type(error).__name__}: {what}") from error

        return call


def _gradient_name(entity: Entity) -> str:
    kind, name = entity
    return f"∂L/∂{name}[0]" if kind == "state" else f"∂L/∂{name}"


def snapshot(arguments: Any) -> bytes:
    if isinstance(arguments, dict):
        return b"".join(snapshot(v) for v in arguments.values())
    if isinstance(arguments, tuple):
        return b"".join(map(snapshot, arguments))
    return np.asarray(arguments).tobytes()


def check(
    cell: Cell,
    target: str = "numpy",
    dtype: str = "float64",
    *,
    module: Any = None,
    sizes: Mapping[str, int] | None = None,
    T: int = 7,
    B: int = 3,
    seed: int = 0,
    seeds: int = 3,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
    **options: Any,
) -> Report:
    """Compile a cell and hold what comes out against the cell's equations.

    C is compiled and run in a process of its own: if it is so wrong that it crashes, that is an
    error like another. NumPy code, and a ``module``, run in this one.

    Parameters
    ----------
    cell : Cell
    target : str
        "numpy" or "c".
    dtype : str
        "float64" or "float32": the precision of the module. The witnesses are in float64 always.
    module : optional
        A module with the same face to be judged in place of a compiled one.
    sizes : mapping of str to int, optional
        Numbers for some of the symbolic sizes, such as ``{"H": 16}``.
    T, B : int
        Steps and rows of the main case.
    seed : int
        Of the random values.
    seeds : int
        How many random cases of T steps and B rows there are, from ``seed`` on.
    progress : callable, optional
        Called with (done, total, what comes next).
    timeout : float
        Seconds after which compiling and running C is given up.
    **options
        For the target, as in ``compile``.

    Returns
    -------
    Report
        True if all agree; printed, it is a table with a row for each gradient.

    Raises
    ------
    LstmgenError
        If the equations have no finite value in any of the random cases tried, or rounding decides
        their results; if C crashed, ended its process, or took too long.
    ToolchainError
        If C cannot be compiled.
    """
    require_cell(cell)
    arguments: dict[str, Any] = {"sizes": sizes, "T": T, "B": B, "seed": seed, "seeds": seeds}
    if module is None and target == "c":
        task = Task(cell, target, dtype, {**arguments, **options})
        return supervise(task, timeout, progress)
    return check_here(cell, target, dtype, module=module, progress=progress, **arguments, **options)


def check_here(
    cell: Cell,
    target: str,
    dtype: str,
    *,
    sizes: Mapping[str, int] | None,
    T: int,
    B: int,
    seed: int,
    seeds: int,
    module: Any = None,
    progress: Progress | None = None,
    stage: Callable[[str], None] = lambda name: None,
    **options: Any,
) -> Report:
    """``check`` in this process, whatever the target; ``stage`` is told what begins."""
    if module is None:
        from ..runtime.toolchain import compile

        stage("compiling")
        module = compile(cell, target, dtype=dtype, **options)
        fixed = {n.name: int(options[n.name]) for n in cell.sizes if n.name in options}
        sizes = {**(sizes or {}), **fixed}  # sizes that became compile-time constants
    stage("checking")
    examination = Examination(cell, dtype, sizes=sizes, T=T, B=B, seed=seed, seeds=seeds)
    return examination.judge(module, _TARGET_NAMES.get(target, target), progress)
