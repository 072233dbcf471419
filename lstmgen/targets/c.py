"""The C target: one header and one source, C99, no allocation, no globals.

The source follows the plan: a function for each fused stage, two kernels for products, and a tile
of steps that is worked on together, so that the workspace does not grow with the sequence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Eq, Expr, Function, Integer
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from .. import schedule
from ..cell import C_KEYWORDS, Cell
from ..errors import GenerateError
from ..operations import (
    AFTER,
    BEFORE,
    STEP,
    Buffer,
    Fill,
    Fused,
    Loop,
    Multiply,
    Operation,
    Outers,
    Sums,
)
from ..symbols import (
    Reduction,
    Scan,
    Size,
    Vector,
    equal,
    max_,
    mean,
    relu,
    sigmoid,
    softplus,
    step,
    sum_,
)
from .comments import header
from .naming import Names, identifier
from .printing import Order, binds, is_negative, literal
from .rendering import environment
from .text import text as comment

OPTIONS = frozenset({"dtype"})
TAKES_SIZES = True

_LIBM = {
    sympy.exp: "exp", sympy.log: "log", sympy.sin: "sin", sympy.cos: "cos", sympy.tan: "tan",
    sympy.asin: "asin", sympy.acos: "acos", sympy.atan: "atan", sympy.sinh: "sinh",
    sympy.cosh: "cosh", sympy.tanh: "tanh", sympy.asinh: "asinh", sympy.acosh: "acosh",
    sympy.atanh: "atanh", sympy.erf: "erf", sympy.Abs: "fabs", sympy.floor: "floor",
    sympy.ceiling: "ceil",
}  # fmt: skip
# static functions of the source, each written only where it is used
_HELPERS = {
    sigmoid: "sigmoid", softplus: "softplus", relu: "relu", step: "positive",
    sympy.sign: "sign", sympy.Heaviside: "heaviside", equal: "equals",
}  # fmt: skip
# words that a stage's locals must not hide
_RESERVED = frozenset(
    f"""rows row j p grads real size_t T B {" ".join(_LIBM.values())} sqrt pow {" ".join(
        f"{f}f" for f in _LIBM.values())} sqrtf powf {" ".join(_HELPERS.values())} larger smaller
    square cube""".split()
)


def files(
    cell: Cell, *, dtype: str = "float64", source: str = "", **sizes: int
) -> dict[str, str]:
    """The header and the source of ``cell``: ``{"lstm.h": text, "lstm.c": text}``.

    ``sizes`` become compile-time constants; the sizes that callers pass have to agree with them.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise GenerateError(f"the size {name} is a positive whole number, not {value!r}")
    context = _Source(cell, dtype, source, sizes).context()
    templates = environment("c")
    # one word until the line is wrapped, so that no line begins with "== NULL"
    templates.filters["is_null"] = lambda pointer: f"{pointer}~==~NULL"
    return {
        f"{cell.name}.h": templates.get_template("header.h.j2").render(context),
        f"{cell.name}.c": templates.get_template("source.c.j2").render(context),
    }


@dataclass
class Argument:
    """A pointer that a stage takes: the whole row of a buffer, read or written."""

    name: str
    buffer: object
    width: Expr
    written: bool = False
    at: dict[str, str] = field(default_factory=dict)


