"""The network of the C program: lstmgen codegen network.py --target c --dtype float32."""

from lstmgen import Layer, Network, Readout, schedules

EPOCHS, UPDATES = 80, 18  # as in main.c: the learning rate falls to 0 at the end of training

network = Network(
    [
        Layer("lstm", 16),
        Layer("gru", 16, skip="residual"),
        Readout(1, name="readout"),
    ],
    name="forecast",
    title="next year's number of sunspots",
    inputs=2,
    loss="mean_squared",
    optimizer="adam",
    rate=schedules.cosine(5e-3, EPOCHS * UPDATES),
    clip_norm=1.0,
)
