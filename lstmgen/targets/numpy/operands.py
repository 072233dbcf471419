"""Values of the plan as operands of NumPy calls: variables, and what they are views of.

In the loop over steps a name stands for one step; outside it, for the steps of the block, with
``_all`` added. ``_seq`` is the memory of what is kept for the whole sequence, ``_memory`` that of
what is needed for a block only. Equal questions have equal answers, and nothing is noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sympy import Expr

from ...language.shapes import Shape
from ...language.symbols import STATIC, Vector
from ...planning.operations import Buffer
from ...planning.plans import Plan
from ..naming import identifier
from .parameters import Parameters
from .scratch import BLOCK, COUNT, ROWS
from .tree import (
    ALL,
    ELLIPSIS,
    NEWAXIS,
    Amount,
    Argument,
    Binary,
    Kind,
    Literal,
    Local,
    Node,
    Reshaped,
    Span,
    Swapped,
    amount,
    empty,
    item,
    number,
    size,
)

X, MASKS, DY = Argument("x"), Argument("masks"), Argument("dy")
START = Local("start", "start")  # where the block begins in the sequence


@dataclass(frozen=True)
class Window:
    """The steps of a block, as indices of what a pass reads and writes."""

    steps: Local  # in what the caller gave, and will get
    kept: Local  # in what is kept of the sequence; of states, as they come in
    ends: Local  # of states, as they go out


class Operands:
    """Where a pass finds its values, and scratch to compute them with."""

    window: Window  # of passes over a sequence

    def __init__(self, plan: Plan) -> None:
        self.plan, self.cell, self.places = plan, plan.cell, plan.assignment
        self.parameters = Parameters(plan)
        self._units: dict[Vector, Amount] = {}
        self._bases: dict[Buffer, Local] = {}

    def units(self, v: Vector) -> Amount:
        """The size of ``v``."""
        if v not in self._units:
            self._units[v] = amount(self.cell.size(v))
        return self._units[v]

    # ------------------------------------------------------------------ to be decided by passes

    def kept(self, buffer: Buffer, name: str, shape: tuple[Node, ...]) -> Local:
        """The memory of a buffer on the tape, for the whole sequence."""
        raise NotImplementedError

    def stored(self, state: Vector) -> Local:
        """The array of a state with its first value in front, (steps + 1, B, size)."""
        raise NotImplementedError

    def result(self, v: Vector) -> Node:
        """What the caller will get, for the whole sequence."""
        raise NotImplementedError

    def carried(self, v: Vector) -> Local:
        """What a state's adjoint is kept in from step to step."""
        raise NotImplementedError

    def lasts(self, buffer: Buffer) -> bool:
        """Whether there is an array of ``buffer`` for all steps of the block."""
        return buffer.scope != "step"

    # ------------------------------------------------------------------ values

    def of(self, v: Vector, inside: bool) -> Node:
        """``v`` of this step in the loop, else of the whole block."""
        v = self.places.of(v)
        if v.category in STATIC:
            return self.parameters.vector(v)
        return self.here(v) if inside else self.whole(v)

    def here(self, v: Vector) -> Node:
        """``v`` of this step, (B, size)."""
        buffer = self.plan.home.get(v)
        if v.category == "carry" and not self.plan.is_shifted(v):
            return self.carried(v)
        if self.has_steps(v):
            return self.named(v, Kind.STEP, self.whole(v))
        if buffer is not None and len(buffer.blocks) > 1:
            return self.named(v, Kind.VIEW, item(self.base(buffer), *self.at([v], False)))
        return self.named(v, Kind.SCRATCH, empty(size("B"), self.units(v)))

    def named(self, v: Vector, kind: Kind, made: Node) -> Local:
        """The variable for ``v`` of this step."""
        name = f"{v.name}_t" if v.category == "input" else identifier(v, self.cell)
        return Local((v, "step"), name, kind, made)

    def has_steps(self, v: Vector) -> bool:
        """Whether there is an array of ``v`` for all steps."""
        buffer = self.plan.home.get(v)
        lasting = buffer is not None and buffer.scope in ("tape", "tile", "given")
        given = v.category in ("input", "mask", "state", "cotangent")
        return given or lasting or self.plan.is_shifted(v)

    def whole(self, v: Vector) -> Local:
        """``v`` for all steps of the block, (count, B, size)."""
        v = self.places.of(v)
        buffer = self.plan.home.get(v)
        view: Node
        if v.category in ("input", "mask", "cotangent"):
            view = item(self.source(v), self.window.steps)
        elif v.category == "state":
            steps = self.window.kept if v.time == -1 else self.window.ends
            view = item(self.stored(v), steps)
        elif v.category == "carry":
            later = Span(number(1), Binary(COUNT, "+", number(1)))
            view = item(self.carries(v), later if v.time == 0 else Span(stop=COUNT))
        elif buffer is not None and len(buffer.blocks) > 1:
            view = item(self.base(buffer), *self.at([v], True))
        else:
            view = self._memory(v, *self._alone(v))
        return Local((v, "all"), f"{identifier(v, self.cell)}_all", Kind.BLOCK, view)

    def shaped(self, v: Vector, axes: Shape, inside: bool) -> Node:
        """``v`` with those axes, of which some may be of 1, in the place of its units."""
        flat = self.of(v, inside)
        if axes == (self.cell.size(v),):
            return flat
        units = tuple(amount(n) for n in axes)
        key = (self.places.of(v), axes)
        if isinstance(flat, Local) and flat.kind is Kind.PARAMETER:
            shaped = Reshaped(flat, (number(1), *units))
            return Local((*key, "shaped"), "{}_nd", Kind.PARAMETER, shaped, beside=flat)
        lead = (size("B"),) if inside else (COUNT, size("B"))
        shaped = Reshaped(flat, (*lead, *units))
        if not isinstance(flat, Local) or flat.kind is None:
            return item(shaped, ELLIPSIS)  # what statements bind again at every step
        if inside and flat.kind is not Kind.STEP:
            return Local((*key, "shaped"), "{}_nd", Kind.VIEW, shaped, beside=flat)
        whole = self.whole(v)
        everywhere = Reshaped(whole, (COUNT, size("B"), *units))
        all_ = Local((*key, "shaped all"), "{}_nd", Kind.BLOCK, everywhere, beside=whole)
        if not inside:
            return all_
        return Local((*key, "shaped"), "{}_nd", Kind.STEP, all_, beside=flat)

    def once(self, v: Vector) -> Node:
        """``v`` for all steps of the block, with an axis for lanes, which have it in common."""
        v = self.places.of(v)
        if v.category in STATIC:
            return self.parameters.vector(v)
        whole = self.whole(v)
        return Local((v, "once"), "{}_once", Kind.BLOCK, item(whole, ALL, NEWAXIS), beside=whole)

    def carries(self, v: Vector) -> Local:
        """The memory of what flows back into a state at all steps of the block, and from the step
        after them.
        """
        shape = (Binary(BLOCK, "+", number(1)), size("B"), self.units(v))
        return Local((v.name, "carries"), f"d{v.name}_next_memory", Kind.SCRATCH, empty(*shape))

    def source(self, v: Vector) -> Node:
        """What the caller gave, for the whole sequence."""
        if v.category == "cotangent":
            return item(DY, Literal(v.name)) if len(self.cell.outputs) > 1 else DY
        if v.category == "mask":
            return item(MASKS, Literal(v.name))
        return item(X, Literal(v.name)) if len(self.cell.inputs) > 1 else X

    def _memory(self, v: Vector, name: str, shape: tuple[Node, ...]) -> Node:
        """The part that the block uses of the memory that begins with ``v``."""
        buffer = self.plan.home.get(v)
        if buffer is not None and buffer.scope == "tape" and not buffer.is_copied:
            return item(self.memory(buffer), self.window.kept)
        if buffer is not None and buffer.scope == "given":
            return item(self.result(v), self.window.steps)
        memory = Local((v, "memory"), f"{name}_memory", Kind.SCRATCH, empty(BLOCK, *shape))
        return item(memory, Span(stop=COUNT))

    def memory(self, buffer: Buffer) -> Local:
        """The memory of a buffer on the tape, for the whole sequence."""
        alone = len(buffer.blocks) == 1
        name, shape = self._alone(buffer.blocks[0]) if alone else self._together(buffer)
        return self.kept(buffer, f"{name}_seq", shape)

    def _alone(self, v: Vector) -> tuple[str, tuple[Node, ...]]:
        """The name and the shape of one step of a value that is alone in memory."""
        return identifier(v), (size("B"), self.units(v))

    def _together(self, buffer: Buffer) -> tuple[str, tuple[Node, ...]]:
        """The name and the shape of one step of all blocks of ``buffer``."""
        shape: tuple[Node, ...] = (size("B"), amount(self.plan.width(buffer)))
        if buffer.apart:
            units = self.units(buffer.blocks[0])
            shape = (number(len(buffer.blocks)), size("B"), units)
        return self._name(buffer.blocks), shape

    def copied(self) -> list[tuple[Node, Node]]:
        """What the block computes with of buffers that the tape has in fewer bits, and its place
        there.
        """
        pairs: list[tuple[Node, Node]] = []
        for buffer in self.plan.buffers:
            if buffer.is_copied:
                alone = len(buffer.blocks) == 1
                here = self.whole(buffer.blocks[0]) if alone else self.base(buffer)
                pairs.append((here, item(self.memory(buffer), self.window.kept)))
        return pairs

    # ------------------------------------------------------------------ blocks of a buffer

    def base(self, buffer: Buffer) -> Local:
        """All blocks of ``buffer`` as one array, for the block of steps or for the step."""
        if buffer not in self._bases:
            self._bases[buffer] = self._base(buffer)
        return self._bases[buffer]

    def _base(self, buffer: Buffer) -> Local:
        name, shape = self._together(buffer)
        here = Local((buffer, "step"), name, Kind.SCRATCH, empty(*shape))
        if not self.lasts(buffer):
            return here
        memory = self._memory(buffer.blocks[0], name, shape)
        return Local((buffer, "all"), f"{name}_all", Kind.BLOCK, memory, beside=here)

    def at(self, blocks: Sequence[Vector], whole: bool) -> tuple[Node, ...]:
        """The index of neighbouring blocks in their buffer, ``whole`` if that has steps."""
        buffer = self.places.home(blocks[0])
        assert buffer is not None
        if not buffer.apart:
            return (ELLIPSIS if whole else ALL, self.span(blocks))
        start = self.places.index(blocks[0])
        stop = start + len(blocks)
        chosen: Node = number(start)
        if len(blocks) > 1:
            last = number(stop) if stop < len(buffer.blocks) else None
            chosen = Span(number(start) if start else None, last)
        return (ALL, chosen) if whole else (chosen,)

    def span(self, blocks: Sequence[Vector]) -> Span:
        start = self.places.start(blocks[0])
        return span(start, start + self.places.width(blocks))

    def run(self, blocks: Sequence[Vector], inside: bool) -> Node:
        """Neighbouring blocks taken as one array."""
        if len(blocks) == 1:
            return self.of(blocks[0], inside)
        blocks = [self.places.of(v) for v in blocks]
        buffer = self.plan.home[blocks[0]]
        base = self.base(buffer)
        lasts = self.lasts(buffer)
        if tuple(blocks) == buffer.blocks:
            if not lasts:
                return base
            key: tuple[object, ...] = (buffer, "step")
            name, whole = self._name(buffer.blocks), base
        else:
            key, name = (buffer, *blocks), self._name(blocks)
            part = item(base, *self.at(blocks, lasts))
            if not lasts:
                return Local(key, name, Kind.VIEW, part)
            whole = Local((*key, "all"), f"{name}_all", Kind.BLOCK, part, beside=Local(key, name))
        return Local(key, name, Kind.STEP, whole) if inside else whole

    def _name(self, blocks: Sequence[Vector]) -> str:
        """``a`` for all pre-activations, a_ifo for some, ifo where names have nothing in common."""
        mark = "d" if blocks[0].category.endswith("adjoint") else ""
        common, members = _family(blocks)
        wish = members
        if common:
            homes = [b for b in self.plan.buffers if b.blocks[0].category == blocks[0].category]
            others = [b.blocks for b in homes if b.blocks != tuple(blocks)]
            alone = not any(_family(other)[0] == common for other in others)
            wish = common if alone else f"{common}_{members}"
        return f"{mark}{wish}" if wish.isidentifier() else f"{mark}{blocks[0].name}_etc"

    def rows(self, blocks: Sequence[Vector]) -> Node:
        """Neighbouring blocks of all steps of the block as a matrix with a row for each step and
        row of the batch.
        """
        blocks = [self.places.of(v) for v in blocks]
        buffer = self.plan.home.get(blocks[0])
        apart = buffer is None or len(buffer.blocks) == 1 or blocks[0].category == "state"
        if buffer is None or apart or buffer.apart:
            assert len(blocks) == 1
            return Reshaped(self.whole(blocks[0]), (ROWS, self.units(blocks[0])))
        matrix = Reshaped(self.base(buffer), (ROWS, amount(self.plan.width(buffer))))
        whole = tuple(blocks) == buffer.blocks
        return matrix if whole else item(matrix, ALL, self.span(blocks))

    def lane(self, blocks: Sequence[Vector], inside: bool) -> Node:
        """The values of all lanes: (lanes, B, size) in the loop, else with steps."""
        if blocks[0].category in STATIC:
            return self.parameters.lanes(blocks)
        if self.places.in_stack(blocks[0]):
            return self.run(blocks, inside)
        buffer = self.places.home(blocks[0])
        assert buffer is not None
        many, units = number(len(blocks)), self.units(blocks[0])
        here = self.run(blocks, True)
        assert isinstance(here, Local)
        key = (here.key, "lanes")
        if not self.lasts(buffer):
            turned = Swapped(Reshaped(here, (size("B"), many, units)), 0, 1)
            return Local(key, "{}_lanes", Kind.VIEW, turned, beside=here)
        everywhere = self.run(blocks, False)
        turned = Swapped(Reshaped(everywhere, (COUNT, size("B"), many, units)), 1, 2)
        whole = Local((*key, "all"), "{}_lanes_all", Kind.BLOCK, turned, beside=here)
        return Local(key, "{}_lanes", Kind.STEP, whole, beside=here) if inside else whole


def span(start: Expr, stop: Expr) -> Span:
    """A slice, without a start of 0."""
    return Span(amount(start) if start != 0 else None, amount(stop))


def _family(blocks: Sequence[Vector]) -> tuple[str, str]:
    """What the names of ``blocks`` have in common, and what they differ in: d_Wx and ifog for
    d_Wx_i d_Wx_f d_Wx_o d_Wx_g.
    """
    words = [v.name.split("_") for v in blocks]
    begin = _shared(words)
    end = _shared([w[:begin:-1] for w in words])
    common = words[0][:begin] + words[0][len(words[0]) - end :]
    return "_".join(common), "".join("".join(w[begin : len(w) - end]) for w in words)


def _shared(lists: Sequence[Sequence[str]]) -> int:
    """How many words all lists begin with."""
    alike = [len(set(words)) == 1 for words in zip(*lists, strict=False)]
    return [*alike, False].index(False)
