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
    from .analysis.flow import Flow, flow
    from .derivation.forward import Tangents
    from .derivation.modes import derive
    from .derivation.online import online
    from .derivation.reverse import Derivation
    from .derivation.tangent import tangent
    from .derivation.watched import watched
    from .errors import CellError, GenerateError, LstmgenError, ToolchainError
    from .language.cell import Cell
    from .language.composed import elu, gelu, layer_norm, leaky_relu, log_sigmoid, silu, softmax
    from .language.declarations import (
        biases,
        chunk,
        concat,
        constants,
        expand,
        flatten,
        inputs,
        masks,
        matrix,
        outer,
        repeat,
        split,
        states,
        vector,
        vectors,
        weights,
    )
    from .language.functions import expm1, relu, rsqrt, sigmoid, softplus, step, stop_gradient, tanh
    from .language.sizes import Size
    from .language.symbols import cumsum, max_, mean, named, sum_
    from .network import schedules
    from .network.layers import Dropout, Embedding, Layer, Readout
    from .network.losses import Loss
    from .network.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
    from .network.plans import NetworkPlan, plan
    from .network.schedules import Schedule
    from .notation.reading import read_cell
    from .notation.writing import write_cell
    from .planning.plans import Plan
    from .runtime.loading import load_cell
    from .runtime.toolchain import compile
    from .targets import generate
    from .training.network import Network
    from .training.state import Training
    from .verification.checking import check
    from .verification.report import Report

_HOME = {
    "Cell": "language.cell",
    "CellError": "errors",
    "Derivation": "derivation.reverse",
    "Tangents": "derivation.forward",
    "GenerateError": "errors",
    "LstmgenError": "errors",
    "Plan": "planning.plans",
    "Report": "verification.report",
    "ToolchainError": "errors",
    "check": "verification.checking",
    "compile": "runtime.toolchain",
    "derive": "derivation.modes",
    "flow": "analysis.flow",
    "Flow": "analysis.flow",
    "generate": "targets",
    "load_cell": "runtime.loading",
    "Loss": "network.losses",
    "Network": "training.network",
    "NetworkPlan": "network.plans",
    "Schedule": "network.schedules",
    "Training": "training.state",
    "online": "derivation.online",
    "plan": "network.plans",
    "read_cell": "notation.reading",
    "tangent": "derivation.tangent",
    "watched": "derivation.watched",
    "write_cell": "notation.writing",
}
for _module, _names in {
    "declarations": "biases chunk concat constants expand flatten inputs masks matrix outer repeat "
    "split states vector vectors weights",
    "sizes": "Size",
    "symbols": "cumsum max_ mean named sum_",
    "functions": "expm1 relu rsqrt sigmoid softplus step stop_gradient tanh",
    "composed": "elu gelu layer_norm leaky_relu log_sigmoid silu softmax",
}.items():
    _HOME |= dict.fromkeys(_names.split(), f"language.{_module}")
_HOME |= dict.fromkeys(("Dropout", "Embedding", "Layer", "Readout"), "network.layers")
_HOME |= dict.fromkeys(("Adam", "AdamW", "Optimizer", "RMSprop", "SGD"), "network.optimizers")

_MODULES = {"cells": "cells", "monitor": "monitor", "schedules": "network.schedules"}

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Cell",
    "CellError",
    "Derivation",
    "Dropout",
    "Embedding",
    "Flow",
    "GenerateError",
    "Layer",
    "Loss",
    "LstmgenError",
    "Network",
    "NetworkPlan",
    "Optimizer",
    "Plan",
    "RMSprop",
    "Readout",
    "Report",
    "Schedule",
    "Size",
    "Tangents",
    "ToolchainError",
    "Training",
    "biases",
    "cells",
    "check",
    "chunk",
    "compile",
    "concat",
    "constants",
    "cumsum",
    "derive",
    "elu",
    "expand",
    "expm1",
    "flatten",
    "flow",
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
    "online",
    "outer",
    "plan",
    "read_cell",
    "relu",
    "repeat",
    "rsqrt",
    "schedules",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "split",
    "states",
    "step",
    "stop_gradient",
    "sum_",
    "tangent",
    "tanh",
    "vector",
    "vectors",
    "watched",
    "weights",
    "write_cell",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
