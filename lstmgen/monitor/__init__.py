"""Gates, saturation and gradients while training, for TensorBoard; see docs/tensorboard.md."""

from __future__ import annotations

from .module import WatchedModule
from .training import Monitor, watched_network
from .writing import open_writer, write

__all__ = ["Monitor", "WatchedModule", "open_writer", "watched_network", "write"]
