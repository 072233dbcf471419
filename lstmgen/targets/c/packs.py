"""Parameters that are packed for a pass, and the sums of their gradients.

What a statement mentions of either is a variable that knows what it stands for: so a walk over the
statements of a pass finds all that has to be packed before it, and brought home after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sympy import Expr

from ...language.matrices import Matrix
from ...language.shapes import units
from ...language.symbols import Vector
from ...planning.operations import ZERO, flat_shape
from ..naming import identifier
from .places import Places
from .source import Source
from .tree import (
    NIL,
    NULL,
    ONE,
    Count,
    Do,
    Expression,
    Loop,
    Member,
    Node,
    Statement,
    Variable,
    do,
    product,
    shifted,
    walk,
)
from .vocabulary import HEAD, THREADS, P


@dataclass(frozen=True)
class Packed(Variable):
    """Packed parameters: how many numbers they are, and the statements that fill them.

    ``is_matrix`` tells those that are multiplied from those that sums begin with.
    """

    about: str = field(kw_only=True)
    count: Expr = field(kw_only=True)
    fill: tuple[Statement, ...] = field(kw_only=True)
    is_matrix: bool = field(kw_only=True, default=False)

    @property
    def parts(self) -> Iterator[Node]:
        return iter(())  # they are filled elsewhere


def packs_in(statements: Iterable[Statement]) -> list[Packed]:
    """What has to be packed for these statements, in the order in which it is first needed: what
    a product begins with, then what it adds.
    """
    found: dict[str, Packed] = {}
    for statement in statements:
        for pack in sorted(walk([statement], Packed), key=lambda pack: pack.is_matrix):
            found.setdefault(pack.name, pack)
    return list(found.values())


class Packs:
    """Makes the packed parameters of one pass."""

    def __init__(self, source: Source, places: Places, name: str) -> None:
        self._source, self._sizes, self._places = source, source.sizes, places
        self._name = name

    def columns(self, outs: Sequence[Vector], matrices: Sequence[Matrix]) -> Packed:
        """Stacked matrices, transposed: a row of memory for each unit of the operand."""
        names = [m.name for m in matrices]
        starts, width, room = self._places.columns(outs)
        name = self._named(("columns", *names, str(starts)), f"{families(names)}_packed")
        inner = flat_shape(self._source.cell, matrices[0])[1]
        fill = []
        for m, start, end in zip(matrices, starts, [*starts[1:], width], strict=True):
            rows, columns = flat_shape(self._source.cell, m)
            items = [THREADS, Count(rows), Count(columns), self._array(m), Variable(name),
                     Count(start), Count(end), Count(width)]  # fmt: skip
            fill.append(do("pack_transposed", *items))
        about = f"{' '.join(names)}, transposed"
        return Packed(name, about=about, count=inner * room, fill=tuple(fill), is_matrix=True)

    def rows(self, matrices: Sequence[Matrix]) -> Packed:
        """Matrices as they are, stacked."""
        names = [m.name for m in matrices]
        name = self._named(("rows", *names), f"{families(names)}_rows")
        shapes = [flat_shape(self._source.cell, m) for m in matrices]
        inner = sum((rows for rows, _ in shapes), ZERO)
        fill, start = [], ZERO
        for m, (rows, columns) in zip(matrices, shapes, strict=True):
            items = [THREADS, Count(rows), Count(columns), self._array(m), Variable(name),
                     Count(start), Count(inner)]  # fmt: skip
            fill.append(do("pack_rows", *items))
            start += rows
        about = f"{' '.join(names)}, stacked"
        count = inner * self._sizes.padded(shapes[0][1])
        return Packed(name, about=about, count=count, fill=tuple(fill), is_matrix=True)

    def heads(self, m: Matrix) -> tuple[Packed, Expr]:
        """A matrix for each head, one after the other, and how far apart they are."""
        *front, rows, columns = self._source.cell.shape(m)
        many, entries = units(tuple(front)), rows * columns
        way = "rows" if m.transposed else "transposed"
        name = self._named(
            ("heads", way, m.name), f"{m.name}_{'rows' if m.transposed else 'packed'}"
        )
        room = rows * self._sizes.padded(columns)
        if not m.transposed:
            room = columns * self._sizes.padded(rows)
        at = (shifted(self._array(m), product(HEAD, Count(entries))),
              shifted(Variable(name), product(HEAD, Count(room))))  # fmt: skip
        shape = Count(rows), Count(columns)
        if m.transposed:
            packing = do("pack_head", *shape, *at)
        else:
            packing = do("pack_transposed", ONE, *shape, *at, NIL, Count(rows), Count(rows))
        fill = Loop(HEAD, Count(many), (packing,))
        about = f"{m.name} of each head, {'as it is' if m.transposed else 'transposed'}"
        pack = Packed(name, about=about, count=many * room, fill=(fill,), is_matrix=True)
        return pack, room

    def start(self, outs: Sequence[Vector], biases: Sequence[Vector | None]) -> Expression:
        """What stacked sums begin with: their biases side by side, NULL if there are none."""
        if not any(biases):
            return NULL
        if len(biases) == 1:
            return self.bias(biases[0])
        names = ["0" if b is None else b.name for b in biases]
        starts, _, room = self._places.columns(outs)
        learned = [n for n in names if n != "0"]
        name = self._named(("start", *names, str(starts)), f"{families(learned)}_packed")
        fill = []
        for out, bias, start, end in zip(outs, biases, starts, [*starts[1:], room], strict=True):
            value = NULL if bias is None else self._array(bias)
            items = [Count(self._sizes.of(out)), value, Variable(name), Count(start), Count(end)]
            fill.append(do("pad", *items))
        about = f"{' '.join(names)}, side by side"
        return Packed(name, about=about, count=room, fill=tuple(fill))

    def bias(self, bias: Vector | None) -> Expression:
        """What a sum begins with: a learned vector, NULL if there is none."""
        return NULL if bias is None else self.vector(bias)

    def vector(self, v: Vector) -> Packed:
        """A learned vector, padded; or the room of what is made of parameters, or of its adjoint,
        which nothing is copied to.
        """
        room = self._sizes.room_of(v)
        if v.category != "parameter":
            name = self._named((v.category, v.name), identifier(v))
            return Packed(name, about=self._source.text(v), count=room, fill=())
        name = self._named(("vector", v.name), f"{v.name}_packed")
        items = [Count(self._sizes.of(v)), Member(P, v.name), Variable(name), NIL, Count(room)]
        return Packed(name, about=v.name, count=room, fill=(do("pad", *items),))

    def _array(self, p: Matrix | Vector) -> Expression:
        """Where the entries of ``p`` are: the caller's, or made of parameters."""
        made = self._source.plan.made.get(p.name)
        return Member(P, p.name) if made is None else Variable(self.vector(made).name)

    def _named(self, key: tuple[str, ...], wish: str) -> str:
        return self._source.names((self._name, *key), wish)


