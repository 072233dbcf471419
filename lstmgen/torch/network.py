"""A whole network as an ``nn.Module``: one operator for all its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..errors import LstmgenError
from ..network.structure import Structure
from ..runtime.loading import load_model, load_package
from ..runtime.toolchain import compile
from ..targets.identity import fingerprint
from ..targets.numpy.network import interface
from .kernels import DTYPES, refuse_dtype

_structures: dict[str, Structure] = {}


class NetworkModule(nn.Module):
    """A network of lstmgen as a module of PyTorch, all of whose layers are one operator over C.

    Parameters
    ----------
    network : Network, str or Path
        A network, or the Python file that defines one.
    input_size : int, optional
        The units of x, where the network does not say how many there are.
    batch_first : bool
        x and y are (B, T, …) instead of (T, B, …).
    device, dtype
        Of the parameters. They are on the CPU where it runs.

    Notes
    -----
    ``state_dict`` has the names of the network, ``lstm1.W_i``. Parameters start as the cells say,
    with numbers that follow from ``torch.manual_seed``; so does dropout, which is done in training
    mode only. There is no second derivative: for that, put ``Recurrent`` layers together.
    """

    def __init__(
        self, network: Structure | str | Path, input_size: int | None = None,
        batch_first: bool = False, *, device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        found = load_model(network) if isinstance(network, (str, Path)) else network
        if not isinstance(found, Structure):
            raise LstmgenError(
                f"it is a {type(found).__name__}, not a network\n"
                "  hint: lstmgen.torch.Recurrent is for cells"
            )
        self.network, self.input_size, self.batch_first = found, input_size, batch_first
        self._key = register_network(found)
        f = tables(self._key)
        self._names, self._states = list(f.PARAMETERS), list(f.STATES)
        self._learned = [name for name in self._names if name not in f.UNLEARNED]
        self._of_rows = found.graph.output.of_rows
        self._is_noisy = any(run.noise for run in found.graph.runs)
        for name, value in self._started().items():
            part, _, own = name.rpartition(".")
            made = torch.tensor(value, device=device, dtype=dtype or torch.get_default_dtype())
            if not hasattr(self, part):
                self.add_module(part, nn.Module())
            if name in self._learned:
                self.get_submodule(part).register_parameter(own, nn.Parameter(made))
            else:
                self.get_submodule(part).register_buffer(own, made)

    def _started(self) -> dict[str, Any]:
        f, seed = tables(self._key), int(torch.randint(2**31, (), device="cpu").item())
        try:
            made = f.init(self.input_size, seed=seed, dtype=np.float64)
        except TypeError as error:
            raise LstmgenError(f"{error}\n  hint: NetworkModule(network, input_size=…)") from None
        return {name: made[name] for name in self._names}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start all parameters anew, as the cells say."""
        for name, value in self._started().items():
            self._tensor(name).copy_(torch.from_numpy(value))

    def _tensor(self, name: str) -> Tensor:
        part, _, own = name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(part), own)
        return found

    def forward(
        self, x: Tensor | PackedSequence, hx: Mapping[str, Tensor] | None = None, *,
        lengths: Tensor | None = None, resets: Tensor | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:  # fmt: skip
        """Run over a batch of sequences: (y, final states).

        Parameters
        ----------
        x : Tensor or PackedSequence
            (T, B, size), or whole numbers (T, B) where an Embedding comes first; (B, T, …) if
            ``batch_first``.
        hx : dict, optional
            The initial states by name, ``lstm1.h``, each (B, size).
        lengths : Tensor, optional
            (B,): how many steps each sequence has. What lies behind is not read.
        resets : Tensor, optional
            (T, B): where a sequence begins anew before a step.

        Returns
        -------
        y : Tensor or PackedSequence
            (T, B, size), or (B, size) after a layer with ``last``.
        hx : dict
            The final states.
        """
        if isinstance(x, PackedSequence):
            if lengths is not None or resets is not None:
                raise ValueError("packed sequences have their lengths, and take no resets")
            padded, told = pad_packed_sequence(x)
            y, final = self._run(padded, hx, told, None)
            if not self._of_rows:
                y = pack_padded_sequence(y, told, enforce_sorted=False)
            return y, final
        if self.batch_first:
            x = x.transpose(0, 1)
            resets = None if resets is None else resets.transpose(0, 1)
        y, final = self._run(x, hx, lengths, resets)
        return (y.transpose(0, 1) if self.batch_first and not self._of_rows else y), final

    def _run(
        self, x: Tensor, hx: Mapping[str, Tensor] | None, lengths: Tensor | None,
        resets: Tensor | None,
    ) -> tuple[Any, dict[str, Tensor]]:  # fmt: skip
        if hx is not None and set(hx) != set(self._states):
            raise ValueError(f"hx is a dict of {', '.join(self._states)}, not of {sorted(hx)}")
        params = [self._tensor(name) for name in self._names]
        states = [] if hx is None else [hx[name] for name in self._states]
        seed = torch.randint(2**31, ()) if self._is_noisy and self.training else None
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (*params, x, *states))
        made = torch.ops.lstmgen.network(params, x, states, lengths, resets, seed, self._key, keep)
        return made[0], dict(zip(self._states, made[1:-2], strict=True))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._key = register_network(self.network)

    def extra_repr(self) -> str:
        """The network's name."""
        return f"{self.network.name}, batch_first={self.batch_first}"


