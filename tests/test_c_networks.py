"""Networks in C: against the NumPy modules, in buffers of exactly their sizes, and in training."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tracemalloc
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need
from driver import (
    AT_THE_END,
    AT_THE_START,
    POISONED,
    WARNINGS,
    build,
    compile_quietly,
    execute,
    run,
)
from network_driver import Batch, Program
from networks import RESERVOIR
from test_networks import Call

import lstmgen
from lstmgen import (
    SGD,
    Adam,
    AdamW,
    Dropout,
    Embedding,
    Layer,
    Network,
    Readout,
    RMSprop,
    schedules,
)

NETWORKS = {
    network.name: network
    for network in (
        Network(
            [
                Layer("lstm", 5),
                Dropout(0.2),
                Layer("gru", 5, skip="residual", learn_state=True, zoneout=0.1),
                Readout(2),
            ],
            name="deep",
            loss="mean_squared",
            rate=schedules.cosine(0.05, 10, warmup=1),
            clip_norm=0.5,
        ),
        Network(
            [
                Layer("lstm", 3, bidirectional=True, recurrent_dropout=0.3),
                Dropout(0.4),
                Layer("gru", 6, skip="highway", zoneout=0.2, learn_state=True),
                Layer("rnn", 2, go_backwards=True, last=True),
                Dropout(0.3),
                Readout(3),
            ],
            name="noisy",
            loss="cross_entropy",
            optimizer=AdamW(),
            clip_value=0.1,
        ),
        Network(
            [
                Embedding(5, 3),
                Layer("mlstm", N=2, K=3, P=2, bidirectional="sum", learn_state=True),
                Layer("lstmp", 3, P=4, skip="residual"),
                Layer(RESERVOIR, 5, bidirectional=True, leak=0.7),
                Readout(4),
            ],
            name="symbols",
            loss="cross_entropy",
            optimizer=SGD(momentum=0.9),
            rate=0.05,
        ),
    )
}


def batches() -> list[Batch]:
    """All that a batch may have, with threads and checkpoints or without."""
    rng = np.random.default_rng(5)
    made = []
    for k, (T, B) in enumerate([(1, 1), (7, 3), (12, 5), (6, 2), (40, 1), (300, 2), (9, 4)]):
        for kind in range(5):
            made.append(
                Batch(
                    T, B, D=1 + k % 4, seed=10 * k + kind,
                    threads=[0, 2, 1, 3, 4][(kind + k) % 5],
                    every=[0, 2, 5, 1, T + 1][(kind + 2 * k) % 5],
                    snapshots=[0, 2, 0, 3][(kind + k) % 4],
                    drop=None if (kind + k) % 3 == 0 else 2**63 + k,
                    lengths=[None, rng.integers(0, T + 1, B), np.zeros(B), np.full(B, T)][kind % 4],
                    resets=None
                    if kind in (0, 2)
                    else rng.random((T, B)) < {1: 0.3, 3: 1.0, 4: 0.1}[kind],
                    has_state=k % 2 == 0, has_dstate=kind % 2 == 0, weighted=kind == 1,
                )
            )  # fmt: skip
    return made


@cache
def program(name: str, dtype: str = "float64") -> Program:
    return Program(NETWORKS[name], dtype)


def some_row_counts(made: Program, batch: Batch) -> bool:
    """Whether there is anything to learn from."""
    given = made.arrays(batch)
    counts = given["target"] >= 0 if made.classes else np.ones(made.y_shape(batch)[:-1], bool)
    if batch.lengths is not None and not made.of_rows:
        counts = counts & (np.arange(batch.T)[:, np.newaxis] < np.asarray(batch.lengths))
    return bool(counts.any())


# --------------------------------------------------------------------------- as a program


@pytest.mark.parametrize(
    ("compiler", "name", "dtype", "tolerance"),
    [
        ("gcc -O0 -march=native", "deep", "float64", 1e-11),
        ("gcc -O0 -march=native", "noisy", "float64", 1e-11),
        ("gcc -O0 -march=native", "symbols", "float64", 1e-11),
        ("gcc -O0 -fopenmp -DLSTMGEN_SCALAR", "deep", "float32", 3e-4),
        ("clang -O0", "noisy", "float32", 3e-4),
        ("clang -O0", "symbols", "float32", 3e-4),
    ],
)
def test_buffers_suffice(tmp_path: Path, compiler: str, name: str, dtype: str, tolerance: float):
    """Exactly as many numbers as the functions say, full of NaN before they are written."""
    need(f"{compiler.split()[0]} -fsanitize=address,undefined")
    made = program(name, dtype)
    some = [b for b in batches() if some_row_counts(made, b)]
    sources = made.write(some, tmp_path)
    build(tmp_path, sources, *compiler.split(), "-std=c99", *POISONED)
    execute(tmp_path)
    made.compare(some, tmp_path, tolerance)


@pytest.mark.parametrize("end", [AT_THE_END, AT_THE_START], ids=["end", "start"])
def test_nothing_is_touched_beside_buffers(tmp_path: Path, end: Any):
    """Not by what a library does, either, which no sanitizer sees."""
    need("gcc")
    made = program("noisy", "float32")
    some = [b for b in batches()[:12] if some_row_counts(made, b)]
    build(tmp_path, made.write(some, tmp_path), "gcc", "-std=c99", "-O1", *end)
    execute(tmp_path)
    made.compare(some, tmp_path, 3e-4)


def test_valgrind_finds_nothing(tmp_path: Path):
    """Nothing is decided by what nobody has written."""
    need("gcc")
    need("valgrind")
    made = program("deep", "float32")
    some = [b for b in batches()[5:15] if some_row_counts(made, b)]
    build(tmp_path, made.write(some, tmp_path), "gcc", "-std=c99", "-O1", "-g")
    run(tmp_path, "valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "./run", "in.bin",
        "out.bin")  # fmt: skip
    made.compare(some, tmp_path, 3e-4)


@pytest.mark.parametrize(
    "command",
    ["gcc -std=c99 -O0", "gcc -std=gnu17 -O2 -march=native", "clang -std=c99 -O0"],
)
def test_it_compiles_without_a_warning(tmp_path: Path, command: str):
    need(command)
    for network in NETWORKS.values():
        for name, text in lstmgen.generate(network, "c", dtype="float32").items():
            (tmp_path / name).write_text(text, encoding="utf-8")
    sources = [f"{name}.c" for name in NETWORKS]
    compile_quietly(tmp_path, sources, *command.split())


@pytest.mark.parametrize("command", ["g++ -std=c++11", "clang++ -std=c++20"])
def test_headers_are_for_cpp_too(tmp_path: Path, command: str):
    need(command)
    for network in NETWORKS.values():
        files = lstmgen.generate(network, "c")
        (tmp_path / f"{network.name}.h").write_text(files[f"{network.name}.h"], encoding="utf-8")
    text = "".join(f'#include "{name}.h"\n' for name in NETWORKS)
    (tmp_path / "use.cpp").write_text(f"{text}int main() {{ return DEEP_OK; }}\n", "utf-8")
    known = [w for w in WARNINGS if not w.endswith("-prototypes")]
    run(tmp_path, *command.split(), *known, "-c", "use.cpp")


@pytest.mark.parametrize("name", ["network", "runtime", "has_network"])
def test_names_that_the_library_might_have(tmp_path: Path, name: str):
    need("gcc")
    network = Network([Layer("rnn", 2)], name=name)
    for file, text in network.generate("c").items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    run(tmp_path, "gcc", "-std=c99", "-O0", *WARNINGS, "-c", f"{name}.c")


def test_no_more_learned_starts_than_a_label_has_bits_for():
    layers = [Layer("rnn", 2, learn_state=True) for _ in range(65)]
    with pytest.raises(lstmgen.GenerateError, match=r"64 states may have a start.*, not 65"):
        lstmgen.generate(Network(layers), "c")


# --------------------------------------------------------------------------- sizes


def sizes_of(module: Any, T: int, B: int, **options: Any) -> dict[str, int]:
    """How many numbers all buffers of one call have; 0 where there would be too many."""
    call = module._call(np.zeros((T, B, 3)), 3, options.get("lengths"), options.get("resets"),
                        None, options.get("every"), options.get("snapshots"), None)  # fmt: skip
    of = module._function
    return {
        "tape": of("tape_size")(call.sizes, call.batch),
        "forward": of("forward_work_size")(call.sizes, call.batch, 1),
        "inference": of("forward_work_size")(call.sizes, call.batch, 0),
        "backward": of("backward_work_size")(call.sizes, call.batch),
        "train": of("train_work_size")(call.sizes, call.batch),
    }


@cache
def compiled(name: str, threads: int = 1) -> Any:
    need("cffi")
    need("cc")
    return lstmgen.compile(NETWORKS[name], "c", dtype="float64", threads=threads)


def test_sizes_grow_as_they_should():
    module = compiled("deep")
    long, short = sizes_of(module, 40_000, 1), sizes_of(module, 20_000, 1)
    assert long["inference"] - short["inference"] < 20_000 * 8  # y alone
    assert 1.9 * short["tape"] < long["tape"] < 2.1 * short["tape"]
    every = sizes_of(module, 40_000, 1, every=200)
    assert every["tape"] < long["tape"] / 20
    assert every["train"] < long["train"] / 10
    assert sizes_of(module, 40_000, 1, every=10**9) == sizes_of(module, 40_000, 1, every=40_000)
    # some pieces, of which none is long: a few times what there is without them
    rng = np.random.default_rng(0)
    resets = rng.random((1000, 8)) < 0.01
    plain, cut = sizes_of(module, 1000, 8), sizes_of(module, 1000, 8, resets=resets)
    assert cut["tape"] < 1.6 * plain["tape"]
    assert cut["inference"] < plain["tape"] / 2
    few = sizes_of(module, 1000, 8, resets=resets, every=32)
    assert few["tape"] < 2 * plain["tape"]


def test_sizes_that_nothing_can_have_are_refused():
    module = compiled("deep")
    small = module._call(np.zeros((2, 2, 3)), 3, None, None, None, None, None, None)
    for T, B in [(2**62, 2**62), (2**40, 2**30), (1, 2**63), (2**63, 1)]:
        small.sizes.T, small.sizes.B = T, B
        for what in ("tape_size", "backward_work_size", "train_work_size"):
            assert module._function(what)(small.sizes, small.batch) == 0, what
        assert module._function("forward_work_size")(small.sizes, small.batch, 1) == 0
    small.sizes.T = 0
    assert module._function("tape_size")(small.sizes, small.batch) == 0


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_a_hundred_thousand_steps_in_little_memory(target: str):
    """Checkpoints: what the plan says is kept, and no more than a few times that in all."""
    T, D, units = (100_000, 8, 64) if target == "c" else (2000, 8, 64)
    network = Network([Layer("lstm", units), Readout(1)], name="hundred", loss="mean_squared")
    if target == "c":
        need("cffi")
        need("cc")
    more = {"dtype": "float32"} if target == "c" else {}
    module = lstmgen.compile(network, target, **more)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, 1, D)).astype(np.float32)
    wanted = rng.normal(size=(T, 1, 1)).astype(np.float32)
    params = module.init(D, dtype=np.float32)
    before, moments = params["lstm1.W_i"].copy(), module.start(params)
    interface = module._interface if target == "c" else module
    k = interface._steps_in(None, T, 1, D, 4)
    told = lstmgen.plan(network).checkpointed
    numbers = int(told.subs({s: {"T": T, "B": 1, "D": D, "k": k}[str(s)] for s in
                             told.free_symbols}))  # fmt: skip
    tracemalloc.start()
    value, _ = module.train(params, moments, x, wanted, checkpoint_every="auto")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isfinite(value) and (params["lstm1.W_i"] != before).any()
    if target == "numpy":
        assert peak < 20e6
        return
    call = module._call(x, D, None, None, None, "auto", None, None)
    tape = module._size("tape_size", call.sizes, call.batch)
    y = T  # the readout's output, which the plan counts as the caller's
    assert numbers <= tape <= numbers + y + 500
    assert peak < 4e6  # 206 MB without checkpoints


# --------------------------------------------------------------------------- threads


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_bits_are_the_same_at_every_run(threads: int):
    """As many slices as threads, whoever works on them."""
    module = compiled("noisy", threads)
    call = Call(NETWORKS["noisy"], module, 9, 5, lengths="any", resets="any", drop=5)
    wanted = digest(call.of(module))
    for _ in range(5):
        assert digest(call.of(module)) == wanted


FORKED = """
import os, signal, sys
from test_c_networks import NETWORKS, compiled, digest
from test_networks import Call

