#ifndef LSTMGEN_HAS_NETWORK
#define LSTMGEN_HAS_NETWORK

#ifndef LSTMGEN_HAS_RUNTIME
#error "lstmgen_network.h needs lstmgen_runtime.h before it"
#endif

/* ------------------------------------------------------------------ the order of rows */

/* The steps of a batch, in the order in which a network works on them.
 *
 * Sequences are cut where states start anew, and these pieces are sorted by length, the longest
 * first. Then come the first steps of all pieces, side by side, the second steps of those that have
 * one, and so on: rows 0 to `rows` - 1. Within a block of steps the number of pieces is the same,
 * so that a block is dense: (steps, pieces, units).
 *
 * A slice of a batch is the sequences from `start` on of `batch`; all else counts within the slice.
 * Where every sequence has all T steps, is one piece and takes the state that is given, the order
 * `is_plain`: it is that of (T, B), the arrays below are NULL, and nothing is in memory. */
typedef struct row_order {
    size_t T, B, start, batch; /* steps, sequences, and where these are in the batch */
    size_t pieces, rows, steps; /* steps: of the longest piece */
    size_t every, blocks;      /* no block has more than `every` steps, if that is not 0 */
    int is_plain;
    const size_t *row, *first, *length; /* of pieces: the sequence, the first step, how many */
    const size_t *role;        /* of pieces: bits below */
    const size_t *offset;      /* where the rows of a step begin; the last is `rows` */
    const size_t *edge;        /* the first steps of blocks; the last is `steps` */
} row_order;

/* The role of a piece in its sequence: whether it is the first one, or the last one; whether it
 * begins with the state that is given. */
enum { ORDER_IS_FIRST = 1, ORDER_IS_LAST = 2, ORDER_TAKES = 4 };

/* Steps `first` to `first` + `steps` - 1 of the longest pieces: `pieces` of them, in the rows from
 * `at` on, of which the first `more` have further steps. */
typedef struct row_block {
    size_t first, steps, pieces, at, more;
} row_block;

/* What sequences may have: fewer steps than T, `lengths` (batch), and steps before which states
 * start anew, `resets` (T, batch). NULL, where all have T steps, or none starts anew. */

/* Whether lengths are of sequences of T steps. */
LSTMGEN_STATIC int order_admits(size_t T, size_t batch, const size_t *lengths)
{
    for (size_t b = 0; lengths != NULL && b < batch; ++b) {
        if (lengths[b] > T) {
            return 0;
        }
    }
    return 1;
}

/* How many pieces there may be. */
LSTMGEN_STATIC size_t order_most_pieces(size_t T, size_t B, int has_resets)
{
    return has_resets && T > 1 ? size_times(T, B) : B;
}

/* How many there are, in a batch. */
LSTMGEN_STATIC size_t order_count_pieces(size_t T, size_t batch, const unsigned char *resets)
{
    size_t pieces = batch;
    for (size_t k = batch; k < size_times(T, batch); ++k) {
        pieces += resets[k] != 0;
    }
    return pieces;
}

/* The numbers that order_make needs: of a size_t each, 0 for what is plain. */
LSTMGEN_STATIC size_t order_room(size_t T, size_t B, int has_lengths, int has_resets)
{
    const size_t pieces = size_times(4, order_most_pieces(T, B, has_resets));
    const size_t steps = size_times(3, size_plus(T, 2));
    return has_lengths || has_resets ? size_plus(pieces, steps) : 0;
}

/* How many rows the first steps of all blocks have together, at most. */
LSTMGEN_STATIC size_t order_most_starts(size_t T, size_t B, int has_lengths, int has_resets,
    size_t every)
{
    const size_t cuts = every != 0 && T > 0 ? (T - 1) / every : 0;
    const size_t all = size_times(T, B);
    size_t most = size_times(size_plus(cuts, 1), B);
    if (has_resets) {
        return all;
    }
    if (has_lengths) { /* each further block has fewer rows than the one before it */
        const size_t blocks = T < B ? T : B;
        for (size_t k = 1; k < blocks && most < all; ++k) {
            most = size_plus(most, B - k);
        }
    }
    return most < all ? most : all;
}

