"""The long expressive memory: Rusch, Mishra, Erichson & Mahoney, "Long expressive memory for
sequence modeling", ICLR 2022 (rusch2022long): two states, each with a time step of its own for each
unit, which the input and y choose.

A discretised system of differential equations with several time scales: the first half makes z of
y, the second y of the new z. dt is the largest step, a hyper-parameter that the paper searches for
between its tasks; 1 is the authors' default. The names in the authors' code are crossed: what
makes z is called after y there, and the other way round.
"""

from sympy import Eq

from lstmgen import Cell, biases, constants, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
y, z = states("y z")
dt_1, dt_2 = vectors("dt_1 dt_2")
W, V = weights("W", init="pytorch"), weights("V", init="pytorch")
b = biases("b", init="pytorch")
dt = constants("dt", 1.0)

cell = Cell(
    "lem",
    equations=[
        Eq(dt_1, dt * sigmoid(W["1"] @ y + V["1"] @ x + b["1"])),
        Eq(dt_2, dt * sigmoid(W["2"] @ y + V["2"] @ x + b["2"])),
        Eq(z.next, (1 - dt_1) * z + dt_1 * tanh(W.z @ y + V.z @ x + b.z)),
        Eq(y.next, (1 - dt_2) * y + dt_2 * tanh(W.y @ z.next + V.y @ x + b.y)),
    ],
    output=y,
    title="long expressive memory",
    source="Rusch et al. 2022",
    roles={
        dt_1: "time step of z",
        dt_2: "time step of y",
        z: "memory",
        y: "hidden state",
    },
)
