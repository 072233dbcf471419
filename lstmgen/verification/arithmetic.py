"""Arithmetic of values, and of values with their derivatives: what the evaluation is made of.

Derivatives are those of the complex step in the limit of a step of 0: a number v + d·ε with ε² = 0,
here a ``Dual`` (J. R. R. A. Martins, P. Sturdza & J. J. Alonso, "The complex-step derivative
approximation", 2003, section 2.4). A step that is not 0 would underflow in the tail of a σ, and
reach back into the values, where it decides what a branch or a tie is.

Where a function has a kink or a tie, its slope is the one that lstmgen promises: relu'(0) = 0,
|x|'(0) = 0, jumps have slope 0, the largest of k equal ones have 1/k each, and x**p has slope 0 by
p where x = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import sympy
from numpy.typing import NDArray

from ..language import symbols as language
from ..language.functions import Elementwise
from ..language.symbols import Reduction

Array: TypeAlias = NDArray[Any]


class Dual(NamedTuple):
    """Values and their derivatives in K directions: (1, B, *shape), or with as many copies, and
    (K, B, *shape).
    """

    value: Array
    slope: Array


Number: TypeAlias = "Array | Dual"


def value_of(a: Number) -> Array:
    """Without derivatives."""
    return a.value if isinstance(a, Dual) else a


# --------------------------------------------------------------------------- functions


def _power(x: Array, p: Array) -> Array:
    """x**p; roots and quotients as such, which are rounded once."""
    if p.size == 1:
        known: dict[float, Callable[[Array], Array]] = {
            0.5: np.sqrt,
            -0.5: lambda x: 1 / np.sqrt(x),
            -1.0: lambda x: 1 / x,
            2.0: np.square,
        }
        if function := known.get(float(p.item())):
            return np.asarray(function(x))
    return np.asarray(np.power(x, p))


def _power_slopes(x: Array, p: Array) -> list[Array]:
    by_base = np.where(p == 0, 0.0, p * _power(x, np.asarray(p - 1)))
    by_exponent = np.where(x == 0, 0.0, np.power(x, p) * np.log(np.where(x == 0, 1.0, x)))
    return [by_base, by_exponent]


POWER = Elementwise(sympy.Pow, _power, _power_slopes)


# --------------------------------------------------------------------------- along an axis


class Along(NamedTuple):
    """The axis of an array that a reduction looks along; of a vector it leaves an axis of 1."""

    axis: int
    keepdims: bool

    @classmethod
    def of(cls, e: Reduction) -> Along:
        return cls(-1, True) if e.axis is None else cls(2 + int(e.axis), False)


def _scan(z: Array, axis: int, *, back: bool = False) -> Array:
    z = np.flip(z, axis) if back else z
    made = np.cumsum(z, axis=axis)
    return np.flip(made, axis) if back else made


# Linear in their operand, so that values and slopes are treated alike.
_LINEAR: dict[type, Callable[[Array, Along], Array]] = {
    language.mean: lambda z, along: z.mean(**along._asdict()),
    language.sum_: lambda z, along: z.sum(**along._asdict()),
    language.cumsum: lambda z, along: _scan(z, along.axis),
    language.rcumsum: lambda z, along: _scan(z, along.axis, back=True),
}


def reduced(e: Reduction, z: Array) -> Array:
    """A reduction that is linear in its operand, of an array."""
    return _LINEAR[e.func](z, Along.of(e))


def largest_unit(z: Number, along: Along) -> Number:
    """The largest unit; each of several equal ones has its share of the slope."""
    value, how = value_of(z), along._asdict()
    largest: Array = value.max(**how)
    if not isinstance(z, Dual):
        return largest
    hit = value == value.max(axis=along.axis, keepdims=True)
    shares = np.where(hit, z.slope, 0).sum(**how)
    return Dual(largest, shares / hit.sum(**how))


# --------------------------------------------------------------------------- elementwise


def each(z: Number, change: Callable[[Array], Array]) -> Number:
    """What is linear and does not mix, of values and slopes alike."""
    return Dual(*map(change, z)) if isinstance(z, Dual) else change(z)


def aligned(*given: Number) -> list[Number]:
    """Single numbers among quantities of several axes, with as many axes of 1."""
    axes = {value_of(z).ndim for z in given}
    if len(axes) == 1:
        return list(given)
    most = max(axes)
    return [
        each(z, lambda a: a.reshape(*a.shape, *(1,) * (most - a.ndim)))
        if value_of(z).ndim < most
        else z
        for z in given
    ]


def _dual(value: Array, slopes: Sequence[Array]) -> Number:
    """A value with the sum of ``slopes``, as wide as it is; without any it is the same for all."""
    if not slopes:
        return value
    total = reduce(np.add, slopes)
    if total.shape[2:] == value.shape[2:]:
        return Dual(value, total)
    width = np.broadcast_shapes(total.shape[2:], value.shape[2:])
    return Dual(value, np.broadcast_to(total, (*total.shape[:2], *width)))


def add(a: Number, b: Number) -> Number:
    """The sum."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.ndim == b.ndim:
        return a + b  # as most are
    a, b = aligned(a, b)
    value = value_of(a) + value_of(b)
    return _dual(value, [z.slope for z in (a, b) if isinstance(z, Dual)])


