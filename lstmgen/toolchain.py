"""From generated text to something that runs: loading NumPy modules, building C libraries.

Libraries are cached by content in the user's cache folder (or ``LSTMGEN_CACHE``). They are moved
into place in one step, so that processes that compile the same thing at once do not disturb each
other.
"""

from __future__ import annotations

import builtins
import hashlib
import linecache
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .cell import Cell
from .errors import GenerateError, ToolchainError
from .targets import generate

# No -march: a cached library has to run on every machine that shares the cache.
_FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared")


def compile(cell: Cell, target: str = "numpy", **options: Any) -> Any:
    """Generate code for ``cell`` and load it.

    Parameters
    ----------
    cell : Cell
    target : str
        "numpy" or "c".
    **options
        As for ``generate``; for C: ``dtype`` ("float64" or "float32"), and sizes that become
        compile-time constants, ``D=24, H=32``.

    Returns
    -------
    module
        With ``init``, ``forward``, ``backward``, ``step``, and the tables ``PARAMETERS``,
        ``STATES``, ``INPUTS``, ``MASKS``, ``CONSTANTS``, ``OUTPUT``, ``CELL``.

    Raises
    ------
    ToolchainError
        If there is no C compiler, or cffi is not installed; the message says what to install.
    """
    if target == "numpy":
        ((name, text),) = generate(cell, "numpy", **options).items()
        return load_python(text, cell.name, f"<lstmgen {name}>")
    if target == "c":
        from .native import NativeModule

        options.setdefault("dtype", "float64")
        files = generate(cell, "c", **options)
        header, source = files[f"{cell.name}.h"], files[f"{cell.name}.c"]
        library = build(source, {f"{cell.name}.h": header}, cell.name)
        return NativeModule(cell, header, library, options["dtype"])
    raise GenerateError(f'only "numpy" and "c" can be compiled, not "{target}"')


def load_python(text: str, name: str, filename: str) -> ModuleType:
    """A module made of ``text``, which we generated; tracebacks show its lines."""
    module = ModuleType(name)
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(builtins.compile(text, filename, "exec"), module.__dict__)
    return module


def build(source: str, headers: dict[str, str], name: str) -> Path:
    """Compile C ``source`` to a shared library and return its path; from the cache if it is there.

    Raises
    ------
    ToolchainError
        If there is no compiler, it refuses the code, or the cache cannot be written.
    """
    compiler = find_compiler()
    identity = [*compiler, _version(tuple(compiler)), *_FLAGS, source, *sorted(headers.values())]
    digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    folder = cache_folder()
    library = folder / f"{name}-{digest}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
            made = _compile(compiler, source, headers, name, Path(scratch))
            os.replace(made, library)
    except OSError as error:
        raise ToolchainError(
            f"the cache {folder} cannot be written: {error.strerror or error}\n"
            "  hint: set LSTMGEN_CACHE to a folder that can"
        ) from error
    return library


def _compile(
    compiler: list[str], source: str, headers: dict[str, str], name: str, folder: Path
) -> Path:
    for file, text in {f"{name}.c": source, **headers}.items():
        (folder / file).write_text(text, encoding="utf-8")
    made = folder / f"{name}.so"
    command = [*compiler, *_FLAGS, f"{name}.c", "-o", made.name, "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolchainError(
            f"the C compiler refused {name}.c: {shlex.join(command)}\n{done.stderr.strip()}"
        )
    return made


def find_compiler() -> list[str]:
    """The C compiler: ``CC`` if it is set, else cc, gcc or clang.

    Raises
    ------
    ToolchainError
        If there is none; the message says what to install.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise ToolchainError(
                f"CC is {chosen[0]}, but there is no such program\n"
                "  hint: set CC to a C compiler, or unset it"
            )
        return chosen
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise ToolchainError(
        "there is no C compiler (looked for cc, gcc and clang)\n"
        "  hint: install one: apt install gcc (Debian, Ubuntu), dnf install gcc (Fedora), "
        "xcode-select --install (macOS); or set CC"
    )


@cache
def _version(compiler: tuple[str, ...]) -> str:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    chosen = os.environ.get("LSTMGEN_CACHE")
    if chosen:
        return Path(chosen)
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise missing_extra("platformdirs") from error
    return Path(user_cache_path("lstmgen"))


def missing_extra(library: str) -> ToolchainError:
    """The error for an optional library of the C target that is not installed."""
    return ToolchainError(
        f"compiling C needs {library}, which is not installed\n"
        "  hint: pip install 'lstmgen[c]'"
    )
