"""The derivation equals what is published, proved by SymPy: the difference simplifies to zero.

The published equations are written in their authors' notation, with the textbook's functions, which
SymPy differentiates itself; then symbols are renamed. Gates and candidates are replaced by their
definitions on both sides, so that i (1 - i) and σ'(ā) meet as the same function of ā.
"""

from __future__ import annotations

import pytest
import reference
import strategies
import sympy
from hypothesis import given, settings
from interpreter import interpret
from sympy import Eq, Expr, exp

from lstmgen import (
    Cell,
    biases,
    cells,
    check,
    chunk,
    cumsum,
    derive,
    inputs,
    matrix,
    max_,
    mean,
    sigmoid,
    softmax,
    states,
    sum_,
    tanh,
    vector,
    vectors,
    weights,
)
from lstmgen.derivation.reverse import Derivation, adjoint, carry, cotangent
from lstmgen.language.matrices import Matrix
from lstmgen.language.symbols import Gradient, Outer, Product, Total, Vector, shift

a_ = sympy.Symbol("a", real=True)
LOGISTIC = 1 / (1 + exp(-a_))


def sigma(a: Expr) -> Expr:
    return LOGISTIC.subs(a_, a)


def sigma_prime(a: Expr) -> Expr:
    return sympy.diff(LOGISTIC, a_).subs(a_, a)


def tanh_prime(a: Expr) -> Expr:
    return sympy.diff(tanh(a_), a_).subs(a_, a)


def equal(ours: Expr, theirs: Expr) -> bool:
    """Whether the difference simplifies to zero; products with matrices are opaque to SymPy."""
    return sympy.simplify(sympy.expand(ours - theirs)) == 0


class Ours:
    """A derivation, looked up by name, with values replaced by their definitions."""

    def __init__(self, cell: Cell, values: dict[Vector, Expr]) -> None:
        self.derivation = derive(cell)
        later = {shift(v, 1): shift(e, 1) for v, e in values.items()}
        self.values = {**values, **later}
        self.lines = {str(e.lhs): e.rhs for e in self.derivation.equations}
        self.gradients = {e.lhs.args[0].name: e.rhs for e in self.derivation.gradients}

    def delta(self, name: str) -> Expr:
        return self.lines[f"δ{name}"].xreplace(self.values)

    def gradient(self, name: str) -> Expr:
        return self.gradients[name].xreplace(self.values)


def delta(name: str, size: str = "H") -> Vector:
    """δ of a vector, at t; ``later`` moves it to t+1."""
    return Vector(name, "adjoint", size)


def later(e: Expr) -> Expr:
    return shift(e, 1)


def earlier(e: Expr) -> Expr:
    return shift(e, -1)


def member(family: str, name: str) -> Matrix:
    return Matrix(f"{family}_{name}")


def pre(name: str) -> Vector:
    """A pre-activation: what Greff writes with a bar."""
    return Vector(f"a_{name}", "vector", "H")


# --------------------------------------------------------------------------- Greff et al., II.B

GATES = "ifgo"


