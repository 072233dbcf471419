#ifndef LSTMGEN_HAS_RUNTIME
#define LSTMGEN_HAS_RUNTIME

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX__) && defined(__GNUC__)
#include <immintrin.h>
#endif

/* What follows rounds as it is written, and NaN and infinity are what they are, with -ffast-math
 * and its kin, too: functions round by adding a number and taking it off again. */
#if defined(_M_FP_FAST)
#error "/fp:fast would change results: compile this file with /fp:precise"
#elif __FINITE_MATH_ONLY__ > 0
#error "NaN and infinity would be lost: add -fno-finite-math-only after -ffast-math or -Ofast"
#elif defined(__clang__) && (defined(__x86_64__) || defined(__i386__))
#pragma float_control(precise, on)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__clang__)
#pragma clang fp reassociate(off)
#elif defined(__GNUC__)
#pragma GCC optimize("no-associative-math", "no-reciprocal-math", "signed-zeros", \
    "no-unsafe-math-optimizations")
#endif

/* A vec is as many numbers as a register of the target holds. Compilers that know no vector types,
 * or compute single numbers with more digits than they have (x87), or -DLSTMGEN_SCALAR, make it a
 * single number. Arrays need no other alignment than their type. */
#if defined(__GNUC__) && !defined(LSTMGEN_SCALAR) \
    && (defined(__clang__) || __FLT_EVAL_METHOD__ == 0 || __FLT_EVAL_METHOD__ == 16)
#if defined(__AVX512F__)
#define LSTMGEN_BYTES 64
#elif defined(__AVX__)
#define LSTMGEN_BYTES 32
#elif defined(__SSE2__) || defined(__ARM_NEON) || defined(__ALTIVEC__)
#define LSTMGEN_BYTES 16
#endif
#endif

/* How wide the registers are that x86's own arithmetic is used for. MemorySanitizer would have it
 * read all lanes, and behind the last number of a row no one wrote. */
#if defined(LSTMGEN_BYTES) && LSTMGEN_BYTES >= 32
#define LSTMGEN_X86 LSTMGEN_BYTES
#else
#define LSTMGEN_X86 0
#endif
#ifdef __has_feature
#if __has_feature(memory_sanitizer)
#undef LSTMGEN_X86
#define LSTMGEN_X86 0
#endif
#endif

#ifdef LSTMGEN_BYTES
#define LSTMGEN_LANE(v, l) ((v)[l])
#else
#define LSTMGEN_LANE(v, l) (v)
#endif

/* No program uses all functions of this file, and a compiler need not say so. */
#ifdef __GNUC__
#define LSTMGEN_STATIC static __attribute__((unused))
#define LSTMGEN_INLINE static inline __attribute__((always_inline, unused))
#else
#define LSTMGEN_STATIC static
#define LSTMGEN_INLINE static inline
#endif

/* So are the kernels, unless sources that are linked together share them: with -DLSTMGEN_LINKED all
 * of these declare them, and this file, compiled alone with -DLSTMGEN_KERNELS too, defines them. */
#ifndef LSTMGEN_LINKED
#define LSTMGEN_KERNEL LSTMGEN_STATIC
#elif defined(__GNUC__)
#define LSTMGEN_KERNEL __attribute__((visibility("hidden")))
#else
#define LSTMGEN_KERNEL
#endif

#ifndef __cplusplus
#define LSTMGEN_RESTRICT restrict
#elif defined(__GNUC__) || defined(_MSC_VER)
#define LSTMGEN_RESTRICT __restrict
#else
#define LSTMGEN_RESTRICT
#endif

#ifdef __clang__
#define LSTMGEN_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define LSTMGEN_UNROLL _Pragma("GCC unroll 16")
#else
#define LSTMGEN_UNROLL
#endif

/* GCC would read a vec that several rows share from memory for each of them. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(LSTMGEN_BYTES)
#define LSTMGEN_PIN(v) __asm__("" : "+v"(v))
#else
#define LSTMGEN_PIN(v) (void)(v)
#endif

/* A product runs in tiles of so many rows and vecs that its sums stay in registers. */
#ifndef LSTMGEN_BYTES
#define LSTMGEN_ROWS 2
#define LSTMGEN_VECS 4
#elif defined(__AVX512F__) || defined(__aarch64__) || defined(__ALTIVEC__)
#define LSTMGEN_ROWS 6
#define LSTMGEN_VECS 4
#else
#define LSTMGEN_ROWS 6
#define LSTMGEN_VECS 2
#endif

/* ------------------------------------------------------------------ sizes */

/* Arithmetic that stays at SIZE_MAX instead of wrapping around. */
LSTMGEN_STATIC size_t size_times(size_t a, size_t b)
{
#ifdef __GNUC__
    size_t product = 0;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
#else
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
#endif
}

LSTMGEN_STATIC size_t size_plus(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

/* Where the next `count` numbers begin, after a `total` so far. */
LSTMGEN_STATIC size_t size_take(size_t *total, size_t count)
{
    const size_t start = *total;
    *total = size_plus(start, count);
    return start;
}

LSTMGEN_STATIC size_t size_at_least(size_t least, size_t size)
{
    return size < least ? least : size;
}

/* The rows of the next tile, where all are to have nearly the same number. */
LSTMGEN_INLINE size_t size_fair_share(size_t rows)
{
    const size_t tiles = (rows + LSTMGEN_ROWS - 1) / LSTMGEN_ROWS;
    return (rows + tiles - 1) / tiles;
}

/* ------------------------------------------------------------------ threads */

LSTMGEN_STATIC size_t thread_count(size_t threads)
{
    return threads < 2 ? 1 : threads < 1024 ? threads : 1024;
}

/* Threads that may work at once. */
LSTMGEN_STATIC size_t thread_workers(size_t threads, size_t serial)
{
    return serial != 0 ? 1 : thread_count(threads);
}

/* A batch of B rows is cut into slices, one for each thread. Their number is that of `threads` also
 * where one thread has to do: so the bits are the same. */
LSTMGEN_STATIC size_t slice_count(size_t B, size_t threads)
{
    return thread_count(threads) < B ? thread_count(threads) : B;
}

/* The rows of slice s. */
LSTMGEN_STATIC size_t slice_rows(size_t B, size_t slices, size_t s)
{
    return B / slices + (s < B % slices);
}

/* The rows of the first slice: no other has more. */
LSTMGEN_STATIC size_t slice_most(size_t B, size_t threads)
{
    return slice_rows(B, slice_count(B, threads), 0);
}

/* One slice, the number s: its rows of the batch, and what it has to do with others. */
typedef struct slice_place {
    size_t s, start, rows, most, team;
} slice_place;

/* Run a pass for all slices, each in a thread of its own. A single one has a `team` of threads, to
 * share products. */
LSTMGEN_STATIC void slice_run(void (*pass)(const void *call, slice_place slice), const void *call,
    size_t B, size_t threads, size_t serial)
{
    const size_t slices = slice_count(B, threads), more = B % slices, most = slice_most(B, threads);
    if (slices == 1) {
        const slice_place all = {0, 0, B, B, thread_workers(threads, serial)};
        pass(call, all);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)slices) schedule(static) if (serial == 0)
#endif
    for (size_t s = 0; s < slices; ++s) {
        const size_t start = B / slices * s + (s < more ? s : more);
        const slice_place slice = {s, start, slice_rows(B, slices, s), most, 1};
        pass(call, slice);
    }
}

/* Whether threads should share the panels of a product: to wake them takes a microsecond or two,
 * and far longer where cores are busy; so many multiplications take about two. */
#ifndef LSTMGEN_SHARED
#define LSTMGEN_SHARED 131072
#endif
LSTMGEN_STATIC int thread_sharing(size_t team, size_t rows, size_t width, size_t inner)
{
    return team > 1 && rows * width * inner >= LSTMGEN_SHARED;
}

