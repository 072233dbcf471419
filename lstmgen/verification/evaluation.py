"""Direct evaluation: a cell's equations as their author wrote them, with NumPy.

A walk over the SymPy trees, without normal form, plan, templates or generated text: the independent
path that verification judges by. It is written to be seen to be right, and vectorised over
perturbed copies, so that all perturbations of a parameter cost one pass.

Derivatives are those of the complex step in the limit of a step of 0: a number v + d·ε with ε² = 0,
here a ``Dual``, goes through the same walk (J. R. R. A. Martins, P. Sturdza & J. J. Alonso, "The
complex-step derivative approximation", 2003, section 2.4). A step that is not 0 would underflow in
the tail of a σ, and reach back into the values, where it decides what a branch or a tie is.

Where a function has a kink or a tie, its slope is the one that lstmgen promises: relu'(0) = 0,
|x|'(0) = 0, jumps have slope 0, the largest of k equal ones have 1/k each, and x**p has slope 0 by
p where x = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr
from sympy.logic.boolalg import Xnor

from ..errors import LstmgenError
from ..language import symbols as language
from ..language.cell import Cell
from ..language.functions import FUNCTIONS, Elementwise, stop_gradient
from ..language.symbols import Product, Reduction, Vector, named

Array: TypeAlias = NDArray[Any]
Entity: TypeAlias = tuple[str, str]  # ("parameter" | "input" | "state", name): what has a gradient


class Dual(NamedTuple):
    """Values and their derivatives in K directions: (1, B, size), or with as many copies, and
    (K, B, size).
    """

    value: Array
    slope: Array


Number: TypeAlias = "Array | Dual"


def value_of(a: Number) -> Array:
    """Without derivatives."""
    return a.value if isinstance(a, Dual) else a


# --------------------------------------------------------------------------- arithmetic


def _power(x: Array, p: Array) -> Array:
    """x**p; roots and quotients as such, which are rounded once."""
    if p.size == 1:
        known: dict[float, Callable[[Array], Array]] = {
            0.5: np.sqrt,
            -0.5: lambda x: 1 / np.sqrt(x),
            -1.0: lambda x: 1 / x,
            2.0: np.square,
        }
        if function := known.get(float(p.item())):
            return np.asarray(function(x))
    return np.asarray(np.power(x, p))


def _power_slopes(x: Array, p: Array) -> list[Array]:
    by_base = np.where(p == 0, 0.0, p * _power(x, np.asarray(p - 1)))
    by_exponent = np.where(x == 0, 0.0, np.power(x, p) * np.log(np.where(x == 0, 1.0, x)))
    return [by_base, by_exponent]


_POWER = Elementwise(sympy.Pow, _power, _power_slopes)

# Linear in their operand, so that values and slopes are treated alike.
_LINEAR: dict[type, Callable[[Array], Array]] = {
    language.mean: lambda z: z.mean(axis=-1, keepdims=True),
    language.sum_: lambda z: z.sum(axis=-1, keepdims=True),
    language.cumsum: lambda z: np.cumsum(z, axis=-1),
    language.rcumsum: lambda z: np.cumsum(z[..., ::-1], axis=-1)[..., ::-1],
}


def _largest(z: Number) -> Number:
    """The largest unit; each of several equal ones has its share of the slope."""
    value = value_of(z)
    largest: Array = value.max(axis=-1, keepdims=True)
    if not isinstance(z, Dual):
        return largest
    hit = value == largest
    shares = np.where(hit, z.slope, 0).sum(axis=-1, keepdims=True)
    return Dual(largest, shares / hit.sum(axis=-1, keepdims=True))


def _dual(value: Array, slopes: Sequence[Array]) -> Number:
    """A value with the sum of ``slopes``, as wide as it is; without any it is the same for all."""
    if not slopes:
        return value
    total = reduce(np.add, slopes)
    width = np.broadcast_shapes(total.shape[-1:], value.shape[-1:])
    return Dual(value, np.broadcast_to(total, (*total.shape[:-1], *width)))


def _add(a: Number, b: Number) -> Number:
    value = value_of(a) + value_of(b)
    return _dual(value, [z.slope for z in (a, b) if isinstance(z, Dual)])


def _multiply(a: Number, b: Number) -> Number:
    value = value_of(a) * value_of(b)
    pairs = ((a, b), (b, a))
    slopes = [one.slope * value_of(other) for one, other in pairs if isinstance(one, Dual)]
    return _dual(value, slopes)


def _apply(function: Elementwise, arguments: Sequence[Number]) -> Number:
    values = [value_of(a) for a in arguments]
    value = np.asarray(function.value(*values))
    if not any(isinstance(a, Dual) for a in arguments):
        return value  # and no slopes need be known
    pairs = zip(function.slopes(*values), arguments, strict=True)
    return _dual(value, [slope * a.slope for slope, a in pairs if isinstance(a, Dual)])


def _product(u: Number, matrix: Number) -> Number:
    """Rows are samples: (W u)ᵀ = uᵀ Wᵀ, and here ``matrix`` is Wᵀ."""
    value = value_of(u) @ value_of(matrix)
    slopes = []
    if isinstance(u, Dual):
        slopes.append(u.slope @ value_of(matrix))
    if isinstance(matrix, Dual):
        slopes.append(value_of(u) @ matrix.slope)
    return _dual(value, slopes)


def _transpose(matrix: Number) -> Number:
    if isinstance(matrix, Dual):
        return Dual(np.swapaxes(matrix.value, -1, -2), np.swapaxes(matrix.slope, -1, -2))
    return np.swapaxes(matrix, -1, -2)


def _choose(condition: Array, a: Number, b: Number) -> Number:
    value = np.where(condition, value_of(a), value_of(b))
    if not (isinstance(a, Dual) or isinstance(b, Dual)):
        return value
    slopes = [z.slope if isinstance(z, Dual) else np.zeros((1, 1, 1)) for z in (a, b)]
    return Dual(value, np.where(condition, *slopes))


def widened(a: Number, size: int) -> Number:
    """A scalar as a vector of ``size`` equal units; any other as it is."""
    if isinstance(a, Dual):
        return Dual(*(np.broadcast_to(z, (*z.shape[:-1], size)) for z in a))
    return np.broadcast_to(a, (*a.shape[:-1], size))


# --------------------------------------------------------------------------- conditions

COMPARISONS: dict[type, Callable[[Array, Array], Array]] = {
    sympy.StrictLessThan: np.less,
    sympy.LessThan: np.less_equal,
    sympy.StrictGreaterThan: np.greater,
    sympy.GreaterThan: np.greater_equal,
    sympy.Equality: np.equal,
    sympy.Unequality: np.not_equal,
}

_ALL: Callable[..., Array] = lambda *c: reduce(np.logical_and, c)  # noqa: E731
_ANY: Callable[..., Array] = lambda *c: reduce(np.logical_or, c)  # noqa: E731
_ODD: Callable[..., Array] = lambda *c: reduce(np.logical_xor, c)  # noqa: E731

_CONNECTIVES: dict[type, Callable[..., Array]] = {
    sympy.Not: np.logical_not,
    sympy.And: _ALL,
    sympy.Or: _ANY,
    sympy.Xor: _ODD,
    sympy.Nand: lambda *c: ~_ALL(*c),
    sympy.Nor: lambda *c: ~_ANY(*c),
    Xnor: lambda *c: ~_ODD(*c),
    sympy.Implies: lambda a, b: ~a | b,
    sympy.Equivalent: lambda *c: _ALL(*c) | ~_ANY(*c),
    sympy.ITE: lambda c, a, b: (c & a) | (~c & b),
}


# --------------------------------------------------------------------------- a sequence


@dataclass
class Trace:
    """What an evaluation leaves behind.

    Attributes
    ----------
    outputs : list of arrays or Duals
        The output of each step, (K, B, size); K is 1 where the copies agree.
    states : list of dicts
        The states before the first step, after it, …: one more than there are steps.
    frozen : dict
        The values under ``stop_gradient``, by step and expression.
    """

    outputs: list[Any] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    frozen: dict[tuple[int, Expr], Array] = field(default_factory=dict)


class Shake(Protocol):
    """What stands in for the rounding of other programs."""

    def operand(self, a: Number) -> Number:
        """What an operation makes of ``a`` before it combines it with others."""

    def __call__(self, e: Expr, value: Number, operands: Sequence[Number]) -> Number:
        """What is made of the value of the node ``e``."""


class Evaluator:
    """The equations of a cell, evaluated as they stand, for K perturbed copies at once.

    Vectors are (K, B, size) and matrices (K, rows, columns), with 1 in place of K or B where the
    copies or the rows agree: NumPy's broadcasting does the rest.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def run(
        self,
        values: Mapping[Entity, Number],
        given: Mapping[str, Array],
        sizes: Mapping[str, int],
        frozen: Mapping[tuple[int, Expr], Array] | None = None,
        *,
        shake: Shake | None = None,
        after: Callable[[Walk], None] | None = None,
    ) -> Trace:
        """Evaluate a whole sequence.

        Parameters
        ----------
        values : mapping
            Parameters, inputs with a leading T, and initial states, each with its axis of copies.
            Where one is a Dual, what depends on it comes out as one.
        given : mapping
            Masks with a leading T, and constants.
        sizes : mapping
            Numbers for the symbolic sizes.
        frozen : mapping, optional
            What another evaluation found under ``stop_gradient``. It is used in place of what the
            perturbed values would give, so that differences are those of the cut function.
        shake : Shake, optional
            Moves the value of each node, and what goes into it.
        after : callable, optional
            Called with the walk of each step when the step is done.
        """
        cell, trace = self.cell, Trace()
        state = {s.name: values["state", s.name] for s in cell.states}
        trace.states.append(state)
        static: dict[Expr, Number] = {
            p: values["parameter", p.name] for p in cell.parameters if isinstance(p, Vector)
        }
        static.update({c: given[c.name] for c in cell.constants})
        matrices = {p.name: values["parameter", p.name] for p in cell.parameters}
        steps = len(value_of(values["input", cell.inputs[0].name]))
        for t in range(steps):
            memo = dict(static)
            memo.update({x: _at(values["input", x.name], t) for x in cell.inputs})
            memo.update({m: given[m.name][t] for m in cell.masks})
            memo.update({s: state[s.name] for s in cell.states})
            walk = Walk(matrices, memo, t, frozen, trace.frozen, shake)
            for equation in cell.equations:
                size = number(cell.size(equation.lhs), sizes)
                memo[equation.lhs] = widened(walk(equation.rhs), size)
            state = {s.name: memo[s.at(0)] for s in cell.states}
            trace.states.append(state)
            trace.outputs.append(memo[cell.output])
            if after:
                after(walk)
        return trace


