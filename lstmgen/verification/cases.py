"""Cases to judge a module by: random values, and values at kinks and ties and in the tails.

The random ones are those in which a wrong backward pass shows: more than two steps, initial states
that are not zero, cotangents on every output and on every final state, all sizes different, several
rows, weights of order 1.

Random values never meet a kink. So there are cases that do: states and inputs of zero, as at the
start of a padded sequence, units and inputs that are equal, and values where the equations' own
conditions change; and one with inputs so large that gates saturate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sympy import Expr

from ..errors import LstmgenError
from ..language.cell import Cell
from ..language.dtypes import DType
from ..language.matrices import Matrix
from ..language.symbols import Vector
from .arithmetic import Array
from .evaluation import Entity, number
from .rounding import decisions


@dataclass(frozen=True)
class Case:
    """A sequence to judge a module by: its arrays in the layout of the module's interface.

    ``values`` holds the parameters, inputs and initial states; ``given`` the masks and constants;
    ``dy``, by output, and ``dstate`` the cotangents. All are float64, and already rounded to the
    precision of the module, so that rounding its arguments is not part of its error. ``special``
    marks cases of ``SPECIAL``.
    """

    name: str
    steps: int
    batch: int
    values: dict[Entity, Array]
    given: dict[str, Any]
    dy: dict[str, Array]
    dstate: dict[str, Array]
    special: bool = False


class Maker:
    """Draws the values of a case: random ones.

    Parameters
    ----------
    cell : Cell
    sizes : mapping of str to int
    dtype : DType
        Of the module: values are rounded to it.
    seed : sequence of int
    scale : float
        What random values are of the order of.
    positive : bool
        Whether they are all positive, for a logarithm or a root.
    """

    special = False

    def __init__(
        self,
        cell: Any,
        sizes: Mapping[str, int],
        dtype: DType,
        seed: Sequence[int],
        scale: float = 1.0,
        positive: bool = False,
    ) -> None:
        self.cell, self.sizes, self.dtype = cell, sizes, dtype
        self.scale, self.positive = scale, positive
        self.rng = np.random.default_rng(seed)

    def make(self, name: str, steps: int, batch: int) -> Case:
        cell, shape = self.cell, self._shape
        values: dict[Entity, Array] = {}
        for p in cell.parameters:
            values["parameter", p.name] = self._rounded(self.parameter(p, shape(p)))
        for x in cell.inputs:
            values["input", x.name] = self._rounded(self.input((steps, batch, *shape(x))))
        for s in cell.states:
            values["state", s.name] = self._rounded(self.state((batch, *shape(s))))
        given: dict[str, Any] = {}
        for m in cell.masks:
            given[m.name] = self.rng.integers(0, 2, (steps, batch, *shape(m))).astype(float)
        for c in cell.constants:
            default = cell.initial(c)
            known = None if default is None else cell.starts_at(c)
            given[c.name] = self.rng.uniform(0.3, 0.9) if known is None else known
        dy = {
            v.name: self._rounded(self.rng.normal(size=(steps, batch, *shape(v))))
            for v in cell.outputs
        }
        dstate = {
            s.name: self._rounded(self.rng.normal(size=(batch, *shape(s)))) for s in cell.states
        }
        return Case(name, steps, batch, values, given, dy, dstate, self.special)

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        return self._parameter(p, shape, self.cell.starts_at(p))

    def _parameter(self, p: Vector | Matrix, shape: tuple[int, ...], start: float) -> Array:
        drawn = self._drawn(shape)
        if isinstance(p, Matrix):
            # Of order 1 for the handful of columns of a case; their sum does not saturate.
            return drawn * 1.2 / math.sqrt(shape[-1])
        return np.asarray(start * (1 + 0.3 * drawn) if start else 0.5 * drawn)

    def input(self, shape: tuple[int, ...]) -> Array:
        return self._drawn(shape)

    def state(self, shape: tuple[int, ...]) -> Array:
        return 0.7 * self._drawn(shape)

    def _shape(self, symbol: Vector | Matrix) -> tuple[int, ...]:
        return tuple(number(n, self.sizes) for n in self.cell.shape(symbol))

    def _drawn(self, shape: tuple[int, ...]) -> Array:
        drawn = self.rng.normal(0.0, self.scale, shape)
        return np.abs(drawn) + 0.1 * self.scale if self.positive else drawn

    def _rounded(self, drawn: Array) -> Array:
        return drawn.astype(self.dtype.storage.name).astype(float)


class _Zeros(Maker):
    """What a sequence begins with: states of zero, learned vectors as ``init`` gives them, and
    inputs that are padded with zeros.
    """

    special = True

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        if isinstance(p, Matrix):
            return super().parameter(p, shape)
        return np.full(shape, self.cell.starts_at(p))

    def input(self, shape: tuple[int, ...]) -> Array:
        kept = self.rng.integers(0, 2, (*shape[:-1], 1))
        kept[0, 0] = 0
        return np.asarray(self._drawn(shape) * kept)

    def state(self, shape: tuple[int, ...]) -> Array:
        return np.zeros(shape)


class _Grid(Maker):
    """A handful of values: whole numbers, halves, and where the equations' conditions change."""

    special = True

    def _drawn(self, shape: tuple[int, ...]) -> Array:
        return np.asarray(self.rng.choice(self._levels(), shape))

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        # mostly 0, so that sums stay on the grid, and are 0 as well
        return np.asarray(self._drawn(shape) * (self.rng.integers(0, 3, shape) == 0))

    def state(self, shape: tuple[int, ...]) -> Array:
        return self._drawn(shape)

    def _levels(self) -> Array:
        named = [
            float(n)
            for e in decisions(self.cell)
            for n in e.atoms(Expr)
            if n.is_number and n.is_finite and n.is_real
        ]
        levels = np.unique([-1.0, -0.5, 0.0, 0.5, 1.0, *named])
        # what the module cannot hold exactly is not a boundary for it
        held = levels[levels.astype(self.dtype.storage.name).astype(float) == levels]
        return np.asarray(np.abs(held) if self.positive else held)


