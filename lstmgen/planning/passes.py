"""From equations to equations: what is needed twice gets a name, what is cheap is run again.

Plain functions from one list of equations to the next; none changes a value.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sympy
from sympy import Eq, Expr, Function

from ..derivation.names import Namer
from ..language.cell import Cell
from ..language.functions import equal, functions_with
from ..language.symbols import (
    ADJOINT,
    OF_PARAMETERS,
    STATIC,
    Concat,
    Contract,
    Outer,
    Product,
    Reduction,
    Total,
    Vector,
    View,
)
from .operations import ZERO, count_arithmetic, matrix_shapes

_CHEAP_FUNCTIONS = functions_with(lambda f: f.cheap)


def share(equations: Sequence[Eq], namer: Namer, cell: Cell) -> tuple[Eq, ...]:
    """Give a name to every function value that is needed twice: tanh_c = tanh(c)."""
    lines = list(equations)
    while repeated := _repeated(lines):
        node = repeated[0]  # an innermost one, so that an outer one will read its name
        inner = node.args[0]
        name = f"{node.func.__name__}_{inner.name}" if inner.is_Symbol else "shared"
        symbol = Vector(namer(name), "shared", cell.shapes.declared(node))
        first = next(k for k, e in enumerate(lines) if e.rhs.has(node))
        lines = [Eq(e.lhs, e.rhs.xreplace({node: symbol}), evaluate=False) for e in lines]
        lines.insert(first, Eq(symbol, node, evaluate=False))
    return tuple(lines)


def _repeated(lines: Sequence[Eq]) -> list[Expr]:
    counts: dict[Expr, int] = {}
    for e in lines:
        for node in sympy.preorder_traversal(e.rhs):
            if isinstance(node, Function) and not isinstance(
                node, (Product, Reduction, Outer, Total, Contract, View, Concat, *_CHEAP_FUNCTIONS)
            ):
                counts[node] = counts.get(node, 0) + 1
    repeated = [node for node, n in counts.items() if n > 1]
    return sorted(repeated, key=lambda n: (sympy.count_ops(n), str(n)))


def unscaled(
    adjoints: Sequence[Eq], totals: Sequence[Eq], namer: Namer
) -> tuple[tuple[Eq, ...], tuple[Eq, ...]]:
    """Sums of products, and of outer products, without factors: as one product of many gives them.

    Where an equation reads one product twice, or two equations with the same adjoint read it,
    there is a factor: it goes to the adjoint, in a line of its own, a_scaled = 2 δa.
    """
    lines = list(adjoints)
    scaled: dict[Expr, Vector] = {}

    def line(e: Eq) -> Eq:
        terms = sympy.Add.make_args(e.rhs)
        new = [term(t) for t in terms]
        return e if new == list(terms) else Eq(e.lhs, sum(new, ZERO), evaluate=False)

    def term(t: Expr) -> Expr:
        found = next((f for f in sympy.Mul.make_args(t) if f.has(Product, Outer)), None)
        if found is None or t == found or isinstance(t, Reduction):
            return t
        mixing = found if isinstance(found, Product) else found.args[0]
        delta = next(v for v in mixing.args if isinstance(v, Vector) and v.category in ADJOINT)
        value = delta * (t / found)
        if value not in scaled:
            scaled[value] = Vector(namer(f"{delta.name}_scaled"), "adjoint", delta.axes)
        return found.xreplace({delta: scaled[value]})

    lines, whole = [line(e) for e in lines], [line(e) for e in totals]
    for value, symbol in scaled.items():
        made = {v for v in value.atoms(Vector) if v in {e.lhs for e in lines}}
        place = max((k + 1 for k, e in enumerate(lines) if e.lhs in made), default=0)
        lines.insert(place, Eq(symbol, value, evaluate=False))
    return tuple(lines), tuple(whole)


def split_coefficients(equations: Sequence[Eq], namer: Namer, cell: Cell) -> tuple[Eq, ...]:
    """Name what multiplies an adjoint, k = o (1 - tanh² c): it needs no adjoint itself, so that it
    can be computed for all steps at once.
    """
    out: list[Eq] = []
    matrices = matrix_shapes(equations, cell)
    moving = ("adjoint", "carry", "cotangent")

    def split(term: Expr, name: str) -> Expr:
        factors = sympy.Mul.make_args(term)
        flowing = [f for f in factors if any(v.category in moving for v in f.atoms(Vector))]
        rest = sympy.Mul(*(f for f in factors if f not in flowing))
        changes = any(v.category not in STATIC for v in rest.atoms(Vector))
        if len(flowing) != 1 or rest.is_Atom or not changes or rest.has(Reduction, Product):
            return term
        if cell.shapes.axes(rest) in matrices:
            return term  # all steps are too many to be kept for one product
        if all(f.is_Number for f in sympy.Mul.make_args(rest) if not f.is_Symbol) and (
            len([f for f in sympy.Mul.make_args(rest) if isinstance(f, Vector)]) < 2
        ):
            return term
        coefficient = Vector(namer(f"k_{name}"), "coefficient", cell.shapes.declared(rest))
        out.append(Eq(coefficient, rest, evaluate=False))
        return flowing[0] * coefficient

    for e in equations:
        summed = isinstance(e.rhs, Reduction)
        rhs = e.rhs.args[0] if summed else e.rhs
        new = sum((split(t, e.lhs.name) for t in sympy.Add.make_args(rhs)), ZERO)
        rhs = e.rhs.func(new, *e.rhs.args[1:]) if summed else new
        out.append(Eq(e.lhs, rhs, evaluate=False))
    return tuple(out)


def recompute(
    forward: Sequence[Eq], adjoints: Sequence[Eq], totals: Sequence[Eq],
    outputs: Collection[Vector], *, outers_only: bool,
) -> tuple[Eq, ...]:  # fmt: skip
    """Forward equations that are cheaper to run again than to keep: a few additions and products
    of what is on the tape anyway, such as f = 1 - i, and the outer product of two vectors, which
    has many more units than they have. But not ``outputs``: their place is the caller's, which the
    backward pass does not have.
    """
    wanted = {v for e in (*adjoints, *totals) for v in e.rhs.atoms(Vector)}
    # what products read, or sums over all steps, would have to be kept for all steps anyway
    mixing = {p for e in (*adjoints, *totals) for p in e.rhs.atoms(Product, Outer)}
    whole = {v for p in mixing for v in p.atoms(Vector)}
    whole |= {v for e in totals for v in e.rhs.atoms(Vector)}
    # a comparison for equality needs the very bits that forward had
    whole |= {v for e in (*adjoints, *totals) for n in e.rhs.atoms(equal) for v in n.atoms(Vector)}
    again: list[Eq] = []
    for e in reversed(forward):
        lhs, rhs = e.lhs, e.rhs
        if lhs not in wanted or lhs in whole or lhs in outputs or lhs.category != "vector":
            continue
        if not (isinstance(rhs, Contract) and rhs.is_outer) and (
            outers_only
            or rhs.has(Product, Reduction, Function, sympy.Pow)
            or count_arithmetic(rhs) > 3
        ):
            continue
        known = ("input", *OF_PARAMETERS)
        if all(v in wanted or v.category in known for v in rhs.atoms(Vector)):
            again.insert(0, Eq(lhs, rhs, evaluate=False))
    return tuple(again)
