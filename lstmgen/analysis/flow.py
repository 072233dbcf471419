"""How gradients fade or grow over time: products of the state Jacobian, for one sequence.

The Jacobian D of each step is that of the equations, evaluated directly with dual numbers. What a
loss at the last step T has of a state k steps back goes through D[T] … D[T-k+1] (Hochreiter 1991;
Pascanu, Mikolov & Bengio 2013).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..derivation.jacobian import StateJacobian, state_jacobian
from ..errors import LstmgenError, did_you_mean
from ..language.cell import Cell
from ..runtime.toolchain import compile
from ..targets.numpy.target import init_sizes
from ..verification.arithmetic import Array, Dual
from ..verification.evaluation import Evaluator, number

SIZES = {"D": 8, "H": 32}  # others are 4
_MOST = 2048  # numbers of all states: a Jacobian has its square
_MOST_OF_ALL = 2**28  # numbers of the Jacobians of all steps, 2 GB


@dataclass(frozen=True)
class Flow:
    """What the states of a cell pass on, over the last steps of a sequence.

    Attributes
    ----------
    jacobian : StateJacobian
        As equations, with its structure.
    sizes : dict
        The numbers for the symbolic sizes.
    norms : dict from name to array
        For each state s, at [k - 1], the spectral norm of ∂(all states)[T] / ∂s[T-k], for k = 1 …
        T.
    singular_values : array
        Those of the whole product over all T steps, the largest first, each to the power 1 / T.
    exponents : array
        The Lyapunov exponents of the sequence, in 1 / step, the largest first: at 0 a change
        neither fades nor grows.
    """

    jacobian: StateJacobian
    sizes: dict[str, int]
    norms: dict[str, Array]
    singular_values: Array
    exponents: Array

    @property
    def steps(self) -> int:
        """T, of the sequence."""
        return len(next(iter(self.norms.values())))


def flow(
    cell: Cell, params: Mapping[str, Any] | None = None, x: Any = None, *, T: int = 100,
    sizes: Mapping[str, int] | None = None, seed: int = 0,
) -> Flow:  # fmt: skip
    """Measure how the gradients of a cell fade or grow.

    Parameters
    ----------
    cell : Cell
    params : mapping from name to array, optional
        As ``init`` makes them; without them fresh ones.
    x : array (T, D), or dict of such by input, optional
        One sequence; without it independent normal numbers. Masks are random zeros and ones.
    T : int
        The steps of such a sequence.
    sizes : mapping, optional
        Numbers for sizes that parameters do not tell.
    seed : int
        Of parameters and inputs that are made up.

    Raises
    ------
    LstmgenError
        If the cell has no state, or too many numbers in them; if ``sizes`` names one that the cell
        does not have, or arrays do not fit.
    """
    if not cell.states:
        raise LstmgenError(f"{cell.name} has no state: nothing flows from step to step")
    if T < 1:
        raise LstmgenError(f"T is a positive whole number, not {T}")
    known = _sizes(cell, params, dict(sizes or {}))
    values, given = _arrays(cell, params, x, known, T, seed)
    total = sum(values["state", s.name].size for s in cell.states)
    if total > _MOST:
        raise LstmgenError(
            f"the states of {cell.name} have {total} numbers, and a Jacobian the square of that: "
            f"{_MOST} are the most\n  hint: give smaller sizes, as in H=16"
        )
    length = len(values["input", cell.inputs[0].name])
    if length * total**2 > _MOST_OF_ALL:
        raise LstmgenError(
            f"the Jacobians of {length} steps have {length * total**2:,} numbers, and "
            f"{_MOST_OF_ALL:,} are the most\n  hint: give fewer steps, or smaller sizes, as in H=16"
        )
    steps = _jacobians(cell, values, given, known)
    names = [s.name for s in cell.states]
    columns = np.split(np.arange(total), np.cumsum([values["state", n].size for n in names])[:-1])
    product, found = np.eye(total), []
    for d in steps[::-1]:
        product = product @ d
        found.append([np.linalg.norm(product[:, c], 2) for c in columns])
    with np.errstate(divide="ignore"):
        singular = np.linalg.svd(product, compute_uv=False) ** (1 / len(steps))
    norms = {name: np.array(a) for name, a in zip(names, zip(*found, strict=True), strict=True)}
    return Flow(state_jacobian(cell), known, norms, singular, _exponents(steps))


def _sizes(cell: Cell, params: Mapping[str, Any] | None, told: dict[str, int]) -> dict[str, int]:
    """A number for each symbolic size."""
    names = [n.name for n in cell.sizes]
    for name in told:
        if name not in names:
            near = did_you_mean(name, names)
            raise LstmgenError(f"{cell.name} has no size {name}; {near or ', '.join(names)}")
    for p in cell.parameters if params is not None else ():
        if p.name not in (params or {}):
            raise LstmgenError(f"params has no {p.name}, which {cell.name} has")
        for axis, n in zip(cell.shape(p), np.shape((params or {})[p.name]), strict=False):
            if axis.is_Symbol:
                told.setdefault(str(axis), n)
    return {name: told.get(name, SIZES.get(name, 4)) for name in names}


def _arrays(
    cell: Cell, params: Mapping[str, Any] | None, x: Any, known: dict[str, int], T: int, seed: int
) -> tuple[dict[tuple[str, str], Array], dict[str, Any]]:
    """All that a sequence takes, in the layout of the evaluator."""
    params = _fresh(cell, known, seed) if params is None else params
    rng = np.random.default_rng(seed)
    xs = {} if x is None else x if isinstance(x, Mapping) else {cell.inputs[0].name: x}
    values: dict[tuple[str, str], Array] = {}

    def shaped(what: str, array: Any, shape: Sequence[int]) -> Array:
        made = np.asarray(array, dtype=float)
        if made.shape != tuple(shape):
            raise LstmgenError(f"{what} has the shape {made.shape}, not {tuple(shape)}")
        if not np.isfinite(made).all():
            raise LstmgenError(f"{what} is not finite everywhere")
        return made

    for p in cell.parameters:
        shape = [number(n, known) for n in cell.shape(p)]
        values["parameter", p.name] = shaped(p.name, params[p.name], shape)[None, None]
    steps = len(next(iter(xs.values()))) if xs else T
    for v in cell.inputs:
        shape = [steps, *(number(n, known) for n in cell.shape(v))]
        data = xs[v.name] if v.name in xs else rng.normal(size=shape)
        values["input", v.name] = shaped(v.name, data, shape)[:, None, None]
    for s in cell.states:
        shape = [number(n, known) for n in cell.shape(s)]
        values["state", s.name] = np.full((1, 1, *shape), cell.starts_at(s))
    given: dict[str, Any] = {}
    for m in cell.masks:  # what 0 and 1 mean is the cell's to say
        shape = [steps, 1, 1, *(number(n, known) for n in cell.shape(m))]
        given[m.name] = rng.integers(0, 2, shape).astype(float)
    for c in cell.constants:
        value = params.get(c.name, cell.initial(c))
        if value is None:
            raise LstmgenError(f"the constant {c.name} of {cell.name} has no value: give params")
        given[c.name] = np.full((1, 1, 1), float(value))
    return values, given


def _fresh(cell: Cell, known: dict[str, int], seed: int) -> Any:
    """Parameters as the cell's module makes them."""
    module = compile(cell, "numpy")
    return module.init(**init_sizes(cell, known), seed=seed, dtype=np.float64)


