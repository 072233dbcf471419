"""Checkpoints over time: states are kept now and then, and what lies between is computed again.

Of t blocks of steps with memory for m states, C(t, m) blocks are computed in all, by the binomial
schedule of Griewank & Walther 2000 (their "revolve"), which is optimal. Gruslys et al. 2016 have
the same numbers by dynamic programming: C(t, 1) = t (t + 1) / 2, C(t, m) = 2 t - 1 for m ≥ t, else
the least y + C(t - y, m - 1) + C(y, m).
"""

from __future__ import annotations

from math import comb


def sweeps(blocks: int, slots: int) -> int:
    """How often at most any block is computed: the least r with β(m, r) = (m + r choose m) ≥ t."""
    r = 0
    while comb(slots + r, slots) < blocks:
        r += 1
    return r


def count(blocks: int, slots: int) -> int:
    """C(t, m): how many blocks are computed, those included whose values are kept."""
    if blocks < 1:
        return 0
    r = sweeps(blocks, slots)
    return blocks + r * blocks - (comb(slots + r, slots + 1) if r else 0)
