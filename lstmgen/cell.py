"""A cell: the equations of one time step, checked when they are put together."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import sympy
from sympy import Eq, Expr, Integer
from sympy.core.function import AppliedUndef, UndefinedFunction
from sympy.logic.boolalg import BooleanAtom

from . import symbols as language
from .errors import CellError, did_you_mean
from .shapes import Shapes
from .symbols import Matrix, Product, Reduction, Size, Vector, named

# Elementwise functions that every target can print and that derivation can differentiate.
ELEMENTWISE: tuple[type, ...] = (
    language.sigmoid, language.relu, language.step, language.softplus, language.rsqrt,
    language.stop_gradient, language.equal, sympy.tanh, sympy.exp, sympy.log, sympy.sin, sympy.cos,
    sympy.tan, sympy.asin, sympy.acos, sympy.atan, sympy.sinh, sympy.cosh, sympy.asinh,
    sympy.acosh, sympy.atanh, sympy.erf, sympy.Abs, sympy.sign, sympy.Heaviside, sympy.Max,
    sympy.Min, sympy.Piecewise, sympy.floor, sympy.ceiling, sympy.Mod,
)  # fmt: skip

# Of those, the ones with a kink or a jump: there, and only there, the complex step is no witness.
NOT_ANALYTIC: tuple[type, ...] = (
    language.relu, language.step, language.equal, language.stop_gradient, language.max_, sympy.erf,
    sympy.Abs, sympy.sign, sympy.Heaviside, sympy.Max, sympy.Min, sympy.Piecewise, sympy.floor,
    sympy.ceiling, sympy.Mod,
)  # fmt: skip

C_KEYWORDS = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
    char32_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
    constinit continue decltype default delete do double dynamic_cast else enum explicit export
    extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast requires restrict
    return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename typeof typeof_unqual union unsigned using
    virtual void volatile wchar_t while xor xor_eq
    NULL NAN INFINITY HUGE_VAL EOF errno linux unix""".split()
)
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LONGEST_NAME = 40  # C99 promises 31 significant characters for external names; we add prefixes


class Cell:
    """The equations of one time step, checked.

    Parameters
    ----------
    name : str
        An identifier: files and C functions are named after it.
    equations : sequence of sympy.Eq
        In order: what an equation reads is defined above it. Every state needs its ``.next``.
    output : Vector
        What each step puts out: a state (its new value), or a vector that the step computes.
    title, source, notes : str
        What the cell is in a few words; the paper, as "Gers et al. 2000"; anything worth knowing.
    init : mapping of Vector to float
        Where learned vectors start, such as ``{b.f: 1.0}``; otherwise as they were declared, or 0.
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
        output: Vector,
        *,
        title: str = "",
        source: str = "",
        notes: str = "",
        init: Mapping[Vector, float] | None = None,
        roles: Mapping[Vector, str] | None = None,
    ) -> None:
        _check_name(name, "the cell's name")
        self.name, self.title, self.source, self.notes = name, title, source, notes
        self.roles = {v.name: role for v, role in (roles or {}).items()}
        self._init = {v.name: float(value) for v, value in (init or {}).items()}
        self.equations: tuple[Eq, ...] = tuple(equations)
        if not self.equations:
            raise CellError("a cell needs at least one equation", where=f"cell {name}")
        _check_equations(self.equations)
        self.output = _check_output(output, self.equations)
        _check_everything_is_read(self.equations, self.output)
        self.shapes = Shapes(self.equations)
        _check_names(self)
        for unknown in sorted(set(self._init) - {p.name for p in self.parameters}):
            raise CellError(
                f"init names {unknown}, which is no parameter of the cell",
                hint=did_you_mean(unknown, [p.name for p in self.parameters]),
            )

    def __repr__(self) -> str:
        return f"Cell({self.name!r}: {len(self.equations)} equations, output {self.output})"

    # ------------------------------------------------------------------ what the equations hold

    @cached_property
    def states(self) -> tuple[Vector, ...]:
        """The states as they come into a step; the output first if it is one."""
        found = [e.lhs.at(-1) for e in self.equations if e.lhs.category == "state"]
        return tuple(sorted(found, key=lambda s: s.name != self.output.name))

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
        """All that is learned: a family after the other, the input's matrices first."""
        first: dict[Matrix | Vector, tuple[int, int]] = {}
        for number, equation in enumerate(self.equations):
            reads_input = {
                p.matrix.base
                for p in equation.rhs.atoms(Product)
                if any(v.category == "input" for v in p.operand.atoms(Vector))
            }
            for symbol in equation.rhs.atoms(Matrix, Vector):
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
        return tuple(e.lhs for e in self.equations if e.lhs.category == "vector")

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """The symbolic sizes: the input's first, then H, then the others by name."""
        found = {
            n
            for s in (*self.parameters, *self.inputs, *self.states, *self.masks, *self.vectors)
            for n in self.shape(s)
            if not isinstance(n, Integer)
        }
        first = [n for v in self.inputs for n in self.shape(v)] + [Size("H")]
        order = {n: k for k, n in reversed(list(enumerate(first)))}
        return tuple(sorted(found, key=lambda n: (order.get(n, len(order)), n.name)))

    def size(self, v: Vector) -> Expr:
        """The number of units of a vector: a Size or an Integer."""
        return self.shapes.size(v)

    def shape(self, symbol: Vector | Matrix) -> tuple[Expr, ...]:
        """(rows, columns) of a matrix, (size,) of a vector."""
        return self.shapes.shape(symbol)

    def initial(self, v: Vector) -> float | None:
        """Where a learned vector starts; a constant's value, or None if it has none."""
        return self._init.get(v.name, v.value)

    @property
    def is_analytic(self) -> bool:
        """Whether the complex step is a witness: no kinks, no jumps, no cut gradients."""
        return not any(e.rhs.has(*NOT_ANALYTIC) for e in self.equations)


