"""Timing generated code beside other libraries: what ``lstmgen bench`` and ``benchmarks/`` share.

- ``threads``: how many threads numerical libraries may use; to be called before they are loaded.
- ``transcript``: a cell's equations as a person would write them with PyTorch or JAX, from
  ``hoisting`` (what runs once for all steps), ``stacks`` (products done as one), ``scope`` (names
  and arguments), ``body`` (lines) and ``dialects`` (the two libraries' words).
- ``problem``: the arrays of one shape, what has to come out, and whether it does.
- ``contenders``: those who solve it: our targets, PyTorch, JAX.
- ``timing``: in turns, in one process; medians and how they spread.
- ``machine``: what this machine is, and how fast it multiplies matrices.
- ``bench``: what ``lstmgen bench`` runs and shows.
"""
