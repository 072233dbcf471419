"""The errors that lstmgen raises on purpose: all say what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LstmgenError(Exception):
    """Base of every error that a user can cause. The message is complete: it needs no traceback."""


class CellError(LstmgenError):
    """The equations of a cell are not well formed.

    The message names the equation by its number and text, then says what is wrong, then what to do.
    """

    def __init__(self, problem: str, *, where: str = "", hint: str = "") -> None:
        self.problem, self.where, self.hint = problem, where, hint
        lines = [where, f"  {problem}" if where else problem]
        if hint:
            lines.append(f"  hint: {hint}")
        super().__init__("\n".join(line for line in lines if line))


class GenerateError(LstmgenError):
    """A target cannot express a cell, or an option is not one that the target has."""


class ToolchainError(LstmgenError):
    """A compiler or a library that compiling needs is missing, or refused the code."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean "gru"?`` or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""


def require_cell(found: object) -> None:
    """Refuse what is not a cell, but may be the name or the module of one.

    Raises
    ------
    TypeError
        That says how a cell is had. By what it lacks: to know ``Cell`` would be to import SymPy.
    """
    if hasattr(found, "equations"):
        return
    name = found if isinstance(found, str) else getattr(found, "__name__", "").rpartition(".")[2]
    if str(name).endswith((".py", ".cell")):
        hint = f'lstmgen.load_cell("{name}")'
    else:
        hint = f'lstmgen.cells.get("{name or "lstm"}") gets a reference cell'
    raise TypeError(f"a cell is a lstmgen.Cell, not a {type(found).__name__}\n  hint: {hint}")


def missing_matplotlib() -> LstmgenError:
    """The error where something is to be drawn, and Matplotlib is not installed."""
    return LstmgenError(
        "drawing needs Matplotlib, which is not installed\n  hint: pip install matplotlib"
    )


def missing_extra(library: str) -> ToolchainError:
    """The error for an optional library of the C target that is not installed."""
    return ToolchainError(
        f"compiling C needs {library}, which is not installed\n  hint: pip install 'lstmgen[c]'"
    )
