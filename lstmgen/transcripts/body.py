"""The lines of a transcript, before the loop over steps or in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import sympy
from sympy import Expr, Integer

from ..language.matrices import Matrix
from ..language.symbols import Concat, Contract, Part, Product, Vector
from .dialects import Extents
from .expressions import Printer, spelled
from .hoisting import Normalised
from .scope import Scope
from .stacks import Member, Region, Stack

_NAME = re.compile(r"[^\W\d]\w*")


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
                elif isinstance(node, Part):
                    self._split(node)
            name = self.scope.name(equation.lhs)
            found = self._known.get(equation.rhs)
            shape, equations = self.shape(equation.lhs), self.scope.equations
            is_narrow = self.printer.extent(equation.rhs) != shape
            is_lower = equations.level(equation.rhs) < equations.levels[equation.lhs]
            if found is None or is_narrow:
                value = found or self.printer.doprint(equation.rhs)
                if is_lower or is_narrow:
                    lead = self.lead(equation.lhs)
                    value = self.printer.widened(value, equation.rhs, [*lead, *shape])
                self._line(name, value)
                self._known[equation.rhs] = name
            elif found != name and not self._is_part_of_a_stack(equation.lhs):
                self._line(name, found)

    def count(self) -> None:
        """Put the numbers of steps and rows before everything, as far as lines say them."""
        said = {word for line in self.lines for word in _NAME.findall(line)}
        if said.isdisjoint(self.scope.counts):
            return
        counts = self.scope.counts[1:] if self.in_loop else self.scope.counts
        axes = "shape[0]" if self.in_loop else "shape[:2]"
        self.lines.insert(0, f"{', '.join(counts)} = {self.some_array()}.{axes}")

    def gather(self) -> None:
        """Put side by side what the loop wants so, and no product has brought together."""
        defined = {n for line in self.lines for n in line.split(" = ")[0].split(", ")}
        for vectors, (name, _) in self.scope.wanted.items():
            if len(vectors) > 1 and name not in defined:
                self._line(name, self.dialect.concatenated([self._flat(v) for v in vectors]))

    def _line(self, names: str, value: str) -> None:
        self.lines.append(f"{names} = {value}")

    def _is_part_of_a_stack(self, v: Vector) -> bool:
        """Whether ``v``, made before the loop, is only wanted beside others."""
        wanted = self.scope.wanted
        beside = any(v in vectors for vectors in wanted if len(vectors) > 1)
        return not self.in_loop and beside and (v,) not in wanted and self.scope.uses[v] == 1

    def _flat(self, v: Vector) -> str:
        """``v`` with all its axes as one."""
        name, several = self.scope.name(v), len(self.shape(v)) > 1
        shape = [*self.lead(v), self.scope.size(v)]
        return self.dialect.reshaped(name, shape) if several else name

    def _split(self, part: Part) -> None:
        """All parts of one quantity at once."""
        found = {p for e in self.region.equations for p in e.rhs.atoms(Part)}
        found = {p for p in found if (p.operand, p.sizes) == (part.operand, part.sizes)}
        if part in self._known or len(found) == 1:
            return
        operand, names = self.printer.whole(part.operand), ["_"] * len(part.sizes)
        equations = self.scope.equations
        for p in sorted(found, key=lambda p: p.number):
            lhs = self.region.roots.get(p)
            if lhs is not None and equations.levels[lhs] == equations.level(p):
                name = self.scope.name(lhs)
            else:
                name = self.scope.namer(f"part_{p.number + 1}")
            names[p.number] = self._known[p] = name
        widths = [self.scope.number(n) for n in part.sizes]
        self._line(", ".join(names), self.dialect.split(operand, widths))

    # ------------------------------------------------------------------ products

    def _multiply(self, stack: Stack) -> None:
        if stack in self._done:
            return
        self._done.append(stack)
        members = stack.members
        operand = self._atom(stack.operand, self.printer.whole(stack.operand), "u")
        plain = all(m.eps is None and m.gain is None for m in members)
        added, kind = "", None
        if plain and all(m.early for m in members):
            added, kind = self.scope.early([m.partner for m in members]), True
        elif plain and any(m.bias for m in members):
            added, kind = self._biases(stack), False
        value = self._product(stack, operand, added, kind)
        alike = len({m.stem for m in members}) == 1
        if alike:
            value = self._stem(members, value, kind)
        for group, piece in zip(stack.groups, self._pieces(stack, value), strict=True):
            done = piece if alike else self._stem(group, piece, kind)
            function = group[0].function
            if function is not None:
                done = self.dialect.apply(function.__name__, done)
            self._name_members(group, done)

    def _product(self, stack: Stack, operand: str, added: str, early: bool | None) -> str:
        """The products of a stack; ``added`` are ``early`` values or biases."""
        shape = [*self.lead(stack.members[0].product), *stack.shape]
        inside = ""
        if stack.form == "heads":
            value = self._by_heads(stack, operand, shape)
        elif stack.form == "einsum":
            value = self._einsum(stack, operand)
        else:
            weights, turned = self._weights(stack.members)
            rows, apart = stack.form == "rows", len(stack.shape) > 1
            inside = added if rows and not (early and apart) else ""  # adds what has one axis
            value = self.dialect.product(operand, weights, inside, self.in_loop, turned)
            value = self.dialect.reshaped(value, shape) if rows and apart else value
        return f"{value} + {added}" if added and not inside else value

    def _by_heads(self, stack: Stack, operand: str, shape: Extents) -> str:
        """Products with a matrix for each head, as one of batches, which are the heads."""
        product, count = stack.members[0].product, len(stack.members)
        lead, (heads, columns) = self.lead(product.operand), self.shape(product.operand)
        rows: int | str = " * ".join(map(str, lead)) or 1
        units = stack.members[0].shape[1]
        if len(lead) != 1:
            operand = self.dialect.reshaped(operand, [rows, heads, columns])
        weights = self._weights_by_heads(stack)
        value = self.dialect.batched(self.dialect.permuted(operand, [1, 0, 2]), weights)
        if count == 1:
            value = self.dialect.permuted(value, [1, 0, 2])
            return value if len(lead) == 1 else self.dialect.reshaped(value, shape)
        name = self.scope.namer("by_head")
        self._line(name, self.dialect.reshaped(value, [heads, rows, count, units]))
        return self.dialect.reshaped(self.dialect.permuted(name, [1, 2, 0, 3]), shape)

    def _einsum(self, stack: Stack, operand: str) -> str:
        product = stack.members[0].product
        matrix, heads = product.matrix, "abcdefgh"[: len(product.matrix.axes) - 2]
        axes = self.axes(product.operand)
        sizes = {**dict(zip(f"{heads}i", self.axes(product), strict=True)), "j": axes[-1]}
        entries = "ji" if matrix.transposed else "ij"
        words = [f"{heads[: len(axes) - 1]}j", f"{heads}{entries}", f"{heads}i"]
        leads = [self.lead(product.operand), (), self.lead(product)]
        weights = self._closed(self._natural(matrix.base))
        return self.dialect.einsum(spelled(words, sizes, leads), [operand, weights])

    def _pieces(self, stack: Stack, value: str) -> list[str]:
        """The stack's value, cut into its groups."""
        if len(stack.groups) == 1:
            return [value]
        names = [self.scope.namer("a") for _ in stack.groups]
        widths = [sum(m.width for m in group) for group in stack.groups]
        self._line(", ".join(names), self.dialect.split(value, widths))
        return [self._shaped(group, name) for group, name in zip(stack.groups, names, strict=True)]

    def _shaped(self, members: Sequence[Member], value: str) -> str:
        """What one member has alone, in its own shape."""
        if len(members) > 1 or len(members[0].shape) == 1:
            return value
        return self.dialect.reshaped(value, [*self.lead(members[0].product), *members[0].shape])

    def _stem(self, group: Sequence[Member], value: str, added: bool | None) -> str:
        """What all members of a group have done to them before the function; ``added`` are the
        early partners (True) or the biases (False) already.
        """
        first = group[0]
        if first.eps is not None:
            lead = self.lead(first.product)
            value = self.dialect.normalised(value, lead, len(group), first.width, first.eps)
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
        segments = self._segments(group)
        for segment in segments:
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
        if len(names) == 1:
            self._line(names[0], value)
            return
        shape, lead = group[0].shape, self.lead(group[0].product)
        if len(shape) > 1 and all(m.shape == shape for m in group) and len(names) == len(group):
            apart = self.dialect.reshaped(value, [*lead, len(names), *shape])
            self._line(", ".join(names), self.dialect.unstacked(apart, len(lead)))
            return
        self._line(", ".join(names), self.dialect.split(value, widths))
        for name, segment in zip(names, segments, strict=True):
            shaped = self._shaped(segment, name)
            if shaped != name:
                self._line(name, shaped)

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

    def _weights(self, members: Sequence[Member]) -> tuple[str, bool]:
        """The weights of members, and whether a product is with their transpose."""
        matrices = [m.product.matrix.base for m in members]
        name, transposed = matrices[0].name, members[0].product.matrix.transposed
        if name in self.scope.whole:
            name, transposed = self._natural(matrices[0]), transposed ^ self.dialect.transposed
        else:
            kind = "transposed" if self.dialect.transposed else "matrix"
            name = self.scope.argument(matrices, kind)
        if self.in_loop and not transposed:
            name = self._turned(name, self.dialect.turned(name))
        return self._closed(name), transposed

    def _weights_by_heads(self, stack: Stack) -> str:
        matrices = [m.product.matrix for m in stack.members]
        if matrices[0].name not in self.scope.whole:
            return self._closed(self.scope.argument(matrices, "heads"))
        name = self._natural(matrices[0].base)
        if matrices[0].transposed:
            return self._closed(name)
        turned = f"{name}.mT"
        return self._closed(self._turned(name, turned)) if self.in_loop else turned

    def _natural(self, matrix: Matrix) -> str:
        """A matrix that is an argument as it is, or is made of others."""
        name = str(matrix.name)
        return name if name in self.scope.derived else self.scope.argument([matrix], "whole")

    def _vector(self, vectors: Sequence[Any]) -> str:
        return self._closed(self.scope.argument(vectors, "vector" if len(vectors) > 1 else "whole"))

    def _biases(self, stack: Stack) -> str:
        """The biases of all members, with zeros where a member has none."""
        members = stack.members
        own = [m for m in members if m.bias]
        kind = "vector" if len(members) > 1 or stack.form == "rows" else "whole"
        name = self._closed(self.scope.argument([m.partner for m in own if m.partner], kind))
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
        padded = self.dialect.concatenated(parts)
        return self._closed(self._prepared(f"{name}_padded", padded, self.scope.prepared))

    def _turned(self, name: str, value: str) -> str:
        """The transpose ``value`` of a matrix; if that is made of others, after these."""
        prepared = self.scope.turned if name in self.scope.derived else self.scope.prepared
        return self._prepared(f"{name}_T", value, prepared)

    def _prepared(self, name: str, value: str, prepared: dict[str, str]) -> str:
        """A name for what is made from parameters, once; it is the same for the same value."""
        for known, text in prepared.items():
            if text == value:
                return known
        if value.isidentifier():
            return value
        name = self.scope.namer(name)
        prepared[name] = value
        return name

    def _closed(self, name: str) -> str:
        if self.in_loop:
            self.scope.closed.setdefault(name)
        return name

    # ------------------------------------------------------------------ what the printer asks

    def axes(self, e: Expr) -> tuple[Expr, ...]:
        return self.scope.cell.shapes.axes(e)

    def shape(self, e: Expr) -> tuple[int, ...]:
        """The axes of ``e``, without those of steps and rows."""
        return self.scope.shape(e)

    def lead(self, e: Expr) -> tuple[int | str, ...]:
        """The axes in front: none of what is made of parameters, rows in the loop."""
        if not self.scope.equations.level(e):
            return ()
        return self.scope.counts[1:] if self.in_loop else self.scope.counts

    def number(self, e: Expr) -> Expr:
        """``e``, made of numbers and sizes, as a number."""
        sizes = self.scope.sizes
        return e.xreplace({n: Integer(sizes[n.name]) for n in e.free_symbols})

    def some_array(self) -> str:
        """An array of the type that is computed with."""
        cell = self.scope.cell
        return str((cell.states if self.in_loop else cell.inputs)[0].name)

    def known(self, e: Expr) -> str | None:
        """The name of what is computed already."""
        return self._known.get(e)

    def begun(self, e: Expr) -> tuple[str, tuple[Expr, ...]] | None:
        """Of a sum that a product has begun: the name of that part, and the other terms."""
        return self._sums.get(e)

    def atom(self, e: Expr, hint: str) -> str:
        """``e`` as a name, which it is given if it has none."""
        return self._atom(e, self.printer.doprint(e), hint)

    def _atom(self, e: Expr, text: str, hint: str) -> str:
        if text.isidentifier():
            return text
        name = self._known[e] = self.scope.namer(hint)
        self._line(name, text)
        return name

    def is_repeated(self, e: Expr) -> bool:
        return self.region.uses[e] > 1

    def keep(self, e: Expr, text: str) -> str:
        """Give what is needed again a name."""
        hint = e.func.__name__.strip("_")
        hint = hint.lower() if isinstance(e, (Concat, Contract)) else hint
        name = self._known[e] = self.scope.namer(hint)
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
        (width,) = self.shape(e.args[0])
        return self.dialect.normalised(text, self.lead(e), 1, width, e.args[1])
