"""Number types: what values are stored in, computed with, and summed up in.

A module has one, ``FLOAT32`` or ``FLOAT64``, by the name that users give; so has each buffer of a
plan, of which those on the tape may have a narrower one. What depends on precision asks the object:
widths in bytes, rounding errors, names in NumPy and C. A further type is a further object here;
what a target cannot do with it, it refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

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
    """What values are stored in (arrays, buffers), computed with, and summed up in.

    ``tape`` is what those are stored in that are kept for the backward pass, states aside, if that
    is another format.
    """

    name: str
    storage: Format
    compute: Format
    accumulate: Format
    tape: Format | None = None

    def __str__(self) -> str:
        return f"{self.name}, tape {self.tape.name}" if self.tape else self.name

    @property
    def bytes(self) -> int:
        """Of one number in memory."""
        return self.storage.bytes

    @property
    def is_narrow(self) -> bool:
        """Whether values are stored in fewer bits than they are computed with."""
        return self.storage.bytes < self.compute.bytes

    @property
    def of_tape(self) -> DType:
        """The type of buffers on the tape."""
        if self.tape is None:
            return self
        return DType(self.tape.name, self.tape, self.compute, self.accumulate)

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

OF_MODULES = (FLOAT32, FLOAT64)
OF_TAPES = (HALF,)


def dtype(name: object, tape: object = None) -> DType:
    """The type of a module, by its name, and by that of what its tapes are stored in.

    Raises
    ------
    GenerateError
        If there are no modules of such a type, or no such tapes.
    """
    found = _named("dtype", name, OF_MODULES)
    return found if tape is None else replace(found, tape=_named("tape", tape, OF_TAPES))


Known = TypeVar("Known", Format, DType)


def _named(what: str, name: object, known: Sequence[Known]) -> Known:
    for one in known:
        if one.name == name:
            return one
    names = " or ".join(f'"{one.name}"' for one in known)
    raise GenerateError(f"{what} is {names}, not {name!r}")
