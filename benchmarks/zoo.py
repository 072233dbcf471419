"""Cells beside the LSTM, and derivatives beside a gradient: ``python -m benchmarks zoo`` and
``python -m benchmarks derivatives``.

Cells differ in how much they compute, so their times say little. What is compared is arithmetic by
second, by the count of the plan: where products dominate, a cell should run at the LSTM's rate. A
cell that is elementwise reads and writes more than it computes; it is held against how fast this
machine copies memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lstmgen import Cell, cells, compile, online, plan, tangent
from lstmgen.benchmark import machine
from lstmgen.benchmark.bench import usual_sizes
from lstmgen.benchmark.contenders import Generated
from lstmgen.benchmark.problem import TRAINING, Problem
from lstmgen.benchmark.timing import Track, quartiles, ratios, take_turns
from lstmgen.planning.operations import Multiply, Outers
from lstmgen.planning.plans import Plan

STEPS, ROWS, UNITS = 100, 16, 128
COPIED = 16 << 20  # bytes, more than caches hold


def run(names: Sequence[str] = (), rounds: int = 7) -> str:
    """A table in Markdown: each cell's rate of arithmetic over the LSTM's, and its traffic."""
    first = _prepared(cells.get("lstm"))
    rows = []
    for name in names or cells.names():
        problem, call = _prepared(cells.get(name))
        source = np.ones(COPIED // 8)
        copy = partial(np.copyto, np.empty_like(source), source)
        calls = {"lstm": first[1], name: call, "copy": copy}
        times = _times(calls, rounds)
        made = plan(problem.cell, dtype="float32")
        flops, moved = (_number(cost, problem.sizes) for cost in (made.flops, made.bytes))
        pace = ratios(times["lstm"], times[name])  # of one lstm's time, how many of these
        assert pace is not None
        scale = flops / first[0].flops
        seconds = quartiles(list(times[name].values())).median
        speed = 2 * COPIED / quartiles(list(times["copy"].values())).median
        share = f"{_share(made, problem.sizes):.0%}"
        rows.append((
            name, share, f"{flops / 1e6:.0f}", f"{1e3 * seconds:.2f}",
            f"{scale * pace.median:.2f}", f"{moved / seconds / speed:.2f}",
        ))  # fmt: skip
    rows.sort(key=lambda row: -float(row[1].rstrip("%")))
    return _table(
        ("cell", "in products", "Mflop", "ms", "of the LSTM's flop/s", "of a copy's bytes/s"), rows
    ) + _foot(rounds)


def derivatives(names: Sequence[str] = (), rounds: int = 7) -> str:
    """A table in Markdown: Hessian-vector products beside gradients, and learning online beside
    what its plan counts.
    """
    rows = []
    for name in names or ("lstm", "gru", "mgu", "sru", "lru", "mlstm"):
        for target in ("c", "numpy"):
            cell = cells.get(name)
            sizes = _smaller(cell, _sizes(cell))
            for what, derived in (
                ("H v", tangent(cell, inputs=False)), ("H v, inputs too", tangent(cell)),
            ):  # fmt: skip
                pair = {
                    "gradient": _prepared(cell, sizes, target)[1],
                    "product": _prepared(derived, sizes, target)[1],
                }
                times = _times(pair, rounds)
                found = ratios(times["product"], times["gradient"])
                assert found is not None
                rows.append((name, target, what, _spread(found), _planned(derived, cell, sizes)))
    online_too = (("lru", 64), ("sru", 64), ("rnn", 16), ("lstm", 8))
    for name, units in (pair for pair in online_too if not names or pair[0] in names):
        for target in ("c", "numpy"):
            cell = cells.get(name)
            sizes = dict.fromkeys(usual_sizes(cell), units)
            times = _times(
                {
                    "gradient": _prepared(cell, sizes, target, B=1)[1],
                    "online": _online(cell, sizes, target),
                },
                rounds,
            )
            found = ratios(times["online"], times["gradient"])
            assert found is not None
            what = f"online, {units} units"
            sizes = {**sizes, "T": STEPS, "B": 1}
            counted = plan(online(cell)), plan(cell)
            expected = _number(counted[0].flops_of(counted[0].forward), sizes) / _number(
                counted[1].flops, sizes
            )
            rows.append((name, target, what, _spread(found), f"{expected:.2f}"))
    return _table(
        ("cell", "target", "what", "of a gradient's time", "of its arithmetic"), rows
    ) + _foot(rounds)


# --------------------------------------------------------------------------- what is timed


def _prepared(
    cell: Cell, sizes: Mapping[str, int] | None = None, target: str = "c", B: int = ROWS
) -> tuple[Problem, Callable[[], Any]]:
    """Forward and backward of a cell in float32, one thread."""
    if sizes is None:
        sizes = _smaller(cell, _sizes(cell))
    known = {str(n) for n in cell.sizes}
    needed = {n: k for n, k in sizes.items() if n in known}
    problem = Problem(cell, {"T": STEPS, "B": B, **needed}, TRAINING)
    return problem, Generated(target).prepare(problem).call


def _sizes(cell: Cell) -> dict[str, int]:
    return {n: k if k == 4 else UNITS for n, k in usual_sizes(cell).items()}


def _smaller(cell: Cell, sizes: dict[str, int]) -> dict[str, int]:
    """Sizes with which no state is much larger than a layer, or than a matrix of it: as one of N*P
    units, or a memory of each head, would be.
    """

    def numbers(s: Any) -> int:
        return int(cell.size(s).subs({n: sizes[str(n)] for n in cell.sizes}))

    few = all(
        numbers(s) <= (8 * UNITS if len(cell.shape(s)) == 1 else UNITS * UNITS) for s in cell.states
    )
    return sizes if few else {n: k if k == 4 else UNITS // 4 for n, k in sizes.items()}


def _online(cell: Cell, sizes: Mapping[str, int], target: str) -> Callable[[], Any]:
    """A sequence of one row through the cell that learns online, without a tape."""
    derived = online(cell)
    problem = Problem(derived, {"T": STEPS, "B": 1, **sizes}, TRAINING)
    module = compile(derived, target, dtype="float32")
    params, x = module.pack(problem.params), next(iter(problem.inputs.values()))
    masks = {"masks": problem.masks} if problem.masks else {}
    return lambda: module.forward(params, x, None, **masks, tape=False)


def _times(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[int, float]]:
    tracks = {name: Track(call) for name, call in calls.items()}
    take_turns(tracks, rounds + 1)
    return {
        name: {k: v.median for k, v in track.visits.items() if k > 0}
        for name, track in tracks.items()
    }


# --------------------------------------------------------------------------- what is counted


def _number(cost: Any, sizes: Mapping[str, int]) -> float:
    return float(cost.subs({n: sizes[n.name] for n in cost.free_symbols}))


def _share(made: Plan, sizes: Mapping[str, int]) -> float:
    """The share of products in the arithmetic."""
    total = in_products = 0.0
    for part in (made.forward, made.backward):
        for op in part.operations:
            flops = _number(made.flops_of_row(op), sizes)
            total += flops
            in_products += flops if isinstance(op, (Multiply, Outers)) else 0
    return in_products / total if total else 0.0


def _planned(derived: Cell, cell: Cell, sizes: Mapping[str, int]) -> str:
    counts = [_number(plan(c).flops, {**sizes, "T": STEPS, "B": ROWS}) for c in (derived, cell)]
    return f"{counts[0] / counts[1]:.2f}"


# --------------------------------------------------------------------------- text


def _spread(found: Any) -> str:
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _foot(rounds: int) -> str:
    what = " · ".join(machine.summary(machine.describe()).splitlines())
    return f"\n{what}; float32, 1 thread, T={STEPS}, medians of {rounds} rounds."
