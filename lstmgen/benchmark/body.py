"""The lines of a transcript, before the loop over steps or in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import sympy
from sympy import Expr

from ..language.symbols import Product, Vector
from .dialects import Printer
from .hoisting import Normalised
from .scope import Scope
from .stacks import Member, Region, Stack


class Body:
    """The lines before the loop or in it; the printer asks it for names."""

    def __init__(self, region: Region, scope: Scope) -> None:
        self.region, self.scope, self.in_loop = region, scope, region.in_loop
        self.dialect = scope.dialect
        self.printer = Printer(self.dialect, self)
        self.lines: list[str] = []
        self._known: dict[Expr, str] = {}
        self._sums: dict[Expr, tuple[str, tuple[Expr, ...]]] = {}
        self._done: list[Stack] = []

    def write(self) -> None:
        for equation in self.region.equations:
            for node in sympy.postorder_traversal(equation.rhs):
                if isinstance(node, Product):
                    self._multiply(self.region.stack_of[node])
            name = self.scope.name(equation.lhs)
            found = self._known.get(equation.rhs)
            size, equations = self.scope.size(equation.lhs), self.scope.equations
            is_number = self.scope.number(self.scope.cell.shapes.of(equation.rhs)) != size
            is_lower = equations.level(equation.rhs) < equations.levels[equation.lhs]
            if found is None or is_number:
                value = found or self.printer.doprint(equation.rhs)
                if is_lower or is_number:
                    lead = self._lead() if equations.levels[equation.lhs] else ()
                    value = self.dialect.widened(value, [*lead, size])
                self._line(name, value)
                self._known[equation.rhs] = name
            elif found != name and not self._is_part_of_a_stack(equation.lhs):
                self._line(name, found)

    def gather(self) -> None:
        """Put side by side what the loop wants so, and no product has brought together."""
        defined = {n for line in self.lines for n in line.split(" = ")[0].split(", ")}
        for vectors, (name, _) in self.scope.wanted.items():
            if len(vectors) > 1 and name not in defined:
                self._line(name, self.dialect.concatenated([self.scope.name(v) for v in vectors]))

    def _line(self, names: str, value: str) -> None:
        self.lines.append(f"{names} = {value}")

    def _is_part_of_a_stack(self, v: Vector) -> bool:
        """Whether ``v``, made before the loop, is only wanted beside others."""
        wanted = self.scope.wanted
        beside = any(v in vectors for vectors in wanted if len(vectors) > 1)
        return not self.in_loop and beside and (v,) not in wanted and self.scope.uses[v] == 1

    # ------------------------------------------------------------------ products

    def _multiply(self, stack: Stack) -> None:
        if stack in self._done:
            return
        self._done.append(stack)
        members = stack.members
        operand = self.atom(stack.operand, "u")
        plain = all(m.eps is None and m.gain is None for m in members)
        added, kind = "", None
        if plain and all(m.early for m in members):
            added, kind = self.scope.early([m.partner for m in members]), True
        elif plain and any(m.bias for m in members):
            added, kind = self._biases(members), False
        transposed = members[0].product.matrix.transposed
        weights = self._weights(members, transposed)
        value = self.dialect.product(operand, weights, added, self.in_loop, transposed)
        alike = len({m.stem for m in members}) == 1
        if alike:
            value = self._stem(members, value, kind)
        for group, piece in zip(stack.groups, self._pieces(stack, value), strict=True):
            done = piece if alike else self._stem(group, piece, kind)
            function = group[0].function
            if function is not None:
                done = self.dialect.apply(function.__name__, done)
            self._name_members(group, done)

    def _pieces(self, stack: Stack, value: str) -> list[str]:
        """The stack's value, cut into its groups."""
        if len(stack.groups) == 1:
            return [value]
        names = [self.scope.namer("a") for _ in stack.groups]
        widths = [sum(m.width for m in group) for group in stack.groups]
        self._line(", ".join(names), self.dialect.split(value, widths))
        return names

    def _stem(self, group: Sequence[Member], value: str, added: bool | None) -> str:
        """What all members of a group have done to them before the function; ``added`` are the
        early partners (True) or the biases (False) already.
        """
        first = group[0]
        if first.eps is not None:
            value = self.dialect.normalised(value, self._lead(), len(group), first.width, first.eps)
        if first.gain is not None:
            value = f"{value} * {self._vector([m.gain for m in group])}"
        if first.partner is not None and first.early != added:
            partners = [m.partner for m in group]
            more = self.scope.early(partners) if first.early else self._vector(partners)
            value = f"{value} + {more}"
        return value

    def _name_members(self, group: Sequence[Member], value: str) -> None:
        """Cut a group into its members; before the loop, only as far as the loop wants it cut."""
        names, widths = [], []
        for segment in self._segments(group):
            made = tuple(self.region.roots.get(m.top) for m in segment)
            if len(segment) > 1:
                name = self.scope.wanted[made][0]  # type: ignore[index]
            elif made[0] is not None and not segment[0].rest:
                name = self.scope.name(made[0])
            else:
                name = self.scope.namer(f"a_{segment[0].product.matrix.name.rpartition('_')[2]}")
            for m in segment:
                if m.rest:
                    self._sums[m.top] = (name, m.rest)
                else:
                    self._known[m.top] = name
            names.append(name)
            widths.append(sum(m.width for m in segment))
        if len(names) > 1:
            value = self.dialect.split(value, widths)
        self._line(", ".join(names), value)

    def _segments(self, group: Sequence[Member]) -> list[tuple[Member, ...]]:
        if self.in_loop:
            return [(m,) for m in group]
        made = [None if m.rest else self.region.roots.get(m.top) for m in group]
        segments: list[tuple[Member, ...]] = []
        k = 0
        while k < len(group):
            fits = [
                len(vectors)
                for vectors in self.scope.wanted
                if tuple(made[k : k + len(vectors)]) == vectors
                and all(self.scope.uses[v] == 1 for v in vectors)
            ]
            segments.append(tuple(group[k : k + max(fits, default=1)]))
            k += len(segments[-1])
        return segments

    # ------------------------------------------------------------------ parameters

    def _weights(self, members: Sequence[Member], transposed: bool) -> str:
        matrices = [m.product.matrix.base for m in members]
        widths = [self.scope.number(self.scope.cell.shape(m)[0]) for m in matrices]
        kind = "transposed" if self.dialect.transposed else "matrix"
        name = self.scope.argument([m.name for m in matrices], kind, widths)
        if self.in_loop and not transposed:
            name = self._prepared(f"{name}_T", self.dialect.turned(name))
        return self._closed(name)

    def _vector(self, vectors: Sequence[Any]) -> str:
        widths = [self.scope.size(v) for v in vectors]
        return self._closed(self.scope.argument([v.name for v in vectors], "vector", widths))

    def _biases(self, members: Sequence[Member]) -> str:
        """The biases of all members, with zeros where a member has none."""
        own = [m for m in members if m.bias]
        name = self._vector([m.bias for m in own])
        if len(own) == len(members):
            return name
        parts, start = [], 0
        for has, run in groupby(members, key=lambda m: m.bias is not None):
            width = sum(m.width for m in run)
            whole = has and width == sum(m.width for m in own)
            part = name if whole else f"{name}[{start}:{start + width}]"
            parts.append(part if has else self.dialect.zeros(name, width))
            start += width if has else 0
        self.scope.closed.pop(name, None)
        return self._closed(self._prepared(f"{name}_padded", self.dialect.concatenated(parts)))

    def _prepared(self, name: str, value: str) -> str:
        """A name for what is made from parameters, once; it is the same for the same value."""
        for known, text in self.scope.prepared.items():
            if text == value:
                return known
        if value.isidentifier():
            return value
        name = self.scope.namer(name)
        self.scope.prepared[name] = value
        return name

    def _closed(self, name: str) -> str:
        if self.in_loop:
            self.scope.closed.setdefault(name)
        return name

    def _lead(self) -> tuple[int, ...]:
        rows = self.scope.sizes["B"]
        return (rows,) if self.in_loop else (self.scope.sizes["T"], rows)

    # ------------------------------------------------------------------ what the printer asks

    def known(self, e: Expr) -> str | None:
        """The name of what is computed already."""
        return self._known.get(e)

    def begun(self, e: Expr) -> tuple[str, tuple[Expr, ...]] | None:
        """Of a sum that a product has begun: the name of that part, and the other terms."""
        return self._sums.get(e)

    def atom(self, e: Expr, hint: str) -> str:
        """``e`` as a name, which it is given if it has none."""
        text: str = self.printer.doprint(e)
        if not text.isidentifier():
            name = self.scope.namer(hint)
            self._line(name, text)
            text = self._known[e] = name
        return text

    def is_repeated(self, e: Expr) -> bool:
        return self.region.uses[e] > 1

    def keep(self, e: Expr, text: str) -> str:
        """Give what is needed again a name."""
        name = self._known[e] = self.scope.namer(e.func.__name__.strip("_"))
        self._line(name, text)
        return name

    def vector(self, v: Vector) -> str:
        """What ``v`` is called here."""
        if v.category in ("parameter", "constant"):
            return self._closed(str(v.name))
        level = self.scope.equations.level(v)
        if self.in_loop and level == 1:
            return self.scope.early([v])
        if v.category == "state" and v.time == -1:
            return str(v.name)
        return self._closed(self.scope.name(v)) if level == 0 else self.scope.name(v)

    def normalised(self, text: str, e: Normalised) -> str:
        width = self.scope.number(self.scope.cell.shapes.of(e.args[0]))
        return self.dialect.normalised(text, self._lead(), 1, width, e.args[1])
