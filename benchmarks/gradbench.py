"""GradBench's `lstm`, with its layers as one cell for everybody, and as a wavefront for us."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sympy import Eq

from lstmgen import Cell
from lstmgen.benchmark.contenders import Contender, Prepared
from lstmgen.benchmark.problem import INFERENCE, STEP, TRAINING, Problem, Values
from lstmgen.language.symbols import Vector

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "gradbench.py"
UNITS = 14  # the bits of the eval's text
# Layers and characters, as the eval has them: the smallest and the largest; and one to be quick.
SIZES = ((2, 1024), (6, 8192))
QUICK = ((2, 65),)
_PREFIX = "gradbench_lstm_"


@cache
def example() -> Any:
    """The example, which has the equations. It is a program and not in a package."""
    spec = importlib.util.spec_from_file_location("gradbench_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=8)
def whole(layers: int) -> Cell:
    """All layers and the loss in one cell, whose names end in the number of a layer."""
    made = example()
    equations: list[Eq] = []
    below = made.FIRST
    for k in range(layers):
        own = {v for e in made.LAYER.equations for v in e.atoms(Vector)} - {made.x}
        renamed = {v: Vector(f"{v.name}{k}", v.category, v.axes, v.time) for v in own}
        equations += [e.xreplace({made.x: below, **renamed}) for e in made.LAYER.equations]
        below = renamed[made.h.next]
    equations += [e.xreplace({made.x: below}) for e in made.LOSS.equations]
    return Cell(f"{_PREFIX}{layers}", equations, made.score)


def problem(layers: int, characters: int, work: str, threads: int) -> Problem:
    """In float64, as the eval asks for. The last character is predicted, and not read."""
    sizes = {"T": characters - 1, "B": 1, "D": UNITS}
    return Problem(whole(layers), sizes, work, "float64", threads)


class Wavefront(Contender):
    """The example's network, with the parameters of the whole cell."""

    key, name = "wavefront", "lstmgen C, a wavefront"

    def fits(self, problem: Problem) -> bool:
        return problem.cell.name.startswith(_PREFIX) and problem.work != STEP

    def prepare(self, problem: Problem) -> Prepared:
        p, layers = problem, len(problem.cell.states) // 2
        network = example().Network(layers, p.sizes["D"])
        names = [n for n in network.stack.PARAMETERS if n != "w_in"]
        params = {"w_in": p.params["w_in"]} | {n: _joined(p.params, n, layers) for n in names}
        of_loss = {n: p.params[n] for n in ("w_out", "b_out")}
        state = {s: _joined(p.state, s, layers) for s in "hc"}
        (x,) = p.inputs.values()

        def infer() -> Any:
            top, final, _ = network.stack.forward(params, x, state, tape=False)
            scores, _, _ = network.loss.forward(of_loss, top, masks=p.masks, tape=False)
            return scores, final, None

        def train() -> Any:
            top, final, tape = network.stack.forward(params, x, state)
            scores, _, kept = network.loss.forward(of_loss, top, masks=p.masks)
            by_loss, dtop, _ = network.loss.backward(of_loss, kept, p.dy)
            return scores, final, (by_loss, *network.stack.backward(params, tape, dtop))

        def values(found: Any) -> Values:
            scores, final, gradients = found
            if gradients is None:
                return p.results(scores, _apart(final, layers))
            by_loss, by_stack, dx, initial = gradients
            single = by_loss | {"w_in": by_stack["w_in"]}
            each = _apart({n: by_stack[n] for n in names}, layers)
            return p.results(
                scores, _apart(final, layers), single | each, {"x": dx}, _apart(initial, layers)
            )

        if p.work == INFERENCE:
            return Prepared(infer, values)
        assert p.work == TRAINING
        return Prepared(train, values)


def _joined(arrays: Any, name: str, layers: int) -> Any:
    """The parameters or states of all layers side by side."""
    return np.concatenate([arrays[f"{name}{k}"] for k in range(layers)], axis=-1)


def _apart(arrays: Any, layers: int) -> dict[str, Any]:
    return {
        f"{name}{k}": part
        for name, array in arrays.items()
        for k, part in enumerate(np.split(array, layers, axis=-1))
    }
