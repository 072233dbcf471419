"""A network in words: what each of its layers is, and where its signals go."""

from __future__ import annotations

from .graph import Chain, Embed, Join, Last, Node, Run
from .structure import Structure


def lines(network: Structure) -> list[str]:
    """A line for each node: what it makes, and of what."""
    rows = [_row(node) for node in network.graph.nodes]
    widest = max(len(made) for made, _ in rows)
    return [f"{made:{widest}s}  {how}" for made, how in rows]


def about(chain: Chain) -> str:
    """A chain of nodes in one line."""
    names = [node.output.name for node in chain.nodes]
    how = ", from the last step to the first" if chain.reverse else ""
    return f"{', '.join(names)}{how}."


def _row(node: Node) -> tuple[str, str]:
    made, of = node.output.name, ", ".join(s.name for s in node.inputs)
    if isinstance(node, Embed):
        return made, f"row {of} of {node.count}, {node.output.size} units"
    if isinstance(node, Join):
        sides = " and ".join(s.name for s in node.inputs)
        return made, f"{sides} side by side, {node.output.size} units"
    if isinstance(node, Last):
        return made, f"the last step of {of}"
    return made, _run(node, of)


def _run(run: Run, of: str) -> str:
    text = f"{run.cell.name} of {of}, {run.output.size} units"
    if run.reverse:
        text += ", from the last step to the first"
    for noise in dict.fromkeys(run.noise.values()):
        what = "held" if noise.holds else "dropped"
        when = "for a whole sequence" if noise.whole else "at each step"
        text += f", {noise.probability:g} {what} {when}"
    return text + (", learned start" if run.learned_start else "")
