"""The normal form of a cell: each equation does one thing, and all that mixes units has a name.

An equation in normal form is one of

- affine:         a = W_i @ x + U_i @ h + p_i * c + b_i, products of named vectors, and elementwise;
                  a product has no factor: 2 * (W @ x + U @ h) is 2 * a;
- a reduction:    m = mean(e), with e elementwise (the operand of a scan or a maximum is named);
- a contraction:  y = C @ q, of named vectors that both move;
- a view:         q = Part(u, 0, …) of a named vector, or several of them side by side;
- elementwise:    c.next = f * c + i * g. Only here a vector may be expanded along other axes.

The products and reductions of an equation have as many units as its left-hand side. What is one
number gets a name where it is wanted for all units: only elementwise work broadcasts.

It is what derivation walks backwards and what the schedule cuts into stages. Names are chosen as a
textbook would: ``a_i`` is the pre-activation of ``i``, ``Uh_n`` is U_n h, ``rh`` is r * h.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import sympy
from sympy import Eq, Expr, Function, Integer

from ..language.functions import sigmoid, softplus, stop_gradient
from ..language.matrices import Matrix, as_matrix, is_of_parameters
from ..language.shapes import SCALAR, Shapes
from ..language.sizes import settled
from ..language.symbols import (
    STATIC,
    Concat,
    Contract,
    Expand,
    Part,
    Product,
    Reduction,
    Reshape,
    Scan,
    Transpose,
    Vector,
    View,
    max_,
    named,
    plain_conditions,
)
from . import outer
from .names import Namer, contraction_name, joined, product_name
from .quantities import as_quantities, repeated

# What leaves a term no plain elementwise work.
MIXING = (Product, Reduction, Contract, Part, Reshape, Transpose, Concat)
_SHORT = {"mean": "mu", "sum_": "sum", "max_": "max", "cumsum": "cum", "rcumsum": "rcum"}


class Normal(NamedTuple):
    """Equations in normal form, in an order in which they can be run.

    ``fixed`` are those of what does not move, since it is made of parameters and constants alone:
    they hold once for a whole sequence. ``step`` are those of each step.
    """

    fixed: tuple[Eq, ...]
    step: tuple[Eq, ...]


def normalise(
    equations: Sequence[Eq], shapes: Shapes, namer: Namer, kept: Collection[Vector] = (),
    *, once: bool = False,
) -> Normal:  # fmt: skip
    """``equations`` in normal form. What is ``kept`` stays a part of the step, whatever it is.

    ``once``, what would be computed again at each step, though it is made of parameters alone, is
    taken out of the step: σ(ζ), exp(-exp(ν)), the columns of W in W @ concat(x, h). A reader wants
    these where they are.
    """
    return _Normaliser(equations, shapes, namer, kept, once).run()


class _Normaliser:
    def __init__(
        self, equations: Sequence[Eq], shapes: Shapes, namer: Namer, kept: Collection[Vector],
        once: bool,
    ) -> None:  # fmt: skip
        self.equations, self.shapes, self.namer = equations, shapes, namer
        self.kept, self.once = kept, once
        self.static: dict[Vector, Vector] = {}  # vectors that turn out to be the same at all steps
        self.fixed: list[Eq] = []
        self.step: list[Eq] = []
        self.category = "vector"  # of what gets a name
        self.known: dict[Expr, Vector] = {}
        self.root: dict[Vector, str] = {}  # what a part of a normalisation was made from
        self.target = ""

    @property
    def out(self) -> list[Eq]:
        """Where equations go: what is made of parameters alone is not part of a step."""
        return self.fixed if self.category == "derived" else self.step

    def run(self) -> Normal:
        for equation in self.equations:
            given = equation.rhs.xreplace(self.static)
            self.category = "derived" if self._is_fixed(equation.lhs, given) else "vector"
            self.target, lhs = equation.lhs.name, self._left(equation.lhs)
            if self.category != "derived":  # a step multiplies by matrices, and reads no entries
                given = given.replace(is_of_parameters, self._named_once)
            rhs = self._right(_without_mod(plain_conditions(self._quantities(given))))
            alike = self.shapes.axes(rhs) == self.shapes.axes(lhs)
            if not alike and rhs.has(*MIXING):
                rhs = self._name(rhs, f"{lhs.name}_one")
            self.out.append(Eq(lhs, rhs, evaluate=False))
            if alike and not (rhs.is_Atom or rhs.has(Product)):
                self.known.setdefault(rhs, lhs)
        read = {v for e in self.step for v in e.rhs.atoms(Vector)} | set(self.kept)
        step = (e for e in self.step if e.lhs in read or not isinstance(e.rhs, Concat))
        return Normal(tuple(self.fixed), tuple(step))

    def _size(self, e: Expr) -> Expr:
        return self.shapes.of(e)

    @cached_property
    def _told(self) -> set[Expr]:
        """The sizes that are known before the first step: those that parameters have."""
        made = {e.lhs for e in self.equations}
        read = {p for e in self.equations for p in e.rhs.atoms(Matrix, Vector)}
        given = [p for p in read if isinstance(p, Matrix) and p.base not in made]
        given += [p for p in read if isinstance(p, Vector) and p.category == "parameter"]
        return settled(axis for p in given for axis in self.shapes.shape(p))

    # ------------------------------------------------------------------ what does not move

    def _is_fixed(self, lhs: Vector | Matrix, rhs: Expr) -> bool:
        """Whether an equation holds once for a whole sequence."""
        if isinstance(lhs, Matrix):
            return True
        alike = self.shapes.axes(lhs) == self.shapes.axes(rhs)  # a number is broadcast in the step
        return lhs.category == "vector" and lhs not in self.kept and alike and self._is_static(rhs)

    def _left(self, lhs: Vector | Matrix) -> Any:
        """A left-hand side as a quantity, fixed or of each step."""
        if self.category == "derived" and isinstance(lhs, Vector):
            self.static[lhs] = Vector(lhs.name, "derived", lhs.axes)
            return self.static[lhs]
        return self._quantities(lhs)

    def _is_static(self, e: Expr) -> bool:
        """Whether ``e`` is made of parameters and constants, so that it is the same at all steps,
        and as wide as these say: they are all that is known of sizes before the first step. A
        vector of N*P units says neither N nor P.
        """
        if not isinstance(e, Expr):
            return False  # a condition, or a piece with one
        found = e.atoms(Vector, Matrix)
        if not found or any(v.category not in STATIC for v in found if isinstance(v, Vector)):
            return False
        known = settled(axis for v in found for axis in self.shapes.shape(v))
        wide = (e, *found, *e.atoms(View))
        return {n for x in wide for a in self.shapes.axes(x) for n in a.free_symbols} <= known

    def _named_once(self, e: Expr) -> Vector:
        """What is made of parameters, under a name, computed once for a whole sequence."""
        inner = e.args[0] if isinstance(e, named) else e
        name = f"p_{self.target}"
        if isinstance(inner, Function) and len(inner.args) == 1 and inner.args[0].is_Symbol:
            name = f"{inner.func.__name__.rstrip('_')}_{inner.args[0].name}"
        with self._outside_the_step():
            return self._name(self._right(self._quantities(inner)), name)

    @contextmanager
    def _outside_the_step(self) -> Iterator[None]:
        """What gets a name here holds for a whole sequence."""
        before, self.category = self.category, "derived"
        yield
        self.category = before

    def _static_apart(self, e: Expr) -> Expr:
        """A sum or product in which what is made of parameters alone is one term or factor, if it
        is worth a name.
        """
        fixed = [a for a in e.args if self._is_static(a) and not isinstance(a, Matrix)]
        if len(fixed) < 2 or len(fixed) == len(e.args) or not any(map(_has_price, fixed)):
            return e
        others = [a for a in e.args if a not in fixed]
        return e.func(self._named_once(e.func(*fixed)), *others)

    def _right(self, rhs: Expr) -> Expr:
        if isinstance(rhs, named):
            rhs = rhs.args[0]
        if isinstance(rhs, Reduction):
            return self._reduction(rhs)
        if isinstance(rhs, (Contract, Concat, Part, Reshape, Transpose)):
            return self._rearranged(rhs)
        return self._flat(rhs, "a")

    def _flat(self, e: Expr, hint: str) -> Expr:
        """``e`` with all that mixes units named, but for products that are terms of a sum."""
        if e.is_Atom:
            return e
        if self.category != "derived":
            price = _has_price(e) if self.once else e.has(Product, Contract)
            if price and not isinstance(e, Expand) and self._is_static(e):
                return self._named_once(e)
            if self.once and isinstance(e, (sympy.Add, sympy.Mul)):
                e = self._static_apart(e)
            if self.once and isinstance(e, sympy.Mul):
                e = sympy.Mul(*outer.scaled(e.args, self.shapes))
        if isinstance(e, named):
            return self._named(e)
        if isinstance(e, Product):
            matrix = e.matrix if isinstance(e.matrix, Matrix) else self._matrix(e.matrix)
            if self.once and (parts := self._parts(matrix, e.operand)):
                return self._by_columns(matrix, parts)
            matrix, whole = self._of_all_heads(matrix, e.operand)
            operand = self._operand(whole)
            if operand.category in STATIC and self.category != "derived":
                # it is not known before the first step how wide the product is: a row for each
                operand = self._name(operand, f"u_{self.target}")
            return Product(matrix, operand)
        if isinstance(e, Expand):
            inner = self._whole(e.operand, "u")
            known = inner.is_number or isinstance(inner, Vector)
            return Expand(inner if known else self._operand(inner), *e.args[1:])
        if isinstance(e, (Contract, Concat, View)):
            made = self._rearranged(e)
            name = contraction_name(made) if isinstance(made, Contract) else ""
            return self._name(made, name or f"u_{self.target}")
        if isinstance(e, Reduction):
            return self._part(self._reduction(e), _SHORT[e.func.__name__])
        if isinstance(e, sympy.Add):
            return self._sum(e, hint)
        if isinstance(e, (sympy.Max, sympy.Min)) and len(e.args) > 2:
            return e.func(*(self._symbol(arg) for arg in e.args))
        if isinstance(e, Function) and len(e.args) == 1:
            return self._function(e.func, self._argument(self._whole(e.args[0], "a")))
        if isinstance(e, sympy.Piecewise):
            return self._cases(e)
        return e.func(*(self._whole(arg, "q") for arg in e.args))

    def _cases(self, e: sympy.Piecewise) -> Expr:
        """A choice, whose cases stay whole: what one has outside of it has a slope where the case
        is not taken, and that of 1/r is infinite at r = 0.
        """
        before, self.once = self.once, False
        made: Expr = e.func(*(self._whole(case, "q") for case in e.args))
        self.once = before
        return made

    def _matrix(self, e: Expr) -> Matrix:
        """A matrix that is made of parameters, under a name."""
        with self._outside_the_step():
            return as_matrix(self._name(self._right(self._quantities(e)), f"M_{self.target}"))

    def _quantities(self, e: Expr) -> Expr:
        """An equation of matrices, or a side of it, in which each is a quantity of two axes."""
        if self.category != "derived":
            return e
        return as_quantities(e, self.shapes, {x.lhs for x in self.equations})

    def _parts(self, matrix: Matrix, operand: Expr) -> tuple[Expr, ...]:
        """The vectors that stand side by side in the operand of a plain matrix; () of any other,
        and where the matrix cannot be cut once for a sequence, or a part is the same at all steps.
        """
        meaning = self._meaning(operand)
        if not isinstance(meaning, Concat) or len(self.shapes.axes(matrix)) != 2:
            return ()
        shapes = [self.shapes.axes(part) for part in meaning.args]
        plain = all(len(shape) == 1 and shape != SCALAR for shape in shapes)
        known = all(n in self._told for shape in shapes for n in shape[0].free_symbols)
        moving = not any(map(self._is_static, meaning.args))
        return meaning.args if plain and known and moving else ()

    def _by_columns(self, matrix: Matrix, parts: Sequence[Expr]) -> Expr:
        """W @ concat(x, h) as W_x @ x + W_h @ h, so that what does not depend on the recurrence
        can be multiplied for all steps at once; the columns of W are cut once for a sequence.
        """
        operands = [self._operand(part) for part in parts]
        sizes = sympy.Tuple(*map(self._size, operands))
        with self._outside_the_step():
            whole = self._operand(self._quantities(matrix))
            pieces = [
                self._name(Part(whole, Integer(k), sizes), f"{matrix.name}_{v.name}")
                for k, v in enumerate(operands)
            ]
        return sympy.Add(*map(Product, map(as_matrix, pieces), operands))

    def _of_all_heads(self, matrix: Matrix, operand: Expr) -> tuple[Matrix, Expr]:
        """The same product with a vector for each head of the matrix; or where one vector is for
        all heads, with their matrices as one tall matrix.
        """
        alone = len(self.shapes.axes(operand)) == 1 < len(self.shapes.axes(matrix)) - 1
        if alone and not matrix.transposed:
            return matrix.merge(), operand
        return matrix, repeated(matrix, operand, self.shapes)

    def _operand(self, e: Expr) -> Vector:
        """``e`` as a named vector."""
        operand = self._whole(e, "u")
        if isinstance(operand, Vector):
            return operand
        return self._name(operand, joined(operand) or f"u_{self.target}")

    def _rearranged(self, e: Expr) -> Expr:
        """A contraction or a view, of named vectors."""
        count = {Contract: 2, Concat: len(e.args)}.get(type(e), 1)
        return e.func(*map(self._operand, e.args[:count]), *e.args[count:])

    def _sum(self, e: sympy.Add, hint: str) -> Expr:
        """A sum, with a number before several of its products factored out again.

        SymPy distributes the sign of -(W x + U h + b), and only products without a factor are
        added up in place.
        """
        size, left, terms = self._size(e), list(e.args), []
        for factor, scaled in _common_factors(e).items():
            inner = sympy.Add(*(self._term(t.as_coeff_Mul()[1], size) for t in scaled))
            left = [t for t in left if t not in scaled]
            whole = all(t.is_number for t in left)
            terms.append(factor * self._name(inner, f"{hint if whole else 's'}_{self.target}"))
        return sympy.Add(*(self._term(t, size) for t in left), *terms)

    def _term(self, e: Expr, size: Expr) -> Expr:
        """A term of a sum of that size, a product if it is as wide."""
        term = self._flat(e, "q")
        if not products(term) or self._size(term) == size:
            return term
        named_so = isinstance(term, Product)
        return self._name(term, product_name(term) if named_so else f"q_{self.target}")

    def _symbol(self, e: Expr) -> Expr:
        """``e`` under a name, so that its value is the same to the last bit wherever it is read:
        backward compares it with the largest.
        """
        whole = self._whole(e, "q")
        plain = isinstance(whole, Vector) or not whole.atoms(Vector)
        return whole if plain else self._name(whole, f"q_{self.target}")

    def _function(self, function: type, argument: Expr) -> Expr:
        """A function of one argument. log σ(a) is -softplus(-a), since σ(a) may be too small."""
        gate = self._meaning(argument)
        if function is sympy.log and isinstance(gate, sigmoid):
            return -softplus(-gate.args[0])
        return function(argument)

    def _meaning(self, e: Expr) -> Expr:
        """What a vector was defined as; anything else is what it is."""
        return next((made.rhs for made in self.out if made.lhs == e), e)

    def _argument(self, e: Expr) -> Expr:
        """The argument of a function: a pre-activation with a name, unless it is a trifle."""
        return e if e.is_Atom or len(_moving(e)) < 2 else self._name(e, f"a_{self.target}")

    def _whole(self, e: Expr, hint: str) -> Expr:
        """``e`` without any product: a sum that holds some gets a name."""
        flat = self._flat(e, hint)
        if isinstance(flat, Product):
            return self._name(flat, product_name(flat))
        if flat.has(Product):
            return self._name(flat, f"{hint}_{self.target}")
        return flat

    def _reduction(self, e: Reduction) -> Expr:
        if isinstance(e, max_):
            return e.func(self._symbol(e.args[0]), *e.args[1:])
        operand = self._whole(e.args[0], "q")
        if isinstance(e, Scan) and not isinstance(operand, Vector):
            operand = self._name(operand, f"u_{self.target}")
        return e.func(operand, *e.args[1:])

    def _named(self, e: named) -> Expr:
        inner = e.args[0]
        flat = self._reduction(inner) if isinstance(inner, Reduction) else self._flat(inner, "a")
        if flat.is_Atom:
            return flat
        if e.name_hint:
            return self._part(flat, e.name_hint)
        return self._name(
            flat, product_name(flat) if isinstance(flat, Product) else f"a_{self.target}"
        )

    def _part(self, e: Expr, prefix: str) -> Vector:
        """A part of a normalisation, named after what is normalised: mu_c, d_c, r_c."""
        moving = _moving(e)
        root = self.root.get(moving[0], moving[0].name) if moving else self.target
        symbol = self._name(e, f"{prefix}_{root}")
        self.root.setdefault(symbol, str(root))
        return symbol

    def _name(self, e: Expr, name: str) -> Vector:
        if e not in self.known:
            symbol = Vector(self.namer(name), self.category, self.shapes.declared(e))
            self.out.append(Eq(symbol, e, evaluate=False))
            self.known[e] = symbol
        return self.known[e]


def _moving(e: Expr) -> list[Vector]:
    """The vectors in ``e`` that change from step to step."""
    found = [v for v in e.atoms(Vector) if v.category not in STATIC]
    return sorted(found, key=lambda v: (v.is_single, v.name, v.time))


def _has_price(e: Expr) -> bool:
    """Whether ``e`` takes more than a few additions and products of what it is made of."""
    return any(
        (
            isinstance(n, (Function, sympy.Piecewise, sympy.Max, sympy.Min))
            and not isinstance(n, (named, Expand, stop_gradient))
        )
        or (isinstance(n, sympy.Pow) and not (n.exp.is_Integer and 0 < n.exp <= 3))
        for n in sympy.preorder_traversal(e)
    )


def _without_mod(e: Expr) -> Expr:
    """Mod(a, b) as a - b floor(a / b), which can be differentiated in both arguments."""
    return e.replace(sympy.Mod, lambda a, b: a - b * sympy.floor(a / b))


def _common_factors(e: sympy.Add) -> dict[Expr, list[Expr]]:
    """By factor, the terms of a sum that are better summed up first: products with one number
    before them, and learned vectors with the same; all terms, if all have that number.
    """
    terms: dict[Expr, list[Expr]] = {}
    for t in e.args:
        if not t.is_number:
            terms.setdefault(t.as_coeff_Mul()[0], []).append(t)
    found = {}
    for factor, scaled in terms.items():
        if factor == 1 or not any(isinstance(t.as_coeff_Mul()[1], Product) for t in scaled):
            continue
        together = scaled if len(terms) == 1 else [t for t in scaled if _is_summed_up(t)]
        if len(together) > 1:
            found[factor] = together
    return found


def _is_summed_up(term: Expr) -> bool:
    """Whether a product of the plan can take ``term`` in: as one of its products, or its bias."""
    inner = term.as_coeff_Mul()[1]
    learned = isinstance(inner, Vector) and inner.category == "parameter"
    return learned or isinstance(inner, Product)


def names_its_side(e: Eq, shapes: Shapes) -> bool:
    """Whether an equation gives a name to elementwise work, in which derivatives are written then.

    One number that is broadcast has as many names as units: it is none of them.
    """
    is_work = not (e.rhs.is_Atom or e.rhs.has(*MIXING) or e.rhs.is_Add)
    return is_work and shapes.axes(e.rhs) == shapes.axes(e.lhs)


def products(e: Expr) -> list[Product]:
    """The products of an affine right-hand side, in the order of its terms."""
    return [t for t in sympy.Add.make_args(e) if isinstance(t, Product)]


def remainder(e: Expr) -> Expr:
    """What an affine right-hand side holds beside its products."""
    return sympy.Add(*(t for t in sympy.Add.make_args(e) if not isinstance(t, Product)))
