"""What a plan is made of: operations, buffers, passes, and their exact costs.

Nothing here knows a language; a target prints the operations in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import sympy
from sympy import Eq, Expr, Function

from .cell import Cell
from .derivation import Derivation
from .symbols import Matrix, Size, Total, Vector

T, B, K = Size("T"), Size("B"), Size("K")  # steps, rows of the batch, steps in a tile
ZERO = sympy.S.Zero
BEFORE, STEP, AFTER = "before", "step", "after"


@dataclass(frozen=True)
class Multiply:
    """A stacked product. Either one operand and a matrix for each out, or, for a sum of products,
    one out and a matrix for each operand. ``accumulate`` adds to what the outs already hold.
    """

    outs: tuple[Vector, ...]
    matrices: tuple[Matrix, ...]
    operands: tuple[Vector, ...]
    biases: tuple[Vector | None, ...]
    accumulate: bool

    @property
    def reads(self) -> tuple[Vector, ...]:
        biases = tuple(b for b in self.biases if b is not None)
        return self.operands + biases + (self.outs if self.accumulate else ())

    @property
    def writes(self) -> tuple[Vector, ...]:
        return self.outs


@dataclass(frozen=True)
class Fill:
    """Start sums with a bias, or with nothing, before products are added to them."""

    outs: tuple[Vector, ...]
    biases: tuple[Vector | None, ...]

    @property
    def reads(self) -> tuple[Vector, ...]:
        return tuple(b for b in self.biases if b is not None)

    @property
    def writes(self) -> tuple[Vector, ...]:
        return self.outs


@dataclass(frozen=True)
class Loop:
    """Equations that one loop over units can compute; of size 1, plain statements.

    A reduction's value is known only when its loop has ended. ``backwards`` runs from the last
    unit to the first, as a reversed running sum needs.
    """

    size: Expr
    equations: tuple[Eq, ...]
    backwards: bool = False


@dataclass(frozen=True)
class Fused:
    """Elementwise work and reductions between two products, row by row."""

    loops: tuple[Loop, ...]

    @property
    def equations(self) -> tuple[Eq, ...]:
        return tuple(e for loop in self.loops for e in loop.equations)

    @property
    def reads(self) -> tuple[Vector, ...]:
        own = {e.lhs for e in self.equations}
        return tuple(v for v in atoms(self.equations) if v not in own)

    @property
    def writes(self) -> tuple[Vector, ...]:
        return tuple(e.lhs for e in self.equations)


@dataclass(frozen=True)
class Outers:
    """Gradients of matrices over all rows at once: parameter k gains Σ left_k rightᵀ."""

    parameters: tuple[Matrix, ...]
    lefts: tuple[Vector, ...]
    right: Vector

    @property
    def reads(self) -> tuple[Vector, ...]:
        return (*self.lefts, self.right)

    @property
    def writes(self) -> tuple[Vector, ...]:
        return ()


@dataclass(frozen=True)
class Sums:
    """Gradients of learned vectors over all rows at once: each gains the Σ of its expression."""

    parameters: tuple[Vector, ...]
    terms: tuple[Expr, ...]

    @property
    def reads(self) -> tuple[Vector, ...]:
        return tuple(v for v in vectors_in(self.terms))

    @property
    def writes(self) -> tuple[Vector, ...]:
        return ()


Operation = Multiply | Fill | Fused | Outers | Sums


@dataclass(frozen=True)
class Buffer:
    """Blocks that lie side by side in memory, one row after the other.

    scope: "tape" (every step, kept for the backward pass), "tile" (the steps that are worked on
    together), "step" (one step), "state", "carry", or "given" (the caller's own array).
    """

    name: str
    blocks: tuple[Vector, ...]
    scope: str


@dataclass(frozen=True)
class Pass:
    """One direction: forward in time, or backward."""

    before: tuple[Operation, ...]
    step: tuple[Operation, ...]
    after: tuple[Operation, ...]

    @property
    def operations(self) -> tuple[Operation, ...]:
        return self.before + self.step + self.after


@dataclass(frozen=True)
class Plan:
    """What to run and where to keep it. ``print(plan)`` shows it, with its exact costs."""

    derivation: Derivation
    forward: Pass
    backward: Pass
    buffers: tuple[Buffer, ...]
    eager: bool
    dtype: str
    origin: dict[Vector, Eq] = field(compare=False)  # the whole equation of a sum that was cut up

    @property
    def cell(self) -> Cell:
        return self.derivation.cell

    def size(self, v: Vector) -> Expr:
        return self.cell.size(v)

    @cached_property
    def home(self) -> dict[Vector, Buffer]:
        """The buffer of every value that has one; what has none lives in a register."""
        return {v: buffer for buffer in self.buffers for v in buffer.blocks}

    def offset(self, v: Vector) -> Expr:
        """Where ``v`` begins in a row of its buffer."""
        blocks = self.home[v].blocks
        return sum((self.size(u) for u in blocks[: blocks.index(v)]), ZERO)

    def width(self, buffer: Buffer) -> Expr:
        """The numbers in a row of ``buffer``."""
        return sum((self.size(v) for v in buffer.blocks), ZERO)

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
        rows = {"tape": T * B, "state": (T + 1) * B}
        kept = [b for b in self.buffers if b.scope in rows]
        return sympy.expand(sum((rows[b.scope] * self.width(b) for b in kept), ZERO))

    @cached_property
    def workspace(self) -> Expr:
        """Numbers of scratch space, for tiles of K steps (K = T if all are done at once)."""
        rows = {"tile": K * B, "step": B, "carry": 2 * B}
        kept = [b for b in self.buffers if b.scope in rows]
        return sympy.expand(sum((rows[b.scope] * self.width(b) for b in kept), ZERO))

    def flops_of(self, part: Pass) -> Expr:
        """The arithmetic of one pass over T steps of B rows."""
        total = sum((self._flops(op) for op in part.operations), ZERO)
        return sympy.expand(T * B * total)

    def bytes_of(self, part: Pass) -> Expr:
        """The traffic of one pass over T steps of B rows."""
        total = ZERO
        for op in part.before + part.after:
            total += T * B * self._traffic(op) + self._weights(op)
        for op in part.step:
            total += T * (B * self._traffic(op) + self._weights(op))
        return sympy.expand(total * {"float32": 4, "float64": 8}[self.dtype])

    def _flops(self, op: Operation) -> Expr:
        """Per row."""
        if isinstance(op, Multiply):
            return sum((2 * area(self.cell, m) for m in op.matrices), ZERO)
        if isinstance(op, Fused):
            return sum(
                (loop.size * count_arithmetic(e.rhs) for loop in op.loops for e in loop.equations),
                ZERO,
            )
        if isinstance(op, Outers):
            return sum((2 * area(self.cell, m) for m in op.parameters), ZERO)
        if isinstance(op, Sums):
            return sum((self.cell.shapes.of(t) * (count_arithmetic(t) + 1) for t in op.terms), ZERO)
        return ZERO

    def _traffic(self, op: Operation) -> Expr:
        """Numbers read and written per row."""
        arrays = ("input", "mask", "cotangent", "state", "carry")
        stored = [v for v in (*op.reads, *op.writes) if v in self.home or v.category in arrays]
        return sum((self.size(v) for v in stored), ZERO)

    def _weights(self, op: Operation) -> Expr:
        """Numbers of parameters read, or of gradients written, whatever the number of rows."""
        if isinstance(op, Multiply):
            return sum((area(self.cell, m) for m in op.matrices), ZERO)
        if isinstance(op, Outers):
            return sum((area(self.cell, m) for m in op.parameters), ZERO)
        read = [v for v in op.reads if v.category == "parameter"]
        if isinstance(op, Sums):
            read += op.parameters
        return sum((self.size(v) for v in read), ZERO)

    def __str__(self) -> str:
        from .description import describe

        return describe(self)


# --------------------------------------------------------------------------- small helpers


def atoms(equations: Iterable[Eq]) -> list[Vector]:
    """What the right-hand sides read, in a fixed order."""
    return vectors_in(e.rhs for e in equations)


def vectors_in(exprs: Iterable[Expr]) -> list[Vector]:
    """The vectors of all expressions, in a fixed order."""
    found = {v for e in exprs for v in e.atoms(Vector)}
    return sorted(found, key=lambda v: (v.name, v.category, v.time))


def area(cell: Cell, m: Matrix) -> Expr:
    """The number of entries of a matrix."""
    rows, columns = cell.shape(m)
    return rows * columns


def count_arithmetic(e: Expr) -> int:
    """Arithmetic operations of an elementwise expression, per unit."""
    visual = 0
    for node in sympy.preorder_traversal(e):
        if isinstance(node, (sympy.Add, sympy.Mul)):
            visual += len(node.args) - 1
            if isinstance(node, sympy.Mul) and node.args[0] == -1:
                visual -= 1  # a subtraction, counted with its sum
        elif isinstance(node, sympy.Pow):
            exponent = node.exp
            small = exponent.is_Integer and abs(int(exponent)) <= 4
            visual += abs(int(exponent)) - 1 if small and exponent > 0 else 1
        elif isinstance(node, Function) and not isinstance(node, Total):
            visual += 1
    return visual
