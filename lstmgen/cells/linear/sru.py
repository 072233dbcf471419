"""The simple recurrent unit: Lei, Zhang, Wang, Dai & Artzi, "Simple recurrent units for highly
parallelizable recurrence", EMNLP 2018 (lei2018simple), the second version of the paper: its gates
read the state, unit by unit, by the vectors v.

No matrix is multiplied by the state, so that all products of a sequence are one, before the loop
over its steps. Both gates read c[t-1]; the first version of the paper, of 2017, has none of this
(v = 0). There is no tanh on c, as in the authors' library.

The paper adds the input itself, times α = sqrt(1 + 2 exp(b_r)), where it has as many units as the
state. Here it comes through a matrix W_s, as in the authors' library where the sizes differ, and
α is a part of how W_s starts there.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, vectors, weights

x = inputs("x")
c = states("c")
n, f, r, h = vectors("n f r h")
W, b = weights("W", init="lecun"), biases("b")
v = biases("v", init=("uniform", -1.2247, 1.2247))  # a variance of 1/2, as the authors have it

cell = Cell(
    "sru",
    equations=[
        Eq(n, W.c @ x),
        Eq(f, sigmoid(W.f @ x + v.f * c + b.f)),
        Eq(r, sigmoid(W.r @ x + v.r * c + b.r)),
        Eq(c.next, f * c + (1 - f) * n),
        Eq(h, r * c.next + (1 - r) * (W.s @ x)),
    ],
    output=h,
    title="simple recurrent unit",
    source="Lei et al. 2018",
    roles={
        n: "candidate",
        f: "forget gate",
        r: "reset gate",
        c: "cell state",
    },
)
