"""``lstmgen.torch.Recurrent`` as a citizen of PyTorch."""

import copy
import multiprocessing
import pickle
import subprocess
import sys

import pytest
import torch
import torch.utils.checkpoint
from sympy import Eq
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

import lstmgen
from lstmgen import LstmgenError, cells
from lstmgen.targets.numpy.target import binds, init_sizes
from lstmgen.torch import Recurrent, RecurrentCell, register
from lstmgen.torch.kernels import Kernel, face
from lstmgen.torch.operators import run
from lstmgen.transcripts import pytorch

SIZES = {"D": 2, "H": 3, "K": 2, "N": 2, "P": 3, "R": 2, "S": 2}


def module_of(cell, sizes=SIZES, **options):
    """A module of a cell with small sizes, whose parameters have moved from where they start."""
    found = cells.get(cell) if isinstance(cell, str) else cell
    of = face(register(found))
    given = init_sizes(found, {n: sizes[n] for n in of.sizes})
    if "hidden_size" not in binds(found):
        given["hidden_size"] = sizes["N"] * sizes["P"]
    torch.manual_seed(0)
    made = Recurrent(found, **given, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def call_of(module, T=3, B=2, suffix="_l0"):
    """x, initial states and masks for a module of one layer."""
    of, sizes = face(module._key), {**module._sizes[suffix], "T": T, "B": B}
    generator = torch.Generator().manual_seed(1)

    def made(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    xs = {n: made(s) for n, s in zip(of.inputs, of.shapes(of.inputs, sizes, T, B), strict=True)}
    if "t" in xs:  # the phased LSTM's times go on
        xs["t"] = torch.cumsum(xs["t"].abs(), 0)
    states = {n: made(s) for n, s in zip(of.states, of.shapes(of.states, sizes, 1, B), strict=True)}
    masks = {n: made(s).sigmoid()
             for n, s in zip(of.masks, of.shapes(of.masks, sizes, T, B), strict=True)}  # fmt: skip
    return xs, states, masks


def function_of(module, xs, states, masks):
    """A function of tensors, and these: all that has a gradient."""
    names = [name for name, _ in module.named_parameters()]

    def function(*tensors):
        params = dict(zip(names, tensors, strict=False))
        at = len(names)
        x = dict(zip(xs, tensors[at : at + len(xs)], strict=True))
        hx = dict(zip(states, tensors[at + len(xs) :], strict=True))
        y, final = torch.func.functional_call(
            module, params, (x, hx or None), {"masks": masks or None}
        )
        ys = [*y.values()] if isinstance(y, dict) else [y]
        return (*ys, *(final.values() if states else ()))

    given = [*(p.detach() for p in module.parameters()), *xs.values(), *states.values()]
    return function, [t.clone().requires_grad_() for t in given]


@pytest.mark.parametrize("name", cells.names())
def test_every_cell(name):
    """First and second derivatives beside differences, and PyTorch's operations beside kernels."""
    module = module_of(name)
    function, given = function_of(module, *call_of(module))
    # along random directions: a gradient of every number of every parameter would take minutes
    assert torch.autograd.gradcheck(function, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)
    ours = function(*given)
    module.backend = "torch"
    for a, b in zip(ours, function(*given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def double(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def stack():
    """Two layers in both directions, and what they are fed with."""
    torch.manual_seed(0)
    return Recurrent("gru", 3, 4, 2, True, dtype=torch.float64), double(5, 2, 3)


# --------------------------------------------------------------------------- any cell


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
def test_compiled_steps_are_made_once_for_all_lengths(monkeypatch):
    module = Recurrent("lstm", 3, 4, 2, dtype=torch.float64)
    expected = [module(double(T, 2, 3))[0] for T in (3, 6)]
    graphs, plain = [], torch.compile

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda step: plain(step, backend=backend, fullgraph=True))
    pytorch._made.cache_clear()  # functions that were made with another compiler
    module.backend = "compiled"
    counts = []
    for T, y in zip((3, 6), expected, strict=True):
        torch.testing.assert_close(module(double(T, 2, 3))[0], y)
        counts.append(len(graphs))
    pytorch._made.cache_clear()
    # for each layer a first step, whose states need no gradient, and one for all others
    assert counts == [4, 4]


def test_a_cell_in_a_file(tmp_path):
    (tmp_path / "leaky.cell").write_text(
        "name: leaky\noutput: h\na = sigmoid(r)\n"
        "h.next = a * h + (1 - a) * tanh(W @ x + U @ h + b)\n"
    )
    module = Recurrent(str(tmp_path / "leaky.cell"), 3, 4, num_layers=2, bidirectional=True)
    y, h = module(torch.randn(5, 2, 3))
    assert y.shape == (5, 2, 8)
    assert h.shape == (4, 2, 4)
    assert "r_l1_reverse" in module.state_dict()


def test_what_is_not_learned_is_a_buffer():
    module = Recurrent("lmu", 2, 3, K=4)
    assert "A_bar_l0" in dict(module.named_buffers())
    assert "A_bar_l0" not in dict(module.named_parameters())


def test_several_inputs_as_a_tuple_or_a_dict():
    module = Recurrent("cfc", 2, 3, P=4, num_layers=2)
    width = [module._sizes["_l0"][axis] for axis in face(module._key).inputs["dt"]]
    x, dt = torch.randn(5, 2, 2), torch.rand(5, 2, *width)
    torch.testing.assert_close(module((x, dt))[0], module({"dt": dt, "x": x})[0])
    with pytest.raises(ValueError, match="cfc has 2 inputs, x, dt"):
        module(x)


def test_masks_broadcast():
    module = Recurrent("lstm_recurrent_dropout", 2, 3, num_layers=2, dtype=torch.float64)
    x, mask = double(5, 2, 2), torch.tensor([0.0, 2.0, 1.0])
    torch.testing.assert_close(
        module(x, masks={"m": mask})[0],
        module(x, masks={"m": mask.double().expand(5, 2, 3).contiguous()})[0],
    )
    with pytest.raises(ValueError, match="has the masks m"):
        module(x)


def test_starts_follow_from_the_seed_of_pytorch():
    torch.manual_seed(7)
    first = Recurrent("lstm", 2, 3, num_layers=2)
    torch.manual_seed(7)
    second = Recurrent("lstm", 2, 3, num_layers=2)
    pair = first.parameters(), second.parameters()
    assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
    assert not torch.equal(first.U_i_l0, first.U_i_l1)
    assert torch.equal(first.b_f_l0, torch.ones(3))  # as the cell says
    second.reset_parameters()
    assert not torch.equal(first.U_i_l0, second.U_i_l0)


# --------------------------------------------------------------------------- calls


def test_packed_sequences_are_each_run_alone(stack):
    module, _ = stack
    sequences = [double(n, 3, seed=n) for n in (2, 5, 1, 5)]
    hx = double(4, 4, 4)
    packed, final = module(pack_sequence(sequences, enforce_sorted=False), hx)
    found = nn.utils.rnn.unpack_sequence(packed)
    for k, sequence in enumerate(sequences):
        y, last = module(sequence, hx[:, k])
        torch.testing.assert_close(found[k], y, rtol=0, atol=1e-14)
        torch.testing.assert_close(final[:, k], last, rtol=0, atol=1e-14)


def test_what_is_not_contiguous_and_what_is_empty(stack):
    module, x = stack
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.is_contiguous()
    torch.testing.assert_close(module(turned)[0], module(x)[0], rtol=0, atol=0)
    batch_first = Recurrent("gru", 3, 4, 2, True, batch_first=True, dtype=torch.float64)
    batch_first.load_state_dict(module.state_dict())
    y, last = batch_first(x.transpose(0, 1))
    torch.testing.assert_close(y.transpose(0, 1), module(x)[0], rtol=0, atol=0)
    assert last.shape == (4, 2, 4)
    hx = double(4, 2, 4).requires_grad_()
    y, last = module(x[:0].requires_grad_(), hx)
    assert y.shape == (0, 2, 8)
    assert torch.equal(last, hx)
    last.sum().backward()
    assert torch.equal(hx.grad, torch.ones_like(hx))
    y, last = module(x[:, :0])
    assert (y.shape, last.shape) == ((5, 0, 8), (4, 0, 4))


def test_dropout_is_between_layers_and_in_training_only():
    module = Recurrent("rnn", 3, 4, 2, dropout=0.5, dtype=torch.float64)
    x = double(5, 2, 3)
    torch.manual_seed(0)
    first, again = module(x)[0], module(x)[0]
    torch.manual_seed(0)
    assert torch.equal(module(x)[0], first)
    assert not torch.equal(first, again)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(double(5, 2, 7)), "x has 7 units; input_size is 3"),
        (lambda m: m(double(5)), r"x has 1 axes; expected \(T, B, 3\), or \(T, 3\)"),
        (lambda m: m(double(5, 2, 3), double(2, 2, 4)), "of 2 layers and directions; expected 4"),
        (lambda m: m(double(5, 2, 3), double(4, 3, 4)), r"the state h has the shape \(3, 4\)"),
        (lambda m: m(double(5, 2, 3), (double(4, 2, 4),) * 2), r"the states \(h\), and hx is 2"),
        (lambda m: m(double(5, 2, 3), {"c": double(4, 2, 4)}), "hx is a dict of the states"),
        (lambda m: m(double(5, 2, 3), masks={"m": 1}), "gru has no masks"),
    ],
)  # fmt: skip
def test_wrong_calls(stack, call, message):
    with pytest.raises(ValueError, match=message):
        call(stack[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recurrent("lstn", 2, 3), 'did you mean "lstm"'),
        (lambda: Recurrent("lstm", 0, 3), "input_size is a positive whole number, not 0"),
        (lambda: Recurrent("lstm", 2, 3, 0), "num_layers is a positive whole number"),
        (lambda: Recurrent("lstm", 2, 3, dropout=1.5), "dropout is a number from 0 on"),
        (lambda: Recurrent("lstm", 2, 3, proj_size=2), "lstm has no size 'P'"),
        (lambda: Recurrent("lstm", 2, 3, backend="gpu"), "backend is one of auto, c, torch"),
        (lambda: Recurrent("mlstm", 2, 3, K=2), "mlstm has the size N, too"),
        (lambda: Recurrent("rg_lru", 2, 3), "give input_size=3, not 2"),
        (lambda: Recurrent("on_lstm", 2, 5, N=2, P=3), r"N\*P = 6 units, and hidden_size is 5"),
        (lambda: Recurrent("tree_lstm", 2, 3, 2), "has the outputs h, c: it can be one layer"),
    ],
)
def test_wrong_sizes(make, message):
    with pytest.raises(LstmgenError, match=message):
        make()


