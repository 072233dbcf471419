"""The linear recurrent unit: Orvieto et al., "Resurrecting recurrent neural networks for long
sequences", ICML 2023 (orvieto2023resurrecting): a linear recurrence with a complex diagonal matrix,
h[t] = λ h[t-1] + γ B x, of which y = Re(C h) + d x is read. The nonlinearity is elsewhere, between
layers. A state of H complex numbers is two real ones of H.

λ = exp(-exp(ν) + i exp(θ)), so that |λ| < 1 for all ν; nu_log and theta_log are the paper's ν^log
and θ^log. The input is normalised by γ = sqrt(1 - |λ|²). The paper learns γ, starting from there;
here it is computed from the eigenvalues, once for a sequence, and follows them in training.

As in the paper, λ starts uniformly on a ring of the unit disc, here that between 0.9 and 0.999.
Tasks with long dependencies want small phases, too: their largest is another number to choose.
"""

from sympy import Eq, cos, exp, sin, sqrt

from lstmgen import Cell, expm1, inputs, matrix, states, vector, vectors

x = inputs("x")
h_re, h_im = states("h_re h_im")
r, a, b, gamma = vectors("r a b gamma")
y = vectors("y", "D")
B_re, B_im = matrix("B_re B_im", "H", "D")
C_re, C_im = matrix("C_re C_im", "D", "H")
nu = vector("nu_log", "H", init=("ring", 0.9, 0.999))
theta = vector("theta_log", "H", init=("log_of_uniform", 1e-4, 6.2832))
d = vector("d", "D", init=("normal", 1.0))

cell = Cell(
    "lru",
    equations=[
        Eq(r, exp(-exp(nu))),
        Eq(a, r * cos(exp(theta))),
        Eq(b, r * sin(exp(theta))),
        Eq(gamma, sqrt(-expm1(-2 * exp(nu)))),
        Eq(h_re.next, a * h_re - b * h_im + gamma * (B_re @ x)),
        Eq(h_im.next, b * h_re + a * h_im + gamma * (B_im @ x)),
        Eq(y, C_re @ h_re.next - C_im @ h_im.next + d * x),
    ],
    output=y,
    title="linear recurrent unit, with complex eigenvalues",
    source="Orvieto et al. 2023",
    roles={
        r: "modulus of λ",
        a: "real part of λ",
        b: "imaginary part of λ",
        gamma: "normalisation",
        nu: "logarithm of -log |λ|",
        theta: "logarithm of the phase of λ",
        h_re: "real part of the state",
        h_im: "imaginary part of the state",
    },
)
