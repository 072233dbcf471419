"""Texts of users reach generated code as comments and titles, and change nothing else there."""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sympy import Eq

from lstmgen import Cell, generate, inputs, named, sigmoid, states, tanh, vectors, weights
from lstmgen.printing.text import show
from lstmgen.runtime.writing import write_files
from lstmgen.targets.latex import target as latex
from lstmgen.targets.sealing import is_untouched

x, (h, c) = inputs("x"), states("h c")
i, W, U = vectors("i"), weights("W"), weights("U")

# What ends a comment, a string, a line or a group in some language, or means something to us.
PIECES = [
    "*/", "/*", "//", '"""', "'''", '"', "'", "\\", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85",
    "\u2028", "\u2029", "\x00", "\x1b[31m", "\ud800", "\u202e", "\ufeff", "??/", "??/\n", "\\N{X}",
    "@checksum@", "Checksum ", "Checksum 000000000000", "{{", "}}", "{%", "#}", "\\VAR{",
    "\\BLOCK{", "#", "#include <x>", "%", "%s", "$", "&", "_", "^", "~", "{", "}",
    "\\end{document}", "\\input{x}", "--", "é", "漢", "😀", "α", "a", " ", "x" * 5000,
    "import os", "int x;",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)


def made(text: str = "", role: str = "gate") -> Cell:
    return Cell(
        "mine",
        [Eq(i, sigmoid(W.i @ x)), Eq(c.next, c + i), Eq(h.next, i * tanh(U.h @ h + c.next))],
        h,
        title=text,
        source=text,
        notes=text,
        roles={i: role, h: role},
    )


def without_comments(code: str) -> str:
    """C without comments, as its first phases see it: lines that end in a backslash are joined."""
    joined = re.sub(r"(\\|\?\?/)[ \t]*\n", "", code)
    found = re.sub(
        r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*',
        lambda m: m[0] if m[0][0] == '"' else " ",
        joined,
        flags=re.DOTALL,
    )
    # a header and its source carry the checksum of both
    return re.sub(r"_GENERATION_[0-9a-f]+", "_GENERATION", " ".join(found.split()))


def without_docstrings(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            node.body[0].value.value = ""
    return ast.dump(tree)


@settings(max_examples=60)
@given(HOSTILE)
@example('*/ int x; """\nimport os  # \\N{nothing} \\')
@example("@checksum@")
@example("Checksum 0123456789ab: while")
def test_texts_change_comments_only(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("hostile")
    for target, bare in (("numpy", without_docstrings), ("c", without_comments)):
        files = generate(made(text, text), target, source=text)
        plain = generate(made(), target)
        assert {n: bare(t) for n, t in files.items()} == {n: bare(t) for n, t in plain.items()}
        write_files(files, folder)
        for name, code in files.items():
            assert (folder / name).read_text(encoding="utf-8") == code
            assert is_untouched(code), "a fresh file may be replaced"
            assert not is_untouched(code + "\n"), "an edited one may not"
            control = {c for c in code if not c.isprintable()} - {"\n"}
            assert not control, "what an editor shows is what a compiler reads"


@settings(max_examples=60)
@given(HOSTILE)
def test_texts_change_no_equation_in_latex(text):
    fragment = latex.emit(made(text), source=text)
    plain = latex.emit(made())

    def equations(tex):
        return [line for line in tex.splitlines() if line.strip() and not line.startswith("%")]

    assert equations(fragment) == equations(plain)
    document = latex.emit(made(text, text), document=True, source=text)
    assert document.count(r"\end{document}") == 1
    assert not re.search(r"\\(input|VAR|BLOCK)\{", document)
    assert {c for c in document if not c.isprintable()} <= {"\n"}
    depth = 0
    for mark in re.findall(r"(?<!\\)(?:\\\\)*([{}])", re.sub(r"(?m)(?<!\\)%.*$", "", document)):
        depth += 1 if mark == "{" else -1
        assert depth >= 0
    assert depth == 0


@settings(max_examples=60)
@given(HOSTILE)
def test_texts_stay_on_their_lines_where_equations_are_shown(text):
    shown = show(made(text, text))
    assert {c for c in shown if not c.isprintable()} <= {"\n"}
    source_and_notes = 3
    assert len(shown.splitlines()) <= len(show(made()).splitlines()) + source_and_notes


@pytest.mark.parametrize("target", ["numpy", "c", "latex"])
def test_names_that_are_given_become_names(target):
    cell = Cell("mine", [Eq(h.next, tanh(U.h @ named(x_h() * h, "squashed")) + W.h @ x)], h)
    files = generate(cell, target)
    assert any("squashed" in text for text in files.values())


def x_h():
    return tanh(W.k @ x)
