"""Sequences of several lengths, packed: each stretch of steps that have the same rows is one call.

``PackedSequence`` keeps the rows of a step side by side, longest sequence first. From the step
where one ends on there are fewer. No step is computed that a sequence does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

if TYPE_CHECKING:
    from .recurrent import Recurrent


def over_packed(
    module: Recurrent, x: PackedSequence, hx: Any, masks: Mapping[str, Tensor] | None
) -> tuple[PackedSequence, Any]:
    """``module`` over packed sequences; see ``Recurrent.forward``."""
    if len(module._inputs) > 1:
        raise ValueError(
            f"{module.cell.name} has {len(module._inputs)} inputs, which cannot be packed as one"
        )
    if module._masks or masks:
        raise ValueError(f"{module.cell.name} has masks, which are not packed with the sequences")
    if x.data.shape[-1] != module.input_size:
        raise ValueError(f"x has {x.data.shape[-1]} units; input_size is {module.input_size}")
    states = module._stacked_states(hx, True)
    if states and x.sorted_indices is not None:
        states = [s.index_select(1, x.sorted_indices) for s in states]
    runs = [(rows, len(list(same))) for rows, same in groupby(x.batch_sizes.tolist())]
    data, finals = _layers(module, x.data, runs, states)
    if x.unsorted_indices is not None:
        finals = [f.index_select(1, x.unsorted_indices) for f in finals]
    y = PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    return y, module._form(finals, hx)


def _layers(
    module: Recurrent, data: Tensor, runs: Sequence[tuple[int, int]], states: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    finals: list[list[Tensor]] = [[] for _ in module._states]
    for layer in range(module.num_layers):
        made = []
        if layer and module.dropout:
            data = nn.functional.dropout(data, module.dropout, module.training)
        for k, suffix in enumerate(module._suffixes(layer)):
            at = layer * module._directions + k
            held = [s[at] for s in states]
            y, last = (_back if k else _along)(module, suffix, data, runs, held)
            made.append(y)
            for found, final in zip(finals, last, strict=True):
                found.append(final)
        data = torch.cat(made, -1) if len(made) > 1 else made[0]
    return data, [torch.stack(found) for found in finals]


def _stretches(data: Tensor, runs: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The steps that have the same rows, (steps, rows, units): views of the data."""
    parts = data.split([rows * steps for rows, steps in runs])
    return [p.reshape(steps, rows, -1) for p, (rows, steps) in zip(parts, runs, strict=True)]


def _along(
    module: Recurrent, suffix: str, data: Tensor, runs: Sequence[tuple[int, int]],
    states: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """From the first step on: rows leave when their sequence ends."""
    ys: list[Tensor] = []
    left: list[list[Tensor]] = []  # of each state the rows that have left, the last ones first
    for x, (_, _), after in zip(
        _stretches(data, runs), runs, [*(rows for rows, _ in runs[1:]), 0], strict=True
    ):
        (y,), new = module._run(suffix, [x], states, [])
        ys.append(y.flatten(0, 1))
        left.append([s[after:] for s in new])
        states = [s[:after] for s in new]
    return torch.cat(ys), [torch.cat(parts[::-1]) for parts in zip(*left, strict=True)]


def _back(
    module: Recurrent, suffix: str, data: Tensor, runs: Sequence[tuple[int, int]],
    states: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """From the last step of each sequence: rows come in where theirs ends."""
    if not states:
        states = module._starts(suffix, runs[0][0], data)
    ys: list[Tensor] = []
    held: list[Tensor] = [s[:0] for s in states]
    for x, (rows, _) in zip(_stretches(data, runs)[::-1], runs[::-1], strict=True):
        held = [torch.cat([h, s[len(h) : rows]]) for h, s in zip(held, states, strict=True)]
        (y,), held = module._run(suffix, [x.flip(0)], held, [])
        ys.append(y.flip(0).flatten(0, 1))
    return torch.cat(ys[::-1]), list(held)
