"""The LSTM without an input gate, i = 1: Greff, Srivastava, Koutník, Steunebrink & Schmidhuber,
"LSTM: a search space odyssey", IEEE Transactions on Neural Networks and Learning Systems 28(10),
2017 (greff2017lstm), variant NIG.

Every candidate is written in full, so that only the forget gate keeps the cell state from growing.
In the paper's experiments this is worse than the vanilla LSTM on speech and handwriting, and not on
music.

The rest is the paper's vanilla LSTM, with peepholes: f reads c[t-1], o reads c[t]. The paper writes
R for U, z for g and y for h.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
f, g, o = vectors("f g o")
W, U, p, b = weights("W"), weights("U"), biases("p"), biases("b")

cell = Cell(
    "lstm_nig",
    equations=[
        Eq(f, sigmoid(W.f @ x + U.f @ h + p.f * c + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(c.next, f * c + g),
        Eq(o, sigmoid(W.o @ x + U.o @ h + p.o * c.next + b.o)),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM without an input gate",
    source="Greff et al. 2017",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        c: "cell state",
        h: "hidden state",
    },
)
