"""Operands that are not values of the cell: scratch to compute in, and numbers as arrays."""

from __future__ import annotations

import sympy
from sympy import Expr

from ...language.shapes import Shape
from .tree import (
    DTYPE,
    Kind,
    Literal,
    Local,
    Node,
    Span,
    Tuple,
    amount,
    call,
    empty,
    item,
    np,
    number,
    product,
    size,
)

BLOCK = Local("block", "block")  # steps that are worked on together
COUNT = Local("count", "count")  # steps of this block
ROWS = product(COUNT, size("B"))  # of all steps of the block

_NAMES = {-1.0: "minus", 0.0: "zero", 0.5: "half", 1.0: "one", 2.0: "two", 3.0: "three"}


def temporary(n: int, units: Expr, many: int, inside: bool) -> Local:
    """The n-th scratch array of a size, (B, units), with an axis in front for ``many`` lanes: s1,
    s2, … in the loop; S1, S2, … outside, with an axis of steps.
    """
    key = ("scratch", inside, str(units), n, many)
    name = f"{'s' if inside else 'S'}{n}"
    shape: tuple[Node, ...] = (size("B"), amount(units))
    shape = shape if many == 1 else (number(many), *shape)
    if inside:
        return Local(key, name, Kind.SCRATCH, empty(*shape))
    return _of_block(key, name, (BLOCK, *shape), COUNT)


def array(n: int, axes: Shape, inside: bool) -> Local:
    """The n-th scratch array of a shape, (B, *axes): a1, a2, … in the loop; A1, A2, … outside."""
    key = ("scratch", inside, axes, n)
    name = f"{'a' if inside else 'A'}{n}"
    shape: tuple[Node, ...] = (size("B"), *(amount(m) for m in axes))
    if inside:
        return Local(key, name, Kind.SCRATCH, empty(*shape))
    return _of_block(key, name, (BLOCK, *shape), COUNT)


def for_product(*shape: Node) -> Local:
    """Scratch for a product in the loop, shared by all products of that shape."""
    return Local(("product", shape), "u", Kind.SCRATCH, empty(*shape))


def for_product_of_rows(units: Expr) -> Local:
    """Scratch for a product of all rows of the block, (count * B, units)."""
    shape = (product(BLOCK, size("B")), amount(units))
    return _of_block(("product", shape), "product", shape, ROWS)


def _of_block(key: object, name: str, shape: tuple[Node, ...], used: Node) -> Local:
    """The part that this block uses of memory for any block."""
    this = Local(key, name)
    memory = Local((key, "memory"), "{}_memory", Kind.SCRATCH, empty(*shape), beside=this)
    return Local(key, name, Kind.BLOCK, item(memory, Span(stop=used)))


# --------------------------------------------------------------------------- numbers


def number_array(e: Expr) -> Local:
    """A number as an array without axes: as an operand it costs half as much as a Python number."""
    value = scalar(e)
    name = next((name for x, name in _NAMES.items() if value == Literal(x)), "number")
    return Local(("number", value), name, Kind.NUMBER, call(np("array"), value, DTYPE))


def column(units: Expr, weight: Expr) -> Local:
    """A column of equal numbers, (units, 1): a product with it is a sum over units, each times
    ``weight``, and faster than a reduction.
    """
    kind = {sympy.S.One: "ones", 1 / units: "mean"}.get(weight, "column")
    made = call(np("full"), Tuple((amount(units), number(1))), scalar(weight), DTYPE)
    name = "".join(c for c in str(units) if c.isalnum())
    return Local(("column", units, weight), f"{kind}_{name}", Kind.NUMBER, made)


def ones() -> Local:
    """As many ones as there may be rows in a block."""
    made = call(np("ones"), product(BLOCK, size("B")), DTYPE)
    return Local("ones", "ones", Kind.VIEW, made)


def scalar(e: Expr) -> Node:
    """A number, or an expression in sizes: 0.5, 1/3, 1/H."""
    if not e.is_number:
        return amount(e, whole=False)
    is_exact = not e.is_Rational or e.q & (e.q - 1) == 0
    return Literal(float(e)) if is_exact else amount(e, whole=False)
