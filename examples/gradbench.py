"""GradBench's `lstm`: the network as equations, and a program that speaks GradBench's protocol.

GradBench (https://github.com/gradbench/gradbench) compares tools for differentiation. Its eval
`lstm`, which is from ADBench, asks for the loss of a character model, and for the gradient of it:
layers of LSTM cells with diagonal matrices, one sequence, and for each character as many units as
it has bits. A tool is a program that reads a JSON message a line, and answers each with a line.

    .venv/bin/python examples/gradbench.py < messages.jsonl

With GradBench's own command, from a checkout of it:

    ./gradbench run --eval "./gradbench repo eval lstm" --tool "python examples/gradbench.py"

The layers run as a wavefront, each a step later than the one below it: lstmgen/network/wavefront.py
says why. Compiling is done before the clock runs, as for all compiled tools.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from sympy import Eq, exp, log

import lstmgen
from lstmgen import Cell, biases, inputs, masks, sigmoid, states, sum_, tanh, vector, vectors
from lstmgen.runtime.stack import Stack

GATES = "fiog"  # forget, in, out and change, in the order of GradBench's rows

# --------------------------------------------------------------------------- the equations

x = inputs("x")
h, c = states("h c", size="D")
f, i, o, g, a_f, a_i, a_o, a_g = vectors("f i o g a_f a_i a_o a_g", size="D")
W, b = biases("W b", size="D")  # the matrices are diagonal

LAYER = Cell(
    "adbench_lstm",
    equations=[
        Eq(a_f, W.f * x + b.f),
        Eq(a_i, W.i * h + b.i),  # two gates read the state alone, two the input alone
        Eq(a_o, W.o * x + b.o),
        Eq(a_g, W.g * h + b.g),
        Eq(f, sigmoid(a_f)),  # forget gate
        Eq(i, sigmoid(a_i)),  # input gate
        Eq(o, sigmoid(a_o)),  # output gate
        Eq(g, tanh(a_g)),  # change
        Eq(c.next, f * c + i * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="the LSTM of ADBench",
    source="Srajer, Kukelova & Fitzgibbon 2018",
)

w_in, w_out, b_out = vector("w_in", size="D"), vector("w_out", size="D"), vector("b_out", size="D")
FIRST = w_in * x  # what the first layer reads

target = masks("target", size="D")  # the bits of the character that comes next
y, e = vectors("y e", size="D")
z, lse, score = vectors("z lse score", size=1)

LOSS = Cell(
    "adbench_loss",
    equations=[
        Eq(y, w_out * x + b_out),
        Eq(e, exp(y)),
        Eq(z, sum_(e) + 2),
        Eq(lse, log(z)),
        Eq(score, sum_(target * (y - lse))),
    ],
    output=score,
    title="what a prediction is worth",
)


# --------------------------------------------------------------------------- the function


@dataclass(frozen=True)
class Problem:
    """An input of the eval. The network reads all characters but the last, and predicts all but
    the first.
    """

    main: np.ndarray  # (layers, 2, gates, units): weights, and biases
    extra: np.ndarray  # (3, units): in_weight, out_weight, out_bias
    state: np.ndarray  # (layers, 2, units): h, and c
    sequence: np.ndarray  # (characters, 1, units)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Problem:
        """What a message has, as arrays."""
        sequence = np.array(given["sequence"], dtype=float)
        rows, units = np.shape(given["state"])
        main = np.array(given["main_params"], dtype=float).reshape(rows // 2, 2, len(GATES), units)
        return cls(
            main, np.array(given["extra_params"], dtype=float),
            np.array(given["state"], dtype=float).reshape(rows // 2, 2, units), sequence[:, None],
        )  # fmt: skip

    @property
    def count(self) -> int:
        """How many bits are predicted."""
        return (len(self.sequence) - 1) * self.sequence.shape[2]

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters of all layers side by side, and what the first one reads by."""
        found = {"w_in": self.extra[0]}
        for k, gate in enumerate(GATES):
            found[f"W_{gate}"] = self.main[:, 0, k].reshape(-1)
            found[f"b_{gate}"] = self.main[:, 1, k].reshape(-1)
        return found

    @property
    def of_loss(self) -> dict[str, np.ndarray]:
        return {"w_out": self.extra[1], "b_out": self.extra[2]}

    @property
    def initial(self) -> dict[str, np.ndarray]:
        return {name: self.state[:, k].reshape(1, -1) for k, name in enumerate("hc")}


