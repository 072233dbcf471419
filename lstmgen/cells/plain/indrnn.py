"""The independently recurrent network: Li, Li, Cook, Zhu & Gao, "Independently recurrent neural
network (IndRNN): building a longer and deeper RNN", CVPR 2018 (li2018independently).

Each unit reads itself alone, through one weight; units mix between layers. So how a gradient grows
or shrinks over T steps can be told from u: where the unit is active, by the power T of |u|. The
paper keeps |u| below the T-th root of a bound, by clipping after each update: a step of training
that is not in these equations.

u starts between 0 and 1. The paper starts the u of a last layer, of which only the final state is
read, near 1.
"""

from sympy import Eq

from lstmgen import Cell, inputs, matrix, relu, states, vector

x = inputs("x")
h = states("h")
W = matrix("W")
u = vector("u", init=("uniform", 0.0, 1.0))
b = vector("b")

cell = Cell(
    "indrnn",
    equations=[Eq(h.next, relu(W @ x + u * h + b))],
    output=h,
    title="independently recurrent network",
    source="Li et al. 2018",
    roles={h: "hidden state"},
)
