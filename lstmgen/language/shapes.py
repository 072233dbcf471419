"""Shape inference: the axes of every quantity, by unification over symbolic sizes.

A declared size is an expression in names; what was left open is a variable. Elementwise arithmetic
makes the shapes of its operands equal, except that a single number broadcasts. A contraction sums
over an axis of both operands, a view says which axes come out. Once all is solved, ``explicit``
writes into each node what the user could leave out: which axis is summed, which axes are heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy
from sympy import Eq, Expr, Integer

from ..errors import CellError
from .matrices import Matrix
from .misuse import bound, located, short
from .sizes import size_of
from .symbols import (
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
    named,
)

Shape = tuple[Expr, ...]
ONE = Integer(1)
SCALAR: Shape = (ONE,)


class _Open(sympy.Symbol):
    """A size that no declaration gives: a variable, named after what it is of."""

    def __new__(cls, owner: str, part: str) -> _Open:
        obj: _Open = sympy.Symbol.__xnew__(cls, f"{owner} {part}", integer=True, positive=True)
        return obj

    def __getnewargs_ex__(self) -> tuple[tuple[str, ...], dict[str, object]]:
        return tuple(self.name.split(" ", 1)), {}


class Shapes:
    """The solved axes of one cell's symbols."""

    def __init__(self, equations: Sequence[Eq]) -> None:
        self._bound: dict[Expr, Expr] = {}
        self._known: dict[Expr, Shape] = {}  # what was asked for before, once all is solved
        self._declared: dict[Expr, str] = {}  # a fixed size -> a declaration that named it
        for number, equation in enumerate(equations, 1):
            self._equation(number, equation)
        self._symbols = sorted(
            {s for e in equations for s in e.atoms(Vector, Matrix)}, key=lambda s: (s.name, str(s))
        )
        for symbol in self._symbols:
            self._require(symbol)

    # ------------------------------------------------------------------ results

    def axes(self, expr: Expr) -> Shape:
        """The axes of an expression over the cell's symbols; (1,) of a single number."""
        if expr not in self._known:
            self._known[expr] = self._solved(self._infer(expr, ""))
        return self._known[expr]

    def shape(self, symbol: Vector | Matrix) -> Shape:
        """The axes of a vector; of a matrix heads, rows and columns, not transposed."""
        return self.axes(symbol.base if isinstance(symbol, Matrix) else symbol)

    def size(self, vector: Vector) -> Expr:
        """The number of units of ``vector``, over all its axes."""
        return self.of(vector)

    def of(self, expr: Expr) -> Expr:
        """The number of units of an expression over the cell's symbols."""
        return units(self.axes(expr))

    def declared(self, expr: Expr) -> tuple[str, ...]:
        """The axes of an expression, as a declaration has them."""
        return tuple(map(str, self.axes(expr)))

    def quantity(self, p: Vector | Matrix, category: str = "parameter") -> Vector:
        """What a matrix is in the equations of other matrices: a quantity of so many axes."""
        if isinstance(p, Vector):
            return p
        return Vector(p.name, category, self.declared(p.base), learned=p.learned)

    def axis(self, reduction: Reduction) -> int:
        """The place of the axis that a reduction looks along."""
        return self._axis(reduction, self.axes(reduction.args[0]), "")

    def explicit(self, e: Expr) -> Expr:
        """``e`` with all that users may leave out: places of axes, shapes of views, heads."""
        if not e.args:
            return e
        args = [self.explicit(a) if isinstance(a, Expr) else self._inside(a) for a in e.args]
        if isinstance(e, Reduction):
            shape = self.axes(e.args[0])
            return e.func(args[0]) if len(shape) == 1 else e.func(args[0], Integer(self.axis(e)))
        if isinstance(e, Expand):
            inner = self.axes(e.operand)
            shape = self.axes(e)
            places = () if inner == SCALAR else self._places(e, inner, "")
            return Expand(args[0], sympy.Tuple(*shape), sympy.Tuple(*places))
        if isinstance(e, Reshape):
            return Reshape(args[0], sympy.Tuple(*self.axes(e)))
        if isinstance(e, Part):
            return Part(args[0], args[1], sympy.Tuple(*map(self._find, self._parts(e, ""))))
        if isinstance(e, Contract):
            return self._plain_contraction(e, args)
        return e if all(a is b for a, b in zip(args, e.args, strict=True)) else e.func(*args)

    def _inside(self, e: sympy.Basic) -> sympy.Basic:
        """Conditions and pieces, with what is in them made explicit."""
        if not e.args or type(e) is sympy.Tuple:
            return e
        return e.func(
            *(self.explicit(a) if isinstance(a, Expr) else self._inside(a) for a in e.args)
        )

    def _plain_contraction(self, e: Contract, args: Sequence[Expr]) -> Expr:
        """A contraction of what is not transposed, which its letters say instead; but heads come
        first in all.
        """
        left, right, out = self._letters(e, "")
        heads = set(left) & set(right) & set(out)
        operands, letters = [], []
        for arg, word in zip(args[:2], (left, right), strict=True):
            if isinstance(arg, Transpose) and not heads & set(word[-2:]):
                arg, word = arg.operand, word[:-2] + word[:-3:-1]
            operands.append(arg)
            letters.append(word)
        return Contract(operands[0], operands[1], f"{letters[0]},{letters[1]}->{out}")

    # ------------------------------------------------------------------ sizes

    def _declare(self, axes: Sequence[str], owner: str) -> Shape:
        parts = ("size",) if len(axes) == 1 else tuple(f"axis {k}" for k in range(len(axes)))
        return tuple(self._term(n, owner, part) for n, part in zip(axes, parts, strict=True))

    def _matrix(self, m: Matrix) -> Shape:
        parts = (*(f"axis {k}" for k in range(len(m.axes) - 2)), "rows", "columns")
        shape = tuple(self._term(n, m.name, part) for n, part in zip(m.axes, parts, strict=True))
        return _transposed(shape) if m.transposed else shape

    def _term(self, size: str, owner: str, part: str) -> Expr:
        if not size:
            return _Open(owner, part)
        self._declared.setdefault(size_of(size), owner)
        return size_of(size)

    def _find(self, size: Expr) -> Expr:
        while opened := [o for o in size.free_symbols if o in self._bound]:
            size = sympy.expand(size.xreplace({o: self._bound[o] for o in opened}))
        return size

    def _solved(self, shape: Shape) -> Shape:
        return tuple(map(self._find, shape))

    def _unify(self, a: Expr, b: Expr) -> bool:
        a, b = self._find(a), self._find(b)
        if a == b:
            return True
        difference = sympy.expand(a - b)
        for opened in sorted((s for s in difference.free_symbols if isinstance(s, _Open)), key=str):
            factor, rest = difference.coeff(opened), difference.subs(opened, 0)
            solution = sympy.expand(-rest / factor) if factor.is_Number else None
            if solution is not None and _is_size(solution) and not solution.has(opened):
                self._bound[opened] = solution
                return True
        return False

    def _unify_shapes(self, a: Shape, b: Shape) -> bool:
        return len(a) == len(b) and all(self._unify(m, n) for m, n in zip(a, b, strict=True))

    # ------------------------------------------------------------------ walking

    def _equation(self, number: int, equation: Eq) -> None:
        where, lhs = located(number, equation), equation.lhs
        rhs = self._solved(self._infer(equation.rhs, where))
        left = self._infer(lhs, where)
        if rhs == SCALAR or self._unify_shapes(left, rhs):
            return
        left, rhs = self._solved(left), self._solved(rhs)
        hint = (
            f"declare {lhs.name} with {_declaration(rhs)}, or bring the right-hand side to its "
            "size with a matrix product"
        )
        if len(left) != len(rhs):
            hint = f"declare {lhs.name} with {_declaration(rhs)}; expand(…) repeats along new axes"
        raise CellError(
            f"the right-hand side gives {_what(rhs)}, but {lhs} has {_what(left)}",
            where=where,
            hint=hint,
        )

    def _infer(self, expr: Expr, where: str) -> Shape:
        if isinstance(expr, Vector):
            return self._solved(self._declare(expr.axes, expr.name))
        if isinstance(expr, Matrix):
            return self._solved(self._matrix(expr))
        for kind, rule in self._rules().items():
            if isinstance(expr, kind):
                return self._solved(rule(expr, where))
        return self._elementwise(expr, where)

    def _rules(self) -> dict[type, Callable[[Expr, str], Shape]]:
        return {
            Product: self._product, Contract: self._contraction, Reduction: self._reduction,
            Expand: self._expanded, Part: self._part, Reshape: self._reshaped,
            Transpose: self._turned, Concat: self._side_by_side,
            named: lambda e, where: self._infer(e.args[0], where),
        }  # fmt: skip

    def _elementwise(self, expr: Expr, where: str) -> Shape:
        known: Shape = SCALAR
        source: Expr | None = None
        for arg in sorted(expr.args, key=str):
            if type(arg) is sympy.Tuple:
                continue
            shape = self._infer(arg, where)
            if shape == SCALAR:
                continue
            if source is not None and not self._unify_shapes(known, shape):
                raise self._mismatch(source, known, arg, shape, where)
            known, source = self._solved(shape), source if source is not None else arg
        return known

    # -- contractions

    def _product(self, product: Product, where: str) -> Shape:
        matrix, operand = product.matrix, product.operand
        shape, inner = self._infer(matrix, where), self._infer(operand, where)
        if len(shape) < 2:
            raise CellError(f"{short(product)}: {matrix} is not a matrix", where=where)
        if isinstance(matrix, Matrix) and matrix.merged:
            plain = self._infer(matrix.base, where)
            return plain[-1:] if matrix.transposed else plain[:-1]
        *front, columns = shape
        if not self._unify(columns, inner[-1]):
            raise self._misfit(product, columns, inner[-1], where)
        heads = inner[:-1]
        if len(shape) == 2:
            return (*heads, front[0])  # the same matrix for all heads
        if heads and not self._unify_shapes(heads, tuple(front[: len(heads)])):
            raise CellError(
                f"{short(product)}: {matrix} has {_what(shape)}, but {short(operand)} has "
                f"{_what(self._solved(inner))}",
                where=where,
                hint='a matrix a head has the axes of the heads first, as in shape=("N", "P", '
                '"Q") for vectors of shape ("N", "Q")',
            )
        if len(heads) >= len(front):
            raise CellError(
                f"{short(product)}: {short(operand)} has more axes than {matrix} has heads",
                where=where,
            )
        return tuple(front)

    def _misfit(self, product: Expr, columns: Expr, size: Expr, where: str) -> CellError:
        matrix, operand = product.args[:2]
        hint = f"a matrix fits one size only: use another for {short(operand)}, such as another "
        hint += "member of its family"
        # a product of two matrices, to most readers
        if len(self._infer(matrix, where)) == 2 and len(self._infer(operand, where)) > 1:
            hint = f"{matrix} multiplies along the last axis; along the one before, write "
            hint += f"({matrix} @ {bound(operand)}.T).T"
        return CellError(
            f"{short(product)}: {matrix} has {_text(self._find(columns))} columns, but "
            f"{short(operand)} has size {_text(self._find(size))}",
            where=where,
            hint=hint,
        )

    def _contraction(self, e: Contract, where: str) -> Shape:
        letters = self._letters(e, where)
        sizes: dict[str, Expr] = {}
        for arg, word in zip(e.args[:2], letters[:2], strict=True):
            for letter, size in zip(word, self._infer(arg, where), strict=True):
                if not self._unify(sizes.setdefault(letter, size), size):
                    if letter in letters[2]:
                        raise self._heads_differ(e, where)
                    raise self._misfit(e, sizes[letter], size, where)
        return tuple(sizes[letter] for letter in letters[2])

    def _letters(self, e: Contract, where: str) -> tuple[str, str, str]:
        """The letters of a contraction, heads first; a transpose is an operand like any other."""
        left, right = (len(self._infer(arg, where)) for arg in e.args[:2])
        if e.args[2].name == "@":
            if left < 2 or right not in (left, left - 1):
                raise CellError(
                    f"{short(e)}: {short(e.args[0])} has {left} axes and {short(e.args[1])} has "
                    f"{right}",
                    where=where,
                    hint="a matrix state of shape (H, K) takes a vector (K,) or a matrix (K, P); "
                    "heads come first in both",
                )
            heads = "abcdefgh"[: left - 2]
            last = "" if right == left - 1 else "k"
            return f"{heads}ij", f"{heads}j{last}", f"{heads}i{last}"
        if e.args[2].name == "i,j->ij":
            if left != right:
                raise self._heads_differ(e, where)
            heads = "abcdefgh"[: left - 1]
            return f"{heads}i", f"{heads}j", f"{heads}ij"
        return e.spec

    def _heads_differ(self, e: Contract, where: str) -> CellError:
        shapes = (_what(self._solved(self._infer(arg, where))) for arg in e.args[:2])
        return CellError(
            f"{short(e)}: {short(e.args[0])} has {next(shapes)}, but {short(e.args[1])} has "
            f"{next(shapes)}",
            where=where,
            hint="axes before the ones that are multiplied are heads, which both have alike",
        )

    # -- reductions and views

    def _reduction(self, e: Reduction, where: str) -> Shape:
        shape = self._infer(e.args[0], where)
        k = self._axis(e, shape, where)
        if isinstance(e, Scan):
            return shape
        return shape[:k] + shape[k + 1 :] or SCALAR

    def _axis(self, e: Reduction, shape: Shape, where: str) -> int:
        shape, axis = self._solved(shape), e.axis
        if axis is None:
            if len(shape) == 1:
                return 0
            raise CellError(
                f"{short(e)}: {short(e.args[0])} has {_what(shape)}, and no axis is named",
                where=where,
                hint=f'name one: {type(e).__name__}({short(e.args[0])}, "{shape[-1]}")',
            )
        if isinstance(axis, Integer) and -len(shape) <= axis < len(shape):
            return int(axis) % len(shape)  # a place, whatever sizes there are
        if shape.count(axis) == 1:
            return shape.index(axis)
        twice = f"{axis} twice: give its place, 0 to {len(shape) - 1}, instead"
        raise CellError(
            f"{short(e)}: {short(e.args[0])} has {_what(shape)}",
            where=where,
            hint=twice if axis in shape else f"it has no axis {axis}",
        )

    def _expanded(self, e: Expand, where: str) -> Shape:
        inner, wanted = self._infer(e.operand, where), list(e.args[1])
        told = len(e.args) > 2 and len(e.places) > 0
        places = self._places(e, inner, where) if told or inner != SCALAR else ()
        for k, size in zip(places, inner, strict=False):
            if wanted[k] == 0:
                wanted[k] = size
        return tuple(wanted)

    def _places(self, e: Expand, inner: Shape, where: str) -> tuple[int, ...]:
        """Which axes of the result are those of the operand: those that it was told, else the
        first that fit, in order.
        """
        wanted = tuple(e.args[1])
        if len(e.args) > 2:
            self._check_places(e, inner, where)
            return e.places
        places = Expand.first(wanted, inner)
        if places[-1] >= len(wanted):
            places = tuple(range(len(inner)))  # sizes that are still open
            fits = len(inner) <= len(wanted) and self._unify_shapes(
                inner, tuple(wanted[: len(inner)])
            )
            if not fits:
                raise CellError(
                    f"{short(e)}: {short(e.operand)} has {_what(self._solved(inner))}, whose axes "
                    f"are not among {_what(tuple(wanted))}",
                    where=where,
                    hint="name the axes of the operand, too, in their order",
                )
        return places

    def _check_places(self, e: Expand, inner: Shape, where: str) -> None:
        """Refuse places that the operand's axes do not have in the result."""
        wanted, places = tuple(e.args[1]), e.places
        own = inner if places or inner != SCALAR else ()
        ordered = list(places) == sorted({*places}) and places[-1:] < (len(wanted),)
        pairs = zip(places, own, strict=False) if ordered and len(places) == len(own) else ()
        lying = tuple(size if wanted[k] == 0 else wanted[k] for k, size in pairs)
        if len(lying) != len(places) or not self._unify_shapes(own, lying):
            raise CellError(
                f"{short(e)}: {short(e.operand)} has {_what(self._solved(inner))}, and does not "
                f"lie along axis {', '.join(map(str, places))} of {_what(wanted)}",
                where=where,
                hint="axis= has the place of each axis of the operand in the result, from 0",
            )

    def _part(self, e: Part, where: str) -> Shape:
        *front, last = self._infer(e.operand, where)
        sizes = self._parts(e, where)
        if not self._unify(last, sympy.Add(*sizes)):
            raise CellError(
                f"{short(e)}: {short(e.operand)} has size {_text(self._find(last))}, its parts "
                f"have {sympy.Add(*sizes)} together",
                where=where,
                hint="the sizes of the parts add up to the size of the whole",
            )
        return (*front, sizes[e.number])

    def _parts(self, e: Part, where: str) -> tuple[Expr, ...]:
        sizes = e.sizes
        if len(sizes) > 1 or len(e.args[2]) > 1:
            return sizes
        (count,) = sizes
        last = self._infer(e.operand, where)[-1]
        size = sympy.expand(self._find(last) / count)
        if _is_size(size):
            return (size,) * int(count)
        if isinstance(last, _Open):
            size = _Open(str(e.operand), f"part of {count}")
            self._unify(last, count * size)
            return (size,) * int(count)
        raise CellError(
            f"{short(e)}: {short(e.operand)} has size {_text(last)}, which is not {count} times "
            "another size",
            where=where,
            hint=f'declare it with size="{count}*P", or name the sizes: split(u, "P", …)',
        )

    def _reshaped(self, e: Reshape, where: str) -> Shape:
        inner = self._solved(self._infer(e.operand, where))
        if not e.args[1]:
            return (units(inner),)
        if not self._unify(units(inner), units(tuple(e.args[1]))):
            raise CellError(
                f"{short(e)}: {short(e.operand)} has {_text(units(inner))} units, not "
                f"{_text(units(tuple(e.args[1])))}",
                where=where,
                hint=f'declare it with size="{"*".join(map(str, e.args[1]))}"',
            )
        return tuple(e.args[1])

    def _turned(self, e: Transpose, where: str) -> Shape:
        shape = self._infer(e.operand, where)
        if len(shape) < 2:
            raise CellError(f"{short(e)}: {short(e.operand)} has one axis only", where=where)
        return _transposed(shape)

    def _side_by_side(self, e: Concat, where: str) -> Shape:
        shapes = [self._infer(a, where) for a in e.args]
        for shape, arg in zip(shapes, e.args, strict=True):
            if not self._unify_shapes(shapes[0][:-1], shape[:-1]):
                raise self._mismatch(e.args[0], shapes[0], arg, shape, where)
        return (*shapes[0][:-1], sympy.Add(*(s[-1] for s in shapes)))

    # ------------------------------------------------------------------ messages

    def _mismatch(self, a: Expr, shape_a: Shape, b: Expr, shape_b: Shape, where: str) -> CellError:
        shape_a, shape_b = self._solved(shape_a), self._solved(shape_b)
        hint = (
            "elementwise arithmetic needs equal sizes: declare both with the same size, or lead "
            "one to the other with a matrix product, W @ x"
        )
        if len(shape_a) != len(shape_b):
            small, large = sorted(((len(shape_a), a, shape_a), (len(shape_b), b, shape_b)),
                                  key=lambda s: s[0])  # fmt: skip
            axes = ", ".join(f'"{n}"' for n in large[2])
            hint = f"repeat one along the axes of the other: expand({bound(small[1])}, {axes})"
        return CellError(
            f"{short(a)} gives {_what(shape_a)}{self._origin(shape_a, a)}, but {short(b)} "
            f"gives {_what(shape_b)}{self._origin(shape_b, b)}",
            where=where,
            hint=hint,
        )

    def _origin(self, shape: Shape, expr: Expr) -> str:
        by = self._declared.get(shape[0]) if len(shape) == 1 else None
        return f" (as {by} has)" if by and by != str(expr) else ""

    def _require(self, symbol: Vector | Matrix) -> None:
        base = symbol.base if isinstance(symbol, Matrix) else symbol
        shape = self._solved(self._infer(base, ""))
        for size, term in zip(shape, self._parts_of(base), strict=True):
            if not any(isinstance(s, _Open) for s in size.free_symbols):
                continue
            part = term.name.partition(" ")[2] if isinstance(term, _Open) else "size"
            raise CellError(
                f"the {part} of {symbol} cannot be inferred from the equations",
                hint=f"give it where {symbol.name} is declared, such as "
                + ('shape=("N", "P")' if part.startswith("axis") else f'{part}="H"'),
            )

    def _parts_of(self, symbol: Vector | Matrix) -> Shape:
        if isinstance(symbol, Matrix):
            return self._matrix(symbol)
        return self._declare(symbol.axes, symbol.name)


def units(shape: Shape) -> Expr:
    """The number of units of a shape."""
    return sympy.expand(sympy.Mul(*shape))


def _transposed(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def _is_size(e: Expr) -> bool:
    """Whether ``e`` is a sum of products of sizes with positive whole factors."""
    for term in sympy.Add.make_args(e):
        factor, rest = term.as_coeff_Mul()
        powers = rest.as_powers_dict().values() if rest != 1 else ()
        if not (factor.is_Integer and factor > 0 and all(p.is_Integer and p > 0 for p in powers)):
            return False
    return True


def _text(size: Expr) -> str:
    return "(open)" if any(isinstance(s, _Open) for s in size.free_symbols) else str(size)


def _what(shape: Shape) -> str:
    if len(shape) == 1:
        return f"size {_text(shape[0])}"
    return f"shape ({', '.join(map(_text, shape))})"


def _declaration(shape: Shape) -> str:
    quoted = [_text(n) if n.is_Integer else f'"{_text(n)}"' for n in shape]
    return f"size={quoted[0]}" if len(shape) == 1 else f"shape=({', '.join(quoted)})"
