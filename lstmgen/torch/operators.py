"""The operators of PyTorch: ``lstmgen::forward``, its derivative, and the derivative of that.

Each runs a kernel, which one by the key of a cell. To ``torch.compile`` and ``torch.export`` they
are opaque: a graph has one node for a sequence, whatever its length. In eager mode they are in
autograd functions, which ``torch.func`` sees through as well.

The derivative of ``lstmgen::backward`` is that of a Jacobian transposed times the adjoints ȳ. With
cotangents v it is J v by the adjoints and ∂/∂θ ⟨ȳ, J v⟩ by all else: forward and backward of the
cell that carries a tangent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kernels import Kernel, face, kernel, refuse_dtype

Tensors = Sequence[Tensor]


class Call(NamedTuple):
    """A call without its tensors: of which cell, and how many of each kind there are."""

    cell: str
    constants: tuple[float, ...]
    params: int
    inputs: int
    states: int
    masks: int
    keep: bool

    def cut(self, tensors: Sequence[Any]) -> list[list[Any]]:
        """Parameters, inputs, states and masks, of tensors side by side; and the rest."""
        parts, at = [], 0
        for count in (self.params, self.inputs, self.states, self.masks):
            parts.append(list(tensors[at : at + count]))
            at += count
        return [*parts, list(tensors[at:])]


# --------------------------------------------------------------------------- what runs

# Declared by schemas: the checks that torch.library.custom_op wraps around each call take longer
# than a short sequence does.
_LIBRARY = torch.library.Library("lstmgen", "DEF")
_TENSORS = "Tensor[] params, Tensor[] inputs, Tensor[] states, Tensor[] masks"
_LIBRARY.define(
    f"forward({_TENSORS}, float[] constants, str cell, bool keep) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    f"backward(Tensor[] dys, Tensor[] dfinals, {_TENSORS}, Tensor tape, float[] constants, "
    "str cell, bool wants_params, bool wants_inputs) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    "second(Tensor[] v_params, Tensor[] v_inputs, Tensor[] v_states, Tensor[] dys, "
    f"Tensor[] dfinals, {_TENSORS}, float[] constants, str cell) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(_LIBRARY, "forward", "CPU")
def forward(
    params: Sequence[Tensor], inputs: Sequence[Tensor], states: Sequence[Tensor],
    masks: Sequence[Tensor], constants: Sequence[float], cell: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    """Outputs, final states, and the tape."""
    of = kernel(cell, inputs[0].dtype, torch.get_num_threads())
    ys, finals, tape = of.forward(params, inputs, states, masks, constants, keep)
    return [*ys, *finals, tape]


@torch.library.impl(_LIBRARY, "backward", "CPU")
def backward(
    dys: Sequence[Tensor], dfinals: Sequence[Tensor], params: Sequence[Tensor],
    inputs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor], tape: Tensor,
    constants: Sequence[float], cell: str, wants_params: bool, wants_inputs: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the learned parameters and of the inputs, if they are wanted, and of the initial
    states.
    """
    given = params, inputs, states, masks
    if not tape.numel():  # nobody knew that there would be a way back
        of = kernel(cell, inputs[0].dtype, torch.get_num_threads())
        tape = of.forward(*given, constants, True)[2]
    else:
        of = kernel(cell, inputs[0].dtype, int(tape[-1]))
    grads, dxs, firsts = of.backward(
        dys, dfinals, *given, tape, constants, wants_params, wants_inputs
    )
    return [*grads, *dxs, *firsts]


