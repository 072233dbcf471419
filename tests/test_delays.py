"""What leaves the loop over steps, and that nothing else changes: products of states that are no
recurrence, and those between one recurrence and another.
"""

from __future__ import annotations

from functools import cache

import delays
import numpy as np
import pytest
import series
from conftest import need
from sympy import Eq
from test_gradients import assert_equal_to_autograd, assert_gradients_equal, run

import lstmgen
from lstmgen import Cell, inputs, states, tanh, weights
from lstmgen.planning.operations import Fused, Multiply
from lstmgen.targets import plan_options
from lstmgen.verification.examination import Examination

TARGETS = ["numpy", "c"]
CELLS = {**delays.CELLS, **series.CELLS}


@cache
def compiled(name: str, target: str):
    if target == "c":
        need("cffi")
        need("cc")
    return lstmgen.compile(CELLS[name], target)


def inside(cell: Cell, target: str) -> set[str]:
    """The operands of products in the loops over steps."""
    plan = lstmgen.plan(cell, **plan_options(target))
    steps = (*plan.forward.in_loops, *plan.backward.in_loops)
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
        # of several recurrences, each has its own products in its loop, and no others
        ("last_observation", {"h", "a_h"}),
        ("leaky_readout", {"h", "a_h"}),
        ("trace", {"h", "a_h"}),
        ("gru_d", {"q", "qr", "a_r", "a_z", "a_n"}),
        ("two_layers", {"a", "a_a", "h", "u"}),
        ("three_in_series", {"a", "a_a", "c", "a_c"}),
        ("memory_below", {"h", "a_h"}),
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
    made = [v.name for op in plan.forward.in_loops if isinstance(op, Fused) for v in op.writes]
    assert "p_before" in made
    assert {b.scope for b in plan.buffers} >= {"carry"}
    assert "carries" not in {b.scope for b in plan.buffers}


@pytest.mark.parametrize(
    ("name", "loops"), [("trace", 2), ("gru_d", 2), ("two_layers", 2), ("three_in_series", 3)]
)
def test_recurrences_with_products_between_them_have_a_loop_each(name, loops):
    for target in TARGETS:
        plan = lstmgen.plan(CELLS[name], **plan_options(target))
        for part in (plan.forward, plan.backward):
            assert len(part.sections) == 2 * loops + 1
            assert all(part.sections[1::2])
        assert f"each step, loop {loops}" in str(plan)


def test_recurrences_without_products_between_them_share_a_loop_unless_calls_have_a_price():
    c, numpy = (lstmgen.plan(CELLS["filters"], **plan_options(t)) for t in ("c", "numpy"))
    assert len(c.forward.sections) == 3
    assert [[v.name for op in s for v in op.writes] for s in numpy.forward.sections] == [
        [], ["a"], ["p"], ["b"], [],
    ]  # fmt: skip


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
        case = Examination(cell, T=steps, B=batch, seed=1, seeds=1, kinks=False).witnesses[0].case
        y, final, gradients = run(cell, module, case)
        # sums over 350 rows of values of order 1
        assert_equal_to_autograd(differentiate_case(cell, case), y, final, gradients)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", [n for n, cell in CELLS.items() if not cell.masks and len(cell.outputs) == 1]
)
def test_steps_and_parts_of_a_sequence_are_the_whole(name, target):
    """Streaming, a sequence in two parts, and one without a tape."""
    cell = CELLS[name]
    module = compiled(name, target)
    case = Examination(cell, T=60, B=2, seed=3, seeds=1, kinks=False).witnesses[0].case
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
    case = Examination(cell, T=80, B=5, seed=2, seeds=1, kinks=False).witnesses[0].case
    _, _, alone = run(cell, compiled("window_of_three", "c"), case)
    _, _, shared = run(cell, lstmgen.compile(cell, "c", threads=3), case)
    assert_gradients_equal(shared, alone, 1e-12)