#endif

/* ------------------------------------------------------------------ one type of numbers
 *
 * Whoever includes this file says which: LSTMGEN_REAL is the number of its bits. What is for other
 * numbers has other names, and what is there already is not there twice. */

#if LSTMGEN_REAL == 32 && !defined(LSTMGEN_HAS_F32)
#define LSTMGEN_HAS_F32
#define LG(name) name##_f32
#define real float
#define lane int32_t
#define ulane uint32_t
#define LIBM(function) function##f
#elif LSTMGEN_REAL == 64 && !defined(LSTMGEN_HAS_F64)
#define LSTMGEN_HAS_F64
#define LG(name) name##_f64
#define real double
#define lane int64_t
#define ulane uint64_t
#define LIBM(function) function
#elif LSTMGEN_REAL != 32 && LSTMGEN_REAL != 64
#error "LSTMGEN_REAL has to be 32 or 64"
#endif

#ifdef LG /* to the end */
#define vec LG(vec)
#define mask LG(mask)
#define bits LG(bits)
#define factors LG(factors)

#ifdef LSTMGEN_BYTES
#define LANES (LSTMGEN_BYTES / sizeof(real))
typedef real vec __attribute__((vector_size(LSTMGEN_BYTES), aligned(sizeof(real)), may_alias));
typedef lane mask __attribute__((vector_size(LSTMGEN_BYTES)));
typedef ulane bits __attribute__((vector_size(LSTMGEN_BYTES)));
#else
#define LANES ((size_t)1)
typedef real vec;
typedef int mask;
#endif
#define PANEL (LSTMGEN_VECS * LANES)

/* Rows of memory begin at multiples of so many numbers: 64 bytes. Hp is the room for a block of H
 * numbers, H4p that for four of them side by side, of which the last one may be written by vecs. */
#define PAD (64 / sizeof(real))

LSTMGEN_INLINE size_t LG(padded)(size_t size)
{
    return (size + PAD - 1) / PAD * PAD;
}

/* How many vecs hold `size` numbers. */
LSTMGEN_INLINE size_t LG(vecs)(size_t size)
{
    return (size + LANES - 1) / LANES;
}

/* Whether so many numbers have a number of bytes. */
LSTMGEN_STATIC int LG(fits)(size_t count)
{
    return count <= SIZE_MAX / sizeof(real);
}

/* So many numbers, or 0 if that is too many to have a size in bytes. */
LSTMGEN_STATIC size_t LG(fitting)(size_t count)
{
    return LG(fits)(count) ? count : 0;
}

/* `memory` from the next line of the cache on. */
LSTMGEN_STATIC real *LG(aligned)(real *memory)
{
    const size_t past = (uintptr_t)memory / sizeof(real) % PAD;
    return memory + (past == 0 ? 0 : PAD - past);
}

/* `row` is a step's, of `count` numbers, after those of so many `before`: asks for the row of two
 * steps before. Of a long one, for what the first-level cache has room for. */
LSTMGEN_INLINE void LG(fetch)(const real *row, size_t before, size_t count)
{
#ifdef __GNUC__
    const size_t most = 8192 / sizeof(real);
    if (before > 1) {
        for (size_t n = 0; n < count && n < most; n += PAD) {
            __builtin_prefetch(row - 2 * count + n);
        }
    }
#else
    (void)row, (void)before, (void)count;
#endif
}

/* ------------------------------------------------------------------ lanes */

/* The same number in all lanes. */
LSTMGEN_INLINE vec LG(splat)(real a)
{
#ifdef LSTMGEN_BYTES
    const vec zeros = {0};
    return a - zeros;
#else
    return a;
#endif
}

/* For each lane: a where m is true, else b. With + instead of | GCC sees that it is a blend. */
LSTMGEN_INLINE vec LG(choose)(mask m, vec a, vec b)
{
#ifdef LSTMGEN_BYTES
    return (vec)((m & (mask)a) + (~m & (mask)b));
#else
    return m ? a : b;
#endif
}

/* Unlike fmax, NaN goes through. */
LSTMGEN_INLINE vec LG(larger)(vec a, vec b)
{
    return LG(choose)((mask)(a > b) | (mask)(a != a), a, b);
}

/* Unlike fmin, NaN goes through. */
LSTMGEN_INLINE vec LG(smaller)(vec a, vec b)
{
    return LG(choose)((mask)(a < b) | (mask)(a != a), a, b);
}

/* min(most, a) and max(least, a); NaN goes through, which of both is x86's second operand. */
LSTMGEN_INLINE vec LG(at_most)(real most, vec a)
{
#if LSTMGEN_X86 == 64 && LSTMGEN_REAL == 32
    return (vec)_mm512_min_ps((__m512)LG(splat)(most), (__m512)a);
#elif LSTMGEN_X86 == 64
    return (vec)_mm512_min_pd((__m512d)LG(splat)(most), (__m512d)a);
#elif LSTMGEN_X86 == 32 && LSTMGEN_REAL == 32
    return (vec)_mm256_min_ps((__m256)LG(splat)(most), (__m256)a);
#elif LSTMGEN_X86 == 32
    return (vec)_mm256_min_pd((__m256d)LG(splat)(most), (__m256d)a);
#else
    return LG(choose)((mask)(a > LG(splat)(most)), LG(splat)(most), a);
#endif
}

LSTMGEN_INLINE vec LG(at_least)(real least, vec a)
{
#if LSTMGEN_X86 == 64 && LSTMGEN_REAL == 32
    return (vec)_mm512_max_ps((__m512)LG(splat)(least), (__m512)a);
#elif LSTMGEN_X86 == 64
    return (vec)_mm512_max_pd((__m512d)LG(splat)(least), (__m512d)a);
#elif LSTMGEN_X86 == 32 && LSTMGEN_REAL == 32
    return (vec)_mm256_max_ps((__m256)LG(splat)(least), (__m256)a);
#elif LSTMGEN_X86 == 32
    return (vec)_mm256_max_pd((__m256d)LG(splat)(least), (__m256d)a);
#else
    return LG(choose)((mask)(a < LG(splat)(least)), LG(splat)(least), a);
#endif
}

#ifdef LSTMGEN_BYTES
/* True in the first `some` lanes. */
LSTMGEN_INLINE mask LG(first_lanes)(size_t some)
{
    mask place = {0}, end = {0};
    end += (lane)some;
    LSTMGEN_UNROLL
    for (size_t l = 0; l < LANES; ++l) {
        place[l] = (lane)l;
    }
    return (mask)(place < end);
}
#endif

/* The j-th vec of `size` numbers, with `other` in the lanes that are past the end. */
LSTMGEN_INLINE vec LG(within)(vec a, size_t j, size_t size, real other)
{
#ifdef LSTMGEN_BYTES
    if (size % LANES != 0 && (j + 1) * LANES > size) {
        a = LG(choose)(LG(first_lanes)(size - j * LANES), a, LG(splat)(other));
    }
#endif
    (void)j, (void)size, (void)other;
    return a;
}

/* How many numbers a vec has. */
enum { LG(lanes) = LANES };

/* How many of them are in use, of the vec that begins with number `first` of `total`. */
LSTMGEN_INLINE size_t LG(left_of)(size_t total, size_t first)
{
    return total - first < LANES ? total - first : LANES;
}

/* A vec of `some` numbers, which need not be aligned; zeros are in the other lanes. */
LSTMGEN_INLINE vec LG(some_of)(const real *at, size_t some)
{
    vec a = LG(splat)(0);
    if (some == LANES) {
        memcpy(&a, at, sizeof a);
    } else {
#if !defined(LSTMGEN_BYTES) || LSTMGEN_BYTES == 16
        LSTMGEN_UNROLL
        for (size_t l = 0; l < LANES; ++l) {
            LSTMGEN_LANE(a, l) = l < some ? at[l] : 0;
        }
#elif LSTMGEN_BYTES == 64 && LSTMGEN_REAL == 32
        a = (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << some) - 1), at);
