"""The names that the templates give to things, read off the templates: no list repeats them.

Nothing from the equations may have a name that a template declares at file scope, nor, in the
functions in which lines of ours are placed, one that occurs there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import chain, product, zip_longest

from jinja2 import Environment
from jinja2.meta import find_referenced_templates

from ...language.checks import C_KEYWORDS
from ..rendering import environment
from . import runtime
from .functions import LIBRARY
from .tree import Variable

PASSES = ("forward", "backward")
REGIONS = ("tape", "tile", *PASSES, *(f"{p}_packed" for p in PASSES), "sums")  # what is where
BUFFERS = ("tape", "packed", "forward_work", "backward_work", "step_work")
# Functions whose heads are not in the templates.
_FUNCTIONS = ("pack", "step", "admit", "run_forward", *PASSES, *(f"arrange_{p}" for p in PASSES),
              *(f"{s}_given" for s in ("params", "grads", "inputs", "masks", "outputs")),
)  # fmt: skip
TEMPLATES = ("header.h.j2", "source.c.j2")
EMBEDDED = "embedded.c.j2"  # in the place of both, for a cell in the source of another

# What a template consists of besides words of C. A hole that joins lines has code of ours; one that
# is computed otherwise gives no name.
_TAG = re.compile(r"{%.*?%}|{#.*?#}", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/|\"[^\"\n]*\"", re.DOTALL)
_DIRECTIVE = re.compile(r"^ *#(?:.*\\\n)*.*$", re.MULTILINE)
_WORD = re.compile(r"(?:\w|{{.*?}})+")
_LINES = re.compile(r"{{[^{}]*\|join\(.*?}}")
_COMPUTED = re.compile(r"{{(?! *[\w.]+ *}}).*?}}")
_HOLE = re.compile(r"{{ *(.*?) *}}")
_OURS = "{{ line }}"


@cache
def _declarations() -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """For each declaration in the templates, the words at file scope and those within brackets."""
    templates = environment("c")
    names = (*TEMPLATES, EMBEDDED)
    return tuple(d for name in names for text in _texts(name, templates) for d in _cut(text))


def texts() -> list[str]:
    """The templates of the files of a cell, with all that they include."""
    return [text for name in TEMPLATES for text in _texts(name, environment("c"))]


def _texts(name: str, templates: Environment) -> Iterator[str]:
    """A template, and those that it includes."""
    assert templates.loader is not None
    text, *_ = templates.loader.get_source(templates, name)
    yield text
    for other in find_referenced_templates(templates.parse(text)):
        if other is not None:
            yield from _texts(other, templates)


def _cut(text: str) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """What is within a declaration is indented, or stands in the brackets of its first line."""
    outside: set[str] = set()
    inside: set[str] = set()
    text = f"/*{text}" if text.startswith("{{ about") else text  # which opens a comment
    text = _COMPUTED.sub("{{ ? }}", _LINES.sub(_OURS, _TAG.sub("", text)))
    for line in _DIRECTIVE.sub("", _COMMENT.sub(" ", text)).splitlines():
        first, _, rest = ("", "", line) if line.startswith(" ") else line.partition("(")
        outside.update(_WORD.findall(first))
        inside.update(_WORD.findall(rest))
        if line.startswith("}") or (first and line.endswith(";")):
            yield frozenset(outside), frozenset(inside)
            outside, inside = set(), set()


def file_words(cell: str) -> set[str]:
    """What nothing in the file of a cell can be called: keywords, names of the C library and of the
    runtime, and what templates declare at file scope.
    """
    declared = {word for outside, _ in _declarations() for word in outside}
    parts = {f"{cell}_{region}_{what}" for region in REGIONS for what in ("layout", "parts")}
    others = {f"{cell}_{what}" for what in _FUNCTIONS}
    return {*C_KEYWORDS, *LIBRARY, *runtime.words(), *parts, *others, *_filled(declared, cell)}


def body_words(cell: str) -> set[str]:
    """What nothing of ours can be called in the functions of templates that have lines of ours."""
    functions = (inside for _, inside in _declarations() if _OURS in inside)
    occurring = _filled({word for inside in functions for word in inside}, cell)
    return {*occurring, *(v.name for v in _EVERYWHERE), *_PLACES}


def _filled(words: set[str], cell: str) -> set[str]:
    """Words with what templates may fill their holes with; those with other holes are not names of
    templates.
    """
    known = {"name": (cell,), "NAME": (cell.upper(),), "b.name": BUFFERS}
    found = set()
    for word in words:
        holes = _HOLE.findall(word)
        if all(hole in known for hole in holes):
            parts = _HOLE.split(word)[::2]
            for texts in product(*(known[hole] for hole in holes)):
                found.add("".join(chain(*zip_longest(parts, texts, fillvalue=""))))
    return found


# --------------------------------------------------------------------------- variables

# What functions are given and declare, where trees mention it.
N, P, G = Variable("n"), Variable("p"), Variable("g")
CALL, SLICE = Variable("call"), Variable("slice", "struct")  # what callers gave, a slice of it
TAPE, PACKED, WORK = Variable("tape"), Variable("packed"), Variable("work")
IN_TAPE, IN_PACKED = Variable("in_tape", "struct"), Variable("in_packed", "struct")
IN_WORK, AT = Variable("in_work", "struct"), Variable("at", "struct")
MEMORY = Variable("memory")  # the tape, or what stands for it in the workspace
COLUMNS, PANELS = Variable("columns"), Variable("panels")  # workspace of products
TEAM, THREADS = Variable("team", "size"), Variable("threads", "size")
BATCH, START = Variable("batch", "size"), Variable("start", "size")  # rows, the first of a slice
STEPS, AMONG = Variable("steps", "size"), Variable("k", "size")  # in a tile, and the one of these
MOST = Variable("most", "size")  # steps in a tile
AROUND = Variable("around", "size")  # after so many rows, those of large states begin anew
FROM, T0, END = Variable("from", "size"), Variable("t0", "size"), Variable("end", "size")
LAST = Variable("last", "size")
NUMBER, SLICES = Variable("s", "size"), Variable("slices", "size")  # of a slice, of all slices
LARGEST, EACH = Variable("largest", "size"), Variable("each", "size")  # slice, and its workspace
BEGUN = Variable("begun", "size")  # whether gradients are added to what is there
SUMS, IN_SUMS = Variable("sums"), Variable("in_sums", "struct")  # of gradients, if kept apart
LATER = Variable("later", "size")  # whether a slice is not the first
ROWS, ROW, UNIT = Variable("rows", "size"), Variable("row", "size"), Variable("j", "size")
HEAD = Variable("head", "size")
GIVEN, FINE = Variable("given", "size"), Variable("fine", "size")
ONE_STEP, STATUS = Variable("one", "struct"), Variable("status", "size")

# What every stage declares. Sizes are seen in stages, too.
STAGE_WORDS = frozenset(v.name for v in (ROWS, ROW, UNIT, P))

_EVERYWHERE = (
    N, P, G, CALL, SLICE, TAPE, PACKED, WORK, IN_TAPE, IN_PACKED, IN_WORK, AT, MEMORY, COLUMNS,
    PANELS, TEAM, THREADS, BATCH, START, STEPS, AMONG, MOST, AROUND, FROM, T0, END, LAST, NUMBER,
    SLICES, LARGEST, EACH, BEGUN, SUMS, IN_SUMS, LATER, ROWS, HEAD, GIVEN, FINE, ONE_STEP, STATUS,
)  # fmt: skip
# Rows of memory, and members of the structs that say where things begin.
_PLACES = ("kept", "tile", "scratch", "total", "sums")
