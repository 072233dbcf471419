"""Learned matrices, and the arithmetic of matrices before they meet their vector."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, Symbol
from sympy.core.symbol import Str

from .initial import Start
from .misuse import Linear, bound, expression, short
from .symbols import STATIC, Contract, Product, Reduction, Vector, acts_on_entries, is_scalar


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
        if isinstance(other, Expr) and other.has(Matrix):  # entries of some, as in exp(U) @ V
            return Contract(other, self, "@")
        raise TypeError(
            f"{bound(other)} @ {bound(self)}: the matrix comes first, "
            f"{bound(self)} @ {bound(other)}"
        )

    def __add__(self, other: Any) -> Any:
        if isinstance(other, int) and other == 0:  # where Python's sum starts
            return self
        if isinstance(other, Operator):
            return _Sum(self, other)
        term = expression(other, "{} + {}", self, other)
        if acts_on_entries(term):
            return sympy.Add(entries(self), term)
        return Misplaced("+", self, term)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __neg__(self) -> Any:
        return _Scaled(sympy.S.NegativeOne, self)

    def __rmul__(self, other: Any) -> Any:
        factor = expression(other, "{} * {}", other, self)
        if acts_on_entries(factor):
            return sympy.Mul(factor, entries(self))
        return _Scaled(factor, self)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Operator):  # entry by entry, as of a weight and its mask
            return sympy.Mul(entries(self), entries(other))
        factor = expression(other, "{} * {}", self, other)
        if acts_on_entries(factor):
            return sympy.Mul(entries(self), factor)
        if not is_scalar(factor):
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
    """A matrix of shape (rows, columns), used as ``W @ x``; ``W.T`` is its transpose.

    It is learned, unless it was declared otherwise. It multiplies along the last axis: of a
    quantity (N, D), each row, and along the first in ``(W @ S.T).T``. Axes before these are heads,
    with a matrix each: of shape ("N", "P", "Q") it takes (N, Q) to (N, P), and one vector (Q,) for
    all heads to (N, P), too.
    """

    axes: tuple[str, ...]
    transposed: bool
    value: Start | None  # how it starts; None is Glorot's distribution
    learned: bool  # whether it has a gradient
    merged: bool  # the normal form's: heads and rows as one axis, for a vector without heads
    _content: tuple[Any, ...]

    def __new__(
        cls,
        name: str,
        rows: str = "",
        columns: str = "",
        transposed: bool = False,
        heads: tuple[str, ...] = (),
        merged: bool = False,
        value: Start | None = None,
        learned: bool = True,
    ) -> Matrix:
        obj: Matrix = Symbol.__xnew__(cls, name, real=True)
        obj.axes, obj.transposed, obj.merged = (*heads, rows, columns), transposed, merged
        obj.value, obj.learned = value, learned
        # Made once: SymPy asks for it whenever two symbols are compared, which is all the time.
        how = int(transposed), int(merged), repr(value), int(learned)
        obj._content = (*Symbol._hashable_content(obj), obj.axes, *how)
        return obj

    def _hashable_content(self) -> tuple[Any, ...]:
        return self._content

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        about = (self.transposed, self.axes[:-2], self.merged, self.value, self.learned)
        return (self.name, *self.axes[-2:], *about), {}

    def _viewed(self, transposed: bool, merged: bool) -> Matrix:
        *heads, rows, columns = self.axes
        about = transposed, tuple(heads), merged, self.value, self.learned
        return Matrix(self.name, rows, columns, *about)

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

    def apart(self) -> Matrix:
        """Heads and rows as axes of their own, as users have them."""
        return self._viewed(self.transposed, False)

    def of(self, operand: Expr) -> Expr:
        return Product(self, operand)

    def _sympystr(self, printer: Any) -> str:
        return f"{self.name}.T" if self.transposed else str(self.name)


def as_matrix(v: Vector) -> Matrix:
    """The matrix for products with a quantity that is made of parameters."""
    *heads, rows, columns = v.axes
    return Matrix(v.name, rows, columns, False, tuple(heads))


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

    def __new__(cls, sign: str | Str, matrix: Operator, other: Expr) -> Any:
        return Expr.__new__(cls, sign if isinstance(sign, Str) else Str(sign), matrix, other)

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


class Entries(Matrix):
    """A matrix in arithmetic on its entries, which is SymPy's own.

    SymPy calculates with parts of what it puts together, such as the -1 and the U of exp(-U)/2:
    of a matrix that would make one that waits for its vector.
    """

    _op_priority = Expr._op_priority


for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "mod"),
    *("rmod", "floordiv", "rfloordiv", "neg", "abs", "gt", "ge", "lt", "le"),
):
    setattr(Entries, f"__{_name}__", getattr(Expr, f"__{_name}__"))


def is_of_parameters(e: Expr) -> bool:
    """Whether ``e`` reduces a matrix that is learned, or what is made of such: a norm of it."""
    is_static = all(v.category in STATIC for v in e.atoms(Vector))
    return isinstance(e, Reduction) and is_static and e.has(Matrix)


def entries(e: Expr) -> Expr:
    """What a matrix, or what is made of matrices, is entry by entry.

    Products of matrices are contractions: they are not arithmetic on entries.
    """
    plain = {}
    for m in e.atoms(Matrix):
        *heads, rows, columns = m.axes
        about = m.transposed, tuple(heads), m.merged, m.value, m.learned
        plain[m] = Entries(m.name, rows, columns, *about)
    return _of_entries(e.xreplace(plain))


def _of_entries(e: Expr) -> Expr:
    if isinstance(e, _Sum):
        return sympy.Add(*map(_of_entries, e.args))
    if isinstance(e, _Scaled):
        return sympy.Mul(*map(_of_entries, e.args))
    if isinstance(e, _Chain) or (isinstance(e, Product) and e.operand.has(Matrix)):
        # what follows a matrix here is one, too, and no vectors of heads
        left, right = map(_of_entries, e.args)
        return Contract(left, right, "@")
    if isinstance(e, Misplaced):  # not here: where all are entries, each has a place
        sign, *operands = e.args
        return (sympy.Mul if sign.name == "*" else sympy.Add)(*map(_of_entries, operands))
    waiting = _Scaled, _Sum, _Chain, Misplaced, Product
    return e.func(*map(_of_entries, e.args)) if e.has(*waiting) else e