def _at(a: Number, t: int) -> Number:
    return Dual(a.value[t], a.slope[t]) if isinstance(a, Dual) else a[t]


class Walk:
    """One step: the value of an expression, from the values of the vectors in ``memo``."""

    def __init__(
        self,
        matrices: Mapping[str, Any],
        memo: dict[Expr, Any],
        t: int,
        frozen: Mapping[tuple[int, Expr], Array] | None,
        record: dict[tuple[int, Expr], Array],
        shake: Shake | None = None,
    ) -> None:
        self.matrices, self.memo, self.t = matrices, memo, t
        self.frozen, self.record, self.shake = frozen, record, shake

    def __call__(self, e: Expr) -> Any:
        value = self.memo.get(e)
        if value is None:
            value = self.memo[e] = self._compute(e)
        return value

    def _compute(self, e: Expr) -> Number:
        if e.is_Number or e.is_NumberSymbol:
            return self._shaken(e, np.full((1, 1, 1), float(e)), ())
        if isinstance(e, Product):
            operands = self._operands(self(e.operand), self._matrix(e))
            return self._shaken(e, _product(operands[0], operands[1]), operands)
        if isinstance(e, named):
            return self(e.args[0])  # type: ignore[no-any-return]
        if isinstance(e, stop_gradient):
            key = (self.t, e)
            value = value_of(self(e.args[0])) if self.frozen is None else self.frozen[key]
            self.record[key] = value
            return value
        if isinstance(e, sympy.Piecewise):
            return self._piecewise(e)
        operands = self._operands(*map(self, e.args))
        return self._shaken(e, self._operate(e, operands), operands)

    def _operate(self, e: Expr, operands: Sequence[Number]) -> Number:
        if isinstance(e, sympy.Add):
            return reduce(_add, operands)
        if isinstance(e, sympy.Mul):
            return reduce(_multiply, operands)
        if isinstance(e, language.max_):
            return _largest(operands[0])
        if isinstance(e, Reduction) and e.func in _LINEAR:
            linear, z = _LINEAR[e.func], operands[0]
            return Dual(*map(linear, z)) if isinstance(z, Dual) else linear(z)
        function = _POWER if isinstance(e, sympy.Pow) else FUNCTIONS.get(e.func)
        if function is None:
            raise LstmgenError(
                f"the evaluation of equations does not know {e.func.__name__}, in {e}"
            )
        return _apply(function, operands)

    def _operands(self, *given: Number) -> Sequence[Number]:
        return given if self.shake is None else [self.shake.operand(a) for a in given]

    def _shaken(self, e: Expr, value: Number, operands: Sequence[Number]) -> Number:
        return value if self.shake is None else self.shake(e, value, operands)

    def _matrix(self, e: Product) -> Number:
        matrix: Number = self.matrices[e.matrix.name]
        return matrix if e.matrix.transposed else _transpose(matrix)

    def _piecewise(self, e: Expr) -> Number:
        value: Number = np.full((1, 1, 1), np.nan)
        for piece, condition in reversed(e.args):
            value = _choose(self.holds(condition), self(piece), value)
        return value

    def holds(self, condition: Any) -> Array:
        """Where a condition of SymPy's is true.

        Raises
        ------
        LstmgenError
            If it is, or is made of, anything but comparisons and connectives.
        """
        if condition in (sympy.true, sympy.false):
            return np.full((1, 1, 1), bool(condition))
        if condition.func in COMPARISONS:
            a, b = (value_of(self(arg)) for arg in condition.args)
            return COMPARISONS[condition.func](a, b)
        if condition.func in _CONNECTIVES:
            return _CONNECTIVES[condition.func](*map(self.holds, condition.args))
        raise LstmgenError(
            f"the evaluation of equations does not know the condition "
            f"{type(condition).__name__}, in {condition}"
        )


def number(size: Expr, sizes: Mapping[str, int]) -> int:
    """A symbolic size as a number."""
    return int(size) if size.is_Integer else sizes[size.name]
