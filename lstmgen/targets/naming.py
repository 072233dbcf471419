"""Identifiers in generated code: short, from the equations, unique, and no word of the language."""

from __future__ import annotations

from collections.abc import Iterable

from ..language.cell import Cell
from ..language.symbols import Vector


class Names:
    """Gives every key one name: the wish, unless that is taken or a word of the language."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.given: dict[object, str] = {}
        self._taken = set(reserved)

    def __call__(self, key: object, wish: str) -> str:
        if key not in self.given:
            name = wish
            while name in self._taken:
                name += "_"
            self._taken.add(name)
            self.given[key] = name
        return self.given[key]


def identifier(v: Vector, cell: Cell | None = None) -> str:
    """What a person would call ``v`` in code: c_prev, da_i, dh_next.

    ``cell`` is needed for cotangents: dy of its only output, dy_h and dy_c of several.
    """
    name = str(v.name)
    if v.category == "cotangent" and cell is not None and len(cell.outputs) > 1:
        return f"dy_{name}"
    if v.category == "state":
        return name if v.time == 0 else f"{name}_prev"
    if v.category == "carry":  # arrives from t+1 ("next"), or leaves for t-1 ("prev")
        return f"d{name}_next" if v.time == 0 else f"d{name}_prev"
    if v.category.startswith("partial"):
        return f"{name}_sum" if v.category == "partial" else f"d{name}_sum"
    return {"cotangent": "dy", "adjoint": f"d{name}", "gathered": f"d{name}_sum"}.get(
        v.category, name
    )
