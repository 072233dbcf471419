"""The figure of recognise.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import figures
import numpy as np
from features import STEP, log_mel, mixed
from speech import ACCENTS, DIGITS, TEST, Part

CONFUSED_AT = 0  # dB
COLOURS = (figures.OURS, figures.THEIRS, "#56B4E9")  # of networks
GREYS = ("0.65", "0.35")  # of regressions
SHOWN, SHOWN_AT = ("seven", "nine"), (20, 0)  # words, and dB


def plot(
    path: Path, parts: dict[str, Part], curves: dict[str, list[float]], levels: dict[str, float],
    found: dict[str, list[float]], snrs: tuple[int, ...], truth: np.ndarray, guessed: np.ndarray,
    in_training: tuple[float, float],
) -> bool:  # fmt: skip
    """Draw all, and say whether it could be drawn."""
    plt = figures.pyplot()
    if plt is None:
        return False
    figure = plt.figure(figsize=(11, 6.6), layout="constrained")
    grid = figure.add_gridspec(2, 12, height_ratios=(1, 2))
    draw_sounds(figure, [figure.add_subplot(grid[0, 3 * k : 3 * k + 3]) for k in range(4)], parts)
    draw_training(figure.add_subplot(grid[1, :4]), curves, levels)
    draw_noise(figure.add_subplot(grid[1, 4:8]), found, snrs, in_training)
    draw_confusion(figure.add_subplot(grid[1, 8:]), next(iter(found)), truth, guessed)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return True


def draw_sounds(figure: Any, axes: list[Any], parts: dict[str, Part]) -> None:
    """Two words as the network reads them, quiet and in noise."""
    part = parts["new voices"]
    cases = [(word, snr) for word in SHOWN for snr in SHOWN_AT]
    for axis, (word, snr) in zip(axes, cases, strict=True):
        found = next(
            k
            for k, s in enumerate(part.spoken)
            if (DIGITS[s.digit], s.voice, s.accent) == (word, TEST[0], ACCENTS[0])
        )
        rng = np.random.default_rng(0)
        bands = log_mel(mixed(rng, part.sounds[found], snr))
        extent = (0, len(bands) * STEP / 1e3, 0, bands.shape[1])
        axis.imshow(bands.T, origin="lower", aspect="auto", cmap="magma", extent=extent)
        axis.set_title(f"“{word}”, {snr} dB", loc="left", fontsize="medium")
        axis.set_yticks([])
        axis.set_xlabel("seconds", fontsize="small")
    axes[0].set_ylabel(f"{bands.shape[1]} mel bands")


def styles(networks: int, regressions: int) -> list[dict[str, Any]]:
    """How the lines of the table's rows are drawn."""
    solid = [{"color": c, "lw": 1.6 if k else 2.2} for k, c in enumerate(COLOURS[:networks])]
    return [*solid, *({"color": c, "lw": 1.2, "ls": "--"} for c in GREYS[:regressions])]


def draw_training(axis: Any, curves: dict[str, list[float]], levels: dict[str, float]) -> None:
    for (label, curve), style in zip(curves.items(), styles(len(curves), 0), strict=True):
        axis.plot(range(1, len(curve) + 1), 100 * np.array(curve), label=label, **style)
    for (label, level), style in zip(levels.items(), styles(0, len(levels)), strict=True):
        axis.axhline(100 * level, label=label, **style)
    axis.set_title("Validation voices, % recognised", loc="left")
    axis.set_xlabel("epoch")
    axis.set_ylim(top=101)
    axis.legend(frameon=False, fontsize="small", loc="lower right")


def draw_noise(
    axis: Any, found: dict[str, list[float]], snrs: tuple[int, ...], trained: tuple[float, float]
) -> None:
    of_rows = styles(len(found) - len(GREYS), len(GREYS))
    for row, style in zip(found.values(), of_rows, strict=True):
        axis.plot(snrs, 100 * np.array(row[: len(snrs)]), marker="o", ms=3, **style)
    low, high = min(snrs), max(snrs)
    axis.axvspan(low - 1, trained[0], color="0.93", lw=0)
    axis.text(low, 3, "louder than\nany noise\nin training", fontsize="small", color="0.35")
    axis.axhline(100 / len(DIGITS), color="0.5", lw=0.8, ls=":")
    axis.set_xlim(low - 1, high + 1)
    axis.set_ylim(0, 101)
    axis.set_title("Test voices, % recognised", loc="left")
    axis.set_xlabel("signal-to-noise ratio, dB (dotted: by chance)")


def draw_confusion(axis: Any, label: str, truth: np.ndarray, guessed: np.ndarray) -> None:
    size = len(DIGITS)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (truth, guessed), 1)
    share = counts / counts.sum(axis=1, keepdims=True)
    axis.imshow(share, cmap="Oranges", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(counts), strict=True):
        colour = "white" if share[i, j] > 0.6 else "black"
        axis.text(j, i, counts[i, j], ha="center", va="center", color=colour, fontsize=7)
    axis.set_xticks(range(size), DIGITS, rotation=60, fontsize="small")
    axis.set_yticks(range(size), DIGITS, fontsize="small")
    axis.set_title(f"{label}, {CONFUSED_AT} dB: said, heard", loc="left")
    axis.spines[:].set_visible(False)
