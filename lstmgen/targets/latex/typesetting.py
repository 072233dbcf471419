"""Expressions in LaTeX as a person sets them, in pieces between which a line may break."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Eq, Expr, Function, Symbol
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE

from ...language.matrices import Matrix
from ...language.symbols import (
    ADJOINT,
    STATIC,
    Concat,
    Contract,
    Expand,
    Gradient,
    Part,
    Reduction,
    Reshape,
    Transpose,
    Vector,
    named,
)
from ...printing.orders import (
    RAISED,
    Helper,
    Order,
    binds,
    is_negative,
    number,
    tidy,
    unnamed,
)
from .breaking import LINE, THIN, joined, width
from .names import Names

_COMMANDS = {
    "sigmoid": r"\sigma",
    "log": r"\log",
    "exp": r"\exp",
    "asin": r"\arcsin",
    "acos": r"\arccos",
    "atan": r"\arctan",
    "asinh": r"\operatorname{arsinh}",
    "acosh": r"\operatorname{arcosh}",
    "atanh": r"\operatorname{artanh}",
    "Max": r"\max",
    "Min": r"\min",
    "stop_gradient": r"\operatorname{sg}",
    "sum_": r"\operatorname{sum}",
    "max_": r"\operatorname{max}",
    "rcumsum": r"\operatorname{revcumsum}",
    **{name: rf"\{name}" for name in ("tanh", "sin", "cos", "tan", "sinh", "cosh")},
}
# \tanh c where nothing follows that could be taken for a part of the argument
_BARE = frozenset("tanh sin cos tan sinh cosh log asin acos atan".split())


class Braced(Function):
    """The argument of a function, with the name that the derivation gave it."""

    nargs = 2
    is_real = True


def is_alone(order: Order, names: Names) -> bool:
    """Whether the cotangent of the output is a letter by itself: there is one output, and no
    symbol looks like it. Else it is Δy, of each output y.
    """
    return len(order.cell.outputs) == 1 and not names.use("Delta")


class Slope(Function):
    """∂u/∂v of each unit, for the left-hand side of an equation."""

    nargs = 2
    is_real = True


class Typesetter(LatexPrinter):
    """One expression in LaTeX. ``origin`` is t, or empty where steps are counted from 0."""

    def __init__(self, order: Order, names: Names, origin: str = "t") -> None:
        super().__init__()
        self.person, self.names, self.origin = order, names, origin
        self.is_alone = is_alone(order, names)

    def sides(self, e: Eq) -> tuple[str, list[str]]:
        """The left-hand side, and the right-hand side in pieces between which it may break."""
        rhs = tidy(e.rhs)
        return self._print(e.lhs), self._terms(rhs) if rhs.is_Add else self._pieces(rhs)

    def _pieces(self, e: Expr) -> list[str]:
        """``e`` in pieces between which a line may break, if it is too long for one."""
        text: str = self._print(e)
        if width(text) < LINE - 80:
            return [text]
        e = unnamed(e)
        if e.is_Add:
            return self._terms(e)
        if e.is_Mul and is_negative(e):
            first, *others = self._pieces(-e)
            return [f"-{first}", *others]
        if e.is_Mul:
            above, below = self.person.fraction(e)
            pieces = self._long_row(above)
            if below:
                joint = THIN if all(map(self.person.scalar, below)) else r"\odot "
                pieces[:1] = [self._fraction("1", below), f"{joint}{pieces[0]}"]
            return pieces
        if isinstance(e, Function) and len(e.args) == 1:
            inner: str = self._print(e.args[0])
            enclosed = _parentheses(inner)
            if text.endswith(enclosed):
                return _enclosed(text.removesuffix(enclosed), self._pieces(e.args[0]))
            if text.endswith(inner):
                first, *others = self._pieces(e.args[0])
                return [text.removesuffix(inner) + first, *others]
        return [text]

    def _long_row(self, factors: Sequence[Expr]) -> list[str]:
        """The factors of a product, and long sums among them, in pieces."""
        pieces = []
        for f, text in zip(factors, self._row(factors), strict=True):
            if unnamed(f).is_Add and width(text) > LINE / 2:
                pieces += _enclosed(text.partition(r"\left(")[0], self._pieces(f))
            else:
                pieces.append(text)
        return pieces

    def _bound(self, e: Expr, level: str) -> str:
        inner: str = self._print(e)
        is_fraction = isinstance(e, sympy.Rational) and not e.is_Integer
        loose = isinstance(unnamed(e), sympy.Piecewise) or binds(e) <= PRECEDENCE[level]
        return _parentheses(inner) if loose or is_fraction else inner

    def _list(self, args: Sequence[Expr]) -> str:
        return ", ".join(self._print(a) for a in args)

    # ------------------------------------------------------------------ arithmetic

    def _print_Add(self, e: Expr, order: Any = None) -> str:
        return " ".join(self._terms(e))

    def _terms(self, e: Expr) -> list[str]:
        pieces = []
        for k, t in enumerate(self.person.terms(e)):
            minus = is_negative(t)
            loose = unnamed(t).is_Add or isinstance(t, sympy.Piecewise)
            term = -t if minus else t
            first, *others = [self._bound(term, "Add")] if loose else self._pieces(term)
            sign = "- " if minus and k else "-" if minus else "+ " if k else ""
            pieces += [sign + first, *others]
        return pieces

    def _print_Mul(self, e: Expr) -> str:
        if is_negative(e):
            return f"-{self._bound(-e, 'Add')}"
        above, below = self.person.fraction(e)
        if not below:
            return self._product(above)
        if len(above) == 1:
            return self._fraction(self._print(above[0]), below)
        if all(self.person.scalar(b) for b in below):
            # the numbers of a product make the fraction: (δr r³ / H) d
            numbers = [a for a in above if self.person.scalar(a)]
            vectors = [a for a in above if not self.person.scalar(a)]
            fraction = self._fraction(self._product(numbers) or "1", below)
            return f"{fraction}{THIN}{self._product(vectors)}" if vectors else fraction
        return self._fraction(self._product(above) or "1", below)

    def _fraction(self, above: str, below: Sequence[Expr]) -> str:
        under = self._print(below[0]) if len(below) == 1 else self._product(below)
        return rf"\frac{{{above}}}{{{under}}}"

    def _product(self, factors: Sequence[Expr]) -> str:
        return joined(self._row(factors))

    def _row(self, factors: Sequence[Expr]) -> list[str]:
        r"""The factors, each with what joins it to the one before: ⊙ between two vectors."""
        pieces: list[str] = []
        for k, f in enumerate(factors):
            last = k == len(factors) - 1
            text = self._bound(f, "Mul") if last else self._not_last(f)
            if k:
                before = factors[k - 1]
                if not (self.person.scalar(before) or self.person.scalar(f)):
                    text = rf"\odot {text}"
                elif before.is_Number and f.is_Number:
                    text = rf"\cdot {text}"
                elif text.startswith(r"\mathbf{1}") or (
                    before.atoms(Vector) and not text.startswith(r"\left")
                ):
                    text = f"{THIN}{text}"
            pieces.append(text)
        return pieces

    def _print_Pow(self, e: Expr) -> str:
        base, power = e.args
        if is_negative(power):
            return self._print_Mul(e)
        if power == sympy.Rational(1, 2):
            return rf"\sqrt{{{self._print(base)}}}"
        raised = _script("^", self._print(power))
        if power.is_Integer and isinstance(base, RAISED):
            return self._call(base, raised)
        inner = self._print(base)
        loose = binds(base) <= PRECEDENCE["Pow"] or base.func.__name__ in _BARE
        loose = loose or (base.is_Number and "^" in inner)
        return (_parentheses(inner) if loose else inner) + raised

    def _print_rsqrt(self, e: Expr) -> str:
        return self._print_Mul(e)

    def _print_Number(self, e: Expr) -> str:
        if e.is_Rational and not e.is_Integer:
            sign = "-" if e < 0 else ""
            return rf"{sign}\frac{{{abs(e.p)}}}{{{e.q}}}"
        mantissa, _, power = number(e).partition("e")
        if not power:
            return mantissa
        times = "" if mantissa == "1" else rf"{mantissa} \cdot "
        return f"{times}10^{{{int(power)}}}"

    _print_Float = _print_Integer = _print_Rational = _print_Number

    # ------------------------------------------------------------------ symbols

    def _print_Vector(self, v: Vector) -> str:
        time = ""
        if v.category not in STATIC:
            time = f"{self.origin}{v.time:+d}" if v.time and self.origin else ""
            time = time or self.origin or str(v.time)
        if v.category == "cotangent" and self.is_alone:
            return r"\boldsymbol{\Delta}" + _script("_", time)
        mark = r"\delta" if v.category in ADJOINT else ""
        mark = r"\Delta" if v.category == "cotangent" else mark
        mark = r"\mathrm{d}" if v.category.startswith("tangent") else mark
        bold = not (self.person.is_matrix(v) or self.person.scalar(v))
        name = self.names(v.name, bold=bold, time=time)
        is_command = mark[-1:].isalpha()  # which a letter would go on with
        return f"{mark} {name}" if is_command and name[0].isalpha() else mark + name

    def _print_Matrix(self, m: Matrix) -> str:
        name = self.names(m.name, bold=False)
        return rf"{name}^{{\top}}" if m.transposed else name

    def _print_Size(self, n: Symbol) -> str:
        return self.names(n.name, bold=False)

    # ------------------------------------------------------------------ functions

    def _call(self, e: Expr, raised: str = "", last: bool = True) -> str:
        name = e.func.__name__
        command = _COMMANDS.get(name, rf"\operatorname{{{name}}}")
        if isinstance(e.args[0], Braced):
            return f"{command}{raised}{self._print(e.args[0])}"
        if last and name in _BARE and isinstance(e.args[0], Vector):
            return f"{command}{raised} {self._print(e.args[0])}"
        return command + raised + _parentheses(self._list(e.args))

    def _not_last(self, f: Expr) -> str:
        """A factor that another follows: no function may seem to reach as far as that."""
        if f.func.__name__ in _BARE:
            return self._call(f, last=False)
        if f.is_Pow and f.exp.is_Integer and f.exp > 0 and isinstance(f.base, RAISED):
            return self._call(f.base, _script("^", self._print(f.exp)), last=False)
        return self._bound(f, "Mul")

    def _print_Function(self, e: Expr, exp: Any = None) -> str:
        return self._call(e)

    _print_tanh = _print_sin = _print_cos = _print_tan = _print_sinh = _print_cosh = _print_Function
    _print_asin = _print_acos = _print_atan = _print_asinh = _print_acosh = _print_Function
    _print_atanh = _print_log = _print_exp = _print_erf = _print_sign = _print_Function

    def _print_named(self, e: named) -> str:
        return str(self._print(e.args[0]))

    def _print_Braced(self, e: Braced) -> str:
        inner, name = (self._print(a) for a in e.args)
        # \left( would grow with the brace
        size = "bigg" if re.search(r"\\frac|\\sqrt|\\sum|\\begin", inner) else ""
        left, right = (rf"\{size}l(", rf"\{size}r)") if size else ("(", ")")
        return rf"{left}\underbrace{{{inner}}}_{{{name}}}{right}"

    def _print_Slope(self, e: Slope) -> str:
        above, below = (self._print(a) for a in e.args)
        return rf"\frac{{\partial {above}}}{{\partial {below}}}"

    def _print_Helper(self, e: Helper) -> str:
        first, *indices = e.name.split("_")
        raised = "".join(_script("_", i) for i in indices)
        return rf"\operatorname{{{first}}}{raised}{_parentheses(self._print(e.operand))}"

    def _print_Product(self, e: Expr) -> str:
        loose = isinstance(e.args[0], (sympy.Add, sympy.Mul))
        matrix = self._print(e.args[0])
        matrix = _parentheses(matrix) if loose else matrix
        return f"{matrix} {self._bound(e.args[1], 'Mul')}"

    def _print_Outer(self, e: Expr) -> str:
        return rf"{self._bound(e.args[0], 'Mul')}\, {self._turned(e.args[1])}"

    def _print_Contract(self, e: Contract) -> str:
        if e.is_outer:
            return self._print_Outer(e)
        return " ".join(
            self._turned(a) if transposed else self._bound(a, "Mul")
            for a, transposed in self.person.matrices(e)
        )

    def _print_Reduction(self, e: Reduction) -> str:
        axis = self.person.axis(e)
        if axis is None:
            return self._call(e)
        command = _COMMANDS.get(e.func.__name__, rf"\operatorname{{{e.func.__name__}}}")
        along = _script("_", self._print(axis))
        return command + along + _parentheses(self._print(e.args[0]))

    # SymPy's printers look for the class of a function itself, not for one that it inherits from
    _print_mean = _print_sum_ = _print_max_ = _print_cumsum = _print_Reduction

    def _print_Expand(self, e: Expand) -> str:
        along = (rf"[{k + 1}]" for k in e.elsewhere)  # as parts are counted, from 1
        shape = r" \times ".join(map(self._print, e.args[1])) + "".join(along)
        return rf"\operatorname{{expand}}_{{{shape}}}{_parentheses(self._print(e.operand))}"

    def _print_Part(self, e: Part) -> str:
        return _parentheses(self._print(e.operand)) + _script("_", f"[{e.number + 1}]")

    def _print_Reshape(self, e: Reshape) -> str:
        if e.repeats:
            value, count = map(self._print, e.repeats)
            return rf"\operatorname{{repeat}}_{{{count}}}{_parentheses(value)}"
        shape = r" \times ".join(map(self._print, e.args[1]))
        return _parentheses(self._print(e.operand)) + _script("_", shape)

    def _print_Transpose(self, e: Transpose) -> str:
        return self._turned(e.operand)

    def _turned(self, e: Expr) -> str:
        """The transpose of ``e``; two signs above each other are an error in TeX."""
        inner = self._bound(e, "Pow")
        is_turned = isinstance(e, Transpose) or (isinstance(e, Matrix) and e.transposed)
        return (_parentheses(inner) if is_turned else inner) + r"^{\top}"

    def _print_Concat(self, e: Concat) -> str:
        return rf"\left[{'; '.join(map(self._print, e.args))}\right]"

    def _print_Total(self, e: Expr) -> str:
        return rf"\sum_{{t=1}}^{{T}} {self._bound(e.args[0], 'Add')}"

    def _print_Gradient(self, e: Gradient) -> str:
        symbol = e.args[0]
        if isinstance(symbol, Vector) and symbol.category == "state":
            return rf"\frac{{\partial L}}{{\partial {self._initial(symbol)}}}"
        return rf"\frac{{\partial L}}{{\partial {self._print(symbol)}}}"

    def _initial(self, state: Vector) -> str:
        return self.names(state.name, bold=not self.person.scalar(state), time="0")

    def _print_step(self, e: Expr) -> str:
        return rf"\mathbf{{1}}\left[{self._print(e.args[0])} > 0\right]"

    def _print_equal(self, e: Expr) -> str:
        return rf"\mathbf{{1}}\left[{self._print(e.args[0])} = {self._print(e.args[1])}\right]"

    def _print_Heaviside(self, e: Expr, exp: Any = None) -> str:
        return rf"\Theta{_parentheses(self._print(e.args[0]))}"

    def _print_Abs(self, e: Expr, exp: Any = None) -> str:
        return rf"\left|{self._print(e.args[0])}\right|"

    def _print_floor(self, e: Expr, exp: Any = None) -> str:
        return rf"\left\lfloor {self._print(e.args[0])}\right\rfloor"

    def _print_ceiling(self, e: Expr, exp: Any = None) -> str:
        return rf"\left\lceil {self._print(e.args[0])}\right\rceil"

    def _print_Max(self, e: Expr, exp: Any = None) -> str:
        args = sorted(e.args, key=lambda a: (a.is_number, str(a)))
        return _COMMANDS[e.func.__name__] + _parentheses(self._list(args))

    _print_Min = _print_Max

    def _print_Mod(self, e: Expr, exp: Any = None) -> str:
        return _parentheses(
            rf"{self._bound(e.args[0], 'Mul')} \bmod {self._bound(e.args[1], 'Mul')}"
        )

    def _print_Piecewise(self, e: Expr) -> str:
        rows = []
        for value, condition in e.args:
            when = rf"\text{{if }} {self._print(condition)}"
            rows.append(
                f"{self._print(value)} & "
                + (r"\text{otherwise}" if condition == sympy.true else when)
            )
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"


def _parentheses(inner: str) -> str:
    return rf"\left({inner}\right)"


def _enclosed(head: str, pieces: list[str]) -> list[str]:
    """``pieces`` in parentheses that a line may break between."""
    first, *others = pieces
    enclosed = [rf"{head}\biggl({first}", *others]
    enclosed[-1] += r"\biggr)"
    return enclosed


def _script(mark: str, text: str) -> str:
    return f"{mark}{text}" if len(text) == 1 else f"{mark}{{{text}}}"
