"""Networks beside PyTorch's: ``python -m benchmarks networks``.

Two bidirectional layers with a readout; sequences of different lengths, beside packed and padded
ones; states that start anew. Each is one step of training without the optimiser, forward, loss and
backward, with the gradients of all parameters, as both call it from Python. Losses and gradients
are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstmgen import Layer, Network, Readout, cells
from lstmgen.benchmark.timing import quartiles
from lstmgen.runtime.toolchain import compile

from .turns import about, ratio, spread, times

CLASSES = 10
TOLERANCE = 2e-4  # of the largest number of an array, in float32


@dataclass(frozen=True)
class Case:
    """A race: who does the same work, ours first."""

    title: str
    calls: dict[str, Callable[[], Any]]


class _Stack:
    """A network of LSTM layers with a readout, ours and PyTorch's, with the same parameters."""

    def __init__(self, T: int, B: int, D: int, H: int, layers: int, both: bool) -> None:
        import torch

        self.torch = torch
        stack = [Layer("lstm", H, bidirectional=both) for _ in range(layers)]
        self.network = Network([*stack, Readout(CLASSES)], loss="cross_entropy", name="stack")
        self.module = compile(self.network, "c", dtype="float32")
        self.params = self.module.init(D, seed=1)
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(T, B, D)).astype(np.float32)
        self.target = rng.integers(0, CLASSES, (T, B))
        self.rng, self.layers, self.both = rng, layers, both
        self.lstm = torch.nn.LSTM(D, H, layers, bidirectional=both)
        self.readout = torch.nn.Linear(H * (1 + both), CLASSES)
        self._copy()
        self.x_torch, self.target_torch = torch.tensor(self.x), torch.tensor(self.target)

    def _copy(self) -> None:
        """Our parameters to PyTorch's layers, whose gates are in the order i f g o."""
        for layer in range(self.layers):
            for suffix, lane in (("", "_forward"), ("_reverse", "_backward"))[: 1 + self.both]:
                part = f"lstm{layer + 1}{lane if self.both else ''}"
                for theirs, ours in (("weight_ih", "W"), ("weight_hh", "U"), ("bias_ih", "b")):
                    gates = [self.params[f"{part}.{ours}_{gate}"] for gate in "ifgo"]
                    self._set(self.lstm, f"{theirs}_l{layer}{suffix}", np.concatenate(gates))
                self.lstm.get_parameter(f"bias_hh_l{layer}{suffix}").data.zero_()
        self._set(self.readout, "weight", self.params["readout.W"])
        self._set(self.readout, "bias", self.params["readout.b"])

    def _set(self, module: Any, name: str, value: Any) -> None:
        module.get_parameter(name).data = self.torch.tensor(value)

    def ours(self, **options: Any) -> tuple[float, Any]:
        """Loss, and the gradient of the readout."""
        lengths = options.get("lengths")
        y, _, tape = self.module.forward(self.params, self.x, **options)
        value, dy = self.module.loss(y, self.target, lengths=lengths)
        grads, _, _ = self.module.backward(self.params, tape, dy, inputs=False)
        return value, grads["lstm1_forward.U_f" if self.both else "lstm1.U_f"]

    def theirs(self, lengths: Any = None, *, packed: bool = True) -> tuple[float, Any]:
        """The same by PyTorch; sequences are packed, or padded, and then count in the loss only."""
        torch, rnn = self.torch, self.torch.nn.utils.rnn
        self.lstm.zero_grad(set_to_none=True)
        self.readout.zero_grad(set_to_none=True)
        target = self.target_torch
        if lengths is None:
            y, _ = self.lstm(self.x_torch)
        else:
            steps = torch.arange(len(self.x))[:, None] < lengths
            target = torch.where(steps, target, -100)
            if packed:
                sequences = rnn.pack_padded_sequence(self.x_torch, lengths, enforce_sorted=False)
                y, _ = rnn.pad_packed_sequence(self.lstm(sequences)[0], total_length=len(self.x))
            else:
                y, _ = self.lstm(self.x_torch)
        rows = self.readout(y).reshape(-1, CLASSES)
        loss = torch.nn.functional.cross_entropy(rows, target.reshape(-1))
        loss.backward()
        H = self.lstm.hidden_size
        gradient = self.lstm.get_parameter("weight_hh_l0").grad[H : 2 * H]
        return float(loss.detach()), gradient.numpy()

    def layers_alone(self) -> Callable[[], None]:
        """The same layers as cells, one call of each after the other: what a stack is made of."""
        module = compile(cells.get("lstm"), "c", dtype="float32")
        rng, T, B = self.rng, *self.x.shape[:2]
        given = []
        for layer in range(self.layers):
            lanes = ("_forward", "_backward") if self.both else ("",)
            for lane in lanes:
                part = f"lstm{layer + 1}{lane}."
                params = {
                    k.removeprefix(part): v for k, v in self.params.items() if k.startswith(part)
                }
                units = params["W_i"].shape[1]
                x = self.x if layer == 0 else rng.normal(size=(T, B, units)).astype(np.float32)
                given.append((params, x))
        dy = np.ones((T, B, self.params[f"{part}U_i"].shape[0]), np.float32)

        def call() -> None:
            for params, x in given:
                _, _, tape = module.forward(params, x)
                module.backward(params, tape, dy)

        return call


