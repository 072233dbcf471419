"""The antisymmetric network: Chang, Chen, Haber & Chi, "AntisymmetricRNN: a dynamical system view
on recurrent neural networks", ICLR 2019 (chang2019antisymmetricrnn).

A step of Euler's rule, of size ε, for a differential equation whose matrix A has imaginary
eigenvalues only, so that it neither damps nor amplifies. The rule itself amplifies a little; the
diffusion γ makes up for that. Both are hyper-parameters, to be searched for: 0.1 and 0.01 are no
more than a place to begin. This is the plain cell; the paper's second one has a gate on the step.

A = U - Uᵀ is computed once for a sequence. Of the H² numbers of U half would do: only A matters.
"""

from sympy import Eq

from lstmgen import Cell, biases, constants, inputs, matrix, states, tanh, weights

x = inputs("x")
h = states("h")
W, U, b = weights("W"), weights("U"), biases("b")
A = matrix("A", "H", "H")
epsilon, gamma = constants("epsilon", 0.1), constants("gamma", 0.01)

cell = Cell(
    "antisymmetric",
    equations=[
        Eq(A, U.h - U.h.T),
        Eq(h.next, h + epsilon * tanh(A @ h - gamma * h + W.h @ x + b.h)),
    ],
    output=h,
    title="network with an antisymmetric matrix",
    source="Chang et al. 2019",
    roles={A: "antisymmetric matrix", h: "hidden state"},
)
