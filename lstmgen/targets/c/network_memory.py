"""What lies where in the memory of a network: in its tape, and in the workspaces of its passes.

Everything is a piece of so many numbers, as an expression in C of what a slice of the batch has:
its ``rows`` (steps of all its sequences), ``pieces`` (of sequences), the rows and first steps that
are ``kept`` of the tape of cells at a time, and how many states are kept (``slots``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sympy import Expr

from ...network.graph import Chain, Embed, Run, Signal
from ...network.structure import Structure, shape_in, start_of
from .embedded import Embedded


@dataclass(frozen=True)
class Piece:
    """Some numbers under a name: ``count`` is an expression in C."""

    name: str
    count: str


def size(n: Expr) -> str:
    """A size of a network in C: a number, or the D of callers."""
    return str(int(n)) if n.is_Integer else f"n->{n}"


def times(*factors: str) -> str:
    """A product that does not wrap around."""
    first, *others = factors
    made = first
    for factor in others:
        made = f"size_times({made}, {factor})"
    return made


class NetworkMemory:
    """The pieces of a network's memory, in order."""

    def __init__(self, network: Structure, cells: dict[str, Embedded]) -> None:
        self.network, self.graph, self._cells = network, network.graph, cells

    # ------------------------------------------------------------------ kinds of signals

    @cached_property
    def whole(self) -> tuple[Signal, ...]:
        """Signals that go from chain to chain: all their rows are there at once."""
        read = {s for chain in self.graph.chains for s in chain.reads}
        out = {self.graph.output}
        made = (node.output for node in self.graph.nodes)
        return tuple(s for s in made if s in read | out and not s.of_rows)

    @cached_property
    def of_rows(self) -> tuple[Signal, ...]:
        """Signals that have a row a sequence, for the whole batch."""
        return tuple(n.output for n in self.graph.nodes if n.output.of_rows)

    @cached_property
    def inner(self) -> tuple[Signal, ...]:
        """Signals that a chain makes for itself, a block at a time where states are kept."""
        made = (node.output for node in self.graph.nodes)
        return tuple(s for s in made if s not in self.whole and not s.of_rows)

    @cached_property
    def is_x_numbers(self) -> bool:
        """Whether x is numbers, and not symbols."""
        return not self.network.symbols

    def turned(self, chain: Chain) -> tuple[Signal, ...]:
        """What a chain reads in reverse."""
        return chain.reads if chain.reverse else ()

    @cached_property
    def reversed(self) -> tuple[tuple[str, Signal], ...]:
        """Signals in reverse that chains read, each under a name of its own."""
        return tuple(
            (f"{s.name}_turned_{k}", s)
            for k, chain in enumerate(self.graph.chains, 1)
            for s in self.turned(chain)
        )

    # ------------------------------------------------------------------ regions

    @cached_property
    def tape(self) -> list[Piece]:
        """What one slice keeps."""
        found = (
            [Piece("x", times("own_rows", size(self.graph.input.size)))]
            if (self.is_x_numbers)
            else []
        )
        found += [self._rows(name, s, "rows") for name, s in self.reversed]
        found += [self._rows(s.name, s, "rows") for s in self.whole]
        found += [self._rows(s.name, s, "kept_rows") for s in self.inner]
        for run in self.graph.runs:
            found.append(Piece(f"{run.name}_tape", self._tape(run)))
            found += [
                Piece(
                    f"{run.name}_{name}_kept", times("slots", "pieces", width),
                )
                for name, width in self.states(run)
            ]  # fmt: skip
        return found

    @cached_property
    def batch(self) -> list[Piece]:
        """What all slices share: a row for each sequence."""
        return [Piece(s.name, times("n->B", size(s.size))) for s in self.of_rows]

    @cached_property
    def batch_back(self) -> list[Piece]:
        """The adjoints of these."""
        return [Piece(f"d{p.name}", p.count) for p in self.batch]

    @cached_property
    def packed(self) -> list[Piece]:
        """Parameters as forward reads them."""
        return [self._packed(run, "forward") for run in self.graph.runs]

    @cached_property
    def packed_back(self) -> list[Piece]:
        """Parameters as backward reads them."""
        return [self._packed(run, "backward") for run in self.graph.runs]

    @cached_property
    def sums(self) -> list[Piece]:
        """What gradients are summed in: of cells, one slice after the other."""
        found = []
        for run in self.graph.runs:
            cell = self._cells[run.cell.name]
            if cell.has_sums:
                count = f"{cell.name}_sums_parts(&{run.name}).total"
                found.append(Piece(f"{run.name}_sums", times("slices", count)))
        for name, count in self.own_sums:
            found.append(Piece(f"{name}_sums", times("slices", count)))
        return found

    @cached_property
    def own_sums(self) -> list[tuple[str, str]]:
        """Gradients that no cell sums: of tables, and of states that are learned."""
        found = [
            (f"{n.name}_table", times(str(n.count), size(n.output.size)))
            for n in self.graph.nodes
            if isinstance(n, Embed)
        ]
        for run in self.graph.runs:
            if run.learned_start:
                widths = dict(self.states(run))
                found += [
                    (start_of(run, s).replace(".", "_"), widths[s.name]) for s in run.cell.states
                ]
        return found

    @cached_property
    def forward(self) -> list[Piece]:
        """The workspace of a slice, but that of cells."""
        found = [
            Piece(f"{run.name}_{name}", times("pieces", width))
            for run in self.graph.runs
            for name, width in self.states(run)
        ]
        found += [
            Piece(
                f"{run.name}_{mask}", times("kept_rows", self.mask_units(run, mask)),
            )
            for run in self.graph.runs
            for mask in run.noise
        ]  # fmt: skip
        return found + [self._rows(f"{s.name}_own", s, "rows") for s in self.outs_in_reverse]

    @cached_property
    def outs_in_reverse(self) -> tuple[Signal, ...]:
        """What reversed chains make, before it is turned."""
        return tuple(
            s
            for chain in self.graph.chains
            if chain.reverse
            for s in self.graph.leaves(chain)
            if not s.of_rows
        )

    @cached_property
    def backward(self) -> list[Piece]:
        """The workspace of a slice for the way back, beside that of ``forward``."""
        found = [
            Piece(f"d{run.name}_{name}", times("pieces", width))
            for run in self.graph.runs
            for name, width in self.states(run)
        ]
        if self.is_x_numbers:
            found.append(Piece("dx", times("own_rows", size(self.graph.input.size))))
        for s in self.whole:
            found.append(
                self._rows(f"d{s.name}", s, "own_rows" if s == self.graph.output else "rows")
            )
        found += [self._rows(f"d{s.name}", s, "kept_rows") for s in self.inner]
        found += [self._rows(f"d{s.name}_own", s, "rows") for s in self.outs_in_reverse]
        found += [self._rows(f"d{name}", s, "rows") for name, s in self.reversed]
        found.append(Piece("more", times("kept_rows", self._widest())))
        return found

    # ------------------------------------------------------------------ parts of these

    def states(self, run: Run) -> list[tuple[str, str]]:
        """The states of a part, and their units."""
        return [(s.name, self._units(shape_in(run, s))) for s in run.cell.states]

    def mask_units(self, run: Run, mask: str) -> str:
        (v,) = (m for m in run.cell.masks if m.name == mask)
        return self._units(shape_in(run, v))

    def _units(self, shape: Iterable[Expr]) -> str:
        return times(*map(size, shape))

    def _rows(self, name: str, s: Signal, rows: str) -> Piece:
        return Piece(name, times(rows, size(s.size)))

    def _tape(self, run: Run) -> str:
        cell = self._cells[run.cell.name].name
        if run.inputs[0].of_rows:
            return f"{cell}_tape_room(&{run.name}, B, B)"
        return f"{cell}_tape_room(&{run.name}, kept_rows, kept_starts)"

    def _packed(self, run: Run, way: str) -> Piece:
        cell = self._cells[run.cell.name].name
        count = f"{cell}_{way}_packed_parts(&{run.name}).total"
        return Piece(f"{run.name}_{'packed' if way == 'forward' else 'back'}", count)

    def _widest(self) -> str:
        """The most units that a signal has which several read, so that adjoints are added."""
        read = [s for node in self.graph.nodes for s in node.inputs]
        signals = {s for s in read if read.count(s) > 1}
        numbers = [int(s.size) for s in signals if s.size.is_Integer]
        most = str(max(numbers, default=0))
        if any(not s.size.is_Integer for s in signals):
            return f"size_at_least({most}, n->{self.graph.input.size})"
        return most
