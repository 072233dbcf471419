"""Transcripts for PyTorch and JAX of cells with several axes, several outputs and fixed parameters.

They are held against our NumPy modules in float64, which other tests hold against the equations.
"""

import numpy as np
import pytest
import several_axes
import test_outputs
from conftest import need
from several_axes import U, W, b, h, x
from sympy import Abs, Eq, Max, Min, Piecewise, exp

from lstmgen import (
    Cell,
    Size,
    biases,
    cells,
    chunk,
    concat,
    constants,
    cumsum,
    expand,
    flatten,
    masks,
    matrix,
    max_,
    mean,
    outer,
    sigmoid,
    softmax,
    split,
    states,
    stop_gradient,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.benchmark.contenders import JaxScan, TorchLoop
from lstmgen.benchmark.problem import STEP, TRAINING, Problem
from lstmgen.language.symbols import rcumsum
from lstmgen.transcripts.dialects import Jax, Torch
from lstmgen.transcripts.transcript import transcribe

# The same sums in another order; values are of the order of 1.
ROUNDING = 1e-10

SIZES = {"T": 4, "B": 3, "A": 2, "D": 6, "H": 5, "K": 4, "N": 3, "P": 2}

n, z = states("n", shape=("N", "P")), vectors("z", shape=("N", "P"))
S, (q, k), v, y = states("S", shape=("H", "K")), vectors("q k", "K"), vectors("v"), vectors("y")


def two_axes_of_heads() -> Cell:
    a, u = states("a", shape=("A", "N", "P")), vectors("u", shape=("A", "N", "P"))
    t = vectors("t", shape=("A", "N", "K"))
    R, V = matrix("R", shape=("A", "N", "P", "P")), matrix("V", shape=("A", "N", "K", "P"))
    C, L = matrix("C", shape=("A", "N", "K", "D")), matrix("L", "P", "P")
    equations = [
        Eq(t, tanh(C @ x + V @ a)),
        Eq(u, tanh(R @ a + V.T @ t + L @ a + vector("s", shape=("A", "N", "P")))),
        Eq(a.next, 0.5 * a + u),
    ]
    return Cell("two_axes_of_heads", equations, a)


def used_twice() -> Cell:
    """Matrices of heads, before the loop and in it, each in more than one product."""
    V, X = matrix("V", shape=("N", "P", "H")), matrix("X", shape=("N", "P", "D"))
    R, Q = matrix("R", shape=("N", "P", "P")), weights("Q", shape=("N", "P", "P"))
    Y = matrix("Y", shape=("N", "P", "H"))
    u, t = vectors("u t", shape=("N", "P"))
    equations = [
        Eq(u, X @ x + biases("c", shape=("N", "P")).u),
        Eq(t, tanh(Q.t @ u) + Q.s @ u),
        Eq(z, tanh(V @ h + R @ n + t)),
        Eq(n.next, tanh(V @ (h * h) - R.T @ z)),
        Eq(h.next, tanh(W.h @ x + mean(Y.T @ n.next, "N"))),
    ]
    return Cell("used_twice", equations, h)


def numbers_beside_axes() -> Cell:
    """Numbers of each row, numbers that are the same for all rows, and conditions."""
    g, c, m = states("g", 1), constants("c", 0.4), masks("m", 1)
    choice = Piecewise((g * S, g.next > 0), (Max(S, g, 0.1), Abs(S) < c), (S - c, True))
    equations = [
        Eq(q, W.q @ x),
        Eq(v, W.v @ x),
        Eq(g.next, tanh(W.g @ x + c * g)),
        Eq(S.next, choice * m + Min(c * g, outer(v, q)) / Size("K") + (1 - m) * g),
        Eq(h.next, S.next @ q * g + sum_(S * expand(q, S) * g, "K")),
    ]
    return Cell("numbers_beside_axes", equations, h)


def broadcast_late() -> Cell:
    """What is expanded, and then needed with all its units."""
    u, t, w = vectors("u", shape=("N", "P")), vectors("t", shape=("P", "N")), vectors("w", "N*P")
    g, r, p = vectors("g", "N"), vectors("r", shape=("N", 2, "P")), vector("p", "P")
    summed = sum_(cumsum(expand(n * u, "N", 2, "P"), 1) * expand(p, r) * r, 1)
    shared = matrix("L", "P", "P") @ expand(g, "N", "P")
    equations = [
        Eq(g, sigmoid(W.g @ x + mean(n, "P"))),
        Eq(u, expand(g, "N", "P")),
        Eq(t, expand(g, "P", "N")),
        Eq(r, expand(n, "N", 2, "P")),
        Eq(w, flatten(expand(exp(g), "N", "P")) * flatten(u)),
        Eq(n.next, tanh(summed + expand(max_(t, "N"), u) * chunk(w, "N", "P") + shared)),
    ]
    return Cell("broadcast_late", equations, n)


def outer_products() -> Cell:
    """With factors that one vector can have, and with others."""
    a, e, f = vectors("a"), vectors("e", "K"), vectors("f", 1)
    equations = [
        Eq(k, softmax(W.k @ x)),
        Eq(v, W.v @ x),
        Eq(a, sigmoid(U.a @ h)),
        Eq(e, sigmoid(S.T @ a)),
        Eq(f, mean(a)),
        Eq(S.next, 0.5 * S - expand(a, S) * f * outer(v, k) + 2 * expand(e, S) * outer(v, k) * S),
        Eq(h.next, tanh(S.next @ e - (S @ outer(k, e)) @ k)),
    ]
    return Cell("outer_products", equations, h)


def heads_of_memories() -> Cell:
    out, M = vectors("y", "N*K+H"), matrix("M", rows="H")
    C, t = states("C", shape=("N", "P", "K")), vectors("t", shape=("N", "K"))
    V, X = weights("V", shape=("N", "P", "D")), weights("X", shape=("N", "K", "D"))
    f, i, c = *vectors("f i", "N"), biases("c", shape=("N", "K"))
    equations = [
        Eq(t, X.t @ x + c.t),
        Eq(i, sigmoid(W.i @ x)),
        Eq(f, sigmoid(W.f @ x + mean(n, 1))),
        Eq(z, V.z @ x),
        Eq(C.next, expand(f, C) * C + expand(i, C) * outer(z, t)),
        Eq(n.next, C.next @ t + 0.1 * n),
        Eq(out, concat(flatten(C.T @ n.next), M @ flatten(n.next))),
    ]
    return Cell("heads_of_memories", equations, out)


def side_by_side() -> Cell:
    """Parts, and what is put together, of parameters, numbers and constants, too."""
    s, c, g = states("s", "3*P"), constants("c", 0.3), vectors("g", 1)
    one, two, three = split(tanh(W.a @ concat(x, s)), 3)
    i, _, o = split(sigmoid(W.i @ x), "P", "P", "P")
    u, (e, f) = vectors("u", "2*P+3"), vectors("e f", "P")
    equations = [
        Eq(g, mean(s)),
        Eq(e, i * o),
        Eq(f, split(b.f, "P", "P")[1] * e),
        Eq(u, concat(one * e, two, c, g, 1)),
        Eq(s.next, concat(three * f, i, o) + W.u @ u + W.d @ concat(s, x * x, s)),
    ]
    return Cell("side_by_side", equations, s)


def not_all_learned() -> Cell:
    """Products with one vector, of which some have no gradient; and fixed columns."""
    R, Q = matrix("R", "H", "H", learned=False), matrix("Q", "H", "D+H", learned=False)
    F = matrix("F", shape=("N", "P", "P"), learned=False)
    g, f = vectors("g"), vector("f", "H", learned=False, init=0.5)
    equations = [
        Eq(g, sigmoid(W.g @ x + U.g @ h + R @ h + f)),
        Eq(n.next, tanh(F @ n + weights("V", shape=("N", "P", "P")).n @ n + expand(mean(g), n))),
        Eq(h.next, g * tanh(Q @ concat(x, h) + b.h) * mean(mean(n.next, 1)) + f * h),
    ]
    return Cell("not_all_learned", equations, h)


def of_parameters() -> Cell:
    """Matrices of parameters with heads, of columns, in passing, and of a fixed one."""
    A, M, L = matrix("A", "H", "H"), matrix("M", "H", "H"), matrix("L", "H", "H", learned=False)
    R, Q = matrix("R", shape=("N", "P", "P")), matrix("Q", shape=("N", "P", "P"))
    equations = [
        Eq(M, A.T @ L - A),
        Eq(Q, tanh(R)),
        Eq(n.next, tanh(Q @ n + Q.T @ n) + chunk(W.n @ x, "N", "P")),
        Eq(h.next, tanh(exp(-A) @ h + M.T @ h + (U.h - U.h.T) @ h + W.h @ x + b.h)),
        Eq(y, h.next * sum_(sum_(n.next, 1))),
    ]
    return Cell("matrices_of_parameters", equations, y)


def outputs_of_all_kinds() -> Cell:
    """A number, a state, what the recurrence has no part in, what has no gradient, a matrix."""
    g, e, c = vectors("g", 1), vectors("e"), vectors("c")
    equations = [
        Eq(e, tanh(W.e @ x)),
        Eq(k, W.k @ x),
        Eq(c, stop_gradient(h) * 2),
        Eq(S.next, 0.5 * S + outer(e, k)),
        Eq(h.next, tanh(S.next @ k + U.h @ h)),
        Eq(g, mean(h.next)),
        Eq(y, exp(b.y)),
    ]
    return Cell("outputs_of_all_kinds", equations, (g, h, e, c, S, y))


MADE_UP = {
    made.name: made
    for made in (
        two_axes_of_heads(), used_twice(), numbers_beside_axes(), broadcast_late(),
        outer_products(), heads_of_memories(), side_by_side(), not_all_learned(),
        of_parameters(), outputs_of_all_kinds(),
    )
}  # fmt: skip

REFERENCE = ("mlstm", "slstm", "delta_net")
ALL = {
    **{name: cells.get(name) for name in REFERENCE},
    **several_axes.CELLS, **several_axes.FIXED, **test_outputs.CELLS, **MADE_UP,
}  # fmt: skip


of_all_libraries = pytest.mark.parametrize(
    "contender", [TorchLoop("eager"), TorchLoop("script"), JaxScan()], ids=lambda c: c.key
)


def problem(cell, work=TRAINING, **sizes):
    known = {"T", "B", *map(str, cell.sizes)}
    sizes = {name: number for name, number in (SIZES | sizes).items() if name in known}
    return Problem(cell, sizes, work, "float64")


def hold(contender, problem):
    prepared = contender.prepare(problem)
    found = prepared.values(prepared.call())
    assert set(found) == set(problem.reference)
    for name, right in problem.reference.items():
        assert found[name].shape == right.shape, name
        scale = max(np.abs(right).max(), 1e-3)  # a gradient can be 0 but for rounding
        assert np.abs(found[name] - right).max() < ROUNDING * scale, name


@pytest.mark.parametrize("contender", [TorchLoop("eager"), JaxScan()], ids=lambda c: c.library)
@pytest.mark.parametrize("name", ALL)
def test_results_and_gradients(name, contender):
    need(contender.library)
    hold(contender, problem(ALL[name]))


@pytest.mark.parametrize("name", [*REFERENCE, *MADE_UP])
def test_sizes_of_one(name):
    """What has one unit, by its size, is not what is one number."""
    need("torch")
    need("jax")
    sizes = {size: 1 for size in SIZES if size in map(str, ALL[name].sizes)}
    hold(JaxScan(), problem(ALL[name], **sizes))
    for size in sizes:
        hold(TorchLoop("eager"), problem(ALL[name], **{size: 1}))


@pytest.mark.parametrize("name", [*REFERENCE, *MADE_UP])
def test_torchscript_and_single_steps(name):
    need("torch")
    hold(TorchLoop("script"), problem(ALL[name]))
    hold(TorchLoop("eager"), problem(ALL[name], STEP))


def test_pieces_that_do_not_depend_on_the_recurrence():
    need("torch")
    pieces = Piecewise((h, v > 0), (exp(-v), v < -1), (U.h @ h, True))
    cell = Cell("pieces", [Eq(v, tanh(W.v @ x)), Eq(h.next, tanh(pieces))], h)
    hold(TorchLoop("eager"), problem(cell))


@of_all_libraries
def test_pieces_that_are_numbers_have_the_type_of_the_rest(contender):
    """PyTorch makes float32 of a choice between two numbers, and 0.1 is not one of that type."""
    need(contender.library)
    g = vectors("g")
    choice = Eq(g, Piecewise((v, v > 1), (0.1, v > 0), (0.3, True)))
    late = Cell("late", [Eq(v, W.v @ x + U.v @ h), choice, Eq(h.next, tanh(g * v))], (h, g))
    hold(contender, problem(late))
    choice = Piecewise((0.1, v > 0), (0.2, v > -1), (0.3, True))
    early = Cell("early", [Eq(v, W.v @ x), Eq(h.next, tanh(U.h @ h + choice))], h)
    hold(contender, problem(early))


@of_all_libraries
def test_sums_from_the_other_end(contender):
    """Backward passes have them, and so have cells that are derived of others."""
    need(contender.library)
    summed = rcumsum(n * n, 0) + expand(rcumsum(W.v @ x), n)
    hold(contender, problem(Cell("rcumsum", [Eq(n.next, tanh(summed))], n)))


@of_all_libraries
def test_slopes_are_shared_where_values_tie(contender):
    """All are 0, as with padding and no biases: what ties has equal shares, numbers too."""
    need(contender.library)
    u, g = vectors("u"), vectors("g", 1)
    equations = [
        Eq(v, W.v @ x + U.v @ h),
        Eq(u, W.u @ x),
        Eq(g, mean(h)),
        Eq(n.next, expand(Max(mean(h), 0), n)),
        Eq(h.next, Max(v, 0) + 2 * Min(u, 0) + 3 * Max(v, u) + Max(v, u, 0) - Min(v, h, g)),
    ]
    given = problem(Cell("ties", equations, (h, n)))
    for array in (*given.inputs.values(), *given.state.values()):
        array[...] = 0
    hold(contender, given)
    assert np.abs(given.reference["∂L/∂x"]).min() > 0


# --------------------------------------------------------------------------- the text


def written(cell, dialect):
    """The text of a step, and of what comes before all steps."""
    made = transcribe(cell, problem(cell).sizes, dialect)
    before, after = made.source.split("def step")[0], made.source.split("def step")[1]
    if dialect.name == "JAX":
        return after.split("jax.lax.scan")[0], before, made
    return after.split("def sequence")[0], after.split("def sequence")[1], made


@pytest.mark.parametrize("dialect", [Torch(), Jax()], ids=lambda d: d.name)
def test_products_that_need_no_state_are_one_before_the_loop(dialect):
    for name in ("mlstm", "delta_net"):
        step, before, made = written(cells.get(name), dialect)
        assert before.count(" @ ") + before.count("linear(") == 1
        assert not any(f"W_{of}" in step or f"V_{of}" in step for of in ("all", "q", "k", "v"))
        assert len([a for a in made.arguments if a.kind in ("matrix", "transposed")]) == 1
    step, _, _ = written(cells.get("slstm"), dialect)
    assert step.count("R_ifzo)") == 1, "the block-diagonal products are one"


def test_a_memory_is_written_once_and_not_before_its_step():
    step, _, _ = written(cells.get("mlstm"), Torch())
    assert "(i[..., None] * v_t)[..., None] * k_t[..., None, :]" in step
    step, before, _ = written(MADE_UP["outputs_of_all_kinds"], Torch())
    assert "e_t[..., None] * k_t[..., None, :]" in step
    assert "None, :]" not in before, "for all steps at once it would be as large as all memories"


def test_columns_are_told_apart():
    """The product with x is none of the recurrence, though W @ concat(x, h) says it is one."""
    cell = several_axes.FIXED["beside"]
    step, before, made = written(cell, Torch())
    assert "cat" not in step and "linear(x, W_" in before
    values = problem(cell).values()
    arrays = dict(zip(made.arguments, made.arrays(values), strict=True))
    found = made.parts(arrays)
    assert set(found) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)


def test_what_is_not_learned_has_no_gradient():
    need("torch")
    cell = MADE_UP["not_all_learned"]
    p = problem(cell)
    for dialect in (Torch(), Jax()):
        made = transcribe(cell, p.sizes, dialect)
        whole = {piece: name for name, pieces in made.columns.items() for piece in pieces}
        learned = {s.name: s.learned for s in cell.parameters}
        for argument in made.arguments:
            of = {learned.get(whole.get(name, name), True) for name in argument.parts}
            assert of == {argument.learned}, "none is stacked with one that is learned"
    prepared = TorchLoop("eager").prepare(p)
    found = prepared.values(prepared.call())
    assert {"∂L/∂U_g", "∂L/∂V_n"} <= set(found)
    assert not {"∂L/∂R", "∂L/∂Q", "∂L/∂F", "∂L/∂f"} & set(found)
