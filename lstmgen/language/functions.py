"""The registry of elementwise functions: all that lstmgen knows of each, in one place.

``FUNCTIONS`` has an entry for each function of the language, SymPy's own and ours. Other modules
read it: the cell what it may hold, the derivation slopes that SymPy has not as they are meant, the
check how a function is evaluated, ``show`` the range of its values. Only how a function is spelled
is in no entry: that is one line in the table of each printer.

A slope is stated twice: as an expression, which becomes the generated code, and as a function of
numbers, by which the check judges that code. Neither is derived from the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, TypeAlias

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr, Integer
from sympy.functions.elementary.hyperbolic import tanh

from .symbols import Function

__all__ = [
    "FUNCTIONS",
    "Elementwise",
    "Range",
    "equal",
    "expm1",
    "relu",
    "rsqrt",
    "sigmoid",
    "softplus",
    "step",
    "stop_gradient",
    "tanh",
]

# --------------------------------------------------------------------------- our own
# SymPy's own where its derivative folds back to the value (tanh), else ours with its own fdiff.


class sigmoid(Function):
    """The logistic function 1 / (1 + exp(-x)). As a function of its own its derivative folds back
    to σ(1 - σ), which 1/(1 + exp(-x)) never does.
    """

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return self * (1 - self)


class step(Function):
    """1 where x > 0, else 0: the derivative of ``relu``."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sympy.S.Zero


class relu(Function):
    """max(x, 0), with derivative 0 at 0."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return step(self.args[0])


class softplus(Function):
    """log(1 + exp(x)), without overflow."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sigmoid(self.args[0])


class rsqrt(Function):
    """1 / sqrt(x), as one function so that its derivative is in terms of its value."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return -(self**3) / 2


class expm1(Function):
    """exp(x) - 1, exact to the last digits near 0."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sympy.exp(self.args[0])