class Greff:
    """Greff et al. 2017, "Backpropagation Through Time", with z = g, y = h, R = U."""

    def __init__(self) -> None:
        self.x = Vector("x", "input", "D")
        self.y_before, self.c_before = states("h c")
        self.y, self.c = self.y_before.next, self.c_before.next
        self.p = {n: Vector(f"p_{n}", "parameter", "", 0, 0.0) for n in "ifo"}
        self.bar = {n: pre(n) for n in GATES}
        self.value = {n: sigma(self.bar[n]) for n in "ifo"} | {"g": tanh(self.bar["g"])}
        self.delta_bar = {n: delta(f"a_{n}") for n in GATES}
        self.delta_y, self.delta_c = delta("h"), delta("c")

    def of_delta_y(self) -> Expr:
        """δy = Δ + R_zᵀ δz̄[t+1] + R_iᵀ δī[t+1] + R_fᵀ δf̄[t+1] + R_oᵀ δō[t+1]"""
        recurrent = [Product(member("U", n).T, later(self.delta_bar[n])) for n in GATES]
        return cotangent(self.y) + sum(recurrent)

    def of_delta_o(self) -> Expr:
        """δō = δy ⊙ h(c) ⊙ σ'(ō)"""
        return self.delta_y * tanh(self.c) * sigma_prime(self.bar["o"])

    def of_delta_c(self) -> Expr:
        """δc = δy ⊙ o ⊙ h'(c) + p_o ⊙ δō + p_i ⊙ δī[t+1] + p_f ⊙ δf̄[t+1] + δc[t+1] ⊙ f[t+1]"""
        return (
            self.delta_y * self.value["o"] * tanh_prime(self.c)
            + self.p["o"] * self.delta_bar["o"]
            + self.p["i"] * later(self.delta_bar["i"])
            + self.p["f"] * later(self.delta_bar["f"])
            + later(self.delta_c) * later(self.value["f"])
        )

    def of_delta_f(self) -> Expr:
        """δf̄ = δc ⊙ c[t-1] ⊙ σ'(f̄)"""
        return self.delta_c * self.c_before * sigma_prime(self.bar["f"])

    def of_delta_i(self) -> Expr:
        """δī = δc ⊙ z ⊙ σ'(ī)"""
        return self.delta_c * self.value["g"] * sigma_prime(self.bar["i"])

    def of_delta_g(self) -> Expr:
        """δz̄ = δc ⊙ i ⊙ g'(z̄)"""
        return self.delta_c * self.value["i"] * tanh_prime(self.bar["g"])

    def of_delta_x(self) -> Expr:
        """δx = W_zᵀ δz̄ + W_iᵀ δī + W_fᵀ δf̄ + W_oᵀ δō"""
        return sum(Product(member("W", n).T, self.delta_bar[n]) for n in GATES)

    def shares(self) -> dict[str, tuple[Expr, bool]]:
        """What a step adds to each gradient, and whether the sum ends at T-1.

        Those that end at T-1 pair a step's adjoint with the previous step's value, written one step
        later: ∂R = Σ_{t=0}^{T-1} <δ★[t+1], y[t]>. They hold for initial states of zero.
        """
        found: dict[str, tuple[Expr, bool]] = {}
        for n in GATES:
            found[f"W_{n}"] = Outer(self.delta_bar[n], self.x), False
            found[f"U_{n}"] = Outer(later(self.delta_bar[n]), self.y), True
            found[f"b_{n}"] = self.delta_bar[n], False
        for n in "if":
            found[f"p_{n}"] = self.c * later(self.delta_bar[n]), True
        found["p_o"] = self.c * self.delta_bar["o"], False
        return found


@pytest.fixture(scope="module")
def greff() -> Greff:
    return Greff()


@pytest.fixture(scope="module")
def peephole(greff: Greff) -> Ours:
    values = {Vector(n, "vector", "H"): e for n, e in greff.value.items()}
    return Ours(cells.get("lstm_peephole"), values)


@pytest.mark.parametrize("name", ["h", "c", "a_i", "a_f", "a_g", "a_o"])
def test_peephole_adjoints_are_those_of_greff_et_al(name, greff, peephole) -> None:
    published = getattr(greff, f"of_delta_{'y' if name == 'h' else name[-1]}")()
    assert equal(peephole.delta(name), published)


def test_peephole_adjoints_are_complete(peephole) -> None:
    assert set(peephole.lines) == {"δh", "δc", "δa_i", "δa_f", "δa_g", "δa_o"}


def test_peephole_input_gradient_is_that_of_greff_et_al(greff, peephole) -> None:
    assert equal(peephole.gradient("x"), greff.of_delta_x())


