"""A character language model of Python's own documentation, with a generated recurrent cell.

The text is pydoc_data.topics, the language reference behind help("for"), which every Python
brings along. About a tenth of its topics are held out. The network reads the others character by
character and says how likely each next character is; it is judged in bits per character on the
held-out topics, beside n-gram models that are fitted on the same training text.

What runs is the module that lstmgen generates, and around it an embedding, a softmax readout, Adam
and clipping. The exit status is 0 if the network beats the bigram model, 1 if it does not.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

# One thread, unless you say otherwise: the products of one step are too small to share, and where
# another program keeps a core busy, NumPy's threads wait for each other at every step.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import figures
import numpy as np
from training import (
    Adam,
    Arrays,
    Progress,
    add_common_options,
    clip_by_global_norm,
    cosine,
    find_cell,
    init_params,
    make_module,
    make_numpy,
    output_size,
    shown,
)

import lstmgen

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


def predict(params: Arrays, y: np.ndarray) -> np.ndarray:
    """Log-probabilities of the next character, from the output of the cell."""
    return log_softmax(y @ params["readout"].T + params["offset"])


def loss_and_gradients(
    module: Any, params: Arrays, ids: np.ndarray, state: Any
) -> tuple[float, Arrays, Any]:
    """One window of truncated BPTT. ids is (time + 1, streams): each character and the next."""
    x, target = ids[:-1], ids[1:]
    y, state, tape = module.forward(params, params["embedding"][x], state)
    log_p = predict(params, y)
    chosen = np.take_along_axis(log_p, target[..., np.newaxis], axis=-1)

    # ∂L/∂logits of the mean cross-entropy: the probabilities, less 1 at the true character
    dlogits = np.exp(log_p)
    np.put_along_axis(dlogits, target[..., np.newaxis], np.exp(chosen) - 1, axis=-1)
    dlogits /= target.size
    grads, dx, _ = module.backward(params, tape, dlogits @ params["readout"])

    rows = dlogits.reshape(-1, dlogits.shape[-1])
    grads["readout"] = rows.T @ y.reshape(-1, y.shape[-1])
    grads["offset"] = rows.sum(axis=0)
    # a character that occurs several times gathers the gradients of all its places
    grads["embedding"] = np.zeros_like(params["embedding"])
    np.add.at(grads["embedding"], x, dx)
    return -float(chosen.mean()), grads, state


def train(
    module: Any, ids: np.ndarray, held_out: np.ndarray, characters: int, args: argparse.Namespace
) -> tuple[Arrays, list[tuple[int, float, float]]]:
    """The parameters, and (characters read, bits in training, bits held out) as it went."""
    rng = np.random.default_rng(args.seed)
    params = init_params(module, EMBEDDING, args.hidden, args.seed)
    units = output_size(module, params, EMBEDDING)
    params["embedding"] = rng.normal(size=(characters, EMBEDDING)).astype(np.float32)
    params["readout"] = np.zeros((characters, units), np.float32)  # all characters alike, at first
    params["offset"] = np.zeros(characters, np.float32)
    count = sum(np.size(a) for a in params.values())
    print(f"Training: {args.hidden} units, {count} parameters, {args.epochs} epochs")

    text = streams(ids, STREAMS)
    windows = (len(text) - 1) // WINDOW
    adam, history = Adam(params), []
    progress = Progress(args.epochs * windows, "update")
    recent: deque[float] = deque(maxlen=100)
    for _ in range(args.epochs):
        state = None  # the beginning: nothing has been read
        first = int(rng.integers(len(text) - windows * WINDOW))  # windows differ between epochs
        for start in range(first, first + windows * WINDOW, WINDOW):
            window = text[start : start + WINDOW + 1]
            loss, grads, state = loss_and_gradients(module, params, window, state)
            clip_by_global_norm(grads, CLIP)
            adam.step(grads, cosine(adam.steps / progress.total, RATE))

            recent.append(loss / math.log(2))
            average = sum(recent) / len(recent)
            if progress.due(adam.steps):
                bits = bits_per_character(module, params, held_out)
                history.append((adam.steps * WINDOW * STREAMS, average, bits))
            progress.report(
                adam.steps, f"bits per character: {average:.2f} in training, {bits:.2f} held out"
            )
    print(f"  {adam.steps * WINDOW * STREAMS / progress.seconds():,.0f} characters a second")
    return params, history


def bits_per_character(module: Any, params: Arrays, ids: np.ndarray) -> float:
    """The cross-entropy on a text, read in parallel pieces with the state carried along each."""
    text = streams(ids, STREAMS)
    state, total = None, 0.0
    for start in range(0, len(text) - 1, 4 * WINDOW):
        piece = text[start : start + 4 * WINDOW + 1]
        y, state, _ = module.forward(params, params["embedding"][piece[:-1]], state)
        log_p = predict(params, y)
        total -= float(np.take_along_axis(log_p, piece[1:, :, np.newaxis], axis=-1).sum())
    return total / (text.size - STREAMS) / math.log(2)


def sample(module: Any, params: Arrays, vocabulary: Vocabulary, args: argparse.Namespace) -> str:
    """Text from the network itself: each character is drawn from what it says, and fed back."""
    rng = np.random.default_rng(args.seed)
    cell, state = module.pack(params), None
    text: str = args.prompt
    for k in range(len(args.prompt) + args.length - 1):
        x = params["embedding"][vocabulary.encode(text[k])]  # (1, EMBEDDING): a batch of one
        state = module.step(cell, x, state)
        if k < len(args.prompt) - 1:
            continue  # it is still reading
        log_p = predict(params, state[module.OUTPUT])[0].astype(float)
        log_p[0] = -np.inf  # do not write what cannot be shown
        p = np.exp(log_softmax(log_p / args.temperature))
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
    reader: Any,
    params: Arrays,
    vocabulary: Vocabulary,
    held_out: str,
    history: list[tuple[int, float, float]],
    ngrams: dict[int, float],
) -> None:
    plt = figures.pyplot()
    if plt is None:
        return
    # a few lines from within the held-out text, read after all that is before them
    begin = held_out.index("\n", len(held_out) // 3) + 1
    text = held_out[begin : begin + 100]
    ids = vocabulary.encode(held_out[: begin + len(text)])[:, np.newaxis]
    y, _, tape = reader.forward(params, params["embedding"][ids])
    log_p = predict(params, y[begin - 1 : -1, 0])
    surprise = -log_p[np.arange(len(text)), ids[begin:, 0]] / math.log(2)

    panels = figures.panels(cell, tape, slice(begin, None))
    heights = [2.6, 1.3, *[1.7] * len(panels)]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(12, sum(heights) + 1), height_ratios=heights, layout="constrained"
    )
    top, second, *below = axes
    read, training, held = np.transpose(history)
    top.plot(read / 1e6, training, color=figures.OURS, lw=1, ls=":", label="training")
    top.plot(read / 1e6, held, color=figures.OURS, lw=1.8, marker=".", label="held out")
    for order, value in ngrams.items():
        top.axhline(value, color=figures.THEIRS, lw=1, ls="--")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        style = {"ha": "right", "va": "center", "color": figures.THEIRS, "bbox": box}
        top.text(read[-1] / 1e6, value, f"{order}-gram", **style)
    top.set_title(f"{cell.name}: bits per character", loc="left")
    top.set_xlabel("million characters read")
    top.set_xlim(0, read[-1] / 1e6)
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
    module, target = make_module(cell, args.target, args.out)
    ids, held_out_ids = vocabulary.encode(training), vocabulary.encode(held_out)
    params, history = train(module, ids, held_out_ids, len(vocabulary), args)

    ngrams = ngram_bits(vocabulary.fold(training), vocabulary.fold(held_out), len(vocabulary))
    beaten = judge(f"{cell.name}, {args.hidden} units", history[-1][2], ngrams)
    if args.length > 0:
        text = sample(module, params, vocabulary, args)
        print(
            f"\nWhat it writes, a step at a time:\n{textwrap.indent(text, '  | ', lambda _: True)}"
        )
    if not args.no_plot:
        reader = module
        if target == "c":
            # C's tape is one packed buffer; NumPy's keeps each vector by name.
            print("\nFor the plot of the gates, the NumPy module of the same cell:")
            reader = make_numpy(cell, args.out)
        path = args.out / f"charlm_{cell.name}.png"
        plot(path, cell, reader, params, vocabulary, held_out, history, ngrams)
    return 0 if beaten else 1


if __name__ == "__main__":
    sys.exit(main())
