"""Elementwise expressions and reductions, lowered to NumPy calls that write into given arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sympy
from sympy import Expr
from sympy.logic.boolalg import BooleanAtom

from ...errors import GenerateError
from ...language.functions import equal, expm1, relu, rsqrt, sigmoid, softplus, step, stop_gradient
from ...language.symbols import (
    STATIC,
    Reduction,
    Scan,
    Vector,
    max_,
    mean,
    rcumsum,
    sum_,
)
from ...planning.operations import vectors_in
from ...printing.orders import Order, is_negative
from .operands import Operands
from .scratch import column, number_array, temporary
from .tree import (
    ELLIPSIS,
    TURNED,
    Binary,
    Call,
    Equation,
    Global,
    Into,
    Junction,
    Kind,
    Literal,
    Local,
    Node,
    Sigmoid,
    Unary,
    call,
    item,
    np,
    store,
)

_HELPERS: dict[type, Global] = {softplus: Global("_softplus"), sympy.erf: Global("_erf")}
_UNARY: dict[type, str] = {
    sympy.exp: "exp", expm1: "expm1",
    sympy.log: "log", sympy.sin: "sin", sympy.cos: "cos",
    sympy.tan: "tan", sympy.asin: "arcsin", sympy.acos: "arccos",
    sympy.atan: "arctan", sympy.sinh: "sinh", sympy.cosh: "cosh", sympy.tanh: "tanh",
    sympy.asinh: "arcsinh", sympy.acosh: "arccosh", sympy.atanh: "arctanh",
    sympy.Abs: "abs", sympy.sign: "sign", sympy.floor: "floor",
    sympy.ceiling: "ceil",
}  # fmt: skip
_BINARY: dict[type, str] = {sympy.Max: "maximum", sympy.Min: "minimum", equal: "equal"}
_WITH_NUMBER: dict[type, tuple[str, float]] = {
    relu: ("maximum", 0.0),
    step: ("greater", 0.0),
    sympy.Heaviside: ("heaviside", 0.5),
}


@dataclass(frozen=True)
class Lanes:
    """Equations that are computed as one: their number, and what holds the vectors of all that the
    first of them reads.
    """

    many: int = 1
    of: Mapping[Vector, Node] = field(default_factory=dict)


ALONE = Lanes()


class Elementwise:
    """Lowers one expression to calls that write into given arrays.

    Parameters
    ----------
    operands : Operands
    order : Order
        In which terms and factors are written.
    inside : bool
        Whether this is the loop over steps.
    lanes : Lanes
    """

    def __init__(
        self, operands: Operands, order: Order, inside: bool, lanes: Lanes = ALONE
    ) -> None:
        self.operands, self.order, self.inside, self.lanes = operands, order, inside, lanes
        self.cell = operands.cell
        self.made: list[Node] = []
        self.taken: list[Node] = []  # scratch and numbers, in the order in which they were needed
        self.busy = 0  # scratch arrays that hold something

    def equation(self, e: Expr, out: Node, about: tuple[str, ...]) -> Equation:
        """What writes ``e`` to ``out``, even where ``e`` reads what is there."""
        self._write(e, out)
        reads = (self.of(v) for v in vectors_in([e]))
        return Equation(about, (out, *reads, *self.taken), tuple(self.made))

    def value(self, e: Expr) -> tuple[Equation, Node]:
        """What computes ``e``, and what holds it."""
        value = self._value(e)
        return Equation((), tuple(self.taken), tuple(self.made)), value

    def _write(self, e: Expr, out: Node) -> None:
        reads = [v for v in vectors_in([e]) if self.of(v) == out]
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

    def of(self, v: Vector) -> Node:
        """The operand for ``v``."""
        if v in self.lanes.of:
            return self.lanes.of[v]
        if self.lanes.many > 1 and not self.inside:
            return self.operands.once(v)
        return self.operands.of(v, self.inside)

    # ------------------------------------------------------------------ inside

    def _by_detour(self, e: Expr, out: Node) -> None:
        self._copy(self._value(e), out)

    def _copy(self, value: Node, out: Node) -> None:
        if value != out:
            self.made.append(store(out, value))

    def _emit(self, function: str, *arguments: Node, out: Node, **options: Node) -> None:
        self.made.append(Into(np(function), arguments, out, tuple(options.items())))

    def _extent(self, e: Expr) -> Expr:
        return self.cell.shapes.of(e)

    def _is_plain(self, e: Expr) -> bool:
        """A number as far as NumPy is concerned: no vector in it."""
        return not e.atoms(Vector)

    def _one_call(self, e: Expr) -> bool:
        atoms = all(self._is_leaf(a) or self._is_plain(a) for a in e.args)
        single = len(e.args) <= 2 and not isinstance(e, sympy.Piecewise)
        return atoms and single and not (isinstance(e, sympy.Pow) and e.exp not in (2,))

    def _number(self, e: Expr | float) -> Node:
        number = number_array(sympy.sympify(e))
        self.taken.append(number)
        return number

    def _value(self, e: Expr) -> Node:
        """What holds ``e``."""
        if isinstance(e, Vector):
            return self.of(e)
        if self._is_plain(e):
            return self._number(e)
        self.busy += 1
        scratch = self._scratch(e)
        self.taken.append(scratch)
        self._into(e, scratch)
        return scratch

    def _scratch(self, e: Expr) -> Node:
        """Memory for ``e``, beside what is busy."""
        return temporary(self.busy, self._extent(e), self.lanes.many, self.inside)

    def _is_leaf(self, e: Expr) -> bool:
        """Whether ``e`` is there already."""
        return isinstance(e, Vector)

    def _start(self, e: Expr, out: Node, size: Expr) -> Node:
        """The first operand of a chain: computed in place if it is as wide as the result."""
        if self._is_leaf(e) or self._is_plain(e) or self._extent(e) != size:
            return self._value(e)
        self._into(e, out)
        return out

    def _chain(self, function: str, held: Node, e: Expr, out: Node) -> None:
        """out = function(held, e), with scratch for ``e`` given back afterwards."""
        busy = self.busy
        self._emit(function, held, self._value(e), out=out)
        self.busy = busy

    def _into(self, e: Expr, out: Node) -> None:
        """Write ``e`` to ``out``, which it does not read (unless it is a single call)."""
        kind = type(e)
        busy = self.busy
        if self._is_leaf(e) or self._is_plain(e):
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

    def _negate(self, inner: Node, out: Node) -> None:
        """Not by np.negative: in NumPy 2.4, in place, that is wrong for numbers 64 bytes apart (in
        single precision 16).
        """
        self._emit("multiply", inner, self._number(-1), out=out)

    def _unary(self, e: Expr, inner: Node, out: Node) -> None:
        kind = type(e)
        if isinstance(e, sigmoid):
            self.made.append(Sigmoid(self._number(1), self._number(-1), inner, out))
        elif isinstance(e, rsqrt):
            self._emit("sqrt", inner, out=out)
            self._emit("divide", self._number(1), out, out=out)
        elif isinstance(e, stop_gradient):
            self._copy(inner, out)
        elif kind in _HELPERS:
            self.made.append(store(out, call(_HELPERS[kind], inner)))
        elif kind in _WITH_NUMBER:
            function, number = _WITH_NUMBER[kind]
            if len(e.args) > 1:  # Heaviside(a, 0): its value at 0
                number = e.args[1]
            self._emit(function, inner, self._number(number), out=out)
        elif kind in _UNARY:
            self._emit(_UNARY[kind], inner, out=out)
        else:
            raise GenerateError(f"the NumPy target cannot print {kind.__name__}: {e}")

    def _fold(self, held: Node, terms: Sequence[Expr], out: Node) -> None:
        """out = held ± terms."""
        for term in terms:
            negative = is_negative(term)
            function = "subtract" if negative else "add"
            self._chain(function, held, -term if negative else term, out)
            held = out

    def _product(self, e: Expr, out: Node) -> None:
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
                self._chain("multiply", held, f, out)
                held = out
            if number == -1:
                self._negate(held, out)
                held = out
            elif number != 1:
                self._emit("multiply", held, self._number(number), out=out)
                held = out
        else:
            held = self._number(number)
        for f in below:
            self._chain("divide", held, f, out)
            held = out
        self._copy(held, out)

    def _power(self, e: Expr, out: Node) -> None:
        base, exponent = e.args
        if exponent.is_number and exponent.is_negative:
            self._chain("divide", self._number(1), 1 / e, out)
        elif exponent == sympy.Rational(1, 2):
            self._emit("sqrt", self._start(base, out, self._extent(e)), out=out)
        elif exponent == 2:
            self._emit("square", self._start(base, out, self._extent(e)), out=out)
        elif exponent in (3, 4):
            held = self._value(base)
            self._emit("square", held, out=out)
            self._emit("multiply", out, held if exponent == 3 else out, out=out)
        elif self._is_leaf(base) or self._is_plain(base):
            self._chain("power", self._value(base), exponent, out)
        else:
            self._chain("power", self._start(base, out, self._extent(e)), exponent, out)

    def _piecewise(self, e: Expr, out: Node) -> None:
        chosen: Node = np("nan")
        for value, condition in reversed(e.args):
            here = self._value(value)
            if condition == sympy.true:
                chosen = here
            else:
                chosen = call(np("where"), self._condition(condition), here, chosen)
        self.made.append(store(out, chosen))

    def _condition(self, c: Expr) -> Node:
        if isinstance(c, BooleanAtom):
            return Literal(bool(c))
        if isinstance(c, (sympy.And, sympy.Or)):
            joint = "&" if isinstance(c, sympy.And) else "|"
            return Junction(joint, tuple(self._condition(a) for a in c.args))
        if isinstance(c, sympy.Not):
            return Unary("~", Junction("", (self._condition(c.args[0]),)))
        return Binary(self._value(c.lhs), c.rel_op, self._value(c.rhs))

    def _reduce(self, e: Expr, out: Node) -> None:
        static = all(v.category in STATIC for v in e.atoms(Vector))
        if isinstance(e, (mean, sum_)) and not static:
            size = self._extent(e.args[0])
            factors = sympy.Mul.make_args(e.args[0])
            number = sympy.Mul(*(f for f in factors if self._is_plain(f)))
            operand = self._value(sympy.Mul(*(f for f in factors if not self._is_plain(f))))
            weight = number / size if isinstance(e, mean) else number
            self._emit(self._dot(out), operand, column(size, weight), out=out)
            return
        operand = self._value(e.args[0])
        last = Literal(-1)
        if isinstance(e, Scan):
            turned = isinstance(e, rcumsum)
            source, target = (_turned(a) if turned else a for a in (operand, out))
            if static:
                total: Node = Call(np("cumsum"), (source,), (("axis", last),))
                self.made.append(store(out, _turned(total) if turned else total))
            else:
                self._emit("cumsum", source, axis=last, out=target)
            return
        options = {"axis": last, "keepdims": Literal(True)}
        if static:  # the same for every row: it is broadcast
            function = {mean: "mean", sum_: "sum", max_: "max"}[type(e)]
            self.made.append(store(out, Call(np(function), (operand,), tuple(options.items()))))
        else:
            self._emit("maximum.reduce", operand, **options, out=out)

    def _dot(self, out: Node) -> str:
        """The function for a product with a column: np.dot takes less time to start, where the
        result is an array of its own, a row for each row of the batch.
        """
        alone = isinstance(out, Local) and out.kind is Kind.SCRATCH
        return "dot" if self.inside and self.lanes.many == 1 and alone else "matmul"


def _turned(a: Node) -> Node:
    return item(a, ELLIPSIS, TURNED)


def _is_reciprocal(f: Expr) -> bool:
    return isinstance(f, sympy.Pow) and bool(f.exp.is_number) and bool(f.exp.is_negative)
