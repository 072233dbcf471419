"""Building and calling C from Python: the cache, what is missing, arrays good and bad, threads."""

from __future__ import annotations

import builtins
import copy
import multiprocessing
import os
import shutil
import stat
import threading
import time
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need
from sympy import Eq

import lstmgen
from lstmgen import (
    Cell,
    LstmgenError,
    ToolchainError,
    cells,
    constants,
    inputs,
    masks,
    mean,
    states,
    tanh,
    vectors,
    weights,
)
from lstmgen.runtime import toolchain

T, B, D, H = 5, 3, 4, 6
x, u = inputs("x"), inputs("u", size="E")
h, c = states("h c")
W, U = weights("W"), weights("U")


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
    """No time for the optimiser, and a cache of our own."""
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("CC", raising=False)


def small(name: str = "small") -> Cell:
    return Cell(name, [Eq(h.next, tanh(W.h @ x + U.h @ h))], output=h)


def build_small(name: str = "small") -> Any:
    need("cc")
    need("cffi")
    return lstmgen.compile(small(name), "c")


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.so"))


# --------------------------------------------------------------------------- the cache


def test_the_cache_is_by_content(tmp_path, monkeypatch):
    need("cc")
    need("cffi")
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path))
    lstmgen.compile(small(), "c")
    (library,) = libraries(tmp_path)
    before = library.stat()
    lstmgen.compile(small(), "c")
    assert libraries(tmp_path) == [library]
    assert library.stat().st_mtime_ns == before.st_mtime_ns
    lstmgen.compile(small(), "c", dtype="float32")
    lstmgen.compile(small(), "c", D=4, H=6)
    assert len(libraries(tmp_path)) == 3
    monkeypatch.setenv("CFLAGS", "-O1")
    lstmgen.compile(small(), "c")
    assert len(libraries(tmp_path)) == 4
    # nothing is left lying about
    assert all(p.name.startswith(("small-", "lstmgen_runtime-")) for p in tmp_path.iterdir())
    assert {p.name for p in library.parent.iterdir()} >= {"small.c", "small.h"}


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "flipped", "no checksum", "no library", "a file"]
)
def test_a_damaged_library_is_built_again(tmp_path, monkeypatch, damage):
    need("cc")
    need("cffi")
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path))
    # a library that is open must not change under us: build it without loading it
    with toolchain._building_kernels("float64", ()) as kernels:
        toolchain.build(lstmgen.generate(small(), "c"), (), kernels)
    (library,) = libraries(tmp_path)
    content = library.read_bytes()
    if damage == "empty":
        library.write_bytes(b"")
    elif damage == "cut":
        library.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        library.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "no checksum":
        next(library.parent.glob("*.sha256")).unlink()
    elif damage == "no library":
        library.unlink()
    else:
        shutil.rmtree(library.parent)
        library.parent.write_text("in the way")
    module = lstmgen.compile(small(), "c")
    y, _, _ = module.forward(module.init(D, H), np.ones((T, B, D)))
    assert y.shape == (T, B, H)
    assert libraries(tmp_path)[0].stat().st_size == len(content)
    assert all(p.name.startswith(("small-", "lstmgen_runtime-")) for p in tmp_path.iterdir())


def _compile_and_run(cache: str, start: Any, answers: Any) -> None:
    os.environ["LSTMGEN_CACHE"] = cache
    module_cell = small("contended")
    start.wait()
    module = lstmgen.compile(module_cell, "c")
    y, _, _ = module.forward(module.init(D, H), np.ones((T, B, D)))
    answers.put(float(y.sum()))


def test_processes_that_compile_at_once(tmp_path):
    need("cc")
    need("cffi")
    context = multiprocessing.get_context("spawn")  # no fork of a process that has threads
    start, answers = context.Event(), context.Queue()
    some = [
        context.Process(target=_compile_and_run, args=(str(tmp_path), start, answers))
        for _ in range(6)
    ]
    for process in some:
        process.start()
    start.set()
    found = {answers.get(timeout=120) for _ in some}
    for process in some:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert len(found) == 1
    assert len(libraries(tmp_path)) == 1
    assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == [
        "contended",
        "lstmgen_runtime",
    ]


