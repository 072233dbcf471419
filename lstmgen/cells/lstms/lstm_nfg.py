"""The LSTM without a forget gate, f = 1: Greff, Srivastava, Koutník, Steunebrink & Schmidhuber,
"LSTM: a search space odyssey", IEEE Transactions on Neural Networks and Learning Systems 28(10),
2017 (greff2017lstm), variant NFG.

Nothing leaves the cell state. In the paper's experiments the forget gate, beside the output
activation function, is what hurts most to leave out. lstm_1997 is the same without peepholes.

The rest is the paper's vanilla LSTM, with peepholes: i reads c[t-1], o reads c[t]. The paper writes
R for U, z for g and y for h.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, g, o = vectors("i g o")
W, U, p, b = weights("W"), weights("U"), biases("p"), biases("b")

cell = Cell(
    "lstm_nfg",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + p.i * c + b.i)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(c.next, c + i * g),
        Eq(o, sigmoid(W.o @ x + U.o @ h + p.o * c.next + b.o)),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM with peepholes and no forget gate",
    source="Greff et al. 2017",
    roles={
        i: "input gate",
        g: "candidate",
        o: "output gate",
        c: "cell state",
        h: "hidden state",
    },
)
