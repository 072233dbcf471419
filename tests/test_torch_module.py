"""``lstmgen.torch.Recurrent`` as a citizen of PyTorch."""

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

import lstmgen
from lstmgen import LstmgenError, cells
from lstmgen.torch import Recurrent, RecurrentCell, register
from lstmgen.torch.kernels import face
from lstmgen.torch.operators import run

# Sizes that no parameter tells, or that a cell has beside D and H.
SIZES = {
    "K": 2, "N": 2, "P": 3, "R": 2, "S": 2,
}  # fmt: skip


def module_of(cell, D=2, H=3, **options):
    """A module of a cell with small sizes, whose parameters have moved from where they start."""
    found = cells.get(cell) if isinstance(cell, str) else cell
    of = face(register(found))
    sizes = {n: SIZES[n] for n in of.sizes if n in SIZES}
    if found.name == "rg_lru":
        D = H
    if "H" not in of.sizes:
        H = sizes.pop("P", sizes.get("K", H))
        sizes.pop("K" if "P" not in of.sizes and found.name == "ttt_linear" else "", None)
    constants = {name: 0.3 for name, value in of.constants.items() if value is None}
    torch.manual_seed(0)
    made = Recurrent(found, D, H, dtype=torch.float64, **sizes, **constants, **options)
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
def test_first_and_second_derivatives(name):
    module = module_of(name)
    function, given = function_of(module, *call_of(module))
    # along random directions: a gradient of every number of every parameter would take minutes
    assert torch.autograd.gradcheck(function, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)
