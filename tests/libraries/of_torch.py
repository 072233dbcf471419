"""Layers of PyTorch."""

from __future__ import annotations

from typing import Any

from . import held, stacked


def _torch(name: str, p: dict[str, Any], x: Any, state: Any, **options: Any) -> Any:
    """A layer of ``torch.nn``, with parameters by its names."""
    import torch
    from torch.func import functional_call

    h = state[0] if isinstance(state, tuple) else state
    layer = getattr(torch.nn, name)(x.shape[-1], options.pop("H", h.shape[-1]), **options)
    assert p.keys() == dict(layer.named_parameters()).keys()
    state = tuple(a[None] for a in state) if isinstance(state, tuple) else state[None]
    y, after = functional_call(layer.to(x.dtype), p, (x, state))
    return y, tuple(a[0] for a in after) if isinstance(after, tuple) else after[0]


def _two_biases(p: Any, gates: str) -> dict[str, Any]:
    """Both are added: ours has one, and the other is 0."""
    import torch

    bias = stacked(p, "b", gates)
    return {
        "weight_ih_l0": stacked(p, "W", gates),
        "weight_hh_l0": stacked(p, "U", gates),
        "bias_ih_l0": bias,
        "bias_hh_l0": torch.zeros_like(bias),
    }


@held("lstm", "torch", "D=3 H=5", whole=True)
def LSTM(p, x, s, g):
    y, (h, c) = _torch("LSTM", _two_biases(p, "i f g o"), x["x"], (s["h"], s["c"]))
    return {"h": y}, {"h": h, "c": c}


@held("lstmp", "torch", "D=3 H=5 P=4", whole=True)
def LSTM_with_a_projection(p, x, s, g):
    theirs = {**_two_biases(p, "i f g o"), "weight_hr_l0": p["W_h"]}
    sizes = {"H": s["c"].shape[-1], "proj_size": s["h"].shape[-1]}
    y, (h, c) = _torch("LSTM", theirs, x["x"], (s["h"], s["c"]), **sizes)
    return {"h": y}, {"h": h, "c": c}


@held("cifg", "torch", "D=3 H=5", whole=True)
def LSTM_with_opposite_gates(p, x, s, g):
    # f = σ(-a) is 1 - i, where i = σ(a)
    p = p | {f"{m}_f": -p[f"{m}_i"] for m in "WUb"}
    return LSTM(p, x, s, g)


@held("gru", "torch", "D=3 H=5", whole=True)
def GRU(p, x, s, g):
    import torch

    theirs = _two_biases(p, "r z n")
    zero = torch.zeros_like(p["b_m"])
    theirs["bias_hh_l0"] = torch.cat([zero, zero, p["b_m"]])
    y, h = _torch("GRU", theirs, x["x"], s["h"])
    return {"h": y}, {"h": h}


@held("rnn", "torch", "D=3 H=5", whole=True)
def RNN(p, x, s, g):
    y, h = _torch("RNN", _two_biases(p, "h"), x["x"], s["h"])
    return {"h": y}, {"h": h}


@held("irnn", "torch", "D=3 H=5", whole=True)
def RNN_of_rectified_units(p, x, s, g):
    p = {"W_h": p["W"], "U_h": p["U"], "b_h": p["b"]}
    y, h = _torch("RNN", _two_biases(p, "h"), x["x"], s["h"], nonlinearity="relu")
    return {"h": y}, {"h": h}


@held("indrnn", "torch", "D=3 H=5", whole=True)
def RNN_with_a_diagonal_matrix(p, x, s, g):
    import torch

    p = {"W_h": p["W"], "U_h": torch.diag(p["u"]), "b_h": p["b"]}
    y, h = _torch("RNN", _two_biases(p, "h"), x["x"], s["h"], nonlinearity="relu")
    return {"h": y}, {"h": h}
