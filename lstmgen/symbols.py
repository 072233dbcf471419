"""The language that cells are written in: symbols that stand for vectors, and what acts on them.

Every symbol is a vector over units, and ordinary SymPy arithmetic on it is elementwise, so that
``sympy.diff``, ``subs`` and ``simplify`` work as they are. Units are mixed by two things only: the
matrix product ``W @ x``, and the reductions ``mean``, ``sum_``, ``max_`` and ``cumsum``.

A symbol carries its place in time. Within a step, ``h`` is the value that comes in, h[t-1], and
``h.next`` is the one that goes out, h[t]; all that a step computes is at t.
"""

from __future__ import annotations

from typing import Any, TypeVar

import sympy
from sympy import Expr, Function, Symbol
from sympy.functions.elementary.hyperbolic import tanh
from sympy.printing.precedence import PRECEDENCE

__all__ = [
    "Family",
    "Matrix",
    "Size",
    "Vector",
    "biases",
    "constants",
    "cumsum",
    "elu",
    "gelu",
    "inputs",
    "layer_norm",
    "leaky_relu",
    "log_sigmoid",
    "masks",
    "matrix",
    "max_",
    "mean",
    "named",
    "relu",
    "rsqrt",
    "shift",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "states",
    "step",
    "stop_gradient",
    "sum_",
    "tanh",
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


class Vector(Symbol):
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
            what = (
                f"{self} is the value after the step"
                if self.category == "state"
                else (f'{self} is no state; declare it with states("{self.name}")')
            )
            raise AttributeError(f"{self} has no .next: {what}")
        return self.at(0)

    def at(self, time: int) -> Vector:
        """The same quantity at another time."""
        if self.category in STATIC or time == self.time:
            return self
        return Vector(self.name, self.category, self.size, time, self.value)

    def _sympystr(self, printer: Any) -> str:
        if self.category == "state" and self.time in (-1, 0):
            return self.name if self.time else f"{self.name}.next"
        timed = "" if self.time == 0 or self.category in STATIC else f"[t{self.time:+d}]"
        return f"{_MARKS.get(self.category, '')}{self.name}{timed}"

    def __matmul__(self, other: object) -> Expr:
        if isinstance(other, Matrix):
            return NotImplemented  # and so it explains
        raise TypeError(
            f"{self} @ {other}: {self} is a vector. A matrix product is W @ x, with a matrix from "
            f'weights("W") on its left; an elementwise product is {self} * {other}'
        )


class Matrix(Symbol):
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
    def base(self) -> Matrix:
        """The parameter itself, not transposed."""
        return self.T if self.transposed else self

    def _sympystr(self, printer: Any) -> str:
        return f"{self.name}.T" if self.transposed else str(self.name)

    def __matmul__(self, other: object) -> Any:
        return _apply(self, other)

    def __rmatmul__(self, other: object) -> Any:
        raise TypeError(f"{other} @ {self}: the matrix comes first, {self} @ {other}")

    # Python reads r * U @ h as (r * U) @ h, and -U @ h as (-U) @ h. SymPy's operators hand over to
    # the operand of higher priority, which is how we get to see r * U.
    _op_priority = 20.0

    def __rmul__(self, other: object) -> Any:
        return _Scaled(sympy.sympify(other), self)

    def __neg__(self) -> Any:
        return _Scaled(sympy.S.NegativeOne, self)


class _Scaled(Expr):
    """``r * U``, waiting for its vector: r * (U @ h). Without one it is a matrix misused."""

    is_commutative = True

    def __new__(cls, factor: Any, matrix: Matrix) -> Any:
        return Expr.__new__(cls, factor, matrix)

    def __matmul__(self, other: object) -> Any:
        factor, matrix = self.args
        if isinstance(other, Matrix):
            return _Chain(self, other)
        return factor * (matrix @ other)

    def _sympystr(self, printer: Any) -> str:
        return f"{printer._print(self.args[0])}*{self.args[1]}"


class _Chain:
    """``W1 @ W2``, waiting for its vector: a product of low rank, W1 @ (W2 @ x)."""

    def __init__(self, left: Matrix | _Scaled | _Chain, right: Matrix) -> None:
        self.left, self.right = left, right

    def __matmul__(self, other: object) -> Any:
        if isinstance(other, Matrix):
            return _Chain(self, other)
        return self.left @ (self.right @ other)


def _apply(matrix: Matrix, other: object) -> Any:
    if isinstance(other, Matrix):
        return _Chain(matrix, other)
    if isinstance(other, Family):
        raise TypeError(f"{matrix} @ {other}: name one member of the family, such as {other}.i")
    return Product(matrix, sympy.sympify(other))


class Family:
    """Parameters that share a letter: ``W.i`` and ``W["i"]`` are the member W_i."""

    def __init__(self, prefix: str, make: Any) -> None:
        self._prefix, self._make = prefix, make

    def __getattr__(self, member: str) -> Any:
        if member.startswith("_"):
            raise AttributeError(member)
        return self[member]

    def __getitem__(self, member: str) -> Any:
        return self._make(f"{self._prefix}_{member}")

    def __repr__(self) -> str:
        return self._prefix

    def _misused(self, *_: object) -> Any:
        raise TypeError(
            f"{self} is a family of parameters; name one member of it, such as {self}.i"
        )

    __matmul__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = _misused


# --------------------------------------------------------------------------- declarations

_S = TypeVar("_S")


def _declare(names: str, make: Any) -> Any:
    parts = names.replace(",", " ").split()
    if not parts:
        raise ValueError("give at least one name")
    made = tuple(make(name) for name in parts)
    return made[0] if len(made) == 1 else made


def _size(size: str | int) -> str:
    text = str(size)
    if text.lstrip("-").isdigit() and int(text) < 1:
        raise ValueError(f"a size is a name or a positive number, not {size!r}")
    return text


def inputs(names: str, size: str | int = "D") -> Any:
    """Inputs of every step; one name gives one symbol, several a tuple. Arrays: (T, B, size)."""
    return _declare(names, lambda n: Vector(n, "input", _size(size)))


def states(names: str, size: str | int = "H") -> Any:
    """States: ``h`` comes into the step, ``h.next`` leaves it. Arrays: (B, size)."""
    return _declare(names, lambda n: Vector(n, "state", _size(size), -1))


def vectors(names: str, size: str | int = "H") -> Any:
    """What a step computes: gates, candidates, … ``size=1`` is a scalar that broadcasts."""
    return _declare(names, lambda n: Vector(n, "vector", _size(size)))


def masks(names: str, size: str | int = "") -> Any:
    """Inputs that no gradient flows into: dropout, zoneout, padding. Arrays: (T, B, size)."""
    return _declare(names, lambda n: Vector(n, "mask", _size(size)))


def constants(names: str, value: float | None = None) -> Any:
    """Scalar hyper-parameters, such as a time step. ``value`` is what ``init`` gives them."""
    return _declare(names, lambda n: Vector(n, "constant", "1", 0, value))


def weights(names: str, rows: str | int = "", columns: str | int = "") -> Any:
    """A family of matrices: ``W.i`` is W_i. Shapes are inferred unless they are given."""

    def make(name: str) -> Family:
        return Family(name, lambda member: Matrix(member, _size(rows), _size(columns)))

    return _declare(names, make)


def biases(names: str, size: str | int = "", init: float = 0.0) -> Any:
    """A family of learned vectors: biases, peepholes, gains. They start at ``init``."""

    def make(name: str) -> Family:
        return Family(name, lambda m: Vector(m, "parameter", _size(size), 0, float(init)))

    return _declare(names, make)


def matrix(names: str, rows: str | int = "", columns: str | int = "") -> Any:
    """One learned matrix, used as ``V @ h``."""
    return _declare(names, lambda n: Matrix(n, _size(rows), _size(columns)))


def vector(names: str, size: str | int = "", init: float = 0.0) -> Any:
    """One learned vector; ``size=1`` is a learned scalar. It starts at ``init``."""
    return _declare(names, lambda n: Vector(n, "parameter", _size(size), 0, float(init)))


def shift(expr: _S, steps: int) -> _S:
    """``expr`` moved in time: every quantity that has a time is taken ``steps`` later."""
    atoms = expr.atoms(Vector)  # type: ignore[attr-defined]
    return expr.xreplace({v: v.at(v.time + steps) for v in atoms})  # type: ignore[attr-defined,no-any-return]


# --------------------------------------------------------------------------- what mixes units


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


# --------------------------------------------------------------------------- elementwise functions
# SymPy's own where its derivative folds back to the value (tanh), else ours with its own fdiff.


class sigmoid(Function):
    """The logistic function 1 / (1 + exp(-x)). As a function of its own its derivative folds back
    to σ(1 - σ), which 1/(1 + exp(-x)) never does.
    """

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return self * (1 - self)


class step(Function):
    """1 where x > 0, else 0: the derivative of ``relu``."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sympy.S.Zero


class relu(Function):
    """max(x, 0), with derivative 0 at 0."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return step(self.args[0])


class softplus(Function):
    """log(1 + exp(x)), without overflow."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sigmoid(self.args[0])


class rsqrt(Function):
    """1 / sqrt(x), as one function so that its derivative is in terms of its value."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return -(self**3) / 2


class stop_gradient(Function):
    """The identity in the forward pass; no gradient flows back through it."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sympy.S.Zero


class equal(Function):
    """1 where both arguments are equal, else 0: how the gradient of ``max_`` finds its unit."""

    nargs = 2
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        return sympy.S.Zero


class named(Function):
    """The identity, but kept together: ``named(e)`` is computed once and has a name of its own.

    SymPy flattens sums, so that ``a - mean(a)`` hides ``a`` where ``a`` is a sum. A second
    argument, a string, begins the name.
    """

    nargs = (1, 2)
    is_real = True

    def __new__(cls, value: Any, name: str = "") -> Any:
        value = sympy.sympify(value)
        if value.is_Atom:
            return value
        return super().__new__(cls, value, *([Symbol(str(name))] if name else []))

    @property
    def name_hint(self) -> str:
        return str(self.args[1]) if len(self.args) > 1 else ""

    def _sympystr(self, printer: Any) -> str:
        return f"({printer._print(self.args[0])})"


def log_sigmoid(x: Any) -> Expr:
    """log(σ(x)), without overflow."""
    return -softplus(-x)


def silu(x: Any) -> Expr:
    """x σ(x), also called swish."""
    return x * sigmoid(x)


def gelu(x: Any) -> Expr:
    """x Φ(x), exact (with erf), as PyTorch's default."""
    return x * (1 + sympy.erf(x / sympy.sqrt(2))) / 2


def elu(x: Any, alpha: Any = 1) -> Expr:
    """x where x > 0, else α (exp(x) - 1)."""
    return relu(x) + alpha * (sympy.exp(sympy.Min(x, 0)) - 1)


def leaky_relu(x: Any, slope: Any = sympy.Rational(1, 100)) -> Expr:
    """x where x > 0, else slope · x."""
    return relu(x) - slope * relu(-x)


def softmax(x: Any) -> Expr:
    """exp(x - max x) / Σ exp(x - max x) over the units of a vector.

    The maximum cancels exactly, so that no gradient needs to flow through it.
    """
    x = named(x)
    e = named(sympy.exp(x - stop_gradient(max_(x))), "e")
    return e / sum_(e)


def layer_norm(x: Any, gain: Any = 1, bias: Any = 0, eps: Any = 1e-5) -> Expr:
    """gain · (x - mean x) / sqrt(var x + eps) + bias, over the units of a vector.

    The variance is the biased one (Ba, Kiros & Hinton 2016). Not a primitive: it is written with
    ``mean``, and its gradient is derived like any other.
    """
    x = named(x)
    centred = named(x - mean(x), "d")
    scale = named(rsqrt(named(mean(centred**2), "var") + eps), "r")
    return gain * centred * scale + bias
