"""What follows from the sizes of a call: their struct, the shapes of arrays, what C needs.

A forked process has none of the threads that OpenMP keeps, and would wait for them for ever: there
one thread does what several did before, with the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakSet

from ..errors import LstmgenError
from ..language.cell import Cell

Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes, quicker to walk than a dict
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


def mind_forks(struct: Any, threads: int) -> None:
    """Have one thread do all work in a process that was forked, or will be, whatever sizes say."""
    struct.serial = int(_is_forked)
    if threads > 1:
        _threaded.add(struct)


class Room(NamedTuple):
    """What follows from the sizes: their struct, the shapes of arrays, and how much C needs."""

    struct: Any
    sizes: dict[str, int]
    outputs: Shapes
    of_a_step: Shapes  # the outputs
    inputs: Shapes
    states: Shapes
    learned: Shapes
    # numbers in the buffers that callers provide
    tape: int
    packed: int
    forward_work: int
    backward_work: int
    step_work: int


class Rooms:
    """The rooms of one module's code. Each is made once, and kept.

    Attributes
    ----------
    names : tuple of str
        The sizes that a call has to settle: T, B and those of the cell.
    numbers : dict
        Axes that are numbers, by their text.
    outputs : dict
        The axes of each output.
    """

    def __init__(
        self, ffi: Any, lib: Any, cell: Cell, interface: Any, fixed: Mapping[str, int], threads: int
    ) -> None:
        self._ffi, self._lib, self._interface = ffi, lib, interface
        self._fixed, self._threads = dict(fixed), threads
        self._learned = {p.name: interface.PARAMETERS[p.name] for p in cell.learned}
        self._whole = getattr(interface, "_whole", None)  # of sizes that are made of others
        self.outputs = {v.name: tuple(str(n) for n in cell.shape(v)) for v in cell.outputs}
        self.names = ("T", "B", *(str(n) for n in cell.sizes))
        self.numbers: dict[str, int] = interface.NUMBERS
        self._of = lru_cache(maxsize=128)(self._make)

    def of(self, sizes: Mapping[str, int]) -> Room:
        """The room for ``sizes``.

        Raises
        ------
        ValueError
            If a size is not known, or is not the one that the code was made for.
        LstmgenError
            If arrays of these sizes are too large.
        """
        try:
            return self._of(tuple([sizes[name] for name in self.names]))
        except KeyError as error:
            if error.args[0] in self._fixed:
                return self.of(self._fixed | dict(sizes))
            raise ValueError(
                f"the size {error.args[0]} is not known from params and x: give the state"
            ) from None

    def of_parameters(self, sizes: Mapping[str, int]) -> Room:
        """The same where sizes that the parameters do not tell do not matter."""
        return self.of({name: sizes.get(name, 1) for name in self.names} | {"T": 1, "B": 1})

    def complete(self, sizes: dict[str, int]) -> None:
        """Settle the sizes that follow from others, such as P from N*P."""
        if self._whole:
            self._whole(sizes)

    def settles(self, sizes: Mapping[str, int]) -> bool:
        """Whether ``sizes`` has all that a room needs."""
        return all(n in sizes for n in self.names)

    def _make(self, numbers: tuple[int, ...]) -> Room:
        sizes, f = dict(zip(self.names, numbers, strict=True)), self._interface
        for name, n in self._fixed.items():
            if sizes[name] != n:
                raise ValueError(f"this module was made for {name}={n}, not {name}={sizes[name]}")
        struct = self._ffi.new(f"{f.CELL}_sizes *", [*numbers, self._threads])
        mind_forks(struct, self._threads)
        counts = {what: self._count(what, struct) for what in _BUFFERS}
        if not all(counts.values()) and sizes["T"] and sizes["B"]:
            raise LstmgenError(f"{f.CELL}: arrays of these sizes are too large: {sizes}")
        known = sizes | self.numbers
        self.complete(known)

        def shapes(lead: tuple[str, ...], table: Mapping[str, Any]) -> Shapes:
            return tuple(
                (k, tuple(known[n] for n in (*lead, *shape))) for k, shape in table.items()
            )

        return Room(
            struct, known, shapes(("T", "B"), self.outputs), shapes(("B",), self.outputs),
            shapes(("T", "B"), f.INPUTS), shapes(("B",), f.STATES),
            shapes((), self._learned), **counts,
        )  # fmt: skip

    def _count(self, what: str, struct: Any) -> int:
        """The numbers of a buffer; 0 where sizes are too large, or there is nothing to do."""
        return int(getattr(self._lib, f"{self._interface.CELL}_{what}_size")(struct))
