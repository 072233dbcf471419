"""States of several axes, stacks, and addressing."""

import torch
from sympy import Eq, exp, sqrt
from torch import sigmoid, tanh
from torch.nn.functional import logsigmoid, softplus

import lstmgen
from lstmgen import expand, inputs, matrix, states, sum_, vector, vectors

from . import coin, times, unseen


@unseen(
    """
    name: mesa
    title: recursive least squares
    source: after von Oswald et al. 2025
    sizes: P (K, K), G (V, K), k (K), q (K), u (K), w (K), v (V), y (V), lam (1)
    output: y

    k = W_k @ x
    q = W_q @ x
    v = W_v @ x
    lam = sigmoid(W_lam @ x)
    u = P @ k
    w = P.T @ k
    P.next = (P - outer(u, w) / expand(lam + sum(k * u), P)) / expand(lam, P)
    G.next = expand(lam, G) * G + outer(v, k)
    y = G.next @ (P.next @ q)
    """,
    {"D": 3, "K": 4, "V": 2},
    {"D": 2, "K": 1, "V": 1},
    P=lambda rng, shape: torch.eye(shape[-1]).numpy() + 0.1 * rng.normal(size=shape),
)
def mesa(p, x, s, g):
    k, q, v = (times(p[f"W_{n}"], x)[..., None] for n in "kqv")
    lam, P = sigmoid(times(p["W_lam"], x))[..., None], s["P"]
    P = (P - P @ k @ k.mT @ P / (lam + k.mT @ P @ k)) / lam
    G = lam * s["G"] + v @ k.mT
    return (G @ P @ q)[..., 0], {"P": P, "G": G}


@unseen(
    """
    name: ttt_mlp
    title: test-time training of a network with a hidden layer
    source: after Sun et al. 2024
    sizes: A (M, K), E (K, M), k (K), v (K), q (K), u (M), e (K), du (M), y (K), eta (1)
    output: y

    k = W_k @ x
    v = W_v @ x
    q = W_q @ x
    eta = sigmoid(w @ x + b)
    u = tanh(A @ k)
    e = E @ u - v
    du = (E.T @ e) * (1 - u**2)
    A.next = A - expand(eta, A) * outer(du, k)
    E.next = E - expand(eta, E) * outer(e, u)
    y = q + E.next @ tanh(A.next @ q)
    """,
    {"D": 3, "K": 2, "M": 5},
)
def ttt_mlp(p, x, s, g):
    k, v, q = (times(p[f"W_{n}"], x)[..., None] for n in "kvq")
    A, E = s["A"], s["E"]
    loss = ((E @ tanh(A @ k) - v) ** 2).sum() / 2
    by_A, by_E = torch.autograd.grad(loss, (A, E), create_graph=True)
    eta = sigmoid(times(p["w"], x) + p["b"])[..., None]
    A, E = A - eta * by_A, E - eta * by_E
    return (q + E @ tanh(A @ q))[..., 0], {"A": A, "E": E}


@unseen(
    """
    name: stack
    title: network with a stack of M + 1 numbers
    source: after Joulin & Mikolov 2015
    sizes: a (3), push (1), pop (1), stay (1), s (M + 1), v (1), above (M), below (M)
    output: h

    h.next = sigmoid(W @ x + R @ h + P @ s + b)
    a = softmax(A @ h.next + d)
    push, pop, stay = split(a, 3)
    v = sigmoid(V @ h.next)
    above = split(s, M, 1)[0]
    below = split(s, 1, M)[1]
    s.next = (expand(push, M + 1) * concat(v, above) + expand(pop, M + 1) * concat(below, 0 * v)
        + expand(stay, M + 1) * s)
    """,
    {"D": 3, "H": 5, "M": 3},
    {"D": 3, "H": 2, "M": 1},
)
def stack(p, x, s, g):
    old = s["s"]
    h = sigmoid(times(p["W"], x) + times(p["R"], s["h"]) + times(p["P"], old) + p["b"])
    push, pop, stay = (times(p["A"], h) + p["d"]).softmax(-1).split(1, -1)
    pushed = torch.cat([sigmoid(times(p["V"], h)), old[:, :-1]], 1)
    popped = torch.nn.functional.pad(old[:, 1:], (0, 1))
    return h, {"h": h, "s": push * pushed + pop * popped + stay * old}


@unseen(
    """
    name: shifted
    title: a place in a memory, moved by a convolution and made sharper
    source: after Graves et al. 2014
    sizes: w (N + 1), s (3), l (1), m (1), r (1), g (1), gam (1), wt (N + 1), wp (N + 1), k (N + 1),
        head (1), tail (N), front (N), last (1)
    output: w

    k = softmax(A @ x + c)
    g = sigmoid(G @ x)
    s = softmax(Z @ x)
    gam = 1 + softplus(Y @ x)
    wt = g * k + (1 - g) * w
    l, m, r = split(s, 3)
    head, tail = split(wt, 1, N)
    front, last = split(wt, N, 1)
    wp = exp(gam * log(l * concat(last, front) + m * wt + r * concat(tail, head)))
    w.next = wp / sum(wp)
    """,
    {"D": 3, "N": 3},
    {"D": 2, "N": 1},
    w=(0.1, 1),
)
def shifted(p, x, s, g):
    k, gate = (times(p["A"], x) + p["c"]).softmax(-1), sigmoid(times(p["G"], x))
    left, middle, right = times(p["Z"], x).softmax(-1).split(1, -1)
    w = gate * k + (1 - gate) * s["w"]
    w = left * torch.roll(w, 1, -1) + middle * w + right * torch.roll(w, -1, -1)
    w = w ** (1 + softplus(times(p["Y"], x)))
    w = w / w.sum(-1, keepdim=True)
    return w, {"w": w}


