"""Cells with the cell state of the LSTM."""

import torch
from torch import sigmoid, tanh
from torch.nn.functional import linear, softmax

from . import transcribed


def fused(p, gates: str, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """W x + U h + b of several gates, by one product."""
    W, U = (torch.cat([p[f"{name}_{k}"] for k in gates]) for name in "WU")
    b = torch.cat([p[f"b_{k}"] for k in gates])
    return linear(torch.cat([x, h], 1), torch.cat([W, U], 1), b).chunk(len(gates), 1)


def ended(o: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    h = o * tanh(c)
    return h, {"h": h, "c": c}


@transcribed(D=3, H=5)
def lstm_1997(p, x, s, g):
    i, o, z = fused(p, "iog", x, s["h"])
    return ended(sigmoid(o), s["c"] + sigmoid(i) * tanh(z))


def vanilla(p, x, s, gates="ifgo", inside=tanh, outside=tanh, more=None):
    """Greff et al., with gates of 1 where they are not among ``gates``; ``more`` in some."""
    more = more or {}
    net = dict(zip(gates, fused(p, gates, x, s["h"]), strict=True))
    net = {k: a + more.get(k, 0) for k, a in net.items()}
    one = torch.ones_like(s["c"])

    def gate(k, c):
        peep = p[f"p_{k}"] * c if f"p_{k}" in p else 0.0
        return sigmoid(net[k] + peep) if k in net else one

    i, f = gate("i", s["c"]), gate("f", s["c"])
    c = inside(net["g"]) * i + s["c"] * f
    o = gate("o", c)
    y = outside(c) * o
    return y, {"h": y, "c": c}, (i, f, o)


@transcribed(D=3, H=5)
def lstm_nig(p, x, s, g):
    return vanilla(p, x, s, "fgo")[:2]


@transcribed(D=3, H=5)
def lstm_nfg(p, x, s, g):
    return vanilla(p, x, s, "igo")[:2]


@transcribed(D=3, H=5)
def lstm_nog(p, x, s, g):
    return vanilla(p, x, s, "ifg")[:2]


@transcribed(D=3, H=5)
def lstm_niaf(p, x, s, g):
    return vanilla(p, x, s, inside=lambda a: a)[:2]


@transcribed(D=3, H=5)
def lstm_noaf(p, x, s, g):
    return vanilla(p, x, s, outside=lambda a: a)[:2]


@transcribed(D=3, H=5)
def lstm_np(p, x, s, g):
    assert not [name for name in p if name.startswith("p_")]
    return vanilla(p, x, s)[:2]


@transcribed(D=3, H=5)
def lstm_fgr(p, x, s, g):
    # from each gate to each gate, the source first
    more = {k: sum(s[source] @ p[f"R_{source}{k}"].mT for source in "ifo") for k in "ifo"}
    y, state, (i, f, o) = vanilla(p, x, s, more=more)
    return y, {**state, "i": i, "f": f, "o": o}


def stepped(p, x, h, c, m=1.0):
    """o, and the new c, of the LSTM of Gers et al."""
    i, f, o, z = fused(p, "ifog", x, h)
    return sigmoid(o), sigmoid(f) * c + sigmoid(i) * m * tanh(z)


@transcribed(D=3, H=5)
def lstm_zoneout(p, x, s, g):
    o, new = stepped(p, x, s["h"], s["c"])
    c = torch.where(g["d_c"] == 1, s["c"], new)
    h = torch.where(g["d_h"] == 1, s["h"], o * tanh(new))
    return h, {"h": h, "c": c}


@transcribed(D=3, H=5)
def lstm_recurrent_dropout(p, x, s, g):
    return ended(*stepped(p, x, s["h"], s["c"], g["m"]))


@transcribed(D=3, H=5)
def lstm_variational(p, x, s, g):
    return ended(*stepped(p, x * g["z_x"], s["h"] * g["z_h"], s["c"]))


@transcribed(D=3, H=5)
def mlstm_multiplicative(p, x, s, g):
    m = linear(x, p["W_m"]) * linear(s["h"], p["U_m"])
    return ended(*stepped(p, x, m, s["c"]))


@transcribed(D=3, H=5)
def mogrifier_lstm(p, x, s, g):
    h = s["h"]
    for k in range(1, 6):
        if k % 2:
            x = 2 * sigmoid(linear(h, p[f"Q_{k}"])) * x
        else:
            h = 2 * sigmoid(linear(x, p[f"R_{k}"])) * h
    return ended(*stepped(p, x, h, s["c"]))


@transcribed(D=3, H=5)
def nas(p, x, s, g):
    a = linear(x, torch.cat([p[f"W_{k}"] for k in range(8)])).chunk(8, 1)
    m = linear(s["h"], torch.cat([p[f"U_{k}"] for k in range(8)])).chunk(8, 1)
    functions = [sigmoid, torch.relu, sigmoid, torch.relu, tanh, sigmoid, tanh, sigmoid]
    leaves = [
        function(a[k] * m[k] if k == 3 else a[k] + m[k]) for k, function in enumerate(functions)
    ]
    left = tanh(tanh(leaves[0] * leaves[1]) + s["c"])
    c = left * tanh(leaves[2] + leaves[3])
    right = tanh(tanh(leaves[4] * leaves[5]) + sigmoid(leaves[6] + leaves[7]))
    h = tanh(c * right)
    return h, {"h": h, "c": c}


@transcribed(D=3, N=2, P=4)
def on_lstm(p, x, s, g):
    f, i, o, new = fused(p, "fiog", x, s["h"])
    units = s["c"].shape[1] // len(p["b_f_master"])

    def cumax(k):
        a = linear(x, p[f"W_{k}"], p[f"b_{k}"]) + linear(s["h"], p[f"U_{k}"])
        return softmax(a, 1).cumsum(1).repeat_interleave(units, 1)

    master_f, master_i = cumax("f_master"), 1 - cumax("i_master")
    both = master_f * master_i
    f = sigmoid(f) * both + (master_f - both)
    i = sigmoid(i) * both + (master_i - both)
    return ended(sigmoid(o), f * s["c"] + i * tanh(new))


@transcribed(D=3, H=5)
def phased_lstm(p, x, s, g):
    x, t = x["x"], x["t"]
    phase = torch.remainder(t - p["s"], p["tau"]) / p["tau"]
    r, half = p["r_on"], p["r_on"] / 2
    k = g["alpha"] * phase
    k = torch.where(phase < r, 2 - phase / half, k)
    k = torch.where(phase < half, phase / half, k)
    proposed = vanilla(p, x, s)[1]
    new = {name: torch.lerp(s[name], value, k) for name, value in proposed.items()}
    return new["h"], new


@transcribed(D=3, H=5)
def tree_lstm(p, x, s, g):
    children = [(x["h_1"], x["c_1"]), (x["h_2"], x["c_2"])]

    def net(k, slot=""):
        """Of a gate; of the forget gate, for the child in a slot."""
        total = linear(x["x"], p[f"W_{k}"], p[f"b_{k}"])
        for number, (h, _) in enumerate(children, 1):
            total = total + linear(h, p[f"U_{k}{slot}{number}"])
        return total

    c = sigmoid(net("i")) * tanh(net("u"))
    for slot, (_, held) in enumerate(children, 1):
        c = c + sigmoid(net("f", str(slot))) * held
    return {"h": sigmoid(net("o")) * tanh(c), "c": c}, {}
