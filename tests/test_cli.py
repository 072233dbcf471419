"""The command line: what a user sees, types and gets back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sympy
from click.testing import CliRunner
from conftest import need

from lstmgen import __version__, cells
from lstmgen.cli import main

MINE = """\
from sympy import Eq
from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h = states("h")
z = vectors("z")
W, U, b = weights("W"), weights("U"), biases("b")
cell = Cell(
    "mine",
    [Eq(z, sigmoid(W.z @ x + U.z @ h + b.z)), Eq(h.next, z * h + (1 - z) * tanh(W.h @ x))],
    output=h,
)
"""


NETWORK = """\
from lstmgen import Dropout, Embedding, Layer, Network, Readout

network = Network(
    [
        Embedding(9, 4), Layer("lstm", 6, bidirectional=True), Dropout(0.2),
        Layer("gru", 5, last=True), Readout(3),
    ],
    name="mine_network", title="three labels for sequences", loss="cross_entropy", clip_norm=1.0,
)
"""


@pytest.fixture
def run():
    def call(*arguments, code=0):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        return result.output

    return call


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.py"
    path.write_text(NETWORK)
    return path


def test_help_names_every_command(run):
    text = run("--help")
    for command in ("cells", "show", "plan", "codegen", "latex", "check", "completion"):
        assert command in text
        assert "Usage" in run(command, "--help")
    assert __version__ in run("--version")


def test_help_imports_neither_sympy_nor_numpy():
    script = (
        "import sys; from lstmgen.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(m for m in ('sympy', 'numpy', 'jinja2') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("[]")


def test_cells_show_plan_latex(run):
    listed = run("cells")
    for name in ("lstm", "gru_reset_before", "lstm_layernorm"):
        assert name in listed
        assert "σ(" in run("show", name)
        assert "flop" in run("plan", name)
        assert r"\odot" in run("latex", name)
    assert r"\begin{document}" in run("latex", "lstm", "--document")


def test_cells_by_family_and_by_words(run):
    listed = run("cells")
    assert re.search(r"^lstms: .*\n  cifg ", listed, re.MULTILINE)
    assert len(re.findall(r"^  \w", listed, re.MULTILINE)) == len(cells.names())
    assert re.findall(r"^  (\w+)", run("cells", "reset", "AFTER the"), re.MULTILINE) == ["gru"]
    assert run("cells", "--family", "grus").startswith("grus: ")
    (told,) = json.loads(
        run("cells", "--family", "lstms", "forget gate", "gers2000learning", "--json")
    )
    assert told["name"] == "lstm"
    assert told["family"] == "lstms"
    assert told["gates"] == 4
    assert told["parameters"]["W_i"] == ["H", "D"]
    assert told["states"] == {"h": ["H"], "c": ["H"]}
    assert "no cell has lstm and elephant" in run("cells", "lstm", "elephant", code=1)
    assert 'did you mean "lstms"?' in run("cells", "--family", "lstm", code=1)


def test_show_of_a_network(run, network):
    text = run("show", network)
    assert text.startswith("mine_network: three labels for sequences\n")
    for row in (
        r"x +symbols from 0 to 8 +\(T, B\)",
        r"embedding +row x of 9 +\(T, B, 4\) +36",
        r"lstm1_backward +lstm of embedding, from the last step to the first +\(T, B, 6\) +264",
        r"dropout1 +dropout of lstm1, 0.2 dropped at each step +\(T, B, 12\)",
        r"gru1 +gru of dropout1 +\(T, B, 5\) +275",
        r"readout +readout of gru1_last +\(B, 3\) +18",
        r"in all +857",
        r"loss +cross_entropy",
        r"optimizer +adam, beta1 0.9, beta2 0.999, eps 1e-08",
        r"rate +0.001",
        r"clip_norm +1",
    ):
        assert re.search(f"^{row}$", text, re.MULTILINE), row
    assert text.count("input gate") == 1, "each cell once, of both directions too"
    for cell in ("lstm: ", "gru: ", "dropout: ", "readout: ", "cross_entropy: ", "adam: "):
        assert f"\n\n\n{cell}" in text
    assert "lstm1_forward" in run("plan", network)
    assert "⌈T/k⌉" in run("plan", network, "--dtype", "float32", "--target", "numpy")


def test_codegen_of_a_network(run, tmp_path, network):
    text = run("codegen", network, "--target", "numpy", "--out", tmp_path / "build")
    made = ("mine_network", "lstm", "gru", "dropout", "readout", "cross_entropy", "adam")
    for name in made:
        assert re.search(rf"{name}\.py +\d+ lines", text)
    assert sorted(p.stem for p in (tmp_path / "build").iterdir()) == sorted(made)
    main_file = (tmp_path / "build" / "mine_network.py").read_text(encoding="utf-8")
    assert "lstmgen codegen network.py --target numpy" in main_file
    text = run("codegen", network, "--target", "c", "--out", tmp_path / "c", "--dtype", "float32")
    assert "mine_network.h" in text and "lstmgen_runtime.h" in text


def test_the_code_of_a_network_needs_numpy_only(run, tmp_path, network):
    """A folder of its own, and a Python that does not find lstmgen."""
    run("codegen", network, "--target", "numpy", "--out", tmp_path / "build")
    script = (
        "import sys; sys.modules['lstmgen'] = sys.modules['sympy'] = None\n"
        "import numpy as np, mine_network as m\n"
        "params = m.init(seed=0); moments = m.start(params); x = np.arange(12).reshape(4, 3) % 9\n"
        "losses = [m.train(params, moments, x, np.arange(3))[0] for _ in range(200)]\n"
        "y, _, _ = m.forward(m.pack(params), x, tape=False)\n"
        "print(losses[-1] < losses[0] / 2, y.argmax(-1).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "build", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout == "True [0, 1, 2]\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["latex"], "there is LaTeX of cells only", "which are lstm, dropout, gru, readout"),
        (["bench"], "there are timings of cells only", "by name or in a file of its own"),
        (["codegen", "--target", "latex"], "the target latex has no networks", "one after the"),
        (["codegen", "--target", "c", "--size", "H=3"], "no option 'H' for networks", "it takes"),
        (["codegen", "--target", "numpy", "--tape", "float16"], "no option 'tape'", "it takes"),
    ],
)
def test_what_networks_do_not_have(run, network, tmp_path, arguments, said, hint):
    more = ["--out", tmp_path / "build"] if arguments[0] == "codegen" else []
    text = run(arguments[0], network, *arguments[1:], *more, code=1)
    assert "error:" in text and said in text and hint in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NETWORK.replace("network =", "mine ="), "rename that to network"),
        (NETWORK.replace('"gru"', '"gruu"'), 'did you mean "gru"'),
        (NETWORK.replace("Embedding(9, 4), ", "").replace("[", "[Readout(2), Embedding(9, 4),"),
         "layer 2: an embedding comes first"),
    ],
)  # fmt: skip
def test_broken_network_files(run, tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    shown = run("show", path, code=1)
    assert "broken.py" in shown and said in shown and "Traceback" not in shown


def test_codegen_writes_what_generate_gives(run, tmp_path, mine):
    out = tmp_path / "build"
    text = run(
        "codegen", mine, "--target", "c", "--out", out, "--dtype", "float32", "--size", "H=8"
    )
    assert "mine.h" in text and "lines" in text
    header = (out / "mine.h").read_text()
    assert "lstmgen codegen mine.py --target c --dtype float32 --size H=8" in header
    assert "typedef float" in header
    assert (out / "lstmgen_runtime.h").is_file()
    run("codegen", mine, "--target", "numpy", "--out", out)
    run("codegen", mine, "--target", "latex", "--out", out)
    assert (out / "mine.py").is_file()


def test_codegen_makes_a_single_file_of_c(run, tmp_path, mine):
    run("codegen", mine, "--target", "c", "--out", tmp_path / "one", "--single-file")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["mine.c", "mine.h"]
    assert "--single-file" in (tmp_path / "one" / "mine.c").read_text(encoding="utf-8")
    text = run("codegen", mine, "--target", "numpy", "--single-file", code=1)
    assert "no option 'single_file'" in text and 'the target "c" has it' in text


def test_an_edited_file_is_kept(run, tmp_path, mine):
    run("codegen", mine, "--target", "numpy", "--out", tmp_path / "b")
    target = tmp_path / "b" / "mine.py"
    first = target.read_text()
    run("codegen", mine, "--target", "numpy", "--out", tmp_path / "b")  # unchanged: fine
    mine.write_text(MINE.replace("tanh", "sigmoid"))
    run("codegen", mine, "--target", "numpy", "--out", tmp_path / "b")  # not edited: replaced
    assert target.read_text() != first
    edited = target.read_text() + "\n# mine\n"
    target.write_text(edited)
    text = run("codegen", mine, "--target", "numpy", "--out", tmp_path / "b", code=1)
    assert "was edited" in text and "--force" in text
    assert target.read_text() == edited
    run("codegen", mine, "--target", "numpy", "--out", tmp_path / "b", "--force")
    assert "# mine" not in target.read_text()
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["mine.py"], "no temporary file is left"


def test_the_cell_file_itself_is_not_overwritten(run, mine):
    text = run("codegen", mine, "--target", "numpy", "--out", mine.parent, code=1)
    assert "not generated by lstmgen" in text
    assert mine.read_text() == MINE


# At the end of a cell's file: all that lstmgen compiles from here on is wrong in one gradient.
WRONG = """
from lstmgen.runtime import toolchain