def test_what_killed_builds_have_left_is_removed(tmp_path, monkeypatch):
    """But nothing of those that may still run, and no library of a cell called build."""
    need("cc")
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path))
    library = toolchain.build(lstmgen.generate(small("build"), "c"))
    old, new = tmp_path / "build-old", tmp_path / "build-new"
    for folder in (old, new):
        (folder / "made").mkdir(parents=True)
    for folder in (old, library.parent):
        os.utime(folder, (time.time() - 2 * 3600,) * 2)
    toolchain.build(lstmgen.generate(small(), "c"))
    assert new.is_dir() and not old.exists() and library.is_file()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    need("cc")
    need("cffi")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolchainError, match=r"cannot be written(.|\n)*set LSTMGEN_CACHE"):
        lstmgen.compile(small(), "c")
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path / "closed"))
    (tmp_path / "closed").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    if not os.access(tmp_path / "closed", os.W_OK):  # root may write anywhere
        with pytest.raises(ToolchainError, match="cannot be written: Permission denied"):
            lstmgen.compile(small(), "c")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("LSTMGEN_CACHE", "~/somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert toolchain.cache_folder() == tmp_path / "somewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LSTMGEN_CACHE", "here")
    assert toolchain.cache_folder() == tmp_path / "here"
    monkeypatch.delenv("LSTMGEN_CACHE")
    need("platformdirs")
    assert toolchain.cache_folder().name == "lstmgen"


# --------------------------------------------------------------------------- what is missing


def test_no_compiler(monkeypatch, tmp_path):
    need("cffi")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"there is no C compiler(.|\n)*apt install gcc"):
        lstmgen.compile(small(), "c")


@pytest.mark.parametrize(
    ("cc", "said"),
    [
        ("no-such-compiler -O2", "CC is no-such-compiler, but there is no such program"),
        ("gcc 'unfinished", 'CC is "gcc \'unfinished", which a shell could not read'),
        ("true", "the C compiler refused the code: true .*\nit made no"),
        ("false", "the C compiler refused the code: false"),
        ("cat", "the C compiler refused the code: cat"),
    ],
)
def test_a_compiler_that_is_none(monkeypatch, tmp_path, cc, said):
    need("cffi")
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", cc)
    with pytest.raises(ToolchainError, match=said):
        lstmgen.compile(small(), "c")
    assert libraries(tmp_path) == []


def test_a_compiler_that_cannot_run(monkeypatch, tmp_path):
    need("cffi")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fnothing that runs")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(ToolchainError, match=r"broken cannot be run(.|\n)*set CC to a C compiler"):
        lstmgen.compile(small(), "c")


def test_code_that_the_compiler_refuses(monkeypatch):
    need("cc")
    monkeypatch.setenv("CFLAGS", "-Dconst=what")
    with pytest.raises(ToolchainError, match=r"refused the code: cc .*-Dconst=what(.|\n)*error"):
        toolchain.build(lstmgen.generate(small("refused"), "c"))


def test_a_library_for_another_machine(monkeypatch, tmp_path):
    """What CC makes is no library of this machine: said, rather than crashed upon."""
    need("cc")
    need("cffi")
    fake = tmp_path / "cc"
    fake.write_text('#!/bin/sh\nfor a; do last=$a; [ "$o" ] && echo text > "$a"; o=; '
                    '[ "$a" = -o ] && o=1; done\nexit 0\n')  # fmt: skip
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ToolchainError, match="compiled library cannot be loaded"):
        lstmgen.compile(small(), "c")


