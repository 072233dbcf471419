"""``check`` of networks: it passes what is right, and finds what is wrong in generated code."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from conftest import need
from hypothesis import given, settings
from networks import ANTISYMMETRIC, DELAYED, RESERVOIR
from sympy import Eq

from lstmgen import (
    Cell,
    Dropout,
    Embedding,
    Layer,
    LstmgenError,
    Network,
    Readout,
    check,
    generate,
    inputs,
    load_cell,
    matrix,
    relu,
    states,
    stop_gradient,
)
from lstmgen.network.description import lines
from lstmgen.network.graph import Noise
from lstmgen.network.structure import Structure
from lstmgen.runtime.loading import find_model, load_model, load_package
from lstmgen.verification.graphs import GraphEvaluator, drawn
from lstmgen.verification.networks import NetworkExamination

SYMBOLS = Structure(
    [
        Embedding(4, 3),
        Dropout(0.4),
        Layer("rnn", 3, bidirectional=True, learn_state=True),
        Layer("rnn", 6, skip="residual", zoneout=0.3, recurrent_dropout=0.3),
        Layer("rnn", 2, go_backwards=True, last=True, zoneout=0.2),
        Readout(2),
    ]
)
STREAM = Structure([Layer("rnn", 3, learn_state=True), Layer("rnn", 3, skip="highway", last=False)])
ENDS = Structure([Layer("rnn", 2, last=True)])
STRUCTURES = {"symbols": SYMBOLS, "stream": STREAM, "ends": ENDS}


@cache
def examination(name: str) -> NetworkExamination:
    """Witnesses do not depend on the module, and are made once."""
    return NetworkExamination(STRUCTURES[name], T=5, B=3, seeds=2)


@cache
def files(name: str) -> dict[str, str]:
    return generate(STRUCTURES[name], "numpy")


def judged(name: str, *slips: tuple[str, str]) -> Any:
    """The report of a module in whose text each slip's first words became the second."""
    made = dict(files(name))
    for right, wrong in slips:
        assert made["network.py"].count(right) == 1, right
        made["network.py"] = made["network.py"].replace(right, wrong)
    return examination(name).judge(load_package(made, "network.py", "network"), "NumPy")


# --------------------------------------------------------------------------- what is right passes


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_right_passes(name: str) -> None:
    report = judged(name)
    assert report.passed, f"\n{report}"
    rows = [row.name for row in report.rows]
    assert ("step" in rows) == (name == "stream")
    assert rows[-1] == "dot product"
    gradients = {f"∂L/∂{n}" for n in STRUCTURES[name].parameters}
    gradients |= {f"∂L/∂{n}[0]" for n in STRUCTURES[name].states}
    gradients |= {"∂L/∂x"} if name != "symbols" else set()
    assert {row.name for row in report.rows if row.is_gradient} == gradients


def test_single_precision_passes() -> None:
    report = check(STREAM, dtype="float32", T=4, B=2, seeds=1)
    assert report.passed, f"\n{report}"
    assert "float32 · T=4 B=2 D=" in report.title


@given(networks.structures())
@settings(max_examples=3)
def test_structures_pass(structure: Structure) -> None:
    report = check(structure, T=3, B=2, seeds=1)
    assert report.passed, "\n".join([*lines(structure), str(report)])


def test_kinks_and_cut_gradients_pass() -> None:
    x, h, W, U = inputs("x"), states("h"), matrix("W"), matrix("U")
    cell = Cell("cut", [Eq(h.next, relu(W @ x) + stop_gradient(U @ h) * h / 4)], h)
    network = Structure([Layer(cell, 3, bidirectional="sum"), Layer(RESERVOIR, 2)])
    report = check(network, T=3, B=2, seeds=1)
    assert report.passed, f"\n{report}"
    assert not {"∂L/∂reservoir1.U", "∂L/∂reservoir1.leak"} & {row.name for row in report.rows}


def test_sizes_that_nobody_says_can_be_chosen() -> None:
    network = Structure([Layer(DELAYED, 2), Layer(ANTISYMMETRIC, 2)])
    report = check(network, T=3, B=2, seeds=1, sizes={"D": 6})
    assert report.passed, f"\n{report}"
    assert "D=6" in report.title
    with pytest.raises(LstmgenError, match="H is not a size of network; it has D"):
        check(network, sizes={"H": 3})


def test_large_gradients_are_asked_for_in_part() -> None:
    made = NetworkExamination(Structure([Layer("rnn", 30)]), T=2, B=2, seeds=1)
    exact = sum(made.witnesses[0].complex_step(("parameter", "rnn1.U_h")))
    assert exact.shape == (30, 30)
    assert 4 <= np.isfinite(exact).sum() < 900
    assert np.isfinite(made.witnesses[0].tangents.outputs["rnn1"]).all()


def test_c_passes() -> None:
    """In a process of its own; the network has the name that all have that are given none."""
    need("cffi")
    need("cc")
    report = check(SYMBOLS, "c", T=4, B=3, seeds=1)
    assert report.passed, f"\n{report}"
    assert report.title == "network · C · float64 · T=4 B=3"


