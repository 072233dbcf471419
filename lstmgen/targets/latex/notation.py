"""The table of symbols, with what each is, and remarks on what only some cells have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy
from sympy import Function

from ...language.functions import equal, expm1, step, stop_gradient
from ...language.matrices import Matrix
from ...language.symbols import Product, Vector, rcumsum
from ...printing.orders import Helper, families, placeholder
from .breaking import source_line, width
from .equations import Equations
from .lines import listed
from .names import escape
from .typesetting import is_alone


@dataclass(frozen=True)
class Row:
    """A row of the notation table, in LaTeX."""

    symbols: str
    shape: str
    meaning: str


class Notation:
    """What a page says of the symbols and functions in its equations."""

    def __init__(self, equations: Equations) -> None:
        self.equations, self.lines, self.cell = equations, equations.lines, equations.cell

    @property
    def rows(self) -> list[list[str]]:
        """The rows of the table, in groups."""
        return [
            [source_line(rf"    {r.symbols} & {r.shape} & {r.meaning} \\").lstrip() for r in rows]
            for rows in self._groups()
        ]

    def _groups(self) -> list[list[Row]]:
        cell = self.cell
        moving = [(v, "input") for v in cell.inputs]
        moving += [(v, "mask, which no gradient flows into") for v in cell.masks]
        moving += [(s.at(0), "state") for s in cell.states] + [(v, "") for v in cell.vectors]
        moving += [(v, self._default(v)) for v in cell.constants]
        braced = [b.args[1] for e in self.equations.forward for b in self.equations.braces(e)]
        v = rf"\mathbf{{{placeholder(self.equations.derivation.forward)}}}_t"
        adjoints = [
            self._direct(v),
            Row(rf"$\delta{v}$", rf"as ${v}$",
                rf"$\mathrm{{d}} L / \mathrm{{d}} {v}$, through all that it acts on"),
        ]  # fmt: skip
        return [
            [row for v, meaning in moving for row in self._rows([v], meaning)],
            [row for f in families(cell) for row in self._rows(f, self._part_played(f))],
            [*self._rows(braced, "pre-activations"), *adjoints],
        ]

    def _direct(self, v: str) -> Row:
        """What the loss does to an output itself; ``v`` stands for any vector."""
        if not is_alone(self.lines.order, self.lines.names):
            outputs = listed([f"${self.lines.math(y)}$" for y in self.cell.outputs])
            many = "s" if len(self.cell.outputs) > 1 else ""
            return Row(rf"$\Delta{v}$", rf"as ${v}$",
                       rf"$\partial L / \partial {v}$ as the loss itself gives it, of the "
                       rf"output{many} {outputs}")  # fmt: skip
        y = self.lines.math(self.cell.output)
        about = rf"$\partial L / \partial {y}$ as the loss itself gives it, at step $t$"
        return Row(r"$\boldsymbol{\Delta}_t$", self._shape(self.cell.output), about)

    def _rows(self, symbols: Sequence[Vector | Matrix], meaning: str) -> list[Row]:
        """A row for symbols that are alike; more than one where they are many."""
        roles = [self.cell.roles[s.name] for s in symbols if s.name in self.cell.roles]
        meaning = escape(", ".join(dict.fromkeys(roles))) if roles else meaning
        if any(v in symbols for v in self.cell.outputs):
            what = "an output" if len(self.cell.outputs) > 1 else "the output"
            says_so = meaning in ("", "output", "an output", "the output")
            meaning = what if says_so else f"{meaning}; {what}"
        rows: list[Row] = []
        room = 0.0
        for s in symbols:
            symbol, shape = self.lines.math(s), self._shape(s)
            before = rows[-1] if rows else None
            if before and before.shape == shape and width(symbol) < room:
                rows[-1] = Row(f"{before.symbols}, ${symbol}$", shape, before.meaning)
                room -= width(symbol) + 6
            else:
                rows.append(Row(f"${symbol}$", shape, "" if before else meaning))
                room = 112.0 - width(symbol)
        return rows

    def _default(self, v: Vector) -> str:
        if self.cell.initial(v) is None:
            return "constant"
        return f"constant, ${self.lines.math(sympy.Float(self.cell.starts_at(v)))}$"

    def _shape(self, symbol: Vector | Matrix) -> str:
        sizes = (self.lines.math(n) for n in self.cell.shape(symbol))
        return "$" + r" \times ".join(sizes) + "$"

    def _part_played(self, family: Sequence[Matrix | Vector]) -> str:
        """What a family of parameters does, as the equations say."""
        played = self._played(family)
        return played if family[0].learned else f"{played}, not learned"

    def _played(self, family: Sequence[Matrix | Vector]) -> str:
        many = len(family) > 1
        if isinstance(family[0], Matrix):
            products = [p for e in self.cell.equations for p in e.rhs.atoms(Product)]
            read = {
                v.category
                for p in products
                for v in p.operand.atoms(Vector)
                if any(m.base in family for m in p.matrix.atoms(Matrix))
            }
            kind = "input " if "input" in read else "recurrent " if "state" in read else ""
            return f"{kind}weights"
        equations = self.equations.forward
        sums = [a for e in equations for a in e.rhs.atoms(sympy.Add)]
        if all(any(p in a.args for a in sums) for p in family):
            return "biases" if many else "bias"
        if all(self.cell.size(p) == 1 for p in family):
            return "learned numbers" if many else "learned number"
        beside = [
            f
            for e in equations
            for m in e.rhs.atoms(sympy.Mul)
            if set(m.args) & set(family)
            for f in m.args
            if f not in family
        ]
        if beside and all(isinstance(f, Vector) and f.name == beside[0].name for f in beside):
            scaled = self.lines.names(beside[0].name, bold=not self.lines.order.scalar(beside[0]))
            return f"elementwise weights of ${scaled}$"
        if not beside:  # a factor of nothing, such as the logarithm of a time constant
            return "learned vectors" if many else "learned vector"
        return "gains" if many else "gain"

    @property
    def remarks(self) -> list[str]:
        """What only some cells need explained."""
        shown = self.equations
        seen = [
            e.rhs.replace(Helper, lambda name, operand, made: operand)
            for e in (*shown.forward, *shown.parts[0], *shown.adjoints[0], *shown.totals[0])
        ]
        functions = {f.func for e in seen for f in e.atoms(Function)}
        remarks = []
        if any(self.lines.order.scalar(v) for e in seen for v in e.atoms(Vector)):
            remarks.append("Plain small letters are single numbers.")
        if stop_gradient in functions:
            remarks.append(
                r"$\operatorname{sg}\left(\mathbf{v}\right)$ is $\mathbf{v}$, "
                "but no gradient flows back through it."
            )
        if expm1 in functions:
            remarks.append(
                r"$\operatorname{expm1}\left(\mathbf{v}\right)$ is $e^{\mathbf{v}} - 1$."
            )
        if functions & {step, equal}:
            remarks.append(r"$\mathbf{1}\left[\cdot\right]$ is 1 where it holds, and 0 elsewhere.")
        if sympy.Heaviside in functions:
            remarks.append(r"$\Theta$ is the unit step.")
        if rcumsum in functions:
            remarks.append(
                r"$\operatorname{revcumsum}$ is the running sum from the last unit to the first."
            )
        return remarks
