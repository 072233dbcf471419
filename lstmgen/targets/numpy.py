"""The NumPy target: a module that needs only NumPy, written as an expert would by hand.

The plan is made ``eager``: whatever does not depend on the recurrence is done for all steps at
once. Each equation becomes calls that write with ``out=`` into arrays made before the loop.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Sequence
from itertools import pairwise

import sympy
from sympy import Eq, Expr, Function, Integer
from sympy.printing.str import StrPrinter

from .. import schedule
from ..cell import Cell
from ..derivation import carry
from ..errors import GenerateError
from ..schedule import AFTER, BEFORE, STEP, Buffer, Fill, Fused, Multiply, Operation, Outers, Sums
from ..symbols import (
    Matrix,
    Reduction,
    Vector,
    cumsum,
    equal,
    max_,
    mean,
    rcumsum,
    relu,
    rsqrt,
    sigmoid,
    softplus,
    step,
    stop_gradient,
    sum_,
)
from .printing import Order, literal
from .comments import header, wrapped
from .naming import Names, identifier
from .rendering import environment
from .text import text as comment

OPTIONS: frozenset[str] = frozenset()
TAKES_SIZES = False

_UFUNCS: dict[type, str] = {
    sympy.exp: "np.exp", sympy.log: "np.log", sympy.sin: "np.sin", sympy.cos: "np.cos",
    sympy.tan: "np.tan", sympy.asin: "np.arcsin", sympy.acos: "np.arccos",
    sympy.atan: "np.arctan", sympy.sinh: "np.sinh", sympy.cosh: "np.cosh", sympy.tanh: "np.tanh",
    sympy.asinh: "np.arcsinh", sympy.acosh: "np.arccosh", sympy.atanh: "np.arctanh",
    sympy.Abs: "np.abs", sympy.sign: "np.sign", sympy.floor: "np.floor",
    sympy.ceiling: "np.ceil",
}  # fmt: skip
_BINARY: dict[type, str] = {sympy.Max: "np.maximum", sympy.Min: "np.minimum", equal: "np.equal"}
_REDUCE: dict[type, str] = {mean: "np.mean", sum_: "np.sum", max_: "np.max"}
_HELPERS: dict[type, str] = {softplus: "_softplus", sympy.erf: "_erf"}

_RESERVED = frozenset(
    """np params x state masks dtype tape y dy dstate grads dx new seed rng T B t sizes math
    init forward backward step PARAMETERS STATES INPUTS MASKS CONSTANTS OUTPUT CELL INITIAL
    zip range len dict tuple float int sum abs min max slice product""".split()
)


def files(cell: Cell, *, source: str = "") -> dict[str, str]:
    """The module for ``cell``: ``{"lstm.py": text}``."""
    return {f"{cell.name}.py": emit(cell, source=source)}


def emit(cell: Cell, *, source: str = "") -> str:
    """The text of the module for ``cell``."""
    plan = schedule.plan(cell, eager=True)
    forward, backward = _Forward(plan).lines(), _Backward(plan).lines()
    body = "\n".join([*forward, *backward])
    return environment("numpy").get_template("module.py.j2").render(
        **_tables(cell),
        header=header(cell, "numpy", source),
        forward=forward,
        backward=backward,
        helpers=[h for h in _HELPERS.values() if f"{h}(" in body],
    )  # fmt: skip


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
    """Writes one pass: declarations, then the operations of its three regions.

    Within the loop a name stands for one step; outside it, for all steps, with ``_all`` added.
    Every array that a statement mentions is collected, so that only what is used is made.
    """

    reverse = False

    def __init__(self, plan: schedule.Plan) -> None:
        self.plan, self.cell = plan, plan.cell
        self.order = Order(plan.cell, plan.derivation.forward)
        self.names = Names({*_RESERVED, *keyword.kwlist, *(s.name for s in plan.cell.sizes)})
        self.region = BEFORE
        self.views: dict[str, str] = {}  # a name inside the loop -> the array of all steps
        self.made: dict[str, str] = {}  # an array made before anything runs -> its shape
        self.aliases: dict[str, str] = {}  # a view of all steps -> the expression it abbreviates
        self.packs: dict[str, str] = {}
        self.local: dict[Vector, Vector] = {}  # a register -> the stored value it overwrites
        self.scratch = 0

    # ------------------------------------------------------------------ names of arrays

    def ref(self, v: Vector) -> str:
        """The name of ``v`` where we are."""
        v = self.local.get(v, v)
        if v.category == "constant" or v.category == "parameter":
            name = self.names(v, v.name)
            self.packs.setdefault(name, f'params["{v.name}"]')
            return name
        if self.region != STEP:
            return self.whole(v)
        base = self.names(v, f"{v.name}_t" if v.category == "input" else identifier(v))
        buffer = self.plan.home.get(v)
        if buffer is not None and buffer.scope == "step" and len(buffer.blocks) > 1:
            self.aliases.setdefault(base, self._slice(buffer, v, v, 0))
            return base
        if v.category == "carry" or not self._kept(v):
            if v.category != "carry":
                self.made.setdefault(base, self._shape(("B",), self.cell.size(v)))
            return base
        self.views.setdefault(base, self.whole(v))
        return base

    def whole(self, v: Vector) -> str:
        """The name of ``v`` for all steps, shape (T, B, size)."""
        v = self.local.get(v, v)
        if v.category == "input" and len(self.cell.inputs) == 1:
            return "x"
        if v.category in ("input", "mask"):
            return self.names((v, "all"), f"{v.name}_all")
        if v.category == "cotangent":
            return "dy"
        name = self.names((v, "all"), f"{identifier(v)}_all")
        if v.category == "state":
            stored = self.names((v.at(0), "stored"), f"{v.name}_seq")
            self.aliases.setdefault(name, f"{stored}[{':-1' if v.time == -1 else '1:'}]")
            return name
        buffer = self.plan.home.get(v)
        if buffer is not None and len(buffer.blocks) > 1:
            self.aliases.setdefault(name, self._slice(buffer, v, v))
            return name
        self.made.setdefault(name, self._shape(("T", "B"), self.cell.size(v)))
        return name

    def run(self, blocks: Sequence[Vector]) -> str:
        """The name of neighbouring blocks taken as one array."""
        if len(blocks) == 1:
            return self.ref(blocks[0])
        lasting = self.plan.home[blocks[0]].scope != "step"
        names = self._run_names(blocks, lasting)
        if self.region != STEP:
            return names[1]
        if lasting:
            self.views.setdefault(*names)
        return names[0]

    def _run_names(self, blocks: Sequence[Vector], lasting: bool = True) -> tuple[str, str]:
        """(name within the loop, name for all steps) of neighbouring blocks."""
        buffer = self.plan.home[blocks[0]]
        whole = tuple(blocks) == buffer.blocks
        mark = "d" if buffer.blocks[0].category == "adjoint" else ""
        wish = f"{mark}{buffer.name}"
        if not whole:  # a_ifo, or ifo where the gates have no letter in common
            members = "".join(v.name.rpartition("_")[2] for v in blocks)
            family = buffer.name + "_" if blocks[0].name.startswith(f"{buffer.name}_") else ""
            wish = f"{mark}{family}{members}"
        key = (buffer, tuple(blocks))
        names = self.names(key, wish), self.names((key, "all"), f"{wish}_all")
        if whole:
            rows = ("T", "B") if lasting else ("B",)
            shape = self._shape(rows, self.plan.width(buffer))
            self.made.setdefault(names[lasting], shape)
        else:
            view = self._slice(buffer, blocks[0], blocks[-1], int(lasting))
            self.aliases.setdefault(names[lasting], view)
        return names

    def _slice(self, buffer: Buffer, first: Vector, last: Vector, which: int = 1) -> str:
        name = self._run_names(buffer.blocks, bool(which))[which]
        start = self.plan.offset(first)
        stop = self.plan.offset(last) + self.cell.size(last)
        return f"{name}[..., {_span(start, stop)}]"

    def _kept(self, v: Vector) -> bool:
        if v.category in ("input", "mask", "state", "cotangent"):
            return True
        buffer = self.plan.home.get(v)
        return buffer is not None and buffer.scope in ("tape", "tile", "given")

    def _shape(self, rows: Sequence[str], size: Expr) -> str:
        return f"({', '.join((*rows, _py(size)))})"

    def temporary(self, size: Expr) -> str:
        """A scratch array, its own for every use within a statement."""
        self.scratch += 1
        rows = ("B",) if self.region == STEP else ("T", "B")
        letter = "s" if self.region == STEP else "S"
        name = self.names(("scratch", rows, str(size), self.scratch), f"{letter}{self.scratch}")
        self.made.setdefault(name, self._shape(rows, size))
        return name

    # ------------------------------------------------------------------ operations

    def body(self) -> dict[str, list[str]]:
        part = self.part()
        out: dict[str, list[str]] = {}
        for region in (BEFORE, STEP, AFTER):
            self.region = region
            out[region] = [
                line for op in getattr(part, region) for line in self.operation(op)
            ]
        return out

    def part(self) -> schedule.Pass:
        raise NotImplementedError

    def operation(self, op: Operation) -> list[str]:
        self.scratch = 0
        if isinstance(op, Multiply):
            return self.multiply(op)
        if isinstance(op, Fill):
            return self.fill(op)
        if isinstance(op, Fused):
            return self.fused(op)
        raise AssertionError(op)

    def multiply(self, op: Multiply) -> list[str]:
        by_operand = not op.matrices[0].transposed
        rows = self.region != STEP
        weight = self.pack(op.matrices, transpose=by_operand)
        operand = self.run(op.operands)
        out = self.run(op.outs)
        width = sum((self.cell.size(o) for o in op.outs), sympy.S.Zero)
        lines = [f"# {self.multiply_comment(op)}"]
        target = out
        if rows:  # one product over all T·B rows
            operand = self._as_rows(operand, op.operands)
            target = self._as_rows(out, op.outs)
        if op.accumulate:
            self.scratch = 0
            shape = ("T * B",) if rows else ("B",)
            name = self.names(("product", rows, str(width)), "product" if rows else "u")
            self.made.setdefault(name, self._shape(shape, width))
            lines += [
                f"np.matmul({operand}, {weight}, out={name})",
                f"np.add({target}, {name}, out={target})",
            ]
        else:
            lines.append(f"np.matmul({operand}, {weight}, out={target})")
        if any(op.biases) and not op.accumulate:
            lines.append(f"np.add({out}, {self.bias(op)}, out={out})")
        return lines

    def _as_rows(self, name: str, blocks: Sequence[Vector]) -> str:
        width = sum((self.cell.size(v) for v in blocks), sympy.S.Zero)
        buffer = self.plan.home.get(blocks[0])
        if buffer is None or tuple(blocks) == buffer.blocks or blocks[0].category == "state":
            return f"{name}.reshape(T * B, {_py(width)})"
        _, everything = self._run_names(buffer.blocks)
        start = self.plan.offset(blocks[0])
        span = _span(start, start + width)
        return f"{everything}.reshape(T * B, {_py(self.plan.width(buffer))})[:, {span}]"

    def multiply_comment(self, op: Multiply) -> str:
        lefts = ", ".join(comment(o, self.order) for o in op.outs)
        if len(op.outs) > 1:
            family = " ".join(m.name for m in op.matrices)
            sign = "+=" if op.accumulate else "="
            return f"{lefts} {sign} products with {comment(op.operands[0], self.order)}: {family}"
        sign = "+=" if op.accumulate else "="
        total = sympy.Add(
            *(m @ (op.operands[k] if len(op.operands) > 1 else op.operands[0])
              for k, m in enumerate(op.matrices)),
            evaluate=True,
        )  # fmt: skip
        return f"{lefts} {sign} {comment(total, self.order)}"

    def pack(self, matrices: Sequence[Matrix], *, transpose: bool) -> str:
        """The stacked matrices, as the right factor of a product with row vectors."""
        bases = [m.base for m in matrices]
        families = list(dict.fromkeys(m.name.partition("_")[0] for m in bases))
        wish = bases[0].name if len(bases) == 1 else "".join(families)
        if len(bases) > 1 and len(families) == 1 and len(bases) < self._family_size(families[0]):
            wish += "_" + "".join(m.name.partition("_")[2] for m in bases)
        parts = ", ".join(f'params["{m.name}"]' for m in bases)
        expr = f"np.concatenate(({parts}))" if len(bases) > 1 else parts
        key = ("pack", tuple(m.name for m in bases), transpose)
        name = self.names(key, f"{wish}_T" if transpose else wish)
        self.packs.setdefault(name, f"{expr}.T" if transpose else expr)
        return name

    def _family_size(self, family: str) -> int:
        members = [
            p for p in self.cell.parameters
            if isinstance(p, Matrix) and p.name.partition("_")[0] == family
        ]  # fmt: skip
        return len(members)

    def bias(self, op: Multiply | Fill) -> str:
        if len(op.biases) == 1:
            bias = op.biases[0]
            return self.ref(bias) if bias is not None else "0.0"
        parts = [
            f'params["{b.name}"]' if b is not None
            else f"np.zeros({_py(self.cell.size(o))}, dtype)"
            for b, o in zip(op.biases, op.outs, strict=True)
        ]  # fmt: skip
        families = {b.name.partition("_")[0] for b in op.biases if b is not None}
        name = self.names(("bias", op.biases, op.outs), "".join(sorted(families)))
        self.packs.setdefault(name, f"np.concatenate(({', '.join(parts)}))")
        return name

    def fill(self, op: Fill) -> list[str]:
        lines = []
        for out, bias in zip(op.outs, op.biases, strict=True):
            value = self.ref(bias) if bias is not None else "0.0"
            shown = comment(bias, self.order) if bias is not None else "0"
            lines += [
                f"# {comment(out, self.order)} = {shown}, products are added in the loop",
                f"{self.ref(out)}[...] = {value}",
            ]
        return lines

    # ------------------------------------------------------------------ elementwise

    def fused(self, op: Fused) -> list[str]:
        equations = list(op.equations)
        lines: list[str] = []
        while equations:
            gates = self.activation_run(equations)
            if gates:
                lines += self.activate(gates)
                equations = [e for e in equations if e not in gates]
            else:
                lines += self.equation(equations.pop(0))
        return lines

    def equation(self, e: Eq) -> list[str]:
        self.scratch = 0
        out = self.destination(e)
        shown = self.plan.origin.get(e.lhs, e)
        return [f"# {comment(shown, self.order)}", *self.assign(e.rhs, out, e.lhs)]

    def destination(self, e: Eq) -> str:
        """Where a value goes; a register takes the place of the sum that it completes."""
        sums = [v for v in e.rhs.atoms(Vector) if v.category == "partial"]
        if sums and e.lhs not in self.plan.home:
            self.local[e.lhs] = sums[0]
        return self.ref(e.lhs)

    def activation_run(self, equations: Sequence[Eq]) -> list[Eq]:
        """Gates that one call of tanh can compute: arguments side by side, results too.

        Allowed because σ(a) = (1 + tanh(a/2)) / 2.
        """
        pending = {e.lhs for e in equations}
        ready = [
            e for e in equations
            if isinstance(e.rhs, (sigmoid, sympy.tanh)) and e.rhs.args[0].is_Symbol
            and self.local.get(e.rhs.args[0], e.rhs.args[0]) in self.plan.home
            and e.rhs.args[0] not in pending and e.lhs in self.plan.home
        ]  # fmt: skip
        if len(ready) < 2 or equations[0] not in ready:
            return []
        position = {}
        for e in ready:
            source = self.local.get(e.rhs.args[0], e.rhs.args[0])
            position[e] = (
                self.plan.home[source].blocks.index(source),
                self.plan.home[e.lhs].blocks.index(e.lhs),
            )
        ready.sort(key=lambda e: position[e])
        first = ready.index(equations[0])
        run = [ready[first]]
        for step_by, others in ((1, ready[first + 1 :]), (-1, ready[:first][::-1])):
            for e in others:
                edge = run[-1] if step_by == 1 else run[0]
                same = self._same_buffers(edge, e)
                if same and position[e] == tuple(p + step_by for p in position[edge]):
                    run.insert(len(run) if step_by == 1 else 0, e)
        return run if len(run) > 1 else []

    def _same_buffers(self, a: Eq, b: Eq) -> bool:
        sources = [self.local.get(e.rhs.args[0], e.rhs.args[0]) for e in (a, b)]
        home = self.plan.home
        return home[sources[0]] == home[sources[1]] and home[a.lhs] == home[b.lhs]

    def activate(self, gates: Sequence[Eq]) -> list[str]:
        sources = [self.local.get(e.rhs.args[0], e.rhs.args[0]) for e in gates]
        a, out = self.run(sources), self.run([e.lhs for e in gates])
        lines = [f"# {comment(e, self.order)}" for e in gates]
        sigmoids = [isinstance(e.rhs, sigmoid) for e in gates]
        if not any(sigmoids):
            return [*lines, f"np.tanh({a}, out={out})"]
        # gates of a kind are neighbours: the layout saw to that
        runs = [
            [e for e, s in list(zip(gates, sigmoids, strict=True))[lo:hi]]
            for lo, hi in _true_runs(sigmoids)
        ]
        lines.append("# by σ(a) = (1 + tanh(a/2)) / 2, one tanh for all of them")
        before, after = [], []
        for part in runs:
            halves = self.run([self.local.get(e.rhs.args[0], e.rhs.args[0]) for e in part])
            results = self.run([e.lhs for e in part])
            before.append(f"np.multiply({halves}, 0.5, out={halves})")
            after += [
                f"np.multiply({results}, 0.5, out={results})",
                f"np.add({results}, 0.5, out={results})",
            ]
        return [*lines, *before, f"np.tanh({a}, out={out})", *after]

    def assign(self, e: Expr, out: str, lhs: Vector) -> list[str]:
        lines: list[str] = []
        result = self.lower(e, lines, out, self.cell.size(lhs))
        if result != out:
            lines.append(f"{out}[...] = {result}")
        return lines

    def lower(self, e: Expr, lines: list[str], out: str | None, size: Expr) -> str:
        """Calls that compute ``e``; the name or literal that holds it. ``out`` is where it may be
        written, unless ``e`` still reads what is there."""
        if isinstance(e, Vector):
            return self.ref(e)
        if e.is_number or e.free_symbols <= set(self.cell.sizes):
            return _py(e)
        inner = size
        if isinstance(e, Reduction):
            inner = self.cell.shapes.of(e.args[0])
        if isinstance(e, Reduction):
            return self._reduce(e, lines, out, size, inner)
        target = out if out is not None and not self._clobbers(e, out) else None
        if target is None:
            target = self.temporary(self._extent(e, size))
        self._compute(e, lines, target, size)
        return target

    def _clobbers(self, e: Expr, out: str) -> bool:
        """Whether writing to ``out`` while ``e`` is being computed would spoil an operand: only a
        single call reads all of them before it writes."""
        reads = [v for v in e.atoms(Vector) if self.ref(v) == out]
        simple = len(e.args) <= 2 and all(
            a.is_Atom or (a.is_number) for a in e.args
        ) and not isinstance(e, (sigmoid, rsqrt))  # fmt: skip
        return bool(reads) and not simple

    def _extent(self, e: Expr, size: Expr) -> Expr:
        return self.cell.shapes.of(e) if e.atoms(Vector) else size

    def _compute(self, e: Expr, lines: list[str], out: str, size: Expr) -> None:
        if isinstance(e, sympy.Add):
            self._sum(e, lines, out, size)
        elif isinstance(e, sympy.Mul):
            self._product(e, lines, out, size)
        elif isinstance(e, sympy.Pow):
            self._power(e, lines, out, size)
        elif isinstance(e, stop_gradient):
            inner = self.lower(e.args[0], lines, out, size)
            if inner != out:
                lines.append(f"np.copyto({out}, {inner})")
        elif isinstance(e, sigmoid):
            inner = self.lower(e.args[0], lines, out, size)
            lines += [
                f"np.multiply({inner}, 0.5, out={out})  # σ(a) = (1 + tanh(a/2)) / 2",
                f"np.tanh({out}, out={out})",
                f"np.multiply({out}, 0.5, out={out})",
                f"np.add({out}, 0.5, out={out})",
            ]
        elif isinstance(e, rsqrt):
            inner = self.lower(e.args[0], lines, out, size)
            lines += [f"np.sqrt({inner}, out={out})", f"np.divide(1.0, {out}, out={out})"]
        elif isinstance(e, (softplus, sympy.erf)):
            inner = self.lower(e.args[0], lines, out, size)
            lines.append(f"{out}[...] = {_HELPERS[type(e)]}({inner})")
        elif isinstance(e, relu):
            inner = self.lower(e.args[0], lines, out, size)
            lines.append(f"np.maximum({inner}, 0.0, out={out})")
        elif isinstance(e, step):
            inner = self.lower(e.args[0], lines, out, size)
            lines.append(f"np.greater({inner}, 0.0, out={out})")
        elif isinstance(e, sympy.Heaviside):
            inner = self.lower(e.args[0], lines, out, size)
            lines.append(f"np.heaviside({inner}, 0.5, out={out})")
        elif type(e) in _BINARY:
            self._binary(e, lines, out, size)
        elif isinstance(e, sympy.Piecewise):
            self._piecewise(e, lines, out, size)
        elif type(e) in _UFUNCS:
            inner = self.lower(e.args[0], lines, out, size)
            lines.append(f"{_UFUNCS[type(e)]}({inner}, out={out})")
        else:
            raise GenerateError(f"the NumPy target cannot print {type(e).__name__}: {e}")

    def _call(self, ufunc: str, a: str, b: str, out: str) -> str:
        return f"{ufunc}({a}, {b}, out={out})"

    def _sum(self, e: Expr, lines: list[str], out: str, size: Expr) -> None:
        terms = self.order.terms(e)
        parts = [_signed(t) for t in terms]
        first_sign, first = parts[0]
        if first_sign < 0:
            parts[0] = (1, terms[0])
            first = terms[0]
        held = self.lower(first, lines, self._free(first, e, out), size)
        for sign, term in parts[1:]:
            other = self.lower(term, lines, None if held == out else self._free(term, e, out), size)
            if other == out and held == out:
                raise AssertionError("two operands in one place")
            ufunc = "np.add" if sign > 0 else "np.subtract"
            lines.append(self._call(ufunc, held, other, out))
            held = out

    def _free(self, part: Expr, whole: Expr, out: str) -> str | None:
        """``out`` if nothing else of ``whole`` has to be read from it later."""
        busy = sum(1 for v in whole.atoms(Vector) if self.ref(v) == out)
        return None if busy else out

    def _product(self, e: Expr, lines: list[str], out: str, size: Expr) -> None:
        factors = self.order.factors(e)
        above = [f for f in factors if not _is_reciprocal(f)]
        below = [1 / f for f in factors if _is_reciprocal(f)]
        numbers = [f for f in above if f.is_number or f.free_symbols <= set(self.cell.sizes)]
        above = [f for f in above if f not in numbers]
        scale = sympy.Mul(*numbers) / sympy.Mul(
            *(b for b in below if b.is_number or b.free_symbols <= set(self.cell.sizes))
        )
        below = [b for b in below if not (b.is_number or b.free_symbols <= set(self.cell.sizes))]
        held = "" if above else "1.0"
        for f in above:
            spare = None if held == out else self._free(f, e, out)
            other = self.lower(f, lines, spare, size)
            if held:
                lines.append(self._call("np.multiply", held, other, out))
                held = out
            else:
                held = other
        if scale != 1:
            lines.append(self._call("np.multiply", held, _py(scale), out))
            held = out
        for b in below:
            other = self.lower(b, lines, None if held == out else self._free(b, e, out), size)
            lines.append(self._call("np.divide", held, other, out))
            held = out
        if held != out:
            lines.append(f"np.copyto({out}, {held})")

    def _power(self, e: Expr, lines: list[str], out: str, size: Expr) -> None:
        base, exponent = e.args
        if exponent.is_number and exponent.is_negative:
            inner = self.lower(1 / e, lines, out, size)
            lines.append(self._call("np.divide", "1.0", inner, out))
            return
        held = self.lower(base, lines, out, size)
        if exponent == sympy.Rational(1, 2):
            lines.append(f"np.sqrt({held}, out={out})")
        elif exponent == 2:
            lines.append(f"np.square({held}, out={out})")
        elif exponent in (3, 4):
            if held == out:
                kept = self.temporary(self._extent(base, size))
                lines.append(f"np.copyto({kept}, {held})")
                held = kept
            lines.append(f"np.square({held}, out={out})")
            other = held if exponent == 3 else out
            lines.append(self._call("np.multiply", out, other, out))
        else:
            other = self.lower(exponent, lines, None, size)
            lines.append(self._call("np.power", held, other, out))

    def _binary(self, e: Expr, lines: list[str], out: str, size: Expr) -> None:
        args = list(e.args)
        held = self.lower(args[0], lines, self._free(args[0], e, out), size)
        for arg in args[1:]:
            spare = None if held == out else self._free(arg, e, out)
            other = self.lower(arg, lines, spare, size)
            lines.append(self._call(_BINARY[type(e)], held, other, out))
            held = out

    def _piecewise(self, e: Expr, lines: list[str], out: str, size: Expr) -> None:
        printer = _Inline(self, lines, size)
        *cases, last = e.args
        text = self.lower(last[0], lines, None, size) if last[1] == sympy.true else "np.nan"
        if last[1] != sympy.true:
            cases = [*cases, last]
        for value, condition in reversed(cases):
            chosen = self.lower(value, lines, None, size)
            text = f"np.where({printer.condition(condition)}, {chosen}, {text})"
        lines.append(f"{out}[...] = {text}")

    def _reduce(
        self, e: Expr, lines: list[str], out: str | None, size: Expr, inner: Expr
    ) -> str:
        operand = self.lower(e.args[0], lines, None, inner)
        target = out if out is not None else self.temporary(size)
        if isinstance(e, cumsum):
            lines.append(f"np.cumsum({operand}, axis=-1, out={target})")
        elif isinstance(e, rcumsum):
            lines.append(
                f"np.cumsum({operand}[..., ::-1], axis=-1, out={target}[..., ::-1])"
            )
        else:
            if not e.args[0].atoms(Vector) - set(self.cell.parameters):
                operand = f"np.broadcast_to({operand}, {target}.shape[:-1] + ({_py(inner)},))"
            name = _REDUCE[type(e)]
            lines.append(f"{name}({operand}, axis=-1, keepdims=True, out={target})")
        return target

    # ------------------------------------------------------------------ putting together

    def preamble(self) -> list[str]:
        """Packed parameters and arrays, in the order in which they were first needed."""
        lines = [f"{name} = {expr}" for name, expr in self.packs.items()]
        lines += [f"{name} = np.empty({shape}, dtype)" for name, shape in self.made.items()]
        # a view of a view comes after what it looks at
        lines += [f"{name} = {expr}" for name, expr in self.aliases.items()]
        return lines

    def loop(self, lines: Sequence[str]) -> list[str]:
        if not lines:
            return []
        back = "[::-1]" if self.reverse else ""
        names = ", ".join(self.views)
        arrays = ", ".join(f"{a}{back}" for a in self.views.values())
        if not self.views:
            head = ["for _ in range(T):"]
        elif len(self.views) == 1:
            head = [f"for {names} in {arrays}:"]
        else:
            short = f"for {names} in zip({arrays}):"
            head = [short] if len(short) <= 92 else [
                *wrapped("for (", names, ") in zip("), *wrapped("", arrays, "):", width=0)
            ]  # fmt: skip
        return [*head, *(f"    {line}" for line in lines)]


class _Inline(StrPrinter):  # type: ignore[misc]
    """Conditions of a Piecewise, written in place."""

    def __init__(self, writer: _Writer, lines: list[str], size: Expr) -> None:
        super().__init__()
        self.writer, self.lines, self.size = writer, lines, size

    def condition(self, c: Expr) -> str:
        if c in (sympy.true, sympy.false):
            return str(bool(c))
        if isinstance(c, (sympy.And, sympy.Or)):
            joint = " & " if isinstance(c, sympy.And) else " | "
            return joint.join(f"({self.condition(a)})" for a in c.args)
        if isinstance(c, sympy.Not):
            return f"~({self.condition(c.args[0])})"
        sides = [self.writer.lower(s, self.lines, None, self.size) for s in (c.lhs, c.rhs)]
        return f"{sides[0]} {c.rel_op} {sides[1]}"


class _Forward(_Writer):
    def part(self) -> schedule.Pass:
        return self.plan.forward

    def lines(self) -> list[str]:
        cell = self.cell
        body = self.body()
        self.region = BEFORE
        starts, kept = [], []
        for s in cell.states:
            name = self.names((s.at(0), "stored"), f"{s.name}_seq")
            self.made[name] = f"(T + 1, B, {_py(cell.size(s))})"
            starts.append(f'{name}[0] = state["{s.name}"]')
            kept.append((s.name, name))
        for v in self.tape_values():
            kept.append((v.name, self.whole(v)))
        y = self.whole(cell.output)
        inputs = _unpack(self, cell)
        lines = [*inputs, *self.preamble(), *starts]
        if body[BEFORE]:
            lines += ["", "# before the loop: all steps at once", *body[BEFORE]]
        if body[STEP]:
            lines += ["", *self.loop(body[STEP])]
        if body[AFTER]:
            lines += ["", "# after the loop: all steps at once", *body[AFTER]]
        pairs = ", ".join(f'"{name}": {array}' for name, array in kept)
        given = ", ".join(f'"{v.name}": {self.whole(v)}' for v in (*cell.inputs, *cell.masks))
        finals = ", ".join(
            f'"{s.name}": {self.names((s.at(0), "stored"), "")}[-1].copy()' for s in cell.states
        )
        return [
            *lines,
            "",
            *wrapped("tape = {", ", ".join(p for p in (given, pairs) if p), "}"),
            f"return {y}.copy(), {{{finals}}}, tape",
        ]

    def tape_values(self) -> list[Vector]:
        buffers = [b for b in self.plan.buffers if b.scope == "tape"]
        return [v for b in buffers for v in b.blocks]


def _unpack(writer: _Writer, cell: Cell) -> list[str]:
    lines = []
    for v in cell.inputs:
        source = "x" if len(cell.inputs) == 1 else f'x["{v.name}"]'
        if writer.whole(v) != source:
            lines.append(f"{writer.whole(v)} = {source}")
    return lines + [f'{writer.whole(v)} = masks["{v.name}"]' for v in cell.masks]


class _Backward(_Writer):
    reverse = True

    def part(self) -> schedule.Pass:
        return self.plan.backward

    def operation(self, op: Operation) -> list[str]:
        self.scratch = 0
        if isinstance(op, Outers):
            return self.outers(op)
        if isinstance(op, Sums):
            return self.sums(op)
        return super().operation(op)

    def lines(self) -> list[str]:
        cell = self.cell
        self.assigned: set[str] = set()
        self._merge_carries()
        body = self.body()
        self.region = BEFORE
        taken = []
        for v in (*cell.inputs, *cell.masks):
            name = self.whole(v)
            if any(_mentions(line, name) for lines in body.values() for line in lines) or (
                name in self.views.values()
            ):
                taken.append(f'{name} = tape["{v.name}"]')
        taken += self._from_tape()
        starts = []
        for s in cell.states:
            here, there = self.names(carry(s), ""), self.names(carry(s, -1), "")
            starts.append(f'{here} = dstate["{s.name}"].copy()')
            if here != there:
                starts.append(f"{there} = np.empty_like({here})")
        swaps = [
            f"{a}, {b} = {b}, {a}"
            for s in cell.states
            if (a := self.names(carry(s), "")) != (b := self.names(carry(s, -1), ""))
        ]
        given = {self.whole(v): v for v in (adjoint_of(v) for v in cell.inputs)}
        for name, v in given.items():
            self.made.setdefault(name, f"(T, B, {_py(cell.size(v))})")
        unreached = [n for n in given if not self._written(given[n])]
        lines = ["grads = {}", *taken, *self.preamble(), *starts]
        lines += [f"{name}.fill(0.0)  # no gradient reaches the input" for name in unreached]
        if body[BEFORE]:
            lines += ["", "# before the loop: all steps at once", *body[BEFORE]]
        if body[STEP]:
            lines += ["", *self.loop([*body[STEP], *swaps])]
        lines += ["", "# after the loop: all steps at once", *body[AFTER]]
        for p in cell.parameters:
            if p.name not in self.assigned:
                lines.append(f'grads["{p.name}"] = np.zeros_like(params["{p.name}"])')
        finals = ", ".join(f'"{s.name}": {self.names(carry(s), "")}' for s in cell.states)
        names = list(given)
        dx = (
            names[0] if len(names) == 1
            else "{" + ", ".join(f'"{v.name}": {n}' for n, v in given.items()) + "}"
        )  # fmt: skip
        return [
            *lines,
            "",
            f"grads = {{name: grads[name] for name in PARAMETERS}}",
            f"return grads, {dx}, {{{finals}}}",
        ]

    def _written(self, v: Vector) -> bool:
        return any(v in op.writes for op in self.plan.backward.operations)

    def _merge_carries(self) -> None:
        """One array for what arrives from t+1 and what goes to t-1, where the first is read for
        the last time before the second is written."""
        flat: list[tuple[set[Vector], set[Vector]]] = []
        for op in self.plan.backward.step:
            if isinstance(op, Fused):
                flat += [(e.rhs.atoms(Vector), {e.lhs}) for e in op.equations]
            else:
                flat.append((set(op.reads), set(op.writes)))
        for s in self.cell.states:
            size = str(self.cell.size(s))
            arrives = Vector(s.name, "carry", size, 0)
            leaves = Vector(s.name, "carry", size, -1)
            reads = [k for k, (r, _) in enumerate(flat) if arrives in r]
            writes = [k for k, (_, w) in enumerate(flat) if leaves in w]
            wish = f"d{s.name}_next"
            name = self.names(carry(s), wish)
            self.names.same(arrives, name)
            if reads and writes and max(reads) < min(writes):
                self.names.same(carry(s, -1), name)
                self.names.same(leaves, name)
            else:
                other = self.names(carry(s, -1), f"d{s.name}_prev")
                self.names.same(leaves, other)

    def _from_tape(self) -> list[str]:
        """What forward left, under the names used here; only what is read."""
        lines = []
        used = set(self.views.values()) | set(self.aliases) | set(self.made)
        for s in self.cell.states:
            name = self.names((s.at(0), "stored"), f"{s.name}_seq")
            if any(expr.startswith(f"{name}[") for expr in self.aliases.values()):
                lines.append(f'{name} = tape["{s.name}"]')
        for buffer in self.plan.buffers:
            if buffer.scope != "tape":
                continue
            for v in buffer.blocks:
                name = self.names.given.get((v, "all"))
                if name in used:
                    self.aliases.pop(name, None)
                    self.made.pop(name, None)
                    lines.append(f'{name} = tape["{v.name}"]')
            whole = self.names.given.get(((buffer, buffer.blocks), "all"))
            if whole:
                self.made.pop(whole, None)
        return lines

    def outers(self, op: Outers) -> list[str]:
        lefts, right = self.run(op.lefts), self.whole(op.right)
        left_rows = self._as_rows(lefts, op.lefts)
        right_rows = self._as_rows(right, [op.right])
        names = " ".join(m.name for m in op.parameters)
        lines = [f"# ∂L/∂{names}: the sum over t of " + self._outer_comment(op)]
        product = f"np.matmul({left_rows}.T, {right_rows})"
        if len(op.parameters) == 1:
            return [*lines, self._grade(op.parameters[0].name, product)]
        stack = self.names(("outer", op.parameters), f"d{self._stack_name(op.parameters)}")
        lines.append(f"{stack} = {product}")
        start: Expr = sympy.S.Zero
        for p, left in zip(op.parameters, op.lefts, strict=True):
            size = self.cell.size(left)
            lines.append(self._grade(p.name, f"{stack}[{_span(start, start + size)}]"))
            start += size
        return lines

    def _outer_comment(self, op: Outers) -> str:
        return f"{', '.join(comment(v, self.order) for v in op.lefts)} times {comment(op.right, self.order)}ᵀ"

    def _stack_name(self, parameters: Sequence[Matrix | Vector]) -> str:
        return "".join(dict.fromkeys(p.name.partition("_")[0] for p in parameters))

    def _grade(self, name: str, value: str) -> str:
        first = name not in self.assigned
        self.assigned.add(name)
        return f'grads["{name}"] {"=" if first else "+="} {value}'

    def sums(self, op: Sums) -> list[str]:
        lines: list[str] = []
        for p, term in zip(op.parameters, op.terms, strict=True):
            self.scratch = 0
            lines.append(f"# ∂L/∂{p.name} = Σ {comment(term, self.order)}")
            size = self.cell.shapes.of(term)
            factors = sympy.Mul.make_args(term)
            if len(factors) == 2 and all(
                isinstance(f, Vector) and f.category not in ("parameter", "constant")
                and self.cell.size(f) == size for f in factors
            ):  # fmt: skip
                a, b = (self.whole(f) for f in self.order.factors(term))
                lines.append(self._grade(p.name, f'np.einsum("tbj,tbj->j", {a}, {b})'))
                continue
            value = self.lower(term, lines, None, size)
            total = f"{value}.sum(axis=(0, 1))"
            if self.cell.size(p) == 1 and size != 1:
                total = f"{value}.sum(keepdims=True).reshape(1)"
            lines.append(self._grade(p.name, total))
        return lines


def adjoint_of(v: Vector) -> Vector:
    """δv of an input."""
    return Vector(v.name, "adjoint", v.size, v.time)


# --------------------------------------------------------------------------- small helpers


def _mentions(line: str, name: str) -> bool:
    words = "".join(ch if ch.isalnum() or ch == "_" else " " for ch in line).split()
    return name in words


def _is_reciprocal(f: Expr) -> bool:
    return isinstance(f, sympy.Pow) and bool(f.exp.is_number) and bool(f.exp.is_negative)


def _signed(term: Expr) -> tuple[int, Expr]:
    if term.could_extract_minus_sign() and sympy.Mul.make_args(term)[0].is_Number:
        return -1, -term
    return 1, term


def _true_runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    edges = [k for k, (a, b) in enumerate(pairwise([False, *flags, False])) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


class _Size(StrPrinter):  # type: ignore[misc]
    """Numbers and sizes as Python writes them."""

    def _print_Rational(self, e: Expr) -> str:
        return f"{float(e)!r}" if (e.q & (e.q - 1)) == 0 else f"({e.p} / {e.q})"

    def _print_Float(self, e: Expr) -> str:
        return literal(e)

    def _print_Pi(self, e: Expr) -> str:
        return "np.pi"

    def _print_Exp1(self, e: Expr) -> str:
        return "np.e"

    def _print_Function(self, e: Function) -> str:
        return repr(float(e))


def _py(e: Expr) -> str:
    if e.is_number and not isinstance(e, Integer):
        if isinstance(e, sympy.Rational):
            return str(_Size().doprint(e))
        return repr(float(e))
    return str(_Size().doprint(sympy.expand(e)))


def _span(start: Expr, stop: Expr) -> str:
    return f"{_py(start) if start != 0 else ''}:{_py(stop)}"
