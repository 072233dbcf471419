"""What a cell in C checks before it touches any memory: sizes, and that all is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy
from sympy import Expr, Integer

from ...language.sizes import Size
from ...planning.operations import B, T
from ..identity import fingerprint, maker
from .lines import INSIDE, WIDTH, broken
from .memory import Memory
from .sizes import monomials
from .source import Source
from .tree import (
    NIL,
    NULL,
    ONE,
    Address,
    Call,
    Choice,
    Conditions,
    Count,
    Declare,
    Expression,
    If,
    Kind,
    Literal,
    Member,
    Relation,
    Return,
    Statement,
    Store,
    Variable,
    together,
)
from .vocabulary import CALL, FINE, GIVEN, ONE_STEP, STATUS, N

_WHETHER = Kind("int", is_const=True)
# A row has fewer blocks than this: its width does not wrap around.
_MOST_UNITS = Literal("SIZE_MAX / 4096")


class Checks:
    """What the functions that callers see check, as lines."""

    def __init__(self, source: Source, memory: Memory) -> None:
        self.source, self.cell, self.sizes, self.memory = source, source.cell, source.sizes, memory
        self.name, upper = source.name, source.owner.upper()
        self._status = Kind(f"{source.owner}_status", is_const=True)
        self._ok, self._bad_size, self._too_large, self._null, self._not_packed = (
            Literal(f"{upper}_{what}")
            for what in ("OK", "BAD_SIZE", "TOO_LARGE", "NULL_ARGUMENT", "NOT_PACKED")
        )

    def context(self) -> dict[str, Any]:
        """The variables of the template that are about checks."""
        structs, given = self._given()
        lines = self.source.printer.lines
        is_packed = Relation(Member(replace(CALL, type="struct"), "packed"), "==", NULL, "size")
        needed = Conditions((self._is(STATUS), is_packed), "&&")
        return {
            "check": self.check(),
            "structs_given": structs,
            "admit": lines(self._admit()),
            "opening": {what: lines(self._opening(what, given[what])) for what in given},
            "needs_packed": lines([Store(STATUS, Choice(needed, self._not_packed, STATUS))]),
            "label": self._label(),
        }

    def check(self) -> list[str]:
        """Whether sizes are right, and those of all arrays."""
        return self.source.printer.lines(self._check())

    def _is(self, status: Expression) -> Relation:
        return Relation(status, "==", self._ok, "size")

    # ------------------------------------------------------------------ sizes

    def _check(self) -> list[Statement]:
        """Sizes are right, and no array is too large."""
        wrong: list[Expression] = [Relation(N, "==", NULL, "size")]
        wrong += [Relation(Member(N, str(n), "size"), "==", NIL, "size") for n in (T, B)]
        huge: list[Expression] = []
        for n in self.cell.sizes:
            size, fixed = Member(N, n.name, "size"), self.sizes.fixed.get(n.name)
            value = NIL if fixed is None else Count(Integer(fixed))
            wrong.append(Relation(size, "==" if fixed is None else "!=", value, "size"))
            if fixed is None:
                huge.append(Relation(size, "<=", _MOST_UNITS, "size"))
        rows = self._products()
        huge += [Relation(count, "<=", _MOST_UNITS, "size") for count in rows]
        arrays = self._arrays()
        huge += [Call("fits", (count,), "size") for count in arrays]
        return [
            If(Conditions(tuple(wrong), "||"), (Return(self._bad_size),)),
            *together(self.sizes.declared([*rows, *arrays])),
            Declare(_WHETHER, FINE, Conditions(tuple(huge), "&&")),
            Return(Choice(FINE, self._ok, self._too_large)),
        ]

    def _products(self) -> list[Expression]:
        """The units of what has several axes: each size may be small enough where these are not."""
        found = {
            sympy.Mul(*(f for f in m if f.is_Symbol))
            for count in self.sizes.wide
            for m in monomials(count)
        }
        wide = set(self.sizes.wide.values())  # each is a count of its own
        many = [n for n in found if not (n.is_Symbol or n.atoms(Size) & wide)]
        return [self.sizes.checked(n) for n in _largest(sorted(many, key=str))]

    def _arrays(self) -> list[Expression]:
        """The sizes of the arrays that callers hand over, but for those that others include."""
        cell = self.cell
        sizes = [T * B * cell.size(v) for v in (*cell.inputs, *cell.masks, *cell.outputs)]
        sizes += [sympy.Mul(*cell.shape(p)) for p in cell.parameters]
        return [self.sizes.checked(n) for n in _largest(sizes)]

    def _admit(self) -> list[Statement]:
        """Whether a call has what it has to be given, and its buffers have sizes."""
        no_size = [Relation(Variable(a, "size"), "==", NIL, "size") for a in ("tape", "work")]
        checked = Call(f"{self.name}_check", (N,), "size")
        too_large = Conditions((self._is(STATUS), Conditions(tuple(no_size), "||")), "&&")
        return [
            Declare(self._status, STATUS, Choice(GIVEN, checked, self._null)),
            Return(Choice(too_large, self._too_large, STATUS)),
        ]

    # ------------------------------------------------------------------ what is given

    def _given(self) -> tuple[list[dict[str, Any]], dict[str, Expression]]:
        """Functions that tell whether a struct is complete, and what each function has to be
        given.
        """
        cell, name = self.cell, self.name
        parameters, learned = ([p.name for p in ps] for ps in (cell.parameters, cell.learned))
        inputs = [v.name for v in cell.inputs] if len(cell.inputs) > 1 else []
        outputs = [v.name for v in cell.outputs] if len(cell.outputs) > 1 else []
        structs = {
            "p": ("params", parameters), "x": ("inputs", inputs),
            "m": ("masks", [v.name for v in cell.masks]), "g": ("grads", learned),
            "y": ("outputs", outputs),
        }  # fmt: skip
        functions = []
        there: dict[str, Expression] = {
            a: _is_there(Variable(a)) for a in ("n", "y", "tape", "dy", "work", "packed")
        }
        if cell.states:
            there["next"] = _is_there(Variable("next"))
        for a, (kind, members) in structs.items():
            if members:
                struct = Variable(a)
                parts = [_is_there(struct), *(_is_there(Member(struct, m)) for m in members)]
                head = [f"const {name}_{kind} *{a}"]
                functions.append({
                    "head": broken(f"static int {name}_{kind}_given(", head, ")", WIDTH),
                    "body": self.source.printer.lines([Return(Conditions(tuple(parts), "&&"))]),
                })  # fmt: skip
                there[a] = Call(f"{name}_{kind}_given", (struct,), "size")
            elif a == "x" or (a == "p" and cell.constants):
                there[a] = _is_there(Variable(a))
        more = [v for v in cell.outputs if v.category != "state"]
        y = ["y"] if more else []
        wanted = {
            "pack": ["n", "p", "packed"],
            "forward": ["n", "p", "x", "m", "y", "work"],
            "step": ["n", "p", "x", "m", *y, "next", "work"],
            "backward": ["n", "p", "x", "m", "tape", "dy", "g", "work"],
        }
        given: dict[str, Expression] = {}
        for what, names in wanted.items():
            items = [there[a] for a in names if a in there]
            if what == "step" and parameters:  # it reads packed parameters alone
                items[items.index(there["p"])] = _is_there(Variable("p"))
            if what == "step" and outputs and more:  # states are in the new state as well
                at, whole = items.index(there["y"]), Variable("y")
                needed = (whole, *(Member(whole, v.name) for v in more))
                items[at : at + 1] = map(_is_there, needed)
            given[what] = Conditions(tuple(items), "&&")
        return functions, given

    def _opening(self, what: str, given: Expression) -> list[Statement]:
        """What each function begins with: whether it may run at all."""
        buffers = {
            "pack": ("", "packed"), "forward": ("tape", "forward_work"), "step": ("", "step_work"),
            "backward": ("tape", "backward_work"),
        }[what]  # fmt: skip
        sizes = [Call(f"{self.name}_{b}_size", (N,), "size") if b else ONE for b in buffers]
        n = Address(ONE_STEP) if what in ("pack", "step") else N
        kind = Kind(f"{self.name}_status", is_const=what != "step")
        admitted = Call(f"{self.name}_admit", (GIVEN, n, *sizes), "size")
        return [Declare(_WHETHER, GIVEN, given), Declare(kind, STATUS, admitted)]

    # ------------------------------------------------------------------ tapes

    def _label(self) -> dict[str, Any]:
        """What a tape begins with, for backward to know it again."""
        slices = "slice_count(n->B, n->threads)"
        values = [f"UINT64_C(0x{self.fingerprint()})", "n->T", "n->B", slices]
        values += [f"n->{n.name}" for n in self.cell.sizes]
        made = broken(f"return ({self.name}_label){{{{", values, "}};", INSIDE)
        return {"words": self.memory.label // self.sizes.pad * 8, "made": made}

    def fingerprint(self) -> str:
        """Digits that follow from what a tape is made by, and made of."""
        layout = [f"{p.name} {p.rows} {p.width}" for p in self.memory.tape.parts]
        made = maker(self.cell).values()
        return fingerprint(*made, self.source.dtype, str(self.sizes.fixed), *layout)


def _largest(counts: Sequence[Expr]) -> list[Expr]:
    """All counts but those that are factors of others."""
    found = list(dict.fromkeys(counts))
    return [n for n in found if not any(m != n and sympy.denom(m / n) == 1 for m in found)]


def _is_there(pointer: Expression) -> Relation:
    return Relation(pointer, "!=", NULL, "size")
