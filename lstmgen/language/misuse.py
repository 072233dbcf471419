"""What people try first, and what to write instead.

A symbol stands for numbers that are not known when a cell is written. Python, NumPy and PyTorch
would answer what treats it as data with errors of their own, or take it for something else. The
symbols of the language inherit ``Explained``, so that the answer is what to write.
"""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sympy
from sympy import Expr
from sympy.core.function import FunctionClass
from sympy.core.sympify import SympifyError
from sympy.logic.boolalg import Boolean

from ..errors import did_you_mean

_SAME = """cumsum elu erf exp expm1 floor gelu layer_norm leaky_relu log log_sigmoid mean relu rsqrt
sigmoid sign silu softmax softplus sqrt sin cos tan sinh cosh tanh""".split()
_INSTEAD = {
    **{name: f"{name}({{}})" for name in _SAME},
    **dict.fromkeys(("abs", "absolute", "fabs"), "Abs({})"),
    **dict.fromkeys(("clip", "clamp", "hardtanh"), "Min(Max({}, low), high)"),
    **dict.fromkeys(("concat", "concatenate", "cat", "hstack", "stack"), "W.x @ x + W.h @ h"),
    **dict.fromkeys(("dot", "matmul", "mm", "mv", "linear", "inner", "einsum"), "W.i @ x"),
    **dict.fromkeys(("max", "amax"), "max_({})"),
    **{f"arc{f}": f"a{f}({{}})" for f in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "ceil": "ceiling({})",
    "expit": "sigmoid({})",
    "logsigmoid": "log_sigmoid({})",
    "maximum": "Max({})",
    "minimum": "Min({})",
    "power": "a**b",
    "square": "{}**2",
    "sum": "sum_({})",
    "swish": "silu({})",
    "transpose": "W.i.T",
    "where": "Piecewise((u, v > 0), (w, True))",
}
_CHOICES = (
    "Write Piecewise((u, v > 0), (w, True)), join conditions by &, | and ~, and take Max(v, w) and "
    "Min(v, w)"
)
_LONGEST = 10**20  # a number that a message shows with all its digits
# NumPy's scalars leave arithmetic with what they do not know to these.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul,
    "divide": operator.truediv, "power": operator.pow, "less": operator.lt,
    "less_equal": operator.le, "greater": operator.gt, "greater_equal": operator.ge,
}  # fmt: skip


def short(what: object, width: int = 60) -> str:
    """``what`` as text of at most ``width`` characters, its middle left out if need be."""
    try:
        text = " ".join(str(what).split())
    except ValueError:  # Python writes no number of more than 4300 digits
        text = "…"
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]} … {text[-half:]}"


def bound(what: object) -> str:
    """``what`` as an operand, in parentheses unless it is a name or a call."""
    text = short(what)
    loose = isinstance(what, Expr) and not (
        what.is_Atom or (text.endswith(")") and " @" not in text)
    )
    return f"({text})" if loose else text


def rounded(number: Expr) -> str:
    """A number in four digits."""
    return str(sympy.N(number, 4)).lower()


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


@lru_cache(maxsize=1 << 10)
def located(number: int, equation: Any) -> str:
    """Where a mistake is: the equation's number and its text, with long numbers rounded."""
    long = {n for n in equation.atoms(sympy.Rational) if abs(n.p) + n.q > _LONGEST}
    long |= {n for n in equation.atoms(sympy.Float) if abs(n) > _LONGEST}
    shown = equation.xreplace({n: sympy.Symbol(rounded(n)) for n in long})
    return f"equation {number}, {shown.lhs} = {short(shown.rhs, 200)}"


def expression(value: Any, where: str, *about: object) -> Expr:
    """``value`` as an expression; ``where`` says what it was given to, with ``about`` put in.

    Raises
    ------
    TypeError
        If it is not a number or an expression. The message says what to write instead.
    """
    if isinstance(value, Expr):
        return value
    if hasattr(value, "_sympy_"):
        return expression(value._sympy_(), where, *about)
    where = where.format(*map(bound, about))
    if isinstance(value, (list, tuple, set, dict)):
        raise TypeError(
            f"{where}: several vectors are not put together into one. Give each a matrix of its "
            "own and add, W.x @ x + W.h @ h, which is the same product"
        )
    if isinstance(value, str):
        raise TypeError(f"{where}: {value!r} is a string. Give the symbol itself, without quotes")
    if isinstance(value, sympy.Eq):
        raise TypeError(f"{where}: it is an equation. Use the symbol on its left instead")
    if isinstance(value, Boolean):
        raise TypeError(
            f"{where}: {short(value)} is a condition. Piecewise((1, {short(value)}), (0, True)) is "
            "1 where it holds, else 0"
        )
    if isinstance(value, (FunctionClass, type)) or callable(value):
        name = getattr(value, "__name__", value)
        raise TypeError(f"{where}: {name} is a function without its argument. Write {name}(…)")
    if getattr(value, "shape", ()) != ():
        raise TypeError(
            f"{where}: an array holds data, and equations hold symbols. Declare what is learned "
            'with vector("v"), and give its values in the parameters'
        )
    try:
        made = sympy.sympify(value.item() if hasattr(value, "item") else value, strict=True)
    except SympifyError:
        made = None
    if not isinstance(made, Expr):
        kind = type(value).__name__
        raise TypeError(f"{where}: {kind} is not an expression. Give symbols and numbers")
    return made


