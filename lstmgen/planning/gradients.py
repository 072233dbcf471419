"""Gradients of parameters as operations: sums over all rows, those of matrices stacked."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Eq, Expr

from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.symbols import Outer, Total, Vector
from .operations import ZERO, Operation, Outers, Sums
from .storage import runs


def gradient_operations(totals: Sequence[Eq], cell: Cell) -> list[Outers | Sums]:
    """Products of all rows at once, stacked by their right factor, and plain sums.

    Those with a product for each head are alone.
    """
    by_right: dict[tuple[Vector, int], list[tuple[Matrix, Vector]]] = {}
    sums: list[tuple[Vector, Expr]] = []
    for e in totals:
        parameter = e.lhs.args[0]
        plain: list[Expr] = []
        for k, total in enumerate(t for t in sympy.Add.make_args(e.rhs) if t != 0):
            factor, inner = _total_of(total)
            if isinstance(inner, Outer):
                left, right = inner.args
                by_right.setdefault((right, k), []).append((parameter, left))
            else:
                plain.append(factor * inner)
        if plain:
            sums.append((parameter, sum(plain, ZERO)))
    ops: list[Outers | Sums] = []
    for (right, _), pairs in by_right.items():
        seen: dict[Vector, int] = {}
        layers: dict[int, list[tuple[Matrix, Vector]]] = {}
        for matrix, left in pairs:  # the same left twice cannot be stacked with itself
            number = seen[left] = seen.get(left, -1) + 1
            if len(cell.shape(right)) > 1:
                number = len(layers)
            layers.setdefault(number, []).append((matrix, left))
        for layer in layers.values():
            ops.append(Outers(tuple(m for m, _ in layer), tuple(v for _, v in layer), right))
    if sums:
        ops.append(Sums(tuple(p for p, _ in sums), tuple(t for _, t in sums)))
    return ops


def _total_of(term: Expr) -> tuple[Expr, Expr]:
    """(factor, what is summed) of a multiple of a Total."""
    totals = [f for f in sympy.Mul.make_args(term) if isinstance(f, Total)]
    assert len(totals) == 1, f"a gradient is a sum over steps, not {term}"
    return term / totals[0], totals[0].args[0]


def split_gradients(
    ops: Sequence[Outers | Sums], layouts: Sequence[tuple[Vector, ...]]
) -> tuple[Operation, ...]:
    """The operations, stacks cut where what they read does not lie side by side."""
    out: list[Operation] = []
    for op in ops:
        if isinstance(op, Outers):
            for run in runs(op.lefts, layouts):
                chosen = tuple(op.parameters[op.lefts.index(v)] for v in run)
                out.append(Outers(chosen, run, op.right))
        else:
            out.append(op)
    return tuple(out)
