"""A compiled C cell with the face of a generated NumPy module.

Calls go through cffi in ABI mode: it parses the generated header, needs no Python headers, and
releases the interpreter's lock while C runs. A module has no state that a call could disturb, so
that threads may use it at once. What costs time around a call is kept from one to the next: the
struct of parameters as long as the same arrays come in, and what follows from the sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import is_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cell import Cell
from .errors import LstmgenError
from .targets.numpy import face
from .toolchain import load_python, missing_extra

Array = NDArray[Any]
_C_ORDER_AND_ALIGNED = 0x101  # the bits of ndarray.flags.num


class Tape(NamedTuple):
    """What ``forward`` keeps for ``backward``. ``x`` is not copied: leave it as it is."""

    memory: Array
    x: list[Array]
    masks: list[Array]
    sizes: dict[str, int]
    maker: tuple[str, str]


class _Bound(NamedTuple):
    """Parameters as C takes them."""

    given: list[Any]
    struct: Any
    sizes: dict[str, int]
    arrays: list[Array]  # the struct points to them, and does not keep them alive


class _Room(NamedTuple):
    """What follows from the sizes: the struct of them, and how much everything needs."""

    struct: Any
    sizes: dict[str, int]
    output: tuple[int, ...]
    inputs: dict[str, tuple[int, ...]]
    states: dict[str, tuple[int, ...]]
    parameters: dict[str, tuple[int, ...]]
    numbers: dict[str, int]  # in the buffers that callers provide


class NativeModule:
    """``init``, ``forward``, ``backward`` and ``step`` of one cell, in C.

    Arrays that are not of the module's dtype, or not in C order, are converted at every call.
    """

    def __init__(
        self, cell: Cell, header: str, library: Path, dtype: str, fixed: Mapping[str, int]
    ) -> None:
        try:
            from cffi import FFI
        except ImportError as error:
            raise missing_extra("cffi") from error
        self._ffi = FFI()
        self._ffi.cdef(declarations(header))
        self._lib = self._ffi.dlopen(str(library))
        self.dtype = np.dtype(dtype)
        self._face = f = load_python(face(cell), cell.name, f"<lstmgen face of {cell.name}>")
        self.__name__ = self.CELL = f.CELL
        self.OUTPUT, self.PARAMETERS, self.STATES = f.OUTPUT, f.PARAMETERS, f.STATES
        self.INPUTS, self.MASKS, self.CONSTANTS = f.INPUTS, f.MASKS, f.CONSTANTS
        self._maker = (library.stem, dtype)
        self._fixed = dict(fixed)
        self._output_size = str(cell.size(cell.output))
        self._output_is_state = cell.output.category == "state"
        self._sizes = ("T", "B", *(str(n) for n in cell.sizes))
        shapes = (*self.PARAMETERS.values(), self.STATES.values(), self.INPUTS.values(),
                  self.MASKS.values(), [self._output_size])  # fmt: skip
        # a size that is a number is its own name
        self._numbers = {n: int(n) for shape in shapes for n in shape if n.isdigit()}
        self._array = self._ffi.typeof({"float32": "float[]", "float64": "double[]"}[dtype])
        self._struct = {
            kind: self._ffi.typeof(f"{cell.name}_{kind} *")
            for kind in ("sizes", "params", "grads", "state", "new_state")
            + ("inputs", "input_grads") * (len(self.INPUTS) > 1)
            + ("masks",) * bool(self.MASKS)
        }
        self._c = {
            what: getattr(self._lib, f"{cell.name}_{what}")
            for what in ("forward", "backward", "step", "message")
        }
        self._room = lru_cache(maxsize=128)(self._make_room)
        self._last: _Bound | None = None
        self._spare: list[Any] = []

    def __repr__(self) -> str:
        return f"<lstmgen C module {self.CELL} ({self.dtype})>"

    # ------------------------------------------------------------------ the face

    def init(
        self, input_size: int, hidden_size: int, seed: int = 0, dtype: Any = None, **sizes: Any
    ) -> dict[str, Any]:
        """Fresh parameters: a dict from name to array, as the NumPy module makes them."""
        made: dict[str, Any] = self._face.init(
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
        xs, filled, states, room = self._take(bound, x, state, masks, ("T", "B"))
        y, new = np.empty(room.output, self.dtype), self._empty(room.states)
        kept = np.empty(room.numbers["tape"], self.dtype) if tape else None
        self._call(
            "forward", room, room.numbers["forward_work"], bound.struct,
            *self._inputs(xs, filled), self._of(states), self._at(y), self._new("new_state", new),
            self._ffi.NULL if kept is None else self._at(kept),
        )  # fmt: skip
        if kept is None:
            return y, new, None
        return y, new, Tape(kept, xs, filled, room.sizes, self._maker)

    def backward(
        self,
        params: Mapping[str, Any],
        tape: Tape | None,
        dy: Any,
        dstate: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:
        """Backpropagate through time: (grads, dx, dstate); see the NumPy module."""
        bound = self._bind(params)
        tape = self._own(tape, bound)
        sizes = dict(tape.sizes)
        room = self._room_of(sizes)
        dy = self._fit("dy", dy, ("T", "B", self._output_size), sizes)
        final = self._states("dstate", dstate, sizes)
        grads, dx = self._empty(room.parameters), self._empty(room.inputs)
        first = self._empty(room.states)
        several = len(dx) > 1
        only = next(iter(dx.values()))
        self._call(
            "backward", room, room.numbers["backward_work"], bound.struct,
            *self._inputs(tape.x, tape.masks), self._at(tape.memory), self._at(dy),
            self._of(final), self._new("grads", grads),
            self._new("input_grads", dx) if several else self._at(only),
            self._new("new_state", first),
        )  # fmt: skip
        return grads, (dx if several else only), first

    def step(
        self,
        params: Mapping[str, Any],
        x_t: Any,
        state: Mapping[str, Any] | None = None,
        masks: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]:
        """One step, for streaming: x_t is (B, size); returns the new state, a dict.

        If the output is no state, it is in the dict as well.
        """
        bound = self._bind(params)
        xs, filled, states, room = self._take(bound, x_t, state, masks, ("B",))
        new = self._empty(room.states)
        y = None if self._output_is_state else np.empty(room.output[1:], self.dtype)
        self._call(
            "step", room, room.numbers["step_work"], bound.struct, *self._inputs(xs, filled),
            self._of(states), self._ffi.NULL if y is None else self._at(y),
            self._new("new_state", new),
        )  # fmt: skip
        return new if y is None else {**new, self.OUTPUT: y}

    # ------------------------------------------------------------------ arguments

    def _bind(self, params: Mapping[str, Any]) -> _Bound:
        """The struct of pointers to ``params``, and the sizes that they tell."""
        try:
            given = [params[name] for name in (*self.PARAMETERS, *self.CONSTANTS)]
        except KeyError as error:
            raise KeyError(
                f"params has no {error.args[0]!r}; {self.CELL} needs "
                f"{', '.join((*self.PARAMETERS, *self.CONSTANTS))}"
            ) from None
        last = self._last
        if last is not None and all(map(is_, given, last.given)):
            return last
        sizes = dict(self._numbers)
        arrays = [
            self._fit(name, value, self.PARAMETERS[name], sizes)
            for name, value in zip(self.PARAMETERS, given, strict=False)
        ]
        constants = given[len(arrays) :]
        values = [float(value) for value in constants]
        pointers = [*map(self._at, arrays), *values]
        struct = self._ffi.new(self._struct["params"], pointers) if pointers else self._ffi.NULL
        bound = _Bound(given, struct, sizes, arrays)
        # Only what cannot change behind our back: the arrays themselves, and plain numbers.
        if all(map(is_, arrays, given)) and all(isinstance(c, (int, float)) for c in constants):
            self._last = bound
        return bound

    def _take(
        self, bound: _Bound, x: Any, state: Any, masks: Mapping[str, Any] | None,
        lead: tuple[str, ...],
    ) -> tuple[list[Array], list[Array], list[Array] | None, _Room]:  # fmt: skip
        """x, masks and states as arrays that C can read, and the room for their sizes."""
        sizes = dict(bound.sizes)
        if len(self.INPUTS) == 1:
            ((name, size),) = self.INPUTS.items()
            xs = [self._fit(name, x, (*lead, size), sizes)]
        else:
            if not isinstance(x, Mapping) or set(x) != set(self.INPUTS):
                found = sorted(x) if isinstance(x, Mapping) else f"a {type(x).__name__}"
                raise KeyError(f"x is a dict of the inputs {sorted(self.INPUTS)}, not {found}")
            xs = [self._fit(k, x[k], (*lead, size), sizes) for k, size in self.INPUTS.items()]
        filled = [self._mask(k, masks, (*lead, n), sizes) for k, n in self.MASKS.items()]
        states = self._states("state", state, sizes)
        sizes.setdefault("T", 1)
        return xs, filled, states, self._room_of(sizes)

    def _fit(
        self, what: str, value: Any, symbolic: Sequence[str], sizes: dict[str, int]
    ) -> Array:
        """``value`` as an array of our dtype, in C order; sizes that are not known are learned."""
        if (
            type(value) is np.ndarray
            and value.dtype is self.dtype
            and value.flags.num & _C_ORDER_AND_ALIGNED == _C_ORDER_AND_ALIGNED
            and value.ndim == len(symbolic)
            and value.size
        ):
            for name, n in zip(symbolic, value.shape, strict=True):
                if sizes.setdefault(name, n) != n:
                    break
            else:
                return value
        array: Array = self._face._array(what, value, symbolic, sizes, self.dtype)
        return np.require(array, self.dtype, ["C", "A"])

    def _mask(
        self, name: str, masks: Mapping[str, Any] | None, symbolic: tuple[str, ...],
        sizes: dict[str, int],
    ) -> Array:  # fmt: skip
        """A mask in full: callers may leave out what broadcasts."""
        if masks is None or name not in masks:
            raise KeyError(f"{self.CELL} needs the mask {name!r}: masks={{{name!r}: array}}")
        mask = np.asarray(masks[name])
        if mask.ndim:
            sizes.setdefault(symbolic[-1], mask.shape[-1])
        with suppress(KeyError, ValueError):  # what is wrong with a mask, _fit says
            mask = np.broadcast_to(mask, tuple(sizes[n] for n in symbolic))
        return self._fit(f"masks[{name!r}]", mask, symbolic, sizes)

    def _states(self, what: str, state: Any, sizes: dict[str, int]) -> list[Array] | None:
        """The states in order; None for zeros."""
        if state is None:
            return None
        if not isinstance(state, Mapping):
            raise TypeError(f"{what} is a dict from name to array, not a {type(state).__name__}")
        if len(state) == len(self.STATES) and all(name in state for name in self.STATES):
            return [
                self._fit(f"{what}[{name!r}]", state[name], ("B", size), sizes)
                for name, size in self.STATES.items()
            ]
        arrays = self._face._states(what, state, sizes, self.dtype)
        return [np.require(a, self.dtype, ["C", "A"]) for a in arrays.values()]

    def _own(self, tape: Tape | None, bound: _Bound) -> Tape:
        """``tape``, if it is one of ours and made with parameters of these sizes."""
        if tape is None:
            raise LstmgenError("there is no tape: run forward with tape=True")
        if not isinstance(tape, Tape) or tape.maker != self._maker:
            raise LstmgenError(
                f"this tape does not come from forward of this module, {self!r}: each module "
                "keeps its tape in its own way"
            )
        for name, n in bound.sizes.items():
            if tape.sizes[name] != n:
                raise ValueError(
                    f"params have {name}={n}, but the tape was made with {name}={tape.sizes[name]}"
                )
        return tape

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
        struct = self._ffi.new(self._struct["sizes"], list(numbers))
        counts = {
            what: int(getattr(self._lib, f"{self.CELL}_{what}_size")(struct))
            for what in ("tape", "forward_work", "backward_work", "step_work")
        }
        if not all(counts.values()):
            raise LstmgenError(f"{self.CELL}: arrays of these sizes are too large: {sizes}")
        known = sizes | self._numbers

        def shapes(lead: tuple[str, ...], table: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
            rows = {k: (n,) if isinstance(n, str) else n for k, n in table.items()}
            return {k: tuple(known[n] for n in (*lead, *shape)) for k, shape in rows.items()}

        return _Room(
            struct, known, shapes(("T", "B"), {"y": self._output_size})["y"],
            shapes(("T", "B"), self.INPUTS), shapes(("B",), self.STATES),
            shapes((), self.PARAMETERS), counts,
        )  # fmt: skip

    def _empty(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        return {name: np.empty(shape, self.dtype) for name, shape in shapes.items()}

    # ------------------------------------------------------------------ C
    # What a struct points to has to be kept alive by whoever makes the call: that is why these
    # take arrays that are variables there.

    def _at(self, array: Array) -> Any:
        return self._ffi.from_buffer(self._array, array)

    def _new(self, kind: str, arrays: Mapping[str, Array]) -> Any:
        if not arrays:
            return self._ffi.NULL
        return self._ffi.new(self._struct[kind], [self._at(a) for a in arrays.values()])

    def _of(self, states: list[Array] | None) -> Any:
        if not states:
            return self._ffi.NULL
        return self._ffi.new(self._struct["state"], [self._at(a) for a in states])

    def _inputs(self, xs: list[Array], masks: list[Array]) -> list[Any]:
        if len(xs) == 1:
            given = [self._at(xs[0])]
        else:
            given = [self._ffi.new(self._struct["inputs"], [self._at(a) for a in xs])]
        if masks:
            given.append(self._ffi.new(self._struct["masks"], [self._at(a) for a in masks]))
        return given

    def _call(self, what: str, room: _Room, numbers: int, *arguments: Any) -> None:
        """Call C with a workspace: one that an earlier call left, if it is large enough."""
        try:
            work = self._spare.pop()
        except IndexError:
            work = ()
        if len(work) < numbers:
            work = self._at(np.empty(numbers, self.dtype))
        status = self._c[what](room.struct, *arguments, work)
        if not self._spare:  # threads that call at once have one each, of which one is kept
            self._spare.append(work)
        if status != 0:
            text = self._ffi.string(self._c["message"](status)).decode()
            raise LstmgenError(f"{self.CELL}_{what}: {text}")


def declarations(header: str) -> str:
    """What cffi reads of a generated header: what a preprocessor would leave of it."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL).replace("\\\n", "")
    guards = ('extern "C" {', "}")
    return "\n".join(
        line for line in text.splitlines() if not line.startswith("#") and line not in guards
    )
