"""torchrecurrent: Martinuzzi, after its author's RecurrentLayers.jl (Julia).

Its cells have two biases, one beside each product, which are summed: the second, of which ours have
nothing, is left at 0, where it is no parameter (``recurrent_bias=False``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from . import held, stacked


@cache
def _layer(name: str, D: int, H: int, options: frozenset[tuple[str, Any]]) -> Any:
    import torch
    import torchrecurrent

    return getattr(torchrecurrent, name)(D, H, **dict(options)).to(torch.float64)


def _call(name: str, theirs: dict[str, Any], x: Any, state: Any, **options: Any) -> Any:
    """One step of a layer, with parameters by its names."""
    from torch.func import functional_call

    h = state[0] if isinstance(state, tuple) else state
    layer = _layer(name, x.shape[1], h.shape[1], frozenset(options.items()))
    assert theirs.keys() >= dict(layer.named_parameters()).keys()
    return functional_call(layer, theirs, (x, state))


def _single(
    cell: str, name: str, theirs: Callable[..., dict[str, Any]], **options: Any
) -> Callable[..., Any]:
    """A layer with one state, which is its output. An option may be a function of constants."""

    def run(p: Any, x: Any, s: Any, g: Any) -> Any:
        (state,) = s
        given = {n: v(g) if callable(v) else v for n, v in options.items()}
        h = _call(name, theirs(p), x, s[state], recurrent_bias=False, **given)
        return h, {state: h}

    run.__name__ = name
    return held(cell, "torchrecurrent", "D=3 H=5")(run)


def _double(
    cell: str, name: str, theirs: Callable[..., dict[str, Any]], states: str = "h c", **options: Any
) -> Callable[..., Any]:
    """A layer with two states, of which the first is its output."""

    def run(p: Any, x: Any, s: Any, g: Any) -> Any:
        given = {n: v(g) if callable(v) else v for n, v in options.items()}
        both = tuple(s[n] for n in states.split())
        after = _call(name, theirs(p), x, both, recurrent_bias=False, **given)
        return after[0], dict(zip(states.split(), after, strict=True))

    run.__name__ = name
    return held(cell, "torchrecurrent", "D=3 H=5")(run)


def _gates(W: str, U: str | None = None, b: str | None = None) -> Callable[..., dict[str, Any]]:
    """Matrices and biases of gates, in the library's orders."""

    def theirs(p: Any) -> dict[str, Any]:
        return {
            "weight_ih": stacked(p, "W", W),
            "weight_hh": stacked(p, "U", W if U is None else U),
            "bias_ih": stacked(p, "b", W if b is None else b),
        }

    return theirs


_single("mgu", "MGUCell", _gates("f n"))
_single("ugrnn", "UGRNNCell", _gates("c g"))
_single("star", "STARCell", _gates("z k", "k"))
_double("lstm_1997", "OriginalLSTMCell", _gates("i g o"))
_single("antisymmetric", "AntisymmetricRNNCell", _gates("h"),
        epsilon=lambda g: g["epsilon"], gamma=lambda g: g["gamma"])  # fmt: skip
_single(
    "indrnn",
    "IndRNNCell",
    lambda p: {"weight_ih": p["W"], "vector_u": p["u"], "bias_ih": p["b"]},
    nonlinearity="relu",
)
_double("ran", "RANCell", _gates("c i f", "i f", "i f"))


def _without_bias(p: Any, symbol: str, gates: str, of: str) -> Any:
    """Biases, 0 for gates that have none with us."""
    import torch

    zero = torch.zeros_like(p[f"{symbol}_{of}"])
    return torch.cat([p.get(f"{symbol}_{gate}", zero) for gate in gates.split()])


def _of_bistable(p: Any, recurrent: str) -> dict[str, Any]:
    return {
        "weight_ih": stacked(p, "W", "a c h"),
        "weight_hh": stacked(p, recurrent, "a c"),
        "bias_ih": _without_bias(p, "b", "a c h", of="a"),
    }


_single("brc", "BRCell", lambda p: _of_bistable(p, "w"))
_single("nbrc", "NBRCell", lambda p: _of_bistable(p, "U"))
_single(
    "cfn",
    "CFNCell",
    lambda p: {
        "weight_ih": stacked(p, "W", "theta eta h"),
        "weight_hh": stacked(p, "U", "theta eta"),
        "bias_ih": _without_bias(p, "b", "theta eta h", of="eta"),
    },
)
_single(
    "fast_grnn",
    "FastGRNNCell",
    lambda p: {
        "weight_ih": p["W"],
        "weight_hh": p["U"],
        "bias_ih": stacked(p, "b", "z h"),
        "zeta": p["zeta"],
        "nu": p["nu"],
    },
    nonlinearity="sigmoid",
)


