"""One streaming step in C: the loops that embedded projects ship today, and what a step costs when
C calls it rather than Python.

keras2c (and others like it) multiply with three plain loops, one gate after another. That is
written here anew, in its manner, and compiled as our own code is: -O3, for this very processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lstmgen.benchmark.contenders import Contender, Prepared, library
from lstmgen.benchmark.problem import STEP, Problem, Values
from lstmgen.conventions import reference_of
from lstmgen.runtime import toolchain

_LOOPS = 256  # steps a call, where C calls

_PLAIN = r"""
#include <math.h>
#include <stddef.h>

static void affine(float *out, const float *x, const float *kernel, const float *bias, size_t inner,
    size_t columns)
{
    for (size_t j = 0; j < columns; ++j) {
        float sum = bias ? bias[j] : 0.0f;
        for (size_t k = 0; k < inner; ++k) {
            sum += x[k] * kernel[k * columns + j];
        }
        out[j] = sum;
    }
}

static void sigmoid(float *x, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        x[i] = 1.0f / (1.0f + expf(-x[i]));
    }
}

/* kernel is (4, D, H), recurrent (4, H, H), bias (4, H), gates i f g o; work has 8 H numbers. */
void plain_step(size_t D, size_t H, const float *kernel, const float *recurrent, const float *bias,
    const float *x, float *h, float *c, float *work)
{
    for (size_t gate = 0; gate < 4; ++gate) {
        float *a = work + gate * H, *u = work + (4 + gate) * H;
        affine(a, x, kernel + gate * D * H, bias + gate * H, D, H);
        affine(u, h, recurrent + gate * H * H, NULL, H, H);
        for (size_t i = 0; i < H; ++i) {
            a[i] += u[i];
        }
    }
    float *i_ = work, *f = work + H, *g = work + 2 * H, *o = work + 3 * H;
    sigmoid(i_, H);
    sigmoid(f, H);
    sigmoid(o, H);
    for (size_t i = 0; i < H; ++i) {
        c[i] = f[i] * c[i] + i_[i] * tanhf(g[i]);
        h[i] = o[i] * tanhf(c[i]);
    }
}

void plain_steps(size_t count, size_t D, size_t H, const float *kernel, const float *recurrent,
    const float *bias, const float *x, float *h, float *c, float *work)
{
    while (count--) {
        plain_step(D, H, kernel, recurrent, bias, x, h, c, work);
    }
}
"""

_PLAIN_DECLARATIONS = """
void plain_step(size_t D, size_t H, const float *kernel, const float *recurrent, const float *bias,
    const float *x, float *h, float *c, float *work);
void plain_steps(size_t count, size_t D, size_t H, const float *kernel, const float *recurrent,
    const float *bias, const float *x, float *h, float *c, float *work);
"""

# A generated step takes pointers only and returns an enum: one loop serves every cell.
_DRIVER = """
#include <stddef.h>
typedef int (*step)(const void *, const void *, const void *, const void *, void *, const void *,
    void *);
int call_steps(size_t count, void *f, const void *n, const void *p, const void *x,
    const void *state, void *y, const void *next, void *work)
{
    int status = 0;
    while (count-- && status == 0) {
        status = ((step)f)(n, p, x, state, y, next, work);
    }
    return status;
}
"""

_DRIVER_DECLARATIONS = """
int call_steps(size_t count, void *f, const void *n, const void *p, const void *x,
    const void *state, void *y, const void *next, void *work);
