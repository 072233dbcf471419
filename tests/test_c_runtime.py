"""The runtime of generated C on its own: its functions, its products and copies, its neighbours."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need
from driver import POISONED, WARNINGS, Case, compare, emitted, execute, run, write
from test_c import FAST, REFERENCE, case, everything, need_processor

import lstmgen
from lstmgen import cells
from lstmgen.targets.c import runtime
from lstmgen.targets.rendering import environment
from lstmgen.targets.sealing import seal

BITS = {"float32": 32, "float64": 64}


def lay_down(folder: Path) -> None:
    (folder / runtime.FILE).write_text(seal(runtime.text()), encoding="utf-8")


# --------------------------------------------------------------------------- as a file

BOTH = f"""\
#define LSTMGEN_REAL 32
#include "{runtime.FILE}"
#define LSTMGEN_REAL 64
#include "{runtime.FILE}"
#define LSTMGEN_REAL 32
#include "{runtime.FILE}"
int add(int real, int vec, int mask, int LG);
int add(int real, int vec, int mask, int LG) {{ return real + vec + mask + LG; }}
"""


@pytest.mark.parametrize(
    "command",
    ["gcc -std=c99", "gcc -std=gnu17", "clang -std=c99", "clang -std=c11", "gcc -std=c99 -m32",
     "g++ -std=c++11", "g++ -std=c++20", "clang++ -std=c++11", "clang++ -std=c++20"],
)  # fmt: skip
@pytest.mark.parametrize("target", ["", "-mavx2 -mfma", "-DLSTMGEN_SCALAR", "-DLSTMGEN_LINKED"])
def test_both_types_in_one_source_without_a_warning(tmp_path, command, target):
    """No function has to be used, and no short name is left behind."""
    compiler, *flags = [*command.split(), *target.split()]
    need(" ".join([compiler, *flags]))
    lay_down(tmp_path)
    is_cpp = "++" in compiler
    name = "both.cpp" if is_cpp else "both.c"
    (tmp_path / name).write_text(BOTH, encoding="utf-8")
    known = [w for w in WARNINGS if not (is_cpp and w.endswith("-prototypes"))]
    for level in ("-O0", "-O2"):
        run(tmp_path, compiler, *flags, level, *known, "-c", name)


def test_macros_that_are_left_are_ours(tmp_path):
    need("gcc")
    lay_down(tmp_path)
    (tmp_path / "both.c").write_text(BOTH, encoding="utf-8")
    (tmp_path / "none.c").write_text(
        "#include <math.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <string.h>\n"
    )
    both, none = (set(run(tmp_path, "gcc", "-dM", "-E", f"{name}.c").splitlines())
                  for name in ("both", "none"))  # fmt: skip
    assert {line.split()[1].split("(")[0] for line in both - none} == {
        name for name in (line.split()[1].split("(")[0] for line in both - none)
        if name.startswith("LSTMGEN_")
    }  # fmt: skip
    assert len(both - none) > 5


def test_a_type_has_to_be_named(tmp_path):
    need("gcc")
    lay_down(tmp_path)
    for text in ("", "#define LSTMGEN_REAL 16\n"):
        (tmp_path / "none.c").write_text(f'{text}#include "{runtime.FILE}"\n', encoding="utf-8")
        with pytest.raises(AssertionError, match="LSTMGEN_REAL has to be 32 or 64"):
            run(tmp_path, "gcc", "-fsyntax-only", "none.c")


def test_no_template_nests_conditions_or_computes():
    """Decisions are made in Python."""
    home = Path(lstmgen.__file__).resolve().parents[1] / "templates" / "c"
    for path in sorted(home.glob("*.j2")):
        depth = 0
        for tag in re.findall(r"\{%-?\s*(if|elif|else|endif|set)\b", path.read_text("utf-8")):
            assert tag not in ("elif", "else", "set"), path.name
            depth += {"if": 1, "endif": -1}[tag]
            assert depth <= 1, path.name
        for expression in re.findall(r"\{\{(.*?)\}\}", path.read_text("utf-8")):
            assert not re.search(r"[-*/%]| if ", re.sub(r'"[^"]*"', "", expression)), path.name


def test_the_runtime_is_plain_c():
    home = Path(lstmgen.__file__).resolve().parents[1] / "templates" / "c"
    text = (home / runtime.FILE).read_text(encoding="utf-8")
    assert text == environment("c").get_template(runtime.FILE).render()
    assert "{{" not in text and "{%" not in text
    assert max(map(len, runtime.text().splitlines())) <= 100


def test_cells_of_another_runtime_do_not_compile(tmp_path):
    need("gcc")
    for name, text in emitted(cells.get("rnn"), "float64", ()).items():
        if name == runtime.FILE:
            text = text.replace(runtime.generation(), "LSTMGEN_RUNTIME_000000000000")
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match="generate all again"):
        run(tmp_path, "gcc", "-fsyntax-only", "rnn.c")


# --------------------------------------------------------------------------- its neighbours


def one_source(folder: Path, some: list[Case], **options: Any) -> None:
    """Write a program of these cases whose cells are included by its main file."""
    sources = write(some, folder)
    for one in some:
        for name, text in lstmgen.generate(one.cell, "c", dtype=one.dtype, **options).items():
            (folder / name).write_text(text, encoding="utf-8")
    main = (folder / "main.c").read_text(encoding="utf-8")
    for source in sources:
        main = main.replace(f'#include "{source[:-2]}.h"', f'#include "{source}"')
    (folder / "main.c").write_text(main, encoding="utf-8")


@pytest.mark.parametrize("single_file", [False, True])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_cells_share_a_source(tmp_path, compiler, single_file):
    """Two of double precision and one of single, whose runtime is there once for each."""
    need(f"{compiler} -fsanitize=address,undefined")
    some = [case(cells.get("lstm")), case(cells.get("gru")), case(everything(), dtype="float32")]
    one_source(tmp_path, some, single_file=single_file)
    run(tmp_path, compiler, "-std=c99", "-O0", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow",
        "-Werror", *POISONED, "main.c", "-o", "run", "-lm")  # fmt: skip
    execute(tmp_path)
    compare(some, tmp_path, 2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_single_file_is_the_same_code(tmp_path, dtype):
    need("gcc")
    for cell in REFERENCE:
        one = lstmgen.generate(cell, "c", dtype=dtype, single_file=True)
        several = lstmgen.generate(cell, "c", dtype=dtype)
        assert sorted(one) == [f"{cell.name}.c", f"{cell.name}.h"]
        assert sorted(several) == sorted([*one, runtime.FILE])
        for files, folder in ((one, tmp_path / "one"), (several, tmp_path / "several")):
            folder.mkdir(exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text, encoding="utf-8")
        code = [
            run(tmp_path / way, "gcc", "-E", "-P", f"{cell.name}.c") for way in ("one", "several")
        ]
        assert code[0] == code[1]


@pytest.mark.parametrize("single_file", ["yes", 1, None])
def test_single_file_is_true_or_false(single_file):
    with pytest.raises(lstmgen.GenerateError, match="single_file is True or False"):
        lstmgen.generate(cells.get("rnn"), "c", single_file=single_file)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_kernels_can_be_linked(tmp_path, compiler):
    """Then there is one copy of them in a program; the sources have none."""
    need(compiler)
    need("nm")
    some = [case(cells.get(name), T=3) for name in ("lstm", "gru_reset_before")]
    sources = write(some, tmp_path)
    flags = ["-std=c99", "-O1", *WARNINGS, "-DLSTMGEN_LINKED"]
    run(tmp_path, compiler, *flags, "-c", *sources)
    run(tmp_path, compiler, *flags, "-DLSTMGEN_KERNELS", "-DLSTMGEN_REAL=64", "-x", "c", "-c",
        runtime.FILE, "-o", "kernels.o")  # fmt: skip
    objects = [f"{one.cell.name}.o" for one in some]
    for name in objects:
        assert re.search(r"U multiply_by_f64", run(tmp_path, "nm", name))
    run(tmp_path, compiler, "main.c", *objects, "kernels.o", "-o", "run", "-lm")
    execute(tmp_path)
    compare(some, tmp_path, 1e-12)


# --------------------------------------------------------------------------- products and copies

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#define LSTMGEN_REAL %(bits)s
#include "lstmgen_runtime.h"
#define F(name) name##_f%(bits)s
typedef %(real)s real;

/* Exactly so many numbers, NaN all of them. */
static real *room(size_t count)
{
    real *const made = (real *)malloc((count == 0 ? 1 : count) * sizeof(real));
    if (made == NULL) {
        abort();
    }
    memset(made, 0xff, (count == 0 ? 1 : count) * sizeof(real));
    return made;
}

static real *numbers(FILE *in, size_t count)
{
    real *const made = room(count);
    if (fread(made, sizeof(real), count, in) != count) {
        abort();
    }
    return made;
}

static void put(FILE *out, const real *from, size_t count)
{
    if (fwrite(from, sizeof(real), count, out) != count) {
        abort();
    }
}

int main(int argc, char **argv)
{
    FILE *const in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    FILE *const out = in != NULL ? fopen(argv[2], "wb") : NULL;
    size_t rows, inner, width;
    while (out != NULL && fread(&rows, sizeof rows, 1, in) == 1
        && fread(&inner, sizeof inner, 1, in) == 1 && fread(&width, sizeof width, 1, in) == 1) {
        const size_t wide = F(padded)(width), deep = F(padded)(inner), team = %(team)s;
        real *const x = numbers(in, rows * inner), *const w = numbers(in, width * inner);
        real *const b = numbers(in, width);
        real *const packed = room(inner * wide), *const y = room(rows * wide);
        real *const start = room(wide), *back = room(rows * deep);
        real *const below = room(width * deep);
        real *const from_rows = room(rows * deep), *const columns = room(rows * deep);
        real *const panels = room(rows * wide), *const sum = room(inner * wide);
        real *const grad = room(width * inner), *const twice = room(width * inner);
        real *const home = room(rows * width), *const twins = room(rows * 2 * width);
        real *const head = room(width * deep), *const squares = room(width * width);
        const real *gathered;

        /* y = b + x wT */
        F(pad)(width, b, start, 0, wide);
        F(pack_transposed)(team, width, inner, w, packed, 0, width, width);
        F(multiply)(team, rows, width, F(rows_of)(x, inner, inner), packed, start, 0, y, wide);
        F(scatter)(1, rows, rows, width, y, wide, home);
        put(out, home, rows * width);

        /* y w, with w as it is */
        F(pack_rows)(team, width, inner, w, below, 0, width);
        F(multiply)(team, rows, deep, F(rows_of)(y, wide, width), below, NULL, 0, back, deep);
        for (size_t r = 0; r < rows; ++r) {
            put(out, back + r * deep, inner);
        }

        /* the sum of y xT over all rows, written, and added to itself */
        F(fill)(rows, deep, NULL, from_rows, deep);
        gathered = F(gather)(1, rows, rows + 1, inner, deep, x, from_rows);
        F(copy_panels)(team, rows, width, y, wide, panels);
        F(outer_add)(team, rows, width, inner, gathered, deep, panels, 0, sum, wide, columns);
        F(unpack_transposed)(team, width, inner, sum, 0, wide, 0, grad);
        put(out, grad, width * inner);
        F(unpack_transposed)(team, width, inner, sum, 0, wide, 0, twice);
        F(outer_add)(team, rows, width, inner, gathered, deep, panels, 1, sum, wide, columns);
        F(unpack_transposed)(team, width, inner, sum, 0, wide, 1, twice);
        put(out, twice, width * inner);

        F(add)(width, b, 0, home);
        F(add)(width, b, 1, home);
        put(out, home, width);
        /* two heads, which share x and w: x wT, and that times w, side by side */
        F(multiply_heads)(rows, 2, width, F(rows_of)(x, inner, inner), 0, packed, 0, NULL, 0, twins,
            2 * width);
        put(out, twins, rows * 2 * width);
        F(pack_head)(width, inner, w, head);
        free(back), back = room(rows * 2 * inner);
        F(multiply_heads)(rows, 2, inner, F(rows_of)(twins, 2 * width, width), width, head, 0, NULL,
            0, back, 2 * inner);
        put(out, back, rows * 2 * inner);
        F(fill)(width, width, NULL, squares, width);
        F(outer_heads)(rows, 2, width, width, twins, 2 * width, twins, 2 * width, 0, squares);
        put(out, squares, width * width);
        free(twins), free(head), free(squares);
        free(x), free(w), free(b), free(packed), free(y), free(start), free(back), free(below);
        free(from_rows), free(columns), free(panels), free(sum), free(grad), free(twice);
        free(home);
    }
    return out != NULL && fclose(out) == 0 && fclose(in) == 0 ? 0 : 2;
}
"""
SIZES = [
    *itertools.product((1, 2, 3, 5, 6, 7, 13), (1, 2, 9), (1, 3, 8, 17)),
    (4, 16, 64), (11, 33, 65), (25, 40, 96), (1, 64, 33), (48, 5, 16),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "command",
    ["gcc -std=c99 -O0", "gcc -std=c99 -O1 -march=native", "clang -std=c99 -O1 -mavx2 -mfma",
     "gcc -std=c99 -O0 -DLSTMGEN_SCALAR", "g++ -std=c++11 -O1", "gcc -std=c99 -O1 -m32",
     "gcc -std=c99 -O1 -fopenmp -DLSTMGEN_SHARED=1"],
)  # fmt: skip
def test_products_and_copies(tmp_path, command, dtype):
    """Of all kinds of sizes, against NumPy, under sanitizers, in memory of exactly their size."""
    compiler, *flags = command.split()
    watched = [] if "-m32" in flags or "-fopenmp" in flags else [*POISONED]
    need(" ".join([compiler, *flags, *(["-fsanitize=address,undefined"] if watched else [])]))
    need_processor(flags)
    lay_down(tmp_path)
    rng = np.random.default_rng(0)
    size = np.uint32 if "-m32" in flags else np.uint64
    given, wanted = b"", []
    for rows, inner, width in SIZES:
        x, w, b = (rng.normal(size=s) for s in ((rows, inner), (width, inner), (width,)))
        x, w, b = (a.astype(dtype) for a in (x, w, b))
        given += b"".join(a.tobytes() for a in (np.array([rows, inner, width], size), x, w, b))
        x, w, b = (a.astype(np.float64) for a in (x, w, b))
        y = x @ w.T + b
        wanted += [y, y @ w, y.T @ x, 3 * y.T @ x, 2 * b]
        y = x @ w.T
        wanted += [np.tile(y, 2), np.tile(y @ w, 2), 2 * y.T @ y]
    (tmp_path / "in.bin").write_bytes(given)
    about = {"bits": BITS[dtype], "real": "float" if dtype == "float32" else "double",
             "team": 3 if "-fopenmp" in flags else 1}  # fmt: skip
    name = "main.cpp" if "++" in compiler else "main.c"
    (tmp_path / name).write_text(PROGRAM % about, encoding="utf-8")
    run(
        tmp_path,
        compiler,
        *flags,
        *watched,
        "-Wall",
        "-Wextra",
        "-Werror",
        name,
        "-o",
        "run",
        "-lm",
    )
    execute(tmp_path)
    found = np.frombuffer((tmp_path / "out.bin").read_bytes(), dtype)
    assert found.size == sum(a.size for a in wanted)
    for expected in wanted:
        part, found = found[: expected.size].reshape(expected.shape), found[expected.size :]
        # sums of up to 96 terms, of sums of up to 64; squares add up to more
        roundings = max(1e4, 10 * np.abs(expected).max())
        np.testing.assert_allclose(part, expected, rtol=0, atol=roundings * np.finfo(dtype).eps)


