"""The program that a plan becomes, as a tree: typed expressions, and statements on them.

A tree is a value. It is made from a plan by ``stages``, ``products`` and ``copies``; what a piece
of it uses (variables, sizes, functions, packed parameters) is found by a walk over it; ``printer``
makes C of it, last.

Sizes and offsets are SymPy polynomials in ``Size``, in a ``Count``: they stay open to arithmetic
until they are printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import groupby
from typing import Any, TypeVar
from typing import Literal as OneOf

from sympy import Expr

from ...language.sizes import Size
from ...planning.operations import ZERO, B, T

# A ``number`` is a single real, a ``vec`` one for each lane, a ``mask`` a condition for each lane;
# a ``size`` counts units, rows or steps; a call that is made for what it does has "nothing".
Type = OneOf["number", "vec", "mask", "size", "pointer", "struct", "nothing"]


@dataclass(frozen=True)
class Kind:
    """A type of C: of values, or of a pointer to such values.

    ``is_const`` values do not change.
    """

    of: str
    is_const: bool = False
    pointer: OneOf["", "*", "*const ", "*restrict "] = ""


REAL, VEC, SIZE = Kind("real"), Kind("vec"), Kind("size_t")
COUNT = Kind("size_t", is_const=True)
NUMBERS, READ_NUMBERS = Kind("real", False, "*const "), Kind("real", True, "*const ")


@dataclass(frozen=True)
class Node:
    """Anything in a tree. What it consists of are those of its fields that are nodes."""

    @property
    def parts(self) -> Iterator[Node]:
        kind: Any = type(self)
        for name in _fields(kind):
            value = getattr(self, name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Node):
                    yield part


@cache
def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


N = TypeVar("N", bound=Node)


def walk(nodes: Iterable[Node], kind: type[N]) -> Iterator[N]:
    """All nodes of one kind, in the order in which they are printed."""
    for node in nodes:
        if isinstance(node, kind):
            yield node
        yield from walk(node.parts, kind)


def names_in(nodes: Iterable[Node]) -> set[str]:
    """The names of all variables that are mentioned."""
    return {v.name for v in walk(nodes, Variable)}


def sizes_in(nodes: Iterable[Node]) -> set[Size]:
    """The sizes that are mentioned, T and B among them."""
    return {n for count in walk(nodes, Count) for n in count.value.atoms(Size)}


def live(declarations: Sequence[Declare], body: Iterable[Node]) -> list[Declare]:
    """The declarations that a body needs, for itself or for others that it needs."""
    used = _named(body)
    kept: list[Declare] = []
    for declaration in reversed(declarations):
        if declaration.variable.name in used:
            kept.insert(0, declaration)
            used |= _named([declaration.value])
    return kept


def _named(nodes: Iterable[Node]) -> set[str]:
    """The names of variables, and of the steps and rows that are counted."""
    nodes = tuple(nodes)
    return names_in(nodes) | {n.name for n in sizes_in(nodes) & {T, B}}


# --------------------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Expression(Node):
    """What has a value. ``type`` says which kind of value."""

    @property
    def type(self) -> Type:
        raise NotImplementedError


@dataclass(frozen=True)
class Variable(Expression):
    """A local variable or a parameter, by the name that a scope gave it."""

    name: str
    type: Type = "pointer"


@dataclass(frozen=True)
class Literal(Expression):
    """A number, or a constant of the standard headers: 0.5f, NULL, INFINITY."""

    text: str
    type: Type = "size"


@dataclass(frozen=True)
class Count(Expression):
    """A number of units, rows or steps: a polynomial in sizes."""

    value: Expr

    @property
    def type(self) -> Type:
        return "size"


@dataclass(frozen=True)
class Member(Expression):
    """A member of a struct: ``at.W_packed``, or through a pointer, ``p->W_i``."""

    of: Expression
    name: str
    type: Type = "pointer"


@dataclass(frozen=True)
class Element(Expression):
    """What a pointer has at an index: the units ``f[j]`` in a loop over them, one number ``a[0]``.

    What it points to are vecs or numbers.
    """

    pointer: Expression
    index: Expression
    type: Type = "vec"


@dataclass(frozen=True)
class Address(Expression):
    """Where a variable or a member is: ``&total``."""

    of: Variable | Member

    @property
    def type(self) -> Type:
        return "pointer"


@dataclass(frozen=True)
class Cast(Expression):
    """A value as another type of C: ``(real)H``."""

    to: Kind
    value: Expression
    type: Type = "number"


@dataclass(frozen=True)
class Minus(Expression):
    """The negative."""

    value: Expression

    @property
    def type(self) -> Type:
        return self.value.type


@dataclass(frozen=True)
class Sum(Expression):
    """Terms that are added, or subtracted where ``signs`` has a "-"."""

    terms: tuple[Expression, ...]
    signs: str

    @property
    def type(self) -> Type:
        return _joint(self.terms)


@dataclass(frozen=True)
class Product(Expression):
    """Factors from left to right, of which ``signs`` says "*", "/" or "%"; it begins with a "*"."""

    factors: tuple[Expression, ...]
    signs: str

    @property
    def type(self) -> Type:
        return _joint(self.factors)


@dataclass(frozen=True)
class Relation(Expression):
    """A comparison, for each lane if vecs are compared."""

    left: Expression
    sign: str
    right: Expression
    type: Type = "mask"


@dataclass(frozen=True)
class Junction(Expression):
    """Masks that all hold ("&"), or one of which does ("|"). They have no order of their own."""

    masks: tuple[Expression, ...]
    sign: str

    @property
    def type(self) -> Type:
        return "mask"


@dataclass(frozen=True)
class Conditions(Expression):
    """Conditions that all hold ("&&"), or one of which does ("||")."""

    conditions: tuple[Expression, ...]
    sign: str
    type: Type = "size"


@dataclass(frozen=True)
class Choice(Expression):
    """One of two values: ``condition ? yes : no``."""

    condition: Expression
    yes: Expression
    no: Expression

    @property
    def type(self) -> Type:
        return self.yes.type


@dataclass(frozen=True)
class SizeOf(Expression):
    """The bytes of a type of C."""

    of: Kind
    type: Type = "size"


@dataclass(frozen=True)
class Members(Expression):
    """The members of a struct that it begins with: ``{.total = 0}``."""

    names: tuple[str, ...]
    values: tuple[Expression, ...]
    type: Type = "struct"


@dataclass(frozen=True)
class Call(Expression):
    """A call of a function."""

    function: str
    arguments: tuple[Expression, ...]
    type: Type = "vec"


def _joint(parts: Sequence[Expression]) -> Type:
    """The type of arithmetic on these: C takes a number beside a vec, a size beside a pointer."""
    types = [part.type for part in parts]
    return next((t for t in types if t in ("vec", "pointer")), types[0])


NULL = Literal("NULL", "pointer")
NIL, ONE = Literal("0"), Literal("1")


def vec(e: Expression) -> Expression:
    """``e`` for a function that asks for a vec: a number in all lanes."""
    return Call("splat", (e,)) if e.type == "number" else e


def product(*factors: Expression) -> Product:
    """The product of these."""
    return Product(factors, "*" * len(factors))


def shifted(base: Expression, *by: Expression) -> Expression:
    """The pointer that is so many numbers after ``base``; a 0 is left out."""
    terms = base.terms if isinstance(base, Sum) else (base,)
    terms += tuple(e for e in by if e != Count(ZERO))
    return Sum(terms, "+" * len(terms)) if len(terms) > 1 else base


def rows_of_width(rows: Sequence[Expression], width: Expr) -> Expression:
    """So many ``rows``, a product, of a ``width`` each."""
    return product(*rows, *(() if width == 1 else (Count(width),)))


# --------------------------------------------------------------------------- statements


@dataclass(frozen=True)
class Statement(Node):
    """What is done."""


@dataclass(frozen=True)
class Comment(Statement):
    """What the statements after it compute."""

    text: str


@dataclass(frozen=True)
class Declare(Statement):
    """A local variable with its value."""

    kind: Kind
    variable: Variable
    value: Expression


@dataclass(frozen=True)
class Together(Statement):
    """Declarations of one kind that are written as one."""

    declarations: tuple[Declare, ...]


def together(declarations: Iterable[Declare]) -> list[Statement]:
    """Declarations, of which those that follow one another are one where their kind is one."""
    groups = (tuple(group) for _, group in groupby(declarations, key=lambda d: d.kind))
    return [Together(group) for group in groups]


@dataclass(frozen=True)
class Store(Statement):
    """A value for a variable, an element or a member, or added to it ("+=", "-=")."""

    target: Variable | Element | Member
    value: Expression
    sign: str = "="


@dataclass(frozen=True)
class Do(Statement):
    """A call for what it does."""

    call: Call


def do(function: str, *arguments: Expression) -> Do:
    """The call of a function that has no value."""
    return Do(Call(function, arguments, "nothing"))


@dataclass(frozen=True)
class Return(Statement):
    """The value of a function."""

    value: Expression


@dataclass(frozen=True)
class If(Statement):
    """What is done where a condition holds."""

    condition: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Loop(Statement):
    """A loop over ``count`` values of ``index`` from 0 on, or ``backwards`` from the last one.

    Over units, the index counts vecs.
    """

    index: Variable
    count: Expression
    body: tuple[Statement, ...]
    backwards: bool = False


@dataclass(frozen=True)
class Function:
    """A static function for one fused stage. What it does to one row stands in ``body``.

    ``around`` are declarations before the loop over rows; ``views`` are the pointers to the blocks
    of the current row.
    """

    name: str
    about: str
    parameters: tuple[tuple[Kind, Variable], ...]
    around: tuple[Statement, ...]
    views: tuple[Statement, ...]
    body: tuple[Statement, ...]

    @property
    def statements(self) -> tuple[Statement, ...]:
        return (*self.around, *self.views, *self.body)
