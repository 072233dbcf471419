"""The layer-norm LSTM: Ba, Kiros & Hinton, "Layer normalization", arXiv 1607.06450, 2016
(ba2016layer), equations 20 to 22 of its supplement, with each gate normalised on its own. The
recurrent and the input part have a normalisation each; only what the hidden state sees of the cell
state is normalised, the state itself stays raw.
"""

from sympy import Eq, Expr

from lstmgen import (
    Cell,
    biases,
    inputs,
    layer_norm,
    sigmoid,
    states,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.language.symbols import Vector

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, b = weights("W"), weights("U"), biases("b")
k, s = biases("k", init=1.0), biases("s", init=1.0)  # gains of the input and recurrent parts
gain, shift = vector("gain", init=1.0), vector("shift")  # of the cell state


def gate(name: str, bias: Vector) -> Expr:
    """LN(W x) + LN(U h) + b, the pre-activation of one gate."""
    return layer_norm(W[name] @ x, gain=k[name]) + layer_norm(U[name] @ h, gain=s[name]) + bias


cell = Cell(
    "lstm_layernorm",
    equations=[
        Eq(i, sigmoid(gate("i", b.i))),
        Eq(f, sigmoid(gate("f", b.f))),
        Eq(g, tanh(gate("g", b.g))),
        Eq(o, sigmoid(gate("o", b.o))),
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(layer_norm(c.next, gain=gain, bias=shift))),
    ],
    output=h,
    title="LSTM with layer normalisation",
    source="Ba et al. 2016",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        c: "cell state",
        h: "hidden state",
    },
)
