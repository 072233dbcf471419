"""``python -m benchmarks``: run suites, print tables, draw figures. Libraries are loaded inside the
commands, after the number of threads is set.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click


class _Shape(click.ParamType):
    name = "T,B,D,H"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        parts = str(value).split(",")
        if len(parts) != 4 or not all(p.strip().isdigit() and int(p) for p in parts):
            self.fail(f"{value!r} is no shape; write it as 100,16,64,64", param, ctx)
        return tuple(int(p) for p in parts)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """lstmgen's code beside what people use instead, measured in turns in one process.

    \b
      python -m benchmarks run --suite lstm --json results.json --plot figures
      python -m benchmarks run --cell lstm_layernorm --shape 100,16,64,64
      python -m benchmarks table results.json
      python -m benchmarks plot results.json figures
    """


@main.command()
@click.option("--suite", "suites", multiple=True, metavar="NAME",
              help="One of those that `suites` lists; repeatable.  [default: all]")  # fmt: skip
@click.option("--cell", "cells", multiple=True, metavar="CELL",
              help="A reference cell, instead of suites; repeatable.")  # fmt: skip
@click.option("--shape", "shapes", multiple=True, type=_Shape(),
              help="A shape, instead of suites; repeatable.")  # fmt: skip
@click.option("--contender", "only", multiple=True, metavar="KEY",
              help="Only these beside ours; see `suites`. Repeatable.  [default: all]")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="How many threads each may use.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=None,
              help="How often each is visited.  [default: 15, or 3 with --quick]")  # fmt: skip
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=60.0,
              show_default=True, help="Seconds in which each has to get ready.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Small shapes and few rounds: does it all work?")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write all times to a file, after each case.")  # fmt: skip
@click.option("--plot", "folder", type=click.Path(file_okay=False, path_type=Path),
              help="Draw figures into a folder.")  # fmt: skip
def run(
    suites: tuple[str, ...],
    cells: tuple[str, ...],
    shapes: tuple[tuple[int, int, int, int], ...],
    only: tuple[str, ...],
    threads: int,
    rounds: int | None,
    budget: float,
    quick: bool,
    path: Path | None,
    folder: Path | None,
) -> None:
    """Measure, print tables; Ctrl-C keeps what there is.

    Exits with 1 if a contender's results are wrong, with 130 if it was interrupted.
    """
    from lstmgen.benchmark.threads import limit

    limit(threads)  # before NumPy is loaded
    from lstmgen.errors import LstmgenError

    from . import report
    from .runner import Run
    from .suites import CONTENDERS, SUITES, Options, custom

    for name in suites:
        if name not in SUITES:
            raise click.UsageError(f"there is no suite {name}; there are {', '.join(SUITES)}")
    for key in only:
        if key not in CONTENDERS:
            raise click.UsageError(
                f"there is no contender {key}; there are {', '.join(CONTENDERS)}"
            )
    if suites and (cells or shapes):
        raise click.UsageError("give --suite, or --cell and --shape")
    options = Options(threads=threads, quick=quick, only=only)
    try:
        if cells or shapes:
            chosen = {
                "chosen": ("cells and shapes of your own", list(custom(options, cells, shapes)))
            }
        else:
            chosen = {
                name: (about, list(make(options)))
                for name, (about, make) in SUITES.items()
                if name in suites or not suites
            }
    except LstmgenError as error:
        raise click.ClickException(str(error)) from error
    measuring = Run(options, rounds=rounds or (3 if quick else 15), visit=0.005 if quick else 0.02,
                    budget=budget, path=path)  # fmt: skip
    measuring.run(chosen)
    click.echo(report.text(measuring.results))
    if folder is not None:
        _draw(measuring.results, folder)
    for failure in measuring.failures:
        click.echo(f"error: {failure}", err=True)
    if measuring.results.get("interrupted"):
        sys.exit(130)
    sys.exit(1 if measuring.failures else 0)


def _with_one_thread(name: str) -> ModuleType:
    """A module that measures, loaded after the number of threads is set: NumPy reads it once."""
    from lstmgen.benchmark.threads import limit

    limit(1)
    return importlib.import_module(f".{name}", __package__)


@main.command()
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True,
              help="How often each is visited.")  # fmt: skip
def networks(rounds: int) -> None:
    """Layers, lengths and resets beside PyTorch's, with one thread."""
    click.echo(_with_one_thread("networks").run(rounds))


@main.command()
@click.argument("names", nargs=-1, metavar="[CELL]...")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True,
              help="How often each is visited.")  # fmt: skip
def zoo(names: tuple[str, ...], rounds: int) -> None:
    """The reference cells' rates of arithmetic and of memory traffic beside the LSTM's, in C."""
    click.echo(_with_one_thread("zoo").run(names, rounds))


@main.command()
@click.argument("names", nargs=-1, metavar="[CELL]...")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True,
              help="How often each is visited.")  # fmt: skip
def derivatives(names: tuple[str, ...], rounds: int) -> None:
    """Hessian-vector products, and learning online, beside a gradient."""
    click.echo(_with_one_thread("zoo").derivatives(names, rounds))


@main.command("torch")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="How many threads each may use.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True,
              help="How often each is visited.")  # fmt: skip
def torch_(threads: int, rounds: int) -> None:
    """Modules of PyTorch over our kernels, beside its own."""
    from lstmgen.benchmark.threads import limit

    limit(threads)  # before NumPy is loaded
    import torch

    from . import modules

    torch.set_num_threads(threads)
    click.echo(modules.run(rounds))


@main.command("compile")
@click.argument("names", nargs=-1, metavar="[CELL]...")
@click.option("--slowest", type=click.IntRange(min=1), default=5, show_default=True,
              help="How many cells are shown; the last rows are of all.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True,
              help="How often these are compiled from an empty cache.")  # fmt: skip
def compile_(names: tuple[str, ...], slowest: int, rounds: int) -> None:
    """How long it takes from a cell's equations, or a file of them, to its C library, loaded."""
    from . import compiling

    click.echo(compiling.run(names, slowest, rounds))


@main.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def table(results: Path) -> None:
    """Print the tables of a JSON file."""
    from . import report

    click.echo(report.text(_read(results)))


@main.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def plot(results: Path, folder: Path) -> None:
    """Draw the figures of a JSON file."""
    _draw(_read(results), folder)


@main.command()
def suites() -> None:
    """List the suites and the contenders."""
    from .suites import CONTENDERS, SUITES

    for name, (about, _) in SUITES.items():
        click.echo(f"{name:<10}{about}")
    click.echo("")
    for key, contender in CONTENDERS.items():
        click.echo(f"{key:<20}{contender.name}")


def _read(path: Path) -> dict[str, Any]:
    from .runner import FORMAT

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] == FORMAT and found["suites"] is not None:
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise click.ClickException(f"{path} was not written by this version of benchmarks")


def _draw(results: dict[str, Any], folder: Path) -> None:
    from . import plots

    for path in plots.draw(results, folder):
        click.echo(str(path))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
