"""What suites that make tables of their own share: times in turns, spreads, and the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lstmgen.benchmark import machine
from lstmgen.benchmark.timing import Quartiles, Track, ratios, take_turns


def times(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[int, float]]:
    """Seconds a call of each, by round; one more round comes first, and does not count."""
    tracks = {name: Track(call) for name, call in calls.items()}
    take_turns(tracks, rounds + 1)
    return {
        name: {k: v.median for k, v in track.visits.items() if k > 0}
        for name, track in tracks.items()
    }


def ratio(theirs: Mapping[int, float], ours: Mapping[int, float]) -> Quartiles:
    """Their time over ours, of contenders that were visited in the same rounds."""
    found = ratios(theirs, ours)
    assert found is not None
    return found


def spread(found: Quartiles) -> str:
    """A ratio, and where half of all rounds lie."""
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def about(what: str) -> str:
    """A line on the machine, and on what was done there."""
    return f"{' · '.join(machine.summary(machine.describe()).splitlines())}; {what}"
