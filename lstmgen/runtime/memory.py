"""Memory for C: pointers to arrays, fresh results, and buffers that are used again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..language import dtypes
from .rooms import Shapes

Array = NDArray[Any]
Buffer = tuple[int, Any]  # how many numbers, and where


# Bytes from which on memory is used again: below, malloc does so, above, it asks the system for
# pages that are touched for the first time.
LARGE = 1 << 17


class _Lent:
    """The memory of an array that a caller has: it comes back when no view of it is left."""

    __slots__ = ("__array_interface__", "_home", "_memory")

    def __init__(self, memory: Array, shape: tuple[int, ...], home: list[Array]) -> None:
        about = memory.__array_interface__
        self.__array_interface__ = {**about, "shape": shape, "strides": None}
        self._memory, self._home = memory, home

    def __del__(self) -> None:
        try:
            if len(self._home) < 4:  # an output, derivatives, and those that are still held
                self._home.append(self._memory)
        except Exception:  # at the end of the interpreter
            return


class Pool:
    """Large arrays for callers, in memory that earlier ones have left.

    Attributes
    ----------
    arrays : list of Array
        What is free to be used again.
    """

    def __init__(self) -> None:
        self.arrays: list[Array] = []

    def lent(self, array: Array) -> Array:
        """For a large array that nobody has touched, one like it in memory that another has left;
        else one whose memory comes back.
        """
        numbers, found = array.size, array
        while self.arrays:
            try:
                free = self.arrays.pop()
            except IndexError:  # another thread was faster
                break
            if free.dtype == array.dtype and numbers <= free.size <= 2 * numbers:
                found = free
                break
        return np.asarray(_Lent(found, array.shape, self.arrays))


class Memory:
    """The memory of one module's calls.

    Where C takes a pointer to a struct, cffi takes [values] and makes the struct for the call.

    Attributes
    ----------
    at : callable
        A pointer to an array, which it keeps alive.
    null
        The pointer to nothing.
    workspaces, tapes : list of Buffer
        What is free to be used again.
    pool : Pool
        The same, of large arrays that callers had.
    """

    def __init__(self, ffi: Any, dtype: str) -> None:
        self._ffi, self._dtype = ffi, np.dtype(dtype)
        array = ffi.typeof(f"{dtypes.dtype(dtype).storage.c}[]")
        # What ffi.from_buffer calls in the end, where cffi still has that. The Python before it
        # would take as long again.
        plain = getattr(ffi, "_backend", ffi)
        self.at = partial(plain.from_buffer, array)
        self.null = ffi.NULL
        self.workspaces: list[Buffer] = []
        self.tapes: list[Buffer] = []
        self.pool = Pool()

    def struct(self, arrays: Sequence[Array] | None) -> Any:
        """A struct of pointers to arrays; NULL if there are none."""
        return [[self.at(a) for a in arrays]] if arrays else self.null

    def fresh(self, shapes: Shapes) -> tuple[dict[str, Array], Any]:
        """Arrays for C to write, and what it takes for them."""
        arrays, pointers = {}, []
        empty, dtype, at = np.empty, self._dtype, self.at
        for name, shape in shapes:
            array = empty(shape, dtype)
            if array.nbytes >= LARGE:
                array = self.pool.lent(array)
            arrays[name] = array
            pointers.append(at(array))
        return arrays, [pointers] if pointers else self.null

    def fresh_outputs(self, shapes: Shapes) -> tuple[Any, Any]:
        """The same for the outputs: one is an array, several are a dict."""
        if len(shapes) > 1:
            return self.fresh(shapes)
        y = np.empty(shapes[0][1], self._dtype)
        if y.nbytes >= LARGE:
            y = self.pool.lent(y)
        return y, self.at(y)

    def buffer(self, numbers: int) -> Any:
        """Memory from a multiple of 64 bytes on: a vector then is in one line of the cache."""
        room = np.empty(numbers + 64 // self._dtype.itemsize, self._dtype)
        start = -room.__array_interface__["data"][0] % 64 // self._dtype.itemsize
        return self.at(room[start:])

    def workspace(self, numbers: int) -> Buffer:
        """A workspace that no other call has, for at least so many numbers."""
        try:
            work = self.workspaces.pop()
        except IndexError:
            return numbers, self.buffer(numbers)
        return work if work[0] >= numbers else (numbers, self.buffer(numbers))

    def give_back(self, work: Buffer) -> None:
        """What a call is done with, for others."""
        if len(self.workspaces) < 8:  # as many as threads are likely to need at once
            self.workspaces.append(work)

    def tape(self, numbers: int) -> Buffer:
        """Memory for a tape: what another one has left, if that is of much the same size."""
        try:
            while True:
                found = self.tapes.pop()
                if numbers <= found[0] <= 2 * numbers:
                    return found
        except IndexError:
            return numbers, self.buffer(numbers)

    def give_back_tape(self, memory: Buffer) -> None:
        """The memory of a tape that is gone, for the next one."""
        if len(self.tapes) < 2:  # one may live until the next is there
            self.tapes.append(memory)

    def copy_of_tape(self, memory: Buffer, numbers: int) -> Buffer:
        """The first ``numbers`` of a tape's memory, once more."""
        copy = self.tape(numbers)
        self._ffi.memmove(copy[1], memory[1], numbers * self._dtype.itemsize)
        return copy

    def copy(self, given: Any) -> Any:
        """What C takes for arrays, with arrays of its own: a pointer, or structs of pointers."""
        if isinstance(given, (list, tuple)):
            return type(given)(map(self.copy, given))
        array = np.empty(len(given), self._dtype)
        self._ffi.memmove(at := self.at(array), given, array.nbytes)
        return at
