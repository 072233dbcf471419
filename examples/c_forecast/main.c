/* Train a network of two layers on the sunspots, and forecast them a year at a time.
 *
 *     ./forecast [FILE [SEED]]
 *
 * The state of training is saved to FILE (forecast.state) after every epoch. If it is there at the
 * beginning, training goes on from it: killed at any time and started again, it comes to the same
 * bits. The exit status is 0 if the forecasts of the years from 1930 on, which training never sees,
 * are better than those of both naive baselines; 1 if they are not; 2 after an error.
 */
#include "forecast.h"
#include "state.h"
#include "sunspots.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    EPOCHS = 80,   /* as in network.py, whose learning rate is 0 after them */
    SPLIT = 1930 - FIRST_YEAR, /* the first year held out */
    CYCLE = 11,    /* years: the solar cycle */
    WINDOW = 11,   /* years through which gradients flow back; the state is carried on */
    STREAMS = 33,  /* sequences side by side, three that begin in each of the first 11 years */
    INPUTS = 2,    /* the number of the year, and a constant */
    UNITS = 16,    /* of each layer */
    WINDOWS = (SPLIT - 1 - WINDOW + 1) / WINDOW
};

static const double VARY = 0.25; /* in training, the Sun is more or less active by such a factor */

/* ------------------------------------------------------------------ the series */

/* Roots, which have the same noise in quiet and in active years; standardised by the years before
 * the split. */
typedef struct series {
    double mean, deviation, z[YEARS];
} series;

static series standardised(void)
{
    series made;
    double sum = 0.0, squares = 0.0;
    for (int k = 0; k < SPLIT; ++k) {
        sum += sqrt(sunspots[k]);
        squares += sunspots[k];
    }
    made.mean = sum / SPLIT;
    made.deviation = sqrt(squares / SPLIT - made.mean * made.mean);
    for (int k = 0; k < YEARS; ++k) {
        made.z[k] = (sqrt(sunspots[k]) - made.mean) / made.deviation;
    }
    return made;
}

static double unscaled(const series *s, double z)
{
    const double root = z * s->deviation + s->mean;
    return root > 0.0 ? root * root : 0.0;
}

/* ------------------------------------------------------------------ errors, memory, chance */

static void expect(forecast_status status)
{
    if (status != FORECAST_OK) {
        fprintf(stderr, "error: %s\n", forecast_message(status));
        exit(2);
    }
}

static forecast_real *numbers(size_t count)
{
    forecast_real *const made = (forecast_real *)calloc(count > 0 ? count : 1, sizeof *made);
    if (made == NULL) {
        fprintf(stderr, "error: there is no memory for %zu numbers\n", count);
        exit(2);
    }
    return made;
}

/* A number from -1 to 1 that follows from its place alone (SplitMix64): what is drawn after training
 * goes on is what would have been drawn. */
static double drawn(uint64_t seed, uint64_t place)
{
    uint64_t z = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15) + place * UINT64_C(0xD1342543DE82EF95);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return (double)(z >> 11) / 4503599627370496.0 - 1.0;
}

/* ------------------------------------------------------------------ states of the network */

typedef struct memory {
    forecast_real *h1, *c1, *h2;
} memory;

static memory memory_for(size_t B)
{
    const memory made = {numbers(B * UNITS), numbers(B * UNITS), numbers(B * UNITS)};
    return made;
}

static void forget(memory m, size_t B)
{
    memset(m.h1, 0, B * UNITS * sizeof *m.h1);
    memset(m.c1, 0, B * UNITS * sizeof *m.c1);
    memset(m.h2, 0, B * UNITS * sizeof *m.h2);
}

static void release(memory m)
{
    free(m.h1);
    free(m.c1);
    free(m.h2);
}

static forecast_state read_from(memory m)
{
    const forecast_state made = {.lstm1 = {.h = m.h1, .c = m.c1}, .gru1 = {.h = m.h2}};
    return made;
}

static forecast_new_state written_to(memory m)
{
    const forecast_new_state made = {.lstm1 = {.h = m.h1, .c = m.c1}, .gru1 = {.h = m.h2}};
    return made;
}

/* ------------------------------------------------------------------ training */

/* Years of all streams from `first` on, each as active as its gain says, and the changes to the
 * years after them. */
static void fill(const series *s, size_t first, const double *gains, forecast_real *x,
    forecast_real *target)
{
    const double level = s->mean / s->deviation; /* so that it is the root itself that is scaled */
    for (size_t t = 0; t < WINDOW; ++t) {
        for (size_t b = 0; b < STREAMS; ++b) {
            const double *const z = s->z + first + t + b % WINDOW;
            const size_t row = t * STREAMS + b;
            x[row * INPUTS] = (forecast_real)((z[0] + level) * gains[b] - level);
            x[row * INPUTS + 1] = 1.0f;
            target[row] = (forecast_real)((z[1] - z[0]) * gains[b]);
        }
    }
}

/* What an epoch works with. */
typedef struct workspace {
    forecast_real *x, *target, *y, *work;
    memory states;
} workspace;