class _Source:
    def __init__(self, cell: Cell, dtype: str, source: str, sizes: dict[str, int]) -> None:
        self.cell, self.dtype, self.source, self.fixed = cell, dtype, source, sizes
        self.plan = schedule.plan(cell, dtype=dtype)
        self.order = Order(cell, self.plan.derivation.forward)
        self.printer = _Printer(self)
        self.stages: list[dict[str, Any]] = []
        self.packs: list[dict[str, Any]] = []

    # ------------------------------------------------------------------ what the templates get

    def context(self) -> dict[str, Any]:
        cell, plan = self.cell, self.plan
        options = f" --dtype {self.dtype}" + "".join(
            f" --size {k}={v}" for k, v in self.fixed.items()
        )
        forward, backward = _Direction(self, "forward"), _Direction(self, "backward")
        context = {
            "header": header(cell, "c", self.source, options),
            "name": cell.name,
            "NAME": cell.name.upper(),
            "size_names": [str(n) for n in cell.sizes],
            "real": {"float32": "float", "float64": "double"}[self.dtype],
            "cell": cell,
            "sizes": [
                {"name": str(n), "about": self._about_size(n), "fixed": self.fixed.get(str(n))}
                for n in cell.sizes
            ],
            "parameters": [
                {"name": p.name, "shape": ", ".join(str(n) for n in cell.shape(p)),
                 "count": self.c_count(*cell.shape(p)),
                 "count_checked": self.checked(sympy.Mul(*cell.shape(p)))}
                for p in cell.parameters
            ],
            "constants": [v.name for v in cell.constants],
            "states": [
                {"name": s.name, "size": str(cell.size(s)), "width": self.c_size(cell.size(s)),
                 "factor": _paren(self.c_size(cell.size(s))),
                 "width_checked": self.checked(cell.size(s))}
                for s in cell.states
            ],
            "inputs": [self._given(v) for v in cell.inputs],
            "masks": [self._given(v) for v in cell.masks],
            "output": {
                "name": cell.output.name, "size": str(cell.size(cell.output)),
                "width": self.c_size(cell.size(cell.output)),
                "width_checked": self.checked(cell.size(cell.output)),
                "is_state": cell.output.category == "state",
                "factor": _paren(self.c_size(cell.size(cell.output))),
                "copy_from": self._output_copy(),
            },
            "unreached": [
                {"pointer": f"dx->{v.name}" if len(cell.inputs) > 1 else "dx",
                 "width": self.c_size(cell.size(v))}
                for v in cell.inputs
                if not any(w.name == v.name and w.category == "adjoint" and w.time == v.time
                           for op in plan.backward.operations for w in op.writes)
            ],
            "tape_sizes": [str(n) for n in cell.sizes if n in plan.tape.free_symbols],
            "forward": forward.context(),
            "backward": backward.context(),
            "tape": [self._buffer(b) for b in plan.buffers if b.scope == "tape"],
            "stages": self.stages,
            "tape_formula": str(plan.tape),
        }  # fmt: skip
        return context | self._mentions(context)

    def _mentions(self, context: dict[str, Any]) -> dict[str, Any]:
        """What the text turns out to need: nothing is declared that is not used."""
        code = "\n".join(line for stage in self.stages for line in stage["body"])
        helpers = {
            h for h in (*_HELPERS.values(), "larger", "smaller", "square", "cube")
            if f"{h}(" in code
        }  # fmt: skip
        calls = context["forward"]["calls"] + context["backward"]["calls"]
        x_type = f"{self.cell.name}_real" if len(self.cell.inputs) == 1 else (
            f"{self.cell.name}_inputs"
        )  # fmt: skip
        masks = f" const {self.cell.name}_masks *m," if self.cell.masks else ""
        several = len(self.cell.inputs) > 1
        return {
            "helpers": helpers,
            "kernels": {k for k in ("fill", "pack", "multiply_add", "outer_add") if f"{k}(" in calls
                        or (k == "pack" and context["forward"]["packs"])},
            "arguments_in": f" const {x_type} *x,{masks}",
            "dx_type": f"{self.cell.name}_input_grads" if several else f"{self.cell.name}_real",
            "uses_math": any(f"{f}{self.printer.suffix}(" in code for f in (*_LIBM.values(), "sqrt",
                             "pow")) or helpers & {"sigmoid", "softplus"} or "INFINITY" in code
                             or "NAN" in code,
            "suffix": self.printer.suffix,
            "pointers_in": ["p", "x", *(["m"] if self.cell.masks else [])],
            "pointers_inside": [
                *(f"p->{p.name}" for p in self.cell.parameters),
                *(f"x->{v.name}" for v in self.cell.inputs if several),
                *(f"m->{v.name}" for v in self.cell.masks),
            ],
            "pointers_out": [
                *(f"g->{p.name}" for p in self.cell.parameters),
                *(f"dx->{v.name}" for v in self.cell.inputs if several),
            ],
        }  # fmt: skip

    def _output_copy(self) -> str:
        """From where y is copied at the end of a tile; "" if it is written directly."""
        output = self.cell.output
        width = _paren(self.c_size(self.cell.size(output)))
        if output.category == "state":
            return f"w.{output.name} + (first + 1) * B * {width}"
        buffer = self.plan.home[output]
        return "" if buffer.scope == "given" else f"w.{self.store(buffer)} + first * B * {width}"

    def _about_size(self, n: Size) -> str:
        inputs = [v.name for v in self.cell.inputs if n in self.cell.shape(v)]
        states = [v.name for v in self.cell.states if n in self.cell.shape(v)]
        if inputs:
            return f"units of {', '.join(inputs)}"
        return f"units of {', '.join(states)}" if states else "units"

    def _given(self, v: Vector) -> dict[str, str]:
        size = self.cell.size(v)
        return {
            "name": v.name, "size": str(size), "width": self.c_size(size),
            "width_checked": self.checked(size),
            "argument": "x" if len(self.cell.inputs) == 1 else f"x->{v.name}",
        }  # fmt: skip

    def _buffer(self, b: Buffer) -> dict[str, str]:
        width = self.plan.width(b)
        return {
            "name": self.store(b), "blocks": " ".join(v.name for v in b.blocks),
            "width": self.c_size(width), "width_checked": self.checked(width),
        }  # fmt: skip

    def store(self, b: Buffer) -> str:
        """The member of the workspace that points to a buffer."""
        first = b.blocks[0]
        mark = "d" if first.category == "adjoint" else ""
        if len(b.blocks) == 1:
            return identifier(first)
        return f"{mark}{b.name}"

    # ------------------------------------------------------------------ sizes as C

    def c_size(self, e: Expr) -> str:
        """A size as a C expression of type size_t."""
        return str(_Sizes().doprint(sympy.expand(e)))

    def c_count(self, *sizes: Expr) -> str:
        return " * ".join(self.c_size(n) for n in sizes)

    def checked(self, e: Expr) -> str:
        """A size in saturating arithmetic, so that no product of sizes can wrap around."""
        terms = [
            "times(" * (len(f) - 1) + f[0] + "".join(f", {x})" for x in f[1:])
            for f in ([self.c_size(x) for x in _unpowered(t)] for t in sympy.Add.make_args(e))
        ]
        text = terms[0]
        for t in terms[1:]:
            text = f"plus({text}, {t})"
        return text


