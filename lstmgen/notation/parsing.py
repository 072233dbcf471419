"""From items to trees, by lark: an equation, or the value of a header line."""

from __future__ import annotations

import functools
import json
import math
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..errors import CellError, ToolchainError
from .layout import DEEPEST, Item, foreign
from .places import Text
from .tree import Axes, Equation, Node, text_of

if TYPE_CHECKING:
    from lark import Lark

Quantity = tuple[str, "Axes | None", int, int]
Started = tuple[str, object, int, int]

_LONGEST_NUMBER = 400  # digits; a double has no more than 309 before the point
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def missing_lark() -> ToolchainError:
    """The error where lark is not installed."""
    return ToolchainError(
        "reading a cell from text needs lark, which is not installed\n"
        "  hint: pip install 'lstmgen[text]'"
    )


@functools.cache
def _parser() -> Lark:
    """The parser; it acts on a piece as soon as that is complete, and so has no depth."""
    try:
        from lark import Lark
    except ImportError as error:
        raise missing_lark() from error
    grammar = resources.files(__package__).joinpath("grammar.lark").read_text(encoding="utf-8")
    rules = ["equation", "quantities", "starts", "roles"]
    return Lark(
        grammar, parser="lalr", start=rules, maybe_placeholders=True, transformer=_Maker(),
        propagate_positions=False,
    )  # fmt: skip


def equations(text: Text, item: Item) -> list[Equation]:
    """The equation of an item; several, where several names are on the left of one split(…)."""
    targets, value = _parsed(text, item, "equation")
    for target in targets:
        if target.kind == "attribute" and target.word != "next":
            raise text.error(
                f"{text_of(target)} cannot be defined", target.start, target.end,
                "an equation defines a name, such as f, or what leaves the step, as in h.next",
            )  # fmt: skip
    if len(targets) == 1:
        return [Equation(targets[0], value)]
    if value.kind != "call" or value.word != "split":
        raise text.error(
            "several names are defined by split(…) only", targets[1].start, targets[1].end,
            "write an equation for each",
        )  # fmt: skip
    at = value.start, value.end
    return [Equation(t, Node("index", (str(k),), (value,), *at)) for k, t in enumerate(targets)]


def quantities(text: Text, item: Item) -> list[Quantity]:
    """Names with their axes, where these are given, and with their place."""
    found: list[Quantity] = _parsed(text, item, "quantities")
    return found


def starts(text: Text, item: Item) -> list[Started]:
    """Names with a number, or a tuple of a word and numbers; None where there is neither."""
    found: list[Started] = _parsed(text, item, "starts")
    return found


def roles(text: Text, item: Item) -> list[tuple[str, str, int, int]]:
    """Names with what they are called, and with their place."""
    found = []
    for name, words, *at in _parsed(text, item, "roles"):
        quoted = words.type == "STRING"
        role = unquoted(text, str(words), words.start_pos) if quoted else " ".join(words.split())
        found.append((name, role, at[0], at[1]))
    return found


def plain(text: Text, item: Item) -> str:
    """The value of a header line that is plain text, on one line; or a string in quotes."""
    value = text.content[item.start : item.end]
    begin = item.start + len(value) - len(value.lstrip())
    if value.strip().startswith('"'):
        found = re.fullmatch(r'("(?:[^"\\\n]|\\.)*")[ \t]*(?:#[^\n]*)?', value.strip())
        if found is None:
            raise text.error(
                "what begins with a quote is one string in quotes, on one line", begin,
                hint='within it, a quote is written \\"',
            )  # fmt: skip
        return unquoted(text, found[1], begin)
    lines = [re.sub(r"(?:^|\s)#.*", "", line).strip() for line in value.splitlines()]
    return " ".join(line for line in lines if line)


def unquoted(text: Text, string: str, at: int) -> str:
    """What a string in quotes says, which is written as JSON writes it."""
    try:
        return str(json.loads(string))
    except ValueError as error:
        where = at + getattr(error, "pos", 0)
        raise text.error(
            "the string has an escape that is none", where,
            hint="as in JSON: \\n, \\\\, \\\", \\u00e9",
        ) from None  # fmt: skip


# --------------------------------------------------------------------------- by lark


class _Wrong(Exception):
    """What is wrong with a tree, to be told with the text."""

    def __init__(self, problem: str, start: int, end: int, hint: str = "") -> None:
        super().__init__(problem)
        self.args = problem, start, end, hint


