"""JANET, just another network: van der Westhuizen & Lasenby, "The unreasonable effectiveness of the
forget gate", arXiv 1804.04849, 2018 (vanderwesthuizen2018unreasonable). The LSTM with a forget gate
only; the hidden state is the cell state.

What is written is scaled by 1 - σ(a - β), not by 1 - f: with the paper's β = 1 a unit writes more
than it forgets. Some implementations put out tanh(h).

As in the paper, b_f starts by the rule of Tallec & Ollivier (2018), at log of a uniform number in
[1, T_max - 1], where T_max is the range of the dependencies: here 100 steps.
"""

from sympy import Eq

from lstmgen import Cell, biases, constants, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
a, g = vectors("a g")
W, U, b = weights("W"), weights("U"), biases("b")
beta = constants("beta", 1.0)

cell = Cell(
    "janet",
    equations=[
        Eq(a, W.f @ x + U.f @ h + b.f),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(h.next, sigmoid(a) * h + (1 - sigmoid(a - beta)) * g),
    ],
    output=h,
    title="LSTM with a forget gate only",
    source="van der Westhuizen & Lasenby 2018",
    init={b.f: ("chrono", 100)},
    roles={a: "forget gate, before σ", g: "candidate", h: "hidden state"},
)
