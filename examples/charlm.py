"""A character language model of Python's own documentation, a recurrent network of generated code.

The text is pydoc_data.topics, the language reference behind help("for"), which every Python
brings along. About a tenth of its topics are held out. The network reads the others character by
character and says how likely each next character is; it is judged in bits per character on the
held-out topics, beside n-gram models that are fitted on the same training text.

The network is an embedding, a layer of any cell and a readout. Its forward and backward pass, the
loss and the optimiser are code that lstmgen generates. The exit status is 0 if the network beats
the bigram model, 1 if it does not.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

# One thread, unless you say otherwise: the products of one step are too small to share, and where
# another program keeps a core busy, NumPy's threads wait for each other at every step.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import figures
import numpy as np
from common import (
    add_common_options,
    cell_module,
    count,
    find_cell,
    layer,
    of_layer,
    prepare,
    shown,
)

import lstmgen
from lstmgen import Embedding, Network, Readout, schedules

EMBEDDING = 32  # numbers that stand for a character
STREAMS = 16  # places in the text that are read at once
WINDOW = 64  # characters between truncations of the gradient; the state is carried on
RATE, CLIP = 2e-2, 1.0
RARE = 10  # a character seen less often in training is folded with the other rare ones
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # how they are shown
ORDERS = (1, 2, 3, 5)  # of the n-gram models


# ---------------------------------------------------------------------- the text


def load_text(file: Path | None) -> tuple[str, str, str]:
    """The training text, the held-out text, and what they are."""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SystemExit(f"error: {file}: {error}") from None
        if len(text) < 20_000:
            raise SystemExit(f"error: {file} has {len(text)} characters; give 20000 or more")
        return text[: -len(text) // 10], text[-len(text) // 10 :], f"Text: {file}"

    topics = load_topics()
    # drawn by a seed of its own, so that runs with different --seed are judged on the same text
    names = [sorted(topics)[k] for k in np.random.default_rng(0).permutation(len(topics))]
    lengths = np.cumsum([len(topics[name]) for name in names])
    held_out = sorted(names[: 1 + int(np.searchsorted(lengths, lengths[-1] / 10))])
    training = "".join(topics[name] for name in sorted(topics) if name not in held_out)
    what = f"Text: Python's documentation; held out: {', '.join(held_out)}"
    return training, "".join(topics[name] for name in held_out), what


def load_topics() -> dict[str, str]:
    """The topics, without the paragraphs that an earlier one has: some topics are parts of others,
    and what is held out must not have been read in training.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise SystemExit("error: this Python has no pydoc_data: give a --text FILE") from None
    seen: set[str] = set()
    texts = {}
    for name in sorted(topics):
        kept = []
        for paragraph in topics[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if words not in seen:
                kept.append(paragraph)
                seen.add(words)
        texts[name] = "\n\n".join(kept) + "\n\n\n"
    return texts


class Vocabulary:
    """Characters by number; number 0 is all that are rare in the training text."""

    def __init__(self, text: str) -> None:
        common = sorted(c for c, count in Counter(text).items() if count >= RARE)
        self.characters = [UNKNOWN, *common]
        self.number = {c: k for k, c in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        return np.array([self.number.get(c, 0) for c in text])

    def fold(self, text: str) -> str:
        return "".join(self.characters[k] for k in self.encode(text))


def streams(ids: np.ndarray, count: int) -> np.ndarray:
    """The text cut into ``count`` equal pieces, side by side: (time, count)."""
    length = len(ids) // count
    return ids[: length * count].reshape(count, length).T


# ---------------------------------------------------------------------- the model


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return result


def make_network(cell: lstmgen.Cell, hidden: int, characters: int, updates: int) -> Network:
    return Network(
        [
            Embedding(characters, EMBEDDING, name="embedding"),
            layer(cell, hidden),
            Readout(characters, name="readout"),
        ],
        name="charlm",
        loss="cross_entropy",
        optimizer="adam",
        rate=schedules.cosine(RATE, updates),
        clip_norm=CLIP,
    )


def updates(ids: np.ndarray) -> int:
    """In an epoch: one for each window."""
    return math.ceil((len(streams(ids, STREAMS)) - 1) / WINDOW)


def train(
    network: Network, ids: np.ndarray, held_out: np.ndarray, args: argparse.Namespace
) -> lstmgen.Training:
    """Truncated BPTT with the state carried from window to window."""
    text, other = streams(ids, STREAMS), streams(held_out, STREAMS)
    params = network.init(seed=args.seed)
    params["readout.W"][:] = 0  # all characters alike, at first
    print(f"Training: {args.hidden} units, {count(params)} parameters, {args.epochs} epochs")
    start = time.perf_counter()
    run = network.fit(
        text[:-1],
        text[1:],
        window=WINDOW,
        batch=STREAMS,
        epochs=args.epochs,
        validation=(other[:-1], other[1:]),
        params=params,
        seed=args.seed,
    )
    seconds = time.perf_counter() - start
    for epoch, (training, held) in enumerate(bits(run.history), 1):
        print(
            f"  epoch {epoch}  bits per character: {training:.2f} in training, {held:.2f} held out"
        )
    print(f"  {args.epochs * text[1:].size / seconds:,.0f} characters a second")
    return run


def bits(history: Any) -> np.ndarray:
    """Bits per character in training and held out, for each epoch."""
    return np.transpose([history.loss, history.validation]) / math.log(2)


def sample(network: Network, params: Any, vocabulary: Vocabulary, args: argparse.Namespace) -> str:
    """Text from the network itself: each character is drawn from what it says, and fed back."""
    rng = np.random.default_rng(args.seed)
    packed, state = network.pack(params), None
    text: str = args.prompt
    for k in range(len(args.prompt) + args.length - 1):
        state = network.step(packed, vocabulary.encode(text[k]), state)  # a batch of one
        if k < len(args.prompt) - 1:
            continue  # it is still reading
        logits = state[network.output][0].astype(float)
        logits[0] = -np.inf  # do not write what cannot be shown
        p = np.exp(log_softmax(logits / args.temperature))
        text += vocabulary.characters[rng.choice(len(p), p=p / p.sum())]
    return text


# ---------------------------------------------------------------------- what it is compared with


def ngram_bits(training: str, held_out: str, characters: int) -> dict[int, float]:
    """Bits per character of n-gram models, by their order, smoothed as in Witten & Bell (1991).

    A context leaves as much to the shorter one as it has distinct characters after it:
    p(c | context) = (count of c + distinct · p(c | shorter context)) / (count of all + distinct).
    """
    bits = {}
    p = np.full(len(held_out), 1 / characters)
    for length in range(max(ORDERS)):  # of the context
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for k in range(length, len(training)):
            counts[training[k - length : k]][training[k]] += 1
        for k in range(length, len(held_out)):
            seen = counts.get(held_out[k - length : k])
            if seen:
                p[k] = (seen[held_out[k]] + len(seen) * p[k]) / (seen.total() + len(seen))
        if length + 1 in ORDERS:
            bits[length + 1] = -float(np.mean(np.log2(p)))
    return bits


def judge(name: str, bits: float, ngrams: dict[int, float]) -> bool:
    """Print the table; True if the network beats the bigram model."""
    names = {1: "unigram", 2: "bigram", 3: "trigram"}
    print("\nHeld-out topics, bits per character")
    print(f"  {name:24s} {bits:5.2f}")
    for order, value in ngrams.items():
        beaten = "beaten" if bits < value else "not beaten"
        print(f"  {names.get(order, f'{order}-gram'):24s} {value:5.2f}  {beaten}")
    return bits < ngrams[2]


# ---------------------------------------------------------------------- the plot


def plot(
    path: Path,
    cell: lstmgen.Cell,
    network: Network,
    run: lstmgen.Training,
    vocabulary: Vocabulary,
    held_out: str,
    ngrams: dict[int, float],
) -> None:
    plt = figures.pyplot()
    if plt is None:
        return
    # a few lines from within the held-out text, read after all that is before them
    begin = held_out.index("\n", len(held_out) // 3) + 1
    text = held_out[begin : begin + 100]
    ids = vocabulary.encode(held_out[: begin + len(text)])[:, np.newaxis]
    log_p = log_softmax(network.predict(run.params, ids)[begin - 1 : -1, 0])
    surprise = -log_p[np.arange(len(text)), ids[begin:, 0]] / math.log(2)

    # the tape of the cell's own module has each gate and state by name
    vectors = run.params["embedding.table"][ids]
    _, _, tape = cell_module(cell).forward(of_layer(run.params), vectors)
    panels = figures.panels(cell, tape, slice(begin, None))
    heights = [2.6, 1.3, *[1.7] * len(panels)]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(12, sum(heights) + 1), height_ratios=heights, layout="constrained"
    )
    top, second, *below = axes
    training, held = bits(run.history).T
    epochs = np.arange(1, len(held) + 1)
    top.plot(epochs, training, color=figures.OURS, lw=1, ls=":", label="training")
    top.plot(epochs, held, color=figures.OURS, lw=1.8, marker=".", label="held out")
    for order, value in ngrams.items():
        top.axhline(value, color=figures.THEIRS, lw=1, ls="--")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        style = {"ha": "right", "va": "center", "color": figures.THEIRS, "bbox": box}
        top.text(epochs[-1], value, f"{order}-gram", **style)
    top.set_title(f"{cell.name}: bits per character", loc="left")
    top.set_xlabel("epoch")
    top.set_xticks(epochs)
    top.set_ylim(min(held.min(), training.min()) - 0.3, 5.5)
    top.legend(frameon=False, loc="upper center", ncols=2)

    second.bar(np.arange(len(text)), surprise, color="0.5", width=0.8)
    second.set_title("surprise at each character of a held-out passage, in bits", loc="left")
    for axis, panel in zip(below, panels, strict=True):
        rows = figures.most_active(panels, panel, 12)
        figures.draw(figure, axis, panel, rows, (-0.5, len(text) - 0.5))
        axis.set_title(f"{panel.title}: {panel.equation}", loc="left")
    for axis in (second, *below):
        axis.set_xlim(-0.5, len(text) - 0.5)
        signs = [{" ": "", "\n": "↵"}.get(c, c) for c in text]
        axis.set_xticks(range(len(text)), signs, family="monospace")
        axis.tick_params(axis="x", length=0)
    below[-1].set_xlabel("a column is what the character under it left behind")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"Plot: {shown(path)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser, hidden=128, epochs=5)
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="learn this text instead; its last tenth is held out",
    )
    parser.add_argument(
        "--length", type=int, default=400, help="characters to write in the end (default: 400)"
    )
    parser.add_argument("--prompt", default="The ", help="what it goes on from (default: 'The ')")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.7,
        help="of what is written: low is safe, 1 is as learnt (default: 0.7)",
    )
    args = parser.parse_args()
    if not args.prompt or args.temperature <= 0:
        parser.error("--prompt is at least one character, and --temperature above 0")

    training, held_out, what = load_text(args.text)
    vocabulary = Vocabulary(training)
    print(
        f"{what}\n  {len(training)} characters to train on, {len(held_out)} held out; "
        f"{len(vocabulary)} different ones"
    )
    cell = find_cell(args.cell)
    print(f"{cell.name}{f', {cell.title}' if cell.title else ''}: {len(cell.equations)} equations")
    ids, held_out_ids = vocabulary.encode(training), vocabulary.encode(held_out)
    network = make_network(cell, args.hidden, len(vocabulary), args.epochs * updates(ids))
    prepare(network, args.target, args.out)
    run = train(network, ids, held_out_ids, args)

    ngrams = ngram_bits(vocabulary.fold(training), vocabulary.fold(held_out), len(vocabulary))
    reached = bits(run.history)[run.best_epoch - 1, 1]
    beaten = judge(f"{cell.name}, {args.hidden} units", reached, ngrams)
    if args.length > 0:
        text = sample(network, run.params, vocabulary, args)
        print(
            f"\nWhat it writes, a step at a time:\n{textwrap.indent(text, '  | ', lambda _: True)}"
        )
    if not args.no_plot:
        path = args.out / f"charlm_{cell.name}.png"
        plot(path, cell, network, run, vocabulary, held_out, ngrams)
    return 0 if beaten else 1


if __name__ == "__main__":
    sys.exit(main())
