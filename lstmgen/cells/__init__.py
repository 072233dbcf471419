"""The reference cells, a file each: the only place that knows any cell by name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from ..errors import LstmgenError, did_you_mean

if TYPE_CHECKING:
    from ..language.cell import Cell


def names() -> list[str]:
    """The names of the reference cells, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Cell:
    """The reference cell of that name.

    Raises
    ------
    LstmgenError
        If there is none; the message names the nearest.
    """
    if name not in names():
        near = did_you_mean(name, names())
        raise LstmgenError(f'no cell is called "{name}"; {near or "see: lstmgen cells"}')
    cell: Cell = importlib.import_module(f"{__name__}.{name}").cell
    return cell
