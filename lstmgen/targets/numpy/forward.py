"""The forward pass over a sequence, block by block, and what it leaves for the backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...language.cell import Cell
from ...language.symbols import Vector
from ...planning.operations import Buffer
from ...planning.plans import Plan
from ...printing.orders import Order
from .analysis import variables
from .lower import (
    Lowering,
    all_sizes,
    block,
    block_of_steps,
    check_parameters,
    flat,
    flat_inputs,
    if_empty,
    shaped,
    strings,
)
from .operands import MASKS, START, Operands, Window, X
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
    Do,
    For,
    Function,
    Global,
    If,
    Kind,
    Literal,
    Local,
    Node,
    Return,
    Tuple,
    Unary,
    bind,
    call,
    empty,
    item,
    method,
    np,
    number,
    size,
)

_STATE, _TAPE = Argument("state"), Argument("tape")
_MAKER, _ROOM, _FINAL = (Local(name, name) for name in ("maker", "room", "final"))
_AT = Local("at", "at")  # where the block begins in what is kept
_MADE_BY = " made by"  # the key on the tape of who made it: no vector has such a name


def _slice(name: str, start: Node, stop: Node) -> Local:
    return Local(name, name, Kind.SLICE, call(Global("slice"), start, stop))


def _plus(a: Node, b: Node) -> Node:
    return Binary(a, "+", b)


_STEPS = _slice("steps", START, _plus(START, COUNT))
_KEPT = _slice("kept", _AT, _plus(_AT, COUNT))
_ENDS = _slice("ends", _plus(_AT, number(1)), _plus(_plus(_AT, COUNT), number(1)))


class _Operands(Operands):
    window = Window(_STEPS, _KEPT, _ENDS)

    def kept(self, buffer: Buffer, name: str, shape: tuple[Node, ...]) -> Local:
        if buffer.is_copied:
            narrow = empty(_ROOM, *shape, dtype=np(buffer.dtype.storage.name))
            return Local((buffer, "seq"), name, Kind.NARROW, narrow)
        return Local((buffer, "seq"), name, Kind.KEPT, empty(_ROOM, *shape))

    def stored(self, state: Vector) -> Local:
        shape = (_plus(_ROOM, number(1)), size("B"), self.units(state))
        return Local((state.name, "seq"), f"{state.name}_seq", Kind.STORED, empty(*shape))

    def result(self, v: Vector) -> Local:
        several = len(self.cell.outputs) > 1
        return Local((v.name, "output"), f"y_{v.name}" if several else "y")


def forward(plan: Plan, order: Order) -> Function:
    """The function ``forward`` of the module."""
    cell = plan.cell
    operands = _Operands(plan)
    sections = Lowering(operands, order).sections(plan.forward)
    states = {s: operands.stored(s) for s in cell.states}

    arguments = [X, _STATE, *([MASKS] if cell.masks else [])]
    prepare = call(Global("_prepare"), PACKED, *arguments)
    ys = {v: operands.result(v) for v in cell.outputs}
    y = _joined({v: shaped(cell, v, a, size("T"), size("B")) for v, a in ys.items()})
    no_tape = Choice(_TAPE, Dict(((_MADE_BY, _MAKER),)), Literal(None))
    final = Dict(
        tuple(
            (s.name, shaped(cell, s, method(item(array, _plus(_AT, COUNT)), "copy"), size("B")))
            for s, array in states.items()
        )
    )
    return Function(
        "forward",
        (
            check_parameters(),
            Assign((*arguments, DTYPE, SIZES), (prepare,)),
            all_sizes(cell),
            *flat_inputs(cell),
            Assign((_MAKER,), (Global("MAKER"), DTYPE, SIZES)),
            if_empty(
                *(bind(a, _no_output(cell, v)) for v, a in ys.items()),
                Return((_joined(ys), call(Global("_copies"), _STATE), no_tape)),
            ),
            Declare((Kind.PARAMETER,)),
            Declare((Kind.NUMBER,)),
            block_of_steps(),
            bind(_ROOM, Choice(_TAPE, size("T"), BLOCK), "steps that are kept"),
            Declare((Kind.KEPT, Kind.STORED), tuple(states.values()), Global("_arrays")),
            Declare((Kind.NARROW,)),
            Declare((Kind.SCRATCH,)),
            *(bind(a, empty(size("T"), size("B"), operands.units(v))) for v, a in ys.items()),
            Declare((Kind.CHOICE, Kind.VIEW)),
            *(
                bind(item(a, number(0)), flat(cell, s, item(_STATE, Literal(s.name)), size("B")))
                for s, a in states.items()
            ),
            Blank(),
            For(
                START,
                call(Global("range"), number(0), size("T"), BLOCK),
                _block(operands, sections),
            ),
            Blank(),
            bind(_FINAL, final),
            If(Unary("not ", _TAPE), (Return((y, _FINAL, Literal(None))),)),
            Return((y, _FINAL, _tape(operands))),
        ),
    )


def _joined(ys: Mapping[Vector, Node]) -> Node:
    """One output is an array, several are a dict."""
    if len(ys) == 1:
        return next(iter(ys.values()))
    return Dict(tuple((v.name, array) for v, array in ys.items()))


def _no_output(cell: Cell, v: Vector) -> Node:
    """An output of no steps, or of no rows."""
    return call(Global("_zeros"), Tuple(strings("T", "B", *cell.shape(v))), SIZES, DTYPE)


def _block(operands: _Operands, sections: Sequence[tuple[Node, ...]]) -> tuple[Node, ...]:
    """What is done for each block of steps."""
    cell, plan = operands.cell, operands.plan
    handed = _handed_on(operands, sections[1::2])
    ends: list[Node] = []
    for v in cell.outputs:
        if plan.home[v].scope != "given":
            ends.append(bind(item(operands.result(v), _STEPS), operands.whole(v)))
    copied = operands.copied()
    if copied:
        keep = Global("_keep")
        ends.append(If(_TAPE, tuple(Do(call(keep, there, here)) for here, there in copied)))
    if cell.states:  # what is kept is overwritten by the next block
        kept = [operands.stored(s) for s in cell.states]
        first = tuple(item(array, number(0)) for array in kept)
        last = tuple(item(array, COUNT) for array in kept)
        ends.append(If(Unary("not ", _TAPE), (Assign(first, last),)))
    return (
        bind(COUNT, call(Global("min"), BLOCK, Binary(size("T"), "-", START))),
        bind(_AT, Choice(_TAPE, START, number(0))),
        Declare((Kind.SLICE,), (_STEPS, _KEPT, _ENDS)),
        Declare((Kind.BLOCK,)),
        *(bind(come, item(array, _AT)) for loop in handed for come, _, array in loop),
        *block(
            plan.forward,
            sections,
            False,
            [[bind(come, go) for come, go, _ in loop] for loop in handed],
        ),
        *([Blank(), *ends] if ends else []),
    )


def _handed_on(
    operands: _Operands, loops: Sequence[Sequence[Node]]
) -> list[list[tuple[Node, Node, Local]]]:
    """States as they come into a step, and as they leave it, by the loop that alone has both: what
    a step leaves is what comes into the next one, so that no view is needed for it.
    """
    inside = [variables(loop) for loop in loops]
    handed: list[list[tuple[Node, Node, Local]]] = [[] for _ in loops]
    for s in operands.cell.states:
        come, go = operands.of(s, True), operands.of(s.at(0), True)
        for k, found in enumerate(inside):
            if come in found and go in found and sum(come in f for f in inside) == 1:
                handed[k].append((come, go, operands.stored(s)))
    return handed


def _tape(operands: _Operands) -> Dict:
    """What backward will read, or users: each block by its name, and all of a buffer together."""
    cell, plan = operands.cell, operands.plan
    given = (*cell.inputs, *cell.masks)
    kept: list[tuple[str, Node]] = [(v.name, operands.source(v)) for v in given]
    kept += [(s.name, operands.stored(s)) for s in cell.states]
    for buffer in plan.buffers:
        if buffer.scope != "tape":
            continue
        array = operands.memory(buffer)
        if len(buffer.blocks) > 1:
            kept += [(v.name, item(array, *operands.at([v], True))) for v in buffer.blocks]
        kept.append((tape_key(buffer), array))
    return Dict((*kept, (_MADE_BY, _MAKER)))


def tape_key(buffer: Buffer) -> str:
    """The key on the tape of all blocks of a buffer; of several, no vector can have such a name."""
    return " ".join(v.name for v in buffer.blocks)
