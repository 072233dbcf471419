"""Layers of any cell as an ``nn.Module``, with the constructor and call of ``nn.LSTM``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import LstmgenError
from ..language.cell import Cell
from ..network.layers import positive, probability
from .base import Cells
from .packed import over_packed


class Recurrent(Cells):
    """Layers of a recurrent cell.

    On the CPU, in float32 and float64, each direction of a layer is one operator over generated C,
    with the derived gradient, and the second derivative. On other devices the same equations run
    as PyTorch's operations.

    Parameters
    ----------
    cell : Cell or str
        A cell; or the name of a reference cell or of a file, "lstm", "my_cell.cell".
    input_size : int
        The units of x.
    hidden_size : int
        The size H of the cell, or for cells without H that of the output, as in ``init`` of a
        generated module.
    num_layers : int
        Layers on top of each other.
    bidirectional : bool
        Give each layer a second cell that reads the sequence from its end; both outputs are put
        side by side.
    dropout : float
        The probability with which an output of a layer that is not the last one is dropped, in
        training mode.
    batch_first : bool
        x and y are (B, T, size) instead of (T, B, size). States are not concerned.
    proj_size : int
        The size P of cells that have one, such as "lstmp": the units of the hidden state. The same
        as ``P=``.
    backend : str
        "c" for kernels alone; "torch" for PyTorch's operations alone, in a loop over steps, and
        "compiled" for the same with each step through ``torch.compile``; "auto" for kernels where
        tensors are on the CPU, and PyTorch's operations elsewhere.
    device, dtype
        Of the parameters.
    **sizes
        Other sizes that the cell has, ``K=16``, and values of its constants, ``dt=0.1``.

    Attributes
    ----------
    cell : Cell
    output_size : int
        The units of y: those of the output, times two if bidirectional.

    Notes
    -----
    Parameters are called as in the equations, with the layer and direction: ``W_i_l0``,
    ``U_f_l1_reverse``. What the cell says is not learned is a buffer. They start as the cell says,
    with numbers that follow from ``torch.manual_seed``.

    Raises
    ------
    LstmgenError
        If the cell has no such size, or cannot be stacked as asked for.
    """

    def __init__(
        self, cell: Cell | str, input_size: int, hidden_size: int, num_layers: int = 1,
        bidirectional: bool = False, dropout: float = 0.0, batch_first: bool = False,
        proj_size: int = 0, *, backend: str = "auto", device: Any = None,
        dtype: torch.dtype | None = None, **sizes: Any,
    ) -> None:  # fmt: skip
        super().__init__(cell, input_size, hidden_size, proj_size, backend, sizes)
        self.num_layers = positive("num_layers", num_layers)
        self.bidirectional, self.batch_first = bool(bidirectional), bool(batch_first)
        self.dropout = probability("dropout", dropout)
        self._refuse_stacking()
        width = self.input_size
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                units = self._add(suffix, width, device, dtype)
            width = units * self._directions
        self.output_size = width

    _defaults: ClassVar[dict[str, Any]] = {
        "num_layers": 1, "bidirectional": False, "dropout": 0.0, "batch_first": False,
        "proj_size": 0, "backend": "auto",
    }  # fmt: skip

    def _refuse_stacking(self) -> None:
        """Refuse layers or directions of a cell whose output is no vector."""
        if self.num_layers == 1 and not self.bidirectional:
            return
        if len(self._outputs) > 1:
            raise LstmgenError(
                f"{self.cell.name} has the outputs {', '.join(self._outputs)}: it can be one layer "
                "in one direction"
            )
        axes = self.cell.shape(self.cell.output)
        if len(axes) > 1:
            listed = ", ".join(map(str, axes))
            raise LstmgenError(
                f"the output of {self.cell.name} has the axes ({listed}): it can be one layer in "
                "one direction\n  hint: flatten() it in the cell"
            )

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    def reset_parameters(self) -> None:
        """Start all parameters anew, as the cell says."""
        width = self.input_size
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                self._start(suffix, width)
            width = self.output_size

    def flatten_parameters(self) -> None:
        """Do nothing: models that were written for ``nn.LSTM`` call it."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The learned parameters of each layer and direction, as ``nn.LSTM`` lists them."""
        return [
            [getattr(self, name + suffix) for name in self._learned]
            for layer in range(self.num_layers)
            for suffix in self._suffixes(layer)
        ]

    # ------------------------------------------------------------------ running

    def forward(
        self, x: Any, hx: Any = None, *, masks: Mapping[str, Tensor] | None = None
    ) -> tuple[Any, Any]:
        """Run over sequences: (y, final states).

        Parameters
        ----------
        x : Tensor or PackedSequence
            (T, B, input_size), (B, T, input_size) if ``batch_first``, or (T, input_size) for one
            sequence without a batch. A cell of several inputs takes a tuple of them, in the order
            of the equations, or a dict; the first one is what layers hand on, all layers have the
            others.
        hx : Tensor, tuple or dict, optional
            The initial states, each (num_layers * directions, B, size): one for a cell with one
            state, otherwise a tuple in the order of the equations, (h, c) for the LSTM, or a dict
            by name. Without it they are what the cell starts with.
        masks : dict, optional
            The masks of a cell that has some, each (T, B, size) or what broadcasts to that. All
            layers have the same.

        Returns
        -------
        y : Tensor, PackedSequence or dict
            (T, B, output_size), in the form of x. A cell of several outputs has a dict.
        hx : Tensor or tuple
            The final states, in the form of ``hx``.

        Raises
        ------
        ValueError
            If shapes do not fit.
        TypeError
            If x is of another number type than the parameters, or of one without kernels.
        """
        if isinstance(x, PackedSequence):
            return over_packed(self, x, hx, masks)
        xs = self._given_inputs(x)
        batched = xs[0].dim() == 3
        if not batched:
            if xs[0].dim() != 2:
                raise ValueError(
                    f"x has {xs[0].dim()} axes; expected (T, B, {self.input_size}), or "
                    f"(T, {self.input_size}) for one sequence"
                )
            xs = [v.unsqueeze(1) for v in xs]
        elif self.batch_first:
            xs = [v.transpose(0, 1) for v in xs]
        if len(xs) == 1 and xs[0].shape[-1] != self.input_size:
            raise ValueError(f"x has {xs[0].shape[-1]} units; input_size is {self.input_size}")
        states = self._stacked_states(hx, batched)
        ys, finals = self._layers(xs, states, self._given_masks(masks, xs[0]))
        if not batched:
            ys, finals = [y.squeeze(1) for y in ys], [f.squeeze(1) for f in finals]
        elif self.batch_first:
            ys = [y.transpose(0, 1) for y in ys]
        return self._result(ys), self._form(finals, hx)

    def _stacked_states(self, hx: Any, batched: bool) -> list[Tensor]:
        """The initial states in order, each (layers * directions, B, *axes)."""
        found, layers = self._given_states(hx), self.num_layers * self._directions
        for name, state in zip(self._states, found, strict=bool(found)):
            if state.shape[0] != layers:
                raise ValueError(
                    f"the state {name} is of {state.shape[0]} layers and directions; expected "
                    f"{layers}, as its first axis"
                )
        return found if batched else [s.unsqueeze(1) for s in found]

    def _layers(
        self, xs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers; states are stacked, (layers * directions, B, *axes)."""
        finals: list[list[Tensor]] = [[] for _ in self._states]
        ys: list[Tensor] = []
        for layer in range(self.num_layers):
            made = []
            if layer and self.dropout:
                xs = [nn.functional.dropout(xs[0], self.dropout, self.training), *xs[1:]]
            for k, suffix in enumerate(self._suffixes(layer)):
                at = layer * self._directions + k
                held = [s[at] for s in states]
                given = [v.flip(0) for v in xs] if k else xs
                told = [m.flip(0) for m in masks] if k else masks
                ys, last = self._run(suffix, given, held, told)
                made.append([y.flip(0) for y in ys] if k else ys)
                for found, final in zip(finals, last, strict=True):
                    found.append(final)
            ys = [torch.cat(parts, -1) for parts in zip(*made, strict=True)] if k else made[0]
            xs = [ys[0], *xs[1:]]
        return ys, [torch.stack(found) for found in finals]
