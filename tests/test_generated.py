"""The committed code is what lstmgen emits now, byte for byte, whatever the hash seed."""

from __future__ import annotations

import difflib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from regenerate import HOME, expected

import lstmgen
from lstmgen.targets import NAMES
from lstmgen.targets.c import runtime
from lstmgen.targets.sealing import is_untouched


def test_committed_files_are_current():
    files = expected()
    there = {str(p.relative_to(HOME)) for p in HOME.rglob("*") if p.is_file()}
    assert there == set(files), "files missing or left over; run: make generated"
    for name, text in files.items():
        old = (HOME / name).read_text(encoding="utf-8")
        diff = difflib.unified_diff(
            old.splitlines(),
            text.splitlines(),
            f"generated/{name}",
            "emitted now",
            lineterm="",
            n=1,
        )
        assert old == text, "run: make generated\n" + "\n".join(list(diff)[:40])


def test_output_does_not_depend_on_the_hash_seed():
    script = (
        "import sys; sys.path.insert(0, 'tests'); from regenerate import expected; import hashlib;"
        "print(hashlib.sha256(repr(sorted(expected().items())).encode()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[1]
    seen = {hashlib.sha256(repr(sorted(expected().items())).encode()).hexdigest()}
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout.strip())
    assert len(seen) == 1


@pytest.mark.parametrize("target", NAMES)
def test_every_file_says_what_it_is(target):
    for name in lstmgen.cells.names():
        for file, text in lstmgen.generate(lstmgen.cells.get(name), target).items():
            assert f"lstmgen {lstmgen.__version__}" in text, file
            made_for = "CELL" if file == runtime.FILE else name
            assert f"lstmgen codegen {made_for} --target {target}" in text, file
            assert "no licence attaches" in text, file
            assert is_untouched(text), file
            assert "\r" not in text and text.endswith("\n"), file
            assert max(map(len, text.splitlines())) <= 110, file


def test_generated_numpy_modules_need_only_numpy():
    allowed = {"import numpy as np", "import math"}
    for name in lstmgen.cells.names():
        for text in lstmgen.generate(lstmgen.cells.get(name), "numpy").values():
            imports = {t.strip() for t in text.splitlines() if t.startswith(("import", "from"))}
            assert imports <= allowed
