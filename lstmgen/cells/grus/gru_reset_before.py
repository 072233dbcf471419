"""The gated recurrent unit that resets before the product: Cho et al., "Learning phrase
representations using RNN encoder-decoder", arXiv 1406.1078v3, 2014 (cho2014learning); as in Keras
with ``reset_after=False`` and ONNX with ``linear_before_reset=0``.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
r, z, n = vectors("r z n")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "gru_reset_before",
    equations=[
        Eq(r, sigmoid(W.r @ x + U.r @ h + b.r)),
        Eq(z, sigmoid(W.z @ x + U.z @ h + b.z)),
        Eq(n, tanh(W.n @ x + U.n @ (r * h) + b.n)),
        Eq(h.next, z * h + (1 - z) * n),
    ],
    output=h,
    title="gated recurrent unit, reset before the product",
    source="Cho et al. 2014, v3",
    roles={r: "reset gate", z: "update gate", n: "candidate", h: "hidden state"},
)
