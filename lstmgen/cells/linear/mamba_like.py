"""The selective state space of Mamba: Gu & Dao, "Mamba: linear-time sequence modeling with
selective state spaces", arXiv 2312.00752, 2023 (gu2023mamba), algorithm 2, without what is around
it in a Mamba block: the matrix, the convolution of width 4 and the SiLU before, the gated branch
beside, and the matrix after.

Each of D channels has N states, with decays that are learned, A = -exp(A_log). How far a step goes,
dt (the paper's Δ), and what it writes by and reads by, B and C, depend on the input; B and C are
shared by the channels. dt comes through two matrices, from D to R and back.

A is discretised exactly, exp(dt A), and B by Euler's rule, dt B, as in the authors' code; equation
4 of the paper has both exact. A starts at -1, -2, …, -N, and the bias of dt so that softplus of it
is between 0.001 and 0.1, its logarithm uniform.
"""

from sympy import Eq, exp

from lstmgen import (
    Cell,
    biases,
    expand,
    inputs,
    outer,
    softplus,
    states,
    vector,
    vectors,
    weights,
)

x = inputs("x")
h = states("h", shape=("D", "N"))
dt, y = vectors("dt y", "D")
B, C = vectors("B_in C_out", "N")
W = weights("W")
V = weights("V", "D", "R")
b = biases("b")
A = biases("A", shape=("D", "N"), init="log_range")
d = vector("d", "D", init=1.0)

cell = Cell(
    "mamba_like",
    equations=[
        Eq(dt, softplus(V.dt @ (W.dt @ x) + b.dt)),
        Eq(B, W.B @ x),
        Eq(C, W.C @ x),
        Eq(h.next, exp(-expand(dt, h) * exp(A.log)) * h + outer(dt * x, B)),
        Eq(y, h.next @ C + d * x),
    ],
    output=y,
    title="selective state space, N states a channel",
    source="Gu & Dao 2023",
    init={b.dt: ("step_size", 0.001, 0.1)},
    roles={
        dt: "step size",
        B: "what is written by",
        C: "what is read by",
        h: "states of the channels",
        A.log: "logarithm of -A",
    },
)
