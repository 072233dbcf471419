"""Cells in text files: read without running anything, written so that they read back equal."""
