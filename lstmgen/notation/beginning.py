"""Files to begin with: a small cell, and comments that say what else there is."""

from __future__ import annotations

from ..language.checks import check_name

_TEXT = """\
# What lstmgen understands of this file: lstmgen show {name}.cell
# Are its gradients right?               lstmgen check {name}.cell
# All of the notation:                   docs/notation.md

name: {name}
title: a gated cell to begin with
output: h                    # what each step puts out; several with commas

# These lines have a use where the defaults are not meant:
#
# source: Authors, year      the paper
# inputs: x (D), u (E)       what comes in at every step; x of size D, unless told otherwise
# constants: dt = 0.1        numbers that are not learned
# sizes: c (P), C (H, K)     of states and vectors, which have size H otherwise
# starts: b_f = 1, U_n = orthogonal
# roles: f = forget gate, n = candidate

# One step: h is the state that comes in, h.next the one that leaves. @ is a matrix product, and *
# is elementwise. Nothing is declared: W_f is a matrix since it stands on the left of @, b_f is a
# learned vector since no equation defines it.

f = sigmoid(W_f @ x + U_f @ h + b_f)
n = tanh(W_n @ x + U_n @ (f * h) + b_n)
h.next = (1 - f) * h + f * n
"""

_PYTHON = '''\
"""A gated cell to begin with.

What lstmgen understands of this file: lstmgen show {name}.py
Are its gradients right?               lstmgen check {name}.py
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")  # what comes in at every step, of size D
h = states("h")  # h comes into the step, h.next leaves it; of size H, or states("h", size="P")
f, n = vectors("f n")  # what the step computes
W, U, b = weights("W"), weights("U"), biases("b")  # families: W.f is the matrix W_f

cell = Cell(
    "{name}",
    equations=[
        Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),  # @ is a matrix product, * is elementwise
        Eq(n, tanh(W.n @ x + U.n @ (f * h) + b.n)),
        Eq(h.next, (1 - f) * h + f * n),
    ],
    output=h,
    title="a gated cell to begin with",
    # source="Authors, year",
    # init={{b.f: 1.0, U.n: "orthogonal"}},
    roles={{f: "forget gate", n: "candidate"}},
)
'''


def begin(name: str, *, as_text: bool = True) -> dict[str, str]:
    """A file that defines a cell called ``name``: its name, and its text.

    Raises
    ------
    CellError
        If no cell can be called so.
    """
    name = name.removesuffix(".cell" if as_text else ".py")
    check_name(name, "the cell's name")
    suffix, template = (".cell", _TEXT) if as_text else (".py", _PYTHON)
    return {name + suffix: template.format(name=name)}
