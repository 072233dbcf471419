"""A cell that carries a tangent: Jacobian-vector products, and backwards Hessian-vector products.

A cell and its tangents in one step are a cell again. Run forward it has the outputs y and what a
change of parameters, inputs and initial states does to them, ẏ = J v. Run backward from what the
loss does to ẏ, which is ∂L/∂y, and from the change of ∂L/∂y along v, it has the change of the
gradient along v: the Hessian of the loss times v, H v (Pearlmutter, "Fast exact multiplication by
the Hessian", 1994). Backwards over ẏ and y together, which is reverse over forward mode, comes to
the products of forward over reverse mode: both are ∂/∂θ ⟨∂L/∂θ, v⟩.
"""

from __future__ import annotations

from collections.abc import Mapping

from sympy import Eq, Expr

from ..errors import CellError, require_cell
from ..language.cell import Cell
from ..language.matrices import Matrix, as_matrix
from ..language.symbols import Vector
from .forward import Tangents, along, forward, is_tangent
from .linear import Symbol
from .names import namer_for
from .plain import of_cell, plain


def tangent(cell: Cell, *, inputs: bool = True) -> Cell:
    """The cell that carries a tangent beside ``cell``.

    Its parameters are those of ``cell``, and for each learned one, ``W``, the direction in which it
    changes, ``W_dot``, which is not learned and starts at zero. ``x_dot`` is a mask, ``h_dot`` a
    state, and ``y_dot`` an output, in addition to those of the cell.

    Forward gives y and y_dot, a Jacobian-vector product. Backward, with ``dy["y_dot"]`` = ∂L/∂y and
    ``dy["y"]`` the change of ∂L/∂y (its own derivative by y, times y_dot), gives gradients that are
    Hessian-vector products.

    Parameters
    ----------
    cell : Cell
    inputs : bool
        Whether the inputs change, too. Without that, there are fewer products to compute.

    Raises
    ------
    CellError
        If no output depends on what changes.
    """
    require_cell(cell)
    tangents = forward(cell.equations, cell.shapes, kept=cell.outputs)
    lines = _lines(cell, tangents, inputs)
    swap = _directions(cell, tangents)
    made = {e.lhs for e in lines}
    outputs, moving = (
        [swap[t] for v in found if (t := tangents.symbols.get(v)) in made]
        for found in (cell.outputs, [s.at(0) for s in cell.states])
    )
    if not outputs:
        raise CellError(
            f"no output of {cell.name} depends on a learned parameter, a state or an input",
            where=f"the tangent of {cell.name}",
        )
    beside: dict[Expr, list[Eq]] = {}  # with each equation, those of its tangent
    place = {t.lhs: e.lhs for e, of in tangents.lines for t in of}
    for e in lines:
        line = Eq(_renamed(e.lhs, swap), _renamed(e.rhs, swap), evaluate=False)
        beside.setdefault(place[e.lhs], []).append(line)
    equations = [x for e in tangents.forward for x in (e, *beside.get(e.lhs, ()))]
    matrices = [p for p in cell.parameters if isinstance(p, Matrix)]
    matrices += [m for m in swap.values() if isinstance(m, Matrix)]
    kept = [*cell.outputs, *outputs]
    written = plain(equations, [*kept, *cell.states, *moving], matrices, cell.shapes)
    return Cell(
        f"{cell.name}_tangent", written, kept,
        title=f"{cell.title or cell.name}, with a tangent", notes=_NOTES, **of_cell(cell, written),
    )  # fmt: skip


def directions(cell: Cell) -> dict[str, str]:
    """What ``tangent(cell)`` calls the directions of parameters, inputs, states and outputs, by the
    names of these. Not all of them need be there: see ``tangent``.
    """
    tangents = forward(cell.equations, cell.shapes, kept=cell.outputs)
    swap = _directions(cell, tangents)
    return {symbol.name: swap[change].name for symbol, change in tangents.symbols.items()}


_NOTES = (
    "What ends in _dot is the change of what it is named after. Forward: *_dot of the outputs is "
    "a Jacobian-vector product. Backward, from the derivative of a loss by y given as that by "
    "y_dot, and from its change along the direction given as that by y: Hessian-vector products."
)


def _lines(cell: Cell, tangents: Tangents, inputs: bool) -> list[Eq]:
    """The equations of what moves. A state moves if it does after a step in which all others do,
    and a matrix that is made of parameters if its quantity does.
    """
    steps = [e for e in tangents.equations if isinstance(e.lhs, Vector)]
    symbols = tangents.symbols
    quantities = {s.name: s for s in symbols if isinstance(s, Vector) and s.category == "derived"}
    if_made: dict[Expr, Expr] = {symbols[s]: symbols[s.at(0)] for s in cell.states if s in symbols}
    for m in symbols:
        if isinstance(m, Matrix) and m.name in quantities:
            if_made[symbols[m]] = symbols[quantities[m.name]]
    given = {*if_made, *(t for s, t in symbols.items() if _is_given(s, inputs))}
    while True:
        lines = along(steps, given)
        made = {e.lhs for e in lines}
        still = {t for t in given if t in if_made and if_made[t] not in made}
        if not still:
            return lines
        given -= still


def _is_given(symbol: Expr, inputs: bool) -> bool:
    """Whether a user says how ``symbol`` changes."""
    if isinstance(symbol, Matrix):
        return True
    return symbol.category == "parameter" or (inputs and symbol.category == "input")


def _directions(cell: Cell, tangents: Tangents) -> dict[Expr, Symbol]:
    """From each tangent to what it is in the cell that carries it."""
    namer = namer_for(cell, tangents.forward)
    names: dict[str, str] = {}
    swap: dict[Expr, Symbol] = {}
    made = {e.lhs.name for e in tangents.forward if e.lhs.category == "derived"}
    for symbol, change in tangents.symbols.items():
        if symbol.name not in names:
            names[symbol.name] = namer(f"{symbol.name}_dot")
        swap[change] = _direction(symbol, names[symbol.name], cell, symbol.name in made)
    return swap


def _direction(symbol: Symbol, name: str, cell: Cell, is_made: bool) -> Symbol:
    axes = cell.shapes.declared(symbol)
    if isinstance(symbol, Matrix):
        if is_made:
            return as_matrix(Vector(name, "derived", axes))
        *heads, rows, columns = axes
        about = False, tuple(heads), False, 0.0, False
        return Matrix(name, rows, columns, *about)
    if symbol.category == "parameter":
        return Vector(name, "parameter", axes, 0, 0.0, False)
    category = "mask" if symbol.category == "input" else symbol.category
    return Vector(name, category, axes, symbol.time)


def _renamed(e: Expr, swap: Mapping[Expr, Symbol]) -> Expr:
    matrices = {m: swap[m.base].like(m) for m in e.atoms(Matrix) if m.base in swap}
    vectors = {v: swap[v] for v in e.atoms(Vector) if is_tangent(v)}
    made: Expr = e.xreplace({**matrices, **vectors})
    return made
