"""Cells without end: made up, compiled, and held against a direct evaluation of their equations.

    python tests/fuzz.py --minutes 60             # NumPy
    python tests/fuzz.py --target c --cells 500   # C, several cells a compilation
    python tests/fuzz.py --target msan            # C, under MemorySanitizer; or asan, or guards
    python tests/fuzz.py --axes                   # cells of several axes, with any target
    python tests/fuzz.py --seed 1234 --cells 1 --show

Every seed is a cell of its own, and the same one on every machine. Each runs at a random point and
at one where kinks are hit and values tie. All memory that the code has not written itself is NaN,
and what C may use ends where the process may not go on reading. The derivative of the loss along a
random direction of each argument is compared with the derivative that the evaluation carries along.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import driver
import made_up_axes
import numpy as np
import strategies

from lstmgen import Cell, CellError, compile, generate
from lstmgen.language import dtypes
from lstmgen.language.matrices import Matrix
from lstmgen.runtime.memory import Memory
from lstmgen.runtime.native import NativeModule
from lstmgen.verification.arithmetic import Dual, value_of
from lstmgen.verification.evaluation import Evaluator, number
from lstmgen.verification.rounding import Rounding

# Relative to the magnitudes that make up a derivative: some thousand roundings. What a point
# amplifies is allowed for in addition.
TOLERANCE = {"float64": 1e-10, "float32": 3e-3}

# No multiples of a vector among the first; some are, and some are one.
_SIZES = (3, 5, 7, 9, 11, 13, 6, 10, 1, 2, 8, 16, 17)


def cell_of(seed: int) -> Cell:
    """The cell of a seed; of a negative one, with several axes."""
    rng, name = random.Random(seed), f"made_up_{abs(seed)}"
    if seed < 0:
        return made_up_axes.made_up(rng.randrange, name=name)
    return strategies.made_up(rng.randrange, name=name)


# --------------------------------------------------------------------------- points


@dataclass
class Point:
    """Numbers for all that a cell reads, and what the equations make of them.

    ``values`` and ``directions`` are by (kind, name); ``slopes`` are the derivatives of the loss
    along the directions.
    """

    cell: Cell
    sizes: dict[str, int]
    steps: int
    batch: int
    values: dict[tuple[str, str], Any]
    given: dict[str, Any]
    dy: dict[str, Any]
    dstate: dict[str, Any]
    directions: dict[tuple[str, str], Any]
    dtype: str

    def __post_init__(self) -> None:
        for arrays in (self.values, self.given, self.dy, self.dstate):  # what the module will see
            arrays.update({k: np.asarray(v, self.dtype).astype(float) for k, v in arrays.items()})
        self.y, self.final, self.slopes = self._evaluate()

    def _evaluate(self, shake: Rounding | None = None) -> tuple[Any, Any, dict[Any, float]]:
        """The equations' results, and their slopes in the direction of each argument."""
        keys = list(self.directions)
        given = {
            n: v[:, None] if v.ndim else np.full((1, 1, 1), float(v)) for n, v in self.given.items()
        }
        values = {}
        for e, v in self.values.items():
            along = np.zeros((len(keys), *v.shape))
            along[keys.index(e)] = self.directions[e]
            values[e] = Dual(_lift(e, v[None]), _lift(e, along))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace = Evaluator(self.cell).run(values, given, self.sizes, shake=shake)
            pairs = [
                (dy[t], y[n]) for t, y in enumerate(trace.outputs) for n, dy in self.dy.items()
            ]
            pairs += [(d, trace.states[-1][n]) for n, d in self.dstate.items()]
            products = [d * a.slope for d, a in pairs if isinstance(a, Dual)]
            terms = [p.sum(axis=tuple(range(1, p.ndim))) for p in products]
        slopes = np.broadcast_to(sum(terms, np.zeros(1)), (len(keys),))
        y = {n: np.stack([self._rows(a[n]) for a in trace.outputs]) for n in self.dy}
        final = {n: self._rows(a) for n, a in trace.states[-1].items()}
        return y, final, dict(zip(keys, map(float, slopes), strict=True))

    def _rows(self, a: Any) -> Any:
        value = value_of(a)
        return np.broadcast_to(value[0], (self.batch, *value.shape[2:]))

    @property
    def is_finite(self) -> bool:
        numbers = [*self.y.values(), *self.final.values(), np.array(list(self.slopes.values()))]
        return all(np.isfinite(a).all() and np.abs(a).max(initial=0) < 1e6 for a in numbers)

    def amplifies(self) -> tuple[float, dict[Any, float]]:
        """How far results and slopes move if every operation is off by a few units in the last
        place: near a jump, or where a quotient is near 0 / 0, nothing can be right to more than
        that.
        """
        amount = 4 * float(np.finfo(self.dtype).eps)
        values, slopes = 0.0, dict.fromkeys(self.slopes, 0.0)
        for seed in range(6):
            y, final, found = self._evaluate(Rounding(amount, dtypes.dtype(self.dtype), seed=seed))
            distances = [np.abs(y[n] - self.y[n]) for n in y]
            distances += [np.abs(final[n] - self.final[n]) for n in final]
            values = max(values, *(_finite(d.max(initial=0)) for d in distances))
            for e, slope in found.items():
                slopes[e] = max(slopes[e], _finite(abs(slope - self.slopes[e])))
        return values, slopes


