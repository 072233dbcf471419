"""The program tree of the NumPy target: what is bound where, what it is called, how it is printed;
and that neither names of a cell nor templates can go wrong.
"""

from __future__ import annotations

import ast
import builtins
import keyword
from pathlib import Path

import numpy as np
import pytest
import reference
from jinja2 import Environment, nodes
from sympy import Eq

import lstmgen
from lstmgen import Cell, biases, inputs, masks, sigmoid, softplus, states, tanh, vectors, weights
from lstmgen.targets.numpy import tree
from lstmgen.targets.numpy.analysis import Usage, stack_names
from lstmgen.targets.numpy.parameters import Parameters
from lstmgen.targets.numpy.printer import lines
from lstmgen.targets.numpy.tree import (
    ALL,
    ELLIPSIS,
    Argument,
    Binary,
    Declare,
    Equation,
    Function,
    Global,
    Into,
    Kind,
    Literal,
    Local,
    Return,
    Span,
    TimeLoop,
    bind,
    call,
    empty,
    item,
    number,
    size,
)

HOME = Path(lstmgen.__file__).parents[1]
X = Argument("x")


def printed(*body: tree.Node) -> list[str]:
    return lines(Usage(Function("f", body)), {})


def view(name: str, *index: tree.Node, of: tree.Node = X, kind: Kind = Kind.VIEW) -> Local:
    return Local(name, name, kind, item(of, *index))


# --------------------------------------------------------------------------- bindings


def test_a_binding_is_printed_if_it_is_used_and_after_what_it_is_made_from():
    base = view("base", number(0))
    part = view("part", ALL, number(1), of=base)
    unused = view("unused", number(2))
    assert printed(
        Declare((Kind.VIEW,)),
        Equation(("a remark",), (unused, part), (Return((part,)),)),
    ) == ["base = x[0]", "part = base[:, 1]", "# a remark", "return part"]


def test_a_variable_that_a_statement_binds_is_not_bound_again_nor_what_it_was_made_from():
    base = view("base", number(0))
    part = view("part", number(1), of=base)
    bound = (Declare((Kind.VIEW,)), bind(part, X), Return((part,)))
    assert printed(*bound) == ["part = x", "return part"]


def test_bindings_come_first_where_they_are_asked_to():
    a, b, c = (view(name, number(k)) for k, name in enumerate("abc"))
    found = printed(Declare((Kind.VIEW,), (c, b)), Return((a, c)))
    assert found == ["c = x[2]", "a = x[0]", "return a, c"]


def test_scratch_of_one_shape_is_made_at_once():
    rows = [Local(n, n, Kind.SCRATCH, empty(size("B"), number(3))) for n in ("s1", "s2")]
    other = Local("u", "u", Kind.SCRATCH, empty(size("B")))
    found = printed(Declare((Kind.SCRATCH,)), Return((rows[0], other, rows[1])))
    assert found == [
        "s1, s2 = np.empty((2, B, 3), dtype)", "u = np.empty((B,), dtype)", "return s1, u, s2"
    ]  # fmt: skip


def test_the_loop_over_steps_binds_what_its_body_reads():
    count = Local("count", "count")
    h, a = (view(f"{n}_all", number(k), kind=Kind.BLOCK) for k, n in enumerate("ha"))
    h_t, a_t = (Local(n, n, Kind.STEP, v) for n, v in (("h", h), ("a", a)))
    copy = Equation((), (a_t, h_t), (Into(tree.np("tanh"), (h_t,), h_t),))
    found = printed(Declare((Kind.BLOCK,)), TimeLoop(count, True, (copy,)))
    assert found == ["h_all = x[0]", "", "for h in h_all[::-1]:", "    np.tanh(h, out=h)"]
    nothing = printed(TimeLoop(count, False, (bind(X, X),)))
    assert nothing[1] == "for _ in range(count):"


# --------------------------------------------------------------------------- names


def test_names_are_neither_arguments_nor_globals_in_use_nor_words_of_python():
    taken = [view(name, number(0)) for name in ("x", "np", "zip", "del", "min")]
    twice = [Local((name, 2), name, Kind.VIEW, item(X, number(1))) for name in ("min", "zip")]
    total = call(tree.np("add"), *taken, *twice, call(Global("zip")))
    usage = Usage(Function("f", (Declare((Kind.VIEW,)), Return((total,)))))
    assert [usage.names[v] for v in taken] == ["x_", "np_", "zip_", "del_", "min"]
    assert [usage.names[v] for v in twice] == ["min_", "zip__"]