"""


class PlainC(Contender):
    """``looped``: C calls; else Python does, through cffi, with all pointers ready."""

    library = "cffi"

    def __init__(self, *, looped: bool = False) -> None:
        self.looped = looped
        self.key = "plain-c-loop" if looped else "plain-c"
        self.name = "plain C loops, from C" if looped else "plain C loops, from Python"

    def fits(self, problem: Problem) -> bool:
        return (
            problem.work == STEP
            and problem.sizes["B"] == 1
            and problem.dtype == "float32"
            and reference_of(problem.cell, ["lstm"]) is not None
        )

    def prepare(self, problem: Problem) -> Prepared:
        ffi = library("cffi").FFI()
        ffi.cdef(_PLAIN_DECLARATIONS)
        lib = ffi.dlopen(str(toolchain.build({"plain.c": _PLAIN})))  # with the flags of ours
        sizes, params = problem.sizes, problem.params

        def gates(family: str, turn: bool) -> Any:
            arrays = [params[f"{family}_{gate}"] for gate in "ifgo"]
            return np.ascontiguousarray([a.T if turn else a for a in arrays])

        weights = gates("W", True), gates("U", True), gates("b", False)
        (x,) = (np.ascontiguousarray(a[0]) for a in problem.inputs.values())
        h, c = (problem.state[n].copy() for n in "hc")
        work = np.empty(8 * sizes["H"], np.float32)
        arrays = (*weights, x, h, c, work)
        pointers = [ffi.from_buffer("float[]", a) for a in arrays]
        given = (sizes["D"], sizes["H"], *pointers)

        def once(_: Any) -> Values:
            h[:], c[:] = problem.state["h"], problem.state["c"]
            lib.plain_step(*given)
            return problem.results(h[None], {"h": h.copy(), "c": c.copy()})

        if self.looped:
            return Prepared(_keeping(lib.plain_steps, (_LOOPS, *given), lib), once, _LOOPS)
        return Prepared(_keeping(lib.plain_step, given, lib), once)


class GeneratedFromC(Contender):
    """Our generated step, called by C in a loop: what a program on a device pays.

    ``fixed``: with the cell's sizes as compile-time constants, as on most devices.
    """

    library = "cffi"

    def __init__(self, *, fixed: bool = False) -> None:
        self.fixed = fixed
        self.key = "c-loop-fixed" if fixed else "c-loop"
        self.name = "lstmgen C, from C, sizes fixed" if fixed else "lstmgen C, from C"

    def fits(self, problem: Problem) -> bool:
        return problem.work == STEP and len(problem.inputs) == 1 and not problem.masks

    def prepare(self, problem: Problem) -> Prepared:
        names = [str(n) for n in problem.cell.sizes if self.fixed]
        sizes = {name: problem.sizes[name] for name in names}
        module = toolchain.compile(problem.cell, "c", dtype=problem.dtype, **sizes)
        ffi = library("cffi").FFI()
        ffi.cdef(_DRIVER_DECLARATIONS)
        lib = ffi.dlopen(str(toolchain.build({"driver.c": _DRIVER})))
        function, arguments, states, keep = step_arguments(module, problem)

        def address(pointer: Any) -> Any:
            return ffi.cast("void *", int(module._ffi.cast("size_t", pointer)))

        given = [address(p) for p in (function, *arguments)]

        def once(_: Any) -> Values:
            for name, array in states.items():
                array[:] = problem.state[name]
            status = lib.call_steps(1, *given)
            assert status == 0, f"the step returned {status}"
            final = {name: array.copy() for name, array in states.items()}
            return problem.results(keep["y"][None], final)

        alive = (lib, module, arguments, keep)  # addresses alone keep nothing
        return Prepared(_keeping(lib.call_steps, (_LOOPS, *given), alive), once, _LOOPS)


def _keeping(function: Any, arguments: tuple[Any, ...], alive: object) -> Callable[[], object]:
    """A call that keeps what C reads alive for as long as it is itself."""

    def call() -> object:
        return function(*arguments)

    call.alive = alive  # type: ignore[attr-defined]
    return call


def step_arguments(
    module: Any, problem: Problem
) -> tuple[Any, list[Any], Mapping[str, Any], Mapping[str, Any]]:
    """The C function ``<cell>_step`` of a compiled module, what to call it with, the states that it
    updates in place, and what must be kept alive. The only place that knows its C interface.
    """
    ffi, cell = module._ffi, problem.cell
    array = "float[]" if problem.dtype == "float32" else "double[]"

    def at(values: Any) -> Any:
        return ffi.from_buffer(array, values)

    sizes = ffi.new(f"{cell.name}_sizes *", {**problem.sizes, "T": 1})
    params = ffi.new(
        f"{cell.name}_params *",
        {n: at(a) if np.ndim(a) else float(a) for n, a in problem.params.items()},
    )
    size = getattr(module._lib, f"{cell.name}_packed_size")(sizes)
    # as in a program, whose arrays begin where a cache line does
    packed = _aligned(int(size), problem.dtype)
    status = getattr(module._lib, f"{cell.name}_pack")(sizes, params, at(packed))
    assert status == 0, f"packing returned {status}"
    params.packed = at(packed)
    states = {name: a.copy() for name, a in problem.state.items()}
    before = ffi.new(f"{cell.name}_state *", {n: at(a) for n, a in states.items()})
    after = ffi.new(f"{cell.name}_new_state *", {n: at(a) for n, a in states.items()})
    (x,) = (np.ascontiguousarray(a[0]) for a in problem.inputs.values())
    y = np.empty(problem.reference["y"].shape[1:] if "y" in problem.reference
                 else states[cell.output.name].shape, problem.dtype)  # fmt: skip
    count = getattr(module._lib, f"{cell.name}_step_work_size")(sizes)
    work = _aligned(int(count), problem.dtype)
    keep = {"sizes": sizes, "params": params, "before": before, "after": after, "x": x, "y": y,
            "packed": packed, "work": work, "arrays": problem.params, "states": states}  # fmt: skip
    function = getattr(module._lib, f"{cell.name}_step")
    arguments = [sizes, params, at(x), before, at(y), after, at(work)]
    return function, arguments, states, keep


def _aligned(count: int, dtype: str) -> Any:
    """An empty array that begins at a multiple of 64 bytes."""
    item = np.dtype(dtype).itemsize
    raw = np.empty(count * item + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * item].view(dtype)
