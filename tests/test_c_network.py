"""What networks in C have in common, as a library: held against the NumPy modules of networks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need
from driver import POISONED, WARNINGS, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstmgen import compile
from lstmgen.network.layers import Layer
from lstmgen.network.structure import Structure
from lstmgen.targets.c import runtime
from lstmgen.targets.rendering import environment
from lstmgen.targets.sealing import seal


def _included(file: str) -> str:
    return "".join(f'#define LSTMGEN_REAL {bits}\n#include "{file}"\n' for bits in (32, 64))


_BOTH = _included(runtime.FILE) + _included(runtime.NETWORK)
_GUARD = 3.0e7  # what stands around arrays, and in what is not written


def lay_down(folder: Path) -> None:
    for file in (runtime.FILE, runtime.NETWORK):
        (folder / file).write_text(seal(runtime.text(file)), encoding="utf-8")


# --------------------------------------------------------------------------- as a file


@pytest.mark.parametrize(
    "command",
    ["gcc -std=c99", "gcc -std=gnu17 -march=native", "clang -std=c99", "g++ -std=c++11",
     "clang++ -std=c++20"],
)  # fmt: skip
def test_both_types_in_one_source_without_a_warning(tmp_path, command):
    """No function has to be used, and no short name is left behind."""
    compiler, *flags = command.split()
    need(command)
    lay_down(tmp_path)
    is_cpp = "++" in compiler
    name = "both.cpp" if is_cpp else "both.c"
    text = f"{_BOTH}{_BOTH}int add(int real, int LG);\n"
    text += "int add(int real, int LG) { return real + LG; }\n"
    (tmp_path / name).write_text(text, encoding="utf-8")
    known = [w for w in WARNINGS if not (is_cpp and w.endswith("-prototypes"))]
    for level in ("-O0", "-O3"):
        run(tmp_path, compiler, *flags, level, *known, "-c", name)


def test_it_is_plain_c_whose_names_are_its_own():
    text = runtime.text(runtime.NETWORK)
    assert runtime.code(runtime.NETWORK) == environment("c").get_template(runtime.NETWORK).render()
    assert "{{" not in text and "{%" not in text
    assert max(map(len, text.splitlines())) <= 100
    plain = re.findall(r"^LSTMGEN_(?:STATIC|INLINE) [\w ]+?(\w+)\(", text, re.MULTILINE)
    own = ("order_", "row_", "checkpoint_", "random_", "symbols_")
    assert {name for name in plain if name != "LG" and not name.startswith(own)} == set()
    assert not (set(plain) - {"LG"}) & runtime.words()


def test_it_asks_for_the_runtime(tmp_path):
    need("gcc")
    lay_down(tmp_path)
    text = f'#define LSTMGEN_REAL 32\n#include "{runtime.NETWORK}"\n'
    (tmp_path / "alone.c").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"needs lstmgen_runtime\.h before it"):
        run(tmp_path, "gcc", "-fsyntax-only", "alone.c")


# --------------------------------------------------------------------------- as a library


def _declared(text: str) -> str:
    """The types and functions of the file, as cffi reads them; for both types of numbers."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    plain, _, typed = text.partition("#if LSTMGEN_REAL == 32")
    return _plain(plain) + "".join(
        re.sub(r"\breal\b", real, re.sub(r"LG\((\w+)\)", rf"\1_f{bits}", _plain(typed)))
        for bits, real in ((32, "float"), (64, "double"))
    )


def _plain(text: str) -> str:
    heads = re.findall(r"^LSTMGEN_STATIC (\w[^;{]*?\))\s*\{", text, re.MULTILINE)
    types = re.findall(r"^typedef struct (.*?\} [\w()]+);", text, re.MULTILINE | re.DOTALL)
    declared = [f"typedef struct {about};" for about in types] + [f"{head};" for head in heads]
    return "\n".join(re.sub(r"LSTMGEN_RESTRICT ?", "", line) for line in declared) + "\n"


