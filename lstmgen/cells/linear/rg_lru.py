"""The real-gated linear recurrent unit of Griffin: De et al., "Griffin: mixing gated linear
recurrences with local attention for efficient language models", arXiv 2402.19427, 2024
(de2024griffin), equations 1 to 4.

A real diagonal recurrence, whose decay a each step chooses by a gate r: between σ(Λ)^c, with c = 8,
and 1. The input is normalised by sqrt(1 - a²). It has the units of the state: in Griffin a matrix
and a short convolution come before, a gated branch is beside, and the matrices of the gates are
block-diagonal; here they are full.

The authors' code has the sign of Λ turned: its softplus(Λ) is softplus(-Λ) here, -log σ(Λ). It
bounds the slope of the square root, which is without bound at a = 1, and does not multiply the
first step of a sequence by sqrt(1 - a²).

As in the paper, Λ starts so that the fastest decay, σ(Λ)^c, is uniform between 0.9 and 0.999.
"""

from sympy import Eq, exp, sqrt

from lstmgen import (
    Cell,
    biases,
    constants,
    expm1,
    inputs,
    log_sigmoid,
    sigmoid,
    states,
    vector,
    vectors,
    weights,
)

x = inputs("x", size="H")
h = states("h")
r, i, log_a, a = vectors("r i log_a a")
W, b = weights("W"), biases("b")
Lambda = vector("Lambda", "H", init=("decay", 0.9, 0.999, 8))
c = constants("c", 8.0)

cell = Cell(
    "rg_lru",
    equations=[
        Eq(r, sigmoid(W.a @ x + b.a)),
        Eq(i, sigmoid(W.x @ x + b.x)),
        Eq(log_a, c * r * log_sigmoid(Lambda)),
        Eq(a, exp(log_a)),
        Eq(h.next, a * h + sqrt(-expm1(2 * log_a)) * (i * x)),
    ],
    output=h,
    title="real-gated linear recurrent unit",
    source="De et al. 2024",
    notes="sqrt(-expm1(2 log_a)) is sqrt(1 - a²), exact near a = 1",
    roles={
        r: "recurrence gate",
        i: "input gate",
        log_a: "logarithm of the decay",
        a: "decay",
        Lambda: "logit of the fastest decay, before its power c",
        h: "hidden state",
    },
)
