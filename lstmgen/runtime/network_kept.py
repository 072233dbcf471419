"""What callers of a compiled network hold: tapes, and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .kept import Kept
from .memory import Buffer

if TYPE_CHECKING:
    from .network import NativeNetwork


class NetworkTape(Kept):
    """What ``forward`` keeps for ``backward``. ``x`` is not copied: leave it as it is. It cannot be
    copied deeply.
    """

    memory: Any  # a Buffer; None where it has become somebody else's

    def __init__(self, memory: Buffer, call: Batch, module: NativeNetwork) -> None:
        super().__init__(memory, module)
        self.call, self.is_used = call, False

    __deepcopy__: Any = None


class Batch:
    """The batch of one call, as C takes it, and the arrays behind it.

    C wants one step at least. Sequences that have none are of one step for it, and end before.
    """

    def __init__(self, sizes: Any, batch: Any, T: int, B: int, D: int | None, kept: Any) -> None:
        self.sizes, self.batch, self.T, self.B, self.D, self.kept = sizes, batch, T, B, D, kept
        self.steps = max(1, T)
