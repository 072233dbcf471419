"""Settings of the whole suite."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
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


def need(what: str) -> None:
    """Skip without a module or a tool; in CI, where all are installed, fail."""
    if importlib.util.find_spec(what) is not None or shutil.which(what):
        return
    if CI:
        pytest.fail(f"{what} is missing, and CI installs it")
    pytest.skip(f"needs {what}")


def need_build(compiler: str, *flags: str) -> None:
    """Skip where a compiler is missing or lacks the libraries for its flags; in CI, fail."""
    need(compiler)
    complaint = _complaint(compiler, *flags)
    if complaint:
        about = f"{compiler} {' '.join(flags)} builds no program here: {complaint}"
        if CI:
            pytest.fail(f"{about}\nCI installs what it needs")
        pytest.skip(about)


@cache
def _complaint(*command: str) -> str:
    """What a compiler says of a program that uses the C library; nothing if it is fine."""
    program = '#include <math.h>\n#include <stdio.h>\nint main(void) { return puts("") == EOF; }'
    done = subprocess.run(
        [*command, "-x", "c", "-", "-o", os.devnull],
        input=program, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr.strip() if done.returncode else ""