def _finite(distance: Any) -> float:
    return float(distance) if np.isfinite(distance) else np.inf


def _lift(entity: tuple[str, str], copies: Any) -> Any:
    """An array with a leading axis of copies, in the layout of the evaluation."""
    if entity[0] == "input":
        return np.moveaxis(copies, 0, 1)
    return copies[:, None] if entity[0] == "parameter" else copies  # the same for all rows


def points(cell: Cell, seed: int, dtype: str = "float64", **fixed: int) -> Iterator[Point]:
    """A random point, and one with zeros and ties."""
    rng = np.random.default_rng(abs(seed))
    for kinked in (False, True):
        names = [n.name for n in cell.sizes]
        sizes = dict(zip(names, map(int, rng.choice(_SIZES, len(names))), strict=True)) | fixed
        yield _point(cell, sizes, rng, kinked, dtype)


def _point(cell: Cell, sizes: dict[str, int], rng: Any, kinked: bool, dtype: str) -> Point:
    steps, batch = int(rng.integers(1, 6)), int(rng.integers(1, 5))

    def draw(*shape: int) -> Any:
        drawn = rng.normal(size=shape)
        # whole numbers, many of them zero, so that sums are zero as well and values tie
        return np.round(drawn) * (rng.random(shape) < 0.7) if kinked else drawn

    def shape(symbol: Any) -> tuple[int, ...]:
        return tuple(number(n, sizes) for n in cell.shape(symbol))

    values: dict[tuple[str, str], Any] = {}
    for p in cell.parameters:
        drawn = draw(*shape(p))
        if isinstance(p, Matrix):
            drawn = drawn if kinked else drawn / np.sqrt(drawn.shape[-1])
        else:
            spread = 0.5 if not kinked else float(rng.random() < 0.5)
            drawn = (cell.initial(p) or 0.0) + spread * drawn
        values["parameter", p.name] = drawn
    for v in cell.inputs:
        values["input", v.name] = draw(steps, batch, *shape(v))
    for s in cell.states:
        zero = kinked and rng.random() < 0.3
        values["state", s.name] = draw(batch, *shape(s)) * (0.0 if zero else 0.7)
    given: dict[str, Any] = {
        m.name: rng.integers(0, 2, (steps, batch, *shape(m))).astype(float) for m in cell.masks
    }
    for c in cell.constants:
        start = cell.initial(c)
        given[c.name] = rng.uniform(0.3, 0.9) if start is None else start
    return Point(
        cell, sizes, steps, batch, values, given,
        {v.name: rng.normal(size=(steps, batch, *shape(v))) for v in cell.outputs},
        {s.name: rng.normal(size=(batch, *shape(s))) for s in cell.states},
        {e: rng.normal(size=v.shape) for e, v in values.items()}, dtype,
    )  # fmt: skip


