"""Networks for tests: cells that have what reference cells lack, and a strategy for structures."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from sympy import Eq

from lstmgen import (
    Cell,
    biases,
    compile,
    constants,
    inputs,
    matrix,
    sigmoid,
    states,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.network.layers import Dropout, Embedding, Layer, Readout
from lstmgen.network.structure import Structure


def _reservoir() -> Cell:
    """Parameters without gradient, a constant, and a state that starts from another number."""
    x, h, leak = inputs("x"), states("h", init=0.5), constants("leak", 0.3)
    W, U, b = matrix("W"), matrix("U", learned=False), vector("b")
    rhs = (1 - leak) * h + leak * tanh(W @ x + U @ h + b)
    return Cell("reservoir", [Eq(h.next, rhs)], h)


def _delayed() -> Cell:
    """An output that is no state, a state as wide as the input, and one that nothing multiplies."""
    x, y, before = inputs("x"), vectors("y"), states("before", size="D")
    h, count, U = states("h"), states("count", size=1), matrix("U")
    W, V, b = weights("W"), matrix("V"), biases("b")
    return Cell(
        "delayed",
        [
            Eq(before.next, x),
            Eq(h.next, tanh(W.a @ x + V @ before + U @ h + b.a)),
            Eq(count.next, count / 2 + 1),
            Eq(y, sigmoid(W.y @ x + b.y) * h.next + count.next * h),
        ],
        y,
    )


def _antisymmetric() -> Cell:
    """A matrix made of parameters."""
    x, h, W, U, b = inputs("x"), states("h"), matrix("W"), matrix("U"), vector("b")
    return Cell("antisymmetric", [Eq(h.next, h + tanh(W @ x + (U - U.T) @ h + b) / 4)], h)


def _dense() -> Cell:
    """No state."""
    x, y, W, b = inputs("x"), vectors("y"), matrix("W"), vector("b")
    return Cell("dense", [Eq(y, tanh(W @ x + b))], y)


RESERVOIR, DELAYED, ANTISYMMETRIC, DENSE = _reservoir(), _delayed(), _antisymmetric(), _dense()

# Cells, how many units they put out, and the sizes that say so. From ``PLAIN`` on, no matrix reads
# a state.
CELLS: list[tuple[Any, int, dict[str, int]]] = [
    ("rnn", 4, {"units": 4}),
    ("lstm", 3, {"units": 3}),
    ("gru", 4, {"units": 4}),
    ("lstmp", 2, {"units": 3, "P": 2}),
    ("gru_reset_before", 2, {"units": 2}),
    ("slstm", 4, {"N": 2, "P": 2}),
    (RESERVOIR, 3, {"units": 3}),
    (DELAYED, 4, {"units": 4}),
    (ANTISYMMETRIC, 4, {"units": 4}),
    ("mlstm", 4, {"N": 2, "K": 3, "P": 2}),
    (DENSE, 3, {"units": 3}),
]
PLAIN = 9


@st.composite
def structures(draw: Any) -> Structure:
    """Structures of up to three layers of cells, with all that can stand around them."""
    layers: list[Any] = []
    width = draw(st.sampled_from([None, 3, 4]))
    if draw(st.integers(0, 3)) == 3:
        width = 4
        layers.append(Embedding(5, width))
        inputs_ = None
    else:
        inputs_ = width
    for k in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 2)) == 2:
            layers.append(Dropout(0.4, whole=draw(st.booleans())))
        which = draw(st.integers(0, len(CELLS) - 1))
        cell, units, sizes = CELLS[which]
        options: dict[str, Any] = dict(sizes)
        is_dense = cell is DENSE
        direction = draw(st.sampled_from(["", "", "concat", "sum", "back"]))
        if direction == "back":
            options["go_backwards"] = True
        elif direction:
            options["bidirectional"] = direction
        made = 2 * units if direction == "concat" else units
        if made == width and draw(st.booleans()):
            options["skip"] = draw(st.sampled_from(["residual", "highway"]))
        if which < PLAIN and draw(st.integers(0, 2)) == 2:
            options["recurrent_dropout"] = 0.3
        if not is_dense and draw(st.integers(0, 2)) == 2:
            options["zoneout"] = 0.2
        if draw(st.integers(0, 2)) == 2:
            options["learn_state"] = True
        if draw(st.integers(0, 2)) == 2:
            options["name"] = f"layer_{k}"
        layers.append(Layer(cell, **options))
        width = made
    if draw(st.booleans()) and not layers[-1].skip:
        layers[-1].last = True
    if draw(st.booleans()):
        layers.append(Dropout(0.5))
    if draw(st.booleans()):
        layers.append(Readout(2))
    return Structure(layers, inputs=inputs_)


STACKS: dict[str, Structure] = {
    "deep": Structure([Layer("lstm", 3), Layer("gru", 3, skip="residual"), Readout(2)]),
    "noisy": Structure(
        [
            Layer("lstm", 3, bidirectional=True, recurrent_dropout=0.3),
            Dropout(0.4),
            Layer("gru", 6, skip="highway", zoneout=0.2, learn_state=True),
            Dropout(0.5, whole=True),
            Layer("rnn", 2, go_backwards=True, last=True),
            Dropout(0.3),
            Readout(2),
        ]
    ),
    "symbols": Structure(
        [
            Embedding(5, 3),
            Layer("mlstm", N=2, K=3, P=2, bidirectional="sum", learn_state=True, zoneout=0.3),
            Layer("lstmp", 3, P=4, skip="residual", last=False),
            Layer(RESERVOIR, 2, bidirectional=True, last=True, leak=0.7),
        ]
    ),
}


@cache
def compiled(name: str, target: str = "numpy") -> Any:
    return compile(STACKS[name], target)
