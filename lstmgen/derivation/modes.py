"""``derive``: one name for both modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from sympy import Eq

from ..errors import LstmgenError
from ..language.cell import Cell
from .forward import Tangents, forward
from .reverse import Derivation, reverse


@overload
def derive(what: Cell, mode: Literal["reverse"] = ...) -> Derivation: ...


@overload
def derive(what: Cell | Derivation | Sequence[Eq], mode: Literal["forward"]) -> Tangents: ...


def derive(what: Cell | Derivation | Sequence[Eq], mode: str = "reverse") -> Derivation | Tangents:
    """Derive backpropagation through time for a cell, or the tangents of equations.

    Parameters
    ----------
    what : Cell, or for forward mode a Derivation or a list of equations
        Forward mode over a ``Derivation`` gives, beside the tangents of the step, those of its
        backward pass: a Hessian-vector product.
    mode : str
        "reverse" for adjoints, ``.equations`` and ``.gradients``; "forward" for tangents, the
        Jacobian-vector products of one step.

    Raises
    ------
    CellError
        If an equation holds a function that cannot be differentiated.
    LstmgenError
        If there is no such mode, or it does not take ``what``.
    """
    if mode == "forward":
        if isinstance(what, Cell):
            return forward(what.equations, what.shapes, kept=what.outputs)
        if isinstance(what, Derivation):
            lines = (*what.forward, *what.adjoints, *what.totals)
            return forward(lines, what.cell.shapes, normal=True)
        return forward(tuple(what))
    if mode != "reverse":
        raise LstmgenError(f'the mode is "reverse" or "forward", not {mode!r}')
    if isinstance(what, (Cell, Derivation, str)) or not isinstance(what, Sequence):
        return reverse(what)  # type: ignore[arg-type]  # which says what it takes
    raise LstmgenError(
        "reverse mode takes a cell, since adjoints need to know what is a state and an output\n"
        '  hint: derive(equations, mode="forward") takes any equations'
    )
