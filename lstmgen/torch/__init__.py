"""Cells in PyTorch: modules over generated C, conversion from and to PyTorch's own layers.

Needs the extra ``lstmgen[torch]``.
"""

from __future__ import annotations

from ..errors import ToolchainError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ToolchainError(
        "lstmgen.torch needs PyTorch, which is not installed\n  hint: pip install 'lstmgen[torch]'"
    ) from error

from .conversion import convert, from_torch, to_torch
from .kernels import register
from .monitoring import monitor
from .network import NetworkModule, register_network
from .recurrent import Recurrent
from .single import RecurrentCell

__all__ = [
    "NetworkModule",
    "Recurrent",
    "RecurrentCell",
    "convert",
    "from_torch",
    "monitor",
    "register",
    "register_network",
    "to_torch",
]
