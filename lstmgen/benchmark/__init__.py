"""Timing generated code beside other libraries: what ``lstmgen bench`` and ``benchmarks/`` share.

- ``threads``: how many threads numerical libraries may use; to be called before they are loaded.
- ``problem``: the arrays of one shape, what has to come out, and whether it does.
- ``contenders``: those who solve it: our targets, PyTorch, JAX; the last two by ``transcripts/``.
- ``timing``: in turns, in one process; medians and how they spread.
- ``machine``: what this machine is, and how fast it multiplies matrices.
- ``bench``: what ``lstmgen bench`` runs and shows.
"""
