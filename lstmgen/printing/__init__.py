"""How equations are written, for people: the order of terms, names of gates, plain text."""
