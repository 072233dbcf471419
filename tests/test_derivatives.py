"""Beyond reverse mode: Jacobian- and Hessian-vector products, and learning online.

What is derived of a cell is a cell, so ``check`` holds its code against its equations like that of
any other. Here its meaning is held: against PyTorch's forward over reverse mode on transcriptions
of the papers, against differences of gradients, and against backpropagation through time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import several_axes
from click.testing import CliRunner
from conftest import need
from sympy import Eq
from test_zoo import by_kind, folded

from lstmgen import (
    Cell,
    CellError,
    GenerateError,
    LstmgenError,
    cells,
    check,
    compile,
    expand,
    inputs,
    matrix,
    mean,
    online,
    plan,
    read_cell,
    states,
    sum_,
    tangent,
    tanh,
    vector,
    vectors,
    weights,
    write_cell,
)
from lstmgen.cli import main
from lstmgen.language.dtypes import dtype
from lstmgen.language.matrices import Matrix
from lstmgen.language.symbols import Contract, Transpose
from lstmgen.runtime.loading import find_cell
from lstmgen.verification.cases import Maker, choose_sizes

Arrays = dict[str, np.ndarray]

# Of each family, those with the most to differentiate: kinks, normalisation, memories, parameters
# that are made of others, several states.
TRANSCRIBED = (
    "antisymmetric", "ligru", "lru", "mamba_like", "mgu", "mogrifier_lstm", "on_lstm",
    "phased_lstm", "rwkv7", "sru",
)  # fmt: skip
BY_DIFFERENCES = ("delta_net", "gru", "lstm_layernorm", "slstm")
IN_C = ("lru", "mgu", "sru")
# Of those that learn online, one of each kind: others are like them, and take as long together as
# all tests of a target.
ONLINE = (
    "antisymmetric", "brc", "cfc", "cornn", "delta_net", "fast_grnn", "gru", "gru_d", "indrnn",
    "lem", "lmu", "lru", "lstm", "mamba_like", "min_gru", "mlstm", "qrnn", "scrn", "sru",
    "tree_lstm",
)  # fmt: skip
HEADS = {"gla", "rwkv7", "slstm", "ttt_linear"}  # they multiply by a matrix for each head


def drawn(cell: Cell, T: int = 5, B: int = 2, scale: float = 1.0) -> Any:
    """Random parameters, inputs, states and cotangents of a cell."""
    sizes = choose_sizes(cell, None, {T, B})
    return Maker(cell, sizes, dtype("float64"), [0], scale).make("random", T, B)


def one(values: dict[str, Any]) -> Any:
    return values if len(values) > 1 else next(iter(values.values()))


def named(value: Any, cell: Cell) -> Arrays:
    return value if isinstance(value, dict) else {cell.output.name: value}


def dotted(values: Arrays) -> Arrays:
    return {f"{n}_dot": v for n, v in values.items()}


def changes(case: Any, seed: int = 1) -> dict[tuple[str, str], np.ndarray]:
    """A direction in which everything changes."""
    rng = np.random.default_rng(seed)
    return {e: rng.standard_normal(np.shape(a)) for e, a in case.values.items()}


def hessian_product(
    cell: Cell, target: str, case: Any, direction: dict[tuple[str, str], np.ndarray]
) -> tuple[Arrays, dict[tuple[str, str], np.ndarray]]:
    """J v of the outputs, and H v of the loss ½ Σ w y² + Σ u s, s the final states."""
    derived = tangent(cell)
    module = compile(derived, target, dtype="float64")
    (p, x, s), (dp, dx, ds) = by_kind(case.values), by_kind(direction)
    mine = {q.name for q in derived.parameters}
    moving = {v.name for v in derived.states}
    masks = {n: v for n, v in case.given.items() if n in {m.name for m in derived.masks}}
    masks |= {n: v for n, v in dotted(dx).items() if n in {m.name for m in derived.masks}}
    constants = {k.name: case.given[k.name] for k in cell.constants}
    params = {**{n: v for n, v in (p | dotted(dp)).items() if n in mine}, **constants}
    y, final, tape = module.forward(
        params, one(x), {n: v for n, v in (s | dotted(ds)).items() if n in moving},
        **({"masks": masks} if masks else {}),
    )  # fmt: skip
    y = named(y, derived)
    back = {}
    for n, w in case.dy.items():
        back[f"{n}_dot"], back[n] = w * y[n], w * y[f"{n}_dot"]
    zeros = {n: np.zeros_like(v) for n, v in final.items()}
    dstate = zeros | {n: v for n, v in dotted(case.dstate).items() if n in moving}
    grads, x_grads, s_grads = module.backward(params, tape, back, dstate)
    found = {("parameter", n): v for n, v in grads.items()}
    found |= {("input", n): v for n, v in named_inputs(x_grads, cell).items()}
    found |= {("state", n): v for n, v in s_grads.items() if not n.endswith("_dot")}
    return {n: v for n, v in y.items() if n.endswith("_dot")}, found


def named_inputs(value: Any, cell: Cell) -> Arrays:
    return value if isinstance(value, dict) else {cell.inputs[0].name: value}


def by_torch_func(
    cell: Cell, case: Any, direction: dict[tuple[str, str], np.ndarray]
) -> tuple[Arrays, dict[tuple[str, str], np.ndarray]]:
    """The same by PyTorch: forward mode over reverse mode, on the transcription of the paper."""
    import papers
    import torch

    forward = folded(cell, papers.known()[cell.name].step)
    given = {
        n: torch.tensor(v) if isinstance(v, np.ndarray) else float(v) for n, v in case.given.items()
    }
    values = {e: torch.tensor(a) for e, a in case.values.items()}
    learned = {q.name for q in cell.learned}
    moves = {
        e: torch.tensor(a if e[0] != "parameter" or e[1] in learned else 0 * a)
        for e, a in direction.items()
    }

    def outputs(leaves: Any) -> Any:
        y, final = forward(*by_kind(leaves), given)
        return {n: torch.stack(found) for n, found in y.items()}, final

    def loss(leaves: Any) -> Any:
        y, final = outputs(leaves)
        whole = sum((0.5 * torch.tensor(case.dy[n]) * a**2).sum() for n, a in y.items())
        return whole + sum((torch.tensor(d) * final[n]).sum() for n, d in case.dstate.items())

    _, (moved, _) = torch.func.jvp(outputs, (values,), (moves,))
    _, products = torch.func.jvp(torch.func.grad(loss), (values,), (moves,))
    return (
        {f"{n}_dot": a.numpy() for n, a in moved.items()},
        {e: a.numpy() for e, a in products.items()},
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # its own
@pytest.mark.parametrize(
    ("name", "target"),
    [*((name, "numpy") for name in TRANSCRIBED), *((name, "c") for name in IN_C)],
)
def test_products_are_those_of_pytorch(name: str, target: str) -> None:
    need("torch")
    cell, case = cells.get(name), drawn(cells.get(name))
    direction = changes(case)
    moved, products = hessian_product(cell, target, case, direction)
    expected_moved, expected = by_torch_func(cell, case, direction)
    for n, value in moved.items():
        np.testing.assert_allclose(value, expected_moved[n], rtol=1e-9, atol=1e-10)
    assert {("parameter", p.name) for p in cell.learned} <= products.keys()
    for e, value in products.items():
        scale = np.abs(expected[e]).max(initial=1e-3)
        assert np.abs(value - expected[e]).max(initial=0) < 1e-9 * scale, e


ONCE = several_axes.once_for_a_sequence()  # of what is made of parameters alone


@pytest.mark.parametrize("name", [*BY_DIFFERENCES, *ONCE])
def test_hessian_products_are_differences_of_gradients(name: str) -> None:
    cell = ONCE.get(name) or cells.get(name)
    case = drawn(cell, T=4, scale=0.4)  # gentle, so that differences have their order
    direction = changes(case)
    _, products = hessian_product(cell, "numpy", case, direction)
    module, constants = compile(cell, "numpy"), {k.name: case.given[k.name] for k in cell.constants}

    def gradients(step: float) -> dict[tuple[str, str], np.ndarray]:
        p, x, s = by_kind({e: a + step * direction[e] for e, a in case.values.items()})
        y, _, tape = module.forward(p | constants, one(x), s)
        y = named(y, cell)
        dy = {n: w * y[n] for n, w in case.dy.items()}
        grads, x_grads, s_grads = module.backward(p | constants, tape, one(dy), case.dstate)
        found = {("parameter", n): v for n, v in grads.items()}
        found |= {("input", n): v for n, v in named_inputs(x_grads, cell).items()}
        return found | {("state", n): v for n, v in s_grads.items()}

    # of fourth order: its error is of h⁴, and that of rounding ε / h
    h = 1e-4
    far, near = (gradients(2 * h), gradients(-2 * h)), (gradients(h), gradients(-h))
    for e, value in products.items():
        expected = (8 * (near[0][e] - near[1][e]) - (far[0][e] - far[1][e])) / (12 * h)
        scale = np.abs(expected).max(initial=1e-2)
        assert np.abs(value - expected).max(initial=0) < 1e-7 * scale, e


@pytest.mark.parametrize(
    "name", ["delta_net", "gru_reset_before", "lmu", "lru", "lstm", "mlstm", "rnn"]
)
def test_tangents_are_checked_like_any_cell(name: str) -> None:
    report = check(tangent(cells.get(name)), seeds=1)
    assert report.passed, str(report)


@pytest.mark.parametrize("name", ["gru_reset_before", "mgu"])
def test_tangents_are_checked_in_c(name: str) -> None:
    need("cffi")
    need("cc")
    report = check(tangent(cells.get(name), inputs=False), target="c", seeds=1)
    assert report.passed, str(report)


def test_parameters_start_as_those_of_the_cell() -> None:
    for derived in (tangent(cells.get("lstm")), online(cells.get("lstm"))):
        starts = {p.name: derived.initial(p) for p in derived.parameters}
        assert starts["b_f"] == 1
        assert derived.roles["f"] == "forget gate"
        assert starts.get("b_f_dot", 0) == 0


def test_a_tangent_without_inputs_needs_none() -> None:
    derived = tangent(cells.get("lstm"), inputs=False)
    assert not derived.masks
    assert {m.name for m in tangent(cells.get("lstm")).masks} == {"x_dot"}


@pytest.mark.parametrize("name", ["gru", "lstm", "mgu", "rnn"])
def test_a_hessian_product_costs_no_more_than_two_and_a_half_gradients(name: str) -> None:
    """By the plans' count of operations, in products, where the time goes."""
    sizes = {"T": 1, "B": 1, "D": 512, "H": 512}

    def count(cell: Cell) -> float:
        flops = plan(cell).flops
        return float(flops.subs({n: sizes[n.name] for n in flops.free_symbols}))

    gradient = count(cells.get(name))
    assert count(tangent(cells.get(name), inputs=False)) < 2.2 * gradient
    assert count(tangent(cells.get(name))) < 2.51 * gradient