def test_peephole_parameter_gradients_are_those_of_greff_et_al(greff, peephole) -> None:
    """For steps 0 … T, as published; what it leaves out is the first step's term, δ★[0] with the
    initial state, and no other."""
    last = 4
    shares = greff.shares()
    assert set(shares) == {p.name for p in peephole.derivation.cell.parameters}
    for name, (share, ends_early) in shares.items():
        total = peephole.gradient(name)
        assert isinstance(total, Total)
        ours = sum(shift(total.args[0], t) for t in range(last + 1))
        published = sum(shift(share, t) for t in range(last + (not ends_early)))
        initial = earlier(share) if ends_early else 0
        assert equal(ours, published + initial), name
        assert not ends_early or not equal(ours, published), name


def test_peephole_initial_states_have_gradients(greff, peephole) -> None:
    """The recurrent terms of δy and δc, which would be those of step -1, taken at step 0."""
    y_terms = earlier(greff.of_delta_y() - cotangent(greff.y))
    c_terms = earlier(
        greff.of_delta_c()
        - greff.delta_y * greff.value["o"] * tanh_prime(greff.c)
        - greff.p["o"] * greff.delta_bar["o"]
    )
    assert equal(peephole.gradient("h"), y_terms)
    assert equal(peephole.gradient("c"), c_terms)


def test_the_comparison_can_fail(greff, peephole) -> None:
    """Without its peephole term the published line differs from ours by just that term."""
    term = greff.p["o"] * greff.delta_bar["o"]
    assert equal(peephole.delta("c") - (greff.of_delta_c() - term), term)
    assert not equal(term, 0)


# --------------------------------------------------------------------------- coupled gates


def test_cifg_is_that_of_greff_et_al() -> None:
    """δī = δc ⊙ (z - c[t-1]) ⊙ σ'(ī), and no line for f."""
    values = {
        Vector("i", "vector", "H"): sigma(pre("i")),
        Vector("g", "vector", "H"): tanh(pre("g")),
    }
    ours = Ours(cells.get("cifg"), values)
    c = states("c")
    assert equal(ours.delta("a_i"), delta("c") * (tanh(pre("g")) - c) * sigma_prime(pre("i")))
    assert "δf" not in ours.lines
    assert "δa_f" not in ours.lines


# --------------------------------------------------------------------------- gated recurrent units


class Gru:
    """What both forms share: h' = z ⊙ h + (1 - z) ⊙ n."""

    def __init__(self, name: str) -> None:
        self.h = states("h")
        self.r, self.z, self.n = sigma(pre("r")), sigma(pre("z")), tanh(pre("n"))
        named = {"r": self.r, "z": self.z, "n": self.n}
        self.ours = Ours(cells.get(name), {Vector(n, "vector", "H"): e for n, e in named.items()})
        self.delta_h = delta("h")
        self.delta_n = self.delta_h * (1 - self.z) * (1 - self.n**2)
        self.delta_z = self.delta_h * (self.h - self.n) * sigma_prime(pre("z"))
        self.to_gates = Product(member("U", "z").T, delta("a_z")) + Product(
            member("U", "r").T, delta("a_r")
        )

    def check_shared(self) -> None:
        ours = self.ours
        assert equal(ours.delta("a_n"), self.delta_n)
        assert equal(ours.delta("a_z"), self.delta_z)
        expected = sum(Product(member("W", n).T, delta(f"a_{n}")) for n in "rzn")
        assert equal(ours.gradient("x"), expected)
        for n in "rzn":
            assert ours.gradient(f"W_{n}") == Total(Outer(delta(f"a_{n}"), inputs("x")))
            assert ours.gradient(f"b_{n}") == Total(delta(f"a_{n}"))
        for n in "rz":
            assert ours.gradient(f"U_{n}") == Total(Outer(delta(f"a_{n}"), self.h))

    def check_state(self, passed_on: Expr) -> None:
        """What the incoming state gets: the initial state's gradient, and a term of δh before."""
        assert equal(self.ours.gradient("h"), passed_on)
        assert equal(self.ours.delta("h"), cotangent(self.h.next) + later(passed_on))


