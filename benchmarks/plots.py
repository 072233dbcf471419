"""Figures from what was measured, as SVG: readable without colour, and with any kind of sight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstmgen.benchmark.timing import Quartiles

from .report import Json, measured, peak_fraction, peers, ratio_of

# Okabe & Ito's colours, which those who cannot tell red from green can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "---", "+++")
_BAR, _GAP = 0.17, 0.8  # inches; bars

_Group = list[tuple[int, Quartiles]]  # the number of a colour, and a value with its spread


def draw(results: Json, folder: Path) -> list[Path]:
    """All figures that the results have data for."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({
        "svg.hashsalt": "lstmgen", "svg.fonttype": "path", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.4,
    })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for suite in results["suites"]:
        works = list(dict.fromkeys(case["entries"][0]["work"] for case in suite["cases"]))
        for work in works:
            cases = [case for case in measured(suite, work) if not case["pair"]]
            if cases and peers(cases):
                made.append(_ratios(suite, work, cases, folder))
            if cases and suite["name"] in ("lstm", "gru", "large"):
                made.append(_peaks(suite, work, cases, folder))
    return made


def _figure(groups: Sequence[Sequence[Any]], title: str) -> Any:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = sum(len(group) + _GAP for group in groups)
    figure = Figure(figsize=(8, 1.5 + _BAR * rows), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    return path


def _bars(axes: Any, groups: Sequence[_Group], labels: Sequence[str], start: float) -> None:
    """Horizontal bars with whiskers, group under group, which begin at ``start``."""
    y = 0.0
    places = []
    for group in groups:
        places.append(y + (len(group) - 1) / 2)
        for k, value in group:
            whiskers = [[value.median - value.low], [value.high - value.median]]
            axes.barh(y, value.median - start, left=start, height=0.9, linewidth=0,
                      color=COLOURS[k % len(COLOURS)], hatch=HATCHES[k % len(HATCHES)],
                      edgecolor="white")  # fmt: skip
            axes.errorbar(value.median, y, xerr=whiskers, color="#444444", linewidth=0.8)
            y += 1
        y += _GAP
    axes.set_yticks(places, labels)
    axes.set_ylim(y - _GAP - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _legend(figure: Any, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=COLOURS[k % len(COLOURS)], hatch=HATCHES[k % len(HATCHES)],
              edgecolor="white", label=name)
        for k, name in enumerate(names)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _labels(cases: Sequence[Json]) -> list[str]:
    """The sizes of each case, and its cell where there are several."""
    firsts = [case["entries"][0] for case in cases]
    several = len({first["cell"] for first in firsts}) > 1
    labels = []
    for first in firsts:
        names = ("B", "D", "H") if first["work"] == "step" else ("T", "B", "D", "H")
        sizes = " ".join(f"{name}={first['sizes'][name]}" for name in names)
        labels.append(f"{first['cell']}\n{sizes}" if several else sizes)
    return labels


def _title(suite: Json, work: str) -> str:
    return suite["name"] if suite["name"] == work else f"{suite['name']}, {work}"


def _ratios(suite: Json, work: str, cases: Sequence[Json], folder: Path) -> Path:
    names = peers(cases)
    order = {key: k for k, (key, _) in enumerate(names)}
    groups: list[_Group] = []
    for case in cases:
        found = [(order.get(e["key"], 0), ratio_of(case, e)) for e in case["entries"]]
        groups.append([(k, value) for k, value in found if value is not None])
    figure, axes = _figure(groups, _title(suite, work))
    axes.set_xscale("log")
    _bars(axes, groups, _labels(cases), 1.0)
    values = [value for group in groups for _, value in group]
    axes.set_xlim(
        min(0.8, *(v.low * 0.9 for v in values)), max(1.25, *(v.high * 1.1 for v in values))
    )
    axes.axvline(1, color="black", linewidth=1)
    ticks = _ticks(*axes.get_xlim())
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("their time over ours: to the right of 1 ours is faster, to the left theirs")
    _legend(figure, [name for _, name in names])
    return _save(figure, folder / f"{_title(suite, work).replace(', ', '-')}.svg")


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … as far as they are in view."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def _peaks(suite: Json, work: str, cases: Sequence[Json], folder: Path) -> Path:
    shown = {"c": 0, "torch-kernel": 1}
    groups: list[_Group] = []
    for case in cases:
        found = [(shown[e["key"]], peak_fraction(case, e)) for e in case["entries"]
                 if e["key"] in shown]  # fmt: skip
        groups.append([(k, value) for k, value in found if value is not None])
    figure, axes = _figure(groups, _title(suite, work))
    _bars(axes, groups, _labels(cases), 0.0)
    axes.set_xlim(0, max(1.0, *(v.high for group in groups for _, v in group)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("of the rate of a 1024 × 1024 matrix product in the same rounds")
    _legend(figure, ["lstmgen C", "PyTorch kernel"])
    return _save(figure, folder / f"{suite['name']}-{work}-peak.svg")
