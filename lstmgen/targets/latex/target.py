r"""LaTeX: the forward equations, the adjoints of one step, the gradients as sums, the notation.

What is printed follows ``Derivation.equations`` and ``.gradients``. ``equations`` chooses what is
shown and how it is named, ``stars`` writes once what is alike but for a gate's letter, ``lines``
and ``typesetting`` set it, ``breaking`` says where a long line breaks, ``notation`` explains the
symbols, and ``page`` is what the templates read. ``jacobian`` is a page of its own, of the state
Jacobian.
"""

from __future__ import annotations

from ...language.cell import Cell
from ..rendering import environment
from ..sealing import seal
from .jacobian import JacobianPage
from .page import Page

OPTIONS: frozenset[str] = frozenset()
TAKES_SIZES = False


def files(cell: Cell, *, source: str = "") -> dict[str, str]:
    r"""The fragment, and a document that shows how to \input it."""
    page = Page(cell, source)
    fragment = f"{cell.name}_equations"
    return {
        f"{cell.name}.tex": _rendered("document", page, body=rf"\input{{{fragment}}}"),
        f"{fragment}.tex": _rendered("fragment", page),
    }


def emit(cell: Cell, *, document: bool = False, source: str = "") -> str:
    r"""The equations as a fragment to \input, or as a document that stands alone."""
    return _emitted("fragment", Page(cell, source), document)


def emit_jacobian(cell: Cell, *, document: bool = False, source: str = "") -> str:
    """The state Jacobian of a cell and its structure, in the same two forms.

    Raises
    ------
    LstmgenError
        If the cell has no state.
    """
    return _emitted("jacobian", JacobianPage(cell, source), document)


def _emitted(template: str, page: Page, document: bool) -> str:
    fragment = _rendered(template, page)
    if not document:
        return seal(fragment)
    _, _, body = fragment.partition("\n\n")  # without the fragment's own header
    return seal(_rendered("document", page, body=body.rstrip()))


def _rendered(template: str, page: Page, **more: str) -> str:
    templates = environment(
        "latex",
        block_start_string=r"\BLOCK{",
        block_end_string="}",
        variable_start_string=r"\VAR{",
        variable_end_string="}",
        comment_start_string=r"\COMMENT{",
        comment_end_string="}",
    )
    return templates.get_template(f"{template}.tex.j2").render(page=page, **more)
