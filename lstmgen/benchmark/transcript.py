"""A cell's equations as a person would write them with PyTorch or JAX.

A comparison is worth as much as its weaker side, and so this writes what someone who knows the
library writes by hand, and not a product an equation: what does not depend on the recurrence is
done before the loop and for all steps at once; the matrices that act on one vector are kept as one,
and so are their biases and gains; what follows the products in the same way (a normalisation, a
gain, a sum, an activation) is done for all of them at once; values that are needed twice are
computed once; and PyTorch's own ``layer_norm`` is used where the equations spell one out.

For the LSTM and PyTorch:

    def step(U_ifog_T, x_ifog_t, h, c):
        a, a_2 = torch.split(torch.addmm(x_ifog_t, h, U_ifog_T), [192, 64], dim=-1)
        i, f, o = torch.chunk(torch.sigmoid(a), 3, dim=-1)
        g = torch.tanh(a_2)
        c_next = c * f + g * i
        h_next = o * torch.tanh(c_next)
        return h_next, c_next
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Eq, Expr, Function

from ..derivation.normalform import Namer
from ..errors import LstmgenError
from ..language.cell import Cell
from ..language.functions import rsqrt
from ..language.matrices import Matrix
from ..language.symbols import Product, Vector, mean, named
from ..verification.evaluation import number
from .dialects import Dialect, Parts, Printer

Array = NDArray[Any]


@dataclass(frozen=True)
class Argument:
    """An argument of ``sequence``, and what it is made of: several parameters, one after another,
    or one value.

    kind: "matrix", "transposed" (a matrix kept as (columns, rows)), "vector", "constant", "input",
    "mask" or "state".
    """

    name: str
    parts: tuple[str, ...]
    kind: str
    widths: tuple[int, ...] = ()

    def join(self, values: Mapping[str, Any]) -> Array:
        """The argument's array, from its parts by name."""
        arrays = [np.asarray(values[part]) for part in self.parts]
        if self.kind == "transposed":
            return np.concatenate([a.T for a in arrays], axis=1)
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]

    def split(self, array: Array) -> dict[str, Array]:
        """The parts by name, from an array of the argument's shape: ``join`` undone."""
        if self.kind not in ("matrix", "transposed", "vector"):
            return {self.parts[0]: array}
        rows = array.T if self.kind == "transposed" else array
        return dict(zip(self.parts, np.split(rows, np.cumsum(self.widths)[:-1]), strict=True))


@dataclass(frozen=True)
class Transcript:
    """Python text that defines ``sequence(*arguments) -> (y, *final states)``.

    With PyTorch it defines ``step`` as well, which ``sequence`` calls.
    """

    source: str
    arguments: tuple[Argument, ...]
    states: tuple[str, ...]


def transcribe(cell: Cell, sizes: Mapping[str, int], dialect: Dialect) -> Transcript:
    """Write ``cell`` for given sizes (T and B among them) in a library's language.

    Raises LstmgenError if a quantity of the cell has several axes, or the cell several outputs or
    parameters that are not learned.
    """
    several = [v for v in (*cell.vectors, *cell.parameters) if len(cell.shape(v)) > _axes(v)]
    unlearned = [p for p in cell.parameters if not p.learned]
    why, only = "", ""
    if len(cell.outputs) > 1:
        why, only = f"it has the outputs {_listed(v.name for v in cell.outputs)}", "with one output"
    elif unlearned:
        why, only = f"{unlearned[0]} is not learned", "that learn all parameters"
    elif several:
        shape = _listed(map(str, cell.shape(several[0])))
        why, only = f"{several[0]} has the shape ({shape})", "whose quantities are vectors"
    if why:
        raise LstmgenError(
            f"{cell.name} cannot be written for {dialect.name} yet: {why}\n"
            f"  hint: only cells {only} can be timed --against a library"
        )
    return _Transcriber(cell, sizes, dialect).run()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _axes(v: Vector | Matrix) -> int:
    return 2 if isinstance(v, Matrix) else 1


# --------------------------------------------------------------------------- the equations


class Normalised(Function):
    """(x - mean x) / sqrt(var x + eps): what libraries have a function for."""

    nargs = 2
    is_real = True


def _as_normalised(e: Expr) -> Expr | None:
    """A product that holds a layer normalisation's two factors, with one ``Normalised`` instead."""
    for scale in e.args:
        if not (isinstance(scale, named) and isinstance(scale.args[0], rsqrt)):
            continue
        inside = scale.args[0].args[0]
        eps = sum((a for a in sympy.Add.make_args(inside) if a.is_number), sympy.S.Zero)
        for centred in e.args:
            if not (isinstance(centred, named) and _is(inside - eps, mean(centred**2))):
                continue
            for average in centred.args[0].atoms(mean):
                x = average.args[0]
                if centred.args[0] == x - average:
                    rest = [a for a in e.args if a not in (scale, centred)]
                    return sympy.Mul(*rest, Normalised(x, eps))
    return None