# --------------------------------------------------------------------------- learning online


def gradients_both_ways(cell: Cell, target: str, case: Any) -> tuple[Arrays, Arrays]:
    """By backpropagation through time, and by the states of the cell that learns online."""
    derived = online(cell)
    module, learner = (compile(c, target, dtype="float64") for c in (cell, derived))
    p, x, s = by_kind(case.values)
    p = p | {k.name: case.given[k.name] for k in cell.constants}
    masks = {m.name: case.given[m.name] for m in cell.masks}
    y, _, tape = module.forward(p, one(x), s, **({"masks": masks} if masks else {}))
    cotangents = case.dy if isinstance(y, dict) else one(case.dy)
    expected, _, _ = module.backward(p, tape, cotangents)
    bars = {f"{n}_bar": v for n, v in case.dy.items()}
    masks = {m.name: (masks | bars)[m.name] for m in derived.masks}
    known = {q.name for q in (*derived.parameters, *derived.constants)}
    start = {
        n: s.get(n, np.zeros((case.batch, *shape))) for n, shape in shapes(derived, case).items()
    }
    _, final, tape = learner.forward(
        {n: v for n, v in p.items() if n in known}, one(x), start, tape=False,
        **({"masks": masks} if masks else {}),
    )  # fmt: skip
    assert tape is None
    return expected, {
        n: final[f"{n}_grad"].sum(axis=0) if f"{n}_grad" in final else np.zeros_like(v)
        for n, v in expected.items()
    }


