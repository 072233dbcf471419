"""From bytes to items: what may stand in a file at all, and where each header line and equation is.

All bounds on the size of a text are here; they hold before anything is parsed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from ..errors import did_you_mean
from .places import Text

MOST_BYTES = 1_000_000
MOST_EQUATIONS = 500
MOST_MARKS = 15_000  # names, numbers and signs in all equations together
MOST_MARKS_OF_ONE = 1_500  # and in one equation
MOST_NAMES = 2_000  # different ones: shapes take longer than that many do
DEEPEST = 50  # brackets in brackets, and functions in functions

TEXTS = ("name", "title", "source", "notes")
LINES = (
    *TEXTS, "output", "inputs", "masks", "constants", "sizes", "starts", "fixed", "roles",
    "matrices", "vectors", "init",
)  # fmt: skip
_WITH_NUMBERS = ("constants", "starts", "roles", "init")  # the values have an = of their own
# What else people call them.
_OTHER_WORDS = {
    "outputs": "output", "input": "inputs", "mask": "masks", "constant": "constants",
    "size": "sizes", "shapes": "sizes", "shape": "sizes", "start": "starts", "role": "roles",
    "paper": "source", "reference": "source", "description": "notes", "note": "notes",
    "frozen": "fixed", "matrix": "matrices", "vector": "vectors", "hyperparameters": "constants",
}  # fmt: skip
_HEADER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)[ \t]*:")
_STARTS_EQUATION = re.compile(r"[A-Za-z_][\w.]*[ \t]*=(?!=)", re.ASCII)
_COMMENT = re.compile(r"#[^\n]*")
_MARK = re.compile(r"[A-Za-z0-9_.]+|[^\sA-Za-z0-9_.]")
_CLOSES = {")": "(", "]": "[", "}": "{"}

# What looks like a sign or a letter of the notation, or means one in a paper.
_WRITTEN = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": "*", "·": "*", "⋅": "*", "∘": "*", "⊙": "*",
    "∗": "*", "÷": "/", "∕": "/", "⁄": "/", "′": ".next", "ʹ": ".next", "’": ".next",
    "⊤": ".T", "ᵀ": ".T", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "", "σ": "sigmoid", "τ": "tau",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "eps", "ϵ": "eps", "λ": "lam",
    "μ": "mu", "φ": "phi", "ρ": "rho", "θ": "theta", "η": "eta", "π": "pi", "ω": "omega",
    "Δ": "Delta", "Σ": "sum", "∑": "sum", "√": "sqrt", "²": "**2", "³": "**3", "“": '"',
    "”": '"', "‘": "'", "：": ":", "＝": "=", "∞": "",
}  # fmt: skip
_ALIKE = dict(
    zip(
        "АВЕЅІЈКМНОРСТУХавеѕіјкмнорстухһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧογνικυχℎ",
        "ABESIJKMHOPCTYXabesijkmhopctyxhdqwABEZHIKMNOPTYXoyvikuxh",
        strict=False,
    )
)
_HIDDEN = {"Cc": "a control character", "Cf": "invisible", "Cs": "half of a character",
           "Zl": "a line separator", "Zp": "a paragraph separator"}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A header line or an equation, with all lines that go on with it: from ``start`` to ``end``.

    ``word`` is the word of a header line, whose value it is then; "" of an equation.
    """

    word: str
    start: int
    end: int
    at: int  # where the word is


