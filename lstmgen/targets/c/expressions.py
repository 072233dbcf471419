"""Expressions as C, and the layout of lines: the vocabulary of the C target."""

from __future__ import annotations

import re
import struct
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import sympy
from sympy import Expr, Function
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.printer import Printer

from ...errors import GenerateError
from ...language.cell import C_KEYWORDS
from ...language.symbols import Size, Vector, equal, expm1, relu, sigmoid, softplus, step
from ...planning.operations import B, K, T
from ...printing.orders import Order, binds, is_negative, literal
from ..naming import Names
from . import runtime

WIDTH = 100

LIBM = {
    sympy.exp: "exp", sympy.log: "log", sympy.sin: "sin", sympy.cos: "cos", sympy.tan: "tan",
    sympy.asin: "asin", sympy.acos: "acos", sympy.atan: "atan", sympy.sinh: "sinh",
    sympy.cosh: "cosh", sympy.tanh: "tanh", sympy.asinh: "asinh", sympy.acosh: "acosh",
    sympy.atanh: "atanh", sympy.erf: "erf", sympy.Abs: "fabs", sympy.floor: "floor",
    sympy.ceiling: "ceil", expm1: "expm1",
}  # fmt: skip
# Static functions of the source that work on all lanes, each written only where it is used. What
# the C library computes is called lane by lane, but for the few that have vector code of their own.
HELPERS = {
    sigmoid: "sigmoid", softplus: "softplus", relu: "relu", step: "positive",
    sympy.sign: "sign", sympy.Heaviside: "heaviside", equal: "equals", sympy.Max: "larger",
    sympy.Min: "smaller",
}  # fmt: skip
POWERS = {2: "square", 3: "cube"}
ON_VECTORS = {"exp": "vec_exp", "expm1": "vec_expm1", "tanh": "vec_tanh"}
LANEWISE = {f: f"each_{f}" for f in (*LIBM.values(), "sqrt", "pow") if f not in ON_VECTORS}
SINGLE = {f: f"one_{f}" for f in (*LANEWISE, "rsqrt")}
_LIBM_NAMES = {*LIBM.values(), "sqrt", "pow", "log1p", "fmax", "fmin"}

_PASSES = ("forward", "backward")

# Words of a stage that nothing from the equations may hide.
STAGE_WORDS = frozenset(
    {
        *C_KEYWORDS,
        *runtime.words(),
        *_LIBM_NAMES,
        *(f"{f}f" for f in _LIBM_NAMES),
        *"rows row j p grads real size_t memcpy memset".split(),
    }
)
# Words of the functions that call stages, and of those that lay out memory.
WORDS = STAGE_WORDS | frozenset(
    """n x m y g dx dy tape work initial final state next dfinal dinitial T B t0 k s steps most end
    from last memory kept tile scratch in_tape in_work used packed in_packed batch slices start each
    team threads columns panels sums total begun call slice largest status given at""".split()
)
# What the names of a cell's own functions and types end with; they begin with the cell's.
CELL_WORDS = (
    frozenset(
        """call sizes params grads state new_state inputs masks input_grads status real message
    check admit one_step label label_of run_forward sum_gradients arrange_forward arrange_backward
    forward_rows backward_rows forward backward step pack params_given grads_given inputs_given
    masks_given input_grads_given""".split()
    )
    | {
        f"{region}_{end}"
        for region in ("tape", *_PASSES, *(f"{p}_packed" for p in _PASSES))
        for end in ("layout", "parts")
    }
    | {
        f"{buffer}_size"
        for buffer in ("tape", "packed", "forward_work", "backward_work", "step_work")
    }
)

# --------------------------------------------------------------------------- lines


def broken(start: str, items: Sequence[str], end: str, width: int = WIDTH - 12) -> list[str]:
    """``start``, ``items`` and ``end``, on more lines where one is too long: after a comma."""
    pieces = [f"{item}," for item in items[:-1]] + [f"{items[-1]}{end}"]
    return _filled(start, pieces, width)


def joined(
    operator: str, start: str, items: Sequence[str], end: str, width: int = WIDTH - 12
) -> list[str]:
    """``start``, ``items`` with an operator between them, and ``end``; lines begin with one."""
    first, *others = items
    pieces = [first, *(f"{operator} {item}" for item in others)]
    return _filled(start, [*pieces[:-1], f"{pieces[-1]}{end}"], width)


