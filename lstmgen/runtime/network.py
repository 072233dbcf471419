"""A compiled network in C, with the interface of a generated NumPy module."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LstmgenError
from ..language import dtypes
from ..network.structure import Structure
from ..targets.numpy.network import interface
from .kept import Packed
from .loading import load_package
from .memory import Array, Memory
from .native import opened
from .network_kept import Batch, NetworkTape
from .rooms import mind_forks
from .training_arrays import TrainingArrays


class NativeNetwork:
    """``init``, ``forward``, ``backward``, ``step`` and ``train`` of one network, in C.

    Arrays that are not of the module's dtype, or not in C order, are converted at every call.
    """

    def __init__(
        self, network: Structure, header: str, library: Path, dtype: str, threads: int = 1
    ) -> None:
        self._ffi, self._lib = opened(header, library)
        self.dtype, self._threads = np.dtype(dtype), threads
        files = interface(network)
        self._interface = f = load_package(files, next(iter(files)), network.name)
        self.__name__ = self.CELL = f.CELL
        self.OUTPUT, self.PARAMETERS, self.STATES = f.OUTPUT, f.PARAMETERS, f.STATES
        self.INPUTS, self.CONSTANTS = f.INPUTS, f.CONSTANTS
        self.SYMBOLS, self.UNLEARNED = f.SYMBOLS, f.UNLEARNED
        self._of_rows, self._units = network.graph.output.of_rows, network.graph.output.size
        self._trains = network.loss is not None
        self._of_classes = network.loss is not None and network.loss.of_classes
        self._moments = network.optimizer.moments
        self._reversed = [run.name for run in network.graph.runs if run.reverse]
        self._learned = [name for name in f.PARAMETERS if name not in f.UNLEARNED]
        self._blocks = [*self._learned, *f.UNLEARNED]  # in the order of C's blocks
        self._memory, self._real = Memory(self._ffi, dtype), dtypes.dtype(dtype).storage.c
        self._trained: tuple[tuple[Any, ...], TrainingArrays] | None = None
        self._last: tuple[Any, Any, int | None, list[Any]] | None = None

    def __repr__(self) -> str:
        return f"<lstmgen C network {self.CELL} ({self.dtype})>"

    # ------------------------------------------------------------------ the interface

    def init(self, input_size: int | None = None, seed: int = 0, dtype: Any = None) -> Any:
        """Fresh parameters: a dict from name to array, as the NumPy module makes them."""
        return self._interface.init(input_size, seed=seed, dtype=dtype or self.dtype)

    def forward(
        self, params: Mapping[str, Any], x: Any, state: Mapping[str, Any] | None = None, *,
        lengths: Any = None, resets: Any = None, seed: int | None = None, tape: bool = True,
        checkpoint_every: int | str | None = None, snapshots: int | None = None,
        memory: float | None = None,
    ) -> tuple[Array, dict[str, Array], NetworkTape | None]:  # fmt: skip
        """Run over a batch of sequences: (y, final state, tape); see the NumPy module."""
        f, n = self._interface, self.CELL
        struct, D, _ = self._bound(params)
        call = self._call(x, D, lengths, resets, seed, checkpoint_every, snapshots, memory)
        y = np.zeros(self._y_shape(call.steps, call.B, call.D), self.dtype)
        given = f._states("state", state, call.B, self.dtype)
        final = {k: self._empty(axes, call) for k, axes in f.STATES.items()}
        if not call.B:
            nothing = NetworkTape((0, self._ffi.NULL), call, self) if tape else None
            return y if self._of_rows else y[: call.T], final, nothing
        at, sizes = self._memory.at, call.sizes
        room = self._size("tape_size", sizes, call.batch) if tape else 0
        kept_in = self._memory.tape(room) if tape else None
        work = self._memory.workspace(self._size("forward_work_size", sizes, call.batch, int(tape)))
        status = self._function("forward")(
            sizes, struct, call.batch, self._state(given, "state"), at(y),
            self._state(final, "new_state"), kept_in[1] if kept_in else self._ffi.NULL, work[1],
        )  # fmt: skip
        self._memory.give_back(work)
        self._raise(n, "forward", status)
        made = NetworkTape(kept_in, call, self) if kept_in else None
        return y if self._of_rows else y[: call.T], final, made

    def backward(
        self, params: Mapping[str, Any], tape: NetworkTape | None, dy: Any,
        dstate: Mapping[str, Any] | None = None, *, inputs: bool = True,
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:  # fmt: skip
        """Backpropagate through time: (grads, dx, dstate); see the NumPy module.

        With ``inputs=False``, dx is None, which saves work.
        """
        f = self._interface
        tape = self._own(tape)
        call = tape.call
        struct, D, _ = self._bound(params)
        if D is not None and D != call.D:
            raise ValueError(f"params have D={D}, but the tape was made with D={call.D}")
        dy = f._array("dy", dy, self._y_shape(call.T, call.B, call.D), self.dtype)
        final = f._states("dstate", dstate, call.B, self.dtype)
        grads = {k: self._zeros(f.PARAMETERS[k], call) for k in self._learned}
        first = {k: self._empty(axes, call) for k, axes in f.STATES.items()}
        wants = inputs and not f.SYMBOLS
        dx = self._zeros(("T", "B", *f.INPUTS["x"]), call) if wants else None
        if not call.B:
            return grads, None if dx is None else dx[: call.T], first
        if call.steps > call.T and not self._of_rows:
            dy = np.zeros(self._y_shape(call.steps, call.B, call.D), self.dtype)
        at, null = self._memory.at, self._ffi.NULL
        work = self._memory.workspace(self._size("backward_work_size", call.sizes, call.batch))
        status = self._function("backward")(
            call.sizes, struct, call.batch, tape.memory[1], at(dy), self._state(final, "state"),
            self._grads(grads), null if dx is None else at(dx), self._state(first, "new_state"),
            work[1],
        )  # fmt: skip
        self._memory.give_back(work)
        self._raise(self.CELL, "backward", status)
        tape.is_used = True
        return grads, None if dx is None else dx[: call.T], first

    def step(
        self, params: Mapping[str, Any], x_t: Any, state: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """One step, for streaming: x_t is that of one step. Returns the new state, in which the
        output is under the name in OUTPUT.
        """
        if self._reversed:
            raise ValueError(
                f"{self._reversed[0]} runs from the last step to the first: it needs whole "
                "sequences"
            )
        y, final, _ = self.forward(params, np.asarray(x_t)[np.newaxis], state, tape=False)
        return final | {self.OUTPUT: y if self._of_rows else y[0]}

    def pack(self, params: Mapping[str, Any]) -> Packed:
        """Arrange parameters once for many calls: what comes back can be given for ``params``.

        It is a copy. After a change of the parameters, pack them again.
        """
        copies = {k: np.array(v) if np.ndim(v) else v for k, v in params.items()}
        struct, D, arrays = self._bound(copies)
        self._last = None
        sizes = self._sizes(1, 1, D)
        memory = self._memory.buffer(self._size("packed_size", sizes))
        self._raise(self.CELL, "pack", self._function("pack")(sizes, struct, memory))
        struct.packed = memory
        return Packed(copies, self, (struct, D, [*arrays, memory]))

    def released(self, tape: NetworkTape) -> Any:
        """The memory of a tape as a buffer of bytes, which is the caller's from now on."""
        numbers, at = tape.memory
        tape.memory = None
        return self._ffi.buffer(at, numbers * self.dtype.itemsize)

    def backward_from(
        self, memory: Any, params: Mapping[str, Any], x: Any, dy: Any, dstate: Any, *,
        inputs: bool = True, lengths: Any = None, resets: Any = None, seed: int | None = None,
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:  # fmt: skip
        """``backward`` with the tape in a buffer that ``released`` gave, after ``forward`` with
        these arguments.
        """
        _, D, _ = self._bound(params)
        call = self._call(x, D, lengths, resets, seed, None, None, None)
        at = self._ffi.from_buffer(f"{self._real}[]", memory)
        tape = NetworkTape((len(at), at), call, self)
        try:
            return self.backward(params, tape, dy, dstate, inputs=inputs)
        finally:
            tape.memory = None  # it is not ours to use again

    # ------------------------------------------------------------------ training

    def loss(
        self, y: Any, target: Any, *, lengths: Any = None, weights: Any = None
    ) -> tuple[float, Array]:
        """The mean loss over the rows that count, and ∂L/∂y; see the NumPy module."""
        f, y = self._interface, np.ascontiguousarray(y, self.dtype)
        lead = y.shape[:-1]
        T, B = (1, *lead) if self._of_rows else lead
        target, weights = self._wanted(target, y.shape), self._weights(weights, lead)
        self._refuse_nothing(y.shape)
        lengths = None if self._of_rows else f._lengths(lengths, T, B)
        batch, _kept = self._batch(None, lengths, None, None)
        sizes = self._sizes(T, B, 1)
        value, dy = self._ffi.new("double *"), np.empty_like(y)
        work = self._memory.workspace(self._size("loss_work_size", sizes))
        at = self._memory.at
        status = self._function("loss")(
            sizes, batch, at(y), self._target_at(target),
            self._ffi.NULL if weights is None else at(weights), value, at(dy), work[1],
        )  # fmt: skip
        self._memory.give_back(work)
        self._raise(self.CELL, "loss", status)
        return float(value[0]), dy

    def start(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What training keeps beside the parameters: the number of updates, and moments, all 0."""
        shapes = {name: np.shape(params[name]) for name in self._blocks}
        views = self._views(shapes, len(self._moments))
        return {"updates": 0} | {
            f"{name}.{k}": part[name]
            for k, part in zip(self._moments, views, strict=True)
            for name in self._learned
        }

    def arrange(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of parameters in one piece of memory, so that ``train`` need not copy them."""
        (views,) = self._views({name: np.shape(params[name]) for name in self._blocks}, 1)
        for name, view in views.items():
            view[...] = params[name]
        return {name: views.get(name, params[name]) for name in params}

    def rate(self, updates: int) -> float:
        """The learning rate of the update that follows so many."""
        return float(self._function("rate")(updates + 1))

    def update(
        self, params: Mapping[str, Any], moments: dict[str, Any], grads: Mapping[str, Any]
    ) -> float:
        """One update of ``params`` and ``moments``, in place; see the NumPy module."""
        with self._training(params, moments) as (training, D):
            flat = np.zeros(sum(int(np.size(params[k])) for k in self._blocks), self.dtype)
            joined = [np.asarray(grads[k], self.dtype).reshape(-1) for k in self._learned]
            if joined:
                np.concatenate(joined, out=flat[: sum(map(len, joined))])
            sizes = self._sizes(1, 1, D)
            norm = self._ffi.new("double *")
            work = self._memory.workspace(self._size("update_work_size", sizes))
            status = self._function("update")(
                sizes, training.struct, self._memory.at(flat), norm, work[1]
            )
            self._memory.give_back(work)
            self._raise(self.CELL, "update", status)
        return float(norm[0])

    def train(
        self, params: Mapping[str, Any], moments: dict[str, Any], x: Any, target: Any,
        state: Mapping[str, Any] | None = None, *, lengths: Any = None, resets: Any = None,
        weights: Any = None, seed: int | None = None, checkpoint_every: int | str | None = None,
        snapshots: int | None = None, memory: float | None = None,
    ) -> tuple[float, dict[str, Array]]:  # fmt: skip
        """Forward, loss, backward and update: one step of training, in place.

        Returns the loss before the update, and the final state.
        """
        f = self._interface
        with self._training(params, moments) as (training, D):
            self._refuse_other_constants(params)
            call = self._call(x, D, lengths, resets, seed, checkpoint_every, snapshots, memory)
            shape = self._y_shape(call.T, call.B, call.D)
            target, weights = self._wanted(target, shape), self._weights(weights, shape[:-1])
            self._refuse_nothing(shape)
            given = f._states("state", state, call.B, self.dtype)
            final = {k: self._empty(axes, call) for k, axes in f.STATES.items()}
            value, at, null = self._ffi.new("double *"), self._memory.at, self._ffi.NULL
            work = self._memory.tape(self._size("train_work_size", call.sizes, call.batch))
            status = self._function("train")(
                call.sizes, training.struct, call.batch, self._target_at(target),
                null if weights is None else at(weights), self._state(given, "state"),
                self._state(final, "new_state"), value, work[1],
            )  # fmt: skip
            self._memory.give_back_tape(work)
            self._raise(self.CELL, "train", status)
        return float(value[0]), final

    def _training(self, params: Mapping[str, Any], moments: dict[str, Any]) -> TrainingArrays:
        """What an update changes; as it was made for the last one, if it is of the same arrays."""
        if not self._trains:
            raise LstmgenError(f"{self.CELL} has no loss")
        names = [f"{name}.{k}" for k in self._moments for name in self._learned]
        given = (moments, *map(params.get, self.PARAMETERS), *map(moments.get, names))
        last = self._trained
        if last is not None and all(map(is_, given, last[0])):
            return last[1]
        made = TrainingArrays(self, params, moments)
        self._trained = None if made.is_copy else (given, made)
        return made

    def _refuse_other_constants(self, params: Mapping[str, Any]) -> None:
        """C trains with the values that it was made for."""
        for name, value in self.CONSTANTS.items():
            if float(params[name]) != value:
                raise ValueError(
                    f"{name} is {params[name]}, but the C code trains with {value}: give the "
                    "layer that constant, or train with the NumPy target"
                )

    def _views(self, shapes: Mapping[str, tuple[int, ...]], times: int) -> list[dict[str, Array]]:
        """Arrays of zeros in one piece of memory, in the order of C's blocks; several times."""
        counts = {name: int(np.prod(shape, dtype=int)) for name, shape in shapes.items()}
        flat, at = np.zeros(sum(counts.values()) * times, self.dtype), 0
        found = []
        for _ in range(times):
            views = {}
            for name in self._blocks:
                views[name] = flat[at : at + counts[name]].reshape(shapes[name])
                at += counts[name]
            found.append(views)
        return found

    def _wanted(self, target: Any, shape: tuple[int, ...]) -> Array:
        """What is wanted, as C takes it."""
        if not self._of_classes:
            made: Array = self._interface._array("target", target, shape, self.dtype)
            return made
        target = np.asarray(target)
        if target.shape != shape[:-1] or target.dtype.kind not in "iu":
            raise ValueError(
                f"target is the number of a class for each row, {shape[:-1]}, not {target.dtype} "
                f"of shape {target.shape}"
            )
        if target.size and target.max() >= shape[-1]:
            raise ValueError(f"target has the class {target.max()}; y has {shape[-1]}, from 0 on")
        return np.ascontiguousarray(np.maximum(target, -1), np.int32)

    @staticmethod
    def _refuse_nothing(shape: tuple[int, ...]) -> None:
        if 0 in shape:
            raise ValueError("no row counts: there is nothing to learn from")

    def _target_at(self, target: Array) -> Any:
        if self._of_classes:
            return self._ffi.from_buffer("int32_t[]", target)
        return self._memory.at(target)

    def _weights(self, weights: Any, lead: tuple[int, ...]) -> Any:
        if weights is None:
            return None
        weights = self._interface._array("weights", weights, lead, self.dtype)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError("weights are finite, and not negative")
        return weights

    # ------------------------------------------------------------------ what C takes

    def _bound(self, params: Mapping[str, Any]) -> tuple[Any, int | None, list[Any]]:
        """The struct of pointers to parameters, the size D that they tell, and the arrays."""
        if isinstance(params, Packed) and params.module is self:
            bound: tuple[Any, int | None, list[Any]] = params.bound
            return bound
        f = self._interface
        if not hasattr(params, "keys"):
            raise TypeError(f"params is a dict from name to array, not a {type(params).__name__}")
        missing = [k for k in (*f.PARAMETERS, *f.CONSTANTS) if k not in params]
        if missing:
            needs = ", ".join(f.PARAMETERS)
            raise KeyError(f"params has no {missing[0]!r}: {self.CELL} needs {needs}")
        given = tuple(params[k] for k in (*f.PARAMETERS, *f.CONSTANTS))
        last = self._last
        if last is not None and all(map(is_, given, last[0])):
            return last[1], last[2], last[3]
        sizes: dict[str, int] = {}
        arrays = [
            f._array(k, params[k], axes, self.dtype, sizes) for k, axes in f.PARAMETERS.items()
        ]
        struct = self._ffi.new(f"{self.CELL}_params *")
        for name, array in zip(f.PARAMETERS, arrays, strict=True):
            self._set(struct, name, self._memory.at(array))
        for name in f.CONSTANTS:
            self._set(struct, name, float(params[name]))
        if all(map(is_, arrays, given)):  # only what cannot change behind our back
            self._last = given, struct, sizes.get("D"), arrays
        return struct, sizes.get("D"), arrays

    def _set(self, struct: Any, name: str, value: Any) -> None:
        """A member, ``lstm1.W_i``, or one of the network's own, ``embedding_table``."""
        part, _, member = name.rpartition(".")
        inner = getattr(struct, part, None)
        if inner is not None and hasattr(inner, member):
            setattr(inner, member, value)
        else:
            setattr(struct, name.replace(".", "_"), value)

    def _grads(self, grads: Mapping[str, Array]) -> Any:
        struct = self._ffi.new(f"{self.CELL}_grads *")
        for name, array in grads.items():
            self._set(struct, name, self._memory.at(array))
        return struct

    def _state(self, state: Mapping[str, Array], kind: str) -> Any:
        if not state:
            return self._ffi.NULL
        struct = self._ffi.new(f"{self.CELL}_{kind} *")
        for name, array in state.items():
            self._set(struct, name, self._memory.at(array))
        return struct

    def _call(
        self, x: Any, D: int | None, lengths: Any, resets: Any, seed: Any, every: Any,
        snapshots: Any, memory: Any,
    ) -> Batch:  # fmt: skip
        f = self._interface
        x, T, B, D = f._input(x, D, self.dtype)
        snapshots = f._count("snapshots", snapshots)
        if every == "auto":
            every = f._steps_in(memory, T, B, D, self.dtype.itemsize)
        every = f._count("checkpoint_every", every) or (1 if snapshots else None)
        lengths, resets = f._lengths(lengths, T, B), f._resets(resets, T, B)
        if not T:
            x, lengths, resets = np.zeros((1, *x.shape[1:]), x.dtype), np.zeros(B, int), None
        batch, kept = self._batch(x, lengths, resets, seed)
        steps = max(1, T)  # no more of either make a difference
        sizes = self._sizes(steps, B, D, min(every or 0, steps), min(snapshots or 0, steps))
        return Batch(sizes, batch, T, B, D, kept)

    def _batch(self, x: Any, lengths: Any, resets: Any, seed: Any) -> tuple[Any, list[Any]]:
        struct, kept = self._ffi.new(f"{self.CELL}_batch *"), []
        if x is not None and self._interface.SYMBOLS:
            kept.append(np.ascontiguousarray(x, np.int32))
            struct.x = self._ffi.from_buffer("int32_t[]", kept[-1])
        elif x is not None:
            kept.append(x)
            struct.x = self._memory.at(x)
        if lengths is not None:
            kept.append(np.ascontiguousarray(lengths, np.uintp))
            struct.lengths = self._ffi.from_buffer("size_t[]", kept[-1])
        if resets is not None:
            kept.append(np.ascontiguousarray(resets, np.uint8))
            struct.resets = self._ffi.from_buffer("unsigned char[]", kept[-1])
        seed = self._interface._seed(seed)
        if seed is not None:
            struct.is_noisy, struct.seed = 1, seed
        return struct, kept

    def _sizes(self, T: int, B: int, D: int | None, every: int = 0, snapshots: int = 0) -> Any:
        struct = self._ffi.new(f"{self.CELL}_sizes *")
        struct.T, struct.B, struct.threads = T, B, self._threads
        struct.every, struct.snapshots = every, snapshots
        mind_forks(struct, self._threads)
        if D is not None and hasattr(struct, "D"):
            struct.D = D
        return struct

    def _size(self, what: str, *arguments: Any) -> int:
        found = int(self._function(what)(*arguments))
        if not found:
            raise LstmgenError(f"{self.CELL}: an array would have more bytes than there can be")
        return found

    def _function(self, what: str) -> Any:
        return getattr(self._lib, f"{self.CELL}_{what}")

    def _raise(self, name: str, what: str, status: int) -> None:
        if status:
            text = self._ffi.string(self._function("message")(status)).decode()
            kinds = {"not finite": FloatingPointError, "no row counts": ValueError}
            found = [kind for said, kind in kinds.items() if said in text]
            raise (found or [LstmgenError])[0](f"{name}_{what}: {text}")

    def _own(self, tape: NetworkTape | None) -> NetworkTape:
        if tape is None:
            raise ValueError("there is no tape: run forward with tape=True")
        if not isinstance(tape, NetworkTape) or tape.module is not self:
            kind = type(tape).__name__
            raise ValueError(f"the tape is what forward of {self!r} returned, not a {kind}")
        if tape.is_used and tape.call.sizes.every:
            raise ValueError("a tape with checkpoints is used once: run forward again")
        return tape

    # ------------------------------------------------------------------ shapes

    def _y_shape(self, T: int, B: int, D: int | None) -> tuple[int, ...]:
        units = int(self._units) if self._units.is_Integer else D
        return (B, units) if self._of_rows else (T, B, units)  # type: ignore[return-value]

    def _shape(self, axes: Any, call: Batch) -> tuple[int, ...]:
        known = {"T": call.steps, "B": call.B, "D": call.D}
        return tuple(known[n] if isinstance(n, str) else n for n in axes)  # type: ignore[misc]

    def _zeros(self, axes: Any, call: Batch) -> Array:
        return np.zeros(self._shape(axes, call), self.dtype)

    def _empty(self, axes: Any, call: Batch) -> Array:
        return np.empty((call.B, *self._shape(axes, call)), self.dtype)
