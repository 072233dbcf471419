"""A character language model that several processes train, on one machine or on many.

It is a module of PyTorch around a recurrent layer of generated code, under DistributedDataParallel:

    python train.py                                                     # one process
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1                         # see join()
    torchrun --standalone --nproc-per-node=2 --max-restarts=3 train.py  # two

All that is random follows from the seed and the number of the update, for the whole batch; each
process takes the rows that are its own. So the loss curve is the same, up to rounding, for any
number of processes, and for a run that was killed and goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # charlm.py and common.py
from charlm import Vocabulary, load_text, streams
from common import find_cell, other_sizes, positive

import lstmgen
from lstmgen.torch import Recurrent, register

EMBEDDING = 32  # numbers that stand for a character
CLIP = 1.0  # the norm of the gradient
CHECKPOINT, CURVE, LOG = "checkpoint.pt", "loss.csv", "log.jsonl"


class CharacterModel(nn.Module):
    """What the next character may be, at each place of a text."""

    def __init__(
        self, cell: lstmgen.Cell, characters: int, hidden: int, sizes: dict[str, int]
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, EMBEDDING)
        self.layer = Recurrent(cell, EMBEDDING, hidden, **sizes)
        if len(cell.outputs) > 1:
            raise lstmgen.LstmgenError(f"{cell.name} has several outputs; this model takes one")
        self.readout = nn.Linear(self.layer.output_size, characters)

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (T, B, characters) of ids (T, B); ``keep`` is what dropout multiplies by."""
        y = self.layer(self.embedding(ids))[0].flatten(2)
        return self.readout(y if keep is None else y * keep)


# ---------------------------------------------------------------------- what is learned from


class Batch(NamedTuple):
    """The rows of one process in a batch, time first."""

    ids: Tensor
    targets: Tensor
    keep: Tensor | None


def rows_of(rank: int, processes: int, rows: int) -> slice:
    """The rows of a batch that a process has; of an odd batch some have one more."""
    return slice(rows * rank // processes, rows * (rank + 1) // processes)


def batch_at(step: int, text: np.ndarray, width: int, args: argparse.Namespace) -> Batch:
    """The rows that are this process's own in the batch of an update.

    Every process draws the whole batch, which costs little beside training on it, so that a row is
    the same whoever has it. There is no state of a generator, and none in a checkpoint.
    """
    rng = np.random.default_rng([args.seed, step])
    own = rows_of(dist.get_rank(), dist.get_world_size(), args.batch)
    starts = rng.integers(0, len(text) - args.window, args.batch)[own]
    windows = torch.from_numpy(text[starts + np.arange(args.window + 1)[:, np.newaxis]])
    keep = None
    if args.dropout:
        kept = rng.random((args.batch, args.window, width))[own] >= args.dropout
        scaled = kept.swapaxes(0, 1) / (1 - args.dropout)
        keep = torch.from_numpy(scaled).to(torch.get_default_dtype())
    return Batch(windows[:-1], windows[1:], keep)


# ---------------------------------------------------------------------- checkpoints


def put(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: whoever is killed meanwhile leaves the old one."""
    node = f"{socket.gethostname()}-{os.environ.get('GROUP_RANK', '0')}"
    beside = path.with_name(f"{path.name}.{node}.part")
    with beside.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    if os.name == "posix":  # the new name has to be on the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def newest(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The newest checkpoint that a process finds in its ``out``, the same for all processes.

    Nodes need not share a file system: each keeps a checkpoint of its own, and a node that is new
    or was away is sent the newest.
    """
    found = None
    if (out / CHECKPOINT).is_file():
        found = torch.load(out / CHECKPOINT, weights_only=True)
        refuse_others(settings, found["settings"], f"the checkpoint in {out}")
    steps: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(steps, found["step"] if found else -1)
    if max(steps) < 0:
        return None
    source = steps.index(max(steps))
    sent = [found if dist.get_rank() == source else None]
    dist.broadcast_object_list(sent, src=source)
    return sent[0]


def refuse_others(own: dict[str, Any], other: dict[str, Any], whose: str) -> None:
    """Refuse to go on with what would not be the same curve."""
    for name, value in own.items():
        if other.get(name) != value:
            raise SystemExit(f"error: {name} is {value}, and in {whose} {other.get(name)}")


# ---------------------------------------------------------------------- training


def join() -> None:
    """Join the processes of torchrun or of another launcher; by itself, this process is all.

    Processes find each other by what they write into a store. torchrun of PyTorch 2.4 and later
    keeps one store over restarts, by default: new processes find the addresses of those that
    died, and wait for ever (pytorch/pytorch#135712). So this is refused while it is no harm.
    """
    if "RANK" not in os.environ:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise SystemExit(
            "error: processes that torchrun starts again would wait for those that died\n"
            "  hint: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, and give torchrun --standalone "
            "or --rdzv-backend=c10d"
        )
    dist.init_process_group("gloo")


def compile_once(model: CharacterModel) -> None:
    """Compile the cell's code in one process of each node, and then find it in the cache.

    The cache is safe for processes that compile at once, but all of them would do the same work.
    """
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    for turn in (True, False):
        if first == turn:
            with torch.no_grad():
                model(torch.zeros(1, 1, dtype=torch.long))
        dist.barrier()


class Log:
    """What happened, a line each: starts, updates and the end. Steps done again appear again."""

    def __init__(self, path: Path) -> None:
        self._path = path if dist.get_rank() == 0 else None
        if self._path and self._path.is_file():
            whole = self._path.read_bytes()
            if not whole.endswith(b"\n"):  # the machine went down while it was written
                os.truncate(self._path, whole.rfind(b"\n") + 1)

    def write(self, **what: Any) -> None:
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**what, "time": round(time.time(), 3)}) + "\n")


