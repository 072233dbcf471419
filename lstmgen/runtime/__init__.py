"""What runs: cells from files, generated modules, and compiled C behind the same interface."""
