"""What the README shows is what a reader will see."""

from __future__ import annotations

import re

import pytest
from readme import README, ROOT, comparable, replay, sessions

import lstmgen

TEXT = README.read_text(encoding="utf-8")


@pytest.mark.parametrize("session", sessions(TEXT), ids=lambda s: s.splitlines()[0][2:])
def test_console_sessions(session):
    assert comparable(replay(session)) == comparable(session), "run: make generated"


def test_python_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "m.forward" in c]
    exec(code, {})


def test_the_cell_shown_is_the_file():
    shown = next(c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "Cell(" in c)
    space: dict[str, object] = {}
    exec(shown, space)
    assert space["cell"].equations == lstmgen.load_cell(ROOT / "examples" / "mgu.py").equations


def test_every_reference_cell_is_listed():
    for name in lstmgen.cells.names():
        assert f"| `{name}` |" in TEXT


def test_links_lead_somewhere():
    for document in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert link.startswith("http") or (document.parent / link).exists(), link