@torch.library.impl(_LIBRARY, "second", "CPU")
def second(
    v_params: Sequence[Tensor], v_inputs: Sequence[Tensor], v_states: Sequence[Tensor],
    dys: Sequence[Tensor], dfinals: Sequence[Tensor], params: Sequence[Tensor],
    inputs: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor],
    constants: Sequence[float], cell: str,
) -> list[Tensor]:  # fmt: skip
    """What cotangents v of ``backward`` do: gradients of dys, dfinals, the learned parameters, the
    inputs and the initial states. The tangent cell computes them.
    """
    own = face(cell)
    key, directions = own.tangent
    of = kernel(key, inputs[0].dtype, torch.get_num_threads())
    held = [*own.states] if states else []
    values = dict(zip((*own.parameters, *own.inputs, *own.masks, *held),
                      (*params, *inputs, *masks, *states), strict=True))  # fmt: skip
    moving = zip((*own.learned, *own.inputs, *held), (*v_params, *v_inputs, *v_states), strict=True)
    values |= {directions[name]: v for name, v in moving if name in directions}
    t_params, t_inputs, t_masks = (
        [values[n] for n in table] for table in (of.face.parameters, of.face.inputs, of.face.masks)
    )
    t_states = [values[n] for n in of.face.states] if states else []
    given = t_params, t_inputs, t_states, t_masks
    by_name = dict(zip(own.constants, constants, strict=True))
    numbers = [by_name[n] for n in of.face.constants]
    ys, finals, tape = of.forward(*given, numbers, True)
    y_of, final_of = (
        dict(zip(of.face.outputs, ys, strict=True)),
        dict(zip(of.face.states, finals, strict=True)),
    )

    def seeds(names: Sequence[str], adjoints: Tensors, like: dict[str, Tensor]) -> list[Tensor]:
        """Adjoints of what is moved; zeros for what moves it."""
        found = {n: torch.zeros_like(t) for n, t in like.items()}
        for name, adjoint in zip(names, adjoints, strict=True):
            if directions.get(name) in found:
                found[directions[name]] = adjoint
        return list(found.values())

    t_dfinals = seeds([*own.states], dfinals, final_of) if dfinals else []
    grads, dxs, firsts = of.backward(
        seeds([*own.outputs], dys, y_of), t_dfinals, *given, tape, numbers, True, True
    )
    moved = [
        like.get(directions.get(name, ""), torch.zeros_like(like[name]))
        for names, like, adjoints in ((own.outputs, y_of, dys), (own.states, final_of, dfinals))
        for name, _ in zip(names, adjoints, strict=False)
    ]
    # the cell with a tangent may have all of these in another order
    grad_of = dict(zip((*of.face.learned, *of.face.inputs, *of.face.states),
                       (*grads, *dxs, *firsts), strict=True))  # fmt: skip
    return [*moved, *(grad_of[name] for name in (*own.learned, *own.inputs, *own.states))]


# --------------------------------------------------------------------------- shapes alone


