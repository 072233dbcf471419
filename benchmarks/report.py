"""Tables from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lstmgen.benchmark import machine, tables
from lstmgen.benchmark.timing import Quartiles, quartiles, ratios

Json = Mapping[str, Any]
BUSY = 0.5  # a load from which on times mean little


def text(results: Json) -> str:
    """Everything: the machine, each suite's cases, and a summary of its ratios."""
    settings = results["settings"]
    many = f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}"
    parts = [machine.summary(results["machine"])]
    if results["load"] > BUSY:
        parts.append(f"the machine was busy with other things (load {results['load']:.1f}): do not "
                     "trust these numbers")  # fmt: skip
    parts += [
        f"{settings['dtype']} · {many} · medians of {settings['rounds']} rounds, ± half the "
        "distance of the quartiles\n×: their time over ours in the same round, above 1 ours is "
        "faster; quartiles in brackets",
    ]
    for suite in results["suites"]:
        parts.append(f"== {suite['name']}: {suite['about']}")
        parts += ["\n".join(case_lines(case, settings["threads"])) for case in suite["cases"]]
        parts += ["\n".join(lines) for lines in summaries(suite)]
    if results.get("interrupted"):
        parts.append("interrupted: the rest was not measured")
    return "\n\n".join(parts)


def time_of(entry: Json) -> Quartiles | None:
    values = list(entry["seconds"].values())
    return quartiles(values) if values else None


def ratio_of(case: Json, entry: Json) -> Quartiles | None:
    """Their time over ours."""
    if entry["base"] is None:
        return None
    return ratios(entry["seconds"], case["entries"][entry["base"]]["seconds"])


def peak_fraction(case: Json, entry: Json) -> Quartiles | None:
    """The rate of an entry over that of a matrix product in the same round."""
    (gemm,) = (e for e in case["entries"] if e["key"] == "gemm")
    slower = ratios(gemm["seconds"], entry["seconds"])
    if slower is None:
        return None
    factor = entry["flops"] / gemm["flops"]
    return Quartiles(*(factor * n for n in (slower.median, slower.low, slower.high)))


def per_flop(case: Json) -> Quartiles | None:
    """What an operation of the first of a pair costs over one of the second."""
    first, second = (case["entries"][k] for k in case["pair"])
    cost = [{k: s / e["flops"] for k, s in e["seconds"].items()} for e in (first, second)]
    return ratios(*cost)


def case_lines(case: Json, threads: int) -> list[str]:
    body: list[list[str]] = []
    notes: list[str] = []
    for entry in case["entries"]:
        time = time_of(entry)
        if time is None:
            notes.append(f"  {entry['name']}: {entry['reason']}")
            continue
        counts = entry["key"] not in ("onnx-empty", "matmuls")
        fraction = peak_fraction(case, entry) if counts and entry["key"] != "gemm" else None
        body.append([
            f"  {entry['name']}",
            tables.time(time),
            tables.ratio(ratio_of(case, entry)),
            f"{tables.three_digits(entry['flops'] / time.median / 1e9)} GFLOP/s" * counts,
            f"{fraction.median:.0%} of peak" if fraction else "",
        ])  # fmt: skip
        if entry["cores"] > threads + 0.15:
            notes.append(f"  {entry['name']} kept {entry['cores']:.1f} cores busy")
    by_key = {entry["key"]: entry["seconds"] for entry in case["entries"]}
    if by_key.get("onnx") and by_key.get("onnx-empty") and by_key.get("c"):
        less = {k: s - by_key["onnx-empty"][k] for k, s in by_key["onnx"].items()}
        body.append(["  ONNX Runtime less its empty call", tables.time(quartiles(list(
            less.values()))), tables.ratio(ratios(less, by_key["c"]))])  # fmt: skip
    if case["pair"] and (cost := per_flop(case)) is not None:
        notes.append(f"  an operation of ours costs {tables.ratio(cost)} of the aligned one's")
    return [case["title"], *(tables.columns(body) if body else []), *notes]


def measured(suite: Json, work: str) -> list[Json]:
    """The cases of a suite with that work, of which ours has times."""
    found = []
    for case in suite["cases"]:
        ours = case["entries"][0]
        if ours["work"] == work and ours["seconds"]:
            found.append(case)
    return found


def peers(cases: Sequence[Json]) -> list[tuple[str, str]]:
    """Key and name of all that have a ratio in some case, in order."""
    names: dict[str, set[str]] = {}
    for case in cases:
        for entry in case["entries"]:
            if ratio_of(case, entry) is not None:
                names.setdefault(entry["key"], set()).add(entry["name"])
    common = {"torch-kernel": "PyTorch kernel", "torch-cell": "PyTorch nn.…Cell"}
    return [(k, next(iter(n)) if len(n) == 1 else common[k]) for k, n in names.items()]


def summaries(suite: Json) -> list[list[str]]:
    """A table of ratios for each kind of work."""
    found = []
    for work in dict.fromkeys(c["entries"][0]["work"] for c in suite["cases"]):
        cases = measured(suite, work)
        if any(case["pair"] for case in cases):
            found.append(_pairs(suite, work, cases))
            continue
        columns = peers(cases)
        if not columns:
            continue
        body = [[f"{suite['name']}, {work}: their time over ours", *(name for _, name in columns)]]
        logs: dict[str, list[float]] = {key: [] for key, _ in columns}
        for case in cases:
            row = ["  " + case["title"]]
            for key, _ in columns:
                (entry,) = [e for e in case["entries"] if e["key"] == key] or (None,)
                ratio = ratio_of(case, entry) if entry else None
                row.append("–" if ratio is None else f"{ratio.median:.2f}×")
                if ratio is not None:
                    logs[key].append(math.log(ratio.median))
            body.append(row)
        means = []
        for values in logs.values():
            some = f" of {len(values)}" if len(values) < len(cases) else ""
            means.append(f"{math.exp(sum(values) / len(values)):.2f}×{some}")
        body.append(["  geometric mean", *means])
        found.append(tables.columns(body))
    return found


def _pairs(suite: Json, work: str, cases: Sequence[Json]) -> list[str]:
    body = [[f"{suite['name']}, {work}", "cost of an operation over the aligned one's",
             "PyTorch's time over ours", "the same, aligned"]]  # fmt: skip
    for case in cases:
        cost = per_flop(case)
        theirs = [
            tables.ratio(ratio_of(case, e)) for e in case["entries"] if e["key"] == "torch-kernel"
        ]
        body.append([f"  {case['title']}", tables.ratio(cost), *theirs])
    return tables.columns(body)
