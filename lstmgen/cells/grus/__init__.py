"""The GRU, and what has its reset gate."""
