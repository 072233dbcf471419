"""Gates and adjoints while training: numbers, against PyTorch's autograd and by hand; and files."""

import sys

import numpy as np
import pytest
from conftest import need
from sympy import Eq
from witness import differentiate

import lstmgen
from lstmgen import (
    Cell,
    Dropout,
    Embedding,
    Layer,
    LstmgenError,
    Network,
    Readout,
    biases,
    inputs,
    monitor,
    sigmoid,
    states,
    tanh,
    vectors,
    weights,
)
from lstmgen.analysis.gates import Activations, steps_back
from lstmgen.derivation.watched import watch
from lstmgen.monitor.training import watched_network

# one state and several, gates within equations, a matrix memory, a state that only delays, masks,
# a state that is a gate, one that the same step reads again
CELLS = [
    "delta_net", "gru", "janet", "lstm", "lstm_peephole", "lstm_variational", "mlstm", "qrnn",
    "rnn", "scrn",
]  # fmt: skip
SIZES = {"D": 3, "H": 4, "K": 2, "N": 2, "P": 3, "S": 2}


class Recorder:
    """A writer that remembers."""

    def __init__(self):
        self.scalars, self.bars = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars.setdefault(tag, {})[step] = value

    def add_histogram_raw(self, tag, **about):
        self.bars.setdefault(tag, {})[about["global_step"]] = about


class Problem:
    """A cell with parameters, data and a loss, and all that PyTorch says of it."""

    def __init__(self, name, steps=5, rows=2):
        self.cell = cell = lstmgen.cells.get(name)
        rng = np.random.default_rng(0)
        module = lstmgen.compile(cell)
        sizes = {n: SIZES[str(n)] for n in cell.sizes}

        def drawn(symbol, *lead):
            shape = [int(n.subs(sizes)) for n in cell.shape(symbol)]
            return rng.normal(size=(*lead, *shape))

        self.params = {p.name: 1.5 * drawn(p) for p in cell.parameters}
        self.params |= {c.name: cell.starts_at(c) for c in cell.constants}
        self.x = {v.name: drawn(v, steps, rows) for v in cell.inputs}
        self.state = {s.name: drawn(s, rows) for s in cell.states}
        self.masks = {m.name: np.abs(drawn(m, steps, rows)) for m in cell.masks}
        self.dy = {v.name: drawn(v, steps, rows) for v in cell.outputs}
        self.dstate = {s.name: drawn(s, rows) for s in cell.states}
        self.steps = []

        def after(v):
            self.steps.append(v)
            for s in cell.states:
                v[s.name].retain_grad()

        given = self.params, self.x, self.state, self.masks, self.dy, self.dstate
        self.expected = differentiate(cell, *given, after=after)
        self.module = module

    def adjoint(self, state):
        return np.stack([v[state].grad.numpy() for v in self.steps])

    def run(self, target="numpy"):
        """Both passes through the watched module: what they return, and the statistics."""
        watched = monitor.WatchedModule(self.cell, target)
        more = [self.masks] if self.masks else []
        x = self.x if len(self.x) > 1 else next(iter(self.x.values()))
        dy = self.dy if len(self.dy) > 1 else next(iter(self.dy.values()))
        y, final, tape = watched.forward(self.params, x, self.state, *more)
        grads, dx, first = watched.backward(self.params, tape, dy, self.dstate)
        return (y, final, grads, dx, first), watched.statistics()


@pytest.mark.parametrize("name", CELLS)
def test_gates_and_adjoints_are_those_of_autograd(name):
    problem = Problem(name)
    (y, final, grads, _, first), found = problem.run()
    np.testing.assert_allclose(y, problem.expected.y, rtol=1e-10, atol=1e-12)
    for mine, theirs in ((grads, problem.expected.params), (first, problem.expected.initial)):
        for key in mine:
            np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-9, atol=1e-11)
    for key in final:
        np.testing.assert_allclose(final[key], problem.expected.final[key], rtol=1e-10, atol=1e-12)

    assert set(found.adjoints) == {s.name for s in problem.cell.states}
    for state, norms in found.adjoints.items():
        total = problem.adjoint(state)
        expected = [np.linalg.norm(step) for step in total[::-1]]
        np.testing.assert_allclose(norms, expected, rtol=1e-9, atol=1e-12)
    assert found.gradients.keys() == {p.name for p in problem.cell.learned}
    for p, norm in found.gradients.items():
        assert norm == pytest.approx(np.linalg.norm(problem.expected.params[p]), rel=1e-9)

    assert found.gates
    for gate, seen in found.gates.items():
        if gate in problem.steps[0]:  # others have no name in the cell's own equations
            rows = np.stack([v[gate].detach().numpy() for v in problem.steps])
            rows = rows.reshape(-1, seen.rows.shape[1])
            np.testing.assert_allclose(seen.rows, rows, rtol=1e-10, atol=1e-12)
        low, high = seen.bounds
        assert (seen.rows >= low).all() and (seen.rows <= high).all()


