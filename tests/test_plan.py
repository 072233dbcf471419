"""The plan: what runs where, how products are stacked, and that its counts are exact."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import reference
import sympy
from conftest import need
from several_axes import FIXED
from sympy import Eq

import lstmgen
from lstmgen import (
    Cell,
    biases,
    inputs,
    matrix,
    relu,
    sigmoid,
    states,
    tanh,
    vectors,
    weights,
)
from lstmgen.derivation.reverse import adjoint
from lstmgen.language.matrices import Matrix
from lstmgen.language.sizes import Size
from lstmgen.planning.operations import Fused, K, Multiply, Outers, area
from lstmgen.planning.served import serves_only
from lstmgen.targets import plan_options

T, B, D, H, P = (Size(n) for n in "TBDHP")


@pytest.fixture(params=reference.NAMES)
def cell(request):
    return lstmgen.cells.get(request.param)


def multiplies(part):
    return [op for op in part if isinstance(op, Multiply)]


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_products_of_the_plan_are_those_of_the_equations(cell, target):
    """Each product W @ x is done once forward, once to lead back, and once for its gradient."""
    plan = lstmgen.plan(cell, **plan_options(target))
    forward = plan.derivation.forward
    from lstmgen.derivation.normalform import products

    wanted = sum((2 * area(cell, p.matrix) for e in forward for p in products(e.rhs)), sympy.S.Zero)
    done = {
        name: sum((2 * area(cell, m) for op in multiplies(part.operations) for m in op.matrices),
                  sympy.S.Zero)
        for name, part in (("forward", plan.forward), ("backward", plan.backward))
    }  # fmt: skip
    graded = sum(
        (2 * area(cell, m) for op in plan.backward.operations if isinstance(op, Outers)
         for m in op.parameters), sympy.S.Zero
    )  # fmt: skip
    assert sympy.expand(done["forward"] - wanted) == 0
    assert sympy.expand(done["backward"] - wanted) == 0
    assert sympy.expand(graded - wanted) == 0
    # with the largest terms as everyone knows them
    rest = sympy.expand(plan.flops - 3 * T * B * wanted)
    assert sympy.Poly(rest, H, D).total_degree() <= 1


def test_counts_of_the_lstm():
    plan = lstmgen.plan(lstmgen.cells.get("lstm"))
    products = 8 * T * B * H * (D + H)
    # σ, σ, σ, tanh, two products, a sum, tanh, a product
    assert sympy.expand(plan.flops_of(plan.forward) - products - 9 * T * B * H) == 0
    assert sympy.expand(plan.flops_of(plan.backward) - 2 * products).coeff(H, 2) == 0
    # i f g o for every step, h and c with the initial state in front
    assert sympy.expand(plan.tape - (4 * T * B * H + 2 * (T + 1) * B * H)) == 0
    assert set(plan.workspace.free_symbols) == {K, B, H}


def test_only_products_with_the_state_stay_inside_the_loop(cell):
    plan = lstmgen.plan(cell)
    for op in multiplies(plan.forward.in_loops):
        assert not any(v.category == "input" for v in op.operands)
    for op in multiplies(plan.forward.at_once):
        assert all(v.category == "input" for v in op.operands)
    assert not any(isinstance(op, Outers) for op in plan.backward.in_loops)


def test_gates_are_stacked():
    plan = lstmgen.plan(lstmgen.cells.get("lstm"))
    assert [len(op.matrices) for op in multiplies(plan.forward.operations)] == [4, 4]
    assert [len(op.matrices) for op in multiplies(plan.backward.operations)] == [4, 4]
    assert [len(op.parameters) for op in plan.backward.at_once if isinstance(op, Outers)] == [4, 4]


def test_overlapping_stacks_are_slices_of_one_buffer():
    """The GRU's W has r z n, its U has r z m: in the order n r z m both are contiguous."""
    plan = lstmgen.plan(lstmgen.cells.get("gru"))
    assert [len(op.matrices) for op in multiplies(plan.forward.operations)] == [3, 3]
    assert [len(op.matrices) for op in multiplies(plan.backward.operations)] == [3, 3]


def test_two_dependent_products_make_two_stages():
    plan = lstmgen.plan(lstmgen.cells.get("gru_reset_before"))
    kinds = [type(op) for op in plan.forward.in_loops]
    assert kinds == [Multiply, Fused, Multiply, Fused]


def test_cheap_values_are_computed_again_and_dear_ones_kept():
    plan = lstmgen.plan(lstmgen.cells.get("cifg"))
    tape = {v.name for b in plan.buffers if b.scope == "tape" for v in b.blocks}
    assert tape == {"i", "g", "o"}, "f = 1 - i is computed again"


