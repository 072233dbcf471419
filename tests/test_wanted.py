"""Derivatives that a caller does without: those by parameters, and those by inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from conftest import need
from several_axes import CELLS, FIXED
from sympy import Eq, tanh

import lstmgen
from lstmgen import cells, inputs, states
from lstmgen.language import dtypes
from lstmgen.verification.cases import Maker, choose_sizes

REFERENCE = ("lstm", "gru_d", "lstm_layernorm", "mlstm", "lru", "rhn", "lstmp", "mamba_like")
MADE_UP = (
    "heads", "shared_by_heads", "several_outputs", "fewer_heads", "views_of_parameters",
    "transposed", "entries", "products", "of_heads", "of_parameters", "kept", "leaky", "echo",
    "legendre", "no_parameters",
)  # fmt: skip
x, h = inputs("x", "H"), states("h")
MODULES = (
    ("numpy", "float64", 1), ("numpy", "float32", 1), ("c", "float64", 1), ("c", "float32", 2),
)  # fmt: skip


def cell_of(name: str) -> lstmgen.Cell:
    if name == "no_parameters":
        return lstmgen.Cell(name, [Eq(h.next, tanh(x + h / 2))], h)
    return (CELLS | FIXED).get(name) or cells.get(name)


def compiled(cell: lstmgen.Cell, target: str, dtype: str, threads: int) -> Any:
    if target == "numpy":
        return lstmgen.compile(cell, "numpy")
    need("gcc")
    return lstmgen.compile(cell, "c", dtype=dtype, threads=threads)


def taped(cell: lstmgen.Cell, module: Any, dtype: str, steps: int) -> tuple[Any, ...]:
    """What ``backward`` takes."""
    sizes = choose_sizes(cell, None, set())
    case = Maker(cell, sizes, dtypes.dtype(dtype), [4]).make("", steps, 3)

    def cast(a: Any) -> Any:
        return np.asarray(a, dtype)

    def joined(arrays: Mapping[str, Any]) -> Any:
        return dict(arrays) if len(arrays) > 1 else next(iter(arrays.values()))

    params = {n: cast(a) for (kind, n), a in case.values.items() if kind == "parameter"}
    params |= {c.name: float(case.given[c.name]) for c in cell.constants}
    x = joined({v.name: cast(case.values["input", v.name]) for v in cell.inputs})
    state = {s.name: cast(case.values["state", s.name]) for s in cell.states}
    masks = {m.name: cast(case.given[m.name]) for m in cell.masks}
    _, _, tape = module.forward(params, x, state, **({"masks": masks} if masks else {}))
    dy = joined({n: cast(a) for n, a in case.dy.items()})
    return params, tape, dy, {n: cast(a) for n, a in case.dstate.items()}


def bits(found: Any) -> dict[str, bytes]:
    """Every number of what is an array, or a dict of arrays."""
    arrays = found if isinstance(found, dict) else {"": found}
    return {name: np.ascontiguousarray(a).tobytes() for name, a in arrays.items()}


def wishes() -> Iterator[tuple[bool, bool]]:
    yield from ((True, False), (False, True), (False, False))


@pytest.mark.parametrize("name", [*REFERENCE, *MADE_UP])
@pytest.mark.parametrize(("target", "dtype", "threads"), MODULES)
def test_what_is_wanted_has_the_same_bits_without_the_rest(
    name: str, target: str, dtype: str, threads: int
) -> None:
    cell = cell_of(name)
    module = compiled(cell, target, dtype, threads)
    for steps in (0, 3, 7):
        given = taped(cell, module, dtype, steps)
        grads, dx, dstate = module.backward(*given)
        for by_inputs, by_parameters in wishes():
            some, by_input, first = module.backward(
                *given, inputs=by_inputs, parameters=by_parameters
            )
            assert bits(first) == bits(dstate)
            if by_inputs:
                assert bits(by_input) == bits(dx)
            else:
                assert by_input is None
            if by_parameters:
                assert bits(some) == bits(grads)
            else:
                assert some == {}
