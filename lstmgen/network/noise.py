"""Noise within a cell, as a change of its equations: the cell that comes out is one like any other.

Its masks are inputs of every step, and its gradients are derived with them.
"""

from __future__ import annotations

from functools import cache

from sympy import Eq, Expr

from ..errors import CellError
from ..language.cell import Cell
from ..language.declarations import masks, vectors
from ..language.symbols import Product, Vector


@cache
def drop_recurrent(cell: Cell) -> tuple[Cell, tuple[str, ...]]:
    """``cell`` with a mask on every state that a learned matrix reads: U (m h) for U h.

    With one mask for a whole sequence, that is variational dropout (Gal & Ghahramani 2016). What
    is carried on elementwise, such as a cell state, is not touched. Returns the names of the masks.

    Raises
    ------
    CellError
        If no product reads a state.
    """
    read = [
        s for s in cell.states
        if any(s in p.operand.atoms(Vector) for e in cell.equations for p in e.rhs.atoms(Product))
    ]  # fmt: skip
    if not read:
        raise CellError(
            f"{cell.name} has no matrix that reads a state: recurrent dropout drops nothing",
            hint="zoneout works for every state",
        )
    dropped = {s: _mask(cell, s, "drop") * s for s in read}
    equations = [
        Eq(
            e.lhs,
            e.rhs.xreplace(
                {p: p.func(p.matrix, p.operand.xreplace(dropped)) for p in e.rhs.atoms(Product)}
            ),
            evaluate=False,
        )
        for e in cell.equations
    ]
    return _changed(cell, equations, "dropout"), tuple(f"drop_{s.name}" for s in read)


@cache
def zone_out(cell: Cell) -> tuple[Cell, tuple[str, ...]]:
    """``cell`` in which a mask makes units of a state keep their old value (Krueger et al. 2016).

    h′ = m h + (1 - m) h_new. As in the paper's equations 5 and 6, what the step computes from
    another state's new value reads that before it is held. Returns the names of the masks.

    Raises
    ------
    CellError
        If the cell has no states.
    """
    if not cell.states:
        raise CellError(f"{cell.name} has no state that zoneout could hold")
    new = {s.next: vectors(f"{s.name}_new", shape=_axes(cell, s)) for s in cell.states}
    equations: list[Eq] = []
    for e in cell.equations:
        rhs = e.rhs.xreplace(new)
        if e.lhs not in new:
            equations.append(Eq(e.lhs, rhs, evaluate=False))
            continue
        s, m = e.lhs.at(-1), _mask(cell, e.lhs.at(-1), "hold")
        equations.append(Eq(new[e.lhs], rhs, evaluate=False))
        equations.append(Eq(e.lhs, m * s + (1 - m) * new[e.lhs], evaluate=False))
    return _changed(cell, equations, "zoneout"), tuple(f"hold_{s.name}" for s in cell.states)


def _mask(cell: Cell, s: Vector, what: str) -> Expr:
    made: Expr = masks(f"{what}_{s.name}", shape=_axes(cell, s))
    return made


def _axes(cell: Cell, s: Vector) -> tuple[str, ...]:
    return tuple(map(str, cell.shape(s)))


def _changed(cell: Cell, equations: list[Eq], by: str) -> Cell:
    """A cell like ``cell`` with other equations, called after it."""
    starts = {p: start for p in cell.parameters if (start := cell.initial(p)) is not None}
    names = {v.name: v for e in equations for v in e.atoms(Vector)}
    roles = {names[name]: role for name, role in cell.roles.items() if name in names}
    return Cell(
        f"{cell.name}_{by}", equations, cell.outputs, title=f"{cell.title} with {by}",
        source=cell.source, notes=cell.notes, init=starts, roles=roles,
    )  # fmt: skip
