"""Compiled kernels on tensors: what the operators run.

A kernel reads and writes the memory of tensors themselves: what is contiguous is not copied. It is
found by a *key*, a text that names a cell and its equations, so that operators of a graph, of a
saved program or of another process find the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import cells
from ..derivation.tangent import directions, tangent
from ..errors import LstmgenError
from ..language.cell import Cell
from ..runtime.loading import load_python
from ..runtime.memory import LARGE, Memory, Pool
from ..runtime.native import opened
from ..runtime.rooms import Room, Rooms, Shapes
from ..runtime.toolchain import MOST_THREADS, build_c, loading_library
from ..targets.identity import maker
from ..targets.numpy.target import interface

DTYPES = {torch.float32: "float32", torch.float64: "float64"}

_MOST_SHAPES = 256  # that a kernel remembers to have checked

_cells: dict[str, Cell] = {}


def register(cell: Cell) -> str:
    """The key under which operators find ``cell`` in this process."""
    key = f"{cell.name}:{maker(cell)['equations']}"
    _cells.setdefault(key, cell)
    return key


def cell_of(key: str) -> Cell:
    """The cell that was registered under a key; reference cells need not be.

    Raises
    ------
    LstmgenError
        If this process does not know the cell.
    """
    if key not in _cells:
        name = key.partition(":")[0]
        if name not in cells.names() or register(cells.get(name)) != key:
            raise LstmgenError(
                f"the cell {name} of a saved program is not known in this process\n"
                "  hint: lstmgen.torch.register(cell) before it runs, with the very equations"
            )
    return _cells[key]


def refuse_dtype(dtype: torch.dtype) -> None:
    """Refuse a number type that no kernel computes with.

    Raises
    ------
    TypeError
        That says what to do.
    """
    if dtype not in DTYPES:
        name = str(dtype).removeprefix("torch.")
        raise TypeError(
            f"on the CPU, lstmgen computes with float32 or float64, not with {name}\n"
            '  hint: .float(), or backend="torch" for PyTorch\'s own operations'
        )


@lru_cache(maxsize=256)
def _kernel(key: str, dtype: torch.dtype, threads: int) -> Kernel:
    return Kernel(cell_of(key), DTYPES[dtype], threads)


def kernel(key: str, dtype: torch.dtype, threads: int) -> Kernel:
    """The kernel of a cell, compiled when it is first asked for.

    Raises
    ------
    TypeError
        If there is none for such numbers.
    """
    refuse_dtype(dtype)
    return _kernel(key, dtype, max(1, min(threads, MOST_THREADS)))


@lru_cache(maxsize=256)
def face(key: str) -> Face:
    """What is to be known of a cell without compiling it."""
    return Face(cell_of(key))


class Face:
    """The tables of a cell: names and shapes, in the order of its equations.

    Attributes
    ----------
    parameters, inputs, masks, states, outputs : dict
        From name to axes, ("H", "D"), without T and B.
    learned : list of str
        The parameters that have a gradient.
    constants : dict
        From name to value; None if it has no default.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.interface = load_python(interface(cell), cell.name, f"<interface of {cell.name}>")
        f = self.interface
        self.parameters, self.inputs, self.masks = f.PARAMETERS, f.INPUTS, f.MASKS
        self.states, self.constants, self.sizes = f.STATES, f.CONSTANTS, f.SIZES
        self.outputs = {v.name: tuple(str(n) for n in cell.shape(v)) for v in cell.outputs}
        self.learned = [p.name for p in cell.learned]
        self.starts = {s.name: cell.starts_at(s) for s in cell.states}

    @cached_property
    def tangent(self) -> tuple[str, dict[str, str]]:
        """The key of the cell that carries a tangent, and the names of directions."""
        return register(tangent(self.cell)), directions(self.cell)

    def known(
        self, params: Sequence[Tensor], inputs: Sequence[Tensor], states: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> dict[str, Any]:  # fmt: skip
        """The sizes that tensors tell, T and B among them.

        Raises
        ------
        ValueError
            If tensors disagree, or have other axes; the message names the tensor.
        """
        sizes: dict[str, Any] = dict(self.interface.NUMBERS)
        tables = (
            ("", self.parameters, params, ()), ("", self.inputs, inputs, ("T", "B")),
            ("the state ", self.states, states, ("B",)),
            ("the mask ", self.masks, masks, ("T", "B")),
        )  # fmt: skip
        for what, table, tensors, lead in tables:
            for (name, axes), tensor in zip(table.items(), tensors, strict=bool(tensors)):
                self._learn(f"{what}{name}", (*lead, *axes), tensor, sizes)
        if whole := getattr(self.interface, "_whole", None):
            whole(sizes)
        return sizes

    def _learn(
        self, what: str, axes: tuple[str, ...], tensor: Tensor, sizes: dict[str, Any]
    ) -> None:
        fits = tensor.dim() == len(axes)
        if fits:
            for axis, n in zip(axes, tensor.shape, strict=True):
                fits = fits and sizes.setdefault(axis, n) == n
        if not fits:
            expected = ", ".join(f"{a}={sizes[a]}" if a in sizes else a for a in axes)
            raise ValueError(
                f"{self.cell.name}: {what} has the shape {tuple(tensor.shape)}; expected "
                f"({expected})"
            )

    def shapes(self, table: Mapping[str, tuple[str, ...]], sizes: Mapping[str, Any], *lead: Any
               ) -> list[tuple[Any, ...]]:  # fmt: skip
        """The shapes of what a table names, behind the axes ``lead``."""
        return [(*lead, *(sizes[axis] for axis in axes)) for axes in table.values()]


class Kernel:
    """One cell in C for one number type and so many threads, on tensors.

    All tensors are on the CPU and of the kernel's number type; those that are not contiguous are
    copied. Lists follow the tables of the cell's ``Face``.
    """

    def __init__(self, cell: Cell, dtype: str, threads: int) -> None:
        self.face = face(register(cell))
        header, library = build_c(cell, dtype, threads=threads)
        with loading_library():
            self._ffi, self._lib = opened(header, library)
        self._name = cell.name
        self._memory, self._tapes = Memory(self._ffi, dtype), Pool()
        self._numbers = np.dtype(dtype)
        self._rooms = Rooms(self._ffi, self._lib, cell, self.face.interface, {}, threads)
        self._pointer = self._ffi.typeof(f"{'double' if dtype == 'float64' else 'float'} *")
        self.dtype, self.threads = getattr(torch, dtype), threads
        self._structs: dict[str, tuple[Any, int]] = {}
        self._checked: dict[tuple[int, Any], Room] = {}

    def tape_numbers(self, sizes: Mapping[str, int]) -> int:
        """How many numbers a tape has; the last one is the number of threads."""
        return self._rooms.of(sizes).tape + 1

    def forward(
        self, params: Sequence[Tensor], inputs: Sequence[Tensor], states: Sequence[Tensor],
        masks: Sequence[Tensor], constants: Sequence[float], keep: bool,
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:  # fmt: skip
        """(outputs, final states, tape); no states are those that the cell starts with.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        room = self._room(params, inputs, states, masks)
        ys, finals = self._fresh(room.outputs), self._fresh(room.states)
        tape = self._empty((room.tape + 1 if keep else 0,), self._tapes)
        if keep:
            tape[-1] = self.threads
        if not room.tape:
            self._stay(finals, states)
            return ys, finals, tape
        held = [*self._held(params), *self._held(inputs), *self._held(states), *self._held(masks)]
        p, x, s, m = self._cut(held, params, inputs, states, masks)
        work = self._memory.workspace(room.forward_work)
        self._call(
            "forward", room.struct, self._struct("params", p, constants), *self._given(x, m),
            self._struct("state", s), self._several(ys), self._struct("new_state", finals),
            self._at(tape) if keep else self._ffi.NULL, work[1],
        )  # fmt: skip
        self._memory.give_back(work)
        return ys, finals, tape

    def backward(
        self, dys: Sequence[Tensor], dfinals: Sequence[Tensor], params: Sequence[Tensor],
        inputs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor], tape: Tensor,
        constants: Sequence[float], wants_params: bool, wants_inputs: bool,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:  # fmt: skip
        """(gradients of the learned parameters, of the inputs, of the initial states); those that
        are not wanted are empty lists, and not computed. No ``dfinals`` are zeros.
        """
        room = self._room(params, inputs, states, masks)
        self._refuse_adjoints(room, dys, dfinals)
        grads = self._fresh(room.learned) if wants_params else []
        dxs = self._fresh(room.inputs) if wants_inputs else []
        firsts = self._fresh(room.states)
        if not room.tape:
            for gradient in (*grads, *dxs):
                gradient.zero_()
            for k, first in enumerate(firsts):
                first.copy_(dfinals[k] if dfinals else torch.zeros_like(first))
            return grads, dxs, firsts
        held = [
            *self._held(params), *self._held(inputs), *self._held(masks), *self._held(dys),
            *self._held(dfinals),
        ]  # fmt: skip
        p, x, m, dy, last = self._cut(held, params, inputs, masks, dys, dfinals)
        dx: Any = self._ffi.NULL
        if dxs:
            dx = self._several(dxs) if len(dxs) > 1 else self._at(dxs[0])
        work = self._memory.workspace(room.backward_work)
        self._call(
            "backward", room.struct, self._struct("params", p, constants), *self._given(x, m),
            self._at(tape), self._several(dy), self._struct("state", last),
            self._struct("grads", grads), dx, self._struct("new_state", firsts), work[1],
        )  # fmt: skip
        self._memory.give_back(work)
        return grads, dxs, firsts

    # ------------------------------------------------------------------ what C takes

    def _room(self, *given: Sequence[Tensor]) -> Room:
        """The room for parameters, inputs, states and masks, which are checked once for their
        shapes and types: C would read beyond what is too small.
        """
        key = tuple([(t.shape, t.dtype) for part in given for t in part])
        found = self._checked.get((len(given[2]), key))
        if found is None:
            for tensor in (t for part in given for t in part):
                self._refuse_type(tensor)
            if len(self._checked) >= _MOST_SHAPES:
                self._checked.clear()
            found = self._rooms.of(self.face.known(*given))
            self._checked[len(given[2]), key] = found
        return found

    def _refuse_type(self, tensor: Tensor) -> None:
        if tensor.dtype != self.dtype:
            raise TypeError(
                f"{self._name}: a tensor is of {tensor.dtype}, and others of {self.dtype}\n"
                "  hint: all are of one number type: .to(module.dtype)"
            )

    def _refuse_adjoints(
        self, room: Room, dys: Sequence[Tensor], dfinals: Sequence[Tensor]
    ) -> None:
        for tensors, shapes in ((dys, room.outputs), (dfinals, room.states if dfinals else ())):
            for tensor, (name, shape) in zip(tensors, shapes, strict=True):
                self._refuse_type(tensor)
                if tensor.shape != shape:
                    raise ValueError(
                        f"{self._name}: the derivative by {name} has the shape "
                        f"{tuple(tensor.shape)}; expected {shape}"
                    )

    def _fresh(self, shapes: Shapes) -> list[Tensor]:
        return [self._empty(shape, self._memory.pool) for _, shape in shapes]

    def _empty(self, shape: tuple[int, ...], pool: Pool) -> Tensor:
        """A tensor to write to. Large memory is used again: to touch it for the first time costs as
        much as a fifth of a pass.
        """
        count = math.prod(shape)
        if count * self.dtype.itemsize < LARGE:
            return torch.empty(shape, dtype=self.dtype)
        return torch.from_numpy(pool.lent(np.empty(shape, self._numbers)))

    @staticmethod
    def _held(tensors: Iterable[Tensor]) -> list[Tensor]:
        """Tensors as C reads them, alive as long as this list."""
        return [t.contiguous() for t in tensors]

    @staticmethod
    def _cut(held: Sequence[Tensor], *like: Sequence[Tensor]) -> list[list[Tensor]]:
        parts, at = [], 0
        for part in like:
            parts.append(list(held[at : at + len(part)]))
            at += len(part)
        return parts

    def _at(self, tensor: Tensor) -> Any:
        return self._ffi.cast(self._pointer, tensor.data_ptr())

    def _struct(self, kind: str, tensors: Sequence[Tensor], numbers: Sequence[float] = ()) -> Any:
        """A struct of pointers, and then numbers; NULL if there is nothing in it."""
        if numbers:
            return self._ffi.new(f"{self._name}_{kind} *", [*map(self._at, tensors), *numbers])
        if not tensors:
            return self._ffi.NULL
        # cffi takes some microseconds for each pointer; these are made as whole numbers at once
        if kind not in self._structs:
            of = self._ffi.typeof(f"{self._name}_{kind}")
            words = self._ffi.sizeof(of) // np.dtype(np.uintp).itemsize
            self._structs[kind] = self._ffi.typeof(f"{self._name}_{kind}[]"), words
        struct, words = self._structs[kind]
        members = np.zeros(words, np.uintp)
        members[: len(tensors)] = [t.data_ptr() for t in tensors]
        return self._ffi.from_buffer(struct, members)

    def _several(self, tensors: Sequence[Tensor]) -> Any:
        """One array by itself, several as a struct."""
        return self._at(tensors[0]) if len(tensors) == 1 else [[self._at(t) for t in tensors]]

    def _given(self, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Any]:
        given = [self._several(inputs)]
        return [*given, [[self._at(m) for m in masks]]] if masks else given

    def _stay(self, finals: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        """Without steps, states stay as they are."""
        starts = self.face.starts.values()
        if states:
            for final, state in zip(finals, states, strict=True):
                final.copy_(state)
        else:
            for final, start in zip(finals, starts, strict=True):
                final.fill_(float(start))

    def _call(self, what: str, *arguments: Any) -> None:
        status = getattr(self._lib, f"{self._name}_{what}")(*arguments)
        if status:
            text = self._ffi.string(getattr(self._lib, f"{self._name}_message")(status)).decode()
            raise LstmgenError(f"{self._name}_{what}: {text}")
