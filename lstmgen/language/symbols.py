"""The language that cells are written in: symbols that stand for vectors, and what acts on them.

Every symbol has a shape, a tuple of axes: one axis of units for nearly all, more for a matrix
memory or for heads. Ordinary SymPy arithmetic on it is elementwise, so that ``sympy.diff``,
``subs`` and ``simplify`` work as they are. Units are mixed by three things only: contractions
(``W @ x``, ``C @ q``, ``outer(v, k)``), the reductions ``mean``, ``sum_``, ``max_`` and ``cumsum``
along one axis, and views, which rearrange (``expand``, ``split``, ``concat``, ``chunk``,
``flatten``).

A symbol carries its place in time. Within a step, ``h`` is the value that comes in, h[t-1], and
``h.next`` is the one that goes out, h[t]; all that a step computes is at t.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import sympy
from sympy import Expr, Symbol
from sympy.core.symbol import Str
from sympy.printing.precedence import PRECEDENCE

from ..errors import did_you_mean
from .initial import Start, start
from .misuse import Explained, Linear, bound, expression, finite, no_matrix, short

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
# The same at every step: time does not touch them. What is derived is made of the others.
STATIC = frozenset({"parameter", "constant", "derived"})
GIVEN = frozenset(
    {"input", "mask", "parameter", "constant", "derived"}
)  # never defined by an equation
ADJOINT = frozenset({"adjoint", "cotangent", "carry", "partial adjoint", "partial carry"})
# adjoint: ∂L/∂v in all; cotangent: the part that arrives from outside, at the output; carry: the
# part of a state's adjoint that arrives from step t+1. What is gathered is the sum over all steps.
_MARKS = {"adjoint": "δ", "cotangent": "Δ", "carry": "later δ", "gathered": "Σδ"}


class Size(Symbol):
    """The number of units of a vector: D, H, P, …; also T (steps) and B (rows of a batch)."""

    def __new__(cls, name: str) -> Size:
        obj: Size = Symbol.__xnew__(cls, name, integer=True, positive=True)
        return obj

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.name,), {}


class Quantity(Explained):
    """Base of what has values that move: it may be contracted with another one by @."""

    __slots__ = ()

    @staticmethod
    def _contracted(left: Any, right: Any) -> Any:
        """``left @ right`` where ``left`` is not a learned matrix but, say, a matrix memory."""
        if not isinstance(left, Expr) or not _may_be_matrix(left):
            raise no_matrix(left, right)
        right = expression(right, "{} @ {}", left, right)
        is_static = left.has(Matrix) and all(v.category in STATIC for v in left.atoms(Vector))
        return Product(left, right) if is_static else Contract(left, right, "@")


class Vector(Quantity, Symbol):
    """A quantity of every row of the batch: a vector over units, or with more axes, (B, *shape).

    Parameters
    ----------
    name : str
        As in the equations.
    category : str
        "input", "mask", "state", "vector", "parameter" or "constant".
    shape : str or tuple of str
        For each axis the name of its size ("H"), a number, a sum or product of these ("N*P"), or
        "" to have it inferred from the equations. A string is short for one axis; "1" is a scalar,
        which broadcasts.
    time : int
        Steps away from t: a state that comes in is at -1. Parameters and constants have no time.
    value : float or Initial, optional
        How a parameter starts, a state if none is given; a constant's default.
    """

    category: str
    axes: tuple[str, ...]
    time: int
    value: Start | None

    def __new__(
        cls,
        name: str,
        category: str,
        shape: str | tuple[str, ...] = "",
        time: int = 0,
        value: Start | None = None,
    ) -> Vector:
        obj: Vector = Symbol.__xnew__(cls, name, real=True)
        obj.axes = (shape,) if isinstance(shape, str) else tuple(shape)
        obj.category, obj.time, obj.value = category, time, value
        return obj

    def _hashable_content(self) -> tuple[Any, ...]:
        content: tuple[Any, ...] = super()._hashable_content()
        return (*content, self.category, self.axes, self.time, repr(self.value))

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self.category, self.axes, self.time, self.value), {}

    @property
    def is_single(self) -> bool:
        """Whether it was declared to be one number, which broadcasts."""
        return self.axes == ("1",)

    @property
    def next(self) -> Vector:
        """The state that leaves the step: h[t], where the symbol itself is h[t-1]."""
        if self.category != "state" or self.time != -1:
            raise AttributeError("next")  # Explained says why
        return self.at(0)

    @property
    def T(self) -> Any:
        """The transpose of a matrix memory: its last two axes exchanged."""
        if len(self.axes) < 2:
            raise AttributeError("T")  # Explained says why
        return Transpose(self)

    def at(self, time: int) -> Vector:
        """The same quantity at another time."""
        if not isinstance(time, int):
            raise TypeError(f"{self}.at({time}): a time is a whole number of steps, not {time!r}")
        if self.category in STATIC or time == self.time:
            return self
        return Vector(self.name, self.category, self.axes, time, self.value)

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
        if isinstance(other, Operator):  # entry by entry, as of a weight and its mask
            return sympy.Mul(entries(self), entries(other))
        factor = expression(other, "{} * {}", self, other)
        if not _is_scalar(factor):
            return Misplaced("*", self, factor)
        return _Scaled(factor, self)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Operator):
            return sympy.Mul(entries(self), sympy.Pow(entries(other), -1))
        return self * (1 / expression(other, "{} / {}", self, other))

    def __pow__(self, other: Any) -> Any:
        return sympy.Pow(entries(self), expression(other, "{}**{}", self, other))

    def __rtruediv__(self, other: Any) -> Any:
        return expression(other, "{} / {}", other, self) * sympy.Pow(entries(self), -1)

    def __abs__(self) -> Any:
        return sympy.Abs(entries(self))

    def _no_function(self, *_: object) -> Any:
        raise TypeError(
            f"{short(self)} is a matrix, which only stands on the left of @, as in "
            f"{bound(self)} @ x: no comparison or remainder acts on its entries"
        )

    __rpow__ = __mod__ = __rmod__ = _no_function
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
    """A learned matrix of shape (rows, columns), used as ``W @ x``; ``W.T`` is its transpose.

    Axes before these are heads, with a matrix each: of shape ("N", "P", "Q") it takes (N, Q) to
    (N, P), and one vector (Q,) for all heads to (N, P), too.
    """

    axes: tuple[str, ...]
    transposed: bool
    value: Start | None  # how it starts; None is Glorot's distribution
    merged: bool  # the normal form's: heads and rows as one axis, for a vector without heads

    def __new__(
        cls,
        name: str,
        rows: str = "",
        columns: str = "",
        transposed: bool = False,
        heads: tuple[str, ...] = (),
        merged: bool = False,
        value: Start | None = None,
    ) -> Matrix:
        obj: Matrix = Symbol.__xnew__(cls, name, real=True)
        obj.axes, obj.transposed, obj.merged = (*heads, rows, columns), transposed, merged
        obj.value = value
        return obj

    def _hashable_content(self) -> tuple[Any, ...]:
        content: tuple[Any, ...] = super()._hashable_content()
        return (*content, self.axes, int(self.transposed), int(self.merged), repr(self.value))

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        about = (self.transposed, self.axes[:-2], self.merged, self.value)
        return (self.name, *self.axes[-2:], *about), {}

    def _viewed(self, transposed: bool, merged: bool) -> Matrix:
        *heads, rows, columns = self.axes
        return Matrix(self.name, rows, columns, transposed, tuple(heads), merged, self.value)

    @property
    def T(self) -> Matrix:
        """The transpose: the same parameter, used the other way round."""
        return self._viewed(not self.transposed, self.merged)

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
        return self._viewed(False, False)

    def like(self, other: Matrix) -> Matrix:
        """Transposed and merged as the other one is."""
        return self._viewed(other.transposed, other.merged)

    def merge(self) -> Matrix:
        """Heads and rows as one axis: (N, P, D) takes (D,) to (N, P), and so back."""
        return self._viewed(self.transposed, True)

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


def entries(e: Expr) -> Expr:
    """What a matrix, or what is made of matrices, is entry by entry.

    Products of matrices are contractions: they are not arithmetic on entries.
    """
    if isinstance(e, Misplaced) or not e.has(_Scaled, _Sum, _Chain):
        return e
    # matrices have arithmetic of their own, which plain symbols in their place have not
    plain = {m: sympy.Dummy(str(m), real=True) for m in e.atoms(Matrix)}
    return _of_entries(e.xreplace(plain)).xreplace({d: m for m, d in plain.items()})


def _of_entries(e: Expr) -> Expr:
    if isinstance(e, _Sum):
        return sympy.Add(*map(_of_entries, e.args))
    if isinstance(e, _Scaled):
        return sympy.Mul(*map(_of_entries, e.args))
    if isinstance(e, _Chain):
        left, right = map(_of_entries, e.args)
        return Contract(left, right, "@")
    return e.func(*map(_of_entries, e.args)) if e.has(_Scaled, _Sum, _Chain) else e


def _may_be_matrix(e: Expr) -> bool:
    """Whether ``e`` can have two axes or more."""
    wide = any(len(v.axes) > 1 for v in e.atoms(Vector))
    return wide or e.has(Matrix, Contract, Expand, Reshape)


def _is_scalar(e: Expr) -> bool:
    """Whether ``e`` is surely one number for a whole vector."""
    if isinstance(e, Vector):
        return e.is_single
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
_START = "what is learned and states start at init=…, constants have value=…"
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


def _size(size: object) -> str:
    """A size as it was declared; "" is open."""
    if isinstance(size, str) and not size:
        return ""
    try:
        if isinstance(size, bool) or not isinstance(size, (str, int, Expr)):
            raise ValueError
        return str(size_of(str(size)))
    except ValueError:
        raise ValueError(
            f"a size is a name or a positive number, or a sum or product of these, not "
            f"{short(repr(size))}"
        ) from None


@functools.cache
def size_of(text: str) -> Expr:
    """A size as an expression: "H", "3", "N*P", "D+H".

    Raises
    ------
    ValueError
        If it is anything else.
    """

    def made(node: ast.AST) -> Expr:
        if isinstance(node, ast.Name):
            return Size(node.id)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value > 0:
            return sympy.Integer(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            combine = sympy.Add if isinstance(node.op, ast.Add) else sympy.Mul
            return combine(made(node.left), made(node.right))
        raise ValueError(text)

    if text.isdecimal() and text.isascii():
        text = text.lstrip("0")  # which Python does not read
    try:
        return sympy.expand(made(ast.parse(text, mode="eval").body))
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(text) from None


def _shape(size: object, shape: object, default: str = "") -> str | tuple[str, ...]:
    """The axes of a declaration: ``shape``, or one axis of that ``size``."""
    if shape is None:
        return _size(size)
    if size != default:
        raise ValueError("give size= or shape=, not both: size is short for a shape of one axis")
    if isinstance(shape, (str, int)):
        shape = (shape,)
    if not isinstance(shape, (tuple, list)) or not shape:
        raise ValueError(
            f'a shape is a tuple of sizes, such as ("H", "K"), not {short(repr(shape))}'
        )
    return tuple(_size(n) for n in shape)


def _sides(rows: object, columns: object, shape: object, value: Start | None) -> tuple[Any, ...]:
    """What Matrix takes after its name."""
    if shape is None:
        return _size(rows), _size(columns), False, (), False, value
    if rows or columns:
        raise ValueError("give shape=, or rows= and columns=, not both")
    axes = _shape("", shape)
    if isinstance(axes, str) or len(axes) < 2:
        raise ValueError(
            f'the shape of a matrix has two axes or more, such as ("H", "D"), not {shape!r}'
        )
    return (*axes[-2:], False, axes[:-2], False, value)


def _start(value: Any, what: str, *, of_matrix: bool = False) -> Start | None:
    return None if value is None else start(value, f"init of {what}", of_matrix=of_matrix)


@_declares
def inputs(names: str, size: str | int = "D", shape: Any = None) -> Any:
    """Inputs of every step, of size D; one name gives one symbol, several a tuple. Arrays:
    (T, B, size), or (T, B, *shape).
    """
    axes = _shape(size, shape, "D")
    return _declare(names, lambda n: Vector(n, "input", axes))


@_declares
def states(names: str, size: str | int = "H", shape: Any = None, init: float | None = None) -> Any:
    """States, of size H: ``h`` comes into the step, ``h.next`` leaves it. Arrays: (B, size).

    ``shape=("H", "K")`` is a matrix memory, an array (B, H, K). A sequence that is given no state
    starts from ``init``, or from zeros.
    """
    axes = _shape(size, shape, "H")
    value = None if init is None else finite(init, f"init of {names}")
    return _declare(names, lambda n: Vector(n, "state", axes, -1, value or None))


@_declares
def vectors(names: str, size: str | int = "H", shape: Any = None) -> Any:
    """What a step computes: gates, candidates, … ``size=1`` is a scalar that broadcasts."""
    axes = _shape(size, shape, "H")
    return _declare(names, lambda n: Vector(n, "vector", axes))


@_declares
def masks(names: str, size: str | int = "", shape: Any = None) -> Any:
    """Inputs that no gradient flows into: dropout, zoneout, padding. Arrays: (T, B, size)."""
    axes = _shape(size, shape)
    return _declare(names, lambda n: Vector(n, "mask", axes))


@_declares
def constants(names: str, value: float | None = None) -> Any:
    """Scalar hyper-parameters, such as a time step. ``value`` is what ``init`` gives them."""
    value = None if value is None else finite(value, f"the value of {names}")
    return _declare(names, lambda n: Vector(n, "constant", "1", 0, value))


@_declares
def weights(
    names: str, rows: str | int = "", columns: str | int = "", shape: Any = None, init: Any = None
) -> Any:
    """A family of matrices: ``W.i`` is W_i. Shapes are inferred unless they are given.

    ``shape=("N", "P", "P")`` is a matrix for each of N heads. ``init`` says how they start: a
    number, a name such as "orthogonal", or both, ("normal", 0.1); else Glorot's distribution.
    """
    sides = _sides(rows, columns, shape, _start(init, names, of_matrix=True))
    return _declare(names, lambda name: Family(name, lambda member: Matrix(member, *sides)))


@_declares
def biases(names: str, size: str | int = "", init: Any = 0.0, shape: Any = None) -> Any:
    """A family of learned vectors: biases, peepholes, gains. They start at ``init``."""
    about = _shape(size, shape), 0, _start(init, names)
    return _declare(names, lambda n: Family(n, lambda m: Vector(m, "parameter", *about)))


@_declares
def matrix(
    names: str, rows: str | int = "", columns: str | int = "", shape: Any = None, init: Any = None
) -> Any:
    """One learned matrix, used as ``V @ h``; ``init`` as in ``weights``."""
    sides = _sides(rows, columns, shape, _start(init, names, of_matrix=True))
    return _declare(names, lambda n: Matrix(n, *sides))


@_declares
def vector(names: str, size: str | int = "", init: Any = 0.0, shape: Any = None) -> Any:
    """One learned vector; ``size=1`` is a learned scalar. It starts at ``init``."""
    about = _shape(size, shape), 0, _start(init, names)
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


class Function(Quantity, sympy.Function):
    """Base of the functions of the language."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        given = [
            a if isinstance(a, (sympy.Tuple, Str)) else expression(a, "{}({})", cls.__name__, a)
            for a in args
        ]
        return super().__new__(cls, *given, **options)


