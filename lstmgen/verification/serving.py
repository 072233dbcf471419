"""What the process does that ``supervision`` starts: one check, told line by line.

Its standard input holds the task, packed by ``pickle``, and its standard output takes what it says,
as JSON. What a cell's file prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any

from ..errors import LstmgenError
from .supervision import LENGTH, Task


def serve() -> None:
    """What the other process does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who asked is interrupted, too, and tells it
    asked, answers = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        os.write(answers, json.dumps(what).encode("utf-8") + b"\n")

    task = pickle.loads(_read(asked, int.from_bytes(_read(asked, LENGTH), "little")))
    threading.Thread(target=_end_with, args=(asked,), daemon=True).start()
    try:
        _check(task, say)
    except LstmgenError as error:
        say(error=type(error).__name__, message=str(error))


def _read(source: int, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = os.read(source, count - len(parts))
        if not part:
            os._exit(1)  # who asked is gone
        parts += part
    return parts


def _end_with(asked: int) -> None:
    """Wait for the end of who asked, however it comes, and do not outlive it."""
    if not os.read(asked, 1):
        os._exit(1)


def _check(task: Task, say: Callable[..., None]) -> None:
    # SymPy takes a while to come; by now an interrupt, or the end of who asked, ends us quietly.
    from ..runtime.loading import find_model
    from .checking import check_here

    if isinstance(task.cell, str):
        say(stage="loading")
        cell = find_model(task.cell)
    else:
        cell = task.cell

    def progress(done: int, total: int, what: str) -> None:
        say(progress=[done, total, what])

    report = check_here(
        cell, task.target, task.dtype, progress=progress, stage=lambda name: say(stage=name),
        **task.arguments,
    )  # fmt: skip
    say(report=report.as_json())
