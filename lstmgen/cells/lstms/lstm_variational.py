"""The LSTM with variational dropout: Gal & Ghahramani, "A theoretically grounded application of
dropout in recurrent neural networks", NIPS 2016 (gal2016theoretically). One mask for the input and
one for the hidden state, the same at all steps of a sequence.

Here the gates share the masks, what the paper calls tied weights; untied, each gate has masks of
its own. The masks are drawn once for a sequence, and may be given as arrays of (1, B, size). They
hold 0 for what is dropped and 1/(1 - p) for the rest, and are 1 everywhere when the network is
used. A mask that is drawn anew at each step is another model, by which the state is soon lost.

In a network, ``Layer("lstm", …, recurrent_dropout=0.3)`` makes the mask on h of any cell.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, masks, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
z_x, z_h = masks("z_x z_h")
i, f, g, o = vectors("i f g o")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "lstm_variational",
    equations=[
        Eq(i, sigmoid(W.i @ (z_x * x) + U.i @ (z_h * h) + b.i)),
        Eq(f, sigmoid(W.f @ (z_x * x) + U.f @ (z_h * h) + b.f)),
        Eq(g, tanh(W.g @ (z_x * x) + U.g @ (z_h * h) + b.g)),
        Eq(o, sigmoid(W.o @ (z_x * x) + U.o @ (z_h * h) + b.o)),
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM with variational dropout",
    source="Gal & Ghahramani 2016",
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
