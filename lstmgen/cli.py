"""The command line. SymPy and NumPy are imported inside the commands, so that --help is instant."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import click.shell_completion

from . import __version__
from .errors import LstmgenError
from .language.dtypes import OF_MODULES, OF_TAPES
from .runtime import RUNS
from .targets import NAMES
from .verification.supervision import TIMEOUT, Task, supervise

if TYPE_CHECKING:
    from .language.cell import Cell
    from .network.structure import Structure

_F = TypeVar("_F", bound=Callable[..., Any])

_EPILOG = """CELL is a name that `lstmgen cells` lists, a text file such as my_cell.cell, or a
Python file that defines `cell`, or `network`. CELL:tangent is the cell that carries a
tangent, for Jacobian- and Hessian-vector products; CELL:online learns while it runs;
CELL:watched shows its gates.

\b
  lstmgen show lstm                              its equations
  lstmgen new my_cell                            a text file to begin with
  lstmgen check my_cell.py --target c            are its gradients right?
  lstmgen codegen my_cell.py --target c --out build
  lstmgen show my_network.py                     its layers, shapes and parameters
"""


class _Cell(click.ParamType):  # type: ignore[type-arg]
    """A cell by name, or a cell or a network in a file; names are completed by the shell."""

    name = "cell"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[Any]:
        from .cells import names

        known = [name for name in names() if name.startswith(incomplete)]
        if known:
            return [click.shell_completion.CompletionItem(name) for name in known]
        return [click.shell_completion.CompletionItem(incomplete, type="file")]


class _Size(click.ParamType):  # type: ignore[type-arg]
    """NAME=NUMBER, such as H=32."""

    name = "name=number"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        name, equals, number = str(value).partition("=")
        if not equals or not name.isidentifier() or not number.isdigit() or int(number) < 1:
            self.fail(f"{value!r} is not a size; write it as H=32", param, ctx)
        return name, int(number)


def _reports(command: _F) -> _F:
    """Errors that a user can cause are printed, not traced."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except LstmgenError as error:
            first, _, rest = str(error).partition("\n")
            click.echo(f"{click.style('error:', fg='red', bold=True)} {first}", err=True)
            if rest:
                click.echo(rest, err=True)
            sys.exit(1)
        except BrokenPipeError:  # lstmgen show lstm | head -1
            sys.stderr.close()
            sys.exit(1)

    return wrapped  # type: ignore[return-value]


def _find(name: str) -> Cell | Structure:
    from .runtime.loading import find_model

    return find_model(name)


def _find_cell(name: str, what: str) -> Cell:
    """A cell, for a command that has no networks: ``what`` it is that there is of cells only."""
    from .language.cell import Cell

    found = _find(name)
    if isinstance(found, Cell):
        return found
    mine = ", ".join(c.name for c in found.graph.cells)
    raise LstmgenError(
        f"{name} is a network, and there {what} of cells only\n"
        f"  hint: give one of its cells, which are {mine}, by name or in a file of its own"
    )


_cell = click.argument("cell", type=_Cell())
_DTYPES = [known.name for known in OF_MODULES]
_TAPES = [known.name for known in OF_TAPES]
_dtype = click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    default="float64",
    show_default=True,
    help="Precision of the C code.",
)
_tape = click.option(
    "--tape",
    type=click.Choice(_TAPES),
    help="NumPy: what forward keeps for backward is stored in this, states aside.",
)
_sizes = click.option(
    "--size",
    "sizes",
    multiple=True,
    type=_Size(),
    metavar="NAME=NUMBER",
    help="Make a size a compile-time constant of the C code, such as H=32; repeatable.",
)


def _plain() -> bool:
    """Whether the user wants text alone, or the terminal knows nothing else.

    Click asks for neither: see https://no-color.org for NO_COLOR, which counts unless it is empty.
    """
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lstmgen")
@click.pass_context
def main(context: click.Context) -> None:
    """Recurrent cells from their equations: verified NumPy, C and LaTeX.

    A cell is written once, as symbolic equations. Its backpropagation through time is derived
    from them, and code and formulas come from that one derivation.
    """
    if _plain():
        context.color = False  # of all commands: click.echo looks here


@main.command()
@click.argument("words", nargs=-1, metavar="[WORDS]...")
@click.option("--family", metavar="NAME", help="Only those of a family.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with parameters and sizes.")
@_reports
def cells(words: tuple[str, ...], family: str | None, as_json: bool) -> None:
    """List the reference cells, by family; with WORDS, those that have all of them somewhere in
    name, title, source or description.

    \b
      lstmgen cells xlstm
      lstmgen cells --family linear --json
    """
    from .printing.listing import as_text, found

    listed = found(words, family)
    if not listed:
        raise LstmgenError(f"no cell has {' and '.join(words)}\n  hint: lstmgen cells lists all")
    if as_json:
        import json

        click.echo(json.dumps([entry.as_json() for entry in listed], indent=1, ensure_ascii=False))
    else:
        click.echo(as_text(listed))


