"""Lines of Python as a formatter would leave them: spaces around operators, and not too long."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Mapping

from sympy import Expr, Piecewise, pycode

WIDTH = 100


def expression(e: Expr) -> str:
    """An expression of numbers and names."""
    text = ast.unparse(ast.parse(pycode(e), mode="eval"))
    return text.replace(" ** ", "**")


def returned(e: Expr) -> list[str]:
    """Statements that return an expression; its cases are one after the other."""
    if not isinstance(e, Piecewise):
        return [f"return {expression(e)}"]
    lines: list[str] = []
    for value, condition in e.args:
        if condition == True:  # noqa: E712  # of SymPy
            return [*lines, *returned(value)]
        lines.append(f"if {expression(condition)}:")
        lines += [f"    {line}" for line in returned(value)]
    return lines


def table(values: Mapping[str, object]) -> str:
    """A dict on one line."""
    shown = (
        f"{json.dumps(k)}: {json.dumps(v) if isinstance(v, str) else repr(v)}"
        for k, v in values.items()
    )
    return f"{{{', '.join(shown)}}}"


def fitted(statement: str, indent: int = 4) -> list[str]:
    """A statement, broken within its outermost parentheses if it would be too long.

    ``indent`` says how far to the right it will stand.
    """
    if len(statement) + indent <= WIDTH:
        return [statement]
    for word in ("return ", "from . import "):
        if statement.startswith(word) and not statement.endswith(")"):
            statement = f"{word}({statement.removeprefix(word)})"
    head, bracket, rest = statement.partition("(")
    inner, closing, tail = rest.rpartition(")")
    if not bracket or not closing:
        return [statement]
    # broken after commas only, since what has spaces in it else is hidden from the wrapping
    hidden = inner.replace(" ", "\0").replace(",\0", ", ")
    room = WIDTH - indent - len("    ,")
    parts = textwrap.wrap(hidden, room, break_long_words=False, break_on_hyphens=False)
    broken = [f"    {part}".replace("\0", " ") for part in parts]
    return [f"{head}(", *broken[:-1], f"{broken[-1]},", f"){tail}"]


def docstring(text: str, indent: int = 4) -> list[str]:
    """A docstring; its marks stand on a line of their own at the end, if it has several."""
    first, *others = paragraph(f'"""{text}', indent)
    if not others and len(first) + indent + 3 <= WIDTH:
        return [f'{first}"""']
    return [first, *others, '"""']


def paragraph(text: str, indent: int = 4) -> list[str]:
    """Text of a docstring."""
    return textwrap.wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
