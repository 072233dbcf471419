"""The LSTM without an output activation function, h = o c: Greff, Srivastava, Koutník, Steunebrink
& Schmidhuber, "LSTM: a search space odyssey", IEEE Transactions on Neural Networks and Learning
Systems 28(10), 2017 (greff2017lstm), variant NOAF.

The hidden state is as unbounded as the cell state. In the paper's experiments this hurts about as
much as the loss of the forget gate. Without peepholes, it is what some reviews and tutorials
call the LSTM.

The rest is the paper's vanilla LSTM, with peepholes: i and f read c[t-1], o reads c[t]. The paper
writes R for U, z for g and y for h.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, p, b = weights("W"), weights("U"), biases("p"), biases("b")

cell = Cell(
    "lstm_noaf",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + p.i * c + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + p.f * c + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(c.next, f * c + i * g),
        Eq(o, sigmoid(W.o @ x + U.o @ h + p.o * c.next + b.o)),
        Eq(h.next, o * c.next),
    ],
    output=h,
    title="LSTM without an output activation function",
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