def _parsed(text: Text, item: Item, start: str) -> Any:
    parser = _parser()
    from lark import TextSlice
    from lark.exceptions import UnexpectedInput

    try:
        return parser.parse(TextSlice(text.content, item.start, item.end), start=start)
    except _Wrong as wrong:
        raise text.error(*wrong.args) from None
    except UnexpectedInput as error:
        raise _unexpected(text, item, error) from None


def _node(kind: str, words: tuple[str, ...], args: tuple[Node, ...], start: int, end: int) -> Node:
    node = Node(kind, words, args, start, end)
    if node.depth > DEEPEST:
        raise _Wrong(
            f"the expression is nested more than {DEEPEST} deep", start, end,
            "give a part of it a name, by an equation of its own",
        )  # fmt: skip
    return node


class _Maker:
    """Makes trees: each method is called with what one rule of the grammar has found."""

    # ------------------------------------------------------------------ equations

    def equation(self, found: list[Any]) -> Any:
        return tuple(found)

    def targets(self, found: list[Node]) -> list[Node]:
        return found

    def name(self, found: list[Any]) -> Node:
        (token,) = found
        return _node("name", (str(token),), (), token.start_pos, token.end_pos)

    def number(self, found: list[Any]) -> Node:
        (token,) = found
        _check_number(token)
        return _node("number", (str(token),), (), token.start_pos, token.end_pos)

    def attribute(self, found: list[Any]) -> Node:
        of, word = found
        of = of if isinstance(of, Node) else self.name([of])
        return _node("attribute", (str(word),), (of,), of.start, word.end_pos)

    def index(self, found: list[Any]) -> Node:
        of, number = found
        if not number.isdecimal() or len(number) > 4:
            raise _Wrong("parts are numbered 0, 1, 2, …", number.start_pos, number.end_pos)
        return _node("index", (str(int(number)),), (of,), of.start, number.end_pos + 1)

    def call(self, found: list[Any]) -> Node:
        function, arguments = found
        args = tuple(arguments or ())
        end = args[-1].end if args else function.end_pos + 1
        return _node("call", (str(function),), args, function.start_pos, end)

    def arguments(self, found: list[Node]) -> list[Node]:
        return found

    def keyword(self, found: list[Any]) -> Node:
        word, value = found
        return _node("keyword", (str(word),), (value,), word.start_pos, value.end)

    def power(self, found: list[Any]) -> Node:
        base, _, exponent = found
        return _node("power", (), (base, exponent), base.start, exponent.end)

    def signed(self, found: list[Any]) -> Node:
        sign, value = found
        return _node("signed", (str(sign),), (value,), sign.start_pos, value.end)

    def negated(self, found: list[Node]) -> Node:
        return _node("negated", (), tuple(found), found[0].start, found[0].end)

    def _listed(self, kind: str, found: list[Any]) -> Node:
        args = tuple(f for f in found if isinstance(f, Node))
        words = tuple(str(f) for f in found if not isinstance(f, Node))
        return _node(kind, words, args, args[0].start, args[-1].end)

    sum = functools.partialmethod(_listed, "sum")
    product = functools.partialmethod(_listed, "product")
    comparison = functools.partialmethod(_listed, "comparison")
    conjunction = functools.partialmethod(_listed, "conjunction")
    disjunction = functools.partialmethod(_listed, "disjunction")

    # ------------------------------------------------------------------ header lines

    def quantities(self, found: list[Quantity]) -> list[Quantity]:
        return found

    def quantity(self, found: list[Any]) -> Quantity:
        name, *axes = found
        given = tuple(size_text(a) if isinstance(a, Node) else "" for a in axes if a is not None)
        return str(name), given or None, name.start_pos, name.end_pos

    def starts(self, found: list[Started]) -> list[Started]:
        return found

    def start(self, found: list[Any]) -> Started:
        name, *values = found
        value = values[0] if values else None
        return str(name), value, name.start_pos, name.end_pos

    def initial(self, found: list[Any]) -> object:
        word, *taken = found
        given = [str(n) if isinstance(n, str) else n for n in taken if n is not None]
        return (str(word), *given) if given else str(word)

    def signed_number(self, found: list[Any]) -> float:
        sign, digits = found
        _check_number(digits)
        value = float(digits)
        return -value if sign == "-" else value

    def roles(self, found: list[Any]) -> list[Any]:
        return found

    def role(self, found: list[Any]) -> Any:
        name, words = found
        return str(name), words, name.start_pos, name.end_pos