class Network:
    """So many layers of so many units, and the loss, compiled."""

    def __init__(self, layers: int, units: int, target: str = "c") -> None:
        options: dict[str, Any] = {"dtype": "float64"} | ({"D": units} if target == "c" else {})
        self.stack = Stack(LAYER, layers, first=FIRST, target=target, **options)
        self.loss = lstmgen.compile(LOSS, target, **options)

    def objective(self, p: Problem) -> float:
        """What `lstm.hpp` of GradBench calls objective."""
        top, _, _ = self.stack.forward(p.params, p.sequence[:-1], p.initial, tape=False)
        scores, _, _ = self.loss.forward(p.of_loss, top, masks={"target": p.sequence[1:]})
        return float(-scores.sum() / p.count)

    def gradient(self, p: Problem) -> np.ndarray:
        """Its derivatives by main_params and extra_params, row after row."""
        top, _, tape = self.stack.forward(p.params, p.sequence[:-1], p.initial)
        scores, _, kept = self.loss.forward(p.of_loss, top, masks={"target": p.sequence[1:]})
        dscores = np.full_like(scores, -1 / p.count)
        by_loss, dtop, _ = self.loss.backward(p.of_loss, kept, dscores)
        by_stack, _, _ = self.stack.backward(p.params, tape, dtop, by_input=False)
        main = np.empty_like(p.main)
        for k, gate in enumerate(GATES):
            main[:, 0, k] = by_stack[f"W_{gate}"].reshape(len(main), -1)
            main[:, 1, k] = by_stack[f"b_{gate}"].reshape(len(main), -1)
        extra = by_stack["w_in"], by_loss["w_out"], by_loss["b_out"]
        return np.concatenate([main.reshape(-1), *extra])


@cache
def network(layers: int, units: int, target: str) -> Network:
    """Built once for each size."""
    return Network(layers, units, target)


# --------------------------------------------------------------------------- the protocol


def evaluated(function: str, given: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Run a function as often as the message asks for, and time each run."""
    start = time.perf_counter_ns()
    problem = Problem.of(given)
    built = network(*problem.state.shape[::2], target)
    known: dict[str, Callable[[Problem], Any]] = {
        "objective": built.objective, "jacobian": built.gradient,
    }  # fmt: skip
    if function not in known:
        return failed(f"there is no function {function!r}")
    timings = [_timing("prepare", start)]
    found: Any = None
    begun = time.perf_counter()
    for run in _runs(given.get("min_runs", 1)):
        if not run and time.perf_counter() - begun >= given.get("min_seconds", 0):
            break
        start = time.perf_counter_ns()
        found = known[function](problem)
        timings.append(_timing("evaluate", start))
    output = found if isinstance(found, float) else found.tolist()
    return {"success": True, "output": output, "timings": timings}


def _runs(least: int) -> Iterator[bool]:
    """Whether another run is wanted whatever the time."""
    yield from (True for _ in range(max(1, least)))
    while True:
        yield False


def _timing(name: str, since: int) -> dict[str, Any]:
    return {"name": name, "nanoseconds": time.perf_counter_ns() - since}


def failed(why: str) -> dict[str, Any]:
    return {"success": False, "error": why}


def answer(message: Mapping[str, Any], target: str) -> dict[str, Any]:
    """What the tool says to a message."""
    kind = message["kind"]
    if kind == "start":
        return {"tool": "lstmgen", "config": {"target": target}}
    if kind == "define":
        known = message["module"] == "lstm"
        return {"success": True} if known else failed(f"no module {message['module']!r}")
    if kind == "evaluate":
        try:
            return evaluated(message["function"], message["input"], target)
        except Exception as error:  # the eval goes on with the next message
            return failed(f"{type(error).__name__}: {error}")
    return {}


def serve(given: TextIO, out: TextIO, target: str) -> None:
    """Answer each line of ``given``."""
    for line in given:
        message = json.loads(line)
        print(json.dumps({"id": message["id"], **answer(message, target)}), file=out, flush=True)


def main() -> None:
    name = Path(__file__).name
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", choices=("c", "numpy"), default="c", help="what runs")
    serve(sys.stdin, sys.stdout, parser.parse_args().target)


if __name__ == "__main__":
    main()
