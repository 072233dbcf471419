"""A cell as differentiable PyTorch operations over a sequence, on the device of its tensors.

``sequence_function`` writes a cell's transcript for PyTorch, and calls it with tensors by the names
that the equations have. PyTorch is imported when the first function is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import LstmgenError, did_you_mean
from ..language.cell import Cell
from ..runtime.loading import load_python
from ..verification.evaluation import number
from .dialects import Torch
from .scope import Argument
from .transcript import Transcript, transcribe

Tensor = Any  # torch.Tensor: PyTorch need not be installed to read this
Tensors = Mapping[str, Tensor]
Shape = tuple[int, ...]
Names = Mapping[str, Any] | Sequence[str]

_TORCH = Torch()


class SequenceFunction:
    """A cell over a sequence, in plain PyTorch operations; ``sequence_function`` makes it.

    Attributes
    ----------
    cell : Cell
    sizes : dict
        The cell's sizes by name. Steps and rows are those of the tensors, at each call.
    source : str
        Python text that defines ``sequence(*arguments) -> (*outputs, *final states)``. Its
        arguments may be several parameters in one array; calls put them together.
    """

    def __init__(self, cell: Cell, sizes: Mapping[str, int], compiled: bool = False) -> None:
        self.cell, self.sizes, self._compiled = cell, dict(sizes), compiled
        self._made = transcribe(cell, self.sizes, _TORCH)
        self.source = self._made.source
        self._run = _loaded(self.source, cell, self.sizes, compiled)
        self._parameters = self._shapes(cell.parameters)
        self._inputs, self._masks = self._shapes(cell.inputs), self._shapes(cell.masks)
        self._states, self._outputs = self._shapes(cell.states), self._shapes(cell.outputs)
        self._constants = tuple(c.name for c in cell.constants)
        self._starts = {s.name: float(cell.starts_at(s)) for s in cell.states}

    def __call__(
        self,
        params: Tensors,
        constants: Mapping[str, float],
        inputs: Tensors,
        states: Tensors | None = None,
        masks: Tensors | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The outputs of all steps, each (T, B, *axes), and the states after the last, (B, *axes).

        Parameters
        ----------
        params : mapping from names to tensors
            All parameters of the equations, also those that are not learned.
        constants : mapping from names to numbers
            All constants; they are rounded to the type of the inputs.
        inputs, masks : mapping from names to tensors
            (T, B, *axes) each. Masks may be of whole numbers or bool.
        states : mapping from names to tensors, optional
            What comes into the first step, (B, *axes) each; the cell's own start if there is None.

        All tensors are of one device, and, but for such masks, of one type. No step leaves the
        states as they are, and outputs of a length of 0.

        Raises
        ------
        LstmgenError
            If a name is missing or not known, or a tensor has another shape, type or device.
        """
        x, lead = self._first(inputs)
        masks = {name: _like(mask, x) for name, mask in (masks or {}).items()}
        _check_names("constant", constants, self._constants)
        if states is None:
            states = {
                name: x.new_full((lead[1], *shape), self._starts[name])
                for name, shape in self._states.items()
            }
        for kind, given, shapes, front in (
            ("parameter", params, self._parameters, ()),
            ("input", inputs, self._inputs, lead),
            ("state", states, self._states, lead[1:]),
            ("mask", masks, self._masks, lead),
        ):
            _check_names(kind, given, shapes)
            for name, shape in shapes.items():
                _check(kind, name, given[name], (*front, *shape), x)
        if lead[0] == 0:
            none = {name: x.new_zeros((*lead, *shape)) for name, shape in self._outputs.items()}
            return none, {name: states[name] for name in self._states}
        numbers = {name: x.new_full((1,), float(value)) for name, value in constants.items()}
        values = {**params, **inputs, **states, **masks, **numbers}
        out = self._run(*_arguments(self._made, values))
        count = len(self._outputs)
        final = dict(zip(self._made.states, out[count:], strict=True))
        return dict(zip(self._outputs, out[:count], strict=True)), final

    def __repr__(self) -> str:
        return f"SequenceFunction({self.cell.name!r}, {_listed(self.sizes)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return sequence_function, (self.cell, self.sizes, self._compiled)

    def __deepcopy__(self, memo: Any) -> SequenceFunction:
        return self  # nothing in it changes, and a copy of the cell would be another cell

    def _shapes(self, symbols: Sequence[Any]) -> dict[str, Shape]:
        shape = self.cell.shape
        return {v.name: tuple(number(n, self.sizes) for n in shape(v)) for v in symbols}

    def _first(self, inputs: Tensors) -> tuple[Tensor, Shape]:
        """The first input, which has the device, the type, and the numbers of steps and rows."""
        _check_names("input", inputs, self._inputs)
        name, shape = next(iter(self._inputs.items()))
        x = inputs[name]
        if not x.is_floating_point():
            raise LstmgenError(f"{self.cell.name}: the input {name} is of {x.dtype}, which has no "
                               "fractions\n  hint: .float() makes float32 of it")  # fmt: skip
        if x.dim() != len(shape) + 2:
            axes = ", ".join(map(str, ("T", "B", *shape)))
            raise LstmgenError(f"{self.cell.name}: the input {name} has the shape "
                               f"{tuple(x.shape)}, not ({axes})")  # fmt: skip
        return x, (x.shape[0], x.shape[1])


