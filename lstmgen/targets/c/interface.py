"""What callers of a cell in C see: structs, the heads of functions, and an example of their use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sympy import Expr

from ...language.cell import Cell
from ...language.matrices import Matrix
from ...language.sizes import Size
from ...language.symbols import Vector
from ...planning.operations import B, T
from .lines import INSIDE, WIDTH, broken
from .memory import Memory
from .source import Source


class Interface:
    """The variables of the header's template."""

    def __init__(self, source: Source, memory: Memory) -> None:
        self.source, self.cell, self.memory = source, source.cell, memory
        self.several = len(self.cell.inputs) > 1
        self.several_outputs = len(self.cell.outputs) > 1

    def context(self) -> dict[str, Any]:
        cell = self.cell
        return {
            **self.types(),
            "sizes": [self._about_size(n) for n in cell.sizes],
            "given": "p, x and m" if cell.masks else "p and x",
            "x": self._about_x(),
            "output": self._output(),
            "heads": heads(cell),
            "example": self._example(),
            "buffers": [{"name": b.name, "note": _note(b.ignored)} for b in self.memory.buffers],
            "macros": self.memory.macros(),
        }

    def types(self) -> dict[str, Any]:
        """The variables of the types of arguments."""
        cell, starts = self.cell, ["zeros"]
        starts += [f"{cell.starts_at(s):g} in {s.name}" for s in cell.states if cell.starts_at(s)]
        return {
            "name": self.source.name,
            "NAME": self.source.name.upper(),
            "real": self.source.printer.name("real"),
            "members": self._members(),
            "several": self.several,
            "several_outputs": self.several_outputs,
            "masks": bool(cell.masks),
            "starts": ", ".join(starts),
        }

    def _about_size(self, n: Size) -> dict[str, str]:
        holders = [v.name for v in self.cell.inputs if n in self.cell.shape(v)] or [
            v.name for v in self.cell.states if n in self.cell.shape(v)
        ]
        about = f"units of {', '.join(holders)}" if holders else "units"
        fixed = self.source.sizes.fixed.get(n.name)
        if fixed:
            about += f"; has to be {fixed}, which this code was made for"
        return {"name": n.name, "about": about}

    def _members(self) -> dict[str, list[str]]:
        """The members of each struct, ready; C has no struct without any."""
        cell, real = self.cell, f"{self.source.owner}_real"

        def pointers(kind: str, symbols: Iterable[Matrix | Vector], *lead: Expr) -> list[str]:
            shapes = {v.name: _shape(*lead, *cell.shape(v)) for v in symbols}
            return [f"{kind} *{name}; /* {shape} */" for name, shape in shapes.items()]

        read, written = f"const {real}", real
        parameters = pointers(read, cell.parameters)
        packed = [
            f"/* what {self.source.name}_pack made of them; NULL to do that at every call */",
            f"{read} *packed;",
        ]
        added = [
            "int accumulate; /* not 0: they are added to what is there, not written over it */"
        ]
        found = {
            "params": [*parameters, *(f"{real} {c.name};" for c in cell.constants)],
            "grads": pointers(written, cell.learned),
            "state": pointers(read, cell.states, B),
            "new_state": pointers(written, cell.states, B),
            "inputs": pointers(read, cell.inputs, T, B),
            "input_grads": pointers(written, cell.inputs, T, B),
            "masks": pointers(read, cell.masks, T, B),
            "outputs": pointers(written, cell.outputs, T, B),
            "output_grads": pointers(read, cell.outputs, T, B),
        }
        if parameters and not self.source.is_embedded:
            found["params"] += packed
        if cell.learned and not self.source.is_embedded:
            found["grads"] += added
        none = ["char none; /* this cell has none: pass NULL */"]
        return {kind: lines or none for kind, lines in found.items()}

    def _about_x(self) -> dict[str, str]:
        if self.several:
            return {"sequence": "the inputs", "row": "the inputs of the step", "grad": "the inputs"}
        (v,) = self.cell.inputs
        size = self.cell.size(v)
        what = "the input" if v.name == "x" else f"the input {v.name}"
        return {
            "sequence": f"{_shape(T, B, size)}: {what}",
            "row": f"{_shape(B, size)}: {what}",
            "grad": f"x; {_shape(T, B, size)}",
        }

    def _output(self) -> dict[str, str]:
        """What is said of y and dy."""
        outputs = self.cell.outputs
        in_state = ", which is in the new state as well; may be NULL"
        states = all(v.category == "state" for v in outputs)
        if self.several_outputs:
            optional = "; may be NULL: all are in the new state"
            return {
                "sequence": "receives the outputs of every step",
                "row": f"receives the outputs of the step, (B, …) each{optional if states else ''}",
                "grad": "the derivatives of the loss by the outputs",
            }
        (v,) = outputs
        row, shape = (_shape(*lead, self.cell.size(v)) for lead in ((B,), (T, B)))
        return {
            "sequence": f"{shape}: receives the output of every step, {v.name}",
            "row": f"{row}: receives the output {v.name}{in_state if states else ''}",
            "grad": f"{shape}: the derivative of the loss by y",
        }

    def _example(self) -> dict[str, Any]:
        """The lines of the example in the header."""
        cell, n = self.cell, self.cell.name
        fixed = self.source.sizes.fixed
        sizes = {s.name: 8 * (k + 1) for k, s in enumerate(cell.sizes)} | fixed
        parameters, learned = ([p.name for p in ps] for ps in (cell.parameters, cell.learned))
        inputs, masks = [v.name for v in cell.inputs], [v.name for v in cell.masks]
        states = [s.name for s in cell.states]
        outputs = [v.name for v in cell.outputs] if self.several_outputs else []
        structs = {
            "n": ("sizes", [".T = 100", ".B = 1", *(f".{k} = {v}" for k, v in sizes.items())]),
            "p": ("params", _members([*parameters, *(c.name for c in cell.constants)])),
            "xs": ("inputs", _members(inputs) if self.several else []),
            "ms": ("masks", _members(masks)),
            "ys": ("outputs", _members([f"y_{v}" for v in outputs], outputs)),
            "dys": ("output_grads", _members([f"dy_{v}" for v in outputs], outputs)),
            "g": ("grads", _members([f"d{p}" for p in learned], learned)),
            "dxs": ("input_grads", _members([f"d{v}" for v in inputs], inputs)
                   if self.several else []),
            "state": ("state", _members(states)),
            "next": ("new_state", _members(states)),
        }  # fmt: skip
        line = {
            variable: broken(f"{n}_{kind} {variable} = {{", items, "};") if items else []
            for variable, (kind, items) in structs.items()
        }
        known = {name: f"&{name}" if lines else "NULL" for name, lines in line.items()}
        known |= {} if self.several else {"xs": "x", "dxs": "dx"}
        known |= {} if self.several_outputs else {"ys": "y", "dys": "dy"}
        given = [known["n"], known["p"], known["xs"], *([known["ms"]] if masks else [])]
        y = "NULL" if all(v.category == "state" for v in cell.outputs) else known["ys"]
        calls = {
            "forward": [*given, "NULL", known["ys"], "NULL", "tape", "work"],
            "backward": [*given, "tape", known["dys"], "NULL", known["g"], known["dxs"], "NULL",
                         "more"],
            "step": [*given, known["state"], y, known["next"], "work"],
        }  # fmt: skip
        packing = [
            f"{n}_real *packed = malloc({n}_packed_size(&n) * sizeof *packed);",
            f"{n}_pack(&n, &p, packed);",
            "p.packed = packed;",
        ]
        open_sizes = [str(v) for k, v in sizes.items() if k not in fixed]
        return {
            "before": line["n"] + line["p"] + line["xs"] + line["ms"] + line["ys"],
            "forward": broken(f"{n}_status status = {n}_forward(", calls["forward"], ");"),
            "grads": line["g"] + line["dxs"] + line["dys"],
            "backward": broken(f"status = {n}_backward(", calls["backward"], ");"),
            "states": (packing if parameters else []) + line["state"] + line["next"],
            "step": broken(f"{n}_step(", calls["step"], ");"),
            "array": f"{n.upper()}_STEP_WORK_SIZE({', '.join(['1', *open_sizes])})",
        }


