"""The NumPy target: a module that needs only NumPy, written as an expert would by hand.

Whatever does not depend on the recurrence is done for many steps at once. Each equation becomes
calls that write with ``out=`` into arrays made before the loop.

    plan ─▶ lower ─▶ tree ─▶ analysis ─▶ printer ─▶ template

``operands``, ``parameters`` and ``scratch`` are what calls
read and write there. ``products``, ``fused`` over ``elementwise``, and ``gradients`` lower the
operations of a plan; ``forward``, ``backward`` and ``step`` put functions together. ``analysis``
finds what a function uses, from the tree, and names it; then the tree is printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy
from sympy import Expr, Integer

from ...errors import GenerateError
from ...language.cell import Cell
from ...language.initial import Initial, Start
from ...language.matrices import Matrix
from ...language.sizes import settled
from ...language.symbols import Vector
from ...planning.schedule import plan as make_plan
from ...printing.orders import Order
from ..comments import header
from ..identity import maker
from ..modules import MODULES
from ..rendering import environment
from .analysis import Usage, stack_names
from .backward import backward
from .fixed import fixed, fixed_gradients
from .forward import forward
from .printer import lines
from .starts import STARTS
from .step import step

# A call has a price of its own: the fewer, the better.
PLAN: dict[str, bool] = {
    "hoist": True,
    "split": True,
    "lanes": True,
    "recompute": False,
    "arrays": True,
}
OPTIONS: frozenset[str] = frozenset({"tape"})
TAKES_SIZES = False

# The arguments of ``init``, beside sizes and constants by name.
_INIT = {"input_size": "", "hidden_size": "", "seed": "0", "dtype": "np.float32"}


def files(cell: Cell, *, source: str = "", tape: str | None = None) -> dict[str, str]:
    """The module for ``cell``: ``{"lstm.py": text}``, which keeps values on the tape as ``tape``.

    A cell called as a module of Python's library, of any version, or as NumPy or lstmgen is in
    ``math_cell.py`` or the like: scripts beside it would import it instead of the library.

    Raises
    ------
    GenerateError
        If a size has the name of an argument of ``init``, which takes sizes by name, or if no
        array that is given has it, alone or beside sizes that others have.
    """
    given = (*cell.parameters, *cell.inputs, *cell.masks, *cell.states)
    told = settled(axis for v in given for axis in cell.shape(v))
    for size in cell.sizes:
        if size.name in _INIT:
            raise GenerateError(
                f"the NumPy target cannot name a size {size.name}\n"
                "  hint: choose another letter, such as N"
            )
        if size not in told:
            raise GenerateError(
                f"the NumPy target cannot know the size {size}: no parameter, input or state has "
                "it\n"
                "  hint: write a number instead, or declare what is given with that size"
            )
    plan = make_plan(cell, dtype="float64", tape=tape, **PLAN)
    order = Order(cell, plan.derivation.forward)
    made = [forward, backward, step]
    made += [fixed] if plan.fixed else []
    made += [fixed_gradients] if plan.fixed_adjoints else []
    functions = {f.__name__: Usage(f(plan, order)) for f in made}
    names = stack_names(functions.values(), (p.name for p in cell.parameters))
    stacks = {n: [p.name for p in s.parameters] for s, n in names.items() if len(s.parameters) > 1}
    transposed = {names[stack] for usage in functions.values() for stack in usage.transposed}
    module = environment("numpy").get_template("module.py.j2")
    return {
        f"{stem(cell)}.py": module.render(
            **_tables(
                cell,
                [*plan.made.values()],
                tape,
            ),
            **_interface(cell),
            **{"fixed_gradients": ""}
            | {name: _body(lines(usage, names)) for name, usage in functions.items()},
            header=header(cell, "numpy", source, f" --tape {tape}" if tape else ""),
            may_overflow=[name for name, usage in functions.items() if usage.may_overflow],
            stacks=[(name, _listed(members)) for name, members in stacks.items()],
            transposed=sorted(transposed),
            stacked=[name for name in stacks if name not in transposed],
            helpers={helper for usage in functions.values() for helper in usage.helpers},
        )
    }


def _body(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}".rstrip() for line in lines)


def stem(cell: Cell) -> str:
    """The name of a cell's module."""
    return f"{cell.name}_cell" if cell.name in MODULES else cell.name


def interface(cell: Cell) -> str:
    """The part of the module that computes nothing: tables, ``init``, and the checks of arrays."""
    return environment("numpy").get_template("interface.py.j2").render(**_tables(cell))