def no_matrix(left: object, right: object) -> TypeError:
    """The error for ``left @ right`` where ``left`` is not a matrix."""
    return TypeError(
        f"{bound(left)} @ {bound(right)}: {short(left)} is a vector, not a matrix. A matrix product"
        f' is W.i @ x, with W = weights("W"), an elementwise one {bound(left)} * {bound(right)}'
    )


def _of_a_library(library: str, name: str, args: Any) -> TypeError:
    """The error for a function of a library of arrays that was given a symbol."""
    given = args if isinstance(args, (tuple, list)) else (args,)
    instead = _INSTEAD.get(name, "").format(", ".join(map(short, given)))
    function = instead.partition("(")[0]
    origin = f", with {function} from lstmgen or sympy" if function.isidentifier() else ""
    hint = f"Write {instead}{origin}" if instead else "Use the functions of lstmgen and SymPy"
    return TypeError(f"{library}.{name} works on arrays, not on symbols. {hint}")


def _attribute(symbol: Any, name: str) -> str:
    """Why ``symbol`` has no attribute ``name``, and what to write."""
    text = short(symbol)
    is_state = vars(symbol).get("category") == "state"
    if name == "next":
        why = f'it is not a state; declare it with states("{text}")'
        why = "it is the value after the step" if is_state else why
    elif name in ("prev", "previous", "last", "before") and is_state:
        why = f"{symbol.name} is the value before the step, {symbol.name}.next the one after it"
    elif name in ("T", "t", "transpose"):
        why = "a matrix is transposed by .T, as in W.i.T @ x; vectors need no transpose"
    elif name in ("shape", "ndim"):
        why = f"a cell knows the sizes of its symbols, cell.shape({text})"
    elif name in _INSTEAD:
        why = f"write {_INSTEAD[name].format(text)}"
    else:
        why = did_you_mean(name, ["next"] if is_state else ["T"])
    return f"{text} has no .{name}" + (f": {why}" if why else "")


class _NoAttribute(AttributeError):
    """Words its message when it is read: SymPy asks symbols for many attributes, and only asks."""

    def __init__(self, symbol: Any, attribute: str) -> None:
        super().__init__(symbol, attribute)
        self.symbol, self.attribute = symbol, attribute

    def __str__(self) -> str:
        return _attribute(self.symbol, self.attribute)


def _comparison(relation: Any) -> Any:
    """``relation`` of SymPy, which says what to write where it is used as a truth value."""

    class Compared(relation):
        __slots__ = ()

        @property
        def func(self) -> Any:
            return relation  # what is made from it is SymPy's own

        def __bool__(self) -> bool:
            raise TypeError(
                f"{short(self)} differs from unit to unit, so Python's if, and, or, not, max, min "
                f"and sorted cannot use it. {_CHOICES}"
            )

    Compared.__name__ = relation.__name__
    return Compared


_GREATER, _AT_LEAST = _comparison(sympy.StrictGreaterThan), _comparison(sympy.GreaterThan)
_LESS, _AT_MOST = _comparison(sympy.StrictLessThan), _comparison(sympy.LessThan)


# Sums and products of our symbols are SymPy's own, and what is raised about them is, too.
_FOREIGN = {
    r"has no attribute 'T'": "what has two axes has a name before it is transposed: named(S + A).T",
    r"no callable (\w+) method": None,
    r"unsupported operand type\(s\) for @": "a matrix stands on the left of @, as in W.i @ x",
    r"truth value of Relational": _CHOICES,
    r"[Cc]annot (?:convert|round|truncate)": "write tanh(…) and the like with functions of lstmgen "
    "or sympy; Python's math takes numbers only",
    r"not subscriptable": "parts of a vector cannot be picked by [ ]; declare each part by itself",
    r"not iterable|non-iterable|has no len": "the sum over units is sum_(…)",
    r"(\w+)\(\): argument .* must be Tensor": None,
    r"'Equality'": "an equation is not an expression; in others, use the symbol on its left",
    r"SympifyError": "an equation has one expression on each side: Eq(left, right)",
}


