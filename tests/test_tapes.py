"""Calls around the compiled code, in NumPy and in C alike: tapes, parameters that change, no steps,
arguments of the wrong kind, sizes of fresh parameters, and processes that were forked.
"""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import reference
from conftest import need
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Eq

import lstmgen
from lstmgen import (
    Cell,
    GenerateError,
    LstmgenError,
    cells,
    inputs,
    masks,
    sigmoid,
    states,
    tanh,
    vectors,
    weights,
)
from lstmgen.runtime import memory
from lstmgen.runtime.kept import Tape
from lstmgen.runtime.loading import load_python
from lstmgen.runtime.toolchain import MOST_THREADS

T, B, D, H, P = 5, 4, 3, 6, 4
TARGETS = ("numpy", "c")
x, u = inputs("x"), inputs("u", size="E")
h, s = states("h"), states("s", size="P")
W, U = weights("W"), weights("U")


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory):
    """No time for the optimiser, and a cache of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFLAGS", "-O0")
        patch.setenv("LSTMGEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.delenv("CC", raising=False)
        yield


def made(cell: Cell | str, target: str, **options: Any) -> Any:
    if target == "c":
        need("cc")
        need("cffi")
    return lstmgen.compile(cells.get(cell) if isinstance(cell, str) else cell, target, **options)


def rich() -> Cell:
    """Two inputs, a mask, an output that is not a state, and two sizes of states."""
    m, o = masks("m"), vectors("o")
    return Cell(
        "rich",
        [Eq(o, tanh(W.x @ x + W.u @ u + U.o @ h) * m), Eq(s.next, tanh(W.s @ x + s / 2)),
         Eq(h.next, tanh(o + h / 2 + U.s @ s))],
        output=o,
    )  # fmt: skip


def fresh(module: Any, dtype: Any = np.float64, steps: int = T, rows: int = B) -> dict[str, Any]:
    """The arguments of forward."""
    rng = np.random.default_rng(0)
    sizes = {"D": D, "H": H, "P": P, "E": 2, "K": 3, "N": 2}
    names = {n for shape in module.PARAMETERS.values() for n in shape}
    hidden = "H" if "H" in names else "P"
    more = {n: sizes[n] for n in names - {"D", hidden}}
    params = module.init(D, sizes[hidden], seed=1, dtype=dtype, **more)

    def normal(lead: tuple[int, ...], table: dict[str, tuple[str, ...]]) -> dict[str, Any]:
        return {k: rng.normal(size=(*lead, *(sizes[n] for n in axes))).astype(dtype)
                for k, axes in table.items()}  # fmt: skip

    xs = normal((steps, rows), module.INPUTS)
    given = {"params": params, "x": xs if len(xs) > 1 else next(iter(xs.values())),
             "state": normal((rows,), module.STATES)}  # fmt: skip
    return given | ({"masks": normal((steps, rows), module.MASKS)} if module.MASKS else {})


def flat(grads: Any, dx: Any, dstate: Any) -> dict[str, Any]:
    dx = dx if isinstance(dx, dict) else {"x": dx}
    parts = {"grads": grads, "dx": dx, "dstate": dstate}
    return {f"{part} {k}": v for part, arrays in parts.items() for k, v in arrays.items()}


def assert_same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(
            one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


# --------------------------------------------------------------------------- who made a tape


@pytest.mark.parametrize("target", TARGETS)
def test_a_tape_of_another_cell_is_refused_by_name(target):
    modules = {name: made(name, target) for name in reference.NAMES}
    runs = {}
    for name, module in modules.items():
        arguments = fresh(module)
        y, _, tape = module.forward(**arguments)
        runs[name] = arguments["params"], tape, np.ones_like(y)
    for maker, reader in itertools.permutations(modules, 2):
        params, _, dy = runs[reader]
        with pytest.raises((ValueError, LstmgenError), match=rf"made by {maker} .* is {reader} "):
            modules[reader].backward(params, runs[maker][1], dy)
    for name, module in modules.items():
        params, tape, dy = runs[name]
        module.backward(params, tape, dy)


@pytest.mark.parametrize("target", TARGETS)
def test_the_equations_count_and_not_the_name(target):
    """Also a size, and the step of a state, of which the tape's arrays know nothing."""
    wide, d = states("wide", size="D"), states("d", size="D")
    twins = [
        Cell("twin", [Eq(h.next, tanh(W.h @ x + U.h @ h))], h),
        Cell("twin", [Eq(h.next, sigmoid(W.h @ x + U.h @ h))], h),
        Cell("twin", [Eq(h.next, tanh(W.h @ x + 2 * (U.h @ h)))], h),
        Cell("twin", [Eq(wide.next, tanh(W.h @ x + U.h @ wide))], wide),
        Cell("twin", [Eq(d.next, tanh(x + d)), Eq(h.next, tanh(W.h @ d + U.h @ h))], h),
        Cell("twin", [Eq(d.next, tanh(x + d)), Eq(h.next, tanh(W.h @ d.next + U.h @ h))], h),
    ]
    runs = []
    for cell in twins:
        module = made(cell, target)
        params = module.init(H, H)
        y, _, tape = module.forward(params, np.ones((T, B, H), params["W_h"].dtype))
        runs.append((module, params, tape, np.ones_like(y)))
    for (module, params, _, dy), (_, _, tape, _) in itertools.permutations(runs, 2):
        with pytest.raises((ValueError, LstmgenError), match=r"equations=.*equations="):
            module.backward(params, tape, dy)


