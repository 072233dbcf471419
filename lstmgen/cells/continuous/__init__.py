"""Cells in continuous time: differential equations and time gaps."""