def heads(cell: Cell) -> dict[str, list[str]]:
    """The heads of the functions that callers see."""
    n = cell.name
    real, several = f"{n}_real", len(cell.inputs) > 1
    several_outputs = len(cell.outputs) > 1
    y = f"const {n}_outputs *y" if several_outputs else f"{real} *y"
    dy = f"const {n}_output_grads *dy" if several_outputs else f"const {real} *dy"
    given = [
        f"const {n}_sizes *n", f"const {n}_params *p",
        f"const {n}_inputs *x" if several else f"const {real} *x",
        *([f"const {n}_masks *m"] if cell.masks else []),
    ]  # fmt: skip
    arguments = {
        "pack": [*given[:2], f"{real} *packed"],
        "forward": [
            *given, f"const {n}_state *initial", y, f"const {n}_new_state *final",
            f"{real} *tape", f"{real} *work",
        ],
        "step": [
            *given, f"const {n}_state *state", y, f"const {n}_new_state *next",
            f"{real} *work",
        ],
        "backward": [
            *given, f"const {real} *tape", dy, f"const {n}_state *dfinal",
            f"const {n}_grads *g",
            f"const {n}_input_grads *dx" if several else f"{real} *dx",
            f"const {n}_new_state *dinitial", f"{real} *work",
        ],
    }  # fmt: skip
    return {
        what: broken(f"{n}_status {n}_{what}(", items, ")", WIDTH - 1)
        for what, items in arguments.items()
    }


