"""The Mogrifier LSTM: Melis, Kočiský & Blunsom, "Mogrifier LSTM", ICLR 2020 (melis2020mogrifier).
Before the step of an LSTM, input and hidden state scale each other in turns, for a number of
rounds: odd ones change the input, even ones the hidden state.

There are 5 rounds, as in most of the paper's experiments; to have another number, copy the file and
change ROUNDS. Without any it is the LSTM. A round's gate reads the latest value of the other one,
but scales the value of two rounds before. The factor of 2 makes a round with weights of zero the
identity.

The paper's own code can also have biases in the rounds, matrices Q and R of low rank, and an input
gate that is capped at 1 - f. None of these is here.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

ROUNDS = 5

x = inputs("x")
h, c = states("h c")
i, f, g, o = vectors("i f g o")
W, U, Q, R, b = weights("W"), weights("U"), weights("Q"), weights("R"), biases("b")

rounds = []
x_last, h_last = x, h
for k in range(1, ROUNDS + 1):
    if k % 2:
        x_new = vectors(f"x_{k}", size="D")
        rounds.append(Eq(x_new, 2 * sigmoid(Q[k] @ h_last) * x_last))
        x_last = x_new
    else:
        h_new = vectors(f"h_{k}")
        rounds.append(Eq(h_new, 2 * sigmoid(R[k] @ x_last) * h_last))
        h_last = h_new

cell = Cell(
    "mogrifier_lstm",
    equations=[
        *rounds,
        Eq(i, sigmoid(W.i @ x_last + U.i @ h_last + b.i)),
        Eq(f, sigmoid(W.f @ x_last + U.f @ h_last + b.f)),
        Eq(g, tanh(W.g @ x_last + U.g @ h_last + b.g)),
        Eq(o, sigmoid(W.o @ x_last + U.o @ h_last + b.o)),
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="Mogrifier LSTM with five rounds",
    source="Melis et al. 2020",
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
