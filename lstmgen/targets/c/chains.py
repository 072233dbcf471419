"""The statements by which a network in C runs the cells of a chain over a block of steps.

A chain of nodes becomes three functions: what it does with a block, the way back, and how its
states are kept. ``r->m`` has all memory (``network_memory``), ``r->order`` the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...network.description import about, row
from ...network.graph import Chain, Embed, Join, Last, Run, Signal
from .embedded import Embedded
from .network_memory import NetworkMemory, size, times

_DRAWN = 53  # bits of a random number
_MASKS = 16  # masks that a part may have: each has a stream of random numbers of its own


@dataclass(frozen=True)
class ChainCode:
    """The functions of a chain."""

    name: str
    about: str
    forward: list[str]
    backward: list[str]
    store: list[str]


@dataclass
class Statements:
    """What statements are made of: the memory of a network, its cells, its type of numbers."""

    memory: NetworkMemory
    cells: dict[str, Embedded]
    real: str
    bits: int
    name: str

    def sizes_of(self, run: Run) -> str:
        """The function that says what the sizes of a part are."""
        return f"{self.name}_sizes_of_{run.name}"


@dataclass
class Chains(Statements):
    """The functions of all chains."""

    _known: set[Signal] = field(default_factory=set)  # whose adjoints were written before

    # ------------------------------------------------------------------ chains

    def all(self) -> list[ChainCode]:
        """Every chain; backward they come in reverse, and so are told what is written before."""
        self._known = {self.memory.graph.output}
        made = []
        for k, chain in reversed([*enumerate(self.memory.graph.chains, 1)]):
            forward = self._opening(chain, self._forward(chain, k), "keeps")
            backward = self._opening(chain, self._backward(chain, k), "begun")
            store = self._store(chain)
            made.append(ChainCode(f"chain_{k}", about(chain), forward, backward, store))
        return made[::-1]

    def _opening(self, chain: Chain, body: list[str], flag: str) -> list[str]:
        """Declarations of what the statements use."""
        text = "\n".join(body)
        declared = []
        if "n->" in text:
            declared.append(f"const {self.name}_sizes *const n = r->call->n;")
        if " base" in text:
            declared.append("const int whole = r->call->room.every == 0;")
            declared.append("const size_t base = whole ? block->at : 0;")
        unused = [f"(void){flag};"] if flag not in text else []
        if "r->" not in text + "".join(declared):
            unused.append("(void)r;")
        if "block" not in text + "".join(declared):
            unused.append("(void)block;")
        return [*declared, *body, *unused]

    def _forward(self, chain: Chain, k: int) -> list[str]:
        made: list[str] = []
        for node in chain.nodes:
            if isinstance(node, Run):
                made += self._run(chain, k, node)
            elif isinstance(node, Embed):
                units = size(node.output.size)
                out = self._value(chain, k, node.output)
                made.append(
                    f"order_embed_f{self.bits}(r->order, block, {units}, r->call->b->x, "
                    f"r->call->p->{node.name}_table, {out});"
                )
            elif isinstance(node, Join):
                made += self._join(chain, k, node)
            elif isinstance(node, Last):
                units = size(node.output.size)
                made.append(
                    f"order_last_f{self.bits}(r->order, {int(node.reverse)}, block, {units}, "
                    f"{self._value(chain, k, node.inputs[0])}, r->m.{node.output.name});"
                )
        return made

    def _join(self, chain: Chain, k: int, node: Join) -> list[str]:
        whole, at, made = size(node.output.size), "", []
        for s in node.inputs:
            made.append(
                f"rows_copy_f{self.bits}({self._count(chain)}, {size(s.size)}, "
                f"{self._value(chain, k, s)}, {size(s.size)}, "
                f"{self._value(chain, k, node.output)}{at}, {whole});"
            )
            at += f" + {size(s.size)}"
        return made

    def _run(self, chain: Chain, k: int, run: Run) -> list[str]:
        cell = self.cells[run.cell.name]
        (_, *others) = run.inputs
        ins = [self._value(chain, k, s) for s in run.inputs]
        struct = ".x = " + ins[0]
        lines: list[str] = []
        if others:
            members = ", ".join(
                f".{v.name} = {pointer}" for v, pointer in zip(run.cell.inputs, ins, strict=True)
            )
            lines.append(f"const {cell.name}_inputs in = {{{members}}};")
            struct = ".x = &in"
        tape = self._tape(chain, run)
        call = [
            *self._common(run), struct, f".y = {self._value(chain, k, run.output)}",
            f".packed = r->m.{run.name}_packed", f".tape = keeps ? {tape} : NULL",
        ]  # fmt: skip
        if cell.has_states:
            call += [".initial = &before", ".final = &after"]
        return self._block(
            run, [*lines, *self._states(run, "", "before", "after")], call, "forward"
        )

    def _back(self, chain: Chain, k: int, run: Run) -> list[str]:
        cell = self.cells[run.cell.name]
        pointers, after = [], []
        for s in run.inputs:
            d = self._adjoint(chain, k, s)
            if s in self._known:
                none = self._may_be_none(s)
                more = "r->m.more"
                pointers.append(f"{none} ? NULL : {more}" if none else more)
                add = (
                    f"rows_add_f{self.bits}({self._count(chain)}, {size(s.size)}, {more}, "
                    f"{size(s.size)}, {d}, {size(s.size)});"
                )
                after += [f"if (!({none})) {{", f"    {add}", "}"] if none else [add]
            else:
                none = self._may_be_none(s)
                pointers.append(f"{none} ? NULL : {d}" if none else d)
                self._known.add(s)
        lines: list[str] = []
        ins = [self._value(chain, k, s) for s in run.inputs]
        struct = [f".x = {ins[0]}", f".dx = {pointers[0]}"]
        if len(ins) > 1:
            names = [v.name for v in run.cell.inputs]
            read = ", ".join(f".{n} = {p}" for n, p in zip(names, ins, strict=True))
            written = ", ".join(f".{n} = {p}" for n, p in zip(names, pointers, strict=True))
            lines.append(f"const {cell.name}_inputs in = {{{read}}};")
            lines.append(f"const {cell.name}_input_grads din = {{{written}}};")
            struct = [".x = &in", ".dx = &din"]
        call = [
            *self._common(run), *struct, f".dy = {self._adjoint(chain, k, run.output)}",
            f".packed = r->m.{run.name}_back", f".kept = {self._tape(chain, run)}",
        ]  # fmt: skip
        if cell.has_states:
            call += [".dfinal = &dafter", ".dinitial = &dbefore"]
        if cell.has_sums:
            each = f"{cell.name}_sums_parts(&size).total"
            call.append(f".sums = r->m.{run.name}_sums + r->slice.s * {each}")
            call.append(".begun = begun")
        if cell.has_once:
            call.append(f".once = r->m.{run.name}_back")
        states = self._states(run, "d", "dafter", "dbefore")
        return [*self._block(run, [*lines, *states], call, "backward"), *after]

    def _block(self, run: Run, lines: list[str], call: Sequence[str], way: str) -> list[str]:
        """The call of a cell, in a block of its own."""
        cell = self.cells[run.cell.name]
        inside = [
            f"const {cell.name}_sizes size = {self.sizes_of(run)}(r->call->n, block->steps, "
            "block->pieces);",
            *lines,
            *self._masks(run),
            f"const {cell.name}_call call = {{{', '.join(call)}}};",
            f"{cell.name}_{way}_rows(&call, {self.name}_alone(r, block->pieces));",
        ]
        made, what, how = row(run)
        return [f"{{ /* {made}: {what}{how} */", *(f"    {line}" for line in inside), "}"]

    def _common(self, run: Run) -> list[str]:
        cell = self.cells[run.cell.name]
        found = [".n = &size", ".work = r->work"]
        if cell.has_parameters:
            found.append(f".p = &r->call->p->{run.name}")
        if run.noise:
            found.append(".m = &masks")
        return found

    def _states(self, run: Run, d: str, read: str, written: str) -> list[str]:
        cell = self.cells[run.cell.name]
        if not cell.has_states:
            return []
        members = ", ".join(f".{s.name} = r->m.{d}{run.name}_{s.name}" for s in run.cell.states)
        return [
            f"const {cell.name}_state {read} = {{{members}}};",
            f"const {cell.name}_new_state {written} = {{{members}}};",
        ]

    def _masks(self, run: Run) -> list[str]:
        """The masks of a block, drawn or as they are in the mean."""
        if not run.noise:
            return []
        cell, made = self.cells[run.cell.name], []
        part = self.memory.graph.runs.index(run)
        reverse = int(run.reverse)
        for k, (mask, noise) in enumerate(run.noise.items()):
            units = self.memory.mask_units(run, mask)
            dropped, kept = noise.values
            threshold = round(noise.probability * 2**_DRAWN)
            where = f"r->m.{run.name}_{mask}"
            made += [
                "if (r->call->b->is_noisy) {",
                f"    const noise_f{self.bits} noise = {{random_key(r->call->b->seed, "
                f"{_MASKS * part + k}), UINT64_C({threshold}), ({self.real}){dropped!r}, "
                f"({self.real}){kept!r}, {int(noise.whole)}}};",
                f"    order_masks_f{self.bits}(r->order, {reverse}, block->first, block->steps, "
                f"{units}, &noise, {where});",
                "} else {",
                f"    array_fill_f{self.bits}(block->steps * block->pieces * {units}, "
                f"({self.real}){noise.mean!r}, {where});",
                "}",
            ]
        members = ", ".join(f".{mask} = r->m.{run.name}_{mask}" for mask in run.noise)
        return [*made, f"const {cell.name}_masks masks = {{{members}}};"]

    def _backward(self, chain: Chain, k: int) -> list[str]:
        made: list[str] = []
        outside = set(self._known)
        if chain.reverse:  # what is read in reverse has memory of its own, which is written first
            self._known = self._known - set(chain.reads)
        for node in reversed(chain.nodes):
            d = self._adjoint(chain, k, node.output)
            if isinstance(node, Run):
                made += self._back(chain, k, node)
            elif isinstance(node, Embed):
                units = size(node.output.size)
                table = f"{node.name}_table_sums"
                count = times(str(node.count), units)
                made.append(
                    f"order_embed_back_f{self.bits}(r->order, block, {units}, r->call->b->x, {d}, "
                    f"r->m.{table} + r->slice.s * {count});"
                )
            elif isinstance(node, Join):
                made += self._join_back(chain, k, node)
            elif isinstance(node, Last):
                s = node.inputs[0]
                made.append(
                    f"order_last_back_f{self.bits}(r->order, {int(node.reverse)}, block, "
                    f"{size(s.size)}, r->m.d{node.output.name}, {int(s not in self._known)}, "
                    f"{self._adjoint(chain, k, s)});"
                )
                self._known.add(s)
        if chain.reverse:
            self._known = outside | (self._known - set(chain.reads))
        return made

    def _join_back(self, chain: Chain, k: int, node: Join) -> list[str]:
        whole, at, made = size(node.output.size), "", []
        d = self._adjoint(chain, k, node.output)
        for s in node.inputs:
            how = "add" if s in self._known else "copy"
            line = (
                f"rows_{how}_f{self.bits}({self._count(chain)}, {size(s.size)}, {d}{at}, "
                f"{whole}, {self._adjoint(chain, k, s)}, {size(s.size)});"
            )
            none = self._may_be_none(s)
            made += [f"if (!({none})) {{", f"    {line}", "}"] if none else [line]
            self._known.add(s)
            at += f" + {size(s.size)}"
        return made

    def _store(self, chain: Chain) -> list[str]:
        """States to a slot, or back."""
        made: list[str] = []
        if chain.of_rows:
            return made
        for run in chain.runs:
            for name, units in self.memory.states(run):
                made += [
                    f"store_states_f{self.bits}(pieces * {units}, r->m.{run.name}_{name}, "
                    f"r->m.{run.name}_{name}_kept + slot * r->call->room.pieces * {units}, back);"
                ]
        if not made:
            return ["(void)r, (void)slot, (void)pieces, (void)back;"]
        sizes = [f"const {self.name}_sizes *const n = r->call->n;"] if "n->" in str(made) else []
        return [*sizes, *made]

    # ------------------------------------------------------------------ pointers

    def _count(self, chain: Chain) -> str:
        return "block->pieces" if chain.of_rows else "block->steps * block->pieces"

    def _value(self, chain: Chain, k: int, s: Signal) -> str:
        """The rows of a signal in this block, as the chain has them."""
        return self._rows_of(chain, k, s, "")

    def _adjoint(self, chain: Chain, k: int, s: Signal) -> str:
        """The rows of ∂L/∂ a signal in this block."""
        return self._rows_of(chain, k, s, "d")

    def _rows_of(self, chain: Chain, k: int, s: Signal, d: str) -> str:
        """The same of both: what is said of a signal holds for its adjoint, with a d before it."""
        where, at = f"r->m.{d}{s.name}", "block->at"
        if s.of_rows:
            at = "r->slice.start"
        elif s in chain.made and s not in self.memory.whole:
            at = "base"
        elif s in chain.made:
            where += "_own" if chain.reverse else ""
        elif chain.reverse:
            where += f"_turned_{k}"
        elif s == self.memory.graph.input:
            where = f"r->{d}x"
        return f"{where} + {at} * {size(s.size)}"

    def _may_be_none(self, s: Signal) -> str:
        """What holds where nobody wants the adjoint of a signal."""
        return "r->dx == NULL" if s == self.memory.graph.input else ""

    def _tape(self, chain: Chain, run: Run) -> str:
        cell = self.cells[run.cell.name].name
        if chain.of_rows:
            return f"r->m.{run.name}_tape"
        return f"r->m.{run.name}_tape + {cell}_tape_room(&size, base, whole ? r->starts : 0)"
