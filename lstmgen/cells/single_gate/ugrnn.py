"""The update gate RNN: Collins, Sohl-Dickstein & Sussillo, "Capacity and trainability in recurrent
neural networks", ICLR 2017 (collins2017capacity). One gate mixes the state with the candidate of a
plain RNN.

Here g = 1 keeps the state, as in the paper. TensorFlow's ``UGRNNCell`` adds 1 inside the gate at
each step, where here b_g starts at 1: the same function, but with other weights.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
c, g = vectors("c g")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "ugrnn",
    equations=[
        Eq(c, tanh(W.c @ x + U.c @ h + b.c)),
        Eq(g, sigmoid(W.g @ x + U.g @ h + b.g)),
        Eq(h.next, g * h + (1 - g) * c),
    ],
    output=h,
    title="update gate RNN",
    source="Collins et al. 2017",
    init={b.g: 1.0},  # the state is kept at first
    roles={c: "candidate", g: "update gate", h: "hidden state"},
)