def test_a_gate_within_an_equation_is_seen():
    """JANET: h′ = σ(a) h + …, and σ(a - β) beside it."""
    problem = Problem("janet")
    _, found = problem.run()
    a = np.stack([v["a"].detach().numpy() for v in problem.steps]).reshape(-1, SIZES["H"])
    np.testing.assert_allclose(found.gates["sigmoid_a"].rows, 1 / (1 + np.exp(-a)), rtol=1e-10)
    shifted = a - problem.params["beta"]
    np.testing.assert_allclose(found.gates["gate"].rows, 1 / (1 + np.exp(-shifted)), rtol=1e-10)


def test_watching_in_c_is_the_same():
    need("cc")
    problem = Problem("lstm")
    (_, one), (_, other) = problem.run("numpy"), problem.run("c")
    for state in one.adjoints:
        np.testing.assert_allclose(one.adjoints[state], other.adjoints[state], rtol=1e-10)
    for gate in one.gates:
        np.testing.assert_allclose(one.gates[gate].rows, other.gates[gate].rows, rtol=1e-10)


@pytest.mark.parametrize("name", lstmgen.cells.names())
def test_every_cell_can_be_watched(name):
    cell = lstmgen.cells.get(name)
    watched = watch(cell)
    assert [p.name for p in watched.cell.parameters] == [p.name for p in cell.parameters]
    assert {s.name for s in watched.cell.states} == {s.name for s in cell.states}
    assert [v.name for v in watched.cell.outputs][: len(cell.outputs)] == [
        v.name for v in cell.outputs
    ]
    assert set(watched.offsets) == {s.name for s in cell.states}


@pytest.mark.parametrize("name", ["janet", "lstm_peephole"])
def test_the_check_has_the_gradients_by_offsets(name):
    cell = lstmgen.watched(lstmgen.cells.get(name))
    assert {"h_offset"} <= {v.name for v in cell.inputs}
    assert lstmgen.check(cell, seeds=1).passed


x, h, c = inputs("x"), *states("h c")
g, o = vectors("g o")
W, b = weights("W"), biases("b")


def test_only_what_comes_near_to_its_bounds_is_watched():
    """Not a gate times a tanh, not an activation x σ(x), not what is made of parameters."""
    z, gate, y = vectors("z gate y")
    nu = biases("nu")
    cell = Cell(
        "made_up",
        [
            Eq(z, W.z @ x),
            Eq(gate, z * sigmoid(z)),
            Eq(g, 1.5 * tanh(gate)),
            Eq(o, sigmoid(W.o @ x) ** 2),
            Eq(c.next, sigmoid(nu.c) * c + g * sigmoid(z + b.i)),
            Eq(y, o * tanh(c.next)),
        ],
        y,
    )
    watched = watch(cell)
    # the name of the gate in c′ is not that of another quantity
    assert watched.bounded == {"g": (-1.5, 1.5), "o": (0.0, 1.0), "gate_2": (0.0, 1.0),
                               "gate_3": (0.0, 1.0)}  # fmt: skip


def test_names_do_not_clash():
    h_offset = vectors("h_offset")
    cell = Cell("taken", [Eq(h_offset, tanh(W.x @ x)), Eq(h.next, 0.5 * h + h_offset)], h.next)
    watched = watch(cell)
    assert watched.offsets == {"h": "h_offset_2"}
    module = monitor.WatchedModule(cell)
    module.forward({"W_x": np.ones((2, 3))}, np.ones((4, 1, 3)))
    assert module.statistics().gates["h_offset"].rows.shape == (4, 2)


# --------------------------------------------------------------------------- numbers


def test_shares_and_histogram_by_hand():
    rows = np.array([[0.0, 0.5], [0.04, 0.951], [0.05, 0.95], [0.99, 1.0]])
    gate = Activations((0.0, 1.0), rows)
    assert gate.low.tolist() == [0.5, 0.0]
    assert gate.high.tolist() == [0.25, 0.5]
    counts, edges = gate.histogram(4)
    assert counts.tolist() == [3, 0, 1, 4] and edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    candidate = Activations((-1.0, 1.0), 2 * rows - 1)  # the same shares of its range
    assert candidate.low.tolist() == [0.5, 0.0] and candidate.high.tolist() == [0.25, 0.5]


