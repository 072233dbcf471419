"""Direct evaluation: a cell's equations as their author wrote them, with NumPy.

A walk over the SymPy trees, without normal form, plan, templates or generated text: the independent
path that verification judges by. It is written to be seen to be right, and vectorised over
perturbed copies, so that all perturbations of a parameter cost one pass.

Derivatives go through the same walk, as a part of the numbers (``arithmetic``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Any, Protocol, TypeAlias

import numpy as np
import sympy
from sympy import Expr
from sympy.logic.boolalg import Xnor

from ..errors import LstmgenError
from ..language import symbols as language
from ..language.cell import Cell
from ..language.functions import FUNCTIONS, stop_gradient
from ..language.matrices import Matrix
from ..language.sizes import Size
from ..language.symbols import (
    Concat,
    Contract,
    Expand,
    Part,
    Product,
    Reduction,
    Transpose,
    Vector,
    View,
    named,
)
from .arithmetic import (
    POWER,
    Along,
    Array,
    Dual,
    Number,
    Pairing,
    add,
    aligned,
    apply,
    by_letters,
    choose,
    each,
    joined,
    largest_unit,
    multiply,
    paired,
    reduced,
    value_of,
    widened,
)

Entity: TypeAlias = tuple[str, str]  # ("parameter" | "input" | "state", name): what has a gradient


# --------------------------------------------------------------------------- contractions


def _of_rows(u: Array, matrix: Array) -> Array:
    """Rows are samples: (W u)ᵀ = uᵀ Wᵀ. The matrix has an axis of 1 for rows, too."""
    return np.asarray(u @ np.swapaxes(matrix[:, 0], -1, -2))


def _pairing(e: Product | Contract, left: Array, right: Array) -> Pairing:
    """How the operands of ``e`` are put together: those of a product are the vector, the matrix."""
    if isinstance(e, Contract):
        return by_letters(e.args[2].name)
    axes, heads = right.ndim - 2, left.ndim - 3
    if isinstance(e.matrix, Matrix) and e.matrix.merged:  # which is not transposed before
        letters = "abcdefgh"[: axes - 1]
        mine, out = (letters, "j") if e.matrix.transposed else ("j", letters)
        return by_letters(f"{mine},{letters}j->{out}")
    if axes == 2 and heads == 0:
        return _of_rows
    front = "abcdefgh"[: max(axes - 2, heads)]  # the heads, of the vector or of the matrix or both
    of_vector = front[:heads] + "j"
    of_matrix = "ij" if axes == 2 else f"{front[: axes - 2]}ij"
    return by_letters(f"{of_vector},{of_matrix}->{front}i")


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
    outputs : list of dicts
        The outputs of each step, arrays or Duals, (K, B, *shape); K is 1 where the copies agree.
    states : list of dicts
        The states before the first step, after it, …: one more than there are steps.
    frozen : dict
        The values under ``stop_gradient``, by step and expression; of a network also by where.
    """

    outputs: list[dict[str, Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    frozen: dict[Any, Any] = field(default_factory=dict)


class Shake(Protocol):
    """What stands in for the rounding of other programs."""

    def operand(self, a: Number) -> Number:
        """What an operation makes of ``a`` before it combines it with others."""

    def __call__(
        self,
        e: Expr,
        value: Number,
        operands: Sequence[Number],
        pairing: Pairing | None = None,
    ) -> Number:
        """What is made of the value of the node ``e``; of a contraction, also how it is made."""


class Evaluator:
    """The equations of a cell, evaluated as they stand, for K perturbed copies at once.

    A quantity is (K, B, *shape), with 1 in place of K or B where the copies or the rows agree, as
    they do for parameters: NumPy's broadcasting does the rest.
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
        after: Callable[[Walk, Cell], None] | None = None,
    ) -> Trace:
        """Evaluate a whole sequence.

        Parameters
        ----------
        values : mapping
            Parameters (K, 1, *shape), inputs (T, K, B, *shape), initial states (K, B, *shape).
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
            Called with the walk of each step when the step is done, and the cell.
        """
        cell, trace = self.cell, Trace()
        state = {s.name: values["state", s.name] for s in cell.states}
        trace.states.append(state)
        static: dict[Expr, Any] = {p: values["parameter", p.name] for p in cell.parameters}
        static.update({c: given[c.name] for c in cell.constants})
        walk = Walk(static, 0, frozen, trace.frozen, shake, sizes)
        for equation in cell.equations:
            if isinstance(equation.lhs, Matrix):
                static[equation.lhs] = walk(equation.rhs)
        steps = len(value_of(values["input", cell.inputs[0].name]))
        for t in range(steps):
            memo = dict(static)
            memo.update({x: _at(values["input", x.name], t) for x in cell.inputs})
            memo.update({m: given[m.name][t] for m in cell.masks})
            memo.update({s: state[s.name] for s in cell.states})
            walk = Walk(memo, t, frozen, trace.frozen, shake, sizes)
            for equation in cell.equations:
                if isinstance(equation.lhs, Vector):
                    shape = tuple(number(n, sizes) for n in cell.shape(equation.lhs))
                    memo[equation.lhs] = widened(walk(equation.rhs), shape)
            state = {s.name: memo[s.at(0)] for s in cell.states}
            trace.states.append(state)
            trace.outputs.append({v.name: memo[v] for v in cell.outputs})
            if after:
                after(walk, cell)
        return trace


def _at(a: Number, t: int) -> Number:
    return Dual(a.value[t], a.slope[t]) if isinstance(a, Dual) else a[t]


class Walk:
    """One step: the value of an expression, from the values of the symbols in ``memo``."""

    def __init__(
        self,
        memo: dict[Expr, Any],
        t: int,
        frozen: Mapping[tuple[int, Expr], Array] | None,
        record: dict[tuple[int, Expr], Array],
        shake: Shake | None,
        sizes: Mapping[str, int],
    ) -> None:
        self.memo, self.t, self.sizes = memo, t, sizes
        self.frozen, self.record, self.shake = frozen, record, shake
        self._values: dict[Node, Any] = {}

    def __call__(self, e: Expr) -> Any:
        return self.value(node(e))

    def value(self, of: Node) -> Any:
        """The value of a node, which is computed once."""
        value = self._values.get(of)
        if value is None:
            known = self.memo.get(of.e)
            value = self._values[of] = of.compute(self) if known is None else known
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
            a, b = map(value_of, aligned(*map(self, condition.args)))
            return COMPARISONS[condition.func](a, b)
        if condition.func in _CONNECTIVES:
            parts = map(value_of, aligned(*map(self.holds, condition.args)))
            return _CONNECTIVES[condition.func](*parts)
        raise LstmgenError(
            f"the evaluation of equations does not know the condition "
            f"{type(condition).__name__}, in {condition}"
        )


# --------------------------------------------------------------------------- expressions


class Node:
    """An expression and what computes it: found out once, since every step and every perturbation
    asks for it.
    """

    __slots__ = ("compute", "e")

    def __init__(self, e: Expr) -> None:
        self.e = e
        self.compute: Callable[[Walk], Number] = _computing(e)


@lru_cache(maxsize=1 << 14)
def node(e: Expr) -> Node:
    """The node of an expression; equal ones have the same."""
    return Node(e)


def _computing(e: Expr) -> Callable[[Walk], Number]:
    """What computes the value of ``e`` in a walk."""
    if isinstance(e, Matrix):
        return _matrix(e)
    if isinstance(e, Size):
        return lambda walk: np.full((1, 1, 1), float(number(e, walk.sizes)))
    if isinstance(e, (Product, Contract)):
        return _contracted(e)
    if isinstance(e, (View, Concat)):
        return _rearranged(e)
    if isinstance(e, Reduction):
        return _made_of([node(e.args[0])], e, lambda given: _reduced(e, given[0]))
    if isinstance(e, named):
        inner = node(e.args[0])
        return lambda walk: walk.value(inner)
    if isinstance(e, stop_gradient):
        return _cut(e)
    if isinstance(e, sympy.Piecewise):
        return _piecewise(e)
    if e.is_Number or e.is_NumberSymbol:
        constant = np.full((1, 1, 1), float(e))
        return _made_of([], e, lambda given: constant)
    return _made_of([node(a) for a in e.args], e, _operation(e))


def _made_of(
    parts: Sequence[Node], e: Expr, operation: Callable[[Sequence[Number]], Number]
) -> Callable[[Walk], Number]:
    """What computes the parts, and then ``e`` of them."""

    def compute(walk: Walk) -> Number:
        operands = [walk.value(part) for part in parts]
        shake = walk.shake
        if shake is None:
            return operation(operands)
        operands = [shake.operand(a) for a in operands]
        return shake(e, operation(operands), operands)

    return compute


def _operation(e: Expr) -> Callable[[Sequence[Number]], Number]:
    if isinstance(e, sympy.Add):
        return lambda operands: reduce(add, operands)
    if isinstance(e, sympy.Mul):
        return lambda operands: reduce(multiply, operands)
    function = POWER if isinstance(e, sympy.Pow) else FUNCTIONS.get(e.func)
    if function is None:
        return _unknown(e)
    return lambda operands: apply(function, operands)


def _unknown(e: Expr) -> Callable[[Any], Number]:
    def fail(_: object) -> Number:
        raise LstmgenError(f"the evaluation of equations does not know {e.func.__name__}, in {e}")

    return fail


def _matrix(e: Matrix) -> Callable[[Walk], Number]:
    if e.merged or not e.transposed:
        return lambda walk: walk.memo[e.base]
    return lambda walk: each(walk.memo[e.base], lambda a: np.swapaxes(a, -1, -2))


def _reduced(e: Reduction, z: Number) -> Number:
    along = Along.of(e)
    if isinstance(e, language.max_):
        return largest_unit(z, along)
    return each(z, lambda a: reduced(e, a))


def _contracted(e: Product | Contract) -> Callable[[Walk], Number]:
    pair = (e.operand, e.matrix) if isinstance(e, Product) else e.args[:2]
    parts = [node(p) for p in pair]

    def compute(walk: Walk) -> Number:
        operands: Sequence[Number] = [walk.value(part) for part in parts]
        shake = walk.shake
        if shake is not None:
            operands = [shake.operand(a) for a in operands]
        pairing = _pairing(e, *map(value_of, operands))
        value = paired(pairing, *operands)
        return value if shake is None else shake(e, value, operands, pairing)

    return compute


def _rearranged(e: View | Concat) -> Callable[[Walk], Number]:
    if isinstance(e, Concat):
        parts = [node(a) for a in e.args]
        return lambda walk: joined([walk.value(part) for part in parts])
    inner = node(e.operand)
    return lambda walk: each(walk.value(inner), _view(e, walk.sizes))


def _view(e: View, numbers: Mapping[str, int]) -> Callable[[Array], Array]:
    if isinstance(e, Transpose):
        return lambda a: np.swapaxes(a, -1, -2)
    if isinstance(e, Part):
        sizes = [number(n, numbers) for n in e.sizes]
        start = sum(sizes[: e.number])
        return lambda a: a[..., start : start + sizes[e.number]]
    shape = tuple(number(n, numbers) for n in e.args[1])
    if isinstance(e, Expand):
        ones = [n if k in e.places else 1 for k, n in enumerate(shape)]
        return lambda a: np.broadcast_to(a.reshape(*a.shape[:2], *ones), (*a.shape[:2], *shape))
    return lambda a: a.reshape(*a.shape[:2], *shape)


def _cut(e: Expr) -> Callable[[Walk], Number]:
    inner = node(e.args[0])

    def compute(walk: Walk) -> Number:
        key = (walk.t, e)
        value = value_of(walk.value(inner)) if walk.frozen is None else walk.frozen[key]
        walk.record[key] = value
        return value

    return compute


def _piecewise(e: Expr) -> Callable[[Walk], Number]:
    pieces = [(node(piece), condition) for piece, condition in reversed(e.args)]

    def compute(walk: Walk) -> Number:
        value: Number = np.full((1, 1, 1), np.nan)
        for piece, condition in pieces:
            value = choose(walk.holds(condition), walk.value(piece), value)
        return value

    return compute


def number(size: Expr, sizes: Mapping[str, int]) -> int:
    """A symbolic size, a sum or product of names, as a number."""
    if size.is_Symbol:
        return sizes[size.name]
    return int(size.xreplace({n: sympy.Integer(sizes[n.name]) for n in size.free_symbols}))
