"""States that are no recurrence: their products leave the loop, and nothing else changes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from conftest import need
from delays import CELLS
from sympy import Eq
from test_gradients import assert_equal_to_autograd, assert_gradients_equal, run

import lstmgen
from lstmgen import Cell, inputs, states, tanh, weights
from lstmgen.planning.operations import Fused, Multiply
from lstmgen.targets import plan_options
from lstmgen.verification.examination import Examination

TARGETS = ["numpy", "c"]


@cache
def compiled(name: str, target: str):
    if target == "c":
        need("cffi")
        need("cc")
    return lstmgen.compile(CELLS[name], target)


def inside(cell: Cell, target: str) -> set[str]:
    """The operands of products in the loops over steps."""
    plan = lstmgen.plan(cell, **plan_options(target))
    steps = (*plan.forward.step, *plan.backward.step)
    return {v.name for op in steps if isinstance(op, Multiply) for v in op.operands}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "recurrent"),
    [
        ("window", set()),
        ("window_of_three", {"h", "a_h"}),
        ("convolution", set()),
        ("token_shift", set()),
        ("delayed_output", {"h", "a_h"}),
        ("carried_both_ways", {"gh", "a_h"}),
        ("transposed", {"h", "Uh_h"}),
        ("delayed_keys", set()),
        ("behind_a_stop", {"h", "a_h"}),
    ],
)
def test_products_of_delays_leave_the_loop(name, recurrent, target):
    assert inside(CELLS[name], target) == recurrent


@pytest.mark.parametrize("target", TARGETS)
def test_products_of_a_window_are_stacked(target):
    plan = lstmgen.plan(CELLS["window"], **plan_options(target))
    for part in (plan.forward, plan.backward):
        stacks = [len(op.matrices) for op in part.operations if isinstance(op, Multiply)]
        assert stacks == [3, 3]


def test_an_elementwise_delay_stays_in_the_loop_where_memory_traffic_has_a_price():
    plan = lstmgen.plan(CELLS["delayed_product"])
    made = [v.name for op in plan.forward.step if isinstance(op, Fused) for v in op.writes]
    assert "p_before" in made
    assert {b.scope for b in plan.buffers} >= {"carry"}
    assert "carries" not in {b.scope for b in plan.buffers}


def test_states_that_depend_on_each_other_stay_in_the_loop():
    """Neither reads itself."""
    x, a, b = inputs("x"), states("a"), states("b")
    W, U = weights("W"), weights("U")
    cell = Cell("pair", [Eq(a.next, tanh(W.a @ x + U.a @ b)), Eq(b.next, tanh(U.b @ a))], output=a)
    for target in TARGETS:
        assert inside(cell, target) >= {"a", "b"}
        plan = lstmgen.plan(cell, **plan_options(target))
        assert "carries" not in {b.scope for b in plan.buffers}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CELLS)
def test_check_passes(name, target):
    report = lstmgen.check(CELLS[name], target=target, module=compiled(name, target))
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CELLS)
def test_autograd_agrees_across_tiles(name, target):
    """A sequence of one step, and one of several tiles: 9 steps forward, 51 backward in C."""
    need("torch")
    from witness import differentiate_case

    cell = CELLS[name]
    module = compiled(name, target)
    for steps, batch in ((1, 2), (70, 5)):
        case = Examination(cell, T=steps, B=batch, seed=1).witnesses[0].case
        y, final, gradients = run(cell, module, case)
        # sums over 350 rows of values of order 1
        assert_equal_to_autograd(differentiate_case(cell, case), y, final, gradients)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [n for n in CELLS if not CELLS[n].masks])
def test_steps_and_parts_of_a_sequence_are_the_whole(name, target):
    """Streaming, a sequence in two parts, and one without a tape."""
    cell = CELLS[name]
    module = compiled(name, target)
    case = Examination(cell, T=60, B=2, seed=3).witnesses[0].case
    params = {n: a for (kind, n), a in case.values.items() if kind == "parameter"}
    start = {n: a for (kind, n), a in case.values.items() if kind == "state"}
    (x,) = (a for (kind, _), a in case.values.items() if kind == "input")
    (dy,) = case.dy.values()
    y, final, tape = module.forward(params, x, start)
    again, last, _ = module.forward(params, x, start, tape=False)
    assert (y == again).all() and all((last[n] == final[n]).all() for n in final)

    one, middle, first = module.forward(params, x[:33], start)
    two, _, second = module.forward(params, x[33:], middle)
    np.testing.assert_allclose(np.concatenate([one, two]), y, rtol=1e-12, atol=1e-14)
    grads, dx, initial = module.backward(params, tape, dy, case.dstate)
    later, dx_two, between = module.backward(params, second, dy[33:], case.dstate)
    early, dx_one, ours = module.backward(params, first, dy[:33], between)
    np.testing.assert_allclose(np.concatenate([dx_one, dx_two]), dx, rtol=1e-9, atol=1e-11)
    for n in initial:
        np.testing.assert_allclose(ours[n], initial[n], rtol=1e-9, atol=1e-11)
    for n in grads:
        np.testing.assert_allclose(early[n] + later[n], grads[n], rtol=1e-9, atol=1e-10)

    packed, state = module.pack(params), start
    for t in range(8):
        state = module.step(packed, x[t], state)
        np.testing.assert_allclose(state[cell.output.name], y[t], rtol=1e-12, atol=1e-14)


def test_threads_have_delays_of_their_own():
    cell = CELLS["window_of_three"]
    case = Examination(cell, T=80, B=5, seed=2).witnesses[0].case
    _, _, alone = run(cell, compiled("window_of_three", "c"), case)
    _, _, shared = run(cell, lstmgen.compile(cell, "c", threads=3), case)
    assert_gradients_equal(shared, alone, 1e-12)
