"""A compiled C cell with the face of a generated NumPy module.

Calls go through cffi in ABI mode: it parses the generated header, needs no Python headers, and
a call costs well under a microsecond. What is left of the overhead is making arrays and taking
their addresses; the structure of parameter pointers is kept as long as the same arrays come in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import is_
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .cell import Cell
from .errors import LstmgenError
from .targets.numpy import face
from .toolchain import load_python, missing_extra

Array = NDArray[Any]
# cffi does not keep alive what a struct points to
_ALIVE: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


class NativeModule:
    """``init``, ``forward``, ``backward`` and ``step`` of one cell, in C.

    Arrays of another dtype, or not in C order, are converted at every call.
    """

    def __init__(self, cell: Cell, header: str, library: Path, dtype: str) -> None:
        try:
            from cffi import FFI
        except ImportError as error:
            raise missing_extra("cffi") from error
        self._ffi = FFI()
        self._ffi.cdef(_declarations(header))
        self._lib = self._ffi.dlopen(str(library))
        self.dtype = np.dtype(dtype)
        self._real = {"float32": "float[]", "float64": "double[]"}[dtype]
        self._face = load_python(face(cell), cell.name, f"<lstmgen face of {cell.name}>")
        f = self._face
        self.__name__ = self.CELL = f.CELL
        self.OUTPUT, self.PARAMETERS, self.STATES = f.OUTPUT, f.PARAMETERS, f.STATES
        self.INPUTS, self.MASKS, self.CONSTANTS = f.INPUTS, f.MASKS, f.CONSTANTS
        self._output_size = str(cell.size(cell.output))
        self._output_is_state = cell.output.category == "state"
        self._function = {
            what: getattr(self._lib, f"{cell.name}_{what}")
            for what in (
                "forward", "backward", "step", "message", "tape_size", "forward_work_size",
                "backward_work_size",
            )
        }  # fmt: skip
        self._kept: tuple[Any, ...] = ()  # the last params: (arrays as given, struct, …)

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
    ) -> tuple[Array, dict[str, Array], dict[str, Any]]:
        """Run the cell over a sequence: (y, final state, tape); see the NumPy module.

        ``tape=False`` keeps nothing for a backward pass; the tape is then an empty dict.
        """
        bound, sizes = self._bind(params)
        x, masks, initial = self._arrays(x, masks, state, sizes)
        n = self._sizes(sizes)
        y = np.empty((sizes["T"], sizes["B"], self._count(self._output_size, sizes)), self.dtype)
        new = self._fresh_states(sizes)
        kept = np.empty(self._function["tape_size"](n), self.dtype) if tape else None
        work = np.empty(self._function["forward_work_size"](n), self.dtype)
        self._call(
            "forward", n, bound, *self._given(x, masks), self._struct("state", initial),
            self._pointer(y, True), self._struct("new_state", new),
            self._pointer(kept, True) if kept is not None else self._ffi.NULL,
            self._pointer(work, True),
        )  # fmt: skip
        if kept is None:
            return y, new, {}
        return y, new, {"tape": kept, "x": x, "masks": masks, "sizes": dict(sizes)}

    def backward(
        self,
        params: Mapping[str, Any],
        tape: Mapping[str, Any],
        dy: Any,
        dstate: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:
        """Backpropagate through time: (grads, dx, dstate); see the NumPy module."""
        if "tape" not in tape:
            raise LstmgenError("this tape is empty: run forward with tape=True")
        bound, _ = self._bind(params)
        sizes = dict(tape["sizes"])
        dy = self._fit("dy", dy, ("T", "B", self._output_size), sizes)
        final = self._face._states("dstate", dstate, sizes, self.dtype) if dstate else None
        n = self._sizes(sizes)
        grads = {
            name: np.empty(tuple(self._count(k, sizes) for k in shape), self.dtype)
            for name, shape in self.PARAMETERS.items()
        }
        dx = {
            name: np.empty((sizes["T"], sizes["B"], self._count(size, sizes)), self.dtype)
            for name, size in self.INPUTS.items()
        }
        first = self._fresh_states(sizes)
        work = np.empty(self._function["backward_work_size"](n), self.dtype)
        several = len(dx) > 1
        only = next(iter(dx.values()))
        self._call(
            "backward", n, bound, *self._given(tape["x"], tape["masks"]),
            self._pointer(tape["tape"]), self._pointer(dy),
            self._struct("state", final), self._struct("grads", grads),
            self._struct("input_grads", dx) if several else self._pointer(only, True),
            self._struct("new_state", first), self._pointer(work, True),
        )  # fmt: skip
        return grads, (dx if several else only), first

    def step(
        self,
        params: Mapping[str, Any],
        x_t: Any,
        state: Mapping[str, Any] | None = None,
        masks: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]:
        """One step, for streaming: x_t is (B, size); returns the new state, a dict."""
        x = (
            np.asarray(x_t)[np.newaxis]
            if len(self.INPUTS) == 1
            else {name: np.asarray(x_t[name])[np.newaxis] for name in self.INPUTS}
        )
        y, new, _ = self.forward(params, x, state, masks, tape=False)
        return new if self._output_is_state else {**new, self.OUTPUT: y[0]}

    # ------------------------------------------------------------------ arrays

    def _bind(self, params: Mapping[str, Any]) -> tuple[Any, dict[str, int]]:
        """The struct of pointers to ``params``, and the sizes that they tell."""
        try:
            given = [params[name] for name in (*self.PARAMETERS, *self.CONSTANTS)]
        except KeyError as error:
            raise KeyError(
                f"params has no {error.args[0]!r}; {self.CELL} needs {', '.join(self.PARAMETERS)}"
            ) from None
        if self._kept and all(map(is_, given, self._kept[0])):
            return self._kept[1], dict(self._kept[2])
        sizes: dict[str, int] = {}
        arrays = {
            name: self._fit(name, value, self.PARAMETERS[name], sizes)
            for name, value in zip(self.PARAMETERS, given, strict=False)
        }
        struct = self._struct("params", arrays)
        for name in self.CONSTANTS:
            setattr(struct, name, float(params[name]))
        if all(map(is_, arrays.values(), given)):  # no copies: the pointers stay right
            self._kept = (given, struct, dict(sizes), arrays)
        else:
            self._kept = ()
            self._alive = arrays
        return struct, sizes

    def _arrays(
        self, x: Any, masks: Mapping[str, Any] | None, state: Any, sizes: dict[str, int]
    ) -> tuple[Any, dict[str, Array], dict[str, Array] | None]:
        if len(self.INPUTS) == 1:
            ((name, size),) = self.INPUTS.items()
            x = self._fit(name, x, ("T", "B", size), sizes)
        else:
            if set(x) != set(self.INPUTS):
                raise KeyError(f"x has the inputs {sorted(x)}; it needs {sorted(self.INPUTS)}")
            x = {
                name: self._fit(name, x[name], ("T", "B", size), sizes)
                for name, size in self.INPUTS.items()
            }
        filled: dict[str, Array] = {}
        for name, size in self.MASKS.items():
            if masks is None or name not in masks:
                raise KeyError(f"{self.CELL} needs the mask {name!r}: masks={{{name!r}: …}}")
            if not size.isdigit():
                sizes.setdefault(size, np.shape(masks[name])[-1])
            full = (sizes["T"], sizes["B"], self._count(size, sizes))
            filled[name] = np.ascontiguousarray(np.broadcast_to(masks[name], full), self.dtype)
        if state is None and all(n.isdigit() or n in sizes for n in self.STATES.values()):
            return x, filled, None
        states = self._face._states("state", state, sizes, self.dtype)
        return x, filled, {name: np.ascontiguousarray(a) for name, a in states.items()}

    def _fit(
        self, what: str, value: Any, symbolic: tuple[str, ...], sizes: dict[str, int]
    ) -> Array:
        """``value`` as a C array of our dtype: itself if it is one, and of the right shape."""
        array: Array = self._face._array(what, value, symbolic, sizes, self.dtype)
        return np.ascontiguousarray(array)

    def _count(self, size: str, sizes: Mapping[str, int]) -> int:
        return int(size) if size.isdigit() else sizes[size]

    def _fresh_states(self, sizes: Mapping[str, int]) -> dict[str, Array]:
        return {
            name: np.empty((sizes["B"], self._count(size, sizes)), self.dtype)
            for name, size in self.STATES.items()
        }

    # ------------------------------------------------------------------ C

    def _pointer(self, array: Array, writable: bool = False) -> Any:
        return self._ffi.from_buffer(self._real, array, require_writable=writable)

    def _struct(self, kind: str, arrays: Mapping[str, Array] | None) -> Any:
        """A struct of pointers; it keeps the arrays alive as long as it lives itself."""
        if arrays is None:
            return self._ffi.NULL
        pointers = {name: self._pointer(a) for name, a in arrays.items()}
        struct = self._ffi.new(f"{self.CELL}_{kind} *", pointers)
        _ALIVE[struct] = pointers
        return struct

    def _given(self, x: Any, masks: Mapping[str, Array]) -> list[Any]:
        given = [self._struct("inputs", x) if len(self.INPUTS) > 1 else self._pointer(x)]
        return [*given, self._struct("masks", masks)] if self.MASKS else given

    def _sizes(self, sizes: Mapping[str, int]) -> Any:
        return self._ffi.new(f"{self.CELL}_sizes *", sizes)

    def _call(self, what: str, *arguments: Any) -> None:
        status = self._function[what](*arguments)
        if status != 0:
            text = self._ffi.string(self._function["message"](status)).decode()
            raise LstmgenError(f"{self.CELL}_{what}: {text}")


def _declarations(header: str) -> str:
    """The header without what only a preprocessor understands."""
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", header, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))