def _jacobians(
    cell: Cell, values: dict[tuple[str, str], Array], given: dict[str, Any], known: dict[str, int]
) -> list[Array]:
    """∂s[t]/∂s[t-1] of each step, the states side by side."""
    evaluator = Evaluator(cell)
    with np.errstate(all="ignore"):
        states = evaluator.run(values, given, known).states
    shapes = {s.name: values["state", s.name].shape[1:] for s in cell.states}
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    eye, slopes, at = np.eye(total), {}, 0  # a direction for each number of a state
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        slopes[name] = eye[:, at : at + size].reshape(total, *shape)
        at += size
    found, masks = [], {m.name for m in cell.masks}
    for t in range(len(values["input", cell.inputs[0].name])):
        moved: dict[tuple[str, str], Any] = dict(values)
        for name, shape in shapes.items():
            value = np.broadcast_to(states[t][name], (1, *shape))
            moved["state", name] = Dual(value, slopes[name])
        for v in cell.inputs:
            moved["input", v.name] = values["input", v.name][t : t + 1]
        now = {n: a[t : t + 1] if n in masks else a for n, a in given.items()}
        with np.errstate(all="ignore"):
            after = evaluator.run(moved, now, known).states[1]
        rows = [
            np.broadcast_to(a.slope, (total, *shape)).reshape(total, -1)
            if isinstance(a := after[name], Dual)
            else np.zeros((total, int(np.prod(shape))))
            for name, shape in shapes.items()
        ]
        d = np.concatenate(rows, axis=1).T
        if not np.isfinite(d).all():
            raise LstmgenError(f"the state Jacobian of {cell.name} is not finite at step {t + 1}")
        found.append(d)
    return found


def _exponents(steps: Sequence[Array]) -> Array:
    """The Lyapunov exponents, by QR at each step (Benettin et al. 1980)."""
    q, sums = np.eye(len(steps[0])), np.zeros(len(steps[0]))
    for d in steps:
        q, r = np.linalg.qr(d @ q)
        with np.errstate(divide="ignore"):
            sums += np.log(np.abs(np.diag(r)))
    return np.sort(sums / len(steps))[::-1]
