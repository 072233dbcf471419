"""Writing a cell as text that reads back equal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import sympy
from sympy import Expr
from sympy.functions.elementary.piecewise import ExprCondPair

from ..errors import GenerateError
from ..language.cell import Cell
from ..language.composed import layer_norm, softmax
from ..language.functions import rsqrt
from ..language.initial import Initial, Start
from ..language.matrices import Matrix
from ..language.misuse import short
from ..language.sizes import Size
from ..language.symbols import (
    Concat,
    Contract,
    Expand,
    Part,
    Product,
    Reduction,
    Reshape,
    Transpose,
    Vector,
    mean,
    named,
)
from ..printing.orders import Order, is_negative
from .functions import MOST_ARGUMENTS, NAMES, NUMBERS, RELATIONS
from .inference import DEFAULTS, infer, mistaken
from .layout import is_equation
from .tree import Axes, Equation, Header, Node, text_of

_WIDTH = 100
_MOST_JOINED = 8
_RELATIONS = {relation: word for word, relation in RELATIONS.items()}


def write_cell(cell: Cell) -> str:
    """The text form of a cell, as ``read_cell`` reads it.

    Raises
    ------
    GenerateError
        If an equation holds what the notation has not.
    """
    header = _header(cell)
    writer = _Writer(cell)
    equations = writer.equations()
    true = _kinds(cell)
    sizes = {n.name for n in cell.sizes}
    found = infer(equations, header)
    # what use alone does not tell is said
    writer.spelled = {n for n in sizes if found.of.get(n) not in (None, "size")}
    writer.spelled |= {n for n in sizes if n not in found.of and _is_read(n, equations)}
    equations = writer.equations()
    for _ in range(2):  # one that is said may tell of another
        found = infer(equations, header)
        for name, kind in true.items():
            if found[name] != kind:
                _declare(header, name, kind)
    for name in mistaken(equations, header, infer(equations, header)):
        _declare(header, name, "parameter")
    return "\n".join([*_lines(header), "", *map(_equation, equations)]) + "\n"


def _is_read(name: str, equations: Iterable[Equation]) -> bool:
    return any(n.kind == "name" and n.word == name for e in equations for n in e.value.walk())


def _declare(header: Header, name: str, kind: str) -> None:
    line = header.matrices if kind in ("matrix", "derived") else header.vectors
    line[name] = header.sizes.pop(name, line.get(name))


def _kinds(cell: Cell) -> dict[str, str]:
    derived = {m.name for m in cell.derived}
    kinds = {}
    for s in _symbols(cell):
        matrix = "derived" if s.name in derived else "matrix"
        kinds[s.name] = matrix if isinstance(s, Matrix) else s.category
    return kinds


def _symbols(cell: Cell) -> list[Vector | Matrix]:
    """All symbols, a state as it comes in, in the order in which equations have them."""
    found: dict[str, Vector | Matrix] = {}
    order = Order(cell)
    for e in cell.equations:
        read = sorted(e.rhs.atoms(Vector, Matrix), key=lambda s: (order.rank(s), s.name))
        for s in (e.lhs, *read):
            found.setdefault(s.name, s.base if isinstance(s, Matrix) else s)
    return list(found.values())


# --------------------------------------------------------------------------- the header


def _header(cell: Cell) -> Header:
    header = Header()
    header.texts = {"name": cell.name, "title": cell.title, "source": cell.source,
                    "notes": cell.notes}  # fmt: skip
    header.output = [v.name for v in cell.outputs]
    given: dict[str, dict[str, Axes | None]] = {"input": {}, "mask": header.masks}
    for s in _symbols(cell):
        kind = s.category if isinstance(s, Vector) else "matrix"
        axes = None if s.axes == DEFAULTS[kind] else s.axes
        if kind in given:
            given[kind][s.name] = axes
        elif kind == "constant":
            header.constants[s.name] = None if s.value is None else float(s.value)  # type: ignore[arg-type]
        elif axes is not None:
            header.sizes[s.name] = axes
        if kind in ("state", "parameter", "matrix") and repr(s.value) != repr(_default(kind)):
            header.starts[s.name] = "none" if s.value is None else s.value
        if not s.learned:
            header.fixed.append(s.name)
    if given["input"] != {"x": None}:
        header.inputs = given["input"]
    header.init = dict(cell._init)
    header.roles = dict(cell.roles)
    return header


def _default(kind: str) -> Start | None:
    return 0.0 if kind == "parameter" else None


def _lines(header: Header) -> list[str]:
    lines = [_text_line(word, text) for word, text in header.texts.items() if text]
    lists = {
        "inputs": _quantities(header.inputs or {}),
        "masks": _quantities(header.masks),
        "constants": _starts(header.constants),
        "sizes": _quantities(header.sizes),
        "matrices": _quantities(header.matrices),
        "vectors": _quantities(header.vectors),
        "starts": _starts(header.starts),
        "init": _starts(header.init),
        "fixed": header.fixed,
        "output": header.output,
        "roles": [f"{name} = {_role(role)}" for name, role in header.roles.items()],
    }
    for word, values in lists.items():
        if values:
            lines += _list(word, values)
    return lines


def _list(word: str, values: list[str]) -> list[str]:
    """A header line of several values, which are not broken."""
    if any("@" in value for value in values):  # a line below would read like an equation
        return [f"{word}: {', '.join(values)}"]
    lines = [f"{word}: {values[0]}"]
    for value in values[1:]:
        lines[-1] += ","
        if len(lines[-1]) + len(value) + 2 > _WIDTH:
            lines.append(f"    {value}")
        else:
            lines[-1] += f" {value}"
    return lines


def _wrapped(line: str) -> list[str]:
    """A line, and what goes on with it."""
    if len(line) <= _WIDTH:
        return [line]
    return textwrap.wrap(line, _WIDTH, subsequent_indent="    ", break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def _text_line(word: str, text: str) -> str:
    if _is_plain(text) and not text.startswith('"'):
        lines = _wrapped(f"{word}: {text}")
        if not any(is_equation(line) for line in lines[1:]):
            return "\n".join(lines)
    return f"{word}: {_quoted(text)}"


def _is_plain(text: str) -> bool:
    """Whether a text can stand without quotes."""
    one_line = " ".join(text.split(" ")) == text == text.strip() and "  " not in text
    return bool(text) and one_line and text.isprintable() and "#" not in text


def _quoted(text: str) -> str:
    string = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in string)


def _role(role: str) -> str:
    return role if _is_plain(role) and not set(role) & set(',"') else _quoted(role)


def _quantities(found: Mapping[str, Axes | None]) -> list[str]:
    return [
        name if axes is None else f"{name} ({', '.join(a or '?' for a in axes)})"
        for name, axes in found.items()
    ]


def _starts(found: Mapping[str, Any]) -> list[str]:
    return [name if value is None else f"{name} = {_start(value)}" for name, value in found.items()]


def _start(value: Any) -> str:
    if isinstance(value, Initial):
        return value.shown(repr)
    return str(value) if isinstance(value, str) else repr(value).removesuffix(".0")


# --------------------------------------------------------------------------- equations


def _equation(e: Equation) -> str:
    return "\n".join(_wrapped(f"{text_of(e.target)} = {text_of(e.value)}"))


def _call(function: str, *args: Node) -> Node:
    return Node("call", (function,), args)


def _name(name: str) -> Node:
    return Node("name", (name,))


def _integer(n: int) -> Node:
    digits = Node("number", (str(abs(n)),))
    return Node("signed", ("-",), (digits,)) if n < 0 else digits


def _product(signs: list[str], factors: list[Node]) -> Node:
    return Node("product", tuple(signs), tuple(factors)) if signs else factors[0]


def _axis(size: Expr) -> Node:
    return _name(str(size))  # as it is declared, which is how it is written


def _compositions(f: Expr) -> Iterator[tuple[Any, Expr, dict[str, Expr]]]:
    """What could have made this factor: a function, its argument, and keywords."""
    if not isinstance(f, named):
        return
    inner = f.args[0]
    if f.name_hint == "e" and isinstance(inner, sympy.exp):
        for term in sympy.Add.make_args(inner.args[0]):
            yield softmax, _without_name(term), {}
    if f.name_hint == "r" and isinstance(inner, rsqrt) and inner.args[0].is_Add:
        eps, var = inner.args[0].as_coeff_Add()
        if isinstance(var, named) and isinstance(var.args[0], mean):
            centred = var.args[0].args[0].as_base_exp()[0]
            if isinstance(centred, named):
                more = {} if eps == sympy.Float(1e-5) else {"eps": eps}
                for term in sympy.Add.make_args(centred.args[0]):
                    yield layer_norm, _without_name(term), more


def _without_name(e: Expr) -> Expr:
    """What a composition keeps together again."""
    return e.args[0] if isinstance(e, named) and not e.name_hint else e


class _Writer:
    """Trees of a cell's equations. ``spelled`` are sizes that have to say so: size(K)."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.order = cell, Order(cell)
        self.names = {s.name for s in _symbols(cell)}
        self.spelled: set[str] = set()

    def equations(self) -> list[Equation]:
        """All of them."""
        return [Equation(self.tree(e.lhs), self.tree(e.rhs)) for e in self.cell.equations]

    def tree(self, e: Any) -> Node:
        """An expression, a condition, or a symbol."""
        for kind, write in self._table.items():
            if isinstance(e, kind):
                made: Node = write(e)
                return made
        name = NAMES.get(e.func)
        if name is None:
            raise GenerateError(f"the notation of text has no {type(e).__name__}: {e}")
        if e.func in (sympy.Max, sympy.Min):
            return self._nested(name, sorted(e.args, key=self._place))
        return _call(name, *map(self.tree, e.args))

    @cached_property
    def _table(self) -> dict[Any, Any]:
        return {
            Vector: self._vector, Matrix: self._matrix, Size: self._size, sympy.Add: self._sum,
            sympy.Mul: self._mul, sympy.Pow: self._pow, sympy.Integer: lambda e: _integer(int(e)),
            sympy.Rational: self._rational, sympy.Float: self._float,
            sympy.NumberSymbol: self._constant, Product: self._contraction_of_matrix,
            Contract: self._contract, Reduction: self._reduction, Expand: self._expand,
            Part: self._part, Reshape: self._reshape, Transpose: self._transpose,
            Concat: lambda e: _call("concat", *map(self.tree, e.args)), named: self._named,
            sympy.Piecewise: self._where, (sympy.And, sympy.Or): self._joined,
            sympy.Not: lambda e: Node("negated", (), (self.tree(e.args[0]),)),
            tuple(_RELATIONS): self._relation,
        }  # fmt: skip

    def _place(self, e: Expr) -> Any:
        return (bool(e.is_number), self.order._ranks(e), str(e))

    # ------------------------------------------------------------------ leaves

    def _vector(self, v: Vector) -> Node:
        if v.category == "state" and v.time == 0:
            return Node("attribute", ("next",), (_name(v.name),))
        return _name(v.name)

    def _matrix(self, m: Matrix) -> Node:
        return Node("attribute", ("T",), (_name(m.name),)) if m.transposed else _name(m.name)

    def _size(self, n: Size) -> Node:
        return _call("size", _name(n.name)) if n.name in self.spelled else _name(n.name)

    def _rational(self, e: Any) -> Node:
        return _product(["/"], [_integer(e.p), _integer(e.q)])

    def _float(self, e: Any) -> Node:
        digits = Node("number", (repr(abs(float(e))),))
        return Node("signed", ("-",), (digits,)) if e < 0 else digits

    def _constant(self, e: Any) -> Node:
        if e is sympy.E:
            return _call("exp", _integer(1))
        if e is sympy.pi and "pi" in self.names:
            return _call("acos", _integer(-1))
        return _name(next(name for name, number in NUMBERS.items() if number is e))

    # ------------------------------------------------------------------ arithmetic

    def _sum(self, e: Expr) -> Node:
        first, *others = self.order.terms(e)
        nodes, signs = [self.tree(first)], []
        for t in others:
            minus = is_negative(t)
            signs.append("-" if minus else "+")
            nodes.append(self.tree(-t if minus else t))
        return Node("sum", tuple(signs), tuple(nodes))

    def _mul(self, e: Expr) -> Node:
        if is_negative(e):
            inner = self.tree(-e)
            if inner.kind == "call":
                return Node("signed", ("-",), (inner,))
            # a minus binds to the first factor, and SymPy multiplies out a sum by a number at once
            if inner.kind == "product" and inner.args[0].kind != "sum" and not (
                inner.args[0].kind == "number" and "sum" in (a.kind for a in inner.args)
            ) and "@" not in inner.words:  # fmt: skip
                first = Node("signed", ("-",), (inner.args[0],))
                return Node("product", inner.words, (first, *inner.args[1:]))
            return Node("signed", ("-",), (inner,))
        above: list[Expr] = []
        below: list[Expr] = []
        number = sympy.S.One
        composed, factors = self._composed(self.order.factors(e))
        for f in factors:
            if f.is_Number:
                number = number * f
            elif f.is_Pow and is_negative(f.exp) and not f.base.is_number:
                below.append(1 / f)
            else:
                above.append(f)
        nodes = [*(self.tree(f) for f in above), *composed]
        p, q = (number.p, number.q) if number.is_Rational else (number, 1)
        if p != 1 or not nodes:
            # not before a sum, which it would be multiplied into
            front = not nodes or nodes[0].kind != "sum"
            nodes.insert(0 if front else len(nodes), self.tree(sympy.sympify(p)))
        signs = ["*"] * (len(nodes) - 1) + ["/"] * len(below)
        nodes += [self.tree(f) for f in below]
        if q != 1:
            signs.append("/")
            nodes.append(_integer(q))
        return _product(signs, nodes)

    def _composed(self, factors: list[Expr]) -> tuple[list[Node], list[Expr]]:
        """softmax(…) and layer_norm(…) among factors, which are two of them, and the others."""
        found: list[Node] = []
        left = list(factors)
        for f in factors:
            for make, argument, more in _compositions(f):
                whole = self.cell.shapes.explicit(make(argument, **more))
                parts = [*sympy.Mul.make_args(whole)]
                if all(left.count(part) for part in parts):
                    for part in parts:
                        left.remove(part)
                    keywords = (Node("keyword", (k,), (self.tree(v),)) for k, v in more.items())
                    found.append(_call(make.__name__, self.tree(argument), *keywords))
                    break
        return found, left

    def _pow(self, e: Any) -> Node:
        base, exponent = e.args
        if is_negative(exponent) and not base.is_number:
            return _product(["/"], [_integer(1), self.tree(1 / e)])
        if exponent == sympy.Rational(1, 2):
            return _call("sqrt", self.tree(base))
        return Node("power", (), (self.tree(base), self.tree(exponent)))

    # ------------------------------------------------------------------ contractions and views

    def _contraction_of_matrix(self, e: Product) -> Node:
        return _product(["@"], [self.tree(e.matrix), self.tree(e.operand)])

    def _contract(self, e: Contract) -> Node:
        left, right, out = e.spec
        heads = set(left) & set(right) & set(out)
        one, two, rest = ([c for c in word if c not in heads] for word in (left, right, out))
        a, b = (self.tree(arg) for arg in e.args[:2])
        if len(one) == len(two) == 1 and rest == one + two:
            return _call("outer", a, b)
        kept = [c for c in one if c not in two] + [c for c in two if c not in one]
        if len(one) != 2 or len(two) not in (1, 2) or len(kept) != len(two) or rest != kept:
            raise GenerateError(
                f"cannot write {short(e)} as text: the notation has products of matrices, and of "
                "a matrix and a vector, but no others"
            )
        (summed,) = set(one) & set(two)
        if one[0] == summed:
            a = Node("attribute", ("T",), (a,))
        if two[-1] == summed and len(two) > 1:
            b = Node("attribute", ("T",), (b,))
        return _product(["@"], [a, b])

    def _reduction(self, e: Reduction) -> Node:
        if e.func not in NAMES:  # what is derived has more: a running sum from the last unit
            raise GenerateError(
                f"cannot write {short(e)} as text: the notation has no such function"
            )
        args = [self.tree(e.args[0])]
        if e.axis is not None:
            args.append(Node("keyword", ("axis",), (_integer(int(e.axis)),)))
        return _call(NAMES[e.func], *args)

    def _expand(self, e: Expand) -> Node:
        places, axes = e.elsewhere, tuple(map(_axis, e.args[1]))
        if len(places) > 1:
            raise GenerateError(
                f"cannot write {short(e)} as text: the notation has axis= for one axis only"
            )
        where = (Node("keyword", ("axis",), (_integer(places[0]),)),) if places else ()
        return _call("expand", self.tree(e.operand), *axes, *where)

    def _part(self, e: Part) -> Node:
        value = e.operand
        if isinstance(value, named) and not value.name_hint:
            value = value.args[0]  # which split puts there again
        axes = [_integer(1)] if len(e.sizes) == 1 else list(map(_axis, e.sizes))
        return Node("index", (str(e.number),), (_call("split", self.tree(value), *axes),))

    def _reshape(self, e: Reshape) -> Node:
        axes = e.args[1]
        inner = e.operand
        if len(axes) > 1:
            return _call("chunk", self.tree(inner), *map(_axis, axes))
        if e.repeats:
            return _call("repeat", self.tree(e.repeats[0]), _axis(e.repeats[1]))
        return _call("flatten", self.tree(inner))

    def _transpose(self, e: Transpose) -> Node:
        return Node("attribute", ("T",), (self.tree(e.operand),))

    def _named(self, e: named) -> Node:
        hint = [_name(e.name_hint)] if e.name_hint else []
        return _call("named", self.tree(e.args[0]), *hint)

    # ------------------------------------------------------------------ conditions

    def _where(self, e: sympy.Piecewise) -> Node:
        args: list[Node] = []
        for piece in e.args:
            assert isinstance(piece, ExprCondPair)
            if piece.cond != True:  # noqa: E712
                args.append(self.tree(piece.cond))
            args.append(self.tree(piece.expr))
        return _call("where", *args)

    def _joined(self, e: Any) -> Node:
        kind = "conjunction" if isinstance(e, sympy.And) else "disjunction"
        args = [self.tree(a) for a in sorted(e.args, key=str)]
        while len(args) > 1:
            some, args = args[:_MOST_JOINED], args[_MOST_JOINED:]
            args.insert(0, Node(kind, (), tuple(some)))
        return args[0]

    def _relation(self, e: Any) -> Node:
        word = next(word for kind, word in _RELATIONS.items() if isinstance(e, kind))
        return Node("comparison", (word,), (self.tree(e.lhs), self.tree(e.rhs)))

    def _nested(self, name: str, args: list[Expr]) -> Node:
        nodes = [self.tree(a) for a in args]
        while len(nodes) > MOST_ARGUMENTS:
            some, nodes = nodes[:MOST_ARGUMENTS], nodes[MOST_ARGUMENTS:]
            nodes.insert(0, _call(name, *some))
        return _call(name, *nodes)
