"""Number types: what they say of themselves, and what takes them for granted."""

from __future__ import annotations

from dataclasses import replace

import delays
import numpy as np
import pytest
import reference
import series
import several_axes
import sympy
from sympy import Eq
from test_gradients import arguments

import lstmgen
from lstmgen import Cell, GenerateError, cells, inputs, max_, states, tanh
from lstmgen.language.dtypes import FLOAT32, FLOAT64, HALF, OF_MODULES, SINGLE, dtype
from lstmgen.planning.operations import B, K, T
from lstmgen.targets import plan_options
from lstmgen.verification.examination import Examination

FLOAT16 = replace(FLOAT32, tape=HALF).of_tape


@pytest.mark.parametrize("known", [FLOAT16, FLOAT32, FLOAT64], ids=str)
def test_formats_are_numpys(known):
    for part in (known.storage, known.compute, known.accumulate):
        theirs = np.finfo(part.name)
        assert (part.eps, part.largest) == (float(theirs.eps), float(theirs.max))
        assert part.bytes == np.dtype(part.name).itemsize


def test_types_are_found_by_the_name_that_users_give():
    assert [dtype(known.name) for known in OF_MODULES] == list(OF_MODULES)
    assert dtype(np.dtype("float32")) is FLOAT32
    for wrong in ("float16", "double", None, 32):
        with pytest.raises(GenerateError, match='dtype is "float32" or "float64", not '):
            dtype(wrong)


def test_a_value_is_as_exact_as_the_coarsest_format_that_it_goes_through():
    assert FLOAT16.eps == 2.0**-10 and FLOAT16.largest == 65504
    assert FLOAT32.eps == 2.0**-23 and FLOAT64.eps == 2.0**-52


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_a_tape_of_another_type_changes_what_is_moved_and_copied_and_nothing_else(target):
    """A buffer has a type of its own, and the costs of a plan are those of its buffers."""
    plan = lstmgen.plan(cells.get("lstm"), **plan_options(target), dtype="float32")
    half = lstmgen.plan(cells.get("lstm"), **plan_options(target), dtype="float32", tape="float16")
    assert {b.dtype for b in plan.buffers} == {FLOAT32}
    assert {b.scope for b in half.buffers if b.dtype != half.dtype} == {"tape"}
    taped = {v for b in plan.buffers if b.scope == "tape" for v in b.blocks}
    operations = (*plan.forward.operations, *plan.backward.operations)
    accesses = sum(plan.size(v) for op in operations for v in (*op.reads, *op.writes) if v in taped)
    saved = sympy.expand(T * B * accesses * (SINGLE.bytes - HALF.bytes))
    assert saved != 0 and sympy.expand(plan.bytes - half.bytes - saved) == 0
    assert (half.flops, half.tape) == (plan.flops, plan.tape)
    width = sum(plan.size(v) for v in taped)
    for part in ("forward", "backward"):
        more = half.workspace_of(getattr(half, part)) - plan.workspace_of(getattr(plan, part))
        assert sympy.expand(more - K * B * width) == 0
    assert "states in float16" in str(half)


# --------------------------------------------------------------------------- NumPy's tapes


ALL = {n: cells.get(n) for n in reference.NAMES} | delays.CELLS | series.CELLS | several_axes.CELLS


@pytest.mark.parametrize("name", ALL)
def test_a_narrow_tape_is_the_wide_one_rounded(name):
    """Forward is the same to the bit, and backward is that of the other module, on a tape on which
    the same values have been rounded.
    """
    cell = ALL[name]
    wide, narrow = lstmgen.compile(cell, "numpy"), lstmgen.compile(cell, "numpy", tape="float16")
    case = Examination(cell, T=40, B=3, seed=1, seeds=1, kinks=False).witnesses[0].case
    given, cotangents = arguments(cell, case)
    (y, final, tape), (same, last, kept) = (module.forward(**given) for module in (wide, narrow))
    assert_same((y, final), (same, last))
    halves = [n for n, a in kept.items() if getattr(a, "dtype", None) == np.float16]
    buffers = lstmgen.plan(cell, tape="float16", **plan_options("numpy")).buffers
    assert bool(halves) == any(b.is_copied for b in buffers)
    for n in halves:
        tape[n][...] = tape[n].astype(np.float16)
        assert (tape[n] == kept[n]).all()
    assert_same(
        wide.backward(given["params"], tape, *cotangents),
        narrow.backward(given["params"], kept, *cotangents),
    )


