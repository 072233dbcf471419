"""When values are written and read: from the first write to the last access, memory is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..language.symbols import Vector
from .operations import Fused, Operation, Pass, atoms, is_loop


class Moment(NamedTuple):
    """A place in a pass, in the order in which it runs. Products have one loop, of one equation."""

    section: int
    operation: int
    loop: int = 0
    equation: int = 0

    @property
    def in_loop(self) -> bool:
        """Whether it comes again at every step."""
        return is_loop(self.section)

    @property
    def stage(self) -> tuple[int, int]:
        """The operation that it belongs to."""
        return self[:2]


@dataclass(frozen=True)
class Lifetimes:
    """All moments of a pass in which each value is written, and in which it is read, in order."""

    writes: Mapping[Vector, tuple[Moment, ...]]
    reads: Mapping[Vector, tuple[Moment, ...]]

    def span(self, v: Vector) -> tuple[Moment, Moment]:
        """The first and the last access to ``v``, which this pass has."""
        found = (*self.writes.get(v, ()), *self.reads.get(v, ()))
        return min(found), max(found)

    def is_read_before_written(self, v: Vector, w: Vector) -> bool:
        """Whether, within a step, ``v`` is read for the last time before ``w`` is written first."""
        reads = (m for m in self.reads.get(v, ()) if m.in_loop)
        writes = [m for m in self.writes.get(w, ()) if m.in_loop]
        return bool(writes) and all(m < min(writes) for m in reads)


def lifetimes(part: Pass) -> Lifetimes:
    """When the values of ``part`` are written and read."""
    writes: dict[Vector, list[Moment]] = {}
    reads: dict[Vector, list[Moment]] = {}
    for moment, read, written in accesses(part):
        for v in read:
            reads.setdefault(v, []).append(moment)
        for v in written:
            writes.setdefault(v, []).append(moment)
    return Lifetimes(
        {v: tuple(found) for v, found in writes.items()},
        {v: tuple(found) for v, found in reads.items()},
    )


Access = tuple[Moment, Sequence[Vector], Sequence[Vector]]


def accesses(part: Pass) -> Iterator[Access]:
    """What each equation of each loop, and each product, reads and writes, as they run."""
    for start, op in _operations(part):
        if isinstance(op, Fused):
            for n, loop in enumerate(op.loops):
                for m, e in enumerate(loop.equations):
                    yield start._replace(loop=n, equation=m), atoms((e,)), (e.lhs,)
        else:
            yield start, op.reads, op.writes


def by_loops(part: Pass) -> Iterator[Access]:
    """The same for each loop as a whole."""
    for start, op in _operations(part):
        if isinstance(op, Fused):
            for n, loop in enumerate(op.loops):
                written = tuple(e.lhs for e in loop.equations)
                yield start._replace(loop=n), atoms(loop.equations), written
        else:
            yield start, op.reads, op.writes


def _operations(part: Pass) -> Iterator[tuple[Moment, Operation]]:
    for n, section in enumerate(part.sections):
        for k, op in enumerate(section):
            yield Moment(n, k), op
