"""The GRU-D, for sequences with missing values: Che, Purushotham, Cho, Sontag & Liu, "Recurrent
neural networks for multivariate time series with missing values", Scientific Reports 8, 2018
(che2018recurrent).

The mask m is 1 where an entry of x was observed. Where it was not, the entry decays from its last
observed value, x_last, to the mean, x_mean, and the hidden state decays as well. The input delta
holds, for each entry, the time since it was last observed; it is 0 at the first step, and not
negative. Missing entries of x may hold any number, but not NaN, and x_mean, which is not learned,
is to be set to the means of the training data, unless these were made 0.

z = 1 writes the candidate, as in the paper, and the old state that is kept is the decayed one. The
authors' code keeps the state that is not decayed, gives the gates 1 - m in place of m, and decays
x to 0. As in it, the decays start at 0, so that nothing decays at first; at that kink, the slope
of max is 1/2, by which they learn.
"""

from sympy import Eq, Max, exp

from lstmgen import (
    Cell,
    biases,
    inputs,
    masks,
    sigmoid,
    states,
    tanh,
    vector,
    vectors,
    weights,
)

x, delta, m = inputs("x"), inputs("delta"), masks("m", size="D")
h, x_last, x_mean = states("h"), states("x_last", size="D"), vector("x_mean", learned=False)
gamma_x, x_hat = vectors("gamma_x x_hat", size="D")
gamma_h, h_hat, r, z, n = vectors("gamma_h h_hat r z n")
W, U, V, w, b = weights("W"), weights("U"), weights("V"), biases("w"), biases("b")

cell = Cell(
    "gru_d",
    equations=[
        Eq(x_last.next, m * x + (1 - m) * x_last),
        Eq(gamma_x, exp(-Max(0, w.gamma_x * delta + b.gamma_x))),
        Eq(gamma_h, exp(-Max(0, W.gamma_h @ delta + b.gamma_h))),
        Eq(x_hat, m * x + (1 - m) * (gamma_x * x_last + (1 - gamma_x) * x_mean)),
        Eq(h_hat, gamma_h * h),
        Eq(r, sigmoid(W.r @ x_hat + U.r @ h_hat + V.r @ m + b.r)),
        Eq(z, sigmoid(W.z @ x_hat + U.z @ h_hat + V.z @ m + b.z)),
        Eq(n, tanh(W.n @ x_hat + U.n @ (r * h_hat) + V.n @ m + b.n)),
        Eq(h.next, (1 - z) * h_hat + z * n),
    ],
    output=h,
    title="GRU with decays for missing values",
    source="Che et al. 2018",
    init={W.gamma_h: "zeros"},
    roles={
        delta: "time since the last observation",
        x_last: "last observation",
        gamma_x: "decay of the input",
        gamma_h: "decay of the hidden state",
        x_hat: "input, filled in",
        h_hat: "hidden state, decayed",
        r: "reset gate",
        z: "update gate",
        n: "candidate",
        h: "hidden state",
    },
)
