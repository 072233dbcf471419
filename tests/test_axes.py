"""Quantities with several axes: shapes, messages, and derivatives against dual numbers."""

import numpy as np
import pytest
from conftest import need
from dual_gradients import Problem
from interpreter import interpret
from several_axes import CELLS, FIXED, SIZES, U, W, h, x
from sympy import Eq, Integer, exp
from test_gradients import assert_gradients_equal, run

import lstmgen
from lstmgen import (
    Cell,
    CellError,
    GenerateError,
    Size,
    biases,
    chunk,
    concat,
    expand,
    flatten,
    inputs,
    matrix,
    mean,
    named,
    outer,
    repeat,
    split,
    states,
    sum_,
    tanh,
    vectors,
    weights,
)
from lstmgen.derivation.reverse import reverse
from lstmgen.language.shapes import Shapes
from lstmgen.language.symbols import Contract, Expand
from lstmgen.notation.reading import read_cell
from lstmgen.notation.writing import write_cell
from lstmgen.planning.operations import Fused
from lstmgen.planning.schedule import plan as make_plan
from lstmgen.printing.text import show
from lstmgen.targets.latex.target import emit
from lstmgen.verification.examination import Examination

# Both sides add a few dozen terms in double precision, in different orders.
ROUNDING = 1e-13

C, S = states("C", shape=("H", "K")), states("S", shape=("N", "P", "K"))
q, v, n = vectors("q", "K"), vectors("v"), states("n", shape=("N", "P"))
H, K, N, P = map(Size, "HKNP")


ALL = CELLS | FIXED


@pytest.mark.parametrize("name", ALL)
def test_derivation_agrees_with_dual_numbers(name):
    for once in (False, True):
        errors = Problem(ALL[name], SIZES).errors(interpret(ALL[name], once=once))
        assert max(errors.values()) < ROUNDING, errors


@pytest.mark.parametrize("name", ALL)
def test_numpy_agrees_with_dual_numbers(name):
    module = lstmgen.compile(ALL[name], "numpy")
    errors = Problem(ALL[name], SIZES, steps=5).errors(module)
    assert max(errors.values()) < ROUNDING, errors
    report = lstmgen.check(ALL[name], target="numpy")
    assert report.passed, str(report)


@pytest.mark.parametrize("name", ALL)
def test_c_agrees_with_dual_numbers(name):
    """With last axes of fewer units than a vec has, and of more that are no multiple of it."""
    module = lstmgen.compile(ALL[name], "c")
    for sizes in (SIZES, SIZES | {"H": 4, "K": 9, "P": 3}):
        errors = Problem(ALL[name], sizes, steps=5).errors(module)
        assert max(errors.values()) < ROUNDING, errors
    report = lstmgen.check(ALL[name], target="c")
    assert report.passed, str(report)


def test_repeat_is_shown_as_it_was_written():
    """Not as the views that it is made of, which a cell may also have by themselves."""
    x, h, u = inputs("x", size="N"), states("h", size="N*P"), vectors("u", "N")
    turned = flatten(expand(x, "P", "N"))
    cell = Cell("by_units", [Eq(u, tanh(x)), Eq(h.next, h * repeat(u, "P") + turned)], h)
    text = show(cell)
    assert "repeat(u, P)" in text and "flatten(expand(x))" in text
    assert r"\operatorname{repeat}_{P}\left(\mathbf{u}_t\right)" in emit(cell)
    assert "repeat(u, P)" in write_cell(cell)


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_autograd(name):
    need("torch")
    from witness import differentiate_case

    cell = ALL[name]
    case = Examination(cell, T=6, B=3, seed=1, seeds=1, kinks=False).witnesses[0].case
    y, _, gradients = run(cell, lstmgen.compile(cell, "numpy"), case)
    theirs = differentiate_case(cell, case)
    ys, want = ((a if isinstance(a, dict) else {"y": a}) for a in (y, theirs.y))
    for name, array in want.items():
        np.testing.assert_allclose(ys[name], array, rtol=1e-10, atol=1e-12)
    assert_gradients_equal(gradients, theirs.named(), 1e-10)


