"""Networks in PyTorch, from their description alone: sequence by sequence, step by step.

Nothing here knows of the graph that layers are wired to, of pieces, packing, blocks or checkpoints.
The equations of cells come through ``witness``; dropout and zoneout are put around them as the
papers have them. Random numbers are made one at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from witness import TorchPrinter, aligned, beside, expanded, product

from lstmgen import Cell, Size
from lstmgen.network.layers import Dropout, Embedding, Layer
from lstmgen.network.structure import Structure

GOLDEN, WORD = 0x9E3779B97F4A7C15, 2**64


def splitmix(z: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014, figure 16)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def drawn(seed: int, stream: int, counter: int) -> float:
    """A number from 0 to 1: the one at ``counter`` of a generator that its stream's key begins."""
    key = splitmix((seed + GOLDEN * (stream + 1)) % WORD)
    return (splitmix((key + GOLDEN * (counter + 1)) % WORD) >> 11) / 2**53


class Dropping(TorchPrinter):
    """States that a product reads are masked: U (m h)."""

    inside = False

    def _print_Product(self, e) -> str:
        self.inside, before = True, self.inside
        text = super()._print_Product(e)
        self.inside = before
        return text

    def _print_Vector(self, e) -> str:
        text = super()._print_Vector(e)
        is_old = e.category == "state" and e.time == -1
        return f'(d["{e.name}"] * {text})' if self.inside and is_old else text


class Stepper:
    """One step of a cell for one row."""

    def __init__(self, cell: Cell, sizes: Mapping[str, int]) -> None:
        self.cell, self.sizes = cell, dict(sizes)
        printer, lines = Dropping(), ["def step(p, s, v, d):", "    p = dict(p)"]
        for e in cell.equations:
            if hasattr(e.lhs, "transposed"):  # a matrix made of parameters
                lines.append(f"    p['{e.lhs.name}'] = {printer.doprint(e.rhs)}[0]")
                continue
            shape, made = printer._shape(cell.shape(e.lhs)), f'v["{e.lhs.name}"]'
            lines.append(f"    {made} = {printer.doprint(e.rhs)}")
            lines.append(f"    {made} = aligned({made}, torch.empty(1, *{shape}))[0]")
            lines.append(f"    {made} = {made}.expand(1, *{shape})")
        self.scope: dict[str, Any] = {
            "torch": torch, "functools": functools, "aligned": aligned, "expanded": expanded,
            "beside": beside, "product": product, "number": number, "sizes": self.sizes,
        }  # fmt: skip
        exec("\n".join(lines), self.scope)
        self.dropped = [s.name for s in cell.states if f'd["{s.name}"]' in "\n".join(lines)]

    def shape(self, symbol: Any) -> tuple[int, ...]:
        known = {Size(n): k for n, k in self.sizes.items()}
        return tuple(int(n.subs(known)) for n in self.cell.shape(symbol))

    def __call__(self, params, states, x, drop, hold):
        """The output's units (1, …) and the new states; ``hold`` is what zoneout keeps."""
        v = {p.name: params[p.name][None] for p in self.cell.parameters}
        v |= {c.name: params[c.name] for c in self.cell.constants}
        v[self.cell.inputs[0].name] = x
        self.scope["step"](params, states, v, drop)
        new = {n: hold[n] * old + (1 - hold[n]) * v[n] for n, old in states.items()}
        output = self.cell.output.name
        return (new | v if output not in new else v | new)[output].reshape(1, -1), new


def number(value: float) -> torch.Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


@dataclass
class Result:
    """What PyTorch says, as arrays in the layout of a module's interface."""

    y: np.ndarray
    final: dict[str, np.ndarray]
    grads: dict[str, np.ndarray] = field(default_factory=dict)
    dx: np.ndarray | None = None
    dinitial: dict[str, np.ndarray] = field(default_factory=dict)


