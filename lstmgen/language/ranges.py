"""Where the values of quantities lie, as far as the equations tell: a gate σ(…) in 0…1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import sympy
from sympy import Eq, Expr

from .functions import FUNCTIONS, Range
from .symbols import Vector, max_, mean, named, sum_

ANY: Range = (-math.inf, math.inf)


def value_range(e: Expr, known: Mapping[Expr, Range]) -> Range:
    """Bounds of an elementwise expression, from those of the vectors in it."""
    if e.is_number:
        return (float(e), float(e))
    if isinstance(e, Vector):
        return known.get(e, ANY)
    args = [value_range(a, known) for a in e.args if isinstance(a, Expr)]
    if e.is_Add:
        return (sum(a for a, _ in args), sum(b for _, b in args))
    if e.is_Mul:
        return _product_range(e, known)
    if e.func in FUNCTIONS:
        return FUNCTIONS[e.func].bounds(*args)
    if isinstance(e, (named, mean, max_)):
        return args[0]
    if isinstance(e, sympy.Piecewise):
        values = [value_range(value, known) for value, _ in e.args]
        return (min(a for a, _ in values), max(b for _, b in values))
    if e.is_Pow and e.exp.is_Integer and e.exp % 2 == 0 and e.exp > 0:
        return (0, max(abs(args[0][0]), abs(args[0][1])) ** int(e.exp))
    return ANY


def _product_range(e: Expr, known: Mapping[Expr, Range]) -> Range:
    factors, shares = list(e.args), []
    for f in e.args:
        if 1 / sum_(f) in factors and value_range(f, known)[0] >= 0:  # a share of the whole
            factors.remove(f)
            factors.remove(1 / sum_(f))
            shares.append((0.0, 1.0))
    low, high = 1.0, 1.0
    for a, b in [*shares, *(value_range(f, known) for f in factors)]:
        corners = [x * y if x and y else 0.0 for x in (low, high) for y in (a, b)]
        low, high = min(corners), max(corners)
    return (low, high)


def ranges(equations: Iterable[Eq]) -> dict[Expr, Range]:
    """Bounds of what each equation defines; what comes into a step may be anything."""
    known: dict[Expr, Range] = {}
    for e in equations:
        known[e.lhs] = value_range(e.rhs, known)
    return known
