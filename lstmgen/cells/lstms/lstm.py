"""The LSTM with a forget gate: Gers, Schmidhuber & Cummins, "Learning to forget: continual
prediction with LSTM", Neural Computation 12(10), 2000 (gers2000learning).
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "lstm",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="long short-term memory with a forget gate",
    source="Gers et al. 2000",
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
