"""What a cell in C checks before it touches any memory: sizes, and that all is there."""

from __future__ import annotations

from typing import Any

import sympy

from ...planning.operations import B, T
from ..identity import fingerprint, maker
from .expressions import WIDTH, joined
from .memory import Memory
from .statements import Source


def context(source: Source, memory: Memory) -> dict[str, Any]:
    """The variables of the template that are about checks."""
    counts = _arrays(source)
    structs, given = _given(source)
    return {
        "wrong_sizes": _wrong_sizes(source),
        "array_sizes": source.declared_sizes(counts),
        "not_too_large": _not_too_large(source, counts),
        "structs_given": structs,
        "given": given,
        "label": _label(source, memory),
    }


def _wrong_sizes(source: Source) -> list[str]:
    items = ["n == NULL", *(f"n->{n} == 0" for n in ("T", "B"))]
    for n in source.cell.sizes:
        fixed = source.fixed.get(n.name)
        items.append(f"n->{n.name} {f'!= {fixed}' if fixed else '== 0'}")
    return joined("||", "if (", items, ") {", WIDTH - 4)


def _not_too_large(source: Source, counts: list[str]) -> list[str]:
    """Arrays have sizes in bytes, and the width of a row does not wrap around."""
    upper = source.cell.name.upper()
    sizes = [n.name for n in source.cell.sizes if n.name not in source.fixed]
    items = [f"n->{n} <= SIZE_MAX / 4096" for n in sizes]  # a row has fewer blocks
    items += [f"fits({count})" for count in counts]
    return [
        *joined("&&", "const int fine = ", items, ";", WIDTH - 4),
        f"return fine ? {upper}_OK : {upper}_TOO_LARGE;",
    ]


def _arrays(source: Source) -> list[str]:
    """The sizes of the arrays that callers hand over, but for those that others include."""
    cell = source.cell
    sizes = [T * B * cell.size(v) for v in (*cell.inputs, *cell.masks, cell.output)]
    sizes += [sympy.Mul(*cell.shape(p)) for p in cell.parameters]
    found = list(dict.fromkeys(sizes))
    largest = [n for n in found if not any(m != n and sympy.denom(m / n) == 1 for m in found)]
    return [source.checked(n) for n in largest]


def _given(source: Source) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Functions that tell whether a struct is complete, and what each function has to be given."""
    cell, name = source.cell, source.cell.name
    learned = [p.name for p in cell.parameters]
    inputs = [v.name for v in cell.inputs] if len(cell.inputs) > 1 else []
    structs = {
        "p": ("params", learned), "x": ("inputs", inputs),
        "m": ("masks", [v.name for v in cell.masks]), "g": ("grads", learned),
        "dx": ("input_grads", inputs),
    }  # fmt: skip
    functions = []
    there = {a: f"{a} != NULL" for a in ("n", "y", "tape", "dy", "work", "packed")}
    if cell.states:
        there["next"] = "next != NULL"
    for a, (kind, members) in structs.items():
        if members:
            parts = [f"{a} != NULL", *(f"{a}->{member} != NULL" for member in members)]
            functions.append({
                "head": f"static int {name}_{kind}_given(const {name}_{kind} *{a})",
                "body": joined("&&", "return ", parts, ";", WIDTH - 4),
            })  # fmt: skip
            there[a] = f"{name}_{kind}_given({a})"
        elif a in ("x", "dx") or (a == "p" and cell.constants):
            there[a] = f"{a} != NULL"
    y = [] if cell.output.category == "state" else ["y"]
    wanted = {
        "pack": ["n", "p", "packed"],
        "forward": ["n", "p", "x", "m", "y", "work"],
        "step": ["n", "p", "x", "m", *y, "next", "work"],
        "backward": ["n", "p", "x", "m", "tape", "dy", "g", "dx", "work"],
    }
    given = {}
    for what, names in wanted.items():
        items = [there[a] for a in names if a in there]
        if what == "step" and learned:  # it reads packed parameters alone
            items[items.index(there["p"])] = "p != NULL"
        given[what] = joined("&&", "const int given = ", items, ";", WIDTH - 4)
    return functions, given


def _label(source: Source, memory: Memory) -> dict[str, Any]:
    """What a tape begins with, for backward to know it again."""
    layout = [f"{p.name} {p.rows} {p.width}" for p in memory.tape.parts]
    made = fingerprint(*maker(source.cell).values(), source.dtype, str(source.fixed), *layout)
    slices = "slice_count(n->B, n->threads)"
    values = [f"UINT64_C(0x{made})", "n->T", "n->B", slices]
    values += [f"n->{n.name}" for n in source.cell.sizes]
    words = memory.label // source.pad * 8
    return {"words": words, "facts": ", ".join(values)}
