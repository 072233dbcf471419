"""The functions on vecs that stages may call, by what they are in SymPy.

All are functions of the runtime. What the C library computes is called lane by lane, but for the
few that have vector code of their own.
"""

from __future__ import annotations

import sympy

from ...language.functions import equal, expm1, relu, sigmoid, softplus, step

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
ON_VECTORS = frozenset({"exp", "expm1", "tanh"})
LANEWISE = {f: f"each_{f}" for f in (*LIBM.values(), "sqrt", "pow") if f not in ON_VECTORS}
SINGLE = {f: f"one_{f}" for f in (*LANEWISE, "rsqrt")}  # where all lanes are the same

_REALS = (*LIBM.values(), "sqrt", "pow", "log1p", "fmax", "fmin")
# Functions of the C library: no local variable has the name of one.
LIBRARY = {*_REALS, *(f"{f}f" for f in _REALS), "memcpy", "memset", "memcmp"}
