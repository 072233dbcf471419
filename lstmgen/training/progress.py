"""How training goes, for those who wait: a bar on a terminal, elsewhere lines."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

import click


class Progress:
    """A bar that moves on with each update, or ten lines in all where there is no terminal.

    Parameters
    ----------
    epochs, done : int
        How many epochs there are, and were before.
    updates : int
        How many updates an epoch has, at most.
    shown : bool or None
        By default, a bar on a terminal and nothing elsewhere. With True, lines elsewhere.
    """

    def __init__(self, epochs: int, done: int, updates: int, shown: bool | None) -> None:
        self._epochs, self._done, self._updates = epochs, done, updates
        self._bar: Any = None
        # a bar moves the cursor, which dumb terminals and people with NO_COLOR do not want
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        terminal = sys.stderr.isatty() and not plain
        self._lines = bool(shown) and not terminal
        if terminal and shown is not False and done < epochs:
            self._bar = click.progressbar(
                length=(epochs - done) * updates, label="training", file=sys.stderr,
                item_show_func=lambda text: text,
            )  # fmt: skip

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.__enter__()
        if self._lines and self._done:
            click.echo(f"{self._done} epochs were done before", err=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._bar is not None:
            self._bar.__exit__(kind, value, where)

    def update(self) -> None:
        """One more update is done."""
        if self._bar is not None:
            self._bar.update(1, self._bar.current_item)

    def epoch(self, number: int, text: str) -> None:
        """An epoch is done, and this is how it went."""
        if self._bar is not None:
            # an epoch whose sequences all ended early had fewer updates
            missing = (number - self._done) * self._updates - self._bar.pos
            self._bar.update(max(0, missing), text)
        tenths = number * 10 // self._epochs - (number - 1) * 10 // self._epochs
        if self._lines and (tenths or number == 1):
            width = len(str(self._epochs))
            click.echo(f"epoch {number:{width}d} of {self._epochs}  {text}", err=True)