# --------------------------------------------------------------------------- parts of vecs

SOME_LANES = r"""
#include <stdio.h>
#include <stdlib.h>
#define LSTMGEN_REAL %(bits)s
#include "lstmgen_runtime.h"
#define F(name) name##_f%(bits)s
typedef %(real)s real;

/* `some` numbers from `shift` on, in memory of exactly their size, through a vec and back. */
static int copied(size_t shift, size_t some)
{
    real *const from = (real *)malloc((shift + some) * sizeof(real) + 1);
    real *const to = (real *)malloc((shift + some) * sizeof(real) + 1);
    real lanes[F(lanes)];
    int fine = from != NULL && to != NULL;
    for (size_t k = 0; fine && k < shift + some; ++k) {
        from[k] = (real)(k + 1);
        to[k] = -1;
    }
    if (fine) {
        const F(vec) a = F(some_of)(from + shift, some);
        memcpy(lanes, &a, sizeof a);
        F(put_some)(a, to + shift, some);
    }
    for (size_t k = 0; fine && k < F(lanes); ++k) {
        fine = lanes[k] == (k < some ? (real)(shift + k + 1) : 0);
    }
    for (size_t k = 0; fine && k < shift + some; ++k) {
        fine = to[k] == (k < shift ? -1 : (real)(k + 1));
    }
    free(from), free(to);
    return fine;
}

int main(void)
{
    for (size_t shift = 0; shift < 4; ++shift) {
        for (size_t some = 0; some <= F(lanes); ++some) {
            if (!copied(shift, some)) {
                return 1;
            }
        }
    }
    for (size_t total = 1; total < 40; ++total) {
        size_t sum = 0, first = 0;
        for (; first < total; first += F(lanes)) {
            sum += F(left_of)(total, first);
            if (F(left_of)(total, first) != F(lanes) && sum != total) {
                return 2;
            }
        }
        if (sum != total || first != F(vecs)(total) * F(lanes)) {
            return 3;
        }
    }
    return 0;
}
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "command",
    ["gcc -std=c99 -O0", "gcc -std=c99 -O2 -march=native", "clang -std=c99 -O1 -mavx2 -mfma",
     "gcc -std=c99 -O1 -mavx", "gcc -std=c99 -Ofast -fno-finite-math-only -march=native",
     "gcc -std=c99 -O1 -DLSTMGEN_SCALAR", "g++ -std=c++11 -O1 -march=native"],
)  # fmt: skip
def test_parts_of_vecs(tmp_path, command, dtype):
    """Every number of lanes that can be in use, under sanitizers."""
    compiler, *flags = command.split()
    need(f"{command} -fsanitize=address,undefined")
    need_processor(flags)
    lay_down(tmp_path)
    about = {"bits": BITS[dtype], "real": "float" if dtype == "float32" else "double"}
    name = "main.cpp" if "++" in compiler else "main.c"
    (tmp_path / name).write_text(SOME_LANES % about, encoding="utf-8")
    run(tmp_path, compiler, *flags, "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
        "-Wall", "-Wextra", "-Werror", name, "-o", "run", "-lm")  # fmt: skip
    run(tmp_path, "./run")


# --------------------------------------------------------------------------- functions

ACTIVATIONS = r"""
#include <stdio.h>
#ifdef SINGLE
#define LSTMGEN_REAL 32
#define F(name) name##_f32
typedef float real;
#else
#define LSTMGEN_REAL 64
#define F(name) name##_f64
typedef double real;
#endif
#include "lstmgen_runtime.h"
#define LANES (sizeof(F(vec)) / sizeof(real))

