"""Statistics of the gates in ``Recurrent`` modules while they are trained, by hooks.

Every so often, what a layer has read goes once more through its cell, as one that shows its gates;
and what arrives at its output on the way back goes back through that. Neither is part of PyTorch's
graph: training is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from ..errors import LstmgenError, ToolchainError
from ..monitor.module import WatchedModule
from ..monitor.training import positive_every
from ..monitor.writing import require_writer, write_adjoints, write_gates, write_gradient
from ..runtime.toolchain import find_compiler
from .kernels import face
from .recurrent import Recurrent

_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def _outside(hook: _Hook) -> _Hook:
    """A hook that ``torch.compile`` does not look into; graphs end where it is called."""
    why = "lstmgen.torch.monitor watches this module, which runs outside of graphs; remove() it"
    made: _Hook = torch.compiler.disable(hook, reason=why)
    return made


class Monitoring:
    """What ``monitor`` has set up. Without it, or after ``remove``, there are no hooks."""

    def __init__(self, handles: Sequence[Any], watchers: Sequence[_Watcher]) -> None:
        self._handles, self._watchers = list(handles), list(watchers)

    def remove(self) -> None:
        """Write no more."""
        for handle in self._handles:
            handle.remove()
        for watcher in self._watchers:
            watcher.forget()
        self._handles, self._watchers = [], []


def monitor(model: nn.Module, writer: Any, every: int = 100, *, step: int = 0) -> Monitoring:
    """Write what the gates of all ``Recurrent`` modules of a model do while it is trained.

    Of every so many calls of such a module in training mode, one is written: of each gate and
    candidate of each layer and direction the values as a histogram, and the shares that are below
    0.05 and above 0.95, in all and for each unit; after the backward pass of that call, the norm of
    what arrives at each state, by how many steps back, and the norm of the gradient of each
    parameter of the model.

    Parameters
    ----------
    model : Module
        Before it is compiled by ``torch.compile``. Names of its submodules are in the tags.
    writer : SummaryWriter
        Of ``torch.utils.tensorboard``, or what has its ``add_scalar`` and ``add_histogram_raw``.
    every : int
        Of how many calls one is written; the first is.
    step : int
        The number of the first call, where training goes on.

    Returns
    -------
    Monitoring
        Its ``remove()`` ends this.

    Raises
    ------
    LstmgenError
        If there is no ``Recurrent`` in the model.
    """
    require_writer(writer)
    positive_every(every)
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise LstmgenError(
            "the model is compiled: its graphs have no place for hooks\n"
            "  hint: lstmgen.torch.monitor(model, …) before torch.compile(model)"
        )
    found = {
        name or module.cell.name: module
        for name, module in model.named_modules()
        if isinstance(module, Recurrent)
    }
    if not found:
        raise LstmgenError(
            f"there is no lstmgen.torch.Recurrent in this {type(model).__name__}, whose gates "
            "could be seen"
        )
    names = {id(p): name for name, p in model.named_parameters()}
    mine = [{id(p) for p in module.parameters()} for module in found.values()]
    mine[0] |= names.keys() - set().union(*mine)  # parameters of no Recurrent go with the first
    watchers, handles = [], []
    for (name, module), own in zip(found.items(), mine, strict=True):
        parameters = {names[id(p)]: p for p in model.parameters() if id(p) in own}
        watcher = _Watcher(name, module, writer, every, step, parameters)
        watchers.append(watcher)
        handles.append(module.register_forward_pre_hook(watcher.before))
        handles.append(module.register_forward_hook(watcher.after, always_call=True))
    return Monitoring(handles, watchers)


@dataclass(frozen=True)
class _Run:
    """One call of a cell over some steps: what it made, and the same call of the watched cell."""

    watched: WatchedModule
    ys: Sequence[Tensor]
    finals: Sequence[Tensor]
    params: Mapping[str, Any]
    tape: Any


class _Watcher:
    """The hooks of one module."""

    def __init__(
        self, name: str, module: Recurrent, writer: Any, every: int, step: int,
        parameters: Mapping[str, nn.Parameter],
    ) -> None:  # fmt: skip
        self._name, self._module, self._writer = name, module, writer
        self._every, self._step, self._parameters = every, step, parameters
        try:
            find_compiler()
            self._target = "c"
        except ToolchainError:
            self._target = "numpy"
        self._runs: dict[str, list[_Run]] | None = None
        self._watched: dict[tuple[str, torch.dtype], WatchedModule] = {}
        self._waiting: list[Any] = []
        for suffix in self._suffixes():  # compiles now, rather than in the midst of training
            for p in self._module._params(suffix)[:1]:
                self._watched_of(suffix, _dtype(p.dtype))

    def _suffixes(self) -> Iterator[str]:
        for layer in range(self._module.num_layers):
            yield from self._module._suffixes(layer)

    # ------------------------------------------------------------------ a model is copied

    def __deepcopy__(self, memo: Any) -> _Watcher:
        """A copy of the model is another one, whose calls are not counted."""
        return self

    def __reduce__(self) -> Any:
        """A saved model is not watched: files do not hold a writer."""
        return _Unwatched, ()

    # ------------------------------------------------------------------ hooks

    @_outside
    def before(self, module: nn.Module, args: Any) -> None:
        """Count a call, and watch it if it is its turn."""
        if module is not self._module or not (module.training and torch.is_grad_enabled()):
            return
        self._step += 1
        if (self._step - 1) % self._every:
            return
        self.forget()
        if torch._C._are_functorch_transforms_active():
            raise LstmgenError(
                f"{self._name} is watched, which it cannot be within torch.func\n"
                "  hint: remove() what lstmgen.torch.monitor returned"
            )
        self._runs = {suffix: [] for suffix in self._suffixes()}
        module.__dict__["_run"] = self._run

    @_outside
    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Write what the gates did, and wait for gradients."""
        if module is not self._module or self._runs is None:
            return
        runs, self._runs = self._runs, None
        module.__dict__.pop("_run", None)
        if output is None or not any(runs.values()):  # it failed, or there were no steps
            return
        step = self._step - 1
        for suffix, of in runs.items():
            for watched in dict.fromkeys(run.watched for run in of):
                write_gates(self._writer, watched.seen(), step, self._name + suffix)
        made = [t for of in runs.values() for run in of for t in (*run.ys, *run.finals)]
        if made := [t for t in made if t.requires_grad]:
            self._wait(runs, made, step)

    def forget(self) -> None:
        """Wait for no gradients."""
        for handle in self._waiting:
            handle.remove()
        self._waiting = []

    @_outside
    def _run(
        self, suffix: str, xs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """In the place of the module's own ``_run``, which it calls."""
        module, runs = self._module, self._runs
        ys, finals = type(module)._run(module, suffix, xs, states, masks)
        assert runs is not None
        if len({t.grad_fn for t in (*ys, *finals)}) > 1:
            # of PyTorch's own operations: what y is made of has the gradient of y, too
            finals = [f.view_as(f) for f in finals]
        with torch.no_grad():
            runs[suffix].append(self._again(suffix, xs, states, masks, ys, finals))
        return ys, finals

    def _again(
        self, suffix: str, xs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor],
        ys: Sequence[Tensor], finals: Sequence[Tensor],
    ) -> _Run:  # fmt: skip
        """The same call through the cell that shows its gates."""
        module = self._module
        params = module._params(suffix)
        dtype = _dtype((*params, *xs)[0].dtype)
        watched = self._watched_of(suffix, dtype)
        whole = module._whole(masks, suffix, xs[0])

        def named(names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, Any]:
            arrays = (t.detach().to("cpu", dtype).numpy() for t in tensors)
            return dict(zip(names, arrays, strict=True))

        given: dict[str, Any] = named(module._names, params)
        given |= dict(zip(face(module._key).constants, module._constants, strict=True))
        state = named(module._states, states) if states else None
        inputs = named(module._inputs, xs)
        x = inputs if len(inputs) > 1 else inputs[module._inputs[0]]
        _, _, tape = watched.forward(given, x, state, named(module._masks, whole))
        return _Run(watched, ys, finals, given, tape)

    # ------------------------------------------------------------------ gradients

    def _wait(self, runs: Mapping[str, list[_Run]], made: Sequence[Tensor], step: int) -> None:
        """Have gradients written once they are there, those of what was ``made``."""
        early: list[tuple[str, float]] = []
        is_here = False

        def arrived(grads: Sequence[Tensor | None]) -> None:
            nonlocal is_here
            outputs.remove()
            is_here = True
            by = {id(t): g for t, g in zip(made, grads, strict=True)}
            with torch.no_grad():
                self._back(runs, by, step)
            for name, value in early:
                write_gradient(self._writer, name, value, step)

        def accumulated(name: str, value: float) -> None:
            # a pass back from another call has gradients of parameters, too: they are not ours
            if is_here:
                write_gradient(self._writer, name, value, step)
            else:
                early.append((name, value))

        outputs = register_multi_grad_hook(made, arrived)
        self._waiting.append(outputs)
        for name, p in self._parameters.items():
            if p.requires_grad and p.is_leaf:
                self._waiting.append(_once(p, partial(accumulated, name)))

    def _back(
        self, runs: Mapping[str, list[_Run]], grads: Mapping[int, Tensor | None], step: int
    ) -> None:
        """What arrived at the outputs and final states goes back through the watched cells."""
        module = self._module

        def arrays(tensors: Sequence[Tensor], names: Sequence[str]) -> dict[str, Any]:
            found = {}
            for name, t in zip(names, tensors, strict=True):
                g = grads.get(id(t))
                g = torch.zeros_like(t) if g is None else g.detach()
                found[name] = g.to("cpu", _dtype(g.dtype)).numpy()
            return found

        for suffix, of in runs.items():
            for run in reversed(of):
                dy, dstate = arrays(run.ys, module._outputs), arrays(run.finals, module._states)
                run.watched.backward(run.params, run.tape, dy, dstate)
            for watched in dict.fromkeys(run.watched for run in of):
                write_adjoints(self._writer, watched.statistics(), step, self._name + suffix)

    def _watched_of(self, suffix: str, dtype: torch.dtype) -> WatchedModule:
        if (suffix, dtype) not in self._watched:
            options = {"dtype": str(dtype).removeprefix("torch.")} if self._target == "c" else {}
            made = WatchedModule(self._module.cell, self._target, **options)
            self._watched[suffix, dtype] = made
        return self._watched[suffix, dtype]


def _dtype(dtype: torch.dtype) -> torch.dtype:
    """What it is computed in."""
    return dtype if dtype == torch.float64 else torch.float32


def _once(parameter: nn.Parameter, then: Callable[[float], None]) -> Any:
    """Have ``then`` told the norm of the gradient that is accumulated next."""

    def accumulated(p: Tensor) -> None:
        handle.remove()
        if p.grad is not None:
            g = p.grad.detach()
            g = g.coalesce().values() if g.is_sparse else g
            then(float(torch.linalg.vector_norm(g, dtype=_dtype(g.dtype))))

    handle = parameter.register_post_accumulate_grad_hook(accumulated)
    return handle


class _Unwatched:
    """What a saved model has in the place of its watchers."""

    def before(self, module: nn.Module, args: Any) -> None:
        """Do nothing."""

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Do nothing."""
