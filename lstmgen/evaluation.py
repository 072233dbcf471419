"""Direct evaluation: a cell's equations as their author wrote them, with NumPy.

A walk over the SymPy trees, without normal form, plan, templates or generated text: the independent
path that verification judges by. It is written to be seen to be right, and vectorised over
perturbed copies, so that all perturbations of a parameter cost one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr

from . import symbols as language
from .cell import Cell
from .errors import LstmgenError
from .symbols import Product, Vector, named, stop_gradient

Array: TypeAlias = NDArray[Any]
Entity: TypeAlias = tuple[str, str]  # ("parameter" | "input" | "state", name): what has a gradient

# Functions with branches choose by the real part. A complex step then follows the branch that the
# values are on, and its imaginary part is the derivative there.


def _sigmoid(z: Array) -> Array:
    positive = z.real >= 0
    e = np.exp(np.where(positive, -z, z))  # never overflows
    return np.asarray(np.where(positive, 1.0, e) / (1 + e))


def _softplus(z: Array) -> Array:
    positive = z.real > 0
    return np.where(positive, z, 0) + np.log1p(np.exp(np.where(positive, -z, z)))


_real_erf = np.frompyfunc(math.erf, 1, 1)


def _erf(z: Array) -> Array:
    value = np.asarray(_real_erf(z.real), dtype=float)
    if not np.iscomplexobj(z):
        return value
    # To first order in the imaginary part, which for a step of 1e-30 is exact.
    return np.asarray(value + 1j * z.imag * (2 / math.sqrt(math.pi) * np.exp(-(z.real**2))))


def _expm1(z: Array) -> Array:
    value: Array = np.expm1(z.real)
    # To first order in the imaginary part, as with erf.
    return np.asarray(value + 1j * z.imag * np.exp(z.real)) if np.iscomplexobj(z) else value


def _heaviside(z: Array, at_zero: Array) -> Array:
    return np.where(z.real > 0, 1.0, np.where(z.real < 0, 0.0, at_zero))


def _larger(a: Array, b: Array) -> Array:
    return np.where(a.real >= b.real, a, b)


def _smaller(a: Array, b: Array) -> Array:
    return np.where(a.real <= b.real, a, b)


def _max(z: Array) -> Array:
    """The largest unit; each of several equal ones has its share of the derivative."""
    largest: Array = z.real.max(axis=-1, keepdims=True)
    if not np.iscomplexobj(z):
        return largest
    hit = z.real == largest
    shares = np.where(hit, z.imag, 0).sum(axis=-1, keepdims=True) / hit.sum(axis=-1, keepdims=True)
    return np.asarray(largest + 1j * shares)


_FUNCTIONS: dict[type, Callable[..., Array]] = {
    sympy.Add: lambda *a: reduce(np.add, a),
    sympy.Mul: lambda *a: reduce(np.multiply, a),
    sympy.Max: lambda *a: reduce(_larger, a),
    sympy.Min: lambda *a: reduce(_smaller, a),
    sympy.Abs: lambda z: np.where(z.real < 0, -z, z),
    sympy.sign: lambda z: np.sign(z.real),
    sympy.Heaviside: _heaviside,
    sympy.floor: lambda z: np.floor(z.real),
    sympy.ceiling: lambda z: np.ceil(z.real),
    sympy.Mod: lambda a, b: a - b * np.floor(a.real / b.real),
    sympy.exp: np.exp,
    sympy.log: np.log,
    sympy.sin: np.sin,
    sympy.cos: np.cos,
    sympy.tan: np.tan,
    sympy.asin: np.arcsin,
    sympy.acos: np.arccos,
    sympy.atan: np.arctan,
    sympy.sinh: np.sinh,
    sympy.cosh: np.cosh,
    sympy.tanh: np.tanh,
    sympy.asinh: np.arcsinh,
    sympy.acosh: np.arccosh,
    sympy.atanh: np.arctanh,
    sympy.erf: _erf,
    language.expm1: _expm1,
    language.sigmoid: _sigmoid,
    language.softplus: _softplus,
    language.relu: lambda z: np.where(z.real > 0, z, 0),
    language.step: lambda z: np.where(z.real > 0, 1.0, 0.0),
    language.rsqrt: lambda z: 1 / np.sqrt(z),
    language.equal: lambda a, b: np.where(a.real == b.real, 1.0, 0.0),
    language.mean: lambda z: z.mean(axis=-1, keepdims=True),
    language.sum_: lambda z: z.sum(axis=-1, keepdims=True),
    language.max_: _max,
    language.cumsum: lambda z: np.cumsum(z, axis=-1),
    language.rcumsum: lambda z: np.cumsum(z[..., ::-1], axis=-1)[..., ::-1],
}

_COMPARISONS: dict[type, Callable[[Array, Array], Array]] = {
    sympy.StrictLessThan: np.less,
    sympy.LessThan: np.less_equal,
    sympy.StrictGreaterThan: np.greater,
    sympy.GreaterThan: np.greater_equal,
    sympy.Equality: np.equal,
    sympy.Unequality: np.not_equal,
}


def _power(base: Array, exponent: Expr, value: Callable[[Expr], Array]) -> Array:
    if exponent.is_Integer:
        n = abs(int(exponent))
        result, square = np.ones(1), base
        while n:  # by squaring: no detour through a logarithm, for real and complex alike
            result = result * square if n & 1 else result
            square, n = square * square, n >> 1
        return np.asarray(1 / result) if exponent.is_negative else result
    if abs(exponent) == sympy.S.Half:
        root: Array = np.sqrt(base)
        return np.asarray(1 / root) if exponent.is_negative else root
    return np.asarray(np.power(base, value(exponent)))


@dataclass
class Trace:
    """What an evaluation leaves behind.

    Attributes
    ----------
    outputs : list of arrays
        The output of each step, (K, B, size); K is 1 where the copies agree.
    states : list of dicts
        The states before the first step, after it, …: one more than there are steps.
    frozen : dict
        The values under ``stop_gradient``, by step and expression.
    """

    outputs: list[Array] = field(default_factory=list)
    states: list[dict[str, Array]] = field(default_factory=list)
    frozen: dict[tuple[int, Expr], Array] = field(default_factory=dict)


class Evaluator:
    """The equations of a cell, evaluated as they stand, for K perturbed copies at once.

    Vectors are (K, B, size) and matrices (K, rows, columns), with 1 in place of K or B where the
    copies or the rows agree: NumPy's broadcasting does the rest.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def run(
        self,
        values: Mapping[Entity, Array],
        given: Mapping[str, Array],
        sizes: Mapping[str, int],
        frozen: Mapping[tuple[int, Expr], Array] | None = None,
    ) -> Trace:
        """Evaluate a whole sequence.

        Parameters
        ----------
        values : mapping
            Parameters, inputs with a leading T, and initial states, each with its axis of copies.
        given : mapping
            Masks with a leading T, and constants.
        sizes : mapping
            Numbers for the symbolic sizes.
        frozen : mapping, optional
            What another evaluation found under ``stop_gradient``. It is used in place of what the
            perturbed values would give, so that differences are those of the cut function.
        """
        cell, trace = self.cell, Trace()
        state = {s.name: values["state", s.name] for s in cell.states}
        trace.states.append(state)
        static: dict[Expr, Array] = {
            p: values["parameter", p.name] for p in cell.parameters if isinstance(p, Vector)
        }
        static.update({c: given[c.name] for c in cell.constants})
        matrices = {p.name: values["parameter", p.name] for p in cell.parameters}
        steps = len(values["input", cell.inputs[0].name])
        for t in range(steps):
            memo = dict(static)
            memo.update({x: values["input", x.name][t] for x in cell.inputs})
            memo.update({m: given[m.name][t] for m in cell.masks})
            memo.update({s: state[s.name] for s in cell.states})
            walk = Walk(matrices, memo, t, frozen, trace.frozen)
            for equation in cell.equations:
                value = walk(equation.rhs)
                size = number(cell.size(equation.lhs), sizes)
                memo[equation.lhs] = np.broadcast_to(value, (*value.shape[:-1], size))
            state = {s.name: memo[s.at(0)] for s in cell.states}
            trace.states.append(state)
            trace.outputs.append(memo[cell.output])
        return trace


