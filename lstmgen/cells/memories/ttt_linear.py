"""TTT-Linear: Sun et al., "Learning to (learn at test time): RNNs with expressive hidden states",
arXiv 2407.04620, 2024 (sun2024learning), with a mini-batch of one token.

The state of each of N heads is a model, f(u) = u + LN(M u + m), and a step trains it: one step of
gradient descent on |f(k) - v|² / 2, by the learning rate η, after which it answers the query. The
model that a sequence starts from, S_0 and b_0, is learned; the states S and b are how far it has
come from there, M = S_0 + S and m = b_0 + b, so that they start at zero. A model that is zero is
no good start: LN divides by the length of its output.

The gradient by the model is written out: e is that by the normalised z, d that by z itself. The
gradients of the outer training flow through it, to the second order.

The paper's layers take mini-batches of 16 tokens, whose gradients are all at the model before the
mini-batch; with one token there is no such difference, and neither positions within a mini-batch
nor their learned factors. Also left out are the rotary embedding of these positions, the norm, the
gate and the matrix after, and the convolutions before: they do not recur. Without LN and the u
beside it, and with m = 0, this is the delta rule of delta_net.
"""

from sympy import Eq

from lstmgen import (
    Cell,
    Size,
    expand,
    inputs,
    matrix,
    mean,
    outer,
    rsqrt,
    sigmoid,
    states,
    vector,
    vectors,
    weights,
)

x = inputs("x")
S, b = states("S", shape=("N", "K", "K")), states("b", shape=("N", "K"))
q, k, v, h = vectors("q k v h", shape=("N", "K"))
z, c, n, e, d = vectors("z c n e d", shape=("N", "K"))  # of the training
y, p = vectors("y p", shape=("N", "K"))  # of the answer
eta, s = vectors("eta s", "N")
W, w = weights("W", shape=("N", "K", "D")), weights("w", "N", init=("normal", 0.02))
offset = vector("offset", "N")
S_0 = matrix("S_0", shape=("N", "K", "K"), init=("normal", 0.02))
b_0 = vector("b_0", shape=("N", "K"))
gain, bias = vector("gain", shape=("N", "K"), init=1.0), vector("bias", shape=("N", "K"))

cell = Cell(
    "ttt_linear",
    equations=[
        Eq(q, W.q @ x),
        Eq(k, W.k @ x),
        Eq(v, W.v @ x),
        Eq(eta, sigmoid(w.eta @ x + offset) / Size("K")),
        Eq(z, S_0 @ k + S @ k + b_0 + b),
        Eq(c, z - expand(mean(z, "K"), z)),
        Eq(s, rsqrt(mean(c**2, "K") + 1e-6)),
        Eq(n, c * expand(s, c)),
        Eq(e, gain * (k + gain * n + bias - v)),
        Eq(d, expand(s, e) * (e - expand(mean(e, "K"), e) - n * expand(mean(e * n, "K"), n))),
        Eq(S.next, S - outer(expand(eta, d) * d, k)),
        Eq(b.next, b - expand(eta, d) * d),
        Eq(y, S_0 @ q + S.next @ q + b_0 + b.next),
        Eq(p, y - expand(mean(y, "K"), y)),
        Eq(h, q + gain * p * expand(rsqrt(mean(p**2, "K") + 1e-6), p) + bias),
    ],
    output=h,
    title="test-time training of a linear model",
    source="Sun et al. 2024",
    roles={
        q: "query",
        k: "key, the input of the training",
        v: "value, its target",
        eta: "learning rate",
        n: "normalised z",
        e: "gradient by n",
        d: "gradient by z",
        S: "matrix of the model, less S_0",
        b: "bias of the model, less b_0",
    },
)