class _Direction:
    """One pass, as C: the members of its workspace, its packed weights, and its statements."""

    def __init__(self, source: _Source, name: str) -> None:
        self.s, self.name = source, name
        self.plan, self.cell = source.plan, source.cell
        self.part = getattr(self.plan, name)
        self.packs: dict[tuple[str, ...], dict[str, str]] = {}
        self.members = Names(C_KEYWORDS)
        self.region = STEP
        self.stage_count = 0

    def context(self) -> dict[str, Any]:
        regions: dict[str, list[str]] = {}
        for region in (BEFORE, STEP, AFTER):
            self.region = region
            regions[region] = [
                line for op in getattr(self.part, region) for line in self.operation(op)
            ]
        used = {
            v for op in self.part.operations for v in (*op.reads, *op.writes)
            if v in self.plan.home
        }  # fmt: skip
        scratch = [
            {**self.s._buffer(b), "scope": b.scope}
            for b in self.plan.buffers
            if b.scope in ("tile", "step") and used & set(b.blocks)
        ]
        return {
            "before": regions[BEFORE], "step": regions[STEP], "after": regions[AFTER],
            "scratch": scratch, "packs": list(self.packs.values()),
            "name": self.name, "tile_scratch": any(b["scope"] == "tile" for b in scratch),
            "uses_t": any(re.search(r"\bt \* B", line) for line in regions[STEP]),
            "uses_at": any(re.search(r"\bat\b", line) for line in regions[STEP]),
            "layout_sizes": self._used_sizes([self.plan.width(b) for b in self.plan.buffers
                if b.scope in ("tape", "state", "carry")
                or (b.scope in ("tile", "step") and used & set(b.blocks))]
                + [n for op in self.part.operations if isinstance(op, Multiply)
                   and not op.matrices[0].transposed
                   for m in op.matrices for n in self.cell.shape(m)]),
            "body_sizes": [str(n) for n in self.cell.sizes],
            "calls": "\n".join(regions[BEFORE] + regions[STEP] + regions[AFTER]),
        }  # fmt: skip

    def _used_sizes(self, exprs: Sequence[Expr]) -> list[str]:
        used = {s for e in exprs for s in sympy.sympify(e).free_symbols}
        return [str(n) for n in self.cell.sizes if n in used]

    # ------------------------------------------------------------------ where a value is

    def pointer(self, v: Vector) -> tuple[str, str]:
        """(expression that points to the first row of ``v`` here, length of a row)."""
        size = self.s.c_size(self.cell.size(v))
        step_rows = self.region == STEP
        if v.category in ("input", "mask", "cotangent"):
            base = self._argument(v)
            return self._at(base, "t * B" if step_rows else "t0 * B", size), size
        if v.category == "state":
            row = "at" if step_rows else "first"
            row = row if v.time == -1 else f"({row} + 1)"
            return self._at(f"w.{v.name}", f"{row} * B", size), size
        if v.category == "carry":
            return f"w.{identifier(v)}", size
        if v.category == "parameter":
            raise AssertionError("parameters are no rows")
        buffer = self.plan.home[v]
        width = self.s.c_size(self.plan.width(buffer))
        offset = self.plan.offset(v)
        if buffer.scope == "given":
            base = self._argument(v)
            text = self._at(base, "t * B" if step_rows else "t0 * B", width)
        else:
            row = {
                ("tape", True): "at * B", ("tape", False): "first * B", ("tile", True): "k * B",
            }.get((buffer.scope, step_rows), "")  # fmt: skip
            text = self._at(f"w.{self.s.store(buffer)}", row, width)
        if offset != 0:
            text += f" + {self.s.c_size(offset)}"
        return text, width

    def _argument(self, v: Vector) -> str:
        if v.category == "cotangent":
            return "dy"
        if v.category == "mask":
            return f"m->{v.name}"
        several = len(self.cell.inputs) > 1
        if v.category == "adjoint":
            return f"dx->{v.name}" if several else "dx"
        if v.category == "input":
            return f"x->{v.name}" if several else "x"
        return "y"

    @staticmethod
    def _at(base: str, row: str, width: str) -> str:
        if not row:
            return base
        width = f"({width})" if " + " in width else width
        return f"{base} + {row}" + ("" if width == "1" else f" * {width}")

    @property
    def rows(self) -> str:
        return "B" if self.region == STEP else "steps * B"

    # ------------------------------------------------------------------ operations

    def operation(self, op: Operation) -> list[str]:
        if isinstance(op, Multiply):
            return self.multiply(op)
        if isinstance(op, Fill):
            return self.fill(op)
        if isinstance(op, Fused):
            return self.stage(op)
        if isinstance(op, Outers):
            return self.outers(op)
        return self.sums(op)

    def fill(self, op: Fill) -> list[str]:
        lines = []
        for out, bias in zip(op.outs, op.biases, strict=True):
            to, stride = self.pointer(out)
            size = self.s.c_size(self.cell.size(out))
            value = f"p->{bias.name}" if bias is not None else "NULL"
            shown = comment(bias, self.s.order) if bias is not None else "0"
            lines += [
                f"/* {comment(out, self.s.order)} = {shown}, to which products are added */",
                f"fill({self.rows}, {size}, {value}, {to}, {stride});",
            ]
        return lines

    def multiply(self, op: Multiply) -> list[str]:
        lines = [f"/* {self._product_text(op)} */"]
        if not op.accumulate:
            fill = Fill(op.outs, op.biases if len(op.biases) == len(op.outs) else op.biases[:1])
            lines += [line for line in self.fill(fill) if not line.startswith("/*")]
        to, to_stride = self.pointer(op.outs[0])
        if not op.matrices[0].transposed:
            pack = self._pack(op)
            x, x_stride = self.pointer(op.operands[0])
            inner = self.s.c_size(self.cell.size(op.operands[0]))
            width = self.s.c_size(sum((self.cell.size(o) for o in op.outs), sympy.S.Zero))
            call = [self.rows, width, inner, x, x_stride, f"w.{pack}", to, to_stride]
            return [*lines, *broken("multiply_add(", call, ");", width=80)]
        for m, operand in zip(op.matrices, op.operands, strict=True):
            rows, columns = (self.s.c_size(n) for n in self.cell.shape(m))
            x, x_stride = self.pointer(operand)
            call = [self.rows, columns, rows, x, x_stride, f"p->{m.name}", to, to_stride]
            lines += broken("multiply_add(", call, ");", width=80)
        return lines

    def _product_text(self, op: Multiply) -> str:
        sign = "+=" if op.accumulate else "="
        show = self.s.order
        if len(op.outs) == 1:
            total = sympy.Add(
                *(m @ op.operands[min(k, len(op.operands) - 1)]
                  for k, m in enumerate(op.matrices)),
                *(b for b in op.biases if b is not None),
            )  # fmt: skip
            return f"{comment(op.outs[0], show)} {sign} {comment(total, show)}"
        outs = " ".join(comment(o, show) for o in op.outs)
        matrices = " ".join(m.name for m in op.matrices)
        return f"{outs} {sign} {matrices} times {comment(op.operands[0], show)}"

    def _pack(self, op: Multiply) -> str:
        """The stacked matrices, transposed: a row for each unit of the operand."""
        key = tuple(m.name for m in op.matrices)
        if key not in self.packs:
            families = "".join(dict.fromkeys(m.name.partition("_")[0] for m in op.matrices))
            wish = key[0] if len(key) == 1 else families
            name = self.members(("pack", key), f"{wish}_packed")
            rows = [self.cell.shape(m) for m in op.matrices]
            width = sum((r for r, _ in rows), sympy.S.Zero)
            start: Expr = sympy.S.Zero
            parts = []
            for m, (r, c) in zip(op.matrices, rows, strict=True):
                at = f"w.{name}" + (f" + {self.s.c_size(start)}" if start != 0 else "")
                parts.append(
                    f"pack({self.s.c_size(r)}, {self.s.c_size(c)}, p->{m.name}, {at}, "
                    f"{self.s.c_size(width)});"
                )
                start += r
            self.packs[key] = {
                "name": name, "parts": parts, "matrices": " ".join(key),
                "count_checked": f"times({self.s.checked(width)}, {self.s.checked(rows[0][1])})",
            }  # fmt: skip
        return self.packs[key]["name"]

    def outers(self, op: Outers) -> list[str]:
        lines = []
        right, right_stride = self.pointer(op.right)
        columns = self.s.c_size(self.cell.size(op.right))
        for p, left in zip(op.parameters, op.lefts, strict=True):
            from_, stride = self.pointer(left)
            rows = self.s.c_size(self.cell.size(left))
            lines += [
                f"/* ∂L/∂{p.name} += Σ {comment(left, self.s.order)} "
                f"{comment(op.right, self.s.order)}ᵀ */",
                *broken(
                    "outer_add(",
                    [self.rows, rows, columns, from_, stride, right, right_stride, f"g->{p.name}"],
                    ");", width=80,
                ),
            ]  # fmt: skip
        return lines

    def sums(self, op: Sums) -> list[str]:
        """One stage that adds the rows' terms to the gradients of the learned vectors."""
        stage = _Stage(self, self._stage_name("sums"))
        for p, term in zip(op.parameters, op.terms, strict=True):
            for piece in _pieces(term):
                stage.add_sum(p, piece)
        return stage.finish()

    def stage(self, op: Fused) -> list[str]:
        stage = _Stage(self, self._stage_name("stage"))
        for loop in op.loops:
            stage.add_loop(loop)
        return stage.finish()

    def _stage_name(self, what: str) -> str:
        self.stage_count += 1
        return f"{self.name}_{what}_{self.stage_count}"


