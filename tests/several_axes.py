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
    relu,
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


def heads_both_ways() -> Cell:
    """Matrices of heads for one vector, and turned for one of each head, or for one of all."""
    n, u, V = states("n", shape=("N", "P")), vectors("u", "P"), matrix("V", shape=("N", "P", "H"))
    return Cell(
        "heads_both_ways",
        [
            Eq(u, W.u @ x),
            Eq(n.next, tanh(V @ h + 0.5 * n)),
            Eq(h.next, tanh(W.h @ x + sum_(V.T @ n.next, "N") + max_(V.T @ u, "N"))),
        ],
        h,
    )


def fewer_heads() -> Cell:
    """Matrices with more heads than what they are multiplied by."""
    a, M = states("a", shape=("N", "K")), matrix("M", shape=("N", "2", "P", "K"))
    m, u = vectors("m", shape=("N", "2", "P")), vectors("u", "K")
    return Cell(
        "fewer_heads",
        [
            Eq(u, W.u @ x),
            Eq(m, tanh(M @ a) + M @ u),
            Eq(a.next, tanh(sum_(M.T @ m, 1) + mean(M.T @ sum_(m, 1), 1) + expand(u, a))),
        ],
        a,
    )


def one_number() -> Cell:
    """Learned, a constant, and one of each step, beside quantities of two axes and of three."""
    S, C = states("S", shape=("H", "K")), states("C", shape=("N", "P", "K"))
    p, c, g = vector("p", 1), constants("c", 0.4), vectors("g", 1)
    return Cell(
        "one_number",
        [
            Eq(g, sigmoid(W.g @ x + p)),
            Eq(S.next, tanh(S * c - (1 - g) * p * expand(W.k @ x, S))),
            Eq(C.next, tanh(C * p - c * C**2 + expand(W.c @ x, C))),
            Eq(h.next, tanh(sum_(S.next, "K") + p * mean(mean(mean(C.next, 0), 0)))),
        ],
        (h, C),
    )  # fmt: skip


def views_of_parameters() -> Cell:
    """What is learned is put beside what moves, taken apart, and multiplied by it."""
    S, n, k = states("S", shape=("H", "K")), states("n", shape=("N", "P")), vectors("k", "K")
    p, g, e, t = vector("p", 1), vector("g"), vector("e", "K"), vector("t", "N*P")
    first, second = split(vector("s", "2*H"), "H", "H")
    return Cell(
        "views_of_parameters",
        [
            Eq(k, weights("V", columns="D+H+1").k @ concat(x, h, p)),
            Eq(S.next, tanh(0.5 * S + outer(g, k) + outer(h, e))),
            Eq(n.next, tanh(n * chunk(t, "N", "P") + chunk(W.n @ x, "N", "P"))),
            Eq(h.next, tanh(weights("V", columns="D+2*H").h @ concat(x, g, h) + S.next @ e
                            + first * h + second * sum_(flatten(n.next)))),
        ],
        h,
    )  # fmt: skip


def equal_axes() -> Cell:
    """Square memories, whose size is told by that of all their units only."""
    S, r, y = states("S", shape=("P", "P")), vectors("r", "P"), vectors("y", "P*P")
    return Cell(
        "equal_axes",
        [
            Eq(r, mean(S, 0) + max_(S, 1)),
            Eq(S.next, tanh(chunk(W.s @ x + 0.3 * flatten(S), "P", "P") + S.T @ S + outer(r, r))),
            Eq(y, flatten(S.next * expand(r, "P", "P"))),
        ],
        (y, S),
    )


def open_columns() -> Cell:
    """No parameter tells the size of the state, so that its columns are not known before it."""
    k = vectors("k", "K")
    return Cell(
        "open_columns",
        [
            Eq(k, tanh(weights("W", "K", "D+H").k @ concat(x, h))),
            Eq(h.next, h * mean(k) + sum_(k)),
        ],
        h,
    )