@pytest.mark.parametrize("target", TARGETS)
def test_modules_of_one_cell_share_tapes(target):
    one, other = made("gru", target), made("gru", target)
    arguments = fresh(one)
    y, _, tape = one.forward(**arguments)
    dy = np.ones_like(y)
    expected = flat(*one.backward(arguments["params"], tape, dy))
    assert_same(flat(*other.backward(arguments["params"], tape, dy)), expected)
    assert_same(flat(*other.backward(other.pack(arguments["params"]), tape, dy)), expected)


@pytest.mark.parametrize("target", TARGETS)
def test_a_tape_of_other_sizes_or_dtype(target):
    module = made("lstm", target)
    arguments = fresh(module)
    y, _, tape = module.forward(**arguments)
    for sizes in ((D + 1, H), (D, H + 1), (D, H - 1)):
        params = module.init(*sizes, dtype=np.float64)
        name = "D" if sizes[0] != D else "H"
        with pytest.raises(ValueError, match=rf"params have {name}=\d, .* made with {name}=\d"):
            module.backward(params, tape, np.ones_like(y))
    with pytest.raises(ValueError, match=r"dy has shape \(4, 4, 6\); expected \(T=5, B=4, H=6\)"):
        module.backward(arguments["params"], tape, np.ones_like(y)[1:])
    single = module.init(D, H, dtype=np.float32)
    if target == "numpy":
        with pytest.raises(ValueError, match=r"params are float32, .* made with float64"):
            module.backward(single, tape, np.ones_like(y))
    else:
        with pytest.raises(LstmgenError, match=r"lstm \(dtype=float64\), this is lstm \(dtype=flo"):
            made("lstm", target, dtype="float32").backward(single, tape, np.ones_like(y))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("wrong", [None, {}, (), "tape", {"x": 1}, np.ones(3)])
def test_what_is_no_tape(target, wrong):
    module = made("lstm", target)
    arguments = fresh(module)
    y = module.forward(**arguments)[0]
    said = "run forward with tape=True" if wrong is None else "the tape is what forward of .*lstm"
    with pytest.raises((ValueError, LstmgenError), match=said):
        module.backward(arguments["params"], wrong, y)
    other = made("lstm", "c" if target == "numpy" else "numpy")
    with pytest.raises((ValueError, LstmgenError), match=r"the tape is what forward of .*lstm"):
        module.backward(arguments["params"], other.forward(**arguments)[2], y)