#define COUNT 5
#ifdef SINGLE
typedef double wide;
typedef uint32_t pattern;
#define W(f) f
#define NEXT nextafterf
#else
typedef long double wide;
typedef uint64_t pattern;
#define W(f) f##l
#define NEXT nextafter
#endif

static const char *const names[COUNT] = {"exp", "tanh", "sigmoid", "expm1", "softplus"};
static double worst[COUNT];
static double largest[COUNT];
static real at[COUNT];
static int wrong = 0;

static wide exactly(int f, wide a)
{
    return f == 0 ? W(exp)(a) : f == 1 ? W(tanh)(a) : f == 2 ? 1 / (1 + W(exp)(-a))
        : f == 3 ? W(expm1)(a) : a > 0 ? a + W(log1p)(W(exp)(-a)) : W(log1p)(W(exp)(a));
}

/* The place of a number among all there are: zeros have the same, and infinity is the last. */
static int64_t place_of(real a)
{
    int64_t place = 0;
    pattern p;
    memcpy(&p, &a, sizeof p);
    place = (int64_t)(p & ~((pattern)1 << (8 * sizeof p - 1)));
    return p >> (8 * sizeof p - 1) ? -place : place;
}

static void expect(int fine, int f, real a, real got)
{
    if (!fine && ++wrong < 20) {
        printf("%s(%a) = %a\n", names[f], (double)a, (double)got);
    }
}

