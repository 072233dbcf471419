"""What this machine is: enough to judge numbers by, and nothing that names it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ToolchainError
from ..runtime import toolchain
from . import threads

_LIBRARIES = ("numpy", "torch", "jax", "jaxlib", "onnxruntime")
_ENVIRONMENT = ("CFLAGS", "OPENBLAS_CORETYPE", "XLA_FLAGS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def describe() -> dict[str, Any]:
    """Processor, compiler, versions, and what in the environment changes how code runs."""
    versions = {"lstmgen": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "compiler": _compiler(),
        "flags": _flags(),
        "versions": versions,
        "pools": threads.pools(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def summary(machine: dict[str, Any]) -> str:
    """The description in a few lines."""
    versions = " · ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [f"{machine['processor']} · {machine['cores']} cores · {machine['system']}",
             f"{machine['compiler']} · {machine['flags']}", versions]  # fmt: skip
    lines += [f"{name}={value}" for name, value in machine["environment"].items()]
    return "\n".join(lines)


def _processor() -> str:
    """The model's name, and its family and model numbers, since the name may say little."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    name = fields.get("model name") or platform.processor() or platform.machine()
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _compiler() -> str:
    try:
        lines = toolchain._version(tuple(toolchain.find_compiler())).splitlines()
    except ToolchainError:
        return "no C compiler"
    return lines[0] if lines else "a C compiler that does not tell its version"


def _flags() -> str:
    """What our C is compiled with."""
    try:
        native, _ = toolchain._native(tuple(toolchain.find_compiler()))
    except ToolchainError:
        native = ()
    return " ".join([*toolchain._FLAGS, *native])
