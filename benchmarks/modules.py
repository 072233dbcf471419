"""``lstmgen.torch`` beside PyTorch: ``python -m benchmarks torch``.

A step of training is forward and backward, with the gradients of all parameters and of x, of a loss
whose derivative is given; the optimiser is not in it. The bare kernel is the same code called by
its Python interface, without PyTorch around it.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from lstmgen import cells
from lstmgen.runtime.toolchain import compile

from .turns import about, ratio, spread, times

SHAPES = ((100, 1, 64, 64), (100, 1, 128, 128), (100, 16, 128, 128), (50, 32, 256, 256))
LOOPS = ((100, 1, 64, 64), (50, 32, 256, 256))
OWN = "lstm_peephole"  # a cell that PyTorch has no layer for


def run(rounds: int) -> str:
    """All tables, as Markdown."""
    import torch

    threads = torch.get_num_threads()
    title = about(f"float32, {threads} thread{'s' * (threads > 1)}, {rounds} rounds in turns")
    parts = [title, _layers(rounds), _loops(rounds), _frozen(rounds), _graphs()]
    return "\n\n".join(parts) + "\n"


def _step(module: Any, x: Any, dy: Any) -> Callable[[], Any]:
    parameters = list(module.parameters())

    def step() -> None:
        for tensor in (*parameters, x):
            tensor.grad = None
        y, _ = module(x)
        y.backward(dy)

    return step


def _layers(rounds: int) -> str:
    import torch

    from lstmgen.torch import from_torch

    rows = ["| T, B, D, H | `Recurrent` | over the bare kernel | nn.LSTM over `Recurrent` |",
            "| --- | --- | --- | --- |"]  # fmt: skip
    for T, B, D, H in SHAPES:
        theirs = torch.nn.LSTM(D, H)
        ours = from_torch(theirs)
        kernel = compile(cells.get("lstm"), "c", dtype="float32", threads=torch.get_num_threads())
        params = {n: getattr(ours, f"{n}_l0").detach().numpy() for n in kernel.PARAMETERS}
        x, dy = torch.randn(T, B, D, requires_grad=True), torch.ones(T, B, H)
        x_array, dy_array = x.detach().numpy(), np.ones((T, B, H), np.float32)

        def bare(kernel=kernel, params=params, x=x_array, dy=dy_array) -> None:  # type: ignore[no-untyped-def]
            _, _, tape = kernel.forward(params, x)
            kernel.backward(params, tape, dy)

        found = times(
            {"ours": _step(ours, x, dy), "theirs": _step(theirs, x, dy), "bare": bare}, rounds
        )
        median = float(np.median(list(found["ours"].values())))
        rows.append(
            f"| {T}, {B}, {D}, {H} | {1e3 * median:.2f} ms | "
            f"{spread(ratio(found['ours'], found['bare']))} | "
            f"{spread(ratio(found['theirs'], found['ours']))} |"
        )
    return "\n".join(["A step of training of an LSTM:", "", *rows])


def _loops(rounds: int) -> str:
    import torch

    from lstmgen.torch import Recurrent

    rows = ["| T, B, D, H | `Recurrent` | the loop over it |", "| --- | --- | --- |"]
    for T, B, D, H in LOOPS:
        ours = Recurrent(OWN, D, H)
        loop = _by_hand(ours)
        x, dy = torch.randn(T, B, D, requires_grad=True), torch.ones(T, B, H)
        torch.testing.assert_close(loop(x)[0], ours(x)[0], rtol=1e-3, atol=1e-4)
        found = times({"ours": _step(ours, x, dy), "loop": _step(loop, x, dy)}, rounds)
        median = float(np.median(list(found["ours"].values())))
        rows.append(
            f"| {T}, {B}, {D}, {H} | {1e3 * median:.2f} ms | "
            f"{spread(ratio(found['loop'], found['ours']))} |"
        )
    title = f"The same of `{OWN}`, beside a loop in Python, whose weights are joined:"
    return "\n".join([title, "", *rows])


def _by_hand(module: Any) -> Any:
    """The peephole LSTM as one writes it in PyTorch: a loop over steps, with the weights joined."""
    import torch

    def joined(stem: str, gates: str) -> Any:
        parts = [getattr(module, f"{stem}_{g}_l0").detach() for g in gates.split()]
        return torch.nn.Parameter(torch.cat(parts))

    class ByHand(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W, self.U, self.b = (joined(stem, "i f g o") for stem in ("W", "U", "b"))
            self.p_if, self.p_o = joined("p", "i f"), joined("p", "o")

        def forward(self, x: Any) -> tuple[Any, Any]:
            H = len(self.p_o)
            h = c = x.new_zeros(x.shape[1], H)
            ys = []
            for a_x in torch.nn.functional.linear(x, self.W, self.b):
                a = torch.addmm(a_x, h, self.U.mT)
                i, f = torch.sigmoid(a[:, : 2 * H] + self.p_if * c.repeat(1, 2)).chunk(2, 1)
                g, o = a[:, 2 * H :].chunk(2, 1)
                c = f * c + i * torch.tanh(g)
                h = torch.sigmoid(o + self.p_o * c) * torch.tanh(c)
                ys.append(h)
            return torch.stack(ys), (h, c)

    return ByHand()


def _frozen(rounds: int) -> str:
    import torch

    from lstmgen.torch import Recurrent

    T, B, D, H = SHAPES[2]
    rows = ["| gradients of | time | of that of all |", "| --- | --- | --- |"]
    dy = torch.ones(T, B, H)
    steps = {}
    for what in ("all", "parameters", "x"):
        module = Recurrent("lstm", D, H).requires_grad_(what != "x")
        x = torch.randn(T, B, D, requires_grad=what != "parameters")
        steps[what] = _step(module, x, dy)
    found = times(steps, rounds)
    for what, kept in found.items():
        share = spread(ratio(kept, found["all"]))
        rows.append(f"| {what} | {1e3 * float(np.median(list(kept.values()))):.2f} ms | {share} |")
    title = f"What is saved where not all gradients are needed (T, B, D, H = {T}, {B}, {D}, {H}):"
    return "\n".join([title, "", *rows])


def _graphs() -> str:
    import torch

    from lstmgen.torch import Recurrent

    rows = ["| T | the first call |", "| --- | --- |"]

    def seconds(module: Any, T: int) -> float:
        torch.compiler.reset()
        compiled, x = torch.compile(module), torch.randn(T, 2, 64)
        gc.collect()
        start = time.perf_counter()
        compiled(x)[0].sum().backward()
        return time.perf_counter() - start

    with torch.compiler.config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that caches are disabled
        seconds(Recurrent("lstm", 64, 64), 1)  # PyTorch loads its compiler
        for T in (10, 100, 1000):
            rows.append(f"| {T} | {seconds(Recurrent('lstm', 64, 64), T):.2f} s |")
    title = (
        "A layer in `torch.compile`, forward and backward, with PyTorch's caches disabled (of its "
        "own layers it makes no graph):"
    )
    return "\n".join([title, "", *rows])
