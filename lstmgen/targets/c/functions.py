"""The functions on vecs that stages may call, and what a source needs for those that it calls.

They are static functions of the source, each written only where it is used. What the C library
computes is called lane by lane, but for the few that have vector code of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy

from ...language.functions import equal, expm1, relu, sigmoid, softplus, step
from .tree import Literal, Statement, calls_in, walk

LIBM = {
    sympy.exp: "exp", sympy.log: "log", sympy.sin: "sin", sympy.cos: "cos", sympy.tan: "tan",
    sympy.asin: "asin", sympy.acos: "acos", sympy.atan: "atan", sympy.sinh: "sinh",
    sympy.cosh: "cosh", sympy.tanh: "tanh", sympy.asinh: "asinh", sympy.acosh: "acosh",
    sympy.atanh: "atanh", sympy.erf: "erf", sympy.Abs: "fabs", sympy.floor: "floor",
    sympy.ceiling: "ceil", expm1: "expm1",
}  # fmt: skip
HELPERS = {
    sigmoid: "sigmoid", softplus: "softplus", relu: "relu", step: "positive",
    sympy.sign: "sign", sympy.Heaviside: "heaviside", equal: "equals", sympy.Max: "larger",
    sympy.Min: "smaller",
}  # fmt: skip
POWERS = {2: "square", 3: "cube"}
ON_VECTORS = {"exp": "vec_exp", "expm1": "vec_expm1", "tanh": "vec_tanh"}
LANEWISE = {f: f"each_{f}" for f in (*LIBM.values(), "sqrt", "pow") if f not in ON_VECTORS}
SINGLE = {f: f"one_{f}" for f in (*LANEWISE, "rsqrt")}  # where all lanes are the same
_REDUCTIONS = ("within", "across", "across_max", "running", "running_back")

_REALS = (*LIBM.values(), "sqrt", "pow", "log1p", "fmax", "fmin")
# Functions of the C library: no local variable has the name of one.
LIBRARY = {*_REALS, *(f"{f}f" for f in _REALS), "memcpy", "memset", "memcmp"}
# What templates write for each function of the C library that is called.
MADE = {*LANEWISE.values(), *SINGLE.values()}


def needs(statements: Iterable[Statement]) -> dict[str, Any]:
    """Which functions and headers the bodies of stages need: there are no others."""
    statements = tuple(statements)
    called = calls_in(statements)
    helpers = called & {*HELPERS.values(), *POWERS.values(), *ON_VECTORS.values(), *_REDUCTIONS}
    each = [f for f, name in LANEWISE.items() if name in called]
    ones = [f for f, name in SINGLE.items() if name in called]
    limits = {x.text for x in walk(statements, Literal)} & {"INFINITY", "NAN"}
    exponentials = helpers & {"sigmoid", *ON_VECTORS.values()}
    return {
        "helpers": helpers,
        "each": each,
        "ones": ones,
        "exponentials": exponentials,
        "uses_math": bool(each or ones or limits or exponentials or helpers & {"softplus"}),
    }
