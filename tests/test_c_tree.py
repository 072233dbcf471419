"""The tree of the C target: what it mentions, how it is printed, how names are kept apart."""

from functools import partial

import pytest
import reference
import sympy
from sympy import Eq, Max, Piecewise, Rational

from lstmgen import cells, constants, rsqrt, sigmoid, stop_gradient, tanh, vectors
from lstmgen.language.matrices import Matrix
from lstmgen.language.sizes import Size
from lstmgen.planning.operations import ZERO, B
from lstmgen.printing.orders import Order
from lstmgen.targets.c import runtime
from lstmgen.targets.c.expressions import Expressions
from lstmgen.targets.c.lines import INSIDE, WIDTH
from lstmgen.targets.c.packs import Packed, SummedMatrices, SummedVector
from lstmgen.targets.c.printer import Printer
from lstmgen.targets.c.scopes import Scope
from lstmgen.targets.c.target import Parts
from lstmgen.targets.c.tree import (
    NULL,
    REAL,
    SIZE,
    VEC,
    Address,
    Call,
    Cast,
    Choice,
    Comment,
    Conditions,
    Count,
    Declare,
    Do,
    Element,
    Expression,
    If,
    Junction,
    Kind,
    Literal,
    Loop,
    Member,
    Members,
    Minus,
    Product,
    Relation,
    SizeOf,
    Statement,
    Store,
    Sum,
    Variable,
    live,
    names_in,
    product,
    shifted,
    sizes_in,
    together,
    vec,
    walk,
)
from lstmgen.targets.c.vocabulary import body_words, file_words

H, D = Size("H"), Size("D")
a, b, c = (Variable(name, "vec") for name in "abc")
p, j = Variable("p"), Variable("j", "size")
printer = Printer(lambda e: str(e))


# --------------------------------------------------------------------------- printing


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (Sum((a, Sum((b, c), "+-")), "+-"), "a - (b - c)"),
        (Sum((a, b), "-+"), "-a + b"),
        (Sum((a, Minus(b)), "++"), "a + (-b)"),
        (Sum((Literal("-0.5f", "number"), b), "-+"), "-(-0.5f) + b"),
        (Sum((a, product(b, c)), "+-"), "a - b * c"),
        (product(Sum((a, b), "++"), c), "(a + b) * c"),
        (product(a, Product((b, c), "*/")), "a * (b / c)"),
        (Product((a, product(b, c)), "*/"), "a / (b * c)"),
        (Minus(product(a, b)), "-a * b"),
        (Minus(Sum((a, b), "++")), "-(a + b)"),
        (Relation(a, "<", Sum((b, c), "++")), "(mask)(a < b + c)"),
        (Relation(j, "<", Count(H), "size"), "j < H"),
        (Junction((Relation(b, ">", c), Relation(a, "<", b)), "&"),
         "((mask)(a < b) & (mask)(b > c))"),
        (Cast(REAL, Count(D + H)), "(real)(D + H)"),
        (Minus(Cast(REAL, Literal("INFINITY"))), "-(real)INFINITY"),
        (Call("larger", (a, Sum((b, c), "+-"))), "larger(a, b - c)"),
        (Element(p, Sum((j, Literal("1")), "++")), "p[j + 1]"),
        (Element(shifted(p, Count(H)), j), "(p + H)[j]"),
        (Cast(Kind("vec", True, "*"), shifted(p, Count(H))), "(const vec *)(p + H)"),
        (Element(Cast(Kind("vec", False, "*"), p), j), "((vec *)p)[j]"),
        (Sum((a, Count(D + H)), "+-"), "a - (D + H)"),
        (Product((a, Count(2 * H)), "*/"), "a / (2*H)"),
        (product(Count(B), Count(2 * H)), "B * 2*H"),
        (Cast(REAL, Count(2 * H)), "(real)(2*H)"),
        (product(Relation(j, "<", Count(H), "size"), a), "(j < H) * a"),
        (Call("none", ()), "none()"),
        (Choice(Relation(j, "<", Count(H), "size"), p, NULL), "j < H ? p : NULL"),
        (shifted(p, Choice(j, Count(H), Count(D))), "p + (j ? H : D)"),
        (Conditions((Conditions((a, b), "||"), Relation(a, "<", b, "size")), "&&"),
         "(a || b) && a < b"),
        (Choice(Choice(a, b, c), Conditions((a, b), "&&"), c), "(a ? b : c) ? a && b : c"),
        (product(Sum((a, b), "+-"), SizeOf(REAL)), "(a - b) * sizeof(real)"),
        (Address(Member(Variable("at", "struct"), "total")), "&at.total"),
        (Members(("total", "a"), (Literal("0"), Sum((j, j), "++"))), "{.total = 0, .a = j + j}"),
        (Member(p, "W_i"), "p->W_i"),
        (Member(Variable("at", "struct"), "total"), "at.total"),
        (shifted(p, product(j, Count(D + H)), Count(2 * H)), "p + j * (D + H) + 2*H"),
        (shifted(p, Count(ZERO)), "p"),
    ],
)  # fmt: skip
def test_brackets_are_where_c_needs_them(tree: Expression, text: str) -> None:
    assert printer.text(tree) == text


