"""A C program that runs generated cells on numbers from a file, in buffers of exactly their size.

It is valid C99 and C++. Python writes the numbers, runs it under whatever watches it, reads what
came out, and compares with the NumPy module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import lstmgen
from lstmgen import Cell
from lstmgen.symbols import Vector

_TOP = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
{includes}
static void *owned[65536];
static size_t count = 0;

static void *fresh(size_t bytes)
{{
    void *const made = malloc(bytes);
    if (made == NULL) {{
        abort();
    }}
#ifdef POISON
    memset(made, 0xff, bytes); /* NaN: to compute with it would be seen in the end */
#endif
    owned[count++] = made;
    return made;
}}

static void *given(FILE *in, size_t bytes)
{{
    void *const made = fresh(bytes);
    if (fread(made, 1, bytes, in) != bytes) {{
        abort();
    }}
    return made;
}}

static void *copy(const void *from, size_t bytes)
{{
    void *const made = fresh(bytes);
    memcpy(made, from, bytes);
    return made;
}}

static void put(FILE *out, const void *from, size_t bytes)
{{
    if (fwrite(from, 1, bytes, out) != bytes) {{
        abort();
    }}
}}

static void expect(int status)
{{
    if (status != 0) {{
        abort();
    }}
}}
{cells}
int main(int argc, char **argv)
{{
    FILE *const in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    FILE *const out = in != NULL ? fopen(argv[2], "wb") : NULL;
    if (out == NULL) {{
        return 2;
    }}
{calls}
    fclose(in);
    fclose(out);
    while (count > 0) {{
        free(owned[--count]);
    }}
    return 0;
}}
"""


