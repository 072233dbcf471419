"""The plan of a cell: its two passes, where values live, and exact costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import sympy
from sympy import Eq, Expr

from ..derivation.jacobian import state_jacobian
from ..derivation.reverse import Derivation, adjoint
from ..language.cell import Cell
from ..language.dtypes import DType
from ..language.matrices import Matrix
from ..language.shapes import units
from ..language.symbols import OF_PARAMETERS, Vector
from ..printing.jacobian import recurrences
from ..printing.orders import Order
from . import allocation, description
from .allocation import Allocation
from .assignment import Assignment
from .lanes import Group
from .operations import (
    ZERO,
    B,
    Buffer,
    Fused,
    Multiply,
    Operation,
    Outers,
    Pass,
    Sums,
    T,
    area,
    count_arithmetic,
    heads,
    is_large,
    is_loop,
)
from .options import Options


@dataclass(frozen=True)
class Plan:
    """What to run and where to keep it. ``print(plan)`` shows it, with its exact costs."""

    derivation: Derivation
    forward: Pass
    backward: Pass
    buffers: tuple[Buffer, ...]
    options: Options
    dtype: DType
    origin: dict[Vector, Eq] = field(compare=False)  # the whole equation of a sum that was cut up
    # what is made of parameters alone, before the first step, and its adjoints, after the last
    fixed: tuple[Fused, ...] = ()
    fixed_adjoints: tuple[Fused, ...] = ()
    # what is written where another value is, and what is computed together (Options)
    in_place: Mapping[Vector, Vector] = field(default_factory=dict)
    lanes: Mapping[Operation, tuple[Group, ...]] = field(default_factory=dict, compare=False)

    @property
    def cell(self) -> Cell:
        return self.derivation.cell

    def size(self, v: Vector) -> Expr:
        return self.cell.size(v)

    @cached_property
    def home(self) -> dict[Vector, Buffer]:
        """The buffer of every value that is a block of one. What is in none, only its loop reads:
        it is a register, or an array that ``assignment`` knows.
        """
        return self.assignment.homes

    @cached_property
    def assignment(self) -> Assignment:
        """Which memory each value has."""
        return Assignment(self.cell, self.buffers, self.in_place)

    def is_shifted(self, v: Vector) -> bool:
        """Whether ``v`` is a carry of which all steps are there, made outside the loop: δs⁺ is then
        δs⁺[t-1], read one step later.
        """
        left = v.at(-1) if v.category == "carry" else v
        return left in self.home and self.home[left].scope == "carries"

    @cached_property
    def held(self) -> frozenset[Vector]:
        """The large states of which a loop of forward has all readers: but for backward, nobody
        needs more of them than what comes into a step and what leaves it.
        """
        touched: dict[str, set[int]] = {s.name: set() for s in self.cell.states}
        for n, section in enumerate(self.forward.sections):
            for v in {v for op in section for v in (*op.reads, *op.writes)}:
                if v.category == "state":
                    touched[v.name].add(n)
        put_out = {v.name for v in self.cell.outputs}
        return frozenset(
            s for s in self.cell.states
            if is_large(s, self.cell) and s.name not in put_out
            and len(touched[s.name]) == 1 and all(map(is_loop, touched[s.name]))
        )  # fmt: skip

    def width(self, buffer: Buffer) -> Expr:
        """The numbers in a row of ``buffer``."""
        return self.assignment.width(buffer.blocks)

    # ------------------------------------------------------------------ once for a sequence

    @cached_property
    def made(self) -> dict[str, Vector]:
        """What is made of parameters alone, by name."""
        return {v.name: v for op in self.fixed for v in op.writes}

    @cached_property
    def gains(self) -> dict[Matrix | Vector, Vector]:
        """What the gradients of parameters gain through what is made of them: an adjoint each."""
        written = {v for op in self.fixed_adjoints for v in op.writes}
        brought = {p: adjoint(self.cell.shapes.quantity(p)) for p in self.cell.learned}
        return {p: v for p, v in brought.items() if v in written}

    # ------------------------------------------------------------------ costs

    @cached_property
    def flops(self) -> Expr:
        """Arithmetic of forward and backward: an addition, a product, a function value is one."""
        return sympy.expand(self.flops_of(self.forward) + self.flops_of(self.backward))

    @cached_property
    def bytes(self) -> Expr:
        """Bytes that forward and backward move, if each operation reads what it needs from memory
        once and writes its results once.
        """
        return sympy.expand(self.bytes_of(self.forward) + self.bytes_of(self.backward))

    @cached_property
    def tape(self) -> Expr:
        """Numbers kept from forward for backward."""
        return _numbers(allocation.tape(self.assignment))

    @cached_property
    def workspace(self) -> Expr:
        """Numbers of memory that the values of both passes take beside the tape, for tiles of some
        steps. The passes do not need theirs at the same time.
        """
        return sympy.expand(self.workspace_of(self.forward) + self.workspace_of(self.backward))

    def workspace_of(self, part: Pass) -> Expr:
        """Numbers of memory that the values of one pass take beside the tape."""
        return _numbers(self.allocations(part))

    def allocations(self, part: Pass) -> tuple[Allocation, ...]:
        """The memory of one pass, each piece with the time in which it is used."""
        found = allocation.workspace(self.assignment, part, arrays=self.options.arrays)
        return found + (allocation.carried(self.assignment, part) if part is self.backward else ())

    def flops_of(self, part: Pass) -> Expr:
        """The arithmetic of one pass over T steps of B rows."""
        total = sum((self.flops_of_row(op) for op in part.operations), ZERO)
        once = sum((self.flops_of_row(op) for op in self._once(part)), ZERO)
        return sympy.expand(T * B * total + once)

    def bytes_of(self, part: Pass) -> Expr:
        """The traffic of one pass over T steps of B rows."""
        total = ZERO
        for op in part.at_once:
            total += T * B * self._traffic(op) + self._weights(op) * self.dtype.bytes
        for op in part.in_loops:
            total += T * (B * self._traffic(op) + self._weights(op) * self.dtype.bytes)
        for fused in self._once(part):
            total += sum(map(self.size, (*fused.reads, *fused.writes)), ZERO) * self.dtype.bytes
        return sympy.expand(total)

    def _once(self, part: Pass) -> tuple[Fused, ...]:
        """What a pass does for a whole sequence, whatever the numbers of steps and rows."""
        return self.fixed if part is self.forward else self.fixed_adjoints

    def flops_of_row(self, op: Operation) -> Expr:
        """The arithmetic of an operation for one row of one step."""
        if isinstance(op, (Multiply, Outers)):
            return sum((2 * area(self.cell, m) * n for m, n in self._products(op)), ZERO)
        if isinstance(op, Fused):
            return sum(
                (loop.size * count_arithmetic(e.rhs) for loop in op.loops for e in loop.equations),
                ZERO,
            )
        if isinstance(op, Sums):
            return sum((self.cell.shapes.of(t) * (count_arithmetic(t) + 1) for t in op.terms), ZERO)
        return ZERO

    def _products(self, op: Multiply | Outers) -> list[tuple[Matrix, Expr]]:
        """Each matrix, and how often its entries are used for a row: once, or once a head."""
        rights = op.operands if isinstance(op, Multiply) else (op.right,)
        pairs = zip(op.matrices, rights * len(op.matrices), strict=False)
        used = []
        for m, v in pairs:
            alike = len(self.cell.shape(m)) == 2
            used.append((m, units(heads(self.cell, m, v)) if alike else ZERO + 1))
        return used

    def _traffic(self, op: Operation) -> Expr:
        """Bytes read and written per row."""
        arrays = ("input", "mask", "cotangent", "state", "carry")
        total = ZERO
        for v in (*op.reads, *op.writes):
            if v in self.home:
                total += self.size(v) * self.home[v].dtype.bytes
            elif v.category in arrays:  # of the caller's
                total += self.size(v) * self.dtype.bytes
        return total

    def _weights(self, op: Operation) -> Expr:
        """Numbers of parameters read, or of gradients written, whatever the number of rows."""
        if isinstance(op, (Multiply, Outers)):
            return sum((area(self.cell, m) for m in op.matrices), ZERO)
        read = [v for v in op.reads if v.category in OF_PARAMETERS]
        if isinstance(op, Sums):
            read += op.parameters
        return sum((self.size(v) for v in read), ZERO)

    def __str__(self) -> str:
        order = Order(self.cell, self.derivation.forward)
        passes = [(part, self._once(part)) for part in (self.forward, self.backward)]
        structure = recurrences(state_jacobian(self.cell))
        return description.describe(passes, order, self.assignment, structure, self.totals())

    def totals(self) -> list[tuple[str, str]]:
        """The costs in words: what they are of, and how much."""
        poly = description.polynomial
        weights = [area(self.cell, p) for p in self.cell.parameters if isinstance(p, Matrix)]
        tiles = "" if self.options.hoist else ", tile: the steps of one"
        return [
            ("forward", f"{poly(self.flops_of(self.forward))} flop"),
            ("backward", f"{poly(self.flops_of(self.backward))} flop"),
            ("moved", f"{poly(self.bytes_of(self.forward))} bytes forward,"),
            ("", f"{poly(self.bytes_of(self.backward))} bytes backward ({self.dtype.name})"),
            ("tape", f"{poly(self.tape)} numbers{self._kept_as()}"),
            ("workspace", f"{poly(self.workspace_of(self.forward))} numbers forward,"),
            ("", f"{poly(self.workspace_of(self.backward))} numbers backward{tiles}"),
            ("weights", f"{poly(sum(weights, ZERO))} numbers in matrices"),
        ]

    def _kept_as(self) -> str:
        """What the tape is stored in, if that is not the type of all else."""
        tape = self.dtype.tape
        return f", those that are no states in {tape.name}" if tape else ""


def _numbers(pieces: Iterable[Allocation]) -> Expr:
    return sympy.expand(sum((piece.numbers for piece in pieces), ZERO))
