"""Cells of the zoo that become PyTorch's LSTM where what is new in them does nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import need

from lstmgen import cells, compile

# What makes the cell an LSTM: values of its parameters, masks.
PLAIN: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "lstm_np": ({}, {}),
    "lstm_zoneout": ({}, {"d_c": 0.0, "d_h": 0.0}),
    "lstm_recurrent_dropout": ({}, {"m": 1.0}),
    "lstm_variational": ({}, {"z_x": 1.0, "z_h": 1.0}),
    "lstm_fgr": ({"R": 0.0, "p": 0.0}, {}),
    "mogrifier_lstm": ({"Q": 0.0, "R": 0.0}, {}),
    # of one phase only: the gate is at its height, 1, for all t
    "phased_lstm": ({"p": 0.0, "r_on": 1.0, "tau": 2.0, "s": 0.0}, {}),
}
T, B, D, H = 5, 2, 3, 4


@pytest.mark.parametrize("name", PLAIN)
def test_it_is_pytorchs_lstm_where_what_is_new_does_nothing(name: str) -> None:
    need("torch")
    import torch

    cell, rng = cells.get(name), np.random.default_rng(0)
    module = compile(cell, "numpy", dtype="float64")
    fixed, given = PLAIN[name]
    params = module.init(D, H, dtype=np.float64)
    for p in cell.parameters:
        value = next((v for n, v in fixed.items() if p.name in (n,) or p.name[:2] == f"{n}_"), None)
        drawn = rng.normal(size=params[p.name].shape)
        params[p.name] = drawn if value is None else np.full_like(drawn, value)

    x, dy = rng.normal(size=(T, B, D)), rng.normal(size=(T, B, H))
    state = {s.name: np.zeros((B, H)) for s in cell.states}
    state |= {n: rng.normal(size=(B, H)) for n in ("h", "c")}
    several: Any = {"x": x, "t": np.ones((T, B, 1))} if len(cell.inputs) > 1 else x
    masks = {m: np.full((1, 1, D if m == "z_x" else H), v) for m, v in given.items()}
    y, _, tape = module.forward(params, several, state, *([masks] if masks else []))
    grads, dx, _ = module.backward(params, tape, dy)

    theirs = torch.nn.LSTM(D, H).double()
    stacked = {f: np.concatenate([params[f"{f}_{k}"] for k in "ifgo"]) for f in "WUb"}
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.tensor(stacked["W"]))
        theirs.weight_hh_l0.copy_(torch.tensor(stacked["U"]))
        theirs.bias_ih_l0.copy_(torch.tensor(stacked["b"]))
        theirs.bias_hh_l0.zero_()
    leaf = torch.tensor(x, requires_grad=True)
    expected, _ = theirs(leaf, tuple(torch.tensor(state[n])[None] for n in "hc"))
    (expected * torch.tensor(dy)).sum().backward()

    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    found = dx["x"] if isinstance(dx, dict) else dx
    np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-10, atol=1e-11)
    ours = np.concatenate([grads[f"U_{k}"] for k in "ifgo"])
    np.testing.assert_allclose(ours, theirs.weight_hh_l0.grad.numpy(), rtol=1e-10, atol=1e-11)


def test_a_tree_in_which_each_node_has_one_child_is_pytorchs_lstm() -> None:
    need("torch")
    import torch

    cell, rng = cells.get("tree_lstm"), np.random.default_rng(1)
    module = compile(cell, "numpy", dtype="float64")
    params = {n: rng.normal(size=a.shape) for n, a in module.init(D, H, dtype=np.float64).items()}
    x, none = rng.normal(size=(T, B, D)), np.zeros((1, B, H))
    h, c, ys = none, none, []
    for t in range(T):
        nodes = {"x": x[t : t + 1], "h_1": none, "h_2": h, "c_1": none, "c_2": c}
        y = module.forward(params, nodes)[0]
        h, c = y["h"], y["c"]
        ys.append(h[0])

    theirs = torch.nn.LSTM(D, H).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.tensor(np.concatenate([params[f"W_{k}"] for k in "ifuo"])))
        recurrent = [params[name] for name in ("U_i2", "U_f22", "U_u2", "U_o2")]
        theirs.weight_hh_l0.copy_(torch.tensor(np.concatenate(recurrent)))
        theirs.bias_ih_l0.copy_(torch.tensor(np.concatenate([params[f"b_{k}"] for k in "ifuo"])))
        theirs.bias_hh_l0.zero_()
        expected = theirs(torch.tensor(x))[0].numpy()
    np.testing.assert_allclose(np.stack(ys), expected, rtol=1e-11, atol=1e-12)
