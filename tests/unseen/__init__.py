"""Cells that are not in the zoo, as their authors might write them, each beside a step in PyTorch.

The step is written from the paper's equations, over rows of a batch, and knows nothing of the
cell's: ``p`` are parameters by name, ``x`` the input, or a dict of several, ``s`` the states, ``g``
the masks. It returns the output, or a dict of several, and the new states.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

import torch

from lstmgen import Cell, read_cell


@dataclass(frozen=True)
class Unseen:
    """A cell as text, or a function that makes it; a step of it; the sizes that it is tried with.

    ``drawn`` has what a quantity is drawn from, if not from normal numbers: its least and largest
    value, or a function of a generator and a shape.
    """

    source: str | Callable[[], Cell]
    step: Callable[..., Any]
    sizes: tuple[dict[str, int], ...]
    drawn: dict[str, Any]

    def cell(self) -> Cell:
        return read_cell(dedent(self.source)) if isinstance(self.source, str) else self.source()


KNOWN: dict[str, Unseen] = {}


def unseen(
    source: str | Callable[[], Cell], *sizes: dict[str, int], **drawn: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a step under the function's name."""

    def register(step: Callable[..., Any]) -> Callable[..., Any]:
        assert step.__name__ not in KNOWN
        KNOWN[step.__name__] = Unseen(source, step, sizes, drawn)
        return step

    return register


def coin(rng: Any, shape: tuple[int, ...]) -> Any:
    """A mask of ones and zeros."""
    return (rng.random(shape) < 0.6).astype(float)


def times(matrix: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """W u for each row of the batch; of a matrix for each head, with one vector for all."""
    if matrix.dim() == 2:
        return u @ matrix.mT
    return torch.einsum("nij,bj->bni", matrix, u)


def known() -> dict[str, Unseen]:
    """All of them, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return KNOWN