/* The next piece of sequence b, which begins with step `first`: how many steps it has. */
LSTMGEN_STATIC size_t order_next_piece(const row_order *o, const unsigned char *resets, size_t b,
    size_t first, size_t end)
{
    size_t t = first + 1;
    if (resets == NULL || t >= end) {
        return end - first;
    }
    while (t < end && resets[t * o->batch + o->start + b] == 0) {
        ++t;
    }
    return t - first;
}

/* The order of sequences `start` to `start` + B - 1 of a batch; memory has order_room numbers. */
LSTMGEN_STATIC row_order order_make(size_t T, size_t start, size_t B, size_t batch,
    const size_t *lengths, const unsigned char *resets, size_t every, size_t *memory)
{
    const size_t blocks = T == 0 ? 0 : every == 0 ? 1 : (T - 1) / every + 1;
    const row_order plain = {T, B, start, batch, B, T * B, T, every, blocks, 1, NULL, NULL, NULL,
        NULL, NULL, NULL};
    row_order o = plain;
    if (lengths == NULL && resets == NULL) {
        return plain;
    }
    int is_anew = 0; /* whether a state starts anew before the first step of a sequence */
    const size_t most = order_most_pieces(T, B, resets != NULL);
    size_t *const row = memory, *const first = row + most, *const length = first + most,
        *const role = length + most, *const offset = role + most, *const edge = offset + T + 2,
        *const place = edge + T + 2;
    o.row = row, o.first = first, o.length = length, o.role = role;
    o.offset = offset, o.edge = edge;
    o.is_plain = 0, o.pieces = 0, o.rows = 0, o.steps = 0, o.blocks = 0;
    /* how many pieces there are of each length */
    memset(place, 0, (T + 2) * sizeof *place);
    for (size_t b = 0; b < B; ++b) {
        const size_t end = lengths != NULL ? lengths[start + b] : T;
        size_t t = 0;
        is_anew = is_anew || (resets != NULL && end > 0 && resets[start + b] != 0);
        do {
            const size_t steps = order_next_piece(&o, resets, b, t, end);
            ++place[steps];
            ++o.pieces;
            o.rows += steps;
            o.steps = size_at_least(o.steps, steps);
            t += steps;
        } while (t < end);
    }
    if (o.pieces == B && o.rows == T * B && !is_anew) {
        return plain;
    }
    /* where those of each length begin, the longest first; steps have as many rows as pieces are
     * longer */
    for (size_t steps = T + 1, longer = 0; steps-- > 0;) {
        const size_t alike = place[steps];
        place[steps] = longer;
        offset[steps] = longer; /* the rows of step number `steps` */
        longer += alike;
    }
    for (size_t b = 0; b < B; ++b) {
        const size_t end = lengths != NULL ? lengths[start + b] : T;
        size_t t = 0;
        do {
            const size_t steps = order_next_piece(&o, resets, b, t, end);
            const size_t p = place[steps]++;
            const int anew = resets != NULL && end > 0 && resets[start + b] != 0;
            row[p] = b;
            first[p] = t;
            length[p] = steps;
            role[p] = 0;
            role[p] |= t == 0 ? (size_t)ORDER_IS_FIRST : 0;
            role[p] |= t == 0 && !anew ? (size_t)ORDER_TAKES : 0;
            role[p] |= t + steps == end ? (size_t)ORDER_IS_LAST : 0;
            t += steps;
        } while (t < end);
    }
    /* blocks, and where the rows of steps begin */
    for (size_t t = 0, at = 0, before = 0; t < o.steps; ++t) {
        const size_t some = offset[t];
        if (t == 0 || some != before || (every != 0 && t % every == 0)) {
            edge[o.blocks++] = t;
        }
        offset[t] = at;
        at += some;
        before = some;
    }
    offset[o.steps] = o.rows;
    edge[o.blocks] = o.steps;
    return o;
}

/* The row at which step t begins: the first steps of all pieces are step 0. */
LSTMGEN_STATIC size_t order_offset(const row_order *o, size_t t)
{
    return o->is_plain ? t * o->B : o->offset[t];
}

/* How many steps piece p has. */
LSTMGEN_STATIC size_t order_length(const row_order *o, size_t p)
{
    return o->is_plain ? o->T : o->length[p];
}

