"""Linear maps: what a small change of one operand does to the result of an equation.

An equation in normal form, v = rhs, has for each quantity u that it reads a chain of linear maps
that leads from a change du to its share of dv. ``apply`` goes along the chain, which is forward
mode: dv = Σ A_u du. ``transpose`` goes back, which is reverse mode: δu += A_uᵀ δv. Both return
expressions of the language, so both modes are walks over the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import sympy
from sympy import Eq, Expr, Integer, Tuple

from ..errors import CellError
from ..language.functions import equal
from ..language.matrices import Matrix
from ..language.shapes import SCALAR, Shape, Shapes
from ..language.symbols import (
    Concat,
    Contract,
    Expand,
    Outer,
    Part,
    Product,
    Reduction,
    Reshape,
    Scan,
    Total,
    Transpose,
    Vector,
    View,
    cumsum,
    is_scalar,
    max_,
    mean,
    rcumsum,
    sum_,
)
from .differentiation import slope
from .normalform import products, remainder

ONE = sympy.S.One
Symbol = Vector | Matrix


class LinearMap(Protocol):
    """One link of a chain."""

    def apply(self, change: Expr) -> Expr:
        """What a change of the operand does to the result."""

    def transpose(self, delta: Expr) -> Expr:
        """What the adjoint of the result brings to that of the operand."""


@dataclass(frozen=True)
class Scale:
    """v = c u, unit by unit: a diagonal matrix, its own transpose."""

    factor: Expr

    def apply(self, change: Expr) -> Expr:
        return change * self.factor

    def transpose(self, delta: Expr) -> Expr:
        return delta * self.factor


@dataclass(frozen=True)
class Broadcast:
    """u repeated along the axes of ``shape`` that are not in ``places``; back, a sum over them."""

    shape: Shape
    places: tuple[int, ...]

    def apply(self, change: Expr) -> Expr:
        return expanded(change, self.shape, self.places)

    def transpose(self, delta: Expr) -> Expr:
        return summed(delta, self.shape, self.places)


@dataclass(frozen=True)
class Sum:
    """The sum along one axis of ``shape``; back, a broadcast along it."""

    shape: Shape
    axis: int

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(k for k in range(len(self.shape)) if k != self.axis)

    def apply(self, change: Expr) -> Expr:
        if is_scalar(change) and self.shape != SCALAR:
            return change * self.shape[self.axis]  # it was repeated, which is not written
        return summed(change, self.shape, self.kept)

    def transpose(self, delta: Expr) -> Expr:
        return expanded(delta, self.shape, self.kept)


@dataclass(frozen=True)
class RunningSum:
    """The running sum along an axis, from the first unit or from the last; back, the other."""

    scan: type[Scan]
    axis: tuple[Expr, ...]

    def apply(self, change: Expr) -> Expr:
        return self.scan(change, *self.axis)

    def transpose(self, delta: Expr) -> Expr:
        return (rcumsum if self.scan is cumsum else cumsum)(delta, *self.axis)


@dataclass(frozen=True)
class Rearranged:
    """A view of u that keeps all units: other axes in the same order, or two exchanged."""

    view: View
    shape: Shape

    def apply(self, change: Expr) -> Expr:
        return self.view.func(change, *self.view.args[1:])

    def transpose(self, delta: Expr) -> Expr:
        if isinstance(self.view, Transpose):
            return Transpose(delta)
        return Reshape(delta, Tuple(*self.shape))


@dataclass(frozen=True)
class Taken:
    """One of the parts of u; back, the part in its place among zeros."""

    part: Part
    shape: Shape

    def apply(self, change: Expr) -> Expr:
        return self.part.func(change, *self.part.args[1:])

    def transpose(self, delta: Expr) -> Expr:
        zeros = [Expand(sympy.S.Zero, Tuple(*self.shape[:-1], n), Tuple()) for n in self.part.sizes]
        zeros[self.part.number] = delta
        return Concat(*zeros)


@dataclass(frozen=True)
class Placed:
    """u as one of several side by side; back, its part."""

    number: int
    shapes: tuple[Shape, ...]

    def apply(self, change: Expr) -> Expr:
        zeros = [Expand(sympy.S.Zero, Tuple(*shape), Tuple()) for shape in self.shapes]
        zeros[self.number] = change
        return Concat(*zeros)

    def transpose(self, delta: Expr) -> Expr:
        return Part(delta, Integer(self.number), Tuple(*(s[-1] for s in self.shapes)))


@dataclass(frozen=True)
class Contraction:
    """u contracted with ``other``; back, the adjoint with it over the letters of the result."""

    other: Expr
    mine: str
    others: str
    out: str

    def apply(self, change: Expr) -> Expr:
        return contract(change, self.mine, self.other, self.others, self.out)

    def transpose(self, delta: Expr) -> Expr:
        return contract(delta, self.out, self.other, self.others, self.mine)


@dataclass(frozen=True)
class Multiplied:
    """W u with a matrix that does not move; back, Wᵀ."""

    matrix: Matrix

    def apply(self, change: Expr) -> Expr:
        return Product(self.matrix, change)

    def transpose(self, delta: Expr) -> Expr:
        return Product(self.matrix.T, delta)


@dataclass(frozen=True)
class Weighing:
    """W u as a map of the matrix; back, the sum of outer products over all steps and rows."""

    matrix: Matrix
    operand: Vector

    def apply(self, change: Matrix) -> Expr:
        return Product(change.like(self.matrix), self.operand)

    def transpose(self, delta: Expr) -> Expr:
        pair = (self.operand, delta) if self.matrix.transposed else (delta, self.operand)
        return Total(Outer(*pair))


@dataclass(frozen=True)
class Chain:
    """Maps one after the other."""

    links: tuple[LinearMap, ...]

    def apply(self, change: Expr) -> Expr:
        return reduce(lambda e, link: link.apply(e), self.links, change)

    def transpose(self, delta: Expr) -> Expr:
        return reduce(lambda e, link: link.transpose(e), reversed(self.links), delta)


# --------------------------------------------------------------------------- an equation


class Linearised:
    """The derivative of an equation in normal form, by each quantity that it reads.

    ``fold`` writes a derivative in terms of what the equations already name.
    """

    def __init__(self, shapes: Shapes, fold: Callable[[Expr], Expr] = lambda e: e) -> None:
        self.shapes, self.fold = shapes, fold
        self.extra: list[Eq] = []  # what a derivative needs besides: how many units tie

    def __call__(self, equation: Eq, namer: Callable[[str], str]) -> Iterator[tuple[Symbol, Chain]]:
        """Each operand with the chain from it to the left-hand side, products first.

        An operand that occurs more than once comes as often. ``namer`` names the number of units
        that share a maximum.

        Raises
        ------
        CellError
            If the derivative of a function is not known.
        """
        rhs = equation.rhs
        if isinstance(rhs, Reduction):
            yield from self._reduction(equation, namer)
        elif isinstance(rhs, Contract):
            yield from self._contraction(rhs)
        elif isinstance(rhs, Concat):
            shapes = tuple(map(self.shapes.axes, rhs.args))
            for k, arg in enumerate(rhs.args):
                if isinstance(arg, Vector):
                    yield arg, Chain((Placed(k, shapes),))
        elif isinstance(rhs, (Part, Reshape, Transpose)):
            yield rhs.operand, Chain((self._view(rhs),))
        else:
            for product in products(rhs):
                matrix, operand = product.args
                yield operand, Chain((Multiplied(matrix),))
                yield matrix.base, Chain((Weighing(matrix, operand),))
            yield from self._elementwise(remainder(rhs), self.shapes.axes(equation.lhs), equation)

    def _elementwise(
        self, e: Expr, shape: Shape, equation: Eq, factor: Expr = ONE, *after: LinearMap
    ) -> Iterator[tuple[Symbol, Chain]]:
        """Of elementwise work of that shape, times ``factor``, then mapped on."""
        for leaf in leaves(e):
            derivative = self.fold(self._slope(e, leaf, equation)) * factor
            if derivative == 0:
                continue
            symbol = leaf.operand if isinstance(leaf, Expand) else leaf
            inner = self.shapes.axes(symbol)
            links: tuple[LinearMap, ...] = (Scale(derivative), *after)
            if isinstance(leaf, Expand):
                links = (Broadcast(shape, leaf.places if inner != SCALAR else ()), *links)
            elif inner == SCALAR != shape:
                links = (Broadcast(shape, ()), *links)
            yield symbol, Chain(links)

    def _slope(self, e: Expr, leaf: Expr, equation: Eq) -> Expr:
        stand_ins = {
            x: Vector(f"?{k}", "vector", "1" if x.operand.is_number else x.operand.axes)
            for k, x in enumerate(sorted(e.atoms(Expand), key=str))
        }
        found = slope(e.xreplace(stand_ins), stand_ins.get(leaf, leaf))
        if found.has(sympy.Derivative, sympy.Subs):
            raise CellError(
                f"∂/∂{leaf} is not known for {e}", where=f"{equation.lhs} = {equation.rhs}"
            )
        return found.xreplace({v: x for x, v in stand_ins.items()})

    def _reduction(
        self, equation: Eq, namer: Callable[[str], str]
    ) -> Iterator[tuple[Symbol, Chain]]:
        rhs, operand = equation.rhs, equation.rhs.args[0]
        shape, axis = self.shapes.axes(operand), self.shapes.axis(rhs)
        if isinstance(rhs, Scan):
            yield operand, Chain((RunningSum(type(rhs), rhs.args[1:]),))
            return
        total, factor = Sum(shape, axis), ONE
        if isinstance(rhs, mean):
            factor = 1 / shape[axis]
        elif isinstance(rhs, max_):
            lhs = equation.lhs
            hit = equal(operand, total.transpose(lhs))
            ties = Vector(namer(f"ties_{lhs.name}"), "vector", lhs.axes)
            self.extra.append(Eq(ties, sum_(hit, *rhs.args[1:]), evaluate=False))
            factor = hit / total.transpose(ties)
        yield from self._elementwise(operand, shape, equation, factor, total)

    @staticmethod
    def _contraction(e: Contract) -> Iterator[tuple[Symbol, Chain]]:
        (left, right, out), (a, b, _) = e.spec, e.args
        yield a, Chain((Contraction(b, left, right, out),))
        yield b, Chain((Contraction(a, right, left, out),))

    def _view(self, e: View) -> LinearMap:
        shape = self.shapes.axes(e.operand)
        return Taken(e, shape) if isinstance(e, Part) else Rearranged(e, shape)


def leaves(e: Expr) -> list[Expr]:
    """What elementwise work reads: vectors, and vectors that are expanded."""
    views = e.atoms(Expand)
    bare = e.xreplace({x: sympy.Dummy() for x in views})
    found = {x for x in views if isinstance(x.operand, Vector)} | bare.atoms(Vector)

    def place(x: Expr) -> tuple[str, int, str, str]:
        v = x.operand if isinstance(x, Expand) else x
        return (v.name, v.time, v.category, str(x))

    return sorted(found, key=place)


# --------------------------------------------------------------------------- building blocks


def expanded(e: Expr, shape: Shape, places: Sequence[int]) -> Expr:
    """``e`` along all axes of ``shape``; a single number needs nothing of the kind."""
    return Expand(e, Tuple(*shape), Tuple(*places)) if places else e


def summed(e: Expr, shape: Shape, places: Sequence[int]) -> Expr:
    """The sum of ``e``, of that shape, over the axes that are not among ``places``."""
    axes = list(range(len(shape)))
    for axis in reversed(range(len(shape))):
        if axis not in places:
            e = sum_(e) if len(axes) == 1 else sum_(e, Integer(axes.index(axis)))
            axes.remove(axis)
    return e


def contract(a: Expr, of_a: str, b: Expr, of_b: str, out: str) -> Expr:
    """A contraction with the operand of more axes first, or that with which the result begins."""
    if (-len(of_b), out.find(of_b[-1])) < (-len(of_a), out.find(of_a[-1])):
        a, of_a, b, of_b = b, of_b, a, of_a
    return Contract(a, b, f"{of_a},{of_b}->{out}")