#elif LSTMGEN_BYTES == 64
        a = (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << some) - 1), at);
#elif LSTMGEN_REAL == 32
        a = (vec)_mm256_maskload_ps(at, (__m256i)LG(first_lanes)(some));
#else
        a = (vec)_mm256_maskload_pd(at, (__m256i)LG(first_lanes)(some));
#endif
    }
    return a;
}

/* The first `some` numbers of a vec, stored; nothing after them is written. */
LSTMGEN_INLINE void LG(put_some)(vec a, real *at, size_t some)
{
    if (some == LANES) {
        memcpy(at, &a, sizeof a);
    } else {
#if !defined(LSTMGEN_BYTES) || LSTMGEN_BYTES == 16
        for (size_t l = 0; l < some; ++l) {
            at[l] = LSTMGEN_LANE(a, l);
        }
#elif LSTMGEN_BYTES == 64 && LSTMGEN_REAL == 32
        _mm512_mask_storeu_ps(at, (__mmask16)((1u << some) - 1), (__m512)a);
#elif LSTMGEN_BYTES == 64
        _mm512_mask_storeu_pd(at, (__mmask8)((1u << some) - 1), (__m512d)a);
#elif LSTMGEN_REAL == 32
        _mm256_maskstore_ps(at, (__m256i)LG(first_lanes)(some), (__m256)a);
#else
        _mm256_maskstore_pd(at, (__m256i)LG(first_lanes)(some), (__m256d)a);
#endif
    }
}

/* For each lane, the one that is `half` away: halves of a vec change places. */
LSTMGEN_INLINE vec LG(opposite)(const size_t half, vec a)
{
#if defined(LSTMGEN_BYTES) && defined(__GNUC__) && !defined(__clang__)
    mask other = {0};
    LSTMGEN_UNROLL
    for (size_t l = 0; l < LANES; ++l) {
        other[l] = (lane)(l ^ half);
    }
    return __builtin_shuffle(a, other);
#else
    vec b = a;
    (void)half; /* there may be a single lane */
    LSTMGEN_UNROLL
    for (size_t l = 0; l < LANES; ++l) {
        LSTMGEN_LANE(b, l) = LSTMGEN_LANE(a, (l ^ half) % LANES);
    }
    return b;
#endif
}

/* The sum of all lanes, in all lanes: halves are added, so that few sums wait for each other. */
LSTMGEN_INLINE vec LG(across)(vec a)
{
    if (LANES > 8) {
        a += LG(opposite)(8, a);
    }
    if (LANES > 4) {
        a += LG(opposite)(4, a);
    }
    if (LANES > 2) {
        a += LG(opposite)(2, a);
    }
    if (LANES > 1) {
        a += LG(opposite)(1, a);
    }
    return a;
}

/* The largest of all lanes, in all lanes. */
LSTMGEN_INLINE vec LG(across_max)(vec a)
{
    a = LANES > 8 ? LG(larger)(a, LG(opposite)(8, a)) : a;
    a = LANES > 4 ? LG(larger)(a, LG(opposite)(4, a)) : a;
    a = LANES > 2 ? LG(larger)(a, LG(opposite)(2, a)) : a;
    return LANES > 1 ? LG(larger)(a, LG(opposite)(1, a)) : a;
}

/* The running sum over lanes, which goes on from `total` and leaves it at the last. */
LSTMGEN_INLINE vec LG(running)(vec a, real *total)
{
    for (size_t l = 0; l < LANES; ++l) {
        *total += LSTMGEN_LANE(a, l);
        LSTMGEN_LANE(a, l) = *total;
    }
    return a;
}

/* The same from the last lane to the first. */
LSTMGEN_INLINE vec LG(running_back)(vec a, real *total)
{
    for (size_t l = LANES; l-- > 0;) {
        *total += LSTMGEN_LANE(a, l);
        LSTMGEN_LANE(a, l) = *total;
    }
    return a;
}

/* ------------------------------------------------------------------ functions */

/* max(a, 0); NaN stays NaN. */
LSTMGEN_INLINE vec LG(relu)(vec a)
{
    return LG(at_least)(0, a);
}

#ifdef LSTMGEN_BYTES
/* These are quotients made of e^a = 2^n (q + r) / (q - r), where n = round(a / ln 2),
 * r = a - n ln 2 and q = r coth(r / 2), an even function that a short polynomial in r^2 gives. The
 * errors stated were measured, in units in the last place, for every float and 3e7 doubles, with
 * and without fused multiply-add. */
#if LSTMGEN_REAL == 32
#define POLYNOMIAL(z) ((-0.002766723f * z + 0.16666625f) * z + 2.0f)
#define LOGARITHM(z) ((0.0023336904f * z + 0.012492992f) * z + 0.08333347f)
#define MANTISSA 23
#define BIAS 127
#define ROUNDER 12582912.0f /* 1.5 2^23: added, it leaves no room for a fraction */
#define LOG2_E 1.442695f
#define LN_2 0.6931472f
#define LN_2_HIGH 0.69314575f
#define LN_2_LOW 1.4286068e-06f
#else
#define POLYNOMIAL(z) \
    (((((4.138116821888254e-08 * z - 1.6533901687322552e-06) * z + 6.613756320964232e-05) * z \
        - 0.002777777777701375) * z + 0.16666666666666602) * z + 2.0)
#define LOGARITHM(z) \
    ((((((4.515817299639447e-06 * z + 1.8693736056419034e-05) * z + 8.878696125049259e-05) * z \
        + 0.0004340273139400924) * z + 0.0022321428705734435) * z + 0.012499999999815728) * z \
        + 0.08333333333333419)
#define MANTISSA 52
#define BIAS 1023
#define ROUNDER 6755399441055744.0 /* 1.5 2^52 */
#define LOG2_E 1.4426950408889634
#define LN_2 0.6931471805599453
#define LN_2_HIGH 0.6931471805598903
#define LN_2_LOW 5.497923018708371e-14
#endif
#define SIGN ((ulane)1 << (8 * sizeof(real) - 1))
#define EXPONENT ((ulane)(2 * BIAS + 1) << MANTISSA)

/* r coth(r / 2) for |r| <= ln(2) / 2 */
LSTMGEN_INLINE vec LG(r_coth)(vec r)
{
    const vec z = r * r;
    return POLYNOMIAL(z);
}

/* e^a = 2^n (q + r) / (q - r). Where nothing multiplies by 2^n for any n, it is rise / fall, in two
 * factors, since it may be too large or small for one. */
typedef struct LG(power) {
#if LSTMGEN_X86 == 64
    vec q, r, n;
#else
    vec q, r, rise, fall;
#endif
} LG(power);

LSTMGEN_INLINE LG(power) LG(to_the_e)(vec a)
{
    LG(power) e;
#if LSTMGEN_X86 == 64
    e.n = a * LOG2_E + ROUNDER - ROUNDER;
    e.r = a - e.n * LN_2_HIGH - e.n * LN_2_LOW;
#else
    const real rounder = ROUNDER + 2 * BIAS;
    const vec t = a * LOG2_E + rounder, n = t - rounder;
    const bits twice = (bits)t << (MANTISSA - 1); /* n and the bias twice: each factor gets half */
    e.r = a - n * LN_2_HIGH - n * LN_2_LOW;
    e.fall = (vec)((((ulane)(2 * BIAS) << MANTISSA) - twice) & EXPONENT);
    e.rise = (vec)(twice & EXPONENT);
#endif
    e.q = LG(r_coth)(e.r);
    return e;
}