def shapes(cell: Cell, case: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every state, by the sizes of a case."""
    sizes: dict[Any, int] = {}
    arrays = {**{n: (a, 0) for (kind, n), a in case.values.items() if kind == "parameter"}}
    arrays |= {n: (a, 1) for (kind, n), a in case.values.items() if kind == "state"}
    arrays |= {n: (a, 2) for (kind, n), a in case.values.items() if kind == "input"}
    arrays |= {f"{n}_bar": (a, 2) for n, a in case.dy.items()}
    for v in (*cell.parameters, *cell.states, *cell.inputs, *cell.masks):
        if v.name in arrays:
            array, lead = arrays[v.name]
            sizes |= dict(zip(cell.shape(v), np.shape(array)[lead:], strict=True))
    return {
        s.name: tuple(int(axis.subs(sizes)) for axis in cell.shape(s)) for s in cell.states
    }  # fmt: skip


@pytest.mark.parametrize("name", ONLINE)
def test_learning_online_is_backpropagation_through_time(name: str) -> None:
    expected, found = gradients_both_ways(cells.get(name), "numpy", drawn(cells.get(name)))
    for n, value in expected.items():
        scale = np.abs(value).max(initial=1e-6)
        assert np.abs(found[n] - value).max(initial=0) < 1e-10 * scale, n


@pytest.mark.parametrize("name", ["lru", "mgu", "rnn"])
def test_learning_online_in_c(name: str) -> None:
    need("cffi")
    need("cc")
    expected, found = gradients_both_ways(cells.get(name), "c", drawn(cells.get(name)))
    for n, value in expected.items():
        assert np.abs(found[n] - value).max() < 1e-10 * np.abs(value).max(), n


@pytest.mark.parametrize("name", ["mamba_like", "rnn", "sru"])
def test_cells_that_learn_online_are_checked_like_any_cell(name: str) -> None:
    report = check(online(cells.get(name)), seeds=1)
    assert report.passed, str(report)


def test_a_parameter_of_which_a_step_says_only_a_part() -> None:
    """One sum over an axis has what the output reads now, and what it reads a step later."""
    x, h, s = inputs("x"), states("h"), states("s", shape=("N", "H"))
    v, g, W = vectors("v", shape=("N", "H")), vector("g", "H"), weights("W")
    G = weights("G", shape=("N", "H", "D"))
    equations = [
        Eq(v, tanh(G.v @ x) * expand(g, "N", "H")),
        Eq(s.next, tanh(s + expand(g, "N", "H")) + G.s @ x),
        Eq(h.next, tanh(W.h @ x) + mean(v * s, "N")),
    ]
    cell = Cell("later", equations, h)
    expected, found = gradients_both_ways(cell, "numpy", drawn(cell))
    for n, value in expected.items():
        assert np.abs(found[n] - value).max() < 1e-10 * np.abs(value).max(), n


def test_learning_step_by_step() -> None:
    """What a user does with a stream: an output, its error, then a step that learns."""
    cell, case = cells.get("mgu"), drawn(cells.get("mgu"))
    module, learner = compile(cell, "numpy"), compile(online(cell), "numpy")
    p, x, _ = by_kind(case.values)
    state: dict[str, Any] | None = None
    for t in range(case.steps):
        before = state and {"h": state["h"]}
        y = module.step(p, x["x"][t], before)["h"]
        state = learner.step(p, x["x"][t], state, {"h_bar": y - case.dy["h"][t]})
    y, _, tape = module.forward(p, x["x"])
    expected, _, _ = module.backward(p, tape, y - case.dy["h"])
    assert state is not None
    for n, value in expected.items():
        np.testing.assert_allclose(state[f"{n}_grad"].sum(axis=0), value, rtol=1e-10, atol=1e-12)


def test_influences_are_no_larger_than_parameters_where_the_jacobian_is_diagonal() -> None:
    diagonal, dense = online(cells.get("sru")), online(cells.get("rnn"))
    by_name = {s.name: diagonal.shape(s) for s in diagonal.states}
    assert tuple(map(str, by_name["c_by_W_f"])) == ("H", "D")
    by_name = {s.name: dense.shape(s) for s in dense.states}
    assert tuple(map(str, by_name["h_by_W_h"])) == ("H", "D", "H")


@pytest.mark.parametrize("name", ["sru", "lru", "indrnn", "min_gru", "qrnn"])
def test_influences_have_the_axes_of_their_matrix_in_its_order(name: str) -> None:
    learner = online(cells.get(name))
    assert not any(e.rhs.has(Transpose) for e in learner.equations)
    shapes = {s.name: learner.shape(s) for s in learner.states}
    for p in cells.get(name).parameters:
        of_matrix = [n for n in shapes if n.endswith(f"_by_{p.name}") and isinstance(p, Matrix)]
        assert all(shapes[n] == shapes[f"{p.name}_grad"] for n in of_matrix), p.name


@pytest.mark.parametrize("name", sorted(HEADS))
def test_matrices_of_heads_are_refused(name: str) -> None:
    with pytest.raises(CellError, match="each of its heads"):
        online(cells.get(name))


def test_derived_cells_are_text_where_the_notation_has_their_products() -> None:
    need("lark")
    for derived in (tangent(cells.get("mlstm")), online(cells.get("sru"))):
        assert read_cell(write_cell(derived)).equations == derived.equations
    with pytest.raises(GenerateError, match=r"cannot write rcumsum\(.*\) as text"):
        write_cell(online(cells.get("on_lstm")))
    with pytest.raises(GenerateError, match=r"cannot write expand\(.*axis=\(0, 2\)\) as text"):
        write_cell(online(cells.get("rnn")))
    C = states("C", shape=("H", "H"))
    turned = Eq(C.next, Contract(C, C, "ij,jk->ki") + expand(inputs("x", size=1), C))
    with pytest.raises(GenerateError, match="cannot write C @ C as text"):
        write_cell(Cell("turned", [turned], C))


def test_matrices_made_entry_by_entry_are_refused() -> None:
    with pytest.raises(CellError, match="learn online"):
        online(several_axes.made_of_parameters()["low_rank"])


# --------------------------------------------------------------------------- what came to light


def turned(spec: str, shape: tuple[str, ...], size: str) -> Cell:
    x, C, y = inputs("x"), states("C", shape=shape), vectors("y", shape=tuple("NH"))
    v, W = vectors("v", size=size), weights("W")
    equations = [
        Eq(v, W.v @ x),
        Eq(C.next, 0.5 * C + 1),
        Eq(y, Contract(C, v, spec)),
    ]
    return Cell("turned", equations, y)


@pytest.mark.parametrize(
    ("spec", "shape", "size"),
    [("ijk,k->ij", ("N", "H", "K"), "K"), ("jik,k->ij", ("H", "N", "K"), "K"),
     ("jki,k->ij", ("H", "K", "N"), "K")],
)  # fmt: skip
def test_contractions_in_any_order_of_axes_in_numpy(
    spec: str, shape: tuple[str, ...], size: str
) -> None:
    """What no matrix product does in place came out with its axes exchanged."""
    report = check(turned(spec, shape, size), seeds=1)
    assert report.passed, str(report)


def test_a_number_is_the_place_of_an_axis_whatever_sizes_there_are() -> None:
    C, y = states("C", shape=(2, "H", "K")), vectors("y", shape=(2, "H"))
    x, W = inputs("x"), weights("W", shape=(2, "H", "K", "D"))
    cell = Cell("places", [Eq(C.next, tanh(W.a @ x) + C), Eq(y, sum_(C.next, "K"))], y)
    assert tuple(map(str, cell.shape(y))) == ("2", "H")
    report = check(cell, seeds=1)
    assert report.passed, str(report)


def test_the_change_of_a_mean_of_what_is_repeated() -> None:
    """One number for all units, which is repeated without being written so."""
    x, h, s, W = inputs("x"), states("h"), states("s", 1), weights("W")
    repeated = mean(expand(s**2, "H"))
    cell = Cell("repeated", [Eq(h.next, tanh(W.h @ x) + repeated), Eq(s.next, mean(h.next))], h)
    report = check(cell, seeds=1)
    assert report.passed, str(report)


def test_a_stack_and_a_made_matrix_have_names_of_their_own() -> None:
    """A stack of S and S_dot was called S, as S alone is."""
    x, h, (u, v) = inputs("x"), states("h"), vectors("u v")
    U, W, (S, S_dot) = weights("U", "H", "H"), weights("W"), matrix("S S_dot", "H", "H")
    equations = [
        Eq(S, U.h - U.h.T),
        Eq(S_dot, U.u - U.u.T),
        Eq(u, tanh(S @ h)),
        Eq(v, tanh(S_dot @ h)),
        Eq(h.next, tanh(W.h @ x + S @ (u * v))),
    ]
    report = check(Cell("names", equations, h), seeds=1)
    assert report.passed, str(report)


# --------------------------------------------------------------------------- the command line


def test_derived_cells_have_names() -> None:
    assert find_cell("lstm:tangent").name == "lstm_tangent"
    assert find_cell("lstm:online").name == "lstm_online"
    with pytest.raises(LstmgenError, match='did you mean "tangent"'):
        find_cell("lstm:tangnt")


def test_the_command_line_takes_them(tmp_path: Any) -> None:
    run: Callable[..., Any] = CliRunner().invoke
    made = run(main, ["codegen", "mgu:tangent", "--target", "c", "--out", str(tmp_path)])
    assert made.exit_code == 0, made.output
    header = (tmp_path / "mgu_tangent.h").read_text(encoding="utf-8")
    assert "lstmgen codegen mgu:tangent --target c" in header
    assert "h_by_W_f" in run(main, ["show", "mgu:online"]).output
