"""Backpropagation through time, derived: one reverse sweep over a cell's equations in normal form.

For v = e(u, …), elementwise, the adjoint of u gains ∂e/∂u · δv. For a = W @ u, δu gains Wᵀ δa and
∂L/∂W gains Σ_t δa uᵀ. A reduction's adjoint is a broadcast, a broadcast's a reduction. What reaches
a state as it came into the step is carried to the step before: there it is the part of the adjoint
that arrives from t+1.

Nothing here knows any cell. Derivatives come out in terms of what the equations already name,
i (1 - i) and not σ(a)(1 - σ(a)), because known right-hand sides are folded back to their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import Eq, Expr, Integer

from ..errors import CellError, require_cell
from ..language.cell import Cell
from ..language.functions import equal
from ..language.symbols import (
    Gradient,
    Matrix,
    Outer,
    Product,
    Reduction,
    Total,
    Vector,
    cumsum,
    max_,
    mean,
    rcumsum,
    shift,
    sum_,
)
from . import differentiation
from .normalform import namer_for, normalise, products, remainder

ZERO = sympy.S.Zero


@dataclass(frozen=True)
class Derivation:
    """A cell's forward pass in normal form, and the backward pass that follows from it.

    Attributes
    ----------
    cell : Cell
    forward : tuple of Eq
        The step, in normal form.
    adjoints : tuple of Eq
        The backward step as it is run, latest first. What arrives from step t+1 is a symbol of its
        own, ``carry(h)``; last come the lines that define those symbols for step t-1,
        ``carry(h, -1)``.
    totals : tuple of Eq
        ``Gradient(p) = Σ_t …`` for every parameter.
    """

    cell: Cell
    forward: tuple[Eq, ...]
    adjoints: tuple[Eq, ...]
    totals: tuple[Eq, ...]

    @cached_property
    def carried(self) -> dict[Vector, Expr]:
        """For each carry symbol at t-1, what step t passes to it."""
        return {e.lhs: e.rhs for e in self.adjoints if e.lhs.category == "carry"}

    @cached_property
    def equations(self) -> list[Eq]:
        """The backward step as a textbook writes it: the terms from step t+1 are spelled out.

        ``δc = δh ⊙ o ⊙ (1 - tanh² c) + δc[t+1] ⊙ f[t+1]``; ``Vector.at`` and ``shift`` tell time.
        """
        later = {symbol.at(0): shift(rhs, 1) for symbol, rhs in self.carried.items()}
        return [
            Eq(e.lhs, e.rhs.xreplace(later), evaluate=False)
            for e in self.adjoints
            if e.lhs.category != "carry" and not _is_input_adjoint(e.lhs, self.cell)
        ]

    @cached_property
    def gradients(self) -> list[Eq]:
        """∂L/∂p of every parameter as a sum over steps, of the inputs, of the initial states.

        A step's right-hand side is taken at each t for an input, and at t = 1 for an initial
        state, where t-1 is the initial state itself.
        """
        inputs = [(v, self._adjoint_of(v)) for v in self.cell.inputs]
        initial = [(s, self.carried[carry(s, -1)]) for s in self.cell.states]
        return [
            *self.totals,
            *(Eq(Gradient(v), rhs, evaluate=False) for v, rhs in (*inputs, *initial)),
        ]

    def _adjoint_of(self, v: Vector) -> Expr:
        symbol = adjoint(v)
        return next((e.rhs for e in self.adjoints if e.lhs == symbol), ZERO)


def derive(cell: Cell) -> Derivation:
    """Derive backpropagation through time for ``cell``.

    Raises
    ------
    CellError
        If an equation holds a function that cannot be differentiated.
    """
    require_cell(cell)
    forward = normalise(cell)
    return _Sweep(cell, forward).run()


def adjoint(v: Vector) -> Vector:
    """δv = ∂L/∂v, at the time of v."""
    return Vector(v.name, "adjoint", v.size, v.time)


def carry(state: Vector, time: int = 0) -> Vector:
    """The part of a state's adjoint that arrives from one step later: at t from t+1."""
    return Vector(state.name, "carry", state.size, time)


def cotangent(output: Vector) -> Vector:
    """∂L/∂y[t] as the caller gives it: what the loss itself does to the output."""
    return Vector(output.name, "cotangent", output.size)


def _is_input_adjoint(v: Vector, cell: Cell) -> bool:
    return v in {adjoint(i) for i in cell.inputs}


