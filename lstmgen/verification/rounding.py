"""Rounding, imitated: what of an evaluation another program might compute a little differently.

A generated module adds up in another order, and its functions are right to an ulp or two. Here
every node of an evaluation is off by a little at random, except where arithmetic is exact in any
order. What comes out tells how much rounding moves the results, and whether a kink or a tie is
within its reach: x - 1 ≥ 0 at x = 1 is not, tanh(a) = tanh(b) for a and b that were summed up is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, reduce
from typing import Any

import numpy as np
import sympy
from sympy import Expr

from ..language import symbols as language
from ..language.cell import Cell
from ..language.dtypes import DType
from ..language.functions import FUNCTIONS, GATES, functions_with, stop_gradient
from ..language.symbols import Reduction, Scan
from .arithmetic import Along, Array, Dual, Number, Pairing, aligned, reduced, value_of
from .evaluation import COMPARISONS, Walk

# --------------------------------------------------------------------------- what is exact

# Multiples of 2⁻¹⁰ below 2¹²: their sums and differences are exact in single precision.
_FINE, _FINE_LIMIT = 2.0**10, 2.0**12
# Multiples of 2⁻⁵ below 2⁶: their products are such multiples.
_COARSE, _COARSE_LIMIT = 2.0**5, 2.0**6

# They hand on one of their operands, or a small whole number.
_CHOOSING = functions_with(lambda f: f.kind in ("kink", "jump") and f.symbol is not sympy.Mod)


def _fine(a: Array) -> Array:
    return np.asarray((np.abs(a) < _FINE_LIMIT) & (np.round(a * _FINE) == a * _FINE))


def _coarse(a: Array) -> Array:
    return np.asarray((np.abs(a) < _COARSE_LIMIT) & (np.round(a * _COARSE) == a * _COARSE))


def _is_exact(e: Expr, value: Array, operands: Sequence[Array], pairing: Pairing | None) -> Any:
    """Where no program rounds, whatever its order and its precision."""
    if isinstance(e, (*_CHOOSING, language.max_)):
        return True
    if pairing is not None:
        return _rounded_terms(operands[0], operands[1], pairing) == 0
    if isinstance(e, Reduction):
        return _is_exact_sum(e, value, operands[0])
    fine = reduce(np.logical_and, map(_fine, operands), _fine(value))
    if isinstance(e, (sympy.Add, sympy.Mod)):
        return fine
    if isinstance(e, sympy.Mul):
        return reduce(np.logical_or, [a == 0 for a in operands], fine)
    if isinstance(e, sympy.Pow):
        x, p = operands
        whole = (p >= 0) & (np.floor(p) == p)
        return fine & ((x == 0) | (x == 1) | whole | ((p == -1) & (x * value == 1)))
    return fine & reduce(np.logical_and, [a == 0 for a in operands])  # tanh 0, exp 0, σ(0)


def _is_exact_sum(e: Reduction, value: Array, terms: Array) -> Any:
    along = Along.of(e)
    kept = along.keepdims or isinstance(e, Scan)
    whole = _fine(terms).all(axis=along.axis, keepdims=kept) & _fine(value)
    if isinstance(e, language.mean):
        units = terms.shape[along.axis]
        whole = whole & (units & (units - 1) == 0)
    return whole | (terms == 0).all(axis=along.axis, keepdims=kept)


def _rounded_terms(u: Array, matrix: Array, pairing: Pairing) -> Array:
    """How many terms of each sum are not 0 and not exact."""

    def count(*masks: Array) -> Array:
        return pairing(*(m.astype(float) for m in masks))

    terms = count(u != 0, matrix != 0)
    return terms - count((u != 0) & _coarse(u), (matrix != 0) & _coarse(matrix))


def _magnitude(e: Expr, value: Array, operands: Sequence[Array], pairing: Pairing | None) -> Array:
    """What a rounding error is relative to: the terms of a sum, not what is left of them."""
    if isinstance(e, sympy.Add):
        return reduce(np.add, map(np.abs, operands))
    if pairing is not None:
        return pairing(np.abs(operands[0]), np.abs(operands[1]))
    if isinstance(e, sympy.Mod):
        return np.abs(operands[0])
    if isinstance(e, Reduction) and not isinstance(e, language.max_):
        return reduced(e, np.abs(operands[0]))
    return np.abs(value)


class Rounding:
    """For ``Evaluator.run(shake=…)``: moves each node by ``amount``, relative to its terms.

    Parameters
    ----------
    amount : float
    dtype : DType
        Of the module whose rounding is imitated: numbers that it cannot hold are rounded as well.
    copies : int
        How many to make of the values, of which the first is left as it is; 0 moves those there
        are, and their derivatives with them.
    """

    def __init__(self, amount: float, dtype: DType, copies: int = 0, seed: int = 0) -> None:
        self.amount, self.dtype, self.copies = amount, dtype, copies
        self.rng = np.random.default_rng(seed)

    def __call__(
        self,
        e: Expr,
        value: Number,
        operands: Sequence[Number],
        pairing: Pairing | None = None,
    ) -> Number:
        plain, given = value_of(value), [value_of(a) for a in operands]
        if not (pairing or isinstance(e, Reduction)):
            given = [value_of(a) for a in aligned(*given)] if given else given
        held = plain.astype(self.dtype.compute.name) == plain
        exact = _is_exact(e, plain, given, pairing) if given else held
        if np.all(exact):
            return value
        shape = (self.copies or len(plain), *plain.shape[1:])
        signs = self._signs(shape)
        if self.copies:
            signs[0] = 0
        moved = plain + self.amount * signs * np.where(
            exact, 0, _magnitude(e, plain, given, pairing)
        )
        if not isinstance(value, Dual):
            return np.asarray(moved)
        inner = operands[0]
        if isinstance(e, GATES) and isinstance(inner, Dual):
            # Programs have the slope from the value, as 1 - t² or s (1 - s): near 1 a difference.
            part = self.amount * self._signs(value.slope.shape) * plain**2
            return Dual(np.asarray(moved), value.slope + part * inner.slope)
        return Dual(np.asarray(moved), value.slope)

    def operand(self, a: Number) -> Number:
        """Derivatives are off where they are read: what cancels in a sum of them comes out."""
        if self.copies or not isinstance(a, Dual):
            return a
        return Dual(a.value, a.slope * (1 + self.amount * self._signs(a.slope.shape)))

    def _signs(self, shape: tuple[int, ...]) -> Array:
        return np.where(self.rng.integers(0, 2, shape, bool), 1.0, -1.0)


# --------------------------------------------------------------------------- what decides

_DECISIONS: dict[type, Callable[..., Any]] = {
    **{symbol: f.decides for symbol, f in FUNCTIONS.items() if f.decides},
    language.max_: lambda z, *axis: z == z.max(axis=_place(*axis), keepdims=True),
    **dict.fromkeys(COMPARISONS, lambda a, b: np.sign(a - b)),
}
_CONTINUOUS = (*functions_with(lambda f: f.kind == "kink"), language.max_)


def _place(axis: Array | None = None) -> int:
    """The axis of an array that a maximum looks along."""
    return -1 if axis is None else 2 + int(axis.item())


@cache
def decisions(cell: Cell) -> tuple[Expr, ...]:
    """What of a cell's equations has a kink, a jump or a tie that derivatives depend on."""
    found: dict[Expr, None] = {}
    for equation in cell.equations:
        found.update(dict.fromkeys(_decisions_in(equation.rhs, False)))
    return tuple(found)


def _decisions_in(e: Any, cut: bool) -> Iterator[Expr]:
    if e.func in _DECISIONS and not (cut and isinstance(e, _CONTINUOUS)):
        yield e
    for arg in e.args:
        yield from _decisions_in(arg, cut or isinstance(e, stop_gradient))


def is_settled(walk: Walk, nodes: Sequence[Expr]) -> bool:
    """Whether all copies decide alike."""
    for e in nodes:
        made = np.asarray(_DECISIONS[e.func](*(value_of(walk(a)) for a in e.args)))
        first = made[:1]
        if not np.all((made == first) | (np.isnan(made) & np.isnan(first))):
            return False
    return True
