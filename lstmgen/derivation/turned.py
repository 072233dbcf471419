"""Influences of matrices with the axes of the matrix, where they came out with the two exchanged.

An influence has the axes that only the parameter has before those of what it moves: of W (H × D),
on a state of H units that depends row by row on it, that is D × H. Gradients have the axes of W. So
a step would transpose arrays as large as W, number by number, where it can be elementwise work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sympy import Eq, Expr, Tuple

from ..language.shapes import SCALAR, Shape
from ..language.symbols import (
    Concat,
    Contract,
    Expand,
    Product,
    Reduction,
    Transpose,
    Vector,
    View,
)
from .influence import Influence

_MIXING = (Concat, Contract, Product, Reduction, View)


class Turned:
    """The influences of one matrix with their two axes exchanged.

    Parameters
    ----------
    lines : sequence of Eq
        The equations of all influences of the matrix.
    found : iterable of Influence
        What these make, and the influences that they read.
    axes_of : callable
        The shape of a quantity.

    Attributes
    ----------
    is_needed : bool
        Whether the axes are exchanged in all of them, and they are elementwise work throughout.
    """

    def __init__(
        self, lines: Sequence[Eq], found: Iterable[Influence], axes_of: Callable[[Expr], Shape]
    ) -> None:
        self._names = {e.lhs.name for e in lines}
        self._axes_of = axes_of
        exchanged = all(i.free == (1,) and i.shared == ((0, 0),) for i in found)
        self.is_needed = exchanged and all(self._is_elementwise(e.rhs) for e in lines)

    def line(self, e: Eq) -> Eq:
        """An equation of an influence."""
        return Eq(self._turned(e.lhs), self._turned(e.rhs), evaluate=False)

    def gradient(self, e: Expr) -> Expr:
        """What an influence brings to the gradient, transposed so far."""
        return self._turned(e.operand) if isinstance(e, Transpose) else Transpose(self._turned(e))

    def _turned(self, e: Expr) -> Expr:
        if isinstance(e, Vector):
            if e.name not in self._names:
                return e  # a single number
            return Vector(e.name, e.category, tuple(reversed(e.axes)), e.time)
        if isinstance(e, Expand):
            places = Tuple(*(1 - k for k in e.places))
            return Expand(e.operand, Tuple(*reversed(e.args[1])), places)
        return e.func(*map(self._turned, e.args)) if e.args else e

    def _is_elementwise(self, e: Expr) -> bool:
        """Whether an expression over both axes is the same with these exchanged."""
        if isinstance(e, Vector):
            return e.name in self._names or self._axes_of(e) == SCALAR
        if isinstance(e, Expand):
            inside = {v.name for v in e.operand.atoms(Vector)}
            return len(e.places) < 2 and inside.isdisjoint(self._names)
        return not isinstance(e, _MIXING) and all(map(self._is_elementwise, e.args))