class Product(Function):
    """``W @ x``, a contraction with a matrix that does not move; it leads from size to size."""

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
        return f"{bound(self.matrix)} @ {operand if self.operand.is_Atom else f'({operand})'}"


class Contract(Function):
    """A product of two quantities that both move, summed over the axes that it says.

    The third argument says which, as in ``numpy.einsum``: "ij,j->i" is ``C @ q`` with a matrix
    state C, "ij,i->j" is ``C.T @ k``, and "i,j->ij" is ``outer(v, k)``. Letters before these are
    heads. No letter occurs twice in one operand, and each of an operand's is in the other one or
    in the result, so that what is derived from a contraction is one again.
    """

    nargs = 3
    is_real = True
    precedence = PRECEDENCE["Mul"] - 1

    def __new__(cls, left: Any, right: Any, spec: Any) -> Any:
        return super().__new__(cls, left, right, spec if isinstance(spec, Str) else Str(spec))

    @property
    def spec(self) -> tuple[str, str, str]:
        """The letters of the left, the right and the result."""
        operands, _, out = self.args[2].name.partition("->")
        left, _, right = operands.partition(",")
        return left, right, out

    @property
    def is_outer(self) -> bool:
        """Whether nothing is summed."""
        left, right, out = self.spec
        return not (set(left + right) - set(out))

    def _sympystr(self, printer: Any) -> str:
        (left, right, out), (a, b, _) = self.spec, self.args
        if self.is_outer and len(left) == len(right):
            return f"outer({printer._print(a)}, {printer._print(b)})"
        transposed = len(right) < len(left) and left[-1] in out
        first = a if a.is_Atom else f"({printer._print(a)})"
        return f"{first}{'.T' if transposed else ''} @ {b if b.is_Atom else f'({b})'}"


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
    """Base of what looks across the units of one axis.

    Of a vector it makes one number, which broadcasts. Of a quantity with more axes it takes the
    axis that the second argument names: ``sum_(C, "K")`` of (H, K) is (H,). A number stands for
    the place of an axis, -1 for the last one.
    """

    nargs = (1, 2)
    is_real = True

    def __new__(cls, value: Any, axis: Any = None, **options: Any) -> Any:
        if axis is None:
            return super().__new__(cls, value, **options)
        if not isinstance(axis, (Symbol, sympy.Integer)):
            axis = sympy.Integer(axis) if isinstance(axis, int) else Size(_size(axis))
        return super().__new__(cls, value, axis, **options)

    @property
    def axis(self) -> Expr | None:
        """The axis as it was given, or None."""
        return self.args[1] if len(self.args) > 1 else None

    def _sympystr(self, printer: Any) -> str:
        name = type(self).__name__.rstrip("_")
        return f"{name}({', '.join(map(printer._print, self.args))})"


