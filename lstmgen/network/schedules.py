"""Learning rates that change: expressions of the number k of the update."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, Float, Piecewise, cos, pi

from ..errors import LstmgenError
from ..language.misuse import short
from .layers import limit
from .optimizers import UPDATE


@dataclass(frozen=True)
class Schedule:
    """A learning rate as an expression of ``UPDATE``, which says how many updates there were, this
    one included. ``about`` says it in words.
    """

    rate: Expr
    about: str = ""

    def __str__(self) -> str:
        return self.about or str(self.rate)

    def at(self, update: int) -> float:
        """The rate of an update."""
        return float(self.rate.subs(UPDATE, update))


def constant(rate: float) -> Schedule:
    """The same at all times."""
    return Schedule(_positive("rate", rate), f"{rate:g}")


def cosine(rate: float, updates: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    """From ``rate`` along half a cosine to ``end`` after ``updates`` (Loshchilov & Hutter 2017).

    Before, it rises evenly over ``warmup`` updates.
    """
    peak, last = _positive("rate", rate), Float(end)
    angle = pi * (UPDATE - 1 - warmup) / _after(updates, warmup)
    falling = last + (peak - last) * (1 + cos(angle)) / 2
    about = f"{rate:g} to {end:g} along a cosine in {updates} updates{_rising(warmup)}"
    return Schedule(_warm(peak, warmup, falling, updates, last), about)


def linear(rate: float, updates: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    """From ``rate`` evenly to ``end`` after ``updates``; before, up over ``warmup`` updates."""
    peak, last = _positive("rate", rate), Float(end)
    done = (UPDATE - 1 - warmup) / _after(updates, warmup)
    about = f"{rate:g} evenly to {end:g} in {updates} updates{_rising(warmup)}"
    return Schedule(_warm(peak, warmup, peak + (last - peak) * done, updates, last), about)


def exponential(rate: float, decay: float, every: int = 1) -> Schedule:
    """``rate`` times ``decay`` once every so many updates, in between by a power of it."""
    factor = _positive("decay", decay)
    rates = _positive("rate", rate) * factor ** ((UPDATE - 1) / _whole("every", every))
    return Schedule(rates, f"{rate:g} times {decay:g} {_once(every)}, in between by a power of it")


def steps(rate: float, decay: float, every: int) -> Schedule:
    """``rate`` times ``decay`` once every so many updates, and constant in between."""
    # as (k - 1) / every, but half an update away from where rounding would decide
    times = sympy.floor((UPDATE - sympy.Rational(1, 2)) / _whole("every", every))
    rates = _positive("rate", rate) * _positive("decay", decay) ** times
    return Schedule(rates, f"{rate:g} times {decay:g} {_once(every)}")


def find_schedule(given: object) -> Schedule:
    """A schedule, or a number that is the same at all times.

    Raises
    ------
    LstmgenError
        If it is neither.
    """
    if isinstance(given, Schedule):
        extra = given.rate.free_symbols - {UPDATE}
        if extra:
            name = min(map(str, extra))
            raise LstmgenError(f"the schedule depends on {name}, and not on k alone")
        return given
    return constant(given)  # type: ignore[arg-type]


def _warm(peak: Expr, warmup: int, falling: Expr, updates: int, last: Expr) -> Expr:
    done = Piecewise((falling, sympy.Le(UPDATE, updates)), (last, True))
    if not warmup:
        return done
    return Piecewise((peak * UPDATE / warmup, sympy.Le(UPDATE, warmup)), (done, True))


def _rising(warmup: int) -> str:
    return f", of which it rises over the first {warmup}" if warmup else ""


def _once(every: int) -> str:
    return f"every {every} updates" if every > 1 else "each update"


def _after(updates: int, warmup: int) -> Expr:
    if not isinstance(warmup, int) or not 0 <= warmup < _whole("updates", updates):
        raise LstmgenError(f"warmup is a part of the {updates} updates, not {short(repr(warmup))}")
    return sympy.Integer(max(1, updates - 1 - warmup))


def _positive(what: str, value: object) -> Expr:
    return Float(limit(what, value))


def _whole(what: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise LstmgenError(f"{what} is a positive whole number, not {short(repr(value))}")
    return value
