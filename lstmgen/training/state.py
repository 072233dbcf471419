"""The state of a training run: parameters, moments, history; saved and loaded bit for bit."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LstmgenError, missing_matplotlib
from ..network.structure import Structure
from ..targets.identity import fingerprint, maker

_FORMAT = 1


@dataclass
class History:
    """What was measured after each epoch."""

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.loss)

    def __str__(self) -> str:
        """A line for each of ten epochs, the first and the last one included."""
        width, shown = len(str(len(self))), _spread(len(self))
        lines = []
        for k in shown:
            text = f"epoch {k + 1:{width}d}  loss {self.loss[k]:.4g}"
            if self.validation:
                text += f"  validation {self.validation[k]:.4g}"
            lines.append(text)
        return "\n".join(lines)

    def plot(self, axes: Any = None) -> Any:
        """Draw the losses over epochs; returns Matplotlib's axes.

        Raises
        ------
        LstmgenError
            If Matplotlib is not installed.
        """
        if axes is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise missing_matplotlib() from error
            axes = pyplot.subplots(layout="constrained")[1]
        epochs = range(1, len(self) + 1)
        axes.plot(epochs, self.loss, label="training")
        if self.validation:
            axes.plot(epochs, self.validation, label="validation")
        axes.set_xlabel("epoch")
        axes.set_ylabel("mean loss")
        axes.legend(frameon=False)
        return axes


@dataclass
class Training:
    """What a training run has come to.

    ``params`` are those to use: of the epoch with the lowest validation loss if there was one, with
    ``patience`` that of the lowest loss, else of the last epoch. ``latest`` and ``moments`` are
    what training goes on with.
    """

    network: Structure
    params: dict[str, Any]
    latest: dict[str, Any]
    moments: dict[str, Any]
    history: History = field(default_factory=History)
    best_epoch: int = 0
    stopped: str = ""

    def __str__(self) -> str:
        end = f"\n{self.stopped}" if self.stopped else ""
        return f"{self.history}{end}"

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz file, which replaces the old one only when it is whole.

        Raises
        ------
        LstmgenError
            If it cannot be written.
        """
        about = {
            "format": _FORMAT, "network": network_fingerprint(self.network),
            "history": vars(self.history), "best_epoch": self.best_epoch, "stopped": self.stopped,
        }  # fmt: skip
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
        for kind in ("params", "latest", "moments"):
            arrays |= {f"{kind}/{name}": value for name, value in getattr(self, kind).items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        path = Path(path)
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(buffer.getvalue())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise LstmgenError(f"{path}: {error.strerror or error}") from error


def load(network: Structure, path: str | Path) -> Training:
    """What ``Training.save`` wrote, of the same network. Nothing in the file is executed.

    Raises
    ------
    LstmgenError
        If there is no such file, it is not whole, or it is of another network.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        history = History(**about["history"])
        made = about["format"], about["network"]
        best_epoch, stopped = int(about["best_epoch"]), str(about["stopped"])
    except FileNotFoundError as error:
        raise LstmgenError(f"{path}: there is no such file") from error
    except OSError as error:
        raise LstmgenError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise LstmgenError(f"{path}: it is no training run that lstmgen has saved") from error
    if made != (_FORMAT, network_fingerprint(network)):
        raise LstmgenError(
            f"{path}: it is of another network than {network.name}\n"
            "  hint: layers, their cells and sizes, and the optimizer have to be the same"
        )
    parts: dict[str, dict[str, Any]] = {"params": {}, "latest": {}, "moments": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = array if array.ndim else array.item()
    return Training(network, **parts, history=history, best_epoch=best_epoch, stopped=stopped)


def network_fingerprint(network: Structure) -> str:
    """What parameters and moments depend on: shapes, equations, and the optimiser."""
    shapes = [f"{name} {shape}" for name, shape in network.parameters.items()]
    cells = [str(maker(cell)["equations"]) for cell in network.graph.cells]
    return fingerprint(*shapes, *cells, network.optimizer.cell.name)


def _spread(count: int) -> list[int]:
    """At most ten of so many epochs."""
    return sorted({round(k * (count - 1) / 9) for k in range(10)}) if count else []
