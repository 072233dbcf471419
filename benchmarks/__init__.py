"""Measures lstmgen's code beside what people use instead. See README.md; start with
``python -m benchmarks --help``.
"""
