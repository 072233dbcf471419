"""Tolerances: how far rounding alone can lead a module that is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
from sympy import Expr

from ..language.cell import Cell
from ..language.dtypes import FLOAT64
from ..language.symbols import Contract, Product, Reduction, Vector, View
from .arithmetic import Array
from .evaluation import Entity, number
from .rounding import Rounding
from .witnesses import Witness, results_of

_MOVED = 1e-8  # how far numbers are moved, relative to them, to see what that does


def chain(cell: Cell, sizes: Mapping[str, int]) -> int:
    """Roundings that follow each other in one step: along the longest path of equations, the
    terms that are summed and the functions that are applied.
    """
    return _longest(cell, lambda e: _roundings(e, cell, sizes))


def depth(cell: Cell) -> int:
    """Equations that follow each other in one step."""
    return _longest(cell, lambda e: 1)


def _longest(cell: Cell, length: Callable[[Expr], int]) -> int:
    found: dict[Vector, int] = {}
    for e in cell.equations:
        before = [found.get(v, 0) for v in e.rhs.atoms(Vector)]
        found[e.lhs] = length(e.rhs) + max(before, default=0)
    return max(found.values())


def _roundings(e: Expr, cell: Cell, sizes: Mapping[str, int]) -> int:
    if e.is_Atom:
        return 0
    inner = max((_roundings(a, cell, sizes) for a in e.args), default=0)
    if isinstance(e, Product):
        return inner + number(cell.shapes.of(e.operand), sizes)
    if isinstance(e, (Reduction, Contract)):
        return inner + number(cell.shapes.axes(e.args[0])[-1], sizes)
    if isinstance(e, View):
        return inner
    return inner + max(1, len(e.args) - 1)


class Tolerance:
    """What an error of a module is relative to in one case, and how large it may be.

    Each of ``chain`` roundings in each of T steps is of eps/2, relative to terms that are no larger
    than what they sum to, give or take: T · chain · eps leaves a factor 2 for that, and for
    functions that are right to an ulp or two. A gradient goes through all steps twice, there and
    back; its factors subtract, as 1 - i where i is near 1, which costs two bits more; and it is a
    sum over T · B rows. What is kept on a tape in fewer bits is off by half their eps where it is a
    factor of an adjoint: once in each equation, of which ``depth`` follow each other, and with the
    same two bits for differences.

    Attributes
    ----------
    results, gradients : float
        How far rounding alone can lead, relative to the largest entry.
    tangents : float
        The same for Jv, which is evaluated in float64 whatever the module computes in. It goes
        through all steps once, but so do the values that its factors are made of.
    ceiling : float
        Where less than half of the digits can be right, nothing would be verified.
    """

    def __init__(self, witness: Witness, chain: int) -> None:
        self.witness = witness
        steps, batch = witness.case.steps, witness.case.batch
        eps, kept = witness.dtype.eps, witness.dtype.of_tape.eps
        self.results = steps * chain * eps
        self.gradients = 8 * self.results + steps * batch * eps
        if kept > eps:
            self.gradients += 4 * steps * depth(witness.cell) * kept
        self.tangents = 32 * steps * chain * FLOAT64.eps
        self.ceiling = math.sqrt(max(eps, kept))
        self._conditions: dict[Entity | None, float] = {}

    def scale(self, entity: Entity) -> float:
        """What an error of a gradient is relative to: its largest entry.

        But not less than 1/20 of the largest of all gradients and cotangents: where a gradient is
        the small difference of large terms (0, as that of a bias that layer normalisation removes;
        or the factor 1 - i of a gate that is nearly open), rounding is relative to the terms.
        """
        own = _largest(np.asarray(sum(self.witness.complex_step(entity))))
        return max(own, self._largest_gradient / 20)

    def tangent_scale(self, change: Array) -> float:
        """What an error of the tangent of an output or of a final state is relative to: as of
        gradients, with the direction v of the arguments in place of the cotangents.
        """
        return max(_largest(change), self._largest_tangent / 20)

    @cached_property
    def _largest_tangent(self) -> float:
        """Of all tangents, those of the arguments as well."""
        arrays = (*self.witness.tangents.arrays, *self.witness.direction.values())
        return max(map(_largest, arrays))

    @cached_property
    def length(self) -> float:
        """The length ‖Jᵀw‖ that all gradients have if each entry is of its ``scale``."""
        values, learned = self.witness.case.values, self.witness.entities
        return math.hypot(*(math.sqrt(values[e].size) * self.scale(e) for e in learned))

    @cached_property
    def tangent_length(self) -> float:
        """The length ‖Jv‖ that all tangents have if each entry is of its scale."""
        arrays = self.witness.tangents.arrays
        return math.hypot(*(math.sqrt(a.size) * self.tangent_scale(a) for a in arrays))

    @cached_property
    def _largest_gradient(self) -> float:
        """Of all gradients and cotangents."""
        case = self.witness.case
        arrays: list[Array] = [np.asarray(sum(self.witness.complex_step(e))) for e in case.values]
        arrays += [*case.dy.values(), *case.dstate.values()]
        return max(map(_largest, arrays))

    @property
    def largest(self) -> float:
        """What results are compared with where they themselves are small.

        At a kink all may be 0: their terms are as large as the arguments.
        """
        witness = self.witness
        return max(witness.largest, witness.argument if witness.case.special else 0.0, 1e-29)

    def condition(self, entity: Entity | None) -> float:
        """How much more than one relative perturbations of arguments and operations move a
        gradient, or (None) the results.

        Gates do not amplify, but a quotient or a root near 0 does, and rounding with it. Measured
        with the witness, and only when an error is larger than what rounding explains without it.
        """
        if entity not in self._conditions:
            self._conditions[entity] = max(1.0, *(self._moved(w, entity) for w in self._shaken))
        return self._conditions[entity]

    @cached_property
    def _shaken(self) -> list[Witness]:
        """The witness with arguments and operations moved, in two ways."""
        witness, case, made = self.witness, self.witness.case, []
        rng = np.random.default_rng(0)
        for draw in range(2):
            # A case that hits kinks has to stay on them.
            leaves = 0.0 if case.special else _MOVED
            moved = {
                e: v * (1 + leaves * rng.choice([-1.0, 1.0], v.shape))
                for e, v in case.values.items()
            }
            made.append(witness.again(moved, Rounding(_MOVED, witness.dtype, seed=draw)))
        return made

    def _moved(self, other: Witness, entity: Entity | None) -> float:
        """How far a gradient or the results are from those of the witness."""
        witness = self.witness
        if entity is None:
            pairs = zip(results_of(other.base), results_of(witness.base), strict=True)
            distance = max(float(np.max(np.abs(a - b))) for a, b in pairs)
            return distance / (_MOVED * self.largest)
        difference = sum(other.complex_step(entity)) - sum(witness.complex_step(entity))
        return float(_largest(np.asarray(difference)) / (_MOVED * self.scale(entity)))


def _largest(a: Array) -> float:
    """The largest entry of those that are known."""
    return float(np.max(np.abs(a), initial=0.0, where=~np.isnan(a)))
