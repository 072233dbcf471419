"""Loops over several axes: a nest of loops, of which the innermost works on whole vectors of units.

The units of the last axis follow each other in memory, but where they begin is not a multiple of a
vector, and what follows them is the next row. So they are loaded and stored by as many as there
are: ``some`` of a vec's lanes are in use, in the last vec of a row, and all in the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sympy
from sympy import Eq, Expr, Integer

from ...errors import GenerateError
from ...language.shapes import SCALAR, Shape, units
from ...language.symbols import (
    Contract,
    Expand,
    Part,
    Reduction,
    Reshape,
    Scan,
    Vector,
    max_,
    mean,
    rcumsum,
)
from ...planning.operations import ZERO, nesting
from ..naming import identifier
from .tree import (
    NIL,
    ONE,
    REAL,
    VEC,
    Address,
    Call,
    Cast,
    Comment,
    Count,
    Declare,
    Element,
    Expression,
    If,
    Kind,
    Literal,
    Loop,
    Minus,
    Product,
    Relation,
    Statement,
    Store,
    Sum,
    Variable,
    do,
    live,
    product,
    shifted,
    vec,
)
from .vocabulary import UNIT

if TYPE_CHECKING:
    from .stages import Body

_LANES = Literal("lanes")
_ZERO = Literal("0", "number")
_LEAST = Minus(Cast(REAL, Literal("INFINITY", "number")))


@dataclass
class _Parts:
    """Statements by the place where they stand in a nest."""

    start: list[Statement] = field(default_factory=list)  # before all loops
    before: list[Statement] = field(default_factory=list)  # before the innermost one
    inside: list[Statement] = field(default_factory=list)
    after: list[Statement] = field(default_factory=list)  # after the innermost one
    end: list[Statement] = field(default_factory=list)  # after all loops


class Nest:
    """Lowers equations that one nest of loops computes."""

    def __init__(self, body: Body, shape: Shape) -> None:
        self._body, self._shape = body, shape
        self._cell = body.source.cell
        wishes = "iklr"
        self._outer = [
            Variable(body.names(("axis", k), wishes[k]), "size") for k in range(len(shape) - 1)
        ]
        self._some = Variable(body.names("some", "some"), "size")
        self._parts = _Parts()
        self._masked = False

    def statements(self, equations: Sequence[Eq], backwards: bool = False) -> list[Statement]:
        """The loops that compute ``equations``."""
        for e in equations:
            whole = self._body.source.plan.origin.get(e.lhs, e)
            self._parts.inside.append(Comment(self._body.source.text(whole)))
            self._equation(e)
        return self.nested(backwards)

    def nested(self, backwards: bool = False) -> list[Statement]:
        """The loops around what has been lowered; all run ``backwards``, or none."""
        parts, last = self._parts, Count(self._shape[-1])
        left = Call("left_of", (last, product(UNIT, _LANES)), "size")
        some = Declare(Kind("size_t", is_const=True), self._some, left)
        inside = (*live([some], parts.inside), *parts.inside)
        inner: list[Statement] = [
            *parts.before,
            Loop(UNIT, Call("vecs", (last,), "size"), inside, backwards),
            *parts.after,
        ]
        for variable, size in reversed(list(zip(self._outer, self._shape, strict=False))):
            inner = [Loop(variable, Count(size), tuple(inner), backwards)]
        return [*parts.start, *inner, *parts.end]

    # ------------------------------------------------------------------ equations

    def _equation(self, e: Eq) -> None:
        rhs = e.rhs
        if isinstance(rhs, Contract):
            self._contract(e)
        elif isinstance(rhs, Scan):
            self._scan(e)
        elif isinstance(rhs, Reduction):
            axis = 0 if rhs.axis is None else self._cell.shapes.axis(rhs)
            self.reduce(e.lhs, type(rhs), axis, self._value(rhs.args[0]))
        elif isinstance(rhs, Part):
            start = sympy.Add(*rhs.sizes[: rhs.number])
            self._assign(e.lhs, self._loaded(rhs.operand, self._all, start))
        elif isinstance(rhs, Reshape):
            self._assign(e.lhs, self._load(self._flat(rhs.operand, self._cell.shape(e.lhs))))
        else:
            self._assign(e.lhs, self._value(rhs))

    def _contract(self, e: Eq) -> None:
        words = e.rhs.spec
        letters = nesting(words)
        summed = [k for k, x in enumerate(letters) if x not in words[2]]
        if len(summed) > 1:
            raise GenerateError(
                f"the C target cannot contract {e.rhs} over {len(summed)} axes at once"
            )
        for word in words:
            if [letters.index(x) for x in word] != sorted(letters.index(x) for x in word):
                raise GenerateError(
                    f"the C target cannot contract {e.rhs}\n"
                    "  hint: its operands and its result have their axes in three different "
                    "orders; name a transposed one by an equation of its own"
                )
        factors = [
            self._loaded(v, tuple(letters.index(x) for x in word))
            for v, word in zip(e.rhs.args, words[:2], strict=False)
        ]
        value: Expression = product(*factors)
        if not summed:
            self._assign(e.lhs, value)
        else:
            (axis,) = summed
            self.reduce(e.lhs, None, axis, value)

    def _assign(self, v: Vector, value: Expression) -> None:
        if self._body.places.is_stored(v):
            self._parts.inside.append(self._put(v, value))
            return
        name = self._body.names(("local", v), identifier(v))
        local = self._body.local[v] = Variable(name, "vec")
        if self._shape == SCALAR:  # one number, which other loops read, for all of their units
            first = Call("LSTMGEN_LANE", (vec(value), NIL), "number")
            self._parts.start.append(Declare(VEC, local, vec(_ZERO)))
            self._parts.inside.append(Store(local, vec(first)))
            return
        self._parts.inside.append(Declare(Kind("vec", is_const=True), local, vec(value)))

    # ------------------------------------------------------------------ sums over an axis

    def reduce(
        self,
        v: Vector,
        kind: type[Reduction] | None,
        axis: int,
        value: Expression,
    ) -> None:
        """``v`` becomes the sum of ``value`` along an axis, or its mean or its largest."""
        is_max = kind is max_
        start = _LEAST if is_max else _ZERO
        size = self._shape[axis]
        share = Product((ONE, Cast(REAL, Count(size))), "*/") if kind is mean else None
        kept = tuple(k for k in range(len(self._shape)) if k != axis)
        if axis == len(self._shape) - 1:
            self._along_units(v, value, start, is_max, share, kept)
            return
        place = self._at(v, kept)
        old = self._load(place)
        new = Call("larger", (old, vec(value))) if is_max else Sum((old, value), "++")
        self._parts.inside.append(self._put_at(place, new))
        shape = tuple(self._shape[k] for k in kept)
        self._parts.start += _each(self._body, v, shape, lambda old: vec(start))
        if share is not None:
            self._parts.end += _each(self._body, v, shape, lambda old: product(old, share))

    def gain(self, total: Expression, shape: Shape, axis: int | None, value: Expression) -> None:
        """The sum of a gradient, of that shape, gains ``value``, or its sum along an axis."""
        kept = tuple(k for k in range(len(self._shape)) if k != axis)
        if axis == len(self._shape) - 1:
            lanes = Variable(self._body.names("gained", "gained"), "vec")
            value = Call("within", (vec(value), UNIT, Count(self._shape[-1]), _ZERO))
            self._parts.before.append(Declare(VEC, lanes, vec(_ZERO)))
            self._parts.inside.append(Store(lanes, value, "+="))
            first = Call("LSTMGEN_LANE", (Call("across", (lanes,)), NIL), "number")
            to = Element(self.place(total, shape, kept), NIL, "number")
            self._parts.after.append(Store(to, first, "+="))
            return
        at = self.place(total, shape, kept)
        self._parts.inside.append(self._put_at(at, Sum((self._load(at), value), "++")))

    def _along_units(
        self,
        v: Vector,
        value: Expression,
        start: Expression,
        is_max: bool,
        share: Expression | None,
        kept: tuple[int, ...],
    ) -> None:
        lanes = Variable(self._body.names(("lanes", v), f"{identifier(v)}_lanes"), "vec")
        self._parts.before.append(Declare(VEC, lanes, vec(start)))
        value = Call("within", (vec(value), UNIT, Count(self._shape[-1]), start))
        if is_max:
            self._parts.inside.append(Store(lanes, Call("larger", (lanes, value))))
            whole: Expression = Call("across_max", (lanes,))
        else:
            self._parts.inside.append(Store(lanes, value, "+="))
            whole = Call("across", (lanes,))
        if share is not None:
            whole = product(whole, share)
        first = Call("LSTMGEN_LANE", (whole, NIL), "number")
        if not kept and not self._body.places.is_stored(v):
            name = self._body.names(("local", v), identifier(v))
            local = self._body.local[v] = Variable(name, "vec")
            self._parts.after.append(Declare(Kind("vec", is_const=True), local, whole))
            return
        at = self._at(v, kept) if kept else self._body.numbers(v)
        self._parts.after.append(Store(Element(at, NIL, "number"), first))
        if not kept:
            self._body.local.pop(v, None)

    def _scan(self, e: Eq) -> None:
        axis, rhs = self._cell.shapes.axis(e.rhs), e.rhs
        value = self._value(rhs.args[0])
        if axis == len(self._shape) - 1:
            total = Variable(
                self._body.names(("total", e.lhs), f"{identifier(e.lhs)}_total"), "number"
            )
            self._parts.before.append(Declare(REAL, total, _ZERO))
            value = Call("within", (vec(value), UNIT, Count(self._shape[-1]), _ZERO))
            call = "running_back" if isinstance(rhs, rcumsum) else "running"
            self._assign(e.lhs, Call(call, (value, Address(total))))
            return
        self._parts.inside.append(self._put(e.lhs, value))
        here = self._at(e.lhs, self._all)
        stride = Count(units(self._shape[axis + 1 :]))
        at, end = self._outer[axis], Sum((Count(self._shape[axis]), ONE), "+-")
        if isinstance(rhs, rcumsum):
            before, follows = Sum((here, stride), "++"), Relation(at, "<", end, "size")
        else:
            before, follows = Sum((here, stride), "+-"), Relation(at, ">", NIL, "size")
        total_ = Sum((self._load(here), self._load(before)), "++")
        self._parts.inside.append(If(follows, (self._put_at(here, total_),)))

    # ------------------------------------------------------------------ operands

    @property
    def _all(self) -> tuple[int, ...]:
        return tuple(range(len(self._shape)))

    def _value(self, e: Expr) -> Expression:
        return self._body.source.expressions.vector(e, self._reference)

    def value(self, e: Expr) -> Expression:
        """An expression of the current units."""
        return self._value(e)

    def _reference(self, v: Expr) -> Expression:
        """A vector, or one that is expanded, at the current units."""
        if isinstance(v, Expand):
            if not isinstance(v.operand, Vector):
                return self._body.source.expressions.vector(v.operand, self._reference)
            inner = self._cell.shape(v.operand)
            if inner != SCALAR:
                return self._loaded(v.operand, v.places)
            v = v.operand
        if v in self._body.local or v.category == "constant" or self._cell.size(v) == 1:
            return self._body.reference(v)
        return self._loaded(v, self._all)

    def _loaded(self, v: Vector, places: tuple[int, ...], start: Expr = ZERO) -> Expression:
        """``v``, whose axes are those ``places`` of the nest, from unit ``start`` on."""
        if v in self._body.local:
            return self._body.local[v]
        if len(self._shape) - 1 in places:
            return self._load(shifted(self._at(v, places), Count(start)))
        return vec(Element(self._at(v, places), NIL, "number"))

    def _at(self, v: Vector, places: tuple[int, ...]) -> Expression:
        """Where the current units of ``v`` begin."""
        return self.place(self._body.numbers(v), self._cell.shape(v), places)

    def place(self, base: Expression, shape: Shape, places: tuple[int, ...]) -> Expression:
        """The place in an array of that shape, whose axes are those of the nest."""
        terms: list[Expression] = []
        for k, place in enumerate(places):
            behind = units(shape[k + 1 :])
            if place == len(self._shape) - 1:
                index: Expression = product(UNIT, _LANES)
            else:
                index = self._outer[place]
            terms.append(index if behind == 1 else product(index, Count(behind)))
        return shifted(base, *terms)

    def _flat(self, v: Vector, shape: Shape) -> Expression:
        """The place in ``v`` of the same unit of a quantity of another shape."""
        return self.place(self._body.numbers(v), shape, self._all)

    def _load(self, at: Expression) -> Expression:
        return Call("some_of", (at, self._some))

    def _put(self, v: Vector, value: Expression) -> Statement:
        return self._put_at(self._at(v, self._all), value)

    def _put_at(self, at: Expression, value: Expression) -> Statement:
        return do("put_some", vec(value), at, self._some)


def _each(
    body: Body, v: Vector, shape: Shape, change: Callable[[Expression], Expression]
) -> list[Statement]:
    """A loop over all units of ``v``, which become what ``change`` makes of them."""
    nest = Nest(body, (units(shape) if shape else Integer(1),))
    at = nest.place(body.numbers(v), nest._shape, (0,))
    nest._parts.inside.append(nest._put_at(at, change(nest._load(at))))
    return nest.nested()


def transposed(body: Body, e: Eq) -> list[Statement]:
    """A quantity whose last two axes are exchanged, number by number."""
    v, axes = e.rhs.operand, body.source.cell.shape(e.lhs)
    loops = [Variable(body.names(("axis", k), "iklr"[k]), "size") for k in range(len(axes) - 1)]
    loops.append(Variable(UNIT.name, "size"))

    def at(base: Expression, order: Sequence[int], shape: Shape) -> Element:
        terms = [
            loops[k] if units(shape[n + 1 :]) == 1
            else product(loops[k], Count(units(shape[n + 1 :])))
            for n, k in enumerate(order)
        ]  # fmt: skip
        return Element(shifted(base, *terms), NIL, "number")

    order = list(range(len(axes)))
    turned = [*order[:-2], order[-1], order[-2]]
    to = at(body.numbers(e.lhs), order, axes)
    of = at(body.numbers(v), turned, body.source.cell.shape(v))
    made: list[Statement] = [Store(to, of)]
    for variable, size in reversed(list(zip(loops, axes, strict=True))):
        made = [Loop(variable, Count(size), tuple(made))]
    return [Comment(body.source.text(e)), *made]


def side_by_side(body: Body, e: Eq) -> list[Statement]:
    """Several quantities side by side along their last axis: a nest for each."""
    cell, axes = body.source.cell, body.source.cell.shape(e.lhs)
    made: list[Statement] = [Comment(body.source.text(e))]
    start = sympy.S.Zero
    for part in e.rhs.args:
        shape = cell.shapes.axes(part)
        nest = Nest(body, shape)
        places = tuple(range(len(shape)))
        to = nest.place(shifted(body.numbers(e.lhs), Count(start)), (*shape[:-1], axes[-1]), places)
        nest._parts.inside.append(nest._put_at(to, nest.value(part)))
        made += nest.nested()
        start += shape[-1]
    return made
