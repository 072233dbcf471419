"""PyTorch's habits: ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` as reference cells.

A tensor of PyTorch has the rows of several parameters of ours one after the other. Of the two
biases that PyTorch adds up, ours is the sum; where both are needed (the candidate of the GRU) there
are two of ours. Read in torch/nn/modules/rnn.py, and held by tests against PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..language.cell import Cell
from . import reference_of

Names = tuple[str, ...]


@dataclass(frozen=True)
class Convention:
    """How PyTorch keeps a reference cell.

    Attributes
    ----------
    cell : str
        The name of the reference cell.
    kind : str
        What PyTorch calls the layer: "LSTM". A single step is "LSTMCell".
    tensors : mapping
        For the name of each tensor of PyTorch, the parameters whose rows it has, in order. An empty
        name stands for rows that are added to those of ``bias_ih``.
    options : mapping
        What the constructor of the layer takes beside sizes.
    projected : bool
        Whether the layer has ``proj_size``. Single steps have not.
    """

    cell: str
    kind: str
    tensors: Mapping[str, Names]
    options: Mapping[str, str] = field(default_factory=dict)
    projected: bool = False


def _stacked(W: str, U: str, b: str, second: str = "") -> dict[str, Names]:
    """Weights and biases, of which the second is one more of the first, if it is not given."""
    rows = tuple(b.split())
    return {
        "weight_ih": tuple(W.split()),
        "weight_hh": tuple(U.split()),
        "bias_ih": rows,
        "bias_hh": tuple(s if s != "-" else "" for s in second.split()) or ("",) * len(rows),
    }


_LSTM = _stacked("W_i W_f W_g W_o", "U_i U_f U_g U_o", "b_i b_f b_g b_o")
CONVENTIONS = (
    Convention("lstm", "LSTM", _LSTM),
    Convention("lstmp", "LSTM", {**_LSTM, "weight_hr": ("W_h",)}, projected=True),
    Convention(
        "gru", "GRU", _stacked("W_r W_z W_n", "U_r U_z U_n", "b_r b_z b_n", second="- - b_m")
    ),
    Convention("rnn", "RNN", _stacked("W_h", "U_h", "b_h"), {"nonlinearity": "tanh"}),
    Convention("irnn", "RNN", _stacked("W", "U", "b"), {"nonlinearity": "relu"}),
)


def convention_of(cell: Cell) -> Convention | None:
    """How PyTorch keeps a cell that has the very equations of a reference cell; None for others."""
    known = reference_of(cell, (c.cell for c in CONVENTIONS))
    return next((c for c in CONVENTIONS if c.cell == known), None)