@dataclass
class Case:
    """A cell, its sizes by name with T and B, and numbers for all that goes in."""

    cell: Cell
    sizes: dict[str, int]
    dtype: str = "float64"

    def __post_init__(self) -> None:
        # every number of a case follows from its name and sizes
        seed = [*self.cell.name.encode(), *self.sizes.values()]
        rng = np.random.default_rng(seed)
        cell, lead = self.cell, ("T", "B")

        def numbers(*shape: object) -> Any:
            return rng.normal(size=tuple(map(self.number, shape))).astype(self.dtype) * 0.7

        self.params = {p.name: numbers(*cell.shape(p)) for p in cell.parameters}
        self.constants = {c.name: cell.initial(c) or 0.75 for c in cell.constants}
        self.x = {v.name: numbers(*lead, cell.size(v)) for v in cell.inputs}
        self.masks = {v.name: numbers(*lead, cell.size(v)) for v in cell.masks}
        self.state = {s.name: numbers("B", cell.size(s)) for s in cell.states}
        self.dy = numbers(*lead, cell.size(cell.output))
        self.dstate = {s.name: numbers("B", cell.size(s)) for s in cell.states}

    def number(self, size: object) -> int:
        text = str(size)
        return int(text) if text.isdigit() else self.sizes[text]

    def bytes_in(self) -> bytes:
        arrays = [*self.params.values(), *self.constants.values(), *self.x.values()]
        arrays += [*self.masks.values(), *self.state.values(), self.dy, *self.dstate.values()]
        return b"".join(np.asarray(a, self.dtype).tobytes() for a in arrays)

    # ------------------------------------------------------------------ what should come out

    def expected(self) -> Iterator[tuple[str, Any]]:
        """All that the program writes, in its order, from the NumPy module."""
        module = reference(self.cell)
        x = self.x if len(self.x) > 1 else next(iter(self.x.values()))
        masks = {"masks": self.masks} if self.masks else {}
        params = {**self.params, **self.constants}
        dstate = self.dstate or None
        y, state, tape = module.forward(params, x, self.state or None, **masks)
        grads, dx, dinitial = module.backward(params, tape, self.dy, dstate)
        yield "y", y
        for kind, arrays in (("state", state), ("grads", grads), ("dx", _dict(dx)),
                             ("dinitial", dinitial)):  # fmt: skip
            for name in self._names(kind):
                yield f"{kind} {name}", arrays[name]
        sized = all(self.cell.size(s).is_Integer or self._told(s) for s in self.cell.states)
        zeros = {s.name: np.zeros_like(self.state[s.name]) for s in self.cell.states} or None
        y0, _, tape = module.forward(params, x, None if sized else zeros, **masks)
        yield "y from zeros, no tape", y0
        grads, dx, _ = module.backward(params, tape, self.dy, None)
        for kind, arrays in (("grads", grads), ("dx", _dict(dx))):
            for name in self._names(kind):
                yield f"{kind} {name}, from zeros", arrays[name]
        for what in ("in place", "streamed"):
            for name in self._names("state"):
                yield f"state {name}, {what}", state[name]
        yield "last y, streamed", y[-1]

    def _told(self, s: Vector) -> bool:
        """Whether others than the state tell its size."""
        cell = self.cell
        others = (*cell.parameters, *cell.inputs, *cell.masks)
        return any(n == cell.size(s) for p in others for n in cell.shape(p))

    def _names(self, kind: str) -> list[str]:
        cell = self.cell
        return {
            "state": [s.name for s in cell.states], "dinitial": [s.name for s in cell.states],
            "grads": [p.name for p in cell.parameters], "dx": [v.name for v in cell.inputs],
        }[kind]  # fmt: skip

    # ------------------------------------------------------------------ the program

    def function(self) -> str:
        """The C function that runs the cell in all ways."""
        cell, n = self.cell, self.cell.name
        real, several = f"{n}_real", len(cell.inputs) > 1
        lines = [f"{n}_sizes n;"]
        lines += [f"n.{name} = {value};" for name, value in self.sizes.items()]
        lines.append("n.threads = 0;")

        def count(*shape: object) -> str:
            return " * ".join(f"{self.number(size)}" for size in shape) + f" * sizeof({real})"

        def array(expression: str, *shape: object) -> str:
            return f"({real} *){expression}{count(*shape)})"

        def struct(kind: str, name: str, members: dict[str, str]) -> str:
            if not members:
                return "NULL"
            lines.append(f"{n}_{kind} {name};")
            lines.extend(f"{name}.{k} = {v};" for k, v in members.items())
            return f"&{name}"

        def put(struct: str, members: dict[str, str]) -> None:
            lines.extend(f"put(out, {struct}.{k}, {v});" for k, v in members.items())

        shape = {p.name: cell.shape(p) for p in cell.parameters}
        rows = {s.name: ("B", cell.size(s)) for s in cell.states}
        wide = {v.name: ("T", "B", cell.size(v)) for v in (*cell.inputs, *cell.masks)}
        sized = {k: count(*v) for k, v in {**shape, **rows, **wide}.items()}
        inputs, masks = [v.name for v in cell.inputs], [v.name for v in cell.masks]
        out = ("T", "B", cell.size(cell.output))

        values = {k: array("given(in, ", *s) for k, s in shape.items()}
        values |= {c.name: f"*{array('given(in, ', 1)}" for c in cell.constants}
        p = struct("params", "p", values | ({"packed": "NULL"} if shape else {}))
        x = {k: array("given(in, ", *wide[k]) for k in inputs}
        x_arg = struct("inputs", "x", x) if several else "x"
        if not several:
            lines.append(f"const {real} *x = {x[inputs[0]]};")
        m = struct("masks", "m", {k: array("given(in, ", *wide[k]) for k in masks})
        given = ["&n", p, x_arg, *([m] if masks else [])]
        initial = struct("state", "initial", {k: array("given(in, ", *s) for k, s in rows.items()})
        lines.append(f"const {real} *dy = {array('given(in, ', *out)};")
        dfinal = struct("state", "dfinal", {k: array("given(in, ", *s) for k, s in rows.items()})
        fresh = {k: array("fresh(", *s) for k, s in rows.items()}
        final, dinitial = struct("new_state", "final", fresh), struct("new_state", "d0", fresh)
        g = struct("grads", "g", {k: array("fresh(", *s) for k, s in shape.items()})
        dx = {k: array("fresh(", *wide[k]) for k in inputs}
        dx_arg = struct("input_grads", "dx", dx) if several else "dx"
        if not several:
            lines.append(f"{real} *dx = {dx[inputs[0]]};")
        lines.append(f"{real} *y = {array('fresh(', *out)};")
        for buffer in ("tape", "forward_work", "backward_work", "step_work", "packed"):
            lines.append(
                f"{real} *{buffer} = ({real} *)fresh({n}_{buffer}_size(&n) * sizeof({real}));"
            )

        def call(what: str, *arguments: str) -> None:
            lines.append(f"expect({n}_{what}({', '.join([*given, *arguments])}));")

        def put_gradients() -> None:
            put("g", {k: sized[k] for k in shape})
            if several:
                put("dx", {k: sized[k] for k in inputs})
            else:
                lines.append(f"put(out, dx, {sized[inputs[0]]});")

        call("forward", initial, "y", final, "tape", "forward_work")
        call("backward", "tape", "dy", dfinal, g, dx_arg, dinitial, "backward_work")
        lines.append(f"put(out, y, {count(*out)});")
        put("final", {k: sized[k] for k in rows})
        put_gradients()
        put("d0", {k: sized[k] for k in rows})

        call("forward", "NULL", "y", "NULL", "NULL", "forward_work")
        lines.append(f"put(out, y, {count(*out)});")
        # in slices of the batch, as for several threads
        lines.append("n.threads = 3;")
        for buffer in ("forward_work", "backward_work"):
            lines.append(f"{buffer} = ({real} *)fresh({n}_{buffer}_size(&n) * sizeof({real}));")
        call("forward", "NULL", "y", "NULL", "tape", "forward_work")
        call("backward", "tape", "dy", "NULL", g, dx_arg, "NULL", "backward_work")
        put_gradients()
        lines.append("n.threads = 0;")

        lines.append(f"expect({n}_pack(&n, {p}, packed));")
        if shape:
            lines.append("p.packed = packed;")

        current, following = "NULL", "NULL"
        for way in ("place", "stream"):  # the new state over the old one
            copies = {k: f"({real} *)copy(initial.{k}, {sized[k]})" for k in rows}
            following = struct("new_state", f"{way}_next", copies)
            current = struct("state", way, {k: f"{way}_next.{k}" for k in rows})
            if way == "place":
                call("forward", current, "y", following, "NULL", "forward_work")
                put("place", {k: sized[k] for k in rows})
        lines.append(f"for (size_t t = 0; t < {self.sizes['T']}; ++t) {{")
        here = []
        for kind, name, names in (("inputs", "x", inputs), ("masks", "m", masks)):
            if kind == "inputs" and not several:
                here.append(f"x + t * {self._row(cell.inputs[0])}")
            elif names:
                lines.append(f"{n}_{kind} {name}_t;")
                for v in (*cell.inputs, *cell.masks):
                    if v.name in names:
                        lines.append(f"{name}_t.{v.name} = {name}.{v.name} + t * {self._row(v)};")
                here.append(f"&{name}_t")
        y = "t % 2 == 0 ? y : NULL" if cell.output.category == "state" else "y"
        lines.append(
            f"expect({n}_step({', '.join(['&n', p, *here, current, y, following])}, step_work));"
        )
        lines.append("}")
        put("stream", {k: sized[k] for k in rows})
        last = count("B", cell.size(cell.output))
        if cell.output.category == "state":
            lines.append(f"put(out, stream.{cell.output.name}, {last});")
        else:
            lines.append(f"put(out, y, {last});")
        body = "\n    ".join(lines)
        return f"\nstatic void run_{n}(FILE *in, FILE *out)\n{{\n    {body}\n}}\n"

    def _row(self, v: Vector) -> int:
        return self.number("B") * self.number(self.cell.size(v))