def test_statements() -> None:
    made = [
        Comment("a sum"),
        Declare(VEC, a, vec(Literal("0", "number"))),
        Declare(Kind("real", True, "*const "), p, Call("rows_of", (a,), "pointer")),
        Loop(j, Call("vecs", (Count(H),), "size"), (Store(a, Element(p, j), "+="),)),
        Loop(j, Count(H), (Do(Call("each", (j,))),), backwards=True),
        If(Relation(p, "!=", Literal("NULL"), "size"), (Store(Element(p, j), a),)),
    ]
    assert printer.lines(made) == [
        "/* a sum */",
        "vec a = splat(0);",
        "const real *const p = rows_of(a);",
        "for (size_t j = 0; j < vecs(H); ++j) {",
        "    a += p[j];",
        "}",
        "for (size_t j = H; j-- > 0;) {",
        "    each(j);",
        "}",
        "if (p != NULL) {",
        "    p[j] = a;",
        "}",
    ]


def test_lines_are_broken_where_least_is_torn_apart() -> None:
    """Before a term rather than a factor, and outside of brackets rather than within."""
    long = Variable("quite_a_long_name_for_a_vector", "vec")
    value = Sum((product(long, a, b, c), product(Sum((long, b), "++"), c)), "+-")
    assert printer.lines([Store(a, value)], indent=12) == [
        "a = quite_a_long_name_for_a_vector * a * b * c",
        "    - (quite_a_long_name_for_a_vector + b) * c;",
    ]
    nested = Call("larger", (Call("larger", (long, long)), Call("larger", (long, long))))
    for line in printer.lines([Store(a, Sum((nested, nested, nested), "+++"))]):
        assert len(line) <= INSIDE


def test_declarations_of_one_kind_are_one() -> None:
    pointer = Kind("real", False, "*const ")
    made = together([
        Declare(pointer, p, Variable("work")),
        Declare(pointer, Variable("q"), Variable("work")),
        Declare(REAL, a, b),
        Declare(pointer, c, p),
    ])  # fmt: skip
    assert printer.lines(made) == [
        "real *const p = work, *const q = work;",
        "real a = b;",
        "real *const c = p;",
    ]


def test_statements_with_what_they_are_about() -> None:
    """Beside them, where all fit into a line so."""
    store = Store(Element(p, j), a)

    def inside(about: str, *others: Statement) -> list[str]:
        body = (Comment("a"), store, Comment(about), store, *others)
        return printer.lines([Loop(j, Count(H), body)])[1:-1]

    assert inside("b") == ["    p[j] = a; /* a */", "    p[j] = a; /* b */"]
    apart = ["    /* a */", "    p[j] = a;", "    /* b */", "    p[j] = a;", "    p[j] = a;"]
    assert inside("b", store) == apart
    fitting = "b" * (WIDTH - 8 - len("p[j] = a; /*  */"))
    assert inside(fitting)[1] == f"    p[j] = a; /* {fitting} */"
    assert inside(f"{fitting}b")[0] == "    /* a */"


def test_names_of_the_runtime_are_those_of_a_type() -> None:
    typed = Printer(str, partial(runtime.name, dtype="float32"))
    value = Cast(Kind("vec", True, "*"), Call("tanh", (Call("lstm_step", (a,)),)), "pointer")
    made = [Declare(Kind("real", True), a, value), Do(Call("size_times", (SizeOf(REAL),)))]
    assert typed.lines(made) == [
        "const float a = (const vec_f32 *)tanh_f32(lstm_step(a));",
        "size_times(sizeof(float));",
    ]
    assert typed.text(Relation(a, "<", b)) == "(mask_f32)(a < b)"


# --------------------------------------------------------------------------- what a tree mentions


def test_what_a_tree_mentions() -> None:
    body = Loop(j, Call("vecs", (Count(H),), "size"), (Store(Element(p, j), Call("exp", (a,))),))
    assert names_in([body]) == {"j", "p", "a"}
    assert sizes_in([body, Count(B * D)]) == {H, B, D}
    assert {call.function for call in walk([body], Call)} == {"vecs", "exp"}


def test_what_packed_parameters_are_made_of_is_not_part_of_what_reads_them() -> None:
    fill = Do(Call("pad", (Variable("source"), Count(D))))
    packed = Packed("b_packed", about="b", count=H, fill=(fill,))
    read = Do(Call("multiply", (packed,)))
    assert names_in([read]) == {"b_packed"} and not sizes_in([read])
    assert list(walk([read], Packed)) == [packed]


def test_declarations_that_others_need_are_kept() -> None:
    first = Declare(REAL, Variable("first"), p)
    second = Declare(REAL, Variable("second"), shifted(Variable("first"), j))
    third = Declare(REAL, Variable("third"), p)
    assert live([first, second, third], [Store(a, Element(Variable("second"), j))]) == [
        first, second,
    ]  # fmt: skip
    assert live([first, second, third], []) == []
    rows = Declare(SIZE, Variable("B"), j)
    assert live([rows], [Store(a, Count(2 * B))]) == [rows], "counts mention it, too"