class _Stage:
    """A static function for one fused stage: rows of the batch, loops over units."""

    def __init__(self, direction: _Direction, name: str) -> None:
        self.d, self.s, self.name = direction, direction.s, name
        self.plan, self.cell = direction.plan, direction.cell
        self.names = Names({*_RESERVED, *C_KEYWORDS, *(n.name for n in self.cell.sizes)})
        self.arguments: dict[object, Argument] = {}
        self.blocks: dict[Vector, str] = {}  # stored values -> the pointer to their block
        self.views: list[str] = []
        self.registers: dict[Vector, str] = {}
        self.body: list[str] = []
        self.text_of_stage = ""

    # ------------------------------------------------------------------ names

    def ref(self, v: Vector) -> str:
        """``v`` of the current unit."""
        scalar = self.cell.size(v) == 1
        if v.category == "constant":
            return f"p->{v.name}"
        if v.category == "parameter":
            return f"p->{v.name}[{'0' if scalar else 'j'}]"
        if v in self.registers:
            return self.registers[v]
        return f"{self.block(v)}[{'0' if scalar else 'j'}]"

    def block(self, v: Vector, written: bool = False) -> str:
        argument = self._argument(v)
        argument.written |= written
        return self.blocks[v]

    def _argument(self, v: Vector) -> Argument:
        buffer = self.plan.home.get(v)
        many = buffer is not None and len(buffer.blocks) > 1 and v.category not in (
            "state", "carry", "input", "mask", "cotangent"
        )  # fmt: skip
        key: object = buffer if many else v
        if key not in self.arguments:
            if many:
                assert buffer is not None
                name = self.names(key, self.s.store(buffer))
                first = buffer.blocks[0]
                self.arguments[key] = Argument(name, buffer, self.plan.width(buffer))
                pointer, _ = self.d.pointer(first)
            else:
                name = self.names(key, identifier(v))
                self.arguments[key] = Argument(name, v, self.cell.size(v))
                pointer, _ = self.d.pointer(v)
            self.arguments[key].at["pointer"] = pointer
        argument = self.arguments[key]
        if v not in self.blocks:
            self.blocks[v] = self.names(("block", v), identifier(v)) if many else argument.name
        return argument

    # ------------------------------------------------------------------ statements

    def add_loop(self, loop: Loop) -> None:
        if loop.size == 1 and not any(isinstance(e.rhs, Reduction) for e in loop.equations):
            for e in loop.equations:
                self.body += self._statement(e)
            return
        before, inside, after = [], [], []
        for e in loop.equations:
            if isinstance(e.rhs, Reduction):
                b, i, a = self._reduction(e, loop)
                before += b
                inside += i
                after += a
            else:
                inside += self._statement(e)
        size = self.s.c_size(loop.size)
        head = (
            f"for (size_t j = {size}; j-- > 0;) {{"
            if loop.backwards
            else f"for (size_t j = 0; j < {size}; ++j) {{"
        )
        self.body += [*before, head, *(f"    {line}" for line in inside), "}", *after]

    def _statement(self, e: Eq) -> list[str]:
        value = self.s.printer.print_in(self, e.rhs)
        shown = self.plan.origin.get(e.lhs, e)
        text = [f"/* {comment(shown, self.s.order)} */"]
        if self._stored(e.lhs):
            self.block(e.lhs, written=True)
            return [*text, f"{self.ref(e.lhs)} = {value};"]
        name = self.names(("register", e.lhs), identifier(e.lhs))
        self.registers[e.lhs] = name
        return [*text, f"const real {name} = {value};"]

    def _stored(self, v: Vector) -> bool:
        return v in self.plan.home or v.category in ("state", "carry")

    def _reduction(self, e: Eq, loop: Loop) -> tuple[list[str], list[str], list[str]]:
        value = self.s.printer.print_in(self, e.rhs.args[0])
        text = f"/* {comment(e, self.s.order)} */"
        if isinstance(e.rhs, Scan):
            total = self.names(("scan", e.lhs), f"{identifier(e.lhs)}_total")
            inside = [f"{total} += {value};"]
            if self._stored(e.lhs):
                self.block(e.lhs, written=True)
                inside.append(f"{self.ref(e.lhs)} = {total};")
            else:
                self.registers[e.lhs] = self.names(("register", e.lhs), identifier(e.lhs))
                inside.append(f"const real {self.registers[e.lhs]} = {total};")
            return [f"real {total} = 0;"], [text, *inside], []
        if self._stored(e.lhs):
            self.block(e.lhs, written=True)
            target, declare = self.ref(e.lhs), ""
        else:
            target = self.names(("register", e.lhs), identifier(e.lhs))
            self.registers[e.lhs] = target
            declare = "real "
        if isinstance(e.rhs, max_):
            start = "-(real)INFINITY"
            inside = [text, f"{target} = larger({target}, {value});"]
        else:
            start = "0"
            inside = [text, f"{target} += {value};"]
        after = []
        if isinstance(e.rhs, mean):
            after = [f"{target} /= (real){_paren(self.s.c_size(loop.size))};"]
        return [f"{declare}{target} = {start};"], inside, after

    def add_sum(self, p: Vector, term: Expr) -> None:
        size = self.cell.shapes.of(term)
        value = self.s.printer.print_in(self, term)
        text = f"/* ∂L/∂{p.name} += {comment(term, self.s.order)} */"
        if size == 1:
            self.body += [text, f"grads->{p.name}[0] += {value};"]
            return
        index = "0" if self.cell.size(p) == 1 else "j"
        self.body += [
            text,
            f"for (size_t j = 0; j < {self.s.c_size(size)}; ++j) {{",
            f"    grads->{p.name}[{index}] += {value};",
            "}",
        ]

    # ------------------------------------------------------------------ the function and its call

    def finish(self) -> list[str]:
        text = "\n".join(self.body)
        sizes = [n.name for n in self.cell.sizes]
        arguments = list(self.arguments.values())
        widths = [self.s.c_size(a.width) for a in arguments]
        views = []
        for v, name in self.blocks.items():
            argument = self._argument(v)
            if argument.name != name:
                const = "" if argument.written else "const "
                offset = self.s.c_size(self.plan.offset(v))
                views.append(f"{const}real *const {name} = {argument.name} + {offset};"
                             if offset != "0" else
                             f"{const}real *const {name} = {argument.name};")  # fmt: skip
        everything = "\n".join([text, *views, *widths])
        needed = [n for n in sizes if _word(n, everything)]
        uses_p, uses_g = "p->" in text, "grads->" in text
        prefix = self.cell.name
        parameters = ["size_t rows", *(f"size_t {n}" for n in needed)]
        call = [self.d.rows, *needed]
        if uses_p:
            parameters.append(f"const {prefix}_params *p")
            call.append("p")
        for a in arguments:
            parameters.append(f"{'' if a.written else 'const '}real *restrict {a.name}")
            call.append(a.at["pointer"])
        if uses_g:
            parameters.append(f"const {prefix}_grads *grads")
            call.append("g")
        advance = [
            f"{a.name} += {w};" for a, w in zip(arguments, widths, strict=True)
        ]
        self.s.stages.append(
            {
                "head": broken(f"static void {self.name}(", parameters, ")"),
                "views": views, "body": self.body, "advance": advance,
            }
        )  # fmt: skip
        return broken(f"{self.name}(", call, ");", width=80)


