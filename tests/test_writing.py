"""Files that lstmgen writes: sealed, all or none, never over an edit, and under harmless names."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need
from hypothesis import example, given
from hypothesis import strategies as st
from sympy import Eq

import lstmgen
from lstmgen import Cell, LstmgenError, inputs, states, tanh, weights
from lstmgen.runtime.writing import write_files
from lstmgen.targets import NAMES
from lstmgen.targets.c import runtime
from lstmgen.targets.modules import MODULES
from lstmgen.targets.sealing import PLACEHOLDER, is_untouched, seal

x, h = inputs("x"), states("h")
W, U = weights("W"), weights("U")


def cell(name: str = "tiny", factor: float = 1.0, **about: str) -> Cell:
    return Cell(name, [Eq(h.next, tanh(factor * (W.h @ x) + U.h @ h))], output=h, **about)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir()}


# --------------------------------------------------------------------------- checksums

SAYS_CHECKSUM = [
    "Checksum of a cell", "@checksum@", "Checksum 000000000000: ", "\0checksum\0", "\0generation\0",
    "Checksum 000000000000: while it fits, lstmgen may replace the file without --force.",
    "a " * 50 + "Checksum 0123456789ab: while it fits, lstmgen may replace the file",
    "Checksum", "*/ Checksum abcdefabcdef: ", "Checksum @checksum@: ",
    "TINY_GENERATION_000000000000",
]  # fmt: skip


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("title", SAYS_CHECKSUM)
def test_a_title_may_look_like_a_checksum(target, title):
    for about in ({"title": title}, {"source": title}, {"title": title, "source": title}):
        for name, text in lstmgen.generate(cell(**about), target).items():
            assert is_untouched(text), name
            assert "\0" not in text
            assert not is_untouched(text + " ")
            assert not is_untouched(text.replace("no licence", "a licence", 1))
    for name, text in lstmgen.generate(cell(), target, source=title).items():
        assert is_untouched(text), name
    named = cell("Checksum", title=title)
    assert all(map(is_untouched, lstmgen.generate(named, target).values()))


@given(
    st.text(max_size=40), st.text(max_size=40),
    st.sampled_from(["@checksum@", "Checksum 0123456789ab: ", "\0checksum\0", ""]),
)  # fmt: skip
@example("Checksum ", ": ", "@checksum@")
def test_what_is_sealed_is_untouched_until_it_is_edited(before, after, lure):
    """Wherever there is something that looks like a checksum."""
    for user in (before, before + lure, lure + after):
        user = user.replace("\0", "")  # what users write is printable once it is in a file
        text = f"{user}\n# Checksum {PLACEHOLDER}: while it fits\n{user}{after}\n"
        sealed = seal(text)
        assert is_untouched(sealed)
        position = len(user) // 2
        assert not is_untouched(sealed[:position] + "+" + sealed[position:])
        assert not is_untouched(sealed + "\n")


def test_files_of_before_are_known():
    """The checksum is counted as it was by the first version, whose files are still about."""
    blank = "# Checksum @checksum@: while it fits\n1\n"
    old = blank.replace("@checksum@", hashlib.sha256(blank.encode()).hexdigest()[:12])
    assert is_untouched(old)
    assert seal(blank.replace("@checksum@", PLACEHOLDER)) == old


# --------------------------------------------------------------------------- all or none


def test_an_edit_is_kept_and_so_is_what_lies_beside_it(tmp_path):
    old = lstmgen.generate(cell(), "c")
    new = lstmgen.generate(cell(factor=2.0), "c")
    for edited in old:
        folder = tmp_path / edited
        write_files(old, folder)
        path = folder / edited
        path.write_text(path.read_text(encoding="utf-8") + "/* mine */\n", encoding="utf-8")
        before = contents(folder)
        with pytest.raises(LstmgenError, match="was edited since it was generated"):
            write_files(new, folder)
        assert contents(folder) == before
        write_files(new, folder, force=True)
        assert contents(folder) == new
        write_files(old, folder)
        assert contents(folder) == old


FULL = """
import resource, sys
from pathlib import Path
import lstmgen
sys.path.insert(0, "tests")
from test_writing import cell
from lstmgen.runtime.writing import write_files

folder, files = Path(sys.argv[1]), lstmgen.generate(cell(factor=2.0), "c")
header, source, _ = (len(text.encode()) for text in files.values())
assert header < source - 1000
resource.setrlimit(resource.RLIMIT_FSIZE, (header + 500, header + 500))  # as a disk that is full
try:
    write_files(files, folder)
except lstmgen.LstmgenError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_disk_that_is_full_after_the_first_file(tmp_path):
    old = lstmgen.generate(cell(), "c")
    write_files(old, tmp_path)
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)}, check=True, timeout=120,
    )  # fmt: skip
    assert "File too large" in done.stdout and str(tmp_path) in done.stdout
    assert contents(tmp_path) == old, "no new file, and nothing is left beside"


