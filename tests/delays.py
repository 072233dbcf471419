"""Cells with states that are no recurrence: they delay what does not depend on them.

All of their steps can be had at once, before the loop over steps or after it, and what flows back
into them likewise.
"""

from __future__ import annotations

from sympy import Eq

from lstmgen import (
    Cell,
    biases,
    inputs,
    masks,
    outer,
    relu,
    sigmoid,
    states,
    stop_gradient,
    tanh,
    vector,
    vectors,
    weights,
)


def window() -> Cell:
    """A quasi-recurrent network with a window of two steps: Bradbury et al., arXiv 1611.01576."""
    x, c = inputs("x"), states("c")
    x_before = states("x_before", size="D")
    z, f, o, h = vectors("z f o h")
    W, V, b = weights("W"), weights("V"), biases("b")
    return Cell(
        "window",
        [
            Eq(z, tanh(W.z @ x + V.z @ x_before + b.z)),
            Eq(f, sigmoid(W.f @ x + V.f @ x_before + b.f)),
            Eq(o, sigmoid(W.o @ x + V.o @ x_before + b.o)),
            Eq(c.next, f * c + (1 - f) * z),
            Eq(h, o * c.next),
            Eq(x_before.next, x),
        ],
        output=h,
    )


def window_of_three() -> Cell:
    """Two delays, one after the other, beside a recurrent product."""
    x, h = inputs("x"), states("h")
    one, two = states("x_one x_two", size="D")
    W, U, V = weights("W"), weights("U"), weights("V")
    return Cell(
        "window_of_three",
        [
            Eq(two.next, one),
            Eq(one.next, x),
            Eq(h.next, tanh(W.h @ x + V.one @ one + V.two @ two + U.h @ h)),
        ],
        output=h,
    )


def convolution() -> Cell:
    """No recurrence at all."""
    x = inputs("x")
    x_before = states("x_before", size="D")
    h, y = vectors("h y")
    W, V, b = weights("W"), weights("V"), biases("b")
    return Cell(
        "convolution",
        [
            Eq(h, relu(W.h @ x + V.h @ x_before + b.h)),
            Eq(y, W.y @ h),
            Eq(x_before.next, x),
        ],
        output=y,
    )


def token_shift() -> Cell:
    """Products of a mixture with the input before, as in RWKV: Peng et al., arXiv 2305.13048."""
    x, c = inputs("x"), states("c")
    x_before = states("x_before", size="D")
    k, r = vectors("k r", size="D")
    i, f, h = vectors("i f h")
    W, mu = weights("W"), biases("mu", size="D")
    return Cell(
        "token_shift",
        [
            Eq(k, mu.k * x + (1 - mu.k) * x_before),
            Eq(r, mu.r * x + (1 - mu.r) * x_before),
            Eq(i, sigmoid(W.i @ k)),
            Eq(f, sigmoid(W.f @ r)),
            Eq(c.next, f * c + i * (W.c @ k)),
            Eq(h, tanh(c.next)),
            Eq(x_before.next, x),
        ],
        output=h,
    )


def delayed_product() -> Cell:
    """What is delayed is computed, and read by elementwise work of the recurrence."""
    x, h = inputs("x"), states("h")
    p_before = states("p_before")
    p, d = vectors("p d")
    W, U, v = weights("W"), weights("U"), vector("v")
    return Cell(
        "delayed_product",
        [
            Eq(p, tanh(W.p @ x)),
            Eq(d, p - v * p_before),
            Eq(h.next, tanh(d + U.h @ h)),
            Eq(p_before.next, p),
        ],
        output=h,
    )


def delayed_output() -> Cell:
    """A delay of what the recurrence makes, which it does not need itself."""
    x, h = inputs("x"), states("h")
    h_before, y_before = states("h_before y_before")
    y = vectors("y")
    W, U, V = weights("W"), weights("U"), weights("V")
    return Cell(
        "delayed_output",
        [
            Eq(h.next, tanh(W.h @ x + U.h @ h)),
            Eq(y, relu(V.y @ h_before + h.next)),
            Eq(h_before.next, h.next + 0.5 * y_before),
            Eq(y_before.next, V.b @ h.next),
        ],
        output=y,
    )


def last_observation() -> Cell:
    """A recurrence that does not depend on the one it feeds: Che et al., arXiv 1606.01865."""
    x, h, m = inputs("x"), states("h"), masks("m", size="D")
    x_last = states("x_last", size="D")
    W, U, V = weights("W"), weights("U"), weights("V")
    return Cell(
        "last_observation",
        [
            Eq(x_last.next, m * x + (1 - m) * x_last),
            Eq(h.next, tanh(W.h @ x_last.next + V.h @ x_last + U.h @ h)),
        ],
        output=h,
    )


def carried_both_ways() -> Cell:
    """The delay is the output, has its own initial value, and is read of this step as well."""
    x, h = inputs("x"), states("h")
    q = states("q", init=0.5)
    g = vectors("g")
    W, U, V = weights("W"), weights("U"), weights("V")
    return Cell(
        "carried_both_ways",
        [
            Eq(q.next, sigmoid(W.q @ x)),
            Eq(g, sigmoid(V.g @ q + V.n @ q.next)),
            Eq(h.next, tanh(W.h @ x + U.h @ (g * h)) * q),
        ],
        output=q,
    )


def transposed() -> Cell:
    """One matrix for two steps, and turned."""
    x, h = inputs("x", size="H"), states("h")
    x_before = states("x_before", size="H")
    W, U = weights("W"), weights("U")
    return Cell(
        "transposed",
        [
            Eq(x_before.next, x),
            Eq(h.next, tanh(W.a @ x + W.a.T @ x_before + W.b.T @ x_before + 2 * (U.h @ h))),
        ],
        output=h,
    )


def delayed_keys() -> Cell:
    """A delay of heads, contracted with a memory of several axes."""
    x, C = inputs("x"), states("C", shape=("N", "P", "K"))
    k_before = states("k_before", shape=("N", "K"))
    v, y = vectors("v y", shape=("N", "P"))
    k = vectors("k", shape=("N", "K"))
    W = weights("W", shape=("N", "P", "D"))
    V = weights("V", shape=("N", "K", "D"))
    R = weights("R", shape=("N", "P", "K"))
    return Cell(
        "delayed_keys",
        [
            Eq(k, V.k @ x),
            Eq(v, tanh(W.v @ x + R.v @ k_before)),
            Eq(C.next, 0.9 * C + outer(v, k_before)),
            Eq(y, C.next @ k),
            Eq(k_before.next, k),
        ],
        output=y,
    )


def behind_a_stop() -> Cell:
    """No gradient flows through the delay."""
    x, h = inputs("x"), states("h")
    x_before = states("x_before", size="D")
    W, U, V = weights("W"), weights("U"), weights("V")
    return Cell(
        "behind_a_stop",
        [
            Eq(h.next, tanh(W.h @ x + V.h @ stop_gradient(x_before) + U.h @ h)),
            Eq(x_before.next, x),
        ],
        output=h,
    )


CELLS = {
    make.__name__: make()
    for make in (
        window, window_of_three, convolution, token_shift, delayed_product, delayed_output,
        last_observation, carried_both_ways, transposed, delayed_keys, behind_a_stop,
    )
}  # fmt: skip