def _is(e: Expr, wanted: Expr) -> bool:
    return bool((e.args[0] if isinstance(e, named) else e) == wanted)


class _Equations:
    """A cell's equations, cut into what runs once for all steps, and what runs in each.

    ``level`` says what a value depends on: 0 on parameters only, 1 on inputs too, 2 on states.
    """

    def __init__(self, cell: Cell, namer: Namer) -> None:
        self.cell, self.namer = cell, namer
        self.levels: dict[Vector, int] = {}
        self.before: list[Eq] = []
        self.step: list[Eq] = []
        self._known: dict[Expr, Vector] = {}
        for equation in cell.equations:
            self._place(equation.lhs, self._plain(equation.rhs))

    def level(self, e: Expr) -> int:
        return max((self._level(v) for v in e.atoms(Vector)), default=0)

    def _level(self, v: Vector) -> int:
        if v.category in ("parameter", "constant"):
            return 0
        if v.category in ("input", "mask"):
            return 1
        return 2 if v.category == "state" and v.time == -1 else self.levels[v]

    def _place(self, lhs: Vector, rhs: Expr) -> None:
        level = self.level(rhs)
        # what leaves a step is there for every step and row, whatever it depends on
        leaves = lhs.category == "state" or lhs == self.cell.output
        self.levels[lhs] = max(level, 1) if leaves else level
        if level < 2:
            self.before.append(Eq(lhs, rhs, evaluate=False))
        else:
            self.step.append(Eq(lhs, self._lift(rhs, lhs.name), evaluate=False))

    def _plain(self, e: Expr) -> Expr:
        """``e`` with normalisations recognised, and with a name for what is ``named``."""
        if e.is_Atom:
            return e
        if isinstance(e, sympy.Mul) and (found := _as_normalised(e)) is not None:
            return self._plain(found)
        if isinstance(e, named):
            inner = self._plain(e.args[0])
            return inner if isinstance(inner, (Product, sympy.Atom)) else self._name(inner, "v")
        if isinstance(e, Product):
            return Product(e.matrix, self._plain(e.operand))
        return e.func(*map(self._plain, e.args))

    def _lift(self, e: Expr, hint: str) -> Expr:
        """``e`` with names for the largest parts that do not depend on the recurrence."""
        if e.is_Atom:
            return e
        if self.level(e) < 2:
            return e if e.is_number else self._name(e, f"x_{hint}")
        if isinstance(e, Product):
            return Product(e.matrix, self._lift(e.operand, hint))
        args = list(e.args)
        if isinstance(e, (sympy.Add, sympy.Mul)):
            early = [a for a in args if self.level(a) < 2]
            if len(early) > 1 and any(self.level(a) == 1 for a in early):
                args = [a for a in args if a not in early] + [e.func(*early)]
        return e.func(*(self._lift(a, hint) for a in args))

    def _name(self, e: Expr, name: str) -> Vector:
        if e not in self._known:
            v = Vector(self.namer(name), "vector", str(self.cell.shapes.of(e)))
            self._known[e] = v
            self._place(v, e)
        return self._known[e]


# --------------------------------------------------------------------------- stacked products


@dataclass(frozen=True)
class _Member:
    """One product and what follows it in the way it follows the others of its group.

    ``top`` is the expression that is known then; but for ``rest``, where ``top`` is a sum: what is
    still to be added.
    """

    product: Product
    width: int
    eps: Expr | None
    gain: Vector | None
    partner: Vector | None  # what is added: a bias, or what was computed before the loop
    early: bool  # the partner is the latter
    function: type | None
    top: Expr
    rest: tuple[Expr, ...]

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
class _Stack:
    """All products with one vector, in groups that are treated alike."""

    operand: Expr
    groups: tuple[tuple[_Member, ...], ...]

    @cached_property
    def members(self) -> tuple[_Member, ...]:
        return tuple(m for group in self.groups for m in group)