def test_a_long_sequence_in_blocks():
    """More rows than are worked on together: what is kept of a block goes on to the next."""
    cell = CELLS["delta_rule"]
    problem = Problem(cell, SIZES, steps=40, batch=16)
    module = lstmgen.compile(cell, "numpy")
    assert problem.steps * problem.batch > module.ROWS
    y, last, _ = module.forward(problem.all_params, problem.whole_x, problem.state, tape=False)
    again, final, _ = module.forward(problem.all_params, problem.whole_x, problem.state)
    assert (y == again).all() and (last["S"] == final["S"]).all()
    errors = problem.errors(module)
    assert max(errors.values()) < 10 * ROUNDING, errors


def test_tables_and_messages_of_a_module_with_several_axes():
    module = lstmgen.compile(CELLS["views"], "numpy")
    assert module.STATES == {"s": ("3*P",), "c": ("P",)}
    params = module.init(5, 2, dtype="float64")
    assert params["W_a"].shape == (6, 5) and params["W_z"].shape == (6, 7)
    y, _, _ = module.forward(params, [[[1.0] * 5]])
    assert y.shape == (1, 1, 6)
    with pytest.raises(ValueError, match=r"s.*has shape \(1, 5\); expected \(B=1, 3\*P=6\)"):
        module.forward(params, [[[1.0] * 5]], {"s": [[1.0] * 5], "c": [[1.0] * 2]})
    with pytest.raises(ValueError, match=r"W_z has shape \(6, 7\); expected \(3\*P=5"):
        module.forward({**params, "W_a": params["W_a"][:5]}, [[[1.0] * 5]])
    heads = lstmgen.compile(CELLS["heads"], "numpy")
    assert heads.STATES == {"n": ("N", "P")} and heads.PARAMETERS["R_z"] == ("N", "P", "P")


def test_a_matrix_made_of_parameters_is_made_once():
    text = "".join(lstmgen.generate(FIXED["antisymmetric"], "numpy").values())
    assert text.count("# S = U_h - ") == 1  # by whoever checks the parameters
    module = lstmgen.compile(FIXED["antisymmetric"], "numpy")
    params = module.init(3, 4, dtype="float64")
    packed = module.pack(params)
    assert (packed.fixed["S"] == params["U_h"] - params["U_h"].T).all()
    assert set(module.PARAMETERS) == {"W_h", "U_h", "b_h"}
    lines = [str(e) for e in lstmgen.derive(FIXED["antisymmetric"]).gradients]
    assert any("Gradient(U_h), Gradient(S) + (-Gradient(S)).T" in line for line in lines)


def test_a_matrix_of_parameters_does_not_move():
    with pytest.raises(CellError, match="h is different at every step"):
        Cell("mine", [Eq(matrix("S", "H", "H"), U.h * h), Eq(h.next, W.h @ x)], h)


def _square(**where: object) -> Cell:
    A, a, u = states("A", shape=("H", "H")), vectors("a"), inputs("u", size=1)
    lying = expand(a, "H", "H", **where)
    return Cell("square", [Eq(a, sum_(A, 0)), Eq(A.next, A / 2 + lying + expand(u, A))], A)


@pytest.mark.parametrize(
    ("where", "expected"),
    [({}, [[4, 4], [6, 6]]), ({"axis": 0}, [[4, 4], [6, 6]]), ({"axis": 1}, [[4, 6], [4, 6]])],
)
@pytest.mark.parametrize("target", ["numpy", "c"])
def test_a_vector_lies_along_the_axis_that_is_said(where, expected, target):
    """In a square there are two, and the text form has to say the same one."""
    need("cffi")
    cell = _square(**where)
    assert read_cell(write_cell(cell)).equations == cell.equations
    module = lstmgen.compile(cell, target, dtype="float64")
    state = np.array([[[1.0, 2], [3, 4]]])
    y, _, _ = module.forward(module.init(1, 2, dtype="float64"), np.zeros((1, 1, 1)), {"A": state})
    np.testing.assert_array_equal(y[0, 0] - state[0] / 2, expected)
    report = lstmgen.check(cell, target, module=module)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize(
    ("axis", "message"),
    [(2, "has 2 axes"), ("H", "place of an axis"), (True, "place of an axis"), ((), "place of"),
     ((0, 1), "does not lie along axis 0, 1"), ((1, 0), "does not lie along axis 1, 0")],
)  # fmt: skip
def test_where_no_axis_can_lie(axis, message):
    with pytest.raises((CellError, ValueError), match=message):
        _square(axis=axis)


