"""Parameters as operands: alone, stacked, transposed, in lanes."""

from __future__ import annotations

from collections.abc import Sequence

from ...language.matrices import Matrix
from ...language.symbols import Vector
from ...planning.plans import Plan
from .tree import (
    DTYPE,
    NEWAXIS,
    PACKED,
    Attribute,
    Kind,
    Literal,
    Local,
    Node,
    Reshaped,
    Stack,
    Swapped,
    amount,
    call,
    item,
    method,
    np,
    number,
    transposed,
)

Parameter = Matrix | Vector


class Parameters:
    """What a function takes from ``packed``, once for all steps."""

    def __init__(self, plan: Plan) -> None:
        self.cell = plan.cell
        self._made = plan.made

    def _array(self, p: Parameter) -> Node:
        """What the caller gave, or what is made of that."""
        table = Attribute(PACKED, "fixed") if p.name in self._made else PACKED
        return item(table, Literal(p.name))

    def name(self, parameters: Sequence[Parameter]) -> str:
        """``W`` for a whole family, ``U_rz`` for a part of one."""
        if len(parameters) == 1:
            return str(parameters[0].name)
        families = dict.fromkeys(p.name.partition("_")[0] for p in parameters)
        kind = type(parameters[0])
        whole = [
            p
            for p in self.cell.parameters
            if isinstance(p, kind) and p.name.partition("_")[0] in families
        ]
        name = "".join(families)
        if len(whole) > len(parameters):
            name += "_" + "".join(p.name.partition("_")[2] for p in parameters)
        return name

    def stack(self, parameters: Sequence[Parameter]) -> Stack:
        """The name of parameters on top of each other."""
        return Stack(tuple(parameters), self.name(parameters))

    def vector(self, v: Vector) -> Local:
        """A learned vector, with an axis for rows: for one row, nothing is broadcast. A constant is
        an array without axes.
        """
        value = self._array(v)
        made: Node
        if v.category == "constant":
            made = call(np("array"), value, DTYPE)
        elif len(self.cell.shape(v)) > 1:
            made = Reshaped(value, (number(1), amount(self.cell.size(v))))
        else:
            made = item(value, NEWAXIS)
        return Local(("pack", v), v.name, Kind.PARAMETER, made)

    def vectors(self, vectors: Sequence[Vector], in_lanes: bool) -> Local:
        """Several learned vectors side by side in one row, or one above the other for lanes."""
        if len(vectors) == 1:
            return self.vector(vectors[0])
        if in_lanes:
            return self.lanes(vectors)
        made = item(method(PACKED, "stack", self.stack(vectors)), NEWAXIS)
        key = ("pack", tuple(vectors), "beside")
        return Local(key, self.name(vectors), Kind.PARAMETER, made)

    def lanes(self, vectors: Sequence[Vector]) -> Local:
        """Learned vectors one above the other, (lanes, 1, size)."""
        shape = (number(len(vectors)), number(1), amount(self.cell.size(vectors[0])))
        made = Reshaped(method(PACKED, "stack", self.stack(vectors)), shape)
        return Local(("pack", tuple(vectors), "above"), self.name(vectors), Kind.PARAMETER, made)

    def heads(self, matrix: Matrix) -> Local:
        """The right factor of a product for each head, (heads, from, to)."""
        value = self._array(matrix)
        key = ("pack", matrix)
        if matrix.transposed:
            return Local(key, matrix.name, Kind.PARAMETER, value)
        return Local(key, f"{matrix.name}_T", Kind.PARAMETER, Swapped(value, -2, -1))

    def factor(self, matrices: Sequence[Matrix], inside: bool) -> Local:
        """The right factor of a product with rows. In the loop it pays to have it transposed in
        memory.
        """
        bases = [m.base for m in matrices]
        stack, name = self.stack(bases), self.name(bases)
        made: Node
        if matrices[0].transposed:
            return Local(("pack", stack), name, Kind.PARAMETER, method(PACKED, "stack", stack))
        if inside:
            made = method(PACKED, "transposed", stack)
        else:
            made = transposed(method(PACKED, "stack", stack))
        return Local(("pack", stack, inside), f"{name}_T", Kind.PARAMETER, made)
