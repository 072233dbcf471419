"""PyTorch's and JAX's words for what a cell does, and a printer of expressions in them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sympy import Expr

# Of the axes of an array: numbers, and names of numbers that are read from arrays.
Extents = Sequence[int | str]


@dataclass(frozen=True)
class Output:
    """The names of an output: where a step makes it, where a step returns it, and of all steps."""

    made: str
    returned: str
    whole: str


@dataclass(frozen=True)
class Parts:
    """The pieces of a sequence's code: lines, and names."""

    arguments: Sequence[str]
    before: Sequence[str]
    closed: Sequence[str]  # names from outside that a step reads
    wanted: Sequence[tuple[str, str]]  # what a step reads of each step: all, and one
    states: Sequence[str]
    step: Sequence[str]
    new: Sequence[str]  # the states that leave a step
    outputs: Sequence[Output]


class Dialect:
    """One library. Quantities are (B, *shape), or (T, B, *shape) before the loop."""

    name: str
    prefix: str  # of elementwise functions
    power: str  # the one that raises to a power
    transposed: bool  # whether weights are kept as (columns, rows)
    collected: str  # the output of all steps
    reserved: frozenset[str]
    functions: ClassVar[dict[str, str]]  # of one argument: how they are called

    def has(self, e: Expr) -> bool:
        """Whether ``e`` applies an elementwise function of one argument that has a name here."""
        return len(e.args) == 1 and type(e).__name__ in self.functions

    def apply(self, function: str, argument: str) -> str:
        return self.functions[function].format(argument)

    def turned(self, weights: str) -> str:
        """Weights as a product with rows on its left takes them."""
        return weights if self.transposed else f"{weights}.t()"

    def product(
        self, operand: str, weights: str, added: str, in_loop: bool, transposed: bool
    ) -> str:
        raise NotImplementedError

    def normalised(self, value: str, lead: Extents, count: int, width: int, eps: Any) -> str:
        raise NotImplementedError

    def einsum(self, letters: str, operands: Sequence[str]) -> str:
        return f'{self.prefix}.einsum("{letters}", {", ".join(operands)})'

    def batched(self, a: str, b: str) -> str:
        """A product of matrices for each of the first axis."""
        raise NotImplementedError

    def applied(self, matrix: str, vector: str, axis: int, letters: str) -> str:
        """A product with a matrix that moves, which is summed along ``axis``, -1 or -2."""
        return self.einsum(letters, [matrix, vector])

    def permuted(self, value: str, axes: Sequence[int]) -> str:
        raise NotImplementedError

    def reshaped(self, value: str, shape: Extents) -> str:
        return f"{self.prefix}.reshape({value}, ({_listed(shape)}))"

    def split(self, value: str, widths: Sequence[int]) -> str:
        raise NotImplementedError

    def unstacked(self, value: str, axis: int) -> str:
        """The parts along an axis, which they do not have themselves."""
        raise NotImplementedError

    def concatenated(self, parts: Sequence[str]) -> str:
        raise NotImplementedError

    def zeros(self, like: str, width: int) -> str:
        raise NotImplementedError

    def widened(self, value: str, shape: Extents) -> str:
        """What is broadcast, with all its units."""
        raise NotImplementedError

    def filled(self, number: str, shape: Extents, like: str) -> str:
        """Units that are all one number, of the type of another array."""
        raise NotImplementedError

    def cast(self, condition: str, like: str) -> str:
        """1 where a condition holds, else 0."""
        raise NotImplementedError

    def cut(self, value: str) -> str:
        """A value that no gradient flows through."""
        raise NotImplementedError

    def extreme(self, function: str, values: Sequence[str]) -> str:
        """``maximum`` or ``minimum`` of more than two arrays of one shape."""
        raise NotImplementedError

    def reduced(self, function: str, value: str, axis: int, keep: bool) -> str:
        """A reduction or a scan; ``keep`` the axis with one unit, which is broadcast."""
        raise NotImplementedError

    def assembled(self, parts: Parts) -> str:
        raise NotImplementedError


_SAME = "exp expm1 log sin cos tan sinh cosh tanh floor sign".split()


