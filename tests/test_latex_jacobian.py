"""The state Jacobian in LaTeX: what it says, how it is set, and that it compiles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from several_axes import CELLS as SEVERAL_AXES
from sympy import Eq
from test_latex import ODD, PLAIN, compiled, overfull

from lstmgen import Cell, LstmgenError, cells, constants, inputs, outer, states, tanh
from lstmgen.cli import main
from lstmgen.language.matrices import Matrix
from lstmgen.language.symbols import Vector
from lstmgen.targets.latex.breaking import LINE, width
from lstmgen.targets.latex.jacobian import JacobianPage
from lstmgen.targets.latex.names import STAR
from lstmgen.targets.latex.target import emit_jacobian
from lstmgen.targets.sealing import is_untouched

WITH_STATES = [name for name in cells.names() if cells.get(name).states]
OTHERS = {c.name: c for c in (*ODD.values(), *SEVERAL_AXES.values()) if c.states}


def find(name: str) -> Cell:
    return OTHERS[name] if name in OTHERS else cells.get(name)


def reading(cell: Cell) -> str:
    """A fragment, without the line breaks of its source."""
    return " ".join(emit_jacobian(cell).split())


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "lstm",
            [
                r"In step $t$, for each $\star \in \{i, f, g, o\}$:",
                r"\mathrm{d}\mathbf{a}_{\star,t} &= U_{\star} \mathrm{d}\mathbf{h}_{t-1} \\",
                r"\mathrm{d}\mathbf{f}_t &= \mathbf{f}_t \odot \left(1 - \mathbf{f}_t\right) "
                r"\odot \mathrm{d}\mathbf{a}_{f,t} \\",
                r"+ \mathbf{b}_f}_{\mathbf{a}_{f,t}}) \\",  # what a_f is
                r"$\mathbf{h}$ and $\mathbf{c}$ --- dense: each unit depends on all, not linear.",
            ],
        ),
        (
            "lru",
            [
                r"\mathrm{d}\mathbf{h}_{\mathrm{re},t} &= \mathbf{a} \odot "
                r"\mathrm{d}\mathbf{h}_{\mathrm{re},t-1} - \mathbf{b} \odot "
                r"\mathrm{d}\mathbf{h}_{\mathrm{im},t-1} \\",
                r"--- elementwise: the 2 states of each unit by themselves, linear.",
                r"\frac{\partial \left(\mathbf{h}_{\mathrm{re},t}, \mathbf{h}_{\mathrm{im},t}"
                r"\right)}{\partial \left(\mathbf{h}_{\mathrm{re},t-1}, "
                r"\mathbf{h}_{\mathrm{im},t-1}\right)} &= \begin{pmatrix} \mathbf{a} & "
                r"-\mathbf{b} \\ \mathbf{b} & \mathbf{a} \end{pmatrix}",
            ],
        ),
        (
            "sru",
            [
                r"\frac{\partial \mathbf{c}_t}{\partial \mathbf{c}_{t-1}} &= \mathbf{f}_t \odot "
                r"\left(1 + \mathbf{v}_f \odot \left(1 - \mathbf{f}_t\right) \odot "
                r"\left(\mathbf{c}_{t-1} - \mathbf{n}_t\right)\right)",
            ],
        ),
    ],
)
def test_what_it_says(name: str, lines: list[str]) -> None:
    text = reading(cells.get(name))
    for line in lines:
        assert line in text


def test_a_wide_block_is_given_by_its_entries() -> None:
    """Those that are not zero."""
    x, u, v, w = inputs("x", size="H"), *states("u v w")
    a, b = constants("a_coefficient b_coefficient", value=0.5)
    damped = tanh(a * u + b * v + x) * tanh(b * u + a * x) * tanh(a * v + x)
    wide = Cell("wide", [Eq(u.next, damped), Eq(v.next, w + x), Eq(w.next, u * tanh(w))], u)
    text = reading(wide)
    assert "pmatrix" not in text
    assert r"\frac{\partial \mathbf{v}_t}{\partial \mathbf{w}_{t-1}} &= 1" in text
    assert r"\frac{\partial \mathbf{v}_t}{\partial \mathbf{u}_{t-1}}" not in text


def test_what_has_no_state_has_no_jacobian() -> None:
    with pytest.raises(LstmgenError, match="tree_lstm has no state"):
        emit_jacobian(cells.get("tree_lstm"))


@pytest.mark.parametrize("name", [*WITH_STATES, *OTHERS])
def test_no_artefacts_and_lines_fit(name: str) -> None:
    text = emit_jacobian(find(name))
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    for artefact in ("Derivative", "Subs", "None", "tangent", "named", "Slope", r"\b\d\.0\b"):
        assert not re.search(artefact, body), artefact
    assert body.isascii()
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert body.count(r"\left") == body.count(r"\right")
    assert body.count(r"\begin{align}") == body.count(r"\end{align}") >= 2
    assert is_untouched(text)
    if name in OTHERS:  # made to be hard to set; how wide they come out is measured below
        return
    # one fraction has nowhere to break
    assert all(len(line) <= 110 for line in lines if " " in line.strip())
    for block in re.findall(r"\\begin\{align\}(.*?)\\end\{align\}", body, re.DOTALL):
        for line in re.split(r"\\\\\*?\n", re.sub(r"\\begin\{pmatrix\}.*", "", block)):
            assert width(line) <= LINE + 30, line  # an alignment moves the others by the widest


@pytest.mark.parametrize("name", [*WITH_STATES, *OTHERS])
def test_all_that_is_read_is_defined(name: str) -> None:
    """In what stands above, or as what the step is given."""
    cell = find(name)
    shown = JacobianPage(cell, "").equations
    given = (*cell.inputs, *cell.masks, *cell.parameters, *cell.constants, *cell.states)
    names = {s.name for s in given} | {e.lhs.name for e in (*shown.once, *shown.forward)}
    names |= {b.args[1].name for e in shown.forward for b in shown.braces(e)}
    names |= {
        e.lhs.name.replace(STAR, letter)
        for e in shown.parts[0]
        for letter in shown.parts[1] or [""]
    }
    blocks = [r.block for r in JacobianPage(cell, "").jacobian.recurrences]
    read = [v for block in blocks if block is not None for v in block.atoms(Vector, Matrix)]
    changes = {s.name for s in cell.states}  # which are given
    for e in shown.backward:
        for v in e.rhs.atoms(Vector):
            if v.category.startswith("tangent"):
                assert v.name in changes, (v, e)
            else:
                read.append(v)
        (changes if e.lhs.category.startswith("tangent") else names).add(e.lhs.name)
    assert {v.name for v in read} <= names


@pytest.mark.parametrize("name", [*WITH_STATES, *OTHERS])
def test_compiles(name: str, tmp_path: Path) -> None:
    cell = find(name)
    wide = 50 if name == "odd" else 5  # conditions, in which a line cannot break
    (tmp_path / "whole.tex").write_text(emit_jacobian(cell, document=True), encoding="utf-8")
    assert overfull(compiled(tmp_path, "whole")) <= wide
    (tmp_path / "part.tex").write_text(emit_jacobian(cell), encoding="utf-8")
    (tmp_path / "plain.tex").write_text(PLAIN % r"\input{part}", encoding="utf-8")
    assert overfull(compiled(tmp_path, "plain")) <= wide


def test_the_command() -> None:
    run = CliRunner()
    made = run.invoke(main, ["flow", "gru", "--latex"])
    assert made.output == emit_jacobian(cells.get("gru"))
    assert "Generated by lstmgen" in made.output and "lstmgen flow gru --latex" in made.output
    whole = run.invoke(main, ["flow", "gru", "--latex", "--document"]).output
    assert r"\title{Gated recurrent unit, reset after the product: state Jacobian}" in whole
    assert made.output.partition("\n\n")[2].strip() in whole
    for arguments in (["--document"], ["--latex", "--plot", "x.svg"]):
        refused = run.invoke(main, ["flow", "gru", *arguments])
        assert refused.exit_code == 2 and "--latex" in refused.output


def test_a_transpose_of_a_transpose_and_of_a_power_has_one_sign_above() -> None:
    """Two superscripts are an error in TeX."""
    x, S = inputs("x", size="H"), states("S", shape=("H", "H"))
    step = S / 2 + outer(tanh(x), x**2)
    text = reading(Cell("turned", [Eq(S.next, step)], S))
    assert r"\left(\mathbf{x}_t^2\right)^{\top}" in text
    turned = r"\mathbf{S}_{t-1}^{\top}\, \left(\mathbf{V}_{t-1}^{\top}\right)^{\top}"
    assert turned in reading(SEVERAL_AXES["turned_heads"])
