"""Outer products with factors: a vector has them instead of the matrix, which is less work."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, Tuple

from ..language.shapes import SCALAR, Shapes
from ..language.symbols import Contract, Expand


def scaled(factors: Sequence[Expr], shapes: Shapes) -> list[Expr]:
    """The factors of a product, where one that is an outer product takes in what it can of the
    others: ``expand(g, C) * outer(v, k)`` is ``outer(g * v, k)``. A sign stays where it is.
    """
    outer = next((f for f in factors if isinstance(f, Contract) and f.is_outer), None)
    if outer is None:
        return list(factors)
    spec, sides = outer.args[2], list(outer.args[:2])
    others: list[Expr] = []
    for f in factors:
        if f == outer:
            continue
        for n, letters in enumerate(outer.spec[:2]):
            inner = _along(f, letters, outer.spec[2], shapes.axes(sides[n]), shapes)
            if inner is not None:
                sides[n] = sympy.Mul(inner, sides[n], evaluate=False)
                break
        else:
            others.append(f)
    left, right = sides
    return [Contract(left, right, spec), *others]


def _along(f: Expr, letters: str, out: str, axes: tuple[Expr, ...], shapes: Shapes) -> Expr | None:
    """A factor of all axes ``out``, as one of a vector that has ``letters``; None if it is not."""
    if f == -1:
        return None
    if not isinstance(f, Expand):
        return f if shapes.axes(f) == SCALAR else None
    if any(out[place] not in letters for place in f.places):
        return None
    places = tuple(letters.index(out[place]) for place in f.places)
    if len(places) == len(letters) or (not places and len(letters) == 1):
        return f.operand
    return Expand(f.operand, Tuple(*axes), Tuple(*places))
