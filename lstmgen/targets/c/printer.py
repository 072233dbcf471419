"""A tree as C."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal as OneOf

from sympy import Expr

from .lines import LISTS, STATEMENTS, WIDTH, Piece, broken, comment, statement, written
from .tree import (
    Address,
    Call,
    Cast,
    Comment,
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
    Minus,
    Product,
    Relation,
    Statement,
    Store,
    Sum,
    Variable,
)

_INDENT = "    "
_TERMS, _FACTORS, _SIGNED, _ATOM = 1, 2, 3, 4  # how tightly expressions hold together


class Printer:
    """Prints trees; ``size`` says how a polynomial in sizes is written."""

    def __init__(self, size: Callable[[Expr], str]) -> None:
        self.size = size

    def text(self, e: Expression) -> str:
        """An expression in one line."""
        return written(self._pieces(e))

    def lines(self, statements: Iterable[Statement]) -> list[str]:
        return [line for s in statements for line in self._statement(s)]

    def head(self, function: Function) -> list[str]:
        """The head of a function."""
        items = [f"{_kind(kind)}{v.name}" for kind, v in function.parameters]
        return broken(f"static void {function.name}(", items, ")", WIDTH)

    # ------------------------------------------------------------------ statements

    def _statement(self, s: Statement) -> list[str]:
        match s:
            case Comment(text):
                return comment(text)
            case Declare(kind, variable, Call() as call) if call.type == "pointer":
                return self._call(f"{_kind(kind)}{variable.name} = ", call)
            case Declare(kind, variable, value):
                pieces = [
                    Piece(f"{_kind(kind)}{variable.name} = "),
                    *self._pieces(value),
                    Piece(";"),
                ]
                return statement(pieces, LISTS if value.type == "pointer" else STATEMENTS)
            case Store(target, value, sign):
                start = Piece(f"{self.text(target)} {sign} ")
                return statement([start, *self._pieces(value), Piece(";")])
            case Do(call):
                return self._call("", call)
            case If(condition, body):
                return self._block(f"if ({self.text(condition)})", body)
            case Loop(index, count, body, backwards):
                j, n = index.name, self.text(count)
                way = f"{j} = {n}; {j}-- > 0;" if backwards else f"{j} = 0; {j} < {n}; ++{j}"
                return self._block(f"for (size_t {way})", body)
        raise AssertionError(s)

    def _call(self, start: str, call: Call) -> list[str]:
        return broken(f"{start}{call.function}(", [*map(self.text, call.arguments)], ");", LISTS)

    def _block(self, head: str, body: Sequence[Statement]) -> list[str]:
        return [f"{head} {{", *(f"{_INDENT}{line}" for line in self.lines(body)), "}"]

    # ------------------------------------------------------------------ expressions

    def _pieces(self, e: Expression) -> list[Piece]:
        match e:
            case Variable(name):
                return [Piece(name)]
            case Literal(text):
                return [Piece(text)]
            case Count(value):
                return [Piece(self.size(value))]
            case Member(of, name):
                arrow = "->" if of.type == "pointer" else "."
                return [*self._operand(of, _ATOM), Piece(f"{arrow}{name}")]
            case Element(pointer, index):
                return [*self._operand(pointer, _ATOM), Piece(f"[{self.text(index)}]")]
            case Address(of):
                return [Piece(f"&{of.name}")]
            case Cast(to, value):
                return [Piece(f"({_kind(to).rstrip()})"), *self._operand(value, _SIGNED)]
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
                return _enclosed(pieces, "(mask)(") if e.type == "mask" else pieces
            case Junction(masks, sign):
                parts = sorted(map(self._pieces, masks), key=written)
                return _enclosed(_together(parts, f" {sign} "))
            case Call(function, arguments):
                parts = [self._pieces(a) for a in arguments]
                parts[1:] = map(_apart, parts[1:])
                return _enclosed(_together(parts, ","), f"{function}(")
        raise AssertionError(e)

    def _operand(self, e: Expression, least: int, sign: str = "") -> list[Piece]:
        """``e``, in brackets unless it binds at ``least`` so tightly, and after any sign.

        Sizes that are added or multiplied need none among others.
        """
        level = _binds(e) + (isinstance(e, Count) and sign in ("+", "*"))
        pieces = self._pieces(e)
        return _enclosed(pieces) if level < least or _begins_with_minus(e) else pieces


def _kind(kind: Kind) -> str:
    """A type as it stands before a name."""
    return f"{'const ' if kind.is_const else ''}{kind.of} {kind.pointer}"


def _binds(e: Expression) -> int:
    """How tightly ``e`` holds together."""
    match e:
        case Relation(type="size"):
            return 0
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


def _apart(pieces: Sequence[Piece]) -> list[Piece]:
    return [replace(pieces[0], gap="term"), *pieces[1:]]


def _listed(
    first: Sequence[Piece],
    signs: Iterable[str],
    others: Iterable[Sequence[Piece]],
    gap: OneOf["term", "factor"],
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
