"""Sizes in C: their names, how they are written, and where their values come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, reduce

import sympy
from sympy import Expr, Integer

from ...language import dtypes
from ...language.cell import Cell
from ...language.sizes import Size
from ...language.symbols import Vector
from ...planning.operations import B, K, T
from .scopes import Scope
from .tree import (
    COUNT,
    Call,
    Count,
    Declare,
    Expression,
    Member,
    Node,
    Sum,
    Variable,
    product,
    sizes_in,
)
from .vocabulary import N

_PAD_BYTES = 64  # the widest vector, and a line of the cache


class Sizes:
    """The sizes of a cell, and those that are padded to whole vectors of the machine.

    ``wide`` has a size of its own for each count of units that is padded somewhere.

    Parameters
    ----------
    cell
        Whose sizes these are.
    dtype
        "float32" or "float64": of the numbers that are counted.
    fixed
        The values of those sizes that are constants of the code.
    scope
        Where the names of sizes are declared.
    """

    def __init__(self, cell: Cell, dtype: str, fixed: dict[str, int], scope: Scope) -> None:
        self.cell, self.fixed, self.names = cell, fixed, scope
        self.pad = _PAD_BYTES // dtypes.dtype(dtype).bytes
        self.wide: dict[Expr, Size] = {n: Size(f"padded {n}") for n in cell.sizes}
        for n in cell.sizes:
            self.names(n, n.name)
        for n, wide in self.wide.items():
            self.names(wide, f"{self.name(n)}p")

    # ------------------------------------------------------------------ counts

    def of(self, v: Vector) -> Expr:
        """The units of ``v``."""
        return self.cell.size(v)

    def rounded(self, n: int) -> Expr:
        """``n``, padded to whole vectors."""
        return sympy.Integer(-(-n // self.pad) * self.pad)

    def padded(self, n: Expr) -> Expr:
        """A number of units, padded to whole vectors."""
        return self._padded(n, [n])

    def room_of(self, v: Vector) -> Expr:
        """The numbers that a vector takes in memory of our own."""
        return self.padded(self.of(v))

    def room(self, blocks: Sequence[Vector]) -> Expr:
        """The numbers that blocks take which touch. The last one is written by whole vectors."""
        sizes = [self.of(v) for v in blocks]
        if len(sizes) == 1:
            return self.padded(sizes[0])
        count = sum(sizes[:-1], self.padded(sizes[-1]))
        return self._padded(count, sizes)

    def _padded(self, count: Expr, sizes: Sequence[Expr]) -> Expr:
        """A count, padded; it is called by the ``sizes`` of which it is the sum."""
        if count.is_number:
            return self.rounded(int(count))
        if count not in self.wide:
            wish = ""
            for n, k in Counter(map(str, sizes)).items():
                plain = n.replace("**", "").replace("*", "x").replace(" + ", "_")
                wish += f"{'n' if plain[0].isdigit() else ''}{plain}{k if k > 1 else ''}"
            self.wide[count] = wide = Size(f"padded {count}")
            self.names(wide, f"{wish}p")
        return self.wide[count]

    # ------------------------------------------------------------------ how they are written

    def name(self, n: Expr) -> str:
        """A size, or a number, by its name."""
        return str(n) if n in (T, B) or n.is_number else self.names(n, n.name)

    def text(self, e: Expr) -> str:
        """A count as a C expression of type size_t."""
        return " + ".join(" * ".join(map(self.name, m)) for m in monomials(e))

    def checked(self, e: Expr) -> Expression:
        """A count in arithmetic that does not wrap around."""
        terms: list[list[Expression]] = []
        for m in monomials(e):
            some = 2 if m[0].is_number else 1  # blocks of a row, which has fewer than 4096
            terms.append([Count(sympy.Mul(*m[:some])), *map(Count, m[some:])])
        return reduce(plus, [reduce(times, term) for term in terms])

    # ------------------------------------------------------------------ their values

    @property
    def every(self) -> tuple[Size, ...]:
        return (*self.cell.sizes, *self.wide.values())

    def value(self, n: Size) -> int | None:
        """A size of the cell, or one that is padded, if it is fixed."""
        count = next((count for count, wide in self.wide.items() if wide == n), None)
        if count is None:
            return self.fixed.get(n.name)
        parts = {s: self.value(s) for s in count.atoms(Size)}
        return None if None in parts.values() else int(self.rounded(int(count.subs(parts))))

    def used(self, nodes: Iterable[Node]) -> list[Size]:
        """The sizes that a tree mentions, T and B aside."""
        used = sizes_in(nodes)
        return [n for n in self.every if n in used]

    def declared(self, nodes: Iterable[Node], given: Sequence[Size] = ()) -> list[Declare]:
        """The declarations of all sizes that trees mention, but for those that are given."""
        used = sizes_in(nodes)
        made = [self._declare(n, Member(N, str(n), "size"))
                for n in (T, B) if n in used and n not in given]  # fmt: skip
        values: dict[Expr, Expression] = {n: Member(N, n.name, "size") for n in self.cell.sizes}
        for count, wide in self.wide.items():
            values[wide] = Call("padded", (self._spelled(count, used, values),), "size")
        for n in self.every:
            if n in used:
                value = self.value(n)
                made.append(self._declare(n, values[n] if value is None else Count(Integer(value))))
        return made

    def fixed_in(self, nodes: Iterable[Node]) -> list[Declare]:
        """The declarations of the sizes that trees mention and that are constants."""
        values = {n: self.value(n) for n in self.used(nodes)}
        return [self._declare(n, Count(Integer(v))) for n, v in values.items() if v is not None]

    def _declare(self, n: Size, value: Expression) -> Declare:
        return Declare(COUNT, Variable(self.name(n), "size"), value)

    def _spelled(
        self, count: Expr, used: set[Size], values: Mapping[Expr, Expression]
    ) -> Expression:
        """A count in sizes that are used; others are replaced by what they are made of."""
        terms = [
            product(*(Count(f) if f in used else values.get(f, Count(f)) for f in m))
            for m in monomials(count)
        ]
        return Sum(tuple(terms), "+" * len(terms)) if len(terms) > 1 else terms[0]


def times(a: Expression, b: Expression) -> Expression:
    """A product of counts that stays at SIZE_MAX instead of wrapping around."""
    return Call("size_times", (a, b), "size")


def plus(a: Expression, b: Expression) -> Expression:
    """Such a sum."""
    return Call("size_plus", (a, b), "size")


@lru_cache(maxsize=1 << 12)
def monomials(e: Expr) -> tuple[tuple[Expr, ...], ...]:
    """A count as a sum of products, in a person's order: steps and rows first, H before D.

    A number comes first in its product; powers are written out.
    """
    products = []
    for t in sympy.Add.make_args(sympy.expand(e)):
        product: list[Expr] = []
        for f in sympy.Mul.make_args(t):
            base, exponent = f.as_base_exp()
            product += [base] * int(exponent) if base.is_Symbol else [f]
        products.append(tuple(sorted(product, key=_place)))
    order = sorted(products, key=lambda p: (-sum(f.is_Symbol for f in p), [_place(f) for f in p]))
    return tuple(order)


def _place(f: Expr) -> tuple[int, str]:
    first = (T, K, B, Size("H"))
    return (first.index(f) if f in first else len(first) if f.is_Symbol else -1), str(f)