class _Sweep:
    """The reverse sweep. Contributions to an adjoint are kept as δ → coefficient, so that equal
    adjoints are collected as a person would: δc ⊙ (g - c).
    """

    def __init__(self, cell: Cell, forward: tuple[Eq, ...]) -> None:
        self.cell, self.forward = cell, forward
        self.names = {
            e.rhs: e.lhs
            for e in forward
            if not (e.rhs.is_Atom or e.rhs.has(Product, Reduction) or e.rhs.is_Add)
            and cell.shapes.of(e.rhs) == cell.size(e.lhs)  # else H numbers would stand for one
        }
        self.namer = namer_for(cell, forward)
        self.linear: dict[Expr, dict[Vector, Expr]] = {}  # of what -> {δ: coefficient}
        self.plain: dict[Expr, list[Expr]] = {}  # of what -> products, carries, cotangents
        self.totals: dict[Expr, list[Expr]] = {}  # parameter -> what it sums over steps
        self.out: list[Eq] = []

    def run(self) -> Derivation:
        cell = self.cell
        self.plain[cell.output] = [cotangent(cell.output)]
        for state in cell.states:
            self.plain.setdefault(state.at(0), []).append(carry(state))
        for equation in reversed(self.forward):
            delta = self._close(equation.lhs, adjoint(equation.lhs))
            if delta is not None:
                self._spread(equation, delta)
        for v in cell.inputs:
            self._close(v, adjoint(v))
        for state in cell.states:
            if self._close(state, carry(state, -1)) is None:
                self.out.append(Eq(carry(state, -1), ZERO, evaluate=False))
        totals = tuple(
            Eq(Gradient(p), sum(self.totals.get(p, []), ZERO), evaluate=False)
            for p in cell.parameters
        )
        adjoints, totals = _inline(tuple(self.out), totals, self.cell)
        return Derivation(cell, self.forward, _live(adjoints, totals, cell), totals)

    # ------------------------------------------------------------------ collecting

    def _close(self, v: Vector, symbol: Vector) -> Vector | None:
        """All contributions to ``v`` are in: write its line. None if nothing flows into it."""
        scalar: list[Expr] = []
        wide: dict[Expr, Expr] = {}  # by size: what a scalar was broadcast to has to be summed
        for delta, coefficient in self.linear.get(v, {}).items():
            if coefficient != 0:
                term = delta * coefficient
                if self._broadcast(v, term):
                    size = self._size(term)
                    wide[size] = wide.get(size, ZERO) + term
                else:
                    scalar.append(term)
        rest = list(self.plain.get(v, []))
        alone = not (scalar or rest) and len(wide) == 1
        for term in wide.values():
            reduced = sum_(term)
            if not alone:
                name = Vector(self.namer(f"sum_{v.name}"), "adjoint", "1")
                self.out.append(Eq(name, reduced, evaluate=False))
                reduced = name
            rest.append(reduced)
        total = sum([*scalar, *rest], ZERO)
        if total == 0:
            return None
        self.out.append(Eq(symbol, total, evaluate=False))
        return symbol

    def _broadcast(self, v: Vector, term: Expr) -> bool:
        """Whether the scalar ``v`` was broadcast to more units, which its adjoint must sum."""
        return bool(self.cell.size(v) == 1 and self._size(term) != 1)

    def _size(self, term: Expr) -> Expr:
        sizes = {self.cell.size(u) for u in term.atoms(Vector)} - {Integer(1)}
        return sizes.pop() if sizes else Integer(1)

    def _gain(self, v: Vector, delta: Vector, coefficient: Expr) -> None:
        if coefficient == 0 or v.category in ("mask", "constant"):
            return
        if v.category == "parameter":
            term = delta * coefficient
            self._total(v, Total(sum_(term) if self._broadcast(v, term) else term))
            return
        terms = self.linear.setdefault(v, {})
        terms[delta] = terms.get(delta, ZERO) + coefficient

    def _total(self, parameter: Expr, term: Expr) -> None:
        self.totals.setdefault(parameter, []).append(term)

    # ------------------------------------------------------------------ spreading

    def _spread(self, equation: Eq, delta: Vector) -> None:
        rhs = equation.rhs
        if isinstance(rhs, Reduction):
            self._spread_reduction(equation, delta)
            return
        for product in products(rhs):
            self._spread_product(product, delta)
        self._spread_elementwise(remainder(rhs), delta, sympy.S.One, equation)

    def _spread_product(self, product: Product, delta: Vector) -> None:
        matrix: Matrix = product.matrix
        operand: Vector = product.operand
        left, right = (operand, delta) if matrix.transposed else (delta, operand)
        self._total(matrix.base, Total(Outer(left, right)))
        if operand.category not in ("mask", "constant", "parameter"):
            self.plain.setdefault(operand, []).append(Product(matrix.T, delta))
        elif operand.category == "parameter":
            raise CellError(
                f"{product} multiplies two parameters",
                hint="its value is the same at every step: learn the product as one vector",
            )

    def _spread_elementwise(self, e: Expr, delta: Vector, factor: Expr, equation: Eq) -> None:
        size = self._size(e)
        for v in sorted(e.atoms(Vector), key=lambda v: (v.name, v.time, v.category)):
            slope = factor * self._derivative(e, v, equation)
            if self.cell.size(v) == 1 and self._size(delta * slope) == 1:
                slope *= size  # a reduction meets the scalar once for every unit, and all alike
            self._gain(v, delta, slope)

    def _derivative(self, e: Expr, v: Vector, equation: Eq) -> Expr:
        slope = differentiation.slope(e, v)
        if slope.has(sympy.Derivative, sympy.Subs):
            raise CellError(
                f"∂/∂{v} is not known for {e}", where=f"{equation.lhs} = {equation.rhs}"
            )
        return slope.xreplace(self.names)

    def _spread_reduction(self, equation: Eq, delta: Vector) -> None:
        rhs, operand = equation.rhs, equation.rhs.args[0]
        if isinstance(rhs, (cumsum, rcumsum)):
            other = rcumsum if isinstance(rhs, cumsum) else cumsum
            size = str(self.cell.size(operand))
            name = Vector(self.namer(f"scan_{operand.name}"), "adjoint", size)
            self.out.append(Eq(name, other(delta), evaluate=False))
            self._gain(operand, name, sympy.S.One)
            return
        if isinstance(rhs, mean):
            factor = 1 / self._size(operand)
        elif isinstance(rhs, max_):
            hit = equal(operand, equation.lhs)
            ties = Vector(self.namer(f"ties_{equation.lhs.name}"), "vector", "1")
            self.out.append(Eq(ties, sum_(hit), evaluate=False))
            factor = hit / ties
        else:
            factor = sympy.S.One
        self._spread_elementwise(operand, delta, factor, equation)