# --------------------------------------------------------------------------- what is wrong is found

SLIPS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "steps that are not reversed": (
        "symbols",
        [("[order.turn(signal) for signal in signals] if chain.reverse else signals", "signals")],
    ),
    "output that is not turned back": (
        "symbols",
        [("else order.turn(a) if chain.reverse else a\n            for a, last in zip(made",
          "else a\n            for a, last in zip(made")],
    ),
    "masks in the order of the other direction": (
        "symbols", [("(order.index[order.turned] if backwards else order.index)", "order.index")],
    ),
    "state that enters at the wrong end": (
        "symbols", [("return (last, first) if reverse", "return (first, last) if reverse")],
    ),
    "reset at the first step that is forgotten": (
        "stream", [("self.takes &= ~resets[0, self.row]", "self.takes &= True")],
    ),
    "state that comes from before a reset": (
        "stream",
        [("        self.takes = self.first == 0  #", "        self.takes = self.first >= 0  #")],
    ),
    "gradient that goes through a reset": (
        "stream",
        [("dinitial[f\"{name}.{k}\"] = self._placed(array, enters)",
          "dinitial[f\"{name}.{k}\"] = self._placed(array, slice(None))")],
    ),
    "gradient of a learned start of given states": (
        "stream", [("anew = ~enters if self.initial else slice(None)", "anew = slice(None)")],
    ),
    "gradient of a learned start of the first pieces alone": (
        "stream", [("anew = ~enters if self.initial else slice(None)", "anew = enters")],
    ),
    "final state of the first piece": (
        "stream",
        [("self._placed(array, leaves)\n        return final",
          "self._placed(array, self.steps.whole[0])\n        return final")],
    ),
    "cotangent of final states at the first piece": (
        "stream",
        [("                if final:\n",
          "                leaves = order.whole[0]\n                if final:\n")],
    ),
    "mask that is the other way round": (
        "symbols", [("np.array([kept, dropped]", "np.array([dropped, kept]")],
    ),
    "mask that is not scaled": (
        "symbols", [("((3,), 0.0, 1.6666666666666667", "((3,), 0.0, 1.0")],
    ),
    "mask of a sequence that changes": (
        "symbols", [("(index % order.B if whole else index)", "index")],
    ),
    "mean of zoneout that is that of dropout": (
        "symbols", [("np.full(shape, mean, self.dtype)", "np.ones(shape, self.dtype)")],
    ),
    "symbols that come twice and count once": (
        "symbols", [("np.add.at(gradient, self._kept(name), drows)",
                     "gradient[self._kept(name)] += drows")],
    ),
    "last step that is the first": (
        "ends", [("self.block.rows, -1)[-1, self.block.ending]",
                  "self.block.rows, -1)[0, self.block.ending]")],
    ),
    "gradient of the last step at the first": (
        "ends", [("drows[-1, block.ending] = dlast", "drows[0, block.ending] = dlast")],
    ),
    "states that are not brought back at a checkpoint": (
        "stream", [("self.states[name][k][: len(array)] = array", "pass")],
    ),
    "cotangent of final states that is ignored": (
        "stream", [("                if final:\n", "                if False:\n")],
    ),
    "steps that do not go on from the state": (
        "stream", [("np.asarray(x_t)[np.newaxis], state, tape=False",
                    "np.asarray(x_t)[np.newaxis], None, tape=False")],
    ),
    "gradients that are overwritten by those of the next block": (
        "stream", [("self.sums[name] += gradient", "self.sums[name] = gradient")],
    ),
    "outputs beyond the end that are not 0": (
        "stream", [("array = np.zeros((self.T * self.B, *rows.shape[1:]), rows.dtype)",
                    "array = np.ones((self.T * self.B, *rows.shape[1:]), rows.dtype)")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SLIPS)
def test_slips_in_generated_code_are_found(what: str) -> None:
    name, slips = SLIPS[what]
    report = judged(name, *slips)
    assert not report.passed, f"\n{report}"
    assert "DISAGREE" in str(report)


def test_adjoints_that_are_dropped_are_found() -> None:
    """Of a signal with two readers, in one chain or in two: what flows back from one of them."""
    gains = re.compile(r"    (d\w+) (?:\+= more_\w+|= \1 \+ (.*))\n")
    found = [(name, m) for name in STRUCTURES for m in gains.finditer(files(name)["network.py"])]
    assert len(found) == 3
    for name, line in found:
        dropped = f"    {line[1]} = {line[2]}\n" if line[2] else ""
        assert not judged(name, (line[0], dropped)).passed, line[0]


def test_what_cannot_be_judged_is_told() -> None:
    report = judged("ends", ("    run = _used(tape)\n", "    raise RuntimeError('no')\n"))
    assert "cannot be had: backward raised RuntimeError: no" in str(report)
    report = judged("ends", ("    return y, run.final(), run", "    return y[0], run.final(), run"))
    assert "has shape" in str(report)


# --------------------------------------------------------------------------- the witnesses


def test_the_evaluation_of_graphs_equals_pytorch() -> None:
    need("torch")
    from torch_networks import Reference

    for name, structure in STRUCTURES.items():
        for witness in examination(name).witnesses:
            case = witness.case
            of = {k: {n: a for (kind, n), a in case.values.items() if kind == k}
                  for k in ("parameter", "input", "state")}  # fmt: skip
            options = {n: case.given[n] for n in ("lengths", "resets", "seed")}
            (dy,) = case.dy.values()
            theirs = Reference(structure, of["parameter"]).run(
                case.given.get("symbols", of["input"].get("x")),
                of["state"] if case.given["is_given"] else None,
                dy=dy[0] if structure.graph.output.of_rows else dy, dstate=case.dstate, **options,
            )  # fmt: skip
            y = np.stack([np.concatenate(list(a.values()))[0] for a in witness.base.outputs])
            np.testing.assert_allclose(
                y[0] if structure.graph.output.of_rows else y, theirs.y, rtol=1e-12, atol=1e-12
            )
            gradients = {("parameter", n): g for n, g in theirs.grads.items()}
            gradients |= {("state", n): g for n, g in theirs.dinitial.items()}
            gradients |= {} if theirs.dx is None else {("input", "x"): theirs.dx}
            for entity, g in gradients.items():
                exact = sum(witness.complex_step(entity))
                known = np.isfinite(exact)
                assert known.any()
                np.testing.assert_allclose(exact[known], g[known], rtol=1e-10, atol=1e-10)


def test_random_numbers_are_those_of_splitmix64() -> None:
    """The first numbers of its generator at 0, from the public domain implementation."""
    bits = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    from lstmgen.verification import graphs

    assert [graphs._splitmix(graphs._GOLDEN * k) for k in (1, 2, 3)] == bits
    mask = drawn(Noise(0.5, holds=True), (3, 2), (4,), 7, 1)
    assert mask.shape == (3, 2, 4)
    assert set(np.unique(mask)) == {0.0, 1.0}


def test_states_that_are_not_given_are_what_is_added_to_the_start() -> None:
    evaluator = GraphEvaluator(STREAM)
    values = {("parameter", n): np.zeros((1, 1, *(3 if str(k) == "D" else int(k) for k in shape)))
              for n, shape in STREAM.parameters.items()}  # fmt: skip
    values |= {("state", n): np.full((1, 2, 3), 0.5) for n in STREAM.states}
    values["parameter", "rnn1.h_start"] += 2.0
    values["input", "x"] = np.zeros((0, 1, 2, 3))
    given_ = {"shape": (0, 2), "lengths": None, "resets": None, "seed": None}
    for is_given, wanted in ((True, 0.5), (False, 2.5)):
        trace = evaluator.run(values, {**given_, "is_given": is_given}, {"D": 3})
        assert (trace.states[-1]["rnn1.h"] == wanted).all()
        assert not trace.outputs


# --------------------------------------------------------------------------- files, and a process

FILE = """
from lstmgen import Layer, Network, Readout

network = Network([Layer("rnn", 2), Readout(1)])
"""


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lstmgen", *words], cwd=folder, capture_output=True,
        encoding="utf-8", check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


ROOT = Path(__file__).resolve().parent.parent


def test_files_of_networks_are_checked_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE, encoding="utf-8")
    done = command("check", "mine.py", "--steps", "3", "--batch", "2", "--seeds", "1",
                   folder=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("network · NumPy · float64 · T=3 B=2 D=")
    assert "∂L/∂rnn1.W_h" in done.stdout
    assert "gradients agree" in done.stdout


def test_a_file_may_define_a_cell_a_network_or_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    assert isinstance(load_model(path), Network)
    with pytest.raises(LstmgenError, match=r"it defines no cell\n.*it defines a network"):
        load_cell(path)
    path.write_text(f"{FILE}\ncell = network.graph.cells[0]\n", encoding="utf-8")
    assert isinstance(find_model(str(path)), Network)
    assert load_cell(path).name == "rnn"
    path.write_text(FILE.replace("network =", "model ="), encoding="utf-8")
    with pytest.raises(LstmgenError, match=r"defines no network\n.*it defines model: rename that"):
        load_model(path)
    path.write_text(FILE.replace("2", "0"), encoding="utf-8")
    with pytest.raises(LstmgenError, match=r"mine.py: units is a positive whole number, not 0"):
        load_model(path)
    path.write_text("x = 1", encoding="utf-8")
    with pytest.raises(LstmgenError, match="it defines no cell"):
        load_model(path)
    assert find_model("lstm").name == "lstm"


def test_networks_go_to_another_process() -> None:
    network = Network([Layer("rnn", 2), Dropout(0.2), Readout(1)])
    network.target = "numpy"
    network.module()
    again = pickle.loads(pickle.dumps(network))
    assert generate(again, "numpy") == generate(network, "numpy")
