"""Who made a tape, as far as it matters to who reads it: the cell, its equations, and lstmgen."""

from __future__ import annotations

import hashlib

import sympy

from .. import __version__
from ..language.cell import Cell

_DIGITS = 12


def maker(cell: Cell) -> dict[str, str]:
    """What a generated module says of itself: its cell by name and by equations, and lstmgen."""
    return {"cell": cell.name, "equations": fingerprint(*_facts(cell)), "lstmgen": __version__}


def fingerprint(*facts: str) -> str:
    """Some hexadecimal digits that follow from ``facts`` alone."""
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:_DIGITS]


def _facts(cell: Cell) -> list[str]:
    """All that what is kept for the backward pass can depend on."""
    # str has the steps that srepr leaves out, and srepr the digits that str does
    equations = [f"{e} {sympy.srepr(e)}" for e in cell.equations]
    symbols = (*cell.parameters, *cell.inputs, *cell.masks, *cell.states, *cell.vectors)
    shapes = [f"{s} {cell.shape(s)}" for s in symbols]
    return [str(cell.output), *equations, *shapes]
