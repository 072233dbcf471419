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

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import sympy
from sympy import Expr, Symbol
from sympy.core.symbol import Str
from sympy.printing.precedence import PRECEDENCE

from .initial import Start
from .misuse import Explained, Linear, bound, expression, no_matrix
from .sizes import Size, declared

if TYPE_CHECKING:
    from .matrices import Matrix

_S = TypeVar("_S")

# Categories of Vector. The first six are written by users; derivation and schedule add the others.
# The same at every step: time does not touch them. What is derived is made of the others.
STATIC = frozenset({"parameter", "constant", "derived"})
OF_PARAMETERS = STATIC - {"constant"}  # they are arrays
GIVEN = frozenset(
    {"input", "mask", "parameter", "constant", "derived"}
)  # never defined by an equation
ADJOINT = frozenset({"adjoint", "cotangent", "carry", "partial adjoint", "partial carry"})
# adjoint: ∂L/∂v in all; cotangent: the part that arrives from outside, at the output; carry: the
# part of a state's adjoint that arrives from step t+1. What is gathered is the sum over all steps.
_MARKS = {"adjoint": "δ", "cotangent": "Δ", "carry": "later δ", "gathered": "Σδ"}


class Quantity(Explained):
    """Base of what has values that move: it may be contracted with another one by @."""

    __slots__ = ()

    @staticmethod
    def _contracted(left: Any, right: Any) -> Any:
        """``left @ right`` where ``left`` is not a learned matrix but, say, a matrix memory."""
        if not isinstance(left, Expr) or not _may_be_matrix(left):
            raise no_matrix(left, right)
        right = expression(right, "{} @ {}", left, right)
        is_static = _has_matrix(left) and all(v.category in STATIC for v in left.atoms(Vector))
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
    learned : bool
        Whether a parameter has a gradient.
    """

    category: str
    axes: tuple[str, ...]
    time: int
    value: Start | None
    learned: bool
    _content: tuple[Any, ...]

    def __new__(
        cls,
        name: str,
        category: str,
        shape: str | tuple[str, ...] = "",
        time: int = 0,
        value: Start | None = None,
        learned: bool = True,
    ) -> Vector:
        obj: Vector = Symbol.__xnew__(cls, name, real=True)
        obj.axes = (shape,) if isinstance(shape, str) else tuple(shape)
        obj.category, obj.time, obj.value, obj.learned = category, time, value, learned
        # Made once: SymPy asks for it whenever two symbols are compared, which is all the time.
        about = category, obj.axes, time, repr(value), int(learned)
        obj._content = (*Symbol._hashable_content(obj), *about)
        return obj

    def _hashable_content(self) -> tuple[Any, ...]:
        return self._content

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        about = self.category, self.axes, self.time, self.value, self.learned
        return (self.name, *about), {}

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


def _has_matrix(e: Expr) -> bool:
    """Whether a learned matrix is in it."""
    return any(isinstance(node, Linear) for node in sympy.preorder_traversal(e))


def is_scalar(e: Expr) -> bool:
    """Whether ``e`` is surely one number for a whole vector."""
    if isinstance(e, Vector):
        return e.is_single
    if isinstance(e, Reduction):
        return e.axis is None and not isinstance(e, Scan)
    return not isinstance(e, (Product, Contract, View, Concat)) and all(map(is_scalar, e.args))


def _may_be_matrix(e: Expr) -> bool:
    """Whether ``e`` can have two axes or more."""
    wide = any(len(v.axes) > 1 for v in e.atoms(Vector))
    return wide or _has_matrix(e) or e.has(Contract, Expand, Reshape)


def acts_on_entries(e: Expr) -> bool:
    """Whether ``e`` was expanded to the axes of a matrix."""
    return any(len(x.args[1]) > 1 for x in e.atoms(Expand))


# --------------------------------------------------------------------------- functions


class Function(Quantity, sympy.Function):
    """Base of the functions of the language."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        given = [
            a if isinstance(a, (sympy.Tuple, Str)) else expression(a, "{}({})", cls.__name__, a)
            for a in args
        ]
        return super().__new__(cls, *given, **options)

    @property
    def T(self) -> Any:
        """The transpose of what has two axes, such as ``outer(v, k)``."""
        whole = self.operand if isinstance(self, Product) else self
        heads = isinstance(self, Product) and len(getattr(self.matrix, "axes", ())) > 2
        if not heads and not _may_be_matrix(whole):
            raise AttributeError("T")  # Explained says why
        return Transpose(self)


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
            axis = sympy.Integer(axis) if isinstance(axis, int) else Size(declared(axis))
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
    third, which a cell adds where ``expand`` was not told, says which of the axes are those of
    ``u``; a single number has none.
    """

    nargs = (2, 3)

    @staticmethod
    def first(axes: Sequence[Expr], of: Sequence[Expr]) -> tuple[int, ...]:
        """The first places where axes of these sizes fit, in their order; past the end if none."""
        places, k = [], 0
        for size in of:
            while k < len(axes) and axes[k] not in (0, size):
                k += 1
            places.append(k)
            k += 1
        return tuple(places)

    @property
    def elsewhere(self) -> tuple[int, ...]:
        """The places of the operand's axes, if they are not the first that fit: (H,) along the
        second axis of (H, H). Else ().
        """
        if len(self.args) < 3:
            return ()
        axes = tuple(self.args[1])
        is_first = self.places == self.first(axes, [axes[k] for k in self.places])
        return () if is_first else self.places

    @property
    def places(self) -> tuple[int, ...]:
        """Which axes of the result are those of the operand."""
        return tuple(map(int, self.args[2]))

    def _sympystr(self, printer: Any) -> str:
        axes = ", ".join(f'"{n}"' for n in self.args[1])
        return f"expand({printer._print(self.args[0])}, {axes}{self.axis})"

    @property
    def axis(self) -> str:
        """The end of the call, ``, axis=1``, where it says along which axes the operand lies."""
        places = self.elsewhere
        return f", axis={places[0] if len(places) == 1 else places}" if places else ""


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

    @property
    def repeats(self) -> tuple[Expr, Expr] | None:
        """``(u, P)`` if it is each unit of a vector u repeated P times, as ``repeat(u, P)`` is."""
        inner = self.operand
        if len(self.args[1]) > 1 or not isinstance(inner, Expand) or len(inner.args) < 3:
            return None
        is_last = inner.places == (0,) and len(inner.args[1]) == 2
        return (inner.operand, inner.args[1][1]) if is_last else None

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
