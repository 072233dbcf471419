"""Cells in the words of PyTorch and JAX: their equations as a person would write them there.

- ``pytorch``: a cell over a sequence as a function of tensors, by its transcript.
- ``transcript``: a cell's text, from ``rewriting`` (equations that libraries have words for),
  ``hoisting`` (what runs once for all steps), ``stacks`` (products done as one), ``scope`` (names
  and arguments), ``body`` (lines), ``expressions`` and ``dialects`` (the two libraries' words).
"""
