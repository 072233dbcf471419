"""The LSTM with coupled input and forget gate, f = 1 - i: Greff, Srivastava, Koutník, Steunebrink
& Schmidhuber, "LSTM: a search space odyssey", 2017 (greff2017lstm), here without peepholes.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "cifg",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, 1 - i),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM with coupled input and forget gate",
    source="Greff et al. 2017",
    init={b.i: -1.0},  # f = 1 - i is open at first
    roles={
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        c: "cell state",
        h: "hidden state",
    },
)
