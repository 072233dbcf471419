"""Who made a tape, as far as it matters to who reads it: the cell, its equations, and lstmgen."""

from __future__ import annotations

import hashlib

import sympy

from .. import __version__
from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.symbols import Vector

_DIGITS = 12


def maker(cell: Cell) -> dict[str, str]:
    """What a generated module says of itself: its cell by name and by equations, and lstmgen."""
    return {"cell": cell.name, "equations": fingerprint(*_facts(cell)), "lstmgen": __version__}


def fingerprint(*facts: str) -> str:
    """Some hexadecimal digits that follow from ``facts`` alone."""
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:_DIGITS]


def _facts(cell: Cell) -> list[str]:
    """All that what is kept for the backward pass can depend on."""
    equations = [f"{_spelled(e.lhs)} = {_spelled(e.rhs)}" for e in cell.equations]
    symbols = (*cell.parameters, *cell.inputs, *cell.masks, *cell.states, *cell.vectors)
    shapes = [f"{s} {cell.shape(s)}" for s in symbols]
    unlearned = [f"{p} is not learned" for p in cell.parameters if not p.learned]
    return [*map(str, cell.outputs), *equations, *shapes, *unlearned]


def _spelled(e: sympy.Basic) -> str:
    """All that makes an expression what it is. What may be exchanged is in alphabetical order: the
    order that SymPy keeps it in depends on what else the process has made.
    """
    if isinstance(e, (Vector, Matrix)):
        return f"{e}:{','.join(e.axes)}"
    if not e.args:
        return str(sympy.srepr(e))
    args = [_spelled(a) for a in e.args]
    if isinstance(e, (sympy.Add, sympy.Mul, sympy.Max, sympy.Min, sympy.And, sympy.Or)):
        args.sort()
    return f"{e.func.__name__}({', '.join(args)})"
