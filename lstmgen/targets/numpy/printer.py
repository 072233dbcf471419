"""The program tree as lines of Python: layout, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import sympy
from sympy import Expr
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from ...printing.orders import literal
from .analysis import Usage, variables
from .tree import (
    AddRows,
    Amount,
    Argument,
    Assign,
    Attribute,
    Binary,
    Blank,
    Call,
    Choice,
    Declare,
    Dict,
    Do,
    Empty,
    Equation,
    For,
    Gather,
    Global,
    If,
    Into,
    Item,
    Junction,
    Kind,
    Literal,
    Local,
    Lookup,
    Merged,
    Node,
    Quotient,
    Reshaped,
    Return,
    Section,
    Sigmoid,
    Span,
    Stack,
    Swapped,
    Table,
    TimeLoop,
    Tuple,
    Unary,
    np,
    number,
)

_WIDTH = 92  # of a line in a function
_IN_PLACE = {np("add"): "+=", np("subtract"): "-=", np("multiply"): "*=", np("divide"): "/="}
_COMMUTES = (np("add"), np("multiply"))


def lines(usage: Usage, stacks: Mapping[Stack, str]) -> list[str]:
    """The body of a function, with names for its variables and every binding in its place."""
    return _Printer(usage, stacks).block(usage.function.body)


class _Printer:
    def __init__(self, usage: Usage, stacks: Mapping[Stack, str]) -> None:
        self.names, self.bindings, self.stacks = usage.names, usage.bindings, stacks
        self._depth = 0  # of blocks in the function

    # ------------------------------------------------------------------ statements

    def block(self, statements: Sequence[Node]) -> list[str]:
        return [line for s in statements for line in self.statement(s)]

    def indented(self, statements: Sequence[Node]) -> list[str]:
        self._depth += 1
        lines = [f"    {line}".rstrip() for line in self.block(statements)]
        self._depth -= 1
        return lines

    def statement(self, s: Node) -> list[str]:
        show = self.show
        match s:
            case Assign():
                return self.assign(s)
            case Do():
                return self.call(s.call)
            case Into():
                return self.into(s)
            case Sigmoid():
                return self.sigmoid(s)
            case AddRows():
                arguments = (s.total, s.left, s.right, s.first)
                return self.call(Call(s.function, arguments))
            case Equation():
                return [*(f"# {line}" for line in s.comment), *self.block(s.body)]
            case Section():
                body = self.block(s.body)
                return ["", f"# {s.title}: all steps of the block at once", *body] if body else []
            case If():
                return [f"if {show(s.condition)}:", *self.indented(s.body)]
            case For():
                head = f"for {show(s.target)} in {show(s.over)}:"
                return [head, *self.indented(s.body)]
            case TimeLoop():
                return ["", *self.loop_head(s), *self.indented(s.body)]
            case Declare():
                return self.declare(s)
            case Blank():
                return [""]
            case Return():
                return self.returned(s)
        raise TypeError(f"{type(s).__name__} is not a statement")

    def assign(self, s: Assign) -> list[str]:
        targets = self.listed(s.targets)
        (*_, last) = s.values
        if isinstance(last, Table):
            entries = [f'    "{key}": {self.show(value)},' for key, value in last.items]
            return [f"{targets} = {{", *entries, "}"]
        if isinstance(last, Dict):
            return filled(f"{targets} = {{", self.entries(last), "}")
        remark = f"  # {s.remark}" if s.remark else ""
        return [f"{targets} = {self.listed(s.values)}{remark}"]

    def call(self, call: Node) -> list[str]:
        """A call alone; its arguments have lines of their own if they are long."""
        assert isinstance(call, Call)
        width = _WIDTH - 4 * max(0, self._depth - 1)
        return filled(f"{self.show(call.function)}(", self.arguments(call), ")", width)

    def into(self, s: Into) -> list[str]:
        """One call that writes to ``out``; a += b where that says the same, which is faster too."""
        if s.function in _IN_PLACE and len(s.arguments) == 2:
            first, second = s.arguments
            if second == s.out and s.function in _COMMUTES:
                first, second = second, first
            if first == s.out:
                out, operator = self.show(s.out), _IN_PLACE[s.function]
                if isinstance(second, Call):
                    start = f"{out} {operator} {self.show(second.function)}("
                    return filled(start, self.arguments(second), ")")
                return [f"{out} {operator} {self.show(second)}"]
        return self.call(Call(s.function, s.arguments, (*s.options, ("out", s.out))))

    def sigmoid(self, s: Sigmoid) -> list[str]:
        first, *others = [
            line
            for function, arguments in (
                ("multiply", (s.inner, s.minus)), ("exp", (s.out,)), ("add", (s.out, s.one)),
                ("divide", (s.one, s.out)),
            )
            for line in self.into(Into(np(function), arguments, s.out))
        ]  # fmt: skip
        return [f"{first}  # σ(a) = 1 / (1 + exp(-a))", *others]

    def loop_head(self, s: TimeLoop) -> list[str]:
        inside = variables(s.body)  # a function may have several loops
        each = [v for v in self.bindings[Kind.STEP] if v in inside]
        back = "[::-1]" if s.backwards else ""
        names = [self.names[v] for v in each]
        arrays = [f"{self.show(v.made)}{back}" for v in each if v.made]
        if not each:
            return [f"for {self.show(s.unused)} in range({self.show(s.count)}):"]
        if len(each) == 1:
            return [f"for {names[0]} in {arrays[0]}:"]
        short = f"for {', '.join(names)} in zip({', '.join(arrays)}):"
        if len(short) <= 88:
            return [short]
        return [*filled("for (", names, ") in zip(", 88), *filled("", arrays, "):", 0)]

    def returned(self, s: Return) -> list[str]:
        (*others, last) = s.values
        if not isinstance(last, Dict):
            return [f"return {self.listed(s.values)}"]
        start = "".join(f"{self.show(v)}, " for v in others)
        return filled(f"return {start}{{", self.entries(last), "}")

    # ------------------------------------------------------------------ bindings

    def declare(self, s: Declare) -> list[str]:
        found: list[Local] = []
        for kind in s.kinds:
            here = self.bindings[kind]
            found += (v for v in s.first if v in here)
            found += (v for v in here if v not in s.first)
        if s.kinds == (Kind.SIZE,):
            values = ", ".join(self.show(v.made) for v in found if v.made)
            return [f"{', '.join(self.names[v] for v in found)} = {values}"] if found else []
        if s.together and len(found) > 1:
            return self.together(s.together, found)
        if s.kinds == (Kind.SCRATCH,):
            return self.by_shape(found)
        return [f"{self.names[v]} = {self.show(v.made)}" for v in found if v.made]

    def together(self, function: Global, arrays: Sequence[Local]) -> list[str]:
        """Arrays in one piece of memory."""
        names = [self.names[v] for v in arrays]
        makes = [v.made for v in arrays if isinstance(v.made, Empty)]
        shapes = [self.show(m.shape) for m in makes]
        dtype, start = self.show(makes[0].dtype), f") = {function.name}("
        short = f"{', '.join(names)} = {function.name}({', '.join((dtype, *shapes))})"
        if len(short) <= _WIDTH:
            return [short]
        return [*filled("(", names, start, 0), *(f"    {part}," for part in (dtype, *shapes)), ")"]

    def by_shape(self, arrays: Sequence[Local]) -> list[str]:
        """Arrays to work in, those of one shape at once."""
        alike: dict[Empty, list[str]] = {}
        for v in arrays:
            if isinstance(v.made, Empty):
                alike.setdefault(v.made, []).append(self.names[v])
        lines = []
        for make, same in alike.items():
            shape = Tuple((number(len(same)), *make.shape.items)) if len(same) > 1 else make.shape
            made = f" = {self.show(Empty(shape, make.dtype))}"
            joined = ", ".join(same)
            if len(same) == 1 or len(joined) + len(made) <= _WIDTH:
                lines.append(f"{joined}{made}")
            else:
                lines += filled("(", same, f"){made}", 0)
        return lines

    # ------------------------------------------------------------------ expressions

    def listed(self, nodes: Sequence[Node]) -> str:
        return ", ".join(self.show(n) for n in nodes)

    def show(self, e: Node) -> str:
        show = self.show
        match e:
            case Local():
                return self.names[e]
            case Argument():
                return e.name
            case Global():
                return f"{e.module}.{e.name}" if e.module else e.name
            case Literal():
                return self.literal(e.value)
            case Amount():
                return self.amount(e)
            case Stack():
                return json.dumps(self.stacks[e])
            case Unary():
                return f"{e.operator}{show(e.operand)}"
            case Binary():
                return f"{show(e.left)} {e.operator} {show(e.right)}"
            case Junction():
                return f" {e.operator} ".join(f"({show(part)})" for part in e.parts)
            case Quotient():
                return f"-(-{show(e.above)} // {show(e.below)})"
            case Choice():
                return f"{show(e.yes)} if {show(e.condition)} else {show(e.no)}"
            case Tuple():
                return f"({self.listed(e.items)}{',' if len(e.items) == 1 else ''})"
            case Dict():
                return f"{{{', '.join(self.entries(e))}}}"
            case Merged():
                return f"{{**{show(e.base)}, {show(e.key)}: {show(e.value)}}}"
            case Call():
                return f"{show(e.function)}({', '.join(self.arguments(e))})"
            case Attribute():
                return f"{show(e.base)}.{e.name}"
            case Lookup():
                table, each = show(e.table), show(e.each)
                return f"({table}[{each}] for {each} in {json.dumps(e.keys)})"
            case Gather():
                table, each, keys = show(e.table), show(e.each), show(e.keys)
                return f"{{{each}: {table}[{each}] for {each} in {keys}}}"
            case Empty():
                return f"{show(e.function)}({show(e.shape)}, {show(e.dtype)})"
            case Span():
                return self.span(e)
            case Item():
                return f"{show(e.base)}[{self.listed(e.index)}]"
            case Reshaped():
                return f"{show(e.base)}.reshape({self.listed(e.shape)})"
            case Swapped():
                return f"{show(e.base)}.swapaxes({e.first}, {e.second})"
        raise TypeError(f"{type(e).__name__} is not an expression")

    def arguments(self, call: Call) -> list[str]:
        options = [f"{name}={self.show(value)}" for name, value in call.options]
        return [*map(self.show, call.arguments), *options]

    def entries(self, table: Dict) -> list[str]:
        return [f'"{key}": {self.show(value)}' for key, value in table.items]

    def literal(self, value: object) -> str:
        if value is ...:
            return "..."
        return json.dumps(value) if isinstance(value, str) else repr(value)

    def span(self, s: Span) -> str:
        if s.turned:
            return "::-1"
        start, stop = (self.show(end) if end else "" for end in (s.start, s.stop))
        return f"{start}:{' ' if isinstance(s.stop, Binary) else ''}{stop}"

    def amount(self, a: Amount) -> str:
        names = {s.wish: self.names[s] for s in a.sizes}
        return str(_Amounts(names).doprint(a.value))


class _Amounts(StrPrinter):
    """Numbers and sizes as Python writes them: 4*H, 1/H, 0.5."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._sizes = names

    def _print_Symbol(self, e: sympy.Symbol) -> str:
        return self._sizes[e.name]

    def _print_Pow(self, e: Expr, rational: bool = False) -> str:
        if e.exp.is_Rational and not e.exp.is_Integer:  # 1/sqrt(K)
            return f"{self.parenthesize(e.base, PRECEDENCE['Pow'])}**{float(e.exp)}"
        return str(super()._print_Pow(e, rational))

    def _print_Function(self, e: Expr) -> str:  # of sizes alone
        return f"math.{e.func.__name__}({self.stringify(e.args, ', ')})"

    def _print_Rational(self, e: Expr) -> str:
        return repr(float(e)) if e.q & (e.q - 1) == 0 else f"({e.p} / {e.q})"

    def _print_Float(self, e: Expr) -> str:
        return literal(e)


def filled(start: str, items: Sequence[str], end: str, width: int = _WIDTH) -> list[str]:
    """``start`` + comma-separated ``items`` + ``end``, on as many lines as it takes.

    A width of 0 gives the items lines of their own.
    """
    joined = ", ".join(items)
    if len(start) + len(joined) + len(end) <= width:
        return [f"{start}{joined}{end}"]
    indent = " " * 4
    lines, line = [start] if start else [], indent
    for item in items:
        if line.strip() and len(line) + len(item) + 2 > (width or _WIDTH):
            lines.append(line.rstrip())
            line = indent
        line += f"{item}, "
    return [*lines, line.rstrip(), end]
