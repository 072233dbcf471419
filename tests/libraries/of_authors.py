"""What authors of cells have published as a package, xlstm, ncps and flash-linear-attention; and
mambapy, which is not of the authors of Mamba, whose own package wants a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from . import held, stacked

# ---------------------------------------------------------------------------- xlstm: Beck et al.


@cache
def _slstm(heads: int, units: int) -> Any:
    from xlstm.blocks.slstm.cell import sLSTMCell_vanilla, sLSTMCellConfig

    shapes = {"input_shape": "SBGNH", "output_shape": "SBNH"}
    config = sLSTMCellConfig(
        hidden_size=heads * units, num_heads=heads, backend="vanilla", dtype="float32", **shapes
    )
    return sLSTMCell_vanilla(config)


@held("slstm", "xlstm", "D=3 N=2 P=4", whole=True)
def sLSTMCell(p, x, s, g):
    # The products with x are made before the cell there, as in its layer.
    import torch
    from torch.func import functional_call

    B, N, P = s["h"].shape
    gates = [torch.einsum("tbd,npd->tbnp", x["x"], p[f"W_{k}"]) for k in "ifzo"]
    theirs = {
        "_recurrent_kernel_": stacked(p, "R", "i f z o", axis=1),
        "_bias_": torch.stack([p[f"b_{k}"] for k in "ifzo"]).flatten(),
    }
    state = torch.stack([s[n].reshape(B, N * P) for n in "hcnm"])
    gates = torch.stack(gates, 2).flatten(2)
    y, after = functional_call(_slstm(N, P), theirs, (gates, state))
    return {"h": y}, {n: a.reshape(B, N, P) for n, a in zip("hcnm", after, strict=True)}


@held("mlstm", "xlstm", "D=3 N=2 K=4 P=5")
def recurrent_step_stabilized_simple(p, x, s, g):
    # The step of the memory, which is what the library has of a recurrence; its epsilon, beside
    # the normaliser, is 0 in the paper. What makes q, k, v and the gates, and the output gate, are
    # around it.
    import torch
    from xlstm.blocks.mlstm.backends import recurrent_step_stabilized_simple

    def heads(W: str, b: str) -> Any:
        return torch.einsum("bd,n...d->bn...", x, p[W]) + p[b]

    q, k, v = (heads(*n)[:, :, None] for n in (("W_q", "b_q"), ("W_k", "b_k"), ("V_v", "c_v")))
    i, f = (heads(f"w_{n}", f"s_{n}")[..., None, None] for n in "if")
    old = s["C"].mT, s["n"][..., None], s["m"][..., None, None]
    h, (C, n, m) = recurrent_step_stabilized_simple(*old, q, k, v, i, f, eps=0.0)
    h = torch.sigmoid(heads("V_o", "c_o")) * h[:, :, 0]
    return h, {"C": C.mT, "n": n[..., 0], "m": m[..., 0, 0]}


# --------------------------------------------------------------------------- ncps: Hasani et al.


@cache
def _cfc(D: int, H: int, P: int) -> Any:
    from ncps.torch import CfCCell

    options = {"backbone_units": P, "backbone_layers": 1, "backbone_dropout": 0.0}
    return CfCCell(D, H, mode="default", backbone_activation="lecun_tanh", **options).double()


@held("cfc", "ncps", "D=3 H=5 P=4")
def CfCCell(p, x, s, g):
    import torch
    from torch.func import functional_call

    names = {"ff1": "g", "ff2": "k", "time_a": "a", "time_b": "c"}
    theirs = {f"{n}.weight": p[f"V_{k}"] for n, k in names.items()}
    theirs |= {f"{n}.bias": p[f"b_{k}"] for n, k in names.items()}
    theirs["backbone.0.weight"] = torch.cat([p["W_u"], p["U_u"]], 1)
    theirs["backbone.0.bias"] = p["b_u"]
    layer = _cfc(x["x"].shape[1], s["h"].shape[1], len(p["b_u"]))
    assert theirs.keys() == dict(layer.named_parameters()).keys()
    h, _ = functional_call(layer, theirs, (x["x"], s["h"], x["dt"]))
    return h, {"h": h}


# The library's network has a σ of each synapse, where the paper leaves the function open, and ours
# has a σ of the sum of all. Where each unit has one synapse, both are the same: here, unit 0 has
# one from input 2, unit 1 from input 0, and the others from units.
_FROM_INPUTS = np.zeros((5, 3))
_FROM_INPUTS[[0, 1], [2, 0]] = 1.0
_FROM_UNITS = np.zeros((5, 5))
_FROM_UNITS[[2, 3, 4], [0, 1, 4]] = 1.0


@cache
def _ltc(D: int, H: int) -> Any:
    from ncps.torch import LTCCell
    from ncps.wirings import FullyConnected

    wiring = FullyConnected(H)
    wiring.build(D)
    maps = {"input_mapping": None, "output_mapping": None}
    return LTCCell(wiring, D, ode_unfolds=6, epsilon=0.0, **maps).double()


@held("ltc", "ncps", "D=3 H=5", only={"W_f": _FROM_INPUTS, "U_f": _FROM_UNITS})
def LTCCell(p, x, s, g):
    # Of an edge: σ(sigma (v - mu)), times a conductance w, which is 1. Capacities are 1, and leaks
    # go to a potential of 0.
    import torch

    one, zero = torch.ones_like(p["A"]), torch.zeros_like(p["A"])
    theirs = {"gleak": p["w_tau"], "vleak": zero, "cm": one}
    for prefix, W, mask in (("sensory_", "W_f", _FROM_INPUTS), ("", "U_f", _FROM_UNITS)):
        there = torch.tensor(mask.T)
        sigma = torch.where(there == 1, p[W].mT, 1.0)
        edges = {"sigma": sigma, "mu": -p["b_f"] / sigma, "w": torch.ones_like(sigma)}
        edges |= {"erev": p["A"].expand_as(sigma), "sparsity_mask": there}
        theirs |= {f"{prefix}{n}": a for n, a in edges.items()}
    layer = _ltc(x.shape[1], s["h"].shape[1])
    assert theirs.keys() == layer._params.keys()
    layer._params.update(theirs)  # where it reads them
    _, h = layer(x, s["h"], elapsed_time=g["dt"])
    return h, {"h": h}


# ------------------------------------------------------------------------------------ mambapy


@cache
def _mamba(D: int, N: int, R: int) -> Any:
    import torch
    from mambapy.mamba import MambaBlock, MambaConfig

    class Step(torch.nn.Module):
        """The selective state space alone, without what is around it in a block."""

        def __init__(self) -> None:
            super().__init__()
            config = MambaConfig(d_model=D, n_layers=1, dt_rank=R, d_state=N, expand_factor=1)
            self.block = MambaBlock(config)

        def forward(self, x: Any, h: Any) -> Any:
            return self.block.ssm_step(x, h)

    return Step().double()


# It rounds A_log and d to float32: gradients have an error of its precision, too.
@held("mamba_like", "mambapy", "D=5 N=4 R=2", tolerance=1e-5)
def ssm_step(p, x, s, g):
    from torch.func import functional_call

    D, N = s["h"].shape[1:]
    theirs = {
        "block.x_proj.weight": stacked(p, "W", "dt B C"),
        "block.dt_proj.weight": p["V_dt"],
        "block.dt_proj.bias": p["b_dt"],
        "block.A_log": p["A_log"],
        "block.D": p["d"],
    }
    y, h = functional_call(_mamba(D, N, len(p["W_dt"])), theirs, (x, s["h"]))
    return y, {"h": h}


# ------------------------------------------------- flash-linear-attention: Yang et al., and others


@cache
def _naive(operation: str) -> Any:
    """A module of reference code, without its package, which wants a compiler for GPUs."""
    from importlib import util
    from pathlib import Path

    (package,) = util.find_spec("fla").submodule_search_locations
    path = Path(package) / "ops" / operation / "naive.py"
    spec = util.spec_from_file_location(f"naive_{operation}", path)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _heads(x: Any, W: Any) -> Any:
    """(T, B, D) by (N, K, D): (B, T, N, K)."""
    import torch

    return torch.einsum("tbd,nkd->btnk", x, W)


# This code computes in float32, whatever it is given. It has the recurrence alone: what makes its
# keys, queries and gates, and what comes after, are around it.
@held("gla", "fla", "D=3 K=4 N=2 P=5 R=6", whole=True, tolerance=1e-5)
def naive_recurrent_gla(p, x, s, g):
    from torch.nn.functional import linear, logsigmoid, rms_norm, silu

    x = x["x"]
    q, k, v, r = (_heads(x, p[n]) for n in ("W_q", "W_k", "V_v", "V_r"))
    decay = logsigmoid(_heads(linear(x, p["A"]), p["U_alpha"]) + p["b_alpha"]) / 16
    run = _naive("gla").naive_recurrent_gla
    o, S = run(q, k, v, decay, initial_state=s["S"].mT, output_final_state=True)
    o = rms_norm(o, o.shape[-1:], p["gain"], eps=1e-5) * silu(r + p["b_r"])
    return {"h": o.swapaxes(0, 1)}, {"S": S.mT}


@held("delta_net", "fla", "D=3 K=4 N=2 P=5", whole=True, tolerance=1e-5)
def delta_rule_recurrence(p, x, s, g):
    # It divides queries by the root of K, which the paper does not.
    import torch
    from torch.nn.functional import silu

    x = x["x"]
    q, k = (silu(_heads(x, p[n])) for n in ("W_q", "W_k"))
    q, k = (a * torch.rsqrt((a * a).sum(-1, keepdim=True) + 1e-6) for a in (q, k))
    q, k, v = (a.swapaxes(1, 2) for a in (q * q.shape[-1] ** 0.5, k, _heads(x, p["V_v"])))
    beta = torch.sigmoid(torch.einsum("tbd,nd->bnt", x, p["w_b"]))
    o, S = _naive("delta_rule").delta_rule_recurrence(q, k, v, beta, s["S"].mT)
    return {"h": o.permute(2, 0, 1, 3)}, {"S": S.mT}


@held("rwkv7", "fla", "D=3 K=4 N=2 P=5 R=6", whole=True, tolerance=1e-5)
def dplr_recurrence(p, x, s, g):
    # Its transition is any diagonal matrix and one of rank 1; queries are divided by the root of K.
    import torch
    from torch.nn.functional import group_norm, linear

    x = x["x"]
    before = torch.cat([s["x_before"][None], x[:-1]])
    xs = {n: torch.lerp(x, before, p[f"mu_{n}"]) for n in "rwkvag"}
    r, k, v = (_heads(xs[n], p[W]) for n, W in (("r", "W_r"), ("k", "W_k"), ("v", "V_v")))
    low = {n: linear(xs[n], p[f"A_{n}"]) for n in "wag"}
    decay = torch.sigmoid(p["w_0"] + _heads(torch.tanh(low["w"]), p["B_w"]))
    a = torch.sigmoid(p["a_0"] + _heads(low["a"], p["B_a"]))
    u = p["xi"] * k
    u = u * torch.rsqrt((u * u).sum(-1, keepdim=True) + 1e-6)
    k = k * (1 + p["alpha"] * (a - 1))
    root = k.shape[-1] ** 0.5
    given = (r * root, k, v, -u, a * u, -decay * np.exp(-0.5))
    given = (a.swapaxes(1, 2).float() for a in given)
    o, S = _naive("generalized_delta_rule/dplr").dplr_recurrence(*given, s["S"].mT)
    y = o.swapaxes(1, 2).flatten(0, 1).flatten(1).to(x.dtype)
    y = group_norm(y, v.shape[2], p["gain"].flatten(), p["bias"].flatten(), eps=64e-5).view_as(v)
    y = y + (r * k * p["rho"]).sum(-1, keepdim=True) * v
    y = y * _heads(torch.sigmoid(low["g"]), p["B_g"])
    return {"h": y.swapaxes(0, 1)}, {"S": S.mT, "x_before": x[-1]}
