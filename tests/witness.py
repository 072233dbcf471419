"""An independent autograd: a cell's own equations printed as PyTorch, and differentiated by it.

The printer starts from the equations as their author wrote them. It shares nothing with the
library's normal form, derivation, targets or verification.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from sympy.core.relational import Relational
from sympy.printing.printer import Printer

from lstmgen import Cell
from lstmgen.language.matrices import Matrix
from lstmgen.language.symbols import Vector

_CALLS = {
    "exp": "torch.exp", "log": "torch.log", "sin": "torch.sin", "cos": "torch.cos",
    "tan": "torch.tan", "asin": "torch.asin", "acos": "torch.acos", "atan": "torch.atan",
    "sinh": "torch.sinh", "cosh": "torch.cosh", "tanh": "torch.tanh", "asinh": "torch.asinh",
    "acosh": "torch.acosh", "atanh": "torch.atanh", "erf": "torch.erf", "Abs": "torch.abs",
    "sign": "torch.sign", "floor": "torch.floor", "ceiling": "torch.ceil",
    "expm1": "torch.expm1", "sigmoid": "torch.sigmoid", "relu": "torch.relu",
    "rsqrt": "torch.rsqrt",
}  # fmt: skip


def aligned(*terms: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Numbers, which are (B, 1), with as many axes as what they stand beside."""
    axes = max(term.dim() for term in terms)
    return tuple(
        term if term.dim() == axes else term.reshape(len(term), *[1] * (axes - 1)) for term in terms
    )


def product(matrix: torch.Tensor, operand: torch.Tensor) -> torch.Tensor:
    """Each head has its own matrix, or its own operand, or both, or all have the same."""
    missing = max(matrix.dim() - operand.dim(), 0)  # heads, the last ones
    operand = operand.reshape(*operand.shape[:-1], *[1] * missing, operand.shape[-1])
    return (matrix @ operand[..., None])[..., 0]


def beside(*terms: torch.Tensor) -> torch.Tensor:
    """Side by side along the last axis; what is learned is the same for all rows."""
    front = torch.broadcast_shapes(*(term.shape[:-1] for term in terms))
    return torch.cat([term.expand(*front, term.shape[-1]) for term in terms], -1)


def expanded(value: torch.Tensor, shape: tuple[int, ...], places: tuple[int, ...]) -> torch.Tensor:
    """``value`` repeated along the axes of ``shape`` that are not among ``places``."""
    if not places:
        value = value.reshape(len(value))
    index = tuple(slice(None) if k in places else None for k in range(len(shape)))
    return value[(slice(None), *index)].expand(len(value), *shape)


