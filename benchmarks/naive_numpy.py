"""The LSTM in NumPy as it is mostly written, and the matrix products that it cannot do without."""

from __future__ import annotations

from typing import Any

import numpy as np

from lstmgen.benchmark.contenders import Contender, Prepared
from lstmgen.benchmark.problem import INFERENCE, STEP, TRAINING, Problem, Values
from lstmgen.conventions import reference_of

_GATES = "ifgo"


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def forward(x: Any, h: Any, c: Any, W: Any, U: Any, b: Any) -> Any:
    """All outputs, the final state, and what backward needs."""
    hidden = h.shape[1]
    ys, cache = [], []
    for x_t in x:
        gates = x_t @ W.T + h @ U.T + b
        i = sigmoid(gates[:, :hidden])
        f = sigmoid(gates[:, hidden : 2 * hidden])
        g = np.tanh(gates[:, 2 * hidden : 3 * hidden])
        o = sigmoid(gates[:, 3 * hidden :])
        c_next = f * c + i * g
        tanh_c = np.tanh(c_next)
        cache.append((x_t, h, c, i, f, g, o, tanh_c))
        h, c = o * tanh_c, c_next
        ys.append(h)
    return np.stack(ys), h, c, cache


def backward(dy: Any, cache: Any, W: Any, U: Any, b: Any) -> Any:
    dW, dU, db = np.zeros_like(W), np.zeros_like(U), np.zeros_like(b)
    dx = []
    dh_next = dc_next = np.zeros_like(dy[0])
    for dy_t, (x_t, h, c, i, f, g, o, tanh_c) in zip(dy[::-1], cache[::-1], strict=True):
        dh = dy_t + dh_next
        dc = dc_next + dh * o * (1 - tanh_c**2)
        d_gates = np.concatenate(
            [
                dc * g * i * (1 - i),
                dc * c * f * (1 - f),
                dc * i * (1 - g**2),
                dh * tanh_c * o * (1 - o),
            ],
            axis=1,
        )
        dW += d_gates.T @ x_t
        dU += d_gates.T @ h
        db += d_gates.sum(axis=0)
        dx.append(d_gates @ W)
        dh_next = d_gates @ U
        dc_next = dc * f
    return dW, dU, db, np.stack(dx[::-1]), dh_next, dc_next


def _stacked(problem: Problem) -> tuple[Any, Any, Any]:
    W, U, b = (
        np.concatenate([problem.params[f"{family}_{gate}"] for gate in _GATES]) for family in "WUb"
    )
    return W, U, b


class NaiveNumpy(Contender):
    key, name = "numpy-naive", "NumPy by hand"

    def fits(self, problem: Problem) -> bool:
        return reference_of(problem.cell, ["lstm"]) is not None

    def prepare(self, problem: Problem) -> Prepared:
        p = problem
        W, U, b = _stacked(p)
        (x,) = p.inputs.values()
        h, c = p.state["h"], p.state["c"]

        def run() -> Any:
            y, *final, cache = forward(x, h, c, W, U, b)
            gradients = backward(p.dy, cache, W, U, b) if p.work == TRAINING else ()
            return y, final, gradients

        def values(found: Any) -> Values:
            y, final, gradients = found
            by_name: dict[str, Any] = {}
            for family, stacked in zip("WUb", gradients, strict=False):
                parts = np.split(stacked, len(_GATES))
                by_name |= {f"{family}_{n}": a for n, a in zip(_GATES, parts, strict=True)}
            dx, *initial = gradients[3:] or (None,)
            return p.results(
                y,
                dict(zip("hc", final, strict=True)),
                by_name,
                {"x": dx},
                dict(zip("hc", initial, strict=False)),
            )

        return Prepared(run, values)


class MatmulsAlone(Contender):
    """The products of an LSTM in their best arrangement, and nothing else: no NumPy code that
    multiplies with ``matmul`` can be faster.
    """

    key, name, checked = "matmuls", "its products alone", False

    def fits(self, problem: Problem) -> bool:
        return reference_of(problem.cell, ["lstm"]) is not None and problem.work != STEP

    def prepare(self, problem: Problem) -> Prepared:
        W, U, _ = _stacked(problem)
        (x,) = problem.inputs.values()
        h = problem.state["h"]
        steps, rows, width = len(x), len(h), len(W)
        flat = np.ascontiguousarray(x).reshape(steps * rows, -1)
        gates = np.empty((steps * rows, width), x.dtype)
        one, back = np.empty((rows, width), x.dtype), np.empty_like(h)
        hs = np.repeat(h, steps, axis=0)
        W_T, U_T = np.ascontiguousarray(W.T), np.ascontiguousarray(U.T)
        dx, dW, dU = np.empty_like(flat), np.empty_like(W), np.empty_like(U)

        def inference() -> None:
            np.matmul(flat, W_T, out=gates)
            for _ in range(steps):
                np.matmul(h, U_T, out=one)

        def training() -> None:
            inference()
            for _ in range(steps):
                np.matmul(one, U, out=back)
            np.matmul(gates, W, out=dx)
            np.matmul(gates.T, flat, out=dW)
            np.matmul(gates.T, hs, out=dU)

        return Prepared(inference if problem.work == INFERENCE else training, lambda _: {})
