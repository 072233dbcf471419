"""The LaTeX target: what it says, how it is set, and that it compiles."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import reference
import sympy
from conftest import need
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from jinja2 import UndefinedError
from several_axes import FIXED
from strategies import cells as made_up_cells
from sympy import Eq, Max, Min, Piecewise, exp, sqrt

import lstmgen
from lstmgen import (
    Cell,
    LstmgenError,
    biases,
    constants,
    cumsum,
    derive,
    expm1,
    inputs,
    layer_norm,
    masks,
    matrix,
    max_,
    mean,
    relu,
    rsqrt,
    sigmoid,
    softmax,
    softplus,
    states,
    step,
    stop_gradient,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.language.functions import FUNCTIONS, equal
from lstmgen.language.matrices import Matrix
from lstmgen.language.symbols import Vector
from lstmgen.printing.orders import Order
from lstmgen.targets import rendering
from lstmgen.targets.latex import target as latex
from lstmgen.targets.latex.breaking import filled, width
from lstmgen.targets.latex.names import STAR, Names, escape
from lstmgen.targets.latex.page import Page
from lstmgen.targets.latex.typesetting import Typesetter
from lstmgen.targets.sealing import is_untouched

CELLS = reference.NAMES
PLAIN = r"""\documentclass{article}
\usepackage{amsmath,booktabs}
\allowdisplaybreaks
\begin{document}
%s
\end{document}
"""

x = inputs("x")
h, c = states("h c")
i, f, g, z, n = vectors("i f g z n")
W, U, b = weights("W"), weights("U"), biases("b")
V = matrix("V")


def odd_cells():
    """Cells that no paper has, with all that is hard to set."""
    u2 = inputs("u2", size="E")
    my_gate, p = vectors("my_gate p")
    s, q = vectors("s", size=1), states("q", size=1)
    alpha, mu = vector("alpha"), vector("mu", size=1, init=0.5)
    dt, eps, m = constants("dt", value=0.1), constants("eps", value=1e-6), masks("m")
    norm = mean(c.next**2) * eps
    yield Cell(
        "odd",
        equations=[
            Eq(i, softmax(W.i @ x + U.i @ h + W.i2 @ u2 + b.i)),
            Eq(f, cumsum(i)),
            Eq(
                my_gate,
                Piecewise(
                    (relu(W.my_gate @ x + V @ h), (h > 0) & (c < 1.0)),
                    (0.5 * h**2, h < -2),
                    (exp(-c), True),
                ),
            ),
            Eq(s, sigmoid(mean(h) * max_(c) + mu + q)),
            Eq(q.next, s * q + (1 - s) * sum_(h) / 2),
            Eq(n, Max(my_gate, 0) * Min(alpha, f) + stop_gradient(i) * abs(h) - m * h / 3),
            Eq(p, 1.0 * h + 2.0 * n - sympy.Heaviside(n) + dt * sympy.floor(h) + c**alpha),
            Eq(c.next, f * c + dt * (n - c) + V.T @ p / 2 + sympy.erf(n) + sympy.Mod(h, 2)),
            Eq(h.next, my_gate * tanh(c.next + norm) / (h + 3) ** 1.5 + rsqrt(1 + c**2)),
        ],
        output=n,
        title="100 % hostile: $x$ \\input{/etc/passwd} */ & # _ ^ ~ { } é Ł ő α 漢 − \n \\end",
        source="O'Brien & Koutník <a@b> \\end{document}",
        roles={i: '1 % of "it" \\input{x} $ \n\n \\\\', n: "a long role " * 8},
    )
    h1, h_1 = states("h1 h_1")
    alpha_1 = vectors("alpha_1", size=1)
    yield Cell(
        "alike",
        equations=[
            Eq(alpha_1, mean(W.x @ x + h1)),
            Eq(h_1.next, alpha_1 * h1 + h_1),
            Eq(h1.next, tanh(W.h12 @ x + U.h12 @ h_1 + b.h12)),
        ],
        output=h1,
    )
    many = inputs(" ".join(f"in_{k}" for k in "abcdefgh"))
    y = vectors("y")
    yield Cell(
        "lengthy",
        equations=[
            Eq(z, sigmoid(sum((W[v.name[3:]] @ v for v in many), U.z @ h) + b.z)),
            Eq(y, sum(h**k * z for k in range(1, 14))),
            Eq(
                h.next,
                vector("k") * z * y * exp(y) * sympy.sin(y) * sympy.cos(z) * h * (1 - z) * (2 + y)
                * tanh(y) * sqrt(1 + z**2) * sympy.atan(h),
            ),
        ],
        output=h,
    )  # fmt: skip
    k = biases("k", init=1.0)

    def gate(name):
        return sigmoid(layer_norm(W[name] @ x + U[name] @ h, gain=k[name], bias=b[name]))

    yield Cell(
        "two_norms",
        equations=[
            Eq(f, gate("f")),
            Eq(z, gate("z")),
            Eq(n, tanh(layer_norm(W.n @ x, eps=1e-3) + f * (U.n @ h))),
            Eq(h.next, z * h + (1 - z) * n),
        ],
        output=h,
    )


ODD = {cell.name: cell for cell in odd_cells()}


def fragment(cell):
    return latex.emit(cell)


def reference(name):
    """A cell's fragment, without the line breaks of its source."""
    return " ".join(fragment(lstmgen.cells.get(name)).split())


