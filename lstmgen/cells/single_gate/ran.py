"""The recurrent additive network: Lee, Levy & Zettlemoyer, "Recurrent additive networks", arXiv
1705.07393, 2017 (lee2017recurrent).

The candidate is a linear view of the input, so that the cell state is a weighted sum of what came
in; only the gates see the hidden state. The output is tanh(c) here; the paper also has the identity
in its place. Gates sum to anything: the cell state is not bounded.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
i, f, g = vectors("i f g")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "ran",
    equations=[
        Eq(g, W.c @ x),
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(c.next, i * g + f * c),
        Eq(h.next, tanh(c.next)),
    ],
    output=h,
    title="recurrent additive network",
    source="Lee et al. 2017",
    roles={g: "candidate", i: "input gate", f: "forget gate", c: "cell state", h: "hidden state"},
)
