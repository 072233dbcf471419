"""What the suite does on a machine that lacks something: it says what, and skips; CI fails."""

from __future__ import annotations

import os
import shutil
import sys

import conftest
import pytest
from conftest import need

LACKING = """\
#!/bin/sh
case "$*" in *{flag}*)
    echo "{message}" >&2
    echo "clang: error: linker command failed with exit code 1 (use -v to see invocation)" >&2
    exit 1 ;;
esac
exec {real} "$@"
"""


@pytest.fixture
def outside_ci(monkeypatch):
    monkeypatch.setattr(conftest, "CI", False)
    conftest._problem.cache_clear()
    yield
    conftest._problem.cache_clear()


@pytest.fixture
def crippled(tmp_path, monkeypatch, outside_ci):
    """Put a tool before the real one in PATH that fails where it is given a flag."""
    if sys.platform == "win32":
        pytest.skip("writes shell scripts")

    def lack(program: str, real: str, flag: str, message: str) -> None:
        script = LACKING.format(real=real, flag=flag, message=message)
        (tmp_path / program).write_text(script, encoding="utf-8")
        (tmp_path / program).chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return lack


RUNTIME = "/usr/bin/ld: cannot find libclang_rt.asan-x86_64.a: No such file or directory"


def test_a_compiler_without_its_runtime(crippled, monkeypatch):
    need("gcc")
    crippled("clang", shutil.which("gcc"), "-fsanitize", RUNTIME)
    need("clang")  # as such it works
    need("clang -O1")
    with pytest.raises(pytest.skip.Exception) as skipped:
        need("clang -fsanitize=address")
    assert str(skipped.value) == f"clang -fsanitize=address does not work here: {RUNTIME}"
    monkeypatch.setattr(conftest, "CI", True)
    with pytest.raises(pytest.fail.Exception, match="cannot find libclang_rt"):
        need("clang -fsanitize=address")


def test_a_compiler_whose_programs_do_not_start(crippled, tmp_path):
    """As with -m32 on a system that cannot run it."""
    crippled("gcc", "printf '#!/bin/sh\\nexit 3\\n' >trial; chmod +x trial; : ", "nothing", "")
    with pytest.raises(pytest.skip.Exception, match="gcc -m32 does not work here"):
        need("gcc -m32")


@pytest.mark.parametrize("tool", ["valgrind", "pdflatex"])
def test_other_tools_are_tried(crippled, tool):
    crippled(tool, "true", "-", "Fatal error: something is not found")
    with pytest.raises(pytest.skip.Exception, match="something is not found"):
        need(tool)


def test_what_is_missing_altogether(outside_ci):
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is missing"):
        need("no-such-tool")
    need("json")  # a module