# --------------------------------------------------------------------------- checks


def _where(number: int, equation: Eq) -> str:
    return f"equation {number}, {equation.lhs} = {equation.rhs}"


def _check_equations(equations: tuple[Eq, ...]) -> None:
    defined: dict[Vector, int] = {}
    defined_anywhere = {e.lhs for e in equations if isinstance(e, Eq)}
    for number, equation in enumerate(equations, 1):
        if isinstance(equation, (bool, BooleanAtom)):
            raise CellError(
                f"SymPy found it to be always {equation}",
                where=f"equation {number}",
                hint="both sides are alike, or can never be equal, as with the logarithm of a "
                "negative number; Eq(left, right, evaluate=False) keeps SymPy from deciding",
            )
        if not isinstance(equation, Eq):
            raise CellError(
                f"it is {equation!r}, not a sympy.Eq", where=f"equation {number}",
                hint="write Eq(left, right)",
            )  # fmt: skip
        where = _where(number, equation)
        _check_left(equation.lhs, where)
        if equation.lhs in defined:
            raise CellError(
                f"{equation.lhs} is already defined by equation {defined[equation.lhs]}",
                where=where,
                hint="give one of the two another name",
            )
        _check_right(equation.rhs, where)
        for v in sorted(equation.rhs.atoms(Vector), key=str):
            _check_defined(v, defined, defined_anywhere, where)
        defined[equation.lhs] = number
    for number, equation in enumerate(equations, 1):
        for v in sorted(equation.rhs.atoms(Vector), key=str):
            if v.category == "state" and v.time == -1 and v.at(0) not in defined:
                raise CellError(
                    f"the state {v} has no equation for {v}.next",
                    where=_where(number, equation),
                    hint=f"add Eq({v}.next, …), or declare {v} as an input",
                )


def _check_left(lhs: Expr, where: str) -> None:
    if not isinstance(lhs, Vector):
        raise CellError(
            f"the left-hand side {lhs} is no vector of the language",
            where=where,
            hint=f'declare it: {lhs} = vectors("{lhs}")' if lhs.is_Symbol else
            "define one vector an equation",
        )  # fmt: skip
    if lhs.category == "state" and lhs.time == -1:
        raise CellError(
            f"{lhs} is the state that comes into the step",
            where=where,
            hint=f"define what leaves it: Eq({lhs}.next, …)",
        )
    if lhs.category not in ("vector", "state"):
        raise CellError(
            f"{lhs} is declared as {_a(lhs.category)}, so no equation can define it",
            where=where,
            hint=f'declare it with vectors("{lhs}")',
        )


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _check_right(rhs: Expr, where: str) -> None:
    if isinstance(rhs, language.Family) or not isinstance(rhs, Expr):
        raise CellError(f"the right-hand side {rhs} is no expression", where=where)
    if rhs.has(sympy.nan, sympy.zoo, sympy.oo, sympy.I):
        raise CellError("it holds an infinite, complex or undefined number", where=where)
    for node in sympy.preorder_traversal(rhs):
        if isinstance(node, named):
            continue
        if isinstance(node, (AppliedUndef, UndefinedFunction)):
            raise CellError(
                f"the function {node.func} has no definition", where=where,
                hint=f"use one of: {_function_names()}",
            )  # fmt: skip
        if isinstance(node, sympy.Function) and not isinstance(
            node, (*ELEMENTWISE, Product, Reduction)
        ):
            hint = did_you_mean(node.func.__name__, _function_names().split())
            raise CellError(
                f"the function {node.func.__name__} is not known to lstmgen", where=where,
                hint=f"{hint} it knows: {_function_names()}".strip(),
            )  # fmt: skip
    _check_matrices(rhs, where)
    known = {n for n in rhs.atoms(named) if len(n.args) > 1}
    hints = {n.args[1] for n in known}
    for symbol in sorted(rhs.free_symbols, key=str):
        if not isinstance(symbol, (Vector, Matrix)) and symbol not in hints:
            raise CellError(
                f"{symbol} is a plain SymPy symbol",
                where=where,
                hint=f'declare it: {symbol} = inputs("{symbol}"), states, vectors, weights, biases '
                "or constants",
            )


