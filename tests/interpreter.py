"""A derivation as a module: its equations run as they stand, without plan, templates or text.

It has the interface of a generated module, so that ``check`` can judge a derivation, and any that
is broken on purpose, before a target prints it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from sympy import Eq

from lstmgen import Cell, derive
from lstmgen.derivation.reverse import Derivation, carry, cotangent, gathered, reverse
from lstmgen.language.matrices import as_matrix
from lstmgen.language.symbols import Outer, Total, Vector
from lstmgen.verification.arithmetic import widened
from lstmgen.verification.evaluation import Walk, number
from lstmgen.verification.running import snapshot


class Interpreter:
    """Runs a derivation. Arrays are (1, B, size) inside, for the walker that it borrows."""

    def __init__(self, derivation: Derivation, dtype: str = "float64") -> None:
        self.derivation, self.cell, self.dtype = derivation, derivation.cell, np.dtype(dtype)
        # What every step asks for: symbolic shapes, and the sums over all rows in an equation.
        self._shapes = cache(self.cell.shape)
        self._sums = cache(lambda rhs: sorted(rhs.atoms(Total), key=str))

    # ------------------------------------------------------------------ the interface of a module

    def forward(self, params, x, state=None, masks=None):
        x = self._by_name(x)
        steps, batch = next(iter(x.values())).shape[:2]
        sizes = self._sizes(params, x, state)
        state = state or {
            s.name: np.zeros((batch, *self._shape(s, sizes)), self.dtype) for s in self.cell.states
        }
        outputs, tape = {v.name: [] for v in self.cell.outputs}, []
        for t in range(steps):
            x_t = {n: a[t] for n, a in x.items()}
            masks_t = {n: a[t] for n, a in (masks or {}).items()}
            memo = self._step(params, x_t, state, masks_t, sizes)
            state = {s.name: self._rows(memo[s.at(0)], batch) for s in self.cell.states}
            for v in self.cell.outputs:
                outputs[v.name].append(self._rows(memo[v], batch))
            tape.append(memo)
        y = self._joined({n: np.stack(a) for n, a in outputs.items()})
        return y, state, (tape, sizes)

    def step(self, params, x_t, state, masks=None):
        x_t = self._by_name(x_t)
        memo = self._step(params, x_t, state, masks or {}, self._sizes(params, x_t, state))
        batch = len(next(iter(x_t.values())))
        new = {s.name: self._rows(memo[s.at(0)], batch) for s in self.cell.states}
        return new | {v.name: self._rows(memo[v], batch) for v in self.cell.outputs}

    def backward(self, params, tape, dy, dstate=None):
        steps, sizes = tape
        cell = self.cell
        given = dy if isinstance(dy, dict) else {cell.output.name: dy}
        batch = next(iter(given.values())).shape[1]
        zeros = {v: np.zeros((len(steps), batch, *self._shape(v, sizes))) for v in cell.outputs}
        dys = {v: given.get(v.name, zeros[v]) for v in cell.outputs}
        later = {
            carry(s): np.zeros((1, batch, *self._shape(s, sizes)), self.dtype)
            if dstate is None
            else dstate[s.name][None]
            for s in cell.states
        }
        grads = {
            e.lhs.args[0].name: np.zeros(self._shape(e.lhs.args[0], sizes), self.dtype)
            for e in self.derivation.totals
        }
        dx = {v.name: [] for v in cell.inputs}
        for t, memo in reversed(list(enumerate(steps))):
            memo = {**memo, **later, **{cotangent(v): a[t][None] for v, a in dys.items()}}
            walk = self._walk(memo, sizes)
            for e in self.derivation.adjoints:
                self._assign(walk, e, sizes)
            later = {carry(s): memo[carry(s, -1)] for s in cell.states}
            for v in cell.inputs:
                found = [m for m in memo if isinstance(m, Vector) and m.name == v.name]
                delta = [m for m in found if m.category == "adjoint"]
                shape = self._shape(v, sizes)
                value = memo[delta[0]] if delta else np.zeros((1, 1, *shape))
                dx[v.name].append(np.broadcast_to(value[0], (batch, *shape)))
            for e in self.derivation.totals:
                if self.counts(e.lhs.args[0].name, t):
                    grads[e.lhs.args[0].name] += self._total(walk, e, sizes)
        fixed = self._fixed(params, sizes)
        for e in self.derivation.fixed:
            if e.lhs.name in grads:
                fixed[gathered(e.lhs)] = grads.pop(e.lhs.name)[None, None]
        walk = self._walk(fixed, sizes)
        for e in self.derivation.fixed_adjoints:
            self._assign(walk, e, sizes)
        for p in cell.parameters:
            found = [v for v in fixed if isinstance(v, Vector) and v.name == p.name
                     and v.category == "adjoint"]  # fmt: skip
            for v in found:
                grads[p.name] = grads[p.name] + fixed[v][0, 0]
        x_gradients = {n: np.stack(a[::-1]).astype(self.dtype) for n, a in dx.items()}
        initial = {s.name: self._rows(later[carry(s)], batch) for s in cell.states}
        return grads, self._joined(x_gradients), initial

    def counts(self, parameter: str, t: int) -> bool:
        """Whether step ``t`` counts for a parameter's gradient: always, if nothing is broken."""
        return True

    # ------------------------------------------------------------------ inside

    def _walk(self, memo, sizes) -> Walk:
        return Walk(memo, 0, None, {}, None, sizes)

    def _step(self, params, x_t, state, masks, sizes):
        cell = self.cell
        memo = self._fixed(params, sizes)
        memo |= {v: x_t[v.name][None] for v in cell.inputs}
        memo |= {m: masks[m.name][None] for m in cell.masks}
        memo |= {s: state[s.name][None] for s in cell.states}
        walk = self._walk(memo, sizes)
        for e in self.derivation.forward:
            self._assign(walk, e, sizes)
        return memo

    def _fixed(self, params, sizes):
        """What does not move: parameters, and what is made of them, also as matrices."""
        cell = self.cell
        memo = {n: np.full((1, 1, 1), number(n, sizes), self.dtype) for n in cell.sizes}
        for p in cell.parameters:
            memo[p] = params[p.name][None, None]
            memo[cell.shapes.quantity(p)] = memo[p]
        memo |= {c: np.full((1, 1, 1), params[c.name], self.dtype) for c in cell.constants}
        walk = self._walk(memo, sizes)
        for e in self.derivation.fixed:
            self._assign(walk, e, sizes)
            if len(e.lhs.axes) > 1:
                memo[as_matrix(e.lhs)] = memo[e.lhs]
            for m in cell.derived:
                if m.name == e.lhs.name:
                    memo[m] = memo[e.lhs]
        return memo

    def _assign(self, walk: Walk, e: Eq, sizes: Mapping[str, int]) -> None:
        value = walk(e.rhs)
        walk.memo[e.lhs] = widened(value, self._shape(e.lhs, sizes)).astype(self.dtype)

    def _shape(self, v, sizes):
        return tuple(number(n, sizes) for n in self._shapes(v))

    def _total(self, walk: Walk, e: Eq, sizes: Mapping[str, int]) -> np.ndarray:
        """One step's share of a parameter's gradient."""
        parameter = e.lhs.args[0]
        shape = self._shape(parameter, sizes)
        for total in self._sums(e.rhs):
            inner = total.args[0]
            if isinstance(inner, Outer):
                left, right = (walk(arg) for arg in inner.args)
                left, right = np.broadcast_arrays(left[..., None], _under(left, right))
                rows = tuple(range(1, left.ndim - len(shape)))  # heads that share a matrix, too
                walk.memo[total] = (left * right).sum(axis=rows)
            else:
                walk.memo[total] = walk(inner).sum(axis=1, keepdims=True)
        value = walk(e.rhs)
        return np.broadcast_to(value.reshape(value.shape[-len(shape) :]), shape)

    def _sizes(self, params, x, state) -> dict[str, int]:
        sizes: dict[str, int] = {}
        arrays = [(p, params[p.name].shape) for p in self.cell.parameters]
        arrays += [(s, state[s.name].shape[1:]) for s in self.cell.states if state]
        arrays += [(v, x[v.name].shape[-len(self.cell.shape(v)) :]) for v in self.cell.inputs]
        for symbol, shape in arrays:
            for size, n in zip(self.cell.shape(symbol), shape, strict=True):
                if size.is_Symbol:
                    sizes[size.name] = n
        return sizes

    def _rows(self, value: np.ndarray, batch: int) -> np.ndarray:
        return np.broadcast_to(value[0], (batch, *value.shape[2:])).astype(self.dtype)

    def _by_name(self, x):
        return x if isinstance(x, dict) else {self.cell.inputs[0].name: x}

    def _joined(self, by_name):
        return by_name if len(by_name) > 1 else next(iter(by_name.values()))


