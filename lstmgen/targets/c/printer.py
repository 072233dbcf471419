"""A tree as C."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from sympy import Expr

from .lines import WIDTH, Gap, Piece, broken, comment, statement, written
from .tree import (
    Address,
    Call,
    Cast,
    Choice,
    Comment,
    Conditions,
    Count,
    Declare,
    Do,
    Element,
    Expression,
    Function,
    If,
    Junction,
    Kind,
    Literal,
    Loop,
    Member,
    Members,
    Minus,
    Product,
    Relation,
    Return,
    SizeOf,
    Statement,
    Store,
    Sum,
    Together,
    Variable,
)

_INDENT = 4
# How tightly expressions hold together.
_CHOSEN, _JOINED, _RELATED, _TERMS, _FACTORS, _SIGNED, _ATOM = range(7)


class Printer:
    """Prints trees.

    Parameters
    ----------
    size
        How a polynomial in sizes is written.
    name
        How a name of the runtime is spelled, for the type of numbers that the code is for.
    """

    def __init__(
        self, size: Callable[[Expr], str], name: Callable[[str], str] = lambda name: name
    ) -> None:
        self.size, self.name = size, name

    def text(self, e: Expression) -> str:
        """An expression in one line."""
        return written(self._pieces(e))

    def lines(self, statements: Iterable[Statement], indent: int = 4) -> list[str]:
        """Statements that stand so many columns from the left, without these columns."""
        return [line for s in statements for line in self._statement(s, WIDTH - indent)]

    def head(self, function: Function) -> list[str]:
        """The head of a function."""
        items = [f"{self._kind(kind)}{v.name}" for kind, v in function.parameters]
        return broken(f"static void {function.name}(", items, ")", WIDTH)

    # ------------------------------------------------------------------ statements

    def _statement(self, s: Statement, width: int) -> list[str]:
        match s:
            case Comment(text):
                return comment(text, width)
            case Declare(kind, variable, value):
                first, *others = self._pieces(value)
                start = Piece(f"{self._kind(kind)}{variable.name} =")
                return statement([start, replace(first, gap="value"), *others, Piece(";")], width)
            case Together(declarations):
                return statement(self._together(declarations), width)
            case Store(target, value, sign):
                start = Piece(f"{self.text(target)} {sign} ")
                return statement([start, *self._pieces(value), Piece(";")], width)
            case Do(call):
                return statement([*self._pieces(call), Piece(";")], width)
            case Return(value):
                return statement([Piece("return "), *self._pieces(value), Piece(";")], width)
            case If(condition, body):
                head = [Piece("if (", 1), *self._pieces(condition), Piece(") {", -1)]
                return self._block(statement(head, width), body, width)
            case Loop(index, count, body, backwards):
                j, n = index.name, self.text(count)
                way = f"{j} = {n}; {j}-- > 0;" if backwards else f"{j} = 0; {j} < {n}; ++{j}"
                return self._block([f"for (size_t {way}) {{"], body, width)
        raise AssertionError(s)

    def _together(self, declarations: Sequence[Declare]) -> list[Piece]:
        kind = declarations[0].kind
        pieces = [Piece(self._kind(replace(kind, pointer="")))]
        for k, d in enumerate(declarations):
            start = Piece(f"{kind.pointer}{d.variable.name} =", gap="item" if k else "")
            end = Piece("," if k < len(declarations) - 1 else ";")
            first, *others = self._pieces(d.value)
            pieces += [start, replace(first, gap="value"), *others, end]
        return pieces

    def _block(self, head: Sequence[str], body: Sequence[Statement], width: int) -> list[str]:
        inside = self._beside(body, width - _INDENT) or [
            line for s in body for line in self._statement(s, width - _INDENT)
        ]
        return [*head, *(f"{' ' * _INDENT}{line}" for line in inside), "}"]

    def _beside(self, body: Sequence[Statement], width: int) -> list[str]:
        """Statements with what they are about beside them, if all fit into a line so."""
        if len(body) % 2:
            return []
        lines = []
        for about, s in zip(body[::2], body[1::2], strict=True):
            if not (isinstance(about, Comment) and isinstance(s, (Declare, Store, Do))):
                return []
            lines.append(" ".join([*self._statement(s, WIDTH), *comment(about.text, WIDTH)]))
        return lines if max(map(len, lines), default=width) <= width else []

    # ------------------------------------------------------------------ expressions

    def _pieces(self, e: Expression) -> list[Piece]:
        match e:
            case Variable(name):
                return [Piece(name)]
            case Literal(text):
                return [Piece(self.name(text))]
            case Count(value):
                return [Piece(self.size(value))]
            case Member(of, name):
                arrow = "->" if of.type == "pointer" else "."
                return [*self._operand(of, _ATOM), Piece(f"{arrow}{name}")]
            case Element(pointer, index):
                return [*self._operand(pointer, _ATOM), Piece(f"[{self.text(index)}]")]
            case Address(of):
                return [Piece(f"&{self.text(of)}")]
            case SizeOf(kind):
                return [Piece(f"sizeof({self._kind(kind).rstrip()})")]
            case Cast(to, value):
                return [Piece(f"({self._kind(to).rstrip()})"), *self._operand(value, _SIGNED)]
            case Minus(value):
                return [Piece("-"), *self._operand(value, _FACTORS)]
            case Sum(terms, signs):
                parts = [self._operand(t, _FACTORS, s) for t, s in zip(terms, signs, strict=True)]
                first = [Piece("-"), *parts[0]] if signs[0] == "-" else parts[0]
                return _listed(first, signs[1:], parts[1:], "term")
            case Product(factors, signs):
                parts = [self._operand(f, _SIGNED, s) for f, s in zip(factors, signs, strict=True)]
                return _listed(parts[0], signs[1:], parts[1:], "factor")
            case Relation(left, sign, right):
                pieces = _listed(self._pieces(left), [sign], [self._pieces(right)], "term")
                return _enclosed(pieces, f"({self.name('mask')})(") if e.type == "mask" else pieces
            case Junction(masks, sign):
                parts = sorted(map(self._pieces, masks), key=written)
                return _enclosed(_together(parts, f" {sign} "))
            case Conditions(conditions, sign):
                first, *others = (self._operand(c, _RELATED) for c in conditions)
                return _listed(first, [sign] * len(others), others, "term")
            case Choice(condition, yes, no):
                values = [self._operand(yes, _CHOSEN), self._operand(no, _CHOSEN)]
                return _listed(self._operand(condition, _JOINED), "?:", values, "choice")
            case Members(names, values):
                parts = [[Piece(f".{n} = "), *self._pieces(v)]
                         for n, v in zip(names, values, strict=True)]  # fmt: skip
                return [Piece("{", 1), *_items(parts), Piece("}", -1)]
            case Call(function, arguments):
                parts = [self._pieces(a) for a in arguments]
                return _enclosed(_items(parts), f"{self.name(function)}(")
        raise AssertionError(e)

    def _kind(self, kind: Kind) -> str:
        """A type as it stands before a name."""
        return f"{'const ' if kind.is_const else ''}{self.name(kind.of)} {kind.pointer}"

    def _operand(self, e: Expression, least: int, sign: str = "") -> list[Piece]:
        """``e``, in brackets unless it binds at ``least`` so tightly, and after any sign.

        Sizes that are added or multiplied need none among others.
        """
        level = _binds(e) + (isinstance(e, Count) and sign in ("+", "*"))
        pieces = self._pieces(e)
        return _enclosed(pieces) if level < least or _begins_with_minus(e) else pieces


def _binds(e: Expression) -> int:
    """How tightly ``e`` holds together."""
    match e:
        case Choice():
            return _CHOSEN
        case Conditions():
            return _JOINED
        case Relation(type="size"):
            return _RELATED
        case Sum():
            return _TERMS
        case Product():
            return _FACTORS
        case Count(value):
            return _TERMS if value.expand().is_Add else _ATOM if value.is_Atom else _FACTORS
        case Minus() | Cast() | Address():
            return _SIGNED
    return _ATOM


def _begins_with_minus(e: Expression) -> bool:
    return isinstance(e, Minus) or (isinstance(e, Literal) and e.text.startswith("-"))


def _items(parts: Sequence[Sequence[Piece]]) -> list[Piece]:
    """Items after one another; lines end after a comma."""
    made: list[Piece] = []
    for k, (first, *others) in enumerate(parts):
        made += [Piece(","), replace(first, gap="item"), *others] if k else [first, *others]
    return made


def _listed(
    first: Sequence[Piece],
    signs: Iterable[str],
    others: Iterable[Sequence[Piece]],
    gap: Gap,
) -> list[Piece]:
    """Operands with operators between them; lines begin with an operator."""
    made = list(first)
    for sign, other in zip(signs, others, strict=True):
        made += [Piece(f"{sign} ", gap=gap), *other]
    return made


def _together(parts: Sequence[Sequence[Piece]], between: str) -> list[Piece]:
    made: list[Piece] = []
    for k, part in enumerate(parts):
        made += [Piece(between), *part] if k else part
    return made


def _enclosed(pieces: Sequence[Piece], start: str = "(") -> list[Piece]:
    return [Piece(start, 1), *pieces, Piece(")", -1)]
