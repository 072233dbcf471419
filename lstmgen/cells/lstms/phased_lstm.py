"""The Phased LSTM: Neil, Pfeiffer & Liu, "Phased LSTM: accelerating recurrent network training for
long or event-based sequences", NIPS 2016 (neil2016phased). A time gate k lets each unit change in a
part of its own period only: it opens, closes, and then is shut but for a small leak. For sequences
of events at times t, which need not be evenly spaced.

Inputs are x and the time stamp t, not the gap since the step before. τ is the period of a unit, s
its shift, r_on the part of the period in which the gate is not shut. The leak α is 0.001 in
training and 0 when the network is used. Within a step the LSTM has peepholes, of which that of o
sees the proposed cell state c_new.

Implementations differ in the slope of the remainder: here it is the true one by τ, as in the
authors' own code, whereas TensorFlow's ``PhasedLSTMCell`` lets no gradient through the phase. As in
the paper log τ starts evenly spread, here from 1 to 1000 of the units of t: choose it by your data.
s starts in [0, τ] there; here between 0 and 1000, of which the remainder makes nearly the same. τ
and r_on have to stay positive.
"""

from sympy import Eq, Mod, Piecewise

from lstmgen import (
    Cell,
    biases,
    constants,
    inputs,
    sigmoid,
    states,
    tanh,
    vector,
    vectors,
    weights,
)

x, t = inputs("x"), inputs("t", size=1)
h, c = states("h c")
i, f, g, o, c_new, phi, q, k = vectors("i f g o c_new phi q k")
W, U, p, b = weights("W"), weights("U"), biases("p"), biases("b")
tau, s = vector("tau", init=("log_uniform", 1, 1000)), vector("s", init=("uniform", 0, 1000))
r_on, alpha = vector("r_on", init=0.05), constants("alpha", 0.001)

cell = Cell(
    "phased_lstm",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i @ h + p.i * c + b.i)),
        Eq(f, sigmoid(W.f @ x + U.f @ h + p.f * c + b.f)),
        Eq(g, tanh(W.g @ x + U.g @ h + b.g)),
        Eq(c_new, f * c + i * g),
        Eq(o, sigmoid(W.o @ x + U.o @ h + p.o * c_new + b.o)),
        Eq(phi, Mod(t - s, tau) / tau),
        Eq(q, phi / r_on),
        Eq(k, Piecewise((2 * q, q < 0.5), (2 - 2 * q, q < 1), (alpha * phi, True))),
        Eq(c.next, k * c_new + (1 - k) * c),
        Eq(h.next, k * (o * tanh(c_new)) + (1 - k) * h),
    ],
    output=h,
    title="LSTM with a time gate",
    source="Neil et al. 2016",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        t: "time stamp",
        i: "input gate",
        f: "forget gate",
        g: "candidate",
        o: "output gate",
        c_new: "proposed cell state",
        phi: "phase",
        q: "phase within r_on",
        k: "time gate",
        c: "cell state",
        h: "hidden state",
    },
)