@main.command()
@click.argument("name")
@click.option("--text/--python", "as_text", default=True,
              help="A text file, or a Python file.  [default: text]")  # fmt: skip
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write to; made if it is not there.  [default: here]",
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@_reports
def new(name: str, as_text: bool, out: Path, force: bool) -> None:
    """Write a cell to begin with, with comments: NAME.cell, or NAME.py with --python."""
    from .notation.beginning import begin
    from .runtime.writing import write_files

    stem, dot, suffix = name.rpartition(".")
    if dot and suffix in ("cell", "py"):  # the name of the file
        name, as_text = stem, suffix == "cell"
    for path in write_files(begin(name, as_text=as_text), out, force=force):
        click.echo(f"{path}\n  next: lstmgen check {path}")


@main.command()
@_cell
@click.option("--text", "as_text", is_flag=True, help="As text, to be saved as NAME.cell.")
@_reports
def show(cell: str, as_text: bool) -> None:
    """Show a cell's equations, what its gates are called, and their ranges.

    Of a network: its layers with their shapes and parameters, then the equations of its cells.
    """
    if as_text:
        from .notation.writing import write_cell

        click.echo(write_cell(_find_cell(cell, "is text")), nl=False)
        return
    from .language.cell import Cell
    from .network.description import show as show_network
    from .printing.text import show as show_cell

    found = _find(cell)
    click.echo(show_cell(found) if isinstance(found, Cell) else show_network(found))


@main.command()
@_cell
@_dtype
@click.option(
    "--target",
    type=click.Choice(RUNS),
    default="c",
    show_default=True,
    help="Whose plan: NumPy does all that it can for all steps at once.",
)
@_reports
def plan(cell: str, dtype: str, target: str) -> None:
    """Show what runs before, in and after the time loop, what it costs, and of which kind the
    recurrences are, which decides what could be parallel in time.

    Of a network: the costs of its layers, and the memory that checkpoints need.
    """
    from .network.plans import plan as make_plan
    from .targets import plan_options

    click.echo(str(make_plan(_find(cell), dtype=dtype, **plan_options(target))))


@main.command()
@_cell
@click.option(
    "--target",
    type=click.Choice(NAMES),
    required=True,
    help="The language of the code.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write to; made if it is not there.  [default: here]",
)
@_dtype
@_sizes
@click.option(
    "--single-file",
    is_flag=True,
    help="C: have the runtime in the source, not in a file beside it.",
)
@_tape
@click.option("--force", is_flag=True, help="Overwrite files that were edited.")
@_reports
def codegen(
    cell: str,
    target: str,
    out: Path,
    dtype: str,
    sizes: tuple[tuple[str, int], ...],
    single_file: bool,
    tape: str | None,
    force: bool,
) -> None:
    """Generate code: numpy (one module), c (.h, .c, and a runtime that all cells share), or latex.

    A network in NumPy is a module beside those of its cells, which belong into one folder. Files
    that were edited since they were generated are not overwritten without --force.
    """
    from .runtime.writing import write_files
    from .targets import generate

    found = _find(cell)
    source = Path(cell).name if "." in cell or ":" in cell else ""
    options: dict[str, Any] = {"source": source, **dict(sizes)}
    if target == "c":
        options["dtype"] = dtype
    if single_file:
        options["single_file"] = True
    if tape:
        options["tape"] = tape
    files = generate(found, target, **options)
    paths = write_files(files, out, force=force)
    width = max(len(str(p)) for p in paths)
    for path, text in zip(paths, files.values(), strict=True):
        click.echo(f"{str(path).ljust(width)}  {text.count(chr(10))} lines")


@main.command()
@_cell
@click.option(
    "--steps", type=click.IntRange(1, 10_000), default=100, show_default=True,
    help="Of the sequence.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of parameters and inputs.")
@_sizes
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Draw it, as SVG, PNG or PDF.",
)  # fmt: skip
@click.option(
    "--latex", "as_latex", is_flag=True,
    help="Print the Jacobian and its structure as LaTeX instead, and measure nothing.",
)  # fmt: skip
@click.option("--document", is_flag=True, help="With --latex: a document that compiles.")
@_reports
def flow(
    cell: str, steps: int, seed: int, sizes: tuple[tuple[str, int], ...], plot: Path | None,
    as_latex: bool, document: bool,
) -> None:  # fmt: skip
    """Show how gradients fade or grow over time: the state Jacobian as equations, its structure,
    and what it does to changes of the states, with fresh parameters and normal inputs.
    """
    found = _find_cell(cell, "is a flow of gradients")
    if as_latex and plot is not None:
        raise click.UsageError("--latex measures nothing that --plot could draw")
    if document and not as_latex:
        raise click.UsageError("--document goes with --latex")
    if as_latex:
        from .targets.latex.target import emit_jacobian

        click.echo(emit_jacobian(found, document=document), nl=False)
        return
    from .analysis.flow import flow as measure
    from .analysis.report import as_text, draw

    made = measure(found, T=steps, sizes=dict(sizes), seed=seed)
    click.echo(as_text(made))
    if plot is not None:
        draw(made, plot)
        click.echo(f"{plot}")


