r"""The state Jacobian on a page: \mathrm{d}\mathbf{c}_t = …, and what structure it has."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import Eq, Expr

from ...derivation.jacobian import Recurrence, StateJacobian, state_jacobian
from ...derivation.reverse import Derivation
from ...errors import LstmgenError
from ...language.cell import Cell
from ...language.symbols import Vector
from ...printing.jacobian import kind
from ..comments import made_by
from .breaking import LINE, SOURCE, width
from .equations import Equations, Starred
from .lines import Lines, ended, listed
from .notation import Notation
from .page import Page, one_line_each
from .stars import starred
from .typesetting import Slope

_COLUMNS = 10  # of a pmatrix, unless a document says otherwise


@dataclass(frozen=True)
class Structure:
    """What is said of one recurrence, and the lines of an ``align`` below it."""

    said: str
    lines: list[str]


class JacobianEquations(Equations):
    """The step, with names for what the state Jacobian reads, and the lines of that."""

    def __init__(
        self, cell: Cell, derivation: Derivation, lines: Lines, jacobian: StateJacobian
    ) -> None:
        super().__init__(cell, derivation, lines)
        self._jacobian = jacobian

    @cached_property
    def backward(self) -> list[Eq]:
        """A change of the states, in place of adjoints."""
        return [self._with_names(e) for e in self._jacobian.lines]

    @cached_property
    def adjoints(self) -> Starred:
        """The lines, with those that are alike written once, for which they have to be together:
        as early as what they read allows.
        """
        depth: dict[Expr, int] = {}
        for e in self.backward:
            depth[e.lhs] = 1 + max((depth.get(v, 0) for v in e.rhs.atoms(Vector)), default=0)
        together = starred(sorted(self.backward, key=lambda e: depth[e.lhs]), self.lines.order)
        return together if together[1] else (self.backward, [])

    @cached_property
    def gradients(self) -> list[Eq]:
        """There are none."""
        return []

    @cached_property
    def _used(self) -> set[str]:
        entries = [r.block for r in self._jacobian.recurrences if r.block is not None]
        return super()._used | {v.name for block in entries for v in block.free_symbols}


class JacobianPage(Page):
    """What the template of a state Jacobian reads."""

    def __init__(self, cell: Cell, source: str) -> None:
        if not cell.states:
            raise LstmgenError(f"{cell.name} has no state: nothing flows from step to step")
        super().__init__(cell, source)
        self.jacobian = state_jacobian(cell)
        self.equations = JacobianEquations(
            cell, self.equations.derivation, self.lines, self.jacobian
        )
        self._notation = Notation(self.equations)
        command = f"lstmgen flow {source or cell.name} --latex"
        self.header = one_line_each(made_by(cell, command))
        self.title = f"{self.title}: state Jacobian"

    @property
    def recurrences(self) -> list[Structure]:
        """The structure of each group of states that depend on each other."""
        return [self._structure(r) for r in self.jacobian.recurrences]

    def _structure(self, r: Recurrence) -> Structure:
        names, scalar = self.lines.names, self.lines.order.scalar
        matrix = self.lines.order.is_matrix
        states = [f"${names(s.name, bold=not (scalar(s) or matrix(s)))}$" for s in r.states]
        said = textwrap.fill(f"{listed(states)} --- {kind(r)}.", SOURCE, break_long_words=False)
        return Structure(said, self._lines_of(r))

    def _lines_of(self, r: Recurrence) -> list[str]:
        """Of an elementwise one the block of a unit: a matrix if there is room for it, else its
        entries, those that are not zero.
        """
        if r.block is None:
            return []
        k = len(r.states)
        if 1 < k <= _COLUMNS:
            entries = [[self.lines.math(r.block[i, j]) for j in range(k)] for i in range(k)]
            above, below = (
                ", ".join(self.lines.math(s.at(time)) for s in r.states) for time in (0, -1)
            )
            left = rf"\frac{{\partial \left({above}\right)}}{{\partial \left({below}\right)}}"
            wide = sum(max(width(row[j]) for row in entries) + 10.0 for j in range(k))
            if width(f"{left} =") + wide <= LINE:
                rows = r" \\ ".join(" & ".join(row) for row in entries)
                return ended([rf"{left} &= \begin{{pmatrix}} {rows} \end{{pmatrix}}"])
        shown = [
            Eq(Slope(new.at(0), old), r.block[i, j], evaluate=False)
            for i, new in enumerate(r.states)
            for j, old in enumerate(r.states)
            if r.block[i, j] != sympy.S.Zero
        ]
        return self.lines.aligned(shown)
