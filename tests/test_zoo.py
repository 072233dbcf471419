"""Every cell of the zoo, in both targets, beside what its paper says: written in PyTorch, and
differentiated by it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import reference
from conftest import need
from test_gradients import assert_gradients_equal, run

from lstmgen import cells, check, compile, generate, plan
from lstmgen.printing.text import show
from lstmgen.verification.examination import Examination

NAMES = [name for name in cells.names() if name not in reference.NAMES]


@cache
def module(name: str, target: str) -> Any:
    if target == "c":
        need("cffi")
        need("cc")
    return compile(cells.get(name), target, dtype="float64")


def by_paper(name: str, case: Any) -> tuple[Any, dict[str, Any], dict[tuple[str, str], Any]]:
    """Outputs, final states and gradients, as the transcription has them."""
    import papers
    import torch

    cell, step = cells.get(name), papers.known()[name].step
    leaves = {e: torch.tensor(a, requires_grad=True) for e, a in case.values.items()}
    p = {n: a for (kind, n), a in leaves.items() if kind == "parameter"}
    state = {s.name: leaves["state", s.name] for s in cell.states}
    losses, outputs = [], []
    for t in range(case.steps):
        xs = {v.name: leaves["input", v.name][t] for v in cell.inputs}
        given = {
            n: torch.tensor(v[t]) if isinstance(v, np.ndarray) else float(v)
            for n, v in case.given.items()
        }
        y, state = step(p, xs if len(xs) > 1 else next(iter(xs.values())), state, given)
        y = y if isinstance(y, Mapping) else {cell.output.name: y}
        losses += [(torch.tensor(case.dy[n][t]) * a).sum() for n, a in y.items()]
        outputs.append({n: a.detach().numpy() for n, a in y.items()})
    losses += [(torch.tensor(d) * state[n]).sum() for n, d in case.dstate.items()]
    torch.stack(losses).sum().backward()
    unlearned = {q.name for q in cell.parameters} - {q.name for q in cell.learned}
    gradients = {
        e: np.zeros_like(case.values[e]) if a.grad is None else a.grad.numpy()
        for e, a in leaves.items()
        if e[1] not in unlearned or e[0] != "parameter"
    }
    stacked = {n: np.stack([y[n] for y in outputs]) for n in outputs[0]}
    return stacked, {n: a.detach().numpy() for n, a in state.items()}, gradients


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_cell_of_its_paper(name: str) -> None:
    need("torch")
    import papers

    cell = cells.get(name)
    sizes = papers.known()[name].sizes
    case = Examination(cell, sizes=sizes, T=6, B=3, seeds=1).witnesses[0].case
    y, final, gradients = by_paper(name, case)
    for target in ("numpy", "c"):
        ours = run(cell, module(name, target), case)
        found = ours[0] if isinstance(ours[0], dict) else {cell.output.name: ours[0]}
        assert found.keys() == y.keys()
        for n, expected in y.items():
            np.testing.assert_allclose(found[n], expected, rtol=1e-11, atol=1e-13)
        for n, expected in final.items():
            np.testing.assert_allclose(ours[1][n], expected, rtol=1e-11, atol=1e-13)
        assert_gradients_equal(ours[2], gradients, 1e-11)


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
