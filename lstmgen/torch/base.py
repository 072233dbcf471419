"""What modules of a cell share: its parameters, and how one direction of a layer runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LstmgenError
from ..language.cell import Cell
from ..network.layers import positive
from ..runtime.loading import find_cell
from ..targets.numpy.target import binds
from .kernels import face, register
from .operations import run_operations
from .operators import run

BACKENDS = ("auto", "c", "torch", "compiled")


class Cells(nn.Module):
    """A module that has one cell or several of a kind. A *suffix* tells their parameters apart.

    Parameters
    ----------
    cell, hidden_size, proj_size, backend, sizes
        As ``Recurrent`` has them.
    """

    _defaults: ClassVar[dict[str, Any]] = {"proj_size": 0, "backend": "auto"}

    def __init__(
        self, cell: Cell | str, input_size: int, hidden_size: int, proj_size: int, backend: str,
        sizes: Mapping[str, Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self.cell = find_cell(cell) if isinstance(cell, str) else cell
        self._key = register(self.cell)
        self.input_size = positive("input_size", input_size)
        self.hidden_size = positive("hidden_size", hidden_size)
        self.proj_size = proj_size
        if backend not in BACKENDS:
            raise LstmgenError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}")
        self.backend = backend
        self._given = {**({"P": proj_size} if proj_size else {}), **sizes}
        of = face(self._key)
        self._inputs, self._states, self._masks = list(of.inputs), list(of.states), list(of.masks)
        self._outputs, self._learned = list(of.outputs), list(of.learned)
        self._names, self._constant_names = list(of.parameters), list(of.constants)
        # a graph is made without looking into the cell: what running needs of it stands here
        self._mask_axes, self._state_axes = dict(of.masks), dict(of.states)
        self._state_starts = [float(start) for start in of.starts.values()]
        self._sizes: dict[str, dict[str, int]] = {}

    # ------------------------------------------------------------------ parameters

    def _add(self, suffix: str, width: int, device: Any, dtype: torch.dtype | None) -> int:
        """Parameters of one cell whose input has ``width`` units; returns those of its output."""
        started = self._started(width)
        dtype = dtype or torch.get_default_dtype()
        for name in self._names:
            if hasattr(self, name + suffix):
                raise LstmgenError(
                    f"{self.cell.name}: a module has {name} already\n"
                    "  hint: give the parameter another name"
                )
            made = torch.tensor(started[name], device=device, dtype=dtype)
            if name in self._learned:
                self.register_parameter(name + suffix, nn.Parameter(made))
            else:
                self.register_buffer(name + suffix, made)
        of = face(self._key)
        self._constants = tuple(float(started[name]) for name in of.constants)
        given = {"D": self.input_size, "H": self.hidden_size, **self._given}
        params = [torch.from_numpy(started[name]) for name in self._names]
        self._sizes[suffix] = sizes = {**given, **of.known(params, (), (), ())}
        axes = next(iter(of.outputs.values()))
        units = int(np.prod([sizes[axis] for axis in axes]))
        if "hidden_size" not in binds(self.cell) and units != self.hidden_size:
            raise LstmgenError(
                f"the output of {self.cell.name} has {' * '.join(axes)} = {units} units, and "
                f"hidden_size is {self.hidden_size}"
            )
        return units

    def _started(self, width: int) -> dict[str, Any]:
        """What the parameters and constants of a cell start with."""
        seed = int(torch.randint(2**31, (), device="cpu").item())
        of, told = face(self._key), binds(self.cell)
        for name in of.sizes:
            if name not in self._given and name not in told.values():
                raise LstmgenError(
                    f"{self.cell.name} has the size {name}, too\n"
                    f"  hint: {type(self).__name__}(…, {name}=16)"
                )
        try:
            made: dict[str, Any] = of.interface.init(
                width, self.hidden_size, seed=seed, dtype=np.float64, **self._given
            )
        except (TypeError, ValueError) as error:
            raise LstmgenError(f"{self.cell.name}: {error}") from None
        return made

    @torch.no_grad()
    def _start(self, suffix: str, width: int) -> None:
        """Start the parameters of one cell anew."""
        started = self._started(width)
        for name in self._names:
            getattr(self, name + suffix).copy_(torch.from_numpy(started[name]))

    def _params(self, suffix: str) -> list[Tensor]:
        return [getattr(self, name + suffix) for name in self._names]

    def _run(
        self, suffix: str, xs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One direction of one layer."""
        params = self._params(suffix)
        masks = self._whole(masks, suffix, xs[0])
        if params:
            self._same_kind(xs, params[0])
        is_elsewhere = self.backend == "auto" and xs[0].device.type != "cpu"
        if is_elsewhere or self.backend in ("torch", "compiled"):
            names = {
                "parameters": self._names, "inputs": self._inputs, "states": self._states,
                "masks": self._masks, "constants": self._constant_names,
            }  # fmt: skip
            return run_operations(
                self._key,
                names,
                params,
                xs,
                states,
                masks,
                self._constants,
                self._sizes[suffix],
                self.backend == "compiled",
            )
        return run(self._key, params, xs, states, masks, self._constants, len(self._outputs))

    @staticmethod
    def _same_kind(xs: Sequence[Tensor], parameter: Tensor) -> None:
        x = xs[0]
        if x.dtype != parameter.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"x is {x.dtype}, and the parameters are {parameter.dtype}\n"
                f"  hint: x.to({parameter.dtype}), or module.to({x.dtype})"
            )

    def _starts(self, suffix: str, rows: int, like: Tensor) -> list[Tensor]:
        """The states that one cell starts with."""
        sizes = self._sizes[suffix]
        return [
            like.new_full((rows, *(sizes[axis] for axis in axes)), start)
            for axes, start in zip(self._state_axes.values(), self._state_starts, strict=True)
        ]

    # ------------------------------------------------------------------ what callers give and get

    def _given_inputs(self, x: Any) -> list[Tensor]:
        """The inputs in order."""
        names = self._inputs
        if isinstance(x, Tensor):
            found = [x]
        elif isinstance(x, Mapping):
            if set(x) != set(names):
                raise ValueError(f"x is a dict of the inputs {names}, not of {sorted(x)}")
            found = [x[name] for name in names]
        else:
            found = list(x)
        if len(found) != len(names):
            raise ValueError(
                f"{self.cell.name} has {len(names)} inputs, {', '.join(names)}: x is a tuple of "
                f"them or a dict, not {len(found)} of them"
            )
        return found

    def _given_states(self, hx: Any) -> list[Tensor]:
        """The initial states in order; none for those that the cell starts with."""
        if hx is None or not self._states:
            return []
        names = self._states
        if isinstance(hx, Tensor):
            found = [hx]
        elif isinstance(hx, Mapping):
            if set(hx) != set(names):
                raise ValueError(f"hx is a dict of the states {names}, not of {sorted(hx)}")
            found = [hx[name] for name in names]
        else:
            found = list(hx)
        if len(found) != len(names):
            raise ValueError(
                f"{self.cell.name} has the states ({', '.join(names)}), and hx is "
                f"{'one tensor' if isinstance(hx, Tensor) else f'{len(found)} tensors'}"
            )
        return found

    def _given_masks(self, masks: Mapping[str, Tensor] | None, x: Tensor) -> list[Tensor]:
        """The masks in order."""
        given = masks or {}
        if set(given) != set(self._masks):
            needs = f"the masks {', '.join(self._masks)}" if self._masks else "no masks"
            raise ValueError(f"{self.cell.name} has {needs}: masks={{{', '.join(sorted(given))}}}")
        return [given[name].to(x.dtype) for name in self._masks]

    def _whole(self, masks: Sequence[Tensor], suffix: str, x: Tensor) -> list[Tensor]:
        """Masks in full, (T, B, *axes); callers may leave out what broadcasts."""
        sizes = self._sizes[suffix]
        return [
            mask.expand((*x.shape[:2], *(sizes[axis] for axis in axes)))
            for mask, axes in zip(masks, self._mask_axes.values(), strict=True)
        ]

    def _result(self, ys: Sequence[Tensor]) -> Any:
        return ys[0] if len(ys) == 1 else dict(zip(self._outputs, ys, strict=True))

    def _form(self, finals: Sequence[Tensor], like: Any) -> Any:
        """Final states in the form of the initial ones."""
        if isinstance(like, Mapping):
            return dict(zip(self._states, finals, strict=True))
        return finals[0] if len(finals) == 1 else tuple(finals)

    # ------------------------------------------------------------------ as a module

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._key = register(self.cell)  # another process has to know it, too

    def extra_repr(self) -> str:
        """The arguments that are not what they are by default."""
        said = [self.cell.name, str(self.input_size), str(self.hidden_size)]
        for name, default in self._defaults.items():
            if (value := getattr(self, name)) != default:
                said.append(f"{name}={value!r}")
        given = {k: v for k, v in self._given.items() if k != "P" or not self.proj_size}
        return ", ".join([*said, *(f"{k}={v}" for k, v in given.items())])