def test_a_cell_without_a_recurrent_product_has_an_elementwise_loop():
    x, h = inputs("x"), states("h")
    z, n = vectors("z n")
    W, b = weights("W"), biases("b")
    cell = Cell(
        "min_gru",
        [Eq(z, sigmoid(W.z @ x + b.z)), Eq(n, W.n @ x), Eq(h.next, (1 - z) * h + z * n)],
        output=h,
    )
    for target in ("c", "numpy"):
        plan = lstmgen.plan(cell, **plan_options(target))
        assert not multiplies(plan.forward.in_loops)
        assert not multiplies(plan.backward.in_loops)
    early = [e.lhs.name for op in plan.forward.in_loops for e in op.equations]
    assert early == ["h"], "the gate itself is done for all steps at once"


def test_what_only_the_output_needs_comes_after_the_loop():
    x, h = inputs("x"), states("h")
    y = vectors("y", size="E")
    W, U, V = weights("W"), weights("U"), weights("V")
    cell = Cell(
        "readout",
        [Eq(h.next, tanh(W.h @ x + U.h @ h)), Eq(y, relu(V.y @ h.next))],
        output=y,
    )
    plan = lstmgen.plan(cell)
    assert [op.matrices[0].name for op in multiplies(plan.forward.sections[-1])] == ["V_y"]
    assert [op.matrices[0].name for op in multiplies(plan.backward.sections[0])] == ["V_y"]


def test_bytes_follow_the_dtype(cell):
    double = lstmgen.plan(cell, dtype="float64").bytes
    single = lstmgen.plan(cell, dtype="float32").bytes
    assert sympy.expand(double - 2 * single) == 0
    with pytest.raises(lstmgen.LstmgenError, match="float16"):
        lstmgen.plan(cell, dtype="float16")


_CHOICES = ("hoist", "split", "lanes", "recompute", "arrays")


@pytest.mark.parametrize("choices", list(product((False, True), repeat=5)))
def test_options_can_be_had_in_any_combination(cell, choices):
    """Each plan is looked over when it is made: what it reads is there, with a place."""
    options = dict(zip(_CHOICES, choices, strict=True))
    plan = lstmgen.plan(cell, **options)
    products = [op for op in plan.backward.operations if isinstance(op, Multiply)]
    assert products and plan.flops != 0


def test_an_unknown_option_is_named():
    with pytest.raises(lstmgen.LstmgenError, match='did you mean "hoist"'):
        lstmgen.plan(lstmgen.cells.get("rnn"), hoits=True)


def test_the_plan_prints(cell):
    for target in ("c", "numpy"):
        text = str(lstmgen.plan(cell, **plan_options(target)))
        for part in (
            "before the loop" if "loop 2" not in text else "before loop 2",
            "each step",
            "backward step",
            "after the loop",  # or loops
            "tape",
            "flop",
        ):
            assert part in text
        assert max(map(len, text.splitlines())) <= 143


def test_every_value_that_is_read_was_written_before(cell):
    for target in ("c", "numpy"):
        plan = lstmgen.plan(cell, **plan_options(target))
        for part in (plan.forward, plan.backward):
            known = set()
            for op in part.operations:
                own = set()
                if isinstance(op, Fused):
                    for e in op.equations:
                        own.add(e.lhs)
                missing = [
                    v for v in op.reads
                    if v not in known | own and v not in plan.home and v.category not in (
                        "input", "mask", "parameter", "constant", "state", "cotangent", "carry")
                ]  # fmt: skip
                assert not missing
                known |= set(op.writes)


def test_parameters_have_exact_shapes(cell):
    for p in cell.parameters:
        assert len(cell.shape(p)) == len(p.axes) >= (2 if isinstance(p, Matrix) else 1)


def test_the_value_of_heaviside_at_zero_is_the_one_given():
    x, h, U = inputs("x"), states("h"), weights("U")
    for value in (0, 1, sympy.Rational(1, 2)):
        jump = sympy.Heaviside(U.h @ h, value)
        module = lstmgen.compile(Cell("jump", [Eq(h.next, jump + U.x @ x)], output=h))
        params = module.init(2, 3)
        y, _, _ = module.forward(params, np.zeros((1, 1, 2), np.float32))
        assert (y == float(value)).all()


def test_a_size_named_like_an_argument_of_init_is_refused():
    x, s, W = inputs("u"), states("s", size="seed"), weights("W")
    cell = Cell("named", [Eq(s.next, tanh(W.a @ x + W.b @ s))], output=s)
    with pytest.raises(lstmgen.GenerateError, match="cannot name a size seed"):
        lstmgen.generate(cell, "numpy")


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_sizes_left_open_are_inferred_all_the_way(target):
    if target == "c":
        need("cffi")
        need("cc")
    x, h = inputs("x", size=""), states("h", size="")
    W, U = matrix("W", rows="H", columns="D"), matrix("U")
    cell = Cell("open_sizes", [Eq(h.next, tanh(W @ x + U @ h))], output=h)
    assert lstmgen.check(cell, target).passed


