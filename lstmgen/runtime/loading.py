"""From names, files and text to Python objects: cells, networks, and generated modules."""

from __future__ import annotations

import builtins
import importlib.util
import itertools
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from .. import cells
from ..derivation.online import online
from ..derivation.tangent import tangent
from ..derivation.watched import watched
from ..errors import LstmgenError, did_you_mean
from ..language.cell import Cell
from ..language.misuse import advice
from ..network.structure import Structure
from ..notation import reading


def load_cell(path: str | Path) -> Cell:
    """The cell in a text file, whose name ends in .cell; or the ``cell`` of a Python file.

    A Python file is run, as any Python module is when it is imported: load only what you trust.
    A text file is read, and nothing in it is run.

    Raises
    ------
    LstmgenError
        If there is no such file, it fails, or it defines no ``cell``.
    """
    if is_text(path):
        return reading.load(path)
    return _cell(_run(Path(path)), path)


def load_model(path: str | Path) -> Cell | Structure:
    """The ``network`` that a Python file defines, or the ``cell``; of both the network. The cell in
    a text file.

    Raises
    ------
    LstmgenError
        As ``load_cell``.
    """
    if is_text(path):
        return reading.load(path)
    module = _run(Path(path))
    found = getattr(module, "network", None)
    if isinstance(found, Structure):
        return found
    networks = [name for name, value in vars(module).items() if isinstance(value, Structure)]
    if networks and not isinstance(getattr(module, "cell", None), Cell):
        raise LstmgenError(
            f"{path}: it defines no network\n"
            f"  hint: it defines {networks[0]}: rename that to network"
        )
    return _cell(module, path)


def _cell(module: ModuleType, path: str | Path) -> Cell:
    found = getattr(module, "cell", None)
    if isinstance(found, Cell):
        return found
    others = [name for name, value in vars(module).items() if isinstance(value, Cell)]
    hint = (
        f"it defines {others[0]}: rename that to cell" if others else "end it with cell = Cell(…)"
    )
    if isinstance(getattr(module, "network", None), Structure):
        hint = "it defines a network, and cells are asked for here"
    raise LstmgenError(f"{path}: it defines no cell\n  hint: {hint}")


def find_cell(name: str) -> Cell:
    """The reference cell called ``name``, or the one in the file of that name; after a colon, what
    is derived of it: ``lstm:tangent``, ``my_cell.py:online``.
    """
    name, derived = _derived(name)
    found = load_cell(name) if _is_file(name) else _reference(name)
    return derived(found) if derived else found


def find_model(name: str) -> Cell | Structure:
    """The cell as ``find_cell`` has it, or the network in the file of that name."""
    plain, derived = _derived(name)
    if derived or not _is_file(plain):
        return find_cell(name)
    return load_model(plain)


DERIVED = {"tangent": tangent, "online": online, "watched": watched}


def _derived(name: str) -> tuple[str, Callable[[Cell], Cell] | None]:
    """A name without what stands after its colon, and what that asks for."""
    before, colon, after = name.rpartition(":")
    if not colon or "/" in after or "\\" in after:  # as in C:\cell.py
        return name, None
    if after not in DERIVED:
        known = " and ".join(f"{before}:{word}" for word in DERIVED)
        near = did_you_mean(after, DERIVED)
        raise LstmgenError(f"{name}: nothing called {after!r} is derived of a cell\n"
                           f"  hint: {near or f'there are {known}'}")  # fmt: skip
    return before, DERIVED[after]


def is_text(path: str | Path) -> bool:
    """Whether the name of a file says that it is a cell in text."""
    return str(path).endswith(reading.SUFFIX)


def _is_file(name: str) -> bool:
    return name.endswith((".py", reading.SUFFIX)) or "/" in name or "\\" in name


def _reference(name: str) -> Cell:
    if name in cells.names():
        return cells.get(name)
    near = did_you_mean(name, cells.names())
    here = "a file of that name has to end in .py or .cell" if Path(name).exists() else ""
    hint = near or here or "see: lstmgen cells; a file is given as my_cell.py or my_cell.cell"
    raise LstmgenError(f'no cell is called "{name}"\n  hint: {hint}')


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        hint = ""
        if str(path) in cells.names():
            hint = f"\n  hint: lstmgen.cells.get({path.name!r}) is the reference cell of that name"
        raise LstmgenError(f"{path}: there is no such file{hint}")
    spec = importlib.util.spec_from_file_location(f"_lstmgen_cell_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise LstmgenError(
            f"{path}: it is neither a Python file nor a cell in text\n"
            "  hint: their names end in .py and .cell"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that dataclasses and the like find their module
    try:
        spec.loader.exec_module(module)
    except LstmgenError as error:
        raise LstmgenError(f"{path}: {error}") from error
    except SystemExit as error:
        raise LstmgenError(
            f"{path}: {_last_line(error, path)}: the file exits\n"
            "  hint: it is imported, and has to reach its end; what else it does goes under "
            'if __name__ == "__main__":'
        ) from error
    except BaseException as error:  # whatever it raises, it defines no cell
        raise LstmgenError(f"{path}: {_last_line(error, path)}") from error
    finally:
        sys.modules.pop(spec.name, None)
    return module


def _last_line(error: BaseException, path: Path) -> str:
    """What went wrong, and on which line of the user's file."""
    here = os.path.abspath(path)  # as the importer calls it
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == here]
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    at = line or (lines[-1] if lines else None)
    hint = advice(error)
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return (f"line {at}: " if at else "") + what + (f"\n  hint: {hint}" if hint else "")


def load_python(text: str, name: str, filename: str) -> ModuleType:
    """A module made of ``text``, which we generated; tracebacks show its lines."""
    module = ModuleType(name)
    _execute(text, module, filename)
    return module


def _execute(text: str, module: ModuleType, filename: str) -> None:
    """Run ``text`` as the code of ``module``, whose lines tracebacks show."""
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(builtins.compile(text, filename, "exec"), module.__dict__)


def load_package(files: Mapping[str, str], main: str, name: str) -> ModuleType:
    """The module in the file ``main``, which imports the others: all were generated by us.

    They are a package while they are loaded, so that none stands in the way of a user's modules.
    """
    package = ModuleType(f"_lstmgen_package_{next(_PACKAGES)}")
    package.__path__ = []
    names = sorted(files, key=lambda file: file == main)  # what others import comes first
    try:
        sys.modules[package.__name__] = package
        for file in names:
            stem = file.removesuffix(".py")
            module = ModuleType(f"{package.__name__}.{stem}")
            module.__package__ = package.__name__
            sys.modules[module.__name__] = module
            setattr(package, stem, module)
            _execute(files[file], module, f"<lstmgen {file} of {name}>")
    finally:
        for loaded in [n for n in sys.modules if n.split(".")[0] == package.__name__]:
            del sys.modules[loaded]
    module.__name__ = name
    return module


_PACKAGES = itertools.count(1)
