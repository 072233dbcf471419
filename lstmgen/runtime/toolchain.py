"""From generated text to something that runs: loading NumPy modules, building C libraries.

Libraries are cached by content, in the user's cache folder or in ``LSTMGEN_CACHE``. Each has a
folder of its own, with its source and a checksum, which is made elsewhere and moved into place in
one step: processes that compile the same thing at once do not disturb each other, and what was cut
short is built again. What a killed process has left of a build, a build an hour later removes.
``CC`` names the compiler, and ``CFLAGS`` has flags for it.

The kernels of the C runtime take most of a compiler's time and are the same for all cells: they are
built once for each compiler, its flags and a dtype, cached likewise, and linked to each library.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import GenerateError, ToolchainError, missing_extra
from ..language.cell import Cell
from ..network.structure import Structure
from ..targets import generate
from ..targets.c import runtime
from . import RUNS
from .loading import load_package, load_python

# GCC contracts a * b + c to one operation by itself, clang has to be asked. A square root needs no
# errno. No -ffast-math: NaN and infinity mean what they mean.
_FLAGS = ("-std=c99", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
_NATIVE = ("-march=native", "-mcpu=native")
MOST_THREADS = 1024  # as the C code has it
_LIBRARY, _KERNELS = "library.so", "kernels.o"
_BUILD, _HOUR = "build-", 3600.0
_HOME = re.compile(r"\w+-[0-9a-f]{32}")


def compile(cell: Cell | Structure, target: str = "numpy", **options: Any) -> Any:
    """Generate code for a cell or a network and load it.

    Parameters
    ----------
    cell : Cell or Network
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
    if target not in RUNS:
        names = " and ".join(f'"{name}"' for name in RUNS)
        raise GenerateError(f'only {names} can be compiled, not "{target}"')
    loads: dict[str, Callable[..., Any]] = {"numpy": _load_numpy, "c": _compile_c}
    return loads[target](cell, **options)


def _load_numpy(cell: Cell | Structure, **options: Any) -> Any:
    files = generate(cell, "numpy", **options)
    name = next(iter(files))
    if len(files) > 1:  # a network, whose cells have modules of their own
        return load_package(files, name, cell.name)
    return load_python(files[name], cell.name, f"<lstmgen {name}>")


def _compile_c(
    cell: Cell | Structure, dtype: str = "float64", source: str = "", threads: int = 1, **sizes: int
) -> Any:
    from .native import NativeModule
    from .network import NativeNetwork

    header, library = build_c(cell, dtype, source, threads, **sizes)
    with loading_library():
        if isinstance(cell, Structure):
            return NativeNetwork(cell, header, library, dtype, threads)
        return NativeModule(cell, header, library, dtype, sizes, threads)


def build_c(
    cell: Cell | Structure, dtype: str = "float64", source: str = "", threads: int = 1, **sizes: int
) -> tuple[str, Path]:
    """The C code of a cell or a network, compiled or found in the cache: its header as text, and
    the shared library.

    Raises
    ------
    ToolchainError
        As ``build``.
    """
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if not whole or not 0 < threads <= MOST_THREADS:
        raise GenerateError(f"threads is a whole number from 1 to {MOST_THREADS}, not {threads!r}")

    extra = ("-fopenmp",) if threads > 1 else ()
    with _building_kernels(dtype, extra) as kernels:
        files = generate(cell, "c", dtype=dtype, source=source, **sizes)
        library = build(files, extra, kernels)
    return next(text for name, text in files.items() if name.endswith(".h")), library


@contextmanager
def loading_library() -> Iterator[None]:
    """Say what to look for where a compiled library cannot be loaded."""
    try:
        yield
    except OSError as error:
        raise ToolchainError(
            f"the compiled library cannot be loaded: {error}\n"
            "  hint: does CC compile for this machine, and may programs run from the cache "
            f"{cache_folder()}? LSTMGEN_CACHE names another"
        ) from error


# --------------------------------------------------------------------------- building


