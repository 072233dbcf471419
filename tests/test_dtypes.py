"""Number types: what they say of themselves, and what takes them for granted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy

import lstmgen
from lstmgen import GenerateError, cells
from lstmgen.language.dtypes import FLOAT16, FLOAT32, FLOAT64, OF_MODULES, dtype
from lstmgen.language.sizes import Size
from lstmgen.targets import plan_options


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
def test_a_tape_of_another_type_changes_what_is_moved_and_nothing_else(target):
    """A buffer has a type of its own, and the costs of a plan are those of its buffers."""
    plan = lstmgen.plan(cells.get("lstm"), **plan_options(target), dtype="float32")
    assert {b.dtype for b in plan.buffers} == {FLOAT32}
    buffers = tuple(replace(b, dtype=FLOAT16) if b.scope == "tape" else b for b in plan.buffers)
    half = replace(plan, buffers=buffers)
    taped = {v for b in plan.buffers if b.scope == "tape" for v in b.blocks}
    operations = (*plan.forward.operations, *plan.backward.operations)
    accesses = sum(plan.size(v) for op in operations for v in (*op.reads, *op.writes) if v in taped)
    saved = sympy.expand(Size("T") * Size("B") * accesses * (FLOAT32.bytes - FLOAT16.bytes))
    assert saved != 0 and sympy.expand(plan.bytes - half.bytes - saved) == 0
    assert (half.flops, half.tape, half.workspace) == (plan.flops, plan.tape, plan.workspace)


def test_a_type_that_c_has_not_is_refused(monkeypatch):
    monkeypatch.setattr("lstmgen.language.dtypes.OF_MODULES", (FLOAT16, FLOAT32, FLOAT64))
    with pytest.raises(GenerateError, match="the C target has float32 and float64, not float16"):
        lstmgen.generate(cells.get("lstm"), "c", dtype="float16")
