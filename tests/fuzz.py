"""Cells without end: made up, compiled, and held against a direct evaluation of their equations.

    python tests/fuzz.py --minutes 60             # NumPy, a cell a seed
    python tests/fuzz.py --target c --cells 500   # C, several cells a compilation
    python tests/fuzz.py --seed 1234 --cells 1    # one again

Every seed is a cell of its own, and the same one on every machine. Each runs at random points and at
points where kinks are hit and values tie, with NaN in all memory that the code does not write
itself. The derivative of the loss along a random direction of each argument is compared with the
complex step of the evaluation.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import strategies

from lstmgen import Cell, CellError, compile
from lstmgen.evaluation import Evaluator, number
from lstmgen.symbols import Matrix

STEP = 1e-30
# Relative to the sum of the magnitudes that make up a derivative; what a case amplifies is allowed
# for in addition (``Point.amplifies``).
TOLERANCE = 1e-10

# No multiples of a vector among the first; some are, and some are one.
_SIZES = (3, 5, 7, 9, 11, 13, 6, 10, 1, 2, 8, 16, 17)


def cell_of(seed: int) -> Cell:
    """The cell of a seed."""
    rng = random.Random(seed)
    return strategies.made_up(rng.randrange)


@dataclass
class Point:
    """Numbers for all that a cell reads, and what the equations make of them.

    ``values`` and ``directions`` are by (kind, name); the derivative of the loss along a direction
    is in ``slopes``.
    """

    cell: Cell
    sizes: dict[str, int]
    steps: int
    batch: int
    values: dict[tuple[str, str], Any]
    given: dict[str, Any]
    dy: Any
    dstate: dict[str, Any]
    directions: dict[tuple[str, str], Any]

    def __post_init__(self) -> None:
        self.y, self.final, self.slopes = self._evaluate(self.values)

    def _evaluate(self, values: Mapping[tuple[str, str], Any]) -> tuple[Any, Any, dict[Any, float]]:
        """The equations' results and slopes: a copy for each argument that is moved."""
        keys = list(self.directions)
        given = {
            n: v[:, None] if isinstance(v, np.ndarray) else np.full((1, 1, 1), float(v))
            for n, v in self.given.items()
        }
        evaluator = Evaluator(self.cell)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = {e: _lift(e, v[None]) for e, v in values.items()}
            base = evaluator.run(plain, given, self.sizes)
            moved = {}
            for e, v in values.items():
                copies = np.repeat(v[None].astype(complex), len(keys), axis=0)
                copies[keys.index(e)] += 1j * STEP * self.directions[e]
                moved[e] = _lift(e, copies)
            trace = evaluator.run(moved, given, self.sizes, base.frozen)
            loss = sum(
                (dy * y.imag).sum(axis=(-2, -1)) for dy, y in zip(self.dy, trace.outputs, strict=True)
            )
            loss = loss + sum(
                (d * trace.states[-1][n].imag).sum(axis=(-2, -1)) for n, d in self.dstate.items()
            )
        loss = np.broadcast_to(loss, (len(keys),)) / STEP
        y = np.stack([np.broadcast_to(a[0], (self.batch, a.shape[-1])) for a in base.outputs])
        final = {
            n: np.broadcast_to(a[0], (self.batch, a.shape[-1])) for n, a in base.states[-1].items()
        }
        return y, final, dict(zip(keys, map(float, loss), strict=True))

    @property
    def is_finite(self) -> bool:
        numbers = [self.y, *self.final.values(), np.array(list(self.slopes.values()))]
        return all(np.isfinite(a).all() and np.abs(a).max(initial=0) < 1e6 for a in numbers)

    def amplifies(self) -> tuple[float, dict[Any, float]]:
        """How far results and slopes move if all arguments do by a few units in the last place:
        near a jump, or where a quotient is near 0 / 0, nothing can be right to more than that.
        """
        rng = np.random.default_rng(1)
        values, slopes = 0.0, dict.fromkeys(self.slopes, 0.0)
        for _ in range(4):
            moved = {e: v * (1 + 4e-16 * rng.integers(-2, 3, v.shape)) for e, v in self.values.items()}
            y, final, found = self._evaluate(moved)
            values = max(values, float(np.abs(y - self.y).max(initial=0)),
                         *(float(np.abs(final[n] - self.final[n]).max(initial=0)) for n in final))  # fmt: skip
            for e, slope in found.items():
                slopes[e] = max(slopes[e], abs(slope - self.slopes[e]))
        return values, slopes


