"""Cells that no one wrote, of quantities with several axes: memories, heads, views, sums along
axes, matrices made of parameters, equal axes such as (P, P), and axes of one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import sympy
from hypothesis import strategies as st
from sympy import Abs, Eq, Expr, Rational, exp

from lstmgen import (
    Cell,
    Size,
    biases,
    chunk,
    concat,
    constants,
    cumsum,
    expand,
    flatten,
    inputs,
    matrix,
    max_,
    mean,
    outer,
    relu,
    repeat,
    sigmoid,
    softplus,
    split,
    states,
    sum_,
    tanh,
    vector,
    vectors,
)
from lstmgen.language.matrices import Matrix, Operator
from lstmgen.language.sizes import settled, size_of
from lstmgen.language.symbols import Vector

Shape = tuple[str, ...]

AXES = ("H", "K", "N", "P")
ONE: Shape = ("1",)
SHAPES: tuple[Shape, ...] = (
    ("H",), ("K",), ("N",), ("P",), ("N*P",), ONE,
    ("H", "K"), ("K", "H"), ("N", "P"), ("P", "P"), ("N", "K"), ("H", "1"),
    ("N", "P", "K"), ("N", "P", "P"), ("N", "1", "P"),
)  # fmt: skip
MOST = 12  # states that have equations of their own; more would take minutes to compile


class _Maker:
    """Makes a cell of choices: ``choose(n)`` is a number from 0 to n - 1."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.choose, self.number = choose, count()
        self.x, self.c = inputs("x", size="D"), constants("c", 0.4)
        self.states: dict[Shape, list[Vector]] = {}
        self.parameters: dict[Shape, list[Vector]] = {}
        self.matrices: dict[Shape, list[Matrix]] = {}
        self.gates: list[tuple[Vector, Shape]] = []
        self.made_of_parameters: list[Eq] = []

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.choose(len(options))]

    def in_ten(self, times: int) -> bool:
        return self.choose(10) < times

    def fresh(self, prefix: str) -> str:
        return f"{prefix}{next(self.number)}"

    # ------------------------------------------------------------------ symbols

    def state(self, shape: Shape) -> Vector:
        known = self.states.setdefault(shape, [])
        if not known or (len(known) == 1 and self.in_ten(3)):
            known.append(_shaped(states, self.fresh("s"), shape))
        return self.pick(known)

    def parameter(self, shape: Shape) -> Vector:
        known = self.parameters.setdefault(shape, [])
        if not known or self.in_ten(5):
            name = self.fresh("p")
            alone = len(shape) == 1
            known.append(vector(name, shape[0]) if alone else biases(name, shape=shape).a)
        return self.pick(known)

    def matrix(self, shape: Shape) -> Operator:
        """One that was there, also transposed, a new one, or one that is made of others."""
        turned = _turned(shape)
        for there in (shape, turned):
            if there in self.matrices and self.in_ten(6):
                m = self.pick(self.matrices[there])
                as_it_is = there == shape and not (shape == turned and self.in_ten(5))
                return m if as_it_is else m.T
        made = matrix(self.fresh("M"), shape=shape)
        if shape[-1] != "D" and self.in_ten(3):
            a, p = matrix(self.fresh("A"), shape=shape), self.parameter(ONE)
            self.matrices.setdefault(shape, []).append(a)
            rhs = self.pick([exp(-a) / 2, a * p - tanh(a), tanh(-a) * p,
                             a * expand(p, *shape) + a**2 / 4])  # fmt: skip
            self.made_of_parameters.append(Eq(made, rhs))
        self.matrices.setdefault(shape, []).append(made)
        return made

    def driven(self, shape: Shape) -> Expr:
        return self.matrix((*shape, "D")) @ self.x

    # ------------------------------------------------------------------ expressions

    def leaf(self, shape: Shape) -> Expr:
        gates = [v for v, s in self.gates if s == shape]
        if gates and self.in_ten(4):
            return self.pick(gates)
        makes = [self.state, self.state, self.parameter, self.driven]
        return self.pick(makes)(shape)

    def moving(self, shape: Shape, depth: int) -> Expr:
        """An expression that is not a number."""
        e = self.expression(shape, depth)
        return e if e.atoms(Vector) else e * self.state(shape)

    def expression(self, shape: Shape, depth: int) -> Expr:
        if depth <= 0 or self.in_ten(1):
            return self.leaf(shape)
        kinds = [self.elementwise, self.elementwise, self.scaled, self.reduced, self.reduced]
        if len(shape) > 1:
            kinds += [self.expanded, self.scanned, self.outer, self.turned]
        elif shape != ONE:
            kinds += [self.scanned, self.split]
        if shape == ("N*P",):
            kinds += [self.flattened, self.flattened]
        if shape in (("N", "P"), ("P", "P")):
            kinds.append(self.chunked)
        if "1" not in shape:
            kinds += [self.product, self.product, self.contracted]
        return self.pick(kinds)(shape, depth - 1)

    def elementwise(self, shape: Shape, depth: int) -> Expr:
        e = self.moving(shape, depth)
        functions = [tanh, sigmoid, relu, softplus, Abs, lambda a: exp(-(a**2))]
        kind = self.choose(3)
        if kind == 0:
            return e * self.moving(shape, depth)
        if kind == 1:
            return e - self.pick([1, 2, Rational(1, 2)]) * self.moving(shape, depth)
        return self.pick(functions)(e)

    def scaled(self, shape: Shape, depth: int) -> Expr:
        """One number beside several axes: a constant, a parameter, or one of each step."""
        e, kind = self.moving(shape, depth), self.choose(4)
        if kind == 0:
            return e * self.pick([2, Rational(-1, 3), self.c])
        if kind == 1:
            return e * self.moving(ONE, depth)
        p = self.parameter(ONE)
        return e * p + self.c if kind == 2 else self.c * e + p

    def reduced(self, shape: Shape, depth: int) -> Expr:
        wider = [s for s in SHAPES if any(_without(s, k) == shape for k in range(len(s)))]
        if shape == ONE:
            wider = [s for s in SHAPES if len(s) == 1 and s != ONE]
        if not wider:
            return tanh(self.moving(shape, depth))
        inner = self.pick(wider)
        axes = [k for k in range(len(inner)) if _without(inner, k) == shape]
        function, e = self.pick([sum_, mean, max_]), self.moving(inner, depth)
        return function(e) if len(inner) == 1 else function(e, self.pick(axes))

    def expanded(self, shape: Shape, depth: int) -> Expr:
        narrower = [s for s in SHAPES if len(s) < len(shape) and s != ONE and _is_in(s, shape)]
        return expand(self.moving(self.pick([*narrower, ONE]), depth), *shape)

    def scanned(self, shape: Shape, depth: int) -> Expr:
        e = self.moving(shape, depth)
        return cumsum(e) if len(shape) == 1 else cumsum(e, self.choose(len(shape)))

    def outer(self, shape: Shape, depth: int) -> Expr:
        left, right = shape[:-1], (*shape[:-2], shape[-1])
        if ONE in (left, right):
            return tanh(self.moving(shape, depth))
        return outer(self.moving(left, depth), self.moving(right, depth))

    def turned(self, shape: Shape, depth: int) -> Expr:
        return self.state(_turned(shape)).T

    def product(self, shape: Shape, depth: int) -> Expr:
        """With a matrix for each head or one for all, and vectors of as many heads, or fewer."""
        inner = self.pick(AXES)
        if self.in_ten(2):
            return self.matrix((shape[-1], inner)) @ self.moving((*shape[:-1], inner), depth)
        heads = shape[:-1][: self.choose(len(shape))]
        return self.matrix((*shape, inner)) @ self.moving((*heads, inner), depth)

    def contracted(self, shape: Shape, depth: int) -> Expr:
        """A matrix state times a vector, or times a matrix."""
        inner = self.pick(AXES)
        if len(shape) > 1 and self.in_ten(5):
            right = self.moving((*shape[:-2], inner, shape[-1]), depth)
            return self.state((*shape[:-1], inner)) @ right
        operand = self.moving((*shape[:-1], inner), depth)
        if self.in_ten(5):
            return self.state((*shape, inner)) @ operand
        return self.state((*shape[:-1], inner, shape[-1])).T @ operand

    def chunked(self, shape: Shape, depth: int) -> Expr:
        flat = ("*".join(shape),)
        wide = self.driven(flat) if self.in_ten(5) else self.parameter(flat) + self.state(flat)
        return chunk(wide, *shape)

    def flattened(self, shape: Shape, depth: int) -> Expr:
        if self.in_ten(5):
            return flatten(self.moving(("N", "P"), depth))
        return repeat(self.moving(("N",), depth), "P")

    def split(self, shape: Shape, depth: int) -> Expr:
        other = self.pick(["H", "K", "1"])
        sizes = (shape[0], other)
        moving = concat(self.moving(shape, depth), self.moving((other,), depth))
        return split(moving, *sizes)[0] + split(self.parameter(("+".join(sizes),)), *sizes)[0]

    # ------------------------------------------------------------------ the cell

    def of_sizes_that_nothing_tells(self, equations: Sequence[Eq]) -> Expr:
        """Learned vectors of those sizes, without which modules cannot know them."""
        equations = [*self.made_of_parameters, *equations]
        sides = [side for e in equations for side in e.args]
        used = {v for side in sides for v in side.atoms(Vector, Matrix) if v.axes[-1]}
        made = {e.lhs for e in equations if isinstance(e.lhs, Matrix)}
        given = [m for m in used if isinstance(m, Matrix) and m.base not in made]
        given += [v for v in used if isinstance(v, Vector) and v.category in ("state", "parameter")]
        told = settled(size_of(n) for v in given for n in v.axes)
        every = {n for side in sides for n in side.atoms(Size)}
        every |= {n for v in used for axis in v.axes for n in size_of(axis).free_symbols}
        missing = sorted(every - told - {Size("D")}, key=str)
        return sympy.Add(*(sum_(self.parameter((str(n),))) for n in missing))

    def cell(self, name: str) -> Cell:
        equations: list[Eq] = []
        for _ in range(1 + self.choose(3)):
            shape = self.pick(SHAPES)
            gate = _shaped(vectors, self.fresh("v"), shape)
            equations.append(Eq(gate, self.expression(shape, 3)))
            self.gates.append((gate, shape))
        h = states("h")
        self.states.setdefault(("H",), []).append(h)
        new = self.driven(("H",)) + self.expression(("H",), 3)
        done = {h: None}
        while left := [(v, s) for s, every in self.states.items() for v in every if v not in done]:
            v, shape = left[0]
            done[v] = None
            depth = 2 if len(done) < 5 else 0
            plain = tanh(v / 2 + self.c)
            rhs = plain if len(done) > MOST else tanh(self.expression(shape, depth))
            equations.append(Eq(v.next, rhs))
        told = self.of_sizes_that_nothing_tells([*equations, Eq(h.next, new)])
        equations.append(Eq(h.next, tanh(new + told)))
        equations = [*self.made_of_parameters, *equations]
        read = {a for e in equations for a in e.rhs.atoms(sympy.Symbol)}
        outputs = [v for v, _ in self.gates if v not in read or self.in_ten(3)]
        unread = [v for v in done if not read & {v, v.next} and v != h]
        return Cell(name, equations, (h, *outputs, *unread))


def _shaped(make: Callable[..., Any], name: str, shape: Shape) -> Any:
    return make(name, shape[0]) if len(shape) == 1 else make(name, shape=shape)


def _turned(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _is_in(narrow: Shape, wide: Shape) -> bool:
    """Whether the axes of one are among those of another, in their order."""
    left = iter(wide)
    return all(axis in left for axis in narrow)


def made_up(choose: Callable[[int], int], name: str = "made_up") -> Cell:
    """A cell made of choices: ``choose(n)`` is a number from 0 to n - 1.

    Raises CellError where the choices do not fit together, as sizes that are known twice.
    """
    return _Maker(choose).cell(name)


@st.composite
def cells(draw: Callable[[Any], Any]) -> Cell:
    """A made-up cell."""
    return made_up(lambda n: draw(st.integers(0, n - 1)))
