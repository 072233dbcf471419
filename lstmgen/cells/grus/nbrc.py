"""The neuromodulated bistable recurrent cell: Vecoven, Ernst & Drion, "A bio-inspired bistable
recurrent cell allows for long-lasting memory", PLOS ONE 16(6), 2021 (vecoven2021bio).

As in the cell brc, each unit feeds back to itself with a strength a, and has two stable states
where a is above 1; here a and the update gate c see all units. There is no recurrent matrix in the
candidate.

Here W is the paper's U, and U its W. The biases b_a and b_c are those of the authors' code; the
paper's equations have none.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
a, c = vectors("a c")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "nbrc",
    equations=[
        Eq(a, 1 + tanh(W.a @ x + U.a @ h + b.a)),
        Eq(c, sigmoid(W.c @ x + U.c @ h + b.c)),
        Eq(h.next, c * h + (1 - c) * tanh(W.h @ x + a * h)),
    ],
    output=h,
    title="neuromodulated bistable recurrent cell",
    source="Vecoven et al. 2021",
    roles={a: "feedback", c: "update gate", h: "hidden state"},
)
