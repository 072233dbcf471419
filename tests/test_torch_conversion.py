"""Modules beside PyTorch's own layers, on configurations that are made up."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstmgen import LstmgenError
from lstmgen.conventions.pytorch import convention_of
from lstmgen.torch import Recurrent, RecurrentCell, convert, from_torch, to_torch

# The same sums in another order: some rounding errors of each of the steps. What grows them is how
# often gradients are summed up, not the sizes of the layers, which are small.
# PyTorch says that it takes another implementation of its own for projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}


def close(ours, theirs, dtype):
    scale = max(1.0, float(theirs.detach().abs().max()) if theirs.numel() else 1.0)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES[dtype] * scale)


@st.composite
def layers(draw):
    kind = draw(st.sampled_from(["LSTM", "LSTM", "GRU", "RNN"]))
    D, H = draw(st.integers(1, 9)), draw(st.integers(2, 9))
    options = {
        "num_layers": draw(st.integers(1, 3)), "bias": draw(st.booleans()),
        "bidirectional": draw(st.booleans()), "batch_first": draw(st.booleans()),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
    }  # fmt: skip
    if kind == "LSTM":
        options["proj_size"] = draw(st.sampled_from([0, 0, H - 1]))
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    return getattr(nn, kind)(D, H, **options)


@st.composite
def calls(draw, layer):
    """x and hx for a layer: batched, a single sequence, or packed in some order."""
    dtype = next(layer.parameters()).dtype
    T, B = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    how = draw(st.sampled_from(["batch", "single", "packed", "sorted"]))
    D, L = layer.input_size, layer.num_layers * (2 if layer.bidirectional else 1)
    lead = (B, T) if layer.batch_first else (T, B)
    x = torch.randn((T, D) if how == "single" else (*lead, D), dtype=dtype)
    rows = () if how == "single" else (B,)
    widths = [getattr(layer, "proj_size", 0) or layer.hidden_size]
    if isinstance(layer, nn.LSTM):
        widths.append(layer.hidden_size)
    hx = None
    if draw(st.booleans()):
        found = [torch.randn((L, *rows, n), dtype=dtype) for n in widths]
        hx = tuple(found) if len(found) > 1 else found[0]
    lengths = None
    if how in ("packed", "sorted"):
        lengths = draw(st.lists(st.integers(1, T), min_size=B, max_size=B))
        if how == "sorted":
            lengths.sort(reverse=True)
    return x, hx, lengths, how == "sorted"


def tensors(*values):
    found = []
    for value in values:
        if isinstance(value, PackedSequence):
            found.append(value.data)
        elif isinstance(value, torch.Tensor):
            found.append(value)
        elif value is not None:
            found += tensors(*value)
    return found


def results(module, x, hx, lengths, is_sorted):
    """Outputs, and the gradients of a made-up loss by x and the initial states."""
    x = x.clone().requires_grad_()
    hx = copy.deepcopy(hx)
    for state in tensors(hx):
        state.requires_grad_()
    given = x
    if lengths is not None:
        given = pack_padded_sequence(
            x, lengths, batch_first=module.batch_first, enforce_sorted=is_sorted
        )
    y, final = module(given, hx)
    outputs = tensors(y, final)
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (torch.randn(v.shape, generator=generator, dtype=v.dtype) * v).sum() for v in outputs
    )
    loss.backward()
    if lengths is not None:
        assert isinstance(y, PackedSequence)
        assert torch.equal(y.batch_sizes, given.batch_sizes)
    return [*outputs, x.grad, *(state.grad for state in tensors(hx))]


@given(st.data())
def test_layers_are_those_of_pytorch_there_and_back(data):
    theirs = data.draw(layers())
    dtype = next(theirs.parameters()).dtype
    call = data.draw(calls(theirs))
    ours = from_torch(theirs)
    back = to_torch(ours)
    expected = results(theirs, *call)
    for module in (ours, back):
        for found, wanted in zip(results(module, *call), expected, strict=True):
            close(found, wanted, dtype)
    assert type(back) is type(theirs)
    assert back.bias == theirs.bias
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    for name, parameter in back.named_parameters():
        close(parameter.grad, grads[name], dtype)
    convention = convention_of(ours.cell)
    for theirs_name, gradient in grads.items():
        stem, _, place = theirs_name.partition("_l")
        names = convention.tensors[stem]
        for name, rows in zip(names, gradient.chunk(len(names)), strict=True):
            if name:
                close(getattr(ours, f"{name}_l{place}").grad, rows, dtype)


@given(st.sampled_from(["LSTM", "GRU", "RNN"]), st.booleans(), st.booleans(), st.booleans())
def test_single_steps_are_those_of_pytorch_there_and_back(kind, bias, batched, has_state):
    torch.manual_seed(1)
    theirs = getattr(nn, f"{kind}Cell")(3, 5, bias=bias, dtype=torch.float64)
    ours = from_torch(theirs)
    assert isinstance(ours, RecurrentCell)
    rows = (4,) if batched else ()
    x, hx = torch.randn(*rows, 3, dtype=torch.float64), None
    if has_state:
        found = [torch.randn(*rows, 5, dtype=torch.float64) for _ in range(1 + (kind == "LSTM"))]
        hx = tuple(found) if kind == "LSTM" else found[0]
    expected = tensors(theirs(x, hx))
    for module in (ours, to_torch(ours)):
        for found, wanted in zip(tensors(module(x, hx)), expected, strict=True):
            close(found, wanted, torch.float64)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict({"rnn": nn.LSTM(3, 4, batch_first=True), "norm": nn.LayerNorm(4)})
        self.again = self.body["rnn"]  # the same layer in two places
        self.step = nn.GRUCell(4, 3)

    def forward(self, x):
        self.body["rnn"].flatten_parameters()
        y = self.body["norm"](self.body["rnn"](x)[0])
        y, _ = self.again(self.step(y.flatten(0, 1)).view(x.shape))
        return y


def test_a_model_is_converted_in_place():
    torch.manual_seed(0)
    model = Model().eval()
    model.step.weight_ih.requires_grad_(False)
    x = torch.randn(2, 5, 3)
    expected = model(x)
    made = convert(model)
    assert made is model
    assert isinstance(model.again, Recurrent)
    assert model.again is model.body["rnn"]
    assert not model.again.training
    assert not any(isinstance(m, (nn.LSTM, nn.GRUCell)) for m in model.modules())
    assert not model.step.W_r.requires_grad
    close(model(x), expected, torch.float32)
    assert isinstance(convert(nn.GRU(2, 3)), Recurrent)


def test_what_would_be_lost_is_refused_and_nothing_is_changed():
    model = nn.Sequential(nn.RNN(2, 3), nn.LSTM(3, 4))
    parametrizations.weight_norm(model[1], "weight_hh_l0")
    with pytest.raises(LstmgenError, match=r"1: it has parametrizations"):
        convert(model)
    assert isinstance(model[0], nn.RNN)
    hooked = nn.GRU(2, 3)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(LstmgenError, match="hooks"):
        from_torch(hooked)
    with pytest.raises(LstmgenError, match=r"it is a Linear, and not an nn\.LSTM"):
        from_torch(nn.Linear(2, 3))
    with pytest.raises(LstmgenError, match=r"no layer with the equations of mgu: it has nn\.LSTM"):
        to_torch(Recurrent("mgu", 2, 3))


def test_a_subclass_stays_as_it_is():
    class Mine(nn.LSTM):
        pass

    model = nn.Sequential(Mine(2, 3))
    assert type(convert(model)[0]) is Mine
