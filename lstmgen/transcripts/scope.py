"""What the parts of a transcript share: names, arguments, and what passes into the loop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr

from ..derivation.names import Namer
from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.symbols import Product, Vector
from ..verification.evaluation import number
from .dialects import Dialect
from .hoisting import Equations
from .rewriting import Rewriting

Array = NDArray[Any]


@dataclass(frozen=True)
class Argument:
    """An argument of ``sequence``, and what it is made of: several parameters, or one value.

    kind: how the arrays of several parameters make one.
        "matrix": below each other, the rows of all heads as rows; "transposed": that as (columns,
        rows); "heads": of each head as (columns, rows), beside each other; "vector": one after
        another, all axes as one; "whole": there is one, as it is.
        Of no parameter: "constant", "input", "mask" or "state".
    shapes : of the parameters.
    learned : whether it has a gradient.
    """

    name: str
    parts: tuple[str, ...]
    kind: str
    shapes: tuple[tuple[int, ...], ...] = ()
    learned: bool = True

    @property
    def has_gradient(self) -> bool:
        return self.learned and self.kind not in ("constant", "mask")

    def join(self, values: Mapping[str, Any]) -> Array:
        """The argument's array, from its parts by name."""
        arrays = [np.asarray(values[part]) for part in self.parts]
        if self.kind in ("matrix", "transposed"):
            rows = np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays])
            return rows.T if self.kind == "transposed" else rows
        if self.kind == "heads":
            return np.concatenate([a.swapaxes(1, 2) for a in arrays], axis=2)
        if self.kind == "vector":
            return np.concatenate([a.reshape(-1) for a in arrays])
        return arrays[0].reshape(1) if self.kind == "constant" else arrays[0]

    def split(self, array: Array) -> dict[str, Array]:
        """The parts by name, from an array of the argument's shape: ``join`` undone."""
        if self.kind in ("matrix", "transposed", "vector"):
            rows = array.T if self.kind == "transposed" else array
            own = [shape if self.kind == "vector" else shape[:-1] for shape in self.shapes]
            pieces = np.split(rows, np.cumsum([math.prod(shape) for shape in own])[:-1])
            pieces = [a.reshape(shape) for a, shape in zip(pieces, self.shapes, strict=True)]
        elif self.kind == "heads":
            pieces = [a.swapaxes(1, 2) for a in np.split(array, len(self.parts), axis=2)]
        else:
            pieces = [array]
        return dict(zip(self.parts, pieces, strict=True))


class Scope:
    """The names of one transcript, its arguments, and what the loop takes from before it."""

    def __init__(self, cell: Cell, sizes: Mapping[str, int], dialect: Dialect) -> None:
        self.cell, self.dialect = cell, dialect
        self.sizes = {name: int(n) for name, n in sizes.items()}
        taken = {s.name for e in cell.equations for s in e.free_symbols}
        self.namer = Namer({*taken, *dialect.reserved})
        # Names of the numbers of steps and rows, which are read from arrays.
        self.counts: tuple[str, str] = self.namer("steps"), self.namer("rows")
        self.rewritten = Rewriting(cell, self.namer)
        self.equations = Equations(cell, self.rewritten.equations, self.namer)
        self.uses: Counter[Expr] = Counter()
        for e in (*self.equations.before, *self.equations.step):
            for node in sympy.preorder_traversal(e.rhs):
                if isinstance(node, Matrix):
                    self.uses[node.base] += 1
                elif isinstance(node, Vector):
                    self.uses[node] += 1
        self.arguments: dict[tuple[str, ...], Argument] = {}
        # Matrices as they are, since they are made of others or others are made of them.
        self.derived = {e.lhs.name for e in self.equations.before if e.lhs.category == "derived"}
        read = {v.name for e in self.equations.before for v in e.rhs.atoms(Vector)}
        self.whole = {m.name for m in self.uses if isinstance(m, Matrix)} & (read | self.derived)
        self.whole |= self._of_several_uses()
        self.prepared: dict[str, str] = {}  # made from parameters alone: name and value
        self.turned: dict[str, str] = {}  # the same, of what is made of parameters
        self.wanted: dict[tuple[Vector, ...], tuple[str, str]] = {}  # names for all steps, for one
        self.closed: dict[str, None] = {}  # what the loop reads that is the same at each step
        self._new: dict[Vector, str] = {}

    def _of_several_uses(self) -> set[str]:
        """The matrices of heads that are not in one product, as they are, only."""
        equations = (*self.equations.before, *self.equations.step)
        found = {p for e in equations for p in e.rhs.atoms(Product) if len(p.matrix.axes) > 2}
        count = Counter(p.matrix.name for p in found)
        turned = {p.matrix.name for p in found if p.matrix.transposed}
        return {name for name, n in count.items() if n > 1} | turned

    def number(self, size: Expr) -> int:
        return number(size, self.sizes)

    def shape(self, e: Expr) -> tuple[int, ...]:
        return tuple(map(self.number, self.cell.shapes.axes(e)))

    def size(self, e: Expr) -> int:
        return math.prod(self.shape(e))

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

    def argument(self, parameters: Sequence[Matrix | Vector], kind: str) -> str:
        key = tuple(p.name for p in parameters)
        if key not in self.arguments:
            name = key[0] if len(key) == 1 else self.namer(_joined(key))
            shapes = tuple(self.shape(p) for p in parameters)
            learned = all(p.learned for p in parameters)
            self.arguments[key] = Argument(name, key, kind, shapes, learned)
        return self.arguments[key].name


def _joined(names: Iterable[str]) -> str:
    """``U_ifgo`` for U_i U_f U_g U_o."""
    parts = [name.partition("_") for name in names]
    family = parts[0][0]
    joined = "".join(tail for _, _, tail in parts)
    alike = all(head == family and tail for head, _, tail in parts)
    return f"{family}_{joined}" if alike and len(joined) <= 12 else f"{family}_all"