def test_a_tape_of_another_version_of_lstmgen():
    ((_, text),) = lstmgen.generate(cells.get("lstm"), "numpy").items()
    older = text.replace(f'"lstmgen": "{lstmgen.__version__}"', '"lstmgen": "0.0.9"')
    assert older != text
    one, other = load_python(older, "lstm", "<old>"), load_python(text, "lstm", "<new>")
    arguments = fresh(one)
    y, _, tape = one.forward(**arguments)
    said = rf"lstm \(lstmgen=0.0.9\), this is lstm \(lstmgen={lstmgen.__version__}\)"
    with pytest.raises(ValueError, match=said):
        other.backward(arguments["params"], tape, y)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9))
def test_a_tape_of_other_slices(one, other, rows):
    """A tape lies in memory as its slices do: the same number of them is the same tape."""
    maker, reader = (made("lstm", "c", threads=n) for n in (one, other))
    arguments = fresh(maker, rows=rows)
    y, _, tape = maker.forward(**arguments)
    expected = flat(*maker.backward(arguments["params"], tape, y))
    if min(one, rows) == min(other, rows):
        assert_same(flat(*reader.backward(arguments["params"], tape, y)), expected)
        return
    said = rf"made by lstm \(threads={one}\), this is lstm \(threads={other}\)"
    with pytest.raises(LstmgenError, match=said):
        reader.backward(arguments["params"], tape, y)


def test_a_tape_of_constant_sizes():
    fixed, free = made("lstm", "c", D=D, H=H), made("lstm", "c")
    arguments = fresh(free)
    y, _, tape = fixed.forward(**arguments)
    with pytest.raises(LstmgenError, match=r"lstm \(D=3, H=6\), this is lstm \(\)"):
        free.backward(arguments["params"], tape, y)
    fixed.backward(arguments["params"], tape, y)


def test_memory_of_a_tape_that_was_written_over():
    """The last line of defence is C's own: what it wrote first has to be there."""
    module = made("lstm", "c")
    arguments = fresh(module)
    y, _, tape = module.forward(**arguments)
    module._ffi.memmove(tape.memory[1], b"\0" * 64, 64)
    with pytest.raises(LstmgenError, match="lstm_backward: the tape was not written by lstm_f"):
        module.backward(arguments["params"], tape, y)


# --------------------------------------------------------------------------- copies, and the end


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cell", ["lstm", "rich"])
def test_copies_of_tapes(target, cell):
    module = made(rich() if cell == "rich" else cell, target)
    arguments = fresh(module)
    params, xs = arguments["params"], arguments["x"]
    y, _, tape = module.forward(**arguments)
    expected = flat(*module.backward(params, tape, y))
    assert_same(flat(*module.backward(params, copy.copy(tape), y)), expected)
    deep = copy.deepcopy({"tape": tape, "again": tape})
    assert deep["tape"] is deep["again"]
    for array in xs.values() if isinstance(xs, dict) else [xs]:
        array *= 2  # a deep copy has an x of its own
    del tape
    gc.collect()
    for _ in range(3):  # what is freed is used again, but not twice
        module.forward(**arguments)
        assert_same(flat(*module.backward(params, deep["tape"], y)), expected)


def test_tapes_of_c_are_not_pickled():
    module = made("lstm", "c")
    tape = module.forward(**fresh(module))[2]
    with pytest.raises(TypeError, match="cannot be pickled: run forward where backward"):
        pickle.dumps(tape)
    numpy = made("lstm", "numpy")
    arguments = fresh(numpy)
    y, _, tape = numpy.forward(**arguments)
    again = pickle.loads(pickle.dumps(tape))
    assert_same(flat(*numpy.backward(arguments["params"], again, y)),
                flat(*numpy.backward(arguments["params"], tape, y)))  # fmt: skip


