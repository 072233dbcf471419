"""What a cell refuses: equations that are not well formed, and names that cannot be."""

from __future__ import annotations

import keyword
import math
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Eq, Expr
from sympy.core.function import AppliedUndef, UndefinedFunction
from sympy.core.relational import Relational
from sympy.core.symbol import Str
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import Boolean, BooleanAtom

from ..errors import CellError, did_you_mean
from . import symbols as language
from .functions import FUNCTIONS
from .matrices import Matrix, Misplaced, Operator, is_of_parameters
from .misuse import bound, located, rounded, short
from .sizes import Size
from .symbols import Concat, Contract, Product, Reduction, Vector, View, named

if TYPE_CHECKING:
    from .cell import Cell

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
REDUCTIONS = (language.mean, language.sum_, language.max_, language.cumsum)
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LONGEST_NAME = 40  # C99 promises 31 significant characters for external names; we add prefixes
_SMALLEST = math.ulp(0.0)  # of all doubles
_LARGEST_EXPONENT = 2**24  # beyond, a float cannot tell even from odd
# What an expression is made of, beside functions; of logic, what conditions are made of.
_NODES = (
    sympy.Add, sympy.Mul, sympy.Pow, sympy.Number, sympy.NumberSymbol, sympy.Symbol,
    sympy.Function, sympy.Max, sympy.Min, ExprCondPair,
)  # fmt: skip
_LOGIC = (
    Relational, BooleanAtom, sympy.And, sympy.Or, sympy.Not, sympy.Xor, sympy.ITE, sympy.Implies,
    sympy.Equivalent, sympy.Nand, sympy.Nor,
)  # fmt: skip


def check_equations(equations: tuple[Eq, ...]) -> None:
    """Each defines one thing, out of what is defined above it."""
    defined: dict[Vector, int] = {}
    reads = {e.lhs: e.rhs.atoms(Vector) for e in equations}
    for number, equation in enumerate(equations, 1):
        where = located(number, equation)
        _check_left(equation.lhs, where)
        if equation.lhs in defined:
            raise CellError(
                f"{equation.lhs} is already defined by equation {defined[equation.lhs]}",
                where=where,
                hint="give one of the two another name",
            )
        _check_right(equation.rhs, where, isinstance(equation.lhs, Matrix))
        for v in sorted(equation.rhs.atoms(Vector), key=str):
            _check_time(v, where)
            _check_defined(v, defined, reads, where)
        defined[equation.lhs] = number
    for number, equation in enumerate(equations, 1):
        for v in sorted(equation.rhs.atoms(Vector), key=str):
            if v.category == "state" and v.time == -1 and v.at(0) not in defined:
                raise CellError(
                    f"the state {v} has no equation for {v}.next",
                    where=located(number, equation),
                    hint=f"add Eq({v}.next, …), or declare {v} as an input",
                )


def _check_left(lhs: Expr, where: str) -> None:
    if isinstance(lhs, Matrix) and not lhs.transposed:
        if not lhs.learned:
            raise CellError(
                f"{lhs} is declared with learned=False, so no equation can define it",
                where=where,
                hint="what an equation makes has a gradient if what it is made of has one: leave "
                "learned=False out, or wrap that in stop_gradient(…)",
            )
        return  # made of parameters
    if not isinstance(lhs, Vector):
        raise CellError(
            f"the left-hand side {short(lhs)} is not a vector of the language",
            where=where,
            hint=f'declare it: {lhs} = vectors("{lhs}")'
            if isinstance(lhs, sympy.Symbol) and not isinstance(lhs, Matrix)
            else "define one vector an equation: Eq(v, …), or Eq(h.next, …) of a state",
        )  # fmt: skip
    if lhs.category == "state" and lhs.time == -1:
        raise CellError(
            f"{lhs} is the state that comes into the step",
            where=where,
            hint=f"define what leaves it: Eq({lhs}.next, …)",
        )
    _check_time(lhs, where)
    if lhs.category not in ("vector", "state"):
        raise CellError(
            f"{lhs} is declared as {_a(lhs.category)}, so no equation can define it",
            where=where,
            hint=f'declare it with vectors("{lhs}")',
        )


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _check_right(rhs: Expr, where: str, of_matrix: bool) -> None:
    if not isinstance(rhs, Expr):
        hint = "Piecewise((u, v > 0), (w, True)) chooses" if isinstance(rhs, Boolean) else (
            "write one equation for each vector")  # fmt: skip
        raise CellError(
            f"the right-hand side {short(rhs)} is not an expression", where=where, hint=hint
        )
    _check_numbers(rhs, where)
    if of_matrix:
        _check_static(rhs, where)
    else:
        _check_matrices(rhs, where)
    for node in sympy.preorder_traversal(rhs):
        _check_node(node, where)
    hints = {n.args[1] for n in rhs.atoms(named) if len(n.args) > 1}
    for hint in sorted(hints, key=str):
        check_name(hint.name, "a name given to named(…)", where)
    for symbol in sorted(rhs.free_symbols, key=str):
        if not isinstance(symbol, (Vector, Matrix, Size)) and symbol not in hints:
            raise CellError(
                f"{symbol} is a plain SymPy symbol",
                where=where,
                hint=f'declare it: {symbol} = inputs("{symbol}"), states, vectors, weights, biases '
                "or constants",
            )