class _Region:
    """The equations before the loop or in it, and their stacks.

    ``rank`` is the order in which the loop wants what is made before it.
    """

    def __init__(
        self, equations: Sequence[Eq], run: _Transcriber, rank: Mapping[Expr, int] | None
    ) -> None:
        self.equations, self.run, self.in_loop = equations, run, rank is None
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

    def _stacks(self, rank: Mapping[Expr, int]) -> list[_Stack]:
        found: dict[Any, list[_Member]] = {}
        for equation in self.equations:
            for node in sympy.postorder_traversal(equation.rhs):
                if isinstance(node, Product):
                    alone = node.matrix.transposed or self.run.uses[node.matrix.base] > 1
                    members = found.setdefault((node.operand, node if alone else None), [])
                    if all(node != member.product for member in members):
                        members.append(self._member(node))
        return [_Stack(key[0], _grouped(members, rank)) for key, members in found.items()]

    def _member(self, product: Product) -> _Member:
        node: Expr = product
        width = self.run.number(self.run.cell.shapes.of(product))
        eps = gain = partner = function = None
        early, rest = False, ()
        parent = self._parent(node)
        if isinstance(parent, Normalised):
            eps, node = parent.args[1], parent
            parent = self._parent(node)
        if isinstance(parent, sympy.Mul) and len(parent.args) == 2:
            (other,) = (a for a in parent.args if a != node)
            if self._is_own(other, width):
                gain, node = other, parent
                parent = self._parent(node)
        if isinstance(parent, sympy.Add):
            others = [a for a in parent.args if a != node]
            ready = [a for a in others if self._is_early(a, width)]
            partners = ready or [a for a in others if self._is_own(a, width)]
            if partners and parent not in self.claimed:
                self.claimed.add(parent)
                partner, early, node = partners[0], bool(ready), parent
                rest = tuple(a for a in others if a != partner)
                parent = self._parent(node)
        if not rest and isinstance(parent, Function) and self.run.dialect.has(parent):
            function, node = type(parent), parent
        return _Member(product, width, eps, gain, partner, early, function, node, rest)

    def _parent(self, node: Expr) -> Expr | None:
        """What ``node`` is part of, if that is one thing only."""
        return self.parents[node][0] if self.uses[node] == 1 and node in self.parents else None

    def _is_own(self, e: Expr, width: int) -> bool:
        """Whether ``e`` is a learned vector that nothing else uses: it can live in a stack."""
        learned = isinstance(e, Vector) and e.category == "parameter"
        return learned and self.run.uses[e] == 1 and self.run.size(e) == width

    def _is_early(self, e: Expr, width: int) -> bool:
        """Whether ``e`` is there for all steps before the loop begins."""
        ready = self.in_loop and isinstance(e, Vector) and self.run.equations.level(e) == 1
        return ready and self.run.size(e) == width


def _grouped(
    members: Sequence[_Member], rank: Mapping[Expr, int]
) -> tuple[tuple[_Member, ...], ...]:
    """Members by kind, and in the order in which the loop wants what they become."""

    def place(m: _Member) -> int:
        return rank.get(m.top, len(rank))

    first: dict[Any, int] = {}
    for k, m in enumerate(sorted(members, key=place)):
        first.setdefault(m.kind, k)
    ordered = sorted(members, key=lambda m: (first[m.kind], place(m)))
    return tuple(tuple(group) for _, group in groupby(ordered, key=lambda m: m.kind))


# --------------------------------------------------------------------------- text


