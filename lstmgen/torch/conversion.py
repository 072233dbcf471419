"""From and to PyTorch's own recurrent layers: the same weights, outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..conventions.pytorch import CONVENTIONS, Convention, convention_of
from ..errors import LstmgenError
from .recurrent import Recurrent
from .single import RecurrentCell

_LAYERS = (nn.LSTM, nn.GRU, nn.RNN)
_STEPS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def convert(model: nn.Module) -> nn.Module:
    """Replace PyTorch's recurrent layers inside a model by ours.

    All modules of the very classes ``nn.LSTM``, ``nn.GRU``, ``nn.RNN``, ``nn.LSTMCell``,
    ``nn.GRUCell`` and ``nn.RNNCell`` are replaced, wherever they are; others, and subclasses of
    these, stay. A layer that is in several places is still one.

    Parameters
    ----------
    model : nn.Module
        It is changed in place. Make the optimiser afterwards: parameters are new ones.

    Returns
    -------
    nn.Module
        The model; what replaces it, if it is such a layer itself.

    Raises
    ------
    LstmgenError
        If a layer has parametrizations or hooks, which would be lost. Nothing is changed then.
    """
    found = {layer: name for name, layer in model.named_modules() if _is_known(layer)}
    made: dict[nn.Module, nn.Module] = {}
    for layer, name in found.items():
        try:
            made[layer] = from_torch(layer)
        except LstmgenError as error:
            raise LstmgenError(f"{name or 'the model'}: {error}") from error
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, name, made[child])
    return made.get(model, model)


def from_torch(layer: nn.Module) -> Recurrent | RecurrentCell:
    """What computes as a layer of PyTorch does, with a copy of its weights.

    The two biases of PyTorch become their sum, where the equations have only the sum; without
    biases they are zeros that are not learned.

    Parameters
    ----------
    layer
        An ``nn.LSTM``, ``nn.GRU``, ``nn.RNN``, or the ``…Cell`` of one.

    Raises
    ------
    LstmgenError
        If it is something else, or has parametrizations or hooks, which would be lost.
    """
    _refuse_additions(layer)
    convention = _convention_of_layer(layer)
    given: Any = layer
    first = next(layer.parameters())
    about: dict[str, Any] = {"device": first.device, "dtype": first.dtype}
    made: Recurrent | RecurrentCell
    if isinstance(layer, _STEPS):
        made = RecurrentCell(convention.cell, given.input_size, given.hidden_size, **about)
    else:
        made = Recurrent(
            convention.cell, given.input_size, given.hidden_size, given.num_layers,
            given.bidirectional, given.dropout, given.batch_first, given.proj_size, **about,
        )  # fmt: skip
    for suffix in _suffixes(made):
        _take(made, layer, convention, suffix)
    return made.train(layer.training)


def to_torch(module: Recurrent | RecurrentCell) -> nn.Module:
    """The layer of PyTorch that computes as a module of ours does, with a copy of its weights.

    Where PyTorch has two biases and the equations one, the second one is zeros.

    Raises
    ------
    LstmgenError
        If PyTorch has no layer with these equations.
    """
    convention = convention_of(module.cell)
    is_step = isinstance(module, RecurrentCell)
    if convention is None or (is_step and convention.projected):
        kinds = ", ".join(f"nn.{kind}" for kind in dict.fromkeys(c.kind for c in CONVENTIONS))
        raise LstmgenError(
            f"PyTorch has no layer with the equations of {module.cell.name}: it has {kinds}"
        )
    params = [getattr(module, n + s) for s in _suffixes(module) for n in module._learned]
    about: dict[str, Any] = {"device": params[0].device, "dtype": params[0].dtype}
    about |= convention.options
    about["bias"] = _has_biases(module, convention)
    layer: nn.Module
    if isinstance(module, RecurrentCell):
        step = getattr(nn, f"{convention.kind}Cell")
        layer = step(module.input_size, module.hidden_size, **about)
    else:
        if convention.projected:
            about["proj_size"] = module._sizes["_l0"]["P"]
        layer = getattr(nn, convention.kind)(
            module.input_size, module.hidden_size, module.num_layers,
            batch_first=module.batch_first, dropout=module.dropout,
            bidirectional=module.bidirectional, **about,
        )  # fmt: skip
    for suffix in _suffixes(module):
        _give(module, layer, convention, suffix)
    return layer.train(module.training)


def _is_known(layer: nn.Module) -> bool:
    """Whether it is one of PyTorch's own layers. Parametrizations make a subclass of it."""
    own = (*_LAYERS, *_STEPS)
    return type(layer) in own or (isinstance(layer, own) and parametrize.is_parametrized(layer))


