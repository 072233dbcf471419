"""The reference cells as a list: searched, and grouped by family."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from .. import cells
from ..errors import LstmgenError, did_you_mean
from ..language.cell import Cell
from ..language.functions import GATES
from ..language.symbols import Vector


class Entry(NamedTuple):
    """A reference cell, and where it stands."""

    family: str
    cell: Cell

    @property
    def gates(self) -> int:
        """How many quantities are a σ or a tanh of something."""
        equations = self.cell.equations
        return sum(
            isinstance(e.lhs, Vector) and e.lhs.category == "vector" and isinstance(e.rhs, GATES)
            for e in equations
        )

    def has(self, words: Sequence[str]) -> bool:
        """Whether all words are somewhere in what is said of the cell."""
        cell = self.cell
        module = importlib.import_module(f"{cells.__name__}.{self.family}.{cell.name}")
        said = [cell.name, self.family, cell.title, cell.source, cell.notes, module.__doc__ or ""]
        text = " ".join([*said, *cell.roles.values()]).casefold()
        return all(word.casefold() in text for word in words)

    def as_json(self) -> dict[str, Any]:
        """What a program may want to know before it asks for the cell."""
        cell = self.cell
        shaped = {
            what: {s.name: [str(n) for n in cell.shape(s)] for s in symbols}
            for what, symbols in (
                ("inputs", cell.inputs), ("states", cell.states), ("parameters", cell.parameters),
            )
        }  # fmt: skip
        return {
            "name": cell.name, "family": self.family, "title": cell.title, "source": cell.source,
            "gates": self.gates, "outputs": [v.name for v in cell.outputs], **shaped,
            "masks": [m.name for m in cell.masks], "constants": [c.name for c in cell.constants],
            "sizes": [n.name for n in cell.sizes],
        }  # fmt: skip


def found(words: Sequence[str] = (), family: str | None = None) -> list[Entry]:
    """The reference cells that have all the words, family by family.

    Raises
    ------
    LstmgenError
        If there is no such family; the message names the nearest.
    """
    known = cells.families()
    if family is not None and family not in known:
        near = did_you_mean(family, known)
        raise LstmgenError(
            f'no family is called "{family}"\n  hint: {near or "they are " + ", ".join(known)}'
        )
    entries = [
        Entry(name, cells.get(cell))
        for name in known
        if family in (None, name)
        for cell in cells.names(name)
    ]
    return [entry for entry in entries if entry.has(words)]


def as_text(entries: Sequence[Entry]) -> str:
    """A table with a heading for each family."""
    rows = [
        (
            *(e.cell.name, e.cell.title, e.cell.source),
            f"{e.gates} gate{'s' * (e.gates > 1)}" if e.gates else "",
            " ".join(s.name for s in e.cell.states),
        )
        for e in entries
    ]
    widths = [max(len(row[k]) for row in rows) + 2 for k in range(5)]
    texts, about = [], cells.families()
    for family, members in groupby(zip(entries, rows, strict=True), lambda pair: pair[0].family):
        lines = [f"{family}: {about[family]}"]
        for _, row in members:
            cells_of_row = (text.ljust(w) for text, w in zip(row, widths, strict=True))
            lines.append("  " + "".join(cells_of_row).rstrip())
        texts.append("\n".join(lines))
    return "\n\n".join(texts)
