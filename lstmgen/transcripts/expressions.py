"""Expressions in PyTorch's and JAX's words.

What is expanded along other axes is left to broadcasting as far as it goes: an array may have one
unit where its quantity has more, until something needs them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import sympy
from sympy import Expr
from sympy.printing.printer import Printer as SympyPrinter

from ..errors import LstmgenError
from ..language.matrices import Matrix
from ..language.symbols import (
    Concat,
    Contract,
    Expand,
    Part,
    Product,
    Reduction,
    Reshape,
    Scan,
    Transpose,
    Vector,
    View,
)
from .dialects import Dialect, Extents

# What is not elementwise: its value has all units.
_WHOLE = (Product, Reduction, View, Concat, Contract)


class Body(Protocol):
    """What the printer has to know of the text around an expression."""

    def axes(self, e: Expr) -> tuple[Expr, ...]: ...
    def shape(self, e: Expr) -> tuple[int, ...]: ...
    def lead(self, e: Expr) -> tuple[int | str, ...]: ...
    def number(self, e: Expr) -> Expr: ...
    def some_array(self) -> str: ...
    def known(self, e: Expr) -> str | None: ...
    def begun(self, e: Expr) -> tuple[str, tuple[Expr, ...]] | None: ...
    def atom(self, e: Expr, hint: str) -> str: ...
    def is_repeated(self, e: Expr) -> bool: ...
    def keep(self, e: Expr, text: str) -> str: ...
    def vector(self, v: Vector) -> str: ...
    def normalised(self, text: str, e: Any) -> str: ...


_COMPOUND = (sympy.Add, sympy.Mul, sympy.Pow)
_SIGNS = {"StrictGreaterThan": ">", "GreaterThan": ">=", "StrictLessThan": "<", "LessThan": "<=",
          "Equality": "==", "Unequality": "!="}  # fmt: skip


def _is_number(e: Expr) -> bool:
    """Whether ``e`` is made of numbers and sizes alone."""
    return bool(e.is_number) or (bool(e.free_symbols) and not e.atoms(Vector, Matrix))


def _operands(e: Any) -> Iterator[Expr]:
    """The operands of an elementwise expression, those in its conditions, too."""
    for arg in e.args:
        if isinstance(arg, Expr):
            yield arg
        else:
            yield from _operands(arg)


def spelled(words: Sequence[str], sizes: Mapping[str, Expr], leads: Sequence[Extents]) -> str:
    """The letters of an einsum: the initials of sizes, after t and b for steps and rows.

    ``words`` and ``leads`` are of the operands and of the result, which comes last.
    """
    names: dict[str, str] = {}
    for letter, size in sizes.items():
        wanted = [str(size)[0].lower(), *"ijklmnopqrsuvwxyzacdefgh"]
        names[letter] = next(c for c in wanted if c.isalpha() and c not in (*names.values(), *"tb"))
    spelt = [
        "tb"[2 - len(lead) :] + "".join(names[c] for c in word)
        for word, lead in zip(words, leads, strict=True)
    ]
    return f"{','.join(spelt[:-1])}->{spelt[-1]}"


class Printer(SympyPrinter):
    """All but products and parts, which are in ``Body.known``."""

    printmethod = "_transcript"  # the language's own _sympystr is for people

    def __init__(self, dialect: Dialect, body: Body) -> None:
        super().__init__()
        self.d, self.body = dialect, body

    def _print(self, e: Any, **options: Any) -> str:
        known = self.body.known(e)
        if known is not None:
            return known
        if isinstance(e, Expr) and _is_number(e):
            n = self.body.number(e)
            return repr(int(n)) if n.is_Integer else repr(float(n))
        text: str = super()._print(e, **options)
        if isinstance(e, sympy.Function) and not isinstance(e, View) and self.body.is_repeated(e):
            return self.body.keep(e, text)
        return text

    def emptyPrinter(self, e: Any) -> str:
        raise LstmgenError(f"{self.d.name} has no word for {type(e).__name__}: {e}")

    def _inner(self, e: Expr) -> str:
        """``e`` as an operand of what binds more tightly than a sum."""
        text = self._print(e)
        compound = isinstance(e, _COMPOUND) or (isinstance(e, Contract) and e.is_outer)
        compound = compound and not _is_number(e) and self.body.known(e) is None
        return f"({text})" if compound else text

    # ------------------------------------------------------------------ broadcasting

    def extent(self, e: Expr) -> tuple[int, ...]:
        """The shape of the array that is printed for ``e``: 1 where it is left to broadcasting."""
        shape = self.body.shape(e)
        if isinstance(e, Expand):
            inner = dict(zip(e.places, self.extent(e.operand), strict=False))
            return tuple(inner.get(k, 1) for k in range(len(shape)))
        if isinstance(e, _WHOLE) or not e.args:
            return shape
        return np.broadcast_shapes(*map(self.extent, _operands(e)))

    def whole(self, e: Expr, lead: Extents | None = None, tight: bool = False) -> str:
        """``e`` with all its units, and with the rows of what it lies beside if ``lead`` says so.

        ``tight``, something can follow: an index, or a method.
        """
        own, shape = self.body.lead(e), self.body.shape(e)
        lead = own if lead is None else lead
        if e.atoms(Vector) and len(lead) == len(own) and self.extent(e) == shape:
            return self._inner(e) if tight else self._print(e)
        return self.widened(self._print(e), e, [*lead, *shape])

    def widened(self, text: str, e: Expr, shape: Extents) -> str:
        """``e``, whose text is given, as an array of a larger shape."""
        if e.atoms(Vector):
            return self.d.widened(text, shape)
        return self.d.filled(text, shape, self.body.some_array())

    def _print_Expand(self, e: Expand) -> str:
        inner = e.operand
        has_rows = bool(self.body.lead(inner))
        if not (has_rows or e.places):
            return self._inner(inner)
        places = e.places or (0,)  # one number is an axis of one unit
        index = [":" if k in places else "None" for k in range(len(self.body.shape(e)))]
        if not has_rows:  # broadcasting adds axes in front
            index = index[places[0] :]
        index = index[next((k for k, i in enumerate(index) if i == "None"), len(index)) :]
        return f"{self._inner(inner)}[..., {', '.join(index)}]" if index else self._inner(inner)

    # ------------------------------------------------------------------ views and contractions

    def _print_Part(self, e: Part) -> str:
        sizes = [int(self.body.number(n)) for n in e.sizes]
        start = sum(sizes[: e.number])
        operand = self.whole(e.operand, tight=True)
        return f"{operand}[..., {start}:{start + sizes[e.number]}]"

    def _print_Reshape(self, e: Reshape) -> str:
        shape = [*self.body.lead(e), *self.body.shape(e)]
        return self.d.reshaped(self.whole(e.operand), shape)

    def _print_Transpose(self, e: Transpose) -> str:
        return f"{self.whole(e.operand, tight=True)}.mT"

    def _print_Concat(self, e: Concat) -> str:
        lead = self.body.lead(e)
        return self.d.concatenated([self.whole(a, lead) for a in e.args])

    def _print_Contract(self, e: Contract) -> str:
        a, b = e.args[:2]
        left, right, out = e.spec
        if (left, right) == (out[:-1], out[:-2] + out[-1:]):
            a, b = self.whole(a, tight=True), self.whole(b, tight=True)
            return f"{a}[..., None] * {b}[..., None, :]"
        sizes = dict(zip(left + right, (*self.body.axes(a), *self.body.axes(b)), strict=True))
        leads = [self.body.lead(x) for x in (a, b, e)]
        letters = spelled(e.spec, sizes, leads)
        for axis in (-1, -2):
            rest = left.replace(left[axis], "")
            if len(left) > 1 and (right, out) == (rest[:-1] + left[axis], rest):
                matrix, vector = self.whole(a, tight=True), self.whole(b, tight=True)
                return self.d.applied(matrix, vector, axis, letters)
        return self.d.einsum(letters, [self.whole(a), self.whole(b)])

    # ------------------------------------------------------------------ elementwise

    def _print_Vector(self, v: Vector) -> str:
        return self.body.vector(v)

    def _print_Add(self, e: Expr) -> str:
        begun = self.body.begun(e)
        text, terms = ("", list(e.args)) if begun is None else (begun[0], list(begun[1]))
        terms.sort(key=lambda a: (a.could_extract_minus_sign(), not a.is_number))
        for term in terms:
            minus = term.could_extract_minus_sign() and not isinstance(term, sympy.Add)
            part = -term if minus else term
            shown = self._inner(part) if isinstance(part, sympy.Add) else self._print(part)
            sign = ("-" if minus else "+") if text else ("-" if minus else "")
            text = f"{text} {sign} {shown}" if text else f"{sign}{shown}"
        return text

    def _print_Mul(self, e: Expr) -> str:
        above, below = [], []
        for factor in e.args:
            exponent = factor.exp if isinstance(factor, sympy.Pow) else None
            if exponent is not None and exponent.is_number and exponent.is_negative:
                below.append(factor.base**-exponent)
            else:
                above.append(factor)
        sign = ""
        if above and above[0] == -1:
            sign, above = "-", above[1:]
        if len(self.body.shape(e)) > 1:  # what is small first, so that little work is on all units
            above.sort(key=lambda a: np.prod(self.extent(a)))
        text = sign + (" * ".join(map(self._inner, above)) or "1")
        return text + "".join(f" / {self._inner(b)}" for b in below)

    def _print_Pow(self, e: Expr) -> str:
        base, exponent = e.base, e.exp
        if exponent == 2:
            return f"{self.d.prefix}.square({self._print(base)})"
        if exponent == -sympy.S.Half and not base.is_number:
            return self.d.apply("rsqrt", self._print(base))
        if exponent == sympy.S.Half:
            return f"{self.d.prefix}.sqrt({self._print(base)})"
        if exponent.is_number and exponent.is_negative:
            return f"1 / {self._inner(base**-exponent)}"
        if exponent.is_Integer:
            return f"{self._inner(base)} ** {int(exponent)}"
        power = self.d.power
        return f"{self.d.prefix}.{power}({self._print(base)}, {self._print(exponent)})"

    def _print_Function(self, e: Expr) -> str:
        name = type(e).__name__
        if isinstance(e, Reduction):  # SymPy's printers do not look for base classes of functions
            return self._reduced(e)
        if self.d.has(e):
            return self.d.apply(name, self._print(e.args[0]))
        return self.emptyPrinter(e)

    def _reduced(self, e: Reduction) -> str:
        axes = len(self.body.shape(e.args[0]))
        axis = -1 if e.axis is None else int(e.axis) - axes
        keep = axes == 1 and not isinstance(e, Scan)
        return self.d.reduced(type(e).__name__, self.whole(e.args[0]), axis, keep)

    def _print_Normalised(self, e: Any) -> str:
        return self.body.normalised(self._print(e.args[0]), e)

    def _print_stop_gradient(self, e: Expr) -> str:
        return self.d.cut(self._print(e.args[0]))

    def _print_step(self, e: Expr) -> str:
        z = self.body.atom(e.args[0], "z")
        return self.d.cast(f"{z} > 0", z)

    def _print_equal(self, e: Expr) -> str:
        a, b = (self.body.atom(arg, "z") for arg in e.args)
        return self.d.cast(f"{a} == {b}", a)

    def _print_Heaviside(self, e: Expr) -> str:
        z = self.body.atom(e.args[0], "z")
        at_zero = self._print(e.args[1])
        return f"{self.d.prefix}.where({z} == 0, {at_zero}, {self.d.cast(f'{z} > 0', z)})"

    def _print_Mod(self, e: Expr) -> str:
        a, b = map(self._inner, e.args)
        return f"({a} - {b} * {self.d.prefix}.floor({a} / {b}))"

    def _print_Max(self, e: Expr) -> str:
        return self._extreme("maximum", e)

    def _print_Min(self, e: Expr) -> str:
        return self._extreme("minimum", e)

    def _extreme(self, function: str, e: Expr) -> str:
        args = sorted(e.args, key=_is_number)
        if len(args) > 2:  # libraries share a slope among all that tie only in a reduction
            full = [*self.body.lead(e), *self.body.shape(e)]
            whole = [self.widened(self._print(a), a, full) for a in args]
            return self.d.extreme(function, whole)
        texts = [
            self.d.filled(self._print(a), [1], self.body.some_array())
            if _is_number(a)
            else self._print(a)
            for a in args
        ]
        return f"{self.d.prefix}.{function}({', '.join(texts)})"

    def _print_Piecewise(self, e: Expr) -> str:
        pieces, text = list(e.args), "float('nan')"
        if pieces[-1][1] == sympy.true:
            text = self._print(pieces.pop()[0])
        if _is_number(pieces[-1][0]) and _is_number(e.args[-1][0]):
            # of two numbers, libraries choose the type; 0.1 in float32 is not 0.1
            text = self.d.filled(text, [1], self.body.some_array())
        for value, condition in reversed(pieces):
            holds = self._condition(condition)
            text = f"{self.d.prefix}.where({holds}, {self._print(value)}, {text})"
        return text

    def _condition(self, c: Any) -> str:
        if type(c).__name__ in _SIGNS:
            return f"{self._print(c.lhs)} {_SIGNS[type(c).__name__]} {self._print(c.rhs)}"
        if isinstance(c, sympy.Not):
            return f"~({self._condition(c.args[0])})"
        if isinstance(c, (sympy.And, sympy.Or)):
            sign = " & " if isinstance(c, sympy.And) else " | "
            return sign.join(f"({self._condition(a)})" for a in c.args)
        plain = sympy.to_nnf(c) if isinstance(c, sympy.logic.boolalg.BooleanFunction) else c
        if plain == c or plain in (sympy.true, sympy.false):
            return self.emptyPrinter(c)
        return self._condition(plain)  # Xor, Implies and the like as And, Or and Not
