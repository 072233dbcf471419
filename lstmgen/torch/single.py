"""One step of a cell as an ``nn.Module``, with the constructor and call of ``nn.LSTMCell``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..language.cell import Cell
from .base import Cells


class RecurrentCell(Cells):
    """One step of a recurrent cell.

    Parameters
    ----------
    cell, input_size, hidden_size, proj_size, backend, device, dtype, sizes
        As ``Recurrent`` has them.

    Notes
    -----
    Parameters are called as in the equations.
    """

    def __init__(
        self, cell: Cell | str, input_size: int, hidden_size: int, proj_size: int = 0, *,
        backend: str = "auto", device: Any = None, dtype: torch.dtype | None = None, **sizes: Any,
    ) -> None:  # fmt: skip
        super().__init__(cell, input_size, hidden_size, proj_size, backend, sizes)
        self.output_size = self._add("", self.input_size, device, dtype)
        states = set(self._states)
        self._own_outputs = [name for name in self._outputs if name not in states]

    def reset_parameters(self) -> None:
        """Start all parameters anew, as the cell says."""
        self._start("", self.input_size)

    def forward(self, x: Any, hx: Any = None, *, masks: Mapping[str, Tensor] | None = None) -> Any:
        """One step.

        Parameters
        ----------
        x : Tensor
            (B, input_size), or (input_size,) for one row. A cell of several inputs takes a tuple of
            them, in the order of the equations, or a dict.
        hx : Tensor, tuple or dict, optional
            The states before the step, each (B, size): one for a cell with one state, otherwise a
            tuple in the order of the equations, or a dict by name. Without it they are what the
            cell starts with.
        masks : dict, optional
            The masks of a cell that has some, each (B, size).

        Returns
        -------
        Tensor or tuple
            The states after the step, in the form of ``hx``. A cell whose output is not a state
            returns (y, states).
        """
        xs = self._given_inputs(x)
        batched = xs[0].dim() > 1
        states, told = self._given_states(hx), self._given_masks(masks, xs[0])
        if not batched:
            xs, states, told = ([v.unsqueeze(0) for v in vs] for vs in (xs, states, told))
        if len(xs) == 1 and xs[0].shape[-1] != self.input_size:
            raise ValueError(f"x has {xs[0].shape[-1]} units; input_size is {self.input_size}")
        ys, finals = self._run(
            "", [v.unsqueeze(0) for v in xs], states, [m.unsqueeze(0) for m in told]
        )
        ys = [y.squeeze(0) for y in ys]
        if not batched:
            ys, finals = [y.squeeze(0) for y in ys], [f.squeeze(0) for f in finals]
        new = self._form(finals, hx) if finals else ()
        return (self._result(ys), new) if self._own_outputs else new