def _filled(start: str, pieces: Sequence[str], width: int) -> list[str]:
    lines, line = [], start + pieces[0]
    for piece in pieces[1:]:
        if len(line) + 1 + len(piece) > width:
            lines.append(line)
            line = f"    {piece}"
        else:
            line += f" {piece}"
    return [*lines, line]


def comment(text: str, width: int = WIDTH - 12) -> list[str]:
    """``text`` as a comment, on more lines where one is too long."""
    first, *rest = _folded(text, width - 6) or [""]
    if not rest:
        return [f"/* {first} */"]
    return [f"/* {first}", *(f" * {line}" for line in rest[:-1]), f" * {rest[-1]} */"]


def top_comment(lines: Sequence[str]) -> list[str]:
    """The comment at the top of a file, left open."""
    folded = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        folded += _folded(line, WIDTH - 4, indent, indent + "    ") or [""]
    return [f"/* {folded[0]}", *(f" * {line}".rstrip() for line in folded[1:])]


def paragraph(text: str) -> str:
    """``text`` as lines within a comment."""
    return "\n".join(f" * {line}" for line in _folded(" ".join(text.split()), WIDTH - 3)) + "\n"


def _folded(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        text.strip(), width, initial_indent=first, subsequent_indent=others,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def statement(text: str, width: int = WIDTH - 16) -> list[str]:
    """A statement, on more lines where one is too long: broken before operators that bind least."""
    lines: list[str] = []
    indent = ""
    while len(indent) + len(text) > width:
        cut = _cut(text, width - len(indent))
        if not cut:
            break
        lines.append(indent + text[:cut].rstrip())
        text, indent = text[cut:].lstrip(), "    "
    return [*lines, indent + text]


_BREAKS = re.compile(r"[(\[]|[)\]]| (?=(?:[-+*/?:<>]|&&|\|\||[<>=!]=) )|(?<=,) ")


def _cut(text: str, width: int) -> int:
    """Where to break a line; 0 if that is nowhere."""
    depth, cuts = 0, []
    for mark in _BREAKS.finditer(text):
        if mark.group() in "([":
            depth += 1
        elif mark.group() in ")]":
            depth -= 1
        elif 0 < mark.start() <= width:
            after = text[mark.start() - 1] == ","
            cuts.append((depth, not after, text[mark.end()] in "*/", -mark.start()))
    late = [cut for cut in cuts if -cut[-1] > width // 3] or cuts
    return -min(late)[-1] if late else 0


def without_comments(lines: Iterable[str]) -> str:
    """``lines`` as one text, without the comments in them."""
    return re.sub(r"/\*.*?\*/", "", "\n".join(lines), flags=re.DOTALL)


def mentions(name: str, code: str) -> bool:
    """Whether an identifier occurs, other than as the member of a struct."""
    return re.search(rf"(?<![\w.])(?<!->){re.escape(name)}(?!\w)", code) is not None


# --------------------------------------------------------------------------- sizes


def enclosed(text: str) -> str:
    """A size as a factor."""
    return f"({text})" if " + " in text else text


def times(a: str, b: str) -> str:
    """The product of two sizes; the first is a product itself."""
    return a if b == "1" else f"{a} * {enclosed(b)}"


def plus(a: str, b: str) -> str:
    """The sum of two sizes."""
    return a if b == "0" else f"{a} + {b}"


def monomials(e: Expr) -> list[list[Expr]]:
    """A size as a sum of products, in a person's order: steps and rows first, H before D.

    A number comes first in its product; powers are written out.
    """
    products = []
    for t in sympy.Add.make_args(sympy.expand(e)):
        product: list[Expr] = []
        for f in sympy.Mul.make_args(t):
            base, exponent = f.as_base_exp()
            product += [base] * int(exponent) if base.is_Symbol else [f]
        products.append(sorted(product, key=_place))
    return sorted(products, key=lambda p: (-sum(f.is_Symbol for f in p), [_place(f) for f in p]))


def _place(f: Expr) -> tuple[int, str]:
    first = (T, K, B, Size("H"))
    return (first.index(f) if f in first else len(first) if f.is_Symbol else -1), str(f)


# --------------------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Code:
    """An expression in C and its type: a ``number`` (a real), a ``vec`` or a ``mask``.

    C takes a number beside a vec, but not where a function asks for one.
    """

    text: str
    type: Literal["number", "vec", "mask"]

    @property
    def vec(self) -> str:
        return f"splat({self.text})" if self.type == "number" else self.text

    def __str__(self) -> str:
        return self.text


class ExpressionPrinter(Printer):
    """Elementwise expressions, in a person's order of terms and factors.

    Each method gives a ``Code``: what it wrote knows its own type.
    """

    printmethod = "_c_of_lstmgen"  # not SymPy's: our symbols have a _sympystr of their own

    def __init__(self, order: Order, names: Names, dtype: str) -> None:
        super().__init__()
        self.person, self.names = order, names
        self.suffix = {"float32": "f", "float64": ""}[dtype]
        self.reference: Callable[[Vector], str] = str
        self.single = False

    def vector(self, e: Expr, reference: Callable[[Vector], str], single: bool = False) -> str:
        """``e`` as a vec, also where it is a ``single`` number for all units."""
        self.reference, self.single = reference, single
        return self._vector(e)

    def _vector(self, e: Expr) -> str:
        return self._code(e).vec

    def _code(self, e: Any) -> Code:
        code: Code = self._print(e)
        return code

    def emptyPrinter(self, e: Any) -> Code:
        raise GenerateError(f"the C target cannot print {type(e).__name__}: {e}")

    def _bound(self, e: Expr, level: int) -> Code:
        """``e``, in parentheses unless it binds more tightly than ``level``, and after any sign."""
        code = self._code(e)
        is_product = isinstance(e, sympy.Pow) and (_is_square(e) or is_negative(e.exp))
        tightness = PRECEDENCE["Mul"] if is_product else binds(e)
        if tightness <= level or code.text.startswith("-"):
            return Code(f"({code})", code.type)
        return code

    def _print_Vector(self, v: Vector) -> Code:
        return Code(self.reference(v), "number" if v.category == "constant" else "vec")

    def _print_Size(self, n: Size) -> Code:
        return Code(f"(real){self.names(n, n.name)}", "number")

    # ------------------------------------------------------------------ numbers

    def _number(self, e: Expr) -> Code:
        if self.suffix:
            return Code(f"{_shortest_float(float(e), e)}f", "number")
        if not isfinite(float(e)):
            raise GenerateError(f"{e} is too large for a double")
        return Code(literal(e), "number")

    def _folded(self, e: Expr) -> Code | None:
        """``e`` as one number, if it is one that SymPy knows: it does not know sigmoid(2)."""
        if not e.is_number:
            return None
        if e.has(sympy.I) or e.is_real is False:
            raise GenerateError(f"{e} is not a real number")
        return self._number(e) if e.evalf().is_Number else None

    def _print_Integer(self, e: Expr) -> Code:
        return self._number(e)

    _print_Rational = _print_Half = _print_Zero = _print_One = _print_NegativeOne = _print_Integer
    _print_Float = _print_Pi = _print_Exp1 = _print_NumberSymbol = _print_Integer
    _print_Infinity = _print_NegativeInfinity = _print_NaN = _print_Integer

    # ------------------------------------------------------------------ arithmetic

    def _print_Add(self, e: Expr, order: object = None) -> Code:
        if folded := self._folded(e):
            return folded
        text = ""
        bodies = []
        for term in self.person.terms(e):
            negative = is_negative(term)
            body = self._bound(-term if negative else term, PRECEDENCE["Add"])
            bodies.append(body)
            if not text:
                text = f"-{body}" if negative else str(body)
            else:
                text += f" {'-' if negative else '+'} {body}"
        return Code(text, _mixed(bodies))

    def _print_Mul(self, e: Expr) -> Code:
        if folded := self._folded(e):
            return folded
        if is_negative(e):
            body = self._bound(-e, PRECEDENCE["Add"])
            return Code(f"-{body}", body.type)
        over, under = self.person.fraction(e)
        above = [self._bound(f, PRECEDENCE["Mul"] - 1) for f in over]
        below = [self._bound(f, PRECEDENCE["Mul"]) for f in under]
        above = above or [self._number(sympy.S.One)]
        text = " * ".join(map(str, above)) + "".join(f" / {f}" for f in below)
        return Code(text, _mixed([*above, *below]))

    def _print_Pow(self, e: Expr) -> Code:
        if folded := self._folded(e):
            return folded
        base, exponent = e.args
        if exponent == sympy.Rational(1, 2):
            return self._call("sqrt", base)
        if exponent.is_number and exponent.is_negative:
            below = self._bound(1 / e, PRECEDENCE["Mul"])
            return Code(f"{self._number(sympy.S.One)} / {below}", below.type)
        if _is_square(e):
            code = self._code(base)
            return Code(f"{code} * {code}", code.type)
        if exponent in POWERS:
            return Code(f"{POWERS[int(exponent)]}({self._vector(base)})", "vec")
        return self._call("pow", base, exponent)

    # ------------------------------------------------------------------ functions

    def _call(self, name: str, *args: Expr) -> Code:
        name = ON_VECTORS.get(name) or (SINGLE if self.single else LANEWISE)[name]
        return self._calls(name, args)

    def _calls(self, name: str, args: Sequence[Expr]) -> Code:
        return Code(f"{name}({', '.join(map(self._vector, args))})", "vec")

    def _print_Function(self, e: Function) -> Code:
        if folded := self._folded(e):
            return folded
        if type(e) in HELPERS:
            return self._calls(HELPERS[type(e)], e.args)
        if type(e) in LIBM:
            return self._call(LIBM[type(e)], *e.args)
        return self.emptyPrinter(e)

    def _print_rsqrt(self, e: Expr) -> Code:
        if self.single:
            return self._calls(SINGLE["rsqrt"], e.args)
        return Code(f"{self._number(sympy.S.One)} / {self._call('sqrt', e.args[0])}", "vec")

    def _print_stop_gradient(self, e: Expr) -> Code:
        return self._bound(e.args[0], PRECEDENCE["Atom"] - 1)

    def _print_Max(self, e: Expr) -> Code:
        first, *others = map(self._vector, e.args)
        for other in others:
            first = f"{HELPERS[type(e)]}({first}, {other})"
        return Code(first, "vec")

    _print_Min = _print_Max

    # ------------------------------------------------------------------ conditions

    def _print_Piecewise(self, e: Expr) -> Code:
        values, last = [], "splat((real)NAN)"
        for value, condition in e.args:
            if condition == sympy.true:
                last = self._vector(value)
                break
            values.append((self._code(condition), self._vector(value)))
        for condition, value in reversed(values):
            last = f"choose({condition}, {value}, {last})"
        return Code(last, "vec")

    def _print_Relational(self, e: Expr) -> Code:
        return Code(f"(mask)({self._vector(e.lhs)} {e.rel_op} {self._vector(e.rhs)})", "mask")

    def _connected(self, operator: str, e: Expr) -> Code:
        parts = sorted(str(self._code(a)) for a in e.args)
        return Code(f"({f' {operator} '.join(parts)})", "mask")

    def _print_And(self, e: Expr) -> Code:
        return self._connected("&", e)

    def _print_Or(self, e: Expr) -> Code:
        return self._connected("|", e)

    def _print_Not(self, e: Expr) -> Code:
        return Code(f"(mask)({self._code(e.args[0])} == 0)", "mask")

    def _print_BooleanAtom(self, e: Expr) -> Code:
        return Code(f"(mask)(splat(0) {'==' if e else '!='} splat(0))", "mask")


def _mixed(codes: Sequence[Code]) -> Literal["number", "vec"]:
    """The type of arithmetic on these: a vec, if there is one."""
    return "number" if all(code.type == "number" for code in codes) else "vec"


def _is_square(e: Expr) -> bool:
    """Whether ``e`` is written x * x, and not as a call."""
    return bool(e.base.is_Symbol and e.exp == 2)


def _shortest_float(x: float, e: Expr) -> str:
    """The shortest decimal that is ``x`` in single precision."""
    try:
        single = _rounded(x)
    except OverflowError as error:
        raise GenerateError(f"{e} is too large for a float") from error
    if not isfinite(single):
        raise GenerateError(f"{e} is too large for a float")
    if single == 0:
        return "0.0"  # too small for a float: what the compiler makes of it, without its warning
    shorter = (float(f"{x:.{digits}g}") for digits in range(1, 10))
    return repr(next(y for y in shorter if _rounded(y) == single))


def _rounded(x: float) -> float:
    value: float = struct.unpack("<f", struct.pack("<f", x))[0]  # "f" alone would give inf
    return value