def advice(error: BaseException) -> str:
    """What to write instead, of an error that SymPy or NumPy raised about expressions, or ""."""
    if not isinstance(error, (TypeError, AttributeError, SympifyError)):
        return ""
    for pattern, hint in _FOREIGN.items():
        found = re.search(pattern, f"{type(error).__name__}: {error}")
        if found:
            return hint or f"write {_INSTEAD.get(found[1], found[1] + '({})').format('…')}"
    return ""


class Explained:
    """Base of the symbols and functions of the language: what they are not, they explain."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name.startswith("is_"):
            raise AttributeError(name)
        raise _NoAttribute(self, name)

    # ------------------------------------------------------------------ not a number

    def __bool__(self) -> bool:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        if asking.partition(".")[0] in ("sympy", "lstmgen"):
            return True  # to SymPy, which asks, all but 0 is true
        raise TypeError(f"{short(self)} is a symbol, neither true nor false. {_CHOICES}")

    def _no_number(self, *_: object) -> Any:
        raise TypeError(
            f"{short(self)} is a symbol, not a number: float, int, round and Python's math do not "
            f"take it. Write tanh({short(self)}) and the like with functions of lstmgen or sympy"
        )

    __float__ = __int__ = __complex__ = __round__ = _no_number
    __floor__ = __ceil__ = __trunc__ = _no_number

    def __gt__(self, other: Any) -> Any:
        return _GREATER(self, expression(other, "{} > {}", self, other))

    def __ge__(self, other: Any) -> Any:
        return _AT_LEAST(self, expression(other, "{} >= {}", self, other))

    def __lt__(self, other: Any) -> Any:
        return _LESS(self, expression(other, "{} < {}", self, other))

    def __le__(self, other: Any) -> Any:
        return _AT_MOST(self, expression(other, "{} <= {}", self, other))

    # ------------------------------------------------------------------ not a sequence

    # Python iterates by it, too. An __iter__ would make SymPy take a symbol for a list.
    def __getitem__(self, key: object) -> Any:
        raise TypeError(
            f"{short(self)} is one symbol: it cannot be indexed, iterated over or unpacked. Write "
            f'sum_({short(self)}) for the sum over its units; states("h c") for two symbols; '
            'vectors("a b", size=4) for its parts; and keep a value of the past as a state'
        )

    _iterable = False  # which SymPy asks

    def __len__(self) -> int:
        raise TypeError(
            f"the length of {short(self)} is known only when code is called. mean, sum_ and the "
            "like look across units"
        )

    def __call__(self, *args: object) -> Any:
        after = str(self).endswith(".next")
        why = "Write h.next, without parentheses" if after else "Products are written with * or @"
        raise TypeError(f"{short(self)} is a symbol, not a function. {why}")

    # ------------------------------------------------------------------ not a matrix

    def __matmul__(self, other: object) -> Any:
        if isinstance(other, Linear):
            return NotImplemented  # and so it explains
        return self._contracted(self, other)

    def __rmatmul__(self, other: object) -> Any:
        return self._contracted(other, self)

    @staticmethod
    def _contracted(left: Any, right: Any) -> Any:
        """``left @ right`` where ``left`` is not a learned matrix."""
        raise no_matrix(left, right)

    # ------------------------------------------------------------------ not an array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **_: Any) -> Any:
        name = ufunc.__name__
        if method == "__call__" and name in _ARITHMETIC:
            return _ARITHMETIC[name](*(expression(a, "np.{}", name) for a in inputs))
        raise _of_a_library("np", name, inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise _of_a_library("np", function.__name__, args)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise _of_a_library("torch", getattr(function, "__name__", "?"), args)


def _checked(name: str, pattern: str) -> Callable[[Any, Any], Any]:
    """SymPy's operator ``name``, for numbers and expressions; what else it is given, explained."""

    def operation(self: Any, other: Any) -> Any:
        if not isinstance(other, Expr):
            other = expression(other, pattern, self, other)
        return getattr(super(Explained, self), name)(other)

    return operation


for _name, _sign in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}.items():
    setattr(Explained, f"__{_name}__", _checked(f"__{_name}__", f"{{0}} {_sign} {{1}}"))
    setattr(Explained, f"__r{_name}__", _checked(f"__r{_name}__", f"{{1}} {_sign} {{0}}"))


class Linear(Explained):
    """Base of what stands on the left of @: matrices, and what is made of them."""

    __slots__ = ()
