"""A cell: the equations of one time step, checked when they are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import sympy
from sympy import Eq, Expr
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

from ..errors import CellError, did_you_mean
from . import symbols as language
from .checks import (
    REDUCTIONS,
    check_equations,
    check_everything_is_read,
    check_name,
    check_names,
    check_outputs,
)
from .declarations import Family
from .functions import FUNCTIONS, functions_with
from .initial import Initial, Start, start
from .matrices import Matrix, entries, is_of_parameters
from .misuse import short
from .shapes import Shapes
from .sizes import Size
from .symbols import Product, Vector

# What functions of the language make of numbers: SymPy knows that of its own only.
_OF_NUMBERS: dict[type, Callable[..., Expr]] = {
    **{symbol: f.exactly for symbol, f in FUNCTIONS.items() if f.exactly},
    **dict.fromkeys(REDUCTIONS, lambda x, axis=None: x),
}


class Cell:
    """The equations of one time step, checked.

    Parameters
    ----------
    name : str
        An identifier: files and C functions are named after it.
    equations : sequence of sympy.Eq
        In order: what an equation reads is defined above it. Every state needs its ``.next``.
    output : Vector, or sequence of Vector
        What each step puts out: a state (its new value), or a vector that the step computes; or
        several of them, in order. ``outputs`` is the tuple of them, ``output`` the first.
    title, source, notes : str
        What the cell is in a few words; the paper, as "Gers et al. 2000"; anything worth knowing.
    init : mapping from symbols
        How parameters start, such as ``{b.f: 1.0, U.h: "orthogonal"}``; otherwise as they were
        declared.
    roles : mapping of Vector to str
        What a vector is called, such as ``{i: "input gate"}``.

    Raises
    ------
    CellError
        If the equations are not well formed. The message names the equation and what to do.
    """

    def __init__(
        self,
        name: str,
        equations: Sequence[Eq],
        output: Vector | Sequence[Vector],
        *,
        title: str = "",
        source: str = "",
        notes: str = "",
        init: Mapping[Any, Any] | None = None,
        roles: Mapping[Vector, str] | None = None,
    ) -> None:
        check_name(name, "the cell's name")
        _check_texts(title=title, source=source, notes=notes)
        self.name, self.title, self.source, self.notes = name, title, source, notes
        self.equations: tuple[Eq, ...] = _equations(equations, f"cell {name}")
        check_equations(self.equations)
        self.outputs: tuple[Vector, ...] = check_outputs(output, self.equations)
        check_everything_is_read(self.equations, self.outputs)
        self.shapes = Shapes(self.equations)
        self.equations = tuple(
            Eq(e.lhs, self.shapes.explicit(e.rhs), evaluate=False) for e in self.equations
        )
        check_names(self)
        self._init = _initial_values(init or {}, self.parameters)
        self._check_opposites()
        self.roles = _roles(roles or {}, self.equations)

    def __repr__(self) -> str:
        outputs = " ".join(map(str, self.outputs))
        what = "outputs" if len(self.outputs) > 1 else "output"
        return f"Cell({self.name!r}: {len(self.equations)} equations, {what} {outputs})"

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, to the name and the order of equations: a cell that was
        written as text reads back equal.
        """
        if not isinstance(other, Cell):
            return NotImplemented
        return self is other or self._content == other._content

    def __hash__(self) -> int:
        return hash((self.name, self.equations))

    @cached_property
    def _content(self) -> tuple[object, ...]:
        arrays = *self.parameters, *self.states, *self.constants, *self.inputs, *self.masks
        about = tuple((v, v.learned, self.initial(v), self.shape(v)) for v in arrays)
        texts = self.name, self.title, self.source, self.notes
        return texts, self.equations, self.outputs, about, self.roles

    # ------------------------------------------------------------------ what the equations hold

    @cached_property
    def derived(self) -> tuple[Matrix, ...]:
        """Matrices that equations make of parameters, once for a whole sequence."""
        return tuple(e.lhs for e in self.equations if isinstance(e.lhs, Matrix))

    @property
    def output(self) -> Vector:
        """What each step puts out; the first of several ``outputs``."""
        return self.outputs[0]

    @cached_property
    def states(self) -> tuple[Vector, ...]:
        """The states as they come into a step; first those that are outputs."""
        found = [e.lhs.at(-1) for e in self._moving if e.lhs.category == "state"]
        place = {v.name: k for k, v in enumerate(self.outputs)}
        return tuple(sorted(found, key=lambda s: place.get(s.name, len(place))))

    @cached_property
    def inputs(self) -> tuple[Vector, ...]:
        """What comes in at every step and has a gradient."""
        return self._given("input")

    @cached_property
    def masks(self) -> tuple[Vector, ...]:
        """What comes in at every step and has no gradient."""
        return self._given("mask")

    @cached_property
    def constants(self) -> tuple[Vector, ...]:
        """Scalar hyper-parameters."""
        return self._given("constant")

    @cached_property
    def parameters(self) -> tuple[Matrix | Vector, ...]:
        """The arrays that are the same at all steps, learned or not: a family after the other, the
        input's matrices first.
        """
        first: dict[Matrix | Vector, tuple[int, int]] = {}
        for number, equation in enumerate(self.equations):
            reads_input = {
                m.base
                for p in equation.rhs.atoms(Product)
                if any(v.category == "input" for v in p.operand.atoms(Vector))
                for m in p.matrix.atoms(Matrix)
            }
            for symbol in equation.rhs.atoms(Matrix, Vector):
                if isinstance(symbol, Matrix) and symbol.base in self.derived:
                    continue
                if isinstance(symbol, Matrix):
                    rank = 0 if symbol.base in reads_input else 1
                    first.setdefault(symbol.base, (rank, number))
                elif symbol.category == "parameter":
                    first.setdefault(symbol, (2, number))
        family = {p: p.name.split("_")[0] for p in first}
        leader: dict[str, tuple[int, int]] = {}
        for p, place in first.items():
            leader[family[p]] = min(place, leader.get(family[p], place))
        return tuple(
            sorted(first, key=lambda p: (leader[family[p]], family[p], first[p][1], p.name))
        )

    @cached_property
    def learned(self) -> tuple[Matrix | Vector, ...]:
        """The parameters that have a gradient: all but those declared with ``learned=False``."""
        return tuple(p for p in self.parameters if p.learned)

    def _given(self, kind: str) -> tuple[Vector, ...]:
        seen: dict[Vector, int] = {}
        for number, equation in enumerate(self.equations):
            for v in sorted(equation.rhs.atoms(Vector), key=str):
                if v.category == kind:
                    seen.setdefault(v, number)
        return tuple(seen)

    @cached_property
    def vectors(self) -> tuple[Vector, ...]:
        """What the step computes besides the states, in order."""
        return tuple(e.lhs for e in self._moving if e.lhs.category == "vector")

    @property
    def _moving(self) -> list[Eq]:
        """The equations of what is different at each step."""
        return [e for e in self.equations if isinstance(e.lhs, Vector)]

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """The symbolic sizes: the input's first, then H, then the others by name."""
        symbols = {s for e in self.equations for s in e.atoms(Vector, Matrix)}
        found = {n for s in symbols for axis in self.shape(s) for n in axis.free_symbols}
        found |= {n for e in self.equations for n in e.atoms(Size)}
        first = [n for v in self.inputs for a in self.shape(v) for n in _sorted(a)] + [Size("H")]
        order = {n: k for k, n in reversed(list(enumerate(first)))}
        return tuple(sorted(found, key=lambda n: (order.get(n, len(order)), n.name)))

    def size(self, v: Vector) -> Expr:
        """The number of units of a quantity, over all its axes: a sum of products of sizes."""
        return self.shapes.size(v)

    def shape(self, symbol: Vector | Matrix) -> tuple[Expr, ...]:
        """The axes: (rows, columns) of a matrix, after its heads if it has any; (size,) of a
        vector, (1,) of a single number.
        """
        return self.shapes.shape(symbol)

    def initial(self, v: Vector | Matrix) -> Start | None:
        """How a parameter starts, or a state that is not given; a constant's value. None if it has
        none: then vectors are 0, and matrices are of Glorot's distribution.
        """
        return self._init.get(v.name, v.value)

    def start_of_its_own(self, p: Vector | Matrix) -> Start | None:
        """How a parameter starts, if it is not as others do: vectors at 0, matrices as Glorot's."""
        value = self.initial(p)
        return None if value == 0 and isinstance(p, Vector) else value

    def _check_opposites(self) -> None:
        """Refuse a parameter that starts as the opposite of none, or of one of another shape."""
        known = {p.name: p for p in self.parameters}
        for p in self.parameters:
            value = self.initial(p)
            if not (isinstance(value, Initial) and value.of):
                continue
            if value.of not in known:
                near = did_you_mean(value.of, known)
                what = f"{p} starts as the opposite of {value.of}, which is not a parameter"
                raise CellError(f"{what} of the cell", hint=near)
            other = self.initial(known[value.of])
            if self.shape(known[value.of]) != self.shape(p):
                what = f"{p} starts as the opposite of {value.of}"
                raise CellError(f"{what}, which has another shape")
            if isinstance(other, Initial) and other.of:
                raise CellError(f"{p} starts as the opposite of {value.of}, itself an opposite")

    def starts_at(self, v: Vector | Matrix) -> float:
        """The number that ``v`` starts at, a constant's value; 0 if that is not a single number."""
        value = self.initial(v)
        return value if isinstance(value, (int, float)) else 0.0

    @property
    def is_analytic(self) -> bool:
        """Whether the complex step is a witness: no kinks, no jumps, no cut gradients."""
        broken = (*functions_with(lambda f: not f.is_analytic), language.max_, sympy.Piecewise)
        return not any(e.rhs.has(*broken) for e in self.equations)


