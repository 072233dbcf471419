"""Cells in C as parts of a larger source, whose driver runs them block by block."""

from __future__ import annotations

import re

import blocks
import pytest
from conftest import need
from driver import POISONED, WARNINGS, build, compare, execute, run, write
from several_axes import CELLS as SEVERAL_AXES
from several_axes import FIXED
from test_c import REFERENCE, case, need_processor, odd_cells

from lstmgen import Cell
from lstmgen.targets.c import runtime
from lstmgen.targets.c.embedded import Embedded


def by_blocks(some, folder):
    """The program that runs these cases, with sources that run their cells by blocks."""
    sources = write(some, folder)
    for one in some:
        text = blocks.source(one.cell, one.dtype)
        (folder / f"{one.cell.name}.c").write_text(text, encoding="utf-8")
    return sources


ODD = """no_parameters no_matrix no_state nothing_at_all no_recurrence all_cut leaky zoneout
    behind_a_mask two_inputs input_unread all_scalars used_twice output_not_kept""".split()
AXES = """matrix_memory shared_by_heads several_outputs heads_both_ways entries of_heads
    exponential equal_axes echo both_ways reservoir""".split()


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        ([], lambda: [case(cell, T=7, B=5) for cell in REFERENCE]),
        (["-march=native"], lambda: [case(odd_cells()[name], T=4, B=3) for name in ODD]),
        (["-DLSTMGEN_SCALAR"], lambda: [case((SEVERAL_AXES | FIXED)[name]) for name in AXES]),
    ],
    ids=["reference", "odd", "axes"],
)
def test_blocks_are_as_good_as_a_sequence(tmp_path, flags, made):
    need("gcc -fsanitize=address,undefined")
    need_processor(flags)
    some = made()
    sources = by_blocks(some, tmp_path)
    build(tmp_path, sources, "gcc", "-std=c99", "-O0", "-Wall", "-Wextra", "-Werror", *flags,
          *POISONED)  # fmt: skip
    execute(tmp_path)
    compare(some, tmp_path, 1e-12)


def owned(some: list[Cell], backward: bool = True) -> str:
    """A source that has the code of these cells, and nothing that calls it."""
    made = [Embedded(cell, "float32", blocks.OWNER, backward=backward) for cell in some]
    head = """\
#include <stddef.h>
typedef float net_real;
typedef enum net_status { NET_OK = 0, NET_BAD_SIZE = 2, NET_TOO_LARGE = 3 } net_status;
#define LSTMGEN_REAL 32
#include "lstmgen_runtime.h"
"""
    return "\n".join([head, *(text for one in made for text in (*blocks.types(one), one.code))])


@pytest.mark.parametrize("backward", [True, False])
def test_cells_share_a_source(tmp_path, backward):
    """Their names differ, and without backward there is nothing that only that calls."""
    need("gcc")
    some = [*REFERENCE, *(FIXED[name] for name in ("entries", "exponential"))]
    text = owned(some, backward)
    assert max(map(len, text.split("\n"))) <= 100
    assert "\n\n\n" not in text
    calls = []
    for cell in some:
        made = Embedded(cell, "float32", blocks.OWNER, backward=backward)
        for head in re.findall(rf"^static \w+ ({made.name}_\w+)\(", made.code, re.MULTILINE):
            if "stage" not in head and made.code.count(head) == 1:
                calls.append(head)
    uses = "".join(f"    (void){name};\n" for name in calls)
    text += f"void use(void);\nvoid use(void)\n{{\n{uses}}}\n"
    (tmp_path / "net.c").write_text(text, encoding="utf-8")
    (tmp_path / runtime.FILE).write_text(runtime.text(), encoding="utf-8")
    run(tmp_path, "gcc", "-std=c99", "-O0", *WARNINGS, "-c", "net.c")
    done = set(re.findall(r"net_lstm_(\w+)", " ".join(calls)))
    forward = {"check", "arrange_forward", "forward_rows", "forward_room"}
    more = {"arrange_backward", "backward_rows", "backward_room", "sum_gradients", "tape_room"}
    assert done >= forward and (not done & more or backward)
