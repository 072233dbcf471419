"""The LSTM without peepholes: Greff, Srivastava, Koutník, Steunebrink & Schmidhuber, "LSTM: a
search space odyssey", IEEE Transactions on Neural Networks and Learning Systems 28(10), 2017
(greff2017lstm), variant NP.

The paper's vanilla LSTM has peepholes; without them it is the LSTM of Gers et al. (2000), which is
what most libraries mean by the name. The same equations are in the file lstm. The paper writes R
for U, z for g and y for h.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "lstm_np",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM without peepholes",
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
