"""The plan: what runs before the time loop, in it and after it, and where its values live.

A plan is made from equations alone, in five short steps, each a function from equations or
operations to operations:

1. repeated function values get a name (``tanh_c``), cheap forward values are computed again;
2. each equation goes before the loop, into it or after it, by what it depends on and what needs it;
3. products that share an operand (or, in the backward pass, a sum) become one stacked product;
4. elementwise work between two products is fused: loops over units, with reductions between them;
5. every value gets a home: on the tape, for a tile of time, for one step, or in a register.

Nothing here knows a language; a target prints the operations in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

import sympy
from sympy import Eq, Expr, Function, Integer, Symbol

from .cell import Cell
from .derivation import Derivation, adjoint, carry, derive
from .errors import LstmgenError
from .normalform import Namer, products, remainder
from .symbols import (
    Gradient,
    Matrix,
    Outer,
    Product,
    Reduction,
    Scan,
    Size,
    Total,
    Vector,
    equal,
    rcumsum,
    relu,
    sigmoid,
    step,
    stop_gradient,
)

T, B, K = Size("T"), Size("B"), Size("K")  # steps, rows of the batch, steps in a tile
ZERO = sympy.S.Zero
BEFORE, STEP, AFTER = "before", "step", "after"
_CHEAP_FUNCTIONS = (relu, step, stop_gradient, equal, sympy.Abs, sympy.sign, sympy.Max, sympy.Min)

# --------------------------------------------------------------------------- operations


@dataclass(frozen=True)
class Multiply:
    """A stacked product. Either one operand and a matrix for each out, or, for a sum of products,
    one out and a matrix for each operand. ``accumulate`` adds to what the outs already hold."""

    outs: tuple[Vector, ...]
    matrices: tuple[Matrix, ...]
    operands: tuple[Vector, ...]
    biases: tuple[Vector | None, ...]
    accumulate: bool

    @property
    def reads(self) -> tuple[Vector, ...]:
        biases = tuple(b for b in self.biases if b is not None)
        return self.operands + biases + (self.outs if self.accumulate else ())

    @property
    def writes(self) -> tuple[Vector, ...]:
        return self.outs


@dataclass(frozen=True)
class Fill:
    """Start sums with a bias, or with nothing, before products are added to them."""

    outs: tuple[Vector, ...]
    biases: tuple[Vector | None, ...]

    @property
    def reads(self) -> tuple[Vector, ...]:
        return tuple(b for b in self.biases if b is not None)

    @property
    def writes(self) -> tuple[Vector, ...]:
        return self.outs


@dataclass(frozen=True)
class Loop:
    """Equations that one loop over units can compute; of size 1, plain statements.

    A reduction's value is known only when its loop has ended. ``backwards`` runs from the last
    unit to the first, as a reversed running sum needs.
    """

    size: Expr
    equations: tuple[Eq, ...]
    backwards: bool = False


@dataclass(frozen=True)
class Fused:
    """Elementwise work and reductions between two products, row by row."""

    loops: tuple[Loop, ...]

    @property
    def equations(self) -> tuple[Eq, ...]:
        return tuple(e for loop in self.loops for e in loop.equations)

    @property
    def reads(self) -> tuple[Vector, ...]:
        own = {e.lhs for e in self.equations}
        return tuple(v for v in _atoms(self.equations) if v not in own)

    @property
    def writes(self) -> tuple[Vector, ...]:
        return tuple(e.lhs for e in self.equations)


@dataclass(frozen=True)
class Outers:
    """Gradients of matrices over all rows at once: parameter k gains Σ left_k rightᵀ."""

    parameters: tuple[Matrix, ...]
    lefts: tuple[Vector, ...]
    right: Vector

    @property
    def reads(self) -> tuple[Vector, ...]:
        return (*self.lefts, self.right)

    @property
    def writes(self) -> tuple[Vector, ...]:
        return ()


@dataclass(frozen=True)
class Sums:
    """Gradients of learned vectors over all rows at once: each gains the Σ of its expression."""

    parameters: tuple[Vector, ...]
    terms: tuple[Expr, ...]

    @property
    def reads(self) -> tuple[Vector, ...]:
        return tuple(v for v in _vectors(self.terms))

    @property
    def writes(self) -> tuple[Vector, ...]:
        return ()


Operation = Multiply | Fill | Fused | Outers | Sums


@dataclass(frozen=True)
class Buffer:
    """Blocks that lie side by side in memory, one row after the other.

    scope: "tape" (every step, kept for the backward pass), "tile" (the steps that are worked on
    together), "step" (one step), "state", "carry", or "given" (the caller's own array).
    """

    name: str
    blocks: tuple[Vector, ...]
    scope: str


@dataclass(frozen=True)
class Pass:
    """One direction: forward in time, or backward."""

    before: tuple[Operation, ...]
    step: tuple[Operation, ...]
    after: tuple[Operation, ...]

    @property
    def operations(self) -> tuple[Operation, ...]:
        return self.before + self.step + self.after


@dataclass(frozen=True)
class Plan:
    """What to run and where to keep it. ``print(plan)`` shows it, with its exact costs."""

    derivation: Derivation
    forward: Pass
    backward: Pass
    buffers: tuple[Buffer, ...]
    eager: bool
    dtype: str
    origin: dict[Vector, Eq] = field(compare=False)  # the whole equation of a sum that was cut up

    @property
    def cell(self) -> Cell:
        return self.derivation.cell

    def size(self, v: Vector) -> Expr:
        return self.cell.size(v)

    @cached_property
    def home(self) -> dict[Vector, Buffer]:
        """The buffer of every value that has one; what has none lives in a register."""
        return {v: buffer for buffer in self.buffers for v in buffer.blocks}

    def offset(self, v: Vector) -> Expr:
        """Where ``v`` begins in a row of its buffer."""
        blocks = self.home[v].blocks
        return sum((self.size(u) for u in blocks[: blocks.index(v)]), ZERO)

    def width(self, buffer: Buffer) -> Expr:
        """The numbers in a row of ``buffer``."""
        return sum((self.size(v) for v in buffer.blocks), ZERO)

    # ------------------------------------------------------------------ costs

    @cached_property
    def flops(self) -> Expr:
        """Arithmetic of forward and backward: an addition, a product, a function value is one."""
        return sympy.expand(self.flops_of(self.forward) + self.flops_of(self.backward))

    @cached_property
    def bytes(self) -> Expr:
        """Bytes that forward and backward move, if each operation reads what it needs from memory
        once and writes its results once."""
        return sympy.expand(self.bytes_of(self.forward) + self.bytes_of(self.backward))

    @cached_property
    def tape(self) -> Expr:
        """Numbers kept from forward for backward."""
        rows = {"tape": T * B, "state": (T + 1) * B}
        kept = [b for b in self.buffers if b.scope in rows]
        return sympy.expand(sum((rows[b.scope] * self.width(b) for b in kept), ZERO))

    @cached_property
    def workspace(self) -> Expr:
        """Numbers of scratch space, for tiles of K steps (K = T if all are done at once)."""
        rows = {"tile": K * B, "step": B, "carry": 2 * B}
        kept = [b for b in self.buffers if b.scope in rows]
        return sympy.expand(sum((rows[b.scope] * self.width(b) for b in kept), ZERO))

    def flops_of(self, part: Pass) -> Expr:
        """The arithmetic of one pass over T steps of B rows."""
        total = sum((self._flops(op) for op in part.operations), ZERO)
        return sympy.expand(T * B * total)

    def bytes_of(self, part: Pass) -> Expr:
        """The traffic of one pass over T steps of B rows."""
        total = ZERO
        for op in part.before + part.after:
            total += T * B * self._traffic(op) + self._weights(op)
        for op in part.step:
            total += T * (B * self._traffic(op) + self._weights(op))
        return sympy.expand(total * {"float32": 4, "float64": 8}[self.dtype])

    def _flops(self, op: Operation) -> Expr:
        """Per row."""
        if isinstance(op, Multiply):
            return sum((2 * _area(self.cell, m) for m in op.matrices), ZERO)
        if isinstance(op, Fused):
            return sum(
                (loop.size * _count(e.rhs) for loop in op.loops for e in loop.equations), ZERO
            )
        if isinstance(op, Outers):
            return sum((2 * _area(self.cell, m) for m in op.parameters), ZERO)
        if isinstance(op, Sums):
            return sum((self.cell.shapes.of(t) * (_count(t) + 1) for t in op.terms), ZERO)
        return ZERO

    def _traffic(self, op: Operation) -> Expr:
        """Numbers read and written per row."""
        stored = [v for v in (*op.reads, *op.writes) if v in self.home]
        return sum((self.size(v) for v in stored), ZERO)

    def _weights(self, op: Operation) -> Expr:
        """Numbers of parameters read, or of gradients written, whatever the number of rows."""
        if isinstance(op, Multiply):
            return sum((_area(self.cell, m) for m in op.matrices), ZERO)
        if isinstance(op, Outers):
            return sum((_area(self.cell, m) for m in op.parameters), ZERO)
        read = [v for v in op.reads if v.category == "parameter"]
        if isinstance(op, Sums):
            read += op.parameters
        return sum((self.size(v) for v in read), ZERO)

    def __str__(self) -> str:
        from .targets.text import describe_plan

        return describe_plan(self)


# --------------------------------------------------------------------------- the planner


def plan(cell: Cell | Derivation, *, eager: bool = False, dtype: str = "float64") -> Plan:
    """Plan the forward and the backward pass of ``cell``.

    Parameters
    ----------
    cell : Cell or Derivation
    eager : bool
        Do all that does not depend on the recurrence for all steps at once, elementwise work and
        the coefficients of the backward pass included. Right where an operation has a high price
        of its own (NumPy); else only products are lifted out of the loop, and the elementwise
        work stays inside, where its operands are in cache.
    dtype : str
        "float32" or "float64", for the count of bytes.

    Returns
    -------
    Plan
        ``print`` shows it; ``flops``, ``bytes`` and ``tape`` are polynomials in T, B and the
        cell's sizes.
    """
    if dtype not in ("float32", "float64"):
        raise LstmgenError(f'dtype is "float32" or "float64", not {dtype!r}')
    derivation = cell if isinstance(cell, Derivation) else derive(cell)
    return _Planner(derivation, eager, dtype).run()


class _Planner:
    def __init__(self, derivation: Derivation, eager: bool, dtype: str) -> None:
        self.derivation, self.cell = derivation, derivation.cell
        self.eager, self.dtype = eager, dtype
        taken = {
            s.name
            for e in (*derivation.forward, *derivation.adjoints)
            for s in e.free_symbols
        }
        self.namer = Namer({*taken, "T", "B", *(s.name for s in self.cell.sizes)})

    def run(self) -> Plan:
        d, cell = self.derivation, self.cell
        forward = share(d.forward, self.namer, cell)
        lines = share((*d.adjoints, *d.totals), self.namer, cell)
        adjoints = tuple(e for e in lines if not isinstance(e.lhs, Gradient))
        totals = tuple(e for e in lines if isinstance(e.lhs, Gradient))

        if self.eager:
            adjoints = split_coefficients(adjoints, self.namer, cell)
        else:
            adjoints = recompute(forward, adjoints, totals) + adjoints
        defined = {e.lhs for e in adjoints}
        tape = {
            v
            for v in _atoms((*adjoints, *totals))
            if v.category in ("vector", "state") and v not in defined
        }
        kept = tape | {cell.output}  # a stacked sum is no place for what must stay
        ahead = _Direction(
            forward, cell, {s: s.at(0) for s in cell.states}, self.eager, kept, set()
        )
        wanted = {v for e in totals for v in e.rhs.atoms(Vector)}
        ends = {adjoint(v) for v in cell.inputs}
        back = _Direction(
            adjoints, cell,
            {_sized(carry(s), cell): _sized(carry(s, -1), cell) for s in cell.states},
            self.eager, ends, wanted,
        )  # fmt: skip
        gradients = _gradient_operations(totals)
        stacks = ahead.stacks + back.stacks + [op.lefts for op in gradients if _is_outer(op)]
        rank = {v.name: k for k, v in enumerate(e.lhs for e in forward)}
        layouts = layout(
            stacks + _activation_sets(forward, ahead, tape - {cell.output}), rank, forward, cell)
        forward_pass = ahead.finish(layouts)
        backward_pass = back.finish(layouts)
        backward_pass = Pass(
            backward_pass.before,
            backward_pass.step,
            backward_pass.after + _split_gradients(gradients, layouts),
        )
        buffers = _Housing(self.derivation, forward_pass, backward_pass, tape, layouts).buffers()
        return Plan(
            self.derivation, forward_pass, backward_pass, buffers, self.eager, self.dtype,
            {**ahead.origin, **back.origin},
        )  # fmt: skip


def _sized(v: Vector, cell: Cell) -> Vector:
    return Vector(v.name, v.category, str(cell.size(v)), v.time)


# --------------------------------------------------------------------------- 1. equations


def share(equations: Sequence[Eq], namer: Namer, cell: Cell) -> tuple[Eq, ...]:
    """Give a name to every function value that is needed twice: tanh_c = tanh(c)."""
    lines = list(equations)
    while repeated := _repeated(lines):
        node = repeated[0]  # an innermost one, so that an outer one will read its name
        inner = node.args[0]
        name = f"{node.func.__name__}_{inner.name}" if inner.is_Symbol else "shared"
        symbol = Vector(namer(name), "shared", str(cell.shapes.of(node)))
        first = next(k for k, e in enumerate(lines) if e.rhs.has(node))
        lines = [Eq(e.lhs, e.rhs.xreplace({node: symbol}), evaluate=False) for e in lines]
        lines.insert(first, Eq(symbol, node, evaluate=False))
    return tuple(lines)


def _repeated(lines: Sequence[Eq]) -> list[Expr]:
    counts: dict[Expr, int] = {}
    for e in lines:
        for node in sympy.preorder_traversal(e.rhs):
            if isinstance(node, Function) and not isinstance(
                node, (Product, Reduction, Outer, Total, *_CHEAP_FUNCTIONS)
            ):
                counts[node] = counts.get(node, 0) + 1
    repeated = [node for node, n in counts.items() if n > 1]
    return sorted(repeated, key=lambda n: (sympy.count_ops(n), str(n)))


def split_coefficients(equations: Sequence[Eq], namer: Namer, cell: Cell) -> tuple[Eq, ...]:
    """Name what multiplies an adjoint, k = o (1 - tanh² c): it needs no adjoint itself, so that it
    can be computed for all steps at once."""
    out: list[Eq] = []
    moving = ("adjoint", "carry", "cotangent")

    def split(term: Expr, name: str) -> Expr:
        factors = sympy.Mul.make_args(term)
        flowing = [f for f in factors if any(v.category in moving for v in f.atoms(Vector))]
        rest = sympy.Mul(*(f for f in factors if f not in flowing))
        changes = any(v.category not in ("parameter", "constant") for v in rest.atoms(Vector))
        if len(flowing) != 1 or rest.is_Atom or not changes or rest.has(Reduction, Product):
            return term
        if all(f.is_Number for f in sympy.Mul.make_args(rest) if not f.is_Symbol) and (
            len([f for f in sympy.Mul.make_args(rest) if isinstance(f, Vector)]) < 2
        ):
            return term
        coefficient = Vector(namer(f"k_{name}"), "coefficient", str(cell.shapes.of(rest)))
        out.append(Eq(coefficient, rest, evaluate=False))
        return flowing[0] * coefficient

    for e in equations:
        rhs, wrap = e.rhs, None
        if isinstance(rhs, Reduction):
            rhs, wrap = rhs.args[0], rhs.func
        terms = [split(t, e.lhs.name) for t in sympy.Add.make_args(rhs)]
        new = sum(terms, ZERO)
        out.append(Eq(e.lhs, wrap(new) if wrap else new, evaluate=False))
    return tuple(out)


def recompute(
    forward: Sequence[Eq], adjoints: Sequence[Eq], totals: Sequence[Eq]
) -> tuple[Eq, ...]:
    """Forward equations that are cheaper to run again than to keep: a few additions and products
    of what is on the tape anyway, such as f = 1 - i."""
    wanted = {v for e in (*adjoints, *totals) for v in e.rhs.atoms(Vector)}
    whole = {v for e in (*adjoints, *totals) for p in e.rhs.atoms(Product, Outer) for v in p.atoms(Vector)}
    whole |= {v for e in totals for v in e.rhs.atoms(Vector)}
    again: list[Eq] = []
    for e in reversed(forward):
        lhs, rhs = e.lhs, e.rhs
        if lhs not in wanted or lhs in whole or lhs.category != "vector":
            continue
        if rhs.has(Product, Reduction, Function, sympy.Pow) or _count(rhs) > 3:
            continue
        if all(v in wanted or v.category in ("input", "parameter") for v in rhs.atoms(Vector)):
            again.insert(0, Eq(lhs, rhs, evaluate=False))
    return tuple(again)


# --------------------------------------------------------------------------- 2. – 4. operations


@dataclass
class _Term:
    """One product of an affine equation, and the sum it adds to."""

    out: Vector
    product: Product
    region: str

    @property
    def by_operand(self) -> bool:
        return not self.product.matrix.transposed


class _Direction:
    """One pass over the sequence: its equations cut into regions, and these into operations.

    ``carried`` maps what comes into a step to what leaves it for the next one in this direction.
    """

    def __init__(
        self, equations: Sequence[Eq], cell: Cell, carried: dict[Vector, Vector], eager: bool,
        kept: set[Vector], wanted_after: set[Vector],
    ) -> None:  # fmt: skip
        self.cell, self.eager, self.carried = cell, eager, carried
        self.equations = tuple(equations)
        self.kept = kept | set(carried.values())
        self.wanted_after = wanted_after
        self.defined = {e.lhs: e for e in self.equations}
        self.region = self._regions()
        self.origin: dict[Vector, Eq] = {}
        self.bias: dict[Vector, Vector | None] = {}
        self.terms: list[_Term] = []
        self.elementwise: dict[str, list[Eq]] = {BEFORE: [], STEP: [], AFTER: []}
        self._lower()
        self.logical = {r: self._operations(r) for r in (BEFORE, STEP, AFTER)}

    # -- regions

    def _regions(self) -> dict[Vector, str]:
        depends = set(self.carried)
        for e in self.equations:
            if any(v in depends for v in e.rhs.atoms(Vector)):
                depends.add(e.lhs)
        feeds = set(self.carried.values())
        for e in reversed(self.equations):
            if e.lhs in feeds:
                feeds |= {v for v in e.rhs.atoms(Vector) if v in self.defined}
        region: dict[Vector, str] = {}
        for e in self.equations:
            late = any(region.get(v) == AFTER for v in e.rhs.atoms(Vector))
            if e.lhs in feeds and e.lhs in depends:
                region[e.lhs] = STEP
            elif e.lhs in depends:
                movable = self.eager or e.rhs.has(Product)
                region[e.lhs] = AFTER if late or movable else STEP
            elif e.lhs in self.carried.values():
                region[e.lhs] = STEP
            else:
                region[e.lhs] = BEFORE if self.eager or e.rhs.has(Product) else "lazy"
        self._place_lazy(region)
        return region

    def _place_lazy(self, region: dict[Vector, str]) -> None:
        """Elementwise work that no recurrence needs goes to whoever needs it, the step first."""
        for e in reversed(self.equations):
            if region[e.lhs] != "lazy":
                continue
            users = set()
            for u in self.equations:
                if not u.rhs.has(e.lhs):
                    continue
                as_operand = any(p.operand == e.lhs for p in u.rhs.atoms(Product))
                users.add(BEFORE if as_operand and region[u.lhs] == STEP else region[u.lhs])
            region[e.lhs] = next((r for r in (BEFORE, STEP, AFTER) if r in users), STEP)

    # -- sums of products

    def _lower(self) -> None:
        """Affine equations become products that add to a sum, and what is left beside them."""
        stacked = self._stacked()
        for e in self.equations:
            where = self.region[e.lhs]
            terms = products(e.rhs)
            if not terms:
                self.elementwise[where].append(e)
                continue
            bias, rest = self._split_bias(e)
            direct = rest == 0 and not (e.lhs in self.kept and e.lhs in stacked)
            out = e.lhs if direct else Vector(e.lhs.name, "partial", e.lhs.size, e.lhs.time)
            self.bias[out], self.origin[e.lhs] = bias, e
            for p in terms:
                early = where == STEP and not self._depends(p.operand)
                self.terms.append(_Term(out, p, BEFORE if early else where))
            if out is not e.lhs:
                self.elementwise[where].append(Eq(e.lhs, out + rest, evaluate=False))

    def _stacked(self) -> set[Vector]:
        """What shares a stacked product with another sum."""
        by_operand: dict[tuple[Vector, bool], set[Vector]] = {}
        for e in self.equations:
            for p in products(e.rhs):
                if not p.matrix.transposed:
                    by_operand.setdefault((p.operand, True), set()).add(e.lhs)
        return {v for group in by_operand.values() if len(group) > 1 for v in group}

    def _depends(self, v: Vector) -> bool:
        return v in self.carried or self.region.get(v) in (STEP, AFTER)

    def _split_bias(self, e: Eq) -> tuple[Vector | None, Expr]:
        rest = remainder(e.rhs)
        size = self.cell.size(e.lhs)
        for t in sorted(sympy.Add.make_args(rest), key=str):
            if isinstance(t, Vector) and t.category == "parameter" and self.cell.size(t) == size:
                return t, rest - t
        return None, rest

    # -- list scheduling

    def _operations(self, region: str) -> list[Operation]:
        lines = list(self.elementwise[region])
        terms = [t for t in self.terms if t.region == region]
        pending = {e.lhs for e in lines} | {t.out for t in terms}
        ops: list[Operation] = []
        while lines or terms:
            ready = self._take_equations(lines, terms, pending)
            if ready:
                ops.append(Fused(_loops(ready, self.cell)))
            groups = self._take_products(terms, pending)
            ops.extend(groups)
            if not ready and not groups:
                raise AssertionError(f"equations of {self.cell.name} form a cycle in {region}")
        return ops

    def _take_equations(
        self, lines: list[Eq], terms: list[_Term], pending: set[Vector]
    ) -> list[Eq]:
        taken: list[Eq] = []
        moved = True
        while moved:
            moved = False
            for e in list(lines):
                if not any(v in pending for v in e.rhs.atoms(Vector)):
                    taken.append(e)
                    lines.remove(e)
                    pending.discard(e.lhs)
                    moved = True
        return taken

    def _take_products(self, terms: list[_Term], pending: set[Vector]) -> list[Multiply]:
        ready = [t for t in terms if t.product.operand not in pending]
        waiting = {t.out for t in terms if t not in ready}
        groups: dict[tuple[str, Vector, int], list[_Term]] = {}
        for t in ready:
            if t.by_operand:
                key = ("operand", t.product.operand)
                copies = sum(
                    1 for (a, b, _), g in groups.items()
                    if (a, b) == key and any(u.out == t.out for u in g)
                )  # fmt: skip
                groups.setdefault((*key, copies), []).append(t)
            elif t.out not in waiting:
                groups.setdefault(("sum", t.out, 0), []).append(t)
        for group in groups.values():
            for t in group:
                terms.remove(t)
        open_sums = {t.out for t in terms}
        for group in groups.values():
            pending.difference_update(t.out for t in group if t.out not in open_sums)
        return [self._multiply(kind, group) for (kind, _, _), group in groups.items()]

    def _multiply(self, kind: str, group: list[_Term]) -> Multiply:
        matrices = tuple(t.product.matrix for t in group)
        if kind == "operand":
            outs = tuple(t.out for t in group)
            operands: tuple[Vector, ...] = (group[0].product.operand,)
        else:
            outs = (group[0].out,)
            operands = tuple(t.product.operand for t in group)
        return Multiply(outs, matrices, operands, tuple(self.bias[o] for o in outs), True)

    # -- stacks, and what becomes of them once the layout is known

    @property
    def stacks(self) -> list[tuple[Vector, ...]]:
        """Sets of values that a stacked product wants side by side."""
        return [
            op.outs if len(op.outs) > 1 else op.operands
            for ops in self.logical.values()
            for op in ops
            if isinstance(op, Multiply) and len(op.matrices) > 1
        ]

    def finish(self, layouts: Sequence[tuple[Vector, ...]]) -> Pass:
        started: set[Vector] = set()
        fills: list[Operation] = []
        regions: dict[str, list[Operation]] = {}
        for region in (BEFORE, STEP, AFTER):
            ops: list[Operation] = []
            for op in self.logical[region]:
                if isinstance(op, Multiply):
                    for part in _contiguous(op, layouts):
                        fresh = [o for o in part.outs if o not in started]
                        mixed = bool(fresh) and len(fresh) < len(part.outs)
                        if mixed:
                            fill = Fill(tuple(fresh), tuple(self.bias[o] for o in fresh))
                            (fills if region == STEP else ops).append(fill)
                        add = mixed or not fresh
                        biases = tuple(None if add else self.bias[o] for o in part.outs)
                        ops.append(
                            Multiply(part.outs, part.matrices, part.operands, biases, add)
                        )
                        started.update(part.outs)
                else:
                    ops.append(op)
            regions[region] = ops
        return Pass(
            tuple(regions[BEFORE] + fills), tuple(regions[STEP]), tuple(regions[AFTER])
        )


def _contiguous(op: Multiply, layouts: Sequence[tuple[Vector, ...]]) -> list[Multiply]:
    """The parts of a stacked product whose blocks really lie side by side."""
    if len(op.matrices) == 1:
        return [op]
    by_operand = len(op.outs) > 1
    blocks = op.outs if by_operand else op.operands
    parts = []
    for run in _runs(blocks, layouts):
        index = [blocks.index(v) for v in run]
        matrices = tuple(op.matrices[k] for k in index)
        if by_operand:
            biases = tuple(op.biases[k] for k in index)
            parts.append(Multiply(run, matrices, op.operands, biases, op.accumulate))
        else:
            parts.append(Multiply(op.outs, matrices, run, op.biases, op.accumulate))
    return parts


def _runs(
    blocks: Sequence[Vector], layouts: Sequence[tuple[Vector, ...]]
) -> list[tuple[Vector, ...]]:
    """``blocks`` in the order of their buffer, cut where another block lies between them."""
    place = {v: (n, k) for n, order in enumerate(layouts) for k, v in enumerate(order)}
    ordered = sorted(blocks, key=lambda v: place.get(v, (len(layouts), blocks.index(v))))
    runs: list[list[Vector]] = []
    for v in ordered:
        here = place.get(v)
        last = place.get(runs[-1][-1]) if runs else None
        if here and last and (here[0], here[1] - 1) == last:
            runs[-1].append(v)
        else:
            runs.append([v])
    return [tuple(r) for r in runs]


def _loops(equations: Sequence[Eq], cell: Cell) -> tuple[Loop, ...]:
    """Put equations into as few loops over units as their reductions allow.

    Each goes into the first loop of its size that does not come before the values it reads; the
    value of a reduction is there only after its loop.
    """
    loops: list[tuple[Expr, bool, list[Eq]]] = []
    ready: dict[Vector, int] = {}  # value -> the first loop that may read it
    for e in equations:
        scan = isinstance(e.rhs, Scan)
        size = cell.shapes.of(e.rhs.args[0]) if isinstance(e.rhs, Reduction) else cell.size(e.lhs)
        backwards = isinstance(e.rhs, rcumsum)
        first = max((ready.get(v, 0) for v in e.rhs.atoms(Vector)), default=0)
        if backwards and e.rhs.args[0] in ready:
            first = max(first, ready[e.rhs.args[0]])
        for k in range(first, len(loops)):
            if loops[k][0] == size and loops[k][1] == backwards:
                break
        else:
            k = len(loops)
            loops.append((size, backwards, []))
        loops[k][2].append(e)
        # a loop that runs the other way cannot share a register with this one, nor can a reduction
        ends = (isinstance(e.rhs, Reduction) and not scan) or size != cell.size(e.lhs)
        ready[e.lhs] = k + 1 if ends else k
    return tuple(Loop(size, tuple(lines), back) for size, back, lines in loops)


# --------------------------------------------------------------------------- gradients


def _gradient_operations(totals: Sequence[Eq]) -> list[Outers | Sums]:
    """Products of all rows at once, stacked by their right factor, and plain sums."""
    by_right: dict[tuple[Vector, int], list[tuple[Matrix, Vector]]] = {}
    sums: list[tuple[Vector, Expr]] = []
    for e in totals:
        parameter = e.lhs.args[0]
        plain: list[Expr] = []
        for k, total in enumerate(t for t in sympy.Add.make_args(e.rhs) if t != 0):
            factor, inner = _total_of(total)
            if isinstance(inner, Outer):
                assert factor == 1, "an outer product is never scaled"
                left, right = inner.args
                by_right.setdefault((right, k), []).append((parameter, left))
            else:
                plain.append(factor * inner)
        if plain:
            sums.append((parameter, sum(plain, ZERO)))
    ops: list[Outers | Sums] = []
    for (right, _), pairs in by_right.items():
        seen: dict[Vector, int] = {}
        layers: dict[int, list[tuple[Matrix, Vector]]] = {}
        for matrix, left in pairs:  # the same left twice cannot be stacked with itself
            layer = seen[left] = seen.get(left, -1) + 1
            layers.setdefault(layer, []).append((matrix, left))
        for layer in layers.values():
            ops.append(Outers(tuple(m for m, _ in layer), tuple(v for _, v in layer), right))
    if sums:
        ops.append(Sums(tuple(p for p, _ in sums), tuple(t for _, t in sums)))
    return ops


def _total_of(term: Expr) -> tuple[Expr, Expr]:
    """(factor, what is summed) of a multiple of a Total."""
    totals = [f for f in sympy.Mul.make_args(term) if isinstance(f, Total)]
    assert len(totals) == 1, f"a gradient is a sum over steps, not {term}"
    return term / totals[0], totals[0].args[0]


def _is_outer(op: Outers | Sums) -> bool:
    return isinstance(op, Outers) and len(op.lefts) > 1


def _split_gradients(
    ops: Sequence[Outers | Sums], layouts: Sequence[tuple[Vector, ...]]
) -> tuple[Operation, ...]:
    out: list[Operation] = []
    for op in ops:
        if isinstance(op, Outers):
            for run in _runs(op.lefts, layouts):
                chosen = tuple(op.parameters[op.lefts.index(v)] for v in run)
                out.append(Outers(chosen, run, op.right))
        else:
            out.append(op)
    return tuple(out)


# --------------------------------------------------------------------------- 5. where values live


def layout(
    sets: Sequence[tuple[Vector, ...]],
    rank: dict[str, int],
    forward: Sequence[Eq],
    cell: Cell,
) -> list[tuple[Vector, ...]]:
    """Orders of blocks in which the sets that want to be side by side are, as far as possible.

    Blocks that are in the same sets stay together; of the orders of these groups, the one with
    the fewest gaps wins. Gates of the same activation are neighbours.
    """
    gate = {
        next(iter(e.rhs.args)).name: e.rhs.func.__name__
        for e in forward
        if isinstance(e.rhs, (sigmoid, sympy.tanh)) and e.rhs.args[0].is_Symbol
    }
    gate |= {e.lhs.name: e.rhs.func.__name__ for e in forward if isinstance(e.rhs, Function)}

    def key(v: Vector) -> tuple[str, int, str]:
        return (gate.get(v.name, "~"), rank.get(v.name, len(rank)), str(v))

    components: list[set[Vector]] = []
    for group in sets:
        merged = set(group)
        apart = [c for c in components if not c & merged]
        for c in components:
            if c & merged:
                merged |= c
        components = [*apart, merged]
    orders = []
    for component in components:
        relevant = [frozenset(s) for s in dict.fromkeys(frozenset(g) for g in sets)
                    if set(s) <= component]  # fmt: skip
        signatures: dict[tuple[bool, ...], list[Vector]] = {}
        for v in sorted(component, key=key):
            signatures.setdefault(tuple(v in s for s in relevant), []).append(v)
        groups = list(signatures.values())
        if len(groups) <= 6:  # 720 orders at the most; more would be a strange cell
            best = min(permutations(groups), key=lambda p: _gaps([v for g in p for v in g], relevant))
        else:
            best = tuple(groups)
        orders.append(tuple(v for g in best for v in g))
    return sorted(orders, key=lambda o: key(o[0]))


def _gaps(order: Sequence[Vector], sets: Sequence[frozenset[Vector]]) -> int:
    gaps = 0
    for s in sets:
        inside = [v in s for v in order]
        gaps += sum(1 for a, b in zip([False, *inside], inside, strict=False) if b and not a)
    return gaps


def _activation_sets(
    forward: Sequence[Eq], ahead: _Direction, tape: set[Vector]
) -> list[tuple[Vector, ...]]:
    """Gates on the tape, stacked like their pre-activations, so that one call can compute all."""
    sets = []
    for stack in ahead.stacks:
        names = {v.name for v in stack}
        gates = tuple(
            e.lhs for e in forward
            if isinstance(e.rhs, (sigmoid, sympy.tanh)) and e.lhs in tape
            and e.lhs.category == "vector" and e.rhs.args[0].name in names
        )  # fmt: skip
        if len(gates) > 1:
            sets.append(gates)
    return sets


class _Housing:
    """Decides where every value lives, from who reads it."""

    def __init__(
        self, derivation: Derivation, forward: Pass, backward: Pass, tape: set[Vector],
        layouts: Sequence[tuple[Vector, ...]],
    ) -> None:  # fmt: skip
        self.cell, self.tape, self.layouts = derivation.cell, tape, layouts
        self.scope: dict[Vector, str] = {}
        self._visit(forward)
        self._visit(backward)
        cell = self.cell
        for s in cell.states:
            self.scope[s.at(0)] = "state"
        for v in tape:
            if v.category == "vector":
                self.scope[v] = "tape"

    def _visit(self, part: Pass) -> None:
        made: dict[Vector, tuple[str, int, int]] = {}
        ends = {adjoint(v) for v in self.cell.inputs} | {self.cell.output}
        for region in (BEFORE, STEP, AFTER):
            for n, op in enumerate(getattr(part, region)):
                for loop, reads, writes in _accesses(op):
                    here = (region, n, loop)
                    for v in reads:
                        if v in made:
                            self._read(v, made[v], here)
                    for v in writes:
                        made.setdefault(v, here)
                        if v.category == "carry":
                            self.scope[v] = "carry"
                        elif v in ends and v.category != "state":
                            self.scope[v] = "given"
                        elif isinstance(op, (Multiply, Fill)):
                            self._raise(v, "step" if region == STEP else "tile")

    def _read(self, v: Vector, made: tuple[str, int, int], here: tuple[str, int, int]) -> None:
        if self.scope.get(v) in ("given", "carry", "state"):
            return
        if made[0] != here[0]:
            self._raise(v, "tile")
        elif made[1] != here[1] or (made[2] != here[2] and self.cell.size(v) != 1):
            self._raise(v, "step" if here[0] == STEP else "tile")

    def _raise(self, v: Vector, scope: str) -> None:
        if scope == "tile" or v not in self.scope:
            self.scope[v] = scope

    def buffers(self) -> tuple[Buffer, ...]:
        placed: set[Vector] = set()
        out: list[Buffer] = []
        for order in self.layouts:
            for scopes in (("tape",), ("tile", "step")):
                blocks = tuple(v for v in order if self.scope.get(v) in scopes)
                if len(blocks) > 1 and not placed & set(blocks):
                    scope = "tile" if any(self.scope[v] == "tile" for v in blocks) else "step"
                    scope = "tape" if scopes == ("tape",) else scope
                    out.append(Buffer(_common_name(blocks), blocks, scope))
                    placed.update(blocks)
        for v, scope in self.scope.items():
            if v not in placed:
                out.append(Buffer(v.name, (v,), scope))
        order = {"given": 0, "state": 1, "tape": 2, "tile": 3, "step": 4, "carry": 5}
        return tuple(sorted(out, key=lambda b: order[b.scope]))


def _common_name(blocks: Sequence[Vector]) -> str:
    families = {v.name.partition("_")[0] for v in blocks if "_" in v.name}
    if len(families) == 1:
        return families.pop()
    return "".join(v.name for v in blocks) if len(blocks) < 6 else f"{blocks[0].name}_etc"


def _accesses(
    op: Operation,
) -> Iterable[tuple[int, Sequence[Vector], Sequence[Vector]]]:
    """(number of the loop, what it reads, what it writes), in the order in which they run."""
    if isinstance(op, Fused):
        for n, loop in enumerate(op.loops):
            yield n, _atoms(loop.equations), [e.lhs for e in loop.equations]
    else:
        yield -1, op.reads, op.writes


# --------------------------------------------------------------------------- small helpers


def _atoms(equations: Iterable[Eq]) -> list[Vector]:
    return _vectors(e.rhs for e in equations)


def _vectors(exprs: Iterable[Expr]) -> list[Vector]:
    found = {v for e in exprs for v in e.atoms(Vector)}
    return sorted(found, key=lambda v: (v.name, v.category, v.time))


def _area(cell: Cell, m: Matrix) -> Expr:
    rows, columns = cell.shape(m)
    return rows * columns


def _count(e: Expr) -> int:
    """Arithmetic operations of an elementwise expression, per unit."""
    visual = 0
    for node in sympy.preorder_traversal(e):
        if isinstance(node, (sympy.Add, sympy.Mul)):
            visual += len(node.args) - 1
            if isinstance(node, sympy.Mul) and node.args[0] == -1:
                visual -= 1  # a subtraction, counted with its sum
        elif isinstance(node, sympy.Pow):
            exponent = node.exp
            small = exponent.is_Integer and abs(int(exponent)) <= 4
            visual += abs(int(exponent)) - 1 if small and exponent > 0 else 1
        elif isinstance(node, Function) and not isinstance(node, Total):
            visual += 1
    return visual
