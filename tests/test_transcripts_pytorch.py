"""Cells as functions of PyTorch tensors: values and gradients, on every device and in every type.

They are held against our NumPy modules in float64, which other tests hold against the equations.
"""

import copy
import pickle

import numpy as np
import pytest
import several_axes
import test_transcripts
from sympy import Eq

import lstmgen
from lstmgen import Cell, LstmgenError, biases, cells, inputs, masks, states, tanh, weights
from lstmgen.benchmark.problem import TRAINING, Problem
from lstmgen.transcripts.pytorch import sequence_function
from lstmgen.verification.evaluation import number

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

ROUNDING = 1e-10
MADE_UP = {**several_axes.CELLS, **several_axes.FIXED, **test_transcripts.MADE_UP}
ZOO = [cells.get(name) for name in cells.names()]
CELLS = {f"made up: {name}": cell for name, cell in MADE_UP.items()}
CELLS |= {cell.name: cell for cell in ZOO}


def sizes_of(cell):
    """All different, and none of them a number of steps or rows below."""
    given = {str(n): 4 + k for k, n in enumerate(cell.sizes)}
    return given if cell in ZOO else {name: test_transcripts.SIZES[name] for name in given}


def values(cell, steps, rows):
    return Problem(cell, {**sizes_of(cell), "T": steps, "B": rows}, TRAINING, "float64")


def tensors(arrays, **options):
    return {name: torch.tensor(a, **options) for name, a in arrays.items()}


def parts(problem, **options):
    """What a function takes, of a problem's arrays."""
    cell = problem.cell
    params = {p.name: problem.params[p.name] for p in cell.parameters}
    constants = {c.name: float(problem.params[c.name]) for c in cell.constants}
    given = (tensors(params, **options), constants, tensors(problem.inputs, **options))
    return *given, tensors(problem.state, **options), tensors(problem.masks, **options)


def agree(found, right, what):
    found = np.zeros(right.shape) if found is None else found.detach().numpy()
    assert found.shape == right.shape, what
    scale = max(np.abs(right).max(initial=0), 1e-3)  # a gradient can be 0 but for rounding
    assert np.abs(found - right).max(initial=0) < ROUNDING * scale, what


def hold(function, module, problem, own_start):
    """Outputs, final states and all gradients, of both outputs and final states."""
    cell = problem.cell
    several, several_inputs = len(cell.outputs) > 1, len(cell.inputs) > 1
    params, constants, x, state, mask = parts(problem, dtype=torch.float64)
    leaves = {p.name: params[p.name].requires_grad_() for p in cell.learned}
    leaves |= {name: a.requires_grad_() for name, a in x.items()}
    if not own_start:
        leaves |= {name: a.requires_grad_() for name, a in state.items()}
    ys, final = function(params, constants, x, None if own_start else state, mask)

    given = problem.inputs if several_inputs else next(iter(problem.inputs.values()))
    with_masks = {"masks": problem.masks} if cell.masks else {}
    given_state = None if own_start else problem.state
    y, new, tape = module.forward(problem.params, given, given_state, **with_masks)
    assert list(ys) == [v.name for v in cell.outputs]
    assert set(final) == {s.name for s in cell.states}
    for name in ys:
        agree(ys[name], y[name] if several else y, name)
    for name in final:
        agree(final[name], new[name], name)

    rng = np.random.default_rng(1)
    dstate = {name: rng.standard_normal(a.shape) for name, a in problem.state.items()}
    gradients, dx, initial = module.backward(problem.params, tape, problem.dy, dstate)
    out = dict(zip((f"y {n}" for n in ys), ys.values(), strict=True)) | final
    dout = dict(zip((f"y {n}" for n in ys), problem.dys, strict=True)) | dstate
    out = {name: a for name, a in out.items() if a.requires_grad}
    weights_of = [torch.from_numpy(dout[name]) for name in out]
    found = torch.autograd.grad(
        list(out.values()), list(leaves.values()), weights_of, allow_unused=True
    )
    found = dict(zip(leaves, found, strict=True))
    right = {**gradients, **(dx if several_inputs else {next(iter(x)): dx}), **initial}
    for name in leaves:
        agree(found[name], right[name], f"the gradient of {name}")


@pytest.mark.parametrize("name", CELLS)
def test_one_function_for_all_lengths_and_batches(name):
    cell = CELLS[name]
    function = sequence_function(cell, sizes_of(cell))
    module = lstmgen.compile(cell, "numpy")
    hold(function, module, values(cell, 3, 2), own_start=False)
    if cell in ZOO:  # others may have sizes that our modules know of states only
        hold(function, module, values(cell, 2, 1), own_start=True)