class Library:
    """All its functions, called with arrays of NumPy that lie between guards."""

    def __init__(self, folder: Path) -> None:
        from cffi import FFI

        lay_down(folder)
        visible = "#undef LSTMGEN_STATIC\n#define LSTMGEN_STATIC\n"
        text = _included(runtime.FILE) + visible + _included(runtime.NETWORK)
        (folder / "all.c").write_text(text, encoding="utf-8")
        run(folder, "gcc", "-std=c99", "-O1", "-g", "-Wall", "-Werror", "-shared", "-fPIC", "all.c",
            "-o", "all.so", "-lm")  # fmt: skip
        self.ffi = FFI()
        self.ffi.cdef(_declared(runtime.code(runtime.NETWORK)))
        self.lib = self.ffi.dlopen(str(folder / "all.so"))

    def at(self, array: Any) -> Any:
        kinds = {"f4": "float *", "f8": "double *", "u8": "size_t *", "u1": "unsigned char *",
                 "i4": "int32_t *"}  # fmt: skip
        if array is None:
            return self.ffi.NULL
        return self.ffi.cast(kinds[array.dtype.str[1:]], array.ctypes.data)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    need("gcc")
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def module():
    """A network in NumPy, for what all of them have."""
    return compile(Structure([Layer("rnn", 2)]))


class Order:
    """The order of a batch in C, and in NumPy."""

    def __init__(self, library: Library, module: Any, made: dict[str, Any]) -> None:
        self.library, self.made = library, made
        T, B = self.T, self.B = made["T"], made["B"]
        lengths, resets, every = made["lengths"], made["resets"], made["every"]
        self.numpy = module._Rows(
            T, B, lengths, None if resets is None else resets.astype(bool), every or None
        )
        self.lengths = None if lengths is None else lengths.astype(np.uint64)
        self.resets = None if resets is None else np.ascontiguousarray(resets, np.uint8)
        self.c = self.sliced(0, B)

    def sliced(self, start: int, B: int) -> Any:
        """The order of some of the sequences."""
        lib, T = self.library.lib, self.T
        kinds = self.lengths is not None, self.resets is not None
        room = lib.order_room(T, B, *kinds)
        memory = np.full(room + 1, 77, np.uint64)
        made = lib.order_make(
            T, start, B, self.B, self.library.at(self.lengths), self.library.at(self.resets),
            self.made["every"], self.library.at(memory) if room else self.library.ffi.NULL,
        )  # fmt: skip
        assert memory[room] == 77
        self.kept = [*getattr(self, "kept", []), memory]
        return self.library.ffi.new("row_order *", made)

    def call(self, name: str, *arguments: Any, order: Any = None, is_reversed: Any = None) -> Any:
        """A function, with arrays that are in the middle of larger ones."""
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        dtype = next((a.dtype for a in arrays if a.dtype.kind == "f"), np.dtype(np.float32))
        held = [self._guarded(a) if isinstance(a, np.ndarray) else None for a in arguments]
        handed = [
            self.library.ffi.NULL if a is None else a if h is None else self.library.at(h[4:-4])
            for a, h in zip(arguments, held, strict=True)
        ]
        way = [] if is_reversed is None else [int(is_reversed)]
        function = getattr(self.library.lib, f"{name}_f{dtype.itemsize * 8}")
        result = function(self.c if order is None else order, *way, *handed)
        for a, h in zip(arguments, held, strict=True):
            if h is not None:
                assert (h[:4] == h[0]).all() and (h[-4:] == h[0]).all(), name
                a[...] = h[4:-4].reshape(a.shape)
        return result

    def call_by_blocks(
        self, name: str, rows: Any, *arguments: Any, order: Any = None, is_reversed: Any = None
    ) -> None:
        """A function for each block, of whose rows it gets an array; where it stands, None is."""
        c = self.c if order is None else order
        for k in range(c.blocks):
            block = self.library.ffi.new("row_block *", self.library.lib.order_block(c, k))
            part = rows[block.at : block.at + block.steps * block.pieces]
            given = [part if isinstance(a, str) else a for a in arguments]
            self.call(name, block, *given, order=c, is_reversed=is_reversed)

    @staticmethod
    def _guarded(a: Any) -> Any:
        guard = np.full(4, 99 if a.dtype.kind in "iu" else _GUARD, a.dtype)
        return np.concatenate([guard, a.ravel(), guard])


