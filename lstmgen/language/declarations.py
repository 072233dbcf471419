"""What users declare symbols with, and the views that they write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import sympy
from sympy import Expr, Symbol

from ..errors import did_you_mean
from .initial import Start, start
from .matrices import Matrix
from .misuse import finite, short
from .sizes import declared, size_of
from .symbols import Concat, Contract, Expand, Part, Reshape, Vector, named

_P = ParamSpec("_P")
_R = TypeVar("_R")

# What a keyword of another library is here, by what is declared.
_SIZE = 'size="P" gives the number of units'
_SIDES = 'rows="H", columns="D" give the shape'
_START = "what is learned and states start at init=…, constants have value=…"
_KEYWORDS = {
    **dict.fromkeys(("shape", "dim", "units", "size", "width", "length", "hidden_size"), "shape"),
    **dict.fromkeys(("init", "value", "initial", "default", "start", "mean", "std"), "start"),
    **dict.fromkeys(("trainable", "requires_grad", "fixed", "frozen", "learned"), "learned"),
}
_SCALARS = "they are scalars; fixed arrays are weights, vectors, … with learned=False"
_LEARNED = "weights, biases, matrix and vector take learned=False for what has no gradient"


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


def _declares(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Answer a keyword that ``function`` does not take by those that it does."""
    known = list(inspect.signature(function).parameters)
    size = _SIZE if "size" in known else _SIDES if "rows" in known else _SCALARS
    hints = {"shape": size, "start": _START, "learned": _LEARNED}

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


def _shape(size: object, shape: object, default: str = "") -> str | tuple[str, ...]:
    """The axes of a declaration: ``shape``, or one axis of that ``size``."""
    if shape is None:
        return declared(size)
    if size != default:
        raise ValueError("give size= or shape=, not both: size is short for a shape of one axis")
    if isinstance(shape, (str, int)):
        shape = (shape,)
    if not isinstance(shape, (tuple, list)) or not shape:
        raise ValueError(
            f'a shape is a tuple of sizes, such as ("H", "K"), not {short(repr(shape))}'
        )
    return tuple(declared(n) for n in shape)


def _sides(
    rows: object, columns: object, shape: object, value: Start | None, learned: bool
) -> tuple[Any, ...]:
    """What Matrix takes after its name."""
    if shape is None:
        return declared(rows), declared(columns), False, (), False, value, learned
    if rows or columns:
        raise ValueError("give shape=, or rows= and columns=, not both")
    axes = _shape("", shape)
    if isinstance(axes, str) or len(axes) < 2:
        raise ValueError(
            f'the shape of a matrix has two axes or more, such as ("H", "D"), not {shape!r}'
        )
    return (*axes[-2:], False, axes[:-2], False, value, learned)


def _start(value: Any, what: str, *, of_matrix: bool = False) -> Start | None:
    return None if value is None else start(value, f"init of {what}", of_matrix=of_matrix)


def _flag(learned: object) -> bool:
    if not isinstance(learned, bool):
        raise ValueError(f"learned is True or False, not {short(repr(learned))}")
    return learned


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
    names: str, rows: str | int = "", columns: str | int = "", shape: Any = None, init: Any = None,
    learned: bool = True,
) -> Any:  # fmt: skip
    """A family of matrices: ``W.i`` is W_i. Shapes are inferred unless they are given.

    ``shape=("N", "P", "P")`` is a matrix for each of N heads. ``init`` says how they start: a
    number, a name such as "orthogonal", or both, ("normal", 0.1); else Glorot's distribution.
    ``learned=False`` is for fixed matrices, as of a reservoir: they have no gradient.
    """
    sides = _sides(rows, columns, shape, _start(init, names, of_matrix=True), _flag(learned))
    return _declare(names, lambda name: Family(name, lambda member: Matrix(member, *sides)))


@_declares
def biases(
    names: str, size: str | int = "", init: Any = 0.0, shape: Any = None, learned: bool = True
) -> Any:
    """A family of learned vectors: biases, peepholes, gains. They start at ``init``, and have no
    gradient with ``learned=False``.
    """
    about = _shape(size, shape), 0, _start(init, names), _flag(learned)
    return _declare(names, lambda n: Family(n, lambda m: Vector(m, "parameter", *about)))


@_declares
def matrix(
    names: str, rows: str | int = "", columns: str | int = "", shape: Any = None, init: Any = None,
    learned: bool = True,
) -> Any:  # fmt: skip
    """One matrix, used as ``V @ h``; ``init`` and ``learned`` as in ``weights``."""
    sides = _sides(rows, columns, shape, _start(init, names, of_matrix=True), _flag(learned))
    return _declare(names, lambda n: Matrix(n, *sides))


@_declares
def vector(
    names: str, size: str | int = "", init: Any = 0.0, shape: Any = None, learned: bool = True
) -> Any:
    """One learned vector; ``size=1`` is a learned scalar. It starts at ``init``, and has no
    gradient with ``learned=False``.
    """
    about = _shape(size, shape), 0, _start(init, names), _flag(learned)
    return _declare(names, lambda n: Vector(n, "parameter", *about))


# --------------------------------------------------------------------------- views


def outer(left: Any, right: Any) -> Expr:
    """v kᵀ: of (H,) and (K,) the matrix (H, K); of (N, H) and (N, K) one a head, (N, H, K)."""
    return Contract(left, right, "i,j->ij")


def expand(value: Any, *axes: Any, axis: Any = None) -> Expr:
    """``value`` repeated along the axes that it does not have.

    Parameters
    ----------
    value : expression
        A single number, or a quantity whose axes are among ``axes``, in their order.
    *axes : str or int, or one quantity
        The axes of the result, or a quantity that has them: ``expand(f, "H", "K")``,
        ``expand(f, C)``.
    axis : int, or tuple of int
        The places that the axes of ``value`` have in the result, from 0. Without, they are the
        first that fit: f (H,) is the same in each row of (H, H) with ``axis=1`` only.
    """
    shape = sympy.Tuple(*_axes(axes))
    if axis is None:
        return Expand(value, shape)
    places = axis if isinstance(axis, (tuple, list)) else (axis,)
    if not places or any(
        isinstance(k, bool) or not isinstance(k, (int, sympy.Integer)) for k in places
    ):
        raise ValueError(
            f"axis is the place of an axis in the result, from 0, not {short(repr(axis))}"
        )
    count = len(shape)
    wrong = next((k for k in places if not -count <= k < count), None)
    if wrong is not None:
        raise ValueError(f"axis {wrong}: the result has {count} axes, whose places begin at 0")
    return Expand(value, shape, sympy.Tuple(*(sympy.Integer(k % count) for k in places)))


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
    return tuple(size_of(declared(n)) for n in given)
