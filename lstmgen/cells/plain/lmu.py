"""The Legendre memory unit: Voelker, Kajić & Eliasmith, "Legendre memory units: continuous-time
representation in recurrent neural networks", NeurIPS 2019 (voelker2019legendre).

A linear memory m of K numbers holds a sliding window of the last θ steps of one signal u, as the
coefficients of Legendre polynomials; u is read off the input, the hidden units and the memory.
A_bar and B_bar are fixed: they are the discretised matrices of the delay, and depend on K and θ.

No named start gives A_bar and B_bar, so fill them in before use. With SciPy, for K and theta::

    i = np.arange(K)[:, None]
    j = np.arange(K)[None, :]
    A = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / theta
    B = (2 * i + 1) * (-1.0) ** i / theta
    A_bar = scipy.linalg.expm(A)
    B_bar = np.linalg.solve(A, (A_bar - np.eye(K)) @ B)[:, 0]

The start "hippo" is another measure, of all the past instead of a window. As in the authors' code,
h has no bias, and the memory does not read itself at first: e_m starts at 0. Later libraries have
one memory for each of several signals, and drop e_h and e_m.
"""

from sympy import Eq

from lstmgen import Cell, inputs, matrix, states, tanh, vector, vectors, weights

x = inputs("x")
h, m = states("h"), states("m", "K")
u = vectors("u", 1)
e, W = weights("e", rows=1), weights("W")
A, B = matrix("A_bar", "K", "K", learned=False), vector("B_bar", "K", learned=False)

cell = Cell(
    "lmu",
    equations=[
        Eq(u, e.x @ x + e.h @ h + e.m @ m),
        Eq(m.next, A @ m + B * u),
        Eq(h.next, tanh(W.x @ x + W.h @ h + W.m @ m.next)),
    ],
    output=h,
    title="Legendre memory unit",
    source="Voelker et al. 2019",
    notes="A_bar and B_bar are to be filled in before use: see the file of this cell",
    init={e.x: "lecun", e.h: "lecun", e.m: 0.0},
    roles={u: "what is remembered", m: "memory", h: "hidden state"},
)
