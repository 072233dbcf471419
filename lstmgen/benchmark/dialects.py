"""PyTorch's and JAX's words for what a cell does, and a printer of expressions in them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import sympy
from sympy import Expr
from sympy.printing.printer import Printer as SympyPrinter

from ..errors import LstmgenError
from ..language.symbols import Vector


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
    y: str


class Dialect:
    """One library. Vectors are rows: (B, size), or (T, B, size) before the loop."""

    name: str
    prefix: str  # of elementwise functions
    power: str  # the one that raises to a power
    transposed: bool  # whether weights are kept as (columns, rows)
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

    def normalised(self, value: str, lead: Sequence[int], count: int, width: int, eps: Any) -> str:
        raise NotImplementedError

    def split(self, value: str, widths: Sequence[int]) -> str:
        raise NotImplementedError

    def concatenated(self, parts: Sequence[str]) -> str:
        raise NotImplementedError

    def zeros(self, like: str, width: int) -> str:
        raise NotImplementedError

    def widened(self, value: str, shape: Sequence[int]) -> str:
        """A scalar in each row as a vector of equal units."""
        raise NotImplementedError

    def cast(self, condition: str, like: str) -> str:
        """1 where a condition holds, else 0."""
        raise NotImplementedError

    def cut(self, value: str) -> str:
        """A value that no gradient flows through."""
        raise NotImplementedError

    def bounded(self, function: str, value: str, limit: str) -> str:
        """``maximum`` or ``minimum`` with a number."""
        raise NotImplementedError

    def reduced(self, function: str, value: str) -> str:
        raise NotImplementedError

    def assembled(self, parts: Parts) -> str:
        raise NotImplementedError


_SAME = "exp expm1 log sin cos tan sinh cosh tanh floor sign".split()


class Torch(Dialect):
    """PyTorch, eager, scripted or compiled."""

    name = "PyTorch"
    prefix, power = "torch", "pow"
    transposed = False
    reserved = frozenset({"torch", "step", "sequence", "ys", "y", "y_"})
    functions: ClassVar[dict[str, str]] = {
        **{f: f"torch.{f}({{}})" for f in (*_SAME, "asin", "acos", "atan", "asinh", "acosh")},
        **{f: f"torch.{f}({{}})" for f in ("atanh", "erf", "sigmoid", "relu", "rsqrt")},
        "Abs": "torch.abs({})",
        "ceiling": "torch.ceil({})",
        "softplus": "torch.nn.functional.softplus({}, threshold=500.0)",
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

    def normalised(self, value: str, lead: Sequence[int], count: int, width: int, eps: Any) -> str:
        options = f"[{width}], eps={float(eps)!r}"
        if count == 1:
            return f"torch.nn.functional.layer_norm({value}, {options})"
        apart = ", ".join(map(str, [*lead, count, width]))
        together = ", ".join(map(str, [*lead, count * width]))
        inner = f"torch.reshape({value}, [{apart}])"
        return f"torch.nn.functional.layer_norm({inner}, {options}).reshape({together})"

    def split(self, value: str, widths: Sequence[int]) -> str:
        if len(set(widths)) == 1:
            return f"torch.chunk({value}, {len(widths)}, dim=-1)"
        return f"torch.split({value}, {list(widths)}, dim=-1)"

    def concatenated(self, parts: Sequence[str]) -> str:
        return f"torch.cat([{', '.join(parts)}], dim=-1)"

    def zeros(self, like: str, width: int) -> str:
        return f"{like}.new_zeros([{width}])"

    def widened(self, value: str, shape: Sequence[int]) -> str:
        return f"({value}).expand({', '.join(map(str, shape))})"

    def cast(self, condition: str, like: str) -> str:
        return f"({condition}).to({like}.dtype)"

    def cut(self, value: str) -> str:
        return f"({value}).detach()"

    def bounded(self, function: str, value: str, limit: str) -> str:
        side = {"maximum": "min", "minimum": "max"}[function]
        return f"torch.clamp({value}, {side}={limit})"

    def reduced(self, function: str, value: str) -> str:
        if function == "cumsum":
            return f"torch.cumsum({value}, -1)"
        name = {"mean": "mean", "sum_": "sum", "max_": "amax"}[function]
        return f"torch.{name}({value}, -1, keepdim=True)"

    def assembled(self, parts: Parts) -> str:
        now = [one for _, one in parts.wanted]
        given = ", ".join([*parts.closed, *now, *parts.states])
        made = [*parts.new, *([] if parts.y in parts.new else [parts.y])]
        own = "y_" if "y" in parts.states else "y"
        is_state = parts.y in parts.new
        y = parts.states[parts.new.index(parts.y)] if is_state else own
        kept = ", ".join([*parts.states, *([] if is_state else [own])])
        unbound = [f"{whole}.unbind(0)" for whole, _ in parts.wanted]
        over = unbound[0] if len(now) == 1 else f"zip({', '.join(unbound)})"
        lines = [
            "import torch", "", "",
            f"def step({given}):", *_indented([*parts.step, f"return {', '.join(made)}"]), "", "",
            f"def sequence({', '.join(parts.arguments)}):",
            *_indented([*parts.before, "ys = []", f"for {', '.join(now)} in {over}:"]),
            *_indented([f"{kept} = step({given})", f"ys.append({y})"], 2),
            *_indented([f"return torch.stack(ys), {', '.join(parts.states)}"]),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"


class Jax(Dialect):
    """JAX, with ``lax.scan``."""

    name = "JAX"
    prefix, power = "jnp", "power"
    transposed = True
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

    def normalised(self, value: str, lead: Sequence[int], count: int, width: int, eps: Any) -> str:
        if count == 1:
            return f"normalise({value}, {float(eps)!r})"
        apart = ", ".join(map(str, [*lead, count, width]))
        together = ", ".join(map(str, [*lead, count * width]))
        inner = f"jnp.reshape({value}, ({apart}))"
        return f"normalise({inner}, {float(eps)!r}).reshape({together})"

    def split(self, value: str, widths: Sequence[int]) -> str:
        cuts = [sum(widths[: k + 1]) for k in range(len(widths) - 1)]
        return f"jnp.split({value}, {cuts}, axis=-1)"

    def concatenated(self, parts: Sequence[str]) -> str:
        return f"jnp.concatenate([{', '.join(parts)}], axis=-1)"

    def zeros(self, like: str, width: int) -> str:
        return f"jnp.zeros({width}, {like}.dtype)"

    def widened(self, value: str, shape: Sequence[int]) -> str:
        return f"jnp.broadcast_to({value}, ({', '.join(map(str, shape))}))"

    def cast(self, condition: str, like: str) -> str:
        return f"({condition}).astype({like}.dtype)"

    def cut(self, value: str) -> str:
        return f"jax.lax.stop_gradient({value})"

    def bounded(self, function: str, value: str, limit: str) -> str:
        return f"jnp.{function}({value}, {limit})"

    def reduced(self, function: str, value: str) -> str:
        if function == "cumsum":
            return f"jnp.cumsum({value}, axis=-1)"
        return f"jnp.{function.strip('_')}({value}, axis=-1, keepdims=True)"

    def assembled(self, parts: Parts) -> str:
        def group(names: Sequence[str]) -> str:
            return f"({', '.join(names)}{',' if len(names) == 1 else ''})"

        now = group([one for _, one in parts.wanted])
        whole = group([name for name, _ in parts.wanted])
        states = group(parts.states)
        step = [f"{states} = carry", f"{now} = now", *parts.step,
                f"return {group(parts.new)}, {parts.y}"]  # fmt: skip
        body = [
            *parts.before, "",
            "def step(carry, now):", *_indented(step), "",
            f"{states}, y_all = jax.lax.scan(step, {states}, {whole})",
            f"return y_all, {', '.join(parts.states)}",
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


def _indented(lines: Sequence[str], depth: int = 1) -> list[str]:
    return textwrap.indent("\n".join(lines), "    " * depth).split("\n")


# --------------------------------------------------------------------------- expressions


class Body(Protocol):
    """What the printer has to know of the text around an expression."""

    def known(self, e: Expr) -> str | None: ...
    def begun(self, e: Expr) -> tuple[str, tuple[Expr, ...]] | None: ...
    def atom(self, e: Expr, hint: str) -> str: ...
    def is_repeated(self, e: Expr) -> bool: ...
    def keep(self, e: Expr, text: str) -> str: ...
    def vector(self, v: Vector) -> str: ...
    def normalised(self, text: str, e: Any) -> str: ...


_COMPOUND = (sympy.Add, sympy.Mul, sympy.Pow)
_SIGNS = {"StrictGreaterThan": ">", "GreaterThan": ">=", "StrictLessThan": "<", "LessThan": "<=",
          "Equality": "==", "Unequality": "!="}  # fmt: skip


class Printer(SympyPrinter):
    """Elementwise expressions and reductions; products are in ``Body.known``."""

    printmethod = "_transcript"  # the language's own _sympystr is for people

    def __init__(self, dialect: Dialect, body: Body) -> None:
        super().__init__()
        self.d, self.body = dialect, body

    def _print(self, e: Any, **options: Any) -> str:
        known = self.body.known(e)
        if known is not None:
            return known
        if isinstance(e, Expr) and e.is_number:
            return repr(int(e)) if e.is_Integer else repr(float(e))
        text: str = super()._print(e, **options)
        if isinstance(e, sympy.Function) and self.body.is_repeated(e):
            return self.body.keep(e, text)
        return text

    def emptyPrinter(self, e: Any) -> str:
        raise LstmgenError(f"{self.d.name} has no word for {type(e).__name__}: {e}")

    def _inner(self, e: Expr) -> str:
        """``e`` as an operand of what binds more tightly than a sum."""
        text = self._print(e)
        compound = isinstance(e, _COMPOUND) and not e.is_number and self.body.known(e) is None
        return f"({text})" if compound else text

    def _print_Vector(self, v: Vector) -> str:
        return self.body.vector(v)

    def _print_Add(self, e: Expr) -> str:
        begun = self.body.begun(e)
        text, terms = ("", list(e.args)) if begun is None else (begun[0], list(begun[1]))
        terms.sort(key=lambda a: (a.could_extract_minus_sign(), not a.is_number))
        for term in terms:
            minus = term.could_extract_minus_sign() and not isinstance(term, sympy.Add)
            part = -term if minus else term
            shown = self._inner(part) if isinstance(part, sympy.Add) else self._print(part)
            sign = ("-" if minus else "+") if text else ("-" if minus else "")
            text = f"{text} {sign} {shown}" if text else f"{sign}{shown}"
        return text

    def _print_Mul(self, e: Expr) -> str:
        above, below = [], []
        for factor in e.args:
            exponent = factor.exp if isinstance(factor, sympy.Pow) else None
            if exponent is not None and exponent.is_number and exponent.is_negative:
                below.append(factor.base**-exponent)
            else:
                above.append(factor)
        sign = ""
        if above and above[0] == -1:
            sign, above = "-", above[1:]
        text = sign + (" * ".join(map(self._inner, above)) or "1")
        return text + "".join(f" / {self._inner(b)}" for b in below)

    def _print_Pow(self, e: Expr) -> str:
        base, exponent = e.base, e.exp
        if exponent == 2:
            return f"{self.d.prefix}.square({self._print(base)})"
        if exponent == -sympy.S.Half and not base.is_number:
            return self.d.apply("rsqrt", self._print(base))
        if exponent == sympy.S.Half:
            return f"{self.d.prefix}.sqrt({self._print(base)})"
        if exponent.is_number and exponent.is_negative:
            return f"1 / {self._inner(base**-exponent)}"
        if exponent.is_Integer:
            return f"{self._inner(base)} ** {int(exponent)}"
        power = self.d.power
        return f"{self.d.prefix}.{power}({self._print(base)}, {self._print(exponent)})"

    def _print_Function(self, e: Expr) -> str:
        name = type(e).__name__
        if name in ("mean", "sum_", "max_", "cumsum"):
            return self.d.reduced(name, self._print(e.args[0]))
        if self.d.has(e):
            return self.d.apply(name, self._print(e.args[0]))
        return self.emptyPrinter(e)

    def _print_Normalised(self, e: Any) -> str:
        return self.body.normalised(self._print(e.args[0]), e)

    def _print_stop_gradient(self, e: Expr) -> str:
        return self.d.cut(self._print(e.args[0]))

    def _print_step(self, e: Expr) -> str:
        z = self.body.atom(e.args[0], "z")
        return self.d.cast(f"{z} > 0", z)

    def _print_equal(self, e: Expr) -> str:
        a, b = (self.body.atom(arg, "z") for arg in e.args)
        return self.d.cast(f"{a} == {b}", a)

    def _print_Heaviside(self, e: Expr) -> str:
        z = self.body.atom(e.args[0], "z")
        at_zero = self._print(e.args[1])
        return f"{self.d.prefix}.where({z} == 0, {at_zero}, {self.d.cast(f'{z} > 0', z)})"

    def _print_Mod(self, e: Expr) -> str:
        a, b = map(self._inner, e.args)
        return f"({a} - {b} * {self.d.prefix}.floor({a} / {b}))"

    def _print_Max(self, e: Expr) -> str:
        return self._extreme("maximum", e)

    def _print_Min(self, e: Expr) -> str:
        return self._extreme("minimum", e)

    def _extreme(self, function: str, e: Expr) -> str:
        text, *others = (self._print(a) for a in e.args if not a.is_number)
        for other in others:
            text = f"{self.d.prefix}.{function}({text}, {other})"
        for n in (a for a in e.args if a.is_number):
            text = self.d.bounded(function, text, self._print(n))
        return text

    def _print_Piecewise(self, e: Expr) -> str:
        text = "float('nan')"
        for value, condition in reversed(e.args):
            if condition == sympy.true:
                text = self._print(value)
            else:
                holds = self._condition(condition)
                text = f"{self.d.prefix}.where({holds}, {self._print(value)}, {text})"
        return text

    def _condition(self, c: Any) -> str:
        if type(c).__name__ in _SIGNS:
            return f"{self._print(c.lhs)} {_SIGNS[type(c).__name__]} {self._print(c.rhs)}"
        if isinstance(c, sympy.Not):
            return f"~({self._condition(c.args[0])})"
        if isinstance(c, (sympy.And, sympy.Or)):
            sign = " & " if isinstance(c, sympy.And) else " | "
            return sign.join(f"({self._condition(a)})" for a in c.args)
        plain = sympy.to_nnf(c) if isinstance(c, sympy.logic.boolalg.BooleanFunction) else c
        if plain == c or plain in (sympy.true, sympy.false):
            return self.emptyPrinter(c)
        return self._condition(plain)  # Xor, Implies and the like as And, Or and Not
