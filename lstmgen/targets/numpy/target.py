"""The NumPy target: a module that needs only NumPy, written as an expert would by hand.

The plan is made ``eager``: whatever does not depend on the recurrence is done for many steps at
once. Each equation becomes calls that write with ``out=`` into arrays made before the loop.
``numpy_places`` says where values live, ``numpy_passes`` writes forward and backward.
"""

from __future__ import annotations

import json
import re

from ...errors import GenerateError
from ...language.cell import Cell
from ...language.symbols import Vector
from ...planning.schedule import plan as make_plan
from ..comments import header
from ..identity import maker
from ..modules import MODULES
from ..rendering import environment
from .passes import RESERVED, Backward, Forward, Stacks
from .places import Places
from .step import Step
from .ufuncs import HELPERS

OPTIONS: frozenset[str] = frozenset()
TAKES_SIZES = False

_TRANSPOSED = r'packed\.(?:transposed\(|product\(\w+, )"(\w+)"'


def files(cell: Cell, *, source: str = "") -> dict[str, str]:
    """The module for ``cell``: ``{"lstm.py": text}``.

    A cell called as a module of Python's library, of any version, or as NumPy or lstmgen is in
    ``math_cell.py`` or the like: scripts beside it would import it instead of the library.

    Raises
    ------
    GenerateError
        If a size has the name of one of the module's own variables.
    """
    for size in cell.sizes:
        if size.name in RESERVED:
            raise GenerateError(
                f"the NumPy target cannot name a size {size.name}\n"
                "  hint: choose another letter, such as N"
            )
    plan = make_plan(cell, eager=True)
    places, stacks = Places(plan), Stacks(plan)
    writers: dict[str, Forward | Backward | Step] = {
        "forward": Forward(plan, places, stacks), "backward": Backward(plan, places, stacks),
        "step": Step(plan, stacks),
    }  # fmt: skip
    lines = {name: writer.lines() for name, writer in writers.items()}
    body = "\n".join(line for part in lines.values() for line in part)
    module = environment("numpy").get_template("module.py.j2")
    return {
        f"{_stem(cell)}.py": module.render(
            **_tables(cell),
            header=header(cell, "numpy", source),
            **lines,
            may_overflow=[name for name, writer in writers.items() if writer.calls.may_overflow],
            stacks=stacks.members,
            transposed=sorted(set(re.findall(_TRANSPOSED, body))),
            helpers=[h for h in (*HELPERS.values(), "_blocks") if f"{h}(" in body],
        )
    }


def _stem(cell: Cell) -> str:
    return f"{cell.name}_cell" if cell.name in MODULES else cell.name


def face(cell: Cell) -> str:
    """The part of the module that computes nothing: tables, ``init``, and the checks of arrays."""
    return environment("numpy").get_template("face.py.j2").render(**_tables(cell))


def _tables(cell: Cell) -> dict[str, object]:
    binds = _binds(cell)
    return {
        "cell": cell,
        "parameters": [(p.name, tuple(str(n) for n in cell.shape(p))) for p in cell.parameters],
        "initial": [
            (p.name, repr(start))
            for p in cell.parameters
            if isinstance(p, Vector) and (start := cell.initial(p))
        ],
        "states": [(s.name, str(cell.size(s))) for s in cell.states],
        "inputs": [(v.name, str(cell.size(v))) for v in cell.inputs],
        "masks": [(v.name, str(cell.size(v))) for v in cell.masks],
        "constants": [(v.name, repr(cell.initial(v))) for v in cell.constants],
        "sizes": [str(n) for n in cell.sizes],
        "numbers": _numbers(cell),
        "input_size": str(cell.size(cell.inputs[0])),
        "init_binds": list(binds.items()),
        "init_about": _about_binds(binds),
        "output_size": str(cell.size(cell.output)),
        "maker": json.dumps(maker(cell)),
    }


def _binds(cell: Cell) -> dict[str, str]:
    """What the first two arguments of ``init`` mean: the size of an input, and that of a state.

    D and H where the cell has them, since that is how people call them; else those that come first.
    """
    fed, held = ([str(cell.size(v)) for v in vectors] for vectors in (cell.inputs, cell.states))
    hidden = ["H"] if "H" in map(str, cell.sizes) else held[:1]
    binds = dict(zip(["hidden_size"], hidden, strict=False))
    return {**binds, "input_size": "D" if "D" in fed else fed[0]}


def _numbers(cell: Cell) -> dict[str, int]:
    """Sizes that are numbers, under the names that the tables give them."""
    symbols = (*cell.parameters, *cell.inputs, *cell.masks, *cell.states, cell.output)
    shapes = {n for s in symbols for n in cell.shape(s)}
    return {str(n): int(n) for n in sorted(shapes, key=str) if n.is_Integer}


def _about_binds(binds: dict[str, str]) -> str:
    listed = sorted(binds.items(), reverse=True)
    if len(binds) > 1 and len(set(binds.values())) == 1:
        return f"{' and '.join(what for what, _ in listed)} are both {binds['input_size']}."
    return f"{' and '.join(f'{what} is {size}' for what, size in listed)}."
