"""``python -m benchmarks.markdown RESULTS.json``: what was measured, as tables for a document.

``python -m benchmarks.markdown --summary DOCUMENT``: a few lines about the tables of a document.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from lstmgen.benchmark import machine, tables
from lstmgen.benchmark.timing import Quartiles, ratios

from .report import BUSY, Json, peak_fraction, per_flop, ratio_of, time_of

_APART = ("gemm", "onnx-empty", "matmuls")  # who does not do the work, but is a yardstick
_MEAN = "geometric mean"


def text(results: Json) -> str:
    """A table for each suite, and under it what it was measured with."""
    settings = results["settings"]
    many = f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}"
    notes = [f"{machine.summary(results['machine'])}; {settings['dtype']}, {many}, medians of "
             f"{settings['rounds']} rounds."]  # fmt: skip
    if results["load"] > BUSY:
        notes.append("**The machine was busy with other things: do not trust these numbers.**")
    parts = []
    for suite in results["suites"]:
        paired = any(case["pair"] for case in suite["cases"])
        parts.append("\n".join(_pairs(suite) if paired else _times(suite)))
    return "\n\n".join([*parts, " ".join(" ".join(notes).split())])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _groups(case: Json) -> Iterator[tuple[Json, list[Json]]]:
    """Each of ours, and who is compared with it; alone only where nobody is compared at all."""
    peers = {k: [e for e in case["entries"] if e["base"] == k] for k in range(len(case["entries"]))}
    some = any(peers.values())
    for k, entry in enumerate(case["entries"]):
        if entry["base"] is None and entry["key"] not in _APART and (peers[k] or not some):
            yield entry, peers[k]


def _less_empty_call(case: Json, ours: Json) -> dict[str, Quartiles | None]:
    """ONNX Runtime's time without what any call of it costs, over ours without Python's."""
    by_key = {entry["key"]: entry["seconds"] for entry in case["entries"]}
    if ours["key"] != "c-loop" or not (by_key.get("onnx") and by_key.get("onnx-empty")):
        return {}
    less = {k: s - by_key["onnx-empty"][k] for k, s in by_key["onnx"].items()}
    return {"of ONNX Runtime less its empty call": ratios(less, ours["seconds"])}


def _times(suite: Json) -> list[str]:
    """A row for each shape; for each work a time, its rate, and everybody's time over ours."""
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}  # row -> work -> column -> text
    columns: dict[str, dict[str, list[float]]] = {}  # work -> column -> logarithms of its ratios
    ours_of = [ours for case in suite["cases"] for ours, _ in _groups(case)]
    apart = [k for k in ("cell", "name") if len({ours[k] for ours in ours_of}) > 1]
    names = [n for n in "TBDH" if n in suite["cases"][0]["entries"][0]["sizes"]]
    for case in suite["cases"]:
        for ours, peers in _groups(case):
            time, peak = time_of(ours), peak_fraction(case, ours)
            if time is None:
                continue
            sizes = ", ".join(str(ours["sizes"][n]) for n in names)
            row = (*(ours[k] for k in apart), sizes)
            cells = {
                ours["work"]: tables.seconds(time.median),
                "GFLOP/s": tables.three_digits(ours["flops"] / time.median / 1e9),
                "of peak": f"{peak.median:.0%}" if peak else "–",
            }
            logs = columns.setdefault(ours["work"], {})
            for name in cells:
                logs.setdefault(name, [])
            theirs = {f"of {peer['name']}": ratio_of(case, peer) for peer in peers}
            theirs |= _less_empty_call(case, ours) if peers else {}
            for name, ratio in theirs.items():
                cells[name] = f"{ratio.median:.2f}×" if ratio else "–"
                logs.setdefault(name, []).extend([math.log(ratio.median)] if ratio else [])
            found.setdefault(row, {})[ours["work"]] = cells
    head = [*({"cell": "cell", "name": "ours"}[k] for k in apart), ", ".join(names)]
    lines = [_line([*head, *(name for logs in columns.values() for name in logs)])]
    lines.append(_line(["---"] * (len(head) + sum(map(len, columns.values())))))
    for row, works in found.items():
        body = [works.get(w, {}).get(name, "–") for w, logs in columns.items() for name in logs]
        lines.append(_line([*row, *body]))
    means = [f"{math.exp(sum(v) / len(v)):.2f}×" if v else ""
             for logs in columns.values() for v in logs.values()]  # fmt: skip
    return [*lines, _line([_MEAN, *[""] * (len(head) - 1), *means])] if any(means) else lines


def _pairs(suite: Json) -> list[str]:
    """What an operation costs more at an odd size; and PyTorch there."""
    head = ["case", "cost of an operation over the aligned one's", "of nn.LSTM", "aligned"]
    lines = [_line(head), _line(["---"] * len(head))]
    for case in suite["cases"]:
        found = [per_flop(case)]
        found += [ratio_of(case, e) for e in case["entries"] if e["key"] == "torch-kernel"]
        lines.append(_line([case["title"], *(f"{r.median:.2f}×" if r else "–" for r in found)]))
    return lines


# --------------------------------------------------------------------------- about a document


def read(document: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The tables of a Markdown text: the heading above each, its head and its rows."""
    heading, lines = "", []
    for line in [*document.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("| ").split("|")])
            continue
        if len(lines) > 2:
            width = len(lines[0])
            yield heading, lines[0], [[*r, *[""] * (width - len(r))] for r in lines[2:]]
        lines = []
        if line.startswith("#"):
            heading = line.strip("# ")


def summary(document: str) -> str:
    """The range and the mean of everybody's time over ours, table by table."""
    lines = [_line(["", "inference", "training"]), _line(["---"] * 3)]
    for heading, head, rows in read(document):
        cells: dict[str, dict[str, str]] = {}  # peer -> work -> text
        work = ""
        for k, name in enumerate(head):
            work = name if name in ("inference", "training", "step") else work
            ratios_ = [float(m[1]) for row in rows if row[0] != _MEAN
                       and (m := re.fullmatch(r"([\d.]+)×", row[k]))]  # fmt: skip
            if name.startswith("of ") and work and len(ratios_) > 1:
                mean = math.exp(sum(map(math.log, ratios_)) / len(ratios_))
                text = f"{mean:.2f}× ({min(ratios_):.2f} to {max(ratios_):.2f})"
                cells.setdefault(f"{heading}: {name.removeprefix('of ')}", {})[work] = text
        for peer, works in cells.items():
            if {"inference", "training"} <= works.keys():
                lines.append(_line([peer, works["inference"], works["training"]]))
    return "\n".join(lines)


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--summary", "about", is_flag=True, help="PATH is a document, not a JSON file.")
def main(path: Path, about: bool) -> None:
    """Print tables of results, or a table about the tables of a document, as Markdown."""
    from .__main__ import _read

    click.echo(summary(path.read_text(encoding="utf-8")) if about else text(_read(path)))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.markdown")
