"""From trees to SymPy, by the operators and functions that the Python form has.

Numbers are folded in floating point first, so that SymPy is never given one that it would write
out in a million digits, such as 9**9**9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sympy
from sympy import Expr

from ..errors import CellError, did_you_mean
from ..language.declarations import split
from ..language.functions import FUNCTIONS
from ..language.matrices import Matrix
from ..language.misuse import Linear, advice, no_matrix
from ..language.sizes import Size, size_of
from ..language.symbols import Quantity, Reduction, Transpose, Vector, max_, named
from .functions import ELSEWHERE, KNOWN, NUMBERS, OF_CONDITIONS, RELATIONS, Known, copies
from .inference import Kinds
from .parsing import size_or_none
from .places import Text
from .tree import Equation, Node, text_of
from .wording import as_text

_LARGEST_EXPONENT = 2**24  # as the language has it
_MOST_NODES = 5_000  # of an equation, once compositions are written out
_MOST_COMPARED = 24  # SymPy compares each argument of max and min with each
_MOST_BITS = 1_100  # of a numerator or a denominator: a double has no more than 1074
# What SymPy and the symbols of the language raise about what they are given.
_REFUSED = (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError)


_WITHOUT_VALUE = {sympy.zoo, sympy.nan, sympy.oo, -sympy.oo}


class Builder:
    """Makes the sides of equations: ``symbols`` by name, and ``kinds`` of what is no symbol."""

    def __init__(self, text: Text, kinds: Kinds, symbols: Mapping[str, Vector | Matrix]) -> None:
        self.text, self.kinds, self.symbols = text, kinds, symbols
        self.floats: dict[Node, float] = {}  # of what is made of numbers alone
        self.sizes: dict[Node, int] = {}  # in nodes, with compositions written out

    def target(self, e: Equation) -> Vector | Matrix:
        """The left-hand side."""
        symbol = self.symbols[e.name]
        if e.of_state:
            return symbol.at(0) if isinstance(symbol, Vector) else symbol
        return symbol

    def right_side(self, e: Equation) -> Any:
        """The right-hand side, as the cell checks it."""
        self._check_size(e.value)
        try:
            return self.value(e.value)
        except RecursionError:
            raise self._error(
                e.target, "the equation is nested too deeply",
                "give a part of it a name, by an equation of its own",
            ) from None  # fmt: skip

    def _error(self, node: Node, problem: str, hint: str = "") -> CellError:
        return self.text.error(problem, node.start, node.end, hint)

    # ------------------------------------------------------------------ values

    def value(self, node: Node) -> Any:
        """An expression, or a matrix that waits for its vector."""
        make = getattr(self, f"_{node.kind}", None)
        if make is None:
            raise self._error(
                node, "a condition is used as a number", f"write where({text_of(node)}, 1, 0)"
            )
        try:
            made = make(node)
        except CellError:
            raise
        except _REFUSED as error:
            raise self._explained(node, error) from None
        self._check_number(node, made)
        return made

    def _check_size(self, node: Node) -> None:
        """No expression doubles at each of many levels, as silu(silu(…)) does."""
        for below in reversed(list(node.walk())):
            size = 1 + sum(self.sizes[a] for a in below.args)
            self.sizes[below] = size * (copies(below.word) if below.kind == "call" else 1)
            if self.sizes[below] > _MOST_NODES:
                raise self._error(
                    below, f"it has more than {_MOST_NODES:,} parts, once all is written out",
                    "give a part of it a name, by an equation of its own",
                )  # fmt: skip

    def _explained(self, node: Node, error: Exception) -> CellError:
        words = str(error) or type(error).__name__
        problem, _, hint = words.partition(" Hint: ")
        problem, _, more = problem.partition(". ")
        hint = as_text(hint or more or advice(error)).removesuffix(".")
        if hint.startswith(("A ", "Write ", "Declare ")):
            hint = hint[0].lower() + hint[1:]
        return self._error(node, as_text(problem).removesuffix("."), hint)

    def _check_number(self, node: Node, made: Any) -> None:
        """No number is infinite, undefined, or of more digits than a double tells apart."""
        if not isinstance(made, Expr):
            return
        if not _WITHOUT_VALUE.isdisjoint((made, *made.args)):
            raise self._error(node, "it is infinite or undefined", "something is divided by zero")
        number = made.as_coeff_Mul()[0] if made.is_Mul or made.is_Number else None
        if isinstance(number, sympy.Rational):
            self._check_bits(node, max(number.p.bit_length(), number.q.bit_length()))

    def _check_bits(self, node: Node, bits: float) -> None:
        if bits > _MOST_BITS:
            raise self._error(node, "a number has more digits than a double has")

    def _fold(self, node: Node, function: Callable[..., Any]) -> None:
        """The value of a node in floating point, if all below it have one; refused if not finite.

        SymPy would find the exact one, however long that takes.
        """
        try:
            given = [self.floats[a] for a in node.args]
        except KeyError:
            return
        with np.errstate(all="ignore"):
            try:
                value = float(function(*given))
            except (OverflowError, ZeroDivisionError):
                value = math.inf
            except (TypeError, ValueError):  # complex numbers
                value = math.nan
        if math.isnan(value):
            raise self._error(node, "its value is no real number")
        if math.isinf(value):
            raise self._error(node, "its value is too large for a double")
        self.floats[node] = value

    def _same(self, node: Node, inner: Node) -> Any:
        """What is inside of a node that has its value, if that is a number."""
        made = self.value(inner)
        if inner in self.floats:
            self.floats[node] = self.floats[inner]
        return made

    # ------------------------------------------------------------------ leaves

    def _number(self, node: Node) -> Expr:
        digits = node.word
        self.floats[node] = float(digits)
        return sympy.Integer(int(digits)) if digits.isdecimal() else sympy.Float(float(digits))

    def _name(self, node: Node) -> Expr:
        name = node.word
        if name in self.symbols:
            return self.symbols[name]
        if self.kinds[name] == "function":
            raise self._error(
                node, f"{name} is a function without its argument",
                f'write {name}(…); a learned vector of that name is in the line "vectors:"',
            )  # fmt: skip
        if self.kinds[name] == "number":
            self.floats[node] = float(NUMBERS[name])
            return NUMBERS[name]
        return Size(name)

    def _attribute(self, node: Node) -> Any:
        (of,) = node.args
        if node.word == "next":
            if of.kind == "name" and self.kinds[of.word] == "state":
                return self.symbols[of.word].at(0)
            what = text_of(of)
            hint = f"add an equation {what}.next = …" if of.kind == "name" else ""
            raise self._error(node, f"{what} is no state: no equation defines {what}.next", hint)
        if node.word != "T":
            near = did_you_mean(node.word, ["next", "T"])
            hint = near or "the value after the step is h.next, a transpose U.T"
            raise self._error(node, f"nothing has .{node.word}", hint)
        made = self.value(of)
        if isinstance(made, (Linear, Vector)):
            return made.T
        return Transpose(made)

    # ------------------------------------------------------------------ arithmetic

    def _signed(self, node: Node) -> Any:
        made = self.value(node.args[0])
        self._fold(node, (lambda a: -a) if node.word == "-" else (lambda a: a))
        return -made if node.word == "-" else made

    def _sum(self, node: Node) -> Any:
        terms = [self.value(a) for a in node.args]
        signed = [terms[0]]
        for sign, term in zip(node.words, terms[1:], strict=True):
            signed.append(-term if sign == "-" else term)
        self._fold(node, lambda *given: _signed_sum(node.words, given))
        if not any(isinstance(t, Linear) and not isinstance(t, Quantity) for t in signed):
            bits = sum(t.q.bit_length() for t in signed if isinstance(t, sympy.Rational))
            self._check_bits(node, bits)
            return sympy.Add(*signed)
        total = signed[0]
        for sign, term, given in zip(node.words, terms[1:], signed[1:], strict=True):
            total = total - term if sign == "-" else total + given
        return total

    def _product(self, node: Node) -> Any:
        first, *others = node.args
        made = self.value(first)
        number: float | None = self.floats.get(first)
        for sign, factor in zip(node.words, others, strict=True):
            right = self.value(factor)
            if sign == "@":
                made, number = self._contracted(node, made, right), None
                continue
            by = self.floats.get(factor)
            if sign == "/" and by == 0 and right == 0:
                raise self._error(factor, "it divides by zero")
            number = None if number is None or by is None else _divided(sign, number, by)
            if number is not None and not math.isfinite(number):
                raise self._error(node, "its value is too large for a double")
            made = made * right if sign == "*" else made / right
            self._check_number(node, made)
        if number is not None:
            self.floats[node] = number
        return made

    def _contracted(self, node: Node, left: Any, right: Any) -> Any:
        if _waits(left) or _waits(right):
            return left @ right
        if not isinstance(left, Expr):
            raise no_matrix(left, right)
        return Quantity._contracted(left, right)

    def _power(self, node: Node) -> Any:
        base, exponent = map(self.value, node.args)
        raised = self.floats.get(node.args[1])
        if raised is not None and abs(raised) > _LARGEST_EXPONENT:
            raise self._error(
                node.args[1], "the exponent is too large",
                f"exponents of at most {_LARGEST_EXPONENT} are exact in single precision",
            )  # fmt: skip
        self._fold(node, lambda a, b: math.pow(a, b) if a or b > 0 else math.inf)
        if raised is not None and isinstance(base, Expr) and not _waits(base):
            number = base.as_coeff_Mul()[0] if not base.is_Add else sympy.S.One
            if isinstance(number, sympy.Rational):
                bits = max(abs(number.p).bit_length(), number.q.bit_length()) - 1
                self._check_bits(node, bits * abs(raised))
        return base**exponent

    # ------------------------------------------------------------------ functions

    def _call(self, node: Node) -> Any:
        known = KNOWN.get(node.word)
        if known is None:
            raise self._unknown(node)
        if node.word == "where":
            return self._where(node)
        if node.word == "named":
            return self._named(node, known)
        if known.axes_from <= 1 or node.word in ("max", "max_"):
            return self._with_axes(node, known)
        given, keywords = self._arguments(node, known)
        if known.make in (sympy.Max, sympy.Min):
            return self._extreme(node, known.make, given)
        for argument in node.args:
            if argument.kind == "keyword" and argument.args[0] in self.floats:
                self.floats[argument] = self.floats[argument.args[0]]
        entry = FUNCTIONS.get(known.make)  # type: ignore[call-overload]
        if entry is not None and not (entry.symbol is sympy.Heaviside and len(given) < 2):
            self._fold(node, entry.value if node.word != "log" or len(given) == 1 else _log)
        elif known.make is sympy.sqrt:
            self._fold(node, math.sqrt)
        else:
            self._fold(node, lambda *values: _composed(node, known.make, values))
        if len(given) == 1 and _waits(given[0]) and known.make is sympy.Abs:
            return abs(given[0])
        return known.make(*given, **keywords)

    def _unknown(self, node: Node) -> CellError:
        if node.word in OF_CONDITIONS:
            return self._error(
                node, "a condition is used as a number", f"write where({text_of(node)}, 1, 0)"
            )
        place = Node("name", (), (), node.start, node.start + len(node.word))
        if node.word in self.symbols:
            hint = f"a product is written {node.word} * (…), that of a matrix {node.word} @ (…)"
            return self._error(place, f"{node.word} is a symbol, not a function", hint)
        instead = ELSEWHERE.get(node.word)
        hint = f"write {instead}" if instead else did_you_mean(node.word, KNOWN)
        hint = hint or f"the functions are {', '.join(sorted(n for n in KNOWN if n.islower()))}"
        return self._error(place, f"there is no function {node.word}", hint)

    def _check_count(self, node: Node, known: Known, count: int) -> None:
        if known.least <= count <= known.most:
            return
        takes = str(known.least) if known.least == known.most else f"{known.least} to {known.most}"
        takes = f"{takes} argument" + ("s" if takes != "1" else "")
        raise self._error(node, f"{node.word} takes {takes}, not {count}")

    def _arguments(self, node: Node, known: Known) -> tuple[list[Any], dict[str, Any]]:
        given: list[Any] = []
        keywords: dict[str, Any] = {}
        for argument in node.args:
            if argument.kind != "keyword":
                if keywords:
                    raise self._error(argument, "what has no name comes before what has one")
                given.append(self._expression(argument))
                continue
            if argument.word not in known.keywords or argument.word in keywords:
                takes = f"it takes {', '.join(known.keywords)}" if known.keywords else ""
                hint = did_you_mean(argument.word, known.keywords) or takes
                raise self._error(argument, f"{node.word} takes no {argument.word}=", hint)
            keywords[argument.word] = self._expression(argument.args[0])
        self._check_count(node, known, len(given) + len(keywords))
        return given, keywords

    def _expression(self, node: Node) -> Any:
        return self.value(node)

    def _named(self, node: Node, known: Known) -> Any:
        self._check_count(node, known, len(node.args))
        if len(node.args) > 1 and node.args[1].kind != "name":
            raise self._error(node.args[1], "what is kept together is called by a word")
        hint = [node.args[1].word] if len(node.args) > 1 else []
        return known.make(self._same(node, node.args[0]), *hint)

    # ------------------------------------------------------------------ axes

    def _with_axes(self, node: Node, known: Known) -> Any:
        if node.word == "size":
            self._check_count(node, known, len(node.args))
            return self._size(node.args[0])
        if node.word != "expand" and known.keywords:  # a reduction
            return self._reduced(node, known)
        positional = [a for a in node.args if a.kind != "keyword"]
        self._check_count(node, known, len(positional))
        options: dict[str, Any] = {}
        for argument in node.args:
            if argument.kind == "keyword":
                if argument.word not in known.keywords or argument.word in options:
                    again = " twice" if argument.word in options else ""
                    raise self._error(argument, f"{node.word} takes no {argument.word}={again}")
                options[argument.word] = self._axis(argument.args[0])
        value, *axes = positional
        made = known.make(self.value(value), *self._axes(node.word, axes), **options)
        if node.word == "split":
            raise self._error(
                node, "split gives several parts, of which none is picked",
                f"write {text_of(node)}[0] for the first one; or q, k = {text_of(node)}",
            )  # fmt: skip
        return made

    def _axes(self, function: str, axes: list[Node]) -> list[Any]:
        if len(axes) == 1 and axes[0].kind == "name" and axes[0].word in self.symbols:
            return [self.symbols[axes[0].word]]
        if function == "split" and len(axes) == 1 and axes[0].kind == "number":
            count = axes[0].word
            if not count.isdecimal() or not 1 < int(count) <= 256:
                raise self._error(axes[0], "split gives two parts or more, at most 256")
            return [int(count)]
        return [self._size(a) for a in axes]

    def _size(self, node: Node) -> Expr:
        text = size_or_none(node)
        try:
            if text is None:
                raise ValueError
            return size_of(text)
        except ValueError:
            raise self._error(
                node, "a size is a name or a positive number, or a sum or product of these",
                "such as H, 3, N*P or D + H",
            ) from None  # fmt: skip

    def _reduced(self, node: Node, known: Known) -> Any:
        positional = [a for a in node.args if a.kind != "keyword"]
        for argument in node.args:
            if argument.kind == "keyword" and argument.word != "axis":
                raise self._error(argument, f"{node.word} takes no {argument.word}=", "axis=K")
        named_axes = [a.args[0] for a in node.args if a.kind == "keyword"]
        if node.word == "max" and len(positional) > 1 and not named_axes:
            self._check_count(node, known, len(node.args))
            return self._extreme(node, sympy.Max, list(map(self.value, positional)))
        make = max_ if node.word == "max" else known.make
        if not positional or len(node.args) > 2 or len(named_axes) > 1:
            raise self._error(node, f"{node.word} takes one value, and axis=")
        value = self._same(node, positional[0])
        for axis in (*positional[1:], *named_axes):
            return make(value, self._axis(axis))
        return make(value)

    def _extreme(self, node: Node, make: Any, given: list[Any]) -> Any:
        """The largest or the smallest of several; those within one another are taken together."""
        count = sum(len(g.args) if isinstance(g, make) else 1 for g in given)
        if count > _MOST_COMPARED:
            raise self._error(
                node, f"more than {_MOST_COMPARED} are compared",
                "give some of them a name, by an equation of its own",
            )  # fmt: skip
        self._fold(node, max if make is sympy.Max else min)
        return make(*given)

    def _axis(self, node: Node) -> Any:
        if node.kind == "signed" and node.args[0].kind == "number":
            return sympy.Integer(-int(self._place(node.args[0])))
        if node.kind == "number":
            return sympy.Integer(int(self._place(node)))
        return self._size(node)

    def _place(self, node: Node) -> str:
        if not node.word.isdecimal() or len(node.word) > 4:
            raise self._error(node, "an axis is a size, or a number of its place, from 0")
        return node.word

    def _index(self, node: Node) -> Any:
        (call,) = node.args
        if call.kind != "call" or call.word != "split":
            raise self._error(
                node, "only the parts of split(…) are numbered",
                "reductions such as sum(u) and mean(u) look across units",
            )  # fmt: skip
        self._check_count(call, KNOWN["split"], len(call.args))
        value, *axes = call.args
        try:
            parts = split(self.value(value), *self._axes("split", axes))
        except ValueError as error:
            raise self._explained(call, error) from None
        if int(node.word) >= len(parts):
            raise self._error(node, f"it has {len(parts)} parts, numbered from 0")
        return parts[int(node.word)]

    # ------------------------------------------------------------------ conditions

    def _where(self, node: Node) -> Any:
        self._check_count(node, KNOWN["where"], len(node.args))
        pieces = []
        args = node.args
        for k in range(0, len(args) - 1, 2):
            condition = self.condition(args[k])
            pieces.append((self.value(args[k + 1]), condition))
        if len(args) % 2:
            pieces.append((self.value(args[-1]), sympy.true))
        made = sympy.Piecewise(*pieces)
        if made.is_Number:  # conditions of numbers are decided
            self.floats[node] = float(made)
        return made

    def condition(self, node: Node) -> Any:
        """A condition: comparisons, joined."""
        try:
            return self._condition(node)
        except CellError:
            raise
        except _REFUSED as error:
            raise self._explained(node, error) from None

    def _condition(self, node: Node) -> Any:
        if node.kind == "comparison":
            values = [self.value(a) for a in node.args]
            for argument, value in zip(node.args, values, strict=True):
                if _waits(value):
                    raise self._error(argument, "it is a matrix, and quantities are compared")
            pairs = zip(node.words, values, values[1:], strict=False)
            return sympy.And(*(RELATIONS[word](a, b) for word, a, b in pairs))
        if node.kind in ("conjunction", "disjunction"):
            if len(node.args) > 8:
                raise self._error(node, "at most eight conditions are joined at once")
            join = sympy.And if node.kind == "conjunction" else sympy.Or
            return join(*map(self.condition, node.args))
        if node.kind == "negated":
            return sympy.Not(self.condition(node.args[0]))
        if node.kind == "call" and node.word in OF_CONDITIONS:
            known = OF_CONDITIONS[node.word]
            self._check_count(node, known, len(node.args))
            return known.make(*map(self.condition, node.args))
        raise self._error(
            node, f"{text_of(node)} is no condition", "write a comparison, such as u > 0"
        )


def _waits(made: Any) -> bool:
    """Whether it is a matrix, or made of matrices, that waits for its vector."""
    return isinstance(made, Linear) and not isinstance(made, Quantity)


def _signed_sum(signs: tuple[str, ...], given: tuple[float, ...]) -> float:
    first, *others = given
    return first + sum(-b if s == "-" else b for s, b in zip(signs, others, strict=True))


def _divided(sign: str, a: float, b: float) -> float:
    if sign == "*":
        return a * b
    return a / b if b else math.inf


def _log(a: float, base: float) -> float:
    return math.log(a) / math.log(base)


def _composed(node: Node, make: Callable[..., Any], values: tuple[float, ...]) -> float:
    """The value of a composition, such as silu, of numbers."""
    given = [sympy.Float(v) for a, v in zip(node.args, values, strict=True) if a.kind != "keyword"]
    more = {
        a.word: sympy.Float(v)
        for a, v in zip(node.args, values, strict=True)
        if a.kind == "keyword"
    }
    return _computed(make(*given, **more))


def _computed(e: Expr) -> float:
    """An expression of floating-point numbers, computed as such."""
    if e.is_Number:
        return float(e)
    if isinstance(e, (named, Reduction)):  # of a number, that number
        return _computed(e.args[0])
    values = [_computed(a) for a in e.args]
    if e.is_Add:
        return sum(values)
    if e.is_Mul:
        return math.prod(values)
    if e.is_Pow:
        return math.pow(*values)
    return float(FUNCTIONS[e.func].value(*values))
