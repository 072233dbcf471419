"""Number types: what values are stored in, computed with, and summed up in.

A module has one, ``FLOAT32`` or ``FLOAT64``, by the name that users give; so has each buffer of a
plan. What depends on precision asks the object: widths in bytes, rounding errors, names in NumPy
and C. A further type is a further object here; what a target cannot do with it, it refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import GenerateError


@dataclass(frozen=True)
class Format:
    """How one number is stored.

    Attributes
    ----------
    name : str
        NumPy's.
    bytes : int
    digits : int
        Binary digits of the significand, with the one that is not stored.
    exponent : int
        Of the largest number: it is just below 2 to the power of this plus 1.
    c : str
        C's name; empty where C99 has no such type.
    suffix : str
        Of C's literals, and of its library's functions.
    integer : str
        C's integer of the same width.
    """

    name: str
    bytes: int
    digits: int
    exponent: int
    c: str = ""
    suffix: str = ""
    integer: str = ""

    @property
    def eps(self) -> float:
        """From 1 to the next number."""
        return 2.0 ** (1 - self.digits)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return (2 - self.eps) * 2.0**self.exponent


HALF = Format("float16", 2, 11, 15, integer="int16_t")
SINGLE = Format("float32", 4, 24, 127, c="float", suffix="f", integer="int32_t")
DOUBLE = Format("float64", 8, 53, 1023, c="double", integer="int64_t")


@dataclass(frozen=True)
class DType:
    """What values are stored in (arrays, buffers), computed with, and summed up in."""

    name: str
    storage: Format
    compute: Format
    accumulate: Format

    def __str__(self) -> str:
        return self.name

    @property
    def bytes(self) -> int:
        """Of one number in memory."""
        return self.storage.bytes

    @property
    def eps(self) -> float:
        """The relative rounding error of a value is up to half of this."""
        return max(f.eps for f in (self.storage, self.compute, self.accumulate))

    @property
    def largest(self) -> float:
        """The largest number that all hold."""
        return min(f.largest for f in (self.storage, self.compute, self.accumulate))


FLOAT32 = DType("float32", SINGLE, SINGLE, SINGLE)
FLOAT64 = DType("float64", DOUBLE, DOUBLE, DOUBLE)
# For buffers alone: kept as half, computed with as single.
FLOAT16 = DType("float16", HALF, SINGLE, SINGLE)

OF_MODULES = (FLOAT32, FLOAT64)


def dtype(name: object) -> DType:
    """The type of a module, by its name.

    Raises
    ------
    GenerateError
        If there are no modules of such a type.
    """
    for known in OF_MODULES:
        if known.name == name:
            return known
    names = " or ".join(f'"{known.name}"' for known in OF_MODULES)
    raise GenerateError(f"dtype is {names}, not {name!r}")
