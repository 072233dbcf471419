"""States that are vectors."""

import torch
from sympy import Eq, Max, Min, Piecewise, Rational
from torch import sigmoid, tanh
from torch.nn.functional import leaky_relu, relu, softplus

import lstmgen
from lstmgen import biases, inputs, matrix, mean, states, sum_, vector, vectors, weights

from . import coin, times, unseen


@unseen(
    """
    name: tied
    title: autoencoder whose matrices are used both ways, with zoneout and dropout
    masks: keep (H), drop (1)
    sizes: y (D)
    output: y

    z = sigmoid(W @ x + U @ h)
    n = tanh(W @ (x * drop) + U.T @ h + b)
    h.next = keep * h + (1 - keep) * ((1 - z) * h + z * n)
    y = W.T @ h.next + c
    """,
    {"D": 3, "H": 5},
    {"D": 1, "H": 1},
    keep=coin,
    drop=coin,
)
def tied(p, x, s, g):
    W, U, h = p["W"], p["U"], s["h"]
    z = sigmoid(x @ W.T + h @ U.T)
    n = tanh((x * g["drop"]) @ W.T + h @ U + p["b"])
    h = torch.where(g["keep"] > 0.5, h, torch.lerp(h, n, z))
    return h @ W + p["c"], {"h": h}


@unseen(
    """
    name: rotations
    title: two layers of rotations of pairs, and a modulus rectifier
    source: after Jing et al. 2017
    sizes: a (K + 1), b (K + 1), a1 (K + 1), b1 (K + 1), head (1), rest (K),
        z (2*K + 2), h (2*K + 2)
    output: h

    a, b = split(h, 2)
    a1 = cos(t) * a - sin(t) * b
    b1 = sin(t) * a + cos(t) * b
    head, rest = split(b1, 1, K)
    z = W @ x + concat(cos(s) * a1 - sin(s) * concat(rest, head),
        sin(s) * a1 + cos(s) * concat(rest, head))
    h.next = sign(z) * relu(abs(z) + bias)
    """,
    {"D": 3, "K": 3},
    {"D": 2, "K": 1},
)
def rotations(p, x, s, g):
    pairs = torch.complex(*s["h"].chunk(2, -1)) * torch.exp(1j * p["t"])
    pairs = torch.complex(pairs.real, torch.roll(pairs.imag, -1, -1)) * torch.exp(1j * p["s"])
    z = torch.cat([pairs.real, pairs.imag], -1) + times(p["W"], x)
    h = torch.sign(z) * relu(z.abs() + p["bias"])
    return h, {"h": h}


def _householder():
    x, h = inputs("x"), states("h")
    W, b, v = matrix("W"), vector("b"), biases("v", "H")
    u = [h, *vectors("u_0 u_1 u_2")]
    equations = [
        Eq(after, before - 2 * k * sum_(k * before) / sum_(k**2))
        for before, after, k in zip(u, u[1:], (v[0], v[1], v[2]), strict=False)
    ]
    activation = lstmgen.leaky_relu(W @ x + u[-1] + b, Rational(1, 10))
    return lstmgen.Cell("householder", [*equations, Eq(h.next, activation)], h)


@unseen(_householder, {"D": 3, "H": 5}, {"D": 3, "H": 2})
def householder(p, x, s, g):
    """An orthogonal matrix made of reflections (Mhammedi et al. 2017)."""
    u = s["h"]
    for v in (p["v_0"], p["v_1"], p["v_2"]):
        u = u @ (torch.eye(len(v)) - 2 * torch.outer(v, v) / (v @ v))
    h = leaky_relu(times(p["W"], x) + u + p["b"], 0.1)
    return h, {"h": h}


@unseen(
    """
    name: weight_norm
    source: after Salimans & Kingma 2016
    sizes: k (K)
    output: h

    N = g / sqrt(sum(V**2, axis=1))
    k = tanh(A @ h)
    h.next = tanh(W @ x + N * (V @ k) + b)
    """,
    {"D": 3, "H": 5, "K": 4},
    {"D": 3, "H": 4, "K": 4},
)
def weight_norm(p, x, s, g):
    V = p["g"][:, None] * p["V"] / p["V"].norm(dim=1, keepdim=True)
    h = tanh(times(p["W"], x) + times(V, tanh(times(p["A"], s["h"]))) + p["b"])
    return h, {"h": h}


@unseen(
    """
    name: low_rank
    title: a recurrent matrix that is made of four, used both ways
    sizes: Q (H, H)
    matrices: A (H, H), E (H, H), C (H, H), Z (H, H)
    output: h

    Q = A @ E + A.T @ C + 0.1 * (Z - Z.T) @ Z
    z = sigmoid(Q @ h + W @ x + b)
    h.next = z * h + (1 - z) * sin(Q.T @ (z * h) + 2 * (V @ x))
    """,
    {"D": 3, "H": 5},
)
def low_rank(p, x, s, g):
    A, Z, h = p["A"], p["Z"], s["h"]
    Q = A @ p["E"] + A.T @ p["C"] + 0.1 * (Z - Z.T) @ Z
    z = sigmoid(times(Q, h) + times(p["W"], x) + p["b"])
    h = z * h + (1 - z) * torch.sin((z * h) @ Q + 2 * times(p["V"], x))
    return h, {"h": h}