# --------------------------------------------------------------------------- expressions

x, y, z = vectors("x y z")
k = constants("k")


def expression(e: sympy.Expr, single: bool = False) -> Expression:
    """``e`` as C, where a vector is called by its name, and a constant is a member of p."""

    def reference(v: sympy.Symbol) -> Expression:
        return Member(p, v.name, "number") if v == k else Variable(v.name, "vec")

    order = Order(cells.get("rnn"), [Eq(z, x + y)])
    return Expressions(order, "float32").vector(e, reference, single)


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (k, "splat(p->k)"),
        (k + 1, "splat(1.0f + p->k)"),
        (k * x, "p->k * x"),
        (tanh(k), "tanh(splat(p->k))"),
        (x - 2 * y, "x - 2.0f * y"),
        (-x * y, "-x * y"),
        (x**2 / y, "x * x / y"),
        (x / y**2, "x / (y * y)"),
        ((x + y) ** 2, "square(x + y)"),
        (x * stop_gradient(y + z), "x * (z + y)"),
        (x * rsqrt(y), "x / each_sqrt(y)"),
        (rsqrt(x) + rsqrt(y), "1.0f / each_sqrt(x) + 1.0f / each_sqrt(y)"),
        (Rational(1, 3) * Max(x, y), "larger(x, y) / 3.0f"),
        (Piecewise((x, x > 0), (y, True)), "choose((mask)(x > splat(0.0f)), x, y)"),
        (sigmoid(-x), "sigmoid(-x)"),
    ],
)
def test_expressions(e: sympy.Expr, text: str) -> None:
    assert printer.text(expression(e)) == text


def test_types_of_expressions() -> None:
    assert expression(x + k).type == "vec"
    assert expression(k + 1) == vec(expression(k + 1).arguments[0])  # type: ignore[attr-defined]
    assert {part.type for part in walk([expression(k * x)], Variable)} == {"vec", "pointer"}


def test_functions_of_one_unit_are_computed_once() -> None:
    for single, names in ((False, {"each_sin", "each_sqrt"}), (True, {"one_sin", "one_rsqrt"})):
        made = expression(sympy.sin(x) + rsqrt(y), single=single)
        assert {call.function for call in walk([made], Call)} == names


# --------------------------------------------------------------------------- names


def test_names_of_a_scope() -> None:
    outer = Scope(taken={"for"})
    inner, sibling = Scope(outer), Scope(outer)
    assert outer("key", "for") == "for_" == outer("key", "another wish")
    assert outer("h", "h") == "h"
    assert inner("own", "h") == "h_", "it is seen from around"
    assert inner("c", "c") == sibling("c", "c") == "c", "neither sees the other"
    assert outer("late", "c") == "c_", "it would be hidden within"


def test_words_of_templates_are_taken() -> None:
    file = file_words("lstm")
    assert {"vec_f32", "multiply_f64", "size_times", "slice_run", "each_sin_f32"} <= file
    assert {"for", "exp", "expf", "lstm_params", "lstm_tape_layout", "lstm_forward_parts"} <= file
    assert {"lstm_forward_rows", "lstm_step", "lstm_tape_size", "lstm_params_given"} <= file
    assert not {"q", "rounder", "power", "multiply"} & file, "nobody sees those of the runtime"
    assert {"t0", "steps", "most", "last", "begun", "call", "slice"} <= body_words("lstm")


# --------------------------------------------------------------------------- lowering


@pytest.mark.parametrize("name", reference.NAMES)
def test_lowering_again_gives_the_same_tree(name: str) -> None:
    """It only makes trees: names stay what they are, and nothing is counted twice."""
    parts = Parts(cells.get(name), "float32", {})
    for direction in (parts.forward, parts.backward):
        before = direction.packed, direction.summed
        assert direction.lowered() == direction.sections
        assert (direction.packed, direction.summed) == before


@pytest.mark.parametrize("name", reference.NAMES)
def test_what_passes_mention_is_packed_or_summed(name: str) -> None:
    """Each packed parameter is filled by calls that mention it, each gradient sums something."""
    parts = Parts(cells.get(name), "float64", {})
    for direction in (parts.forward, parts.backward):
        assert direction.packs or direction.name == "backward"
        for pack in direction.packs:
            assert pack.fill and all(pack.name in names_in([call]) for call in pack.fill)
    summed = {made.name for made in parts.backward.sums}
    assert summed and not parts.forward.sums
    matrices = [made for made in parts.backward.sums if isinstance(made, SummedMatrices)]
    vectors = [made for made in parts.backward.sums if isinstance(made, SummedVector)]
    of_heads = {made.parameter.name for made in vectors if isinstance(made.parameter, Matrix)}
    assert {m.name for made in matrices for m, _, _ in made.pieces} | of_heads == {
        m.name for m in parts.cell.parameters if isinstance(m, Matrix)
    }
