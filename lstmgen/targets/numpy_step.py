"""One step of the NumPy target, for streaming: straight on, with as few calls as it takes."""

from __future__ import annotations

from ..operations import STEP, Buffer, Multiply
from ..plans import Plan
from ..symbols import Vector
from .comments import wrapped
from .naming import identifier
from .numpy_passes import Stacks, Writer, shaped, used
from .numpy_places import Places
from .ufuncs import count


class Step(Writer):
    """The forward pass for a single step: every array is one of (B, size)."""

    def __init__(self, plan: Plan, stacks: Stacks) -> None:
        super().__init__(plan, plan.forward, Places(plan, stacked=False), stacks)
        self.region = STEP
        self.body[STEP] = [line for op in plan.forward.operations for line in self.operation(op)]

    def ref(self, v: Vector) -> str:
        v = self.places.of(v)
        if v.category in ("parameter", "constant"):
            return self.given(v)
        several = len(self.cell.inputs) > 1
        if v.category == "input" and not several:
            return "x_t"
        name = self.names(v, f"{v.name}_t" if v.category == "input" else identifier(v))
        buffer = self.plan.home.get(v)
        if v.category == "input":
            self.views.setdefault(name, f'x_t["{v.name}"]')
        elif v.category == "mask":
            self.views.setdefault(name, f'masks["{v.name}"]')
        elif v.category == "state" and v.time == -1:
            self.views.setdefault(name, f'state["{v.name}"]')
        elif buffer is not None and len(buffer.blocks) > 1:
            self.views.setdefault(name, f"{self._base(buffer)}[{self._at([v], '')}]")
        else:
            self.made.setdefault(name, shaped("B", self.cell.size(v)))
        return name

    def is_lasting(self, buffer: Buffer) -> bool:
        return False

    def weight(self, op: Multiply) -> str:
        bases = [m.base for m in op.matrices]
        stack = self.stacks(bases)
        name = self.names(("pack", stack), f"{self.stacks.wish(bases)}_T")
        self.packs.setdefault(name, f'packed.factor("{stack}")')
        return name

    def lines(self) -> list[str]:
        cell = self.cell
        new = [*(s.at(0) for s in cell.states)]
        if cell.output.category != "state":
            new.append(cell.output)
        results = ", ".join(f'"{v.name}": {self.ref(v)}' for v in new)
        body = self.body[STEP]
        ends = wrapped("return {", results, "}")
        rest = [*body, *ends]
        lines = [
            *(f"{name} = {pack}" for name, pack in self.packs.items()),
            *(f"{name} = {number}" for name, number in self.numbers.items()),
            *self.scratch(),
            *(f"{name} = {view}" for name, view in self.views.items() if used(name, rest)),
            *body,
            *ends,
        ]
        sizes = ["B", *(str(n) for n in cell.sizes)]
        needed = [n for n in sizes if used(n, lines)]
        asked = ", ".join(f'sizes["{n}"]' for n in needed)
        return [f"{', '.join(needed)} = {asked}", *lines] if needed else lines