# --------------------------------------------------------------------------- number types


def test_double_computes_in_float64(stack):
    module, x = stack
    single = copy.deepcopy(module).float()
    assert single(x.float())[0].dtype == torch.float32
    torch.testing.assert_close(single.double()(x)[0], copy.deepcopy(module).float().double()(x)[0])
    wide = single.double()(x)[0]
    assert wide.dtype == torch.float64
    error = float((wide - module(x)[0]).detach().abs().max())
    assert 0 < error < 1e-6  # of rounding the parameters once, not of computing in float32
    rerun = copy.deepcopy(single)
    rerun.backend = "torch"
    torch.testing.assert_close(wide, rerun(x)[0], rtol=0, atol=1e-14)


def test_half_is_refused_where_there_is_no_kernel(stack):
    module, x = stack
    with pytest.raises(TypeError, match="with float32 or float64, not with float16"):
        module.half()(x.half())
    with pytest.raises(TypeError, match=r"the parameters are torch\.float16"):
        module(x)
    module.backend = "torch"
    assert module(x.half())[0].dtype == torch.float16


def test_autocast_keeps_float32(stack):
    module, x = stack
    module = module.float()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module(x.bfloat16())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, module(x.bfloat16().float())[0], rtol=0, atol=0)


# --------------------------------------------------------------------------- autograd


