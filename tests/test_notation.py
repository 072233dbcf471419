"""Cells in text: what is written reads back equal, and what cannot be read says where and why."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import delays
import made_up_axes
import numpy as np
import pytest
import reference
import series
import several_axes
import strategies
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy import Eq, Piecewise, Rational, pi, sqrt

import lstmgen
from lstmgen import (
    Cell,
    CellError,
    LstmgenError,
    Size,
    biases,
    inputs,
    matrix,
    named,
    read_cell,
    sigmoid,
    states,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
    write_cell,
)
from lstmgen.cli import main
from lstmgen.notation import layout
from lstmgen.notation.beginning import begin
from lstmgen.notation.places import NotationError

ROOT = Path(__file__).resolve().parents[1]
MGU = """\
# the minimal gated unit
name: mgu

f = sigmoid(W_f @ x + U_f @ h + b_f)
n = tanh(W_n @ x + U_n @ (f * h) + b_n)
h.next = (1 - f) * h + f * n
"""
SAME = "name title source notes equations outputs roles sizes states inputs masks constants".split()


def assert_same(a: Cell, b: Cell) -> None:
    assert a == b
    assert hash(a) == hash(b)
    for what in SAME:
        assert getattr(a, what) == getattr(b, what), what
    assert a.parameters == b.parameters
    assert a.learned == b.learned
    for symbol in (*a.parameters, *a.states, *a.constants):
        assert a.initial(symbol) == b.initial(symbol), symbol
        assert a.shape(symbol) == b.shape(symbol), symbol


def assert_survives(cell: Cell) -> str:
    text = write_cell(cell)
    assert_same(cell, read_cell(text))
    return text


# --------------------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    "other",
    [
        MGU.replace("name: mgu", "name: gmu"),
        MGU.replace("name: mgu", "name: mgu\ntitle: minimal"),
        MGU.replace("name: mgu", "name: mgu\nstarts: b_f = 1"),
        MGU.replace("name: mgu", "name: mgu\nfixed: b_f"),
        MGU.replace("name: mgu", "name: mgu\nroles: f = gate"),
        MGU.replace("name: mgu", "name: mgu\noutput: f"),
        MGU.replace("name: mgu", "name: mgu\nsizes: h (P), f (P), n (P)"),
        MGU.replace("(1 - f) * h", "(1 - n) * h"),
    ],
)
def test_cells_that_differ_are_not_equal(other: str) -> None:
    cell = read_cell(MGU)
    assert cell == read_cell(MGU)
    assert cell != read_cell(other)
    assert cell != MGU


def test_text_is_the_cell_that_python_has():
    cell = lstmgen.load_cell(ROOT / "examples" / "mgu.py")
    assert read_cell(MGU).equations == cell.equations
    assert_survives(cell)


WRITTEN = {
    **several_axes.CELLS,
    **several_axes.made_of_parameters(),
    **delays.CELLS,
    **series.CELLS,
}


@pytest.mark.parametrize("name", reference.NAMES)
def test_reference_cells_survive(name):
    text = assert_survives(lstmgen.cells.get(name))
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("name", WRITTEN)
def test_cells_of_all_kinds_survive(name):
    assert_survives(WRITTEN[name])


@settings(max_examples=100)
@given(strategies.cells())
def test_made_up_cells_survive(cell):
    assert_survives(cell)


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_made_up_cells_of_several_axes_survive(seed):
    chance = random.Random(seed)
    try:
        cell = made_up_axes.made_up(chance.randrange)
    except (CellError, TypeError):  # choices that do not fit together
        assume(False)
    assert_survives(cell)


x, h = inputs("x"), states("h")
W, U, b = weights("W"), weights("U"), biases("b")


def test_starts_are_kept_where_they_were_given():
    a = matrix("A", "H", "H", init=("normal", 0.1), learned=False)
    g, free = vector("g", init=("uniform", -1, 1)), vector("free", init=None)
    s = states("s", init=-0.25)
    cell = Cell(
        "starts",
        [Eq(s.next, tanh(a @ h + g * s + free)), Eq(h.next, tanh(U.h @ h + W.h @ x + b.h) * s)],
        (h, s),
        init={b.h: 1.0, U.h: "orthogonal", W.h: ("uniform", -0.5, 0.5)},
    )
    text = assert_survives(cell)
    assert "fixed: A" in text
    assert read_cell(text)._init == cell._init


TEXTS = [
    "plain", "two  spaces", " around ", "a # in it", '"quoted"', "é漢😀", "\n", "a\nb",
    "\x00\x1b[31m", "\u202e", "\ud800", "\\n", "a, b = c", "x" * 300, "word " * 60, "# first",
    "'", "=", ":", "a: b", "{}", "%s", "\ufeff", "\u00a0", "\t", "",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive(text):
    i = vectors("i")
    cell = Cell(
        "odd", [Eq(i, W.i @ x), Eq(h.next, h + i)], h, title=text, source=text, notes=text,
        roles={i: text, h: text + ", "},
    )  # fmt: skip
    written = assert_survives(cell)
    hidden = {c for c in written if not c.isprintable()}
    assert hidden <= {"\n"}, "what an editor shows is what is read"


def test_what_use_does_not_tell_is_written():
    """Names that are also functions or numbers, matrices entry by entry, sizes in arithmetic."""
    number, product = vector("pi"), matrix("product")
    tall = biases("c", shape=("N", "P")).a
    exp = vectors("exp")
    n = states("n", shape=("N", "P"))
    cell = Cell(
        "names",
        [
            Eq(exp, tanh((U.a * product) @ h + number * pi + W.a @ x / sqrt(Size("K")))),
            Eq(n.next, tanh(n + tall) * Size("Q")),
            Eq(h.next, exp * sum_(matrix("V", "H", "K") @ vector("k", "K")) + sum_(n.next, 1).func(
                sum_(n.next, 1))),
        ],
        h,
    )  # fmt: skip
    text = assert_survives(cell)
    assert "matrices: U_a" in text
    assert "acos(-1)" in text
    assert "size(Q)" in text and "sqrt(K)" in text


def test_compositions_are_written_as_they_were():
    text = write_cell(lstmgen.cells.get("lstm_layernorm"))
    assert "k_i * layer_norm(W_i @ x)" in text
    cell = read_cell(
        "name: a\nh.next = b * softmax(U @ h + W @ x) + layer_norm(h, gain=g, eps=0.1)"
    )
    assert "b * softmax(W @ x + U @ h)" in assert_survives(cell)
    assert "layer_norm(h, eps=0.1)" in write_cell(cell)


def test_numbers_are_exact():
    cell = read_cell("name: a\nh.next = 1/3 * h + 0.1 * (W @ x) + 2**-3 * pi + 1e-05*h**(3/2)")
    i = Rational(1, 3)
    assert cell.equations[0].rhs == i * h + 0.1 * (W.x @ x).func(
        matrix("W"), x
    ) + pi / 8 + 1e-05 * h ** Rational(3, 2)


def test_several_parts_of_one_split():
    cell = read_cell("name: a\nsizes: s (2*P), q (P), k (P)\nq, k = split(W @ x + s, P, P)\n"
                     "s.next = concat(q, k)")  # fmt: skip
    assert len(cell.vectors) == 2
    assert_survives(cell)


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("where(h > 0, h, 2*h)", Piecewise((h, h > 0), (2 * h, True))),
        ("where(0 < h < 1, h, 2*h)", Piecewise((h, (h > 0) & (h < 1)), (2 * h, True))),
        ("where(not h > 0 or h == 1, 1, h > 2, 2, 3)",
         Piecewise((1, (h <= 0) | Eq(h, 1)), (2, h > 2), (3, True))),
        ("max(h)", lstmgen.max_(h)),
        ("sum(h) / mean(h)", sum_(h) / lstmgen.mean(h)),
        ("sum(2, axis=0) * h", 2 * h),
        ("-h**2", -(h**2)),
        ("2**-h", 2**-h),
        ("h - (h**3 - 1) - -h", h - (h**3 - 1) + h),
        ("named(h + 1, word)", named(h + 1, "word")),
        ("Abs(h) + abs(h)", 2 * abs(h)),
        ("elu(h, alpha=0.5)", lstmgen.elu(h, alpha=0.5)),
        ("sigmoid (  # a comment\n  h )", sigmoid(h)),
    ],
)  # fmt: skip
def test_expressions(written, same):
    read = read_cell(f"name: a\nh.next = tanh(W_h @ x) * ({written})")
    python = Cell("a", [Eq(h.next, tanh(W.h @ x) * same)], h)
    assert read.equations == python.equations


# --------------------------------------------------------------------------- where a cell is taken


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.cell"
    path.write_text(MGU.replace("name: mgu", "name: mine"), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "command",
    ["show", "show --text", "plan", "latex", "check --seeds 1", "codegen --target numpy",
     "bench --size H=4 --size T=3 --rounds 1 --target numpy"],
)  # fmt: skip
def test_commands_take_text(file, command):
    word, *options = command.split()
    if word == "codegen":
        options += ["--out", str(file.parent)]
    done = CliRunner().invoke(main, [word, str(file), *options])
    assert done.exit_code == 0, done.output
    assert "mine" in done.output or word in ("plan", "latex")


def test_a_cell_of_text_trains(file):
    network = lstmgen.Network(
        [lstmgen.Layer(lstmgen.load_cell(file), 8), lstmgen.Readout(1)],
        inputs=1, loss="mean_squared", optimizer="adam", rate=1e-2,
    )  # fmt: skip
    data = np.random.default_rng(0).standard_normal((6, 32, 1))
    run = network.fit(data, np.cumsum(data, axis=0), epochs=5)
    losses = re.findall(r"\d\.\d+", str(run))
    assert losses


def test_find_model_and_hints(tmp_path):
    with pytest.raises(LstmgenError, match="no such file"):
        lstmgen.load_cell(tmp_path / "none.cell")
    with pytest.raises(TypeError, match="load_cell"):
        lstmgen.derive("mine.cell")


@pytest.mark.parametrize("form", ["--text", "--python"])
def test_new_writes_a_cell_that_passes(tmp_path, form):
    suffix = ".cell" if form == "--text" else ".py"
    path = tmp_path / f"mine{suffix}"
    run = CliRunner().invoke
    assert run(main, ["new", "mine", form, "--out", str(tmp_path)]).exit_code == 0
    assert "all 8 gradients agree" in run(main, ["check", str(path), "--seeds", "1"]).output
    path.write_text(path.read_text("utf-8") + "# edited\n", "utf-8")
    refused = run(main, ["new", "mine", form, "--out", str(tmp_path)])
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert run(main, ["new", "mine", form, "--out", str(tmp_path), "--force"]).exit_code == 0
    assert "edited" not in path.read_text("utf-8")


def test_new_takes_the_name_of_the_file(tmp_path):
    for file in ("mine.cell", "mine.py"):
        made = CliRunner().invoke(main, ["new", file, "--out", str(tmp_path)])
        assert made.exit_code == 0, made.output
        assert lstmgen.load_cell(tmp_path / file).name == "mine"


def test_both_beginnings_are_one_cell(tmp_path):
    (tmp_path / "a.py").write_text(begin("a", as_text=False)["a.py"], "utf-8")
    python, text = lstmgen.load_cell(tmp_path / "a.py"), read_cell(begin("a")["a.cell"])
    assert python.equations == text.equations
    for name in ("int", "a b", "../a", "é"):
        with pytest.raises(CellError):
            begin(name)


def test_writing_needs_no_parser_and_reading_says_what_it_needs(file):
    code = (
        "import sys; sys.modules['lark'] = None\n"
        "import lstmgen\n"
        "print(lstmgen.write_cell(lstmgen.cells.get('rnn')))\n"
        f"lstmgen.load_cell({str(file)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "h.next = tanh(" in done.stdout
    assert "pip install 'lstmgen[text]'" in done.stderr


# --------------------------------------------------------------------------- errors


H = "name: a\nh.next = tanh(W @ x) + "
ERRORS = {
    H + "sigmod(h)": (2, 24, 'did you mean "sigmoid"?'),
    H + "maximum(h, x)": (2, 24, "write max(u, v)"),
    H + "h +": (2, 26, "ends too early"),
    H + "(h": (2, 24, "never closed"),
    H + "(h\ng = 1": (2, 24, "never closed"),
    H + "h)": (2, 25, "closes nothing"),
    H + "(h]": (2, 26, "closes nothing"),
    H + "W h": (2, 26, "a product is written W * h"),
    H + "2h": (2, 24, "a product is written 2*h"),
    H + "0x10": (2, 24, "decimal"),
    H + "[h, x]": (2, 24, "concat(x, h)"),
    H + "np.tanh(h)": (2, 24, "write tanh(…)"),
    H + "h[t-1]": (2, 25, "h[t-1] is h"),
    H + "h\nh.next += x": (3, 8, "a name has one equation"),
    "name: a\nh.next == W @ x": (2, 8, "write h.next = …"),
    "name: a\nh' = W @ x": (2, 2, "write h.next"),
    "name: a\nh[t] = W @ x": (2, 2, "h[t] is written h.next"),
    "name: a\nimport os\nh.next = W @ x": (2, 1, "a statement of Python"),
    "name: a\ndef f(u): u\nh.next = W @ x": (2, 1, "a statement of Python"),
    "name: a\noutput: h\n    h.next = W @ x": (3, 5, "begins at the margin"),
    "name: a\ntitle: one\n\tg = W @ x\nh.next = g": (3, 2, "begins at the margin"),
    "name: a\nroles: g = gate\n  g = W @ x\nh.next = g": (3, 3, "begins at the margin"),
    "name: a\ng = W @ x\n    h.next = g": (3, 5, "begins at the margin"),
    "name: a\nh = W @ x + h": (2, 13, "write h.next = …"),
    "name: a\ng = U @ h\nh = W @ x + g": (2, 9, "write h.next = …"),
    "name: a\ng = n + U @ h\nn = W @ x\nh.next = g": (2, 5, "move the equation of n"),
    "name: a\nh.next = W * x + U @ h": (2, 1, "the matrix product is W @ x"),
    "name: a\ngate = W @ x\nh.next = (1 - gaet) * h + gate": (3, 15, 'did you mean "gate"?'),
    "name: a\nforget = W @ x\nh.next = foget * h + forget": (3, 10, '"vectors: foget"'),
    H + "h^2": (2, 25, "a power is written **"),
    H + "h if h else x": (2, 26, "where(condition, a, b)"),
    H + "'h'": (2, 24, "without quotes"),
    H + "g.next": (2, 24, "g is no state"),
    H + "h.nxt": (2, 24, 'did you mean "next"?'),
    H + "h/0": (2, 26, "divides by zero"),
    H + "(-1)**0.5": (2, 25, "no real number"),
    H + "tanh(h, x)": (2, 24, "tanh takes 1 argument, not 2"),
    H + "tanh()": (2, 24, "tanh takes 1 argument, not 0"),
    H + "elu(h, beta=1)": (2, 31, "takes no beta="),
    H + "(h > 0)": (2, 25, "a condition is used as a number"),
    H + "where(h, 1, 0)": (2, 30, "is no condition"),
    H + "split(h, 2)": (2, 24, "[0] for the first one"),
    H + "split(h, 2)[2]": (2, 24, "it has 2 parts"),
    H + "h[0]": (2, 24, "only the parts of split"),
    H + "h(x)": (2, 24, "a symbol, not a function"),
    H + "tanh * h": (2, 24, "a function without its argument"),
    H + "h @ x": (2, 24, "h is a vector, not a matrix"),
    H + "where(h > 0, h)": (2, 1, "say what it is otherwise"),
    H + "split(h, 2)[0]": (2, 24, "which is not 2 times another size"),
    H + "chunk(h, N, P)": (2, 24, 'in the line "sizes:"'),
    H + "outer(h, h)": (2, 24, "expand"),
    H + "sum(outer(h, h))": (2, 24, "axis=H"),
    H + "W": (2, 24, "used without @"),
    H + "expand(h, H-1)": (2, 34, "a size is a name"),
    H + "hе": (2, 25, "CYRILLIC SMALL LETTER IE"),
    H + "h − 1": (2, 26, "write -"),
    H + "σ(h)": (2, 24, "write sigmoid"),
    H + "h\u00a0+ 1": (2, 25, "NO-BREAK SPACE"),
    H + "h\x00": (2, 25, "control character"),
    "name: a\n# \u202eh\nh.next = W @ x": (2, 3, "RIGHT-TO-LEFT OVERRIDE"),
    "name: a\nf(h) = W @ x": (2, 2, "unexpected"),
    "name: a\nh.T = W @ x": (2, 1, "cannot be defined"),
    "name: a\nlambda = W @ x\nh.next = h + lambda": (2, 1, "keyword"),
    "name: a\nint.next = W @ x": (2, 1, "keyword"),
    "name: a\n__init__.next = W @ x": (2, 1, "not an identifier"),
    "name: int\nh.next = W @ x": (1, 7, "keyword"),
    "name: ../../etc\nh.next = W @ x": (1, 7, "not an identifier"),
    "h.next = W @ x": (1, 1, "the cell has no name"),
    "name: a": (1, 7, "there is no equation"),
    "": (1, 1, "there is no equation"),
    "  name: a": (1, 1, "indented"),
    "name: a\nname: b\nh.next = W @ x": (2, 1, "two lines"),
    "nme: a\nh.next = W @ x": (1, 1, 'did you mean "name"?'),
    "size: h (P)\nh.next = W @ x": (1, 1, 'write "sizes:"'),
    "name: a\nsizes: g (P)\nh.next = W @ x": (2, 8, "g is in no equation"),
    "name: a\nsizes: h (P-1)\nh.next = W @ x": (2, 11, "a size is a name"),
    "name: a\nsizes: h P\nh.next = W @ x": (2, 10, "C (H, K)"),
    "name: a\nstarts: U = orthogonl\nh.next = W @ x + U @ h": (2, 9, 'did you mean "orthogonal"?'),
    "name: a\nstarts: U\nh.next = W @ x + U @ h": (2, 9, "U has no value"),
    "name: a\nstarts: h = 1e999\nh.next = W @ x + U @ h": (2, 13, "too large"),
    "name: a\nconstants: c = big\nh.next = W @ x + c * h": (2, 12, "one number"),
    "name: a\noutput: g\nh.next = W @ x": (2, 9, "g is in no equation"),
    "name: a\nfixed: h\nh.next = W @ x + h": (2, 8, "no parameter"),
    "name: a\ninputs: h\nh.next = W @ h": (3, 1, "no equation can define it"),
    'name: a\ntitle: "open\nh.next = W @ x': (2, 8, "one string in quotes"),
    'name: a\ntitle: "\\x"\nh.next = W @ x': (2, 9, "escape"),
    "name: a\nh.next = W @ x + b\ng = h": (3, 1, "nothing reads"),
    "name: a\nsizes: g (P)\ng = W @ x\nh.next = g * h": (4, 10, "g gives size P"),
    "name: a\nsizes: b (P)\ng = W @ x + b\nh.next = g": (3, 1, "add \"g (P)\" to the line"),
}  # fmt: skip


@pytest.mark.parametrize("text", ERRORS, ids=lambda t: repr(t)[-40:])
def test_errors_have_their_place(text):
    line, column, words = ERRORS[text]
    with pytest.raises(NotationError) as caught:
        read_cell(text, "a.cell")
    message = str(caught.value)
    assert words in message
    assert message.startswith(f"a.cell:{line}:{column}: "), message
    if text.strip():
        carets = next(k for k in message.splitlines() if k.strip(" ^") == "")
        shown = text.splitlines()[line - 1]
        assert len(shown) > 90 or carets.index("^") == 2 + column - 1


def test_names_that_are_like_others_are_meant():
    """All but a slip of the keyboard: and that, too, where the header has the name."""
    for other in ("rate", "gates", "gate2", "gate_x", "Gate", "ga", "late"):
        made = read_cell(f"name: a\ngate = W @ x\nh.next = {other} * h + gate")
        assert [v.name for v in made.parameters] == ["W", other]
    for line in ("vectors: gaet", "starts: gaet = 1", "sizes: gaet (H)", "roles: gaet = leak"):
        made = read_cell(f"name: a\n{line}\ngate = W @ x\nh.next = gaet * h + gate")
        assert_survives(made)


def test_a_text_that_reads_like_an_equation_is_quoted():
    notes = "where it is long enough to be broken at the width of a page, as this text is: " * 2
    made = read_cell("name: a\nh.next = W @ x")
    for words in (notes + "h = W x", notes[:-10] + "h.next = W x and more of the same, to the end"):
        assert_survives(Cell("a", made.equations, made.outputs, notes=words))


def test_long_and_wide_lines_are_shown_in_part():
    with pytest.raises(NotationError) as caught:
        read_cell("name: a\nh.next = " + "h + " * 200 + "sigmod(h)")
    _, shown, carets, _ = str(caught.value).splitlines()
    assert len(shown) < 100
    assert shown[carets.index("^") :].startswith("sigmod")


def test_no_python_is_spoken():
    """Hints of the cell about declarations say what to write in a text."""
    for text in ERRORS:
        with pytest.raises(NotationError) as caught:
            read_cell(text)
        assert not re.search(r'Eq\(|size="|shape=|s\("|init=|b\.i', str(caught.value)), text


# --------------------------------------------------------------------------- hostile texts


RUNS = "__import__('os').system('touch {0}')"
HOSTILE = {
    "tower": H + "9**9**9",
    "powers of powers": H + "(((3*x)**1000)**1000)**1000",
    "large power of a multiple": H + "(3*h)**16777216",
    "exponentials": H + "exp(exp(exp(exp(exp(10)))))*h",
    "large": H + "1e999999",
    "power of a composition": H + "9**elu(9000000000)",
    "power of a reduction": H + "9**mean(9000000000)",
    "power of a choice": H + "9**where(1 > 0, 9000000000, 2)",
    "power of what has a name": H + "9**named(9000000000)",
    "whole part of a composition": H + "floor(exp(silu(900000000)))",
    "digits": H + "1" * 100_000,
    "brackets": H + "(" * 100_000,
    "closed brackets": H + "(" * 1000 + "h" + ")" * 1000,
    "calls": H + "tanh(" * 60 + "h" + ")" * 60,
    "minus": H + "-" * 1400 + "h",
    "right": H + "**".join(["h"] * 400),
    "nots": H + "where(" + "not " * 1000 + "h > 0, 1, 0)",
    "products": H + " @ ".join(f"W{k}" for k in range(500)) + " @ h",
    "doubling": H + "gelu(" * 30 + "h" + ")" * 30,
    "maxima": H + "max(" + ",".join(
        "max(" + ",".join(f"b{k}_{j}" for j in range(16)) + ")" for k in range(16)) + ")",
    "sizes": "name: a\nsizes: h (" + "*".join(f"(A{k}+B{k})" for k in range(30)) + ")\nh.next = x",
    "equations": "name: a\n" + "\n".join(f"v{k} = tanh(x)" for k in range(5000)),
    "names": "name: a\n" + "\n".join(
        f"v{k} = " + "*".join(f"b{k}_{j}" for j in range(400)) for k in range(9)),
    "megabytes": "x" * 10_000_000,
    "lines": "x\n" * 490_000,
    "signs": "f = " + "+" * 990_000,
    "call": H + RUNS.format("pwned"),
    "class": H + "().__class__.__bases__[0]",
    "globals": H + "h.func.__globals__",
    "lambda": H + "(lambda: 1)()",
    "walrus": H + "(y := 1)",
    "comprehension": H + "[h for h in (1,)]",
    "string": H + "f'{x}'",
    "index": H + "split(h, P, K)[99999999999]",
    "axis": H + "sum(h, axis=99999999999)",
    "nan": H + "h*(1e308*10 - 1e308*10)",
    "surrogate": H + "\ud800",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_refused_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    with pytest.raises(LstmgenError) as caught:
        read_cell(HOSTILE[name], "hostile.cell")
    assert time.perf_counter() - start < 10
    assert str(caught.value).startswith("hostile.cell:")
    assert len(str(caught.value)) < 1500
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"name: a\nh.next = \xff", "0xff is not UTF-8"),
        (MGU.encode("utf-16"), "UTF-16"),
        (b"\x00" * 100, "control character"),
        (b"#" * (layout.MOST_BYTES + 1), "longer than"),
        (b"\x7fELF" + bytes(range(256)), "not UTF-8"),
    ],
)
def test_files_that_are_no_text(tmp_path, data, words):
    path = tmp_path / "odd.cell"
    path.write_bytes(data)
    with pytest.raises(LstmgenError, match=words):
        lstmgen.load_cell(path)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_ends_of_lines_and_marks_of_order(tmp_path, ends):
    path = tmp_path / "mine.cell"
    path.write_bytes(b"\xef\xbb\xbf" + MGU.replace("\n", ends).encode())
    assert lstmgen.load_cell(path).equations == read_cell(MGU).equations


@pytest.mark.slow
def test_large_texts_are_read_in_bounded_time():
    """As large as they may be."""
    product = H + "*".join(f"b{k}" for k in range(740))
    many = "\n".join(f"v{k} = tanh(W{k} @ v{k - 1} + b{k})" for k in range(1, 499))
    for text in (product, f"name: a\nv0 = tanh(W @ x)\n{many}\nh.next = v498 * h"):
        start = time.perf_counter()
        read_cell(text)
        assert time.perf_counter() - start < 60


PIECES = [
    *"( ) [ ] ** @ .T .next = , # \" ' - + / * 9**9 1e999 0 0.5 2 pi x h D H where( max(".split(),
    *"sum( log( split( axis=0 size( not and < == sizes: starts: fixed: output: а − int ?".split(),
    *"named( concat(h, mod(h, -1) sqrt(h) 1/0 outer(h,h) softmax(h) U_f W_n h.next f n".split(),
    "\n", "\n  ", "\x00", "expand(h, H)",
]  # fmt: skip
SEEDS = [MGU, *(write_cell(lstmgen.cells.get(n)) for n in ("slstm", "delta_net", "lstmp"))]


def test_a_role_with_a_product_in_it_survives():
    long = "what a person wrote who took the role for the place of the equation"
    assert_survives(read_cell(
        f"name: a\noutput: h\nroles: n = {long}, h = {long} = tanh(W @ x)\n"
        "n = tanh(W @ x + U @ h)\nh.next = 0.5 * h + n\n"
    ))  # fmt: skip


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_what_is_nearly_a_cell_is_read_or_refused(seed):
    """Nothing else is raised, and what is read survives."""
    chance = random.Random(seed)
    parts = re.findall(r"\w+|\s+|\*\*|\S", chance.choice(SEEDS))
    for _ in range(chance.choice([1, 1, 2, 4])):
        k = chance.randrange(len(parts))
        piece = chance.choice([chance.choice(PIECES), chance.choice(parts)])
        parts[k : k + chance.randrange(2)] = [piece]
    try:
        cell = read_cell("".join(parts))
    except NotationError:
        return
    assert_survives(cell)
