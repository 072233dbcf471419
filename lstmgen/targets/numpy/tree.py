"""The program tree: what the NumPy target lowers a plan to, and prints last.

It is as much of Python as generated functions need. A ``Local`` is a variable, and carries how it
is made; so an expression that reads a view of a buffer holds the whole chain down to memory, and
nobody has to note what was used: ``analysis`` finds it by a walk. Names are wishes until then.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, fields
from enum import Enum, auto

import sympy
from sympy import Expr

from ...language.matrices import Matrix
from ...language.symbols import Vector


class Kind(Enum):
    """Where a variable is bound, and by what; one kind is bound in one place."""

    SIZE = auto()  # in the function: sizes of arrays
    TAKEN = auto()  # what the forward pass left on the tape
    STORED = auto()  # a state at all times, with its first value in front
    PARAMETER = auto()  # parameters and stacks of them
    NUMBER = auto()  # numbers as arrays
    KEPT = auto()  # memory for the whole sequence
    NARROW = auto()  # the same, in fewer bits than are computed with
    SCRATCH = auto()  # memory for a block or a step
    TOTAL = auto()  # what is summed over the sequence
    CHOICE = auto()  # what depends on the size of the batch
    VIEW = auto()  # views that last as long as the function
    RESULT = auto()  # what is made of sums after the last block
    SLICE = auto()  # in the loop over blocks: which steps
    BLOCK = auto()  # views of all steps of the block
    STEP = auto()  # in the loop over steps: one step of each


@dataclass(frozen=True)
class Node:
    """A part of a program. Equal nodes say the same."""


# --------------------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Local(Node):
    """A variable of a function: one for each ``key``.

    ``made`` is what it is bound to; of a step, the array of all steps. Without it, a statement
    binds it. ``{}`` in the wish stands for the name of ``beside``, which is named before.
    """

    key: Hashable
    wish: str = field(compare=False)
    kind: Kind | None = field(default=None, compare=False)
    made: Node | None = field(default=None, compare=False)
    beside: Local | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Argument(Node):
    """An argument of a function: its name is part of the interface."""

    name: str


@dataclass(frozen=True)
class Global(Node):
    """A name from outside the function: of the template, of Python, or in a module."""

    name: str
    module: str = ""

    @property
    def root(self) -> str:
        return self.module or self.name


@dataclass(frozen=True)
class Literal(Node):
    """A constant of Python: a number, a string, None, an ellipsis."""

    value: object


@dataclass(frozen=True)
class Amount(Node):
    """An expression in sizes: a count of units such as 4*H, or, if not ``whole``, a number."""

    value: Expr
    whole: bool
    sizes: tuple[Local, ...]


@dataclass(frozen=True)
class Unary(Node):
    """operator operand."""

    operator: str
    operand: Node


@dataclass(frozen=True)
class Binary(Node):
    """left ∘ right; a tree of these is printed without parentheses, but for conditions."""

    left: Node
    operator: str
    right: Node


@dataclass(frozen=True)
class Junction(Node):
    """Conditions that are joined, each in parentheses."""

    operator: str
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Quotient(Node):
    """above / below, rounded up."""

    above: Node
    below: Node


@dataclass(frozen=True)
class Choice(Node):
    """yes if condition else no."""

    condition: Node
    yes: Node
    no: Node


@dataclass(frozen=True)
class Tuple(Node):
    """Items in parentheses: a shape, or several values."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Dict(Node):
    """A dict with strings as keys."""

    items: tuple[tuple[str, Node], ...]


@dataclass(frozen=True)
class Table(Node):
    """A dict with strings as keys that is printed with an entry on each line."""

    items: tuple[tuple[str, Node], ...]


@dataclass(frozen=True)
class Merged(Node):
    """Another dict, and one entry more."""

    base: Node
    key: Node
    value: Node


@dataclass(frozen=True)
class Call(Node):
    """function(arguments, options), where the options are given by name."""

    function: Node
    arguments: tuple[Node, ...]
    options: tuple[tuple[str, Node], ...] = ()


@dataclass(frozen=True)
class Attribute(Node):
    """base.name, such as a method."""

    base: Node
    name: str


@dataclass(frozen=True)
class Stack(Node):
    """The name, as a string, under which parameters are stacked; of one, its own."""

    parameters: tuple[Matrix | Vector, ...]
    wish: str = field(compare=False)


@dataclass(frozen=True)
class Lookup(Node):
    """The values of several keys of a dict, one after another."""

    table: Node
    keys: tuple[str, ...]
    each: Local = Local("key", "name")


@dataclass(frozen=True)
class Gather(Node):
    """A dict of several keys of another one."""

    table: Node
    keys: Node
    each: Local = Local("key", "name")


@dataclass(frozen=True)
class Empty(Node):
    """Memory that nothing has been written to."""

    shape: Tuple
    dtype: Node
    function: Global = Global("empty", "np")


# --------------------------------------------------------------------------- views of arrays


@dataclass(frozen=True)
class Span(Node):
    """A slice in an index: start:stop, or ::-1 for all of an axis turned round."""

    start: Node | None = None
    stop: Node | None = None
    turned: bool = False


@dataclass(frozen=True)
class Item(Node):
    """base[index]: a part of an array, or an entry of a dict."""

    base: Node
    index: tuple[Node, ...]


@dataclass(frozen=True)
class Reshaped(Node):
    """The same numbers in another shape."""

    base: Node
    shape: tuple[Node, ...]