def test_gru_reset_before_is_that_of_cho_et_al_v3() -> None:
    gru = Gru("gru_reset_before")
    gru.check_shared()
    delta_rh, rh = delta("rh"), Vector("rh", "vector", "H")
    assert equal(gru.ours.delta("rh"), Product(member("U", "n").T, delta("a_n")))
    assert equal(gru.ours.delta("a_r"), delta_rh * gru.h * sigma_prime(pre("r")))
    gru.check_state(gru.delta_h * gru.z + delta_rh * gru.r + gru.to_gates)
    assert gru.ours.gradient("U_n") == Total(Outer(delta("a_n"), rh))
    forward = {e.lhs: e.rhs for e in gru.ours.derivation.forward}
    assert forward[rh] == Vector("r", "vector", "H") * gru.h


def test_gru_reset_after_is_that_of_cho_et_al_v1() -> None:
    """With q = U_n h + b_hn, which the cell calls m."""
    gru = Gru("gru")
    gru.check_shared()
    q, delta_q = Vector("m", "vector", "H"), delta("m")
    assert equal(gru.ours.delta("m"), gru.r * delta("a_n"))
    assert equal(gru.ours.delta("a_r"), delta("a_n") * q * sigma_prime(pre("r")))
    gru.check_state(gru.delta_h * gru.z + Product(member("U", "n").T, delta_q) + gru.to_gates)
    assert gru.ours.gradient("U_n") == Total(Outer(delta_q, gru.h))
    assert gru.ours.gradient("b_m") == Total(delta_q)


# --------------------------------------------------------------------------- projection


def test_lstmp_is_that_of_sak_et_al() -> None:
    """δr = Δ + Σ R★ᵀ δ★̄[t+1]; δm = W_rᵀ δr replaces δy; δW_r = Σ δr mᵀ; δR★ = Σ δ★̄ r[t-1]ᵀ."""
    greff = Greff()
    values = {Vector(n, "vector", "H"): e for n, e in greff.value.items()}
    ours = Ours(cells.get("lstmp"), values)
    r, c = states("h", size="P"), states("c")
    delta_r, delta_m = delta("h", "P"), delta("m")
    recurrent = sum(Product(member("U", n).T, delta(f"a_{n}")) for n in GATES)
    assert equal(ours.delta("h"), cotangent(r.next) + later(recurrent))
    assert equal(ours.delta("m"), Product(member("W", "h").T, delta_r))
    o, f = greff.value["o"], greff.value["f"]
    through_output = delta_m * o * tanh_prime(c.next)
    assert equal(ours.delta("c"), through_output + later(delta("c")) * later(f))
    assert equal(ours.delta("a_o"), delta_m * tanh(c.next) * sigma_prime(pre("o")))
    for n in "ifg":
        assert equal(ours.delta(f"a_{n}"), getattr(greff, f"of_delta_{n}")())
    assert ours.gradient("W_h") == Total(Outer(delta_r, Vector("m", "vector", "H")))
    for n in GATES:
        assert ours.gradient(f"U_{n}") == Total(Outer(delta(f"a_{n}"), r))
    assert equal(ours.gradient("h"), recurrent)
    assert equal(ours.gradient("c"), delta("c") * f)


# --------------------------------------------------------------------------- reductions


def component(e: Expr, k: int, size: int, entries: dict[Vector, list[sympy.Symbol]]) -> Expr:
    """Entry ``k`` of a vector expression over ``entries``, with reductions written out."""
    if isinstance(e, Vector):
        values = entries[e]
        return values[k % len(values)]
    if isinstance(e, (sum_, mean)):
        total = sum(component(e.args[0], j, size, entries) for j in range(size))
        return total / size if isinstance(e, mean) else total
    if e.is_Atom:
        return sympy.Integer(size) if e.is_Symbol else e
    return e.func(*(component(a, k, size, entries) for a in e.args))