/* Where in the batch the sequence of piece p is. */
LSTMGEN_STATIC size_t order_sequence(const row_order *o, size_t p)
{
    return o->start + (o->is_plain ? p : o->row[p]);
}

/* Block number k. */
LSTMGEN_STATIC row_block order_block(const row_order *o, size_t k)
{
    const size_t every = o->every != 0 ? o->every : o->T;
    const size_t first = o->is_plain ? k * every : o->edge[k];
    const size_t last = !o->is_plain ? o->edge[k + 1]
        : o->T - first < every ? o->T : first + every;
    row_block made = {first, last - first, 0, order_offset(o, first), 0};
    made.pieces = order_offset(o, first + 1) - made.at;
    made.more = last < o->steps ? order_offset(o, last + 1) - order_offset(o, last) : 0;
    return made;
}

/* Where in (T, batch) step t of piece p is, or, of steps in reverse, the step in its place. */
LSTMGEN_INLINE size_t order_place(const row_order *o, int is_reversed, size_t t, size_t p)
{
    if (o->is_plain) {
        return (is_reversed ? o->T - 1 - t : t) * o->batch + o->start + p;
    }
    const size_t step = is_reversed ? o->length[p] - 1 - t : t;
    return (o->first[p] + step) * o->batch + o->start + o->row[p];
}

/* Whether piece p is the one of its sequence that takes a state that is given, or leaves one. Those
 * whose steps are in reverse begin with the last piece; no state starts anew before that. */
LSTMGEN_STATIC int order_takes(const row_order *o, int is_reversed, size_t p)
{
    return o->is_plain || (o->role[p] & (is_reversed ? ORDER_IS_LAST : ORDER_TAKES)) != 0;
}

LSTMGEN_STATIC int order_leaves(const row_order *o, int is_reversed, size_t p)
{
    return o->is_plain || (o->role[p] & (is_reversed ? ORDER_IS_FIRST : ORDER_IS_LAST)) != 0;
}

/* Whether rows are the array (T, batch), as they are. */
LSTMGEN_STATIC int order_is_array(const row_order *o, int is_reversed)
{
    return o->is_plain && o->B == o->batch && !is_reversed;
}

/* ------------------------------------------------------------------ checkpoints */

/* n over k, no more than `most`. */
LSTMGEN_STATIC size_t checkpoint_choices(size_t n, size_t k, size_t most)
{
    size_t made = 1;
    for (size_t j = 1; j <= k && made < most; ++j) {
        made = size_times(made, n - k + j) == SIZE_MAX ? most : made * (n - k + j) / j;
    }
    return made < most ? made : most;
}

/* How many of `steps` blocks to go on before the next state is kept, with `slots` for states, of
 * which one has that before these blocks: the binomial schedule (Griewank & Walther 2000). */
LSTMGEN_STATIC size_t checkpoint_split(size_t steps, size_t slots)
{
    size_t sweeps = 1;
    while (checkpoint_choices(slots + sweeps, slots, steps) < steps) {
        ++sweeps;
    }
    const size_t less = sweeps > 1 ? checkpoint_choices(slots + sweeps - 2, slots, steps) : 0;
    const size_t rest = steps - checkpoint_choices(slots + sweeps - 1, slots - 1, steps);
    return size_at_least(1, size_at_least(less, rest));
}

/* ------------------------------------------------------------------ random numbers */

/* SplitMix64 (Steele et al. 2014): a number follows from its place alone, in whatever order they
 * are drawn. Numbers of a stream are independent of those of others. */
#define LSTMGEN_GOLDEN UINT64_C(0x9E3779B97F4A7C15)

LSTMGEN_INLINE uint64_t random_mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* The key of a stream. */
LSTMGEN_STATIC uint64_t random_key(uint64_t seed, uint64_t stream)
{
    return random_mixed(seed + LSTMGEN_GOLDEN * (stream + 1));
}

/* 53 random bits: as a part of 2^53, a number from 0 on and below 1. */
LSTMGEN_INLINE uint64_t random_bits(uint64_t key, uint64_t counter)
{
    return random_mixed(key + LSTMGEN_GOLDEN * (counter + 1)) >> 11;
}

/* ------------------------------------------------------------------ symbols */

