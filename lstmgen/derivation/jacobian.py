"""The state Jacobian: how a change of the states moves the next ones, ∂s[t]/∂s[t-1].

It is what forward mode says of the states alone, while inputs and parameters stay as they are. How
gradients fade or grow over time is decided by products of it, and what of a cell can be parallel in
time by its structure (Danieli et al., "ParaRNN", 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import sympy
from sympy import Eq, Expr

from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.symbols import Contract, Product, Reduction, Vector
from .forward import along, forward, is_tangent
from .normalform import MIXING

Mixing = Literal["elementwise", "within heads", "dense"]
_LONGEST = 500  # symbols in a line of a block; those of known cells have less than 50
_RANK: tuple[Mixing, ...] = ("elementwise", "within heads", "dense")


@dataclass(frozen=True)
class Recurrence:
    """States that depend on each other from step to step.

    Attributes
    ----------
    states : tuple of Vector
    is_loop : bool
        Whether they depend on themselves: a state that only delays something does not.
    mixing : "elementwise", "within heads" or "dense"
        Whether a unit depends on the same unit of the states alone, on its head's, or on all.
    is_linear : bool
        Whether the next of them are linear in them, other states being given.
    block : sympy.Matrix or None
        Of an elementwise one the k × k block of k states, ∂new/∂old of each unit; None also where
        it is too long to write out.
    """

    states: tuple[Vector, ...]
    is_loop: bool
    mixing: Mixing
    is_linear: bool
    block: sympy.Matrix | None


@dataclass(frozen=True)
class StateJacobian:
    """The state Jacobian of a cell.

    Attributes
    ----------
    cell : Cell
    lines : tuple of Eq
        What a change ds of the states brings, in order: vectors of category "tangent …", those of
        the new states among them. Where a maximum has ties, a line counts them.
    recurrences : tuple of Recurrence
        The groups of states that depend on each other, in the order of the cell's states.
    """

    cell: Cell
    lines: tuple[Eq, ...]
    recurrences: tuple[Recurrence, ...]


def state_jacobian(cell: Cell) -> StateJacobian:
    """The state Jacobian of a cell, and the structure that it has."""
    tangents = forward(cell.equations, cell.shapes, kept=cell.outputs)
    steps = [e for e in tangents.equations if isinstance(e.lhs, Vector)]
    state = {tangents.symbols[s]: s for s in cell.states if s in tangents.symbols}
    lines = _of_states(steps, set(state), {s.name for s in cell.states})
    ways = _ways(lines, list(state))
    meaning = {e.lhs: e.rhs for e in tangents.forward}
    groups = _groups({s: {old for new, old in ways if new == s} for s in state})
    return StateJacobian(
        cell,
        tuple(lines),
        tuple(_recurrence(group, ways, lines, meaning, state) for group in groups),
    )


def _of_states(steps: Sequence[Eq], given: set[Expr], names: set[str]) -> list[Eq]:
    """The lines without what parameters and inputs bring, and without what no state reads."""
    lines = along(steps, given)
    read: set[Expr] = {e.lhs for e in lines if e.lhs.name in names and is_tangent(e.lhs)}
    for e in reversed(lines):
        read |= e.rhs.atoms(Vector) if e.lhs in read else set()
    return [e for e in lines if e.lhs in read]


# --------------------------------------------------------------------------- structure


def _ways(lines: Sequence[Eq], given: Sequence[Expr]) -> dict[tuple[Expr, Expr], Mixing]:
    """Of each new state and each old one that it depends on, by their tangents at t-1, how units
    mix on the way.
    """
    of: dict[Expr, dict[Expr, Mixing]] = {d: {d: "elementwise"} for d in given}
    for e in lines:
        found: dict[Expr, Mixing] = {}
        for x, kind in _tangents(e.rhs, "elementwise"):
            for old, before in of.get(x, {}).items():
                found[old] = _worst(found.get(old, "elementwise"), kind, before)
        of[e.lhs] = found
    return {(d, old): kind for d in given for old, kind in of.get(d.at(0), {}).items()}


def _tangents(e: Expr, kind: Mixing) -> Iterator[tuple[Expr, Mixing]]:
    """The tangents in ``e``, and how units mix between them and it."""
    if is_tangent(e):
        yield e, kind
    for part in e.args:
        if isinstance(part, Expr):
            yield from _tangents(part, _worst(kind, _mixing(e)))


def _mixing(e: Expr) -> Mixing:
    """How a node mixes the units of what is below it."""
    if isinstance(e, Product):
        return (
            "within heads" if isinstance(e.matrix, Matrix) and len(e.matrix.axes) > 2 else "dense"
        )
    if isinstance(e, Reduction):
        return "dense" if e.axis is None or int(e.axis) == 0 else "within heads"
    if isinstance(e, Contract):
        left, right, out = e.spec
        return "within heads" if set(left) & set(right) & set(out) else "dense"
    return "dense" if isinstance(e, MIXING) else "elementwise"


def _worst(*kinds: Mixing) -> Mixing:
    return max(kinds, key=_RANK.index)


def _groups(depends: dict[Expr, set[Expr]]) -> list[tuple[Expr, ...]]:
    """What reaches each other."""
    reached = {s: {s, *others} for s, others in depends.items()}
    for _ in depends:
        reached = {s: set().union(*(reached[x] for x in r)) for s, r in reached.items()}
    groups: list[tuple[Expr, ...]] = []
    for s in depends:
        if not any(s in group for group in groups):
            groups.append(tuple(x for x in depends if x in reached[s] and s in reached[x]))
    return groups


def _recurrence(
    group: tuple[Expr, ...], ways: dict[tuple[Expr, Expr], Mixing], lines: Sequence[Eq],
    meaning: dict[Expr, Expr], state: dict[Expr, Vector],
) -> Recurrence:  # fmt: skip
    within = [kind for (new, old), kind in ways.items() if new in group and old in group]
    mixing = _worst("elementwise", *within)
    states = tuple(state[d] for d in group)
    block = None
    if within and mixing == "elementwise" and _length(group, lines) <= _LONGEST:
        values: dict[Expr, Expr] = {}
        for e in lines:
            values[e.lhs] = e.rhs.xreplace(values)
        block = sympy.Matrix(
            [[_coefficient(values[new.at(0)], old) for old in group] for new in group]
        )
    is_linear = not any(_moves(c, states, meaning) for c in _factors(group, lines))
    return Recurrence(states, bool(within), mixing, is_linear, block)


def _length(group: Sequence[Expr], lines: Sequence[Eq]) -> int:
    """About how many symbols the new changes of a group have, written out in those before the
    step: what is read twice is there twice, so that this may double from line to line.
    """
    lengths: dict[Expr, int] = {}
    for e in lines:
        atoms = (node for node in sympy.preorder_traversal(e.rhs) if node.is_Symbol)
        lengths[e.lhs] = sum(lengths.get(v, 1) for v in atoms)
    return max(lengths[d.at(0)] for d in group)


def _coefficient(e: Expr, old: Expr) -> Expr:
    made: Expr = sympy.factor_terms(e.diff(old))
    return made


def _factors(group: tuple[Expr, ...], lines: Sequence[Eq]) -> set[Vector]:
    """What stands beside changes of the group on their ways to the new ones of it."""
    ahead: set[Expr] = set(group)
    for e in lines:
        ahead |= {e.lhs} if e.rhs.atoms(Vector) & ahead else set()
    back: set[Expr] = {d.at(0) for d in group}
    found: set[Vector] = set()
    for e in reversed(lines):
        if e.lhs not in back:
            continue
        for term in sympy.Add.make_args(e.rhs):
            read = term.atoms(Vector)
            if read & ahead:
                back |= read & ahead
                found |= {v for v in read if not is_tangent(v)}
    return found


def _moves(v: Vector, states: Sequence[Vector], meaning: dict[Expr, Expr]) -> bool:
    """Whether ``v`` depends on the states."""
    names, seen, todo = {s.name for s in states}, set(), [v]
    while todo:
        x = todo.pop()
        if x.category == "state" and x.name in names:
            return True
        if x not in seen:
            seen.add(x)
            todo += meaning[x].atoms(Vector) if x in meaning else []
    return False
