"""Templates: where they are found, and the one way in which they are set up."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from ..errors import LstmgenError

_PACKAGE = __name__.partition(".")[0]


@cache
def environment(folder: str, **options: Any) -> Environment:
    """The Jinja environment of ``templates/<folder>``, whose templates are compiled once.

    An undefined name is an error, and a line that holds only a tag leaves nothing behind. Further
    ``options`` go to Jinja, such as delimiters that suit the language.

    Raises
    ------
    LstmgenError
        If the templates are not installed.
    """
    home = _templates() / folder

    def load(name: str) -> str | None:
        template = home / name
        if not template.is_file():
            return None
        text: str = template.read_text(encoding="utf-8")
        return text

    return Environment(
        loader=FunctionLoader(load),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        **options,
    )


def _templates() -> Any:  # a Traversable, whose home in the library differs among Pythons
    """Inside the package once installed; beside it in a checkout, for editable installs."""
    inside = files(_PACKAGE) / "templates"
    beside = Path(__file__).resolve().parents[2] / "templates"
    for home in (inside, beside):
        if home.is_dir():
            return home
    raise LstmgenError(
        f"the templates are missing: there is neither {inside} nor {beside}\n"
        "  hint: install lstmgen again"
    )
