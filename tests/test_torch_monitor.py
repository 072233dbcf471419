"""lstmgen.torch.monitor: what it writes, by autograd and by hand; and that training is the same."""

import copy
import io

import numpy as np
import pytest
import torch
from conftest import need
from test_monitor import SIZES, Problem, Recorder
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstmgen import LstmgenError
from lstmgen.torch import Recurrent, RecurrentCell, monitor


@pytest.fixture(autouse=True)
def _compiler():
    need("cc")


class Model(nn.Module):
    def __init__(self, cell="lstm", **options):
        super().__init__()
        self.rnn = Recurrent(cell, 3, 4, **options)
        self.out = nn.Linear(self.rnn.output_size, 1)

    def forward(self, x, hx=None):
        y, _ = self.rnn(x, hx)
        if not isinstance(y, torch.Tensor):
            y, _ = pad_packed_sequence(y)
        return self.out(y)


def trained(watched, calls=4, **options):
    """A model after some updates, with what was written, the numbers drawn next, and all losses."""
    torch.manual_seed(0)
    model, recorder, losses = Model(**options), Recorder(), []
    monitoring = monitor(model, recorder, every=2) if watched else None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(calls):
        optimizer.zero_grad()
        loss = model(torch.randn(6, 5, 3)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, recorder, torch.rand(3), losses, monitoring


@pytest.mark.parametrize(
    "options", [{"num_layers": 2, "bidirectional": True, "dropout": 0.3}, {"cell": "qrnn"}]
)
def test_training_is_the_same_to_the_bit(options):
    one, _, drawn, losses, _ = trained(False, **options)
    other, recorder, drawn_too, losses_too, _ = trained(True, **options)
    assert losses == losses_too and torch.equal(drawn, drawn_too)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p.grad, q.grad)
    assert set(recorder.scalars["gradient/out.weight"]) == {0, 2}


def test_all_layers_and_directions_are_written():
    model, recorder, *_ = trained(True, num_layers=2, bidirectional=True)
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        for gate in "ifgo":
            assert recorder.scalars[f"saturated_low/rnn{suffix}.{gate}"].keys() == {0, 2}
            assert recorder.bars[f"gates/rnn{suffix}.{gate}"][0]["num"] == 6 * 5 * 4
        for state in "hc":
            assert recorder.scalars[f"adjoint/rnn{suffix}.{state}/5_back"].keys() == {0, 2}
    gradients = {tag for tag in recorder.scalars if tag.startswith("gradient/")}
    assert gradients == {f"gradient/{name}" for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["gru", "janet", "lstm", "mlstm", "lstm_variational"])
def test_adjoints_are_those_of_autograd(name):
    """The same cell, parameters and loss as a transcription of its equations has."""
    problem = Problem(name)
    sizes = {str(n): SIZES[str(n)] for n in problem.cell.sizes}
    hidden = sizes["H"] if "H" in sizes else sizes["P"]
    more = {n: v for n, v in sizes.items() if n not in "DH"}
    module = Recurrent(problem.cell, 3, hidden, dtype=torch.float64, **more)
    with torch.no_grad():
        for p in problem.cell.parameters:
            getattr(module, f"{p.name}_l0").copy_(torch.from_numpy(problem.params[p.name]))
    recorder = Recorder()
    monitor(module, recorder)
    tensor = {n: torch.from_numpy(a) for n, a in (problem.state | problem.masks).items()}
    masks = {m.name: tensor[m.name] for m in problem.cell.masks}
    hx = {s.name: tensor[s.name][None] for s in problem.cell.states}
    y, last = module(torch.from_numpy(problem.x["x"]), hx, masks=masks)
    np.testing.assert_allclose(y.detach(), problem.expected.y, rtol=1e-10)
    loss = (torch.from_numpy(next(iter(problem.dy.values()))) * y).sum()
    loss = loss + sum((torch.from_numpy(problem.dstate[n]) * last[n][0]).sum() for n in last)
    loss.backward()
    for s in problem.cell.states:
        total = problem.adjoint(s.name)
        for k in (0, 1, 2):
            found = recorder.scalars[f"adjoint/{name}_l0.{s.name}/{k}_back"][0]
            assert found == pytest.approx(np.linalg.norm(total[-1 - k]), rel=1e-8)
    for p in problem.cell.learned:
        found = recorder.scalars[f"gradient/{p.name}_l0"][0]
        expected = np.linalg.norm(problem.expected.params[p.name])
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_sequences_are_as_each_by_itself(enforce_sorted):
    lengths = [6, 4, 4, 1] if enforce_sorted else [4, 6, 1, 4]
    torch.manual_seed(0)
    model = Model(bidirectional=True).double()
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    together = Recorder()
    handle = monitor(model, together)
    model(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted))
    handle.remove()

    def weighed(y, row):
        return (y[: lengths[row], row] * (row + 1)).sum()

    one = Recorder()
    handle = monitor(model, one)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)
    y = model(packed)
    sum(weighed(y, row) for row in range(4)).backward()
    handle.remove()

    alone = []
    for row, length in enumerate(lengths):
        recorder = Recorder()
        handle = monitor(model, recorder)
        (model(x[:length, row : row + 1]) * (row + 1)).sum().backward()
        handle.remove()
        alone.append(recorder)
    for suffix in ("_l0", "_l0_reverse"):
        for state in "hc":
            tag = f"adjoint_by_steps_back/rnn{suffix}.{state}"
            expected = np.zeros(6)
            for recorder, length in zip(alone, lengths, strict=True):
                expected[:length] += np.square(recorder.bars[tag][0]["bucket_counts"])
            np.testing.assert_allclose(
                one.bars[tag][0]["bucket_counts"], np.sqrt(expected), rtol=1e-9
            )
        tag = f"gates/rnn{suffix}.f"
        counts = sum(np.array(r.bars[tag][0]["bucket_counts"]) for r in alone)
        assert one.bars[tag][0]["bucket_counts"] == counts.tolist()