def spoiled(*args, real=toolchain.compile, **options):
    module = real(*args, **options)

    class Wrong:
        forward, step = module.forward, module.step

        def backward(*args):
            grads, dx, first = module.backward(*args)
            return {**grads, "U_z": grads["U_z"] * 1.001}, dx, first

    return Wrong

toolchain.compile = spoiled
"""


def test_check_passes_and_fails(run, mine):
    assert "gradients agree" in run("check", mine)
    mine.write_text(MINE + WRONG)
    text = run("check", mine, code=1)
    assert "DISAGREE" in text and "∂L/∂U_z" in text


def test_check_has_seeds(run, mine):
    """Another seed first, and as many as are asked for."""
    one = run("check", mine, "--seeds", "1", "--seed", "3")
    assert one != run("check", mine, "--seeds", "1", "--seed", "4")
    assert "out of range" not in one
    assert "0 is not in the range" in run("check", mine, "--seeds", "0", code=2)


CRASH = """
from lstmgen.runtime import native

def crash(*args, **options):
    import ctypes
    ctypes.string_at(0)

native.NativeModule.{method} = crash
"""
FOR_EVER = """
from lstmgen.runtime import native

def run_for_ever(*args, **options):
    while True: pass

native.NativeModule.step = run_for_ever
"""
ENDS = [
    ("raise SystemExit(0)", [], "line 1: SystemExit: 0: the file exits"),
    ("import sys\nsys.exit()", [], "line 2: SystemExit: the file exits"),
    ("raise KeyboardInterrupt", [], "line 1: KeyboardInterrupt"),
    ("class Mine(BaseException): pass\nraise Mine('own')", [], "line 2: Mine: own"),
    ("import os\nos._exit(0)", [], "exited with status 0 while its file was run"),
    ("import os\nos._exit(7)", [], "exited with status 7 while its file was run"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", [], "ended by SIGTERM"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", [], "SIGKILL"),
    ("import ctypes\nctypes.string_at(0)", [], "ended by SIGSEGV while its file was run"),
    ("while True: pass", ["--timeout", "5"], "no verdict after 5 s, while its file was run"),
    ("import time\ntime.sleep(99)", ["--timeout", "5"], "no verdict after 5 s"),
    ("import os\nos.closerange(3, 64)\n" + MINE, [], "there is no verdict"),
    (MINE + "\nimport atexit, os\natexit.register(os._exit, 3)", [], "status 3 after its code"),
    (MINE + "\nimport atexit, os\natexit.register(os.abort)", [], "SIGABRT after its code"),
    (MINE + CRASH.format(method="forward"), ["--target", "c"], "compiled code crashed: SIGSEGV"),
    (MINE + CRASH.format(method="backward"), ["--target", "c"], "compiled code crashed: SIGSEGV"),
    (MINE + FOR_EVER, ["--target", "c", "--timeout", "8"],
     "no verdict after 8 s, while its code was run"),
]  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="signals are told by name where there are any")
@pytest.mark.parametrize(("text", "options", "said"), ENDS)
def test_any_end_but_a_verdict_is_a_failure(run, tmp_path, text, options, said):
    if "c" in options:
        need("cffi")
    path = tmp_path / "ends.py"
    path.write_text(text)
    shown = run("check", path, *options, code=1)
    assert said in shown and "error:" in shown and "ends.py" in shown
    assert "Traceback" not in shown and "agree" not in shown


@pytest.mark.parametrize("text", [text for text, _, said in ENDS if "line " in said])
@pytest.mark.parametrize(
    "command",
    [["show"], ["plan"], ["latex"], ["codegen", "--target", "numpy"], ["bench", "--rounds", "1"]],
)
def test_a_file_that_exits_is_an_error_everywhere(run, tmp_path, text, command):
    path = tmp_path / "ends.py"
    path.write_text(text)
    shown = run(command[0], path, *command[1:], code=1)
    assert "error:" in shown and "ends.py: line " in shown


def test_what_a_file_prints_is_no_part_of_the_report(mine):
    mine.write_text("import os\nprint('{}')\nos.system('echo []')\n" + MINE)
    done = subprocess.run(
        [sys.executable, "-m", "lstmgen", "check", mine], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("mine · NumPy") and "[]" not in done.stdout
    assert done.stderr == "{}\n[]\n" or done.stderr == "[]\n{}\n"


def test_a_file_beside_is_not_imported_for_a_library(mine):
    (mine.parent / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    program = Path(sys.executable).parent / "lstmgen"
    done = subprocess.run(
        [program, "check", mine.name], cwd=mine.parent, capture_output=True, text=True, check=False
    )
    assert "gradients agree" in done.stdout, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_nothing_outlives_who_asked(tmp_path):
    """Killed, lstmgen leaves no process behind that runs a file for ever."""
    path = tmp_path / "ends.py"
    pid = tmp_path / "pid"
    path.write_text(
        f"import os, pathlib\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "while True: pass"
    )
    asking = subprocess.Popen([sys.executable, "-m", "lstmgen", "check", path])
    deadline = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < deadline and asking.poll() is None
        time.sleep(0.05)
    asking.kill()
    asking.wait()
    while time.monotonic() < deadline:
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it still runs")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CC": "false"}, "the C compiler refused the code"),
        ({"CC": "no-such-compiler"}, "there is no such program"),
        ({"CFLAGS": "-fno-such-flag"}, "the C compiler refused the code"),
        ({"CFLAGS": "'"}, "a shell could not read"),
        ({"LSTMGEN_CACHE": "/dev/null/cache"}, "cannot be written"),
    ],
)
def test_check_of_builds_that_fail(run, mine, monkeypatch, variables, said):
    need("cffi")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown = run("check", mine, "--target", "c", code=1)
    assert "error:" in shown and said in shown and "Traceback" not in shown


# Compiled into the code, with -finstrument-functions: the first function that is called crashes.
CRASHING = """
#include <stdlib.h>
#define QUIET __attribute__((no_instrument_function, weak))
QUIET void __cyg_profile_func_enter(void *function, void *caller);
QUIET void __cyg_profile_func_exit(void *function, void *caller);
QUIET void __cyg_profile_func_enter(void *function, void *caller) { abort(); }
QUIET void __cyg_profile_func_exit(void *function, void *caller) { abort(); }
"""


def test_check_from_python_survives_crashes(mine, monkeypatch, tmp_path):
    """C that crashes is an error of Python's, and the caller lives to see it."""
    need("cffi")
    import lstmgen

    monkeypatch.setenv("LSTMGEN_CACHE", str(tmp_path / "cache"))
    cell = lstmgen.load_cell(mine)
    told = []
    assert lstmgen.check(cell, "c", progress=lambda *a: told.append(a), H=8).title.endswith("H=8")
    assert [what for _, _, what in told[:3]] == ["compiling", "checking", "forward"]
    with pytest.raises(lstmgen.LstmgenError, match="no verdict after"):
        lstmgen.check(cell, "c", timeout=0.01)
    monkeypatch.setenv("CFLAGS", "-fno-such-flag")
    with pytest.raises(lstmgen.ToolchainError, match="refused the code"):
        lstmgen.check(cell, "c")
    header = tmp_path / "crash.h"
    header.write_text(CRASHING)
    monkeypatch.setenv("CFLAGS", f"-finstrument-functions -Wl,-Bsymbolic -include {header}")
    with pytest.raises(lstmgen.LstmgenError, match="mine: the compiled code crashed: SIGABRT"):
        lstmgen.check(cell, "c")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "lst"], 'did you mean "lstm"'),
        (["show", "nowhere.py"], "no such file"),
        (["codegen", "lstm", "--target", "c", "--size", "Q=3"], "no option 'Q'"),
        (["codegen", "lstm", "--target", "numpy", "--size", "H=3"], "no option 'H'"),
    ],
)
def test_mistakes_are_explained(run, arguments, said):
    text = run(*arguments, code=1)
    assert "error:" in text and said in text and "Traceback" not in text


