"""What callers of a compiled network hold: tapes, packed parameters, and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .memory import Buffer

if TYPE_CHECKING:
    from .network import NativeNetwork


class NetworkTape:
    """What ``forward`` keeps for ``backward``. ``x`` is not copied: leave it as it is."""

    def __init__(self, memory: Buffer, call: Batch, module: NativeNetwork) -> None:
        self.memory, self.call, self.module = memory, call, module
        self.is_used = False

    def __del__(self) -> None:
        try:
            self.module._memory.give_back_tape(self.memory)
        except Exception:  # half made, or at the end of the interpreter: nobody wants the memory
            return

    def __copy__(self) -> NetworkTape:
        return self  # memory of two tapes would go back twice

    __deepcopy__: Any = None

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a tape of {self.module!r} is memory of this process, and cannot be pickled: run "
            "forward where backward is to run"
        )


class Batch:
    """The batch of one call, as C takes it, and the arrays behind it.

    C wants one step at least. Sequences that have none are of one step for it, and end before.
    """

    def __init__(self, sizes: Any, batch: Any, T: int, B: int, D: int | None, kept: Any) -> None:
        self.sizes, self.batch, self.T, self.B, self.D, self.kept = sizes, batch, T, B, D, kept
        self.steps = max(1, T)


class PackedNetwork(dict[str, Any]):
    """Parameters, arranged once for many calls. A copy that does not change."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("packed parameters do not change: pack others instead")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # copies are parameters like any others

    def __init__(self, params: Mapping[str, Any], module: NativeNetwork, bound: Any) -> None:
        super().__init__(params)
        self.module, self.bound = module, bound
