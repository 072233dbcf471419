"""The time mixing of RWKV-7: Peng et al., "RWKV-7 "Goose" with expressive dynamic state evolution",
arXiv 2503.14456, 2025 (peng2025rwkv).

Each of N heads keeps a matrix S of values (P) by keys (K). A step makes each key fade by w, takes
out what S has under the removal key κ, by a learning rate a of each key, and adds a value under
the replacement key k̃. So its transition is diag(w) - κ (a κ)ᵀ: no product of diagonal matrices,
and with eigenvalues that can be negative. The receptance r reads.

This is one layer's time mixing up to its output matrix: the mixing with the input before, by
μ = 1 for that one and 0 for this; w, a and the gate g through R units each; the normalisation of
each head, with 0.00064 below its root; and the bonus ρ for the present token. Left out are that
output matrix, the residual of values from the first layer (which is between layers), and channel
mixing, which is a feed-forward layer. The paper has P = K, and a rank of its own for w, a and g.
The length of κ has 1e-6 below its root, in place of a floor.

Much of how it starts depends on the number of the layer in the authors' code. Here μ runs from 1
to 0 along the input, w_0 from -5.5 to 0.5 along the keys, and of each pair of low rank one matrix
starts at 0, as there.
"""

from sympy import Eq, Rational, exp

from lstmgen import (
    Cell,
    biases,
    expand,
    inputs,
    mean,
    outer,
    rsqrt,
    sigmoid,
    states,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)

KEYS, VALUES = ("N", "K"), ("N", "P")

x = inputs("x")
S = states("S", shape=("N", "P", "K"))
x_before = states("x_before", size="D")
x_r, x_w, x_k, x_v, x_a, x_g = vectors("x_r x_w x_k x_v x_a x_g", "D")
r, k, w, a, u, kappa, k_tilde = vectors("r k w a u kappa k_tilde", shape=KEYS)
v, g, y, p, d, h = vectors("v g y p d h", shape=VALUES)
mu = biases("mu", "D", init=("linspace", 1.0, 0.0))
W, V = weights("W", shape=("N", "K", "D")), weights("V", shape=("N", "P", "D"))
A = weights("A", "R", "D", init=0.0)
B, C = weights("B", shape=("N", "K", "R")), weights("B", shape=("N", "P", "R"))
w_0 = vector("w_0", shape=KEYS, init=("linspace", -5.5, 0.5))
a_0 = vector("a_0", shape=KEYS)
xi, alpha = vector("xi", shape=KEYS, init=0.85), vector("alpha", shape=KEYS, init=1.0)
rho = vector("rho", shape=KEYS)
gain, bias = vector("gain", shape=VALUES, init=1.0), vector("bias", shape=VALUES)


cell = Cell(
    "rwkv7",
    equations=[
        Eq(x_r, x + mu.r * (x_before - x)),
        Eq(x_w, x + mu.w * (x_before - x)),
        Eq(x_k, x + mu.k * (x_before - x)),
        Eq(x_v, x + mu.v * (x_before - x)),
        Eq(x_a, x + mu.a * (x_before - x)),
        Eq(x_g, x + mu.g * (x_before - x)),
        Eq(r, W.r @ x_r),
        Eq(k, W.k @ x_k),
        Eq(v, V.v @ x_v),
        Eq(w, exp(-exp(-Rational(1, 2)) * sigmoid(w_0 + B.w @ tanh(A.w @ x_w)))),
        Eq(a, sigmoid(a_0 + B.a @ (A.a @ x_a))),
        Eq(g, C.g @ sigmoid(A.g @ x_g)),
        Eq(u, xi * k),
        Eq(kappa, u * expand(rsqrt(sum_(u**2, "K") + 1e-6), u)),
        Eq(k_tilde, k * (1 + alpha * (a - 1))),
        Eq(S.next, S * expand(w, S) - outer(S @ kappa, a * kappa) + outer(v, k_tilde)),
        Eq(y, S.next @ r),
        Eq(d, y - expand(mean(y, "P"), y)),
        Eq(p, gain * d * expand(rsqrt(mean(d**2, "P") + 64e-5), d) + bias),
        Eq(h, g * (p + expand(sum_(r * rho * k_tilde, "K"), v) * v)),
        Eq(x_before.next, x),
    ],
    output=h,
    title="RWKV-7 time mixing",
    source="Peng et al. 2025",
    roles={
        r: "receptance",
        k: "key",
        v: "value",
        w: "decay",
        a: "learning rate",
        g: "output gate",
        u: "removal key, of any length",
        kappa: "removal key, of length 1",
        k_tilde: "replacement key",
        S: "matrix memory",
        y: "what is read",
        p: "what is read, normalised",
        x_before: "the input before",
    },
)
