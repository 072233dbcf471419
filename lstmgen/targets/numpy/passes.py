"""The two passes of the NumPy target: forward and backward over a sequence.

Both work through the sequence in blocks of a few steps, so that what is worked on stays in the
cache and the workspace does not grow with the sequence. In a block, what does not depend on the
recurrence is done for all its steps at once.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import sympy
from sympy import Eq, Expr, Function

from ...derivation.reverse import adjoint, carry
from ...language.symbols import STATIC, Matrix, Vector
from ...planning.lanes import Group, groups
from ...planning.operations import (
    AFTER,
    BEFORE,
    STEP,
    ZERO,
    Buffer,
    Fill,
    Fused,
    Multiply,
    Operation,
    Outers,
    Pass,
    Sums,
)
from ...planning.plans import Plan
from ...printing.orders import Order
from ...printing.text import text
from ..comments import wrapped
from ..naming import Names, identifier
from .places import Places
from .ufuncs import Calls, count, scalar

# what the module calls its own variables, in all its functions
RESERVED = frozenset(
    """np math params packed x x_t state masks dtype tape y dy dx dstate grads T B sizes name T init
    forward backward step pack block room count at start stop steps kept ends first ones times
    new ROWS STACKS PARAMETERS STATES INPUTS MASKS CONSTANTS OUTPUT CELL MAKER
    SIZES NUMBERS INITIAL maker zip range min slice dict float""".split()
)
_NUMBERS = {
    "-1.0": "minus",
    "0.0": "zero",
    "0.5": "half",
    "1.0": "one",
    "2.0": "two",
    "3.0": "three",
}


class Stacks:
    """Parameters that products want stacked: the name of each stack, and what is in it."""

    def __init__(self, plan: Plan) -> None:
        self.cell = plan.cell
        self.order = Order(plan.cell, plan.derivation.forward)
        self.names = Names(p.name for p in plan.cell.parameters)
        self.members: dict[str, tuple[str, ...]] = {}

    def __call__(self, parameters: Sequence[Matrix | Vector]) -> str:
        """The name of ``parameters`` on top of each other; of one, its own."""
        if len(parameters) == 1:
            return str(parameters[0].name)
        key = tuple(p.name for p in parameters)
        name = self.names(key, self.wish(parameters))
        self.members[name] = key
        return name

    def wish(self, parameters: Sequence[Matrix | Vector]) -> str:
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


class Writer:
    """Writes operations as NumPy calls, and notes every array that they mention.

    Within the loop over steps a name stands for one step; outside it, for the steps of the block,
    with ``_all`` added. ``_seq`` is the memory of what is kept for the whole sequence, ``_memory``
    that of what is needed for a block only.
    """

    def __init__(self, plan: Plan, part: Pass, places: Places, stacks: Stacks) -> None:
        self.plan, self.part, self.cell = plan, part, plan.cell
        self.places, self.stacks = places, stacks
        self.order = stacks.order
        self.names = Names({*RESERVED, *keyword.kwlist, *(s.name for s in plan.cell.sizes)})
        self.calls = Calls(self.cell, self.order, self.ref, self.temporary, self.number, self.total)
        self.region = BEFORE
        self.packs: dict[str, str] = {}  # parameters, stacked or not -> the expression
        self.numbers: dict[str, str] = {}  # numbers as arrays -> the expression
        self.made: dict[str, str] = {}  # scratch for a block or a step -> its shape
        self.lasting: dict[str, str] = {}  # memory for the whole sequence -> its shape
        self.taken: dict[str, str] = {}  # what another pass left -> where it is
        self.choices: dict[str, str] = {}  # what depends on the size of the batch -> expression
        self.views: dict[str, str] = {}  # views that last as long as the function -> expression
        self.block: dict[str, str] = {}  # views for a block -> expression
        self.each: dict[str, str] = {}  # names within the loop -> the array of all steps
        self.body: dict[str, list[str]] = {}
        self.lanes: dict[Vector, str] = {}  # what stands for the vectors of all lanes
        self.many = 1  # the number of lanes

    def write(self) -> None:
        for region in (BEFORE, STEP, AFTER):
            self.region = region
            self.body[region] = [
                line for op in getattr(self.part, region) for line in self.operation(op)
            ]
        self.region = BEFORE

    def operation(self, op: Operation) -> list[str]:
        if isinstance(op, Multiply):
            return self.multiply(op)
        if isinstance(op, Fill):
            return self.fill(op)
        assert isinstance(op, Fused)
        return self.fused(op)

    def show(self, e: Expr | Eq) -> str:
        return text(e, self.order)

    # ------------------------------------------------------------------ names of arrays

    def ref(self, v: Vector) -> str:
        """The name of ``v`` where we are: of this step in the loop, else of the whole block."""
        if v in self.lanes:
            return self.lanes[v]
        v = self.places.of(v)
        if v.category in STATIC:
            return self.given(v)
        if self.region == STEP:
            return self.here(v)
        return self._for_lanes(v) if self.lanes else self.whole(v)

    def here(self, v: Vector) -> str:
        """The name of ``v`` of this step, shape (B, size)."""
        name = self.names(v, f"{v.name}_t" if v.category == "input" else identifier(v))
        buffer = self.plan.home.get(v)
        if v.category == "carry":
            pass  # made from dstate
        elif self._has_steps(v):
            self.each.setdefault(name, self.whole(v))
        elif buffer is not None and len(buffer.blocks) > 1:
            base = self._base(buffer)
            self.views.setdefault(name, f"{base}[{self._at([v], '')}]")
        else:
            self.made.setdefault(name, shaped("B", self.cell.size(v)))
        return name

    def _for_lanes(self, v: Vector) -> str:
        """``v`` of all steps, with an axis for the lanes, which have it in common."""
        whole = self.whole(v)
        name = self.names((v, "lanes"), f"{whole}_once")
        self.block.setdefault(name, f"{whole}[:, np.newaxis]")
        return name

    def given(self, v: Vector) -> str:
        """The name of a parameter or constant."""
        name = self.names(v, v.name)
        value = f'packed["{v.name}"]'
        if v.category == "parameter":  # with an axis for rows: for one row, nothing is broadcast
            self.packs.setdefault(name, f"{value}[np.newaxis]")
        else:
            self.packs.setdefault(name, f"np.array({value}, dtype)")
        return name

    def _has_steps(self, v: Vector) -> bool:
        """Whether there is an array of ``v`` for all steps."""
        buffer = self.plan.home.get(v)
        lasting = buffer is not None and buffer.scope in ("tape", "tile", "given")
        return v.category in ("input", "mask", "state", "cotangent") or lasting

    def whole(self, v: Vector) -> str:
        """The name of ``v`` for all steps of the block, shape (count, B, size)."""
        v = self.places.of(v)
        name = self.names((v, "all"), f"{identifier(v)}_all")
        buffer = self.plan.home.get(v)
        if v.category in ("input", "mask", "cotangent"):
            self.block.setdefault(name, f"{self.source(v)}[steps]")
        elif v.category == "state":
            self.block.setdefault(
                name, f"{self.stored(v)}[{self.kept if v.time == -1 else 'ends'}]"
            )
        elif buffer is not None and len(buffer.blocks) > 1:
            base = self._base(buffer)
            self.block.setdefault(name, f"{base}[{self._at([v], ':, ')}]")
        else:
            self.block.setdefault(name, self._memory(v, identifier(v), ("B",), self.cell.size(v)))
        return name

    kept = "kept"  # the slice of the block in what is kept of the sequence
    keeps = True  # whether this pass makes what is kept

    def source(self, v: Vector) -> str:
        """The name of what the caller gave, for the whole sequence."""
        if v.category == "cotangent":
            return "dy"
        return f'x["{v.name}"]' if len(self.cell.inputs) > 1 and v.category == "input" else (
            "x" if v.category == "input" else f'masks["{v.name}"]'
        )  # fmt: skip

    def stored(self, state: Vector) -> str:
        """The name of a state's array with its first value in front, (steps + 1, B, size)."""
        return self.names((state.name, "stored"), f"{state.name}_seq")

    def _memory(self, v: Vector, wish: str, lead: Sequence[str], size: Expr) -> str:
        """The memory of an array, and the part of it that the block uses."""
        buffer = self.plan.home.get(v)
        if buffer is not None and buffer.scope == "tape":
            name = self.names((v, "seq"), f"{wish}_seq")
            if self.keeps:
                self.lasting.setdefault(name, shaped(", ".join(("room", *lead)), size))
            else:
                self.taken.setdefault(name, f'tape["{tape_key(buffer)}"]')
            return f"{name}[{self.kept}]"
        if buffer is not None and buffer.scope == "given":
            return f"{self.result(v)}[steps]"
        name = self.names((v, "memory"), f"{wish}_memory")
        self.made.setdefault(name, shaped(", ".join(("block", *lead)), size))
        return f"{name}[:count]"

    def result(self, v: Vector) -> str:
        """The name of an array that the caller will get, for the whole sequence."""
        if not v.category.endswith("adjoint"):
            return "y"
        several = len(self.cell.inputs) > 1
        return self.names((v, "result"), f"dx_{v.name}") if several else "dx"

    def is_lasting(self, buffer: Buffer) -> bool:
        """Whether there is an array of ``buffer`` for all steps of the block."""
        return buffer.scope != "step"

    def _base(self, buffer: Buffer) -> str:
        """The name of all blocks of ``buffer`` as one array, for the block or for the step."""
        lasting = self.is_lasting(buffer)
        wish = self._run_wish(buffer.blocks)
        here = self.names((buffer, "step"), wish)
        if self.places.is_stack(buffer):
            lead: tuple[str, ...] = (str(len(buffer.blocks)), "B")
            size = self.cell.size(buffer.blocks[0])
        else:
            lead, size = ("B",), self.plan.width(buffer)
        if not lasting:
            self.made.setdefault(here, shaped(", ".join(lead), size))
            return here
        name = self.names((buffer, "all"), f"{wish}_all")
        self.block.setdefault(name, self._memory(buffer.blocks[0], wish, lead, size))
        return name

    def _at(self, blocks: Sequence[Vector], steps: str) -> str:
        """The index of neighbouring blocks in their buffer; ``steps`` stands for the first axis."""
        buffer = self.places.home(blocks[0])
        assert buffer is not None
        if not self.places.is_stack(buffer):
            return f"{'..., ' if steps else ':, '}{self.span(blocks)}"
        start = self.places.index(blocks[0])
        if len(blocks) == 1:
            return f"{steps}{start}"
        stop = start + len(blocks)
        first, last = start or "", stop if stop < len(buffer.blocks) else ""
        return f"{steps}{first}:{last}"

    def span(self, blocks: Sequence[Vector]) -> str:
        start = self.places.start(blocks[0])
        return span(start, start + self.places.width(blocks))

    def run(self, blocks: Sequence[Vector]) -> str:
        """The name of neighbouring blocks taken as one array."""
        if len(blocks) == 1:
            return self.ref(blocks[0])
        here, everywhere = self._run_names(blocks)
        if not self.is_lasting(self.plan.home[self.places.of(blocks[0])]):
            return here
        if self.region == STEP:
            self.each.setdefault(here, everywhere)
            return here
        return everywhere

    def _run_names(self, blocks: Sequence[Vector]) -> tuple[str, str]:
        """The names of neighbouring blocks, (of this step, of all steps of the block)."""
        blocks = [self.places.of(v) for v in blocks]
        buffer = self.plan.home[blocks[0]]
        base = self._base(buffer)
        lasting = self.is_lasting(buffer)
        if tuple(blocks) == buffer.blocks:
            return self.names((buffer, "step"), ""), base
        wish = self._run_wish(blocks)
        here = self.names((buffer, *blocks), wish)
        everywhere = self.names((buffer, *blocks, "all"), f"{wish}_all")
        views = self.block if lasting else self.views
        part = f"{base}[{self._at(blocks, ':, ' if lasting else '')}]"
        views.setdefault(everywhere if lasting else here, part)
        return here, everywhere

    def _run_wish(self, blocks: Sequence[Vector]) -> str:
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

    def rows(self, blocks: Sequence[Vector]) -> str:
        """Neighbouring blocks of all steps of the block as a matrix with a row for each step and
        row of the batch.
        """
        blocks = [self.places.of(v) for v in blocks]
        buffer = self.plan.home.get(blocks[0])
        side_by_side = buffer is not None and len(buffer.blocks) > 1
        if not side_by_side or blocks[0].category == "state" or self.places.is_stack(buffer):  # type: ignore[arg-type]
            assert len(blocks) == 1
            return f"{self.whole(blocks[0])}.reshape(count * B, {count(self.cell.size(blocks[0]))})"
        assert buffer is not None
        matrix = f"{self._base(buffer)}.reshape(count * B, {count(self.plan.width(buffer))})"
        return matrix if tuple(blocks) == buffer.blocks else f"{matrix}[:, {self.span(blocks)}]"

    def alone(self, v: Vector) -> bool:
        """Whether ``v`` has an array of its own, which is contiguous."""
        buffer = self.places.home(v)
        return buffer is None or len(buffer.blocks) == 1

    def stack(self, blocks: Sequence[Vector]) -> bool:
        buffer = self.places.home(blocks[0])
        return buffer is not None and len(buffer.blocks) > 1 and self.places.is_stack(buffer)

    def temporary(self, number: int, size: Expr) -> str:
        """The name of a scratch array: s1, s2, … in the loop, S1, S2, … outside."""
        inside = self.region == STEP
        key = ("scratch", inside, str(size), number, self.many)
        name = self.names(key, f"{'s' if inside else 'S'}{number}")
        rows = "B" if self.many == 1 else f"{self.many}, B"
        if inside:
            self.made.setdefault(name, shaped(rows, size))
        else:
            memory = self.names((*key, "memory"), f"{name}_memory")
            self.made.setdefault(memory, shaped(f"block, {rows}", size))
            self.block.setdefault(name, f"{memory}[:count]")
        return name

    def number(self, value: str) -> str:
        """The name of a number, as an array without axes."""
        name = self.names(("number", value), _NUMBERS.get(value, "number"))
        self.numbers.setdefault(name, f"np.array({value}, dtype)")
        return name

    def total(self, operand: str, out: str, size: Expr, weight: Expr) -> str:
        """The call that writes the sum over units, each times ``weight``, to ``out``: a product
        with a column, which is faster than a reduction.
        """
        kind = {sympy.S.One: "ones", 1 / size: "mean"}.get(weight, "column")
        column = self.names(("column", size, weight), f"{kind}_{count(size)}")
        self.numbers.setdefault(column, f"np.full(({count(size)}, 1), {scalar(weight)}, dtype)")
        alone = self.region == STEP and self.many == 1 and out in self.made
        return f"np.{'dot' if alone else 'matmul'}({operand}, {column}, out={out})"

    # ------------------------------------------------------------------ products

    def multiply(self, op: Multiply) -> list[str]:
        inside = self.region == STEP
        out = self.run(op.outs)
        lines = [f"# {self._product_text(op)}"]
        operand = self.run(op.operands) if inside else self.rows(op.operands)
        width = count(self.places.width(op.outs))
        size = count(self.cell.size(op.outs[0]))
        many = len(op.outs)
        if self.stack(op.outs) and (many > 1 or not inside):
            if inside:
                buffer = self.places.home(op.outs[0])
                direct = buffer is not None and buffer.scope == "step" and self._fills(op.outs)
                direct = direct and not op.accumulate
                product = out if direct else self._scratch("u", f"({many}, B, {size})")
                weight = self._factor(self.weight(op), many)
                lines.append(f"times({operand}, {weight}, out={self._flat(product, width)})")
                product = "" if direct else product
            else:
                flat = self._scratch("product", f"(block * B, {width})", "count * B")
                lines.append(self.product(op, operand, flat))
                product = f"{flat}.reshape(count, B, {many}, {size}).swapaxes(1, 2)"
                if many == 1:
                    product = f"{flat}.reshape(count, B, {size})"
        else:
            target = out if inside else self.rows(op.outs)
            direct = (self.alone(op.outs[0]) and many == 1) or self._fills(op.outs)
            direct = direct or (inside and self.stack(op.outs))
            if direct and not op.accumulate:
                lines.append(self.product(op, operand, target))
                product = ""
            elif inside:
                product = self._scratch("u", f"(B, {width})")
                lines.append(self.product(op, operand, product))
            else:
                flat = self._scratch("product", f"(block * B, {width})", "count * B")
                lines.append(self.product(op, operand, flat))
                product = f"{flat}.reshape(count, B, {width})"
        return lines + self._added(op, out, product)

    def product(self, op: Multiply, operand: str, out: str) -> str:
        """The statement that multiplies; np.dot takes less time to start than np.matmul."""
        function = "np.dot" if self.region == STEP else "np.matmul"
        return f"{function}({operand}, {self.weight(op)}, out={out})"

    def weight(self, op: Multiply) -> str:
        """The right factor of a product with rows."""
        bases = [m.base for m in op.matrices]
        stack = self.stacks(bases)
        wish = self.stacks.wish(bases)
        if op.matrices[0].transposed:
            name = self.names(("pack", stack), wish)
            self.packs.setdefault(name, f'packed.stack("{stack}")')
        elif self.region == STEP:
            name = self.names(("pack", stack, "copy"), f"{wish}_T")
            self.packs.setdefault(name, f'packed.transposed("{stack}")')
        else:
            name = self.names(("pack", stack, "view"), f"{wish}_T")
            self.packs.setdefault(name, f'packed.stack("{stack}").T')
        return name

    def _factor(self, weight: str, many: int) -> str:
        """The weight of a stacked product in the loop, as blocks of columns."""
        self.choices.setdefault("times", "np.dot if B == 1 else np.matmul")
        name = self.names(("factor", weight), f"{weight}_blocks")
        self.choices.setdefault(name, f"{weight} if B == 1 else _blocks({weight}, {many})")
        return name

    def _flat(self, product: str, width: str) -> str:
        """Where a stacked product in the loop goes: for a single row, blocks one after another
        are blocks side by side.
        """
        name = self.names(("flat", product), f"{product}_out")
        self.choices.setdefault(name, f"{product}.reshape(1, {width}) if B == 1 else {product}")
        return name

    def _scratch(self, wish: str, shape: str, used: str = "") -> str:
        """Scratch for a product, shared by all products of that shape."""
        name = self.names(("product", shape), wish)
        if not used:
            self.made.setdefault(name, shape)
            return name
        memory = self.names(("product", shape, "memory"), f"{name}_memory")
        self.made.setdefault(memory, shape)
        self.block.setdefault(name, f"{memory}[: {used}]")
        return name

    def _fills(self, blocks: Sequence[Vector]) -> bool:
        """Whether these are all blocks of their buffer."""
        buffer = self.places.home(blocks[0])
        return buffer is not None and tuple(self.places.of(v) for v in blocks) == buffer.blocks

    def _added(self, op: Multiply, out: str, product: str) -> list[str]:
        """Lines that put a product, and biases, where they belong."""
        if op.accumulate:
            return [f"{out} += {product}"]
        with_bias = [b is not None for b in op.biases]
        if all(with_bias) and product:
            return [f"np.add({product}, {self.bias(op.biases, op.outs)}, out={out})"]
        lines = [f"{out}[...] = {product}"] if product else []
        for start, stop in true_runs(with_bias):
            part = self.run(op.outs[start:stop])
            lines.append(f"{part} += {self.bias(op.biases[start:stop], op.outs[start:stop])}")
        return lines

    def _product_text(self, op: Multiply) -> str:
        """The equations of a stacked product on one line."""
        sign = "+=" if op.accumulate else "="
        if len(op.outs) == 1:
            operands = op.operands * len(op.matrices) if len(op.operands) == 1 else op.operands
            pairs = zip(op.matrices, operands, strict=True)
            total = sympy.Add(*(m @ v for m, v in pairs), *(b for b in op.biases if b is not None))
            return f"{self.show(op.outs[0])} {sign} {self.show(total)}"
        outs = " ".join(self.show(o) for o in op.outs)
        names = " ".join(m.name for m in op.matrices)
        plus = f", plus {' '.join(b.name for b in op.biases if b)}" if any(op.biases) else ""
        return f"{outs} {sign} {names} times {self.show(op.operands[0])}{plus}"

    def bias(self, biases: Sequence[Vector | None], outs: Sequence[Vector]) -> str:
        found = [b for b in biases if b is not None]
        if len(found) == 1:
            return self.ref(found[0])
        stack = self.stacks(found)
        name = self.names(("pack", stack), self.stacks.wish(found))
        value = f'packed.stack("{stack}")'
        if self.stack(outs):
            value += f".reshape({len(outs)}, 1, {count(self.cell.size(outs[0]))})"
        else:
            value += "[np.newaxis]"
        self.packs.setdefault(name, value)
        return name

    def fill(self, op: Fill) -> list[str]:
        lines = []
        for out, bias in zip(op.outs, op.biases, strict=True):
            start = self.show(bias) if bias is not None else "0"
            lines += [
                f"# {self.show(out)} = {start}; products are added in the loop",
                f"{self.ref(out)}[...] = {self.ref(bias) if bias is not None else '0.0'}",
            ]
        return lines

    # ------------------------------------------------------------------ elementwise

    def fused(self, op: Fused) -> list[str]:
        """Equations in an order in which those that can be computed together are."""
        ends = {self.cell.output, *(adjoint(v) for v in self.cell.inputs)}
        together = {
            e: run
            for group in groups(op.equations, self.cell, ends)
            for run in self._runs(group)
            for e in run.equations
        }
        waiting = list(op.equations)
        lines: list[str] = []
        while waiting:
            ready = [e for e in waiting if self._is_ready(e, waiting)]
            first = next((e for e in ready if not isinstance(e.rhs, Function)), ready[0])
            run = together.get(first)
            done: Sequence[Eq] = [first]
            if run is not None and all(e in ready for e in run.equations):
                lines += self._lanes(run)
                done = run.equations
            else:
                lines += self._equation(first)
            waiting = [e for e in waiting if e not in done]
        return lines

    def _is_ready(self, e: Eq, waiting: Sequence[Eq]) -> bool:
        """Whether nothing that ``e`` reads is still to come, nor who reads what it writes over."""
        reads = e.rhs.atoms(Vector)
        if any(u.lhs in reads for u in waiting):
            return False
        if e.lhs.category != "carry":
            return True
        name = self.names(e.lhs, identifier(e.lhs))
        over = [carry(s) for s in self.cell.states if self.names.given.get(carry(s)) == name]
        return not any(u != e and v in over for u in waiting for v in u.rhs.atoms(Vector))

    def _runs(
        self, group: Group, tuples: Sequence[tuple[Vector, ...]] | None = None
    ) -> list[Group]:
        """The parts of ``group`` whose lanes, or ``tuples`` of these, really lie side by side."""
        tuples = group.tuples if tuples is None else tuples
        if not tuples:
            return []
        order = sorted(range(len(group.lhs)), key=lambda k: self._position(tuples[0][k]))
        runs: list[list[int]] = []
        for k in order:
            if runs and all(self._are_neighbours(t[runs[-1][-1]], t[k]) for t in tuples):
                runs[-1].append(k)
            else:
                runs.append([k])
        return [group.chosen(run) for run in runs if len(run) > 1]

    def _position(self, v: Vector) -> tuple[int, int]:
        home = self.places.home(v)
        return (-1, 0) if home is None else (self.plan.buffers.index(home), self.places.index(v))

    def _are_neighbours(self, v: Vector, w: Vector) -> bool:
        here, there = self.places.home(v), self.places.home(w)
        if here is None or here != there or len(here.blocks) == 1:
            return False
        return self.places.index(w) == self.places.index(v) + 1

    def _lanes(self, group: Group) -> list[str]:
        """Equations that say the same of values side by side, as one."""
        self.many = len(group.equations)
        first = group.equations[0]
        lanes = {v: self._lane(blocks) for v, blocks in group.varied.items()}
        out = self._lane(group.lhs)
        self.lanes = {**lanes, first.lhs: out}
        lines = [*self._shown(group.equations), *self.calls.into(first.rhs, out)]
        self.lanes, self.many = {}, 1
        return lines

    def _shown(self, equations: Sequence[Eq]) -> list[str]:
        """Equations that say the same, as comments."""
        first, *others = [self.plan.origin.get(e.lhs, e) for e in equations]
        if len(others) == 1:
            return [f"# {self.show(first)}", f"# {self.show(others[0])}"]
        return [f"# {self.show(first)}", f"# and so {' '.join(self.show(e.lhs) for e in others)}"]

    def _lane(self, blocks: Sequence[Vector]) -> str:
        """What holds the values of all lanes: (lanes, B, size) in the loop, else with steps."""
        size = count(self.cell.size(blocks[0]))
        if blocks[0].category in STATIC:
            stack = self.stacks(blocks)
            name = self.names(("pack", stack, "lanes"), self.stacks.wish(blocks))
            self.packs.setdefault(
                name, f'packed.stack("{stack}").reshape({len(blocks)}, 1, {size})'
            )
            return name
        if self.stack(blocks):
            return self.run(blocks)
        buffer = self.places.home(blocks[0])
        assert buffer is not None
        here, everywhere = self._run_names(blocks)
        name = self.names((here, "lanes"), f"{here}_lanes")
        if not self.is_lasting(buffer):
            shape = f"B, {len(blocks)}, {size}"
            self.views.setdefault(name, f"{here}.reshape({shape}).swapaxes(0, 1)")
            return name
        whole = self.names((here, "lanes", "all"), f"{here}_lanes_all")
        shape = f"count, B, {len(blocks)}, {size}"
        self.block.setdefault(whole, f"{everywhere}.reshape({shape}).swapaxes(1, 2)")
        if self.region != STEP:
            return whole
        self.each.setdefault(name, whole)
        return name

    def _equation(self, e: Eq) -> list[str]:
        shown = self.plan.origin.get(e.lhs, e)
        return [f"# {self.show(shown)}", *self.calls.into(e.rhs, self.ref(e.lhs))]

    # ------------------------------------------------------------------ putting together

    def section(self, title: str, lines: Sequence[str]) -> list[str]:
        return ["", f"# {title}: all steps of the block at once", *lines] if lines else []

    def loop(self, backwards: bool, extra: Sequence[str] = ()) -> list[str]:
        lines = [*self.body[STEP], *extra]
        if not self.body[STEP]:
            return []
        back = "[::-1]" if backwards else ""
        each = {n: a for n, a in self.each.items() if used(n, lines)}
        names = ", ".join(each)
        arrays = ", ".join(f"{array}{back}" for array in each.values())
        short = f"for {names} in zip({arrays}):"
        if not each:
            head = ["for _ in range(count):"]
        elif len(each) == 1:
            head = [f"for {names} in {arrays}:"]
        elif len(short) <= 88:
            head = [short]
        else:
            head = [*wrapped("for (", names, ") in zip(", 88), *wrapped("", arrays, "):", width=0)]
        return ["", *head, *(f"    {line}" for line in lines)]

    def scratch(self) -> list[str]:
        """Lines that make the arrays to work in, those of one shape together."""
        lines = [line for body in self.body.values() for line in body]
        lines += [*self.block.values(), *self.views.values(), *self.choices.values()]
        alike: dict[str, list[str]] = {}
        for name, shape in self.made.items():
            if not used(name, lines):
                continue
            alike.setdefault(shape, []).append(name)
        made_lines = []
        for shape, names in alike.items():
            if len(names) == 1:
                made_lines.append(f"{names[0]} = np.empty({shape}, dtype)")
            else:
                made = f" = np.empty(({len(names)}, {shape[1:]}, dtype)"
                joined = ", ".join(names)
                if len(joined) + len(made) <= 92:
                    made_lines.append(f"{joined}{made}")
                else:
                    made_lines += wrapped("(", joined, f"){made}", 0)
        return made_lines

    def pieces(self, shapes: Mapping[str, str]) -> list[str]:
        """Lines that make arrays in one piece of memory."""
        if len(shapes) < 2:
            return [f"{name} = np.empty({shape}, dtype)" for name, shape in shapes.items()]
        names, made = ", ".join(shapes), ", ".join(shapes.values())
        short = f"{names} = _arrays(dtype, {made})"
        if len(short) <= 92:
            return [short]
        head = wrapped("(", names, ") = _arrays(", 0)
        return [*head, "    dtype,", *(f"    {shape}," for shape in shapes.values()), ")"]

    def views_for(self, lines: Sequence[str]) -> list[str]:
        """The views of the block that ``lines`` need, each after what it is made from."""
        return needed_views(self.block, lines)