@st.composite
def orders(draw: Any) -> dict[str, Any]:
    """Sizes, lengths and resets of a batch, none, some or all of them."""
    T, B = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    resets = draw(
        st.none() | st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=T * B, max_size=T * B)
    )
    return {
        "T": T, "B": B, "every": draw(st.sampled_from([0, 0, 1, 2, 3, 20])),
        "lengths": None if lengths is None else np.array(lengths),
        "resets": None if resets is None else np.array(resets, np.uint8).reshape(T, B),
        "units": draw(st.integers(1, 5)), "dtype": draw(st.sampled_from(["float32", "float64"])),
        "reverse": draw(st.booleans()), "seed": draw(st.integers(0, 2**64 - 1)),
    }  # fmt: skip


many = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _numbers(made: dict[str, Any], *shape: int) -> Any:
    rng = np.random.default_rng([*made["seed"].to_bytes(8, "big"), *shape])
    return rng.normal(size=shape).astype(made["dtype"])


def _blank(made: dict[str, Any], *shape: int) -> Any:
    return np.full(shape, _GUARD, made["dtype"])


@many
@given(made=orders())
def test_orders(library, module, made):
    """Pieces, steps and blocks, and what is said of their number before lengths are known."""
    order = Order(library, module, made)
    lib, c, numpy = library.lib, order.c, order.numpy
    kinds = order.lengths is not None, order.resets is not None
    assert lib.order_admits(order.T, order.B, library.at(order.lengths))
    assert (c.pieces, c.rows, c.blocks) == (numpy.R, numpy.N, len(numpy.blocks))
    assert c.steps == len(numpy.offsets) - 1
    assert [lib.order_offset(c, t) for t in range(c.steps + 1)] == list(numpy.offsets)
    pieces = range(c.pieces)
    assert [lib.order_length(c, p) for p in pieces] == list(numpy.length)
    assert [lib.order_sequence(c, p) for p in pieces] == list(numpy.row)
    for reverse in (False, True):
        takes, leaves = numpy.ends(reverse)
        assert [lib.order_takes(c, reverse, p) != 0 for p in pieces] == list(takes)
        assert [lib.order_leaves(c, reverse, p) != 0 for p in pieces] == list(leaves)
    starts = 0
    for k, block in enumerate(numpy.blocks):
        found = lib.order_block(c, k)
        assert (found.steps, found.pieces) == (block.steps, block.rows)
        assert found.at == block.at.start
        assert found.more == block.ending.start
        assert not made["every"] or found.steps <= made["every"]
        starts += found.pieces
    assert starts <= lib.order_most_starts(order.T, order.B, *kinds, made["every"])
    assert c.pieces <= lib.order_most_pieces(order.T, order.B, kinds[1])
    if kinds == (False, False):
        assert c.is_plain and lib.order_room(order.T, order.B, 0, 0) == 0


def test_bounds_are_no_larger_than_they_have_to_be(library, module):
    """Of sequences whose lengths all differ, a block for each; and of all that are alike."""
    T = B = 7
    worst = {"T": T, "B": B, "every": 0, "resets": None, "lengths": np.arange(1, B + 1)}
    c = Order(library, module, worst).c
    starts = sum(library.lib.order_block(c, k).pieces for k in range(c.blocks))
    assert starts == library.lib.order_most_starts(T, B, 1, 0, 0)
    assert library.lib.order_most_starts(100, 32, 0, 0, 0) == 32
    assert library.lib.order_most_starts(100, 32, 0, 0, 30) == 4 * 32
    assert library.lib.order_most_starts(2**40, 2**40, 0, 0, 1) == 2**64 - 1
    assert library.lib.order_room(2**40, 2**40, 1, 1) == 2**64 - 1


def test_lengths_that_no_sequence_has(library):
    lengths = np.array([3, 5, 4], np.uint64)
    assert library.lib.order_admits(5, 3, library.at(lengths))
    assert not library.lib.order_admits(4, 3, library.at(lengths))
    assert library.lib.order_admits(4, 3, library.ffi.NULL)