def _tables(cell: Cell, fixed: Sequence[Vector] = (), tape: str | None = None) -> dict[str, object]:
    """What the tables of a module hold, and ``init``."""
    bound = binds(cell)
    initial = {
        p.name: start for p in cell.parameters if (start := cell.start_of_its_own(p)) is not None
    }
    kinds = {start.name for start in initial.values() if isinstance(start, Initial)}
    starts = {s.name: cell.starts_at(s) for s in cell.states if cell.starts_at(s)}
    matrices = [p for p in cell.parameters if isinstance(p, Matrix)]
    arguments = [f"{name}={value}" if value else name for name, value in _INIT.items()]
    wide = [p for p in cell.parameters if len(cell.shape(p)) > (1 if isinstance(p, Vector) else 2)]
    unlearned = [p.name for p in cell.parameters if not p.learned]
    made = [v.name for v in fixed if len(cell.shape(v)) > 1]
    rows = bool(fixed or wide)
    return {
        "cell": cell,
        "maker": json.dumps({**maker(cell), **({"tape": tape} if tape else {})}),
        "tape": tape,
        "parameters": [(p.name, _shape(cell, p)) for p in cell.parameters],
        "output": _output(cell),
        "several_outputs": len(cell.outputs) > 1,
        "outputs": _shapes(cell, cell.outputs),
        "unlearned": _tuple(unlearned) if unlearned else "",
        "learned": "LEARNED" if unlearned else "PARAMETERS",
        "states": _shapes(cell, cell.states),
        "inputs": _shapes(cell, cell.inputs),
        "masks": _shapes(cell, cell.masks),
        "constants": _dict({v.name: cell.initial(v) for v in cell.constants}),
        "sizes": json.dumps([str(n) for n in cell.sizes]),
        "numbers": _dict(_numbers(cell)),
        "initial": [(name, _started(start)) for name, start in initial.items()],
        **_starting(cell, kinds, has_rows=rows),
        "starts": _dict(starts) if starts else "",
        "whole": _whole(cell),
        "has_fixed": bool(fixed),
        "rows": rows,
        "of_name": "._rows(name)" if rows else "[name]",
        "of_member": "._rows(member)" if rows else "[member]",
        "whole_array": ("self.fixed[name] if name in self.fixed else " if fixed else "")
        + "self[name]",
        "real_only": _real_only(cell),
        "matrices": _tuple([*(p.name for p in matrices), *made]),
        "init_arguments": ", ".join([*arguments, "**sizes"]),
        "init_binds": list(bound.items()),
        "init_about": _about_binds(bound),
    }


def _started(start: Start) -> str:
    """A number, or a tuple of a name and what it takes."""
    if not isinstance(start, Initial):
        return repr(start)
    parts = [json.dumps(start.name), *map(repr, start.numbers)]
    parts += [json.dumps(start.of)] if start.of else []
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _starting(cell: Cell, kinds: set[str], *, has_rows: bool) -> dict[str, object]:
    """How parameters start: of all ways, those that the cell has."""
    is_matrix = "len(shape) >= 2 and name in MATRICES" if has_rows else "len(shape) == 2"
    plain = [p for p in cell.parameters if cell.initial(p) is None]
    some = {isinstance(p, Matrix) for p in plain}
    used = kinds | ({"glorot"} if True in some else set())
    start = f'("glorot",) if {is_matrix} else 0.0' if some != {False} else "0.0"
    ways = [(kind, lines) for kind, lines in STARTS.items() if kind in used]
    code = "\n".join(line for _, lines in ways for line in lines)
    return {
        "ways": ways, "start": start, "has_opposites": "opposite" in kinds,
        "has_random": "key" in code, "has_normal": "_normal(" in code,
    }  # fmt: skip


def _shape(cell: Cell, p: Matrix | Vector) -> str:
    """A shape in sizes, as a tuple of their names."""
    names = [json.dumps(str(n)) for n in cell.shape(p)]
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _shapes(cell: Cell, symbols: Iterable[Vector]) -> str:
    """A dict from names to shapes."""
    return f"{{{', '.join(f'{json.dumps(v.name)}: {_shape(cell, v)}' for v in symbols)}}}"


def _real_only(cell: Cell) -> str:
    """A function of the cell whose value NumPy has for complex numbers, but which would lose their
    complex step in silence; "" if there is none.
    """
    found = (e.rhs.atoms(sympy.Abs, sympy.sign) for e in cell.equations)
    return next((f.func.__name__ for fs in found for f in sorted(fs, key=str)), "")


def _whole(cell: Cell) -> str:
    """Sizes that are sums of products of others: their terms; "" if there are none."""
    shown = []
    for n in sorted(_all_sizes(cell), key=str):
        if not (n.is_Symbol or n.is_Integer):
            terms = (_factors(t) for t in sympy.Add.make_args(n))
            shown.append(f"{json.dumps(str(n))}: ({', '.join(terms)},)")
    return f"{{{', '.join(shown)}}}" if shown else ""


def _factors(term: Expr) -> str:
    names = []
    for factor, power in term.as_powers_dict().items():
        names += [json.dumps(str(factor))] * int(power)
    return f"({', '.join(sorted(names))},)"