static void examine(const real *a)
{
    for (int f = 0; f < COUNT; ++f) {
        real got[LANES];
        const F(vec) in = *(const F(vec) *)a;
        *(F(vec) *)got = f == 0 ? F(exp)(in) : f == 1 ? F(tanh)(in) : f == 2 ? F(sigmoid)(in)
            : f == 3 ? F(expm1)(in) : F(softplus)(in);
        for (size_t l = 0; l < LANES; ++l) {
            if (isnan(a[l])) {
                expect(isnan(got[l]), f, a[l], got[l]);
                continue;
            }
            const real wanted = (real)exactly(f, a[l]);
            const double off = fabs((double)(place_of(got[l]) - place_of(wanted)));
            if (off > worst[f]) {
                worst[f] = off;
                at[f] = a[l];
            }
            if (isfinite(wanted)) { /* the same without rounding what is wanted, to be told */
                const real size = wanted < 0 ? -wanted : wanted;
                const wide unit = (wide)NEXT(size, (real)INFINITY) - (wide)size;
                const wide part = (wide)got[l] - exactly(f, a[l]);
                const double ulps = (double)((part < 0 ? -part : part) / unit);
                largest[f] = ulps > largest[f] ? ulps : largest[f];
            }
            expect(got[l] >= -(f % 2) && (f % 3 == 0 || f == 4 || got[l] <= 1), f, a[l], got[l]);
            if (isinf(a[l])) {
                expect(got[l] >= wanted && got[l] <= wanted, f, a[l], got[l]);
            }
            if (f % 2 == 1) {
                expect(!signbit(got[l]) == !signbit(a[l]), f, a[l], got[l]);
            }
        }
    }
}

