"""A label for each step of a sequence: two bidirectional LSTM layers.

lstmgen show examples/tagger.py
"""

from lstmgen import Dropout, Layer, Network, Readout, schedules

network = Network(
    [
        Layer("lstm", 24, bidirectional=True),
        Dropout(0.2),
        Layer("lstm", 24, bidirectional=True),
        Readout(9),
    ],
    name="tagger",
    title="a label for each step of a sequence",
    loss="cross_entropy",
    optimizer="adam",
    rate=schedules.cosine(1e-2, 2000, warmup=100),
    clip_norm=1.0,
)