class mean(Reduction):
    """The mean over units: a scalar for each row, which broadcasts."""


class sum_(Reduction):
    """The sum over units: a scalar for each row, which broadcasts."""


class max_(Reduction):
    """The largest unit: a scalar for each row. Its gradient is shared equally among ties."""


class Scan(Reduction):
    """A reduction that keeps its partial results: as many units out as in."""


class cumsum(Scan):
    """The running sum over units, from the first to the last."""


class rcumsum(Scan):
    """The running sum over units, from the last to the first: the adjoint of ``cumsum``."""


class View(Function):
    """Base of what rearranges the units of one quantity, without arithmetic."""

    is_real = True

    @property
    def operand(self) -> Expr:
        return self.args[0]


class Expand(View):
    """``u`` repeated along axes that it does not have: ``Expand(f, (H, K), (0,))`` of f (H,).

    The second argument is the shape of the result, in which 0 stands for an axis of ``u``. The
    third, which a cell adds, says which of the axes are those of ``u``; a single number has none.
    """

    nargs = (2, 3)

    @property
    def places(self) -> tuple[int, ...]:
        """Which axes of the result are those of the operand."""
        return tuple(map(int, self.args[2]))

    def _sympystr(self, printer: Any) -> str:
        axes = ", ".join(f'"{n}"' for n in self.args[1])
        return f"expand({printer._print(self.args[0])}, {axes})"