class InOperations(Recurrent):
    """The Elman network by PyTorch's own operations, as on another device."""

    def _run(self, suffix, xs, states, masks):
        W, U, b = self._params(suffix)
        h, ys = states[0] if states else xs[0].new_zeros(xs[0].shape[1], len(b)), []
        for x in xs[0]:
            h = torch.tanh(x @ W.T + h @ U.T + b)
            ys.append(h)
        return [torch.stack(ys)], [h]


def test_operations_of_pytorch_are_watched_alike():
    """There, the last state is a part of y: its gradient is not to count twice."""
    found = []
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for kind in (Recurrent, InOperations):
        torch.manual_seed(0)
        module, recorder = kind("rnn", 3, 4).double(), Recorder()
        assert module._names == ["W_h", "U_h", "b_h"]
        monitor(module, recorder)
        y, h = module(x)
        (y.square().sum() + 3 * h.sum()).backward()
        found.append(recorder.bars["adjoint_by_steps_back/rnn_l0.h"][0]["bucket_counts"])
        found.append([p.grad for p in module.parameters()])
    np.testing.assert_allclose(found[0], found[2])
    for p, q in zip(found[1], found[3], strict=True):
        torch.testing.assert_close(p, q)


def test_the_number_type_may_change():
    model, recorder = Model(), Recorder()
    monitor(model, recorder, every=1)
    model(torch.randn(4, 2, 3)).sum().backward()
    model.double()
    model.zero_grad()
    model(torch.randn(4, 2, 3, dtype=torch.float64)).sum().backward()
    for tag in ("adjoint/rnn_l0.h/0_back", "gradient/rnn.U_f_l0", "saturated_low/rnn_l0.f"):
        assert recorder.scalars[tag].keys() == {0, 1}


def test_a_loss_of_a_part_alone():
    """Of the last state; of the first steps; of one layer's output that another module has."""
    torch.manual_seed(0)
    module, x = Recurrent("gru", 3, 4).double(), torch.randn(6, 2, 3, dtype=torch.float64)
    found = []
    for last in (False, True):
        recorder = Recorder()
        handle = monitor(module, recorder)
        y, h = module(x)
        (h.sum() if last else y[-1].sum()).backward()
        handle.remove()
        found.append(recorder.bars["adjoint_by_steps_back/gru_l0.h"][0]["bucket_counts"])
    np.testing.assert_allclose(*found)
    recorder = Recorder()
    monitor(module, recorder)
    module(x)[0][:2].sum().backward()
    norms = recorder.bars["adjoint_by_steps_back/gru_l0.h"][0]["bucket_counts"]
    assert norms[:4] == [0.0] * 4 and all(norms[4:])


def test_packed_sequences_of_which_the_first_steps_count():
    model, recorder = Model(), Recorder()
    monitor(model, recorder)
    x = pack_padded_sequence(torch.randn(6, 3, 3), torch.tensor([6, 3, 2]))
    model(x)[:2].sum().backward()
    norms = recorder.bars["adjoint_by_steps_back/rnn_l0.h"][0]["bucket_counts"]
    assert norms[0] > 0 and norms[3] == 0 and norms[4] > 0  # 2 steps of 2, of 3, and of 6


# --------------------------------------------------------------------------- when


