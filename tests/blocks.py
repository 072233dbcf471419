"""What a cell's own source does, done by a driver that runs the cell block by block.

It has the interface of a cell's header, so that all that runs cells in C can run these: but
sequences are cut into blocks of a few rows and steps, of more than one size, with a tape for each,
and gradients are summed over all of them. Everything a block works with has exactly its size.
"""

from __future__ import annotations

from collections.abc import Iterable

from lstmgen import Cell
from lstmgen.language.symbols import Vector
from lstmgen.targets.c.embedded import Embedded
from lstmgen.targets.c.runtime import BITS
from lstmgen.targets.c.sizes import monomials

OWNER = "net"

_SOURCE = """\
#include <stdlib.h>
#include "{c}.h"
#define LSTMGEN_REAL {bits}
#include "lstmgen_runtime.h"

typedef {c}_real net_real;
typedef enum net_status {{ NET_OK = 0, NET_BAD_SIZE = 2, NET_TOO_LARGE = 3 }} net_status;

{code}
typedef struct block {{ size_t s, start, rows, t0, steps, tape; int is_first; }} block;

static {e}_sizes sizes_of(const {c}_sizes *n, size_t T, size_t B)
{{
    const {e}_sizes made = {{.T = T, .B = B, .threads = n->threads, .serial = n->serial{sizes}}};
    return made;
}}

static net_real *fresh(size_t count)
{{
    net_real *const made = (net_real *)malloc((count + 1) * sizeof(net_real));
    if (made == NULL) {{
        abort();
    }}
    memset(made, 0xff, (count + 1) * sizeof(net_real));
    return made + 1; /* nothing needs to be aligned */
}}

static void given_back(net_real *made)
{{
    if (made != NULL) {{
        free(made - 1);
    }}
}}

/* The blocks of all slices: a row or two, by one to three steps. */
static size_t blocks_of(const {c}_sizes *n, block *to)
{{
    size_t count = 0, tape = 0;
    const size_t slices = slice_count(n->B, n->threads);
    size_t start = 0;
    for (size_t s = 0; s < slices; ++s) {{
        const size_t end = start + slice_rows(n->B, slices, s);
        for (size_t group = 0; start < end; ++group) {{
            const size_t rows = end - start < 2 ? end - start : 2;
            size_t steps = 0;
            for (size_t t0 = 0; t0 < n->T; t0 += steps) {{
                const size_t most = 1 + (group + t0) % 3;
                steps = n->T - t0 < most ? n->T - t0 : most;
                if (to != NULL) {{
                    const {e}_sizes all = sizes_of(n, n->T, n->B);
                    const block one = {{s, start, rows, t0, steps, tape, 0}};
                    to[count] = one;
                    tape += {e}_tape_parts(&all, rows, steps).total;
                }}
                ++count;
            }}
            start += rows;
        }}
        if (to != NULL) {{
            to[count - 1].is_first = 1; /* backward */
        }}
    }}
    return count;
}}

static net_real *block_in(const {c}_sizes *n, const block *at, size_t units, const net_real *from)
{{
    net_real *const made = fresh(at->steps * at->rows * units), *to = made;
    for (size_t t = 0; t < at->steps; ++t, to += at->rows * units) {{
        memcpy(to, from + ((at->t0 + t) * n->B + at->start) * units,
            at->rows * units * sizeof(net_real));
    }}
    return made;
}}

static net_real *block_out(const {c}_sizes *n, const block *at, size_t units, const net_real *from,
    net_real *to)
{{
    for (size_t t = 0; t < at->steps; ++t, from += at->rows * units) {{
        memcpy(to + ((at->t0 + t) * n->B + at->start) * units, from,
            at->rows * units * sizeof(net_real));
    }}
    return to;
}}

static {c}_status run_forward({given}, const {c}_state *initial,
    {outputs}y, const {c}_new_state *final, net_real *tape)
{{
    const {e}_sizes all = sizes_of(n, n->T, n->B), most = sizes_of(n, 3, 2);
    if ({e}_check(&all) != NET_OK) {{
        return {C}_BAD_SIZE;
    }}
    {units}
    {params}
    net_real *const packed = fresh({e}_forward_packed_parts(&all).total);
    net_real *const work = fresh({e}_forward_room(&most));
    {e}_arrange_forward(&all, {p}, packed);
    {held}
    const size_t count = blocks_of(n, NULL);
    block *const blocks = (block *)malloc(count * sizeof(block));
    blocks_of(n, blocks);
    for (size_t k = 0; k < count; ++k) {{
        const block *const at = &blocks[k];
        const {e}_sizes here = sizes_of(n, at->steps, at->rows);
        {e}_call call = {{.n = &here, .p = {p}, .packed = packed, .work = work}};
        {forward}
    }}
    {finals}
    free(blocks), given_back(packed), given_back(work);
    {forget_held}
    return {C}_OK;
}}

const char *{c}_message({c}_status status)
{{
    return status == {C}_OK ? "no error" : "an error";
}}

size_t {c}_tape_size(const {c}_sizes *n)
{{
    const {e}_sizes all = sizes_of(n, n->T, n->B);
    /* enough for any number of slices: no block has less than a step */
    return size_at_least(1, {e}_tape_room(&all, n->T * n->B, n->T * n->B));
}}

size_t {c}_packed_size(const {c}_sizes *n)
{{
    return n != NULL;
}}

size_t {c}_forward_work_size(const {c}_sizes *n)
{{
    return n != NULL;
}}

size_t {c}_backward_work_size(const {c}_sizes *n)
{{
    return n != NULL;
}}

size_t {c}_step_work_size(const {c}_sizes *n)
{{
    return n != NULL;
}}

{c}_status {c}_pack(const {c}_sizes *n, const {c}_params *p, net_real *packed)
{{
    (void)n, (void)p, (void)packed;
    return {C}_OK;
}}

{c}_status {c}_forward({given}, const {c}_state *initial,
    {outputs}y, const {c}_new_state *final, net_real *tape, net_real *work)
{{
    (void)work;
    return run_forward({names}, initial, y, final, tape);
}}

{c}_status {c}_step({given}, const {c}_state *initial,
    {outputs}y, const {c}_new_state *final, net_real *work)
{{
    {c}_sizes one = *n;
    one.T = 1;
    one.threads = 0;
    (void)work;
    return run_forward(&one, {names_after_n}, initial, y, final, NULL);
}}

{c}_status {c}_backward({given}, const net_real *tape, {output_grads}dy,
    const {c}_state *dfinal, const {c}_grads *g, {input_grads}dx, const {c}_new_state *dinitial,
    net_real *unused)
{{
    const {e}_sizes all = sizes_of(n, n->T, n->B), most = sizes_of(n, 3, 2);
    {units}
    {params}
    net_real *const packed = fresh({e}_backward_packed_parts(&all).total);
    net_real *const work = fresh({e}_backward_room(&most));
    {sums}
    {e}_arrange_backward(&all, {p}, packed);
    {held}
    const size_t count = blocks_of(n, NULL);
    block *const blocks = (block *)malloc(count * sizeof(block));
    blocks_of(n, blocks);
    for (size_t k = count; k-- > 0;) {{
        const block *const at = &blocks[k];
        const {e}_sizes here = sizes_of(n, at->steps, at->rows);
        {e}_call call = {{.n = &here, .p = {p}, .packed = packed, .work = work}};
        {backward}
    }}
    {gradients}
    (void)g, (void)unused;
    free(blocks), given_back(packed), given_back(work);
    {forget_held}
    return {C}_OK;
}}
"""