def own(name, **options):
    """A function, and what it takes for 3 steps of 2 rows."""
    cell = cells.get(name)
    return sequence_function(cell, sizes_of(cell)), *parts(values(cell, 3, 2), **options)


class Watched(TorchDispatchMode):
    """Holds that every tensor that is made is where, and of the type, that it has to be."""

    def __init__(self, device, dtype):
        super().__init__()
        self.device, self.dtype, self.count = device, dtype, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(made, torch.Tensor):
                self.count += 1
                assert made.device.type == self.device, func
                inside = func is torch.ops.aten.native_layer_norm.default  # its own float32
                assert inside or made.dtype in (self.dtype, torch.bool, torch.int64), func
        return out


@pytest.mark.parametrize("name", CELLS)
def test_nothing_is_made_elsewhere_or_of_another_type(name):
    """Forward and backward on "meta", where tensors have shapes only; not in the default type."""
    cell = CELLS[name]
    function = sequence_function(cell, sizes_of(cell))
    params, constants, x, _, mask = parts(values(cell, 5, 3), device="meta", dtype=torch.bfloat16)
    leaves = [a.requires_grad_() for a in (*params.values(), *x.values())]
    with Watched("meta", torch.bfloat16) as watched:
        ys, final = function(params, constants, x, None, mask)
        outs = [a for a in ys.values() if a.requires_grad]
        torch.autograd.grad(outs, leaves, [torch.ones_like(a) for a in outs], allow_unused=True)
    assert watched.count > 0
    assert {name: a.shape for name, a in ys.items()} == {
        v.name: (5, 3, *shape_of(cell, v)) for v in cell.outputs
    }
    assert {name: a.shape for name, a in final.items()} == {
        s.name: (3, *shape_of(cell, s)) for s in cell.states
    }


