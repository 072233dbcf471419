"""Networks in C: one header and one source, over the runtime that all cells share.

The source has the code of each distinct cell once (``embedded``), and a driver that runs them over
blocks of steps (``driver``); ``network_memory`` says what lies where.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...errors import GenerateError
from ...language.sizes import Size
from ...network.description import lines
from ...network.graph import Embed, Run
from ...network.structure import Structure, shape_in, start_of
from ..comments import network_header
from ..identity import fingerprint, maker
from ..rendering import environment
from . import runtime
from .chains import Chains
from .driver import Driver
from .embedded import Embedded
from .lines import WIDTH, broken, fitted, top_comment
from .network_memory import NetworkMemory, Piece, size, times
from .network_training import CHUNK, TILE, TrainingCode
from .target import tidy

OPTIONS = frozenset({"dtype"})
OF_COMPILE = frozenset({"threads"})

_BLOCK = 256  # rows of a block, where nothing is kept
_STARTS = 64  # states whose start is learned: a bit of a tape's label says whether it was given
_TEMPLATES = ("network.h.j2", "network.c.j2", "network_interface.c.j2", "network_training.c.j2")


def files(network: Structure, *, dtype: str = "float64", source: str = "") -> dict[str, str]:
    """The header, the source, and what all networks and cells share.

    Raises
    ------
    GenerateError
        If the C target cannot express a cell, or a name of the network.
    """
    if dtype not in runtime.BITS:
        raise GenerateError(f"the C target has {' and '.join(runtime.BITS)}, not {dtype}")
    made = _Parts(network, dtype, source)
    templates = environment("c")
    return {
        f"{network.name}.h": fitted(templates.get_template("network.h.j2").render(made.header())),
        f"{network.name}.c": fitted(templates.get_template("network.c.j2").render(made.source())),
        runtime.FILE: runtime.text(),
        runtime.NETWORK: runtime.text(runtime.NETWORK),
    }


class _Parts:
    """What the templates place."""

    def __init__(self, network: Structure, dtype: str, source: str) -> None:
        self.network, self.graph, self.name = network, network.graph, network.name
        self.real = runtime.name("real", dtype)
        self.bits = runtime.BITS[dtype]
        options = f" --dtype {dtype}"
        about = network_header(network, "c", lines(network), source, options)
        self._about = top_comment(tidy(about))
        self.cells = {c.name: Embedded(c, dtype, self.name) for c in self.graph.cells}
        self.memory = NetworkMemory(network, self.cells)
        of = self.memory, self.cells, self.real, self.bits, self.name
        self.chains, self.driver = Chains(*of), Driver(*of)
        self._extra: list[Embedded] = []
        if network.loss is not None:
            self.loss = Embedded(network.loss.cell, dtype, self.name)
            self.optimizer = Embedded(network.optimizer.cell, dtype, self.name, backward=False)
            self._extra = [self.loss, self.optimizer]
        self.training = (
            TrainingCode(network, (self.real, self.bits), self._blocks(), *self._extra)
            if self._extra
            else None
        )
        self._refuse_double_names()
        starts = sum(len(run.cell.states) for run in self.graph.runs if run.learned_start)
        if starts > _STARTS:
            raise GenerateError(
                f"in C, {_STARTS} states may have a start that is learned, not {starts}\n"
                "  hint: leave out learn_state=True where it does not matter"
            )

    def _refuse_double_names(self) -> None:
        memory = self.memory
        regions = (memory.tape, memory.batch, memory.batch_back, memory.packed,
                   memory.packed_back, memory.sums, memory.forward, memory.backward)  # fmt: skip
        names = [piece.name for region in regions for piece in region]
        for name in names:
            if names.count(name) > 1:
                raise GenerateError(
                    f"in C, two arrays of the network would be called {name}\n"
                    "  hint: give a layer another name, name=…"
                )

    # ------------------------------------------------------------------ both files

    def _shared(self) -> dict[str, Any]:
        out = self.graph.output
        rows = "(B" if out.of_rows else "(T, B"
        loss = self.network.loss
        classes = loss is not None and loss.of_classes
        return {
            "about": self._about,
            "name": self.name,
            "NAME": self.name.upper(),
            "stem": self.name,
            "real": self.real,
            "bits": self.bits,
            "generation": self._generation(),
            "steps": not any(run.reverse for run in self.graph.runs),
            "trains": loss is not None,
            "symbols": self.network.symbols,
            "units": size(out.size),
            "y_about": f"{rows}, {out.size})",
            "rows_about": f"{rows})",
            "target_about": f"{rows}): the number of a class; negative ones do not count"
            if classes
            else f"{rows}, {out.size}): what was wanted",
            "target_type": "int32_t" if classes else f"{self.name}_real",
        }

    def _open_sizes(self) -> list[Size]:
        """The size of x, if callers say what it is."""
        free = self.graph.input.size.free_symbols
        return [] if self.network.symbols else sorted(free, key=str)

    def _generation(self) -> str:
        network, loader = self.network, environment("c").loader
        assert loader is not None
        texts = [loader.get_source(environment("c"), name)[0] for name in _TEMPLATES]
        makers = [maker(cell)["equations"] for cell in network.cells]
        nodes = [repr(node) for node in lines(network)]
        return fingerprint(*makers, *nodes, self.real, *texts, runtime.code(runtime.NETWORK))

    # ------------------------------------------------------------------ the header

    def header(self) -> dict[str, Any]:
        """The variables of the header."""
        shared = self._shared()
        types = [text.rstrip() for cell in self.cells.values() for text in self._types(cell)]
        symbols = self.network.symbols
        return shared | {
            "types": types,
            "open_sizes": [f"size_t {n.name}; /* units of x */" for n in self._open_sizes()],
            "members": self._members(),
            "x_type": "int32_t" if symbols else f"{self.name}_real",
            "x_about": "(T, B): symbols" if symbols else f"(T, B, {self.graph.input.size})",
            "dx_about": "; x is symbols: it has to be NULL" if symbols else "",
            "prototypes": {k: self._head(k, ";") for k in self._arguments()},
            "usage": self._usage(),
            "init_prototype": self._init_prototype() if shared["trains"] else [],
        }

    def _init_prototype(self) -> list[str]:
        n = self.name
        arguments = [f"const {n}_sizes *n", "uint64_t seed", f"{n}_real *params"]
        return [
            "", "/* Fresh parameters, which follow from the seed. */",
            *broken(f"void {n}_init(", arguments, ");", WIDTH),
        ]  # fmt: skip

    def _types(self, cell: Embedded) -> list[str]:
        made = [cell.parameters] if cell.has_parameters else []
        return made + ([cell.states] if cell.has_states else [])

    def _members(self) -> dict[str, list[str]]:
        """The members of the structs that callers see."""
        params, grads, state, new_state = [], [], [], []
        real = f"{self.name}_real"
        for node in self.graph.nodes:
            if isinstance(node, Embed):
                shape = f"/* ({node.count}, {node.output.size}) */"
                params.append(f"const {real} *{node.name}_table; {shape}")
                grads.append(f"{real} *{node.name}_table; {shape}")
            if not isinstance(node, Run):
                continue
            cell = self.cells[node.cell.name]
            if cell.has_parameters:
                params.append(f"{cell.name}_params {node.name};")
                grads.append(f"{cell.name}_grads {node.name};")
            if cell.has_states:
                state.append(f"{cell.name}_state {node.name};")
                new_state.append(f"{cell.name}_new_state {node.name};")
            if node.learned_start:
                for s in node.cell.states:
                    name = start_of(node, s).replace(".", "_")
                    shape = f"/* ({', '.join(map(str, shape_in(node, s)))}) */"
                    params.append(f"const {real} *{name}; {shape}")
                    grads.append(f"{real} *{name}; {shape}")
        nothing = ["char nothing; /* there is none */"]
        return {
            "params": params, "grads": grads or nothing, "state": state or nothing,
            "new_state": new_state or nothing,
        }  # fmt: skip

    def _usage(self) -> list[str]:
        n = self.name
        sizes = ".T = 100, .B = 1" + "".join(f", .{s.name} = 8" for s in self._open_sizes())
        return [
            f"     {n}_sizes n = {{{sizes}}};",
            f"     {n}_real *params = malloc({n}_params_size(&n) * sizeof *params);",
            f"     {n}_params p = {n}_params_in(&n, params);",
            f"     {n}_batch b = {{.x = x}};",
            f"     {n}_real *work = malloc({n}_forward_work_size(&n, &b, 0) * sizeof *work);",
            f"     {n}_status status = {n}_forward(&n, &p, &b, NULL, y, NULL, NULL, work);",
            f"     if (status != {n.upper()}_OK) puts({n}_message(status));",
        ]

    # ------------------------------------------------------------------ functions that callers see

    def _arguments(self) -> dict[str, list[str]]:
        n = self.name
        common = [f"const {n}_sizes *n"]
        states = [f"const {n}_state *initial"]
        final = [f"const {n}_new_state *final"]
        real = f"{n}_real"
        x = "int32_t" if self.network.symbols else real
        made = {
            "forward": [*common, f"const {n}_params *p", f"const {n}_batch *b", *states,
                        f"{real} *y", *final, f"{real} *tape", f"{real} *work"],
            "backward": [*common, f"const {n}_params *p", f"const {n}_batch *b", f"{real} *tape",
                         f"const {real} *dy", f"const {n}_state *dfinal", f"const {n}_grads *g",
                         f"{real} *dx", f"const {n}_new_state *dinitial", f"{real} *work"],
            "step": [*common, f"const {n}_params *p", f"const {x} *x", f"const {n}_state *state",
                     f"{real} *y", f"const {n}_new_state *next", f"{real} *work"],
        }  # fmt: skip
        if self.network.loss is not None:
            wanted = "int32_t" if self.network.loss.of_classes else real
            target = [f"const {wanted} *target", f"const {real} *weights"]
            made["loss"] = [*common, f"const {n}_batch *b", f"const {real} *y", *target,
                            "double *loss", f"{real} *dy", f"{real} *work"]  # fmt: skip
            made["update"] = [*common, f"{n}_training *training", f"{real} *grads", "double *norm",
                              f"{real} *work"]  # fmt: skip
            made["train"] = [*common, f"{n}_training *training", f"const {n}_batch *b", *target,
                             *states, *final, "double *loss", f"{real} *work"]  # fmt: skip
        return made

    def _head(self, what: str, end: str = "") -> list[str]:
        n = self.name
        return broken(f"{n}_status {n}_{what}(", self._arguments()[what], f"){end}", WIDTH)

    # ------------------------------------------------------------------ the source

    def source(self) -> dict[str, Any]:
        """The variables of the source."""
        driver, memory = self.driver, self.memory
        regions = {
            "tape": ("What a slice keeps for backward.", memory.tape),
            "batch": ("What all slices keep: a row a sequence.", memory.batch),
            "packed": ("Parameters, as forward reads them.", memory.packed),
            "packed_back": ("Parameters, as backward reads them.", memory.packed_back),
            "sums": ("Where gradients of parameters are summed, by all slices.", memory.sums),
            "batch_back": ("The adjoints of what has a row a sequence.", memory.batch_back),
            "forward": ("What a slice works with.", memory.forward),
            "backward": ("What a slice works with on the way back, beside that.", memory.backward),
        }
        pieces = dict.fromkeys(piece.name for _, found in regions.values() for piece in found)
        made = self._shared() | {
            "runtime": f'#include "{runtime.FILE}"',
            "network_runtime": f'#include "{runtime.NETWORK}"',
            "runtime_generation": runtime.generation(),
            "cells": [
                *(cell.code.rstrip() for cell in self.cells.values()),
                *(t.rstrip() for cell in self._extra for t in (*self._types(cell), cell.code)),
            ],
            "parts": [self._part(run) for run in self.graph.runs],
            "block": _BLOCK,
            "members": broken(f"{self.real} ", [f"*{name}" for name in pieces], ";", WIDTH - 4),
            "regions": [self._region(k, about, found) for k, (about, found) in regions.items()],
            "cell_room": self._cell_room(),
            "chains": self.chains.all(),
            "forward": driver.forward(),
            "backward": driver.backward(),
            "summing": driver.summing(),
            "given": driver.given_bits(),
            "check": self._check(),
            "label_size": size(self.graph.input.size) if self._open_sizes() else "0",
            "params_size": [f"size_take(&total, {c});" for _, c, _ in self._blocks()],
            "params_in": [
                f"p.{name} = block + size_take(&total, {c});" for name, c, _ in self._blocks()
            ] + self._constants(),
            "grads_in": [
                f"g.{name} = block + size_take(&total, {c});"
                for name, c, learned in self._blocks() if learned
            ],
            "arrange_forward": self._arrange("forward"),
            "arrange_backward": self._arrange("backward"),
            "heads": {k: self._head(k) for k in self._arguments()},
        }  # fmt: skip
        for what in ("params_size", "params_in", "grads_in"):
            unused = [] if any("n->" in line for line in made[what]) else ["(void)n;"]
            made[what] += unused
        return made | (self.training.context() if self.training else {})

    def _part(self, run: Run) -> dict[str, list[str]]:
        """The function that gives the sizes of a part."""
        cell = self.cells[run.cell.name]
        members = [".T = T", ".B = B"]
        members += [f".{n.name} = {size(v)}" for n, v in run.sizes.items()]
        members += [".threads = n->threads", ".serial = n->serial"]
        return {
            "sizes_head": broken(
                f"static {cell.name}_sizes {self.name}_sizes_of_{run.name}(",
                [f"const {self.name}_sizes *n", "size_t T", "size_t B"], ")", WIDTH,
            ),
            "sizes_body": [
                *broken(f"const {cell.name}_sizes size = {{", members, "};"), "return size;",
            ],
        }  # fmt: skip

    def _region(self, name: str, about: str, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The function that says where the pieces of a region are."""
        body = [
            f"m->{piece.name} = piece_f{self.bits}(base, &total, {piece.count});"
            for piece in pieces
        ]
        text = "\n".join(body)
        opening = []
        for word in ("B", "rows", "own_rows", "pieces", "kept_rows", "kept_starts", "slots"):
            if re.search(rf"(?<![.>\w]){word}\b", text):
                opening.append(f"const size_t {word} = room->{word};")
        if "slices" in text:
            opening.append("const size_t slices = slice_count(n->B, n->threads);")
        for run in self.graph.runs:
            if f"&{run.name})" in text or f"&{run.name}," in text:
                cell = self.cells[run.cell.name].name
                made = f"{self.name}_sizes_of_{run.name}(n, n->T, n->B)"
                opening.append(f"const {cell}_sizes {run.name} = {made};")
        opening.append("size_t total = 0;")
        used = "\n".join([*opening, text])
        words = (("n->", "n"), ("room->", "room"), ("base,", "base"), ("m->", "m"))
        unused = [
            f"(void){argument}"
            for word, argument in words
            if word not in used and not (argument == "n" and "(n," in used)
        ]
        opening += [f"{', '.join(unused)};"] if unused else []
        head = [f"const {self.name}_sizes *n", f"const {self.name}_room *room",
                f"{self.real} *base", f"{self.name}_memory *m"]  # fmt: skip
        return {
            "about": about,
            "head": broken(f"static size_t {self.name}_{name}_pieces(", head, ")", WIDTH),
            "body": [*opening, *body],
        }

    def _cell_room(self) -> list[str]:
        """The workspace of all cells: of the one that needs most."""
        made = []
        for run in self.graph.runs:
            cell = self.cells[run.cell.name].name
            rows = "1, room->B" if run.inputs[0].of_rows else "n->T, room->pieces"
            made += [
                "{",
                f"    const {cell}_sizes size = {self.name}_sizes_of_{run.name}(n, {rows});",
                f"    most = size_at_least(most, {cell}_forward_room(&size));",
                "    if (back) {",
                f"        most = size_at_least(most, {cell}_backward_room(&size));",
                "    }",
                "}",
            ]
        return made or ["(void)n, (void)room;"]

    def _check(self) -> list[str]:
        """Sizes, and those of all arrays."""
        n = self.name
        zero = ["n == NULL", "n->T == 0", "n->B == 0"]
        zero += [f"n->{s.name} == 0" for s in self._open_sizes()]
        made = [f"if ({' || '.join(zero)}) {{", f"    return {n.upper()}_BAD_SIZE;", "}"]
        for run in self.graph.runs:
            cell = self.cells[run.cell.name].name
            steps = "1" if run.inputs[0].of_rows else "n->T"
            made += [
                "{",
                f"    const {cell}_sizes size = {n}_sizes_of_{run.name}(n, {steps}, n->B);",
                f"    const {n}_status status = {cell}_check(&size);",
                f"    if (status != {n.upper()}_OK) {{",
                "        return status;",
                "    }",
                "}",
            ]
        if self.network.loss is not None:
            made.append(
                f"const {self.loss.name}_sizes of_loss = {{1, {TILE}, "
                f"{size(self.graph.output.size)}, 0, 0}};"
            )
            made.append(f"const {self.optimizer.name}_sizes of_update = {{1, 1, {CHUNK}, 0, 0}};")
            made += [
                f"if ({self.loss.name}_check(&of_loss) != {n.upper()}_OK",
                f"    || {self.optimizer.name}_check(&of_update) != {n.upper()}_OK) {{",
                f"    return {n.upper()}_TOO_LARGE;",
                "}",
            ]
        return [*made, f"return {n.upper()}_OK;"]

    def _blocks(self) -> list[tuple[str, str, bool]]:
        """The arrays of parameters: in C, how many numbers, whether learned; these come first."""
        found = []
        for name, shape in self.network.parameters.items():
            learned = name not in self.network.unlearned
            found.append((self._member(name), times(*map(size, shape)), learned))
        return sorted(found, key=lambda block: not block[2])

    def _member(self, name: str) -> str:
        """A parameter as a member of the struct: that of a cell, or the network's own."""
        part, _, p = name.rpartition(".")
        for run in self.graph.runs:
            if run.name == part and p in {q.name for q in run.cell.parameters}:
                return name
        return name.replace(".", "_")

    def _constants(self) -> list[str]:
        return [
            f"p.{run.name}.{k} = ({self.real}){v!r};"
            for run in self.graph.runs
            for k, v in run.constants.items()
        ]

    def _arrange(self, way: str) -> list[str]:
        made = []
        packed = "packed" if way == "forward" else "back"
        for run in self.graph.runs:
            cell = self.cells[run.cell.name]
            given = f"&p->{run.name}" if cell.has_parameters else "NULL"
            sizes = f"{self.name}_sizes_of_{run.name}"
            made += [
                "{",
                f"    const {cell.name}_sizes size = {sizes}(n, n->T, n->B);",
                f"    {cell.name}_arrange_{way}(&size, {given}, m->{run.name}_{packed});",
                "}",
            ]
        if not any("p->" in line for line in made):
            made.append("(void)p;")
        return made
