"""The liquid time-constant network: Hasani, Lechner, Amini, Rus & Grosu, "Liquid time-constant
networks", AAAI 2021 (hasani2021liquid): dh/dt = -(w_tau + f) h + f A, where f, of the input and of
h, changes the time constant as well as the target A. w_tau is 1 / τ.

A step is six of the paper's fused solver: Euler's rule, implicit in h but not in f. They divide the
time dt of a step among them, and the input is the same in all six. So a step has six products with
U_f, one after the other.

Here f is one layer with a σ; the paper leaves it open. The authors' code has a σ of each synapse,
with a mean and a width of each, conductances and reversal potentials, and clips to keep capacities
and conductances positive. w_tau has no such guard here: below zero it can make a state grow.
"""

from sympy import Eq

from lstmgen import Cell, biases, constants, inputs, sigmoid, states, vector, vectors, weights

UNFOLDINGS = 6

x = inputs("x")
h = states("h")
u = vectors("u")
W, U, b = weights("W"), weights("U"), biases("b")
A, w_tau = vector("A", init=("uniform", -1.0, 1.0)), vector("w_tau", init=1.0)
dt = constants("dt", 1.0)

equations = [Eq(u, W.f @ x + b.f)]
v = h
for n in range(1, UNFOLDINGS + 1):
    f = vectors(f"f_{n}")
    after = vectors(f"v_{n}") if n < UNFOLDINGS else h.next
    d = dt / UNFOLDINGS
    equations += [
        Eq(f, sigmoid(u + U.f @ v)),
        Eq(after, (v + d * f * A) / (1 + d * (w_tau + f))),
    ]
    v = after

cell = Cell(
    "ltc",
    equations=equations,
    output=h,
    title="liquid time-constant network, six solver steps",
    source="Hasani et al. 2021",
    roles={u: "what f has of the input", h: "hidden state"},
)
