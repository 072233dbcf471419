"""The state Jacobian as text: what a change of the states brings, and its structure."""

from __future__ import annotations

from ..derivation.jacobian import Recurrence, StateJacobian
from .orders import Order
from .text import text, wrap

_WIDTH = 84
_NAMES = 24  # the widest list of states that text stands beside


def changes(jacobian: StateJacobian) -> list[str]:
    """The equations of a change of the states; lines."""
    order = Order(jacobian.cell)
    rows = [text(e, order, "show").split(" = ", 1) for e in jacobian.lines]
    margin = max((len(left) for left, _ in rows), default=0)
    lines = []
    for left, right in rows:
        first, *others = wrap(right, _WIDTH - margin - 3)
        lines += [f"{left.ljust(margin)} = {first}", *(" " * (margin + 3) + o for o in others)]
    return lines


def recurrences(jacobian: StateJacobian) -> list[str]:
    """What structure each group of states that depend on each other has; lines."""
    order = Order(jacobian.cell)
    names = [" ".join(s.name for s in r.states) for r in jacobian.recurrences]
    margin = max((len(name) for name in names if len(name) <= _NAMES), default=0)
    lines = []
    for name, r in zip(names, jacobian.recurrences, strict=True):
        said = [kind(r), *_block(r, order, _WIDTH - margin - 4)]
        if len(name) > margin:  # beside so many names there is no room
            lines.append(name)
            name = ""
        for line in said:
            lines.append(f"{name.ljust(margin)}    {line}")
            name = ""
    return lines


def kind(r: Recurrence) -> str:
    """Whether a recurrence is elementwise, and linear; in words."""
    if not r.is_loop:
        return "does not depend on itself"
    k = len(r.states)
    units = "each unit by itself" if k == 1 else f"the {k} states of each unit by themselves"
    how = {
        "elementwise": f"elementwise: {units}",
        "within heads": "dense within a head, or along an axis",
        "dense": "dense: each unit depends on all",
    }[r.mixing]
    return f"{how}, {'linear' if r.is_linear else 'not linear'}"


def _block(r: Recurrence, order: Order, width: int) -> list[str]:
    """The entries of the block of an elementwise one that are not zero."""
    if r.block is None:
        is_long = r.is_loop and r.mixing == "elementwise"
        return ["its Jacobian is too long to write out"] if is_long else []
    lines = []
    for i, new in enumerate(r.states):
        for j, old in enumerate(r.states):
            if r.block[i, j] != 0:
                left = f"∂{new.name}′/∂{old.name} = "
                value = text(r.block[i, j], order, "show")
                first, *others = wrap(value, width - len(left))
                lines += [left + first, *(" " * len(left) + o for o in others)]
    return lines
