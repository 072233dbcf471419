r"""LaTeX: the forward equations, the adjoints of one step, the gradients as sums, the notation.

What is printed follows ``Derivation.equations`` and ``.gradients``. Names that the derivation
introduced are defined before they are used: a pre-activation by a brace under the argument that
it is, \underbrace{W_i x_t + …}_{a_{i,t}}, any other by an equation of its own. Lines that are alike
but for a gate's letter are written once, with ⋆ in its place.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy
from sympy import Eq, Expr, Function, Symbol
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE

from ..cell import Cell
from ..derivation import Derivation, derive
from ..symbols import (
    STATIC,
    Gradient,
    Matrix,
    Product,
    Vector,
    equal,
    named,
    rcumsum,
    shift,
    step,
    stop_gradient,
)
from .comments import header
from .printing import (
    ADJOINT,
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
from .rendering import environment

OPTIONS: frozenset[str] = frozenset()
TAKES_SIZES = False


def files(cell: Cell, *, source: str = "") -> dict[str, str]:
    r"""The fragment, and a document that shows how to \input it."""
    page = _Page(cell, source)
    fragment = f"{cell.name}_equations"
    return {
        f"{cell.name}.tex": _rendered("document", page, body=rf"\input{{{fragment}}}"),
        f"{fragment}.tex": _rendered("fragment", page),
    }


def emit(cell: Cell, *, document: bool = False, source: str = "") -> str:
    r"""The equations as a fragment to \input, or as a document that stands alone."""
    page = _Page(cell, source)
    fragment = _rendered("fragment", page)
    return _rendered("document", page, body=fragment.rstrip()) if document else fragment


def _rendered(template: str, page: _Page, **more: str) -> str:
    templates = environment(
        "latex",
        block_start_string=r"\BLOCK{",
        block_end_string="}",
        variable_start_string=r"\VAR{",
        variable_end_string="}",
        comment_start_string=r"\COMMENT{",
        comment_end_string="}",
    )
    return templates.get_template(f"{template}.tex.j2").render(page=page, **more)


# --------------------------------------------------------------------------- names

_GREEK = frozenset(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega""".split()
)
STAR = "⋆"


