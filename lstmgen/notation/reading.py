"""Reading a cell from text: the same cell as its Python form has, and no code that runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sympy import Eq

from ..errors import CellError, LstmgenError, did_you_mean
from ..language.cell import Cell
from ..language.initial import start
from ..language.matrices import Matrix
from ..language.misuse import finite
from ..language.sizes import declared
from ..language.symbols import Vector
from . import layout, parsing
from .building import Builder
from .inference import DEFAULTS, Kinds, infer, mistaken
from .layout import Item
from .places import Text
from .tree import Axes, Equation, Header, Node, text_of
from .wording import as_text

SUFFIX = ".cell"


def load(path: str | Path) -> Cell:
    """The cell in a text file.

    Raises
    ------
    LstmgenError
        If there is no such file, or it is no cell.
    """
    path = Path(path)
    if not path.is_file():
        raise LstmgenError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            data = file.read(layout.MOST_BYTES + 1)
    except OSError as error:
        raise LstmgenError(f"{path}: {error.strerror or error}") from error
    return read_cell(layout.decoded(data, str(path)), str(path))


def read_cell(text: str, where: str = "cell") -> Cell:
    """The cell that a text describes.

    Parameters
    ----------
    text : str
        Header lines and equations; docs/notation.md describes them.
    where : str
        What the text is called in messages, such as the name of its file.

    Raises
    ------
    CellError
        If the text is no cell. The message has line, column and a caret.
    ToolchainError
        If lark is not installed.
    """
    return _Reader(layout.prepared(text, where)).cell()


class _Reader:
    def __init__(self, text: Text) -> None:
        self.text = text
        self.header = Header()
        self.equations: list[Equation] = []

    def cell(self) -> Cell:
        seen: dict[str, Item] = {}
        for item in layout.items(self.text):
            if not item.word:
                self.equations += parsing.equations(self.text, item)
                continue
            if item.word in seen:
                raise self._error(item, f'there are two lines "{item.word}:"', "put them together")
            seen[item.word] = item
            self._header_line(item)
        if not self.equations:
            raise self.text.error(
                "there is no equation", max(0, len(self.text.content.rstrip()) - 1),
                hint="write one a line, such as: h.next = tanh(W_h @ x + U_h @ h + b_h)",
            )  # fmt: skip
        kinds = infer(self.equations, self.header)
        self._check_declared(kinds)
        self._check_spelled(kinds)
        symbols = {n: self._symbol(n, kinds) for n in self._names(kinds)}
        builder = Builder(self.text, kinds, symbols)
        equations = [
            Eq(builder.target(e), builder.right_side(e), evaluate=False) for e in self.equations
        ]
        return self._put_together(equations, symbols)

    def _error(self, item: Item, problem: str, hint: str = "") -> CellError:
        return self.text.error(problem, item.at, item.at + len(item.word), hint)

    # ------------------------------------------------------------------ the header

    def _header_line(self, item: Item) -> None:
        word, header = item.word, self.header
        if word in layout.TEXTS:
            header.texts[word] = parsing.plain(self.text, item)
        elif word in ("output", "fixed"):
            names = self._once(word, parsing.quantities(self.text, item))
            for name, axes in names.items():
                if axes is not None:
                    at = header.places[word, name]
                    raise self.text.error("a size has no place here", *at, "it is in sizes: …")
            getattr(header, word).extend(names)
        elif word in ("starts", "init", "constants"):
            given = self._once(word, parsing.starts(self.text, item))
            for name, value in given.items():
                at = header.places[word, name]
                if value is None and word != "constants":
                    raise self.text.error(f"{name} has no value", *at, f"write {name} = 1")
                if word == "constants" and not isinstance(value, (float, type(None))):
                    raise self.text.error(f"the value of {name} is one number", *at)
            getattr(header, word).update(given)
        elif word == "roles":
            header.roles = self._once(word, parsing.roles(self.text, item))
        else:
            given_axes = self._once(word, parsing.quantities(self.text, item))
            if word == "inputs":
                header.inputs = given_axes
            else:
                getattr(header, word).update(given_axes)

    def _once(self, word: str, found: Iterable[tuple[str, Any, int, int]]) -> dict[str, Any]:
        made = {}
        for name, value, begin, end in found:
            self._note(word, name, (begin, end))
            made[name] = self._axes(value, (begin, end)) if isinstance(value, tuple) and all(
                isinstance(n, str) for n in value) else value  # fmt: skip
        return made

    def _axes(self, axes: Axes, at: tuple[int, int]) -> Axes:
        try:
            return tuple(map(declared, axes))
        except ValueError as error:
            raise self.text.error(str(error), *at) from None

    def _note(self, word: str, name: str, at: tuple[int, int]) -> None:
        if (word, name) in self.header.places:
            raise self.text.error(f"{name} is named twice", *at)
        self.header.places[word, name] = at

    def _check_declared(self, kinds: Kinds) -> None:
        """What the header names is in an equation, and is what it can be."""
        used = self._names(kinds)
        for (word, name), at in self.header.places.items():
            if name not in used:
                near = did_you_mean(name, sorted(used))
                if word == "output":
                    near = near or f"choose one of: {', '.join(e.name for e in self.equations)}"
                problem = f"{name} is in no equation" + (
                    " as a symbol, only as a size" if kinds.of.get(name) == "size" else ""
                )
                raise self.text.error(problem, *at, near)
        for e in self.equations:
            for word in ("inputs", "masks", "constants"):
                if (word, e.name) in self.header.places:
                    raise self.text.error(
                        f"{e.name} is among the {word}, so no equation can define it",
                        e.target.start, e.target.end,
                        f'take it out of the line "{word}:", or give one of the two another name',
                    )  # fmt: skip
        given = [
            (name, at) for (word, name), at in self.header.places.items()
            if word in ("inputs", "masks", "constants")
        ]  # fmt: skip
        for k, (name, at) in enumerate(given):
            if name in [other for other, _ in given[:k]]:
                raise self.text.error(f"{name} is already given by another line", *at)

    def _check_spelled(self, kinds: Kinds) -> None:
        """No slip of the keyboard makes a learned vector."""
        meant = mistaken(self.equations, self.header, kinds)
        for e in self.equations:
            for node in e.value.walk():
                if node.kind == "name" and node.word in meant:
                    raise self.text.error(
                        f"nothing defines {node.word}", node.start, node.end,
                        f'did you mean "{meant[node.word]}"? If it is learned, say so by a line '
                        f'"vectors: {node.word}"',
                    )  # fmt: skip

    def _names(self, kinds: Kinds) -> set[str]:
        """The symbols of all equations."""
        found = {e.name for e in self.equations}
        for e in self.equations:
            for node in e.value.walk():
                if node.kind == "name" and kinds[node.word] not in ("size", "number", "function"):
                    found.add(node.word)
        return found

    # ------------------------------------------------------------------ symbols

    def _symbol(self, name: str, kinds: Kinds) -> Vector | Matrix:
        kind = kinds[name]
        axes = self.header.axes(name) or DEFAULTS[kind]
        value, learned = self._start(name, kind), name not in self.header.fixed
        if not learned and kind not in ("parameter", "matrix"):
            at = self.header.places["fixed", name]
            raise self.text.error(f"{name} is no parameter: {_a(kind)}", *at)
        if kind in ("matrix", "derived"):
            if len(axes) < 2:
                at = self._place_of_axes(name)
                raise self.text.error(f"{name} is a matrix, which has two axes or more", *at)
            *heads, rows, columns = axes
            return Matrix(name, rows, columns, False, tuple(heads), False, value, learned)
        return Vector(name, kind, axes, -1 if kind == "state" else 0, value, learned)

    def _place_of_axes(self, name: str) -> tuple[int, int]:
        for word in ("sizes", "matrices", "vectors", "inputs", "masks"):
            if (word, name) in self.header.places:
                return self.header.places[word, name]
        return (0, 1)

    def _start(self, name: str, kind: str) -> Any:
        if kind == "constant":
            return self.header.constants.get(name)
        given = self.header.starts.get(name)
        if given is None:
            return 0.0 if kind == "parameter" else None
        at = self.header.places["starts", name]
        try:
            if kind == "state":
                return finite(given, f"the start of {name}") or None
            if kind not in ("parameter", "matrix"):
                raise ValueError(f"{name} has no start: {_a(kind)}")
            if given == "none":
                return None
            return start(given, f"the start of {name}", of_matrix=kind == "matrix")
        except ValueError as error:
            problem, _, hint = str(error).partition(": did you mean")
            hint = f"did you mean{hint}" if hint else ""
            raise self.text.error(_plain_start(problem), *at, hint) from None

    # ------------------------------------------------------------------ the cell

    def _put_together(self, equations: list[Eq], symbols: dict[str, Any]) -> Cell:
        header = self.header
        if "name" not in header.texts:
            raise self.text.error("the cell has no name", 0, hint='begin with "name: my_cell"')
        names = header.output or [next((e.name for e in self.equations if e.of_state),
                                       self.equations[-1].name)]  # fmt: skip
        try:
            return Cell(
                header.texts["name"],
                equations,
                tuple(symbols[n] for n in names),
                title=header.texts.get("title", ""),
                source=header.texts.get("source", ""),
                notes=header.texts.get("notes", ""),
                init={symbols[n]: v for n, v in header.init.items()},
                roles={symbols[n]: role for n, role in header.roles.items()},
            )
        except CellError as error:
            raise self._placed(error) from error
        except RecursionError:
            raise self.text.error(
                "the equations are nested too deeply", self.equations[0].target.start,
                hint="give parts of them names, by equations of their own",
            ) from None  # fmt: skip

    def _placed(self, error: CellError) -> CellError:
        """An error of the cell, with the place of its equation."""
        found = re.match(r"equation (\d+),", error.where)
        begin, end = 0, 1
        if found and int(found[1]) <= len(self.equations):
            e = self.equations[int(found[1]) - 1]
            begin, end = e.target.start, e.target.end
            for node in self._mentioned(e, error.problem):
                begin, end = node.start, node.end
        else:
            mentioned = set(re.findall(r"\w+", error.problem))
            places = [at for (_, name), at in self.header.places.items() if name in mentioned]
            uses = [n for e in self.equations for n in (e.target, *e.value.walk())
                    if n.kind == "name" and n.word in mentioned]  # fmt: skip
            header = re.search("(?m)^name *: *", self.text.content)
            if error.problem.startswith("the cell's name") and header:
                begin, end = header.end(), header.end() + len(self.header.texts["name"])
            elif places:
                begin, end = places[0]
            elif uses:
                begin, end = uses[0].start, uses[0].end
            else:
                begin, end = self.equations[0].target.start, self.equations[0].target.end
        hint = as_text(error.hint)
        if found and " gives s" in error.problem:
            hint = self._matrix_product(self.equations[int(found[1]) - 1]) or hint
        return self.text.error(as_text(error.problem), begin, end, hint)

    def _matrix_product(self, e: Equation) -> str:
        """What to write, where sizes do not fit and W * x stands for what may be W @ x."""
        kinds = infer(self.equations, self.header)
        for node in e.value.walk():
            if node.kind == "product" and node.words == ("*",):
                a, b = node.args
                if (
                    a.kind == b.kind == "name"
                    and a.word[0].isupper()
                    and kinds[a.word] == "parameter" != kinds[b.word]
                ):
                    product = f"{a.word} @ {b.word}"
                    return f"{text_of(node)} is elementwise; the matrix product is {product}"
        return ""

    def _mentioned(self, e: Equation, problem: str) -> list[Node]:
        """The place in an equation of the name or the call that a message begins with."""
        first = re.match(r"(?:the state |the matrix )?(\w+)(\.next)?", problem)
        if first is None:
            return []
        products = [n for n in e.value.walk() if n.kind == "product"]
        with_vector = {p.args[k] for p in products for k, sign in enumerate(p.words) if sign == "@"}
        for node in e.value.walk():
            if "used without @" in problem and node in with_vector:
                continue
            if problem[first.end() :].startswith("("):
                if node.kind == "call" and node.word == first[1]:
                    return [node]
                continue
            if node.kind == ("attribute" if first[2] else "name"):
                inner = node.args[0] if first[2] else node
                if inner.kind == "name" and inner.word == first[1]:
                    return [node]
        return []


def _a(kind: str) -> str:
    words = {"derived": "a matrix that an equation makes", "vector": "an equation defines it"}
    return words.get(kind) or f"it is {'an' if kind == 'input' else 'a'} {kind}"


def _plain_start(problem: str) -> str:
    """The message of ``initial.start``, with words as they are written here."""
    return re.sub(r"\('(\w+)'((?:, [^()]*)?)\)", r"\1(\2)", problem).replace("(, ", "(")
