"""The LSTM with a recurrent projection: Sak, Senior & Beaufays, "Long short-term memory recurrent
neural network architectures for large scale acoustic modeling", 2014 (sak2014long); peepholes left
out, as in PyTorch's ``proj_size``. The hidden state h has P units, the cell state c has H.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h", size="P"), states("c")
i, f, g, o, m = vectors("i f g o m")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "lstmp",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(c.next, f * c + i * g),
        Eq(m, o * tanh(c.next)),
        Eq(h.next, W.h @ m),
    ],
    output=h,
    title="LSTM with a recurrent projection",
    source="Sak et al. 2014",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        c: "cell state",
        m: "cell output",
        h: "projected hidden state",
    },
)