def shape_of(cell, v):
    return tuple(number(n, sizes_of(cell)) for n in cell.shape(v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru_d", "lstm_layernorm", "mlstm", "slstm"])
def test_narrow_types(name, dtype):
    function, *exact = own(name, dtype=torch.float64)
    right, right_final = function(*exact)
    _, *narrow = own(name, dtype=dtype)
    leaves = [a.requires_grad_() for a in (*narrow[0].values(), *narrow[2].values())]
    found, final = function(*narrow)
    room = 64 * torch.finfo(dtype).eps
    for name, a in {**found, **final}.items():
        assert a.dtype == dtype
        wanted = {**right, **right_final}[name]
        assert (a.double() - wanted).abs().max() < room * wanted.abs().max(), name
    gradients = torch.autograd.grad(sum(a.float().sum() for a in found.values()), leaves)
    assert all(g.dtype == dtype and bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("name", ["lstm", "scrn", "mgu"])
def test_derivatives_of_derivatives(name):
    cell = cells.get(name)
    sizes = dict.fromkeys(map(str, cell.sizes), 2)
    function = sequence_function(cell, sizes)
    problem = Problem(cell, {**sizes, "T": 2, "B": 1}, TRAINING, "float64")
    params, constants, x, state, _ = parts(problem, dtype=torch.float64)
    leaves = {**params, **x, **state}

    def run(*given):
        new = dict(zip(leaves, given, strict=True))
        pick = [{n: new[n] for n in group} for group in (params, x, state)]
        ys, final = function(pick[0], constants, *pick[1:])
        return *ys.values(), *final.values()

    given = [a.requires_grad_() for a in leaves.values()]
    assert torch.autograd.gradgradcheck(run, given, fast_mode=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_compile_traces_a_whole_sequence():
    function, *given = own("lstm", dtype=torch.float64)
    leaves = [a.requires_grad_() for a in (*given[0].values(), *given[2].values())]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for states_given in (given[3], None):
        results = []
        for run in (compiled, function):
            ys, final = run(*given[:3], states_given)
            results.append([*ys.values(), *final.values()])
            results[-1] += torch.autograd.grad(ys["h"].square().sum(), leaves)
        for found, right in zip(*results, strict=True):
            torch.testing.assert_close(found, right, rtol=ROUNDING, atol=ROUNDING)


def test_functions_of_torch_func():
    """A loss as a function of parameters, for each row of a batch by itself."""
    function, params, constants, x, state, _ = own("gru", dtype=torch.float64)

    def loss(params, x, state):
        ys, _ = function(params, constants, {"x": x[:, None]}, {"h": state[None]})
        return ys["h"].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 1, 0))(params, x["x"], state["h"])
    ys, _ = function({n: a.requires_grad_() for n, a in params.items()}, constants, x, state)
    right = torch.autograd.grad(ys["h"].square().sum(), list(params.values()))
    for found, wanted in zip(each.values(), right, strict=True):
        torch.testing.assert_close(found.sum(0), wanted, rtol=ROUNDING, atol=ROUNDING)


# --------------------------------------------------------------------------- edges


@pytest.mark.parametrize("name", cells.names())
@pytest.mark.parametrize(("steps", "rows"), [(0, 2), (2, 0)])
def test_no_steps_and_no_rows(name, steps, rows):
    cell = cells.get(name)
    function = sequence_function(cell, sizes_of(cell))
    params, constants, x, state, mask = parts(values(cell, 2, 2), dtype=torch.float64)
    x, mask = ({n: a[:steps, :rows] for n, a in group.items()} for group in (x, mask))
    state = {n: a[:rows] for n, a in state.items()}
    leaves = [a.requires_grad_() for a in params.values()]
    for given in (state, None):
        ys, final = function(params, constants, x, given, mask)
        for v in cell.outputs:
            assert ys[v.name].shape == (steps, rows, *shape_of(cell, v))
        for s in cell.states:
            assert final[s.name].shape == (rows, *shape_of(cell, s))
            if steps == 0:
                wanted = torch.full_like(final[s.name], cell.starts_at(s))
                torch.testing.assert_close(
                    final[s.name], wanted if given is None else given[s.name]
                )
    if steps:
        found = torch.autograd.grad(sum(y.sum() for y in ys.values()), leaves, allow_unused=True)
        assert not any(g is not None and g.any() for g in found)


def with_a_mask():
    x, (h,), (m,) = inputs("x"), (states("h"),), (masks("m"),)
    new = tanh(weights("W").h @ x + weights("U").h @ h + biases("b").h)
    return Cell("masked", [Eq(h.next, m * new + (1 - m) * h)], h)


def test_masks_of_bool():
    cell = with_a_mask()
    function = sequence_function(cell, sizes_of(cell))
    params, constants, x, state, mask = parts(values(cell, 3, 2), dtype=torch.float64)
    flags = {"m": mask["m"] > 0}
    ys, _ = function(params, constants, x, state, flags)
    other, _ = function(params, constants, x, state, {"m": flags["m"].double()})
    assert ys["h"].dtype == torch.float64 and torch.equal(ys["h"], other["h"])


def test_functions_are_kept_and_are_never_copied():
    cell = cells.get("lstm")
    function = sequence_function(cell, {"D": 4, "H": 5})
    assert sequence_function(cell, {"H": np.int64(5), "D": 4}) is function
    assert sequence_function(cell, {"H": 6, "D": 4}) is not function
    assert copy.deepcopy(function) is function
    other = pickle.loads(pickle.dumps(function))
    assert other.source == function.source and other.sizes == function.sizes
    assert "torch.addmm" in function.source


CHANGES = {
    "a parameter is missing": (0, lambda p: p.pop("U_i"), "the parameter U_i is missing"),
    "a name is not known": (0, lambda p: p.update(U_q=p["U_i"]), "no parameter U_q"),
    "a shape is another": (0, lambda p: p.update(b_i=p["b_i"][:1]), r"b_i has the shape \(1,\)"),
    "a type is another": (0, lambda p: p.update(b_i=p["b_i"].float()), "b_i is of torch.float32"),
    "a device is another": (0, lambda p: p.update(b_i=p["b_i"].to("meta")), "float64 on meta"),
    "a constant too many": (1, lambda c: c.update(k=1.0), "the cell has no constant at all"),
    "no input": (2, lambda x: x.clear(), "the input x is missing"),
    "no axis of rows": (2, lambda x: x.update(x=x["x"][0]), r"not \(T, B, 4\)"),
    "whole numbers": (2, lambda x: x.update(x=x["x"].long()), "which has no fractions"),
    "other units": (2, lambda x: x.update(x=x["x"][..., :1]), r"not \(3, 2, 4\)"),
    "one row for all": (3, lambda s: s.update(h=s["h"][:1]), r"h has the shape \(1, 5\)"),
    "a state too few": (3, lambda s: s.pop("c"), "the state c is missing"),
    "a mask too many": (4, lambda m: m.update(m=torch.ones(3, 2)), "no mask m"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_fit_is_refused(what):
    """PyTorch would broadcast some of it in silence."""
    function, *given = own("lstm", dtype=torch.float64)
    place, change, message = CHANGES[what]
    change(given[place])
    with pytest.raises(LstmgenError, match=message):
        function(*given)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"D": 4}, "needs the size H"),
        ({"D": 4, "H": 5, "T": 3}, "those of the tensors"),
        ({"D": 4, "H": 0}, "the size H is 0"),
        ({"D": 4, "H": 2.5}, "the size H is 2.5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(LstmgenError, match=message):
        sequence_function(cells.get("lstm"), sizes)
