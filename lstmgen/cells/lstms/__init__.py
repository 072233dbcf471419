"""The LSTM, and what has its cell state."""
