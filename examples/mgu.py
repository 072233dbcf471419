"""A cell of one's own: the minimal gated unit of Zhou et al. 2016, as the paper has it."""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
f, n = vectors("f n")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "mgu",
    equations=[
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(n, tanh(W.n @ x + U.n @ (f * h) + b.n)),
        Eq(h.next, (1 - f) * h + f * n),
    ],
    output=h,
    title="minimal gated unit",
    source="Zhou et al. 2016",
    roles={f: "forget gate", n: "candidate", h: "hidden state"},
)