def test_a_crash_between_two_files_is_seen_by_the_compiler(tmp_path, monkeypatch):
    need("gcc")
    old, new = lstmgen.generate(cell(), "c"), lstmgen.generate(cell(factor=2.0), "c")
    write_files(old, tmp_path)
    moved = os.replace
    calls: list[object] = []

    def fails(*paths: object) -> None:
        calls.append(paths)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        moved(*paths)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(LstmgenError, match="Input/output error"):
        write_files(new, tmp_path)
    monkeypatch.undo()
    mixed = contents(tmp_path)
    assert mixed.keys() == old.keys() and mixed != old and mixed != new
    assert all(map(is_untouched, mixed.values()))
    command = ["gcc", "-std=c99", "-fsyntax-only", "tiny.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "tiny: header, source and runtime are of several generations" in done.stderr
    write_files(new, tmp_path)  # which needs no --force
    assert contents(tmp_path) == new
    subprocess.run(command, cwd=tmp_path, check=True)


def test_two_cells_share_a_runtime(tmp_path):
    """What is as it was generated is written over, by another version too; edits are not."""
    write_files(lstmgen.generate(cell(), "c"), tmp_path)
    write_files(lstmgen.generate(cell("other"), "c", dtype="float32"), tmp_path)
    assert sorted(contents(tmp_path)) == [
        runtime.FILE, "other.c", "other.h", "tiny.c", "tiny.h",
    ]  # fmt: skip
    shared = tmp_path / runtime.FILE
    text = shared.read_text(encoding="utf-8")
    shared.write_text(seal(runtime.text().replace("size_times", "size_multiplied")), "utf-8")
    write_files(lstmgen.generate(cell("third"), "c"), tmp_path)
    assert shared.read_text(encoding="utf-8") == text
    shared.write_text(text.replace("size_times", "size_product"), encoding="utf-8")
    with pytest.raises(LstmgenError, match=r"lstmgen_runtime\.h was edited"):
        write_files(lstmgen.generate(cell("fourth"), "c"), tmp_path)
    assert not (tmp_path / "fourth.c").exists()


def test_generations_follow_from_the_text():
    """The same bytes for the same cell; another one where the code of either differs."""

    def generation(made: dict[str, str]) -> str:
        mine = {k: t for k, t in made.items() if k != runtime.FILE}
        found = {k: set(re.findall(r"TINY_GENERATION_(\w+)", t)) for k, t in mine.items()}
        ((one,), (other,)) = found.values()
        assert one == other
        return one

    variants = [
        lstmgen.generate(cell(), "c"), lstmgen.generate(cell(), "c", dtype="float32"),
        lstmgen.generate(cell(factor=2.0), "c"), lstmgen.generate(cell(), "c", H=4),
    ]  # fmt: skip
    assert len(set(map(generation, variants))) == len(variants)
    assert lstmgen.generate(cell(), "c") == variants[0]
    other = lstmgen.generate(cell(title="of another title"), "c")  # which is in comments alone
    assert generation(other) == generation(variants[0])


def test_a_folder_in_the_way(tmp_path):
    files = lstmgen.generate(cell(), "c")
    (tmp_path / "tiny.c").mkdir()
    for force in (False, True):
        with pytest.raises(LstmgenError, match=r"tiny\.c is a folder"):
            write_files(files, tmp_path, force=force)
        assert [p.name for p in tmp_path.iterdir()] == ["tiny.c"]


# --------------------------------------------------------------------------- names of files


def test_the_names_of_the_library_are_known():
    """Of this Python; they are written down, so that names of files depend on no version."""
    here = {n for n in sys.stdlib_module_names if not n.startswith("_")}
    assert here <= MODULES, f"add to lstmgen/targets/modules.py: {sorted(here - MODULES)}"


def test_no_generated_module_shadows_the_library(tmp_path):
    names = ["numpy", "math", "time", "random", "types", "lstmgen", "copy", "tomllib", "imp"]
    for name in names:
        files = lstmgen.generate(cell(name), "numpy")
        assert list(files) == [f"{name}_cell.py"]
        write_files(files, tmp_path)
    script = (
        "import numpy, math, time, random, copy\n"
        "import numpy_cell, math_cell, time_cell\n"
        "params = math_cell.init(2, 3)\n"
        "y, _, tape = math_cell.forward(params, numpy.ones((4, 1, 2), numpy.float32))\n"
        "math_cell.backward(params, tape, y)\n"
        "assert math_cell.CELL == 'math' and numpy_cell.CELL == 'numpy'\n"
    )
    (tmp_path / "script.py").write_text(script)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=60)
    assert list(lstmgen.generate(cell("maths"), "numpy")) == ["maths.py"]
    module = lstmgen.compile(cell("math"))
    assert module.CELL == "math" and module.init(2, 3)["U_h"].shape == (3, 3)
