"""Cells with a matrix for a state."""

import torch
from torch import einsum, sigmoid
from torch.nn.functional import group_norm, rms_norm, silu

from . import transcribed


def heads(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(B, N, P) of matrices of heads, (N, P, D), and (B, D)."""
    return (x @ matrix.flatten(0, 1).mT).unflatten(-1, matrix.shape[:2])


@transcribed(D=3, K=4, N=2, P=5, R=6)
def gla(p, x, s, g):
    q, k = heads(p["W_q"], x), heads(p["W_k"], x)
    v, r = heads(p["V_v"], x), heads(p["V_r"], x) + p["b_r"]
    low = x @ p["A"].mT
    alpha = sigmoid(heads(p["U_alpha"], low) + p["b_alpha"]) ** (1 / 16)
    # the paper's state has keys for rows: S = diag(α) S + k vᵀ, o = Sᵀ q
    S = alpha[..., None] * s["S"].mT + k[..., :, None] * v[..., None, :]
    o = (q[..., None, :] @ S).squeeze(-2) / k.shape[-1] ** 0.5
    h = rms_norm(o, o.shape[-1:], p["gain"], eps=1e-5) * silu(r)
    return h, {"S": S.mT}


@transcribed(D=3, K=4, N=2, P=5, R=6)
def rwkv7(p, x, s, g):
    before, S = s["x_before"], s["S"]
    xr, xw, xk, xv, xa, xg = (torch.lerp(x, before, p[f"mu_{n}"]) for n in "rwkvag")
    r, k, v = heads(p["W_r"], xr), heads(p["W_k"], xk), heads(p["V_v"], xv)
    decay = p["w_0"] + heads(p["B_w"], torch.tanh(xw @ p["A_w"].mT))
    w = torch.exp(-sigmoid(decay) / torch.e**0.5)
    a = sigmoid(p["a_0"] + heads(p["B_a"], xa @ p["A_a"].mT))
    gate = heads(p["B_g"], sigmoid(xg @ p["A_g"].mT))
    removed = k * p["xi"]
    removed = removed / torch.sqrt((removed**2).sum(-1, keepdim=True) + 1e-6)
    k = k * torch.lerp(torch.ones_like(a), a, p["alpha"])
    transition = torch.diag_embed(w) - removed[..., :, None] * (a * removed)[..., None, :]
    S = S @ transition + v[..., :, None] * k[..., None, :]
    y = (S @ r[..., None]).squeeze(-1)
    n = y.shape[1]
    y = group_norm(y.flatten(1), n, p["gain"].flatten(), p["bias"].flatten(), eps=64e-5)
    bonus = (r * k * p["rho"]).sum(-1, keepdim=True) * v
    return (y.unflatten(-1, bonus.shape[1:]) + bonus) * gate, {"S": S, "x_before": x}


@transcribed(D=3, K=4, N=2)
def ttt_linear(p, x, s, g):
    """The inner gradient is PyTorch's own, of the loss as the paper writes it."""
    q, k, v = (heads(p[f"W_{n}"], x) for n in "qkv")
    eta = sigmoid(x @ p["w_eta"].mT + p["offset"]) / k.shape[-1]

    def model(W, b, u):
        z = einsum("bnij,bnj->bni", W, u) + b
        hat = (z - z.mean(-1, keepdim=True)) * (z.var(-1, False, keepdim=True) + 1e-6).rsqrt()
        return u + p["gain"] * hat + p["bias"]

    W, b = p["S_0"] + s["S"], p["b_0"] + s["b"]
    loss = ((model(W, b, k) - v) ** 2).sum() / 2
    dW, db = torch.autograd.grad(loss, [W, b], create_graph=True)
    W, b = W - eta[..., None, None] * dW, b - eta[..., None] * db
    return model(W, b, q), {"S": W - p["S_0"], "b": b - p["b_0"]}
