"""Equations that are alike but for a gate's letter, written once with ⋆ in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sympy import Eq, Expr

from ...language.matrices import Matrix
from ...language.symbols import Gradient, Vector
from ...printing.orders import Order
from .names import STAR


def starred(equations: Sequence[Eq], order: Order) -> tuple[list[Eq], list[str]]:
    """``equations``, where those alike but for a gate's letter are written once, with ⋆.

    Only equations of names that the derivation made are; the letters come second.
    """
    own = [e.lhs.name for e in order.cell.equations]
    alike: dict[Eq, list[int]] = {}
    letters: dict[int, str] = {}
    for k, e in enumerate(equations):
        name = (e.lhs.args[0] if isinstance(e.lhs, Gradient) else e.lhs).name
        letter = next((part for part in name.split("_")[::-1] if part in own), "")
        if letter and name not in own:
            letters[k] = letter
            alike.setdefault(_with_star(e, letter, order), []).append(k)
    sets = Counter(
        tuple(sorted((letters[k] for k in ks), key=own.index))
        for ks in alike.values()
        if len(ks) > 1
    )
    if not sets:
        return list(equations), []
    chosen = sets.most_common(1)[0][0]
    shown: dict[int, Eq] = dict(enumerate(equations))
    for common, ks in alike.items():
        if sorted((letters[k] for k in ks), key=own.index) == list(chosen):
            shown[ks[-1]] = common
            for k in ks[:-1]:
                del shown[k]
    result = [shown[k] for k in sorted(shown)]
    if not _in_order(result, chosen):
        return list(equations), []
    return result, list(chosen)


def _with_star(e: Eq, letter: str, order: Order) -> Eq:
    swap: dict[Expr, Expr] = {}
    for s in e.atoms(Vector, Matrix):
        parts = s.name.split("_")
        if letter in parts:
            last = len(parts) - 1 - parts[::-1].index(letter)
            name = "_".join([*parts[:last], STAR, *parts[last + 1 :]])
            order.adopt(name, s.name)
            if isinstance(s, Matrix):
                *heads, rows, columns = s.axes
                swap[s] = Matrix(name, rows, columns, s.transposed, tuple(heads))
            else:
                axes = tuple(str(n) for n in order.cell.shape(s))
                swap[s] = Vector(name, s.category, axes, s.time)
    return Eq(e.lhs.xreplace(swap), e.rhs.xreplace(swap), evaluate=False)


def _in_order(lines: Sequence[Eq], letters: Sequence[str]) -> bool:
    """Whether every line reads only what lines above it define, ⋆ being each of ``letters``."""

    def each(v: Vector) -> set[tuple[str, str, int]]:
        return {(v.name.replace(STAR, letter), v.category, v.time) for letter in letters}

    made = [each(e.lhs) if isinstance(e.lhs, Vector) else set() for e in lines]
    ever: set[tuple[str, str, int]] = set().union(*made)
    so_far: set[tuple[str, str, int]] = set()
    for e, names in zip(lines, made, strict=True):
        read = set().union(*(each(v) for v in e.rhs.atoms(Vector)))
        if (read & ever) - so_far:
            return False
        so_far |= names
    return True
