"""Equations as one line of text: for ``lstmgen show``, and for the comments in generated code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import sympy
from sympy import Eq, Expr
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.printer import Printer

from ..language.cell import Cell
from ..language.functions import Range
from ..language.initial import Initial, Start
from ..language.matrices import Matrix
from ..language.ranges import ANY, ranges
from ..language.symbols import (
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
    shift,
)
from .orders import (
    RAISED,
    Helper,
    Order,
    binds,
    families,
    fold_helpers,
    is_negative,
    number,
    one_line,
    parameter_count,
    tidy,
    unnamed,
)

Style = Literal["show", "code"]

_MARKS = {"adjoint": "δ", "cotangent": "Δ", "carry": "δ", "gathered": "Σδ"}
_NAMES = {"sigmoid": "σ", "sum_": "sum", "max_": "max", "Max": "max", "Min": "min", "log": "log"}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_RELATIONS = {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥", "<": "<", ">": ">"}


def text(e: Expr | Eq, order: Order | Cell, style: Style = "code") -> str:
    """An equation or an expression as one line of text.

    In the style "show" a product is written by putting its factors side by side, and the state
    that leaves the step is primed: ``c′ = f c + i g``. In the style "code" time is an index, and
    ∘ is the elementwise product: ``c[t] = f ∘ c[t-1] + i ∘ g``. What has no index is at t. The
    line never holds a ``*``, so that it cannot close a comment in C.
    """
    order = order if isinstance(order, Order) else Order(order)
    return _TextPrinter(order, style, e).doprint(e)  # type: ignore[no-any-return]


def _is_state(symbol: Expr) -> bool:
    return isinstance(symbol, Vector) and symbol.category == "state"


class _TextPrinter(Printer):
    def __init__(self, order: Order, style: Style, e: Expr) -> None:
        super().__init__()
        self.person, self.style = order, style
        self.origin = "t"  # or "", at the beginning of the sequence
        # δc = δh ∘ o ∘ (1 - tanh²(c)) + δc[t+1] ∘ f[t+1]: beside adjoints, c is c[t]
        self.now = "" if any(v.category in ADJOINT for v in e.atoms(Vector)) else "[t]"

    def emptyPrinter(self, expr: Any) -> str:
        return str(expr)

    def _bound(self, e: Expr, level: str) -> str:
        """``e``, in parentheses unless it holds together more tightly than ``level``."""
        inner: str = self._print(e)
        loose = isinstance(unnamed(e), sympy.Piecewise) or binds(e) <= PRECEDENCE[level]
        return f"({inner})" if loose else inner

    def _list(self, args: Sequence[Expr]) -> str:
        return ", ".join(self._print(a) for a in args)

    # ------------------------------------------------------------------ arithmetic

    def _print_Equality(self, e: Eq) -> str:
        rhs = e.rhs
        if isinstance(e.lhs, Gradient) and _is_state(e.lhs.args[0]):
            # what flows out of the first step: ∂L/∂c[0] = δc[1] ∘ f[1]
            rhs, self.origin, self.now = shift(rhs, 1), "", "[0]"
        return f"{self._print(e.lhs)} = {self._print(tidy(rhs))}"

    def _print_Add(self, e: Expr) -> str:
        line = ""
        for k, t in enumerate(self.person.terms(e)):
            minus = is_negative(t)
            sign = (" - " if minus else " + ") if k else ("-" if minus else "")
            loose = minus or isinstance(t, sympy.Piecewise)
            line += sign + (self._bound(-t if minus else t, "Add") if loose else self._print(t))
        return line

    def _print_Mul(self, e: Expr) -> str:
        if is_negative(e):
            return f"-{self._bound(-e, 'Add')}"
        above, below = self.person.fraction(e)
        if not below:
            return self._side_by_side(above)
        alone = len(above) == 1
        top = self._bound(above[0], "Add") if alone else self._side_by_side(above) or "1"
        bottom = self._side_by_side(below)
        if len(below) > 1:
            bottom = f"({bottom})"
        tight = all(b.is_Atom or (b.is_Pow and b.base.is_Atom) for b in below)
        return f"{top}/{bottom}" if tight else f"{top} / {bottom}"

    def _side_by_side(self, factors: Sequence[Expr]) -> str:
        line, before = "", None
        for f in factors:
            if before is not None:
                wide = not (self.person.scalar(before) or self.person.scalar(f))
                matrices = self._has_axes(before) and self._has_axes(f)
                line += " ∘ " if wide and (matrices or self.style == "code") else " "
            line += self._bound(f, "Mul")
            before = f
        return line

    def _has_axes(self, e: Expr) -> bool:
        """Whether ``e`` is a matrix, whose product with another could be taken for another one."""
        return len(self.person.cell.shapes.axes(e)) > 1

    def _print_Pow(self, e: Expr) -> str:
        base, power = e.args
        if is_negative(power):
            return self._print_Mul(e)
        if power == sympy.Rational(1, 2):
            return f"sqrt({self._print(base)})"
        if not power.is_Integer:
            return f"{self._bound(base, 'Pow')}^{self._bound(power, 'Mul')}"
        raised = str(power).translate(_SUPERSCRIPTS)
        if isinstance(base, RAISED):
            return self._call(base, raised)
        return f"{self._bound(base, 'Pow')}{raised}"

    def _print_Number(self, e: Expr) -> str:
        return number(e)

    def _print_Exp1(self, e: Expr) -> str:
        return "e"

    def _print_Pi(self, e: Expr) -> str:
        return "π"

    # ------------------------------------------------------------------ symbols

    def _print_Vector(self, v: Vector) -> str:
        category = v.category.removeprefix("partial ")
        carried = "⁺" if category == "carry" else ""
        mark = "d" if category.startswith("tangent ") else _MARKS.get(category, "")
        return f"{mark}{v.name}{carried}{self._time(v)}"

    def _time(self, v: Vector) -> str:
        if v.category in STATIC:
            return ""
        if self.style == "show" and _is_state(v) and v.time in (0, -1):
            return "" if v.time else "′"
        if v.time == 0:
            return self.now if _is_state(v) else ""
        return f"[t{v.time:+d}]" if self.origin else f"[{v.time}]"

    def _print_Matrix(self, m: Matrix) -> str:
        return f"{m.name}ᵀ" if m.transposed else str(m.name)

    # ------------------------------------------------------------------ functions

    def _call(self, e: Expr, raised: str = "") -> str:
        name = _NAMES.get(e.func.__name__, e.func.__name__)
        return f"{name}{raised}({self._list(e.args)})"

    def _print_Function(self, e: Expr) -> str:
        return self._call(e)

    def _print_named(self, e: Expr) -> str:
        return str(self._print(e.args[0]))

    def _print_Helper(self, e: Helper) -> str:
        return f"{e.name}({self._print(e.operand)})"

    def _print_Product(self, e: Expr) -> str:
        loose = isinstance(e.matrix, (sympy.Add, sympy.Mul))
        matrix = f"({self._print(e.matrix)})" if loose else self._print(e.matrix)
        return f"{matrix} {self._bound(e.operand, 'Mul')}"

    def _print_Outer(self, e: Expr) -> str:
        left, right = e.args[:2]
        return f"{self._bound(left, 'Mul')} {self._bound(right, 'Mul')}ᵀ"

    def _print_Contract(self, e: Contract) -> str:
        if e.is_outer:
            return self._print_Outer(e)
        factors = self.person.matrices(e)
        return " ".join(
            self._bound(a, "Mul") + ("ᵀ" if transposed else "") for a, transposed in factors
        )

    def _print_Reduction(self, e: Reduction) -> str:
        axis = self.person.axis(e)
        return self._call(e.func(e.args[0]) if axis is None else e.func(e.args[0], axis))

    # SymPy's printers look for the class of a function itself, not for one that it inherits from
    _print_mean = _print_sum_ = _print_max_ = _print_cumsum = _print_rcumsum = _print_Reduction

    def _print_Expand(self, e: Expand) -> str:
        return f"expand({self._print(e.operand)}{e.axis})"

    def _print_Part(self, e: Part) -> str:
        return f"split({self._print(e.operand)})[{e.number}]"

    def _print_Reshape(self, e: Reshape) -> str:
        if e.repeats:
            return f"repeat({self._list(e.repeats)})"
        axes = " × ".join(self._print(n) for n in e.args[1])
        inner = self._print(e.operand)
        return f"chunk({inner}, {axes})" if len(e.args[1]) > 1 else f"flatten({inner})"

    def _print_Transpose(self, e: Transpose) -> str:
        return f"{self._bound(e.operand, 'Pow')}ᵀ"

    def _print_Concat(self, e: Concat) -> str:
        return f"[{self._list(e.args)}]"

    def _print_Total(self, e: Expr) -> str:
        return f"Σ_t {self._bound(e.args[0], 'Add')}"

    def _print_Gradient(self, e: Gradient) -> str:
        return f"∂L/∂{e.args[0].name}" + ("[0]" if _is_state(e.args[0]) else "")

    def _print_rsqrt(self, e: Expr) -> str:
        return self._print_Mul(e)

    def _print_Heaviside(self, e: Expr) -> str:
        return f"Heaviside({self._list(e.args[:1])})"

    def _print_Max(self, e: Expr) -> str:
        # max(x, 0), a number last
        args = sorted(e.args, key=lambda a: (a.is_number, str(a)))
        return f"{_NAMES[e.func.__name__]}({self._list(args)})"

    _print_Min = _print_Max

    def _print_Abs(self, e: Expr) -> str:
        return f"|{self._print(e.args[0])}|"

    def _print_floor(self, e: Expr) -> str:
        return f"⌊{self._print(e.args[0])}⌋"

    def _print_ceiling(self, e: Expr) -> str:
        return f"⌈{self._print(e.args[0])}⌉"

    def _print_Piecewise(self, e: Expr) -> str:
        line = ""
        for value, condition in e.args:
            line += self._bound(value, "Lambda")
            if condition == sympy.true:
                break
            line += f" if {self._print(condition)} else "
        return line.removesuffix(" else ")

    def _print_Relational(self, e: Any) -> str:
        return f"{self._print(e.lhs)} {_RELATIONS[e.rel_op]} {self._print(e.rhs)}"

    def _print_And(self, e: Any) -> str:
        return " and ".join(sorted(self._clause(a) for a in e.args))

    def _print_Or(self, e: Any) -> str:
        return " or ".join(sorted(self._clause(a) for a in e.args))

    def _print_Not(self, e: Any) -> str:
        return f"not {self._clause(e.args[0])}"

    def _clause(self, e: Any) -> str:
        inner: str = self._print(e)
        return f"({inner})" if isinstance(e, sympy.logic.boolalg.BooleanFunction) else inner


# --------------------------------------------------------------------------- lstmgen show


def _range_text(bounds: Range) -> str:
    if bounds == ANY:
        return ""
    low, high = (f"{x:g}".replace("-", "−").replace("inf", "∞") for x in bounds)
    return f"{low}…{high}"


_WIDTH = 64  # of an equation; what is longer goes on below, at a term


def show(cell: Cell) -> str:
    """What ``lstmgen show`` prints: the equations, what each is and its range, then the symbols."""
    lines = [*summary(cell), "", *_symbol_table(cell, Order(cell))]
    if cell.notes:
        lines += ["", one_line(cell.notes)]
    return "\n".join(line.rstrip() for line in lines)


def summary(cell: Cell) -> list[str]:
    """What the cell is, and its equations with what each is and its range; a list of lines."""
    order = Order(cell)
    equations, helpers = fold_helpers(cell.equations)
    title = f": {one_line(cell.title)}" if cell.title else ""
    lines = [f"{cell.name}{title}"]
    if cell.source:
        lines.append(" " * (len(cell.name) + 2) + one_line(cell.source))
    lines += ["", *_equation_table(cell, order, equations)]
    return [*lines, "", *_meanings(helpers, order)] if helpers else lines


def listing(cell: Cell, width: int = 84) -> list[str]:
    """The equations alone, in lines of about ``width``, for the head of a generated file."""
    order = Order(cell)
    equations, helpers = fold_helpers(cell.equations)
    lines = []
    for e in equations:
        left, _, right = text(e, order, "show").partition(" = ")
        first, *others = wrap(right, width - len(left) - 3)
        lines += [f"{left} = {first}", *(" " * (len(left) + 3) + part for part in others)]
    return lines + _meanings(helpers, order)


def _meanings(helpers: Sequence[Eq], order: Order) -> list[str]:
    words = ["where", *["and"] * (len(helpers) - 1)]
    return [f"{w} {text(e, order, 'show')}" for w, e in zip(words, helpers, strict=False)]


def _equation_table(cell: Cell, order: Order, equations: Sequence[Eq]) -> list[str]:
    known = ranges(cell.equations)
    rows = []
    for folded, equation in zip(equations, cell.equations, strict=True):
        left, _, right = text(folded, order, "show").partition(" = ")
        role = one_line(cell.roles.get(equation.lhs.name, ""))
        rows.append((left, wrap(right, _WIDTH), role, _range_text(known[equation.lhs])))
    margin = max(len(left) for left, *_ in rows)
    body = max(len(part) for _, right, *_ in rows for part in right)
    roles = min(max(len(role) for *_, role, _ in rows), 36)
    widest = max(len(bounds) for *_, bounds in rows)
    lines = []
    for left, (first, *others), role, bounds in rows:
        lines.append(f"{left:{margin}} = {first:{body}}    {role:{roles}}   {bounds:>{widest}}")
        lines += [" " * (margin + 3) + part for part in others]
    return lines


def wrap(line: str, width: int, deep: int = 0) -> list[str]:
    """``line`` in pieces of at most ``width``, as far as it can be broken.

    It can before a + or a -, outside of parentheses if that is enough, else inside of one pair.
    """
    cuts, depth = [], 0
    for mark in re.finditer(r"[()]| (?=[+-] )", line):
        depth += {"(": 1, ")": -1}.get(mark.group(), 0)
        if mark.group() == " " and depth <= deep:
            cuts.append(mark.start())
    pieces, start, end = [], 0, 0
    for cut in (*cuts, len(line)):
        if cut - start > width and end > start:
            pieces.append(line[start:end])
            start = end + 1
        end = cut
    pieces.append(line[start:])
    if deep == 0:
        return [part for piece in pieces for part in wrap(piece, width, deep=1)]
    return pieces


def _symbol_table(cell: Cell, order: Order) -> list[str]:
    rows: list[tuple[str, str, str]] = []
    for kind, symbols in (("input", cell.inputs), ("mask", cell.masks), ("state", cell.states)):
        for size, group in groupby(symbols, key=lambda v: shape_text(cell, v)):
            found = [v.name for v in group]
            after = f"    {' '.join(n + '′' for n in found)} after the step"
            rows.append((kind, " ".join(found), size + (after if kind == "state" else "")))
    for size, group in groupby(cell.outputs, key=lambda v: shape_text(cell, v)):
        rows.append(("output", " ".join(text(v, order, "show") for v in group), size))
    for v in cell.constants:
        known = cell.initial(v) is not None
        rows.append(("constant", v.name, _number(cell.starts_at(v)) if known else ""))
    for family in families(cell):
        names = " ".join(p.name for p in family)
        kind = "parameters" if family[0].learned else "fixed"
        rows.append((kind, names, shape_text(cell, family[0]) + _start(cell, family)))
    margin = max(len(names) for _, names, _ in rows)
    lines, before = [], ""
    for kind, names, rest in rows:
        lines.append(f"{kind if kind != before else '':10}  {names:{margin}}    {rest}")
        before = kind
    return [*lines, f"{'in all':10}  {text(parameter_count(cell), order, 'show')} numbers"]


def _start(cell: Cell, family: Sequence[Matrix | Vector]) -> str:
    """How the parameters of a family start, if that is not what vectors and matrices do."""
    names: dict[Start, list[str]] = {}
    for p in family:
        if (start := cell.start_of_its_own(p)) is not None:
            names.setdefault(start, []).append(p.name)
    if not names:
        return ""
    parts = []
    for start, some in names.items():
        verb = f"start{'s' * (len(some) == 1)}"
        who = "" if len(some) == len(family) else f"{' '.join(some)} "
        parts.append(f"{who}{verb} {_started(start)}")
    return "    " + ", ".join(parts)


def _started(value: Start) -> str:
    """At 1, or as a named start: orthogonal."""
    if not isinstance(value, Initial):
        return f"at {_number(value)}"
    return value.shown(_number)


def _number(x: float) -> str:
    return number(sympy.Float(x)).replace("-", "−")


def shape_text(cell: Cell, symbol: Vector | Matrix) -> str:
    """``H × D`` of a matrix, ``H`` of a vector."""
    return " × ".join(str(n) for n in cell.shape(symbol))
