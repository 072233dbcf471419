"""Direct evaluation of a network: sequence by sequence, piece by piece, node by node.

The nodes of the graph in order, where each cell's equations go through ``evaluation``. There are no
packed rows, no blocks of steps and no chains of nodes here; of a module's way to run a network it
shares the graph alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..language.cell import Cell
from ..network.graph import Embed, Join, Last, Noise, Run, Signal
from ..network.structure import Structure, shape_in, start_of
from .arithmetic import Array, Number, add, each, joined
from .evaluation import Entity, Evaluator, Shake, Trace, number

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64


class GraphEvaluator:
    """A network, evaluated for K perturbed copies at once, in the layout of ``Evaluator``.

    Of ``given`` it takes ``lengths``, ``resets`` and ``seed`` as ``forward`` does, ``symbols``
    (T, B) where x is symbols, and ``is_given``: whether the initial states are; if not, they are
    what is added to the states that sequences start from.
    """

    def __init__(self, network: Structure) -> None:
        self.network = network
        self._evaluators = {cell: Evaluator(cell) for cell in network.graph.cells}
        self._masks: dict[tuple[Any, ...], Array] = {}

    def run(
        self,
        values: Mapping[Entity, Number],
        given: Mapping[str, Any],
        sizes: Mapping[str, int],
        frozen: Mapping[Any, Any] | None = None,
        *,
        shake: Shake | None = None,
        after: Callable[[Any, Cell], None] | None = None,
    ) -> Trace:
        """Evaluate a whole batch. The trace has the initial and the final states alone; of what is
        put out for each sequence it has a single step.
        """
        trace, out = Trace(), self.network.graph.output
        T, B = given["shape"]
        sequences = [
            _Sequence(self, b, values, given, sizes, frozen, trace.frozen, shake, after)
            for b in range(B)
        ]
        ended = [sequence.final() for sequence in sequences]
        width = number(out.size, sizes)
        for t in range(1 if out.of_rows else T):
            rows = [sequence.row(t, width) for sequence in sequences]
            trace.outputs.append({out.name: joined(rows, axis=1)})
        names = list(self.network.states)
        trace.states.append({n: joined([s.begun[n] for s in sequences], axis=1) for n in names})
        trace.states.append({n: joined([final[n] for final in ended], axis=1) for n in names})
        return trace

    def masks(self, run: Run, shape: tuple[int, int], seed: int, units: Mapping[str, Any]) -> Any:
        """The masks of a run, (T, B, *units) each."""
        found = {}
        for k, (name, noise) in enumerate(run.noise.items()):
            key = run.name, name, shape, seed
            if key not in self._masks:
                stream = 16 * self.network.graph.runs.index(run) + k
                self._masks[key] = drawn(noise, shape, units[name], seed, stream)
            found[name] = self._masks[key]
        return found


class _Sequence:
    """One sequence: what each signal is at each of its steps, as (K, 1, units)."""

    def __init__(
        self,
        evaluator: GraphEvaluator,
        b: int,
        values: Mapping[Entity, Number],
        given: Mapping[str, Any],
        sizes: Mapping[str, int],
        frozen: Mapping[Any, Any] | None,
        record: dict[Any, Any],
        shake: Shake | None,
        after: Callable[[Any, Cell], None] | None,
    ) -> None:
        self.evaluator, self.b, self.values, self.given = evaluator, b, values, given
        self.sizes, self.frozen, self.record = sizes, frozen, record
        self.shake, self.after = shake, after
        lengths, resets = given["lengths"], given["resets"]
        self.length = given["shape"][0] if lengths is None else int(lengths[b])
        self.cut = [bool(resets is not None and resets[t, b]) for t in range(self.length)]
        self.begun: dict[str, Number] = {}
        self.left: dict[str, Number] = {}
        self.signals: dict[Signal, list[Number]] = {}

    def final(self) -> dict[str, Number]:
        """The states that the sequence leaves behind."""
        graph = self.evaluator.network.graph
        x = self.values.get(("input", graph.input.name))
        if x is not None:
            self.signals[graph.input] = [
                each(x, lambda a, t=t: a[t][:, self.b : self.b + 1])  # type: ignore[misc]
                for t in range(self.length)
            ]
        for node in graph.nodes:
            parts = [self.signals[s] for s in node.inputs if s in self.signals]
            if isinstance(node, Embed):
                self.signals[node.output] = self._embedded(node)
            elif isinstance(node, Join):
                self.signals[node.output] = [joined(row) for row in zip(*parts, strict=True)]
            elif isinstance(node, Last):
                made = parts[0][:1] if node.reverse else parts[0][-1:]
                width = number(node.output.size, self.sizes)
                self.signals[node.output] = made or [np.zeros((1, 1, width))]
            else:
                self.signals[node.output] = self._run(node, parts)
        return self.left

    def row(self, t: int, width: int) -> Number:
        """What is put out at a step: zeros after the end."""
        made = self.signals[self.evaluator.network.graph.output]
        return made[t] if t < len(made) else np.zeros((1, 1, width))

    def _embedded(self, node: Embed) -> list[Number]:
        symbols = [int(self.given["symbols"][t, self.b]) for t in range(self.length)]
        table = self.values["parameter", f"{node.name}.table"]
        return [each(table, lambda a, k=k: a[:, :, k]) for k in symbols]  # type: ignore[misc]

    def _run(self, run: Run, inputs: Sequence[list[Number]]) -> list[Number]:
        """One cell: piece by piece, from the end if it is in reverse."""
        cell, steps = run.cell, len(inputs[0])
        start = {s.name: self._start(run, s) for s in cell.states}
        begin = {n: self._begin(f"{run.name}.{n}", a) for n, a in start.items()}
        self.begun |= {f"{run.name}.{n}": a for n, a in begin.items()}
        cut = [False] * steps if run.output.of_rows else self.cut
        edges = [0, *(t for t in range(1, steps) if cut[t]), steps]
        pieces = [range(a, z) for a, z in pairwise(edges) if a < z]
        state = begin
        if steps and cut[0] and not run.reverse:
            state = start
        made: dict[int, Number] = {}
        for k, piece in enumerate(reversed(pieces) if run.reverse else pieces):
            state = start if k else state
            order = piece[::-1] if run.reverse else piece
            trace = self._piece(run, [[rows[t] for t in order] for rows in inputs], order, state)
            made |= {
                t: each(found[cell.output.name], lambda a: a.reshape(*a.shape[:2], -1))
                for t, found in zip(order, trace.outputs, strict=True)
            }
            state = trace.states[-1]
        self.left |= {f"{run.name}.{n}": a for n, a in state.items()}
        return [made[t] for t in range(steps)]

    def _piece(
        self, run: Run, inputs: Sequence[list[Number]], order: range, state: Mapping[str, Number]
    ) -> Trace:
        cell, place = run.cell, (run.name, self.b, order[0])
        values: dict[Entity, Number] = {
            ("parameter", p.name): self.values["parameter", f"{run.name}.{p.name}"]
            for p in cell.parameters
        }
        for v, rows in zip(cell.inputs, inputs, strict=True):
            stacked = joined([each(a, lambda z: z[np.newaxis]) for a in rows], axis=0)
            values["input", v.name] = stacked
        values |= {("state", n): a for n, a in state.items()}
        given: dict[str, Array] = {
            n: np.full((1, 1, 1), float(value)) for n, value in run.constants.items()
        }
        given |= {n: a[list(order), self.b][:, None, None] for n, a in self._noise(run).items()}
        sizes = {str(n): number(size, self.sizes) for n, size in run.sizes.items()}
        known = None if self.frozen is None else self.frozen[place]
        evaluator = self.evaluator._evaluators[cell]
        trace = evaluator.run(values, given, sizes, known, shake=self.shake, after=self.after)
        self.record[place] = trace.frozen
        return trace

    def _noise(self, run: Run) -> dict[str, Array]:
        T, B = self.given["shape"]
        shape = (1 if run.output.of_rows else T), B
        of = {m.name: m for m in run.cell.masks}
        units = {n: tuple(number(k, self.sizes) for k in shape_in(run, of[n])) for n in run.noise}
        if self.given["seed"] is None:
            return {n: np.full((*shape, *units[n]), noise.mean) for n, noise in run.noise.items()}
        found: dict[str, Array] = self.evaluator.masks(run, shape, self.given["seed"], units)
        return found

    def _start(self, run: Run, state: Any) -> Number:
        if run.learned_start:
            return self.values["parameter", start_of(run, state)]
        shape = (number(n, self.sizes) for n in shape_in(run, state))
        return np.full((1, 1, *shape), run.cell.starts_at(state))

    def _begin(self, name: str, start: Number) -> Number:
        value = each(self.values["state", name], lambda a: a[:, self.b : self.b + 1])
        return value if self.given["is_given"] else add(start, value)


def drawn(
    noise: Noise, shape: tuple[int, int], units: tuple[int, ...], seed: int, stream: int
) -> Array:
    """A mask (T, B, *units), number by number: the one at a place in time, of a row and a unit is
    the SplitMix64 generator's (Steele, Lea & Flood 2014) at that place, and begins at a key that
    its generator at ``seed`` has at ``stream``.
    """
    (T, B), width = shape, math.prod(units)
    dropped, kept = noise.values
    key = _splitmix(seed + _GOLDEN * (stream + 1))
    mask = np.empty((T, B, width))
    for t, b, u in np.ndindex(T, B, width):
        row = b if noise.whole else t * B + b
        bits = _splitmix(key + _GOLDEN * (row * width + u + 1)) >> 11
        mask[t, b, u] = dropped if bits < round(noise.probability * 2**53) else kept
    return mask.reshape(T, B, *units)


def _splitmix(z: int) -> int:
    z %= _WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WORD
    return z ^ (z >> 31)