def _function_names() -> str:
    return " ".join(sorted(f.__name__ for f in (*ELEMENTWISE, *_REDUCTIONS)))


_REDUCTIONS = (language.mean, language.sum_, language.max_, language.cumsum)


def _check_matrices(expr: Expr, where: str) -> None:
    """Matrices stand only on the left of a product."""
    if isinstance(expr, Product):
        if not isinstance(expr.matrix, Matrix):
            raise CellError(f"{expr}: {expr.matrix} is no matrix", where=where)
        return _check_matrices(expr.operand, where)
    if isinstance(expr, Matrix):
        raise CellError(
            f"the matrix {expr} is used without @",
            where=where,
            hint=f"a matrix product is written {expr} @ x; for an elementwise weight, declare "
            f'{expr.name} with biases(…) or vector("{expr.name}")',
        )
    for arg in expr.args:
        _check_matrices(arg, where)
    return None


def _check_defined(
    v: Vector, defined: Mapping[Vector, int], anywhere: Iterable[Vector], where: str
) -> None:
    if v in defined or v.category in language.GIVEN or (v.category == "state" and v.time == -1):
        return
    if v in anywhere:
        raise CellError(
            f"{v} is used before it is defined", where=where,
            hint=f"move the equation of {v} above this one"
            + (f", or read {v.at(-1)}, the value before the step" if v.category == "state" else ""),
        )  # fmt: skip
    near = did_you_mean(v.name, [d.name for d in anywhere])
    raise CellError(
        f"{v} is never defined", where=where,
        hint=f"{near} add Eq({v}, …), or declare {v.name} as an input or a parameter".strip(),
    )  # fmt: skip


def _check_output(output: object, equations: tuple[Eq, ...]) -> Vector:
    if not isinstance(output, Vector):
        raise CellError(f"the output {output!r} is no vector", hint="give a state or a vector")
    value = output.at(0) if output.category == "state" else output
    names = [e.lhs.name for e in equations]
    if value not in [e.lhs for e in equations]:
        raise CellError(
            f"the output {output} is defined by no equation",
            hint=did_you_mean(output.name, names) or f"choose one of: {', '.join(names)}",
        )
    return value


def _check_everything_is_read(equations: tuple[Eq, ...], output: Vector) -> None:
    read = {v for e in equations for v in e.rhs.atoms(Vector)} | {output}
    for number, equation in enumerate(equations, 1):
        lhs = equation.lhs
        if lhs not in read and not (lhs.category == "state"):
            raise CellError(
                f"nothing reads {lhs}", where=_where(number, equation),
                hint=f"remove the equation, or use {lhs} in another one",
            )  # fmt: skip
        if lhs.category == "state" and lhs not in read and lhs.at(-1) not in read:
            raise CellError(
                f"nothing reads the state {lhs.name}, neither in this step nor in the next",
                where=_where(number, equation),
                hint=f"remove the equation, or use {lhs.name} in another one",
            )


def _check_name(name: str, what: str) -> None:
    hint = f"use letters a to z, digits and _, a letter first, at most {_LONGEST_NAME}"
    if not _IDENTIFIER.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise CellError(f"{what} is {name!r}, which is no identifier in Python and C", hint=hint)
    if keyword.iskeyword(name) or name in C_KEYWORDS:
        raise CellError(f"{what} is {name!r}, a keyword of Python, C or C++", hint="choose another")


def _check_names(cell: Cell) -> None:
    """Names are identifiers, and one name means one thing."""
    if not cell.inputs:
        raise CellError(
            "no equation reads an input, so a sequence has no length", where=f"cell {cell.name}",
            hint='declare one with inputs("x") and use it',
        )  # fmt: skip
    sizes = {n.name for n in cell.sizes}
    for size in sorted(sizes):
        _check_name(size, "a size")
    owner: dict[str, Vector | Matrix] = {}
    for symbol in sorted(
        {s for e in cell.equations for s in e.atoms(Vector, Matrix)}, key=lambda s: str(s)
    ):
        _check_name(symbol.name, "a symbol's name")
        base = symbol.base if isinstance(symbol, Matrix) else symbol.at(0)
        if symbol.name in sizes | {"T", "B"}:
            raise CellError(
                f"{symbol.name} is the name of both a symbol and a size", hint="rename the symbol"
            )
        if owner.setdefault(symbol.name, base) != base:
            raise CellError(
                f"two different symbols are called {symbol.name}",
                hint="they were declared differently (kind, size or initial value): rename one, or "
                "declare it once",
            )
    for reserved in sorted(sizes & {"T", "B"}):
        raise CellError(
            f"{reserved} cannot name a size: T is the number of steps, B of rows in a batch",
            hint="choose another letter",
        )