def test_nan_is_not_counted_as_healthy():
    gate = Activations((0.0, 1.0), np.array([[np.nan, 0.5], [0.01, 0.01]]))
    assert np.isnan(gate.low[0]) and np.isnan(gate.high[0]) and gate.low[1] == 0.5
    assert gate.histogram()[0].sum() == 3


def test_steps_back_are_from_the_end_of_each_sequence():
    rng = np.random.default_rng(0)
    lengths, total = [5, 3, 3, 1], 5
    whole = rng.normal(size=(total, 4, 2))
    expected = np.zeros(total)
    for row, length in enumerate(lengths):
        for k in range(length):
            expected[k] += np.square(whole[length - 1 - k, row]).sum()
    blocks = [whole[0:1], whole[1:3, :3], whole[3:5, :1]]
    np.testing.assert_allclose(steps_back(blocks), np.sqrt(expected))
    # sequences that begin later, and end together
    late = [whole[0:2, :1], whole[2:5, :3]]
    expected = [np.linalg.norm(whole[4 - k, : 3 if k < 3 else 1]) for k in range(5)]
    np.testing.assert_allclose(steps_back(late), expected)


def test_there_is_nothing_to_tell_before_forward():
    with pytest.raises(LstmgenError, match="before forward has run"):
        monitor.WatchedModule(lstmgen.cells.get("rnn")).statistics()


# --------------------------------------------------------------------------- networks


def _network(**more):
    layers = [
        Embedding(7, 3), Dropout(0.2),
        Layer("lstm", 4, bidirectional=True, recurrent_dropout=0.1, learn_state=True),
        Layer("gru", 5, skip="highway") if more.get("skip") else Layer("gru", 5),
        Readout(3),
    ]  # fmt: skip
    network = Network(layers, loss="cross_entropy", rate=0.05)
    network.target = "numpy"
    return network


def _sequences(T=6, N=10):
    rng = np.random.default_rng(1)
    return {
        "x": rng.integers(0, 7, (T, N)), "target": rng.integers(0, 3, (T, N)),
        "lengths": np.concatenate([[T, 1], rng.integers(1, T + 1, N - 2)]),
    }  # fmt: skip


def test_a_watched_network_computes_the_same():
    network, data = _network(), _sequences()
    params = network.init(seed=3, dtype=np.float64)
    given = {"lengths": data["lengths"], "seed": 11}
    y, final, tape = network.forward(params, data["x"], **given)
    dy = np.random.default_rng(0).normal(size=y.shape)
    grads, _, first = network.backward(params, tape, dy)
    module, parts = watched_network(network)
    y2, final2, tape = module.forward(params, data["x"], **given)
    grads2, _, first2 = module.backward(params, tape, dy)
    np.testing.assert_allclose(y2, y, rtol=1e-10)
    for mine, theirs in ((final2, final), (grads2, grads), (first2, first)):
        for name in theirs:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-9, atol=1e-12)
    found = {name: part.statistics() for name, part in parts.items()}
    # of each step that there is, one row: none of what is after the end
    for name in ("lstm1_forward", "lstm1_backward", "gru1"):
        for gate in found[name].gates.values():
            assert len(gate.rows) == data["lengths"].sum()
    assert found["readout"].gates == {}


def test_adjoints_of_a_network_by_differences():
    """∂L/∂s of the gate's state k steps back: a change of the state between two runs."""
    network = Network([Layer("gru", 3, last=True), Readout(1)], inputs=2, loss="mean_squared")
    network.target = "numpy"
    params = network.init(dtype=np.float64)
    rng = np.random.default_rng(0)
    T, B = 6, 2
    x, target = rng.normal(size=(T, B, 2)), rng.normal(size=(B, 1))
    recorder = Recorder()
    watch_every = monitor.Monitor(recorder, every=1)

    def loss(state, from_step):
        y, _, _ = network.forward(params, x[from_step:], state, tape=False)
        return float(np.mean((y - target) ** 2))

    network.fit(x, target, epochs=1, batch=B, params=params, shuffle=False, monitor=watch_every,
                dtype=np.float64)  # fmt: skip
    _, state, _ = network.forward(params, x[: T - 2], tape=False)  # two steps are left
    (name,) = state
    slopes = np.zeros_like(state[name])
    scale = loss(state, T - 2) / recorder.scalars["loss/training"][0]  # how the mean is defined
    for at in np.ndindex(*slopes.shape):
        moved = {d: {name: state[name].copy()} for d in (-1, 1)}
        for d, values in moved.items():
            values[name][at] += d * 1e-5
        slopes[at] = (loss(moved[1], T - 2) - loss(moved[-1], T - 2)) / 2e-5 / scale
    found = recorder.scalars["adjoint/gru1.h/2_back"][0]
    assert found == pytest.approx(np.linalg.norm(slopes), rel=1e-6)


