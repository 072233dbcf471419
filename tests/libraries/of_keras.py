"""Layers of Keras, on PyTorch: its own code, in place of PyTorch's layers, which it would call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from . import held, stacked


@contextmanager
def float64() -> Iterator[None]:
    """Keras has products of float64 in float32, "to be aligned with JAX's default behavior": not so
    here, where a difference is to be told from rounding.
    """
    from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE

    with mock.patch.dict(BIT64_TO_BIT32_DTYPE, float64="float64"):
        yield


@cache
def _layer(name: str, H: int, **options: Any) -> Any:
    import keras

    if name != "SimpleRNN":  # which has no other code than its own
        options["use_cudnn"] = False
    return getattr(keras.layers, name)(
        H, dtype="float64", return_sequences=True, return_state=True, **options
    )


def _call(name: str, theirs: list[Any], x: Any, states: list[Any], **options: Any) -> Any:
    """A layer of Keras, over the batch first, with its kernel, recurrent kernel and bias."""
    x = x.swapaxes(0, 1)
    layer = _layer(name, states[0].shape[-1], **options)
    if not layer.built:
        layer.build(tuple(x.shape))
    assert [tuple(v.shape) for v in layer.trainable_variables] == [tuple(a.shape) for a in theirs]
    fixed = [v.value for v in layer.non_trainable_variables]
    with float64():
        (y, *after), _ = layer.stateless_call(theirs, fixed, x, initial_state=states)
    return y.swapaxes(0, 1), after


def _kernels(p: Any, gates: str) -> list[Any]:
    return [stacked(p, "W", gates).mT, stacked(p, "U", gates).mT, stacked(p, "b", gates)]


@held("lstm", "keras", "D=3 H=5", whole=True)
def LSTM(p, x, s, g):
    y, (h, c) = _call("LSTM", _kernels(p, "i f g o"), x["x"], [s["h"], s["c"]])
    return {"h": y}, {"h": h, "c": c}


@held("gru", "keras", "D=3 H=5", whole=True)
def GRU_that_resets_after(p, x, s, g):
    import torch

    W, U, b = _kernels(p, "z r n")
    zero = torch.zeros_like(p["b_m"])
    both = torch.stack([b, torch.cat([zero, zero, p["b_m"]])])
    y, (h,) = _call("GRU", [W, U, both], x["x"], [s["h"]], reset_after=True)
    return {"h": y}, {"h": h}


@held("gru_reset_before", "keras", "D=3 H=5", whole=True)
def GRU_that_resets_before(p, x, s, g):
    y, (h,) = _call("GRU", _kernels(p, "z r n"), x["x"], [s["h"]], reset_after=False)
    return {"h": y}, {"h": h}


@held("rnn", "keras", "D=3 H=5", whole=True)
def SimpleRNN(p, x, s, g):
    y, (h,) = _call("SimpleRNN", _kernels(p, "h"), x["x"], [s["h"]])
    return {"h": y}, {"h": h}
