"""What is measured: cells, shapes and contenders, in suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from lstmgen import cells
from lstmgen.benchmark.contenders import (
    Contender,
    Gemm,
    Generated,
    JaxScan,
    TorchKernel,
    TorchLoop,
)
from lstmgen.benchmark.problem import INFERENCE, STEP, TRAINING, Problem
from lstmgen.benchmark.race import Entry
from lstmgen.conventions import reference_of

from . import gradbench
from .c_steps import GeneratedFromC, PlainC
from .naive_numpy import MatmulsAlone, NaiveNumpy
from .onnx_runtime import OnnxEmpty, OnnxRuntime

Shape = tuple[int, int, int, int]  # T, B, D, H

_ALL: tuple[Contender, ...] = (
    Generated("c"), Generated("numpy"), TorchKernel(), TorchKernel(single=True),
    TorchLoop("eager"), TorchLoop("script"), TorchLoop("compile-step"), TorchLoop("compile"),
    JaxScan(), OnnxRuntime(), OnnxEmpty(), NaiveNumpy(), MatmulsAlone(), PlainC(),
    PlainC(looped=True), GeneratedFromC(), GeneratedFromC(fixed=True),
    gradbench.Wavefront(), Gemm(),
)  # fmt: skip
CONTENDERS = {contender.key: contender for contender in _ALL}

MAIN_SHAPES: tuple[Shape, ...] = (
    (100, 1, 32, 32), (100, 1, 128, 128), (100, 1, 512, 512), (1000, 1, 24, 16),
    (100, 16, 64, 64), (200, 8, 40, 96), (100, 32, 128, 128), (100, 32, 256, 256),
    (100, 64, 512, 512), (50, 128, 1024, 1024),
)  # fmt: skip
LARGE_SHAPES: tuple[Shape, ...] = (
    (100, 32, 256, 256), (100, 64, 512, 512), (50, 128, 1024, 1024),
)  # fmt: skip
CELL_SHAPES: tuple[Shape, ...] = ((100, 16, 64, 64), (100, 1, 128, 128), (100, 32, 256, 256))
# Of each, the multiple of 16 next to it; the whole loop is given to torch.compile only once a cell.
ODD_SIZES = {24: 32, 40: 48, 100: 96, 250: 256}
ODD_ROWS = (1, 3, 7, 33)
STEP_SIZES = (16, 32, 64, 128, 256)
APPLIED: dict[str, Shape] = {
    "guitar amplifier, one second of audio": (48000, 1, 1, 8),
    "the same, 16 units": (48000, 1, 1, 16),
    "the same, 24 units": (48000, 1, 1, 24),
    "150 words": (150, 1, 256, 256),
    "512 samples": (512, 1, 128, 128),
    "160 frames of speech": (160, 1, 40, 256),
    "25 steps, a training batch": (25, 16, 512, 512),
}
WITHOUT_KERNEL = ("lstm_peephole", "cifg", "lstm_layernorm", "lstmp", "gru_reset_before")


@dataclass(frozen=True)
class Options:
    """What the command line says of all suites."""

    threads: int = 1
    dtype: str = "float32"
    quick: bool = False
    only: tuple[str, ...] = ()  # keys of contenders; ours and the yardstick always run

    def problem(self, cell: str, shape: Shape, work: str) -> Problem:
        t, b, d, h = shape
        made = cells.get(cell)
        sizes = {"T": t, "B": b, "D": d, "H": h, "P": max(1, h // 2)}
        known = {"T", "B", *(str(n) for n in made.sizes)}
        sizes = {name: n for name, n in sizes.items() if name in known}
        return Problem(made, sizes, work, self.dtype, self.threads)


@dataclass
class Case:
    """One race. ``base`` says, for each entry, which one its ratio is to: the number of one of
    ours; ``pair`` are two of ours whose cost per operation is compared.
    """

    title: str
    entries: list[Entry] = field(default_factory=list)
    base: list[int | None] = field(default_factory=list)
    pair: tuple[int, int] | None = None

    def add(self, options: Options, keys: Sequence[str], problem: Problem) -> int:
        """Those of ``keys`` who can solve ``problem``; the first is ours. Returns its number."""
        first = len(self.entries)
        for k, key in enumerate(keys):
            contender = CONTENDERS[key]
            if not contender.fits(problem):
                continue
            if k and options.only and key not in options.only:
                continue
            self.entries.append(Entry(contender, problem))
            is_peer = k > 0 and key != "onnx-empty"
            self.base.append(first if is_peer else None)
        return first

    def finish(self) -> Case:
        self.entries.append(Entry(CONTENDERS["gemm"], self.entries[0].problem))
        self.base.append(None)
        return self


_KERNEL_PEERS = ("c", "torch-kernel", "onnx", "jax", "numpy")
_LOOP_PEERS = ("c", "torch-kernel", "torch-eager", "torch-script", "torch-compile-step", "jax")


def peers(cell: str) -> tuple[str, ...]:
    """Who is measured beside us for a cell, where nothing else is asked for."""
    has_kernel = reference_of(cells.get(cell), ["lstm", "gru"]) is not None
    return _KERNEL_PEERS if has_kernel else _LOOP_PEERS


def title(problem: Problem, note: str = "") -> str:
    shape = " ".join(f"{n}={k}" for n, k in problem.sizes.items()
                     if n != "T" or problem.work != STEP)  # fmt: skip
    return f"{problem.cell.name} {problem.work} {shape}" + (f" ({note})" if note else "")


def simple(
    options: Options,
    cell: str,
    shapes: Sequence[Shape],
    works: Sequence[str] = (INFERENCE, TRAINING),
    keys: Sequence[str] = (),
    note: str = "",
) -> Iterator[Case]:
    """A case for each work and shape."""
    for work in works:
        for shape in _some(options, shapes):
            problem = options.problem(cell, shape, work)
            case = Case(title(problem, note))
            case.add(options, keys or peers(cell), problem)
            yield case.finish()


def _some(options: Options, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """All shapes; or, to be quick, the two with the least to do."""
    if not options.quick:
        return shapes
    return sorted(shapes, key=lambda s: s[0] * s[1] * s[3] * (s[2] + s[3]))[:2]


def _lstm(options: Options) -> Iterator[Case]:
    yield from simple(options, "lstm", MAIN_SHAPES)


def _gru(options: Options) -> Iterator[Case]:
    yield from simple(options, "gru", MAIN_SHAPES)


def _cells(options: Options) -> Iterator[Case]:
    for cell in WITHOUT_KERNEL:
        for k, shape in enumerate(_some(options, CELL_SHAPES)):
            more = ("torch-compile",) if k == 0 and not options.quick else ()
            yield from simple(options, cell, [shape], keys=(*_LOOP_PEERS, *more))


def _odd(options: Options) -> Iterator[Case]:
    sizes = list(ODD_SIZES.items())[: 1 if options.quick else None]
    for hidden, aligned in sizes:
        for rows in ODD_ROWS[: 2 if options.quick else None]:
            for work in (INFERENCE, TRAINING):
                odd = options.problem("lstm", (50, rows, hidden, hidden), work)
                even = options.problem("lstm", (50, rows, aligned, aligned), work)
                case = Case(title(odd, f"beside H={aligned}"))
                pair = [case.add(options, ("c", "torch-kernel"), p) for p in (odd, even)]
                for entry in case.entries:
                    entry.name += f" H={entry.problem.sizes['H']}"
                case.pair = (pair[0], pair[1])
                yield case.finish()


def _large(options: Options) -> Iterator[Case]:
    keys = ("c", "torch-kernel", "jax")
    for cell in ("lstm", "gru"):
        yield from simple(options, cell, LARGE_SHAPES, keys=keys)


def _step(options: Options) -> Iterator[Case]:
    from_python = ("c", "numpy", "torch-kernel", "torch-cell", "torch-script", "onnx",
                   "onnx-empty", "plain-c")  # fmt: skip
    for cell in ("lstm", "gru"):
        for hidden in STEP_SIZES[: 2 if options.quick else None]:
            for inputs in (1, hidden):
                problem = options.problem(cell, (1, 1, inputs, hidden), STEP)
                case = Case(title(problem))
                case.add(options, from_python, problem)
                case.add(options, ("c-loop", "c-loop-fixed", "plain-c-loop"), problem)
                yield case.finish()


def _applied(options: Options) -> Iterator[Case]:
    for note, shape in APPLIED.items():
        if options.quick and shape[0] > 1000:
            continue
        works = (INFERENCE, TRAINING) if shape[0] <= 1000 else (INFERENCE,)
        yield from simple(
            options, "lstm", [shape], works, ("c", "torch-kernel", "onnx", "jax"), note
        )


def _numpy(options: Options) -> Iterator[Case]:
    keys = ("numpy", "numpy-naive", "matmuls")
    shapes = [s for s in MAIN_SHAPES if s[1] * s[3] < 64 * 512]
    yield from simple(options, "lstm", shapes, keys=keys)


def _gradbench(options: Options) -> Iterator[Case]:
    keys = ("wavefront", "c", "numpy", "torch-eager", "torch-script", "jax")
    for layers, characters in gradbench.QUICK if options.quick else gradbench.SIZES:
        for work in (INFERENCE, TRAINING):
            problem = gradbench.problem(layers, characters, work, options.threads)
            case = Case(title(problem, f"{layers} layers, {characters} characters"))
            case.add(options, keys, problem)
            yield case.finish()


SUITES: dict[str, tuple[str, Callable[[Options], Iterator[Case]]]] = {
    "lstm": ("the LSTM, ten shapes, beside what libraries have for it", _lstm),
    "gru": ("the GRU, the same ten shapes", _gru),
    "cells": ("cells that no library has a kernel for", _cells),
    "odd": ("sizes that fit no vector register, beside ones that do", _odd),
    "large": ("large layers, as a fraction of the machine's peak", _large),
    "step": ("one streaming step, called from Python and from C", _step),
    "applied": ("shapes of applications", _applied),
    "gradbench": (
        "GradBench's lstm: layers with diagonal matrices, and their gradient",
        _gradbench,
    ),
    "numpy": ("our NumPy code beside what is mostly written", _numpy),
}


def custom(options: Options, names: Sequence[str], shapes: Sequence[Shape]) -> Iterator[Case]:
    """Cells and shapes from the command line."""
    for name in names or ("lstm",):
        yield from simple(options, name, shapes or MAIN_SHAPES)
