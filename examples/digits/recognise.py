"""Recognise spoken digits in noise, by voices that were never heard, with a cell in PyTorch.

espeak-ng speaks the digits (speech.py), in voices, accents, speeds and pitches of many kinds;
features.py adds noise and gives log-mel energies. A network reads them from both ends: it is
`lstmgen.torch.Recurrent`, of any cell, over packed sequences of different lengths, and
`torch.nn.Linear` on its last state of each direction.

No voice of the test is heard in training, and some accents are heard in the test only. The network
is compared with torch.nn.GRU and torch.nn.LSTM of as many units, trained in the same way, and with
logistic regression on means of the same features. The exit status is 1 if it does not beat the
logistic regressions (with --quick it is 0).
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# The products of one step are too small to share among threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import drawing
import numpy as np
import speech
from common import find_cell, positive, shown
from features import BANDS, Lessons, Scale, lessons, pooled

import lstmgen

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

    from lstmgen.torch import Recurrent
except (ImportError, lstmgen.LstmgenError):
    raise SystemExit("error: it needs PyTorch: pip install 'lstmgen[c,examples,torch]'") from None

CELL = Path(__file__).resolve().parents[1] / "ligru.cell"
IN_TRAINING = (0.0, 30.0)  # dB: the SNRs of training and validation
SNRS = (20, 10, 5, 0, -5, -10)  # dB: those of the test
NEW_ACCENTS_AT = 5  # dB
COPIES = 2  # of each recording, in a noise of its own
RATE, CLIP = 3e-3, 1.0
STRETCHES = 8
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # of logistic regression; the validation part chooses


class Recogniser(nn.Module):
    """A bidirectional recurrent module, and a linear map of what it says last in each direction."""

    def __init__(self, recurrent: nn.Module, units: int) -> None:
        super().__init__()
        self.recurrent, self.units = recurrent, units
        self.readout = nn.Linear(2 * units, len(speech.DIGITS))

    def forward(self, x: PackedSequence) -> Tensor:
        y, lengths = pad_packed_sequence(self.recurrent(x)[0])
        forwards = y[lengths - 1, torch.arange(len(lengths)), : self.units]
        return self.readout(torch.cat([forwards, y[0, :, self.units :]], dim=-1))


def ours(cell: lstmgen.Cell, hidden: int) -> Recogniser:
    recurrent = Recurrent(cell, BANDS, hidden, bidirectional=True)
    return Recogniser(recurrent, recurrent.output_size // 2)


def theirs(kind: type[nn.GRU] | type[nn.LSTM], hidden: int) -> Recogniser:
    return Recogniser(kind(BANDS, hidden, bidirectional=True), hidden)


def batches(
    given: Lessons, size: int, shuffled: bool = False
) -> Iterator[tuple[PackedSequence, Tensor]]:
    """Packed sequences and their digits."""
    count = len(given.digits)
    order = torch.randperm(count) if shuffled else torch.arange(count)
    for chosen in order.split(size):
        sequences = [torch.from_numpy(given.sequences[k]) for k in chosen]
        digits = torch.from_numpy(given.digits[chosen.numpy()])
        yield pack_sequence(sequences, enforce_sorted=False), digits


@torch.no_grad()
def guesses(model: nn.Module, given: Lessons) -> np.ndarray:
    model.eval()
    return np.concatenate([model(x).argmax(-1).numpy() for x, _ in batches(given, 256)])


def accuracy(guessed: np.ndarray, given: Lessons) -> float:
    return float(np.mean(guessed == given.digits))


class Run(NamedTuple):
    model: Recogniser
    losses: list[float]
    validation: list[float]  # the accuracy after each epoch
    seconds: float  # an epoch, the median


def train(
    make: Callable[[], Recogniser], training: Lessons, validation: Lessons,
    args: argparse.Namespace,
) -> Run:  # fmt: skip
    """The model as it was after the epoch that was best in validation."""
    torch.manual_seed(args.seed)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    updates = args.epochs * -(-len(training.digits) // args.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    losses: list[float] = []
    right: list[float] = []
    seconds: list[float] = []
    best: dict[str, Any] = {}
    for _ in range(args.epochs):
        model.train()
        begun, some = time.perf_counter(), []
        for x, digits in batches(training, args.batch, shuffled=True):
            loss = nn.functional.cross_entropy(model(x), digits)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            some.append(loss.item())
        seconds.append(time.perf_counter() - begun)
        losses.append(float(np.mean(some)))
        right.append(accuracy(guesses(model, validation), validation))
        if right[-1] > max(right[:-1], default=-1.0):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return Run(model, losses, right, float(np.median(seconds)))


class Regression(NamedTuple):
    """Multinomial logistic regression on means over equal stretches of each sequence."""

    stretches: int
    map: nn.Linear

    @classmethod
    def fitted(cls, training: Lessons, validation: Lessons, stretches: int) -> Regression:
        """The one that is best in validation, of several penalties on the weights."""
        x = torch.from_numpy(pooled(training, stretches))
        digits = torch.from_numpy(training.digits)
        found: list[tuple[float, Regression]] = []
        for penalty in PENALTIES:
            linear = nn.Linear(x.shape[1], len(speech.DIGITS))
            nn.init.zeros_(linear.weight)
            optimizer = torch.optim.LBFGS(
                linear.parameters(), max_iter=200, line_search_fn="strong_wolfe"
            )

            def loss(
                linear: nn.Linear = linear, optimizer: Any = optimizer, penalty: float = penalty
            ) -> Tensor:
                optimizer.zero_grad()
                value = nn.functional.cross_entropy(linear(x), digits)
                value = value + penalty * linear.weight.square().sum()
                value.backward()
                return value

            optimizer.step(loss)
            made = cls(stretches, linear)
            found.append((accuracy(made.guesses(validation), validation), made))
        return max(found, key=lambda pair: pair[0])[1]

    @torch.no_grad()
    def guesses(self, given: Lessons) -> np.ndarray:
        x = torch.from_numpy(pooled(given, self.stretches))
        return self.map(x).argmax(-1).numpy()


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------------- judging


class Tests(NamedTuple):
    by_snr: dict[int, Lessons]
    new_accents: Lessons

    @classmethod
    def of(cls, parts: dict[str, speech.Part], scale: Scale, seed: int) -> Tests:
        voices, accents = parts["new voices"], parts["new voices, new accents"]
        by_snr = {
            snr: scale.apply(lessons(voices, snr, 1000 * seed + 100 + k))
            for k, snr in enumerate(SNRS)
        }
        return cls(by_snr, scale.apply(lessons(accents, NEW_ACCENTS_AT, 1000 * seed + 99)))


def table(rows: dict[str, Callable[[Lessons], np.ndarray]], tests: Tests) -> dict[str, list[float]]:
    """Print the accuracies in the test, and which are better than the first; they come back."""
    size = len(tests.by_snr[SNRS[0]].digits)
    print(
        f"\nVoices never heard in training, {size} words at each SNR, and {NEW_ACCENTS_AT} dB in "
        f"accents never heard, {len(tests.new_accents.digits)} words: % recognised"
    )
    heads = [*(f"{snr} dB" for snr in SNRS), "accents"]
    print(f"  {'':36s}" + "".join(f"{head:>8s}" for head in heads))
    found = {}
    for label, guess in rows.items():
        given = [*tests.by_snr.values(), tests.new_accents]
        found[label] = [accuracy(guess(some), some) for some in given]
        print(f"  {label:36s}" + "".join(f"{100 * a:8.1f}" for a in found[label]))
    (label, mine), *others = found.items()
    for other, theirs in others:
        better = [h for h, a, b in zip(heads, mine, theirs, strict=True) if b > a]
        if better:
            print(f"Better than {label}, {', '.join(better)}: {other}.")
    error = 100 * np.sqrt(0.25 / size)
    print(
        f"The standard error of a number is {error:.1f} where half is recognised, less elsewhere."
    )
    return found


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    cell = find_cell(args.cell)
    begun = time.perf_counter()
    parts = speech.made(speech.plans(args.quick, args.seed), args.out / "speech")
    print(f"{speech.version()}; " + ", ".join(f"{len(p.spoken)} {n}" for n, p in parts.items()))
    heard = lessons(parts["training"], IN_TRAINING, 1000 * args.seed, COPIES)
    scale = Scale.of(heard)
    training = scale.apply(heard)
    validation = scale.apply(lessons(parts["validation"], IN_TRAINING, 1000 * args.seed + 1))
    tests = Tests.of(parts, scale, args.seed)
    lengths = [len(s) for s in training.sequences]
    print(
        f"{len(lengths)} sequences of {min(lengths)} to {max(lengths)} steps to train on; "
        f"spoken and analysed in {time.perf_counter() - begun:.0f} s"
    )

    h = args.hidden
    makes: dict[str, Callable[[], Recogniser]] = {
        f"{cell.name}, 2 × {h} units": lambda: ours(cell, h),
        f"nn.GRU, 2 × {h} units": lambda: theirs(nn.GRU, h),
        f"nn.LSTM, 2 × {h} units": lambda: theirs(nn.LSTM, h),
    }
    if args.quick:
        del makes[f"nn.LSTM, 2 × {h} units"]
    runs: dict[str, Run] = {}
    for label, make in makes.items():
        run = runs[label] = train(make, training, validation, args)
        print(
            f"  {label}: {count(run.model)} parameters, {run.seconds:.1f} s an epoch, loss "
            f"{run.losses[0]:.2f} to {run.losses[-1]:.3f}, {100 * max(run.validation):.1f}% in "
            "validation"
        )
    regressions = {
        "regression, mean over time": Regression.fitted(training, validation, 1),
        f"regression, means of {STRETCHES} stretches": Regression.fitted(
            training, validation, STRETCHES
        ),
    }
    rows: dict[str, Callable[[Lessons], np.ndarray]] = {
        **{label: lambda given, m=run.model: guesses(m, given) for label, run in runs.items()},
        **{label: regression.guesses for label, regression in regressions.items()},
    }
    found = table(rows, tests)
    if not args.no_plot:
        guessed = guesses(next(iter(runs.values())).model, tests.by_snr[drawing.CONFUSED_AT])
        curves = {label: run.validation for label, run in runs.items()}
        levels = {
            label: accuracy(r.guesses(validation), validation) for label, r in regressions.items()
        }
        path = args.out / f"digits_{cell.name}.png"
        truth = tests.by_snr[drawing.CONFUSED_AT].digits
        if drawing.plot(path, parts, curves, levels, found, SNRS, truth, guessed, IN_TRAINING):
            print(f"Plot: {shown(path)}")
    mine, *others = (float(np.mean(found[label])) for label in (next(iter(runs)), *regressions))
    return 0 if args.quick or mine > max(others) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cell",
        default=str(CELL),
        help="a name that `lstmgen cells` lists, or a file (default: examples/ligru.cell)",
    )
    parser.add_argument(
        "--hidden", type=positive, default=48, help="units of each direction (default: 48)"
    )
    parser.add_argument("--epochs", type=positive, help="(default: 12; with --quick 8)")
    parser.add_argument(
        "--batch", type=positive, help="sequences of an update (default: 64; with --quick 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="to see that it runs: fewer voices, which are too few, and no LSTM",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parents[1] / "output",
        help="where the plot goes, and what was spoken, for the next time "
        "(default: examples/output)",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw nothing")
    args = parser.parse_args()
    if args.epochs is None:
        args.epochs = 8 if args.quick else 12
    if args.batch is None:
        args.batch = 16 if args.quick else 64
    return args


if __name__ == "__main__":
    sys.exit(main())
