"""What all printers share: a person's order of terms and factors, and numbers as short as possible.

SymPy's own order is alphabetical. A person writes the input's term first, then the state's, then
the bias; f c + i g; 1 - z; δc ⊙ g ⊙ i ⊙ (1 - i). ``Order`` knows how, for any cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sympy
from sympy import Add, Eq, Expr, Function, Mul, Pow, Symbol
from sympy.printing.precedence import PRECEDENCE, precedence

from ..language.cell import Cell
from ..language.composed import layer_norm, softmax
from ..language.functions import rsqrt, sigmoid
from ..language.matrices import Matrix
from ..language.shapes import SCALAR, units
from ..language.sizes import Size
from ..language.symbols import (
    ADJOINT,
    STATIC,
    Concat,
    Contract,
    Outer,
    Product,
    Reduction,
    Vector,
    View,
    max_,
    mean,
    named,
    plain_conditions,
    sum_,
)

# tanh²(c), as people write it; relu²(c) they would not
RAISED = (sigmoid, sympy.tanh, sympy.sin, sympy.cos, sympy.tan, sympy.sinh, sympy.cosh)
# Where a symbol stands in a product, by category; what a step computes is at 5.
_PLACE = {"parameter": 2, "constant": 2, "mask": 3, "state": 6, "input": 7} | dict.fromkeys(
    ADJOINT, 4
)
_COMPLEMENT, _COMPUTED, _FUNCTION, _SUM, _PAIR, _CHANGE = 4.5, 5, 8, 9, 10, 11


class _Spelled:
    """The last part of a key: sorts by what an expression is spelled like, which takes its time,
    and is found out only where all that comes before is equal.
    """

    __slots__ = ("e",)

    def __init__(self, e: Expr) -> None:
        self.e = e

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Spelled) and bool(self.e == other.e)

    def __lt__(self, other: _Spelled) -> bool:
        return str(self.e) < str(other.e)

    __hash__ = None  # type: ignore[assignment]


class Order:
    """A person's order of the terms of a sum and of the factors of a product.

    Parameters
    ----------
    cell : Cell
        Its equations say which gate comes first.
    forward : sequence of Eq, optional
        The equations in normal form, where what is printed holds symbols that those name.
    """

    def __init__(self, cell: Cell, forward: Sequence[Eq] = ()) -> None:
        self.cell = cell
        defined = [e.lhs for e in forward or cell.equations]
        known = (*cell.inputs, *cell.masks, *defined, *cell.constants, *cell.parameters)
        self._rank: dict[str, int] = {}
        for symbol in known:
            self._rank.setdefault(symbol.name, len(self._rank))
        # (H, D), as a matrix has its rows first; steps and rows of the batch before all
        sizes = sorted(cell.sizes, key=lambda n: n.name != "H")
        self._sizes = [n.name for n in (Size("T"), Size("B"), *sizes)]

    # ------------------------------------------------------------------ sums

    def terms(self, add: Expr) -> list[Expr]:
        """The terms of a sum. The first is negative only if all are.

        The cotangent, then this step's terms, then those of step t+1; among them products with an
        input, with a state, other products, elementwise terms, and parameters alone.
        """
        terms = Add.make_args(add)
        closed = add.atoms(Vector) and not any(_products(t) for t in terms)
        subtracts = any(is_negative(t) for t in terms if not t.is_number)

        def key(t: Expr) -> tuple[Any, ...]:
            if t.is_number:  # 1 - z, 1 + erf(x), but W x + b + 1 and var + 1e-05
                ahead = closed and not is_negative(t) and (subtracts or t.is_Integer)
                return (-1,) if ahead else (9,)
            return self._term(t)

        ordered = sorted(terms, key=key)
        if is_negative(ordered[0]):
            first = next((t for t in ordered if not is_negative(t)), ordered[0])
            ordered.remove(first)
            ordered.insert(0, first)
        return ordered

    def _term(self, t: Expr) -> tuple[Any, ...]:
        vectors = t.atoms(Vector)
        if not vectors:
            return (8, *self._monomial(t), _Spelled(t))
        adjoints = sorted(self.rank(v) for v in vectors if v.category in ADJOINT)
        when = 1
        if any(v.category == "cotangent" for v in vectors):
            when = 0
        elif any(v.time > 0 or v.category == "carry" for v in vectors):
            when = 2
        kind = self._kind(t, vectors, bool(adjoints))
        factors = [f for f in self.factors(t) if not f.is_number]
        ranks = tuple(k for f in factors for k in self._ranks(f)), sum(map(_power, factors))
        if adjoints and when == 1 and kind == 3:
            # as backpropagation comes by them, the latest first: δh o (1 - tanh² c) + p_o δa_o
            return (when, kind, -adjoints[0], ranks, _Spelled(t))
        return (when, kind, *adjoints[:1], ranks, _Spelled(t))

    def _kind(self, t: Expr, vectors: Iterable[Vector], is_adjoint: bool) -> int:
        moving = {v.category for v in vectors} - STATIC
        operands = {v.category for p in _products(t) for v in p.operand.atoms(Vector)}
        if operands:
            return 0 if "input" in operands else 1 if "state" in operands else 2
        if not moving:
            return 5
        if moving == {"input"} and not t.has(Function):
            return 0
        comes_in = any(v.category == "state" and v.time < 0 for v in vectors)
        return 3 if is_adjoint or comes_in else 4

    # ------------------------------------------------------------------ products

    def factors(self, mul: Expr) -> list[Expr]:
        """The factors of a product.

        Numbers, sizes, what is one number for a whole vector; then parameters, masks, adjoints,
        what the step computes, states, inputs, functions, sums, and what all these are the slope
        of, a change: f (1 - f) da. Two exceptions: a factor v that
        comes with another like (1 - v) stands directly before it, i (1 - i); and where there is no
        adjoint, a gate's complement stands where a gate does, (1 - z) n.
        """
        factors = Mul.make_args(mul)
        is_adjoint = any(v.category in ADJOINT for v in mul.atoms(Vector))
        companion: dict[Expr, Expr] = {}
        for s in factors:
            if s.is_Add:
                alike = (f for f in factors if not f.is_Add and f.free_symbols == s.free_symbols)
                for f in sorted(alike, key=_Spelled):
                    if s.has(f):
                        companion.setdefault(f, s)
        paired = set(companion.values())

        def key(f: Expr) -> tuple[Any, ...]:
            place = self._factor(companion.get(f, f))
            if f in companion or f in paired:
                return (*place[:2], _PAIR, *place[3:], f in paired)
            if f.is_Add and not is_adjoint and len(f.free_symbols) == 1:
                return (*place[:2], _COMPLEMENT, *place[3:])
            return place

        return sorted(factors, key=key)

    def _factor(self, f: Expr) -> tuple[Any, ...]:
        base = f.base if isinstance(f, Pow) else f
        if base.is_number:
            return (0, _Spelled(f))
        if isinstance(base, Size):
            return (1, self._size(base))
        if isinstance(base, Vector):
            is_change = base.category.startswith("tangent")
            place = _CHANGE if is_change else _PLACE.get(base.category, _COMPUTED)
        else:
            place = _SUM if unnamed(base).is_Add else _FUNCTION
        return (2, not self.scalar(f), place, self._ranks(f), _Spelled(f))

    def fraction(self, mul: Expr) -> tuple[list[Expr], list[Expr]]:
        """The factors above and below the bar; a sign stays above, with its number."""
        above: list[Expr] = []
        below: list[Expr] = []
        for f in self.factors(mul):
            if f.is_Rational and not f.is_Integer:
                above.extend([sympy.Integer(f.p)] if f.p != 1 else [])
                below.append(sympy.Integer(f.q))
            elif isinstance(f, Pow) and is_negative(f.exp):
                below.append(1 / f)
            elif isinstance(unnamed(f), rsqrt):
                below.append(sympy.sqrt(unnamed(f).args[0]))
            elif f != 1:
                above.append(f)
        return above, below

    # ------------------------------------------------------------------ symbols

    def rank(self, symbol: Symbol) -> int:
        """The place of a symbol among the cell's; what is not known comes last."""
        return self._rank.get(symbol.name, len(self._rank))

    def adopt(self, name: str, like: str) -> None:
        """Give ``name`` the place of ``like``."""
        self._rank.setdefault(name, self._rank.get(like, len(self._rank)))

    def scalar(self, e: Expr) -> bool:
        """Whether ``e`` is one number for a whole vector: no ⊙ stands beside it."""
        if isinstance(e, (Vector, Matrix)):
            return bool(units(self.cell.shape(e)) == 1)
        if isinstance(e, (Reduction, Product, Contract, View, Concat)):
            return bool(self.cell.shapes.axes(e) == SCALAR)
        return not isinstance(e, Outer) and all(self.scalar(a) for a in e.args)

    def is_matrix(self, v: Vector) -> bool:
        """Whether a quantity is a learned matrix, or made of such, in the equations of those."""
        if v.category == "derived":
            return len(v.axes) > 1
        learned = (p.name for p in self.cell.parameters if isinstance(p, Matrix))
        return v.category == "parameter" and v.name in learned

    def matrices(self, e: Contract) -> list[tuple[Expr, bool]]:
        """The operands of a contraction in the order of a matrix product, and whether each is
        transposed there: "ik,jk->ij" is A Bᵀ.
        """
        left, right, out = e.spec
        heads = set(left) & set(right) & set(out)
        words = [[x for x in word if x not in heads] for word in (left, right)]
        first = next((x for x in out if x not in heads), "")
        pairs = list(zip(words, e.args, strict=False))
        (one, a), (two, b) = pairs[::-1] if first in words[1] else pairs
        summed = set(one) & set(two)
        return [(a, one[-1] not in summed or len(one) == 1), (b, two[0] not in summed)]

    def axis(self, e: Reduction) -> Expr | None:
        """The size of the axis that a reduction looks along; None of a vector, which has one."""
        shapes = self.cell.shapes
        return None if e.axis is None else shapes.axes(e.args[0])[shapes.axis(e)]

    def _ranks(self, f: Expr) -> tuple[int, ...]:
        return tuple(sorted(self.rank(v) for v in f.atoms(Vector, Matrix)))

    def _size(self, n: Size) -> int:
        return self._sizes.index(n.name) if n.name in self._sizes else len(self._sizes)

    def _monomial(self, t: Expr) -> tuple[int, ...]:
        """H D before H² before H: by degree, the input's size first."""
        powers = t.as_powers_dict()
        inner = [n.name for n in self.cell.sizes]
        degrees = [-int(powers.get(Size(n), 0)) for n in ("T", "B", *inner)]
        return (sum(degrees), *degrees)


