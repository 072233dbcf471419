"""What the documents show is what a reader will see."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import reference
from conftest import need
from documents import DOCUMENTS, README, ROOT, comparable, replay, rewrite, shown

import lstmgen
from lstmgen.targets.latex import target as latex

TEXT = README.read_text(encoding="utf-8")
HELD = [
    pytest.param(document, part, id=f"{document.relative_to(ROOT)}: {part.title}")
    for document in DOCUMENTS
    for part in shown(document.read_text(encoding="utf-8"))
    if not part.measured
]


@pytest.mark.parametrize(("document", "part"), HELD)
def test_what_is_shown_is_what_comes(document, part):
    if "forecast.py" in part.title:
        need("statsmodels")
        need("matplotlib")
    assert comparable(replay(part)) == comparable(part.text), "run: make docs ARGS=--quick"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_all_that_looks_like_output_is_found(document):
    """A mark with a slip of the pen would be text, and no command would stand behind it."""
    text = document.read_text(encoding="utf-8")
    parts = shown(text)
    outside = text
    for part in reversed(parts):
        outside = outside[: part.span[0]] + outside[part.span[1] :]
    assert not re.search(r"^\$ ", outside, re.MULTILINE)
    marks = re.findall(r"^<!-- (?:make docs.*|end) -->$", outside, re.MULTILINE)
    of_regions = [mark for mark in marks if ": " in mark]
    assert len(of_regions) == marks.count("<!-- end -->") == sum(bool(p.command) for p in parts)
    sessions = sum(part.measured and not part.command for part in parts)
    assert marks.count("<!-- make docs, measured -->") == sessions
    assert len(re.findall("^<!--", outside, re.MULTILINE)) == len(marks)


DOCUMENT = """\
Before.

```console
$ echo one; pwd | wc -l
stale
$ false
```

<!-- make docs, measured -->
```console
$ echo it took 1.5 s
stale
```
<!-- make docs: printf '| a |\\n| --- |\\n' && test -d examples -->
stale
<!-- end -->
<!-- make docs, measured: echo drawn >&2 && touch mine -->
<!-- end -->

After.
"""


def test_documents_are_rewritten_in_place(tmp_path, capfd):
    path = tmp_path / "some.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    assert rewrite(path, quick=True) == []
    quickly = DOCUMENT.replace("stale", "one\n1", 1)
    region = "test -d examples -->\n{}<!-- end -->"
    quickly = quickly.replace(region.format("stale\n"), region.format("\n| a |\n| --- |\n\n"))
    assert path.read_text(encoding="utf-8") == quickly
    assert rewrite(path) == []
    assert path.read_text(encoding="utf-8") == quickly.replace("stale", "it took 1.5 s")
    assert not (ROOT / "mine").exists()
    # a command that fails leaves its part as it was, and the rest is done
    path.write_text(DOCUMENT.replace("test -d examples", "false"), encoding="utf-8")
    (failure,) = rewrite(path)
    assert "false ends with status 1" in failure
    assert path.read_text(encoding="utf-8").count("stale") == 1


def test_times_and_rounding_are_all_that_may_differ():
    assert comparable("took 1.5 s, to 3e-16 or 2.1e-9") == comparable(
        "took 12.25 s, to 4e-1 or 1e-5"
    )
    assert comparable("lstm.c, 652 lines") != comparable("lstm.c, 1549 lines")
    assert comparable("loss 0.1256") != comparable("loss 0.1257")


def test_the_formulas_shown_are_those_that_are_typeset():
    """Line by line, without the alignment and the breaks of their source."""

    def lines(text):
        text = re.sub(r"\\notag|\\\*|&|\\quad|\{\}", " ", text)
        return [" ".join(line.split()) for line in text.split("\\\\")]

    typeset = lines(latex.emit(lstmgen.cells.get("lstm")))
    (block,) = re.findall(
        r"```math\n\\begin\{aligned\}\n(.*?)\\end\{aligned\}\n```", TEXT, re.DOTALL
    )
    assert len(lines(block)) >= 2
    for line in lines(block):
        assert any(line in one for one in typeset), line


def test_readers_see_what_was_measured():
    """The commands stand in comments; what they measure, in the text."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for part in shown(text):
            options = re.findall(r"python -m benchmarks run (.*?) --json", part.command)
            before = " ".join(text[: part.span[0]].split())
            assert all(f"`{option}`" in before for option in options)


def test_figures_are_small_and_shown():
    """So that a page loads quickly, and no figure is left behind."""
    pages = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    for path in (ROOT / "docs" / "figures").iterdir():
        assert path.stat().st_size < 300_000, path
        assert f"figures/{path.name}" in pages, path


def test_the_rules_of_the_benchmarks_are_those_that_are_followed():
    from benchmarks.__main__ import run
    from lstmgen.benchmark import timing

    text = " ".join((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").split())
    defaults = {option.name: option.default for option in run.params}
    for said in (
        f"a silence of {1000 * timing.SETTLE:g} ms",
        f"calls for {1000 * timing.WAKE:g} ms without counting",
        f"then for {1000 * timing.VISIT:g} ms or more",
        f"more than {timing.SLOW:g} s for one call",
        f"(`--budget`, {defaults['budget']:g} s)",
    ):
        assert said in text
    assert timing.LONG == 0.5 and "a call of half a second or more" in text
    assert timing.SLOW_ROUNDS == 3 and "visited in three rounds only" in text


def test_python_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "m.forward" in c]
    exec(code, {})


@pytest.mark.parametrize("document", ["README.md", "docs/pytorch.md"])
def test_examples_in_pytorch_run(document, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / document).read_text(encoding="utf-8")
    codes = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "lstmgen.torch" in c]
    assert codes
    for code in codes:
        exec(code, {})


def test_the_network_shown_learns(monkeypatch, tmp_path):
    """As it stands there, in a folder of its own; and once more, to go on from its file."""
    monkeypatch.chdir(tmp_path)
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "network.fit" in c]
    space: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where C cannot be compiled
        exec(code, space)
    assert (space["y"].argmax(axis=-1) == space["target"]).mean() > 0.95
    assert space["logits"] == pytest.approx(space["y"][-1, :1], abs=1e-3)  # in single precision
    assert "counter.py" in space["files"]


def test_the_cell_shown_is_the_file():
    shown = next(c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "Cell(" in c)
    space: dict[str, object] = {}
    exec(shown, space)
    assert space["cell"].equations == lstmgen.load_cell(ROOT / "examples" / "mgu.py").equations


def test_every_reference_cell_is_listed():
    for name in reference.NAMES:
        assert f"| `{name}` |" in TEXT


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert link.startswith("http") or (document.parent / link).exists(), link
