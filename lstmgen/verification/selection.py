"""Which cases a module is judged by: those in which the equations determine a result.

Cases are drawn until the equations have finite values and derivatives there. Those at kinks and
ties are taken only where arithmetic is exact: whether tanh(a) = tanh(b) may be different in another
program that is as right (``rounding``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..errors import LstmgenError
from ..language.dtypes import FLOAT64, DType
from .cases import SPECIAL, Maker
from .witnesses import Witness

# How cases are tried until the equations have a finite value and derivative: the scale of the
# values, and whether all are made positive (for a logarithm or a root).
_ATTEMPTS = (
    (1.0, False), (1.0, False), (0.5, False), (0.25, False), (1.0, True), (0.5, True), (0.25, True),
    (0.1, False), (0.1, True),
)  # fmt: skip
_TAME = 1e4  # values beyond this are taken only if no attempt stays below

# Steps, scale and sign of the special cases. Sums of sums leave the grid soon, and exactness with
# it: few steps.
_SPECIAL_ATTEMPTS = (
    (2, 1.0, False), (2, 1.0, False), (1, 1.0, False), (1, 1.0, False), (1, 1.0, True),
)  # fmt: skip


class Selection:
    """Finds the cases for one cell and precision.

    Parameters
    ----------
    cell : Cell
    sizes : mapping of str to int
        A number for each symbolic size.
    dtype : DType
        Of the module.
    maker, witness : callable
        What draws cases, and what is said of them.
    """

    def __init__(
        self,
        cell: Any,
        sizes: Mapping[str, int],
        dtype: DType,
        maker: Callable[..., Maker] = Maker,
        witness: type[Witness] = Witness,
    ) -> None:
        self.cell, self.sizes, self.dtype = cell, sizes, dtype
        self._maker, self._witness = maker, witness
        # How much rounding may grow: with half of all digits lost, there is little to verify.
        self._bearable = 0.25 / math.sqrt(dtype.eps)

    def longest(self, steps: int, batch: int, seed: int) -> Witness:
        """The main case: of fewer steps, if all that are longer outgrow the numbers there are."""
        shorter = [n for n in (3, 2) if n < steps]
        try:
            return self.random("", steps, batch, seed)
        except LstmgenError as error:
            for n in shorter:
                with suppress(LstmgenError):
                    return self.random("", n, batch, seed)
            raise error

    def random(self, name: str, steps: int, batch: int, seed: int) -> Witness:
        """A case in which the equations have finite values and derivatives.

        If there is one, rounding decides nothing in it, and grows no more than can be told from an
        error.
        """
        wild: list[tuple[bool, Witness]] = []
        for attempt, (scale, positive) in enumerate(_ATTEMPTS):
            draw = (seed, steps, attempt)
            maker = self._maker(self.cell, self.sizes, self.dtype, draw, scale, positive)
            case = maker.make(name, steps, batch)
            witness = self._witness(self.cell, case, self.sizes, self.dtype)
            if math.isfinite(witness.largest) and witness.has_derivative:
                calm = witness.amplified < self._bearable
                if witness.largest < _TAME and calm and witness.settled:
                    return witness
                wild.append((calm, witness))
        if not wild:
            raise LstmgenError(
                f"{self.cell.name} cannot be checked: in {len(_ATTEMPTS)} random cases, also with "
                f"small and with positive values, {witness.troubled()} was infinite or not a "
                "number\n  hint: look for a logarithm, a root or a quotient whose argument leaves "
                "its domain, and for a state that grows from step to step"
            )
        if not any(calm for calm, _ in wild):
            least = min(witness.amplified for _, witness in wild)
            raise LstmgenError(
                f"{self.cell.name} cannot be checked: in {len(wild)} random cases of {steps} steps "
                f"rounding errors grow by a factor of {least:.0e} or more, so that the equations "
                f"do not determine a result in {self.dtype}\n  hint: a sequence of fewer steps may "
                "do (--steps 2, or T=2)" + (", or float64" if self.dtype.eps > FLOAT64.eps else "")
            )
        return max(wild, key=lambda found: (found[0], found[1].settled))[1]

    def special(self, name: str, seed: int) -> Witness | None:
        """A case of ``SPECIAL``; none where any program is free to decide kinks otherwise."""
        for attempt, (steps, scale, positive) in enumerate(_SPECIAL_ATTEMPTS):
            draw = (seed, steps, attempt)
            maker = SPECIAL[name](self.cell, self.sizes, self.dtype, draw, scale, positive)
            case = maker.make(f"{name}, T={steps} B=2", steps, 2)
            witness = Witness(self.cell, case, self.sizes, self.dtype)
            if (
                witness.is_finite
                and witness.has_derivative
                and witness.settled
                and witness.amplified < self._bearable
            ):
                return witness
        return None
