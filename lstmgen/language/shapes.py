"""Shape inference: the sizes of every vector and matrix, by unification over symbolic sizes.

A declared size is a fixed term; what was left open is a variable. Elementwise arithmetic makes the
sizes of its operands equal, except that a scalar (size 1) broadcasts; a product ``W @ x`` makes W's
columns equal to x's size and has W's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Eq, Expr, Integer

from ..errors import CellError
from .misuse import located, short
from .symbols import Matrix, Product, Reduction, Scan, Size, Vector, named

Term = tuple[str, ...]  # ("=", "H") is fixed; ("?", "W_i", "rows") is a variable
SCALAR: Term = ("=", "1")
ONE = Integer(1)


class Shapes:
    """The solved sizes of one cell's symbols."""

    def __init__(self, equations: Sequence[Eq]) -> None:
        self._bound: dict[Term, Term] = {}
        self._known: dict[Expr, Expr] = {}  # what was asked for before, once all is solved
        self._declared: dict[str, str] = {}  # a fixed size's name -> a declaration that named it
        for number, equation in enumerate(equations, 1):
            self._equation(number, equation)
        self._symbols = sorted(
            {s for e in equations for s in e.atoms(Vector, Matrix)}, key=lambda s: (s.name, str(s))
        )
        for symbol in self._symbols:
            for part in ("rows", "columns") if isinstance(symbol, Matrix) else ("size",):
                self._require(symbol, part)

    # ------------------------------------------------------------------ results

    def size(self, vector: Vector) -> Expr:
        """The number of units of ``vector``."""
        return _expr(self._find(self._vector(vector)))

    def shape(self, parameter: Vector | Matrix) -> tuple[Expr, ...]:
        """(rows, columns) of a matrix, (size,) of a vector."""
        if isinstance(parameter, Matrix):
            base = parameter.base
            return tuple(_expr(self._find(self._side(base, part))) for part in ("rows", "columns"))
        return (self.size(parameter),)

    def of(self, expr: Expr) -> Expr:
        """The number of units of an expression over the cell's symbols."""
        if expr not in self._known:
            self._known[expr] = self._of(expr)
        return self._known[expr]

    def _of(self, expr: Expr) -> Expr:
        if isinstance(expr, (Vector, Product)):
            return _expr(self._infer(expr, ""))
        if isinstance(expr, named):
            return self.of(expr.args[0])
        if isinstance(expr, Reduction) and not isinstance(expr, Scan):
            return ONE
        sizes = {self.of(arg) for arg in expr.args} - {ONE}
        return sizes.pop() if len(sizes) == 1 else _expr(self._infer(expr, "")) if sizes else ONE

    # ------------------------------------------------------------------ terms

    def _vector(self, v: Vector) -> Term:
        return self._declare(v.size, f"{v.name}") if v.size else ("?", v.name, "size")

    def _side(self, m: Matrix, part: str) -> Term:
        if m.transposed:
            m, part = m.base, {"rows": "columns", "columns": "rows"}[part]
        size = m.rows if part == "rows" else m.columns
        return self._declare(size, m.name) if size else ("?", m.name, part)

    def _declare(self, size: str, by: str) -> Term:
        self._declared.setdefault(size, by)
        return ("=", size)

    def _find(self, term: Term) -> Term:
        while term in self._bound:
            term = self._bound[term]
        return term

    def _unify(self, a: Term, b: Term) -> bool:
        a, b = self._find(a), self._find(b)
        if a == b:
            return True
        if a[0] == "?":
            self._bound[a] = b
        elif b[0] == "?":
            self._bound[b] = a
        else:
            return False
        return True

    # ------------------------------------------------------------------ walking

    def _equation(self, number: int, equation: Eq) -> None:
        where = located(number, equation)
        rhs = self._infer(equation.rhs, where)
        lhs = self._vector(equation.lhs)
        if self._find(rhs) != SCALAR and not self._unify(lhs, rhs):
            raise CellError(
                f"the right-hand side gives size {_text(self._find(rhs))}, but {equation.lhs} has "
                f"size {_text(self._find(lhs))}",
                where=where,
                hint=f"declare {equation.lhs.name} with size={_quoted(self._find(rhs))}, or bring "
                "the right-hand side to its size with a matrix product",
            )

    def _infer(self, expr: Expr, where: str) -> Term:
        if isinstance(expr, Vector):
            return self._find(self._vector(expr))
        if isinstance(expr, Product):
            return self._product(expr, where)
        if isinstance(expr, named):
            return self._infer(expr.args[0], where)
        if isinstance(expr, Reduction):
            inner = self._infer(expr.args[0], where)
            return inner if isinstance(expr, Scan) else SCALAR
        return self._elementwise(expr, where)

    def _product(self, product: Product, where: str) -> Term:
        inner = self._infer(product.operand, where)
        columns = self._side(product.matrix, "columns")
        if not self._unify(columns, inner):
            raise CellError(
                f"{short(product)}: {product.matrix} has {_text(self._find(columns))} columns, but "
                f"{short(product.operand)} has size {_text(self._find(inner))}",
                where=where,
                hint=f"a matrix fits one size only: use another for {short(product.operand)}, such "
                "as another member of its family",
            )
        return self._find(self._side(product.matrix, "rows"))

    def _elementwise(self, expr: Expr, where: str) -> Term:
        known: Term = SCALAR
        source: Expr | None = None
        for arg in sorted(expr.args, key=str):
            term = self._find(self._infer(arg, where))
            if term == SCALAR:
                continue
            if source is not None and not self._unify(known, term):
                raise self._mismatch(source, known, arg, term, where)
            known, source = self._find(term), source if source is not None else arg
        return known

    def _mismatch(self, a: Expr, size_a: Term, b: Expr, size_b: Term, where: str) -> CellError:
        size_a, size_b = self._find(size_a), self._find(size_b)
        return CellError(
            f"{short(a)} gives size {_text(size_a)}{self._origin(size_a, a)}, but {short(b)} "
            f"gives size {_text(size_b)}{self._origin(size_b, b)}",
            where=where,
            hint="elementwise arithmetic needs equal sizes: declare both with the same size, or "
            "lead one to the other with a matrix product, W @ x",
        )

    def _origin(self, term: Term, expr: Expr) -> str:
        by = self._declared.get(term[1])
        return f" (as {by} has)" if by and by != str(expr) else ""

    def _require(self, symbol: Vector | Matrix, part: str) -> None:
        term = self._vector(symbol) if isinstance(symbol, Vector) else self._side(symbol, part)
        if self._find(term)[0] == "?":
            raise CellError(
                f"the {part if part != 'size' else 'size'} of {symbol} cannot be inferred from the "
                "equations",
                hint=f'give it where {symbol.name} is declared, such as {part}="H"',
            )


def _expr(term: Term) -> Expr:
    return Integer(term[1]) if term[1].isdigit() else Size(term[1])


def _text(term: Term) -> str:
    return term[1] if term[0] == "=" else "(open)"


def _quoted(term: Term) -> str:
    return term[1] if term[1].isdigit() else f'"{term[1]}"'
