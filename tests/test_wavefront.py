"""Stacks of equal layers in a wavefront, against the same layers one after the other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import need
from sympy import Eq

import lstmgen
from lstmgen import Cell, CellError, biases, constants, inputs, sigmoid, states, tanh, vectors
from lstmgen.network.wavefront import ACTIVE, wavefront
from lstmgen.runtime.stack import Stack, segments

UNITS = 3
x = inputs("x")
h, c = states("h c", size="D")
W, b = biases("W", size="D", init=0.5), biases("b", size="D", init=0.1)
f, n, y = vectors("f n y", size="D")
dt = constants("dt", value=0.5)

# A layer whose output is a state; one with an output that is none, and with a constant.
STATEFUL = Cell(
    "stateful",
    [
        Eq(f, sigmoid(W.f * x + W.h * h + b.f)),
        Eq(h.next, f * h + (1 - f) * tanh(W.n * x + b.n)),
    ],
    output=h,
)
PEEPING = Cell(
    "peeping",
    [
        Eq(f, sigmoid(W.f * x + W.c * c)),
        Eq(c.next, (1 - dt * f) * c + dt * x),
        Eq(y, tanh(W.y * c.next + b.y) + f),
    ],
    output=y,
)
LAYERS = {"stateful": STATEFUL, "peeping": PEEPING}
# Both sides add up the same few numbers, in another order.
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


def one_after_the_other(cell: Cell, layers: int, params: Any, given: Any, state: Any, dy: Any):
    """Outputs, final states and gradients of layers that each run over the whole sequence."""
    module = lstmgen.compile(cell, "numpy")
    held = {name: value for name, value in params.items() if np.ndim(value) == 0}

    def of(arrays: Any, k: int) -> Any:
        return {m: a[..., k * UNITS : (k + 1) * UNITS] for m, a in arrays.items() if np.ndim(a)}

    tapes, finals, out = [], [], given
    for k in range(layers):
        out, final, tape = module.forward(of(params, k) | held, out, of(state, k))
        tapes.append(tape)
        finals.append(final)
    grads, firsts, flowing = [], [], dy
    for k in reversed(range(layers)):
        g, flowing, first = module.backward(of(params, k) | held, tapes[k], flowing, finals[k])
        grads.insert(0, g)
        firsts.insert(0, first)
    joined = [
        {m: np.concatenate([part[m] for part in parts], axis=-1) for m in parts[0]}
        for parts in (finals, grads, firsts)
    ]
    return out, joined[0], joined[1], flowing, joined[2]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("target", "layers", "steps"),
    [*(("numpy", *size) for size in [(1, 4), (2, 5), (3, 3), (4, 2), (5, 1), (3, 8)]), ("c", 3, 8)],
)
def test_a_stack_computes_what_its_layers_do(
    name: str, target: str, layers: int, steps: int
) -> None:
    if target == "c":
        need("cc")
    cell = LAYERS[name]
    stack = Stack(cell, layers, target=target)
    rng = np.random.default_rng(layers * steps)
    params = {p: rng.standard_normal(layers * UNITS) for p in stack.PARAMETERS}
    if name == "peeping":
        params["dt"] = 0.3
    given = rng.standard_normal((steps, 2, UNITS))
    state = {s: rng.standard_normal((2, layers * UNITS)) for s in stack.STATES}
    dy = rng.standard_normal((steps, 2, UNITS))
    right = one_after_the_other(cell, layers, params, given, state, dy)

    out, final, tape = stack.forward(params, given, state)
    # the final states serve as derivatives by the final states, too
    grads, dx, first = stack.backward(params, tape, dy, final)

    for found, expected in zip((out, final, grads, dx, first), right, strict=True):
        if not isinstance(found, dict):
            found, expected = {"": found}, {"": expected}
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_allclose(found[key], array, err_msg=key, **CLOSE)
    np.testing.assert_array_equal(stack.forward(params, given, state, tape=False)[0], out)


def test_a_stack_starts_from_zeros_without_a_state() -> None:
    stack = Stack(STATEFUL, 3, target="numpy")
    params = {p: np.ones(3 * UNITS) for p in stack.PARAMETERS}
    given = np.ones((4, 1, UNITS))
    zeros = {s: np.zeros((1, 3 * UNITS)) for s in stack.STATES}
    for found, right in zip(
        stack.forward(params, given)[:2], stack.forward(params, given, zeros)[:2], strict=True
    ):
        np.testing.assert_equal(found, right)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_wavefront_are_right(name: str, masked: bool) -> None:
    cell = wavefront(LAYERS[name], 3, masked=masked)
    assert [m.name for m in cell.masks] == ([ACTIVE] if masked else [])
    assert lstmgen.check(cell, target="numpy").passed


def test_all_steps_of_a_sequence_are_in_one_segment() -> None:
    for layers in range(1, 6):
        for steps in range(1, 12):
            parts = segments(steps, layers)
            assert parts[0].first == 0
            assert parts[-1].end == steps + layers - 1
            assert all(a.end == b.first for a, b in pairwise(parts))


def test_what_cannot_be_a_layer_is_refused() -> None:
    with pytest.raises(CellError, match="mixes units"):
        wavefront(lstmgen.cells.get("lstm"), 2)
    with pytest.raises(CellError, match="one input and one output"):
        wavefront(Cell("two", [Eq(h.next, h + x + inputs("z"))], output=h), 2)
    narrow = states("s", size="1")
    with pytest.raises(CellError, match="units, the input"):
        wavefront(Cell("s", [Eq(narrow.next, narrow), Eq(h.next, narrow * x + h)], output=h), 2)
    with pytest.raises(CellError, match="layers"):
        wavefront(STATEFUL, 0)