def sequence_function(
    cell: Cell, sizes: Mapping[str, int], compiled: bool = False
) -> SequenceFunction:
    """The function of a cell of given sizes; the same one for the same cell and sizes.

    Where it is ``compiled``, a step goes through ``torch.compile``: the loop over steps stays in
    Python, so that it is compiled once for all lengths.

    Raises
    ------
    LstmgenError
        If a size is missing or not the cell's, or PyTorch has no word for something in the cell.
    """
    needed = [str(n) for n in cell.sizes]
    for name in sizes:
        if name not in needed:
            hint = "T and B are those of the tensors" if name in ("T", "B") else ""
            raise LstmgenError(
                f"{cell.name} has no size {name}\n  hint: "
                f"{hint or did_you_mean(name, needed) or 'it has ' + ', '.join(needed)}"
            )
    missing = [name for name in needed if name not in sizes]
    if missing:
        raise LstmgenError(f"{cell.name} needs the size {missing[0]}")
    for name in needed:
        if int(sizes[name]) != sizes[name] or sizes[name] < 1:
            raise LstmgenError(f"{cell.name}: the size {name} is {sizes[name]!r}, not 1 or more")
    return _made(cell, tuple((name, int(sizes[name])) for name in needed), compiled)


@lru_cache(maxsize=128)
def _made(cell: Cell, sizes: tuple[tuple[str, int], ...], compiled: bool) -> SequenceFunction:
    return SequenceFunction(cell, dict(sizes), compiled)


def _loaded(
    source: str, cell: Cell, sizes: Mapping[str, int], compiled: bool
) -> Callable[..., Any]:
    filename = f"<PyTorch transcript of {cell.name}, {_listed(sizes)}>"
    try:
        module = load_python(source, "_lstmgen_transcript", filename)
    except ImportError as error:
        raise LstmgenError(
            "running a cell with PyTorch needs it to be installed\n"
            "  hint: pip install 'lstmgen[torch]'"
        ) from error
    if compiled and hasattr(module, "step"):  # without a recurrence there are no steps
        module.__dict__["step"] = module.torch.compile(module.step)
    run: Callable[..., Any] = module.sequence
    # torch.compile imports the module that globals name, and would find none, or another one
    del module.__name__
    return run


def _listed(sizes: Mapping[str, int]) -> str:
    return " ".join(f"{name}={n}" for name, n in sizes.items())


# --------------------------------------------------------------------------- checks


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask if mask.is_floating_point() else mask.to(x.dtype)


def _check_names(kind: str, given: Mapping[str, Any], known: Names) -> None:
    for name in known:
        if name not in given:
            raise LstmgenError(f"the {kind} {name} is missing")
    for name in given:
        if name not in known:
            raise LstmgenError(f"there is no {kind} {name}\n  hint: {_near(kind, name, known)}")


def _near(kind: str, name: str, known: Names) -> str:
    every = f"there are {', '.join(known)}" if known else f"the cell has no {kind} at all"
    return did_you_mean(name, known) or every


def _check(kind: str, name: str, tensor: Tensor, shape: Shape, x: Tensor) -> None:
    """What PyTorch would broadcast, or promote to another type, is refused."""
    if tuple(tensor.shape) != shape:
        raise LstmgenError(
            f"the {kind} {name} has the shape {tuple(tensor.shape)}, not {tuple(shape)}"
        )
    if tensor.dtype != x.dtype or tensor.device != x.device:
        raise LstmgenError(
            f"the {kind} {name} is of {tensor.dtype} on {tensor.device}, and the first input of "
            f"{x.dtype} on {x.device}"
        )


# --------------------------------------------------------------------------- arguments


def _arguments(made: Transcript, values: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """What the text takes, of values by the names of the equations; gradients flow through."""
    found = dict(values)
    for name, widths in made.cuts().items():
        found.update(zip(widths, found[name].split(list(widths.values()), dim=1), strict=True))
    return (
        _joined(argument, [found[part] for part in argument.parts]) for argument in made.arguments
    )


def _joined(argument: Argument, tensors: Sequence[Tensor]) -> Tensor:
    """``Argument.join`` of tensors."""
    import torch

    if argument.kind == "matrix":
        rows = [a.reshape(-1, a.shape[-1]) for a in tensors]
        return torch.cat(rows) if len(rows) > 1 else rows[0]
    if argument.kind == "heads":
        turned = [a.transpose(1, 2) for a in tensors]
        return torch.cat(turned, dim=2) if len(turned) > 1 else turned[0]
    if argument.kind == "vector":
        return torch.cat([a.reshape(-1) for a in tensors])
    return tensors[0]
