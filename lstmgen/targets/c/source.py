"""What all parts of one C source share."""

from __future__ import annotations

from functools import partial

import sympy
from sympy import Expr

from ...language.cell import Cell
from ...language.matrices import Matrix
from ...language.symbols import Vector
from ...planning import schedule
from ...printing.orders import Order
from ...printing.text import text as mathematics
from ..naming import identifier
from . import runtime
from .expressions import Expressions
from .places import Memory, Row
from .printer import Printer
from .scopes import Scope
from .sizes import Sizes
from .tree import Conditions, Expression, Member, Relation, Variable
from .vocabulary import (
    CALL,
    END,
    IN_SUMS,
    IN_WORK,
    STAGE_WORDS,
    SUMS,
    WORK,
    G,
    N,
    body_words,
    file_words,
)


class Source:
    """The plan, where its values live, and names.

    Stage functions are declared in the scope of the ``file``, sizes within it, and all that the
    functions for whole passes declare in ``names``: these functions share their names.

    With an ``owner``, the code is a part of that one's source: its own names begin with both names,
    and the types of numbers and statuses are the owner's.
    """

    def __init__(self, cell: Cell, dtype: str, fixed: dict[str, int], owner: str = "") -> None:
        self.cell, self.dtype = cell, dtype
        self.name = f"{owner}_{cell.name}" if owner else cell.name
        self.owner, self.is_embedded = owner or cell.name, bool(owner)
        self.plan = schedule.plan(cell, dtype=dtype)
        self.order = Order(cell, self.plan.derivation.forward)
        self.file = Scope(taken=file_words(self.name))
        self._sizes_scope = Scope(self.file, STAGE_WORDS)
        self.names = Scope(self._sizes_scope, body_words(self.name))
        self.sizes = Sizes(cell, dtype, fixed, self._sizes_scope)
        self.memory = Memory(self.plan, self.sizes)
        self.expressions = Expressions(self.order, dtype)
        self.printer = Printer(self.sizes.text, partial(runtime.name, dtype=dtype))

    def count(self, p: Matrix | Vector) -> Expr:
        """The numbers of a parameter."""
        return sympy.prod(self.cell.shape(p))

    def stage_scope(self) -> Scope:
        """The scope of a stage: it knows sizes, but nothing of what passes declare."""
        return Scope(self._sizes_scope)

    def text(self, e: Expr) -> str:
        """An expression as people write it, for comments."""
        return mathematics(e, self.order)

    # ------------------------------------------------------------------ sums of gradients

    @property
    def sums(self) -> tuple[Variable, Variable]:
        """Where they are, and what says where each begins: in a workspace, but apart where a pass
        may go on from block to block, each of its own size.
        """
        return (SUMS, IN_SUMS) if self.is_embedded else (WORK, IN_WORK)

    @property
    def have_begun(self) -> Expression:
        """Whether they have, before the tile that ends with step ``end``."""
        later = Relation(END, "<", Member(N, "T"), "size")
        return Conditions((Member(CALL, "begun"), later), "||") if self.is_embedded else later

    @property
    def accumulates(self) -> Expression:
        """Whether callers want gradients to be added to what is there."""
        return Member(CALL if self.is_embedded else G, "accumulate", "size")

    # ------------------------------------------------------------------ variables of passes

    def state(self, s: Vector) -> Variable:
        """The pointer to the rows of a state."""
        return Variable(self.names(("state", s.name), s.name))

    def carry(self, s: Vector, way: str) -> Variable:
        """The pointer to what flows back into a state: from the "next" step, to the "prev", or of
        "all" steps of a tile.
        """
        return Variable(self.names((way, s.name), f"d{s.name}_{way}"))

    def rows(self, v: Vector, wish: str = "") -> Variable:
        """The pointer to the rows of an array that callers own."""
        return Variable(self.names(("rows", v), f"{wish or identifier(v, self.cell)}_rows"))

    def pointer(self, what: Vector | Row) -> Variable:
        """The pointer to the rows of a state, or of a kind."""
        return Variable(what.name) if isinstance(what, Row) else self.state(what)