def compiled(folder: Path, name: str) -> str:
    """What pdflatex says, which has to be nothing bad."""
    need("pdflatex")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "undefined" not in done.stdout
    assert "multiply defined" not in done.stdout
    return done.stdout


def overfull(log: str) -> float:
    return max(map(float, re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)), default=0.0)


# --------------------------------------------------------------------------- what it says


def test_lstm():
    text = reference("lstm")
    for line in (
        r"\mathbf{i}_t &= \sigma(\underbrace{W_i \mathbf{x}_t + U_i \mathbf{h}_{t-1} "
        r"+ \mathbf{b}_i}_{\mathbf{a}_{i,t}}) \\",
        r"\mathbf{c}_t &= \mathbf{f}_t \odot \mathbf{c}_{t-1} + \mathbf{i}_t \odot \mathbf{g}_t \\",
        r"\mathbf{h}_t &= \mathbf{o}_t \odot \tanh \mathbf{c}_t",
        r"\delta\mathbf{c}_t &= \delta\mathbf{h}_t \odot \mathbf{o}_t \odot "
        r"\left(1 - \tanh^2 \mathbf{c}_t\right) + \delta\mathbf{c}_{t+1} \odot \mathbf{f}_{t+1} \\",
        r"\frac{\partial L}{\partial W_i} &= \sum_{t=1}^{T} \delta\mathbf{a}_{i,t}\, "
        r"\mathbf{x}_t^{\top}",
        r"\frac{\partial L}{\partial \mathbf{c}_0} &= \delta\mathbf{c}_1 \odot \mathbf{f}_1",
        r"$4 \left(H D + H^2 + H\right)$",
        r"$\mathbf{g}_t$ & $H$ & candidate \\",
        r"$W_i$, $W_f$, $W_g$, $W_o$ & $H \times D$ & input weights \\",
    ):
        assert line in text


def test_peephole_is_that_of_the_literature():
    """Greff et al. 2017, section II.B, in their order; what comes from t+1 on the second line."""
    assert (
        r"\delta\mathbf{c}_t &= \delta\mathbf{h}_t \odot \mathbf{o}_t \odot "
        r"\left(1 - \tanh^2 \mathbf{c}_t\right) + \mathbf{p}_o \odot \delta\mathbf{a}_{o,t} "
        r"\notag \\* &\quad {} + \mathbf{p}_i \odot \delta\mathbf{a}_{i,t+1} "
        r"+ \mathbf{p}_f \odot \delta\mathbf{a}_{f,t+1} + \delta\mathbf{c}_{t+1} "
        r"\odot \mathbf{f}_{t+1} \\"
    ) in reference("lstm_peephole")
    assert r"$\mathbf{p}_i$, $\mathbf{p}_f$, $\mathbf{p}_o$ & $H$ & elementwise weights of" in (
        reference("lstm_peephole")
    )


def test_what_is_a_factor_of_nothing_is_no_gain():
    """A leak from a learned time constant, beside a gain."""
    tau = vector("tau")
    made = Cell("leaky", [Eq(f, sympy.exp(-sympy.exp(-tau))),
                          Eq(h.next, f * h + b.g * tanh(W.h @ x) * (1 - f))], h)  # fmt: skip
    text = latex.files(made)["leaky_equations.tex"]
    assert r"$\boldsymbol{\tau}$ & $H$ & learned vector \\" in text
    assert r"$\mathbf{b}_g$ & $H$ & gain \\" in text


