"""Runs suites and keeps what was found; what was found before an interruption is kept as well."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from lstmgen.benchmark import machine
from lstmgen.benchmark.contenders import Gemm
from lstmgen.benchmark.problem import MismatchError
from lstmgen.benchmark.race import Entry, race
from lstmgen.errors import LstmgenError
from lstmgen.runtime.writing import write_files

from .suites import Case, Options

FORMAT = 1


class Overtime(BaseException):
    """The time to get ready is over. No ``Exception``: libraries catch those to try other ways."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, as soon as Python gets a word in. Only where there are alarms
    (not on Windows).
    """
    if not hasattr(signal, "SIGALRM") or not math.isfinite(seconds):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overtime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Run:
    """All that is measured in one go, and how far it is."""

    def __init__(
        self, options: Options, *, rounds: int, visit: float, budget: float, path: Path | None
    ) -> None:
        self.options, self.rounds, self.visit, self.budget = options, rounds, visit, budget
        self.path = path
        self.failures: list[str] = []
        self.results: dict[str, Any] = {
            "format": FORMAT,
            "machine": {},
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
            "settings": {
                "threads": options.threads, "dtype": options.dtype, "rounds": rounds,
                "visit_seconds": visit, "budget_seconds": budget, "quick": options.quick,
            },
            "suites": [],
        }  # fmt: skip
        self.progress = Progress()

    def run(self, suites: Mapping[str, tuple[str, Sequence[Case]]]) -> None:
        """Run all cases. An interruption ends it, and keeps what there is."""
        every = [case for _, cases in suites.values() for case in cases]
        self.progress.total = len(every)
        dtypes = {entry.problem.dtype for case in every for entry in case.entries}
        self.results["settings"]["dtype"] = " and ".join(sorted(dtypes))
        try:
            for name, (about, cases) in suites.items():
                kept: list[dict[str, Any]] = []
                suite = {"name": name, "about": about, "cases": kept}
                self.results["suites"].append(suite)
                for case in cases:
                    self.progress.begin(case.title)
                    try:
                        self.case(case)
                    finally:
                        kept.append(record(case))
                        self.save()
                        case.entries.clear()  # arrays and compiled code
                        gc.collect()
        except KeyboardInterrupt:
            self.results["interrupted"] = True
            self.save()
        self.progress.end()

    def case(self, case: Case) -> None:
        for entry in case.entries:
            self.progress.tell(f"{entry.name} gets ready")
            self.get_ready(entry)
        race(
            case.entries, self.rounds, duration=self.visit,
            progress=lambda number, name: self.progress.tell(f"{name}, round {number}"),
        )  # fmt: skip

    def get_ready(self, entry: Entry) -> None:
        """Prepare and check; who cannot is left out, with the reason in its place."""
        _ = entry.problem.reference if entry.contender.checked else None  # not on its account
        try:
            with deadline(self.budget):
                entry.get_ready()
        except Overtime:
            entry.reason = f"not finished within {self.budget:g} s"
        except MismatchError as error:
            entry.reason, entry.wrong = str(error), True
            self.failures.append(str(error))
            self.progress.say(f"error: {error}")
        except LstmgenError as error:
            entry.reason = str(error).splitlines()[0]
        except Exception as error:  # another library's: it must not end an hour of measuring
            first = (str(error).strip() or "no message").splitlines()[0]
            entry.reason = f"{type(error).__name__}: {first[:200]}"
        if entry.reason:
            entry.track = None

    def save(self) -> None:
        if not self.results["machine"]:
            self.results["machine"] = machine.describe()
        if self.path is not None:
            text = json.dumps(self.results, indent=1, ensure_ascii=False) + "\n"
            write_files({self.path.name: text}, self.path.parent, force=True)


def record(case: Case) -> dict[str, Any]:
    """A case as it is kept: the time of every round, so that anything can be computed later."""
    entries = []
    for entry, base in zip(case.entries, case.base, strict=True):
        visits = entry.visits
        entries.append({
            "key": entry.contender.key,
            "name": entry.name,
            "base": base,
            "cell": entry.problem.cell.name,
            "work": entry.problem.work,
            "sizes": dict(entry.problem.sizes),
            "flops": Gemm.FLOPS if entry.contender.key == "gemm" else entry.problem.flops,
            "seconds": {str(k): v.median for k, v in visits.items()},
            "best": min((v.best for v in visits.values()), default=None),
            "cores": statistics.median(v.cores for v in visits.values()) if visits else None,
            "getting_ready": entry.getting_ready,
            "reason": entry.reason or (None if visits else "not reached"),
            "wrong": entry.wrong,
        })  # fmt: skip
    return {"title": case.title, "entries": entries, "pair": case.pair}


class Progress:
    """A line on stderr that says what runs, and for how much longer."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.title = ""
        self.start = time.monotonic()
        self.on_terminal = sys.stderr.isatty()

    def begin(self, title: str) -> None:
        self.title = title
        self.done += 1
        if not self.on_terminal:
            self.say(self._line())

    def tell(self, what: str) -> None:
        if self.on_terminal:
            width = 100
            with suppress(OSError):
                width = os.get_terminal_size(sys.stderr.fileno()).columns
            text = f"{self._line()} · {what}"[: width - 1]
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        print(f"{chr(13)}{chr(27)}[2K{text}" if self.on_terminal else text, file=sys.stderr,
              flush=True)  # fmt: skip

    def end(self) -> None:
        if self.on_terminal:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)

    def _line(self) -> str:
        """The rest is guessed from the cases that are done."""
        before = self.done - 1
        left = ""
        if before:
            seconds = (time.monotonic() - self.start) / before * (self.total - before)
            left = f" · {_duration(seconds)} left"
        return f"[{self.done}/{self.total}] {self.title}{left}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
