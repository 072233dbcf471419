"""What a function of the program tree uses, found by walking it: bindings, names, stacks, helpers.

Nothing here changes the tree, and nothing reads printed code.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from functools import cached_property

from ..naming import Names
from .tree import (
    PACKED,
    AddRows,
    Argument,
    Assign,
    Attribute,
    Call,
    Declare,
    Equation,
    For,
    Function,
    Global,
    If,
    Kind,
    Local,
    Node,
    Sigmoid,
    Stack,
    children,
)


class Usage:
    """What will be printed of a function, definitions included."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.assigned = _assigned(function)
        self.locals = self._reached()

    def _reached(self) -> set[Local]:
        """The variables that the code will mention: those in statements, and those that these are
        made from, unless a statement binds them.
        """
        found: set[Local] = set()
        waiting: list[Node] = [self.function]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Local):
                if node in found:
                    continue
                found.add(node)
                if node in self.assigned:
                    continue
            waiting += _printed(node)
        return found

    @cached_property
    def nodes(self) -> list[Node]:
        """Every node, each variable once, after what it is made from."""
        seen: set[Local] = set()
        found: list[Node] = []

        def visit(node: Node) -> None:
            if isinstance(node, Local):
                if node in seen or node not in self.locals:
                    return
                seen.add(node)
            if not (isinstance(node, Local) and node in self.assigned):
                for child in children(node):
                    visit(child)
            found.append(node)

        visit(self.function)
        return found

    @cached_property
    def bindings(self) -> dict[Kind, list[Local]]:
        """What has to be bound, by the place where: each after what it is made from, otherwise in
        the order in which the function mentions them.
        """
        found: dict[Kind, list[Local]] = {kind: [] for kind in Kind}
        for node in self.nodes:
            if isinstance(node, Local) and node.kind is not None and node not in self.assigned:
                found[node.kind].append(node)
        return found

    @cached_property
    def names(self) -> dict[Local, str]:
        """A name for each variable, which is no argument, no global name that the function uses, no
        word of Python, and nobody else's.

        What statements bind comes first, then bindings in the order of their use, each before what
        it is made from.
        """
        reserved = {node.name for node in self.nodes if isinstance(node, Argument)}
        reserved |= {node.root for node in self.nodes if isinstance(node, Global)}
        give = Names({*reserved, *keyword.kwlist})

        def name(local: Local) -> str:
            beside = name(local.beside) if local.beside else ""
            return give(local, local.wish.replace("{}", beside))

        mentioned = list(self._from_the_top())
        for local in [*(v for v in mentioned if v.made is None), *mentioned]:
            name(local)
        return {local: name(local) for local in mentioned}

    def _from_the_top(self) -> Iterator[Local]:
        """Every variable once, before what it is made from."""
        seen: set[Local] = set()
        waiting: list[Node] = [self.function]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Local):
                if node in seen or node not in self.locals:
                    continue
                seen.add(node)
                yield node
            waiting += reversed(list(children(node)))

    @property
    def may_overflow(self) -> bool:
        """Whether exp may be infinite where that is right."""
        return any(isinstance(node, Sigmoid) for node in self.nodes)

    @property
    def helpers(self) -> set[str]:
        """The functions and tables of the module, and of Python, that are used."""
        return {n.name for n in self.nodes if isinstance(n, Global) and not n.module}

    @property
    def stacks(self) -> list[Stack]:
        """Parameters that are wanted on top of each other, in the order of their use."""
        return list(dict.fromkeys(n for n in self.nodes if isinstance(n, Stack)))

    @property
    def transposed(self) -> set[Stack]:
        """The stacks that are wanted with rows and columns exchanged in memory."""
        wanted = (Attribute(PACKED, "transposed"), Attribute(PACKED, "product"))
        calls = (n for n in self.nodes if isinstance(n, Call) and n.function in wanted)
        return {stack for c in calls for stack in c.arguments if isinstance(stack, Stack)}


def variables(body: Iterable[Node]) -> set[Local]:
    """The variables that a part of a function mentions."""
    return Usage(Function("part", tuple(body))).locals


def _assigned(function: Function) -> set[Local]:
    """The variables that statements bind."""
    found: set[Local] = set()
    waiting: list[Node] = [function]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Assign):
            found.update(t for t in node.targets if isinstance(t, Local))
        if isinstance(node, For):
            found.add(node.target)
        if not isinstance(node, Local):
            waiting += children(node)
    return found


def _printed(node: Node) -> Iterable[Node]:
    """The children that end up in the code. An equation and a place for bindings list others too,
    for the sake of their order.
    """
    if isinstance(node, Equation):
        return node.body
    if isinstance(node, Declare):
        return [node.together] if node.together else []
    return children(node)


def stack_names(usages: Iterable[Usage], taken: Iterable[str]) -> dict[Stack, str]:
    """The name of every stack of parameters; of one, its own."""
    stacks = [stack for usage in usages for stack in usage.stacks]
    give = Names({*taken, *(p.name for stack in stacks for p in stack.parameters)})
    return {
        stack: stack.parameters[0].name if len(stack.parameters) == 1 else give(stack, stack.wish)
        for stack in stacks
    }


def shares(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """What adds up to the gradient of each parameter, by its name."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        if isinstance(node, AddRows):
            for parameter, part in node.shares:
                found.setdefault(parameter, []).append(part)
        elif isinstance(node, (Equation, If)):
            for parameter, parts in shares(node.body).items():
                found.setdefault(parameter, []).extend(parts)
    return found