def _check_number(token: Any) -> None:
    """A number is digits, and a double holds it."""
    digits, place = str(token), (token.start_pos, token.end_pos)
    found = _NUMBER.match(digits)
    if found is None or found[0] != digits:
        begins = found[0] if found else ""
        rest = digits[len(begins) :]
        hint = f"a product is written {begins}*{rest}"
        if (begins == "0" and rest[:1] in "xXbBoO") or "_" in rest[:1]:
            hint = "numbers are decimal, without underscores"
        elif rest[:1] in "jJ":
            hint = "numbers are real"
        raise _Wrong(f"{_cut(digits)} is not a number", *place, hint)
    if len(digits) > _LONGEST_NUMBER:
        raise _Wrong(f"the number has {len(digits)} digits", *place, "doubles hold 17 of them")
    mantissa = re.split("[eE]", digits)[0]
    if float(digits) == float("inf"):
        raise _Wrong(f"the number {_cut(digits)} is too large for a double", *place)
    if float(digits) == 0 and re.search("[1-9]", mantissa):
        raise _Wrong(f"the number {_cut(digits)} is too small for a double", *place)


def _cut(word: str) -> str:
    return word if len(word) <= 40 else f"{word[:20]}…{word[-10:]}"


def size_text(node: Node) -> str:
    """A size, such as H, 3, N*P or D + H, as declarations have it.

    Raises
    ------
    CellError
        Without a place: ``_Wrong`` has it.
    """
    made = size_or_none(node)
    if made is None:
        raise _Wrong(
            "a size is a name or a positive number, or a sum or product of these", node.start,
            node.end, "such as H, 3, N*P or D + H",
        )  # fmt: skip
    return made


_MOST_TERMS = 64


def _terms(node: Node) -> int:
    """How many terms a size has once it is multiplied out."""
    inner = list(map(_terms, node.args))
    return math.prod(inner) if node.kind == "product" else sum(inner) or 1


def size_or_none(node: Node) -> str | None:
    """A size as declarations have it, or None if it is something else, or far too long."""
    return _size_or_none(node) if _terms(node) <= _MOST_TERMS else None


def _size_or_none(node: Node) -> str | None:
    parts = [_size_or_none(a) for a in node.args]
    if node.kind == "name":
        return node.word
    if node.kind == "number":
        return node.word if node.word.isdecimal() and len(node.word) < 10 else None
    if node.kind == "power" and node.args[0].kind == "name" and node.args[1].kind == "number":
        return f"{parts[0]}**{parts[1]}" if parts[1] and int(parts[1]) <= 64 else None
    if None in parts:
        return None
    if node.kind == "sum" and set(node.words) == {"+"}:
        return "+".join(map(str, parts))
    if node.kind == "product" and set(node.words) == {"*"} and len(parts) <= 64:
        return "*".join(f"({p})" if "+" in str(p) else str(p) for p in parts)
    return None


# --------------------------------------------------------------------------- what was not expected

_INSTEAD = {
    "^": "a power is written **", "%": "a remainder is written mod(a, b)",
    "&": 'write "and"', "|": 'write "or"', "~": 'write "not"', "!": 'write "not"',
    "'": "names stand without quotes", '"': "names stand without quotes",
    "=": "two values are compared by ==", "{": "brackets are ( )", "}": "brackets are ( )",
    ";": "each equation has a line of its own", ":": "", "[": "a part is split(u, P, K)[0]",
    "?": "only an axis in the header can be open",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_.]+|.")
_PYTHON = {
    "lambda": "", "if": "write where(condition, a, b)", "else": "write where(condition, a, b)",
    "for": "", "import": "", "in": "", "is": "two values are compared by ==", "def": "",
}  # fmt: skip