def _of_ligru(p: Any) -> dict[str, Any]:
    """Its normalisation is left out by the library: by given statistics, it is a factor of W and a
    bias.
    """
    import torch

    scale = {k: p[f"gamma_{k}"] / torch.sqrt(p[f"v_{k}"] + 1e-5) for k in "zn"}
    return {
        "weight_ih": torch.cat([scale[k][:, None] * p[f"W_{k}"] for k in "zn"]),
        "weight_hh": stacked(p, "U", "z n"),
        "bias_ih": torch.cat([p[f"beta_{k}"] - scale[k] * p[f"mu_{k}"] for k in "zn"]),
    }


_single("ligru", "LiGRUCell", _of_ligru)


@held("janet", "torchrecurrent", "D=3 H=5")
def JANETCell(p, x, s, g):
    # Its two states are one and the same. It learns β, which the paper fixes.
    import torch

    theirs = {**_gates("f g")(p), "beta": torch.tensor(g["beta"], dtype=x.dtype)}
    h, c = _call("JANETCell", theirs, x, (s["h"], s["h"]), recurrent_bias=False)
    assert h is c
    return h, {"h": c}


_double(
    "cornn",
    "coRNNCell",
    lambda p: {
        "weight_ih": p["V"],
        "weight_hh": p["W_y"],
        "weight_ch": p["W_z"],
        "bias_ih": p["b"],
    },
    states="y z",
    cell_bias=False,
    dt=lambda g: g["dt"],
    gamma=lambda g: g["gamma"],
    epsilon=lambda g: g["epsilon"],
)


@held("lem", "torchrecurrent", "D=3 H=5")
def LEMCell(p, x, s, g):
    # Its y is made of the old z, where the paper (equation 3) and the authors' code have the new
    # one. Given the new z in the old one's place, it is the paper's: no gate reads z.
    theirs = {
        "weight_ih": stacked(p, "V", "2 1 z y"),
        "weight_hh": stacked(p, "W", "2 1 z"),
        "weight_ch": p["W_y"],
        "bias_ih": stacked(p, "b", "2 1 z y"),
    }
    options = {"recurrent_bias": False, "cell_bias": False, "dt": g["dt"]}
    _, z = _call("LEMCell", theirs, x, (s["y"], s["z"]), **options)
    y, _ = _call("LEMCell", theirs, x, (s["y"], z), **options)
    return y, {"y": y, "z": z}


@held("nas", "torchrecurrent", "D=3 H=5")
def NASCell(p, x, s, g):
    # Its fourth unit of the first layer is relu of a sum, where the authors' code has relu of the
    # product of W x and U h: this comes in as a bias, of rows of its own, and the sum is 0.
    import torch

    products = {f"{m}_{k}": p[f"{m}_{k}"] * (k != 3) for m in "WU" for k in range(8)}
    bias = torch.zeros(len(x), 8, s["h"].shape[1], dtype=x.dtype)
    bias[:, 3] = (x @ p["W_3"].mT) * (s["h"] @ p["U_3"].mT)
    theirs = {
        "weight_ih": stacked(products, "W", "0 1 2 3 4 5 6 7"),
        "weight_hh": stacked(products, "U", "0 1 2 3 4 5 6 7"),
        "bias_ih": bias.flatten(1),
    }
    h, c = _call("NASCell", theirs, x, (s["h"], s["c"]), recurrent_bias=False)
    return h, {"h": h, "c": c}


_double(
    "mlstm_multiplicative",
    "MultiplicativeLSTMCell",
    lambda p: {
        "weight_ih": stacked(p, "W", "m i f g o"),
        "weight_hh": p["U_m"],
        "weight_mh": stacked(p, "U", "i f g o"),
        "bias_ih": _without_bias(p, "b", "m i f g o", of="i"),
    },
    multiplicative_bias=False,
)


def _of_peepholes(p: Any, open_gate: str = "") -> dict[str, Any]:
    """What the library has of an LSTM with peepholes. A gate that the cell lacks is open: its
    pre-activation is 50, where σ rounds to 1.
    """
    import torch

    p = dict(p)
    if open_gate:
        p |= {f"{m}_{open_gate}": torch.zeros_like(p[f"{m}_g"]) for m in "WU"}
        p |= {f"p_{open_gate}": torch.zeros_like(p["b_g"])}
        p |= {f"b_{open_gate}": torch.full_like(p["b_g"], 50.0)}
    theirs = _gates("i f g o")(p)
    return {**theirs, "weight_ph": stacked(p, "p", "i f o")}


_double("lstm_peephole", "PeepholeLSTMCell", _of_peepholes)
_double("lstm_nig", "PeepholeLSTMCell", lambda p: _of_peepholes(p, "i"))
_double("lstm_nfg", "PeepholeLSTMCell", lambda p: _of_peepholes(p, "f"))
_double("lstm_nog", "PeepholeLSTMCell", lambda p: _of_peepholes(p, "o"))