/* Whether all of these are symbols: from 0 on and below `many`. */
LSTMGEN_STATIC int symbols_admitted(size_t count, const int32_t *x, size_t many)
{
    for (size_t k = 0; k < count; ++k) {
        if (x[k] < 0 || (size_t)x[k] >= many) {
            return 0;
        }
    }
    return 1;
}

#endif

/* ------------------------------------------------------------------ one type of numbers
 *
 * As for lstmgen_runtime.h, LSTMGEN_REAL says which, before this file is included. */

#if LSTMGEN_REAL == 32 && !defined(LSTMGEN_NETWORK_HAS_F32)
#define LSTMGEN_NETWORK_HAS_F32
#define LG(name) name##_f32
#define real float
#elif LSTMGEN_REAL == 64 && !defined(LSTMGEN_NETWORK_HAS_F64)
#define LSTMGEN_NETWORK_HAS_F64
#define LG(name) name##_f64
#define real double
#elif LSTMGEN_REAL != 32 && LSTMGEN_REAL != 64
#error "LSTMGEN_REAL has to be 32 or 64"
#endif

#ifdef LG /* to the end */

/* Rows of `units` numbers, which are so far apart: columns of wider ones, if that is more. */
LSTMGEN_STATIC void LG(rows_copy)(size_t rows, size_t units, const real *from, size_t from_stride,
    real *to, size_t to_stride)
{
    if (from_stride == units && to_stride == units) {
        memcpy(to, from, rows * units * sizeof(real));
        return;
    }
    for (size_t r = 0; r < rows; ++r) {
        memcpy(to + r * to_stride, from + r * from_stride, units * sizeof(real));
    }
}

LSTMGEN_STATIC void LG(row_add)(size_t units, const real *LSTMGEN_RESTRICT from,
    real *LSTMGEN_RESTRICT to)
{
    for (size_t j = 0; j < units; ++j) {
        to[j] += from[j];
    }
}

/* The same, added to what is there. */
LSTMGEN_STATIC void LG(rows_add)(size_t rows, size_t units, const real *from, size_t from_stride,
    real *to, size_t to_stride)
{
    for (size_t r = 0; r < rows; ++r) {
        LG(row_add)(units, from + r * from_stride, to + r * to_stride);
    }
}

/* Rows in order, of which the steps of each piece are in reverse; twice is as it was. */
LSTMGEN_STATIC void LG(order_turn)(const row_order *o, size_t units, const real *from,
    size_t from_stride, real *to, size_t to_stride)
{
    for (size_t t = 0; t < o->steps; ++t) {
        const size_t at = order_offset(o, t), pieces = order_offset(o, t + 1) - at;
        for (size_t p = 0; p < pieces; ++p) {
            const size_t turned = order_offset(o, order_length(o, p) - 1 - t) + p;
            memcpy(to + (at + p) * to_stride, from + turned * from_stride, units * sizeof(real));
        }
    }
}

/* The same, added to what is there. */
LSTMGEN_STATIC void LG(order_turn_add)(const row_order *o, size_t units, const real *from,
    size_t from_stride, real *to, size_t to_stride)
{
    for (size_t t = 0; t < o->steps; ++t) {
        const size_t at = order_offset(o, t), pieces = order_offset(o, t + 1) - at;
        for (size_t p = 0; p < pieces; ++p) {
            const size_t turned = order_offset(o, order_length(o, p) - 1 - t) + p;
            LG(row_add)(units, from + turned * from_stride, to + (at + p) * to_stride);
        }
    }
}

/* The rows of an array (T, batch, units) in order: where they are, if they lie like that already,
 * else copied to `to`. */
LSTMGEN_STATIC const real *LG(order_gather)(const row_order *o, int is_reversed, size_t units,
    const real *from, real *to)
{
    if (order_is_array(o, is_reversed)) {
        return from;
    }
    for (size_t t = 0; t < o->steps; ++t) {
        const size_t at = order_offset(o, t), pieces = order_offset(o, t + 1) - at;
        for (size_t p = 0; p < pieces; ++p) {
            memcpy(to + (at + p) * units, from + order_place(o, is_reversed, t, p) * units,
                units * sizeof(real));
        }
    }
    return to;
}

/* Where to write rows for order_scatter: to the array itself, if they lie like that, else to `own`.
 */
