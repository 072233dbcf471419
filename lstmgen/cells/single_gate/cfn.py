"""The chaos-free network: Laurent & von Brecht, "A recurrent neural network without chaos", ICLR
2017 (laurent2017recurrent).

No matrix mixes units but within the gates: a unit forgets its past by θ, and takes in a view of the
input by η. Without input, every unit goes to zero, whatever the weights: the dynamics are not
chaotic, as those of the LSTM and the GRU can be.

Here W is the paper's V in the gates. All matrices start in ±0.07, the forget gate open and the
input gate closed.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
theta, eta = vectors("theta eta")
W, U = (weights(name, init=("uniform", -0.07, 0.07)) for name in ("W", "U"))
b = biases("b")

cell = Cell(
    "cfn",
    equations=[
        Eq(theta, sigmoid(W.theta @ x + U.theta @ h + b.theta)),
        Eq(eta, sigmoid(W.eta @ x + U.eta @ h + b.eta)),
        Eq(h.next, theta * tanh(h) + eta * tanh(W.h @ x)),
    ],
    output=h,
    title="chaos-free network",
    source="Laurent & von Brecht 2017",
    init={b.theta: 1.0, b.eta: -1.0},
    roles={theta: "forget gate", eta: "input gate", h: "hidden state"},
)
