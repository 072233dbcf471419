"""Products that a transcript does as one: those with the same vector, in groups treated alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import sympy
from sympy import Eq, Expr, Function

from ..language.symbols import Product, Vector
from .hoisting import Normalised
from .scope import Scope


@dataclass(frozen=True)
class Member:
    """One product and what follows it in the way it follows the others of its group.

    ``top`` is the expression that is known then; but for ``rest``, where ``top`` is a sum: what is
    still to be added.
    """

    product: Product
    shape: tuple[int, ...]
    eps: Expr | None
    gain: Vector | None
    partner: Vector | None  # what is added: a bias, or what was computed before the loop
    early: bool  # the partner is the latter
    function: type | None
    top: Expr
    rest: tuple[Expr, ...]

    @property
    def width(self) -> int:
        return math.prod(self.shape)

    @property
    def bias(self) -> Vector | None:
        return None if self.early else self.partner

    @property
    def stem(self) -> tuple[Any, ...]:
        """What is done before the function."""
        alike = self.width if self.eps is not None else 0
        return self.eps, alike, self.gain is None, self.partner is None, self.early

    @property
    def kind(self) -> tuple[Any, ...]:
        """What members of one group have in common."""
        return (*self.stem, bool(self.rest), self.function)


@dataclass(frozen=True)
class Stack:
    """All products with one operand, in groups that are treated alike.

    form: "rows" (the operand is a vector, the result one vector, too, of all units of all members),
    "heads" (each head of the operand times its own matrix), "shared" (times the same matrix) or
    "einsum" (other axes). Of several members the units of one come after those of the other; what
    belongs to one alone has its own shape.
    """

    operand: Expr
    form: str
    groups: tuple[tuple[Member, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        apart = len(self.members) == 1
        return self.members[0].shape if apart else (sum(m.width for m in self.members),)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        return tuple(m for group in self.groups for m in group)


class Region:
    """The equations before the loop or in it, and their stacks.

    ``rank`` is the order in which the loop wants what is made before it.
    """

    def __init__(
        self, equations: Sequence[Eq], scope: Scope, rank: Mapping[Expr, int] | None
    ) -> None:
        self.equations, self.scope, self.in_loop = equations, scope, rank is None
        self.roots = {e.rhs: e.lhs for e in equations}
        self.parents: dict[Expr, list[Expr]] = {}
        for root in (e.rhs for e in equations):
            for node in sympy.preorder_traversal(root):
                for arg in node.args:
                    self.parents.setdefault(arg, []).append(node)
        self.uses = Counter({node: len(found) for node, found in self.parents.items()})
        self.uses.update(e.rhs for e in equations)
        self.claimed: set[Expr] = set()  # sums that a product has begun
        self.stacks = self._stacks(rank or {})
        self.stack_of = {m.product: s for s in self.stacks for m in s.members}

    def _stacks(self, rank: Mapping[Expr, int]) -> list[Stack]:
        found: dict[Any, list[Member]] = {}
        for equation in self.equations:
            for node in sympy.postorder_traversal(equation.rhs):
                if isinstance(node, Product):
                    members = found.setdefault((node.operand, *self._like(node)), [])
                    if all(node != member.product for member in members):
                        members.append(self._member(node))
        return [Stack(key[0], key[1], _grouped(ms, rank)) for key, ms in found.items()]

    def _like(self, product: Product) -> tuple[Any, ...]:
        """The form of a product, and what it has in common with those it is stacked with."""
        matrix, scope = product.matrix, self.scope
        axes, inner = len(matrix.axes), len(scope.shape(product.operand))
        alone = matrix.name in scope.whole
        if axes == 2:
            alone = alone or matrix.transposed or scope.uses[matrix.base] > 1
        if axes == 2 and inner > 1:
            return "shared", product
        if inner == 1 and (axes == 2 or not alone):
            return "rows", product if alone else matrix.learned
        if (inner, axes) == (2, 3):
            return "heads", product if alone else (matrix.learned, scope.shape(matrix))
        return "einsum", product

    def _member(self, product: Product) -> Member:
        node: Expr = product
        shape = self.scope.shape(product)
        eps = gain = partner = function = None
        early, rest = False, ()
        parent = self._parent(node)
        if isinstance(parent, Normalised):
            eps, node = parent.args[1], parent
            parent = self._parent(node)
        if isinstance(parent, sympy.Mul) and len(parent.args) == 2:
            (other,) = (a for a in parent.args if a != node)
            if self._is_own(other, shape):
                gain, node = other, parent
                parent = self._parent(node)
        if isinstance(parent, sympy.Add):
            others = [a for a in parent.args if a != node]
            ready = [a for a in others if self._is_early(a, shape)]
            partners = ready or [a for a in others if self._is_own(a, shape)]
            if partners and parent not in self.claimed:
                self.claimed.add(parent)
                partner, early, node = partners[0], bool(ready), parent
                rest = tuple(a for a in others if a != partner)
                parent = self._parent(node)
        if not rest and isinstance(parent, Function) and self.scope.dialect.has(parent):
            function, node = type(parent), parent
        return Member(product, shape, eps, gain, partner, early, function, node, rest)

    def _parent(self, node: Expr) -> Expr | None:
        """What ``node`` is part of, if that is one thing only."""
        return self.parents[node][0] if self.uses[node] == 1 and node in self.parents else None

    def _is_own(self, e: Expr, shape: tuple[int, ...]) -> bool:
        """Whether ``e`` is a learned vector that nothing else uses: it can live in a stack."""
        learned = isinstance(e, Vector) and e.category == "parameter" and e.learned
        return learned and self.scope.uses[e] == 1 and self.scope.shape(e) == shape

    def _is_early(self, e: Expr, shape: tuple[int, ...]) -> bool:
        """Whether ``e`` is there for all steps before the loop begins."""
        ready = self.in_loop and isinstance(e, Vector) and self.scope.equations.level(e) == 1
        return ready and self.scope.shape(e) == shape


def _grouped(members: Sequence[Member], rank: Mapping[Expr, int]) -> tuple[tuple[Member, ...], ...]:
    """Members by kind, and in the order in which the loop wants what they become."""

    def place(m: Member) -> int:
        return rank.get(m.top, len(rank))

    first: dict[Any, int] = {}
    for k, m in enumerate(sorted(members, key=place)):
        first.setdefault(m.kind, k)
    ordered = sorted(members, key=lambda m: (first[m.kind], place(m)))
    return tuple(tuple(group) for _, group in groupby(ordered, key=lambda m: m.kind))