def _generated():
    x, h, z = inputs("x"), states("h"), states("z", "M")
    G, V, U, W = matrix("G", "H*H", "M"), *matrix("V U W")
    b, c, R = vector("b"), vector("c"), vectors("R", shape=("H", "H"))
    odd = lstmgen.named(R - R.T) / 2
    equations = [
        Eq(z.next, lstmgen.tanh(V @ x + U @ z + c)),
        Eq(R, lstmgen.chunk(G @ z.next, "H", "H")),
        Eq(h.next, lstmgen.tanh(W @ x + R @ h + odd @ h + b)),
    ]
    return lstmgen.Cell("generated", equations, (h, z))


@unseen(_generated, {"D": 3, "H": 4, "M": 2}, {"D": 1, "H": 1, "M": 2})
def generated(p, x, s, g):
    """A small network makes the recurrent matrix of a large one anew at each step."""
    h, z = s["h"], tanh(times(p["V"], x) + times(p["U"], s["z"]) + p["c"])
    R = times(p["G"], z).unflatten(-1, (h.shape[-1], h.shape[-1]))
    R = 1.5 * R - 0.5 * R.mT
    h = tanh(times(p["W"], x) + (R @ h[..., None])[..., 0] + p["b"])
    return {"h": h, "z": z}, {"h": h, "z": z}


@unseen(
    """
    name: circuit
    title: sparse wiring, with a sigmoid of its own for each synapse
    source: after Lechner et al. 2020
    sizes: mu (H, H), sig (H, H), w (H, H), E (H, H), M (H, H), act (H, H), gl (H)
    fixed: M, E
    constants: dt = 0.2
    output: h

    act = softplus(w) * M * sigmoid(sig * (expand(h, H, H, axis=1) - mu))
    num = sum(act * E, axis=1) + W @ x
    den = sum(act, axis=1)
    h.next = (h + dt * (softplus(gl) * v + num)) / (1 + dt * (softplus(gl) + den))
    """,
    {"D": 3, "H": 4},
    M=coin,
)
def circuit(p, x, s, g):
    h, leak = s["h"], softplus(p["gl"])
    act = softplus(p["w"]) * p["M"] * sigmoid(p["sig"] * (h[:, None, :] - p["mu"]))
    into = (act * p["E"]).sum(-1) + times(p["W"], x)
    h = (h + 0.2 * (leak * p["v"] + into)) / (1 + 0.2 * (leak + act.sum(-1)))
    return h, {"h": h}


def _boundary():
    x, (h, c), z = inputs("x"), states("h c"), states("z", 1)
    W, U, b, u = weights("W", "H"), weights("U"), biases("b"), vector("u")
    i, f, o, n = vectors("i f o n")
    soft, hard = vectors("soft hard", 1)
    pre = {k: W[k] @ x + U[k] @ h + b[k] for k in "ifon"}
    slope = lstmgen.constants("slope", 1.5)
    jump = Piecewise((1, soft > Rational(1, 2)), (0, True))
    equations = [
        Eq(i, lstmgen.sigmoid(pre["i"])),
        Eq(f, lstmgen.sigmoid(pre["f"])),
        Eq(o, lstmgen.sigmoid(pre["o"])),
        Eq(n, lstmgen.tanh(pre["n"])),
        Eq(soft, Max(0, Min(1, (slope * (sum_(u * h) + mean(W.z @ x)) + 1) / 2))),
        Eq(hard, soft + lstmgen.stop_gradient(jump - soft)),
        Eq(z.next, hard),
        Eq(c.next, (1 - z) * f * c + i * n),
        Eq(h.next, hard * o * lstmgen.tanh(c.next) + (1 - hard) * h),
    ]
    return lstmgen.Cell("boundary", equations, (h, z))


@unseen(_boundary, {"D": 3, "H": 5})
def boundary(p, x, s, g):
    """A hard boundary with the slope of a soft one, after Chung et al. 2017."""
    h, c, z = s["h"], s["c"], s["z"]
    i, f, o, n = (times(p[f"W_{k}"], x) + times(p[f"U_{k}"], h) + p[f"b_{k}"] for k in "ifon")
    seen = (p["u"] * h).sum(-1, True) + times(p["W_z"], x).mean(-1, True)
    soft = torch.clamp((1.5 * seen + 1) / 2, 0, 1)
    hard = soft + ((soft > 0.5).double() - soft).detach()
    c = (1 - z) * sigmoid(f) * c + sigmoid(i) * tanh(n)
    h = hard * sigmoid(o) * tanh(c) + (1 - hard) * h
    return {"h": h, "z": hard}, {"h": h, "c": c, "z": hard}


@unseen(
    """
    name: choices
    title: cases that depend on several conditions, and extremes
    a = W @ x + U @ h + b
    c = cumsum(softmax(V @ x + R @ h))
    u = where(a > h and c < 0.7, a * c, a < -h or c > 0.9, h - a, 0.5 * h)
    h.next = where(abs(u) > 1, sign(u), u) * (1 - c) + min(h, a, 0.3) * c
    """,
    {"D": 3, "H": 5},
)
def choices(p, x, s, g):
    h = s["h"]
    a = times(p["W"], x) + times(p["U"], h) + p["b"]
    c = (times(p["V"], x) + times(p["R"], h)).softmax(-1).cumsum(-1)
    u = torch.where((a < -h) | (c > 0.9), h - a, 0.5 * h)
    u = torch.where((a > h) & (c < 0.7), a * c, u)
    least = torch.minimum(h, a).clamp(max=0.3)
    h = torch.clamp(u, -1, 1) * (1 - c) + least * c
    return h, {"h": h}