LSTMGEN_STATIC real *LG(order_home)(const row_order *o, int is_reversed, real *array, real *own)
{
    return order_is_array(o, is_reversed) ? array : own;
}

/* Rows in order back to an array (T, batch, units), in which zeros are where there is no step. */
LSTMGEN_STATIC void LG(order_scatter)(const row_order *o, int is_reversed, size_t units,
    const real *from, real *to)
{
    if (from == to) {
        return;
    }
    if (o->rows < o->T * o->B) {
        for (size_t t = 0; t < o->T; ++t) {
            memset(to + (t * o->batch + o->start) * units, 0, o->B * units * sizeof(real));
        }
    }
    for (size_t t = 0; t < o->steps; ++t) {
        const size_t at = order_offset(o, t), pieces = order_offset(o, t + 1) - at;
        for (size_t p = 0; p < pieces; ++p) {
            memcpy(to + order_place(o, is_reversed, t, p) * units, from + (at + p) * units,
                units * sizeof(real));
        }
    }
}

/* The same, added to what is there. */
LSTMGEN_STATIC void LG(order_scatter_add)(const row_order *o, int is_reversed, size_t units,
    const real *from, real *to)
{
    for (size_t t = 0; t < o->steps; ++t) {
        const size_t at = order_offset(o, t), pieces = order_offset(o, t + 1) - at;
        for (size_t p = 0; p < pieces; ++p) {
            LG(row_add)(units, from + (at + p) * units,
                to + order_place(o, is_reversed, t, p) * units);
        }
    }
}

/* ------------------------------------------------------------------ states of pieces */

/* The states (pieces, units) that pieces begin with: those `given` (batch, units), for pieces that
 * take them, else `start` (units), or, if that is NULL too, a number. */
LSTMGEN_STATIC void LG(order_begin)(const row_order *o, int is_reversed, size_t units,
    const real *given, const real *start, real number, real *to)
{
    for (size_t p = 0; p < o->pieces; ++p, to += units) {
        if (given != NULL && order_takes(o, is_reversed, p)) {
            memcpy(to, given + order_sequence(o, p) * units, units * sizeof(real));
        } else if (start != NULL) {
            memcpy(to, start, units * sizeof(real));
        } else {
            for (size_t j = 0; j < units; ++j) {
                to[j] = number;
            }
        }
    }
}

/* Its adjoint: the derivatives by the states that were given, 0 for sequences none of whose pieces
 * took them; NULL, if nobody wants them. */
LSTMGEN_STATIC void LG(order_begin_back)(const row_order *o, int is_reversed, size_t units,
    const real *pieces, real *given)
{
    for (size_t p = 0; given != NULL && p < o->pieces; ++p) {
        real *const to = given + order_sequence(o, p) * units;
        if (order_takes(o, is_reversed, p)) {
            memcpy(to, pieces + p * units, units * sizeof(real));
        } else if ((o->role[p] & ORDER_IS_FIRST) != 0 && !is_reversed) {
            memset(to, 0, units * sizeof(real));
        }
    }
}

/* The derivative by a start, added to a gradient: of all pieces that began with it. */
LSTMGEN_STATIC void LG(order_start_back)(const row_order *o, int is_reversed, size_t units,
    const real *pieces, int was_given, real *gradient)
{
    for (size_t p = 0; p < o->pieces; ++p) {
        if (!was_given || !order_takes(o, is_reversed, p)) {
            LG(row_add)(units, pieces + p * units, gradient);
        }
    }
}

/* The states that sequences leave behind, (batch, units), unless nobody wants them. */
LSTMGEN_STATIC void LG(order_end)(const row_order *o, int is_reversed, size_t units,
    const real *pieces, real *final)
{
    for (size_t p = 0; final != NULL && p < o->pieces; ++p) {
        if (order_leaves(o, is_reversed, p)) {
            memcpy(final + order_sequence(o, p) * units, pieces + p * units, units * sizeof(real));
        }
    }
}

/* Its adjoint: the derivatives by the states that pieces end with, from those by what sequences
 * leave behind; NULL stands for zeros. */
