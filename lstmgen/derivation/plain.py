"""From equations in normal form back to a cell: what is derived of a cell is a cell again.

A quantity that is made of parameters is a matrix where products use it, and a matrix among the
operands of such a quantity stands for its entries, as users write both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sympy import Eq, Expr

from ..language.cell import Cell
from ..language.matrices import Matrix, as_matrix, entries
from ..language.shapes import Shapes
from ..language.symbols import Contract, Product, Transpose, Vector
from .forward import read


def plain(
    lines: Sequence[Eq], kept: Collection[Vector], matrices: Sequence[Matrix], shapes: Shapes
) -> list[Eq]:
    """The lines as users write equations, without those that nothing that is ``kept`` needs.

    Parameters
    ----------
    lines : sequence of Eq
        In normal form, in an order in which they can be run.
    kept : collection of Vector
        Outputs and states.
    matrices : sequence of Matrix
        Of the parameters.
    shapes : Shapes
        Of the cell that the lines come from: what told a size there may be gone.
    """
    given = {m.name: entries(m) for m in matrices}
    used = {p.matrix.name for e in lines for p in e.rhs.atoms(Product)}
    used |= {v.name for e in lines if _is_derived(e.lhs) for v in _matrices(e.rhs, given)}
    moving = {v for e in lines if not _is_derived(e.lhs) for v in e.rhs.atoms(Vector)}
    swap: dict[Expr, Expr] = {
        v: given[v.name]
        for e in lines
        for v in e.rhs.atoms(Vector)
        if v.category == "parameter" and v.name in given
    }
    swap |= {
        v: Vector(v.name, v.category, shapes.declared(v), 0, v.value, v.learned)
        for e in lines
        for v in e.rhs.atoms(Vector)
        if v.category == "parameter" and v.axes == ("",)
    }
    found = []
    for e in lines:
        lhs, rhs = e.lhs, _of(e.rhs, swap)
        if _is_derived(lhs) and lhs.name in used:
            swap[lhs] = entries(as_matrix(lhs))
            found.append(Eq(as_matrix(lhs), rhs, evaluate=False))
        elif _is_derived(lhs) and lhs not in moving:
            swap[lhs] = rhs  # what a matrix is made of stands in its own equation
        elif _is_derived(lhs):
            swap[lhs] = Vector(lhs.name, "vector", lhs.axes)
            found.append(Eq(swap[lhs], _with_products(rhs), evaluate=False))
        else:
            found.append(Eq(lhs, rhs, evaluate=False))
    return _needed(found, kept)


def _matrices(e: Expr, given: Mapping[str, Expr]) -> set[Vector]:
    """What is made of parameters, and multiplied by a vector that is, too."""
    found: set[Vector] = set()
    for contraction in e.atoms(Contract):
        a, b, _ = contraction.args
        matrices = [v for v in (a, b) if len(v.axes) > 1 and (_is_derived(v) or v.name in given)]
        found |= {v for v in matrices[:1] if v.name not in given}  # what it multiplies is none
    return found


def of_cell(cell: Cell, lines: Sequence[Eq]) -> dict[str, Any]:
    """What the cell that is made of these lines takes over: its source, and of the symbols that are
    left how they start and what they are called.
    """
    left = {s.name: s for e in lines for s in (e.lhs, *read(e.rhs))}
    starts = {p.name: cell.initial(p) for p in cell.parameters}
    return {
        "source": cell.source,
        "init": {left[n]: v for n, v in starts.items() if n in left and v is not None},
        "roles": {left[n]: role for n, role in cell.roles.items() if n in left},
    }


def _is_derived(v: Expr) -> bool:
    return isinstance(v, Vector) and v.category == "derived"


def _of(e: Expr, swap: Mapping[Expr, Expr]) -> Expr:
    made: Expr = e.replace(
        lambda n: isinstance(n, Product) and n.matrix.merged,
        lambda n: Product(n.matrix.apart(), n.operand),
    )
    made = made.xreplace(swap)
    return made.replace(
        lambda n: isinstance(n, Transpose) and isinstance(n.operand, Matrix),
        lambda n: entries(n.operand.T),
    )


def _with_products(e: Expr) -> Expr:
    """Contractions of a matrix with a vector as products."""
    return e.replace(lambda n: isinstance(n, Contract) and n.has(Matrix), _product)


def _product(e: Contract) -> Expr:
    (left, right, out), (a, b, _) = e.spec, e.args
    letters, matrix, operand = (left, a, b) if isinstance(a, Matrix) else (right, b, a)
    if not isinstance(matrix, Matrix) or out[-1] not in letters[-2:]:
        return e
    whole = matrix.base.T if matrix.transposed else matrix.base
    return Product(whole if letters[-2] in out else whole.T, operand)


def _needed(lines: Sequence[Eq], kept: Collection[Vector]) -> list[Eq]:
    """The lines that what is kept is made of; a state that is read was made in the step before."""
    made: dict[Expr, Eq] = {e.lhs: e for e in lines}
    wanted: set[Expr] = set()
    todo: list[Expr] = list(kept)
    while todo:
        v = todo.pop()
        v = v.at(0) if isinstance(v, Vector) and v.category == "state" else v
        if v in made and v not in wanted:
            wanted.add(v)
            todo += read(made[v].rhs)
    return [e for e in lines if e.lhs in wanted]
