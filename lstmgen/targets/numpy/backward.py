"""Backpropagation through time, from the last block to the first."""

from __future__ import annotations

from collections.abc import Sequence

from ...derivation.reverse import adjoint, carry, cotangent
from ...language.cell import Cell
from ...language.matrices import Matrix
from ...language.shapes import units
from ...language.symbols import Vector
from ...planning.operations import Buffer
from ...planning.plans import Plan
from ...printing.orders import Order
from ..naming import identifier
from .analysis import shares
from .forward import tape_key
from .gradients import FIRST
from .lower import (
    BY_INPUTS,
    BY_PARAMETERS,
    Lowering,
    all_sizes,
    block,
    block_of_steps,
    check_parameters,
    flat,
    if_empty,
    shaped,
    strings,
)
from .operands import DY, MASKS, START, Operands, Window, X
from .scratch import BLOCK, COUNT
from .tree import (
    DTYPE,
    PACKED,
    SIZES,
    Argument,
    Assign,
    Binary,
    Blank,
    Choice,
    Declare,
    Dict,
    For,
    Function,
    Gather,
    Global,
    If,
    Kind,
    Literal,
    Local,
    Node,
    Reshaped,
    Return,
    Table,
    Tuple,
    Unary,
    amount,
    bind,
    call,
    item,
    method,
    np,
    number,
    size,
    store,
)

_TAPE, _DSTATE = Argument("tape"), Argument("dstate")
_STOP, _GRADS = Local("stop", "stop"), Local("grads", "grads")
_FIXED = Local("through", "through")  # what parameters gain through what is made of them


def _slice(name: str, start: Node, stop: Node) -> Local:
    return Local(name, name, Kind.SLICE, call(Global("slice"), start, stop))


_STEPS = _slice("steps", START, _STOP)
_ENDS = _slice("ends", Binary(START, "+", number(1)), Binary(_STOP, "+", number(1)))


class _Operands(Operands):
    window = Window(_STEPS, _STEPS, _ENDS)

    def kept(self, buffer: Buffer, name: str, shape: tuple[Node, ...]) -> Local:
        return Local((buffer, "seq"), name, Kind.TAKEN, item(_TAPE, Literal(tape_key(buffer))))

    def stored(self, state: Vector) -> Local:
        kept = item(_TAPE, Literal(state.name))
        return Local((state.name, "seq"), f"{state.name}_seq", Kind.STORED, kept)

    def result(self, v: Vector) -> Node:
        several = len(self.cell.inputs) > 1
        return Local((v.name, "result"), f"dx_{v.name}" if several else "dx")

    def carried(self, v: Vector) -> Local:
        """One array for both ways if they can share it; else two, which change places after every
        step.
        """
        state = next(s for s in self.cell.states if s.name == v.name)
        if self.plan.is_shifted(v):
            return Local((state, "arriving"), identifier(carry(state)))
        v = self.places.of(v)
        return Local((v, "step"), identifier(v))


def backward(plan: Plan, order: Order) -> Function:
    """The function ``backward`` of the module."""
    cell = plan.cell
    operands = _Operands(plan)
    sections = Lowering(operands, order).wanted_sections(plan.backward)

    carried = [(s, operands.carried(carry(s)), operands.carried(carry(s, -1))) for s in cell.states]
    moves = [_moves(operands, s, here) for s, here, _ in carried if plan.is_shifted(carry(s))]
    swaps: list[list[Node]] = [
        [
            Assign((here, there), (there, here))
            for s, here, there in carried
            if here != there and plan.backward.section_of(carry(s, -1)) == n
        ]
        for n in range(1, len(sections), 2)
    ]
    results = {v: operands.result(adjoint(v)) for v in cell.inputs}
    given = {v: shaped(cell, v, a, size("T"), size("B")) for v, a in results.items()}
    several = Dict(tuple((v.name, array) for v, array in given.items()))
    dx = several if len(results) > 1 else next(iter(given.values()))
    nothing = (DTYPE, SIZES, _DSTATE, BY_INPUTS, BY_PARAMETERS)
    learned = (
        Declare((Kind.RESULT,)),
        *_made_of_parameters(plan, sections[-1]),
        bind(_GRADS, _gradients(plan, sections[-1])),
    )
    return Function(
        "backward",
        (
            check_parameters(),
            Assign((DTYPE, SIZES), (call(Global("_own"), _TAPE, PACKED),)),
            all_sizes(cell),
            bind(DY, _checked_dy(cell)),
            bind(_DSTATE, call(Global("_states"), Literal("dstate"), _DSTATE, SIZES, DTYPE)),
            if_empty(Return((call(Global("_nothing"), *nothing),))),
            *_flat_dy(operands),
            *_given(cell),
            Declare((Kind.TAKEN,)),
            Declare((Kind.STORED,), tuple(operands.stored(s) for s in cell.states)),
            Declare((Kind.PARAMETER,)),
            Declare((Kind.NUMBER,)),
            block_of_steps(),
            Declare((Kind.SCRATCH,)),
            Declare((Kind.TOTAL,), together=Global("_arrays")),
            Declare((Kind.CHOICE, Kind.VIEW)),
            *_starts(cell, carried),
            *(_result(operands, v, array) for v, array in results.items()),
            Blank(),
            For(
                _STOP,
                call(Global("range"), size("T"), number(0), Unary("-", BLOCK)),
                (
                    bind(COUNT, call(Global("min"), BLOCK, _STOP)),
                    Assign(
                        (START, FIRST),
                        (Binary(_STOP, "-", COUNT), Binary(_STOP, "==", size("T"))),
                    ),
                    Declare((Kind.SLICE,), (_STEPS, _ENDS)),
                    Declare((Kind.BLOCK,)),
                    *(store(here, there) for here, there in operands.copied()),
                    *(begin for begin, _ in moves),
                    *block(plan.backward, sections, True, swaps),
                    *(end for _, end in moves),
                ),
            ),
            Blank(),
            bind(_GRADS, Dict(())),
            *([If(BY_PARAMETERS, learned)] if cell.learned else []),
            Return(
                (
                    _GRADS,
                    Choice(BY_INPUTS, dx, Literal(None)),
                    Dict(
                        tuple((s.name, shaped(cell, s, here, size("B"))) for s, here, _ in carried)
                    ),
                )
            ),
        ),
    )