LSTMGEN_STATIC void LG(order_end_back)(const row_order *o, int is_reversed, size_t units,
    const real *final, real *pieces)
{
    for (size_t p = 0; p < o->pieces; ++p, pieces += units) {
        if (final != NULL && order_leaves(o, is_reversed, p)) {
            memcpy(pieces, final + order_sequence(o, p) * units, units * sizeof(real));
        } else {
            memset(pieces, 0, units * sizeof(real));
        }
    }
}

/* The last rows of sequences, (batch, units): those of pieces that end with a block, of its rows in
 * order, or reversed: the first steps in time, then. */
LSTMGEN_STATIC void LG(order_last)(const row_order *o, int is_reversed, const row_block *block,
    size_t units, const real *rows, real *last)
{
    rows += (block->steps - 1) * block->pieces * units;
    for (size_t p = block->more; p < block->pieces; ++p) {
        if (order_leaves(o, is_reversed, p)) {
            memcpy(last + order_sequence(o, p) * units, rows + p * units, units * sizeof(real));
        }
    }
}

/* Its adjoint: that of the block's rows, or, where it is not `fresh`, added to it. */
LSTMGEN_STATIC void LG(order_last_back)(const row_order *o, int is_reversed, const row_block *block,
    size_t units, const real *last, int fresh, real *rows)
{
    if (fresh) {
        memset(rows, 0, block->steps * block->pieces * units * sizeof(real));
    }
    rows += (block->steps - 1) * block->pieces * units;
    for (size_t p = block->more; p < block->pieces; ++p) {
        if (order_leaves(o, is_reversed, p)) {
            LG(row_add)(units, last + order_sequence(o, p) * units, rows + p * units);
        }
    }
}

/* States to where they are kept, or back from there. */
LSTMGEN_STATIC void LG(store_states)(size_t count, real *states, real *kept, int back)
{
    memcpy(back ? states : kept, back ? kept : states, count * sizeof(real));
}

/* ------------------------------------------------------------------ symbols */

/* The rows of a table (symbols, units) for a block, of the symbols x (T, batch). */
LSTMGEN_STATIC void LG(order_embed)(const row_order *o, const row_block *block, size_t units,
    const int32_t *x, const real *table, real *rows)
{
    for (size_t t = block->first; t < block->first + block->steps; ++t) {
        for (size_t p = 0; p < block->pieces; ++p, rows += units) {
            memcpy(rows, table + (size_t)x[order_place(o, 0, t, p)] * units, units * sizeof(real));
        }
    }
}

/* The derivative by the table, added to a gradient. */
LSTMGEN_STATIC void LG(order_embed_back)(const row_order *o, const row_block *block, size_t units,
    const int32_t *x, const real *rows, real *gradient)
{
    for (size_t t = block->first; t < block->first + block->steps; ++t) {
        for (size_t p = 0; p < block->pieces; ++p, rows += units) {
            LG(row_add)(units, rows, gradient + (size_t)x[order_place(o, 0, t, p)] * units);
        }
    }
}

/* ------------------------------------------------------------------ noise */

/* A number from 0 on and below 1: of 24 random bits in single precision, else of 53. */
LSTMGEN_STATIC real LG(random_uniform)(uint64_t key, uint64_t counter)
{
    const uint64_t drawn = random_bits(key, counter);
    return sizeof(real) == sizeof(float) ? (real)(drawn >> 29) / (real)16777216
        : (real)drawn / (real)9007199254740992;
}

/* How masks are drawn: a unit is `dropped` where a number of 53 bits is below `threshold`, else
 * `kept`. Where `is_whole`, each sequence has one mask for all its steps. */
typedef struct LG(noise) {
    uint64_t key, threshold;
    real dropped, kept;
    int is_whole;
} LG(noise);

/* The masks of `steps` steps from `first` on, of rows in order. They follow from the places of rows
 * in (T, batch): no slice, block or order of a sequence makes them others. */
LSTMGEN_STATIC void LG(order_masks)(const row_order *o, int is_reversed, size_t first, size_t steps,
    size_t units, const LG(noise) *noise, real *masks)
{
    for (size_t t = first; t < first + steps; ++t) {
        const size_t pieces = order_offset(o, t + 1) - order_offset(o, t);
        for (size_t p = 0; p < pieces; ++p, masks += units) {
            const size_t place = noise->is_whole ? order_sequence(o, p)
                : order_place(o, is_reversed, t, p);
            const uint64_t counter = (uint64_t)place * units;
            for (size_t j = 0; j < units; ++j) {
                masks[j] = random_bits(noise->key, counter + j) < noise->threshold ? noise->dropped
                    : noise->kept;
            }
        }
    }
}