def gated(pre_activation) -> Cell:
    """A cell whose gate has a pre-activation of its own kind."""
    x, h = inputs("x"), states("h")
    f, n = vectors("f n")
    W, U, b = weights("W"), weights("U"), biases("b")
    gate = sigmoid(pre_activation(W.f @ x, U.f @ h, b.f))
    candidate = tanh(W.n @ x + U.n @ h + b.n)
    return Cell("gated", [Eq(f, gate), Eq(n, candidate), Eq(h.next, f * h + (1 - f) * n)], output=h)


@pytest.mark.parametrize("target", ["numpy", "c"])
@pytest.mark.parametrize("pre_activation", [
    lambda Wx, Uh, b: -(Wx + Uh + b),
    lambda Wx, Uh, b: 0.5 * (Wx + Uh + b),
    lambda Wx, Uh, b: 2 * (Wx + Uh) + b,
    lambda Wx, Uh, b: 1 - (Wx + Uh + b) / 3,
])  # fmt: skip
def test_products_with_a_number_before_their_sum_are_stacked(pre_activation, target):
    """SymPy has distributed the number; it is applied to the sum, and back to its adjoint, once."""
    cell = gated(pre_activation)
    plan = lstmgen.plan(cell, **plan_options(target))
    for part in (plan.forward, plan.backward):
        assert [len(op.matrices) for op in multiplies(part.operations)] == [2, 2]
    scaled = [e.lhs.name for e in plan.derivation.adjoints if e.lhs.name.startswith(("W", "U"))]
    assert not scaled, "a factor before each product"
    assert lstmgen.check(cell, target=target).passed


def test_numbers_that_differ_stay_with_their_products():
    cell = gated(lambda Wx, Uh, b: 2 * Wx - Uh + b)
    plan = lstmgen.plan(cell)
    assert [len(op.matrices) for op in multiplies(plan.forward.operations)] == [2, 2]
    assert lstmgen.check(cell).passed


@pytest.mark.parametrize("target", ["numpy", "c"])
def test_what_is_needed_after_the_loop_is_stacked_with_what_the_loop_needs(target):
    """The simple recurrent unit: only its output needs r, and r needs the cell state."""
    x, c = inputs("x", size="H"), states("c")
    z, f, r, h = vectors("z f r h")
    W, v, b = weights("W"), biases("v"), biases("b")
    cell = Cell(
        "sru",
        [
            Eq(z, W.z @ x),
            Eq(f, sigmoid(W.f @ x + v.f * c + b.f)),
            Eq(r, sigmoid(W.r @ x + v.r * c + b.r)),
            Eq(c.next, f * c + (1 - f) * z),
            Eq(h, r * c.next + (1 - r) * x),
        ],
        output=h,
    )
    plan = lstmgen.plan(cell, **plan_options(target))
    for part in (plan.forward, plan.backward):
        assert [len(op.matrices) for op in multiplies(part.operations)] == [3]
    assert lstmgen.check(cell, target=target).passed


def test_what_is_done_once_for_a_sequence_is_counted_once() -> None:
    plan = lstmgen.plan(FIXED["antisymmetric"])
    once = [sympy.expand(plan.flops_of(p)).subs({T: 0}) for p in (plan.forward, plan.backward)]
    assert once == [H**2, H**2]  # U - Uᵀ, and δS less its transpose
    read = plan.bytes_of(plan.forward).subs({T: 0, B: 0})
    # U, its transpose and S: one read and two written; and matrices and biases of all steps
    assert sympy.expand(read - 8 * 3 * H**2).coeff(H, 2) == 0
    text = str(plan).splitlines()
    assert text[0].startswith("once, at first    u_S S")
    assert any(line.startswith("once, at last     δS") for line in text)


# --------------------------------------------------------------------------- what may be left out


def _served(cell):
    """What each operation that serves derivatives by inputs alone writes, and the inputs."""
    part = lstmgen.plan(cell, **plan_options("c")).backward
    found = serves_only(part, [adjoint(v) for v in cell.inputs])
    return {
        " ".join(sorted(v.name for v in part.sections[n][k].writes)): " ".join(v.name for v in ends)
        for (n, k), ends in found.items()
    }


def test_what_serves_derivatives_by_inputs_alone():
    assert _served(lstmgen.cells.get("lstm")) == {"x": "x"}
    W, U, x, u, h = weights("W"), weights("U"), inputs("x"), inputs("u", size="D"), states("h")
    xu, y = vectors("xu y", size="D")
    step = Eq(h.next, tanh(W.a @ xu + W.b @ u + U.a @ h))
    both = {"xu": "u x", "u": "u x", "u x": "u x"}  # the last stage makes both derivatives
    assert _served(Cell("shared", [Eq(xu, x * u), step], h)) == both
    # what goes on to the step before is not for inputs alone, nor what is made beside it
    delayed = states("last", size="D")
    equations = [Eq(xu, x + delayed), step, Eq(delayed.next, x), Eq(y, xu * u)]
    assert _served(Cell("delayed", equations, (h, y))) == {"last x": "x"}
