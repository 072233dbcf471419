"""Fused stages as functions: for each row of the batch, loops over units.

A loop works on a whole vector of units at a time; a single number is a vector whose lanes are all
the same. A stage takes one pointer for each kind of row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import sympy
from sympy import Eq, Expr

from ...language.symbols import (
    OF_PARAMETERS,
    Concat,
    Reduction,
    Reshape,
    Scan,
    Transpose,
    Vector,
    max_,
    mean,
    rcumsum,
    sum_,
)
from ...planning.operations import Fused, Sums, needs_axes
from ...planning.operations import Loop as PlannedLoop
from ...printing.orders import is_negative
from ..naming import identifier
from .nests import Nest, side_by_side, transposed
from .places import Places, Row
from .source import Source
from .tree import (
    NIL,
    ONE,
    REAL,
    SIZE,
    VEC,
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
    Kind,
    Literal,
    Loop,
    Member,
    Minus,
    Product,
    Statement,
    Store,
    Variable,
    do,
    names_in,
    product,
    shifted,
    together,
    vec,
    walk,
)
from .vocabulary import ROW, ROWS, UNIT, P

_INFINITY = Minus(Cast(REAL, Literal("INFINITY", "number")))
_ZERO = Literal("0", "number")


class At(Protocol):
    """Where a stage is called: how many rows it works on there, and where they begin."""

    @property
    def rows(self) -> Expression: ...

    def to(self, what: Vector | Row) -> Expression:
        """What points to the first row of a vector, or of all blocks of a kind."""


@dataclass(frozen=True)
class Stage:
    """A function, and what it is called with, in the order of its parameters.

    ``sizes`` are counts of units; ``places`` are the rows of vectors or of kinds, ``sums`` the
    learned vectors whose gradients are summed.
    """

    function: Function
    sizes: tuple[Expr, ...]
    reads_constants: bool
    places: tuple[Vector | Row, ...]
    sums: tuple[Vector, ...]

    def call(self, at: At, sum_of: Callable[[Vector], Variable]) -> Do:
        """The call, for the rows that are worked on where ``at`` is."""
        items = [
            at.rows,
            *map(Count, self.sizes),
            *([P] if self.reads_constants else []),
            *map(at.to, self.places),
            *map(sum_of, self.sums),
        ]
        return do(self.function.name, *items)


def fused(source: Source, places: Places, name: str, about: str, op: Fused) -> Stage:
    """The stage of elementwise work."""
    body = Body(source, places)
    return body.stage(name, about, [s for loop in op.loops for s in body.loop(loop)])


def sums(source: Source, places: Places, name: str, op: Sums) -> Stage:
    """The stage that sums up the gradients of learned vectors."""
    body = Body(source, places)
    names = " ".join(p.name for p in op.parameters)
    about = f"After the loop over steps: gradients of {names}, sums over all rows."
    return body.stage(name, about, body.sums(op))


class Body:
    """Lowers what a stage does to one row.

    It declares names for what it meets: pointers to blocks, and arguments for the rows that these
    are in.
    """

    def __init__(self, source: Source, places: Places) -> None:
        self.source, self.sizes, self.places = source, source.sizes, places
        self.names = source.stage_scope()
        self._arguments: dict[Vector | Row, Variable] = {}
        self._sums: dict[Vector, Variable] = {}
        self._blocks: dict[Vector, Variable] = {}
        self._numbers: dict[Vector, Variable] = {}
        self.local: dict[Vector, Variable] = {}

    # ------------------------------------------------------------------ what expressions refer to

    def reference(self, v: Vector) -> Expression:
        """``v`` of the current units."""
        if v.category == "constant":
            return Member(P, v.name, "number")
        if v in self.local:
            return self.local[v]
        block = self._block(v)
        return vec(_single(block)) if self.sizes.of(v) == 1 else Element(block, UNIT)

    def _block(self, v: Vector) -> Variable:
        """The pointer to the units of ``v`` in the current row."""
        if v not in self._blocks:
            row = self.places.row_of.get(v)
            wish = identifier(v, self.source.cell)
            name = self.names(v, f"{wish}_at" if self.sizes.of(v) == 1 else wish)
            self._blocks[v] = Variable(name)
            if row is None:
                self._arguments[v] = Variable(self.names(("rows", v), f"{name}_rows"))
            elif row not in self._arguments:
                self._arguments[row] = Variable(self.names(row, row.name))
        return self._blocks[v]

    def numbers(self, v: Vector) -> Variable:
        """The pointer to the first number of ``v`` in the current row."""
        if self.sizes.of(v) == 1:
            return self._block(v)
        if v not in self._numbers:
            self._block(v)
            name = self.names(("numbers", v), f"{identifier(v, self.source.cell)}_at")
            self._numbers[v] = Variable(name)
        return self._numbers[v]

    def _value(self, e: Expr) -> Expression:
        """An expression as a vec."""
        single = self.source.cell.shapes.of(e) == 1
        return self.source.expressions.vector(e, self.reference, single)

    # ------------------------------------------------------------------ loops

    def loop(self, loop: PlannedLoop) -> list[Statement]:
        """What a loop over units computes; a single unit needs no loop."""
        equations = self.places.equations(loop)
        # these neither read what the others compute nor are read by them; they come last, since
        # what the others write may reach into their blocks
        apart = [e for e in equations if isinstance(e.rhs, (Concat, Transpose))]
        others = [e for e in equations if e not in apart]
        made = self._together(loop, others) if others else []
        for e in apart:
            made += side_by_side(self, e) if isinstance(e.rhs, Concat) else transposed(self, e)
        return made

    def _together(self, loop: PlannedLoop, equations: Sequence[Eq]) -> list[Statement]:
        """The loop that computes ``equations`` of a planned one."""
        if any(needs_axes(e.rhs) and not isinstance(e.rhs, Reshape) for e in equations):
            return Nest(self, loop.shape).statements(equations, loop.backwards)
        before: list[Statement] = []
        inside: list[Statement] = []
        after: list[Statement] = []
        for e in equations:
            whole = self.source.plan.origin.get(e.lhs, e)
            inside.append(Comment(self.source.text(whole)))
            if isinstance(e.rhs, Reshape):  # the same units in the same order
                inside += self._assign(e.lhs, self.reference(e.rhs.operand))
            elif not isinstance(e.rhs, Reduction):
                inside += self._assign(e.lhs, self._value(e.rhs))
            elif loop.size == 1:  # a reduction of a single unit is the unit itself
                inside += self._assign(e.lhs, self._value(e.rhs.args[0]))
            elif isinstance(e.rhs, Scan):
                self._scan(e, loop.size, before, inside)
            else:
                self._reduce(e, loop.size, before, inside, after)
        backwards = loop.backwards or self.places.overlaps(loop)
        return [*before, *_over_units(loop.size, inside, backwards), *after]

    def _assign(self, v: Vector, value: Expression) -> list[Statement]:
        stored = self.places.is_stored(v)
        if stored:
            block = self._block(v)
            if self.sizes.of(v) != 1:
                return [Store(Element(block, UNIT), value)]
        name = self.names(("local", v), identifier(v))
        local = self.local[v] = Variable(name, "vec")
        made: list[Statement] = [Declare(Kind("vec", is_const=True), local, value)]
        if stored:
            made.append(Store(_single(block), Call("LSTMGEN_LANE", (local, NIL), "number")))
        return made

    def _scan(self, e: Eq, size: Expr, before: list[Statement], inside: list[Statement]) -> None:
        name = self.names(("total", e.lhs), f"{identifier(e.lhs)}_total")
        total = Variable(name, "number")
        before.append(Declare(REAL, total, _ZERO))
        value, scan = self._value(e.rhs.args[0]), "running"
        if isinstance(e.rhs, rcumsum):  # begins past the end
            value, scan = _within(value, size, _ZERO), "running_back"
        inside += self._assign(e.lhs, Call(scan, (value, Address(total))))

    def _reduce(
        self,
        e: Eq,
        size: Expr,
        before: list[Statement],
        inside: list[Statement],
        after: list[Statement],
    ) -> None:
        total = Variable(self.names(("total", e.lhs), f"{identifier(e.lhs)}_lanes"), "vec")
        if isinstance(e.rhs, max_):
            before.append(Declare(VEC, total, vec(_INFINITY)))
            value = _within(self._value(e.rhs.args[0]), size, _INFINITY)
            inside.append(Store(total, Call("larger", (total, value))))
            whole: Expression = Call("across_max", (total,))
        else:
            before.append(Declare(VEC, total, vec(_ZERO)))
            inside.append(self._add(total, e.rhs.args[0], size))
            whole = Call("across", (total,))
        if isinstance(e.rhs, mean):
            whole = product(whole, Product((ONE, Cast(REAL, Count(size))), "*/"))
        after += self._assign(e.lhs, whole)

    def _add(self, target: Variable | Element, e: Expr, size: Expr | None = None) -> Store:
        """A term is added to a sum; over so many units, if it has a size."""
        sign, value = ("-=", -e) if is_negative(e) else ("+=", e)
        term = self._value(value)
        return Store(target, term if size is None else _within(term, size, _ZERO), sign)

    def sums(self, op: Sums) -> list[Statement]:
        """What the gradients of learned vectors gain from a row, in a loop for each size."""
        nests: list[Statement] = []
        loops: dict[Expr, tuple[list[Statement], list[Statement], list[Statement]]] = {}
        for p, term in zip(op.parameters, op.terms, strict=True):
            target = self._sums[p] = Variable(self.names(("sum", p), f"d{p.name}"))
            for piece in _pieces(term):
                if needs_axes(piece):
                    nests += self._sum_of_axes(p, piece)
                    continue
                size = self.source.cell.shapes.of(piece)
                before, inside, after = loops.setdefault(size, ([], [], []))
                inside.append(Comment(f"∂L/∂{p.name} += {self.source.text(piece)}"))
                if self.sizes.of(p) != 1:
                    inside.append(self._add(Element(target, UNIT), piece))
                    continue
                name = self.names(("total", p, size), f"{target.name}_lanes")
                total = Variable(name, "vec")
                inside.append(self._add(total, piece, None if size == 1 else size))
                start = Declare(VEC, total, vec(_ZERO))
                if start not in before:  # several pieces may have one sum
                    whole = total if size == 1 else Call("across", (total,))
                    before.append(start)
                    after.append(Store(Element(target, NIL), whole, "+="))
        made: list[Statement] = nests
        for size, (before, inside, after) in loops.items():
            made += [*before, *_over_units(size, inside), *after]
        return made

    def _sum_of_axes(self, p: Vector, term: Expr) -> list[Statement]:
        """What the gradient of ``p`` gains from a term over more axes, or from a sum along one."""
        whole = isinstance(term, Reduction)
        inner = term.args[0] if whole else term
        nest = Nest(self, self.source.cell.shapes.axes(inner))
        value = nest.value(inner)
        axis = self.source.cell.shapes.axis(term) if whole else None
        nest.gain(self._whole_sum(p), self.source.cell.shape(p), axis, value)
        return [Comment(f"∂L/∂{p.name} += {self.source.text(term)}"), *nest.nested()]

    def _whole_sum(self, p: Vector) -> Variable:
        """The pointer to the first number of the sum of the gradient of ``p``."""
        return Variable(self.names(("whole", p), f"{self._sums[p].name}_sum"))

    # ------------------------------------------------------------------ the function

    def stage(self, name: str, about: str, body: Sequence[Statement]) -> Stage:
        """The function that does ``body`` to each row."""
        arguments = sorted(self._arguments.items(), key=lambda item: _place(item[0]))
        written = {v for s in walk(body, Store) if isinstance(s.target, Element)
                   for v in walk([s.target.pointer], Variable)}  # fmt: skip
        written |= {v for s in walk(body, Do) if s.call.function == "put_some"
                    for v in walk([s.call.arguments[1]], Variable)}  # fmt: skip
        used = names_in(body)
        views: list[Declare] = []
        pointers: list[tuple[Kind, Variable]] = []
        for what, argument in arguments:
            blocks = [v for v in _blocks(what) if v in self._blocks]
            is_written = any({self._blocks[v], self._numbers.get(v)} & written for v in blocks)
            pointers.append((Kind("real", not is_written, "*restrict "), argument))
            for v in blocks:
                if self._blocks[v].name in used:
                    views.append(self._view(v, what, argument, self._blocks[v] in written))
                if v in self._numbers:
                    views.append(self._view_of_numbers(v, what, argument, written))
        around: list[Declare] = []
        for p, target in self._sums.items():
            whole = self._whole_sum(p)
            pointers.append((Kind("real", pointer="*restrict "), whole))
            if target.name in used:
                around.append(_block(target, "vec", whole))
        every = [*body, *views]
        sizes = self.sizes.used(every)
        open_sizes = tuple(n for n in sizes if self.sizes.value(n) is None)
        reads_constants = P.name in names_in(body)
        constants = Kind(f"{self.source.name}_params", is_const=True, pointer="*")
        parameters = [
            (SIZE, ROWS),
            *((SIZE, Variable(self.sizes.name(n), "size")) for n in open_sizes),
            *([(constants, P)] if reads_constants else []),
            *pointers,
        ]
        function = Function(
            name, about, tuple(parameters), tuple(together(around)), tuple(together(views)),
            tuple(body),
        )  # fmt: skip
        places = tuple(what for what, _ in arguments)
        return Stage(function, open_sizes, reads_constants, places, tuple(self._sums))

    def _view(self, v: Vector, what: Vector | Row, argument: Variable, written: bool) -> Declare:
        """The pointer to a block of a row."""
        units = "real" if self.sizes.of(v) == 1 else "vec"
        at = self._first(v, what, argument)
        return _block(self._blocks[v], units, at, is_const=not written)

    def _view_of_numbers(
        self, v: Vector, what: Vector | Row, argument: Variable, written: set[Variable]
    ) -> Declare:
        """The pointer to the first number of a block."""
        block = self._numbers[v]
        return _block(block, "real", self._first(v, what, argument), block not in written)

    def _first(self, v: Vector, what: Vector | Row, argument: Variable) -> Expression:
        """Where ``v`` begins in the current row; all rows have the same learned vectors."""
        if isinstance(what, Row):
            return shifted(argument, product(ROW, Count(what.width)), Count(what.offset(v)))
        if what.category in OF_PARAMETERS:
            return argument
        return shifted(argument, product(ROW, Count(self.sizes.room_of(what))))


def _single(block: Variable) -> Element:
    """The number that a pointer points to."""
    return Element(block, NIL, "number")


def _within(value: Expression, size: Expr, other: Expression) -> Call:
    """``value``, and ``other`` in the lanes that are past the end of so many units."""
    return Call("within", (value, UNIT, Count(size), other))


def _over_units(size: Expr, inside: list[Statement], backwards: bool = False) -> list[Statement]:
    if size == 1:
        return inside
    return [Loop(UNIT, Call("vecs", (Count(size),), "size"), tuple(inside), backwards)]


def _blocks(what: Vector | Row) -> tuple[Vector, ...]:
    return what.blocks if isinstance(what, Row) else (what,)


def _block(block: Variable, of: str, at: Expression, is_const: bool = False) -> Declare:
    """The pointer to a block, of numbers or of vecs, of which ``at`` is the first number."""
    at = at if of == "real" else Cast(Kind(of, is_const, "*"), at, "pointer")
    return Declare(Kind(of, is_const, "*const "), block, at)


def _place(what: Vector | Row) -> tuple[int, str, int]:
    """What callers own comes first, then states, then rows of memory, the tape before others."""
    places = ["input", "mask", "cotangent", "state", "kept", "tile", "scratch", "carry"]
    if isinstance(what, Row):
        return places.index(what.name), "", 0
    place = places.index(what.category) if what.category in places else len(places)
    return place, what.name, -what.time if what.category == "carry" else what.time


def _pieces(term: Expr) -> list[Expr]:
    """What a parameter gains from a row, by the size that is summed over.

    First the terms that are summed over units as well, each by its operand; then those that are
    summed along an axis, each a sum; then the rest.
    """
    wide, along, rest = [], [], []
    for t in sympy.Add.make_args(term):
        sums = [f for f in sympy.Mul.make_args(t) if isinstance(f, sum_)]
        if not sums:
            rest.append(t)
        elif sums[0].axis is None:
            wide.append(t / sums[0] * sums[0].args[0])
        else:  # what it is multiplied by is a number, the same for all units
            along.append(sum_(t / sums[0] * sums[0].args[0], sums[0].axis))
    return [*wide, *along, *([sympy.Add(*rest)] if rest else [])]