def source(cell: Cell, dtype: str) -> str:
    """The source, to stand beside the header of the cell, in the place of its own."""
    made = Embedded(cell, dtype, OWNER)
    return _SOURCE.format(
        **_names(cell),
        code="\n".join(types(made)) + made.code,
        bits=BITS[dtype],
        sizes="".join(f", .{n} = n->{n}" for n in cell.sizes),
        units=_units(cell),
        **_parameters(made),
        **_states(cell),
        forward=_block(_forward(cell)),
        backward=_block(_backward(made)),
    )


def types(made: Embedded) -> list[str]:
    """The types that the owner's header would have."""
    found = [made.parameters] if made.has_parameters else []
    return found + ([made.states] if made.has_states else [])


def _block(lines: Iterable[str]) -> str:
    return "\n        ".join(lines)


def _names(cell: Cell) -> dict[str, str]:
    """Names of functions, and their arguments as in the header of the cell."""
    c = cell.name
    several, several_outputs = len(cell.inputs) > 1, len(cell.outputs) > 1
    given = [f"const {c}_sizes *n", f"const {c}_params *p"]
    given.append(f"const {c}_inputs *x" if several else "const net_real *x")
    given += [f"const {c}_masks *m"] if cell.masks else []
    names = ["p", "x", *(["m"] if cell.masks else [])]
    return {
        "c": c, "C": c.upper(), "e": f"{OWNER}_{c}", "given": ", ".join(given),
        "names": ", ".join(["n", *names]), "names_after_n": ", ".join(names),
        "outputs": f"const {c}_outputs *" if several_outputs else "net_real *",
        "output_grads": f"const {c}_output_grads *" if several_outputs else "const net_real *",
        "input_grads": f"const {c}_input_grads *" if several else "net_real *",
    }  # fmt: skip


