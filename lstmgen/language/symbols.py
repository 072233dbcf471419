"""The language that cells are written in: symbols that stand for vectors, and what acts on them.

Every symbol is a vector over units, and ordinary SymPy arithmetic on it is elementwise, so that
``sympy.diff``, ``subs`` and ``simplify`` work as they are. Units are mixed by two things only: the
matrix product ``W @ x``, and the reductions ``mean``, ``sum_``, ``max_`` and ``cumsum``.

A symbol carries its place in time. Within a step, ``h`` is the value that comes in, h[t-1], and
``h.next`` is the one that goes out, h[t]; all that a step computes is at t.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import sympy
from sympy import Expr, Symbol
from sympy.printing.precedence import PRECEDENCE

from ..errors import did_you_mean
from .misuse import Explained, Linear, bound, expression, short

__all__ = [
    "Family",
    "Matrix",
    "Size",
    "Vector",
    "biases",
    "constants",
    "cumsum",
    "inputs",
    "masks",
    "matrix",
    "max_",
    "mean",
    "named",
    "shift",
    "states",
    "sum_",
    "vector",
    "vectors",
    "weights",
]

# Categories of Vector. The first six are written by users; derivation and schedule add the others.
STATIC = frozenset({"parameter", "constant"})  # the same at every step: time does not touch them
GIVEN = frozenset({"input", "mask", "parameter", "constant"})  # never defined by an equation
ADJOINT = frozenset({"adjoint", "cotangent", "carry", "partial adjoint", "partial carry"})
# adjoint: ∂L/∂v in all; cotangent: the part that arrives from outside, at the output; carry: the
# part of a state's adjoint that arrives from step t+1.
_MARKS = {"adjoint": "δ", "cotangent": "Δ", "carry": "later δ"}


class Size(Symbol):
    """The number of units of a vector: D, H, P, …; also T (steps) and B (rows of a batch)."""

    def __new__(cls, name: str) -> Size:
        obj: Size = Symbol.__xnew__(cls, name, integer=True, positive=True)
        return obj

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.name,), {}


class Vector(Explained, Symbol):
    """A vector over units, one for each row of the batch: shape (B, size).

    Parameters
    ----------
    name : str
        As in the equations.
    category : str
        "input", "mask", "state", "vector", "parameter" or "constant".
    size : str
        The name of its size ("H"), a number ("1" is a scalar that broadcasts), or "" to have it
        inferred from the equations.
    time : int
        Steps away from t: a state that comes in is at -1. Parameters and constants have no time.
    value : float, optional
        A parameter's initial value, a constant's default.
    """

    category: str
    size: str
    time: int
    value: float | None

    def __new__(
        cls, name: str, category: str, size: str = "", time: int = 0, value: float | None = None
    ) -> Vector:
        obj: Vector = Symbol.__xnew__(cls, name, real=True)
        obj.category, obj.size, obj.time, obj.value = category, size, time, value
        return obj

    def _hashable_content(self) -> tuple[Any, ...]:
        content: tuple[Any, ...] = super()._hashable_content()
        return (*content, self.category, self.size, self.time, repr(self.value))

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self.category, self.size, self.time, self.value), {}

    @property
    def next(self) -> Vector:
        """The state that leaves the step: h[t], where the symbol itself is h[t-1]."""
        if self.category != "state" or self.time != -1:
            raise AttributeError("next")  # Explained says why
        return self.at(0)

    def at(self, time: int) -> Vector:
        """The same quantity at another time."""
        if not isinstance(time, int):
            raise TypeError(f"{self}.at({time}): a time is a whole number of steps, not {time!r}")
        if self.category in STATIC or time == self.time:
            return self
        return Vector(self.name, self.category, self.size, time, self.value)

    def _sympystr(self, printer: Any) -> str:
        if self.category == "state" and self.time in (-1, 0):
            return self.name if self.time else f"{self.name}.next"
        timed = "" if self.time == 0 or self.category in STATIC else f"[t{self.time:+d}]"
        return f"{_MARKS.get(self.category, '')}{self.name}{timed}"


class Operator(Linear):
    """What stands on the left of @: a matrix, and sums, products and multiples of matrices.

    They wait for their vector, and then are products of matrices alone: (U - U.T) @ h becomes
    U @ h - U.T @ h, and g * U @ h, which Python reads as (g * U) @ h, becomes g * (U @ h).
    """

    __slots__ = ()
    # SymPy's operators hand over to the operand of higher priority, which is how we see r * U.
    _op_priority = 20.0

    def of(self, operand: Expr) -> Expr:
        """The product with a vector."""
        raise NotImplementedError

    @property
    def leading(self) -> Matrix:
        """The first matrix in it."""
        found: Operator = next(a for a in self.args if isinstance(a, Operator))
        return found.leading

    @property
    def hint(self) -> str:
        """What to write where it has no vector."""
        return (
            f"a matrix product is written {bound(self)} @ x; learned vectors, for elementwise "
            'products, are declared with biases("b") or vector("v")'
        )

    @property
    def T(self) -> Any:
        """The transpose."""
        raise NotImplementedError

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, Operator):
            return _Chain(self, other)
        operand = expression(other, "{} @ {}", self, other)
        if operand.is_number:
            raise TypeError(
                f"{bound(self)} @ {short(other)}: a matrix product needs a vector. A multiple of a "
                f"matrix is {short(other)} * {bound(self)}"
            )
        return self.of(operand)

    def __rmatmul__(self, other: object) -> Any:
        raise TypeError(
            f"{bound(other)} @ {bound(self)}: the matrix comes first, "
            f"{bound(self)} @ {bound(other)}"
        )

    def __add__(self, other: Any) -> Any:
        if isinstance(other, int) and other == 0:  # where Python's sum starts
            return self
        if isinstance(other, Operator):
            return _Sum(self, other)
        return Misplaced("+", self, expression(other, "{} + {}", self, other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __neg__(self) -> Any:
        return _Scaled(sympy.S.NegativeOne, self)

    def __rmul__(self, other: Any) -> Any:
        return _Scaled(expression(other, "{} * {}", other, self), self)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Operator):
            raise TypeError(
                f"{bound(self)} * {bound(other)}: a product of matrices is written with @"
            )
        factor = expression(other, "{} * {}", self, other)
        if not _is_scalar(factor):
            return Misplaced("*", self, factor)
        return _Scaled(factor, self)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Operator):
            return self._no_function()
        return self * (1 / expression(other, "{} / {}", self, other))

    def _no_function(self, *_: object) -> Any:
        raise TypeError(
            f"{short(self)} is a matrix, which only stands on the left of @, as in "
            f"{bound(self)} @ x: no function, power, quotient or comparison acts on its entries"
        )

    __pow__ = __rpow__ = __rtruediv__ = __abs__ = __mod__ = __rmod__ = _no_function
    __floordiv__ = __rfloordiv__ = __gt__ = __ge__ = __lt__ = __le__ = _no_function

    def __getitem__(self, key: object) -> Any:
        raise TypeError(
            f"{short(self)} is a whole matrix, without parts that could be picked by [ ]. Declare "
            'each part as a matrix of its own, such as matrix("V", rows=4)'
        )

    def __call__(self, *args: object) -> Any:
        raise TypeError(f"{short(self)} is a matrix, not a function. Its product with a vector is "
                        f"{bound(self)} @ x")  # fmt: skip


class Matrix(Operator, Symbol):
    """A learned matrix of shape (rows, columns), used as ``W @ x``; ``W.T`` is its transpose."""

    rows: str
    columns: str
    transposed: bool

    def __new__(
        cls, name: str, rows: str = "", columns: str = "", transposed: bool = False
    ) -> Matrix:
        obj: Matrix = Symbol.__xnew__(cls, name, real=True)
        obj.rows, obj.columns, obj.transposed = rows, columns, transposed
        return obj

    def _hashable_content(self) -> tuple[Any, ...]:
        content: tuple[Any, ...] = super()._hashable_content()
        return (*content, self.rows, self.columns, int(self.transposed))

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self.rows, self.columns, self.transposed), {}

    @property
    def T(self) -> Matrix:
        """The transpose: the same parameter, used the other way round."""
        return Matrix(self.name, self.rows, self.columns, not self.transposed)

    @property
    def leading(self) -> Matrix:
        """The matrix itself."""
        return self

    def _eval_transpose(self) -> Matrix:
        return self.T  # SymPy's own would take a real symbol for a number

    _eval_adjoint = _eval_transpose

    @property
    def base(self) -> Matrix:
        """The parameter itself, not transposed."""
        return self.T if self.transposed else self

    def of(self, operand: Expr) -> Expr:
        return Product(self, operand)

    def _sympystr(self, printer: Any) -> str:
        return f"{self.name}.T" if self.transposed else str(self.name)


class _Scaled(Operator, Expr):
    """``r * U``: r * (U @ h)."""

    is_commutative = True

    def of(self, operand: Expr) -> Expr:
        factor, matrix = self.args
        return factor * matrix.of(operand)

    @property
    def T(self) -> Any:
        factor, matrix = self.args
        return matrix.T * factor

    def _sympystr(self, printer: Any) -> str:
        factor, matrix = self.args
        return f"{'-' if factor == -1 else f'{bound(factor)}*'}{bound(matrix)}"


class _Sum(Operator, Expr):
    """``U + V``: U @ h + V @ h."""

    def of(self, operand: Expr) -> Expr:
        left, right = self.args
        return left.of(operand) + right.of(operand)

    @property
    def T(self) -> Any:
        left, right = self.args
        return left.T + right.T

    def _sympystr(self, printer: Any) -> str:
        left, right = map(printer._print, self.args)
        return f"{left} - {right[1:]}" if right.startswith("-") else f"{left} + {right}"


class _Chain(Operator, Expr):
    """``U @ V``, a product of low rank: U @ (V @ x)."""

    def of(self, operand: Expr) -> Expr:
        left, right = self.args
        return left.of(right.of(operand))

    @property
    def T(self) -> Any:
        left, right = self.args
        return right.T @ left.T

    def _sympystr(self, printer: Any) -> str:
        return f"{bound(self.args[0])} @ {bound(self.args[1])}"


class Misplaced(Operator, Expr):
    """A matrix added to what is not one, or times a vector on its right: an error that a cell
    reports with the equation, and a product at once.
    """

    def __new__(cls, sign: str, matrix: Operator, other: Expr) -> Any:
        return Expr.__new__(cls, Symbol(sign), matrix, other)

    @property
    def hint(self) -> str:
        """What to write instead."""
        sign, matrix, other = self.args
        if sign.name == "*":
            return (
                f"a matrix product is {bound(matrix)} @ {bound(other)}. Python reads U*g @ h as "
                "(U*g) @ h: write U @ (g*h), or g*(U @ h)"
            )
        if isinstance(matrix, _Scaled):
            factor, matrix = matrix.args
            return f"write {bound(matrix)} @ {bound(factor)}, or {bound(factor)} * ({matrix} @ x)"
        return (
            f'write {bound(matrix)} @ x; a learned vector is b.i, with b = biases("b"); '
            "(U - 1) @ h, with 1 for the identity, is U @ h - h"
        )

    @property
    def T(self) -> Any:
        return self.of(self)

    def of(self, operand: Expr) -> Expr:
        raise TypeError(f"({self}) @ {bound(operand)}: {self} is not a matrix. Hint: {self.hint}")

    def _sympystr(self, printer: Any) -> str:
        sign, matrix, other = self.args
        return f"{bound(matrix)}{'*' if sign.name == '*' else ' + '}{bound(other)}"


def _is_scalar(e: Expr) -> bool:
    """Whether ``e`` is surely one number for a whole vector."""
    if isinstance(e, Vector):
        return e.size == "1"
    if isinstance(e, Reduction) and not isinstance(e, Scan):
        return True
    return not isinstance(e, Product) and all(map(_is_scalar, e.args))


class Family:
    """Parameters that share a letter: ``W.i`` and ``W["i"]`` are the member W_i."""

    def __init__(self, prefix: str, make: Callable[[str], Any]) -> None:
        self._prefix, self._make = prefix, make

    def __getattr__(self, member: str) -> Any:
        if member.startswith("_"):
            raise AttributeError(member)
        if member == "T":
            raise AttributeError(
                f"{self} is a family of parameters: {self}.i.T is the transpose of its member "
                f'{self}_i, and a member called T is {self}["T"]'
            )
        return self[member]

    def __getitem__(self, member: str | int | Symbol) -> Any:
        if not isinstance(member, (str, int, Symbol)):
            raise TypeError(
                f"{self}[{short(member)}]: a member of the family {self} has a name, as in "
                f'{self}.i or {self}["i"]; entries of a parameter cannot be picked'
            )
        return self._make(f"{self._prefix}_{member}")

    def __repr__(self) -> str:
        return self._prefix

    def _misused(self, *others: object) -> Any:
        several = any(isinstance(other, (list, tuple)) for other in others)
        raise TypeError(
            f"{self} is a family of parameters; name one member of it, such as {self}.i"
            + ("; of two vectors, each has its own: W.x @ x + W.h @ h" if several else "")
        )

    __matmul__ = __rmatmul__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = (
        _misused
    )
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = __abs__ = __call__ = _misused
    __gt__ = __ge__ = __lt__ = __le__ = __float__ = __bool__ = __len__ = __iter__ = _misused
    _sympy_ = _misused  # what SymPy asks for: tanh(W)

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        self._misused()


# --------------------------------------------------------------------------- declarations

_S = TypeVar("_S")
_P = ParamSpec("_P")
_R = TypeVar("_R")

# What a keyword of another library is here, by what is declared.
_SIZE = 'size="P" gives the number of units'
_SIDES = 'rows="H", columns="D" give the shape'
_START = (
    "learned vectors start at init=…, constants have value=…; the state that a sequence starts "
    "from is an argument of forward"
)
_KEYWORDS = {
    **dict.fromkeys(("shape", "dim", "units", "size", "width", "length", "hidden_size"), "shape"),
    **dict.fromkeys(("init", "value", "initial", "default", "start", "mean", "std"), "start"),
}


def _declares(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Answer a keyword that ``function`` does not take by those that it does."""
    known = list(inspect.signature(function).parameters)
    size = _SIZE if "size" in known else _SIDES if "rows" in known else "they are scalars"
    hints = {"shape": size, "start": _START}

    @functools.wraps(function)
    def checked(*args: _P.args, **keywords: _P.kwargs) -> _R:
        for word in keywords:
            if word not in known:
                why = hints.get(_KEYWORDS.get(word, "")) or did_you_mean(word, known)
                why = why or f"it takes {' and '.join(known)}"
                raise TypeError(f"{function.__name__} takes no {word}=: {why}")
        return function(*args, **keywords)

    return checked


