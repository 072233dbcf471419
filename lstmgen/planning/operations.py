"""What a plan is made of: operations, buffers, passes.

Nothing here knows a language; a target prints the operations in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sympy
from sympy import Eq, Expr, Function

from ..language.cell import Cell
from ..language.dtypes import DType
from ..language.matrices import Matrix
from ..language.shapes import Shape, units
from ..language.sizes import Size
from ..language.symbols import Concat, Contract, Reduction, Total, Vector, View


class _Steps(Size):
    """The number of steps in a tile, which no size of a cell's equals, whatever its name."""


T, B, K = Size("T"), Size("B"), _Steps("tile")  # steps, rows of the batch, steps in a tile
ZERO = sympy.S.Zero


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
    """Equations that one loop over units can compute; of shape (1,), plain statements.

    Over several axes it is a nest, the last axis innermost. The value of a reduction or of a
    contraction is known only when its loop has ended. ``backwards`` runs from the last unit to the
    first, as a reversed running sum needs.
    """

    shape: Shape
    equations: tuple[Eq, ...]
    backwards: bool = False

    @property
    def size(self) -> Expr:
        """How many units it runs over."""
        return units(self.shape)


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
    def matrices(self) -> tuple[Matrix, ...]:
        return self.parameters

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
    def pairs(self) -> tuple[tuple[Vector, Expr], ...]:
        """Each parameter, and what it gains from a row."""
        return tuple(zip(self.parameters, self.terms, strict=True))

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
    together), "step" (one step), "state", "carry" (what a step hands on to the next one), "carries"
    (that of all steps of a tile, and what comes into it), or "given" (the caller's own array).
    dtype: a tape's may have fewer bits than are computed with. Passes then copy a tile of it.
    apart: blocks lie one after another, each with all rows of the batch, not side by side in rows.
    """

    name: str
    blocks: tuple[Vector, ...]
    scope: str
    dtype: DType
    apart: bool = False

    @property
    def is_copied(self) -> bool:
        """Whether a pass has the values of a tile in another place than the tape."""
        return self.scope == "tape" and self.dtype.is_narrow


Section = tuple[Operation, ...]


@dataclass(frozen=True)
class Pass:
    """One direction: forward in time, or backward.

    Every other section is a loop over the steps of a tile, beginning with the second; the others
    do their operations for all steps of the tile at once.
    """

    sections: tuple[Section, ...]

    @property
    def operations(self) -> Section:
        """All of them, in the order in which they run."""
        return tuple(op for section in self.sections for op in section)

    @property
    def in_loops(self) -> Section:
        """What is done at every step."""
        return tuple(op for section in self.sections[1::2] for op in section)

    @property
    def at_once(self) -> Section:
        """What is done for all steps at once."""
        return tuple(op for section in self.sections[::2] for op in section)

    def section_of(self, v: Vector) -> int:
        """The number of the section that writes ``v``."""
        sections = enumerate(self.sections)
        return next(n for n, section in sections if any(v in op.writes for op in section))

    def title(self, number: int) -> str:
        """Where a section stands that is no loop: "before loop 2", or "after the loops"."""
        last = len(self.sections) - 1
        if last == 2:
            return "before the loop" if number == 0 else "after the loop"
        return "after the loops" if number == last else f"before loop {number // 2 + 1}"


def is_loop(section: int) -> bool:
    """Whether a section, by its number, is a loop over steps."""
    return section % 2 == 1


def after_loop(section: int) -> int:
    """The section after a loop; another one is that itself."""
    return section + 1 if is_loop(section) else section


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
    return units(cell.shape(m))


def flat_shape(cell: Cell, m: Matrix) -> tuple[Expr, Expr]:
    """The rows and columns of a matrix, those of all heads one after the other."""
    *front, columns = cell.shape(m)
    return units(tuple(front)), columns


def heads(cell: Cell, m: Matrix, operand: Vector) -> Shape:
    """The axes of the heads over which a product with a matrix is repeated; () of a plain one.

    Each head has its own matrix if ``m`` has those axes, too; else all have the same.
    """
    return cell.shape(operand)[:-1] if not m.merged else ()


def iteration(e: Eq, cell: Cell) -> Shape:
    """The axes over which an equation is computed: those of its result, and what it sums over."""
    axes = cell.shapes.axes
    if isinstance(e.rhs, Reduction):
        return axes(e.rhs.args[0])
    if isinstance(e.rhs, Contract):
        left, right, _ = e.rhs.spec
        sizes = dict(zip(left + right, (*axes(e.rhs.args[0]), *axes(e.rhs.args[1])), strict=True))
        return tuple(sizes[letter] for letter in nesting(e.rhs.spec))
    return axes(e.lhs)


def nesting(words: Sequence[str]) -> str:
    """The letters of a contraction, as loops over them are nested: in the order that each operand
    and the result has them in memory, if there is one for all.
    """
    found = ""
    left = sorted(set("".join(words)))
    while left:
        later = {x for w in words for k, x in enumerate(w) if any(y in left for y in w[:k])}
        first = next((x for x in left if x not in later), left[0])
        found += first
        left.remove(first)
    return found


def needs_axes(e: Expr) -> bool:
    """Whether an equation's right-hand side asks for more than rows of units."""
    along = any(r.axis is not None for r in e.atoms(Reduction))
    return along or e.has(Contract, Concat, View)


def matrix_shapes(equations: Iterable[Eq], cell: Cell) -> set[Shape]:
    """The shapes of matrices, a row of the batch each: what is contracted with vectors."""
    found = set()
    for e in equations:
        if isinstance(e.rhs, Contract):
            words = e.rhs.spec
            of_heads = set.intersection(*map(set, words))
            for word, v in zip(words, (*e.rhs.args[:2], e.lhs), strict=True):
                if len(set(word) - of_heads) > 1:
                    found.add(cell.shape(v))
    return found


def is_large(v: Vector, cell: Cell) -> bool:
    """Whether ``v`` has several axes, as a memory has, or what is as large as a matrix: so that a
    step should go over it once, and find it in cache.
    """
    return sum(not n.is_number for n in cell.shape(v)) > 1


def moved(e: Expr) -> set[Vector]:
    """What an equation's right-hand side reads at other units than the one that it computes."""
    found = {v for m in e.atoms(View, Concat) for v in m.atoms(Vector)}
    for m in e.atoms(Contract):
        # a loop over all axes that are contracted is at one unit of what has all of them
        letters = nesting(m.spec)
        found |= {v for v, word in zip(m.args[:2], m.spec, strict=False) if word != letters}
    return found


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
        elif isinstance(node, Contract):
            visual += 1 if node.is_outer else 2
        elif isinstance(node, Function) and not isinstance(node, (Total, View, Concat)):
            visual += 1
    return visual