def test_layer_norm_is_put_back_and_its_parts_are_named_once():
    text = reference("lstm_layernorm")
    assert r"\mathbf{k}_i \odot \operatorname{LN}\left(W_i \mathbf{x}_t\right)" in text
    assert r"+ 10^{-5}}}" in text
    assert r"\mathbf{Wx}_{\star,t} &= W_{\star} \mathbf{x}_t" in text
    assert r"for each $\star \in \{i, f, g, o\}$" in text
    assert text.count(r"\delta\mathbf{d}_{\mathrm{Wx},\star,t} &=") == 1


@pytest.mark.parametrize("name", [*CELLS, *ODD])
def test_no_artefacts(name):
    text = fragment(ODD.get(name) or lstmgen.cells.get(name))
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for artefact in (
        r"\b\d\.0\b",
        "Derivative",
        "Subs",
        "None",
        "xi",
        r"(?<!gather)\*[^\n]",
        "rsqrt",
        "named",
    ):
        assert not re.search(artefact, body), artefact
    assert text.isascii() or all(line.startswith("%") for line in text.splitlines() if
                                 not line.isascii())  # fmt: skip
    assert str(Path.cwd()) not in text
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert body.count(r"\left") == body.count(r"\right")
    assert body.count(r"\biggl(") == body.count(r"\biggr)")


def expand(equations, letters):
    """The equations that those with ⋆ stand for."""
    for e in equations:
        for letter in letters if STAR in str(e) else [""]:
            swap = {}
            for s in e.atoms(Vector, Matrix):
                name = s.name.replace(STAR, letter)
                swap[s] = (
                    Matrix(name, transposed=s.transposed)
                    if isinstance(s, Matrix)
                    else Vector(name, s.category, "", s.time)
                )
            yield Eq(e.lhs.xreplace(swap), e.rhs.xreplace(swap), evaluate=False)


@pytest.mark.parametrize("name", [*CELLS, *ODD])
def test_stars_stand_for_what_was_derived(name):
    page = Page(ODD.get(name) or lstmgen.cells.get(name), "").equations
    for (shown, letters), derived in (
        (page.adjoints, page.backward),
        (page.totals, page.gradients[: len(page.cell.parameters)]),
    ):
        assert set(expand(shown, letters)) == set(expand(derived, []))


@hypothesis_settings(max_examples=10)
@given(made_up_cells())
def test_all_that_is_read_is_defined(cell):
    page = Page(cell, "").equations
    forward, (parts, letters) = page.forward, page.parts
    given_names = {v.name for v in (*cell.inputs, *cell.masks, *cell.parameters, *cell.constants)}
    defined = given_names | {s.name for s in cell.states}
    defined |= {e.lhs.name for e in (*page.once, *forward, *expand(parts, letters))}
    defined |= {b.args[1].name for e in forward for b in page.braces(e)}
    adjoints = [*expand(*page.adjoints), *expand(*page.totals), *page.gradients]
    known = {e.lhs for e in expand(page.backward, [])}
    for e in adjoints:
        for v in e.rhs.atoms(Vector):
            if v.category == "adjoint":
                assert Vector(v.name, "adjoint") in known, (v, e)
            elif v.category != "cotangent":
                assert v.name in defined | {k.name for k in known if k.category == "vector"}, (v, e)
            assert v.category != "carry"


def test_what_is_made_of_parameters_stands_before_the_steps():
    page = Page(FIXED["of_parameters"], "")
    text = "".join(lstmgen.generate(FIXED["of_parameters"], "latex").values())
    once, _, steps = text.partition("For $t = 1")
    assert "Once for a sequence:" in once and r"\mathbf{v} &= V \mathbf{b}_k" in once
    assert r"\mathbf{v}_t" not in steps and len(page.ends) == 2


def test_matrices_are_multiplied_as_it_is_meant():
    masked, low_rank = ("".join(lstmgen.generate(FIXED[n], "latex").values())
                        for n in ("masked", "low_rank"))  # fmt: skip
    assert r"M_h &= U_h \odot V" in masked
    assert r"\partial U_h} &= V \odot \frac{\partial L}{\partial M_h}" in masked
    assert r"\partial L} &= \frac{\partial L}{\partial M} R^{\top}" in low_rank
    assert r"\partial R} &= L^{\top} \frac{\partial L}{\partial M}" in low_rank


