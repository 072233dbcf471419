"""The stackable recurrent cell: Turkoglu, D'Aronco, Wegner & Schindler, "Gating revisited: deep
multi-layer RNNs that can be trained", IEEE Transactions on Pattern Analysis and Machine
Intelligence, 2021 (turkoglu2021gating). Made to keep the size of gradients over many layers, it has
few parameters: one gate k, and a candidate z that does not see the hidden state.

k = 1 writes the candidate, and the whole new state goes through a tanh. The authors' code differs:
it has the gate the other way round, and scales what is written as JANET does.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
z, k = vectors("z k")
W, U, b = weights("W"), weights("U", init="orthogonal"), biases("b")

cell = Cell(
    "star",
    equations=[
        Eq(z, tanh(W.z @ x + b.z)),
        Eq(k, sigmoid(W.k @ x + U.k @ h + b.k)),
        Eq(h.next, tanh((1 - k) * h + k * z)),
    ],
    output=h,
    title="stackable recurrent cell",
    source="Turkoglu et al. 2021",
    roles={z: "candidate", k: "gate", h: "hidden state"},
)