def decoded(data: bytes, name: str) -> str:
    """The text of a file.

    Raises
    ------
    CellError
        If it is too long, or not UTF-8.
    """
    if len(data) > MOST_BYTES:
        raise _too_long(name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode("utf-8-sig", "replace")
        whole = Text(_lines(good + "\N{REPLACEMENT CHARACTER}"), name)
        hint = "save it as UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = "it is UTF-16: save it as UTF-8"
        raise whole.error(
            f"the byte 0x{data[error.start]:02x} is not UTF-8", len(whole.content) - 1, hint=hint
        ) from None


def _too_long(name: str) -> Exception:
    what = f"it is longer than {MOST_BYTES:,} characters"
    return Text("", name).error(what, 0, hint="a cell takes a few hundred")


def _lines(content: str) -> str:
    return content.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def prepared(content: str, name: str) -> Text:
    """The text, once it holds what can be seen only, and no more than it may.

    Raises
    ------
    CellError
    """
    if len(content) > MOST_BYTES:
        raise _too_long(name)
    text = Text(_lines(content), name)
    if text.content.isascii() and text.content.replace("\n", "").replace("\t", "").isprintable():
        return text
    for at, c in enumerate(text.content):
        if c not in "\n\t" and (what := _HIDDEN.get(unicodedata.category(c))):
            raise text.error(f"the character {_named(c)} is {what}", at, hint="remove it")
    return text


def _named(c: str) -> str:
    name = unicodedata.name(c, "")
    return f"U+{ord(c):04X}" + (f" ({name})" if name else "")


def items(text: Text) -> list[Item]:
    """The header lines and equations of a text, in order.

    An item begins at the margin, and goes on over lines that are indented, and in brackets.

    Raises
    ------
    CellError
    """
    found: list[Item] = []
    depth: list[int] = []  # where brackets are open
    at = 0
    for line in text.content.splitlines(keepends=True):
        begin, at = at, at + len(line)
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        header = _HEADER.match(line)
        indented = line[0] in " \t"
        if depth and not indented and (header or _STARTS_EQUATION.match(line)):
            raise _open(text, depth)
        if indented or depth:
            if not found:
                raise text.error("the first line is indented", begin, hint="begin at the margin")
            if not depth:
                _check_goes_on(text, found[-1], begin, line)
            found[-1] = Item(found[-1].word, found[-1].start, at, found[-1].at)
        elif header:
            word = _known_word(text, header, begin)
            found.append(Item(word, begin + header.end(), at, begin))
        else:
            found.append(Item("", begin, at, begin))
        item = found[-1]
        if not item.word:
            _follow_brackets(text, max(begin, item.start), at, depth)
    if depth:
        raise _open(text, depth)
    _check_counts(text, found)
    return found


def is_equation(line: str) -> bool:
    """Whether a line reads as the beginning of an equation."""
    return _STARTS_EQUATION.match(line.strip()) is not None


def _check_goes_on(text: Text, item: Item, begin: int, line: str) -> None:
    """No equation is taken for a part of the line above it, as it would be of a title."""
    shown = line.strip()
    if not is_equation(shown):
        return
    if item.word in _WITH_NUMBERS and not re.search(r"@|^\w+\.next\b", shown):
        return
    at = begin + line.index(shown)
    above = f'the line "{item.word}:"' if item.word else "the equation above it"
    hint = "an equation begins at the margin"
    if item.word in TEXTS:
        hint += "; a text that reads like one stands in quotes, on one line"
    raise text.error(
        f"this equation is indented, so that it would go on with {above}", at, at + len(shown), hint
    )


def _known_word(text: Text, header: re.Match[str], begin: int) -> str:
    word = header[1]
    if word in LINES:
        return word
    meant = _OTHER_WORDS.get(word.lower()) or (word.lower() if word.lower() in LINES else "")
    near = f'write "{meant}:"' if meant else did_you_mean(word, LINES)
    hint = near or f"header lines are {', '.join(LINES)}; an equation is written f = …"
    raise text.error(f'"{word}:" is no header line', begin, begin + len(word), hint)


def _open(text: Text, depth: list[int]) -> Exception:
    at = depth[-1]
    return text.error(f'"{text.content[at]}" is never closed', at)


def _follow_brackets(text: Text, begin: int, end: int, depth: list[int]) -> None:
    """Brackets that lines open and close; and that all else in them is ASCII."""
    line = text.content[begin:end]
    comment = line.find("#")
    for at, c in enumerate(line if comment < 0 else line[:comment], begin):
        if c in "([{":
            depth.append(at)
            if len(depth) > DEEPEST:
                hint = "give a part of it a name, by an equation of its own"
                raise text.error(f"brackets are nested more than {DEEPEST} deep", at, hint=hint)
        elif c in ")]}":
            if not depth or text.content[depth[-1]] != _CLOSES[c]:
                raise text.error(f'"{c}" closes nothing', at)
            depth.pop()
        elif not c.isascii():
            raise foreign(text, at)


def foreign(text: Text, at: int) -> Exception:
    """The error for a character that is no part of the notation."""
    c = text.content[at]
    alike = _ALIKE.get(c, "")
    meant = _WRITTEN.get(c, "") or alike
    if not meant:
        plain = unicodedata.normalize("NFKD", c)
        meant = "".join(p for p in plain if p.isascii() and p.isprintable()).strip()
    if not meant and unicodedata.category(c) == "Zs":
        meant = "a plain space"
    what = f', which looks like "{alike}" but is not' if alike else ""
    hint = f"write {meant}" if meant else "names and signs are ASCII; texts and comments need not"
    return text.error(f'the character "{c}" is {_named(c)}{what}', at, hint=hint)


def _check_counts(text: Text, found: list[Item]) -> None:
    equations = [item for item in found if not item.word]
    if len(equations) > MOST_EQUATIONS:
        at = equations[MOST_EQUATIONS].start
        raise text.error(f"there are more than {MOST_EQUATIONS} equations", at)
    total, names = 0, set()
    for item in found:
        if item.word in TEXTS:
            continue
        # with the comments put out first, in which an apostrophe is no sign
        piece = _COMMENT.sub("", text.content[item.start : item.end])
        for count, mark in enumerate(_MARK.finditer(piece), 1):
            total += 1
            if count > MOST_MARKS_OF_ONE:
                what = "the equation" if not item.word else f'the line "{item.word}:"'
                raise text.error(
                    f"{what} has more than {MOST_MARKS_OF_ONE:,} names, numbers and signs",
                    item.at,
                    hint="" if item.word else "divide it into several",
                )
            if total > MOST_MARKS:
                raise text.error(
                    f"there are more than {MOST_MARKS:,} names, numbers and signs", item.at
                )
            names.add(mark[0])
            if len(names) > MOST_NAMES:
                raise text.error(f"there are more than {MOST_NAMES:,} different names", item.at)
