"""The ON-LSTM: Shen, Tan, Sordoni & Courville, "Ordered neurons: integrating tree structures into
recurrent neural networks", ICLR 2019 (shen2019ordered). The units of the cell state are ordered:
two master gates, which rise and fall along the units, say up to which one the past is erased, and
up to which one the present is written. Units that come late live long.

A master gate is a running sum of a softmax. It has N entries, each of which stands for a chunk of
P units: the states have N P units. Where the two master gates overlap, ω, the gates of the LSTM
decide as usual.

The authors' code drops entries of U (DropConnect), and has the master gates first among the fused
gates: the input's master gate, then that of the past, then o, g, i, f.
"""

from sympy import Eq

from lstmgen import (
    Cell,
    biases,
    cumsum,
    inputs,
    repeat,
    sigmoid,
    softmax,
    states,
    tanh,
    vectors,
    weights,
)

x = inputs("x")
h, c = states("h c", size="N*P")
f_master, i_master = vectors("f_master i_master", size="N")
omega, f_hat, i_hat = vectors("omega f_hat i_hat", size="N*P")
i, f, g, o = vectors("i f g o", size="N*P")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "on_lstm",
    equations=[
        Eq(f_master, cumsum(softmax(W.f_master @ x + U.f_master @ h + b.f_master))),
        Eq(i_master, 1 - cumsum(softmax(W.i_master @ x + U.i_master @ h + b.i_master))),
        Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(o, sigmoid(W.o @ x + U.o @ h + b.o)),
        Eq(omega, repeat(f_master * i_master, "P")),
        Eq(f_hat, f * omega + repeat(f_master, "P") - omega),
        Eq(i_hat, i * omega + repeat(i_master, "P") - omega),
        Eq(c.next, f_hat * c + i_hat * g),
        Eq(h.next, o * tanh(c.next)),
    ],
    output=h,
    title="LSTM with ordered neurons",
    source="Shen et al. 2019",
    roles={
        f_master: "master forget gate",
        i_master: "master input gate",
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        omega: "overlap of the master gates",
        f_hat: "forget gate, in all",
        i_hat: "input gate, in all",
        c: "cell state",
        h: "hidden state",
    },
)
