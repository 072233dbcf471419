r"""Which equations a page shows, in symbols.

Names that the derivation introduced are defined before they are used: a pre-activation by a brace
under the argument that it is, \underbrace{W_i x_t + …}_{a_{i,t}}, any other by an equation of its
own.
"""

from __future__ import annotations

from functools import cached_property

import sympy
from sympy import Eq, Expr, Function

from ...derivation.reverse import Derivation
from ...language.cell import Cell
from ...language.matrices import Matrix, as_matrix
from ...language.symbols import Product, Vector, named, shift
from ...printing.orders import Helper, fold_helpers
from .breaking import LINE, width
from .lines import Lines
from .stars import starred
from .typesetting import Braced

Starred = tuple[list[Eq], list[str]]  # equations, and what ⋆ stands for in them


class Equations:
    """What a page shows of a derivation."""

    def __init__(self, cell: Cell, derivation: Derivation, lines: Lines) -> None:
        self.cell, self.derivation, self.lines = cell, derivation, lines

    @cached_property
    def _own(self) -> set[str]:
        """What the user's equations define; all else that is defined is the derivation's."""
        return {e.lhs.name for e in self.cell.equations}

    @cached_property
    def _fixed(self) -> dict[str, Vector]:
        """What holds once for a whole sequence, by name."""
        return {e.lhs.name: e.lhs for e in self.derivation.fixed}

    @cached_property
    def _static(self) -> dict[Expr, Expr]:
        """Vectors of the user's that are the same at all steps, as quantities without a time."""
        return {v: self._fixed[v.name] for v in self.cell.vectors if v.name in self._fixed}

    @cached_property
    def once(self) -> list[Eq]:
        """What is made of parameters: the user's equations, and what else is read of it."""
        read = {
            s.name
            for e in (*self.derivation.forward, *self.backward, *self.gradients)
            for s in e.atoms(Vector, Matrix)
        }
        own = {e.lhs.name: e for e in self.cell.equations}
        found: list[Eq] = []
        for e in reversed(self.derivation.fixed):
            name = e.lhs.name
            if name in own:
                shown = own[name].xreplace(self._static)
            elif name in read:
                lhs = as_matrix(e.lhs) if len(e.lhs.axes) > 1 else e.lhs
                shown = Eq(lhs, e.rhs, evaluate=False)
            else:
                continue
            read |= {s.name for s in shown.rhs.atoms(Vector, Matrix)}
            found.insert(0, shown)
        return found

    @cached_property
    def _names_of_sums(self) -> dict[Expr, Vector]:
        """Sums that the derivation named: where one is written out again, its name is shorter."""
        named_here = {
            e.rhs: e.lhs
            for e in self.derivation.forward
            if e.lhs.name not in self._own and e.rhs.is_Add and not e.rhs.has(Product)
        }
        return named_here | {shift(e, 1): shift(v, 1) for e, v in named_here.items()}

    def _with_names(self, e: Eq) -> Eq:
        return Eq(e.lhs, e.rhs.xreplace(self._names_of_sums), evaluate=False)

    @cached_property
    def backward(self) -> list[Eq]:
        """The backward step, an equation to an adjoint."""
        return [self._with_names(e) for e in self.derivation.equations]

    @cached_property
    def gradients(self) -> list[Eq]:
        """Gradients: of the parameters first, then of inputs and initial states."""
        return [self._with_names(e) for e in self.derivation.gradients]

    @cached_property
    def _used(self) -> set[str]:
        """What the backward pass reads."""
        return {v.name for e in (*self.backward, *self.gradients) for v in e.atoms(Vector)}

    @cached_property
    def _arguments(self) -> dict[Expr, Vector]:
        """Names that the backward pass uses, by what they stand for in the user's symbols."""
        whole: dict[Vector, Expr] = {}
        found: dict[Expr, Vector] = {}
        for e in self.derivation.forward:
            if e.lhs.name not in self._own:
                whole[e.lhs] = e.rhs.xreplace(whole)
                if e.lhs.name in self._used:
                    found.setdefault(whole[e.lhs], e.lhs)
        return found

    def _brace(self, e: Expr) -> Expr:
        """``e`` with a brace under each argument of a function that has a name."""
        if not e.args:
            return e
        if isinstance(e, Helper):
            return e.func(e.args[0], self._brace(e.operand), e.made)
        if isinstance(e, Function) and len(e.args) == 1:
            symbol = self._arguments.get(_spelled_out(e.args[0]))
            if symbol is not None:
                return e.func(Braced(e.args[0], symbol), *e.args[1:])
        return e.func(*(self._brace(a) for a in e.args))

    def braces(self, e: Eq) -> list[Braced]:
        """The braces of an equation, in the order of what they name."""
        return sorted(e.rhs.atoms(Braced), key=lambda b: self.lines.order.rank(b.args[1]))

    @cached_property
    def _folded(self) -> tuple[list[Eq], list[Eq]]:
        """The user's equations of a step, and what LN(v) and the like in them mean."""
        moving = (e for e in self.cell.equations if e.lhs.name not in self._fixed)
        return fold_helpers([e.xreplace(self._static) for e in moving])

    @property
    def helpers(self) -> list[Eq]:
        """What LN(v) and the like mean."""
        return self._folded[1]

    @cached_property
    def forward(self) -> list[Eq]:
        """The user's equations of a step."""
        shown: list[Eq] = []
        for e in self._folded[0]:
            e = Eq(e.lhs, self._brace(e.rhs), evaluate=False)
            lines = [e]
            braces = self.braces(e)
            nodes = sympy.preorder_traversal(e.rhs)
            repeated = sum(isinstance(node, Braced) for node in nodes) > len(braces)
            if braces and (repeated or width(self.lines.line(e)) > LINE):
                # no line breaks inside of a brace: the argument gets a line of its own
                named_apart = {b: b.args[1] for b in braces}
                lines = [Eq(b.args[1], b.args[0], evaluate=False) for b in braces]
                lines.append(Eq(e.lhs, e.rhs.xreplace(named_apart), evaluate=False))
            shown += lines if all(map(self.lines.fits, lines)) else self._in_steps(e.lhs)
        return shown

    def _in_steps(self, v: Vector) -> list[Eq]:
        """What is too long even so: the equation of ``v`` as the derivation takes it apart."""
        forward = self.derivation.forward
        last = [e.lhs for e in forward].index(v)
        first = last
        while first and forward[first - 1].lhs.name not in self._own:
            first -= 1
        lines = [forward[k] for k in range(first, last + 1)]
        return [e if e.rhs in self._names_of_sums else self._with_names(e) for e in lines]

    @cached_property
    def parts(self) -> Starred:
        """Equations of the names that the backward pass uses and the forward pass did not give."""
        given = {b.args[1].name for e in self.forward for b in e.rhs.atoms(Braced)}
        given |= {e.lhs.name for e in self.forward}
        read = {v.name for e in self.forward for v in e.rhs.atoms(Vector)}
        needed = (self._used | read) - given
        parts = []
        for e in reversed(self.derivation.forward):
            if e.lhs.name in needed and e.lhs.name not in self._own:
                parts.append(e)
                needed |= {v.name for v in e.rhs.atoms(Vector)} - given
        return starred(parts[::-1], self.lines.order)

    @cached_property
    def adjoints(self) -> Starred:
        """The same, with those that are alike written once."""
        return starred(self.backward, self.lines.order)

    @cached_property
    def totals(self) -> Starred:
        """The parameters' gradients; with ⋆ if the backward step has it."""
        totals = self.gradients[: len(self.derivation.totals)]
        return starred(totals, self.lines.order) if self.adjoints[1] else (totals, [])


def _spelled_out(e: Expr) -> Expr:
    """``e`` in the words of the normal form: without helpers, and without ``named``."""
    e = e.replace(lambda n: isinstance(n, Helper), lambda n: n.made)
    return e.replace(lambda n: isinstance(n, named), lambda n: n.args[0])