module = compiled("noisy", 3)
call = Call(NETWORKS["noisy"], module, 9, 5, lengths="any", resets="any", drop=5)
wanted = digest(call.of(module))
child = os.fork()
if not child:
    signal.alarm(60)  # a child that hangs ends in this way
    os._exit(digest(call.of(module)) != wanted)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_bits_are_the_same_in_a_process_that_was_forked():
    """In one that may fork: this one has the threads of other libraries."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], cwd=Path(__file__).parent,
        timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def digest(results: Any) -> bytes:
    """All bits of some arrays."""
    made = hashlib.sha256()
    for one in results:
        for array in one.values() if isinstance(one, dict) else [one]:
            made.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return made.digest()


@pytest.mark.parametrize("threads", [2, 4])
def test_slices_sum_to_what_the_batch_has(threads: int):
    """Fewer sequences than threads, and slices all of whose sequences have no step, too."""
    one, many = compiled("noisy"), compiled("noisy", threads)
    for B in (1, 2, 3, 6):
        call = Call(NETWORKS["noisy"], one, 5, B, lengths="any", drop=1)
        call.options["lengths"][: B // 2 + 1] = 0
        for got, wanted in zip(call.of(many), call.of(one), strict=True):
            assert_close(got, wanted, 1e-12)


def assert_close(got: Any, wanted: Any, tolerance: float) -> None:
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for name, a in wanted.items():
            assert_close(got[name], a, tolerance)
    else:
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------- arguments


def test_arrays_of_all_kinds():
    module = compiled("deep")
    call = Call(NETWORKS["deep"], module, 4, 3)
    wanted = call.of(module)
    call.x = np.asfortranarray(call.x)
    call.params = {n: np.asfortranarray(a) for n, a in call.params.items()}
    call.dy = np.repeat(call.dy, 2, axis=0)[::2]
    for got, same in zip(call.of(module), wanted, strict=True):
        assert_close(got, same, 0)
    call.x, call.dy = call.x.astype(np.float32), call.dy.astype(np.float32)
    for got, near in zip(call.of(module), wanted, strict=True):
        assert_close(got, near, 1e-5)


def test_inputs_that_nobody_wants_the_adjoint_of():
    for name in NETWORKS:
        module = compiled(name)
        call = Call(NETWORKS[name], module, 4, 3, resets="any")
        wanted = call.of(module)
        options = dict(call.options)
        _, _, tape = module.forward(call.params, call.x, options.pop("state"), **options)
        grads, dx, first = module.backward(call.params, tape, call.dy, call.dstate, inputs=False)
        assert dx is None
        assert_close(grads, wanted[2], 0)
        assert_close(first, wanted[4], 0)


def test_packed_parameters():
    module = compiled("deep")
    call = Call(NETWORKS["deep"], module, 4, 3)
    wanted = call.of(module)
    packed = module.pack(call.params)
    with pytest.raises(TypeError, match="packed parameters do not change"):
        packed["lstm1.W_i"] = 0
    assert type(pickle.loads(pickle.dumps(packed))) is dict
    held = {n: np.array(a) for n, a in call.params.items()}
    for a in call.params.values():
        a[...] = 7  # the copy does not change
    call.params = packed
    for got, same in zip(call.of(module), wanted, strict=True):
        assert_close(got, same, 0)
    state = None
    for x_t, y_t in zip(call.x, module.forward(held, call.x)[0], strict=True):
        state = module.step(packed, x_t, state)
        assert_close(state[module.OUTPUT], y_t, 1e-12)


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "optimizer",
    [SGD(), SGD(momentum=0.9, nesterov=True, weight_decay=0.1), Adam(), AdamW(), RMSprop()],
    ids=lambda optimizer: optimizer.cell.name,
)
@pytest.mark.parametrize(
    "clip", [{}, {"clip_norm": 0.1, "clip_value": 0.02}], ids=["free", "clipped"]
)
def test_updates_are_those_of_numpy(optimizer: Any, clip: dict[str, float]):
    need("cffi")
    need("cc")
    layers = [Layer(RESERVOIR, 3, leak=0.6, learn_state=True), Readout(2)]
    rate = schedules.cosine(0.1, 5, warmup=2)
    network = Network(layers, loss="huber", optimizer=optimizer, rate=rate, **clip)
    ours, numpy = lstmgen.compile(network, "c"), lstmgen.compile(network)
    rng = np.random.default_rng(1)
    params = numpy.init(700, dtype=np.float64)  # more numbers than are worked on at a time
    held = [{n: np.array(a) if np.ndim(a) else a for n, a in params.items()} for _ in range(3)]
    held[2] = ours.arrange(held[2])
    modules = [numpy, ours, ours]
    moments = [m.start(p) for m, p in zip(modules, held, strict=True)]
    for k in range(4):
        assert ours.rate(k) == pytest.approx(numpy.rate(k), rel=1e-15)
        x, wanted = rng.normal(size=(5, 3, 700)), rng.normal(size=(5, 3, 2))
        how = {"lengths": np.array([2, 5, 0]), "weights": rng.random((5, 3))}
        values = [
            m.train(p, s, x, wanted, **how)[0]
            for m, p, s in zip(modules, held, moments, strict=True)
        ]
        assert values == pytest.approx([values[0]] * 3, rel=1e-12)
    for p, s in zip(held[1:], moments[1:], strict=True):
        assert s["updates"] == 4
        for n in numpy.PARAMETERS:
            assert_close(p[n], held[0][n], 1e-9)
        for n in moments[0]:
            assert_close(s[n], moments[0][n], 1e-9)


@pytest.mark.parametrize("arranged", [True, False])
def test_gradients_that_are_not_finite_change_nothing(arranged: bool):
    module = compiled("deep")
    call = Call(NETWORKS["deep"], module, 4, 2)
    params = module.arrange(call.params) if arranged else call.params
    moments = module.start(params)
    target = np.zeros((4, 2, 2))
    module.train(params, moments, call.x, target)
    before = pickle.dumps([params, moments])
    for wrong in (np.nan, np.inf):
        x = call.x.copy()
        x[1, 1] = wrong
        with pytest.raises(FloatingPointError, match="a gradient is not finite"):
            module.train(params, moments, x, target)
        grads = {n: np.zeros(np.shape(params[n])) for n in module.PARAMETERS}
        grads["readout.b"][0] = wrong
        with pytest.raises(FloatingPointError, match="a gradient is not finite"):
            module.update(params, moments, grads)
        assert pickle.dumps([params, moments]) == before
    module.train(params, moments, call.x, target)
    assert moments["updates"] == 2


def test_rows_that_do_not_count():
    module, numpy = compiled("symbols"), lstmgen.compile(NETWORKS["symbols"])
    rng = np.random.default_rng(3)
    y, target = rng.normal(size=(6, 50, 4)), rng.integers(-2, 4, (6, 50))
    weights = rng.random((6, 50)) * (rng.random((6, 50)) < 0.7)
    for how in ({}, {"weights": weights}, {"lengths": rng.integers(0, 7, 50)}):
        (value, dy), (wanted, dwanted) = (m.loss(y, target, **how) for m in (module, numpy))
        assert value == pytest.approx(wanted, rel=1e-13)
        assert_close(dy, dwanted, 1e-14)
        assert not dy[target < 0].any()
    for made in (module, numpy):
        with pytest.raises(ValueError, match="no row counts"):
            made.loss(y, np.full((6, 50), -1))
        with pytest.raises(ValueError, match="no row counts"):
            made.loss(y[:0], target[:0])
        with pytest.raises(ValueError, match="no row counts"):
            made.loss(y, target, weights=0 * weights)
        with pytest.raises(ValueError, match="target has the class 4"):
            made.loss(y, target + 1)
        with pytest.raises(ValueError, match="weights are finite, and not negative"):
            made.loss(y, target, weights=-1 - weights)


def test_training_goes_on_to_the_same_bits(tmp_path: Path):
    """Parameters, moments and the number of updates are all there is."""
    module = compiled("noisy", 2)
    call = Call(NETWORKS["noisy"], module, 6, 5, lengths="any")
    target = np.random.default_rng(0).integers(0, 3, 5)

    def train(params: Any, moments: Any, first: int, last: int) -> None:
        for k in range(first, last):
            module.train(params, moments, call.x, target, lengths=call.options["lengths"], seed=k)

    whole = module.arrange(call.params)
    moments = module.start(whole)
    train(whole, moments, 0, 6)
    part = module.arrange(call.params)
    kept = module.start(part)
    train(part, kept, 0, 3)
    np.savez(tmp_path / "state.npz", **{f"p {n}": a for n, a in part.items()},
             **{f"m {n}": a for n, a in kept.items()})  # fmt: skip
    with np.load(tmp_path / "state.npz") as file:
        part = {n[2:]: file[n] for n in file.files if n.startswith("p ")}
        kept = {n[2:]: file[n] for n in file.files if n.startswith("m ")}
    kept["updates"] = int(kept["updates"])
    train(part, kept, 3, 6)
    for n, a in whole.items():
        np.testing.assert_array_equal(part[n], a)
