"""The LSTM without an output gate, o = 1: Greff, Srivastava, Koutník, Steunebrink & Schmidhuber,
"LSTM: a search space odyssey", IEEE Transactions on Neural Networks and Learning Systems 28(10),
2017 (greff2017lstm), variant NOG.

The whole cell state is seen at every step, through a tanh.

The rest is the paper's vanilla LSTM, with peepholes: i and f read c[t-1]. The paper writes R for U,
z for g and y for h.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, f, g = vectors("i f g")
W, U, p, b = weights("W"), weights("U"), biases("p"), biases("b")

cell = Cell(
    "lstm_nog",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + p.i * c + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + p.f * c + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(c.next, f * c + i * g),
        Eq(h.next, tanh(c.next)),
    ],
    output=h,
    title="LSTM without an output gate",
    source="Greff et al. 2017",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        c: "cell state",
        h: "hidden state",
    },
)
