"""The reference cells, a file each, in a package for each family: the only place that knows any
cell by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from ..errors import LstmgenError, did_you_mean

if TYPE_CHECKING:
    from ..language.cell import Cell


@cache
def _families() -> dict[str, str]:
    """The family of each cell, by its name: without importing any."""
    found: dict[str, str] = {}
    for family in pkgutil.iter_modules(__path__):
        folders = [f"{home}/{family.name}" for home in __path__]
        found |= {module.name: family.name for module in pkgutil.iter_modules(folders)}
    return dict(sorted(found.items()))


def names(family: str | None = None) -> list[str]:
    """The names of the reference cells, or of those of a family, in alphabetical order."""
    return [name for name, of in _families().items() if family in (None, of)]


def families() -> dict[str, str]:
    """The families of the reference cells, and what each is, in a sentence."""
    known = sorted(set(_families().values()), key=_ORDER.index)
    return {name: str(importlib.import_module(f"{__name__}.{name}").__doc__) for name in known}


def family(name: str) -> str:
    """The family of the reference cell of that name.

    Raises
    ------
    LstmgenError
        If there is none; the message names the nearest.
    """
    if name not in _families():
        near = did_you_mean(name, names())
        raise LstmgenError(f'no cell is called "{name}"; {near or "see: lstmgen cells"}')
    return _families()[name]


def get(name: str) -> Cell:
    """The reference cell of that name.

    Raises
    ------
    LstmgenError
        If there is none; the message names the nearest.
    """
    cell: Cell = importlib.import_module(f"{__name__}.{family(name)}.{name}").cell
    return cell


# From what is known best to what is known least.
_ORDER = ["lstms", "grus", "single_gate", "plain", "linear", "memories", "continuous"]