class TorchPrinter(Printer):
    """Prints an expression as PyTorch code over (B, *shape) tensors in the dict ``v``."""

    printmethod = "_torch"  # the language's own _sympystr is for people

    def emptyPrinter(self, expr):
        raise TypeError(f"no PyTorch for {type(expr).__name__}: {expr}")

    def _print_Vector(self, e: Vector) -> str:
        return f'v["{e.name}"]' if e.time == 0 or e.category == "input" else f's["{e.name}"]'

    def _print_Number(self, e) -> str:
        return f"number({sympy.Rational(e).p!r} / {sympy.Rational(e).q!r})"

    def _print_Float(self, e) -> str:
        return f"number({float(e)!r})"

    def _print_NumberSymbol(self, e) -> str:
        return f"number({float(e)!r})"

    def _print_Size(self, e) -> str:
        return f"number({self._size(e)})"

    def _size(self, e) -> str:
        return re.sub(r"[A-Za-z_]\w*", lambda name: f'sizes["{name[0]}"]', str(e))

    def _shape(self, shape) -> str:
        return f"({' '.join(f'{self._size(n)},' for n in shape)})"

    def _print_Add(self, e) -> str:
        return f"functools.reduce(torch.add, aligned({', '.join(map(self._print, e.args))}))"

    def _print_Mul(self, e) -> str:
        return f"functools.reduce(torch.mul, aligned({', '.join(map(self._print, e.args))}))"

    def _print_Pow(self, e) -> str:
        base = self._print(e.base)
        if e.exp.is_Integer:
            return f"torch.pow({base}, {int(e.exp)})"
        if e.exp == sympy.S.Half:
            return f"torch.sqrt({base})"
        return f"torch.pow({base}, {self._print(e.exp)})"

    def _print_Product(self, e) -> str:
        return f"product({self._print(e.matrix)}[0], {self._print(e.operand)})"

    def _print_Matrix(self, e: Matrix) -> str:
        return f"p['{e.name}']{'.mT' if e.transposed else ''}[None]"

    def _print_Contract(self, e) -> str:
        left, right, out = e.spec
        operands = ", ".join(map(self._print, e.args[:2]))
        return f"torch.einsum('Z{left},Z{right}->Z{out}', {operands})"

    def _print_Expand(self, e) -> str:
        return f"expanded({self._print(e.operand)}, {self._shape(e.args[1])}, {e.places})"

    def _print_Part(self, e) -> str:
        sizes = self._shape(e.sizes)
        return f"torch.split({self._print(e.operand)}, {sizes}, -1)[{e.number}]"

    def _print_Reshape(self, e) -> str:
        return f"{self._print(e.operand)}.reshape(-1, *{self._shape(e.args[1])})"

    def _print_Transpose(self, e) -> str:
        return f"{self._print(e.operand)}.transpose(-1, -2)"

    def _print_Concat(self, e) -> str:
        return f"beside({', '.join(map(self._print, e.args))})"

    def _print_named(self, e) -> str:
        return self._print(e.args[0])

    def _print_stop_gradient(self, e) -> str:
        return f"{self._print(e.args[0])}.detach()"

    def _print_step(self, e) -> str:
        return f"({self._print(e.args[0])} > 0).double()"

    def _print_softplus(self, e) -> str:
        return f"torch.nn.functional.softplus({self._print(e.args[0])}, threshold=500)"

    def _print_mean(self, e) -> str:
        return self._reduced("mean", e)

    def _print_sum_(self, e) -> str:
        return self._reduced("sum", e)

    def _print_max_(self, e) -> str:
        return self._reduced("amax", e)

    def _reduced(self, function: str, e) -> str:
        along = "-1, keepdim=True" if e.axis is None else f"{1 + int(e.axis)}"
        return f"{self._print(e.args[0])}.{function}({along})"

    def _print_cumsum(self, e) -> str:
        axis = -1 if e.axis is None else 1 + int(e.axis)
        return f"{self._print(e.args[0])}.cumsum({axis})"

    def _print_equal(self, e) -> str:
        a, b = map(self._print, e.args)
        return f"({a} == {b}).double()"

    def _print_Heaviside(self, e) -> str:
        z, at_zero = map(self._print, e.args)
        return f"torch.where({z} == 0, {at_zero}, ({z} > 0).double())"

    def _print_Max(self, e) -> str:
        return self._extreme("amax", e.args)

    def _print_Min(self, e) -> str:
        return self._extreme("amin", e.args)

    def _extreme(self, function: str, args) -> str:
        """Of all at once: those that tie share the gradient equally, whatever their number."""
        together = f"torch.broadcast_tensors(*aligned({', '.join(map(self._print, args))}))"
        return f"torch.stack({together}).{function}(0)"

    def _print_Mod(self, e) -> str:
        a, b = map(self._print, e.args)
        return f"({a} - {b} * torch.floor({a} / {b}))"

    def _print_Piecewise(self, e) -> str:
        text = "number(float('nan'))"
        for value, condition in reversed(e.args):
            text = f"torch.where({self._condition(condition)}, {self._print(value)}, {text})"
        return text

    def _condition(self, c) -> str:
        if c in (sympy.true, sympy.false):
            return f"torch.tensor({bool(c)})"
        if isinstance(c, Relational):
            return f"({self._print(c.lhs)} {c.rel_op} {self._print(c.rhs)})"
        parts = [self._condition(a) for a in c.args]
        every, some = f"({' & '.join(parts)})", f"({' | '.join(parts)})"
        if isinstance(c, sympy.ITE):
            return f"torch.where({', '.join(parts)})"
        texts = {
            sympy.Not: f"(~{parts[0]})",
            sympy.And: every,
            sympy.Or: some,
            sympy.Xor: f"({' ^ '.join(parts)})",
            sympy.Nand: f"(~{every})",
            sympy.Nor: f"(~{some})",
            sympy.Implies: f"(~{parts[0]} | {parts[-1]})",
            sympy.Equivalent: f"({every} | ~{some})",
        }
        if c.func not in texts:
            raise TypeError(f"no PyTorch for the condition {type(c).__name__}: {c}")
        return texts[c.func]

    def _print_Function(self, e) -> str:
        name = type(e).__name__
        if name not in _CALLS:
            return self.emptyPrinter(e)
        return f"{_CALLS[name]}({', '.join(map(self._print, e.args))})"


def transcribe(cell: Cell) -> str:
    """The source of ``step(p, s, v)``: ``v`` holds what is given and gains what is computed."""
    printer = TorchPrinter()
    lines = ["def step(p, s, v):", "    p = dict(p)"]
    for e in cell.equations:
        if isinstance(e.lhs, Matrix):  # made of parameters, at each step anew
            lines.append(f"    p['{e.lhs.name}'] = {printer.doprint(e.rhs)}[0]")
            continue
        shape = printer._shape(cell.shape(e.lhs))
        target = f'v["{e.lhs.name}"]'
        lines.append(f"    {target} = {printer.doprint(e.rhs)}")
        lines.append(f"    {target} = aligned({target}, torch.empty(1, *{shape}))[0]")
        lines.append(f"    {target} = {target}.expand(rows, *{shape})")
    return "\n".join(lines)


