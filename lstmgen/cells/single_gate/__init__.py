"""Cells that have one gate, or few, and no memory cell of their own."""
