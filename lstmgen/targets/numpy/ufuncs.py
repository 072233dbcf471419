"""Elementwise expressions and reductions as NumPy calls that write into given arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy
from sympy import Expr, Integer
from sympy.logic.boolalg import BooleanAtom
from sympy.printing.str import StrPrinter

from ...errors import GenerateError
from ...language.cell import Cell
from ...language.functions import equal, expm1, relu, rsqrt, sigmoid, softplus, step, stop_gradient
from ...language.symbols import Reduction, Scan, Vector, cumsum, max_, mean, rcumsum, sum_
from ...planning.operations import vectors_in
from ...printing.orders import Order, is_negative, literal

HELPERS: dict[type, str] = {softplus: "_softplus", sympy.erf: "_erf"}  # functions of the template
_UNARY: dict[type, str] = {
    sympy.exp: "np.exp", expm1: "np.expm1",
    sympy.log: "np.log", sympy.sin: "np.sin", sympy.cos: "np.cos",
    sympy.tan: "np.tan", sympy.asin: "np.arcsin", sympy.acos: "np.arccos",
    sympy.atan: "np.arctan", sympy.sinh: "np.sinh", sympy.cosh: "np.cosh", sympy.tanh: "np.tanh",
    sympy.asinh: "np.arcsinh", sympy.acosh: "np.arccosh", sympy.atanh: "np.arctanh",
    sympy.Abs: "np.abs", sympy.sign: "np.sign", sympy.floor: "np.floor",
    sympy.ceiling: "np.ceil",
}  # fmt: skip
_BINARY: dict[type, str] = {sympy.Max: "np.maximum", sympy.Min: "np.minimum", equal: "np.equal"}
_WITH_NUMBER: dict[type, tuple[str, str]] = {
    relu: ("np.maximum", "0.0"),
    step: ("np.greater", "0.0"),
    sympy.Heaviside: ("np.heaviside", "0.5"),
}
_IN_PLACE = {"np.add": "+=", "np.subtract": "-=", "np.multiply": "*=", "np.divide": "/="}
_COMMUTES = ("np.add", "np.multiply")


class Calls:
    """Writes an expression as a sequence of calls with ``out=``, or of statements such as a += b.

    Parameters
    ----------
    ref : function
        The name of the array that holds a vector.
    temporary : function
        The name of the n-th scratch array of a size; equal arguments give equal names.
    number : function
        The name of an array without axes that holds a number: as an operand it costs half as much
        as a Python number.
    total : function
        The call that writes the sum of an array's units, each times a number, into another array.
    """

    def __init__(
        self,
        cell: Cell,
        order: Order,
        ref: Callable[[Vector], str],
        temporary: Callable[[int, Expr], str],
        number: Callable[[str], str],
        total: Callable[[str, str, Expr, Expr], str],
    ) -> None:
        self.cell, self.order, self.ref, self.temporary = cell, order, ref, temporary
        self.number, self.total = number, total
        self.may_overflow = False  # whether exp(-a) may be infinite, and σ(a) is 0 then
        self.lines: list[str] = []
        self.busy = 0  # scratch arrays that hold something

    def into(self, e: Expr, out: str) -> list[str]:
        """Lines that write ``e`` to ``out``, even where ``e`` reads what is there."""
        self.lines, self.busy = [], 0
        reads = [v for v in vectors_in([e]) if self.ref(v) == out]
        if isinstance(e, Vector) and reads:
            pass  # it is there
        elif not reads or self._one_call(e):
            self._into(e, out)
        elif isinstance(e, sympy.Add) and reads[0] in e.args:
            rest = e - reads[0]
            if rest.has(reads[0]):
                self._by_detour(e, out)
            else:  # a sum that is being completed
                self._fold(out, self.order.terms(rest), out)
        else:
            self._by_detour(e, out)
        return self.lines

    def value(self, e: Expr) -> tuple[list[str], str]:
        """Lines that compute ``e``, and the name of what holds it."""
        self.lines, self.busy = [], 0
        return self.lines, self._value(e)

    # ------------------------------------------------------------------ inside

    def _by_detour(self, e: Expr, out: str) -> None:
        self._copy(self._value(e), out)

    def _copy(self, value: str, out: str) -> None:
        if value != out:
            self.lines.append(f"{out}[...] = {value}")

    def _emit(self, function: str, *arguments: str, out: str) -> None:
        self.lines.append(call(function, *arguments, out=out))

    def _extent(self, e: Expr) -> Expr:
        return self.cell.shapes.of(e)

    def _is_plain(self, e: Expr) -> bool:
        """A number as far as NumPy is concerned: no vector in it."""
        return not e.atoms(Vector)

    def _one_call(self, e: Expr) -> bool:
        atoms = all(isinstance(a, Vector) or self._is_plain(a) for a in e.args)
        single = len(e.args) <= 2 and not isinstance(e, sympy.Piecewise)
        return atoms and single and not (isinstance(e, sympy.Pow) and e.exp not in (2,))

    def _value(self, e: Expr) -> str:
        """The name or literal that holds ``e``."""
        if isinstance(e, Vector):
            return self.ref(e)
        if self._is_plain(e):
            return self.number(scalar(e))
        self.busy += 1
        name = self.temporary(self.busy, self._extent(e))
        self._into(e, name)
        return name

    def _start(self, e: Expr, out: str, size: Expr) -> str:
        """The first operand of a chain: computed in place if it is as wide as the result."""
        if isinstance(e, Vector) or self._is_plain(e) or self._extent(e) != size:
            return self._value(e)
        self._into(e, out)
        return out

    def _chain(self, function: str, held: str, e: Expr, out: str) -> None:
        """out = function(held, e), with scratch for ``e`` given back afterwards."""
        busy = self.busy
        self._emit(function, held, self._value(e), out=out)
        self.busy = busy

    def _into(self, e: Expr, out: str) -> None:
        """Write ``e`` to ``out``, which it does not read (unless it is a single call)."""
        kind = type(e)
        busy = self.busy
        if isinstance(e, Vector) or self._is_plain(e):
            self._copy(self._value(e), out)
        elif isinstance(e, Reduction):
            self._reduce(e, out)
        elif isinstance(e, sympy.Add):
            first, *rest = self.order.terms(e)
            self._fold(self._start(first, out, self._extent(e)), rest, out)
        elif isinstance(e, sympy.Mul):
            self._product(e, out)
        elif isinstance(e, sympy.Pow):
            self._power(e, out)
        elif isinstance(e, sympy.Piecewise):
            self._piecewise(e, out)
        elif kind in _BINARY:
            first, *rest = e.args
            held = self._start(first, out, self._extent(e))
            for arg in rest:
                self._chain(_BINARY[kind], held, arg, out)
                held = out
        else:
            self._unary(e, self._start(e.args[0], out, self._extent(e)), out)
        self.busy = busy

    def _negate(self, inner: str, out: str) -> None:
        """Not by np.negative: in NumPy 2.4, in place, that is wrong for numbers 64 bytes apart (in
        single precision 16).
        """
        self._emit("np.multiply", inner, self.number("-1.0"), out=out)

    def _unary(self, e: Expr, inner: str, out: str) -> None:
        kind = type(e)
        if isinstance(e, sigmoid):
            one = self.number("1.0")
            self._negate(inner, out)
            self.lines[-1] += "  # σ(a) = 1 / (1 + exp(-a))"
            self._emit("np.exp", out, out=out)
            self._emit("np.add", out, one, out=out)
            self._emit("np.divide", one, out, out=out)
            self.may_overflow = True
        elif isinstance(e, rsqrt):
            self._emit("np.sqrt", inner, out=out)
            self._emit("np.divide", self.number("1.0"), out, out=out)
        elif isinstance(e, stop_gradient):
            self._copy(inner, out)
        elif kind in HELPERS:
            self.lines.append(f"{out}[...] = {HELPERS[kind]}({inner})")
        elif kind in _WITH_NUMBER:
            function, number = _WITH_NUMBER[kind]
            if len(e.args) > 1:  # Heaviside(a, 0): its value at 0
                number = scalar(e.args[1])
            self._emit(function, inner, self.number(number), out=out)
        elif kind in _UNARY:
            self._emit(_UNARY[kind], inner, out=out)
        else:
            raise GenerateError(f"the NumPy target cannot print {kind.__name__}: {e}")

    def _fold(self, held: str, terms: Sequence[Expr], out: str) -> None:
        """out = held ± terms."""
        for term in terms:
            negative = is_negative(term)
            function = "np.subtract" if negative else "np.add"
            self._chain(function, held, -term if negative else term, out)
            held = out

    def _product(self, e: Expr, out: str) -> None:
        above = [f for f in self.order.factors(e) if not _is_reciprocal(f)]
        below = [1 / f for f in self.order.factors(e) if _is_reciprocal(f)]
        number = sympy.Mul(*(f for f in above if self._is_plain(f))) / sympy.Mul(
            *(f for f in below if self._is_plain(f))
        )
        above = [f for f in above if not self._is_plain(f)]
        below = [f for f in below if not self._is_plain(f)]
        # the widest first: what is computed in place has to be as wide as the result
        above.sort(key=lambda f: self._extent(f) == 1)
        if above:
            held = self._start(above[0], out, self._extent(e))
            for f in above[1:]:
                self._chain("np.multiply", held, f, out)
                held = out
            if number == -1:
                self._negate(held, out)
                held = out
            elif number != 1:
                self._emit("np.multiply", held, self.number(scalar(number)), out=out)
                held = out
        else:
            held = self.number(scalar(number))
        for f in below:
            self._chain("np.divide", held, f, out)
            held = out
        self._copy(held, out)

    def _power(self, e: Expr, out: str) -> None:
        base, exponent = e.args
        if exponent.is_number and exponent.is_negative:
            self._chain("np.divide", self.number("1.0"), 1 / e, out)
        elif exponent == sympy.Rational(1, 2):
            self._emit("np.sqrt", self._start(base, out, self._extent(e)), out=out)
        elif exponent == 2:
            self._emit("np.square", self._start(base, out, self._extent(e)), out=out)
        elif exponent in (3, 4):
            held = self._value(base)
            self._emit("np.square", held, out=out)
            self._emit("np.multiply", out, held if exponent == 3 else out, out=out)
        elif isinstance(base, Vector) or self._is_plain(base):
            self._chain("np.power", self._value(base), exponent, out)
        else:
            self._chain("np.power", self._start(base, out, self._extent(e)), exponent, out)

    def _piecewise(self, e: Expr, out: str) -> None:
        cases = list(e.args)
        text = "np.nan"
        for value, condition in reversed(cases):
            chosen = self._value(value)
            if condition == sympy.true:
                text = chosen
            else:
                text = f"np.where({self._condition(condition)}, {chosen}, {text})"
        self.lines.append(f"{out}[...] = {text}")

    def _condition(self, c: Expr) -> str:
        if isinstance(c, BooleanAtom):
            return str(bool(c))
        if isinstance(c, (sympy.And, sympy.Or)):
            joint = " & " if isinstance(c, sympy.And) else " | "
            return joint.join(sorted(f"({self._condition(a)})" for a in c.args))
        if isinstance(c, sympy.Not):
            return f"~({self._condition(c.args[0])})"
        return f"{self._value(c.lhs)} {c.rel_op} {self._value(c.rhs)}"

    def _reduce(self, e: Expr, out: str) -> None:
        static = all(v.category in ("parameter", "constant") for v in e.atoms(Vector))
        if isinstance(e, (mean, sum_)) and not static:
            size = self._extent(e.args[0])
            factors = sympy.Mul.make_args(e.args[0])
            number = sympy.Mul(*(f for f in factors if self._is_plain(f)))
            operand = self._value(sympy.Mul(*(f for f in factors if not self._is_plain(f))))
            weight = number / size if isinstance(e, mean) else number
            self.lines.append(self.total(operand, out, size, weight))
            return
        operand = self._value(e.args[0])
        if static and isinstance(e, Scan):
            turn = "[..., ::-1]" if isinstance(e, rcumsum) else ""
            self.lines.append(f"{out}[...] = np.cumsum({operand}{turn}, axis=-1){turn}")
        elif isinstance(e, cumsum):
            self._emit("np.cumsum", operand, "axis=-1", out=out)
        elif isinstance(e, rcumsum):
            self._emit("np.cumsum", f"{operand}[..., ::-1]", "axis=-1", out=f"{out}[..., ::-1]")
        elif static:  # the same for every row: it is broadcast
            function = {mean: "np.mean", sum_: "np.sum", max_: "np.max"}[type(e)]
            self.lines.append(f"{out}[...] = {function}({operand}, axis=-1, keepdims=True)")
        else:
            self._emit("np.maximum.reduce", operand, "axis=-1", "keepdims=True", out=out)


def call(function: str, *arguments: str, out: str) -> str:
    """One call that writes to ``out``; a += b where that says the same, which is faster too."""
    if function in _IN_PLACE and len(arguments) == 2:
        first, second = arguments
        if second == out and function in _COMMUTES:
            first, second = second, first
        if first == out:
            return f"{out} {_IN_PLACE[function]} {second}"
    return f"{function}({', '.join(arguments)}, out={out})"


def _is_reciprocal(f: Expr) -> bool:
    return isinstance(f, sympy.Pow) and bool(f.exp.is_number) and bool(f.exp.is_negative)


class _Scalars(StrPrinter):
    """Numbers and sizes as Python writes them."""

    def _print_Rational(self, e: Expr) -> str:
        return repr(float(e)) if e.q & (e.q - 1) == 0 else f"({e.p} / {e.q})"

    def _print_Float(self, e: Expr) -> str:
        return literal(e)


def scalar(e: Expr) -> str:
    """A number, or an expression in sizes, as Python: 0.5, 4*H, 1/H."""
    if e.is_number and not isinstance(e, (Integer, sympy.Rational)):
        return repr(float(e))
    if isinstance(e, Integer):
        return f"{int(e)}.0"
    return str(_Scalars().doprint(e))


def count(e: Expr) -> str:
    """A number of units as Python: H, 4*H."""
    return str(_Scalars().doprint(sympy.expand(e)))