#if LSTMGEN_X86 == 64
/* 2^n a, rounded once */
LSTMGEN_INLINE vec LG(scaled)(vec a, vec n)
{
#if LSTMGEN_REAL == 32
    return (vec)_mm512_scalef_ps((__m512)a, (__m512)n);
#else
    return (vec)_mm512_scalef_pd((__m512d)a, (__m512d)n);
#endif
}
#endif

/* Beyond it, 2^n is infinite or zero. */
#define FAR (LSTMGEN_REAL == 32 ? 150 : 1000)

/* e^a; 1.7 ulp */
LSTMGEN_INLINE vec LG(exp)(vec a)
{
    const LG(power) e = LG(to_the_e)(LG(at_least)(-FAR, LG(at_most)(FAR, a)));
#if LSTMGEN_X86 == 64
    return LG(scaled)((e.q + e.r) / (e.q - e.r), e.n);
#else
    return e.rise * (e.q + e.r) / (e.fall * (e.q - e.r));
#endif
}

/* e^a / (1 + e^a), which is 1 from a = 40 on; 2.4 ulp, in the tail too */
LSTMGEN_INLINE vec LG(sigmoid)(vec a)
{
    const LG(power) e = LG(to_the_e)(LG(at_least)(-FAR, LG(at_most)(40, a)));
#if LSTMGEN_X86 == 64
    const vec up = LG(scaled)(e.q + e.r, e.n);
    return up / (e.q - e.r + up);
#else
    const vec up = e.rise * (e.q + e.r);
    return up / (e.fall * (e.q - e.r) + up);
#endif
}

/* m / (m + 2) with m = e^(2 |a|) - 1, and the sign of a; 2.4 ulp */
LSTMGEN_INLINE vec LG(tanh)(vec a)
{
    const bits sign_of_a = (bits)a & SIGN;
    const real rounder = ROUNDER + (BIAS - 1);
    vec x = (vec)((bits)a ^ sign_of_a);
    x = LG(at_most)(20, x);
    const vec t = x * (2 * LOG2_E) + rounder, n = t - rounder;
    const vec half = (vec)((bits)t << MANTISSA); /* 2^(n - 1) */
    const vec r = x + x - n * LN_2, q = LG(r_coth)(r);
    const vec up = (half - (real)0.5) * q + (half + (real)0.5) * r;
    return (vec)((bits)(up / (up + (q - r))) | sign_of_a);
}

/* e^a - 1 = ((2^n - 1) q + (2^n + 1) r) / (q - r), above and below divided by 4 against overflow,
 * and the sign of a; 3.3 ulp */
LSTMGEN_INLINE vec LG(expm1)(vec a)
{
    const bits sign_of_a = (bits)a & SIGN;
    const real rounder = ROUNDER + (BIAS - 2);
    a = LG(at_most)(LSTMGEN_REAL == 32 ? 89 : 710, a);
    a = LG(at_least)(LSTMGEN_REAL == 32 ? -30 : -60, a);
    const vec t = a * LOG2_E + rounder, n = t - rounder;
    const vec quarter = (vec)((bits)t << MANTISSA); /* 2^(n - 2) */
    const vec r = a - n * LN_2_HIGH - n * LN_2_LOW, q = LG(r_coth)(r);
    const vec up = (quarter - (real)0.25) * q + (quarter + (real)0.25) * r;
    return (vec)((bits)(up / ((real)0.25 * (q - r))) | sign_of_a);
}

/* log(1 + e^a) = max(a, 0) + log(1 + u) with u = e^-|a|. Of 1 + u, or of its half where that is
 * nearer to 1, the logarithm is t f(t^2) with t = 2 (1 + u - 1) / (1 + u + 1) and an even function
 * f that a short polynomial in t^2 gives; 3.6 ulp */
LSTMGEN_INLINE vec LG(softplus)(vec a)
{
    const vec u = LG(exp)((vec)((bits)a | SIGN)), one = LG(splat)(1);
    const mask is_half = (mask)(u > LG(splat)((real)0.41421356));
    const vec above = LG(choose)(is_half, u - one, u);
    const vec below = LG(choose)(is_half, u * (real)0.5 + (real)1.5, u * (real)0.5 + one);
    const vec t = above / below, z = t * t;
    const vec whole = LG(choose)(is_half, LG(splat)(LN_2), LG(splat)(0));
    return LG(relu)(a) + (whole + t * (z * (LOGARITHM(z))) + t);
}

#undef POLYNOMIAL
#undef LOGARITHM
#undef MANTISSA
#undef BIAS
#undef ROUNDER
#undef LOG2_E
#undef LN_2
#undef LN_2_HIGH
#undef LN_2_LOW
#undef SIGN
#undef EXPONENT
#undef FAR
#else
LSTMGEN_INLINE vec LG(exp)(vec a)
{
    return LIBM(exp)(a);
}

LSTMGEN_INLINE vec LG(expm1)(vec a)
{
    return LIBM(expm1)(a);
}

LSTMGEN_INLINE vec LG(tanh)(vec a)
{
    return LIBM(tanh)(a);
}

LSTMGEN_INLINE vec LG(sigmoid)(vec a)
{
    const real e = LIBM(exp)(-LIBM(fabs)(a)); /* not e^-a, which is infinite in the tail */
    return (a < 0 ? e : 1) / (1 + e);
}

LSTMGEN_INLINE vec LG(softplus)(vec a)
{
    return LG(relu)(a) + LIBM(log1p)(LIBM(exp)(-LIBM(fabs)(a)));
}
#endif

