"""A network as it was described: its layers, and the graph that they are wired to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from sympy import Expr, Integer

from ..errors import LstmgenError
from ..language.cell import Cell
from ..language.checks import check_name
from ..language.matrices import Matrix
from ..language.symbols import Vector
from .graph import Embed, Graph, Run
from .layers import limit, positive
from .losses import find_loss
from .optimizers import find_optimizer
from .schedules import find_schedule
from .wiring import wire


class Structure:
    """The layers of a network, checked when they are put together.

    Parameters
    ----------
    layers : sequence
        In order: an Embedding, if x is symbols; layers of cells, Dropout between them, a Readout.
    name : str
        An identifier: files and C functions are named after it.
    inputs : int, optional
        The units of x; without it they are the size D, which is known when parameters are made.
    title : str
        What it is in a few words.
    loss : str, Loss or Cell, optional
        What training minimises: "cross_entropy", "mean_squared", "huber", "binary_cross_entropy".
    optimizer : str or Optimizer
        "adam", "adamw", "rmsprop", "sgd", or one with numbers of its own, ``SGD(momentum=0.9)``.
    rate : float or Schedule
        The learning rate, or how it changes.
    clip_norm : float, optional
        The joint norm of all gradients is at most this: g min(1, clip_norm / ‖g‖) (Pascanu,
        Mikolov & Bengio 2013).
    clip_value : float, optional
        Every number of a gradient is clipped to ± this, after ``clip_norm``.

    Raises
    ------
    LstmgenError
        If layers do not fit each other; the message names the layer.
    """

    def __init__(
        self, layers: Sequence[object], *, name: str = "network", inputs: int | None = None,
        title: str = "", loss: object = None, optimizer: object = "adam", rate: object = 1e-3,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:  # fmt: skip
        check_name(name, "the network's name")
        self.graph: Graph = wire(layers, None if inputs is None else positive("inputs", inputs))
        self.name, self.title, self.layers = name, title, tuple(layers)
        self.loss = None if loss is None else find_loss(loss)
        self.optimizer, self.schedule = find_optimizer(optimizer), find_schedule(rate)
        self.clip_norm = None if clip_norm is None else limit("clip_norm", clip_norm)
        self.clip_value = None if clip_value is None else limit("clip_value", clip_value)
        clash: dict[str, Cell] = {}
        for cell in self.cells:
            if clash.setdefault(cell.name, cell) is not cell:
                raise LstmgenError(
                    f"two different cells are called {cell.name}\n  hint: rename one of them"
                )
        if name in clash:
            raise LstmgenError(
                f"the network and one of its cells are both called {name}\n"
                f'  hint: Network(layers, name="{name}_network")'
            )

    @cached_property
    def parameters(self) -> dict[str, tuple[Expr, ...]]:
        """The shapes of all parameters, by name: ``lstm1.W_i``."""
        shapes: dict[str, tuple[Expr, ...]] = {}
        for node in self.graph.nodes:
            if isinstance(node, Embed):
                shapes[f"{node.name}.table"] = (Integer(node.count), node.output.size)
            elif isinstance(node, Run):
                shapes |= {f"{node.name}.{p.name}": shape_in(node, p) for p in node.cell.parameters}
                if node.learned_start:
                    shapes |= {start_of(node, s): shape_in(node, s) for s in node.cell.states}
        return shapes

    @cached_property
    def unlearned(self) -> tuple[str, ...]:
        """The parameters that have no gradient."""
        return tuple(
            f"{run.name}.{p.name}"
            for run in self.graph.runs
            for p in run.cell.parameters
            if not p.learned
        )

    @cached_property
    def states(self) -> dict[str, tuple[Expr, ...]]:
        """The shapes of all states, by name: ``lstm1.h``."""
        return {
            f"{run.name}.{s.name}": shape_in(run, s)
            for run in self.graph.runs
            for s in run.cell.states
        }

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, each once: those of the layers, and, to train, the loss and the optimiser."""
        more = () if self.loss is None else (self.loss.cell, self.optimizer.cell)
        return tuple(dict.fromkeys((*self.graph.cells, *more)))

    @property
    def symbols(self) -> int:
        """How many symbols there are; 0 if x is not symbols."""
        first = self.graph.nodes[0]
        return first.count if isinstance(first, Embed) else 0


def start_of(run: Run, state: Vector) -> str:
    """The name of the parameter that a state starts at."""
    return f"{run.name}.{state.name}_start"


def shape_in(run: Run, symbol: Vector | Matrix) -> tuple[Expr, ...]:
    """The axes of a quantity of a cell, in this place of a network."""
    return tuple(axis.subs(run.sizes) for axis in run.cell.shape(symbol))