class Names:
    """Names of symbols in LaTeX: a letter, bold for a vector, and its indices.

    ``W_i`` is W with index i; ``my_gate`` is my with index gate; ``h1`` is h with index 1. Where
    two names would look alike, the second is spelled out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._parts: dict[str, tuple[str, tuple[str, ...]]] = {}
        looks: dict[tuple[str, ...], str] = {}
        for name in names:
            letter, *indices = _split(name)
            if looks.setdefault((letter, *indices), name) != name:
                letter, indices = name.replace("_", r"\_"), []
            self._parts[name] = (letter, tuple(indices))

    def __call__(self, name: str, *, bold: bool, time: str = "") -> str:
        letter, indices = self._parts.get(name) or (_split(name)[0], tuple(_split(name)[1:]))
        if letter == STAR:
            base = r"\star"
        elif letter in _GREEK:
            base = rf"\boldsymbol{{\{letter}}}" if bold else rf"\{letter}"
        elif bold:
            base = rf"\mathbf{{{letter}}}"
        else:
            base = letter if len(letter) == 1 else rf"\mathrm{{{letter}}}"
        index = ",".join([*(_index(i) for i in indices), *([time] if time else [])])
        if not index:
            return base
        return f"{base}_{index}" if len(index) == 1 else f"{base}_{{{index}}}"


def _split(name: str) -> list[str]:
    first, *indices = [part for part in name.split("_") if part]
    numbered = re.fullmatch(r"([A-Za-z]+)([0-9]+)", first)
    return [*numbered.groups(), *indices] if numbered else [first, *indices]


def _index(part: str) -> str:
    if part == STAR:
        return r"\star"
    if part in _GREEK:
        return rf"\{part}"
    plain = re.fullmatch(r"[A-Za-z]?[0-9]*", part)
    return part if plain else rf"\mathrm{{{part}}}"


_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_SPELLED = {
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}",
    "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "–": "--", "—": "---", "‘": "`", "’": "'",
    "“": "``", "”": "''", "…": r"\dots{}", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$",
    "⊙": r"$\odot$", "∘": r"$\circ$", "′": "$'$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": "$|$", '"': "''",
    **{c: rf"\{c}" for c in "&%$#_{}"},
}  # fmt: skip


def escape(text: str) -> str:
    """``text`` from a user, to be set as it stands: no command, no comment, in ASCII."""
    return "".join(_escaped(c) for c in unicodedata.normalize("NFC", one_line(text)))


def _escaped(c: str) -> str:
    if c in _SPELLED:
        return _SPELLED[c]
    if c.isascii():
        return c
    name = unicodedata.name(c, "").replace("LAMDA", "LAMBDA").split()
    if name[:1] == ["GREEK"] and len(name) == 4 and name[3].lower() in _GREEK:
        greek = name[3].capitalize() if name[1] == "CAPITAL" else name[3].lower()
        return rf"$\{greek}$" if greek in _GREEK else "?"
    parts = unicodedata.normalize("NFD", c)
    base = parts[0]
    if not base.isascii():
        return "?"
    for mark in parts[1:]:  # an accent that the oldest font encoding lacks is left out
        base = rf"\{_ACCENTS[mark]}{{{base}}}" if mark in _ACCENTS else base
    return base


# --------------------------------------------------------------------------- the printer

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
# \tanh^2 c, and \tanh c where nothing follows that could be taken for a part of the argument
_RAISED = ("sigmoid", "tanh", "sin", "cos", "tan", "sinh", "cosh")
_BARE = frozenset({*_RAISED[1:], "log", "asin", "acos", "atan"})


class _Braced(Function):
    """The argument of a function, with the name that the derivation gave it."""

    nargs = 2
    is_real = True


class _Printer(LatexPrinter):
    """One expression in LaTeX. ``origin`` is t, or empty where steps are counted from 0."""

    def __init__(self, order: Order, names: Names, origin: str = "t") -> None:
        super().__init__()
        self.person, self.names, self.origin = order, names, origin

    def sides(self, e: Eq) -> tuple[str, list[str]]:
        """The left-hand side, and the right-hand side in pieces between which it may break."""
        rhs = tidy(e.rhs)
        return self._print(e.lhs), self._terms(rhs) if rhs.is_Add else self._pieces(rhs)

    def _pieces(self, e: Expr) -> list[str]:
        """``e`` in pieces between which a line may break, if it is too long for one."""
        text: str = self._print(e)
        if width(text) < _LINE - 80:
            return [text]
        e = unnamed(e)
        if e.is_Add:
            return self._terms(e)
        if e.is_Mul and is_negative(e):
            first, *others = self._pieces(-e)
            return [f"-{first}", *others]
        if e.is_Mul:
            above, below = self.person.fraction(e)
            before = [self._fraction("1", below)] if below else []
            return [*before, *self._long_row(above)]
        head, opened, _ = text.partition(r"\left(")
        if opened and isinstance(e, Function) and len(e.args) == 1:
            return _enclosed(head, self._pieces(e.args[0]))
        return [text]

    def _long_row(self, factors: Sequence[Expr]) -> list[str]:
        """The factors of a product, and long sums among them, in pieces."""
        pieces = []
        for f, text in zip(factors, self._row(factors), strict=True):
            if unnamed(f).is_Add and width(text) > _LINE / 2:
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
            return " ".join(self._row(above))
        if len(above) == 1:
            return self._fraction(self._print(above[0]), below)
        if all(self.person.scalar(b) for b in below):
            # the numbers of a product make the fraction: (δr r³ / H) d
            numbers = [a for a in above if self.person.scalar(a)]
            vectors = [a for a in above if not self.person.scalar(a)]
            fraction = self._fraction(self._product(numbers) or "1", below)
            return rf"{fraction}\, {' '.join(self._row(vectors))}" if vectors else fraction
        return self._fraction(self._product(above) or "1", below)

    def _fraction(self, above: str, below: Sequence[Expr]) -> str:
        under = self._print(below[0]) if len(below) == 1 else self._product(below)
        return rf"\frac{{{above}}}{{{under}}}"

    def _product(self, factors: Sequence[Expr]) -> str:
        return " ".join(self._row(factors))

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
                elif before.is_number and f.is_number:
                    text = rf"\cdot {text}"
                elif before.atoms(Vector) and not text.startswith(r"\left"):
                    text = rf"\, {text}"
            pieces.append(text)
        return pieces

    def _print_Pow(self, e: Expr) -> str:
        base, power = e.args
        if is_negative(power):
            return self._print_Mul(e)
        if power == sympy.Rational(1, 2):
            return rf"\sqrt{{{self._print(base)}}}"
        raised = _script("^", self._print(power))
        if power.is_Integer and base.func.__name__ in _RAISED:
            return self._call(base, raised)
        inner = self._print(base)
        loose = binds(base) <= PRECEDENCE["Pow"] or base.func.__name__ in _BARE
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
        if v.category == "cotangent":
            return r"\boldsymbol{\Delta}" + _script("_", time)
        mark = r"\delta" if v.category in ADJOINT else ""
        name = self.names(v.name, bold=not self.person.scalar(v), time=time)
        return f"{mark} {name}" if mark and name[0].isalpha() else mark + name

    def _print_Matrix(self, m: Matrix) -> str:
        name = self.names(m.name, bold=False)
        return rf"{name}^{{\top}}" if m.transposed else name

    def _print_Size(self, n: Symbol) -> str:
        return self.names(n.name, bold=False)

    # ------------------------------------------------------------------ functions

    def _call(self, e: Expr, raised: str = "", last: bool = True) -> str:
        name = e.func.__name__
        command = _COMMANDS.get(name, rf"\operatorname{{{name}}}")
        if isinstance(e.args[0], _Braced):
            return f"{command}{raised}{self._print(e.args[0])}"
        if last and name in _BARE and isinstance(e.args[0], Vector):
            return f"{command}{raised} {self._print(e.args[0])}"
        return command + raised + _parentheses(self._list(e.args))

    def _not_last(self, f: Expr) -> str:
        """A factor that another follows: no function may seem to reach as far as that."""
        if f.func.__name__ in _BARE:
            return self._call(f, last=False)
        if f.is_Pow and f.exp.is_Integer and f.exp > 0 and f.base.func.__name__ in _RAISED:
            return self._call(f.base, _script("^", self._print(f.exp)), last=False)
        return self._bound(f, "Mul")

    def _print_Function(self, e: Expr, exp: Any = None) -> str:
        return self._call(e)

    _print_tanh = _print_sin = _print_cos = _print_tan = _print_sinh = _print_cosh = _print_Function
    _print_asin = _print_acos = _print_atan = _print_asinh = _print_acosh = _print_Function
    _print_atanh = _print_log = _print_exp = _print_erf = _print_sign = _print_Function

    def _print_named(self, e: named) -> str:
        return str(self._print(e.args[0]))

    def _print__Braced(self, e: _Braced) -> str:
        inner, name = (self._print(a) for a in e.args)
        # \left( would grow with the brace
        size = "bigg" if re.search(r"\\frac|\\sqrt|\\sum|\\begin", inner) else ""
        left, right = (rf"\{size}l(", rf"\{size}r)") if size else ("(", ")")
        return rf"{left}\underbrace{{{inner}}}_{{{name}}}{right}"

    def _print_Helper(self, e: Helper) -> str:
        first, *indices = e.name.split("_")
        raised = "".join(_script("_", i) for i in indices)
        return rf"\operatorname{{{first}}}{raised}{_parentheses(self._print(e.operand))}"

    def _print_Product(self, e: Expr) -> str:
        return f"{self._print(e.args[0])} {self._bound(e.args[1], 'Mul')}"

    def _print_Outer(self, e: Expr) -> str:
        left, right = (self._bound(a, "Mul") for a in e.args)
        return rf"{left}\, {right}^{{\top}}"

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


# --------------------------------------------------------------------------- how wide it is

# Points in Computer Modern at 10pt, near enough to choose where a line breaks.
_WIDTHS = {
    r"\odot": 13.0, r"\delta": 4.5, r"\,": 1.7, r"\quad": 10.0, r"\qquad": 20.0,
    r"\left": 2.0, r"\right": 0.0, r"\operatorname": 2.0, r"\mathbf": 0.8, r"\boldsymbol": 0.8,
    r"\cdot": 7.0, r"\sqrt": 9.0, r"\mathrm": 0.0, r"\text": 0.0, r"\biggl": 3.0, r"\biggr": 3.0,
    "+": 12.5, "-": 12.5, "=": 13.5, "<": 13.5, ">": 13.5, ",": 4.5, "&": 0.0, "(": 4.0, ")": 4.0,
    ".": 2.8, "|": 2.8, r"\top": 8.5, r"\partial": 6.0, r"\_": 5.0, r"\\": 0.0,
    r"\star": 5.0, r"\lfloor": 2.5, r"\rfloor": 2.5, r"\lceil": 2.5, r"\rceil": 2.5,
}  # fmt: skip
_LINE = 325.0  # what remains of \textwidth in a plain article, beside the equation's number


def width(tex: str) -> float:
    """About how wide a formula is, in points at 10pt."""
    cases = re.compile(r"\\begin\{cases\}(.*?)\\end\{cases\}")
    while found := cases.search(tex):
        rows = found.group(1).split(r"\\")
        tex = tex[: found.start()] + max(rows, key=width) + r"\quad " + tex[found.end() :]
    tokens = re.findall(r"\\[A-Za-z]+|\\.|[^\s]", tex)
    return _widths(tokens)


def _widths(tokens: list[str], nested: bool = False) -> float:
    total, scripts = 0.0, 0.0
    while tokens:
        token = tokens.pop(0)
        if token == "}" and nested:
            break
        if token in "_^":
            scripts = max(scripts, 0.72 * _argument(tokens))
            continue
        total, scripts = total + scripts, 0.0
        if token == "{":
            total += _widths(tokens, nested=True)
        elif token == r"\frac":
            total += max(_argument(tokens), _argument(tokens)) + 3.0
        elif token in (r"\underbrace", r"\sum"):  # with something below and above, not beside
            total += _argument(tokens) if token == r"\underbrace" else 18.0
            while tokens and tokens[0] in "_^":
                tokens.pop(0)
                _argument(tokens)
        else:
            total += _WIDTHS.get(token, _letter(token))
    return total + scripts


def _argument(tokens: list[str]) -> float:
    if not tokens:
        return 0.0
    token = tokens.pop(0)
    return _widths(tokens, nested=True) if token == "{" else _WIDTHS.get(token, _letter(token))


def _letter(token: str) -> float:
    if token[0] == "\\":
        name = token[1:]
        return 6.0 if name.lower() in {n.lower() for n in _GREEK} else 5.0 * len(name) + 1.7
    return 9.6 if token in "mwMW" else 8.0 if token.isupper() else 5.3


# --------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Row:
    """A row of the notation table, in LaTeX."""

    symbols: str
    shape: str
    meaning: str


@dataclass(frozen=True)
class Block:
    """Lines of an ``alignat``, and how many equations stand beside each other in it."""

    columns: int
    lines: list[str]


class _Page:
    """What the templates set: every attribute that they read is LaTeX, or a list of it."""

    def __init__(self, cell: Cell, source: str) -> None:
        self.cell = cell
        self.derivation: Derivation = derive(cell)
        self.order = Order(cell, self.derivation.forward)
        self.names = Names(self._symbol_names())
        self.header = [one_line(line) for line in header(cell, "latex", source)]
        self.name = escape(cell.name)
        self.title = escape(cell.title[:1].upper() + cell.title[1:]) or self.name
        after = f", after {escape(cell.source)}" if cell.source else ""
        self.byline = rf"\texttt{{{self.name}}}{after}"

    def _symbol_names(self) -> list[str]:
        d, cell = self.derivation, self.cell
        every = {
            s.name
            for e in (*d.forward, *d.equations, *d.gradients)
            for s in e.atoms(Vector, Matrix)
        }
        first = [s.name for s in (*cell.inputs, *cell.states, *cell.vectors, *cell.parameters)]
        return first + sorted(every - set(first))

    # ------------------------------------------------------------------ the forward pass

    @cached_property
    def _own(self) -> set[str]:
        """What the user's equations define; all else that is defined is the derivation's."""
        return {e.lhs.name for e in self.cell.equations}

    @cached_property
    def _used(self) -> set[str]:
        """What the backward pass reads."""
        d = self.derivation
        return {v.name for e in (*d.equations, *d.gradients) for v in e.atoms(Vector)}

    @cached_property
    def _arguments(self) -> dict[Expr, Vector]:
        """Names that the backward pass uses, by what they stand for in the user's symbols."""
        whole: dict[Vector, Expr] = {}
        found: dict[Expr, Vector] = {}
        for e in self.derivation.forward:
            if e.lhs.name not in self._own:
                whole[e.lhs] = e.rhs.xreplace(whole)
                if e.lhs.name in self._used:
                    found.setdefault(whole[e.lhs], e.lhs)
        return found

    def _brace(self, e: Expr) -> Expr:
        """``e`` with a brace under each argument of a function that has a name."""
        if not e.args:
            return e
        if isinstance(e, Helper):
            return e.func(e.args[0], self._brace(e.operand), e.made)
        if isinstance(e, Function) and len(e.args) == 1:
            symbol = self._arguments.get(_spelled_out(e.args[0]))
            if symbol is not None:
                return e.func(_Braced(e.args[0], symbol))
        return e.func(*(self._brace(a) for a in e.args))

    def _braces(self, e: Eq) -> list[_Braced]:
        return sorted(e.rhs.atoms(_Braced), key=lambda b: self.order.rank(b.args[1]))

    @cached_property
    def _forward(self) -> tuple[list[Eq], list[Eq]]:
        folded, helpers = fold_helpers(self.cell.equations)
        shown: list[Eq] = []
        for e in folded:
            e = Eq(e.lhs, self._brace(e.rhs), evaluate=False)
            braces = self._braces(e)
            if braces and width(self._line(e)) > _LINE:
                # no line breaks inside of a brace: the argument gets a line of its own
                shown += [Eq(b.args[1], b.args[0], evaluate=False) for b in braces]
                e = Eq(e.lhs, e.rhs.xreplace({b: b.args[1] for b in braces}), evaluate=False)
            shown.append(e)
        return shown, helpers

    @property
    def forward(self) -> list[str]:
        """The user's equations."""
        return self._aligned(self._forward[0])

    @property
    def helpers(self) -> list[str]:
        """What LN(v) and the like mean."""
        return [self._line(e) for e in self._forward[1]]

    @cached_property
    def _parts(self) -> tuple[list[Eq], list[str]]:
        """Equations of the names that the backward pass uses and the forward pass did not give."""
        given = {b.args[1].name for e in self._forward[0] for b in e.rhs.atoms(_Braced)}
        given |= {e.lhs.name for e in self._forward[0]}
        needed = self._used - given
        parts = []
        for e in reversed(self.derivation.forward):
            if e.lhs.name in needed and e.lhs.name not in self._own:
                parts.append(e)
                needed |= {v.name for v in e.rhs.atoms(Vector)} - given
        return self._starred(parts[::-1])

    @property
    def parts(self) -> list[str]:
        """Those equations, several to a line."""
        return self._packed(self._parts[0])

    # ------------------------------------------------------------------ the backward pass

    @cached_property
    def _adjoints(self) -> tuple[list[Eq], list[str]]:
        return self._starred(self.derivation.equations)

    @property
    def adjoints(self) -> list[str]:
        """The backward step."""
        return self._aligned(self._adjoints[0])

    @property
    def part_stars(self) -> str:
        """What ⋆ stands for, where there are any."""
        return self._stars(self._parts[1])

    @property
    def adjoint_stars(self) -> str:
        """The same for the backward step."""
        return self._stars(self._adjoints[1])

    def _stars(self, letters: Sequence[str]) -> str:
        names = ", ".join(self.names(n, bold=False) for n in letters)
        return rf", for each $\star \in \{{{names}\}}$" if letters else ""

    @property
    def output(self) -> str:
        return self._math(self.cell.output)

    @property
    def initial_states(self) -> str:
        return self._states("0")

    @property
    def final_states(self) -> str:
        return self._states("T")

    def _states(self, time: str) -> str:
        names = [
            self.names(s.name, bold=not self.order.scalar(s), time=time) for s in self.cell.states
        ]
        return _listed([f"${n}$" for n in names])

    def _starred(self, equations: Sequence[Eq]) -> tuple[list[Eq], list[str]]:
        """``equations``, where those alike but for a gate's letter are written once, with ⋆.

        Only equations of names that the derivation made are; the letters come second.
        """
        alike: dict[Eq, list[int]] = {}
        letters: dict[int, str] = {}
        for k, e in enumerate(equations):
            name = (e.lhs.args[0] if isinstance(e.lhs, Gradient) else e.lhs).name
            letter = name.rpartition("_")[2]
            if name not in self._own and letter in self._own:
                letters[k] = letter
                alike.setdefault(self._with_star(e, letter), []).append(k)
        sets = Counter(
            tuple(sorted((letters[k] for k in ks), key=self._place))
            for ks in alike.values()
            if len(ks) > 1
        )
        if not sets:
            return list(equations), []
        chosen = sets.most_common(1)[0][0]
        shown: dict[int, Eq] = dict(enumerate(equations))
        for starred, ks in alike.items():
            if sorted((letters[k] for k in ks), key=self._place) == list(chosen):
                shown[ks[-1]] = starred
                for k in ks[:-1]:
                    del shown[k]
        result = [shown[k] for k in sorted(shown)]
        if not _in_order(result, chosen):
            return list(equations), []
        return result, list(chosen)

    def _place(self, letter: str) -> int:
        return [e.lhs.name for e in self.cell.equations].index(letter)

    def _with_star(self, e: Eq, letter: str) -> Eq:
        swap: dict[Expr, Expr] = {}
        for s in e.atoms(Vector, Matrix):
            if s.name == letter or s.name.endswith(f"_{letter}"):
                name = s.name.removesuffix(letter) + STAR
                self.order.adopt(name, s.name)
                if isinstance(s, Matrix):
                    swap[s] = Matrix(name, s.rows, s.columns, s.transposed)
                else:
                    swap[s] = Vector(name, s.category, str(self.cell.size(s)), s.time)
        return Eq(e.lhs.xreplace(swap), e.rhs.xreplace(swap), evaluate=False)

    # ------------------------------------------------------------------ the gradients

    @cached_property
    def _totals(self) -> tuple[list[Eq], list[str]]:
        """The parameters' gradients; with ⋆ if the backward step has it."""
        d = self.derivation
        totals = d.gradients[: len(d.totals)]
        return self._starred(totals) if self._adjoints[1] else (totals, [])

    @property
    def gradient_stars(self) -> str:
        """The same for the gradients."""
        return self._stars(self._totals[1])

    @cached_property
    def _gradients(self) -> tuple[list[Block], list[Eq]]:
        """Gradients of parameters side by side, a row a gate; and those too long for that."""
        columns: dict[str, dict[str, str]] = {}  # W -> i -> the gradient of W_i
        long = []
        for e in self._totals[0]:
            line = self._line(e)
            if width(line) > _LINE:
                long.append(e)
                continue
            name = e.lhs.args[0].name
            family, _, letter = name.partition("_")
            if letter in ("", STAR):  # no table to stand in
                columns.setdefault(letter, {})[name] = line
            else:
                columns.setdefault(family, {})[letter] = line
        beside: list[list[dict[str, str]]] = []
        table = False
        for head, column in columns.items():
            in_table = head not in ("", STAR)
            if in_table and table and sum(map(_widest, [*beside[-1], column])) <= _LINE:
                beside[-1].append(column)
            else:
                beside.append([column])
            table = in_table
        return [self._block(block) for block in beside], long

    def _block(self, columns: Sequence[dict[str, str]]) -> Block:
        if len(columns) == 1:  # alone, a family is set in rows
            lines = list(columns[0].values())
            number = min(len(lines), max(1, int(_LINE / _widest(columns[0]))))
            rows = [lines[k : k + number] for k in range(0, len(lines), number)]
        else:
            letters = dict.fromkeys(letter for family in columns for letter in family)
            rows = [[family.get(letter, "") for family in columns] for letter in letters]
        aligned = []
        for row in rows:
            cells = [line.replace(" = ", " &= ", 1) or "&" for line in row]
            while cells[-1] == "&":
                cells.pop()
            aligned.append(r" &\qquad ".join(cells))
        return Block(max(map(len, rows)), _ended(aligned))

    @property
    def gradients(self) -> list[Block]:
        """The gradients of the parameters, several to a line."""
        return self._gradients[0]

    @property
    def ends(self) -> list[str]:
        """Gradients that need a line each: long ones, the inputs', the initial states'."""
        d = self.derivation
        return self._aligned([*self._gradients[1], *d.gradients[len(d.totals) :]])

    # ------------------------------------------------------------------ the notation

    @property
    def notation(self) -> list[list[Row]]:
        cell = self.cell
        given = [self._row([v], "input") for v in cell.inputs]
        given += [self._row([v], "mask, which no gradient flows into") for v in cell.masks]
        states = [self._row([s.at(0)], "state") for s in cell.states]
        vectors = [self._row([v], "") for v in cell.vectors]
        constants = []
        for v in cell.constants:
            value = cell.initial(v)
            default = (
                f", by default ${self._math(sympy.Float(value))}$" if value is not None else ""
            )
            constants.append(self._row([v], f"constant{default}"))
        learned = [self._row(family, self._part_played(family)) for family in families(cell)]
        braced = [b.args[1] for e in self._forward[0] for b in self._braces(e)]
        adjoints = [
            Row(r"$\boldsymbol{\Delta}_t$", self._shape([cell.output]),
                rf"$\partial L / \partial {self.output}$ as the loss itself gives it, at step $t$"),
            Row(r"$\delta\mathbf{v}_t$", r"as $\mathbf{v}_t$",
                r"$\mathrm{d} L / \mathrm{d} \mathbf{v}_t$, through all that it acts on"),
        ]  # fmt: skip
        if braced:
            adjoints.insert(0, self._row(braced, "pre-activations"))
        return [g for g in (given + states + vectors + constants, learned, adjoints) if g]

    def _row(self, symbols: Sequence[Vector | Matrix], meaning: str) -> Row:
        roles = [self.cell.roles[s.name] for s in symbols if s.name in self.cell.roles]
        meaning = escape(", ".join(dict.fromkeys(roles))) if roles else meaning
        if symbols[0] == self.cell.output:
            meaning = f"{meaning}; the output" if meaning else "the output"
        listed = ", ".join(f"${self._math(s)}$" for s in symbols)
        return Row(listed, self._shape(symbols), meaning)

    def _shape(self, symbols: Sequence[Vector | Matrix]) -> str:
        sizes = (self._math(n) for n in self.cell.shape(symbols[0]))
        return "$" + r" \times ".join(sizes) + "$"

    def _part_played(self, family: Sequence[Matrix | Vector]) -> str:
        """What a family of parameters does, as the equations say."""
        many = len(family) > 1
        if isinstance(family[0], Matrix):
            products = [p for e in self.cell.equations for p in e.rhs.atoms(Product)]
            read = {
                v.category
                for p in products
                for v in p.operand.atoms(Vector)
                if p.matrix.base in family
            }
            kind = "input " if "input" in read else "recurrent " if "state" in read else ""
            return f"{kind}weights"
        equations = self._forward[0]
        sums = [a for e in equations for a in e.rhs.atoms(sympy.Add)]
        if all(any(p in a.args for a in sums) for p in family):
            return "biases" if many else "bias"
        others = {
            tuple(f for f in m.args if f not in family)
            for e in equations
            for m in e.rhs.atoms(sympy.Mul)
            if set(m.args) & set(family)
        }
        scaled = {self.names(o[0].name, bold=True) for o in others if isinstance(o[0], Vector)}
        if len(scaled) == len(others) == 1 or len(scaled) == 1:
            return f"elementwise weights of ${scaled.pop()}$"
        return "gains" if many else "gain"

    @property
    def count(self) -> str:
        return self._math(parameter_count(self.cell))

    @property
    def remarks(self) -> list[str]:
        """What only some cells need explained."""
        seen = [
            Eq(e.lhs, e.rhs.replace(Helper, lambda name, operand, made: operand), evaluate=False)
            for e in (*self._forward[0], *self._parts[0], *self._adjoints[0], *self._totals[0])
        ]
        functions = {f.func for e in seen for f in e.rhs.atoms(Function)}
        remarks = []
        if any(self.order.scalar(v) for e in seen for v in e.atoms(Vector)):
            remarks.append("Plain small letters are single numbers.")
        if stop_gradient in functions:
            remarks.append(
                r"$\operatorname{sg}\left(\mathbf{v}\right)$ is $\mathbf{v}$, "
                "but no gradient flows back through it."
            )
        if functions & {step, equal}:
            remarks.append(r"$\mathbf{1}\left[\cdot\right]$ is 1 where it holds, and 0 elsewhere.")
        if rcumsum in functions:
            remarks.append(
                r"$\operatorname{revcumsum}$ is the running sum from the last unit to the first."
            )
        return remarks

    # ------------------------------------------------------------------ lines

    def _math(self, e: Expr) -> str:
        return str(_Printer(self.order, self.names).doprint(tidy(e)))

    def _sides(self, e: Eq) -> tuple[str, list[str]]:
        """The left-hand side, and the right-hand side in pieces between which it may break."""
        origin = "t"
        if isinstance(e.lhs, Gradient) and getattr(e.lhs.args[0], "category", "") == "state":
            # what flows out of the first step: ∂L/∂c_0 = δc_1 ⊙ f_1
            origin, e = "", Eq(e.lhs, shift(e.rhs, 1), evaluate=False)
        return _Printer(self.order, self.names, origin).sides(e)

    def _line(self, e: Eq) -> str:
        left, pieces = self._sides(e)
        return f"{left} = {' '.join(pieces)}"

    def _aligned(self, equations: Sequence[Eq]) -> list[str]:
        """Lines of an ``align``, those that are too long broken at a term."""
        sides = [self._sides(e) for e in equations]
        room = _LINE - max((width(f"{left} =") for left, _ in sides), default=0.0)
        joint = " \\notag \\\\*\n    &\\quad {} "
        return _ended([f"{left} &= {joint.join(_filled(p, room))}" for left, p in sides])

    def _packed(self, equations: Sequence[Eq]) -> list[str]:
        """Lines that hold as many short equations as fit, of those that build on each other."""
        margin = max((width(self._math(e.lhs)) for e in equations), default=0.0)
        lines: list[str] = []
        room, chain = 0.0, set[Vector]()
        for e in equations:
            left, pieces = self._sides(e)
            line = f"{left} = {' '.join(pieces)}"
            builds = bool(chain & e.rhs.atoms(Vector))
            if builds and width(line) + 24 < room:
                lines[-1] += rf", \qquad {line}"
                room -= width(line) + 24
            else:
                lines += self._aligned([e])
                room = _LINE - margin - width(f"= {' '.join(pieces)}")
                chain = chain if builds else set()
            chain.add(e.lhs)
        return _ended(lines)