# --------------------------------------------------------------------------- what runs


def register_network(network: Structure) -> str:
    """The key under which operators find ``network`` in this process."""
    key = f"{network.name}:{fingerprint(*interface(network).values())}"
    _structures.setdefault(key, network)
    return key


@lru_cache(maxsize=64)
def tables(key: str) -> Any:
    """The tables of a network and its ``init``; nothing is compiled."""
    if key not in _structures:
        raise LstmgenError(
            f"the network {key.partition(':')[0]} of a saved program is not known in this process\n"
            "  hint: lstmgen.torch.register_network(network) before it runs"
        )
    files = interface(_structures[key])
    return load_package(files, next(iter(files)), _structures[key].name)


@lru_cache(maxsize=64)
def _compiled(key: str, dtype: torch.dtype, threads: int) -> Any:
    tables(key)  # says what is wrong if nobody knows the network
    return compile(_structures[key], "c", dtype=DTYPES[dtype], threads=threads)


def _module(key: str, params: Sequence[Tensor], threads: int) -> tuple[Any, dict[str, Any]]:
    """The compiled network, and its parameters as arrays over the same memory."""
    dtype = params[0].dtype
    refuse_dtype(dtype)
    f = tables(key)
    arrays = {n: p.contiguous().numpy() for n, p in zip(f.PARAMETERS, params, strict=True)}
    return _compiled(key, dtype, threads), arrays | f.CONSTANTS


def _said(lengths: Tensor | None, resets: Tensor | None, seed: Tensor | None) -> dict[str, Any]:
    return {
        "lengths": None if lengths is None else lengths.numpy(),
        "resets": None if resets is None else resets.numpy(),
        "seed": None if seed is None else int(seed),
    }


_LIBRARY = torch.library.Library("lstmgen", "FRAGMENT")
_GIVEN = "Tensor[] params, Tensor x, Tensor[] states, Tensor? lengths, Tensor? resets, Tensor? seed"
_TAGS = (torch.Tag.pt2_compliant_tag,)
_LIBRARY.define(f"network({_GIVEN}, str network, bool keep) -> Tensor[]", tags=_TAGS)
_LIBRARY.define(
    f"network_backward(Tensor dy, Tensor[] dstates, {_GIVEN}, Tensor tape, Tensor threads, "
    "str network, bool wants_x) -> Tensor[]",
    tags=_TAGS,
)


