"""Cells in continuous time."""

import torch
from torch import sigmoid, tanh

from . import transcribed


@transcribed(D=3, H=5)
def lem(p, x, s, g):
    y, z, dt = s["y"], s["z"], g["dt"]
    V = torch.cat([p[f"V_{n}"] for n in "12zy"])
    b = torch.cat([p[f"b_{n}"] for n in "12zy"])
    of_1, of_2, of_z, of_y = (x @ V.mT + b).chunk(4, dim=1)
    step = dt * sigmoid(of_1 + y @ p["W_1"].mT)
    step_bar = dt * sigmoid(of_2 + y @ p["W_2"].mT)
    z = torch.lerp(z, tanh(of_z + y @ p["W_z"].mT), step)
    y = torch.lerp(y, tanh(of_y + z @ p["W_y"].mT), step_bar)  # the new z
    return y, {"y": y, "z": z}


@transcribed(D=3, H=5)
def cornn(p, x, s, g):
    y, z = s["y"], s["z"]
    joint = torch.cat([p["V"], p["W_z"], p["W_y"]], dim=1)
    force = tanh(torch.nn.functional.linear(torch.cat([x, z, y], 1), joint, p["b"]))
    z = z + g["dt"] * (force - g["gamma"] * y - g["epsilon"] * z)
    y = y + g["dt"] * z
    return y, {"y": y, "z": z}


@transcribed(D=3, H=5, P=4)
def cfc(p, inputs, s, g):
    x, elapsed, h = inputs["x"], inputs["dt"], s["h"]
    joint = torch.cat([p["W_u"], p["U_u"]], dim=1)
    u = 1.7159 * tanh(0.666 * (torch.cat([x, h], dim=1) @ joint.mT + p["b_u"]))
    one, two, slope, offset = (u @ p[f"V_{n}"].mT + p[f"b_{n}"] for n in "gkac")
    blend = sigmoid(slope * elapsed + offset)
    h = tanh(one) * (1.0 - blend) + blend * tanh(two)
    return h, {"h": h}


@transcribed(D=3, H=5)
def ltc(p, x, s, g):
    h = s["h"]
    for _ in range(6):
        f = sigmoid(x @ p["W_f"].mT + h @ p["U_f"].mT + p["b_f"])
        h = (h + g["dt"] / 6 * f * p["A"]) / (1 + g["dt"] / 6 * (p["w_tau"] + f))
    return h, {"h": h}
