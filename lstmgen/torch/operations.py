"""A cell as PyTorch's own operations: on other devices than the CPU, and in other number types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..transcripts.pytorch import sequence_function
from .kernels import cell_of

Tensors = Sequence[Tensor]


def run_operations(
    cell: str, names: Mapping[str, Sequence[str]], params: Tensors, inputs: Tensors,
    states: Tensors, masks: Tensors, constants: Sequence[float], sizes: Mapping[str, int],
    compiled: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """A cell over a sequence: (outputs, final states), as ``operators.run``.

    Parameters
    ----------
    cell : str
        The key that ``register`` gave.
    names : mapping
        The names of the parameters, inputs, states, masks and constants, in order.
    sizes : mapping
        The cell's sizes.
    compiled : bool
        Whether a step goes through ``torch.compile``.
    """
    known = cell_of(cell)
    compiled = compiled and not torch.compiler.is_compiling()
    function = sequence_function(known, {str(n): sizes[str(n)] for n in known.sizes}, compiled)
    device = inputs[0].device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        params, inputs, states, masks = (
            [t.to(dtype) for t in tensors] for tensors in (params, inputs, states, masks)
        )

    def named(kind: str, values: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(names[kind], values, strict=True))

    with torch.autocast(device, enabled=False):
        outputs, final = function(
            named("parameters", params), dict(zip(names["constants"], constants, strict=True)),
            named("inputs", inputs), named("states", states) if states else None,
            named("masks", masks),
        )  # fmt: skip
    return list(outputs.values()), list(final.values())
