"""A cell's equations as a person would write them with PyTorch or JAX.

A comparison is worth as much as its weaker side, and so this writes what someone who knows the
library writes by hand, and not a product an equation: what does not depend on the recurrence is
done before the loop and for all steps at once; the matrices that act on one vector are kept as one,
and so are their biases and gains; what follows the products in the same way (a normalisation, a
gain, a sum, an activation) is done for all of them at once; values that are needed twice are
computed once; and PyTorch's own ``layer_norm`` is used where the equations spell one out.

For the LSTM and PyTorch:

    def step(U_ifog_T, x_ifog_t, h, c):
        a, a_2 = torch.split(torch.addmm(x_ifog_t, h, U_ifog_T), [192, 64], dim=-1)
        i, f, o = torch.chunk(torch.sigmoid(a), 3, dim=-1)
        g = torch.tanh(a_2)
        c_next = c * f + g * i
        h_next = o * torch.tanh(c_next)
        return h_next, c_next
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sympy import Expr

from ..errors import LstmgenError
from ..language.cell import Cell
from ..language.matrices import Matrix
from ..language.symbols import Vector
from .body import Body
from .dialects import Dialect, Parts
from .scope import Argument, Scope
from .stacks import Region


@dataclass(frozen=True)
class Transcript:
    """Python text that defines ``sequence(*arguments) -> (y, *final states)``.

    With PyTorch it defines ``step`` as well, which ``sequence`` calls.
    """

    source: str
    arguments: tuple[Argument, ...]
    states: tuple[str, ...]


def transcribe(cell: Cell, sizes: Mapping[str, int], dialect: Dialect) -> Transcript:
    """Write ``cell`` for given sizes (T and B among them) in a library's language.

    Raises LstmgenError if a quantity of the cell has several axes, or the cell several outputs or
    parameters that are not learned.
    """
    several = [v for v in (*cell.vectors, *cell.parameters) if len(cell.shape(v)) > _axes(v)]
    unlearned = [p for p in cell.parameters if not p.learned]
    why, only = "", ""
    if len(cell.outputs) > 1:
        why, only = f"it has the outputs {_listed(v.name for v in cell.outputs)}", "with one output"
    elif unlearned:
        why, only = f"{unlearned[0]} is not learned", "that learn all parameters"
    elif several:
        shape = _listed(map(str, cell.shape(several[0])))
        why, only = f"{several[0]} has the shape ({shape})", "whose quantities are vectors"
    if why:
        raise LstmgenError(
            f"{cell.name} cannot be written for {dialect.name} yet: {why}\n"
            f"  hint: only cells {only} can be timed --against a library"
        )
    return _written(Scope(cell, sizes, dialect))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _axes(v: Vector | Matrix) -> int:
    return 2 if isinstance(v, Matrix) else 1


def _written(scope: Scope) -> Transcript:
    loop = Region(scope.equations.step, scope, None)
    made = {e.lhs: e.rhs for e in scope.equations.before}
    rank: dict[Expr, int] = {}
    for m in (m for stack in loop.stacks for m in stack.members):
        if m.early and m.partner in made:
            rank.setdefault(made[m.partner], len(rank))
    inner = Body(loop, scope)
    inner.write()
    # a state or an output may not depend on the recurrence at all
    new = [_leaving(scope, s.at(0)) for s in scope.cell.states]
    y = _leaving(scope, scope.cell.output)
    outer = Body(Region(scope.equations.before, scope, rank), scope)
    outer.write()
    outer.gather()
    for p in scope.cell.parameters:  # learned vectors that are in no stack
        if not any(p.name in a.parts for a in scope.arguments.values()):
            scope.argument([p.name], "vector", [scope.number(scope.cell.shape(p)[0])])
    given = {"constant": scope.cell.constants, "input": scope.cell.inputs,
             "mask": scope.cell.masks, "state": scope.cell.states}  # fmt: skip
    arguments = (
        *scope.arguments.values(),
        *(Argument(v.name, (v.name,), kind) for kind, vs in given.items() for v in vs),
    )
    prepared = [f"{name} = {value}" for name, value in scope.prepared.items()]
    states = tuple(s.name for s in scope.cell.states)
    source = scope.dialect.assembled(
        Parts(
            [a.name for a in arguments], prepared + outer.lines, list(scope.closed),
            list(scope.wanted.values()), list(states), inner.lines, new, y,
        )
    )  # fmt: skip
    return Transcript(source, arguments, states)


def _leaving(scope: Scope, v: Vector) -> str:
    """What leaves a step, by the name that it has there."""
    return scope.name(v) if scope.equations.levels[v] == 2 else scope.early([v])
