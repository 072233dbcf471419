"""How parameters start in C: calls of ``lstmgen_network.h``, which draws the numbers that NumPy
draws.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...language.initial import Initial, Start

_OF_MATRICES = {"orthogonal", "identity", "hippo"}  # of each of several
_OF_LINES = {"power_law", "log_range", "hippo_input"}  # along the last axis
_LIMITS = {
    "glorot": "sqrt(6.0 / (double)({rows} + {columns}))",
    "lecun": "sqrt(3.0 / (double)({columns}))",
    "he": "sqrt(6.0 / (double)({columns}))",
    "pytorch": "{scale!r} / sqrt((double)({units}))",
}
_FIXED = {"identity", "hippo", *_OF_LINES}


def filled(
    start: Start | None, shape: Sequence[str], key: str, to: tuple[str, str], real: tuple[str, int]
) -> str:
    """The statement that fills an array.

    Parameters
    ----------
    start : number, Initial or None
        None is Glorot's distribution for a matrix.
    shape : sequence of str
        The axes, as C has them.
    key : str
        What its random numbers are drawn with.
    to : (str, str)
        How many numbers the array has, and a pointer to them.
    real : (str, int)
        The type of a number, and its bits.
    """
    count, pointer = to
    if start is None:
        start = Initial("glorot", ())
    if not isinstance(start, Initial) or start.name in ("zeros", "ones"):
        number = float(start.name == "ones") if isinstance(start, Initial) else float(start)
        return f"array_fill_f{real[1]}({count}, ({real[0]}){number!r}, {pointer});"
    name, numbers = start.name, list(map(repr, start.numbers))
    if name in _LIMITS:
        scale = start.numbers[0] if start.numbers else 1.0
        rows, columns = ["1", *shape][-2:]
        units = rows if len(shape) > 1 else columns
        limit = _LIMITS[name].format(rows=rows, columns=columns, units=units, scale=scale)
        name, numbers = "uniform", [f"-{limit}", limit]
    if name == "linspace":
        name, numbers = "power_law", [*numbers, "1.0"]
    if name == "chrono":
        name, numbers = "log_of_uniform", ["1.0", repr(start.numbers[0] - 1.0)]
    drawn = [] if name in _FIXED else [key]
    if name in _OF_MATRICES:
        axes = [_times(shape[:-2]), *shape[-2:]]
    elif name in _OF_LINES:
        axes = [_times(shape[:-1]), shape[-1]]
    else:
        axes = [count]
    arguments = ", ".join([*drawn, *numbers, *axes, pointer])
    return f"init_{name}_f{real[1]}({arguments});"


def _times(axes: Sequence[str]) -> str:
    """How many there are along all axes."""
    return " * ".join(f"({a})" if " " in a else a for a in axes) or "1"