@many
@given(made=orders())
def test_rows_there_and_back(library, module, made):
    order = Order(library, module, made)
    numpy, reverse, units = order.numpy, made["reverse"], made["units"]
    x = _numbers(made, order.T, order.B, units)
    packed = numpy.pack(x)
    expected = numpy.turn(packed) if reverse else packed

    rows = _blank(made, numpy.N, units)
    order.call("order_gather", units, x, rows, is_reversed=reverse)
    if order.c.is_plain and not reverse:  # they are where they are
        assert (rows == _GUARD).all()
        rows = packed.copy()
    np.testing.assert_array_equal(rows, expected)

    back = _blank(made, order.T, order.B, units)
    order.call("order_scatter", units, rows, back, is_reversed=reverse)
    np.testing.assert_array_equal(back, numpy.unpack(packed))
    order.call("order_scatter_add", units, rows, back, is_reversed=reverse)
    np.testing.assert_array_equal(back, 2 * numpy.unpack(packed))

    # columns of wider rows
    wide = _numbers(made, numpy.N, units + 3)
    turned = wide.copy()
    order.call("order_turn", units, rows, units, turned, units + 3)
    np.testing.assert_array_equal(turned[:, :units], numpy.turn(rows))
    np.testing.assert_array_equal(turned[:, units:], wide[:, units:])
    order.call("order_turn_add", units, rows, units, turned, units + 3)
    np.testing.assert_array_equal(turned[:, :units], 2 * numpy.turn(rows))
    again = _blank(made, numpy.N, units)
    order.call("order_turn", units, numpy.turn(wide), units + 3, again, units)
    np.testing.assert_array_equal(again, wide[:, :units])


@many
@given(made=orders(), is_given=st.booleans(), is_learned=st.booleans())
def test_states_of_pieces(library, module, made, is_given, is_learned):
    """Against NumPy's way to say it; adjoints against what they are adjoints of."""
    order = Order(library, module, made)
    numpy, reverse, units, B = order.numpy, made["reverse"], made["units"], order.B
    takes, leaves = numpy.ends(reverse)
    given_, start = _numbers(made, B, units), _numbers(made, units)
    expected = np.full((numpy.R, units), 0.5, made["dtype"])
    if is_learned:
        expected[:] = start
    if is_given:
        expected[takes] = given_[numpy.row[takes]]
    found = _blank(made, numpy.R, units)
    order.call(
        "order_begin", units, given_ if is_given else None, start if is_learned else None, 0.5,
        found, is_reversed=reverse,
    )  # fmt: skip
    np.testing.assert_array_equal(found, expected)

    d = _numbers(made, numpy.R, units)
    dgiven = _blank(made, B, units)
    order.call("order_begin_back", units, d, dgiven, is_reversed=reverse)
    wanted = np.zeros((B, units), made["dtype"])
    wanted[numpy.row[takes]] = d[takes]
    np.testing.assert_array_equal(dgiven, wanted)
    gradient = np.ones(units, made["dtype"])
    order.call("order_start_back", units, d, int(is_given), gradient, is_reversed=reverse)
    anew = ~takes if is_given else np.ones_like(takes)
    # sums of at most 54 numbers near 1, in another order
    np.testing.assert_allclose(gradient, 1 + d[anew].sum(0), atol=100 * np.finfo(d.dtype).eps)

    final = _blank(made, B, units)
    order.call("order_end", units, d, final, is_reversed=reverse)
    wanted[numpy.row[leaves]] = d[leaves]
    np.testing.assert_array_equal(final, wanted)
    pieces = _blank(made, numpy.R, units)
    order.call("order_end_back", units, final if is_given else None, pieces, is_reversed=reverse)
    d[~leaves] = 0
    np.testing.assert_array_equal(pieces, d if is_given else 0 * d)


@many
@given(made=orders())
def test_last_rows(library, module, made):
    order = Order(library, module, made)
    numpy, reverse, units = order.numpy, made["reverse"], made["units"]
    x = _numbers(made, order.T, order.B, units)
    rows = numpy.turn(numpy.pack(x)) if reverse else numpy.pack(x)
    last = 0 * _blank(made, order.B, units)  # sequences without steps are not in any block
    order.call_by_blocks("order_last", rows, units, "rows", last, is_reversed=reverse)
    lengths = np.full(order.B, order.T) if order.lengths is None else order.lengths.astype(int)
    ends = x[0] if reverse else x[lengths - 1, np.arange(order.B)]
    np.testing.assert_array_equal(last, ends * (lengths > 0)[:, np.newaxis])
    # ⟨last(rows), d⟩ = ⟨rows, last_back(d)⟩, and added to what is there, or not
    d = _numbers(made, order.B, units)
    drows, fresh = rows.copy(), _blank(made, len(rows), units)
    for array, is_fresh in ((drows, 0), (fresh, 1)):
        order.call_by_blocks(
            "order_last_back", array, units, d, is_fresh, "rows", is_reversed=reverse
        )
    np.testing.assert_array_equal(fresh != 0, drows != rows)
    left = np.sum(last.astype(float) * d)
    right = np.sum(rows.astype(float) * (drows.astype(float) - rows))
    assert left == pytest.approx(right, abs=float(1e3 * np.finfo(made["dtype"]).eps))


