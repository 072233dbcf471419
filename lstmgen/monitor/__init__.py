"""Gates, saturation and gradients while training, for TensorBoard; see docs/tensorboard.md."""

from __future__ import annotations

from .module import WatchedModule
from .training import Monitor
from .writing import open_writer, write

__all__ = ["Monitor", "WatchedModule", "open_writer", "write"]