/* Functions of the C library, lane by lane; and of a vec whose lanes are all the same. */
#define LSTMGEN_EACH(function) \
    LSTMGEN_INLINE vec LG(each_##function)(vec a) \
    { \
        for (size_t l = 0; l < LANES; ++l) { \
            LSTMGEN_LANE(a, l) = LIBM(function)(LSTMGEN_LANE(a, l)); \
        } \
        return a; \
    } \
    LSTMGEN_INLINE vec LG(one_##function)(vec a) \
    { \
        return LG(splat)(LIBM(function)(LSTMGEN_LANE(a, 0))); \
    }

LSTMGEN_EACH(sqrt)
LSTMGEN_EACH(log)
LSTMGEN_EACH(sin)
LSTMGEN_EACH(cos)
LSTMGEN_EACH(tan)
LSTMGEN_EACH(asin)
LSTMGEN_EACH(acos)
LSTMGEN_EACH(atan)
LSTMGEN_EACH(sinh)
LSTMGEN_EACH(cosh)
LSTMGEN_EACH(asinh)
LSTMGEN_EACH(acosh)
LSTMGEN_EACH(atanh)
LSTMGEN_EACH(erf)
LSTMGEN_EACH(fabs)
LSTMGEN_EACH(floor)
LSTMGEN_EACH(ceil)

#undef LSTMGEN_EACH

LSTMGEN_INLINE vec LG(each_pow)(vec a, vec b)
{
    for (size_t l = 0; l < LANES; ++l) {
        LSTMGEN_LANE(a, l) = LIBM(pow)(LSTMGEN_LANE(a, l), LSTMGEN_LANE(b, l));
    }
    return a;
}

LSTMGEN_INLINE vec LG(one_pow)(vec a, vec b)
{
    return LG(splat)(LIBM(pow)(LSTMGEN_LANE(a, 0), LSTMGEN_LANE(b, 0)));
}

LSTMGEN_INLINE vec LG(one_rsqrt)(vec a)
{
    return LG(splat)(1 / LIBM(sqrt)(LSTMGEN_LANE(a, 0)));
}

LSTMGEN_INLINE vec LG(positive)(vec a)
{
    return LG(choose)((mask)(a > LG(splat)(0)), LG(splat)(1), LG(splat)(0));
}

/* -1, 0 or 1; NaN stays NaN. */
LSTMGEN_INLINE vec LG(sign)(vec a)
{
    const vec below = LG(choose)((mask)(a < LG(splat)(0)), LG(splat)(-1), a);
    return LG(choose)((mask)(a > LG(splat)(0)), LG(splat)(1), below);
}

/* 0, what it is at zero, or 1; NaN stays NaN. */
LSTMGEN_INLINE vec LG(heaviside)(vec a, vec at_zero)
{
    const vec not_above = LG(choose)((mask)(a < LG(splat)(0)), LG(splat)(0), a);
    at_zero = LG(choose)((mask)(a == LG(splat)(0)), at_zero, not_above);
    return LG(choose)((mask)(a > LG(splat)(0)), LG(splat)(1), at_zero);
}

LSTMGEN_INLINE vec LG(equals)(vec a, vec b)
{
    return LG(choose)((mask)(a >= b) & (mask)(a <= b), LG(splat)(1), LG(splat)(0));
}

LSTMGEN_INLINE vec LG(square)(vec a)
{
    return a * a;
}

LSTMGEN_INLINE vec LG(cube)(vec a)
{
    return a * a * a;
}

/* ------------------------------------------------------------------ copying */

/* `steps` times `rows` rows of what a caller has for a batch, one after the other and padded to
 * `width`: where they are, if they lie like that already, else copied. */
LSTMGEN_STATIC const real *LG(gather)(size_t steps, size_t rows, size_t batch, size_t units,
    size_t width, const real *from, real *to)
{
    real *at = to;
    if (rows == batch && units == width) {
        return from;
    }
    for (size_t t = 0; t < steps; ++t) {
        for (size_t r = 0; r < rows; ++r, at += width) {
            memcpy(at, from + (t * batch + r) * units, units * sizeof(real));
            memset(at + units, 0, (width - units) * sizeof(real));
        }
    }
    return to;
}

/* Where to write such rows: to the caller's, if that is the same, else to `own`. */
LSTMGEN_STATIC real *LG(place)(size_t rows, size_t batch, size_t units, real *callers, real *own)
{
    return rows == batch && units % PAD == 0 ? callers : own;
}

/* Rows of our own, which are `stride` apart, back to a caller. */
LSTMGEN_STATIC void LG(scatter)(size_t steps, size_t rows, size_t batch, size_t units,
    const real *from, size_t stride, real *to)
{
    if (from == to) {
        return;
    }
    for (size_t t = 0; t < steps; ++t) {
        for (size_t r = 0; r < rows; ++r) {
            memcpy(to + (t * batch + r) * units, from + (t * rows + r) * stride,
                units * sizeof(real));
        }
    }
}

/* The rows of a state from `start` on, padded; zeros if there is nothing to copy from. */
LSTMGEN_STATIC void LG(load)(size_t rows, size_t units, const real *from, size_t start, real *to)
{
    for (size_t r = 0; r < rows; ++r, to += LG(padded)(units)) {
        if (from != NULL) {
            memcpy(to, from + (start + r) * units, units * sizeof(real));
            memset(to + units, 0, (LG(padded)(units) - units) * sizeof(real));
        } else {
            memset(to, 0, LG(padded)(units) * sizeof(real));
        }
    }
}

/* Such rows of a state that does not start from zeros, if there is nothing to copy from. */
LSTMGEN_STATIC void LG(begin_with)(size_t rows, size_t units, const real *from, real value,
    real *to)
{
    for (size_t r = 0; from == NULL && r < rows; ++r, to += LG(padded)(units)) {
        for (size_t j = 0; j < units; ++j) {
            to[j] = value;
        }
    }
}

/* The same rows, written unless nobody wants them. */
LSTMGEN_STATIC void LG(save)(size_t rows, size_t units, const real *from, real *to, size_t start)
{
    if (to != NULL) {
        LG(scatter)(1, rows, rows, units, from, LG(padded)(units), to + start * units);
    }
}

LSTMGEN_STATIC void LG(swap)(real **a, real **b)
{
    real *const kept = *a;
    *a = *b;
    *b = kept;
}

/* A learned vector, zeros if there is none, as the numbers from `first` on of packed ones; zeros
 * from its last number to `end`. */
LSTMGEN_STATIC void LG(pad)(size_t units, const real *from, real *to, size_t first, size_t end)
{
    memset(to + first, 0, (end - first) * sizeof(real));
    if (from != NULL) {
        memcpy(to + first, from, units * sizeof(real));
    }
}

/* A learned vector's gradient becomes, or if it has begun gains, what was summed. */
LSTMGEN_STATIC void LG(add)(size_t units, const real *from, int begun, real *gradient)
{
    for (size_t k = 0; k < units; ++k) {
        gradient[k] = begun ? gradient[k] + from[k] : from[k];
    }
}

/* Every row of out becomes `start`, or 0 if there is none. */
LSTMGEN_STATIC void LG(fill)(size_t rows, size_t width, const real *start, real *out, size_t stride)
{
    for (size_t r = 0; r < rows; ++r) {
        if (start != NULL) {
            memcpy(out + r * stride, start, width * sizeof(real));
        } else {
            memset(out + r * stride, 0, width * sizeof(real));
        }
    }
}

/* ------------------------------------------------------------------ products */

/* What is multiplied: rows, which are `stride` apart, of `groups` times `inner` factors; those of a
 * group are `step` apart, the groups `jump`. */
typedef struct factors {
    const real *from;
    size_t stride, groups, inner, step, jump;
} factors;

/* The numbers of each row, one after the other. */
LSTMGEN_INLINE factors LG(rows_of)(const real *from, size_t stride, size_t inner)
{
    const factors x = {from, stride, 1, inner, 1, inner};
    return x;
}

/* Blocks of each row, which are `jump` apart. */
LSTMGEN_INLINE factors LG(blocks_of)(const real *from, size_t stride, size_t groups, size_t inner,
    size_t jump)
{
    const factors x = {from, stride, groups, inner, 1, jump};
    return x;
}

/* The kernels. Packed weights lie in panels of as many columns as a tile has vecs, row after row. A
 * `team` of threads may share the work, with OpenMP. */

/* out = start + x w, row by row, with packed weights w; without a start, it is 0. */
LSTMGEN_KERNEL void LG(multiply_by)(size_t team, size_t rows, size_t width, const factors *x,
    const real *w, const real *start, size_t start_stride, real *out, size_t out_stride);

/* That, where x is made for the call. It is not passed by value: copying it costs a small layer
 * some 5 % of its time, since what was just stored is read again in other pieces. */
LSTMGEN_INLINE void LG(multiply)(size_t team, size_t rows, size_t width, factors x, const real *w,
    const real *start, size_t start_stride, real *out, size_t out_stride)
{
    LG(multiply_by)(team, rows, width, &x, w, start, start_stride, out, out_stride);
}

/* The same for each of several heads: of the rows of x, head h has the part that begins `jump`
 * numbers after that of the head before, of out the next `width` columns, and its own weights,
 * which are `step` apart, or the same ones if that is 0. Nothing is written beside these columns.
 */
LSTMGEN_KERNEL void LG(multiply_heads)(size_t rows, size_t heads, size_t width, factors x,
    size_t jump, const real *w, size_t step, const real *start, size_t start_stride, real *out,
    size_t out_stride);

/* The gradients of a matrix (height, width) for each head gain the sum of d xT over all rows; those
 * of heads are `step` apart, or the same one if that is 0. */
LSTMGEN_KERNEL void LG(outer_heads)(size_t rows, size_t heads, size_t height, size_t width,
    const real *d, size_t d_stride, const real *x, size_t x_stride, size_t step, real *gradient);

/* The transpose of a matrix (rows, columns), as the columns from `first` on of packed weights
 * (columns, width); zeros from its last column to `end`, or to the end of a vec. */
LSTMGEN_KERNEL void LG(pack_transposed)(size_t team, size_t rows, size_t columns,
    const real *matrix, real *to, size_t first, size_t end, size_t width);

/* A matrix (rows, columns), as the rows from `first` on of packed weights (inner, columns), which
 * are padded. */
LSTMGEN_KERNEL void LG(pack_rows)(size_t team, size_t rows, size_t columns, const real *matrix,
    real *to, size_t first, size_t inner);

/* The matrix (rows, columns) of a head, as packed weights of that very width. */
LSTMGEN_KERNEL void LG(pack_head)(size_t rows, size_t columns, const real *matrix, real *to);

/* Rows of `width` numbers, cut into panels: to be read in the order of memory. */
LSTMGEN_KERNEL void LG(copy_panels)(size_t team, size_t rows, size_t width, const real *from,
    size_t stride, real *panels);

/* The transposed gradient (height, width), whose rows are `stride` apart, becomes the sum of x dT
 * over all rows, or if it has begun gains that; d is in panels. */
LSTMGEN_KERNEL void LG(outer_add)(size_t team, size_t rows, size_t width, size_t height,
    const real *x, size_t x_stride, const real *panels, int begun, real *gradient, size_t stride,
    real *columns);

/* The gradient of a matrix (rows, columns) becomes, or if it has begun gains, the columns from
 * `first` on of a transposed one, whose rows are `stride` apart. */
LSTMGEN_KERNEL void LG(unpack_transposed)(size_t team, size_t rows, size_t columns,
    const real *from, size_t first, size_t stride, int begun, real *matrix);

#if !defined(LSTMGEN_LINKED) || defined(LSTMGEN_KERNELS)
/* Sums for a few rows and vecs. A few sums alone would wait for each other's addition: then there
 * are several `sets` of them, each for every so many-th factor. */
LSTMGEN_INLINE void LG(sums_in_registers)(const size_t rows, const size_t width, const size_t sets,
    factors x, const real *LSTMGEN_RESTRICT w, const real *start, size_t start_stride, real *out,
    size_t out_stride)
{
    vec sum[4][LSTMGEN_ROWS][LSTMGEN_VECS];
    LSTMGEN_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        LSTMGEN_UNROLL
        for (size_t v = 0; v < width; ++v) {
            sum[0][r][v] = start != NULL
                ? ((const vec *)(start + r * start_stride))[v] : LG(splat)(0);
            LSTMGEN_UNROLL
            for (size_t s = 1; s < sets; ++s) {
                sum[s][r][v] = LG(splat)(0);
            }
        }
    }
    for (size_t g = 0; g < x.groups; ++g) {
        const real *factor = x.from + g * x.jump;
        size_t left = x.inner;
        for (; left >= sets; left -= sets) {
            LSTMGEN_UNROLL
            for (size_t s = 0; s < sets; ++s) {
                vec weight[LSTMGEN_VECS];
                LSTMGEN_UNROLL
                for (size_t v = 0; v < width; ++v) {
                    weight[v] = ((const vec *)w)[s * width + v];
                    LSTMGEN_PIN(weight[v]);
                }
                LSTMGEN_UNROLL
                for (size_t r = 0; r < rows; ++r) {
                    const real one = factor[r * x.stride + s * x.step];
                    LSTMGEN_UNROLL
                    for (size_t v = 0; v < width; ++v) {
                        sum[s][r][v] += one * weight[v];
                    }
                }
            }
            factor += sets * x.step;
            w += sets * width * LANES;
        }
        for (; left > 0; --left) {
            LSTMGEN_UNROLL
            for (size_t r = 0; r < rows; ++r) {
                LSTMGEN_UNROLL
                for (size_t v = 0; v < width; ++v) {
                    sum[0][r][v] += factor[r * x.stride] * ((const vec *)w)[v];
                }
            }
            factor += x.step;
            w += width * LANES;
        }
    }
    LSTMGEN_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        LSTMGEN_UNROLL
        for (size_t v = 0; v < width; ++v) {
            vec total = sum[0][r][v];
            LSTMGEN_UNROLL
            for (size_t s = 1; s < sets; ++s) {
                total += sum[s][r][v];
            }
            ((vec *)(out + r * out_stride))[v] = total;
        }
    }
}

