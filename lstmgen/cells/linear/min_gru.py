"""The minGRU: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", arXiv
2410.01201, 2024 (feng2024were): a GRU whose gate and candidate read the input alone, without a
reset gate and without a tanh. It can be computed by a parallel scan over the steps.

z = 1 writes the candidate, as in the paper. Its variant for computing in logarithms needs positive
candidates and states: it puts n + 1/2 where n ≥ 0, and σ(n) elsewhere, in the place of n here.
Most code has that variant.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, vectors, weights

x = inputs("x")
h = states("h")
z, n = vectors("z n")
W, b = weights("W"), biases("b")

cell = Cell(
    "min_gru",
    equations=[
        Eq(z, sigmoid(W.z @ x + b.z)),
        Eq(n, W.n @ x + b.n),
        Eq(h.next, (1 - z) * h + z * n),
    ],
    output=h,
    title="GRU without a recurrent product",
    source="Feng et al. 2024",
    roles={z: "update gate", n: "candidate", h: "hidden state"},
)
