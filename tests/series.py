"""Cells with several recurrences, of which one feeds the other.

Where a product is between them, each has a loop of its own.
"""

from __future__ import annotations

from sympy import Eq, exp

from lstmgen import (
    Cell,
    biases,
    flatten,
    inputs,
    masks,
    mean,
    outer,
    relu,
    sigmoid,
    states,
    tanh,
    vector,
    vectors,
    weights,
)


def leaky_readout() -> Cell:
    """The output is a filter of its own behind the products: Bellec et al., arXiv 1803.09574."""
    x, h = inputs("x"), states("h")
    y = states("y", size="O")
    W, U, V, b = weights("W"), weights("U"), weights("V"), biases("b")
    kappa = vector("kappa", size="O")
    return Cell(
        "leaky_readout",
        [
            Eq(h.next, tanh(W.h @ x + U.h @ h + b.h)),
            Eq(y.next, sigmoid(kappa) * y + V.y @ h.next),
        ],
        output=y,
    )


def trace() -> Cell:
    """Products of a filtered input, which is a recurrence without products."""
    x, h = inputs("x"), states("h")
    s = states("s", size="D", init=0.25)
    W, U, alpha = weights("W"), weights("U"), vector("alpha", size="D")
    return Cell(
        "trace",
        [
            Eq(s.next, sigmoid(alpha) * s + tanh(x)),
            Eq(h.next, tanh(W.h @ s.next + U.h @ h)),
        ],
        output=h,
    )


def gru_d() -> Cell:
    """Missing values are imputed from the last observation: Che et al., arXiv 1606.01865."""
    x, d = inputs("x d", size="D")
    h, m = states("h"), masks("m", size="D")
    x_last = states("x_last", size="D")
    c, g_x = vectors("c g_x", size="D")
    g, q, r, z, n = vectors("g q r z n")
    W, U, V, b = weights("W"), weights("U"), weights("V"), biases("b")
    G, w, e, average = weights("G"), *(vector(name, size="D") for name in ("w", "e", "average"))
    return Cell(
        "gru_d",
        [
            Eq(g_x, exp(-relu(w * d + e))),
            Eq(g, exp(-relu(G.h @ d + b.g))),
            Eq(x_last.next, m * x + (1 - m) * x_last),
            Eq(c, m * x + (1 - m) * (g_x * x_last + (1 - g_x) * average)),
            Eq(q, g * h),
            Eq(r, sigmoid(W.r @ c + U.r @ q + V.r @ x_last.next + b.r)),
            Eq(z, sigmoid(W.z @ c + U.z @ q + V.z @ x_last.next + b.z)),
            Eq(n, tanh(W.n @ c + U.n @ (r * q) + b.n)),
            Eq(h.next, (1 - z) * q + z * n),
        ],
        output=h,
    )


def two_layers() -> Cell:
    """Two layers, the second with the input as well, and normalised."""
    x = inputs("x")
    a, h = states("a"), states("h", size="N")
    u, v = vectors("u", size="N"), vectors("v", size="N")
    W, U, V = weights("W"), weights("U"), weights("V")
    return Cell(
        "two_layers",
        [
            Eq(a.next, tanh(W.a @ x + U.a @ a)),
            Eq(u, V.h @ a.next + W.h @ x + U.h @ h),
            Eq(v, u - mean(u)),
            Eq(h.next, tanh(v)),
        ],
        output=h,
    )


def three_in_series() -> Cell:
    """The third reads the first as it was, and both by products; each is an output."""
    x = inputs("x")
    a, b, c = states("a"), states("b", size="N"), states("c")
    W, U, V = weights("W"), weights("U"), weights("V")
    return Cell(
        "three_in_series",
        [
            Eq(a.next, tanh(W.a @ x + U.a @ a)),
            Eq(b.next, 0.5 * b + sigmoid(W.b @ a.next)),
            Eq(c.next, tanh(V.a @ a + V.b @ b + W.c @ b.next + U.c @ c) * a),
        ],
        output=(c, b, a),
    )


def filters() -> Cell:
    """No products between them, but work that calls of NumPy do at once for all steps."""
    x = inputs("x", size="H")
    a, b = states("a b")
    p = vectors("p")
    return Cell(
        "filters",
        [
            Eq(a.next, 0.75 * a + x),
            Eq(p, exp(-(a.next**2))),
            Eq(b.next, 0.5 * b + p),
        ],
        output=b,
    )


def memory_below() -> Cell:
    """What a memory of several axes answers feeds a layer."""
    x, C = inputs("x"), states("C", shape=("N", "P", "K"))
    h = states("h")
    v, y = vectors("v y", shape=("N", "P"))
    k = vectors("k", shape=("N", "K"))
    W = weights("W", shape=("N", "P", "D"))
    V = weights("V", shape=("N", "K", "D"))
    R, U = weights("R"), weights("U")
    return Cell(
        "memory_below",
        [
            Eq(k, V.k @ x),
            Eq(v, W.v @ x),
            Eq(C.next, 0.9 * C + outer(v, k)),
            Eq(y, C.next @ k),
            Eq(h.next, tanh(R.h @ flatten(y) + U.h @ h)),
        ],
        output=h,
    )


CELLS = {
    make.__name__: make()
    for make in (
        leaky_readout, trace, gru_d, two_layers, three_in_series, filters, memory_below,
    )
}  # fmt: skip
