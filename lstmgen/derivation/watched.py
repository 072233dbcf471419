"""A cell that shows its gates, and what arrives at its states: for statistics while training.

The same step with more outputs, and with inputs that are zero: what is added to a state as it
leaves the step has the gradient of that state, by all ways on which it has a say in the loss. So
the backward pass has the adjoints of the states at every step, which BPTT itself keeps to itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Basic, Eq, Expr, Mul

from ..errors import require_cell
from ..language.cell import Cell
from ..language.functions import FUNCTIONS, GATES, Range
from ..language.ranges import ANY, ranges
from ..language.symbols import STATIC, Vector
from .names import Namer, namer_for


@dataclass(frozen=True)
class Watched:
    """What ``watch`` makes of a cell.

    Attributes
    ----------
    cell : Cell
        The step, with the bounded quantities as outputs, and the offsets as inputs.
    bounded : dict from name to Range
        What has bounds, and these: (0, 1) for a gate, (-1, 1) for a candidate. Outputs of the cell.
    offsets : dict from name to name
        For each state the input that is added to it: all zeros. Its gradient is that of the state
        after the step.
    """

    cell: Cell
    bounded: dict[str, Range]
    offsets: dict[str, str]


@lru_cache(maxsize=256)
def watch(cell: Cell) -> Watched:
    """The cell whose gates and adjoints can be seen.

    A quantity is watched if its function says that it lies between two numbers: a gate, σ(…), or a
    candidate, tanh(…), but not o tanh(c); a state only if it is such a function. A gate within an
    equation, as in c′ = σ(s) c + …, gets a name: ``sigmoid_s``.
    """
    require_cell(cell)
    namer = namer_for(cell, cell.equations)
    named = _with_names(cell, namer)
    bounded = {
        e.lhs: (float(low), float(high))
        for e, (low, high) in zip(named, ranges(named).values(), strict=True)
        if -math.inf < low < high < math.inf and _is_watched(e, low >= 0 and high <= 1)
    }
    offsets = {
        s.next: Vector(namer(f"{s.name}_offset"), "input", cell.shapes.declared(s))
        for s in cell.states
    }
    equations = [
        Eq(e.lhs, e.rhs + offsets[e.lhs], evaluate=False) if e.lhs in offsets else e for e in named
    ]
    outputs = dict.fromkeys((*cell.outputs, *bounded))
    names = {v.name: v for e in equations for v in e.atoms(Vector)}
    made = Cell(
        namer(f"{cell.name}_watched"), equations, tuple(outputs),
        title=f"{cell.title or cell.name}, watched", source=cell.source, notes=_NOTES,
        init={p: start for p in cell.parameters if (start := cell.initial(p)) is not None},
        roles={names[name]: role for name, role in cell.roles.items() if name in names},
    )  # fmt: skip
    of = {s.name: offset.name for s, offset in offsets.items()}
    return Watched(made, {v.name: bounds for v, bounds in bounded.items()}, of)


def _is_watched(e: Eq, is_gate: bool) -> bool:
    """Whether it says something that values of this bounded quantity are near to its bounds: it
    does of gates, also if several make one, but not of a gate times a tanh.
    """
    if not isinstance(e.lhs, Vector):
        return False
    if e.lhs.category == "state":
        return type(e.rhs) in FUNCTIONS
    return is_gate or _factors(e.rhs) == 1


def _factors(e: Basic) -> int:
    """How many bounded functions and moving quantities an expression is made of."""
    if type(e) in FUNCTIONS:
        bounds = FUNCTIONS[type(e)].bounds(*[ANY] * len(e.args))
        if all(map(math.isfinite, bounds)):
            return 1
    if isinstance(e, Vector):
        return 0 if e.category in STATIC else 2  # too many by itself
    return sum(map(_factors, e.args))


def _with_names(cell: Cell, namer: Namer) -> list[Eq]:
    """The equations, with one of its own for each gate in 0…1 that is a part of another."""
    made: dict[Expr, Vector] = {}
    lines = []
    for e in cell.equations:
        for gate in _gates_in(e):
            if gate not in made:
                v = _named(gate, cell, namer)
                lines.append(Eq(v, gate.xreplace(made), evaluate=False))
                made[gate] = v
        lines.append(Eq(e.lhs, e.rhs.xreplace(made), evaluate=False))
    return lines


def _gates_in(e: Eq) -> list[Expr]:
    """The parts of an equation that are gates, the innermost first; z σ(z) is an activation."""
    if not isinstance(e.lhs, Vector):
        return []
    own = {f for m in e.rhs.atoms(Mul) for f in m.args if f.args and f.args[0] in m.args}
    return [
        part for part in sympy.postorder_traversal(e.rhs)
        if isinstance(part, GATES) and FUNCTIONS[type(part)].bounds(ANY) == (0, 1)
        and part is not e.rhs and part not in own
        and any(v.category not in STATIC for v in part.atoms(Vector))
    ]  # fmt: skip


def _named(gate: Expr, cell: Cell, namer: Namer) -> Vector:
    """A quantity for a gate: called after its argument, if that is one."""
    of = gate.args[0]
    name = f"{FUNCTIONS[type(gate)].name}_{of.name}" if isinstance(of, Vector) else "gate"
    return Vector(namer(name), "vector", cell.shapes.declared(gate))


def watched(cell: Cell) -> Cell:
    """The cell that shows its gates; see ``watch``, which says what is what, too.

    Parameters
    ----------
    cell : Cell

    Returns
    -------
    Cell
        The same step. Its bounded quantities are outputs, after the cell's own; and each state has
        an input that is added to it, of zeros, the gradient by which is that by the state.
    """
    return watch(cell).cell


_NOTES = "What ends in _offset is zero; the gradient by it is that by the state after the step."
