"""What messages about the Python form say of a text."""

from __future__ import annotations

import re
from collections.abc import Callable

_DECLARES = r"(?:inputs|states|vectors|masks|weights|biases|matrix|vector|constants)"
_SAID: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"Eq\(([\w.]+), …\)", r"\1 = …"),
    (r'declare (\w+) with states\("\1"\) and write', "write"),
    (rf'(\w+) = {_DECLARES}\("\1", size="?([^")]*)"?\)', r'"\1 (\2)" in the line "sizes:"'),
    (rf'(\w+) = {_DECLARES}\("\1", shape=\(([^)]*)\)\)',
     lambda m: f'"{m[1]} ({_bare(m[2])})" in the line "sizes:"'),
    (r'declare it with size="([^"]*)"', r'give it the size \1 in the line "sizes:"'),
    (r"declare (\w+) with size=\"?([^\",]+)\"?", r'add "\1 (\2)" to the line "sizes:"'),
    (r"declare (\w+) with shape=\(([^)]*)\)",
     lambda m: f'add "{m[1]} ({_bare(m[2])})" to the line "sizes:"'),
    (r"declare (\w+) as an input or a parameter", r'name \1 in the line "inputs:"'),
    (r"declare (\w+) as an input", r'name \1 in the line "inputs:"'),
    (r"give it where (\w+) is declared, such as \w+=\"H\"",
     r'name it in the line "sizes:", such as \1 (H), or \1 (H, D) of a matrix'),
    (r"give it where (\w+) is declared, such as shape=\(\"N\", \"P\"\)",
     r'name it in the line "sizes:", such as \1 (N, P)'),
    (r'declare one with inputs\("x"\) and use it', 'read x, or name another in the line "inputs:"'),
    (r'declare both with the same size', "give both the same size"),
    (r'expand\(([^()]+|\([^()]*\)), ((?:"[^"]*"(?:, )?)+)\)',
     lambda m: f"expand({m[1]}, {_bare(m[2])})"),
    (r'a learned vector is b\.i, with b = biases\("b"\)',
     'a learned vector stands on the left of no @'),
    (r'learned vectors, for elementwise products, are declared with biases\("b"\) or vector\("v"\)',
     'elementwise, it makes another matrix, as in R = V * V; in a step, it is a learned vector of '
     'two axes, named in the line "vectors:"'),
    (r"end it with \(…, True\)", "say what it is otherwise: where(condition, u, v)"),
    (r"these joined by &, \| and ~", "these joined by and, or and not"),
    (
        r'declare a matrix that moves with states\("C", shape=\("H", "K"\)\) or vectors\(…\)',
        'what moves has its axes in the line "sizes:", such as C (H, K)',
    ),
    (r'name one: (\w+?)_?\((.*), "([^"]*)"\)', r"name one: \1(\2, axis=\3)"),
    (r'W\.i @ x, with W = weights\("W"\)', "W_i @ x, with a learned W_i"),
    (r"shape=(?=\()", ""),
    (r'size="([^"]*)"', r"size \1"),
    (r"\b(sum|max)_\(", r"\1("),
    (r'(?<=[(\s])"([\w*+ ]+)"(?=[,)])', r"\1"),
    (r"\b([WUVb])\.([a-z])\b", r"\1_\2"),
    (r"Piecewise\(\((.*?), (.*?)\), \((.*?), True\)\)", r"where(\2, \1, \3)"),
    (r'declare it with (?:vectors|states)\("(\w+)"\)', r"rename one of the two"),
]  # fmt: skip


def _bare(axes: str) -> str:
    return axes.replace('"', "").strip()


def as_text(message: str) -> str:
    """A message about the Python form, as one about the text."""
    for pattern, instead in _SAID:
        message = re.sub(pattern, instead, message)
    return message
