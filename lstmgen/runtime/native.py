"""A compiled C cell with the interface of a generated NumPy module.

Calls go through cffi in ABI mode: it parses the generated header, needs no Python headers, and
releases the interpreter's lock while C runs. A module has no state that a call could disturb, so
that threads may use it at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import LstmgenError, missing_extra
from ..language.cell import Cell
from ..targets.numpy.target import interface
from .arguments import Arguments, Bound
from .kept import Packed, Tape
from .loading import load_python
from .memory import Array, Memory
from .rooms import Room, Rooms


class NativeModule:
    """``init``, ``forward``, ``backward`` and ``step`` of one cell, in C.

    Arrays that are not of the module's dtype, or not in C order, are converted at every call.
    """

    _memory_kind: ClassVar[type[Memory]] = Memory

    def __init__(
        self, cell: Cell, header: str, library: Path, dtype: str, fixed: Mapping[str, int],
        threads: int = 1,
    ) -> None:  # fmt: skip
        self._ffi, self._lib = opened(header, library)
        self.dtype = np.dtype(dtype)
        self._interface = f = load_python(
            interface(cell), cell.name, f"<lstmgen interface of {cell.name}>"
        )
        self.__name__ = self.CELL = f.CELL
        self.OUTPUT, self.PARAMETERS, self.STATES = f.OUTPUT, f.PARAMETERS, f.STATES
        self.INPUTS, self.MASKS, self.CONSTANTS = f.INPUTS, f.MASKS, f.CONSTANTS
        self._maker = {**f.MAKER, "dtype": dtype, **fixed, "threads": threads}
        self._has_several_outputs = len(cell.outputs) > 1
        # a step returns those under their own names
        self._no_states = [v.name for v in cell.outputs if v.category != "state"]
        self._memory = self._memory_kind(self._ffi, dtype)
        self._rooms = Rooms(self._ffi, self._lib, cell, f, fixed, threads)
        self._arguments = Arguments(self._ffi, f, dtype, self._memory, self._rooms)
        self._null = self._ffi.NULL
        self._c_forward, self._c_backward, self._c_step, self._c_pack, self._c_message = (
            getattr(self._lib, f"{cell.name}_{what}")
            for what in ("forward", "backward", "step", "pack", "message")
        )

    def __repr__(self) -> str:
        return f"<lstmgen C module {self.CELL} ({self.dtype})>"

    # ------------------------------------------------------------------ the interface

    def init(
        self, input_size: int, hidden_size: int, seed: int = 0, dtype: Any = None, **sizes: Any
    ) -> dict[str, Any]:
        """Fresh parameters: a dict from name to array, as the NumPy module makes them."""
        made: dict[str, Any] = self._interface.init(
            input_size, hidden_size, seed=seed, dtype=dtype or self.dtype, **sizes
        )
        return made

    def forward(
        self,
        params: Mapping[str, Any],
        x: Any,
        state: Mapping[str, Any] | None = None,
        masks: Mapping[str, Any] | None = None,
        *,
        tape: bool = True,
    ) -> tuple[Array, dict[str, Array], Tape | None]:
        """Run the cell over a sequence: (y, final state, tape); see the NumPy module.

        ``tape=False`` keeps nothing for a backward pass; the tape is then None.
        """
        bound, memory = self._bind(params), self._memory
        inputs, old, room = self._arguments.take(bound, x, state, masks, ("T", "B"))
        if not room.tape:  # there are no steps, or no rows: the state stays as it is
            nothing = Tape(None, inputs, room, self) if tape else None
            return memory.fresh_outputs(room.outputs)[0], self._kept("state", state, room), nothing
        y, to_y = memory.fresh_outputs(room.outputs)
        final, new = memory.fresh(room.states)
        kept = memory.tape(room.tape) if tape else None
        work = memory.workspace(room.forward_work)
        status = self._c_forward(
            room.struct, bound.struct, *inputs, old, to_y, new,
            kept[1] if kept else self._null, work[1],
        )  # fmt: skip
        memory.give_back(work)
        if status:
            raise self._failure("forward", status)
        made = Tape(kept, inputs, room, self) if kept else None
        return y, final, made

    def backward(
        self,
        params: Mapping[str, Any],
        tape: Tape | None,
        dy: Any,
        dstate: Mapping[str, Any] | None = None,
        *,
        inputs: bool = True,
        parameters: bool = True,
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:
        """Backpropagate through time: (grads, dx, dstate); see the NumPy module.

        With ``inputs=False``, dx is None, and with ``parameters=False``, grads is empty. Either
        saves the work for it.

        ``params`` are those that ``forward`` had. They are read anew: a change since then shows,
        and the result is the gradient of neither. What ``pack`` gave is a copy, and cannot change.
        """
        bound, memory = self._bind(params), self._memory
        tape = self._own(tape, bound)
        # a struct of another module, even of the same code, is of another type to cffi
        room = tape.room if tape.module is self else self._rooms.of(tape.room.sizes)
        from_dy = self._arguments.taken_dy(dy, room)
        final = self._arguments.taken_final(dstate, room)
        if tape.memory is None:
            return self._nothing(dstate, room, inputs, parameters)
        null = self._null
        grads, to_grads = memory.fresh(room.learned) if parameters else ({}, null)
        dx, to_dx = memory.fresh(room.inputs) if inputs else ({}, null)
        first, to_first = memory.fresh(room.states)
        if len(dx) == 1:  # C takes the array itself, and no struct
            to_dx = to_dx[0][0]
        work = memory.workspace(room.backward_work)
        status = self._c_backward(
            room.struct, bound.struct, *tape.inputs, tape.memory[1], from_dy, final, to_grads,
            to_dx, to_first, work[1],
        )  # fmt: skip
        memory.give_back(work)
        if status:
            raise self._failure("backward", status)
        return grads, _of_inputs(dx), first

    def step(
        self,
        params: Mapping[str, Any],
        x_t: Any,
        state: Mapping[str, Any] | None = None,
        masks: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]:
        """One step, for streaming: x_t is (B, size); returns the new state, a dict.

        Outputs that are not states are in the dict as well. Use ``pack`` first: with parameters
        that are not packed, that is most of the work of a step.
        """
        bound, memory = self._bind(params), self._memory
        inputs, old, room = self._arguments.take(bound, x_t, state, masks, ("B",))
        if not room.tape:
            nothing = memory.fresh_outputs(room.of_a_step)[0]
            return self._kept("state", state, room) | self._more(nothing)
        final, new = memory.fresh(room.states)
        unasked = not self._no_states and bound.packed
        y, to_y = (None, self._null) if unasked else memory.fresh_outputs(room.of_a_step)
        work = memory.workspace(room.step_work if bound.packed else room.forward_work)
        given = (room.struct, bound.struct, *inputs, old, to_y, new)
        if bound.packed:
            status = self._c_step(*given, work[1])
        else:
            status = self._c_forward(*given, self._null, work[1])
        memory.give_back(work)
        if status:
            raise self._failure("step", status)
        return final | self._more(y) if self._no_states else final

    def _more(self, y: Any) -> dict[str, Array]:
        """What a step returns beside the new state."""
        ys = y if self._has_several_outputs else {self.OUTPUT: y}
        return {name: ys[name] for name in self._no_states}

    def pack(self, params: Mapping[str, Any]) -> Packed:
        """Arrange parameters once for many calls: what comes back can be given for ``params``.

        It is a copy. After a change of the parameters, pack them again.
        """
        copies: dict[str, Any] = {}
        arguments = self._arguments
        for name, value in zip(arguments.names, arguments.picked(params), strict=True):
            if name in self.PARAMETERS:
                copies[name] = np.array(value, self.dtype)
                copies[name].flags.writeable = False
            else:
                copies[name] = float(value)
        bound = arguments.bind(copies)
        arguments.last = None  # the struct is theirs from now on
        if self.PARAMETERS:
            room = self._rooms.of_parameters(bound.sizes)
            memory = self._memory.buffer(room.packed)
            if status := self._c_pack(room.struct, bound.struct, memory):
                raise self._failure("pack", status)
            bound.struct.packed = memory
            bound.arrays.append(memory)
        return Packed(copies, self, bound._replace(packed=True))

    # ------------------------------------------------------------------ parameters and tapes

    def _bind(self, params: Mapping[str, Any]) -> Bound:
        """The struct of pointers to ``params``, and the sizes that they tell."""
        if isinstance(params, Packed) and params.module is self:
            bound: Bound = params.bound
            return bound
        return self._arguments.bind(params)

    def _own(self, tape: Tape | None, bound: Bound) -> Tape:
        """``tape``, if it is one of ours and made with parameters of these sizes."""
        if tape is None:
            raise LstmgenError("there is no tape: run forward with tape=True")
        if not isinstance(tape, Tape):
            kind = type(tape).__name__
            raise LstmgenError(f"the tape is what forward of {self!r} returned, not a {kind}")
        if tape.module is not self:
            made, mine = tape.module._maker, self._maker
            rows = tape.room.sizes["B"]
            if min(made["threads"], rows) == min(mine["threads"], rows):  # the same slices
                mine = {**mine, "threads": made["threads"]}
            if wrong := self._interface._differences(made, mine):
                raise LstmgenError(wrong)
        self._interface._same_sizes(bound.sizes, tape.room.sizes)
        return tape

    # ------------------------------------------------------------------ no steps, or no rows

    def _kept(self, what: str, state: Any, room: Room) -> dict[str, Array]:
        """Copies of the states that were given; zeros for None."""
        arrays = self._arguments.states(what, state, dict(room.sizes))
        if arrays is None:
            return {name: np.zeros(shape, self.dtype) for name, shape in room.states}
        return {name: array.copy() for name, array in zip(self.STATES, arrays, strict=True)}

    def _nothing(
        self, dstate: Any, room: Room, inputs: bool, parameters: bool
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:
        """Gradients that are zeros, and that of the state as it came."""

        def zeros(shapes: Any, wanted: bool) -> dict[str, Array]:
            return {name: np.zeros(shape, self.dtype) for name, shape in shapes if wanted}

        first = self._kept("dstate", dstate, room)
        return zeros(room.learned, parameters), _of_inputs(zeros(room.inputs, inputs)), first

    # ------------------------------------------------------------------ C

    def _failure(self, what: str, status: int) -> LstmgenError:
        text = self._ffi.string(self._c_message(status)).decode()
        return LstmgenError(f"{self.CELL}_{what}: {text}")


def _of_inputs(dx: dict[str, Array]) -> Any:
    """The derivatives by inputs as callers have them: by name, if there are several."""
    return dx if len(dx) > 1 else next(iter(dx.values()), None)


def opened(header: str, library: Path) -> tuple[Any, Any]:
    """cffi with the declarations of a generated header, and the library.

    Raises
    ------
    ToolchainError
        If cffi is not installed.
    """
    try:
        from cffi import FFI
    except ImportError as error:
        raise missing_extra("cffi") from error
    ffi = FFI()
    ffi.cdef(declarations(header))
    return ffi, ffi.dlopen(str(library))


def declarations(header: str) -> str:
    """What cffi reads of a generated header: what a preprocessor would leave of it."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL).replace("\\\n", "")
    guards = ('extern "C" {', "}")
    return "\n".join(
        line for line in text.splitlines() if not line.startswith("#") and line not in guards
    )
