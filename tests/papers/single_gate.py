"""Cells with one gate, or few."""

import torch
from torch import sigmoid, tanh

from . import transcribed


def affine(p, gate: str, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """W x + U h + b."""
    return x @ p[f"W_{gate}"].mT + h @ p[f"U_{gate}"].mT + p[f"b_{gate}"]


@transcribed(D=3, H=5)
def mgu(p, x, s, g):
    h = s["h"]
    f = sigmoid(affine(p, "f", x, h))
    n = tanh(affine(p, "n", x, f * h))
    h = (1 - f) * h + f * n
    return h, {"h": h}
