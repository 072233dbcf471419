"""A checksum in every generated file: one that is as it was generated may be replaced by a newer
version, and one that a user edited may not.
"""

from __future__ import annotations

import hashlib
import re

# What headers place. A user's text is printable, so that it cannot occur there.
PLACEHOLDER = "\0checksum\0"

_DIGITS = 12
_CANONICAL = "@checksum@"  # what stands for a checksum while it is counted
_CHECKSUM = re.compile(rf"Checksum ([0-9a-f]{{{_DIGITS}}}): ")


def seal(text: str) -> str:
    """``text`` with its checksum in place of the placeholder."""
    before, mark, after = text.partition(PLACEHOLDER)
    return f"{before}{_digest(before + _CANONICAL + after)}{after}" if mark else text


def is_untouched(text: str) -> bool:
    """Whether ``text`` is as it was generated: its checksum is there, and right.

    A cell's title may look like a checksum; only that of the text itself is right.
    """
    return any(
        found[1] == _digest(text[: found.start(1)] + _CANONICAL + text[found.end(1) :])
        for found in _CHECKSUM.finditer(text)
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