def _lift(entity: tuple[str, str], copies: Any) -> Any:
    """An array with a leading axis of copies, in the layout of the evaluation."""
    if entity[0] == "input":
        return np.moveaxis(copies, 0, 1)
    return copies[:, None, :] if copies.ndim == 2 else copies


def points(cell: Cell, seed: int) -> Iterator[Point]:
    """A random point, and one with zeros and ties."""
    rng = np.random.default_rng(seed)
    for kinked in (False, True):
        names = [n.name for n in cell.sizes]
        sizes = dict(zip(names, map(int, rng.choice(_SIZES, len(names))), strict=True))
        steps, batch = int(rng.integers(1, 6)), int(rng.integers(1, 5))

        def draw(*shape: int, kinked: bool = kinked) -> Any:
            drawn = rng.normal(size=shape)
            if kinked:  # whole numbers, many of them zero, and rows that repeat
                drawn = np.round(drawn) * (rng.random(shape) < 0.7)
            return drawn

        def shape(symbol: Any, sizes: dict[str, int] = sizes) -> tuple[int, ...]:
            return tuple(number(n, sizes) for n in cell.shape(symbol))

        values: dict[tuple[str, str], Any] = {}
        for p in cell.parameters:
            drawn = draw(*shape(p))
            if isinstance(p, Matrix):
                drawn = drawn / (1 if kinked else np.sqrt(drawn.shape[-1]))
            elif not kinked:
                drawn = (cell.initial(p) or 0.0) + 0.5 * drawn
            else:
                drawn = (cell.initial(p) or 0.0) + drawn * (rng.random() < 0.5)
            values["parameter", p.name] = drawn
        for v in cell.inputs:
            values["input", v.name] = draw(steps, batch, *shape(v))
        for s in cell.states:
            values["state", s.name] = draw(batch, *shape(s)) * (0 if kinked and rng.random() < 0.3 else 0.7)
        given: dict[str, Any] = {
            m.name: rng.integers(0, 2, (steps, batch, *shape(m))).astype(float) for m in cell.masks
        }
        for c in cell.constants:
            start = cell.initial(c)
            given[c.name] = float(rng.uniform(0.3, 0.9)) if start is None else start
        yield Point(
            cell, sizes, steps, batch, values, given,
            rng.normal(size=(steps, batch, *shape(cell.output))),
            {s.name: rng.normal(size=(batch, *shape(s))) for s in cell.states},
            {e: rng.normal(size=v.shape) for e, v in values.items()},
        )  # fmt: skip


# --------------------------------------------------------------------------- NumPy


