"""What runs: cells from files, generated modules, and compiled C behind the same interface."""

RUNS = ("c", "numpy")  # the targets whose code ``toolchain.compile`` makes modules of
