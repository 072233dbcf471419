"""What a network is made of once its layers are wired: nodes that hand signals on.

All that computes is a cell, with its own equations and its own derivation: ``Run``. The other nodes
move rows about, and their transposes are as plain as they are: ``Embed`` picks rows of a table,
``Join`` puts signals side by side, ``Last`` takes each sequence's last step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sympy import Expr

from ..language.cell import Cell
from ..language.sizes import Size


@dataclass(frozen=True)
class Signal:
    """An array that nodes read: a row of ``size`` units for each step of each sequence, or, with
    ``of_rows``, one for each sequence.
    """

    name: str
    size: Expr
    of_rows: bool = False


@dataclass(frozen=True)
class Noise:
    """The values of a mask: a unit is dropped with ``probability``, drawn at every step, or once
    for a ``whole`` sequence.

    A mask that drops is 0 there and 1 / (1 - probability) elsewhere, so that 1 is its mean; one
    that ``holds`` the old value, as of zoneout, is 1 there and 0 elsewhere.
    """

    probability: float
    whole: bool = False
    holds: bool = False

    @property
    def values(self) -> tuple[float, float]:
        """What the mask is where a unit is dropped, and elsewhere."""
        return (1.0, 0.0) if self.holds else (0.0, 1.0 / (1.0 - self.probability))

    @property
    def mean(self) -> float:
        """The expectation, which takes its place at inference."""
        return self.probability if self.holds else 1.0


@dataclass(frozen=True)
class Run:
    """A cell that runs over all steps, or over all sequences if its signals are ``of_rows``.

    ``inputs`` are in the order of the cell's; ``sizes`` says what its sizes are here, numbers or
    the network's D. With ``reverse`` it goes from the last step of each sequence to the first. With
    ``learned_start``, states that nobody gives start at learned values.
    """

    name: str
    cell: Cell
    sizes: Mapping[Size, Expr]
    inputs: tuple[Signal, ...]
    output: Signal
    reverse: bool = False
    noise: Mapping[str, Noise] = field(default_factory=dict)
    learned_start: bool = False
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Embed:
    """A row of a learned table, with ``count`` rows, for each symbol."""

    name: str
    count: int
    inputs: tuple[Signal]
    output: Signal


@dataclass(frozen=True)
class Join:
    """Signals side by side."""

    inputs: tuple[Signal, ...]
    output: Signal


@dataclass(frozen=True)
class Last:
    """What a run puts out at the last step that it makes of each sequence."""

    inputs: tuple[Signal]
    output: Signal
    reverse: bool = False


Node = Run | Embed | Join | Last


@dataclass(frozen=True)
class Chain:
    """Nodes that go through a sequence together, a block of steps after the other.

    With ``reverse`` they go from its end to its beginning. With ``of_rows`` there are no steps.
    """

    nodes: tuple[Node, ...]
    reverse: bool = False
    of_rows: bool = False

    @cached_property
    def made(self) -> frozenset[Signal]:
        return frozenset(node.output for node in self.nodes)

    @cached_property
    def reads(self) -> tuple[Signal, ...]:
        """The signals that come from outside, in the order in which they are read."""
        found = (s for node in self.nodes for s in node.inputs if s not in self.made)
        return tuple(dict.fromkeys(found))

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Run))


@dataclass(frozen=True)
class Graph:
    """The nodes of a network, in an order in which each reads what was made before it."""

    input: Signal
    nodes: tuple[Node, ...]
    output: Signal

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """The nodes by chains: what runs in one direction is together as long as it can be."""
        chains: list[tuple[list[Node], bool, bool]] = []
        for node in self.nodes:
            reverse = isinstance(node, (Run, Last)) and node.reverse
            of_rows = node.inputs[0].of_rows
            if not chains or chains[-1][1:] != (reverse, of_rows):
                chains.append(([], reverse, of_rows))
            chains[-1][0].append(node)
        return tuple(Chain(tuple(nodes), reverse, rows) for nodes, reverse, rows in chains)

    def leaves(self, chain: Chain) -> tuple[Signal, ...]:
        """What a chain makes and others read, in order."""
        others = {s for c in self.chains if c is not chain for s in c.reads} | {self.output}
        return tuple(node.output for node in chain.nodes if node.output in others)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Run))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells, each once."""
        return tuple(dict.fromkeys(run.cell for run in self.runs))