# --------------------------------------------------------------------------- tidying


def _inline(
    adjoints: tuple[Eq, ...], totals: tuple[Eq, ...], cell: Cell
) -> tuple[tuple[Eq, ...], tuple[Eq, ...]]:
    """Write an adjoint where it is used if that is one place, or if it only renames another.

    So δa_o = δh ⊙ tanh c ⊙ o ⊙ (1 - o), as the literature has it, without a line for δo.
    """
    lines = list(adjoints)
    changed = True
    while changed:
        changed = False
        for k, line in enumerate(lines):
            if line.lhs.category != "adjoint" or not _is_short(line.rhs):
                continue
            if cell.shapes.of(line.rhs) != cell.size(line.lhs):
                continue  # a broadcast: what is reduced or multiplied has to be as wide as it is
            users = [e for e in (*lines, *totals) if e is not line and e.rhs.has(line.lhs)]
            if any(v.category == "carry" for v in line.rhs.atoms(Vector)):
                continue  # it is there for one step only, and others may be read for all steps
            renames = isinstance(line.rhs, Vector)
            once = len(users) == 1 and _reads_elementwise(users[0].rhs, line.lhs)
            if not users or not (renames or once):
                continue
            swap = {line.lhs: line.rhs}
            lines = [_replaced(e, swap) for n, e in enumerate(lines) if n != k]
            totals = tuple(_replaced(e, swap) for e in totals)
            changed = True
            break
    return tuple(lines), totals


def _live(adjoints: tuple[Eq, ...], totals: tuple[Eq, ...], cell: Cell) -> tuple[Eq, ...]:
    """The lines that some gradient needs; behind a mask or ``stop_gradient`` there may be none."""
    wanted = {v for e in totals for v in e.rhs.atoms(Vector)}
    wanted |= {adjoint(v) for v in cell.inputs}
    kept: list[Eq] = []
    for e in reversed(adjoints):
        if e.lhs in wanted or e.lhs.category == "carry":
            kept.insert(0, e)
            wanted |= e.rhs.atoms(Vector)
    return tuple(kept)


def _replaced(e: Eq, swap: dict[Vector, Expr]) -> Eq:
    if not e.rhs.has(*swap):
        return e
    return Eq(e.lhs, _collected(e.rhs.xreplace(swap)), evaluate=False)


def _collected(rhs: Expr) -> Expr:
    """Terms with the same adjoint together: δc ⊙ g - δc ⊙ c is δc ⊙ (g - c)."""
    if not rhs.is_Add or rhs.has(Reduction):
        return rhs
    by_adjoint: dict[Expr, Expr] = {}
    for term in rhs.args:
        factors = [f for f in sympy.Mul.make_args(term) if isinstance(f, Vector)]
        delta = next((f for f in factors if f.category == "adjoint"), sympy.S.One)
        by_adjoint[delta] = by_adjoint.get(delta, ZERO) + term / delta
    return sum((delta * factor for delta, factor in by_adjoint.items()), ZERO)


def _is_short(rhs: Expr) -> bool:
    return not (rhs.is_Add or rhs.has(Product, Reduction))


def _reads_elementwise(e: Expr, symbol: Vector) -> bool:
    """Whether ``symbol`` occurs, once, and not as the operand of a product or a scan."""
    mixing: Iterable[Expr] = e.atoms(Product, Outer, cumsum, rcumsum)
    if any(m.has(symbol) for m in mixing):
        return False
    return bool(sum(1 for n in sympy.preorder_traversal(e) if n == symbol) == 1)
