"""How a network is described: a list of layers, each with its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from .. import cells
from ..errors import LstmgenError, did_you_mean
from ..language.cell import Cell
from ..language.checks import check_name
from ..language.misuse import short
from .joints import readout

JOINED = ("concat", "sum")
SKIPS = ("residual", "highway")
_OPTIONS = (
    "bidirectional", "go_backwards", "last", "learn_state", "name", "recurrent_dropout", "skip",
    "units", "zoneout",
)  # fmt: skip


class Layer:
    """A layer of any cell that has one input.

    Parameters
    ----------
    cell : Cell or str
        A cell, or the name of a reference cell.
    units : int
        Its size H.
    bidirectional : bool or str
        Run a second cell of the same kind, with parameters of its own, from the last step of each
        sequence to the first. "concat" (or True) puts both outputs side by side, "sum" adds them.
    go_backwards : bool
        Run from the last step to the first only. What is put out for a step stays at that step.
    skip : str
        "residual" adds the layer's input to its output (He et al. 2016); "highway" has a learned
        gate choose between them (Srivastava et al. 2015). Both need as many units as inputs.
    last : bool
        Put out what the layer made at the last step of each sequence alone: (B, H), for a label a
        sequence. The last step of the reverse direction is the first one of the sequence.
    recurrent_dropout : float
        The probability with which a unit of the state is dropped where a matrix reads it, once for
        a whole sequence (Gal & Ghahramani 2016).
    zoneout : float
        The probability with which a unit of a state keeps its old value (Krueger et al. 2016), at
        each step.
    learn_state : bool
        Learn the state that sequences start from, instead of zeros.
    name : str
        What its parameters and states are called after; "lstm1" for the first of LSTMs.
    **sizes
        Other sizes that the cell has, such as ``P=64``, and its constants.

    Raises
    ------
    LstmgenError
        If an argument is not one of these.
    """

    def __init__(
        self,
        cell: Cell | str,
        units: int | None = None,
        *,
        bidirectional: bool | str = False,
        go_backwards: bool = False,
        skip: str = "",
        last: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        learn_state: bool = False,
        name: str = "",
        **sizes: Any,
    ) -> None:
        self.cell = _cell(cell)
        self.name = _name(name)
        self.bidirectional = _choice("bidirectional", bidirectional, JOINED)
        self.skip = _choice("skip", skip, SKIPS)
        self.go_backwards, self.last, self.learn_state = go_backwards, last, learn_state
        self.recurrent_dropout = probability("recurrent_dropout", recurrent_dropout)
        self.zoneout = probability("zoneout", zoneout)
        self.sizes, self.constants = _sizes(self.cell, units, sizes)
        if go_backwards and self.bidirectional:
            raise LstmgenError(
                "a layer is bidirectional or goes backwards, not both\n"
                "  hint: bidirectional has both directions"
            )
        if len(self.cell.inputs) != 1:
            listed = ", ".join(v.name for v in self.cell.inputs)
            raise LstmgenError(
                f"a layer has one input, but the cell {self.cell.name} has "
                f"{f'{len(self.cell.inputs)}: {listed}' if listed else 'none'}"
            )
        if len(self.cell.outputs) != 1:
            raise LstmgenError(
                f"a layer has one output, but the cell {self.cell.name} has "
                f"{', '.join(v.name for v in self.cell.outputs)}\n"
                f"  hint: choose one in the cell, output={self.cell.output.name}"
            )
        if self.cell.masks:
            raise LstmgenError(
                f"the cell {self.cell.name} has the mask {self.cell.masks[0].name}, whose values a "
                "layer does not know\n"
                "  hint: recurrent_dropout=, zoneout= and Dropout make masks of their own"
            )

    def __repr__(self) -> str:
        return f"Layer({self.cell.name!r}, {', '.join(f'{k}={v}' for k, v in self.sizes.items())})"


@dataclass(frozen=True)
class Dropout:
    """Drop units between layers with a probability, and scale the others by 1 / (1 - probability).

    With ``whole``, the same units are dropped at all steps of a sequence (Gal & Ghahramani 2016).
    At inference nothing is dropped.
    """

    probability: float
    whole: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        probability("probability", self.probability)
        _name(self.name)


@dataclass(frozen=True)
class Embedding:
    """A learned row of ``units`` numbers for each of ``count`` symbols: the first layer only.

    The network then takes whole numbers x of shape (T, B), from 0 to ``count`` - 1.
    """

    count: int
    units: int
    name: str = ""

    def __post_init__(self) -> None:
        positive("count", self.count)
        positive("units", self.units)
        _name(self.name)


def Readout(units: int, *, name: str = "") -> Layer:
    """A linear layer, W x + b, at every step; or for each sequence after a layer with ``last``."""
    return Layer(readout(), units, name=name)


def positive(what: str, value: object) -> int:
    """``value`` as a size.

    Raises
    ------
    LstmgenError
        If it is not a positive whole number.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 0 < int(value) < 2**31:  # type: ignore[call-overload]
        raise LstmgenError(f"{what} is a positive whole number, not {short(repr(value))}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def limit(what: str, value: object) -> float:
    """``value`` as a limit.

    Raises
    ------
    LstmgenError
        If it is not a finite number above 0.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):  # type: ignore[operator]
        raise LstmgenError(f"{what} is a positive number, not {short(repr(value))}")
    return float(value)  # type: ignore[arg-type]


def probability(what: str, value: object) -> float:
    """``value`` as the probability of being dropped.

    Raises
    ------
    LstmgenError
        If it is not a number from 0 on, and below 1.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:  # type: ignore[operator]
        raise LstmgenError(f"{what} is a number from 0 on and below 1, not {short(repr(value))}")
    return float(value)  # type: ignore[arg-type]


def _cell(given: object) -> Cell:
    if isinstance(given, Cell):
        return given
    if isinstance(given, str):
        return cells.get(given)
    raise LstmgenError(
        f"a layer is of a cell, or of the name of one, not of {short(repr(given))}\n"
        '  hint: Layer("lstm", 64)'
    )


def _name(name: Any) -> str:
    if name != "":
        check_name(name, "the name of a layer")
    return str(name)


def _choice(what: str, given: object, known: tuple[str, ...]) -> str:
    """One of the words; True is the first one, and what is false is none."""
    if given is True:
        return known[0]
    if not given:
        return ""
    if given not in known:
        listed = " or ".join(f'"{word}"' for word in known)
        near = did_you_mean(str(given), known)
        raise LstmgenError(
            f"{what} is {listed}, not {short(repr(given))}" + (f"\n  hint: {near}" if near else "")
        )
    return str(given)


def _sizes(
    cell: Cell, units: int | None, given: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, float]]:
    """The sizes of a layer, and its constants."""
    constants = {v.name: cell.initial(v) for v in cell.constants}
    told = {str(n) for v in cell.inputs for n in cell.shape(v)}  # by what comes in
    known = {str(n) for n in cell.sizes} - (told - {"H"})
    unknown = [name for name in given if name not in {*known, *constants}]
    if unknown:
        near = did_you_mean(unknown[0], {*known, *constants, *_OPTIONS})
        if unknown[0] == "dropout":
            near = "Dropout(0.2) is a layer of its own; recurrent_dropout= drops units of states"
        takes = ", ".join(sorted({*known, *constants} - {"H"}))
        raise LstmgenError(
            f"a layer of {cell.name} takes no {unknown[0]}="
            + (f"; it takes {takes}" if takes else "")
            + (f"\n  hint: {near}" if near else "")
        )
    sizes = {name: positive(name, value) for name, value in given.items() if name in known}
    if "H" in known:
        if units is None:
            raise LstmgenError(
                f"how many units has the layer of {cell.name}?\n"
                f"  hint: Layer({cell.name!r}, 64) has 64"
            )
        sizes["H"] = positive("units", units)
    elif units is not None:
        needed = sorted(known)
        raise LstmgenError(
            f"{cell.name} has no size H"
            + ("" if needed else ": its units are told by what comes in")
            + f"\n  hint: Layer({', '.join([repr(cell.name), *(f'{n}=16' for n in needed)])})"
        )
    values = constants | {k: v for k, v in given.items() if k in constants}
    for name, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise LstmgenError(
                f"the constant {name} of {cell.name} is {short(repr(value))}\n"
                f"  hint: give a number: Layer({cell.name!r}, …, {name}=0.1)"
            )
    return sizes, {name: float(value) for name, value in values.items()}
