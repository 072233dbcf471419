"""The cells between layers. They have no state: their equations hold at every step by itself."""

from __future__ import annotations

from functools import cache

from sympy import Eq

from ..language.cell import Cell
from ..language.declarations import inputs, masks, matrix, vector, vectors
from ..language.functions import sigmoid


@cache
def readout() -> Cell:
    """y = W x + b."""
    x, y = inputs("x"), vectors("y")
    W, b = matrix("W"), vector("b")
    return Cell("readout", [Eq(y, W @ x + b)], y, title="linear readout")


@cache
def dropout() -> Cell:
    """y = m x, where the mask m is 0 for what is dropped (Srivastava et al. 2014)."""
    x, y, m = inputs("x"), vectors("y", size="D"), masks("m", size="D")
    return Cell("dropout", [Eq(y, m * x)], y, title="dropout", source="Srivastava et al. 2014")


@cache
def addition() -> Cell:
    """y = x + u: a residual connection, or the sum of two directions."""
    x, u = inputs("x u")
    y = vectors("y", size="D")
    return Cell("addition", [Eq(y, x + u)], y, title="sum of two signals")


@cache
def highway() -> Cell:
    """y = t u + (1 - t) x, with a learned gate t (Srivastava et al. 2015).

    x is what goes into the layer and u what comes out of it. The gate starts nearly shut, as the
    paper has it (section 2.2): b = -1.
    """
    x, u = inputs("x u")
    t, y = vectors("t y", size="D")
    W, b = matrix("W"), vector("b", init=-1.0)
    return Cell(
        "highway",
        [Eq(t, sigmoid(W @ x + b)), Eq(y, t * u + (1 - t) * x)],
        y,
        title="highway connection",
        source="Srivastava et al. 2015",
        roles={t: "transform gate"},
    )
