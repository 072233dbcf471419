r"""LaTeX: the forward equations, the adjoints of one step, the gradients as sums, the notation.

What is printed follows ``Derivation.equations`` and ``.gradients``. Names that the derivation
introduced are defined before they are used: a pre-activation by a brace under the argument that
it is, \underbrace{W_i x_t + …}_{a_{i,t}}, any other by an equation of its own. Lines that are alike
but for a gate's letter are written once, with ⋆ in its place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import Eq, Expr, Function

from ...derivation.reverse import Derivation, reverse
from ...language.cell import Cell
from ...language.functions import equal, expm1, step, stop_gradient
from ...language.matrices import Matrix, as_matrix
from ...language.symbols import Gradient, Product, Vector, named, rcumsum, shift
from ...printing.orders import (
    Helper,
    Order,
    families,
    fold_helpers,
    one_line,
    parameter_count,
    placeholder,
    tidy,
)
from ..comments import header
from ..rendering import environment
from ..sealing import PLACEHOLDER, seal
from .typesetting import LINE, STAR, Braced, Names, Typesetter, escape, filled, joined, width

OPTIONS: frozenset[str] = frozenset()
TAKES_SIZES = False


def files(cell: Cell, *, source: str = "") -> dict[str, str]:
    r"""The fragment, and a document that shows how to \input it."""
    page = _Page(cell, source)
    fragment = f"{cell.name}_equations"
    return {
        f"{cell.name}.tex": _rendered("document", page, body=rf"\input{{{fragment}}}"),
        f"{fragment}.tex": _rendered("fragment", page),
    }


def emit(cell: Cell, *, document: bool = False, source: str = "") -> str:
    r"""The equations as a fragment to \input, or as a document that stands alone."""
    page = _Page(cell, source)
    fragment = _rendered("fragment", page)
    if not document:
        return seal(fragment)
    _, _, body = fragment.partition("\n\n")  # without the fragment's own header
    return seal(_rendered("document", page, body=body.rstrip()))


def _rendered(template: str, page: _Page, **more: str) -> str:
    templates = environment(
        "latex",
        block_start_string=r"\BLOCK{",
        block_end_string="}",
        variable_start_string=r"\VAR{",
        variable_end_string="}",
        comment_start_string=r"\COMMENT{",
        comment_end_string="}",
    )
    return templates.get_template(f"{template}.tex.j2").render(page=page, **more)


# --------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Row:
    """A row of the notation table, in LaTeX."""

    symbols: str
    shape: str
    meaning: str


@dataclass(frozen=True)
class Block:
    """Lines of an ``alignat``, and how many equations stand beside each other in it."""

    columns: int
    lines: list[str]


class _Page:
    """What the templates set: every attribute that they read is LaTeX, or a list of it."""

    def __init__(self, cell: Cell, source: str) -> None:
        self.cell = cell
        self.derivation: Derivation = reverse(cell)
        self.order = Order(cell, self.derivation.forward)
        self.names = Names(self._symbol_names())
        self.header = [
            line if PLACEHOLDER in line else one_line(line)
            for line in header(cell, "latex", source)
        ]
        self.name = escape(cell.name)
        self.title = escape(cell.title[:1].upper() + cell.title[1:]) or self.name
        name = [rf"\texttt{{{self.name}}}"] if cell.title else []
        self.byline = ", ".join(name + ([f"after {escape(cell.source)}"] if cell.source else []))

    def _symbol_names(self) -> list[str]:
        d, cell = self.derivation, self.cell
        every = {
            s.name
            for e in (*d.forward, *d.equations, *d.gradients)
            for s in e.atoms(Vector, Matrix)
        }
        first = [s.name for s in (*cell.inputs, *cell.states, *cell.vectors, *cell.parameters)]
        return first + sorted(every - set(first))

    # ------------------------------------------------------------------ the forward pass

    @cached_property
    def _own(self) -> set[str]:
        """What the user's equations define; all else that is defined is the derivation's."""
        return {e.lhs.name for e in self.cell.equations}

    @cached_property
    def _fixed(self) -> dict[str, Vector]:
        """What holds once for a whole sequence, by name."""
        return {e.lhs.name: e.lhs for e in self.derivation.fixed}

    @cached_property
    def _static(self) -> dict[Expr, Expr]:
        """Vectors of the user's that are the same at all steps, as quantities without a time."""
        return {v: self._fixed[v.name] for v in self.cell.vectors if v.name in self._fixed}

    @cached_property
    def _once(self) -> list[Eq]:
        """What is made of parameters: the user's equations, and what else is read of it."""
        read = {
            s.name
            for e in (*self.derivation.forward, *self._backward, *self._ends)
            for s in e.atoms(Vector, Matrix)
        }
        own = {e.lhs.name: e for e in self.cell.equations}
        found: list[Eq] = []
        for e in reversed(self.derivation.fixed):
            name = e.lhs.name
            if name in own:
                shown = own[name].xreplace(self._static)
            elif name in read:
                lhs = as_matrix(e.lhs) if len(e.lhs.axes) > 1 else e.lhs
                shown = Eq(lhs, e.rhs, evaluate=False)
            else:
                continue
            read |= {s.name for s in shown.rhs.atoms(Vector, Matrix)}
            found.insert(0, shown)
        return found

    @property
    def once(self) -> list[str]:
        """Equations that hold once for a whole sequence."""
        return self._aligned(self._once)

    @cached_property
    def _names_of_sums(self) -> dict[Expr, Vector]:
        """Sums that the derivation named: where one is written out again, its name is shorter."""
        named_here = {
            e.rhs: e.lhs
            for e in self.derivation.forward
            if e.lhs.name not in self._own and e.rhs.is_Add and not e.rhs.has(Product)
        }
        return named_here | {shift(e, 1): shift(v, 1) for e, v in named_here.items()}

    def _with_names(self, e: Eq) -> Eq:
        return Eq(e.lhs, e.rhs.xreplace(self._names_of_sums), evaluate=False)

    @cached_property
    def _backward(self) -> list[Eq]:
        return [self._with_names(e) for e in self.derivation.equations]

    @cached_property
    def _ends(self) -> list[Eq]:
        """Gradients: of the parameters first, then of inputs and initial states."""
        return [self._with_names(e) for e in self.derivation.gradients]

    @cached_property
    def _used(self) -> set[str]:
        """What the backward pass reads."""
        return {v.name for e in (*self._backward, *self._ends) for v in e.atoms(Vector)}

    @cached_property
    def _arguments(self) -> dict[Expr, Vector]:
        """Names that the backward pass uses, by what they stand for in the user's symbols."""
        whole: dict[Vector, Expr] = {}
        found: dict[Expr, Vector] = {}
        for e in self.derivation.forward:
            if e.lhs.name not in self._own:
                whole[e.lhs] = e.rhs.xreplace(whole)
                if e.lhs.name in self._used:
                    found.setdefault(whole[e.lhs], e.lhs)
        return found

    def _brace(self, e: Expr) -> Expr:
        """``e`` with a brace under each argument of a function that has a name."""
        if not e.args:
            return e
        if isinstance(e, Helper):
            return e.func(e.args[0], self._brace(e.operand), e.made)
        if isinstance(e, Function) and len(e.args) == 1:
            symbol = self._arguments.get(_spelled_out(e.args[0]))
            if symbol is not None:
                return e.func(Braced(e.args[0], symbol), *e.args[1:])
        return e.func(*(self._brace(a) for a in e.args))

    def _braces(self, e: Eq) -> list[Braced]:
        return sorted(e.rhs.atoms(Braced), key=lambda b: self.order.rank(b.args[1]))

    @cached_property
    def _forward(self) -> tuple[list[Eq], list[Eq]]:
        """The user's equations, and what LN(v) and the like in them mean."""
        moving = (e for e in self.cell.equations if e.lhs.name not in self._fixed)
        folded, helpers = fold_helpers([e.xreplace(self._static) for e in moving])
        shown: list[Eq] = []
        for e in folded:
            e = Eq(e.lhs, self._brace(e.rhs), evaluate=False)
            lines = [e]
            braces = self._braces(e)
            nodes = sympy.preorder_traversal(e.rhs)
            repeated = sum(isinstance(node, Braced) for node in nodes) > len(braces)
            if braces and (repeated or width(self._line(e)) > LINE):
                # no line breaks inside of a brace: the argument gets a line of its own
                named_apart = {b: b.args[1] for b in braces}
                lines = [Eq(b.args[1], b.args[0], evaluate=False) for b in braces]
                lines.append(Eq(e.lhs, e.rhs.xreplace(named_apart), evaluate=False))
            shown += lines if all(map(self._fits, lines)) else self._in_steps(e.lhs)
        return shown, helpers

    def _fits(self, e: Eq) -> bool:
        left, pieces = self._sides(e)
        room = LINE - width(f"{left} =")
        return all(width(line) <= room for line in filled(pieces, room))

    def _in_steps(self, v: Vector) -> list[Eq]:
        """What is too long even so: the equation of ``v`` as the derivation takes it apart."""
        forward = self.derivation.forward
        last = [e.lhs for e in forward].index(v)
        first = last
        while first and forward[first - 1].lhs.name not in self._own:
            first -= 1
        lines = [forward[k] for k in range(first, last + 1)]
        return [e if e.rhs in self._names_of_sums else self._with_names(e) for e in lines]

    @property
    def forward(self) -> list[str]:
        """The user's equations."""
        return self._aligned(self._forward[0])

    @property
    def helpers(self) -> list[str]:
        """What LN(v) and the like mean."""
        return _ended([self._line(e) for e in self._forward[1]])

    @cached_property
    def _parts(self) -> tuple[list[Eq], list[str]]:
        """Equations of the names that the backward pass uses and the forward pass did not give."""
        given = {b.args[1].name for e in self._forward[0] for b in e.rhs.atoms(Braced)}
        given |= {e.lhs.name for e in self._forward[0]}
        read = {v.name for e in self._forward[0] for v in e.rhs.atoms(Vector)}
        needed = (self._used | read) - given
        parts = []
        for e in reversed(self.derivation.forward):
            if e.lhs.name in needed and e.lhs.name not in self._own:
                parts.append(e)
                needed |= {v.name for v in e.rhs.atoms(Vector)} - given
        return self._starred(parts[::-1])

    @property
    def parts(self) -> list[str]:
        """Those equations, several to a line."""
        return self._packed(self._parts[0])

    # ------------------------------------------------------------------ the backward pass

    @cached_property
    def _adjoints(self) -> tuple[list[Eq], list[str]]:
        return self._starred(self._backward)

    @property
    def adjoints(self) -> list[str]:
        """The backward step."""
        return self._aligned(self._adjoints[0])

    @property
    def part_stars(self) -> str:
        """What ⋆ stands for, where there are any."""
        return self._stars(self._parts[1])

    @property
    def adjoint_stars(self) -> str:
        """The same for the backward step."""
        return self._stars(self._adjoints[1])

    def _stars(self, letters: Sequence[str]) -> str:
        names = ", ".join(self.names(n, bold=False) for n in letters)
        return rf", for each $\star \in \{{{names}\}}$" if letters else ""

    @property
    def output(self) -> str:
        return self._math(self.cell.output)

    @property
    def initial_states(self) -> str:
        return self._states("0")

    @property
    def final_states(self) -> str:
        return self._states("T")

    def _states(self, time: str) -> str:
        names = [
            self.names(s.name, bold=not self.order.scalar(s), time=time) for s in self.cell.states
        ]
        return _listed([f"${n}$" for n in names])

    def _starred(self, equations: Sequence[Eq]) -> tuple[list[Eq], list[str]]:
        """``equations``, where those alike but for a gate's letter are written once, with ⋆.

        Only equations of names that the derivation made are; the letters come second.
        """
        alike: dict[Eq, list[int]] = {}
        letters: dict[int, str] = {}
        for k, e in enumerate(equations):
            name = (e.lhs.args[0] if isinstance(e.lhs, Gradient) else e.lhs).name
            letter = next((part for part in name.split("_")[::-1] if part in self._own), "")
            if letter and name not in self._own:
                letters[k] = letter
                alike.setdefault(self._with_star(e, letter), []).append(k)
        sets = Counter(
            tuple(sorted((letters[k] for k in ks), key=self._place))
            for ks in alike.values()
            if len(ks) > 1
        )
        if not sets:
            return list(equations), []
        chosen = sets.most_common(1)[0][0]
        shown: dict[int, Eq] = dict(enumerate(equations))
        for starred, ks in alike.items():
            if sorted((letters[k] for k in ks), key=self._place) == list(chosen):
                shown[ks[-1]] = starred
                for k in ks[:-1]:
                    del shown[k]
        result = [shown[k] for k in sorted(shown)]
        if not _in_order(result, chosen):
            return list(equations), []
        return result, list(chosen)

    def _place(self, letter: str) -> int:
        return [e.lhs.name for e in self.cell.equations].index(letter)

    def _with_star(self, e: Eq, letter: str) -> Eq:
        swap: dict[Expr, Expr] = {}
        for s in e.atoms(Vector, Matrix):
            parts = s.name.split("_")
            if letter in parts:
                last = len(parts) - 1 - parts[::-1].index(letter)
                name = "_".join([*parts[:last], STAR, *parts[last + 1 :]])
                self.order.adopt(name, s.name)
                if isinstance(s, Matrix):
                    *heads, rows, columns = s.axes
                    swap[s] = Matrix(name, rows, columns, s.transposed, tuple(heads))
                else:
                    swap[s] = Vector(name, s.category, str(self.cell.size(s)), s.time)
        return Eq(e.lhs.xreplace(swap), e.rhs.xreplace(swap), evaluate=False)

    # ------------------------------------------------------------------ the gradients

    @cached_property
    def _totals(self) -> tuple[list[Eq], list[str]]:
        """The parameters' gradients; with ⋆ if the backward step has it."""
        totals = self._ends[: len(self.derivation.totals)]
        return self._starred(totals) if self._adjoints[1] else (totals, [])

    @property
    def gradient_stars(self) -> str:
        """The same for the gradients."""
        return self._stars(self._totals[1])

    @cached_property
    def gradients(self) -> list[Block]:
        """Gradients of parameters side by side, a row a gate; those too long for that at last."""
        columns: dict[str, dict[str, str]] = {}  # W -> i -> the gradient of W_i
        long = []
        for e in self._totals[0]:
            line = self._line(e)
            if width(line) > LINE:
                long.append(e)
                continue
            name = e.lhs.args[0].name
            family, _, letter = name.partition("_")
            if letter in ("", STAR):  # no table to stand in
                columns.setdefault(letter, {})[name] = line
            else:
                columns.setdefault(family, {})[letter] = line
        beside: list[list[dict[str, str]]] = []
        table = False
        for head, column in columns.items():
            in_table = head not in ("", STAR)
            if in_table and table and sum(map(_widest, [*beside[-1], column])) <= LINE:
                beside[-1].append(column)
            else:
                beside.append([column])
            table = in_table
        blocks = [self._block(block) for block in beside]
        return [*blocks, Block(1, self._aligned(long))] if long else blocks

    def _block(self, columns: Sequence[dict[str, str]]) -> Block:
        if len(columns) == 1:  # alone, a family is set in rows
            lines = list(columns[0].values())
            number = min(len(lines), max(1, int(LINE / _widest(columns[0]))))
            rows = [lines[k : k + number] for k in range(0, len(lines), number)]
        else:
            letters = dict.fromkeys(letter for family in columns for letter in family)
            rows = [[family.get(letter, "") for family in columns] for letter in letters]
        aligned = []
        for row in rows:
            cells = [line.replace(" = ", " &= ", 1) or "&" for line in row]
            while cells[-1] == "&":
                cells.pop()
            aligned.append(r" &\qquad ".join(cells))
        return Block(max(map(len, rows)), _ended(aligned))

    @property
    def ends(self) -> list[str]:
        """The gradients of the inputs and of the initial states."""
        return self._aligned(self._ends[len(self.derivation.totals) :])

    # ------------------------------------------------------------------ the notation

    @property
    def notation(self) -> list[list[str]]:
        """The rows of the table, in groups."""
        return [
            [_source_line(rf"    {r.symbols} & {r.shape} & {r.meaning} \\").lstrip() for r in rows]
            for rows in self._notation()
        ]

    def _notation(self) -> list[list[Row]]:
        cell = self.cell
        moving = [(v, "input") for v in cell.inputs]
        moving += [(v, "mask, which no gradient flows into") for v in cell.masks]
        moving += [(s.at(0), "state") for s in cell.states] + [(v, "") for v in cell.vectors]
        moving += [(v, self._default(v)) for v in cell.constants]
        braced = [b.args[1] for e in self._forward[0] for b in self._braces(e)]
        v = rf"\mathbf{{{placeholder(self.derivation.forward)}}}_t"
        adjoints = [
            self._direct(v),
            Row(rf"$\delta{v}$", rf"as ${v}$",
                rf"$\mathrm{{d}} L / \mathrm{{d}} {v}$, through all that it acts on"),
        ]  # fmt: skip
        return [
            [row for v, meaning in moving for row in self._rows([v], meaning)],
            [row for f in families(cell) for row in self._rows(f, self._part_played(f))],
            [*self._rows(braced, "pre-activations"), *adjoints],
        ]

    def _direct(self, v: str) -> Row:
        """What the loss does to an output itself; ``v`` stands for any vector."""
        if len(self.cell.outputs) > 1:
            outputs = _listed([f"${self._math(y)}$" for y in self.cell.outputs])
            return Row(rf"$\Delta{v}$", rf"as ${v}$",
                       rf"$\partial L / \partial {v}$ as the loss itself gives it, of the outputs "
                       rf"{outputs}")  # fmt: skip
        about = rf"$\partial L / \partial {self.output}$ as the loss itself gives it, at step $t$"
        return Row(r"$\boldsymbol{\Delta}_t$", self._shape(self.cell.output), about)

    def _rows(self, symbols: Sequence[Vector | Matrix], meaning: str) -> list[Row]:
        """A row for symbols that are alike; more than one where they are many."""
        roles = [self.cell.roles[s.name] for s in symbols if s.name in self.cell.roles]
        meaning = escape(", ".join(dict.fromkeys(roles))) if roles else meaning
        if any(v in symbols for v in self.cell.outputs):
            what = "an output" if len(self.cell.outputs) > 1 else "the output"
            meaning = f"{meaning}; {what}" if meaning else what
        rows: list[Row] = []
        room = 0.0
        for s in symbols:
            symbol, shape = self._math(s), self._shape(s)
            before = rows[-1] if rows else None
            if before and before.shape == shape and width(symbol) < room:
                rows[-1] = Row(f"{before.symbols}, ${symbol}$", shape, before.meaning)
                room -= width(symbol) + 6
            else:
                rows.append(Row(f"${symbol}$", shape, "" if before else meaning))
                room = 112.0 - width(symbol)
        return rows

    def _default(self, v: Vector) -> str:
        if self.cell.initial(v) is None:
            return "constant"
        return f"constant, ${self._math(sympy.Float(self.cell.starts_at(v)))}$"

    def _shape(self, symbol: Vector | Matrix) -> str:
        sizes = (self._math(n) for n in self.cell.shape(symbol))
        return "$" + r" \times ".join(sizes) + "$"

    def _part_played(self, family: Sequence[Matrix | Vector]) -> str:
        """What a family of parameters does, as the equations say."""
        played = self._played(family)
        return played if family[0].learned else f"{played}, not learned"

    def _played(self, family: Sequence[Matrix | Vector]) -> str:
        many = len(family) > 1
        if isinstance(family[0], Matrix):
            products = [p for e in self.cell.equations for p in e.rhs.atoms(Product)]
            read = {
                v.category
                for p in products
                for v in p.operand.atoms(Vector)
                if any(m.base in family for m in p.matrix.atoms(Matrix))
            }
            kind = "input " if "input" in read else "recurrent " if "state" in read else ""
            return f"{kind}weights"
        equations = self._forward[0]
        sums = [a for e in equations for a in e.rhs.atoms(sympy.Add)]
        if all(any(p in a.args for a in sums) for p in family):
            return "biases" if many else "bias"
        if all(self.cell.size(p) == 1 for p in family):
            return "learned numbers" if many else "learned number"
        beside = [
            f
            for e in equations
            for m in e.rhs.atoms(sympy.Mul)
            if set(m.args) & set(family)
            for f in m.args
            if f not in family
        ]
        if beside and all(isinstance(f, Vector) and f.name == beside[0].name for f in beside):
            scaled = self.names(beside[0].name, bold=not self.order.scalar(beside[0]))
            return f"elementwise weights of ${scaled}$"
        return "gains" if many else "gain"

    @property
    def count(self) -> str:
        return self._math(parameter_count(self.cell))

    @property
    def remarks(self) -> list[str]:
        """What only some cells need explained."""
        seen = [
            e.rhs.replace(Helper, lambda name, operand, made: operand)
            for e in (*self._forward[0], *self._parts[0], *self._adjoints[0], *self._totals[0])
        ]
        functions = {f.func for e in seen for f in e.atoms(Function)}
        remarks = []
        if any(self.order.scalar(v) for e in seen for v in e.atoms(Vector)):
            remarks.append("Plain small letters are single numbers.")
        if stop_gradient in functions:
            remarks.append(
                r"$\operatorname{sg}\left(\mathbf{v}\right)$ is $\mathbf{v}$, "
                "but no gradient flows back through it."
            )
        if expm1 in functions:
            remarks.append(
                r"$\operatorname{expm1}\left(\mathbf{v}\right)$ is $e^{\mathbf{v}} - 1$."
            )
        if functions & {step, equal}:
            remarks.append(r"$\mathbf{1}\left[\cdot\right]$ is 1 where it holds, and 0 elsewhere.")
        if sympy.Heaviside in functions:
            remarks.append(r"$\Theta$ is the unit step.")
        if rcumsum in functions:
            remarks.append(
                r"$\operatorname{revcumsum}$ is the running sum from the last unit to the first."
            )
        return remarks

    # ------------------------------------------------------------------ lines

    def _math(self, e: Expr) -> str:
        return str(Typesetter(self.order, self.names).doprint(tidy(e)))

    def _sides(self, e: Eq) -> tuple[str, list[str]]:
        """The left-hand side, and the right-hand side in pieces between which it may break."""
        origin = "t"
        if isinstance(e.lhs, Gradient) and getattr(e.lhs.args[0], "category", "") == "state":
            # what flows out of the first step: ∂L/∂c_0 = δc_1 ⊙ f_1
            origin, e = "", Eq(e.lhs, shift(e.rhs, 1), evaluate=False)
        return Typesetter(self.order, self.names, origin).sides(e)

    def _line(self, e: Eq) -> str:
        left, pieces = self._sides(e)
        return f"{left} = {joined(pieces)}"

    def _aligned(self, equations: Sequence[Eq]) -> list[str]:
        """Lines of an ``align``, those that are too long broken at a term."""
        sides = [self._sides(e) for e in equations]
        room = LINE - max((width(f"{left} =") for left, _ in sides), default=0.0)
        joint = " \\notag \\\\*\n    &\\quad {} "
        return _ended([f"{left} &= {joint.join(filled(p, room))}" for left, p in sides])

    def _packed(self, equations: Sequence[Eq]) -> list[str]:
        """Lines that hold as many short equations as fit, of those that build on each other."""
        margin = max((width(self._math(e.lhs)) for e in equations), default=0.0)
        lines: list[str] = []
        room, chain = 0.0, set[Vector]()
        for e in equations:
            left, pieces = self._sides(e)
            line = f"{left} = {joined(pieces)}"
            builds = bool(chain & e.rhs.atoms(Vector))
            if builds and width(line) + 24 < room:
                lines[-1] += rf", \qquad {line}"
                room -= width(line) + 24
            else:
                lines += self._aligned([e])
                room = LINE - 20 - margin - width(f"= {joined(pieces)}")
                chain = chain if builds else set()
            chain.add(e.lhs)
        return _ended(lines)


