"""From what callers give to what C takes: parameters, x, states, masks and dy.

What is an array of the right kind goes to C as it is; all else is converted, and what cannot be
is refused with the words of the NumPy module. What costs time around a call is kept from one to
the next: the struct of parameters as long as the same arrays come in, and what follows from the
sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import is_, itemgetter
from typing import Any, NamedTuple

import numpy as np

from .memory import Array, Memory
from .rooms import Room, Rooms

_C_ORDER_AND_ALIGNED = 0x101  # the bits of ndarray.flags.num


class Bound(NamedTuple):
    """Parameters as C takes them."""

    given: tuple[Any, ...]
    struct: Any
    sizes: dict[str, int]
    arrays: list[Array]  # the struct points to them, and does not keep them alive
    packed: bool  # whether the struct has packed parameters, or needs none
    rooms: dict[tuple[int, ...], Room]  # by the shape of x


class Arguments:
    """The arguments of one module's functions.

    ``last`` are the parameters of the last call, if they cannot change behind our back.
    """

    def __init__(self, ffi: Any, interface: Any, dtype: str, memory: Memory, rooms: Rooms) -> None:
        self._ffi, self._interface, self._dtype = ffi, interface, np.dtype(dtype)
        self._memory, self._at, self._rooms = memory, memory.at, rooms
        self._inputs, self._masks = interface.INPUTS, interface.MASKS
        self._parameters, self._state_axes = interface.PARAMETERS, interface.STATES
        self.last: Bound | None = None
        self.names = names = (*interface.PARAMETERS, *interface.CONSTANTS)
        # itemgetter is the fastest way to look names up, and gives a tuple if there are several
        self._pick: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda params: tuple(params[n] for n in names)
        )

    # ------------------------------------------------------------------ parameters

    def bind(self, params: Mapping[str, Any]) -> Bound:
        """The struct of pointers to ``params``, and the sizes that they tell."""
        given = self.picked(params)
        last = self.last
        if last is not None and all(map(is_, given, last.given)):
            return last
        sizes = dict(self._rooms.numbers)
        arrays = [
            self._fit(name, value, self._parameters[name], sizes)
            for name, value in zip(self._parameters, given, strict=False)
        ]
        constants = given[len(arrays) :]
        struct = self._memory.null
        if given:
            values = [*map(self._at, arrays), *map(float, constants)]
            struct = self._ffi.new(f"{self._interface.CELL}_params *", values)
        bound = Bound(given, struct, sizes, arrays, not arrays, {})
        # only what cannot change behind our back: the arrays themselves, and plain numbers
        if all(map(is_, arrays, given)) and all(isinstance(c, (int, float)) for c in constants):
            self.last = bound
        return bound

    def picked(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """The parameters and constants, in order."""
        try:
            return self._pick(params)
        except (KeyError, TypeError, IndexError) as error:
            if not hasattr(params, "keys"):
                no_dict = self._interface._no_dict("params", params, "as init makes it")
                raise TypeError(no_dict) from None
            if not isinstance(error, KeyError):
                raise
            cell, needed = self._interface.CELL, ", ".join(self.names)
            raise KeyError(f"params has no {error.args[0]!r}; {cell} needs {needed}") from None

    # ------------------------------------------------------------------ x, masks and states

    def take(
        self, bound: Bound, x: Any, state: Any, masks: Mapping[str, Any] | None,
        lead: tuple[str, ...],
    ) -> tuple[tuple[Any, ...], Any, Room]:  # fmt: skip
        """What C takes for x and masks, what it takes for states, and the room for their sizes."""
        if self._is_plain(x) and x.ndim == len(lead) + 1 and (room := bound.rooms.get(x.shape)):
            if state is None:
                return (self._at(x),), self._memory.null, room
            old = self._plain_states(state, room)
            if old is not None:
                return (self._at(x),), old, room
        sizes, struct = dict(bound.sizes), self._memory.struct
        xs = self._taken_x(x, lead, sizes)
        masks = self._interface._masks(masks) if self._masks else {}
        filled = [self._mask(k, masks[k], (*lead, *axes), sizes) for k, axes in self._masks.items()]
        sizes.setdefault("T", 1)
        self._rooms.complete(sizes)
        settled = len(self._inputs) == 1 and not filled and self._rooms.settles(sizes)
        old = struct(self.states("state", state, sizes))
        self._rooms.complete(sizes)
        room = self._rooms.of(sizes)
        if settled:  # the next x of this shape needs none of this
            if len(bound.rooms) >= 128:
                bound.rooms.clear()
            bound.rooms[xs[0].shape] = room
        inputs = struct(xs) if len(xs) > 1 else self._at(xs[0])
        return ((inputs, struct(filled)) if filled else (inputs,)), old, room

    def taken_final(self, dstate: Any, room: Room) -> Any:
        """What C takes for the gradient of the final state."""
        final = self._memory.null if dstate is None else self._plain_states(dstate, room)
        if final is None:
            final = self._memory.struct(self.states("dstate", dstate, dict(room.sizes)))
        return final

    def taken_dy(self, dy: Any, room: Room) -> Any:
        """What C takes for ``dy``: one array, or a struct; NULL in it stands for zeros."""
        outputs = self._rooms.outputs
        if len(room.outputs) == 1:
            ((name, shape),) = room.outputs
            if not self._is_plain(dy) or dy.shape != shape:
                dy = self._fit("dy", dy, ("T", "B", *outputs[name]), dict(room.sizes))
            return self._at(dy)
        self._interface._check_dy(dy)
        arrays = [
            None if dy.get(name) is None else self._fit(
                f"dy[{name!r}]", dy[name], ("T", "B", *axes), dict(room.sizes)
            )
            for name, axes in outputs.items()
        ]  # fmt: skip
        return [[self._memory.null if a is None else self._at(a) for a in arrays]]

    def states(self, what: str, state: Any, sizes: dict[str, int]) -> list[Array] | None:
        """The states in order; None for zeros."""
        if state is None:
            return None
        if hasattr(state, "keys") and set(state) == set(self._state_axes):
            return [
                self._fit(f"{what}[{name!r}]", state[name], ("B", *axes), sizes)
                for name, axes in self._state_axes.items()
            ]
        arrays = self._interface._states(what, state, sizes, self._dtype)
        return [np.require(a, self._dtype, ["C", "A"]) for a in arrays.values()]

    def _taken_x(self, x: Any, lead: tuple[str, ...], sizes: dict[str, int]) -> list[Array]:
        """The inputs in order."""
        if len(self._inputs) > 1:
            self._interface._check_inputs(x)
            return [self._fit(k, x[k], (*lead, *axes), sizes) for k, axes in self._inputs.items()]
        ((name, axes),) = self._inputs.items()
        if isinstance(x, dict):
            raise TypeError(self._interface._no_array(x, lead))
        return [self._fit(name, x, (*lead, *axes), sizes)]

    def _plain_states(self, state: Any, room: Room) -> Any:
        """What C takes for ``state``; None if something has to be done or said about it."""
        if state.__class__ is not dict or len(state) != len(room.states):
            return None
        pointers = []
        for name, shape in room.states:
            array: Any = state.get(name)
            if not self._is_plain(array) or array.shape != shape:
                return None
            pointers.append(self._at(array))
        return [pointers] if pointers else self._memory.null

    # ------------------------------------------------------------------ arrays

    def _is_plain(self, value: Any) -> bool:
        """Whether C can read ``value`` as it is, if the shape is right."""
        return (
            value.__class__ is np.ndarray
            and value.dtype is self._dtype
            and value.flags.num & _C_ORDER_AND_ALIGNED == _C_ORDER_AND_ALIGNED
        )

    def _fit(self, what: str, value: Any, symbolic: Sequence[str], sizes: dict[str, int]) -> Array:
        """``value`` as an array of our dtype, in C order; sizes that are not known are learned."""
        if self._is_plain(value) and value.ndim == len(symbolic) and value.size:
            for name, n in zip(symbolic, value.shape, strict=True):
                if sizes.setdefault(name, n) != n:
                    break
            else:
                return value  # type: ignore[no-any-return]
        array: Array = self._interface._array(what, value, symbolic, sizes, self._dtype)
        return np.require(array, self._dtype, ["C", "A"])

    def _mask(
        self, name: str, given: Any, symbolic: tuple[str, ...], sizes: dict[str, int]
    ) -> Array:
        """A mask in full: callers may leave out what broadcasts."""
        mask = self._interface._numbers(name, given)
        for n, length in zip(reversed(symbolic), reversed(mask.shape), strict=False):
            sizes.setdefault(n, length)
        with suppress(KeyError, ValueError):  # what is wrong with a mask, _fit says
            mask = np.broadcast_to(mask, tuple(sizes[n] for n in symbolic))
        return self._fit(f"masks[{name!r}]", mask, symbolic, sizes)