class _Poisoned:
    """NumPy whose fresh memory is NaN: what is read before it is written shows."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty(shape: Any, dtype: Any = float) -> Any:
        return np.full(shape, np.nan, dtype)

    @staticmethod
    def empty_like(array: Any) -> Any:
        return np.full(array.shape, np.nan, array.dtype)


class Wrong(Exception):
    """What comes out is not what the equations say."""


def run(module: Any, point: Point) -> tuple[Any, Any, dict[tuple[str, str], Any]]:
    """Outputs, final states and gradients of a module."""
    cell = point.cell
    of = {
        kind: {n: v for (k, n), v in point.values.items() if k == kind}
        for kind in ("parameter", "input", "state")
    }
    params = of["parameter"] | {c.name: point.given[c.name] for c in cell.constants}
    x = of["input"] if len(of["input"]) > 1 else next(iter(of["input"].values()))
    masks = {m.name: point.given[m.name] for m in cell.masks}
    extra = {"masks": masks} if masks else {}
    y, final, tape = module.forward(params, x, of["state"], **extra)
    grads, dx, first = module.backward(params, tape, point.dy, point.dstate)
    by_input = dx if len(of["input"]) > 1 else {next(iter(of["input"])): dx}
    gradients = {("parameter", n): g for n, g in grads.items()}
    gradients |= {("input", n): g for n, g in by_input.items()}
    gradients |= {("state", n): g for n, g in first.items()}
    state = of["state"]
    for t in range(point.steps):
        x_t = {n: a[t] for n, a in of["input"].items()}
        x_t = x_t if len(x_t) > 1 else next(iter(x_t.values()))
        extra = {"masks": {n: a[t] for n, a in masks.items()}} if masks else {}
        state = module.step(params, x_t, state, **extra)
    streamed = {n: state[n] for n in final}
    return y, {"final": final, "streamed": streamed}, gradients


def judge(point: Point, y: Any, finals: Any, gradients: Mapping[tuple[str, str], Any]) -> None:
    """Raise ``Wrong`` for the first thing that is wrong."""
    problems = list(_problems(point, y, finals, gradients, 0.0, dict.fromkeys(point.slopes, 0.0)))
    if problems:
        problems = list(_problems(point, y, finals, gradients, *point.amplifies()))
    if problems:
        raise Wrong("; ".join(problems[:4]))


def _problems(
    point: Point, y: Any, finals: Any, gradients: Mapping[tuple[str, str], Any],
    values: float, slopes: Mapping[Any, float],
) -> Iterator[str]:  # fmt: skip
    wanted = {"y": (point.y, y)}
    for way, final in finals.items():
        wanted.update({f"{way} {n}": (point.final[n], final[n]) for n in final})
    for name, (want, got) in wanted.items():
        if got.shape != want.shape:
            yield f"{name} has shape {got.shape}, not {want.shape}"
            continue
        error = float(np.abs(got - want).max(initial=0))
        if not error <= 1e-11 * (1 + float(np.abs(want).max(initial=0))) + 20 * values:
            yield f"{name} is off by {error:.1e}"
    largest = max([abs(s) for s in point.slopes.values()] + [float(np.abs(point.dy).max())])
    for e, slope in point.slopes.items():
        parts = gradients[e] * point.directions[e]
        if not np.isfinite(parts).all():
            yield f"the gradient of {e[1]} is {parts.ravel()[~np.isfinite(parts).ravel()][0]}"
            continue
        error = abs(float(parts.sum()) - slope)
        scale = float(np.abs(parts).sum()) + 0.01 * largest
        if not error <= TOLERANCE * scale + 20 * slopes[e]:
            yield f"the gradient of {e[0]} {e[1]} gives {parts.sum():.6g} where {slope:.6g} is right"


def fuzz_numpy(seed: int) -> str:
    """What became of one seed: "right", "refused", "not finite"; raises for what is wrong."""
    try:
        cell = cell_of(seed)
    except CellError:
        return "refused"
    module = compile(cell, "numpy")
    vars(module)["np"] = _Poisoned()
    outcome = "not finite"
    for point in points(cell, seed):
        if not point.is_finite:
            continue
        outcome = "right"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judge(point, *run(module, point))
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--cells", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=10**6)
    parser.add_argument("--show", action="store_true", help="print each cell")
    parser.add_argument("--log", type=Path, help="a file for what went wrong")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    start = last = time.monotonic()
    for seed in range(args.seed, args.seed + args.cells):
        if args.show:
            print("\n".join(f"  {e.lhs} = {e.rhs}" for e in cell_of(seed).equations))
        try:
            counts[fuzz_numpy(seed)] += 1
        except Exception as error:
            counts["WRONG"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"seed {seed}: {type(error).__name__}: {error} ({where.name})"
            print(text[:600], flush=True)
            if args.log:
                with args.log.open("a") as file:
                    file.write(text + "\n")
        now = time.monotonic()
        if now - last > 60:
            last = now
            print(f"{seed + 1 - args.seed} seeds in {now - start:.0f} s: {dict(counts)}", flush=True)
        if now - start > 60 * args.minutes:
            break
    print(dict(counts))
    return 1 if counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