_MESSAGES = {
    "OK": "no error",
    "NULL_ARGUMENT": "a pointer that has to be given is NULL",
    "BAD_SIZE": "a size is zero, or not the one that the code was made for",
    "TOO_LARGE": "an array would have more bytes than a size_t can count",
    "NOT_PACKED": "a step needs p->packed: fill it once with {}_pack",
}


def messages(cell: Cell) -> list[str]:
    """What a status means, as cases that return it."""
    lines = []
    for status, text in _MESSAGES.items():
        case = f"case {cell.name.upper()}_{status}:"
        value = f'return "{text.format(cell.name)}";'
        one = f"{case} {value}"
        lines += [one] if len(one) <= INSIDE else [case, f"    {value}"]
    return lines


def own_heads(n: str, real: str) -> dict[str, list[str]]:
    """The heads of the functions that only a source has, for a cell of this name."""
    packing = [f"const {n}_sizes *n", f"const {n}_params *p", f"{real} *packed"]
    admitted = ["int given", f"const {n}_sizes *n", "size_t tape", "size_t work"]
    running = [f"{n}_call call", f"{n}_status status"]
    return {
        "arrange_forward": broken(f"static void {n}_arrange_forward(", packing, ")", WIDTH),
        "arrange_backward": broken(f"static void {n}_arrange_backward(", packing, ")", WIDTH),
        "admit": broken(f"static {n}_status {n}_admit(", admitted, ")", WIDTH),
        "run_forward": broken(f"static {n}_status {n}_run_forward(", running, ")", WIDTH),
    }


def calls(cell: Cell) -> dict[str, list[str]]:
    """What callers gave, as a struct, in each of the functions that they see."""
    given = [".p = p", ".x = x", *([".m = m"] if cell.masks else [])]
    dx = "dx != NULL ? dx : &none" if len(cell.inputs) > 1 else "dx"
    members = {
        "forward": [".n = n", *given, ".initial = initial", ".y = y", ".final = final",
                    ".tape = tape", ".work = work"],
        "step": [".n = &one", *given, ".initial = state", ".y = y", ".final = next",
                 ".work = work"],
        "backward": [".n = n", *given, ".dy = dy", ".dfinal = dfinal", ".g = g",
                     f".dx = {dx}", ".dinitial = dinitial"],
    }  # fmt: skip
    start = f"{cell.name}_call call = {{"
    return {what: broken(start, items, "};", INSIDE) for what, items in members.items()}


def running(cell: Cell) -> dict[str, list[str]]:
    """The calls that run a pass over all slices of the batch."""
    made = {}
    for what, n in (("forward", "call.n"), ("backward", "n")):
        items = [f"{cell.name}_{what}_rows", "&call", f"{n}->B", f"{n}->threads", f"{n}->serial"]
        made[what] = broken("slice_run(", items, ");", INSIDE)
    return made


def _note(ignored: tuple[str, ...]) -> str:
    names = ", ".join(f"n->{n}" for n in ignored)
    return f" /* {names} {'are' if len(ignored) > 1 else 'is'} ignored */" if names else ""


def _shape(*sizes: Expr) -> str:
    return f"({', '.join(str(n) for n in sizes)})"


def _members(values: list[str], names: list[str] | None = None) -> list[str]:
    """Initialisers of the members of a struct."""
    pairs = zip(names or values, values, strict=True)
    return [f".{name} = {value}" for name, value in pairs]