def _check_node(node: Any, where: str) -> None:
    """One node of a right-hand side is of the language, and holds what it may hold."""
    if isinstance(node, (AppliedUndef, UndefinedFunction)):
        raise CellError(
            f"the function {node.func} has no definition", where=where,
            hint=f"use one of: {_function_names()}",
        )  # fmt: skip
    if type(node) is sympy.Tuple or isinstance(node, (Str, Size)):
        return  # what a view or a contraction says of axes
    if isinstance(node, sympy.Function) and not isinstance(
        node, (*FUNCTIONS, sympy.Piecewise, Product, Contract, Reduction, View, Concat, named)
    ):
        near = did_you_mean(node.func.__name__, _function_names().split())
        hint = f"{near} it knows: {_function_names()}".strip()
        if isinstance(node, (sympy.atan2, sympy.arg)):
            hint = (
                "SymPy makes it of Abs or sign where it cannot tell that all is real: define what "
                "is inside by an equation of its own, Eq(v, …), and write Abs(v)"
            )
        raise CellError(
            f"the function {node.func.__name__} is not known to lstmgen", where=where, hint=hint
        )
    if not isinstance(node, (*_NODES, *_LOGIC)):
        raise CellError(
            f"{type(node).__name__} is not in the language: {short(node)}", where=where,
            hint="equations hold symbols, numbers, arithmetic and functions",
        )  # fmt: skip
    if isinstance(node, sympy.Pow) and node.exp.is_Integer and abs(node.exp) > _LARGEST_EXPONENT:
        raise CellError(
            f"the exponent {rounded(node.exp)} is too large", where=where,
            hint=f"exponents of at most {_LARGEST_EXPONENT} are exact in single precision",
        )  # fmt: skip
    if isinstance(node, sympy.Piecewise) and node.args[-1].cond != True and len(node.args) == 1:  # noqa: E712
        raise CellError(
            f"{short(node)} has no value where {short(node.args[0].cond)} does not hold",
            where=where, hint="end it with (…, True)",
        )  # fmt: skip
    _check_conditions(node, where)


def _check_conditions(node: Any, where: str) -> None:
    """Conditions stand where one is asked for, and nowhere else."""
    if isinstance(node, ExprCondPair):
        asked = [node.cond]
    elif isinstance(node, Boolean) and not isinstance(node, (Relational, sympy.Symbol)):
        asked = list(node.args)
    else:
        asked = []
    for part in asked:
        if isinstance(part, Boolean) and not isinstance(part, (*_LOGIC, sympy.Symbol)):
            raise CellError(
                f"the condition {short(part)} is not in the language", where=where,
                hint="conditions are comparisons, and these joined by &, | and ~",
            )  # fmt: skip
        if not isinstance(part, _LOGIC):
            raise CellError(
                f"{short(part)} is a vector, not a condition", where=where,
                hint=f"write {bound(part)} > 0, or another comparison",
            )  # fmt: skip
    for part in node.args:
        if isinstance(part, _LOGIC) and part not in asked:
            raise CellError(
                f"the condition {short(part)} is used as a number", where=where,
                hint=f"write Piecewise((1, {short(part)}), (0, True))",
            )  # fmt: skip


