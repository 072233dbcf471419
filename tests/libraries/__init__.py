"""Cells of the zoo, as libraries of others have them.

Each function hands the parameters of a cell, under its names, to a layer of a library, and computes
nothing that the library has itself. It is differentiated with the layer, so that gradients come
back under our names::

    @held("ran", "torchrecurrent", "D=3 H=5")
    def RANCell(p, x, s, g):
        ...
        return h, {"h": h, "c": c}

is one step, with arguments as in ``papers``. With ``whole=True`` it is a pass over a sequence:
inputs come as a dict of (T, B, D), and outputs go as one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layer:
    """A layer of a library, the cell that it is, and how to try it.

    ``tolerance`` is what both differ by at most, relative to the largest entry of a gradient.
    ``only`` has a mask of the entries of a parameter that the library knows; the others are to be
    0, and their gradients are not compared.
    """

    cell: str
    library: str
    run: Callable[..., Any]
    sizes: dict[str, int]
    whole: bool = False
    tolerance: float = 1e-11
    only: dict[str, np.ndarray] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.cell}-{self.library}-{self.run.__name__}"


_KNOWN: list[Layer] = []


def held(cell: str, library: str, sizes: str, **options: Any) -> Callable[..., Any]:
    """Register what a library has of a cell, to be tried with some sizes."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        numbers = {n: int(v) for n, v in (part.split("=") for part in sizes.split())}
        _KNOWN.append(Layer(cell, library, run, numbers, **options))
        return run

    return register


def known() -> list[Layer]:
    """All layers; no library is imported before one is run."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _KNOWN


def stacked(p: dict[str, Any], symbol: str, gates: str, axis: int = 0) -> Any:
    """Parameters of several gates, one below the other, in a library's order."""
    import torch

    return torch.cat([p[f"{symbol}_{gate}"] for gate in gates.split()], axis)
