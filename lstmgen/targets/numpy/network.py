"""Networks in NumPy: a module that runs the modules of its cells over the batch."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from sympy import Expr, Integer

from ...errors import GenerateError
from ...language.cell import Cell
from ...network.description import about, lines
from ...network.graph import Chain, Embed, Graph, Join, Last, Noise, Run, Signal
from ...network.plans import EVERY, NetworkPlan, plan
from ...network.structure import Structure, shape_in, start_of
from ...planning.operations import B
from ..comments import harmless, network_header
from ..modules import MODULES
from ..rendering import environment
from . import target
from .layout import docstring, expression, fitted, paragraph, returned, table

OPTIONS: frozenset[str] = frozenset()

_DRAWN = 53  # bits of a random number

# What functions and tables of the module call other things, beside chain_1 and so on.
_WORDS = {"run", "np", "tape", "CELL", "OUTPUT"}


def files(network: Structure, *, source: str = "") -> dict[str, str]:
    """The module of a network, and those of its cells: ``{"network.py": text, "lstm.py": …}``.

    Raises
    ------
    GenerateError
        If the NumPy target cannot express a cell.
    """
    if network.name in MODULES:
        raise GenerateError(
            f"a network cannot be called {network.name}: Python has a module of that name\n"
            f'  hint: Network(layers, name="{network.name}_network")'
        )
    cells: dict[str, str] = {}
    for cell in network.cells:
        cells |= target.files(cell)
    template = environment("numpy").get_template("network.py.j2")
    text = template.render(
        **_tables(network),
        **_functions(network.graph),
        **(_training(network) if network.loss else {}),
        trains=network.loss is not None,
        kept=_kept(network),
        header=network_header(network, "numpy", _wrapped(lines(network)), source),
        rule="-" * 24,
    )
    return {f"{network.name}.py": text, **cells}


def _wrapped(rows: Iterable[str]) -> list[str]:
    """Lines of the header, which may be as long as a network likes."""
    wrapped = []
    for row in rows:
        margin = len(row) - len(row.partition("  ")[2].lstrip())
        wrapped += textwrap.wrap(row, 92, subsequent_indent=" " * margin)
    return wrapped


def interface(network: Structure) -> dict[str, str]:
    """The same module beside cells that compute nothing: for its tables, ``init``, and checks."""
    template = environment("numpy").get_template("network.py.j2")
    text = template.render(
        **_tables(network),
        **_functions(network.graph),
        trains=False,
        kept=_kept(network),
        header=[network.name],
        rule="-" * 24,
    )
    cells = {f"{target.stem(c)}.py": target.interface(c) for c in network.cells}
    return {f"{network.name}.py": text, **cells}


def _tables(network: Structure) -> dict[str, Any]:
    """What the tables of the module hold."""
    graph = network.graph
    parts = [
        {
            "name": run.name,
            "module": _module(run.cell),
            "sizes": table(_init(run)),
            "noise": [(k, _noise(run, k, noise)) for k, noise in run.noise.items()],
        }
        for run in graph.runs
    ]
    symbols = network.symbols
    modules = sorted(
        stem if stem == _safe(stem) else f"{stem} as {_safe(stem)}"
        for stem in map(target.stem, network.cells)
    )
    constants = {f"{run.name}.{k}": v for run in graph.runs for k, v in run.constants.items()}
    return {
        "name": json.dumps(network.name),
        "has_normal": True,
        "output": json.dumps(graph.output.name),
        "from_here": fitted(f"from . import {_listed(modules)}"),
        "modules": modules,
        "parts": parts,
        "noisy": [part for part in parts if part["noise"]],
        "parameters": [(name, _shape(shape)) for name, shape in network.parameters.items()],
        "unlearned": fitted(f"UNLEARNED = {_tuple(network.unlearned)}", 0),
        "states": [(name, _shape(shape)) for name, shape in network.states.items()],
        "input_shape": "()" if symbols else _shape((graph.input.size,)),
        "symbols": symbols,
        "constants": table(constants),
        "reversed": fitted(f"BACKWARD = {_tuple([r.name for r in graph.runs if r.reverse])}", 0),
        "starts": [
            (f"{run.name}.{s.name}", _start(run, s))
            for run in graph.runs
            for s in run.cell.states
            if run.learned_start or run.cell.starts_at(s)
        ],
    }


def _kept(network: Structure) -> list[str]:
    """Numbers that a tape with checkpoints has for each sequence, in Python."""
    options: dict[str, Any] = target.PLAN
    made = plan(network, **options)
    assert isinstance(made, NetworkPlan)
    graph = network.graph
    between = {s for chain in graph.chains for s in chain.reads if not s.of_rows} - {graph.input}
    whole = sum((s.size for s in between), Integer(0))
    step = sum((made.of_block(c).coeff(B).coeff(EVERY) for c in graph.chains), Integer(0))
    return [expression(e) for e in (whole, made.snapshot / B, step)]


def _training(network: Structure) -> dict[str, Any]:
    """What the functions that train hold."""
    loss, optimizer, out = network.loss, network.optimizer, network.graph.output
    rate = network.schedule.rate
    assert loss is not None
    rows = "(B,)" if out.of_rows else "(T, B)"
    y = f"({'' if out.of_rows else 'T, '}B, {out.size})"
    wanted = f"the number of a class for each row, {rows}; negative ones do not count"
    about = f"y is {y}. target is {wanted if loss.of_classes else 'an array like y'}. "
    if not out.of_rows:
        about += "Steps beyond ``lengths`` do not count. "
    about += f"``weights`` {rows} say how much each row does, 1 if they are not given."
    return {
        "loss": {
            "module": _module(loss.cell),
            "constants": table({v.name: loss.cell.starts_at(v) for v in loss.cell.constants}),
            "about": paragraph(about),
            "of_classes": loss.of_classes,
        },
        "optimizer": {
            "module": _module(optimizer.cell),
            "constants": table(optimizer.constants),
            "moments": _tuple(optimizer.moments),
            "counted": [
                (k, expression(e.subs(optimizer.constants))) for k, e in optimizer.counted.items()
            ],
        },
        "rate": [*(["k = updates + 1"] if rate.free_symbols else []), *returned(rate)],
        "rate_about": docstring(
            f"The learning rate after so many updates: {harmless(str(network.schedule))}."
        ),
        "clip_norm": network.clip_norm,
        "clip_value": network.clip_value,
    }


def _functions(graph: Graph) -> dict[str, Any]:
    """The statements of the functions."""
    names = [f"chain_{k}" for k, _ in enumerate(graph.chains, 1)]
    out = graph.output
    rows = "" if out.of_rows else "T, "
    backwards = [run.name for run in graph.runs if run.reverse]
    symbols = isinstance(graph.nodes[0], Embed)
    x_about = "whole numbers (T, B)" if symbols else f"(T, B, {graph.input.size})"
    steps = [
        "y, state, _ = forward(params, np.asarray(x_t)[np.newaxis], state, tape=False)",
        f"return state | {{OUTPUT: y{'' if out.of_rows else '[0]'}}}",
    ]
    if backwards:
        steps = [
            "raise ValueError(",
            f'    "{backwards[0]} runs from the last step to the first: "',
            '    "it needs whole sequences"',
            ")",
        ]
    return {
        "chains": [_chain(graph, c, n) for c, n in zip(graph.chains, names, strict=True)],
        "forward": _broken(_forward(graph, names)),
        "backward": _broken(_backward(graph, names)),
        "step": steps,
        "x_about": x_about,
        "x_t_about": x_about.replace("T, ", "").replace("(B)", "(B,)"),
        "y_about": f"({rows}B, {out.size})",
        "dx_about": " (None, since x is symbols)" if symbols else "",
        "dx": "None" if symbols else "run.dx(dx)",
    }


def _forward(graph: Graph, names: Sequence[str]) -> list[str]:
    """The chains, one after the other."""
    made = []
    for chain, name in zip(graph.chains, names, strict=True):
        outs = _listed(_variable(s) for s in graph.leaves(chain))
        made.append(f"{outs} = run.forward({name}, {_listed(_variable(s) for s in chain.reads)})")
    out = graph.output
    return [*made, f"y = run.y({_variable(out)}{_of_rows(out)})"]


def _backward(graph: Graph, names: Sequence[str]) -> list[str]:
    """The same way back. What several chains read gains what flows back from each."""
    out = graph.output
    size = json.dumps(_size(out.size))
    made = [f"d{_variable(out)} = run.dy(dy, {size}{_of_rows(out)})"]
    known = {out}
    for chain, name in reversed([*zip(graph.chains, names, strict=True)]):
        given = _listed(f"d{_variable(s)}" for s in graph.leaves(chain))
        call = f"run.backward({name}, {given})"
        read = {s: _variable(s) for s in chain.reads}
        targets = [f"more_{v}" if s in known else f"d{v}" for s, v in read.items()]
        if chain.reads == (graph.input,) and isinstance(graph.nodes[0], Embed):
            made.append(call)  # symbols have no gradient
            continue
        made.append(f"{_listed(targets)} = {call}")
        made += [f"d{v} += more_{v}" for s, v in read.items() if s in known]
        known |= set(chain.reads)
    return made


def _chain(graph: Graph, chain: Chain, name: str) -> dict[str, Any]:
    """The functions of a chain."""
    leaves = graph.leaves(chain)
    lasts = [any(isinstance(n, Last) and n.output == s for n in chain.nodes) for s in leaves]
    forward = [_node(node) for node in chain.nodes]
    opening = f"def _{name}(run, {_listed(_variable(s) for s in chain.reads)}):"
    opening_back = f"def _{name}_back(run, {_listed(f'd{_variable(s)}' for s in leaves)}):"
    made = [
        f"_{name}",
        f"_{name}_back",
        f"parts={_tuple([run.name for run in chain.runs])}",
        f"sizes={_values([_size(s.size) for s in leaves])}",
        *([f"lasts={_values(lasts)}"] if any(lasts) else []),
        *(["reverse=True"] if chain.reverse else []),
        *(["of_rows=True"] if chain.of_rows else []),
    ]
    return {
        "name": name,
        "about": docstring(about(chain)),
        "opening": fitted(opening, 0),
        "forward": _broken([*forward, f"return {_listed(_variable(s) for s in leaves)}"]),
        "opening_back": fitted(opening_back, 0),
        "backward": _broken(_chain_back(chain, leaves)),
        "made": fitted(f"{name} = _Chain({_listed(made)})", 0),
    }


def _broken(statements: Iterable[str]) -> list[str]:
    """Statements of a function, in lines that are not too long."""
    return [line for statement in statements for line in fitted(statement)]


def _of_rows(out: Signal) -> str:
    return ", of_rows=True" if out.of_rows else ""


def _node(node: Any) -> str:
    inputs = _listed(_variable(s) for s in node.inputs)
    if isinstance(node, Embed):
        return f'{_variable(node.output)} = run.embed("{node.name}", {inputs})'
    if isinstance(node, Join):
        return f"{_variable(node.output)} = np.concatenate(({inputs}), axis=-1)"
    if isinstance(node, Last):
        return f"{_variable(node.output)} = run.last({inputs})"
    return f'{_variable(node.output)} = run.cell("{node.name}", {inputs})'


def _chain_back(chain: Chain, leaves: Sequence[Signal]) -> list[str]:
    """The nodes from the last to the first; what several read gains from each."""
    known = set(leaves)
    made: list[str] = []
    for node in reversed(chain.nodes):
        d = f"d{_variable(node.output)}"
        if isinstance(node, Embed):
            made.append(f'run.embed_back("{node.name}", {d})')
            continue
        if isinstance(node, Join):
            parts = _parts(node)
            calls = [f"{d}[:, {part}]" for part in parts]
        elif isinstance(node, Last):
            calls = [f"run.last_back({d})"]
        else:
            calls = [f'run.cell_back("{node.name}", {d})']
        made += _gained(node.inputs, calls, known)
    returned = [f"d{_variable(s)}" if s in known else "None" for s in chain.reads]
    return [*made, f"return {', '.join(returned)}"]


def _gained(inputs: Sequence[Signal], calls: Sequence[str], known: set[Signal]) -> list[str]:
    """Statements by which adjoints get, or gain, what flows back."""
    made = []
    if len(calls) == len(inputs):
        for s, call in zip(inputs, calls, strict=True):
            d = f"d{_variable(s)}"
            made.append(f"{d} = {d} + {call}" if s in known else f"{d} = {call}")
            known.add(s)
        return made
    read = {s: _variable(s) for s in inputs}
    targets = [f"more_{v}" if s in known else f"d{v}" for s, v in read.items()]
    made = [f"{_listed(targets)} = {calls[0]}"]
    made += [f"d{v} = d{v} + more_{v}" for s, v in read.items() if s in known]
    known |= set(inputs)
    return made


def _parts(node: Join) -> list[str]:
    """The columns of each signal."""
    columns, at = [], Integer(0)
    for number, s in enumerate(node.inputs):
        end = at + s.size if number else s.size
        columns.append(f"{at if number else ''}:{end}")
        at = end
    return columns


def _init(run: Run) -> dict[str, Any]:
    """The arguments of the init of a part's module, by name."""
    sizes = {str(n): _size(v) for n, v in run.sizes.items()}
    return target.init_sizes(run.cell, sizes) | dict(run.constants)


