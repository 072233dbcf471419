"""Networks as users hold them: compiled when they are needed, trained, saved and loaded."""
