"""From names, files and text to Python objects: cells, and generated modules."""

from __future__ import annotations

import builtins
import importlib.util
import linecache
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from .. import cells
from ..errors import CellError, LstmgenError, did_you_mean
from ..language.cell import Cell
from ..language.misuse import advice


def load_cell(path: str | Path) -> Cell:
    """The ``cell`` that a Python file defines.

    The file is run, as any Python module is when it is imported: load only what you trust.

    Raises
    ------
    LstmgenError
        If there is no such file, it fails, or it defines no ``cell``.
    """
    path = Path(path)
    if not path.is_file():
        hint = ""
        if str(path) in cells.names():
            hint = f"\n  hint: lstmgen.cells.get({path.name!r}) is the reference cell of that name"
        raise LstmgenError(f"{path}: there is no such file{hint}")
    module = _run(path)
    found = getattr(module, "cell", None)
    if isinstance(found, Cell):
        return found
    others = [name for name, value in vars(module).items() if isinstance(value, Cell)]
    hint = (
        f"it defines {others[0]}: rename that to cell" if others else "end it with cell = Cell(…)"
    )
    raise LstmgenError(f"{path}: it defines no cell\n  hint: {hint}")


def find_cell(name: str) -> Cell:
    """The reference cell called ``name``, or the one in the file of that name."""
    if name.endswith(".py") or "/" in name or "\\" in name:
        return load_cell(name)
    if name in cells.names():
        return cells.get(name)
    near = did_you_mean(name, cells.names())
    here = "a file of that name has to end in .py" if Path(name).exists() else ""
    hint = near or here or "see: lstmgen cells; a file is given as my_cell.py"
    raise LstmgenError(f'no cell is called "{name}"\n  hint: {hint}')


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_lstmgen_cell_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise LstmgenError(f"{path}: it is not a Python file; a cell's file ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that dataclasses and the like find their module
    try:
        spec.loader.exec_module(module)
    except CellError as error:
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
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(builtins.compile(text, filename, "exec"), module.__dict__)
    return module