class Reference:
    """A network that goes through a batch once, one sequence after the other."""

    def __init__(self, structure: Structure, params: Mapping[str, Any]) -> None:
        self.structure = structure
        self.params = {
            n: torch.tensor(np.asarray(a, float), requires_grad=True) for n, a in params.items()
        }

    def run(self, x, state=None, lengths=None, resets=None, seed=None, dy=None, dstate=None):
        """The results, and gradients of <dy, y> + <dstate, final states> where dy is given."""
        T, B = np.shape(x)[:2]
        self.B, self.seed = B, seed
        self.lengths = [T] * B if lengths is None else [int(n) for n in lengths]
        self.resets = np.zeros((T, B), bool) if resets is None else np.asarray(resets, bool)
        self.given = state and {k: leaf(a) for k, a in state.items()}
        symbols = isinstance(self.structure.layers[0], Embedding)
        self.x = torch.tensor(np.asarray(x)) if symbols else leaf(x)
        # what begins each sequence, and what it leaves behind
        self.initial: dict[tuple[str, int], torch.Tensor] = {}
        self.final: dict[tuple[str, int], torch.Tensor] = {}
        ys = [self.sequence(b, T) for b in range(B)]
        names = sorted({name for name, _ in self.final})
        final = {n: torch.stack([self.final[n, b] for b in range(B)]) for n in names}
        y = torch.stack(ys, -2) if B else None
        result = Result(array(y) if B else None, {n: array(a) for n, a in final.items()})
        if dy is None:
            return result
        loss = (y * torch.tensor(dy)).sum()
        for n, d in (dstate or {}).items():
            loss = loss + (final[n] * torch.tensor(d)).sum()
        # so that there is a gradient where nothing is read: 0
        loss = loss + 0 * sum(a.sum() for a in self.params.values())
        loss.backward()
        result.grads = {n: gradient(a) for n, a in self.params.items()}
        result.dx = None if symbols else gradient(self.x)
        result.dinitial = {
            n: np.concatenate([gradient(self.initial[n, b]) for b in range(B)]) for n in names
        }
        return result

    # --------------------------------------------------------------------- layers

    def sequence(self, b: int, T: int) -> torch.Tensor:
        """What the network makes of one sequence: (T, units), zeros after its end, or (units)."""
        self.b, self.parts, self.named = b, 0, dict[str, int]()
        length = self.lengths[b]
        rows, last, width = list(self.x[:length, b]), False, self.x.shape[-1]
        for layer in self.structure.layers:
            if isinstance(layer, Embedding):
                table = self.params[f"{self.name(layer, 'embedding', False)}.table"]
                rows, width = [table[int(k)] for k in rows], layer.units
            elif isinstance(layer, Dropout):
                rows = self.dropout(layer, rows, last)
            else:
                rows, width = self.layer(layer, rows, last, width)
                last = last or layer.last
        if last:
            return rows[0]
        padding = [torch.zeros(width, dtype=torch.float64)] * (T - length)
        whole = [*rows, *padding]
        return torch.stack(whole) if whole else torch.zeros(0, width, dtype=torch.float64)

    def name(self, layer, what: str, numbered: bool) -> str:
        """As the documentation has it: lstm1, lstm2, …; readout."""
        if layer.name:
            return layer.name
        count = self.named[what] = self.named.get(what, 0) + 1
        return f"{what}{count}" if numbered else what + (str(count - 1) if count > 1 else "")

    def part(self) -> int:
        self.parts += 1
        return self.parts - 1

    def dropout(self, layer: Dropout, rows, last: bool):
        part, p = self.part(), layer.probability
        self.name(layer, "dropout", True)
        return [
            self.mask(part, 0, t, p, layer.whole, row.shape) * row for t, row in enumerate(rows)
        ]

    def layer(self, layer: Layer, rows, last: bool, comes: int):
        name = self.name(layer, layer.cell.name, bool(layer.cell.states))
        directions = {name: layer.go_backwards}
        if layer.bidirectional:
            directions = {f"{name}_backward": True, f"{name}_forward": False}
        made = {}
        for lane, reverse in directions.items():
            made[lane], width = self.direction(layer, lane, reverse, rows, last, comes)
        if layer.bidirectional:
            backward, forward = made.values()
            pairs = list(zip(forward, backward, strict=True))
            if layer.bidirectional == "sum":
                self.part()
                out = [a + b for a, b in pairs]
            else:
                out, width = [torch.cat(pair) for pair in pairs], 2 * width
        else:
            out = made[name]
        if layer.skip:
            self.part()
            pairs = list(zip(rows, out, strict=True))
            if layer.skip == "residual":
                out = [x + u for x, u in pairs]
            else:
                W, b = (self.params[f"{name}_highway.{k}"] for k in "Wb")
                gates = [torch.sigmoid(W @ x + b) for x, _ in pairs]
                out = [t * u + (1 - t) * x for t, (x, u) in zip(gates, pairs, strict=True)]
        return out, width

    def direction(self, layer: Layer, name: str, reverse: bool, rows, last: bool, comes: int):
        """One cell over one sequence."""
        part, b = self.part(), self.b
        params = {n.split(".")[1]: a for n, a in self.params.items() if n.startswith(f"{name}.")}
        params |= {c.name: number(layer.constants[c.name]) for c in layer.cell.constants}
        sizes = dict(layer.sizes)
        (axis,) = layer.cell.shape(layer.cell.inputs[0])
        if axis.is_Symbol:
            sizes[str(axis)] = comes
        for p in layer.cell.parameters:
            sizes |= {
                str(n): k
                for n, k in zip(layer.cell.shape(p), params[p.name].shape, strict=True)
                if n.is_Symbol
            }
        stepper = self.stepper(layer.cell, tuple(sorted(sizes.items())))
        width = math.prod(stepper.shape(layer.cell.output))
        start = {}
        for s in layer.cell.states:
            fixed = torch.full((1, *stepper.shape(s)), float(layer.cell.starts_at(s))).double()
            start[s.name] = params[f"{s.name}_start"][None] if layer.learn_state else fixed
        given = self.given and {n: self.given[f"{name}.{n}"][b : b + 1] for n in start}
        states = given or start
        # plus a leaf of zeros each, whose gradient is that of the initial state
        changes = {n: torch.zeros_like(a, requires_grad=True) for n, a in states.items()}
        states = {n: a + changes[n] for n, a in states.items()}
        self.initial |= {(f"{name}.{n}", b): a for n, a in changes.items()}
        made: dict[int, torch.Tensor] = {}
        order = range(len(rows))
        for t in reversed(order) if reverse else order:
            if not reverse and not last and self.resets[t, b]:
                states = start
            drop, hold = self.noise(layer, stepper, part, t)
            made[t], states = stepper(params, states, rows[t][None], drop, hold)
            if reverse and self.resets[t, b] and t > 0:
                states = start
        self.final |= {(f"{name}.{n}", b): a[0] for n, a in states.items()}
        out = [made[t][0] for t in order]
        if layer.last:
            nothing = torch.zeros(width, dtype=torch.float64)
            out = [(out[0] if reverse else out[-1]) if out else nothing]
        return out, width

    @staticmethod
    @functools.cache
    def stepper(cell: Cell, sizes) -> Stepper:
        return Stepper(cell, dict(sizes))

    # ---------------------------------------------------------------------- noise

    def noise(self, layer: Layer, stepper: Stepper, part: int, t: int):
        """What states are multiplied by where matrices read them, and what of them is held."""
        drop, hold, number_ = {}, {}, 0
        shapes = {s.name: stepper.shape(s) for s in layer.cell.states}
        if layer.recurrent_dropout:
            for n in stepper.dropped:
                shape = shapes[n]
                drop[n] = self.mask(part, number_, t, layer.recurrent_dropout, True, shape)
                number_ += 1
        for n, shape in shapes.items():
            drop.setdefault(n, torch.ones(shape, dtype=torch.float64))
            hold[n] = torch.zeros(shape, dtype=torch.float64)
            if layer.zoneout:
                units = self.units(part, number_, t, layer.zoneout, False, shape)
                hold[n] += layer.zoneout if units is None else units
                number_ += 1
        return drop, hold

    def mask(self, part: int, k: int, t: int, p: float, whole: bool, shape) -> torch.Tensor:
        """The others are scaled so that the mean is 1, which it is at inference."""
        dropped = self.units(part, k, t, p, whole, shape)
        if dropped is None:
            return torch.ones(shape, dtype=torch.float64)
        return (1 - dropped) / (1 - p)

    def units(self, part: int, k: int, t: int, p: float, whole: bool, shape):
        """1 where a unit is dropped, 0 elsewhere; None if nothing is drawn."""
        if self.seed is None:
            return None
        row = self.b if whole else t * self.B + self.b
        count = math.prod(shape)
        hits = [drawn(self.seed, 16 * part + k, row * count + u) < p for u in range(count)]
        return torch.tensor(hits, dtype=torch.float64).reshape(shape)


def leaf(a: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(a, float), requires_grad=True)


def array(a: torch.Tensor) -> np.ndarray:
    return a.detach().numpy()


def gradient(a: torch.Tensor) -> np.ndarray:
    return np.zeros(a.shape) if a.grad is None else a.grad.numpy()
