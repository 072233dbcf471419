"""States of several axes, of which a C pass without a tape keeps two steps only: what comes into a
step and what leaves it, in turns, whatever the number of steps in a tile.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import need

from lstmgen import Cell, cells, compile, online, plan
from lstmgen.benchmark.bench import usual_sizes
from lstmgen.benchmark.problem import TRAINING, Problem
from lstmgen.language.symbols import Transpose
from lstmgen.planning.operations import Fused, is_loop

MADE = {"delta_net": lambda: cells.get("delta_net"), "sru": lambda: online(cells.get("sru"))}
# tiles of 48 rows and shorter ones, of even and of odd numbers of steps
SHAPES = [(1, 1), (2, 1), (49, 1), (96, 1), (97, 1), (100, 1), (7, 17), (6, 50)]


@cache
def made(name: str) -> tuple[Cell, Any]:
    cell = MADE[name]()
    return cell, compile(cell, "c")


@pytest.mark.parametrize(("T", "B"), SHAPES)
@pytest.mark.parametrize("name", sorted(MADE))
def test_a_sequence_without_a_tape_and_steps_are_as_with_a_tape(name: str, T: int, B: int) -> None:
    need("gcc")
    cell, module = made(name)
    assert plan(cell).held
    sizes = {n: min(k, 5) for n, k in usual_sizes(cell).items()}
    p = Problem(cell, {"T": T, "B": B, **sizes}, TRAINING, "float64")
    (x,) = p.inputs.values()
    masks = {"masks": p.masks} if p.masks else {}
    y, final, _ = module.forward(p.params, x, p.state, **masks)
    again, last, _ = module.forward(p.params, x, p.state, **masks, tape=False)
    np.testing.assert_array_equal(y, again)
    packed, state = module.pack(p.params), p.state
    for t in range(T):
        mask = [{n: a[t] for n, a in p.masks.items()}] if p.masks else []
        state = module.step(packed, x[t], state, *mask)
    for s in cell.states:
        np.testing.assert_array_equal(last[s.name], final[s.name], err_msg=s.name)
        np.testing.assert_allclose(state[s.name], final[s.name], rtol=1e-12, atol=1e-12)


def test_no_large_state_of_an_elementwise_cell_has_a_row_for_each_step() -> None:
    learner = online(cells.get("sru"))
    assert plan(learner).held == {s for s in learner.states if len(learner.shape(s)) > 1}
    assert not plan(cells.get("lstm")).held
    assert not plan(cells.get("sru")).held


@pytest.mark.parametrize("name", ["sru", "lru", "min_gru", "indrnn"])
def test_a_step_goes_over_influences_once(name: str) -> None:
    """They and the gradients that they bring are computed by one loop over units."""
    learner = online(cells.get(name))
    forward = plan(learner).forward
    large = {v for s in learner.states if len(learner.shape(s)) > 1 for v in (s, s.at(0))}
    read = {
        (n, k, j)
        for n, section in enumerate(forward.sections)
        for k, op in enumerate(section)
        if isinstance(op, Fused)
        for j, loop in enumerate(op.loops)
        if any("_by_" in v.name and v in large
               for e in loop.equations for v in {e.lhs, *e.rhs.free_symbols})
    }  # fmt: skip
    assert len(read) == 1
    assert all(is_loop(n) for n, _, _ in read)
    assert not any(e.rhs.has(Transpose) for e in learner.equations)