def _units(cell: Cell) -> str:
    """The units of everything that is cut into rows, as variables."""
    lines = [f"const size_t {n} = n->{n}; (void){n};" for n in cell.sizes]
    rows = (*cell.inputs, *cell.masks, *cell.states, *cell.outputs)
    for v in dict.fromkeys(v.at(0) for v in rows):
        units = " + ".join(" * ".join(map(str, m)) for m in monomials(cell.size(v)))
        lines.append(f"const size_t units_{v.name} = {units}; (void)units_{v.name};")
    return "\n    ".join(lines)


def _parameters(made: Embedded) -> dict[str, str]:
    cell = made.cell
    members = [v.name for v in (*cell.parameters, *cell.constants)]
    each = f"{made.name}_sums_parts(&all).total"
    lines = ["net_real *const sums = NULL;"]
    if made.has_sums:
        lines = [
            f"net_real *const sums = fresh(slice_count(n->B, n->threads) * {each});",
            f"const size_t each = {each};",
        ]
    gradients = ["given_back(sums);"]
    if made.has_gradients:
        learned = ", ".join(f".{p.name} = g->{p.name}" for p in cell.learned)
        gradients = [
            f"const {made.name}_grads to = {{{learned}}};",
            f"const {made.name}_call all_of_them = {{.n = &all, .p = {_p(made)}, .g = &to,",
            f"    {'.sums = sums, ' if made.has_sums else ''}"
            f"{'.once = packed, ' if made.has_once else ''}.accumulate = g->accumulate}};",
            f"{made.name}_sum_gradients(&all_of_them);",
            *gradients,
        ]
    values = ", ".join(f".{name} = p->{name}" for name in members)
    return {
        "params": f"const {made.name}_params q = {{{values}}};" if members else "(void)p;",
        "p": _p(made),
        "sums": "\n    ".join(lines),
        "gradients": "\n    ".join(gradients),
    }


def _p(made: Embedded) -> str:
    return "&q" if made.has_parameters else "NULL"


def _states(cell: Cell) -> dict[str, str]:
    held = [f"net_real *const held_{s.name} = fresh(n->B * units_{s.name});" for s in cell.states]
    finals = [
        f"if (final != NULL && final->{s.name} != NULL) memcpy(final->{s.name}, held_{s.name}, "
        f"n->B * units_{s.name} * sizeof(net_real));"
        for s in cell.states
    ]
    forgotten = [f"given_back(held_{s.name});" for s in cell.states]
    return {
        "held": "\n    ".join(held),
        "finals": "\n    ".join(finals) if finals else "(void)final;",
        "forget_held": "\n    ".join(forgotten),
    }


def _handed(cell: Cell, reads: str, given: str, writes: str, is_first: str) -> list[str]:
    """States that a block reads and writes, in place, where it is not the first one."""
    e = f"{OWNER}_{cell.name}"
    lines = [f"{e}_state before; {e}_new_state after;"] if cell.states else [f"(void){given};"]
    for s in cell.states:
        at = f"at->start * units_{s.name}"
        there = f"{given} != NULL && {given}->{s.name} != NULL"
        lines += [
            f"before.{s.name} = !({is_first}) ? held_{s.name} + {at} :",
            f"    {there} ? {given}->{s.name} + {at} : NULL;",
            f"after.{s.name} = held_{s.name} + {at};",
        ]
    return [*lines, f"call.{reads} = &before, call.{writes} = &after;"] if cell.states else lines


