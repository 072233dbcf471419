"""Forward mode: the tangents of equations, by the same linear maps that reverse mode transposes.

The tangent of v is the change of v that a change of what it depends on brings, dv = Σ A_u du. What
no equation defines, parameters, inputs and states that come in, has a tangent that the caller
gives; masks and constants have none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import sympy
from sympy import Eq, Expr

from ..language.matrices import Matrix
from ..language.shapes import Shapes
from ..language.symbols import Gradient, Outer, Reduction, Total, Vector
from .linear import Chain, Linearised, Symbol
from .names import Namer
from .normalform import names_its_side, normalise

ZERO = sympy.S.Zero


@dataclass(frozen=True)
class Tangents:
    """A list of equations, and that of their tangents.

    Attributes
    ----------
    lines : tuple of (Eq, tuple of Eq)
        Each of the equations, in normal form, and what its tangent takes: ``dv = Σ A_u du``, after
        the number of units that share a maximum, where there is one. Run in their order.
    symbols : dict
        From each quantity to its tangent, those that the caller gives included.
    """

    lines: tuple[tuple[Eq, tuple[Eq, ...]], ...]
    symbols: dict[Expr, Expr]

    @property
    def forward(self) -> tuple[Eq, ...]:
        """The equations whose tangents these are, in normal form."""
        return tuple(e for e, _ in self.lines)

    @property
    def equations(self) -> list[Eq]:
        """The equations of the tangents, without those that they are of."""
        return [made for _, tangents in self.lines for made in tangents]


def forward(
    equations: Sequence[Eq], shapes: Shapes | None = None, kept: Collection[Vector] = (),
    *, normal: bool = False,
) -> Tangents:  # fmt: skip
    """The tangents of ``equations``, which are in normal form if they are ``normal``; those of a
    list without a cell have shapes of their own. What is ``kept``, the outputs, stays a part of
    the step, also where it is made of parameters alone.
    """
    taken = {s.name for e in equations for s in e.free_symbols}
    namer = Namer({*taken, "T", "B"})
    sums = tuple(e for e in equations if isinstance(e.lhs, Gradient))
    lines = tuple(e for e in equations if not isinstance(e.lhs, Gradient))
    if shapes is None:
        kept = tuple(e.lhs for e in lines)  # nothing is known of what a list of equations is for
        shapes = Shapes(lines)
        lines = tuple(Eq(e.lhs, shapes.explicit(e.rhs), evaluate=False) for e in lines)
    if not normal:
        lines = tuple(e for part in normalise(lines, shapes, namer, kept) for e in part)
    return _Sweep((*lines, *sums), shapes, namer).run()


def along(
    steps: Iterable[Eq], given: Collection[Expr], moves: Callable[[Vector], bool] | None = None
) -> list[Eq]:
    """Linear equations where only what is ``given`` is not zero: lines without what else brings,
    and none for what is zero. They are linear in vectors that ``move``, tangents or adjoints; other
    lines, of numbers of ties, are kept as they are.
    """
    moves = moves or is_tangent
    known, lines = set(given), []
    for e in steps:
        if not moves(e.lhs):  # how many units share a maximum
            lines.append(e)
            continue
        kept = [t for t in sympy.Add.make_args(e.rhs) if read(t) & known]
        # a reduction has a sum of changes below it
        still = {v for v in e.rhs.atoms(Vector) if moves(v) and v not in known}
        kept = [t.xreplace(dict.fromkeys(still, ZERO)) for t in kept]
        if kept:
            lines.append(Eq(e.lhs, sympy.Add(*kept), evaluate=False))
            known.add(e.lhs)
    return lines


def read(e: Expr) -> set[Expr]:
    """The quantities in ``e``, matrices as they are, not transposed."""
    return {*e.atoms(Vector), *(m.base for m in e.atoms(Matrix))}


def is_tangent(v: Expr) -> bool:
    """Whether ``v`` is the tangent of a vector."""
    return isinstance(v, Vector) and v.category.startswith("tangent")


def tangent(v: Vector) -> Vector:
    """The change of v, at the time of v."""
    return Vector(v.name, f"tangent {v.category}", v.axes, v.time)


class _Sweep:
    def __init__(self, equations: tuple[Eq, ...], shapes: Shapes, namer: Namer) -> None:
        self.equations, self.shapes, self.namer = equations, shapes, namer
        self.names: dict[Expr, Expr] = {}  # what derivatives are written in, of what is known
        self.symbols: dict[Expr, Expr] = {}

    def run(self) -> Tangents:
        lines = tuple(
            (e, self._total(e) if isinstance(e.lhs, Gradient) else self._line(e))
            for e in self.equations
        )
        return Tangents(lines, self.symbols)

    def _of(self, symbol: Symbol) -> Expr | None:
        """The tangent of a quantity; None if it has none."""
        if not symbol.learned:
            return None
        if isinstance(symbol, Vector) and symbol.category in ("mask", "constant"):
            return None
        if symbol not in self.symbols:
            if isinstance(symbol, Matrix):
                *heads, rows, columns = symbol.axes
                name = self.namer(f"d{symbol.name}")
                self.symbols[symbol] = Matrix(name, rows, columns, False, tuple(heads))
            else:
                self.symbols[symbol] = tangent(symbol)
        return self.symbols[symbol]

    def _line(self, e: Eq) -> tuple[Eq, ...]:
        if names_its_side(e, self.shapes):
            self.names[e.rhs] = e.lhs
        derivative = Linearised(self.shapes, lambda x: x.xreplace(self.names))
        found = [(self._of(symbol), chain) for symbol, chain in derivative(e, self.namer)]
        pairs = [(change, chain) for change, chain in found if change is not None]
        if isinstance(e.rhs, Reduction):  # the changes of its operand first, then their sum
            last = pairs[0][1].links[-1:] if pairs else ()
            inner = sum((Chain(c.links[:-1]).apply(d) for d, c in pairs), ZERO)
            value = Chain(last).apply(inner) if inner != 0 else ZERO
        else:
            value = sum((chain.apply(change) for change, chain in pairs), ZERO)
        return (*derivative.extra, Eq(self._of(e.lhs), value, evaluate=False))

    def _total(self, e: Eq) -> tuple[Eq, ...]:
        """Of a gradient, which is a sum over steps of outer products and of elementwise terms."""
        parameter = e.lhs.args[0]
        terms = [self._of_total(t) for t in sympy.Add.make_args(e.rhs) if t != 0]
        made = Gradient(self._of(parameter))
        return (Eq(made, sum(terms, ZERO), evaluate=False),)

    def _of_total(self, term: Expr) -> Expr:
        total = next(iter(term.atoms(Total)))
        factor, inner = term / total, total.args[0]
        if isinstance(inner, Outer):
            left, right = inner.args
            changes = (Outer(self._of(left), right), Outer(left, self._of(right)))
            return sum((factor * Total(c) for c in changes), ZERO)
        if isinstance(inner, Reduction):
            within = self._elementwise(inner.args[0])
            return factor * Total(inner.func(within, *inner.args[1:]))
        return factor * Total(self._elementwise(inner))

    def _elementwise(self, e: Expr) -> Expr:
        line = Eq(Vector("?", "vector", self.shapes.declared(e)), e, evaluate=False)
        found = Linearised(self.shapes, lambda x: x.xreplace(self.names))(line, self.namer)
        pairs = [(self._of(symbol), chain) for symbol, chain in found]
        return sum((chain.apply(d) for d, chain in pairs if d is not None), ZERO)
