"""Gradients of a whole sequence by dual numbers, for quantities of any shape: no derivation."""

from __future__ import annotations

import numpy as np

from lstmgen import Cell
from lstmgen.verification.arithmetic import Dual, value_of
from lstmgen.verification.evaluation import Evaluator, number


class Problem:
    """Random values for a cell, and a loss that weighs its outputs and its last states."""

    def __init__(self, cell: Cell, sizes, steps=4, batch=3, seed=0, scale=0.5):
        rng = np.random.default_rng(seed)
        self.cell, self.sizes, self.steps, self.batch = cell, sizes, steps, batch
        self.params = {p.name: scale * rng.normal(size=self.shape(p)) for p in cell.parameters}
        self.x = {v.name: rng.normal(size=(steps, batch, *self.shape(v))) for v in cell.inputs}
        self.state = {s.name: rng.normal(size=(batch, *self.shape(s))) for s in cell.states}
        self.dy = {v.name: rng.normal(size=(steps, batch, *self.shape(v))) for v in cell.outputs}
        self.dstate = {s.name: rng.normal(size=(batch, *self.shape(s))) for s in cell.states}
        self.constants = {c.name: np.array([cell.initial(c)]) for c in cell.constants}

    def shape(self, symbol):
        return tuple(number(n, self.sizes) for n in self.cell.shape(symbol))

    @property
    def all_params(self):
        return self.params | {n: float(a[0]) for n, a in self.constants.items()}

    @property
    def whole_x(self):
        return _joined(self.x)

    @property
    def whole_dy(self):
        return _joined(self.dy)

    # ------------------------------------------------------------------ evaluation

    def entities(self):
        return {
            **{("parameter", n): a for n, a in self.params.items()},
            **{("input", n): a for n, a in self.x.items()},
            **{("state", n): a for n, a in self.state.items()},
        }

    def run(self, changes=None):
        """Evaluate with ``changes``, from entity to (K, *shape) directions."""
        values = {}
        for entity, a in self.entities().items():
            value = self._lifted(entity, a[None])
            if changes and entity in changes:
                value = Dual(value, self._lifted(entity, changes[entity]))
            values[entity] = value
        given = {n: a.reshape(1, 1, 1) for n, a in self.constants.items()}
        with np.errstate(invalid="ignore", divide="ignore"):  # of branches that are not taken
            return Evaluator(self.cell).run(values, given, self.sizes)

    def _lifted(self, entity, a):
        kind, _ = entity
        if kind == "input":
            return np.moveaxis(a, 0, 1)
        return a[:, None] if kind == "parameter" else a

    def outputs(self):
        """The steps of each output."""
        trace = self.run()
        return {
            n: np.stack([np.broadcast_to(value_of(y[n])[0], dy.shape[1:]) for y in trace.outputs])
            for n, dy in self.dy.items()
        }

    def slopes(self, changes):
        """(of each output at each step, of each last state) in the directions ``changes``."""
        trace = self.run(changes)
        count = next(iter(changes.values())).shape[0]

        def slope(a, like):
            found = a.slope if isinstance(a, Dual) else np.zeros((1, 1, *like.shape[1:]))
            return np.broadcast_to(found, (count, *like.shape))

        outputs = {
            n: [slope(y[n], dy_t) for y, dy_t in zip(trace.outputs, dy, strict=True)]
            for n, dy in self.dy.items()
        }
        return outputs, {n: slope(trace.states[-1][n], a) for n, a in self.dstate.items()}

    def gradient(self, entity):
        """∂L/∂ of all entries of one parameter, input or initial state."""
        a = self.entities()[entity]
        outputs, last = self.slopes({entity: np.eye(a.size).reshape(a.size, *a.shape)})
        pairs = [
            *(pair for n, dy in self.dy.items() for pair in zip(outputs[n], dy, strict=True)),
            *((last[n], d) for n, d in self.dstate.items()),
        ]
        total = sum((s * d).reshape(a.size, -1).sum(axis=1) for s, d in pairs)
        return total.reshape(a.shape)

    # ------------------------------------------------------------------ a module

    def errors(self, module):
        """The largest relative error of a module's outputs, and of each gradient."""
        y, _, tape = module.forward(self.all_params, self.whole_x, self.state)
        grads, dx, dstate = module.backward(self.all_params, tape, self.whole_dy, self.dstate)
        found = {
            "parameter": grads,
            "input": dx if isinstance(dx, dict) else {next(iter(self.x)): dx},
            "state": dstate,
        }
        ys = y if isinstance(y, dict) else {self.cell.output.name: y}
        errors = {f"y {n}": _distance(ys[n], a) for n, a in self.outputs().items()}
        unlearned = {p.name for p in self.cell.parameters if not p.learned}
        assert not unlearned & grads.keys()
        for kind, name in self.entities():
            if kind == "parameter" and name in unlearned:
                continue
            errors[f"{kind} {name}"] = _distance(found[kind][name], self.gradient((kind, name)))
        return errors


def _joined(by_name):
    return by_name if len(by_name) > 1 else next(iter(by_name.values()))


def _distance(a, b):
    assert np.shape(a) == np.shape(b)
    return float(np.max(np.abs(a - b), initial=0.0) / (1 + np.max(np.abs(b), initial=0.0)))
