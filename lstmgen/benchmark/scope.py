"""What the parts of a transcript share: names, arguments, and what passes into the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr

from ..derivation.normalform import Namer
from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.symbols import Vector
from ..verification.evaluation import number
from .dialects import Dialect
from .hoisting import Equations

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


class Scope:
    """The names of one transcript, its arguments, and what the loop takes from before it."""

    def __init__(self, cell: Cell, sizes: Mapping[str, int], dialect: Dialect) -> None:
        self.cell, self.dialect = cell, dialect
        self.sizes = {name: int(n) for name, n in sizes.items()}
        taken = {s.name for e in cell.equations for s in e.free_symbols}
        self.namer = Namer({*taken, *dialect.reserved})
        self.equations = Equations(cell, self.namer)
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

    def argument(self, parts: Sequence[str], kind: str, widths: Sequence[int]) -> str:
        key = tuple(parts)
        if key not in self.arguments:
            name = parts[0] if len(parts) == 1 else self.namer(_joined(parts))
            self.arguments[key] = Argument(name, key, kind, tuple(widths))
        return self.arguments[key].name


def _joined(names: Iterable[str]) -> str:
    """``U_ifgo`` for U_i U_f U_g U_o."""
    parts = [name.partition("_") for name in names]
    family = parts[0][0]
    joined = "".join(tail for _, _, tail in parts)
    alike = all(head == family and tail for head, _, tail in parts)
    return f"{family}_{joined}" if alike and len(joined) <= 12 else f"{family}_all"
