"""What holds of every plan, checked before any text is made of it.

An operation writes as many units as its results have, and reads what has been written, with that
many units. A plan for which that is not so would become code that reads memory which nobody wrote,
or writes memory that is not its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sympy import Eq, Expr

from ..derivation.linear import leaves
from ..derivation.normalform import MIXING
from ..errors import LstmgenError
from ..language.cell import Cell
from ..language.shapes import SCALAR, Shape
from ..language.symbols import GIVEN, Reduction, Vector, sum_
from .lifetimes import lifetimes
from .operations import Fill, Fused, Loop, Multiply, Operation, Outers, Pass, is_loop, iteration
from .plans import Plan


def require_sound(plan: Plan) -> None:
    """Refuse a plan in which an operation and a value disagree about its size or its place.

    Raises
    ------
    LstmgenError
        That is a fault of lstmgen, not of the cell: the message asks to report it.
    """
    for name, part in (("forward", plan.forward), ("backward", plan.backward)):
        problems = (
            *_sizes(part, plan.cell), *_places(part, plan), *_rows(part, plan),
            *_shifts(part, plan), *_overwritten(part, plan),
        )  # fmt: skip
        for problem in problems:
            raise LstmgenError(
                f"the plan of {plan.cell.name} is not sound: {name}, {problem}\n"
                "  hint: this is a fault of lstmgen; please report it, with the cell"
            )


# --------------------------------------------------------------------------- sizes


def _sizes(part: Pass, cell: Cell) -> Iterator[str]:
    for op in part.operations:
        if isinstance(op, Multiply):
            yield from _of_product(op, cell)
        elif isinstance(op, Fused):
            for loop in op.loops:
                for e in loop.equations:
                    yield from _of_equation(e, loop, cell)
        elif isinstance(op, Outers):
            for p, left in zip(op.parameters, op.lefts, strict=True):
                if not _is_outer(cell.shape(p), cell.shape(left), cell.shape(op.right)):
                    yield f"∂L/∂{p} has another shape than {left} times {op.right}"
        elif isinstance(op, Fill):
            yield from _of_biases(op, cell)
        else:
            for v, term in zip(op.parameters, op.terms, strict=True):
                if not _fits(term, cell.shape(v), cell) and cell.shape(v) != SCALAR:
                    yield f"∂L/∂{v} has another size than {term}"


def _of_product(op: Multiply, cell: Cell) -> Iterator[str]:
    outs, operands = op.outs * len(op.matrices), op.operands * len(op.matrices)
    for m, out, operand in zip(op.matrices, outs, operands, strict=False):
        made, wide = cell.shape(out), cell.shape(operand)
        shapes = (made, wide) if not m.transposed else (wide, made)
        if not _is_outer(cell.shape(m), *shapes):
            yield f"{m} @ {operand} has another size than {out}"
    yield from _of_biases(op, cell)


def _is_outer(matrix: Shape, left: Shape, right: Shape) -> bool:
    """Whether a matrix has the rows of ``left`` and the columns of ``right``, for their heads."""
    if len(matrix) == 2:
        return matrix == (left[-1], right[-1]) and left[:-1] == right[:-1]
    if len(right) == 1:
        return matrix == (*left, *right)
    return matrix == (*left, right[-1]) and left[:-1] == right[:-1]


def _of_biases(op: Multiply | Fill, cell: Cell) -> Iterator[str]:
    for out, bias in zip(op.outs, op.biases, strict=False):
        if bias is not None and cell.shape(bias) != cell.shape(out):
            yield f"the bias {bias} has another size than {out}"


def _of_equation(e: Eq, loop: Loop, cell: Cell) -> Iterator[str]:
    shape, rhs = cell.shape(e.lhs), e.rhs
    if loop.shape != iteration(e, cell):
        yield f"{e.lhs} is computed in a loop over {loop.shape}"
    if isinstance(rhs, Reduction):
        if not _fits(rhs.args[0], loop.shape, cell) or shape != cell.shapes.axes(rhs):
            yield f"{e.lhs} has another size than {rhs}"
    elif rhs.has(*MIXING):
        if shape != cell.shapes.axes(rhs):
            yield f"{e.lhs} has another size than {rhs}"
    elif not _fits(rhs, shape, cell):
        yield f"{e.lhs} has another size than {rhs}"


def _fits(e: Expr, shape: Shape, cell: Cell) -> bool:
    """Whether ``e`` has that shape, or is one number for all of it."""
    return all(cell.shapes.axes(v) in (SCALAR, shape) for v in leaves(e) if not _is_summed(v, e))


def _is_summed(v: Expr, e: Expr) -> bool:
    return any(r.has(v) for r in e.atoms(sum_))


# --------------------------------------------------------------------------- places


def _places(part: Pass, plan: Plan) -> Iterator[str]:
    """What is read before it is written, and what is read from no place."""
    everywhere = {v for op in part.operations for v in op.writes}
    written: dict[Vector, Operation] = {}
    for op in part.operations:
        for v in op.reads:
            if v.category in GIVEN or v not in everywhere:
                continue  # the caller's, the last step's, or on the tape
            if v not in written:
                if v not in op.writes:
                    yield f"{v} is read before it is written"
            elif written[v] is not op and v not in plan.home and v.category != "carry":
                yield f"{v} is read by another stage than the one that computes it, and not stored"
        written.update(dict.fromkeys(op.writes, op))


def _rows(part: Pass, plan: Plan) -> Iterator[str]:
    """What is made for all steps of a tile, and has the room of one step only."""
    for op in part.at_once:
        for v in op.writes:
            if v in plan.home and plan.home[v].scope == "step":
                yield f"{v} is written for many steps where there is room for one"


def _shifts(part: Pass, plan: Plan) -> Iterator[str]:
    """What is read of the step before where not all steps have been computed, or by the stage that
    computes them.
    """
    places = [(n, k) for n, section in enumerate(part.sections) for k in range(len(section))]
    moment = {v: m for m, op in zip(places, part.operations, strict=True) for v in op.writes}
    for here, op in zip(places, part.operations, strict=True):
        for v in op.reads:
            out = v.at(-1) if v.category == "carry" else v.at(0)
            if v == out or v.category not in ("state", "carry") or out not in moment:
                continue  # of this step, not handed on, or the tape's
            if is_loop(here[0]) and moment[out][0] == here[0]:
                continue
            if moment[out] >= here:
                yield f"{v} is read before {out} is there for all steps"
            elif v.category == "carry" and not plan.is_shifted(v):
                yield f"{v} is read outside the loop, and lasts for one step"


def _overwritten(part: Pass, plan: Plan) -> Iterator[str]:
    """What is read, or kept, and another value has been written in its place."""
    used = lifetimes(part)
    sharing: dict[Vector, list[Vector]] = {}
    for v in {**used.reads, **used.writes}:
        sharing.setdefault(plan.assignment.of(v), []).append(v)
    for values in sharing.values():
        for v, after in pairwise(sorted(values, key=used.span)):
            last = max(used.reads.get(v, ()), default=None)
            first = min(used.writes.get(after, ()), default=None)
            if first is None:
                yield f"{after} is read after {v} has been written over it"
            elif last is not None and last > first:
                yield f"{v} is read after {after} has been written over it"
            elif v in plan.home and plan.home[v].scope in ("tape", "state", "given"):
                yield f"{v} has to be kept, and {after} is written over it"
