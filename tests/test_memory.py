"""Memory: targets allocate what a plan counts, and nothing is written over too early."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import reference
import sympy
from several_axes import CELLS
from sympy import Expr
from test_c import exact

import lstmgen
from lstmgen import Cell, cells
from lstmgen.derivation.reverse import carry
from lstmgen.planning.invariants import require_sound
from lstmgen.planning.lifetimes import lifetimes
from lstmgen.planning.operations import B, K, T
from lstmgen.planning.plans import Plan
from lstmgen.planning.schedule import plan as make_plan
from lstmgen.printing.orders import Order
from lstmgen.targets import plan_options
from lstmgen.targets.c.memory import Region
from lstmgen.targets.c.target import Parts
from lstmgen.targets.numpy.analysis import Usage
from lstmgen.targets.numpy.backward import backward
from lstmgen.targets.numpy.forward import forward
from lstmgen.targets.numpy.tree import Kind, Local

REFERENCE = reference.NAMES
ALL = {name: cells.get(name) for name in REFERENCE} | CELLS
PAD = 8  # numbers of 64 bits in a line of the cache


def planned(cell: Cell, target: str) -> Plan:
    return make_plan(cell, **plan_options(target))


def count(e: Expr, sizes: dict[Any, int]) -> int:
    return int(sympy.sympify(e).subs(sizes))


# --------------------------------------------------------------------------- NumPy


def variables(cell: Cell, module: Any, sizes: dict[Any, int]) -> dict[str, dict[str, Any]]:
    """All variables of ``forward`` and ``backward`` as they end."""
    draw = np.random.default_rng(0).normal
    steps, rows = sizes[T], sizes[B]

    def drawn(v: Any, *lead: int) -> Any:
        return draw(size=(*lead, *(count(n, sizes) for n in cell.shape(v))))

    def given(found: tuple[Any, ...]) -> Any:
        arrays = {v.name: drawn(v, steps, rows) for v in found}
        return arrays if len(found) > 1 else arrays[found[0].name]

    params = {p.name: drawn(p) for p in cell.parameters} | {c.name: 1.0 for c in cell.constants}
    state = {s.name: drawn(s, rows) for s in cell.states}
    masks = [{v.name: np.ones(drawn(v, steps, rows).shape) for v in cell.masks}]
    found: dict[str, dict[str, Any]] = {}

    def look(frame: Any, event: str, _: object) -> None:
        if event == "return" and frame.f_code.co_name in ("forward", "backward"):
            found[frame.f_code.co_name] = dict(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        _, _, tape = module.forward(params, given(cell.inputs), state, *masks[: len(cell.masks)])
        module.backward(params, tape, given(cell.outputs))
    finally:
        sys.setprofile(before)
    return found


def of_calls(v: Local) -> bool:
    """Whether an array is for terms of a sum, or for a product, not for a value of the cell."""
    key = v.key
    while isinstance(key, tuple):
        key = key[0]
    return key in ("scratch", "product")


@pytest.mark.parametrize("name", ALL)
def test_numpy_allocates_what_the_plan_says(name):
    cell = ALL[name]
    plan, order = planned(cell, "numpy"), Order(cell, planned(cell, "numpy").derivation.forward)
    sizes = {n: 3 + 2 * k for k, n in enumerate(cell.sizes)} | {T: 4, B: 5, K: 4}
    arrays = variables(cell, lstmgen.compile(cell, "numpy"), sizes)
    for part, function in ((plan.forward, forward), (plan.backward, backward)):
        used, found = Usage(function(plan, order)), arrays[function.__name__]
        kept = [v for v in used.locals if v.kind in (Kind.KEPT, Kind.STORED)]
        work = [v for v in used.locals if v.kind is Kind.SCRATCH and not of_calls(v)]
        if function is backward:
            handed = {plan.assignment.of(carry(s, t)) for s in cell.states for t in (0, -1)}
            work += {v for v in used.locals if _is_carry(v, handed)}
        else:
            assert sum(found[used.names[v]].size for v in kept) == count(plan.tape, sizes)
        owned = sum(found[used.names[v]].size for v in work)
        assert owned == count(plan.workspace_of(part), sizes)


def _is_carry(v: Local, handed: set[Any]) -> bool:
    """Whether a variable is what flows back into a state; not the views of it."""
    return v.kind is None and isinstance(v.key, tuple) and (
        v.key[0] in handed or v.key[1:] == ("arriving",)
    )  # fmt: skip


# --------------------------------------------------------------------------- C


def padded(parts: Parts, e: Expr, sizes: dict[Any, int]) -> int:
    """A count in sizes of which some are padded."""
    for inner, wide in parts.memory.sizes.wide.items():
        if e.has(wide):
            e = e.subs(wide, -(-padded(parts, inner, sizes) // PAD) * PAD)
    return count(e, sizes)


def numbers(parts: Parts, region: Region, sizes: dict[Any, int], names: set[str]) -> int:
    found = [part for part in region.parts if part.name in names]
    return sum(padded(parts, part.rows * part.width, sizes) for part in found)


@pytest.mark.parametrize("name", REFERENCE)
def test_c_asks_for_what_the_plan_says(name):
    """With sizes that need no padding, but for single numbers on the tape, which share a line."""
    cell = cells.get(name)
    plan, parts = planned(cell, "c"), Parts(cell, "float64", {})
    sizes = {n: PAD * (k + 2) for k, n in enumerate(cell.sizes)} | {T: 5, B: 3, K: 5}
    memory = parts.memory
    needed = exact(cell)({str(n): size for n, size in sizes.items()})
    single = sum(b.scope == "tape" and plan.width(b) == 1 for b in plan.buffers)
    tape = count(plan.tape, sizes) + count(T * B, sizes) * (-single % PAD)
    assert needed["tape"] == memory.label + tape

    callers = {"x", "y", "dy", "dx", *(v.name for v in (*cell.inputs, *cell.masks))}
    for region, part, buffer in (
        (memory.forward, plan.forward, "forward_work"),
        (memory.backward, plan.backward, "backward_work"),
    ):
        values = {p.name for p in region.parts if p.name in ("tile", "scratch", *_carries(parts))}
        assert numbers(parts, region, sizes, values) == count(plan.workspace_of(part), sizes)
        rest = {p.name for p in region.parts} - values
        copies = {f"{v}_rows" for v in callers}
        sums = {f"d{p.name}" for p in cell.parameters} | {"columns", "panels", "sums"}
        stacks = {n for n in rest if n.startswith("d") and n not in copies}
        assert rest <= copies | sums | stacks
        own = numbers(parts, region, sizes, rest)
        packed = next(b.once for b in memory.buffers if b.name == buffer)
        weights = padded(parts, packed.count, sizes) if packed else 0
        # without a tape, that of a tile, where large states have two rows and a line between them
        tile = tape + sum(count((1 - K) * B * plan.size(s), sizes) + PAD for s in plan.held)
        before = tile if region is memory.forward else 0
        total = count(plan.workspace_of(part), sizes) + own + weights + before
        assert needed[buffer] == PAD + total


def _carries(parts: Parts) -> Iterator[str]:
    source = parts.memory.source
    return (source.carry(s, w).name for s in source.cell.states for w in ("next", "prev", "all"))


# --------------------------------------------------------------------------- in place


def test_gates_are_written_over_their_pre_activations():
    plan = planned(cells.get("lstm"), "numpy")
    memory = plan.assignment
    (gates,) = (b for b in memory.real if {v.name for v in b.blocks} == set("ifgo"))
    assert gates.apart and gates.scope == "tape"
    over = {str(v): w for v, w in plan.in_place.items()}
    assert {over[f"a_{g}"] for g in "ifgo"} == set(gates.blocks)
    pre = {v for v in plan.home if v.name == "a_i" and v.category != "adjoint"}
    assert pre and not any(pre & set(b.blocks) for b in memory.real)
    assert not planned(cells.get("lstm"), "c").in_place


@pytest.mark.parametrize("name", ALL)
def test_a_piece_of_memory_is_taken_from_its_first_access_to_its_last(name):
    for target in ("numpy", "c"):
        plan = planned(ALL[name], target)
        for part in (plan.forward, plan.backward):
            pieces = plan.allocations(part)
            blocks = [v for piece in pieces for v in piece.blocks]
            assert len(blocks) == len(set(blocks))
            assert all(p.first <= p.last for p in pieces if p.first and p.last)


def test_a_plan_that_writes_over_what_is_needed_is_refused():
    plan = planned(cells.get("lstm"), "numpy")

    def over(v: Any, w: Any) -> Plan:
        return replace(plan, in_place={**plan.in_place, v: w})

    require_sound(plan)
    h, c = (s.at(0) for s in plan.cell.states)
    with pytest.raises(
        lstmgen.LstmgenError, match=r"c\.next has to be kept, and h\.next is written"
    ):
        require_sound(over(c, h))
    used = lifetimes(plan.backward)
    early, late = next(
        (v, w)
        for v, w in permutations(used.writes, 2)
        if v not in plan.home and w not in plan.in_place and w not in plan.in_place.values()
        if min(used.writes[v]) < min(used.writes[w]) < max(used.reads.get(v, used.writes[v]))
    )
    with pytest.raises(lstmgen.LstmgenError, match=r"is read after .* has been written over it"):
        require_sound(over(early, late))