def test_what_is_compared_keeps_its_digits():
    """The largest of what callers give, or of states, which are not narrowed, is one of them."""
    x, s = inputs("x"), states("s", "D")
    cell = Cell("largest", [Eq(s.next, tanh(s * max_(x) + x * max_(s)))], s)
    narrow, wide = (lstmgen.compile(cell, "numpy", **tape) for tape in ({"tape": "float16"}, {}))
    given = {"x": np.random.default_rng(0).normal(size=(4, 3, 7))}
    results = []
    for module in (narrow, wide):
        params = module.init(7, 7, dtype=np.float64)
        y, _, tape = module.forward(params, given["x"])
        results.append(module.backward(params, tape, np.ones_like(y)))
    assert_same(*results)


def assert_same(one, other):
    if isinstance(one, (dict, tuple)):
        keys = one.keys() if isinstance(one, dict) else range(len(one))
        assert len(one) == len(other)
        for key in keys:
            assert_same(one[key], other[key])
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["lstm", "gru", "mlstm", "delta_net"])
def test_check_allows_for_the_digits_of_a_tape(name, dtype):
    report = lstmgen.check(cells.get(name), dtype=dtype, tape="float16")
    assert report.passed, f"\n{report}"
    assert f"{dtype}, tape float16" in str(report)


def test_check_finds_a_gradient_that_a_narrow_tape_does_not_explain():
    class Wrong:
        def __init__(self, module):
            self.module = module

        def __getattr__(self, name):
            return getattr(self.module, name)

        def backward(self, *arguments):
            grads, dx, dstate = self.module.backward(*arguments)
            return grads | {"U_f": 2 * grads["U_f"]}, dx, dstate

    module = lstmgen.compile(cells.get("lstm"), tape="float16")
    report = lstmgen.check(cells.get("lstm"), module=Wrong(module))
    assert [row.name for row in report.rows if not row.passed] == ["∂L/∂U_f", "dot product"]


def test_what_has_no_room_on_a_narrow_tape_is_refused():
    x, h = lstmgen.inputs("x", size="H"), lstmgen.states("h")
    a = lstmgen.vectors("a")
    cell = lstmgen.Cell("square", [Eq(a, x * h), Eq(h.next, a**2)], output=h)
    module = lstmgen.compile(cell, tape="float16")
    x, state = np.full((1, 1, 2), 300.0), {"h": np.full((1, 2), 300.0)}
    with pytest.raises(OverflowError, match=r"up to 65504, as float16; the largest here is 9e\+04"):
        module.forward({}, x, state)
    module.forward({}, x, state, tape=False)
    with pytest.raises(TypeError, match="a tape of float16 keeps real numbers"):
        module.forward({}, x * 1j, state)


def test_a_tape_of_a_module_with_another_one_is_refused():
    cell = cells.get("lstm")
    wide, narrow = lstmgen.compile(cell), lstmgen.compile(cell, tape="float16")
    params = wide.init(3, 4)
    y, _, tape = narrow.forward(params, np.zeros((2, 1, 3), np.float32))
    with pytest.raises(ValueError, match="tape=float16"):
        wide.backward(params, tape, y)


def test_other_tapes_are_refused():
    with pytest.raises(GenerateError, match="tape is \"float16\", not 'int8'"):
        lstmgen.generate(cells.get("lstm"), "numpy", tape="int8")
    with pytest.raises(GenerateError, match=r'c has no option .*\n.*the target "numpy" has it'):
        lstmgen.generate(cells.get("lstm"), "c", tape="float16")


def test_a_type_that_c_has_not_is_refused(monkeypatch):
    monkeypatch.setattr("lstmgen.language.dtypes.OF_MODULES", (FLOAT16, FLOAT32, FLOAT64))
    with pytest.raises(GenerateError, match="the C target has float32 and float64, not float16"):
        lstmgen.generate(cells.get("lstm"), "c", dtype="float16")