class Part(View):
    """One of the parts that lie side by side along the last axis: ``Part(u, 1, (P, P, K))``."""

    nargs = 3

    @property
    def number(self) -> int:
        return int(self.args[1])

    @property
    def sizes(self) -> tuple[Expr, ...]:
        return tuple(self.args[2])

    def _sympystr(self, printer: Any) -> str:
        sizes = ", ".join(f'"{n}"' for n in self.sizes)
        return f"split({printer._print(self.args[0])}, {sizes})[{self.number}]"


class Reshape(View):
    """The same units in the same order, with other axes: ``Reshape(u, (N, P))`` of u (N*P,)."""

    nargs = 2

    def _sympystr(self, printer: Any) -> str:
        inner, axes = printer._print(self.args[0]), self.args[1]
        if len(axes) < 2:
            return f"flatten({inner})"
        shown = ", ".join(f'"{n}"' for n in axes)
        return f"chunk({inner}, {shown})"


class Transpose(View):
    """The last two axes exchanged: ``C.T``."""

    nargs = 1

    def _sympystr(self, printer: Any) -> str:
        inner = printer._print(self.operand)
        return f"{inner if self.operand.is_Atom else f'({inner})'}.T"


class Concat(Function):
    """Several quantities side by side along their last axis."""

    is_real = True

    def _sympystr(self, printer: Any) -> str:
        return f"concat({', '.join(map(printer._print, self.args))})"


