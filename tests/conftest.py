"""Settings of the whole suite."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

CI = os.environ.get("CI", "").lower() == "true"

# Examples are compiled and differentiated: slow for hypothesis, which would call that unhealthy. In
# CI the same examples come each time, so that a red run can be repeated.
_COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("local", **_COMMON)
settings.register_profile("ci", derandomize=True, database=None, **_COMMON)
settings.load_profile("ci" if CI else "local")

# Cells and networks that tests compile by the hundred are not optimised, which takes a fifth of the
# time: what they compute is the subject, and vectors are written out in the C, so that it is the
# same code. What optimisers make of it has tests of its own, in test_c.py and test_portability.py,
# and with the flags that users get those that take ``as_shipped``.
os.environ.setdefault("CFLAGS", "-O0")


@pytest.fixture
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile with the flags that users get, who set none."""
    monkeypatch.delenv("CFLAGS", raising=False)


# What a compiler has to bring beside itself: headers, libraries to link with, a runtime to start.
_PROGRAM = """\
#include <math.h>
#include <stdio.h>
int main(int count, char **words) { return (void)words, printf("%g\\n", sqrt(count)) < 0; }
"""
_LANGUAGES = {"cc": "c", "gcc": "c", "clang": "c", "c++": "c++", "g++": "c++", "clang++": "c++"}

_DOCUMENT = r"""
\documentclass{article}
\usepackage{amsmath,amssymb,bm,booktabs,microtype}
\begin{document} $\bm{x}$ \end{document}
"""


def need(what: str) -> None:
    """Skip without a module or a tool that works; in CI, where all are installed, fail.

    Tools are tried, not only found: a compiler with its flags, as in ``need("clang
    -fsanitize=address")``, has to build and start a program, since Debian's clang comes without the
    runtime of its sanitizers, and a gcc for 64 bits without the libraries for 32.
    """
    problem = _problem(what)
    if problem and CI:
        pytest.fail(f"{problem}; CI installs it")
    if problem:
        pytest.skip(problem)


@cache
def _problem(what: str) -> str:
    """Why a module or a command cannot be used here; empty if it can."""
    program, *flags = what.split()
    if program not in _LANGUAGES and importlib.util.find_spec(program) is not None:
        return ""  # there is a module `clang` too
    if shutil.which(program) is None:
        return f"{program} is missing"
    with tempfile.TemporaryDirectory() as folder:
        for command, text in _trials(program, flags):
            try:
                done = subprocess.run(
                    command, cwd=folder, input=text, capture_output=True, encoding="utf-8",
                    errors="replace", check=False,
                )  # fmt: skip
            except OSError as error:  # it was built, and this system cannot start it
                return f"{what} does not work here: {error}"
            if done.returncode:
                said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
                told = [line for line in said if _TELLS.search(line)] or said
                reason = told[0] if told else f"{command[0]} ends with status {done.returncode}"
                return f"{what} does not work here: {reason}"
    return ""


# The line that says what is missing, among those that say what follows from it.
_TELLS = re.compile(r"cannot find|not found|no such file|error", re.IGNORECASE)


def _trials(program: str, flags: list[str]) -> list[tuple[list[str], str]]:
    """Commands that succeed where ``program`` works, and what each reads."""
    if program in _LANGUAGES:
        build = [program, *flags, "-x", _LANGUAGES[program], "-", "-o", "trial", "-lm"]
        return [(build, _PROGRAM), (["./trial"], "")]
    if program == "valgrind":  # without the symbols of the C library it starts nothing
        return [([program, "-q", "--error-exitcode=9", shutil.which("true") or sys.executable], "")]
    if program == "pdflatex":  # packages come apart from it
        document = " ".join(_DOCUMENT.split())
        return [([program, "-interaction=nonstopmode", "-halt-on-error", document], "")]
    return []
