"""The influence of a parameter on what a step computes, ∂v/∂θ, as an array with named axes.

It has an axis for each of v and one for each of θ, but where unit i of v depends only on the
entries of θ with index i, one axis stands for both: of W in f = σ(W x) the influence on f is as
large as W, not H times as large. So the cost of learning online follows from the equations: with
a diagonal state Jacobian influences stay as small as the parameters, otherwise they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, Integer, Tuple

from ..errors import CellError
from ..language.shapes import SCALAR, Shape
from ..language.symbols import (
    Concat,
    Contract,
    Expand,
    Part,
    Product,
    Reshape,
    Transpose,
)
from .linear import (
    Broadcast,
    Chain,
    Contraction,
    LinearMap,
    Multiplied,
    Placed,
    Rearranged,
    RunningSum,
    Scale,
    Sum,
    Taken,
    summed,
)


@dataclass(frozen=True)
class Influence:
    """∂v/∂θ of one quantity and one parameter.

    Attributes
    ----------
    value : Expr
        Of the shape ``axes``; a number is alike everywhere.
    of : tuple
        The shape of θ, () of a single number.
    shape : tuple
        The shape of v.
    shared : dict as a tuple of pairs
        The axes of θ that are one with an axis of v: (axis of θ, axis of v).
    """

    value: Expr
    of: Shape
    shape: Shape
    shared: tuple[tuple[int, int], ...]

    @property
    def free(self) -> tuple[int, ...]:
        """The axes of θ that are axes of their own: they come first."""
        taken = {k for k, _ in self.shared}
        return tuple(k for k in range(len(self.of)) if k not in taken)

    @property
    def lead(self) -> Shape:
        return tuple(self.of[k] for k in self.free)

    @property
    def axes(self) -> Shape:
        """The shape of ``value``: what is one number has no axis beside those of θ."""
        if self.shape == SCALAR:
            return self.lead or SCALAR
        return (*self.lead, *self.shape)

    @property
    def wide(self) -> Expr:
        """``value`` with all axes written out."""
        if self.value.is_number and self.axes != SCALAR:
            return Expand(self.value, Tuple(*self.axes), Tuple())
        return self.value

    def at(self, axis: int) -> int | None:
        """The axis of θ that is one with an axis of v."""
        return next((k for k, place in self.shared if place == axis), None)

    # ------------------------------------------------------------------ axes apart

    def apart(self, axes: Iterable[int], identity: Callable[[Expr], Expr]) -> Influence:
        """The same with these axes of v and of θ apart: times the identity matrix of that size."""
        made = self
        for axis in axes:
            k = made.at(axis)
            if k is not None:
                made = made._one_apart(k, axis, identity)
        return made

    def _one_apart(self, k: int, axis: int, identity: Callable[[Expr], Expr]) -> Influence:
        after = replace(self, shared=tuple(pair for pair in self.shared if pair[0] != k))
        place, count = after.free.index(k), len(after.axes)
        full = Tuple(*after.axes)
        others = tuple(n for n in range(count) if n != place)
        unit = Expand(identity(self.of[k]), full, Tuple(place, len(after.free) + axis))
        if self.value.is_number:
            return replace(after, value=self.value * unit)
        return replace(after, value=expand(self.value, after.axes, others) * unit)

    # ------------------------------------------------------------------ along linear maps

    def through(self, chain: Chain, identity: Callable[[Expr], Expr], axes_of: AxesOf) -> Influence:
        """The influence on what a chain of linear maps makes of v."""
        made = self
        for link in chain.links:
            made = made._through(link, identity, axes_of)
        return made

    def _through(
        self, link: LinearMap, identity: Callable[[Expr], Expr], axes_of: AxesOf
    ) -> Influence:
        if isinstance(link, Scale):
            return self._scaled(link.factor, axes_of)
        if isinstance(link, Broadcast):
            return self._broadcast(link)
        if isinstance(link, (Sum, RunningSum)) and self.shape == SCALAR:
            return self  # of one number
        if isinstance(link, Sum):
            return self._summed(link.axis, identity)
        made = self._opened()._rearranged(link, identity, axes_of)
        if made.shape == SCALAR and made.lead:  # its axis of one unit goes
            axes = (*made.lead, *SCALAR)
            return replace(made, value=summed(made.value, axes, range(len(made.lead))))
        return made

    def _opened(self) -> Influence:
        """With an axis of one unit, where a single number has none beside those of θ."""
        if self.shape != SCALAR or not self.lead:
            return self
        places = tuple(range(len(self.lead)))
        return replace(self, value=expand(self.wide, (*self.lead, *SCALAR), places))

    def _rearranged(
        self, link: LinearMap, identity: Callable[[Expr], Expr], axes_of: AxesOf
    ) -> Influence:
        if isinstance(link, Contraction):
            return self._contracted(link, axes_of(link.other))
        last = len(self.shape) - 1
        if isinstance(link, Rearranged) and isinstance(link.view, Transpose):
            swap = {last: last - 1, last - 1: last}
            shared = tuple((k, swap.get(place, place)) for k, place in self.shared)
            shape = (*self.shape[:-2], self.shape[-1], self.shape[-2])
            return replace(self, value=Transpose(self.wide), shape=shape, shared=shared)
        if isinstance(link, Rearranged):
            made = self.apart(range(last + 1), identity)
            shape = tuple(link.view.args[1])
            whole = Reshape(made.wide, Tuple(*made.lead, *shape))
            return replace(made, value=whole, shape=shape)
        if isinstance(link, RunningSum):
            axis = int(link.axis[0]) % (last + 1) if link.axis else 0
            made = self.apart([axis], identity)
            return replace(made, value=link.scan(made.wide, Integer(len(made.lead) + axis)))
        made = self.apart([last], identity)
        if isinstance(link, Taken):
            shape = (*self.shape[:-1], link.part.sizes[link.part.number])
            return replace(made, value=Part(made.wide, *link.part.args[1:]), shape=shape)
        if isinstance(link, Placed):
            parts = [
                Expand(sympy.S.Zero, Tuple(*made.lead, *shape), Tuple()) for shape in link.shapes
            ]
            parts[link.number] = made.wide
            size = sum((s[-1] for s in link.shapes), sympy.S.Zero)
            return replace(made, value=Concat(*parts), shape=(*self.shape[:-1], size))
        assert isinstance(link, Multiplied), link
        *heads, rows, _ = axes_of(link.matrix)
        if link.matrix.merged or (heads and made.lead):
            raise CellError(
                f"the influence through {link.matrix} cannot be written: each of its heads would "
                "be multiplied by a matrix of its own for every entry of a parameter",
                hint="learn with backpropagation through time",
            )
        value: Expr = Product(link.matrix, made.wide)
        return replace(made, value=value, shape=(*self.shape[:-1], rows))

    def _scaled(self, factor: Expr, axes_of: AxesOf) -> Influence:
        shape = axes_of(factor)
        if shape == SCALAR or not self.lead:
            return replace(self, value=self.value * factor)
        places = range(len(self.lead), len(self.axes))
        return replace(self, value=self.value * expand(factor, self.axes, tuple(places)))

    def _broadcast(self, link: Broadcast) -> Influence:
        shared = tuple((k, link.places[place]) for k, place in self.shared)
        made = replace(self, shape=link.shape, shared=shared)
        if self.value.is_number or (not link.places and not self.lead):
            return made  # a single number is alike everywhere as it is
        front = len(self.lead)
        places = (*range(front), *(front + place for place in link.places))
        return replace(made, value=expand(self.value, made.axes, places))

    def _summed(self, axis: int, identity: Callable[[Expr], Expr]) -> Influence:
        shape = tuple(n for k, n in enumerate(self.shape) if k != axis) or SCALAR
        k = self.at(axis)
        if k is not None:
            after = tuple(pair for pair in self.shared if pair[0] != k)
            later = tuple((j, place - (place > axis)) for j, place in after)
            made = replace(self, shape=shape, shared=later)
            if axis == 0 and made.free == (*self.free, k):
                return replace(made, value=self.wide)  # of each unit's own entries one is left
            return self.apart([axis], identity)._summed(axis, identity)
        shared = tuple((j, place - (place > axis)) for j, place in self.shared)
        whole = Sum(self.axes, len(self.lead) + axis)
        return replace(self, value=whole.apply(self.wide), shape=shape, shared=shared)

    def _contracted(self, link: Contraction, others: Shape) -> Influence:
        used = {*link.mine, *link.others, *link.out}
        fresh = [c for c in "abcdefghijklmnopqrstuvwxyz" if c not in used]
        own = {k: fresh[n] for n, k in enumerate(self.free)}
        mine = "".join(own[k] for k in self.free) + link.mine
        letters = {**own, **{k: link.mine[place] for k, place in self.shared}}
        shared = tuple(
            (k, link.out.index(link.mine[place]))
            for k, place in self.shared
            if link.mine[place] in link.out
        )
        sizes = dict(zip(link.mine, self.shape, strict=True))
        sizes |= dict(zip(link.others, others, strict=True))
        made = replace(self, shape=tuple(sizes[c] for c in link.out) or SCALAR, shared=shared)
        out = "".join(letters[k] for k in made.free) + link.out
        return replace(made, value=Contract(self.wide, link.other, f"{mine},{link.others}->{out}"))


def expand(e: Expr, shape: Shape, places: tuple[int, ...]) -> Expr:
    """``e`` along all axes of ``shape``; what is expanded already, in one go."""
    if isinstance(e, Expand) and not e.operand.is_number:
        e, places = e.operand, tuple(places[k] for k in e.places)
    return Expand(e, Tuple(*shape), Tuple(*places))


AxesOf = Callable[[Expr], Shape]


def together(found: list[Influence], identity: Callable[[Expr], Expr]) -> Influence:
    """The sum of influences of one parameter on one quantity."""
    common = set(found[0].shared).intersection(*(set(i.shared) for i in found[1:]))
    alike = [
        i.apart([place for pair in i.shared if pair not in common for place in pair[1:]], identity)
        for i in found
    ]
    return replace(alike[0], value=sympy.Add(*(i.wide for i in alike)))