class stop_gradient(Function):
    """The identity in the forward pass; no gradient flows back through it."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sympy.S.Zero


class equal(Function):
    """1 where both arguments are equal, else 0: how the gradient of ``max_`` finds its unit."""

    nargs = 2
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sympy.S.Zero


# --------------------------------------------------------------------------- entries

Array: TypeAlias = NDArray[Any]
Range: TypeAlias = "tuple[float, float]"
Kind: TypeAlias = Literal["smooth", "kink", "jump", "cut"]

_ANYWHERE: Range = (-math.inf, math.inf)


@dataclass(frozen=True)
class Elementwise:
    """What is known of one function.

    Attributes
    ----------
    symbol : type
        Its class: SymPy's, or one of ours.
    value : function of arrays
        In floating point, without overflow on the way, and exact to an ulp or two.
    slopes : function of arrays
        The slope by each argument, as exact. At kinks and ties the one that lstmgen promises.
    bounds : function of Ranges
        Where its values lie, for arguments in these.
    derivative : function of the expression and the number of an argument, from 1, optional
        The slope as an expression; None where ``fdiff`` of the class is what is meant.
    exactly : function of expressions, optional
        What it makes of numbers; None where SymPy knows that by itself.
    kind : str
        "smooth" in its domain; continuous with a "kink"; a "jump"; or a "cut", whose slope is not
        that of its values.
    decides : function of arrays, optional
        What a kink or a jump decides by: slopes hold as long as this is the same.
    complex : bool
        Whether it has values for complex numbers in NumPy, so that it can be differentiated by a
        complex step.
    cheap : bool
        Whether to compute it again costs no more than to keep it: a comparison, or less.
    gate : bool
        Whether gates are made of it: it approaches its bounds, and has its slope from its value.
    """

    symbol: type[Expr]
    value: Callable[..., Array]
    slopes: Callable[..., Sequence[Any]]
    bounds: Callable[..., Range] = lambda *given: _ANYWHERE
    derivative: Callable[[Expr, int], Expr] | None = None
    exactly: Callable[..., Expr] | None = None
    kind: Kind = "smooth"
    decides: Callable[..., Any] | None = None
    complex: bool = True
    cheap: bool = False
    gate: bool = False

    @property
    def name(self) -> str:
        """As it is written in equations."""
        return self.symbol.__name__

    @property
    def is_analytic(self) -> bool:
        """Whether the complex step gives its slope everywhere."""
        return self.kind == "smooth" and self.complex


def _unary(slope: Callable[[Array], Any]) -> Callable[[Array], Sequence[Any]]:
    return lambda z: (slope(z),)


def _flat(*z: Array) -> Sequence[float]:
    return [0.0] * len(z)


def _no_slope(e: Expr, argument: int) -> Expr:
    return sympy.S.Zero


def _within(low: float, high: float) -> Callable[..., Range]:
    return lambda *given: (low, high)


def _rising(value: Callable[[Any], Any]) -> Callable[[Range], Range]:
    """The bounds of a function that never falls."""
    return lambda given: (float(value(given[0])), float(value(given[1])))


def _odd(given: Range) -> Range:
    """The bounds of what has the sign of its argument and approaches -1 and 1."""
    return (0 if given[0] >= 0 else -1, 0 if given[1] <= 0 else 1)


# --------------------------------------------------------------------------- in floating point


def _sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))  # never overflows
    return np.asarray(np.where(z >= 0, 1.0, e) / (1 + e))


def _exp(z: float) -> float:
    return math.exp(z) if z < 700 else math.inf


def _softplus(z: Array) -> Array:
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))


_real_erf = np.frompyfunc(math.erf, 1, 1)


def _erf(z: Array) -> Array:
    return np.asarray(_real_erf(z), dtype=np.result_type(z, np.float32))


def _heaviside(z: Array, at_zero: Array) -> Array:
    return np.where(z > 0, 1.0, np.where(z < 0, 0.0, at_zero))


def _step_of_floor(z: Array) -> Array:
    return np.asarray(np.floor(z) + np.ceil(z))


_SQRT_PI = math.sqrt(math.pi)


# --------------------------------------------------------------------------- extremes


def _share(larger: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, int], Expr]:
    """The slope of a maximum or minimum: shared equally among the arguments that tie."""

    def derivative(e: Expr, argument: int) -> Expr:
        arg = e.args[argument - 1]
        if len(e.args) == 2:
            return sympy.Heaviside(larger(arg, e.args[2 - argument]))
        return equal(arg, e) / sympy.Add(*(equal(a, e) for a in e.args))

    return derivative


def _extreme(
    symbol: type[Expr],
    choose: Callable[..., Array],
    pick: Callable[..., float],
    larger: Callable[[Expr, Expr], Expr],
) -> Elementwise:
    """Of several arguments; ``larger`` is positive where the first of two is taken."""

    def slopes(*z: Array) -> list[Array]:
        best = reduce(choose, z)
        hits = [np.where(a == best, 1.0, 0.0) for a in z]
        ties = sum(hits)
        return [hit / ties for hit in hits]

    def decides(*z: Array) -> Array:
        best = reduce(choose, z)
        return np.asarray(sum((a == best) * 2.0**k for k, a in enumerate(z)))

    def bounds(*given: Range) -> Range:
        return (pick(low for low, _ in given), pick(high for _, high in given))

    return Elementwise(
        symbol, lambda *z: reduce(choose, z), slopes, bounds, _share(larger), kind="kink",
        decides=decides, cheap=True,
    )  # fmt: skip


# --------------------------------------------------------------------------- the registry

_ENTRIES = (
    Elementwise(
        sigmoid, _sigmoid, _unary(lambda z: _sigmoid(z) * _sigmoid(-z)), _within(0, 1), gate=True,
        exactly=lambda x: 1 / (1 + sympy.exp(-x)),
    ),
    Elementwise(
        relu, lambda z: np.maximum(z, 0), _unary(lambda z: np.where(z > 0, 1.0, 0.0)),
        lambda given: (max(0, given[0]), max(0, given[1])), kind="kink", decides=np.sign,
        exactly=lambda x: sympy.Max(x, 0), cheap=True,
    ),
    Elementwise(
        step, lambda z: np.where(z > 0, 1.0, 0.0), _flat, _within(0, 1), kind="jump",
        decides=np.sign, exactly=lambda x: Integer(bool(x > 0)), cheap=True,
    ),
    Elementwise(
        softplus, _softplus, _unary(_sigmoid), _rising(_softplus),
        exactly=lambda x: sympy.log(1 + sympy.exp(x)),
    ),
    Elementwise(
        rsqrt, lambda z: 1 / np.sqrt(z), _unary(lambda z: -0.5 / (z * np.sqrt(z))),
        _within(0, math.inf), exactly=lambda x: 1 / sympy.sqrt(x),
    ),
    Elementwise(
        expm1, np.expm1, _unary(np.exp), _within(-1, math.inf),
        exactly=lambda x: sympy.exp(x) - 1,
    ),
    Elementwise(
        stop_gradient, lambda z: z, _flat, lambda given: given, kind="cut", exactly=lambda x: x,
        cheap=True,
    ),
    Elementwise(
        equal, lambda a, b: np.where(a == b, 1.0, 0.0), _flat, _within(0, 1), kind="jump",
        decides=np.equal, exactly=lambda x, y: Integer(x == y), cheap=True,
    ),
    Elementwise(
        tanh, np.tanh, _unary(lambda z: 1 / np.cosh(z) ** 2), _odd, gate=True,
    ),
    Elementwise(sympy.exp, np.exp, _unary(np.exp), _rising(_exp)),
    Elementwise(sympy.log, np.log, _unary(lambda z: 1 / z)),
    Elementwise(sympy.sin, np.sin, _unary(np.cos), _within(-1, 1)),
    Elementwise(sympy.cos, np.cos, _unary(lambda z: -np.sin(z)), _within(-1, 1)),
    Elementwise(sympy.tan, np.tan, _unary(lambda z: 1 + np.tan(z) ** 2)),
    Elementwise(sympy.asin, np.arcsin, _unary(lambda z: 1 / np.sqrt((1 - z) * (1 + z)))),
    Elementwise(sympy.acos, np.arccos, _unary(lambda z: -1 / np.sqrt((1 - z) * (1 + z)))),
    Elementwise(sympy.atan, np.arctan, _unary(lambda z: 1 / (1 + z * z))),
    Elementwise(sympy.sinh, np.sinh, _unary(np.cosh)),
    Elementwise(sympy.cosh, np.cosh, _unary(np.sinh), _within(1, math.inf)),
    Elementwise(sympy.asinh, np.arcsinh, _unary(lambda z: 1 / np.hypot(1, z))),
    Elementwise(
        sympy.acosh, np.arccosh, _unary(lambda z: 1 / (np.sqrt(z - 1) * np.sqrt(z + 1))),
        _within(0, math.inf),
    ),
    Elementwise(sympy.atanh, np.arctanh, _unary(lambda z: 1 / ((1 - z) * (1 + z)))),
    Elementwise(
        sympy.erf, _erf, _unary(lambda z: 2 / _SQRT_PI * np.exp(-z * z)), _odd, complex=False,
    ),
    Elementwise(
        sympy.Abs, np.abs, _unary(np.sign), lambda given: (0, max(abs(given[0]), abs(given[1]))),
        lambda e, argument: sympy.sign(e.args[0]), kind="kink", decides=np.sign, cheap=True,
    ),
    Elementwise(
        sympy.sign, np.sign, _flat, _within(-1, 1), _no_slope, kind="jump", decides=np.sign,
        cheap=True,
    ),
    Elementwise(
        sympy.Heaviside, _heaviside,
        lambda z, at_zero: (0.0, np.where(z == 0, 1.0, 0.0)), _within(0, 1), _no_slope,
        kind="jump", decides=lambda z, at_zero: np.sign(z),
    ),
    _extreme(sympy.Max, np.maximum, max, lambda a, b: a - b),
    _extreme(sympy.Min, np.minimum, min, lambda a, b: b - a),
    Elementwise(
        sympy.floor, np.floor, _flat, _rising(np.floor), _no_slope, kind="jump",
        decides=_step_of_floor,
    ),
    Elementwise(
        sympy.ceiling, np.ceil, _flat, _rising(np.ceil), _no_slope, kind="jump",
        decides=_step_of_floor,
    ),
    # The normal form writes it with floor, which has its slope by both arguments.
    Elementwise(
        sympy.Mod, lambda a, b: a - b * np.floor(a / b), lambda a, b: (1.0, -np.floor(a / b)),
        kind="jump", decides=lambda a, b: _step_of_floor(a / b),
    ),
)  # fmt: skip

FUNCTIONS: dict[type[Expr], Elementwise] = {entry.symbol: entry for entry in _ENTRIES}


def functions_with(holds: Callable[[Elementwise], bool]) -> tuple[type[Expr], ...]:
    """The functions for which something holds, as ``isinstance`` and ``has`` take them."""
    return tuple(symbol for symbol, entry in FUNCTIONS.items() if holds(entry))


GATES = functions_with(lambda f: f.gate)
