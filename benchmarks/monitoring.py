"""What ``lstmgen.torch.monitor`` costs: a table, as docs/tensorboard.md has it.

An update without the optimiser, forward and back, with one thread. The three ways take turns, so
that what else the machine does is in all of them; medians of all turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch

from lstmgen.monitor import open_writer
from lstmgen.torch import Recurrent, monitor

SIZES = ((8, 1, 8, 8), (64, 32, 64, 64), (64, 32, 128, 256))  # T, B, D, H
TURNS, SECONDS = 9, 0.4  # of each way in each turn
WAYS = {"without": 0, "not written": 10**9, "written": 1}  # and every how many calls are


def timed(module: Recurrent, x: torch.Tensor) -> list[float]:
    """Seconds of updates, for a while."""
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        module(x)[0].square().mean().backward()
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    torch.set_num_threads(1)
    print("| T, B, D, H | without | a call that is not written | a call that is written |")
    print("| --- | --- | --- | --- |")
    for T, B, D, H in SIZES:
        module, x = Recurrent("lstm", D, H), torch.randn(T, B, D)
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        with tempfile.TemporaryDirectory() as folder, open_writer(folder) as writer:
            for _ in range(TURNS):
                for way, every in WAYS.items():
                    handle = monitor(module, writer, every) if every else None
                    module(x)[0].square().mean().backward()  # the first one is written
                    found[way] += timed(module, x)
                    if handle:
                        handle.remove()
        base, *others = (1e3 * statistics.median(times) for times in found.values())
        cells = [f"{ms:.3g} ms ({ms / base:.2f}×)" for ms in others]
        print(f"| {T}, {B}, {D}, {H} | {base:.3g} ms | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