def needed_views(views: dict[str, str], lines: Sequence[str]) -> list[str]:
    """The definitions of views that ``lines`` need, and of those that these are made from."""
    needed: list[str] = []
    following = list(lines)
    for name, view in reversed(views.items()):
        if used(name, following):
            needed.append(f"{name} = {view}")
            following.append(view)
    return needed[::-1]


def used(name: str, lines: Iterable[str]) -> bool:
    """Whether code mentions ``name``; a comment may as well."""
    word = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
    return any(word.search(line.partition("#")[0]) for line in lines)


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


def tape_key(buffer: Buffer) -> str:
    """The key on the tape of all blocks of a buffer; of several, no vector can have such a name."""
    return " ".join(v.name for v in buffer.blocks)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, 90, initial_indent="# ", subsequent_indent="#     ", break_long_words=False
    )


def shaped(rows: str, size: Expr) -> str:
    """The shape of an array with a row of ``size`` numbers for each of ``rows``."""
    return f"({rows}, {count(size)})"


def true_runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Where flags are true, as (start, stop)."""
    edges = [k for k, (a, b) in enumerate(pairwise([False, *flags, False])) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def span(start: Expr, stop: Expr) -> str:
    """A slice, without a start of 0."""
    return f"{count(start) if start != 0 else ''}:{count(stop)}"


# --------------------------------------------------------------------------- forward


class Forward(Writer):
    """The forward pass, and what it leaves for the backward pass."""

    def __init__(self, plan: Plan, places: Places, stacks: Stacks) -> None:
        super().__init__(plan, plan.forward, places, stacks)
        self.write()
        self._lead_in: list[str] = []
        self._lead_out: list[str] = []
        self._hand_on()

    def _hand_on(self) -> None:
        """What a step leaves is what comes into the next one: no view is needed for it."""
        for s in self.cell.states:
            before, after = self.names(s, identifier(s)), self.names(s.at(0), identifier(s.at(0)))
            if before in self.each and after in self.each:
                del self.each[before]
                self._lead_in.append(f"{before} = {self.stored(s)}[at]")
                self._lead_out.append(f"{before} = {after}")

    def lines(self) -> list[str]:
        cell = self.cell
        y = self.whole(cell.output)
        copies = [] if self.plan.home[cell.output].scope == "given" else [f"y[steps] = {y}"]
        for s in cell.states:
            self.lasting[self.stored(s)] = f"(room + 1, B, {count(cell.size(s))})"
        kept = {s: self.stored(s) for s in cell.states}
        finals = ", ".join(f'"{s.name}": {array}[at + count].copy()' for s, array in kept.items())
        starts = [f'{array}[0] = state["{s.name}"]' for s, array in kept.items()]
        carried = ", ".join(f"{array}[0]" for array in kept.values())
        lasts = ", ".join(f"{array}[count]" for array in kept.values())
        inner = [
            *self.section("before the loop", self.body[BEFORE]),
            *self.loop(False, self._lead_out),
            *self.section("after the loop", self.body[AFTER]),
            "",
            *copies,
            *(["if not tape:", f"    {carried} = {lasts}"] if kept else []),
        ]
        if not inner[-1]:
            inner.pop()
        return [
            *(f"{name} = {pack}" for name, pack in self.packs.items()),
            *(f"{name} = {number}" for name, number in self.numbers.items()),
            "block = min(T, -(-ROWS // B))  # steps that are worked on together",
            "room = T if tape else block  # steps that are kept",
            *self.pieces(self.lasting),
            *self.scratch(),
            f"y = np.empty((T, B, {count(cell.size(cell.output))}), dtype)",
            *(f"{name} = {view}" for name, view in (*self.choices.items(), *self.views.items())),
            *starts,
            "",
            "for start in range(0, T, block):",
            "    count = min(block, T - start)",
            "    at = start if tape else 0",
            *(f"    {line}" for line in self._slices(inner)),
            *(f"    {line}" for line in self.views_for([*inner, *self._lead_in])),
            *(f"    {line}" for line in self._lead_in),
            *(f"    {line}".rstrip() for line in inner),
            "",
            f"final = {{{finals}}}",
            "if not tape:",
            "    return y, final, None",
            *wrapped("return y, final, {", self._tape(kept), "}"),
        ]

    def _slices(self, inner: Sequence[str]) -> list[str]:
        slices = {
            "steps": "slice(start, start + count)",
            "kept": "slice(at, at + count)",
            "ends": "slice(at + 1, at + count + 1)",
        }
        lines = [*inner, *self.block.values()]
        return [f"{name} = {view}" for name, view in slices.items() if used(name, lines)]

    def _tape(self, states: Mapping[Vector, str]) -> str:
        cell = self.cell
        kept = [f'"{v.name}": {self.source(v)}' for v in (*cell.inputs, *cell.masks)]
        kept += [f'"{s.name}": {array}' for s, array in states.items()]
        for buffer in self.plan.buffers:
            if buffer.scope != "tape":
                continue
            self.region = BEFORE
            self.run(buffer.blocks)
            array = self.names((buffer.blocks[0], "seq"), "")
            if len(buffer.blocks) > 1:
                for v in buffer.blocks:
                    kept.append(f'"{v.name}": {array}[{self._at([v], ":, ")}]')
            kept.append(f'"{tape_key(buffer)}": {array}')
        return ", ".join([*kept, '" made by": maker'])


# --------------------------------------------------------------------------- backward


class Backward(Writer):
    """Backpropagation through time, from the last block to the first."""

    kept, keeps = "steps", False

    def __init__(self, plan: Plan, places: Places, stacks: Stacks) -> None:
        super().__init__(plan, plan.backward, places, stacks)
        self.totals: dict[str, str] = {}  # what is summed over the sequence -> its shape
        self.grads: dict[str, list[str]] = {}  # parameter -> the parts of its gradient
        self.finish: list[str] = []  # what is left to do with sums
        self._name_carries()
        self.write()

    def operation(self, op: Operation) -> list[str]:
        if isinstance(op, Outers):
            return self.outers(op)
        if isinstance(op, Sums):
            return self.sums(op)
        return super().operation(op)

    def _name_carries(self) -> None:
        """One array for what arrives from t+1 and what leaves for t-1, if the one is read for the
        last time before the other is written; else two, which change places after every step.
        """
        accesses: list[tuple[set[Vector], set[Vector]]] = []
        for op in self.part.step:
            if isinstance(op, Fused):
                accesses += [(e.rhs.atoms(Vector), {e.lhs}) for e in op.equations]
            else:
                accesses.append((set(op.reads), set(op.writes)))
        for s in self.cell.states:
            arrives, leaves = carry(s), carry(s, -1)
            reads = [k for k, (read, _) in enumerate(accesses) if arrives in read]
            writes = [k for k, (_, written) in enumerate(accesses) if leaves in written]
            name = self.names(arrives, f"d{s.name}_next")
            if writes and max(reads, default=-1) < min(writes):
                self.names.same(leaves, name)
            else:
                self.names(leaves, f"d{s.name}_prev")

    def lines(self) -> list[str]:
        cell = self.cell
        starts, swaps, finals = [], [], []
        for s in cell.states:
            here, there = self.names(carry(s), ""), self.names(carry(s, -1), "")
            starts.append(f'{here} = dstate["{s.name}"].copy()')
            finals.append(f'"{s.name}": {here}')
            if here != there:
                starts.append(f"{there} = np.empty_like({here})")
                swaps.append(f"{here}, {there} = {there}, {here}")
        written = {self.places.of(v) for op in self.part.operations for v in op.writes}
        results = {v.name: self.result(adjoint(v)) for v in cell.inputs}
        for v in cell.inputs:
            shape = f"(T, B, {count(cell.size(v))})"
            make = "empty" if self.places.of(adjoint(v)) in written else "zeros"
            starts.append(f"{results[v.name]} = np.{make}({shape}, dtype)")
        several = ", ".join(f'"{name}": {array}' for name, array in results.items())
        dx = "{" + several + "}" if len(results) > 1 else next(iter(results.values()))
        inner = [
            *self.section("before the loop", self.body[BEFORE]),
            *self.loop(True, swaps),
            *self.section("after the loop", self.body[AFTER]),
        ]
        views = self.views_for(inner)
        every = [*inner, *views]
        for s in cell.states:
            if used(self.stored(s), views):
                self.taken[self.stored(s)] = f'tape["{s.name}"]'
        return [
            *(f"{name} = {value}" for name, value in self.taken.items() if used(name, every)),
            *(f"{name} = {pack}" for name, pack in self.packs.items()),
            *(f"{name} = {number}" for name, number in self.numbers.items()),
            "block = min(T, -(-ROWS // B))  # steps that are worked on together",
            *self.scratch(),
            *self.pieces(self.totals),
            *(f"{name} = {view}" for name, view in (*self.choices.items(), *self.views.items())),
            *starts,
            "",
            "for stop in range(T, 0, -block):",
            "    count = min(block, stop)",
            "    start, first = stop - count, stop == T",
            *(f"    {line}" for line in self._slices(every)),
            *(f"    {line}" for line in views),
            *(f"    {line}".rstrip() for line in inner),
            "",
            *self._gradients(),
            f"return grads, {dx}, {{{', '.join(finals)}}}",
        ]

    def _slices(self, lines: Sequence[str]) -> list[str]:
        slices = {"steps": "slice(start, stop)", "ends": "slice(start + 1, stop + 1)"}
        return [f"{name} = {view}" for name, view in slices.items() if used(name, lines)]

    # ------------------------------------------------------------------ gradients of parameters

    def outers(self, op: Outers) -> list[str]:
        names = " ".join(f"∂L/∂{m.name}" for m in op.parameters)
        lefts = " ".join(self.show(v) for v in op.lefts)
        rows, columns = self.places.width(op.lefts), self.cell.size(op.right)
        key = ("outer", op.parameters, op.lefts, op.right)
        total = self.names(key, f"d{self.stacks.wish(op.parameters)}")
        self.totals[total] = f"({count(rows)}, {count(columns)})"
        self._share(total, op.parameters, op.lefts)
        return [
            *_comment(f"{names} = the sum over t of {lefts} times {self.show(op.right)}ᵀ"),
            f"_add_rows({total}, {self.rows(op.lefts)}, {self.rows([op.right])}, first)",
        ]

    def _share(
        self, total: str, parameters: Sequence[Matrix | Vector], lefts: Sequence[Vector]
    ) -> None:
        """What belongs to each parameter in a stacked sum."""
        start: Expr = ZERO
        for p, left in zip(parameters, lefts, strict=True):
            stop = start + self.cell.size(left)
            part = total if len(parameters) == 1 else f"{total}[{span(start, stop)}]"
            self.grads.setdefault(p.name, []).append(part)
            start = stop

    def sums(self, op: Sums) -> list[str]:
        lines: list[str] = []
        pairs = list(zip(op.parameters, op.terms, strict=True))
        lines += self._sums_in_lanes(pairs)
        while pairs:
            together = self._summed_together(pairs)
            pairs = [pair for pair in pairs if pair not in together]
            parameters, terms = [p for p, _ in together], [t for _, t in together]
            names = " ".join(f"∂L/∂{p.name}" for p in parameters)
            what = " ".join(self.show(t) for t in terms)
            lines += _comment(f"{names} = the sum over t of {what}")
            total = self.names(("sum", *parameters, *terms), f"d{self.stacks.wish(parameters)}")
            if isinstance(terms[0], Vector) and (len(terms) > 1 or terms[0].category == "adjoint"):
                rows, width = self.rows(terms), self.places.width(terms)
            else:
                made, value = self.calls.value(terms[0])
                width = self.cell.shapes.of(terms[0])
                lines += made
                rows = f"{value}.reshape(count * B, {count(width)})"
            self.totals[total] = f"({count(width)},)"
            self.views["ones"] = "np.ones(block * B, dtype)"
            lines.append(f"_add_rows({total}, {rows}, ones[: count * B], first)")
            alone = len(parameters) == 1
            if alone and self.cell.size(parameters[0]) == 1 != width:  # it gains from every unit
                total = f"{total}.sum(keepdims=True)"
            self._share(total, parameters, parameters)
        return lines

    def _sums_in_lanes(self, pairs: list[tuple[Vector, Expr]]) -> list[str]:
        """Sums of the same over lanes, which leave ``pairs``."""
        lines: list[str] = []
        size = self.cell.size
        named = {
            Vector(p.name, "coefficient", p.axes): (p, term)
            for p, term in pairs
            if size(p) == self.cell.shapes.of(term) and len(self._summed_together(pairs, p)) == 1
        }
        alike = [Eq(v, term, evaluate=False) for v, (_, term) in named.items()]
        for group in groups(alike, self.cell):
            for run in self._runs(group, group.tuples[1:]):
                chosen = [named[v] for v in run.lhs]
                parameters, terms = [p for p, _ in chosen], [t for _, t in chosen]
                pairs[:] = [pair for pair in pairs if pair not in chosen]
                self.many = len(run.lhs)
                self.lanes = {v: self._lane(t) for v, t in run.varied.items()}
                made, value = self.calls.value(terms[0])
                self.lanes = {}
                wish = self.stacks.wish(parameters)
                total = self.names(("sum", *parameters, *terms), f"d{wish}_rows")
                result = self.names(("sum", *parameters, *terms, "done"), f"d{wish}")
                shape = f"{self.many} * B * {count(size(parameters[0]))}"
                self.totals[total] = f"({shape},)"
                names = " ".join(f"∂L/∂{p.name}" for p in parameters)
                what = " ".join(self.show(t) for t in terms)
                lines += [
                    *_comment(f"{names} = the sum over t of {what}"),
                    *made,
                    f"_add_rows({total}, {value}.reshape(count, {shape}), ones[:count], first)",
                ]
                shape = f"{self.many}, B, {count(size(parameters[0]))}"
                self.finish.append(f"{result} = {total}.reshape({shape}).sum(axis=1)")
                for k, p in enumerate(parameters):
                    self.grads.setdefault(p.name, []).append(f"{result}[{k}]")
                self.many = 1
                self.views["ones"] = "np.ones(block * B, dtype)"
        return lines

    def _summed_together(
        self, pairs: Sequence[tuple[Vector, Expr]], parameter: Vector | None = None
    ) -> list[tuple[Vector, Expr]]:
        """One of ``pairs``, the first if none is named, and those whose terms lie beside its term
        in rows.
        """
        pair = next(pair for pair in pairs if parameter in (None, pair[0]))
        first = pair[1]
        buffer = self.places.home(first) if isinstance(first, Vector) else None
        if buffer is None or len(buffer.blocks) == 1 or self.places.is_stack(buffer):
            return [pair]
        found: dict[int, tuple[Vector, Expr]] = {}
        for p, term in pairs:
            inside = isinstance(term, Vector) and self.places.home(term) == buffer
            if inside and self.cell.size(p) == self.cell.size(term):
                found.setdefault(self.places.index(term), (p, term))
        here = self.places.index(first)
        lower = upper = here
        while lower - 1 in found:
            lower -= 1
        while upper + 1 in found:
            upper += 1
        if found.get(here) != pair:
            return [pair]
        return [found[k] for k in range(lower, upper + 1)]

    def _gradients(self) -> list[str]:
        lines = [*self.finish, "grads = {"]
        for p in self.cell.parameters:
            shape = ", ".join(count(n) for n in self.cell.shape(p))
            zeros = f"np.zeros(({shape}{',' if isinstance(p, Vector) else ''}), dtype)"
            lines.append(f'    "{p.name}": {" + ".join(self.grads.get(p.name, [zeros]))},')
        return [*lines, "}"]
