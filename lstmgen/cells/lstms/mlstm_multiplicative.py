"""The multiplicative LSTM: Krause, Lu, Murray & Renals, "Multiplicative LSTM for sequence
modelling", ICLR 2017 workshop track, arXiv 1609.07959 (krause2017multiplicative). It is called
mLSTM, too, but is not the mLSTM of the xLSTM, which is the cell mlstm.

All gates and the candidate read m, the product of a view of the input and one of the hidden state,
in place of the hidden state: each input has a recurrent matrix of its own, U diag(W_m x) U_m.

Implementations differ at the ends. Here the candidate goes through tanh and the output is
o tanh(c), as in the code that OpenAI published for Radford et al. (2017), which also normalises the
weights. Others have the candidate linear and the output tanh(o c). There are no biases in m.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
m, i, f, g, o = vectors("m i f g o")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "mlstm_multiplicative",
    equations=[
        Eq(m, (W.m @ x) * (U.m @ h)),
        Eq(i, sigmoid(W.i @ x + U.i @ m + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ m + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ m + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ m + b.o)),
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="multiplicative LSTM",
    source="Krause et al. 2017",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        m: "intermediate state",
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        c: "cell state",
        h: "hidden state",
    },
)
