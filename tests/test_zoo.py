"""Every cell of the zoo, in both targets, beside what its paper says: written in PyTorch, and
differentiated by it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import reference
from conftest import need
from test_gradients import assert_gradients_equal, run

from lstmgen import Cell, cells, check, compile, generate, plan
from lstmgen.printing.text import show
from lstmgen.verification.examination import Examination

NAMES = [name for name in cells.names() if name not in reference.NAMES]


@cache
def module(name: str, target: str) -> Any:
    if target == "c":
        need("cffi")
        need("cc")
    return compile(cells.get(name), target, dtype="float64")


def folded(cell: Cell, step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of a cell, over a sequence: outputs, as a list of each, and final states."""

    def forward(p: Any, xs: Any, state: Any, given: Any) -> tuple[dict[str, list[Any]], Any]:
        outputs: dict[str, list[Any]] = {}
        for t in range(len(next(iter(xs.values())))):
            x = {n: a[t] for n, a in xs.items()}
            now = {n: v if isinstance(v, float) else v[t] for n, v in given.items()}
            y, state = step(p, x if len(x) > 1 else x[cell.inputs[0].name], state, now)
            for n, a in (y if isinstance(y, Mapping) else {cell.output.name: y}).items():
                outputs.setdefault(n, []).append(a)
        return outputs, state

    return forward


def by_torch(
    cell: Cell, forward: Callable[..., Any], case: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[tuple[str, str], Any]]:
    """Outputs, final states and gradients, as a forward pass in PyTorch has them."""
    import torch

    leaves = {e: torch.tensor(a, requires_grad=True) for e, a in case.values.items()}
    given = {
        n: torch.tensor(v) if isinstance(v, np.ndarray) else float(v) for n, v in case.given.items()
    }
    y, state = forward(*by_kind(leaves), given)
    losses = [(torch.tensor(case.dy[n][t]) * a).sum() for n in y for t, a in enumerate(y[n])]
    losses += [(torch.tensor(d) * state[n]).sum() for n, d in case.dstate.items()]
    torch.stack(losses).sum().backward()
    gradients = {
        e: np.zeros_like(case.values[e]) if a.grad is None else a.grad.numpy()
        for e, a in leaves.items()
        if e in differentiated(cell)
    }
    stacked = {n: np.stack([a.detach().numpy() for a in y[n]]) for n in y}
    return stacked, {n: a.detach().numpy() for n, a in state.items()}, gradients


def by_kind(leaves: dict[tuple[str, str], Any]) -> Iterator[dict[str, Any]]:
    """Parameters, inputs and states, by name."""
    for kind in ("parameter", "input", "state"):
        yield {n: a for (of, n), a in leaves.items() if of == kind}


def differentiated(cell: Cell) -> set[tuple[str, str]]:
    """What has a gradient, by kind and name."""
    kinds = {"parameter": cell.learned, "input": cell.inputs, "state": cell.states}
    return {(kind, v.name) for kind, variables in kinds.items() for v in variables}


def assert_equal_in_both_targets(
    name: str,
    case: Any,
    expected: Any,
    tolerance: float,
    only: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Hold what both targets compute against outputs, final states and gradients, of some
    parameters only where a mask is 1.
    """
    cell = cells.get(name)
    y, final, gradients = expected
    for target in ("numpy", "c"):
        ours = run(cell, module(name, target), case)
        found = ours[0] if isinstance(ours[0], dict) else {cell.output.name: ours[0]}
        assert found.keys() == y.keys()
        assert ours[1].keys() == final.keys()
        for mine, theirs in ((found, y), (ours[1], final)):
            for n, value in theirs.items():
                np.testing.assert_allclose(mine[n], value, rtol=tolerance, atol=tolerance / 100)
        for n, mask in (only or {}).items():
            ours[2]["parameter", n] = ours[2]["parameter", n] * mask
        assert_gradients_equal(ours[2], gradients, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_cell_of_its_paper(name: str) -> None:
    need("torch")
    import papers

    cell = cells.get(name)
    sizes = papers.known()[name].sizes
    case = Examination(cell, sizes=sizes, T=6, B=3, seeds=1).witnesses[0].case
    expected = by_torch(cell, folded(cell, papers.known()[name].step), case)
    assert_equal_in_both_targets(name, case, expected, 1e-11)


@pytest.mark.parametrize("target", ["numpy", "c"])
@pytest.mark.parametrize("name", NAMES)
def test_check_passes(name: str, target: str) -> None:
    cell = cells.get(name)
    report = check(cell, target, module=module(name, target), T=4, B=2)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("name", cells.names())
def test_it_says_what_it_is_and_where_it_is_from(name: str) -> None:
    cell = cells.get(name)
    text = importlib.import_module(f"lstmgen.cells.{cells.family(name)}.{name}").__doc__ or ""
    assert re.search(r"\([a-z]+\d{4}[a-z]+\)", text), "the BibTeX key of its source"
    assert cell.name == name
    assert cell.title and cell.source
    assert len(cell.title) <= 60


def test_no_transcription_is_of_no_cell() -> None:
    need("torch")
    import papers

    assert papers.known().keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_shown_planned_and_typeset(name: str) -> None:
    cell = cells.get(name)
    assert show(cell).startswith(f"{name}: {cell.title}\n")
    assert "forward" in str(plan(cell))
    text = "".join(generate(cell, "latex").values())
    assert r"\frac{\partial L}" in text
    assert "?" not in text, "a character that LaTeX has no name for"