static void add_number(real a)
{
    static real some[LANES];
    static size_t count = 0;
    some[count++] = a;
    if (count == LANES) {
        examine(some);
        count = 0;
    }
}

static uint64_t chance(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

int main(void)
{
    const real edges[] = {0, (real)INFINITY, (real)NAN, 1, 2, (real)0.5, (real)0.55, 9, 20, 40,
        87, 88, (real)88.7, (real)88.8, 89, 103, (real)103.9, 104, 150, 700, 708, 709, (real)709.7,
        (real)709.8, 710, 744, 745, (real)745.2, 746, 1000, 1e30f, 3e38f};
    for (size_t k = 0; k < sizeof edges / sizeof *edges; ++k) {
        for (real by = (real)0.999; by < (real)1.0015; by += (real)0.0001) {
            add_number(edges[k] * by);
            add_number(-edges[k] * by);
        }
        add_number(edges[k]);
        add_number(-edges[k]);
    }
#ifdef SINGLE
    /* all floats there are, one in so many */
    for (uint64_t p = 0; p < (uint64_t)1 << 32; p += STRIDE) {
        const uint32_t low = (uint32_t)p;
        real a;
        memcpy(&a, &low, sizeof a);
        add_number(a);
    }
    const long many = 100000;
#else
    const long many = 300000;
    for (uint64_t k = 0; k < 2000; ++k) { /* smaller than any normal number */
        const uint64_t low = chance() >> (12 + k % 50);
        real a;
        memcpy(&a, &low, sizeof a);
        add_number(a);
        add_number(-a);
    }
#endif
    for (long k = 0; k < many; ++k) {
        const real one = (real)((double)(chance() >> 11) / 4503599627370496.0 - 1); /* -1 to 1 */
        add_number(one * 800);
        add_number(one * 30);
        add_number((real)ldexp((double)one, -(int)(chance() % 60)));
    }
    for (size_t l = 0; l < LANES; ++l) { /* whatever waits for company */
        add_number(0);
    }
    for (int f = 0; f < COUNT; ++f) {
        printf("%s %.0f %a, %.2f ulp\n", names[f], worst[f], (double)at[f], largest[f]);
        wrong += worst[f] > 4;
    }
    return wrong != 0;
}
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "command",
    [
        "gcc -std=c99 -O2",
        "gcc -std=c99 -O2 -DLSTMGEN_SCALAR",
        "gcc -std=gnu99 -O2 -march=native",
        "clang -std=c99 -O2 -march=native",
        *(f"{compiler} -O2 {target} {flags}" for compiler in ("gcc", "clang") for flags in FAST
          for target in ("-march=native", "-DLSTMGEN_SCALAR")),
    ],
)  # fmt: skip
def test_activations_are_exact_to_four_units(tmp_path, dtype, command):
    """In the last place, also of results that are denormal; infinities and NaN are what they are.

    Single precision is held against the C library's double, and double against its long double.
    """
    compiler, *flags = command.split()
    need(compiler)
    need_processor(flags)
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("long double is no wider than double")
    lay_down(tmp_path)
    (tmp_path / "main.c").write_text(ACTIVATIONS, encoding="utf-8")
    stride = os.environ.get("LSTMGEN_FLOAT_STRIDE", "4099")  # 1 takes all floats, and minutes
    single = ["-DSINGLE", f"-DSTRIDE={stride}"] * (dtype == "float32")
    run(tmp_path, compiler, *flags, *single, "-Wall", "-Wno-unused-function", "-Werror", "-c",
        "main.c")  # fmt: skip
    run(tmp_path, compiler, "main.o", "-o", "run", "-lm")  # -Ofast would make denormals zeros
    print(f"largest errors, and where: {run(tmp_path, './run')}")
