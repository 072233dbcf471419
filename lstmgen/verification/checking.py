"""Verification: a generated module held against the cell's own equations.

The forward pass is compared with a direct evaluation of the equations as their author wrote them:
a walk over the SymPy trees, without normal form, plan, templates or generated text. The gradients
are compared with two witnesses made of that evaluation alone (``witnesses``). So nothing that leads
from the equations to the module under test is used to judge it.

Forward mode is judged as well: the tangents of ``derive(cell, mode="forward")`` over a whole
sequence, Jv, against dual numbers; and ⟨Jv, w⟩ against ⟨v, Jᵀw⟩, where v is a random direction, w
the cotangents, and Jᵀw the gradients that the module returns.

Of networks the same holds: their graphs are evaluated piece by piece (``graphs``, ``networks``).

C is checked in a process of its own (``supervision``), which calls ``check_here`` (``serving``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import require_cell
from ..targets import is_network
from .examination import Examination, Judge
from .report import Progress, Report
from .supervision import TIMEOUT, Task, supervise

_TARGET_NAMES = {"numpy": "NumPy", "c": "C"}


def check(
    cell: Any,
    target: str = "numpy",
    dtype: str = "float64",
    *,
    module: Any = None,
    sizes: Mapping[str, int] | None = None,
    T: int = 7,
    B: int = 3,
    seed: int = 0,
    seeds: int = 3,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
    **options: Any,
) -> Report:
    """Compile a cell or a network and hold what comes out against its equations.

    C is compiled and run in a process of its own: if it is so wrong that it crashes, that is an
    error like another. NumPy code, and a ``module``, run in this one.

    Parameters
    ----------
    cell : Cell or Network
    target : str
        "numpy" or "c".
    dtype : str
        "float64" or "float32": the precision of the module. The witnesses are in float64 always.
    module : optional
        A module with the same interface to be judged in place of a compiled one.
    sizes : mapping of str to int, optional
        Numbers for some of the symbolic sizes, such as ``{"H": 16}``.
    T, B : int
        Steps and rows of the main case.
    seed : int
        Of the random values.
    seeds : int
        How many random cases of T steps and B rows there are, from ``seed`` on.
    progress : callable, optional
        Called with (done, total, what comes next).
    timeout : float
        Seconds after which compiling and running C is given up.
    **options
        For the target, as in ``compile``.

    Returns
    -------
    Report
        True if all agree; printed, it is a table with a row for each gradient, one for forward
        mode and one for its dot product with the gradients. Of a network, a few entries of each
        gradient are asked for one by one, and the dot product has all of them.

    Raises
    ------
    LstmgenError
        If the equations have no finite value in any of the random cases tried, or rounding decides
        their results; if C crashed, ended its process, or took too long.
    ToolchainError
        If C cannot be compiled.
    """
    if not is_network(cell):
        require_cell(cell)
    arguments: dict[str, Any] = {"sizes": sizes, "T": T, "B": B, "seed": seed, "seeds": seeds}
    if module is None and target == "c":
        task = Task(cell, target, dtype, {**arguments, **options})
        return supervise(task, timeout, progress)
    return check_here(cell, target, dtype, module=module, progress=progress, **arguments, **options)


def check_here(
    cell: Any,
    target: str,
    dtype: str,
    *,
    sizes: Mapping[str, int] | None,
    T: int,
    B: int,
    seed: int,
    seeds: int,
    module: Any = None,
    progress: Progress | None = None,
    stage: Callable[[str], None] = lambda name: None,
    **options: Any,
) -> Report:
    """``check`` in this process, whatever the target; ``stage`` is told what begins."""
    if module is None:
        from ..runtime.toolchain import compile

        stage("compiling")
        module = compile(cell, target, dtype=dtype, **options)
        sizes = {**(sizes or {}), **_constants(cell, options)}
    stage("checking")
    shape: dict[str, Any] = {"sizes": sizes, "T": T, "B": B, "seed": seed, "seeds": seeds}
    examination: Judge
    if is_network(cell):
        from .networks import NetworkExamination

        examination = NetworkExamination(cell, dtype, **shape)
    else:
        tape = getattr(module, "TAPE_DTYPE", None)  # what it keeps may be of fewer bits
        examination = Examination(cell, dtype, tape=tape and np.dtype(tape).name, **shape)
    return examination.judge(module, _TARGET_NAMES.get(target, target), progress)


def _constants(cell: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Sizes that became compile-time constants."""
    known = {n.name for n in getattr(cell, "sizes", ())}
    return {n: int(value) for n, value in options.items() if n in known}