@dataclass(frozen=True)
class Swapped(Node):
    """Two axes exchanged."""

    base: Node
    first: int
    second: int


# --------------------------------------------------------------------------- statements


@dataclass(frozen=True)
class Assign(Node):
    """targets = values, with a remark behind it."""

    targets: tuple[Node, ...]
    values: tuple[Node, ...]
    remark: str = ""


@dataclass(frozen=True)
class Do(Node):
    """A call for its effect."""

    call: Node


@dataclass(frozen=True)
class Into(Node):
    """A call that writes to ``out``; printed as a += b where that says the same."""

    function: Node
    arguments: tuple[Node, ...]
    out: Node
    options: tuple[tuple[str, Node], ...] = ()


@dataclass(frozen=True)
class Sigmoid(Node):
    """out = 1 / (1 + exp(-inner)), where exp may be infinite."""

    one: Node
    minus: Node
    inner: Node
    out: Node
    functions: tuple[Global, ...] = tuple(Global(f, "np") for f in ("multiply", "exp", "divide"))


@dataclass(frozen=True)
class AddRows(Node):
    """total += leftᵀ right, over all rows of a block; the first block starts it.

    ``shares`` says what belongs to the gradient of each parameter in the end.
    """

    total: Node
    left: Node
    right: Node
    first: Local
    shares: tuple[tuple[str, Node], ...]
    function: Global = Global("_add_rows")


@dataclass(frozen=True)
class Equation(Node):
    """Statements that compute what the comment says. ``operands`` are what it writes, then what it
    reads: in this order they are declared.
    """

    comment: tuple[str, ...]
    operands: tuple[Node, ...]
    body: tuple[Node, ...]


@dataclass(frozen=True)
class Section(Node):
    """A part of a function with a title; nothing is printed if there is nothing in it."""

    title: str
    body: tuple[Node, ...]


@dataclass(frozen=True)
class If(Node):
    """if condition: body."""

    condition: Node
    body: tuple[Node, ...]


@dataclass(frozen=True)
class For(Node):
    """A loop over a range."""

    target: Local
    over: Node
    body: tuple[Node, ...]


@dataclass(frozen=True)
class TimeLoop(Node):
    """The loop over the steps of a block, which binds what its body reads of one step."""

    count: Local
    backwards: bool
    body: tuple[Node, ...]
    unused: Local = Local("unused", "_")
    functions: tuple[Global, ...] = (Global("range"), Global("zip"))


@dataclass(frozen=True)
class Declare(Node):
    """The place of all bindings of some kinds that the function uses.

    Among those of a kind, ``first`` come before others, if they are used. Arrays are made
    ``together``.
    """

    kinds: tuple[Kind, ...]
    first: tuple[Local, ...] = ()
    together: Global | None = None


@dataclass(frozen=True)
class Blank(Node):
    """An empty line."""


@dataclass(frozen=True)
class Return(Node):
    """The values that a function returns."""

    values: tuple[Node, ...]


@dataclass(frozen=True)
class Function(Node):
    """The body of one function of the module."""

    name: str
    body: tuple[Node, ...]


# --------------------------------------------------------------------------- walking


def children(node: Node) -> Iterator[Node]:
    """The nodes that ``node`` holds, in the order of its fields; not what a name stands beside."""
    for f in fields(node):
        if f.name != "beside":
            yield from _nodes(getattr(node, f.name))


def _nodes(value: object) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _nodes(item)


# --------------------------------------------------------------------------- short forms

ALL = Span()
ELLIPSIS = Literal(...)
TURNED = Span(turned=True)
NEWAXIS = Global("newaxis", "np")
DTYPE = Local("dtype", "dtype")
SIZES = Local("sizes", "sizes")
PACKED = Local("packed", "packed")


def np(name: str) -> Global:
    """A function of NumPy."""
    return Global(name, "np")


def item(base: Node, *index: Node) -> Item:
    """base[index]."""
    return Item(base, index)


def call(function: Node, *arguments: Node) -> Call:
    """function(arguments)."""
    return Call(function, arguments)


def method(base: Node, name: str, *arguments: Node, **options: Node) -> Call:
    """base.name(arguments, options)."""
    return Call(Attribute(base, name), arguments, tuple(options.items()))


def transposed(base: Node) -> Node:
    """base.T."""
    return Attribute(base, "T")


def size(n: str) -> Local:
    """The variable for a size: T, B, or one of the cell's."""
    return Local(("size", n), n, Kind.SIZE, item(SIZES, Literal(n)))


def amount(e: Expr, whole: bool = True) -> Amount:
    """A count of units, or a number, in terms of sizes."""
    value = sympy.expand(e) if whole else e
    names = sorted(s.name for s in value.free_symbols)
    return Amount(value, whole, tuple(size(n) for n in names))


def empty(*shape: Node, dtype: Node = DTYPE) -> Empty:
    """np.empty(shape, dtype)."""
    return Empty(Tuple(shape), dtype)


def product(first: Node, *others: Node) -> Node:
    """first * others."""
    for other in others:
        first = Binary(first, "*", other)
    return first


def number(n: int) -> Literal:
    """A whole number."""
    return Literal(n)


def bind(target: Node, value: Node, remark: str = "") -> Assign:
    """target = value."""
    return Assign((target,), (value,), remark)


def store(out: Node, value: Node) -> Assign:
    """out[...] = value."""
    return bind(item(out, ELLIPSIS), value)


def add(out: Node, value: Node) -> Into:
    """out += value."""
    return Into(np("add"), (out, value), out)