def along_axes() -> Cell:
    """Sums along axes of what is only expanded to them, of what is learned, and running ones."""
    b, e, p = biases("b", shape=("N", "P")), biases("e", shape=("K", "H")), vector("p", "N")
    n, v, y = states("n", shape=("N", "P")), vectors("v"), vectors("y", "N")
    u = vectors("u", shape=("N", "P"))
    return Cell(
        "along_axes",
        [
            Eq(v, sum_(expand(W.v @ x, "H", "K"), "K") + sum_(e.v - expand(W.e @ x, "K", "H"), 0)),
            Eq(y, mean(b.y, "P") + cumsum(p)),
            Eq(u, cumsum(tanh(b.u), "N") * n),
            Eq(n.next, tanh(u + expand(W.n @ x, n)) * mean(p + W.n @ x)),
            Eq(h.next, tanh(v + expand(sum_(sum_(n.next, 1)), "H"))),
        ],
        (h, y),
    )


def turned_heads() -> Cell:
    """Transposes that bring heads to the front, and an outer product that is made twice."""
    S, V = states("S", shape=("P", "N")), states("V", shape=("K", "N"))
    n = states("n", shape=("N", "P"))
    C, w = vectors("C", shape=("N", "P", "K")), vectors("w", "N")
    z = matrix("Z", "P", "P")
    return Cell(
        "turned_heads",
        [
            Eq(C, tanh(outer(S.T, V.T))),
            Eq(w, max_(relu(outer(mean(n, 1), mean(V, 1))), "K")),
            Eq(S.next, tanh(0.5 * S + expand(W.s @ x, S))),
            Eq(V.next, tanh(0.5 * V + expand(W.t @ x, V))),
            Eq(n.next, tanh(z @ n + sum_(C, "K") + expand(w, n))),
        ],
        (n, w),
    )


def repeated_twice() -> Cell:
    """A parameter repeated along an axis in two equations, and as it is in a third."""
    S = states("S", shape=("N", "P"))
    v, u = vectors("v u", shape=("N", "P"))
    g, z, G = vector("g", "P"), vectors("z", "P"), weights("G", shape=("N", "P", "D"))
    return Cell(
        "repeated_twice",
        [
            Eq(v, G.a @ x + expand(g, "N", "P") * S),
            Eq(u, sigmoid(v) * expand(g, "N", "P")),
            Eq(z, tanh(U.z @ x) * g),
            Eq(S.next, tanh(u * v + S) + expand(z, "N", "P")),
        ],
        S,
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
    p, g, e, B = vector("p", 1), vector("g"), vector("e", "K"), biases("B", shape=("N", "K"))
    negative = [Eq(S, exp(-A) / 2), Eq(h.next, tanh(S @ h + W.h @ x))]
    entries = [
        Eq(S, p * A + exp(-A) * sigmoid(A) - A / expand(1 + g**2, A) + 1),
        Eq(N, outer(g, g) - A * expand(g, A)),
        Eq(h.next, tanh((S - S.T) @ h + N @ h + (exp(-A) / 2) @ h + (2 * A.T) @ h + W.h @ x)),
    ]
    products = [
        Eq(M, left @ exp(-right) / (1 + p) + outer(left @ e, g)),
        Eq(S, exp(-A) @ M),
        Eq(h.next, tanh((S @ h + M.T @ h + (left @ exp(right)) @ h) / 10 + W.h @ x)),
    ]
    n, R, Z = (
        states("n", shape=("N", "K")),
        matrix("R", shape=("N", "K", "H")),
        matrix("Z", "K", "K"),
    )
    of_heads = [
        Eq(n.next, tanh(R @ g + Z @ B.z + 0.5 * n + expand(mean(x), n))),
        Eq(h.next, tanh(W.h @ x + sum_(R.T @ n.next, "N"))),
    ]
    found = {
        "negative": negative, "entries": entries, "products": products, "of_heads": of_heads,
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
        matrix_times_matrix, several_outputs, factors_of_outer_products, heads_both_ways,
        fewer_heads, one_number, views_of_parameters, equal_axes, open_columns, along_axes,
        turned_heads,
    )
}  # fmt: skip
