/* What training has come to, in a file that is whole at any time. */
#ifndef STATE_H
#define STATE_H

#include "forecast.h"

typedef struct state {
    forecast_sizes sizes;
    uint64_t seed;   /* of the first parameters, and of all that is random in training */
    uint64_t epochs; /* done so far */
    forecast_training training;
} state;

/* Write a file anew: whoever reads `path`, at any time, finds the old state or the new one, whole.
 * 0 if it is written. */
int state_save(const char *path, const state *s);

/* Read a file: 0 if it is read, 1 if there is none, 2 if it is not a state of this network. */
int state_load(const char *path, state *s);

#endif