def test_usage_errors(run):
    assert "numpy" in run("codegen", "lstm", "--target", "fortran", code=2)
    assert "write it as H=32" in run("codegen", "lstm", "--target", "c", "--size", "H", code=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cell = 3", "defines no cell"),
        ("nothing = (", "SyntaxError"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        (MINE.replace("cell =", "mine ="), "rename that to cell"),
        (MINE.replace("U.z @ h", "U.z * h"), "U_z is used without @"),
        (MINE.replace("Eq(z, ", "Eq(zz, "), "NameError"),
    ],
)
def test_broken_cell_files(run, tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    shown = run("show", path, code=1)
    assert "broken.py" in shown and said in shown and "Traceback" not in shown


def test_an_unwritable_folder(run, tmp_path, mine):
    (tmp_path / "file").write_text("")
    text = run("codegen", mine, "--target", "c", "--out", tmp_path / "file" / "x", code=1)
    assert "error:" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell):
    assert "_LSTMGEN_COMPLETE" in run("completion", shell)


def test_completion_knows_the_cells():
    environment = {
        **os.environ,
        "_LSTMGEN_COMPLETE": "bash_complete",
        "COMP_WORDS": "lstmgen show lstm_",
        "COMP_CWORD": "2",
    }
    program = Path(sys.executable).parent / "lstmgen"
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert "lstm_peephole" in done.stdout


