"""What each name is, of which the equations declare nothing: by how it is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .functions import KNOWN, NUMBERS, is_axis, is_hint
from .tree import Axes, Equation, Header, Node

DEFAULTS: Mapping[str, Axes] = {
    "input": ("D",), "state": ("H",), "vector": ("H",), "mask": ("",), "constant": ("1",),
    "parameter": ("",), "matrix": ("", ""), "derived": ("", ""),
}  # fmt: skip


@dataclass(frozen=True)
class Kinds:
    """What names are: a category of ``DEFAULTS``, "size", "number", or "function"."""

    of: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.of.get(name, "parameter")


def infer(equations: Sequence[Equation], header: Header) -> Kinds:
    """What each name of the equations is.

    What has a ``.next`` on the left is a state, and what else is on the left a vector. What the
    header names is what it says. Of the others, the left operand of ``@`` is a matrix, and what
    stands for an axis only is a size; all that is left is a learned vector.
    """
    kinds: dict[str, str] = {e.name: "state" if e.of_state else "vector" for e in equations}
    declared = dict.fromkeys(header.masks, "mask") | dict.fromkeys(header.constants, "constant")
    inputs = header.inputs
    if inputs is None:
        taken = {*kinds, *declared, *header.matrices, *header.vectors}
        inputs = {} if "x" in taken else {"x": None}
    declared |= dict.fromkeys(inputs, "input")
    kinds = declared | kinds
    as_values: set[str] = set()
    as_axes: set[str] = set()
    for e in equations:
        for name, of_axis in _used(e.value):
            (as_axes if of_axis else as_values).add(name)
    known_sizes = sizes_of(header, kinds)
    own = {*header.sizes, *header.starts, *header.init, *header.fixed, *header.roles}
    own |= {*header.matrices, *header.vectors}
    for name in as_values | as_axes:
        if name in kinds or name in own:
            continue
        if name in known_sizes or name not in as_values:
            kinds[name] = "size"
        elif name in NUMBERS:
            kinds[name] = "number"
        elif name in KNOWN:
            kinds[name] = "function"  # whose argument is missing
    matrices = set(header.matrices)
    for e in equations:
        for node in e.value.walk():
            for name in _matrices_at(node, kinds, header):
                if name not in header.vectors:
                    matrices.add(name)
    for name in matrices:
        if kinds.get(name, "parameter") == "parameter":
            kinds[name] = "matrix"
    _mark_derived(equations, header, kinds, matrices)
    return Kinds(kinds)


def mistaken(equations: Sequence[Equation], header: Header, kinds: Kinds) -> dict[str, str]:
    """Learned vectors that nothing but their use makes so, and that are most likely a slip of the
    keyboard: each with the name that is meant, which an equation or the header defines.

    These are letters that changed places, and a letter too many or too few within a word. Other
    changes, as of ``gate`` to ``rate``, to ``gates`` or to ``gate2``, make names that are meant.
    """
    known = [n for n, kind in kinds.of.items() if kind not in ("size", "number", "function")]
    given = {*header.sizes, *header.starts, *header.init, *header.fixed, *header.roles}
    given |= {*header.vectors, *known}
    found = {}
    for name in {n for e in equations for n, of_axis in _used(e.value) if not of_axis} - given:
        near = next((k for k in known if _is_slip(name, k)), None)
        if near is not None:
            found[name] = near
    return found


def _is_slip(a: str, b: str) -> bool:
    if min(len(a), len(b)) < 4 or a[0] != b[0] or (a[-1] != b[-1] and len(a) != len(b)):
        return False
    if len(a) == len(b):
        apart = [k for k, (m, n) in enumerate(zip(a, b, strict=True)) if m != n]
        return len(apart) == 2 and apart[1] == apart[0] + 1 and sorted(a) == sorted(b)
    short, long = sorted((a, b), key=len)
    more = (k for k in range(1, len(long) - 1) if long[:k] + long[k + 1 :] == short)
    return any(long[k].isalpha() for k in more)


def sizes_of(header: Header, kinds: Mapping[str, str]) -> set[str]:
    """The names of sizes that the header has, or that are meant where it says nothing."""
    found: set[str] = set()
    for name, kind in kinds.items():
        if header.axes(name) is None and kind in ("input", "state", "vector"):
            found.update(DEFAULTS[kind])
    for line in (header.sizes, header.inputs or {}, header.masks, header.matrices, header.vectors):
        for axes in line.values():
            for axis in axes or ():
                found.update(_names(axis))
    return found


def _names(size: str) -> Iterator[str]:
    yield from re.findall(r"[A-Za-z_][A-Za-z0-9_]*", size)


def _used(e: Node) -> Iterator[tuple[str, bool]]:
    """The names in an expression, each with whether it stands for an axis."""
    waiting = [(e, False)]
    while waiting:
        node, of_axis = waiting.pop()
        if node.kind == "name":
            yield node.word, of_axis
        if node.kind == "call":
            for k, argument in enumerate(node.args):
                if not is_hint(node, k):
                    waiting.append((argument, of_axis or is_axis(node, k)))
        else:
            waiting.extend((a, of_axis) for a in node.args)


def _matrices_at(node: Node, kinds: Mapping[str, str], header: Header) -> Iterator[str]:
    """The names that have to be matrices for what stands right here."""
    if node.kind == "attribute" and node.word == "T":
        yield from _leading(node.args[0], kinds, header)
    if node.kind == "product" and "@" in node.words:
        # Python reads a * U @ h as (a * U) @ h: all that is on the left is the left operand
        for k, sign in enumerate(node.words):
            if sign == "@":
                left = node.args[: k + 1]
                yield from _last_matrix(left, node.words[:k], kinds, header)


def _leading(node: Node, kinds: Mapping[str, str], header: Header) -> Iterator[str]:
    """The matrices of an expression that is one."""
    if node.kind == "name":
        if _may_be_matrix(node.word, kinds, header):
            yield node.word
    elif node.kind == "product":
        yield from _last_matrix(node.args, node.words, kinds, header)
    elif node.kind == "call":
        if node.word not in ("expand", "sum", "mean", "max", "outer", "size"):
            yield from _leading(node.args[0], kinds, header) if node.args else ()
    elif node.kind in ("sum", "signed", "attribute"):
        for a in node.args:
            yield from _leading(a, kinds, header)
    elif node.kind == "power":
        yield from _leading(node.args[0], kinds, header)


def _last_matrix(
    factors: Sequence[Node], signs: Sequence[str], kinds: Mapping[str, str], header: Header
) -> Iterator[str]:
    """The matrix among factors, of which the others are numbers: the last one, if any can be."""
    above = [f for k, f in enumerate(factors) if k == 0 or signs[k - 1] != "/"]
    for factor in reversed(above):
        found = list(_leading(factor, kinds, header))
        if found:
            yield from found
            return


def _may_be_matrix(name: str, kinds: Mapping[str, str], header: Header) -> bool:
    axes = header.axes(name)
    if axes is not None and len(axes) < 2:
        return False
    return kinds.get(name, "parameter") in ("parameter", "vector", "matrix")


def _mark_derived(
    equations: Sequence[Equation], header: Header, kinds: dict[str, str], matrices: set[str]
) -> None:
    """What is defined and used as a matrix is one, if it is made of what does not move."""
    for e in equations:
        if kinds.get(e.name) != "vector" or e.name not in matrices or e.name in header.vectors:
            continue
        used = {name for name, of_axis in _used(e.value) if not of_axis}
        moving = {n for n in used if kinds.get(n) in ("input", "state", "vector", "mask")}
        if not moving or e.name in header.matrices:
            kinds[e.name] = "derived"
