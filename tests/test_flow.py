"""The state Jacobian: as equations, in its structure, and in what it does over time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import need
from several_axes import CELLS as SEVERAL_AXES
from sympy import Eq, Max, sin

from lstmgen import (
    Cell,
    LstmgenError,
    cells,
    compile,
    flow,
    inputs,
    plan,
    states,
    tanh,
    vector,
    vectors,
)
from lstmgen.analysis.flow import _arrays, _jacobians, _sizes
from lstmgen.cli import main
from lstmgen.derivation.forward import forward, tangent
from lstmgen.derivation.jacobian import state_jacobian
from lstmgen.language.matrices import Matrix
from lstmgen.printing.jacobian import recurrences
from lstmgen.verification.arithmetic import value_of
from lstmgen.verification.evaluation import Walk, number, widened

WITH_STATES = [name for name in cells.names() if cells.get(name).states]
SMALL = {"D": 3, "H": 4}
x, h, c = inputs("x", size="H"), states("h"), states("c")


def start(cell: Cell, T: int = 3):
    """Sizes, and all that a short sequence takes."""
    sizes = _sizes(cell, None, {n.name: SMALL.get(n.name, 2) for n in cell.sizes})
    values, given = _arrays(cell, None, None, sizes, T, seed=3)
    rng = np.random.default_rng(5)
    for (kind, name), a in values.items():
        if kind == "state":  # not 0, where slopes are
            values[kind, name] = rng.uniform(0.3, 0.9, a.shape)
    return sizes, values, given


@pytest.mark.parametrize("name", WITH_STATES)
def test_jacobians_equal_differences_of_steps(name: str) -> None:
    """Of the generated module, for all states side by side."""
    cell = cells.get(name)
    sizes, values, given = start(cell)
    (first, *_) = _jacobians(cell, values, given, sizes)
    module = compile(cell, "numpy")
    params = {p.name: values["parameter", p.name][0, 0] for p in cell.parameters}
    params |= {k.name: float(given[k.name].item()) for k in cell.constants}
    xs = {v.name: values["input", v.name][0, 0] for v in cell.inputs}
    x_t = xs if len(xs) > 1 else next(iter(xs.values()))
    more = {"masks": {m.name: given[m.name][0, 0] for m in cell.masks}} if cell.masks else {}
    flat = np.concatenate([values["state", s.name].ravel() for s in cell.states])

    def after(moved):
        at, state = 0, {}
        for s in cell.states:
            shape = values["state", s.name].shape[1:]
            size = int(np.prod(shape))
            state[s.name] = moved[at : at + size].reshape(shape)
            at += size
        new = module.step(params, x_t, state, **more)
        return np.concatenate([new[s.name].ravel() for s in cell.states])

    eps = 1e-6
    for k, unit in enumerate(np.eye(len(flat))):
        slope = (after(flat + eps * unit) - after(flat - eps * unit)) / (2 * eps)
        np.testing.assert_allclose(first[:, k], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "cell",
    [*map(cells.get, WITH_STATES), *(made for made in SEVERAL_AXES.values() if made.states)],
    ids=lambda made: made.name,
)
def test_equations_are_the_jacobian(cell: Cell) -> None:
    """Those that are shown, evaluated for each unit of each state."""
    sizes, values, given = start(cell, T=1)
    (wanted,) = _jacobians(cell, values, given, sizes)
    jacobian = state_jacobian(cell)
    memo = {p: values["parameter", p.name] for p in cell.parameters}
    memo |= {cell.shapes.quantity(p): memo[p] for p in cell.parameters if isinstance(p, Matrix)}
    memo |= {v: values["input", v.name][0] for v in cell.inputs}
    memo |= {s: values["state", s.name] for s in cell.states}
    memo |= {k: given[k.name] for k in cell.constants}
    memo |= {m: given[m.name][0] for m in cell.masks}

    def evaluate(equations) -> None:
        walk = Walk(memo, 0, None, {}, None, sizes)
        for e in equations:
            shape = tuple(number(n, sizes) for n in cell.shape(e.lhs))
            memo[e.lhs] = value_of(widened(walk(e.rhs), shape))

    with np.errstate(all="ignore"):
        tangents = forward(cell.equations, cell.shapes, kept=cell.outputs)
        matrices = [s for s in tangents.symbols if isinstance(s, Matrix)]
        for e in tangents.forward:
            evaluate([e])
            memo |= {m: memo[e.lhs] for m in matrices if m.name == e.lhs.name}
    column = 0
    for s in cell.states:
        for unit in np.ndindex(values["state", s.name].shape[2:]):
            for other in cell.states:
                memo[tangent(other)] = np.zeros_like(values["state", other.name])
            memo[tangent(s)][(0, 0, *unit)] = 1
            evaluate(jacobian.lines)
            made = {e.lhs for e in jacobian.lines}
            got = np.concatenate(
                [
                    np.ravel(memo[tangent(o).at(0)])
                    if tangent(o).at(0) in made
                    else np.zeros(values["state", o.name].size)
                    for o in cell.states
                ]
            )
            np.testing.assert_allclose(got, wanted[:, column], rtol=1e-10, atol=1e-13)
            column += 1


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("rnn", {"h": "dense"}),
        ("lstm", {"h c": "dense"}),
        ("slstm", {"h m c n": "within heads"}),
        ("indrnn", {"h": "elementwise"}),
        ("sru", {"c": "elementwise"}),
        ("brc", {"h": "elementwise"}),
        ("min_gru", {"h": "elementwise linear"}),
        ("lru", {"h_re h_im": "elementwise linear"}),
        ("mamba_like", {"h": "elementwise linear"}),
        ("gla", {"S": "elementwise linear"}),
        ("delta_net", {"S": "within heads linear"}),
        ("mlstm", {"m": "elementwise", "C": "elementwise linear", "n": "elementwise linear"}),
        ("qrnn", {"c": "elementwise linear", "x_before": "delay"}),
        ("scrn", {"s": "elementwise linear", "h": "dense"}),
    ],
)
def test_structure(name: str, wanted: dict[str, str]) -> None:
    found = {}
    for r in state_jacobian(cells.get(name)).recurrences:
        what = f"{r.mixing}{' linear' * r.is_linear}" if r.is_loop else "delay"
        found[" ".join(s.name for s in r.states)] = what
    assert found == wanted


def test_blocks_of_coupled_states() -> None:
    (r,) = state_jacobian(cells.get("lru")).recurrences
    names = [[str(entry) for entry in row] for row in r.block.tolist()]
    assert names == [["a", "-b"], ["b", "a"]]
    text = "\n".join(recurrences(state_jacobian(cells.get("sru"))))
    assert "∂c′/∂c = f (1 + v_f (1 - f) (c - n))" in text


def test_a_state_in_a_maximum_is_not_linear() -> None:
    cell = Cell("kept", [Eq(h.next, Max(h, x)), Eq(c.next, c / 2 + h.next)], c)
    found = {r.states[0].name: r.is_linear for r in state_jacobian(cell).recurrences}
    assert found == {"h": False, "c": True}


def test_a_known_decay() -> None:
    """Of a linear diagonal recurrence: norms are powers, exponents logarithms."""
    a = vector("a")
    cell = Cell("decay", [Eq(h.next, a * h + x)], h)
    rates = np.array([0.9, -0.5, 0.25])
    made = flow(cell, {"a": rates}, np.zeros((40, 3)))
    np.testing.assert_allclose(made.norms["h"], 0.9 ** np.arange(1, 41), rtol=1e-12)
    np.testing.assert_allclose(made.exponents, np.log([0.9, 0.5, 0.25]), rtol=1e-12)
    np.testing.assert_allclose(made.singular_values, [0.9, 0.5, 0.25], rtol=1e-12)
    assert made.steps == 40
    assert made.sizes == {"H": 3}


def test_the_lstm_remembers_and_the_plain_network_does_not() -> None:
    lstm, rnn = flow(cells.get("lstm"), T=50), flow(cells.get("rnn"), T=50)
    assert lstm.norms["c"][-1] > 1e3 * rnn.norms["h"][-1]
    assert lstm.exponents[0] > rnn.exponents[0]


def test_the_command(tmp_path) -> None:
    need("matplotlib")
    path = tmp_path / "flow.svg"
    command = ["flow", "lru", "--steps", "30", "--size", "H=6", "--plot", str(path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "h_re h_im    elementwise: the 2 states of each unit by" in done.output
    assert "T=30 D=8 H=6" in done.output
    assert re.search(r"^by h_re +0\.9\d", done.output, re.MULTILINE)
    assert "<svg" in path.read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["flow.svg"]


def test_a_figure_that_fails_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    need("matplotlib")
    from matplotlib.figure import Figure

    path = tmp_path / "flow.svg"
    path.write_text("of before", encoding="utf-8")

    def broken(self, file, **more):
        Path(file).write_text("half") if isinstance(file, Path) else file.write(b"half")
        raise ValueError("no more")

    monkeypatch.setattr(Figure, "savefig", broken)
    done = CliRunner().invoke(main, ["flow", "lru", "--steps", "3", "--plot", str(path)])
    assert done.exit_code == 1 and "no more" in done.output
    assert path.read_text("utf-8") == "of before"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tree_lstm"], "tree_lstm has no state"),
        (["lstm", "--size", "Q=3"], "lstm has no size Q"),
        (["lstm", "--size", "H=2000"], "2048 are the most"),
        (["lstm", "--size", "H=512", "--steps", "1000"], "268,435,456 are the most"),
        (["lstm", "--plot", "no/such/folder/x.svg"], "no/such/folder/x.svg"),
        (["lstm", "--plot", "x.nonsense"], "x.nonsense"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message) -> None:
    need("matplotlib")
    done = CliRunner().invoke(main, ["flow", *arguments])
    assert done.exit_code == 1
    assert message in done.output


def test_arrays_that_do_not_fit_are_refused() -> None:
    cell = cells.get("lru")
    with pytest.raises(LstmgenError, match="params has no B_re"):
        flow(cell, {})
    params = compile(cell, "numpy").init(3, 4, dtype=np.float64)
    with pytest.raises(LstmgenError, match=r"x has the shape \(9, 2\), not \(9, 3\)"):
        flow(cell, params, np.ones((9, 2)))
    with pytest.raises(LstmgenError, match="x is not finite"):
        flow(cell, params, np.full((9, 3), np.nan))


def diamonds(stages: int) -> Cell:
    """An elementwise cell in which each stage reads the one before twice."""
    names = [vectors(f"a_{k} b_{k} v_{k}") for k in range(stages)]
    equations, last = [], h + x
    for a, b, v in names:
        equations += [Eq(a, tanh(last)), Eq(b, sin(last)), Eq(v, a * b)]
        last = v
    return Cell("diamonds", [*equations, Eq(h.next, last)], h)


def test_a_block_that_doubles_with_each_line_is_not_written_out() -> None:
    short, long = (state_jacobian(diamonds(stages)) for stages in (2, 40))
    assert short.recurrences[0].block is not None
    assert long.recurrences[0].mixing == "elementwise" and long.recurrences[0].block is None
    assert "    its Jacobian is too long to write out" in "\n".join(recurrences(long))


@pytest.mark.parametrize("name", WITH_STATES)
def test_plan_and_flow_say_the_same_of_recurrences(name: str) -> None:
    lines = recurrences(state_jacobian(cells.get(name)))
    shown = str(plan(cells.get(name))).splitlines()
    at = next(k for k, line in enumerate(shown) if line.startswith("recurrence "))
    assert [line[11:] for line in shown[at : at + len(lines)]] == lines
    assert shown[at + len(lines)] == ""
    done = CliRunner().invoke(main, ["flow", name, "--steps", "1"])
    assert "\n".join(["", *lines, ""]) in done.output
    assert max(map(len, lines)) <= 100


def test_many_states_leave_room_for_what_is_said_of_them() -> None:
    several = states(" ".join(f"state_{k}" for k in range(6)))
    steps = [Eq(s.next, tanh(x + sum(several))) for s in several]
    names, first, *_ = recurrences(state_jacobian(Cell("many", steps, several[0])))
    assert names == " ".join(s.name for s in several)
    assert first.strip() == "elementwise: the 6 states of each unit by themselves, not linear"
