"""How wide a formula is, and where a long one breaks: on the page, and in the LaTeX itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .names import GREEK

# Points in Computer Modern at 10pt, near enough to choose where a line breaks.
_WIDTHS = {
    r"\odot": 13.0, r"\delta": 4.5, r"\,": 1.7, r"\quad": 10.0, r"\qquad": 20.0,
    r"\left": 2.0, r"\right": 0.0, r"\operatorname": 2.0, r"\mathbf": 0.8, r"\boldsymbol": 0.8,
    r"\cdot": 7.0, r"\sqrt": 9.0, r"\mathrm": 0.0, r"\text": 0.0, r"\biggl": 3.0, r"\biggr": 3.0,
    "+": 12.5, "-": 12.5, "=": 13.5, "<": 13.5, ">": 13.5, ",": 4.5, "&": 0.0, "(": 4.0, ")": 4.0,
    ".": 2.8, "|": 2.8, r"\top": 8.5, r"\partial": 6.0, r"\_": 5.0, r"\\": 0.0,
    r"\star": 5.0, r"\lfloor": 2.5, r"\rfloor": 2.5, r"\lceil": 2.5, r"\rceil": 2.5,
    r"\dot": 0.0, r"\bar": 0.0, r"\hat": 0.0, r"\tilde": 0.0,
}  # fmt: skip
LINE = 340.0  # what remains of \textwidth in a plain article, beside the equation's number
THIN = r"\, "  # between factors of which one is a number


def joined(pieces: Sequence[str]) -> str:
    """``pieces`` on one line."""
    return " ".join(pieces).replace(f" {THIN}", THIN)


def width(tex: str) -> float:
    """About how wide a formula is, in points at 10pt."""
    cases = re.compile(r"\\begin\{cases\}(.*?)\\end\{cases\}")
    while found := cases.search(tex):
        rows = found.group(1).split(r"\\")
        tex = tex[: found.start()] + max(rows, key=width) + r"\quad " + tex[found.end() :]
    tokens = re.findall(r"\\[A-Za-z]+|\\.|[^\s]", tex)
    return _widths(tokens)


def _widths(tokens: list[str], nested: bool = False) -> float:
    total, scripts = 0.0, 0.0
    while tokens:
        token = tokens.pop(0)
        if token == "}" and nested:
            break
        if token in "_^":
            scripts = max(scripts, 0.72 * _argument(tokens))
            continue
        total, scripts = total + scripts, 0.0
        if token == "{":
            total += _widths(tokens, nested=True)
        elif token == r"\frac":
            total += max(_argument(tokens), _argument(tokens)) + 3.0
        elif token in (r"\underbrace", r"\sum"):  # with something below and above, not beside
            total += _argument(tokens) if token == r"\underbrace" else 18.0
            while tokens and tokens[0] in "_^":
                tokens.pop(0)
                _argument(tokens)
        else:
            total += _WIDTHS.get(token, _letter(token))
    return total + scripts


def _argument(tokens: list[str]) -> float:
    if not tokens:
        return 0.0
    token = tokens.pop(0)
    return _widths(tokens, nested=True) if token == "{" else _WIDTHS.get(token, _letter(token))


def _letter(token: str) -> float:
    if token[0] == "\\":
        name = token[1:]
        return 6.0 if name.lower() in {n.lower() for n in GREEK} else 5.0 * len(name) + 1.7
    return 9.6 if token in "mwMW" else 8.0 if token.isupper() else 5.3


def filled(pieces: Sequence[str], room: float) -> list[str]:
    """``pieces`` in as few lines as hold them; if two do, the terms of step t+1 on the second."""
    chunks: list[str] = []
    for piece in pieces:
        # a term is broken, at a factor, only if it fits in no line
        whole = joined([chunks[-1], piece]) if chunks else ""
        if not whole or piece.startswith(("+", "-")):
            chunks.append(piece)
        elif width(whole) <= room - 10:
            chunks[-1] = whole
        else:
            has_sign = piece.startswith((r"\odot", r"\cdot"))
            chunks.append(piece if has_sign else rf"\cdot {piece.removeprefix(THIN)}")
    if width(" ".join(chunks)) > room:
        later = next((k for k, chunk in enumerate(chunks) if "t+1" in chunk), 0)
        halves = [" ".join(chunks[:later]), " ".join(chunks[later:])]
        if later and max(map(width, halves)) <= room - 10:
            return halves
    lines = _greedy(chunks, room)
    for narrower in range(int(room) - 10, 0, -10):  # as even as so many lines can be
        even = _greedy(chunks, narrower)
        if len(even) > len(lines):
            break
        lines = even
    return lines


def _greedy(chunks: Sequence[str], room: float) -> list[str]:
    lines = list(chunks[:1])
    for chunk in chunks[1:]:
        if width(f"{lines[-1]} {chunk}") > room - (10 if len(lines) > 1 else 0):
            lines.append(chunk)
        else:
            lines[-1] += f" {chunk}"
    return lines


SOURCE = 98  # characters in a line of LaTeX
# Where such a line is broken: rather before an equation than a term, a term than a factor, and
# only then inside of parentheses, as the second says.
_BREAKS = (
    (r" (?=&?\\qquad)", False),
    (r" (?=[-+] )", False),
    (r" (?=\\odot)", False),
    (r" (?=[-+] )", True),
    (r" (?=[&\\])", True),
)


def source_line(line: str) -> str:
    """``line``, if it is long, in several lines of LaTeX that mean the same."""
    indent = " " * (len(line) - len(line.lstrip()))
    lines = _broken(line.strip(), SOURCE - len(indent) - 6, _BREAKS)
    return indent + f"\n{indent}      ".join(lines)


def _broken(line: str, room: int, breaks: Sequence[tuple[str, bool]]) -> list[str]:
    if len(line) <= room or not breaks:
        return [line]
    at, anywhere = breaks[0]
    first, *others = re.split(at, line) if anywhere else _split_outside(line, at)
    lines = [first]
    for part in others:
        if len(lines[-1]) + 1 + len(part) > room:
            lines.append(part)
        else:
            lines[-1] += f" {part}"
    return [piece for line in lines for piece in _broken(line, room, breaks[1:])]


def _split_outside(line: str, at: str) -> list[str]:
    """``line`` split at a pattern, but not in braces or parentheses."""
    parts, start, depth = [], 0, 0
    for mark in re.finditer(rf"\\left\b|\\right\b|\\begin\b|\\end\b|(?<!\\)[{{}}]|{at}", line):
        token = mark.group()
        depth += {"{": 1, r"\left": 1, r"\begin": 1}.get(token, 0)
        depth -= {"}": 1, r"\right": 1, r"\end": 1}.get(token, 0)
        if token == " " and depth == 0:
            parts.append(line[start : mark.start()])
            start = mark.end()
    return [*parts, line[start:]]