def multiply(a: Number, b: Number) -> Number:
    """The product, unit by unit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.ndim == b.ndim:
        return a * b  # as most are
    a, b = aligned(a, b)
    value = value_of(a) * value_of(b)
    pairs = ((a, b), (b, a))
    slopes = [one.slope * value_of(other) for one, other in pairs if isinstance(one, Dual)]
    return _dual(value, slopes)


def apply(function: Elementwise, arguments: Sequence[Number]) -> Number:
    """A function of the language, unit by unit."""
    arguments = aligned(*arguments)
    values = [value_of(a) for a in arguments]
    value = np.asarray(function.value(*values))
    if not any(isinstance(a, Dual) for a in arguments):
        return value  # and no slopes need be known
    pairs = zip(function.slopes(*values), arguments, strict=True)
    return _dual(value, [slope * a.slope for slope, a in pairs if isinstance(a, Dual)])


# --------------------------------------------------------------------------- contractions

Pairing: TypeAlias = "Callable[[Array, Array], Array]"  # linear in either


def paired(pairing: Pairing, a: Number, b: Number) -> Number:
    """A contraction of two operands, and its slope by each."""
    value = pairing(value_of(a), value_of(b))
    slopes = []
    if isinstance(a, Dual):
        slopes.append(pairing(a.slope, value_of(b)))
    if isinstance(b, Dual):
        slopes.append(pairing(value_of(a), b.slope))
    return _dual(value, slopes)


def by_letters(letters: str) -> Pairing:
    """A contraction as ``numpy.einsum`` has it, for all copies and rows."""
    operands, _, out = letters.partition("->")
    left, _, right = operands.partition(",")
    return lambda a, b: np.einsum(f"...{left},...{right}->...{out}", a, b)


def choose(condition: Array, a: Number, b: Number) -> Number:
    """``a`` where the condition holds, else ``b``."""
    a, b = aligned(a, b, condition)[:2]
    condition = value_of(aligned(condition, a)[0])
    value = np.where(condition, value_of(a), value_of(b))
    if not (isinstance(a, Dual) or isinstance(b, Dual)):
        return value
    slopes = [z.slope if isinstance(z, Dual) else np.zeros((1,) * value.ndim) for z in (a, b)]
    return Dual(value, np.where(condition, *slopes))


def joined(parts: Sequence[Number], axis: int = -1) -> Number:
    """Quantities beside each other along an axis, with as many copies as any has, and as large."""
    axis %= value_of(parts[0]).ndim

    def together(arrays: Sequence[Array]) -> Array:
        shapes = [(*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays]
        common = np.broadcast_shapes(*shapes)
        return np.concatenate(
            [
                np.broadcast_to(a, (*common[:axis], a.shape[axis], *common[axis + 1 :]))
                for a in arrays
            ],
            axis=axis,
        )

    value = together([value_of(z) for z in parts])
    if not any(isinstance(z, Dual) for z in parts):
        return value
    slopes = [z.slope if isinstance(z, Dual) else np.zeros_like(z) for z in parts]
    return Dual(value, together(slopes))


def widened(a: Number, shape: tuple[int, ...]) -> Number:
    """A scalar as a quantity of that shape with equal units; any other as it is."""
    (a,) = aligned(a, np.empty((1, 1, *(1 for _ in shape))))[:1]
    return each(a, lambda z: np.broadcast_to(z, (*z.shape[:2], *shape)))
