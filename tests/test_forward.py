"""Forward mode: tangents against dual numbers and against the adjoints; Hessians are symmetric."""

import numpy as np
import pytest
import reference
from dual_gradients import Problem
from several_axes import CELLS, SIZES
from sympy import Eq, Symbol, exp

import lstmgen
from lstmgen import derive, sigmoid, tanh, vectors
from lstmgen.derivation.forward import tangent
from lstmgen.derivation.reverse import adjoint, carry, cotangent
from lstmgen.language.symbols import Gradient, Outer, Total
from lstmgen.printing.text import text
from lstmgen.verification.arithmetic import widened
from lstmgen.verification.evaluation import Walk

ALL = CELLS | {n: lstmgen.cells.get(n) for n in reference.NAMES}
SMALL = SIZES | {"D": 3, "H": 4}
ROUNDING = 1e-12


class Run:
    """Equations and their tangents, evaluated over a sequence as they stand."""

    def __init__(self, problem: Problem, tangents, direction):
        self.problem, self.tangents = problem, tangents
        self.direction = direction  # from entity to the change of its value
        cell = problem.cell
        entities = problem.entities()
        self.static = {}
        for p in cell.parameters:
            self._give(self.static, p, entities["parameter", p.name], ("parameter", p.name))
        for c in cell.constants:
            self.static[c] = problem.constants[c.name].reshape(1, 1, 1)

    def _give(self, memo, symbol, value, entity, pick=lambda a: a):
        memo[symbol] = value[None, None] if entity[0] == "parameter" else value[None]
        if symbol in self.tangents.symbols:
            change = pick(self.direction[entity])
            change = change[None, None] if entity[0] == "parameter" else change[None]
            memo[self.tangents.symbols[symbol]] = change

    def forward(self):
        """(tangents of the outputs, of the last states), and the values of each step."""
        problem, cell = self.problem, self.problem.cell
        lines = [line for line in self.tangents.lines if _is_of_step(line[0])]
        carried, steps, outputs = None, [], {v.name: [] for v in cell.outputs}
        for t in range(problem.steps):
            memo = dict(self.static)
            for v in cell.inputs:
                self._give(memo, v, problem.x[v.name][t], ("input", v.name), lambda a, t=t: a[t])
            for s in cell.states:
                if carried is None:
                    self._give(memo, s, problem.state[s.name], ("state", s.name))
                else:
                    memo[s], memo[tangent(s)] = carried[s]
            walk = Walk(memo, 0, None, {}, None, problem.sizes)
            self._run(walk, lines)
            carried = {s: (memo[s.at(0)], memo[tangent(s.at(0))]) for s in cell.states}
            for v in cell.outputs:
                outputs[v.name].append(memo[tangent(v)][0])
            steps.append(memo)
        return outputs, {s.name: carried[s][1][0] for s in cell.states}, steps

    def backward(self, steps):
        """The change of all gradients, which is the Hessian times the direction."""
        problem, cell = self.problem, self.problem.cell
        symbols = self.tangents.symbols
        back = [line for line in self.tangents.lines if not _is_of_step(line[0])]
        rows = [line for line in back if not isinstance(line[0].lhs, Gradient)]
        totals = [e for line, made in back if isinstance(line.lhs, Gradient) for e in made]
        later = {}
        for s in cell.states:
            later[carry(s)] = problem.dstate[s.name][None]
            later[tangent(carry(s))] = np.zeros_like(later[carry(s)])
        found = {("parameter", p.name): 0.0 for p in cell.parameters}
        dx = []
        for t in reversed(range(problem.steps)):
            memo = {**steps[t], **later}
            for v in cell.outputs:
                memo[cotangent(v)] = problem.dy[v.name][t][None]
                memo[tangent(cotangent(v))] = np.zeros_like(memo[cotangent(v)])
            walk = Walk(memo, 0, None, {}, None, problem.sizes)
            self._run(walk, rows)
            later = {}
            for s in cell.states:
                later[carry(s)] = memo[carry(s, -1)]
                later[tangent(carry(s))] = memo[tangent(carry(s, -1))]
            for e in totals:
                parameter = next(p for p, d in symbols.items() if d == e.lhs.args[0])
                shape = problem.shape(parameter)
                found["parameter", parameter.name] = found[
                    "parameter", parameter.name
                ] + self._total(walk, e.rhs, shape)
            dx.append([memo[tangent(adjoint(v))][0] for v in cell.inputs])
        for k, v in enumerate(cell.inputs):
            found["input", v.name] = np.stack([step[k] for step in dx[::-1]])
        for s in cell.states:
            found["state", s.name] = later[tangent(carry(s))][0]
        return found

    def _total(self, walk, e, shape):
        for total in e.atoms(Total):
            inner = total.args[0]
            if isinstance(inner, Outer):
                left, right = (walk(a) for a in inner.args)
                left, right = left[..., None], right[..., None, :]
                while right.ndim < left.ndim:
                    right = right[:, :, None]
                product = left * right
                axes = tuple(range(1, product.ndim - len(shape)))
                walk.memo[total] = product.sum(axis=axes)
            else:
                walk.memo[total] = walk(inner).sum(axis=1, keepdims=True)
        value = walk(e) if e != 0 else np.zeros((1, *shape))
        return np.broadcast_to(value.reshape(value.shape[-len(shape) :]), shape)

    def _run(self, walk, lines):
        for e in (e for line, made in lines for e in (line, *made)):
            shape = self.problem.shape(e.lhs)
            value = walk(e.rhs)
            value = np.broadcast_to(value, (1, self.problem.batch, *value.shape[2:]))
            walk.memo[e.lhs] = widened(value, shape)


