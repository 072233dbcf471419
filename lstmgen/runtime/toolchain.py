"""From generated text to something that runs: loading NumPy modules, building C libraries.

Libraries are cached by content, in the user's cache folder or in ``LSTMGEN_CACHE``. Each has a
folder of its own, with its source and a checksum, which is made elsewhere and moved into place in
one step: processes that compile the same thing at once do not disturb each other, and what was cut
short is built again. What a killed process has left of a build, a build an hour later removes.
``CC`` names the compiler, and ``CFLAGS`` has flags for it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import GenerateError, ToolchainError, missing_extra
from ..language.cell import Cell
from ..targets import generate
from .loading import load_python

# GCC contracts a * b + c to one operation by itself, clang has to be asked. A square root needs no
# errno. No -ffast-math: NaN and infinity mean what they mean.
_FLAGS = ("-std=c99", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared")
_NATIVE = ("-march=native", "-mcpu=native")
MOST_THREADS = 1024  # as the C code has it
_LIBRARY, _CHECKSUM = "library.so", "library.so.sha256"
_BUILD, _HOUR = "build-", 3600.0
_HOME = re.compile(r"\w+-[0-9a-f]{32}")


def compile(cell: Cell, target: str = "numpy", **options: Any) -> Any:
    """Generate code for ``cell`` and load it.

    Parameters
    ----------
    cell : Cell
    target : str
        "numpy" or "c".
    **options
        As for ``generate``; for C: ``dtype`` ("float64" or "float32"), and sizes that become
        compile-time constants, ``D=24, H=32``. ``threads=2`` cuts the batch into so many slices,
        each for a thread of its own (OpenMP); there are at most 1024. A process that was forked
        runs them one after the other, with the same bits, since it has none of its parent's
        threads. The environment has a say, too: ``CC`` is the compiler, ``CFLAGS`` goes to it, and
        ``LSTMGEN_CACHE`` is where libraries are kept. C is compiled for this very machine, with
        the widest vectors that it has.

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
        return _compile_c(cell, **options)
    raise GenerateError(f'only "numpy" and "c" can be compiled, not "{target}"')


def _compile_c(
    cell: Cell, dtype: str = "float64", source: str = "", threads: int = 1, **sizes: int
) -> Any:
    from .native import NativeModule

    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if not whole or not 0 < threads <= MOST_THREADS:
        raise GenerateError(f"threads is a whole number from 1 to {MOST_THREADS}, not {threads!r}")

    files = generate(cell, "c", dtype=dtype, source=source, **sizes)
    header = next(text for name, text in files.items() if name.endswith(".h"))
    try:
        library = build(files, ("-fopenmp",) if threads > 1 else ())
        return NativeModule(cell, header, library, dtype, sizes, threads)
    except OSError as error:
        raise ToolchainError(
            f"the compiled library cannot be loaded: {error}\n"
            "  hint: does CC compile for this machine, and may programs run from the cache "
            f"{cache_folder()}? LSTMGEN_CACHE names another"
        ) from error


# --------------------------------------------------------------------------- building


def build(files: Mapping[str, str], extra: Sequence[str] = ()) -> Path:
    """Compile a C source and its header to a shared library, or find it in the cache.

    Raises
    ------
    ToolchainError
        If there is no compiler, it refuses the code, or the cache cannot be written.
    """
    compiler = find_compiler()
    native, macros = _native(tuple(compiler))
    command = [*compiler, *_FLAGS, *native, *extra, *_words("CFLAGS")]
    machine = [sys.platform, platform.machine(), *command, _version(tuple(compiler)), macros]
    texts = [text for item in sorted(files.items()) for text in item]
    digest = hashlib.sha256("\0".join([*machine, *texts]).encode()).hexdigest()[:32]
    stem = next(name for name in files if name.endswith(".c")).removesuffix(".c")
    home = cache_folder() / f"{stem}-{digest}"
    if not _is_sound(home):
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(home.parent)
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=_BUILD) as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                for name, text in files.items():
                    (made / name).write_text(text, encoding="utf-8")
                _run_compiler([*command, f"{stem}.c"], made)
                (made / _CHECKSUM).write_text(_checksum(made / _LIBRARY), encoding="ascii")
                _put_in_place(made, home)
        except OSError as error:
            raise ToolchainError(
                f"the cache {home.parent} cannot be written: {error.strerror or error}\n"
                "  hint: set LSTMGEN_CACHE to a folder that can"
            ) from error
    return home / _LIBRARY


def _run_compiler(command: list[str], folder: Path) -> None:
    command = [*command, "-o", _LIBRARY, "-lm"]
    done = _run(command, folder)
    if done.returncode != 0 or not (folder / _LIBRARY).is_file():
        said = done.stderr.strip() or f"it made no library, and returned {done.returncode}"
        raise ToolchainError(f"the C compiler refused the code: {shlex.join(command)}\n{said}")


def _run(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise ToolchainError(
            f"the C compiler {command[0]} cannot be run: {error.strerror or error}\n"
            "  hint: set CC to a C compiler, or unset it"
        ) from error


def _put_in_place(made: Path, home: Path) -> None:
    """Move a finished folder to its home, unless another process has brought the same there."""
    while not _is_sound(home):
        try:
            made.rename(home)
        except OSError:
            if not home.exists():
                raise
            if not _is_sound(home):  # cut short, or damaged: out of the way
                home.rename(Path(tempfile.mkdtemp(dir=made.parent)) / "damaged")


def _is_sound(home: Path) -> bool:
    """Whether the library in a folder is what was put there. Loading another could crash us."""
    try:
        return (home / _CHECKSUM).read_text(encoding="ascii") == _checksum(home / _LIBRARY)
    except (OSError, UnicodeDecodeError):
        return False


def _checksum(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _remove_abandoned(parent: Path) -> None:
    """Remove what builds have left that were killed: none runs for an hour."""
    for folder in parent.glob(f"{_BUILD}*"):
        if _HOME.fullmatch(folder.name):  # a library of a cell called build
            continue
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _HOUR:
                shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------- what is installed


def find_compiler() -> list[str]:
    """The C compiler: ``CC`` if it is set, else cc, gcc or clang.

    Raises
    ------
    ToolchainError
        If there is none; the message says what to install.
    """
    chosen = _words("CC")
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


def _words(variable: str) -> list[str]:
    """The words of an environment variable, quoted as for a shell."""
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ToolchainError(
            f"{variable} is {text!r}, which a shell could not read: {error}\n"
            f"  hint: correct {variable}, or unset it"
        ) from error


@cache
def _version(compiler: tuple[str, ...]) -> str:
    return _run([*compiler, "--version"]).stdout


@cache
def _native(compiler: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The flag to compile for this machine, if the compiler has one, and all that it implies.

    What it implies is part of a library's place in the cache, which other machines may share.
    """
    for flag in _NATIVE:
        done = _run([*compiler, flag, "-dM", "-E", "-x", "c", os.devnull])
        if done.returncode == 0:
            return (flag,), done.stdout
    return (), ""


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    chosen = os.environ.get("LSTMGEN_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise missing_extra("platformdirs") from error
    return Path(user_cache_path("lstmgen"))
