"""lstmgen: recurrent cells from their equations to verified NumPy, C and LaTeX.

Everything public is importable from here. Names are loaded when they are first used, so that the
command line answers at once and only what derives anything imports SymPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import cells
    from .derivation.reverse import Derivation, derive
    from .errors import CellError, GenerateError, LstmgenError, ToolchainError
    from .language.cell import Cell
    from .language.composed import elu, gelu, layer_norm, leaky_relu, log_sigmoid, silu, softmax
    from .language.functions import expm1, relu, rsqrt, sigmoid, softplus, step, stop_gradient, tanh
    from .language.symbols import (
        biases,
        constants,
        cumsum,
        inputs,
        masks,
        matrix,
        max_,
        mean,
        named,
        states,
        sum_,
        vector,
        vectors,
        weights,
    )
    from .planning.plans import Plan
    from .planning.schedule import plan
    from .runtime.loading import load_cell
    from .runtime.toolchain import compile
    from .targets import generate
    from .verification.checking import check
    from .verification.report import Report

_HOME = {
    "Cell": "language.cell",
    "CellError": "errors",
    "Derivation": "derivation.reverse",
    "GenerateError": "errors",
    "LstmgenError": "errors",
    "Plan": "planning.plans",
    "Report": "verification.report",
    "ToolchainError": "errors",
    "check": "verification.checking",
    "compile": "runtime.toolchain",
    "derive": "derivation.reverse",
    "generate": "targets",
    "load_cell": "runtime.loading",
    "plan": "planning.schedule",
}
for _module, _names in {
    "symbols": "biases constants cumsum inputs masks matrix max_ mean named states sum_ vector "
    "vectors weights",
    "functions": "expm1 relu rsqrt sigmoid softplus step stop_gradient tanh",
    "composed": "elu gelu layer_norm leaky_relu log_sigmoid silu softmax",
}.items():
    _HOME |= dict.fromkeys(_names.split(), f"language.{_module}")

__all__ = [
    "Cell",
    "CellError",
    "Derivation",
    "GenerateError",
    "LstmgenError",
    "Plan",
    "Report",
    "ToolchainError",
    "biases",
    "cells",
    "check",
    "compile",
    "constants",
    "cumsum",
    "derive",
    "elu",
    "expm1",
    "gelu",
    "generate",
    "inputs",
    "layer_norm",
    "leaky_relu",
    "load_cell",
    "log_sigmoid",
    "masks",
    "matrix",
    "max_",
    "mean",
    "named",
    "plan",
    "relu",
    "rsqrt",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "states",
    "step",
    "stop_gradient",
    "sum_",
    "tanh",
    "vector",
    "vectors",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "cells":
        return importlib.import_module(".cells", __name__)
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