def broken(start: str, items: Sequence[str], end: str, width: int = 92) -> list[str]:
    """``start`` + comma-separated ``items`` + ``end``, broken after commas where it is long."""
    lines, line = [], start
    for k, item in enumerate(items):
        piece = item + (", " if k < len(items) - 1 else end)
        if len(line) + len(piece) > width and line != start:
            lines.append(line.rstrip())
            line = "    "
        line += piece
    return [*lines, line]


def _pieces(term: Expr) -> list[Expr]:
    """What a parameter gains from a row: the terms that are summed over units as well, each by
    its operand, and the rest."""
    wide, rest = [], []
    for t in sympy.Add.make_args(term):
        sums = [f for f in sympy.Mul.make_args(t) if isinstance(f, sum_)]
        if sums:
            wide.append(t / sums[0] * sums[0].args[0])
        else:
            rest.append(t)
    return [*wide, *([sympy.Add(*rest)] if rest else [])]


def _word(name: str, text: str) -> bool:
    words = "".join(ch if ch.isalnum() or ch == "_" else " " for ch in text).split()
    return name in words


def _paren(text: str) -> str:
    return f"({text})" if " " in text else text


def _unpowered(t: Expr) -> list[Expr]:
    """The factors of a monomial, powers written out."""
    out: list[Expr] = []
    for f in sympy.Mul.make_args(t):
        base, exponent = f.as_base_exp()
        out += [base] * int(exponent) if base.is_Symbol else [f]
    return out