@main.command()
@_cell
@click.option(
    "--document", is_flag=True, help="A document that compiles, not a fragment to \\input."
)
@_reports
def latex(cell: str, document: bool) -> None:
    """Print the equations, their adjoints and all gradients as LaTeX."""
    from .targets.latex.target import emit

    found = _find_cell(cell, "is LaTeX")
    click.echo(emit(found, document=document), nl=False)


@main.command()
@_cell
@click.option(
    "--target",
    type=click.Choice(RUNS),
    default="numpy",
    show_default=True,
    help="The code to check.",
)
@_dtype
@click.option("--steps", "T", default=7, show_default=True, help="Steps of the sequence, T.")
@click.option("--batch", "B", default=3, show_default=True, help="Rows of the batch, B.")
@_sizes
@_tape
@click.option("--seed", default=0, show_default=True, help="Seed of the first random case.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True,
              help="How many random cases there are.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT,
              show_default=True, metavar="SECONDS", help="When to give up.")  # fmt: skip
@_reports
def check(
    cell: str,
    target: str,
    dtype: str,
    T: int,
    B: int,
    sizes: tuple[tuple[str, int], ...],
    tape: str | None,
    seed: int,
    seeds: int,
    timeout: float,
) -> None:
    """Check generated code: forward against the equations, gradients against differences, and
    forward mode against both.

    All of it runs in a process of its own, a cell's Python file too. Exits with 1 if anything
    disagrees, and also if that process ends in any other way than with a verdict.
    """
    arguments: dict[str, Any] = {"T": T, "B": B, "sizes": dict(sizes) or None}
    arguments |= {"seed": seed, "seeds": seeds, **({"tape": tape} if tape else {})}
    with _progress("checking") as progress:
        report = supervise(Task(cell, target, dtype, arguments), timeout, progress)
    click.echo(str(report))
    sys.exit(0 if report.passed else 1)


@main.command()
@_cell
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=_Size(),
    metavar="NAME=NUMBER",
    help="T, B, or a size of the cell, such as H=256; repeatable.  "
    "[default: T=100 B=16, 4 heads, else 64]",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(RUNS),
    default=["c", "numpy"],
    help="Repeatable.  [default: both]",
)
@click.option("--dtype", type=click.Choice(_DTYPES), default="float32",
              show_default=True, help="Precision.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True,
              help="How often each is visited.")  # fmt: skip
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["torch", "jax"]),
    help="Time the same equations with another library, too; repeatable.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="How many threads each may use.")  # fmt: skip
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all times, and what this machine is, to a file.",
)
@_reports
def bench(
    cell: str,
    sizes: tuple[tuple[str, int], ...],
    targets: tuple[str, ...],
    dtype: str,
    rounds: int,
    against: tuple[str, ...],
    threads: int,
    json_path: Path | None,
) -> None:
    """Time forward and backward of the generated code on this machine.

    All are visited in turns, in one process. A ratio is another's time over that of our first row,
    round by round: above 1, we are faster. --against checks results before it times them.
    """
    from .benchmark.threads import limit

    limit(threads)  # before NumPy is loaded
    from .benchmark.bench import bench as run

    found = _find_cell(cell, "are timings")
    with _progress("timing") as progress:
        timings = run(
            found,
            dict(sizes),
            targets=targets,
            against=against,
            dtype=dtype,
            rounds=rounds,
            threads=threads,
            progress=progress,
        )
    click.echo(str(timings))
    if json_path is not None:
        import json

        from .runtime.writing import write_files

        text = json.dumps(timings.as_json(), indent=1, ensure_ascii=False) + "\n"
        write_files({json_path.name: text}, json_path.parent, force=True)


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on a terminal, nothing elsewhere: a function of (done, total, what)."""
    if not sys.stderr.isatty() or _plain():
        yield lambda done, total, what: None
        return
    bar = click.progressbar(length=1, label=label, file=sys.stderr, show_eta=False)

    def advance(done: int, total: int, what: str) -> None:
        bar.length, bar.label = total, f"{label} {what}".ljust(24)
        bar.update(done - bar.pos)

    with bar:
        yield advance
    click.echo("\x1b[1A\x1b[2K", nl=False, err=True)  # what is done needs no bar


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes the shell complete commands and cells.

    \b
      bash   eval "$(lstmgen completion bash)"      in ~/.bashrc
      zsh    eval "$(lstmgen completion zsh)"       in ~/.zshrc
      fish   lstmgen completion fish | source       in ~/.config/fish/config.fish
    """
    made = click.shell_completion.get_completion_class(shell)
    assert made is not None, f"click knows no shell {shell}"
    click.echo(made(main, {}, "lstmgen", "_LSTMGEN_COMPLETE").source())
