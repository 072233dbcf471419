"""Parameters and moments as one array each, which a compiled network trains in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Array

if TYPE_CHECKING:
    from .network import NativeNetwork


class TrainingArrays:
    """Parameters and moments in one piece each: as they lie, or copied there and back."""

    def __init__(
        self, module: NativeNetwork, params: Mapping[str, Any], moments: dict[str, Any]
    ) -> None:
        self._module, self._moments = module, moments
        _, self._D, _ = module._bound(params)
        learned = sum(int(np.size(params[name])) for name in module._learned)
        whole = sum(int(np.size(params[name])) for name in module._blocks)
        kinds = [[moments[f"{n}.{k}"] for n in module._learned] for k in module._moments]
        self._back: list[tuple[Array, Array]] = []
        blocks = [
            self._flat([params[name] for name in module._blocks], whole),
            self._flat([a for kind in kinds for a in [*kind, whole - learned]], whole * len(kinds)),
        ]
        self._kept = blocks
        self.struct = module._ffi.new(f"{module.CELL}_training *")
        self.struct.params, self.struct.moments = map(module._memory.at, blocks)
        self.is_copy = bool(self._back)

    def _flat(self, arrays: list[Any], count: int) -> Array:
        """Arrays as one: the memory behind them if they lie like that already. A number among them
        is how many others are between.
        """
        dtype = self._module.dtype
        given = [a for a in arrays if isinstance(a, np.ndarray)]
        base: Any = given[0].base if given else None
        is_one = isinstance(base, np.ndarray) and base.ndim == 1 and base.dtype == dtype
        flat: Array = base if is_one and len(base) >= count else np.zeros(count, dtype)
        start, at = flat.__array_interface__["data"][0], 0
        pairs = []
        for a in arrays:
            if not isinstance(a, np.ndarray):
                at += a
                continue
            here = a.__array_interface__["data"][0] == start + at * dtype.itemsize
            if not (here and a.dtype == dtype and a.flags.c_contiguous):
                pairs.append((a, at))
            at += a.size
        if pairs and flat is base:  # not all of them lie there
            flat, pairs = self._apart(arrays, count)
        for a, at in pairs:
            part = flat[at : at + a.size].reshape(a.shape)
            part[...] = a
            self._back.append((a, part))
        return flat

    def _apart(self, arrays: list[Any], count: int) -> tuple[Array, list[tuple[Any, int]]]:
        """Memory of its own for all of them, and where each goes."""
        pairs, at = [], 0
        for a in arrays:
            if isinstance(a, np.ndarray):
                pairs.append((a, at))
            at += int(np.size(a)) if isinstance(a, np.ndarray) else a
        return np.zeros(count, self._module.dtype), pairs

    def __enter__(self) -> tuple[TrainingArrays, int | None]:
        self.struct.updates = int(self._moments["updates"])
        return self, self._D

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            for array, part in self._back:
                array[...] = part
            self._moments["updates"] = int(self.struct.updates)