class Torch(Dialect):
    """PyTorch, eager, scripted or compiled."""

    name = "PyTorch"
    prefix, power = "torch", "pow"
    transposed = False
    collected = "ys"
    reserved = frozenset({"torch", "step", "sequence", "ys", "y", "y_"})
    functions: ClassVar[dict[str, str]] = {
        **{f: f"torch.{f}({{}})" for f in (*_SAME, "asin", "acos", "atan", "asinh", "acosh")},
        **{f: f"torch.{f}({{}})" for f in ("atanh", "erf", "sigmoid", "relu", "rsqrt")},
        "Abs": "torch.abs({})",
        "ceiling": "torch.ceil({})",
        # above 40 it is its argument, to the last bit of a double; exp overflows in float32 at 89
        "softplus": "torch.nn.functional.softplus({}, threshold=40.0)",
    }

    def product(
        self, operand: str, weights: str, added: str, in_loop: bool, transposed: bool
    ) -> str:
        if in_loop and added:
            return f"torch.addmm({added}, {operand}, {weights})"
        if in_loop or transposed:
            return f"{operand} @ {weights}" + (f" + {added}" if added else "")
        last = f", {added}" if added else ""
        return f"torch.nn.functional.linear({operand}, {weights}{last})"

    def normalised(self, value: str, lead: Extents, count: int, width: int, eps: Any) -> str:
        options = f"[{width}], eps={float(eps)!r}"
        if count == 1:
            return f"torch.nn.functional.layer_norm({value}, {options})"
        apart, together = _listed([*lead, count, width]), _listed([*lead, count * width])
        inner = f"torch.reshape({value}, [{apart}])"
        return f"torch.nn.functional.layer_norm({inner}, {options}).reshape({together})"

    def split(self, value: str, widths: Sequence[int]) -> str:
        if len(set(widths)) == 1:
            return f"torch.chunk({value}, {len(widths)}, dim=-1)"
        return f"torch.split({value}, {list(widths)}, dim=-1)"

    def batched(self, a: str, b: str) -> str:
        return f"torch.bmm({a}, {b})"

    def applied(self, matrix: str, vector: str, axis: int, letters: str) -> str:
        # several times as fast as einsum, which makes many small products of it
        along = "[..., None, :]" if axis == -1 else "[..., None]"
        return f"torch.sum({matrix} * {vector}{along}, {axis})"

    def permuted(self, value: str, axes: Sequence[int]) -> str:
        return f"torch.permute({value}, {tuple(axes)})"

    def unstacked(self, value: str, axis: int) -> str:
        return f"torch.unbind({value}, {axis})"

    def concatenated(self, parts: Sequence[str]) -> str:
        return f"torch.cat([{', '.join(parts)}], dim=-1)"

    def zeros(self, like: str, width: int) -> str:
        return f"{like}.new_zeros([{width}])"

    def widened(self, value: str, shape: Extents) -> str:
        return f"({value}).expand({_listed(shape)})"

    def filled(self, number: str, shape: Extents, like: str) -> str:
        return f"{like}.new_full([{_listed(shape)}], {number})"

    def cast(self, condition: str, like: str) -> str:
        return f"({condition}).to({like}.dtype)"

    def cut(self, value: str) -> str:
        return f"({value}).detach()"

    def extreme(self, function: str, values: Sequence[str]) -> str:
        return f"torch.a{function[:3]}(torch.stack([{', '.join(values)}]), 0)"

    def reduced(self, function: str, value: str, axis: int, keep: bool) -> str:
        if function == "cumsum":
            return f"torch.cumsum({value}, {axis})"
        if function == "rcumsum":
            return f"torch.flip(torch.cumsum(torch.flip({value}, [{axis}]), {axis}), [{axis}])"
        name = {"mean": "mean", "sum_": "sum", "max_": "amax"}[function]
        return f"torch.{name}({value}, {axis}{', keepdim=True' if keep else ''})"

    def assembled(self, parts: Parts) -> str:
        now = [one for _, one in parts.wanted]
        given = ", ".join([*parts.closed, *now, *parts.states])
        others = [y for y in parts.outputs if y.made not in parts.new]
        made = [*parts.new, *(y.made for y in others)]
        kept = ", ".join([*parts.states, *(y.returned for y in others)])
        returned = dict(zip(parts.new, parts.states, strict=True))
        unbound = [f"{whole}.unbind(0)" for whole, _ in parts.wanted]
        over = unbound[0] if len(now) == 1 else f"zip({', '.join(unbound)})"
        appended = [f"{y.whole}.append({returned.get(y.made, y.returned)})" for y in parts.outputs]
        stacked = [f"torch.stack({y.whole})" for y in parts.outputs]
        lines = [
            "import torch", "", "",
            f"def step({given}):", *_indented([*parts.step, f"return {', '.join(made)}"]), "", "",
            f"def sequence({', '.join(parts.arguments)}):",
            *_indented([*parts.before, *(f"{y.whole} = []" for y in parts.outputs)]),
            *_indented([f"for {', '.join(now)} in {over}:"]),
            *_indented([f"{kept} = step({given})", *appended], 2),
            *_indented([f"return {', '.join([*stacked, *parts.states])}"]),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"


class Jax(Dialect):
    """JAX, with ``lax.scan``."""

    name = "JAX"
    prefix, power = "jnp", "power"
    transposed = True
    collected = "y_all"
    reserved = frozenset({"jax", "jnp", "step", "sequence", "carry", "now", "normalise", "y_all"})
    functions: ClassVar[dict[str, str]] = {
        **{f: f"jnp.{f}({{}})" for f in _SAME},
        **{f: f"jnp.arc{f[1:]}({{}})" for f in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
        **{f: f"jax.nn.{f}({{}})" for f in ("sigmoid", "relu", "softplus")},
        "erf": "jax.scipy.special.erf({})",
        "rsqrt": "jax.lax.rsqrt({})",
        "Abs": "jnp.abs({})",
        "ceiling": "jnp.ceil({})",
    }

    def product(
        self, operand: str, weights: str, added: str, in_loop: bool, transposed: bool
    ) -> str:
        value = f"{operand} @ {weights}{'.T' if transposed else ''}"
        return f"{added} + {value}" if added else value

    def normalised(self, value: str, lead: Extents, count: int, width: int, eps: Any) -> str:
        if count == 1:
            return f"normalise({value}, {float(eps)!r})"
        apart, together = _listed([*lead, count, width]), _listed([*lead, count * width])
        inner = f"jnp.reshape({value}, ({apart}))"
        return f"normalise({inner}, {float(eps)!r}).reshape({together})"

    def split(self, value: str, widths: Sequence[int]) -> str:
        cuts = [sum(widths[: k + 1]) for k in range(len(widths) - 1)]
        return f"jnp.split({value}, {cuts}, axis=-1)"

    def batched(self, a: str, b: str) -> str:
        return f"jnp.matmul({a}, {b})"

    def permuted(self, value: str, axes: Sequence[int]) -> str:
        return f"jnp.transpose({value}, {tuple(axes)})"

    def unstacked(self, value: str, axis: int) -> str:
        return f"jnp.unstack({value}, axis={axis})"

    def concatenated(self, parts: Sequence[str]) -> str:
        return f"jnp.concatenate([{', '.join(parts)}], axis=-1)"

    def zeros(self, like: str, width: int) -> str:
        return f"jnp.zeros({width}, {like}.dtype)"

    def widened(self, value: str, shape: Extents) -> str:
        return f"jnp.broadcast_to({value}, ({_listed(shape)}))"

    def filled(self, number: str, shape: Extents, like: str) -> str:
        return f"jnp.full(({_listed(shape)}), {number}, {like}.dtype)"

    def cast(self, condition: str, like: str) -> str:
        return f"({condition}).astype({like}.dtype)"

    def cut(self, value: str) -> str:
        return f"jax.lax.stop_gradient({value})"

    def extreme(self, function: str, values: Sequence[str]) -> str:
        return f"jnp.{function[:3]}(jnp.stack([{', '.join(values)}]), axis=0)"

    def reduced(self, function: str, value: str, axis: int, keep: bool) -> str:
        if function == "rcumsum":
            return f"jnp.flip(jnp.cumsum(jnp.flip({value}, {axis}), axis={axis}), {axis})"
        kept = ", keepdims=True" if keep else ""
        return f"jnp.{function.strip('_')}({value}, axis={axis}{kept})"

    def assembled(self, parts: Parts) -> str:
        def group(names: Sequence[str]) -> str:
            return f"({', '.join(names)}{',' if len(names) == 1 else ''})"

        def several(names: Sequence[str]) -> str:
            return group(names) if len(names) > 1 else names[0]

        now = group([one for _, one in parts.wanted])
        whole = group([name for name, _ in parts.wanted])
        wholes = [y.whole for y in parts.outputs]
        states = group(parts.states)
        y = several([y.made for y in parts.outputs])
        step = [f"{states} = carry", f"{now} = now", *parts.step,
                f"return {group(parts.new)}, {y}"]  # fmt: skip
        body = [
            *parts.before, "",
            "def step(carry, now):", *_indented(step), "",
            f"{states}, {several(wholes)} = jax.lax.scan(step, {states}, {whole})",
            f"return {', '.join([*wholes, *parts.states])}",
        ]  # fmt: skip
        helper: list[str] = []
        if any("normalise(" in line for line in body):
            helper = [
                "def normalise(a, eps):",
                *_indented([
                    "centred = a - jnp.mean(a, axis=-1, keepdims=True)",
                    "variance = jnp.mean(centred * centred, axis=-1, keepdims=True)",
                    "return centred * jax.lax.rsqrt(variance + eps)",
                ]), "", "",
            ]  # fmt: skip
        head = ["import jax", "import jax.numpy as jnp", "", "", *helper]
        lines = [*head, f"def sequence({', '.join(parts.arguments)}):", *_indented(body)]
        return "\n".join(lines) + "\n"


def _listed(shape: Extents) -> str:
    """An array's extents, for brackets; a comma makes a tuple of a single one."""
    return ", ".join(map(str, shape)) + "," * (len(shape) == 1)


def _indented(lines: Sequence[str], depth: int = 1) -> list[str]:
    return textwrap.indent("\n".join(lines), "    " * depth).split("\n")
