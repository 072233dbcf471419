"""The mLSTM: Beck et al., "xLSTM: Extended long short-term memory", NeurIPS 2024 (beck2024xlstm),
equations 19 to 27, with the stabiliser of equations 15 to 17. Each of N heads keeps a matrix C of
values (P) by keys (K), to which a step adds an outer product and from which it reads by a query.

The stabiliser m cancels in h. The floor of the denominator, 1 in the paper's plain equations, is
exp(-m) beside the stabilised C and n. There is no h[t-1] anywhere.
"""

from sympy import Abs, Eq, Max, exp, sqrt

from lstmgen import (
    Cell,
    Size,
    biases,
    expand,
    inputs,
    log_sigmoid,
    outer,
    sigmoid,
    states,
    sum_,
    vectors,
    weights,
)

x = inputs("x")
C, n, m = states("C", shape=("N", "P", "K")), states("n", shape=("N", "K")), states("m", "N")
q, k = vectors("q k", shape=("N", "K"))
v, o, h = vectors("v o h", shape=("N", "P"))
u, z, i, f = vectors("u z i f", "N")
W, b = weights("W", shape=("N", "K", "D")), biases("b", shape=("N", "K"))  # of queries and keys
V, c = weights("V", shape=("N", "P", "D")), biases("c", shape=("N", "P"))  # of values and outputs
w, s = weights("w", "N"), biases("s", "N")  # of the gates, a number a head

cell = Cell(
    "mlstm",
    equations=[
        Eq(q, W.q @ x + b.q),
        Eq(k, (W.k @ x + b.k) / sqrt(Size("K"))),
        Eq(v, V.v @ x + c.v),
        Eq(o, sigmoid(V.o @ x + c.o)),
        Eq(u, w.i @ x + s.i),
        Eq(z, log_sigmoid(w.f @ x + s.f) + m),
        Eq(m.next, Max(z, u)),
        Eq(i, exp(u - m.next)),
        Eq(f, exp(z - m.next)),
        Eq(C.next, expand(f, C) * C + expand(i, C) * outer(v, k)),
        Eq(n.next, expand(f, n) * n + expand(i, n) * k),
        Eq(h, o * (C.next @ q) / expand(Max(Abs(sum_(n.next * q, "K")), exp(-m.next)), h)),
    ],
    output=h,
    title="LSTM with a matrix memory",
    source="Beck et al. 2024",
    init={s.f: 3.0},  # open at first, as in the reference implementation
    roles={
        q: "query",
        k: "key",
        v: "value",
        i: "input gate",
        f: "forget gate",
        o: "output gate",
        C: "matrix memory",
        n: "normaliser",
        m: "stabiliser",
    },
)
