"""The NumPy target: a module that needs only NumPy, written as an expert would by hand.

The plan is made ``eager``: whatever does not depend on the recurrence is done for all steps at
once. Each equation becomes calls that write with ``out=`` into arrays made before the loop.
"""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from itertools import pairwise

import sympy
from sympy import Eq, Expr

from ..cell import Cell
from ..derivation import adjoint, carry
from ..errors import GenerateError
from ..operations import (
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
from ..plans import Plan
from ..printing import Order
from ..schedule import plan as make_plan
from ..storage import pre_activation
from ..symbols import Matrix, Vector, sigmoid
from ..text import text
from .comments import header, wrapped
from .naming import Names, identifier
from .rendering import environment
from .ufuncs import HELPERS, Calls, count

OPTIONS: frozenset[str] = frozenset()
TAKES_SIZES = False

# what the template's functions call their own variables
_RESERVED = frozenset(
    """np math params x x_t state masks dtype tape y dy dstate grads T B sizes name T init forward
    backward step PARAMETERS STATES INPUTS MASKS CONSTANTS OUTPUT CELL INITIAL zip range""".split()
)


def files(cell: Cell, *, source: str = "") -> dict[str, str]:
    """The module for ``cell``: ``{"lstm.py": text}``.

    Raises
    ------
    GenerateError
        If a size has the name of one of the module's own variables.
    """
    for size in cell.sizes:
        if size.name in _RESERVED:
            raise GenerateError(
                f"the NumPy target cannot name a size {size.name}\n"
                "  hint: choose another letter, such as N"
            )
    plan = make_plan(cell, eager=True)
    forward, backward = _Forward(plan).lines(), _Backward(plan).lines()
    body = "\n".join([*forward, *backward])
    module = environment("numpy").get_template("module.py.j2")
    return {
        f"{cell.name}.py": module.render(
            **_tables(cell),
            header=header(cell, "numpy", source),
            forward=forward,
            backward=backward,
            helpers=[h for h in HELPERS.values() if f"{h}(" in body],
        )
    }


def face(cell: Cell) -> str:
    """The part of the module that computes nothing: tables, ``init``, and the checks of arrays."""
    return environment("numpy").get_template("face.py.j2").render(**_tables(cell))


def _tables(cell: Cell) -> dict[str, object]:
    sizes = [str(n) for n in cell.sizes]
    hidden = "H" if "H" in sizes else next((str(cell.size(s)) for s in cell.states), "")
    return {
        "cell": cell,
        "parameters": [(p.name, tuple(str(n) for n in cell.shape(p))) for p in cell.parameters],
        "initial": [
            (p.name, repr(start))
            for p in cell.parameters
            if isinstance(p, Vector) and (start := cell.initial(p))
        ],
        "states": [(s.name, str(cell.size(s))) for s in cell.states],
        "inputs": [(v.name, str(cell.size(v))) for v in cell.inputs],
        "masks": [(v.name, str(cell.size(v))) for v in cell.masks],
        "constants": [(v.name, repr(cell.initial(v))) for v in cell.constants],
        "sizes": sizes,
        "input_size": str(cell.size(cell.inputs[0])),
        "hidden_size": hidden,
        "output_size": str(cell.size(cell.output)),
    }


class _Writer:
    """Writes one pass: what it needs first, then the operations of its three regions.

    Within the loop a name stands for one step; outside it, for all steps, with ``_all`` added.
    Every array that a statement mentions is noted, so that only what is used is made.
    """

    backwards = False

    def __init__(self, plan: Plan, part: Pass) -> None:
        self.plan, self.part, self.cell = plan, part, plan.cell
        self.order = Order(plan.cell, plan.derivation.forward)
        self.names = Names({*_RESERVED, *keyword.kwlist, *(s.name for s in plan.cell.sizes)})
        self.calls = Calls(self.cell, self.order, self.ref, self.temporary)
        self.region = BEFORE
        self.packs: dict[str, str] = {}  # parameters, stacked or not -> the expression
        self.made: dict[str, str] = {}  # arrays made before anything runs -> the shape
        self.parts: dict[str, str] = {}  # views of arrays -> the expression
        self.each: dict[str, str] = {}  # names within the loop -> the array of all steps
        self.completed: dict[Vector, Vector] = {}  # values that take the place of their sum
        self.body = {region: self._region(region) for region in (BEFORE, STEP, AFTER)}
        self.region = BEFORE

    def _region(self, region: str) -> list[str]:
        self.region = region
        return [line for op in getattr(self.part, region) for line in self.operation(op)]

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
        """The name of ``v`` where we are: of this step in the loop, else of all steps."""
        v = self.completed.get(v, v)
        if v.category in ("parameter", "constant"):
            name = self.names(v, v.name)
            self.packs.setdefault(name, f'params["{v.name}"]')
            return name
        if self.region != STEP:
            return self.whole(v)
        name = self.names(v, f"{v.name}_t" if v.category == "input" else identifier(v))
        buffer = self.plan.home.get(v)
        if v.category == "carry":
            pass  # made from dstate
        elif v.category in ("input", "mask", "state", "cotangent") or (
            buffer is not None and buffer.scope in ("tape", "tile", "given")
        ):
            self.each.setdefault(name, self.whole(v))
        elif buffer is not None and len(buffer.blocks) > 1:
            self.parts.setdefault(name, self._slice(buffer, [v], lasting=False))
        else:
            self.made.setdefault(name, self._shape("B", self.cell.size(v)))
        return name

    def whole(self, v: Vector) -> str:
        """The name of ``v`` for all steps, shape (T, B, size)."""
        v = self.completed.get(v, v)
        if v.category == "input" and len(self.cell.inputs) == 1:
            return "x"
        if v.category == "cotangent":
            return "dy"
        name = self.names((v, "all"), f"{identifier(v)}_all")
        buffer = self.plan.home.get(v)
        if v.category in ("input", "mask"):
            pass  # unpacked at the start
        elif v.category == "state":
            self.parts.setdefault(name, f"{self.stored(v)}[{':-1' if v.time == -1 else '1:'}]")
        elif buffer is not None and len(buffer.blocks) > 1:
            self.parts.setdefault(name, self._slice(buffer, [v]))
        else:
            self.made.setdefault(name, self._shape("T, B", self.cell.size(v)))
        return name

    def stored(self, state: Vector) -> str:
        """The name of a state's array with its first value in front, shape (T + 1, B, size)."""
        return self.names((state.name, "stored"), f"{state.name}_seq")

    def run(self, blocks: Sequence[Vector]) -> str:
        """The name of neighbouring blocks taken as one array."""
        if len(blocks) == 1:
            return self.ref(blocks[0])
        lasting = self.plan.home[blocks[0]].scope != "step"
        here, everywhere = self._run_names(blocks, lasting)
        if self.region != STEP:
            return everywhere
        if lasting:
            self.each.setdefault(here, everywhere)
        return here

    def _run_names(self, blocks: Sequence[Vector], lasting: bool) -> tuple[str, str]:
        """(name within the loop, name for all steps) of neighbouring blocks."""
        buffer = self.plan.home[blocks[0]]
        whole = tuple(blocks) == buffer.blocks
        mark = "d" if buffer.blocks[0].category == "adjoint" else ""
        wish = f"{mark}{buffer.name}"
        if not whole:  # a_ifo, or ifo where the gates have no letter in common
            members = "".join(v.name.rpartition("_")[2] for v in blocks)
            family = f"{buffer.name}_" if blocks[0].name.startswith(f"{buffer.name}_") else ""
            wish = f"{mark}{family}{members}"
            if not wish.isidentifier():
                wish = f"{mark}{buffer.name}_{members}"
        key = (buffer, tuple(blocks))
        names = self.names(key, wish), self.names((key, "all"), f"{wish}_all")
        if whole:
            shape = self._shape("T, B" if lasting else "B", self.plan.width(buffer))
            self.made.setdefault(names[lasting], shape)
        else:
            self.parts.setdefault(names[lasting], self._slice(buffer, blocks, lasting))
        return names

    def _slice(self, buffer: Buffer, blocks: Sequence[Vector], lasting: bool = True) -> str:
        name = self._run_names(buffer.blocks, lasting)[lasting]
        return f"{name}[..., {self._span(blocks)}]"

    def _span(self, blocks: Sequence[Vector]) -> str:
        start = self.plan.offset(blocks[0])
        return _span(start, start + self._width(blocks))

    def _width(self, blocks: Sequence[Vector]) -> Expr:
        return sum((self.cell.size(v) for v in blocks), ZERO)

    def rows(self, blocks: Sequence[Vector]) -> str:
        """Neighbouring blocks of all steps as a matrix of T·B rows."""
        buffer = self.plan.home.get(blocks[0])
        if buffer is None or len(buffer.blocks) == 1 or blocks[0].category == "state":
            return f"{self.whole(blocks[0])}.reshape(T * B, {count(self._width(blocks))})"
        name = self._run_names(buffer.blocks, True)[1]
        matrix = f"{name}.reshape(T * B, {count(self.plan.width(buffer))})"
        return matrix if tuple(blocks) == buffer.blocks else f"{matrix}[:, {self._span(blocks)}]"

    def _shape(self, rows: str, size: Expr) -> str:
        return f"({rows}, {count(size)})"

    def temporary(self, number: int, size: Expr) -> str:
        """The name of a scratch array: s1, s2, … in the loop, S1, S2, … outside."""
        inside = self.region == STEP
        name = self.names(
            ("scratch", inside, str(size), number), f"{'s' if inside else 'S'}{number}"
        )
        self.made.setdefault(name, self._shape("B" if inside else "T, B", size))
        return name

    # ------------------------------------------------------------------ products

    def multiply(self, op: Multiply) -> list[str]:
        weight = self.pack(op.matrices, transpose=not op.matrices[0].transposed)
        out = self.run(op.outs)
        inside = self.region == STEP
        operand = self.run(op.operands) if inside else self.rows(op.operands)
        target = out if inside else self.rows(op.outs)  # else one product over all T·B rows
        lines = [f"# {self._product_text(op)}"]
        if op.accumulate:
            width = self._width(op.outs)
            product = self.names(("product", inside, str(width)), "u" if inside else "product")
            self.made.setdefault(product, self._shape("B" if inside else "T * B", width))
            return [
                *lines,
                f"np.matmul({operand}, {weight}, out={product})",
                f"np.add({target}, {product}, out={target})",
            ]
        lines.append(f"np.matmul({operand}, {weight}, out={target})")
        if any(op.biases):
            lines.append(f"np.add({out}, {self.bias(op)}, out={out})")
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

    def pack(self, matrices: Sequence[Matrix], *, transpose: bool) -> str:
        """Stacked matrices, as the right factor of a product with row vectors."""
        bases = [m.base for m in matrices]
        wish = _stack_name(self.cell, bases)
        names = ", ".join(f'params["{m.name}"]' for m in bases)
        stack = f"np.concatenate(({names}))" if len(bases) > 1 else names
        name = self.names(("pack", tuple(bases), transpose), f"{wish}_T" if transpose else wish)
        self.packs.setdefault(name, f"{stack}.T" if transpose else stack)
        return name

    def bias(self, op: Multiply) -> str:
        if len(op.biases) == 1 and op.biases[0] is not None:
            return self.ref(op.biases[0])
        stack = [
            f'params["{b.name}"]'
            if b is not None
            else f"np.zeros({count(self.cell.size(o))}, dtype)"
            for b, o in zip(op.biases, op.outs, strict=True)
        ]
        wish = _stack_name(self.cell, [b for b in op.biases if b is not None])
        name = self.names(("bias", op.biases, op.outs), wish)
        self.packs.setdefault(name, f"np.concatenate(({', '.join(stack)}))")
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
        equations = list(op.equations)
        lines: list[str] = []
        while equations:
            gates = self._gates(equations)
            if gates:
                lines += self._activate(gates)
                equations = [e for e in equations if e not in gates]
            else:
                lines += self._equation(equations.pop(0))
        return lines

    def _equation(self, e: Eq) -> list[str]:
        partial = [v for v in e.rhs.atoms(Vector) if v.category.startswith("partial")]
        if partial and e.lhs not in self.plan.home:
            self.completed[e.lhs] = partial[0]
        shown = self.plan.origin.get(e.lhs, e)
        return [f"# {self.show(shown)}", *self.calls.into(e.rhs, self.ref(e.lhs))]

    def _argument(self, e: Eq) -> Vector:
        argument: Vector = e.rhs.args[0]
        return self.completed.get(argument, argument)

    def _gates(self, equations: Sequence[Eq]) -> list[Eq]:
        """Gates that one call of tanh can compute, since σ(a) = (1 + tanh(a/2)) / 2: arguments
        side by side, results side by side, the first equation among them.
        """
        home, waiting = self.plan.home, {e.lhs for e in equations}
        place = {}
        for e in equations:
            if pre_activation(e) is not None:
                a = self._argument(e)
                if a in home and e.lhs in home and e.rhs.args[0] not in waiting:
                    place[e] = (home[a], home[e.lhs], home[a].blocks.index(a),
                                home[e.lhs].blocks.index(e.lhs))  # fmt: skip
        first = equations[0]
        if first not in place:
            return []
        like = sorted((e for e in place if place[e][:2] == place[first][:2]),
                      key=lambda e: place[e][2])  # fmt: skip
        runs: list[list[Eq]] = []
        for e in like:
            step_on = runs and all(
                here == there + 1
                for here, there in zip(place[e][2:], place[runs[-1][-1]][2:], strict=True)
            )
            if step_on:
                runs[-1].append(e)
            else:
                runs.append([e])
        run = next(r for r in runs if first in r)
        return run if len(run) > 1 else []

    def _activate(self, gates: Sequence[Eq]) -> list[str]:
        arguments, results = [self._argument(e) for e in gates], [e.lhs for e in gates]
        lines = [f"# {self.show(e)}" for e in gates]
        tanh = f"np.tanh({self.run(arguments)}, out={self.run(results)})"
        sigmoids = [isinstance(e.rhs, sigmoid) for e in gates]
        if not any(sigmoids):
            return [*lines, tanh]
        lines.append("# one tanh for all of them: σ(a) = (1 + tanh(a/2)) / 2")
        before, after = [], []
        for start, stop in _true_runs(sigmoids):
            a, value = self.run(arguments[start:stop]), self.run(results[start:stop])
            before.append(f"np.multiply({a}, 0.5, out={a})")
            after.append(f"np.multiply({value}, 0.5, out={value})")
            after.append(f"np.add({value}, 0.5, out={value})")
        return [*lines, *before, tanh, *after]

    # ------------------------------------------------------------------ putting together

    def preamble(self) -> list[str]:
        """Parameters, arrays, and views of arrays."""
        return [
            *(f"{name} = {pack}" for name, pack in self.packs.items()),
            *(f"{name} = np.empty({shape}, dtype)" for name, shape in self.made.items()),
            *(f"{name} = {view}" for name, view in self.parts.items()),
        ]

    def section(self, title: str, lines: Sequence[str]) -> list[str]:
        return ["", f"# {title}: all steps at once", *lines] if lines else []

    def loop(self, extra: Sequence[str] = ()) -> list[str]:
        lines = [*self.body[STEP], *extra]
        if not self.body[STEP]:
            return []
        back = "[::-1]" if self.backwards else ""
        names = ", ".join(self.each)
        arrays = ", ".join(f"{array}{back}" for array in self.each.values())
        short = f"for {names} in zip({arrays}):"
        if not self.each:
            head = ["for _ in range(T):"]
        elif len(self.each) == 1:
            head = [f"for {names} in {arrays}:"]
        elif len(short) <= 92:
            head = [short]
        else:
            head = [*wrapped("for (", names, ") in zip("), *wrapped("", arrays, "):", width=0)]
        return ["", *head, *(f"    {line}" for line in lines)]


class _Forward(_Writer):
    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, plan.forward)

    def lines(self) -> list[str]:
        cell = self.cell
        y = self.whole(cell.output)
        given = [f'"{v.name}": {self.whole(v)}' for v in (*cell.inputs, *cell.masks)]
        kept = [f'"{s.name}": {self.stored(s)}' for s in cell.states]
        tape = [v for b in self.plan.buffers if b.scope == "tape" for v in b.blocks]
        kept += [f'"{v.name}": {self.whole(v)}' for v in tape]
        stacks = [b for b in self.plan.buffers if b.scope == "tape" and len(b.blocks) > 1]
        kept += [f'"{_stacked(b)}": {self._run_names(b.blocks, True)[1]}' for b in stacks]
        finals = ", ".join(f'"{s.name}": {self.stored(s)}[-1].copy()' for s in cell.states)
        for s in cell.states:
            self.made[self.stored(s)] = self._shape("T + 1, B", cell.size(s))
        return [
            *_unpacked(self),
            *self.preamble(),
            *(f'{self.stored(s)}[0] = state["{s.name}"]' for s in cell.states),
            *self.section("before the loop", self.body[BEFORE]),
            *self.loop(),
            *self.section("after the loop", self.body[AFTER]),
            "",
            *wrapped("tape = {", ", ".join([*given, *kept]), "}"),
            f"return {y}.copy(), {{{finals}}}, tape",
        ]


