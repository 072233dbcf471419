"""Statistics of a network, for an update of its training now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..analysis.gates import norm
from ..errors import LstmgenError
from ..network.structure import Structure
from ..runtime.loading import load_package
from ..targets import generate
from .module import WatchedModule
from .writing import require_writer, write_adjoints, write_gates, write_gradient


class Monitor:
    """What ``Network.fit(..., monitor=...)`` calls before each update: it writes for some of them.

    For such an update, the batch goes forward and back once more, in NumPy, through cells that
    show their gates. All random numbers are the update's: what is dropped is what training drops.

    Parameters
    ----------
    writer : SummaryWriter
        Of ``torch.utils.tensorboard``, or what has its ``add_scalar`` and ``add_histogram_raw``.
    every : int
        Of how many updates one is written; the first is.
    """

    def __init__(self, writer: Any, every: int = 100) -> None:
        require_writer(writer)
        self._writer, self._every = writer, positive_every(every)
        self._network: Structure | None = None

    def update(
        self, network: Structure, params: Mapping[str, Any], part: Any, state: Any, step: int,
        seed: int,
    ) -> None:  # fmt: skip
        """Look at one update.

        Parameters
        ----------
        network : Network
        params : mapping
            Before the update.
        part : Data
            The batch: x, target, lengths, weights.
        state : mapping or None
            That the batch begins with.
        step : int
            How many updates there were.
        seed : int
            Of what is dropped.
        """
        if step % self._every:
            return
        if network is not self._network:
            self._module, self._parts = watched_network(network)
            self._network = network
        module, writer = self._module, self._writer
        y, _, tape = module.forward(params, part.x, state, lengths=part.lengths, seed=seed)
        value, dy = module.loss(y, part.target, lengths=part.lengths, weights=part.weights)
        grads, _, _ = module.backward(params, tape, dy)
        writer.add_scalar("loss/training", value, step)
        for name, watched in self._parts.items():
            found = watched.statistics()
            write_gates(writer, found, step, name)
            write_adjoints(writer, found, step, name)
        for name, gradient in grads.items():
            write_gradient(writer, name, norm([gradient]), step)


def watched_network(network: Structure) -> tuple[Any, dict[str, WatchedModule]]:
    """The NumPy module of a network whose cells are watched, and these by name."""
    files = generate(network, "numpy")
    module = load_package(files, next(iter(files)), network.name)
    parts = {run.name: WatchedModule(run.cell) for run in network.graph.runs}
    module.PARTS.update(parts)
    return module, parts


def positive_every(every: int) -> int:
    """``every``, if it is one or more.

    Raises
    ------
    LstmgenError
        If it is not.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise LstmgenError(f"every is a positive whole number, not {every!r}")
    return every