def test_only_training_is_counted_and_written():
    model, recorder = Model(), Recorder()
    monitor(model, recorder, every=2, step=10)
    x = torch.randn(2, 3, 3)
    with torch.no_grad():
        model(x)
    model.eval()
    model(x).sum().backward()
    assert not recorder.scalars
    model.train()
    for _ in range(3):
        model(x).sum().backward()
    assert recorder.scalars["saturated_low/rnn_l0.f"].keys() == {10, 12}


def test_after_remove_nothing_is_left():
    model, recorder, *_, monitoring = trained(True, calls=1)
    before = {tag: len(found) for tag, found in recorder.scalars.items()}
    y = model(torch.randn(2, 3, 3)), model(torch.randn(2, 3, 3))  # the second one is watched
    monitoring.remove()
    sum(part.sum() for part in y).backward()
    after = {tag: len(found) for tag, found in recorder.scalars.items()}
    assert {tag for tag in after if after[tag] != before[tag]} == {
        tag for tag in after if tag.startswith("saturated")
    }
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "_run" not in vars(module)
    for p in model.parameters():
        assert not p._post_accumulate_grad_hooks


def test_a_call_that_fails_leaves_the_module_as_it_was():
    model, recorder = Model(), Recorder()
    monitor(model, recorder, every=1)
    with pytest.raises(ValueError, match="input_size is 3"):
        model(torch.randn(2, 3, 5))
    assert "_run" not in vars(model.rnn) and not recorder.scalars
    model(torch.randn(2, 3, 3)).sum().backward()
    assert recorder.scalars["gradient/out.bias"].keys() == {1}


def test_two_calls_before_the_backward_pass():
    """What arrives late belongs to the call that it is of."""
    model, recorder = Model(), Recorder()
    monitor(model, recorder, every=2)
    x = torch.randn(4, 2, 3)
    model(x), model(2 * x).sum().backward()  # the first one has no way back
    tags = [tag for tag in recorder.scalars if not tag.startswith("saturated")]
    assert not tags
    (model(x) + model(2 * x)).sum().backward()  # a module that is called twice for one loss
    assert recorder.scalars["adjoint/rnn_l0.h/0_back"].keys() == {2}
    assert recorder.scalars["gradient/out.bias"].keys() == {2}
    assert recorder.scalars["gradient/rnn.U_f_l0"].keys() == {2}


def test_copies_and_files_of_a_watched_model_are_not_watched():
    model, recorder = Model(), Recorder()
    recorder.lock = __import__("threading").Lock()  # as a writer has one: no file can hold it
    monitor(model, recorder)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        other(torch.randn(2, 3, 3)).sum().backward()
    assert not recorder.scalars


def test_half_precision_is_watched_in_single():
    model, recorder = Model(), Recorder()
    monitor(model, recorder)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(4, 2, 3)).float().sum()
    loss.backward()
    assert recorder.scalars["adjoint/rnn_l0.h/0_back"][0] > 0


# what a graph hands on to the next one is no leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_within_compiled_models():
    torch._dynamo.reset()
    model, recorder = Model(), Recorder()
    handle = monitor(model, recorder, every=2)
    plain = copy.deepcopy(model)
    compiled, xs = torch.compile(model, backend="eager"), torch.randn(3, 4, 2, 3)
    for x in xs:
        compiled(x).sum().backward()
        plain(x).sum().backward()
    assert recorder.scalars["adjoint/rnn_l0.h/0_back"].keys() == {0, 2}
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    torch._dynamo.reset()
    whole = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"lstmgen\.torch\.monitor watches this module"):
        whole(xs[0])
    handle.remove()
    torch._dynamo.reset()
    whole(xs[0])
    with pytest.raises(LstmgenError, match=r"before torch\.compile"):
        monitor(whole, recorder)


# --------------------------------------------------------------------------- what is refused


def test_a_model_without_gates_is_refused():
    for model in (nn.Linear(2, 2), nn.LSTM(2, 2), RecurrentCell("lstm", 2, 2)):
        with pytest.raises(
            LstmgenError, match=f"no lstmgen.torch.Recurrent in this {type(model).__name__}"
        ):
            monitor(model, Recorder())


def test_what_is_no_writer_is_refused():
    with pytest.raises(TypeError, match="a str has no add_scalar"):
        monitor(Model(), "runs/first")
    with pytest.raises(LstmgenError, match="every is a positive whole number"):
        monitor(Model(), Recorder(), every=0)


def test_function_transforms_are_refused():
    model = Model()
    monitor(model, Recorder())
    x = torch.randn(4, 2, 3)

    def loss(params):
        return torch.func.functional_call(model, params, (x,)).sum()

    with pytest.raises(LstmgenError, match=r"within torch\.func"):
        torch.func.grad(loss)(dict(model.named_parameters()))
    assert "_run" not in vars(model.rnn)
