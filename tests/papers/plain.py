"""Recurrent networks without gates."""

import torch

from . import transcribed


@transcribed(D=3, H=5)
def indrnn(p, x, s, g):
    h = torch.clamp(s["h"] * p["u"] + torch.addmm(p["b"], x, p["W"].mT), min=0)
    return h, {"h": h}


@transcribed(D=3, H=5)
def irnn(p, x, s, g):
    both = torch.cat([p["W"], p["U"]], dim=1)
    h = torch.clamp(torch.cat([x, s["h"]], dim=1) @ both.mT + p["b"], min=0)
    return h, {"h": h}


@transcribed(D=3, H=5)
def antisymmetric(p, x, s, g):
    W, h = p["U_h"], s["h"]
    turning = W - W.mT - g["gamma"] * torch.eye(len(W), dtype=W.dtype)
    h = h + g["epsilon"] * torch.tanh(torch.addmm(p["b_h"] + h @ turning.mT, x, p["W_h"].mT))
    return h, {"h": h}


@transcribed(D=3, H=5, S=4)
def scrn(p, x, s, g):
    slow = torch.lerp(x @ p["W_s"].mT, s["s"], g["alpha"])
    joint = torch.cat([p["P"], p["W_h"], p["U_h"]], dim=1)
    h = torch.sigmoid(torch.cat([slow, x, s["h"]], dim=1) @ joint.mT)
    return torch.cat([h, slow], dim=1), {"h": h, "s": slow}


@transcribed(D=3, H=5, K=4)
def lmu(p, x, s, g):
    h, m = s["h"], s["m"]
    encoders = torch.cat([p["e_x"], p["e_h"], p["e_m"]], dim=1)
    kernels = torch.cat([p["W_x"], p["W_h"], p["W_m"]], dim=1)
    u = torch.cat([x, h, m], dim=1) @ encoders.mT  # (B, 1)
    m = m @ p["A_bar"].mT + u * p["B_bar"]
    h = torch.tanh(torch.cat([x, h, m], dim=1) @ kernels.mT)
    return h, {"h": h, "m": m}