def test_a_parameter_that_changed_since_forward_is_noticed(stack):
    module, x = stack
    y, _ = module(x)
    with torch.no_grad():
        module.U_n_l0 += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("frozen", ["parameters", "x", "neither"])
def test_what_needs_no_gradient_has_none_computed(stack, frozen, monkeypatch):
    module, x = stack
    module.requires_grad_(frozen != "parameters")
    x = x.requires_grad_(frozen != "x")
    hx = double(4, 2, 4).requires_grad_()
    wanted, plain = [], Kernel.backward

    def spied(self, *arguments):
        wanted.append(arguments[-2:])
        return plain(self, *arguments)

    monkeypatch.setattr(Kernel, "backward", spied)
    y, _ = module(x, hx)
    y.sum().backward()
    # the first layer is the last to go back through; x is the input of the second one, too
    assert [params for params, _ in wanted] == [frozen != "parameters"] * 4
    assert [inputs for _, inputs in wanted] == [True, True, frozen != "x", frozen != "x"]
    assert (x.grad is None) == (frozen == "x")
    assert hx.grad is not None
    monkeypatch.undo()
    whole = copy.deepcopy(module).requires_grad_()
    given = x.detach().requires_grad_(), hx.detach().requires_grad_()
    whole(*given)[0].sum().backward()
    assert torch.equal(hx.grad, given[1].grad)
    if frozen != "x":
        assert torch.equal(x.grad, given[0].grad)


