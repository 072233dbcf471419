"""One race: contenders who get ready, are checked, and are then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from .contenders import Contender
from .problem import Problem
from .timing import VISIT, Quartiles, Track, Visit, quartiles, take_turns


@dataclass
class Entry:
    """A contender in a race: a problem to solve, and then how long that took, or why it did not."""

    contender: Contender
    problem: Problem
    name: str = ""
    track: Track | None = None
    getting_ready: float = 0.0  # seconds, without the time that the check took
    reason: str = ""  # why there are no times
    wrong: bool = False  # the reason is a wrong result
    _visits: dict[int, Visit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            self.name = self.contender.name_for(self.problem.cell)

    @property
    def visits(self) -> dict[int, Visit]:
        """By round; the first round is not counted if there are others: it warms up."""
        found = self.track.visits if self.track else {}
        return {k: v for k, v in found.items() if k > 0} or found

    @property
    def seconds(self) -> dict[int, float]:
        """Seconds a call, by round."""
        return {k: v.median for k, v in self.visits.items()}

    @property
    def time(self) -> Quartiles | None:
        return quartiles(list(self.seconds.values())) if self.visits else None

    def get_ready(self) -> None:
        """Prepare, run once, and check the results.

        Raises
        ------
        LstmgenError
            If a library is missing or cannot do this, or a result is wrong.
        """
        start = time.perf_counter()
        prepared = self.contender.prepare(self.problem)
        result = prepared.call()
        self.getting_ready = time.perf_counter() - start
        if self.contender.checked:
            self.problem.check(self.name, prepared.values(result))
        self.track = Track(prepared.call, prepared.count)


def race(
    entries: Sequence[Entry],
    rounds: int,
    *,
    duration: float = VISIT,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Callable[[int, str], None] | None = None,
) -> None:
    """Time all entries that are ready; one round more than ``rounds``, for the first warms up."""
    tracks = {f"{k} {e.name}": e.track for k, e in enumerate(entries) if e.track is not None}

    def tell(number: int, key: str) -> None:
        if progress is not None:
            progress(number, key.partition(" ")[2])

    with around():
        take_turns(tracks, rounds + 1, duration=duration, progress=tell)
