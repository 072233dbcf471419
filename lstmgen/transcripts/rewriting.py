"""A cell's equations in a form that libraries have words for.

- What is made of matrices is an equation of quantities, and has a name in ``f(U) @ h``, too.
- One number beside a quantity of several axes is expanded: libraries align axes from the last one.
- ``expand(g, C) * outer(v, k)`` is ``outer(g * v, k)``, which is less work.
- ``W @ concat(x, h)`` is ``W_x @ x + W_h @ h`` where only one of the two depends on the recurrence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
from sympy import Eq, Expr, Tuple

from ..derivation import outer
from ..derivation.names import Namer
from ..derivation.quantities import as_quantities
from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.shapes import SCALAR
from ..language.symbols import (
    STATIC,
    Concat,
    Contract,
    Expand,
    Product,
    Reduction,
    Vector,
    View,
    named,
)

_NOT_ELEMENTWISE = (Product, Reduction, View, Concat, Contract, named)


class Rewriting:
    """The equations of a cell, rewritten.

    Attributes
    ----------
    equations : list of Eq
        The left-hand sides are vectors, of category "derived" where they were matrices.
    columns : dict
        The matrices that take the place of a matrix's columns, by its name.
    """

    def __init__(self, cell: Cell, namer: Namer) -> None:
        self.cell, self.namer, self.shapes = cell, namer, cell.shapes
        self.equations: list[Eq] = []
        self.columns: dict[str, tuple[Matrix, ...]] = {}
        self._made: dict[Expr, Matrix] = {}
        self._concats = {e.lhs: e.rhs for e in cell.equations if isinstance(e.rhs, Concat)}
        self._late = _of_the_recurrence(cell)
        cut = {m: parts for m in self._matrices() if (parts := self._parts(m))}
        for equation in cell.equations:
            lhs, rhs = equation.lhs, equation.rhs
            if isinstance(lhs, Matrix):
                lhs, rhs = self.shapes.quantity(lhs, "derived"), self._of_quantities(rhs)
            else:
                rhs = self._products(rhs, cut, lhs.name)
            self.equations.append(Eq(lhs, self._expanded(lhs, rhs), evaluate=False))
        if cut:
            read = {v for e in self.equations for v in e.rhs.atoms(Vector)} | set(cell.outputs)
            self.equations = [e for e in self.equations if e.lhs in read or not _is_copy(e)]

    # ------------------------------------------------------------------ matrices

    def _of_quantities(self, e: Expr) -> Expr:
        return as_quantities(e, self.shapes, self.cell.derived)

    def _products(self, e: Expr, cut: Mapping[Matrix, tuple[Expr, ...]], hint: str) -> Expr:
        """``e`` with plain matrices in its products."""
        if not e.has(Product):
            return e
        args = [self._products(a, cut, hint) if a.args else a for a in e.args]
        if not isinstance(e, Product):
            return e.func(*args) if args != list(e.args) else e
        matrix, operand = e.matrix, args[1]
        if matrix in cut:
            parts = self._concats.get(operand, operand).args
            return sympy.Add(*map(Product, self._blocks(matrix, cut[matrix], parts), parts))
        if not isinstance(matrix, Matrix):
            if matrix not in self._made:
                *heads, rows, columns = self.shapes.declared(matrix)
                name = self.namer(f"M_{hint}")
                self._made[matrix] = Matrix(name, rows, columns, heads=tuple(heads))
                derived = Vector(name, "derived", (*heads, rows, columns))
                rhs = self._expanded(derived, self._of_quantities(matrix))
                self.equations.append(Eq(derived, rhs, evaluate=False))
            matrix = self._made[matrix]
        return Product(matrix, operand)

    # ------------------------------------------------------------------ columns

    def _matrices(self) -> list[Matrix]:
        """Plain matrices that stand on the left of a product only."""
        found: dict[Matrix, bool] = {}
        for equation in self.cell.equations:
            for node in sympy.preorder_traversal(equation.rhs):
                for arg in node.args:
                    if isinstance(arg, Matrix):
                        plain = isinstance(node, Product) and not arg.transposed
                        found[arg.base] = found.get(arg.base, True) and plain
        return [m for m, plain in found.items() if plain and len(m.axes) == 2]

    def _parts(self, m: Matrix) -> tuple[Expr, ...]:
        """The sizes of what stands side by side in each operand of ``m``; () if it is not cut."""
        sizes, is_mixed = set(), False
        for product in (p for e in self.cell.equations for p in e.rhs.atoms(Product)):
            if product.matrix != m:
                continue
            whole = self._concats.get(product.operand, product.operand)
            if not isinstance(whole, Concat) or len(self.shapes.axes(whole)) != 1:
                return ()
            if not all(part.atoms(Vector) for part in whole.args):
                return ()
            sizes.add(tuple(self.shapes.of(part) for part in whole.args))
            late = [self._is_late(part) for part in whole.args]
            is_mixed = is_mixed or (any(late) and not all(late))
        return sizes.pop() if is_mixed and len(sizes) == 1 else ()

    def _blocks(
        self, m: Matrix, sizes: Sequence[Expr], parts: Sequence[Expr]
    ) -> tuple[Matrix, ...]:
        """The columns of ``m`` for each part, as matrices."""
        if m.name not in self.columns:
            rows = str(self.shapes.shape(m)[0])
            names = [part.name if part.is_Symbol else str(k) for k, part in enumerate(parts, 1)]
            self.columns[m.name] = tuple(
                Matrix(self.namer(m.name + name), rows, str(n), learned=m.learned)
                for name, n in zip(names, sizes, strict=True)
            )
        return self.columns[m.name]

    def _is_late(self, e: Expr) -> bool:
        return not self._late.isdisjoint(e.atoms(Vector))

    # ------------------------------------------------------------------ several axes

    def _expanded(self, lhs: Vector, rhs: Expr) -> Expr:
        shape = self.shapes.axes(lhs)
        inner = self._aligned(rhs)
        return self._beside(inner, shape) if len(shape) > 1 else inner

    def _aligned(self, e: Expr) -> Expr:
        """``e`` with numbers expanded where they stand beside several axes."""
        if not e.args or type(e) is Tuple:
            return e
        args = [self._aligned(a) for a in e.args]
        if isinstance(e, Expr) and not isinstance(e, _NOT_ELEMENTWISE):
            shape = self.shapes.axes(e)
            if len(shape) > 1:
                if isinstance(e, sympy.Mul):
                    args = [self._aligned_outer(a) for a in outer.scaled(args, self.shapes)]
                args = [self._beside(a, shape) for a in args]
        unchanged = all(a is b for a, b in zip(args, e.args, strict=False))
        return e if unchanged and len(args) == len(e.args) else e.func(*args)

    def _aligned_outer(self, e: Expr) -> Expr:
        """An outer product whose vectors may have factors."""
        if not isinstance(e, Contract):
            return e
        return e.func(*map(self._aligned, e.args[:2]), e.args[2])

    def _beside(self, e: Any, shape: tuple[Expr, ...]) -> Any:
        if not isinstance(e, Expr):  # a condition, or a piece with one
            return e.func(*(self._beside(a, shape) for a in e.args)) if e.args else e
        moves = any(v.category not in STATIC for v in e.atoms(Vector))
        return Expand(e, Tuple(*shape), Tuple()) if moves and self._is_single(e) else e

    def _is_single(self, e: Expr) -> bool:
        return bool(self.shapes.axes(e) == SCALAR)


def _of_the_recurrence(cell: Cell) -> set[Vector]:
    """The quantities that depend on the step before."""
    late = set(cell.states)
    for e in cell.equations:
        if not late.isdisjoint(e.rhs.atoms(Vector)):
            late.add(e.lhs)
    return late


def _is_copy(e: Eq) -> bool:
    return isinstance(e.rhs, Concat) and e.lhs.category == "vector"
