"""Networks: generated NumPy modules beside PyTorch, and what networks promise of themselves."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import networks
import numpy as np
import pytest
import strategies
from conftest import need
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from networks import DENSE, STACKS, compiled
from sympy import Eq

from lstmgen import (
    Cell,
    Dropout,
    Layer,
    Readout,
    compile,
    inputs,
    matrix,
    states,
    tanh,
)
from lstmgen.network.checkpoints import count
from lstmgen.network.description import lines
from lstmgen.network.structure import Structure


@pytest.fixture(params=["numpy", "c"])
def target(request: Any) -> str:
    if request.param == "c":
        need("cffi")
        need("cc")
    return request.param


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
            n: (a + rng.normal(0, 0.4, np.shape(a))).astype(dtype) if n in module.PARAMETERS else a
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
    if call.x.shape[1] == 0:
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
@given(drawn=arguments())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_arguments_agree_with_pytorch(name: str, target: str, drawn: dict[str, Any]) -> None:
    module = compiled(name, target)
    assert_equals_torch(STACKS[name], module, Call(STACKS[name], module, **drawn))


@given(networks.structures(), arguments())
@settings(max_examples=20)
def test_structures_agree_with_pytorch(structure: Structure, drawn: dict[str, Any]) -> None:
    note("\n".join(lines(structure)))
    module = compile(structure)
    assert_equals_torch(structure, module, Call(structure, module, **drawn))


@given(networks.structures(), arguments())
@settings(max_examples=2)
def test_structures_in_c_agree_with_pytorch(structure: Structure, drawn: dict[str, Any]) -> None:
    """A few, since compilers are slow; ``fuzz.py`` is for many."""
    need("cffi")
    need("cc")
    note("\n".join(lines(structure)))
    module = compile(structure, "c", threads=3)
    assert_equals_torch(structure, module, Call(structure, module, **drawn))


@given(strategies.cells(), arguments(), st.booleans())
@settings(max_examples=8)
def test_layers_of_made_up_cells_agree_with_pytorch(cell: Cell, drawn: dict, reverse: bool) -> None:
    assume(len(cell.inputs) == len(cell.outputs) == 1 and not cell.masks)
    told = cell.shape(cell.inputs[0])
    chosen = {n: 2 for n in cell.sizes if n not in told or str(n) == "H"}
    sizes = {str(n): k for n, k in chosen.items()}
    if "H" in sizes:
        sizes["units"] = sizes.pop("H")
    sizes |= {c.name: 0.6 for c in cell.constants}
    read = told[0].subs(chosen)
    fixed = int(read) if read.is_Integer else None
    structure = Structure([Layer(cell, **sizes, go_backwards=reverse), Readout(2)], inputs=fixed)
    module = compile(structure)
    assert_equals_torch(structure, module, Call(structure, module, **drawn))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("every", [None, 2])
def test_packed_bidirectional_stacks_equal_torch(kind: str, every: int | None) -> None:
    need("torch")
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    T, B, D, H = 7, 5, 4, 3
    structure = Structure([Layer(kind, H, bidirectional=True)] * 3)
    module = compile(structure)
    call = Call(structure, module, T, B, D=D, checkpoint_every=every)
    lengths = np.array([3, 7, 1, 7, 4])
    call.options["lengths"] = lengths
    theirs = getattr(torch.nn, kind.upper())(D, H, 3, bidirectional=True).double()
    lanes = [f"{kind}{k + 1}_{way}" for k in range(3) for way in ("forward", "backward")]
    gates = "i f g o".split() if kind == "lstm" else "r z n".split()

    def weights(of: dict[str, Any], lane: str) -> list[np.ndarray]:
        stacked = [np.concatenate([of[f"{lane}.{m}_{g}"] for g in gates]) for m in "WUb"]
        if kind == "gru":  # the candidate has a bias inside of the reset, and one outside
            zeros = [np.zeros_like(of[f"{lane}.b_{g}"]) for g in "rz"]
            return [*stacked, np.concatenate([*zeros, of[f"{lane}.b_m"]])]
        return [*stacked, np.zeros(4 * H)]

    for lane, theirs_of_lane in zip(lanes, theirs.all_weights, strict=True):
        for tensor, array in zip(theirs_of_lane, weights(call.params, lane), strict=True):
            tensor.data = torch.tensor(array)
    x = torch.tensor(call.x, requires_grad=True)
    names = "hc" if kind == "lstm" else "h"
    state, dstate = call.options["state"], call.dstate
    given = [torch.tensor(np.stack([state[f"{v}.{n}"] for v in lanes]), requires_grad=True)
             for n in names]  # fmt: skip
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    out, last = theirs(packed, tuple(given) if kind == "lstm" else given[0])
    last = last if kind == "lstm" else (last,)
    y, _ = pad_packed_sequence(out)
    loss = (y * torch.tensor(call.dy)).sum()
    for n, a in zip(names, last, strict=True):
        loss = loss + (a * torch.tensor(np.stack([dstate[f"{v}.{n}"] for v in lanes]))).sum()
    loss.backward()

    mine, final, grads, dx, dinitial = call.of(module)
    close(mine, y.detach().numpy(), "y")
    close(dx, x.grad.numpy(), "∂L/∂x")
    for n, a, start in zip(names, last, given, strict=True):
        for k, lane in enumerate(lanes):
            close(final[f"{lane}.{n}"], a[k].detach().numpy(), f"{lane}.{n}")
            close(dinitial[f"{lane}.{n}"], start.grad[k].numpy(), f"∂L/∂{lane}.{n}[0]")
    for lane, theirs_of_lane in zip(lanes, theirs.all_weights, strict=True):
        for tensor, array in zip(theirs_of_lane[:3], weights(grads, lane)[:3], strict=True):
            close(array, tensor.grad.numpy(), lane)
        if kind == "gru":
            close(grads[f"{lane}.b_m"], theirs_of_lane[3].grad[2 * H :].numpy(), f"{lane}.b_m")


# --------------------------------------------------------------------------- one way or another


@pytest.mark.parametrize("name", STACKS)
def test_single_precision_is_near_double(name: str) -> None:
    structure, module = STACKS[name], compiled(name)
    one = Call(structure, module, 5, 3, dtype="float32", lengths="any", resets="any", drop=7)
    call = Call(structure, module, 5, 3, lengths="any", resets="any", drop=7)
    for n, a in one.params.items():
        call.params[n] = np.asarray(a, float) if n in module.PARAMETERS else a
    call.x, call.dy = one.x.astype(call.x.dtype), one.dy.astype(float)
    call.dstate, state = ({n: a.astype(float) for n, a in s.items()}
                          for s in (one.dstate, one.options["state"]))  # fmt: skip
    call.options |= {"state": state, "lengths": one.options["lengths"]}
    call.options["resets"] = one.options["resets"]
    got, want = one.of(module), call.of(module)
    for g, w in zip(got, want, strict=True):
        g, w = (a if isinstance(a, dict) else {"": a} for a in (g, w))
        for n, a in g.items():
            assert a is None or a.dtype == np.float32
            if a is not None:
                close(a, w[n], n, 2e-5)  # 1e-7 a rounding, some hundred of them


@pytest.mark.parametrize("every", [None, 1, 3])
def test_windows_with_carried_state_are_one_run(target: str, every: int | None) -> None:
    structure, module, T = STACKS["deep"], compiled("deep", target), 7
    call = Call(structure, module, T, 3, lengths="none", resets="any", checkpoint_every=every)
    y, final, grads, dx, dinitial = call.of(module)
    resets, state, tapes, ys = call.options["resets"], call.options["state"], [], []
    windows = [slice(0, 3), slice(3, 4), slice(4, 7)]
    for window in windows:
        part, state, tape = module.forward(
            call.params, call.x[window], state, resets=resets[window], checkpoint_every=every
        )
        ys.append(part)
        tapes.append(tape)
    close(np.concatenate(ys), y, "y")
    for n, a in final.items():
        close(state[n], a, n)
    dstate, dxs, total = call.dstate, [], dict.fromkeys(grads, 0.0)
    for window, tape in zip(windows[::-1], tapes[::-1], strict=True):
        some, dx_part, dstate = module.backward(call.params, tape, call.dy[window], dstate)
        dxs.insert(0, dx_part)
        total = {n: total[n] + a for n, a in some.items()}
    close(np.concatenate(dxs), dx, "∂L/∂x")
    for found, wanted in ((total, grads), (dstate, dinitial)):
        for n, a in wanted.items():
            close(found[n], a, n)


def test_step_is_forward() -> None:
    module = compile(
        Structure([Layer("slstm", N=2, P=2, zoneout=0.3), Dropout(0.2), Layer(DENSE, 3)])
    )
    rng = np.random.default_rng(0)
    params, x = module.init(4, dtype=np.float64), rng.normal(size=(5, 2, 4))
    y, final, tape = module.forward(params, x, tape=False)
    assert tape is None
    state = None
    for t, x_t in enumerate(x):
        state = module.step(params, x_t, state)
        close(state[module.OUTPUT], y[t], "y")
    for n, a in final.items():
        close(state[n], a, n)


def test_step_refuses_what_needs_whole_sequences(target: str) -> None:
    module = compiled("noisy", target)
    params = module.init(3)
    with pytest.raises(ValueError, match="lstm1_backward runs from the last step to the first"):
        module.step(params, np.zeros((2, 3)))


@pytest.mark.parametrize("name", STACKS)
def test_arguments_stay_as_they_are_and_a_tape_serves_twice(name: str, target: str) -> None:
    module = compiled(name, target)
    call = Call(STACKS[name], module, 4, 3, lengths="any", resets="any", drop=3)
    held = [call.params, call.x, call.options, call.dy, call.dstate]
    before = pickle.dumps(held)
    options = dict(call.options)
    y, _, tape = module.forward(call.params, call.x, options.pop("state"), **options)
    one = module.backward(call.params, tape, call.dy, call.dstate)
    y[...] = 0  # it is the caller's
    two = module.backward(call.params, tape, call.dy, call.dstate)
    assert pickle.dumps(held) == before
    for n, a in one[0].items():
        np.testing.assert_array_equal(a, two[0][n])


# --------------------------------------------------------------------------- masks


def drop(p: float = 0.4, whole: bool = False) -> Any:
    """The masks of a network that is nothing but dropout, as a function of what forward takes."""
    module = compile(Structure([Dropout(p, whole=whole)]))

    def of(T: int, B: int, D: int, **options: Any) -> np.ndarray:
        y, _, _ = module.forward({}, np.ones((T, B, D)), **options)
        return y

    return of


def test_masks_drop_as_many_as_they_should_independently() -> None:
    p, shape = 0.3, (200, 10, 20)
    mask = drop(p)(*shape, seed=5)
    assert set(np.unique(mask)) == {0.0, 1 / (1 - p)}
    hit = (mask == 0) - p
    deviation = np.sqrt(p * (1 - p))

    def assert_small(sample: np.ndarray, spread: float) -> None:
        assert abs(sample.mean()) < 5 * spread / np.sqrt(sample.size)  # once in two million

    assert_small(hit, deviation)
    for axis, n in enumerate(shape):
        others = hit.mean(axis=tuple(k for k in range(3) if k != axis))
        assert np.abs(others).max() < 5 * deviation / np.sqrt(hit.size / n)
        assert_small(hit * np.roll(hit, 1, axis), deviation**2)  # neighbours
    for other in (drop(p)(*shape, seed=6), drop(p)(*shape, seed=5 + 2**63)):
        assert_small(hit * ((other == 0) - p), deviation**2)
    np.testing.assert_array_equal(drop(p)(*shape, seed=5), mask)


def test_parts_have_masks_of_their_own() -> None:
    module = compile(Structure([Dropout(0.5), Dropout(0.5)]))
    y, _, _ = module.forward({}, np.ones((50, 4, 25)), seed=1)
    assert set(np.unique(y)) == {0.0, 4.0}
    assert abs((y == 4).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / y.size)


def test_a_mask_of_a_whole_sequence_is_the_same_at_all_steps() -> None:
    mask = drop(0.5, whole=True)(6, 30, 20, seed=2)
    assert (mask == mask[0]).all()
    assert (mask[0, 0] != mask[0, 1]).any()
    assert abs(mask.mean() - 1) < 5 / np.sqrt(600)
    cut = np.random.default_rng(0).random((6, 30)) < 0.4
    np.testing.assert_array_equal(drop(0.5, whole=True)(6, 30, 20, seed=2, resets=cut), mask)


@pytest.mark.parametrize("whole", [False, True])
def test_masks_follow_from_their_place_alone(whole: bool) -> None:
    of, rng = drop(whole=whole), np.random.default_rng(0)
    whole_batch = of(6, 5, 4, seed=9)
    lengths = np.array([2, 6, 0, 3, 6])
    there = np.arange(6)[:, np.newaxis] < lengths
    resets = rng.random((6, 5)) < 0.5
    np.testing.assert_array_equal(of(6, 5, 4, seed=9, lengths=lengths)[there], whole_batch[there])
    np.testing.assert_array_equal(of(6, 5, 4, seed=9, resets=resets), whole_batch)
    np.testing.assert_array_equal(of(6, 5, 4, seed=9, checkpoint_every=2, snapshots=1), whole_batch)
    np.testing.assert_array_equal(of(3, 5, 4, seed=9), whole_batch[:3])


def test_inference_is_what_training_is_in_the_mean() -> None:
    module = compile(Structure([Dropout(0.3), Readout(2), Dropout(0.5, whole=True)]))
    params = module.init(3, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(4, 2000, 3))
    x[:] = x[:, :1]
    y, _, _ = module.forward(params, x)
    close(y, x @ params["readout.W"].T + params["readout.b"], "y", 1e-14)
    drawn, _, _ = module.forward(params, x, seed=0)
    spread = drawn.std(axis=1) / np.sqrt(x.shape[1])
    assert (np.abs(drawn.mean(axis=1) - y[:, 0]) < 5 * spread).all()


# --------------------------------------------------------------------------- checkpoints


def best(longest: int, most: int) -> list[list[int]]:
    """Evaluations for t steps with m states kept, by the recurrence of Gruslys et al. (2016)."""
    table = [[0] * (most + 1) for _ in range(longest + 1)]
    for t in range(1, longest + 1):
        for m in range(1, most + 1):
            splits = (y + table[t - y][m - 1] + table[y][m] for y in range(1, t))
            table[t][m] = t * (t + 1) // 2 if m == 1 else min(splits, default=1)
    return table


class Counting:
    """A part of a network that counts, and computes nothing."""

    PARAMETERS, CONSTANTS, INPUTS, STATES = {}, {}, {"x": ("D",)}, {"h": ("H",)}

    def __init__(self) -> None:
        self.forwards, self.steps = 0, []

    def pack(self, params: Any) -> Any:
        return params

    def forward(self, params, x, state, tape=True):
        self.forwards += 1
        return x, {"h": x[-1]}, ("tape", x[0]) if tape else None

    def backward(self, params, tape, dy, dstate=None):
        assert tape[0] == "tape"
        self.steps.append(int(tape[1][0, 0]))
        return {}, dy, {"h": dy[0]}


@cache
def counted() -> Any:
    h, x = states("h", size="D"), inputs("x")
    module = compile(Structure([Layer(Cell("copy", [Eq(h.next, x + h)], h))]))
    module.PARAMETERS.clear()
    return module


def evaluations(steps: int, snapshots: int | None) -> int:
    """How often forward and backward together evaluate a step."""
    module, part = counted(), Counting()
    module.PARTS["copy1"] = part
    x = np.arange(float(steps)).reshape(steps, 1, 1)
    y, _, tape = module.forward({}, x, checkpoint_every=1, snapshots=snapshots)
    module.backward({}, tape, y)
    assert part.steps == list(range(steps))[::-1]
    return part.forwards


@pytest.mark.parametrize(
    ("steps", "snapshots", "published"),
    [(5, 2, 11), (10, 2, 30), (10, 3, 25), (20, 3, 65), (100, 5, 416), (100, 10, 322),
     (1000, 50, 2948)],
)  # fmt: skip
def test_checkpoints_take_as_many_evaluations_as_published(steps, snapshots, published) -> None:
    assert evaluations(steps, snapshots) == published


def test_no_schedule_of_checkpoints_takes_fewer_evaluations() -> None:
    table = best(40, 8)
    for steps in range(1, 41):
        assert evaluations(steps, None) == 2 * steps - 1
        for snapshots in range(1, 9):
            assert evaluations(steps, snapshots) == table[steps][snapshots], (steps, snapshots)
            assert count(steps, snapshots) == table[steps][snapshots]


@pytest.mark.parametrize("snapshots", [1, 2, 3, None])
def test_no_more_is_kept_than_was_asked_for(snapshots: int | None) -> None:
    module = compiled("deep")
    call = Call(STACKS["deep"], module, 12, 2)
    _, _, tape = module.forward(call.params, call.x, checkpoint_every=2, snapshots=snapshots)
    most = []
    remade = tape._remade

    def watched(chain: Any, block: Any) -> None:
        remade(chain, block)
        most.append(max(len(saved) for saved in tape.snapshots.values()))
        assert {number for _, number in tape.tapes} == {block.number}

    tape._remade = watched
    module.backward(call.params, tape, call.dy)
    assert len(most) == 5
    assert max(most) <= (snapshots or 6)


# --------------------------------------------------------------------------- names


def test_layers_may_have_names_that_the_code_has() -> None:
    words = ["run", "tape", "np", "chain_1", "y", "dy", "state", "forward", "init", "params"]
    layers = [Layer("rnn", 3, name=n, skip="residual", bidirectional="sum") for n in words[:4]]
    structure = Structure([*layers, *(Layer("rnn", 3, name=n) for n in words[4:])], inputs=3)
    module = compile(structure)
    assert_equals_torch(structure, module, Call(structure, module, 3, 2))


@pytest.mark.parametrize("name", ["np", "CELL", "PARTS", "forward", "OUTPUT", "init", "run"])
def test_cells_may_have_names_that_the_code_has(name: str) -> None:
    x, h = inputs("x"), states("h")
    structure = Structure([Layer(Cell(name, [Eq(h.next, tanh(matrix("W") @ x + h))], h), 3)])
    module = compile(structure)
    assert_equals_torch(structure, module, Call(structure, module, 3, 2))


def test_sizes_may_be_numbers_and_told_by_what_comes_in() -> None:
    x, h = inputs("x", size=3), states("h", size="D")
    narrow = Cell("narrow", [Eq(h.next, tanh(matrix("W") @ x + h))], h)
    x = inputs("x")
    total = Cell("total", [Eq(h.next, h / 2 + x)], h)
    structure = Structure([Layer(total), Layer("rnn", 3), Layer(narrow, D=2)])
    module = compile(structure)
    for D in (1, 4):
        assert_equals_torch(structure, module, Call(structure, module, 4, 2, D=D, resets="any"))