def test_a_matrix_that_multiplies_along_the_last_axis_says_how_to_along_another():
    E, S_ = matrix("E", "N", "N"), states("S", shape=("N", "P"))
    with pytest.raises(CellError, match=r"write \(E @ S\.T\)\.T"):
        Cell("mine", [Eq(S_.next, E @ S_ + expand(x, "N", "D"))], S_)


@pytest.mark.parametrize(
    ("e", "shape"),
    [
        (C @ q, (H,)),
        (C.T @ v, (K,)),
        (named(C + outer(v, q)).T @ v, (K,)),
        (outer(v, q).T @ v, (K,)),
        (outer(v, q), (H, K)),
        (C @ outer(q, q), (H, K)),
        (S @ vectors("u", shape=("N", "K")), (N, P)),
        (outer(n, vectors("u", shape=("N", "K"))), (N, P, K)),
        ((matrix("E", "P", "H") @ C.T).T, (P, K)),
        ((weights("R", shape=("N", "P", "D")).i @ x).T, (P, N)),
        (sum_(C, "K"), (H,)),
        (mean(C, "H"), (K,)),
        (sum_(S, 1), (N, K)),
        (sum_(S, -1), (N, P)),
        (expand(v, C), (H, K)),
        (expand(q, "H", "K"), (H, K)),
        (expand(v, "H", "H", axis=1), (H, H)),
        (expand(n, "N", "P", "P", axis=(0, 2)), (N, P, P)),
        (expand(vectors("m", 1), "N", 4), (N, Integer(4))),
        (split(vectors("u", "H+K"), "H", "K")[1], (K,)),
        (split(vectors("u", "3*P"), 3)[0], (P,)),
        (flatten(n), (N * P,)),
        (chunk(vectors("u", "N*P"), "N", "P"), (N, P)),
        (repeat(vectors("u", "N"), "P"), (N * P,)),
        (concat(v, q, v), (2 * H + K,)),
        (weights("R", shape=("N", "K", "P")).i @ n, (N, K)),
        (weights("R", shape=("N", "P", "D")).i @ x, (N, P)),
        (weights("R", "K", "P").i @ n, (N, K)),
    ],
    ids=str,
)
def test_shapes(e, shape):
    assert Shapes([]).axes(e) == shape
    assert Shapes([]).axes(Shapes([]).explicit(e)) == shape


def test_open_sizes_are_solved_through_views():
    a, b, c = split(W.y @ x, 3)
    y = states("y")
    shapes = Shapes([Eq(y.next, a * b + y * c), Eq(h.next, U.k @ concat(y, x))])
    assert shapes.shape(W.y) == (3 * H, Size("D"))
    assert shapes.shape(U.k) == (H, H + Size("D"))


@pytest.mark.parametrize(
    ("rhs", "message", "hint"),
    [
        (lambda: C * v, "C gives shape (H, K), but v gives size H", "expand(v, "),
        (lambda: sum_(C) + v, "no axis is named", 'sum_(C, "K")'),
        (lambda: sum_(C, "J"), "sum(C, J): C has shape (H, K)", "it has no axis J"),
        (lambda: sum_(states("Q", shape=("H", "H")), "H"), "shape (H, H)", "twice"),
        (lambda: C @ v, "C has K columns, but v has size H", "another for v"),
        (lambda: outer(n, q) @ q, "has shape (N, P), but q has size K", "heads"),
        (lambda: split(h, 3)[0], "not 3 times another size", '"3*P"'),
        (lambda: split(h, "K", "P")[0], "its parts have K + P together", "add up"),
        (lambda: flatten(chunk(h, "N", "P")), "H units, not N*P", 'size="N*P"'),
        (lambda: expand(q, "H", "P"), "not among", "in their order"),
        (lambda: weights("R", shape=("N", "P", "K")).i @ n, "R_i has K columns", "another for n"),
        (
            lambda: weights("R", shape=("J", "K", "P")).i @ n,
            "has shape (J, K, P)",
            "a matrix a head",
        ),
    ],
)
def test_what_does_not_fit_is_said(rhs, message, hint):
    with pytest.raises(CellError) as caught:
        Shapes([Eq(h.next, rhs())])
    text = str(caught.value)
    assert text.startswith("equation 1, h.next = ")
    assert message in text and hint in text


