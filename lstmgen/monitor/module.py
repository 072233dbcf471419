"""A module that remembers what its gates did, and what arrived at its states."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..analysis.gates import Array, Statistics, activations, norm, steps_back
from ..derivation.watched import watch
from ..errors import LstmgenError
from ..language.cell import Cell
from ..runtime.loading import load_python
from ..runtime.toolchain import compile
from ..targets.numpy.target import interface


class WatchedModule:
    """``init``, ``forward`` and ``backward`` of a cell, with statistics of what they did.

    In place of ``compile(cell)``, in one step of training of many: it computes the same, to
    rounding, and more slowly.

    Parameters
    ----------
    cell : Cell
    target, options
        As ``compile`` has them.
    """

    def __init__(self, cell: Cell, target: str = "numpy", **options: Any) -> None:
        self._watched = watch(cell)
        self._module = module = _compiled(cell, target, tuple(sorted(options.items())))
        self._interface = load_python(interface(self._watched.cell), cell.name, "<interface>")
        axes = dict(module.INPUTS)
        self._offsets = {o: tuple(axes.pop(o)) for o in self._watched.offsets.values()}
        self.INPUTS, self.STATES, self.MASKS = axes, module.STATES, module.MASKS
        self.PARAMETERS, self.CONSTANTS = module.PARAMETERS, module.CONSTANTS
        self.__name__ = self.CELL = cell.name
        self._outputs = [v.name for v in cell.outputs]
        self.OUTPUT = self._outputs[0]
        self.pack, self.init = module.pack, module.init
        self._forget()

    def __repr__(self) -> str:
        return f"<{self.CELL}, watched: {self._module!r}>"

    def _forget(self) -> None:
        self._seen: list[dict[str, Array]] = []
        self._arrived: dict[int, dict[str, Array]] = {}
        self._grads: dict[str, Array] = {}

    def statistics(self) -> Statistics:
        """Of what was done since the last call: a pass over a batch, or several blocks of steps of
        it, one after the other; and back, if that was done.

        Raises
        ------
        LstmgenError
            If there was none.
        """
        arrived, grads = self._arrived, self._grads
        found = self.seen()
        self._forget()
        if arrived:
            blocks = [arrived[k] for k in sorted(arrived)]
            of = self._watched.offsets
            found.adjoints = {s: steps_back([block[o] for block in blocks]) for s, o in of.items()}
        found.gradients = {name: norm([a]) for name, a in grads.items()}
        return found

    def seen(self) -> Statistics:
        """The gates alone; what is to be told of a backward pass, ``statistics`` tells later.

        Raises
        ------
        LstmgenError
            If there was no pass forward.
        """
        if not self._seen:
            raise LstmgenError(f"{self.CELL}: there are no statistics before forward has run")
        return Statistics(activations(self._seen, self._watched.bounded))

    # ------------------------------------------------------------------ the interface

    def forward(
        self, params: Mapping[str, Any], x: Any, state: Mapping[str, Any] | None = None,
        masks: Mapping[str, Any] | None = None, *, tape: bool = True,
    ) -> tuple[Any, dict[str, Array], Any]:  # fmt: skip
        """As ``forward`` of a generated module."""
        more = [masks] if self.MASKS else []
        given = self._with_offsets(params, x, state, masks)
        ys, final, kept = self._module.forward(params, given, state, *more, tape=tape)
        if not isinstance(ys, Mapping):
            ys = {self.OUTPUT: ys}
        number = len(self._seen)
        if all(ys[self.OUTPUT].shape[:2]):
            self._seen.append({name: np.array(ys[name]) for name in self._watched.bounded})
        y = {name: ys[name] for name in self._outputs}
        made = _Tape(kept, number, {name: np.zeros_like(a) for name, a in ys.items()})
        return y if len(y) > 1 else y[self.OUTPUT], final, made if tape else None

    def backward(
        self, params: Mapping[str, Any], tape: Any, dy: Any,
        dstate: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:  # fmt: skip
        """As ``backward`` of a generated module."""
        if not isinstance(tape, _Tape):
            raise ValueError("the tape is what forward of the watched module returned")
        dys = {**tape.zeros, **(dy if isinstance(dy, Mapping) else {self.OUTPUT: dy})}
        every = dys if len(dys) > 1 else dys[self.OUTPUT]
        grads, dxs, first = self._module.backward(params, tape.kept, every, dstate)
        if not isinstance(dxs, Mapping):
            dxs = {next(iter(self.INPUTS)): dxs}
        if self._offsets and all(tape.zeros[self.OUTPUT].shape[:2]):
            self._arrived[tape.number] = {o: dxs[o] for o in self._offsets}
        for name, a in grads.items():
            self._grads[name] = self._grads[name] + a if name in self._grads else np.array(a)
        dx = {name: dxs[name] for name in self.INPUTS}
        return grads, dx if len(dx) > 1 else next(iter(dx.values())), first

    def _with_offsets(
        self, params: Mapping[str, Any], x: Any, state: Any, masks: Mapping[str, Any] | None
    ) -> Any:
        """The inputs, with zeros for the offsets."""
        if not self._offsets:
            return x
        xs = x if isinstance(x, Mapping) else {next(iter(self.INPUTS)): x}
        f = self._interface
        sizes = dict(f.NUMBERS)
        tables = (
            (self.PARAMETERS, params, 0), (self.INPUTS, xs, 2), (self.STATES, state or {}, 1),
            (self.MASKS, masks or {}, 2),
        )  # fmt: skip
        for table, arrays, lead in tables:
            for name, axes in table.items():
                for axis, n in zip(axes, np.shape(arrays.get(name, ()))[lead:], strict=False):
                    sizes.setdefault(axis, n)
        if whole := getattr(f, "_whole", None):
            whole(sizes)
        lead = np.shape(next(iter(xs.values())))[:2]
        kind = np.result_type(*(params[name] for name in self.PARAMETERS), np.float32)
        zeros = {
            o: np.zeros((*lead, *(sizes[axis] for axis in axes)), kind)
            for o, axes in self._offsets.items()
        }
        return {name: xs[name] if name in xs else zeros[name] for name in self._module.INPUTS}


@lru_cache(maxsize=64)
def _compiled(cell: Cell, target: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """Modules have no state, so that several watched ones may have one."""
    return compile(watch(cell).cell, target, **dict(options))


class _Tape(NamedTuple):
    """What ``forward`` keeps: the module's tape, which pass it was, and outputs that are zero."""

    kept: Any
    number: int
    zeros: dict[str, Array]
