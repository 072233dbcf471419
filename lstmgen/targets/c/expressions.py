"""Elementwise expressions of SymPy as trees of C."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import sympy
from sympy import Expr, Function
from sympy.printing.printer import Printer

from ...errors import GenerateError
from ...language import dtypes
from ...language.sizes import Size
from ...language.symbols import Expand, Vector
from ...printing.orders import Order, is_negative, literal
from . import tree
from .functions import HELPERS, LANEWISE, LIBM, ON_VECTORS, POWERS, SINGLE
from .tree import REAL, Call, Cast, Count, Expression, Junction, Literal, Minus, Relation, vec

ZERO_OF_C = Literal("0", "number")


class Expressions(Printer):
    """Elementwise expressions, in a person's order of terms and factors.

    SymPy's ``Printer`` finds the method for each class; each gives a tree.
    """

    printmethod = "_c_of_lstmgen"  # not SymPy's: our symbols have a _sympystr of their own

    def __init__(self, order: Order, dtype: str) -> None:
        super().__init__()
        self._person = order
        self.suffix = dtypes.dtype(dtype).compute.suffix
        self._reference: Callable[[Expr], Expression] = lambda v: Count(v)
        self._single = False

    def vector(
        self, e: Expr, reference: Callable[[Expr], Expression], single: bool = False
    ) -> Expression:
        """``e`` as a vec, also where it is a ``single`` number for all units."""
        self._reference, self._single = reference, single
        return self._vector(e)

    def _vector(self, e: Expr) -> Expression:
        return vec(self._tree(e))

    def _tree(self, e: Any) -> Expression:
        made: Expression = self._print(e)
        return made

    def emptyPrinter(self, e: Any) -> Expression:
        raise GenerateError(f"the C target cannot print {type(e).__name__}: {e}")

    def _print_Vector(self, v: Vector) -> Expression:
        return self._reference(v)

    def _print_Expand(self, e: Expand) -> Expression:
        return self._reference(e)

    def _print_Size(self, n: Size) -> Expression:
        return Cast(REAL, Count(n))

    # ------------------------------------------------------------------ numbers

    def number(self, e: Expr) -> Literal:
        """A number, in the type of numbers of the code."""
        if self.suffix:
            return Literal(f"{_shortest_float(float(e), e)}f", "number")
        if not isfinite(float(e)):
            raise GenerateError(f"{e} is too large for a double")
        return Literal(literal(e), "number")

    def _folded(self, e: Expr) -> Literal | None:
        """``e`` as one number, if it is one that SymPy knows: it does not know sigmoid(2)."""
        if not e.is_number:
            return None
        if e.has(sympy.I) or e.is_real is False:
            raise GenerateError(f"{e} is not a real number")
        return self.number(e) if e.evalf().is_Number else None

    def _print_Integer(self, e: Expr) -> Expression:
        return self.number(e)

    _print_Rational = _print_Half = _print_Zero = _print_One = _print_NegativeOne = _print_Integer
    _print_Float = _print_Pi = _print_Exp1 = _print_NumberSymbol = _print_Integer
    _print_Infinity = _print_NegativeInfinity = _print_NaN = _print_Integer

    # ------------------------------------------------------------------ arithmetic

    def _print_Add(self, e: Expr, order: object = None) -> Expression:
        if folded := self._folded(e):
            return folded
        terms = self._person.terms(e)
        signs = "".join("-" if is_negative(t) else "+" for t in terms)
        values = [-t if is_negative(t) else t for t in terms]
        return tree.Sum(tuple(map(self._tree, values)), signs)

    def _print_Mul(self, e: Expr) -> Expression:
        if folded := self._folded(e):
            return folded
        if is_negative(e):
            return Minus(self._tree(-e))
        over, under = self._person.fraction(e)
        above = [self._tree(f) for f in over] or [self.number(sympy.S.One)]
        below = [self._tree(f) for f in under]
        return _chain([*((f, "*") for f in above), *((f, "/") for f in below)])

    def _print_Pow(self, e: Expr) -> Expression:
        if folded := self._folded(e):
            return folded
        base, exponent = e.args
        if exponent == sympy.Rational(1, 2):
            return self._call("sqrt", base)
        if exponent.is_number and exponent.is_negative:
            return _chain([(self.number(sympy.S.One), "*"), (self._tree(1 / e), "/")])
        if _is_square(e):
            return tree.product(self._tree(base), self._tree(base))
        if exponent in POWERS:
            return self._calls(POWERS[int(exponent)], [base])
        return self._call("pow", base, exponent)

    # ------------------------------------------------------------------ functions

    def _call(self, name: str, *args: Expr) -> Expression:
        lanewise = SINGLE if self._single else LANEWISE
        return self._calls(name if name in ON_VECTORS else lanewise[name], args)

    def _calls(self, name: str, args: Sequence[Expr]) -> Expression:
        return Call(name, tuple(map(self._vector, args)))

    def _print_Function(self, e: Function) -> Expression:
        if folded := self._folded(e):
            return folded
        if type(e) in HELPERS:
            return self._calls(HELPERS[type(e)], e.args)
        if type(e) in LIBM:
            return self._call(LIBM[type(e)], *e.args)
        return self.emptyPrinter(e)

    def _print_rsqrt(self, e: Expr) -> Expression:
        if self._single:
            return self._calls(SINGLE["rsqrt"], e.args)
        return _chain([(self.number(sympy.S.One), "*"), (self._call("sqrt", e.args[0]), "/")])

    def _print_stop_gradient(self, e: Expr) -> Expression:
        return self._tree(e.args[0])

    def _print_Max(self, e: Expr) -> Expression:
        first, *others = map(self._vector, e.args)
        for other in others:
            first = Call(HELPERS[type(e)], (first, other))
        return first

    _print_Min = _print_Max

    # ------------------------------------------------------------------ conditions

    def _print_Piecewise(self, e: Expr) -> Expression:
        values = []
        last: Expression = vec(Cast(REAL, Literal("NAN", "number")))
        for value, condition in e.args:
            if condition == sympy.true:
                last = self._vector(value)
                break
            values.append((self._tree(condition), self._vector(value)))
        for condition, value in reversed(values):
            last = Call("choose", (condition, value, last))
        return last

    def _print_Relational(self, e: Expr) -> Expression:
        return Relation(self._vector(e.lhs), e.rel_op, self._vector(e.rhs))

    def _print_And(self, e: Expr) -> Expression:
        return Junction(tuple(map(self._tree, e.args)), "&")

    def _print_Or(self, e: Expr) -> Expression:
        return Junction(tuple(map(self._tree, e.args)), "|")

    def _print_Not(self, e: Expr) -> Expression:
        return Relation(self._tree(e.args[0]), "==", ZERO_OF_C)

    def _print_BooleanAtom(self, e: Expr) -> Expression:
        return Relation(vec(ZERO_OF_C), "==" if e else "!=", vec(ZERO_OF_C))


def _chain(factors: Sequence[tuple[Expression, str]]) -> Expression:
    """Factors from left to right. What is a product itself is one of several factors, unless it
    is what one divides by.
    """
    parts: list[Expression] = []
    signs = ""
    for factor, sign in factors:
        if isinstance(factor, tree.Product) and sign == "*":
            parts += factor.factors
            signs += factor.signs
        else:
            parts.append(factor)
            signs += sign
    return parts[0] if len(parts) == 1 else tree.Product(tuple(parts), signs)


def _is_square(e: Expr) -> bool:
    """Whether ``e`` is written x * x, and not as a call."""
    return bool(e.base.is_Symbol and e.exp == 2)


def _shortest_float(x: float, e: Expr) -> str:
    """The shortest decimal that is ``x`` in single precision."""
    try:
        single = _rounded(x)
    except OverflowError as error:
        raise GenerateError(f"{e} is too large for a float") from error
    if not isfinite(single):
        raise GenerateError(f"{e} is too large for a float")
    if single == 0:
        return "0.0"  # too small for a float: what the compiler makes of it, without its warning
    shorter = (float(f"{x:.{digits}g}") for digits in range(1, 10))
    return repr(next(y for y in shorter if _rounded(y) == single))


def _rounded(x: float) -> float:
    value: float = struct.unpack("<f", struct.pack("<f", x))[0]  # "f" alone would give inf
    return value
