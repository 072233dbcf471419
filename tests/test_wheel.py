"""A wheel works where it is installed: templates inside, nothing of the checkout needed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command, **options):
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    # the sdist first and the wheel from it, as a release is made
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory):
    """`lstmgen` in a virtual environment that has the wheel, and its dependencies from here."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, with_pip=False)
    run(sys.executable, "-m", "pip", "--python", home, "install", "--no-deps", "-q", wheel)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin" / "lstmgen"


def test_the_wheel_holds_the_templates(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for template in (p for p in (ROOT / "templates").rglob("*") if p.is_file()):
        assert f"lstmgen/templates/{template.relative_to(ROOT / 'templates')}" in names
    assert "lstmgen/py.typed" in names
    assert "lstmgen/notation/grammar.lark" in names
    assert not any(n.startswith(("tests/", "examples/", "generated/")) for n in names)


@pytest.mark.parametrize("target", ["numpy", "c", "latex"])
def test_codegen_from_the_wheel(program, tmp_path, target):
    run(program, "codegen", "lstm", "--target", target, "--out", "out", cwd=tmp_path)
    for made in (tmp_path / "out").iterdir():
        kept = ROOT / "generated" / target / made.name
        assert made.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8")


def test_the_wheel_is_what_runs(program, tmp_path):
    python = program.parent / "python"
    where = run(python, "-c", "import lstmgen; print(lstmgen.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(program.parents[1])
    assert "gradients agree" in run(program, "check", "rnn", cwd=tmp_path)