def test_a_size_of_nothing_that_is_given():
    wide = sum_(expand(h, "H", "J"), "J")
    cell = Cell("mine", [Eq(h.next, tanh(wide + W.h @ x))], h)
    assert Size("J") in cell.sizes
    with pytest.raises(GenerateError, match="cannot know the size J: no parameter, input or state"):
        lstmgen.generate(cell, "numpy")
    module = lstmgen.compile(cell, "c", D=3, H=4, J=2)
    params = module.init(3, 4, dtype="float64")
    y, _, _ = module.forward(params, np.ones((1, 1, 3)), {"h": np.ones((1, 4))})
    np.testing.assert_allclose(y[0, 0], np.tanh(2 + params["W_h"].sum(1)))


def test_a_matrix_memory_is_not_scaled_by_accident():
    with pytest.raises(TypeError, match="v is a vector, not a matrix"):
        v @ q


def test_names_of_the_language_for_arrays_of_several_axes():
    cell = CELLS["matrix_memory"]
    assert {s.name: cell.shape(s) for s in cell.states}["C"] == (H, K)
    assert [str(s) for s in cell.sizes] == ["D", "H", "K"]
    assert tanh(exp(C)).has(C) and matrix("V", shape=("H", "K")).axes == ("H", "K")
    assert biases("b", shape=("N", "P")).i.axes == ("N", "P")
    assert inputs("u", shape=("N", "P")).axes == ("N", "P")


def test_what_is_not_learned_is_given_and_not_defined():
    R = matrix("R", "H", "H", learned=False)
    with pytest.raises(CellError, match=r"R is declared with learned=False"):
        Cell("mine", [Eq(R, U.h - U.h.T), Eq(h.next, tanh(R @ h + W.h @ x))], h)
    with pytest.raises(CellError, match="two different symbols are called R"):
        Cell("mine", [Eq(h.next, tanh(R @ h + matrix("R", "H", "H") @ h + W.h @ x))], h)


def test_a_tape_knows_what_was_learned():
    matrices = [matrix("R", "H", "H", learned=learned) for learned in (True, False)]
    cells = [Cell("mine", [Eq(h.next, tanh(R @ h + W.h @ x))], h) for R in matrices]
    ours, theirs = (lstmgen.compile(cell, "numpy") for cell in cells)
    params = ours.init(3, 4, dtype="float64")
    assert set(theirs.UNLEARNED) == {"R"} and set(theirs.LEARNED) == {"W_h"}
    y, _, tape = ours.forward(params, [[[1.0] * 3]])
    with pytest.raises(ValueError, match="tape"):
        theirs.backward(params, tape, y)


def test_a_vector_takes_in_the_factors_of_an_outer_product():
    """Other elementwise work of a step on a whole memory is what the equations ask for."""
    step = reverse(CELLS["factors_of_outer_products"], once=True).forward
    outers = [e for e in step if isinstance(e.rhs, Contract) and e.rhs.is_outer]
    assert len(outers) == 3
    (memory,) = (e for e in step if e.lhs.name == "S")
    assert not memory.rhs.has(Expand) and len(memory.rhs.args) == 3
    assert all(t.as_coeff_Mul()[1].is_Symbol for t in memory.rhs.args)


def test_a_step_goes_over_a_memory_once():
    """An outer product, and what is summed of the memory, are in the loop that makes it."""
    plan = make_plan(CELLS["matrix_memory"])
    wide = [
        loop
        for part in (plan.forward, plan.backward)
        for op in part.in_loops
        if isinstance(op, Fused)
        for loop in op.loops
        if loop.shape == (H, K)
    ]
    assert len(wide) == 2
    outers = [e.lhs for loop in wide for e in loop.equations
              if isinstance(e.rhs, Contract) and e.rhs.is_outer]  # fmt: skip
    assert outers and not any(v in plan.home for v in outers)
