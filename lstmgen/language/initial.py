"""How parameters start: a number, or a named distribution or matrix."""

from __future__ import annotations

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
    "orthogonal": {"gain": 1.0},
    "identity": {"scale": 1.0},
    "linspace": {"first": None, "last": None},
    "hippo": {},
    "hippo_input": {},
}
# These need rows and columns.
OF_MATRICES = frozenset({"glorot", "orthogonal", "identity", "hippo"})


@dataclass(frozen=True)
class Initial:
    """A named start, with its numbers.

    - "zeros", "ones"
    - "uniform", low, high; "normal", std: independent random numbers
    - "glorot": uniform in ±sqrt(6 / (rows + columns)) (Glorot & Bengio 2010)
    - "orthogonal", gain: rows or columns are orthonormal (Saxe et al. 2014)
    - "identity", scale
    - "linspace", first, last: evenly spaced along the last axis
    - "hippo", "hippo_input": A and B of HiPPO-LegS (Gu et al. 2020)
    """

    name: str
    numbers: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{n:g}' for n in self.numbers)})"


Start = float | Initial


def start(value: Any, what: str, *, of_matrix: bool) -> Start:
    """``value`` as a start: a number, a name, or a tuple of a name and numbers.

    Raises
    ------
    ValueError
        If it is not one.
    """
    name, *numbers = value if isinstance(value, (tuple, list)) and value else (value,)
    if not isinstance(name, str) or (numbers == [] and not isinstance(value, (str, tuple, list))):
        return finite(value, what)
    if name not in KNOWN:
        near = did_you_mean(name, KNOWN)
        raise ValueError(
            f"{what} is one finite number, or a name, not {short(repr(value))}: "
            + (near or f"the names are {', '.join(KNOWN)}")
        )
    if name in OF_MATRICES and not of_matrix:
        raise ValueError(f"{what} is {name!r}, which starts a matrix, not a vector")
    wanted = KNOWN[name]
    filled = [*numbers, *list(wanted.values())[len(numbers) :]]
    if len(numbers) > len(wanted) or None in filled:
        takes = f'("{name}", {", ".join(wanted)})' if wanted else f'"{name}"'
        raise ValueError(f"{what} is {short(repr(value))}: write {takes}")
    return Initial(
        name, tuple(finite(n, f"{what}, {k},") for n, k in zip(filled, wanted, strict=True))
    )
