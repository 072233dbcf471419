"""The language that cells are written in, and the cell: equations, checked."""