def _noise(run: Run, mask: str, noise: Noise) -> str:
    """What a mask is made of, for the table."""
    (v,) = (m for m in run.cell.masks if m.name == mask)
    threshold = round(noise.probability * 2**_DRAWN)
    shown = _shape(shape_in(run, v)), *noise.values, noise.mean, threshold, noise.whole
    return f"({_listed(map(str, shown))})"


def _start(run: Run, state: Any) -> str:
    if run.learned_start:
        return json.dumps(start_of(run, state))
    return repr(run.cell.starts_at(state))


def _variable(signal: Signal) -> str:
    """What a signal is called in code."""
    return _safe(signal.name)


def _module(cell: Cell) -> str:
    """What the module of a cell is called in code."""
    return _safe(target.stem(cell))


def _safe(name: str) -> str:
    word = name.rstrip("_")
    before, chain, number = word.partition("chain_")
    is_chain = not before and bool(chain) and number.isdecimal()
    return f"{name}_" if word in _WORDS or is_chain else name


def _size(n: Expr) -> int | str:
    return int(n) if n.is_Integer else str(n)


def _shape(shape: Iterable[Expr]) -> str:
    return _values([_size(n) for n in shape])


def _values(values: Sequence[object]) -> str:
    shown = [json.dumps(v) if isinstance(v, str) else repr(v) for v in values]
    return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"


def _tuple(names: Sequence[str]) -> str:
    return _values(list(names))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
