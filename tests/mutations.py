"""Equations that are wrong on purpose: what a slip of the pen makes of a right-hand side."""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from sympy import Mul

from lstmgen.language.symbols import Outer, Product, Vector

_MOVING = ("vector", "state", "tangent vector", "tangent state")


def _kind(v: Vector) -> bool:
    """Whether it is a tangent: one in the place of a value would be another mistake."""
    return v.category.startswith("tangent")


def mutations(rhs: sympy.Expr, others: list[Vector]) -> Iterator[tuple[str, sympy.Expr]]:
    """The right-hand sides that a slip of the pen would make of ``rhs``."""
    terms = sympy.Add.make_args(rhs)
    for term in terms:
        yield f"without {term}", rhs - term
        yield f"minus {term}", rhs - 2 * term
        yield f"twice {term}", rhs + term
        for factor in Mul.make_args(term):
            if len(term.args) > 1 and isinstance(term, Mul) and factor != -1:
                yield f"{term} without the factor {factor}", rhs - term + term / factor
    for v in sorted(rhs.atoms(Vector), key=str):
        if v.category in ("state", "tangent state"):
            yield f"{v} at the other time", rhs.xreplace({v: v.at(-1 - v.time)})
        if v.category in _MOVING:
            alike = (o for o in others if o.axes == v.axes and _kind(o) == _kind(v))
            other = next((o for o in alike if o.name != v.name), None)
            if other is not None:
                yield f"{other} for {v}", rhs.xreplace({v: other})
    for product in sorted(rhs.atoms(Product), key=str):
        yield f"{product} without the matrix", rhs.xreplace({product: product.operand})
        yield (
            f"{product} with the transpose",
            rhs.xreplace({product: Product(product.matrix.T, product.operand)}),
        )
    for outer in sorted(rhs.atoms(Outer), key=str):
        yield f"{outer} transposed", rhs.xreplace({outer: Outer(*reversed(outer.args))})