def _alike(title: str, ours: tuple[float, Any], theirs: tuple[float, Any]) -> None:
    """Refuse results that differ.

    Raises
    ------
    ValueError
        That says what differs.
    """
    scale = float(np.abs(theirs[1]).max())
    far = float(np.abs(ours[1] - theirs[1]).max()) / scale
    if abs(ours[0] - theirs[0]) > TOLERANCE * abs(theirs[0]) or far > TOLERANCE:
        raise ValueError(
            f"{title}: losses {ours[0]} and {theirs[0]}, gradients differ by {far:.1e}"
        )


def cases() -> list[Case]:
    """All races; results are compared here."""
    made = []
    stack = _Stack(100, 16, 128, 128, layers=2, both=True)
    title = "two bidirectional layers, readout: T=100 B=16 D=H=128"
    _alike(title, stack.ours(), stack.theirs())
    calls: dict[str, Callable[[], Any]] = {
        "network": stack.ours,
        "PyTorch": stack.theirs,
        "our four layers alone": stack.layers_alone(),
    }
    made.append(Case(title, calls))

    one = _Stack(400, 16, 128, 128, layers=1, both=False)
    lengths = np.random.default_rng(2).integers(40, 401, 16)
    lengths[0] = 400
    known = one.torch.tensor(lengths)
    title = f"sequences of 40 to 400 steps, {lengths.mean():.0f} in the mean: T=400 B=16 D=H=128"
    _alike(title, one.ours(lengths=lengths), one.theirs(known))
    made.append(
        Case(
            title,
            {
                "network": lambda: one.ours(lengths=lengths),
                "PyTorch, packed": lambda: one.theirs(known),
                "PyTorch, padded": lambda: one.theirs(known, packed=False),
                "network, padded": one.ours,
            },
        )
    )
    resets = np.random.default_rng(5).random((400, 16)) < 0.03
    made.append(
        Case(
            "states that start anew before 3 % of the steps: T=400 B=16 D=H=128",
            {"network": lambda: one.ours(resets=resets), "network, without": one.ours},
        )
    )
    return made


def run(rounds: int = 15) -> str:
    """Time all cases in turns, and say how they compare: a table in Markdown."""
    lines = []
    for case in cases():
        found = times(case.calls, rounds)
        lines += [
            f"**{case.title}**",
            "",
            "| | ms | of the network's time |",
            "| --- | --- | --- |",
        ]
        for name, seconds in found.items():
            middle = 1e3 * quartiles(list(seconds.values())).median
            lines.append(f"| {name} | {middle:.1f} | {spread(ratio(seconds, found['network']))} |")
        lines.append("")
    return "\n".join([*lines, about(f"float32, 1 thread, medians of {rounds} rounds.")])