class _Ties(_Grid):
    """All units of a vector are equal, and all inputs and states of one shape are."""

    def make(self, name: str, steps: int, batch: int) -> Case:
        self.known: dict[tuple[int, ...], Array] = {}
        return super().make(name, steps, batch)

    def input(self, shape: tuple[int, ...]) -> Array:
        return self._equal(shape)

    def state(self, shape: tuple[int, ...]) -> Array:
        return self._equal(shape)

    def parameter(self, p: Vector | Matrix, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to(super().parameter(p, (1, *shape[1:])), shape)

    def _equal(self, shape: tuple[int, ...]) -> Array:
        if shape not in self.known:
            self.known[shape] = np.broadcast_to(self._drawn((*shape[:-1], 1)), shape)
        return self.known[shape]


class _Large(Maker):
    """Inputs that drive gates deep into saturation: the tails of functions."""

    special = True

    def input(self, shape: tuple[int, ...]) -> Array:
        # σ(-40) is beside 1 what rounding is, and σ(-17) in single precision; a tape in half
        # precision has no room for values of thousands
        eps = self.dtype.of_tape.eps
        return np.asarray((40 if eps < 1e-12 else 15 if eps < 1e-5 else 4) * self._drawn(shape))


# Cases at kinks and ties, and in the tails.
SPECIAL: dict[str, type[Maker]] = {
    "zeros": _Zeros, "grid": _Grid, "ties": _Ties, "large": _Large,
}  # fmt: skip


# All different, different from T = 7 and B = 3, and mostly odd, so that nothing fits by accident
# and the vector loops of a compiled target have remainders.
_SIZES = (5, 11, 4, 6, 13, 9, 8, 10, 14, 15, 16, 17)
_FEW = (3, 2, 4, 7)  # of heads and the like, of which each has so many units


def choose_sizes(cell: Any, sizes: Mapping[str, int] | None, taken: set[int]) -> dict[str, int]:
    """A number for each symbolic size of a cell: as in ``sizes``, or one that is not ``taken``.

    Raises
    ------
    LstmgenError
        If ``sizes`` names one that the cell does not have.
    """
    used = taken | set((sizes or {}).values())
    unknown = sorted(set(sizes or {}) - {n.name for n in cell.sizes})
    if unknown:
        raise LstmgenError(
            f"{unknown[0]} is not a size of {cell.name}; it has "
            f"{', '.join(n.name for n in cell.sizes) or 'none'}"
        )
    made: dict[str, int] = {}
    several = _multipliers(cell) if isinstance(cell, Cell) else set()
    for n in cell.sizes:
        choices = (*_FEW, *_SIZES) if n in several else _SIZES
        free = next(k for k in choices if k not in used | set(made.values()))
        made[n.name] = (sizes or {}).get(n.name) or free
    return made


def _multipliers(cell: Cell) -> set[Expr]:
    """The sizes that another is multiplied by, in a quantity of several axes, or in one of N*P
    units: with large numbers for both, parameters would have thousands of entries to look at.
    """
    found: set[Expr] = set()
    for v in (*cell.inputs, *cell.states, *cell.vectors):
        *outer, last = cell.shape(v)
        found |= {n for axis in outer for n in axis.free_symbols}
        found |= set(sorted(last.free_symbols, key=str)[:-1]) if last.is_Mul else set()
    return found