def test_a_tape_that_is_half_made_is_no_trouble(monkeypatch):
    """As tracers make them, which look at a class by an object without anything."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    module = made("lstm", "c")
    before = len(module._memory.tapes)
    for half in range(4):
        tape = Tape.__new__(Tape)
        for name, value in [("module", module), ("memory", None), ("room", None)][:half]:
            setattr(tape, name, value)
        tape.__del__()
        del tape
    gc.collect()
    assert not raised
    assert len(module._memory.tapes) == before


def test_memory_of_large_arrays_is_used_again_and_never_shared():
    """Once nobody has a view of an array any more, and not before."""
    module = made("lstm", "c")
    params = module.init(3, 8, seed=0)
    x = np.random.default_rng(0).standard_normal((40, 64, 3))
    y, _, _ = module.forward(params, x)
    assert y.nbytes >= memory.LARGE
    assert y.flags.writeable and y.flags.c_contiguous
    right, where = y.copy(), y.ctypes.data
    part = y[-1:, ::2]
    del y
    other, _, _ = module.forward(params, 2 * x)
    assert other.ctypes.data != where
    np.testing.assert_array_equal(part, right[-1:, ::2])
    del part
    again, _, _ = module.forward(params, x)
    assert again.ctypes.data == where
    np.testing.assert_array_equal(again, right)
    few, _, _ = module.forward(params, x[:5])  # much smaller: no such memory for it
    held = [module.forward(params, x)[0] for _ in range(8)]
    assert len({a.ctypes.data for a in (again, other, few, *held)}) == 11
    del held
    assert len(module._memory.pool.arrays) <= 4


def test_tapes_at_the_end_of_the_interpreter():
    need("cc")
    need("cffi")
    script = (
        "import numpy as np, lstmgen\n"
        "m = lstmgen.compile(lstmgen.cells.get('lstm'), 'c')\n"
        "tape = m.forward(m.init(2, 2), np.ones((3, 1, 2)))[2]\n"
        "loop = [tape]; loop.append(loop)\n"
        "import sys; sys.modules['late'] = loop\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""


# --------------------------------------------------------------------------- changed parameters


@pytest.mark.parametrize("cell", ["lstm", "gru", "lstmp", "lstm_peephole", "rnn"])
def test_backward_reads_parameters_as_they_are(cell):
    """What has changed since forward is seen in both targets alike, but not in what was packed.

    To have the same numbers from both, which are the gradient of nothing, these are cells that
    keep the same on both tapes.
    """
    modules = [made(cell, target) for target in TARGETS]
    results: list[dict[str, Any]] = []
    for module in modules:
        arguments = fresh(module)
        params = arguments["params"]
        y, _, tape = module.forward(**arguments)
        packed = module.pack(params)
        before = flat(*module.backward(params, tape, y))
        for value in params.values():
            value *= 1.5  # in place
        after = flat(*module.backward(params, tape, y))
        assert not np.allclose(before["dx x"], after["dx x"])
        assert_same(flat(*module.backward(packed, tape, y)), before, 1e-13)
        copied = {k: v.copy() for k, v in params.items()}
        assert_same(flat(*module.backward(copied, tape, y)), after)
        results.append(after)
    assert_same(*results, 1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_packed_parameters_do_not_change(target):
    """What was packed could not follow. Copies are parameters like any others."""
    module = made("lstm", target)
    arguments = fresh(module)
    params, rest = arguments.pop("params"), arguments
    packed = module.pack(params)
    expected = module.forward(params, **rest)[0]
    doubled = params["W_i"] * 2
    for change in (
        lambda p: p.update(W_i=doubled), lambda p: p.__setitem__("W_i", doubled),
        lambda p: p.pop("W_i"), lambda p: p.clear(), lambda p: p.__delitem__("W_i"),
        lambda p: p.setdefault("W_i", doubled), lambda p: p.__ior__({"W_i": doubled}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="packed parameters do not change: pack others"):
            change(packed)
    with pytest.raises(ValueError, match="read-only"):
        packed["W_i"] *= 2
    np.testing.assert_allclose(module.forward(packed, **rest)[0], expected, rtol=1e-13)
    for again in (copy.copy(packed), copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert type(again) is dict
        np.testing.assert_allclose(module.forward(again, **rest)[0], expected, rtol=1e-13)
        again["W_i"] = doubled
        np.testing.assert_array_equal(
            module.forward(again, **rest)[0],
            module.forward({**params, "W_i": doubled}, **rest)[0],
        )


# --------------------------------------------------------------------------- no steps, no rows


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cell", [*reference.NAMES, "rich"])
@pytest.mark.parametrize(("steps", "rows"), [(0, B), (T, 0), (0, 0)])
def test_no_steps_or_no_rows(target, cell, steps, rows):
    module = made(rich() if cell == "rich" else cell, target)
    dtype = np.float64
    arguments = fresh(module, dtype, steps, rows)
    params, xs = arguments["params"], arguments["x"]
    source = rich() if cell == "rich" else cells.get(cell)
    lengths = {"D": D, "H": H, "P": P, "E": 2, "K": 3, "N": 2}

    def shape(v: Any) -> tuple[int, ...]:
        return tuple(lengths[str(n)] for n in source.shape(v))

    for p, state in itertools.product((params, module.pack(params)), (arguments["state"], None)):
        given_ = {**arguments, "params": p, "state": state}
        for keep in (True, False, True):
            y, final, tape = module.forward(**given_, tape=keep)
            assert (tape is None) == (not keep)
            assert y.shape == (steps, rows, *shape(source.output)) and y.dtype == dtype
            for s in source.states:
                name = s.name
                assert final[name].shape == (rows, *shape(s)) and final[name].dtype == dtype
                if state is None:
                    assert not final[name].any()
                else:
                    assert np.array_equal(final[name], state[name])
                    assert not np.shares_memory(final[name], state[name])
        for dstate in (None, arguments["state"]):
            grads, dx, first = module.backward(p, copy.deepcopy(tape), y, dstate)
            assert {k: v.shape for k, v in grads.items()} == {
                k: v.shape for k, v in params.items() if k in module.PARAMETERS
            }
            assert not any(v.any() for v in grads.values())
            for name, array in (dx if isinstance(dx, dict) else {"x": dx}).items():
                assert array.shape == (xs[name] if isinstance(xs, dict) else xs).shape
            for name in module.STATES:  # with no steps, the last state is the first one
                expected = 0 if dstate is None else dstate[name]
                assert np.array_equal(first[name], np.broadcast_to(expected, first[name].shape))
        with pytest.raises(ValueError, match="dy has shape"):
            module.backward(p, tape, np.ones((2, 3, *shape(source.output))))
    for state in (arguments["state"], None):
        if rows == 0:
            one = {k: v[0] if steps else np.ones((0, v.shape[-1])) for k, v in
                   (xs if isinstance(xs, dict) else {"x": xs}).items()}  # fmt: skip
            mask = {"masks": {"m": np.ones((0, H))}} if module.MASKS else {}
            x_t = one if len(one) > 1 else one["x"]
            out = module.step(params, x_t, state, **mask)
            assert {k: v.shape for k, v in out.items()} == {
                **{s.name: (0, *shape(s)) for s in source.states},
                module.OUTPUT: y.shape[1:],
            }  # fmt: skip
    full = fresh(module)
    assert module.forward(**full)[0].shape == (T, B, *shape(source.output))


@pytest.mark.parametrize("target", TARGETS)
def test_no_units_are_refused(target):
    module = made("lstm", target)
    params = module.init(D, H)
    with pytest.raises(ValueError, match=r"W_i has shape \(0, 3\): H is zero"):
        module.forward({k: v[:0] for k, v in params.items()}, np.ones((T, B, D)))
    with pytest.raises(ValueError, match=r"x has shape \(0, 4, 2\); expected"):
        module.forward(params, np.ones((0, B, D - 1)))


# --------------------------------------------------------------------------- wrong kinds


@pytest.mark.parametrize("target", TARGETS)
def test_arguments_that_are_not_of_their_kind(target):
    module = made("lstm", target)
    arguments = fresh(module)
    params, xs, state = arguments["params"], arguments["x"], arguments["state"]
    y, _, tape = module.forward(**arguments)
    example = r'a dict from name to array, \{"h": h, "c": c\}, not a'
    pair = state["h"], state["c"]
    for wrong in (pair, list(pair), pair[0], "hc", 0.0):
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=f"^state is {example} {kind}"):
            module.forward(params, xs, wrong)
        with pytest.raises(TypeError, match=f"^state is {example} {kind}"):
            module.step(params, xs[0], wrong)
        with pytest.raises(TypeError, match=f"^dstate is {example} {kind}"):
            module.backward(params, tape, y, wrong)
    for wrong in (list(params.values()), tuple(params), params["W_i"], None, 3):
        said = f"^params is a dict .* as init makes it, not a {type(wrong).__name__}"
        for call in (module.forward, module.step):
            with pytest.raises(TypeError, match=said):
                call(wrong, xs)
        with pytest.raises(TypeError, match=said):
            module.backward(wrong, tape, y)
        with pytest.raises(TypeError, match=said):
            module.pack(wrong)
    with pytest.raises(TypeError, match=r"^x is one array \(T, B, D\), not a dict"):
        module.forward(params, {"x": xs})
    with pytest.raises(TypeError, match=r"^x is one array \(B, D\), not a dict"):
        module.step(params, {"x": xs[0]})
    with pytest.raises(ValueError, match=r"^x is no array: its parts have different shapes"):
        module.forward(params, [xs, xs[0]])
    np.testing.assert_array_equal(module.forward(params, list(xs), state)[0], y)


@pytest.mark.parametrize("target", TARGETS)
def test_several_inputs_and_masks_are_dicts(target):
    module = made(rich(), target)
    arguments = fresh(module)
    xs = arguments["x"]
    for wrong in (xs["x"], list(xs.values()), tuple(xs.values())):
        for call in (module.forward, module.step):
            with pytest.raises(TypeError, match=r"^x is a dict from name to array"):
                call(**{**arguments, "x": wrong} if call == module.forward else
                     {"params": arguments["params"], "x_t": wrong})  # fmt: skip
    for wrong in ({"x": xs["x"]}, {**xs, "v": xs["x"]}, {}):
        with pytest.raises(KeyError, match=r"x is a dict of the inputs \['u', 'x'\], not of"):
            module.forward(**{**arguments, "x": wrong})
    for wrong in (arguments["masks"]["m"], [arguments["masks"]["m"]]):
        with pytest.raises(TypeError, match=r"^masks is a dict from name to array"):
            module.forward(**{**arguments, "masks": wrong})
    with pytest.raises(KeyError, match="needs the mask 'm'"):
        module.forward(**{**arguments, "masks": None})


# --------------------------------------------------------------------------- sizes of init

SIZES = {"D": 3, "H": 4, "E": 5, "P": 7}


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_arguments_of_init_bind(target):
    module = made(rich(), target)  # u, of size E, comes before x in the alphabet
    params = module.init(3, 4, E=5, P=7)
    for name, symbolic in module.PARAMETERS.items():
        assert params[name].shape == tuple(SIZES[n] for n in symbolic)
    with pytest.raises(TypeError, match="init needs the size E"):
        module.init(3, 4, P=7)
    with pytest.raises(TypeError, match="rich has no size 'K'; it has E, D, H, P"):
        module.init(3, 4, E=5, P=7, K=2)
    with pytest.raises(ValueError, match="H is 4 in rich: give H=4, not 5"):
        module.init(3, 4, E=5, P=7, H=5)
    assert module.init(3, 4, E=5, P=7, H=4).keys() == params.keys()
    for bad in (0, -1, 2.0, "3", None):
        with pytest.raises(ValueError, match="is a positive whole number, not"):
            module.init(bad, 4, E=5, P=7)
        with pytest.raises(ValueError, match="P is a positive whole number, not"):
            module.init(3, 4, E=5, P=bad)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["D", "H", "E", "P", "5"]), min_size=1, max_size=3),
    st.sampled_from(["H", "P", "6"]), st.data(),
)  # fmt: skip
def test_init_never_takes_another_size_in_silence(fed, held, data):
    """Every matrix has the sizes that were asked for, or the call is refused."""
    state = states("held", size=held if not held.isdigit() else int(held))
    vs = [inputs(f"{'azx'[k]}{k}", size=int(n) if n.isdigit() else n) for k, n in enumerate(fed)]
    drive = sum((getattr(W, f"k{k}") @ v for k, v in enumerate(vs)), U.h @ state)
    cell = Cell("sized", [Eq(state.next, tanh(drive))], output=state)
    module = lstmgen.compile(cell, "numpy")
    first = "D" if "D" in fed else str(cell.size(cell.inputs[0]))
    hidden = "H" if "H" in map(str, cell.sizes) else held
    given_ = {name: data.draw(st.integers(3, 8)) for name in ("input", "hidden")}
    others = {str(n): 9 for n in cell.sizes}
    for bound in (first, hidden):
        others.pop(bound, None)
    wanted = {n: int(n) for n in (first, hidden, *fed, held) if n.isdigit()}
    fits = all(
        wanted.setdefault(n, given_[what]) == given_[what]
        for what, n in (("hidden", hidden), ("input", first))
    )
    if not fits:
        with pytest.raises(ValueError, match=r"(input|hidden)_size is .* in sized: give"):
            module.init(given_["input"], given_["hidden"], **others)
        return
    params = module.init(given_["input"], given_["hidden"], **others)
    for name, symbolic in module.PARAMETERS.items():
        assert params[name].shape == tuple((wanted | others)[n] for n in symbolic), name
    assert (f"input_size is {first} " in module.init.__doc__) or "both" in module.init.__doc__


def test_an_input_as_wide_as_the_state():
    wide = inputs("wide", size="H")
    for target in TARGETS:
        module = made(Cell("square", [Eq(h.next, tanh(W.h @ wide + U.h @ h))], output=h), target)
        said = "input_size is H, which is 4 in square: give input_size=4, not 3"
        with pytest.raises(ValueError, match=said):
            module.init(3, 4)
        assert module.init(4, 4)["W_h"].shape == (4, 4)
        assert (
            "input_size and hidden_size are both H." in module._interface.init.__doc__
            if (target == "c")
            else module.init.__doc__
        )


# --------------------------------------------------------------------------- threads, and forks


@pytest.mark.parametrize("threads", [10**6, MOST_THREADS + 1, 0, -1, 2.0, True, "2"])
def test_how_many_threads_there_may_be(threads):
    with pytest.raises(GenerateError, match=f"threads is a whole number from 1 to {MOST_THREADS}"):
        lstmgen.compile(cells.get("rnn"), "c", threads=threads)


FORKED = """
import os, signal, sys
import numpy as np
import lstmgen

