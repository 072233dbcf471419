"""Names for what the derivation adds: as a textbook would choose them, and each for one thing."""

from __future__ import annotations

from collections.abc import Iterable

import sympy
from sympy import Eq, Expr, Symbol

from ..language.cell import Cell
from ..language.symbols import Expand


class Namer:
    """Gives out names that nothing else has."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def __call__(self, name: str) -> str:
        unique, number = name, 2
        while unique in self._taken:
            unique, number = f"{name}_{number}", number + 1
        self._taken.add(unique)
        return unique


def namer_for(cell: Cell, equations: Iterable[Eq]) -> Namer:
    """A namer for what is added to ``equations``: it avoids their names, and those of sizes."""
    taken = {s.name for e in equations for s in e.free_symbols}
    return Namer({*taken, "T", "B", *(n.name for n in cell.sizes)})


def joined(e: Expr) -> str:
    """``rh`` for r * h: short products of symbols read best when they are written together."""
    factors = [a.operand if isinstance(a, Expand) else a for a in e.args]
    if isinstance(e, sympy.Mul) and all(isinstance(a, Symbol) for a in factors):
        order = {"vector": 0, "state": 1}
        names = sorted(factors, key=lambda v: (order.get(getattr(v, "category", ""), 2), str(v)))
        together = "".join(v.name for v in names)
        return together if len(together) <= 4 else ""
    return ""


def product_name(product: Expr) -> str:
    """``Uh_n`` for U_n @ h."""
    matrix, operand = product.args
    family, _, member = matrix.name.partition("_")
    return f"{family}{operand.name}" + (f"_{member}" if member else "")


def contraction_name(e: Expr) -> str:
    """``Cq`` for C @ q, ``vk`` for outer(v, k)."""
    together = f"{e.args[0].name}{e.args[1].name}"
    return together if len(together) <= 6 else ""
