"""The minimal gated unit: Zhou, Wu, Zhang & Zhou, "Minimal gated unit for recurrent neural
networks", International Journal of Automation and Computing 13(3), 2016 (zhou2016minimal),
equations 6.

One gate does the work of the GRU's two: it resets what the candidate reads, and mixes it in, with
two thirds of the GRU's parameters. Here f = 1 writes the candidate, as in the paper; PyTorch's GRU
has it the other way round.
"""

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
