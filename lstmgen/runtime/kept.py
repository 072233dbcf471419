"""What callers keep from one call of compiled C to the next: packed parameters, and tapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .memory import Buffer
    from .native import NativeModule
    from .rooms import Room


class Packed(dict[str, Any]):
    """Parameters, and what C made of them: ``forward`` and ``step`` need not pack them any more.

    A copy: its arrays cannot be written, and later changes of the originals are not seen. To
    another module than the one that packed them, they are parameters like any others.
    """

    def __init__(self, params: Mapping[str, Any], module: Any, bound: Any) -> None:
        super().__init__(params)
        self.module, self.bound = module, bound

    def _refuse(self, *args: Any, **more: Any) -> NoReturn:
        raise TypeError("packed parameters do not change: pack others instead")

    _refused: Any = _refuse
    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refused

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # copies are parameters like any others


class Kept:
    """Memory of a module of which callers have a tape.

    It goes back to its module when the tape is gone: to touch fresh memory for the first time can
    cost as much as a fifth of a forward pass over a large layer. A tape cannot be pickled.
    """

    __slots__ = ("memory", "module")

    def __init__(self, memory: Buffer | None, module: Any) -> None:
        self.memory, self.module = memory, module

    def __del__(self) -> None:
        try:
            if self.memory is not None:
                self.module._memory.give_back_tape(self.memory)
        except Exception:  # half made, or at the end of the interpreter: nobody wants the memory
            return

    def __copy__(self) -> Any:
        return self  # memory of two tapes would go back twice

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a tape of {self.module!r} is memory of this process, and cannot be pickled: run "
            "forward where backward is to run"
        )


class Tape(Kept):
    """What ``forward`` keeps for ``backward``. ``x`` is not copied: leave it as it is. A deep copy
    has an ``x`` of its own.
    """

    __slots__ = ("inputs", "room")

    def __init__(
        self, memory: Buffer | None, inputs: tuple[Any, ...], room: Room, module: NativeModule
    ) -> None:
        super().__init__(memory, module)
        self.inputs, self.room = inputs, room

    def __deepcopy__(self, memo: Any) -> Tape:
        home, memory = self.module._memory, self.memory
        if memory is not None:
            memory = home.copy_of_tape(memory, self.room.tape)
        return Tape(memory, home.copy(self.inputs), self.room, self.module)
