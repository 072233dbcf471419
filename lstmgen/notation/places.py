"""Places in a text, and errors that show them."""

from __future__ import annotations

import unicodedata

from ..errors import CellError

_WIDTH = 90  # of the source line in a message


class NotationError(CellError):
    """A text is no cell: the message has file, line and column, the line, and a caret under it.

    Attributes
    ----------
    line, column : int
        From 1.
    """

    def __init__(self, problem: str, place: Place, *, hint: str = "") -> None:
        self.line, self.column = place.line, place.column
        where = f"{place.text.name}:{place.line}:{place.column}"
        super().__init__(problem, where=where, hint=hint)
        lines = [f"{where}: {problem}", *(f"  {line}" for line in place.shown())]
        if hint:
            lines.append(f"  hint: {hint}")
        self.args = ("\n".join(lines),)


class Text:
    """A text and what it is called in messages."""

    def __init__(self, content: str, name: str) -> None:
        self.content, self.name = content, name

    def error(self, problem: str, start: int, end: int | None = None, hint: str = "") -> CellError:
        """The error for what stands from ``start`` to ``end``."""
        return NotationError(problem, Place(self, start, end), hint=hint)


class Place:
    """A piece of a text."""

    def __init__(self, text: Text, start: int, end: int | None = None) -> None:
        self.text = text
        self.start = max(0, min(start, len(text.content)))
        begin = text.content.rfind("\n", 0, self.start) + 1
        stop = text.content.find("\n", self.start)
        self.source = text.content[begin : len(text.content) if stop < 0 else stop]
        self.line = text.content.count("\n", 0, self.start) + 1
        self.column = self.start - begin + 1
        self.length = max(1, min((end or 0) - self.start, len(self.source) - self.column + 1))

    def shown(self) -> list[str]:
        """The line, or as much of it as fits, and the carets."""
        first = max(0, min(self.column - 1 - _WIDTH // 3, len(self.source) - _WIDTH))
        shown = self.source[first : first + _WIDTH]
        before = shown[: self.column - 1 - first]
        marked = shown[len(before) : len(before) + self.length]
        prefix = "… " if first else ""
        suffix = " …" if first + _WIDTH < len(self.source) else ""
        line = prefix + "".join(map(_visible, shown)) + suffix
        if not line.strip():
            return []
        carets = "^" * max(1, _columns(marked))
        return [line.rstrip(), " " * (len(prefix) + _columns(before)) + carets]


def _visible(c: str) -> str:
    if c == "\t":
        return " "
    return c if c.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _columns(text: str) -> int:
    """How wide ``text`` is in a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)
