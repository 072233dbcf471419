"""Equations as lines of LaTeX: one to a line, aligned and broken, or several side by side."""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Eq, Expr

from ...language.symbols import Gradient, Vector, shift
from ...printing.orders import Order, tidy
from .breaking import LINE, filled, joined, source_line, width
from .names import Names
from .typesetting import Typesetter


class Lines:
    """The lines of one page, whose terms and names are ``order`` and ``names``."""

    def __init__(self, order: Order, names: Names) -> None:
        self.order, self.names = order, names

    def math(self, e: Expr) -> str:
        return str(Typesetter(self.order, self.names).doprint(tidy(e)))

    def sides(self, e: Eq) -> tuple[str, list[str]]:
        """The left-hand side, and the right-hand side in pieces between which it may break."""
        origin = "t"
        if isinstance(e.lhs, Gradient) and getattr(e.lhs.args[0], "category", "") == "state":
            # what flows out of the first step: ∂L/∂c_0 = δc_1 ⊙ f_1
            origin, e = "", Eq(e.lhs, shift(e.rhs, 1), evaluate=False)
        return Typesetter(self.order, self.names, origin).sides(e)

    def line(self, e: Eq) -> str:
        left, pieces = self.sides(e)
        return f"{left} = {joined(pieces)}"

    def fits(self, e: Eq) -> bool:
        """Whether no piece of an equation is too wide for a line."""
        left, pieces = self.sides(e)
        room = LINE - width(f"{left} =")
        return all(width(line) <= room for line in filled(pieces, room))

    def aligned(self, equations: Sequence[Eq]) -> list[str]:
        """Lines of an ``align``, those that are too long broken at a term."""
        sides = [self.sides(e) for e in equations]
        room = LINE - max((width(f"{left} =") for left, _ in sides), default=0.0)
        joint = " \\notag \\\\*\n    &\\quad {} "
        return ended([f"{left} &= {joint.join(filled(p, room))}" for left, p in sides])

    def packed(self, equations: Sequence[Eq]) -> list[str]:
        """Lines that hold as many short equations as fit, of those that build on each other."""
        margin = max((width(self.math(e.lhs)) for e in equations), default=0.0)
        lines: list[str] = []
        room, chain = 0.0, set[Vector]()
        for e in equations:
            left, pieces = self.sides(e)
            line = f"{left} = {joined(pieces)}"
            builds = bool(chain & e.rhs.atoms(Vector))
            if builds and width(line) + 24 < room:
                lines[-1] += rf", \qquad {line}"
                room -= width(line) + 24
            else:
                lines += self.aligned([e])
                room = LINE - 20 - margin - width(f"= {joined(pieces)}")
                chain = chain if builds else set()
            chain.add(e.lhs)
        return ended(lines)


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def ended(lines: Sequence[str]) -> list[str]:
    """Lines with what ends each but the last, and broken where they are long as text."""
    separated = [rf"{line} \\" for line in lines[:-1]] + list(lines[-1:])
    return ["\n".join(map(source_line, line.split("\n"))) for line in separated]
