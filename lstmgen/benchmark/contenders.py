"""Those who compute a problem: our targets, PyTorch and JAX.

``prepare`` does all that a user does once: building, uploading, compiling. What is timed is the
``call`` that it returns. PyTorch and JAX run a cell's ``transcript``; where PyTorch has a kernel
for the very equations of a cell, that is a contender as well.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from ..conventions.pytorch import convention_of
from ..errors import ToolchainError
from ..language import dtypes
from ..language.cell import Cell
from ..runtime import toolchain
from ..runtime.loading import load_python
from ..transcripts.dialects import Dialect, Jax, Torch
from ..transcripts.transcript import Transcript, transcribe
from .problem import INFERENCE, STEP, TRAINING, Problem, Values


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be timed.

    ``values`` turns what it returns into arrays by name, as ``Problem.results`` does; ``count`` is
    how often one call does the work.
    """

    call: Callable[[], Any]
    values: Callable[[Any], Values]
    count: int = 1


class Contender:
    """Someone who can compute some problems.

    Attributes
    ----------
    key : str
        How it is asked for.
    name : str
        How it is shown.
    library : str
        What has to be installed.
    checked : bool
        Whether it has results. A yardstick has none.
    """

    key: str
    name: str
    library: str = ""
    checked = True

    def fits(self, problem: Problem) -> bool:
        """Whether it is made for such a problem at all."""
        return True

    def name_for(self, cell: Cell) -> str:
        """How it is shown where it computes ``cell``."""
        return self.name

    def prepare(self, problem: Problem) -> Prepared:
        """Get ready.

        Raises
        ------
        LstmgenError
            If a library is missing, or cannot do this.
        """
        raise NotImplementedError


def library(name: str, extra: str = "bench") -> Any:
    """An optional library.

    Raises
    ------
    ToolchainError
        If it is not installed; the message says how it would be.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolchainError(
            f"timing {name} needs it to be installed\n  hint: pip install 'lstmgen[{extra}]'"
        ) from error


# --------------------------------------------------------------------------- ours


class Generated(Contender):
    """The code that lstmgen generates, called as a user calls it."""

    def __init__(self, target: str) -> None:
        self.target = self.key = target
        self.name = {"c": "lstmgen C", "numpy": "lstmgen NumPy"}[target]

    def prepare(self, problem: Problem) -> Prepared:
        options = {"threads": problem.threads} if problem.threads > 1 and self.target == "c" else {}
        module = toolchain.compile(problem.cell, self.target, dtype=problem.dtype, **options)
        p, several = problem, len(problem.inputs) > 1
        params: Any = p.params
        if p.work != TRAINING and hasattr(module, "pack"):
            params = module.pack(params)
        x: Any = p.inputs if several else next(iter(p.inputs.values()))
        masks = {"masks": p.masks} if p.masks else {}
        if p.work == STEP:
            first = {name: a[0] for name, a in p.inputs.items()}
            x = first if several else next(iter(first.values()))
            masks = {"masks": {name: a[0] for name, a in p.masks.items()}} if masks else {}
            return Prepared(lambda: module.step(params, x, p.state, **masks), partial(_of_step, p))
        if p.work == INFERENCE:
            keyword = inspect.signature(module.forward).parameters
            nothing_kept = {"tape": False} if "tape" in keyword else {}
            return Prepared(
                lambda: module.forward(params, x, p.state, **masks, **nothing_kept),
                lambda found: p.results(*found[:2]),
            )

        def train() -> Any:
            y, final, tape = module.forward(params, x, p.state, **masks)
            return y, final, module.backward(params, tape, p.dy)

        def values(found: Any) -> Values:
            y, final, (gradients, dx, initial) = found
            dx = dx if several else {next(iter(p.inputs)): dx}
            return p.results(y, final, gradients, dx, initial)

        return Prepared(train, values)


def _of_step(p: Problem, new: Mapping[str, Any]) -> Values:
    """The results of a step, of the dict that it returns."""
    ys = {v.name: np.asarray(new[v.name])[None] for v in p.cell.outputs}
    return p.results(p.joined(ys), {s.name: new[s.name] for s in p.cell.states})


# --------------------------------------------------------------------------- PyTorch


_TORCH, _JAX = Torch(), Jax()


@lru_cache(maxsize=16)
def _transcript(cell: Cell, sizes: tuple[tuple[str, int], ...], dialect: Dialect) -> Transcript:
    return transcribe(cell, dict(sizes), dialect)


def _written(problem: Problem, dialect: Dialect) -> tuple[Transcript, Any]:
    """A problem's transcript, and a module made of it."""
    sizes = {str(n): problem.sizes[str(n)] for n in problem.cell.sizes}
    made = _transcript(problem.cell, tuple(sizes.items()), dialect)
    tag = " ".join(f"{k}={n}" for k, n in sizes.items())
    where = f"<{dialect.name} transcript of {problem.cell.name}, {tag}>"
    return made, load_python(made.source, problem.cell.name, where)


