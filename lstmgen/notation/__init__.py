"""Cells in text files: read without executing anything, and written so that they read back equal."""
