"""Networks: generated NumPy modules beside PyTorch, and what networks promise of themselves."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import networks
import numpy as np
import pytest
import strategies
from conftest import need
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import DENSE, RESERVOIR

from lstmgen import Cell, LstmgenError, compile, inputs, states, vectors
from lstmgen.network.description import lines
from lstmgen.network.layers import Dropout, Embedding, Layer, Readout
from lstmgen.network.structure import Structure

STACKS: dict[str, Structure] = {
    "deep": Structure([Layer("lstm", 3), Layer("gru", 3, skip="residual"), Readout(2)]),
    "noisy": Structure(
        [
            Layer("lstm", 3, bidirectional=True, recurrent_dropout=0.3),
            Dropout(0.4),
            Layer("gru", 6, skip="highway", zoneout=0.2, learn_state=True),
            Dropout(0.5, whole=True),
            Layer("rnn", 2, go_backwards=True, last=True),
            Dropout(0.3),
            Readout(2),
        ]
    ),
    "symbols": Structure(
        [
            Embedding(5, 3),
            Layer("mlstm", N=2, K=3, P=2, bidirectional="sum", learn_state=True, zoneout=0.3),
            Layer("lstmp", 3, P=4, skip="residual", last=False),
            Layer(RESERVOIR, 2, bidirectional=True, last=True, leak=0.7),
        ]
    ),
}


@cache
def compiled(name: str) -> Any:
    return compile(STACKS[name])


class Call:
    """The arguments of one call of forward and backward, made up."""

    def __init__(
        self, structure: Structure, module: Any, T: int, B: int, seed: int = 0, D: int = 3,
        lengths: str = "none", resets: str = "none", state: bool = True, dstate: bool = True,
        drop: int | None = None, dtype: str = "float64", **checkpoints: Any,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        known = module.INPUTS["x"]
        D = known[0] if known and isinstance(known[0], int) else D
        params = module.init(D, seed=seed, dtype=dtype)
        # in the order of 1 all, so that no term of a gradient is small
        self.params = {
            n: (a + rng.normal(0, 0.4, np.shape(a))).astype(dtype)
            if n in module.PARAMETERS
            else a
            for n, a in params.items()
        }
        self.x = (
            rng.integers(0, module.SYMBOLS, (T, B))
            if module.SYMBOLS
            else rng.normal(size=(T, B, D)).astype(dtype)
        )
        shapes = {n: [D if k == "D" else k for k in axes] for n, axes in module.STATES.items()}

        def draw() -> dict[str, np.ndarray]:
            return {n: rng.normal(size=(B, *s)).astype(dtype) for n, s in shapes.items()}

        made = {
            "none": None, "zeros": np.zeros(B, int), "ones": np.full(B, min(1, T)),
            "all": np.full(B, T), "any": rng.integers(0, T + 1, B),
        }[lengths]  # fmt: skip
        hits = {
            "none": None, "never": np.zeros((T, B), bool), "always": np.ones((T, B), bool),
            "any": rng.random((T, B)) < 0.4, "first": np.arange(T)[:, None] < np.ones(B),
        }[resets]  # fmt: skip
        self.options = {"state": draw() if state else None, "lengths": made, "resets": hits,
                        "seed": drop}  # fmt: skip
        self.checkpoints = checkpoints
        width = structure.graph.output.size
        width = D if str(width) == "D" else int(width)
        rows = structure.graph.output.of_rows
        self.dy = rng.normal(size=(B, width) if rows else (T, B, width)).astype(dtype)
        self.dstate = draw() if dstate else None

    def of(self, module: Any, **more: Any):
        """What a module makes of it: y, final, grads, dx, dinitial."""
        given = {**self.options, **self.checkpoints, **more}
        y, final, tape = module.forward(self.params, self.x, given.pop("state"), **given)
        return y, final, *module.backward(self.params, tape, self.dy, self.dstate)


def close(got: Any, want: Any, what: str, tolerance: float = 1e-11) -> None:
    """Relative to the largest entry, but not less than 1: sums of a few hundred products of numbers
    of order 1, each rounded to 1e-16, through a dozen steps there and back.
    """
    assert np.shape(got) == np.shape(want), what
    if np.size(want):
        scale = max(1.0, float(np.abs(want).max()))
        assert np.abs(got - want).max() / scale <= tolerance, what


def agree(results, expected, unlearned=(), tolerance: float = 1e-11) -> None:
    """All that a module returned beside all that the reference did."""
    y, final, grads, dx, dinitial = results
    close(y, expected.y, "y", tolerance)
    assert final.keys() == expected.final.keys() == dinitial.keys()
    assert grads.keys() == expected.grads.keys() - set(unlearned)
    for n, a in final.items():
        close(a, expected.final[n], f"final {n}", tolerance)
    for n, a in grads.items():
        close(a, expected.grads[n], f"∂L/∂{n}", tolerance)
    for n, a in dinitial.items():
        close(a, expected.dinitial[n], f"∂L/∂{n}[0]", tolerance)
    assert (dx is None) == (expected.dx is None)
    if dx is not None:
        close(dx, expected.dx, "∂L/∂x", tolerance)


def assert_equals_torch(structure: Structure, module: Any, call: Call) -> None:
    need("torch")
    from torch_networks import Reference

    constants = module.CONSTANTS
    params = {n: a for n, a in call.params.items() if n not in constants}
    results = call.of(module)
    T, B = call.x.shape[:2]
    if B == 0:
        y, final, grads, dx, dinitial = results
        assert y.shape == call.dy.shape
        assert dx is None or dx.shape == call.x.shape
        assert all(not g.any() for g in grads.values())
        for n, axes in module.STATES.items():
            assert final[n].shape[0] == dinitial[n].shape[0] == 0
            assert final[n].ndim == 1 + len(axes)
        return
    expected = Reference(structure, params).run(
        call.x, **call.options, dy=call.dy, dstate=call.dstate
    )
    agree(results, expected, module.UNLEARNED)


# --------------------------------------------------------------------------- beside PyTorch


@st.composite
def arguments(draw: Any) -> dict[str, Any]:
    T = draw(st.sampled_from([5, 4, 3, 2, 1, 0]))
    drawn: dict[str, Any] = {
        "T": T,
        "B": draw(st.sampled_from([3, 2, 1, 4, 0])),
        "seed": draw(st.integers(0, 99)),
        "lengths": draw(st.sampled_from(["none", "any", "zeros", "ones", "all"])),
        "resets": draw(st.sampled_from(["none", "any", "first", "always", "never"])),
        "state": draw(st.booleans()),
        "dstate": draw(st.booleans()),
        "drop": draw(st.none() | st.integers(0, 2**64 - 1)),
        "checkpoint_every": draw(st.none() | st.integers(1, T + 3)),
    }
    if draw(st.booleans()):
        drawn["snapshots"] = draw(st.integers(1, 4))
    return drawn


@pytest.mark.parametrize("name", STACKS)
@given(arguments())
@settings(max_examples=30)
def test_all_arguments_agree_with_pytorch(name: str, drawn: dict[str, Any]) -> None:
    module = compiled(name)
    assert_equals_torch(STACKS[name], module, Call(STACKS[name], module, **drawn))


@given(networks.structures(), arguments())
@settings(max_examples=40)
def test_structures_agree_with_pytorch(structure: Structure, drawn: dict[str, Any]) -> None:
    note("\n".join(lines(structure)))
    module = compile(structure)
    assert_equals_torch(structure, module, Call(structure, module, **drawn))
