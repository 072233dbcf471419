"""The committed code is what lstmgen emits now, byte for byte, whatever the hash seed."""

from __future__ import annotations

import ast
import difflib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reference
from regenerate import HOME, WITH_NETWORKS, expected

import lstmgen
from lstmgen import AdamW, Dropout, Embedding, Layer, Network, Readout, schedules
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
    for name in reference.NAMES:
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
    for name in reference.NAMES:
        for text in lstmgen.generate(lstmgen.cells.get(name), "numpy").values():
            imports = {t.strip() for t in text.splitlines() if t.startswith(("import", "from"))}
            assert imports <= allowed


NETWORKS = [
    Network([Layer("lstm", 4, bidirectional=True), Readout(2)], loss="cross_entropy"),
    Network(
        [
            Embedding(9, 4),
            Layer("lstm", 4, bidirectional=True, zoneout=0.1, recurrent_dropout=0.2),
            Dropout(0.1),
            Layer("gru", 8, skip="highway", bidirectional="sum", learn_state=True),
            Layer("lstm_layernorm", 8, skip="residual", name="a_layer_with_quite_a_long_name"),
            Layer("mlstm", N=2, K=3, P=2, last=True, bidirectional=True),
            Readout(3),
        ],
        name="many",
        title='*/ """ \\N{nothing}',
        loss="huber",
        optimizer=AdamW(),
        rate=schedules.cosine(1e-2, 1000, warmup=100),
        clip_norm=1.0,
        clip_value=0.5,
    ),
    Network([Layer("gru", 4)], loss="mean_squared", rate=schedules.steps(0.1, 0.5, 7)),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
@pytest.mark.parametrize("target", WITH_NETWORKS)
def test_networks_say_what_they_are(network, target):
    """What is made for the network itself; the rest is held above."""
    mine = {
        name: text
        for name, text in lstmgen.generate(network, target, source="mine.py").items()
        if name.startswith(f"{network.name}.")
    }
    assert mine
    for file, text in mine.items():
        assert f"lstmgen {lstmgen.__version__}" in text, file
        assert f"lstmgen codegen mine.py --target {target}" in text, file
        assert "no licence attaches" in text, file
        assert is_untouched(text), file
        assert "\r" not in text and text.endswith("\n"), file
        assert max(map(len, text.splitlines())) <= 100, file


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_networks_in_numpy_are_clean_and_need_only_numpy(network, tmp_path):
    files = lstmgen.generate(network, "numpy")
    cells = {name.removesuffix(".py") for name in files}
    text = files[f"{network.name}.py"]
    imports = {
        a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names
    }
    assert imports <= {"numpy", "math", "functools"} | cells
    (tmp_path / "network.py").write_text(text, encoding="utf-8")
    rules = ["--isolated", "--line-length=100", "--select=E,F,W,B,C4,SIM,UP", "--ignore=B905"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *rules, tmp_path], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
