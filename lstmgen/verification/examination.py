"""The examination of modules: cases, witnesses and tolerances for one cell and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import Any

import numpy as np

from ..derivation.forward import Tangents
from ..derivation.modes import derive
from ..errors import LstmgenError
from ..language import dtypes
from ..language.cell import Cell
from .cases import SPECIAL, choose_sizes
from .comparing import Comparison
from .evaluation import Entity
from .pushing import Pushing
from .report import Finding, Progress, Report, Row, broken, worst_of_each
from .running import FailedError, Gradients, Runner, gradient_name
from .selection import Selection
from .tolerances import Tolerance, chain
from .witnesses import Pushed

FORWARD_MODE, DOT_PRODUCT = "forward mode", "dot product"


class Judge:
    """Cases, what the witnesses say of them, and modules that are held against that.

    Parameters
    ----------
    cell : Cell
        Or what has quantities and equations as a cell has.
    dtype : DType
        Of the modules.
    sizes : mapping of str to int
        A number for each symbolic size.
    """

    last_of_all = DOT_PRODUCT  # what is judged when all gradients are

    def __init__(self, cell: Any, dtype: dtypes.DType, sizes: dict[str, int]) -> None:
        self.cell, self.dtype, self.sizes = cell, dtype, sizes
        self.witnesses: list[Any] = []

    def _compare(self, roundings: int) -> None:
        """Be ready to judge by the witnesses that there are now."""
        self.entities = self.witnesses[0].entities
        self.comparisons = [Comparison(w, Tolerance(w, roundings)) for w in self.witnesses]

    def judge(
        self,
        module: Any,
        title: str = "",
        progress: Progress | None = None,
        tangents: Tangents | None = None,
    ) -> Report:
        """Hold a module of the generated kind, and forward mode, against the witnesses.

        Parameters
        ----------
        module, title, progress
            As for ``check``; the title is the target's.
        tangents : Tangents, optional
            To be judged in place of those that are derived.
        """
        report = progress or (lambda done, total, what: None)
        total = 2 + len(self.entities)
        report(0, total, "forward")
        found: dict[str, list[Finding]] = {"forward": [], "step": []}
        runs, failure = self._run(module, found)
        for done, entity in enumerate(self.entities, 1):
            name = gradient_name(entity)
            report(done, total, name)
            found[name] = self._judge_gradient(entity, runs)
        report(total - 1, total, self.last_of_all)
        found |= self._judge_together(runs, tangents)
        report(total, total, "")
        if failure:  # then nothing that it computes can be relied on
            for name in found.keys() - {FORWARD_MODE}:
                found[name].append(broken(f"cannot be had: {failure}"))
        sizes = self._row_sizes()
        rows = tuple(Row(n, sizes[n], worst_of_each(f)) for n, f in found.items() if f)
        case = self.witnesses[0].case
        numbers = " ".join(
            f"{n}={v}" for n, v in {"T": case.steps, "B": case.batch, **self.sizes}.items()
        )
        return Report(
            " · ".join([self.cell.name, *filter(None, [title]), str(self.dtype), numbers]), rows
        )

    def _judge_together(
        self, runs: Sequence[tuple[Gradients, Gradients]], tangents: Tangents | None
    ) -> dict[str, list[Finding]]:
        """All gradients of a case at once: their dot product with a random direction, which is also
        what its witness's dual numbers say.
        """
        cases = zip(self.comparisons, runs, strict=False)
        return {
            DOT_PRODUCT: [f for c, run in cases for f in c.dot_product(c.witness.tangents, *run)]
        }

    def _runner(self, module: Any) -> Any:
        return Runner(self.cell, self.sizes, self.dtype, module)

    def _run(
        self, module: Any, found: Mapping[str, list[Finding]]
    ) -> tuple[list[tuple[Gradients, Gradients]], str]:
        """The gradients of each case, up to one in which the module fails, and how it fails.

        What is found of "forward" and "step" on the way is added to ``found``.
        """
        runner = self._runner(module)
        runs: list[tuple[Gradients, Gradients]] = []
        for comparison in self.comparisons:
            try:
                # At a pole or far out, NumPy warns of what it is that we look for.
                with np.errstate(all="ignore") if comparison.case.special else nullcontext():
                    runs.append(runner.run(comparison, found))
            except FailedError as error:
                return runs, ", ".join(filter(None, [str(error), comparison.case.name]))
        return runs, ""

    def _row_sizes(self) -> dict[str, int]:
        """How many entries what each row is of has, in the main case."""
        case = self.witnesses[0].case
        sizes = {gradient_name(e): case.values[e].size for e in self.entities}
        results = sum(dy.size for dy in case.dy.values())
        tangents = results + sum(d.size for d in case.dstate.values())
        return {
            **sizes, "forward": results, "step": results, FORWARD_MODE: tangents, DOT_PRODUCT: 1,
        }  # fmt: skip

    def _judge_gradient(
        self, entity: Entity, runs: list[tuple[Gradients, Gradients]]
    ) -> list[Finding]:
        """All comparisons of one gradient: with central differences in the main case alone."""
        found: list[Finding] = []
        for comparison, (full, partial) in zip(self.comparisons, runs, strict=False):
            found += comparison.gradient(entity, full.get(entity), partial.get(entity))
            if comparison is self.comparisons[0]:
                found.append(comparison.difference(entity, full.get(entity), found[0]))
        return found


class Examination(Judge):
    """The cases for one cell and precision, and what the witnesses say of them.

    Made once, it can judge any number of modules: the witnesses do not depend on the module.

    Parameters
    ----------
    cell, dtype, sizes, T, B, seed
        As for ``check``.
    seeds : int
        How many random cases of T steps and B rows there are, from ``seed`` on.
    kinks : bool
        Whether there are cases at kinks and ties, and in the tails, as well.

    Raises
    ------
    LstmgenError
        If no random case is found that can be judged by.
    """

    last_of_all = FORWARD_MODE

    def __init__(
        self,
        cell: Cell,
        dtype: str = "float64",
        *,
        sizes: Mapping[str, int] | None = None,
        T: int = 7,
        B: int = 3,
        seed: int = 0,
        seeds: int = 3,
        kinks: bool = True,
        tape: str | None = None,
    ) -> None:
        super().__init__(cell, dtypes.dtype(dtype, tape), choose_sizes(cell, sizes, {T, B}))
        select = Selection(cell, self.sizes, self.dtype)
        # The first is the one that central differences are taken of.
        self.witnesses = [select.longest(T, B, seed), select.random("T=1 B=1", 1, 1, seed)]
        steps = self.witnesses[0].case.steps
        for other in range(seed + 1, seed + seeds):
            with suppress(LstmgenError):  # there is a case already
                self.witnesses.append(select.random(f"seed {other}", steps, B, other))
        if kinks:
            found = [select.special(name, seed) for name in SPECIAL]
            self.witnesses += [witness for witness in found if witness]
        self._compare(chain(cell, self.sizes))

    @cached_property
    def pushed(self) -> list[Pushed]:
        """Jv of each case by forward mode, as it is derived."""
        return self.push(derive(self.cell, mode="forward"))

    def push(self, tangents: Tangents) -> list[Pushed]:
        """Jv of each case by ``tangents``, in its witness's direction v."""
        pushing = Pushing(self.cell, tangents, self.sizes)
        return [pushing.run(w.start, w.direction, w.given, w.case.batch) for w in self.witnesses]

    def _judge_together(
        self, runs: Sequence[tuple[Gradients, Gradients]], tangents: Tangents | None
    ) -> dict[str, list[Finding]]:
        """Forward mode, and its dot product with all gradients."""
        pushed = self.pushed if tangents is None else self.push(tangents)
        cases = list(zip(self.comparisons, pushed, strict=True))
        done_with = zip(cases, runs, strict=False)
        return {
            FORWARD_MODE: [f for case, jv in cases for f in case.tangents(jv)],
            DOT_PRODUCT: [f for (case, jv), run in done_with for f in case.dot_product(jv, *run)],
        }