def _check_numbers(e: Any, where: str) -> None:
    """Every number, and every expression in numbers alone, is a double."""
    if e in (sympy.true, sympy.false):
        return
    if not (isinstance(e, Expr) and e.is_number):
        for arg in e.args:
            _check_numbers(arg, where)
        return
    if e.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo, sympy.I):
        raise CellError("it holds an infinite, complex or undefined number", where=where)
    value = sympy.N(e, 20)
    if not value.is_Float and not value.is_Integer and not value.is_Rational:
        if value.has(sympy.I, sympy.zoo, sympy.nan):
            raise CellError(f"{short(e)} is an infinite, complex or undefined number", where=where)
        return  # of functions of our own
    size = abs(value)
    if size > sys.float_info.max or 0 < size < _SMALLEST:
        raise CellError(
            f"the number {rounded(e)} is too {'large' if size > 1 else 'small'} for a double",
            where=where,
            hint=f"doubles lie between {_SMALLEST:.1e} and {sys.float_info.max:.1e}",
        )


def _function_names() -> str:
    return " ".join(sorted(f.__name__ for f in (*FUNCTIONS, sympy.Piecewise, *REDUCTIONS)))


def _check_matrices(expr: Expr, where: str) -> None:
    """Matrices stand only on the left of a product."""
    if isinstance(expr, Product):
        if not isinstance(expr.matrix, Matrix):
            _check_static(expr.matrix, where)
        return _check_matrices(expr.operand, where)
    if is_of_parameters(expr):
        return None
    if isinstance(expr, Operator):
        inner = (n for n in sympy.postorder_traversal(expr) if isinstance(n, Misplaced))
        wrong: Operator = next(inner, expr)
        raise CellError(
            f"the matrix {wrong.leading} is used without @", where=where, hint=wrong.hint
        )
    for arg in expr.args:
        _check_matrices(arg, where)
    return None


def _check_static(rhs: Expr, where: str) -> None:
    """A matrix that an equation defines is made of what does not move."""
    moving = sorted((v for v in rhs.atoms(Vector) if v.category not in language.STATIC), key=str)
    if moving:
        raise CellError(
            f"{moving[0]} is different at every step, and a matrix is the same for all of them",
            where=where,
            hint='declare a matrix that moves with states("C", shape=("H", "K")) or vectors(…)',
        )


def _check_time(v: Vector, where: str) -> None:
    """A step reads and defines what is of this step, and the states of the step before."""
    if v.time == 0 or (v.category == "state" and v.time == -1):
        return
    if v.time > 0:
        raise CellError(
            f"{v} is the value of a later step, which a step cannot know", where=where,
            hint="shift or reverse the sequence before it is given to the cell",
        )  # fmt: skip
    kept, last = f"{v.name}_before", v.at(-1 if v.category == "state" else 0)
    raise CellError(
        f"{v} is the value of an earlier step, which is kept only as a state",
        where=where,
        hint=f'declare {kept} = states("{kept}", {_declared(v)}), add Eq({kept}.next, {last}), '
        f"and read {kept}"
        + ("" if v.time == last.time - 1 else ", which is one step back; for more, keep that, too"),
    )


def _declared(v: Vector) -> str:
    """The arguments that declare something of the same shape."""
    return f'size="{v.axes[0]}"' if len(v.axes) == 1 else f"shape={v.axes}"


def _check_defined(
    v: Vector, defined: Mapping[Vector, int], reads: Mapping[Expr, Iterable[Expr]], where: str
) -> None:
    if v in defined or v.category in language.GIVEN or (v.category == "state" and v.time == -1):
        return
    if v in reads:
        before = f"read {v.at(-1)}, the value before the step" if v.category == "state" else ""
        if _reads_itself(v, reads):  # no order of the equations would do
            hint = before or (
                f"{v} depends on itself: if the value of the step before is meant, {v} is a state; "
                f'declare {v} with states("{v}") and write Eq({v}.next, …)'
            )
        else:
            hint = f"move the equation of {v} above this one" + (before and f", or {before}")
        raise CellError(f"{v} is used before it is defined", where=where, hint=hint)
    near = did_you_mean(v.name, [d.name for d in reads])
    raise CellError(
        f"{v} is never defined", where=where,
        hint=f"{near} add Eq({v}, …), or declare {v.name} as an input or a parameter".strip(),
    )  # fmt: skip


def _reads_itself(v: Expr, reads: Mapping[Expr, Iterable[Expr]]) -> bool:
    """Whether the equation of ``v`` reads ``v``, if only through other equations."""
    seen: set[Expr] = set()
    waiting = [v]
    while waiting:
        for read in reads.get(waiting.pop(), ()):
            if read not in seen:
                seen.add(read)
                waiting.append(read)
    return v in seen


