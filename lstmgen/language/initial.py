"""How parameters start: a number, or a named distribution or matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import did_you_mean
from .misuse import finite, short

# What each takes after its name, with defaults; None has to be given.
KNOWN: dict[str, dict[str, float | None]] = {
    "zeros": {},
    "ones": {},
    "uniform": {"low": None, "high": None},
    "normal": {"std": 0.01},
    "glorot": {},
    "lecun": {},
    "he": {},
    "pytorch": {"scale": 1.0},
    "orthogonal": {"gain": 1.0},
    "identity": {"scale": 1.0},
    "linspace": {"first": None, "last": None},
    "power_law": {"first": None, "last": None, "power": None},
    "log_range": {},
    "hippo": {},
    "hippo_input": {},
    "log_uniform": {"low": None, "high": None},
    "chrono": {"longest": None},
    "ring": {"low": None, "high": None},
    "log_of_uniform": {"low": None, "high": None},
    "step_size": {"low": None, "high": None},
    "decay": {"low": None, "high": None, "power": 1.0},
}
# These need rows and columns.
OF_MATRICES = frozenset({"glorot", "lecun", "he", "orthogonal", "identity", "hippo"})
OPPOSITE = "opposite"  # takes another parameter
# Draws from low to high, which have to be in order and within these bounds.
_WITHIN: dict[str, tuple[float, float]] = {
    "uniform": (-math.inf, math.inf), "log_uniform": (0, math.inf), "ring": (0, 1),
    "log_of_uniform": (0, math.inf), "step_size": (0, math.inf), "decay": (0, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Initial:
    """A named start, with its numbers.

    Random numbers, which are the same in NumPy and in C for a seed, up to the rounding of a
    logarithm or a cosine:

    - "uniform", low, high; "normal", std: independent of each other
    - "glorot": uniform in ±sqrt(6 / (rows + columns)) (Glorot & Bengio 2010)
    - "lecun": uniform in ±sqrt(3 / columns), of variance 1 / columns (LeCun et al. 1998)
    - "he": uniform in ±sqrt(6 / columns), for relu (He et al. 2015)
    - "pytorch", scale: uniform in ±scale / sqrt(H), H the rows of a matrix, the last axis of a
      vector: as PyTorch starts all of an RNN
    - "orthogonal", gain: rows or columns are orthonormal (Saxe et al. 2014)
    - "log_uniform", low, high: e to the power of a uniform number (the periods of Neil et al. 2016)
    - "log_of_uniform", low, high: the logarithm of a uniform number
    - "chrono", longest: of uniform numbers from 1 to longest - 1, the longest dependency in steps
      (Tallec & Ollivier 2018); the input gate's biases are the "opposite" of the forget gate's
    - "ring", low, high: ν for which exp(-exp(ν)) is the modulus of a number that is uniform in a
      ring of the plane (Orvieto et al. 2023)
    - "step_size", low, high: softplus of it is log_uniform (Gu & Dao 2023)
    - "decay", low, high, power: σ of it, to that power, is uniform (De et al. 2024)

    Fixed numbers:

    - "zeros", "ones"
    - "identity", scale
    - "linspace", first, last: evenly spaced along the last axis
    - "power_law", first, last, power: first + (last - first) t**power for t evenly spaced from 0
      to 1 along the last axis (the forget gate of Beck et al. 2024)
    - "log_range": log 1, log 2, … along the last axis
    - "hippo", "hippo_input": A and B of HiPPO-LegS (Gu et al. 2020)

    And "opposite", b.f: the numbers of another parameter with their signs changed.
    """

    name: str
    numbers: tuple[float, ...]
    of: str = ""

    def shown(self, number: Callable[[float], str]) -> str:
        """As it is written: its name, and what it takes in parentheses."""
        taken = ", ".join([*map(number, self.numbers), *([self.of] if self.of else [])])
        return f"{self.name}({taken})" if taken else self.name

    def __str__(self) -> str:
        said = [f"{n:g}" for n in self.numbers] + ([self.of] if self.of else [])
        return f"{self.name}({', '.join(said)})"


Start = float | Initial


def start(value: Any, what: str, *, of_matrix: bool) -> Start:
    """``value`` as a start: a number, a name, or a tuple of a name and numbers.

    Raises
    ------
    ValueError
        If it is not one.
    """
    if isinstance(value, Initial):
        return value
    name, *numbers = value if isinstance(value, (tuple, list)) and value else (value,)
    if not isinstance(name, str) or (numbers == [] and not isinstance(value, (str, tuple, list))):
        return finite(value, what)
    if name == OPPOSITE:
        of = numbers[0] if len(numbers) == 1 else None
        other = of if isinstance(of, str) else getattr(of, "name", None)
        if not isinstance(other, str):
            raise ValueError(f'{what} is {short(repr(value))}: write ("opposite", b.f)')
        return Initial(name, (), other)
    if name not in KNOWN:
        names = (*KNOWN, OPPOSITE)
        near = did_you_mean(name, names)
        raise ValueError(
            f"{what} is one finite number, or a name, not {short(repr(value))}: "
            + (near or f"the names are {', '.join(names)}")
        )
    if name in OF_MATRICES and not of_matrix:
        raise ValueError(f"{what} is {name!r}, which starts a matrix, not a vector")
    wanted = KNOWN[name]
    filled = [*numbers, *list(wanted.values())[len(numbers) :]]
    if len(numbers) > len(wanted) or None in filled:
        takes = f'("{name}", {", ".join(wanted)})' if wanted else f'"{name}"'
        raise ValueError(f"{what} is {short(repr(value))}: write {takes}")
    made = Initial(
        name, tuple(finite(n, f"{what}, {k},") for n, k in zip(filled, wanted, strict=True))
    )
    _check(made, f"{what} is {short(repr(value))}")
    return made


def _check(made: Initial, what: str) -> None:
    """Refuse numbers that make none."""
    if made.name in _WITHIN:
        least, most = _WITHIN[made.name]
        low, high = made.numbers[:2]
        is_open = made.name != "uniform"
        if not low <= high or (is_open and not (least < low and high < most)):
            between = f" between {least:g} and {most:g}" if is_open else ""
            raise ValueError(f"{what}: low and high are two numbers{between}, low first")
    if made.name == "chrono" and not made.numbers[0] > 2:
        raise ValueError(f"{what}: the longest dependency has more than 2 steps")
    if made.name in ("decay", "power_law") and not made.numbers[-1] > 0:
        raise ValueError(f"{what}: the power is more than 0")
