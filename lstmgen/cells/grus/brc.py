"""The bistable recurrent cell: Vecoven, Ernst & Drion, "A bio-inspired bistable recurrent cell
allows for long-lasting memory", PLOS ONE 16(6), 2021 (vecoven2021bio).

No matrix leads from h to h: a unit sees its own past alone, through w and a. Where a is above 1, a
unit has two stable states, and keeps one of them for as long as no input moves it to the other.

Here W is the paper's U. The biases b_a and b_c are those of the authors' code; the paper's
equations have none. The recurrent weights start at 1, as in that code.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
a, c = vectors("a c")
W, w, b = weights("W"), biases("w", init=1.0), biases("b")

cell = Cell(
    "brc",
    equations=[
        Eq(a, 1 + tanh(W.a @ x + w.a * h + b.a)),
        Eq(c, sigmoid(W.c @ x + w.c * h + b.c)),
        Eq(h.next, c * h + (1 - c) * tanh(W.h @ x + a * h)),
    ],
    output=h,
    title="bistable recurrent cell",
    source="Vecoven et al. 2021",
    roles={a: "feedback", c: "update gate", h: "hidden state"},
)