class _Backward(_Writer):
    backwards = True

    def __init__(self, plan: Plan) -> None:
        self.assigned: set[str] = set()
        super().__init__(plan, plan.backward)

    def _region(self, region: str) -> list[str]:
        if region == BEFORE:
            self._name_carries()
        return super()._region(region)

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
        dx = {v.name: self.whole(adjoint(v)) for v in cell.inputs}
        written = {v for op in self.part.operations for v in op.writes}
        zeros = [
            f"{dx[v.name]}.fill(0.0)  # no gradient reaches the input"
            for v in cell.inputs
            if adjoint(v) not in written
        ]
        missing = [p.name for p in cell.parameters if p.name not in self.assigned]
        zeros += [f'grads["{name}"] = np.zeros_like(params["{name}"])' for name in missing]
        several = ", ".join(f'"{name}": {array}' for name, array in dx.items())
        given = "{" + several + "}" if len(dx) > 1 else next(iter(dx.values()))
        taken = self._taken()
        return [
            "grads = {}",
            *taken,
            *self.preamble(),
            *starts,
            *zeros,
            *self.section("before the loop", self.body[BEFORE]),
            *self.loop(swaps),
            *self.section("after the loop", self.body[AFTER]),
            "",
            "grads = {name: grads[name] for name in PARAMETERS}",
            f"return grads, {given}, {{{', '.join(finals)}}}",
        ]

    def _taken(self) -> list[str]:
        """What forward left on the tape, under the names used here; only what is read."""
        used = {*self.each.values(), *self.made, *self.parts}
        body = "\n".join(line for lines in self.body.values() for line in lines)
        lines = [
            line for line in _unpacked(self)
            if line.partition(" ")[0] in self.each.values() or line.partition(" ")[0] in body
        ]  # fmt: skip
        for s in self.cell.states:
            if any(view.startswith(f"{self.stored(s)}[") for view in self.parts.values()):
                lines.append(f'{self.stored(s)} = tape["{s.name}"]')
        for buffer in self.plan.buffers:
            if buffer.scope != "tape":
                continue
            for v in buffer.blocks:
                name = self.whole(v)
                self.parts.pop(name, None)
                self.made.pop(name, None)
                if name in used:
                    lines.append(f'{name} = tape["{v.name}"]')
            if len(buffer.blocks) > 1:
                name = self._run_names(buffer.blocks, True)[1]
                self.made.pop(name, None)
                if name in body or any(view.startswith(name) for view in self.parts.values()):
                    lines.append(f'{name} = tape["{_stacked(buffer)}"]')
        return lines

    # ------------------------------------------------------------------ gradients of parameters

    def outers(self, op: Outers) -> list[str]:
        product = f"np.matmul({self.rows(op.lefts)}.T, {self.rows([op.right])})"
        names = " ".join(f"∂L/∂{m.name}" for m in op.parameters)
        lefts = " ".join(self.show(v) for v in op.lefts)
        lines = [f"# {names} = the sum over t of {lefts} times {self.show(op.right)}ᵀ"]
        if len(op.parameters) == 1:
            return [*lines, self._grade(op.parameters[0].name, product)]
        wish = f"d{_stack_name(self.cell, op.parameters)}"
        stack = self.names(("outer", op.parameters, op.right), wish)
        lines.append(f"{stack} = {product}")
        start: Expr = ZERO
        for p, left in zip(op.parameters, op.lefts, strict=True):
            stop = start + self.cell.size(left)
            lines.append(self._grade(p.name, f"{stack}[{_span(start, stop)}]"))
            start = stop
        return lines

    def _grade(self, name: str, value: str) -> str:
        sign = "=" if name not in self.assigned else "+="
        self.assigned.add(name)
        return f'grads["{name}"] {sign} {value}'

    def sums(self, op: Sums) -> list[str]:
        lines: list[str] = []
        for p, term in zip(op.parameters, op.terms, strict=True):
            lines.append(f"# ∂L/∂{p.name} = the sum over t of {self.show(term)}")
            size = self.cell.shapes.of(term)
            factors = sympy.Mul.make_args(term)
            if len(factors) == 2 and all(
                isinstance(f, Vector) and f.category not in ("parameter", "constant")
                and self.cell.size(f) == size for f in factors
            ):  # fmt: skip
                a, b = (self.whole(f) for f in self.order.factors(term))
                lines.append(self._grade(p.name, f'np.einsum("tbj,tbj->j", {a}, {b})'))
                continue
            made, value = self.calls.value(term)
            wide = self.cell.size(p) == 1 and size != 1  # a scalar gains from every unit
            total = "sum().reshape(1)" if wide else "sum(axis=(0, 1))"
            lines += [*made, self._grade(p.name, f"{value}.{total}")]
        return lines