def _declare(names: str, make: Callable[[str], Any]) -> Any:
    if not isinstance(names, str):
        raise TypeError(
            f'names are given in one string, separated by spaces, as in "h c", not as '
            f"{short(repr(names))}"
        )
    parts = names.replace(",", " ").split()
    if not parts:
        raise ValueError('give at least one name, as in "h"')
    made = tuple(make(name) for name in parts)
    return made[0] if len(made) == 1 else made


def _size(size: str | int) -> str:
    """A size as it was declared; "" is open."""
    text = str(size)
    is_name = isinstance(size, str) and (not size or size.isidentifier())
    is_number = text.isdecimal() and text.isascii() and int(text) > 0
    if not (is_name or (is_number and not isinstance(size, bool))):
        raise ValueError(f"a size is a name or a positive number, not {short(repr(size))}")
    return str(int(text)) if is_number else text


def finite(value: Any, what: str) -> float:
    """``value`` as a finite number; ``what`` says what it is.

    Raises
    ------
    ValueError
        If it is not a finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise ValueError(f"{what} is one finite number, not {short(repr(value))}")
    return number


@_declares
def inputs(names: str, size: str | int = "D") -> Any:
    """Inputs of every step; one name gives one symbol, several a tuple. Arrays: (T, B, size)."""
    size = _size(size)
    return _declare(names, lambda n: Vector(n, "input", size))


@_declares
def states(names: str, size: str | int = "H") -> Any:
    """States: ``h`` comes into the step, ``h.next`` leaves it. Arrays: (B, size)."""
    size = _size(size)
    return _declare(names, lambda n: Vector(n, "state", size, -1))


@_declares
def vectors(names: str, size: str | int = "H") -> Any:
    """What a step computes: gates, candidates, … ``size=1`` is a scalar that broadcasts."""
    size = _size(size)
    return _declare(names, lambda n: Vector(n, "vector", size))


@_declares
def masks(names: str, size: str | int = "") -> Any:
    """Inputs that no gradient flows into: dropout, zoneout, padding. Arrays: (T, B, size)."""
    size = _size(size)
    return _declare(names, lambda n: Vector(n, "mask", size))


@_declares
def constants(names: str, value: float | None = None) -> Any:
    """Scalar hyper-parameters, such as a time step. ``value`` is what ``init`` gives them."""
    value = None if value is None else finite(value, f"the value of {names}")
    return _declare(names, lambda n: Vector(n, "constant", "1", 0, value))


@_declares
def weights(names: str, rows: str | int = "", columns: str | int = "") -> Any:
    """A family of matrices: ``W.i`` is W_i. Shapes are inferred unless they are given."""
    shape = _size(rows), _size(columns)
    return _declare(names, lambda name: Family(name, lambda member: Matrix(member, *shape)))


@_declares
def biases(names: str, size: str | int = "", init: float = 0.0) -> Any:
    """A family of learned vectors: biases, peepholes, gains. They start at ``init``."""
    about = _size(size), 0, finite(init, f"init of {names}")
    return _declare(names, lambda n: Family(n, lambda m: Vector(m, "parameter", *about)))


@_declares
def matrix(names: str, rows: str | int = "", columns: str | int = "") -> Any:
    """One learned matrix, used as ``V @ h``."""
    shape = _size(rows), _size(columns)
    return _declare(names, lambda n: Matrix(n, *shape))


@_declares
def vector(names: str, size: str | int = "", init: float = 0.0) -> Any:
    """One learned vector; ``size=1`` is a learned scalar. It starts at ``init``."""
    about = _size(size), 0, finite(init, f"init of {names}")
    return _declare(names, lambda n: Vector(n, "parameter", *about))


def shift(expr: _S, steps: int) -> _S:
    """``expr`` moved in time: every quantity that has a time is taken ``steps`` later."""
    atoms = expr.atoms(Vector)  # type: ignore[attr-defined]
    return expr.xreplace({v: v.at(v.time + steps) for v in atoms})  # type: ignore[attr-defined,no-any-return]


def plain_conditions(e: Expr) -> Expr:
    """Conditions of relations, And, Or and Not alone: what every target has."""
    return e.replace(
        lambda n: isinstance(n, (sympy.Xor, sympy.Implies, sympy.Equivalent, sympy.ITE)),
        lambda n: sympy.to_nnf(n, simplify=False),
    )


# --------------------------------------------------------------------------- functions


class Function(Explained, sympy.Function):
    """Base of the functions of the language."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        given = [expression(a, "{}({})", cls.__name__, a) for a in args]
        return super().__new__(cls, *given, **options)


