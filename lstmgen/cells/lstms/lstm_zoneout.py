"""The LSTM with zoneout: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden
activations", ICLR 2017 (krueger2017zoneout). At each step, some units of c and of h keep their
value of the step before.

The masks d_c and d_h are drawn anew at each step, for each row and unit; 1 keeps the old value, as
in the paper. Other libraries may have it the other way round. When the network is used, both
masks hold the probability itself in place of 0 and 1. The paper's rates for characters are 0.5 for
c and 0.05 for h. What h sees of the cell state is its new value before zoneout, not the mixture
that is carried on.

In a network, ``Layer("lstm", …, zoneout=0.1)`` makes this of any cell, and draws the masks.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, masks, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
d_c, d_h = masks("d_c d_h")
i, f, g, o, c_new = vectors("i f g o c_new")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "lstm_zoneout",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(c_new, f * c + i * g),
        Eq(c.next, d_c * c + (1 - d_c) * c_new),
        Eq(h.next, d_h * h + (1 - d_h) * o * tanh(c_new)),
    ],
    output=h,
    title="LSTM with zoneout",
    source="Krueger et al. 2017",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        c_new: "new cell state, before zoneout",
        c: "cell state",
        h: "hidden state",
    },
)