@pytest.mark.parametrize("library", ["cffi", "platformdirs"])
def test_a_missing_library(monkeypatch, library):
    need("cc")
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delenv("LSTMGEN_CACHE")
    with pytest.raises(ToolchainError, match=rf"needs {library}(.|\n)*lstmgen\[c\]"):
        lstmgen.compile(small(), "c")


@pytest.mark.parametrize("what", ["lstm", cells, 3, None])
@pytest.mark.parametrize("use", [lstmgen.compile, lstmgen.derive, lstmgen.plan, lstmgen.check])
def test_what_is_no_cell_is_told_how_to_get_one(use, what):
    with pytest.raises(TypeError, match=r"hint: lstmgen.cells.get\(\"\w+\"\)"):
        use(what)


def test_hints_where_names_and_targets_are_mixed_up():
    with pytest.raises(LstmgenError, match=r"lstmgen.cells.get\('gru'\)"):
        lstmgen.load_cell("gru")
    for option in ("threads", "H"):
        with pytest.raises(lstmgen.GenerateError, match='the target "c" has it'):
            lstmgen.compile(small(), **{option: 2})


def test_only_numpy_and_c_can_be_compiled():
    with pytest.raises(lstmgen.GenerateError, match='only "c" and "numpy" can be compiled'):
        lstmgen.compile(small(), "latex")


# --------------------------------------------------------------------------- arrays


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    need("cc")
    need("cffi")
    return lstmgen.compile(cells.get("lstm"), "c")


@pytest.fixture(scope="module")
def given():
    """params, x, state, dy, dstate of an LSTM."""
    rng = np.random.default_rng(0)
    module = lstmgen.compile(cells.get("lstm"), "numpy")
    params = module.init(D, H, seed=1, dtype=np.float64)
    state = {k: rng.normal(size=(B, H)) for k in "hc"}
    dstate = {k: rng.normal(size=(B, H)) for k in "hc"}
    return params, rng.normal(size=(T, B, D)), state, rng.normal(size=(T, B, H)), dstate


def all_of(module: Any, params: Any, x: Any, state: Any, dy: Any, dstate: Any) -> dict[str, Any]:
    y, final, tape = module.forward(params, x, state)
    grads, dx, first = module.backward(params, tape, dy, dstate)
    return {"y": y, "dx": dx, **{f"final {k}": v for k, v in final.items()}, **grads,
            **{f"first {k}": v for k, v in first.items()}}  # fmt: skip


def assert_same(a: dict[str, Any], b: dict[str, Any], tolerance: float = 0.0) -> None:
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_interface_of_the_numpy_module(lstm, given):
    numpy = lstmgen.compile(cells.get("lstm"), "numpy")
    for name in ("CELL", "OUTPUT", "PARAMETERS", "STATES", "INPUTS", "MASKS", "CONSTANTS"):
        assert getattr(lstm, name) == getattr(numpy, name)
    assert_same(all_of(lstm, *given), all_of(numpy, *given), 1e-13)
    assert_same(lstm.init(D, H, seed=3, dtype=np.float32), numpy.init(D, H, seed=3))
    assert lstm.init(D, H)["W_i"].dtype == np.float64
    assert repr(lstm) == "<lstmgen C module lstm (float64)>"


def test_arrays_of_every_kind(lstm, given):
    """Lists, integers, other types, orders and strides are taken for what they hold."""
    params, x, state, dy, dstate = given
    whole = np.round(2 * x)
    expected = lstm.forward(params, whole, state)[0]
    misaligned = np.frombuffer(b"\0" + whole.tobytes(), np.uint8)[1:].view(float).reshape(x.shape)
    assert not misaligned.flags.aligned
    read_only = whole.copy()
    read_only.flags.writeable = False
    kinds = [
        whole.tolist(), whole.astype(int), whole.astype(np.int8), whole.astype(np.float16),
        whole.astype(np.float32), np.asfortranarray(whole), np.repeat(whole, 2, axis=2)[:, :, ::2],
        whole[::-1][::-1], whole.astype(">f8"), read_only, misaligned,
        whole.view(np.ndarray).view(type("Sub", (np.ndarray,), {})),
    ]  # fmt: skip
    for other in kinds:
        np.testing.assert_array_equal(lstm.forward(params, other, state)[0], expected)
    for change in (np.asfortranarray, np.ndarray.tolist, lambda a: a.astype(np.longdouble)):
        changed = [{k: change(v) for k, v in d.items()} for d in (params, state, dstate)]
        found = all_of(lstm, changed[0], change(x), changed[1], change(dy), changed[2])
        assert_same(found, all_of(lstm, *given))


