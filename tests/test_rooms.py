"""The folder list is the architecture: a room imports rooms to its left only, none in a circle."""

import ast
import re
from pathlib import Path

import pytest

import lstmgen

HOME = Path(lstmgen.__file__).parent
# From left to right, as a cell goes through them.
ROOMS = (
    "errors", "language", "cells", "derivation", "printing", "notation", "planning", "network",
    "targets", "runtime", "verification", "analysis", "monitor", "training", "conventions",
    "transcripts", "benchmark", "torch", "cli", "__main__",
)  # fmt: skip


def _modules() -> dict[str, Path]:
    paths = (p for p in HOME.rglob("*.py") if p != HOME / "__init__.py")
    return {".".join(p.relative_to(HOME).with_suffix("").parts): p for p in paths}


def _imports(name: str, path: Path) -> set[str]:
    """The modules of lstmgen that ``path`` imports, lazily or not; not those for types alone."""
    found: set[str] = set()
    here = name.split(".")[:-1]
    known = _modules()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            if not node.level:
                return
            base = here[: len(here) - node.level + 1] + (node.module or "").split(".")
            stem = ".".join(part for part in base if part)
            for alias in node.names:
                whole = f"{stem}.{alias.name}".strip(".")
                for candidate in (whole, f"{whole}.__init__", stem, f"{stem}.__init__"):
                    if candidate in known:
                        found.add(candidate)
                        break

    Visitor().visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


GRAPH = {name: _imports(name, path) for name, path in _modules().items()}


def test_every_module_has_a_room():
    assert {name.split(".")[0] for name in GRAPH} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_nothing_is_imported_from_the_right(name):
    place = ROOMS.index(name.split(".")[0])
    wrong = [other for other in GRAPH[name] if ROOMS.index(other.split(".")[0]) > place]
    assert not wrong


def test_no_import_goes_in_a_circle():
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in sorted(GRAPH[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(GRAPH):
        visit(name, ())


TEMPLATES = sorted((HOME.parent / "templates").rglob("*.j2"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_templates_hold_layout_only(path):
    """No conditional within another one, none within a line, and nothing is computed."""
    depth = 0
    text = path.read_text("utf-8")
    for statement in re.findall(r"(?:{%|\\BLOCK{)-? *(\w+)", text):
        depth += {"if": 1, "endif": -1}.get(statement, 0)
        assert depth < 2
    for value in re.findall(r"(?:{{|\\VAR{)(.*?)}", text):
        assert not re.search(r" (if|else|[-+*/%]|//) ", value), value
