"""What gates do over a batch, and how the gradient fades on its way back in time: as numbers.

A gate near 0 or near 1 is saturated: it hardly depends on what it reads, and its slope is nearly
zero, so that it learns slowly. Of a quantity between other bounds, such as a candidate in −1…1, it
is the same shares of the range that count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..language.functions import Range

Array: TypeAlias = "NDArray[Any]"

MARGIN = 0.05  # of the range: a gate is saturated below 0.05 and above 0.95
BINS = 40


@dataclass(frozen=True)
class Activations:
    """The values of one bounded quantity.

    Attributes
    ----------
    bounds : Range
        Between which numbers they lie.
    rows : array (N, units)
        One row for each step of each sequence; several axes of units are one.
    """

    bounds: Range
    rows: Array

    @property
    def low(self) -> Array:
        """For each unit the share of its activations below 0.05, as a gate."""
        low, high = self.bounds
        return self._share(self.rows < low + MARGIN * (high - low))

    @property
    def high(self) -> Array:
        """For each unit the share of its activations above 0.95, as a gate."""
        low, high = self.bounds
        return self._share(self.rows > high - MARGIN * (high - low))

    def _share(self, is_there: NDArray[np.bool_]) -> Array:
        """NaN of a unit that has been NaN."""
        share = is_there.mean(axis=0)
        return np.where(np.isnan(self.rows).any(axis=0), np.nan, share)

    def histogram(self, bins: int = BINS) -> tuple[NDArray[np.int64], Array]:
        """How many values are in each of equal parts of the range, and the edges of these.

        What rounding has put outside of the range is in the outermost parts; NaN is nowhere.
        """
        values = self.rows[np.isfinite(self.rows)]
        counts, edges = np.histogram(np.clip(values, *self.bounds), bins, self.bounds)
        return counts, edges


@dataclass
class Statistics:
    """Of one cell over one batch.

    Attributes
    ----------
    gates : dict from name to Activations
    adjoints : dict from name to array
        For each state s, at [k], the norm of ∂L/∂s k steps before the last one of each sequence, by
        all ways; over all sequences and units. Empty before a backward pass.
    gradients : dict from name to float
        For each learned parameter the norm of its gradient. Empty before a backward pass.
    """

    gates: dict[str, Activations]
    adjoints: dict[str, Array] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)


def activations(
    blocks: Sequence[Mapping[str, Array]], bounded: Mapping[str, Range]
) -> dict[str, Activations]:
    """The values of what is bounded, each (steps, rows, *units) in a block of steps."""
    return {
        name: Activations(bounds, np.concatenate([_flat(block[name]) for block in blocks]))
        for name, bounds in bounded.items()
    }


def _flat(values: Array) -> Array:
    steps, rows = values.shape[:2]
    return values.reshape(steps * rows, -1)


def steps_back(blocks: Sequence[Array]) -> Array:
    """The norm of what there is k steps before the end of each sequence, at [k].

    Parameters
    ----------
    blocks : sequence of arrays (steps, rows, *units)
        In the order in which a cell goes through them. Each is of the first ``rows`` sequences:
        where they have less in common, sequences begin or end there.
    """
    total, most = sum(len(b) for b in blocks), max(b.shape[1] for b in blocks)
    squares, last = np.zeros((total, most)), np.full(most, -1)
    at = 0
    for block in blocks:
        steps, rows = block.shape[:2]
        wide = block.astype(np.float64).reshape(steps, rows, -1)
        squares[at : at + steps, :rows] = np.square(wide).sum(axis=-1)
        at += steps
        last[:rows] = at - 1
    back = last - np.arange(total)[:, np.newaxis]
    sums = np.zeros(total)
    np.add.at(sums, back[back >= 0], squares[back >= 0])
    return np.sqrt(sums)


def norm(arrays: Iterable[Array]) -> float:
    """The joint norm of arrays."""
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays)))
