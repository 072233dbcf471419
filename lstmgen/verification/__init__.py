"""The check: generated code against the cell's own equations, by evaluation alone."""
