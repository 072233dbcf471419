"""Runs a stack of equal layers in a wavefront: a module with the face of a generated one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Expr

from ..language.cell import Cell
from ..network.wavefront import ACTIVE, wavefront
from .memory import LARGE, Pool
from .toolchain import compile

Array = NDArray[Any]


@dataclass(frozen=True)
class _Segment:
    """Steps ``first`` to ``end`` of a wavefront, in which some layers rest or all work."""

    first: int
    end: int
    rests: bool

    @property
    def steps(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Tape:
    """What backward needs: a tape for each segment, and the number of steps."""

    steps: int
    parts: Sequence[tuple[_Segment, Any]]


def segments(steps: int, layers: int) -> list[_Segment]:
    """Where the layers come in one after the other, work all, and go out again."""
    late = layers - 1
    if not late:
        return [_Segment(0, steps, False)]
    if steps <= late:
        return [_Segment(0, steps + late, True)]
    return [_Segment(0, late, True), _Segment(late, steps, False),
            _Segment(steps, steps + late, True)]  # fmt: skip


class Stack:
    """Equal layers of a cell, compiled as a wavefront.

    ``forward`` and ``backward`` are those of a generated module. Parameters and states are those
    of the layers side by side, the first layer's units before the second's, (layers * H,) and
    (B, layers * H).

    Parameters
    ----------
    cell : Cell
        A layer that acts unit by unit, as ``wavefront`` takes it.
    layers : int
    first : Expr, optional
        What the first layer reads, if that is not the input itself.
    target : str
        "c" or "numpy".
    **options
        As for ``lstmgen.compile``.
    """

    def __init__(
        self, cell: Cell, layers: int, *, first: Expr | None = None, target: str = "c",
        **options: Any,
    ) -> None:  # fmt: skip
        self.layers = layers
        self.cell = wavefront(cell, layers, first=first)
        self.module = self._masked = compile(self.cell, target, **options)
        if layers > 1:
            resting = wavefront(cell, layers, first=first, masked=True)
            self._masked = compile(resting, target, **options)
        self._pool = Pool()
        own = {s.name for s in cell.states}
        self._delayed = [name for name in self.module.STATES if name not in own]
        self.PARAMETERS = self.module.PARAMETERS
        self.STATES = {n: shape for n, shape in self.module.STATES.items() if n in own}

    def forward(
        self, params: Mapping[str, Any], x: Array, state: Mapping[str, Array] | None = None, *,
        tape: bool = True,
    ) -> tuple[Array, dict[str, Array], Tape | None]:  # fmt: skip
        """Run all layers over a sequence: (y, final state, tape).

        x is (T, B, D), y what the last layer puts out, (T, B, D).
        """
        steps, late = len(x), self.layers - 1
        ys, parts = [], []
        held: Any = self._with_delayed(state, x.shape[1:])
        for segment in segments(steps, self.layers):
            given = self._input(x, segment)
            options: dict[str, Any] = {} if tape else self._nothing_kept
            if segment.rests:
                options["masks"] = {ACTIVE: self._active(segment, x)}
            module = self._module(segment)
            y, held, kept = module.forward(params, given, held, **options)
            ys.append(y[max(0, late - segment.first) :])
            parts.append((segment, kept))
        return self._joined(ys), self._own(held), Tape(steps, parts) if tape else None

    def backward(
        self, params: Mapping[str, Any], tape: Tape, dy: Array,
        dstate: Mapping[str, Array] | None = None, *, by_input: bool = True,
    ) -> tuple[dict[str, Array], Array | None, dict[str, Array]]:  # fmt: skip
        """Backpropagate through time and layers: (grads, dx, dstate).

        ``by_input=False`` is for those who do not read dx, which is None then.
        """
        late = self.layers - 1
        grads: dict[str, Array] = {}
        dxs: list[Array] = []
        held: Any = self._with_delayed(dstate, dy.shape[1:])
        for segment, kept in reversed(tape.parts):
            early = max(0, late - segment.first)  # steps before the last layer's first
            given = dy[max(0, segment.first - late) : max(0, segment.end - late)]
            if early:
                nothing = np.zeros((min(early, segment.steps), *dy.shape[1:]), dy.dtype)
                given = np.concatenate([nothing, given])
            more, dx, held = self._module(segment).backward(params, kept, given, held)
            grads = {n: grads[n] + more[n] for n in more} if grads else more
            dxs.insert(0, dx[: max(0, tape.steps - segment.first)])
        return grads, self._joined(dxs) if by_input else None, self._own(held)

    def _module(self, segment: _Segment) -> Any:
        return self._masked if segment.rests else self.module

    @property
    def _nothing_kept(self) -> dict[str, Any]:
        """C can do without a tape, NumPy cannot."""
        return {"tape": False} if hasattr(self.module, "pack") else {}

    def _input(self, x: Array, segment: _Segment) -> Array:
        """What the first layer reads; where it rests, the last step again, which does no harm."""
        given = x[segment.first : segment.end]
        missing = segment.steps - len(given)
        return np.concatenate([given, np.repeat(x[-1:], missing, axis=0)]) if missing else given

    def _active(self, segment: _Segment, x: Array) -> Array:
        """Which units work: layer k from step k on, for as many steps as the sequence has."""
        since = np.arange(segment.first, segment.end)[:, None] - np.arange(self.layers)
        works = (since >= 0) & (since < len(x))
        units = np.repeat(works, x.shape[2], axis=1).astype(x.dtype)
        return np.ascontiguousarray(np.broadcast_to(
            units[:, None], (segment.steps, x.shape[1], units.shape[1])
        ))  # fmt: skip

    def _with_delayed(self, state: Mapping[str, Array] | None, shape: tuple[int, ...]) -> Any:
        """With zeros for what layers below have put out before, which nobody reads at first."""
        if state is None or not self._delayed:
            return state
        rows, units = shape
        zeros = np.zeros((rows, (self.layers - 1) * units))
        return {**state, **dict.fromkeys(self._delayed, zeros)}

    def _own(self, state: Mapping[str, Array]) -> dict[str, Array]:
        return {name: state[name] for name in self.STATES}

    def _joined(self, parts: Sequence[Array]) -> Array:
        if len(parts) == 1:
            return parts[0]
        joined = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
        if joined.nbytes >= LARGE:
            joined = self._pool.lent(joined)
        return np.concatenate(parts, out=joined)
