"""FastGRNN: Kusupati, Singh, Bhatia, Kumar, Jain & Varma, "FastGRNN: a fast, accurate, stable and
tiny kilobyte sized gated recurrent neural network", NeurIPS 2018 (kusupati2018fastgrnn). Made for
microcontrollers: gate and candidate share both matrices, and differ in their biases.

Two learned numbers in [0, 1] weigh what is written; they are σ of ζ and of ν, as in the authors'
code, which start at 1 and -4. z = 1 keeps the state.

The paper also makes the matrices sparse, of small integers, and of low rank. For the last, declare
``L, R = matrix("L", "H", "K"), matrix("R", "K", "D")`` and write ``L @ (R @ x)`` for ``W @ x``.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, matrix, sigmoid, states, tanh, vector, vectors

x = inputs("x")
h = states("h")
z, n = vectors("z n")
W, U = matrix("W", init=("normal", 0.1)), matrix("U", init=("normal", 0.1))
b = biases("b", init=1.0)
zeta, nu = vector("zeta", size=1, init=1.0), vector("nu", size=1, init=-4.0)

cell = Cell(
    "fast_grnn",
    equations=[
        Eq(z, sigmoid(W @ x + U @ h + b.z)),
        Eq(n, tanh(W @ x + U @ h + b.h)),
        Eq(h.next, (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * n + z * h),
    ],
    output=h,
    title="gate and candidate with the same matrices",
    source="Kusupati et al. 2018",
    roles={z: "update gate", n: "candidate", h: "hidden state"},
)