def test_layer_norm_is_the_published_vjp() -> None:
    """da = (ĝ - mean ĝ - x̂ mean(ĝ x̂)) / s with ĝ = γ ⊙ dy, for the biased variance: proved entry
    by entry for three units, by following the derived lines of the cell state's normalisation."""
    derivation = derive(cells.get("lstm_layernorm"))
    lines = {str(e.lhs): e for e in derivation.adjoints}
    size = 3
    c = sympy.symbols("c:3", real=True)
    dy, gain = sympy.symbols("dy:3", real=True), sympy.symbols("k:3", real=True)
    eps = sympy.Rational(1, 100000)
    average = sum(c) / size
    variance = sum((v - average) ** 2 for v in c) / size
    s = sympy.sqrt(variance + eps)
    entries: dict[Vector, list[Expr]] = {
        **{v: list(gain) for v in derivation.cell.parameters if v.name == "gain"},
        delta("a_h"): list(dy),
        Vector("d_c", "vector", "H"): [v - average for v in c],
        Vector("r_c", "vector", "1"): [1 / s],
        carry(states("c")): [sympy.S.Zero],
    }
    for name in ("δr_c", "δd_c", "δmu_c", "δc"):
        line = lines[name]
        count = 1 if line.lhs.is_single else size
        entries[line.lhs] = [component(line.rhs, k, size, entries) for k in range(count)]
    hat = [(v - average) / s for v in c]
    g = [k * d for k, d in zip(gain, dy, strict=True)]
    mixed = sum(a * b for a, b in zip(g, hat, strict=True)) / size
    numbers = dict(zip((*c, *dy, *gain), map(sympy.Rational, range(1, 19, 2)), strict=True))
    numbers[c[1]] = sympy.Rational(-7, 3)
    for k in range(size):
        published = (g[k] - sum(g) / size - hat[k] * mixed) / s
        difference = entries[delta("c")][k] - published
        assert sympy.simplify(difference.subs(numbers)) == 0


# --------------------------------------------------------------------------- form


def test_derivatives_are_in_terms_of_named_values() -> None:
    """i (1 - i), not σ(a)(1 - σ(a)): no function that has a name is evaluated again."""
    for name in reference.NAMES:
        derivation = derive(cells.get(name))
        known = {e.rhs for e in derivation.forward}
        for line in derivation.adjoints:
            assert not line.rhs.atoms(sigmoid) & known, line


@pytest.mark.parametrize("name", reference.NAMES)
def test_equations_spell_out_what_comes_from_the_next_step(name: str) -> None:
    derivation = derive(cells.get(name))
    for line in derivation.equations:
        assert all(v.category != "carry" for v in line.rhs.atoms(Vector)), line
    heads = {e.lhs for e in derivation.equations}
    for line in derivation.equations:
        for v in line.rhs.atoms(Vector):
            assert v.category != "adjoint" or v.at(0) in heads, (line, v)


def test_gradients_are_complete() -> None:
    for name in reference.NAMES:
        derivation = derive(cells.get(name))
        cell = derivation.cell
        expected = [*cell.parameters, *cell.inputs, *cell.states]
        assert [e.lhs for e in derivation.gradients] == [Gradient(v) for v in expected]


def test_a_state_that_nothing_passes_on_has_no_gradient() -> None:
    """h is an output only: its initial value is not read."""
    x, h, c = inputs("x"), states("h"), states("c")
    W, U = weights("W"), weights("U")
    equations = [Eq(c.next, tanh(W.c @ x + U.c @ c)), Eq(h.next, sigmoid(c.next))]
    derivation = derive(Cell("quiet", equations, output=h))
    assert derivation.carried[carry(h, -1)] == 0
    assert adjoint(h.next) not in {e.lhs for e in derivation.totals}