@dataclass
class Gradients:
    """What PyTorch says of one sequence, as NumPy arrays in the layout of a module's interface."""

    y: Any  # an array, or a dict of several
    final: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    initial: dict[str, np.ndarray]

    def named(self) -> dict[tuple[str, str], np.ndarray]:
        """By kind and name, as verification has it."""
        return {
            **{("parameter", n): g for n, g in self.params.items()},
            **{("input", n): g for n, g in self.inputs.items()},
            **{("state", n): g for n, g in self.initial.items()},
        }


def differentiate(
    cell: Cell,
    params: Mapping[str, Any],
    x: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    dy: Mapping[str, np.ndarray],
    dstate: Mapping[str, np.ndarray],
    after: Callable[[Mapping[str, torch.Tensor]], None] | None = None,
) -> Gradients:
    """Run and differentiate L = <dy, y> + <dstate, final states> in float64.

    Outputs that ``dy`` does not have are not in L. ``after`` is given all that a step has made.
    """

    def leaf(a: Any) -> torch.Tensor:
        return torch.tensor(np.asarray(a, dtype=float), requires_grad=True)

    learned = {p.name: leaf(params[p.name]) for p in cell.parameters}
    xs = {v.name: leaf(x[v.name]) for v in cell.inputs}
    initial = {s.name: leaf(state[s.name]) for s in cell.states}
    steps, rows = next(iter(xs.values())).shape[:2]
    sizes = _sizes(cell, learned, xs, initial)
    fixed = {p.name: learned[p.name][None] for p in cell.parameters if not isinstance(p, Matrix)}

    def number(value: float) -> torch.Tensor:
        return torch.full((1, 1), value, dtype=torch.float64)

    fixed |= {c.name: number(float(params[c.name])) for c in cell.constants}

    scope: dict[str, Any] = {
        "torch": torch, "functools": functools, "aligned": aligned, "expanded": expanded,
        "beside": beside,
        "product": product, "number": number, "rows": rows, "sizes": sizes,
    }  # fmt: skip
    exec(transcribe(cell), scope)  # the printer's own text
    s, outputs = initial, {y.name: [] for y in cell.outputs}
    for t in range(steps):
        v = fixed | {n: a[t] for n, a in xs.items()}
        v |= {m.name: torch.tensor(masks[m.name][t]) for m in cell.masks}
        scope["step"](learned, s, v)
        if after is not None:
            after(v)
        s = {n: v[n] for n in initial}
        for name, found in outputs.items():
            found.append(v[name])
    ys = {name: torch.stack(found) for name, found in outputs.items()}
    loss = sum((torch.tensor(a) * ys[n]).sum() for n, a in dy.items())
    loss = loss + sum((torch.tensor(dstate[n]) * s[n]).sum() for n in initial)
    leaves = [*learned.values(), *xs.values(), *initial.values()]
    loss = loss + 0 * sum(a.sum() for a in leaves)  # so that what nothing reads has a gradient: 0
    loss.backward()

    def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return {n: a.grad.numpy() for n, a in tensors.items()}

    y = {n: a.detach().numpy() for n, a in ys.items()}
    return Gradients(
        y if len(y) > 1 else y[cell.output.name],
        {n: a.detach().numpy() for n, a in s.items()},
        arrays({p.name: learned[p.name] for p in cell.learned}),
        arrays(xs),
        arrays(initial),
    )


def differentiate_case(cell: Cell, case: Any) -> Gradients:
    """The same for a case of ``lstmgen.verification``."""
    of = {kind: {n: a for (k, n), a in case.values.items() if k == kind}
          for kind in ("parameter", "input", "state")}  # fmt: skip
    masks = {m.name: case.given[m.name] for m in cell.masks}
    constants = {c.name: case.given[c.name] for c in cell.constants}
    return differentiate(
        cell, of["parameter"] | constants, of["input"], of["state"], masks, case.dy, case.dstate
    )


def _sizes(cell: Cell, learned, xs, initial) -> dict[str, int]:
    shapes = [(cell.shape(p), learned[p.name].shape) for p in cell.parameters]
    shapes += [(cell.shape(v), xs[v.name].shape[2:]) for v in cell.inputs]
    shapes += [(cell.shape(s), initial[s.name].shape[1:]) for s in cell.states]
    found = [(n, k) for symbols, shape in shapes for n, k in zip(symbols, shape, strict=True)]
    return {str(n): k for n, k in found if n.is_Symbol}