def test_a_vector_called_delta_is_not_taken_for_what_the_loss_gives():
    """The only output has a bare Δ for that, unless a symbol looks like it."""
    Delta = vectors("Delta")
    step = Eq(h.next, Delta * h + W.h @ x)
    gate = Eq(Delta, sigmoid(W.d @ x))
    text = " ".join(fragment(Cell("gated", [gate, step], h)).split())
    assert r"\delta\mathbf{h}_t &= \Delta\mathbf{h}_t + \delta\mathbf{h}_{t+1} \odot " in text
    assert text.count(r"$\boldsymbol{\Delta}_t$ & $H$") == 1
    assert r"as the loss itself gives it, of the output $\mathbf{h}_t$" in text
    assert r"\delta\mathbf{h}_t &= \boldsymbol{\Delta}_t + " in reference("gru")


def test_an_output_is_called_so_once():
    cell = Cell("plain", [Eq(h.next, tanh(W.h @ x + h))], h, roles={h: "output"})
    assert r"$\mathbf{h}_t$ & $H$ & the output \\" in fragment(cell)


def test_boundary_conditions_are_stated():
    assert re.search(r"At \$t = T\$ the terms of step \$T\+1\$ are zero\.", reference("lstm"))
    assert r"$\mathbf{h}_T$ and $\mathbf{c}_T$" in reference("lstm")


def test_document_inputs_the_fragment_or_holds_it():
    cell = lstmgen.cells.get("gru")
    files = lstmgen.generate(cell, "latex")
    assert set(files) == {"gru.tex", "gru_equations.tex"}
    assert r"\input{gru_equations}" in files["gru.tex"]
    assert r"\title{Gated recurrent unit, reset after the product}" in files["gru.tex"]
    assert files["gru_equations.tex"] == latex.emit(cell)
    alone = latex.emit(cell, document=True)
    assert files["gru_equations.tex"].partition("\n\n")[2].strip() in alone
    assert r"\input" not in alone
    for text in (*files.values(), alone):
        assert is_untouched(text)
        assert "no licence attaches" in text
        assert "lstmgen codegen gru --target latex" in text


# --------------------------------------------------------------------------- names, text, breaks


@pytest.mark.parametrize(
    ("name", "bold", "time", "expected"),
    [
        ("i", True, "t", r"\mathbf{i}_t"),
        ("h", True, "t-1", r"\mathbf{h}_{t-1}"),
        ("a_i", True, "t", r"\mathbf{a}_{i,t}"),
        ("W_i", False, "", "W_i"),
        ("W_i2", False, "", "W_{i2}"),
        ("W_12", False, "", "W_{12}"),
        ("W_rec", False, "", r"W_{\mathrm{rec}}"),
        ("W_alpha", False, "", r"W_{\alpha}"),
        ("my_gate", True, "t", r"\mathbf{my}_{\mathrm{gate},t}"),
        ("mu_Wx_i", False, "t", r"\mu_{\mathrm{Wx},i,t}"),
        ("alpha", True, "t", r"\boldsymbol{\alpha}_t"),
        ("Gamma", False, "", r"\Gamma"),
        ("Alpha", False, "", r"\mathrm{Alpha}"),
        ("h1", True, "t", r"\mathbf{h}_{1,t}"),
        ("tau2", False, "", r"\tau_2"),
        ("dt", False, "", r"\mathrm{dt}"),
        ("a__b_", True, "", r"\mathbf{a}_b"),
        ("x2y", True, "", r"\mathbf{x2y}"),
    ],
)
def test_names(name, bold, time, expected):
    assert Names([name])(name, bold=bold, time=time) == expected


def test_names_that_would_look_alike_are_told_apart():
    names = Names(["h1", "h_1", "h__1"])
    looks = {names(name, bold=True, time="t") for name in ("h1", "h_1", "h__1")}
    assert looks == {r"\mathbf{h}_{1,t}", r"\mathbf{h\_1}_t", r"\mathbf{h\_\_1}_t"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % & #1 $", r"50 \% \& \#1 \$"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("a_b^c~d", r"a\_b\textasciicircum{}c\textasciitilde{}d"),
        ("Koutník", r"Koutn\'{i}k"),
        ("Łukasz Kőnig", r"\L{}ukasz K\H{o}nig"),
        ("α Ω −1 漢", r"$\alpha$ $\Omega$ $-$1 ?"),
        ("two\nlines\r\n\n", "two lines"),
        ("ą", "a"),
    ],
)
def test_escape(text, expected):
    assert escape(text) == expected
    assert escape(text).isascii()