def _unexpected(text: Text, item: Item, error: Any) -> CellError:
    """The error for a piece that the grammar does not have."""
    token = getattr(error, "token", None)
    at = getattr(error, "pos_in_stream", None)
    ended = token is not None and token.type == "$END"
    if ended or at is None or at >= item.end:
        return _ended(text, item)
    c = text.content[at]
    if not c.isascii():
        raise foreign(text, at)
    found = _WORD.match(text.content, at, item.end)
    word = found[0] if found else c
    before = text.content[item.start : at].rstrip()
    if not item.word:
        told = _told(text, item, at, before)
        if told is not None:
            return told
    if (c in "*/" and before.endswith(c)) or c == "*":
        hint = "a quotient is written /, and rounded by floor(…)" if c == "/" else ""
    elif word in _PYTHON:
        hint = _PYTHON[word] or "only names, numbers, arithmetic and functions are known"
    elif item.word:
        hint = ""
    elif before and (before[-1].isalnum() or before[-1] in ")_]") and (c.isalnum() or c in "_("):
        left = re.split(r"[^\w.]", before)[-1] or before[-1]
        hint = f"a product is written {left} * {_cut(word)}, that of a matrix {left} @ {_cut(word)}"
    elif c == "=" and not item.word and before.count("=") == 0:
        hint = "on the left of = is one name, such as f or h.next"
    else:
        hint = _INSTEAD.get(c, "")
    if item.word in ("starts", "constants", "init", "roles") and c == ":":
        hint = "write ="
    if item.word and not hint:
        hint = _FORMS.get(item.word, "")
    if not item.word and "=" not in text.content[item.start : item.end]:
        hint = "an equation is written f = …, or h.next = …; a header line is name: …"
    return text.error(f"unexpected {_cut(word)!r}", at, at + len(word), hint)


_STATEMENTS = re.compile(
    r"(?:for|while|if|elif|else|import|from|def|class|with|return|print|try|assert)\b"
    r"(?![\w.]*[ ]*=)"
)
_AT_TIME = re.compile(r"\[[ ]*(t|k|n)[ ]*([+-][ ]*1)?[ ]*\]")


def _told(text: Text, item: Item, at: int, before: str) -> CellError | None:
    """The error for what other notations have in an equation, if it is such a thing."""
    content = text.content
    if before.endswith("["):  # it is this bracket that does not belong
        before = before[:-1].rstrip()
        at = item.start + len(before) + content[item.start + len(before) : at].index("[")
    left = (re.findall(r"[A-Za-z_][\w.]*$", before) or [""])[0]
    if statement := _STATEMENTS.match(content, item.start, item.end):
        return text.error(
            f"{statement[0]!r} begins a statement of Python", item.start, statement.end(),
            "a cell has header lines and equations only: f = …, or h.next = …",
        )  # fmt: skip
    c = content[at]
    if c == "=" and content[at - 1] == "=" and before.count("=") == 1:
        return text.error(
            "an equation is written with one =", at - 1, at + 1, f"write {before[:-1].strip()} = …"
        )
    if c in "+-*/@" and content[at + 1 : at + 2] == "=":
        return text.error(
            f"{c}= changes what is defined already", at, at + 2,
            "a name has one equation, with all its terms",
        )  # fmt: skip
    if left and (time := _AT_TIME.match(content, at)):
        hint = f"h[t] is written {left}.next, and h[t-1] is {left}".replace("h[", f"{left}[")
        return text.error("steps have no number", at, time.end(), hint)
    if c == "[" and not left:
        return text.error(
            "there are no lists", at, at + 1, "vectors are put side by side by concat(x, h)"
        )
    if c == "'" and left and content[at - 1] == left[-1]:
        return text.error(f"{left}' is no name", at, at + 1, f"write {left}.next")
    if c == "(" and "." in left:
        function = left.rpartition(".")[2]
        return text.error(
            f"{left} is no function", at - len(left), at,
            f"write {function}(…): functions have no module before them",
        )  # fmt: skip
    return None


_FORMS = {
    "output": "write names, as in: h, y",
    **dict.fromkeys(("inputs", "masks", "sizes", "matrices", "vectors"),
                    "write names with their sizes, as in: C (H, K), q (K)"),
    **dict.fromkeys(("starts", "init"), "write b_f = 1, U_h = orthogonal, V = uniform(-1, 1)"),
    "constants": "write eps = 1e-5",
    "fixed": "write names, as in: A, B",
    "roles": 'write f = forget gate; with a comma in it, f = "a, b"',
}  # fmt: skip


def _ended(text: Text, item: Item) -> CellError:
    """The error for a piece that ends too early."""
    piece = re.sub(r"#[^\n]*", lambda m: " " * len(m[0]), text.content[item.start : item.end])
    end = item.start + len(piece.rstrip())
    if item.word:
        what = f'the line "{item.word}:" ends too early'
        return text.error(what, max(end - 1, item.at), hint=_FORMS.get(item.word, ""))
    hint = "an expression follows an operator; it goes on over lines that are indented"
    if "=" not in piece:
        hint = "an equation is written f = …, or h.next = …; a header line is name: …"
    return text.error("the equation ends too early", max(end - 1, item.start), hint=hint)
