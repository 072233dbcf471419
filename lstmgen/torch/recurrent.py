"""``Recurrent``: layers of any cell as an ``nn.Module``, with the constructor and call of nn.LSTM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import LstmgenError
from ..language.cell import Cell
from ..network.layers import positive, probability
from ..runtime.loading import find_cell
from .kernels import face, refuse_dtype, register
from .operators import run
from .packed import over_packed

BACKENDS = ("auto", "c", "torch")


class Recurrent(nn.Module):
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
        "c" for kernels alone, "torch" for PyTorch's operations alone; "auto" for kernels where
        tensors are on the CPU.
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
        self, cell: Cell | str, input_size: int, hidden_size: int, num_layers: int = 1, bidirectional: bool = False, dropout: float = 0.0,
        batch_first: bool = False, proj_size: int = 0, *, backend: str = "auto",
        device: Any = None, dtype: torch.dtype | None = None, **sizes: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.cell = find_cell(cell) if isinstance(cell, str) else cell
        self._key = register(self.cell)
        of = face(self._key)
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self.num_layers = positive("num_layers", num_layers)
        self.bidirectional, self.batch_first = bool(bidirectional), bool(batch_first)
        self.dropout = probability("dropout", dropout)
        if backend not in BACKENDS:
            raise LstmgenError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}")
        self.backend = backend
        self._given = {**({"P": proj_size} if proj_size else {}), **sizes}
        self._inputs, self._states, self._masks = list(of.inputs), list(of.states), list(of.masks)
        self._outputs, self._learned = list(of.outputs), list(of.learned)
        self._names = list(of.parameters)
        self._make(device, dtype)

    # ------------------------------------------------------------------ parameters

    def _make(self, device: Any, dtype: torch.dtype | None) -> None:
        """The parameters of all layers, as they start."""
        of, width = face(self._key), self.input_size
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                started = self._started(width)
                for name in self._names:
                    made = torch.tensor(
                        started[name], device=device, dtype=dtype or torch.get_default_dtype()
                    )
                    if name in of.learned:
                        self.register_parameter(name + suffix, nn.Parameter(made))
                    else:
                        self.register_buffer(name + suffix, made)
            self._constants = tuple(float(started[name]) for name in of.constants)
            self.output_size = width = self._width(started)

    def _started(self, width: int) -> dict[str, Any]:
        """Parameters and constants of a layer whose input has so many units."""
        seed = int(torch.randint(2**31, ()).item())
        f = face(self._key).interface
        made: dict[str, Any] = f.init(
            width, self.hidden_size, seed=seed, dtype=np.float64, **self._given
        )
        return made

    def _width(self, started: Mapping[str, Any]) -> int:
        """The units of a layer's output."""
        of = face(self._key)
        sizes = {"D": self.input_size, "H": self.hidden_size, **self._given}
        sizes |= of.known([torch.from_numpy(started[name]) for name in self._names], (), (), ())
        stacked = self.num_layers > 1 or self.bidirectional
        axes = next(iter(of.outputs.values()))
        if stacked and (len(of.outputs) > 1 or len(axes) != 1):
            found = f"an output with the axes {', '.join(axes)}"
            if len(of.outputs) > 1:
                found = f"the outputs {', '.join(of.outputs)}"
            raise LstmgenError(
                f"{self.cell.name} has {found}: it can be one layer in one direction"
            )
        return int(np.prod([sizes[axis] for axis in axes])) * self._directions

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start all parameters anew, as the cell says."""
        width = self.input_size
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                started = self._started(width)
                for name in self._names:
                    getattr(self, name + suffix).copy_(torch.from_numpy(started[name]))
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
        if xs[0].shape[-1] != self.input_size:
            raise ValueError(f"x has {xs[0].shape[-1]} units; input_size is {self.input_size}")
        states = self._given_states(hx, batched)
        ys, finals = self._layers(xs, states, self._given_masks(masks, xs[0]))
        if not batched:
            ys, finals = [y.squeeze(1) for y in ys], [f.squeeze(1) for f in finals]
        elif self.batch_first:
            ys = [y.transpose(0, 1) for y in ys]
        return self._result(ys), self._form(finals, hx)

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

    def _run(
        self, suffix: str, xs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One direction of one layer."""
        params = [getattr(self, name + suffix) for name in self._names]
        if params:
            self._same_kind(xs, params[0])
        if self.backend == "torch" or (self.backend == "auto" and xs[0].device.type != "cpu"):
            from .operations import run_operations

            return run_operations(self._key, params, xs, states, masks, self._constants)
        return run(self._key, params, xs, states, masks, self._constants, len(self._outputs))

    @staticmethod
    def _same_kind(xs: Sequence[Tensor], parameter: Tensor) -> None:
        x = xs[0]
        if x.dtype != parameter.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"x is {x.dtype}, and the parameters are {parameter.dtype}\n"
                "  hint: x.to(module.dtype), or module.to(x.dtype)"
            )

    def _starts(self, rows: int, like: Tensor) -> list[Tensor]:
        """The states that one direction of a layer starts with."""
        of = face(self._key)
        sizes = {"D": self.input_size, "H": self.hidden_size, **self._given}
        sizes |= of.known([getattr(self, f"{name}_l0") for name in self._names], (), (), ())
        return [
            like.new_full(shape, float(start))
            for shape, start in zip(of.shapes(of.states, sizes, rows), of.starts.values(),
                                    strict=True)
        ]  # fmt: skip

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

    def _given_states(self, hx: Any, batched: bool) -> list[Tensor]:
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
        found = found if batched else [s.unsqueeze(1) for s in found]
        layers = self.num_layers * self._directions
        for name, state in zip(names, found, strict=True):
            if state.shape[0] != layers:
                raise ValueError(
                    f"the state {name} is of {state.shape[0]} layers and directions; expected "
                    f"{layers}, as its first axis"
                )
        return found

    def _given_masks(self, masks: Mapping[str, Tensor] | None, x: Tensor) -> list[Tensor]:
        """The masks in order, in full."""
        given = masks or {}
        if set(given) != set(self._masks):
            needs = f"the masks {', '.join(self._masks)}" if self._masks else "no masks"
            raise ValueError(f"{self.cell.name} has {needs}: masks={{{', '.join(sorted(given))}}}")
        return [given[name].to(x.dtype).expand(self._extent(name, given[name], x))
                for name in self._masks]  # fmt: skip

    def _extent(self, name: str, mask: Tensor, x: Tensor) -> list[int]:
        axes = len(face(self._key).masks[name])
        shape = [1] * (2 + axes - mask.dim()) + list(mask.shape)
        return [*x.shape[:2], *shape[2:]]

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
        for name, default in (
            ("num_layers", 1),
            ("bidirectional", False),
            ("dropout", 0.0),
            ("batch_first", False),
            ("proj_size", 0),
            ("backend", "auto"),
        ):
            value = getattr(self, name)
            if value != default:
                said.append(f"{name}={value!r}")
        return ", ".join([*said, *(f"{k}={v}" for k, v in self._given.items() if k != "P"
                                   or not self.proj_size)])  # fmt: skip