def _checked_dy(cell: Cell) -> Node:
    """The derivatives by the outputs as arrays of their own shape."""
    if len(cell.outputs) > 1:
        return call(Global("_dy"), DY, SIZES, DTYPE)
    y_shape = Tuple(strings("T", "B", *cell.shape(cell.output)))
    return call(Global("_array"), Literal("dy"), DY, y_shape, SIZES, DTYPE)


def _flat_dy(operands: Operands) -> list[Node]:
    """Those by outputs of several axes, in rows of units."""
    given = {v: operands.source(cotangent(v)) for v in operands.cell.outputs}
    rows = {v: flat(operands.cell, v, a, size("T"), size("B")) for v, a in given.items()}
    return [bind(given[v], array) for v, array in rows.items() if array is not given[v]]


def _given(cell: Cell) -> list[Node]:
    """What the caller gave to forward."""
    (first, *others) = cell.inputs
    x = Gather(_TAPE, Global("INPUTS")) if others else item(_TAPE, Literal(first.name))
    masks = [bind(MASKS, Gather(_TAPE, Global("MASKS")))] if cell.masks else []
    return [bind(X, x), *masks]


def _starts(cell: Cell, carried: list[tuple[Vector, Local, Local]]) -> list[Node]:
    """What arrives at the last step."""
    starts: list[Node] = []
    for s, here, there in carried:
        arrives = flat(cell, s, item(_DSTATE, Literal(s.name)), size("B"))
        starts.append(bind(here, method(arrives, "copy")))
        if here != there:
            starts.append(bind(there, call(np("empty_like"), here)))
    return starts


def _moves(operands: Operands, s: Vector, arriving: Local) -> tuple[Node, Node]:
    """What flows back into a state of which all steps of a block are there: from the block after
    this one, and to the one before.
    """
    every = operands.carries(s)
    return bind(item(every, COUNT), arriving), store(arriving, item(every, number(0)))


def _result(operands: Operands, v: Vector, array: Node) -> Node:
    """Memory for the gradient of an input, which may be none."""
    written = {operands.places.of(w) for op in operands.plan.backward.operations for w in op.writes}
    make = "empty" if operands.places.of(adjoint(v)) in written else "zeros"
    shape = Tuple((size("T"), size("B"), operands.units(v)))
    return bind(array, call(np(make), shape, DTYPE))


def _made_of_parameters(plan: Plan, after: tuple[Node, ...]) -> list[Node]:
    """What the gradients of parameters gain through what is made of them."""
    found = shares(after)
    made = [v for v in plan.made.values() if v.name in found]
    if not made:
        return []
    gathered = []
    for v in made:
        gathered.append((v.name, _added(plan.cell, v, found[v.name])))
    return [bind(_FIXED, call(Global("_fixed_gradients"), PACKED, Dict(tuple(gathered))))]


def _gradients(plan: Plan, after: tuple[Node, ...]) -> Table:
    """The gradient of each parameter, from the sums that have parts of it."""
    cell, found = plan.cell, shares(after)
    gradients: list[tuple[str, Node]] = []
    for p in cell.learned:
        shape = Tuple(tuple(amount(n) for n in cell.shape(p)))
        parts = found.get(p.name, [])
        if p in plan.gains:
            parts = [*parts, item(_FIXED, Literal(p.name))]
            if len(parts) == 1:
                gradients.append((p.name, parts[0]))
                continue
        total = _added(cell, p, parts or [call(np("zeros"), shape, DTYPE)])
        is_flat = _is_flat(cell, p)
        gradients.append((p.name, total if is_flat else call(np("reshape"), total, shape)))
    return Table(tuple(gradients))


def _added(cell: Cell, p: Matrix | Vector, parts: Sequence[Node]) -> Node:
    """The parts of a gradient as one. Those of several axes may come in different shapes: a sum
    over rows has heads and rows as one axis, if one vector was for all heads.
    """
    if len(parts) > 1 and not _is_flat(cell, p):
        parts = [Reshaped(part, _flat_shape(cell, p)) for part in parts]
    (first, *others) = parts
    for other in others:
        first = Binary(first, "+", other)
    return first


def _is_flat(cell: Cell, p: Matrix | Vector) -> bool:
    """Whether a parameter has the axes in which sums over rows are, and no heads."""
    return len(cell.shape(p)) == (2 if isinstance(p, Matrix) else 1)


def _flat_shape(cell: Cell, p: Matrix | Vector) -> tuple[Node, ...]:
    """The shape in which sums over rows are: heads and rows as one axis."""
    axes = cell.shape(p)
    if isinstance(p, Vector):
        return (amount(units(axes)),)
    return (amount(units(axes[:-1])), amount(axes[-1]))
