"""The simple recurrent network: Elman, "Finding structure in time", Cognitive Science 14(2), 1990
(elman1990finding).
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, states, tanh, weights

x = inputs("x")
h = states("h")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "rnn",
    equations=[Eq(h.next, tanh(W.h @ x + U.h @ h + b.h))],
    output=h,
    title="simple recurrent network",
    source="Elman 1990",
    roles={h: "hidden state"},
)