def on_a_terminal(command, **environment):
    """What a program writes to a terminal: escape sequences, if it thinks that it may."""
    pty = pytest.importorskip("pty")  # there are none on Windows
    ours, theirs = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", **environment},
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while part := os.read(ours, 4096):
                written += part
        process.wait()
    os.close(ours)
    return written.decode()


LSTMGEN = Path(sys.executable).parent / "lstmgen"
FORECAST = Path(__file__).resolve().parents[1] / "examples" / "forecast.py"
DRAWS = {
    "an error": [LSTMGEN, "show", "lst"],
    "a bar": [LSTMGEN, "check", "rnn"],
    "an example": [sys.executable, FORECAST, "--target", "numpy", "--epochs", "2", "--no-plot"],
}


@pytest.mark.parametrize("what", DRAWS)
@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"]
)
def test_plain_terminals_get_text_alone(tmp_path, what, environment):
    if what == "an example":
        need("statsmodels")
    command = [*DRAWS[what], *(["--out", tmp_path] if what == "an example" else [])]
    written = on_a_terminal(command, **environment)
    assert "\x1b" not in written, written
    assert "\r" not in written.replace("\r\n", "\n"), "a line was drawn again in place"
    assert "#" not in written, "the bar, in pieces"
    # and this is not a test of a pipe: with an empty NO_COLOR, as without one, there is more
    assert "\x1b" in on_a_terminal(command, NO_COLOR="")


def test_help_is_quick():
    """Not a bound on this machine, but on what is done: as fast as importing click alone."""
    program = Path(sys.executable).parent / "lstmgen"

    def median(command):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    ours = median([program, "--help"])
    click_alone = median([sys.executable, "-c", "import click"])
    assert ours < 3 * click_alone


def test_hostile_titles_end_no_comment(tmp_path):
    import lstmgen

    x, h, W = lstmgen.inputs("x"), lstmgen.states("h"), lstmgen.weights("W")
    title = '*/ int x; """\nimport os  # \\N{nothing} \\'
    cell = lstmgen.Cell(
        "mine",
        [sympy.Eq(h.next, lstmgen.tanh(W.a @ x + W.b @ h))],
        output=h,
        title=title,
        source=title,
    )
    files = lstmgen.generate(cell, "numpy", source=title) | lstmgen.generate(
        cell, "c", source=title
    )
    compile(files["mine.py"], "mine.py", "exec")
    assert "import os" not in files["mine.py"].splitlines()
    for name in ("mine.c", "mine.h"):
        first = files[name].split("*/", 1)[0]
        assert "Checksum" in first, "the header's comment ends where we end it"
    assert lstmgen.check(cell, "c").passed