def _convention_of_layer(layer: nn.Module) -> Convention:
    kind = type(layer).__name__.removesuffix("Cell")
    if type(layer) in (*_LAYERS, *_STEPS):
        projected = bool(getattr(layer, "proj_size", 0))
        how = getattr(layer, "nonlinearity", None)
        for convention in CONVENTIONS:
            if (convention.kind, convention.projected) == (kind, projected) and (
                how is None or convention.options["nonlinearity"] == how
            ):
                return convention
    raise LstmgenError(
        f"it is a {type(layer).__name__}, and not an nn.LSTM, nn.GRU, nn.RNN, or the …Cell of one"
    )


def _refuse_additions(layer: nn.Module) -> None:
    """Refuse what a copy of weights would lose in silence."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if parametrize.is_parametrized(layer):
        raise LstmgenError(
            "it has parametrizations, which would be lost\n"
            "  hint: torch.nn.utils.parametrize.remove_parametrizations"
        )
    if any(getattr(layer, name, None) for name in hooks):
        raise LstmgenError("it has hooks, which would be lost\n  hint: remove them first")


def _suffixes(module: Recurrent | RecurrentCell) -> Iterator[str]:
    if isinstance(module, RecurrentCell):
        yield ""
        return
    for layer in range(module.num_layers):
        yield from module._suffixes(layer)


def _rows(tensor: Tensor, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """The parameters whose rows a tensor of PyTorch has."""
    yield from zip(names, tensor.chunk(len(names)), strict=True)


@torch.no_grad()
def _take(
    module: Recurrent | RecurrentCell, layer: nn.Module, convention: Convention, suffix: str
) -> None:
    """The weights of one direction of a layer of PyTorch, into ours."""
    has_biases = bool(getattr(layer, "bias", True))
    for theirs, names in convention.tensors.items():
        beside = convention.tensors["bias_ih"] if theirs == "bias_hh" else names
        if theirs.startswith("bias") and not has_biases:
            for name in filter(None, names):
                getattr(module, name + suffix).zero_().requires_grad_(False)
            continue
        tensor = getattr(layer, theirs + suffix)
        for name, rows in _rows(tensor, names):
            if name:
                ours = getattr(module, name + suffix)
                ours.copy_(rows)
                ours.requires_grad_(tensor.requires_grad)
        for (name, rows), first in zip(_rows(tensor, names), beside, strict=True):
            if not name:
                getattr(module, first + suffix).add_(rows)


@torch.no_grad()
def _give(
    module: Recurrent | RecurrentCell, layer: nn.Module, convention: Convention, suffix: str
) -> None:
    """The weights of one direction of ours, into a layer of PyTorch."""
    for theirs, names in convention.tensors.items():
        if theirs.startswith("bias") and not layer.bias:
            continue
        tensor = getattr(layer, theirs + suffix)
        for name, rows in _rows(tensor, names):
            rows.copy_(getattr(module, name + suffix)) if name else rows.zero_()
        tensor.requires_grad_(
            any(getattr(module, name + suffix).requires_grad for name in names if name)
            or not any(names)
        )


def _has_biases(module: Recurrent | RecurrentCell, convention: Convention) -> bool:
    """Whether a bias is learned, or is not zero."""
    names = {n for t, ns in convention.tensors.items() if t.startswith("bias") for n in ns if n}
    biases = [getattr(module, n + s) for s in _suffixes(module) for n in names]
    return any(bool(b.requires_grad) or bool(b.any()) for b in biases)
