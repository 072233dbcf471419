"""A network in words: what each of its layers is, and where its signals go."""

from __future__ import annotations

import sympy
from sympy import Expr

from ..planning.description import polynomial
from ..printing.orders import one_line
from ..printing.text import summary, text
from .graph import Chain, Embed, Join, Last, Node, Run
from .structure import Structure


def lines(network: Structure) -> list[str]:
    """A line for each node: what it makes, and of what."""
    rows = []
    for node in network.graph.nodes:
        made, what, how = row(node)
        units = "" if isinstance(node, Last) else f", {node.output.size} units"
        rows.append((made, f"{what}{units}{how}"))
    widest = max(len(made) for made, _ in rows)
    return [f"{made:{widest}s}  {row}" for made, row in rows]


def about(chain: Chain) -> str:
    """A chain of nodes in one line."""
    names = [node.output.name for node in chain.nodes]
    how = ", from the last step to the first" if chain.reverse else ""
    return f"{', '.join(names)}{how}."


def show(network: Structure) -> str:
    """What ``lstmgen show`` prints: the layers with their shapes and parameters, what training
    does, and the equations of all cells, each once.
    """
    title = f": {one_line(network.title)}" if network.title else ""
    parts = [f"{network.name}{title}", *_layers(network)]
    if network.loss is not None:
        parts += ["", *_training(network)]
    for cell in network.cells:
        parts += ["", "", *summary(cell)]
    return "\n".join(line.rstrip() for line in parts)


def _layers(network: Structure) -> list[str]:
    x = network.graph.input
    shape = "(T, B)" if network.symbols else f"(T, B, {x.size})"
    what = f"symbols from 0 to {network.symbols - 1}" if network.symbols else "input"
    rows = [("x", what, shape, "")]
    counts = {node.output.name: _count(network, node) for node in network.graph.nodes}
    for node in network.graph.nodes:
        made, what, how = row(node)
        shape = f"({'' if node.output.of_rows else 'T, '}B, {node.output.size})"
        count = counts[node.output.name]
        rows.append((made, f"{what}{how}", shape, polynomial(count) if count else ""))
    rows.append(("in all", "", "", polynomial(sum(counts.values(), sympy.S.Zero))))
    rows.insert(0, ("", "", "shape", "parameters"))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    return [
        f"{made:{widths[0]}}  {what:{widths[1]}}  {shape:{widths[2]}}  {count:>{widths[3]}}"
        for made, what, shape, count in rows
    ]


def _count(network: Structure, node: Node) -> Expr:
    """How many numbers are in the parameters of a node."""
    if isinstance(node, (Join, Last)):
        return sympy.S.Zero
    mine = (s for n, s in network.parameters.items() if n.rpartition(".")[0] == node.name)
    return sum((sympy.prod(shape) for shape in mine), sympy.S.Zero)


def _training(network: Structure) -> list[str]:
    assert network.loss is not None
    optimizer = network.optimizer
    numbers = ", ".join(f"{k} {v:g}" for k, v in optimizer.constants.items())
    rows = [
        ("loss", network.loss.cell.name),
        ("optimizer", optimizer.cell.name + (f", {numbers}" if numbers else "")),
        ("rate", str(network.schedule)),
    ]
    for name, e in optimizer.counted.items():
        rows.insert(-1, ("", f"{name} = {text(e, optimizer.cell)}, after k updates"))
    if network.clip_norm is not None:
        rows.append(("clip_norm", f"{network.clip_norm:g}"))
    if network.clip_value is not None:
        rows.append(("clip_value", f"{network.clip_value:g}"))
    return [f"{what:10}  {value}" for what, value in rows]


def row(node: Node) -> tuple[str, str, str]:
    """What a node makes, of what, and how."""
    made, of = node.output.name, ", ".join(s.name for s in node.inputs)
    if isinstance(node, Embed):
        return made, f"row {of} of {node.count}", ""
    if isinstance(node, Join):
        return made, f"{' and '.join(s.name for s in node.inputs)} side by side", ""
    if isinstance(node, Last):
        return made, f"the last step of {of}", ""
    return made, f"{node.cell.name} of {of}", _how(node)


def _how(run: Run) -> str:
    how = ", from the last step to the first" if run.reverse else ""
    for noise in dict.fromkeys(run.noise.values()):
        what = "held" if noise.holds else "dropped"
        when = "for a whole sequence" if noise.whole else "at each step"
        how += f", {noise.probability:g} {what} {when}"
    return how + (", learned start" if run.learned_start else "")
