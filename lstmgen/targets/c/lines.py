"""The layout of C: where lines are broken, and comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

WIDTH = 100
LISTS = WIDTH - 12  # for arguments and comments, whatever they are indented by
INSIDE = WIDTH - 4  # for what a function does


def broken(start: str, items: Sequence[str], end: str, width: int = LISTS) -> list[str]:
    """``start``, ``items`` and ``end``, on more lines where one is too long: after a comma."""
    pieces = [f"{item}," for item in items[:-1]] + [f"{items[-1]}{end}"]
    return _filled(start, pieces, width)


def joined(
    operator: str, start: str, items: Sequence[str], end: str, width: int = LISTS
) -> list[str]:
    """``start``, ``items`` with an operator between them, and ``end``; lines begin with one."""
    first, *others = items
    pieces = [first, *(f"{operator} {item}" for item in others)]
    return _filled(start, [*pieces[:-1], f"{pieces[-1]}{end}"], width)


def _filled(start: str, pieces: Sequence[str], width: int) -> list[str]:
    lines, line = [], start + pieces[0]
    if len(line) > width and start.endswith("("):
        lines, line = [start], f"    {pieces[0]}"
    for piece in pieces[1:]:
        if len(line) + 1 + len(piece) > width:
            lines.append(line)
            line = f"    {piece}"
        else:
            line += f" {piece}"
    return [*lines, line]


def comment(text: str, width: int = LISTS) -> list[str]:
    """``text`` as a comment, on more lines where one is too long."""
    first, *rest = _folded(text, width - 6) or [""]
    if not rest:
        return [f"/* {first} */"]
    return [f"/* {first}", *(f" * {line}" for line in rest[:-1]), f" * {rest[-1]} */"]


def top_comment(lines: Sequence[str]) -> list[str]:
    """The comment at the top of a file, left open."""
    folded = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        folded += _folded(line, WIDTH - 4, indent, indent + "    ") or [""]
    return [f"/* {folded[0]}", *(f" * {line}".rstrip() for line in folded[1:])]


def paragraph(text: str) -> str:
    """``text`` as lines within a comment."""
    return "\n".join(f" * {line}" for line in _folded(" ".join(text.split()), WIDTH - 3)) + "\n"


def _folded(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        text.strip(), width, initial_indent=first, subsequent_indent=others,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def fitted(text: str) -> str:
    """``text``, with every line broken that is too long: after a comma, or before an operator."""
    made: list[str] = []
    for line in text.split("\n"):
        made += [line] if len(line) <= WIDTH or line.lstrip().startswith("#") else _fitting(line)
    return "\n".join(made)


_COMMENT = re.compile(r"( *)/\* (.*) \*/")
_WITHIN = re.compile(r" \* (?=\S)(\w+ {2,})?")  # a comment's line, and what it explains
_BREAKS = (  # the first of these that a line has
    re.compile(r", "),
    re.compile(r"(?<==) | (?=[?:+*] )| (?=(?:\|\||&&) )"),
    re.compile(r"(?<=\w) (?=[\w*])"),
)


def _fitting(line: str) -> list[str]:
    """A line on several: of code, the later ones indented by four more."""
    if alone := _COMMENT.fullmatch(line):
        return [alone[1] + part for part in comment(alone[2], WIDTH - len(alone[1]))]
    if within := _WITHIN.match(line):
        hang = " * " + " " * len(within[1] or "")
        return textwrap.wrap(line, WIDTH, subsequent_indent=hang, break_long_words=False)
    indent = " " * (len(line) - len(line.lstrip()))
    lines, rest, start = [], line.lstrip(), indent
    while len(start) + len(rest) > WIDTH:
        room = WIDTH - len(start) + 1  # the space at the end is left out
        ends = [[m.end() for m in way.finditer(rest) if m.end() <= room] for way in _BREAKS]
        best = next((found[-1] for found in ends if found), 0)
        if not best:
            break
        lines.append(start + rest[:best].rstrip())
        rest, start = rest[best:], indent + "    "
    return [*lines, start + rest]


# --------------------------------------------------------------------------- statements


Gap = Literal["item", "choice", "term", "factor", "value"]
_GAPS: tuple[Gap, ...] = get_args(Gap)  # lines are rather broken at the first of these


@dataclass(frozen=True)
class Piece:
    """A piece of a statement. A line may end before a piece that has a gap before it.

    ``depth`` is how many brackets it opens, or closes if that is negative. The gap says what the
    piece is: a further "item" after a comma, one of two values of a "choice", or else an operand,
    of an operator that binds like a product (a "factor") or not (a "term"). Only where there is
    nothing else, a line ends before a "value".
    """

    text: str
    depth: int = 0
    gap: Gap | Literal[""] = ""


def written(pieces: Sequence[Piece]) -> str:
    """The pieces in one line."""
    return "".join(f" {p.text}" if p.gap and k else p.text for k, p in enumerate(pieces))


def statement(pieces: Sequence[Piece], width: int) -> list[str]:
    """A statement, on more lines where one is too long: broken before operators that bind least."""
    lines: list[str] = []
    indent, rest = "", list(pieces)
    while len(indent) + len(written(rest)) > width:
        cut = _cut(rest, width - len(indent))
        if not cut:
            break
        lines.append(indent + written(rest[:cut]))
        rest, indent = rest[cut:], "    "
    return [*lines, indent + written(rest)]


def _cut(pieces: Sequence[Piece], width: int) -> int:
    """The piece that begins the next line; 0 if there is none."""
    depth, position, cuts = 0, 0, []
    for k, piece in enumerate(pieces):
        if piece.gap and 0 < position <= width:
            last = piece.gap == "value"
            cuts.append((last, depth, _GAPS.index(piece.gap), -position, k))
        position += len(piece.text) + bool(piece.gap and k)
        depth += piece.depth
    late = [cut for cut in cuts if -cut[3] > width // 3] or cuts
    return min(late)[4] if late else 0