@many
@given(made=orders())
def test_symbols(library, module, made):
    order = Order(library, module, made)
    numpy, units, many = order.numpy, made["units"], 4
    rng = np.random.default_rng(made["seed"] % 2**32)
    x = rng.integers(0, many, (order.T, order.B)).astype(np.int32)
    table = _numbers(made, many, units)
    at = library.at(x)
    assert library.lib.symbols_admitted(x.size, at, many)
    assert library.lib.symbols_admitted(x.size, at, x.max() + 1)
    assert not library.lib.symbols_admitted(x.size, at, x.max())
    picked = numpy.pack(x)
    rows = _blank(made, numpy.N, units)
    order.call_by_blocks("order_embed", rows, units, x, table, "rows")
    np.testing.assert_array_equal(rows, table[picked])
    gradient, expected = table.copy(), table.astype(float)
    order.call_by_blocks("order_embed_back", rows, units, x, "rows", gradient)
    np.add.at(expected, picked, rows.astype(float))
    # sums of at most 55 numbers near 1, each rounded
    np.testing.assert_allclose(gradient, expected, atol=300 * np.finfo(gradient.dtype).eps)
    x[0, 0] = -1
    assert not library.lib.symbols_admitted(x.size, at, many)


@many
@given(made=orders(), whole=st.booleans(), stream=st.integers(0, 2**20))
def test_masks_are_those_of_numpy(library, module, made, whole, stream):
    """To the bit, whatever the order; a threshold that drops some, none or all."""
    order = Order(library, module, made)
    numpy, reverse, units = order.numpy, made["reverse"], made["units"]
    index = numpy.index[numpy.turned] if reverse else numpy.index
    rows = (index % order.B if whole else index).astype(np.uint64)
    counters = rows[:, np.newaxis] * np.uint64(units) + np.arange(units, dtype=np.uint64)
    drawn = module._random(made["seed"], stream, counters)
    for threshold in (0, 2**53, int(0.3 * 2**53)):
        bits = np.dtype(made["dtype"]).itemsize * 8
        key = library.lib.random_key(made["seed"], stream)
        noise = library.ffi.new(f"noise_f{bits} *", {
            "key": key, "threshold": threshold, "dropped": 0.25, "kept": 1.5, "is_whole": whole,
        })  # fmt: skip
        masks = _blank(made, numpy.N, units)
        for k in range(order.c.blocks):
            block = library.lib.order_block(order.c, k)
            part = masks[block.at : block.at + block.steps * block.pieces]
            order.call(
                "order_masks", block.first, block.steps, units, noise, part, is_reversed=reverse
            )
        np.testing.assert_array_equal(masks, np.where(drawn < threshold, 0.25, 1.5))


def test_uniform_numbers(library, module):
    """The leading bits, so that no number is rounded to 1; and far from one another."""
    key = library.lib.random_key(5, 6)
    counters = np.arange(4000, dtype=np.uint64)
    drawn = module._random(5, 6, counters)
    single = [library.lib.random_uniform_f32(key, int(k)) for k in counters]
    double = [library.lib.random_uniform_f64(key, int(k)) for k in counters]
    np.testing.assert_array_equal(single, (drawn >> np.uint64(29)).astype(np.float32) / 2**24)
    np.testing.assert_array_equal(double, drawn.astype(float) / 2**53)
    assert min(double) >= 0
    assert max(double) < 1
    # a uniform number's deviation is 0.29: of 4000 of them, 5 deviations of their mean
    assert abs(np.mean(double) - 0.5) < 5 * 0.29 / 4000**0.5
    # so the generator begins with seed 0, in its authors' implementation
    assert library.lib.random_key(0, 0) == 0xE220A8397B1DCDAF


