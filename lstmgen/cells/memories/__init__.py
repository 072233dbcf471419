"""Cells whose state is a matrix that is written to and read from."""