def _forward_shapes(
    params: Tensors, inputs: Tensors, states: Tensors, masks: Tensors, constants: Sequence[float],
    cell: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    of, like = face(cell), inputs[0]
    refuse_dtype(like.dtype)
    sizes = of.known(params, inputs, states, masks)
    made = [like.new_empty(s) for s in of.shapes(of.outputs, sizes, sizes["T"], sizes["B"])]
    made += [like.new_empty(s) for s in of.shapes(of.states, sizes, sizes["B"])]
    numbers: Any = 0
    if keep:
        numbers = _numbers_of_tape(kernel(cell, like.dtype, torch.get_num_threads()), sizes)
    return [*made, like.new_empty(numbers)]


torch.library.register_fake("lstmgen::forward", _forward_shapes)


def _backward_shapes(
    dys: Tensors, dfinals: Tensors, params: Tensors, inputs: Tensors, states: Tensors,
    masks: Tensors, tape: Tensor, constants: Sequence[float], cell: str, wants_params: bool,
    wants_inputs: bool,
) -> list[Tensor]:  # fmt: skip
    of, like = face(cell), inputs[0]
    sizes = of.known(params, inputs, states, masks)
    by_name = dict(zip(of.parameters, params, strict=True))
    learned = [by_name[name] for name in of.learned] if wants_params else []
    made = [p.new_empty(p.shape) for p in learned]
    made += [x.new_empty(x.shape) for x in inputs] if wants_inputs else []
    return [*made, *(like.new_empty(s) for s in of.shapes(of.states, sizes, sizes["B"]))]


torch.library.register_fake("lstmgen::backward", _backward_shapes)


def _second_shapes(
    v_params: Tensors, v_inputs: Tensors, v_states: Tensors, dys: Tensors, dfinals: Tensors,
    params: Tensors, inputs: Tensors, states: Tensors, masks: Tensors, constants: Sequence[float],
    cell: str,
) -> list[Tensor]:  # fmt: skip
    of, like = face(cell), inputs[0]
    sizes = of.known(params, inputs, states, masks)
    made = [t.new_empty(t.shape) for t in (*dys, *dfinals, *v_params, *inputs)]
    return [*made, *(like.new_empty(s) for s in of.shapes(of.states, sizes, sizes["B"]))]


torch.library.register_fake("lstmgen::second", _second_shapes)


def _numbers_of_tape(of: Kernel, sizes: dict[str, Any]) -> Any:
    """The numbers of a tape where T or B may be symbols: what C says is affine in each of them."""
    T, B = sizes["T"], sizes["B"]
    if isinstance(T, int) and isinstance(B, int):
        return of.tape_numbers(sizes)
    # slices for threads are of whole rows, and every row takes as much
    rows, others = 2 * of.threads, {n: int(size) for n, size in sizes.items() if n not in "TB"}

    def at(steps: int, more: int) -> int:
        return of.tape_numbers({**others, "T": steps, "B": rows + more})

    of_step, of_row = at(2, 0) - at(1, 0), at(1, 1) - at(1, 0)
    both = at(2, 1) - at(1, 1) - of_step
    return at(1, 0) + (T - 1) * of_step + (B - rows) * (of_row + (T - 1) * both)


# --------------------------------------------------------------------------- derivatives


def _pull(
    call: Call, tensors: Tensors, tape: Tensor, dys: Sequence[Tensor | None],
    dfinals: Sequence[Tensor | None], needs: Sequence[bool], apply: Callable[..., Any],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of the tensors of a call, those that are needed."""
    params, inputs, states, masks, _ = call.cut(tensors)
    of = face(call.cell)
    is_needed = call.cut(needs)
    learned = [flag for name, flag in zip(of.parameters, is_needed[0], strict=True)
               if name in of.learned]  # fmt: skip
    wants_params, wants_inputs = any(learned), any(is_needed[1])
    if all(d is None for d in dfinals):
        dfinals = []
    given = [*dys, *dfinals]
    if any(d is None for d in given):
        sizes = of.known(params, inputs, states, masks)
        shapes = of.shapes(of.outputs, sizes, sizes["T"], sizes["B"])
        shapes += of.shapes(of.states, sizes, sizes["B"])
        given = [inputs[0].new_zeros(s) if d is None else d
                 for d, s in zip(given, shapes, strict=False)]  # fmt: skip
    made = list(apply(call, len(dfinals), wants_params, wants_inputs, *given, *tensors, tape))
    grads = dict(zip(of.learned, made, strict=False)) if wants_params else {}
    made = made[len(of.learned) if wants_params else 0 :]
    dxs = made[: call.inputs] if wants_inputs else [None] * call.inputs
    firsts = made[len(made) - len(of.states) :] if states else []
    return [*(grads.get(name) for name in of.parameters), *dxs, *firsts, *[None] * call.masks]


def _pull_again(
    call: Call, dys: Tensors, dfinals: Tensors, tensors: Tensors, v: Sequence[Tensor | None],
    wants: tuple[bool, bool], apply: Callable[..., Any],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of dys, dfinals and the tensors of a call, from those of what ``backward``
    made of them: of the parameters and of the inputs, if it was to make these.
    """
    wants_params, wants_inputs = wants
    params, inputs, states, _masks, _ = call.cut(tensors)
    of = face(call.cell)
    by_name = dict(zip(of.parameters, params, strict=True))
    learned = [by_name[name] for name in of.learned]
    n = len(learned) if wants_params else 0
    k = call.inputs if wants_inputs else 0
    parts = [v[:n] or [None] * len(learned), v[n : n + k] or [None] * call.inputs, v[n + k :]]
    v_params, v_inputs = (
        [torch.zeros_like(t) if d is None else d for d, t in zip(part, like, strict=True)]
        for part, like in zip(parts, (learned, inputs), strict=False)
    )
    v_states = [torch.zeros_like(t) if d is None else d
                for d, t in zip(parts[2], states, strict=False)]  # fmt: skip
    made = list(apply(call, v_params, v_inputs, v_states, dys, dfinals, tensors))
    count = len(dys) + len(dfinals)
    rest = made[count:]
    grads = dict(zip(of.learned, rest, strict=False))
    dxs = rest[len(of.learned) : len(of.learned) + call.inputs]
    firsts = rest[len(of.learned) + call.inputs :] if states else []
    by_params = [grads.get(name) for name in of.parameters]
    return [*made[:count], *by_params, *dxs, *firsts, *[None] * call.masks]


# ------------------------------ in graphs


def _run_backward(
    call: Call, finals: int, wants_params: bool, wants_inputs: bool, *tensors: Tensor
) -> list[Tensor]:
    at = len(face(call.cell).outputs)
    params, inputs, states, masks, rest = call.cut(tensors[at + finals :])
    made: list[Tensor] = torch.ops.lstmgen.backward(
        list(tensors[:at]), list(tensors[at : at + finals]), params, inputs, states, masks,
        rest[0], call.constants, call.cell, wants_params, wants_inputs,
    )  # fmt: skip
    return made


def _run_second(
    call: Call, v_params: Tensors, v_inputs: Tensors, v_states: Tensors, dys: Tensors,
    dfinals: Tensors, tensors: Tensors,
) -> list[Tensor]:  # fmt: skip
    params, inputs, states, masks, _ = call.cut(tensors)
    made: list[Tensor] = torch.ops.lstmgen.second(
        v_params, v_inputs, v_states, list(dys), list(dfinals), params, inputs, states, masks,
        call.constants, call.cell,
    )  # fmt: skip
    return made


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    params, xs, states, masks, constants, cell, keep = inputs
    counts = len(params), len(xs), len(states), len(masks)
    ctx.call = Call(cell, tuple(constants), *counts, keep)
    ctx.save_for_backward(*params, *xs, *states, *masks, output[-1])
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)


def _differentiate_forward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    call, at = ctx.call, len(face(ctx.call.cell).outputs)
    *tensors, tape = ctx.saved_tensors
    needs = [flag for part in ctx.needs_input_grad[:4] for flag in part]
    made = _pull(call, tensors, tape, grads[:at], grads[at:-1], needs, _run_backward)
    nothing = [None] * len(call.constants)
    return (*call.cut(made)[:4], nothing, None, None)


torch.library.register_autograd(
    "lstmgen::forward", _differentiate_forward, setup_context=_keep_forward
)


# ------------------------------ in eager mode


class Forward(torch.autograd.Function):
    """A sequence forward: takes a ``Call`` and its tensors."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        params, inputs, states, masks, _ = call.cut(tensors)
        return tuple(forward(params, inputs, states, masks, call.constants, call.cell, call.keep))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors, output[-1])
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        at = len(face(ctx.call.cell).outputs)
        *tensors, tape = ctx.saved_tensors
        needs, back = ctx.needs_input_grad[1:], _chosen(Backward, BackwardAlone).apply
        made = _pull(ctx.call, tensors, tape, grads[:at], grads[at:-1], needs, back)
        return None, *made

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *tensors: Tensor) -> Any:
        return _one_by_one(Forward, info, in_dims[1:], tensors, call)


class ForwardAlone(torch.autograd.Function):
    """The same where no transform of ``torch.func`` is at work: a call takes half the time then."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        made = Forward.forward(call, *tensors)
        Forward.setup_context(ctx, (call, *tensors), made)
        return made

    backward = Forward.backward


class Backward(torch.autograd.Function):
    """The way back: takes a ``Call``, how many ``dfinals`` there are, what is wanted, and tensors:
    dys, dfinals, those of the call, the tape.
    """

    @staticmethod
    def forward(
        call: Call, finals: int, wants_params: bool, wants_inputs: bool, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(_run_backward(call, finals, wants_params, wants_inputs, *tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, ctx.finals, ctx.wants = inputs[0], inputs[1], inputs[2:4]
        ctx.save_for_backward(*inputs[4:-1])  # the tape tells nothing that these do not
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *v: Tensor | None) -> tuple[Any, ...]:
        tensors, at = ctx.saved_tensors, len(face(ctx.call.cell).outputs)
        dys, dfinals = tensors[:at], tensors[at : at + ctx.finals]

        def apply(call: Call, *parts: Any) -> Any:
            counts = [len(part) for part in parts]
            return Second.apply(call, counts, *(t for part in parts for t in part))

        made = _pull_again(ctx.call, dys, dfinals, tensors[at + ctx.finals :], v, ctx.wants, apply)
        return None, None, None, None, *made, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: Call, finals: int, wants_params: bool,
        wants_inputs: bool, *tensors: Tensor,
    ) -> Any:  # fmt: skip
        given = call, finals, wants_params, wants_inputs
        return _one_by_one(Backward, info, in_dims[4:], tensors, *given)


class BackwardAlone(torch.autograd.Function):
    """The same without transforms."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        made = Backward.forward(*given)
        Backward.setup_context(ctx, given, made)
        return made

    backward = Backward.backward


class Second(torch.autograd.Function):
    """The derivative of the way back: a ``Call``, how many tensors of each kind, and these."""

    @staticmethod
    def forward(call: Call, counts: Sequence[int], *tensors: Tensor) -> tuple[Tensor, ...]:
        parts, at = [], 0
        for count in counts:
            parts.append(tensors[at : at + count])
            at += count
        return tuple(_run_second(call, *parts))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell = inputs[0].cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            f"{ctx.cell.partition(':')[0]}: there are first and second derivatives, and no third"
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: Call, counts: Sequence[int], *tensors: Tensor
    ) -> Any:
        return _one_by_one(Second, info, in_dims[2:], tensors, call, counts)


def _chosen(seen_through: Any, alone: Any) -> Any:
    """What ``torch.func`` sees through, where it is at work; else what takes less time."""
    return seen_through if torch._C._are_functorch_transforms_active() else alone


def _one_by_one(
    function: Any, info: Any, in_dims: Sequence[int | None], tensors: Tensors, *given: Any
) -> Any:
    """A function for each of a batch of arguments."""
    made = [
        function.apply(*given, *(
            t if d is None else t.select(d, k) for t, d in zip(tensors, in_dims, strict=True)
        ))
        for k in range(info.batch_size)
    ]  # fmt: skip
    stacked = tuple(torch.stack(parts) for parts in zip(*made, strict=True))
    return stacked, (0,) * len(stacked)


# --------------------------------------------------------------------------- what modules call


def run(
    cell: str, params: Tensors, inputs: Tensors, states: Tensors, masks: Tensors,
    constants: Sequence[float], outputs: int,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """A cell over a sequence: (outputs, final states), in the order of its tables.

    Parameters
    ----------
    cell : str
        The key that ``register`` gave.
    params, inputs, states, masks : sequence of Tensor
        All of the cell's, in order; no states are those that it starts with. On the CPU.
    constants : sequence of float
    outputs : int
        How many the cell has. (A graph is made without looking into the cell.)

    Raises
    ------
    ValueError
        If shapes do not fit.
    TypeError
        If numbers are neither float32 nor float64.
    """
    counts = len(params), len(inputs), len(states), len(masks)
    tensors = _widened([*params, *inputs, *states, *masks])
    call = Call(cell, tuple(constants), *counts, False)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if torch.compiler.is_compiling():
        parts = call.cut(tensors)[:4]
        made = torch.ops.lstmgen.forward(*parts, call.constants, cell, keep)
    else:
        made = _chosen(Forward, ForwardAlone).apply(call._replace(keep=keep), *tensors)
    return list(made[:outputs]), list(made[outputs:-1])


def _widened(tensors: Tensors) -> list[Tensor]:
    """Under autocast what is of half precision, in float32: kernels compute in no less."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]
