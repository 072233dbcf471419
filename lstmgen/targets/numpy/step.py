"""One step of the NumPy target, for streaming: straight on, with as few calls as it takes."""

from __future__ import annotations

from ...language.symbols import Vector
from ...planning.operations import STEP, Buffer, Multiply
from ...planning.plans import Plan
from ..comments import wrapped
from ..naming import identifier
from .passes import Stacks, Writer, needed_views, shaped, used
from .places import Places
from .ufuncs import count


class Step(Writer):
    """The forward pass for a single step: every array is one of (B, size)."""

    def __init__(self, plan: Plan, stacks: Stacks) -> None:
        super().__init__(plan, plan.forward, Places(plan), stacks)
        self.region = STEP
        self.body[STEP] = [line for op in plan.forward.operations for line in self.operation(op)]

    def here(self, v: Vector) -> str:
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

    def multiply(self, op: Multiply) -> list[str]:
        many = len(op.outs)
        if many == 1 or not self.stack(op.outs):
            return super().multiply(op)
        width = count(self.places.width(op.outs))
        flat = self._scratch("u", f"(B, {width})")
        blocks = self.names(("blocks", flat), f"{flat}_blocks")
        size = count(self.cell.size(op.outs[0]))
        self.views.setdefault(blocks, f"{flat}.reshape(B, {many}, {size}).swapaxes(0, 1)")
        return [
            f"# {self._product_text(op)}",
            self.product(op, self.run(op.operands), flat),
            *self._added(op, self.run(op.outs), blocks),
        ]

    def is_lasting(self, buffer: Buffer) -> bool:
        return False

    def product(self, op: Multiply, operand: str, out: str) -> str:
        if op.matrices[0].transposed:
            return super().product(op, operand, out)
        return f'packed.product({operand}, "{self.stacks([m.base for m in op.matrices])}", {out})'

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
            *needed_views(self.views, rest),
            *body,
            *ends,
        ]
        sizes = ["B", *(str(n) for n in cell.sizes)]
        needed = [n for n in sizes if used(n, lines)]
        asked = ", ".join(f'sizes["{n}"]' for n in needed)
        return [f"{', '.join(needed)} = {asked}", *lines] if needed else lines
