"""The example for GradBench's lstm: its function and gradient, and the protocol that it speaks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "gradbench.py"
SIZES = [(1, 2, 3), (2, 7, 5), (3, 4, 9), (4, 12, 14)]  # layers, characters, bits


def example() -> Any:
    spec = importlib.util.spec_from_file_location("gradbench_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which dataclasses look for
    spec.loader.exec_module(module)
    return module


def an_input(layers: int, characters: int, bits: int) -> dict[str, Any]:
    """As the eval makes it: parameters in [0, 1), and bits."""
    rng = np.random.default_rng(layers + characters)
    return {
        "main_params": rng.random((2 * layers, 4 * bits)).tolist(),
        "extra_params": rng.random((3, bits)).tolist(),
        "state": rng.random((2 * layers, bits)).tolist(),
        "sequence": rng.integers(0, 2, (characters, bits)).astype(float).tolist(),
        "min_runs": 2,
        "min_seconds": 0,
    }


def objective(lib: Any, main: Any, extra: Any, state: Any, sequence: Any) -> Any:
    """`objective` of GradBench's lstm.hpp, with the functions of NumPy or of PyTorch."""
    bits = extra.shape[1]
    hidden = [state[2 * k] for k in range(len(state) // 2)]
    cell = [state[2 * k + 1] for k in range(len(state) // 2)]

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + lib.exp(-a))

    total = 0.0
    for now, then in pairwise(sequence):
        given = now * extra[0]
        for k in range(len(hidden)):
            weight, bias = main[2 * k], main[2 * k + 1]
            forget, ingate, outgate, change = (
                weight[n * bits : (n + 1) * bits] * read + bias[n * bits : (n + 1) * bits]
                for n, read in enumerate((given, hidden[k], given, hidden[k]))
            )
            cell[k] = cell[k] * sigmoid(forget) + sigmoid(ingate) * lib.tanh(change)
            hidden[k] = given = sigmoid(outgate) * lib.tanh(cell[k])
        prediction = given * extra[1] + extra[2]
        total = total + (then * (prediction - lib.log(lib.exp(prediction).sum() + 2))).sum()
    return -total / ((len(sequence) - 1) * bits)


def arrays(given: dict[str, Any]) -> list[Any]:
    names = ("main_params", "extra_params", "state", "sequence")
    return [np.array(given[name]) for name in names]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", ["numpy", "c"])
def test_objective_and_gradient_against_central_differences(target: str, size: Any) -> None:
    if target == "c":
        need("cc")
        need("cffi")
    module = example()
    given = an_input(*size)
    problem = module.Problem.of(given)
    network = module.Network(size[0], size[2], target)
    main, extra, state, sequence = arrays(given)
    # a few roundings of numbers near 1
    right = objective(np, main, extra, state, sequence)
    assert network.objective(problem) == pytest.approx(right, rel=1e-13)
    gradient = network.gradient(problem)
    flat = np.concatenate([main.ravel(), extra.ravel()])
    assert gradient.shape == flat.shape
    step = 1e-5
    for k in np.random.default_rng(0).choice(flat.size, 20, replace=False):
        sides = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[k] += sign * step
            parts = moved[: main.size].reshape(main.shape), moved[main.size :].reshape(extra.shape)
            sides.append(objective(np, *parts, state, sequence))
        # error of the differences: step^2 and 1e-16 / step, both about 1e-10
        assert gradient[k] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_gradient_against_pytorch(size: Any) -> None:
    need("torch")
    import torch

    module = example()
    given = an_input(*size)
    main, extra, state, sequence = (torch.tensor(a) for a in arrays(given))
    leaves = main.requires_grad_(), extra.requires_grad_()
    loss = objective(torch, *leaves, state, sequence)
    right = torch.cat([g.ravel() for g in torch.autograd.grad(loss, leaves)]).numpy()
    found = module.Network(size[0], size[2], "numpy").gradient(module.Problem.of(given))
    # sums over all steps, in another order
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-13 * np.abs(right).max())


def test_protocol() -> None:
    given = an_input(2, 6, 4)
    messages = [
        {"kind": "start", "eval": "lstm"},
        {"kind": "define", "module": "lstm"},
        {"kind": "evaluate", "module": "lstm", "function": "objective", "input": given},
        {"kind": "evaluate", "module": "lstm", "function": "jacobian", "input": given},
        {"kind": "analysis", "of": 3, "valid": True},
        {"kind": "evaluate", "module": "lstm", "function": "hessian", "input": given},
        {"kind": "evaluate", "module": "lstm", "function": "jacobian", "input": {}},
        {"kind": "define", "module": "gmm"},
    ]
    lines = "".join(json.dumps({"id": k, **m}) + "\n" for k, m in enumerate(messages))
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE, "--target", "numpy"], input=lines,
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["id"] for a in answers] == list(range(len(messages)))
    start, defined, value, gradient, analysed, hessian, empty, unknown = answers
    assert start["tool"] == "lstmgen"
    assert defined["success"] and analysed == {"id": 4}
    right = objective(np, *arrays(given))
    # the eval allows 1e-4
    assert value["output"] == pytest.approx(right, rel=1e-13)
    assert len(gradient["output"]) == 2 * 2 * 4 * 4 + 3 * 4
    for found in (value, gradient):
        assert found["success"]
        assert [t["name"] for t in found["timings"]] == ["prepare", "evaluate", "evaluate"]
        assert all(type(t["nanoseconds"]) is int and t["nanoseconds"] > 0 for t in found["timings"])
    for failed in (hessian, empty, unknown):
        assert not failed["success"] and failed["error"]