def _slots():
    x, M = inputs("x"), states("M", shape=("N", "P"))
    Wq, Wk, Wv = matrix("Wq Wk Wv", "P", "P")
    E, Uf, b = matrix("E", "P", "D"), matrix("Uf", "P", "D"), vector("b")
    q, k, v = vectors("q k v", shape=("N", "P"))
    S, e, A = vectors("S e A", shape=("N", "N"))
    u, f = vectors("u f", "P")
    shift = lstmgen.stop_gradient(expand(lstmgen.max_(S, 1), "N", "N", axis=0))
    equations = [
        Eq(u, E @ x),
        Eq(q, Wq @ M),
        Eq(k, Wk @ M),
        Eq(v, Wv @ (M + expand(u, M))),
        Eq(S, q @ k.T / sqrt(lstmgen.Size("P"))),
        Eq(e, exp(S - shift)),
        Eq(A, e / expand(sum_(e, 1), "N", "N", axis=0)),
        Eq(f, lstmgen.sigmoid(Uf @ x + b)),
        Eq(M.next, expand(f, M) * M + lstmgen.tanh(A @ v)),
    ]
    return lstmgen.Cell("slots", equations, M)


@unseen(_slots, {"D": 3, "N": 4, "P": 2}, {"D": 2, "N": 3, "P": 3}, {"D": 2, "N": 1, "P": 2})
def slots(p, x, s, g):
    """Attention among slots of a memory, after Santoro et al. 2018."""
    M = s["M"]
    q, k = M @ p["Wq"].T, M @ p["Wk"].T
    v = (M + times(p["E"], x)[:, None]) @ p["Wv"].T
    read = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    M = sigmoid(times(p["Uf"], x) + p["b"])[:, None] * M + tanh(read)
    return M, {"M": M}


def _sinkhorn():
    x, S = inputs("x"), states("S", shape=("N", "P"))
    L, rows, both = matrix("L rows both", "N", "N")
    W, b = matrix("W", shape=("N", "P", "D")), vector("b", shape=("N", "P"))
    equations = [
        Eq(rows, exp(L) / expand(sum_(exp(L), 1), "N", "N", axis=0)),
        Eq(both, rows / expand(sum_(rows, 0), "N", "N", axis=1)),
        Eq(S.next, lstmgen.tanh((both @ S.T).T + W @ x + b)),
    ]
    return lstmgen.Cell("sinkhorn", equations, S)


@unseen(_sinkhorn, {"D": 3, "N": 3, "P": 2}, {"D": 2, "N": 2, "P": 2})
def sinkhorn(p, x, s, g):
    """Slots are mixed by a matrix whose rows, then columns, are normalised."""
    mix = p["L"].softmax(1)
    mix = mix / mix.sum(0)
    S = tanh(mix @ s["S"] + times(p["W"], x) + p["b"])
    return S, {"S": S}


@unseen(
    """
    name: cross
    title: attention over what comes in, of which some is hidden
    inputs: x (D), mem (N, P), gate (N)
    masks: keep (N)
    sizes: q (P), sc (N), w (N), ctx (P), e (N), y (N, P)
    output: h, y

    q = W_q @ x + U_q @ h
    sc = mem @ q / sqrt(P) + log(sigmoid(gate))
    e = exp(sc - stop_gradient(max(sc))) * keep
    w = e / (sum(e) + 0.001)
    ctx = mem.T @ w
    z = sigmoid(W_z @ x)
    h.next = (1 - z) * h + z * tanh(A @ ctx + U @ h)
    y = outer(w, ctx) + mem
    """,
    {"D": 3, "H": 5, "N": 4, "P": 2},
    {"D": 2, "H": 2, "N": 1, "P": 3},
    keep=coin,
)
def cross(p, x, s, g):
    mem, h = x["mem"], s["h"]
    q = times(p["W_q"], x["x"]) + times(p["U_q"], h)
    score = (mem @ q[..., None])[..., 0] / mem.shape[-1] ** 0.5 + logsigmoid(x["gate"])
    e = torch.exp(score - score.amax(-1, True).detach()) * g["keep"]
    w = e / (e.sum(-1, True) + 0.001)
    read = (w[..., None] * mem).sum(1)
    h = torch.lerp(
        h, tanh(times(p["A"], read) + times(p["U"], h)), sigmoid(times(p["W_z"], x["x"]))
    )
    return {"h": h, "y": w[..., None] * read[:, None] + mem}, {"h": h}