def _sorted(size: Expr) -> list[Size]:
    return sorted(size.free_symbols, key=str)


# --------------------------------------------------------------------------- what is given


def _check_texts(**texts: object) -> None:
    for what, text in texts.items():
        if not isinstance(text, str):
            raise CellError(f"{what} is {short(repr(text))}, not a string")


def _equations(given: object, where: str) -> tuple[Eq, ...]:
    """The equations of a cell, with what SymPy did not know to be real written plainly."""
    if isinstance(given, Mapping):
        raise CellError(
            "the equations are a dict", where=where,
            hint="give a list: [Eq(left, right) for left, right in equations.items()]",
        )  # fmt: skip
    if isinstance(given, (str, sympy.Basic)) or not isinstance(given, Iterable):
        raise CellError(
            f"the equations are {short(repr(given))}, not a list", where=where,
            hint="write [Eq(left, right), …]",
        )  # fmt: skip
    equations = list(given)
    if not equations:
        raise CellError("a cell needs at least one equation", where=where)
    for number, equation in enumerate(equations, 1):
        if not isinstance(equation, Eq):
            raise _no_equation(equation, f"equation {number}")
    return tuple(
        Eq(e.lhs, _settled(_entries(e)), evaluate=False) if isinstance(e.rhs, Expr) else e
        for e in equations
    )


