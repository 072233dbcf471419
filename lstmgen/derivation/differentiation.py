"""Derivatives of elementwise expressions, right at zeros, kinks and ties.

SymPy differentiates; but what it says of some functions holds almost everywhere, or for complex
arguments, or is a quotient that has no value where its function has one. Those are replaced by
stand-ins while it works, each with the slope that is meant. That of a function is in its entry of
the registry:

- |x|: sign x, where SymPy, not knowing that x is real, has a formula in re, im and atan2;
- a maximum or minimum: shared equally among the arguments that tie, so that shares add up to 1;
- functions that jump (sign, floor, a step): 0, without an impulse at the jump.

And a power x^p has p x^(p-1), where SymPy has p x^p / x, which is 0/0 at 0; by the exponent
x^p log x, which is 0 at x = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Eq, Expr, Function, Piecewise
from sympy.functions.elementary.piecewise import ExprCondPair

from ..language.functions import FUNCTIONS
from ..language.symbols import Vector, plain_conditions

ONE, ZERO = sympy.S.One, sympy.S.Zero


class _StandIn(Function):
    """A function in whose place SymPy's own comes back afterwards."""

    is_real = True
    original: Any


class _Power(_StandIn):
    original = sympy.Pow

    def fdiff(self, argindex: int = 1) -> Expr:
        base, exponent = self.args
        if argindex == 2:  # log 1 in the place of log 0, which would make 0 log 0 of it
            return base**exponent * sympy.log(Piecewise((ONE, Eq(base, 0)), (base, True)))
        lower = exponent - 1
        if not exponent.is_number:  # 0 x^(-1) is 0, even at 0
            lower = Piecewise((ZERO, Eq(exponent, 0)), (lower, True))
        return exponent * base**lower


def _stand_in(function: type, derivative: Callable[[Expr, int], Expr]) -> type[_StandIn]:
    class StandIn(_StandIn):
        original = function

        def fdiff(self, argindex: int = 1) -> Expr:
            return derivative(self, argindex)

    StandIn.__name__ = f"_{function.__name__}"
    return StandIn


_STAND_INS: dict[Any, type[_StandIn]] = {sympy.Pow: _Power} | {
    symbol: _stand_in(symbol, f.derivative) for symbol, f in FUNCTIONS.items() if f.derivative
}


def slope(e: Expr, v: Vector) -> Expr:
    """∂e/∂v of an elementwise expression, unit by unit.

    Parameters
    ----------
    e : Expr
        Elementwise; the arguments of a maximum or minimum of three or more are symbols or numbers.
    v : Vector

    Returns
    -------
    Expr
        It may hold ``Derivative`` or ``Subs`` if SymPy does not know the derivative of a function.
    """
    if e == v:
        return ONE
    # of pieces SymPy makes conditions of its own
    return plain_conditions(_restored(sympy.diff(_replaced(e), v)))


def _replaced(e: Expr) -> Expr:
    if isinstance(e, ExprCondPair):  # a condition has no slope
        return ExprCondPair(_replaced(e.expr), e.cond)
    if e.is_number:  # nor has a number, and SymPy has to compare it with others
        return e
    made = _rebuilt(e, _replaced)
    smooth = isinstance(e, sympy.Pow) and e.exp.is_Integer
    return made if smooth or e.func not in _STAND_INS else _STAND_INS[e.func](*made.args)


def _restored(e: Expr) -> Expr:
    made = _rebuilt(e, _restored)
    return made.original(*made.args) if isinstance(made, _StandIn) else made


def _rebuilt(e: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """``e`` with its arguments changed; as it is if none does."""
    if not e.args:
        return e
    args = [change(a) for a in e.args]
    return e if all(a is b for a, b in zip(args, e.args, strict=True)) else e.func(*args)
