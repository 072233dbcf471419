"""A stack of equal layers as one cell, in which layer k runs k steps late.

At step t, layer k of a stack needs what layer k - 1 put out at step t: layers wait for each other.
Run it k steps late, and it needs what layer k - 1 put out one step before: then nothing that one
step computes depends on anything else of that step but the layer's own work, all layers are one
vector of L·H units, and L chains of dependent operations run side by side. In loops over time and
layers this is known as skewing, or as the wavefront method (Lamport 1974); in circuits as retiming
(Leiserson & Saxe 1991).

A sequence of T steps takes T + L - 1 steps. In the first L - 1 and in the last, some of the layers
rest: a second cell has a mask that says which.
"""

from __future__ import annotations

import sympy
from sympy import Eq, Expr

from ..errors import CellError
from ..language.cell import Cell
from ..language.declarations import concat, split
from ..language.functions import FUNCTIONS
from ..language.symbols import Vector

ACTIVE = "active"  # the mask: 1 for units that work at a step, 0 for those that rest
_SKEWED = "skewed"  # what each layer reads, side by side
_BELOW = "below"  # what the layers but the last put out one step before


def wavefront(cell: Cell, layers: int, *, first: Expr | None = None, masked: bool = False) -> Cell:
    """A cell of which one step is a step of ``layers`` layers, the k-th of them k steps late.

    Parameters
    ----------
    cell : Cell
        A layer. It has one input, of as many units as its output, and all its equations act unit
        by unit.
    layers : int
    first : Expr, optional
        What the first layer reads, made of the layer's input and of parameters of its own, as
        ``w * x``; by default the input itself.
    masked : bool
        Whether states keep their values where the mask ``active`` is 0.

    Returns
    -------
    Cell
        With the same names. All vectors but the input and the output have ``layers`` times the
        units, the first layer's before the second's. Its output is that of the last layer.

    Raises
    ------
    CellError
        If the cell is no such layer.
    """
    x, width = _checked(cell, layers)
    wide = {v: _wider(v, layers, width) for v in _own(cell) if v != x}
    skewed = Vector(_free(cell, _SKEWED), "vector", str(layers * width))
    out = wide[cell.output.at(0) if cell.output.category == "state" else cell.output]
    before, more = out.at(-1), []
    if out.category != "state" and layers > 1:
        before = Vector(_free(cell, _BELOW), "state", str((layers - 1) * width), -1)
        more = [Eq(before.next, _layers(out, layers, width)[0], evaluate=False)]
    equations = [Eq(skewed, _read(x if first is None else first, before, layers, width))]
    equations += [e.xreplace({x: skewed, **wide}) for e in cell.equations]
    if masked:
        equations = _resting(equations, Vector(ACTIVE, "mask", str(layers * width)))
    top = Vector(_free(cell, "top"), "vector", str(width))
    equations += [*more, Eq(top, _layers(out, layers, width)[1], evaluate=False)]
    name = f"{cell.name}_{layers}{'_masked' if masked else ''}"
    roles = {v: cell.roles[v.name] for v in _own(cell) if v.name in cell.roles}
    return Cell(
        name, equations, top, title=f"{layers} layers of {cell.name} in a wavefront",
        source=cell.source,
        roles={wide[v]: role for v, role in roles.items() if v != x and v.category != "state"},
    )  # fmt: skip


def _own(cell: Cell) -> list[Vector]:
    """All vectors of a cell at all times, in a settled order."""
    found = {v for e in cell.equations for v in e.atoms(Vector)}
    return sorted(found, key=lambda v: (v.name, v.time))


def _checked(cell: Cell, layers: int) -> tuple[Vector, Expr]:
    """The input of a cell that can be a layer, and how many units it has."""
    where = f"layers of {cell.name}"
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise CellError(f"there are {layers!r} layers", where=where, hint="give a positive number")
    if len(cell.inputs) != 1 or len(cell.outputs) != 1 or cell.masks:
        raise CellError(
            "a layer has one input and one output, and no masks",
            where=where, hint=f"this has {_names(cell.inputs + cell.masks)} and "
            f"{_names(cell.outputs)}",
        )  # fmt: skip
    (x,) = cell.inputs
    shape = cell.shape(x)
    known = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Number, sympy.NumberSymbol, Vector)
    for e in cell.equations:
        for node in sympy.preorder_traversal(e.rhs):
            if not isinstance(node, (*known, *FUNCTIONS, sympy.Tuple)):
                raise CellError(
                    f"{e.lhs} mixes units: {node}",
                    where=where, hint="a wavefront takes cells that act unit by unit",
                )  # fmt: skip
        for v in e.atoms(Vector):
            if v.category != "constant" and cell.shape(v) != shape:
                raise CellError(
                    f"{v} has {cell.shape(v)} units, the input {shape}",
                    where=where, hint="in a layer, all but constants have as many",
                )  # fmt: skip
    if len(shape) != 1:
        raise CellError(f"{x} has {len(shape)} axes", where=where, hint="it has one")
    return x, shape[0]


def _names(vectors: tuple[Vector, ...]) -> str:
    return ", ".join(v.name for v in vectors) or "none"


def _wider(v: Vector, layers: int, width: Expr) -> Vector:
    if v.category == "constant":
        return v
    return Vector(v.name, v.category, str(layers * width), v.time, v.value, v.learned)


def _free(cell: Cell, name: str) -> str:
    """``name``, or that with underscores, so that no symbol of the cell has it."""
    taken = {v.name for v in _own(cell)}
    while name in taken:
        name += "_"
    return name


def _layers(value: Expr, layers: int, width: Expr) -> tuple[Expr, Expr]:
    """All layers but the last, and the last."""
    if layers == 1:
        return value, value
    rest, last = split(value, str((layers - 1) * width), str(width))
    return rest, last


def _read(first: Expr, before: Vector, layers: int, width: Expr) -> Expr:
    """What layers read: the first of them the input, others what the one below has put out."""
    if layers == 1:
        return first
    is_all = before.axes == (str(layers * width),)
    return concat(first, _layers(before, layers, width)[0] if is_all else before)


def _resting(equations: list[Eq], active: Vector) -> list[Eq]:
    """States whose units keep their values where the mask is 0: exact, since that is 0 or 1."""
    new: dict[Vector, Vector] = {}
    for e in equations:
        if e.lhs.category == "state":
            new[e.lhs] = Vector(f"{e.lhs.name}_new", "vector", e.lhs.axes)
    out: list[Eq] = []
    for e in equations:
        out.append(e.xreplace(new))
        if e.lhs in new:
            kept = active * new[e.lhs] + (1 - active) * e.lhs.at(-1)
            out.append(Eq(e.lhs, kept, evaluate=False))
    return out
