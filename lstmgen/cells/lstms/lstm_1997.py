"""The LSTM without a forget gate: Hochreiter & Schmidhuber, "Long short-term memory", Neural
Computation 9(8), 1997 (hochreiter1997long), in the form that is usual today.

The cell state adds up what is written to it and never lets go of anything: it needs a reset of the
states between sequences, or a forget gate. Dropped from the paper are its squashing functions,
4σ(a) - 2 for the candidate and 2σ(c) - 1 for the output, in place of which there is tanh; gates
that are shared by a block of cells; the gates of step t-1 as inputs of all gates of step t; and the
truncated gradient, by which no error leaves a cell through the gates or the candidate. Here all
gradients are kept. The paper starts gates with negative biases, by experiment; here they start at
zero.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, g, o = vectors("i g o")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "lstm_1997",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(c.next, c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="long short-term memory without a forget gate",
    source="Hochreiter & Schmidhuber 1997",
    roles={
        i: "input gate",
        g: "candidate",
        o: "output gate",
        c: "cell state",
        h: "hidden state",
    },
)
