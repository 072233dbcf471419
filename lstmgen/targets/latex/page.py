"""What the templates set: one page of equations, in the order of reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...derivation.reverse import Derivation, reverse
from ...language.cell import Cell
from ...language.matrices import Matrix
from ...language.symbols import Vector
from ...printing.orders import Order, one_line, parameter_count
from ..comments import header
from ..sealing import PLACEHOLDER
from .breaking import LINE, width
from .equations import Equations
from .lines import Lines, ended, listed
from .names import STAR, Names, escape
from .notation import Notation


@dataclass(frozen=True)
class Block:
    """Lines of an ``alignat``, and how many equations stand beside each other in it."""

    columns: int
    lines: list[str]


class Page:
    """What the templates set: every attribute that they read is LaTeX, or a list of it."""

    def __init__(self, cell: Cell, source: str) -> None:
        self.cell = cell
        derivation = reverse(cell)
        self.lines = Lines(Order(cell, derivation.forward), Names(_symbols(derivation)))
        self.equations = Equations(cell, derivation, self.lines)
        self._notation = Notation(self.equations)
        self.header = one_line_each(header(cell, "latex", source))
        self.name = escape(cell.name)
        self.title = escape(cell.title[:1].upper() + cell.title[1:]) or self.name
        name = [rf"\texttt{{{self.name}}}"] if cell.title else []
        self.byline = ", ".join(name + ([f"after {escape(cell.source)}"] if cell.source else []))

    @property
    def notation(self) -> list[list[str]]:
        """The rows of the table, in groups."""
        return self._notation.rows

    @property
    def remarks(self) -> list[str]:
        """What only some cells need explained."""
        return self._notation.remarks

    @property
    def count(self) -> str:
        return self.lines.math(parameter_count(self.cell))

    @property
    def once(self) -> list[str]:
        """Equations that hold once for a whole sequence."""
        return self.lines.aligned(self.equations.once)

    @property
    def forward(self) -> list[str]:
        """The user's equations."""
        return self.lines.aligned(self.equations.forward)

    @property
    def helpers(self) -> list[str]:
        """What LN(v) and the like mean."""
        return ended([self.lines.line(e) for e in self.equations.helpers])

    @property
    def parts(self) -> list[str]:
        """Those equations, several to a line."""
        return self.lines.packed(self.equations.parts[0])

    @property
    def adjoints(self) -> list[str]:
        """The backward step."""
        return self.lines.aligned(self.equations.adjoints[0])

    @property
    def part_stars(self) -> str:
        """What ⋆ stands for, where there are any."""
        return self._stars(self.equations.parts[1])

    @property
    def adjoint_stars(self) -> str:
        """The same for the backward step."""
        return self._stars(self.equations.adjoints[1])

    def _stars(self, letters: Sequence[str]) -> str:
        names = ", ".join(self.lines.names(n, bold=False) for n in letters)
        return rf", for each $\star \in \{{{names}\}}$" if letters else ""

    @property
    def initial_states(self) -> str:
        return self._states("0")

    @property
    def final_states(self) -> str:
        return self._states("T")

    def _states(self, time: str) -> str:
        names, scalar = self.lines.names, self.lines.order.scalar
        states = self.cell.states
        return listed([f"${names(s.name, bold=not scalar(s), time=time)}$" for s in states])

    @property
    def gradient_stars(self) -> str:
        """The same for the gradients."""
        return self._stars(self.equations.totals[1])

    @cached_property
    def gradients(self) -> list[Block]:
        """Gradients of parameters side by side, a row a gate; those too long for that at last."""
        columns: dict[str, dict[str, str]] = {}  # W -> i -> the gradient of W_i
        long = []
        for e in self.equations.totals[0]:
            line = self.lines.line(e)
            if width(line) > LINE:
                long.append(e)
                continue
            name = e.lhs.args[0].name
            family, _, letter = name.partition("_")
            if letter in ("", STAR):  # no table to stand in
                columns.setdefault(letter, {})[name] = line
            else:
                columns.setdefault(family, {})[letter] = line
        beside: list[list[dict[str, str]]] = []
        table = False
        for head, column in columns.items():
            in_table = head not in ("", STAR)
            if in_table and table and sum(map(_widest, [*beside[-1], column])) <= LINE:
                beside[-1].append(column)
            else:
                beside.append([column])
            table = in_table
        blocks = [self._block(block) for block in beside]
        return [*blocks, Block(1, self.lines.aligned(long))] if long else blocks

    def _block(self, columns: Sequence[dict[str, str]]) -> Block:
        if len(columns) == 1:  # alone, a family is set in rows
            lines = list(columns[0].values())
            number = min(len(lines), max(1, int(LINE / _widest(columns[0]))))
            rows = [lines[k : k + number] for k in range(0, len(lines), number)]
        else:
            letters = dict.fromkeys(letter for family in columns for letter in family)
            rows = [[family.get(letter, "") for family in columns] for letter in letters]
        aligned = []
        for row in rows:
            cells = [line.replace(" = ", " &= ", 1) or "&" for line in row]
            while cells[-1] == "&":
                cells.pop()
            aligned.append(r" &\qquad ".join(cells))
        return Block(max(map(len, rows)), ended(aligned))

    @property
    def ends(self) -> list[str]:
        """The gradients of the inputs and of the initial states."""
        return self.lines.aligned(self.equations.gradients[len(self.equations.derivation.totals) :])


def one_line_each(lines: Sequence[str]) -> list[str]:
    """The lines of a header, each of which a comment holds."""
    return [line if PLACEHOLDER in line else one_line(line) for line in lines]


def _widest(family: dict[str, str]) -> float:
    return max(map(width, family.values())) + 20.0


def _symbols(d: Derivation) -> list[str]:
    """Names, those of the user's first: where two would look alike, the second is spelled out."""
    cell = d.cell
    every = {
        s.name for e in (*d.forward, *d.equations, *d.gradients) for s in e.atoms(Vector, Matrix)
    }
    first = [s.name for s in (*cell.inputs, *cell.states, *cell.vectors, *cell.parameters)]
    return first + sorted(every - set(first))