# --------------------------------------------------------------------------- gradients


@dataclass(frozen=True)
class Summed(Variable):
    """The sum of the gradient of a learned vector, over all rows that a pass works on."""

    about: str = field(kw_only=True)
    count: Expr = field(kw_only=True)

    @property
    def parts(self) -> Iterator[Node]:
        return iter(())  # it is brought home elsewhere

    @property
    def is_zeroed(self) -> bool:
        """Whether it begins with zeros; else the first tile of steps begins it."""
        return True


@dataclass(frozen=True)
class SummedVector(Summed):
    """That of a learned vector, or of matrices of heads, in the order of their entries."""

    parameter: Vector | Matrix = field(kw_only=True)
    units: Expr = field(kw_only=True)


@dataclass(frozen=True)
class SummedMatrices(Summed):
    """Those of matrices side by side, transposed.

    ``width`` is the room for all of them, ``pieces`` are the matrices, with the rows that each has,
    and where it begins.
    """

    pieces: tuple[tuple[Matrix, Expr, Expr], ...] = field(kw_only=True)
    height: Expr = field(kw_only=True)
    width: Expr = field(kw_only=True)

    @property
    def is_zeroed(self) -> bool:
        return False


def sums_in(statements: Iterable[Statement]) -> list[Summed]:
    """What these statements sum up, in the order in which they first do."""
    found: dict[str, Summed] = {}
    for made in walk(statements, Summed):
        found.setdefault(made.name, made)
    return list(found.values())


def brought_home(
    sums: Iterable[Summed], home_of: Callable[[Matrix | Vector], tuple[Expression, Expression]]
) -> tuple[list[Do], set[Matrix | Vector]]:
    """The statements that bring sums of a slice of the batch to where ``home_of`` says, which also
    says whether these have begun; and the parameters whose gradient is begun by that, instead of
    added to zeros.
    """
    home: list[Do] = []
    begun: set[Matrix | Vector] = set()

    def place(p: Matrix | Vector) -> tuple[Expression, Expression]:
        """Where it goes, and whether that has begun: a matrix may have sums of both kinds."""
        to, has_begun = home_of(p)
        is_begun = ONE if p in begun else has_begun
        begun.add(p)
        return to, is_begun

    for made in sums:
        here = Variable(made.name)
        if isinstance(made, SummedVector):
            to, is_begun = place(made.parameter)
            home.append(do("add", Count(made.units), here, is_begun, to))
        if isinstance(made, SummedMatrices):
            for p, rows, start in made.pieces:
                to, is_begun = place(p)
                items = [THREADS, Count(rows), Count(made.height), here, Count(start),
                         Count(made.width), is_begun, to]  # fmt: skip
                home.append(do("unpack_transposed", *items))
    return home, begun


def families(names: Sequence[str]) -> str:
    """``W`` for W_i W_f …, ``Wb`` for W_i b_i; a name alone stays what it is."""
    if len(names) == 1:
        return names[0]
    return "".join(dict.fromkeys(name.partition("_")[0] for name in names))
