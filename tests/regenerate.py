"""What `generated/` has to hold: every reference cell for every target, and a network; and what
the C program among the examples is built from.

`make generated` writes it, and then what documents show of it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import reference
from documents import DOCUMENTS, rewrite

import lstmgen
from lstmgen.runtime.writing import write_files
from lstmgen.targets import NAMES

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "generated"
NETWORK = ROOT / "examples" / "tagger.py"
PROGRAM = ROOT / "examples" / "c_forecast"
WITH_NETWORKS = ("c", "numpy")  # the targets


def expected() -> dict[str, str]:
    """Path within `generated/` -> text."""
    files = {
        f"{target}/{name}": text
        for target in NAMES
        for cell in reference.NAMES
        for name, text in lstmgen.generate(lstmgen.cells.get(cell), target).items()
    }
    network = runpy.run_path(str(NETWORK))["network"]
    for target in WITH_NETWORKS:
        made = lstmgen.generate(network, target, source=NETWORK.name)
        files |= {f"{target}/{name}": text for name, text in made.items()}
    return files


def of_program() -> dict[str, str]:
    """File name -> text, for the program."""
    network = runpy.run_path(str(PROGRAM / "network.py"))["network"]
    return lstmgen.generate(network, "c", dtype="float32", source="network.py")


def main() -> None:
    """Write what is expected, and remove what is not."""
    files = expected()
    for path in HOME.rglob("*"):
        if path.is_file() and str(path.relative_to(HOME)) not in files:
            path.unlink()
    for target in NAMES:
        mine = {n.partition("/")[2]: t for n, t in files.items() if n.startswith(f"{target}/")}
        write_files(mine, HOME / target, force=True)
    write_files(of_program(), PROGRAM / "generated", force=True)
    sys.stdout.write(f"{len(files)} files in {HOME.name}/\n")
    failures = [failure for document in DOCUMENTS for failure in rewrite(document, quick=True)]
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