def _entries(e: Eq) -> Expr:
    """The right-hand side; of a matrix that is made of others, entry by entry."""
    if isinstance(e.lhs, Matrix):
        return entries(e.rhs)
    rhs = e.rhs.replace(
        lambda n: isinstance(n, Product) and not isinstance(n.matrix, Matrix),
        lambda n: Product(entries(n.matrix), n.operand),
    )
    return rhs.replace(is_of_parameters, entries)


def _no_equation(found: object, where: str) -> CellError:
    """The error for what stands in the place of an equation."""
    if isinstance(found, bool):
        return CellError(
            f"it is {found}, as Python's == gives", where=where, hint="write Eq(left, right)"
        )
    if isinstance(found, BooleanAtom):
        return CellError(
            f"SymPy found it to be always {found}", where=where,
            hint="both sides are alike, or can never be equal, as with the logarithm of a "
            "negative number; Eq(left, right, evaluate=False) keeps SymPy from deciding",
        )  # fmt: skip
    hint = "write Eq(left, right)"
    if isinstance(found, (list, tuple)) and any(isinstance(e, Eq) for e in found):
        hint = "give one list of all equations; * puts a list into another: [*some, *others]"
    elif isinstance(found, Expr):
        hint = f"write Eq(left, {short(found)}), with what it defines on the left"
    return CellError(f"it is {short(repr(found))}, not a sympy.Eq", where=where, hint=hint)


def _settled(e: Expr) -> Expr:
    """``e`` as the language means it: all quantities are real, which SymPy cannot always tell."""
    plain = {c: c.func(*c.args) for c in e.atoms(Relational) if type(c) is not c.func}
    e = e.xreplace(plain)
    e = e.replace(
        lambda n: type(n) in _OF_NUMBERS and n.is_number, lambda n: _OF_NUMBERS[type(n)](*n.args)
    )
    if e.has(sympy.re, sympy.im, sympy.conjugate):
        e = e.replace(lambda n: isinstance(n, (sympy.re, sympy.conjugate)), lambda n: n.args[0])
        e = e.replace(sympy.im, lambda _: sympy.S.Zero)
    return e


def _initial_values(given: object, parameters: Sequence[Matrix | Vector]) -> dict[str, Start]:
    """How parameters start, by name."""
    if not isinstance(given, Mapping):
        raise CellError(f"init is {short(repr(given))}, not a dict", hint="write {b.f: 1.0}")
    values = {}
    for symbol, value in given.items():
        if not isinstance(symbol, (Vector, Matrix)):
            hint = "give the symbol itself, as in {b.f: 1.0}"
            if isinstance(symbol, Family):
                hint = f"name one member, such as {symbol}.f"
            raise CellError(f"init names {short(repr(symbol))}, not a parameter", hint=hint)
        if symbol not in parameters:
            near = did_you_mean(symbol.name, [p.name for p in parameters])
            raise CellError(f"init names {symbol}, which is not a parameter of the cell", hint=near)
        is_matrix = isinstance(symbol, Matrix)
        try:
            values[symbol.name] = start(value, f"init of {symbol}", of_matrix=is_matrix)
        except ValueError as error:
            raise CellError(str(error), hint=f"write {{{symbol}: 1.0}}") from error
    return values


def _roles(given: object, equations: Sequence[Eq]) -> dict[str, str]:
    """What the symbols of the equations are called, by name."""
    if not isinstance(given, Mapping):
        raise CellError(
            f"roles is {short(repr(given))}, not a dict", hint='write {i: "input gate"}'
        )
    names = {s.name for e in equations for s in e.atoms(Vector, Matrix)}
    roles = {}
    for symbol, role in given.items():
        if not isinstance(symbol, (Vector, Matrix)):
            raise CellError(
                f"roles names {short(repr(symbol))}, not a symbol",
                hint='give the symbol itself, as in {i: "input gate"}',
            )
        if symbol.name not in names:
            raise CellError(
                f"roles names {symbol}, which no equation holds",
                hint=did_you_mean(symbol.name, sorted(names)),
            )
        _check_texts(**{f"the role of {symbol}": role})
        roles[symbol.name] = role
    return roles