def check_outputs(output: object, equations: tuple[Eq, ...]) -> tuple[Vector, ...]:
    """The outputs, of this step, in the order in which they are given: one, or several."""
    if not isinstance(output, (list, tuple)):
        return (_check_output(output, equations),)
    if not output:
        raise CellError("a cell needs at least one output", hint=_output_hint(None))
    outputs = tuple(_check_output(v, equations) for v in output)
    for k, v in enumerate(outputs):
        if v in outputs[:k]:
            raise CellError(f"the output {v} is given twice", hint="give each output once")
    return outputs


def _check_output(output: object, equations: tuple[Eq, ...]) -> Vector:
    """One output, of this step; it has to be defined by an equation."""
    if not isinstance(output, Vector):
        raise CellError(
            f"the output is {short(repr(output))}, not a vector", hint=_output_hint(output)
        )
    value = output.at(0) if output.category == "state" else output
    names = [e.lhs.name for e in equations]
    if value not in [e.lhs for e in equations]:
        raise CellError(
            f"the output {output} is defined by no equation",
            hint=did_you_mean(output.name, names) or f"choose one of: {', '.join(names)}",
        )
    return value


def _output_hint(output: object) -> str:
    if isinstance(output, str):
        return f"give the symbol itself, output={output}"
    if isinstance(output, (list, tuple, dict, set, frozenset)):
        return "give several outputs in order, as a tuple: output=(h, y)"
    if isinstance(output, Expr):
        return 'define it by an equation of its own, Eq(y, …) with y = vectors("y"), output=y'
    return "give a state or a vector, such as output=h, or several: output=(h, y)"


def check_everything_is_read(equations: tuple[Eq, ...], outputs: tuple[Vector, ...]) -> None:
    """What nothing reads is a slip."""
    read = {v for e in equations for v in e.rhs.atoms(Vector)} | set(outputs)
    read |= {m.base for e in equations for m in e.rhs.atoms(Matrix)}
    for number, equation in enumerate(equations, 1):
        lhs = equation.lhs
        is_state = isinstance(lhs, Vector) and lhs.category == "state"
        if lhs not in read and not is_state:
            raise CellError(
                f"nothing reads {lhs}", where=located(number, equation),
                hint=f"remove the equation, or use {lhs} in another one",
            )  # fmt: skip
        if is_state and lhs not in read and lhs.at(-1) not in read:
            raise CellError(
                f"nothing reads the state {lhs.name}, neither in this step nor in the next",
                where=located(number, equation),
                hint=f"remove the equation, or use {lhs.name} in another one",
            )


def check_name(name: object, what: str, where: str = "") -> None:
    """It is an identifier in Python and C, and not a keyword."""
    hint = f"use letters a to z, digits and _, a letter first, at most {_LONGEST_NAME}"
    if not isinstance(name, str):
        raise CellError(f"{what} is {short(repr(name))}, not a string", where=where)
    if not _IDENTIFIER.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise CellError(
            f"{what} is {short(repr(name))}, which is not an identifier in Python and C",
            where=where, hint=hint,
        )  # fmt: skip
    if keyword.iskeyword(name) or name in C_KEYWORDS:
        raise CellError(
            f"{what} is {name!r}, a keyword of Python, C or C++", where=where, hint="choose another"
        )


def check_names(cell: Cell) -> None:
    """Names are identifiers, and one name means one thing."""
    if not cell.inputs:
        raise CellError(
            "no equation reads an input, so a sequence has no length", where=f"cell {cell.name}",
            hint='declare one with inputs("x") and use it',
        )  # fmt: skip
    sizes = {n.name for n in cell.sizes}
    for size in sorted(sizes):
        check_name(size, "a size")
    owner: dict[str, Vector | Matrix] = {}
    for symbol in sorted(
        {s for e in cell.equations for s in e.atoms(Vector, Matrix)}, key=lambda s: str(s)
    ):
        check_name(symbol.name, "a symbol's name")
        base = symbol.base if isinstance(symbol, Matrix) else symbol.at(0)
        if symbol.name in ("T", "B"):  # arguments and loops of generated code count by them
            raise CellError(
                f"{symbol.name} cannot name a symbol: T is the number of steps, B of rows in a "
                "batch",
                hint=f"rename it, to {symbol.name}_x for example",
            )
        if symbol.name in sizes:
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
