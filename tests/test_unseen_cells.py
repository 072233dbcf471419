"""Cells that the compiler was not built with, in both targets, beside PyTorch and its autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import need

import lstmgen
from lstmgen.targets.numpy.target import init_sizes

need("torch")
import torch  # noqa: E402
import unseen  # noqa: E402

TOLERANCE = 1e-11  # of sums of some hundred terms in double precision, relative to the largest


def draw(rng: np.random.Generator, shape: tuple[int, ...], how: Any) -> np.ndarray:
    if how is None:
        return rng.normal(0.05, 0.5, shape)
    return how(rng, shape) if callable(how) else rng.uniform(*how, shape)


class Case:
    """Numbers for all that a cell takes, and what PyTorch makes of them."""

    def __init__(
        self, of: unseen.Unseen, cell: lstmgen.Cell, params: Any, sizes: Any, T: int, B: int
    ):
        rng = np.random.default_rng(T)
        values = {lstmgen.Size(n): k for n, k in sizes.items()}

        def some(symbol: Any, *front: int) -> np.ndarray:
            shape = tuple(int(axis.subs(values)) for axis in cell.shape(symbol))
            return draw(rng, (*front, *shape), of.drawn.get(symbol.name))

        self.params = {**params, **{p.name: some(p) for p in cell.parameters}}
        self.x = {v.name: some(v, T, B) for v in cell.inputs}
        self.state = {v.name: some(v, B) for v in cell.states}
        self.masks = {v.name: some(v, T, B) for v in cell.masks}
        leaves = [
            {n: torch.tensor(a, requires_grad=True) for n, a in group.items()}
            for group in (self.params, self.x, self.state)
        ]
        p, x, s = leaves
        steps = []
        for t in range(T):
            now = {n: a[t] for n, a in x.items()}
            given = {n: torch.tensor(a[t]) for n, a in self.masks.items()}
            y, s = of.step(p, now if len(now) > 1 else now[cell.inputs[0].name], s, given)
            steps.append(y if isinstance(y, dict) else {cell.output.name: y})
        y = {n: torch.stack([step[n] for step in steps]) for n in steps[0]}
        self.dy = {n: rng.normal(size=a.shape) for n, a in y.items()}
        self.dstate = {n: rng.normal(size=a.shape) for n, a in s.items()}
        losses = [(torch.tensor(self.dy[n]) * a).sum() for n, a in y.items()]
        losses += [(torch.tensor(self.dstate[n]) * a).sum() for n, a in s.items()]
        torch.stack(losses).sum().backward()
        learned = {p.name for p in cell.learned}
        self.results = [{n: a.detach().numpy() for n, a in group.items()} for group in (y, s)]
        self.gradients = [
            {n: np.zeros(a.shape) if a.grad is None else a.grad.numpy() for n, a in group.items()}
            for group in ({n: a for n, a in p.items() if n in learned}, x, leaves[2])
        ]

    def run(self, cell: lstmgen.Cell, module: Any) -> tuple[list[Any], list[Any]]:
        """Outputs and final states, and gradients, of a module."""
        x = self.x if len(self.x) > 1 else self.x[cell.inputs[0].name]
        y, final, tape = module.forward(self.params, x, self.state, *filter(None, [self.masks]))
        dy = self.dy if isinstance(y, dict) else self.dy[cell.output.name]
        grads, dx, initial = module.backward(self.params, tape, dy, self.dstate)
        return (
            [y if isinstance(y, dict) else {cell.output.name: y}, final],
            [grads, dx if len(self.x) > 1 else {cell.inputs[0].name: dx}, initial],
        )


def assert_near(ours: list[Any], theirs: list[Any]) -> None:
    """Each relative to its largest entry; a millionth of the largest of all counts as nothing."""
    floor = 1e-6 * max(np.abs(a).max() for group in theirs for a in group.values())
    for mine, group in zip(ours, theirs, strict=True):
        assert mine.keys() == group.keys()
        for name, expected in group.items():
            error = np.abs(mine[name] - expected).max() / max(np.abs(expected).max(), floor)
            assert error < TOLERANCE, (name, error)


@pytest.mark.parametrize("name", unseen.known())
def test_it_agrees_with_pytorch(name: str) -> None:
    need("cffi")
    need("cc")
    of = unseen.known()[name]
    cell = of.cell()
    for target in ("numpy", "c"):
        module = lstmgen.compile(cell, target, dtype="float64")
        for sizes in of.sizes:
            params = module.init(**init_sizes(cell, sizes), dtype="float64")
            for T, B in ((1, 1), (7, 3)):
                case = Case(of, cell, params, sizes, T, B)
                results, gradients = case.run(cell, module)
                assert_near(results, case.results)
                assert_near(gradients, case.gradients)


@pytest.mark.parametrize("name", unseen.known())
def test_it_is_the_same_cell_as_text_and_can_be_typeset(name: str) -> None:
    cell = unseen.known()[name].cell()
    assert lstmgen.read_cell(lstmgen.write_cell(cell)) == cell
    assert "backward" in str(lstmgen.plan(cell))
    assert r"\frac{\partial L}" in "".join(lstmgen.generate(cell, "latex").values())
