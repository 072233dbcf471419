"""The LSTM whose gates see the cell state: Graves, "Generating sequences with recurrent neural
networks", 2013 (graves2013generating), after Gers & Schmidhuber, "Recurrent nets that time and
count", IJCNN 2000 (gers2000recurrent). The names follow Greff et al., "LSTM: a search space
odyssey", 2017 (greff2017lstm): i and f read c[t-1], o reads c[t], all gradients are kept.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, p, b = weights("W"), weights("U"), biases("p"), biases("b")

cell = Cell(
    "lstm_peephole",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + p.i * c + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + p.f * c + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(c.next, f * c + i * g),
        Eq(o, sigmoid(W.o @ x + U.o @ h + p.o * c.next + b.o)),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM whose gates see the cell state",
    source="Graves 2013",
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