@pytest.mark.parametrize("window", [None, (2, 4)])
def test_training_is_the_same_to_the_bit(window):
    network, data, recorder = _network(), _sequences(), Recorder()
    about = {"epochs": 2, "batch": 4, "window": window, **data}
    plain = network.fit(**about)
    seen = network.fit(**about, monitor=monitor.Monitor(recorder, every=2))
    for name in plain.latest:
        np.testing.assert_array_equal(seen.latest[name], plain.latest[name])
    losses = recorder.scalars["loss/training"]
    assert losses.keys() == set(range(0, plain.moments["updates"], 2))
    gradients = {tag for tag in recorder.scalars if tag.startswith("gradient/")}
    assert gradients == {f"gradient/{name}" for name in network.parameters}
    for what in ("saturated_low", "saturated_high"):
        gates = {tag for tag in recorder.scalars if tag.startswith(f"{what}/")}
        assert f"{what}/lstm1_backward.f" in gates and f"{what}/gru1.z" in gates
        assert len(gates) == 4 + 4 + 3


def test_fit_takes_a_monitor_and_no_writer():
    with pytest.raises(LstmgenError, match=r"not a Recorder\n  hint: monitor=Monitor\(writer"):
        _network().fit(**_sequences(), monitor=Recorder())


def test_the_gate_of_a_highway_is_seen():
    recorder = Recorder()
    network = Network([Layer("rnn", 3, skip="highway"), Readout(1)], inputs=3, loss="mean_squared")
    network.target = "numpy"
    x = np.ones((4, 2, 3))
    network.fit(x, np.ones((4, 2, 1)), epochs=1, monitor=monitor.Monitor(recorder))
    assert "gates/rnn1_highway.t" in recorder.bars


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_every_is_a_whole_number(every):
    with pytest.raises(LstmgenError, match="every is a positive whole number"):
        monitor.Monitor(Recorder(), every)


# --------------------------------------------------------------------------- files


def _events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    return events


def test_tensorboard_reads_what_is_written(tmp_path):
    need("tensorboard")
    problem = Problem("lstm", steps=7)
    _, statistics = problem.run()
    with monitor.open_writer(tmp_path) as writer:
        monitor.write(writer, statistics, 3, "first")
    events = _events(tmp_path)
    gate = statistics.gates["f"]
    (low,) = events.Scalars("saturated_low/first.f")
    assert low.step == 3 and low.value == pytest.approx(gate.low.mean())
    (high,) = events.Scalars("saturated_high/first.f")
    assert high.value == pytest.approx(gate.high.mean())
    (bars,) = (e.histogram_value for e in events.Histograms("gates/first.f"))
    counts, edges = gate.histogram()
    assert bars.bucket == counts.tolist() and bars.bucket_limit == pytest.approx(edges[1:])
    assert bars.num == gate.rows.size and bars.sum == pytest.approx(gate.rows.sum())
    (units,) = (e.histogram_value for e in events.Histograms("saturated_high_by_unit/first.f"))
    assert units.bucket == pytest.approx(gate.high)
    for k in (0, 1, 2, 5):
        (norm,) = events.Scalars(f"adjoint/first.c/{k}_back")
        assert norm.value == pytest.approx(statistics.adjoints["c"][k], rel=1e-6)
    (norms,) = (e.histogram_value for e in events.Histograms("adjoint_by_steps_back/first.c"))
    assert norms.bucket == pytest.approx(statistics.adjoints["c"])
    (gradient,) = events.Scalars("gradient/first.U_f")
    assert gradient.value == pytest.approx(statistics.gradients["U_f"], rel=1e-6)


def test_a_writer_that_cannot_do_it_is_refused():
    class Scalars:
        def add_scalar(self, *args):
            raise AssertionError

    with pytest.raises(TypeError, match="a Scalars has no add_histogram_raw"):
        monitor.Monitor(Scalars())


def test_without_tensorboard_there_is_a_hint(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(LstmgenError, match=r"pip install 'lstmgen\[tensorboard\]'"):
        monitor.open_writer(tmp_path)