def _dict(dx: Any) -> dict[str, Any]:
    return dx if isinstance(dx, dict) else _One(dx)


class _One(dict):  # type: ignore[type-arg]
    """The gradient of the only input, whatever its name."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def __missing__(self, key: str) -> Any:
        return self.value


@cache
def emitted(cell: Cell, dtype: str, sizes: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """The files of a cell, made once."""
    return lstmgen.generate(cell, "c", dtype=dtype, **dict(sizes))


@cache
def reference(cell: Cell) -> Any:
    """The NumPy module of a cell, made once."""
    return lstmgen.compile(cell, "numpy")


def write(cases: Sequence[Case], folder: Path, **sizes: int) -> list[str]:
    """Write the cells, the program and the numbers; the names of the C sources come back."""
    sources, includes = [], []
    for case in cases:
        files = emitted(case.cell, case.dtype, tuple(sizes.items()))
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
            (includes if name.endswith(".h") else sources).append(name)
    program = _TOP.format(
        includes="".join(f'#include "{name}"\n' for name in includes),
        cells="".join(case.function() for case in cases),
        calls="\n".join(f"    run_{case.cell.name}(in, out);" for case in cases),
    )
    (folder / "main.c").write_text(program, encoding="utf-8")
    (folder / "in.bin").write_bytes(b"".join(case.bytes_in() for case in cases))
    return sources


def compare(cases: Sequence[Case], folder: Path, tolerance: float) -> None:
    """Hold what the program wrote against the NumPy modules."""
    found = (folder / "out.bin").read_bytes()
    at = 0
    for case in cases:
        for what, expected in case.expected():
            size = np.dtype(case.dtype).itemsize * expected.size
            got = np.frombuffer(found[at : at + size], case.dtype).reshape(expected.shape)
            at += size
            scale = 1 + np.max(np.abs(expected))
            error = np.max(np.abs(got - expected)) / scale
            assert error < tolerance, f"{case.cell.name}, {what}: {error:.1e}"
    assert at == len(found)
