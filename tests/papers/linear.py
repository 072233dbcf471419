"""Recurrences without a product with the state."""

import torch
from torch import sigmoid
from torch.nn.functional import logsigmoid, softplus

from . import transcribed


def stacked(p, names: list[str], x: torch.Tensor, family: str = "W") -> tuple[torch.Tensor, ...]:
    """The products of x with several matrices, as one with all of them on top of each other."""
    matrix = torch.cat([p[f"{family}_{n}"] for n in names])
    return (x @ matrix.mT).chunk(len(names), dim=-1)


@transcribed(D=3, H=5)
def sru(p, x, s, g):
    c = s["c"]
    candidate, forget, reset, skip = stacked(p, ["c", "f", "r", "s"], x)
    f = sigmoid(forget + p["v_f"] * c + p["b_f"])
    r = sigmoid(reset + p["v_r"] * c + p["b_r"])  # of c[t-1], as in the authors' kernel
    c = candidate + f * (c - candidate)
    return skip + r * (c - skip), {"c": c}


@transcribed(D=3, H=5)
def qrnn(p, x, s, g):
    window = torch.stack([s["x_before"], x], dim=-1)  # (B, D, 2), a convolution of width 2
    z, f, o = (
        torch.nn.functional.conv1d(window, torch.stack([p[f"V_{n}"], p[f"W_{n}"]], -1), p[f"b_{n}"])
        .squeeze(-1)
        for n in "zfo"
    )  # fmt: skip
    f = sigmoid(f)
    c = f * s["c"] + (1 - f) * torch.tanh(z)
    return sigmoid(o) * c, {"c": c, "x_before": x}


@transcribed(D=3, H=5)
def min_gru(p, x, s, g):
    z, n = stacked(p, ["z", "n"], x)
    h = torch.lerp(s["h"], n + p["b_n"], sigmoid(z + p["b_z"]))
    return h, {"h": h}


@transcribed(D=3, H=5)
def min_lstm(p, x, s, g):
    f, i, n = stacked(p, ["f", "i", "n"], x)
    # σ(a) and σ(b), divided by their sum, are a softmax of their logarithms
    share = torch.stack([logsigmoid(f + p["b_f"]), logsigmoid(i + p["b_i"])]).softmax(0)
    h = share[0] * s["h"] + share[1] * (n + p["b_n"])
    return h, {"h": h}


@transcribed(D=3, H=5)
def lru(p, x, s, g):
    eigenvalue = torch.exp(torch.complex(-torch.exp(p["nu_log"]), torch.exp(p["theta_log"])))
    gamma = torch.sqrt(1 - eigenvalue.abs() ** 2)
    B, C = torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
    state = torch.complex(s["h_re"], s["h_im"])
    state = eigenvalue * state + gamma * (x.to(B.dtype) @ B.mT)
    y = (state @ C.mT).real + p["d"] * x
    return y, {"h_re": state.real, "h_im": state.imag}


@transcribed(H=5)
def rg_lru(p, x, s, g):
    r, i = (sigmoid(x @ p[f"W_{n}"].mT + p[f"b_{n}"]) for n in "ax")
    a = sigmoid(p["Lambda"]) ** (8 * r)
    h = a * s["h"] + torch.sqrt(1 - a**2) * (i * x)
    return h, {"h": h}


@transcribed(D=5, N=3, R=2)
def mamba_like(p, x, s, g):
    delta = softplus(x @ p["W_dt"].mT @ p["V_dt"].mT + p["b_dt"])
    A, (B, C) = -torch.exp(p["A_log"]), stacked(p, ["B", "C"], x)
    decay = torch.exp(torch.einsum("bd,dn->bdn", delta, A))
    h = decay * s["h"] + torch.einsum("bd,bn,bd->bdn", delta, B, x)
    return torch.einsum("bdn,bn->bd", h, C) + p["d"] * x, {"h": h}
