"""What a check found: findings, rows and the table that they make.

Nothing here needs NumPy or SymPy, so that who only prints a report does not wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

DIRECT = "against the equations"  # the witness of results, and of what can have no other

Progress: TypeAlias = Callable[[int, int, str], None]  # done, of how many, and what comes next


@dataclass(frozen=True)
class Finding:
    """One comparison of a module with one witness, at the entry that agrees least.

    ``error`` is relative to the largest entry of the array that is compared.
    """

    witness: str
    error: float
    tolerance: float
    index: tuple[int, ...] = ()
    expected: float = math.nan
    got: float = math.nan
    note: str = ""

    @property
    def ratio(self) -> float:
        """The error in units of its tolerance; infinite if it is not a number."""
        return self.error / self.tolerance if math.isfinite(self.error) else math.inf

    @property
    def passed(self) -> bool:
        return self.ratio <= 1


@dataclass(frozen=True)
class Row:
    """One line of the table: what is judged, against each witness.

    Attributes
    ----------
    name : str
        "forward", "step", a gradient, such as "∂L/∂W_i", "forward mode", or "dot product".
    size : int
        How many entries it has.
    findings : tuple of Finding
        The worst for each witness, over all cases.
    """

    name: str
    size: int
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Finding:
        """The finding with the largest error over its tolerance."""
        return max(self.findings, key=lambda f: f.ratio)

    @property
    def passed(self) -> bool:
        return self.worst.passed

    @property
    def is_gradient(self) -> bool:
        return self.name.startswith("∂")

    def error(self, witness: str) -> float:
        """The error that a witness found; NaN if it was not asked."""
        return next((f.error for f in self.findings if f.witness == witness), math.nan)


@dataclass(frozen=True)
class Report:
    """What ``check`` found. ``str(report)`` is the table.

    Attributes
    ----------
    title : str
        Cell, target, precision and sizes.
    rows : tuple of Row
        The forward pass, the streaming step, every gradient; forward mode, and its dot product
        with the gradients.
    """

    title: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row with the largest error over its tolerance."""
        return max(self.rows, key=lambda row: row.worst.ratio)

    def __bool__(self) -> bool:
        return self.passed

    def as_json(self) -> dict[str, Any]:
        """The report as plain lists, dicts, strings and numbers; NaN and infinity among them."""
        return asdict(self)

    @staticmethod
    def from_json(made: Mapping[str, Any]) -> Report:
        """The report that ``as_json`` made this of."""
        rows = []
        for row in made["rows"]:
            found = (Finding(**{**f, "index": tuple(f["index"])}) for f in row["findings"])
            rows.append(Row(row["name"], row["size"], tuple(found)))
        return Report(made["title"], tuple(rows))

    def __str__(self) -> str:
        return "\n".join([self.title, *self._table(), *self._verdict()])

    def _table(self) -> Iterator[str]:
        wide = max(len(row.name) for row in self.rows)
        for row in self.rows:
            cells = [f"{f.witness} {_text(f.error):>7}" for f in row.findings]
            index = row.worst.index
            place = f"worst at {list(index)}" if index and row.is_gradient else ""
            verdict = "" if row.passed else "DISAGREES"
            parts = [row.name.ljust(wide), *cells, place, verdict]
            yield "   ".join(part for part in parts if part)

    def _verdict(self) -> Iterator[str]:
        gradients = [row for row in self.rows if row.is_gradient]
        bad = [row for row in gradients if not row.passed]
        others = [row for row in self.rows if not row.is_gradient and not row.passed]
        for row in others:
            yield f"{row.name} DISAGREES {_with_what(row.worst.witness)}"
        if bad:
            yield f"{len(bad)} of {len(gradients)} gradients DISAGREE"
        else:
            yield f"all {len(gradients)} gradients agree"
        if not self.passed:
            row, finding = self.worst, self.worst.worst
            where = f"{row.name}{list(finding.index)}" if finding.index else row.name
            if math.isnan(finding.expected) and finding.note:
                yield f"  worst: {where} {finding.note}"
                return
            note = f", {finding.note}" if finding.note else ""
            yield (
                f"  worst: {where} is {finding.got:.15g}, expected {finding.expected:.15g} "
                f"({finding.witness}{note})"
            )
            yield f"  error {_text(finding.error)} where {_text(finding.tolerance)} is allowed"


def _with_what(witness: str) -> str:
    if witness == DIRECT:
        return "with the equations"
    return f"({witness})"


def _text(error: float) -> str:
    return "0" if error == 0 else f"{error:.1e}"


def broken(note: str) -> Finding:
    """What is wrong without any number to tell by how much."""
    return Finding(DIRECT, math.inf, 1.0, note=note)


def worst_of_each(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """For each witness the finding with the largest error over its tolerance."""
    worst: dict[str, Finding] = {}
    for finding in findings:
        if finding.witness not in worst or finding.ratio > worst[finding.witness].ratio:
            worst[finding.witness] = finding
    return tuple(worst.values())