def test_what_statements_bind_has_the_name_that_it_wants():
    count = view("count", number(0))
    frame = Local("frame", "count")
    usage = Usage(Function("f", (Return((count,)), bind(frame, X))))
    assert usage.names == {frame: "count", count: "count_"}


def test_a_name_may_follow_another_one():
    first, second = view("s", number(0)), Local("other", "s", Kind.VIEW, X)
    memory = Local("m", "{}_memory", Kind.SCRATCH, empty(number(1)), beside=second)
    usage = Usage(Function("f", (Return((first, second, memory)),)))
    assert usage.names[memory] == "s__memory"


def test_stacks_have_names_that_no_parameter_has():
    x, h, W = inputs("x"), states("h"), weights("W")
    other = lstmgen.matrix("W_", columns="D")
    cell = Cell("c", [Eq(h.next, tanh(W.a @ x + W.b @ x + other @ x + W.c @ h))], output=h)
    stack = Parameters(lstmgen.plan(cell)).stack([W.a, W.b])
    assert stack.wish == "W_ab"
    usage = Usage(Function("f", (Return((stack,)),)))
    assert stack_names([usage], ["W_ab"]) == {stack: "W_ab_"}


# --------------------------------------------------------------------------- layout


def test_a_call_is_done_in_place_where_that_says_the_same():
    a, b = Argument("a"), Argument("b")
    cases = [
        ("add", (a, b), "a += b"), ("add", (b, a), "a += b"), ("subtract", (a, b), "a -= b"),
        ("subtract", (b, a), "np.subtract(b, a, out=a)"),
        ("maximum", (a, b), "np.maximum(a, b, out=a)"),
    ]  # fmt: skip
    for function, arguments, line in cases:
        assert printed(Into(tree.np(function), arguments, a)) == [line]


def test_indices_and_spans():
    long = Binary(number(2), "*", Argument("n"))
    for index, shown in (
        ((ELLIPSIS, Span(number(1))), "x[..., 1:]"), ((Span(stop=long),), "x[: 2 * n]"),
        ((ALL, tree.TURNED), "x[:, ::-1]"), ((Literal("h"),), 'x["h"]'),
    ):  # fmt: skip
        assert printed(Return((item(X, *index),))) == [f"return {shown}"]


def test_long_lists_are_broken_between_their_items():
    entries = tuple((f"key{k}", item(X, ALL, number(k))) for k in range(12))
    found = printed(Return((tree.Dict(entries),)))
    assert found[0] == "return {" and found[-1] == "}" and len(found) > 3
    assert all(line.endswith("],") for line in found[1:-1])
    assert ast.literal_eval("".join(found)[7:].replace("x[:, ", "[")) == {
        f"key{k}": [k] for k in range(12)
    }


# --------------------------------------------------------------------------- whole modules


def a_cell(names: list[str]) -> Cell:
    """A cell of two states, with everything named: input, states, gates."""
    x, h, c = inputs(names[0]), states(names[1]), states(names[2])
    i, f, g = (vectors(name) for name in names[3:6])
    keep = masks(names[6])
    W, U, b = weights("W"), weights("U"), biases("b")
    return Cell(
        "named",
        [
            Eq(i, sigmoid(W.i @ x + U.i @ h + b.i)),
            Eq(f, sigmoid(W.f @ x + U.f @ h + b.f)),
            Eq(g, tanh(W.g @ x + U.g @ (i * h) + b.g)),
            Eq(c.next, f * c + i * g * keep),
            Eq(h.next, i * tanh(c.next) + softplus(g)),
        ],
        output=h,
    )


PLAIN = ["x", "h", "c", "i", "f", "g", "m"]


