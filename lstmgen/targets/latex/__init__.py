"""The LaTeX target: equations, typeset."""
