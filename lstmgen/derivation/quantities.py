"""Equations of matrices as equations of quantities, whose products are contractions."""

from __future__ import annotations

from collections.abc import Container

import sympy
from sympy import Expr

from ..language.matrices import Matrix
from ..language.shapes import Shapes, units
from ..language.symbols import Contract, Expand, Product, Reshape, Transpose


def as_quantities(e: Expr, shapes: Shapes, made: Container[Expr]) -> Expr:
    """What is made of matrices, with a quantity of several axes in place of each: "derived" of
    those that equations have ``made``.
    """
    e = e.replace(
        lambda n: isinstance(n, Product), lambda n: _contraction(n.args[0], n.args[1], shapes)
    )
    swap: dict[Expr, Expr] = {}
    for m in e.atoms(Matrix):
        v = shapes.quantity(m, "derived" if m.base in made else "parameter")
        swap[m] = Transpose(v) if m.transposed else v
    return e.xreplace(swap)


def repeated(matrix: Expr, operand: Expr, shapes: Shapes) -> Expr:
    """The operand of a product, repeated for the heads of the matrix that it has not."""
    heads, (*own, size) = shapes.axes(matrix)[:-2], shapes.axes(operand)
    if len(own) >= len(heads):
        return operand
    axes, places = (*heads, size), (*range(len(own)), len(heads))
    return Expand(operand, sympy.Tuple(*axes), sympy.Tuple(*places))


def _contraction(matrix: Expr, operand: Expr, shapes: Shapes) -> Expr:
    """A product of what is made of parameters."""
    *heads, size = shapes.axes(operand)
    if len(shapes.axes(matrix)) == 2 and heads:  # the same matrix for all heads
        if len(heads) == 1:
            return Contract(matrix, operand, "ij,aj->ai")
        rows = Reshape(operand, sympy.Tuple(units(tuple(heads)), size))
        made = Contract(matrix, rows, "ij,aj->ai")
        return Reshape(made, sympy.Tuple(*heads, shapes.axes(matrix)[0]))
    return shapes.explicit(Contract(matrix, repeated(matrix, operand, shapes), "@"))
