"""Cells with one gate, or few."""

import torch
from torch import sigmoid, tanh
from torch.nn.functional import linear

from . import transcribed


def affine(p, gate: str, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """W x + U h + b."""
    return x @ p[f"W_{gate}"].mT + h @ p[f"U_{gate}"].mT + p[f"b_{gate}"]


@transcribed(D=3, H=5)
def mgu(p, x, s, g):
    h = s["h"]
    f = sigmoid(affine(p, "f", x, h))
    n = tanh(affine(p, "n", x, f * h))
    h = (1 - f) * h + f * n
    return h, {"h": h}


@transcribed(D=3, H=5)
def janet(p, x, s, g):
    h = s["h"]
    a = affine(p, "f", x, h)
    h = sigmoid(a) * h + (1 - sigmoid(a - g["beta"])) * tanh(affine(p, "g", x, h))
    return h, {"h": h}


@transcribed(D=3, H=5)
def ugrnn(p, x, s, g):
    h = s["h"]
    joint = torch.cat([affine(p, "g", x, h), affine(p, "c", x, h)], 1)
    gate, c = joint.chunk(2, 1)
    h = torch.lerp(tanh(c), h, sigmoid(gate))
    return h, {"h": h}


@transcribed(D=3, H=5)
def cfn(p, x, s, g):
    h = s["h"]
    theta, eta = sigmoid(affine(p, "theta", x, h)), sigmoid(affine(p, "eta", x, h))
    h = theta * tanh(h) + eta * tanh(linear(x, p["W_h"]))
    return h, {"h": h}


@transcribed(D=3, H=5)
def star(p, x, s, g):
    z = tanh(linear(x, p["W_z"], p["b_z"]))
    k = sigmoid(affine(p, "k", x, s["h"]))
    h = tanh(torch.lerp(s["h"], z, k))
    return h, {"h": h}


@transcribed(D=3, H=5)
def ran(p, x, s, g):
    i, f = sigmoid(affine(p, "i", x, s["h"])), sigmoid(affine(p, "f", x, s["h"]))
    c = torch.addcmul(f * s["c"], i, linear(x, p["W_c"]))
    return tanh(c), {"h": tanh(c), "c": c}


@transcribed(D=3, H=5)
def fast_grnn(p, x, s, g):
    both = linear(torch.cat([x, s["h"]], 1), torch.cat([p["W"], p["U"]], 1))
    z, n = sigmoid(both + p["b_z"]), tanh(both + p["b_h"])
    h = (sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * n + z * s["h"]
    return h, {"h": h}


@transcribed(D=3, H=5)
def rhn(p, x, s, g):
    y = s["s"]
    for layer in (1, 2, 3):
        h = linear(y, p[f"R_h{layer}"], p[f"b_h{layer}"])
        t = linear(y, p[f"R_t{layer}"], p[f"b_t{layer}"])
        if layer == 1:
            h, t = h + linear(x, p["W_h"]), t + linear(x, p["W_t"])
        y = torch.lerp(y, tanh(h), sigmoid(t))
    return y, {"s": y}