# --------------------------------------------------------------------------- judging


class Wrong(Exception):
    """What comes out is not what the equations say."""


def run(module: Any, point: Point) -> tuple[Any, Any, dict[tuple[str, str], Any]]:
    """Outputs, final states (of forward, and of steps) and gradients of a module."""
    cell, dtype = point.cell, point.dtype
    of: dict[str, dict[str, Any]] = {"parameter": {}, "input": {}, "state": {}}
    for (kind, name), value in point.values.items():
        of[kind][name] = value.astype(dtype)

    def joined(by_name: dict[str, Any]) -> Any:
        return by_name if len(by_name) > 1 else next(iter(by_name.values()))

    params = of["parameter"] | {c.name: float(point.given[c.name]) for c in cell.constants}
    masks = {m.name: point.given[m.name].astype(dtype) for m in cell.masks}
    extra = {"masks": masks} if masks else {}
    y, final, tape = module.forward(params, joined(of["input"]), of["state"], **extra)
    dy, dstate = ({n: d.astype(dtype) for n, d in a.items()} for a in (point.dy, point.dstate))
    grads, dx, first = module.backward(params, tape, joined(dy), dstate)
    gradients = {("parameter", n): g for n, g in grads.items()}
    by_input = dx if len(of["input"]) > 1 else {next(iter(of["input"])): dx}
    gradients |= {("input", n): g for n, g in by_input.items()}
    gradients |= {("state", n): g for n, g in first.items()}
    state = of["state"]
    for t in range(point.steps):
        extra = {"masks": {n: a[t] for n, a in masks.items()}} if masks else {}
        state = module.step(
            params, joined({n: a[t] for n, a in of["input"].items()}), state, **extra
        )
    y = y if len(dy) > 1 else {cell.output.name: y}
    return y, {"final": final, "streamed": {n: state[n] for n in final}}, gradients


def judge(point: Point, y: Any, finals: Any, gradients: Mapping[tuple[str, str], Any]) -> None:
    """Raise ``Wrong`` if something is."""
    exact = (0.0, dict.fromkeys(point.slopes, 0.0))
    if any(_problems(point, y, finals, gradients, *exact)):
        problems = list(_problems(point, y, finals, gradients, *point.amplifies()))
        if problems:
            raise Wrong("; ".join(problems[:4]))


def _problems(
    point: Point, y: Any, finals: Any, gradients: Mapping[tuple[str, str], Any],
    values: float, slopes: Mapping[Any, float],
) -> Iterator[str]:  # fmt: skip
    tolerance = TOLERANCE[point.dtype]
    wanted = {f"y {n}": (a, y[n]) for n, a in point.y.items()}
    for way, final in finals.items():
        wanted.update({f"{way} {n}": (point.final[n], final[n]) for n in final})
    for name, (want, got) in wanted.items():
        if got.shape != want.shape:
            yield f"{name} has shape {got.shape}, not {want.shape}"
            continue
        error = float(np.abs(got - want).max(initial=0))
        if not error <= tolerance / 10 * (1 + float(np.abs(want).max(initial=0))) + 20 * values:
            yield f"{name} is off by {error:.1e}"
    largest = max(
        [abs(s) for s in point.slopes.values()]
        + [float(np.abs(dy).max()) for dy in point.dy.values()]
    )
    for e, slope in point.slopes.items():
        parts = gradients[e].astype(float) * point.directions[e]
        if not np.isfinite(parts).all():
            yield f"the gradient of {e[1]} is {parts[~np.isfinite(parts)][0]}"
            continue
        scale = float(np.abs(parts).sum()) + 0.01 * largest
        if not abs(float(parts.sum()) - slope) <= tolerance * scale + 20 * slopes[e]:
            yield f"the gradient of {e[1]} gives {parts.sum():.6g} where {slope:.6g} is right"


def judge_module(module: Any, found: Iterator[Point]) -> str:
    """Hold a module against the equations at all points where these have values."""
    outcome = "not finite"
    for point in found:
        if point.is_finite:
            outcome = "right"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                judge(point, *run(module, point))
    return outcome


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