LSTMGEN_INLINE void LG(some_rows)(size_t rows, const size_t width, factors x,
    const real *LSTMGEN_RESTRICT w, const real *start, size_t start_stride, real *out,
    size_t out_stride)
{
    const size_t two = width > 2 ? 1 : 2;
    switch (rows) {
    case 1:
        LG(sums_in_registers)(1, width, 2 * two, x, w, start, start_stride, out, out_stride);
        break;
#if LSTMGEN_ROWS > 2
    case 2:
        LG(sums_in_registers)(2, width, two, x, w, start, start_stride, out, out_stride);
        break;
    case 3:
        LG(sums_in_registers)(3, width, 1, x, w, start, start_stride, out, out_stride);
        break;
    case 4:
        LG(sums_in_registers)(4, width, 1, x, w, start, start_stride, out, out_stride);
        break;
    case 5:
        LG(sums_in_registers)(5, width, 1, x, w, start, start_stride, out, out_stride);
        break;
#endif
    default:
        LG(sums_in_registers)(LSTMGEN_ROWS, width, 1, x, w, start, start_stride, out, out_stride);
    }
}

/* A panel of `width` vecs of out becomes start + x w. */
LSTMGEN_STATIC void LG(multiply_panel)(size_t width, size_t rows, const factors *given,
    const real *LSTMGEN_RESTRICT w, const real *start, size_t start_stride, real *out,
    size_t out_stride)
{
    factors x = *given;
    while (rows > 0) {
        const size_t some = size_fair_share(rows);
        switch (width) {
        case 1:
            LG(some_rows)(some, 1, x, w, start, start_stride, out, out_stride);
            break;
#if LSTMGEN_VECS > 2
        case 2:
            LG(some_rows)(some, 2, x, w, start, start_stride, out, out_stride);
            break;
        case 3:
            LG(some_rows)(some, 3, x, w, start, start_stride, out, out_stride);
            break;
#endif
        default:
            LG(some_rows)(some, LSTMGEN_VECS, x, w, start, start_stride, out, out_stride);
        }
        rows -= some;
        x.from += some * x.stride;
        start = start != NULL ? start + some * start_stride : NULL;
        out += some * out_stride;
    }
}

LSTMGEN_KERNEL void LG(multiply_by)(size_t team, size_t rows, size_t width, const factors *given,
    const real *LSTMGEN_RESTRICT w, const real *start, size_t start_stride, real *out,
    size_t out_stride)
{
    factors x = *given;
    const size_t inner = x.groups * x.inner;
    if (thread_sharing(team, rows, width, inner)) {
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)team) schedule(static)
#endif
        for (size_t n = 0; n < width; n += PANEL) {
            const size_t wide = width - n < PANEL ? width - n : PANEL;
            LG(multiply_by)(1, rows, wide, given, w + n * inner, start != NULL ? start + n : NULL,
                start_stride, out + n, out_stride);
        }
        return;
    }
    if (x.inner * x.step == x.jump) {
        x.inner = inner;
        x.groups = 1;
    }
    for (size_t n = 0; n < width; n += PANEL) {
        const size_t wide = width - n < PANEL ? LG(vecs)(width - n) : LSTMGEN_VECS;
        LG(multiply_panel)(wide, rows, &x, w + n * inner, start != NULL ? start + n : NULL,
            start_stride, out + n, out_stride);
    }
}