def _under(left, right):
    """``right`` for an outer product with ``left``, whose heads it has or shares."""
    right = right[..., None, :]
    heads = left.ndim + 1 - right.ndim
    return right.reshape(*right.shape[:2], *(1,) * heads, *right.shape[2:])


def interpret(cell: Cell, dtype: str = "float64", *, once: bool = False) -> Interpreter:
    """The derivation of ``cell``, ready to run; ``once``, as plans are made of it."""
    return Interpreter(reverse(cell, once=True) if once else derive(cell), dtype)


class Replayed:
    """A module with a forward pass that is run once for the same arguments.

    For many derivations that differ in the backward pass only.
    """

    def __init__(self, module: Interpreter) -> None:
        self.module, self.known = module, {}

    def forward(self, *args, **kwargs):
        return self._once("forward", args, kwargs)

    def step(self, *args, **kwargs):
        return self._once("step", args, kwargs)

    def _once(self, method: str, args, kwargs):
        key = (method, snapshot(args), snapshot(kwargs))
        if key not in self.known:
            self.known[key] = getattr(self.module, method)(*args, **kwargs)
        return self.known[key]

    def with_backward(self, derivation: Derivation, kind: type[Interpreter] = Interpreter):
        """The same forward pass with another backward pass."""
        other = copy.copy(self)
        other.backward = kind(derivation, str(self.module.dtype)).backward
        return other


def with_lines(derivation: Derivation, changed: Mapping[int, Eq]) -> Derivation:
    """The derivation with lines of its backward pass replaced: adjoints are counted first."""
    lines = [*derivation.adjoints, *derivation.totals]
    for k, line in changed.items():
        lines[k] = line
    count = len(derivation.adjoints)
    return replace(derivation, adjoints=tuple(lines[:count]), totals=tuple(lines[count:]))
