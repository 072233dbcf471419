"""Where the constants of templates/c/lstmgen_runtime.h come from: prints them for float and double.

Each activation there is a quotient made of e^r = (q + r) / (q - r), |r| <= ln(2) / 2, with
q = r coth(r / 2), a polynomial in z = r^2. It is fitted with the least largest relative error,
which is that of e^r - 1 = 2 r / (q - r) as well, and its first coefficient stays 2, so that
functions which vanish at 0 have the right slope there. The logarithm in softplus is
log(1 + u) = t p(t^2) with t = 2 u / (2 + u), of which p(0) stays 1; |t| is largest where 1 + u is
the square root of 2 or of 1/2. Run it: python benchmarks/fit_activations.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp

mp.mp.prec = 200


@dataclass(frozen=True)
class Fit:
    """An even function of r, as a function of z = r^2 up to `largest` r."""

    f: Callable
    first: int  # its value at 0
    largest: mp.mpf

    @property
    def grid(self):
        top = self.largest**2 * mp.mpf("1.001")  # |r| can be a rounding error larger
        return [top * (1 - mp.cos(mp.pi * i / 400)) / 2 for i in range(1, 401)]


EXP = Fit(lambda z: mp.sqrt(z) * mp.coth(mp.sqrt(z) / 2), 2, mp.log(2) / 2)
LOG = Fit(
    lambda z: 2 * mp.atanh(mp.sqrt(z) / 2) / mp.sqrt(z), 1, 2 * (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)
)


def minimax(fit, known, degree):
    """Remez's exchange: the coefficients that follow the `known` ones, and the largest error."""
    powers, grid = range(len(known), degree + 1), fit.grid
    values = [fit.f(z) for z in grid]
    rest = [v - mp.polyval(known[::-1], z) for z, v in zip(grid, values, strict=True)]
    count = len(powers) + 1
    peaks = [round(399 * (1 - mp.cos(mp.pi * (i + 0.5) / count)) / 2) for i in range(count)]
    while True:
        rows = [
            [grid[j] ** k for k in powers] + [(-1) ** i * values[j]] for i, j in enumerate(peaks)
        ]
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix([rest[j] for j in peaks]))
        error = [
            (f - sum(c * z**k for c, k in zip(solution, powers, strict=False))) / v
            for z, f, v in zip(grid, rest, values, strict=True)
        ]
        turns = []  # the largest error of each stretch with one sign
        for j, e in enumerate(error):
            if not turns or e * error[turns[-1]] < 0:
                turns.append(j)
            elif abs(e) > abs(error[turns[-1]]):
                turns[-1] = j
        if turns[-count:] == peaks:
            return list(solution)[:-1], max(map(abs, error))
        peaks = turns[-count:]


def rounded(x, bits):
    with mp.workprec(bits):
        return +x


def coefficients(fit, degree, bits):
    """Rounded one after another, what follows fitted anew each time."""
    known = [mp.mpf(fit.first)]
    while len(known) <= degree:
        following, error = minimax(fit, known, degree)
        known.append(rounded(following[0], bits))
    return known, error


def shortest(x, bits):
    """The shortest decimal number that is read as x."""
    return next(
        text
        for digits in range(1, 20)
        if rounded(mp.mpf(text := mp.nstr(x, digits, strip_zeros=True)), bits) == x
    )


def main():
    for name, degrees, bits, spare in ("float", (2, 3), 24, 8), ("double", (5, 7), 53, 11):
        for what, fit, degree in zip(("e^r", "log"), (EXP, LOG), degrees, strict=True):
            found, error = coefficients(fit, degree, bits)
            print(f"{name}, {what}: largest error {float(error * 2**bits):.2g} * 2^-{bits}")
            for k, c in enumerate(found):
                print(f"    z^{k}        {shortest(c, bits)}")
        high = rounded(mp.log(2), bits - spare)  # times n, which has fewer than `spare` bits, exact
        for label, x in (
            ("log2(e)", 1 / mp.log(2)),
            ("ln(2)", mp.log(2)),
            ("ln(2), high", high),
            ("ln(2), low", mp.log(2) - high),
        ):
            print(f"    {label:12}{shortest(rounded(x, bits), bits)}")


if __name__ == "__main__":
    main()