def fuzz_numpy(seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
    """What became of each seed: "right", "refused", "not finite", or what is wrong."""
    for seed in seeds:
        try:
            cell = cell_of(seed)
        except CellError:
            yield seed, "refused"
            continue
        try:
            module = compile(cell, "numpy")
            vars(module)["np"] = _Poisoned()
            yield seed, judge_module(module, points(cell, seed))
        except Exception as error:
            yield seed, _said(error)


def _said(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"WRONG {type(error).__name__}: {error} ({where.name})"


# --------------------------------------------------------------------------- C

# Every kind of vector; without fused operations and with them; as a compiler without vectors. Most
# take no time to optimise: what is wrong is wrong without that.
BUILDS = (
    *(("gcc", "-O0", "-march=native"),) * 3,
    ("gcc", "-O0"),
    ("gcc", "-O0", "-mavx2", "-mfma"),
    ("gcc", "-O0", "-DLSTMGEN_SCALAR"),
    ("clang", "-O0", "-march=native"),
    ("gcc", "-O1", "-march=native"),
    ("gcc", "-O2", "-mavx2", "-mfma"),
    ("gcc", "-O3", "-march=native", "-fno-math-errno"),
)
_PAGE = mmap.PAGESIZE


class _Fenced(Memory):
    """Buffers that are exactly as large as C asks for: NaN, and before a page that nobody may
    touch.
    """

    def buffer(self, numbers: int) -> Any:
        size = numbers * self._dtype.itemsize
        pages = -(-size // _PAGE)
        memory = mmap.mmap(-1, (pages + 1) * _PAGE)
        whole = np.frombuffer(memory, np.uint8)
        _protect(whole.ctypes.data + pages * _PAGE)
        made = whole[pages * _PAGE - size : pages * _PAGE].view(self._dtype)
        made[:] = np.nan
        return self.at(made)

    def workspace(self, numbers: int) -> Any:
        return numbers, self.buffer(numbers)

    tape = workspace


class _FencedModule(NativeModule):
    _memory_kind = _Fenced


def _protect(address: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def fuzz_c(seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
    """The same for C: all seeds in one library, in a process that may crash."""
    rng = random.Random(f"build {seeds[0]}")
    build, dtype = rng.choice(BUILDS), rng.choice(("float64", "float64", "float32"))
    threads = rng.choice((1, 1, 3))
    cells: dict[int, Cell] = {}
    files: dict[int, dict[str, str]] = {}
    fixed: dict[int, dict[str, int]] = {}
    for seed in seeds:
        try:
            cell = cell_of(seed)
            fixed[seed] = {}
            if rng.random() < 0.2:
                fixed[seed] = {n.name: rng.choice(_SIZES) for n in cell.sizes}
            files[seed] = generate(cell, "c", dtype=dtype, **fixed[seed])
            cells[seed] = cell
        except CellError:
            yield seed, "refused"
        except Exception as error:
            yield seed, _said(error)
    what = f"[{' '.join(build)} {dtype} threads={threads}]"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for seed, said in _refused(files, home, build):
            yield seed, f"WRONG {what} compiler: {said}"

        def one(seed: int) -> str:
            header = next(text for name, text in files[seed].items() if name.endswith(".h"))
            module = _FencedModule(
                cells[seed], header, home / "library.so", dtype, fixed[seed], threads
            )
            return judge_module(module, points(cells[seed], seed, dtype, **fixed[seed]))

        for seed in files:
            outcome = _apart(one, seed)
            yield seed, outcome if not outcome.startswith("WRONG") else f"{outcome} {what}"


def _refused(
    files: dict[int, dict[str, str]], home: Path, build: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """Build a library of all ``files``, less those of seeds that a compiler does not like."""
    warned = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-std=c99")
    while files:
        for made in files.values():
            for name, text in made.items():
                (home / name).write_text(text, encoding="utf-8")
        sources = [name for made in files.values() for name in made if name.endswith(".c")]
        command = [*build, *warned, "-fPIC", "-shared", *sources, "-o", "library.so", "-lm"]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
        if done.returncode == 0 and not done.stderr:
            return
        for seed in [s for s in files if f"made_up_{s}." in done.stderr] or list(files):
            yield seed, done.stderr[:500]
            del files[seed]


# --------------------------------------------------------------------------- sanitizers

_SANITIZERS = {
    "asan": ("gcc", "-O0", *driver.POISONED),
    "msan": ("clang", "-O1", *driver.UNINITIALISED),
    "guards": ("gcc", "-O2", *driver.AT_THE_END),
}


def fuzz_watched(watch: str, seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
    """All seeds in one program that calls every function in every way, under a sanitizer."""
    rng = random.Random(f"{watch} {seeds[0]}")
    command = [*_SANITIZERS[watch], *rng.choice(((), ("-march=native",)))]
    dtype = rng.choice(("float64", "float32"))
    cases = {}
    for seed in seeds:
        try:
            cell = cell_of(seed)
        except CellError:
            yield seed, "refused"
            continue
        sizes = {n.name: rng.choice(_SIZES) for n in cell.sizes}
        sizes |= {"T": rng.randrange(1, 6), "B": rng.randrange(1, 5)}
        cases[seed] = driver.Case(cell, sizes, dtype)
    with tempfile.TemporaryDirectory() as folder:
        for seed, said in _each(list(cases), cases, Path(folder), command):
            yield seed, said if said == "right" else f"WRONG [{' '.join(command)}] {said[:600]}"


def _each(
    seeds: Sequence[int], cases: Mapping[int, driver.Case], folder: Path, command: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """What a program of these cases comes to; if it fails, what those of single cases do."""
    if not seeds:
        return
    try:
        sources = driver.write([cases[seed] for seed in seeds], folder)
        driver.build(folder, sources, *command)
        driver.execute(folder)
    except Exception as error:
        if len(seeds) == 1:
            yield seeds[0], str(error)
            return
        for seed in seeds:
            yield from _each([seed], cases, folder, command)
    else:
        yield from ((seed, "right") for seed in seeds)


def _apart(function: Callable[[int], str], seed: int) -> str:
    """The result of a function, called in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = function(seed)
        except Exception as error:
            said = _said(error)
        os.write(writing, said.encode()[:60000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said or f"WRONG: the process ended with {status}"


# --------------------------------------------------------------------------- the command


def main() -> int:
    """Run what the command line asks for; 1 if anything was wrong."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=("numpy", "c", *_SANITIZERS), default="numpy")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--cells", type=int, default=10**9, help="how many")
    parser.add_argument("--minutes", type=float, default=10**6, help="for how long")
    parser.add_argument("--axes", action="store_true", help="cells of several axes")
    parser.add_argument("--together", type=int, default=6, help="cells a compilation, for C")
    parser.add_argument("--show", action="store_true", help="print each cell")
    args = parser.parse_args()
    function, group = {"numpy": (fuzz_numpy, 1), "c": (fuzz_c, args.together)}.get(
        args.target, (partial(fuzz_watched, args.target), args.together)
    )
    counts: Counter[str] = Counter()
    start = last = time.monotonic()
    for first in range(args.seed, args.seed + args.cells, group):
        numbers = range(first, min(first + group, args.seed + args.cells))
        seeds = [-1 - n for n in numbers] if args.axes else list(numbers)
        if args.show:
            for seed in seeds:
                print("\n".join(f"  {e.lhs} = {e.rhs}" for e in cell_of(seed).equations))
        for seed, outcome in function(seeds):
            counts[outcome.split()[0] if outcome.startswith("WRONG") else outcome] += 1
            if outcome.startswith("WRONG"):
                print(f"seed {-1 - seed if args.axes else seed}: {outcome}", flush=True)
        now = time.monotonic()
        if now - last > 60:
            last = now
            print(f"up to seed {numbers[-1]}, {now - start:.0f} s: {dict(counts)}", flush=True)
        if now - start > 60 * args.minutes:
            break
    print(dict(counts))
    return 1 if counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