def test_without_gradients_there_is_no_tape(stack, monkeypatch):
    module, x = stack
    kept, plain = [], Kernel.forward

    def spied(self, *arguments):
        kept.append(arguments[-1])
        return plain(self, *arguments)

    monkeypatch.setattr(Kernel, "forward", spied)
    with torch.no_grad():
        module(x)
    assert kept == [False] * 4
    with torch.inference_mode():
        module(x)
    assert kept == [False] * 8
    module(x)
    assert kept[8:] == [True] * 4


def test_there_is_no_third_derivative():
    module = Recurrent("rnn", 2, 2, dtype=torch.float64)
    x = double(3, 1, 2).requires_grad_()
    (first,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no third|once_differentiable"):
        torch.autograd.grad(second.square().sum(), x)


def test_checkpointing_computes_the_same(stack):
    module, x = stack
    x = x.requires_grad_()
    module(x)[0].square().sum().backward()
    expected, x.grad = x.grad, None
    y, _ = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-14)


def test_functional_transforms(stack):
    module, _ = stack
    params = dict(module.named_parameters())

    def loss(params, x):
        return torch.func.functional_call(module, params, (x,))[0].square().sum()

    xs = double(3, 5, 2, 3)
    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 0))(params, xs)
    for k, x in enumerate(xs):
        grads, dx = torch.func.grad(loss, argnums=(0, 1))(params, x)
        torch.testing.assert_close(each[1][k], dx)
        for name, gradient in grads.items():
            torch.testing.assert_close(each[0][name][k], gradient)
    outputs = torch.func.vmap(lambda x: module(x)[0])(xs)
    torch.testing.assert_close(outputs[1], module(xs[1])[0])
    # an ensemble: parameters are batched as well
    models = [Recurrent("rnn", 3, 4, dtype=torch.float64) for _ in range(2)]
    stacked, buffers = torch.func.stack_module_state(models)

    def one(params, buffers, x):
        return torch.func.functional_call(models[0], (params, buffers), (x,))[0]

    together = torch.func.vmap(one, in_dims=(0, 0, None))(stacked, buffers, xs[0])
    for model, y in zip(models, together, strict=True):
        torch.testing.assert_close(y, model(xs[0])[0])


# --------------------------------------------------------------------------- graphs


def test_the_operator_is_registered_as_pytorch_asks(stack):
    module, x = stack
    params = [p for n, p in module.named_parameters() if n.endswith("_l0")]
    given = params, [x.requires_grad_()], [double(2, 4).requires_grad_()], [], [], module._key, True
    # not test_aot_dispatch_dynamic, which compares tapes: these have gaps that nobody writes
    torch.library.opcheck(
        torch.ops.lstmgen.forward.default, given,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


def test_compiled_it_is_one_node_whatever_the_length(stack):
    module = Recurrent("lstm", 3, 4, dtype=torch.float64)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=True)
    for T, B in ((5, 2), (8, 2), (9, 3)):
        x = double(T, B, 3)
        torch.testing.assert_close(compiled(x)[0], module(x)[0], rtol=0, atol=0)
    calls = [n for n in graphs[0].graph.nodes if "lstmgen" in str(n.target)]
    assert len(calls) == 1
    assert len(graphs) == 1


