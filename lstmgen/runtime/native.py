"""A compiled C cell with the interface of a generated NumPy module.

Calls go through cffi in ABI mode: it parses the generated header, needs no Python headers, and
releases the interpreter's lock while C runs. A module has no state that a call could disturb, so
that threads may use it at once. What costs time around a call is kept from one to the next: the
struct of parameters as long as the same arrays come in, and what follows from the sizes.

A forked process has none of the threads that OpenMP keeps, and would wait for them for ever: there
one thread does what several did before, with the same bits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from operator import is_, itemgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..errors import LstmgenError, missing_extra
from ..language import dtypes
from ..language.cell import Cell
from ..targets.numpy.target import interface
from .loading import load_python

Array = NDArray[Any]
_Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes, quicker to walk than a dict
_Memory = tuple[int, Any]  # how many numbers, and where
_C_ORDER_AND_ALIGNED = 0x101  # the bits of ndarray.flags.num
_BUFFERS = ("tape", "packed", "forward_work", "backward_work", "step_work")

_is_forked = False
_threaded: WeakSet[Any] = WeakSet()  # structs of sizes with several threads


def _forget_threads() -> None:
    """What a forked process does first: it has none of the threads that OpenMP had."""
    global _is_forked
    _is_forked = True
    for struct in _threaded:
        struct.serial = 1


if hasattr(os, "register_at_fork"):  # where there is fork
    os.register_at_fork(after_in_child=_forget_threads)


class Packed(dict[str, Any]):
    """Parameters, and what C made of them: ``forward`` and ``step`` need not pack them any more.

    A copy: its arrays cannot be written, and later changes of the originals are not seen. To
    another module than the one that packed them, they are parameters like any others.
    """

    def __init__(self, params: Mapping[str, Any], module: NativeModule, bound: _Bound) -> None:
        super().__init__(params)
        self.module, self.bound = module, bound

    def _refuse(self, *args: Any, **more: Any) -> NoReturn:
        raise TypeError("packed parameters do not change: pack others instead")

    _refused: Any = _refuse
    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refused

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # copies are parameters like any others


class Tape:
    """What ``forward`` keeps for ``backward``. ``x`` is not copied: leave it as it is.

    Its memory goes back to its module when the tape is gone: to touch fresh memory for the first
    time can cost as much as a fifth of a forward pass over a large layer. A deep copy has an ``x``
    of its own; a tape cannot be pickled.
    """

    __slots__ = ("inputs", "memory", "module", "room")

    def __init__(
        self, memory: _Memory | None, inputs: tuple[Any, ...], room: _Room, module: NativeModule
    ) -> None:
        self.memory, self.inputs, self.room, self.module = memory, inputs, room, module

    def __del__(self) -> None:
        try:
            free = self.module._free
            if self.memory is not None and len(free) < 2:  # one may live until the next is there
                free.append(self.memory)
        except Exception:  # half made, or at the end of the interpreter: nobody wants the memory
            return

    def __copy__(self) -> Tape:
        return self  # memory of two tapes would go back twice

    def __deepcopy__(self, memo: Any) -> Tape:
        return self.module._copy_of(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a tape of {self.module!r} is memory of this process, and cannot be pickled: run "
            "forward where backward is to run"
        )


class _Room(NamedTuple):
    """What follows from the sizes: their struct, the shapes of arrays, and how much C needs."""

    struct: Any
    sizes: dict[str, int]
    outputs: _Shapes
    of_a_step: _Shapes  # the outputs
    inputs: _Shapes
    states: _Shapes
    learned: _Shapes
    # numbers in the buffers that callers provide
    tape: int
    packed: int
    forward_work: int
    backward_work: int
    step_work: int


class _Bound(NamedTuple):
    """Parameters as C takes them."""

    given: tuple[Any, ...]
    struct: Any
    sizes: dict[str, int]
    arrays: list[Array]  # the struct points to them, and does not keep them alive
    packed: bool  # whether the struct has packed parameters, or needs none
    rooms: dict[tuple[int, ...], _Room]  # by the shape of x


class NativeModule:
    """``init``, ``forward``, ``backward`` and ``step`` of one cell, in C.

    Arrays that are not of the module's dtype, or not in C order, are converted at every call.
    """

    def __init__(
        self, cell: Cell, header: str, library: Path, dtype: str, fixed: Mapping[str, int],
        threads: int = 1,
    ) -> None:  # fmt: skip
        try:
            from cffi import FFI
        except ImportError as error:
            raise missing_extra("cffi") from error
        self._ffi = FFI()
        self._ffi.cdef(declarations(header))
        self._lib = self._ffi.dlopen(str(library))
        self.dtype = np.dtype(dtype)
        self._interface = f = load_python(
            interface(cell), cell.name, f"<lstmgen interface of {cell.name}>"
        )
        self.__name__ = self.CELL = f.CELL
        self.OUTPUT, self.PARAMETERS, self.STATES = f.OUTPUT, f.PARAMETERS, f.STATES
        self._learned = {p.name: f.PARAMETERS[p.name] for p in cell.learned}
        self.INPUTS, self.MASKS, self.CONSTANTS = f.INPUTS, f.MASKS, f.CONSTANTS
        self._maker = {**f.MAKER, "dtype": dtype, **fixed, "threads": threads}
        self._fixed, self._threads = dict(fixed), threads
        self._outputs = {v.name: tuple(str(n) for n in cell.shape(v)) for v in cell.outputs}
        self._whole = getattr(f, "_whole", None)  # of sizes that are made of others
        # a step returns those under their own names
        self._no_states = [v.name for v in cell.outputs if v.category != "state"]
        self._sizes = ("T", "B", *(str(n) for n in cell.sizes))
        self._numbers: dict[str, int] = f.NUMBERS
        self._array = self._ffi.typeof(f"{dtypes.dtype(dtype).storage.c}[]")
        # A pointer to an array, which it keeps alive: what ffi.from_buffer calls in the end, where
        # cffi still has that. The Python before it would take as long again.
        plain = getattr(self._ffi, "_backend", self._ffi)
        self._at = partial(plain.from_buffer, self._array)
        self._null = self._ffi.NULL
        self._c_forward, self._c_backward, self._c_step, self._c_pack, self._c_message = (
            getattr(self._lib, f"{cell.name}_{what}")
            for what in ("forward", "backward", "step", "pack", "message")
        )
        self._room = lru_cache(maxsize=128)(self._make_room)
        self._workspaces: list[_Memory] = []
        self._free: list[_Memory] = []  # of tapes
        self._last: _Bound | None = None
        self._names = names = (*self.PARAMETERS, *self.CONSTANTS)
        # itemgetter is the fastest way to look names up, and gives a tuple if there are several
        self._pick: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda params: tuple(params[n] for n in names)
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
        bound = self._bind(params)
        inputs, old, room = self._take(bound, x, state, masks, ("T", "B"))
        if not room.tape:  # there are no steps, or no rows: the state stays as it is
            nothing = Tape(None, inputs, room, self) if tape else None
            return self._fresh_y(room.outputs)[0], self._kept("state", state, room), nothing
        y, to_y = self._fresh_y(room.outputs)
        final, new = self._fresh(room.states)
        kept = self._tape_memory(room.tape) if tape else None
        work = self._workspace(room.forward_work)
        status = self._c_forward(
            room.struct, bound.struct, *inputs, old, to_y, new,
            kept[1] if kept else self._null, work[1],
        )  # fmt: skip
        self._done("forward", status, work)
        made = Tape(kept, inputs, room, self) if kept else None
        return y, final, made

    def backward(
        self,
        params: Mapping[str, Any],
        tape: Tape | None,
        dy: Any,
        dstate: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:
        """Backpropagate through time: (grads, dx, dstate); see the NumPy module.

        ``params`` are those that ``forward`` had. They are read anew: a change since then shows,
        and the result is the gradient of neither. What ``pack`` gave is a copy, and cannot change.
        """
        bound = self._bind(params)
        tape = self._own(tape, bound)
        # a struct of another module, even of the same code, is of another type to cffi
        room = tape.room if tape.module is self else self._room_of(tape.room.sizes)
        from_dy = self._taken_dy(dy, room)
        final = self._null if dstate is None else self._plain_states(dstate, room)
        if final is None:
            final = self._struct(self._states("dstate", dstate, dict(room.sizes)))
        if tape.memory is None:
            return self._nothing(dstate, room)
        grads, to_grads = self._fresh(room.learned)
        dx, to_dx = self._fresh(room.inputs)
        first, to_first = self._fresh(room.states)
        several = len(dx) > 1  # otherwise C takes the array itself, and no struct
        work = self._workspace(room.backward_work)
        status = self._c_backward(
            room.struct, bound.struct, *tape.inputs, tape.memory[1], from_dy, final, to_grads,
            to_dx if several else to_dx[0][0], to_first, work[1],
        )  # fmt: skip
        self._done("backward", status, work)
        return grads, (dx if several else next(iter(dx.values()))), first

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
        bound = self._bind(params)
        inputs, old, room = self._take(bound, x_t, state, masks, ("B",))
        if not room.tape:
            nothing = self._fresh_y(room.of_a_step)[0]
            return self._kept("state", state, room) | self._more(nothing)
        final, new = self._fresh(room.states)
        unasked = not self._no_states and bound.packed
        y, to_y = (None, self._null) if unasked else self._fresh_y(room.of_a_step)
        work = self._workspace(room.step_work if bound.packed else room.forward_work)
        given = (room.struct, bound.struct, *inputs, old, to_y, new)
        if bound.packed:
            status = self._c_step(*given, work[1])
        else:
            status = self._c_forward(*given, self._null, work[1])
        self._done("step", status, work)
        return final | self._more(y) if self._no_states else final

    def _more(self, y: Any) -> dict[str, Array]:
        """What a step returns beside the new state."""
        ys = y if len(self._outputs) > 1 else {self.OUTPUT: y}
        return {name: ys[name] for name in self._no_states}

    def pack(self, params: Mapping[str, Any]) -> Packed:
        """Arrange parameters once for many calls: what comes back can be given for ``params``.

        It is a copy. After a change of the parameters, pack them again.
        """
        copies: dict[str, Any] = {}
        for name, value in zip(self._names, self._picked(params), strict=True):
            if name in self.PARAMETERS:
                copies[name] = np.array(value, self.dtype)
                copies[name].flags.writeable = False
            else:
                copies[name] = float(value)
        bound = self._bind(copies)
        self._last = None  # the struct is theirs from now on
        if self.PARAMETERS:
            room = self._room_of({"T": 1, "B": 1, **self._any_sizes(bound)})
            memory = self._memory(room.packed)
            if status := self._c_pack(room.struct, bound.struct, memory):
                raise self._failure("pack", status)
            bound.struct.packed = memory
            bound.arrays.append(memory)
        return Packed(copies, self, bound._replace(packed=True))

    def _any_sizes(self, bound: _Bound) -> dict[str, int]:
        """All sizes, where those that the parameters do not tell do not matter."""
        return {name: bound.sizes.get(name, 1) for name in self._sizes[2:]}

    # ------------------------------------------------------------------ arguments

    def _bind(self, params: Mapping[str, Any]) -> _Bound:
        """The struct of pointers to ``params``, and the sizes that they tell."""
        if isinstance(params, Packed) and params.module is self:
            return params.bound
        given = self._picked(params)
        last = self._last
        if last is not None and all(map(is_, given, last.given)):
            return last
        sizes = dict(self._numbers)
        arrays = [
            self._fit(name, value, self.PARAMETERS[name], sizes)
            for name, value in zip(self.PARAMETERS, given, strict=False)
        ]
        constants = given[len(arrays) :]
        struct = self._null
        if given:
            values = [*map(self._at, arrays), *map(float, constants)]
            struct = self._ffi.new(f"{self.CELL}_params *", values)
        bound = _Bound(given, struct, sizes, arrays, not arrays, {})
        # only what cannot change behind our back: the arrays themselves, and plain numbers
        if all(map(is_, arrays, given)) and all(isinstance(c, (int, float)) for c in constants):
            self._last = bound
        return bound

    def _picked(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """The parameters and constants, in order."""
        try:
            return self._pick(params)
        except (KeyError, TypeError, IndexError) as error:
            if not hasattr(params, "keys"):
                no_dict = self._interface._no_dict("params", params, "as init makes it")
                raise TypeError(no_dict) from None
            if not isinstance(error, KeyError):
                raise
            needed = ", ".join(self._names)
            raise KeyError(f"params has no {error.args[0]!r}; {self.CELL} needs {needed}") from None

    def _take(
        self, bound: _Bound, x: Any, state: Any, masks: Mapping[str, Any] | None,
        lead: tuple[str, ...],
    ) -> tuple[tuple[Any, ...], Any, _Room]:  # fmt: skip
        """What C takes for x and masks, what it takes for states, and the room for their sizes."""
        if self._is_plain(x) and x.ndim == len(lead) + 1 and (room := bound.rooms.get(x.shape)):
            if state is None:
                return (self._at(x),), self._null, room
            old = self._plain_states(state, room)
            if old is not None:
                return (self._at(x),), old, room
        sizes = dict(bound.sizes)
        if len(self.INPUTS) == 1:
            ((name, axes),) = self.INPUTS.items()
            if isinstance(x, dict):
                raise TypeError(self._interface._no_array(x, lead))
            xs = [self._fit(name, x, (*lead, *axes), sizes)]
        else:
            self._interface._check_inputs(x)
            xs = [self._fit(k, x[k], (*lead, *axes), sizes) for k, axes in self.INPUTS.items()]
        masks = self._interface._masks(masks) if self.MASKS else {}
        filled = [self._mask(k, masks[k], (*lead, *axes), sizes) for k, axes in self.MASKS.items()]
        sizes.setdefault("T", 1)
        if self._whole:
            self._whole(sizes)
        settled = len(self.INPUTS) == 1 and not filled and all(n in sizes for n in self._sizes)
        old = self._struct(self._states("state", state, sizes))
        room = self._room_of(sizes)
        if settled:  # the next x of this shape needs none of this
            if len(bound.rooms) >= 128:
                bound.rooms.clear()
            bound.rooms[xs[0].shape] = room
        inputs = self._struct(xs) if len(xs) > 1 else self._at(xs[0])
        return ((inputs, self._struct(filled)) if filled else (inputs,)), old, room

    def _is_plain(self, value: Any) -> bool:
        """Whether C can read ``value`` as it is, if the shape is right."""
        return (
            value.__class__ is np.ndarray
            and value.dtype is self.dtype
            and value.flags.num & _C_ORDER_AND_ALIGNED == _C_ORDER_AND_ALIGNED
        )

    def _plain_states(self, state: Any, room: _Room) -> Any:
        """What C takes for ``state``; None if something has to be done or said about it."""
        if state.__class__ is not dict or len(state) != len(room.states):
            return None
        pointers = []
        for name, shape in room.states:
            array: Any = state.get(name)
            if not self._is_plain(array) or array.shape != shape:
                return None
            pointers.append(self._at(array))
        return [pointers] if pointers else self._null

    def _fit(self, what: str, value: Any, symbolic: Sequence[str], sizes: dict[str, int]) -> Array:
        """``value`` as an array of our dtype, in C order; sizes that are not known are learned."""
        if self._is_plain(value) and value.ndim == len(symbolic) and value.size:
            for name, n in zip(symbolic, value.shape, strict=True):
                if sizes.setdefault(name, n) != n:
                    break
            else:
                return value  # type: ignore[no-any-return]
        array: Array = self._interface._array(what, value, symbolic, sizes, self.dtype)
        return np.require(array, self.dtype, ["C", "A"])

    def _taken_dy(self, dy: Any, room: _Room) -> Any:
        """What C takes for ``dy``: one array, or a struct; NULL in it stands for zeros."""
        if len(room.outputs) == 1:
            ((name, shape),) = room.outputs
            if not self._is_plain(dy) or dy.shape != shape:
                dy = self._fit("dy", dy, ("T", "B", *self._outputs[name]), dict(room.sizes))
            return self._at(dy)
        self._interface._check_dy(dy)
        arrays = [
            None if dy.get(name) is None else self._fit(
                f"dy[{name!r}]", dy[name], ("T", "B", *axes), dict(room.sizes)
            )
            for name, axes in self._outputs.items()
        ]  # fmt: skip
        return [[self._null if a is None else self._at(a) for a in arrays]]

    def _mask(
        self, name: str, given: Any, symbolic: tuple[str, ...], sizes: dict[str, int]
    ) -> Array:
        """A mask in full: callers may leave out what broadcasts."""
        mask = self._interface._numbers(name, given)
        if mask.ndim:
            sizes.setdefault(symbolic[-1], mask.shape[-1])
        with suppress(KeyError, ValueError):  # what is wrong with a mask, _fit says
            mask = np.broadcast_to(mask, tuple(sizes[n] for n in symbolic))
        return self._fit(f"masks[{name!r}]", mask, symbolic, sizes)

    def _states(self, what: str, state: Any, sizes: dict[str, int]) -> list[Array] | None:
        """The states in order; None for zeros."""
        if state is None:
            return None
        if hasattr(state, "keys") and set(state) == set(self.STATES):
            return [
                self._fit(f"{what}[{name!r}]", state[name], ("B", *axes), sizes)
                for name, axes in self.STATES.items()
            ]
        arrays = self._interface._states(what, state, sizes, self.dtype)
        return [np.require(a, self.dtype, ["C", "A"]) for a in arrays.values()]

    def _own(self, tape: Tape | None, bound: _Bound) -> Tape:
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

    def _copy_of(self, tape: Tape) -> Tape:
        """A tape with memory of its own, and with an x of its own."""

        def copied(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(copied, value))
            array = np.empty(len(value), self.dtype)
            self._ffi.memmove(at := self._at(array), value, array.nbytes)
            return at

        memory = None
        if tape.memory is not None:
            memory = self._tape_memory(tape.room.tape)
            used = tape.room.tape * self.dtype.itemsize
            self._ffi.memmove(memory[1], tape.memory[1], used)
        return Tape(memory, copied(tape.inputs), tape.room, self)

    # ------------------------------------------------------------------ no steps, or no rows

    def _kept(self, what: str, state: Any, room: _Room) -> dict[str, Array]:
        """Copies of the states that were given; zeros for None."""
        arrays = self._states(what, state, dict(room.sizes))
        if arrays is None:
            return {name: np.zeros(shape, self.dtype) for name, shape in room.states}
        return {name: array.copy() for name, array in zip(self.STATES, arrays, strict=True)}

    def _nothing(self, dstate: Any, room: _Room) -> tuple[dict[str, Array], Any, dict[str, Array]]:
        """Gradients that are zeros, and that of the state as it came."""
        grads = {name: np.zeros(shape, self.dtype) for name, shape in room.learned}
        dx = {name: np.zeros(shape, self.dtype) for name, shape in room.inputs}
        first = self._kept("dstate", dstate, room)
        return grads, (dx if len(dx) > 1 else next(iter(dx.values()))), first

    # ------------------------------------------------------------------ sizes and memory

    def _room_of(self, sizes: dict[str, int]) -> _Room:
        try:
            return self._room(tuple([sizes[name] for name in self._sizes]))
        except KeyError as error:
            raise ValueError(
                f"the size {error.args[0]} is not known from params and x: give the state"
            ) from None

    def _make_room(self, numbers: tuple[int, ...]) -> _Room:
        sizes = dict(zip(self._sizes, numbers, strict=True))
        for name, n in self._fixed.items():
            if sizes[name] != n:
                raise ValueError(f"this module was made for {name}={n}, not {name}={sizes[name]}")
        struct = self._ffi.new(f"{self.CELL}_sizes *", [*numbers, self._threads, int(_is_forked)])
        if self._threads > 1:
            _threaded.add(struct)
        counts = {what: self._count(what, struct) for what in _BUFFERS}
        if not all(counts.values()) and sizes["T"] and sizes["B"]:
            raise LstmgenError(f"{self.CELL}: arrays of these sizes are too large: {sizes}")
        known = sizes | self._numbers
        if self._whole:
            self._whole(known)

        def shapes(lead: tuple[str, ...], table: Mapping[str, Any]) -> _Shapes:
            return tuple(
                (k, tuple(known[n] for n in (*lead, *shape))) for k, shape in table.items()
            )

        return _Room(
            struct, known, shapes(("T", "B"), self._outputs), shapes(("B",), self._outputs),
            shapes(("T", "B"), self.INPUTS), shapes(("B",), self.STATES),
            shapes((), self._learned), **counts,
        )  # fmt: skip

    def _count(self, what: str, struct: Any) -> int:
        """The numbers of a buffer; 0 where sizes are too large, or there is nothing to do."""
        return int(getattr(self._lib, f"{self.CELL}_{what}_size")(struct))

    def _fresh(self, shapes: _Shapes) -> tuple[dict[str, Array], Any]:
        """Arrays for C to write, and what it takes for them."""
        arrays, pointers = {}, []
        empty, dtype, at = np.empty, self.dtype, self._at
        for name, shape in shapes:
            arrays[name] = array = empty(shape, dtype)
            pointers.append(at(array))
        return arrays, [pointers] if pointers else self._null

    def _fresh_y(self, shapes: _Shapes) -> tuple[Any, Any]:
        """The same for the outputs: one is an array, several are a dict."""
        if len(shapes) > 1:
            return self._fresh(shapes)
        y = np.empty(shapes[0][1], self.dtype)
        return y, self._at(y)

    # ------------------------------------------------------------------ C
    # Where C takes a pointer to a struct, cffi takes [values] and makes the struct for the call.

    def _struct(self, arrays: Sequence[Array] | None) -> Any:
        """A struct of pointers to arrays; NULL if there are none."""
        return [[self._at(a) for a in arrays]] if arrays else self._null

    def _workspace(self, numbers: int) -> _Memory:
        """A workspace that no other call has, for at least so many numbers."""
        try:
            work = self._workspaces.pop()
        except IndexError:
            return numbers, self._memory(numbers)
        return work if work[0] >= numbers else (numbers, self._memory(numbers))

    def _tape_memory(self, numbers: int) -> _Memory:
        """Memory for a tape: what another one has left, if that is of much the same size."""
        try:
            while True:
                found = self._free.pop()
                if numbers <= found[0] <= 2 * numbers:
                    return found
        except IndexError:
            return numbers, self._memory(numbers)

    def _memory(self, numbers: int) -> Any:
        """Memory from a multiple of 64 bytes on: a vector then is in one line of the cache."""
        room = np.empty(numbers + 64 // self.dtype.itemsize, self.dtype)
        start = -room.__array_interface__["data"][0] % 64 // self.dtype.itemsize
        return self._at(room[start:])

    def _done(self, what: str, status: int, work: _Memory) -> None:
        if len(self._workspaces) < 8:  # as many as threads are likely to need at once
            self._workspaces.append(work)
        if status:
            raise self._failure(what, status)

    def _failure(self, what: str, status: int) -> LstmgenError:
        text = self._ffi.string(self._c_message(status)).decode()
        return LstmgenError(f"{self.CELL}_{what}: {text}")


def declarations(header: str) -> str:
    """What cffi reads of a generated header: what a preprocessor would leave of it."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL).replace("\\\n", "")
    guards = ('extern "C" {', "}")
    return "\n".join(
        line for line in text.splitlines() if not line.startswith("#") and line not in guards
    )