class Walk:
    """One step: the value of an expression, from the values of the vectors in ``memo``."""

    def __init__(
        self,
        matrices: Mapping[str, Array],
        memo: dict[Expr, Array],
        t: int,
        frozen: Mapping[tuple[int, Expr], Array] | None,
        record: dict[tuple[int, Expr], Array],
    ) -> None:
        self.matrices, self.memo, self.t = matrices, memo, t
        self.frozen, self.record = frozen, record

    def __call__(self, e: Expr) -> Array:
        value = self.memo.get(e)
        if value is None:
            value = self.memo[e] = self._compute(e)
        return value

    def _compute(self, e: Expr) -> Array:
        if e.is_Number or e.is_NumberSymbol:
            return np.full((1, 1, 1), float(e))
        if isinstance(e, Product):
            matrix = self.matrices[e.matrix.name]
            if not e.matrix.transposed:
                matrix = np.swapaxes(matrix, -1, -2)
            return self(e.operand) @ matrix  # rows are samples: (W u)ᵀ = uᵀ Wᵀ
        if isinstance(e, named):
            return self(e.args[0])
        if isinstance(e, stop_gradient):
            key = (self.t, e)
            value = self(e.args[0]) if self.frozen is None else self.frozen[key]
            self.record[key] = value
            return value
        if isinstance(e, sympy.Pow):
            return _power(self(e.base), e.exp, self)
        if isinstance(e, sympy.Piecewise):
            return self._piecewise(e)
        if e.func not in _FUNCTIONS:
            raise LstmgenError(f"the evaluation of equations does not know {e.func.__name__}")
        return np.asarray(_FUNCTIONS[e.func](*map(self, e.args)))

    def _piecewise(self, e: Expr) -> Array:
        value: Array = np.full((1, 1, 1), np.nan)
        for piece, condition in reversed(e.args):
            value = np.where(self._holds(condition), self(piece), value)
        return value

    def _holds(self, condition: Any) -> Array:
        if condition in (sympy.true, sympy.false):
            return np.full((1, 1, 1), bool(condition))
        if condition.func in _COMPARISONS:
            a, b = map(self, condition.args)
            return _COMPARISONS[condition.func](a.real, b.real)
        if isinstance(condition, sympy.Not):
            return ~self._holds(condition.args[0])
        parts = [self._holds(arg) for arg in condition.args]
        return reduce(np.logical_and if isinstance(condition, sympy.And) else np.logical_or, parts)


def number(size: Expr, sizes: Mapping[str, int]) -> int:
    """A symbolic size as a number."""
    return int(size) if size.is_Integer else sizes[size.name]