LSTMGEN_KERNEL void LG(multiply_heads)(size_t rows, size_t heads, size_t width, factors x,
    size_t jump, const real *LSTMGEN_RESTRICT w, size_t step, const real *start,
    size_t start_stride, real *out, size_t out_stride)
{
    for (size_t h = 0; h < heads; ++h, x.from += jump, w += step) {
        const size_t left = h * width;
        if (width % LANES == 0) {
            LG(multiply)(1, rows, width, x, w, start != NULL ? start + left : NULL, start_stride,
                out + left, out_stride);
            continue;
        }
        for (size_t n = 0; n < width; n += PANEL) { /* what is too much of a vec stays here */
            const size_t wide = width - n < PANEL ? width - n : PANEL;
            for (size_t r = 0; r < rows; r += LSTMGEN_ROWS) {
                const size_t some = rows - r < LSTMGEN_ROWS ? rows - r : LSTMGEN_ROWS;
                vec sums[LSTMGEN_ROWS][LSTMGEN_VECS];
                factors part = x;
                part.from += r * x.stride;
                LG(multiply_panel)(LG(vecs)(wide), some, &part, w + n * x.inner, NULL, 0,
                    (real *)sums, PANEL);
                for (size_t k = 0; k < some; ++k) {
                    const real *const sum = (const real *)sums[k];
                    const real *const begun = start != NULL
                        ? start + (r + k) * start_stride + left + n : NULL;
                    real *const to = out + (r + k) * out_stride + left + n;
                    for (size_t c = 0; c < wide; ++c) {
                        to[c] = begun != NULL ? begun[c] + sum[c] : sum[c];
                    }
                }
            }
        }
    }
}

/* A few rows and vecs of a gradient gain the sum of d xT over all `rows`. */
LSTMGEN_INLINE void LG(outer_tile)(const size_t height, const size_t vecs, size_t rows,
    const real *d, size_t d_stride, const real *x, size_t x_stride, real *gradient, size_t width)
{
    vec sum[LSTMGEN_ROWS][LSTMGEN_VECS], factor;
    LSTMGEN_UNROLL
    for (size_t p = 0; p < height; ++p) {
        memcpy(sum[p], gradient + p * width, vecs * sizeof(vec));
    }
    for (; rows > 0; --rows, d += d_stride, x += x_stride) {
        LSTMGEN_UNROLL
        for (size_t v = 0; v < vecs; ++v) {
            memcpy(&factor, x + v * LANES, sizeof factor);
            LSTMGEN_UNROLL
            for (size_t p = 0; p < height; ++p) {
                sum[p][v] += d[p] * factor;
            }
        }
    }
    LSTMGEN_UNROLL
    for (size_t p = 0; p < height; ++p) {
        memcpy(gradient + p * width, sum[p], vecs * sizeof(vec));
    }
}

LSTMGEN_INLINE void LG(outer_rows)(const size_t height, size_t width, size_t rows, const real *d,
    size_t d_stride, const real *x, size_t x_stride, real *gradient)
{
    size_t n = 0;
    for (; n + PANEL <= width; n += PANEL) {
        LG(outer_tile)(height, LSTMGEN_VECS, rows, d, d_stride, x + n, x_stride, gradient + n,
            width);
    }
    for (; n + LANES <= width; n += LANES) {
        LG(outer_tile)(height, 1, rows, d, d_stride, x + n, x_stride, gradient + n, width);
    }
    for (size_t r = 0; n < width && r < rows; ++r) { /* less than a vec */
        for (size_t p = 0; p < height; ++p) {
            for (size_t q = n; q < width; ++q) {
                gradient[p * width + q] += d[r * d_stride + p] * x[r * x_stride + q];
            }
        }
    }
}

LSTMGEN_KERNEL void LG(outer_heads)(size_t rows, size_t heads, size_t height, size_t width,
    const real *LSTMGEN_RESTRICT d, size_t d_stride, const real *LSTMGEN_RESTRICT x,
    size_t x_stride, size_t step, real *LSTMGEN_RESTRICT gradient)
{
    for (size_t h = 0; h < heads; ++h, d += height, x += width, gradient += step) {
        size_t p = 0;
        for (; p + LSTMGEN_ROWS <= height; p += LSTMGEN_ROWS) {
            LG(outer_rows)(LSTMGEN_ROWS, width, rows, d + p, d_stride, x, x_stride,
                gradient + p * width);
        }
        for (; p + 2 <= height; p += 2) {
            LG(outer_rows)(2, width, rows, d + p, d_stride, x, x_stride, gradient + p * width);
        }
        if (p < height) {
            LG(outer_rows)(1, width, rows, d + p, d_stride, x, x_stride, gradient + p * width);
        }
    }
}

/* Where column n of packed weights (inner, width) begins; its numbers are `step` apart. */
LSTMGEN_STATIC size_t LG(column)(size_t n, size_t inner, size_t width, size_t *step)
{
    const size_t first = n / PANEL * PANEL;
    *step = width - first < PANEL ? LG(vecs)(width - first) * LANES : PANEL;
    return first * inner + n - first;
}

#if defined(LSTMGEN_BYTES) && defined(__GNUC__) && !defined(__clang__)
/* In each square of twice `part` numbers, the corners off the diagonal change places. */
LSTMGEN_INLINE void LG(exchange)(const size_t part, vec square[LANES])
{
    mask upper = {0}, lower = {0};
    LSTMGEN_UNROLL
    for (size_t l = 0; l < LANES; ++l) {
        upper[l] = (lane)((l & part) != 0 ? LANES + l - part : l);
        lower[l] = (lane)((l & part) != 0 ? LANES + l : l + part);
    }
    LSTMGEN_UNROLL
    for (size_t k = 0; k < LANES; ++k) {
        if ((k & part) == 0) {
            const vec a = square[k], b = square[k + part];
            square[k] = __builtin_shuffle(a, b, upper);
            square[k + part] = __builtin_shuffle(a, b, lower);
        }
    }
}
#endif

/* A square of numbers, turned. */
LSTMGEN_INLINE void LG(turn)(vec square[LANES])
{
#if defined(LSTMGEN_BYTES) && defined(__GNUC__) && !defined(__clang__)
    LG(exchange)(1, square);
    if (LANES > 2) {
        LG(exchange)(2, square);
    }
    if (LANES > 4) {
        LG(exchange)(4, square);
    }
    if (LANES > 8) {
        LG(exchange)(8, square);
    }
#else
    LSTMGEN_UNROLL
    for (size_t k = 1; k < LANES; ++k) {
        LSTMGEN_UNROLL
        for (size_t l = 0; l < k; ++l) {
            const real a = LSTMGEN_LANE(square[k], l);
            LSTMGEN_LANE(square[k], l) = LSTMGEN_LANE(square[l], k);
            LSTMGEN_LANE(square[l], k) = a;
        }
    }
#endif
}

/* A part of a matrix whose rows are `stride` apart, turned; zeros beyond its rows and columns. */
LSTMGEN_INLINE void LG(load_turned)(size_t rows, size_t columns, const real *from, size_t stride,
    vec square[LANES])
{
    if (rows >= LANES && columns >= LANES) {
        LSTMGEN_UNROLL
        for (size_t k = 0; k < LANES; ++k) {
            square[k] = *(const vec *)(from + k * stride);
        }
    } else {
        for (size_t k = 0; k < LANES; ++k) {
            square[k] = LG(splat)(0);
            if (k < rows) {
                memcpy(&square[k], from + k * stride,
                    (columns < LANES ? columns : LANES) * sizeof(real));
            }
        }
    }
    LG(turn)(square);
}

/* Up to a vec of rows of a matrix, turned: `some` columns from n on of packed weights. */
LSTMGEN_STATIC void LG(pack_strip)(size_t rows, size_t columns, const real *LSTMGEN_RESTRICT matrix,
    real *LSTMGEN_RESTRICT to, size_t n, size_t some, size_t width)
{
    const size_t room = PANEL - n % PANEL, here = some < room ? some : room;
    size_t step = 0, next_step = 0;
    real *at = to + LG(column)(n, columns, width, &step);
    real *next = some > room ? to + LG(column)(n + room, columns, width, &next_step) : at;
    for (size_t c = 0; c < columns; c += LANES) {
        const size_t wide = columns - c < LANES ? columns - c : LANES;
        vec square[LANES];
        LG(load_turned)(rows, wide, matrix + c, columns, square);
        if (here == LANES && wide == LANES) {
            LSTMGEN_UNROLL
            for (size_t k = 0; k < LANES; ++k) {
                *(vec *)(at + k * step) = square[k];
            }
        } else {
            for (size_t k = 0; k < wide; ++k) { /* the rest is in the next panel */
                memcpy(at + k * step, &square[k], here * sizeof(real));
                memcpy(next + k * next_step, (const real *)&square[k] + here,
                    (some - here) * sizeof(real));
            }
        }
        at += wide * step;
        next += wide * next_step;
    }
}

