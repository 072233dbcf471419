"""Running a module over a case: the case's arrays as its arguments, and its results by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from ..language.cell import Cell
from ..language.dtypes import DType
from .arithmetic import Array
from .comparing import Comparison
from .evaluation import Entity, number
from .report import Finding, broken

Gradients: TypeAlias = "dict[Entity, Any]"


class FailedError(Exception):
    """A function of the module under test raised an error."""


class Guarded:
    """The module under test, whose errors are findings and not ours."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return getattr(self._module, name)(*args, **kwargs)
            except Exception as error:
                what = (str(error) or "no message").splitlines()[0]
                raise FailedError(f"{name} raised {type(error).__name__}: {what}") from error

        return call


class Runner:
    """Calls all that a module offers.

    Parameters
    ----------
    cell : Cell
    sizes : mapping of str to int
    dtype : DType
        Of the arguments.
    module
        Of the generated kind.
    """

    def __init__(self, cell: Cell, sizes: Mapping[str, int], dtype: DType, module: Any) -> None:
        self.cell, self.sizes, self.dtype, self.module = cell, sizes, dtype, Guarded(module)

    def run(
        self, comparison: Comparison, found: Mapping[str, list[Finding]]
    ) -> tuple[Gradients, Gradients]:
        """Run one case. What is found of "forward" and "step" is added to ``found``.

        Returns
        -------
        tuple of dict
            The gradients with and without ``dstate``.

        Raises
        ------
        FailedError
            If a function of the module raised an error.
        """
        case, cast, module = comparison.case, self._cast, self.module
        params = {n: cast(v) for (kind, n), v in case.values.items() if kind == "parameter"}
        params.update({c.name: float(case.given[c.name]) for c in self.cell.constants})
        x = self._join({v.name: cast(case.values["input", v.name]) for v in self.cell.inputs})
        state = {s.name: cast(case.values["state", s.name]) for s in self.cell.states}
        masks = {m.name: cast(case.given[m.name]) for m in self.cell.masks}
        extra = {"masks": masks} if masks else {}
        dys, dstate = ({n: cast(v) for n, v in a.items()} for a in (case.dy, case.dstate))
        dy = self._join(dys)
        before = snapshot((params, x, state, masks, dy, dstate))

        y, final, tape = module.forward(params, x, state, **extra)
        found["forward"].extend(comparison.forward(y, final))
        full = self._gradients(*module.backward(params, tape, dy, dstate))
        partial = self._gradients(*module.backward(params, tape, dy))
        found["forward"].extend(self._judge_defaults(params, x, extra, dy, case.batch))
        found["forward"].extend(self._judge_missing(params, tape, dys))
        found["step"].extend(self._judge_steps(comparison, params, x, masks))
        if snapshot((params, x, state, masks, dy, dstate)) != before:
            found["forward"].append(broken("an argument was changed in place"))
        return full, partial

    def _cast(self, value: Array) -> Array:
        return np.ascontiguousarray(value, dtype=self.dtype.storage.name)

    def _join(self, by_name: dict[str, Array]) -> Any:
        """One input, or output, is an array, several are a dict."""
        return by_name if len(by_name) > 1 else next(iter(by_name.values()))

    def _split(self, joined: Any) -> dict[str, Any]:
        names = [v.name for v in self.cell.inputs]
        return dict(joined) if len(names) > 1 else {names[0]: joined}

    def _gradients(self, grads: Any, dx: Any, dstate: Any) -> Gradients:
        found: Gradients = {}
        for kind, arrays in (("parameter", grads), ("input", self._split(dx)), ("state", dstate)):
            found.update({(kind, name): array for name, array in arrays.items()})
        return found

    def _judge_defaults(
        self, params: Any, x: Any, extra: Any, dy: Any, batch: int
    ) -> Iterator[Finding]:
        """``state=None`` is a state as it starts, ``dstate=None`` a cotangent of zeros.

        The module is compared with itself, to the last bit: zeros are where kinks are, and no
        place to ask a witness.
        """
        shapes = {
            s.name: (batch, *(number(n, self.sizes) for n in self.cell.shape(s)))
            for s in self.cell.states
        }
        zeros = {n: np.zeros(shape, self.dtype.storage.name) for n, shape in shapes.items()}
        starts = {s.name: zeros[s.name] + self.cell.starts_at(s) for s in self.cell.states}
        shaped = (*self.cell.parameters, *self.cell.inputs)
        known = {n for symbol in shaped for n in self.cell.shape(symbol)}
        # A size that only states have has to be told by them.
        tells = all(
            n in known
            for s in self.cell.states
            for axis in self.cell.shape(s)
            for n in axis.free_symbols
        )
        results = []
        with np.errstate(all="ignore"):
            for state, dstate in ((None if tells else starts, None), (starts, zeros)):
                y, final, tape = self.module.forward(params, x, state, **extra)
                found = self._gradients(*self.module.backward(params, tape, dy, dstate))
                results.append({
                    **({f"y[{n}]": a for n, a in y.items()} if isinstance(y, dict) else {"y": y}),
                    **{f"final {name}": a for name, a in final.items()},
                    **{gradient_name(e): g for e, g in found.items()},
                })  # fmt: skip
        for name, one in results[0].items():
            if not np.array_equal(one, results[1][name], equal_nan=True):
                yield broken(
                    f"{name} differs between state=None, dstate=None and what these stand for"
                )

    def _judge_missing(self, params: Any, tape: Any, dys: Mapping[str, Array]) -> Iterator[Finding]:
        """Of several outputs, one that ``dy`` lacks has a cotangent of zeros."""
        for name in dys if len(dys) > 1 else ():
            others = {n: a for n, a in dys.items() if n != name}
            zeros = {**dys, name: np.zeros_like(dys[name])}
            with np.errstate(all="ignore"):
                one, other = (
                    self._gradients(*self.module.backward(params, tape, dy))
                    for dy in (others, zeros)
                )
            for entity, gradient in one.items():
                if not np.array_equal(gradient, other[entity], equal_nan=True):
                    yield broken(
                        f"{gradient_name(entity)} differs between dy without {name} and zeros there"
                    )

    def _judge_steps(
        self, comparison: Comparison, params: Any, x: Any, masks: Mapping[str, Array]
    ) -> Iterator[Finding]:
        """The streaming step, each time from the states that the equations give."""
        for t, before in enumerate(comparison.witness.base.states[:-1]):
            x_t = self._join({n: a[t] for n, a in self._split(x).items()})
            state = {n: self._cast(comparison.whole(a)) for n, a in before.items()}
            extra = {"masks": {n: a[t] for n, a in masks.items()}} if masks else {}
            yield from comparison.step(t, self.module.step(params, x_t, state, **extra))


def gradient_name(entity: Entity) -> str:
    """Such as ∂L/∂W_i, and ∂L/∂h[0] of a state."""
    kind, name = entity
    return f"∂L/∂{name}[0]" if kind == "state" else f"∂L/∂{name}"


def snapshot(arguments: Any) -> bytes:
    """All bytes of nested dicts and tuples of arrays, to see whether they change."""
    if isinstance(arguments, dict):
        return b"".join(snapshot(v) for v in arguments.values())
    if isinstance(arguments, tuple):
        return b"".join(map(snapshot, arguments))
    return np.asarray(arguments).tobytes()