def _spelled_out(e: Expr) -> Expr:
    """``e`` in the words of the normal form: without helpers, and without ``named``."""
    e = e.replace(lambda n: isinstance(n, Helper), lambda n: n.made)
    return e.replace(lambda n: isinstance(n, named), lambda n: n.args[0])


def _in_order(lines: Sequence[Eq], letters: Sequence[str]) -> bool:
    """Whether every line reads only what lines above it define, ⋆ being each of ``letters``."""

    def each(v: Vector) -> set[tuple[str, str, int]]:
        return {(v.name.replace(STAR, letter), v.category, v.time) for letter in letters}

    made = [each(e.lhs) if isinstance(e.lhs, Vector) else set() for e in lines]
    ever: set[tuple[str, str, int]] = set().union(*made)
    so_far: set[tuple[str, str, int]] = set()
    for e, names in zip(lines, made, strict=True):
        read = set().union(*(each(v) for v in e.rhs.atoms(Vector)))
        if (read & ever) - so_far:
            return False
        so_far |= names
    return True


def _widest(family: dict[str, str]) -> float:
    return max(map(width, family.values())) + 20.0


def _listed(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _ended(lines: Sequence[str]) -> list[str]:
    ended = [rf"{line} \\" for line in lines[:-1]] + list(lines[-1:])
    return ["\n".join(map(_source_line, line.split("\n"))) for line in ended]


_SOURCE = 98  # characters in a line of LaTeX
# Where such a line is broken: rather before an equation than a term, a term than a factor, and
# only then inside of parentheses, as the second says.
_BREAKS = (
    (r" (?=&?\\qquad)", False),
    (r" (?=[-+] )", False),
    (r" (?=\\odot)", False),
    (r" (?=[-+] )", True),
    (r" (?=[&\\])", True),
)


def _source_line(line: str) -> str:
    """``line``, if it is long, in several lines of LaTeX that mean the same."""
    indent = " " * (len(line) - len(line.lstrip()))
    lines = _broken(line.strip(), _SOURCE - len(indent) - 6, _BREAKS)
    return indent + f"\n{indent}      ".join(lines)


def _broken(line: str, room: int, breaks: Sequence[tuple[str, bool]]) -> list[str]:
    if len(line) <= room or not breaks:
        return [line]
    at, anywhere = breaks[0]
    first, *others = re.split(at, line) if anywhere else _split_outside(line, at)
    lines = [first]
    for part in others:
        if len(lines[-1]) + 1 + len(part) > room:
            lines.append(part)
        else:
            lines[-1] += f" {part}"
    return [piece for line in lines for piece in _broken(line, room, breaks[1:])]


def _split_outside(line: str, at: str) -> list[str]:
    """``line`` split at a pattern, but not in braces or parentheses."""
    parts, start, depth = [], 0, 0
    for mark in re.finditer(rf"\\left\b|\\right\b|\\begin\b|\\end\b|(?<!\\)[{{}}]|{at}", line):
        token = mark.group()
        depth += {"{": 1, r"\left": 1, r"\begin": 1}.get(token, 0)
        depth -= {"}": 1, r"\right": 1, r"\end": 1}.get(token, 0)
        if token == " " and depth == 0:
            parts.append(line[start : mark.start()])
            start = mark.end()
    return [*parts, line[start:]]