def _autograd(problem: Problem, run: Callable[[], Any], leaves: Sequence[Any]) -> Any:
    """What is timed with PyTorch: ``run`` gives (*outputs, *final states)."""
    torch = library("torch")
    if problem.work != TRAINING:
        inference = torch.inference_mode

        def infer() -> Any:
            with inference():
                return run(), ()

        return infer
    dys = [torch.from_numpy(dy) for dy in problem.dys]

    def train() -> Any:
        out = run()
        # an output need not depend on anything that is learned
        pairs = [(y, dy) for y, dy in zip(out, dys, strict=False) if y.requires_grad]
        if not pairs:
            return out, [None] * len(leaves)
        ys, given = zip(*pairs, strict=True)
        return out, torch.autograd.grad(ys, leaves, given, allow_unused=True)

    return train


def _array(tensor: Any, like: Any) -> Any:
    """A tensor as an array; zeros for the gradient of what nothing reads."""
    return np.zeros(tuple(like.shape)) if tensor is None else tensor.detach().numpy()


class TorchLoop(Contender):
    """A cell written by hand with PyTorch: a loop over the steps.

    mode: "eager"; "script" (TorchScript); "compile" (torch.compile of it all, which unrolls the
    loop); "compile-step" (torch.compile of one step, called in a loop).
    """

    library = "torch"
    _NAMES: ClassVar[dict[str, str]] = {
        "eager": "PyTorch eager",
        "script": "TorchScript",
        "compile": "torch.compile",
        "compile-step": "torch.compile, a step",
    }

    def __init__(self, mode: str = "eager") -> None:
        self.mode, self.name = mode, self._NAMES[mode]
        self.key = f"torch-{mode}"

    def prepare(self, problem: Problem) -> Prepared:
        torch = library("torch")
        torch.set_num_threads(problem.threads)
        made, module = _written(problem, _TORCH)
        values = problem.values()
        training = problem.work == TRAINING
        tensors, leaves = [], {}
        for argument, array in zip(made.arguments, made.arrays(values), strict=True):
            tensor = torch.tensor(array, dtype=getattr(torch, problem.dtype))
            if training and argument.has_gradient:
                leaves[argument] = tensor.requires_grad_()
            tensors.append(tensor)
        sequence = self._built(torch, module)
        call = _autograd(problem, lambda: sequence(*tensors), list(leaves.values()))
        with _quiet():
            for _ in range(3):  # TorchScript's executor looks on twice before it optimises
                if self.mode == "eager":
                    break
                call()

        def found(result: Any) -> Values:
            out, gradients = result
            found = zip(leaves.items(), gradients, strict=False)
            parts = made.parts({a: _array(gradient, leaf) for (a, leaf), gradient in found})
            return _returned(problem, made, [a.detach().numpy() for a in out], parts)

        return Prepared(call, found)

    def _built(self, torch: Any, module: Any) -> Any:
        if self.mode == "script":
            with _quiet():
                return torch.jit.script(module.sequence)
        if self.mode.startswith("compile"):
            inductor: Any = importlib.import_module("torch._inductor.config")
            inductor.compile_threads = 1  # no pool of workers beside what is timed
            torch._dynamo.reset()
            if self.mode == "compile":
                return torch.compile(module.sequence, dynamic=False, fullgraph=True)
            module.step = torch.compile(module.step, dynamic=False, fullgraph=True)
        return module.sequence