class _Transcriber:
    def __init__(self, cell: Cell, sizes: Mapping[str, int], dialect: Dialect) -> None:
        self.cell, self.dialect = cell, dialect
        self.sizes = {name: int(n) for name, n in sizes.items()}
        taken = {s.name for e in cell.equations for s in e.free_symbols}
        self.namer = Namer({*taken, *dialect.reserved})
        self.equations = _Equations(cell, self.namer)
        self.uses: Counter[Expr] = Counter()
        for e in (*self.equations.before, *self.equations.step):
            for node in sympy.preorder_traversal(e.rhs):
                if isinstance(node, Matrix):
                    self.uses[node.base] += 1
                elif isinstance(node, Vector):
                    self.uses[node] += 1
        self.arguments: dict[tuple[str, ...], Argument] = {}
        self.prepared: dict[str, str] = {}  # made from parameters alone: name and value
        self.wanted: dict[tuple[Vector, ...], tuple[str, str]] = {}  # names for all steps, for one
        self.closed: dict[str, None] = {}  # what the loop reads that is the same at each step
        self._new: dict[Vector, str] = {}

    def number(self, size: Expr) -> int:
        return number(size, self.sizes)

    def size(self, v: Vector) -> int:
        return self.number(self.cell.size(v))

    def name(self, v: Vector) -> str:
        """What ``v`` is called where it is computed."""
        if v.category != "state":
            return str(v.name)
        if v not in self._new:
            self._new[v] = self.namer(f"{v.name}_next")
        return self._new[v]

    def early(self, vectors: Sequence[Any]) -> str:
        """What was made before the loop, side by side, as it is at this step."""
        key = tuple(vectors)
        if key not in self.wanted:
            whole = self.name(key[0]) if len(key) == 1 else self.namer(_joined(v.name for v in key))
            self.wanted[key] = (whole, self.namer(f"{whole}_t"))
        return self.wanted[key][1]

    def run(self) -> Transcript:
        loop = _Region(self.equations.step, self, None)
        made = {e.lhs: e.rhs for e in self.equations.before}
        rank: dict[Expr, int] = {}
        for m in (m for stack in loop.stacks for m in stack.members):
            if m.early and m.partner in made:
                rank.setdefault(made[m.partner], len(rank))
        inner = _Body(loop, self)
        inner.write()
        # a state or an output may not depend on the recurrence at all
        new = [self._leaving(s.at(0)) for s in self.cell.states]
        y = self._leaving(self.cell.output)
        outer = _Body(_Region(self.equations.before, self, rank), self)
        outer.write()
        outer.gather()
        for p in self.cell.parameters:  # learned vectors that are in no stack
            if not any(p.name in a.parts for a in self.arguments.values()):
                self.argument([p.name], "vector", [self.number(self.cell.shape(p)[0])])
        given = {"constant": self.cell.constants, "input": self.cell.inputs,
                 "mask": self.cell.masks, "state": self.cell.states}  # fmt: skip
        arguments = (
            *self.arguments.values(),
            *(Argument(v.name, (v.name,), kind) for kind, vs in given.items() for v in vs),
        )
        prepared = [f"{name} = {value}" for name, value in self.prepared.items()]
        states = tuple(s.name for s in self.cell.states)
        source = self.dialect.assembled(
            Parts(
                [a.name for a in arguments], prepared + outer.lines, list(self.closed),
                list(self.wanted.values()), list(states), inner.lines, new, y,
            )
        )  # fmt: skip
        return Transcript(source, arguments, states)

    def _leaving(self, v: Vector) -> str:
        return self.name(v) if self.equations.levels[v] == 2 else self.early([v])

    def argument(self, parts: Sequence[str], kind: str, widths: Sequence[int]) -> str:
        key = tuple(parts)
        if key not in self.arguments:
            name = parts[0] if len(parts) == 1 else self.namer(_joined(parts))
            self.arguments[key] = Argument(name, key, kind, tuple(widths))
        return self.arguments[key].name


