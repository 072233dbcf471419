"""The coupled oscillatory network: Rusch & Mishra, "Coupled oscillatory recurrent neural network
(coRNN): an accurate and (gradient) stable architecture for learning long time dependencies", ICLR
2021 (rusch2021coupled): a network of driven and damped oscillators, with places y and velocities z.

Its rule is explicit in the damping, which is of the old z, as in the authors' code; the paper also
has that of the new z. y moves by the new z. Gradients are bounded for small time steps dt, not for
all. dt, γ (frequency) and ε (damping) are hyper-parameters, and have to be searched for: these are
the authors' for the pixels of MNIST, one a step.
"""

from sympy import Eq

from lstmgen import Cell, constants, inputs, matrix, states, tanh, vector, weights

x = inputs("x")
y, z = states("y z")
W, V, b = weights("W"), matrix("V"), vector("b")
dt = constants("dt", 0.042)
gamma, epsilon = constants("gamma", 2.7), constants("epsilon", 4.7)

cell = Cell(
    "cornn",
    equations=[
        Eq(z.next, z + dt * (tanh(W.y @ y + W.z @ z + V @ x + b) - gamma * y - epsilon * z)),
        Eq(y.next, y + dt * z.next),
    ],
    output=y,
    title="coupled oscillatory network",
    source="Rusch & Mishra 2021",
    roles={y: "places", z: "velocities"},
)
