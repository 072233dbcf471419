"""The functions of the notation: all of the registry, of the reductions and of the compositions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sympy

from ..language import composed, declarations
from ..language.checks import REDUCTIONS
from ..language.functions import FUNCTIONS
from ..language.symbols import named
from .tree import Node

MOST_ARGUMENTS = 16  # SymPy compares each with each, in some


@dataclass(frozen=True)
class Known:
    """A function: what makes its expression, and what it takes.

    ``axes_from`` is the number of the first argument that is a size, not a value.
    """

    make: Callable[..., Any]
    least: int
    most: int
    keywords: tuple[str, ...] = ()
    axes_from: int = MOST_ARGUMENTS + 1
    of_conditions: bool = False


def _elementwise(symbol: Any) -> Known:
    """As many arguments as SymPy says, if it does."""
    if symbol in (sympy.Max, sympy.Min):
        return Known(symbol, 2, MOST_ARGUMENTS)
    counts = sorted(map(int, symbol.nargs))
    return Known(symbol, counts[0], counts[-1])


def _composed(name: str) -> Known:
    make = getattr(composed, name)
    taken = inspect.signature(make).parameters.values()
    optional = [p.name for p in taken if p.default is not p.empty]
    return Known(make, len(taken) - len(optional), len(taken), tuple(optional))


def _view(name: str, least: int, axes_from: int = MOST_ARGUMENTS + 1, most: int = 0) -> Known:
    return Known(getattr(declarations, name), least, most or MOST_ARGUMENTS, axes_from=axes_from)


KNOWN: dict[str, Known] = {
    **{entry.name: _elementwise(entry.symbol) for entry in FUNCTIONS.values()},
    **{entry.name.lower(): _elementwise(entry.symbol) for entry in FUNCTIONS.values()},
    "sqrt": Known(sympy.sqrt, 1, 1),
    **{name: _composed(name) for name in composed.__all__},
    # max(u, v) is the larger of two, unit by unit; max(u) is the largest unit, as max_ is always
    **{r.__name__: Known(r, 1, 2, ("axis",), axes_from=1) for r in REDUCTIONS},
    **{
        r.__name__.rstrip("_"): Known(r, 1, 2, ("axis",), axes_from=1)
        for r in REDUCTIONS
        if r.__name__ != "max_"
    },
    "max": Known(sympy.Max, 1, MOST_ARGUMENTS, ("axis",)),
    "outer": _view("outer", 2, most=2),
    "expand": replace(_view("expand", 2, axes_from=1), keywords=("axis",)),
    "split": _view("split", 2, axes_from=1),
    "chunk": _view("chunk", 3, axes_from=1),
    "flatten": _view("flatten", 1, most=1),
    "repeat": _view("repeat", 2, axes_from=1, most=2),
    "concat": _view("concat", 2),
    "named": Known(named, 1, 2),
    "size": Known(lambda n: n, 1, 1, axes_from=0),
    "where": Known(sympy.Piecewise, 2, 2 * MOST_ARGUMENTS + 1),
}
# What stands in conditions only.
OF_CONDITIONS: dict[str, Known] = {
    "xor": Known(sympy.Xor, 2, 6),
    "implies": Known(sympy.Implies, 2, 2),
    "equivalent": Known(sympy.Equivalent, 2, 6),
    "choose": Known(sympy.ITE, 3, 3),
}
RELATIONS: dict[str, Any] = {
    "==": sympy.Eq, "!=": sympy.Ne, "<=": sympy.LessThan, ">=": sympy.GreaterThan,
    "<": sympy.StrictLessThan, ">": sympy.StrictGreaterThan,
}  # fmt: skip
NUMBERS: dict[str, Any] = {
    "pi": sympy.pi, "EulerGamma": sympy.EulerGamma, "Catalan": sympy.Catalan,
    "GoldenRatio": sympy.GoldenRatio, "TribonacciConstant": sympy.TribonacciConstant,
}  # fmt: skip

NAMES: dict[Any, str] = {
    **{entry.symbol: entry.name.lower() for entry in FUNCTIONS.values()},
    **{r: r.__name__.rstrip("_") for r in REDUCTIONS},
    **{known.make: name for name, known in OF_CONDITIONS.items()},
}
"""How a function is written."""


@functools.cache
def copies(name: str) -> int:
    """How often a composition holds its argument: silu(u), which is u sigmoid(u), twice."""
    if name not in composed.__all__:
        return 1
    u = sympy.Symbol("u", real=True)
    nodes = sympy.preorder_traversal(getattr(composed, name)(u + 1))
    return max(1, sum(1 for node in nodes if node == u))


# What others call them.
ELSEWHERE = {
    "maximum": "max(u, v)", "minimum": "min(u, v)", "fmax": "max(u, v)", "fmin": "min(u, v)",
    "clip": "min(max(u, low), high)", "clamp": "min(max(u, low), high)", "pow": "u**v",
    "ceil": "ceiling(u)", "logistic": "sigmoid(u)", "expit": "sigmoid(u)", "swish": "silu(u)",
    "logsigmoid": "log_sigmoid(u)", "dot": "W @ x", "matmul": "W @ x", "transpose": "W.T",
    "Piecewise": "where(condition, u, v)", "square": "u**2", "average": "mean(u)",
    "cat": "concat(u, v)", "concatenate": "concat(u, v)", "layernorm": "layer_norm(u)",
    "hardtanh": "max(min(u, 1), -1)", "if": "where(condition, u, v)", "detach": "stop_gradient(u)",
}  # fmt: skip


def is_axis(call: Node, number: int) -> bool:
    """Whether an argument of a call is a size."""
    argument = call.args[number]
    if argument.kind == "keyword":
        return argument.word == "axis"
    known = KNOWN.get(call.word)
    return known is not None and number >= known.axes_from


def is_hint(call: Node, number: int) -> bool:
    """Whether an argument of a call is a word: how named(…) calls what it keeps."""
    return call.word == "named" and number == 1