def _all_sizes(cell: Cell) -> set[Expr]:
    """The sizes of all that a caller gives or gets."""
    symbols = (*cell.parameters, *cell.inputs, *cell.masks, *cell.states, *cell.outputs)
    return {n for s in symbols for n in cell.shape(s)}


def _dict(entries: Mapping[str, object]) -> str:
    shown = (
        f"{json.dumps(k)}: {json.dumps(v) if isinstance(v, str) else repr(v)}"
        for k, v in entries.items()
    )
    return f"{{{', '.join(shown)}}}"


def _interface(cell: Cell) -> dict[str, object]:
    """What functions take and return, where that depends on the cell."""
    (first, *others) = cell.inputs
    given = (*cell.inputs, *cell.masks, *cell.states)
    masks = ["masks"] if cell.masks else []
    optional = [f"{name}=None" for name in ("state", *masks)]
    one_input = f'["{first.name}"]'
    axes = "size" if all(len(cell.shape(v)) == 1 for v in given) else "*axes"
    sequence = f"(T, B, {_axes(cell, first)})"
    return {
        "several_inputs": bool(others),
        "has_masks": bool(masks),
        "input": json.dumps(first.name),
        "axes": axes,
        "x_about": f"a dict of arrays (T, B, {axes})" if others else sequence,
        "x_of_given": "given" if others else f"given{one_input}",
        "dx_of_each": "dx" if others else f"dx{one_input}",
        "forward_arguments": ", ".join(["params", "x", *optional, "*", "tape=True"]),
        "step_arguments": ", ".join(["params", "x_t", *optional]),
        "step_returns": _step_returns(cell),
        "prepare_arguments": ", ".join(["packed", "x", "state", *masks, 'lead=("T", "B")']),
        "prepared": ", ".join(["x", "states", *(["filled"] if masks else []), "dtype", "sizes"]),
        "y_about": _about_output(cell),
    }


def _output(cell: Cell) -> str:
    """The name of the output; of several, a tuple of their names."""
    names = _listed(v.name for v in cell.outputs)
    return f"({names})" if len(cell.outputs) > 1 else names


def _step_returns(cell: Cell) -> str:
    """What ``step`` returns beside the new state."""
    more = [v.name for v in cell.outputs if v.category != "state"]
    if len(cell.outputs) == 1:
        return " with the output" if more else ""
    return f" with {' and '.join(more)}" if more else ""


def _about_output(cell: Cell) -> str:
    """What ``forward`` returns as y."""
    return "(a dict)" if len(cell.outputs) > 1 else f"(T, B, {_axes(cell, cell.output)})"


def _axes(cell: Cell, v: Vector) -> str:
    return ", ".join(map(str, cell.shape(v)))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(json.dumps(name) for name in names)


def _tuple(names: Sequence[str]) -> str:
    return f"({_listed(names)},)" if names else "()"


def binds(cell: Cell) -> dict[str, str]:
    """What the first two arguments of ``init`` mean: the size of an input, and that of a state.

    D and H where the cell has them, since that is how people call them; else those that come first.
    """
    fed, held = (
        [str(n) for v in vectors for n in cell.shape(v) if n.is_Symbol or n.is_Integer]
        for vectors in (cell.inputs, cell.states)
    )
    if len(cell.shape(cell.output)) > 1:  # the units of a head
        held.insert(0, str(cell.shape(cell.output)[-1]))
    hidden = ["H"] if "H" in map(str, cell.sizes) else held[:1]
    binds = dict(zip(["hidden_size"], hidden, strict=False))
    fed = fed or list(map(str, cell.sizes))
    return {**binds, "input_size": "D" if "D" in fed else fed[0]}


def init_sizes(cell: Cell, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a cell, a value for each by its name, as its ``init`` calls them."""
    bound = binds(cell)  # which may be one size, or a number
    named = {what: sizes[n] if n in sizes else int(n) for what, n in bound.items()}
    others = {n: size for n, size in sizes.items() if n not in bound.values()}
    return {"input_size": 1, "hidden_size": 1} | named | others


def _numbers(cell: Cell) -> dict[str, int]:
    """Sizes that are numbers, under the names that the tables give them."""
    shapes = _all_sizes(cell)
    within = {a for n in shapes if not n.is_Symbol for a in n.atoms(Integer)}
    return {str(n): int(n) for n in sorted({*shapes, *within}, key=str) if n.is_Integer}


def _about_binds(binds: dict[str, str]) -> str:
    listed = sorted(binds.items(), reverse=True)
    if len(binds) > 1 and len(set(binds.values())) == 1:
        return f"{' and '.join(what for what, _ in listed)} are both {binds['input_size']}."
    return f"{' and '.join(f'{what} is {size}' for what, size in listed)}."
