"""A cell's equations as transcripts have them: what runs once for all steps, and what in each."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Eq, Expr, Function

from ..derivation.names import Namer
from ..language.cell import Cell
from ..language.functions import rsqrt
from ..language.symbols import (
    STATIC,
    Concat,
    Contract,
    Expand,
    Product,
    Reduction,
    Vector,
    View,
    mean,
    named,
)


class Normalised(Function):
    """(x - mean x) / sqrt(var x + eps): what libraries have a function for."""

    nargs = 2
    is_real = True


def _as_normalised(e: Expr) -> Expr | None:
    """A product that holds a layer normalisation's two factors, with one ``Normalised`` instead."""
    for scale in e.args:
        if not (isinstance(scale, named) and isinstance(scale.args[0], rsqrt)):
            continue
        inside = scale.args[0].args[0]
        eps = sum((a for a in sympy.Add.make_args(inside) if a.is_number), sympy.S.Zero)
        for centred in e.args:
            if not (isinstance(centred, named) and _is(inside - eps, mean(centred**2))):
                continue
            for average in centred.args[0].atoms(mean):
                x = average.args[0]
                if centred.args[0] == x - average:
                    rest = [a for a in e.args if a not in (scale, centred)]
                    return sympy.Mul(*rest, Normalised(x, eps))
    return None


def _is(e: Expr, wanted: Expr) -> bool:
    return bool((e.args[0] if isinstance(e, named) else e) == wanted)


class Equations:
    """A cell's equations, cut into what runs once for all steps, and what runs in each.

    ``level`` says what a value depends on: 0 on parameters only, 1 on inputs too, 2 on states.
    """

    def __init__(self, cell: Cell, equations: Sequence[Eq], namer: Namer) -> None:
        self.cell, self.namer = cell, namer
        self.levels: dict[Vector, int] = {}
        self.before: list[Eq] = []
        self.step: list[Eq] = []
        self._known: dict[Expr, Vector] = {}
        for equation in equations:
            self._place(equation.lhs, self._plain(equation.rhs))

    def level(self, e: Expr) -> int:
        return max((self._level(v) for v in e.atoms(Vector)), default=0)

    def _level(self, v: Vector) -> int:
        if v.category in STATIC:
            return 0
        if v.category in ("input", "mask"):
            return 1
        return 2 if v.category == "state" and v.time == -1 else self.levels[v]

    def _place(self, lhs: Vector, rhs: Expr) -> None:
        level = self.level(rhs)
        # what leaves a step is there for every step and row, whatever it depends on
        leaves = lhs.category == "state" or lhs in self.cell.outputs
        self.levels[lhs] = max(level, 1) if leaves else level
        if level < 2:
            self.before.append(Eq(lhs, rhs, evaluate=False))
        else:
            self.step.append(Eq(lhs, self._lift(rhs, lhs.name), evaluate=False))

    def _plain(self, e: Expr) -> Expr:
        """``e`` with normalisations recognised, and with a name for what is ``named``."""
        if e.is_Atom:
            return e
        if isinstance(e, sympy.Mul) and (found := _as_normalised(e)) is not None:
            return self._plain(found)
        if isinstance(e, named):
            inner = self._plain(e.args[0])
            return inner if isinstance(inner, (Product, sympy.Atom)) else self._name(inner, "v")
        if isinstance(e, Product):
            return Product(e.matrix, self._plain(e.operand))
        return e.func(*map(self._plain, e.args))

    def _lift(self, e: Expr, hint: str) -> Expr:
        """``e`` with names for the largest parts that do not depend on the recurrence."""
        if e.is_Atom:
            return e
        if not isinstance(e, Expr):
            return e if type(e) is sympy.Tuple else e.func(*(self._lift(a, hint) for a in e.args))
        if self.level(e) < 2 and not self._widens(e):
            return self._name(e, f"x_{hint}") if e.atoms(Vector) else e
        if isinstance(e, Product):
            return Product(e.matrix, self._lift(e.operand, hint))
        args = list(e.args)
        if isinstance(e, (sympy.Add, sympy.Mul)):
            early = [a for a in args if self.level(a) < 2]
            if 1 < len(early) < len(args) and any(self.level(a) == 1 for a in early):
                args = [a for a in args if a not in early] + [e.func(*early)]
        return e.func(*(self._lift(a, hint) for a in args))

    def _widens(self, e: Expr) -> bool:
        """Whether ``e`` only repeats units of what is smaller, which then is worth keeping."""
        if isinstance(e, (Expand, Contract)):
            return isinstance(e, Expand) or e.is_outer
        if isinstance(e, (Product, Reduction, View, Concat)):
            return False
        axes = self.cell.shapes.axes
        full = [a for a in e.args if isinstance(a, Expr) and axes(a) == axes(e)]
        return bool(full) and all(map(self._widens, full))

    def _name(self, e: Expr, name: str) -> Vector:
        if e not in self._known:
            v = Vector(self.namer(name), "vector", self.cell.shapes.declared(e))
            self._known[e] = v
            self._place(v, e)
        return self._known[e]
