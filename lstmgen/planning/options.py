"""What a target may ask of a plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Choices that change what runs when, and no value.

    Attributes
    ----------
    hoist : bool
        Elementwise work that does not depend on the recurrence is done for all steps at once, and
        not products alone. Right where an operation has a price of its own, as a NumPy call has;
        else the work stays in the step, where its operands are in cache.
    split : bool
        What multiplies an adjoint in the backward pass is an equation of its own, so that it can
        be done for all steps at once.
    lanes : bool
        Blocks lie so that equations that say the same of several values are computed together.
    recompute : bool
        Forward values of a few additions and products are computed again by the backward pass,
        instead of being kept.
    arrays : bool
        Every value is an array that a call writes, as in NumPy, and takes memory even if only its
        own loop reads it, which else is a register. It is written over the value that it comes
        from where nobody else reads that. Blocks that products do not read as one may lie apart.
    """

    hoist: bool = False
    split: bool = False
    lanes: bool = False
    recompute: bool = True
    arrays: bool = False
