"""Names of symbols in LaTeX, and text from a user as LaTeX sets it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from ...printing.orders import one_line

GREEK = frozenset(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega""".split()
)
STAR = "⋆"
MARKS = frozenset({"dot", "bar", "hat", "tilde"})  # as last index they stand above the letter


class Names:
    """Names of symbols in LaTeX: a letter, bold for a vector, and its indices.

    ``W_i`` is W with index i; ``my_gate`` is my with index gate; ``h1`` is h with index 1; in
    ``W_i_dot`` the W has a dot above it. Where
    two names would look alike, the second is spelled out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._parts: dict[str, tuple[str, tuple[str, ...]]] = {}
        looks: dict[tuple[str, ...], str] = {}
        for name in names:
            letter, *indices = _split(name)
            if looks.setdefault((letter, *indices), name) != name:
                letter, indices = name.replace("_", r"\_"), []
            self._parts[name] = (letter, tuple(indices))

    def use(self, letter: str) -> bool:
        """Whether a name begins with a letter, such as Delta."""
        return any(first == letter for first, _ in self._parts.values())

    def __call__(self, name: str, *, bold: bool, time: str = "") -> str:
        letter, indices = self._parts.get(name) or (_split(name)[0], tuple(_split(name)[1:]))
        if letter == STAR:
            base = r"\star"
        elif letter in GREEK:
            base = rf"\boldsymbol{{\{letter}}}" if bold else rf"\{letter}"
        elif bold:
            base = rf"\mathbf{{{letter}}}"
        else:
            base = letter if len(letter) == 1 else rf"\mathrm{{{letter}}}"
        if indices and indices[-1] in MARKS:
            base, indices = rf"\{indices[-1]}{{{base}}}", tuple(indices[:-1])
        index = ",".join([*(_index(i) for i in indices), *([time] if time else [])])
        if not index:
            return base
        return f"{base}_{index}" if len(index) == 1 else f"{base}_{{{index}}}"


def _split(name: str) -> list[str]:
    first, *indices = [part for part in name.split("_") if part]
    numbered = re.fullmatch(r"([A-Za-z]+)([0-9]+)", first)
    return [*numbered.groups(), *indices] if numbered else [first, *indices]


def _index(part: str) -> str:
    if part == STAR:
        return r"\star"
    if part in GREEK:
        return rf"\{part}"
    plain = re.fullmatch(r"[A-Za-z]?[0-9]*", part)
    return part if plain else rf"\mathrm{{{part}}}"


_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_SPELLED = {
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}",
    "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "–": "--", "—": "---", "‘": "`", "’": "'",
    "“": "``", "”": "''", "…": r"\dots{}", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$",
    "⊙": r"$\odot$", "∘": r"$\circ$", "′": "$'$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$",
    "±": r"$\pm$", "≈": r"$\approx$", "≠": r"$\ne$", "∞": r"$\infty$", "∂": r"$\partial$",
    "∈": r"$\in$", "√": r"$\surd$", "Σ": r"$\Sigma$", "∑": r"$\sum$", "∇": r"$\nabla$",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": "$|$", '"': "''",
    **{c: rf"\{c}" for c in "&%$#_{}"},
}  # fmt: skip

_RAISED = {"<super>": "^", "<sub>": "_"}


def escape(text: str) -> str:
    """``text`` from a user, to be set as it stands: no command, no comment, in ASCII."""
    return "".join(_escaped(c) for c in unicodedata.normalize("NFC", one_line(text)))


def _escaped(c: str) -> str:
    if c in _SPELLED:
        return _SPELLED[c]
    if c.isascii():
        return c
    name = unicodedata.name(c, "").replace("LAMDA", "LAMBDA").split()
    if name[:1] == ["GREEK"] and len(name) == 4 and name[3].lower() in GREEK:
        greek = name[3].capitalize() if name[1] == "CAPITAL" else name[3].lower()
        return rf"$\{greek}$" if greek in GREEK else "?"
    kind, _, code = unicodedata.decomposition(c).partition(" ")
    if kind in _RAISED and len(code) == 4 and chr(int(code, 16)).isascii():  # as in 1 - a²
        return f"${_RAISED[kind]}{{{chr(int(code, 16))}}}$"
    parts = unicodedata.normalize("NFD", c)
    base = parts[0]
    if not base.isascii():
        return "?"
    for mark in parts[1:]:  # an accent that the oldest font encoding lacks is left out
        base = rf"\{_ACCENTS[mark]}{{{base}}}" if mark in _ACCENTS else base
    return base