/* Numbers to begin with: the same chance from `low` to `high`; or a normal distribution (Box &
 * Muller 1958). */
/* A number from low on and below high, at a place of a stream. */
LSTMGEN_INLINE double LG(drawn)(uint64_t key, size_t k, double low, double high)
{
    return low + (high - low) * ((double)random_bits(key, k) / 9007199254740992.0);
}

LSTMGEN_STATIC void LG(init_uniform)(uint64_t key, double low, double high, size_t count, real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] = (real)LG(drawn)(key, k, low, high);
    }
}

/* Two uniform numbers for each (Box & Muller 1958). */
LSTMGEN_INLINE double LG(normal)(uint64_t key, size_t k)
{
    const double u = ((double)random_bits(key, 2 * k) + 1.0) / 9007199254740992.0;
    const double v = (double)random_bits(key, 2 * k + 1) / 9007199254740992.0;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

LSTMGEN_STATIC void LG(init_normal)(uint64_t key, double deviation, size_t count, real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] = (real)(deviation * LG(normal)(key, k));
    }
}

/* Lines of `length` numbers, those of a line `apart`, of which each is made orthogonal to those
 * before it, twice, and of length 1. */
LSTMGEN_STATIC void LG(orthonormal)(size_t lines, size_t next, size_t length, size_t apart, real *a)
{
    for (size_t l = 0; l < lines; ++l) {
        for (size_t turn = 0; turn < 2; ++turn) {
            for (size_t o = 0; o <= l; ++o) {
                double dot = 0.0;
                for (size_t k = 0; k < length; ++k) {
                    dot += (double)a[l * next + k * apart] * (double)a[o * next + k * apart];
                }
                for (size_t k = 0; k < length; ++k) {
                    const double mine = (double)a[l * next + k * apart];
                    const double other = (double)a[o * next + k * apart];
                    a[l * next + k * apart] = (real)(o < l ? mine - dot * other : mine / sqrt(dot));
                }
            }
        }
    }
}

LSTMGEN_STATIC void LG(init_orthogonal)(uint64_t key, double gain, size_t matrices, size_t rows,
    size_t columns, real *to)
{
    const size_t lines = rows < columns ? rows : columns;
    const size_t next = rows < columns ? columns : 1, apart = rows < columns ? 1 : columns;
    const size_t length = rows < columns ? columns : rows;
    size_t drawn = 0;
    for (size_t m = 0; m < matrices; ++m, to += rows * columns) {
        for (size_t k = 0; k < length; ++k) {
            for (size_t l = 0; l < lines; ++l) {
                to[l * next + k * apart] = (real)LG(normal)(key, drawn++);
            }
        }
        LG(orthonormal)(lines, next, length, apart, to);
        for (size_t k = 0; k < rows * columns; ++k) {
            to[k] *= (real)gain;
        }
    }
}

LSTMGEN_STATIC void LG(init_identity)(double scale, size_t matrices, size_t rows, size_t columns,
    real *to)
{
    for (size_t k = 0; k < matrices * rows * columns; ++k) {
        to[k] = k / columns % rows == k % columns ? (real)scale : (real)0;
    }
}

/* first + (last - first) t^power, t from 0 to 1 along the last axis */
LSTMGEN_STATIC void LG(init_power_law)(double first, double last, double power, size_t lines,
    size_t length, real *to)
{
    for (size_t k = 0; k < lines * length; ++k) {
        const double t = length > 1 ? (double)(k % length) / (double)(length - 1) : 0.0;
        to[k] = (real)(first + (last - first) * pow(t, power));
    }
}

LSTMGEN_STATIC void LG(init_log_range)(size_t lines, size_t length, real *to)
{
    for (size_t k = 0; k < lines * length; ++k) {
        to[k] = (real)log((double)(k % length + 1));
    }
}