class _Body:
    """The lines before the loop or in it; the printer asks it for names."""

    def __init__(self, region: _Region, run: _Transcriber) -> None:
        self.region, self.run, self.in_loop = region, run, region.in_loop
        self.dialect = run.dialect
        self.printer = Printer(self.dialect, self)
        self.lines: list[str] = []
        self._known: dict[Expr, str] = {}
        self._sums: dict[Expr, tuple[str, tuple[Expr, ...]]] = {}
        self._done: list[_Stack] = []

    def write(self) -> None:
        for equation in self.region.equations:
            for node in sympy.postorder_traversal(equation.rhs):
                if isinstance(node, Product):
                    self._multiply(self.region.stack_of[node])
            name = self.run.name(equation.lhs)
            found = self._known.get(equation.rhs)
            size, equations = self.run.size(equation.lhs), self.run.equations
            is_number = self.run.number(self.run.cell.shapes.of(equation.rhs)) != size
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
        for vectors, (name, _) in self.run.wanted.items():
            if len(vectors) > 1 and name not in defined:
                self._line(name, self.dialect.concatenated([self.run.name(v) for v in vectors]))

    def _line(self, names: str, value: str) -> None:
        self.lines.append(f"{names} = {value}")

    def _is_part_of_a_stack(self, v: Vector) -> bool:
        """Whether ``v``, made before the loop, is only wanted beside others."""
        wanted = self.run.wanted
        beside = any(v in vectors for vectors in wanted if len(vectors) > 1)
        return not self.in_loop and beside and (v,) not in wanted and self.run.uses[v] == 1

    # ------------------------------------------------------------------ products

    def _multiply(self, stack: _Stack) -> None:
        if stack in self._done:
            return
        self._done.append(stack)
        members = stack.members
        operand = self.atom(stack.operand, "u")
        plain = all(m.eps is None and m.gain is None for m in members)
        added, kind = "", None
        if plain and all(m.early for m in members):
            added, kind = self.run.early([m.partner for m in members]), True
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

    def _pieces(self, stack: _Stack, value: str) -> list[str]:
        """The stack's value, cut into its groups."""
        if len(stack.groups) == 1:
            return [value]
        names = [self.run.namer("a") for _ in stack.groups]
        widths = [sum(m.width for m in group) for group in stack.groups]
        self._line(", ".join(names), self.dialect.split(value, widths))
        return names

    def _stem(self, group: Sequence[_Member], value: str, added: bool | None) -> str:
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
            more = self.run.early(partners) if first.early else self._vector(partners)
            value = f"{value} + {more}"
        return value

    def _name_members(self, group: Sequence[_Member], value: str) -> None:
        """Cut a group into its members; before the loop, only as far as the loop wants it cut."""
        names, widths = [], []
        for segment in self._segments(group):
            made = tuple(self.region.roots.get(m.top) for m in segment)
            if len(segment) > 1:
                name = self.run.wanted[made][0]  # type: ignore[index]
            elif made[0] is not None and not segment[0].rest:
                name = self.run.name(made[0])
            else:
                name = self.run.namer(f"a_{segment[0].product.matrix.name.rpartition('_')[2]}")
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

    def _segments(self, group: Sequence[_Member]) -> list[tuple[_Member, ...]]:
        if self.in_loop:
            return [(m,) for m in group]
        made = [None if m.rest else self.region.roots.get(m.top) for m in group]
        segments: list[tuple[_Member, ...]] = []
        k = 0
        while k < len(group):
            fits = [
                len(vectors)
                for vectors in self.run.wanted
                if tuple(made[k : k + len(vectors)]) == vectors
                and all(self.run.uses[v] == 1 for v in vectors)
            ]
            segments.append(tuple(group[k : k + max(fits, default=1)]))
            k += len(segments[-1])
        return segments

    # ------------------------------------------------------------------ parameters

    def _weights(self, members: Sequence[_Member], transposed: bool) -> str:
        matrices = [m.product.matrix.base for m in members]
        widths = [self.run.number(self.run.cell.shape(m)[0]) for m in matrices]
        kind = "transposed" if self.dialect.transposed else "matrix"
        name = self.run.argument([m.name for m in matrices], kind, widths)
        if self.in_loop and not transposed:
            name = self._prepared(f"{name}_T", self.dialect.turned(name))
        return self._closed(name)

    def _vector(self, vectors: Sequence[Any]) -> str:
        widths = [self.run.size(v) for v in vectors]
        return self._closed(self.run.argument([v.name for v in vectors], "vector", widths))

    def _biases(self, members: Sequence[_Member]) -> str:
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
        self.run.closed.pop(name, None)
        return self._closed(self._prepared(f"{name}_padded", self.dialect.concatenated(parts)))

    def _prepared(self, name: str, value: str) -> str:
        """A name for what is made from parameters, once; it is the same for the same value."""
        for known, text in self.run.prepared.items():
            if text == value:
                return known
        if value.isidentifier():
            return value
        name = self.run.namer(name)
        self.run.prepared[name] = value
        return name

    def _closed(self, name: str) -> str:
        if self.in_loop:
            self.run.closed.setdefault(name)
        return name

    def _lead(self) -> tuple[int, ...]:
        rows = self.run.sizes["B"]
        return (rows,) if self.in_loop else (self.run.sizes["T"], rows)

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
            name = self.run.namer(hint)
            self._line(name, text)
            text = self._known[e] = name
        return text

    def is_repeated(self, e: Expr) -> bool:
        return self.region.uses[e] > 1

    def keep(self, e: Expr, text: str) -> str:
        """Give what is needed again a name."""
        name = self._known[e] = self.run.namer(e.func.__name__.strip("_"))
        self._line(name, text)
        return name

    def vector(self, v: Vector) -> str:
        """What ``v`` is called here."""
        if v.category in ("parameter", "constant"):
            return self._closed(str(v.name))
        level = self.run.equations.level(v)
        if self.in_loop and level == 1:
            return self.run.early([v])
        if v.category == "state" and v.time == -1:
            return str(v.name)
        return self._closed(self.run.name(v)) if level == 0 else self.run.name(v)

    def normalised(self, text: str, e: Normalised) -> str:
        width = self.run.number(self.run.cell.shapes.of(e.args[0]))
        return self.dialect.normalised(text, self._lead(), 1, width, e.args[1])


def _joined(names: Iterable[str]) -> str:
    """``U_ifgo`` for U_i U_f U_g U_o."""
    parts = [name.partition("_") for name in names]
    family = parts[0][0]
    joined = "".join(tail for _, _, tail in parts)
    alike = all(head == family and tail for head, _, tail in parts)
    return f"{family}_{joined}" if alike and len(joined) <= 12 else f"{family}_all"
