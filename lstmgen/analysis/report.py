"""The flow of gradients as text, and as a figure."""

from __future__ import annotations

import io
import math
from pathlib import Path

from ..errors import LstmgenError, missing_matplotlib
from ..printing.jacobian import changes, recurrences
from ..printing.text import summary
from ..runtime.writing import write_files
from .flow import Flow

_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_EXPONENTS = 4  # that are shown
_CHANGES = "a change of the states, while inputs and parameters stay as they are"


def as_text(flow: Flow) -> str:
    """What ``lstmgen flow`` prints."""
    lines = [*summary(flow.jacobian.cell), "", _CHANGES, "", *changes(flow.jacobian), ""]
    lines += [*recurrences(flow.jacobian), ""]
    steps = [k for k in _STEPS if k <= flow.steps]
    sizes = " ".join(f"{n}={k}" for n, k in flow.sizes.items())
    lines.append(
        f"how much of a change k steps back is left: ‖∂s[T]/∂s[T-k]‖, T={flow.steps} {sizes}"
    )
    rows = [["k", *map(str, steps)]]
    rows += [[f"by {n}", *(_short(a[k - 1]) for k in steps)] for n, a in flow.norms.items()]
    widths = [max(len(row[c]) for row in rows) for c in range(len(steps) + 1)]
    for row in rows:
        first, *others = (cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]))
    largest = [float(x) for x in flow.exponents[:_EXPONENTS]]
    lines += ["", f"Lyapunov exponents, the largest: {' '.join(map(_short, largest))} a step"]
    if largest and math.isfinite(largest[0]) and largest[0]:
        change = "halved" if largest[0] < 0 else "doubled"
        lines[-1] += f" ({change} in {_short(math.log(2) / abs(largest[0]))} steps)"
    return "\n".join(line.rstrip() for line in lines)


def _short(x: float) -> str:
    return f"{x:.2g}".replace("-", "−").replace("inf", "∞")


def draw(flow: Flow, path: Path) -> None:
    """A figure of the norms over the steps back, on a logarithmic scale.

    Raises
    ------
    LstmgenError
        If matplotlib is missing, or does not know the file's ending; if the file's folder is not
        there. Then a file that was there is as it was.
    """
    if not path.parent.is_dir():
        raise LstmgenError(f"{path}: there is no such folder")
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise missing_matplotlib() from error
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, a in flow.norms.items():
        axes.semilogy(range(1, len(a) + 1), [x or math.nan for x in a], label=f"by {name}")
    axes.axhline(1.0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xlabel("steps back, k")
    axes.set_ylabel("‖∂s[T]/∂s[T−k]‖")
    axes.set_title(flow.jacobian.cell.name, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    made = io.BytesIO()
    try:
        figure.savefig(made, format=path.suffix[1:] or None)
    except ValueError as error:
        raise LstmgenError(f"{path}: {error}") from error
    finally:
        pyplot.close(figure)
    write_files({path.name: made.getvalue()}, path.parent, force=True)