def test_derivation_is_deterministic() -> None:
    one, two = (derive(cells.get("lstm_layernorm")) for _ in range(2))
    assert isinstance(one, Derivation)
    assert [str(e) for e in one.adjoints] == [str(e) for e in two.adjoints]


# --------------------------------------------------------------------------- hard shapes


def broadcasts() -> dict[str, Cell]:
    """Scalars and vectors that meet: where an adjoint has to be summed, or spread."""
    x, h, c = inputs("x"), states("h"), states("c", size="P")
    s = vectors("s", size=1)
    g = vectors("g")
    W, U, V, b = matrix("W"), matrix("U", rows="H"), matrix("V"), vector("b", size="H")
    p = vector("p", size="P")
    scalar = vector("q", size=1)
    return {
        "a scalar read at two sizes": Cell(
            "two_sizes",
            [
                Eq(s, sigmoid(V @ x)),
                Eq(c.next, s * c + tanh(p)),
                Eq(h.next, tanh(s * (W @ x) + U @ h) + mean(c.next)),
            ],
            output=h,
        ),
        "a sum over a pre-activation": Cell(
            "summed", [Eq(g, W @ x + U @ h), Eq(h.next, tanh(sum_(g) * b))], output=h
        ),
        "a mean over a broadcast scalar": Cell(
            "spread", [Eq(g, 2 * sigmoid(max_(h))), Eq(h.next, tanh(mean(g) * b + W @ x))], output=h
        ),
        "a mean of a parameter": Cell(
            "learned", [Eq(h.next, tanh(W @ x + mean(b * tanh(b)) * h + scalar))], output=h
        ),
        "a scan of a broadcast": Cell(
            "scanned",
            [Eq(g, scalar + 0 * b + b), Eq(h.next, tanh(cumsum(g * h) + W @ x))],
            output=h,
        ),
        "softmax of a product": Cell(
            "soft", [Eq(h.next, softmax(W @ x + U @ h) * 3 + h / 2)], output=h
        ),
        "a scalar state": Cell(
            "lone",
            [
                Eq(s, mean(h) * scalar),
                Eq(g, tanh(W @ x) * s + s**2),
                Eq(h.next, sigmoid(U @ g) + s),
            ],
            output=h,
        ),
    }


@pytest.mark.parametrize("what", broadcasts())
def test_broadcasts_are_differentiated(what: str) -> None:
    cell = broadcasts()[what]
    report = check(cell, module=interpret(cell))
    assert report.passed, f"\n{report}"


def test_a_product_of_two_parameters_is_no_part_of_the_step() -> None:
    """One matrix for the learned vectors of several heads is a contraction of the two."""
    x, s = inputs("x"), states("s", shape=("N", "P"))
    W, b = weights("W"), biases("b", shape=("N", "K"))
    cell = Cell("heads", [Eq(s.next, s + W.s @ b.s + chunk(W.x @ x, "N", "P"))], output=s)
    derivation = derive(cell)
    (product,) = derivation.fixed
    assert product.rhs.spec == ("ij", "aj", "ai")
    assert not any(product.rhs.atoms(Vector) & e.rhs.atoms(Vector) for e in derivation.forward)
    report = check(cell, module=interpret(cell))
    assert report.passed, f"\n{report}"


@given(strategies.cells())
@settings(max_examples=50)
def test_every_made_up_cell_has_a_derivation(cell: Cell) -> None:
    derivation = derive(cell)
    known = {e.lhs for e in derivation.forward}
    given_ = {*map(cotangent, cell.outputs), *(carry(s) for s in cell.states)}
    for line in derivation.adjoints:
        for v in line.rhs.atoms(Vector):
            if v.category in ("adjoint", "carry", "cotangent"):
                assert v in known | given_, (line, v)
        known.add(line.lhs)
