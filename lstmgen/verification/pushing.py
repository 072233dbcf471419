"""Forward mode, run: the tangent equations of a cell over a whole sequence, as they stand.

``derive(cell, mode="forward")`` is judged like a module: what comes out here is held against dual
numbers, and against the gradients that the module under test returns. The equations are evaluated
one by one, each for a value or for a tangent, and nothing here knows a derivative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from sympy import Eq, Expr

from ..derivation.forward import Tangents
from ..language.cell import Cell
from ..language.matrices import Matrix
from .arithmetic import Array, value_of, widened
from .evaluation import Entity, Walk, number
from .witnesses import Pushed


class Pushing:
    """The equations of a cell and their tangents, ready to be evaluated.

    Parameters
    ----------
    cell : Cell
    tangents : Tangents
        Of the cell's equations.
    sizes : mapping of str to int
    """

    def __init__(self, cell: Cell, tangents: Tangents, sizes: Mapping[str, int]) -> None:
        self.cell, self.tangents, self.sizes = cell, tangents, sizes
        # What is made of parameters alone holds for the whole sequence.
        fixed = [line for line in tangents.lines if line[0].lhs.category == "derived"]
        self._fixed = _in_order(fixed)
        self._step = _in_order(line for line in tangents.lines if line not in fixed)

    @np.errstate(all="ignore")  # what is not finite is looked for in the results
    def run(
        self,
        values: Mapping[Entity, Array],
        changes: Mapping[Entity, Array],
        given: Mapping[str, Array],
        batch: int,
    ) -> Pushed:
        """Evaluate a sequence of ``batch`` rows.

        Parameters
        ----------
        values, changes : mapping
            Of parameters, inputs and initial states, and the direction v in which they change, in
            the layout of ``Evaluator.run``.
        given : mapping
            Masks with a leading T, and constants.
        """
        cell, symbols = self.cell, self.tangents.symbols
        static = self._static(values, changes, given)
        pairs = {s: (values[e], changes[e]) for s in cell.states for e in [("state", s.name)]}
        outputs: dict[str, list[Array]] = {v.name: [] for v in cell.outputs}
        for t in range(len(values["input", cell.inputs[0].name])):
            memo = dict(static)
            for x in cell.inputs:
                entity = ("input", x.name)
                self._put(memo, x, values[entity][t], changes[entity][t])
            for s, (value, change) in pairs.items():
                self._put(memo, s, value, change)
            memo.update({m: given[m.name][t] for m in cell.masks})
            self._evaluate(self._step, memo)
            pairs = {s: (memo[s.at(0)], memo[symbols[s.at(0)]]) for s in cell.states}
            for v in cell.outputs:
                outputs[v.name].append(self._rows(memo[symbols[v]], batch))
        return Pushed(
            {name: np.stack(found) for name, found in outputs.items()},
            {s.name: self._rows(change, batch) for s, (_, change) in pairs.items()},
        )

    def _static(
        self,
        values: Mapping[Entity, Array],
        changes: Mapping[Entity, Array],
        given: Mapping[str, Array],
    ) -> dict[Expr, Array]:
        """What does not change with time: parameters, constants, and what is made of them."""
        cell, symbols = self.cell, self.tangents.symbols
        memo: dict[Expr, Array] = {c: given[c.name] for c in cell.constants}
        for p in cell.parameters:
            entity = ("parameter", p.name)
            self._put(memo, p, values[entity], changes[entity])
            if isinstance(p, Matrix):  # elementwise work has its entries as a quantity
                entries = cell.shapes.quantity(p)
                self._put(memo, entries, values[entity], changes[entity])
        self._evaluate(self._fixed, memo)
        made = {e.lhs.name: e.lhs for e in self.tangents.forward if e.lhs.category == "derived"}
        for m in symbols:  # and products have it as a matrix
            if isinstance(m, Matrix) and m.name in made:
                entries = made[m.name]
                self._put(memo, m, memo[entries], memo[symbols[entries]])
        return memo

    def _put(self, memo: dict[Expr, Array], symbol: Expr, value: Array, change: Array) -> None:
        memo[symbol] = value
        if symbol in self.tangents.symbols:
            memo[self.tangents.symbols[symbol]] = change

    def _evaluate(self, equations: Sequence[Eq], memo: dict[Expr, Array]) -> None:
        walk = Walk(memo, 0, None, {}, None, self.sizes)
        for e in equations:
            shape = tuple(number(n, self.sizes) for n in self.cell.shape(e.lhs))
            memo[e.lhs] = value_of(widened(walk(e.rhs), shape))

    @staticmethod
    def _rows(change: Array, batch: int) -> Array:
        return np.broadcast_to(change[0], (batch, *change.shape[2:]))


def _in_order(lines: Iterable[tuple[Eq, tuple[Eq, ...]]]) -> list[Eq]:
    """Each equation before those of its tangent."""
    return [e for line, made in lines for e in (line, *made)]