def build(
    files: Mapping[str, str], extra: Sequence[str] = (), kernels: Future[Path] | None = None
) -> Path:
    """Compile a C source and its headers to a shared library, or find it in the cache.

    Parameters
    ----------
    files : mapping
        From name to text; one of them is a source.
    extra : sequence of str
        Flags for the compiler.
    kernels : Future, optional
        The object that has the kernels of the runtime; without it, the source has its own.

    Raises
    ------
    ToolchainError
        If there is no compiler, it refuses the code, or the cache cannot be written.
    """
    source = next(name for name in files if name.endswith(".c"))
    linked = ("-DLSTMGEN_LINKED",) if kernels else ()
    command = _command((*extra, *linked))

    def make(folder: Path) -> None:
        made = source.removesuffix(".c") + ".o"
        _run_compiler(command, ["-c", source], made, folder)
        objects = [made, *([str(kernels.result())] if kernels else [])]
        _run_compiler(command, ["-shared", *objects], _LIBRARY, folder, ["-lm"])
        (folder / made).unlink()

    return _kept(source.removesuffix(".c"), files, command, _LIBRARY, make)


def build_kernels(dtype: str, extra: Sequence[str] = ()) -> Path:
    """Compile the kernels of the C runtime to an object, or find it in the cache.

    Raises
    ------
    ToolchainError
        As ``build``.
    """
    types = f"-DLSTMGEN_REAL={runtime.BITS[dtype]}"
    command = _command((*extra, "-DLSTMGEN_LINKED", "-DLSTMGEN_KERNELS", types))

    def make(folder: Path) -> None:
        _run_compiler(command, ["-x", "c", "-c", runtime.FILE], _KERNELS, folder)

    files = {runtime.FILE: runtime.text()}
    return _kept(runtime.FILE.removesuffix(".h"), files, command, _KERNELS, make)


@contextmanager
def _building_kernels(dtype: str, extra: Sequence[str]) -> Iterator[Future[Path]]:
    """Build the kernels while something else is done."""
    find_compiler()  # if there is none, say so before anything is begun
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(build_kernels, dtype, extra)


def _command(extra: Sequence[str]) -> list[str]:
    """The compiler, and its flags."""
    compiler = find_compiler()
    native, _ = _native(tuple(compiler))
    return [*compiler, *_FLAGS, *native, *extra, *_words("CFLAGS")]


def _kept(
    stem: str, files: Mapping[str, str], command: Sequence[str], product: str,
    make: Callable[[Path], None],
) -> Path:  # fmt: skip
    """What ``make`` makes of ``files`` in the folder that it is given, or made before."""
    compiler = tuple(find_compiler())
    machine = [sys.platform, platform.machine(), *command, _version(compiler), _native(compiler)[1]]
    texts = [text for item in sorted(files.items()) for text in item]
    digest = hashlib.sha256("\0".join([*machine, *texts]).encode()).hexdigest()[:32]
    home = cache_folder() / f"{stem}-{digest}"
    if not _is_sound(home, product):
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(home.parent)
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=_BUILD) as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                for name, text in files.items():
                    (made / name).write_text(text, encoding="utf-8")
                make(made)
                _checksum(made, product).write_text(_digest(made / product), encoding="ascii")
                _put_in_place(made, home, product)
        except OSError as error:
            raise ToolchainError(
                f"the cache {home.parent} cannot be written: {error.strerror or error}\n"
                "  hint: set LSTMGEN_CACHE to a folder that can"
            ) from error
    return home / product


def _run_compiler(
    command: Sequence[str], sources: Sequence[str], product: str, folder: Path,
    libraries: Sequence[str] = (),
) -> None:  # fmt: skip
    whole = [*command, *sources, "-o", product, *libraries]
    done = _run(whole, folder)
    if done.returncode != 0 or not (folder / product).is_file():
        said = done.stderr.strip() or f"it made no {product}, and returned {done.returncode}"
        raise ToolchainError(f"the C compiler refused the code: {shlex.join(whole)}\n{said}")


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


def _put_in_place(made: Path, home: Path, product: str) -> None:
    """Move a finished folder to its home, unless another process has brought the same there."""
    while not _is_sound(home, product):
        try:
            made.rename(home)
        except OSError:
            if not home.exists():
                raise
            if not _is_sound(home, product):  # cut short, or damaged: out of the way
                home.rename(Path(tempfile.mkdtemp(dir=made.parent)) / "damaged")


def _is_sound(home: Path, product: str) -> bool:
    """Whether a folder has what was put there. Loading another library could crash us."""
    try:
        return _checksum(home, product).read_text(encoding="ascii") == _digest(home / product)
    except (OSError, UnicodeDecodeError):
        return False


def _checksum(home: Path, product: str) -> Path:
    return home / f"{product}.sha256"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