def outer(left: Any, right: Any) -> Expr:
    """v kᵀ: of (H,) and (K,) the matrix (H, K); of (N, H) and (N, K) one a head, (N, H, K)."""
    return Contract(left, right, "i,j->ij")


def expand(value: Any, *axes: Any) -> Expr:
    """``value`` repeated along the axes that it does not have.

    Parameters
    ----------
    value : expression
        A single number, or a quantity whose axes are among ``axes``, in their order.
    *axes : str or int, or one quantity
        The axes of the result, or a quantity that has them: ``expand(f, "H", "K")``,
        ``expand(f, C)``.
    """
    shape = _axes(axes)
    return Expand(value, sympy.Tuple(*shape))


def split(value: Any, *sizes: Any) -> tuple[Expr, ...]:
    """The parts of a vector that lie side by side, each of a size: ``q, k = split(u, "P", "K")``.

    One number, ``split(u, 3)``, gives as many equal parts.
    """
    if len(sizes) == 1 and isinstance(sizes[0], int):
        count = sizes[0]
        if isinstance(count, bool) or count < 1:
            raise ValueError(f"split into {count} parts: give a positive number of parts")
        value = named(value)
        return tuple(
            Part(value, sympy.Integer(k), sympy.Tuple(sympy.Integer(count))) for k in range(count)
        )
    if len(sizes) < 2:
        raise ValueError('split gives several parts: split(u, 3), or split(u, "P", "K")')
    value, shape = named(value), sympy.Tuple(*_axes(sizes))
    return tuple(Part(value, sympy.Integer(k), shape) for k in range(len(shape)))


