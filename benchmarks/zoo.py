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
from lstmgen.benchmark.bench import usual_sizes
from lstmgen.benchmark.contenders import Generated
from lstmgen.benchmark.problem import TRAINING, Problem
from lstmgen.benchmark.timing import quartiles
from lstmgen.planning.operations import Multiply, Outers
from lstmgen.planning.plans import Plan

from .turns import about, ratio, spread, times

STEPS, ROWS, UNITS = 100, 16, 128
COPIED = 16 << 20  # bytes, more than caches hold


def run(names: Sequence[str] = (), rounds: int = 7) -> str:
    """A table in Markdown: each cell's rate of arithmetic over the LSTM's, and its traffic."""
    first = _prepared(cells.get("lstm"))
    source = np.ones(COPIED // 8)
    copy = partial(np.copyto, np.empty_like(source), source)
    rows = []
    for name in names or cells.names():
        problem, call = _prepared(cells.get(name))
        found = times({"lstm": first[1], "cell": call, "copy": copy}, rounds)
        made = plan(problem.cell, dtype="float32")
        flops, moved = (_number(cost, problem.sizes) for cost in (made.flops, made.bytes))
        pace = ratio(found["lstm"], found["cell"])
        scale = flops / first[0].flops
        seconds = quartiles(list(found["cell"].values())).median
        speed = 2 * COPIED / quartiles(list(found["copy"].values())).median
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
    """Tables in Markdown: Hessian-vector products beside gradients; and learning online beside a
    gradient, beside what its plan counts, and beside a copy of its states. Each step reads and
    writes all of them, which takes longer than the arithmetic where influences are elementwise.
    """
    rows = []
    for name in names or ("lstm", "gru", "mgu", "sru", "lru", "mlstm"):
        cell = cells.get(name)
        sizes = _smaller(cell, _sizes(cell))
        counted = {**sizes, "T": STEPS, "B": ROWS}
        gradient = _number(plan(cell).flops, counted)
        products = {"H v": tangent(cell, inputs=False), "H v, inputs too": tangent(cell)}
        for target in ("c", "numpy"):
            calls = {
                what: _prepared(c, sizes, target)[1]
                for what, c in {"gradient": cell, **products}.items()
            }
            found = times(calls, rounds)
            for what, derived in products.items():
                expected = _number(plan(derived).flops, counted) / gradient
                pace = spread(ratio(found[what], found["gradient"]))
                rows.append((name, target, what, pace, f"{expected:.2f}"))
    learning = []
    elementwise = (("lru", 64), ("sru", 64), ("sru", 128), ("min_gru", 64), ("indrnn", 64))
    online_too = (*elementwise, ("rnn", 16), ("lstm", 8))
    for name, units in (pair for pair in online_too if not names or pair[0] in names):
        cell, sizes = cells.get(name), dict.fromkeys(usual_sizes(cells.get(name)), units)
        learner, counted = online(cell), {**sizes, "T": STEPS, "B": 1}
        made = plan(learner)
        expected = _number(made.flops_of(made.forward), counted) / _number(
            plan(cell).flops, counted
        )
        for target in ("c", "numpy"):
            calls = {
                "gradient": _prepared(cell, sizes, target, B=1)[1],
                "online": _online(learner, sizes, target),
                "copy": _copied(learner, sizes),
            }
            found = times(calls, rounds)
            pace, copy = (spread(ratio(found["online"], found[of])) for of in ("gradient", "copy"))
            learning.append((name, target, str(units), pace, f"{expected:.2f}", copy))
    counts = ("of a gradient's time", "of its arithmetic")
    tables = [_table(("cell", "target", "what", *counts), rows)]
    if learning:
        head = ("cell", "target", "units", *counts, "of a copy of its states")
        tables.append(_table(head, learning))
    return "\n".join(tables) + _foot(rounds)


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


def _online(learner: Cell, sizes: Mapping[str, int], target: str) -> Callable[[], Any]:
    """A sequence of one row through the cell that learns online, without a tape."""
    problem = Problem(learner, {"T": STEPS, "B": 1, **sizes}, TRAINING)
    module = compile(learner, target, dtype="float32")
    params, x = module.pack(problem.params), next(iter(problem.inputs.values()))
    masks = {"masks": problem.masks} if problem.masks else {}
    return lambda: module.forward(params, x, None, **masks, tape=False)


def _copied(learner: Cell, sizes: Mapping[str, int]) -> Callable[[], Any]:
    """All states of a row, copied once for each step, in the cache that they fit in."""
    count = sum(int(_number(learner.size(s), sizes)) for s in learner.states)
    source = np.ones(count, "float32")
    to = np.empty_like(source)

    def copy() -> None:
        for _ in range(STEPS):
            np.copyto(to, source)

    return copy


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


# --------------------------------------------------------------------------- text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _foot(rounds: int) -> str:
    return "\n" + about(f"float32, 1 thread, T={STEPS}, medians of {rounds} rounds.")
