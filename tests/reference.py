"""The cells that every test of the compiler runs over: one or two for each demand on it.

The others are held against transcriptions of their papers in ``test_zoo``, where they pass
``check``, too.
"""

NAMES = [
    "cifg", "delta_net", "gru", "gru_reset_before", "lstm", "lstm_layernorm", "lstm_peephole",
    "lstmp", "mlstm", "rnn", "slstm",
]  # fmt: skip