def _power(f: Expr) -> float:
    return float(f.exp) if isinstance(f, Pow) and f.exp.is_number else 1.0


def _products(e: Expr) -> list[Product]:
    """The products W @ x that ``e`` is linear in: those that no function hides."""
    if isinstance(e, Product):
        return [e]
    if isinstance(e, (Add, Mul, named, Helper)):
        return [p for arg in e.args for p in _products(arg)]
    return []


# --------------------------------------------------------------------------- signs and numbers


def is_negative(t: Expr) -> bool:
    """Whether a term is written with a minus sign."""
    return bool(t.as_coeff_Mul()[0].is_negative)


def exact(e: Expr) -> Expr:
    """``e`` with 2 for 2.0: nobody writes 1.0 x."""
    floats = e.atoms(sympy.Float)
    whole = {x: sympy.Integer(int(x)) for x in floats if float(x).is_integer()}
    return e.xreplace(whole) if whole else e


def tidy(e: Expr) -> Expr:
    """``e`` for people: exact, with plain conditions, and signs outside of means and sums."""
    return exact(plain_conditions(e)).replace(
        lambda n: isinstance(n, (mean, sum_)) and is_negative(n.args[0]),
        lambda n: -n.func(-n.args[0], *n.args[1:]),
    )


def number(n: Expr) -> str:
    """A number for people, as short as it can be: 2, 1/2, 0.1, 1e-05."""
    return str(n) if n.is_Rational else literal(n).removesuffix(".0")


