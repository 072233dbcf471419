"""The tree between text and SymPy: what a reader parses, and what a writer prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, eq=False)
class Node:
    """A piece of an equation.

    ``kind`` says what it is, and what ``words`` are:

    - "number": its digits; "name": the name; "keyword": the name of an argument, its value in args
    - "attribute": ``next`` or ``T``, of args[0]
    - "call": the function; "index": the number of the part of args[0]
    - "sum": the signs between args; "product": the operators; "comparison": the relations
    - "power", "signed" (the sign), "disjunction", "conjunction", "negated": of args
    """

    kind: str
    words: tuple[str, ...] = ()
    args: tuple[Node, ...] = ()
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)

    @property
    def word(self) -> str:
        """The only word."""
        return self.words[0]

    @cached_property
    def depth(self) -> int:
        """How deep it is nested; nodes below know theirs already where one is made of them.

        U @ V @ x counts as U @ (V @ x), which it is.
        """
        return 1 + self.words.count("@") + max((a.depth for a in self.args), default=0)

    def walk(self) -> Iterator[Node]:
        """All nodes, from this one down."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.args))


@dataclass(frozen=True)
class Equation:
    """``target = value``: the target is a name, or ``name.next``."""

    target: Node
    value: Node

    @property
    def name(self) -> str:
        """What it defines."""
        node = self.target.args[0] if self.target.kind == "attribute" else self.target
        return node.word

    @property
    def of_state(self) -> bool:
        """Whether it defines what leaves a step."""
        return self.target.kind == "attribute"


Axes = tuple[str, ...]


@dataclass
class Header:
    """What stands before the equations; ``places`` has where in the text a name is declared."""

    texts: dict[str, str] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)
    inputs: dict[str, Axes | None] | None = None
    masks: dict[str, Axes | None] = field(default_factory=dict)
    constants: dict[str, float | None] = field(default_factory=dict)
    matrices: dict[str, Axes | None] = field(default_factory=dict)
    vectors: dict[str, Axes | None] = field(default_factory=dict)
    sizes: dict[str, Axes | None] = field(default_factory=dict)
    starts: dict[str, object] = field(default_factory=dict)
    init: dict[str, object] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    places: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def axes(self, name: str) -> Axes | None:
        """The axes that are declared for a name, on whichever line."""
        for line in (self.sizes, self.inputs or {}, self.masks, self.matrices, self.vectors):
            if line.get(name):
                return line[name]
        return None


# From loose to tight: what stands in parentheses within what.
_BINDING = {
    kind: level
    for level, kind in enumerate(
        ("disjunction", "conjunction", "negated", "comparison", "sum", "product", "signed", "power")
    )
}
_TIGHT = len(_BINDING)


def text_of(node: Node) -> str:
    """An expression as it is written."""
    match node.kind:
        case "number" | "name":
            return node.word
        case "keyword":
            return f"{node.word}={text_of(node.args[0])}"
        case "attribute":
            return f"{_within(node.args[0], _TIGHT)}.{node.word}"
        case "index":
            return f"{_within(node.args[0], _TIGHT)}[{node.word}]"
        case "call":
            return f"{node.word}({', '.join(map(text_of, node.args))})"
        case "power":
            base, exponent = node.args
            return f"{_within(base, _TIGHT)}**{_within(exponent, _BINDING['signed'])}"
        case "signed":
            return f"{node.word}{_within(node.args[0], _BINDING['signed'])}"
        case "negated":
            return f"not {_within(node.args[0], _BINDING['negated'])}"
        case "disjunction" | "conjunction":
            word = " or " if node.kind == "disjunction" else " and "
            return word.join(_within(a, _BINDING[node.kind] + 1) for a in node.args)
        case _:
            level = _BINDING[node.kind] + 1
            first, *others = (_within(a, level) for a in node.args)
            pairs = zip(node.words, others, strict=True)
            return first + "".join(f" {word} {other}" for word, other in pairs)


def _within(node: Node, level: int) -> str:
    inner = text_of(node)
    return inner if _BINDING.get(node.kind, _TIGHT) >= level else f"({inner})"
