"""The plan of a network: what each part costs, what is kept, and what checkpoints would save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy
from sympy import Expr

from ..language import dtypes
from ..language.cell import Cell
from ..language.sizes import Size
from ..planning import schedule
from ..planning.description import polynomial
from ..planning.operations import ZERO, B, T
from ..planning.plans import Plan
from .description import lines
from .graph import Chain, Run
from .structure import Structure, shape_in

EVERY = Size("k")  # steps from one state that is kept to the next


@dataclass(frozen=True)
class NetworkPlan:
    """The costs of a network over T steps of B sequences of full length, those of its cells added.

    ``print`` shows it. ``flops``, ``bytes``, ``tape`` and ``checkpointed`` are expressions in T, B,
    the size D of x, and k, the steps between states that are kept.
    """

    network: Structure
    cells: Mapping[str, Plan]  # by the names of cells
    dtype: dtypes.DType

    # ------------------------------------------------------------------ costs

    @cached_property
    def flops(self) -> Expr:
        """Arithmetic of forward and backward."""
        return self._sum(lambda plan: plan.flops)

    @cached_property
    def bytes(self) -> Expr:
        """Bytes that forward and backward move."""
        return self._sum(lambda plan: plan.bytes)

    @cached_property
    def tape(self) -> Expr:
        """Numbers kept from forward for backward: tapes of cells, and what they read."""
        kept = self._sum(lambda plan: plan.tape)
        signals = {s for c in self.network.graph.chains for n in c.nodes for s in n.inputs}
        return sympy.expand(kept + sum((self._rows(s) for s in self._own(signals)), ZERO))

    @cached_property
    def checkpointed(self) -> Expr:
        """The same with states kept every k steps: signals between chains, states, and what each
        chain keeps of k steps.
        """
        graph = self.network.graph
        between = {s for chain in graph.chains for s in chain.reads}
        whole = sum((self._rows(s) for s in self._own(between)), ZERO)
        blocks = sum((self.of_block(chain) for chain in graph.chains), ZERO)
        return sympy.expand(whole + blocks) + self.snapshot * sympy.ceiling(T / EVERY)

    @cached_property
    def snapshot(self) -> Expr:
        """Numbers in the states of all runs."""
        return B * sum(
            (sympy.prod(shape_in(run, s)) for run in self.network.graph.runs
             for s in run.cell.states), ZERO,
        )  # fmt: skip

    def of_block(self, chain: Chain) -> Expr:
        """Numbers that a chain keeps of k steps."""
        tapes = sum((self._of(run, self.cells[run.cell.name].tape) for run in chain.runs), ZERO)
        inner = {s for node in chain.nodes for s in node.inputs if s in chain.made}
        kept = tapes + sum((self._rows(s) for s in inner), ZERO)
        return sympy.expand(kept.subs(T, EVERY))

    def _sum(self, cost: Any) -> Expr:
        runs = self.network.graph.runs
        return sympy.expand(
            sum((self._of(run, cost(self.cells[run.cell.name])) for run in runs), ZERO)
        )

    def _of(self, run: Run, cost: Expr) -> Expr:
        """A cost of a cell in its place."""
        known = dict(run.sizes) | ({T: sympy.S.One} if run.inputs[0].of_rows else {})
        return cost.subs(known, simultaneous=True)

    def _rows(self, signal: Any) -> Expr:
        return B * signal.size * (1 if signal.of_rows else T)

    def _own(self, signals: set[Any]) -> list[Any]:
        """Signals but x, which is the caller's."""
        return sorted((s for s in signals if s != self.network.graph.input), key=lambda s: s.name)

    # ------------------------------------------------------------------ text

    def __str__(self) -> str:
        poly, runs = polynomial, self.network.graph.runs
        numbers = sum((sympy.prod(s) for s in self.network.parameters.values()), ZERO)
        parts = [
            (run.name, f"{poly(self._of(run, self.cells[run.cell.name].flops))} flop")
            for run in runs
        ]
        totals = [
            ("flop", f"{poly(self.flops)} forward and backward"),
            ("moved", f"{poly(self.bytes)} bytes ({self.dtype.name})"),
            ("tape", f"{poly(self.tape)} numbers"),
            ("  every k", f"{_shown(self.checkpointed)} numbers, one forward pass more"),
            ("parameters", f"{poly(numbers)} numbers"),
        ]
        width = max(len(name) for name, _ in parts + totals) + 2
        table = [f"{name:{width}s}{text}" for name, text in (*parts, ("", ""), *totals)]
        return "\n".join([*lines(self.network), "", *(row.rstrip() for row in table)])


def plan(given: Cell | Structure, *, dtype: str = "float64", **options: Any) -> Plan | NetworkPlan:
    """Plan a cell, or all cells of a network.

    Parameters
    ----------
    given : Cell, Derivation or Network
    dtype : str
        "float32" or "float64", for the count of bytes.
    **options
        As for plans of cells: ``tape="float16"``, and see ``Options``.

    Returns
    -------
    Plan or NetworkPlan
        ``print`` shows it; ``flops``, ``bytes`` and ``tape`` are polynomials in sizes.
    """
    if not isinstance(given, Structure):
        return schedule.plan(given, dtype=dtype, **options)
    cells = {c.name: schedule.plan(c, dtype=dtype, **options) for c in given.graph.cells}
    return NetworkPlan(given, cells, dtypes.dtype(dtype, options.get("tape")))


def _shown(e: Expr) -> str:
    """A sum in which there may be a number of blocks."""
    shown = []
    for term in sympy.Add.make_args(e):
        if term.has(sympy.ceiling):
            (blocks,) = term.atoms(sympy.ceiling)
            shown.append(f"{polynomial(term / blocks)}·⌈T/k⌉")
        else:
            shown.append(polynomial(term))
    return " + ".join(shown)