def literal(n: Expr) -> str:
    """A number for a program, always with a point or an exponent: 2.0, 0.5, 1e-05."""
    return repr(float(n))


def unnamed(e: Expr) -> Expr:
    """What ``named`` holds together."""
    while isinstance(e, named):
        e = e.args[0]
    return e


def binds(e: Expr) -> int:
    """How tightly ``e`` holds together, on the scale of SymPy's PRECEDENCE."""
    e = unnamed(e)
    if isinstance(e, (Product, Outer, rsqrt)):
        return int(PRECEDENCE["Mul"])
    return int(precedence(e))


# --------------------------------------------------------------------------- parameters


def families(cell: Cell) -> list[list[Matrix | Vector]]:
    """The parameters, those of one family and one shape together: W_i W_f W_g W_o."""
    found: dict[tuple[Any, ...], list[Matrix | Vector]] = {}
    for p in cell.parameters:
        key = (type(p), p.name.partition("_")[0], cell.shape(p), p.learned)
        found.setdefault(key, []).append(p)
    return list(found.values())


def parameter_count(cell: Cell) -> Expr:
    """How many numbers are learned: 4 (H D + H² + H), or 4 H D + 4 H² + 7 H."""
    total = sympy.expand(sum((sympy.prod(cell.shape(p)) for p in cell.learned), sympy.S.Zero))
    factor, rest = total.primitive()
    alike = rest.is_Add and all(t.as_coeff_Mul()[0] == 1 for t in rest.args)
    return Mul(factor, rest, evaluate=False) if alike and factor != 1 else total


