"""The delta rule on a matrix memory: Schlag, Irie & Schmidhuber, "Linear transformers are secretly
fast weight programmers", ICML 2021 (schlag2021linear), equations 21 to 25, with keys and queries
as in Yang et al., "Parallelizing linear transformers with the delta rule over sequence length",
NeurIPS 2024 (yang2024parallelizing): SiLU, then a length of 1.

Each of N heads keeps a matrix S of values (P) by keys (K). A step moves what S has under a key
towards the new value, by the learning rate β.
"""

from sympy import Eq

from lstmgen import (
    Cell,
    expand,
    inputs,
    outer,
    rsqrt,
    sigmoid,
    silu,
    states,
    sum_,
    vectors,
    weights,
)

x = inputs("x")
S = states("S", shape=("N", "P", "K"))
q, k, a, g = vectors("q k a g", shape=("N", "K"))
v, e, h = vectors("v e h", shape=("N", "P"))
beta = vectors("beta", "N")
W, V, w = weights("W", shape=("N", "K", "D")), weights("V", shape=("N", "P", "D")), weights("w")

cell = Cell(
    "delta_net",
    equations=[
        Eq(g, silu(W.q @ x)),
        Eq(a, silu(W.k @ x)),
        Eq(q, g * expand(rsqrt(sum_(g**2, "K") + 1e-6), g)),
        Eq(k, a * expand(rsqrt(sum_(a**2, "K") + 1e-6), a)),
        Eq(v, V.v @ x),
        Eq(beta, sigmoid(w.b @ x)),
        Eq(e, expand(beta, v) * (v - S @ k)),
        Eq(S.next, S + outer(e, k)),
        Eq(h, S.next @ q),
    ],
    output=h,
    title="Delta rule on a matrix memory",
    source="Schlag et al. 2021; Yang et al. 2024",
    roles={
        q: "query",
        k: "key",
        v: "value",
        beta: "learning rate",
        e: "error, times β",
        S: "matrix memory",
    },
)
