"""The light GRU: Ravanelli, Brakel, Omologo & Bengio, "Light gated recurrent units for speech
recognition", IEEE Transactions on Emerging Topics in Computational Intelligence 2(2), 2018
(ravanelli2018light). A GRU without a reset gate, with relu for the candidate, and with batch
normalisation of what comes from the input, which keeps the unbounded candidate in check.

A cell sees one row of a batch at a time, so that the statistics of the normalisation, the mean mu
and the variance v, are given and not learned: the running ones of a trained network, or those that
your own loop takes of W x over a batch and all its steps. As they start, 0 and 1, nothing is
normalised. No gradient flows through them, in contrast to batch normalisation in training.

z = 1 keeps the old state, as in the paper. The recurrent matrices start orthogonal, and there are
no biases beside β. The paper's dropout, one mask for a whole sequence, is left out.
"""

from sympy import Eq, Expr, sqrt

from lstmgen import Cell, biases, inputs, relu, sigmoid, states, vectors, weights

x = inputs("x")
h = states("h")
z, n = vectors("z n")
W, U = weights("W"), weights("U", init="orthogonal")
gamma, beta = biases("gamma", init=1.0), biases("beta")
mu, v = biases("mu", learned=False), biases("v", init=1.0, learned=False)


def normalised(gate: str) -> Expr:
    """BN(W x), by given statistics."""
    return gamma[gate] * (W[gate] @ x - mu[gate]) / sqrt(v[gate] + 1e-5) + beta[gate]


cell = Cell(
    "ligru",
    equations=[
        Eq(z, sigmoid(normalised("z") + U.z @ h)),
        Eq(n, relu(normalised("n") + U.n @ h)),
        Eq(h.next, z * h + (1 - z) * n),
    ],
    output=h,
    title="light gated recurrent unit",
    source="Ravanelli et al. 2018",
    roles={z: "update gate", n: "candidate", h: "hidden state"},
)
