"""Lines of C: comments beside them, and statements that take several lines as full as can be."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .expressions import WIDTH, statement

_STRING = re.compile(r'"[^"]*"')


def beside(lines: list[str], width: int) -> list[str]:
    """Comments after the lines below them, if that leaves none of more than ``width`` columns."""
    pairs = list(zip(lines[::2], lines[1::2], strict=False))
    both = [f"{line} {comment}" for comment, line in pairs]
    alternate = all(c[:2] + c[-2:] == "/**/" and line[-1] == ";" for c, line in pairs)
    fits = len(lines) % 2 == 0 and max(map(len, both), default=0) <= width
    return both if alternate and fits else lines


def refilled(text: str) -> str:
    """``text`` with the statements that take several lines broken anew, to ``WIDTH`` columns."""
    return "\n".join(line for group in _groups(text.split("\n")) for line in _fitted(group))


def _groups(lines: list[str]) -> Iterator[list[str]]:
    """Lines that are one statement, or the head of a function; any other line alone."""
    group: list[str] = []
    depth = 0  # of parentheses
    inside = False  # a comment
    for line in lines:
        if inside or (not group and line.lstrip().startswith(("/*", "#", "*"))) or not line.strip():
            inside = (inside or "/*" in line) and "*/" not in line
            yield [line]
            continue
        group.append(line)
        depth += line.count("(") - line.count(")")
        ends = (";", "{", "}", ":", "*/", *([")"] if group[0][0] != " " else []))
        if depth <= 0 and line.rstrip().endswith(ends):
            yield group
            group, depth = [], 0
    if group:
        yield group


def _fitted(group: list[str]) -> list[str]:
    if len(group) == 1 and len(group[0]) <= WIDTH:
        return group
    indent = group[0][: len(group[0]) - len(group[0].lstrip())]
    whole = " ".join(line.strip() for line in group)
    strings = _STRING.findall(whole)
    masked = _STRING.sub(lambda s: '"' + "_" * (len(s[0]) - 2) + '"', whole)
    width = WIDTH - len(indent)
    lines = [short for line in statement(masked, width) for short in _parted(line, width)]
    found = iter(strings)
    return [indent + _STRING.sub(lambda _: next(found), line) for line in lines]


def _parted(line: str, width: int) -> list[str]:
    """A line that no operator parts: after a label or a sign of equality, or within brackets."""
    for mark in (": ", '" ', " = ", "("):
        at = line.rfind(mark, 0, width)
        if len(line) > width and at > 0:
            after = line[at + len(mark) :]
            return [line[: at + len(mark)].rstrip(), *_parted(f"    {after}", width)]
    return [line]
