"""The minLSTM: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", arXiv
2410.01201, 2024 (feng2024were): an LSTM whose gates and candidate read the input alone, without an
output gate and without a tanh. It can be computed by a parallel scan over the steps.

The gates are divided by their sum, so that the scale of the state does not depend on time: the
paper's f′ and i′ are f / s and i / s here, with s = f + i. There is no cell state beside h.

The variant for computing in logarithms needs positive candidates and states: it puts n + 1/2 where
n ≥ 0, and σ(n) elsewhere, in the place of n here. Most code has that variant. The sum of
the gates underflows where both pre-activations are below -700; that variant has no such limit.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, vectors, weights

x = inputs("x")
h = states("h")
f, i, n, s = vectors("f i n s")
W, b = weights("W"), biases("b")

cell = Cell(
    "min_lstm",
    equations=[
        Eq(f, sigmoid(W.f @ x + b.f)),
        Eq(i, sigmoid(W.i @ x + b.i)),
        Eq(n, W.n @ x + b.n),
        Eq(s, f + i),
        Eq(h.next, (f / s) * h + (i / s) * n),
    ],
    output=h,
    title="LSTM without a recurrent product",
    source="Feng et al. 2024",
    roles={
        f: "forget gate",
        i: "input gate",
        n: "candidate",
        s: "sum of the gates",
        h: "hidden state",
    },
)
