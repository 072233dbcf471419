"""Names in generated C: each is declared in a scope, and is unique in all that it is seen in."""

from __future__ import annotations

from collections.abc import Iterable


class Scope:
    """Gives every key one name: the wish, with underscores after it while that is taken.

    A name differs from all others of its scope, of the scopes around it and of those within it: so
    nothing is hidden by a name that is declared later.
    """

    def __init__(self, around: Scope | None = None, taken: Iterable[str] = ()) -> None:
        self._around = around
        self._within: list[Scope] = []
        self._taken = set(taken)
        self._given: dict[object, str] = {}
        if around is not None:
            around._within.append(self)

    def __call__(self, key: object, wish: str) -> str:
        """The name of ``key``, declared here when it is first asked for."""
        if key not in self._given:
            name = wish
            while self._sees(name):
                name += "_"
            self._taken.add(name)
            self._given[key] = name
        return self._given[key]

    def _sees(self, name: str) -> bool:
        outside = self._around
        while outside is not None:
            if name in outside._taken:
                return True
            outside = outside._around
        return self._holds(name)

    def _holds(self, name: str) -> bool:
        return name in self._taken or any(scope._holds(name) for scope in self._within)