/* One pass over the years before the split: the mean loss. */
static double epoch(state *s, const series *known, const workspace *w)
{
    const forecast_batch batch = {.x = w->x};
    const forecast_state before = read_from(w->states);
    const forecast_new_state after = written_to(w->states);
    double gains[STREAMS], total = 0.0;
    for (size_t b = 0; b < STREAMS; ++b) {
        gains[b] = exp(VARY * drawn(s->seed, s->epochs * STREAMS + b));
    }
    forget(w->states, STREAMS);
    for (size_t k = 0; k < WINDOWS; ++k) {
        double loss = 0.0;
        fill(known, k * WINDOW, gains, w->x, w->target);
        if (k == 0) { /* zeros are no state that a year left behind: the first window warms up */
            const forecast_params p = forecast_params_in(&s->sizes, s->training.params);
            expect(forecast_forward(&s->sizes, &p, &batch, &before, w->y, &after, NULL, w->work));
        } else {
            expect(forecast_train(&s->sizes, &s->training, &batch, w->target, NULL, &before,
                &after, &loss, w->work));
        }
        total += loss;
    }
    return total / (WINDOWS - 1);
}

static void begin(state *s)
{
    forecast_init(&s->sizes, s->seed, s->training.params);
    /* A readout of zeros forecasts "no change": training begins at the first baseline. Gradients
     * have the same order as parameters. */
    const forecast_grads at = forecast_grads_in(&s->sizes, s->training.params);
    memset(at.readout.W, 0, UNITS * sizeof *at.readout.W);
}

static void train(state *s, const char *path, const series *known)
{
    const forecast_sizes *const n = &s->sizes;
    forecast_batch none;
    memset(&none, 0, sizeof none);
    const size_t forward = forecast_forward_work_size(n, &none, 0);
    const size_t training = forecast_train_work_size(n, &none);
    const workspace w = {numbers(WINDOW * STREAMS * INPUTS), numbers(WINDOW * STREAMS),
        numbers(WINDOW * STREAMS), numbers(forward > training ? forward : training),
        memory_for(STREAMS)};
    while (s->epochs < EPOCHS) {
        const double loss = epoch(s, known, &w);
        ++s->epochs;
        if (state_save(path, s) != 0) {
            fprintf(stderr, "error: %s cannot be written\n", path);
            exit(2);
        }
        if (s->epochs % 10 == 0) {
            printf("  epoch %3d  loss %.4f\n", (int)s->epochs, loss);
            fflush(stdout);
        }
    }
    release(w.states);
    free(w.work);
    free(w.y);
    free(w.target);
    free(w.x);
}

/* ------------------------------------------------------------------ forecasts */

/* After each year, what the next one will be: the state is all that is kept of the years before. */
static void stream(const state *s, const series *all, double *forecasts)
{
    forecast_sizes one = s->sizes;
    one.T = one.B = 1;
    forecast_params p = forecast_params_in(&one, s->training.params);
    forecast_real *const packed = numbers(forecast_packed_size(&one));
    forecast_real *const work = numbers(forecast_step_work_size(&one));
    const memory states = memory_for(1);
    const forecast_state before = read_from(states);
    const forecast_new_state after = written_to(states);
    expect(forecast_pack(&one, &p, packed)); /* once, and not at each step */
    p.packed = packed;
    for (int year = 0; year + 1 < YEARS; ++year) {
        const forecast_real x[INPUTS] = {(forecast_real)all->z[year], 1.0f};
        forecast_real change;
        expect(forecast_step(&one, &p, x, &before, &change, &after, work));
        forecasts[year + 1] = unscaled(all, all->z[year] + (double)change);
    }
    release(states);
    free(work);
    free(packed);
}

/* The root mean square error over the years held out, of what is said of them. */
static double error_of(const double *said)
{
    double sum = 0.0;
    for (int year = SPLIT; year < YEARS; ++year) {
        sum += (said[year] - sunspots[year]) * (said[year] - sunspots[year]);
    }
    return sqrt(sum / (YEARS - SPLIT));
}

static int judge(const double *forecasts)
{
    double last[YEARS] = {0}, cycle[YEARS] = {0};
    for (int year = SPLIT; year < YEARS; ++year) {
        last[year] = sunspots[year - 1];
        cycle[year] = sunspots[year - CYCLE];
    }
    const double mine = error_of(forecasts), a = error_of(last), b = error_of(cycle);
    const double best = a < b ? a : b;
    printf("\nHeld-out years %d to %d, forecast one year ahead: root mean square error, in sunspots\n",
        FIRST_YEAR + SPLIT, FIRST_YEAR + YEARS - 1);
    printf("  the network                                  %5.1f\n", mine);
    printf("  last year's number (persistence)             %5.1f\n", a);
    printf("  the number 11 years before (seasonal naive)  %5.1f\n", b);
    printf("The error is %.0f%% less than that of the strongest naive baseline.\n",
        100.0 * (1.0 - mine / best));
    return mine < best ? 0 : 1;
}

int main(int count, char **words)
{
    const char *const path = count > 1 ? words[1] : "forecast.state";
    const series all = standardised();
    state s;
    double forecasts[YEARS] = {0};
    memset(&s, 0, sizeof s);
    s.sizes.T = WINDOW;
    s.sizes.B = STREAMS;
    s.seed = count > 2 ? strtoull(words[2], NULL, 10) : 0;
    s.training.params = numbers(forecast_params_size(&s.sizes));
    s.training.moments = numbers(forecast_moments_size(&s.sizes));
    const int found = state_load(path, &s);
    if (found == 2) {
        fprintf(stderr, "error: %s is no state of this network\n", path);
        return 2;
    }
    if (found == 1) {
        begin(&s);
    }
    printf("%zu parameters; %s after epoch %d of %d\n", forecast_params_size(&s.sizes),
        found == 0 ? "going on" : "training", (int)s.epochs, EPOCHS);
    train(&s, path, &all);
    stream(&s, &all, forecasts);
    const int status = judge(forecasts);
    free(s.training.params);
    free(s.training.moments);
    return status;
}
