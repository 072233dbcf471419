"""The gated recurrent unit that resets after the product: Cho et al., "Learning phrase
representations using RNN encoder-decoder", arXiv 1406.1078v1, 2014 (cho2014learning); as in cuDNN,
PyTorch, and Keras with ``reset_after=True``. The candidate has two biases, since b_m is inside the
reset.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
r, z, m, n = vectors("r z m n")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "gru",
    equations=[
        Eq(r, sigmoid(W.r @ x + U.r @ h + b.r)),
        Eq(z, sigmoid(W.z @ x + U.z @ h + b.z)),
        Eq(m, U.n @ h + b.m),
        Eq(n, tanh(W.n @ x + r * m + b.n)),
        Eq(h.next, z * h + (1 - z) * n),
    ],
    output=h,
    title="gated recurrent unit, reset after the product",
    source="Cho et al. 2014, v1",
    roles={
        r: "reset gate",
        z: "update gate",
        m: "recurrent part of the candidate",
        n: "candidate",
        h: "hidden state",
    },
)
