"""Sizes: how many units an axis has."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from typing import Any

import sympy
from sympy import Expr, Symbol

from .misuse import short

_LARGEST_POWER = 64  # more axes than an array has


class Size(Symbol):
    """The number of units of a vector: D, H, P, …; also T (steps) and B (rows of a batch)."""

    def __new__(cls, name: str) -> Size:
        obj: Size = Symbol.__xnew__(cls, name, integer=True, positive=True)
        return obj

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.name,), {}


def declared(size: object) -> str:
    """A size as it was declared; "" is open."""
    if isinstance(size, str) and not size:
        return ""
    try:
        if isinstance(size, bool) or not isinstance(size, (str, int, Expr)):
            raise ValueError
        return str(size_of(str(size)))
    except ValueError:
        raise ValueError(
            f"a size is a name or a positive number, or a sum or product of these, not "
            f"{short(repr(size))}"
        ) from None


@functools.cache
def size_of(text: str) -> Expr:
    """A size as an expression: "H", "3", "N*P", "D+H", and "P**2", as P*P is written.

    Raises
    ------
    ValueError
        If it is anything else.
    """

    def made(node: ast.AST) -> Expr:
        if isinstance(node, ast.Name):
            return Size(node.id)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value > 0:
            return sympy.Integer(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            combine = sympy.Add if isinstance(node.op, ast.Add) else sympy.Mul
            return combine(made(node.left), made(node.right))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            base, times = node.left, getattr(node.right, "value", None)
            if isinstance(base, ast.Name) and type(times) is int and 0 < times <= _LARGEST_POWER:
                return Size(base.id) ** times
        raise ValueError(text)

    if text.isdecimal() and text.isascii():
        text = text.lstrip("0")  # which Python does not read
    try:
        return sympy.expand(made(ast.parse(text, mode="eval").body))
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(text) from None


def settled(axes: Iterable[Expr]) -> set[Expr]:
    """The sizes that numbers for these axes tell: H and D of H and D + H, none of N*P alone."""
    known: set[Expr] = set()
    waiting = list(axes)
    while found := [a for a in waiting if len(a.free_symbols - known) < 2]:
        known.update(*(a.free_symbols for a in found))
        waiting = [a for a in waiting if a not in found]
    return known