def test_slices_have_the_rows_of_their_sequences(library, module):
    """Of a batch that is cut, each slice has an order of its own; together they are the batch."""
    rng = np.random.default_rng(0)
    T, B, units = 6, 7, 3
    for lengths, resets in ((None, None), (rng.integers(0, T + 1, B), None),
                            (None, (rng.random((T, B)) < 0.3).astype(np.uint8))):  # fmt: skip
        made = {"T": T, "B": B, "every": 0, "lengths": lengths, "resets": resets,
                "dtype": "float32", "seed": 1}  # fmt: skip
        order = Order(library, module, made)
        x, back = _numbers(made, T, B, units), _blank(made, T, B, units)
        final, last = _blank(made, B, units), 0 * _blank(made, B, units)
        for start, some in ((0, 3), (3, 2), (5, 2)):
            c = order.sliced(start, some)
            rows = _blank(made, c.rows, units)
            order.call("order_gather", units, x, rows, order=c, is_reversed=False)
            assert (rows != np.float32(_GUARD)).all()
            order.call("order_scatter", units, rows, back, order=c, is_reversed=False)
            pieces = _blank(made, c.pieces, units)
            order.call("order_begin", units, x[0], None, 0.0, pieces, order=c, is_reversed=True)
            order.call("order_end", units, pieces, final, order=c, is_reversed=True)
            order.call_by_blocks(
                "order_last", rows, units, "rows", last, order=c, is_reversed=False
            )
        np.testing.assert_array_equal(back, order.numpy.unpack(order.numpy.pack(x)))
        if resets is None:
            np.testing.assert_array_equal(final, x[0])
        ends = np.full(B, T) if lengths is None else lengths
        np.testing.assert_array_equal(last, x[ends - 1, np.arange(B)] * (ends > 0)[:, np.newaxis])


def test_checkpoints_are_those_of_numpy(library, module):
    for slots in range(1, 12):
        for steps in range(2, 60):
            assert library.lib.checkpoint_split(steps, slots) == module._split(steps, slots)
    large = library.lib.checkpoint_split(10**12, 40)
    assert large == module._split(10**12, 40)


# --------------------------------------------------------------------------- memory

_PROGRAM = """\
#include <stdlib.h>
static size_t drawn = 0;

static size_t below(size_t most)
{
    return (size_t)(random_bits(1, ++drawn) % most);
}

static void *fresh(size_t bytes)
{
    void *const made = malloc(bytes); /* of no bytes, none can be touched */
    if (made == NULL) {
        abort();
    }
    memset(made, 1, bytes);
    return made;
}

static float *numbers(size_t rows, size_t units)
{
    return (float *)fresh(rows * units * sizeof(float));
}

int main(void)
{
    for (int round = 0; round < 3000; ++round) {
        const size_t T = below(6), batch = below(6), start = below(batch + 1);
        const size_t B = below(batch - start + 1), every = below(4), units = 1 + below(3);
        size_t *const lengths = (size_t *)fresh(batch * sizeof(size_t));
        unsigned char *const resets = (unsigned char *)fresh(T * batch);
        int32_t *const x = (int32_t *)fresh(T * batch * sizeof(int32_t));
        const int has_lengths = below(2) != 0, has_resets = below(2) != 0;
        const int is_reversed = below(2) != 0;
        for (size_t b = 0; b < batch; ++b) {
            lengths[b] = below(T + 1);
        }
        for (size_t k = 0; k < T * batch; ++k) {
            resets[k] = below(4) == 0;
            x[k] = (int32_t)below(3);
        }
        size_t *const memory = (size_t *)fresh(
            order_room(T, B, has_lengths, has_resets) * sizeof(size_t));
        const row_order o = order_make(T, start, B, batch, has_lengths ? lengths : NULL,
            has_resets ? resets : NULL, every, memory);
        float *const array = numbers(T * batch, units), *const rows = numbers(o.rows, units);
        float *const wide = numbers(o.rows, units + 1), *const states = numbers(batch, units);
        float *const pieces = numbers(o.pieces, units), *const table = numbers(3, units);
        order_gather_f32(&o, is_reversed, units, array, rows);
        order_scatter_f32(&o, is_reversed, units, rows, array);
        order_scatter_add_f32(&o, is_reversed, units, rows, array);
        order_turn_f32(&o, units, rows, units, wide, units + 1);
        order_turn_add_f32(&o, units, wide, units + 1, rows, units);
        order_begin_f32(&o, is_reversed, units, below(2) ? states : NULL, below(2) ? table : NULL,
            0.5f, pieces);
        order_begin_back_f32(&o, is_reversed, units, pieces, states);
        order_start_back_f32(&o, is_reversed, units, pieces, below(2) != 0, table);
        order_end_f32(&o, is_reversed, units, pieces, states);
        order_end_back_f32(&o, is_reversed, units, states, pieces);
        const noise_f32 noise = {3, (uint64_t)1 << 52, 0.0f, 2.0f, below(2) != 0};
        size_t done = 0;
        for (size_t k = 0; k < o.blocks; ++k) {
            const row_block block = order_block(&o, k);
            float *const masks = numbers(block.steps * block.pieces, units);
            order_masks_f32(&o, is_reversed, block.first, block.steps, units, &noise, masks);
            float *const part = rows + block.at * units;
            order_last_f32(&o, is_reversed, &block, units, part, states);
            order_last_back_f32(&o, is_reversed, &block, units, states, below(2) != 0, part);
            order_embed_f32(&o, &block, units, x, table, part);
            order_embed_back_f32(&o, &block, units, x, part, table);
            free(masks);
            done += block.steps * block.pieces;
        }
        if (done != o.rows) {
            return 1;
        }
        free(lengths), free(resets), free(x), free(memory), free(array), free(rows), free(wide);
        free(states), free(pieces), free(table);
    }
    return 0;
}
"""


