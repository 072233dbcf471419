"""What does not fit together in a network, and what its functions do not take: messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import DENSE, compiled
from sympy import Eq

from lstmgen import (
    Cell,
    Dropout,
    Embedding,
    Layer,
    LstmgenError,
    Readout,
    constants,
    inputs,
    masks,
    matrix,
    states,
    tanh,
)
from lstmgen.network.joints import readout
from lstmgen.network.structure import Structure


def _two_cells() -> list[Any]:
    x, h, W = inputs("x"), states("h"), matrix("W")
    return [Layer(Cell("twin", [Eq(h.next, tanh(k * h + W @ x))], h), 3) for k in (1, 2)]


def _cell(of: Any) -> Cell:
    h, W = states("h"), matrix("W")
    return Cell("odd", [Eq(h.next, tanh(W @ inputs("x") + of + h))], h)


WRONG: list[tuple[Any, str]] = [
    (lambda: Structure([]), r"a network is a list of layers, not \[\]"),
    (lambda: Structure("lstm"), "a network is a list of layers, not 'lstm'"),
    (lambda: Structure(Layer("lstm", 3)), r"a network is a list of layers, not Layer\('lstm'"),
    (lambda: Structure(["gru"]), "layer 1: 'gru' is no layer\n.*Layer"),
    (lambda: Structure([Layer("lstm", 3)], name="a b"), "the network's name is 'a b'"),
    (lambda: Structure([Layer("lstm", 3)], name="lstm"), 'both called lstm\n.*name="lstm_network"'),
    (lambda: Structure([Layer("lstm", 3)], inputs=0), "inputs is a positive whole number, not 0"),
    (lambda: Structure(_two_cells()), "two different cells are called twin\n.*rename"),
    (lambda: Layer("lstn", 3), 'no cell is called "lstn".*did you mean "lstm"'),
    (lambda: Layer(3, 3), r"a layer is of a cell, or of the name of one, not of 3\n.*Layer\("),
    (lambda: Layer("lstm"), "how many units has the layer of lstm"),
    (lambda: Layer("lstm", 0), "units is a positive whole number, not 0"),
    (lambda: Layer("lstm", 2.5), "units is a positive whole number, not 2.5"),
    (lambda: Layer("lstm", 3, P=4), "a layer of lstm takes no P="),
    (lambda: Layer("lstm", 3, dropout=0.2), r"takes no dropout=\n.*Dropout\(0.2\)"),
    (lambda: Layer("lstm", 3, bidirection=True), 'no bidirection=\n.*mean "bidirectional"'),
    (lambda: Layer("mlstm", 3), r"mlstm has no size H\n.*Layer\('mlstm', K=16, N=16, P=16\)"),
    (lambda: Layer("slstm", N=2, heads=2), "takes no heads=; it takes N, P"),
    (lambda: Layer("lstm", 3, bidirectional="add"), '"concat" or "sum", not \'add\''),
    (lambda: Layer("lstm", 3, skip="residua"), 'mean "residual"'),
    (lambda: Layer("lstm", 3, bidirectional=True, go_backwards=True), "not both\n.*both"),
    (lambda: Layer("lstm", 3, recurrent_dropout=1), "recurrent_dropout is a number from 0 on"),
    (lambda: Layer("lstm", 3, zoneout="a"), "zoneout is a number from 0 on and below 1"),
    (lambda: Layer("lstm", 3, name="a b"), "the name of a layer is 'a b'"),
    (lambda: Layer("lstm", 3, name="class"), "'class', a keyword"),
    (lambda: Layer(_cell(matrix("V") @ inputs("u")), 3), "has 2: "),
    (lambda: Layer(_cell(masks("m", size="H")), 3), "has the mask m, whose values.*\n.*Dropout"),
    (lambda: Layer(_cell(constants("dt")), 3), r"dt of odd is None\n.*dt=0.1"),
    (lambda: Dropout(1.0), "probability is a number from 0 on and below 1, not 1.0"),
    (lambda: Embedding(0, 3), "count is a positive whole number, not 0"),
    (lambda: Structure([Layer("lstmp", 3)]), r"layer 1: lstmp needs the size P\n.*P=16"),
    (lambda: Structure([Layer("rnn", 3), Embedding(2, 3)]), "layer 2: an embedding comes first"),
    (lambda: Structure([Layer("rnn", 3, skip="residual")]), "D units to 3\n.*inputs="),
    (
        lambda: Structure([Readout(4), Layer("rnn", 3, skip="highway")]),
        "layer 2: highway adds what goes in to what comes out: 4 units to 3",
    ),
    (
        lambda: Structure([Layer("rnn", 3, last=True), Layer("rnn", 3)]),
        "layer 2: rnn runs over steps.*\n.*leave out its last=True",
    ),
    (
        lambda: Structure([Layer("rnn", 3, last=True), Layer(readout(), 3, last=True)]),
        "layer 2: there is one step only",
    ),
    (
        lambda: Structure([Layer("rnn", 3, skip="residual", last=True)], inputs=3),
        "a layer that puts out its last step cannot skip it",
    ),
    (lambda: Structure([Layer("rnn", 3, name="x")]), "no layer can be called x"),
    (lambda: Structure([Layer("rnn", 3, name="a")] * 2), "there is another layer called a$"),
    (
        lambda: Structure([
            Layer("rnn", 3, name="a", bidirectional=True), Layer("rnn", 3, name="a_forward")
        ]),
        "layer 2: there is another layer called a_forward",
    ),
    (
        lambda: Structure([Layer("mlstm", N=1, K=2, P=2, recurrent_dropout=0.1)]),
        "no matrix that reads a state.*\n.*zoneout",
    ),
    (lambda: Structure([Layer(DENSE, 2, zoneout=0.1)]), "dense has no state that zoneout"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_descriptions_that_do_not_fit_are_refused(make: Any, said: str) -> None:
    with pytest.raises(LstmgenError, match=said):
        make()


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"params": 3}, TypeError, "params is a dict from name to array, not a int"),
        ({"params": {}}, KeyError, "params has no 'lstm1.W_i'"),
        ({"x": np.zeros((4, 2))}, ValueError, r"x has shape \(4, 2\); expected \(T, B, D=3\)"),
        ({"x": np.zeros((4, 2, 5))}, ValueError, r"x has shape \(4, 2, 5\); expected .*D=3"),
        ({"x": np.full((4, 2, 3), "a")}, TypeError, "x is of dtype .*has to be numbers"),
        ({"state": 3}, TypeError, "state is a dict from name to array, not a int"),
        ({"state": {"lstm1.h": 1}}, KeyError, "state has no 'lstm1.c'; give all"),
        ({"state": {"h": 1}}, KeyError, "state has 'h'; network has the states lstm1.h"),
        ({"lengths": [4]}, ValueError, r"lengths are whole numbers \(2,\)"),
        ({"lengths": [4.0, 1.0]}, ValueError, r"lengths are whole numbers \(2,\)"),
        ({"lengths": [5, 1]}, ValueError, "lengths are from 1 to 5, but there are 4 steps"),
        ({"lengths": [-1, 1]}, ValueError, "lengths are from -1 to 1"),
        ({"resets": np.zeros((2, 4))}, ValueError, r"resets are true or false for each step, \(4"),
        ({"seed": -1}, ValueError, "seed is a whole number"),
        ({"seed": 0.5}, ValueError, "seed is a whole number"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every is a positive whole number"),
        ({"snapshots": 1.5}, ValueError, "snapshots is a positive whole number, not 1.5"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(more: Any, error: Any, said: str) -> None:
    module = compiled("deep")
    given = {"params": module.init(3), "x": np.zeros((4, 2, 3)), "state": None} | more
    with pytest.raises(error, match=said):
        module.forward(given.pop("params"), given.pop("x"), given.pop("state"), **given)


def test_backward_refuses_what_forward_did_not_make() -> None:
    module = compiled("deep")
    params, x, dy = module.init(3), np.zeros((4, 2, 3)), np.zeros((4, 2, 2))
    with pytest.raises(ValueError, match="there is no tape: run forward with tape=True"):
        module.backward(params, module.forward(params, x, tape=False)[2], dy)
    with pytest.raises(ValueError, match="the tape is what forward of network returned, not a int"):
        module.backward(params, 3, dy)
    other = compiled("noisy")
    foreign = other.forward(other.init(3), x)[2]
    with pytest.raises(ValueError, match="the tape is what forward of network returned"):
        module.backward(params, foreign, dy)
    tape = module.forward(params, x, checkpoint_every=2)[2]
    with pytest.raises(ValueError, match=r"dy has shape \(2, 2\); expected \(4, 2, 2\)"):
        module.backward(params, tape, dy[0])
    with pytest.raises(KeyError, match="dstate has no"):
        module.backward(params, tape, dy, {"lstm1.h": np.zeros((2, 3))})
    module.backward(params, tape, dy)
    with pytest.raises(ValueError, match="a tape with checkpoints is used once"):
        module.backward(params, tape, dy)


def test_symbols_are_whole_numbers_that_there_are() -> None:
    module = compiled("symbols")
    params = module.init()
    for x, said in [
        (np.zeros((2, 1)), r"x is whole numbers \(T, B\), not float64"),
        (np.zeros((2, 1, 3), int), r"x is whole numbers \(T, B\)"),
        (np.array([[5]]), "x has the symbol 5; symbols go from 0 to 4"),
        (np.array([[-1]]), "x has the symbol -1; symbols go from 0 to 4"),
    ]:
        with pytest.raises(ValueError, match=said):
            module.forward(params, x)


def test_init_needs_the_size_that_nothing_tells() -> None:
    with pytest.raises(TypeError, match=r"init needs the size of x: init\(input_size=…\)"):
        compiled("deep").init()
