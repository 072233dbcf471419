"""Cells whose quantities have several axes: what published cells ask for, and what they do not."""

from sympy import Abs, Eq, Max, cos, exp, sin, sqrt

from lstmgen import (
    Cell,
    Size,
    biases,
    chunk,
    concat,
    constants,
    cumsum,
    expand,
    flatten,
    inputs,
    log_sigmoid,
    matrix,
    max_,
    mean,
    outer,
    repeat,
    sigmoid,
    softmax,
    split,
    states,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)

SIZES = {"D": 6, "H": 5, "K": 4, "N": 3, "P": 2}

x, h = inputs("x"), states("h")
W, U, b = weights("W"), weights("U"), biases("b")


def matrix_memory() -> Cell:
    """The mLSTM, stabilised."""
    C, n, m = states("C", shape=("H", "K")), states("n", "K"), states("m", 1)
    q, k = vectors("q k", "K")
    v, o = vectors("v o")
    i, f, late = vectors("i f l", 1)
    return Cell(
        "matrix_memory",
        [
            Eq(q, W.q @ x + b.q),
            Eq(k, (W.k @ x + b.k) / sqrt(Size("K"))),
            Eq(v, W.v @ x + b.v),
            Eq(o, sigmoid(W.o @ x + b.o)),
            Eq(late, log_sigmoid(W.f @ x + b.f) + m),
            Eq(m.next, Max(late, W.i @ x + b.i)),
            Eq(i, exp(W.i @ x + b.i - m.next)),
            Eq(f, exp(late - m.next)),
            Eq(C.next, f * C + i * outer(v, k)),
            Eq(n.next, f * n + i * k),
            Eq(h.next, o * (C.next @ q) / Max(Abs(sum_(n.next * q)), exp(-m.next))),
        ],
        h,
    )


def delta_rule() -> Cell:
    S = states("S", shape=("H", "K"))
    q, k = vectors("q k", "K")
    v, rate = vectors("v"), vectors("beta", 1)
    return Cell(
        "delta_rule",
        [
            Eq(q, W.q @ x),
            Eq(k, softmax(W.k @ x)),
            Eq(v, W.v @ x),
            Eq(rate, sigmoid(W.b @ x)),
            Eq(S.next, S + rate * outer(v - S @ k, k)),
            Eq(h.next, S.next @ q),
        ],
        h,
    )


def transposed() -> Cell:
    S, k, v = states("S", shape=("H", "K")), vectors("k", "K"), vectors("v")
    return Cell(
        "transposed",
        [
            Eq(v, W.v @ x),
            Eq(k, S.T @ v + W.k @ x),
            Eq(S.next, tanh(S * expand(v, S) + expand(k, S) * 0.3)),
            Eq(h.next, mean(S.next, "K") + max_(S * S, "K") + sum_(softmax(k)) * v),
        ],
        h,
    )


def heads() -> Cell:
    n, z = states("n", shape=("N", "P")), vectors("z", shape=("N", "P"))
    R, V = weights("R", shape=("N", "P", "P")), weights("V", shape=("N", "P", "D"))
    g, y = vectors("g", "N"), vectors("y", "N*P")
    c = biases("c", shape=("N", "P"))
    return Cell(
        "heads",
        [
            Eq(z, tanh(V.z @ x + R.z @ n + c.z)),
            Eq(g, sigmoid(W.g @ x + mean(n, "P"))),
            Eq(n.next, expand(g, n) * n + (1 - expand(g, n)) * z),
            Eq(y, flatten(n.next) * repeat(g, "P")),
        ],
        y,
    )


def shared_by_heads() -> Cell:
    n, z = states("n", shape=("N", "P")), vectors("z", shape=("N", "P"))
    return Cell(
        "shared_by_heads",
        [
            Eq(z, tanh(W.z @ n + chunk(W.x @ x, "N", "P") + expand(b.z, "N", "P"))),
            Eq(n.next, z - 0.5 * n),
        ],
        n,
    )


def views() -> Cell:
    s, c = states("s", "3*P"), states("c", "P")
    q, k, v = split(W.a @ x + U.a @ s, "P", "P", "P")
    u = vectors("u", shape=("P", 3))
    return Cell(
        "views",
        [
            Eq(c.next, sigmoid(q) * c + tanh(k)),
            Eq(u, chunk(s, "P", 3) * expand(c.next, "P", 3)),
            Eq(s.next, concat(v * c, c.next, q) + flatten(u) + W.z @ concat(x, c)),
        ],
        s,
    )