@pytest.mark.parametrize("flags", [["-O1"], ["-O2", "-march=native"]], ids=" ".join)
def test_sanitizers_find_nothing(tmp_path, flags):
    """In batches of all kinds, and of none; in memory of exactly their size."""
    need("gcc -fsanitize=address,undefined")
    lay_down(tmp_path)
    (tmp_path / "main.c").write_text(_BOTH + _PROGRAM, encoding="utf-8")
    run(tmp_path, "gcc", "-std=c99", *flags, *POISONED, "-Wall", "-Wextra", "-Werror", "main.c",
        "-o", "run", "-lm")  # fmt: skip
    run(tmp_path, "./run")


# --------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays(library, dtype):
    rng = np.random.default_rng(3)
    ending = f"f{np.dtype(dtype).itemsize * 8}"
    for count in (*range(20), 1000):
        a = rng.normal(size=count).astype(dtype)
        squares = getattr(library.lib, f"array_squares_{ending}")(count, library.at(a))
        # a sum of 1000 squares in double precision, in another order
        assert squares == pytest.approx(np.sum(a.astype(float) ** 2), rel=1e-13)
        b = a.copy()
        getattr(library.lib, f"array_scale_{ending}")(count, 0.3, library.at(b))
        np.testing.assert_array_equal(b, a * a.dtype.type(0.3))
        b = a.copy()
        getattr(library.lib, f"array_clip_{ending}")(count, 0.5, library.at(b))
        np.testing.assert_array_equal(b, np.clip(a, -0.5, 0.5))
        getattr(library.lib, f"array_fill_{ending}")(count, 2.5, library.at(b))
        assert (b == 2.5).all()
    rows, wide = rng.normal(size=(5, 3)).astype(dtype), rng.normal(size=(5, 7)).astype(dtype)
    joined = wide.copy()
    at = library.at(joined[:, 2:])
    getattr(library.lib, f"rows_copy_{ending}")(5, 3, library.at(rows), 3, at, 7)
    np.testing.assert_array_equal(joined[:, 2:5], rows)
    np.testing.assert_array_equal(np.delete(joined, [2, 3, 4], 1), np.delete(wide, [2, 3, 4], 1))
    getattr(library.lib, f"rows_add_{ending}")(5, 3, library.at(rows), 3, at, 7)
    np.testing.assert_array_equal(joined[:, 2:5], 2 * rows)
    special = np.array([np.nan, np.inf, -np.inf], dtype)
    getattr(library.lib, f"array_clip_{ending}")(3, 0.5, library.at(special))
    np.testing.assert_array_equal(special, np.array([np.nan, 0.5, -0.5], dtype))