def test_compiled_gradients(stack):
    module, x = stack
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = x.requires_grad_()
    module(x)[0].square().sum().backward()
    expected = [x.grad, *(p.grad for p in module.parameters())]
    x.grad = None
    module.zero_grad()
    compiled(x)[0].square().sum().backward()
    for found, wanted in zip(
        [x.grad, *(p.grad for p in module.parameters())], expected, strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


_LOADS = """
import sys, torch, lstmgen.torch
program = torch.export.load(sys.argv[1])
x, expected = torch.load(sys.argv[2])
y, _ = program.module()(x)
assert torch.equal(y, expected), (y, expected)
"""


def test_an_exported_program_runs_in_another_process(stack, tmp_path):
    module, x = stack
    lengths = {0: torch.export.Dim("T", max=1000), 1: torch.export.Dim("B", max=1000)}
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=(lengths,))
    longer = double(7, 3, 3)
    assert torch.equal(program.module()(longer)[0], module(longer)[0])
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save((longer, module(longer)[0].detach()), tmp_path / "case.pt")
    command = [sys.executable, "-c", _LOADS, tmp_path / "program.pt2", tmp_path / "case.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------- copies, processes


def test_copies_and_files(stack, tmp_path):
    module, x = stack
    expected = module(x)[0]
    torch.save(module, tmp_path / "module.pt")
    torch.save(module.state_dict(), tmp_path / "state.pt")
    fresh = Recurrent("gru", 3, 4, 2, True, dtype=torch.float64)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded, fresh):
        assert torch.equal(copied(x)[0], expected)
        with torch.no_grad():
            copied.U_n_l0 += 1  # its own
    assert torch.equal(module(x)[0], expected)


def _run_in_a_process(module, x, expected):
    y, _ = module(x)
    y.sum().backward()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_other_processes(stack, how):
    module, x = stack
    expected = module(x)[0].detach()
    context = multiprocessing.get_context(how)
    process = context.Process(target=_run_in_a_process, args=(module, x, expected))
    process.start()
    process.join(120)
    assert process.exitcode == 0


class _Features(torch.utils.data.Dataset):
    def __init__(self, module, xs):
        self.module, self.xs = module, xs

    def __len__(self):
        return len(self.xs)

    def __getitem__(self, k):
        with torch.no_grad():
            return self.module(self.xs[k])[0]


def test_workers_of_a_data_loader(stack):
    module, _ = stack
    xs = double(6, 5, 3)
    loader = DataLoader(_Features(module, xs), batch_size=2, num_workers=2)
    found = torch.cat(list(loader))
    torch.testing.assert_close(found, torch.stack([module(x)[0] for x in xs]).detach())


def test_threads_of_pytorch_are_used(stack):
    module, x = stack
    x = double(5, 8, 3)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            y, _ = module(x)
            torch.set_num_threads(1)  # the way back has the slices of the way there
            module.zero_grad()
            y.square().sum().backward()
            results.append([y, module.W_n_l0.grad.clone()])
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------- single steps


def test_steps_are_a_sequence():
    torch.manual_seed(0)
    step = RecurrentCell("lru", 3, 4, dtype=torch.float64)
    whole = Recurrent("lru", 3, 4, dtype=torch.float64)
    whole.load_state_dict({f"{n}_l0": v for n, v in step.state_dict().items()})
    x, hx, ys = double(5, 2, 3), None, []
    for x_t in x:
        y, hx = step(x_t, hx)
        ys.append(y)
    expected, last = whole(x)
    torch.testing.assert_close(torch.stack(ys), expected)
    for one, other in zip(hx, last, strict=True):
        torch.testing.assert_close(one, other[0])


def test_names_that_a_module_has_already_are_refused():
    x, h, U = lstmgen.inputs("x"), lstmgen.states("h"), lstmgen.matrix("half")
    V = lstmgen.matrix("V")
    cell = lstmgen.Cell("named", [Eq(h.next, lstmgen.tanh(U @ h + V @ x))], output=h)
    with pytest.raises(LstmgenError, match="a module has half already"):
        RecurrentCell(cell, 3, 3)
    assert Recurrent(cell, 3, 3)(torch.randn(2, 1, 3))[0].shape == (2, 1, 3)


def test_tensors_that_c_could_not_read_are_refused_or_made_plain(stack):
    module, x = stack
    params = [p for n, p in module.named_parameters() if n.endswith("_l0")]
    with pytest.raises(TypeError, match=r"a tensor is of torch\.float32, and others of"):
        run(module._key, params, [x], [double(2, 4).float()], [], (), 1)
    short = [p[:2] if k == 2 else p for k, p in enumerate(params)]
    with pytest.raises(ValueError, match=r"gru: W_n has the shape \(2, 3\); expected \(H=4, D=3\)"):
        run(module._key, short, [x], [], [], (), 1)
    negative = torch.complex(x, x).conj().imag  # its sign is a flag, and not in memory
    assert negative.is_neg()
    torch.testing.assert_close(module(negative)[0], module(-x)[0], rtol=0, atol=0)
