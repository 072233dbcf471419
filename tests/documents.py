"""What the documents show of commands: run again, compared, and written anew by `make docs`.

Two forms, in any Markdown file of the repository:

    ```console
    $ lstmgen show lstm                     a session: what was typed, and what came back
    ```

    <!-- make docs: COMMAND -->
    …what COMMAND prints, as Markdown…      a part of the document itself
    <!-- end -->

Tests compare both with what the commands print now. What takes long, or is a measurement of the
machine, says so, and is left to `make docs`: `<!-- make docs, measured -->` on the line above a
session, `<!-- make docs, measured: COMMAND -->` otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
# The README last: it sums up what is measured for others.
DOCUMENTS = [
    *(
        p
        for folder in ("docs", "benchmarks", "examples")
        for p in sorted((ROOT / folder).glob("*.md"))
    ),
    *(p for p in sorted(ROOT.glob("*.md")) if p != README),
    README,
]
_SHOWN = re.compile(
    r"(?:^<!-- make docs(?P<slow>, measured)? -->\n)?^```console\n(?P<session>.*?)^```$"
    r"|^<!-- make docs(?P<measured>, measured)?: (?P<command>.*?) -->\n(?P<text>.*?)^<!-- end -->$",
    re.DOTALL | re.MULTILINE,
)


class CommandError(Exception):
    """A command that a document names has failed."""


@dataclass(frozen=True)
class Shown:
    """What a document shows, at ``span`` of its text: a session, or the output of ``command``."""

    text: str
    command: str
    measured: bool
    span: tuple[int, int]

    @property
    def title(self) -> str:
        """What is run first."""
        return self.command or self.text.splitlines()[0].removeprefix("$ ")


def shown(document: str) -> list[Shown]:
    """All that a Markdown text shows of commands."""
    found = []
    for match in _SHOWN.finditer(document):
        which = "session" if match["session"] is not None else "text"
        measured = bool(match["slow"] or match["measured"])
        found.append(Shown(match[which], match["command"] or "", measured, match.span(which)))
    return found


@contextmanager
def _checkout() -> Iterator[Path]:
    """A folder like the checkout, into which commands may write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in ROOT.iterdir():
            if path.name not in ("build", ".venv", "examples"):
                (folder / path.name).symlink_to(path)
        # a copy, since they write beside themselves
        leave = shutil.ignore_patterns("output", "__pycache__")
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=leave)
        (folder / ".venv").symlink_to(sys.prefix)
        yield folder


def _run(command: str, folder: Path, errors: int) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors,
        text=True, check=False,
    )  # fmt: skip


def replay(old: Shown) -> str:
    """The text with what its commands print now."""
    with _checkout() as folder:
        if old.command:
            done = _run(old.command, folder, errors=sys.stderr.fileno())
            if done.returncode:
                raise CommandError(f"{old.command} ends with status {done.returncode}")
            return f"\n{done.stdout.strip()}\n\n" if done.stdout.strip() else ""
        lines = []
        for line in old.text.splitlines():
            if line.startswith("$ "):
                done = _run(line[2:], folder, errors=subprocess.STDOUT)
                lines += [line, *(part.rstrip() for part in done.stdout.rstrip().splitlines())]
        return "\n".join(lines) + "\n"


def comparable(text: str) -> str:
    """Without times, rounding errors and where they are largest, which depend on the machine."""
    text = re.sub(r"\d+\.\d+ s\b|\d(\.\d+)?e-\d+", "…", text)
    return re.sub(r"worst at \[[\d, ]+\]", "worst at …", text)


def rewrite(document: Path, quick: bool = False) -> list[str]:
    """Replay all that a document shows, or all but what is measured; what failed comes back.

    It is written after each command, so that an interruption loses nothing; where a command fails,
    the document stays as it is.
    """
    failures = []
    for k in range(len(shown(document.read_text(encoding="utf-8")))):
        text = document.read_text(encoding="utf-8")
        old = shown(text)[k]
        if old.measured and quick:
            continue
        start = time.perf_counter()
        try:
            new = replay(old)
        except CommandError as error:
            failures.append(f"{document.name}: {error}")
            continue
        begin, end = old.span
        if old.measured or comparable(old.text) != comparable(new):
            document.write_text(text[:begin] + new + text[end:], encoding="utf-8")
        sys.stderr.write(f"{time.perf_counter() - start:6.1f} s  {old.title}\n")
    return failures


def main() -> None:
    """Rewrite documents in place."""
    parser = argparse.ArgumentParser(prog="make docs", description="Rewrite documents in place.")
    parser.add_argument("documents", nargs="*", type=Path, help="(default: all)")
    parser.add_argument("--quick", action="store_true", help="leave what is measured as it is")
    args = parser.parse_args()
    failures = []
    for document in [path.resolve() for path in args.documents] or DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        if shown(before):
            sys.stderr.write(f"{document.relative_to(ROOT)}\n")
            failures += rewrite(document, args.quick)
            changed = document.read_text(encoding="utf-8") != before
            sys.stderr.write(f"  {'rewritten' if changed else 'unchanged'}\n")
    if failures:
        sys.exit("\n".join(f"error: {failure}" for failure in failures))


if __name__ == "__main__":
    main()
