"""Targets: one package a language, each a printer and templates. ``generate`` is the way in.

Every package in this folder is a target, under its own name; its module ``target`` has ``files``,
``OPTIONS`` and ``TAKES_SIZES``, ``PLAN`` if it has a plan made, and ``OF_COMPILE`` if ``compile``
takes more for it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from ..errors import GenerateError, did_you_mean, require_cell
from ..language import dtypes
from .sealing import seal

if TYPE_CHECKING:
    from ..language.cell import Cell
    from ..network.structure import Structure

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def generate(cell: Cell | Structure, target: str, **options: Any) -> dict[str, str]:
    """Generate code for a cell or a network: a dict from file name to text. Nothing is written.

    Parameters
    ----------
    cell : Cell or Network
    target : str
        "numpy", "c" or "latex".
    **options
        What the target offers. NumPy: ``tape="float16"``, what values are stored in that are kept
        for the backward pass, states aside. C: ``dtype`` ("float32" or "float64"),
        ``single_file=True`` for a source that has the runtime in it, and sizes that become
        compile-time constants (``D=24, H=32``).

    Raises
    ------
    GenerateError
        If there is no such target or option, or the target cannot express the cell.
    """
    if not is_network(cell):
        require_cell(cell)
    if target not in NAMES:
        raise GenerateError(
            f'there is no target "{target}"\n'
            f"  hint: {did_you_mean(target, NAMES)} the targets are {', '.join(NAMES)}"
        )
    module = _of_networks(target) if is_network(cell) else _module(target)
    files: dict[str, str] = module.files(cell, **_checked(cell, target, module, options))
    return {name: seal(text) for name, text in files.items()}


def is_network(given: object) -> bool:
    """Whether it is a network, by what it has: to know its class would be to import SymPy."""
    return hasattr(given, "graph")


def plan_options(target: str) -> dict[str, Any]:
    """What a target asks of a plan."""
    options: dict[str, Any] = _module(target).PLAN
    return options


def _module(target: str) -> Any:
    return importlib.import_module(f".{target}.target", __name__)


def _of_networks(target: str) -> Any:
    """The module of a target that generates networks.

    Raises
    ------
    GenerateError
        If the target has none.
    """
    try:
        return importlib.import_module(f".{target}.network", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{target}.network":
            raise
        raise GenerateError(
            f"the target {target} has no networks\n  hint: give it the cells of the layers"
        ) from error


def _checked(cell: Any, target: str, module: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options that the target has; ``dtype`` is accepted by all, since NumPy code fits any."""
    known = _known(cell, module)
    options = dict(options)
    if "dtype" in options:
        dtypes.dtype(options["dtype"])
    if "dtype" not in known:
        options.pop("dtype", None)
    unknown = sorted(set(options) - known)
    if unknown:
        takes = f"it takes {', '.join(sorted(known - {'source'})) or 'none'}"
        hint = f"{did_you_mean(unknown[0], known)} {takes}".strip()
        for other in NAMES:
            there = _module(other)
            if unknown[0] in _known(cell, there) | getattr(there, "OF_COMPILE", set()):
                hint = f'the target "{other}" has it'
        raise GenerateError(f"the target {target} has no option {unknown[0]!r}\n  hint: {hint}")
    return options


def _known(cell: Any, module: Any) -> set[str]:
    """The options of a target."""
    sizes = {str(n) for n in cell.sizes} if getattr(module, "TAKES_SIZES", False) else set()
    return {*module.OPTIONS, "source"} | sizes
