"""Numbers as people read them, in columns."""

from __future__ import annotations

from collections.abc import Sequence

from .timing import Quartiles


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column from the left, the others from the right."""
    count = max(map(len, rows))
    full = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(len(row[k]) for row in full) for k in range(count)]
    lines = []
    for row in full:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:],
                                                                       strict=True))]  # fmt: skip
        lines.append("   ".join(cells).rstrip())
    return lines


def seconds(value: float) -> str:
    """A time with three digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{three_digits(value / size)} {unit}"
    return f"{three_digits(value / 1e-9)} ns"


def three_digits(value: float) -> str:
    """1.23, 12.3, 123, 1230."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def time(t: Quartiles) -> str:
    """A median, and half the distance of the quartiles as a part of it."""
    return f"{seconds(t.median)} ±{t.spread:.0%}"


def ratio(r: Quartiles | None) -> str:
    """A ratio with its quartiles."""
    return "" if r is None else f"{r.median:.2f}× ({r.low:.2f}–{r.high:.2f})"
