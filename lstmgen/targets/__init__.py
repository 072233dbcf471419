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
_WITH_NETWORKS = tuple(
    name
    for name in NAMES
    if any(m.name == "network" for m in pkgutil.iter_modules([f"{__path__[0]}/{name}"]))
)


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
    module = _module_for(cell, target)
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


def _of_kind(cell: Cell | Structure) -> tuple[str, ...]:
    """The targets that can generate it."""
    return _WITH_NETWORKS if is_network(cell) else NAMES


def _module_for(cell: Cell | Structure, target: str) -> Any:
    """The module of a target that generates what was given: cells, or networks.

    Raises
    ------
    GenerateError
        If the target has none.
    """
    if not is_network(cell):
        return _module(target)
    if target not in _WITH_NETWORKS:
        names = ", ".join(c.name for c in cell.cells)  # type: ignore[union-attr]
        raise GenerateError(
            f"the target {target} has no networks\n  hint: give it the cells of the network, one "
            f"after the other: {names}"
        )
    return importlib.import_module(f".{target}.network", __name__)


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
        for other in _of_kind(cell):
            there = _module_for(cell, other)
            if unknown[0] in _known(cell, there) | getattr(there, "OF_COMPILE", set()):
                hint = f'the target "{other}" has it'
        what = " for networks" if is_network(cell) else ""
        raise GenerateError(
            f"the target {target} has no option {unknown[0]!r}{what}\n  hint: {hint}"
        )
    return options


def _known(cell: Any, module: Any) -> set[str]:
    """The options of a target."""
    takes = getattr(module, "TAKES_SIZES", False) and not is_network(cell)
    sizes = {str(n) for n in cell.sizes} if takes else set()
    return {*module.OPTIONS, "source"} | sizes