/* HiPPO-LegS (Gu et al. 2020) */
LSTMGEN_STATIC void LG(init_hippo)(size_t matrices, size_t rows, size_t columns, real *to)
{
    for (size_t k = 0; k < matrices * rows * columns; ++k) {
        const double n = (double)(k / columns % rows), m = (double)(k % columns);
        const double below = n > m ? -sqrt((2.0 * n + 1.0) * (2.0 * m + 1.0)) : 0.0;
        to[k] = (real)(k / columns % rows == k % columns ? -(n + 1.0) : below);
    }
}

LSTMGEN_STATIC void LG(init_hippo_input)(size_t lines, size_t length, real *to)
{
    for (size_t k = 0; k < lines * length; ++k) {
        to[k] = (real)sqrt(2.0 * (double)(k % length) + 1.0);
    }
}

LSTMGEN_STATIC void LG(init_log_uniform)(uint64_t key, double low, double high, size_t count,
    real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] = (real)exp(LG(drawn)(key, k, log(low), log(high)));
    }
}

LSTMGEN_STATIC void LG(init_log_of_uniform)(uint64_t key, double low, double high, size_t count,
    real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] = (real)log(LG(drawn)(key, k, low, high));
    }
}

/* exp(-exp(.)) is the modulus of a number in a ring of the plane (Orvieto et al. 2023) */
LSTMGEN_STATIC void LG(init_ring)(uint64_t key, double low, double high, size_t count, real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] = (real)log(-log(LG(drawn)(key, k, low * low, high * high)) / 2.0);
    }
}

/* softplus(.) is log-uniform (Gu & Dao 2023) */
LSTMGEN_STATIC void LG(init_step_size)(uint64_t key, double low, double high, size_t count,
    real *to)
{
    for (size_t k = 0; k < count; ++k) {
        const double made = exp(LG(drawn)(key, k, log(low), log(high)));
        to[k] = (real)(made + log(-expm1(-made)));
    }
}

/* sigmoid(.)^power is uniform (De et al. 2024) */
LSTMGEN_STATIC void LG(init_decay)(uint64_t key, double low, double high, double power,
    size_t count, real *to)
{
    for (size_t k = 0; k < count; ++k) {
        const double root = pow(LG(drawn)(key, k, low, high), 1.0 / power);
        to[k] = (real)(log(root) - log1p(-root));
    }
}

/* ------------------------------------------------------------------ arrays */

/* The next `count` numbers of a memory, as whole cache lines; NULL, if it is only measured. */
LSTMGEN_STATIC real *LG(piece)(real *base, size_t *total, size_t count)
{
    const size_t most = SIZE_MAX - 64;
    const size_t start = size_take(total, count < most ? LG(padded)(count) : SIZE_MAX);
    return base != NULL ? base + start : NULL;
}

/* An array of a caller, in a place that has some that are written: it is only read. */
LSTMGEN_STATIC real *LG(array_read)(const real *array)
{
    real *same;
    memcpy(&same, &array, sizeof same);
    return same;
}

/* The sum over slices, whose numbers lie one after the other. */
LSTMGEN_STATIC void LG(array_sum)(size_t slices, size_t count, const real *from, real *to)
{
    memcpy(to, from, count * sizeof(real));
    for (size_t s = 1; s < slices; ++s) {
        LG(row_add)(count, from + s * count, to);
    }
}

LSTMGEN_STATIC void LG(array_fill)(size_t count, real number, real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] = number;
    }
}

/* The sum of squares, in double precision: of eight sums, which are added in one order. */
LSTMGEN_STATIC double LG(array_squares)(size_t count, const real *from)
{
    double sum[8] = {0};
    size_t k = 0;
    for (; count - k >= 8; k += 8) {
        for (size_t l = 0; l < 8; ++l) {
            sum[l] += (double)from[k + l] * (double)from[k + l];
        }
    }
    for (size_t l = 0; k < count; ++k, ++l) {
        sum[l] += (double)from[k] * (double)from[k];
    }
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

LSTMGEN_STATIC void LG(array_scale)(size_t count, real factor, real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] *= factor;
    }
}

/* Numbers no farther from 0 than `most`; NaN stays NaN. */
LSTMGEN_STATIC void LG(array_clip)(size_t count, real most, real *to)
{
    for (size_t k = 0; k < count; ++k) {
        to[k] = to[k] > most ? most : to[k] < -most ? -most : to[k];
    }
}

#undef real
#undef LG
#endif
#undef LSTMGEN_REAL