def scans() -> Cell:
    S = states("S", shape=("H", "K"))
    return Cell(
        "scans",
        [
            Eq(
                S.next,
                cumsum(S, "H") * 0.2 + cumsum(tanh(S), "K") + expand(W.k @ x, "H", "K"),
            ),
            Eq(h.next, sum_(S.next * outer(h, W.q @ x), "K")),
        ],
        h,
    )


def matrix_times_matrix() -> Cell:
    S, k = states("S", shape=("H", "K")), vectors("k", "K")
    return Cell(
        "matrix_times_matrix",
        [
            Eq(k, W.k @ x),
            Eq(S.next, tanh(S @ outer(k, k) + 0.5 * S)),
            Eq(h.next, S.next @ k),
        ],
        h,
    )


def several_outputs() -> Cell:
    """A state of two axes, what it is written by, what is read from it, and a state."""
    S, (q, k) = states("S", shape=("H", "K")), vectors("q k", "K")
    v, gate, y = vectors("v"), vectors("z", "K"), vectors("y", "P")
    return Cell(
        "several_outputs",
        [
            Eq(q, W.q @ x),
            Eq(k, softmax(W.k @ x + U.k @ h)),
            Eq(v, tanh(W.v @ x + b.v)),
            Eq(gate, sigmoid(W.z @ x)),
            Eq(S.next, (1 - expand(gate * k, S)) * S + outer(v, k)),
            Eq(h.next, tanh(S.next @ q)),
            Eq(y, W.y @ h.next + b.y),
        ],
        (y, S, k, h),
    )


def made_of_parameters() -> dict[str, Cell]:
    """Cells with matrices that hold for a whole sequence."""
    A, V, S, N, M = (matrix(n, "H", "H") for n in ("A", "V", "S", "N_", "M"))
    left, right = matrix("L", "H", "K"), matrix("R", "K", "H")
    antisymmetric = [Eq(S, U.h - U.h.T), Eq(h.next, tanh(S @ h + W.h @ x + b.h))]
    exponential = [Eq(h.next, tanh(exp(-A) @ h + W.h @ x))]
    normalised = [
        Eq(N, V / expand(sqrt(sum_(V**2, 1)), N)),
        Eq(h.next, tanh(N @ h + N.T @ h + W.h @ x)),
    ]
    low_rank = [Eq(M, left @ right), Eq(h.next, tanh(M @ h + W.h @ x))]
    masked = [Eq(h.next, tanh((U.h * V) @ h + W.h @ x))]
    found = {
        "antisymmetric": antisymmetric, "exponential": exponential, "normalised": normalised,
        "low_rank": low_rank, "masked": masked,
    }  # fmt: skip
    return {name: Cell(f"{name}_once", equations, h) for name, equations in found.items()}


def once_for_a_sequence() -> dict[str, Cell]:
    """Cells in whose steps there are expressions of parameters and constants alone."""
    re, im, g, v, y = states("re"), states("im"), vectors("g"), vectors("v"), vectors("y")
    nu, theta, gamma, zeta = vector("nu"), vector("theta"), vector("gamma"), vector("zeta", 1)
    V, z, dt = matrix("V", "H", "H"), vectors("z", "D+H"), constants("dt", 0.3)
    diagonal = [
        Eq(re.next, exp(-exp(nu)) * (cos(exp(theta)) * re - sin(exp(theta)) * im)
           + exp(gamma) * (W.r @ x)),
        Eq(im.next, exp(-exp(nu)) * (sin(exp(theta)) * re + cos(exp(theta)) * im)
           + exp(gamma) * (W.i @ x)),
        Eq(h.next, tanh(re) * dt + im * h),
    ]  # fmt: skip
    residual = [
        Eq(g, sigmoid(W.h @ x + U.h @ h + b.g)),
        Eq(v, tanh(W.h @ x + U.h @ h + b.h)),
        Eq(h.next, (sigmoid(zeta) * (1 - g) + sigmoid(nu)) * v + g * h * exp(-dt)),
    ]
    static = [
        Eq(g, exp(-nu) / (1 + exp(-nu))),
        Eq(v, g * sigmoid(b.v) + V @ b.k),
        Eq(h.next, tanh(v * h + W.h @ x + v + softmax(b.s))),
    ]
    kept = [
        Eq(v, exp(nu)),
        Eq(h.next, tanh(h * v + W.h @ x)),
        Eq(y, exp(nu) * sigmoid(gamma)),
    ]
    beside = [
        Eq(g, sigmoid(W.g @ concat(x, h) + b.g)),
        Eq(v, tanh(W.v @ concat(x, g * h) + b.v)),
        Eq(h.next, g * h + (1 - g) * v),
    ]
    named = [
        Eq(z, concat(x, h)),
        Eq(g, sigmoid(W.g @ z + b.g)),
        Eq(v, tanh(W.v @ z)),
        Eq(h.next, g * h + (1 - g) * v),
    ]
    leaky = [Eq(h.next, tanh(W.h @ x) * exp(-dt) + h * (1 - exp(-dt)))]
    stacked = [
        Eq(g, sigmoid(W.g @ x + U.g @ h + exp(nu))),
        Eq(v, tanh(W.v @ x + U.v @ h + b.v)),
        Eq(y, tanh(W.y @ x + sigmoid(gamma) - exp(nu))),
        Eq(h.next, g * h + (1 - g) * v + y),
    ]
    found = {
        "stacked": (stacked, h), "diagonal": (diagonal, h), "residual": (residual, h),
        "of_parameters": (static, h), "kept": (kept, y), "beside": (beside, h),
        "named_beside": (named, h), "leaky": (leaky, h),
    }  # fmt: skip
    return {name: Cell(f"{name}_once", equations, out) for name, (equations, out) in found.items()}


