"""``check`` of forward mode: tangents against dual numbers, ⟨Jv, w⟩ = ⟨v, Jᵀw⟩, and that both fail
where an equation is wrong.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from interpreter import Interpreter, interpret
from mutations import mutations
from several_axes import CELLS, FIXED
from sympy import Eq, Max

from lstmgen import (
    Cell,
    LstmgenError,
    biases,
    cells,
    check,
    constants,
    derive,
    inputs,
    masks,
    matrix,
    sigmoid,
    states,
    stop_gradient,
    tanh,
    vectors,
    weights,
)
from lstmgen.derivation.forward import Tangents
from lstmgen.verification.examination import Examination

NAMES = reference.NAMES


def of_all_kinds() -> Cell:
    """Several inputs and outputs, masks of both widths, constants, parameters that are not learned,
    a matrix made of parameters, states that start from other numbers than 0, kinks, a cut, and an
    output that is the same at all steps.
    """
    x, z = inputs("x"), inputs("z", size="E")
    h, c = states("h", init=0.5), states("c", init=1)
    keep, drop = masks("keep"), masks("drop", size=1)
    dt = constants("dt", 0.1)
    g, y, same = vectors("g y same")
    W, U, b, S = weights("W"), weights("U"), biases("b"), matrix("S", "H", "H")
    F = matrix("F", "H", "E", learned=False)
    return Cell(
        "of_all_kinds",
        [
            Eq(S, U.h - U.h.T),
            Eq(g, sigmoid(W.g @ x + F @ z + S @ h + b.g) * keep),
            Eq(c.next, drop * c + dt * Max(g, h) * stop_gradient(g)),
            Eq(h.next, h + dt * tanh(S @ c.next + g)),
            Eq(y, h.next * g + c.next),
            Eq(same, tanh(b.g) * dt),
        ],
        [y, c, same],
    )


ALL = {n: cells.get(n) for n in NAMES} | CELLS | FIXED | {"of_all_kinds": of_all_kinds()}


def small(cell: Cell, dtype: str = "float64", kinks: bool = False) -> Examination:
    """Few cases, which are quick."""
    return Examination(cell, dtype, T=3, B=2, seeds=1, kinks=kinks)


def findings(examination: Examination, module, tangents: Tangents | None = None):
    """Of forward mode, and of its dot product."""
    rows = {row.name: row for row in examination.judge(module, tangents=tangents).rows}
    return rows["forward mode"].worst, rows["dot product"].worst


@pytest.mark.parametrize("name", ALL)
def test_forward_mode_is_that_of_every_kind_of_cell(name: str) -> None:
    """The errors are those of float64, also where no tolerance would have to be met."""
    cell = ALL[name]
    tangents, product = findings(small(cell, kinks=True), interpret(cell))
    assert tangents.passed and product.passed
    assert tangents.error < 1e-12 and product.error < 1e-13


@pytest.mark.parametrize("name", ["lstm_peephole", "mlstm", "of_all_kinds"])
def test_the_dot_product_allows_for_the_rounding_of_the_module(name: str) -> None:
    """Single precision is seen in it, and is what is allowed; tangents are in float64 always."""
    tangents, product = findings(small(ALL[name], "float32"), interpret(ALL[name], "float32"))
    assert tangents.passed and product.passed
    assert tangents.error < 1e-13 and 1e-10 < product.error < 1e-5
    assert tangents.tolerance < 1e-12 and 1e-6 < product.tolerance < 1e-2


def broken_in(tangents: Tangents, number: int, line: Eq) -> Tangents:
    """``tangents`` with another equation in the place of one of them, counted from 0."""
    lines, left = [], number
    for equation, made in tangents.lines:
        if 0 <= left < len(made):
            made = (*made[:left], line, *made[left + 1 :])
            left = -1
        elif left >= 0:
            left -= len(made)
        lines.append((equation, made))
    return replace(tangents, lines=tuple(lines))


# The deviations from a mean sum to 0, and so do their changes: what is added to all is lost.
EQUIVALENT = {"var_Uh_f = sum(2*d_Uh_f*d_Uh_f/H): Uh_f for d_Uh_f"}


@pytest.mark.parametrize("name", ["lstm_peephole", "gru_reset_before", "lstm_layernorm"])
def test_every_equation_of_the_tangents_matters(name: str) -> None:
    """Each is broken as a slip of the pen would, and both comparisons fail each time."""
    cell = ALL[name]
    derived = derive(cell, mode="forward")
    examination = small(cell)
    [main, *_] = examination.comparisons
    gradients = {
        e: sum(main.witness.complex_step(e)).reshape(v.shape) for e, v in main.case.values.items()
    }
    moving = {v for e in (*derived.forward, *derived.equations) for v in e.rhs.atoms()}
    others = sorted((v for v in moving if hasattr(v, "category")), key=str)
    survivors, count = [], 0
    for k, line in enumerate(derived.equations):
        for what, rhs in mutations(line.rhs, others):
            broken = broken_in(derived, k, Eq(line.lhs, rhs, evaluate=False))
            count += 1
            try:
                pushed = examination.push(broken)[0]
            except (ValueError, LstmgenError):  # a product of the wrong shape; a value to come
                continue
            found = [*main.tangents(pushed), *main.dot_product(pushed, gradients, gradients)][:-1]
            if found[-1].passed or all(f.passed for f in found[:-1]):
                survivors.append(f"{line.lhs} = {line.rhs}: {what}")
    survivors = [s for s in survivors if s not in EQUIVALENT]
    assert not survivors, "\n".join(survivors)
    assert count > 5 * len(derived.equations)


def test_what_is_wrong_with_tangents_is_said() -> None:
    cell = cells.get("lstm")
    derived = derive(cell, mode="forward")
    k = next(k for k, e in enumerate(derived.equations) if e.lhs.name == "c")
    line = derived.equations[k]
    twice = broken_in(derived, k, Eq(line.lhs, 2 * line.rhs, evaluate=False))
    report = small(cell).judge(interpret(cell), tangents=twice)
    assert [r.name for r in report.rows if not r.passed] == ["forward mode", "dot product"]
    text = str(report)
    assert "forward mode DISAGREES (complex step)" in text
    assert "dot product DISAGREES (⟨Jv, w⟩ = ⟨v, Jᵀw⟩)" in text
    assert "all 15 gradients agree" in text


class OffInOneEntry(Interpreter):
    """The largest entry of one gradient is off by a millionth."""

    def backward(self, params, tape, dy, dstate=None):
        grads, dx, initial = super().backward(params, tape, dy, dstate)
        array = grads["U_f"]
        array[np.unravel_index(np.argmax(np.abs(array)), array.shape)] *= 1 + 1e-6
        return grads, dx, initial


def test_the_dot_product_sees_one_entry_of_one_gradient() -> None:
    cell = cells.get("lstm")
    report = small(cell).judge(OffInOneEntry(derive(cell)))
    assert [r.name for r in report.rows if not r.passed] == ["∂L/∂U_f", "dot product"]


def test_forward_mode_is_judged_whatever_the_module_does() -> None:
    """A module that fails has no dot product, and nothing to do with the tangents."""
    cell = cells.get("rnn")

    class Fails(Interpreter):
        def backward(self, *args):
            raise IndexError("index 7 is out of bounds")

    class Lacks(Interpreter):
        def backward(self, *args):
            grads, dx, initial = super().backward(*args)
            return {n: a for n, a in grads.items() if n != "b_h"}, dx, initial

    for kind in (Fails, Lacks):
        report = small(cell).judge(kind(derive(cell)))
        rows = {row.name: row for row in report.rows}
        assert rows["forward mode"].passed and not rows["dot product"].passed
    assert "∂L/∂b_h is missing" in str(report)


def test_check_has_both() -> None:
    report = check(of_all_kinds(), T=3, B=2)
    assert [row.name for row in report.rows][-2:] == ["forward mode", "dot product"]
    assert report.passed, f"\n{report}"
