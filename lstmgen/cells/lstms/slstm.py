"""The sLSTM: Beck et al., "xLSTM: Extended long short-term memory", NeurIPS 2024 (beck2024xlstm),
equations 8 to 17: exponential gates, a normaliser n and a stabiliser m. The recurrent matrices are
block-diagonal: each of N heads has one of P by P, and heads do not see each other.

The stabiliser cancels in h. The forget gate is a σ, of which the logarithm is taken.
"""

from sympy import Eq, Max, exp

from lstmgen import Cell, biases, inputs, log_sigmoid, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c, n, m = states("h c n m", shape=("N", "P"))
i, f, z, o, u, a = vectors("i f z o u a", shape=("N", "P"))
W, b = weights("W", shape=("N", "P", "D")), biases("b", shape=("N", "P"))
R = weights("R", shape=("N", "P", "P"), init="zeros")

cell = Cell(
    "slstm",
    equations=[
        Eq(u, W.i @ x + R.i @ h + b.i),
        Eq(a, log_sigmoid(W.f @ x + R.f @ h + b.f) + m),
        Eq(m.next, Max(a, u)),
        Eq(i, exp(u - m.next)),
        Eq(f, exp(a - m.next)),
        Eq(z, tanh(W.z @ x + R.z @ h + b.z)),
        Eq(o, sigmoid(W.o @ x + R.o @ h + b.o)),
        Eq(c.next, f * c + i * z),
        Eq(n.next, f * n + i),
        Eq(h.next, o * c.next / n.next),
    ],
    output=h,
    title="LSTM with exponential gates and heads",
    source="Beck et al. 2024",
    init={b.f: ("power_law", 5, -7, 0.3)},  # from open to closed, as the first block's in the code
    roles={
        i: "input gate",
        f: "forget gate",
        z: "candidate",
        o: "output gate",
        c: "cell state",
        n: "normaliser",
        m: "stabiliser",
        h: "hidden state",
    },
)
