"""What a network in C trains with: the loss over rows, the optimiser over numbers, first values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr

from ...language.initial import Initial, Start
from ...language.matrices import Matrix
from ...network.graph import Embed
from ...network.optimizers import UPDATE
from ...network.structure import Structure, shape_in
from .embedded import Embedded
from .lines import broken
from .network_memory import size
from .starts import filled

TILE = 64  # rows that the loss works on at a time
CHUNK = 1024  # numbers that the optimiser works on at a time


class TrainingCode:
    """What the template of functions that train needs.

    ``blocks`` are the arrays of parameters: in C, how many numbers, whether learned.
    """

    def __init__(
        self, network: Structure, dtype: tuple[str, int], blocks: Sequence[tuple[str, str, bool]],
        loss: Embedded, optimizer: Embedded,
    ) -> None:  # fmt: skip
        self._network, self._blocks = network, blocks
        self._real, self._bits = dtype
        self._loss, self._optimizer = loss, optimizer

    def context(self) -> dict[str, Any]:
        """What the functions that train hold."""
        network, n = self._network, self._network.name
        loss, optimizer, out = network.loss, network.optimizer, network.graph.output
        assert loss is not None
        units, per_step = size(out.size), not out.of_rows
        values = {**optimizer.constants}
        numbers = {k: f"({self._real}){v!r}" for k, v in values.items()}
        numbers |= {
            k: f"({self._real})({_c(e.subs(values))})" for k, e in optimizer.counted.items()
        }
        numbers["rate"] = f"({self._real}){n}_rate(training->updates)"
        members = ", ".join(f".{k} = {v}" for k, v in numbers.items())
        constants = ", ".join(
            f".{v.name} = ({self._real}){loss.cell.starts_at(v)!r}" for v in loss.cell.constants
        )
        moments = {name: k for k, name in enumerate(optimizer.moments)}
        states = ", ".join(
            [".p = training->params + at"]
            + [f".{m} = training->moments + {k} * all + at" for m, k in moments.items()]
        )
        learned = [c for _, c, is_learned in self._blocks if is_learned]
        return {
            "loss": {
                "name": self._loss.name,
                "masks": f"const {self._loss.name}_masks masks = "
                f"{{.{loss.cell.masks[0].name} = wanted}};",
            },
            "loss_params": [f"const {self._loss.name}_params lp = {{{constants}}};"]
            if self._loss.has_parameters else [],
            "loss_p": "&lp" if self._loss.has_parameters else "NULL",
            "loss_steps": "n->T" if per_step else "(size_t)1",
            "optimizer": {
                "name": self._optimizer.name,
                "before": f"const {self._optimizer.name}_state before = {{{states}}};",
                "after": f"const {self._optimizer.name}_new_state after = {{{states}}};",
            },
            "optimizer_params": broken(
                f"const {self._optimizer.name}_params p = {{", members.split(", "), "};"
            ),
            "moments": len(moments),
            "counting": "const double k = (double)++training->updates;"
            if optimizer.counted
            else "++training->updates;",
            "learned": [f"size_take(&learned, {c});" for c in learned],
            "rate": [f"return {_c(network.schedule.rate)};"]
            if network.schedule.rate.has(UPDATE)
            else ["(void)k;", f"return {_c(network.schedule.rate)};"],
            "clipping": self._clipping(),
            "counts": self._counts(per_step, loss.of_classes),
            "want": self._want(units, loss.of_classes),
            "tile": TILE,
            "chunk": CHUNK,
            "init": self.init(),
            "classes": loss.of_classes,
        }  # fmt: skip

    def _clipping(self) -> list[str]:
        made = []
        if self._network.clip_norm is not None:
            limit = repr(self._network.clip_norm)
            made += [
                f"if (length > {limit}) {{",
                f"    array_scale_f{self._bits}(learned, ({self._real})({limit} / length), grads);",
                "}",
            ]
        if self._network.clip_value is not None:
            limit = f"({self._real}){self._network.clip_value!r}"
            made.append(f"array_clip_f{self._bits}(learned, {limit}, grads);")
        return made

    def _counts(self, per_step: bool, classes: bool) -> list[str]:
        over = "0"
        made = ["(void)T, (void)B;"]
        if per_step:
            over = "b != NULL && b->lengths != NULL && row / B >= b->lengths[row % B]"
        else:
            made.append("(void)b;")
        made.append(f"const int over = {over};")
        if not classes:
            made.append("(void)target;")
        absent = "over || target[row] < 0" if classes else "over"
        return [*made, f"return {absent} ? 0.0 : weight;"]

    def _want(self, units: str, classes: bool) -> list[str]:
        row = f"wanted + some * {units}"
        if not classes:
            return [f"memcpy({row}, target + row * {units}, {units} * sizeof({self._real}));"]
        return [
            f"memset({row}, 0, {units} * sizeof({self._real}));",
            f"wanted[some * {units} + (size_t)target[row]] = ({self._real})1;",
        ]

    def init(self) -> list[str]:
        """Statements that fill parameters, with the numbers that NumPy draws."""
        drawn = self._drawn()
        made = []
        for member, count, _ in self._blocks:
            start, shape, key, is_opposite = drawn[member]
            made.append(f"to = params + size_take(&total, {count});")
            made.append(filled(start, shape, key, (count, "to"), (self._real, self._bits)))
            if is_opposite:
                made.append(f"array_scale_f{self._bits}({count}, ({self._real})-1, to);")
        text = "\n".join(made)
        unused = [f"(void){name};" for name in ("n", "seed") if not re.search(rf"\b{name}\b", text)]
        return [*made, *unused]

    def _drawn(self) -> dict[str, tuple[Start | None, list[str], str, bool]]:
        """How each parameter starts, its axes, what its random numbers are drawn with, and whether
        their signs are changed.
        """
        graph, made = self._network.graph, {}
        for number, run in enumerate(graph.runs):
            known = {p.name: (k, run.cell.initial(p)) for k, p in enumerate(run.cell.parameters)}
            for p in run.cell.parameters:
                place, start = known[p.name]
                is_opposite = isinstance(start, Initial) and bool(start.of)
                if isinstance(start, Initial) and start.of:
                    place, start = known[start.of]
                if start is None and not isinstance(p, Matrix):
                    start = 0.0
                shape = [size(a) for a in shape_in(run, p)]
                key = f"random_key(random_key(seed, {number}), {place})"
                made[f"{run.name}.{p.name}"] = start, shape, key, is_opposite
        tables = {f"{node.name}.table" for node in graph.nodes if isinstance(node, Embed)}
        for place, (name, axes) in enumerate(self._network.parameters.items()):
            if name not in made:  # tables of embeddings, and states that are learned
                start = Initial("normal", (1.0,)) if name in tables else 0.0
                key = f"random_key(random_key(seed, {len(graph.runs)}), {place})"
                made[name.replace(".", "_")] = start, [size(a) for a in axes], key, False
        return made


def _c(e: Expr) -> str:
    """An expression of k, in double precision."""
    e = e.subs(UPDATE, sympy.Symbol("k")).xreplace({sympy.pi: sympy.pi.evalf(17)})
    return " ".join(str(sympy.ccode(e)).split())
