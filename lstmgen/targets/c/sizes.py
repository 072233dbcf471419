"""Sizes in C: their names, how they are written, and where their values come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce

import sympy
from sympy import Expr

from ...language import dtypes
from ...language.cell import Cell
from ...language.symbols import Size, Vector
from ...planning.operations import B, K, T
from .lines import broken
from .scopes import Scope
from .tree import Call, Count, Expression, Node, sizes_in

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
        return self.rounded(int(n)) if n.is_number else self.wide[n]

    def room_of(self, v: Vector) -> Expr:
        """The numbers that a vector takes in memory of our own."""
        return self.padded(self.of(v))

    def room(self, blocks: Sequence[Vector]) -> Expr:
        """The numbers that blocks take which touch. The last one is written by whole vectors."""
        sizes = [self.of(v) for v in blocks]
        if len(sizes) == 1:
            return self.padded(sizes[0])
        count = sum(sizes[:-1], self.padded(sizes[-1]))
        if count.is_number:
            return self.rounded(int(count))
        if count not in self.wide:
            many = Counter(map(str, sizes))
            parts = (("n" if n.isdigit() else "") + n + (str(k) if k > 1 else "")
                     for n, k in many.items())  # fmt: skip
            self.wide[count] = wide = Size(f"padded {count}")
            self.names(wide, f"{''.join(parts)}p")
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
        factors: list[list[Expression]] = [[Count(n) for n in m] for m in monomials(e)]
        return reduce(plus, [reduce(times, m) for m in factors])

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

    def declared(self, nodes: Iterable[Node], given: Sequence[Size] = ()) -> list[str]:
        """The declaration of all sizes that a tree mentions, but for those that are given."""
        used = sizes_in(nodes)
        items = [f"{n} = n->{n}" for n in (T, B) if n in used and n not in given]
        member = {n: f"n->{n.name}" for n in self.cell.sizes}
        for count, wide in self.wide.items():
            member[wide] = f"padded({self._spelled(count, used, member)})"
        occurring = [n for n in self.every if n in used]
        items += [f"{self.name(n)} = {self.value(n) or member[n]}" for n in occurring]
        return broken("const size_t ", items, ";") if items else []

    def fixed_in(self, nodes: Iterable[Node]) -> list[str]:
        """The declaration of the sizes that a tree mentions and that are constants."""
        values = {self.name(n): self.value(n) for n in self.used(nodes)}
        items = [f"{name} = {value}" for name, value in values.items() if value is not None]
        return broken("const size_t ", items, ";") if items else []

    def are_read(self, nodes: Iterable[Node]) -> bool:
        """Whether the sizes that a tree mentions come from a caller, rows and steps aside."""
        return any(self.value(n) is None for n in self.used(nodes))

    def _spelled(self, count: Expr, used: set[Size], member: dict[Size, str]) -> str:
        """A count in sizes that are used; others are replaced by what they are made of."""
        terms = [
            " * ".join(self.name(f) if f in used else member.get(f, self.name(f)) for f in m)
            for m in monomials(count)
        ]
        return " + ".join(terms)


def times(a: Expression, b: Expression) -> Expression:
    """A product of counts that stays at SIZE_MAX instead of wrapping around."""
    return Call("times", (a, b), "size")


def plus(a: Expression, b: Expression) -> Expression:
    """Such a sum."""
    return Call("plus", (a, b), "size")


def enclosed(text: str) -> str:
    """A count as a factor."""
    return f"({text})" if " + " in text else text


def monomials(e: Expr) -> list[list[Expr]]:
    """A count as a sum of products, in a person's order: steps and rows first, H before D.

    A number comes first in its product; powers are written out.
    """
    products = []
    for t in sympy.Add.make_args(sympy.expand(e)):
        product: list[Expr] = []
        for f in sympy.Mul.make_args(t):
            base, exponent = f.as_base_exp()
            product += [base] * int(exponent) if base.is_Symbol else [f]
        products.append(sorted(product, key=_place))
    return sorted(products, key=lambda p: (-sum(f.is_Symbol for f in p), [_place(f) for f in p]))


def _place(f: Expr) -> tuple[int, str]:
    first = (T, K, B, Size("H"))
    return (first.index(f) if f in first else len(first) if f.is_Symbol else -1), str(f)
