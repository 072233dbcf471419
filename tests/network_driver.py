"""A C program that runs a generated network on batches, with buffers of exactly their sizes.

It reads batches from a file, and writes all that comes out to another; ``driver`` says how its
memory is watched. ``outcomes`` is what the NumPy module makes of the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import driver
import numpy as np

import lstmgen
from lstmgen.network.structure import Structure

Arrays = dict[str, Any]


@dataclass
class Batch:
    """Arguments of one call; what there is not is None."""

    T: int
    B: int
    D: int = 3
    threads: int = 0
    every: int = 0
    snapshots: int = 0
    drop: int | None = None
    lengths: Any = None
    resets: Any = None
    has_state: bool = False
    has_dstate: bool = False
    weighted: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        parts = [f"T={self.T} B={self.B} threads={self.threads} every={self.every}"]
        parts += [f"snapshots={self.snapshots}"] if self.snapshots else []
        parts += [k for k in ("lengths", "resets", "drop") if getattr(self, k) is not None]
        return " ".join(parts)


class Program:
    """The program of one network."""

    def __init__(self, network: Structure, dtype: str = "float64") -> None:
        self.network, self.dtype = network, np.dtype(dtype)
        self.module = lstmgen.compile(network, "numpy")
        self.name = network.name
        self.files = lstmgen.generate(network, "c", dtype=dtype)
        self.trains = network.loss is not None
        self.of_rows, self.units = network.graph.output.of_rows, network.graph.output.size
        self.classes = self.trains and network.loss.of_classes
        self.steps = not any(run.reverse for run in network.graph.runs)
        f = self.module
        self.learned = [n for n in f.PARAMETERS if n not in f.UNLEARNED]
        self.blocks = [*self.learned, *f.UNLEARNED]

    # ------------------------------------------------------------------ numbers

    def shape(self, axes: Sequence[Any], batch: Batch) -> tuple[int, ...]:
        known = {"D": batch.D, "T": batch.T, "B": batch.B}
        return tuple(known[n] if isinstance(n, str) else int(n) for n in axes)

    def y_shape(self, batch: Batch) -> tuple[int, ...]:
        units = batch.D if str(self.units) == "D" else int(self.units)
        return (batch.B, units) if self.of_rows else (batch.T, batch.B, units)

    def arrays(self, batch: Batch) -> Arrays:
        """All arrays of a batch, in the order in which the program reads them."""
        f, rng = self.module, np.random.default_rng(batch.seed)

        def numbers(*axes: Any) -> Any:
            return (rng.normal(size=self.shape(axes, batch)) * 0.6).astype(self.dtype)

        made: Arrays = {"params": {n: numbers(*f.PARAMETERS[n]) for n in self.blocks}}
        made["x"] = (
            rng.integers(0, f.SYMBOLS, (batch.T, batch.B)).astype(np.int32)
            if f.SYMBOLS
            else numbers("T", "B", *f.INPUTS["x"])
        )
        made["lengths"] = None if batch.lengths is None else np.asarray(batch.lengths, np.uintp)
        made["resets"] = None if batch.resets is None else np.asarray(batch.resets, np.uint8)
        states = {n: numbers("B", *axes) for n, axes in f.STATES.items()}
        dstates = {n: numbers("B", *axes) for n, axes in f.STATES.items()}
        made["state"] = states if batch.has_state else None
        made["dstate"] = dstates if batch.has_dstate else None
        shape = self.y_shape(batch)
        made["dy"] = (rng.normal(size=shape)).astype(self.dtype)
        if self.trains:
            made["target"] = (
                rng.integers(-1, shape[-1], shape[:-1]).astype(np.int32)
                if self.classes
                else rng.normal(size=shape).astype(self.dtype)
            )
            weights = rng.random(shape[:-1]).astype(self.dtype)
            made["weights"] = weights if batch.weighted else None
        return made

    def bytes_in(self, batch: Batch) -> bytes:
        arrays = self.arrays(batch)
        numbers = [batch.T, batch.B, batch.D, batch.threads, batch.every, batch.snapshots]
        flags = [arrays["lengths"], arrays["resets"], batch.drop, arrays["state"], arrays["dstate"],
                 arrays.get("weights")]  # fmt: skip
        numbers += [int(a is not None) for a in flags] + [batch.drop or 0]
        found = [np.array(numbers, np.uint64).tobytes()]
        for value in arrays.values():
            parts = value.values() if isinstance(value, dict) else [value]
            found += [np.ascontiguousarray(a).tobytes() for a in parts if a is not None]
        return b"".join(found)

    def outcome(self, batch: Batch) -> Iterator[tuple[str, Any]]:
        """What the program writes, from the NumPy module in double precision."""
        f, given = self.module, self.arrays(batch)
        wide = {k: _double(v) for k, v in given.items() if k not in ("lengths", "resets")}
        params = wide["params"] | f.CONSTANTS
        options = {
            "lengths": None if given["lengths"] is None else given["lengths"].astype(int),
            "resets": None if given["resets"] is None else given["resets"] != 0,
            "seed": batch.drop,
        }
        y, final, tape = f.forward(params, wide["x"], wide["state"], **options)
        yield "y", y
        yield from ((f"final {n}", final[n]) for n in f.STATES)
        yield "y, no tape", y
        grads, dx, dinitial = f.backward(params, tape, wide["dy"], wide["dstate"])
        for way in ("", ", again"):
            yield from ((f"grad {n}{way}", grads[n]) for n in self.learned)
            yield from ((f"dinitial {n}{way}", dinitial[n]) for n in f.STATES)
        if dx is not None:
            yield "dx", dx
        if self.steps:
            after = f.step(params, wide["x"][0], wide["state"])
            yield "y of a step", after[f.OUTPUT]
            yield from ((f"{n} of a step", after[n]) for n in f.STATES)
        if self.trains:
            how = {"lengths": options["lengths"], "weights": wide["weights"]}
            value, dy = f.loss(y, wide["target"], **how)
            yield "loss", np.array(value)
            yield "dy of the loss", dy
            held = {n: np.array(a) if np.ndim(a) else a for n, a in params.items()}
            moments = f.start(held)
            values = [
                f.train(held, moments, wide["x"], wide["target"], wide["state"], **options,
                        weights=wide["weights"])[0]
                for _ in range(3)
            ]  # fmt: skip
            yield "losses", np.array(values)
            yield from ((f"trained {n}", held[n]) for n in self.blocks)

    def read(self, batch: Batch, data: bytes, at: int) -> tuple[Arrays, int]:
        """The same from what the program wrote, and where the next batch is."""
        found: Arrays = {}
        for name, wanted in self.outcome(batch):
            kind = np.float64 if name in ("loss", "losses") else self.dtype
            count = int(np.prod(np.shape(wanted), dtype=int))
            found[name] = np.frombuffer(data, kind, count, at).reshape(np.shape(wanted))
            at += count * np.dtype(kind).itemsize
        return found, at

    # ------------------------------------------------------------------ the program

    def write(self, batches: Sequence[Batch], folder: Path, flavour: str = "c") -> list[str]:
        """All files; the sources are named."""
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        includes = "\n".join(["#include <stdint.h>", f'#include "{self.name}.h"'])
        text = driver._TOP.format(
            includes=includes,
            cells=self._function(),
            calls=f"    run_all(in, out, {len(batches)});",
        )
        (folder / "main.c").write_text(text, encoding="utf-8")
        (folder / "in.bin").write_bytes(b"".join(map(self.bytes_in, batches)))
        return [f"{self.name}.c"]

    def compare(self, batches: Sequence[Batch], folder: Path, tolerance: float) -> None:
        """What the program wrote is what it should be."""
        data, at = (folder / "out.bin").read_bytes(), 0
        for batch in batches:
            found, at = self.read(batch, data, at)
            for name, wanted in self.outcome(batch):
                scale = max(1.0, float(np.abs(wanted).max(initial=0)))
                error = float(np.abs(found[name] - wanted).max(initial=0)) / scale
                assert error <= tolerance, f"{batch.name}: {name} is off by {error:.2g}"
        assert at == len(data)

    def _function(self) -> str:
        f, n, real = self.module, self.name, f"{self.name}_real"
        N = n.upper()
        D = "n.D" if self._has_D() else "D"

        def product(axes: Sequence[Any]) -> str:
            names = {"T": "n.T", "B": "n.B", "D": "D"}
            return " * ".join(["(size_t)1", *(names.get(str(a), f"{a}u") for a in axes)])

        y_axes = ["B", self.units] if self.of_rows else ["T", "B", self.units]
        rows = product(y_axes[:-1])
        y = product(y_axes)
        x_type = "int32_t" if f.SYMBOLS else real
        x = product(["T", "B", *f.INPUTS["x"]] if not f.SYMBOLS else ["T", "B"])
        states = {s: product(["B", *axes]) for s, axes in f.STATES.items()}

        def struct(kind: str, name: str, how: str) -> list[str]:
            lines = [f"{n}_{kind} {name};", f"memset(&{name}, 0, sizeof {name});"]
            return lines + [f"{name}.{s} = {how.format(count)};" for s, count in states.items()]

        made = f"({real} *)fresh(sizeof({real}) * ({{}}))"
        given = f"({real} *)given(in, sizeof({real}) * ({{}}))"
        lines = [
            "uint64_t head[13];",
            "if (fread(head, sizeof head, 1, in) != 1) abort();",
            f"{n}_sizes n;",
            "memset(&n, 0, sizeof n);",
            "n.T = (size_t)head[0], n.B = (size_t)head[1];",
            "const size_t D = (size_t)head[2];",
            f"{D} = D;" if self._has_D() else "(void)D;",
            "n.threads = (size_t)head[3];",
            "n.every = (size_t)head[4], n.snapshots = (size_t)head[5];",
            f"{n}_batch b;",
            "memset(&b, 0, sizeof b);",
            "b.is_noisy = (int)head[8], b.seed = head[12];",
            f"const size_t count = {n}_params_size(&n);",
            f"{real} *const params = ({real} *)given(in, count * sizeof({real}));",
            f"{n}_params p = {n}_params_in(&n, params);",
            f"b.x = (const {x_type} *)given(in, sizeof({x_type}) * ({x}));",
            "if (head[6]) b.lengths = (const size_t *)given(in, n.B * sizeof(size_t));",
            "if (head[7]) b.resets = (const unsigned char *)given(in, n.T * n.B);",
            f"const {n}_state *initial = NULL, *dfinal = NULL;",
            f"{n}_state states, dstates;",
            "memset(&states, 0, sizeof states), memset(&dstates, 0, sizeof dstates);",
            "if (head[9]) {",
            *(f"    states.{s} = {given.format(c)};" for s, c in states.items()),
            "    initial = &states;",
            "}",
            "if (head[10]) {",
            *(f"    dstates.{s} = {given.format(c)};" for s, c in states.items()),
            "    dfinal = &dstates;",
            "}",
            f"const {real} *const dy = {given.format(y)};",
            *struct("new_state", "final", made),
            *struct("new_state", "dinitial", made),
            # forward, with a tape and without
            f"{real} *const y = {made.format(y)};",
            f"{real} *tape = {made.format(f'{n}_tape_size(&n, &b)')};",
            f"{real} *work = {made.format(f'{n}_forward_work_size(&n, &b, 1)')};",
            f"expect({n}_forward(&n, &p, &b, initial, y, &final, tape, work));",
            f"put(out, y, sizeof({real}) * ({y}));",
            *(f"put(out, final.{s}, sizeof({real}) * ({c}));" for s, c in states.items()),
            f"work = {made.format(f'{n}_forward_work_size(&n, &b, 0)')};",
            f"{real} *const packed = {made.format(f'{n}_packed_size(&n)')};",
            f"expect({n}_pack(&n, &p, packed));",
            "p.packed = packed;",
            f"{real} *const y2 = {made.format(y)};",
            f"expect({n}_forward(&n, &p, &b, initial, y2, NULL, NULL, work));",
            f"put(out, y2, sizeof({real}) * ({y}));",
            # backward, without ∂L/∂x and with it
            f"{real} *const grads = {made.format('count')};",
            f"const {n}_grads g = {n}_grads_in(&n, grads);",
            f"work = {made.format(f'{n}_backward_work_size(&n, &b)')};",
            f"{real} *dx = NULL;",
            "for (int way = 0; way < 2; ++way) {",
        ]  # fmt: skip
        if not f.SYMBOLS:
            lines += ["    if (way) {", f"        dx = {made.format(x)};", "    }"]
        offsets, so_far = {}, "(size_t)0"
        for k in self.blocks:
            offsets[k] = so_far
            so_far += f" + {product(f.PARAMETERS[k])}"
        lines += [
            f"    expect({n}_backward(&n, &p, &b, tape, dy, dfinal, &g, dx, &dinitial, work));",
            "    if (n.every) { /* a tape with checkpoints is used once */",
            f"        if ({n}_backward(&n, &p, &b, tape, dy, dfinal, &g, dx, NULL, work) != "
            f"{N}_WRONG_TAPE) abort();",
            f"        work = {made.format(f'{n}_forward_work_size(&n, &b, 1)')};",
            f"        expect({n}_forward(&n, &p, &b, initial, y, NULL, tape, work));",
            f"        work = {made.format(f'{n}_backward_work_size(&n, &b)')};",
            "    }",
            *(
                f"    put(out, grads + {offsets[k]}, "
                f"sizeof({real}) * ({product(f.PARAMETERS[k])}));"
                for k in self.learned
            ),
            *(f"    put(out, dinitial.{s}, sizeof({real}) * ({c}));" for s, c in states.items()),
            "}",
        ]
        if not f.SYMBOLS:
            lines.append(f"put(out, dx, sizeof({real}) * ({x}));")
        if self.steps:
            one = product(y_axes[1:] if not self.of_rows else y_axes)
            lines += [
                f"{real} *const y_t = {made.format(one)};",
                *struct("new_state", "next", made),
                f"work = {made.format(f'{n}_step_work_size(&n)')};",
                f"expect({n}_step(&n, &p, b.x, initial, y_t, &next, work));",
                f"put(out, y_t, sizeof({real}) * ({one}));",
                *(f"put(out, next.{s}, sizeof({real}) * ({c}));" for s, c in states.items()),
            ]
        if self.trains:
            kind = "int32_t" if self.classes else real
            lines += [
                f"const {kind} *const target = (const {kind} *)given(in, sizeof({kind}) * "
                f"({rows if self.classes else y}));",
                f"const {real} *weights = NULL;",
                f"if (head[11]) weights = {given.format(rows)};",
                f"{real} *const dloss = {made.format(y)};",
                "double loss;",
                f"work = {made.format(f'{n}_loss_work_size(&n)')};",
                f"expect({n}_loss(&n, &b, y, target, weights, &loss, dloss, work));",
                "put(out, &loss, sizeof loss);",
                f"put(out, dloss, sizeof({real}) * ({y}));",
                f"{n}_training training;",
                "training.params = params, training.updates = 0;",
                f"training.moments = {made.format(f'{n}_moments_size(&n)')};",
                f"if ({n}_moments_size(&n) > 0)",
                f"    memset(training.moments, 0, sizeof({real}) * {n}_moments_size(&n));",
                f"work = {made.format(f'{n}_train_work_size(&n, &b)')};",
                "for (int k = 0; k < 3; ++k) {",
                f"    expect({n}_train(&n, &training, &b, target, weights, initial, &final, &loss, "
                "work));",
                "    put(out, &loss, sizeof loss);",
                "}",
                f"put(out, params, count * sizeof({real}));",
            ]
        body = "\n".join(f"    {line}" for line in lines)
        return (
            f"static void run_one(FILE *in, FILE *out)\n{{\n{body}\n}}\n"
            "static void run_all(FILE *in, FILE *out, int batches)\n{\n"
            "    while (batches-- > 0) {\n        run_one(in, out);\n    }\n}"
        )

    def _has_D(self) -> bool:
        return not self.network.symbols and bool(self.network.graph.input.size.free_symbols)


def _double(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _double(v) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    return value