def test_single_precision(given):
    need("cc")
    need("cffi")
    single = lstmgen.compile(cells.get("lstm"), "c", dtype="float32")
    found = all_of(single, *given)  # float64 arrays are converted
    assert all(v.dtype == np.float32 for v in found.values())
    params, x, *rest = given
    narrow = {k: v.astype(np.float32) for k, v in params.items()}
    assert_same(all_of(single, narrow, x.astype(np.float32), *rest), found)
    double = all_of(lstmgen.compile(cells.get("lstm"), "numpy"), *given)
    assert_same({k: v.astype(float) for k, v in found.items()}, double, 2e-5)


def test_nan_and_infinity_pass_through(lstm, given):
    params, x, state, *_ = given
    spoilt = x.copy()
    spoilt[2, 1, 0] = np.nan
    y = lstm.forward(params, spoilt, state)[0]
    assert np.isnan(y[2:, 1]).all()
    assert np.isfinite(np.delete(y, 1, axis=1)).all()
    spoilt[2, 1, 0] = np.inf
    assert np.isfinite(lstm.forward(params, spoilt, state)[0]).all()  # gates saturate


def test_inputs_are_not_changed_and_outputs_are_fresh(lstm, given):
    params, x, state, dy, dstate = given
    before = [a.copy() for a in (x, dy, *params.values(), *state.values(), *dstate.values())]
    first, second = all_of(lstm, *given), all_of(lstm, *given)
    after = [x, dy, *params.values(), *state.values(), *dstate.values()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert_same(first, second)
    for name, array in first.items():
        assert not np.shares_memory(array, second[name]), name
        assert array.flags.owndata
        assert array.flags.writeable


def test_no_memory_is_shared(lstm, given):
    """Neither within a call nor between calls."""
    params, x, state, dy, dstate = given
    packed = lstm.pack(params)
    found: list[np.ndarray] = []
    for p in (params, packed):
        for _ in range(2):
            found += all_of(lstm, p, x, state, dy, dstate).values()
            found += lstm.step(p, x[0], state).values()
    starts = sorted((a.ctypes.data, a.nbytes) for a in found)
    ends = [start + size for start, size in starts]
    assert all(end <= start for end, (start, _) in zip(ends, starts[1:], strict=False))
    for array in found:
        assert type(array) is np.ndarray
        assert array.flags.owndata and array.flags.writeable and array.flags.c_contiguous


def test_tapes_keep_what_they_need(lstm, given):
    """Memory of a tape is used again once the tape is gone, and no sooner, copied or not."""
    params, x, state, dy, dstate = given
    numpy = lstmgen.compile(cells.get("lstm"), "numpy")
    xs = [k * x for k in range(1, 5)]
    # lists: the arrays made of them live in the tape alone
    tapes = [copy.copy(lstm.forward(params, x_.tolist(), state)[2]) for x_ in xs]
    for x_, tape in zip(xs, tapes, strict=True):
        lstm.forward(params, -x_, state)
        expected = numpy.backward(params, numpy.forward(params, x_, state)[2], dy, dstate)
        for _ in range(2):
            grads, dx, first = lstm.backward(params, tape, dy, dstate)
            assert_same({**grads, "dx": dx, **first},
                        {**expected[0], "dx": expected[1], **expected[2]}, 1e-12)  # fmt: skip
    del tape
    tapes.clear()
    assert len(lstm._memory.tapes) == 2
    assert lstm._memory.tapes[0][1] != lstm._memory.tapes[1][1]


def test_a_cell_without_parameters_or_states():
    """C takes NULL for a struct of nothing."""
    need("cc")
    need("cffi")
    o, wide = vectors("o"), inputs("wide", size="H")
    rng = np.random.default_rng(0)
    dy = rng.normal(size=(T, B, H))
    for equations, output in (
        ([Eq(h.next, tanh(wide + h / 2))], h), ([Eq(o, tanh(wide))], o),
        ([Eq(o, tanh(W.o @ wide))], o),
    ):  # fmt: skip
        cell = Cell("bare", equations, output=output)
        native, numpy = lstmgen.compile(cell, "c"), lstmgen.compile(cell, "numpy")
        params, x_ = native.init(H, H), rng.normal(size=(T, B, H))
        for p in (params, native.pack(params)):
            for state in (None, {k: rng.normal(size=(B, H)) for k in native.STATES}):
                for _ in range(2):
                    y, final, tape = native.forward(p, x_, state)
                    expected, final_, kept = numpy.forward(params, x_, state)
                    np.testing.assert_allclose(y, expected, rtol=1e-12)
                    assert_same(final, final_, 1e-12)
                    for dstate in (None, final):
                        grads, dx, first = native.backward(p, tape, dy, dstate)
                        grads_, dx_, first_ = numpy.backward(params, kept, dy, dstate)
                        assert_same({**grads, "dx": dx, **first},
                                    {**grads_, "dx": dx_, **first_}, 1e-12)  # fmt: skip
                    out = native.step(p, x_[0], state)
                    np.testing.assert_allclose(out[native.OUTPUT], expected[0], rtol=1e-12)


def test_parameters_that_change_in_place_or_not(lstm, given):
    """The struct of pointers is kept between calls; what it points to may change."""
    params, x, state, *_ = given
    numpy = lstmgen.compile(cells.get("lstm"), "numpy")
    mine = {k: v.copy() for k, v in params.items()}
    for _ in range(3):
        lstm.forward(mine, x, state)
        mine["W_i"] *= 1.5  # in place
        np.testing.assert_allclose(
            lstm.forward(mine, x, state)[0], numpy.forward(mine, x, state)[0], rtol=1e-12
        )
        mine["b_f"] = mine["b_f"] + 0.5  # another array
        np.testing.assert_allclose(
            lstm.forward(mine, x, state)[0], numpy.forward(mine, x, state)[0], rtol=1e-12
        )
    lists = {k: v.tolist() for k, v in mine.items()}
    before = lstm.forward(lists, x, state)[0]
    lists["b_f"][0] += 1.0
    assert not np.array_equal(lstm.forward(lists, x, state)[0], before)


def test_constants_are_read_at_every_call():
    need("cc")
    need("cffi")
    dt = constants("dt", 0.1)
    module = lstmgen.compile(Cell("steps", [Eq(h.next, h + dt * (W.h @ x))], output=h), "c")
    params = module.init(2, 2)
    assert params["dt"] == 0.1
    x_ = np.ones((1, 1, 2))
    slow = module.forward(params, x_)[0]
    params["dt"] = 0.2
    np.testing.assert_allclose(module.forward(params, x_)[0], 2 * slow)
    boxed = {**params, "dt": np.array(0.1)}
    module.forward(boxed, x_)
    boxed["dt"][...] = 0.2  # the same object, another value
    np.testing.assert_allclose(module.forward(boxed, x_)[0], 2 * slow)
    del params["dt"]
    with pytest.raises(KeyError, match="params has no 'dt'"):
        module.forward(params, x_)


def test_step_is_forward(lstm, given):
    params, x, state, *_ = given
    y, final, tape = lstm.forward(params, x, state, tape=False)
    assert tape is None
    current = state
    for t in range(T):
        current = lstm.step(params, x[t], current)
        np.testing.assert_allclose(current["h"], y[t], rtol=1e-14, atol=1e-15)
    assert_same(current, final, 1e-14)
    zeros = {k: np.zeros((B, H)) for k in "hc"}
    assert_same(lstm.step(params, x[0]), lstm.step(params, x[0], zeros))


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "x of another width": (lambda g: {"x": g["x"][..., :-1]}, ValueError, r"x has shape .*D=4"),
    "x without time": (lambda g: {"x": g["x"][0]}, ValueError, r"x has shape \(3, 4\); expected"),
    "no units": (lambda g: {"x": g["x"][..., :0]}, ValueError, r"x has shape .*D=4"),
    "x in a dict": (lambda g: {"x": {"x": g["x"]}}, TypeError, "x is one array"),
    "params in order": (lambda g: {"params": list(g["params"].values())}, TypeError,
                        "params is a dict from name to array, as init makes it, not a list"),
    "complex x": (lambda g: {"x": g["x"] + 0j}, TypeError, "complex"),
    "words": (lambda g: {"x": g["x"].astype(str)}, TypeError, "has to be numbers"),
    "a ragged list": (lambda g: {"x": [[1], [2, 3]]}, ValueError, "x is no array"),
    "None": (lambda g: {"x": None}, TypeError, "has to be numbers"),
    "no b_f": (lambda g: {"params": {k: v for k, v in g["params"].items() if k != "b_f"}},
               KeyError, "params has no 'b_f'; lstm needs"),
    "another W_i": (lambda g: {"params": {**g["params"], "W_i": np.ones((H, D + 1))}},
                    ValueError, "has shape"),
    "flat U_i": (lambda g: {"params": {**g["params"], "U_i": np.ones(H)}}, ValueError, "U_i has"),
    "a state too few": (lambda g: {"state": {"h": g["state"]["h"]}}, KeyError, "state has no 'c'"),
    "another state": (lambda g: {"state": {**g["state"], "s": 1}}, KeyError, "state has 's'"),
    "misnamed": (lambda g: {"state": {"h": 1, "s": 1}}, KeyError, "state has 's'"),
    "state for other rows": (lambda g: {"state": {k: v[:-1] for k, v in g["state"].items()}},
                             ValueError, r"state\['h'\] has shape \(2, 6\)"),
    "state as an array": (lambda g: {"state": g["state"]["h"]}, TypeError, "state is a dict"),
    "state as a tuple": (lambda g: {"state": tuple(g["state"].values())}, TypeError,
                         'state is a dict from name to array, {"h": h, "c": c}, not a tuple'),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments(lstm, given, what):
    """Each is refused with what is wrong, and the next call works."""
    params, x, state, *_ = given
    good = {"params": params, "x": x, "state": state}
    change, error, said = WRONG[what]
    bad = {**good, **change(good)}
    for _ in range(2):
        with pytest.raises(error, match=said):
            lstm.forward(bad["params"], bad["x"], bad["state"])
        if isinstance(bad["x"], np.ndarray) and what != "x without time":
            with pytest.raises(error, match=said):
                lstm.step(bad["params"], bad["x"][0], bad["state"])
        assert lstm.forward(**good)[0].shape == (T, B, H)


def test_wrong_derivatives_and_tapes(lstm, given):
    params, x, state, dy, dstate = given
    _, _, tape = lstm.forward(params, x, state)
    with pytest.raises(ValueError, match=r"dy has shape \(4, 3, 6\); expected \(T=5"):
        lstm.backward(params, tape, dy[1:])
    with pytest.raises(KeyError, match="dstate has no 'c'"):
        lstm.backward(params, tape, dy, {"h": dstate["h"]})
    with pytest.raises(LstmgenError, match="run forward with tape=True"):
        lstm.backward(params, None, dy)
    other = lstmgen.compile(cells.get("lstm_peephole"), "c")
    wide = lstm.init(D, H + 1)
    single = lstmgen.compile(cells.get("lstm"), "c", dtype="float32")
    foreign = [
        (other.forward(other.init(D, H), x)[2], r"made by lstm_peephole \(eq.*\), this is lstm \("),
        (single.forward(params, x)[2], r"\(dtype=float32\), this is lstm \(dtype=float64\)"),
        (lstmgen.compile(cells.get("lstm"), "numpy").forward(params, x)[2], "not a dict"),
        ({}, "the tape is what forward of <lstmgen C module lstm .* returned, not a dict"),
    ]
    for some, said in foreign:
        with pytest.raises(LstmgenError, match=said):
            lstm.backward(params, some, dy)
    with pytest.raises(ValueError, match="params have H=7, but the tape was made with H=6"):
        lstm.backward(wide, tape, dy)
    # one that the same code made is one of ours
    again = lstmgen.compile(cells.get("lstm"), "c")
    _grads, dx, _first = again.backward(params, tape, dy, dstate)
    assert np.isfinite(dx).all()


def test_constant_sizes(given):
    need("cc")
    need("cffi")
    _params, x, _state, *_ = given
    module = lstmgen.compile(cells.get("lstm"), "c", D=D, H=H)
    numpy = lstmgen.compile(cells.get("lstm"), "numpy")
    assert_same(all_of(module, *given), all_of(numpy, *given), 1e-13)
    with pytest.raises(ValueError, match="this module was made for H=6, not H=7"):
        module.forward(module.init(D, 7), x)
    with pytest.raises(ValueError, match="this module was made for D=4, not D=3"):
        module.step(module.init(3, H), x[0, :, :3])


def test_several_inputs_masks_and_an_output_that_is_no_state():
    need("cc")
    need("cffi")
    m, o = masks("m"), vectors("o")
    cell = Cell(
        "rich",
        [Eq(o, tanh(W.x @ x + W.u @ u + U.o @ h) * m), Eq(h.next, tanh(o + h / 2))],
        output=o,
    )
    native, numpy = lstmgen.compile(cell, "c"), lstmgen.compile(cell, "numpy")
    rng = np.random.default_rng(0)
    params = native.init(D, H, E=2)
    xs = {"x": rng.normal(size=(T, B, D)), "u": rng.normal(size=(T, B, 2))}
    first = {k: v[0] for k, v in xs.items()}
    dy = rng.normal(size=(T, B, H))
    for mask in (rng.normal(size=(T, B, H)), np.ones((B, 1)), 0.5, [[[1.0]]] * T):
        given = {"masks": {"m": mask}}
        y, state, tape = native.forward(params, xs, **given)
        expected, final, kept = numpy.forward(params, xs, **given)
        np.testing.assert_allclose(y, expected, rtol=1e-12)
        grads, dx, _ = native.backward(params, tape, dy)
        grads_, dx_, _ = numpy.backward(params, kept, dy)
        assert_same({**grads, **dx}, {**grads_, **dx_}, 1e-12)
        assert_same(state, final, 1e-12)
    out = native.step(params, first, masks={"m": np.ones((B, H))})
    assert set(out) == {"h", "o"}
    again = native.step(params, first, out, masks={"m": 1})  # its own answer is a state
    assert again["o"].shape == (B, H)
    for module in (native, numpy):
        for bad, error in ((xs["x"], TypeError), ([xs["x"]] * 2, TypeError), ({"x": 1}, KeyError)):
            with pytest.raises(error, match="x is a dict"):
                module.forward(params, bad, masks={"m": 1})
        with pytest.raises(TypeError, match="masks is a dict from name to array"):
            module.forward(params, xs, masks=np.ones((T, B, H)))
    with pytest.raises(KeyError, match="needs the mask 'm'"):
        native.forward(params, xs)
    with pytest.raises(ValueError, match=r"masks\['m'\] has shape"):
        native.forward(params, xs, masks={"m": np.ones((T, B, H + 1))})
    with pytest.raises(TypeError, match="complex"):
        native.forward(params, xs, masks={"m": np.ones((T, B, H), complex)})


def test_sizes_that_only_the_state_tells():
    need("cc")
    need("cffi")
    loose = states("loose", size="P")
    equations = [Eq(loose.next, loose / 2), Eq(h.next, tanh(W.h @ x + mean(loose.next)))]
    module = lstmgen.compile(Cell("still", equations, output=h), "c")
    params, x_ = module.init(D, H), np.ones((T, B, D))
    for P in (2, 3, 2):
        state = {"loose": np.ones((B, P)), "h": np.ones((B, H))}
        _, final, tape = module.forward(params, x_, state)
        np.testing.assert_allclose(final["loose"], 2.0**-T)
        assert module.backward(params, tape, np.ones((T, B, H)))[2]["loose"].shape == (B, P)
        assert module.step(params, x_[0], state)["loose"].shape == (B, P)
        for call in (module.forward, module.step):
            with pytest.raises(ValueError, match=r"the size P is not known.*give the state"):
                call(params, x_ if call == module.forward else x_[0])


def test_packed_parameters_are_parameters_to_other_modules(lstm, given):
    params, x, state, *_ = given
    single = lstmgen.compile(cells.get("lstm"), "c", dtype="float32")
    for maker, user in ((single, lstm), (lstm, single), (lstm, lstm)):
        packed = maker.pack(params)
        y = user.forward(packed, x, state)[0]
        np.testing.assert_array_equal(y, user.forward(dict(packed), x, state)[0])
        with pytest.raises(ValueError, match="read-only"):
            packed["W_i"][0] = 0


def test_threads_at_once(lstm, given):
    """Different sizes and parameters on one module at once: each gets its own answer."""
    numpy = lstmgen.compile(cells.get("lstm"), "numpy")
    rng = np.random.default_rng(0)
    tasks = []
    for k in range(8):
        params = lstm.init(D + k % 3, 40 + k, seed=k)
        x_ = rng.normal(size=(20 + k, 2 + k % 3, D + k % 3))
        dy = rng.normal(size=(20 + k, 2 + k % 3, 40 + k))
        y, _, tape = numpy.forward(params, x_)
        tasks.append((params, x_, dy, y, numpy.backward(params, tape, dy)[1]))
    barrier = threading.Barrier(len(tasks))

    def work(task: Any) -> None:
        params, x_, dy, y, dx = task
        barrier.wait()
        for _ in range(30):
            found, _, tape = lstm.forward(params, x_)
            np.testing.assert_allclose(found, y, rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(
                lstm.backward(params, tape, dy)[1], dx, rtol=1e-10, atol=1e-12
            )
            state = None
            for t in range(3):
                state = lstm.step(params, x_[t], state)
            np.testing.assert_allclose(state["h"], y[2], rtol=1e-11, atol=1e-13)

    with ThreadPoolExecutor(len(tasks)) as pool:
        for done in [pool.submit(work, task) for task in tasks]:
            done.result(timeout=120)


def test_workspaces_do_not_pile_up(lstm, given):
    params, _x, *_ = given
    for rows in range(1, 40):
        lstm.forward(params, np.ones((T, rows, D)))
        lstm.forward(params, np.ones((rows, 1, D)))
    assert len(lstm._memory.workspaces) <= 8
    assert len(lstm._arguments.last.rooms) <= 128


def test_a_call_costs_microseconds(given):
    """The bound is loose, for busy machines; unloaded, both take well under 10 µs."""
    need("cc")
    need("cffi")
    module = lstmgen.compile(cells.get("lstm"), "c", dtype="float64")
    params, x_ = module.init(8, 8), np.ones((1, 1, 8))
    state = {k: np.zeros((1, 8)) for k in "hc"}

    def cost(call: Any) -> float:
        return min(timeit.repeat(call, number=200, repeat=10)) / 200

    assert cost(lambda: module.forward(params, x_, state)) < 60e-6
    assert cost(lambda: module.step(params, x_[0], state)) < 60e-6
