"""The LSTM with dropout on what is written: Semeniuta, Severyn & Barth, "Recurrent dropout without
memory loss", COLING 2016 (semeniuta2016recurrent). The mask acts on the candidate g alone, so that
nothing that is already in the cell state is lost, whatever the length of the sequence.

The mask m may be drawn at each step, or once for a sequence and repeated: both are in the paper.
It holds 0 for what is dropped and 1/(1 - p) for the rest, and is 1 everywhere when the network is
used; or 0 and 1, and then 1 - p, as the paper has it. This is not what ``recurrent_dropout`` is in
Keras, which masks h before its matrices: see lstm_variational.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, masks, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
m = masks("m")
i, f, g, o = vectors("i f g o")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "lstm_recurrent_dropout",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(c.next, f * c + i * (m * g)),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM with dropout on the candidate",
    source="Semeniuta et al. 2016",
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