module = lstmgen.compile(lstmgen.cells.get("lstm"), "c", threads=3)
params = module.init(8, 260)

def run(rows, given):
    x = np.random.default_rng(0).normal(size=(4, rows, 8))
    y, _, tape = module.forward(given, x)
    grads, dx, _ = module.backward(given, tape, y)
    return b"".join(a.tobytes() for a in (y, dx, *grads.values()))

packed = module.pack(params)
before = {(rows, k): run(rows, p) for rows in (1, 7) for k, p in enumerate((params, packed))}
x = np.ones((4, 7, 8))
y, _, tape = module.forward(params, x)
dx = module.backward(params, tape, y)[1]
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that hangs ends in this way
    same = all(run(*[(rows, p) for p in (params, packed)][k]) == before[rows, k]
               for rows, k in before)
    same &= np.array_equal(module.backward(params, tape, y)[1], dx)  # a tape of the parent
    run(5, params)  # sizes that the parent had not
    late = lstmgen.compile(lstmgen.cells.get("lstm"), "c", threads=2)
    late.forward(params, x)
    os._exit(0 if same else 3)
_, status = os.waitpid(child, 0)
run(7, params)
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork here")
def test_a_child_of_a_process_with_threads():
    """OpenMP's threads are gone in it, and to call them would be to wait for ever."""
    need("cc")
    need("cffi")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], timeout=180, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