class Product(Function):
    """``W @ x``: the only thing that leads from one size to another."""

    nargs = 2
    precedence = PRECEDENCE["Mul"] - 1  # so that SymPy writes tanh(h)*(W @ x)
    is_real = True

    @property
    def matrix(self) -> Matrix:
        return self.args[0]  # type: ignore[no-any-return]

    @property
    def operand(self) -> Expr:
        return self.args[1]

    def _sympystr(self, printer: Any) -> str:
        operand = printer._print(self.operand)
        return f"{self.matrix} @ {operand if self.operand.is_Atom else f'({operand})'}"


class Outer(Function):
    """a xᵀ: what a step contributes to the gradient of a matrix."""

    nargs = 2
    is_real = True


class Total(Function):
    """The sum over all steps and all rows of the batch."""

    nargs = 1
    is_real = True


class Gradient(Function):
    """∂L/∂p of a parameter, an input, or an initial state."""

    nargs = 1
    is_real = True


class Reduction(Function):
    """Base of what looks across the units of one vector."""

    nargs = 1
    is_real = True


class mean(Reduction):
    """The mean over units: a scalar for each row, which broadcasts."""


class sum_(Reduction):
    """The sum over units: a scalar for each row, which broadcasts."""

    def _sympystr(self, printer: Any) -> str:
        return f"sum({printer._print(self.args[0])})"


class max_(Reduction):
    """The largest unit: a scalar for each row. Its gradient is shared equally among ties."""

    def _sympystr(self, printer: Any) -> str:
        return f"max({printer._print(self.args[0])})"


class Scan(Reduction):
    """A reduction that keeps its partial results: as many units out as in."""


class cumsum(Scan):
    """The running sum over units, from the first to the last."""


class rcumsum(Scan):
    """The running sum over units, from the last to the first: the adjoint of ``cumsum``."""


class named(Function):
    """The identity, but kept together: ``named(e)`` is computed once and has a name of its own.

    SymPy flattens sums, so that ``a - mean(a)`` hides ``a`` where ``a`` is a sum. A second
    argument, a string, begins the name.
    """

    nargs = (1, 2)
    is_real = True

    def __new__(cls, value: Any, name: str = "") -> Any:
        value = expression(value, "named({})", value)
        if value.is_Atom:
            return value
        return super().__new__(cls, value, *([Symbol(str(name))] if name else []))

    @property
    def name_hint(self) -> str:
        return str(self.args[1]) if len(self.args) > 1 else ""

    def _sympystr(self, printer: Any) -> str:
        return f"({printer._print(self.args[0])})"