def not_learned() -> dict[str, Cell]:
    """Cells with matrices and vectors that have no gradient."""
    R, A = (
        matrix("R", "H", "H", learned=False, init="orthogonal"),
        matrix("A", "K", "K", learned=False),
    )
    In, f = matrix("In", learned=False), vector("f", "K", learned=False, init=0.5)
    Z = matrix("Z", shape=("N", "P", "P"), learned=False)
    V, S, g, e = (
        matrix("V", "P", "H"),
        matrix("S", "H", "H"),
        vector("g", learned=False, init=0.7),
        biases("e"),
    )
    y, u, m, s = vectors("y", "P"), vectors("u", 1), states("m", "K"), states("s", shape=("N", "P"))
    echo = [Eq(h.next, 0.3 * h + 0.7 * tanh(R @ h + In @ x)), Eq(y, V @ h.next + b.y)]
    legendre = [
        Eq(u, sum_(e.x * x) + sum_(e.h * h) + sum_(e.m * m)),
        Eq(m.next, A @ m + f * u),
        Eq(h.next, tanh(W.x @ x + W.h @ h + W.m @ m.next)),
    ]
    found = {
        "echo": (echo, y), "legendre": (legendre, h),
        "fixed_heads": ([Eq(s.next, tanh(Z @ s + chunk(W.s @ x, "N", "P")))], s),
        "fixed_gate": ([Eq(h.next, g * h + (1 - g) * tanh(W.h @ x + U.h @ h) * exp(-g))], h),
        "both_ways": ([Eq(h.next, tanh(R @ h + R.T @ (b.q * h) + W.h @ x))], h),
        "fixed_mask": ([Eq(S, R * U.h), Eq(h.next, tanh(S @ h + W.h @ x) + exp(g * b.z))], h),
        "reservoir": ([Eq(h.next, tanh(R @ h + In @ x))], h),
    }  # fmt: skip
    return {name: Cell(name, equations, out) for name, (equations, out) in found.items()}


FIXED = made_of_parameters() | once_for_a_sequence() | not_learned()


def factors_of_outer_products() -> Cell:
    """One number, a factor of each head, and one for the units of either side."""
    S = states("S", shape=("N", "H", "K"))
    v, u = vectors("v u", shape=("N", "H"))
    q, k, r = vectors("q k r", shape=("N", "K"))
    g, one, y = vectors("g", "N"), vectors("s", 1), vectors("y", shape=("N", "H"))
    R = weights("R", shape=("N", "H", "D"))
    Q = weights("Q", shape=("N", "K", "D"))
    wide = ("N", "H", "K")
    added = expand(g, *wide) * outer(v, k) * expand(r, *wide)
    return Cell(
        "factors_of_outer_products",
        [
            Eq(v, R.v @ x),
            Eq(u, tanh(R.u @ x)),
            Eq(q, Q.q @ x),
            Eq(k, sigmoid(Q.k @ x)),
            Eq(r, sigmoid(Q.r @ x)),
            Eq(g, sigmoid(matrix("w_g", "N", "D") @ x)),
            Eq(one, tanh(matrix("w_s", 1, "D") @ x)),
            Eq(S.next, S * 0.5 + added - one * outer(u, k) / 3),
            Eq(y, sum_(S.next * outer(u, q), "K")),
        ],
        y,
    )


CELLS = {
    f.__name__: f()
    for f in (
        matrix_memory, delta_rule, transposed, heads, shared_by_heads, views, scans,
        matrix_times_matrix, several_outputs, factors_of_outer_products,
    )
}  # fmt: skip
