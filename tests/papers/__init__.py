"""The cells of the zoo, written down a second time: from their papers, in PyTorch.

None of it is derived from the library's own files. Each function is one step::

    @transcribed(D=3, H=5)
    def mgu(p, x, s, g):
        f = sigmoid(x @ p["W_f"].mT + s["h"] @ p["U_f"].mT + p["b_f"])
        n = tanh(x @ p["W_n"].mT + (f * s["h"]) @ p["U_n"].mT + p["b_n"])
        h = (1 - f) * s["h"] + f * n
        return h, {"h": h}

``p`` are the parameters, by the names of the library's file; ``x`` the input, (B, D), or a dict of
several; ``s`` the states, (B, H); ``g`` constants, and masks, (B, H), by name. What comes back is
the output, or a dict of several, and the new states.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Transcription:
    """One step of a cell, and the sizes it is tried with."""

    step: Callable[..., Any]
    sizes: dict[str, int]


_KNOWN: dict[str, Transcription] = {}


def transcribed(**sizes: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a step for the cell of the function's name."""

    def register(step: Callable[..., Any]) -> Callable[..., Any]:
        assert step.__name__ not in _KNOWN
        _KNOWN[step.__name__] = Transcription(step, sizes)
        return step

    return register


def known() -> dict[str, Transcription]:
    """All transcriptions, by the name of the cell."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _KNOWN