def _spelled_out(e: Expr) -> Expr:
    """``e`` in the words of the normal form: without helpers, and without ``named``."""
    e = e.replace(lambda n: isinstance(n, Helper), lambda n: n.made)
    return e.replace(lambda n: isinstance(n, named), lambda n: n.args[0])


def _in_order(lines: Sequence[Eq], letters: Sequence[str]) -> bool:
    """Whether every line reads only what lines above it define, ⋆ being each of ``letters``."""

    def each(v: Vector) -> set[tuple[str, str, int]]:
        return {(v.name.replace(STAR, letter), v.category, v.time) for letter in letters}

    made = [each(e.lhs) if isinstance(e.lhs, Vector) else set() for e in lines]
    ever: set[tuple[str, str, int]] = set().union(*made)
    so_far: set[tuple[str, str, int]] = set()
    for e, names in zip(lines, made, strict=True):
        read = set().union(*(each(v) for v in e.rhs.atoms(Vector)))
        if (read & ever) - so_far:
            return False
        so_far |= names
    return True


def _widest(family: dict[str, str]) -> float:
    return max(map(width, family.values())) + 20.0


def _listed(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _filled(pieces: Sequence[str], room: float) -> list[str]:
    """``pieces`` in as few lines as hold them; if two do, the terms of step t+1 on the second."""
    chunks: list[str] = []
    for piece in pieces:
        if chunks and not piece.startswith(("+", "-", r"\odot")):
            chunks[-1] += f" {piece}"
        else:
            chunks.append(piece)
    if width(" ".join(chunks)) > room:
        later = next((k for k, chunk in enumerate(chunks) if "t+1" in chunk), 0)
        halves = [" ".join(chunks[:later]), " ".join(chunks[later:])]
        if later and max(map(width, halves)) <= room - 10:
            return halves
    lines = chunks[:1]
    for chunk in chunks[1:]:
        if width(f"{lines[-1]} {chunk}") > room - 10:
            lines.append(chunk)
        else:
            lines[-1] += f" {chunk}"
    return lines


def _ended(lines: Sequence[str]) -> list[str]:
    return [rf"{line} \\" for line in lines[:-1]] + list(lines[-1:])
