"""The recurrent network of rectified linear units that starts as the identity: Le, Jaitly & Hinton,
"A simple way to initialize recurrent networks of rectified linear units", arXiv 1504.00941, 2015
(le2015simple). The equations are those of PyTorch's ``nn.RNN`` with ``nonlinearity="relu"``.

U starts as the identity, so that at first a state without input stays as it is, and its gradient
with it; b starts at 0 and W is normal with a standard deviation of 0.001 (section 3 of the paper).
For long dependencies of noisy inputs the paper scales the identity down, to 0.01 I. Nothing bounds
the state: large rates make it overflow.
"""

from sympy import Eq

from lstmgen import Cell, inputs, matrix, relu, states, vector

x = inputs("x")
h = states("h")
W = matrix("W", init=("normal", 0.001))
U = matrix("U", init=("identity", 1.0))
b = vector("b")

cell = Cell(
    "irnn",
    equations=[Eq(h.next, relu(W @ x + U @ h + b))],
    output=h,
    title="recurrent network of rectified linear units",
    source="Le et al. 2015",
    roles={h: "hidden state"},
)
