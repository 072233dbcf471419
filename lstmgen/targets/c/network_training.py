"""What a network in C trains with: the loss over rows, the optimiser over numbers, first values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr

from ...language.initial import Initial
from ...language.matrices import Matrix
from ...network.graph import Embed, Run
from ...network.optimizers import UPDATE
from ...network.structure import Structure, shape_in
from .embedded import Embedded
from .lines import broken
from .network_memory import size

TILE = 64  # rows that the loss works on at a time
CHUNK = 1024  # numbers that the optimiser works on at a time

_RANDOM = {"glorot", "uniform", "normal"}


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
            "init": self.init() or [],
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

    def init(self) -> list[str] | None:
        """Statements that fill parameters; None if a start is one that C does not have."""
        made = []
        starts: dict[str, tuple[str, Sequence[float], Sequence[str]]] = {}
        for node in self._network.graph.nodes:
            if isinstance(node, Embed):
                starts[f"{node.name}_table"] = ("normal", (1.0,), ())
            elif isinstance(node, Run):
                for p in node.cell.parameters:
                    shape = [size(a) for a in shape_in(node, p)]
                    starts[f"{node.name}.{p.name}"] = _start(node, p, shape)
        for member, count, _ in self._blocks:
            kind, numbers, sides = starts.get(member, ("number", (0.0,), ()))
            to = f"params + size_take(&total, {count})"
            if kind == "number":
                made.append(
                    f"array_fill_f{self._bits}({count}, ({self._real}){numbers[0]!r}, {to});"
                )
            elif kind == "glorot":
                limit = f"sqrt(6.0 / (double)({' + '.join(sides)}))"
                made.append(
                    f"init_uniform_f{self._bits}(seed, stream++, -{limit}, {limit}, {count}, {to});"
                )
            elif kind == "uniform":
                low, high = numbers
                made.append(
                    f"init_uniform_f{self._bits}(seed, stream++, {low!r}, {high!r}, {count}, {to});"
                )
            elif kind == "normal":
                made.append(
                    f"init_normal_f{self._bits}(seed, stream++, {numbers[0]!r}, {count}, {to});"
                )
            else:
                return None
        unused = [] if any("n->" in line for line in made) else ["(void)n;"]
        unused += [] if any("stream++" in line for line in made) else ["(void)seed, (void)stream;"]
        return [*made, *unused]


def _start(run: Run, p: Any, shape: list[str]) -> tuple[str, Sequence[float], Sequence[str]]:
    """How a parameter starts, in C."""
    start = run.cell.initial(p)
    if isinstance(start, Initial):
        if start.name in ("zeros", "ones"):
            return "number", (float(start.name == "ones"),), ()
        kind = start.name if start.name in _RANDOM else "other"
        return kind, start.numbers, shape[-2:]
    if start is None and isinstance(p, Matrix):
        return "glorot", (), shape[-2:]
    return "number", (float(start or 0.0),), ()


def _c(e: Expr) -> str:
    """An expression of k, in double precision."""
    e = e.subs(UPDATE, sympy.Symbol("k")).xreplace({sympy.pi: sympy.pi.evalf(17)})
    return " ".join(str(sympy.ccode(e)).split())
