"""Cells that interpolate between their state and a candidate."""

import torch
from torch import sigmoid, tanh
from torch.nn.functional import batch_norm, linear

from . import transcribed


@transcribed(D=3, H=5)
def brc(p, x, s, g):
    h = s["h"]
    za, zc, z = linear(x, torch.cat([p["W_a"], p["W_c"], p["W_h"]])).chunk(3, 1)
    a = 1 + tanh(za + p["w_a"] * h + p["b_a"])
    c = sigmoid(zc + p["w_c"] * h + p["b_c"])
    h = torch.lerp(tanh(z + a * h), h, c)
    return h, {"h": h}


@transcribed(D=3, H=5)
def nbrc(p, x, s, g):
    h = s["h"]
    za, zc, z = linear(x, torch.cat([p["W_a"], p["W_c"], p["W_h"]])).chunk(3, 1)
    a = 1 + tanh(za + linear(h, p["U_a"], p["b_a"]))
    c = sigmoid(zc + linear(h, p["U_c"], p["b_c"]))
    h = torch.lerp(tanh(z + a * h), h, c)
    return h, {"h": h}


@transcribed(D=3, H=5)
def ligru(p, x, s, g):
    def normalised(k):
        statistics = p[f"mu_{k}"].detach(), p[f"v_{k}"].detach()
        learned = p[f"gamma_{k}"], p[f"beta_{k}"]
        return batch_norm(linear(x, p[f"W_{k}"]), *statistics, *learned, eps=1e-5)

    z = sigmoid(normalised("z") + linear(s["h"], p["U_z"]))
    n = torch.relu(normalised("n") + linear(s["h"], p["U_n"]))
    h = torch.lerp(n, s["h"], z)
    return h, {"h": h}


@transcribed(D=3, H=5)
def gru_d(p, x, s, g):
    x, gap, m = x["x"], x["delta"], g["m"]
    decay_x = torch.exp(-torch.clamp(gap @ torch.diag(p["w_gamma_x"]) + p["b_gamma_x"], min=0))
    decay_h = torch.exp(-torch.clamp(linear(gap, p["W_gamma_h"], p["b_gamma_h"]), min=0))
    last = torch.where(m == 1, x, s["x_last"])
    x = torch.where(m == 1, x, decay_x * last + (1 - decay_x) * p["x_mean"])
    h = decay_h * s["h"]

    def net(k, h):
        joint = torch.cat([p[f"W_{k}"], p[f"U_{k}"], p[f"V_{k}"]], 1)
        return linear(torch.cat([x, h, m], 1), joint, p[f"b_{k}"])

    z, r = sigmoid(net("z", h)), sigmoid(net("r", h))
    h = torch.lerp(h, tanh(net("n", r * h)), z)
    return h, {"h": h, "x_last": last}
