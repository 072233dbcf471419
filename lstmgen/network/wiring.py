"""From a list of layers to a graph of nodes: which cell reads what, and how wide everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy
from sympy import Expr, Integer

from ..errors import LstmgenError
from ..language.cell import Cell
from ..language.misuse import short
from ..language.sizes import Size
from .graph import Embed, Graph, Join, Last, Node, Noise, Run, Signal
from .joints import addition, dropout, highway
from .layers import Dropout, Embedding, Layer
from .noise import drop_recurrent, zone_out

INPUT = Signal("x", Size("D"))


def wire(layers: Sequence[object], inputs: int | None = None) -> Graph:
    """The graph of a network.

    Parameters
    ----------
    layers : sequence of Layer, Embedding, Dropout
    inputs : int, optional
        The units of x; without it, it is the size D, which parameters tell.

    Raises
    ------
    LstmgenError
        If layers do not fit each other; the message names the layer.
    """
    if isinstance(layers, (str, Layer)) or not isinstance(layers, Sequence) or not layers:
        raise LstmgenError(
            f"a network is a list of layers, not {short(repr(layers))}\n"
            '  hint: Network([Layer("lstm", 64), Readout(1)])'
        )
    return _Wiring(layers, inputs).graph()


class _Wiring:
    """The nodes as they come to be."""

    def __init__(self, layers: Sequence[object], inputs: int | None) -> None:
        self._layers, self._nodes, self._names = layers, list[Node](), set[str]()
        self._input = Signal("x", INPUT.size if inputs is None else Integer(inputs))

    def graph(self) -> Graph:
        signal = self._input
        for number, layer in enumerate(self._layers, 1):
            try:
                signal = self._wired(layer, signal)
            except LstmgenError as error:
                raise LstmgenError(f"layer {number}: {error}") from error
        return Graph(self._input, tuple(self._nodes), signal)

    def _wired(self, layer: object, signal: Signal) -> Signal:
        """The nodes of a layer; what it puts out."""
        if isinstance(layer, Embedding):
            return self._embedding(layer, signal)
        if isinstance(layer, Dropout):
            return self._dropout(layer, signal)
        if isinstance(layer, Layer):
            return self._layer(layer, signal)
        hint = 'Layer("lstm", 64), Readout(1), Embedding(count, units) and Dropout(0.2) are layers'
        raise LstmgenError(f"{short(repr(layer))} is no layer\n  hint: {hint}")

    def _embedding(self, layer: Embedding, signal: Signal) -> Signal:
        if self._nodes:
            raise LstmgenError("an embedding comes first: what it reads are symbols")
        name = self._name(layer.name, "embedding")
        made = Signal(name, Integer(layer.units))
        self._nodes.append(Embed(name, layer.count, (signal,), made))
        return made

    def _dropout(self, layer: Dropout, signal: Signal) -> Signal:
        noise = {"m": Noise(layer.probability, layer.whole)}
        name = self._name(layer.name, "dropout", numbered=True)
        return self._run(name, dropout(), {}, (signal,), noise=noise)

    def _layer(self, layer: Layer, signal: Signal) -> Signal:
        cell, noise = _with_noise(layer)
        if signal.of_rows and cell.states:
            raise LstmgenError(
                f"{cell.name} runs over steps, but the layer before it puts out the last one only\n"
                "  hint: leave out its last=True"
            )
        if layer.last and signal.of_rows:
            raise LstmgenError("there is one step only: what comes in is the last one already")
        name = self._name(layer.name, layer.cell.name, numbered=bool(cell.states))
        lanes = {f"{name}_backward": True, f"{name}_forward": False}
        if not layer.bidirectional:
            lanes = {name: layer.go_backwards}
        outs = []
        for lane, reverse in lanes.items():
            if layer.bidirectional:
                self._claim(lane)
            out = self._run(
                lane, cell, layer.sizes, (signal,), reverse=reverse, noise=noise,
                learned_start=layer.learn_state, constants=layer.constants,
            )  # fmt: skip
            if layer.last:
                last = Signal(self._name("", f"{lane}_last"), out.size, of_rows=True)
                self._nodes.append(Last((out,), last, reverse))
                out = last
            outs.append(out)
        made = outs[-1]
        if layer.bidirectional == "sum":
            made = self._run(self._name("", f"{name}_sum"), addition(), {}, tuple(outs[::-1]))
        elif layer.bidirectional:
            made = Signal(name, sympy.Add(*(out.size for out in outs)), layer.last)
            self._nodes.append(Join(tuple(outs[::-1]), made))
        if layer.skip:
            made = self._skip(layer, name, signal, made)
        return made

    def _skip(self, layer: Layer, name: str, x: Signal, u: Signal) -> Signal:
        if u.of_rows and not x.of_rows:
            raise LstmgenError("a layer that puts out its last step cannot skip it")
        if x.size != u.size:
            hint = "Network(layers, inputs=…) says how many there are, if it is the first layer"
            raise LstmgenError(
                f"{layer.skip} adds what goes in to what comes out: {x.size} units to {u.size}\n"
                f"  hint: {hint if x is self._input else 'they have to be as many'}"
            )
        between = highway() if layer.skip == "highway" else addition()
        return self._run(self._name("", f"{name}_{layer.skip}"), between, {}, (x, u))

    def _run(
        self, name: str, cell: Cell, sizes: Mapping[str, int], inputs: tuple[Signal, ...], *,
        reverse: bool = False, noise: Mapping[str, Noise] | None = None,
        learned_start: bool = False, constants: Mapping[str, float] | None = None,
    ) -> Signal:  # fmt: skip
        known = _sizes(cell, sizes, inputs)
        shape = [axis.subs(known) for axis in cell.shape(cell.output)]
        made = Signal(name, sympy.prod(shape), inputs[0].of_rows)
        learned_start = learned_start and bool(cell.states)
        masks, numbers = noise or {}, constants or {}
        run = Run(name, cell, known, inputs, made, reverse, masks, learned_start, numbers)
        self._nodes.append(run)
        return made

    def _name(self, wish: str, what: str, *, numbered: bool = False) -> str:
        """A name that no other layer has: ``wish``, or what it is, numbered where it has to be."""
        if wish:
            name = wish
        else:
            plain = [] if numbered else [what]
            counted = [f"{what}{k}" for k in range(1, len(self._layers) + 2)]
            name = next(n for n in [*plain, *counted] if n not in self._names)
        self._claim(name)
        return name

    def _claim(self, name: str) -> None:
        """Names are those of parameters and states, too."""
        if name == self._input.name:
            raise LstmgenError(f"no layer can be called {name}: that is what the network reads")
        if name in self._names:
            raise LstmgenError(f"there is another layer called {name}")
        self._names.add(name)


def _with_noise(layer: Layer) -> tuple[Cell, dict[str, Noise]]:
    """The cell of a layer, and the masks that its noise brings."""
    cell, noise = layer.cell, dict[str, Noise]()
    if layer.recurrent_dropout:
        cell, names = drop_recurrent(cell)
        noise |= dict.fromkeys(names, Noise(layer.recurrent_dropout, whole=True))
    if layer.zoneout:
        cell, names = zone_out(cell)
        noise |= dict.fromkeys(names, Noise(layer.zoneout, holds=True))
    return cell, noise


def _sizes(cell: Cell, given: Mapping[str, int], inputs: Sequence[Signal]) -> dict[Size, Expr]:
    """The sizes of a cell, here: what the layer says, and what its inputs tell."""
    known: dict[Size, Expr] = {Size(name): Integer(n) for name, n in given.items()}
    for v, signal in zip(cell.inputs, inputs, strict=True):
        if len(cell.shape(v)) != 1:
            raise LstmgenError(
                f"{v} of {cell.name} has several axes, and a signal has units only\n"
                "  hint: chunk(x, …) makes axes of units, within the cell"
            )
        wanted = cell.shape(v)[0].subs(known)
        if isinstance(wanted, Size) and wanted not in known:
            known[wanted] = signal.size
        elif wanted != signal.size:
            hint = f"\n  hint: Network(layers, inputs={wanted})" if signal == INPUT else ""
            raise LstmgenError(f"{cell.name} reads {wanted} units, but {signal.size} come in{hint}")
    missing = [n for n in cell.sizes if n not in known]
    if missing:
        raise LstmgenError(
            f"{cell.name} needs the size {missing[0]}\n  hint: Layer(…, {missing[0]}=16)"
        )
    return known
