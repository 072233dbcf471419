"""Every activation against PyTorch's own: values and slopes, at 0, near it and far from it."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from conftest import need
from sympy import Eq

from lstmgen import (
    Cell,
    compile,
    elu,
    expm1,
    gelu,
    inputs,
    layer_norm,
    leaky_relu,
    log_sigmoid,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    states,
    tanh,
    vectors,
)

torch = pytest.importorskip("torch")
F = torch.nn.functional

# Values and slopes are exact to a few units in the last place, tails included
EXACT = {
    "elu": (elu, F.elu),
    "elu_3": (lambda a: elu(a, 3), lambda a: F.elu(a, 3.0)),
    "leaky": (leaky_relu, F.leaky_relu),
    "leaky_2": (lambda a: leaky_relu(a, 0.2), lambda a: F.leaky_relu(a, 0.2)),
    "relu": (relu, F.relu),
}
# Values are; slopes are differences from 1, and exact to units in its last place
TAILS = {
    "softplus": (softplus, lambda a: torch.logaddexp(a, torch.zeros_like(a))),
    "log_sigmoid": (log_sigmoid, F.logsigmoid),
    "sigmoid": (sigmoid, torch.sigmoid),
    "silu": (silu, F.silu),
}
# So are values
CLOSE = {
    "tanh": (tanh, torch.tanh),
    "gelu": (gelu, F.gelu),
    "softmax": (softmax, lambda a: F.softmax(a, -1)),
    "layer_norm": (layer_norm, lambda a: F.layer_norm(a, a.shape[-1:], eps=1e-5)),
    "expm1": (lambda a: expm1(tanh(a)), lambda a: torch.expm1(torch.tanh(a))),
}
ALL = EXACT | TAILS | CLOSE
POINTS = [0, 1e-30, 1e-9, 1e-4, 0.5, 3, 20, 100, 1e4]
POINTS = [*POINTS, *(-p for p in POINTS)]


def cell() -> Cell:
    """A state for each activation, of an input of its own."""
    held = [states(name, size="D") for name in ALL]
    given = [inputs(f"x_{name}") for name in ALL]
    lines = [Eq(s.next, f(u)) for s, u, (f, _) in zip(held, given, ALL.values(), strict=True)]
    y = vectors("y", size="D")
    return Cell("activations", [*lines, Eq(y, sum(s.next for s in held[1:]) + held[0].next)], y)


@cache
def module(target: str, dtype: str):
    if target == "c":
        need("cffi")
        need("cc")
    return compile(cell(), target, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["numpy", "c"])
def test_values_and_slopes_are_pytorchs(target, dtype):
    m = module(target, dtype)
    at = np.array(POINTS, dtype).reshape(1, 1, -1)
    slopes = np.random.default_rng(0).normal(size=at.shape[1:]).astype(dtype)
    sizes = {"D": at.shape[-1]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is not taken does not overflow either
        params = m.init(sizes["D"], sizes["D"], dtype=np.dtype(dtype))
        y, final, tape = m.forward(params, {f"x_{name}": at for name in ALL})
        _, dx, _ = m.backward(params, tape, np.zeros_like(y), dict.fromkeys(ALL, slopes))
    eps = np.finfo(dtype).eps
    for name, (_, theirs) in ALL.items():
        given = torch.tensor(at, requires_grad=True)
        out = theirs(given)
        out.backward(torch.tensor(slopes[None]))
        pairs = [
            (final[name], out[0].detach(), name in CLOSE),
            (dx[f"x_{name}"], given.grad, name not in EXACT),
        ]
        for ours, wanted, is_difference in pairs:
            wanted = wanted.numpy().reshape(ours.shape)
            # 16: each side rounds a few times, and our tanh and exp are exact to some units; what
            # is below the normal numbers has fewer digits
            least = 1 if is_difference else np.finfo(dtype).tiny / eps
            error = np.abs(ours - wanted) / (16 * eps)
            assert (error <= np.maximum(np.abs(wanted), least)).all(), (name, ours, wanted)


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_infinities_and_nan_go_through(target):
    m = module(target, "float64")
    at = np.array([np.inf, -np.inf, np.nan]).reshape(1, 1, 3)
    with np.errstate(invalid="ignore"):
        _, final, _ = m.forward(m.init(3, 3), {f"x_{name}": at for name in ALL})
    for name, (_, theirs) in EXACT.items():
        np.testing.assert_array_equal(final[name], theirs(torch.tensor(at))[0].numpy(), name)
