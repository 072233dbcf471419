"""What ``lstmgen bench`` runs: a cell's generated code on this machine, beside other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import GenerateError, LstmgenError, ToolchainError
from ..language.cell import Cell
from ..language.matrices import Matrix
from . import machine, tables
from . import threads as pools
from .contenders import AGAINST, Contender, Gemm, Generated
from .problem import INFERENCE, TRAINING, Problem
from .race import Entry, race
from .timing import Quartiles, ratios

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Timing:
    """One contender's times in seconds, forward alone and with backward, and its rate.

    ``ratios`` are its times over those of the first row, round by round.
    """

    name: str
    forward: Quartiles
    training: Quartiles
    forward_ratio: Quartiles
    training_ratio: Quartiles
    gflops: float  # of training: 10⁹ operations of the plan a second
    rounds: dict[str, list[float]]


@dataclass(frozen=True)
class Timings:
    """What ``bench`` found; ``print`` shows a table."""

    cell: str
    dtype: str
    sizes: dict[str, int]
    threads: int
    rounds: int
    rows: tuple[Timing, ...]
    peak: float  # of a matrix product, in 10⁹ operations a second
    missing: tuple[str, ...]  # targets that could not be built here, and why

    def __str__(self) -> str:
        shape = " ".join(f"{k}={v}" for k, v in self.sizes.items())
        many = f"{self.threads} thread{'s' * (self.threads > 1)}"
        first = f"{self.cell} · {self.dtype} · {shape} · {many} · medians of {self.rounds} rounds"
        body = [["", "forward", "×", "forward and backward", "×", "GFLOP/s", "of peak"]]
        for k, r in enumerate(self.rows):
            body.append([
                r.name, tables.time(r.forward), tables.ratio(r.forward_ratio if k else None),
                tables.time(r.training), tables.ratio(r.training_ratio if k else None),
                tables.three_digits(r.gflops), f"{r.gflops / self.peak:.0%}",
            ])  # fmt: skip
        body.append(["matrix product", "", "", "", "", tables.three_digits(self.peak), ""])
        lines = [first, *tables.columns(body)]
        if len(self.rows) > 1:
            lines.append(f"×: their time over that of {self.rows[0].name}, with quartiles")
        lines += [f"not timed: {reason}" for reason in self.missing]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """All of it, with the times of every round."""
        return {
            "format": 1,
            "machine": machine.describe(),
            "cell": self.cell, "dtype": self.dtype, "sizes": self.sizes, "threads": self.threads,
            "gemm_gflops": self.peak,
            "rows": [
                {
                    "name": r.name, "gflops": r.gflops, "seconds": r.rounds,
                    "forward_ratio": vars(r.forward_ratio),
                    "training_ratio": vars(r.training_ratio),
                }
                for r in self.rows
            ],
            "missing": list(self.missing),
        }  # fmt: skip


def bench(
    cell: Cell,
    sizes: Mapping[str, int] | None = None,
    *,
    targets: Sequence[str] = ("c", "numpy"),
    against: Sequence[str] = (),
    dtype: str = "float32",
    rounds: int = 15,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Timings:
    """Time forward and backward of ``cell`` for each target, in turns, in one process.

    Parameters
    ----------
    cell : Cell
    sizes : mapping, optional
        T, B and the cell's sizes; what is left out is T=100, B=16, 4 for heads, and 64 for every
        other.
    targets : sequence of str
        A target whose compiler or library is missing is left out, unless it is the only one.
    against : sequence of str
        "torch" (its own kernel if it has one for this cell, a loop, TorchScript) and "jax" (scan
        under jit): the cell's equations as one would write them there. Their results are checked
        before they are timed.
    rounds : int
        Each round visits everybody once; one more comes first, and is not counted.
    threads : int
        How many threads everybody may use.

    Raises
    ------
    LstmgenError
        If a library is missing, or a contender's results are wrong.
    """
    pools.limit(threads)
    shape = {"T": 100, "B": 16, **usual_sizes(cell), **(sizes or {})}
    problems = {
        work: Problem(cell, shape, work, dtype, threads, seed) for work in (INFERENCE, TRAINING)
    }
    asked = list(dict.fromkeys(targets))
    contenders: list[Contender] = [Generated(t) for t in ("c", "numpy") if t in asked]
    for name in dict.fromkeys(against):
        if name not in AGAINST:
            raise LstmgenError(f"there is no {name} to time against; there are: {list(AGAINST)}")
        contenders += [c for c in AGAINST[name] if c.fits(problems[INFERENCE])]
    pairs, missing = [], []
    for contender in contenders:
        pair = {work: Entry(contender, problem) for work, problem in problems.items()}
        if progress is not None:
            progress(0, rounds + 1, pair[INFERENCE].name)
        try:
            for entry in pair.values():
                entry.get_ready()
        except (ToolchainError, GenerateError) as error:
            if len(asked) == 1 or contender.key not in asked:
                raise
            missing.append(f"{pair[INFERENCE].name}: {str(error).splitlines()[0]}")
        except LstmgenError:
            raise
        except Exception as error:  # another library's, which fails in its own ways
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            missing.append(f"{pair[INFERENCE].name}: {first}")
        else:
            pairs.append(pair)
    if not pairs:
        raise LstmgenError("nothing can be timed here: " + "; ".join(missing))
    gemm = Entry(Gemm(), problems[INFERENCE])
    gemm.get_ready()
    race(
        [gemm, *(entry for pair in pairs for entry in pair.values())], rounds,
        progress=progress and (lambda k, name: progress(k, rounds + 1, name)),
    )  # fmt: skip
    assert gemm.time is not None
    rows = tuple(_timing(pair, pairs[0], problems[TRAINING].flops) for pair in pairs)
    peak = Gemm.FLOPS / gemm.time.median / 1e9
    return Timings(cell.name, dtype, shape, threads, rounds, rows, peak, tuple(missing))


def usual_sizes(cell: Cell) -> dict[str, int]:
    """Sizes of a layer. Heads, for each of which there is a matrix, are few."""
    matrices = (p for p in cell.parameters if isinstance(p, Matrix))
    heads = {n for m in matrices for axis in cell.shape(m)[:-2] for n in axis.free_symbols}
    return {str(n): 4 if n in heads else 64 for n in cell.sizes}


def _timing(pair: Mapping[str, Entry], ours: Mapping[str, Entry], flops: float) -> Timing:
    def of(work: str) -> tuple[Quartiles, Quartiles]:
        found, factor = pair[work].time, ratios(pair[work].seconds, ours[work].seconds)
        assert found is not None, "all were visited"
        assert factor is not None, "all were visited"
        return found, factor

    (forward, forward_ratio), (training, training_ratio) = of(INFERENCE), of(TRAINING)
    return Timing(
        pair[INFERENCE].name, forward, training, forward_ratio, training_ratio,
        flops / training.median / 1e9,
        {work: list(entry.seconds.values()) for work, entry in pair.items()},
    )  # fmt: skip
