"""The LSTM whose gates see the gates of the step before: Greff, Srivastava, Koutník, Steunebrink &
Schmidhuber, "LSTM: a search space odyssey", IEEE Transactions on Neural Networks and Learning
Systems 28(10), 2017 (greff2017lstm), variant FGR: full gate recurrence, as in the first LSTM of
Hochreiter & Schmidhuber (1997).

Nine more matrices lead from each gate to each gate; the gates are states, and start from zero.
R_fi leads from f to i: the source comes first, as in the paper. The output gate, too, sees the
gates of step t-1. In the paper's experiments this costs parameters and gains nothing.

The rest is the paper's vanilla LSTM, with peepholes: i and f read c[t-1], o reads c[t]. The paper
writes R for U as well, z for g and y for h.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c, i, f, o = states("h c i f o")
g = vectors("g")
W, U, R, p, b = weights("W"), weights("U"), weights("R"), biases("p"), biases("b")
to_i = R.ii @ i + R.fi @ f + R.oi @ o
to_f = R["if"] @ i + R.ff @ f + R.of @ o
to_o = R.io @ i + R.fo @ f + R.oo @ o

cell = Cell(
    "lstm_fgr",
    equations=[
        Eq(i.next, sigmoid(W.i @ x + U.i @ h + to_i + p.i * c + b.i)),
        Eq(f.next, sigmoid(W.f @ x + U.f @ h + to_f + p.f * c + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(c.next, f.next * c + i.next * g),
        Eq(o.next, sigmoid(W.o @ x + U.o @ h + to_o + p.o * c.next + b.o)),
        Eq(h.next, o.next * tanh(c.next)),
    ],
    output=h,
    title="LSTM with full gate recurrence",
    source="Greff et al. 2017",
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
