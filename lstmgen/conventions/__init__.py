"""How frameworks keep the parameters of recurrent layers, as explicit values."""

from __future__ import annotations

from collections.abc import Iterable

from .. import cells
from ..language.cell import Cell


def reference_of(cell: Cell, names: Iterable[str]) -> str | None:
    """Which of the reference cells called ``names`` has the very equations of ``cell``."""
    for name in names:
        known = cells.get(name)
        if cell.equations == known.equations and cell.outputs == known.outputs:
            return name
    return None
