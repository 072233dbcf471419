"""Gated linear attention: Yang, Wang, Shen, Panda & Kim, "Gated linear attention transformers with
hardware-efficient training", ICML 2024, arXiv 2312.06635, 2023 (yang2023gated).

Each of N heads keeps a matrix S of values (P) by keys (K), which forgets by a gate α of each key,
and to which a step adds an outer product. The paper's S is the transpose, of keys by values.

The gate is σ(…)^(1/16), so that it starts near 1, and comes through two matrices, from D to R to
the keys. The last product of the paper's layer, with W_O, is left out: it does not recur, and a
readout or the next layer has it. The paper normalises each head by LN; here it is the root mean
square, with a gain that the heads share, as in the authors' library. This takes away the scale of
S, so that there is no other normaliser.
"""

from sympy import Eq, exp, sqrt

from lstmgen import (
    Cell,
    Size,
    biases,
    expand,
    inputs,
    log_sigmoid,
    matrix,
    mean,
    outer,
    rsqrt,
    silu,
    states,
    vector,
    vectors,
    weights,
)

x = inputs("x")
S = states("S", shape=("N", "P", "K"))
q, k, alpha = vectors("q k alpha", shape=("N", "K"))
v, o, r, h = vectors("v o r h", shape=("N", "P"))
W, V = weights("W", shape=("N", "K", "D")), weights("V", shape=("N", "P", "D"))
A, U = matrix("A", "R", "D"), weights("U", shape=("N", "K", "R"))  # of the gate
b, c = biases("b", shape=("N", "K")), biases("b", shape=("N", "P"))
gain = vector("gain", "P", init=1.0)

cell = Cell(
    "gla",
    equations=[
        Eq(q, W.q @ x),
        Eq(k, W.k @ x),
        Eq(v, V.v @ x),
        Eq(alpha, exp(log_sigmoid(U.alpha @ (A @ x) + b.alpha) / 16)),
        Eq(S.next, expand(alpha, S) * S + outer(v, k)),
        Eq(o, (S.next @ q) / sqrt(Size("K"))),
        Eq(r, silu(V.r @ x + c.r)),
        Eq(h, r * expand(gain, o) * o * expand(rsqrt(mean(o**2, "P") + 1e-5), o)),
    ],
    output=h,
    title="gated linear attention",
    source="Yang et al. 2023",
    roles={
        q: "query",
        k: "key",
        v: "value",
        alpha: "forget gate",
        S: "matrix memory",
        o: "what is read",
        r: "output gate",
    },
)
