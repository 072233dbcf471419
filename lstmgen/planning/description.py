"""A plan as text: the first thing to look at when a kernel is slow."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

import sympy
from sympy import Eq, Expr

from ..language.matrices import Matrix
from ..language.sizes import Size
from ..language.symbols import Reduction, Vector
from ..printing.orders import Order
from ..printing.text import text
from .assignment import Assignment
from .operations import (
    ZERO,
    Fill,
    Fused,
    Multiply,
    Operation,
    Outers,
    Pass,
    Sums,
    area,
    is_loop,
)

_WIDTHS = (56, 60)  # of what is done, and of the note beside it
_TITLE = 11  # and of the titles below them


def describe(
    passes: Sequence[tuple[Pass, Sequence[Fused]]],
    order: Order,
    memory: Assignment,
    recurrences: Sequence[str],
    totals: Sequence[tuple[str, str]],
) -> str:
    """What runs where, what is kept, which recurrences there are, and what all costs. ``passes``
    are forward and backward, each with what it does once for a sequence.
    """
    (forward, made), (backward, gained) = passes
    rows = [
        *_once("once, at first", made, order, memory),
        *_pass(forward, "each step", order, memory),
        *_pass(backward, "backward step", order, memory),
        *_once("once, at last", gained, order, memory),
    ]
    left = max(len(r[0]) for r in rows) + 3
    middle = min(max(len(r[1]) for r in rows), _WIDTHS[0]) + 3
    lines = []
    for title, what, note in rows:
        columns = [textwrap.wrap(t, w) for t, w in zip((what, note), _WIDTHS, strict=True)]
        for n, (b, c) in enumerate(zip_longest(*columns, fillvalue="")):
            lines.append(f"{title if n == 0 else '':<{left}}{b:<{middle}}{c}".rstrip())
    lines.append("")
    if recurrences:
        titles = ["recurrence"] + [""] * (len(recurrences) - 1)
        shown = (f"{t:<{_TITLE}}{line}" for t, line in zip(titles, recurrences, strict=True))
        lines += [*shown, ""]
    for name, cost in totals:
        costs = [part for line in cost.splitlines() for part in textwrap.wrap(line, sum(_WIDTHS))]
        lines += [f"{name if n == 0 else '':<{_TITLE}}{part}" for n, part in enumerate(costs)]
    return "\n".join(lines)


def _pass(part: Pass, step: str, order: Order, memory: Assignment) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    several = len(part.sections) > 3
    for k, section in enumerate(part.sections):
        in_loop = f"{step}, loop {k // 2 + 1}" if several else step
        title = in_loop if is_loop(k) else part.title(k)
        for n, op in enumerate(section):
            rows.append((title if n == 0 else "", *_operation(op, order, memory)))
    return rows


def _once(
    title: str, operations: Sequence[Fused], order: Order, memory: Assignment
) -> list[tuple[str, str, str]]:
    """What is made of parameters, and its adjoints."""
    shown = [_fused(op, order, memory) for op in operations]
    return [(title, what, f"of parameters alone, {note}") for what, note in shown]


def _operation(op: Operation, order: Order, memory: Assignment) -> tuple[str, str]:
    """What an operation does, and what is worth knowing about it."""
    if isinstance(op, Multiply):
        outs = " ".join(text(o, order) for o in op.outs)
        sign = "+=" if op.accumulate else "="
        matrices = _stack(op.matrices)
        operands = " ".join(text(o, order) for o in op.operands)
        bias = " + b" if any(op.biases) else ""
        cost = _cost(op, order)
        stacked = f"stacked {_members(op.matrices)}, " if len(op.matrices) > 1 else ""
        return (
            f"{outs} {sign} {matrices} {operands}{bias}",
            f"{stacked}{cost} flop a row",
        )
    if isinstance(op, Fill):
        return " ".join(text(o, order) for o in op.outs) + " = bias", "products are added later"
    if isinstance(op, Fused):
        return _fused(op, order, memory)
    if isinstance(op, Outers):
        gradients = " ".join(f"∂{p.name}" for p in op.parameters)
        cost = _cost(op, order)
        return (
            f"{gradients} += δ {text(op.right, order)}ᵀ",
            f"stacked, {cost} flop a row",
        )
    assert isinstance(op, Sums)
    return " ".join(f"∂{p.name}" for p in op.parameters), "sums over all rows"


def _cost(op: Multiply | Outers, order: Order) -> str:
    return polynomial(sum((2 * area(order.cell, m) for m in op.matrices), ZERO))


def _fused(op: Fused, order: Order, memory: Assignment) -> tuple[str, str]:
    values = " ".join(text(e.lhs, order) for e in op.equations)
    loops = op.loops
    reductions = sum(isinstance(e.rhs, Reduction) for e in op.equations)
    note = "one fused stage" if len(loops) == 1 else f"fused, {len(loops)} loops over units"
    if reductions:
        note += f", {reductions} reduction{'s' if reductions > 1 else ''}"
    kept = [e.lhs for e in op.equations if _scope(memory, e.lhs) in ("tape", "state")]
    if kept:
        note += f"; tape: {' '.join(v.name for v in kept)}"
    over = [e.lhs for e in op.equations if _is_over_operand(memory, e)]
    if over:
        note += f"; in place: {' '.join(text(v, order) for v in over)}"
    again = [e.lhs for e in op.equations if e.lhs.category == "shared"]
    if again:
        note += f"; recomputed: {' '.join(text(v, order) for v in again)}"
    return values, note


def _scope(memory: Assignment, v: Vector) -> str:
    return memory.homes[v].scope if v in memory.homes else ""


def _is_over_operand(memory: Assignment, e: Eq) -> bool:
    """Whether an equation writes over what it reads."""
    return any(memory.of(v) == memory.of(e.lhs) for v in e.rhs.atoms(Vector))


def _stack(matrices: tuple[Matrix, ...]) -> str:
    families = dict.fromkeys(m.name.partition("_")[0] for m in matrices)
    name = matrices[0].name if len(matrices) == 1 else "".join(families)
    return name + ("ᵀ" if matrices[0].transposed else "")


def _members(matrices: tuple[Matrix, ...]) -> str:
    return " ".join(m.name.partition("_")[2] or m.name for m in matrices)


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def polynomial(e: Expr) -> str:
    """8·T·B·H² + …, the largest terms first."""
    terms = []
    for term in sympy.Add.make_args(sympy.expand(e)):
        coefficient, rest = term.as_coeff_Mul()
        powers = rest.as_powers_dict()
        names = sorted((s for s in powers if isinstance(s, Size)), key=_place)
        factors = [
            s.name + (str(powers[s]).translate(_RAISED) if powers[s] != 1 else "") for s in names
        ]
        shown = [str(coefficient)] if coefficient != 1 or not factors else []
        degree = sum(int(powers[s]) for s in names)
        terms.append((-degree, [_place(s) for s in names], "·".join([*shown, *factors])))
    return " + ".join(t for _, _, t in sorted(terms))


def _place(s: Size) -> tuple[int, str]:
    first = ("T", "tile", "B")
    return (first.index(s.name) if s.name in first else 9, s.name)