# --------------------------------------------------------------------------- text from users


def one_line(text: str) -> str:
    """``text`` made harmless in a comment of any language: one line that closes no comment."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    words = " ".join(printable.split())
    for mark in ("*/", "/*", "??/", '"""'):
        while mark in words:
            words = words.replace(mark, " ".join(mark))
    return words.rstrip("\\ ")


# --------------------------------------------------------------------------- language helpers


class Helper(Function):
    """A helper of the language, such as ``layer_norm``, put back where it was used.

    Its arguments are its name, the operand, and what it made of that.
    """

    nargs = 3
    is_real = True

    @property
    def name(self) -> str:
        return str(self.args[0])

    @property
    def operand(self) -> Expr:
        return self.args[1]

    @property
    def made(self) -> Expr:
        return self.args[2]


def placeholder(equations: Sequence[Eq]) -> str:
    """A letter for any vector, which ``equations`` do not use."""
    taken = {s.name for e in equations for s in e.free_symbols}
    return next(letter for letter in "vuwyzabcdefghijklmnopqrstx" if letter not in taken)


def fold_helpers(equations: Sequence[Eq]) -> tuple[list[Eq], list[Eq]]:
    """``equations`` with LN(v) and softmax(v) where they were written out, and what these mean."""
    v = Vector(placeholder(equations), "parameter", "n")  # any vector, at no time
    names: dict[Expr, str] = {}  # what a helper makes of v -> its name
    folded = []
    for equation in equations:
        rhs = equation.rhs
        for name, meaning, operand, made in _uses(rhs, v):
            same = sum(n.partition("_")[0] == name for e, n in names.items() if e != meaning)
            unique = names.get(meaning, f"{name}_{same + 1}" if same else name)
            parts = dict(a.as_base_exp() for a in made.args)
            after = _replaced(rhs, parts, Helper(Symbol(unique), operand, made))
            if after != rhs:
                names[meaning] = unique
                rhs = after
        folded.append(Eq(equation.lhs, rhs, evaluate=False))
    return folded, [Eq(Helper(Symbol(n), v, e), e, evaluate=False) for e, n in names.items()]


def _uses(e: Expr, v: Vector) -> list[tuple[str, Expr, Expr, Expr]]:
    """The helpers that may have been used: name, what it means, the operand, what it made."""
    shifts = {
        sum((t for t in r.args[0].args if not isinstance(t, named)), sympy.S.Zero)
        for r in e.atoms(rsqrt)
        if r.args[0].is_Add
    }
    norms = [
        ("LN", layer_norm(v, eps=eps), u, layer_norm(u, eps=eps))
        for u in _operands(e, mean)
        for eps in sorted(shifts, key=str)
    ]
    # its maximum is taken off against overflow, and cancels
    shares = sympy.exp(v) / sum_(sympy.exp(v))
    return norms + [("softmax", shares, u, softmax(u)) for u in _operands(e, max_)]


def _operands(e: Expr, reduction: type) -> list[Expr]:
    return sorted({unnamed(r.args[0]) for r in e.atoms(reduction)}, key=str)


def _replaced(e: Expr, parts: dict[Expr, Expr], by: Helper) -> Expr:
    """``e`` with ``by`` in the place of the factors ``parts``, or a power of it.

    ``parts`` is from base to exponent.
    """
    if isinstance(e, Helper) or not e.args:
        return e
    if isinstance(e, sympy.Mul):
        found = dict(a.as_base_exp() for a in e.args)
        powers = {found[b] / x for b, x in parts.items()} if parts.keys() <= found.keys() else set()
        if len(powers) == 1:
            rest = (a for a in e.args if a.as_base_exp()[0] not in parts)
            return e.func(by ** powers.pop(), *(_replaced(a, parts, by) for a in rest))
    return e.func(*(_replaced(a, parts, by) for a in e.args))
