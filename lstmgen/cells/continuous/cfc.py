"""The closed-form continuous-time network: Hasani et al., "Closed-form continuous-time neural
networks", Nature Machine Intelligence 4, 2022 (hasani2022closed): an approximation of what a liquid
time-constant network (ltc) would be after a time gap, without a solver. The gap since the last
input, dt, is an input of one number.

Two heads, g and k (the paper's h), are blended by how much time has passed: where a is positive, g
is for short gaps and k for long ones. They share a backbone u of P units, with LeCun's tanh. The
paper's f times the gap is a dt + c here, as in the authors' library, whose layers have 128 units
of backbone unless told otherwise.

This is the library's mode "default"; "no_gate" drops the factor 1 - s of g, "pure" is the solution
itself, without gates. Gaps are of order 1: scale those in seconds or days.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, named, sigmoid, states, tanh, vectors, weights

x, dt = inputs("x"), inputs("dt", 1)
h = states("h")
u = vectors("u", "P")
g, k, s = vectors("g k s")
W, U, V, b = weights("W"), weights("U"), weights("V"), biases("b")

cell = Cell(
    "cfc",
    equations=[
        Eq(u, 1.7159 * tanh(0.666 * named(W.u @ x + U.u @ h + b.u))),
        Eq(g, tanh(V.g @ u + b.g)),
        Eq(k, tanh(V.k @ u + b.k)),
        Eq(s, sigmoid((V.a @ u + b.a) * dt + V.c @ u + b.c)),
        Eq(h.next, (1 - s) * g + s * k),
    ],
    output=h,
    title="closed-form continuous-time network",
    source="Hasani et al. 2022",
    roles={
        u: "backbone",
        g: "head of short gaps",
        k: "head of long gaps",
        s: "time gate",
        h: "hidden state",
    },
)
