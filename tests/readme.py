"""The README's console sessions: run again, compared, and written anew by `make generated`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def sessions(text: str) -> list[str]:
    """The console blocks of a Markdown text."""
    return _BLOCK.findall(text)


def replay(session: str) -> str:
    """The session with what its commands print now."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        for line in session.splitlines():
            if line.startswith("$ "):
                program, *arguments = line[2:].split()
                done = subprocess.run(
                    [Path(sys.executable).parent / program, *arguments],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                lines += [line, (done.stdout + done.stderr).rstrip("\n")]
    return "\n".join(lines) + "\n"


def rewritten(text: str) -> str:
    """``text`` with every session replayed."""
    return _BLOCK.sub(lambda found: f"```console\n{replay(found.group(1))}```", text)


def comparable(session: str) -> str:
    """Without rounding errors and where they are largest, which depend on the machine."""
    session = re.sub(r"\d\.\de-\d+", "…", session)
    return re.sub(r"worst at \[[\d, ]+\]", "worst at …", session)
