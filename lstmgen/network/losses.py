"""Losses: cells without a state, from what is predicted and what was wanted to one number a row.

Their equations are like those of any cell, and so is their gradient: y is an input, and the target
a mask, into which no gradient flows. What a batch loses is the mean over the rows that count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sympy
from sympy import Eq

from ..errors import LstmgenError, did_you_mean
from ..language.cell import Cell
from ..language.declarations import constants, inputs, masks, vectors
from ..language.functions import softplus, stop_gradient
from ..language.misuse import short
from ..language.symbols import max_, mean, named, sum_


@dataclass(frozen=True)
class Loss:
    """What is minimised.

    Parameters
    ----------
    cell : Cell
        One input, what is predicted; one mask, what was wanted; one output, a single number.
    of_classes : bool
        Whether what was wanted is given as the number of a class, for which the mask is 1 at its
        place and 0 elsewhere. Rows whose class is negative do not count.
    """

    cell: Cell
    of_classes: bool = False

    def __post_init__(self) -> None:
        cell = self.cell
        kinds = len(cell.inputs), len(cell.masks), len(cell.outputs)
        if kinds != (1, 1, 1) or cell.states or cell.parameters:
            raise LstmgenError(
                f"{cell.name} is not a loss: a loss has one input, what is predicted, one mask, "
                "what was wanted, one output, and no states or parameters"
            )
        if cell.shape(cell.output) != (1,):
            raise LstmgenError(
                f"the loss {cell.name} puts out {cell.output}, which is no single number\n"
                f'  hint: vectors("{cell.output}", size=1), and a mean or a sum over units'
            )


@cache
def cross_entropy() -> Loss:
    """-log of the probability that softmax(y) gives to the class that was wanted.

    log Σ exp(y - m) + m - Σ t y, where m is the largest y: no exponential overflows.
    """
    y, t = inputs("y"), masks("t", size="D")
    m, loss = vectors("m loss", size=1)
    return Loss(
        Cell(
            "cross_entropy",
            [
                Eq(m, stop_gradient(max_(y))),
                Eq(loss, sympy.log(named(sum_(sympy.exp(y - m)), "z")) + m - sum_(t * y)),
            ],
            loss,
            title="softmax cross-entropy",
        ),
        of_classes=True,
    )


@cache
def mean_squared() -> Loss:
    """The mean of (y - t)² over the units of a row."""
    y, t = inputs("y"), masks("t", size="D")
    loss = vectors("loss", size=1)
    cell = Cell("mean_squared", [Eq(loss, mean((y - t) ** 2))], loss, title="mean squared error")
    return Loss(cell)


@cache
def huber() -> Loss:
    """The mean of e²/2 where |e| ≤ δ, else δ (|e| - δ/2), with e = y - t (Huber 1964)."""
    y, t = inputs("y"), masks("t", size="D")
    delta = constants("delta", value=1.0)
    (e, r), loss = vectors("e r", size="D"), vectors("loss", size=1)
    cell = Cell(
        "huber",
        [
            Eq(e, y - t),
            Eq(
                r,
                sympy.Piecewise(
                    (e**2 / 2, sympy.Abs(e) <= delta), (delta * (sympy.Abs(e) - delta / 2), True)
                ),
            ),
            Eq(loss, mean(r)),
        ],
        loss,
        title="Huber loss",
        source="Huber 1964",
    )
    return Loss(cell)


@cache
def binary_cross_entropy() -> Loss:
    """-t log σ(y) - (1 - t) log(1 - σ(y)), the mean over units: softplus(y) - t y."""
    y, t = inputs("y"), masks("t", size="D")
    loss = vectors("loss", size=1)
    cell = Cell(
        "binary_cross_entropy", [Eq(loss, mean(softplus(y) - t * y))], loss,
        title="binary cross-entropy of logits",
    )  # fmt: skip
    return Loss(cell)


LOSSES = {
    "cross_entropy": cross_entropy,
    "mean_squared": mean_squared,
    "huber": huber,
    "binary_cross_entropy": binary_cross_entropy,
}


def find_loss(given: object) -> Loss:
    """A loss by its name, or as it is.

    Raises
    ------
    LstmgenError
        If it is not one.
    """
    if isinstance(given, Loss):
        return given
    if isinstance(given, Cell):
        return Loss(given)
    if isinstance(given, str) and given in LOSSES:
        return LOSSES[given]()
    near = did_you_mean(str(given), LOSSES)
    raise LstmgenError(
        f"the loss is {short(repr(given))}\n"
        f"  hint: {near} the losses are {', '.join(LOSSES)}, or a Loss of your own"
    )
