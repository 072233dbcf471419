"""The structurally constrained network: Mikolov, Joulin, Chopra, Mathieu & Ranzato, "Learning
longer memory in recurrent neural networks", arXiv 1412.7753, 2014 (mikolov2014learning).

Beside the hidden units h are S context units s, which change slowly: an average of the input with
weights that fade by α a step. There are no biases. W_s, W_h, P and U_h are the paper's B, A, P and
R; the output puts h and s side by side, so that a linear readout of it is the paper's U h + V s.

α is fixed at 0.95, as in most of the paper; it also learns one of each unit. h reads the new s, as
the paper writes it; the authors' code reads the one before.
"""

from sympy import Eq

from lstmgen import Cell, concat, constants, inputs, matrix, sigmoid, states, vectors, weights

x = inputs("x")
h, s = states("h"), states("s", "S")
y = vectors("y", "H+S")
W, U, P = weights("W"), weights("U"), matrix("P")
alpha = constants("alpha", 0.95)

cell = Cell(
    "scrn",
    equations=[
        Eq(s.next, (1 - alpha) * (W.s @ x) + alpha * s),
        Eq(h.next, sigmoid(P @ s.next + W.h @ x + U.h @ h)),
        Eq(y, concat(h.next, s.next)),
    ],
    output=y,
    title="network with slow context units",
    source="Mikolov et al. 2014",
    roles={s: "context", h: "hidden state", y: "both, for the readout"},
)