def curve_as_csv(losses: list[float]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "loss"])
    writer.writerows(enumerate(losses))
    return text.getvalue().encode()


def train(args: argparse.Namespace) -> None:
    rank, processes = dist.get_rank(), dist.get_world_size()
    if processes > args.batch:
        raise SystemExit(f"error: {processes} processes for a batch of {args.batch} rows")
    torch.set_default_dtype(getattr(torch, args.dtype))
    training, held_out, what = load_text(args.text)
    vocabulary = Vocabulary(training)
    text = vocabulary.encode(training)
    cell = find_cell(args.cell)
    torch.manual_seed(args.seed)
    sizes = dict(args.size) or other_sizes(cell, args.hidden)
    model = CharacterModel(cell, len(vocabulary), args.hidden, sizes)

    # what decides the curve, and so has to be the same everywhere and in a run that goes on
    settings = {
        name: getattr(args, name)
        for name in ("hidden", "batch", "window", "dropout", "rate", "seed", "dtype")
    }
    settings["cell"] = register(cell)  # its name and its equations
    settings["sizes"] = sizes
    settings["text"] = hashlib.sha256(training.encode()).hexdigest()
    everywhere: list[Any] = [None] * processes
    dist.all_gather_object(everywhere, (settings, [socket.gethostname(), os.getpid()]))
    refuse_others(settings, everywhere[0][0], "the first process")

    compile_once(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.rate)
    step, losses = 0, []
    saved = newest(args.out, settings)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, losses = saved["step"], saved["losses"].tolist()
    args.out.mkdir(parents=True, exist_ok=True)
    log = Log(args.out / LOG)
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    log.write(start=step, processes=processes, restart=restart, workers=[w for _, w in everywhere])
    if rank == 0:
        numbers = sum(p.numel() for p in model.parameters())
        print(f"{what.partition(';')[0]}, {len(text)} characters to train on")
        print(f"{cell.name}, {numbers} parameters, {processes} processes, from update {step} on")

    parallel = DistributedDataParallel(model)
    while step < args.steps:
        loss = update(
            parallel, optimizer, batch_at(step, text, model.readout.in_features, args), args
        )
        losses.append(loss)
        log.write(step=step, loss=loss)
        step += 1
        if step % args.every == 0 or step == args.steps:
            save(args.out, settings, step, model, optimizer, losses)
            if rank == 0:
                recent = losses[-args.every :]
                print(f"  update {step:5d}  bits per character {bits(np.mean(recent)):.3f}")
    if rank == 0:
        told = bits(evaluate(model, vocabulary.encode(held_out)))
        print(f"Held out: {told:.2f} bits per character\nLoss curve: {args.out / CURVE}")
        log.write(end=step, held_out=told)


def update(
    parallel: DistributedDataParallel, optimizer: Any, batch: Batch, args: argparse.Namespace
) -> float:
    """One update of the parameters; returns the loss of the whole batch."""
    logits = parallel(batch.ids, batch.keep)
    part = nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
    ) / (args.batch * args.window)
    # parts of the loss add up, and DistributedDataParallel takes the mean of their gradients
    optimizer.zero_grad()
    (part * dist.get_world_size()).backward()
    nn.utils.clip_grad_norm_(parallel.parameters(), CLIP)
    optimizer.step()
    loss = part.detach().double()
    dist.all_reduce(loss)
    return loss.item()


def save(
    out: Path, settings: dict[str, Any], step: int, model: nn.Module, optimizer: Any,
    losses: list[float],
) -> None:  # fmt: skip
    """Write the checkpoint of this node, by its first process, and the loss curve."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        state = {
            "settings": settings,
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "losses": torch.tensor(losses, dtype=torch.float64),
        }
        put(out / CHECKPOINT, lambda file: torch.save(state, file))
    if dist.get_rank() == 0:
        put(out / CURVE, lambda file: file.write(curve_as_csv(losses)))


@torch.no_grad()
def evaluate(model: CharacterModel, ids: np.ndarray, count: int = 16) -> float:
    """The loss on text cut into ``count`` pieces, each read from its beginning to its end."""
    pieces = torch.from_numpy(np.ascontiguousarray(streams(ids, count)))
    logits = model(pieces[:-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), pieces[1:].flatten()).item()


def bits(loss: Any) -> float:
    return float(loss) / math.log(2)


# ---------------------------------------------------------------------- the command


def size(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, positive(number)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cell = "a name that `lstmgen cells` lists, or your own, my_cell.cell (default: lstm)"
    parser.add_argument("--cell", default="lstm", help=cell)
    parser.add_argument(
        "--size", type=size, action="append", default=[], metavar="NAME=NUMBER",
        help="another size of the cell, such as heads, N=4 for slstm (default: half of --hidden)",
    )  # fmt: skip
    for name, default, told in (
        ("hidden", 128, "units of the cell"),
        ("batch", 32, "windows of text in an update, over all processes"),
        ("window", 64, "characters in a window"),
        ("steps", 600, "updates in all; a run that has ended goes on if there are more"),
        ("every", 50, "updates from one checkpoint to the next"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, default=default, help=f"{told} (default: %(default)s)"
        )
    parser.add_argument("--rate", type=float, default=5e-3, help="of learning (default: 0.005)")
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="of what the readout reads (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--text", type=Path, metavar="FILE", help="learn this text instead")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1] / "output" / "distributed",
        help="where checkpoint, curve and log are; a run goes on from what it finds there",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    if not 0 <= args.dropout < 1 or args.rate <= 0 or args.seed < 0:
        parser.error("--dropout is from 0 to below 1, --rate above 0, and --seed not negative")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    join()
    try:
        train(args)
    except lstmgen.LstmgenError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
