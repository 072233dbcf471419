"""A cell's code as a part of a larger source: static functions, for a driver that calls them.

The driver works on blocks: so many steps of so many rows, dense and one after the other. It packs
parameters once, hands states and tapes from block to block in memory, and has the gradients of
parameters summed over all blocks before they are brought home, once. For a cell ``lstm`` of an
owner ``net``, with parameters and all else, where ``n`` is a ``net_lstm_sizes``:

============================================= ====================================================
``net_lstm_check(&n)``                        a ``net_status``: sizes are right, no array too large
``net_lstm_arrange_forward(&n, &p, packed)``  packs parameters, by ``n.threads`` threads
``net_lstm_arrange_backward(&n, &p, packed)`` the same for backward
``net_lstm_forward_rows(&call, slice)``       runs a block
``net_lstm_backward_rows(&call, slice)``      runs it backward
``net_lstm_sum_gradients(&call)``             brings home what was summed
``net_lstm_forward_packed_parts(&n).total``   numbers that are packed; ``backward_packed_parts``
``net_lstm_forward_room(&n)``                 numbers of workspace that suffice for any block of up
                                              to ``n.T`` steps and ``n.B`` rows; ``backward_room``
``net_lstm_tape_parts(&n, B, T).total``       numbers on the tape of a block
``net_lstm_tape_room(&n, rows, starts)``      numbers on all tapes: of blocks with so many rows in
                                              all of their steps, and in their first steps
``net_lstm_sums_parts(&n).total``             numbers that gradients are summed in, for each slice
============================================= ====================================================

A ``net_lstm_call`` says what a block works with: ``n`` with its steps as ``T`` and its rows as
``B``; ``p`` (for constants); ``packed``; ``x``, ``m`` and ``y``, dense; ``initial`` and ``final``;
``tape``, NULL to keep nothing, without a label; ``work``. Backward: ``kept`` (the tape), ``dy``,
``dx`` or NULL, ``dfinal`` and ``dinitial``, ``sums``, and ``begun``, which is 0 for the first block
that adds to these sums, and else 1. ``sum_gradients`` reads ``n``, of the whole batch, with the
number of threads for which it was cut into slices: these have sums one after the other. It reads
``g`` and ``accumulate``, and ``once``, what backward packed, if the cell has a use for it
(``has_once``).

A slice of the batch is a batch of its own for these functions: it is ``{0, 0, rows, rows, team}``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ...language.cell import Cell
from ..comments import about
from ..rendering import environment
from .checks import Checks
from .interface import Interface
from .lines import WIDTH, broken, top_comment
from .target import Parts, tidy
from .vocabulary import EMBEDDED


class Embedded:
    """A cell in the source of an ``owner``.

    Parameters
    ----------
    cell, dtype
        The cell, and the type of its numbers.
    owner
        Whose source it is: there have to be ``<owner>_real``, ``<owner>_status`` with ``_OK``,
        ``_BAD_SIZE`` and ``_TOO_LARGE``, and the runtime, included for ``dtype``.
    fixed
        Sizes of the cell that are constants.
    backward
        Whether it has functions for that. Compilers warn of functions that nobody calls: a driver
        has to call all there are.
    """

    def __init__(
        self,
        cell: Cell,
        dtype: str,
        owner: str,
        fixed: dict[str, int] | None = None,
        backward: bool = True,
    ) -> None:
        self.cell, self.is_backward = cell, backward
        self.parts = Parts(cell, dtype, fixed or {}, owner)
        self._source = self.parts.memory.source
        self.name = self._source.name
        self._templates = environment("c")

    # ------------------------------------------------------------------ what it has

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything for members of ``<name>_params``; then it is for callers."""
        return bool(self.cell.parameters or self.cell.constants)

    @property
    def has_states(self) -> bool:
        """Whether there is anything for members of ``<name>_state``; then it is for callers."""
        return bool(self.cell.states)

    @property
    def has_sums(self) -> bool:
        """Whether gradients are summed: then there is ``sums_parts``, and ``sums`` in a call."""
        return self.parts.memory.sums is not None

    @property
    def has_gradients(self) -> bool:
        """Whether there is ``sum_gradients``."""
        return bool(self.cell.learned)

    @property
    def has_once(self) -> bool:
        """Whether ``sum_gradients`` needs what backward packed, to write beside it."""
        return bool(self.parts.backward.fixed.back)

    # ------------------------------------------------------------------ text

    @property
    def parameters(self) -> str:
        """The types of parameters and their gradients, for a header."""
        return self._rendered("parameters.h.j2")

    @property
    def states(self) -> str:
        """The types of states, for a header."""
        return self._rendered("states.h.j2")

    @property
    def code(self) -> str:
        """The other types, and the functions. Types that are empty are not for callers: they are
        here.
        """
        private = [] if self.has_parameters else [self.parameters]
        private += [] if self.has_states else [self.states]
        n = self.name
        names = ["T", "B", *(size.name for size in self.cell.sizes), "threads", "serial"]
        owner = self._source.owner
        head = broken(f"static {owner}_status {n}_check(", [f"const {n}_sizes *n"], ")", WIDTH)
        room = [f"const {n}_sizes *n", "size_t rows", "size_t starts"]
        checks = Checks(self._source, self.parts.memory)
        return self._rendered(
            EMBEDDED,
            **self.parts.code(self.is_backward),
            title=n,
            about=top_comment(tidy(about(self.cell))),
            sizes=broken(f"typedef struct {n}_sizes {{ size_t ", names, f"; }} {n}_sizes;", WIDTH),
            private=[text.rstrip() for text in private],
            macros=self.parts.memory.tiles(),
            check={"head": head, "body": checks.check()},
            tape_room=broken(f"static size_t {n}_tape_room(", room, ")", WIDTH),
            backward=self.is_backward,
        )

    @cached_property
    def _interface(self) -> dict[str, Any]:
        return Interface(self._source, self.parts.memory).types()

    def _rendered(self, template: str, **more: Any) -> str:
        return self._templates.get_template(template).render(self._interface | more)
