"""Elementwise work, lowered equation by equation: those that say the same of values side by side
as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sympy import Eq, Expr, Function

from ...derivation.reverse import adjoint, carry
from ...language.symbols import Vector
from ...planning.lanes import Group, groups
from ...planning.operations import Fused, needs_axes
from ...printing.orders import Order
from ...printing.text import text
from .elementwise import ALONE, Elementwise, Lanes
from .operands import Operands
from .shaped import Shaped
from .tree import Equation, Node


class Equations:
    """Lowers the equations between two products."""

    def __init__(self, operands: Operands, order: Order) -> None:
        self.operands, self.order = operands, order
        self.cell, self.places = operands.cell, operands.places
        self.origin = operands.plan.origin

    def lower(self, op: Fused, inside: bool) -> list[Equation]:
        """Equations in an order in which those that can be computed together are."""
        ends = {*self.cell.outputs, *(adjoint(v) for v in self.cell.inputs)}
        together = {
            e: run
            for group in groups(op.equations, self.cell, ends)
            for run in self.places.runs(group, group.tuples)
            for e in run.equations
        }
        waiting = list(op.equations)
        readers: dict[Vector, set[Eq]] = {}
        for e in waiting:
            for v in e.rhs.atoms(Vector):
                readers.setdefault(v, set()).add(e)
        before = {e: self._before(e, op.equations, readers) for e in waiting}
        lowered: list[Equation] = []
        while waiting:
            ready = [e for e in waiting if before[e].isdisjoint(waiting)]
            first = next((e for e in ready if not isinstance(e.rhs, Function)), ready[0])
            run = together.get(first)
            done: Sequence[Eq] = [first]
            if run is not None and all(e in ready for e in run.equations):
                lowered.append(self._in_lanes(run, inside))
                done = run.equations
            else:
                lowered.append(self._alone(first, inside))
            waiting = [e for e in waiting if e not in done]
        return lowered

    def value(self, e: Expr, inside: bool, lanes: Lanes = ALONE) -> tuple[Equation, Node]:
        """What computes ``e``, and what holds it."""
        if needs_axes(e):
            return Shaped(self.operands, self.order, inside).value(e)
        return Elementwise(self.operands, self.order, inside, lanes).value(e)

    def _before(self, e: Eq, equations: Sequence[Eq], readers: Mapping[Vector, set[Eq]]) -> set[Eq]:
        """What has to be done before ``e``: what makes what it reads, and who reads what it writes
        over.
        """
        reads = e.rhs.atoms(Vector)
        found = {u for u in equations if u.lhs in reads}
        if e.lhs.category == "carry" and not self.operands.plan.is_shifted(e.lhs):
            place = self.operands.carried(e.lhs)
            for s in self.cell.states:
                if carry(s) in readers and self.operands.carried(carry(s)) == place:
                    found |= readers[carry(s)] - {e}
        return found

    def _alone(self, e: Eq, inside: bool) -> Equation:
        about = text(self.origin.get(e.lhs, e), self.order)
        if needs_axes(e.rhs):
            return Shaped(self.operands, self.order, inside).line(e, (about,))
        calls = Elementwise(self.operands, self.order, inside)
        return calls.equation(e.rhs, calls.of(e.lhs), (about,))

    def _in_lanes(self, group: Group, inside: bool) -> Equation:
        """Equations that say the same of values side by side, as one."""
        first = group.equations[0]
        varied = {v: self.operands.lane(blocks, inside) for v, blocks in group.varied.items()}
        out = self.operands.lane(group.lhs, inside)
        lanes = Lanes(len(group.equations), {**varied, first.lhs: out})
        calls = Elementwise(self.operands, self.order, inside, lanes)
        equation = calls.equation(first.rhs, out, self._about(group.equations))
        return replace(equation, operands=(*varied.values(), *equation.operands))

    def _about(self, equations: Sequence[Eq]) -> tuple[str, ...]:
        """Equations that say the same."""
        first, *others = [self.origin.get(e.lhs, e) for e in equations]
        if len(others) == 1:
            return text(first, self.order), text(others[0], self.order)
        more = " ".join(text(e.lhs, self.order) for e in others)
        return text(first, self.order), f"and so {more}"
