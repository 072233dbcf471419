"""Optimisers: cells whose input is a gradient and whose states are the parameter and its moments.

One step of such a cell is one update, elementwise: p is the parameter, g the gradient, ``rate`` the
learning rate. What the number of updates so far decides is computed before (``Optimizer.numbers``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from sympy import Eq, Expr, Integer, Symbol, sqrt

from ..errors import LstmgenError, did_you_mean
from ..language.cell import Cell
from ..language.declarations import constants, inputs, states, vectors
from ..language.misuse import short

UPDATE = Symbol("k", integer=True, positive=True)  # the number of this update, from 1 on


@dataclass(frozen=True)
class Optimizer:
    """How parameters change.

    Parameters
    ----------
    cell : Cell
        Its input is g, one of its states p, and its output p.
    constants : mapping of str to float
        Values of its constants, the ``rate`` aside.
    counted : mapping of str to Expr
        Constants that follow from the number of the update, ``UPDATE``.
    """

    cell: Cell
    constants: Mapping[str, float]
    counted: Mapping[str, Expr] = field(default_factory=dict)

    @property
    def moments(self) -> tuple[str, ...]:
        """The states beside the parameter: arrays that each parameter has of its own."""
        return tuple(s.name for s in self.cell.states if s.name != "p")


def SGD(momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> Optimizer:
    """Gradient descent, with momentum as PyTorch has it: v = μ v + g, p = p - rate v."""
    values = _numbers(momentum=momentum, weight_decay=weight_decay)
    if nesterov and not momentum:
        raise LstmgenError("Nesterov's gradient looks ahead along the momentum: give momentum=0.9")
    decays = bool(weight_decay)
    made = _momentum(nesterov, decays) if momentum else _descent(decays)
    return Optimizer(made, {k: v for k, v in values.items() if v})


def RMSprop(decay: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0) -> Optimizer:
    """p = p - rate g / (√v + ε), where v is a running mean of g² (Tieleman & Hinton 2012)."""
    values = _numbers(decay=decay, eps=eps, weight_decay=weight_decay)
    return Optimizer(_rmsprop(bool(weight_decay)), {k: v for k, v in values.items() if v})


def Adam(
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """Adam (Kingma & Ba 2015, algorithm 1); weight decay is part of the gradient."""
    return _of_adam(beta1, beta2, eps, weight_decay, decoupled=False)


def AdamW(
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""
    return _of_adam(beta1, beta2, eps, weight_decay, decoupled=True)


OPTIMIZERS = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def find_optimizer(given: object) -> Optimizer:
    """An optimiser by its name, or as it is.

    Raises
    ------
    LstmgenError
        If it is not one.
    """
    if isinstance(given, Optimizer):
        return given
    if isinstance(given, str) and given.lower() in OPTIMIZERS:
        return OPTIMIZERS[given.lower()]()
    near = did_you_mean(str(given).lower(), OPTIMIZERS)
    raise LstmgenError(
        f"the optimizer is {short(repr(given))}\n"
        f"  hint: {near} they are {', '.join(OPTIMIZERS)}, or Adam(beta1=0.8) and the like"
    )


# --------------------------------------------------------------------------- their equations


def _decayed(g: Expr, p: Expr, decays: bool) -> Expr:
    """The gradient with that of a penalty w p²/2."""
    return g + constants("weight_decay") * p if decays else g


@cache
def _descent(decays: bool) -> Cell:
    g, p, rate = inputs("g", size="H"), states("p"), constants("rate")
    return Cell("sgd", [Eq(p.next, p - rate * _decayed(g, p, decays))], p, title="gradient descent")


@cache
def _momentum(nesterov: bool, decays: bool) -> Cell:
    g, (p, v) = inputs("g", size="H"), states("p v")
    rate, momentum, d = constants("rate"), constants("momentum"), vectors("d")
    step = d + momentum * v.next if nesterov else v.next
    return Cell(
        "nesterov" if nesterov else "momentum",
        [
            Eq(d, _decayed(g, p, decays)),
            Eq(v.next, momentum * v + d),
            Eq(p.next, p - rate * step),
        ],
        p,
        title="gradient descent with momentum",
    )


@cache
def _rmsprop(decays: bool) -> Cell:
    g, (p, v) = inputs("g", size="H"), states("p v")
    (rate, decay, eps), d = constants("rate decay eps"), vectors("d")
    return Cell(
        "rmsprop",
        [
            Eq(d, _decayed(g, p, decays)),
            Eq(v.next, decay * v + (1 - decay) * d**2),
            Eq(p.next, p - rate * d / (sqrt(v.next) + eps)),
        ],
        p,
        title="RMSprop",
        source="Tieleman & Hinton 2012",
    )


@cache
def _adam(decays: bool, decoupled: bool) -> Cell:
    """c1 and c2 are 1 - βᵏ, by which means that began at zero are too small after k updates."""
    g, (p, m, v) = inputs("g", size="H"), states("p m v")
    rate, beta1, beta2, eps, c1, c2 = constants("rate beta1 beta2 eps c1 c2")
    d, kept = vectors("d"), p
    if decays and decoupled:
        kept = p * (1 - rate * constants("weight_decay"))
    return Cell(
        "adamw" if decoupled else "adam",
        [
            Eq(d, _decayed(g, p, decays and not decoupled)),
            Eq(m.next, beta1 * m + (1 - beta1) * d),
            Eq(v.next, beta2 * v + (1 - beta2) * d**2),
            Eq(p.next, kept - rate * (m.next / c1) / (sqrt(v.next / c2) + eps)),
        ],
        p,
        title="Adam with decoupled weight decay" if decoupled else "Adam",
        source="Loshchilov & Hutter 2019" if decoupled else "Kingma & Ba 2015",
    )


def _of_adam(
    beta1: float, beta2: float, eps: float, weight_decay: float, *, decoupled: bool
) -> Optimizer:
    values = _numbers(beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    counted = {"c1": Integer(1) - Symbol("beta1") ** UPDATE,
               "c2": Integer(1) - Symbol("beta2") ** UPDATE}  # fmt: skip
    cell = _adam(bool(weight_decay), decoupled)
    return Optimizer(cell, {k: v for k, v in values.items() if v or k != "weight_decay"}, counted)


def _numbers(**values: object) -> dict[str, float]:
    """Numbers that are finite and not negative."""
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < float("inf"):  # type: ignore[operator]
            raise LstmgenError(f"{name} is a finite number from 0 on, not {short(repr(value))}")
        if name in ("momentum", "decay", "beta1", "beta2") and not value < 1:  # type: ignore[operator]
            raise LstmgenError(f"{name} is below 1, not {short(repr(value))}")
    return {name: float(value) for name, value in values.items()}  # type: ignore[arg-type]