def _copied(cell: Cell, some: tuple[Vector, ...], whole: str, is_struct: bool) -> list[str]:
    """Arrays of a caller, of which a block has a copy."""
    lines = [f"{OWNER}_{cell.name}_{_KINDS[whole]} {whole}s;"] if is_struct else []
    for v in some:
        array = f"{whole}->{v.name}" if is_struct else whole
        to = f"{whole}s.{v.name}" if is_struct else f"call.{whole}"
        held = f"{whole}_{v.name}"
        lines += [
            f"net_real *const {held} = {array} == NULL ? NULL :",
            f"    block_in(n, at, units_{v.name}, {array});",
            f"{to} = {held};",
        ]
    return [*lines, f"call.{whole} = &{whole}s;"] if is_struct else lines


_KINDS = {"x": "inputs", "m": "masks", "y": "outputs", "dy": "output_grads", "dx": "input_grads"}


def _given(cell: Cell) -> list[str]:
    lines = _copied(cell, cell.inputs, "x", len(cell.inputs) > 1)
    return lines + (_copied(cell, cell.masks, "m", True) if cell.masks else [])


def _forgotten(some: Iterable[Vector], whole: str) -> list[str]:
    return [f"given_back({whole}_{v.name});" for v in some]


def _received(cell: Cell, some: tuple[Vector, ...], whole: str) -> tuple[list[str], list[str]]:
    """Arrays that a caller receives, if they are there: where a block writes them, and after it."""
    several = len(some) > 1
    before = [f"{OWNER}_{cell.name}_{_KINDS[whole]} {whole}s;"] if several else []
    after = []
    for v in some:
        array = f"{whole}->{v.name}" if several else whole
        there = f"{whole} != NULL && {array} != NULL" if several else f"{whole} != NULL"
        held, count = f"{whole}_{v.name}", f"at->steps * at->rows * units_{v.name}"
        before += [
            f"net_real *const {held} = {there} ? fresh({count}) : NULL;",
            f"{f'{whole}s.{v.name}' if several else f'call.{whole}'} = {held};",
        ]
        after += [
            f"if ({held} != NULL) block_out(n, at, units_{v.name}, {held}, {array});",
            f"given_back({held});",
        ]
    return [*before, *([f"call.{whole} = &{whole}s;"] if several else [])], after


def _forward(cell: Cell) -> list[str]:
    before, after = _received(cell, cell.outputs, "y")
    return [
        *_given(cell),
        *_handed(cell, "initial", "initial", "final", "at->t0 == 0"),
        *before,
        "call.tape = tape != NULL ? tape + at->tape : NULL;",
        "const slice_place whole = {0, 0, at->rows, at->rows, 1};",
        f"{OWNER}_{cell.name}_forward_rows(&call, whole);",
        *after,
        *_forgotten(cell.inputs, "x"),
        *_forgotten(cell.masks, "m"),
    ]


def _backward(made: Embedded) -> list[str]:
    cell = made.cell
    before, after = _received(cell, cell.inputs, "dx")
    initial = [
        f"if (at->t0 == 0 && dinitial != NULL && dinitial->{s.name} != NULL)"
        f" memcpy(dinitial->{s.name} + at->start * units_{s.name}, after.{s.name},"
        f" at->rows * units_{s.name} * sizeof(net_real));"
        for s in cell.states
    ]
    return [
        *_given(cell),
        *_copied(cell, cell.outputs, "dy", len(cell.outputs) > 1),
        *_handed(cell, "dfinal", "dfinal", "dinitial", "at->t0 + at->steps == n->T"),
        *before,
        "call.kept = tape + at->tape;",
        *(["call.sums = sums + at->s * each;"] if made.has_sums else []),
        *(["call.once = packed;"] if made.has_once else []),
        "call.begun = !at->is_first;",
        "const slice_place whole = {0, 0, at->rows, at->rows, 1};",
        f"{OWNER}_{cell.name}_backward_rows(&call, whole);",
        *after,
        *(initial or ["(void)dinitial;"]),
        *_forgotten(cell.inputs, "x"),
        *_forgotten(cell.masks, "m"),
        *_forgotten(cell.outputs, "dy"),
    ]
