"""What PyTorch's own tests of recurrent layers ask of these, asked of ours."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lstmgen.torch import NetworkModule, Recurrent, RecurrentCell, from_torch


def double(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Recurrent("lstm", 3, 4, 2, dtype=torch.float64)


def test_without_states_they_are_zeros(module):
    x, zeros = double(5, 2, 3), torch.zeros(2, 2, 4, dtype=torch.float64)
    for one, other in zip(module(x)[1], module(x, (zeros, zeros))[1], strict=True):
        assert torch.equal(one, other)


def test_going_back_twice_over_a_graph_that_was_retained(module):
    x = double(5, 2, 3).requires_grad_()
    y, _ = module(x)
    y.sum().backward(retain_graph=True)
    first = [x.grad.clone(), *(p.grad.clone() for p in module.parameters())]
    x.grad = None
    module.zero_grad()
    y.sum().backward()
    again = [x.grad, *(p.grad for p in module.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_states_are_not_broadcast_over_the_batch(module):
    one = torch.zeros(2, 1, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"the state h has the shape \(1, 4\); expected \(B=2"):
        module(double(5, 2, 3), (one, one))
    with pytest.raises(ValueError, match="the state"):
        RecurrentCell("gru", 3, 4)(torch.randn(2, 3), torch.randn(1, 4))
    with pytest.raises(ValueError, match="x has 4 units; input_size is 3"):
        RecurrentCell("gru", 3, 4)(torch.randn(2, 4))


def test_states_of_another_number_type_are_refused(module):
    zeros = torch.zeros(2, 2, 4)
    with pytest.raises(TypeError, match=r"a tensor is of torch\.float32, and others of"):
        module(double(5, 2, 3), (zeros, zeros))


def test_states_without_a_batch_go_with_x_without_one(module):
    state = torch.zeros(2, 4, dtype=torch.float64)
    assert module(double(5, 3), [state, state])[0].shape == (5, 4)
    with pytest.raises(ValueError, match="the state h has the shape"):
        module(double(5, 2, 3), [state, state])


def test_arguments_by_name():
    module = Recurrent(
        cell="gru", input_size=3, hidden_size=4, num_layers=2, bidirectional=True, dropout=0.1,
        batch_first=True,
    )  # fmt: skip
    y, h = module(x=torch.randn(2, 5, 3), hx=torch.zeros(4, 2, 4))
    assert (y.shape, h.shape) == ((2, 5, 8), (4, 2, 4))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_training_goes_as_with_the_layers_of_pytorch(kind):
    torch.manual_seed(0)
    theirs = nn.Sequential(getattr(nn, kind)(3, 4, dtype=torch.float64))[0]
    ours = from_torch(theirs)
    x, losses = double(5, 2, 3), {}
    for name, layer in (("theirs", theirs), ("ours", ours)):
        # with the biases of PyTorch, which are two, each goes half the way that ours goes
        biases = [p for n, p in layer.named_parameters() if n.startswith("b")]
        others = [p for n, p in layer.named_parameters() if not n.startswith("b")]
        rate = 0.1 if name == "theirs" or kind == "GRU" else 0.2
        if kind == "GRU" and name == "ours":
            shared = [p for n, p in layer.named_parameters() if n[:4] in ("b_r_", "b_z_")]
            single = [p for n, p in layer.named_parameters() if n[:4] in ("b_n_", "b_m_")]
            groups = [{"params": shared, "lr": 0.2}, {"params": [*single, *others]}]
        else:
            groups = [{"params": biases, "lr": rate}, {"params": others}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        losses[name] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = layer(x)[0].square().sum()
            loss.backward()
            optimizer.step()
            losses[name].append(float(loss.detach()))
    assert losses["ours"] == pytest.approx(losses["theirs"], rel=1e-12)


def test_parameters_that_are_computed_from_others():
    module = RecurrentCell("rnn", 3, 4, dtype=torch.float64)
    x = double(2, 3)
    expected = module(x)
    parametrizations.weight_norm(module, "U_h")
    torch.testing.assert_close(module(x), expected)
    module(x).sum().backward()
    assert module.parametrizations.U_h.original0.grad is not None
    prune.l1_unstructured(module, "W_h", amount=0.5)
    assert int((module.W_h == 0).sum()) == 6
    module(x).sum().backward()
    assert module.W_h_orig.grad is not None


def test_layers_may_share_parameters(module):
    other = Recurrent("lstm", 3, 4, 2, dtype=torch.float64)
    other.W_i_l0 = module.W_i_l0
    x = double(5, 2, 3)
    (module(x)[0].sum() + other(x)[0].sum()).backward()
    shared = module.W_i_l0.grad.clone()
    module.zero_grad()
    module(x)[0].sum().backward()
    alone = module.W_i_l0.grad.clone()
    module.zero_grad()
    other(x)[0].sum().backward()
    torch.testing.assert_close(shared, alone + module.W_i_l0.grad)


def test_made_without_memory_and_started_later():
    with torch.device("meta"):
        module = Recurrent("lstm", 3, 4)
        whole = nn.Sequential(Recurrent("lmu", 3, 4, K=4))
    assert module.W_i_l0.is_meta
    module = module.to_empty(device="cpu")
    module.reset_parameters()
    assert torch.equal(module.b_f_l0, torch.ones(4))
    assert module(torch.randn(2, 1, 3))[0].shape == (2, 1, 4)
    whole.to_empty(device="cpu")[0].reset_parameters()
    assert bool(whole[0].A_bar_l0.any())  # what is not learned is made again, too


def test_a_state_that_does_not_fit_is_said_by_name(module):
    state = module.state_dict()
    state["W_x_l0"] = state.pop("W_i_l0")
    with pytest.raises(RuntimeError, match=r'Missing key.*"W_i_l0"[\s\S]*Unexpected key.*"W_x_l0"'):
        module.load_state_dict(state)


def test_copies_of_a_module_that_has_run(module):
    x = double(5, 2, 3).requires_grad_()
    y, _ = module(x)
    copied = copy.deepcopy(module).share_memory()
    torch.testing.assert_close(copied(x)[0], y, rtol=0, atol=0)
    optimizer = torch.optim.Adam(copied.parameters())
    copied(x)[0].sum().backward()
    nn.utils.clip_grad_norm_(copied.parameters(), 1.0)
    optimizer.step()
    again = torch.optim.Adam(copied.parameters())
    again.load_state_dict(optimizer.state_dict())
    assert not torch.equal(copied.W_i_l0, module.W_i_l0)
    assert torch.equal(nn.DataParallel(module)(x)[0], y)


def test_hooks_of_a_module(module):
    seen = []
    module.register_forward_hook(lambda _m, _x, out: seen.append(out[0].shape))
    module(double(5, 2, 3))
    assert seen == [(5, 2, 4)]


def test_a_network_on_no_device():
    from lstmgen import Layer, Network, Readout

    with torch.device("meta"):
        module = NetworkModule(Network([Layer("gru", 4), Readout(2)], name="later"), 3)
    module = module.to_empty(device="cpu")
    module.reset_parameters()
    assert module(torch.randn(2, 1, 3))[0].shape == (2, 1, 2)