def _is_of_step(e):
    """Whether an equation is one of the forward pass."""
    if isinstance(e.lhs, Gradient) or e.lhs.name.startswith("ties_"):
        return False
    return e.lhs.category in ("vector", "state")


def directions(problem, seed):
    rng = np.random.default_rng(seed)
    return {e: rng.normal(size=a.shape) for e, a in problem.entities().items()}


@pytest.mark.parametrize("name", ALL)
def test_tangents_are_those_of_dual_numbers_and_of_the_adjoints(name):
    problem = Problem(ALL[name], SMALL, steps=3, batch=2)
    direction = directions(problem, 1)
    outputs, last, _ = Run(problem, derive(ALL[name], mode="forward"), direction).forward()
    wanted, wanted_last = problem.slopes({e: a[None] for e, a in direction.items()})
    for name, found in outputs.items():
        for got, want in zip(found, wanted[name], strict=True):
            assert np.abs(got - want[0]).max() < ROUNDING * (1 + np.abs(want).max())
    for n, got in last.items():
        assert np.abs(got - wanted_last[n][0]).max() < ROUNDING * (1 + np.abs(got).max())
    # ⟨Jv, w⟩ = ⟨v, Jᵀw⟩
    forward = sum((np.stack(outputs[n]) * dy).sum() for n, dy in problem.dy.items())
    forward += sum((last[n] * d).sum() for n, d in problem.dstate.items())
    back = sum((problem.gradient(e) * v).sum() for e, v in direction.items())
    assert forward == pytest.approx(back, rel=ROUNDING, abs=ROUNDING)


SMOOTH = [n for n, cell in ALL.items() if cell.is_analytic]


@pytest.mark.parametrize("name", SMOOTH)
def test_the_hessian_is_symmetric(name):
    """Forward mode over the adjoints: ⟨H u, v⟩ = ⟨u, H v⟩, to rounding."""
    cell = ALL[name]
    problem = Problem(cell, SMALL, steps=3, batch=2)
    tangents = derive(derive(cell), mode="forward")
    u, v = directions(problem, 1), directions(problem, 2)

    def times(direction):
        run = Run(problem, tangents, direction)
        return run.backward(run.forward()[2])

    hu, hv = times(u), times(v)
    one = sum((hu[e] * v[e]).sum() for e in v)
    other = sum((u[e] * hv[e]).sum() for e in u)
    assert abs(one) > 1e-3  # not symmetric because it is 0
    assert one == pytest.approx(other, rel=1e-11)


def test_the_hessian_is_that_of_differences():
    cell = lstmgen.cells.get("lstm")
    problem = Problem(cell, SMALL, steps=3, batch=2)
    direction = directions(problem, 1)
    run = Run(problem, derive(derive(cell), mode="forward"), direction)
    found = run.backward(run.forward()[2])
    h = 1e-5
    for entity in (("parameter", "U_f"), ("input", "x"), ("state", "c")):
        sides = []
        for sign in (1, -1):
            moved = Problem(cell, SMALL, steps=3, batch=2)
            for e, a in moved.entities().items():
                a += sign * h * direction[e]
            sides.append(moved.gradient(entity))
        assert found[entity] == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=1e-8)


def test_any_equations_have_tangents_also_those_of_tangents():
    a, b, y = vectors("a b y", 1)
    first = derive([Eq(b, tanh(a) * a), Eq(y, sigmoid(b) + exp(a))], mode="forward")
    second = derive([*first.forward, *first.equations], mode="forward")
    point = {a: 0.3, tangent(a): 1, second.symbols[a]: 1, second.symbols[tangent(a)]: 0}
    memo = {v: np.full((1, 1, 1), float(value)) for v, value in point.items()}
    walk = Walk(memo, 0, None, {}, None, {})
    for e in (e for line, made in second.lines for e in (line, *made)):
        memo[e.lhs] = walk(e.rhs)
    z = Symbol("z")
    whole = 1 / (1 + exp(-tanh(z) * z)) + exp(z)
    wanted = float(whole.diff(z, 2).subs(z, 0.3))
    assert memo[second.symbols[tangent(y)]].item() == pytest.approx(wanted, rel=1e-14)


def test_tangents_are_told_from_what_they_are_of():
    cell = lstmgen.cells.get("rnn")
    shown = [text(e, cell) for e in derive(cell, mode="forward").equations]
    assert shown[0] == "da_h = dW_h x + dU_h h[t-1] + W_h dx + U_h dh[t-1] + db_h"


def test_what_derive_takes_is_said():
    with pytest.raises(lstmgen.LstmgenError, match='"reverse" or "forward"'):
        derive(lstmgen.cells.get("rnn"), mode="backward")
    with pytest.raises(lstmgen.LstmgenError, match="takes a cell"):
        derive([Eq(*vectors("a b"))])
