"""The C program among the examples: built, killed and started again, without Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import need
from driver import run
from regenerate import PROGRAM, of_program

STRICT = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror"
SOURCES = ["main.c", "state.c", "generated/forecast.c", "-o", "forecast", "-lm"]


def laid_down(folder: Path) -> Path:
    """What a user has: the files of the example as they are committed."""
    names = ["Makefile", "main.c", "state.c", "state.h", "sunspots.h"]
    names += [f"generated/{name}" for name in of_program()]
    (folder / "generated").mkdir()
    for name in names:
        shutil.copy(PROGRAM / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The folder of the program, built by its Makefile."""
    need("make")
    need("cc")
    folder = laid_down(tmp_path_factory.mktemp("program"))
    run(folder, "make", f"CFLAGS=-O1 {STRICT}")
    return folder


def trained(folder: Path, name: str, seed: int = 3, status: int = 0) -> str:
    """A run that nothing interrupts."""
    done = subprocess.run(
        ["./forecast", name, str(seed)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_its_generated_files_are_current():
    for name, text in of_program().items():
        old = (PROGRAM / "generated" / name).read_text(encoding="utf-8")
        assert old == text, f"{name} is not what is generated now; run: make generated"
    there = {path.name for path in (PROGRAM / "generated").iterdir()}
    assert there == set(of_program())


def test_it_goes_on_with_the_same_bits_wherever_it_was_killed(program):
    output = trained(program, "whole")
    (less,) = re.findall(r"^The error is (\d+)% less", output, re.MULTILINE)
    assert int(less) >= 30
    rng, killed = np.random.default_rng(0), 0
    for attempt in range(200):
        with subprocess.Popen(
            ["./forecast", "killed", "3"], cwd=program, stdout=subprocess.DEVNULL
        ) as process:
            # wait until it has saved something anew, and then for as long as chance says
            before = stamp(program / "killed")
            while process.poll() is None and stamp(program / "killed") == before:
                time.sleep(0.0005)
            time.sleep(float(rng.uniform(0, 0.03)) if attempt < 100 else 0.3)
            process.kill()
            status = process.wait()
        if status == 0:
            break
        assert status == -9
        killed += 1
    assert killed >= 3
    whole, resumed = ((program / name).read_bytes() for name in ("whole", "killed"))
    assert resumed == whole
    again = trained(program, "killed")
    assert again.split("\n\n")[1] == output.split("\n\n")[1]


def stamp(path: Path) -> tuple[int, int]:
    """What is another one after a file was written anew."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def test_it_refuses_what_it_has_not_saved(program):
    trained(program, "state")
    data = (program / "state").read_bytes()
    for wrong in (data[:-1], data + b"x", data[:100] + bytes([data[100] ^ 1]) + data[101:], b""):
        (program / "wrong").write_bytes(wrong)
        said = trained(program, "wrong", status=2)
        assert "error: wrong is no state of this network" in said
    said = trained(program, "no/such/folder", status=2)
    assert "error: no/such/folder cannot be written" in said


@pytest.mark.parametrize("compiler", ["gcc -march=native"])
def test_sanitizers_find_nothing_in_it(tmp_path, compiler):
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    need(f"{compiler.split()[0]} {flags[0]}")
    laid_down(tmp_path)
    command = [*compiler.split(), "-std=c99", "-O1", *STRICT.split(), *flags]
    run(tmp_path, *command, "-Igenerated", *SOURCES)
    trained(tmp_path, "state")


def test_another_seed_is_another_run(program):
    for seed in (1, 2):
        trained(program, f"seed_{seed}", seed)
    assert (program / "seed_1").read_bytes() != (program / "seed_2").read_bytes()