@torch.library.impl(_LIBRARY, "network", "CPU")
def _forward(
    params: Sequence[Tensor], x: Tensor, states: Sequence[Tensor], lengths: Tensor | None,
    resets: Tensor | None, seed: Tensor | None, network: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    """y, the final states, the tape, and the number of threads that made it."""
    threads = torch.get_num_threads()
    module, arrays = _module(network, params, threads)
    _same_kind(network, x, params[0])
    given = dict(zip(module.STATES, (s.numpy() for s in states), strict=True)) if states else None
    y, final, tape = module.forward(
        arrays, x.numpy(), given, tape=keep, **_said(lengths, resets, seed)
    )
    kept = params[0].new_empty(0)
    if keep:
        kept = torch.frombuffer(module.released(tape), dtype=params[0].dtype)
    made = [torch.from_numpy(y), *(torch.from_numpy(final[n]) for n in module.STATES)]
    return [*made, kept, torch.tensor(threads)]


@torch.library.impl(_LIBRARY, "network_backward", "CPU")
def _backward(
    dy: Tensor, dstates: Sequence[Tensor], params: Sequence[Tensor], x: Tensor,
    states: Sequence[Tensor], lengths: Tensor | None, resets: Tensor | None, seed: Tensor | None,
    tape: Tensor, threads: Tensor, network: str, wants_x: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the learned parameters, of x if it is wanted, and of the initial states."""
    module, arrays = _module(network, params, int(threads))
    final = dict(zip(module.STATES, (d.numpy() for d in dstates), strict=True)) if dstates else None
    grads, dx, first = module.backward_from(
        tape.numpy(), arrays, x.numpy(), dy.numpy(), final, inputs=wants_x,
        **_said(lengths, resets, seed),
    )  # fmt: skip
    made = [*grads.values(), *([dx] if wants_x else []), *(first[n] for n in module.STATES)]
    return [torch.from_numpy(a) for a in made]


def _same_kind(network: str, x: Tensor, parameter: Tensor) -> None:
    if not tables(network).SYMBOLS and x.dtype != parameter.dtype:
        raise TypeError(
            f"x is {x.dtype}, and the parameters are {parameter.dtype}\n"
            "  hint: x.to(module.dtype), or module.to(x.dtype)"
        )


def _forward_shapes(
    params: Sequence[Tensor], x: Tensor, states: Sequence[Tensor], lengths: Tensor | None,
    resets: Tensor | None, seed: Tensor | None, network: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    f, out = tables(network), _structures[network].graph.output
    T, B = x.shape[0], x.shape[1]
    D = x.shape[2] if x.dim() > 2 else None
    like = params[0]

    def units(n: Any) -> Any:
        return D if str(n) == "D" else int(n)

    y = like.new_empty((*([] if out.of_rows else [T]), B, units(out.size)))
    final = [like.new_empty((B, *map(units, axes))) for axes in f.STATES.values()]
    numbers: Any = torch.library.get_ctx().new_dynamic_size() if keep else 0
    return [y, *final, like.new_empty(numbers), torch.empty((), dtype=torch.int64)]


def _backward_shapes(
    dy: Tensor, dstates: Sequence[Tensor], params: Sequence[Tensor], x: Tensor,
    states: Sequence[Tensor], lengths: Tensor | None, resets: Tensor | None, seed: Tensor | None,
    tape: Tensor, threads: Tensor, network: str, wants_x: bool,
) -> list[Tensor]:  # fmt: skip
    f, B = tables(network), x.shape[1]
    D: Any = x.shape[2] if x.dim() > 2 else None
    made = [torch.empty_like(p) for n, p in zip(f.PARAMETERS, params, strict=True)
            if n not in f.UNLEARNED]  # fmt: skip
    made += [torch.empty_like(x)] if wants_x else []
    return made + [
        params[0].new_empty((B, *(D if str(n) == "D" else int(n) for n in axes)))
        for axes in f.STATES.values()
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    params, x, states, lengths, resets, seed, network, _ = inputs
    ctx.counts, ctx.network, ctx.said = (len(params), len(states)), network, (lengths, resets, seed)
    ctx.save_for_backward(*params, x, *states, output[-2], output[-1])
    ctx.mark_non_differentiable(output[-2], output[-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    n, k = ctx.counts
    *tensors, tape, threads = ctx.saved_tensors
    params, x, states = tensors[:n], tensors[n], tensors[n + 1 :]
    f = tables(ctx.network)
    lengths, resets, seed = ctx.said
    shapes = _forward_shapes(params, x, states, lengths, resets, seed, ctx.network, False)
    dy, *dstates = [
        like.new_zeros(like.shape) if d is None else d.contiguous()
        for d, like in zip(grads[:-2], shapes[:-2], strict=True)
    ]
    wants_x = bool(ctx.needs_input_grad[1])
    made = torch.ops.lstmgen.network_backward(
        dy, dstates, params, x, states, lengths, resets, seed, tape, threads, ctx.network, wants_x
    )
    learned = [name for name in f.PARAMETERS if name not in f.UNLEARNED]
    by_name = dict(zip(learned, made, strict=False))
    dx = made[len(learned)] if wants_x else None
    firsts = list(made[len(made) - len(f.STATES) :]) if k else []
    return [by_name.get(name) for name in f.PARAMETERS], dx, firsts, None, None, None, None, None


def _refuse_second(ctx: Any, grads: Sequence[Tensor | None]) -> Any:
    raise NotImplementedError(
        "a network as one operator has no second derivatives\n"
        "  hint: put lstmgen.torch.Recurrent layers together, which have them"
    )


torch.library.register_fake("lstmgen::network", _forward_shapes)
torch.library.register_fake("lstmgen::network_backward", _backward_shapes)
torch.library.register_autograd("lstmgen::network", _differentiate, setup_context=_keep)
torch.library.register_autograd("lstmgen::network_backward", _refuse_second)
