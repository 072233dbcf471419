"""Networks, judged as cells are: the same witnesses, of an evaluation of the whole graph.

A witness takes what it asks of a cell from a ``Subject``. What is new is in the cases: sequences of
different lengths, states that start anew, masks that are drawn, checkpoints.

Networks are large, so that not all entries of a gradient are asked for one by one, but a few of
each, at random; the dot product with a random direction has all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from sympy import Eq, Expr

from ..errors import LstmgenError
from ..language import dtypes
from ..language.sizes import Size
from ..network.graph import Embed
from ..network.structure import Structure, shape_in, start_of
from .arithmetic import Array, Dual
from .cases import Case, Maker, choose_sizes
from .comparing import Comparison
from .evaluation import Entity
from .examination import Judge
from .graphs import GraphEvaluator
from .report import Finding, broken
from .running import Gradients, Guarded, snapshot
from .selection import Selection
from .tolerances import chain
from .witnesses import Witness, lift

_ENTRIES = 768  # of all gradients together that are asked for one by one, in each case
_FEWEST, _MOST = 4, 48  # of one gradient
_NUMBERS = 2**21  # that all copies of what is perturbed at once may have

_Point: TypeAlias = "tuple[Entity, int]"


@dataclass(frozen=True)
class Quantity:
    """A parameter, an input, a state or an output of a network; ``symbol`` is what it is in a cell.

    ``start`` is the number that it starts at.
    """

    name: str
    shape: tuple[Expr, ...]
    learned: bool = True
    symbol: Any = None
    start: float = 0.0


class Subject:
    """A network's quantities, under the names that those of a cell have."""

    masks: tuple[Any, ...] = ()
    constants: tuple[Any, ...] = ()

    def __init__(self, network: Structure) -> None:
        self.network, self.name = network, network.name
        graph = network.graph
        self.parameters = tuple(_parameters(network))
        self.states = tuple(Quantity(n, shape) for n, shape in network.states.items())
        x = Quantity(graph.input.name, (graph.input.size,))
        self.inputs = () if network.symbols else (x,)
        self.outputs = (Quantity(graph.output.name, (graph.output.size,)),)
        self.is_analytic = all(cell.is_analytic for cell in graph.cells)

    @property
    def equations(self) -> list[Eq]:
        """Those of all cells."""
        return [e for cell in self.network.graph.cells for e in cell.equations]

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Those that the network does not say: D, or none."""
        shapes = (q.shape for q in (*self.parameters, *self.states, *self.inputs, *self.outputs))
        found = {n for shape in shapes for axis in shape for n in axis.free_symbols}
        return tuple(sorted(found, key=str))

    def shape(self, quantity: Quantity) -> tuple[Expr, ...]:
        return quantity.shape


def _parameters(network: Structure) -> Iterator[Quantity]:
    for node in network.graph.nodes:
        if isinstance(node, Embed):
            name = f"{node.name}.table"
            yield Quantity(name, network.parameters[name])
    for run in network.graph.runs:
        for p in run.cell.parameters:
            start = run.cell.starts_at(p)
            yield Quantity(f"{run.name}.{p.name}", shape_in(run, p), p.learned, p, start)
        for s in run.cell.states if run.learned_start else ():
            yield Quantity(start_of(run, s), shape_in(run, s))


# --------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Options:
    """What else ``forward`` is given in a case."""

    is_given: bool = True  # the state
    lengths: bool = False
    resets: bool = False
    seed: int | None = None
    checkpoint_every: int | None = None
    snapshots: int | None = None

    def __str__(self) -> str:
        words = [] if self.is_given else ["state=None"]
        words += [what for what in ("lengths", "resets") if getattr(self, what)]
        known = ("seed", "checkpoint_every", "snapshots")
        words += [f"{k}={getattr(self, k)}" for k in known if getattr(self, k) is not None]
        return ", ".join(words)


class NetworkMaker(Maker):
    """Draws the values of a case, and the options of its call."""

    def __init__(self, *args: Any, options: Options) -> None:
        super().__init__(*args)
        self.options = options

    def make(self, name: str, steps: int, batch: int) -> Case:
        case, options = super().make(name, steps, batch), self.options
        network, rng = self.cell.network, self.rng
        given: dict[str, Any] = {
            "shape": (steps, batch), "is_given": options.is_given, "seed": options.seed,
            "lengths": None, "resets": None, "options": options,
        }  # fmt: skip
        if options.lengths:  # one that has no steps, one that has all, in any order
            drawn = rng.integers(0, steps + 1, batch)
            drawn[: min(2, batch)] = (steps, 0)[:batch]
            given["lengths"] = rng.permutation(drawn)
        if options.resets:  # the first step, a later one, several in a row, beyond the end
            given["resets"] = rng.random((steps, batch)) < 0.4
            given["resets"][0, 0] = True
        if network.symbols:
            given["symbols"] = rng.integers(0, network.symbols, (steps, batch))
        dy = {n: a[:1] if network.graph.output.of_rows else a for n, a in case.dy.items()}
        return replace(case, given=given, dy=dy)

    def parameter(self, p: Any, shape: tuple[int, ...]) -> Array:
        return self._parameter(p.symbol, shape, p.start)

    def state(self, shape: tuple[int, ...]) -> Array:
        # what is not given is what is added to the start: nothing
        return super().state(shape) if self.options.is_given else np.zeros(shape)


# --------------------------------------------------------------------------- witnesses


class NetworkWitness(Witness):
    """The gradients of one case of a network: of each a few entries, the others are NaN."""

    def _evaluator(self) -> Any:
        return GraphEvaluator(self.cell.network)

    def _given(self) -> dict[str, Any]:
        return self.case.given

    @cached_property
    def _asked(self) -> list[_Point]:
        """The entries that are asked for one by one, flat indices."""
        values, rng = self.case.values, np.random.default_rng(0)
        most = min(max(_FEWEST, _ENTRIES // len(values)), _MOST)
        return [
            (e, int(k)) for e, a in values.items() for k in np.sort(rng.permutation(a.size)[:most])
        ]

    def _batches(self, asked: Sequence[_Point], copies: int) -> Iterator[Sequence[_Point]]:
        """Entries that one evaluation has together, where each takes so many copies of all that is
        perturbed: an evaluation costs much the same for many.
        """
        first, wide = 0, dict[Entity, int]()
        for k, (e, _) in enumerate(asked):
            wide[e] = self.case.values[e].size
            if k > first and (k + 1 - first) * copies * sum(wide.values()) > _NUMBERS:
                yield asked[first:k]
                first, wide = k, {e: wide[e]}
        if asked:
            yield asked[first:]

    def complex_step(self, entity: Entity) -> tuple[Array, Array]:
        return self._exactly[entity]

    @cached_property
    def _exactly(self) -> dict[Entity, tuple[Array, Array]]:
        found = []
        for some in self._batches(self._asked, 1):
            slopes = self._moved(some, np.ones(1), dict.fromkeys(self.case.values, 0.0))
            moved = {e: Dual(self.start[e], slope) for e, slope in slopes.items()}
            trace = self._run({**self.start, **moved}, self.shake)
            found.append(np.broadcast_to(self._slopes(trace), (2, len(some))))
        outputs, states = map(self._placed, np.concatenate(found, axis=1))
        return {e: (a, states[e]) for e, a in outputs.items()}

    def central_difference(self, entity: Entity) -> tuple[Array, Array]:
        value, bound = self._by_differences
        return value[entity], bound[entity]

    @cached_property
    def _by_differences(self) -> tuple[dict[Entity, Array], dict[Entity, Array]]:
        def perturbed(some: Array, offsets: Array) -> Array:
            found = []
            for batch in self._batches([self._asked[k] for k in some], len(offsets)):
                moved = self._moved(batch, offsets, self.case.values)
                losses = self._losses(self._run({**self.start, **moved}, frozen=True))
                losses = np.broadcast_to(losses, (2, len(batch) * len(offsets)))
                found.append(losses.reshape(2, len(batch), len(offsets)))
            return np.concatenate(found, axis=1)

        value, bound = self._extrapolated(len(self._asked), perturbed)
        return self._placed(value), self._placed(bound, np.inf)

    def _moved(
        self, points: Sequence[_Point], offsets: Array, base: Mapping[Entity, Any]
    ) -> dict[Entity, Array]:
        """What is perturbed, in as many copies as there are points and offsets: in each of them one
        entry is moved.
        """
        found = {}
        for e in dict.fromkeys(e for e, _ in points):
            shape = self.case.values[e].shape
            copies = np.empty((len(points), len(offsets), math.prod(shape)))
            copies[...] = np.reshape(base[e], -1)
            for row, (other, k) in enumerate(points):
                if other == e:
                    copies[row, :, k] += offsets
            found[e] = lift(e, copies.reshape(-1, *shape))
        return found

    def _placed(self, numbers: Array, others: float = np.nan) -> dict[Entity, Array]:
        """What is known of the entries that were asked for, in arrays."""
        found = {e: np.full(a.size, others) for e, a in self.case.values.items()}
        for (e, k), number in zip(self._asked, numbers, strict=True):
            found[e][k] = number
        return {e: a.reshape(self.case.values[e].shape) for e, a in found.items()}


# --------------------------------------------------------------------------- running


class NetworkRunner:
    """Calls all that the module of a network offers."""

    def __init__(self, subject: Subject, dtype: dtypes.DType, module: Any) -> None:
        self.subject, self.dtype, self.module = subject, dtype, Guarded(module)
        self.of_rows = subject.network.graph.output.of_rows
        self.steps = not (self.of_rows or any(run.reverse for run in subject.network.graph.runs))

    def run(
        self, comparison: Comparison, found: Mapping[str, list[Finding]]
    ) -> tuple[Gradients, Gradients]:
        """As ``Runner.run``."""
        case, cast, module = comparison.case, self._cast, self.module
        network, given = self.subject.network, case.given
        options: Options = given["options"]
        of = {kind: {n: cast(v) for (k, n), v in case.values.items() if k == kind}
              for kind in ("parameter", "input", "state")}  # fmt: skip
        params = of["parameter"] | {
            f"{run.name}.{n}": v for run in network.graph.runs for n, v in run.constants.items()
        }
        x = given["symbols"] if network.symbols else of["input"][network.graph.input.name]
        state = of["state"] if options.is_given else None
        (dy,) = map(cast, case.dy.values())
        dy = dy[0] if self.of_rows else dy
        dstate = {n: cast(v) for n, v in case.dstate.items()}
        more = {n: given[n] for n in ("lengths", "resets", "seed") if given[n] is not None}
        kept = {n: getattr(options, n) for n in ("checkpoint_every", "snapshots")}
        kept = {n: v for n, v in kept.items() if v is not None}
        held = (params, x, state or {}, more, dy, dstate)
        before = snapshot(held)

        y, final, tape = module.forward(params, x, state, **more, **kept)
        found["forward"].extend(comparison.forward(self._whole(y), final))
        full = self._gradients(*module.backward(params, tape, dy, dstate))
        # a tape with checkpoints is used once
        tape = module.forward(params, x, state, **more, **kept)[2] if kept else tape
        partial_ = self._gradients(*module.backward(params, tape, dy))
        y, final, tape = module.forward(params, x, state, **more, tape=False)
        found["forward"].extend(comparison.forward(self._whole(y), final))
        if not more and self.steps:
            found["step"].extend(self._judge_steps(comparison, params, x, state))
        if snapshot(held) != before:
            found["forward"].append(broken("an argument was changed in place"))
        return full, partial_

    def _cast(self, value: Array) -> Array:
        return np.ascontiguousarray(value, dtype=self.dtype.storage.name)

    def _whole(self, y: Any) -> Any:
        """With an axis of steps, of which there is one where y is of sequences."""
        return y[np.newaxis] if self.of_rows and isinstance(y, np.ndarray) else y

    def _gradients(self, grads: Any, dx: Any, dstate: Any) -> Gradients:
        found: Gradients = {("parameter", n): a for n, a in grads.items()}
        if not self.subject.network.symbols:
            found["input", self.subject.network.graph.input.name] = dx
        return found | {("state", n): a for n, a in dstate.items()}

    def _judge_steps(
        self, comparison: Comparison, params: Any, x: Any, state: Any
    ) -> Iterator[Finding]:
        """The streaming step, one after the other."""
        name = self.subject.network.graph.output.name
        ys = []
        for x_t in x:
            state = self.module.step(params, x_t, state)
            ys.append(state.get(name))
        y = None if any(a is None for a in ys) else np.stack(ys)
        yield from comparison.forward(y, state)


# --------------------------------------------------------------------------- examination


class NetworkExamination(Judge):
    """The cases for one network and precision, and what the witnesses say of them.

    Parameters are those of ``Examination``.
    """

    def __init__(
        self,
        network: Structure,
        dtype: str = "float64",
        *,
        sizes: Mapping[str, int] | None = None,
        T: int = 7,
        B: int = 3,
        seed: int = 0,
        seeds: int = 3,
    ) -> None:
        self.subject = Subject(network)
        super().__init__(
            self.subject, dtypes.dtype(dtype), choose_sizes(self.subject, sizes, {T, B})
        )
        # The first is the one that central differences are taken of, and streaming steps.
        self.witnesses = [
            self._random(Options(), T, B, seed),
            self._random(Options(is_given=False), 1, 1, seed),
        ]
        for k, options in enumerate(_options(T, seed, seeds)):
            with suppress(LstmgenError):  # there is a case already
                self.witnesses.append(self._random(options, T, B, seed + k + 1))
        roundings = sum(chain(run.cell, self._sizes_of(run)) for run in network.graph.runs)
        self._compare(max(roundings, 1))

    def _random(self, options: Options, T: int, B: int, seed: int) -> Witness:
        select = Selection(
            self.subject, self.sizes, self.dtype, partial(NetworkMaker, options=options),
            NetworkWitness,
        )  # fmt: skip
        size = "" if T > 1 else f"T={T} B={B}"
        return select.random(", ".join(filter(None, [size, str(options)])), T, B, seed)

    def _sizes_of(self, run: Any) -> dict[str, int]:
        known = {Size(n): v for n, v in self.sizes.items()}
        return {str(n): int(size.subs(known)) for n, size in run.sizes.items()}

    def _runner(self, module: Any) -> Any:
        return NetworkRunner(self.subject, self.dtype, module)


def _options(T: int, seed: int, seeds: int) -> Iterator[Options]:
    """Each option by itself, and together with others; the seeds are of random ones."""
    yield Options(lengths=True)
    yield Options(is_given=False, resets=True)
    yield Options(lengths=True, resets=True, seed=seed + 1, checkpoint_every=2)
    yield Options(is_given=False, lengths=True, checkpoint_every=1, snapshots=2)
    for other in range(seed + 1, seed + seeds):
        rng = np.random.default_rng((other, T))
        yield Options(
            is_given=bool(rng.integers(2)),
            lengths=bool(rng.integers(2)),
            resets=bool(rng.integers(2)),
            seed=other,
            checkpoint_every=int(rng.integers(1, T + 2)),
            snapshots=[None, 1, 2, 3][rng.integers(4)],
        )