def identifiers(code: str) -> list[str]:
    """All names in a module: its own, those of its variables, of Python, and of modules."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        found |= {getattr(node, field, None) for field in ("id", "arg", "name", "attr")}
    found |= {name for name in dir(builtins) if name.islower()} - {None}
    return sorted(n for n in found if n and n.isidentifier() and not keyword.iskeyword(n))


def outcome(names: list[str]) -> list[np.ndarray]:
    """All that a cell's module computes, whatever its symbols are called."""
    module = lstmgen.compile(a_cell(names), "numpy")
    rng = np.random.default_rng(0)
    params = module.init(3, 4, dtype=np.float64)
    x, keep = rng.normal(size=(5, 2, 3)), rng.normal(size=(5, 2, 4))
    y, state, tape = module.forward(params, x, masks={names[6]: keep})
    grads, dx, dstate = module.backward(params, tape, np.ones_like(y), state)
    after = module.step(params, x[0], state, masks={names[6]: keep[0]})
    results = [y, dx, *grads.values()]
    return [*results, *(s[n] for s in (state, dstate, after) for n in names[1:3])]


def test_symbols_may_have_any_name_of_the_module():
    (code,) = lstmgen.generate(a_cell(PLAIN), "numpy").values()
    words = []
    for word in identifiers(code):
        try:
            vectors(word), a_cell([*PLAIN[:5], word, "m"])
        except lstmgen.CellError:  # no name for a symbol, or one of this cell's own
            continue
        words.append(word)
    assert {"np", "params", "h_seq", "count", "minus", "dtype", "zip", "S1_memory"} <= set(words)
    expected = outcome(PLAIN)
    words += words[: -len(words) % 7]
    for k in range(0, len(words), 7):
        chosen = words[k : k + 7]
        for result, right in zip(outcome(chosen), expected, strict=True):
            np.testing.assert_array_equal(result, right, err_msg=str(chosen))


@pytest.mark.parametrize("name", ["x", "np", "count", "range", "zip", "block", "h_seq", "sizes"])
def test_sizes_may_have_any_name_of_the_module(name):
    results = []
    for units in (name, "N"):
        u, h, W, b = inputs("u"), states("h", size=units), weights("W"), biases("b")
        cell = Cell("sized", [Eq(h.next, tanh(W.a @ u + W.b @ h + b.h))], output=h)
        module = lstmgen.compile(cell, "numpy")
        params = module.init(3, 4, dtype=np.float64)
        y, state, tape = module.forward(params, np.ones((4, 2, 3)))
        grads, dx, dstate = module.backward(params, tape, y)
        step = module.step(params, np.ones((2, 3)), state)
        results.append([y, dx, *grads.values(), *dstate.values(), *step.values()])
    for result, right in zip(*results, strict=True):
        np.testing.assert_array_equal(result, right)


@pytest.mark.parametrize("name", reference.NAMES)
def test_every_variable_of_a_reference_cell_is_read(name):
    """A binding that nothing reads would be dead code."""
    (code,) = lstmgen.generate(lstmgen.cells.get(name), "numpy").values()
    functions = [f for f in ast.parse(code).body if isinstance(f, ast.FunctionDef)]
    for function in (f for f in functions if f.name in ("forward", "backward")):
        found = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
        updated = [n.target for n in ast.walk(function) if isinstance(n, ast.AugAssign)]  # in place
        read = {n.id for n in found if isinstance(n.ctx, ast.Load) or n in updated}
        written = {n.id for n in found if isinstance(n.ctx, ast.Store)}
        sizes = {"T", "B", *lstmgen.cells.get(name).sizes}
        assert written - read <= {str(n) for n in sizes} | {"start", "x"}


# --------------------------------------------------------------------------- how it is built


def test_templates_place_text_and_decide_nothing():
    """No condition within another one, no conditional expression, no arithmetic."""
    arithmetic = (nodes.BinExpr, nodes.UnaryExpr, nodes.CondExpr, nodes.Concat)
    for path in (HOME / "templates" / "numpy").iterdir():
        parsed = Environment().parse(path.read_text(encoding="utf-8"))
        assert not list(parsed.find_all(arithmetic)), path
        for condition in parsed.find_all(nodes.If):
            assert not [n for part in condition.body for n in part.find_all(nodes.If)], path


def test_no_regular_expression_reads_generated_code():
    for path in (HOME / "lstmgen" / "targets" / "numpy").glob("*.py"):
        imports = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.Import)]
        assert "re" not in {alias.name for n in imports for alias in n.names}, path