LSTMGEN_KERNEL void LG(pack_transposed)(size_t team, size_t rows, size_t columns,
    const real *LSTMGEN_RESTRICT matrix, real *LSTMGEN_RESTRICT to, size_t first, size_t end,
    size_t width)
{
    const size_t high = (end == width ? LG(vecs)(width) * LANES : end) - first;
    (void)team;
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)team) schedule(static) \
    if (thread_sharing(team, rows, columns, 2))
#endif
    for (size_t r = 0; r < high; r += LANES) {
        const size_t some = high - r < LANES ? high - r : LANES, from = r < rows ? r : rows;
        LG(pack_strip)(rows - from, columns, matrix + from * columns, to, first + r, some, width);
    }
}

/* The columns from n on, as rows of a panel of packed weights (inner, width). */
LSTMGEN_STATIC void LG(pack_panel)(size_t rows, size_t columns, const real *LSTMGEN_RESTRICT matrix,
    size_t n, real *LSTMGEN_RESTRICT to, size_t first, size_t inner, size_t width)
{
    size_t step = 0;
    real *at = to + LG(column)(n, inner, width, &step);
    const size_t some = columns - n < step ? columns - n : step;
    at += first * step;
    for (size_t r = 0; r < rows; ++r, at += step) {
        memcpy(at, matrix + r * columns + n, some * sizeof(real));
        memset(at + some, 0, (step - some) * sizeof(real));
    }
}

LSTMGEN_KERNEL void LG(pack_rows)(size_t team, size_t rows, size_t columns,
    const real *LSTMGEN_RESTRICT matrix, real *LSTMGEN_RESTRICT to, size_t first, size_t inner)
{
    (void)team;
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)team) schedule(static) \
    if (thread_sharing(team, rows, columns, 2))
#endif
    for (size_t n = 0; n < columns; n += PANEL) {
        LG(pack_panel)(rows, columns, matrix, n, to, first, inner, LG(padded)(columns));
    }
}

LSTMGEN_KERNEL void LG(pack_head)(size_t rows, size_t columns, const real *LSTMGEN_RESTRICT matrix,
    real *LSTMGEN_RESTRICT to)
{
    for (size_t n = 0; n < columns; n += PANEL) {
        LG(pack_panel)(rows, columns, matrix, n, to, 0, rows, columns);
    }
}

LSTMGEN_KERNEL void LG(copy_panels)(size_t team, size_t rows, size_t width,
    const real *LSTMGEN_RESTRICT from, size_t stride, real *LSTMGEN_RESTRICT panels)
{
    (void)team;
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)team) schedule(static) \
    if (thread_sharing(team, rows, width, 2))
#endif
    for (size_t n = 0; n < width; n += PANEL) {
        const size_t wide = width - n < PANEL ? LG(vecs)(width - n) : LSTMGEN_VECS;
        for (size_t r = 0; r < rows; ++r) {
            const vec *const row = (const vec *)(from + r * stride + n);
            vec *const to = (vec *)(panels + rows * n) + r * wide;
            if (wide == LSTMGEN_VECS) { /* a constant, for the compiler to unroll */
                LSTMGEN_UNROLL
                for (size_t v = 0; v < LSTMGEN_VECS; ++v) {
                    to[v] = row[v];
                }
            } else {
                for (size_t v = 0; v < wide; ++v) {
                    to[v] = row[v];
                }
            }
        }
    }
}

/* One panel of the transposed gradient becomes, or if it has begun gains, the products of all rows:
 * x is in groups of as many columns as a tile has rows. */
LSTMGEN_STATIC void LG(add_panel)(size_t rows, size_t wide, size_t height,
    const real *LSTMGEN_RESTRICT x, const real *LSTMGEN_RESTRICT panel, int begun,
    real *LSTMGEN_RESTRICT gradient, size_t stride)
{
    for (size_t m = 0, some = 0; m < height; m += some) {
        some = size_fair_share(height - m);
        real *const out = gradient + m * stride;
        const factors columns = {x + rows * m, 1, 1, rows, some, 0};
        LG(multiply_panel)(wide, some, &columns, panel, begun ? out : NULL, stride, out, stride);
    }
}

LSTMGEN_KERNEL void LG(outer_add)(size_t team, size_t rows, size_t width, size_t height,
    const real *LSTMGEN_RESTRICT x, size_t x_stride, const real *LSTMGEN_RESTRICT panels, int begun,
    real *LSTMGEN_RESTRICT gradient, size_t stride, real *LSTMGEN_RESTRICT columns)
{
    (void)team;
    for (size_t m = 0, some = 0; m < height; m += some) {
        some = size_fair_share(height - m);
        real *at = columns + rows * m;
        for (size_t r = 0; r < rows; ++r) {
            for (size_t k = 0; k < some; ++k) {
                *at++ = x[r * x_stride + m + k];
            }
        }
    }
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)team) schedule(static) \
    if (thread_sharing(team, rows, width, height))
#endif
    for (size_t n = 0; n < width; n += PANEL) {
        const size_t wide = width - n < PANEL ? LG(vecs)(width - n) : LSTMGEN_VECS;
        LG(add_panel)(rows, wide, height, columns, panels + rows * n, begun, gradient + n, stride);
    }
}

/* A square of a gradient becomes, or if it has begun gains, a transposed square. */
LSTMGEN_INLINE void LG(unpack_square)(size_t rows, size_t columns,
    const real *LSTMGEN_RESTRICT from, size_t stride, int begun, real *LSTMGEN_RESTRICT to,
    size_t to_stride)
{
    vec square[LANES];
    LG(load_turned)(columns, rows, from, stride, square);
    for (size_t k = 0; k < rows; ++k, to += to_stride) {
        if (begun) {
            for (size_t l = 0; l < columns; ++l) {
                to[l] += LSTMGEN_LANE(square[k], l);
            }
        } else if (columns == LANES) {
            *(vec *)to = square[k];
        } else {
            memcpy(to, &square[k], columns * sizeof(real));
        }
    }
}

LSTMGEN_KERNEL void LG(unpack_transposed)(size_t team, size_t rows, size_t columns,
    const real *LSTMGEN_RESTRICT from, size_t first, size_t stride, int begun,
    real *LSTMGEN_RESTRICT matrix)
{
    (void)team;
#ifdef _OPENMP
#pragma omp parallel for num_threads((int)team) schedule(static) \
    if (thread_sharing(team, rows, columns, 2))
#endif
    for (size_t n = 0; n < rows; n += PANEL) { /* what is side by side, soon after each other */
        const size_t end = rows - n < PANEL ? rows : n + PANEL;
        for (size_t c = 0; c < columns; c += LANES) {
            const size_t wide = columns - c < LANES ? columns - c : LANES;
            for (size_t r = n; r < end; r += LANES) {
                const size_t high = end - r < LANES ? end - r : LANES;
                LG(unpack_square)(high, wide, from + c * stride + first + r, stride, begun,
                    matrix + r * columns + c, columns);
            }
        }
    }
}

#endif

#undef vec
#undef mask
#undef bits
#undef factors
#undef real
#undef lane
#undef ulane
#undef LANES
#undef PANEL
#undef PAD
#undef LIBM
#undef LG
#endif
#undef LSTMGEN_REAL
