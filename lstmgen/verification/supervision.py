"""``check`` in a process of its own, so that every end but a verdict is a failure that is told.

A cell's file is a program, and may exit, crash or run for ever; so may compiled code that is wrong,
and take the memory of its process with it. Here it takes a process that nothing else is lost with.

This is the process that asks; ``serving`` is what the other one does. They talk over the standard
streams of the second. What it is to do comes in by ``pickle``, from the process that started it.
What comes back, a line at a time, is JSON, and nothing that it could say is run.
"""

from __future__ import annotations

import json
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from ..errors import GenerateError, LstmgenError, ToolchainError
from .report import Progress, Report

if TYPE_CHECKING:
    from ..language.cell import Cell
    from ..network.structure import Structure

TIMEOUT = 600.0  # seconds: several times what the largest of checks takes

LENGTH = 8  # bytes that say how long the task is

# The folder that we run in is not a place to import from: a file there may be called numpy.py.
_START = f"import sys; sys.path[:] = sys.argv[1:]; from {__package__}.serving import serve; serve()"


@dataclass(frozen=True)
class Task:
    """What to check: a cell or a network, or the name or file of one; arguments of ``check``."""

    cell: Cell | Structure | str
    target: str
    dtype: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def supervise(task: Task, timeout: float = TIMEOUT, progress: Progress | None = None) -> Report:
    """Run a check in a process of its own.

    Parameters
    ----------
    task : Task
    timeout : float
        Seconds after which the check is given up.
    progress : callable, optional
        Called with (done, total, what comes next).

    Raises
    ------
    LstmgenError
        If the check refused the cell, or ended without a verdict, and how: an exit, a signal, or
        the time limit.
    """
    talk = _Talk(task, progress)
    deadline = time.monotonic() + timeout
    with _started(task) as process:
        try:
            for line in _lines(process, deadline):
                talk.hear(line)
            status = process.wait(max(1.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise LstmgenError(
                f"{talk.name}: no verdict after {timeout:g} s, {talk.when('while')}\n  hint: "
                "--timeout (timeout=) gives it more; fewer steps and rows, and smaller sizes, need "
                "less"
            ) from None
    return talk.result(status)


class _Talk:
    """What has been heard so far."""

    def __init__(self, task: Task, progress: Progress | None) -> None:
        self.name = task.cell if isinstance(task.cell, str) else task.cell.name
        self.compiled = task.target == "c"
        self.progress = progress or (lambda done, total, what: None)
        self.stage = "start"
        self.report: Report | None = None
        self.error: LstmgenError | None = None

    def hear(self, line: str) -> None:
        said = json.loads(line)
        if "stage" in said:
            self.stage = said["stage"]
            self.progress(0, 1, self.stage)
        elif "progress" in said:
            self.progress(*said["progress"])
        elif "report" in said:
            self.report = Report.from_json(said["report"])
        elif "error" in said:
            kinds = {"ToolchainError": ToolchainError, "GenerateError": GenerateError}
            self.error = kinds.get(said["error"], LstmgenError)(said["message"])

    def when(self, relation: str) -> str:
        """What was going on, such as "while its file was run"."""
        doing = {
            "start": "Python was started",
            "loading": "its file was run",
            "compiling": "its code was generated and compiled",
            "checking": "its code was run",
        }
        return f"{relation} {doing[self.stage]}"

    def result(self, status: int) -> Report:
        """The report, of a process that ended as it should."""
        if self.error:
            raise self.error
        if self.report is not None and status == 0:
            return self.report
        raise LstmgenError(f"{self.name}: {self._end(status)}: there is no verdict")

    def _end(self, status: int) -> str:
        when = self.when("while" if self.report is None else "after")
        if status >= 0:
            return f"the process exited with status {status} {when}"
        name = _signal_name(-status)
        if name == "SIGKILL":
            return f"the process was killed {when} ({name}: the system does so without memory)"
        if self.stage == "checking" and self.compiled:
            return f"the compiled code crashed: {name}"
        return f"the process was ended by {name} {when}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def _started(task: Task) -> Iterator[subprocess.Popen[bytes]]:
    """The other process, which has its task; it is gone at the end."""
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        raise LstmgenError(f"Python ({sys.executable}) cannot be started: {error}") from error
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already: its status says how
            packed = pickle.dumps(task)
            process.stdin.write(len(packed).to_bytes(LENGTH, "little") + packed)
            process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            _close(stream)


def _close(stream: IO[bytes] | None) -> None:
    with suppress(BrokenPipeError):
        if stream is not None:
            stream.close()


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """What the process writes, line by line, to its end.

    Raises
    ------
    TimeoutError
        If it has not come to an end at the deadline.
    """
    heard: queue.Queue[bytes | None] = queue.Queue()
    stream = process.stdout
    assert stream is not None

    def listen() -> None:
        for line in stream:
            heard.put(line)
        heard.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = heard.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        yield line.decode("utf-8")
