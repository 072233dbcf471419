"""From equations to a loaded library, stage by stage: ``python -m benchmarks compile``.

Each cell is compiled in a process of its own, which knows nothing of it, into a cache that has the
kernels only, an object that all cells of a number type share. Stages are in seconds of a processor,
the compiler's included, which is what they take on a core of their own: programs that keep the
machine busy otherwise do not count. The slowest cells are compiled again from an empty cache, by
the clock. There the kernels are compiled beside the cell, so that two cores are used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .turns import about

STAGES = ("derive", "plan", "generate", "C compiler", "load")
WHOLE, CLOCK = "in all", "by the clock, empty cache"
DTYPE = "float64"  # what compile and check take unless told otherwise


def run(names: Sequence[str] = (), slowest: int = 5, rounds: int = 3) -> str:
    """A table in Markdown: seconds of each stage for the slowest cells, and for all."""
    from lstmgen import cells

    with tempfile.TemporaryDirectory() as cache:
        kernels = _in_a_process(cache, "")
        places = [_place(name) for name in names] or cells.names()
        found = {name: _in_a_process(cache, name) for name in places}
    columns = (*STAGES, WHOLE)
    order = sorted(found, key=lambda name: -found[name][WHOLE])[:slowest]
    rows = [
        (
            Path(name).stem,
            *(_shown(found[name][c]) for c in columns),
            _shown(_from_an_empty_cache(name, rounds)),
        )
        for name in order
    ]
    ways: dict[str, Callable[[list[float]], float]] = {"median": median, "largest": max, "sum": sum}
    rows += [
        (what, *(_shown(of_all([t[c] for t in found.values()])) for c in columns), "")
        for what, of_all in ways.items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in (("cell", *columns, CLOCK), *rows)]
    lines.insert(1, f"|{' --- |' * (len(columns) + 2)}")
    what = (
        f"seconds, {len(found)} cells, {DTYPE}; the kernels take {kernels[WHOLE]:.2f}; "
        f"by the clock, the shortest of {rounds}."
    )
    return "\n".join([*lines, "", about(what)])


def _place(name: str) -> str:
    """The name of a reference cell, or a file, wherever it is looked for."""
    return str(Path(name).resolve()) if name.endswith((".cell", ".py")) else name


def _shown(seconds: float) -> str:
    return f"{seconds:.2f}"


def _from_an_empty_cache(name: str, rounds: int) -> float:
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            found.append(_in_a_process(cache, name)[CLOCK])
    return min(found)


def _in_a_process(cache: str, name: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, name],
        env={**os.environ, "LSTMGEN_CACHE": cache}, capture_output=True, text=True, check=False,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{name or 'the kernels'}: {done.stderr.strip()}")
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


# --------------------------------------------------------------------------- in that process


def _here(name: str) -> dict[str, float]:
    """Seconds of the stages of one cell; of the kernels, where there is no name."""
    from lstmgen import cells, load_cell
    from lstmgen.planning import schedule
    from lstmgen.runtime import toolchain

    seconds: dict[str, float] = {}
    if not name:
        _watched(toolchain.build_kernels, WHOLE, seconds)(DTYPE)
        return seconds
    cell = load_cell(name) if name.endswith((".cell", ".py")) else cells.get(name)
    # compile calls generate, which calls plan, which calls reverse; and then it calls build
    watched = (
        (schedule, "reverse"),
        (schedule, "plan"),
        (toolchain, "generate"),
        (toolchain, "build"),
    )
    for module, function in watched:
        setattr(module, function, _watched(getattr(module, function), function, seconds))
    begin = time.perf_counter()
    _watched(toolchain.compile, WHOLE, seconds)(cell, "c", dtype=DTYPE)
    clock = time.perf_counter() - begin
    apart = (
        seconds["reverse"],
        seconds["plan"] - seconds["reverse"],
        seconds["generate"] - seconds["plan"],
        seconds["build"],
        seconds[WHOLE] - seconds["generate"] - seconds["build"],
    )
    return dict(zip(STAGES, apart, strict=True)) | {WHOLE: seconds[WHOLE], CLOCK: clock}


def _watched(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Any:
    """A function that notes how long it has run."""

    def watched(*args: Any, **options: Any) -> Any:
        begin = _processor()
        try:
            return function(*args, **options)
        finally:
            seconds[name] = seconds.get(name, 0.0) + _processor() - begin

    return watched


def _processor() -> float:
    """Seconds that this process and those that it has waited for have run."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    print(json.dumps(_here(sys.argv[1])))