class _Sizes(StrPrinter):  # type: ignore[misc]
    """Sizes as C writes them: 4 * H * D."""

    def _print_Mul(self, e: Expr) -> str:
        return " * ".join(str(f) for f in _unpowered(e))

    def _print_Pow(self, e: Expr) -> str:
        return " * ".join(str(f) for f in _unpowered(e))


class _Printer(StrPrinter):  # type: ignore[misc]
    """Elementwise expressions as C, in a person's order of terms and factors."""

    printmethod = "_c_of_lstmgen"  # not SymPy's: our symbols have a _sympystr of their own

    def __init__(self, source: _Source) -> None:
        super().__init__()
        self.source = source
        self.suffix = {"float32": "f", "float64": ""}[source.dtype]
        self.stage: _Stage | None = None

    def print_in(self, stage: _Stage, e: Expr) -> str:
        """``e`` for the current unit of a stage."""
        self.stage = stage
        return str(self.doprint(e))

    def _paren(self, e: Expr, level: int) -> str:
        text = self._print(e)
        return f"({text})" if binds(e) <= level else text

    def _print_Vector(self, v: Vector) -> str:
        assert self.stage is not None
        return self.stage.ref(v)

    def _print_Size(self, e: Size) -> str:
        fixed = self.source.fixed.get(e.name)
        return self._number(Integer(fixed)) if fixed else f"(real){e.name}"

    def _number(self, e: Expr) -> str:
        return literal(e) + self.suffix

    def _print_Integer(self, e: Expr) -> str:
        return self._number(e)

    _print_Rational = _print_Half = _print_Zero = _print_One = _print_NegativeOne = _print_Integer
    _print_Float = _print_Pi = _print_Exp1 = _print_Integer

    def _print_Add(self, e: Expr, order: object = None) -> str:
        text = ""
        for term in self.source.order.terms(e):
            negative = is_negative(term)
            body = self._paren(-term if negative else term, PRECEDENCE["Add"])
            if not text:
                text = f"-{body}" if negative else body
            else:
                text += f" {'-' if negative else '+'} {body}"
        return text

    def _print_Mul(self, e: Expr) -> str:
        if e.is_number:
            return self._number(e)
        if is_negative(e):
            return f"-{self._paren(-e, PRECEDENCE['Add'])}"
        above, below = self.source.order.fraction(e)
        text = " * ".join(self._paren(f, PRECEDENCE["Mul"] - 1) for f in above) or self._number(
            sympy.S.One
        )
        for f in below:
            text += f" / {self._paren(f, PRECEDENCE['Mul'])}"
        return text

    def _print_Pow(self, e: Expr) -> str:
        if e.is_number:
            return self._number(e)
        base, exponent = e.args
        if exponent == sympy.Rational(1, 2):
            return f"sqrt{self.suffix}({self._print(base)})"
        if exponent.is_number and exponent.is_negative:
            return f"{self._number(sympy.S.One)} / {self._paren(1 / e, PRECEDENCE['Mul'])}"
        if exponent in (2, 3):
            return f"{'square' if exponent == 2 else 'cube'}({self._print(base)})"
        return f"pow{self.suffix}({self._print(base)}, {self._print(exponent)})"

    def _print_Function(self, e: Function) -> str:
        kind = type(e)
        if e.is_number:
            return self._number(e)
        inner = ", ".join(self._print(a) for a in e.args)
        if kind in _HELPERS:
            return f"{_HELPERS[kind]}({inner})"
        if kind in _LIBM:
            return f"{_LIBM[kind]}{self.suffix}({inner})"
        raise GenerateError(f"the C target cannot print {kind.__name__}: {e}")

    def _print_rsqrt(self, e: Expr) -> str:
        return f"{self._number(sympy.S.One)} / sqrt{self.suffix}({self._print(e.args[0])})"

    def _print_stop_gradient(self, e: Expr) -> str:
        return f"({self._print(e.args[0])})"

    def _nested(self, name: str, e: Expr) -> str:
        first, *others = (self._print(a) for a in e.args)
        for other in others:
            first = f"{name}({first}, {other})"
        return first

    def _print_Max(self, e: Expr) -> str:
        return self._nested("larger", e)

    def _print_Min(self, e: Expr) -> str:
        return self._nested("smaller", e)

    def _print_Piecewise(self, e: Expr) -> str:
        text, last = "", "(real)NAN"
        for value, condition in e.args:
            if condition == sympy.true:
                last = self._print(value)
                break
            text += f"{self._print(condition)} ? {self._print(value)} : "
        return f"({text}{last})"

    def _print_Relational(self, e: Expr) -> str:
        return f"({self._print(e.lhs)} {e.rel_op} {self._print(e.rhs)})"

    def _print_And(self, e: Expr) -> str:
        return "(" + " && ".join(sorted(self._print(a) for a in e.args)) + ")"

    def _print_Or(self, e: Expr) -> str:
        return "(" + " || ".join(sorted(self._print(a) for a in e.args)) + ")"

    def _print_Not(self, e: Expr) -> str:
        return f"!{self._print(e.args[0])}"