@contextmanager
def _quiet() -> Any:
    """TorchScript warns that it is deprecated, and nn.LSTM that oneDNN has no projections."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _returned(
    problem: Problem, made: Transcript, out: Sequence[Any], parts: Mapping[str, Any]
) -> Values:
    """What a transcript returned, (*outputs, *final states), and gradients by name."""
    names = [v.name for v in problem.cell.outputs]
    ys = dict(zip(names, out, strict=False))
    final = dict(zip(made.states, out[len(names) :], strict=True))
    return _sorted(problem, problem.joined(ys), final, parts)


def _sorted(problem: Problem, y: Any, final: Mapping[str, Any], parts: Mapping[str, Any]) -> Values:
    """Gradients by name, told apart by what they belong to."""
    cell = problem.cell
    of = [cell.parameters, cell.inputs, cell.states]
    named = [{v.name: parts[v.name] for v in group if v.name in parts} for group in of]
    return problem.results(y, final, *named)


class TorchKernel(Contender):
    """``nn.LSTM`` or ``nn.GRU``, where the cell is one; ``single`` is ``nn.LSTMCell`` and so on.

    On a CPU, ``nn.LSTM`` in float32 is one oneDNN kernel. ``nn.GRU``, and projections, run ordinary
    operators step by step, in C++.
    """

    library = "torch"

    def __init__(self, *, single: bool = False) -> None:
        self.single = single
        self.key = "torch-cell" if single else "torch-kernel"
        self.name = "PyTorch nn.…Cell" if single else "PyTorch nn.LSTM/GRU"

    def name_for(self, cell: Cell) -> str:
        known = convention_of(cell)
        return f"PyTorch nn.{known.kind}{'Cell' * self.single}" if known else self.name

    def fits(self, problem: Problem) -> bool:
        known = convention_of(problem.cell)
        return known is not None and not (self.single and (problem.work != STEP or known.projected))

    def prepare(self, problem: Problem) -> Prepared:
        torch = library("torch")
        torch.set_num_threads(problem.threads)
        known = convention_of(problem.cell)
        assert known is not None, "fits() comes first"
        sizes = problem.sizes
        options: dict[str, Any] = {"dtype": getattr(torch, problem.dtype), **known.options}
        if "P" in sizes:
            options["proj_size"] = sizes["P"]
        layer = getattr(torch.nn, known.kind + "Cell" * self.single)(
            sizes["D"], sizes["H"], **options
        )
        layer.requires_grad_(problem.work == TRAINING)
        parts: dict[str, Sequence[str]] = {}
        for name, ours in known.tensors.items():
            key = name if self.single else f"{name}_l0"
            parts[key] = ours
            with torch.no_grad():
                self._fill(torch, getattr(layer, key), parts[key], problem.params)
        return self._timed(torch, layer, parts, problem)

    @staticmethod
    def _fill(torch: Any, target: Any, ours: Sequence[str], params: Mapping[str, Any]) -> None:
        target.zero_()
        rows = target.shape[0] // len(ours)
        for k, name in enumerate(ours):
            if name:
                target[k * rows : (k + 1) * rows] = torch.from_numpy(params[name])

    def _timed(
        self, torch: Any, layer: Any, parts: Mapping[str, Sequence[str]], problem: Problem
    ) -> Prepared:
        training = problem.work == TRAINING
        (x_name,) = problem.inputs
        x = torch.tensor(problem.inputs[x_name], requires_grad=training)
        states = {
            name: torch.tensor(a if self.single else a[None], requires_grad=training)
            for name, a in problem.state.items()
        }
        if self.single:
            x = x[0]
        given = tuple(states.values()) if len(states) > 1 else next(iter(states.values()))
        learned = [getattr(layer, key) for key in parts]

        def run() -> Any:
            return layer(x, given)

        def found(result: Any) -> Values:
            out, gradients = result
            y, final = (None, out) if self.single else out
            final = final if isinstance(final, tuple) else (final,)
            rows = [a.detach().numpy() for a in final]
            new = {n: a if self.single else a[0] for n, a in zip(states, rows, strict=True)}
            by_name: dict[str, Any] = {}
            if training:
                for ours, g in zip(parts.values(), gradients, strict=False):
                    named = zip(ours, np.split(g.numpy(), len(ours)), strict=True)
                    by_name |= {n: a for n, a in named if n}
                dx, *initial = gradients[len(parts) :]
                by_name[x_name] = dx.numpy()
                by_name |= {n: a.numpy()[0] for n, a in zip(states, initial, strict=True)}
            outputs = None if y is None else y.detach().numpy()
            return _sorted(problem, outputs, new, by_name)

        call = _autograd(problem, run, [*learned, x, *states.values()])
        with _quiet():
            call()
        return Prepared(call, found)


# --------------------------------------------------------------------------- JAX


class JaxScan(Contender):
    """A cell written by hand with JAX: ``lax.scan``, all under ``jit``."""

    key, name, library = "jax", "JAX scan", "jax"

    def prepare(self, problem: Problem) -> Prepared:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        jax = library("jax")
        if dtypes.dtype(problem.dtype).compute == dtypes.DOUBLE:
            jax.config.update("jax_enable_x64", True)
        made, module = _written(problem, _JAX)
        values = problem.values()
        arrays = [jax.numpy.asarray(a, dtype=problem.dtype) for a in made.arrays(values)]
        learned = [k for k, a in enumerate(made.arguments) if a.has_gradient]
        dys = tuple(jax.numpy.asarray(dy) for dy in problem.dys)

        def train(given: Any, dys: Any) -> Any:
            def of_learned(*changed: Any) -> Any:
                filled = list(given)
                for k, value in zip(learned, changed, strict=True):
                    filled[k] = value
                return module.sequence(*filled)

            out, pull = jax.vjp(of_learned, *(given[k] for k in learned))
            return out, pull((*dys, *map(jax.numpy.zeros_like, out[len(dys) :])))

        if problem.work == TRAINING:
            compiled = jax.jit(train)
            call = _blocking(jax, lambda: compiled(arrays, dys))
        else:
            compiled = jax.jit(module.sequence)
            call = _blocking(jax, lambda: (compiled(*arrays), ()))

        def found(result: Any) -> Values:
            out, gradients = result
            pairs = zip(learned, gradients, strict=False)
            parts = made.parts({made.arguments[k]: np.asarray(g) for k, g in pairs})
            return _returned(problem, made, list(map(np.asarray, out)), parts)

        return Prepared(call, found)


def _blocking(jax: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """JAX returns before the work is done."""
    return lambda: jax.block_until_ready(call())


# --------------------------------------------------------------------------- yardstick


class Gemm(Contender):
    """The machine's own speed: a product of two square matrices with NumPy."""

    key, name, checked = "gemm", "matrix product", False
    SIZE = 1024
    FLOPS = 2.0 * SIZE**3

    def prepare(self, problem: Problem) -> Prepared:
        a, b = (
            np.random.default_rng(0)
            .standard_normal((2, self.SIZE, self.SIZE))
            .astype(problem.dtype)
        )
        out = np.empty_like(a)
        return Prepared(lambda: np.matmul(a, b, out=out), lambda _: {})


AGAINST: dict[str, tuple[Contender, ...]] = {
    "torch": (TorchKernel(), TorchLoop("eager"), TorchLoop("script")),
    "jax": (JaxScan(),),
}
