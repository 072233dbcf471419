"""How fast the generated code of a cell is here: both targets, interleaved, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cell import Cell
from .errors import LstmgenError, ToolchainError
from .schedule import plan
from .symbols import Size
from .toolchain import compile

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Timing:
    """One target's times in seconds, each the median over rounds, and how they spread."""

    target: str
    forward: float
    backward: float
    spread: float  # (third quartile - first quartile) / median, of both passes together
    flops: float

    @property
    def total(self) -> float:
        return self.forward + self.backward

    @property
    def gflops(self) -> float:
        """Arithmetic of the plan over the time of both passes, in 10⁹ a second."""
        return self.flops / self.total / 1e9


@dataclass(frozen=True)
class Timings:
    """What ``bench`` found; ``print`` shows a table."""

    cell: str
    dtype: str
    sizes: dict[str, int]
    rounds: int
    rows: tuple[Timing, ...]

    def __str__(self) -> str:
        shape = " ".join(f"{k}={v}" for k, v in self.sizes.items())
        lines = [f"{self.cell} · {self.dtype} · {shape} · medians of {self.rounds} rounds"]
        lines.append("target    forward   backward       both   spread   GFLOP/s    ratio")
        slowest = max(row.total for row in self.rows)
        for r in self.rows:
            lines.append(
                f"{r.target:<7}{_ms(r.forward)}{_ms(r.backward)}{_ms(r.total)}"
                f"{r.spread:>8.0%}{r.gflops:>10.2f}{slowest / r.total:>8.2f}×"
            )
        return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:>8.3g} ms"


def bench(
    cell: Cell,
    sizes: Mapping[str, int] | None = None,
    *,
    targets: Sequence[str] = ("numpy", "c"),
    dtype: str = "float32",
    rounds: int = 15,
    seed: int = 0,
    progress: Progress | None = None,
) -> Timings:
    """Time forward and backward of ``cell`` for each target, in turns, in one process.

    Parameters
    ----------
    cell : Cell
    sizes : mapping, optional
        T, B and the cell's sizes; what is left out is T=100, B=16, and 64 for every other.
    targets : sequence of str
        A target whose compiler or library is missing is left out, unless it is the only one.
    rounds : int
        Each round runs every target once; the first is not counted.
    """
    shape = {"T": 100, "B": 16, **{str(n): 64 for n in cell.sizes}, **(sizes or {})}
    unknown = sorted(set(shape) - {"T", "B", *(str(n) for n in cell.sizes)})
    if unknown:
        known = ", ".join(("T", "B", *map(str, cell.sizes)))
        raise LstmgenError(f"{cell.name} has no size {unknown[0]}; it has {known}")
    modules: dict[str, Any] = {}
    for target in targets:
        try:
            modules[target] = compile(cell, target, dtype=dtype)
        except ToolchainError:
            if len(targets) == 1:
                raise
    case = _Case(cell, next(iter(modules.values())), shape, dtype, seed)
    times: dict[str, list[tuple[float, float]]] = {target: [] for target in modules}
    for number in range(rounds + 1):
        for target, module in modules.items():
            found = case.run(module)
            if number:  # the first round warms caches and allocators up
                times[target].append(found)
        if progress is not None:
            progress(number + 1, rounds + 1, "")
    flops = float(plan(cell).flops.subs({Size(name): n for name, n in shape.items()}))
    rows = tuple(_timing(target, found, flops) for target, found in times.items())
    return Timings(cell.name, dtype, shape, rounds, rows)


def _timing(target: str, times: Sequence[tuple[float, float]], flops: float) -> Timing:
    forward, backward = (statistics.median(part) for part in zip(*times, strict=True))
    totals = sorted(sum(pair) for pair in times)
    middle = totals[len(totals) // 4 : -(len(totals) // 4) or None]
    spread = (middle[-1] - middle[0]) / statistics.median(totals)
    return Timing(target, forward, backward, spread, flops)


class _Case:
    """Random arrays of one shape, and the two calls that are timed."""

    def __init__(
        self, cell: Cell, module: Any, shape: Mapping[str, int], dtype: str, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)

        def array(*names: str) -> Any:
            return rng.standard_normal([int(n) if n.isdigit() else shape[n] for n in names]).astype(
                dtype
            )

        first = str(cell.size(cell.inputs[0]))
        sizes = {k: v for k, v in shape.items() if k not in ("T", "B")}
        constants = {c.name: 0.1 for c in cell.constants if cell.initial(c) is None}
        inner = sizes.get("H", next(iter(sizes.values()), 1))
        others = {k: v for k, v in sizes.items() if k not in ("H", first)}
        self.params = module.init(
            sizes.get(first, 1), inner, seed=seed, dtype=dtype, **others, **constants
        )
        inputs = {v.name: array("T", "B", str(cell.size(v))) for v in cell.inputs}
        self.x = inputs if len(inputs) > 1 else next(iter(inputs.values()))
        self.extra = (
            {"masks": {v.name: array("T", "B", str(cell.size(v))) for v in cell.masks}}
            if cell.masks
            else {}
        )
        self.dy = array("T", "B", str(cell.size(cell.output)))

    def run(self, module: Any) -> tuple[float, float]:
        start = time.perf_counter()
        _, _, tape = module.forward(self.params, self.x, None, **self.extra)
        middle = time.perf_counter()
        module.backward(self.params, tape, self.dy)
        return middle - start, time.perf_counter() - middle