def chunk(value: Any, *axes: Any) -> Expr:
    """A vector of N·P units as N chunks of P: ``chunk(h, "N", "P")`` is (N, P)."""
    shape = _axes(axes)
    if len(shape) < 2:
        raise ValueError('chunk gives several axes: chunk(h, "N", "P")')
    return Reshape(value, sympy.Tuple(*shape))


def flatten(value: Any) -> Expr:
    """All axes as one, the last one running fastest: (N, P) is (N*P,)."""
    return Reshape(value, sympy.Tuple())


def repeat(value: Any, count: Any) -> Expr:
    """Each unit of a vector repeated: (N,) is (N*P,), as a gate for each chunk of P units."""
    (size,) = _axes((count,))
    return flatten(Expand(value, sympy.Tuple(sympy.S.Zero, size)))


def concat(*values: Any) -> Expr:
    """Several quantities side by side along their last axis: ``W @ concat(x, h)``."""
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = tuple(values[0])
    if len(values) < 2:
        raise ValueError("concat puts several quantities side by side: concat(x, h)")
    return Concat(*values)


def _axes(given: tuple[Any, ...]) -> tuple[Expr, ...]:
    """Axes as they were given: names, numbers, or a quantity that has them."""
    if len(given) == 1 and isinstance(given[0], (list, tuple)):
        given = tuple(given[0])
    if len(given) == 1 and isinstance(given[0], (Vector, Matrix)):
        given = given[0].axes
    return tuple(size_of(_size(n)) for n in given)


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
