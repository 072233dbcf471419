"""A hypothesis strategy that makes up cells: valid ones, in the whole of the language.

Values stay finite over a handful of steps because every vector is bounded before others read it.
Each choice has its simplest form first, so that a failing cell shrinks to one that can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
from hypothesis import strategies as st
from sympy import Abs, Eq, Expr, Max, Min, Piecewise, Rational, cos, erf, exp, log, sin, sqrt

from lstmgen import (
    Cell,
    biases,
    constants,
    cumsum,
    elu,
    expm1,
    gelu,
    inputs,
    layer_norm,
    leaky_relu,
    log_sigmoid,
    masks,
    matrix,
    max_,
    mean,
    named,
    relu,
    rsqrt,
    sigmoid,
    silu,
    softmax,
    softplus,
    states,
    step,
    stop_gradient,
    sum_,
    tanh,
    vector,
    vectors,
)
from lstmgen.language.matrices import Matrix
from lstmgen.language.symbols import Vector

# Any real number to a bounded one. Smooth ones first; those with kinks and jumps last.
SMOOTH: list[Callable[[Any], Expr]] = [
    sigmoid,
    tanh,
    lambda a: exp(tanh(a)),
    lambda a: sin(a),
    lambda a: cos(a),
    lambda a: softplus(tanh(a)),
    lambda a: log(1 + exp(sin(a))),
    lambda a: expm1(tanh(a)),
    lambda a: sqrt(1 + tanh(a) ** 2),
    lambda a: a / sqrt(1 + a**2),
    lambda a: a * rsqrt(1 + a**2),
    lambda a: a / (1 + a**2),
    lambda a: tanh(a) ** 3,
    lambda a: sigmoid(a) ** Rational(3, 2),
    lambda a: 1 / (2 + tanh(a)),
    lambda a: silu(tanh(a)),
    lambda a: exp(log_sigmoid(a)),
    lambda a: 1 - sigmoid(a),
    lambda a: 4 * sigmoid(a) - 2,
    lambda a: sympy.atan(a),
    lambda a: sympy.asinh(tanh(a)),
    lambda a: sympy.sinh(tanh(a)),
    lambda a: sympy.cosh(tanh(a)),
    lambda a: sympy.tan(tanh(a) / 2),
    lambda a: sympy.asin(tanh(a) / 2),
    lambda a: sympy.acos(tanh(a) / 2),
    lambda a: sympy.atanh(tanh(a) / 2),
    lambda a: log(2 + tanh(a)),
    lambda a: 2 ** tanh(a),
    lambda a: sigmoid(a) ** 0.7,
    lambda a: (1 + sigmoid(a)) ** tanh(a),
    lambda a: exp(-(a**2) / 4),
    lambda a: sympy.pi * sigmoid(a) / 3,
    lambda a: log(sigmoid(3 * tanh(a))) / 4,
    lambda a: 1 / (1 + 1 / sigmoid(3 * tanh(a))),
    lambda a: tanh(a) ** 5 / sqrt(2 + sin(a)),
]
KINKED: list[Callable[[Any], Expr]] = [
    lambda a: relu(tanh(a)),
    lambda a: Min(relu(a), 1),
    lambda a: Max(-1, Min(a, 1)),
    lambda a: Max(tanh(a), sin(a)),
    lambda a: Abs(tanh(a)),
    lambda a: a / (1 + Abs(a)),
    lambda a: elu(tanh(a)),
    lambda a: leaky_relu(tanh(a)),
    lambda a: gelu(tanh(a)),
    lambda a: erf(a),
    lambda a: Piecewise((tanh(a), a > 0), (a / (1 - a), True)),
    lambda a: Piecewise((-1, a < -1), (1, a > 1), (a, True)),
    lambda a: Piecewise((sin(a), (a > Rational(1, 4)) & (a < 1)), (sigmoid(a), True)),
    lambda a: sqrt(Abs(tanh(a)) + 1),
    lambda a: step(a) * tanh(a) + sympy.Heaviside(a) * sigmoid(a),
    lambda a: sympy.sign(a) * (1 - exp(-Abs(a))),
    lambda a: tanh(a) - sympy.floor(2 * tanh(a)) / 2,
    lambda a: sympy.Mod(a, 1),
    lambda a: Max(tanh(a), sin(a), Rational(1, 4)),
    lambda a: Min(sigmoid(a), a, 1 - a) / (1 + a**2),
    lambda a: Max(tanh(a), tanh(-a), 0),
    lambda a: Abs(sqrt(sigmoid(a)) - Rational(1, 2)),
    lambda a: Abs(log(sigmoid(tanh(a)))) / 2,
    lambda a: Abs(tanh(a)) ** Rational(3, 2),
    lambda a: (relu(tanh(a)) * sigmoid(a)) ** 2.5,
    lambda a: _leaky(_leaky(tanh(a)) - 0.3),
    lambda a: Piecewise((tanh(a), sympy.Xor(a > 0, a > 1)), (sigmoid(a), True)),
    lambda a: Piecewise((tanh(a), sympy.Implies(a > 0, a > 1)), (sigmoid(a), True)),
    lambda a: Piecewise((sin(a), sympy.Equivalent(a > 0, a < 1)), (cos(a), True)),
    lambda a: Piecewise((sin(a), sympy.Not(sympy.And(a > 0, a < 1))), (cos(a), a > 2), (a, True)),
    lambda a: Piecewise((sin(a), sympy.ITE(a > 0, a > 1, a < -1)), (cos(a), True)),
    lambda a: Piecewise((0, Eq(tanh(a), 0)), (sin(a) / tanh(a), True)) / 2,
]


def _leaky(a: Any) -> Expr:
    return Piecewise((a, a > 0), (a / 5, True))


# What becomes of a constant: a single number for all rows and units.
OF_CONSTANTS: list[Callable[[Any], Expr]] = [
    lambda c: exp(-1 / c**2),
    lambda c: c**-3 / 50,
    lambda c: sqrt(c),
    lambda c: c**c,
    lambda c: 2**c,
    lambda c: (1 + c) ** Rational(-1, 2),
    lambda c: Max(c, Rational(1, 5)),
    lambda c: tanh(c) / c,
    lambda c: stop_gradient(c),
    lambda c: 1 / (c + 1 / c),
    lambda c: rsqrt(c) / 3,
    lambda c: (c + 1) ** 2 / 4,
    lambda c: Piecewise((c, c > Rational(1, 2)), (c**2, True)),
    lambda c: -1 / sqrt(c + c**2),
    lambda c: sympy.floor(3 * c) / 3 + sigmoid(c),
    lambda c: Abs(c - 1) ** c,
    lambda c: relu(c - 1) + softplus(c) / 2,
]


class _Builder:
    """Puts one cell together. ``pool`` holds the bounded vectors that may be read so far."""

    def __init__(
        self, choose: Callable[[int], int], kinks: bool, cuts: bool, name: str = "made_up"
    ) -> None:
        self.choose, self.kinks, self.cuts, self.name = choose, kinks, cuts, name
        self.pool: list[tuple[Expr, str]] = []
        self.matrices: list[tuple[Matrix, str, str]] = []
        self.equations: list[Eq] = []
        self.count = 0
        self.mask_count = 0
        self.dt: Vector | None = None
        self.used: list[tuple[Expr, str]] = []  # products, each with its size
        self.leak: Vector | None = None

    # ------------------------------------------------------------------ choosing

    def pick(self, *options: Any) -> Any:
        return options[self.choose(len(options))]

    def flip(self, one_in: int = 2) -> bool:
        return self.choose(one_in) == one_in - 1

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def any_vector(self) -> tuple[Expr, str]:
        return self.pool[self.choose(len(self.pool))]

    def of_size(self, size: str) -> Expr | None:
        fitting = [v for v, s in self.pool if s == size]
        return self.pick(*fitting) if fitting else None

    # ------------------------------------------------------------------ parameters

    def new_matrix(self, rows: str, columns: str, inner: bool = False) -> Matrix:
        """A matrix; the rows of an ``inner`` one follow from nothing: it has to say them."""
        name = self.fresh("W_")
        if self.flip(4) or rows == "1":  # else a single number could be inferred to be wide
            made = matrix(name, rows=rows, columns=columns)
        else:
            made = matrix(name, rows=rows) if inner else matrix(name)
        self.matrices.append((made, rows, columns))
        return made

    def new_vector(self, size: str, init: float = 0.0) -> Vector:
        """A learned vector; what stands next to scalars only has to say its size."""
        name = self.fresh("p_")
        return vector(name, size=size if size == "1" or self.flip(4) else "", init=init)

    # ------------------------------------------------------------------ terms of a sum

    def term(self, size: str) -> Expr:
        """Something of the size, not bounded by more than a handful."""
        kinds = [
            self.product,
            self.bias,
            self.peephole,
            self.plain,
            self.product_of_product,
            self.chain,
            self.reused,
            self.transposed,
            self.reduced,
            self.scanned,
            self.normalised,
            self.softmax,
            self.scaled,
            self.masked,
            self.constant,
            self.together,
            self.repeated,
            self.shared,
            self.of_a_constant,
            self.power,
            self.of_a_reduction,
        ]
        if self.cuts:
            kinds.append(self.cut)
        return self.pick(*kinds)(size)

    def product(self, size: str, inner: bool = False) -> Expr:
        operand, columns = self.any_vector()
        if self.flip(3):
            other = self.of_size(columns)
            operand = operand * other if other is not None else operand
        if self.flip(6):
            operand = 1 - operand
        made = self.new_matrix(size, columns, inner) @ operand
        self.used.append((made, size))
        return made

    def repeated(self, size: str) -> Expr:
        """A product that another equation has already, or one like it."""
        fitting = [p for p, s in self.used if s == size]
        if not fitting:
            return self.product(size)
        return self.pick(1, -1, Rational(1, 2)) * self.pick(*fitting)

    def shared(self, size: str) -> Expr:
        """A learned scalar that all equations share."""
        if self.leak is None:
            self.leak = vector("leak", size=1, init=0.3)
        read = self.of_size(size)
        if read is None:
            return self.leak
        return self.pick(self.leak * read, (1 - self.leak) * read, self.leak + read, read)

    def of_a_constant(self, size: str) -> Expr:
        factor = OF_CONSTANTS[self.choose(len(OF_CONSTANTS))](self.constant_symbol())
        read = self.of_size(size)
        return factor if read is None else self.pick(factor * read, factor + read, read - factor)

    def power(self, size: str) -> Expr:
        """A power whose exponent is a symbol, of what may be zero."""
        read = self.of_size(size)
        if read is None:
            return self.product(size)
        base = 1 + sigmoid(read)
        if self.kinks:
            base = self.pick(relu(read), Abs(read), relu(read) * sigmoid(read), base)
        exponent = self.pick(
            self.constant_symbol() + 1, self.constant_symbol() + Rational(3, 2),
            1 + sigmoid(read), 1 + vector("expo", size=1, init=0.5) ** 2,
        )  # fmt: skip
        bounded = base / (1 + base) if base.has(relu, Abs) else base / 2
        return bounded**exponent

    def of_a_reduction(self, size: str) -> Expr:
        """Something of all units, beside the units themselves."""
        read = self.of_size(size)
        if read is None or size == "1":
            return self.product(size)
        other = self.of_size(size)
        whole = self.pick(read * other + read, read, sigmoid(read) * tanh(other) * read + other)
        kinds = [mean, lambda e: sum_(e) / 5, max_ if self.kinks else mean]
        scalar = self.pick(*kinds)(whole)
        return self.pick(read - scalar, read * scalar, scalar**2 * other, whole / (2 + scalar**2))

    def product_of_product(self, size: str) -> Expr:
        operand, columns = self.any_vector()
        inner, middle = self.pick(*[p for p in self.pool if p[1] != "1"] or [("", "H")])
        between = self.new_matrix(middle, columns, inner=True) @ operand
        if isinstance(inner, Expr):
            between = self.pick(between * inner, between + inner, tanh(between))
        return self.new_matrix(size, middle) @ between

    def chain(self, size: str) -> Expr:
        operand, columns = self.any_vector()
        rank = self.pick("R", "2")
        return self.new_matrix(size, rank) @ self.new_matrix(rank, columns, inner=True) @ operand

    def reused(self, size: str) -> Expr:
        fitting = [
            (m, c) for m, r, c in self.matrices if r == size and any(s == c for _, s in self.pool)
        ]
        if not fitting:
            return self.product(size)
        again, columns = self.pick(*fitting)
        return again @ self.of_size(columns)

    def transposed(self, size: str) -> Expr:
        fitting = [
            (m, r) for m, r, c in self.matrices if c == size and any(s == r for _, s in self.pool)
        ]
        if not fitting:
            return self.product(size)
        again, rows = self.pick(*fitting)
        return again.T @ self.of_size(rows)

    def bias(self, size: str) -> Expr:
        return self.new_vector(size, self.pick(0.0, 1.0, -0.5))

    def peephole(self, size: str) -> Expr:
        read = self.of_size(self.pick(size, "1"))
        if read is None:
            read = self.of_size(size)
        return self.bias(size) if read is None else self.new_vector(size) * read

    def plain(self, size: str) -> Expr:
        read = self.of_size(size)
        if read is None:
            return self.product(size)
        other = self.of_size(self.pick(size, "1"))
        if other is not None and self.flip():
            return read * other
        return self.pick(read, -read, read / 2, read**2, 0.3 * read, 1 - read)

    def reduced(self, size: str) -> Expr:
        read, width = self.any_vector()
        other = self.of_size(width)
        inside = self.pick(
            read, read * other, read**2, read + other, Abs(read) if self.kinks else read
        )
        if width != "1" and self.flip(3):
            inside = inside * self.new_vector(width)
        kinds: list[Callable[[Expr], Expr]] = [mean, lambda e: sum_(e) / 4]
        if self.kinks:
            kinds.append(max_)
        scalar = self.pick(*kinds)(inside)
        scaled = self.of_size(size)
        return scalar * scaled if scaled is not None and self.flip() else scalar

    def scanned(self, size: str) -> Expr:
        read = self.of_size(size)
        if read is None:
            return self.product(size)
        return (
            self.pick(cumsum(read), cumsum(softmax(read)), cumsum(read * self.new_vector(size))) / 3
        )

    def normalised(self, size: str) -> Expr:
        inner = self.product(size) if size != "1" else self.product("H", inner=True)
        gain = self.new_vector(size, 1.0) if self.flip() and size != "1" else 1
        bias = self.new_vector(size) if self.flip() and size != "1" else 0
        normal = layer_norm(inner, gain=gain, bias=bias)
        return normal if size != "1" else mean(normal**3)

    def softmax(self, size: str) -> Expr:
        read = self.of_size(size)
        if read is None or size == "1":
            return self.product(size)
        return softmax(self.pick(read, 2 * read, read + self.product(size)))

    def scaled(self, size: str) -> Expr:
        scalar = vector(self.fresh("s_"), size=1, init=self.pick(0.0, 0.5))
        read = self.of_size(size)
        return scalar if read is None else self.pick(scalar * read, sigmoid(scalar) * read)

    def masked(self, size: str) -> Expr:
        self.mask_count += 1
        mask = masks(f"m{self.mask_count}", size=self.pick(size, "1"))
        read = self.of_size(size)
        return mask if read is None else self.pick(mask * read, mask * read + (1 - mask) * read / 2)

    def constant_symbol(self) -> Vector:
        if self.dt is None:
            self.dt = constants("dt", self.pick(0.3, None))
        return self.dt

    def constant(self, size: str) -> Expr:
        dt = self.constant_symbol()
        read = self.of_size(size)
        factor = self.pick(dt, Rational(2, 3), 0.7, 1 / (1 + dt), sqrt(2))
        return factor if read is None else factor * read

    def together(self, size: str) -> Expr:
        kept = named(self.term(size) + self.bias(size))
        return kept / (1 + kept**2)

    def cut(self, size: str) -> Expr:
        read = self.of_size(size)
        if read is None:
            return self.product(size)
        return self.pick(stop_gradient(read), stop_gradient(read) * self.plain(size))

    # ------------------------------------------------------------------ equations

    def pre_activation(self, size: str) -> Expr:
        terms = [self.term(size) for _ in range(1 + self.choose(3))]
        total = sum(terms, sympy.S.Zero)
        if len(terms) > 1 and self.flip(6):
            total = terms[0] * tanh(sum(terms[1:], sympy.S.Zero))
        # SymPy cannot compare functions of numbers alone, so that Max(relu(2), 1) is an error.
        return total if total.atoms(Vector) else total + self.bias(size)

    def bounded(self, size: str) -> Expr:
        functions = [*SMOOTH, *KINKED] if self.kinks else SMOOTH
        index = self.choose(2 * len(functions))
        # Every other one is a plain gate, so that a cell is not all exotic.
        function = functions[index // 2] if index % 2 else self.pick(sigmoid, tanh)
        return function(self.pre_activation(size))

    def define(self, lhs: Vector, rhs: Expr, size: str) -> None:
        self.equations.append(Eq(lhs, rhs))
        self.pool.append((lhs, size))

    def gate(self) -> None:
        size = self.pick("H", "P", "1", "D", "3")
        name = self.fresh("g")
        rhs = self.bounded("1" if self.flip(5) else size)  # a single number for all units
        self.define(vectors(name, size=size), rhs, size)

    def update(self, state: Vector, size: str) -> None:
        """The new state: bounded, whatever happens."""
        old = self.of_size(size)
        forms: list[Callable[[], Expr]] = [
            lambda: self.bounded(size),
            lambda: sigmoid(self.pre_activation(size)) * state + self.bounded(size),
            lambda: self.interpolated(state, size),
            lambda: self.bounded(size) * tanh(self.plain(size)),
            lambda: state + Rational(1, 4) * (self.bounded(size) - state),
            lambda: tanh(self.product(size)),
            lambda: self.product(size) / 2,
            lambda: old / 2 if old is not None else self.bounded(size),
            lambda: self.bounded("1"),
        ]
        if self.kinks:
            forms.append(lambda: Max(state / 2, self.bounded(size)))
        self.define(state.next, self.pick(*forms)(), size)

    def interpolated(self, state: Vector, size: str) -> Expr:
        z = self.of_size(self.pick(size, "1"))
        z = sigmoid(z) if z is not None else sigmoid(self.pre_activation(size))
        return z * state + (1 - z) * self.bounded(size)

    def build(self) -> Cell:
        self.pool.append((inputs("x"), "D"))
        if self.flip(4):
            self.pool.append((inputs("y", size="E"), "E"))
        sizes = [self.pick("H", "P", "1") if k else "H" for k in range(1 + self.choose(3))]
        made = [(states(name, size=s), s) for name, s in zip("hcs", sizes, strict=False)]
        self.pool += made
        gates = self.choose(4)
        for k in range(gates):
            self.gate()
            if made[k:] and self.flip(4):  # a state before the last gate: peepholes on c.next
                self.update(*made.pop())
        for state, size in reversed(made):
            self.update(state, size)
        output = self.equations[-1].lhs
        if self.flip(3):
            self.gate()
            output = self.equations[-1].lhs
        return self.finish(output)

    def finish(self, output: Vector) -> Cell:
        """Without what nothing reads, and with something that reads the input."""
        equations, outputs = self.equations, self.with_others(output)
        while True:
            read = {v for e in equations for v in e.rhs.atoms(Vector)} | set(outputs)
            kept = [e for e in equations if {e.lhs, _incoming(e.lhs)} & read]
            if len(kept) == len(equations):
                break
            equations = kept
        if not any(v.category == "input" for v in read):
            last = next(e for e in equations if e.lhs == output)
            extra = tanh(matrix("W_x") @ inputs("x"))
            if self.shape(output) == "1":
                extra = mean(tanh(matrix("W_x", rows="H") @ inputs("x")))
            where = equations.index(last)
            equations[where] = Eq(output, last.rhs + extra)
        self.size_from_parameters(equations, outputs)
        return Cell(self.name, equations, outputs)

    def with_others(self, output: Vector) -> tuple[Vector, ...]:
        """The outputs: now and then, what else is computed is one, too."""
        outputs, others = [output], [e.lhs for e in self.equations if e.lhs != output]
        while others and len(outputs) < 3 and self.flip(4):
            other = self.pick(*others)
            others.remove(other)
            outputs.insert(self.choose(len(outputs) + 1), other)
        return tuple(outputs)

    def size_from_parameters(self, equations: list[Eq], outputs: tuple[Vector, ...]) -> None:
        """A module reads its sizes from its arguments: some parameter or input has to have each."""
        cell = Cell(self.name, equations, outputs)
        known = {str(n) for s in (*cell.parameters, *cell.inputs) for n in cell.shape(s)}
        for k, e in enumerate(equations):
            size = cell.size(e.lhs)
            if not size.is_Integer and str(size) not in known:
                known.add(str(size))
                equations[k] = Eq(e.lhs, e.rhs + vector(f"b_{size}", size=str(size)))

    def shape(self, v: Vector) -> str:
        return next(s for p, s in self.pool if p == v)


class _Web(_Builder):
    """Plain gates of many products: of common operands, with sizes that differ, matrices and
    vectors that are used again. What lies beside what in memory differs from cell to cell.
    """

    def operand(self) -> tuple[Expr, str]:
        v, size = self.any_vector()
        other = self.of_size(size) if self.flip(4) else None
        return (v if other is None else v * other), size

    def affine(self, size: str) -> Expr:
        terms: list[Expr] = []
        for _ in range(1 + self.choose(3)):
            kinds = [self.one_product, self.one_product, self.one_product, self.reused, self.bias,
                     self.plain, self.repeated, self.transposed]  # fmt: skip
            terms.append(self.pick(*kinds)(size))
        return sum(terms, self.bias(size) if self.flip(3) else sympy.S.Zero)

    def one_product(self, size: str) -> Expr:
        operand, columns = self.operand()
        made = self.new_matrix(size, columns) @ operand
        self.used.append((made, size))
        return made

    def bounded(self, size: str) -> Expr:
        total = self.affine(size)
        total = total if total.atoms(Vector) else total + self.bias(size)
        first = self.pick(tanh, sigmoid, sin, lambda e: e / 3)(total)
        second = self.of_size(self.pick(size, size, "1")) if self.flip() else None
        if second is not None:
            return self.pick(first * second, first + second / 2, first - second * first)
        return first + tanh(self.affine(size)) / 2 if self.flip(4) else first

    def build(self) -> Cell:
        self.pool.append((inputs("x"), "D"))
        if self.flip():
            size = self.pick("E", "1", "H")
            self.pool.append((inputs("u", size=size), size))
        names = self.pick("hc", "yh", "sx")[: 1 + self.choose(2)]
        names = names.replace("x", "z")
        sizes = [self.pick("H", "H", "P", "1") if k else "H" for k in range(len(names))]
        made = [(states(name, size=s), s) for name, s in zip(names, sizes, strict=True)]
        self.pool += made
        for _ in range(1 + self.choose(5)):
            size = self.pick("H", "H", "H", "P", "1", "3", "D")
            name = self.fresh("g")
            wide = self.bounded("1") if self.flip(8) else self.bounded(size)
            self.define(vectors(name, size=size), wide, size)
        for state, size in reversed(made):
            gate = self.of_size(size)
            rhs = self.bounded(size)
            self.define(state.next, self.pick(rhs, tanh(rhs + gate), rhs / 2 + gate / 3), size)
        return self.finish(self.equations[-1].lhs)


def made_up(
    choose: Callable[[int], int], kinks: bool = True, cuts: bool = True, name: str = "made_up"
) -> Cell:
    """A cell made of choices: ``choose(n)`` is a number from 0 to n - 1."""
    kind = _Web if choose(3) == 2 else _Builder
    return kind(choose, kinks, cuts, name).build()


def _incoming(v: Vector) -> Vector:
    return v.at(-1) if v.category == "state" else v


@st.composite
def cells(draw: Callable[[Any], Any], kinks: bool = True, cuts: bool = True) -> Cell:
    """A made-up cell. Without ``kinks`` it is analytic; without ``cuts`` no gradient is stopped."""
    return made_up(lambda n: draw(st.integers(0, n - 1)), kinks, cuts)


__all__ = ["KINKED", "SMOOTH", "biases", "cells"]