PLAYGROUND = Cell("playground", [Eq(z, tanh(W.z @ x + V @ h)), Eq(h.next, z + h)], h)


def typeset(e):
    return Typesetter(Order(PLAYGROUND), Names(["x", "h", "z"])).doprint(e)


H, Z = r"\mathbf{h}_{t-1}", r"\mathbf{z}_t"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (z * h, rf"{Z} \odot {H}"),
        (2 * z * h, rf"2 {Z} \odot {H}"),
        (mean(h) * z, rf"\operatorname{{mean}}\left({H}\right)\, {Z}"),
        (z / 2, rf"\frac{{{Z}}}{{2}}"),
        (z * h / 2, rf"\frac{{1}}{{2}}\, {Z} \odot {H}"),
        (z / h, rf"\frac{{{Z}}}{{{H}}}"),
        (-z * h, rf"-{Z} \odot {H}"),
        (tanh(h) * z, rf"{Z} \odot \tanh {H}"),
        (z * tanh(h) * (1 - z), rf"\tanh\left({H}\right) \odot {Z} \odot \left(1 - {Z}\right)"),
        (tanh(h) ** 2, rf"\tanh^2 {H}"),
        (sigmoid(h) ** 2, rf"\sigma^2\left({H}\right)"),
        (relu(h) ** 2, rf"\operatorname{{relu}}\left({H}\right)^2"),
        (h**10, H + "^{10}"),
        (2**h, "2^{" + H + "}"),
        (sympy.Float(1e-5) ** h, r"\left(10^{-5}\right)^{" + H + "}"),
        (sympy.Float(2.5e-7) * h, rf"2.5 \cdot 10^{{-7}} {H}"),
        (sqrt(h), rf"\sqrt{{{H}}}"),
        (rsqrt(h), rf"\frac{{1}}{{\sqrt{{{H}}}}}"),
        (step(h) * 2, rf"2\, \mathbf{{1}}\left[{H} > 0\right]"),
        (equal(z, h), rf"\mathbf{{1}}\left[{Z} = {H}\right]"),
        (Max(h, 0), rf"\max\left({H}, 0\right)"),
        (V @ (z * h), rf"V \left({Z} \odot {H}\right)"),
        (V.T @ h, rf"V^{{\top}} {H}"),
        (
            Piecewise((z, h > 0), (h, True)),
            rf"\begin{{cases}} {Z} & \text{{if }} {H} > 0 \\ "
            rf"{H} & \text{{otherwise}} \end{{cases}}",
        ),
        (exp(-h), rf"\exp\left(-{H}\right)"),
        (sympy.Abs(h), rf"\left|{H}\right|"),
        (softplus(h), rf"\operatorname{{softplus}}\left({H}\right)"),
        (expm1(h), rf"\operatorname{{expm1}}\left({H}\right)"),
    ],
)
def test_expressions(expression, expected):
    assert typeset(expression) == expected


def test_every_function_of_the_language_can_be_set(tmp_path):
    lines = []
    for function in FUNCTIONS:
        args = (z, h) if function in (equal, Max, Min, sympy.Mod) else (h,)
        lines.append(typeset(2 * function(*args) ** 2 * z))
        assert function.__name__ != "rsqrt" or "rsqrt" not in lines[-1]
    body = "\n".join(f"$${line}$$" for line in lines)
    (tmp_path / "all.tex").write_text(PLAIN % body, encoding="utf-8")
    compiled(tmp_path, "all")


def test_breaking_a_line_loses_nothing():
    page = Page(ODD["lengthy"], "")
    shown, setting = page.equations, page.lines

    def joined(text):
        return re.sub(r"\\biggl|\\left", "", re.sub(r"\\biggr|\\right", "", text)).replace(" ", "")

    for e in (shown.backward[1], shown.gradients[page.cell.parameters.index(vector("k"))]):
        _, pieces = setting.sides(e)
        assert len(pieces) > 1
        whole = setting.math(e.rhs)
        if r"\frac" not in whole:  # a long fraction is set as a factor 1/…
            assert joined(" ".join(pieces)) == joined(whole)
        for room in (100.0, 200.0, 340.0):
            lines = filled(pieces, room)
            kept = [line.replace(r"\cdot ", "").replace(r"\, ", "") for line in lines]
            assert joined("".join(kept)) == joined(" ".join(pieces).replace(r"\, ", ""))


