"""The statements by which a network in C goes through all its chains, there and back."""

from __future__ import annotations

from collections.abc import Sequence

from ...network.description import about
from ...network.graph import Chain, Last, Run, Signal
from ...network.structure import start_of
from .chains import Statements
from .network_memory import size


class Driver(Statements):
    """Whole passes over a slice of the batch, and the sums over all slices."""

    def forward(self) -> list[str]:
        """All chains over a slice."""
        graph, f = self.memory.graph, f"f{self.bits}"
        out, units = graph.output, size(graph.output.size)
        made = []
        if self.memory.is_x_numbers:
            width = size(graph.input.size)
            made.append(f"r->x = order_gather_{f}(&r->steps, 0, {width}, call->b->x, r->m.x);")
        if out.of_rows:
            made.append(f"r->m.{out.name} = call->y;")
        else:
            made.append(
                f"r->m.{out.name} = order_home_{f}(&r->steps, 0, call->y, r->m.{out.name});"
            )
        for k, chain in enumerate(graph.chains, 1):
            made.append(f"/* {about(chain).rstrip('.')} */")
            reverse = int(chain.reverse)
            made += [
                self._turn(s, self._outside(s), f"r->m.{s.name}_turned_{k}")
                for s in self.memory.turned(chain)
            ]
            made += self._cleared(chain, "")
            if chain.of_rows:
                made += [
                    "{",
                    "    const row_block block = {0, 1, slice.rows, 0, 0};",
                    "    r->order = &r->sequences;",
                    f"    {self.name}_chain_{k}(r, &block, call->keeps);",
                    "}",
                ]
                continue
            for run in chain.runs:
                for s, (name, width) in zip(run.cell.states, self.memory.states(run), strict=True):
                    start = f"call->p->{start_of(run, s).replace('.', '_')}"
                    made.append(
                        f"order_begin_{f}(&r->steps, {reverse}, {width}, "
                        f"{self._given('initial', run, name)}, "
                        f"{start if run.learned_start else 'NULL'}, "
                        f"({self.real}){run.cell.starts_at(s)!r}, r->m.{run.name}_{name});"
                    )
            made.append(f"{self.name}_over(r, {self.name}_chain_{k}, {self.name}_chain_{k}_store);")
            for run in chain.runs:
                for name, width in self.memory.states(run):
                    made.append(
                        f"order_end_{f}(&r->steps, {reverse}, {width}, r->m.{run.name}_{name}, "
                        f"{self._given('final', run, name)});"
                    )
            made += [
                self._turn(s, f"r->m.{s.name}_own", f"r->m.{s.name}")
                for s in graph.leaves(chain)
                if chain.reverse and not s.of_rows
            ]
        if not out.of_rows:
            made.append(f"order_scatter_{f}(&r->steps, 0, {units}, r->m.{out.name}, call->y);")
        return [*made, *self._unused(made)]

    def backward(self) -> list[str]:
        """The same way back."""
        graph, f = self.memory.graph, f"f{self.bits}"
        out, units = graph.output, size(graph.output.size)
        given = f"array_read_{f}(call->dy)"  # nothing is added to it
        made = []
        if self.memory.is_x_numbers:
            width = size(graph.input.size)
            made += [
                f"r->x = order_gather_{f}(&r->steps, 0, {width}, call->b->x, r->m.x);",
                "if (call->dx != NULL) {",
                f"    r->dx = order_home_{f}(&r->steps, 0, call->dx, r->m.dx);",
                "}",
            ]
        if out.of_rows:
            made.append(f"r->m.d{out.name} = {given};")
        else:
            made += [
                f"r->m.d{out.name} = array_read_{f}(order_gather_{f}(&r->steps, 0, {units}, "
                f"call->dy, r->m.d{out.name}));"
            ]
        made += [
            f"memset(r->m.{name}_sums + slice.s * {count}, 0, {count} * sizeof({self.real}));"
            for name, count in self.memory.own_sums
        ]
        known = {out}
        for k, chain in reversed([*enumerate(graph.chains, 1)]):
            made += self._chain_back(chain, k, known)
        if self.memory.is_x_numbers:
            width = size(graph.input.size)
            made += [
                "if (call->dx != NULL) {",
                f"    order_scatter_{f}(&r->steps, 0, {width}, r->dx, call->dx);",
                "}",
            ]
        return [*made, *self._unused(made)]

    def _chain_back(self, chain: Chain, k: int, known: set[Signal]) -> list[str]:
        """The way back through one chain."""
        graph, f, reverse = self.memory.graph, f"f{self.bits}", int(chain.reverse)
        made = [f"/* back through {about(chain).rstrip('.')} */"]
        made += [
            self._turn(s, f"r->m.d{s.name}", f"r->m.d{s.name}_own")
            for s in graph.leaves(chain)
            if chain.reverse and not s.of_rows
        ]
        for run in chain.runs:
            cell = self.cells[run.cell.name]
            if cell.has_sums and not chain.of_rows:
                made += [
                    "if (r->steps.blocks == 0) {",
                    f"    const {cell.name}_sizes size = {self.sizes_of(run)}(n, n->T, n->B);",
                    f"    const size_t each = {cell.name}_sums_parts(&size).total;",
                    f"    memset(r->m.{run.name}_sums + slice.s * each, 0, "
                    f"each * sizeof({self.real}));",
                    "}",
                ]
            for name, width in self.memory.states(run):
                made.append(
                    f"order_end_back_{f}(&r->steps, {reverse}, {width}, "
                    f"{self._given('dfinal', run, name)}, r->m.d{run.name}_{name});"
                )
        if chain.of_rows:
            made += [
                "{",
                "    const row_block block = {0, 1, slice.rows, 0, 0};",
                "    r->order = &r->sequences;",
                f"    {self.name}_chain_{k}_back(r, &block, 0);",
                "    r->order = &r->steps;",
                "}",
            ]
        else:
            made += [
                f"{self.name}_back_over(r, {self.name}_chain_{k}, {self.name}_chain_{k}_back, "
                f"{self.name}_chain_{k}_store);"
            ]
        learned = 0
        for run in graph.runs:
            for s in run.cell.states if run.learned_start else ():
                if run in chain.runs:
                    width = dict(self.memory.states(run))[s.name]
                    sums = start_of(run, s).replace(".", "_")
                    made.append(
                        f"order_start_back_{f}(&r->steps, {reverse}, {width}, "
                        f"r->m.d{run.name}_{s.name}, (int)(call->was_given >> {learned} & 1), "
                        f"r->m.{sums}_sums + slice.s * {width});"
                    )
                learned += 1
        for run in chain.runs:
            for name, width in self.memory.states(run):
                made.append(
                    f"order_begin_back_{f}(&r->steps, {reverse}, {width}, "
                    f"r->m.d{run.name}_{name}, {self._given('dinitial', run, name)});"
                )
        for signal in self.memory.turned(chain):
            is_x, units = signal == graph.input, size(signal.size)
            to = "r->dx" if is_x else f"r->m.d{signal.name}"
            turn = "order_turn_add" if signal in known else "order_turn"
            line = (
                f"{turn}_{f}(&r->steps, {units}, r->m.d{signal.name}_turned_{k}, {units}, {to}, "
                f"{units});"
            )
            made += ["if (r->dx != NULL) {", f"    {line}", "}"] if is_x else [line]
        known |= set(chain.reads)
        return made

    def _outside(self, s: Signal) -> str:
        return "r->x" if s == self.memory.graph.input else f"r->m.{s.name}"

    def _turn(self, s: Signal, source: str, to: str) -> str:
        units = size(s.size)
        return f"order_turn_f{self.bits}(&r->steps, {units}, {source}, {units}, {to}, {units});"

    def _cleared(self, chain: Chain, d: str) -> list[str]:
        """The last rows of sequences without steps are zeros."""
        return [
            f"memset(r->m.{d}{n.output.name} + slice.start * {size(n.output.size)}, 0, "
            f"slice.rows * {size(n.output.size)} * sizeof({self.real}));"
            for n in chain.nodes
            if isinstance(n, Last)
        ]

    def _given(self, struct: str, run: Run, state: str) -> str:
        return f"call->{struct} != NULL ? call->{struct}->{run.name}.{state} : NULL"

    def _unused(self, made: Sequence[str]) -> list[str]:
        return [] if any("n->" in line for line in made) else ["(void)n;"]

    def summing(self) -> list[str]:
        """Gradients of all slices to where callers want them."""
        made: list[str] = []
        for run in self.memory.graph.runs:
            cell = self.cells[run.cell.name]
            if not cell.has_gradients:
                continue
            call = [".n = &size", f".g = &g->{run.name}"]
            call += [f".p = &call->p->{run.name}"] if cell.has_parameters else []
            call += [f".sums = call->shared.{run.name}_sums"] if cell.has_sums else []
            call += [f".once = call->shared.{run.name}_back"] if cell.has_once else []
            made += [
                "{",
                f"    const {cell.name}_sizes size = {self.sizes_of(run)}(n, n->T, n->B);",
                f"    const {cell.name}_call c = {{{', '.join(call)}}};",
                f"    {cell.name}_sum_gradients(&c);",
                "}",
            ]
        for name, count in self.memory.own_sums:
            made += [
                f"array_sum_f{self.bits}(slices, {count}, call->shared.{name}_sums, g->{name});"
            ]
        return [*made, *(["(void)n;"] if not any("n->" in line for line in made) else [])]

    def given_bits(self) -> list[str]:
        """Which of the states that may be learned were given: a bit each."""
        made, bit = [], 0
        for run in self.memory.graph.runs:
            for s in run.cell.states if run.learned_start else ():
                given = f"initial != NULL && initial->{run.name}.{s.name} != NULL"
                made.append(f"given |= (uint64_t)({given}) << {bit};")
                bit += 1
        return made
