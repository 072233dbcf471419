"""Cells of Flax (Linen) and Equinox, which JAX differentiates."""

from __future__ import annotations

from typing import Any

from . import held


def _flax(name: str, theirs: dict[str, Any], x: Any, carry: Any, **options: Any) -> Any:
    """One step of a cell of Flax, with its kernels and biases by its names."""
    import flax.linen

    cell = getattr(flax.linen, name)(options.pop("H"), **options)
    return cell.apply({"params": theirs}, carry, x)


def _dense(W: Any, b: Any = None) -> dict[str, Any]:
    return {"kernel": W.T} if b is None else {"kernel": W.T, "bias": b}


def _lstm_of_flax(name: str, p: Any, x: Any, s: Any) -> Any:
    theirs = {f"i{k}": _dense(p[f"W_{k}"]) for k in "ifgo"}
    theirs |= {f"h{k}": _dense(p[f"U_{k}"], p[f"b_{k}"]) for k in "ifgo"}
    (c, h), y = _flax(name, theirs, x, (s["c"], s["h"]), H=s["h"].shape[1])
    return y, {"h": h, "c": c}


@held("lstm", "flax", "D=3 H=5")
def LSTMCell(p, x, s, g):
    return _lstm_of_flax("LSTMCell", p, x, s)


@held("lstm", "flax", "D=3 H=5")
def OptimizedLSTMCell(p, x, s, g):
    return _lstm_of_flax("OptimizedLSTMCell", p, x, s)


@held("gru", "flax", "D=3 H=5")
def GRUCell(p, x, s, g):
    theirs = {f"i{k}": _dense(p[f"W_{k}"], p[f"b_{k}"]) for k in "rzn"}
    theirs |= {"hr": _dense(p["U_r"]), "hz": _dense(p["U_z"]), "hn": _dense(p["U_n"], p["b_m"])}
    h, y = _flax("GRUCell", theirs, x, s["h"], H=s["h"].shape[1])
    return y, {"h": h}


@held("ugrnn", "flax", "D=3 H=5")
def MGUCell_without_a_reset(p, x, s, g):
    # Flax's minimal gated unit is not that of its paper: it resets after the product, and its f
    # keeps the state, which the paper's overwrites. Without the reset, it is the update gate RNN.
    theirs = {"if": _dense(p["W_g"], p["b_g"]), "hf": _dense(p["U_g"])}
    theirs |= {"in": _dense(p["W_c"], p["b_c"]), "hn": _dense(p["U_c"])}
    h, y = _flax("MGUCell", theirs, x, s["h"], H=s["h"].shape[1], reset_gate=False)
    return y, {"h": h}


@held("rnn", "flax", "D=3 H=5")
def SimpleCell(p, x, s, g):
    theirs = {"i": _dense(p["W_h"], p["b_h"]), "h": _dense(p["U_h"])}
    h, y = _flax("SimpleCell", theirs, x, s["h"], H=s["h"].shape[1])
    return y, {"h": h}


def _equinox(name: str, theirs: dict[str, Any], x: Any, state: Any, H: int) -> Any:
    """One step of a cell of Equinox, which has no batch: it is mapped over rows."""
    import equinox
    import jax

    cell = getattr(equinox.nn, name)(x.shape[1], H, key=jax.random.key(0))
    replaced = equinox.tree_at(
        lambda c: [getattr(c, n) for n in theirs], cell, list(theirs.values())
    )
    return jax.vmap(replaced)(x, state)


def _concatenated(p: Any, gates: str) -> dict[str, Any]:
    import jax.numpy as jnp

    names = {"weight_ih": "W", "weight_hh": "U", "bias": "b"}
    return {
        n: jnp.concatenate([p[f"{symbol}_{gate}"] for gate in gates]) for n, symbol in names.items()
    }


@held("lstm", "equinox", "D=3 H=5")
def LSTMCell_of_equinox(p, x, s, g):
    theirs = _concatenated(p, "ifgo")
    h, c = _equinox("LSTMCell", theirs, x, (s["h"], s["c"]), s["h"].shape[1])
    return h, {"h": h, "c": c}


@held("gru", "equinox", "D=3 H=5")
def GRUCell_of_equinox(p, x, s, g):
    theirs = {**_concatenated(p, "rzn"), "bias_n": p["b_m"]}
    h = _equinox("GRUCell", theirs, x, s["h"], s["h"].shape[1])
    return h, {"h": h}