def test_width_is_about_that_of_tex(tmp_path):
    lines = []
    for name in CELLS:
        page = Page(lstmgen.cells.get(name), "")
        shown = page.equations
        shown = (*shown.forward, *shown.adjoints[0], *shown.gradients)
        lines += [page.lines.line(e) for e in shown]
    body = "".join(
        rf"\setbox0\hbox{{$\displaystyle {line}$}}\typeout{{WIDTH {k} \the\wd0}}" + "\n"
        for k, line in enumerate(lines)
    )
    (tmp_path / "widths.tex").write_text(PLAIN % (body + "."), encoding="utf-8")
    found = re.findall(r"WIDTH (\d+) ([\d.]+)pt", compiled(tmp_path, "widths"))
    assert len(found) >= len(lines)
    for k, points in found:
        assert 0.8 < float(points) / width(lines[int(k)]) < 1.1, lines[int(k)]


# --------------------------------------------------------------------------- that it compiles


@pytest.mark.parametrize("name", [*CELLS, *ODD])
def test_compiles(name, tmp_path):
    cell = ODD.get(name) or lstmgen.cells.get(name)
    for file, text in latex.files(cell).items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert overfull(compiled(tmp_path, name)) <= 5
    (tmp_path / "plain.tex").write_text(PLAIN % rf"\input{{{name}_equations}}", encoding="utf-8")
    assert overfull(compiled(tmp_path, "plain")) <= 5


def test_hostile_text_is_set_as_it_stands(tmp_path):
    need("pdftotext")
    (tmp_path / "odd.tex").write_text(latex.emit(ODD["odd"], document=True), encoding="utf-8")
    compiled(tmp_path, "odd")
    done = subprocess.run(
        ["pdftotext", "-layout", "odd.pdf", "-"], cwd=tmp_path, capture_output=True, check=True
    )
    text = done.stdout.decode("utf-8")
    assert r"\input{/etc/passwd} * / & #" in text
    assert "root:" not in text
    assert r"\end{document}" in text


@hypothesis_settings(max_examples=6)
@given(made_up_cells())
def test_made_up_cells_compile(tmp_path_factory, cell):
    folder = tmp_path_factory.mktemp("made_up")
    (folder / "made_up.tex").write_text(latex.emit(cell, document=True), encoding="utf-8")
    compiled(folder, "made_up")


# --------------------------------------------------------------------------- templates


def test_an_undefined_name_in_a_template_is_an_error():
    with pytest.raises(UndefinedError):
        rendering.environment("latex").from_string("{{ nothing }}").render()


def test_missing_templates_are_said_to_be_missing(monkeypatch, tmp_path, request):
    rendering.environment.cache_clear()
    request.addfinalizer(rendering.environment.cache_clear)
    monkeypatch.setattr(rendering, "files", lambda package: tmp_path)
    monkeypatch.setattr(rendering, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(LstmgenError, match="install lstmgen again"):
        rendering.environment("latex")
    (tmp_path / "templates" / "latex").mkdir(parents=True)
    (tmp_path / "templates" / "latex" / "a.j2").write_text("{{ x }}\n", encoding="utf-8")
    assert rendering.environment("latex").get_template("a.j2").render(x=1) == "1\n"


def test_derivation_reads_as_a_textbook_where_a_state_only_passes_on():
    """δc is what arrives from t+1, and nothing else: it has a line, and no symbol is left over."""
    mu = vector("mu", size=1)
    leaky = Cell("leaky", [Eq(h.next, tanh(W.h @ x + c)), Eq(c.next, (1 - mu) * c + mu * h)], h)
    lines = {str(e.lhs): str(e.rhs) for e in derive(leaky).equations}
    assert lines["δc"] == "δa_h[t+1] + δc[t+1]*(1 - mu)"
    assert not any("later" in rhs for rhs in lines.values())


def test_a_dot_stands_above() -> None:
    names = Names(["h", "h_dot", "W_i_dot", "h_tilde", "dot"])
    assert names("h_dot", bold=True, time="t") == r"\dot{\mathbf{h}}_t"
    assert names("W_i_dot", bold=False) == r"\dot{W}_i"
    assert names("h_tilde", bold=True) == r"\tilde{\mathbf{h}}"
    assert names("dot", bold=False) == r"\mathrm{dot}"
    assert width(names("h_dot", bold=True)) == width(names("h", bold=True))
