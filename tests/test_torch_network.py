"""A whole network as a module of PyTorch."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from lstmgen import Dropout, Embedding, Layer, LstmgenError, Network, Readout
from lstmgen.torch import NetworkModule, Recurrent


def body(*more, **options):
    layers = [Layer("gru", 5, bidirectional=True), *more, Layer("lstm", 4), Readout(3)]
    return Network(layers, name="body", inputs=6, **options)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return NetworkModule(body(), dtype=torch.float64)


def test_it_is_its_layers(module):
    """The same layers as modules of their own, with the same weights."""
    first = Recurrent("gru", 6, 5, bidirectional=True, dtype=torch.float64)
    second, last = Recurrent("lstm", 10, 4, dtype=torch.float64), nn.Linear(4, 3).double()
    state = module.state_dict()
    with torch.no_grad():
        for name in first._names:
            for direction, suffix in (("forward", ""), ("backward", "_reverse")):
                tensor = state[f"gru1_{direction}.{name}"]
                getattr(first, f"{name}_l0{suffix}").copy_(tensor)
        for name in second._names:
            getattr(second, f"{name}_l0").copy_(state[f"lstm1.{name}"])
        last.weight.copy_(state["readout.W"])
        last.bias.copy_(state["readout.b"])
    x = torch.randn(7, 2, 6, dtype=torch.float64, requires_grad=True)
    y, final = module(x)
    expected, (h, c) = second(first(x)[0])
    expected = last(expected)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(final["lstm1.c"], c[0])
    (ours,) = torch.autograd.grad((y**2).sum() + final["lstm1.h"].sum(), x)
    (theirs,) = torch.autograd.grad((expected**2).sum() + h.sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_gradients(module):
    names = [name for name, _ in module.named_parameters()]
    x = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    hx = {n: torch.randn_like(v).requires_grad_() for n, v in module(x)[1].items()}

    def function(*tensors):
        params = dict(zip(names, tensors, strict=False))
        given = tensors[len(names)], dict(zip(hx, tensors[len(names) + 1 :], strict=True))
        y, final = torch.func.functional_call(module, params, given)
        return (y, *final.values())

    given = [*(p.detach().clone().requires_grad_() for p in module.parameters()), x, *hx.values()]
    assert torch.autograd.gradcheck(function, given, fast_mode=True)
    y, _ = module(x)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="has no second derivatives"):
        first.sum().backward()


def test_symbols_lengths_and_a_label_for_each_sequence():
    torch.manual_seed(0)
    layers = [Embedding(9, 4), Layer("lstm", 5, last=True), Readout(2)]
    module = NetworkModule(Network(layers, name="labels"), batch_first=True, dtype=torch.float64)
    sequences = [torch.randint(9, (n,)) for n in (2, 5, 3)]
    x = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    y, _ = module(x, lengths=torch.tensor([2, 5, 3]))
    assert y.shape == (3, 2)
    for k, sequence in enumerate(sequences):
        torch.testing.assert_close(module(sequence[None])[0][0], y[k])
    packed, _ = module(pack_sequence(sequences, enforce_sorted=False))
    torch.testing.assert_close(packed, y)
    y.sum().backward()
    assert module.embedding.table.grad.shape == (9, 4)


def test_packed_sequences(module):
    sequences = [torch.randn(n, 6, dtype=torch.float64) for n in (4, 6, 1)]
    y, final = module(pack_sequence(sequences, enforce_sorted=False))
    padded, lengths = pad_packed_sequence(y)
    for k, (sequence, n) in enumerate(zip(sequences, lengths.tolist(), strict=True)):
        alone, last = module(sequence[:, None])
        torch.testing.assert_close(padded[:n, k], alone[:, 0])
        torch.testing.assert_close(final["lstm1.h"][k], last["lstm1.h"][0])


def test_dropout_follows_the_seed_of_pytorch_and_the_mode():
    module = NetworkModule(body(Dropout(0.5)), dtype=torch.float64)
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    torch.manual_seed(3)
    first, again = module(x)[0], module(x)[0]
    torch.manual_seed(3)
    assert torch.equal(module(x)[0], first)
    assert not torch.equal(first, again)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


def test_compiled_and_exported(module):
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    expected, _ = module(x)
    expected.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in module.named_parameters()}
    module.zero_grad()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    y, _ = compiled(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])
    lengths = {0: torch.export.Dim("T", max=1000), 1: torch.export.Dim("B", max=1000)}
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=(lengths,))
    longer = torch.randn(9, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(program.module()(longer)[0], module(longer)[0])


def test_copies_and_number_types(module):
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    expected, _ = module(x)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(x)[0], expected)
    single = copy.deepcopy(module).float()
    y, _ = single(x.float())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="x is torch"):
        single(x)
    with pytest.raises(TypeError, match="not with float16"):
        single.half()(x.half())


def test_it_learns():
    torch.manual_seed(0)
    module = NetworkModule(Network([Layer("mgu", 16), Readout(1)], name="adds"), 2)
    x = torch.rand(6, 64, 2)
    target = x[..., :1].cumsum(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(module(x)[0], target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_what_is_wrong_is_said():
    with pytest.raises(LstmgenError, match="init needs the size of x"):
        NetworkModule(Network([Layer("lstm", 4)], name="open"))
    with pytest.raises(LstmgenError, match=r"not a network\n.*Recurrent is for cells"):
        NetworkModule(Recurrent("lstm", 2, 3).cell)
    module = NetworkModule(body())
    with pytest.raises(ValueError, match=r"hx is a dict of gru1_"):
        module(torch.randn(2, 1, 6), {"h": torch.zeros(1, 4)})
