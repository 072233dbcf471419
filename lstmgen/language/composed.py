"""Functions that are compositions: cells write them like any other, and lstmgen sees their parts.

Their gradients are derived like those of any equation.
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr

from .functions import expm1, relu, rsqrt, sigmoid, softplus, stop_gradient
from .symbols import max_, mean, named, sum_

__all__ = ["elu", "gelu", "layer_norm", "leaky_relu", "log_sigmoid", "silu", "softmax"]


def log_sigmoid(x: Any) -> Expr:
    """log(σ(x)), without overflow."""
    return -softplus(-named(x))


def silu(x: Any) -> Expr:
    """x σ(x), also called swish."""
    x = named(x)
    return x * sigmoid(x)


def gelu(x: Any) -> Expr:
    """x Φ(x), exact (with erf), as PyTorch's default."""
    x = named(x)
    return x * (1 + sympy.erf(x / sympy.sqrt(2))) / 2


def elu(x: Any, alpha: Any = 1) -> Expr:
    """x where x > 0, else α (exp(x) - 1): the slope at 0 is α, as PyTorch has it."""
    x = named(x)
    # x - relu(x) is min(x, 0) with slope 1 at 0: where x is taken, exp(x) must not overflow
    return sympy.Piecewise((x, x > 0), (alpha * expm1(x - relu(x)), True))


def leaky_relu(x: Any, slope: Any = sympy.Rational(1, 100)) -> Expr:
    """x where x > 0, else slope · x: the slope at 0 is ``slope``, as PyTorch has it."""
    x = named(x)
    return sympy.Piecewise((x, x > 0), (slope * x, True))


def softmax(x: Any) -> Expr:
    """exp(x - max x) / Σ exp(x - max x) over the units of a vector.

    The maximum cancels exactly, so that no gradient needs to flow through it.
    """
    x = named(x)
    e = named(sympy.exp(x - stop_gradient(max_(x))), "e")
    return e / sum_(e)


def layer_norm(x: Any, gain: Any = 1, bias: Any = 0, eps: Any = 1e-5) -> Expr:
    """gain · (x - mean x) / sqrt(var x + eps) + bias, over the units of a vector.

    The variance is the biased one (Ba, Kiros & Hinton 2016). Not a primitive: it is written with
    ``mean``, and its gradient is derived like any other.
    """
    x = named(x)
    centred = named(x - mean(x), "d")
    scale = named(rsqrt(named(mean(centred**2), "var") + eps), "r")
    return gain * centred * scale + bias
