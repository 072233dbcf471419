"""Timing in turns: every contender is visited in every round, in one process.

A machine's speed drifts, and neighbours come and go; what is compared is therefore measured side by
side. A visit waits until the threads of the one before have gone to sleep (those of OpenMP spin for
a while after their work is done), then calls again and again for a moment. Ratios are taken within
a round, and their spread over rounds says how far to trust them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

# Seconds of silence between two contenders: threads of OpenBLAS spin for 2^26 cycles.
SETTLE = 0.15
WAKE = 0.03  # seconds of calls before those that count: some systems spread threads that late
VISIT = 0.02  # seconds for which a visit calls and counts, at least
LONG = 0.5  # seconds of a call from which on that does not matter
SLOW = 5.0  # a contender that takes longer for one call is visited in the first rounds only
SLOW_ROUNDS = 3
_SAMPLE = 1e-4  # the clock is read no more often than this


@dataclass(frozen=True)
class Visit:
    """Seconds a call in one visit, and how many cores were at work."""

    median: float
    best: float
    cores: float


@dataclass(frozen=True)
class Quartiles:
    """The middle of some numbers, and where half of them lie."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a part of the median."""
        return (self.high - self.low) / 2 / self.median


@dataclass
class Track:
    """One contender's visits, by round; ``count`` is how often one call does the work."""

    call: Callable[[], object]
    count: int = 1
    visits: dict[int, Visit] = field(default_factory=dict)


def visit(call: Callable[[], object], duration: float = VISIT, count: int = 1) -> Visit:
    """Call for ``duration`` seconds, at least once, after calls that do not count: those find cold
    caches and threads that sleep. A call that takes longer than ``LONG`` is timed the first time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        worked, start = time.process_time(), time.perf_counter()
        call()
        now = time.perf_counter()
        first = now - start
        samples = [first]
        if first < LONG:
            while now - start < WAKE:
                call()
                now = time.perf_counter()
            batch = max(1, int(_SAMPLE / first))
            samples = []
            worked, start = time.process_time(), time.perf_counter()
            before, end = start, start + duration
            while before < end or not samples:
                for _ in repeat(None, batch):
                    call()
                now = time.perf_counter()
                samples.append((now - before) / batch)
                before = now
        cores = (time.process_time() - worked) / (time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return Visit(statistics.median(samples) / count, min(samples) / count, cores)


def take_turns(
    tracks: Mapping[str, Track],
    rounds: int,
    *,
    duration: float = VISIT,
    settle: float = SETTLE,
    progress: Callable[[int, str], None] | None = None,
) -> None:
    """Visit all in turns and record it in their tracks. Each round begins with another contender.

    What is recorded stays if this is interrupted. ``progress`` is told the round and who is next.
    """
    names = list(tracks)
    for number in range(rounds):
        shift = number % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            track = tracks[name]
            if number >= SLOW_ROUNDS and track.visits[0].best * track.count > SLOW:
                continue
            if progress is not None:
                progress(number, name)
            time.sleep(settle)
            track.visits[number] = visit(track.call, duration, track.count)


def quartiles(values: Sequence[float]) -> Quartiles:
    """Median and quartiles; of a single number, that number."""
    if len(values) < 2:
        return Quartiles(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(middle, low, high)


def ratios(theirs: Mapping[int, float], ours: Mapping[int, float]) -> Quartiles | None:
    """Their time over ours, round by round; above 1, ours is faster. None without a round in
    which both were measured.
    """
    both = [theirs[number] / ours[number] for number in theirs if number in ours]
    return quartiles(both) if both else None