def _unpacked(writer: _Writer) -> list[str]:
    """Several inputs, and masks, under names of their own."""
    cell = writer.cell
    inputs = [f'{writer.whole(v)} = x["{v.name}"]' for v in cell.inputs if len(cell.inputs) > 1]
    return inputs + [f'{writer.whole(v)} = masks["{v.name}"]' for v in cell.masks]


def _stacked(buffer: Buffer) -> str:
    """The key of neighbouring blocks on the tape; no vector can have such a name."""
    return " ".join(v.name for v in buffer.blocks)


def _stack_name(cell: Cell, parameters: Sequence[Matrix | Vector]) -> str:
    """``W`` for a whole family, ``U_rz`` for a part of one."""
    if len(parameters) == 1:
        return str(parameters[0].name)
    families = dict.fromkeys(p.name.partition("_")[0] for p in parameters)
    kind = type(parameters[0])
    whole = [
        p for p in cell.parameters if isinstance(p, kind) and p.name.partition("_")[0] in families
    ]
    name = "".join(families)
    if len(whole) > len(parameters):
        name += "_" + "".join(p.name.partition("_")[2] for p in parameters)
    return name


def _true_runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    edges = [k for k, (a, b) in enumerate(pairwise([False, *flags, False])) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _span(start: Expr, stop: Expr) -> str:
    return f"{count(start) if start != 0 else ''}:{count(stop)}"
