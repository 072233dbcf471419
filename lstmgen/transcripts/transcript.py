"""A cell's equations as a person would write them with PyTorch or JAX.

A comparison is worth as much as its weaker side, and so this writes what someone who knows the
library writes by hand, and not a product an equation: what does not depend on the recurrence is
done before the loop and for all steps at once; the matrices that act on one vector are kept as one,
and so are their biases and gains; what follows the products in the same way (a normalisation, a
gain, a sum, an activation) is done for all of them at once; values that are needed twice are
computed once; and PyTorch's own ``layer_norm`` is used where the equations spell one out. The
matrices of several heads are kept as one, too: for a vector as rows, for heads as a batch. What is
repeated along other axes is left to broadcasting.

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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sympy import Expr

from ..language.cell import Cell
from ..language.symbols import Vector
from .body import Body
from .dialects import Dialect, Output, Parts
from .scope import Argument, Scope
from .stacks import Region


@dataclass(frozen=True)
class Transcript:
    """Python text that defines ``sequence(*arguments) -> (*outputs, *final states)``.

    With PyTorch it defines ``step`` as well, which ``sequence`` calls. Of a matrix in ``columns``,
    columns that are multiplied with different vectors are parameters of their own.
    """

    source: str
    arguments: tuple[Argument, ...]
    states: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]

    def arrays(self, values: Mapping[str, Any]) -> list[Any]:
        """The arguments' arrays, from the values of what the cell's equations read."""
        found = dict(values)
        for name, widths in self.cuts().items():
            cuts = np.cumsum(list(widths.values()))[:-1]
            found.update(zip(widths, np.split(found[name], cuts, axis=1), strict=True))
        return [argument.join(found) for argument in self.arguments]

    def parts(self, arrays: Mapping[Argument, Any]) -> dict[str, Any]:
        """What arrays of the arguments' shapes say of the cell's parameters, inputs and states."""
        found: dict[str, Any] = {}
        for argument, array in arrays.items():
            found |= argument.split(array)
        for name, pieces in self.columns.items():
            if pieces[0] in found:
                found[name] = np.concatenate([found.pop(piece) for piece in pieces], axis=1)
        return found

    def cuts(self) -> dict[str, dict[str, int]]:
        """Of each matrix in ``columns``, how many columns each of its pieces has."""
        shapes = {part: shape for a in self.arguments
                  for part, shape in zip(a.parts, a.shapes, strict=False)}  # fmt: skip
        return {
            name: {piece: shapes[piece][1] for piece in pieces}
            for name, pieces in self.columns.items()
        }


def transcribe(cell: Cell, sizes: Mapping[str, int], dialect: Dialect) -> Transcript:
    """Write ``cell`` for given sizes in a library's language; steps and rows are any number.

    Raises LstmgenError if the library lacks a word.
    """
    return _written(Scope(cell, sizes, dialect))


def _written(scope: Scope) -> Transcript:
    loop = Region(scope.equations.step, scope, None)
    made = {e.lhs: e.rhs for e in scope.equations.before}
    rank: dict[Expr, int] = {}
    for m in (m for stack in loop.stacks for m in stack.members):
        if m.early and m.partner in made:
            rank.setdefault(made[m.partner], len(rank))
    inner = Body(loop, scope)
    inner.write()
    inner.count()
    # a state or an output may not depend on the recurrence at all
    new = [_leaving(scope, s.at(0)) for s in scope.cell.states]
    outputs = [_output(scope, v) for v in scope.cell.outputs]
    outer = Body(Region(scope.equations.before, scope, rank), scope)
    outer.write()
    outer.gather()
    outer.count()
    there = {part for a in scope.arguments.values() for part in a.parts}
    there.update(scope.rewritten.columns)
    for p in scope.cell.parameters:  # those that are in no stack
        if p.name not in there:
            scope.argument([p], "whole")
    given = {"constant": scope.cell.constants, "input": scope.cell.inputs,
             "mask": scope.cell.masks, "state": scope.cell.states}  # fmt: skip
    arguments = (
        *scope.arguments.values(),
        *(Argument(v.name, (v.name,), kind) for kind, vs in given.items() for v in vs),
    )
    prepared, turned = (
        [f"{name} = {value}" for name, value in made.items()]
        for made in (scope.prepared, scope.turned)
    )
    states = tuple(s.name for s in scope.cell.states)
    source = scope.dialect.assembled(
        Parts(
            [a.name for a in arguments], prepared + outer.lines + turned, list(scope.closed),
            list(scope.wanted.values()), list(states), inner.lines, new, outputs,
        )
    )  # fmt: skip
    columns = {m: tuple(b.name for b in blocks) for m, blocks in scope.rewritten.columns.items()}
    return Transcript(source, arguments, states, columns)


def _leaving(scope: Scope, v: Vector) -> str:
    """What leaves a step, by the name that it has there."""
    return scope.name(v) if scope.equations.levels[v] == 2 else scope.early([v])


def _output(scope: Scope, v: Vector) -> Output:
    made, whole = _leaving(scope, v), scope.dialect.collected
    if len(scope.cell.outputs) > 1:
        return Output(made, scope.namer(f"y_{v.name}"), scope.namer(f"{whole}_{v.name}"))
    return Output(made, "y_" if any(s.name == "y" for s in scope.cell.states) else "y", whole)
